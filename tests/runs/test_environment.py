"""What `safe env` reports, and the bad combinations it knows, fed with versions that this machine does not have."""

import dataclasses
import importlib.metadata
import os
import subprocess
import sys

import pytest
import torch

from safe_train.runs.environment import Environment, _commit, collect, diagnose, find_machine, format_environment

GOOD = Environment(
    python="3.11.7",
    system="Linux x86_64",
    packages={"torch": "2.12.1", "torchaudio": "2.11.0", "torchvision": "0.27.1", "triton": "3.7.1"},
    torch_cuda="13.0",
    torchaudio_cuda="13.0",
    import_errors={},
    driver="580.65.06",
    devices=("CPU, 2 cores",),
    num_cores=2,
    num_threads=2,
    load=0.1,
    omp_wait_policy=None,
    kernel_backend="torch on cpu: Triton needs a GPU",
)


def changed(**changes):
    packages = changes.pop("packages", {})
    return dataclasses.replace(GOOD, packages={**GOOD.packages, **packages}, **changes)


def only_finding(environment):
    (finding,) = diagnose(environment)
    assert "\n" not in finding.problem + finding.hint
    return finding


def test_the_pinned_versions_are_a_good_combination():
    assert diagnose(GOOD) == []
    assert "No known bad combination found." in format_environment(GOOD)


def test_torchaudio_beside_a_torch_of_another_cuda_release():
    environment = changed(
        packages={"torch": "2.15.0", "torchvision": None},
        torch_cuda="13.2",
        import_errors={"torchaudio": "compiled with different CUDA versions"},
    )
    finding = only_finding(environment)
    assert "torchaudio 2.11.0 is built for CUDA 13.0 and torch 2.15.0 for CUDA 13.2" in finding.problem
    assert "a torch that is built for CUDA 13.0" in finding.hint


def test_torchaudio_beside_a_torch_without_cuda():
    environment = changed(
        packages={"torch": "2.12.1+cpu"},
        torch_cuda=None,
        import_errors={"torchaudio": "libcudart.so.13: cannot open shared object file"},
    )
    finding = only_finding(environment)
    assert "torch 2.12.1+cpu without CUDA" in finding.problem
    assert "it runs without a GPU too" in finding.hint


def test_torchaudio_and_torch_both_without_cuda_belong_together():
    assert diagnose(changed(torch_cuda=None, torchaudio_cuda=None)) == []


def test_torchaudio_that_does_not_import_for_another_reason():
    finding = only_finding(changed(import_errors={"torchaudio": "No module named 'torchaudio'"}, torchaudio_cuda=None))
    assert finding.problem == "torchaudio does not import: No module named 'torchaudio'"


def test_torch_that_does_not_import_is_the_only_finding():
    environment = changed(
        import_errors={"torch": "libc10.so is missing", "torchaudio": "no torch"}, torch_cuda=None, num_threads=None
    )
    assert only_finding(environment).problem == "torch does not import: libc10.so is missing"


# The pairs of the PyTorch project's table of releases.
@pytest.mark.parametrize(
    ("torch", "torchvision"),
    [("2.0.0", "0.15.1"), ("2.5.1", "0.20.1"), ("2.7.0", "0.22.0"), ("2.11.0+cu130", "0.26.0+cu130")],
)
def test_torchvision_of_the_same_release(torch, torchvision):
    assert diagnose(changed(packages={"torch": torch, "torchvision": torchvision})) == []


@pytest.mark.parametrize("torchvision", ["0.26.0", "0.28.0", "0.2.7"])
def test_torchvision_of_another_release(torchvision):
    finding = only_finding(changed(packages={"torchvision": torchvision}))
    assert f"torchvision {torchvision} does not belong to torch 2.12.1" in finding.problem
    assert "install torchvision 0.27 or uninstall it" in finding.hint


def test_no_torchvision_is_no_problem():
    assert diagnose(changed(packages={"torchvision": None})) == []


@pytest.mark.parametrize(("cuda", "driver"), [("13.0", "575.57.08"), ("12.8", "470.256.02"), ("13.2", "579.99")])
def test_a_driver_too_old_for_the_cuda_release(cuda, driver):
    finding = only_finding(changed(torch_cuda=cuda, torchaudio_cuda=cuda, driver=driver))
    assert f"NVIDIA driver {driver} is older than CUDA {cuda} needs" in finding.problem


@pytest.mark.parametrize(("cuda", "driver"), [("13.0", "580.65.06"), ("12.8", "525.60.13"), ("13.0", None)])
def test_a_driver_new_enough_or_none(cuda, driver):
    assert diagnose(changed(torch_cuda=cuda, torchaudio_cuda=cuda, driver=driver)) == []


def test_threads_that_wait_actively_on_busy_cores():
    finding = only_finding(changed(load=1.4))
    assert "2 OpenMP threads on 2 cores with a load of 1.4" in finding.problem
    assert "OMP_WAIT_POLICY=PASSIVE" in finding.hint


