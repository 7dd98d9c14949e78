"""Time on the host of a call over many tensors, prepared or not, with the launch itself left out.

    python -m bench.host                   a table
    python -m bench.host --json FILE       the same as JSON (- is standard output)

A kernel that takes the GPU 0.14 ms gains nothing if the host needs 4 ms to ask for it. The launches are replaced by
nothing, so what is timed is everything before them: checks, addresses, tables. It runs without a GPU, on small tensors
of the CPU that take the path of the Triton kernels; with `--device cuda` the copies to the device are asked for, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COUNT, SIDE = 400, 16
TARGET = 1e-4
"""Seconds a prepared call may take."""


@dataclass(frozen=True)
class HostTime:
    """Time on the host of one way to call one operation.

    Attributes:
        operation: name of the public function.
        way: "function", "plan", "plan, new gradients" (other tensors at the same addresses, as after
            `zero_grad(set_to_none=True)` and another backward pass), or "plan, gradients elsewhere".
        tensors: number of tensors.
        seconds: of the fastest of many calls.
        device: where the tensors are.
        torch: its version.
        python: its version.
    """

    operation: str
    way: str
    tensors: int
    seconds: float
    device: str
    torch: str
    python: str


@contextmanager
def launches_left_out() -> Iterator[list[int]]:
    """Replace Triton's launch in every module that has it by a counter."""
    counted = [0]

    def nothing(*_: Any, **__: Any) -> None:
        counted[0] += 1

    from safe_kernels import _triton

    launch = _triton.launch
    places = [module for name, module in sys.modules.items() if name.startswith("safe_kernels")]
    places = [module for module in places if getattr(module, "launch", None) is launch]
    for module in places:
        module.launch = nothing  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield counted
    finally:
        for module in places:
            module.launch = launch  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Call:
    """What is timed, and what is done before each time without being timed."""

    run: Callable[[], Any]
    before: Callable[[], Any] = lambda: None


class FreshGradients:
    """Parameters whose gradients are other tensors at every step."""

    def __init__(self, count: int, device: torch.device, other: Callable[[Tensor], Tensor]) -> None:
        self.params = [torch.nn.Parameter(torch.rand(SIDE, SIDE, device=device)) for _ in range(count)]
        self.grads = [torch.rand(SIDE, SIDE, device=device) for _ in range(count)]
        self.other = other

    def renew(self) -> None:
        """A step's gradients; those of the step before are given up only then."""
        self.grads = [self.other(grad) for grad in self.grads]
        for param, grad in zip(self.params, self.grads, strict=True):
            param.grad = grad

    def penalty(self, anchors: list[Tensor], fishers: list[Tensor]) -> Callable[[], Any]:
        """A call of a plan on these gradients."""
        from safe_kernels import EwcPlan

        plan = EwcPlan(self.params, anchors, fishers)
        return lambda: plan(0.5)

    def average(self, fishers: list[Tensor]) -> Callable[[], Any]:
        """A call of a plan on these gradients."""
        from safe_kernels import SquaredGradientEmaPlan

        plan = SquaredGradientEmaPlan(fishers)
        return lambda: plan(self.grads, 0.9)


def calls(count: int, device: torch.device) -> dict[tuple[str, str], Call]:
    """Every operation in every way, by (operation, way)."""
    import safe_kernels

    def tensors() -> list[Tensor]:
        return [torch.rand(SIDE, SIDE, device=device) for _ in range(count)]

    params = [torch.nn.Parameter(tensor) for tensor in tensors()]
    anchors, fishers, grads = tensors(), tensors(), tensors()
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    bases = [torch.eye(SIDE, 8, device=device) for _ in range(count)]
    penalty, average = safe_kernels.EwcPlan(params, anchors, fishers), safe_kernels.SquaredGradientEmaPlan(fishers)
    found: dict[tuple[str, str], Call] = {
        ("ewc_penalty_", "function"): Call(lambda: safe_kernels.ewc_penalty_(params, anchors, fishers, 0.5)),
        ("ewc_penalty_", "plan"): Call(lambda: penalty(0.5)),
        ("squared_gradient_ema_", "function"): Call(lambda: safe_kernels.squared_gradient_ema_(fishers, grads, 0.9)),
        ("squared_gradient_ema_", "plan"): Call(lambda: average(grads, 0.9)),
        ("project_null_space_", "function"): Call(lambda: safe_kernels.project_null_space_(grads, bases)),
    }
    for way, renew in (("plan, new gradients", torch.Tensor.detach), ("plan, gradients elsewhere", torch.clone)):
        fresh = FreshGradients(count, device, renew)
        found["ewc_penalty_", way] = Call(fresh.penalty(anchors, fishers), fresh.renew)
        found["squared_gradient_ema_", way] = Call(fresh.average(fishers), fresh.renew)
    if hasattr(safe_kernels, "ProjectionPlan"):
        plan: Any = safe_kernels.ProjectionPlan  # pyright: ignore[reportAttributeAccessIssue]
        found["project_null_space_", "plan"] = Call(plan(grads, bases))
    return dict(sorted(found.items()))


def measure(count: int = COUNT, device: str = "cpu", repeats: int = 40) -> list[HostTime]:
    """Time every operation in every way, one call at a time, after a few calls to warm up."""
    os.environ["SAFE_KERNELS_BACKEND"] = "triton"
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    import safe_kernels.ewc_penalty.triton_impl
    import safe_kernels.project_null_space.triton_impl
    import safe_kernels.squared_gradient_ema.triton_impl  # noqa: F401

    found = []
    with launches_left_out() as launched:
        for (operation, way), call in calls(count, torch.device(device)).items():
            before = launched[0]
            call.before()
            call.run()
            if launched[0] == before:
                raise RuntimeError(f"{operation}, {way}: expected a launch, got none; the time would mean nothing")
            seconds = min(timeit.repeat(call.run, call.before, number=1, repeat=repeats))
            found.append(HostTime(operation, way, count, seconds, device, torch.__version__, platform.python_version()))
    return found


def table(found: list[HostTime]) -> str:
    """The times as Markdown."""
    lines = ["| operation | way | tensors | host, ms | of the function's |", "|---|---|---|---|---|"]
    functions = {time.operation: time.seconds for time in found if time.way == "function"}
    lines += [
        f"| `{time.operation}` | {time.way} | {time.tensors} | {1e3 * time.seconds:.3f} "
        f"| {100 * time.seconds / functions[time.operation]:.1f} % |"
        for time in found
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=COUNT)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", help="write JSON to this file (- is standard output) instead of the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.tensors, arguments.device)
    text = json.dumps([asdict(time) for time in found], indent=1) + "\n"
    if arguments.json is None:
        sys.stdout.write(table(found))
    elif arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
