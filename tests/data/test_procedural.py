"""Which files are taken for the program's own, and which are not."""

import shutil

import pytest

from safe_train.data.procedural import are_made_clips, are_made_images, is_made_root
from safe_train.embedded.dataset import DatasetSizes, write_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine") / "data"
    write_dataset(folder, DatasetSizes(2, 2, 2, 2, 2, 2, 2, 2))
    return folder


@pytest.mark.parametrize("kept", ["vqa", "audiocaps"])
def test_a_root_that_the_program_wrote_is_recognized_by_each_part_alone(root, tmp_path, kept):
    shutil.copytree(root / kept, tmp_path / kept)
    assert is_made_root(tmp_path)


def test_text_alone_does_not_tell(root, tmp_path):
    shutil.copytree(root / "text", tmp_path / "text")
    assert not is_made_root(tmp_path)
    assert not is_made_root(tmp_path / "none")


def test_questions_that_are_not_text_are_not_made_ones(root, tmp_path):
    """The reader tells what is wrong with them; this only looks."""
    shutil.copytree(root / "vqa", tmp_path / "other/vqa")
    for path in (tmp_path / "other/vqa").glob("*questions.json"):
        path.write_bytes(b'{"info": "caf\xe9", "questions": []}')
    assert not is_made_root(tmp_path / "other")


def test_real_names_are_not_taken_for_made_ones(root, tmp_path):
    """Questions of the same format with another type, clips with one other name among them."""
    shutil.copytree(root, tmp_path / "real")
    for path in (tmp_path / "real/vqa").glob("*questions.json"):
        path.write_text(path.read_text().replace('"procedural"', '"mscoco"'))
    assert is_made_root(tmp_path / "real")  # by its clips
    clips = sorted((tmp_path / "real/audiocaps/audio").glob("*/*.wav"))
    assert are_made_clips(clips)
    clips[-1].rename(clips[-1].with_name("Yb0RFKhbpFJA.wav"))
    assert not is_made_root(tmp_path / "real")
    images = sorted((tmp_path / "real/vqa").glob("*/*.png"))
    assert images
    assert not are_made_images(images)
    assert are_made_images(sorted((root / "vqa").glob("*/*.png")))
    assert not are_made_clips([])


def test_the_folder_of_the_cache_is_recognized_by_its_name(tmp_path):
    folder = tmp_path / "embedded-data-0e17a06b50c0"
    assert is_made_root(folder)
    assert are_made_clips([folder / "audiocaps/audio/val/x.wav"])
    assert not is_made_root(tmp_path / "my-embedded-data-0e17a06b50c0")
