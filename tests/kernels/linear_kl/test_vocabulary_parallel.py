"""A head whose classes are shared out: two processes must equal one with the whole head, and float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.rehearsal import interpreter_obstacle
from safe_kernels._divergence.inputs import Measure
from safe_kernels.linear_kl import vocabulary_parallel
from safe_kernels.linear_kl.heads import LinearHeads
from tests.kernels.linear_kl.test_api import expected, measured, problem
from tests.tolerances import DIVERGENCE_GRADIENT, DIVERGENCE_VALUE, relative_error

ENVIRONMENT = {**os.environ, "SAFE_KERNELS_BACKEND": "auto", "PYTHONPATH": str(Path(__file__).parents[3])}

Found = dict[str, tuple[Tensor, Tensor]]
"""Values and gradients by case."""

SPLIT = 70
"""The first process has 70 of 150 classes, the second 80."""

CASES: dict[str, dict[str, Any]] = {
    **{f"{name} {distance}": {"divergence": name, "distance": distance}
       for name in ("forward", "reverse", "jsd") for distance in (1e-3, 0.3, 30.0)},
    "beta": {"divergence": "jsd", "jsd_beta": 0.1},
    "temperature": {"temperature": 1.7},
    "softcap": {"logit_softcap": 2.0},
    "bias": {"bias": "plain"},
    "nothing in the first slice": {"bias": "first slice excluded", "distance": 1e-3},
    "two heads": {"two_heads": True, "bias": "plain"},
    "mask": {"mask": True},
    **{f"mask for the kernels, {name}": {"mask": True, "in_kernels": True, "divergence": name}
       for name in ("forward", "reverse", "jsd")},
    "chunks": {"chunk_tokens": 2},
    "half precision": {"dtype": "bfloat16"},
}  # fmt: skip

WORKER = """
import os, sys, torch
from tests.kernels.conftest import interpret_triton
if sys.argv[3] == "triton":
    interpret_triton()
meeting = f"file://{sys.argv[1]}/meeting"
torch.distributed.init_process_group("gloo", init_method=meeting, rank=int(sys.argv[2]), world_size=2)
from tests.kernels.linear_kl.test_vocabulary_parallel import run_cases
torch.save(run_cases(int(sys.argv[2])), f"{sys.argv[1]}/{sys.argv[2]}.pt")
torch.distributed.barrier()  # neither takes the store or the other's connection away
torch.distributed.destroy_process_group()
os._exit(0)  # threads of gloo that still run abort an interpreter that is taken down, now and then
"""


def case(options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """States, head and options of a case, the same in every process."""
    torch.manual_seed(7)
    chosen = dict(options)
    student, teacher, weight = problem(5, distance=chosen.pop("distance", 0.1))
    dtype = getattr(torch, chosen.pop("dtype", "float32"))
    bias = chosen.pop("bias", None)
    if bias is not None:
        chosen["head_bias"] = torch.randn(150)
        if bias == "first slice excluded":
            chosen["head_bias"][:SPLIT] = -torch.inf
    if chosen.pop("two_heads", False):
        chosen["teacher_head_weight"] = weight + 0.1 * torch.randn_like(weight)
        chosen["teacher_head_bias"] = torch.randn(150)
    chosen.pop("in_kernels", None)
    if chosen.pop("mask", False):
        chosen["mask"] = torch.tensor([True, False, True, True, False])
    return student.to(dtype), teacher.to(dtype), weight.to(dtype), chosen


def run_cases(rank: int) -> Found:
    """What one of two processes finds with its slice of the classes."""
    part = slice(0, SPLIT) if rank == 0 else slice(SPLIT, None)
    found = {}
    for name, options in CASES.items():
        student, teacher, weight, chosen = case(options)
        for key in ("head_bias", "teacher_head_weight", "teacher_head_bias"):
            if key in chosen:
                chosen[key] = chosen[key][part]
        ask = (
            masked_by_kernels
            if "in_kernels" in options and os.environ["SAFE_KERNELS_BACKEND"] == "triton"
            else measured
        )
        found[name] = ask(student, teacher, weight[part], group=torch.distributed.group.WORLD, **chosen)
    return found


def masked_by_kernels(
    student: Tensor, teacher: Tensor, weight: Tensor, *, mask: Tensor, divergence: Any, group: Any
) -> tuple[Tensor, Tensor]:
    """As where the mask is on a GPU: the kernels skip its rows. One on the CPU takes them out before."""
    from safe_kernels.linear_kl import triton_impl

    heads = LinearHeads(weight, None, None, None, None, 1.0)
    return triton_impl.linear_divergence(student, teacher, mask, heads, Measure(divergence, 0.5), None, True, group)


@pytest.fixture(scope="module", params=["torch", "triton"])
def shared_out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What two processes find."""
    if request.param == "triton" and (obstacle := interpreter_obstacle()) is not None:
        pytest.skip(obstacle)
    folder = tmp_path_factory.mktemp("group")
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1", "SAFE_KERNELS_BACKEND": request.param}
    commands = [[sys.executable, "-c", WORKER, str(folder), str(rank), request.param] for rank in range(2)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) for command in commands]
    try:
        errors = [process.communicate(timeout=240)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], errors
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_equal_one_and_float64(
    shared_out: list[Found], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "torch")
    student, teacher, weight, chosen = case(CASES[name])
    alone = measured(student, teacher, weight, **chosen)
    mask = chosen.pop("mask", None)
    chosen.pop("chunk_tokens", None)
    if "jsd_beta" in chosen:
        chosen["beta"] = chosen.pop("jsd_beta")
    want = expected(student, teacher, weight, **chosen)
    if mask is not None:
        want = want[0] * mask, want[1] * mask.unsqueeze(-1)
    for found in shared_out:
        value, gradient = found[name]
        for other, other_gradient in (alone, want):
            assert relative_error(value, other) < DIVERGENCE_VALUE[student.dtype]
            if CASES[name].get("distance") == 30.0:
                # The student says one class to seven digits: what is left is rounding of logits of size 100.
                assert (gradient - other_gradient).abs().max() < 1e-3
            else:
                assert relative_error(gradient, other_gradient) < DIVERGENCE_GRADIENT[student.dtype]
    for mine, others in zip(shared_out[0][name], shared_out[1][name], strict=True):
        assert torch.equal(mine, others)


