"""Which process this is, by the variables of torchrun and of Slurm."""

import os
import pty
import subprocess
import sys

import pytest

import safe_train.distributed.launch as launch_module
from safe_train.distributed.launch import Launch, find_launch, slurm_variables
from safe_train.errors import InputError

STEP = {
    "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "2", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_NODES": "2", "SLURM_NNODES": "2",
}  # fmt: skip


PLACE = {"LOCAL_RANK": "0", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("missing", PLACE)
@pytest.mark.parametrize("empty", [False, True])
def test_where_the_others_are_must_be_said(missing, empty):
    """Without LOCAL_RANK each process would take itself for the only one, and all would write."""
    environment = {"RANK": "1", "WORLD_SIZE": "2"} | PLACE
    environment.pop(missing)
    environment |= {missing: ""} if empty else {}
    with pytest.raises(InputError, match=rf"environment: expected LOCAL_RANK, .*got no {missing}; start by torchrun"):
        find_launch(environment)


def test_one_process_needs_no_others():
    assert find_launch({"RANK": "0", "WORLD_SIZE": "1"}) == Launch(0, 1)


@pytest.mark.parametrize(("terminal", "expected"), [(True, Launch(0, 1)), (False, Launch(3, 4))])
def test_in_the_shell_of_a_step_a_command_is_one_process(monkeypatch, terminal, expected):
    """`srun --ntasks=4 --pty bash`; a step that is started in that shell has no terminal."""
    monkeypatch.setattr(launch_module, "_has_terminal", lambda: terminal)
    shell = STEP | {"SLURM_PTY_PORT": "40001", "SLURM_PTY_WIN_COL": "80", "SLURM_STEP_NUM_NODES": "1"}
    assert find_launch(dict(shell)) == expected
    plain = {name: value for name, value in shell.items() if not name.startswith("SLURM_PTY")}
    assert find_launch(dict(plain)) == Launch(3, 4)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_known_by_its_being_there(terminal):
    """A new session has none until it opens one."""
    code = "from safe_train.distributed.launch import _has_terminal; print(_has_terminal())"
    main, child = pty.openpty()
    begin = f"import os; os.setsid(); os.open({os.ttyname(child)!r}, os.O_RDWR) if {terminal} else None; {code}"
    done = subprocess.run([sys.executable, "-c", begin], capture_output=True, text=True, check=True, stdin=child)
    os.close(main)
    os.close(child)
    assert done.stdout == f"{terminal}\n"


def test_nothing_is_one_process():
    assert find_launch({}) == Launch(0, 1)
    assert Launch().is_main


def test_torchrun_comes_before_slurm():
    assert find_launch({"RANK": "1", "WORLD_SIZE": "2"} | PLACE | STEP) == Launch(1, 2)
    assert not Launch(1, 2).is_main


def test_a_task_of_a_step_gets_the_variables_of_torchrun():
    environment = STEP | {"MASTER_ADDR": "node1", "MASTER_PORT": "1234"}
    assert find_launch(environment) == Launch(3, 4)
    told = {name: environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
    assert told == {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "1234"
    }  # fmt: skip


def test_on_one_node_the_address_and_a_port_of_the_step_are_found():
    one_node = STEP | {"SLURM_STEP_NUM_NODES": "1"}
    found = slurm_variables(one_node)
    assert found["MASTER_ADDR"] == "127.0.0.1"
    assert found["MASTER_PORT"] == slurm_variables(one_node | {"SLURM_PROCID": "0"})["MASTER_PORT"]
    assert found["MASTER_PORT"] != slurm_variables(one_node | {"SLURM_STEP_ID": "3"})["MASTER_PORT"]
    assert 1024 < int(found["MASTER_PORT"]) < 32768


@pytest.mark.parametrize("missing", ["SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"])
def test_a_batch_script_and_a_single_task_are_one_process(missing):
    """A batch script has no step; a step of one task in a job of several has its own count."""
    environment = {name: value for name, value in STEP.items() if name != missing}
    if missing == "SLURM_STEP_NUM_TASKS":
        environment[missing] = "1"
    assert find_launch(environment) == Launch(0, 1)
    assert "RANK" not in environment


def test_several_nodes_need_the_first_to_be_named():
    with pytest.raises(InputError, match="MASTER_ADDR: expected the first of the step's 2 nodes, got nothing"):
        find_launch(dict(STEP))


@pytest.mark.parametrize("wrong", [{"RANK": "x"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1", "WORLD_SIZE": "2"}])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        find_launch(wrong)
