"""What a run will take, before it is run: its own steps on the meta device, priced for a machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import torch
from torch import Tensor, nn

from safe_kernels import Basis
from safe_train.config import StageAConfig
from safe_train.configs.model_configs import get_model_config
from safe_train.data.collator import Collator
from safe_train.estimate.captures import repeated_captures
from safe_train.estimate.meta_model import (
    FeatureShapes,
    KeptTeacher,
    MetaTrainer,
    meta_audio_encoder,
    meta_base,
    vision_takes_values,
)
from safe_train.estimate.speed import Speed
from safe_train.estimate.trace import Cost, MetaTrace, Phase, register_kernels
from safe_train.model.batch import Batch
from safe_train.model.safe_model import SafeModel
from safe_train.retention import ElasticWeightConsolidation, NullSpaceProjection
from safe_train.training.build import (
    Rows,
    adapter_config,
    build_sampler,
    load_audio_encoders,
    load_examples,
    precision_dtype,
)

_NEVER = 2**62
_TRACED_BATCHES = 2  # of a calibration that keeps sums alone: with the second, the first's captures are still there
# Bytes a weight of what bitsandbytes quantizes: NormalFloat-4 with quantized scales, and 8 bits (arXiv:2305.14314).
_QUANTIZED_BYTES = {"4bit": 0.516, "8bit": 1.0}


@dataclass(frozen=True)
class Tokens:
    """Positions that the decoder computes in a step, and how many of them are padding.

    Attributes:
        audio: positions of the audio rows, padding included.
        vl: positions of the protected rows, padding included.
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
        bypass: a forward pass of the base over a micro-batch of protected rows, by which a machine can be calibrated.
        tokens: positions of the step that was traced.
        vision_is_estimated: whether the vision tower was not run, but counted at two FLOP a parameter and patch.
        encoding_seconds: time in which this machine encoded the rows of that step, one after the other.
        num_audio_rows: audio rows of the data set.
        num_vl_rows, num_text_rows: rows to protect, with an image and text-only.
        num_documents: of the text-only rows, those that are documents.
        text_rows_a_batch: text-only rows of the micro-batch of protected rows that was traced.
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
        """Steps in which every audio row comes once."""
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
    register_kernels()
    rows = load_examples(config)
    with MetaTrace() as trace:
        stage, held = _meta_stage(config, rows)
        _postpone_calibrations(stage)
        stage.train_step(measure=False)  # the first makes the optimizer's state
        tokens, encoding_seconds = _tokens(stage.encoded), stage.encoding_seconds
        calibrations = _calibrated(stage, trace)
        inputs = stage.retention_batch().inputs
        with trace.phase() as bypass, torch.no_grad():
            stage.model.last_hidden_state(inputs, None)
        stage.optimizer.zero_grad(set_to_none=True)
        with trace.phase() as step:
            stage.train_step(measure=False)
        held["optimizer"] = _optimizer_bytes(stage.optimizer)
        held["retention"] = _num_bytes(stage.stack.state_dict().values())
    smaller = _saved_by_quantization(stage.model, config)
    held["frozen base"] -= smaller
    for phase in (step, bypass, *calibrations.values()):
        phase.peak -= smaller
    frozen = [stage.model.base.model, stage.model.encoders]
    return Plan(
        config=config,
        trained=sum(p.numel() for p in stage.model.trainable_parameters().values()),
        frozen=sum(p.numel() for part in frozen for p in part.parameters() if not p.requires_grad),
        held=held,
        step=step,
        calibrations=calibrations,
        num_calibrations=_num_calibrations(stage),
        bypass=bypass,
        tokens=tokens,
        vision_is_estimated=vision_takes_values(inputs),
        encoding_seconds=encoding_seconds,
        num_audio_rows=len(rows.train_audio),
        num_vl_rows=len(rows.train_vl),
        num_text_rows=len(rows.train_text),
        num_documents=sum(row.is_document for row in rows.train_text),
        text_rows_a_batch=sum(row.image is None for row in stage.step_rows()["vl"][0]) if stage.stack.adds_loss else 0,
    )


