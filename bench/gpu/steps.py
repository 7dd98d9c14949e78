"""What is done on the GPU, in the order of what is wanted most, and how long each part may take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.rehearsal import interpreter_obstacle

_DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""For tests, which ask for deterministic algorithms; not for what is timed."""

_NATIVE = "tests/kernels/native"


@dataclass(frozen=True)
class Step:
    """One part.

    Attributes:
        name: its name.
        what: what it does.
        seconds: how long it is expected to take on an H100; it is left out where less time is left.
        limit: seconds after which it is killed.
        command: what is run, for a rehearsal or not.
        environment: variables that it needs, likewise.
        rows_may_fail: whether a failing row is a result, and no failure of the step.
    """

    name: str
    what: str
    seconds: int
    limit: int
    command: Callable[[bool], list[str]]
    environment: Callable[[bool], Mapping[str, str]] = field(default=lambda _rehearse: {})
    rows_may_fail: bool = False


def pytest_command(*arguments: str, workers: int = 0) -> list[str]:
    """A run of tests that writes a row for each; several processes share them if asked to."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "bench.gpu.recorder", "-p", "no:cacheprovider", "--tb=short"]
    shared = ["-n", str(workers), "--dist", "loadgroup"] if workers else []
    return [*command, *shared, *arguments]


def module_command(name: str) -> list[str]:
    """A module of `bench.gpu`."""
    return [sys.executable, "-m", f"bench.gpu.{name}"]


def interpreted(rehearse: bool) -> dict[str, str]:
    """In a rehearsal: Triton's interpreter, or PyTorch's operations where it cannot run."""
    if not rehearse:
        return {}
    if interpreter_obstacle() is not None:
        return {"SAFE_KERNELS_BACKEND": "torch"}
    return {"SAFE_KERNELS_BACKEND": "triton", "TRITON_INTERPRET": "1"}


def _told(rehearse: bool) -> list[str]:
    """On a GPU a warning is written down and fails no test: there is no second run to find out what is behind it."""
    return [] if rehearse else ["-W", "default"]


def _operations(rehearse: bool) -> list[str]:
    """A process for each case: one that damages its CUDA context damages no other's."""
    return pytest_command(f"{_NATIVE}/test_operations.py", *_told(rehearse), workers=0 if rehearse else 14)


def _kernels(rehearse: bool) -> list[str]:
    """In a rehearsal few files: the test suite runs them all anyway."""
    if rehearse:
        return pytest_command("tests/kernels/test_elementary.py")
    elsewhere = (_NATIVE, "tests/kernels/test_compiled.py", "tests/kernels/project_null_space/test_triton_impl.py")
    ignored = [f"--ignore={path}" for path in elsewhere]
    return pytest_command("tests/kernels", *ignored, "-m", "not slow", *_told(rehearse), workers=8)


def _native(rehearse: bool) -> list[str]:
    ignored = f"--ignore={_NATIVE}/test_operations.py"
    return pytest_command(_NATIVE, ignored, *_told(rehearse), workers=0 if rehearse else 8)


def _benchmarks(_rehearse: bool) -> list[str]:
    others = [f"--ignore=bench/test_{name}.py" for name in ("llava", "profile", "sweeps")]
    return pytest_command("bench", *others, "-m", "full", "-W", "ignore", "--benchmark-columns=median")


def _sweeps(_rehearse: bool) -> list[str]:
    return pytest_command("bench/test_sweeps.py", "-m", "sweep", "-W", "ignore")


def _torch_backend(rehearse: bool) -> dict[str, str]:
    """The bodies of many tests, fast: the operations themselves are interpreted by another step."""
    return {"SAFE_KERNELS_BACKEND": "torch"} if rehearse else {}


STEPS = (
    Step(
        "environment", "versions, compiler, driver, clocks, what is installed", 8, 40,
        lambda _: module_command("environment"),
    ),
    Step(
        "operations", "each operation once at a native size against float64", 34, 70, _operations,
        lambda rehearse: _DETERMINISTIC | interpreted(rehearse),
    ),
    Step(
        "kernels", "tests/kernels with compiled kernels", 105, 160, _kernels,
        lambda rehearse: _DETERMINISTIC | interpreted(rehearse),
    ),
    Step(
        "native", "vocabularies to 152064, odd sizes, 2^31 elements, streams, graphs, no waiting", 70, 120, _native,
        lambda rehearse: _DETERMINISTIC | _torch_backend(rehearse),
    ),
    Step(
        "training", "safe-train on the embedded base for 20 steps, and a resume", 80, 130,
        lambda _: module_command("training"),
    ),
    Step("benchmarks", "operations and peers, device and host apart", 110, 150, _benchmarks, rows_may_fail=True),
    Step(
        "stage_a", "steps of the five variants on a base of LLaVA-1.5-7B's shape, beside the plan", 130, 180,
        lambda _: pytest_command("bench/test_llava.py", "-m", "stage_a", "-W", "ignore"), rows_may_fail=True,
    ),
    Step(
        "sweeps", "constants of the launches, one after the other", 60, 80, _sweeps, interpreted, rows_may_fail=True
    ),
    Step(
        "profile", "kernels of each operation, and hardware counters", 35, 60,
        lambda _: pytest_command("bench/test_profile.py", "-m", "profile", "-W", "ignore"), _torch_backend,
        rows_may_fail=True,
    ),
)  # fmt: skip
