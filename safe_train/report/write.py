"""Writing the page and the JSON file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from safe_train.errors import InputError
from safe_train.io.files import json_text, write_text
from safe_train.report.document import build_report
from safe_train.report.grouping import group_runs
from safe_train.report.page import render
from safe_train.report.runs import Found, LeftOut

REPORT = "report.html"


@dataclass(frozen=True)
class ReportFiles:
    """What was written.

    Attributes:
        page: the HTML page.
        figures: the JSON file beside it.
        left_out: runs that are not in them.
    """

    page: Path
    figures: Path
    left_out: list[LeftOut]


def write_report(found: Found, output: Path | None = None) -> ReportFiles:
    """Writes the report on runs; nothing is written if any part of it cannot be made.

    Args:
        found: the runs.
        output: the page; by default ``report.html`` in the folder that all runs lie in.

    Raises:
        InputError: no run has stored answers, an evaluation's rows cannot be read, or the files cannot be written.
    """
    if not found.runs:
        first = found.left_out[0]
        raise InputError(first.folder, "a run with stored answers", "none", first.reason)
    page = output or common_folder([run.folder for run in found.runs]) / REPORT
    figures = page.with_suffix(".json")
    if page == figures:
        raise InputError(page, "the name of a page", "that of a JSON file", "name a .html file")
    groups, repeated = group_runs(found.runs)
    report = build_report(groups, [*found.left_out, *repeated])
    text = render(report, groups, figures.name)
    write_text(page, text)
    write_text(figures, json_text(report.to_dict()))
    return ReportFiles(page, figures, report.left_out)


def common_folder(runs: list[Path]) -> Path:
    """The innermost folder that all run folders lie in."""
    return Path(os.path.commonpath([run.resolve().parent for run in runs]))
