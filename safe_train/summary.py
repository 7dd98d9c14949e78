"""The closing table of one or more runs, and the picture of audio gain against VL change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_train.errors import InputError

SUMMARY = "summary.txt"
PICTURE = "audio_gain_vs_vl_change.png"
HEADER = (
    "run",
    "VL base",
    "bypass",
    "silence",
    "distractor",
    "changed",
    "KL",
    "audio",
    "silent",
    "other clip",
    "seconds",
)


@dataclass(frozen=True)
class RunSummary:
    """The figures of a run that a table shows.

    Attributes:
        name: variant and seed.
        folder: the run's folder.
        metrics: what its ``metrics.json`` holds.
    """

    name: str
    folder: Path
    metrics: dict[str, Any]

    def cells(self) -> tuple[str, ...]:
        """One row under ``HEADER``: accuracies in percent, VL conditions as differences from the base in points."""
        evaluation = self.metrics["evaluation"]
        vl, audio = evaluation["vl"], evaluation["audio"]
        return (
            self.name,
            _percent(evaluation["base"]),
            "bit-equal" if vl["bypass"]["bit_equal"] else "DIFFERS",
            _points(vl["silence"]["difference"]),
            _points(vl["distractor"]["difference"]),
            f"{100 * vl['distractor']['answer_change_rate']:.1f} %",
            f"{vl['distractor']['kl']:.4f}",
            _percent(audio["matched"]["accuracy"]),
            _percent(audio["silence"]["accuracy"]),
            _percent(audio["distractor"]["accuracy"]),
            f"{self.metrics['training']['seconds']:.0f} + {evaluation['seconds']:.0f}",
        )

    def warnings(self) -> list[str]:
        """What a reader must know before believing the row."""
        found = [f"{self.name}: {name} was on but never became active" for name in self.metrics["training"]["inactive"]]
        for condition, result in self.metrics["evaluation"]["vl"].items():
            if condition != "bypass" and not result["is_measurement"]:
                found.append(f"{self.name}: {condition}: the fusion had no effect; this is not a retention measurement")
        if not self.metrics["evaluation"]["vl"]["bypass"]["bit_equal"]:
            found.append(f"{self.name}: the bypass is not the base bit for bit")
        return found


def read_summary(run: Path) -> RunSummary:
    """Reads a finished run.

    Raises:
        InputError: it has no ``metrics.json``, or not one of ours.
    """
    path = run / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        summary = RunSummary(f"{metrics['variant']} {metrics['seed']}", run, metrics)
        format_table([summary])  # looks up every figure
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(path, "the metrics of a finished run", got, "name the folder of a finished run") from error
    return summary


def format_table(runs: Sequence[RunSummary]) -> str:
    """The table as plain text, columns aligned, with its reading notes and warnings."""
    lines = [HEADER, *(run.cells() for run in runs)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    notes = [
        "VL base: accuracy of the untouched base. silence, distractor: change with that audio attached, in points,",
        "with 95 % intervals. changed, KL: share of answers changed and divergence from the base under distractors.",
        "audio: exact match with the clip; silent, other clip: the same questions without it. seconds: training +",
        "evaluation.",
    ]
    warnings = [f"WARNING {warning}" for run in runs for warning in run.warnings()]
    return "\n".join([*text, "", *notes, *warnings]) + "\n"


def draw_picture(runs: Sequence[RunSummary], path: Path) -> None:
    """One point a run and condition: audio gain across, VL change under that condition up, with its interval.

    Raises:
        InputError: the picture cannot be written there.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.8), layout="constrained")
    colors = {name: f"C{index}" for index, name in enumerate(dict.fromkeys(run.metrics["variant"] for run in runs))}
    for run in runs:
        evaluation = run.metrics["evaluation"]
        audio = evaluation["audio"]
        gain = 100 * (audio["matched"]["accuracy"]["mean"] - audio["silence"]["accuracy"]["mean"])
        for condition, marker in (("distractor", "o"), ("silence", "^")):
            change = {key: 100 * value for key, value in evaluation["vl"][condition]["difference"].items()}
            spread = [[change["mean"] - change["low"]], [change["high"] - change["mean"]]]
            color = colors[run.metrics["variant"]]
            axes.errorbar([gain], [change["mean"]], yerr=spread, fmt=marker, color=color, capsize=3, alpha=0.85)
    for name, color in colors.items():
        axes.plot([], [], "o", color=color, label=name)
    axes.plot([], [], "o", color="gray", label="distractor")
    axes.plot([], [], "^", color="gray", label="silence")
    axes.axhline(0.0, color="gray", linewidth=0.8)
    axes.set(xlabel="audio gain: matched minus silent clip (points)", ylabel="VL accuracy minus base (points)")
    axes.set_title("What hearing costs in seeing (95 % intervals)")
    axes.legend(fontsize="small")
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:  # ValueError: a suffix that is no picture's
        got = " ".join(str(error).split())
        raise InputError(
            path, "a picture that can be written", got, "name a .png file in an existing folder"
        ) from error
    finally:
        plt.close(figure)


def _percent(estimate: dict[str, float]) -> str:
    return f"{100 * estimate['mean']:.1f} %"


def _points(estimate: dict[str, float]) -> str:
    mean, low, high = (100 * estimate[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
