"""WAV files that do not say how much sound they hold."""

import struct

import numpy as np
import pytest

from tests.audio.corpus import NOISE, encoded, heard, sized


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0xFFFFFFDB, 0x7FFFF000, 0x7FFFFFFF])
@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize("riff", [None, 0, 36, 0xFFFFFFFF])
def test_wav_of_a_writer_that_cannot_seek(tmp_path, size, endian, riff):
    path = tmp_path / "a.wav"
    content = encoded("WAV", "PCM_16", endian=endian)
    form = "<I" if endian == "LITTLE" else ">I"
    content = sized(content, b"data", size, form)
    if riff is not None:
        content = content[:4] + struct.pack(form, riff) + content[8:]
    path.write_bytes(content)
    np.testing.assert_allclose(heard(path, 16_000), NOISE, atol=2**-15)
