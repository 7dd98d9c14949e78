"""The environment of a run: versions, devices, the kernel backend and why; and combinations that are known to fail.

Nothing here needs an importable torch or torchaudio: it reports whether they import.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from types import ModuleType

_PACKAGES = ("safe-audio", "torch", "torchaudio", "torchvision", "triton", "transformers", "accelerate", "peft")
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
_NVIDIA_SMI_SECONDS = 20

# The oldest driver of each CUDA family: docs.nvidia.com/deploy/cuda-compatibility, "Minor Version Compatibility".
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
# torchvision 0.(n + 15) belongs to torch 2.n: github.com/pytorch/pytorch/wiki/PyTorch-Versions.
_TORCHVISION_OFFSET = 15
# Other processes' load, in cores, below which they are taken for the noise of an idle machine.
_IDLE_LOAD = 0.5


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The facts of one machine and one Python environment.

    Attributes:
        python: version of Python.
        system: operating system and processor architecture.
        packages: installed version by package, None where it is not installed.
        torch_cuda: CUDA release that torch is built for, such as ``13.0``; None if it is built without.
        torchaudio_cuda: the same for torchaudio.
        import_errors: reason by package, for those of torch and torchaudio that do not import.
        driver: version of the NVIDIA driver, None if there is none.
        devices: one line for each device that torch can compute on, the CPU first.
        num_cores: CPU cores that this process may use.
        num_threads: OpenMP threads that torch uses for one operation; None if torch does not import.
        load: runnable processes, mean of the last minute; None where the system does not report it.
        omp_wait_policy: the variable ``OMP_WAIT_POLICY``.
        kernel_backend: what ``safe_kernels`` runs on, and why.
    """

    python: str
    system: str
    packages: Mapping[str, str | None]
    torch_cuda: str | None
    torchaudio_cuda: str | None
    import_errors: Mapping[str, str]
    driver: str | None
    devices: tuple[str, ...]
    num_cores: int
    num_threads: int | None
    load: float | None
    omp_wait_policy: str | None
    kernel_backend: str


@dataclass(frozen=True)
class Machine:
    """The machine of a run: figures of one seed differ between machines, which sum in different orders.

    Attributes:
        processor: its name.
        cores: CPU cores that the process may use.
        threads: OpenMP threads that torch uses for one operation.
        gpus: one line for each.
        commit: of the source tree, with ``, changed`` if it has changes; None where the sources are no checkout.
    """

    processor: str
    cores: int
    threads: int
    gpus: tuple[str, ...]
    commit: str | None


@dataclass(frozen=True)
class Finding:
    """A combination that is known to fail, and how to fix it."""

    problem: str
    hint: str


def collect() -> Environment:
    """Gathers the facts. Imports torch and torchaudio, which takes seconds, and asks ``nvidia-smi``."""
    torch, torch_error = _try_import("torch")
    _, torchaudio_error = _try_import("torchaudio")
    errors = {"torch": torch_error, "torchaudio": torchaudio_error}
    num_cores = _num_cores()
    return Environment(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages={package: _installed_version(package) for package in _PACKAGES},
        torch_cuda=torch.version.cuda if torch else None,
        torchaudio_cuda=_torchaudio_cuda(),
        import_errors={package: error for package, error in errors.items() if error},
        driver=_driver_version(),
        devices=(f"CPU, {num_cores} cores", *(_gpus(torch) if torch else ())),
        num_cores=num_cores,
        num_threads=torch.get_num_threads() if torch else None,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY"),
        kernel_backend=_kernel_backend() if torch else "none: torch does not import",
    )


def find_machine() -> Machine:
    """The machine of this process. Imports torch."""
    import torch

    return Machine(
        _processor(), _num_cores(), torch.get_num_threads(), _gpus(torch), _commit(Path(__file__).parents[2])
    )


def _processor() -> str:
    """The processor's name; on Linux it is only in a file."""
    try:
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _commit(checkout: Path) -> str | None:
    if not (checkout / ".git").exists() or (git := shutil.which("git")) is None:
        return None
    head, changes = (
        subprocess.run([git, *words], cwd=checkout, capture_output=True, text=True, check=False)
        for words in (("rev-parse", "HEAD"), ("status", "--porcelain"))
    )
    if head.returncode:  # of another user, or without a commit
        return None
    return head.stdout.strip() + (", changed" if changes.stdout else "")


def diagnose(environment: Environment) -> list[Finding]:
    """The known bad combinations that these facts show."""
    findings = (
        _torch_import(environment),
        _torchaudio_build(environment),
        _torchvision_release(environment),
        _driver_age(environment),
        _busy_cores(environment),
    )
    return [finding for finding in findings if finding]


def format_environment(environment: Environment) -> str:
    """The facts, one a line, and below them the findings or the word that there are none."""
    lines = [
        ("Python", f"{environment.python}, {environment.system}"),
        *((package, installed or "not installed") for package, installed in environment.packages.items()),
        ("torch CUDA", _torch_cuda(environment)),
        ("torchaudio CUDA", environment.torchaudio_cuda or "none"),
        *((f"{package} import", f"fails: {error}") for package, error in environment.import_errors.items()),
        ("NVIDIA driver", environment.driver or "none"),
        *(("device", device) for device in environment.devices),
        ("OpenMP threads", _threads(environment)),
        ("kernel backend", environment.kernel_backend),
    ]
    width = max(len(name) for name, _ in lines)
    facts = [f"{name:<{width}}  {value}" for name, value in lines]
    findings = [f"Problem: {finding.problem}\n  Hint: {finding.hint}" for finding in diagnose(environment)]
    return "\n".join([*facts, "", *(findings or ["No known bad combination found."])])


