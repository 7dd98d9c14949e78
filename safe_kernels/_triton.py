"""What the Triton kernels share: launches and exact elementary functions."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl

from safe_kernels._backend import interpreting

TRITON_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
"""Those that the kernels take, as Triton knows them."""


def dot_precision() -> str:
    """Precision of float32 matrix products: three TF32 products on NVIDIA, plain float32 where that does not exist."""
    return "ieee" if torch.version.hip is not None else "tf32x3"


def widen_for_dot() -> bool:
    """Whether half-precision operands are converted before `tl.dot`; Triton's interpreter is wrong on bfloat16."""
    return interpreting()


def launch(kernel: Any, grid: int, *arguments: Any, device: torch.device, num_warps: int, **constants: Any) -> Any:
    """Run a kernel on a one-dimensional grid of programs, on `device` whatever the current device is.

    Triton launches on the current device and stream, not on those of the arguments.

    Returns:
        The compiled kernel; None where it was interpreted.
    """
    with on_device(device):
        return kernel[(grid,)](*arguments, **constants, num_warps=num_warps)


class PreparedLaunch:
    """A launch that is repeated: what Triton would find out about the arguments at every call is found out once.

    Triton compiles a kernel for the types, the alignment and some of the values of its arguments, and looks at them at
    every launch, which takes the host longer than the launch itself. Here they are looked at by the first launch, and
    later ones ask for the kernel that it compiled.

    Args:
        kernel: its constants come after its other parameters.
        grid: programs.
        device: of all tensors.
        num_warps: of a program.
        constants: the kernel's, by name.
    """

    def __init__(self, kernel: Any, grid: int, *, device: torch.device, num_warps: int, **constants: Any) -> None:
        self._kernel, self._grid, self._device = kernel, grid, device
        self._options: dict[str, Any] = {"device": device, "num_warps": num_warps, **constants}
        self._repeated: Callable[..., Any] | None = None
        self._constants: tuple[Any, ...] = ()

    def __call__(self, *arguments: Any) -> None:
        """Launch; the arguments are of the types, alignments and integers of the first call."""
        if self._repeated is None:
            self._prepare(arguments)
        elif torch.cuda.current_device() == self._device.index:
            self._repeated(*arguments, *self._constants)
        else:
            with torch.cuda.device(self._device):
                self._repeated(*arguments, *self._constants)

    def _prepare(self, arguments: tuple[Any, ...]) -> None:
        compiled = launch(self._kernel, self._grid, *arguments, **self._options)
        if compiled is not None:  # else it was interpreted
            names = self._kernel.arg_names[len(arguments) :]
            self._constants = tuple(self._options[name] for name in names)
            with on_device(self._device):
                self._repeated = compiled[(self._grid, 1, 1)]


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current one for a block; nothing for other devices, on which Triton interprets."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def cdiv(amount: int, step: int) -> int:
    """How many steps cover an amount."""
    return -(-amount // step)


@triton.jit
def exp_series(x: tl.tensor) -> tl.tensor:
    """(exp(x) - 1 - x) / x^2 for |x| < 0.25, to float32 rounding; the standard library's expm1 is not everywhere."""
    return 0.5 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040)))))


@triton.jit
def log1p(x: tl.tensor) -> tl.tensor:
    """log(1 + x) without cancellation, by 2 atanh(x / (2 + x)) for |x| < 0.25."""
    t = x / (2.0 + x)
    s = t * t
    near = 2.0 * t * (1.0 + s * (1 / 3 + s * (1 / 5 + s * (1 / 7 + s * (1 / 9)))))
    return tl.where(tl.abs(x) < 0.25, near, tl.log(1.0 + x))
