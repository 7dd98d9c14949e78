"""The table of classes shows what the tests found, and the page has it for every class."""

from __future__ import annotations

import re
from types import SimpleNamespace

from tests.model.families import FAMILIES
from tests.model.families_table import BEGIN, COLUMNS, END, PAGE, Outcomes


def report(test: str, parameters: str, outcome: str, when: str = "call"):
    node = f"tests/model/test_families.py::{test}[{parameters}]"
    return SimpleNamespace(nodeid=node, outcome=outcome, when=when, passed=outcome == "passed")


def cells(table: str) -> dict[str, list[str]]:
    """Cells of each class."""
    found = re.findall(r"^\| .* \(`(\w+)`\) \| (.*) \|$", table, re.MULTILINE)
    return {key: row.split(" | ") for key, row in found}


def test_a_cell_is_yes_only_if_all_its_tests_passed():
    outcomes = Outcomes()
    for test in COLUMNS:
        for key in FAMILIES:
            outcomes.pytest_runtest_logreport(report(test, f"{key}-left", "passed", "setup"))
            if (test, key) != ("test_save_and_load", "gemma3"):  # a test that was not run
                outcomes.pytest_runtest_logreport(report(test, f"{key}-left", "passed"))
    outcomes.pytest_runtest_logreport(report("test_bypass_generation", "smolvlm-right", "failed"))
    outcomes.pytest_runtest_logreport(report("test_training_step", "llava-0.004", "failed", "setup"))
    found = cells(outcomes.table())
    wrong = {
        (key, column) for key, row in found.items() for column, cell in zip(COLUMNS, row, strict=True) if cell != "yes"
    }
    assert wrong == {
        ("smolvlm", "test_bypass_generation"), ("llava", "test_training_step"), ("gemma3", "test_save_and_load")
    }  # fmt: skip


def test_the_page_has_every_class_and_names_the_versions():
    table = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    assert re.match(r"transformers \d+\.\d+\.\d+, torch \d+\.\d+\.\d+, Python 3\.\d+, CPU:\n", table)
    assert cells(table) == {key: ["yes"] * len(COLUMNS) for key in FAMILIES}
