"""Run folders as a run writes them: rows, answers, results and training, through the program's own records."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from safe_train.audio.input import describe
from safe_train.config import build_config
from safe_train.configs.retention_variants import get_variant_config
from safe_train.data.example import DOCUMENT, Example
from safe_train.evaluation.aggregate import answer_result
from safe_train.evaluation.conditions import conditions_for
from safe_train.evaluation.distractors import Distractors
from safe_train.evaluation.predictions import BASE, Prediction, PredictionStore
from safe_train.evaluation.results import DocumentResult, Evaluation
from safe_train.evaluation.storage import base_store, safe_store, write_results
from safe_train.evaluation.summarize import summarize
from safe_train.io.files import json_text, write_text
from safe_train.metrics.intervals import Estimate, cluster_bootstrap
from safe_train.report import ReportFiles
from safe_train.runs.environment import Machine
from safe_train.training.trainer import TrainingOutcome
from tests.report.pages import ALL_AUDIO, ALL_VL, HOSTILE, report_on

VL_ROWS, TEXT_ROWS, AUDIO_ROWS = 60, 60, 8
PLAIN = ("bypass", "silence", "distractor")
EVERY = (*PLAIN, "contradictory", "loud", "noise", "worst_of_4")
METRICS = {"audio_loss": 2.0, "retention_loss": 0.02, "kl": 0.1, "null_space_energy": 0.9, "null_space_leakage": 1e-7}


@dataclass(frozen=True)
class Made:
    """How a run is to turn out.

    Attributes:
        losses: for each condition, how many of the first rows are answered otherwise, and wrongly; the base is right
            on all, but for ``base_says``.
        text_losses: the same of text-only questions; None for an evaluation without any.
        bits: for each condition, by how many bits per byte documents change; empty for an evaluation without any.
        base_says: what the base, and SAFE with it, answers to every VL row; empty for the right answer.
        rows: how many of the VL rows are evaluated.
        audio_metric: what scores audio rows.
        conditions: on VL rows.
        audio_conditions: on audio rows.
        heard: audio rows answered rightly with the matched clip; none is without it.
        damage: above 0 for a positive control.
        updates: size of the update at each of two fused layers.
        bypass_equal: whether the bypass gives the base's logits.
        answer: what is said in place of the right answer.
        inactive: mechanisms that never became active.
        settings: dotted.
        lines: of metrics.
    """

    losses: Mapping[str, int] = field(default_factory=dict)
    text_losses: Mapping[str, int] | None = None
    bits: Mapping[str, float] = field(default_factory=dict)
    base_says: str = ""
    rows: int = VL_ROWS
    audio_metric: str = "exact_match"
    conditions: tuple[str, ...] = PLAIN
    audio_conditions: tuple[str, ...] = ("matched", "silence", "distractor")
    heard: int = 8
    damage: float = 0.0
    updates: tuple[float, ...] = (0.8, 0.4)
    bypass_equal: bool = True
    answer: str = "one low bell"
    inactive: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    lines: int = 5


MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def vl_rows(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Two questions about each image; half of them have four answers, and the others four others."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(VL_ROWS // 2):
        Image.new("RGB", (64, 48), (8 * number, 90, 160)).save(folder / f"{number}.png")
    return [
        Example(f"v{number}", f"what is shown in {number}?", (str(number % 8),) * 10,
            folder / f"{number // 2}.png", None, "shape" if number % 2 else "count", str(number // 2))
        for number in range(VL_ROWS)
    ]  # fmt: skip


@pytest.fixture(scope="session")
def text_rows() -> list[Example]:
    """Questions without an image."""
    return [
        Example(f"t{number}", f"what is {number} plus {number}?", (str(2 * number),), None, None, "sum", str(number))
        for number in range(TEXT_ROWS)
    ]


@pytest.fixture(scope="session")
def audio_rows(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """A question about each clip."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(AUDIO_ROWS):
        soundfile.write(folder / f"{number}.wav", np.zeros(1_600), 16_000)
    return [
        Example(
            f"a{number}", "what do you hear?", (f"{number} bells",), None, folder / f"{number}.wav", "", str(number)
        )
        for number in range(AUDIO_ROWS)
    ]


