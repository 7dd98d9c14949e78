"""The loop: schedules, accumulation, metrics, resuming, and stopping on what is not finite."""

import json

import pytest
import torch

from safe_train.distributed.processes import Processes
from safe_train.errors import InputError, NonFiniteLossError
from safe_train.model.batch import Batch
from safe_train.runs.checkpoint import latest_checkpoint, list_checkpoints, save_checkpoint
from safe_train.training.batches import StepBatches, pad_to
from tests.tolerances import LEAKAGE, relative_error


def weights_of(stage):
    return {name: p.detach().clone() for name, p in stage.model.trainable_parameters().items()}


def test_the_audio_loss_falls(configure, prepare):
    stage = prepare(configure(variant="no_retention", optimization__max_steps=30, optimization__audio_batch_size=16))
    losses = [stage.train_step()["audio_loss"] for _ in range(30)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_accumulation_equals_one_large_batch(configure, prepare):
    """Two micro-batches of 4 are the rows of one batch of 8, in the same order."""
    gradients = []
    for size, count in ((8, 1), (4, 2)):
        stage = prepare(
            configure(
                variant="soft_retention", optimization__audio_batch_size=size, optimization__vl_batch_size=size,
                optimization__gradient_accumulation_steps=count, data__image_prob=0.0, data__silence_prob=0.0,
            )
        )  # fmt: skip
        stage.train_step()
        gradients.append(torch.cat([p.grad.flatten() for p in stage.model.trainable_parameters().values()]))
    assert relative_error(gradients[1], gradients[0]) < 1e-4


@pytest.mark.parametrize("variant", ["no_retention", "full_retention"])
def test_resuming_gives_the_same_bits(tmp_path, configure, prepare, variant):
    config = configure(variant=variant)
    straight = prepare(config)
    straight.train(tmp_path / "straight")
    interrupted = prepare(config)
    interrupted.train(tmp_path / "interrupted", should_stop=lambda: interrupted.step == 5)
    resumed = prepare(config)
    resumed.resume(latest_checkpoint(tmp_path / "interrupted"), tmp_path / "interrupted")
    assert resumed.step == 5
    resumed.train(tmp_path / "interrupted")
    expected = weights_of(straight)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(resumed).items())
    lines = [json.loads(line) for line in (tmp_path / "interrupted" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))


def test_negative_control_resuming_without_the_mechanisms_state_differs(tmp_path, configure, prepare, monkeypatch):
    config = configure(variant="full_retention")
    straight = prepare(config)
    straight.train(tmp_path / "straight")
    interrupted = prepare(config)
    interrupted.train(tmp_path / "interrupted", should_stop=lambda: interrupted.step == 5)
    resumed = prepare(config)
    monkeypatch.setattr(type(resumed.retention), "load_state_dict", lambda _self, _state: None)
    resumed.resume(latest_checkpoint(tmp_path / "interrupted"), tmp_path / "interrupted")
    resumed.train(tmp_path / "interrupted")
    expected = weights_of(straight)
    assert not all(torch.equal(value, expected[name]) for name, value in weights_of(resumed).items())


def test_lora_is_trained_and_protected_like_the_rest(configure, prepare):
    stage = prepare(configure(variant="full_retention", model__lora_rank=2))
    start = weights_of(stage)
    factors = [name for name in start if name.startswith("lora.")]
    assert len(factors) == 2 * 4 * 3  # two factors of four projections in three layers
    for _ in range(4):
        metrics = stage.train_step()
    assert all(not torch.equal(value, start[name]) for name, value in weights_of(stage).items())
    assert metrics["null_space_leakage"] < LEAKAGE
    assert {"kl", "ewc"} <= set(metrics)
    projection = next(m for m in stage.retention.mechanisms if m.name == "null space")
    assert set(factors) <= set(projection.bases)
    gradients = {name: p.grad.clone() for name, p in stage.model.trainable_parameters().items()}
    projection.calibrate()  # a calibration leaves gradients and training alone
    for name, parameter in stage.model.trainable_parameters().items():
        assert torch.equal(parameter.grad, gradients[name])
        assert parameter.requires_grad


