"""What the ablation compares: regimes, variants, simple rivals, mechanisms alone, controls; each a set of settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from safe_train.configs.model_configs import REAL
from safe_train.errors import InputError, nearest
from safe_train.training.base_defaults import TUNED_WIDTH
from safe_train.training.settings import OptimizationSettings

Settings = dict[str, str]
"""Dotted settings and their values as text, as ``safe-train --set`` takes them."""

CONDITIONS = ("silence", "distractor", "contradictory", "loud", "noise", "worst_of_4")
"""Conditions on VL rows and text-only rows, over which "worst" ranges."""

DEFAULT_RATE = OptimizationSettings().lr_adapter
"""Of the embedded base."""

REAL_WIDTH = 576
"""Width of SmolLM2-135M, from which the default learning rate on it follows."""

LR_KEYS = ("optimization.lr_projector", "optimization.lr_adapter")


def rate_settings(rate: float) -> Settings:
    """Both learning rates set to one value."""
    return dict.fromkeys(LR_KEYS, f"{rate:g}")


_COMMON = {
    "evaluation.conditions": json.dumps(CONDITIONS),
    "evaluation.max_vl": "500",
    "evaluation.max_text": "500",
    "evaluation.max_audio": "200",
}
_SCARCE = {"data.max_train_vl": "100", "data.max_train_text": "30", "retention.retention_scale": "0.05"}
_FEW = {"data.max_train_vl": "60", "data.max_train_text": "20"}
_SHORT = {"optimization.max_steps": "200"}
_SHOWN = {"data.image_prob": "1"}
_OUTNUMBERED = {"optimization.audio_batch_size": "32", "optimization.vl_batch_size": "4"}
_MORE_ROWS = {"evaluation.max_vl": "2000", "evaluation.max_text": "2000"}

_REAL = {
    "model.config": REAL.name,
    "data.image_prob": "0.1",
    "optimization.max_steps": "300",
    "optimization.audio_batch_size": "32",
    "optimization.vl_batch_size": "8",
    "evaluation.conditions": json.dumps(CONDITIONS),
    "evaluation.max_vl": "150",
    "evaluation.max_text": "200",
    "evaluation.max_audio": "300",
}
"""Five passes over the clips; an image in few of them, since it makes an example three times as long."""

_ON_GPU = {
    "device": "cuda",
    "model.attention": "sdpa",
    "data.length_buckets": "false",
    "evaluation.batch_size": "75",
    "data.num_workers": "4",
    "checkpoint_every": "300",
}
"""Eager attention and length buckets suit a CPU: a small model on a GPU waits for launches, and they add some."""

_REAL_SHORT = {
    "optimization.max_steps": "100",
    "evaluation.conditions": '["silence", "distractor"]',
    "evaluation.max_vl": "100",
    "evaluation.max_text": "100",
    "evaluation.max_audio": "150",
}

REGIMES: dict[str, Settings] = {
    "plentiful": _COMMON,
    "scarce": _COMMON | _SCARCE,
    "harder": _COMMON | _FEW | _SHORT | _SHOWN | _MORE_ROWS,
    "real": _REAL,
    "real_gpu": _REAL | _ON_GPU,
    "real_short": _REAL | _REAL_SHORT,
}
"""``plentiful``: all protected rows, the registered weights. ``scarce``: 100 VL and 30 text-only rows and a twentieth
of the weight. ``harder``: 60 and 20 rows, half of the steps, every clip with an image that it has nothing to do with,
the registered weights, and four times the questions. ``real``: real weights, recordings and photographs, from the
folders that ``make real`` makes, ``real_gpu`` the same protocol with settings that suit a GPU, and ``real_short`` what
``make real`` runs itself; the others are of the embedded base and the procedural data.
"""

CANDIDATES: dict[str, Settings] = {
    "few": _COMMON | _FEW,
    "few_weak": _COMMON | _FEW | {"retention.retention_scale": "0.05"},
    "few_short": _COMMON | _FEW | _SHORT,
    "few_shown": _COMMON | _FEW | _SHOWN,
    "few_outnumbered": _COMMON | _FEW | _OUTNUMBERED,
    "few_short_shown": _COMMON | _FEW | _SHORT | _SHOWN,
    "few_short_outnumbered": _COMMON | _FEW | _SHORT | _OUTNUMBERED,
    "shortest": _COMMON | _FEW | {"optimization.max_steps": "100"},
}
"""Regimes to explore on the rows for tuning; ``harder`` is chosen there, before any row of its evaluation is seen."""

MAIN = ("no_retention", "soft_retention", "fisher_retention", "nullspace_retention", "full_retention")

CHECKPOINT_EVERY = 50
"""Steps between the checkpoints that early stopping chooses from."""

EARLY_STOPPED = ("no_retention, early stopping",)
"""Arms whose checkpoint is chosen on the rows for tuning."""

_QUARTER = "no_retention, a quarter of the learning rate"

RIVALS: dict[str, Settings] = {
    "replay_only": {"variant": "replay_only"},
    _QUARTER: {"variant": "no_retention"} | rate_settings(DEFAULT_RATE / 4),
    "no_retention, early stopping": {
        "variant": "no_retention",
        "checkpoint_every": str(CHECKPOINT_EVERY),
        "checkpoint_keep": "1000",
    },
    "no_retention, gate 0.5": {"variant": "no_retention", "evaluation.gate": "0.5"},
}
"""What a skeptic would try first. A quarter of the learning rate is that of the *default* rate, whatever was tuned.
For ``real`` the default is that of its wider base.
"""

_LORA = {"model.lora_rank": "8"}
_NO_SILENCE = {"data.silence_prob": "0"}
_ALONE: dict[str, dict[str, Settings]] = {
    "plentiful": {
        "full_retention, no silent rows": {"variant": "full_retention"},
        "fisher_only": {"variant": "fisher_only"},
        "nullspace_only": {"variant": "nullspace_only"},
        "replay_only, no silent rows": {"variant": "replay_only"},
        "no_retention, LoRA": {"variant": "no_retention"} | _LORA,
        "full_retention, LoRA": {"variant": "full_retention"} | _LORA,
        "full_retention, shuffled audio": {"variant": "full_retention", "data.shuffle_audio": "true"},
    },
    "scarce": {
        "soft_retention, no silent rows": {"variant": "soft_retention"},
        "fisher_retention, no silent rows": {"variant": "fisher_retention"},
        "nullspace_retention, no silent rows": {"variant": "nullspace_retention"},
        "full_retention, no silent rows": {"variant": "full_retention"},
        "replay_only, no silent rows": {"variant": "replay_only"},
        **{
            f"nullspace, {projected.replace('_', ' ')}": {
                "variant": "nullspace_retention",
                "retention.null_space_target": projected,
            }
            for projected in ("update", "task_gradient", "total_gradient")
        },
        "nullspace, audio update, two-sided": {
            "variant": "nullspace_retention",
            "retention.null_space_one_sided": "false",
        },
        "nullspace, activation subspace": {
            "variant": "nullspace_retention",
            "retention.null_space_one_sided": "false",
            "retention.null_space_subspace": "activation",
        },
    },
}
_MIXED = {"data.silence_prob": "0.15", "data.loud_prob": "0.15", "data.noise_prob": "0.1"}
EXTRA: dict[str, dict[str, Settings]] = {
    regime: {name: settings | _NO_SILENCE for name, settings in by_name.items()} for regime, by_name in _ALONE.items()
}
EXTRA["scarce"]["full_retention, mixed audio"] = {"variant": "full_retention"} | _MIXED
EXTRA["real"] = {
    "full_retention, VL rows alone protected": {"variant": "full_retention", "data.train_text_source": "none"},
    "full_retention, shuffled audio": {"variant": "full_retention", "data.shuffle_audio": "true"},
    "soft_retention, a third of the steps": {"variant": "soft_retention", "optimization.max_steps": "100"},
}
"""With the null space less than half is heard: the last arm tells what distillation keeps where it hears as little."""

EXTRA["real_gpu"] = EXTRA["real"]
EXTRA["real_short"] = {}
EXTRA["plentiful"]["full_retention, VL rows alone protected"] = {
    "variant": "full_retention",
    "data.train_text_source": "none",
}
"""Beside variants and rivals: mechanisms alone, controls, and other settings of the null space and the protected rows.

