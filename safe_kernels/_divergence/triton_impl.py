"""How the kernels of the divergences are launched: one program a row of logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from safe_kernels._backend import interpreting
from safe_kernels._divergence.kernels import FORWARD, JSD, REVERSE
from safe_kernels._triton import cdiv, launch

DIVERGENCE_CODES = {"forward": FORWARD.value, "reverse": REVERSE.value, "jsd": JSD.value}
"""As the kernels know the divergences."""

WARPS = 8
_BLOCK = 4096
"""Classes a program holds at a time: 16 a thread, which leaves 80 registers and 24 warps a multiprocessor of sm_90."""

_JSD_BLOCK = 2048
"""The same for jsd on NVIDIA's devices, whose three passes would spill. Threads of AMD's warps hold half as many."""

_INTERPRETER_BLOCK = 64


def launch_rows(kernel: Any, rows: int, *arguments: Any, device: torch.device, **constants: Any) -> None:
    """Run a kernel, one program a row."""
    launch(kernel, rows, *arguments, device=device, num_warps=WARPS, **constants)


def block_size(divergence: str, backend: str) -> int:
    """Classes a program holds at a time on `"cuda"` or `"hip"`."""
    return _JSD_BLOCK if divergence == "jsd" and backend == "cuda" else _BLOCK


def block_count(classes: int, block: int) -> int:
    """Blocks of classes a row may have: the next power of two, so that few kernels are compiled."""
    return 1 << (cdiv(classes, block) - 1).bit_length()


def choose_block(divergence: str) -> int:
    """Classes a program holds at a time; few in the interpreter, so that small tests have several blocks too."""
    return _INTERPRETER_BLOCK if interpreting() else block_size(divergence, "hip" if torch.version.hip else "cuda")


def mask_argument(mask: Tensor | None, placeholder: Tensor) -> Tensor:
    """The mask as bytes; a kernel compiled without a mask gets a pointer that it does not read."""
    return placeholder if mask is None else mask.contiguous().view(torch.uint8)
