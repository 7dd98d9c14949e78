"""A plan beside the run that it plans, and plans that are refused."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench.calibration import configuration_13b
from bench.measure import peak_extra_bytes
from bench.random_llava import LLAVA_13B
from safe_train.cli import train
from safe_train.config import build_config
from safe_train.configs.gpus import GPUS
from safe_train.embedded import weights
from safe_train.errors import InputError
from safe_train.estimate import format_plan, plan_run, require_fit
from safe_train.estimate.speed import ASSUMED, GIB, speed_of, usable_bytes
from safe_train.training.build import (
    attach,
    build_batches,
    load_base_model,
    load_examples,
)
from safe_train.training.trainer import StageATrainer

CLOSENESS = 0.15
"""How far a planned peak may be from the measured one: the promise of the dry run."""


def configuration(data: Path, **settings):
    defaults = {
        "data.root": data, "optimization.max_steps": 40, "optimization.audio_batch_size": 8,
        "optimization.vl_batch_size": 8, "retention.fisher_samples": 8, "retention.null_space_min_samples": 8,
    }  # fmt: skip
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    return build_config({}, {key: str(value) for key, value in (defaults | changes).items()})


@pytest.fixture(scope="module")
def full(small_data):
    return plan_run(configuration(small_data))


def run_up_to_calibration(config) -> StageATrainer:
    model = attach(load_base_model(config), config)
    stage = StageATrainer(
        config,
        model,
        build_batches(config, model, load_examples(config)),
    )
    while stage.step < 12:  # Fisher at a quarter of 40 steps
        stage.train_step(measure=False)
    return stage


def bytes_held(stage: StageATrainer) -> int:
    """Storages of everything that lives between steps, gradients left out."""
    tensors = [*stage.model.base.model.parameters(), *stage.model.base.model.buffers()]
    tensors += [*stage.model.encoders.parameters(), *stage.model.encoders.buffers()]
    tensors += [*stage.model.trainable_parameters().values(), *stage.retention.state_dict().values()]
    tensors += [v for state in stage.optimizer.state.values() for v in state.values()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_parameters_are_counted_once(full, small_data):
    model = attach(load_base_model(configuration(small_data)), configuration(small_data))
    assert full.trained == sum(p.numel() for p in model.trainable_parameters().values())
    assert full.frozen == sum(p.numel() for part in (model.base.model, model.encoders) for p in part.parameters())


@pytest.mark.parametrize("variant", ["no_retention", "full_retention"])
def test_memory_is_that_of_the_run(small_data, variant):
    config = configuration(small_data, variant=variant)
    plan, stage = plan_run(config), run_up_to_calibration(config)
    assert plan.held_bytes == pytest.approx(bytes_held(stage), rel=0.01)
    stage.optimizer.zero_grad(set_to_none=True)  # else the profiler would miss that they are freed
    extra = peak_extra_bytes(lambda: stage.train_step(measure=False), torch.device("cpu"))
    measured = bytes_held(stage) + extra
    assert plan.step.peak == pytest.approx(measured, rel=CLOSENESS)
    assert plan.step.peak - plan.held_bytes == pytest.approx(extra, rel=CLOSENESS)


def test_memory_of_the_calibrations_is_that_of_the_run(full, small_data):
    stage = run_up_to_calibration(full.config)
    stage.optimizer.zero_grad(set_to_none=True)
    held = bytes_held(stage)
    for mechanism in stage.retention.mechanisms[1:]:
        extra = peak_extra_bytes(mechanism.calibrate, torch.device("cpu"))
        gradients = full.held["trained parts"]  # alive in a run, left out here since the profiler misses their end
        measured = held + gradients + extra
        assert full.calibrations[mechanism.name].peak == pytest.approx(measured, rel=CLOSENESS), mechanism.name


def test_negative_control_a_plan_of_another_batch_size_misses_the_memory(small_data):
    whole, half = (
        plan_run(configuration(small_data, variant="no_retention", optimization__audio_batch_size=rows))
        for rows in (32, 16)
    )
    assert half.held_bytes == whole.held_bytes
    ratio = (half.step.peak - half.held_bytes) / (whole.step.peak - whole.held_bytes)
    assert ratio < 1 - CLOSENESS
    assert half.step.cost.flops < 0.6 * whole.step.cost.flops


def test_decoder_flops_are_two_a_weight_and_position(small_data):
    """Without retention: audio examples forward, and backward through the layers behind the first fusion."""
    plan = plan_run(configuration(small_data, variant="no_retention", data__image_prob=0))
    base = load_base_model(plan.config)
    layers = [sum(p.numel() for p in layer.parameters() if p.dim() == 2) for layer in base.decoder_layers]
    forward = 2 * plan.tokens.audio * sum(layers)
    assert forward < plan.step.cost.flops < 3 * forward


def test_calibrations_are_counted_as_often_as_they_come(full, small_data):
    assert full.num_calibrations == {"Fisher": 1, "null space": 4}  # at 32, 112, 192 and 272 of 320 rows
    steps = full.step.cost.flops * 40
    calibrations = sum(full.calibrations[name].cost.flops * n for name, n in full.num_calibrations.items())
    assert full.cost.flops == pytest.approx(steps + calibrations)
    soft = plan_run(configuration(small_data, variant="soft_retention"))
    assert soft.calibrations == {}


def test_a_kept_teacher_and_length_buckets_save_what_they_say(full, small_data):
    kept = plan_run(configuration(small_data, retention__teacher_cache=True))
    apart = plan_run(configuration(small_data, data__length_buckets=True))
    assert kept.step.cost.flops < full.step.cost.flops
    assert kept.tokens == full.tokens
    assert apart.tokens.padding < full.tokens.padding
    assert apart.tokens.vl < full.tokens.vl  # retention examples with and without an image are apart, too


def test_text_only_rows_are_counted_and_traced(full, small_data, tmp_path):
    for path in small_data.iterdir():
        if path.name != "text":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "text").mkdir()
    entries = [{"id": n, "prompt": "is it red?", "answer": "yes"} for n in range(6)] + [{"id": "d", "text": "a star"}]
    for split in ("train", "val"):
        (tmp_path / "text" / f"{split}.json").write_text(json.dumps(entries))
    plain, with_text = (
        plan_run(
            configuration(tmp_path, data__train_text_source=source, data__length_buckets=True, data__text_ratio=0.5)
        )
        for source in ("none", "text")
    )
    assert (plain.num_text_rows, plain.text_rows_a_batch) == (0, 0)
    found = (with_text.num_audio_rows, with_text.num_vl_rows, with_text.num_text_rows, with_text.num_documents)
    assert found == (40, 60, 7, 1)
    assert with_text.text_rows_a_batch == 4  # of eight
    assert with_text.tokens.vl < plain.tokens.vl  # images are most of the positions
    assert with_text.step.cost.flops < plain.step.cost.flops
    table = format_plan(with_text)
    assert "rows: 40 audio; to protect, 60 with an image and 7 text-only, 1 of them documents" in table
    positions = f"{with_text.tokens.vl:,} positions"
    assert f"retention examples of a micro-batch: 4 of 8 text-only; of a step, {positions}" in table


def test_gradient_accumulation_costs_time_and_no_memory(small_data):
    """Of VL examples, which are all as long: text-only ones of the second micro-batch would have other lengths."""
    once, twice = (
        plan_run(
            configuration(small_data, optimization__gradient_accumulation_steps=steps, data__train_text_source="none")
        )
        for steps in (1, 2)
    )
    assert twice.step.cost.flops == pytest.approx(2 * once.step.cost.flops, rel=0.1)
    assert twice.step.peak == pytest.approx(once.step.peak, rel=0.05)


def test_gradient_checkpointing_trades_memory_for_arithmetic(small_data):
    sizes = {"variant": "no_retention", "optimization__audio_batch_size": 32}
    plain, saving = (
        plan_run(configuration(small_data, model__gradient_checkpointing=flag, **sizes)) for flag in (False, True)
    )
    assert saving.step.peak < plain.step.peak
    assert saving.step.cost.flops > plain.step.cost.flops


def test_half_precision_halves_the_base(full, small_data):
    half = plan_run(configuration(small_data, precision="bf16"))
    assert half.held["frozen base"] == pytest.approx(full.held["frozen base"] / 2, rel=0.01)
    assert half.held["trained parts"] == full.held["trained parts"]


def test_weights_need_not_be_there(full, small_data, tmp_path):
    for name, folder in (("base", weights.base_folder()), ("audio", weights.audio_encoder_folder())):
        shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
    sources = {"model__base_model": tmp_path / "base", "model__audio_encoders": f"[{tmp_path / 'audio'}]"}
    plan = plan_run(configuration(small_data, **sources))
    assert (plan.trained, plan.frozen, plan.held) == (full.trained, full.frozen, full.held)
    assert plan.step.cost == full.step.cost


def room_for(plan, room: int):
    """A GPU on which a plan may fill so much."""
    return replace(GPUS["h100"], name="small", memory=int(room / (1 - ASSUMED.fragmentation)) + 2**30 + 100)


@pytest.mark.slow
def test_a_plan_that_does_not_fit_is_refused_with_what_to_change(full):
    small = room_for(full, int(0.99 * full.peak_bytes))
    assert usable_bytes(small) < full.peak_bytes
    with pytest.raises(InputError, match=r"--gpu small: .*; take --gpu a100"):
        require_fit(full, small)
    require_fit(full, GPUS["h100"])


def hint(plan, room: int) -> str:
    """What is reported for a GPU with so much room."""
    with pytest.raises(InputError) as caught:
        require_fit(plan, room_for(plan, room))
    return str(caught.value)


def settings_in(text: str) -> dict[str, str]:
    """The settings that a way out names."""
    return dict(word.split("=") for word in text.split("; ")[1].removeprefix("set ").split())


def test_the_way_out_fits(small_data, monkeypatch):
    """What is reported is planned again here, as someone would who follows it; the rows of a step stay as they were."""
    monkeypatch.setattr("safe_train.estimate.fitting.GPUS", {})
    plain = plan_run(configuration(small_data, variant="no_retention", optimization__audio_batch_size=32))
    half = (plain.held_bytes + plain.step.peak) // 2
    told = settings_in(hint(plain, half))
    assert told["model.gradient_checkpointing"] == "true"
    rows, times = int(told["optimization.audio_batch_size"]), int(told["optimization.gradient_accumulation_steps"])
    assert rows * times == 32
    assert rows < 32
    again = build_config(plain.config.model_dump(mode="json"), told)
    assert plan_run(again).peak_bytes <= half < plain.peak_bytes


def test_checkpointing_comes_before_smaller_batches(small_data, monkeypatch):
    monkeypatch.setattr("safe_train.estimate.fitting.GPUS", {})
    settings = {"variant": "no_retention", "optimization__audio_batch_size": 32}
    plain, saving = (
        plan_run(configuration(small_data, model__gradient_checkpointing=flag, **settings)) for flag in (False, True)
    )
    assert settings_in(hint(plain, saving.peak_bytes)) == {"model.gradient_checkpointing": "true"}


def test_a_null_space_alone_too_large_gets_less_memory_for_captures(small_data, monkeypatch):
    """The captures of all weights take 13 MB here."""
    monkeypatch.setattr("safe_train.estimate.fitting.GPUS", {})
    settings = {"variant": "nullspace_retention", "model__gradient_checkpointing": True}
    settings |= {"optimization__audio_batch_size": 1, "optimization__vl_batch_size": 1}
    settings |= {"retention__null_space_min_samples": 128, "optimization__max_steps": 4000}
    wide = plan_run(configuration(small_data, retention__null_space_memory_gib=0.012, **settings))
    assert wide.step.peak < wide.calibrations["null space"].peak == wide.peak_bytes
    told = settings_in(hint(wide, wide.peak_bytes - 2**19))
    assert set(told) == {"retention.null_space_memory_gib"}
    assert 0.01 <= float(told["retention.null_space_memory_gib"]) < 0.012


def test_what_is_held_is_made_smaller_by_other_dtypes(full, monkeypatch):
    monkeypatch.setattr("safe_train.estimate.fitting.GPUS", {})
    assert "set precision=bf16, or set model.quantization=4bit" in hint(full, full.held_bytes // 2)


def test_a_change_that_does_not_fit_is_not_told(full, monkeypatch):
    monkeypatch.setattr("safe_train.estimate.fitting.GPUS", {})
    monkeypatch.setattr("safe_train.estimate.fitting.plan_run", lambda _config: full)
    assert "choose a smaller base" in hint(full, (full.held_bytes + full.step.peak) // 2)


def test_captures_that_are_repeated_count_like_captures_that_are_made(small_data, monkeypatch):
    """Of 16 batches two are run; where all of them are, arithmetic and memory are the same."""

    @contextmanager
    def all_of_them(batch, times, _trace):
        yield lambda _num_samples: repeat(batch, times)

    sizes = {"variant": "nullspace_retention", "retention__null_space_min_samples": 64}
    for gib in ("0.004", "1"):
        config = configuration(small_data, optimization__vl_batch_size=4, retention__null_space_memory_gib=gib, **sizes)
        repeated = plan_run(config).calibrations["null space"]
        with monkeypatch.context() as patched:
            patched.setattr("safe_train.estimate.run_estimate.repeated_captures", all_of_them)
            made = plan_run(config).calibrations["null space"]
        assert repeated.cost == made.cost
        assert repeated.peak == pytest.approx(made.peak, rel=0.02)


def test_memory_for_captures_bounds_the_calibration_and_costs_passes(small_data):
    sizes = {
        "variant": "nullspace_retention", "retention__null_space_min_samples": 128, "optimization__max_steps": 400
    }  # fmt: skip
    wide, narrow = (
        plan_run(configuration(small_data, retention__null_space_memory_gib=gib, **sizes)).calibrations["null space"]
        for gib in (1, 0.004)
    )
    assert narrow.peak < wide.peak - 2**20
    assert narrow.cost.flops > 1.5 * wide.cost.flops


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_llava_of_13_b_fits_into_80_gb(small_data, tmp_path):
    """Full retention as docs/cost.md describes it: too large as it is, small enough with gradient checkpointing."""
    LLAVA_13B.save(tmp_path, weights=False)
    plan, fitting = (
        plan_run(configuration_13b(small_data, tmp_path, **changes))
        for changes in ({}, {"model__gradient_checkpointing": True})
    )
    room = usable_bytes(GPUS["h100"])
    assert 188e6 < plan.trained < 190e6
    assert plan.held["frozen base"] / GIB == pytest.approx(24.9, abs=0.1)
    assert plan.peak_bytes > room
    assert fitting.peak_bytes <= 0.8 * room
    sketch_rows = 4 * 8 * 4 * plan.trained  # float32 rows of four times the rank, which the bases once came from
    null_space = fitting.calibrations["null space"].peak
    assert null_space - fitting.held_bytes < 0.9 * sketch_rows


def test_a_faster_gpu_takes_less_time_and_the_text_says_what_was_assumed(full):
    seconds = [full.run_seconds(speed_of(GPUS[name], "bf16")) for name in ("a100", "h100", "b200")]
    assert seconds == sorted(seconds, reverse=True)
    text = format_plan(full)
    assert all(
        name in text for name in [*GPUS, "assumed, as measured on an H100", "NVIDIA", "frozen base", "null space"]
    )
    assert "h100" in format_plan(full, GPUS["h100"])
    assert "a100" not in format_plan(full, GPUS["h100"])


def invoke(data: Path, *arguments: str):
    return CliRunner().invoke(train, ["--data-root", str(data), "--dry-run", *arguments])


def test_the_command_prints_the_plan_and_writes_nothing(small_data, tmp_path):
    result = invoke(small_data, "--variant", "no_retention", "--gpu", "h200", "--output-root", str(tmp_path / "runs"))
    assert result.exit_code == 0
    assert "h200" in result.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "h10"), "did you mean 'h100'?"),
        (("--set", "optimization.vl_batch=4"), "did you mean"),
        (("--set", "model.fusion_layers=9"), "at most 3 decoder layers"),
        (("--base-model", "/nowhere/base"), "no such folder"),
        (("--resume", "runs/x"), "no other settings"),
    ],
)
def test_what_cannot_be_planned_is_one_line_and_exit_code_2(small_data, arguments, words):
    result = invoke(small_data, *arguments)
    assert result.exit_code == 2
    assert words in result.output.splitlines()[-1]


def test_a_gpu_without_a_dry_run_is_an_error():
    result = CliRunner().invoke(train, ["--gpu", "h100"])
    assert result.exit_code == 2
    assert "--dry-run" in result.output