def _torch_import(environment: Environment) -> Finding | None:
    error = environment.import_errors.get("torch")
    return Finding(f"torch does not import: {error}", "install the pinned versions again") if error else None


def _torchaudio_build(environment: Environment) -> Finding | None:
    """Torchaudio loads only with a torch that is built for the same CUDA release, also on a machine without a GPU."""
    error = environment.import_errors.get("torchaudio")
    torch_version = environment.packages.get("torch")
    if torch_version is None or "torch" in environment.import_errors:
        return None
    if environment.torchaudio_cuda and environment.torchaudio_cuda != environment.torch_cuda:
        of_torch = f"for CUDA {environment.torch_cuda}" if environment.torch_cuda else "without CUDA"
        return Finding(
            f"torchaudio {environment.packages.get('torchaudio')} is built for CUDA {environment.torchaudio_cuda} and "
            f"torch {torch_version} {of_torch}, so torchaudio does not load",
            f"install a torch that is built for CUDA {environment.torchaudio_cuda}; it runs without a GPU too",
        )
    return Finding(f"torchaudio does not import: {error}", "install the pinned versions again") if error else None


def _torchvision_release(environment: Environment) -> Finding | None:
    """A torchvision of another torch release breaks the import of LLaVA's classes; none at all does not."""
    torch_release, torchvision_release = (
        _release(environment.packages.get(package)) for package in ("torch", "torchvision")
    )
    if torch_release is None or torchvision_release is None or torch_release[0] != 2:
        return None
    expected = (0, torch_release[1] + _TORCHVISION_OFFSET)
    if torchvision_release == expected:
        return None
    return Finding(
        f"torchvision {environment.packages['torchvision']} does not belong to torch {environment.packages['torch']}, "
        "which breaks importing LLaVA",
        f"install torchvision {expected[0]}.{expected[1]} or uninstall it: the image processors do without",
    )


def _oldest_driver(environment: Environment) -> int | None:
    """The oldest driver that torch's CUDA release runs on, if it is known."""
    cuda = _release(environment.torch_cuda)
    return _OLDEST_DRIVER.get(cuda[0]) if cuda else None


def _torch_cuda(environment: Environment) -> str:
    oldest = _oldest_driver(environment)
    needs = f", needs NVIDIA driver {oldest} or later" if oldest else ""
    return f"{environment.torch_cuda or 'none'}{needs}"


def _driver_age(environment: Environment) -> Finding | None:
    driver, oldest = _release(environment.driver), _oldest_driver(environment)
    if driver is None or oldest is None or driver[0] >= oldest:
        return None
    return Finding(
        f"NVIDIA driver {environment.driver} is older than CUDA {environment.torch_cuda} needs ({oldest})",
        f"update the driver to {oldest} or later; until then the GPU is not used",
    )


def _busy_cores(environment: Environment) -> Finding | None:
    """OpenMP threads that wait actively for a core that another process has cost several times the work itself."""
    threads, load = environment.num_threads, environment.load
    is_passive = (environment.omp_wait_policy or "").upper() == "PASSIVE"
    if threads is None or threads < 2 or load is None or load < _IDLE_LOAD or is_passive:
        return None
    if load + threads <= environment.num_cores:
        return None
    return Finding(
        f"{threads} OpenMP threads on {environment.num_cores} cores with a load of {load:.1f} wait for each other",
        "set OMP_WAIT_POLICY=PASSIVE, or OMP_NUM_THREADS to the number of free cores",
    )


def _threads(environment: Environment) -> str:
    policy = environment.omp_wait_policy or "not set"
    load = "unknown" if environment.load is None else f"{environment.load:.1f}"
    return f"{environment.num_threads or 'unknown'}, OMP_WAIT_POLICY {policy}, load {load}"


def _release(written: str | None) -> tuple[int, int] | None:
    """Major and minor of a version such as ``2.12.1+cu130``, or None."""
    found = re.match(r"(\d+)\.(\d+)", written or "")
    return (int(found[1]), int(found[2])) if found else None


def _try_import(name: str) -> tuple[ModuleType | None, str | None]:
    """The module, or else why it does not import."""
    try:
        return importlib.import_module(name), None
    # torchaudio raises RuntimeError for another CUDA release; a library that cannot be loaded is an OSError.
    except (ImportError, OSError, RuntimeError) as error:
        return None, " ".join(str(error).split())


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _torchaudio_cuda() -> str | None:
    """The CUDA release in torchaudio's own version, read without importing it: ``2.11.0+cu130`` means 13.0."""
    try:
        source = Path(str(distribution("torchaudio").locate_file("torchaudio/version.py")))
        content = source.read_text(encoding="utf-8")
    except (PackageNotFoundError, OSError):
        return None
    found = re.search(r"\+cu(\d+)(\d)", content)
    return f"{found[1]}.{found[2]}" if found else None


def _driver_version() -> str | None:
    if shutil.which(_NVIDIA_SMI[0]) is None:
        return None
    try:
        answer = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    return next(iter(answer.stdout.split()), None)


def _gpus(torch: ModuleType) -> tuple[str, ...]:
    if not torch.cuda.is_available():
        return ()
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(
        f"cuda:{index}, {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute capability {gpu.major}.{gpu.minor}"
        for index, gpu in enumerate(properties)
    )


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _kernel_backend() -> str:
    from safe_kernels import BackendUnavailableError, backend_info  # imports torch

    try:
        info = backend_info()
    except (BackendUnavailableError, ValueError) as error:
        return f"none: {error}"
    return f"{info.name} on {info.device}: {info.reason}"
