"""Text that is wrong in many ways, in every list: one line, the same verdict from the check and from the readers."""

import json

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from PIL import Image

from safe_train.cli import safe
from safe_train.data.datasets.audiocaps import AudioCaps
from safe_train.data.datasets.avqa import AVQA
from safe_train.data.datasets.pack import PackClips, PackQuestions, PackText
from safe_train.data.datasets.text import Text
from safe_train.data.datasets.vqa import VQA
from safe_train.data.datasets.wavcaps import WavCaps
from safe_train.errors import InputError
from safe_train.evaluation.predictions import PredictionStore

QUESTION = {"id": 1, "question": "What?", "answers": ["red"], "image": "pictures/a.png"}
CAPTION = {"id": "c", "captions": ["a bell"], "audio": "sounds/a.wav"}
HEADER = {"subset_name": "s", "description": "d", "seed": 1, "source_dataset": "x"}
CLIP = {"audiocap_id": "1", "youtube_id": "v", "start_time": 30.0, "caption": "a bell", "audio_relpath": "sounds/a.wav"}
PACKED = {
    "question_id": 1, "image_id": 1, "image_filename": "a.png", "question": "What?", "answers": ["no"] * 10,
    "majority_answer": "no",
}  # fmt: skip

LISTS = {
    "audiocaps": (CAPTION, ["id", "captions", "audio", "question", "image", "ytid", "start_time"], AudioCaps),
    "wavcaps": (
        {"id": "w", "caption": "a bell", "audio": "sounds/a.wav"},
        ["id", "caption", "audio", "question", "subset"],
        WavCaps,
    ),
    "avqa": (
        QUESTION | {"audio": "sounds/a.wav"},
        ["id", "question", "answers", "audio", "image", "question_content", "templ_values", "video_id"],
        AVQA,
    ),
    "vqa": (QUESTION, ["id", "question", "answers", "image", "image_id", "question_type"], VQA),
    "text": (
        {"id": "t", "prompt": "What?", "answers": ["red"]},
        ["id", "prompt", "input", "answers", "type", "cluster", "messages", "text"],
        Text,
    ),
}
"""By set: an entry that is right, fields to put something wrong into, and the reader."""

DEEP = json.loads("[" * 400 + "]" * 400)
VALUES = {
    "nothing": None, "true": True, "a number": 7, "a fraction": 1.5, "a huge number": 10**4000, "NaN": float("nan"),
    "infinity": float("inf"), "minus infinity": float("-inf"), "1e999": float("1e400"), "no text": "", "blank": " \t\n",
    "digits": "7", "digits of another script": "\u0663", "zeros before": "007", "5,000 digits": "9" * 5000,
    "half a character": "cut \ud83d", "its other half": "\udc00", "a placeholder": "<image>", "placeholder before":
    "<image>\nWhat?", "placeholder behind": "What?\n<image>", "placeholder within": "Is <image> red?",
    "two placeholders": "<image><image>\nWhat?", "a line separator": "What\u2028is\u0085it?",
    "escape sequences": "\x1b[2J\x1b]0;title\x07", "a forged line": "x\nerror: all is well", "a zero byte": "a\0b",
    "text that reads backwards": "a\u202egnp.b", "a name of 300 bytes": "a" * 300, "names of 300 bytes": "犬" * 100,
    "a path of 6,000 bytes": "/".join(["abcdefghij"] * 600), "a data URI": "data:image/png;base64," + "iVBOR" * 2000,
    "an address": "https://example.org/a.png", "a way out": "../../etc/passwd", "the root": "/", "a folder": "pictures",
    "an empty list": [], "a list": ["a", "b"], "a list with a blank": ["a", " "], "a list of numbers": [1, 2],
    "half a character in a list": ["red", "\ud83d"], "a placeholder in a list": ["red", "an <image>"],
    "an empty object": {}, "an object": {"a": {"b": [1]}}, "400 lists in each other": DEEP,
    "a long text": "word " * 20_000, "JSON in text": "[" * 5000, "a long number in text": "[" + "9" * 5000 + "]",
    "half a character in JSON in text": '["\\ud83d"]', "a brace": "{", "a percent sign": "%s %d {} {0}",
}  # fmt: skip


