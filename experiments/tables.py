"""From finished runs to the ablation's figures: means over seeds, differences between arms, Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t

from experiments.arms import CONDITIONS
from experiments.records import FinishedRun
from safe_train.evaluation.conditions import keep_retention
from safe_train.metrics.intervals import Estimate
from safe_train.metrics.non_inferiority import holm
from safe_train.report.seeds import ENOUGH_SEEDS, over_seeds

LEVEL = 0.05
"""Two arms are said to differ where the p-value after Holm's correction is below it."""

Figures = dict[str, Any]


def changes(evaluations: Sequence[Figures], part: str) -> dict[str, list[Mapping[str, float]]]:
    """Each condition's differences from the base by evaluation; conditions that not all evaluations have are left out.

    Args:
        evaluations: as ``metrics.json`` holds them, one a seed.
        part: ``vl``, ``text`` or ``documents``.
    """
    names = keep_retention(evaluations[0].get(part) or {})
    return {
        name: [evaluation[part][name]["difference"] for evaluation in evaluations]
        for name in names
        if all(name in (evaluation.get(part) or {}) for evaluation in evaluations)
    }


def counted_changes(evaluations: Sequence[Figures]) -> dict[str, list[float]]:
    """Changes of accuracy in points that "worst" ranges over: the six conditions on VL rows and text-only questions.

    Those on text-only questions are called ``text, silence`` and so on.
    """
    return {
        f"{prefix}{name}": [100 * difference["mean"] for difference in differences]
        for prefix, part in (("", "vl"), ("text, ", "text"))
        for name, differences in changes(evaluations, part).items()
        if name in CONDITIONS
    }


def worst_change(evaluations: Sequence[Figures]) -> tuple[float, str]:
    """The change in points under the condition with the lowest mean over the evaluations, and its name."""
    means = {name: _mean(by_seed) for name, by_seed in counted_changes(evaluations).items()}
    worst = min(means, key=means.__getitem__)
    return means[worst], worst


def row(runs: Sequence[FinishedRun]) -> Figures:
    """An arm over its seeds: changes from the base in points by condition, hearing in percent, documents in bits."""
    evaluations = [run.metrics["evaluation"] for run in runs]
    vl, text = (
        {name: _over_seeds(found) for name, found in changes(evaluations, part).items()} for part in ("vl", "text")
    )
    documents = {name: _over_seeds(found, 1.0) for name, found in changes(evaluations, "documents").items()}
    counted = counted_changes(evaluations)
    _, worst = worst_change(evaluations)
    measured = vl[worst] if worst in vl else text[worst.removeprefix("text, ")]
    part, _, condition = worst.rpartition(", ")
    results = [evaluation[part or "vl"][condition] for evaluation in evaluations]
    return {
        "seeds": [run.metrics["seed"] for run in runs],
        "learning_rate": _one_or_all([run.learning_rate for run in runs]),
        "vl_rows": [e["vl"]["bypass"]["rows"] for e in evaluations],
        "vl_base": _over_seeds([e["base"] for e in evaluations]),
        "vl_change": vl,
        "text_rows": [e["text"]["bypass"]["rows"] for e in evaluations] if text else [],
        "text_base": _over_seeds([e["base_text"] for e in evaluations]) if text else None,
        "text_change": text,
        "documents_base": _over_seeds([e["base_bits_per_byte"] for e in evaluations], 1.0) if documents else None,
        "documents_change": documents,
        "worst_condition": worst,
        "worst_change": measured,
        "worst_seed": min(min(by_seed) for by_seed in counted.values()),
        "worst_by_seed": [min(by_seed) for by_seed in zip(*counted.values(), strict=True)],
        "answer_change_rate": _mean([100 * result["answer_change_rate"] for result in results]),
        "kl": _mean([result["kl"] for result in results]),
        "audio": _over_seeds([e["audio"]["matched"]["accuracy"] for e in evaluations]),
        "audio_by_condition": {
            name: _over_seeds([e["audio"][name]["accuracy"] for e in evaluations])
            for name in evaluations[0]["audio"]
            if all(name in e["audio"] for e in evaluations)
        },
        "audio_by_kind": _by_kind(evaluations),
        "audio_gain": _over_seeds([e["audio_gain"]["silence"] for e in evaluations]),
        "bypass_bit_equal": all(
            e[part]["bypass"]["bit_equal"] for e in evaluations for part in _parts(e) if "bypass" in e[part]
        ),
        "is_measurement": all(
            result["is_measurement"]
            for e in evaluations
            for part in _parts(e)
            for name, result in e[part].items()
            if name in CONDITIONS
        ),
        "stopped_at": [run.metrics["early_stopping"]["chosen_step"] for run in runs if "early_stopping" in run.metrics],
        "training_seconds": _mean([run.metrics["training"]["seconds"] for run in runs]),
    }


