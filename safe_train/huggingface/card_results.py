"""The figures of a run as the model card tells them: what they mean first, and no accuracy where it means nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult

from safe_train.evaluation.conditions import sort_names
from safe_train.huggingface.data_names import PROCEDURAL
from safe_train.metrics.metric import Metric
from safe_train.metrics.registry import find_metric

Figures = Mapping[str, Any]
"""What :func:`~safe_train.huggingface.results.retention_figures` gives."""

_PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}


def results(figures: Figures) -> list[str]:
    """The card's sections, paragraph by paragraph."""
    return [*_seeing(figures), *_text(figures), *_hearing(figures), _origin(figures)]


def eval_results(figures: Figures) -> list[EvalResult]:
    """The scores in the hub's own form; those of what was no measurement are left out."""
    data, means = figures["data"], figures["meaning"]
    metric = find_metric(figures["audio_metric"])
    audio_name, audio_type = metric.label + _divisor(metric), metric.name + _divisor(metric)
    tables = [
        ("vl", "VL", "visual-question-answering", "accuracy", "accuracy", means["not_retention"]),
        ("text", "text", "question-answering", "accuracy", "accuracy", means["not_text_retention"]),
        ("audio", "audio", "audio-text-to-text", audio_name, audio_type, means["not_hearing"]),
    ]
    if means["not_retention"]:  # whatever else was measured, nothing is to look like a score of this model
        return []
    return [
        EvalResult(
            task_type=task,
            dataset_type=data[part],
            dataset_name=f"{_told(data[part])}, {_split(data, part)}",
            metric_type=metric_type,
            metric_name=f"{label} ({word}, {condition})",
            metric_value=round(result["accuracy"][0], 6),
        )
        for part, word, task, label, metric_type, doubt in tables
        if not doubt
        for condition, result in _in_order(figures[part])
        if result.get("is_measurement", True)
    ]


def _seeing(figures: Figures) -> list[str]:
    means, found = figures["meaning"], figures["vl"]
    bypass = "is the base bit for bit" if figures["bypass_bit_equal"] else "DIFFERS FROM THE BASE"
    if means["not_retention"]:
        return [
            "## Visual questions: not a retention measurement",
            f"{_not_retention(means['not_retention'])} Without audio the model {bypass}.",
            _changes(found),
            _describe_measured(figures),
        ]
    return [
        "## Retention on visual questions",
        "Visual questions answered with audio playing, compared with the base "
        f"(accuracy {_percent(figures['base_accuracy'])}). Intervals are 95 %, clustered by image; {_margin(figures)} "
        f"Without audio the model {bypass}.",
        _losses(found),
        _describe_measured(figures),
    ]


def _text(figures: Figures) -> list[str]:
    means = figures["meaning"]
    if not means["protected_text"]:
        return [
            "## Text-only questions: not measured",
            "Retention of the base's answers to questions without an image was not measured.",
        ]
    documents = [_documents(figures)] if figures["documents"] else []
    if means["not_text_retention"]:
        changes = [_changes(figures["text"])] if figures["text"] else []
        reason = _not_retention(means["not_text_retention"])
        return ["## Text-only questions: not a retention measurement", reason, *changes, *documents]
    if not figures["text"]:
        return [
            "## Retention on text-only questions",
            "Measured on documents alone.",
            *documents,
        ]
    return [
        "## Retention on text-only questions",
        "Questions without an image answered with audio playing, compared with the base "
        f"(accuracy {_percent(figures['base_text_accuracy'])}); {_margin(figures)}",
        _losses(figures["text"]),
        *documents,
    ]


def _hearing(figures: Figures) -> list[str]:
    doubt, metric = figures["meaning"]["not_hearing"], find_metric(figures["audio_metric"])
    write = _percent if metric.is_share else (lambda interval: f"{interval[0]:.3f}")
    change = _points if metric.is_share else _thousandths
    unit = " in points" if metric.is_share else ""
    scores = [f"{name} {write(result['accuracy'])}" for name, result in _in_order(figures["audio"])]
    gains = [f"against {name} {change(gain)}" for name, gain in _in_order(figures["audio_gain"])]
    name = metric.label + _divisor(metric)
    told = (
        f"Questions about the clip, by {name}: {', '.join(scores)}. Gain of the matched clip{unit}: {', '.join(gains)}."
    )
    if doubt:
        return ["## Hearing: did not learn to hear", f"No evidence of hearing: {_sentence(doubt)}", told]
    return ["## Hearing", told]


