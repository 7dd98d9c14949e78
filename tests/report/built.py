"""Variants, verdict and table of run folders."""

import json
import re

from safe_train.report import read_runs
from safe_train.report.grouping import group_runs
from safe_train.report.summary import format_table
from safe_train.report.variants import build_variants
from safe_train.report.verdict import verdict
from tests.files import results_of

WIDE = {"evaluation.margin": "0.095"}  # that 60 rows can establish


def built(path):
    groups, left_out = group_runs(read_runs([path]).runs)
    return build_variants(groups), groups, left_out


def told(path):
    """Verdict and closing table."""
    found = read_runs([path])
    return verdict(build_variants(group_runs(found.runs)[0])), format_table(found.summaries)


def finished(run, rows, when):
    """Sets the end of the evaluation of so many VL rows."""
    for path in run.glob("evaluation/*/results.json"):
        content = results_of(path)
        if content["evaluation"]["vl"]["bypass"]["rows"] == rows:
            path.write_text(json.dumps(content | {"finished_at": f"{when}T00:00:00+00:00"}))


def block(table, header):
    """The rows of one of the closing table's blocks, split into cells."""
    lines = table.split("\n\n")
    (found,) = [part.splitlines()[2:] for part in lines if re.split(r" {2,}", part.splitlines()[0]) == list(header)]
    return [re.split(r" {2,}", line) for line in found]