@pytest.fixture(scope="session")
def make_run(vl_rows: list[Example], text_rows: list[Example], audio_rows: list[Example]) -> MakeRun:
    """Makes a finished run's folder, or adds an evaluation to one that is there."""

    def make(root: Path, variant: str = "full_retention", seed: int = 42, **made: Any) -> Path:
        how = Made(**made)
        settings = {"variant": variant, "seed": str(seed)} | dict(how.settings)
        folder = root / "_".join([variant, str(seed), *(value.replace("/", "_") for value in how.settings.values())])
        config = build_config({}, settings)
        margin = config.evaluation.margin
        evaluation = _evaluate(folder, how, vl_rows[: how.rows], text_rows, audio_rows, variant, seed, margin)
        if how.damage:
            return folder
        effective = {
            "retention_variant": get_variant_config(variant).to_dict(),
            "adapter": {"fusion_layers": [0, 3]},
            "trainable_parameters": 1_234,
        }
        machine = asdict(Machine("a processor", 2, 1, ("cuda:0, a GPU",), "abc123, changed"))
        described = config.model_dump(mode="json") | {"effective": effective, "machine": machine}
        write_text(folder / "config.json", json_text(described))
        training = TrainingOutcome(
            steps=50, finished=True, seconds=10.0, inactive=list(how.inactive), last={}, processes=1
        )
        metrics = {
            "variant": variant, "seed": seed, "training": asdict(training), "evaluation": evaluation.to_dict(),
        }  # fmt: skip
        write_text(folder / "metrics.json", json_text(metrics))
        lines = [
            {"step": 10 * (number + 1)} | {name: value / (number + seed - 41) for name, value in METRICS.items()}
            for number in range(how.lines)
        ]
        write_text(folder / "metrics.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
        return folder

    return make


@pytest.fixture(scope="session")
def full(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """Two variants, one with two seeds, every condition, a positive control, hostile answers."""
    root = tmp_path_factory.mktemp("full")
    whole = {"conditions": ALL_VL, "audio_conditions": ALL_AUDIO}
    for variant, seed, lost in (("no_retention", 42, 20), ("full_retention", 42, 1), ("full_retention", 43, 2)):
        losses = dict.fromkeys(ALL_VL[1:], lost)
        make_run(root, variant, seed, losses=losses, answer=HOSTILE, **whole)
    make_run(root, damage=2.0, losses=dict.fromkeys(ALL_VL[1:], 60), heard=0, **whole)
    return report_on(root)


def _evaluate(
    folder: Path,
    how: Made,
    vl_rows: list[Example],
    text_rows: list[Example],
    audio_rows: list[Example],
    variant: str,
    seed: int,
    margin: float,
) -> Evaluation:
    base_key = {
        "base": {"source": "embedded", "sha256": "b" * 64}, "vl_rows_sha256": f"{seed:032}{how.rows:032}",
        "batch_size": 7, "max_new_tokens": 12, "precision": "fp32", "versions": {"python": "3.11.0", "torch": "2.12.1"},
    }  # fmt: skip
    key = base_key | {
        "variant": variant, "seed": seed, "step": 50, "damage": how.damage,
        "trained_parts_sha256": json.dumps(sorted(how.settings.items())) + "0" * 12,
        "audio_encoders": [{"source": "embedded", "sha256": "e" * 64}], "audio_rows_sha256": "a" * 64,
        "conditions": how.conditions,
    }  # fmt: skip
    base = base_store(folder, base_key, vl_rows)
    store = safe_store(folder, key, vl_rows, audio_rows)
    said = [_as_the_base(row, how) for row in vl_rows]
    base.complete("vl", BASE, vl_rows, lambda rows: said[: len(rows)], len(said))
    distractors = Distractors(audio_rows, seed)

    def vl(name: str) -> list[Prediction]:
        condition = conditions_for("vl")[name]
        rows = [
            row
            for draw in range(condition.draws)
            for row in condition.playback("vl").examples(vl_rows, distractors, draw)
        ]
        lost = {row.row_id for row in vl_rows[: how.losses.get(name, 0)]}

        def answer(batch: Any) -> list[Prediction]:
            return [_vl_sample(row, condition.attach, row.row_id in lost, how) for row in batch]

        return store.complete("vl", name, rows, answer, 1_000)

    def audio(name: str) -> list[Prediction]:
        rows = conditions_for("audio")[name].playback("audio").examples(audio_rows, distractors, 0)
        right = {row.row_id for row in audio_rows[: how.heard]} if name == "matched" else set()

        def answer(batch: Any) -> list[Prediction]:
            return [_audio_sample(row, row.row_id in right) for row in batch]

        return store.complete("audio", name, rows, answer, 1_000)

    evaluation = summarize(
        said,
        {name: vl(name) for name in how.conditions},
        {name: audio(name) for name in how.audio_conditions},
        vl_rows,
        audio_rows,
        margin=margin,
        seconds=3.0,
    )
    evaluation = replace(evaluation, audio_metric=how.audio_metric)
    if how.text_losses is not None:
        evaluation = _with_text(evaluation, how, text_rows, distractors, base, store, margin)
    if how.bits:
        evaluation = _with_documents(evaluation, how)
    write_results(store, key, base, evaluation)
    return evaluation


def _with_text(
    evaluation: Evaluation,
    how: Made,
    rows: list[Example],
    distractors: Distractors,
    base: PredictionStore,
    store: PredictionStore,
    margin: float,
) -> Evaluation:
    """The evaluation with text-only questions, whose answers are kept beside the others."""
    lost_by = how.text_losses or {}
    how = replace(how, base_says="")
    text = {
        "row_id": "d0", "question": "", "answers": ["a text"], "image": None, "audio": None, "kind": DOCUMENT,
        "cluster": "d0",
    }  # fmt: skip
    lines = [json.dumps(asdict(row)) for row in rows] + [json.dumps(text)]
    write_text(store.folder / "rows.text.jsonl", "".join(f"{line}\n" for line in lines))
    said = base.complete("text", BASE, rows, lambda batch: [_as_the_base(row, how) for row in batch], len(rows))
    results = {}
    for name in how.conditions:
        condition = conditions_for("vl")[name]
        heard = [
            row
            for draw in range(condition.draws)
            for row in condition.playback("text").examples(rows, distractors, draw)
        ]
        lost = {row.row_id for row in rows[: lost_by.get(name, 0)]}

        def answer(batch: Any, attached: bool = condition.attach, lost: set[str] = lost) -> list[Prediction]:
            return [_vl_sample(row, attached, row.row_id in lost, how) for row in batch]

        samples = store.complete("text", name, heard, answer, 1_000)
        if samples:
            results[name] = answer_result(name, samples, said, rows, margin)
    return replace(
        evaluation,
        text=results,
        base_text=cluster_bootstrap([sample.score for sample in said], [row.cluster for row in rows]),
        base_text_format_errors=0.0,
        text_guessing=Estimate(0.0, 0.0, 0.0),
        base_text_above_guessing=Estimate(1.0, 1.0, 1.0),
    )


def _with_documents(evaluation: Evaluation, how: Made) -> Evaluation:
    """The evaluation with twenty documents of a hundred bytes each."""
    results = {}
    for name in how.conditions:
        change = how.bits.get(name, 0.0)
        bypassed = not conditions_for("vl")[name].attach
        results[name] = DocumentResult(
            condition=name, rows=20, bytes=2_000,
            bits_per_byte=Estimate(1.5 + change, 1.4 + change, 1.6 + change),
            difference=Estimate(change, change - 0.01, change + 0.01),
            kl=0.0 if bypassed else 0.02, fusion_calls=0 if bypassed else 6,
            updates=[] if bypassed else list(how.updates), is_measurement=not bypassed,
            bit_equal=True if bypassed else None,
        )  # fmt: skip
    return replace(evaluation, documents=results, base_bits_per_byte=Estimate(1.5, 1.4, 1.6))


def _as_the_base(row: Example, how: Made) -> Prediction:
    answer = how.base_says or row.answers[0]
    return Prediction(row.row_id, answer, 0.0 if how.base_says else 1.0, logits_sha256=row.row_id)


def _vl_sample(row: Example, attached: bool, lost: bool, how: Made) -> Prediction:
    said = _as_the_base(row, how)
    if not attached:
        return said if how.bypass_equal else replace(said, logits_sha256="another")
    sample = replace(
        said, logits_sha256=None, heard=describe(row.audio), kl=0.001, tokens=3, updates=how.updates, fusion_calls=6
    )
    return replace(sample, answer=how.answer, score=0.0, kl=2.0) if lost else sample


def _audio_sample(row: Example, right: bool) -> Prediction:
    answer = row.answers[0] if right else "silence"
    return Prediction(row.row_id, answer, float(right), float(right), heard=describe(row.audio), updates=(0.5, 0.5))
