"""The AVQA reader on small manifests and on files in the layout of MUSIC-AVQA."""

import json
from pathlib import Path

import pytest

from safe_train.data.datasets.avqa import AVQA
from safe_train.data.datasets.issues import Issue, IssueKind
from safe_train.data.datasets.records import AudioRecord
from safe_train.data.example import QUESTION
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
    assert AVQA().records(root, "train") == [
        AudioRecord("avqa/a.wav", folder / "a.wav", ("cello",), "Which instrument?", folder / "a.png"),
        AudioRecord("avqa/a.wav", folder / "a.wav", ("two", "2"), "How many?", folder / "a.png"),
        AudioRecord("avqa/b.ogg", folder / "b.ogg", ("ici",), "Où?", None),
    ]


def test_a_relative_root(root, monkeypatch):
    write(root, ENTRIES)
    monkeypatch.chdir(root / "avqa")
    (first, *_) = AVQA().records(Path(".."), "train")
    assert first.clip_id == "avqa/a.wav"


def test_missing_clips_are_counted_and_named(root, caplog):
    write(root, ENTRIES)
    (root / "avqa/b.ogg").unlink()
    examples, missing = AVQA().read(root, "train")
    assert [example.question for example in examples] == ["Which instrument?", "How many?"]
    assert (missing.clip_ids, missing.num_listed) == (("b.ogg",), 3)
    AVQA().records(root, "train")
    assert "1 of 3 clips have no audio file: b.ogg" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_id": None}, "entry 1: expected the field id or sample_id or question_id"),
        ({"sample_id": "1"}, "entry 1: expected an id of its own, got 1 again"),
        ({"question": None}, "entry 1: expected the field question"),
        ({"answers": []}, "entry 1: expected the field answers or answer or anser to be text"),
        ({"audio_path": None}, "entry 1: expected the field audio or audio_path"),
        ({"audio_path": "/etc/a.wav"}, "'/etc/a.wav', which leaves it"),
        ({"image_path": "../../a.png"}, "'../../a.png', which leaves it"),
        ({"image_path": "c.png"}, "c.png: expected the image of "),
    ],
)
def test_bad_entries(root, change, message):
    write(root, [ENTRIES[0], ENTRIES[1] | change, ENTRIES[2]])
    with pytest.raises(InputError) as caught:
        AVQA().records(root, "train")
    assert message in str(caught.value)


def test_a_missing_split_is_told_with_the_names_that_were_tried(root):
    with pytest.raises(
        InputError, match=r"avqa-val.json or avqa_val.jsonl or avqa_val.json or val.jsonl or val.json, got none"
    ):
        AVQA().records(root, "val")


# --- MUSIC-AVQA: entries as its annotation files have them, ``type`` and ``templ_values`` being texts that hold JSON

OFFICIAL = [
    {
        "video_id": "00000272", "question_id": 50, "type": '["Audio-Visual", "Temporal"]',
        "question_content": "Where is the <FL> sounding instrument?", "templ_values": '["first"]',
        "question_deleted": 0, "anser": "left",
    },
    {
        "video_id": "sa00007434", "question_id": 28884, "type": '["Visual", "Counting"]',
        "question_content": "Are there <Object> and <Object> instruments in the video?",
        "templ_values": '["piano", "ukulele"]', "question_deleted": 0, "anser": "no",
    },
    {
        "video_id": "00000272", "question_id": 157, "type": '["Audio-Visual", "Counting"]',
        "question_content": "How many types of musical instruments sound in the video?", "templ_values": "[]",
        "question_deleted": 0, "anser": "two",
    },
]  # fmt: skip


