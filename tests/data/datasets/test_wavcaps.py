"""The WavCaps reader on small manifests and on files in the official layout."""

import json

import pytest

from safe_train.data.datasets.records import AudioRecord
from safe_train.data.datasets.wavcaps import WavCaps
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
    assert WavCaps().records(root, "train") == [
        AudioRecord("FreeSound/17", folder / "FreeSound/17.flac", ("Rain falls",), None, None),
        AudioRecord("SoundBible/17", folder / "SoundBible/17.wav", ("a bell", "chimes"), None, None),
        AudioRecord("x", folder / "x.mp3", ("ici",), "Où?", None),
    ]


def test_missing_clips_are_counted_and_named(root, caplog):
    write(root, ENTRIES)
    (root / "wavcaps/SoundBible/17.wav").unlink()
    examples, missing = WavCaps().read(root, "train")
    assert [example.clip_id for example in examples] == ["FreeSound/17", "x"]
    assert (missing.clip_ids, missing.num_listed) == (("SoundBible/17",), 3)
    WavCaps().records(root, "train")
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
        WavCaps().records(root, "train")
    assert message in str(caught.value)


def test_a_missing_split_is_told_with_the_names_that_were_tried(root):
    with pytest.raises(InputError, match=r"wavcaps_val.jsonl or wavcaps_val.json or val.jsonl or val.json, got none"):
        WavCaps().records(root, "val")


def test_no_clip_at_all(root):
    write(root, [ENTRIES[0] | {"audio": "none.wav"}])
    with pytest.raises(InputError, match="expected audio files for its clips, got none of 1, first FreeSound/17"):
        WavCaps().records(root, "train")


# --- the official layout: one file a collection, audio found by id


def official_entry(clip_id, caption, **fields):
    return {
        "title": "Airplane Landing", "description": "Large commercial airplane landing.", "author": "D. S.",
        "href": "2219-Airplane-Landing.html", "caption": caption, "id": clip_id, "duration": 14.1424375,
        "audio": "wav_path", "download_link": "http://example.org/2219",
    } | fields  # fmt: skip


OFFICIAL = {
    "AudioSet_SL/as_final.json": [official_entry("Yb0RFKhbpFJA.wav", "Wind blows.")],
    "BBC_Sound_Effects/bbc_final.json": [official_entry("NHU05093027", "Birds sing.", category="nature")],
    "FreeSound/fsd_final.json": [
        official_entry("17", "Rain falls.", file_name="rain.wav", tags=["rain"]),
        official_entry("18", "Rain falls again.", file_name="rain.wav"),
    ],
    "SoundBible/sb_final.json": [official_entry("17", "An airplane is landing.")],
}


@pytest.fixture
def official(tmp_path):
    folder = tmp_path / "wavcaps"
    for name, entries in OFFICIAL.items():
        path = folder / "json_files" / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"num_captions_per_audio": 1, "data": entries}))
    for name in (
        "AudioSet_SL_flac/Yb0RFKhbpFJA.flac",
        "audio/BBC_Sound_Effects/NHU05093027.flac",
        "FreeSound/17.flac",
        "FreeSound/18.mp3",
        "waveforms/SoundBible_flac/17.flac",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return tmp_path


def rewrite(official, name, content):
    (official / "wavcaps/json_files" / name).write_text(json.dumps(content))


def under(official, example):
    return example.audio_path.relative_to(official / "wavcaps").as_posix()


def test_official_files(official):
    examples = WavCaps().records(official, "train")
    assert [(example.clip_id, under(official, example), *example.captions) for example in examples] == [
        ("AudioSet_SL/Yb0RFKhbpFJA", "AudioSet_SL_flac/Yb0RFKhbpFJA.flac", "Wind blows."),
        ("BBC_Sound_Effects/NHU05093027", "audio/BBC_Sound_Effects/NHU05093027.flac", "Birds sing."),
        ("FreeSound/17", "FreeSound/17.flac", "Rain falls."),
        ("FreeSound/18", "FreeSound/18.mp3", "Rain falls again."),
        ("SoundBible/17", "waveforms/SoundBible_flac/17.flac", "An airplane is landing."),
    ]


def test_a_collection_that_is_not_there_is_none_of_the_data(official):
    (official / "wavcaps/json_files/SoundBible/sb_final.json").unlink()
    assert len(WavCaps().records(official, "train")) == 4


def test_a_collection_as_a_plain_list(official):
    rewrite(official, "SoundBible/sb_final.json", OFFICIAL["SoundBible/sb_final.json"])
    assert WavCaps().records(official, "train")[-1].clip_id == "SoundBible/17"


def test_official_audio_that_is_missing(official):
    (official / "wavcaps/FreeSound/17.flac").unlink()
    examples, missing = WavCaps().read(official, "train")
    assert len(examples) == 4
    assert (missing.clip_ids, missing.num_listed) == (("FreeSound/17",), 5)


def test_wavcaps_has_one_split(official):
    with pytest.raises(InputError, match="name a split other than 'val'"):
        WavCaps().records(official, "val")


def test_several_captions_an_audio(official):
    entry = official_entry("17", None, caption_1="a bell", caption_2="chimes")
    rewrite(official, "SoundBible/sb_final.json", {"num_captions_per_audio": 2, "data": [entry]})
    assert WavCaps().records(official, "train")[-1].captions == ("a bell", "chimes")


def test_the_official_form_under_another_name(official):
    entries = [
        official_entry("17", "Rain.", subset="FreeSound"),
        official_entry("a", "A bell.", audio="bell/a.ogg"),
        official_entry("b", "A drum."),
    ]
    for name in ("bell/a.ogg", "audio/b.wav"):
        (official / "wavcaps" / name).parent.mkdir(exist_ok=True)
        (official / "wavcaps" / name).touch()
    write(official, {"num_captions_per_audio": 1, "data": entries}, "wavcaps_val.json")
    assert [(example.clip_id, under(official, example)) for example in WavCaps().records(official, "val")] == [
        ("FreeSound/17", "FreeSound/17.flac"),
        ("a", "bell/a.ogg"),
        ("b", "audio/b.wav"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"num_captions_per_audio": 1},
            "sb_final.json: expected the field data, got the fields num_captions_per_audio",
        ),
        ({"num_captions_per_audio": 1, "data": []}, "sb_final.json: expected data to be a non-empty list"),
        ({"data": [official_entry("1", "a")]}, "expected the field num_captions_per_audio"),
        ({"num_captions_per_audio": 1, "data": [3]}, "data[0]: expected a JSON object, got int 3"),
        ({"num_captions_per_audio": 1, "data": [official_entry("1", "")]}, "data[0]: expected the field answers"),
        ({"num_captions_per_audio": 2, "data": [official_entry("1", None, caption_1="a")]}, "the field caption_2"),
        ({"num_captions_per_audio": 1, "data": [official_entry("../../../../x", "a")]}, "which leaves it"),
        ({"num_captions_per_audio": 1, "data": [official_entry("x", "a", audio="/etc/x.wav")]}, "which leaves it"),
        ({"num_captions_per_audio": 1, "data": [official_entry("1.wav", "a"), official_entry("1", "b")]}, "1 again"),
    ],
)
def test_bad_official_files(official, content, message):
    rewrite(official, "SoundBible/sb_final.json", content)
    with pytest.raises(InputError) as caught:
        WavCaps().records(official, "train")
    assert message in str(caught.value)
