"""The WavCaps reader on small manifests."""

import json

import pytest

from safe_train.data.clips import AudioExample
from safe_train.data.wavcaps import load_wavcaps, read_wavcaps
from safe_train.errors import InputError

ENTRIES = [
    {"id": "17", "caption": "Rain falls", "audio": "wavcaps/FreeSound/17.flac", "subset": "FreeSound"},
    {"id": 17, "answers": ["a bell", "chimes"], "audio_path": "SoundBible/17.wav", "subset": "SoundBible"},
    {"id": "x", "question": "Où?", "answer": "ici", "audio": "x.mp3"},
]


@pytest.fixture
def root(tmp_path):
    for name in ("FreeSound/17.flac", "SoundBible/17.wav", "x.mp3"):
        path = tmp_path / "wavcaps" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def write(root, entries, name="train.json"):
    text = json.dumps(entries) if name.endswith("json") else "\n".join(map(json.dumps, entries))
    (root / "wavcaps" / name).write_text(text)


@pytest.mark.parametrize("name", ["wavcaps_train.jsonl", "wavcaps_train.json", "train.jsonl", "train.json"])
def test_manifests(root, name):
    write(root, ENTRIES, name)
    folder = root / "wavcaps"
    assert load_wavcaps(root, "train") == [
        AudioExample("FreeSound/17", folder / "FreeSound/17.flac", ("Rain falls",), None, None),
        AudioExample("SoundBible/17", folder / "SoundBible/17.wav", ("a bell", "chimes"), None, None),
        AudioExample("x", folder / "x.mp3", ("ici",), "Où?", None),
    ]


def test_missing_clips_are_counted_and_named(root, caplog):
    write(root, ENTRIES)
    (root / "wavcaps/SoundBible/17.wav").unlink()
    examples, missing = read_wavcaps(root, "train")
    assert [example.clip_id for example in examples] == ["FreeSound/17", "x"]
    assert (missing.clip_ids, missing.num_listed) == (("SoundBible/17",), 3)
    load_wavcaps(root, "train")
    assert "1 of 3 clips have no audio file: SoundBible/17" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "entry 1: expected the field id"),
        ({"subset": "FreeSound"}, "entry 1: expected an id of its own, got FreeSound/17 again"),
        ({"answers": None}, "entry 1: expected the field answers or answer or caption, got the fields"),
        ({"answers": ["a", ""]}, "entry 1: expected the field answers or answer or caption to be text"),
        ({"audio_path": None}, "entry 1: expected the field audio or audio_path"),
        ({"audio_path": "../../a.wav"}, "'../../a.wav', which leaves it"),
        ({"subset": 3}, "entry 1: expected the field subset to be text"),
    ],
)
def test_bad_entries(root, change, message):
    write(root, [ENTRIES[0], ENTRIES[1] | change, ENTRIES[2]])
    with pytest.raises(InputError) as caught:
        load_wavcaps(root, "train")
    assert message in str(caught.value)


def test_a_missing_split_is_told_with_the_names_that_were_tried(root):
    with pytest.raises(InputError, match=r"wavcaps_val.jsonl or wavcaps_val.json or val.jsonl or val.json, got none"):
        load_wavcaps(root, "val")


def test_no_clip_at_all(root):
    write(root, [ENTRIES[0] | {"audio": "none.wav"}])
    with pytest.raises(InputError, match="expected audio files for its clips, got none of 1, first FreeSound/17"):
        load_wavcaps(root, "train")
