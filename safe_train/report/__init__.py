"""The report on runs: one HTML page that needs nothing else, and a JSON file with the same figures.

Runs are read (:mod:`~safe_train.report.runs`) and sorted into variants (:mod:`~safe_train.report.grouping`); their
figures are taken over seeds (:mod:`~safe_train.report.variants`) and put on the page (:mod:`~safe_train.report.page`).
"""

from safe_train.report.runs import Found, LeftOut, Run, read_runs
from safe_train.report.write import ReportFiles, write_report

__all__ = ["Found", "LeftOut", "ReportFiles", "Run", "read_runs", "write_report"]
