"""The check of data folders: what a sound one counts, and that every kind of damage is found, counted and named."""

import csv
import json
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from PIL import Image

from safe_train.cli import safe
from safe_train.data.datasets.issues import IssueKind
from safe_train.data.datasets.text import Text
from safe_train.data.datasets.vqa import VQA
from safe_train.data.validation.check import check_audio, check_root
from safe_train.embedded.dataset import DatasetSizes, write_dataset
from safe_train.errors import InputError

RATE = 8_000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)


def write_audio(path, seconds=1.0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, NOISE[: round(seconds * RATE)], RATE, **options)


def write_list(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(entries, ensure_ascii=False)
    halves = (
        f"\\u{ord(c):04x}" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text
    )  # which no file can hold as they are
    path.write_text("".join(halves))


@pytest.fixture
def root(tmp_path):
    """All four sets as manifests, sound, with names in several scripts."""
    for name, seconds in (("dog", 1.0), ("дождь", 2.0), ("犬", 4.0)):
        write_audio(tmp_path / f"sounds/{name}.wav", seconds)
    write_audio(tmp_path / "sounds/bell.mp3", 1.0)
    (tmp_path / "pictures").mkdir()
    for name in ("a", "ü"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"pictures/{name}.png")
    write_list(
        tmp_path / "audiocaps/train.json",
        [
            {"id": 1, "captions": ["a dog", "a hound"], "audio": "sounds/dog.wav"},
            {"id": 2, "caption": "дождь идёт", "audio": "sounds/дождь.wav"},
            {"id": 3, "caption": "犬が吠える", "audio": "sounds/犬.wav"},
        ],
    )
    write_list(
        tmp_path / "wavcaps/train.json",
        [{"id": "x", "caption": "bell", "audio": "sounds/bell.mp3", "subset": "FreeSound"}],
    )
    write_list(
        tmp_path / "avqa/val.json",
        [{"id": 1, "question": "What?", "answer": "Dog", "audio": "sounds/dog.wav", "image": "pictures/a.png"}],
    )
    write_list(
        tmp_path / "vqa/val.json",
        [
            {"id": 1, "question": "Dog?", "answers": ["yes"] * 7 + ["Yes", "no", "no"], "image": "pictures/a.png"},
            {"id": 2, "question": "Color?", "answers": ["red"], "image": "pictures/ü.png"},
        ],
    )
    return tmp_path


def reports(root, **options):
    return {report.name: report for report in check_root(root, **options)}


def defects(report):
    return {defect.words: (defect.count, *defect.first) for defect in report.defects}


def change(path, index, **fields):
    entries = json.loads(path.read_text())
    entries[index] |= fields
    write_list(path, entries)


def run(*arguments):
    result = CliRunner().invoke(safe, ["data", "check", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


# --- what is sound


def test_what_a_sound_folder_counts(root):
    found = reports(root)
    assert [(name, report.split) for name, report in found.items()] == [
        ("audiocaps", "train"), ("wavcaps", "train"), ("avqa", "val"), ("vqa", "val"),
    ]  # fmt: skip
    assert all(report.defects == () for report in found.values())
    captions, questions = found["audiocaps"], found["vqa"]
    assert (captions.entries, captions.questions, captions.clips, captions.images) == (3, 0, 3, 0)
    lengths = captions.durations
    assert (lengths.shortest, lengths.median, lengths.longest, lengths.total) == (1.0, 2.0, 4.0, 7.0)
    assert (captions.answers.fewest, captions.answers.most, captions.answers.mean) == (1, 2, pytest.approx(4 / 3))
    assert (questions.entries, questions.questions, questions.clips, questions.images) == (2, 2, 0, 2)
    assert questions.durations is None
    assert (questions.answers.fewest, questions.answers.most, questions.answers.mean) == (1, 10, 5.5)
    assert questions.answers.distinct == 3
    assert questions.answers.common == {"yes": 8, "no": 2, "red": 1}


def test_the_report_and_its_exit_code(root):
    code, printed, errors = run(root)
    assert (code, errors) == (0, "")
    assert printed.startswith(
        "audiocaps train: 3 captioned clips, 3 audio files\n"
        "  length: 1.00 s to 4.00 s, median 2.00 s, 0.00 h in all\n"
        "  captions a clip: 1 to 2, mean 1.3\n"
        "  no defects\n"
    )
    assert (
        "vqa val: 2 questions, 2 images\n  answers a question: 1 to 10, mean 5.5; 3 different, most often 'yes' 8"
        in printed
    )


def test_official_files_and_every_file_opened(tmp_path):
    sizes = DatasetSizes(
        train_questions=12, val_questions=8, train_clips=4, val_clips=4,
        train_text=6, val_text=5, train_documents=2, val_documents=3,
    )  # fmt: skip
    write_dataset(tmp_path, sizes)
    found = list(check_root(tmp_path))
    assert [(r.name, r.split, r.entries, r.defects) for r in found] == [
        ("audiocaps", "train", 4, ()), ("audiocaps", "val", 4, ()), ("vqa", "train", 12, ()), ("vqa", "val", 8, ()),
        ("text", "train", 8, ()), ("text", "val", 8, ()),
    ]  # fmt: skip
    clip = next((tmp_path / "audiocaps/audio/val").iterdir())
    clip.write_bytes(clip.read_bytes()[:500])
    image = next((tmp_path / "vqa/val2014").iterdir())
    image.write_bytes(b"no image")
    found = {(r.name, r.split): defects(r) for r in check_root(tmp_path)}
    assert found["audiocaps", "val"] == {"audio that ends early": (1, str(clip.relative_to(tmp_path)))}
    assert found["vqa", "val"] == {"image that cannot be read": (1, str(image.relative_to(tmp_path)))}


# --- what is damaged


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def set_bytes(path, start, content):
    data = bytearray(path.read_bytes())
    data[start : start + len(content)] = content
    path.write_bytes(data)


def zero_rate_flac(path):
    """STREAMINFO's sample rate is the 20 bits from byte 18 on (RFC 9639, section 8.2)."""
    write_audio(path, format="FLAC")
    rate_and_more = path.read_bytes()[18:21]
    assert int.from_bytes(rate_and_more) >> 4 == RATE
    set_bytes(path, 18, bytes([0, 0, rate_and_more[2] & 0x0F]))


DAMAGE = {
    "missing": (lambda path: path.unlink(), IssueKind.MISSING_AUDIO),
    "no bytes": (lambda path: path.write_bytes(b""), IssueKind.EMPTY_AUDIO),
    "no samples": (lambda path: write_audio(path, 0.0), IssueKind.EMPTY_AUDIO),
    "0 Hz": (lambda path: set_bytes(path, 24, struct.pack("<I", 0)), IssueKind.ZERO_RATE),
    "short": (lambda path: write_audio(path, 0.02), IssueKind.SHORT_AUDIO),
    "39 Hz": (lambda path: set_bytes(path, 24, struct.pack("<I", 39)), IssueKind.LOW_RATE),
    "truncated": (cut, IssueKind.TRUNCATED_AUDIO),
    "text": (lambda path: path.write_text("no audio"), IssueKind.UNREADABLE_AUDIO),
    "NaN": (
        lambda path: soundfile.write(path, np.full(80, np.nan, np.float32), RATE, subtype="FLOAT"),
        IssueKind.UNREADABLE_AUDIO,
    ),
    "FLAC": (lambda path: write_audio(path, format="FLAC"), IssueKind.MISLABELED_AUDIO),
}


@pytest.mark.parametrize(("damage", "kind"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_audio(root, damage, kind):
    path = root / "sounds/犬.wav"
    damage(path)
    found = reports(root)
    name = "3" if kind is IssueKind.MISSING_AUDIO else "sounds/犬.wav"
    assert defects(found["audiocaps"]) == {kind.value: (1, name)}
    assert all(report.defects == () for name, report in found.items() if name != "audiocaps")
    assert found["audiocaps"].clips == (3 if kind is IssueKind.MISLABELED_AUDIO else 2)


def test_a_flac_header_of_zero_hertz(tmp_path):
    zero_rate_flac(tmp_path / "a.flac")
    assert check_audio(tmp_path / "a.flac")[1].kind is IssueKind.ZERO_RATE


def test_a_truncated_file_is_found_by_decoding_it(root):
    """Negative control: its header alone, which a quick check reads, is sound."""
    path = root / "sounds/犬.wav"
    cut(path)
    assert soundfile.info(path).samplerate == RATE
    assert check_audio(path)[1].kind is IssueKind.TRUNCATED_AUDIO


def test_damaged_and_missing_images(root):
    (root / "pictures/ü.png").unlink()
    cut(root / "pictures/a.png")
    found = reports(root)
    unreadable = {"image that cannot be read": (1, "pictures/a.png")}
    assert defects(found["vqa"]) == unreadable | {"image file that is missing": (1, "pictures/ü.png")}
    assert defects(found["avqa"]) == unreadable
    assert found["vqa"].images == 0


ENTRY_DAMAGE = {
    "duplicate": ({"id": 1}, "id that stands twice", "1"),
    "no id": ({"id": None}, "entry with a field that is missing or malformed", "vqa/val.json: entry 1"),
    "no question": ({"question": " "}, "entry with a field that is missing or malformed", "vqa/val.json: entry 1"),
    "no image": ({"image": None}, "entry with a field that is missing or malformed", "vqa/val.json: entry 1"),
    "no answers": ({"answers": None}, "answers that are missing or empty", "vqa/val.json: entry 1"),
    "empty answers": ({"answers": []}, "answers that are missing or empty", "vqa/val.json: entry 1"),
    "blank answer": ({"answers": ["red", ""]}, "answers that are missing or empty", "vqa/val.json: entry 1"),
    "outside": ({"image": "../a.png"}, "path that leaves the root", "vqa/val.json: entry 1"),
    "absolute": ({"image": "/etc/passwd"}, "path that leaves the root", "vqa/val.json: entry 1"),
    "a data URI": (
        {"image": "data:image/png;base64,iVBORw0KGgo"},
        "entry with a field that is missing or malformed",
        "vqa/val.json: entry 1",
    ),
    "token": ({"question": "Is <image> red?"}, "question or text with the literal <image>", "vqa/val.json: entry 1"),
}


@pytest.mark.parametrize(("fields", "words", "name"), ENTRY_DAMAGE.values(), ids=ENTRY_DAMAGE)
def test_damaged_entries(root, fields, words, name):
    change(root / "vqa/val.json", 1, **fields)
    assert defects(reports(root)["vqa"]) == {words: (1, name)}


@pytest.mark.parametrize(("set_name", "split"), [("audiocaps", "train"), ("wavcaps", "train"), ("avqa", "val")])
@pytest.mark.parametrize("damage", ["duplicate", "answers", "outside"])
def test_damaged_entries_of_the_other_sets(root, set_name, split, damage):
    path = root / set_name / f"{split}.json"
    (first, *rest) = json.loads(path.read_text())
    first = {name: value for name, value in first.items() if name != "captions"} | {"answer": "x"}
    changes = {"duplicate": {}, "answers": {"answer": ""}, "outside": {"audio": "../../x.wav"}}[damage]
    again = first | ({} if damage == "duplicate" else {"id": "new"}) | changes
    write_list(path, [first, again, *rest])
    words = {
        "duplicate": "id that stands twice",
        "answers": "answers that are missing or empty",
        "outside": "path that leaves the root",
    }
    assert list(defects(reports(root)[set_name])) == [words[damage]]


def test_captions_of_one_youtube_clip_are_no_duplicates(root):
    entries = [
        {"ytid": "v", "start_time": 3, "caption": text, "audio": "sounds/dog.wav"} for text in ("a dog", "a hound")
    ]
    write_list(root / "audiocaps/train.json", [*entries, {"id": 1, "caption": "", "audio": "sounds/dog.wav"}])
    assert list(defects(reports(root)["audiocaps"])) == ["answers that are missing or empty"]


def test_many_defects_are_counted_and_the_first_are_named(root):
    entries = [{"id": number, "question": "?", "answers": [], "image": "pictures/a.png"} for number in range(40)]
    write_list(root / "vqa/val.json", entries)
    (defect,) = reports(root)["vqa"].defects
    assert (defect.kind, defect.count, len(defect.first)) == ("answers", 40, 5)
    assert run(root, "--set", "vqa")[1].rstrip().endswith("and 35 more")


def test_a_file_of_many_entries_is_opened_and_named_once(root):
    entry = {"question": "?", "answers": ["x"], "image": "pictures/a.png"}
    write_list(root / "vqa/val.json", [entry | {"id": number} for number in range(9)])
    report = reports(root)["vqa"]
    assert (report.entries, report.images) == (9, 1)
    cut(root / "pictures/a.png")
    assert defects(reports(root)["vqa"]) == {"image that cannot be read": (1, "pictures/a.png")}


@pytest.mark.parametrize(
    ("content", "detail"),
    [("[{", "expected JSON"), ("[]", "at least one entry"), ("3", "JSON list"), ("[3]", "a JSON object")],
)
def test_lists_that_cannot_be_read(root, content, detail):
    (root / "vqa/val.json").write_text(content)
    (defect,) = reports(root)["vqa"].defects
    assert (defect.kind, defect.count) == ("list", 1)
    assert detail in next(iter(defect.first.values()))


def test_what_only_the_reader_sees_is_told_too(root):
    change(root / "vqa/val.json", 1, image_id=2)
    (defect,) = reports(root)["vqa"].defects
    (detail,) = defect.first.values()
    assert detail.startswith("expected the field image_id, got the fields id, question, answers, image")


def test_damaged_official_tables(tmp_path):
    write_dataset(tmp_path, DatasetSizes(train_questions=4, val_questions=4, train_clips=4, val_clips=4))
    table = tmp_path / "audiocaps/train.csv"
    with table.open(newline="") as file:
        lines = list(csv.reader(file))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([*lines, lines[1]])
    (tmp_path / "vqa/v2_mscoco_val2014_annotations.json").unlink()
    found = {(r.name, r.split): r for r in check_root(tmp_path)}
    assert {key: [defect.kind for defect in report.defects] for key, report in found.items()} == {
        ("audiocaps", "train"): ["list"], ("audiocaps", "val"): [], ("vqa", "train"): [], ("vqa", "val"): ["list"],
        ("text", "train"): [], ("text", "val"): [],
    }  # fmt: skip
    assert "an audiocap_id of its own" in str(found["audiocaps", "train"])


# --- packs


@pytest.fixture
def pack(tmp_path):
    clip = {
        "audiocap_id": "1",
        "youtube_id": "v",
        "start_time": 30.0,
        "caption": "a dog",
        "audio_relpath": "audio/train/v.wav",
    }
    header = {"subset_name": "s", "description": "d", "seed": 1, "source_dataset": "x"}
    clips = header | {"audio_rel_root": "audio/train", "metadata_columns": ["caption"], "entries": [clip]}
    write_list(tmp_path / "manifest.json", clips)
    question = {"question_id": 1, "image_id": 1, "image_filename": "a.png", "question": "?", "answers": ["no"] * 10}
    write_list(tmp_path / "val_manifest.json", header | {"entries": [question | {"majority_answer": "no"}]})
    write_audio(tmp_path / "audio/train/v.wav")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images/a.png")
    return tmp_path


def test_a_sound_pack(pack):
    (report,) = check_root(pack)
    assert (report.name, report.split, report.clips, report.images, report.defects) == ("pack", "", 1, 1, ())
    assert run(pack, "--split", "train")[0] == 0


def test_a_damaged_pack(pack):
    (pack / "images/a.png").unlink()
    cut(pack / "audio/train/v.wav")
    (report,) = check_root(pack)
    assert defects(report) == {
        "audio that ends early": (1, "audio/train/v.wav"),
        "image file that is missing": (1, "images/a.png"),
    }
    (pack / "audio/train/v.wav").unlink()
    (pack / "val_manifest.json").write_text("{}")
    (report,) = check_root(pack)
    assert [defect.kind for defect in report.defects] == ["list", "missing-audio"]


# --- the command


def test_defects_end_the_command_with_one_line_and_exit_code_2(root):
    change(root / "vqa/val.json", 1, answers=[])
    cut(root / "sounds/犬.wav")
    code, printed, errors = run(root)
    assert code == 2
    told = "expected data without defects, got 2 defects of 2 kinds; mend or remove what the report names"
    assert errors == f"error: {root}: {told}\n"
    assert "  1 x audio that ends early: sounds/犬.wav (" in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--set", "vqa", "--set", "wavcaps"], ["wavcaps train", "vqa val"]),
        (["--split", "val"], ["avqa val", "vqa val"]),
        (["--set", "vqa", "--split", "val"], ["vqa val"]),
    ],
)
def test_sets_and_splits(root, arguments, expected):
    lines = run(root, *arguments)[1].splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == expected


def test_a_relative_root_shows_the_same_names(root, monkeypatch):
    cut(root / "sounds/犬.wav")
    monkeypatch.chdir(root)
    assert "early: sounds/犬.wav (" in run(".")[1]


def test_a_set_without_lists(root):
    (root / "vqa/val.json").unlink()
    code, printed, _ = run(root)
    assert code == 2
    assert (
        "vqa: nothing that could be read\n  1 x list that cannot be read: vqa (no list of train, val, test)" in printed
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "audiocap"],
            "--set: expected one of audiocaps, wavcaps, avqa, vqa, text, pack, got 'audiocap'; "
            "did you mean 'audiocaps'?",
        ),
        (["--set", "text"], "expected the data set text, got audiocaps, wavcaps, avqa, vqa"),
        (["--set", "pack"], "expected the data set pack"),
        (["--split", "dev"], "expected a list of the split dev, got none in audiocaps, wavcaps, avqa, vqa"),
        (["--set", "vqa", "--split", "train"], "expected a list of the split train, got none in vqa"),
    ],
)
def test_what_is_not_there(root, arguments, message):
    code, printed, errors = run(root, *arguments)
    assert (code, printed) == (2, "")
    assert message in errors
    assert errors.count("\n") == 1


