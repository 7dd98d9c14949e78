"""Which backend runs, and what is said about it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from safe_kernels import BackendUnavailableError, _backend, backend_info, kl_divergence


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