def test_a_slice_alone_fails_the_tolerance() -> None:
    """Negative control: the divergence over a slice's classes is another one."""
    student, teacher, weight, _ = case({})
    want, _ = expected(student, teacher, weight)
    assert relative_error(measured(student, teacher, weight[:SPLIT])[0], want) > 1e-2


def test_means_of_slices_fail_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: K without the distances of the slices' means is far too small."""
    student, teacher, weight, _ = case({})
    z, d = teacher @ weight.T, (student - teacher) @ weight.T
    found = torch.stack(
        [
            vocabulary_parallel._summarize(z[:, part], d[:, part]).double()
            for part in (slice(0, SPLIT), slice(SPLIT, None))
        ]
    )
    want, _ = expected(student, teacher, weight)
    assert relative_error(vocabulary_parallel._merge(found).forward, want) < DIVERGENCE_VALUE[torch.float32]
    found[:, 1] = found[:, 1].mean(0)
    assert relative_error(vocabulary_parallel._merge(found).forward, want) > 1e-2


def test_a_group_of_one_is_the_whole(tmp_path: Path) -> None:
    """In one process, with a group of its own: what is asked of a group is asked of this one."""
    program = (
        "import sys, json, torch; torch.distributed.init_process_group('gloo', init_method=f'file://{sys.argv[1]}/m',"
        "rank=0, world_size=1)\n"
        "from tests.kernels.linear_kl.test_vocabulary_parallel import case, measured\n"
        "student, teacher, weight, _ = case({})\n"
        "group = torch.distributed.group.WORLD\n"
        "one, two = measured(student, teacher, weight), measured(student, teacher, weight, group=group)\n"
        "print(json.dumps([(a - b).abs().max().item() / a.abs().max().item() for a, b in zip(one, two)]))\n"
        "torch.distributed.destroy_process_group()"  # its threads abort now and then if the interpreter ends them
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert max(json.loads(done.stdout)) < 1e-5
