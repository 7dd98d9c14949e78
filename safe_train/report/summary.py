"""The closing table of one or more runs, and the picture of audio gain against change of the answers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safe_train.audio.input import LOUD_DB
from safe_train.data.procedural import is_made_root
from safe_train.data.settings import EMBEDDED_DATA
from safe_train.errors import InputError
from safe_train.evaluation.conditions import BYPASS, DISTRACTOR, LOUD, MATCHED, SILENCE, find_condition, keep_retention
from safe_train.evaluation.results import Evaluation
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.evaluation.validity import Validity, assess_validity
from safe_train.io.files import read_object
from safe_train.io.messages import one_line
from safe_train.io.records import from_plain
from safe_train.io.text_table import align, wrap
from safe_train.metrics.exact_match import EXACT_MATCH
from safe_train.metrics.intervals import Estimate
from safe_train.metrics.non_inferiority import CONFIDENCE
from safe_train.metrics.registry import find_metric
from safe_train.runs.layout import RunFolder

HEADER = (
    "run",
    "VL base",
    "bypass",
    "silence",
    "distractor",
    "text",
    "changed",
    "KL",
    "audio",
    "silent",
    "other clip",
    "loud",
    "seconds",
)
TEXT_HEADER = ("text-only questions", "base", "worst under", "change", "changed", "KL")
DOCUMENTS_HEADER = ("documents", "bits/byte", "worst under", "change", "KL")
SOURCE_HEADER = ("evaluation shown", "VL", "text", "audio", "step", "finished", "not shown")

NOT_RETENTION = "not a retention measurement"
TEXT_UNMEASURED = "text-only answers were not measured"
SOFT_RETENTION = (
    "soft_retention is KL alone here; the overfitting ablation's own soft_retention is KL + Fisher (fisher_retention)"
)

_SHORT = "not retention"
_NONE = "-"


@dataclass(frozen=True)
class RowCounts:
    """How many examples an evaluation has: those of the condition with the most.

    Attributes:
        vl: VL examples.
        text: text-only questions and documents.
        audio: audio examples.
    """

    vl: int
    text: int
    audio: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.vl + self.text + self.audio

    def __str__(self) -> str:
        """For people."""
        return f"{self.vl:,} VL, {self.text:,} text-only and {self.audio:,} audio examples"


def row_counts(evaluation: Evaluation) -> RowCounts:
    """The examples of an evaluation."""
    most_vl, most_questions, most_documents, most_audio = (
        max((result.rows for result in results.values()), default=0)
        for results in (evaluation.vl, evaluation.text, evaluation.documents, evaluation.audio)
    )
    return RowCounts(most_vl, most_questions + most_documents, most_audio)


@dataclass(frozen=True)
class Source:
    """Where the figures of a run come from.

    Attributes:
        rows: how many examples were evaluated.
        step: of the checkpoint; None where a run does not say.
        finished_at: end of the evaluation, local time, ISO 8601; empty where a run does not say.
        not_shown: examples of the run's other evaluations, which are smaller or older.
    """

    rows: RowCounts
    step: int | None
    finished_at: str
    not_shown: tuple[RowCounts, ...] = ()

    def cells(self) -> tuple[str, ...]:
        """What stands after the run's name under ``SOURCE_HEADER``."""
        largest = max(self.not_shown, key=lambda rows: rows.total, default=None)
        count = f"{len(self.not_shown)}, of at most " if len(self.not_shown) > 1 else ""
        return (
            *(f"{rows:,}" for rows in (self.rows.vl, self.rows.text, self.rows.audio)),
            _NONE if self.step is None else f"{self.step:,}",
            self.finished_at[:16].replace("T", " ") or _NONE,
            _NONE if largest is None else f"{count}{largest.vl:,} + {largest.text:,} + {largest.audio:,}",
        )


def judge(evaluation: Evaluation) -> Validity:
    """Validity of an evaluation, by the margin that was declared for it."""
    results = (*evaluation.vl.values(), *evaluation.text.values())
    margins = [result.non_inferiority.margin for result in results]
    return assess_validity(evaluation, margin=max(margins, default=EvaluationSettings().margin))


def widen_unchanged(estimate: Estimate, rows: int) -> Estimate:
    """The estimate, but for one of exactly zero width at zero, as older results have it, the exact binomial limits.

    A bootstrap of examples of which none changed draws none that changed. That n examples did not change leaves open
    that a share of ``1 - 0.025^(1/n)`` would. Results say nothing of clusters: the limits are those of examples without
    any. Source: Clopper and Pearson 1934, Biometrika 26.
    """
    if not estimate.low == estimate.mean == estimate.high == 0.0:
        return estimate
    limit = 1.0 - (1.0 - CONFIDENCE) ** (1.0 / rows)
    return Estimate(0.0, -limit, limit)


