"""Draws what each arm loses and how much it does not hear, over the grid of learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.tables import Figures
from safe_train.errors import InputError

COLUMNS = 4
_LABEL = (55.0, 12.0)
"""Width and height of a label in pixels, 100 an inch."""
_LINEAR = 1.0  # points up to which the axes are linear, and logarithmic beyond

Place = tuple[float, float]
"""Clips that are not heard in percent, loss in points; less is better in both."""


def place(point: Mapping[str, Any]) -> Place:
    """Where a point of the grid stands; a gain counts as no loss."""
    return 100.0 - point["audio"], max(0.0, -point["worst"])


def front(places: Sequence[Place]) -> list[Place]:
    """The places that no other beats in one respect without losing in the other, from left to right."""
    found: list[Place] = []
    for missed, loss in sorted(set(places)):
        if not found or loss < found[-1][1]:
            found.append((missed, loss))
    return found


def draw_front(by_arm: Mapping[str, Figures], title: str, path: Path) -> None:
    """A panel for each arm: its grid with the rates beside the points, the choice filled, and the front of all arms.

    Args:
        by_arm: what :func:`experiments.tuning.tuned` gives.
        title: of the figure.
        path: an SVG or PNG file.

    Raises:
        InputError: there is no arm, or the picture cannot be written.
    """
    if not by_arm:
        raise InputError("front", "arms with a grid of learning rates", "none", "run tune first")
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    best = front([place(point) for arm in by_arm.values() for point in arm["points"]])
    rows = math.ceil(len(by_arm) / COLUMNS)
    size = (2.9 * min(COLUMNS, len(by_arm)), 2.7 * rows + 0.4)
    style: dict[Any, Any] = {"svg.hashsalt": "front", "svg.fonttype": "none", "font.size": 8}
    with mpl.rc_context(style):
        figure, grid = plt.subplots(
            rows, min(COLUMNS, len(by_arm)), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
        )
        panels = list(grid.flat)
        for axes, (name, arm) in zip(panels, by_arm.items(), strict=False):
            axes.step(*zip(*best, strict=True), where="post", color="0.7", linewidth=3, zorder=1)
            places = [place(point) for point in arm["points"]]
            axes.plot(*zip(*places, strict=True), color="black", linewidth=0.8, zorder=2)
            for point, (missed, loss) in zip(arm["points"], places, strict=True):
                chosen = point["rate"] == arm["chosen"]
                axes.plot(missed, loss, "o", color="black", mfc="black" if chosen else "white", markersize=5, zorder=3)
            axes.set_title(name, fontsize=9)
            axes.set_xscale("symlog", linthresh=_LINEAR)
            axes.set_yscale("symlog", linthresh=_LINEAR)
            axes.set_xlim(-0.15, 150)
            axes.set_ylim(-0.15, 150)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:g}")
        figure.canvas.draw()  # settles where things are
        for axes, arm in zip(panels, by_arm.values(), strict=False):
            _label(axes, arm)
        for axes in panels[len(by_arm) :]:
            axes.set_axis_off()
        figure.supxlabel("clips not heard (%)")
        figure.supylabel("loss in the worst condition (points)")
        figure.suptitle(f"{title}: beside each point its learning rate; filled: chosen; gray: front of all arms")
        try:
            metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=150, metadata=metadata)
        except (OSError, ValueError) as error:  # ValueError: a suffix that is no picture's
            got = " ".join(str(error).split())
            raise InputError(path, "a picture that can be written", got, "name an .svg or .png file") from error
        finally:
            plt.close(figure)


def _label(axes: Any, arm: Figures) -> None:
    """Writes each point's rate beside it, from the least loss upwards, each above those that it would cover."""
    written: list[tuple[float, float]] = []
    for point in sorted(arm["points"], key=lambda point: place(point)[1]):
        x, y = axes.transData.transform(place(point))
        taken = sorted(height for across, height in written if abs(across - x) < _LABEL[0])
        for height in taken:
            if abs(height - y) < _LABEL[1]:
                y = height + _LABEL[1]
        written.append((x, y))
        label = axes.annotate(
            _rate(point["rate"]), axes.transData.inverted().transform((x, y)), (5, 0),
            textcoords="offset points", va="center", zorder=4, annotation_clip=False,
        )  # fmt: skip
        label.set_fontweight("bold" if point["rate"] == arm["chosen"] else "normal")


def _rate(rate: float) -> str:
    """Short: 4e-3."""
    digits, exponent = f"{rate:.3e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"
