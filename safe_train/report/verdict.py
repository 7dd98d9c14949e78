"""What the figures say in a few words, and what a reader must know before believing them."""

from __future__ import annotations

from collections.abc import Sequence

from safe_train.evaluation.conditions import BYPASS, find_condition, keep_retention, standard_names
from safe_train.report.grouping import VariantRuns
from safe_train.report.standing import Part
from safe_train.report.summary import NOT_RETENTION, SOFT_RETENTION, TEXT_UNMEASURED
from safe_train.report.variants import AnswerCell, VariantFigures

_PARTS: tuple[Part, ...] = ("VL", "text")
_QUESTIONS: dict[Part, str] = {"VL": "VL questions", "text": "text-only questions"}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_SOFT = "soft_retention"


def verdict(variants: Sequence[VariantFigures]) -> str:
    """The sentences of :func:`headline` as one text."""
    return " ".join(headline(variants))


def headline(variants: Sequence[VariantFigures]) -> list[str]:
    """The most important sentence first: who keeps the answers within the margin, and what was no measurement at all.

    With the conditions and the seeds that this rests on, what it leaves of hearing, and what others lose.
    """
    trained = [variant for variant in variants if not variant.damage]
    acting = [variant for variant in trained if any(_has_effect(variant, part) for part in _parts(variant))]
    if not acting:
        return ["Nothing was measured: no run has a condition with audio attached in which the fusion had an effect."]
    void = [variant for variant in acting if variant.standing.not_retention]
    measured = [variant for variant in acting if not variant.standing.not_retention and _worst_has_effect(variant)]
    sentences = [_retention(measured)] if measured else []
    sentences += [_describe_changes(void)] if void else []
    sentences += (
        [] if any(hears(variant) for variant in measured) else [_explain_no_hearing(measured or void or acting)]
    )
    return [sentence for sentence in [*sentences, _text(acting)] if sentence]


def hears(variant: VariantFigures) -> bool:
    """Whether the matched clip helps: the interval of the audio gain lies above zero, and no seed speaks against it."""
    return variant.gain is not None and variant.gain.low > 0.0 and not variant.standing.not_hearing


def keeps(variant: VariantFigures) -> bool:
    """Whether a loss of the margin is ruled out under every condition that was measured with audio and the gate open.

    On VL examples and, where they are a retention measurement, on text-only questions. A variant whose VL examples had
    nothing to lose keeps nothing.
    """
    parts = variant.judged_parts()
    cells = [cell for part in parts for cell in _retention_cells(variant, part)]
    return (
        "VL" in parts
        and bool(keep_retention(variant.vl))
        and BYPASS.name in variant.vl
        and not _find_differing(variant)
        and all(cell.status == "non-inferior" for cell in cells)
    )


def passed_controls(group: VariantRuns) -> list[str]:
    """What a positive control did not fail in some seed; empty for a variant that is none."""
    if not group.damage:
        return []
    passed = [name for member in group.members for name in member.evaluation.result.passed_although_damaged()]
    return list(dict.fromkeys(passed))


def warnings(variants: Sequence[VariantFigures], groups: Sequence[VariantRuns]) -> list[str]:
    """Whatever puts the figures in doubt, worst first."""
    found = [
        f"{variant.name}: the bypass is not the base bit for bit on {_join(_find_differing(variant))}."
        for variant in variants
        if _find_differing(variant)
    ]
    for group in groups:
        if missed := passed_controls(group):
            found.append(f"{group.name}: this positive control did not fail: {_join(missed)}.")
    for variant in variants:
        found += _find_doubts(variant)
    for group in groups:
        found += _find_older_steps(group)
        for name in sorted({name for member in group.members for name in member.run.metrics["training"]["inactive"]}):
            if not group.damage:
                found.append(f"{group.name}: {name} was on but never became active.")
    found += _find_mismatches(groups)
    if not any(variant.damage for variant in variants):
        found.append("No run has a positive control; add one with: safe eval RUN --positive-control")
    return found