@dataclass(frozen=True)
class RunSummary:
    """The figures of a run that a table shows.

    Attributes:
        name: variant and seed.
        folder: the run's folder.
        metrics: what its ``metrics.json`` holds; in a report, with the evaluation that counts there.
        source: where the figures come from; None where results of another version do not say.
        procedural: whether the program made the examples.
    """

    name: str
    folder: Path | None
    metrics: dict[str, Any]
    source: Source | None = None
    procedural: bool = False

    @property
    def evaluation(self) -> Evaluation | None:
        """The evaluation as a record; None for results of another version."""
        try:
            return from_plain(Evaluation, self.metrics["evaluation"])
        except ValueError:
            return None

    @property
    def meaning(self) -> Validity | None:
        """Validity of the figures; None for results of another version."""
        evaluation = self.evaluation
        return None if evaluation is None else judge(evaluation)

    def show(self, evaluation: Evaluation, source: Source) -> RunSummary:
        """The same run with the figures of another of its evaluations."""
        return replace(self, metrics=self.metrics | {"evaluation": asdict(evaluation)}, source=source)

    def cells(self) -> tuple[str, ...]:
        """One row under ``HEADER``: accuracies in percent, conditions as differences from the base in points."""
        evaluation, found = self.metrics["evaluation"], self.meaning
        vl, audio = evaluation["vl"], evaluation["audio"]
        void = found is not None and bool(found.not_retention)
        metric = evaluation.get("audio_metric", EXACT_MATCH.name)
        return (
            self.name,
            _percent(evaluation["base"]),
            "bit-equal" if vl[BYPASS.name]["bit_equal"] else "DIFFERS",
            *(_change(vl.get(name), void=void) for name in (SILENCE.name, DISTRACTOR.name)),
            self._text_cell(found),
            *_divergence(vl.get(DISTRACTOR.name)),
            *(_score(audio[name]["accuracy"], metric) if name in audio else _NONE for name in _HEARD),
            f"{self.metrics['training']['seconds']:.0f} + {evaluation['seconds']:.0f}",
        )

    def _text_cell(self, found: Validity | None) -> str:
        worst = self.worst_text
        if worst is None:
            return _NONE
        if found is not None and found.not_text_retention:
            return _SHORT
        return f"{100 * worst[1]['difference']['mean']:+.1f}"

    @property
    def worst_text(self) -> tuple[str, dict[str, Any]] | None:
        """The condition that text-only questions lose most under, with its figures; None without such questions."""
        return _furthest(self.metrics["evaluation"].get("text", {}), lambda result: result["difference"]["mean"])

    def text_cells(self) -> tuple[str, ...] | None:
        """One row under ``TEXT_HEADER``; None without text-only questions."""
        worst, found = self.worst_text, self.meaning
        if worst is None:
            return None
        name, result = worst
        void = found is not None and bool(found.not_text_retention)
        base = self.metrics["evaluation"]["base_text"]
        return (self.name, _percent(base), name, _change(result, void=void), *_divergence(result))

    def document_cells(self) -> tuple[str, ...] | None:
        """One row under ``DOCUMENTS_HEADER``; None without documents."""
        evaluation = self.metrics["evaluation"]
        worst = _furthest(evaluation.get("documents", {}), lambda result: -result["difference"]["mean"])
        if worst is None:
            return None
        name, result = worst
        mean, low, high = (result["difference"][key] for key in ("mean", "low", "high"))
        change = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        return (self.name, f"{evaluation['base_bits_per_byte']['mean']:.3f}", name, change, f"{result['kl']:.4f}")

    def warnings(self) -> list[str]:
        """What a reader must know before believing the row."""
        evaluation, found = self.metrics["evaluation"], self.meaning
        told = [f"{name} was on but never became active" for name in self.metrics["training"]["inactive"]]
        for part in ("vl", "text", "documents"):
            results = evaluation.get(part, {})
            for condition, result in results.items():
                if find_condition(condition).attach and not result["is_measurement"]:
                    where = condition if part == "vl" else f"{part}, {condition}"
                    told.append(f"{where}: the fusion had no effect; this is not a retention measurement")
            if BYPASS.name in results and not results[BYPASS.name]["bit_equal"]:
                where = "" if part == "vl" else f" on {_PARTS[part]}"
                told.append(f"the bypass is not the base bit for bit{where}")
        record = self.evaluation
        if record is None or found is None:
            told.append("the results are of another version; their validity was not assessed")
            return [f"{self.name}: {words}" for words in told]
        if found.not_retention and any(result.is_measurement for result in record.vl.values()):
            told.append(f"{NOT_RETENTION}: {found.not_retention}")
        if found.not_text_retention and any(result.is_measurement for result in record.text.values()):
            told.append(f"text-only questions: {NOT_RETENTION}: {found.not_text_retention}")
        if found.not_hearing:
            told.append(f"no evidence that it hears: {found.not_hearing}")
        return [f"{self.name}: {words}" for words in told]


