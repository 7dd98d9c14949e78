"""Both backends in one run: without a GPU, Triton's kernels run in its interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


def interpret_triton() -> None:
    """Run Triton kernels in its interpreter, also where another test has imported Triton before.

    `TRITON_INTERPRET` is read when a kernel is defined. Triton's own library functions, such as `tl.sum`, are defined
    on import; those that were defined for compilation are defined again.
    """
    os.environ["TRITON_INTERPRET"] = "1"
    import numpy
    import triton
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    if _release(triton.__version__) < (3, 7) and _release(numpy.__version__) >= (2, 4):
        raise pytest.UsageError(
            f"expected numpy below 2.4 for the interpreter of Triton {triton.__version__}, which takes arrays of one "
            f"element for scalars, got numpy {numpy.__version__}; install numpy<2.4, or Triton 3.7"
        )
    for module in (tl, tl.standard, tl.random):
        for name, value in list(vars(module).items()):
            if isinstance(value, JITFunction):
                setattr(module, name, InterpretedFunction(value.fn))


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])


if not torch.cuda.is_available():
    interpret_triton()

BACKENDS = ["torch", "triton"]


@pytest.fixture
def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once with each backend."""
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", request.param)
    return request.param


@pytest.fixture(autouse=True)
def seed() -> None:
    """Fix torch's random numbers."""
    torch.manual_seed(20240607)


@pytest.fixture(autouse=True)
def poisoned_allocations() -> Iterator[None]:
    """Fill `torch.empty` with NaN, so that memory read before it is written shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]