def notes(variants: Sequence[VariantFigures]) -> list[str]:
    """What is true of variants by their construction and easily overlooked."""
    found: list[str] = []
    adapted = [variant.name for variant in variants if variant.lora and not variant.damage]
    if adapted:
        verb = "trains" if len(adapted) == 1 else "train"
        found.append(
            f"{_join(adapted)} also {verb} LoRA updates of the language model. They are on whenever the gate is open "
            "and are not scaled by it; the model is the base only with them off."
        )
    if any(variant.variant == _SOFT for variant in variants):
        found.append(f"{SOFT_RETENTION}.")
    renamed = [
        variant.name
        for variant in variants
        if variant.name.startswith(_SOFT) and variant.variant != _SOFT and not variant.damage
    ]
    if renamed:
        found.append(
            f"{_join(renamed)} here is the overfitting ablation's name of KL + Fisher (fisher_retention); the "
            "variant soft_retention is KL alone."
        )
    return found


def _retention(measured: Sequence[VariantFigures]) -> str:
    """Of variants that are a retention measurement."""
    margin = f"{100 * max(variant.worst.margin.margin for variant in measured if variant.worst):g}"
    safe = [variant for variant in measured if keeps(variant) and hears(variant)]
    if not safe:
        heard = [variant for variant in measured if hears(variant)]
        candidates = heard or measured
        best = max(candidates, key=lambda variant: variant.worst.margin.lower_limit if variant.worst else -1.0)
        kept = [variant for variant in measured if keeps(variant)] if not heard else []
        if kept:
            who = f"{_join([variant.name for variant in kept])} {_rules(len(kept))}"
            where = f"{_name_conditions(kept)}, {_count_seeds(kept)}"
            return f"{who} out a loss of {margin} points {where}, but no variant hears."
        who = "No variant that hears rules" if heard else "No variant rules"
        first = f"{who} out a loss of {margin} points {_name_conditions(measured)}"
        closest = (
            f"{best.name}, {_count_seeds([best])}, with {_worst(best)}{_describe_gain(best)}{_describe_size(best)}"
        )
        return f"{first}; the closest is {closest}."
    names = _join([variant.name for variant in safe])
    gains = [100 * variant.gain.mean for variant in safe if variant.gain is not None]
    first = f"{names} {_rules(len(safe))} out a loss of {margin} points {_name_conditions(safe)}, {_count_seeds(safe)}"
    first = f"{first}, while hearing adds {_span(gains)} points"
    others = [variant for variant in measured if not keeps(variant)]
    if not others:
        return f"{first}."
    worst = min(others, key=lambda variant: variant.worst.change.mean if variant.worst else 0.0)
    return f"{first}; {worst.name} loses most, with {_worst(worst)}."


def _describe_changes(variants: Sequence[VariantFigures]) -> str:
    """Of variants that had nothing to lose: how much changed is the result."""
    first, *others = variants
    said = [f"{first.name}: {NOT_RETENTION}: {first.standing.not_retention}"]
    for variant in others:
        cells = _retention_cells(variant, "VL")
        changed, kl = max(cell.answer_change_rate for cell in cells), max(cell.kl for cell in cells)
        said.append(
            f"{variant.name} likewise: up to {100 * changed:.1f} % of the answers changed, KL of up to {kl:.3g} nats"
        )
    return f"{'; '.join(said)}."


def _explain_no_hearing(variants: Sequence[VariantFigures]) -> str:
    """What to do where nothing shows that any variant hears."""
    told = [(variant, variant.standing.not_hearing) for variant in variants if variant.standing.not_hearing]
    if not told:
        return ""
    variant, reason = max(told, key=lambda pair: pair[0].gain.mean if pair[0].gain is not None else -1.0)
    if len(variants) == 1:
        return f"No evidence that {variant.name} hears: {reason}."
    return f"No evidence that any variant hears; the largest gain is that of {variant.name}: {reason}."


