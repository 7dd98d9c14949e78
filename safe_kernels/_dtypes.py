"""Dtypes that the operations take, and in which they sum."""

from __future__ import annotations

import torch

FLOATING_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
WIDE_DTYPES = (torch.float32, torch.float64)
"""Of what is kept over many steps, which half precision would round too coarsely."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype in which an operation on tensors of a dtype sums and returns: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