def _meta_stage(config: StageAConfig, rows: Rows) -> tuple[MetaTrainer, dict[str, int]]:
    """Stage A on the meta device, and the bytes of the base, the encoders and the trained parts."""
    source = config.model.base_model or get_model_config(config.model.config).base_model
    base = meta_base(source, precision_dtype(config))
    encoders = load_audio_encoders(config, meta_audio_encoder)
    held = {"frozen base": _module_bytes(base.model), "audio encoders": sum(_module_bytes(e) for e in encoders)}
    model = SafeModel(base, encoders, adapter_config(config.model, len(base.decoder_layers), config.seed))
    if config.model.gradient_checkpointing:
        model.checkpoint_gradients()
    held["trained parts"] = _num_bytes(model.trainable_parameters().values())
    encoder = Collator(base.processor, FeatureShapes(encoders), num_workers=config.data.num_workers)
    stage = MetaTrainer(config, model, encoder, build_sampler(rows, config))
    if config.retention.teacher_cache:
        stage.stack.model = KeptTeacher(model)
    return stage, held


def _postpone_calibrations(stage: MetaTrainer) -> None:
    """Keeps the steps that are traced from calibrating of their own accord."""
    for mechanism in stage.stack.mechanisms:
        if isinstance(mechanism, ElasticWeightConsolidation):
            mechanism.calibrate_at = _NEVER
        elif isinstance(mechanism, NullSpaceProjection):
            mechanism.computed_at = _NEVER


def _calibrated(stage: MetaTrainer, trace: MetaTrace) -> dict[str, Phase]:
    """Calibrates every mechanism that has something to calibrate, on the same protected rows again and again."""
    found: dict[str, Phase] = {}
    batch, size = stage.retention_batch(), stage.config.optimization.vl_batch_size
    for mechanism in stage.stack.mechanisms:
        if isinstance(mechanism, ElasticWeightConsolidation):
            mechanism.labels = "empirical"  # to draw labels takes values; it costs a softmax of few tokens more
            num_batches = -(-mechanism.num_samples // size)
        elif isinstance(mechanism, NullSpaceProjection):
            num_batches = -(-mechanism.min_samples // size)
        else:
            continue
        if isinstance(mechanism, NullSpaceProjection) and mechanism.subspace == "gradient":
            with repeated_captures(batch, num_batches, trace) as batches, trace.phase() as phase:
                mechanism.batches = batches
                mechanism.calibrate()
        else:
            traced = min(num_batches, _TRACED_BATCHES)
            mechanism.batches = partial(_repeated, batch, traced)
            with trace.phase() as phase:
                mechanism.calibrate()
            phase.cost *= num_batches / traced
        found[mechanism.name] = phase
    for phase in found.values():  # when the Fisher diagonal is computed, or new bases are, the older bases are there
        phase.peak += sum(basis.vectors.nbytes for basis in _bases(stage))
    return found


def _bases(stage: MetaTrainer) -> list[Basis]:
    mechanisms = [m for m in stage.stack.mechanisms if isinstance(m, NullSpaceProjection)]
    return [basis for mechanism in mechanisms for basis in mechanism.bases.values()]


def _repeated(batch: Batch, times: int, _num_samples: int) -> Iterator[Batch]:
    return repeat(batch, times)


def _num_calibrations(stage: MetaTrainer) -> dict[str, int]:
    """How often each mechanism calibrates in the run."""
    effective, rows = stage.effective, stage.config.optimization.max_steps * stage.rows_per_step
    refreshes = max(0, rows - 1 - effective.null_space_min_samples) // effective.null_space_refresh_interval
    counts = {
        ElasticWeightConsolidation.name: 1,
        NullSpaceProjection.name: 1 + refreshes if rows > effective.null_space_min_samples else 0,
    }
    return {mechanism.name: counts[mechanism.name] for mechanism in stage.stack.mechanisms if mechanism.name in counts}


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
