"""One evaluation as text: a table for each kind of rows, with a line for each condition."""

from __future__ import annotations

from safe_train.evaluation.audio_metric import AUDIO_METRICS
from safe_train.evaluation.results import AnswerResult, AudioResult, DocumentResult, Evaluation
from safe_train.io.text_table import align
from safe_train.metrics.intervals import Estimate

ANSWERS_HEADER = ("condition", "rows", "accuracy", "change [95 %]", "changed", "KL")
DOCUMENTS_HEADER = ("condition", "rows", "bits/byte", "change [95 %]", "KL")
AUDIO_HEADER = ("condition", "rows", "score [95 %]", "matched minus it [95 %]")


def format_evaluation(evaluation: Evaluation, width: int | None = None) -> str:
    """The figures of every condition.

    Accuracies in percent; changes from the base and gains in points; KL(base || SAFE) in nats a token.

    Args:
        evaluation: the figures.
        width: columns of the terminal, see :func:`~safe_train.io.text_table.align`.
    """
    parts = [
        _answers("VL rows", evaluation.base, evaluation.vl, width),
        _answers("text-only questions", evaluation.base_text, evaluation.text, width),
        _documents(evaluation, width),
        _audio(evaluation, width),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _answers(rows: str, base: Estimate | None, results: dict[str, AnswerResult], width: int | None) -> list[str]:
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
    return [f"{rows}: the base has {_percent(base.mean)} right", "", *align(ANSWERS_HEADER, cells, width)]


def _documents(evaluation: Evaluation, width: int | None) -> list[str]:
    base = evaluation.base_bits_per_byte
    if base is None or not evaluation.documents:
        return []
    cells = [
        (name, f"{result.rows:,}", f"{result.bits_per_byte.mean:.3f}", _bits(result), f"{result.kl:.4f}")
        for name, result in evaluation.documents.items()
    ]
    return [f"documents: the base has {base.mean:.3f} bits per byte", "", *align(DOCUMENTS_HEADER, cells, width)]


def _audio(evaluation: Evaluation, width: int | None) -> list[str]:
    metric = evaluation.audio_metric
    cells = [
        (
            name,
            f"{result.rows:,}",
            _score(result, metric),
            _points(evaluation.audio_gain[name]) if name in evaluation.audio_gain else "-",
        )
        for name, result in evaluation.audio.items()
    ]
    if not cells:
        return []
    lines = [f"audio rows: {AUDIO_METRICS[metric]}", "", *align(AUDIO_HEADER, cells, width)]
    return lines + _captions(evaluation)


def _captions(evaluation: Evaluation) -> list[str]:
    """Caption metrics, a line for each condition that was scored by them, and why others are missing."""
    found = {name: result.captions for name, result in evaluation.audio.items() if result.captions is not None}
    lines = [
        f"captions, {name}: {', '.join(f'{metric} {mean:.2f}' for metric, mean in captions.means.items()) or 'none'}"
        for name, captions in found.items()
    ]
    reasons = {metric: why for captions in found.values() for metric, why in captions.left_out.items()}
    left_out = [f"without {metric}: {why}" for metric, why in reasons.items()]
    return ["", *lines, *left_out] if lines else []


def _change(bit_equal: bool | None) -> str:
    """Of the bypass: whether it is the base; empty for other conditions."""
    return "" if bit_equal is None else "bit-equal" if bit_equal else "DIFFERS"


def _bits(result: DocumentResult) -> str:
    change = result.difference
    return _change(result.bit_equal) or f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def _score(result: AudioResult, metric: str) -> str:
    """Results hold a tenth of CIDEr-D, which runs from 0 to 10."""
    scale, digits, unit = (10, 2, "") if metric == "cider_d" else (100, 1, " %")
    mean, low, high = (scale * value for value in (result.accuracy.mean, result.accuracy.low, result.accuracy.high))
    return f"{mean:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def _points(estimate: Estimate) -> str:
    mean, low, high = (100 * value for value in (estimate.mean, estimate.low, estimate.high))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
