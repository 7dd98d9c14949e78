"""What the tests set before CUDA starts."""

from __future__ import annotations

import os
import subprocess
import sys

import torch


def test_cublas_has_a_workspace_that_makes_it_deterministic() -> None:
    """Where deterministic algorithms are asked for, each of its products else warns of itself, an error here."""
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")


def test_triton_is_left_out_by_name_where_its_interpreter_cannot_run() -> None:
    """Not silently: an environment in which nobody chose PyTorch alone is an error that says what to install."""
    program = (
        "import sys, importlib.metadata as m; plain = m.version; "
        "m.version = lambda name: {'triton': '3.6.0', 'numpy': '2.5.0'}.get(name) or plain(name); "
        "import pytest; sys.exit(pytest.main(['-q', '-rs', '-p', 'no:cacheprovider', "
        "'-p', 'pytest_timeout', 'tests/kernels/fisher_diagonal/test_api.py', '-k', 'test_adds_to_what_is_there']))"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # Plugins of the machine, which ask for versions as well, stay out.
    environment = kept | {"CUDA_VISIBLE_DEVICES": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("SAFE_KERNELS_BACKEND", None)
    for backend, code, told in (("auto", 4, "install numpy<2.4"), ("torch", 0, "1 passed, 1 skipped")):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False,
            env=environment | {"SAFE_KERNELS_BACKEND": backend},
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert told in done.stdout + done.stderr
