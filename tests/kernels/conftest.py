"""Both backends in one run: without a GPU, Triton's kernels run in its interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Read when CUDA starts. The tests ask for deterministic algorithms; without this, cuBLAS warns at each product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

from bench.rehearsal import interpreter_obstacle


def interpret_triton() -> None:
    """Run Triton kernels in its interpreter, also where another test has imported Triton before.

    `TRITON_INTERPRET` is read when a kernel is defined. Triton's own library functions, such as `tl.sum`, are defined
    on import; those that were defined for compilation are defined again.
    """
    os.environ["TRITON_INTERPRET"] = "1"
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    for module in (tl, tl.standard, tl.random):
        for name, value in list(vars(module).items()):
            if isinstance(value, JITFunction):
                setattr(module, name, InterpretedFunction(value.fn))


def backends() -> list[object]:
    """Those that can run here, as parameters of tests.

    Raises:
        pytest.UsageError: Triton's interpreter cannot run, and nobody asked for PyTorch alone.
    """
    obstacle = None if torch.cuda.is_available() else interpreter_obstacle()
    if obstacle is None:
        return ["torch", "triton"]
    if os.environ.get("SAFE_KERNELS_BACKEND") != "torch":
        raise pytest.UsageError(f"{obstacle}, or set SAFE_KERNELS_BACKEND=torch to leave out the tests of Triton")
    return ["torch", pytest.param("triton", marks=pytest.mark.skip(reason=obstacle))]


BACKENDS = backends()
if not torch.cuda.is_available() and interpreter_obstacle() is None:
    interpret_triton()


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
