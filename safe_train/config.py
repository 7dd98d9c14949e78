"""The Stage A configuration: typed, frozen, every key known; written whole to ``config.json`` of each run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from configs.model_configs import MODEL_CONFIGS
from configs.retention_variants import RETENTION_VARIANTS
from safe_train.errors import InputError, nearest
from safe_train.shown import shortened

EMBEDDED_DATA = "embedded"

DERIVED = ("effective", "versions", "machine", "notes", "job")
"""What a run's ``config.json`` says beside its settings."""

_BEFORE_IT_WAS_A_SETTING = (("data", "train_text_source", "none"), ("model", "audio_level_db", None))
"""What a run did whose configuration does not know the setting: its defaults are those of later runs."""

REGISTRIES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"variant": RETENTION_VARIANTS, "model.config": MODEL_CONFIGS}
)
"""Settings that are the name of something registered, and where."""

_FEW = 12  # names that still can be read in one line
_WHOLE = re.compile(r"[+-]?\d+")

AudioSource = Literal["audiocaps", "wavcaps", "avqa", "pack", "embedded"]
VLSource = Literal["vqa", "pack", "embedded"]
TextSource = Literal["auto", "text", "pack", "embedded", "none"]


class _Section(BaseModel):
    """A part of the configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class ModelSettings(_Section):
    """Base, audio encoders and the size of the trained parts; what is None comes from the model configuration.

    Where another base than the embedded one is named and no model configuration, the sizes follow from the base.
    """

    config: str = "demo"
    """Name of a model configuration."""
    base_model: str | None = None
    """Hub id or local folder of the base."""
    audio_encoders: tuple[str, ...] | None = None
    """Hub ids or local folders of the audio encoders."""
    audio_features: tuple[Literal["pooled", "grid"], ...] | None = None
    """For each audio encoder, one feature a clip, or one for each stretch of time; None for what suits the model."""
    audio_seconds: float = Field(default=30.0, gt=0.0)
    """Longest stretch of a clip that is heard by an audio encoder without a window of its own (wav2vec 2.0 and kin)."""
    audio_level_db: float | None = -20.0
    """Level (root mean square, dB of full scale) that a clip is brought to before an audio encoder hears it; None
    leaves clips as loud as they are."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention of the base; ``auto`` is the fastest that transformers finds without further packages."""
    quantization: Literal["none", "4bit", "8bit"] = "none"
    """Weights of the frozen base in fewer bits, by the extra ``bitsandbytes``, on a GPU."""
    gradient_checkpointing: bool = False
    """Compute the decoder's inner activations again in each backward pass: less memory, more time, the same result."""
    num_audio_tokens: int | None = Field(default=None, ge=1)
    """Audio tokens a clip."""
    projector_hidden: int | None = Field(default=None, ge=1)
    """Width of the projector's hidden layer."""
    fusion_layers: int | None = Field(default=None, ge=1)
    """Number of decoder layers with a fusion, spread evenly up to the last but one."""
    fusion_dim: int | None = Field(default=None, ge=1)
    """Width of the cross-attention."""
    fusion_heads: int = Field(default=4, ge=1)
    """Heads of the cross-attention."""
    lora_rank: int = Field(default=0, ge=0)
    """Rank of LoRA on the decoder's attention; 0 for none."""


