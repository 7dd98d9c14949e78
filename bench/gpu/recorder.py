"""A pytest plugin (`-p bench.gpu.recorder`) that writes a row for each test, with its figures, as soon as it ends."""

from __future__ import annotations

from typing import Any

import pytest

from bench.gpu.rows import WARNINGS, Outcome, RowWriter

_MESSAGE_LENGTH = 600
_MOST_WARNINGS = 40


class Recorder:
    """Puts the reports of a test's phases together."""

    def __init__(self) -> None:
        self.rows = RowWriter()
        self.reports: dict[str, list[Any]] = {}
        self.warnings: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keeps the report; after the last phase, or after a crash, writes the row."""
        reports = self.reports.setdefault(report.nodeid, [])
        reports.append(report)
        if report.when in ("setup", "call"):
            return
        del self.reports[report.nodeid]
        told = next((r for r in reports if r.outcome != "passed"), None)
        outcome: Outcome = told.outcome if told else "passed"
        self.rows.add(
            report.nodeid,
            outcome,
            dict(report.user_properties),
            seconds=sum(r.duration for r in reports),
            message=message_of(told) if told else None,
        )

    def pytest_warning_recorded(self, warning_message: Any, nodeid: str) -> None:
        """Keeps each warning once, with the first test that met it."""
        text = f"{warning_message.category.__name__}: {warning_message.message}"[:_MESSAGE_LENGTH]
        if len(self.warnings) < _MOST_WARNINGS:
            self.warnings.setdefault(text, nodeid)

    def pytest_sessionfinish(self) -> None:
        """Writes a row of the warnings, where some were met."""
        if self.warnings:
            self.rows.add(WARNINGS, "passed", {"warnings": self.warnings})

    def pytest_collectreport(self, report: Any) -> None:
        """Writes a row for a file that cannot be collected, or is skipped as a whole."""
        if report.outcome != "passed":
            self.rows.add(report.nodeid, report.outcome, message=message_of(report))


def message_of(report: Any) -> str:
    """Why a test failed or was skipped, in one line or a few."""
    found = report.longrepr
    if isinstance(found, tuple):
        return str(found[2]).removeprefix("Skipped: ")
    crash = getattr(found, "reprcrash", None)
    return (crash.message if crash is not None else str(found))[:_MESSAGE_LENGTH]


def pytest_configure(config: pytest.Config) -> None:
    """Record in the main process alone: the others report to it."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(), "safe-gpu-recorder")