def _text(variants: Sequence[VariantFigures]) -> str:
    """What the first sentence leaves open of text-only answers, and what became of documents."""
    parts = []
    missing = [variant.name for variant in variants if not variant.standing.protected_text]
    if len(missing) == len(variants):
        parts.append(f"{TEXT_UNMEASURED[0].upper()}{TEXT_UNMEASURED[1:]}.")
    elif missing:
        parts.append(f"Of {_join(missing)}, {TEXT_UNMEASURED}.")
    void = [variant for variant in variants if variant.text and variant.standing.not_text_retention]
    if void:
        variant = max(void, key=lambda variant: max(cell.answer_change_rate for cell in variant.text.values()))
        whose = f" of {variant.name}" if len(variants) > 1 else ""
        parts.append(f"Text-only questions{whose}: {NOT_RETENTION}: {variant.standing.not_text_retention}.")
    documents = [
        (cell.change.mean, name, variant)
        for variant in variants
        for name, cell in keep_retention(variant.documents).items()
        if cell.is_measurement
    ]
    if documents:
        change, name, variant = max(documents, key=lambda found: found[0])
        whose = f" with {variant.name}" if len(variants) > 1 else ""
        base = variant.base_bits_per_byte
        of = f" over the base's {base.mean:.3f}" if base is not None else ""
        parts.append(f"Documents cost at most {change:+.3f} bits per byte{of}, under {name}{whose}.")
    return " ".join(parts)


def _name_conditions(variants: Sequence[VariantFigures]) -> str:
    """The conditions that variants were measured under, "every" only where all of the standard six were."""
    parts: list[Part] = [part for part in _PARTS if all(part in variant.judged_parts() for variant in variants)]
    # A variant without text-only examples beside one with them: only what all have is claimed of all.
    names: dict[Part, list[str]] = {
        part: [name for name in standard_names() if all(_has(variant, part, name) for variant in variants)]
        for part in parts
    }
    more = any(
        _has(variant, part, name)
        for variant in variants
        for part in parts
        for name in standard_names()
        if name not in names[part]
    )
    questions = _join([_QUESTIONS[part] for part in parts])
    if len({tuple(found) for found in names.values()}) == 1:
        return f"under {_conditions(next(iter(names.values())), more=more)} on {questions}"
    said = [f"under {_conditions(found, more=more)} on {_QUESTIONS[part]}" for part, found in names.items()]
    return _join(said)


def _conditions(names: Sequence[str], *, more: bool) -> str:
    """The conditions by name, and that there were no others; ``more``: some variant was measured under others too."""
    if len(names) == len(standard_names()):
        return "every condition"
    if not names:
        return "none of the standard conditions"
    measured = (
        "that all were measured under" if more else "that was measured" if len(names) == 1 else "that were measured"
    )
    return f"{_join(names)}, the {'only one' if len(names) == 1 else _spell(len(names))} {measured},"


