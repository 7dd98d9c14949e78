"""OGG files with pages that are lost or damaged."""

import numpy as np
import pytest
import torch

from safe_train.audio.waveform import load_waveform
from safe_train.data.validation.check import check_audio
from safe_train.errors import InputError
from tests.audio.corpus import NOISE, encoded, heard


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("damage", ["lost", "spoilt"])
def test_an_ogg_file_of_which_a_page_is_lost_or_spoilt(tmp_path, subtype, damage):
    """The pages that are left are whole, and are played without a word; a window in front of it is right."""
    content = encoded("OGG", subtype, np.tile(NOISE, 4))
    places = [place for place in range(len(content)) if content.startswith(b"OggS", place)]
    start, end = places[len(places) // 2 :][:2]
    page = b"" if damage == "lost" else content[start : end - 9] + bytes(9)
    path = tmp_path / "a.ogg"
    path.write_bytes(content)
    assert len(heard(path, 16_000)) == 4 * len(NOISE)
    whole = load_waveform(path, 16_000)
    path.write_bytes(content[:start] + page + content[end:])
    with pytest.raises(InputError, match=f"expected a whole file, got \\d+ of {4 * len(NOISE)} samples"):
        load_waveform(path, 16_000)
    assert check_audio(path)[1].kind.name == "TRUNCATED_AUDIO"
    assert torch.equal(load_waveform(path, 16_000, 1_600), whole[:1_600])
