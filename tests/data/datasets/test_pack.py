"""The pack reader on packs written by hand, as the format's definition shows them."""

import json
import logging
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from safe_train.data.datasets.pack import PackClips, PackQuestions
from safe_train.data.datasets.pack_manifest import SubsetManifest, ValManifest
from safe_train.data.datasets.records import AudioRecord, VQARecord
from safe_train.errors import InputError

TEN = ["3", "4", "3", "3", "three", "3", "2", "3", "3", "3"]
CLIPS = [
    ("276", "-668dhzzDQE", 30.0, "Car engine sound in car race", "audio/train/-668dhzzDQE.wav"),
    ("391", "-8tskHwTfcQ", 7.5, "Dried leaves rub", "audio/train/-8tskHwTfcQ.wav"),
    ("392", "-8tskHwTfcQ", 7.5, "Léaves", "audio/train/-8tskHwTfcQ.wav"),
    ("790", "-HyUH30KfyE", None, "A baby laughs", "audio/train/-HyUH30KfyE.wav"),
]
FIELDS = ("audiocap_id", "youtube_id", "start_time", "caption", "audio_relpath")
QUESTION = {
    "question_id": 387003,
    "image_id": 387,
    "image_filename": "COCO_val2014_000000000387.jpg",
    "question": "How many birds?",
    "answers": TEN,
    "majority_answer": "3",
}


def subset_manifest():
    return {
        "subset_name": "audiocaps_overfit_v1",
        "description": "AudioCaps train subset",
        "seed": 42,
        "source_dataset": "AudioCaps train split",
        "audio_rel_root": "audio/train",
        "metadata_columns": ["audiocap_id", "youtube_id", "start_time", "caption"],
        "entries": [dict(zip(FIELDS, clip, strict=True)) for clip in CLIPS],
    }


def val_manifest():
    other = QUESTION | {"question_id": 42000, "image_id": 42, "image_filename": "COCO_val2014_000000000042.jpg"}
    return {
        "subset_name": "vqa_val_overfit_v1",
        "description": "VQA v2 validation subset",
        "seed": 123,
        "source_dataset": "VQA v2 validation",
        "entries": [QUESTION, other],
    }


class Pack:
    """A pack on disk whose lists a test may change and write again."""

    def __init__(self, root):
        self.root = root
        self.clips, self.questions = subset_manifest(), val_manifest()
        for name in {clip[-1] for clip in CLIPS}:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"RIFF")
        for entry in self.questions["entries"]:
            (root / "images").mkdir(exist_ok=True)
            Image.new("RGB", (4, 4)).save(root / "images" / entry["image_filename"])
        self.write()

    def write(self):
        for name in ("manifest.json", "subset_manifest.json"):
            (self.root / name).write_text(json.dumps(self.clips, indent=2))
        (self.root / "captions.jsonl").write_text("\n".join(map(json.dumps, self.clips["entries"])))
        (self.root / "val_manifest.json").write_text(json.dumps(self.questions, indent=2))

    def error(self, reader):
        self.write()
        with pytest.raises(InputError) as caught:
            reader.records(self.root, "")
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def pack(tmp_path):
    (tmp_path / "pack").mkdir()
    return Pack(tmp_path / "pack")


def expected_clips(root):
    audio = root / "audio/train"
    return [
        AudioRecord("-668dhzzDQE_30", audio / "-668dhzzDQE.wav", ("Car engine sound in car race",), None, None),
        AudioRecord("-8tskHwTfcQ_7.5", audio / "-8tskHwTfcQ.wav", ("Dried leaves rub", "Léaves"), None, None),
        AudioRecord("-HyUH30KfyE", audio / "-HyUH30KfyE.wav", ("A baby laughs",), None, None),
    ]


def test_clips_are_read_and_captions_of_one_file_grouped(pack, caplog):
    assert PackClips().records(pack.root, "") == expected_clips(pack.root)
    assert not caplog.messages


def test_questions_are_read_with_all_answers(pack, caplog):
    image = pack.root / "images" / "COCO_val2014_000000000387.jpg"
    first, second = PackQuestions().records(pack.root, "")
    assert first == VQARecord(387003, 387, "How many birds?", tuple(TEN), image, "", "")
    assert second.image_id == 42
    assert not caplog.messages


@pytest.mark.parametrize("kept", ["manifest.json", "subset_manifest.json", "captions.jsonl"])
def test_one_list_of_clips_is_enough(pack, kept):
    for name in {"manifest.json", "subset_manifest.json", "captions.jsonl"} - {kept}:
        (pack.root / name).unlink()
    assert PackClips().records(pack.root, "") == expected_clips(pack.root)


def test_a_pack_survives_tar_and_moving(pack, tmp_path):
    with tarfile.open(tmp_path / "pack.tgz", "w:gz") as archive:
        archive.add(pack.root, "data_pack")
    shutil.rmtree(pack.root)
    with tarfile.open(tmp_path / "pack.tgz") as archive:
        archive.extractall(tmp_path / "elsewhere", filter="data")
    moved = tmp_path / "elsewhere" / "data_pack"
    assert PackClips().records(moved, "") == expected_clips(moved)
    assert all(question.image_path.is_relative_to(moved) for question in PackQuestions().records(moved, ""))


