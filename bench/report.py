"""Turn a benchmark's JSON into tables and a plot.

    pytest bench/ --benchmark-only --benchmark-json=results.json
    python -m bench.report results.json --output docs/kernels

writes `measured.md` (one table a size, and the error table) and `measured.svg` (each row's share of the limit).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.measure import OURS, Limits, Work

Info = dict[str, Any]


def rows_of(document: Info) -> list[Info]:
    """The rows of a benchmark document, in order, each with its `floor`: the seconds its work takes at least.

    A device's speeds are the best of those measured beside the rows.
    """
    rows = [entry["extra_info"] for entry in document["benchmarks"] if "seconds" in entry["extra_info"]]
    found = []
    for row in rows:
        same = [other for other in rows if other["device"] == row["device"]]
        limits = Limits(max(r["limit_flops"] for r in same), max(r["limit_bandwidth"] for r in same))
        found.append({**row, "floor": limits.floor(Work(row["flops"], row["traffic"]))})
    return found


def markdown(document: Info) -> str:
    """All tables."""
    rows = rows_of(document)
    lines = ["# Measured", ""]
    if rows:
        first = rows[0]
        processors = document.get("machine_info", {}).get("cpu", {}).get("brand_raw", first["device"])
        devices = ", ".join(dict.fromkeys(row["device"] for row in rows))
        lines += [
            'Made by `pytest bench/ -m "small or slow" --benchmark-only --benchmark-json=results.json` and',
            "`python -m bench.report results.json --output docs/kernels`.",
            "",
            f"Devices: {devices} ({processors}), {first['threads']} thread(s), torch {first['torch']}.",
            "Speed-up: a peer's time over ours, not given where our result is wrong. Share of the limit: time that the",
            "arithmetic or the memory traffic takes at least, at speeds measured in the same run, over the time taken.",
            f"Limits: {max(row['limit_flops'] for row in rows) / 1e9:.0f} GFLOP/s in matrix products, "
            f"{max(row['limit_bandwidth'] for row in rows) / 1e9:.1f} GB/s in copies.",
            "Extra memory: largest sum of tensors alive at once, above those alive before.",
            "",
        ]
    for operation, size in dict.fromkeys((row["operation"], row["size"]) for row in rows):
        lines += _table(operation, size, [row for row in rows if (row["operation"], row["size"]) == (operation, size)])
    return "\n".join(lines + _error_table(document) + _stage_a_table(document)) + "\n"


def speed_up(row: Info, ours: Info | None) -> str:
    """A peer's time over ours; refused for a wrong result of ours."""
    if ours is None or row is ours:
        return ""
    if not ours["error"] <= ours["tolerance"]:
        return "refused: our result is wrong"
    return f"{row['seconds'] / ours['seconds']:.2f}x"


def _table(operation: str, size: str, rows: Sequence[Info]) -> list[str]:
    ours = next((row for row in rows if row["implementation"] == OURS), None)
    lines = [
        f"## {operation}",
        "",
        f"{size}.",
        "",
        "| implementation | time | achieved | share of limit | extra memory | error | speed-up of ours |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['implementation']} | {_seconds(row['seconds'])} | {_achieved(row)} | "
        f"{row['floor'] / row['seconds']:.0%} | {row['peak_extra_bytes'] / 1e6:.1f} MB | {row['error']:.1e} | "
        f"{speed_up(row, ours)} |"
        for row in rows
    ]
    return [*lines, ""]


def _error_table(document: Info) -> list[str]:
    entries = [entry["extra_info"] for entry in document["benchmarks"] if "error_table" in entry["extra_info"]]
    if not entries:
        return []
    lines = [
        "## Error against float64 as student and teacher come close",
        "",
        f"{entries[0]['error_table']}.",
        "",
        "| implementation | KL | error of KL | error of the gradient |",
        "|---|---|---|---|",
    ]
    for entry in entries:
        figures = (entry["divergence"], entry["value_error"], entry["gradient_error"])
        lines.append(f"| {entry['implementation']} | " + " | ".join(f"{figure:.1e}" for figure in figures) + " |")
    return [*lines, ""]


def _stage_a_table(document: Info) -> list[str]:
    entries = [entry["extra_info"] for entry in document["benchmarks"] if "stage_a_step" in entry["extra_info"]]
    baseline = next((entry["step_seconds"] for entry in entries if entry["stage_a_step"] == "no_retention"), None)
    if baseline is None:
        return []
    lines = [
        "## A Stage A step of the embedded model",
        "",
        "Both read the same audio and VL rows; without retention the VL rows are trained on by cross-entropy.",
        "",
        "| variant | time of a step | extra memory | times no_retention |",
        "|---|---|---|---|",
    ]
    for entry in entries:
        memory, ratio = entry["peak_extra_bytes"] / 1e6, entry["step_seconds"] / baseline
        lines.append(
            f"| {entry['stage_a_step']} | {_seconds(entry['step_seconds'])} | {memory:.1f} MB | {ratio:.2f}x |"
        )
    return [*lines, ""]


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.2f} ms"


def _achieved(row: Info) -> str:
    if row["flops"]:
        return f"{row['flops'] / row['seconds'] / 1e9:.1f} GFLOP/s"
    return f"{row['traffic'] / row['seconds'] / 1e9:.1f} GB/s"


def plot(document: Info, path: Path) -> None:
    """A bar a row: share of the limit, ours apart from the peers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = rows_of(document)[::-1]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.28 * len(rows)), layout="constrained")
    colors = ["#0b6e4f" if row["implementation"].startswith(OURS) else "#a0a7ad" for row in rows]
    axes.barh(range(len(rows)), [row["floor"] / row["seconds"] for row in rows], color=colors)
    labels = [f"{row['operation'].split(',')[0]} ({row['size']}): {row['implementation']}" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("share of the limit (1 is as fast as the hardware's arithmetic or memory allows)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON written by pytest --benchmark-json")
    parser.add_argument("--output", type=Path, default=Path("docs/kernels"), help="folder for the page and the plot")
    arguments = parser.parse_args()
    if not arguments.results.is_file():
        parser.error(f"{arguments.results}: expected what pytest --benchmark-json writes, got no file")
    document = json.loads(arguments.results.read_text(encoding="utf-8"))
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "measured.md").write_text(markdown(document), encoding="utf-8")
    plot(document, arguments.output / "measured.svg")
    print(f"wrote {arguments.output / 'measured.md'} and {arguments.output / 'measured.svg'}")


if __name__ == "__main__":
    main()
