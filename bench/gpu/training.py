"""The whole program on the GPU: `safe-train` on the embedded base for a few steps, evaluated, and a resume."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.gpu.rows import RowWriter
from bench.rehearsal import sized

STEPS = sized(20, 4)
CHECKPOINT_EVERY = STEPS // 2
ROWS = sized(8, 2)
LARGEST_DIFFERENCE = 0.02
"""Of the last step's audio loss, between going on and never having stopped: a GPU's sums have no fixed order."""

SETTINGS = (
    f"checkpoint_every={CHECKPOINT_EVERY}", "log_every=1", "retention.fisher_start_ratio=0.1",
    f"retention.fisher_samples={2 * ROWS}", f"retention.null_space_min_samples={2 * ROWS}",
    f"optimization.audio_batch_size={ROWS}", f"optimization.vl_batch_size={ROWS}",
    f"evaluation.max_vl={sized(40, 6)}", f"evaluation.max_audio={sized(24, 4)}",
)  # fmt: skip
LIMIT = sized(50, 200)
"""Seconds for each of the two."""


def safe_train(*arguments: str) -> None:
    """Runs the program.

    Raises:
        RuntimeError: it does not end well; the error holds the end of what it wrote.
    """
    command = [sys.executable, "-m", "safe_train", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command[1:])}: exit code {done.returncode}: {(done.stdout + done.stderr)[-1500:]}"
        )


def metrics(run: Path) -> dict[int, dict[str, float]]:
    """The logged values of each step."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["step"]: line for line in map(json.loads, lines)}


def started(data: Path, root: Path) -> Path:
    """Trains and evaluates; returns the run's folder."""
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    device = sized("cuda", "cpu")
    safe_train(
        "--variant", "full_retention", "--device", device, "--max-steps", str(STEPS), "--data-root", str(data),
        "--output-root", str(root), *settings,
    )  # fmt: skip
    (run,) = (path for path in root.iterdir() if path.is_dir())
    if len(metrics(run)) != STEPS or not (run / "metrics.json").is_file():
        raise RuntimeError(f"{run}: expected {STEPS} steps and an evaluation")
    return run


def resumed(run: Path) -> dict[str, float]:
    """Loses the newest checkpoint and the evaluation, goes on, and compares the last step with the first run's."""
    before = metrics(run)[STEPS]
    shutil.rmtree(sorted((run / "checkpoints").iterdir())[-1])
    (run / "metrics.json").unlink()
    safe_train("--resume", str(run))
    after = metrics(run)[STEPS]
    if not (run / "metrics.json").is_file():
        raise RuntimeError(f"{run}: expected an evaluation after the resume")
    if not abs(after["audio_loss"] / before["audio_loss"] - 1.0) < LARGEST_DIFFERENCE:
        raise RuntimeError(f"audio loss after the resume: expected {before['audio_loss']}, got {after['audio_loss']}")
    return {f"{name}, {turn}": found[name] for turn, found in (("first", before), ("again", after)) for name in found}


def main() -> int:
    """Writes a row for the run and one for the resume."""
    from bench.stages import data_folder

    rows = RowWriter()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        start = time.monotonic()
        run = started(data_folder(root / "data"), root / "runs")
        results = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        rows.add("run", "passed", results["training"], seconds=time.monotonic() - start)
        start = time.monotonic()
        rows.add("resume", "passed", resumed(run), seconds=time.monotonic() - start)
    return 0


if __name__ == "__main__":
    sys.exit(main())
