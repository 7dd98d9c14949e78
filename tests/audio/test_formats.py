"""Names and contents of audio files."""

import pytest
import soundfile

from safe_train.audio.formats import CONTAINERS
from tests.audio.corpus import (
    heard,
    write,
)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_every_name_is_looked_at_in_either_case(tmp_path, suffix):
    container = CONTAINERS[suffix][0]
    for name in (f"a{suffix}", f"A{suffix.upper()}"):
        write(tmp_path / name, container, soundfile.default_subtype(container), 8_000, 1)
        assert heard(tmp_path / name, 8_000) is not None