def as_json(value):
    """JSON as a program writes it that knows no better: ASCII, with NaN and Infinity."""
    return json.dumps(value)


@pytest.fixture
def root(tmp_path):
    for folder in ("sounds", "pictures", "images"):
        (tmp_path / folder).mkdir()
    soundfile.write(tmp_path / "sounds/a.wav", np.full(800, 0.1), 8_000)
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures/a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "images/a.png")
    return tmp_path


def checked(root):
    """Exit code of ``safe data check`` and everything that it says; an unforeseen error is none of the two codes."""
    result = CliRunner().invoke(safe, ["data", "check", str(root)])
    assert isinstance(result.exception, SystemExit | None), result.exc_info
    assert result.exit_code in (0, 2)
    assert result.stderr.count("\n") == (result.exit_code == 2)
    for character in result.stdout + result.stderr:
        assert character == "\n" or (ord(character) >= 0x20 and character not in "\x7f\x85\u2028\u202e")
        assert not 0xD800 <= ord(character) <= 0xDFFF
    result.stdout.encode()
    return result.exit_code, result.stdout


def refused(read):
    """Whether a reader refuses its list, in one line that is not longer than it helps."""
    try:
        read()
    except InputError as error:
        line = str(error)
        assert "\n" not in line
        assert len(line) < 1_000
        line.encode()
        return True
    return False


@pytest.mark.parametrize("set_name", LISTS)
def test_the_check_and_the_reader_agree_on_every_value_of_every_field(root, set_name):
    """What training would refuse the check finds, and what the check passes training takes."""
    right, fields, reader = LISTS[set_name]
    path = root / set_name / "train.jsonl"
    path.parent.mkdir()
    disagreed, refusals, taken = [], 0, 0
    for field in fields:
        for name, value in VALUES.items():
            if isinstance(value, int) and value > 10**9:
                text = as_json(right | {field: 0}).replace(f'"{field}": 0', f'"{field}": {"9" * 4_000}')
            else:
                text = as_json(right | {field: value})
            path.write_text(f"{text}\n")
            by_reader, code = refused(lambda: reader().records(root, "train")), checked(root)[0]
            refusals, taken = refusals + by_reader, taken + (not by_reader)
            if by_reader != (code == 2):
                disagreed.append((field, name))
    assert disagreed == []
    assert refusals + taken == len(fields) * len(VALUES)
    assert min(refusals, taken) > len(fields) * 5