def test_what_is_not_finite_stops_the_run_before_the_step(tmp_path, configure, prepare):
    stage = prepare(configure(variant="no_retention"))
    stage.train_step()
    with torch.no_grad():
        next(iter(stage.model.trainable_parameters().values())).fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match="step 2: expected finite values, got audio_loss nan"):
        stage.train_step()
    assert stage.step == 1


@pytest.mark.parametrize(("every", "expected"), [(0, []), (1, [1, 2]), (2, [2]), (3, [])])
def test_an_evaluation_follows_every_so_many_steps_but_not_the_last(tmp_path, configure, prepare, every, expected):
    stage = prepare(configure(variant="no_retention", optimization__max_steps=3, evaluation__eval_steps=every))
    told = []
    stage.train(tmp_path, on_interval=told.append)
    assert told == expected


@pytest.mark.parametrize("name", ["audio_batch_size", "vl_batch_size"])
def test_more_processes_than_rows_are_refused(configure, name):
    """Whoever builds the stage: some process would have no row."""
    config = configure(variant="no_retention", **{f"optimization__{name}": 2})
    with pytest.raises(InputError, match=f"optimization.{name}: expected a row for each of 3 processes, got 2"):
        StepBatches(config, None, None, Processes(0, 3))


def test_batches_of_a_calibration_are_padded_to_one_length_by_what_means_nothing():
    """Tokens by the pad token, masks by zero; pictures, which have no value a token, stay."""
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long),
        "mm_token_type_ids": torch.tensor([[0, 1, 0]]), "pixel_values": torch.ones(1, 3, 2, 2),
    }  # fmt: skip
    batch = Batch(inputs, None, torch.tensor([0]), torch.tensor([1]), torch.tensor([6]))
    padded = pad_to(batch, 5, 9).inputs
    assert padded["input_ids"].tolist() == [[5, 6, 7, 9, 9]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]
    assert padded["mm_token_type_ids"].tolist() == [[0, 1, 0, 0, 0]]
    assert padded["pixel_values"] is inputs["pixel_values"]
    assert pad_to(batch, 3, 9) is batch


def test_the_newest_two_checkpoints_are_kept_and_a_partial_one_is_ignored(tmp_path, configure, prepare):
    stage = prepare(configure(variant="no_retention"))
    stage.train_step()
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, stage.model, stage.optimizer, stage.retention)
    (tmp_path / ".step-0000004.partial").mkdir()
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [2, 3]


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, configure, prepare):
    stage = prepare(configure(variant="full_retention"))
    stage.train(tmp_path, should_stop=lambda: True)
    checkpoint = latest_checkpoint(tmp_path)
    wider = prepare(configure(variant="full_retention", model__fusion_dim=64))
    with pytest.raises(InputError, match="the tensors of this configuration"):
        wider.resume(checkpoint, tmp_path)
    (checkpoint.folder / "retention.safetensors").unlink()
    with pytest.raises(InputError, match="a checkpoint of this configuration"):
        prepare(configure(variant="full_retention")).resume(checkpoint, tmp_path)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="a run folder with a checkpoint"):
        latest_checkpoint(tmp_path / "nothing")


def test_label_smoothing_mixes_in_the_uniform_distribution(configure, prepare):
    """``(1 - e) CE(label) + e mean over the vocabulary of CE(token)``: Szegedy et al. 2016, arXiv:1512.00567."""
    losses = {}
    for share in (0.0, 0.25):
        stage = prepare(configure(variant="no_retention", optimization__label_smoothing=share))
        (batch, *_) = stage.batches.at(0).task
        tokens = len(batch.labels)
        with torch.no_grad():
            losses[share] = stage._task_loss(batch, tokens).item()
            hidden = stage.model.last_hidden_state(batch.inputs, batch.features)
            logits = stage.model.base.head(hidden[batch.token_rows, batch.token_positions]).double()
        spread = -logits.log_softmax(dim=-1).mean(dim=-1).mean().item()
    assert losses[0.25] == pytest.approx(0.75 * losses[0.0] + 0.25 * spread, rel=1e-5)
    assert losses[0.25] != pytest.approx(losses[0.0], rel=1e-2)
