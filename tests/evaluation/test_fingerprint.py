"""Keys: equal where nothing new was asked for, and different where answers are."""

import hashlib
import os
from pathlib import Path

import pytest

from safe_train.config import build_config
from safe_train.data.example import DOCUMENT, Example
from safe_train.errors import InputError
from safe_train.evaluation.answer_lengths import AnswerLengths
from safe_train.evaluation.fingerprint import base_key, evaluation_key, files_sha256, folder_name, rows_sha256
from safe_train.evaluation.predictions import PredictionStore, row_files

SHORT = AnswerLengths(12, 12, 12)
VL = [Example("v0", "what?", ("2",) * 10, Path("0.png"), None, "count", "0")]
TEXT = [Example("t0", "what?", ("2",)), Example("d0", "", ("a text",), kind=DOCUMENT)]
AUDIO = [Example("a0", "what do you hear?", ("a bell",), None, Path("0.wav"), "caption", "a0")]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """The image and the clip that the rows name."""
    monkeypatch.chdir(tmp_path)
    for name in ("0.png", "0.wav"):
        Path(name).write_bytes(name.encode())


@pytest.fixture
def key_of(embedded_base):
    def make(text=(), lengths=SHORT, **settings):
        config = build_config({}, settings)
        return base_key(config, embedded_base, VL, lengths, text)

    return make


@pytest.fixture
def evaluated(key_of, make_safe_model):
    model = make_safe_model()

    def make(text=(), lengths=SHORT, **settings):
        config = build_config({}, settings)
        return evaluation_key(key_of(text, lengths), config, model, AUDIO, lengths, step=5, damage=0.0)

    return make


def test_without_text_only_rows_a_key_names_none(key_of, evaluated):
    base = {"base", "vl_rows_sha256", "batch_size", "max_new_tokens", "precision", "versions", "vl_files_sha256"}
    assert set(key_of()) == base
    assert (key_of()["max_new_tokens"], key_of()["vl_rows_sha256"]) == (12, rows_sha256(VL))
    safe = {"variant", "seed", "step", "damage", "trained_parts_sha256", "audio_encoders", "audio_rows_sha256"} | {
        "audio_files_sha256"
    }
    assert set(evaluated()) == base | safe


def test_rows_have_the_digest_that_they_always_had():
    """Written down before there were text-only rows."""
    assert rows_sha256(VL) == "274600f6bb3b92a8782790f70a776bd7741859280a76b208dd6b991ea0062c87"
    assert rows_sha256(AUDIO) == "5119b4ddcdb57c62c5618633c9a10f8c49b3db14c1399d2fa89c0fcbb13bed2a"


@pytest.mark.parametrize(
    ("changes", "added"),
    [
        ({"text": TEXT}, {"text_rows_sha256": rows_sha256(TEXT), "text_max_new_tokens": 12}),
        ({"text": TEXT, "lengths": AnswerLengths(12, 40, 12)},
         {"text_rows_sha256": rows_sha256(TEXT), "text_max_new_tokens": 40}),
        ({"lengths": AnswerLengths(12, 40, 12)}, {}),  # nothing was asked that could be as long
        ({"lengths": AnswerLengths(12, 12, 30)}, {"audio_max_new_tokens": 30}),
        ({"lengths": AnswerLengths(30, 12, 30)}, {"max_new_tokens": 30}),
        ({"evaluation.gate": "0.5"}, {"gate": 0.5}),
        ({"evaluation.gate": "1.0"}, {}),
        ({"evaluation.audio_metric": "token_f1"}, {}),  # computed from the same answers
    ],
)  # fmt: skip
def test_what_answers_depend_on_is_in_their_key_and_nothing_else(evaluated, changes, added):
    before, after = evaluated(), evaluated(**changes)
    assert after == before | added
    assert (folder_name(after) == folder_name(before)) == (not added)


@pytest.mark.parametrize(("name", "part"), [("0.png", "vl_files_sha256"), ("0.wav", "audio_files_sha256")])
def test_files_that_are_replaced_under_the_same_path_have_another_key(evaluated, name, part):
    before = evaluated()
    Path(name).write_bytes(b"other")
    after = evaluated()
    assert after[part] != before[part]
    assert after | {part: before[part]} == before
    assert folder_name(after) != folder_name(before)
    Path(name).write_bytes(name.encode())  # as it was
    assert evaluated() == before


def test_a_replaced_file_of_the_same_size_and_time_is_another(evaluated):
    """As copying with times kept (``cp -p``) makes one."""
    before, times = evaluated(), Path("0.png").stat()
    Path("new").write_bytes(b"1.png")
    os.utime("new", ns=(times.st_atime_ns, times.st_mtime_ns))
    Path("new").replace("0.png")
    assert evaluated()["vl_files_sha256"] != before["vl_files_sha256"]


def test_the_digests_lie_beside_the_answers(tmp_path):
    clip = hashlib.sha256(b"0.wav").hexdigest()
    assert row_files(AUDIO[0]) == {"audio_sha256": clip}
    PredictionStore.create(tmp_path / "answers", {}, VL, AUDIO)
    assert f'"audio_sha256": "{clip}"' in (tmp_path / "answers/rows.audio.jsonl").read_text()


def test_a_file_that_is_not_there_is_one_line():
    Path("0.png").unlink()
    with pytest.raises(InputError, match=r"0\.png: expected a file, got no such file"):
        files_sha256(VL)