@dataclass(frozen=True)
class Difference:
    """One arm minus another, paired by seed, in points.

    Attributes:
        first: the arm.
        second: the arm that is subtracted.
        seeds: how many seeds both have.
        mean: of the differences.
        low: lower limit of the 95 % t-interval over seeds.
        high: upper limit.
        p: two-sided p-value of the paired t-test.
        p_holm: the same after Holm's correction over all pairs that were asked for.
        differ: whether ``p_holm`` is below :data:`LEVEL`.
    """

    first: str
    second: str
    seeds: int
    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    differ: bool


def paired_differences(values: Mapping[str, Mapping[int, float]], pairs: Iterable[tuple[str, str]]) -> list[Difference]:
    """Compares arms by the t-test of differences seed by seed; pairs with fewer than three common seeds are left out.

    ``t = mean / (s / sqrt(n))`` with ``n - 1`` degrees of freedom, ``s`` the standard deviation of the differences;
    where all are equal, p is 1 for differences of zero and 0 for others. Source: Student 1908, Biometrika 6.

    Args:
        values: by arm and seed.
        pairs: first and second arm of each comparison.
    """
    found: dict[str, tuple[str, str, int, float, float, float]] = {}
    for first, second in pairs:
        one, other = values.get(first, {}), values.get(second, {})
        by_seed = [one[seed] - other[seed] for seed in sorted(set(one) & set(other))]
        if len(by_seed) >= ENOUGH_SEEDS:
            found[f"{first} - {second}"] = (first, second, len(by_seed), *_t_test(by_seed))
    corrected = holm({name: values[-1] for name, values in found.items()})
    return [
        Difference(first, second, n, mean, mean - half, mean + half, p, corrected[name], corrected[name] < LEVEL)
        for name, (first, second, n, mean, half, p) in found.items()
    ]


def compare(
    rows: Mapping[str, Figures], pairs: Sequence[tuple[str, str]], value: str = "worst_by_seed"
) -> list[Difference]:
    """The differences between rows of the table, by each seed's worst change or its hearing.

    Args:
        rows: of :func:`row`, by arm.
        pairs: first and second arm of each comparison.
        value: ``worst_by_seed`` or ``audio``.
    """
    by_arm = {name: dict(zip(values["seeds"], _by_seed(values[value]), strict=True)) for name, values in rows.items()}
    return paired_differences(by_arm, pairs)


def markdown(rows: Mapping[str, Figures]) -> str:
    """The rows as Markdown tables, means over seeds: summary, VL rows, text-only questions, documents."""
    blocks = [_table(rows, _SUMMARY)]
    for title, part, sign in (
        ("Questions with an image, change in points", "vl_change", "+.1f"),
        ("Text-only questions, change in points", "text_change", "+.1f"),
        ("Documents, change in bits per byte", "documents_change", "+.4f"),
    ):
        having = {name: values for name, values in rows.items() if values[part]}
        conditions = list(dict.fromkeys(name for values in having.values() for name in values[part]))
        if having:
            columns = {_words(name): _cell_of(part, name, sign) for name in conditions}
            blocks.append(f"{title}:\n\n{_table(having, columns)}")
    if len(kinds := list(dict.fromkeys(kind for values in rows.values() for kind in values["audio_by_kind"]))) > 1:
        columns = {kind: _kind_cell(kind) for kind in kinds}
        blocks.append(f"Audio, by type of question:\n\n{_table(rows, columns)}")
    return "\n\n".join(blocks)