@pytest.mark.parametrize(
    "change",
    [
        {"omp_wait_policy": "PASSIVE"},
        {"omp_wait_policy": "passive"},
        {"num_threads": 1},
        {"num_cores": 8},
        {"load": 0.4},
        {"load": None},
        {"num_threads": None},
    ],
)
def test_threads_that_do_not_disturb_each_other(change):
    assert diagnose(changed(**{"load": 1.4, **change})) == []


def test_an_active_policy_is_no_passive_one():
    assert len(diagnose(changed(load=1.4, omp_wait_policy="ACTIVE"))) == 1


def test_the_report_tells_every_fact_and_finding():
    environment = changed(torch_cuda=None, import_errors={"torchaudio": "no libcudart"}, load=1.4)
    report = format_environment(environment)
    words = " ".join(report.split())
    for fact in (
        "Python 3.11.7, Linux x86_64",
        "triton 3.7.1",
        "torch CUDA none",
        "torchaudio CUDA 13.0",
        "torchaudio import fails: no libcudart",
        "NVIDIA driver 580.65.06",
        "device CPU, 2 cores",
        "OpenMP threads 2, OMP_WAIT_POLICY not set, load 1.4",
        "kernel backend torch on cpu: Triton needs a GPU",
    ):
        assert fact in words
    assert report.count("Problem: ") == report.count("  Hint: ") == 2


@pytest.fixture(scope="module")
def here():
    return collect()


def test_this_machines_facts_agree_with_their_sources(here):
    import torch
    import torchaudio

    assert here.packages["torch"] == importlib.metadata.version("torch")
    assert (here.torch_cuda, here.import_errors) == (torch.version.cuda, {})
    # torchaudio's extension tells the release it is built for as one number, 13000 for 13.0.
    of_extension = torch.ops._torchaudio.cuda_version()
    assert here.torchaudio_cuda == (f"{of_extension // 1000}.{of_extension % 1000 // 10}" if of_extension else None)
    assert torchaudio.__version__.startswith(str(here.packages["torchaudio"]))
    assert here.num_threads == torch.get_num_threads()
    assert len(here.devices) == 1 + torch.cuda.device_count()


def test_this_machines_report_tells_the_kernel_backend(here):
    assert here.kernel_backend.partition(" ")[0] in ("torch", "triton")
    assert here.kernel_backend in format_environment(here)


def run_report(setup, **variables):
    """The report of a fresh process, after a piece of code that damages it."""
    report = "from safe_train.runs.environment import collect, format_environment; print(format_environment(collect()))"
    result = subprocess.run(
        [sys.executable, "-c", f"{setup}\n{report}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )
    assert result.returncode == 0, result.stderr
    return " ".join(result.stdout.split())


@pytest.mark.parametrize("error", ["ImportError", "OSError", "RuntimeError"])
def test_it_reports_when_torchaudio_does_not_import(tmp_path, error):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio/__init__.py").write_text(f"raise {error}('another\\n  CUDA')")
    report = run_report(f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    assert "torchaudio import fails: another CUDA" in report
    assert "Problem: torchaudio does not import: another CUDA" in report


def test_it_reports_when_torch_does_not_import():
    report = run_report("import sys; sys.modules['torch'] = None")
    assert "Problem: torch does not import" in report
    assert "kernel backend none: torch does not import" in report


def test_a_backend_that_cannot_be_had_is_told_and_is_no_crash():
    report = run_report("", SAFE_KERNELS_BACKEND="tritn")
    assert "kernel backend none: SAFE_KERNELS_BACKEND: expected one of auto, triton, torch, got 'tritn'" in report


@pytest.mark.parametrize(
    ("cuda", "line"),
    [
        ("13.0", "13.0, needs NVIDIA driver 580 or later"),
        ("12.8", "12.8, needs NVIDIA driver 525 or later"),
        (None, "none"),
    ],
)
def test_the_driver_that_the_wheels_need_is_told(cuda, line):
    shown = format_environment(changed(torch_cuda=cuda, torchaudio_cuda=cuda)).splitlines()
    assert [text.split(maxsplit=2)[2] for text in shown if text.startswith("torch CUDA")] == [line]


def test_the_machine_of_this_process():
    machine = find_machine()
    assert machine.processor
    assert machine.cores == len(os.sched_getaffinity(0))
    assert machine.threads == torch.get_num_threads()
    assert len(machine.gpus) == torch.cuda.device_count()


def test_the_commit_is_that_of_a_checkout_and_tells_changes(tmp_path):
    """Against git itself; a folder that is no checkout has none, also inside of one."""

    def git(*words):
        settings = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        done = subprocess.run(["git", *settings, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    assert _commit(tmp_path) is None  # nothing is committed
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "one")
    assert _commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("two")
    assert _commit(tmp_path) == git("rev-parse", "HEAD") + ", changed"
    (tmp_path / "inside").mkdir()
    assert _commit(tmp_path / "inside") is None
