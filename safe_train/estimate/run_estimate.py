"""What a run will take, before it is run: its own steps on the meta device, priced for a machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import torch
from torch import Tensor, nn

from safe_train.config import StageAConfig
from safe_train.data.collator import Collator
from safe_train.estimate.captures import repeated_captures
from safe_train.estimate.meta_model import (
    FeatureShapes,
    KeptTeacher,
    MetaBatches,
    meta_audio_encoder,
    meta_base,
    vision_takes_values,
)
from safe_train.estimate.speed import Speed
from safe_train.estimate.trace import Cost, MetaTrace, Phase
from safe_train.model.batch import Batch
from safe_train.model.safe_model import SafeModel
from safe_train.model.sources import base_source
from safe_train.retention.mechanism import Calibration, Mechanism, RunLength
from safe_train.training.build import (
    Rows,
    adapter_config,
    build_sampler,
    load_audio_encoders,
    load_examples,
    precision_dtype,
)
from safe_train.training.trainer import StageATrainer

_TRACED_BATCHES = 2  # of a calibration that keeps sums alone: with the second, the first's captures are still there
# Bytes a weight of what bitsandbytes quantizes: NormalFloat-4 with quantized scales, and 8 bits (arXiv:2305.14314).
_QUANTIZED_BYTES = {"4bit": 0.516, "8bit": 1.0}


@dataclass(frozen=True)
class Tokens:
    """Positions that the decoder computes in a step, and how many of them are padding.

    Attributes:
        audio: positions of the audio examples, padding included.
        vl: positions of the retention examples, padding included.
        padding: of both.
    """

    audio: int
    vl: int
    padding: int


@dataclass(frozen=True)
class Plan:
    """Parameters, memory, arithmetic and time of a run.

    Attributes:
        config: what was planned.
        trained, frozen: numbers of parameters; the frozen ones with those of the audio encoders.
        held: bytes that are held between steps, by what they are.
        step: a step after all calibrations; its peak counts what is held.
        calibrations: one calibration of each mechanism, by its name.
        num_calibrations: how often each comes in the run.
        bypass: a forward pass of the base over a micro-batch of retention examples, by which a machine can be
            calibrated.
        tokens: positions of the step that was traced.
        vision_is_estimated: whether the vision tower was not run, but counted at two FLOP a parameter and patch.
        encoding_seconds: time in which this machine encoded the rows of that step, one after the other.
        num_audio_rows: audio examples of the data set.
        num_vl_rows, num_text_rows: rows to protect, with an image and text-only.
        num_documents: of the text-only examples, those that are documents.
        text_rows_a_batch: text-only examples of the micro-batch of retention examples that was traced.
    """

    config: StageAConfig
    trained: int
    frozen: int
    held: Mapping[str, int]
    step: Phase
    calibrations: Mapping[str, Phase]
    num_calibrations: Mapping[str, int]
    bypass: Phase
    tokens: Tokens
    vision_is_estimated: bool
    encoding_seconds: float
    num_audio_rows: int
    num_vl_rows: int
    num_text_rows: int
    num_documents: int
    text_rows_a_batch: int

    @property
    def held_bytes(self) -> int:
        """Bytes that are held between steps."""
        return sum(self.held.values())

    @property
    def peak_bytes(self) -> int:
        """Largest number of bytes that tensors take at once on the device."""
        return max(self.step.peak, *(phase.peak for phase in self.calibrations.values()), 0)

    @property
    def cost(self) -> Cost:
        """Of all steps and calibrations."""
        total = self.step.cost * self.config.optimization.max_steps
        for name, phase in self.calibrations.items():
            total += phase.cost * self.num_calibrations[name]
        return total

    @property
    def steps_an_epoch(self) -> int:
        """Steps in which every audio example comes once."""
        settings = self.config.optimization
        return -(-self.num_audio_rows // (settings.audio_batch_size * settings.gradient_accumulation_steps))

    def step_seconds(self, speed: Speed) -> float:
        """A step: rows are encoded, then the device works."""
        return self.encoding_seconds + speed.seconds(self.step.cost)

    def run_seconds(self, speed: Speed) -> float:
        """All steps and calibrations, without evaluation."""
        return self.encoding_seconds * self.config.optimization.max_steps + speed.seconds(self.cost)


def plan_run(config: StageAConfig) -> Plan:
    """Runs one step and each calibration on the meta device; rows are read, weights are not.

    Raises:
        InputError: the configuration, the data or a model's folder does not fit.
    """
    rows = load_examples(config)
    with MetaTrace() as trace:
        trainer, batches, held = _meta_trainer(config, rows)
        for mechanism in trainer.retention.mechanisms:
            mechanism.calibrates = False  # of its own accord, in the steps that are traced
        trainer.train_step(measure=False)  # the first makes the optimizer's state
        tokens, encoding_seconds = _tokens(batches.encoded), batches.encoding_seconds
        batch = batches.retention_batch()
        calibrations = _calibrate(trainer, batch, trace)
        with trace.phase() as bypass, torch.no_grad():
            trainer.model.last_hidden_state(batch.inputs, None)
        trainer.optimizer.zero_grad(set_to_none=True)
        with trace.phase() as step:
            trainer.train_step(measure=False)
        held["optimizer"] = _optimizer_bytes(trainer.optimizer)
        held["retention"] = _num_bytes(trainer.retention.state_dict().values())
    smaller = _saved_by_quantization(trainer.model, config)
    held["frozen base"] -= smaller
    for phase in (step, bypass, *calibrations.values()):
        phase.peak -= smaller
    retention = batches.examples(trainer.step).retention
    frozen = [trainer.model.base.model, trainer.model.encoders]
    return Plan(
        config=config,
        trained=sum(p.numel() for p in trainer.model.trainable_parameters().values()),
        frozen=sum(p.numel() for part in frozen for p in part.parameters() if not p.requires_grad),
        held=held,
        step=step,
        calibrations=calibrations,
        num_calibrations={mechanism.name: each.count for mechanism, each in _calibrations(trainer).items()},
        bypass=bypass,
        tokens=tokens,
        vision_is_estimated=vision_takes_values(batch.inputs),
        encoding_seconds=encoding_seconds,
        num_audio_rows=len(rows.train_audio),
        num_vl_rows=len(rows.train_vl),
        num_text_rows=len(rows.train_text),
        num_documents=sum(row.is_document for row in rows.train_text),
        text_rows_a_batch=sum(row.image is None for row in retention[0]) if retention else 0,
    )


def _meta_trainer(config: StageAConfig, rows: Rows) -> tuple[StageATrainer, MetaBatches, dict[str, int]]:
    """A trainer on the meta device, its batches, and the bytes of the base, the encoders and the trained parts."""
    base = meta_base(base_source(config.model), precision_dtype(config))
    encoders = load_audio_encoders(config, meta_audio_encoder)
    held = {"frozen base": _module_bytes(base.model), "audio encoders": sum(_module_bytes(e) for e in encoders)}
    model = SafeModel(base, encoders, adapter_config(config.model, len(base.decoder_layers), config.seed))
    if config.model.gradient_checkpointing:
        model.checkpoint_gradients()
    held["trained parts"] = _num_bytes(model.trainable_parameters().values())
    encoder = Collator(base.processor, FeatureShapes(encoders), num_workers=config.data.num_workers)
    batches = MetaBatches(config, encoder, build_sampler(rows, config))
    trainer = StageATrainer(config, model, batches)
    if config.retention.teacher_cache:
        trainer.retention.model = KeptTeacher(model)
    return trainer, batches, held


def _calibrate(trainer: StageATrainer, batch: Batch, trace: MetaTrace) -> dict[str, Phase]:
    """Calibrates every mechanism that has something to calibrate, on the same retention examples again and again."""
    found: dict[str, Phase] = {}
    for mechanism, calibration in _calibrations(trainer).items():
        mechanism.take_no_values()
        num_batches = -(-calibration.num_examples // trainer.config.optimization.vl_batch_size)
        if calibration.keeps_captures:
            with repeated_captures(batch, num_batches, trace) as batches, trace.phase() as phase:
                mechanism.calibrate(batches)
        else:
            traced = min(num_batches, _TRACED_BATCHES)
            with trace.phase() as phase:
                mechanism.calibrate(partial(_repeat, batch, traced))
            phase.cost *= num_batches / traced
        found[mechanism.name] = phase
    older = sum(tensor.nbytes for mechanism in trainer.retention.mechanisms for tensor in mechanism.calibrated())
    for phase in found.values():  # while a mechanism calibrates, what others have calibrated before is there
        phase.peak += older
    return found


def _calibrations(trainer: StageATrainer) -> dict[Mechanism, Calibration]:
    """What each mechanism calibrates in the run."""
    length = RunLength(trainer.config.optimization.max_steps, trainer.batches.retention_examples_per_step)
    found = {mechanism: mechanism.calibration(length) for mechanism in trainer.retention.mechanisms}
    return {mechanism: calibration for mechanism, calibration in found.items() if calibration is not None}


def _repeat(batch: Batch, times: int, _num_samples: int) -> Iterator[Batch]:
    return repeat(batch, times)


def _tokens(encoded: Sequence[tuple[str, int, int]]) -> Tokens:
    positions = {kind: sum(count for of, count, _ in encoded if of == kind) for kind in ("audio", "vl")}
    padding = sum(count - used for _, count, used in encoded)
    return Tokens(positions["audio"], positions["vl"], padding)


def _saved_by_quantization(model: SafeModel, config: StageAConfig) -> int:
    """Bytes by which quantization makes the base smaller: its linear layers but the head."""
    if config.model.quantization == "none":
        return 0
    head = model.base.model.get_output_embeddings()
    layers = [m for m in model.base.model.modules() if isinstance(m, nn.Linear) and m is not head]
    each = _QUANTIZED_BYTES[config.model.quantization]
    return sum(m.weight.nbytes - int(m.weight.numel() * each) for m in layers)


def _optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    return _num_bytes(v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor))


def _module_bytes(module: nn.Module) -> int:
    return _num_bytes([*module.parameters(), *module.buffers()])


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' storages, each counted once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())