class DataSettings(_Section):
    """Where the rows come from and how they are mixed."""

    root: str = EMBEDDED_DATA
    """Folder with ``audiocaps/``, ``vqa/`` and, for text alone, ``text/``; ``embedded`` makes the procedural data."""
    train_split: str = "train"
    """Split that is trained on."""
    val_split: str = "val"
    """Split that is evaluated on."""
    train_audio_source: AudioSource = "audiocaps"
    """Audio rows to train on: a data set of the root, the clips of the pack, or the procedural clips."""
    train_vl_source: VLSource = "vqa"
    """VL rows to protect: of the root, the pack or the procedural data."""
    val_audio_source: AudioSource | Literal["trained"] = "audiocaps"
    """Audio rows to evaluate on, with ``trained`` for those that are trained on."""
    val_vl_source: VLSource = "vqa"
    """VL rows to evaluate on. Where the pack gives these and those to protect, they are of different images."""
    train_text_source: TextSource = "auto"
    """Text-only rows to protect; ``auto`` takes those that stand beside the VL rows, if there are any."""
    val_text_source: TextSource = "auto"
    """Text-only rows to evaluate on, likewise."""
    pack_root: str | None = None
    """Folder of the pack."""
    max_train_audio: int | None = Field(default=None, ge=1)
    """Audio rows used for training, drawn by the seed; None for all."""
    max_train_vl: int | None = Field(default=None, ge=1)
    """VL rows used for retention, drawn by the seed; None for all."""
    max_train_text: int | None = Field(default=None, ge=1)
    """Text-only rows used for retention, drawn by the seed; None for all."""
    text_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of the protected rows of a batch that are text-only, where there are text-only rows."""
    document_tokens: int = Field(default=8, ge=1)
    """Tokens that stand for a protected document in the retention loss, drawn anew at each of its turns: all of them
    would outweigh the answers, which have two or three."""
    image_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of audio rows that also show an unrelated image."""
    silence_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of protected rows that hear silence instead of an unrelated clip; without any, some seeds lose there."""
    loud_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of protected rows whose unrelated clip is 20 dB louder."""
    noise_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of protected rows that hear white noise instead of an unrelated clip."""
    gains_db: tuple[float, ...] = ()
    """Gains in dB of which one is drawn for the clip of each training row, so that loud clips are heard; 0 is drawn as
    often as each of them. None are drawn if there are none."""
    shuffle_audio: bool = False
    """Train on clips that belong to other rows: a control that leaves nothing to be learned from hearing."""
    audio_question: str = "what do you hear?"
    """Question put to clips that come with captions alone."""
    num_workers: int = Field(default=0, ge=0)
    """Threads that decode the clips and images of a batch; 0 decodes them one after the other."""
    length_buckets: bool = False
    """Put audio rows with and without an image through the model apart, instead of padding both to one length."""
    cache_root: str | None = None
    """Folder that keeps audio features, and teacher states if they are cached, for later runs; ``auto`` for one under
    ``$SAFE_CACHE``, None for none."""
    cache_gib: float = Field(default=4.0, gt=0.0, le=1e9)
    """Memory for audio features in GiB, and as much for teacher states; what does not fit is computed or read again."""

    @model_validator(mode="after")
    def _shares_are_of_one_whole(self) -> DataSettings:
        if self.silence_share + self.loud_share + self.noise_share > 1.0:
            raise ValueError("silence_share + loud_share + noise_share must be at most 1")
        return self

    @model_validator(mode="after")
    def _pack_has_a_folder(self) -> DataSettings:
        audio_and_vl = (self.train_audio_source, self.train_vl_source, self.val_audio_source, self.val_vl_source)
        sources = (*audio_and_vl, self.train_text_source, self.val_text_source)
        if "pack" in sources and self.pack_root is None:
            raise ValueError("the source pack needs data.pack_root, the folder of a pack")
        return self


class OptimizationSettings(_Section):
    """The optimizer and its schedule."""

    max_steps: int = Field(default=400, ge=1)
    """Optimizer steps."""
    audio_batch_size: int = Field(default=16, ge=1)
    """Audio rows a micro-batch."""
    vl_batch_size: int = Field(default=16, ge=1)
    """Protected rows a micro-batch, VL and text-only, each with an audio clip that has nothing to do with it."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Micro-batches an optimizer step."""
    lr_projector: float = Field(default=4e-3, gt=0.0)
    """Peak learning rate of the projectors; if it is not given, times 128 over the width of another base."""
    lr_adapter: float = Field(default=4e-3, gt=0.0)
    """Peak learning rate of the fusions and of LoRA; if it is not given, times 128 over the width of another base."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Decoupled weight decay."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """AdamW's decay of the first moment."""
    beta2: float = Field(default=0.98, ge=0.0, lt=1.0)
    """AdamW's decay of the second moment."""
    warmup_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of the steps over which the learning rate rises, before its cosine descent."""
    gate_warmup_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the steps over which the gate opens from 0 to 1."""
    clip_norm: float = Field(default=1.0, gt=0.0)
    """Largest norm of the total gradient."""


