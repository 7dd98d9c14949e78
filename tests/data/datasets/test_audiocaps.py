"""The AudioCaps reader on the official CSV and on manifests, with clips that are there and clips that are not."""

import csv
import json
import logging

import numpy as np
import pytest
import soundfile
from PIL import Image

from safe_train.data.datasets.audiocaps import AudioCaps
from safe_train.data.datasets.records import AudioRecord
from safe_train.errors import InputError

HEADER = ("audiocap_id", "youtube_id", "start_time", "caption")
ROWS = [
    ("58146", "-668dhzzDQE", "30", "A dog barks, then a door closes"),
    ("11542", "abcDEF_123-", "130", "Rain falls"),
    ("58147", "-668dhzzDQE", "30", 'A dog "speaks"'),
]


def write_audio(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(160, dtype=np.float32), 16_000)


def write_table(root, rows=ROWS, header=HEADER, split="val"):
    path = root / f"audiocaps/{split}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_manifest(root, entries, name="val.json"):
    path = root / "audiocaps" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(json.dumps(entry) for entry in entries)
    path.write_text(lines if name.endswith("l") else json.dumps(entries))
    return path


def error_of(root, split="val"):
    with pytest.raises(InputError) as caught:
        AudioCaps().records(root, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def audio(tmp_path):
    return tmp_path / "audiocaps/audio/val"


def test_rows_of_one_clip_are_one_example_with_all_captions(tmp_path, audio):
    write_table(tmp_path)
    write_audio(audio / "-668dhzzDQE_30.wav")
    write_audio(audio / "abcDEF_123-_130.flac")
    assert AudioCaps().records(tmp_path, "val") == [
        AudioRecord(
            clip_id="-668dhzzDQE_30",
            audio_path=audio / "-668dhzzDQE_30.wav",
            captions=("A dog barks, then a door closes", 'A dog "speaks"'),
            question=None,
            image_path=None,
        ),
        AudioRecord("abcDEF_123-_130", audio / "abcDEF_123-_130.flac", ("Rain falls",), None, None),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "abcDEF_123-_130.wav",
        "abcDEF_123-_130.0.wav",
        "abcDEF_123-.ogg",
        "abcDEF_123-.mp3",
        "11542.flac",
        "11542.WAV",
    ],
)
def test_the_names_that_a_clip_may_have(tmp_path, audio, name):
    write_table(tmp_path, rows=[ROWS[1]])
    write_audio(audio / name)
    (example,) = AudioCaps().records(tmp_path, "val")
    assert example.audio_path == audio / name


def test_the_most_precise_name_wins(tmp_path, audio):
    write_table(tmp_path, rows=[ROWS[1]])
    for name in ("11542.wav", "abcDEF_123-.wav", "abcDEF_123-_130.mp3", "abcDEF_123-_130.flac"):
        write_audio(audio / name)
    (example,) = AudioCaps().records(tmp_path, "val")
    assert example.audio_path.name == "abcDEF_123-_130.flac"


def test_a_file_named_by_the_video_is_not_taken_for_two_clips_of_it(tmp_path, audio):
    write_table(tmp_path, rows=[("1", "video", "0", "a"), ("2", "video", "10", "b"), ROWS[1]])
    write_audio(audio / "video.wav")
    write_audio(audio / "abcDEF_123-.wav")
    examples, missing = AudioCaps().read(tmp_path, "val")
    assert [example.clip_id for example in examples] == ["abcDEF_123-_130"]
    assert missing.clip_ids == ("video_0", "video_10")


