"""A run that is stopped after any of its steps goes on to the bits of one that was not."""

import json

import pytest
from safetensors.torch import load_file

from safe_train.runs.checkpoint import latest_checkpoint
from tests.survival.crash import equal, state_of

STEPS = 8
ALIGNED = 64  # bytes; where PyTorch's allocator for the CPU begins a tensor
# The null space is computed before steps 2, 4 and 6, and used as it was computed in the steps between.
SETTINGS = {
    "full": {"variant": "full_retention"},
    "one basis": {"variant": "full_retention", "retention__null_space_refresh_interval": 1000},
    "activation": {
        "variant": "nullspace_retention", "retention__null_space_subspace": "activation",
        "retention__null_space_one_sided": False, "retention__null_space_target": "update",
    },
    "lora": {"variant": "full_retention", "model__lora_rank": 2, "optimization__gradient_accumulation_steps": 2},
    "replay": {"variant": "replay_only"},
}  # fmt: skip


TIMES = {"seconds": 0, "data_seconds": 0}


def lines_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


@pytest.mark.parametrize("name", SETTINGS)
def test_stopped_after_any_step_a_run_goes_on_to_the_same_bits(tmp_path, configure, prepare, name):
    config = configure(checkpoint_every=100, **SETTINGS[name])
    straight = prepare(config)
    outcome = straight.train(tmp_path / "straight")
    expected, metrics = state_of(straight), lines_of(tmp_path / "straight")
    stepwise = prepare(config)
    run = tmp_path / "stepwise"
    for _ in range(STEPS):  # a new process after every step
        stopped_at = stepwise.step + 1
        stepwise.train(run, should_stop=lambda at=stopped_at, stage=stepwise: stage.step == at)
        stepwise = prepare(config)
        stepwise.resume(latest_checkpoint(run), run)
    assert equal(state_of(stepwise), expected)
    assert lines_of(run) == metrics
    end = stepwise.train(run)
    assert end.inactive == outcome.inactive == []
    assert end.last | TIMES == outcome.last | TIMES


def test_what_is_loaded_begins_in_memory_as_what_is_computed_does(tmp_path, configure, prepare):
    """A matrix product of an operand that begins elsewhere has other last bits; safetensors' own tensors do."""
    config = configure(variant="full_retention", model__lora_rank=2)
    prepare(config).train(tmp_path)
    resumed = prepare(config)
    checkpoint = latest_checkpoint(tmp_path)
    resumed.resume(checkpoint, tmp_path)
    moments = [value for state in resumed.optimizer.state.values() for value in state.values()]
    basis = [
        value.vectors for m in resumed.retention.mechanisms if m.name == "null space" for value in m.bases.values()
    ]
    assert basis
    assert moments
    assert all(tensor.data_ptr() % ALIGNED == 0 and tensor.is_contiguous() for tensor in (*moments, *basis))
    views = load_file(checkpoint.folder / "retention.safetensors").values()
    assert any(tensor.data_ptr() % ALIGNED for tensor in views)


def test_an_evaluation_on_the_way_that_was_cut_off_is_done_when_the_run_goes_on(tmp_path, configure, prepare):
    """The checkpoint of a step is written first; what is killed between the two has no line of its evaluation."""
    config = configure(variant="no_retention", evaluation__eval_steps=4, checkpoint_every=2)

    class Killed(Exception):
        pass

    def kill(_step):
        raise Killed

    with pytest.raises(Killed):
        prepare(config).train(tmp_path, on_interval=kill)
    evaluated = []

    def evaluate(step):
        evaluated.append(step)
        (tmp_path / "evaluations.jsonl").write_text(f'{{"step": {step}}}\n')

    for _ in range(2):  # the second time it is there
        resumed = prepare(config)
        checkpoint = latest_checkpoint(tmp_path)
        assert checkpoint.step == 4
        resumed.resume(checkpoint, tmp_path)
        with pytest.raises(Killed):
            resumed.train(tmp_path, on_interval=evaluate, on_step=lambda step, _metrics: kill(step))
    assert evaluated == [4]
