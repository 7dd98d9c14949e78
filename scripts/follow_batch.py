"""Follows one batch from the data set's files to the optimizer's step, and prints every file of this project it passes.

    python scripts/follow_batch.py --variant full_retention

Takes the options of safe-train; trains one step on the embedded model and its procedural data. Prints, in the order of
the first call, each file with the functions that ran and their lines, and the frames that stand between the command
and the optimizer's step.
"""

from __future__ import annotations

import ast
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("safe_train", "safe_kernels", "configs")
SETTINGS = (
    "evaluation.max_vl=2", "evaluation.max_audio=2", "evaluation.max_text=2", "evaluation.conditions=[]",
    "data.max_train_audio=64", "data.max_train_vl=64", "data.max_train_text=64",
)  # fmt: skip


def main() -> None:
    """Runs the training under a profiler of calls."""
    called: dict[Path, set[tuple[str, int]]] = {}
    frames: list[str] = []

    def profile(frame: FrameType, event: str, _argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and _is_ours(path):
            called.setdefault(path, set()).add((frame.f_code.co_name, frame.f_code.co_firstlineno))

    zero_grad = torch.optim.Optimizer.zero_grad

    def begin(optimizer: torch.optim.Optimizer, *arguments: Any, **options: Any) -> None:
        """The trainer's first call in a step."""
        zero_grad(optimizer, *arguments, **options)
        sys.setprofile(profile)

    def end(_optimizer: torch.optim.AdamW, *_arguments: Any, **_options: Any) -> None:
        sys.setprofile(None)
        frames.extend(_frames(sys._getframe(1)))
        raise _ReachedError

    torch.optim.Optimizer.zero_grad = begin  # type: ignore[method-assign]
    torch.optim.AdamW.step = end  # type: ignore[method-assign]
    from safe_train.cli import train

    with tempfile.TemporaryDirectory() as folder:
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        arguments = [*sys.argv[1:], "--max-steps", "1", "--output-root", folder, *settings]
        with suppress(_ReachedError):
            train(arguments, standalone_mode=False)
    total = 0
    for path, functions in called.items():
        lines = _lines(path, {line for _, line in functions})
        total += lines
        names = ", ".join(sorted({name for name, _ in functions if not name.startswith("<")}))
        print(f"{path.relative_to(ROOT)}: {lines} lines of {len(path.read_text().splitlines())}: {names}")
    print(f"\n{len(called)} files, {total} lines of functions that ran, {sum(_length(path) for path in called)} in all")
    print(f"{len(frames)} frames to the optimizer's step: {' > '.join(reversed(frames))}")


class _ReachedError(Exception):
    """The optimizer's step is reached: the run need not go on."""


def _is_ours(path: Path) -> bool:
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES


def _frames(frame: FrameType | None) -> list[str]:
    found = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if _is_ours(path):
            found.append(f"{path.stem}.{frame.f_code.co_name}")
        frame = frame.f_back
    return found


def _length(path: Path) -> int:
    return len(path.read_text().splitlines())


def _lines(path: Path, starts: set[int]) -> int:
    """Lines of the functions that begin on these lines; those inside another are counted once."""
    tree = ast.parse(path.read_text())
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first in starts or node.lineno in starts:
                inside |= set(range(first, (node.end_lineno or first) + 1))
    return len(inside)


if __name__ == "__main__":
    main()
