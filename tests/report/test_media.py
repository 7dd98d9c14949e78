"""Images and clips of examples: embedded as they are, or named with the reason."""

import base64
from io import BytesIO

import numpy as np
import pytest
import soundfile
from PIL import Image

from safe_train.io.fingerprints import file_sha256
from safe_train.report.media import LARGEST_CLIP, LARGEST_SIDE, Clip, clip, picture


@pytest.mark.parametrize("words", ["silence", "white noise -20 dB, seed 3"])
def test_what_is_no_file_has_no_player(words):
    assert clip(words, {}) == Clip(words)


def test_a_clip_is_embedded_as_it_is_in_its_file(tmp_path):
    path = tmp_path / "a bell.wav"
    soundfile.write(path, np.zeros(800), 16_000)
    loud = clip(f"{path} +20 dB", {str(path): file_sha256(path)})
    assert loud.words == "a bell.wav, heard at +20 dB"
    assert loud.uri is not None
    assert base64.b64decode(loud.uri.removeprefix("data:audio/wav;base64,")) == path.read_bytes()


def test_a_clip_that_cannot_be_embedded_is_named(tmp_path):
    large, odd = tmp_path / "large.wav", tmp_path / "odd.aiff"
    large.write_bytes(bytes(LARGEST_CLIP + 1))
    odd.write_bytes(b"x")
    for path, problem in (
        (large, "1.0 MB, too large to be embedded"),
        (odd, ".aiff is not played by browsers"),
        (tmp_path / "gone.wav", "no such file"),
    ):
        assert clip(str(path), {}) == Clip(str(path), None, problem)


def test_images_are_made_small_and_broken_ones_named(tmp_path):
    Image.new("RGB", (2_000, 1_000)).save(tmp_path / "large.png")
    small = picture(tmp_path / "large.png", file_sha256(tmp_path / "large.png")).uri
    with Image.open(BytesIO(base64.b64decode(small.partition(",")[2]))) as image:
        assert image.size == (LARGEST_SIDE, LARGEST_SIDE // 2)
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = picture(tmp_path / "broken.png", file_sha256(tmp_path / "broken.png"))
    assert broken.uri is None
    assert broken.problem