def test_missing_clips_are_counted_and_named_in_a_warning(tmp_path, audio, caplog):
    path = write_table(tmp_path, rows=[*ROWS, *((str(n), f"video{n}", "0", "x") for n in range(6))])
    write_audio(audio / "-668dhzzDQE.wav")
    with caplog.at_level(logging.WARNING, logger="safe_train.data.datasets.audiocaps"):
        (example,) = AudioCaps().records(tmp_path, "val")
    assert example.clip_id == "-668dhzzDQE_30"
    (message,) = caplog.messages
    assert message == (
        f"MissingClips: {path}: 7 of 8 clips have no audio file: "
        "abcDEF_123-_130, video0_0, video1_0, video2_0, video3_0 and 2 more"
    )


def test_nothing_is_said_when_nothing_is_missing(tmp_path, audio, caplog):
    write_table(tmp_path, rows=[ROWS[1]])
    write_audio(audio / "11542.wav")
    AudioCaps().records(tmp_path, "val")
    assert not caplog.messages


@pytest.mark.parametrize("with_folder", [True, False])
def test_all_clips_missing_is_an_error(tmp_path, audio, with_folder):
    write_table(tmp_path)
    if with_folder:
        write_audio(audio / "another.wav")
    assert "val.csv: expected audio files for its clips, got none of 2, first -668dhzzDQE_30" in error_of(tmp_path)


@pytest.mark.parametrize("name", ["../../../outside", "/outside"])
def test_a_youtube_id_cannot_lead_out_of_the_folder(tmp_path, audio, name):
    write_table(tmp_path, rows=[("1", name, "0", "a"), ROWS[1]])
    write_audio(audio / "11542.wav")
    write_audio(tmp_path / "outside.wav")
    examples, missing = AudioCaps().read(tmp_path, "val")
    assert len(examples) == 1
    assert missing.clip_ids == (f"{name}_0",)


def test_a_caption_may_contain_a_line_break(tmp_path, audio):
    write_table(tmp_path, rows=[("1", "video", "0", "first\nsecond")])
    write_audio(audio / "1.wav")
    assert AudioCaps().records(tmp_path, "val")[0].captions == ("first\nsecond",)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (ROWS, ("audiocap_id", "ytid", "start", "caption"), "got no youtube_id, start_time"),
        ([], HEADER, "val.csv: expected at least one clip, got none"),
        ([ROWS[0], ROWS[0]], HEADER, "val.csv:3: expected an audiocap_id of its own, got 58146 again, first on line 2"),
        ([("1", "video", "soon", "a")], HEADER, "val.csv:2: expected start_time in seconds, got 'soon'"),
        ([("1", "video", "-1", "a")], HEADER, "val.csv:2: expected start_time in seconds, got '-1'"),
        ([("1", "video", "nan", "a")], HEADER, "val.csv:2: expected start_time in seconds, got 'nan'"),
        ([("1", "video", "0", " ")], HEADER, "val.csv:2: expected the field caption to be text"),
        ([("1", "", "0", "a")], HEADER, "val.csv:2: expected the field youtube_id to be text"),
        ([("1", "video", "0")], HEADER, "val.csv:2: expected 4 values, got another number"),
        ([("1", "video", "0", "rain", " wind")], HEADER, "val.csv:2: expected 4 values, got another number"),
    ],
)
def test_bad_tables(tmp_path, rows, header, message):
    write_table(tmp_path, rows, header)
    assert message in error_of(tmp_path)


def test_a_quote_that_is_never_closed(tmp_path):
    path = write_table(tmp_path)
    path.write_text(path.read_text() + '9,video,0,"never closed')
    assert "expected CSV, got unexpected end of data" in error_of(tmp_path)


