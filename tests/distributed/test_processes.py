"""The parts that need no second process, and how processes end that lose one."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from safe_train.config import build_config
from safe_train.distributed.processes import ALONE, Processes, _timeout, connected
from safe_train.errors import InputError
from tests.distributed.conftest import ROOT, ends, environment, free_port, start

LIGHT = """
import os, sys, time
import torch
from pathlib import Path
from safe_train.distributed.processes import connected
from safe_train.cli.errors import one_line_errors

def run():
    folder, what = Path(sys.argv[1]), sys.argv[2]
    (folder / f"ready.{os.environ['RANK']}").touch()
    while len(list(folder.glob("ready.*"))) < 2:  # imports take long on a busy machine, and are no part of the wait
        time.sleep(0.01)
    with connected(torch.device("cpu")) as processes:
        rows = torch.arange(10.0).view(5, 2)
        assert torch.equal(processes.gather_rows(processes.shard(rows), 5), rows)
        assert processes.gather({"rank": processes.rank, "of": "\\N{SNOWMAN}" * processes.rank}) == [
            {"rank": 0, "of": ""}, {"rank": 1, "of": "\\N{SNOWMAN}"}]
        assert processes.broadcast(processes.rank) == 0
        assert abs(processes.mean(processes.rank + 1.0, processes.rank + 1) - 5 / 3) < 1e-12
        if processes.rank == 1:
            if what == "killed":
                os._exit(9)
            time.sleep(600)
        processes.any(False)

one_line_errors(run)()
"""


@pytest.mark.parametrize("what", ["killed", pytest.param("silent", marks=pytest.mark.slow)])  # waits 40 s
def test_losing_a_process_is_one_line_and_no_hang(tmp_path, what):
    timeout = {"silent": "40"}.get(what, "120")  # covers the start of both processes on a busy machine
    started = start(["-c", LIGHT, tmp_path, what], SAFE_TIMEOUT=timeout)
    (main,) = ends(started[:1])
    started[1].kill()
    ends(started[1:])
    lines = [line for line in main.err.splitlines() if line.startswith("error: ")]
    assert main.code == 1, main
    assert "Traceback" not in main.err
    assert len(lines) == 1
    assert lines[0].startswith("error: process 0 of 2: expected the others' answers, got ")


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [({}, 1800.0), ({"SAFE_TIMEOUT": "7"}, 7.0), ({"SAFE_PATIENCE": "8"}, 8.0),
     ({"SAFE_TIMEOUT": "7", "SAFE_PATIENCE": "8"}, 7.0)],
)  # fmt: skip
def test_the_timeout_is_read_by_either_name(monkeypatch, variables, seconds):
    for name in ("SAFE_TIMEOUT", "SAFE_PATIENCE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _timeout() == seconds


@pytest.mark.parametrize("name", ["SAFE_TIMEOUT", "SAFE_PATIENCE"])
@pytest.mark.parametrize("value", ["0", "-1", "soon", "1.5"])
def test_a_timeout_that_is_none_is_refused_by_its_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{name}: expected seconds, at least 1"):
        _timeout()


WAITING = """
import logging
import torch
from safe_train.cli.callbacks import StopRequest
from safe_train.distributed.processes import connected
logging.basicConfig(level=logging.INFO)
with StopRequest().listening(), connected(torch.device("cpu")):
    pass
"""


def test_a_process_that_waits_for_others_can_be_interrupted():
    """It waits in a library that runs no handlers."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env=os.environ | environment(0, 2, free_port(), "torchrun"),
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            told = next(line for line in process.stderr if "waiting for" in line)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == -signal.SIGINT
        finally:
            process.kill()
    assert "waiting for the other 1 processes at 127.0.0.1:" in told


ERROR = """
import atexit, sys
import torch.distributed as distributed
from safe_train.errors import InputError
from safe_train.cli.errors import one_line_errors

atexit.register(print, "taken down")
if sys.argv[1] == "grouped":
    distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=0, world_size=1)

def run():
    print("printed")
    raise InputError("a", "b", "c", "d")

one_line_errors(run)()
"""


@pytest.mark.parametrize("how", ["grouped", "alone"])
def test_after_an_error_a_process_group_is_not_taken_down(tmp_path, how):
    """What its threads wait for may be gone, and the program would now and then end by SIGABRT instead."""
    (ended,) = ends(start(["-c", ERROR, how, tmp_path / "group"], world_size=1))
    assert (ended.code, ended.err) == (2, "error: a: expected b, got c; d\n"), ended
    assert ended.out == ("printed\n" if how == "grouped" else "printed\ntaken down\n")


def test_alone_everything_is_given_back(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    rows = [3, 1, 2]
    with connected(torch.device("cpu")) as processes:
        assert processes is ALONE
    assert not torch.distributed.is_initialized()
    assert ALONE.shard(rows) is rows
    assert (ALONE.sum(3), ALONE.mean(0.1, 7), ALONE.any(True), ALONE.gather("x")) == (3, 0.1, True, ["x"])
    with pytest.raises(InputError, match="a: expected b"), ALONE.raise_on_any_rank():
        raise InputError("a", "b", "c", "d")


@pytest.mark.parametrize(("count", "world_size"), [(5, 2), (6, 3), (3, 3), (7, 1)])
def test_shares_are_every_row_once_and_know_their_places(count, world_size):
    rows = list(range(100, 100 + count))
    places = {}
    for rank in range(world_size):
        processes = Processes(rank, world_size)
        share = processes.shard(rows)
        places |= dict(zip(processes.global_indices(len(share)), share, strict=True))
    assert places == dict(enumerate(rows))


@pytest.mark.parametrize(
    "setting",
    [
        "retention.teacher_cache=true", "data.length_buckets=true", "model.quantization=4bit",
        "model.attention=flash_attention_2",
    ],
)  # fmt: skip
def test_what_a_sharded_base_cannot_do_is_refused(setting):
    name, _, value = setting.partition("=")
    with pytest.raises(InputError, match=rf"{name}=.* with parallel\.shard_base"):
        build_config({}, {"parallel.shard_base": "true", name: value})
    build_config({}, {"parallel.shard_base": "false", name: value})


def test_a_numbered_gpu_is_refused_for_several_processes(monkeypatch):
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(InputError, match="device: expected auto or cuda for 2 processes"),
        connected(torch.device("cuda:1")),
    ):
        pass
