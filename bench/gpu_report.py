"""Turn what `python -m bench.gpu_run` found into a page and a plot.

python -m bench.gpu_report gpu-results                      writes docs/kernels/measured-gpu.md and .svg
python -m bench.gpu_report first second                     of several runs, each figure from the last that has it
python -m bench.gpu_report rehearsal --output /tmp/page     elsewhere; docs/ takes no figures of a rehearsal
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.gpu.results import OtherResultsError, read_results
from bench.gpu.sources import ROOT, source_digest
from bench.measure import OURS
from bench.report import plot, rows_of, speed_up

PAGE = "measured-gpu"
DOCS = ROOT / "docs"

Document = dict[str, Any]
Figures = dict[str, Any]


def figures_of(document: Document, step: str) -> list[Figures]:
    """What the rows of a step measured, with the row's own name, outcome and message."""
    rows = document["steps"].get(step, {}).get("rows", [])
    return [
        {
            "row": row["name"],
            "outcome": row["outcome"],
            "message": row["message"],
            "run": row.get("run"),
            **row.get("figures", {}),
        }
        for row in rows
    ]


def merged(documents: Sequence[Document]) -> Document:
    """Several runs as one: each row from the last run that has it, with that run's number; benchmarks of all runs.

    Raises:
        OtherResultsError: runs of different GPUs, or a rehearsal beside a run.
    """
    names = sorted({str(_gpu_name(document)) for document in documents if _gpu_name(document) is not None})
    if len(names) > 1:
        raise OtherResultsError(f"expected runs of one kind of GPU, got {', '.join(names)}")
    if len({document["rehearsal"] for document in documents}) > 1:
        raise OtherResultsError("expected runs on a GPU or rehearsals, got both")
    rows: dict[str, dict[str, Figures]] = {}
    for number, document in enumerate(documents, 1):
        for step, result in document["steps"].items():
            of_run = f", run {number}" if step == "benchmarks" else ""
            named = {row["name"] + of_run: row | {"run": number} for row in result["rows"]}
            rows.setdefault(step, {}).update(named)
    steps = {step: {"rows": list(found.values())} for step, found in rows.items()}
    return {"rehearsal": documents[0]["rehearsal"], "steps": steps}


def _gpu_name(document: Document) -> str | None:
    found = next((row for row in figures_of(document, "environment") if row["row"] == "gpu"), {})
    return found.get("name")