@pytest.mark.parametrize("name", ["audiocaps_val.jsonl", "audiocaps_val.json", "val.jsonl", "val.json"])
def test_manifests(tmp_path, audio, name):
    write_audio(tmp_path / "clips/a.wav")
    write_audio(tmp_path / "audiocaps/clips/b.ogg")
    write_audio(audio / "video2_7.5.wav")
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    entries = [
        {"id": 1, "caption": "one", "audio": "clips/a.wav", "ytid": "video", "start_time": 30},
        {"id": "x", "question": "What?", "answers": ["rain", "wind"], "audio_path": "clips/b.ogg", "image": "a.png"},
        {"captions": ["two"], "audio": "clips/a.wav", "metadata": {"youtube_id": "video", "start_time": "30.0"}},
        {"ytid": "video2", "start_time": 7.5, "answer": "bell"},
    ]
    write_manifest(tmp_path, entries, name)
    assert AudioCaps().records(tmp_path, "val") == [
        AudioRecord("video_30", tmp_path / "clips/a.wav", ("one", "two"), None, None),
        AudioRecord("x", tmp_path / "audiocaps/clips/b.ogg", ("rain", "wind"), "What?", tmp_path / "a.png"),
        AudioRecord("video2_7.5", audio / "video2_7.5.wav", ("bell",), None, None),
    ]


def test_different_questions_about_one_clip_are_different_examples(tmp_path):
    write_audio(tmp_path / "a.wav")
    clip = {"ytid": "video", "start_time": 0, "audio": "a.wav"}
    entries = [{**clip, "question": "What?", "answer": "rain"}, {**clip, "question": "Where?", "answer": "outside"}]
    write_manifest(tmp_path, entries)
    examples = AudioCaps().records(tmp_path, "val")
    assert [(example.clip_id, example.question, example.captions) for example in examples] == [
        ("video_0", "What?", ("rain",)),
        ("video_0", "Where?", ("outside",)),
    ]


def test_a_missing_file_of_a_manifest_is_reported(tmp_path):
    write_audio(tmp_path / "a.wav")
    entries = [{"id": "a", "caption": "x", "audio": "a.wav"}, {"id": "b", "caption": "y", "audio": "b.wav"}]
    path = write_manifest(tmp_path, entries)
    examples, missing = AudioCaps().read(tmp_path, "val")
    assert [example.clip_id for example in examples] == ["a"]
    assert (missing.where, missing.clip_ids, missing.num_listed) == (path, ("b",), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "entry 1: expected the field id or ytid"),
        ({"id": "a"}, "entry 1: expected an id of its own, got a again, first at"),
        ({"caption": None}, "entry 1: expected the field answers or answer or caption or captions"),
        ({"audio": "../a.wav"}, "entry 1: expected a path in"),
        ({"image": "../a.png"}, "entry 1: expected a path in"),
        ({"image": "none.png"}, "none.png: expected the image of"),
        ({"audio": 3}, "entry 1: expected the field audio or audio_path to be text, got int 3"),
        ({"metadata": [1]}, "entry 1: metadata: expected a JSON object"),
        ({"ytid": "video", "start_time": "x"}, "entry 1: expected start_time in seconds, got 'x'"),
        ({"ytid": "video", "start_time": [1]}, "entry 1: expected start_time in seconds, got [1]"),
    ],
)
def test_bad_manifest_entries(tmp_path, change, message):
    root = tmp_path / "root"
    write_audio(root / "a.wav")
    entries = [{"id": "a", "caption": "x", "audio": "a.wav"}, {"id": "b", "caption": "y", "audio": "a.wav"}]
    write_manifest(root, entries)
    assert len(AudioCaps().records(root, "val")) == 2
    entries[1].update(change)
    write_manifest(root, entries)
    assert message in error_of(root)


def test_rows_of_one_clip_that_name_different_files(tmp_path):
    write_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "b.wav")
    clip = {"ytid": "video", "start_time": 0, "caption": "x"}
    write_manifest(tmp_path, [{**clip, "audio": "a.wav"}, {**clip, "audio": "b.wav"}])
    assert "entry 1: expected the audio of" in error_of(tmp_path)


def test_a_missing_split_is_told_with_the_names_that_were_tried(tmp_path):
    write_table(tmp_path)
    message = error_of(tmp_path, "train")
    assert all(name in message for name in ("train.csv", "audiocaps_train.jsonl", "train.json"))
