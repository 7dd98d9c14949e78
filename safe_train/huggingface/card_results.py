"""The figures of a run as the model card tells them: what they mean first, and no accuracy where it means nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult

from safe_train.evaluation.conditions import AUDIO_CONDITIONS, VL_CONDITIONS
from safe_train.huggingface.data_names import PROCEDURAL

Figures = Mapping[str, Any]
"""What :func:`~safe_train.huggingface.results.retention_figures` gives."""

# Of each metric of audio answers, what people and the hub call it; CIDEr-D runs to 10, so a tenth of it is a share.
_AUDIO_METRICS = {
    "exact_match": ("exact match", "exact_match"),
    "token_f1": ("token F1", "token_f1"),
    "cider_d": ("CIDEr-D/10", "cider_d/10"),
}
_PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}


def results(figures: Figures) -> list[str]:
    """The card's sections, paragraph by paragraph."""
    return [*_seeing(figures), *_text(figures), *_hearing(figures), _origin(figures)]


def eval_results(figures: Figures) -> list[EvalResult]:
    """The scores in the hub's own form; those of what was no measurement are left out."""
    data, means = figures["data"], figures["meaning"]
    audio_name, audio_type = _AUDIO_METRICS[figures["audio_metric"]]
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
            dataset_name=f"{_told(data[part])}, {data['split']}",
            metric_type=metric_type,
            metric_name=f"{metric} ({word}, {condition})",
            metric_value=round(result["accuracy"][0], 6),
        )
        for part, word, task, metric, metric_type, doubt in tables
        if not doubt
        for condition, result in _in_order(figures[part])
        if result.get("is_measurement", True)
    ]


def _seeing(figures: Figures) -> list[str]:
    means, found = figures["meaning"], figures["vl"]
    bypass = "is the base bit for bit" if figures["bypass_bit_equal"] else "DIFFERS FROM THE BASE"
    if means["not_retention"]:
        return [
            "## Seeing: not a retention measurement",
            f"{_not_retention(means['not_retention'])} Without audio the model {bypass}.",
            _changes(found),
            _describe_measured(figures),
        ]
    return [
        "## What hearing costs in seeing",
        "Visual questions answered while audio plays, against the untouched base "
        f"({_percent(figures['base_accuracy'])} right). Intervals are 95 %, clustered by image; {_margin(figures)} "
        f"Without audio the model {bypass}.",
        _losses(found),
        _describe_measured(figures),
    ]


def _text(figures: Figures) -> list[str]:
    means = figures["meaning"]
    if not means["protected_text"]:
        return [
            "## Text-only questions: not measured",
            "Whether questions without an image are answered as the base answers them while audio plays was not "
            "measured.",
        ]
    documents = [_documents(figures)] if figures["documents"] else []
    if means["not_text_retention"]:
        changes = [_changes(figures["text"])] if figures["text"] else []
        reason = _not_retention(means["not_text_retention"])
        return ["## Text without an image: not a retention measurement", reason, *changes, *documents]
    if not figures["text"]:
        return [
            "## What hearing costs in text without an image",
            "No questions were asked, documents alone.",
            *documents,
        ]
    return [
        "## What hearing costs in text without an image",
        "Questions without an image answered while audio plays, against the untouched base "
        f"({_percent(figures['base_text_accuracy'])} right); {_margin(figures)}",
        _losses(figures["text"]),
        *documents,
    ]


def _hearing(figures: Figures) -> list[str]:
    doubt, metric = figures["meaning"]["not_hearing"], figures["audio_metric"]
    write = (lambda interval: f"{interval[0]:.3f}") if metric == "cider_d" else _percent
    change = _thousandths if metric == "cider_d" else _points
    unit = "" if metric == "cider_d" else " in points"
    scores = [f"{name} {write(result['accuracy'])}" for name, result in _in_order(figures["audio"])]
    gains = [f"against {name} {change(gain)}" for name, gain in _in_order(figures["audio_gain"])]
    name = _AUDIO_METRICS[metric][0]
    told = (
        f"Questions about the clip, by {name}: {', '.join(scores)}. Gain of the matched clip{unit}: {', '.join(gains)}."
    )
    if doubt:
        return ["## Hearing: did not learn to hear", f"Did not learn to hear: {_sentence(doubt)}", told]
    return ["## What it hears", told]


def _origin(figures: Figures) -> str:
    data, gate = figures["data"], figures["gate"]
    sources = [data["vl"], data["audio"], *([data["text"]] if figures["meaning"]["protected_text"] else [])]
    listed = " and ".join(_told(source) for source in dict.fromkeys(sources))
    at_gate = f" at gate {gate:g}" if gate != 1.0 else ""
    return (
        f"Trained with `{figures['variant']}`, seed {figures['seed']}, {figures['step']} steps; evaluated{at_gate} on "
        f"{listed} ({data['split']}), base and encoders in {_PRECISIONS[figures['precision']]}. "
        f"Digest of the weights that were evaluated: `{figures['weights_sha256']}`."
    )


def _told(source: str) -> str:
    """A source in words; whose data lie in a folder of that format is not known."""
    return "procedural data of SAFE" if source == PROCEDURAL else f"data in the format of {source}"


def _describe_measured(figures: Figures) -> str:
    """Which conditions the figures are of, and of how many seeds."""
    means, gate = figures["meaning"], figures["gate"]
    left_out = f"; not measured: {', '.join(means['unmeasured'])}" if means["unmeasured"] else ""
    measured = ", ".join(means["conditions"]) or "nothing with audio attached"
    at_gate = f" The gate was at {gate:g}, not fully open." if gate != 1.0 else ""
    return f"Measured: {measured}{left_out}. One seed ({figures['seed']}); another may turn out otherwise.{at_gate}"


def _not_retention(reason: str) -> str:
    return (
        f"Not a retention measurement: {_sentence(reason)} What was measured is how many answers are no longer the "
        "base's, and the mean divergence from it, KL(base || SAFE) in nats a token."
    )


def _margin(figures: Figures) -> str:
    return f"the margin is {100 * figures['margin']:g} points, declared before the measurement."


def _changes(found: Mapping[str, Figures]) -> str:
    """Conditions by what they change, with no word about right and wrong."""
    rows = [
        (name, str(result["rows"]), f"{100 * result['answer_change_rate']:.1f} %", f"{result['kl']:.2g}")
        for name, result in _in_order(found)
    ]
    return _table(("audio that plays", "questions", "answers changed", "KL"), rows)


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
    columns = ("audio that plays", "questions", "accuracy", "change in points", "answers changed", "KL")
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
    table = _table(("audio that plays", "documents", "bits per byte", "change", "KL"), rows)
    return f"Documents are told with {base} bits per byte by the untouched base; more is worse.\n\n{table}"


def _in_order(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Conditions in the order of their registries; ``config.json`` sorts them by name."""
    order = {name: position for position, name in enumerate(dict.fromkeys([*AUDIO_CONDITIONS, *VL_CONDITIONS]))}
    return sorted(found.items(), key=lambda pair: order.get(pair[0], len(order)))


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
