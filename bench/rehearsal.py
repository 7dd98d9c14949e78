"""Whether this is a rehearsal: the programs that are meant for a GPU, on the CPU and at tiny sizes.

A GPU is there seldom and briefly. What would stop there for a misspelled name is to stop here.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

VARIABLE = "SAFE_GPU_REHEARSAL"
"""Set to 1 by `python -m bench.gpu_run --rehearse` for its steps."""

Sizes = TypeVar("Sizes")


def rehearsing() -> bool:
    """Whether sizes for a GPU are replaced by tiny ones, and the GPU by the CPU."""
    return os.environ.get(VARIABLE) == "1"


def sized(native: Sizes, tiny: Sizes) -> Sizes:
    """The first on a GPU, the second in a rehearsal."""
    return tiny if rehearsing() else native


def interpreter_obstacle() -> str | None:
    """Why Triton's interpreter cannot run kernels on this machine's CPU; None where it can."""
    try:
        triton, numpy = version("triton"), version("numpy")
    except PackageNotFoundError as error:
        return f"Triton's interpreter needs triton and numpy: {error}"
    if _release(triton) < (3, 7) and _release(numpy) >= (2, 4):
        return (
            f"expected numpy below 2.4 for the interpreter of Triton {triton}, which takes arrays of one element for "
            f"scalars, got numpy {numpy}; install numpy<2.4, or Triton 3.7"
        )
    return None


def _release(found: str) -> tuple[int, ...]:
    return tuple(int(number) for number in found.split(".")[:2])
