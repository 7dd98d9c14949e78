"""The table of model classes, as the tests of this folder find it: ``python -m tests.model.families_table [--write]``.

Runs ``test_families.py`` and prints, for each class, whether all tests of a column passed. With ``--write`` the table
is put into ``docs/models.md``. The exit code is that of the tests.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- table of classes: begin -->\n", "<!-- table of classes: end -->\n"
COLUMNS = {
    "test_bypass_logits": "bypass: logits",
    "test_bypass_generation": "bypass: generate",
    "test_new_fusion_is_zero": "zero at start",
    "test_rows_without_audio_keep_their_bits": "rows without audio",
    "test_head_gives_the_logits": "head",
    "test_training_step": "training step",
    "test_save_and_load": "save, load",
    "test_lora_and_checkpointing": "LoRA, checkpointing",
    "test_shared_prefix": "shared prefix",
    "test_half_precision": "bfloat16",
}


class Outcomes:
    """A pytest plugin that collects, by family and test, the outcomes of all its runs."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes up a test's own outcome, or that of a set-up that failed."""
        if report.when != "call" and report.passed:
            return
        test, parameters = re.fullmatch(r".*::(\w+)\[(.*)\]", report.nodeid).groups()  # type: ignore[union-attr]
        family = parameters.split("-")[0]
        self.found.setdefault((family, test), []).append(report.outcome)

    def table(self) -> str:
        """Markdown: ``yes`` where there is a test and all passed, ``NO`` otherwise."""
        from tests.model.families import FAMILIES  # late: pytest wants to be first to import what its plugins need

        lines = ["| class | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
        for key, family in FAMILIES.items():
            outcomes = [self.found.get((key, test), []) for test in COLUMNS]
            cells = ["yes" if cell and set(cell) == {"passed"} else "NO" for cell in outcomes]
            lines.append(f"| {family.name} (`{key}`) | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Runs the tests and prints or writes the table."""
    outcomes = Outcomes()
    code = pytest.main(["-q", str(Path(__file__).with_name("test_families.py"))], plugins=[outcomes])
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    made = f"transformers {version('transformers')}, torch {version('torch').split('+')[0]}, Python {python}, CPU:\n\n"
    text = made + outcomes.table()
    print(text)
    if "--write" in arguments:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.split(END)[1], encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