def test_no_data_at_all(tmp_path):
    with pytest.raises(InputError, match="expected a data root or a data pack, got no such folder"):
        check_root(tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=r"expected a data root with audiocaps/ or wavcaps/ .* or a data pack, got neither"
    ):
        check_root(tmp_path)


def test_the_report_as_json(root, tmp_path):
    cut(root / "sounds/犬.wav")
    path = tmp_path / "out" / "report.json"
    assert run(root, "--json", path)[0] == 2
    content = json.loads(path.read_text())
    assert (content["root"], content["defects"], len(content["sets"])) == (str(root), 1, 4)
    (defect,) = content["sets"][0]["defects"]
    assert defect["kind"] == "truncated-audio"
    assert list(defect["first"]) == ["sounds/犬.wav"]
    (root / "file").touch()
    code, _, errors = run(root, "--json", root / "file" / "report.json")
    assert code == 2
    assert "expected a file that can be written" in errors


def peak_bytes(root):
    tracemalloc.start()
    for report in check_root(root):
        assert report.defects == ()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path):
    """A second of audio is 0.35 MB in memory; ten clips of five seconds would be 18 MB."""
    peaks = []
    for count in (2, 10):
        root = tmp_path / str(count)
        for number in range(count):
            path = root / f"audiocaps/{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.tile(NOISE, 14), 88_200)
        entries = [{"id": number, "caption": "noise", "audio": f"{number}.wav"} for number in range(count)]
        write_list(root / "audiocaps/train.json", entries)
        peak_bytes(root)  # what is loaded once is loaded now
        peaks.append(peak_bytes(root))
    clip = NOISE.nbytes * 14
    assert peaks[1] < peaks[0] + clip / 2
    # Negative control: clips that are kept show.
    tracemalloc.start()
    kept = [soundfile.read(path, dtype="float32")[0] for path in (tmp_path / "10/audiocaps").glob("*.wav")]
    assert tracemalloc.get_traced_memory()[1] > peaks[0] + clip / 2
    tracemalloc.stop()
    assert len(kept) == 10


