"""From the ablation's options to a Stage A configuration."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any

from safe_train.config import StageAConfig, build_config
from safe_train.configs.retention_variants import OVERFITTING_VARIANTS
from safe_train.data.datasets.registry import dataset_names
from safe_train.data.settings import EMBEDDED_DATA

COMPANIONS = 100
"""Rows of the kind that a validation source is not about: without them the closing table could not be read."""


@dataclass(frozen=True)
class ValidationSource:
    """What a name of ``--val-source`` stands for.

    Attributes:
        vl: source of the VL rows.
        audio: source of the audio rows.
        about: the kinds of rows that ``--val-size`` counts; of the other there are at most ``COMPANIONS``.
        meaning: one line for ``--help``.
    """

    vl: str
    audio: str
    about: tuple[str, ...]
    meaning: str


TRAIN_SOURCES = {"mock": EMBEDDED_DATA} | {name: name for name in dataset_names("audio") if name != EMBEDDED_DATA}
VAL_SOURCES = {
    "mock_vl": ValidationSource("embedded", "trained", ("vl",), "procedural questions"),
    "vqa": ValidationSource("vqa", "trained", ("vl",), "VQA v2 validation questions of --data-path"),
    "pack_vl": ValidationSource("pack", "trained", ("vl",), "the pack's questions"),
    "pack_audio": ValidationSource("pack", "pack", ("audio",), "the pack's clips, trained on or not"),
    "pack_train_audio": ValidationSource("pack", "trained", ("audio",), "the clips that are trained on"),
    "pack_mixed": ValidationSource("pack", "pack", ("vl", "audio"), "the pack's questions and clips, half of each"),
}


def stage_a_config(given: argparse.Namespace, seed: int, *, pack_root: str | None, protected: str) -> StageAConfig:
    """The configuration of one seed; the number of steps is set by :func:`with_epochs` when the rows are known.

    Args:
        given: the options of ``run_overfitting``.
        seed: the seed.
        pack_root: folder of the pack, or None if no source is one.
        protected: source of the VL rows to protect.

    Raises:
        InputError: an option does not fit.
    """
    source = VAL_SOURCES[given.val_source]
    limits = evaluation_limits(source, given.val_size, given.max_eval_batches, given.val_batch_size)
    settings: dict[str, Any] = {
        "variant": OVERFITTING_VARIANTS[given.variant],
        "label": given.variant,
        "seed": seed,
        "output_root": str(given.output_root),
        "model": {"config": given.model_config},
        "data": {
            "root": str(given.data_path.expanduser().absolute()),
            "train_audio_source": TRAIN_SOURCES[given.train_source],
            "train_vl_source": protected,
            "val_audio_source": source.audio,
            "val_vl_source": source.vl,
            "train_text_source": given.text_source,
            "val_text_source": given.text_source,
            "text_ratio": given.text_share,
            "pack_root": pack_root,
            "max_train_audio": given.subset_size,
            "silence_prob": 0.0,  # protected rows hear clips alone, as they always did in this ablation
            "num_workers": given.num_workers,
        },
        "optimization": {
            "audio_batch_size": given.train_batch_size,
            "vl_batch_size": given.train_batch_size,
            "lr_projector": given.lr_projector,
            "lr_adapter": given.lr_adapter,
        },
        "retention": {
            "null_space_rank": given.null_space_rank,
            "null_space_min_samples": given.null_space_min_samples,
            "null_space_refresh_interval": given.null_space_refresh,
        },
        "evaluation": {
            "max_vl": limits["vl"],
            "max_audio": limits["audio"],
            "max_text": text_limit(given.text_val_size, given.max_eval_batches, given.val_batch_size),
            "batch_size": given.val_batch_size,
            "max_new_tokens": given.generation_max_new_tokens,
        },
    }
    return build_config(settings, {}, "command line")


def evaluation_limits(
    source: ValidationSource, val_size: int, max_batches: int | None, batch_size: int
) -> dict[str, int]:
    """At most how many VL and audio rows are evaluated, in each condition."""
    share = math.ceil(val_size / len(source.about))
    limits = {kind: share if kind in source.about else min(share, COMPANIONS) for kind in ("vl", "audio")}
    most = math.inf if max_batches is None else max_batches * batch_size
    return {kind: int(min(limit, most)) for kind, limit in limits.items()}


def text_limit(val_size: int | None, max_batches: int | None, batch_size: int) -> int | None:
    """At most how many text-only rows are evaluated, in each condition; None for all."""
    limits = [val_size, None if max_batches is None else max_batches * batch_size]
    return min((limit for limit in limits if limit is not None), default=None)


def with_epochs(config: StageAConfig, num_epochs: int, num_clips: int) -> StageAConfig:
    """The configuration with as many steps as show each of the clips ``num_epochs`` times, rounded up."""
    steps = math.ceil(num_epochs * num_clips / config.optimization.audio_batch_size)
    return config.model_copy(update={"optimization": config.optimization.model_copy(update={"max_steps": steps})})
