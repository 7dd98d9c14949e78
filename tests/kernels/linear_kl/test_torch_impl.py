"""Chunks of the PyTorch implementation under a head."""

from __future__ import annotations

import pytest
import torch

from safe_kernels.linear_kl import torch_impl


@pytest.mark.parametrize(("vocabulary", "dtype", "chunk"), [
    (1024, torch.float32, 2**26 // 4096), (1024, torch.bfloat16, 2**26 // 2048), (2**24, torch.float32, 64),
    (0, torch.float32, 2**26 // 4),
])  # fmt: skip
def test_default_chunks_of_pytorchs_operations_fill_a_cache_and_are_no_shorter_than_64(
    vocabulary: int, dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_impl, "_CHUNK_BYTES", 2**26)
    assert torch_impl.default_chunk(vocabulary, dtype) == chunk