_HEARD = (MATCHED.name, SILENCE.name, DISTRACTOR.name, LOUD.name)
_PARTS = {"text": "text-only questions", "documents": "documents"}


def read_summary(run: Path) -> RunSummary:
    """Reads a finished run.

    Raises:
        InputError: it has no ``metrics.json``, or not one of ours.
    """
    path, expected, hint = (
        RunFolder(run).metrics,
        "the metrics of a finished run",
        "name the folder of a finished run",
    )
    metrics = read_object(path, expected, hint)
    try:
        name = one_line(f"{metrics['variant']} {metrics['seed']}")
        summary = RunSummary(name, run, metrics, procedural=_is_procedural(RunFolder(run).config))
        evaluation = summary.evaluation
        if evaluation is not None:
            finished_at = str(metrics.get("finished_at", ""))
            source = Source(row_counts(evaluation), metrics["training"].get("steps"), finished_at)
            summary = replace(summary, source=source)
        format_table([summary])  # looks up every figure
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        got = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(path, expected, got, hint) from error
    return summary


def is_procedural(data: Mapping[str, Any]) -> bool:
    """Whether the data settings of a run name examples that the program makes, or a folder that it has written."""
    root = data.get("root")
    if EMBEDDED_DATA in (root, data.get("val_vl_source"), data.get("val_audio_source")):
        return True
    return isinstance(root, str) and is_made_root(Path(root).expanduser())


def _is_procedural(path: Path) -> bool:
    """The same of a configuration's file; a run without one does not say."""
    try:
        data = read_object(path, "the configuration of a run", "restore it").get("data")
    except InputError:
        return False
    return isinstance(data, dict) and is_procedural(data)


def format_table(runs: Sequence[RunSummary], width: int | None = None) -> str:
    """The table as plain text, columns aligned, with its reading notes and warnings.

    Args:
        runs: the runs, a row each.
        width: columns of the terminal, see :func:`~safe_train.io.text_table.align`.
    """
    lines = align(HEADER, [run.cells() for run in runs], width)
    text = [cells for run in runs if (cells := run.text_cells()) is not None]
    documents = [cells for run in runs if (cells := run.document_cells()) is not None]
    lines += ["", *align(TEXT_HEADER, text, width)] if text else []
    lines += ["", *align(DOCUMENTS_HEADER, documents, width)] if documents else []
    sources = [(run.name, *run.source.cells()) for run in runs if run.source is not None]
    lines += ["", *align(SOURCE_HEADER, sources, width)] if sources else []
    lines += ["", *wrap(_notes(runs, with_documents=bool(documents)))]
    lines += [f"WARNING {warning}" for run in runs for warning in run.warnings()]
    return "\n".join(lines) + "\n"


def _notes(runs: Sequence[RunSummary], *, with_documents: bool) -> str:
    metrics = dict.fromkeys(str(run.metrics["evaluation"].get("audio_metric", EXACT_MATCH.name)) for run in runs)
    scored = " or ".join(find_metric(metric).label for metric in metrics)
    beside = " (captions; other questions by exact match)" if set(metrics) - {EXACT_MATCH.name} else ""
    told = [
        "VL base: accuracy of the base on VL questions. silence, distractor: change in accuracy with that audio, in "
        "points, with 95 % intervals. text: change on text-only questions under the worst condition. changed, KL: "
        "share of answers changed and KL divergence from the base, with distractors on VL questions. audio: "
        f"{scored} with the matched clip{beside}; silent, other clip: without it; loud: with the clip {LOUD_DB:g} dB "
        "louder, clipped at full scale. seconds: training + evaluation."
    ]
    if any(run.source is not None and run.source.not_shown for run in runs):
        told.append("not shown: VL + text + audio examples of the run's other evaluations, smaller or older.")
    if with_documents:
        told.append("documents: bits per byte of the base, and the change; positive is worse.")
    unmeasured = [run for run in runs if run.worst_text is None and not run.metrics["evaluation"].get("documents")]
    if unmeasured:
        whose = "" if len(unmeasured) == len(runs) else f" in {len(unmeasured)} of these {len(runs)} runs"
        told.append(f"{TEXT_UNMEASURED[0].upper()}{TEXT_UNMEASURED[1:]}{whose}.")
    if any(run.procedural for run in runs):
        every = "" if all(run.procedural for run in runs) else " of some runs"
        told.append(f"The data{every} are procedural: generated by the program, neither photographs nor recordings.")
    if any(run.metrics["variant"] == "soft_retention" for run in runs):
        told.append(f"{SOFT_RETENTION}.")
    return " ".join(told)


