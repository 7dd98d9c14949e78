"""Tests that need a GPU, with the sizes that they have there and tiny ones for a rehearsal on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from bench.rehearsal import VARIABLE, rehearsing


@pytest.fixture
def native_device() -> Iterator[torch.device]:
    """The GPU; in a rehearsal the CPU. What the allocator keeps is given back for the next test's sizes."""
    if rehearsing():
        yield torch.device("cpu")
    elif torch.cuda.is_available():
        yield torch.device("cuda", torch.cuda.current_device())
        torch.cuda.empty_cache()
    else:
        pytest.skip(f"needs a GPU; {VARIABLE}=1 runs it on the CPU at a tiny size")
