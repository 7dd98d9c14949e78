"""Two processes in the `Trainer`, by DDP, train as one does; what would not is shown beside it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from safe_train.distributed.processes import Processes
from safe_train.errors import InputError
from safe_train.finetuning.rows import RetentionExamples
from tests.distributed.conftest import ends, start
from tests.finetuning.tiny_text import collate, rows
from tests.finetuning.worker import outcome
from tests.tolerances import PARALLEL, relative_error

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("finetuning processes"),
]
VARIANTS = ("no_retention", "soft_retention", "fisher_retention", "nullspace_retention", "full_retention")
CASES = {name: {"variant": name} for name in VARIANTS} | {
    "strong": {"variant": "soft_retention", "scale": 100.0},
    "whole model": {"variant": "full_retention", "adapter": False},
    "images": {"variant": "full_retention", "model": "llava"},
    "resumed": {"variant": "full_retention", "save": True, "options": {"save_strategy": "steps", "save_steps": 4}},
}
FSDP = {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}}
CASES |= {f"FSDP2, {name}": {"variant": name, "options": FSDP} for name in VARIANTS} | {
    "FSDP2, images": {"variant": "full_retention", "model": "llava", "options": FSDP},
    "FSDP2, resumed": {
        "variant": "full_retention", "save": True, "options": {"save_strategy": "steps", "save_steps": 4} | FSDP,
    },
}  # fmt: skip
WRONG = {
    "mean of means": {"variant": "soft_retention", "scale": 100.0, "processes": "MeanOfMeans"},
    "each for itself": {"variant": "soft_retention", "scale": 100.0, "processes": "EachForItself"},
    "FSDP2, each for itself": {
        "variant": "soft_retention",
        "scale": 100.0,
        "processes": "EachForItself",
        "options": FSDP,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes made of every case."""
    target = tmp_path_factory.mktemp("processes")
    for name in CASES | WRONG:
        (target / name).mkdir()
    ended = ends(start(["-m", "tests.finetuning.worker", target, json.dumps(CASES | WRONG)], ACCELERATE_USE_CPU="true"))
    assert [process.code for process in ended] == [0, 0], ended
    return target


def of_two(folder, name):
    first, second = (load_file(folder / f"{name}.{rank}") for rank in (0, 1))
    if name not in WRONG:
        trained = [key for key in first if key.startswith(("end/", "state/"))]
        assert all(torch.equal(first[key], second[key]) for key in trained)  # the same bits in both
    return first


def moved(found):
    """How far all weights went, as one vector."""
    names = sorted(name.removeprefix("start/") for name in found if name.startswith("start/"))
    return torch.cat([(found[f"end/{name}"] - found[f"start/{name}"]).flatten() for name in names])


def error(found, expected):
    """Of the weights' changes and of the logs' figures, the larger."""
    logged = [name for name in expected if name.startswith("log/")]
    assert set(logged) == {name for name in found if name.startswith("log/")}
    figures = [torch.stack([values[name] for name in logged]) for values in (found, expected)]
    return max(relative_error(moved(found), moved(expected)), relative_error(*figures))


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(folder, tmp_path, name):
    expected = outcome({**CASES[name], "options": {}}, tmp_path)
    assert error(of_two(folder, name), expected) < PARALLEL[torch.float32]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_mean_is_found(folder, tmp_path, name):
    expected = outcome(CASES["strong"], tmp_path)
    assert relative_error(moved(of_two(folder, name)), moved(expected)) > 5 * PARALLEL[torch.float32]


@pytest.mark.parametrize("name", ["resumed", "FSDP2, resumed"])
def test_two_resumed_processes_give_the_same_bits(folder, name):
    whole, resumed = of_two(folder, name), load_file(folder / f"{name}.resumed.0")
    trained = [key for key in whole if key.startswith(("end/", "state/"))]
    assert trained
    assert all(torch.equal(whole[key], resumed[key]) for key in trained)


def test_each_process_holds_half_of_what_is_frozen(folder):
    whole, sharded = (load_file(folder / f"{name}.0") for name in ("full_retention", "FSDP2, full_retention"))
    trained = sum(value.numel() for name, value in whole.items() if name.startswith("start/"))
    assert sharded["held"] - trained == (whole["held"] - trained) / 2


def test_fewer_retention_examples_than_processes_are_refused():
    with pytest.raises(InputError, match=r"rows_per_step: expected at least one .* each of 2 processes, got 1"):
        RetentionExamples(
            rows(8, 2), collate, batch_size=1, seed=0, device=torch.device("cpu"), processes=Processes(0, 2)
        )
