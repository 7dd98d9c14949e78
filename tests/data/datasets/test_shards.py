"""Shards give the examples that the same data give as files, media to the last bit; what does not fit is one line."""

import json

import pytest

from safe_train.data.datasets.audiocaps import AudioCaps
from safe_train.data.datasets.avqa import AVQA
from safe_train.data.datasets.manifest import find_manifest
from safe_train.data.datasets.vqa import VQA
from safe_train.data.datasets.wavcaps import WavCaps
from safe_train.data.validation.check import check_root
from safe_train.errors import InputError
from tests.data.shards import as_shards, assert_same_examples, write_shard

WAV = b"a clip that no test here listens to"


@pytest.fixture(scope="module")
def shards(small_data, tmp_path_factory):
    return as_shards(small_data, tmp_path_factory.mktemp("shards"))


@pytest.mark.parametrize("reader", [AudioCaps(), VQA()], ids=lambda reader: reader.name)
@pytest.mark.parametrize("split", ["train", "val"])
def test_they_give_the_same_examples(small_data, shards, reader, split):
    plain = reader.examples(small_data, split, default_question="what?")
    packed = reader.examples(shards, split, default_question="what?")
    assert len(list((shards / reader.name).glob(f"{split}-*.tar"))) > 1
    assert_same_examples(packed, plain)


def test_the_check_reads_them(small_data, shards):
    plain, packed = (
        {(report.name, report.split): report for report in check_root(root)} for root in (small_data, shards)
    )
    assert plain.keys() == packed.keys()
    for key, report in packed.items():
        assert not report.defects
        for name in ("entries", "questions", "documents", "clips", "durations", "answers"):
            assert getattr(report, name) == getattr(plain[key], name), (key, name)


@pytest.mark.parametrize(
    "names",
    [
        ["train.tar"],
        ["audiocaps_train.tar"],
        ["train-000000.tar"],
        ["data/train-00000-of-00002.tar", "data/train-00001-of-00002.tar"],
        ["shards/train-0.tar", "shards/train-2.tar", "shards/train-10.tar"],  # by number, not by letter
    ],
    ids=lambda names: names[0],
)
def test_shards_are_found_by_their_names_in_the_order_of_their_numbers(tmp_path, names):
    folder = tmp_path / "audiocaps"
    for place, name in reversed(list(enumerate(names))):
        write_shard(folder / name, [(f"{place}.wav", WAV), (f"{place}.txt", b"a bell")])
    write_shard(folder / "training-0.tar", [("x.wav", WAV), ("x.txt", b"of another split")])
    records, _ = AudioCaps().read(tmp_path, "train")
    assert [str(record.audio_path.container.relative_to(folder)) for record in records] == names


def test_a_list_is_preferred(tmp_path):
    write_shard(tmp_path / "audiocaps" / "train.tar", [("1.wav", WAV), ("1.txt", b"a bell")])
    (tmp_path / "audiocaps" / "train.json").write_text("[]")
    assert find_manifest(tmp_path / "audiocaps", "audiocaps", "train").name == "train.json"


def test_keys_end_at_the_first_dot_and_other_files_are_left_out(tmp_path):
    files = [
        ("a.b/0001.mix.wav", WAV), ("a.b/0001.json", b'{"caption": "a bell"}'), ("a.b/0001.cls", b"3"),
        ("a.b/0002.flac", WAV), ("a.b/0002.txt", "ein Glöckchen".encode()),
    ]  # fmt: skip
    write_shard(tmp_path / "wavcaps" / "train.tar", files)
    records, missing = WavCaps().read(tmp_path, "train")
    assert [(r.clip_id, r.captions) for r in records] == [
        ("a.b/0001", ("a bell",)), ("a.b/0002", ("ein Glöckchen",)),
    ]  # fmt: skip
    assert missing.num_listed == 2


def test_clips_with_images_and_questions(tmp_path):
    entry = {"question": "which way?", "answers": ["left"], "id": 7}
    png = (b"\x89PNG\r\n\x1a\n").ljust(64, b"\0")
    files = [("1.jpg", png), ("1.mp3", WAV), ("1.json", json.dumps(entry).encode())]
    write_shard(tmp_path / "avqa" / "val-000.tar", files)
    ((record,), _) = AVQA().read(tmp_path, "val")
    assert (record.question, record.captions) == ("which way?", ("left",))
    assert record.clip_id == "avqa/val-000.tar/1.mp3"
    assert (record.audio_path.read_bytes(), record.image_path.read_bytes()) == (WAV, png)


CLIP, CAPTION = ("1.wav", WAV), ("1.txt", b"a bell")


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ([CLIP, ("1.left.flac", WAV)], r"1: expected one file of audio in a sample, got 1\.wav and 1\.left\.flac"),
        ([CLIP, ("1.json", b"[]")], r"train\.tar: 1: 1\.json: expected a JSON object, got list"),
        ([CLIP, ("1.json", b"{")], r"train\.tar: 1: 1\.json: expected JSON, got"),
        ([CLIP, ("1.txt", b"\xff")], r"train\.tar: 1: 1\.txt: expected UTF-8 text, got bytes that are not at 0"),
        ([CLIP], r"train\.tar: 1: expected the field answers or answer or caption"),
        ([CAPTION], "expected audio files for its clips, got none of 1, first 1"),
        ([CLIP, CAPTION, ("2.txt", b"x"), CLIP, CAPTION], "expected an id of its own, got 1 again"),
        ([], r"train\.tar: expected at least one entry, got none"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, files, line):
    write_shard(tmp_path / "audiocaps" / "train.tar", files)
    with pytest.raises(InputError, match=line):
        AudioCaps().records(tmp_path, "train")


def test_a_shard_that_is_missing_by_its_name_is_told(tmp_path):
    for number in (0, 2):
        write_shard(tmp_path / "vqa" / f"val-0000{number}-of-00003.tar", [(f"{number}.jpg", b"")])
    with pytest.raises(InputError, match=r"expected 3 files, as its name says, got none with number 1; fetch it"):
        VQA().records(tmp_path, "val")
