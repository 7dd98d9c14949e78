"""The run card: machine and settings."""

import json
import re

import pytest

from tests.report.pages import read, report_on


def test_the_machine_of_a_run_is_named(full):
    words = "Trained on a processor, 2 cores, 1 thread, cuda:0, a GPU, at commit abc123, changed."
    assert words in " ".join(read(full.page).text.split())


@pytest.mark.parametrize("machine", [None, [], {"processor": 3}, {"processor": "x", "cores": "many"}])
def test_a_machine_that_is_not_described_is_left_out(make_run, tmp_path, machine):
    run = make_run(tmp_path)
    described = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(described | {"machine": machine}))
    assert "Trained on" not in report_on(tmp_path).page.read_text(encoding="utf-8")


def test_no_setting_is_listed_twice(full):
    """What settings came to has names of its own."""
    shared = re.findall(r"<dt>([\w.]+)</dt>", full.page.read_text(encoding="utf-8"))
    assert "effective.retention_variant.null_space_rank" in shared
    assert [name for name in shared if name.startswith(("retention", "effective"))] == list(
        dict.fromkeys(name for name in shared if name.startswith(("retention", "effective")))
    )
