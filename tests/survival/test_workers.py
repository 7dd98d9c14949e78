"""Worker processes end with their run, however that ends, and do not end before it."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from safe_train.runs.checkpoint import latest_checkpoint
from tests.survival.kill import only_run
from tests.survival.runs import differences, end_of, resume, start, write_data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WORKERS = {"data.num_workers": 2}


def children_of(pid):
    """Process ids of the children that a process has."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]
    except OSError:
        return False


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def started(tmp_path, name="run"):
    """A run with two workers that has done a few steps, and the workers."""
    write_data(tmp_path / "data")
    run = start(tmp_path / "log", tmp_path / "data", tmp_path / name, **WORKERS)
    log = lambda: next(iter((tmp_path / name).glob("*/metrics.jsonl")), None)  # noqa: E731
    wait_until(lambda: log() is not None and log().read_text().count("\n") >= 3)
    children = [pid for pid in children_of(run._pid) if is_alive(pid)]
    assert len(children) >= 2
    return run, children


def test_a_run_that_is_killed_leaves_no_worker(tmp_path):
    run, children = started(tmp_path)
    os.kill(run._pid, signal.SIGKILL)  # it alone: the workers have to find out
    wait_until(lambda: not any(map(is_alive, children)))
    assert run._wait(0) == -signal.SIGKILL


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_to_the_whole_group_stops_the_run_as_ever_and_it_goes_on_to_the_same_bits(tmp_path, number, code):
    """As Ctrl-C and a scheduler send it; the reference is a run without workers."""
    run, children = started(tmp_path)
    os.killpg(run._pid, number)
    assert run._wait(0) == code, (tmp_path / "log").read_text()
    assert not any(map(is_alive, children))
    folder = only_run(tmp_path / "run")
    assert latest_checkpoint(folder).step >= 3
    resume(tmp_path / "log", folder).finished()
    straight = start(tmp_path / "log", tmp_path / "data", tmp_path / "straight")
    straight.finished()
    differing = differences(end_of(only_run(tmp_path / "straight")), end_of(folder))
    assert [
        name
        for name in differing
        if name not in ("checkpoints",) and not name.endswith(("state.json", "manifest.json"))
    ] == []
    assert json.loads((folder / "config.json").read_text())["data"]["num_workers"] == 2
