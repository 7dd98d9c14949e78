"""Where the six kinds of rows come from, and that the pack's questions to protect are never evaluated."""

import json

import pytest

from safe_train.config import build_config
from safe_train.data.datasets.reader import VLReader
from safe_train.data.datasets.records import VQARecord
from safe_train.data.datasets.registry import DATASETS, Dataset
from safe_train.errors import InputError
from safe_train.training.build import load_examples

ENTRY = {"question": "what?", "answer": "a bell"}


def configuration(root, pack=None, **settings):
    fixed = {"data.root": root} | ({"data.pack_root": pack} if pack else {})
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    return build_config({}, {key: str(value) for key, value in (fixed | dotted).items()})


def write_pack(folder, small_data):
    """A pack by hand: six clips, and eight questions about four images."""
    (folder / "images").mkdir(parents=True)
    (folder / "audio").mkdir()
    for index, clip in enumerate(sorted((small_data / "audiocaps/audio/train").iterdir())[:6]):
        (folder / "audio" / f"{index}.wav").symlink_to(clip)
    for index, image in enumerate(sorted((small_data / "vqa/train2014").iterdir())[:4]):
        (folder / "images" / f"{index}.png").symlink_to(image)
    header = {"subset_name": "s", "description": "d", "seed": 1, "source_dataset": "x"}
    clips = [
        {
            "audiocap_id": i,
            "youtube_id": f"y{i}",
            "start_time": 0,
            "caption": f"c{i}",
            "audio_relpath": f"audio/{i}.wav",
        }
        for i in range(6)
    ]
    questions = [
        {"question_id": i, "image_id": i // 2, "image_filename": f"{i // 2}.png", "question": f"{i}?",
         "answers": ["a"] * 10, "majority_answer": "a"}
        for i in range(8)
    ]  # fmt: skip
    columns = {"audio_rel_root": "audio", "metadata_columns": ["caption"]}
    (folder / "manifest.json").write_text(json.dumps(header | columns | {"entries": clips}))
    (folder / "val_manifest.json").write_text(json.dumps(header | {"entries": questions}))
    return folder


@pytest.fixture
def pack(small_data, tmp_path):
    return write_pack(tmp_path / "pack", small_data)


def test_without_a_choice_rows_are_those_of_audiocaps_vqa_and_text(small_data):
    rows = load_examples(configuration(small_data))
    texts = [len((small_data / f"text/{split}.jsonl").read_text().splitlines()) for split in ("train", "val")]
    assert min(texts) > 0
    assert {part: len(indices) for part, indices in rows.indices.items()} == {
        "train_audio": 40, "train_vl": 60, "val_audio": 24, "val_vl": 40, "train_text": texts[0], "val_text": texts[1],
    }  # fmt: skip
    assert all(row.audio.is_relative_to(small_data / "audiocaps/audio/train") for row in rows.train_audio)
    assert all(row.image.is_relative_to(small_data / "vqa/val2014") for row in rows.val_vl)


@pytest.mark.parametrize("name", ["wavcaps", "avqa"])
def test_other_sets_of_the_root(small_data, tmp_path, name):
    (tmp_path / "vqa").symlink_to(small_data / "vqa")
    (tmp_path / "audiocaps").symlink_to(small_data / "audiocaps")
    (tmp_path / name).mkdir()
    clips = [f"audiocaps/audio/train/{path.name}" for path in sorted((small_data / "audiocaps/audio/train").iterdir())]
    entries = [ENTRY | {"id": index, "audio": clip} for index, clip in enumerate(clips[:5])]
    (tmp_path / name / "train.json").write_text(json.dumps(entries))
    rows = load_examples(configuration(tmp_path, data__train_audio_source=name))
    assert [row.audio for row in rows.train_audio] == [tmp_path / clip for clip in clips[:5]]
    assert rows.train_audio[0].answers == ("a bell",)
    assert len(rows.val_audio) == 24


def test_procedural_rows_beside_a_root(small_data, pack, monkeypatch):
    monkeypatch.setattr("safe_train.data.sources.embedded_data_root", lambda: small_data)
    sources = {f"data__{part}_source": "embedded" for part in ("train_audio", "train_vl", "val_vl")}
    rows = load_examples(configuration("/nowhere", pack, data__val_audio_source="pack", **sources))
    assert [len(part) for part in (rows.train_audio, rows.train_vl, rows.val_audio, rows.val_vl)] == [40, 60, 6, 40]


