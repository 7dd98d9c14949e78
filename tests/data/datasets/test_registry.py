"""The table of data sets, and what a new reader takes: one class and one line of the table."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from safe_train.cli import safe
from safe_train.config import build_config
from safe_train.data.datasets.clips import MissingClips, separate_missing
from safe_train.data.datasets.manifest import read_text, require_set_folder, resolve, strip_placeholder
from safe_train.data.datasets.reader import AudioReader, TextReader, VLReader
from safe_train.data.datasets.records import AudioRecord
from safe_train.data.datasets.registry import DATASETS, Dataset, checked_names, dataset_names
from safe_train.data.settings import DataSettings
from safe_train.data.sources import read_audio_examples
from safe_train.errors import InputError
from safe_train.training.build import load_examples


class Clotho(AudioReader):
    """Clotho: ``root/clotho/clotho_captions_<split>.csv`` with five captions a file, and ``root/clotho/<split>/``.

    Source: Drossos et al. 2020, arXiv:1910.09387, and its files.
    """

    name = "clotho"

    def official_lists(self, root: Path, split: str) -> list[Path]:
        """The table of a split."""
        table = root / self.name / f"clotho_captions_{split}.csv"
        return [table] if table.is_file() else []

    def read(self, root: Path, split: str) -> tuple[list[AudioRecord], MissingClips]:
        """Reads the table, a clip a line."""
        folder = require_set_folder(root, self.name)
        table = folder / f"clotho_captions_{split}.csv"
        records = []
        for number, line in enumerate(csv.DictReader(io.StringIO(read_text(table))), start=2):
            where = f"{table}:{number}"
            captions = tuple(strip_placeholder(line[f"caption_{place}"], where) for place in range(1, 6))
            audio = resolve(root, folder, f"{self.name}/{split}/{line['file_name']}", where)
            records.append(AudioRecord(line["file_name"], audio, captions, None, None))
        return separate_missing(records, table)


CAPTIONS = {
    "rain.wav": ["Rain falls.", "It rains.", "Water drips, then runs.", "A downpour.", "Rain on a roof."],
    "bell.wav": ["A bell rings.", "A bell.", "One stroke of a bell.", "Metal rings.", "A bell sounds."],
}


def write_clotho(root, split):
    folder = root / "clotho"
    (folder / split).mkdir(parents=True)
    for name in CAPTIONS:
        soundfile.write(folder / split / name, np.full(8_000, 0.1, dtype=np.float32), 8_000)
    with (folder / f"clotho_captions_{split}.csv").open("w", newline="", encoding="utf-8") as file:
        header = ["file_name", *(f"caption_{place}" for place in range(1, 6))]
        csv.writer(file).writerows([header, *([name, *texts] for name, texts in CAPTIONS.items())])


@pytest.fixture
def clotho(monkeypatch, tmp_path):
    """The made-up data set in a root of its own; the line is all that the program is told."""
    monkeypatch.setitem(DATASETS, "clotho", Dataset({"audio": f"{__name__}:Clotho"}))
    for split in ("train", "val"):
        write_clotho(tmp_path, split)
    return tmp_path


def test_a_new_reader_is_a_source_of_training_and_evaluation(clotho, small_data):
    (clotho / "vqa").symlink_to(small_data / "vqa")
    settings = {"root": str(clotho), "train_audio_source": "clotho", "val_audio_source": "clotho"}
    examples = load_examples(build_config({"data": settings}, {}))
    assert [(e.row_id, list(e.answers)) for e in examples.train_audio] == list(CAPTIONS.items())
    assert [e.audio for e in examples.val_audio] == [clotho / "clotho/val" / name for name in CAPTIONS]
    assert {e.question for e in examples.train_audio} == {"what do you hear?"}


def test_a_new_reader_is_checked(clotho):
    found = CliRunner().invoke(safe, ["data", "check", str(clotho)])
    assert found.exit_code == 0
    for split in ("train", "val"):
        assert f"clotho {split}: 2 captioned clips, 2 audio files" in found.stdout
    (clotho / "clotho/val/bell.wav").unlink()
    (clotho / "clotho/val/rain.wav").write_bytes(b"no audio")
    report = clotho / "report.json"
    arguments = ["data", "check", str(clotho), "--set", "clotho", "--split", "val", "--json", str(report)]
    assert CliRunner().invoke(safe, arguments).exit_code == 2
    (only,) = json.loads(report.read_text())["sets"]
    assert (only["name"], only["split"]) == ("clotho", "val")
    assert {issue["kind"]: list(issue["first"]) for issue in only["defects"]} == {
        "missing-audio": ["bell.wav"],
        "unreadable-audio": ["clotho/val/rain.wav"],
    }


def test_a_new_reader_has_its_errors(clotho):
    (clotho / "clotho/clotho_captions_val.csv").unlink()
    with pytest.raises(InputError, match=r"clotho_captions_val\.csv: expected a readable file, got no such file"):
        read_audio_examples("clotho", DataSettings(root=str(clotho)), "val")
    asked = CliRunner().invoke(safe, ["data", "check", str(clotho), "--split", "val"])
    assert "expected a list of the split val, got none in clotho" in asked.stderr


def test_a_new_reader_is_a_setting_and_a_misspelling_of_it_is_told(clotho):
    assert build_config({}, {"data.val_audio_source": "clotho"}).data.val_audio_source == "clotho"
    with pytest.raises(InputError) as caught:
        build_config({}, {"data.train_audio_source": "cloto"})
    assert str(caught.value) == (
        "configuration: data.train_audio_source: expected one of audiocaps, wavcaps, avqa, pack, embedded, clotho, "
        "got 'cloto'; did you mean 'clotho'?"
    )
    with pytest.raises(InputError, match=r"expected one of vqa, pack, embedded, got 'clotho'"):
        build_config({}, {"data.train_vl_source": "clotho"})


def test_negative_control_without_its_line_nothing_knows_it(tmp_path):
    write_clotho(tmp_path, "train")
    with pytest.raises(InputError, match=r"expected one of .*, got 'clotho'"):
        build_config({}, {"data.train_audio_source": "clotho"})
    assert "expected a data root" in CliRunner().invoke(safe, ["data", "check", str(tmp_path)]).stderr


# --- the table


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_line_names_a_reader_of_its_kind(name):
    bases = {"audio": AudioReader, "vl": VLReader, "text": TextReader}
    for kind in DATASETS[name].readers:
        reader = DATASETS[name].load_reader(kind)
        assert isinstance(reader, bases[kind])
        assert reader.kind == kind
        if DATASETS[name].location == "data_root":
            assert reader.name == name


def test_names_by_kind():
    assert dataset_names("audio") == ("audiocaps", "wavcaps", "avqa", "pack", "embedded")
    assert dataset_names("vl") == ("vqa", "pack", "embedded")
    assert dataset_names("text") == ("text", "pack", "embedded")
    assert checked_names() == ("audiocaps", "wavcaps", "avqa", "vqa", "text", "pack")


def test_settings_know_the_names_without_importing_torch_or_a_reader():
    code = (
        "import sys; from safe_train.config import build_config; build_config({}, {'data.val_vl_source': 'vqa'}); "
        "print([name for name in sys.modules if name in ('torch', 'numpy') "
        "or name.startswith('safe_train.data.datasets.') and not name.endswith('registry')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