def _origin(figures: Figures) -> str:
    data, gate = figures["data"], figures["gate"]
    sources = [data["vl"], data["audio"], *([data["text"]] if figures["meaning"]["protected_text"] else [])]
    listed = " and ".join(_told(source) for source in dict.fromkeys(sources))
    splits = " and ".join(dict.fromkeys([_split(data, "vl"), _split(data, "audio")]))
    at_gate = f" at gate {gate:g}" if gate != 1.0 else ""
    return (
        f"Trained with `{figures['variant']}`, seed {figures['seed']}, {figures['step']} steps; evaluated{at_gate} on "
        f"{listed} ({splits}), base and encoders in {_PRECISIONS[figures['precision']]}. "
        f"Digest of the weights that were evaluated: `{figures['weights_sha256']}`."
    )


def _split(data: Mapping[str, str], part: str) -> str:
    """The split that examples of a part are of; that of VL and text-only examples may be another."""
    return data["split"] if part == "audio" else data.get("vl_split", data["split"])


def _told(source: str) -> str:
    """A source in words; whose data lie in a folder of that format is not known."""
    return "procedural data of SAFE" if source == PROCEDURAL else f"data in the format of {source}"


def _describe_measured(figures: Figures) -> str:
    """Which conditions the figures are of, and of how many seeds."""
    means, gate = figures["meaning"], figures["gate"]
    left_out = f"; not measured: {', '.join(means['unmeasured'])}" if means["unmeasured"] else ""
    measured = ", ".join(means["conditions"]) or "nothing with audio attached"
    at_gate = f" The gate was at {gate:g}, not fully open." if gate != 1.0 else ""
    return f"Measured: {measured}{left_out}. One seed ({figures['seed']}); other seeds may differ.{at_gate}"


def _not_retention(reason: str) -> str:
    return (
        f"Not a retention measurement: {_sentence(reason)} The result is the share of answers that changed and the "
        "mean divergence from the base, KL(base || SAFE) in nats per token."
    )


def _margin(figures: Figures) -> str:
    return f"the margin is {100 * figures['margin']:g} points, declared before the measurement."


def _changes(found: Mapping[str, Figures]) -> str:
    """Conditions by what they change, with no word about right and wrong."""
    rows = [
        (name, str(result["rows"]), f"{100 * result['answer_change_rate']:.1f} %", f"{result['kl']:.2g}")
        for name, result in _in_order(found)
    ]
    return _table(("audio", "questions", "answers changed", "KL"), rows)


def _losses(found: Mapping[str, Figures]) -> str:
    rows = [
        (
            name,
            str(result["rows"]),
            _percent(result["accuracy"]),
            _points(result["difference"]),
            f"{100 * result['answer_change_rate']:.1f} %",
            f"{result['kl']:.2g}",
            ("yes" if result["non_inferior"] else "no")
            if result["is_measurement"]
            else "not a retention measurement: the fusion had no effect",
        )
        for name, result in _in_order(found)
    ]
    columns = ("audio", "questions", "accuracy", "change in points", "answers changed", "KL")
    return _table((*columns, "loss of the margin ruled out"), rows)


def _documents(figures: Figures) -> str:
    rows = [
        (
            name,
            str(result["rows"]),
            f"{result['bits_per_byte'][0]:.3f}",
            _thousandths(result["difference"]),
            f"{result['kl']:.2g}" if result["is_measurement"] else "the fusion had no effect",
        )
        for name, result in _in_order(figures["documents"])
    ]
    base = f"{figures['base_bits_per_byte'][0]:.3f}"
    table = _table(("audio", "documents", "bits per byte", "change", "KL"), rows)
    return f"The base needs {base} bits per byte of documents; more is worse.\n\n{table}"


def _in_order(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Conditions in the order of the registry; ``config.json`` sorts them by name."""
    return [(name, found[name]) for name in sort_names(list(found))]


def _divisor(metric: Metric) -> str:
    """What a metric whose values exceed 1 is divided by, so that the hub has a share."""
    return "" if metric.is_share else f"/{metric.highest:g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _sentence(clause: str) -> str:
    return clause.rstrip(".") + "."


def _percent(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.1f} %"


def _points(interval: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in interval)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _thousandths(interval: Sequence[float]) -> str:
    mean, low, high = interval
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