def test_rows_of_the_pack(small_data, pack):
    rows = load_examples(
        configuration(small_data, pack, data__train_audio_source="pack", data__val_vl_source="pack",
                      data__max_train_audio=4, data__val_audio_source="trained", evaluation__max_audio=3)
    )  # fmt: skip
    assert all(row.audio.is_relative_to(pack) for row in rows.train_audio)
    assert (len(rows.train_audio), len(rows.val_audio), len(rows.val_vl), len(rows.train_vl)) == (4, 3, 8, 60)
    assert set(rows.indices["val_audio"]) < set(rows.indices["train_audio"])
    by_index = dict(zip(rows.indices["train_audio"], rows.train_audio, strict=True))
    assert [by_index[index] for index in rows.indices["val_audio"]] == rows.val_audio
    assert [row.answers[0] for row in rows.train_audio] == [f"c{index}" for index in rows.indices["train_audio"]]


@pytest.mark.parametrize("seed", [1, 2])
def test_questions_of_the_pack_are_protected_or_evaluated(small_data, pack, seed):
    config = configuration(small_data, pack, seed=seed, data__train_vl_source="pack", data__val_vl_source="pack")
    rows = load_examples(config)
    protected, evaluated = rows.indices["train_vl"], rows.indices["val_vl"]
    assert sorted(protected + evaluated) == list(range(8))
    assert len(protected) == 2  # a fifth of four images is one, with two questions
    assert not {row.image for row in rows.train_vl} & {row.image for row in rows.val_vl}
    assert [row.row_id for row in rows.val_vl] == [str(index) for index in evaluated]


def test_the_evaluated_questions_are_the_same_for_every_seed(small_data, pack):
    sources = {"data__train_vl_source": "pack", "data__val_vl_source": "pack"}
    first, second = (load_examples(configuration(small_data, pack, seed=seed, **sources)) for seed in (1, 2))
    assert first.indices["val_vl"] == second.indices["val_vl"]


def write_text(folder, count, stem="", name="text/{}.jsonl", splits=("train", "val")):
    """Lists of ``count`` questions, two in a cluster, their ids beginning with ``stem`` and the split."""
    for split in splits:
        path = folder / name.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = [
            {"id": f"{stem}{split}{i}", "prompt": f"{i}?", "answer": "a", "cluster": f"c{i // 2}"} for i in range(count)
        ]
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


@pytest.fixture
def root(small_data, tmp_path):
    """A data root beside the shared one, to which a folder of text may be added."""
    for name in ("vqa", "audiocaps"):
        (tmp_path / "root" / name).mkdir(parents=True)
        for path in (small_data / name).iterdir():
            (tmp_path / "root" / name / path.name).symlink_to(path)
    return tmp_path / "root"


def text_ids(rows):
    return [[row.row_id for row in part] for part in (rows.train_text, rows.val_text)]


def test_text_rows_that_stand_beside_the_vl_rows_are_found(root, caplog):
    write_text(root, 3)
    rows = load_examples(configuration(root))
    assert text_ids(rows) == [["train0", "train1", "train2"], ["val0", "val1", "val2"]]
    assert (rows.indices["train_text"], rows.indices["val_text"]) == ([0, 1, 2], [0, 1, 2])
    assert "text-only" not in caplog.text


def test_without_text_rows_one_warning_says_what_is_missing_and_how_to_add_it(root, caplog):
    assert text_ids(load_examples(configuration(root))) == [[], []]
    (line,) = [record.getMessage() for record in caplog.records if "text-only" in record.getMessage()]
    assert "neither protected nor measured" in line
    assert "text/train.jsonl and text/val.jsonl" in line
    caplog.clear()
    load_examples(configuration(root, data__val_text_source="none"))
    assert "are not protected" in caplog.text
    caplog.clear()
    load_examples(configuration(root, data__train_text_source="none", data__val_text_source="none"))
    assert not caplog.records


def test_text_rows_asked_for_by_name_must_be_there(root, pack):
    with pytest.raises(InputError, match="the folder of the data set text"):
        load_examples(configuration(root, data__train_text_source="text"))
    with pytest.raises(InputError, match=r"expected a data pack with text\.jsonl"):
        load_examples(configuration(root, pack, data__val_text_source="pack"))
    with pytest.raises(InputError, match=r"the source pack needs data\.pack_root"):
        configuration(root, data__val_text_source="pack")