FILES = {
    "no bytes": b"", "a line break": b"\n", "a brace": b"{", "a bracket": b"[[[[", "null": b"null", "a number": b"7",
    "NaN": b"NaN", "text": b'"text"', "an empty object": b"{}", "an empty list": b"[]", "no JSON": b"id,question\n1,?",
    "a byte that is not UTF-8": b'{"id": "caf\xe9"}', "UTF-16": '{"id": 1}'.encode("utf-16"), "zero bytes": bytes(64),
    "two objects": b'{"id": 1}{"id": 2}', "a comma too many": b'[{"id": 1},]', "100,000 brackets": b"[" * 100_000,
    "100,000 objects": b'{"a":' * 100_000, "a number of 5,000 digits": b'{"id": ' + b"9" * 5_000 + b"}",
    "a list of one": b"[[]]", "half a string": b'{"id": "', "a bad escape": b'{"id": "\\x"}',
    "a control character": b'{"id": "\x01"}', "a key of half a character": b'{"\\ud83d\\u001b[2J": 1}',
    "the same key twice": b'{"id": 1, "id": 2}', "a mark and nothing": b"\xef\xbb\xbf", "gzip": b"\x1f\x8b\x08\x00",
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("set_name", LISTS)
def test_lists_that_are_none(root, set_name, suffix):
    path = root / set_name / f"train{suffix}"
    path.parent.mkdir()
    for name, content in FILES.items():
        path.write_bytes(content)
        assert refused(lambda: LISTS[set_name][2]().records(root, "train")), name
        assert checked(root)[0] == 2, name


OFFICIAL = {
    "audiocaps/train.csv": ((root_csv := "audiocap_id,youtube_id,start_time,caption\n"), AudioCaps),
    "wavcaps/json_files/FreeSound/fsd_final.json": ("", WavCaps),
    "avqa/avqa-train.json": ("", AVQA),
    "vqa/v2_OpenEnded_mscoco_train2014_questions.json": ("", VQA),
}


@pytest.mark.parametrize(("name", "begun"), [(name, begun) for name, (begun, _) in OFFICIAL.items()])
def test_official_files_that_are_none(root, name, begun):
    path = root / name
    path.parent.mkdir(parents=True)
    (root / "vqa").mkdir(exist_ok=True)
    (root / "vqa/v2_mscoco_train2014_annotations.json").write_text('{"annotations": []}')
    for content in FILES.values():
        path.write_bytes(begun.encode() + content)
        assert refused(lambda: OFFICIAL[name][1]().records(root, "train"))
        assert checked(root)[0] == 2


def test_official_tables_row_by_row(root):
    path = root / "audiocaps/train.csv"
    path.parent.mkdir()
    for value in VALUES.values():
        if isinstance(value, str):
            for row in (f"{value!r},v,30,c", f'1,"{value}",30,c', f'1,v,"{value}",c', f'1,v,30,"{value}"'):
                path.write_bytes((root_csv + row + "\n").encode("utf-8", "surrogatepass"))
                refused(lambda: AudioCaps().records(root, "train"))
                checked(root)


@pytest.mark.parametrize("kind", ["clips", "questions", "text"])
def test_packs(root, kind):
    entries, name, reader = {
        "clips": (CLIP, "manifest.json", PackClips),
        "questions": (PACKED, "val_manifest.json", PackQuestions),
        "text": ({"id": "t", "prompt": "What?", "answers": ["red"]}, "text.jsonl", PackText),
    }[kind]
    whole = HEADER | {"audio_rel_root": "a", "metadata_columns": ["caption"]}
    (root / "manifest.json").write_text(as_json(whole | {"entries": [CLIP]}))
    (root / "val_manifest.json").write_text(as_json(whole | {"entries": [PACKED]}))
    assert checked(root)[0] == 0
    disagreed = []
    for field in entries:
        for name_of_value, value in VALUES.items():
            if isinstance(value, int) and value > 10**9:
                continue
            entry = entries | {field: value}
            text = as_json(entry) if kind == "text" else as_json(whole | {"entries": [entry]})
            (root / name).write_text(text)
            if refused(lambda: reader().records(root, "")) != (checked(root)[0] == 2):
                disagreed.append((field, name_of_value))
    assert disagreed == []
    for content in FILES.values():
        (root / name).write_bytes(content)
        assert refused(lambda: reader().records(root, ""))
        assert checked(root)[0] == 2


def test_a_root_whose_name_is_not_utf_8(root):
    """Its name would go into files in UTF-8, at the end of a run."""
    odd = root.parent / "odd\udcff"
    root.rename(odd)
    try:
        (odd / "vqa").mkdir()
        (odd / "vqa/val.json").write_text(as_json([QUESTION]))
        with pytest.raises(InputError, match=r"got a name that is not UTF-8; rename the file or folder"):
            VQA().records(odd, "val")
        assert checked(odd)[0] == 2
    finally:
        odd.rename(root)


def test_a_frame_whose_name_is_not_utf_8(root):
    frames = root / "avqa/frames/v"
    frames.mkdir(parents=True)
    (root / "pictures/a.png").rename(frames / "a\udcff.png")
    entry = {"id": 1, "video_id": "v", "question": "?", "answer": "a", "audio": "sounds/a.wav"}
    (root / "avqa/train.json").write_text(as_json([entry]))
    with pytest.raises(InputError, match=r"expected the image of .*: entry 0, got a name that is not UTF-8"):
        AVQA().records(root, "train")
    assert checked(root)[0] == 2


def test_what_is_passed_can_be_kept(root):
    """Negative control of the sweep: half a character that no reader saw could not be written with the answers."""
    (root / "vqa").mkdir()
    (root / "vqa/val.json").write_text(as_json([QUESTION | {"question": "What\u2028is \U0001f600?"}]))
    from safe_train.data.example import Example

    rows = VQA().examples(root, "val")
    PredictionStore.create(root / "evaluation", {}, rows, [])
    with pytest.raises(UnicodeEncodeError):
        PredictionStore.create(root / "evaluation", {}, [Example("a", "\ud83d", ("a",))], [])
