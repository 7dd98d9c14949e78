"""Which backend runs, and what is said about it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from safe_kernels import (
    BackendUnavailableError,
    _backend,
    _triton,
    backend_info,
    ewc_penalty_,
    kl_divergence,
    project_null_space_,
    squared_gradient_ema_,
)


def test_cpu_runs_torch_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFE_KERNELS_BACKEND", raising=False)
    info = backend_info("cpu")
    assert (info.name, info.requested, info.device) == ("torch", "auto", "cpu")
    assert info.reason


def test_torch_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "torch")
    assert backend_info("cuda").name == "torch"


def test_triton_that_cannot_run_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendUnavailableError, match="Triton needs a GPU and the tensors are on the CPU"):
        backend_info("cpu")
    with pytest.raises(BackendUnavailableError, match="SAFE_KERNELS_BACKEND=auto"):
        kl_divergence(torch.zeros(1, 2), torch.zeros(1, 2))


def test_triton_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "_triton_installed", lambda: False)
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "auto")
    assert backend_info("cuda") == _backend.BackendInfo("torch", "auto", "cuda", "the triton package is not installed")


def test_triton_does_not_take_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    wide = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(BackendUnavailableError, match="do not take float64"):
        kl_divergence(wide, wide)


def test_fallback_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(_backend, "_triton_installed", lambda: False)
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "auto")
    _backend._tell_fallback_once.cache_clear()
    for _ in range(3):
        assert _backend.choose_backend(torch.zeros(1, device="meta")) == "torch"
    assert [record.getMessage() for record in caplog.records] == [
        "safe_kernels uses its PyTorch implementation: the triton package is not installed"
    ]


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "torch"), ((8, 0), "triton"), ((9, 0), "triton")])
def test_an_old_gpu_runs_torch(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], name: str) -> None:
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_backend, "_capability", lambda _: capability)
    info = backend_info("cuda")
    assert info.name == name
    if name == "torch":
        assert info.reason == "the kernels need compute capability 8.0 or later, and cuda has 7.5"


def test_tensors_of_several_devices_are_refused() -> None:
    """Not one launch on the first one's device, with addresses of the others."""
    here, there = torch.ones(2, 4), torch.ones(2, 4, device="meta")
    message = "expected all on one device, got cpu, meta; call once for each device"
    with pytest.raises(ValueError, match=f"tensors: {message}"):
        project_null_space_([here, there], [torch.eye(4), torch.eye(4, device="meta")])
    with pytest.raises(ValueError, match=f"fishers: {message}"):
        squared_gradient_ema_([here, there], [here, there], 0.9)
    with pytest.raises(ValueError, match=f"params: {message}"):
        ewc_penalty_([here, there], [here, there], [here, there], 1.0)


def test_kernels_are_launched_on_the_device_of_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches on the current device, which need not be the one that holds the tensors."""
    entered: list[torch.device] = []

    class Guard:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            entered.append(self.device)

        def __exit__(self, *_: object) -> None:
            entered.append(torch.device("cpu"))

    class Kernel:
        def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
            return lambda *_, **__: launched.append(entered[-1])

    launched: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", Guard)
    second = torch.device("cuda", 1)
    _triton.launch(Kernel(), 1, device=second, num_warps=4)
    assert launched == [second]
    assert entered == [second, torch.device("cpu")]


class Compiled:
    """What Triton compiled a kernel to."""

    def __init__(self, calls: list[tuple[Any, ...]]) -> None:
        self.calls = calls

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        return lambda *arguments: self.calls.append(("again", grid, *arguments))


class Jitted:
    """A kernel whose launches are noted; interpreted, it returns nothing."""

    arg_names = ("out", "count", "BLOCK", "EXACT")

    def __init__(self, interpreted: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.interpreted = interpreted

    def __getitem__(self, grid: tuple[int]) -> Callable[..., Compiled | None]:
        def launch(*arguments: Any, **options: Any) -> Compiled | None:
            self.calls.append(("first", grid, *arguments, options))
            return None if self.interpreted else Compiled(self.calls)

        return launch


def test_a_prepared_launch_repeats_what_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The constants follow the arguments in the order of the kernel's parameters, whatever their order by name."""
    entered: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(entered.append(device)))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    device, current = torch.device("cuda", 1), 1
    kernel = Jitted()
    launch = _triton.PreparedLaunch(kernel, 7, device=device, num_warps=4, EXACT=True, BLOCK=64)
    launch("x", 3)
    entered.clear()
    launch("y", 3)
    assert entered == []
    current = 0  # the tensors' device is not the current one
    launch("z", 3)
    assert entered == [device]
    options = {"BLOCK": 64, "EXACT": True, "num_warps": 4}
    assert kernel.calls == [
        ("first", (7,), "x", 3, options),
        ("again", (7, 1, 1), "y", 3, 64, True),
        ("again", (7, 1, 1), "z", 3, 64, True),
    ]


def test_a_prepared_launch_of_an_interpreted_kernel() -> None:
    kernel = Jitted(interpreted=True)
    launch = _triton.PreparedLaunch(kernel, 2, device=torch.device("cpu"), num_warps=4, BLOCK=64, EXACT=True)
    launch("x", 3)
    launch("y", 3)
    assert [call[:3] for call in kernel.calls] == [("first", (2,), "x"), ("first", (2,), "y")]


def test_unknown_backend_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "cuda")
    with pytest.raises(ValueError, match="expected one of auto, triton, torch, got 'cuda'"):
        backend_info("cpu")


def test_import_needs_torch_alone() -> None:
    """No module of another dependency is loaded, and triton only when a kernel is needed."""
    program = (
        "import sys, torch; before = set(sys.modules); import safe_kernels; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before if not name.startswith('torch')})"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    third_party = {name for name in found.split() if name not in sys.stdlib_module_names}
    assert third_party <= {"safe_kernels"}