In these arms no protected row hears silence, unless the arm says otherwise; in the last of ``plentiful`` and those of
``real`` a tenth does, as in the variants.
"""


def regime_settings(name: str) -> Settings:
    """The settings of a regime or candidate.

    Raises:
        InputError: there is none of that name.
    """
    known = REGIMES | CANDIDATES
    if name not in known:
        hint = nearest(name, known)
        hint = f"did you mean {hint!r}?" if hint else "name one of them"
        raise InputError("--regime", f"one of {', '.join(known)}", repr(name), hint)
    return known[name]


def default_rate(regime: str) -> float:
    """The learning rate of a regime where none is given; on the wider base it is smaller in proportion."""
    return DEFAULT_RATE * TUNED_WIDTH / REAL_WIDTH if is_real(regime) else DEFAULT_RATE


def is_real(regime: str) -> bool:
    """Whether a regime is one of real weights."""
    return regime_settings(regime).get("model.config") == REAL.name


def arms(regime: str) -> dict[str, Settings]:
    """Every arm of a regime by name, with its settings: the five variants first, then the rivals, then the rest."""
    named = {name: {"variant": name} for name in MAIN} | RIVALS | EXTRA.get(regime, {})
    named[_QUARTER] = {"variant": "no_retention"} | rate_settings(default_rate(regime) / 4)
    return {name: regime_settings(regime) | settings for name, settings in named.items()}


def chosen_arms(regime: str, only: Sequence[str] | None = None, *, extras: bool = True) -> dict[str, Settings]:
    """The arms of these names, or all, with or without mechanisms alone, controls and other settings.

    Raises:
        InputError: an arm is unknown.
    """
    known = arms(regime)
    for name in only or ():
        if name not in known:
            raise InputError("--arms", f"some of {', '.join(map(repr, known))}", repr(name), "name one of them")
    left_out = set() if extras else set(EXTRA.get(regime, {}))
    return {name: known[name] for name in only or known if only or name not in left_out}


def is_tuned(settings: Mapping[str, str]) -> bool:
    """Whether the arm's learning rate is open: an arm that names one of its own keeps it."""
    return not set(LR_KEYS) & set(settings)


def at_rate(arm: str, settings: Settings, rates: Mapping[str, float]) -> Settings:
    """The arm's settings with its tuned learning rate, or with that of its variant where it has none of its own.

    Args:
        arm: its name.
        settings: its settings.
        rates: tuned rates by arm; without any, all arms have the default rate.

    Raises:
        InputError: rates are given, and none for the arm or its variant.
    """
    if not rates or not is_tuned(settings):
        return settings
    rate = rates.get(arm, rates.get(settings["variant"]))
    if rate is None:
        hint = "tune it, or leave the arm out"
        raise InputError("--rates", f"a learning rate of {arm!r} or {settings['variant']!r}", "none", hint)
    return settings | rate_settings(rate)


def folder_name(arm: str) -> str:
    """The arm's name with underscores for what is neither letter nor digit."""
    return "".join(letter if letter.isalnum() else "_" for letter in arm)
