"""Every file that a run writes, when a write fails or the process is killed there: a sweep of the whole run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
STRIDE = int(os.environ.get("SAFE_FAULT_STRIDE", "29"))  # 1 for every operation, which takes most of an hour


@pytest.fixture(scope="module")
def short(settings):
    return settings | {
        "variant": "no_retention", "optimization.max_steps": "4", "evaluation.eval_steps": "2",
        "evaluation.max_vl": "4", "evaluation.max_text": "4", "evaluation.max_audio": "4",
        "evaluation.conditions": "[]",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["ENOSPC", "EIO", "kill"])
def test_a_fault_at_any_operation_leaves_a_run_that_can_be_ended_to_the_same_bits(short, tmp_path, kind):
    """By --resume where there is a checkpoint, or from the start; what is told is one line."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.survival.faults", tmp_path, json.dumps(short), kind, str(STRIDE)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) * STRIDE > 150
    assert {moment["resumed"] for moment in found} == {False, True}
    for moment in found:
        assert moment["code"] == (-9 if kind == "kill" else 2), moment
        assert moment["said"].startswith("error: ") == (kind != "kill"), moment
        assert "\n" not in moment["said"].strip(), moment
        assert (moment["ended"], moment["equal"], moment["partial"]) == (0, True, []), moment
