"""Runs a training whose k-th operation on its run folder fails, or kills it: in copies of one process (``fork``).

    python -m tests.survival.faults FOLDER SETTINGS KIND STRIDE

Operations are those that Python tells its audit hooks of, and each write and flush to the disk of a file below the run
folder: by Python's own files, by safetensors and by matplotlib. ``FOLDER/found.json`` says for each k what came of it.
"""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner
from safetensors import SafetensorError

from safe_train.cli import safe
from safe_train.configs.model_configs import EMBEDDED
from safe_train.io import tensor_files
from safe_train.model.audio.encoder import load_audio_encoder
from safe_train.model.loading import load_base

OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "os.chmod"}
WRITES = {"open", "os.rename", "os.mkdir", "os.chmod"}
"""Those that a full disk can fail; it can be read, and things can be removed from it."""


UNMET = 77
"""Exit code of a run that came to its end before the operation."""


class Fault:
    """Fails at the k-th operation, and at every write after it, as a disk without room does; or kills the process."""

    def __init__(self, root: Path, kind: str, k: int) -> None:
        self.root, self.kind, self.left, self.lasts = str(root), kind, k, False

    def meet(self, *, in_safetensors: bool = False) -> None:
        self.left -= 1
        if self.left > 0 and not self.lasts:
            return
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self.lasts = True
        number = errno.ENOSPC if self.kind == "ENOSPC" else errno.EIO
        if in_safetensors:
            raise SafetensorError(f"I/O error: {os.strerror(number)}")
        raise OSError(number, os.strerror(number))

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        places = [str(argument) for argument in arguments[:2]]
        if event not in OPERATIONS or not any(place.startswith(self.root) for place in places):
            return
        reads = event == "open" and not any(letter in str(arguments[1] or "") for letter in "wax+")
        if self.kind != "kill" and (event not in WRITES or reads):
            return
        self.meet()

    def save_file(self, tensors: dict[str, torch.Tensor], path: Path, metadata: Any) -> None:
        """Writes half of the file first."""
        whole = tensor_files_save(tensors, metadata)
        with io.FileIO(path, "w") as file:
            file.write(whole[: len(whole) // 2])
            self.meet(in_safetensors=True)
            file.write(whole[len(whole) // 2 :])

    def write_to(self, opened: Any, path: object, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = opened(path, mode, *arguments, **options)
        if isinstance(path, (str, Path)) and str(path).startswith(self.root) and set(mode) & set("wax+"):
            write = file.write

            def half(content: Any) -> int:
                if self.left == 1 or self.lasts:
                    write(content[: len(content) // 2])
                    file.flush()
                self.meet()
                return write(content)

            file.write = half  # type: ignore[method-assign]
        return file


def tensor_files_save(tensors: dict[str, torch.Tensor], metadata: Any) -> bytes:
    from safetensors.torch import save

    return save(tensors, metadata)


def install(fault: Fault) -> None:
    """Puts the fault into this process."""
    import builtins

    opened, flushed = io.open, os.fsync

    def open_(path: object, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        return fault.write_to(opened, path, mode, *arguments, **options)

    def fsync(descriptor: int) -> None:
        fault.meet()
        flushed(descriptor)

    io.open = builtins.open = open_  # type: ignore[assignment]
    os.fsync = fsync
    tensor_files.save_file = fault.save_file  # type: ignore[assignment]
    sys.addaudithook(fault.audit)


def invoke(words: list[str]) -> tuple[int, str]:
    result = CliRunner().invoke(safe, words)
    raised = result.exception
    if raised is not None and not isinstance(raised, SystemExit):
        return 1, f"{type(raised).__name__}: {raised}"
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return result.exit_code, "\n".join(errors)


def in_copy(folder: Path, words: list[str], fault: Fault | None) -> tuple[int, str]:
    """The command in a copy of this process: its exit code, -9 after a kill, and its errors."""
    said = folder / "said"
    said.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 99  # an error that the command did not turn into a line
        try:
            if fault is not None:
                install(fault)
            code, errors = invoke(words)
            said.write_text(errors)
            if fault is not None and fault.left > 0 and not fault.lasts:
                code = UNMET
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.read_text() if said.exists() else ""


def figures(run: Path) -> dict[str, Any]:
    """What a finished run came to, without times."""
    metrics = json.loads((run / "metrics.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "evaluation": metrics["evaluation"] | {"seconds": 0},
        "lines": [line | {"seconds": 0, "data_seconds": 0} for line in lines],
        "weights": [str(path.read_bytes()) for path in sorted(run.glob("checkpoints/*/adapter.safetensors"))][-1:],
    }


def attempt(folder: Path, words: list[str], kind: str, k: int, expected: dict[str, Any]) -> dict[str, Any] | None:
    """One fault, and then the run as its error says; None once a run comes to its end before its k-th operation."""
    root = folder / "runs"
    shutil.rmtree(root, ignore_errors=True)
    code, said = in_copy(folder, [*words, "--output-root", str(root)], Fault(root, kind, k))
    if code == UNMET:
        return None
    runs = sorted(root.glob("2*")) if root.exists() else []
    resumable = [run for run in runs if any(run.glob("checkpoints/step-*")) or any(run.glob("checkpoints/.*.replaced"))]
    again = ["train", "--resume", str(resumable[0])] if resumable else [*words, "--output-root", str(folder / "again")]
    shutil.rmtree(folder / "again", ignore_errors=True)
    ended, after = in_copy(folder, again, None)
    (run,) = resumable[:1] or sorted((folder / "again").glob("2*"))[:1] or [None]
    return {
        "k": k, "code": code, "said": said, "resumed": bool(resumable), "ended": ended, "after": after,
        "equal": run is not None and (run / "metrics.json").exists() and figures(run) == expected,
        "partial": [str(path) for path in root.rglob("*.partial")] if kind != "kill" and root.exists() else [],
    }  # fmt: skip


def main(folder: Path, settings: dict[str, str], kind: str, stride: int) -> None:
    """Every ``stride``-th operation."""
    torch.set_num_threads(1)
    for name in (
        "safe_train.training.run",
        "safe_train.cli.callbacks",
        "matplotlib.pyplot",
    ):  # most of a short run goes into imports
        importlib.import_module(name)
    load_audio_encoder(EMBEDDED)
    load_base(EMBEDDED)
    words = ["train", *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))]
    code, said = in_copy(folder, [*words, "--output-root", str(folder / "straight")], None)
    assert code == 0, said
    (run,) = (folder / "straight").glob("2*")
    expected, found = figures(run), []
    for k in range(1, 100_000, stride):
        moment = attempt(folder, words, kind, k, expected)
        if moment is None:
            break
        found.append(moment)
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
