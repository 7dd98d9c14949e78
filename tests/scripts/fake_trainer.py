"""Stands in for both training commands: the same arguments, run folders, signals and exit codes, and no model.

``FAKE_STEPS`` steps of ``FAKE_SECONDS`` each, or forever where it is 0; ``FAKE_EXIT`` is the exit code of a variant
that fails, as ``VARIANT:CODE``; ``FAKE_DEAF`` leaves signals to their default action, as Python does while it imports.
A file named by ``SAFE_STOP_FILE`` stops it, too, and it alone with ``FAKE_IMMUNE``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

EXIT_REQUEUE = 75


def parse(arguments: list[str]) -> dict[str, str]:
    """Options and settings by their last name."""
    values = {}
    for name, value in zip(arguments[::2], arguments[1::2], strict=True):
        key, text = value.split("=", 1) if name == "--set" else (name.removeprefix("--").replace("-", "_"), value)
        values[key] = text
    return values


def new_folder(values: dict[str, str]) -> Path:
    """A run folder with its ``config.json``."""
    number = len(list(Path(values["output_root"]).glob("*/config.json")))
    folder = Path(values["output_root"]) / f"20260101-{number:06d}_{values['variant']}"
    (folder / "checkpoints").mkdir(parents=True)
    config = {
        "label": values["variant"],
        "seed": int(values["seed"]),
        "job": os.environ.get("SAFE_JOB_ID"),
        "given": values,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def main() -> int:
    """Trains; returns the exit code."""
    stopped = []
    immune = "FAKE_IMMUNE" in os.environ
    if "FAKE_DEAF" not in os.environ:
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN if immune else lambda number, _frame: stopped.append(number))
    values = parse(sys.argv[1:])
    folder = Path(values["resume"]) if "resume" in values else new_folder(values)
    variant, _, code = os.environ.get("FAKE_EXIT", "").partition(":")
    if variant and folder.name.endswith(variant):
        return int(code)
    step = len(list((folder / "checkpoints").iterdir()))
    total = int(os.environ.get("FAKE_STEPS", "1"))
    while step < total or total == 0:
        (folder / "training").touch()
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        step += 1
        if Path(os.environ.get("SAFE_STOP_FILE", "/no/such/file")).exists():
            stopped.append(0)
        if stopped or "FAKE_DEAF" in os.environ:
            (folder / "checkpoints" / f"step-{step:06d}").mkdir()
        if stopped:
            return EXIT_REQUEUE
    (folder / "metrics.json").write_text("{}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
