"""Damaged files are reported, with their row, before the base has answered anything."""

import io
import json
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image

from safe_train.audio.input import Amplified, WhiteNoise
from safe_train.config import build_config
from safe_train.data.example import Example
from safe_train.data.sampler import ExampleSampler
from safe_train.data.validation.check import check_audio, check_image
from safe_train.distributed.processes import ALONE
from safe_train.errors import InputError, StoppedError
from safe_train.training.build import load_examples
from safe_train.training.callbacks import RunCallbacks
from safe_train.training.preflight import MOST_TRAINED, file_checks, heard_seconds, run_checks
from safe_train.training.run import start_run

ENCODERS = [SimpleNamespace(sampling_rate=16_000, window=16_000), SimpleNamespace(sampling_rate=48_000, window=24_000)]
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)


def sound(container, seconds=2.0):
    buffer = io.BytesIO()
    soundfile.write(buffer, NOISE[: int(16_000 * seconds)], 16_000, format=container)
    return buffer.getvalue()


def picture(name):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(buffer, name)
    return buffer.getvalue()


WAV, FLAC, OGG, MP3 = (sound(container) for container in ("WAV", "FLAC", "OGG", "MP3"))
HTML = b"<!DOCTYPE html><html>404 Not Found</html>" * 20

DAMAGED = {
    "WAV cut": ("a.wav", WAV[:-2_000], True),
    "OGG cut": ("a.ogg", OGG[:-100], True),
    "MP3 cut": ("a.mp3", MP3[: len(MP3) // 2], True),
    "FLAC cut": ("a.flac", FLAC[: len(FLAC) // 2], False),
    "empty": ("a.wav", b"", True),
    "no samples": ("a.wav", sound("WAV", 0), True),
    "short": ("a.wav", sound("WAV", 0.02), True),
    "HTML": ("a.flac", HTML, True),
    "PNG cut": ("a.png", picture("PNG")[:-2_000], False),
    "JPEG cut": ("a.jpg", picture("JPEG")[:-500], False),
    "HTML as an image": ("a.jpg", HTML, True),
    "empty image": ("a.png", b"", True),
}
"""Name, content, and whether nothing of it has to be decoded to see the damage."""


def row_of(path, name="row 7"):
    is_image = path.suffix in (".png", ".jpg")
    return Example(name, "what?", ("a",), image=path if is_image else None, audio=None if is_image else path)


def check(evaluated, trained=()):
    run_checks(file_checks(evaluated, trained, ENCODERS), ALONE, 0, lambda _done, _total: None)


@pytest.mark.parametrize(("name", "content", "by_header"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_told_with_its_row_as_the_data_check_tells_it(tmp_path, name, content, by_header):
    path = tmp_path / name
    path.write_bytes(content)
    defect = check_image(path) if path.suffix in (".png", ".jpg") else check_audio(path)[1]
    with pytest.raises(InputError) as caught:
        check([row_of(path)])
    assert str(caught.value).startswith(f"{path} (row row 7): expected ")
    assert "\n" not in str(caught.value)
    assert path.stat().st_size == 0 or defect.detail == caught.value.got
    if by_header:
        with pytest.raises(InputError, match=r"\(row row 7\): expected "):
            check([], [row_of(path)])
    else:
        check([], [row_of(path)])


@pytest.mark.parametrize("content", [WAV, FLAC, OGG, MP3], ids=["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_whole_files_pass(tmp_path, content, num_workers, request):
    clip, image = tmp_path / f"a.{request.node.callspec.id.split('-')[-1]}", tmp_path / "a.png"
    clip.write_bytes(content)
    image.write_bytes(picture("PNG"))
    rows = [
        Example("1", "?", ("a",), image, Amplified(clip, 6.0)),
        Example("2", "?", ("a",), None, WhiteNoise(-20.0, 0)),
    ]
    told = []
    checks = file_checks(rows, [*rows, Example("3", "?", ("a",))], ENCODERS)
    run_checks(checks, ALONE, num_workers, lambda *counts: told.append(counts))
    assert [(found.path, found.row_id) for found in checks] == [(clip, "1"), (image, "1")]  # each once
    assert told == [(2, 2)]


def test_a_request_to_stop_is_heard_among_many_files(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(WAV)
    checks = file_checks([], [row_of(path)], ENCODERS) * 600
    told = []

    def stop(*counts):
        told.append(counts)
        raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        run_checks(checks, ALONE, 0, stop)
    assert told == [(256, 600)]


@pytest.mark.slow
def test_of_a_million_rows_those_are_looked_at_that_training_takes_first():
    audio, vl = ([Example(f"{kind}{k}", "?", ("a",)) for k in range(1_000_000)] for kind in ("audio", "vl"))
    stream = ExampleSampler(audio, vl, seed=0, image_prob=0.0)
    first = [row.row_id for row in stream.first_rows(MOST_TRAINED)]
    assert len(first) == 2 * MOST_TRAINED
    assert [row.row_id for number in range(2) for row in stream.audio_batch(number, 8)] == first[:16]
    assert [row.row_id for row in stream.retention_batch(0, 16)] == first[MOST_TRAINED:][:16]


def test_of_fewer_all_are():
    stream = ExampleSampler([Example("a", "?", ("a",))] * 3, [Example("b", "?", ("a",))] * 5, seed=0, image_prob=0.0)
    assert Counter(row.row_id for row in stream.first_rows(MOST_TRAINED)) == {"a": 3, "b": 5}


@pytest.mark.parametrize(
    ("part", "field"), [("val_audio", "audio"), ("train_audio", "audio"), ("val_vl", "image"), ("train_vl", "image")]
)
def test_a_run_tells_it_before_the_base_answers_and_leaves_no_folder(small_data, tmp_path, part, field):
    root, output = tmp_path / "data", tmp_path / "runs"
    shutil.copytree(small_data, root)
    settings = {"data.root": str(root), "output_root": str(output), "evaluation.max_vl": "8"}
    config = build_config({}, settings)
    row = getattr(load_examples(config), part)[-1]
    path = getattr(row, field)
    path.write_bytes(HTML)
    stages = []
    with pytest.raises(InputError) as caught:
        start_run(config, RunCallbacks(stage=stages.append))
    assert str(caught.value).startswith(f"{path} (row ")
    assert stages == ["loading", "reading files"]
    assert list(output.glob("*")) == []


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3"])
def test_clips_that_are_longer_than_what_is_heard_are_counted(tmp_path, container, caplog):
    """Trained or evaluated, each file once."""
    rows = []
    for number, seconds in enumerate((0.2, 0.3, 0.4, 0.7, 1.8)):
        path = tmp_path / f"{number}.{container.lower()}"
        path.write_bytes(sound(container, seconds))
        rows.append(Example(str(number), "?", ("a",), None, Amplified(path, 6.0) if number == 3 else path))
    checks = file_checks(rows[:4], [*rows, Example("noise", "?", ("a",), None, WhiteNoise(-20.0, 0))], ENCODERS)
    assert heard_seconds(ENCODERS) == 0.5
    found = run_checks(checks, ALONE, 0, lambda *_: None, heard_seconds(ENCODERS))
    assert (found.clips, found.cut, found.heard_seconds) == (5, 2, 0.5)
    assert found.longest_seconds == pytest.approx(1.8, abs=0.1)
    found.warn()
    assert "2 of 5 clips are longer than the 0.5 s that are heard" in caplog.text
    caplog.clear()
    run_checks(checks, ALONE, 0, lambda *_: None, 2.0).warn()
    assert caplog.text == ""


@pytest.mark.parametrize(("seconds", "cut"), [(0.5, 0), (0.524, 0), (0.525, 1)])
def test_what_is_too_short_for_a_feature_is_no_cut(tmp_path, seconds, cut):
    (tmp_path / "a.wav").write_bytes(sound("WAV", seconds))
    checks = file_checks([], [row_of(tmp_path / "a.wav")], ENCODERS)
    assert run_checks(checks, ALONE, 0, lambda *_: None, 0.5).cut == cut


def test_a_run_warns_of_clips_that_it_does_not_hear_whole_and_its_metrics_count_them(small_data, tmp_path, caplog):
    """The embedded clips are as long as the embedded encoder's window, 2 s."""
    settings = {
        "data.root": str(small_data), "optimization.max_steps": "1", "evaluation.max_vl": "4",
        "evaluation.max_audio": "4", "evaluation.max_text": "2", "variant": "no_retention",
    }  # fmt: skip
    for seconds, is_cut in (("1", True), ("30", False)):
        caplog.clear()
        values = settings | {"output_root": str(tmp_path / seconds), "model.audio_seconds": seconds}
        run = start_run(build_config({}, values), RunCallbacks()).folder
        counted = json.loads((run / "metrics.json").read_text())["cut_clips"]
        assert (counted["cut"] > 0) == is_cut
        assert counted["cut"] <= counted["clips"]
        assert ("that are heard" in caplog.text) == is_cut