class RetentionSettings(_Section):
    """How the mechanisms of the variant work; the weights themselves are the variant's."""

    retention_scale: float = Field(default=1.0, gt=0.0)
    """Factor on the variant's retention weight, for scales at which the registered weights are weak or strong."""
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    """Divergence of the student from the bypass."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Temperature of the divergence."""
    fisher_trace: float = Field(default=1000.0, gt=0.0)
    """Sum that the Fisher diagonal is scaled to, since its raw size varies between seeds by orders of magnitude."""
    fisher_samples: int = Field(default=256, ge=1)
    """VL rows that the Fisher diagonal is the mean of."""
    fisher_labels: Literal["true", "empirical"] = "true"
    """Labels drawn from the model, or those of the data."""
    fisher_at: float = Field(default=0.25, ge=0.0, lt=1.0)
    """Share of the steps after which the Fisher diagonal is computed; at step 0 most of it is zero."""
    teacher_cache: bool = False
    """Compute the teacher's states of a protected row once, alone, and keep them; pays from the second epoch on."""
    null_space_subspace: Literal["gradient", "activation"] = "gradient"
    """Subspace of per-sample VL gradients, or of the layers' inputs on VL rows."""
    null_space_projects: Literal["audio_gradient", "total_gradient", "audio_update", "update"] = "audio_update"
    """What is kept out of the subspace: the audio loss's gradient or part of the update, or all of it."""
    null_space_one_sided: bool = True
    """Remove only what would raise the VL loss; needs the gradient subspace."""
    null_space_energy: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of energy at which the rank is cut; None keeps the variant's rank."""
    null_space_memory_gib: float | None = Field(default=None, gt=0.0)
    """Memory in GiB for what gradient subspaces are computed from; weights that do not fit wait for a further pass over
    the protected rows, with the same result. None for twice what the bases take, at least 1."""
    null_space_rank: int | None = Field(default=None, ge=1)
    """Dimensions of the subspace; None keeps the variant's."""
    null_space_min_samples: int | None = Field(default=None, ge=1)
    """Protected rows before the subspace is first computed; None keeps the variant's."""
    null_space_refresh_interval: int | None = Field(default=None, ge=1)
    """Protected rows between two computations of the subspace; None keeps the variant's."""

    @model_validator(mode="after")
    def _one_sided_needs_gradients(self) -> RetentionSettings:
        if self.null_space_one_sided and self.null_space_subspace == "activation":
            raise ValueError("null_space_one_sided needs null_space_subspace=gradient: activations have no sign")
        return self


class EvaluationSettings(_Section):
    """What is measured, and when."""

    every: int = Field(default=0, ge=0)
    """Steps between two evaluations on every tenth row; 0 evaluates at the end only."""
    max_vl: int | None = Field(default=None, ge=1)
    """VL rows of the validation split; None for all."""
    max_text: int | None = Field(default=None, ge=1)
    """Text-only rows of the validation split; None for all."""
    max_audio: int | None = Field(default=None, ge=1)
    """Audio rows of the validation split; None for all."""
    gate: float = Field(default=1.0, gt=0.0, le=1.0)
    """Gate at which SAFE is evaluated; conditions that set the gate scale it."""
    batch_size: int = Field(default=100, ge=1)
    """Rows a batch of generation."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest answer in tokens; None for the length of the longest reference, at least 12 and at most 128."""
    audio_metric: Literal["auto", "exact_match", "token_f1", "cider_d"] = "auto"
    """How answers to audio rows are scored; ``auto`` is exact match, but token F1 for captions in free words."""
    conditions: tuple[str, ...] = ("silence", "distractor", "loud")
    """Conditions that close a training run, or ``all``; the bypass and, on audio rows, matched clips always do."""
    caption_metrics: bool = False
    """Score captions by CIDEr-D, and by SPICE, SPIDEr and FENSE where they can run; needs the extra ``metrics``."""
    margin: float = Field(default=0.005, gt=0.0, lt=1.0)
    """Share of right answers whose loss is accepted: the margin of non-inferiority, declared before the measurement."""


class ParallelSettings(_Section):
    """What several processes share beside the rows of each batch."""

    shard_base: bool = False
    """Each process holds a part of every decoder layer of the frozen base, and gathers a layer while it runs."""


class StageAConfig(_Section):
    """Everything that a Stage A run depends on."""

    variant: str = "full_retention"
    """Retention variant."""
    label: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    """What the run's folder is named after the time; None for the variant."""
    seed: int = Field(default=42, ge=0, lt=2**63)
    """Seed of data order, initialization and sampling."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the frozen base and of the forward pass; the trained parts are fp32. If it is not given, bf16 for
    another base than the embedded one on a GPU."""
    output_root: str = "runs"
    """Folder in which the run's folder is made."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Steps between two checkpoints."""
    checkpoint_keep: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept; from 2 on, a run can go on although the newest one is damaged."""
    log_every: int = Field(default=10, ge=1)
    """Steps between two lines of metrics."""
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    optimization: OptimizationSettings = OptimizationSettings()
    retention: RetentionSettings = RetentionSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    parallel: ParallelSettings = ParallelSettings()

    @model_validator(mode="after")
    def _sharded_processes_run_the_same_passes(self) -> StageAConfig:
        for name, asked in (
            ("retention.teacher_cache", self.retention.teacher_cache),
            ("data.length_buckets", self.data.length_buckets),
        ):
            if self.parallel.shard_base and asked:
                raise ValueError(f"{name}=false with parallel.shard_base, whose processes run the same forward passes")
        if self.parallel.shard_base and self.model.quantization != "none":
            raise ValueError("model.quantization=none with parallel.shard_base: quantized weights cannot be sharded")
        if self.parallel.shard_base and self.model.attention == "flash_attention_2":
            raise ValueError("model.attention=sdpa with parallel.shard_base, whose base is loaded on the host")
        return self

    @model_validator(mode="after")
    def _names_are_registered(self) -> StageAConfig:
        for setting, name in (("variant", self.variant), ("model.config", self.model.config)):
            registry = REGISTRIES[setting]
            if name not in registry:
                expected = f"one of {', '.join(registry)}"
                raise InputError(setting, expected, repr(name), _did_you_mean(name, list(registry)))
        return self


def build_config(
    values: Mapping[str, Any],
    assignments: Mapping[str, str],
    where: str = "configuration",
    *,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> StageAConfig:
    """Validates nested ``values`` after setting dotted keys such as ``optimization.max_steps``.

    Args:
        values: settings as a file gives them.
        assignments: the text of each dotted key's value, read as YAML.
        where: what error messages name as the place.
        options: the value of each dotted key, taken as it is; these win over ``assignments``.

    Raises:
        InputError: a key is unknown (the nearest known one is named) or a value does not fit.
    """
    merged = deepcopy(dict(values))
    for dotted, value in ({key: _parse_value(key, text) for key, text in assignments.items()} | dict(options)).items():
        *sections, key = dotted.split(".")
        target: Any = merged
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                way_out = "safe train --help-settings lists all"
                raise InputError(f"--set {dotted}", "a section before the dot", repr(section), way_out)
        target[key] = value
    try:
        return StageAConfig.model_validate(merged)
    except ValidationError as error:
        raise _as_input_error(error, where) from error


def run_settings(described: Mapping[str, Any]) -> dict[str, Any]:
    """The settings alone of what a run's ``config.json`` says, as the run had them."""
    settings = {key: value for key, value in described.items() if key not in DERIVED}
    for section, key, before in _BEFORE_IT_WAS_A_SETTING:
        if isinstance(known := settings.get(section, {}), dict):
            settings[section] = {key: before} | known
    return settings