def test_the_data_are_left_as_they_are(root):
    cut(root / "sounds/犬.wav")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    run(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


# --- text-only rows


QUESTION = {"id": "q", "prompt": "2 + 2?", "answers": ["4", "four"]}


@pytest.fixture
def text_root(tmp_path):
    (tmp_path / "text").mkdir()
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    write_list(tmp_path / "text/train.json", [QUESTION, {"messages": chat}, {"id": "d", "text": "a document " * 500}])
    return tmp_path


def test_text_only_rows_are_counted(text_root):
    """A document is one entry however many pieces it is read in; its text is no answer."""
    (report,) = check_root(text_root)
    assert (report.name, report.split, report.defects) == ("text", "train", ())
    assert (report.entries, report.questions, report.documents, report.clips, report.images) == (3, 2, 1, 0, 0)
    assert (report.answers.fewest, report.answers.most, report.answers.mean) == (1, 2, 1.5)
    code, printed, _ = run(text_root, "--set", "text")
    assert code == 0
    assert "text train: 2 questions, 1 document\n" in printed
    assert "captioned" not in printed


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"id": "x", "prompt": " ", "answer": "a"}, "entry with a field that is missing or malformed"),
        ({"id": "x", "answer": "a"}, "entry with a field that is missing or malformed"),
        ({"id": "x", "text": ""}, "entry with a field that is missing or malformed"),
        ({"id": "x", "prompt": "?", "answer": "a", "type": 3}, "entry with a field that is missing or malformed"),
        ({"id": "x", "messages": []}, "entry with a field that is missing or malformed"),
        ({"id": "x", "prompt": "?"}, "answers that are missing or empty"),
        ({"id": "x", "prompt": "?", "answers": ["a", ""]}, "answers that are missing or empty"),
        ({"id": "q", "prompt": "?", "answer": "a"}, "id that stands twice"),
        ({"id": "x", "prompt": "cut \ud83d", "answer": "a"}, "text with half a character (a lone surrogate)"),
        ({"id": "x", "prompt": "?", "answer": "\ud83d"}, "text with half a character (a lone surrogate)"),
        ({"id": "x", "text": "\udc00"}, "text with half a character (a lone surrogate)"),
        ({"id": "x", "prompt": "an <image>?", "answer": "a"}, "question or text with the literal <image>"),
        ({"id": "x", "prompt": "?", "answer": "an <image>"}, "question or text with the literal <image>"),
        ({"id": "x", "text": "long " * 900 + "<image>" + " long" * 900}, "question or text with the literal <image>"),
    ],
)
def test_each_defect_of_text_only_rows_is_told_and_is_the_only_one(text_root, entry, words):
    write_list(text_root / "text/val.json", [QUESTION, entry, {"text": "sound"}])
    reports_of = list(check_root(text_root))
    assert [report.split for report in reports_of] == ["train", "val"]
    found = {defect.words: defect.count for defect in reports_of[1].defects}
    assert found == {words: 1}
    assert run(text_root)[0] == 2


