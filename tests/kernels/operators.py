"""What the tests of every operator share: registrations, compilation, backends, FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

_CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def opcheck(operator: Any, *arguments: Any) -> None:
    """Check what is registered for an operator: schema, autograd, shapes, and that compilation agrees."""
    torch.library.opcheck(operator, arguments, test_utils=_CHECKS)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile into one graph, without needing a C++ compiler."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)


def assert_backend_runs(backend: str, launch: str, run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that Triton's launch is reached with that backend, and with the other is not.

    Without this, a test of the Triton backend could compare PyTorch with itself.
    """

    def reached(*_: object, **__: object) -> None:
        raise LookupError(launch)

    monkeypatch.setattr(f"safe_kernels.{launch}", reached)
    if backend == "triton":
        with pytest.raises(LookupError, match=launch):
            run()
    else:
        run()


def count_flops(run: Callable[[], object]) -> int:
    """What PyTorch's counter counts: matrix products, each once, and not again those of the implementation below."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
