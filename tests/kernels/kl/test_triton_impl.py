"""Layout of the launches for given logits."""

from __future__ import annotations

import torch

from safe_kernels.kl import triton_impl


def test_rows_with_gaps_are_not_copied() -> None:
    logits = torch.randn(3, 160)[:, :150]
    assert triton_impl._by_rows(logits) is logits
    assert triton_impl._by_rows(logits.t()).is_contiguous()