def test_the_reader_does_not_depend_on_the_current_folder(pack, monkeypatch):
    monkeypatch.chdir(pack.root.parent)
    assert len(PackClips().records(Path("pack"), "")) == 3
    assert len(PackQuestions().records(Path("pack"), "")) == 2


def test_missing_clips_are_counted_and_named(pack, caplog):
    (pack.root / CLIPS[1][-1]).unlink()
    examples, missing = PackClips().read(pack.root, "")
    assert [example.clip_id for example in examples] == ["-668dhzzDQE_30", "-HyUH30KfyE"]
    assert (missing.clip_ids, missing.num_listed) == (("-8tskHwTfcQ_7.5",), 3)
    caplog.set_level(logging.WARNING)
    PackClips().records(pack.root, "")
    (message,) = caplog.messages
    assert "1 of 3 clips have no audio file: -8tskHwTfcQ_7.5" in message


def test_missing_images_are_counted_and_named(pack, caplog):
    image = pack.root / "images" / "COCO_val2014_000000000042.jpg"
    image.unlink()
    examples, missing = PackQuestions().read(pack.root)
    assert ([example.question_id for example in examples], missing) == ([387003], [image])
    caplog.set_level(logging.WARNING)
    PackQuestions().records(pack.root, "")
    (message,) = caplog.messages
    assert "1 of 2 questions have no image: COCO_val2014_000000000042.jpg" in message


def test_a_pack_without_any_file_of_a_kind_is_an_error(pack):
    shutil.rmtree(pack.root / "audio")
    shutil.rmtree(pack.root / "images")
    assert "expected audio files for its clips, got none of 3" in pack.error(PackClips())
    assert "expected the images of its questions, got none" in pack.error(PackQuestions())


@pytest.mark.parametrize("path", ["../outside.wav", "/etc/outside.wav", "audio/../../outside.wav"])
def test_audio_paths_that_leave_the_pack_are_refused(pack, path):
    (pack.root.parent / "outside.wav").write_bytes(b"RIFF")
    pack.clips["entries"][1]["audio_relpath"] = path
    message = pack.error(PackClips())
    assert message.startswith(f"{pack.root / 'manifest.json'}: entry 1: ")
    assert f"{path!r}, which leaves it" in message


@pytest.mark.parametrize("path", ["../audio/train/-668dhzzDQE.wav", "/etc/outside.png", "../../outside.png"])
def test_image_names_that_leave_the_image_folder_are_refused(pack, path):
    pack.questions["entries"][1]["image_filename"] = path
    message = pack.error(PackQuestions())
    assert message.startswith(f"{pack.root / 'val_manifest.json'}: entries[1]: ")
    assert f"{path!r}, which leaves it" in message


def test_one_audio_file_for_two_clips(pack):
    pack.clips["entries"][2]["start_time"] = 60
    message = pack.error(PackClips())
    assert "entry 2: expected an audio file of -8tskHwTfcQ_60's own, got audio/train/-8tskHwTfcQ.wav" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audiocap_id": "276"}, "expected an id of its own, got 276 again"),
        ({"caption": ""}, "expected the field caption to be text"),
        ({"caption": None}, "expected the field caption, got the fields"),
        ({"youtube_id": None}, "expected the field youtube_id"),
        ({"audio_relpath": None}, "expected the field audio_relpath"),
        ({"start_time": -1}, "expected start_time in seconds, got -1"),
        ({"start_time": "30"}, "expected start_time in seconds, got '30'"),
        ({"start_time": float("nan")}, "expected start_time in seconds, got nan"),
        ({"start_time": 10**400}, "expected start_time in seconds, got 1000000"),
    ],
)
def test_bad_entries_of_clips(pack, change, message):
    pack.clips["entries"][1] |= change
    told = pack.error(PackClips())
    assert f"{pack.root / 'manifest.json'}: entries[1]: {message}" in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question_id": 387003}, "expected an id of its own, got 387003 again"),
        ({"image_id": 4.5}, "expected the field image_id to be text or a whole number"),
        ({"answers": []}, "expected the field answers to be text or a list of texts"),
        ({"question": None}, "expected the field question, got the fields"),
    ],
)
def test_bad_entries_of_questions(pack, change, message):
    pack.questions["entries"][1] |= change
    assert f"entries[1]: {message}" in pack.error(PackQuestions())


@pytest.mark.parametrize("entries", [[], {}, 3])
def test_a_list_without_entries(pack, entries):
    for name, reader in (("manifest.json", PackClips()), ("val_manifest.json", PackQuestions())):
        content = json.loads((pack.root / name).read_text())
        (pack.root / name).write_text(json.dumps(content | {"entries": entries}))
        with pytest.raises(InputError, match=f"{name}: expected entries to be a non-empty list, got "):
            reader.records(pack.root, "")


def test_no_pack_at_all(tmp_path):
    for reader in (PackClips(), PackQuestions()):
        with pytest.raises(InputError, match="expected the folder of a data pack, got no such folder"):
            reader.records(tmp_path / "none", "")
    with pytest.raises(InputError, match=r"expected a data pack with manifest.json or subset_manifest.json"):
        PackClips().records(tmp_path, "")


def test_what_is_read_is_written_the_same(pack):
    assert json.loads(json.dumps(SubsetManifest.read(pack.root / "manifest.json").to_dict())) == pack.clips
    assert json.loads(json.dumps(ValManifest.read(pack.root / "val_manifest.json").to_dict())) == pack.questions