def test_an_entry_without_an_id_has_its_place_for_one_as_the_reader_has_it(text_root):
    """The second entry, which is nameless, meets one that is called 2."""
    write_list(text_root / "text/val.json", [QUESTION | {"id": "2"}, {"text": "sound"}])
    (found,) = next(check_root(text_root, splits=["val"])).defects
    assert found.words == "id that stands twice"
    with pytest.raises(InputError, match="2"):
        Text().records(text_root, "val")
    write_list(text_root / "text/val.json", [QUESTION | {"id": "3"}, {"text": "sound"}])
    assert not next(check_root(text_root, splits=["val"])).defects
    assert [example.text_id for example in Text().records(text_root, "val")] == ["3", "2"]


def test_all_defects_of_a_list_are_told_and_not_the_first_alone(text_root):
    bad = [{"prompt": "?"}, {"answer": "a"}, {"prompt": "\ud83d", "answer": "a"}, QUESTION, QUESTION]
    write_list(text_root / "text/val.json", bad)
    found = next(check_root(text_root, splits=["val"]))
    assert sum(defect.count for defect in found.defects) == 4


def test_a_piece_with_the_name_of_an_entry_is_a_defect_of_the_list(text_root):
    write_list(text_root / "text/val.json", [{"id": "d", "text": "a " * 2_000}, {"id": "d#2", "text": "b"}])
    (found,) = check_root(text_root, splits=["val"])
    assert [defect.words for defect in found.defects] == ["list that cannot be read"]