def _spell(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def _has(variant: VariantFigures, part: Part, name: str) -> bool:
    return name in (variant.standing.measured if part == "VL" else variant.standing.measured_text)


def _count_seeds(variants: Sequence[VariantFigures]) -> str:
    low, high = (choose(len(variant.seeds) for variant in variants) for choose in (min, max))
    if low == high:
        return "with one seed" if low == 1 else f"with {low} seeds"
    return f"with {'one' if low == 1 else low} to {high} seeds"


def _rules(count: int) -> str:
    return "rules" if count == 1 else "rule"


def _parts(variant: VariantFigures) -> list[Part]:
    return ["VL", "text"] if variant.text else ["VL"]


def _heard(variant: VariantFigures, part: Part) -> dict[str, AnswerCell]:
    return keep_retention(variant.answers(part))


def _retention_cells(variant: VariantFigures, part: Part) -> list[AnswerCell]:
    return list(_heard(variant, part).values())


def _has_effect(variant: VariantFigures, part: Part) -> bool:
    """Whether the fusion had an effect under some condition with audio attached and the gate open."""
    return any(cell.is_measurement for cell in _retention_cells(variant, part))


def _worst_has_effect(variant: VariantFigures) -> bool:
    return variant.worst is not None and variant.worst.is_measurement


def _find_differing(variant: VariantFigures) -> list[str]:
    """The examples on which the bypass is not the base bit for bit."""
    parts = {"VL examples": variant.vl, "text-only questions": variant.text, "documents": variant.documents}
    return [rows for rows, cells in parts.items() if BYPASS.name in cells and not cells[BYPASS.name].bit_equal]


def _find_doubts(variant: VariantFigures) -> list[str]:
    """What a variant's figures cannot be taken for."""
    found: list[str] = []
    for rows, cells in (("", variant.vl), ("text-only questions, ", variant.text), ("documents, ", variant.documents)):
        names = [name for name, cell in cells.items() if find_condition(name).attach and not cell.is_measurement]
        if names:
            what = f"the fusion had no effect under {rows}{_join(names)}"
            found.append(f"{variant.name}: {what}; this is not a retention measurement.")
    stands = variant.standing
    if stands.not_retention and _has_effect(variant, "VL"):
        found.append(f"{variant.name}: {NOT_RETENTION}: {stands.not_retention}.")
    if stands.not_text_retention and _has_effect(variant, "text"):
        found.append(f"{variant.name}: text-only questions: {NOT_RETENTION}: {stands.not_text_retention}.")
    if stands.not_hearing and not variant.damage:
        found.append(f"{variant.name}: no evidence that it hears: {stands.not_hearing}.")
    return found


def _find_older_steps(group: VariantRuns) -> list[str]:
    """Evaluations of weights that the run has gone on from."""
    found: list[str] = []
    for member in group.members:
        step, steps = member.evaluation.step, member.run.metrics["training"]["steps"]
        if step != steps:
            hint = f"safe eval {member.run.folder}"
            found.append(
                f"{group.name}, seed {member.seed}: the largest evaluation is of step {step} of {steps}; evaluate the "
                f"last step on as many examples with: {hint}"
            )
    return found


def _find_mismatches(groups: Sequence[VariantRuns]) -> list[str]:
    """Bases or examples that differ between variants which are compared."""
    found: list[str] = []
    bases = {member.evaluation.key["base"]["sha256"] for group in groups for member in group.members}
    if len(bases) > 1:
        found.append(f"The runs have {len(bases)} different bases; compare variants of one base only.")
    for seed in sorted({member.seed for group in groups for member in group.members}):
        of_seed = [m.evaluation for group in groups for m in group.members if m.seed == seed]
        for rows, key in (("VL", "vl_rows_sha256"), ("text-only", "text_rows_sha256")):
            sets = {evaluation.key.get(key) for evaluation in of_seed}
            if len(sets) > 1:
                found.append(
                    f"The runs of seed {seed} were evaluated on {len(sets)} different sets of {rows} examples."
                )
        contents = {evaluation.key.get("vl_files_sha256") for evaluation in of_seed} - {None}
        if len(contents) > 1 and len({evaluation.key.get("vl_rows_sha256") for evaluation in of_seed}) == 1:
            found.append(f"The images of the VL examples were replaced between the runs of seed {seed}.")
    seeds = {tuple(member.seed for member in group.members) for group in groups if not group.damage}
    if len(seeds) > 1:
        found.append(
            "The variants have different seeds, and seeds may differ more than variants: compare over common seeds."
        )
    return found


def _worst(variant: VariantFigures) -> str:
    assert variant.worst is not None
    assert variant.worst_part is not None
    loss = -100 * variant.worst.change.mean
    if loss <= 0.0:
        return "no loss under any condition that was measured"
    points = f"{loss:.1f}" if loss >= 0.05 else "less than 0.05"
    return f"a loss of {points} points on {_QUESTIONS[variant.worst_part]} under {variant.worst_name}"


def _describe_size(variant: VariantFigures) -> str:
    """What the number of questions can prove at all."""
    assert variant.worst is not None
    rows, needed = min(variant.worst.rows), variant.worst.margin.rows_needed
    return f", on {rows:,} questions of {needed:,} needed" if rows < needed else ""


def _describe_gain(variant: VariantFigures) -> str:
    return f" and an audio gain of {100 * variant.gain.mean:.1f} points" if variant.gain is not None else ""


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