def read_config_file(path: Path) -> dict[str, Any]:
    """Reads a YAML or JSON file of nested settings; a run's ``config.json`` is one, too.

    Raises:
        InputError: the file cannot be read or does not hold a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        detail = " ".join(str(error).split())
        raise InputError(path, "a readable YAML or JSON file", detail, "correct the file or the path") from error
    if not isinstance(values, dict):
        raise InputError(path, "a mapping of settings", type(values).__name__, "write key: value lines")
    return run_settings(values) if DERIVED[0] in values else values


def known_keys(section: type[BaseModel] = StageAConfig, prefix: str = "") -> list[str]:
    """All settings as dotted keys."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys += known_keys(annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _parse_value(key: str, text: str) -> Any:
    """A value in YAML; what YAML leaves as text, such as ``1e-3``, is converted to the setting's type afterwards.

    Settings that are text, such as paths and choices, are taken as they are: YAML would end ``/data #2`` at the space,
    and makes something else of ``no``, ``true`` and ``1e3``. So are whole numbers, since ``010`` is 8 in YAML.
    """
    kinds = _types_of(key)
    is_text = any(kind is str or get_origin(kind) is Literal for kind in kinds)
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    is_null = type(None) in kinds and text in ("null", "~", "")
    if (is_text and not is_quoted and not is_null) or (int in kinds and _WHOLE.fullmatch(text)):
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        way_out = "put text with special characters in quotes"
        raise InputError(f"--set {key}", "a YAML value", repr(text), way_out) from error


def _types_of(key: str) -> tuple[Any, ...]:
    """The types that a dotted setting may have; none if there is no such setting."""
    section: type[BaseModel] = StageAConfig
    *sections, last = key.split(".")
    for name in sections:
        annotation = section.model_fields[name].annotation if name in section.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ()
        section = annotation
    annotation = section.model_fields[last].annotation if last in section.model_fields else None
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _as_input_error(error: ValidationError, where: str) -> InputError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return InputError(
            f"{where}: {shortened(key)}", "a setting", "no such setting", _did_you_mean(key, known_keys())
        )
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    place = f"{where}: {key}" if key else where
    return InputError(
        place, expected, repr(first.get("input")), "correct the value; safe train --help-settings lists all"
    )


def _did_you_mean(name: str, known: list[str]) -> str:
    """The nearest name among those of the same section, or else the key whose last part is nearest."""
    section, dot, last = name.rpartition(".")
    siblings = {
        section + dot + key.removeprefix(section + dot).split(".")[0] for key in known if key.startswith(section)
    }
    by_last = {key.rpartition(".")[2]: key for key in reversed(known)}
    begun = [key for key in known if key.rpartition(".")[2].startswith(f"{last}_")]
    if begun and last not in by_last:  # lr, before what is nearest by its letters
        return f"did you mean {' or '.join(map(repr, begun))}?"
    found = nearest(name, siblings) or by_last.get(nearest(last, by_last) or "")
    listed = f"known are {', '.join(known)}" if len(known) <= _FEW else "safe train --help-settings lists all"
    return f"did you mean {found!r}?" if found else listed