def differences_markdown(found: Sequence[Difference]) -> str:
    """The differences as a Markdown table with what they say."""
    lines = ["| arms | difference | p | p, Holm | |", "|---|---|---|---|---|"]
    lines += [
        f"| {d.first} - {d.second} | {d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f}) | {d.p:.3g} | {d.p_holm:.3g} "
        f"| {'differ' if d.differ else 'not told apart'} |"
        for d in found
    ]
    return "\n".join(lines)


def interval_cell(values: Mapping[str, Any], sign: str = "+.1f") -> str:
    """A mean with its limits."""
    return f"{values['mean']:{sign}} ({values['low']:{sign}} to {values['high']:{sign}})"


def _summary_rate(values: Figures) -> str:
    rate = values["learning_rate"]
    stopped = ", ".join(map(str, values["stopped_at"]))
    text = "?" if rate is None else f"{rate:g}" if isinstance(rate, float) else ", ".join(f"{r:g}" for r in rate)
    return text + (f", steps {stopped}" if stopped else "")


def _audio_of(condition: str) -> Callable[[Figures], str]:
    def cell(values: Figures) -> str:
        found = values["audio_by_condition"].get(condition)
        return "" if found is None else f"{found['mean']:.1f} %"

    return cell


_SUMMARY: dict[str, Callable[[Figures], str]] = {
    "seeds": lambda values: str(len(values["seeds"])),
    "learning rate": _summary_rate,
    "worst": lambda values: interval_cell(values["worst_change"]),
    "under": lambda values: _words(values["worst_condition"]),
    "worst seed": lambda values: f"{values['worst_seed']:+.1f}",
    "audio": lambda values: f"{values['audio']['mean']:.1f} %",
    "audio, loud": _audio_of("loud"),
    "gain": lambda values: f"{values['audio_gain']['mean']:+.1f}",
}


def _kind_cell(kind: str) -> Callable[[Figures], str]:
    return lambda values: f"{values['audio_by_kind'][kind]:.1f} %" if kind in values["audio_by_kind"] else ""


def _cell_of(part: str, condition: str, sign: str) -> Callable[[Figures], str]:
    def cell(values: Figures) -> str:
        found = values[part].get(condition)
        return "" if found is None else interval_cell(found, sign)

    return cell


def _table(rows: Mapping[str, Figures], columns: Mapping[str, Callable[[Figures], str]]) -> str:
    lines = [f"| arm | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    lines += [f"| {name} | {' | '.join(cell(values) for cell in columns.values())} |" for name, values in rows.items()]
    return "\n".join(lines)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _parts(evaluation: Figures) -> list[str]:
    return [part for part in ("vl", "text", "documents") if evaluation.get(part)]


def _by_seed(value: Any) -> list[float]:
    return value["by_seed"] if isinstance(value, Mapping) else value


def _one_or_all(values: Sequence[float | None]) -> Any:
    return values[0] if len(set(values)) == 1 else list(values)


def _by_kind(evaluations: Sequence[Figures]) -> dict[str, float]:
    """Mean over the seeds of matched accuracy in percent, by type of question; none in results of earlier versions."""
    found = [evaluation["audio"]["matched"].get("by_kind", {}) for evaluation in evaluations]
    shared = [kind for kind in found[0] if all(kind in by_kind for by_kind in found)]
    return {kind: 100 * _mean([by_kind[kind] for by_kind in found]) for kind in shared}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _t_test(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, half of the 95 % interval and two-sided p-value."""
    n, mean = len(values), _mean(values)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    if error < 1e-9:  # rounding of equal differences in points
        return mean, 0.0, 1.0 if abs(mean) < 1e-9 else 0.0
    return mean, float(t.ppf(0.975, n - 1)) * error, 2 * float(t.sf(abs(mean) / error, n - 1))


def _over_seeds(estimates: Sequence[Mapping[str, float]], scale: float = 100.0) -> Figures:
    """Mean over seeds in percent, the limits of :func:`~safe_train.report.seeds.over_seeds`, and each seed's mean."""
    interval = over_seeds([Estimate(**estimate) for estimate in estimates])
    scaled = {limit: scale * getattr(interval, limit) for limit in ("mean", "low", "high")}
    return scaled | {"limits": interval.kind, "by_seed": [scale * estimate["mean"] for estimate in estimates]}