def test_text_of_a_pack(text_root):
    pack = text_root / "pack"
    (pack / "audio").mkdir(parents=True)
    write_audio(pack / "audio/a.wav")
    clip = {"audiocap_id": "1", "youtube_id": "y", "start_time": 0, "caption": "c", "audio_relpath": "audio/a.wav"}
    (pack / "captions.jsonl").write_text(json.dumps(clip))
    (pack / "text.jsonl").write_text(json.dumps(QUESTION) + "\n" + json.dumps({"text": "a document"}))
    (report,) = check_root(pack)
    assert (report.name, report.questions, report.documents, report.clips) == ("pack", 1, 1, 1)
    assert report.defects == ()
    (pack / "text.jsonl").write_text(json.dumps({"prompt": "?"}))
    (report,) = check_root(pack)
    assert [defect.words for defect in report.defects] == ["answers that are missing or empty"]
    (pack / "text.jsonl").write_text("{")
    (report,) = check_root(pack)
    assert [defect.words for defect in report.defects] == ["list that cannot be read"]


@pytest.mark.parametrize("field", ["question", "answers"])
def test_half_a_character_is_a_defect_of_any_set(root, field):
    change(root / "vqa/val.json", 1, **{field: "cut \ud83d"})
    assert list(defects(reports(root)["vqa"])) == ["text with half a character (a lone surrogate)"]
    with pytest.raises(InputError, match=r"the lone surrogate U\+D83D"):
        VQA().records(root, "val")
