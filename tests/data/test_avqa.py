"""The AVQA reader on small manifests."""

import json
from pathlib import Path

import pytest

from safe_train.data.avqa import load_avqa, read_avqa
from safe_train.data.clips import AudioExample
from safe_train.errors import InputError

ENTRIES = [
    {"id": 1, "question": "Which instrument?", "answer": "cello", "audio": "avqa/a.wav", "image": "avqa/a.png"},
    {"sample_id": "q2", "question": "How many?", "answers": ["two", "2"], "audio_path": "a.wav", "image_path": "a.png"},
    {"id": 3, "question": "Où?", "answer": "ici", "audio": "b.ogg"},
]


@pytest.fixture
def root(tmp_path):
    for name in ("a.wav", "b.ogg", "a.png"):
        path = tmp_path / "avqa" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def write(root, entries, name="train.json"):
    text = json.dumps(entries) if name.endswith("json") else "\n".join(map(json.dumps, entries))
    (root / "avqa" / name).write_text(text)


@pytest.mark.parametrize("name", ["avqa_train.jsonl", "avqa_train.json", "train.jsonl", "train.json"])
def test_manifests(root, name):
    write(root, ENTRIES, name)
    folder = root / "avqa"
    assert load_avqa(root, "train") == [
        AudioExample("avqa/a.wav", folder / "a.wav", ("cello",), "Which instrument?", folder / "a.png"),
        AudioExample("avqa/a.wav", folder / "a.wav", ("two", "2"), "How many?", folder / "a.png"),
        AudioExample("avqa/b.ogg", folder / "b.ogg", ("ici",), "Où?", None),
    ]


def test_a_relative_root(root, monkeypatch):
    write(root, ENTRIES)
    monkeypatch.chdir(root / "avqa")
    (first, *_) = load_avqa(Path(".."), "train")
    assert first.clip_id == "avqa/a.wav"


def test_missing_clips_are_counted_and_named(root, caplog):
    write(root, ENTRIES)
    (root / "avqa/b.ogg").unlink()
    examples, missing = read_avqa(root, "train")
    assert [example.question for example in examples] == ["Which instrument?", "How many?"]
    assert (missing.clip_ids, missing.num_listed) == (("b.ogg",), 3)
    load_avqa(root, "train")
    assert "1 of 3 clips have no audio file: b.ogg" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_id": None}, "entry 1: expected the field id or sample_id"),
        ({"sample_id": "1"}, "entry 1: expected an id of its own, got 1 again"),
        ({"question": None}, "entry 1: expected the field question"),
        ({"answers": []}, "entry 1: expected the field answers or answer to be text"),
        ({"audio_path": None}, "entry 1: expected the field audio or audio_path"),
        ({"audio_path": "/etc/a.wav"}, "'/etc/a.wav', which leaves it"),
        ({"image_path": "../../a.png"}, "'../../a.png', which leaves it"),
        ({"image_path": "c.png"}, "c.png: expected the image of "),
    ],
)
def test_bad_entries(root, change, message):
    write(root, [ENTRIES[0], ENTRIES[1] | change, ENTRIES[2]])
    with pytest.raises(InputError) as caught:
        load_avqa(root, "train")
    assert message in str(caught.value)


def test_a_missing_split_is_told_with_the_names_that_were_tried(root):
    with pytest.raises(InputError, match=r"avqa_val.jsonl or avqa_val.json or val.jsonl or val.json, got none"):
        load_avqa(root, "val")
