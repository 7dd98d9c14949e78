"""Kill -9 of whole runs; the command ``python -m tests.survival.kill`` does the same with many more kills."""

import json

import pytest

from tests.survival.kill import ANY, CHECKPOINT, EVALUATION, LOADED, Trials, only_run
from tests.survival.runs import differences, end_of, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    return Trials(tmp_path_factory.mktemp("trials"), seed=3)


def test_a_run_killed_at_four_kinds_of_moment_ends_as_one_that_was_not(trials):
    trials.kill_and_resume(iter((ANY, CHECKPOINT, LOADED, EVALUATION)))
    assert len(trials.kills) >= 3  # the random ones may come after the end
    assert {kill.doing for kill in trials.kills} >= {"writing a checkpoint"}
    assert trials.ends == [[]]


def test_negative_control_a_run_of_another_seed_differs(trials, tmp_path):
    """So does every part that is compared."""
    start(tmp_path / "log", trials.data, tmp_path / "other", seed=7, **{"evaluation.max_audio": 8}).finished()
    run = only_run(tmp_path / "other")
    assert run is not None
    differing = differences(trials.expected, end_of(run))
    assert {"step-0000024/adapter.safetensors", "metrics.jsonl", "evaluations.jsonl", "metrics.json"} <= set(differing)
    assert json.loads((run / "config.json").read_text())["seed"] == 7