@pytest.fixture
def official(tmp_path):
    folder = tmp_path / "avqa"
    for name in ("audio/00000272.wav", "audio/train/sa00007434.mp3", "frames/00000272/000001.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for number in (2, 3, 4, 5):
        (folder / f"frames/00000272/{number:06d}.jpg").touch()
    return tmp_path


def test_official_files(official):
    write(official, OFFICIAL, "avqa-train.json")
    folder = official / "avqa"
    middle = folder / "frames/00000272/000003.jpg"
    first, second = "avqa/audio/00000272.wav", "avqa/audio/train/sa00007434.mp3"
    instruments = "Are there piano and ukulele instruments in the video?"
    where = "Where is the first sounding instrument?"
    types = "How many types of musical instruments sound in the video?"
    assert AVQA().records(official, "train") == [
        AudioRecord(first, official / first, ("left",), where, middle, "Audio-Visual Temporal"),
        AudioRecord(second, official / second, ("no",), instruments, None, "Visual Counting"),
        AudioRecord(first, official / first, ("two",), types, middle, "Audio-Visual Counting"),
    ]


def test_the_official_file_comes_first_and_its_entries_may_have_another_name(official):
    write(official, OFFICIAL[:1], "train.json")
    assert len(AVQA().records(official, "train")) == 1
    write(official, OFFICIAL, "avqa-train.json")
    assert len(AVQA().records(official, "train")) == 3


def test_official_audio_that_is_missing_is_named_where_it_would_be(official):
    write(official, [*OFFICIAL, OFFICIAL[0] | {"video_id": "00000999", "question_id": 1}], "avqa-train.json")
    _, missing = AVQA().read(official, "train")
    assert (missing.clip_ids, missing.num_listed) == (("avqa/audio/00000999.wav",), 4)


def test_deleted_questions_are_left_out_and_counted(official, caplog):
    write(official, [OFFICIAL[0], OFFICIAL[1] | {"question_deleted": 1}], "avqa-train.json")
    assert [example.captions for example in AVQA().records(official, "train")] == [("left",)]
    assert "1 of 2 questions are marked as deleted" in caplog.text


def test_template_values_as_a_list(official):
    write(official, [OFFICIAL[1] | {"templ_values": ["cello", "bass"]}], "avqa-train.json")
    (example,) = AVQA().records(official, "train")
    assert example.question == "Are there cello and bass instruments in the video?"


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ('["Audio", "Language"]', "Audio Language"),
        (["Audio", "Language"], "Audio Language"),
        ("counting", "counting"),
        ("[counting", "[counting"),
        ("[]", QUESTION),
        (None, QUESTION),
    ],
)
def test_the_type_of_a_question_is_the_kind_of_its_example(official, written, kind):
    write(official, [OFFICIAL[0] | {"type": written}], "avqa-train.json")
    assert [example.kind for example in AVQA().examples(official, "train")] == [kind]


def test_what_a_manifest_calls_type_changes_no_example(root):
    """Else the fingerprints of rows that were evaluated before would change."""
    write(root, ENTRIES)
    without = AVQA().examples(root, "train")
    write(root, [entry | {"type": '["Audio", "Language"]'} for entry in ENTRIES])
    assert AVQA().examples(root, "train") == without
    assert {example.kind for example in without} == {"question"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": 7}, "expected type to be text or a list of texts, got 7"),
        ({"type": ["Audio", 3]}, "expected type to be text or a list of texts"),
        ({"type": '["caption"]'}, "expected another type of question, got 'caption'"),
        ({"type": r'["a\ud83d"]'}, "expected text that is Unicode, got the lone surrogate U+D83D"),
    ],
)
def test_types_that_are_refused_are_what_the_check_finds(official, change, message):
    write(official, [OFFICIAL[0], OFFICIAL[1] | change, OFFICIAL[2] | change], "avqa-train.json")
    with pytest.raises(InputError) as caught:
        AVQA().records(official, "train")
    assert message in str(caught.value)
    issues = [found for found in AVQA().check_entries(official, "train") if isinstance(found, Issue)]
    assert len(issues) == 2  # one for each entry that is wrong, where the reader stops at the first
    assert {issue.kind for issue in issues} <= {IssueKind.ENTRY, IssueKind.SURROGATE}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"templ_values": '["piano"]'}, "templ_values to be a list of 2 texts, one for each placeholder"),
        ({"templ_values": '["a", "b", "c"]'}, "templ_values to be a list of 2 texts"),
        ({"templ_values": '["a", 3]'}, "templ_values to be a list of 2 texts"),
        ({"templ_values": "[piano"}, "templ_values to be a list of 2 texts"),
        ({"templ_values": r'["piano", "uk\ud83d"]'}, "expected text that is Unicode, got the lone surrogate U+D83D"),
        ({"templ_values": '["piano", "<image>"]'}, "expected text without the literal <image>"),
        ({"templ_values": None}, "templ_values to be a list of 2 texts"),
        ({"anser": None}, "expected the field answers or answer or anser, got the fields"),
        ({"question_id": 50}, "expected an id of its own, got 50 again"),
        ({"video_id": "../../../a"}, "which leaves it"),
        ({"video_id": None}, "expected the field audio or audio_path"),
        ({"question_content": None}, "expected the field question, got the fields"),
    ],
)
def test_bad_official_entries(official, change, message):
    write(official, [OFFICIAL[0], OFFICIAL[1] | change], "avqa-train.json")
    with pytest.raises(InputError) as caught:
        AVQA().records(official, "train")
    assert "avqa-train.json: entry 1: " in str(caught.value)
    assert message in str(caught.value)
