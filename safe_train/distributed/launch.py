"""Which of a run's processes this is, told by the environment: that of torchrun, or that of a Slurm step."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from safe_train.errors import InputError

# Below the ports that the system hands out by itself (from 32768 on Linux), so that one job's is free for it.
_FIRST_PORT, _NUM_PORTS = 20_000, 12_000
_RENDEZVOUS = ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """A process's place among those of its run.

    Attributes:
        rank: its number, from 0.
        world_size: how many there are.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes, prints and shows progress."""
        return self.rank == 0


def find_launch(environment: MutableMapping[str, str] = os.environ) -> Launch:
    """The place of this process; alone, if nothing says otherwise.

    torchrun sets ``RANK`` and ``WORLD_SIZE``. Where they are missing and the process is a task of a Slurm step, that is
    started by ``srun``, they and the others that :mod:`torch.distributed` reads are set from Slurm's.

    Raises:
        InputError: a number is not one, a step on several nodes does not name the node of the first task, or what says
            where the others are is missing.
    """
    if "RANK" not in environment and not _in_shell_of_a_step(environment):
        environment.update(slurm_variables(environment))
    launch = Launch(_number(environment, "RANK", 0), _number(environment, "WORLD_SIZE", 1))
    if launch.rank >= launch.world_size:
        got = f"RANK={launch.rank}, WORLD_SIZE={launch.world_size}"
        raise InputError("environment", "RANK below WORLD_SIZE", got, "unset both, or start by torchrun or srun")
    missing = [name for name in _RENDEZVOUS if not environment.get(name)] if launch.world_size > 1 else []
    if missing:
        expected = f"{', '.join(_RENDEZVOUS)} beside WORLD_SIZE={launch.world_size}"
        hint = "start by torchrun or srun, which set them, or unset RANK and WORLD_SIZE"
        raise InputError("environment", expected, f"no {' and no '.join(missing)}", hint)
    return launch


def _in_shell_of_a_step(environment: Mapping[str, str]) -> bool:
    """Whether somebody works in a shell that ``srun --pty`` has started: its commands are one process each.

    The shell has the variables of the step's first task, and the other tasks run none of its commands: they would be
    waited for. A step that is started from there has the variables of the pseudoterminal, too, but no terminal.
    """
    return "SLURM_PTY_PORT" in environment and _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def slurm_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of torchrun for a task of a Slurm step; none outside of a step, or if the step has a single task.

    A batch script has ``SLURM_NTASKS`` and ``SLURM_PROCID`` too, and is no task: only ``srun`` sets ``SLURM_STEP_ID``.
    ``MASTER_ADDR`` and ``MASTER_PORT`` are kept where they are set. Without them, a step on one node takes that node
    and a port that follows from the numbers of job and step.

    Raises:
        InputError: a number is not one, or the step is on several nodes and ``MASTER_ADDR`` is not set.
    """
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 1))
    if "SLURM_STEP_ID" not in environment or tasks < 2:
        return {}
    address = environment.get("MASTER_ADDR")
    nodes = _number(environment, "SLURM_STEP_NUM_NODES", _number(environment, "SLURM_NNODES", 1))
    if address is None and nodes > 1:
        hint = "write export MASTER_ADDR=$(hostname) into the batch script, which runs on the first node"
        raise InputError("MASTER_ADDR", f"the first of the step's {nodes} nodes", "nothing", hint)
    job, step = (_number(environment, name, 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return {
        "RANK": str(_number(environment, "SLURM_PROCID", 0)),
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": str(_number(environment, "SLURM_LOCALID", 0)),
        "MASTER_ADDR": address or "127.0.0.1",
        "MASTER_PORT": environment.get("MASTER_PORT", str(_FIRST_PORT + (job + 97 * step) % _NUM_PORTS)),
    }


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise InputError(name, "a number", repr(text), "unset it, or start by torchrun or srun")
    return int(text)