def markdown(*documents: Document) -> str:
    """The page of one run, or of several, the newest last."""
    document = merged(documents)
    title = "# Rehearsal: nothing here was measured on a GPU" if document["rehearsal"] else "# Measured on a GPU"
    numbers = [f", run {number}" if len(documents) > 1 else "" for number in range(1, len(documents) + 1)]
    runs = zip(documents, numbers, strict=True)
    parts = [
        [title, "", "Made by `python -m bench.gpu_run` and `python -m bench.gpu_report`.", ""],
        *(part for run, number in runs for part in (_context(run, number), _steps(run, number))),
        _operations(document),
        _benchmarks(document),
        _sweeps(document),
        _stage_a(document),
        _training(document),
        _profiles(document),
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown, and an empty line."""
    body = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *body, ""]


def _context(document: Document, number: str) -> list[str]:
    """Device, driver, versions, and which code it was."""
    found = {row["row"]: row for row in figures_of(document, "environment")}
    software, gpu, tools = (found.get(name, {}) for name in ("software", "gpu", "tools"))
    steps = document["steps"].values()
    digests = list(dict.fromkeys(step["digest"].partition(",")[0] for step in steps if "digest" in step))
    commits = list(dict.fromkeys(step["commit"] for step in steps if step.get("commit")))
    same = " (of the tree that wrote this page)" if digests == [source_digest()] else ""
    names = ("python", "torch", "triton", "transformers", "numpy", "liger-kernel", "fla-core")
    sources = (
        f"Sources: digest {', '.join(digests)}{same}; commit {', '.join(commits) or 'unknown, no version control'}."
    )
    if not found:
        unknown = "Device and versions: not recorded, since the step `environment` was not run."
        return [f"## Machine{number}", "", unknown, sources, ""]
    lines = [
        f"## Machine{number}",
        "",
        f"Device: {gpu.get('name', 'none')}, driver {gpu.get('driver_version', 'unknown')}, "
        f"CUDA {gpu.get('cuda', 'none')}, clock {gpu.get('clocks.sm', '?')} of {gpu.get('clocks.max.sm', '?')}, "
        f"power limit {gpu.get('power.limit', '?')}.",
        "Versions: " + ", ".join(f"{name} {software.get(name) or 'not installed'}" for name in names) + ".",
        sources,
    ]
    return [*lines, *([f"Compiler: {tools['nvcc']}."] if "nvcc" in tools else []), ""]


def _steps(document: Document, number: str) -> list[str]:
    """What ran, and what did not."""
    rows = []
    for name, step in document["steps"].items():
        outcomes = [row["outcome"] for row in step["rows"]]
        counts = ", ".join(str(outcomes.count(kind)) for kind in ("passed", "failed", "skipped"))
        if "selected" in step:
            name = f"{name}, `{step['selected']}`"
        rows.append((name, step["state"], f"{step['seconds']:.0f} s", counts, _first_line(step["message"])))
    failed = [
        f"- {row['row']}: {_first_line(row['message'])}"
        for step in ("kernels", "native")
        for row in figures_of(document, step)
        if row["outcome"] == "failed"
    ]
    told = ["Failed tests:", "", *failed, ""] if failed else []
    warned = [
        f"- {step}: {_first_line(text)} ({where})"
        for step in document["steps"]
        for row in figures_of(document, step)
        for text, where in row.get("warnings", {}).items()
    ]
    told += ["Warnings:", "", *warned, ""] if warned else []
    head = ("step", "result", "time", "passed, failed, skipped", "")
    return [f"## Steps{number}", "", *table(head, rows), *told]


def _operations(document: Document) -> list[str]:
    """Errors of each operation at a native size."""
    rows = [
        (
            row["row"].split("[")[-1].rstrip("]"),
            row["outcome"],
            ", ".join(f"{e:.1e}" for e in row.get("errors", [])[:2]),
        )
        for row in figures_of(document, "operations")
    ]
    head = ("operation, size, dtype", "result", "errors against float64 (value, gradient; or the first two tensors)")
    return ["## Errors", "", *table(head, rows)] if rows else []


def _benchmarks(document: Document) -> list[str]:
    """One table an operation and size."""
    found = benchmark_rows(document)
    lines = [
        "## Time",
        "",
        "On the device: between events behind a stream that is held until all calls are queued. On the host: until a",
        "call returns on an empty queue. Share of the floor: time that arithmetic or memory traffic takes at least, at",
        "the speeds of a large matrix product and a large copy in the same run, over the time on the device. Speed-up:",
        "a peer's time on the device over ours, not given where our result is wrong.",
        "`*`: the host could not be kept ahead, and the time on the device contains some of its own.",
        "",
    ]
    runs = list(dict.fromkeys(row["run"] for row in found))
    for run in runs:
        row = next(row for row in found if row["run"] == run)
        flops, bandwidth = row["limit_flops"] / 1e12, row["limit_bandwidth"] / 1e12
        lines += [f"Speeds{f' of run {run}' if len(runs) > 1 else ''}: {flops:.0f} TFLOP/s, {bandwidth:.2f} TB/s.", ""]
    head = ("implementation", "device", "host", "share of floor", "extra memory", "error", "speed-up of ours")
    for operation, size, run in dict.fromkeys((row["operation"], row["size"], row["run"]) for row in found):
        rows = [row for row in found if (row["operation"], row["size"], row["run"]) == (operation, size, run)]
        ours = next((row for row in rows if row["implementation"] == OURS), None)
        cells = [_benchmark_cells(row, ours) for row in rows]
        of_run = f" Run {run}." if len(runs) > 1 else ""
        lines += [f"### {operation}", "", f"{size}.{of_run}", "", *table(head, cells)]
    last = {row["row"]: row for row in figures_of(document, "benchmarks")}
    absent = [row for row in last.values() if row["outcome"] != "passed"]
    if absent:
        lines += ["Not measured:", ""]
        lines += [f"- {row['row'].split('::')[-1]}: {_first_line(row['message'])}" for row in absent]
        lines.append("")
    return lines


def benchmark_rows(document: Document) -> list[Figures]:
    """The rows of the benchmarks that were measured, each with its floor by the speeds of its own run.

    Of several runs, an operation and size have those of the last run that has any. Where that has measured only some
    of the implementations, those of the last run with most of them come first, its own after them: ratios are within a
    run.
    """
    passed = [row for row in figures_of(document, "benchmarks") if row["outcome"] == "passed" and "limit_flops" in row]
    found = []
    for operation, size in dict.fromkeys((row["operation"], row["size"]) for row in passed):
        rows = [row for row in passed if (row["operation"], row["size"]) == (operation, size)]
        counts = Counter(row["run"] or 0 for row in rows)
        fullest = max(counts, key=lambda run: (counts[run], run))
        for run in sorted({fullest, max(counts)}):
            found += rows_of({"benchmarks": [{"extra_info": row} for row in rows if (row["run"] or 0) == run]})
    return found


def _benchmark_cells(row: Figures, ours: Figures | None) -> tuple[str, ...]:
    host = row["host_seconds"]
    return (
        row["implementation"],
        duration(row["seconds"]) + ("*" if row["device_waits"] else ""),
        "" if host is None else duration(host),
        f"{row['floor'] / row['seconds']:.0%}",
        f"{row['peak_extra_bytes'] / 1e6:.1f} MB",
        f"{row['error']:.1e}",
        speed_up(row, ours),
    )


def _sweeps(document: Document) -> list[str]:
    """One line a constant and size."""
    found = [row for row in figures_of(document, "sweeps") if "sweep" in row]
    rows = []
    for place, size in dict.fromkeys((row["sweep"], row["size"]) for row in found):
        points = [row for row in found if (row["sweep"], row["size"]) == (place, size)]
        cells = "; ".join(f"{row['value']}: {_point(row)}" for row in points)
        rows.append((f"`{place}`", size, cells))
    return ["## Constants of the launches", "", *table(("constant", "size", "time"), rows)] if rows else []


def _point(row: Figures) -> str:
    if row["outcome"] != "passed":
        return _first_line(row["message"])[:80]
    if "seconds" not in row:
        return "runs"
    return duration(row["seconds"]) + ("*" if row.get("device_waits") else "")


def _stage_a(document: Document) -> list[str]:
    """Planned and measured memory and time of a step."""
    found = [row for row in figures_of(document, "stage_a") if "stage_a" in row]
    if not found:
        return []
    baseline = next((row["seconds"][1] for row in found if row["stage_a"] == "no_retention" and "seconds" in row), None)
    rows = []
    for row in found:
        if row["outcome"] != "passed":
            rows.append((row["stage_a"], _first_line(row["message"]), "", "", "", "", ""))
            continue
        measured = row["seconds"][1]
        assumed = f"{row['planned_seconds']:.3f} s" if "planned_seconds" in row else ""
        sizes = (_pair(*(size / 1e9 for size in row[name])) for name in ("held", "peak", "calibrated"))
        ratio = f"{measured / baseline:.2f}" if baseline else ""
        rows.append((row["stage_a"], *sizes, _pair(*row["seconds"]), assumed, ratio))
    head = ("variant", "held, GB", "peak of a step, GB", "peak with calibrations, GB", "a step, s")
    head = (*head, "a step by the data sheet", "times no_retention")
    about = "Random weights in the shape of LLaVA-1.5-7B, bfloat16, four audio and four protected rows a step."
    lines = ["## Stage A", "", about, "Each: planned / measured (deviation).", "", *table(head, rows)]
    return [*lines, *_step_parts(document), *_same_rows(document)]


def _step_parts(document: Document) -> list[str]:
    """Where the time of a step of full retention goes, and how long the device works in it."""
    found = figures_of(document, "stage_a")
    parts = next((dict(row["parts"]) for row in found if "parts" in row), None)
    if parts is None:
        return []
    together = parts.pop("together")
    # Medians of the parts, as the first files hold them, may add up to more than that of the whole.
    parts["the rest"] = max(0.0, together - sum(parts.values()))
    rows = [(name, duration(seconds), f"{seconds / together:.0%}") for name, seconds in parts.items()]
    told = ["A step of full retention by its parts, the device idle before and after each:", ""]
    lines = [*told, *table(("part", "time", "share"), [*rows, ("together", duration(together), "")])]
    busy = next((row["busy_seconds"] for row in found if "busy_seconds" in row), None)
    step = next((row["seconds"][1] for row in found if row.get("stage_a") == "full_retention" and "seconds" in row), 0)
    if busy is not None and step:
        lines += [f"The device is busy for {duration(busy)} of a step's {duration(step)}: {busy / step:.0%}.", ""]
    return lines


def _same_rows(document: Document) -> list[str]:
    """The price of retention where the baseline reads the protected rows as well."""
    row = next((row for row in figures_of(document, "stage_a") if "ratio" in row), None)
    if row is None:
        return []
    what = "Full retention against training on the same rows, the protected ones by plain cross-entropy"
    return [f"{what}: {row['ratio']:.2f} ± {row['spread']:.2f} (median of the ratio within a round).", ""]


def _pair(planned: float, measured: float) -> str:
    if not measured:
        return f"{planned:.3g} / not measured"
    return f"{planned:.3g} / {measured:.3g} ({100 * (planned / measured - 1):+.0f} %)"


def _training(document: Document) -> list[str]:
    """The program itself."""
    found = figures_of(document, "training")
    rows = []
    for row in found:
        figures = {key: value for key, value in row.items() if isinstance(value, int | float) and "loss" in key}
        figures |= {key: value for key, value in row.get("last", {}).items() if "loss" in key}
        rows.append((row["row"], row["outcome"], ", ".join(f"{key}: {value:.4g}" for key, value in figures.items())))
    return ["## safe-train on the embedded base", "", *table(("part", "result", "figures"), rows)] if rows else []


def _profiles(document: Document) -> list[str]:
    """The kernels that take most time."""
    lines = []
    for row in [*figures_of(document, "stage_a"), *figures_of(document, "profile")]:
        if "kernels" in row:
            cells = [
                (f"`{k['kernel'][:90]}`", str(k["calls"]), f"{k['microseconds']:.0f}") for k in row["kernels"][:12]
            ]
            lines += [f"### {row['profile']}", "", *table(("kernel", "calls", "µs"), cells)]
        if "counters" in row:
            names = list(dict.fromkeys(name for launch in row["counters"] for name in launch))
            cells = [[launch.get(name, "") for name in names] for launch in row["counters"]]
            lines += ["### Hardware counters", "", *table(names, cells)]
    return ["## Kernels", "", *lines] if lines else []


def duration(seconds: float) -> str:
    """In a unit that leaves few zeros."""
    if seconds >= 1.0:
        return f"{seconds:.2f} s"
    return f"{1e3 * seconds:.2f} ms" if seconds >= 1e-4 else f"{1e6 * seconds:.1f} µs"


def _first_line(message: object) -> str:
    return str(message or "").split("\n")[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results", type=Path, nargs="+", help="folder that python -m bench.gpu_run has written; several in order"
    )
    parser.add_argument("--output", type=Path, default=DOCS / "kernels", help="folder for the page and the plot")
    options = parser.parse_args(arguments)
    try:
        documents = [read_results(folder) for folder in options.results]
        document = merged(documents)
    except OtherResultsError as error:
        parser.error(str(error))
    if document["rehearsal"] and options.output.resolve().is_relative_to(DOCS):
        parser.error(
            f"{options.results[0]}: expected figures of a GPU for {options.output}, got those of a rehearsal; "
            "name another folder by --output"
        )
    options.output.mkdir(parents=True, exist_ok=True)
    page = options.output / f"{PAGE}.md"
    page.write_text(markdown(*documents), encoding="utf-8")
    print(f"wrote {page}")
    if rows := benchmark_rows(document):
        picture = page.with_suffix(".svg")
        plot({"benchmarks": [{"extra_info": row} for row in rows]}, picture)
        print(f"wrote {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
