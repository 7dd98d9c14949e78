"""Formats one evaluation as text: a table for each kind of example, with a line per condition."""

from __future__ import annotations

from collections.abc import Mapping

from safe_train.evaluation.results import AnswerResult, AudioResult, DocumentResult, Evaluation
from safe_train.io.text_table import align
from safe_train.metrics.intervals import Estimate
from safe_train.metrics.metric import Metric
from safe_train.metrics.registry import find_metric

ANSWERS_HEADER = ("condition", "examples", "accuracy", "change [95 %]", "changed", "KL")
DOCUMENTS_HEADER = ("condition", "examples", "bits/byte", "change [95 %]", "KL")
AUDIO_HEADER = ("condition", "examples", "score [95 %]", "gain of matched [95 %]")


def format_evaluation(evaluation: Evaluation, width: int | None = None) -> str:
    """The figures of every condition.

    Accuracies in percent; changes from the base and gains in points; KL(base || SAFE) in nats per token.

    Args:
        evaluation: the figures.
        width: columns of the terminal, see :func:`~safe_train.io.text_table.align`.
    """
    parts = [
        _answers("VL questions", evaluation.base, evaluation.vl, width),
        _types("VL questions", evaluation.vl, width),
        _answers("text-only questions", evaluation.base_text, evaluation.text, width),
        _types("text-only questions", evaluation.text, width),
        _documents(evaluation, width),
        _audio(evaluation, width),
        _types("audio examples", evaluation.audio, width, find_metric(evaluation.audio_metric)),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _answers(questions: str, base: Estimate | None, results: dict[str, AnswerResult], width: int | None) -> list[str]:
    if base is None or not results:
        return []
    cells = [
        (
            name,
            f"{result.rows:,}",
            _percent(result.accuracy.mean),
            _change(result.bit_equal) or _points(result.difference),
            _percent(result.answer_change_rate),
            f"{result.kl:.4f}",
        )
        for name, result in results.items()
    ]
    return [f"{questions}: base accuracy {_percent(base.mean)}", "", *align(ANSWERS_HEADER, cells, width)]


def _types(
    questions: str,
    results: Mapping[str, AnswerResult] | Mapping[str, AudioResult],
    width: int | None,
    metric: Metric | None = None,
) -> list[str]:
    """Accuracy by type of question under each condition, where there are several types."""
    kinds = sorted({kind for result in results.values() for kind in result.by_kind})
    if len(kinds) < 2:
        return []
    scale, digits, unit = (100.0, 1, " %") if metric is None else (metric.scale, metric.digits, metric.unit)

    def cell(result: AnswerResult | AudioResult, kind: str) -> str:
        return f"{scale * result.by_kind[kind]:.{digits}f}{unit}" if kind in result.by_kind else "-"

    cells = [(kind, *(cell(result, kind) for result in results.values())) for kind in kinds]
    title = f"{questions} by type: {'accuracy' if metric is None else metric.label}"
    return [title, "", *align(("type", *results), cells, width)]


def _documents(evaluation: Evaluation, width: int | None) -> list[str]:
    base = evaluation.base_bits_per_byte
    if base is None or not evaluation.documents:
        return []
    cells = [
        (name, f"{result.rows:,}", f"{result.bits_per_byte.mean:.3f}", _bits(result), f"{result.kl:.4f}")
        for name, result in evaluation.documents.items()
    ]
    return [f"documents: base {base.mean:.3f} bits per byte", "", *align(DOCUMENTS_HEADER, cells, width)]


def _audio(evaluation: Evaluation, width: int | None) -> list[str]:
    metric = find_metric(evaluation.audio_metric)
    cells = [
        (
            name,
            f"{result.rows:,}",
            _score(result, metric),
            _gain(evaluation.audio_gain[name], metric) if name in evaluation.audio_gain else "-",
        )
        for name, result in evaluation.audio.items()
    ]
    if not cells:
        return []
    lines = [f"audio examples: scored by {metric.label}", "", *align(AUDIO_HEADER, cells, width)]
    return lines + _captions(evaluation)


def _captions(evaluation: Evaluation) -> list[str]:
    """Caption metrics, a line for each condition that was scored by them, and why others are missing."""
    found = {name: result.captions for name, result in evaluation.audio.items() if result.captions is not None}
    lines = [
        f"captions, {name}: {', '.join(f'{metric} {mean:.2f}' for metric, mean in captions.means.items()) or 'none'}"
        for name, captions in found.items()
    ]
    reasons = {metric: why for captions in found.values() for metric, why in captions.left_out.items()}
    left_out = [f"{metric} left out: {why}" for metric, why in reasons.items()]
    return ["", *lines, *left_out] if lines else []


def _change(bit_equal: bool | None) -> str:
    """Of the bypass: whether it is the base; empty for other conditions."""
    return "" if bit_equal is None else "bit-equal" if bit_equal else "DIFFERS"


def _bits(result: DocumentResult) -> str:
    change = result.difference
    return _change(result.bit_equal) or f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def _score(result: AudioResult, metric: Metric) -> str:
    estimate = result.accuracy
    mean, low, high = (metric.scale * value for value in (estimate.mean, estimate.low, estimate.high))
    digits = metric.digits
    return f"{mean:.{digits}f}{metric.unit} [{low:.{digits}f}, {high:.{digits}f}]"


def _gain(estimate: Estimate, metric: Metric) -> str:
    mean, low, high = (metric.scale * value for value in (estimate.mean, estimate.low, estimate.high))
    digits = metric.digits
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _points(estimate: Estimate) -> str:
    mean, low, high = (100 * value for value in (estimate.mean, estimate.low, estimate.high))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