def draw_picture(runs: Sequence[RunSummary], path: Path) -> None:
    """One point a run and condition: audio gain across, change under that condition up, with its interval.

    Changes that are no retention measurement are not drawn: a base that knows nothing loses nothing.

    Raises:
        InputError: the picture cannot be written there.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.8), layout="constrained")
    colors = {name: f"C{index}" for index, name in enumerate(dict.fromkeys(run.metrics["variant"] for run in runs))}
    markers: dict[str, str] = {}
    left_out: list[str] = []
    for run in runs:
        audio = run.metrics["evaluation"]["audio"]
        gain = 100 * (audio[MATCHED.name]["accuracy"]["mean"] - audio[SILENCE.name]["accuracy"]["mean"])
        found = run.meaning
        if found is not None and found.not_retention:
            left_out.append(run.name)
        for name, marker, result in _choose_drawn(run, found):
            markers[name] = marker
            change = _widen(result)
            spread = [[100 * (change.mean - change.low)], [100 * (change.high - change.mean)]]
            color = colors[run.metrics["variant"]]
            axes.errorbar([gain], [100 * change.mean], yerr=spread, fmt=marker, color=color, capsize=3, alpha=0.85)
    for name, color in colors.items():
        axes.plot([], [], "o", color=color, label=name)
    for name, marker in markers.items():
        axes.plot([], [], marker, color="gray", label=name)
    axes.axhline(0.0, color="gray", linewidth=0.8)
    axes.set(xlabel="audio gain: matched minus silent clip (points)", ylabel="accuracy minus base (points)")
    title = "Audio gain against loss of accuracy (95 % intervals)"
    if left_out:
        names = textwrap.shorten(", ".join(left_out), 60, placeholder=" ...")
        title += f"\nnot drawn (no retention measurement): {names}"
    axes.set_title(title, fontsize="medium")
    axes.legend(fontsize="small")
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:  # ValueError: a suffix that is no picture's
        got = " ".join(str(error).split())
        raise InputError(
            path, "a picture that can be written", got, "name a .png file in an existing folder"
        ) from error
    finally:
        plt.close(figure)


def _choose_drawn(run: RunSummary, found: Validity | None) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, marker and figures of what the picture shows of a run."""
    vl = {} if found is not None and found.not_retention else run.metrics["evaluation"]["vl"]
    shown = [
        (f"VL, {name}", mark, vl[name]) for name, mark in ((DISTRACTOR.name, "o"), (SILENCE.name, "^")) if name in vl
    ]
    worst = run.worst_text
    if worst is not None and not (found is not None and found.not_text_retention):
        shown.append(("text, worst condition", "s", worst[1]))
    return shown


def _furthest(results: Mapping[str, dict[str, Any]], value: Any) -> tuple[str, dict[str, Any]] | None:
    compared = keep_retention(results)
    return min(compared.items(), key=lambda item: value(item[1])) if compared else None


def _percent(estimate: dict[str, float]) -> str:
    return f"{100 * estimate['mean']:.1f} %"


def _score(estimate: dict[str, float], metric: str) -> str:
    """Of audio examples; results hold a share of the metric's highest value."""
    found = find_metric(metric)
    return f"{found.scale * estimate['mean']:.{found.digits}f}{found.unit}"


def _divergence(result: dict[str, Any] | None) -> tuple[str, str]:
    """Share of answers changed, and KL."""
    return (f"{100 * result['answer_change_rate']:.1f} %", f"{result['kl']:.4f}") if result else (_NONE, _NONE)


def _change(result: dict[str, Any] | None, *, void: bool) -> str:
    if result is None:
        return _NONE
    if void:
        return _SHORT
    change = _widen(result)
    mean, low, high = (100 * value for value in (change.mean, change.low, change.high))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _widen(result: dict[str, Any]) -> Estimate:
    return widen_unchanged(Estimate(**result["difference"]), result["rows"])