def test_a_list_of_one_split_alone_is_an_error(root):
    write_text(root, 3, splits=("train",))
    with pytest.raises(InputError, match=r"text_val\.jsonl"):
        load_examples(configuration(root))
    rows = load_examples(configuration(root, data__val_text_source="none"))
    assert [len(part) for part in text_ids(rows)] == [3, 0]


def test_limits_on_text_rows_are_drawn_by_the_seed_and_change_no_other_draw(root):
    write_text(root, 30)
    limits = {
        "data__max_train_vl": 20,
        "evaluation__max_vl": 10,
        "evaluation__max_audio": 5,
        "data__max_train_audio": 9,
    }
    plain = load_examples(configuration(root, data__train_text_source="none", data__val_text_source="none", **limits))
    found = [
        load_examples(configuration(root, seed=seed, data__max_train_text=7, evaluation__max_text=4, **limits))
        for seed in (42, 42, 43)
    ]
    assert [len(part) for part in text_ids(found[0])] == [7, 4]
    assert found[0].indices == found[1].indices
    assert found[0].indices["train_text"] != found[2].indices["train_text"]
    assert [row.row_id for row in found[0].val_text] == [f"val{index}" for index in found[0].indices["val_text"]]
    for part in ("train_audio", "train_vl", "val_audio", "val_vl"):
        assert found[0].indices[part] == plain.indices[part]


class Album(VLReader):
    """Two questions about each of five images, in one list without splits."""

    name = "album"
    has_splits = False

    def records(self, root, split):
        return [VQARecord(n, n // 2, f"{n}?", ("a",), root / f"{n // 2}.png", "", "") for n in range(10)]


def test_one_list_without_splits_is_never_both_trained_and_evaluated_on(root, monkeypatch):
    monkeypatch.setitem(DATASETS, "album", Dataset({"vl": f"{__name__}:Album"}))
    rows = load_examples(configuration(root, data__train_vl_source="album", data__val_vl_source="album"))
    assert (len(rows.train_vl), len(rows.val_vl)) == (2, 8)  # a fifth of five images
    assert not {row.image for row in rows.train_vl} & {row.image for row in rows.val_vl}
    alone = load_examples(configuration(root, data__train_vl_source="album"))
    assert (len(alone.train_vl), len(alone.val_vl)) == (10, 40)


@pytest.mark.parametrize("seed", [1, 2])
def test_text_rows_of_the_pack_are_protected_or_evaluated(root, pack, seed):
    write_text(root, 3)
    write_text(pack, 20, "pack", "text.jsonl", splits=("",))
    rows = load_examples(configuration(root, pack, seed=seed, data__train_vl_source="pack", data__val_vl_source="pack"))
    train, val = text_ids(rows)
    assert sorted(train + val) == sorted(f"pack{i}" for i in range(20))
    assert len(train) == 4  # a fifth of ten clusters of two
    assert not {row.cluster for row in rows.train_text} & {row.cluster for row in rows.val_text}
    mixed = load_examples(configuration(root, pack, seed=seed, data__val_vl_source="pack"))
    assert [len(part) for part in text_ids(mixed)] == [3, 20]  # those beside the VL rows of each


def test_a_pack_without_a_list_leaves_the_roots_text_rows(root, pack):
    write_text(root, 3)
    rows = load_examples(configuration(root, pack, data__train_vl_source="pack", data__val_vl_source="pack"))
    assert [len(part) for part in text_ids(rows)] == [3, 3]


def test_procedural_text_rows_come_with_procedural_vl_rows(root, pack, monkeypatch):
    write_text(root, 3, "embedded")
    monkeypatch.setattr("safe_train.data.sources.embedded_data_root", lambda: root)
    sources = {f"data__{part}_source": "embedded" for part in ("train_audio", "train_vl", "val_vl", "val_audio")}
    beside = load_examples(configuration("/nowhere", pack, **sources))
    default = load_examples(configuration("embedded"))
    assert text_ids(beside) == text_ids(default)
    assert text_ids(beside)[0] == ["embeddedtrain0", "embeddedtrain1", "embeddedtrain2"]
