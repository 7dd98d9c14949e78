"""Loads and checks everything that a configuration needs, before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safe_train.config import StageAConfig
from safe_train.data.cache.features import FeatureCache
from safe_train.data.collator import Collator, require_plain_text
from safe_train.data.example import CAPTION, Example
from safe_train.distributed.fsdp import shard_base
from safe_train.distributed.processes import Processes
from safe_train.errors import InputError
from safe_train.evaluation.answer_lengths import answer_lengths
from safe_train.evaluation.audio_metric import resolve_audio_metric
from safe_train.evaluation.base_answers import BaseAnswers, base_answers
from safe_train.evaluation.conditions import select
from safe_train.evaluation.distractors import Distractors
from safe_train.evaluation.evaluator import Evaluator
from safe_train.evaluation.fingerprint import base_key
from safe_train.evaluation.predictions import NoStore, PredictionStore
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.evaluation.storage import base_store
from safe_train.metrics.captions import require_aac_metrics
from safe_train.training.batches import StepBatches, require_examples_for_all_ranks
from safe_train.training.build import (
    Rows,
    adapter_config,
    attach,
    build_collator,
    build_sampler,
    load_audio_encoders,
    load_base_model,
    resolve_device,
)
from safe_train.training.callbacks import RunCallbacks
from safe_train.training.preflight import MOST_TRAINED, CutClips, file_checks, heard_seconds, run_checks
from safe_train.training.trainer import StageATrainer

STOPPED_BEFORE = "stopped before the first step; nothing was written"
EVALUATION_STOPPED = "stopped; the same command resumes where it was"


@dataclass(frozen=True)
class Prepared:
    """A configuration with everything loaded.

    Attributes:
        config: the configuration.
        trainer: before its first step.
        final: evaluator on all examples.
        midway: evaluator on a tenth of them, or None without evaluations during training.
        base_key: what the base's answers depend on.
        processes: those of the run.
        cut_clips: how many clips are longer than what is heard of them.
    """

    config: StageAConfig
    trainer: StageATrainer
    final: Evaluator
    midway: Evaluator | None
    base_key: dict[str, Any]
    processes: Processes
    cut_clips: CutClips


def prepare(
    config: StageAConfig,
    rows: Rows,
    callbacks: RunCallbacks,
    processes: Processes,
    folder: Path | None = None,
    *,
    trains: bool = True,
) -> Prepared:
    """Loads everything; the base's answers are read from the run's folder where it has them already.

    They take long, so whatever may turn out not to be there is looked at before them.
    """
    settings = config.evaluation
    callbacks.stage("loading")
    torch.manual_seed(config.seed)  # of a new process it is another each time; a checkpoint brings its own
    vl, text, audio = rows.val_vl, rows.val_text, rows.val_audio
    with processes.raise_on_any_rank():
        select(settings.conditions)  # a wrong name is reported before the work
        metric = _require_scores(settings, rows)
        require_examples_for_all_ranks(config.optimization, processes)
        shards = config.parallel.shard_base and not processes.is_alone
        base = load_base_model(config, torch.device("cpu") if shards else None)
        adapter_config(config.model, len(base.decoder_layers), config.seed)  # whether its sizes fit the base
        encoders = load_audio_encoders(config)
        Distractors(audio, config.seed)  # whether there are enough clips
        for part in (rows.train_audio, rows.train_vl, rows.train_text, vl, text, audio):
            require_plain_text(base.processor, part)
        lengths = answer_lengths(settings, Collator(base.processor, FeatureCache([])), vl, text, audio)
        key = base_key(config, base, vl, lengths, text)
    stopped = EVALUATION_STOPPED if folder else STOPPED_BEFORE
    between = callbacks.between_batches(processes, stopped)
    sampler = build_sampler(rows, config)
    callbacks.stage("reading files")
    first = sampler.first_rows(MOST_TRAINED) if trains else ()
    checks = file_checks((*audio, *vl, *text), first, encoders)
    cut_clips = run_checks(checks, processes, config.data.num_workers, between, heard_seconds(encoders))
    cut_clips.warn()
    if shards:
        shard_base(base.model, base.decoder_layers, processes, resolve_device(config.device))
    no_store = NoStore(processes)
    store = base_store(folder, key, vl, processes, text) if folder else no_store
    store.between = no_store.between = between
    callbacks.stop_if_asked(processes, stopped)

    def of_base(
        vl: list[Example], text: list[Example], kept: PredictionStore | NoStore, tell: Callable[[str], None]
    ) -> BaseAnswers:
        return base_answers(base, vl, settings, kept, text=text, lengths=lengths, progress=tell)

    final = of_base(vl, text, store, callbacks.stage)
    parts = _subsample(vl), _subsample_text(text), _subsample_audio(audio)
    midway = of_base(parts[0], parts[1], no_store, lambda _words: None) if settings.eval_steps else None
    with processes.raise_on_any_rank():
        model = attach(base, config, encoders)
        collator = build_collator(model, config.data)

    def evaluator(vl: list[Example], text: list[Example], audio: list[Example], reference: BaseAnswers) -> Evaluator:
        return Evaluator(
            model, collator, vl, audio, reference, settings, config.seed, processes,
            text_rows=text, lengths=lengths, audio_metric=metric,
        )  # fmt: skip

    return Prepared(
        config=config,
        trainer=StageATrainer(config, model, StepBatches(config, collator, sampler, processes)),
        final=evaluator(vl, text, audio, final),
        midway=evaluator(*parts, midway) if midway else None,
        base_key=key,
        processes=processes,
        cut_clips=cut_clips,
    )


def _require_scores(settings: EvaluationSettings, rows: Rows) -> str:
    """The metric of audio examples, once it is sure that the evaluation's figures can be computed from these.

    Raises:
        InputError: there is a single document, or what is asked for needs aac-metrics, which is not installed.
    """
    documents = sum(row.is_document for row in rows.val_text)
    if documents == 1:
        expected = "at least two documents, or parts of one: bits per byte of one tell nothing of others"
        hint = "raise evaluation.max_text, or give two or none"
        raise InputError("text-only examples to evaluate on", expected, "1", hint)
    if settings.caption_metrics:
        require_aac_metrics()
    return resolve_audio_metric(settings.audio_metric, rows.val_audio, rows.train_audio)


def _subsample(examples: list[Example]) -> list[Example]:
    """Every tenth example, or all of fewer than twenty."""
    return examples[::10] if len(examples) >= 20 else examples


def _subsample_text(examples: list[Example]) -> list[Example]:
    """A tenth of the questions, then one of the documents, so that there are two of each or none."""
    questions, documents = ([each for each in examples if each.is_document == asked] for asked in (False, True))
    return [*_subsample(questions), *_subsample(documents)]


def _subsample_audio(examples: list[Example]) -> list[Example]:
    """A tenth of the captions, then one of the questions about clips: CIDEr-D needs two captions."""
    captions, questions = ([e for e in examples if (e.kind == CAPTION) == asked] for asked in (True, False))
    return [*_subsample(captions), *_subsample(questions)]
