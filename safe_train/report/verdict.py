"""What the figures say in a few words, and what a reader must know before believing them."""

from __future__ import annotations

from collections.abc import Sequence

from safe_train.evaluation.meaning import STANDARD
from safe_train.evaluation.results import is_retention_condition
from safe_train.report.arms import AnswerCell, Arm
from safe_train.report.grouping import Group
from safe_train.report.standing import Part
from safe_train.report.summary import NOT_RETENTION, SOFT_RETENTION, TEXT_UNMEASURED

_PARTS: tuple[Part, ...] = ("VL", "text")
_QUESTIONS: dict[Part, str] = {"VL": "VL questions", "text": "text-only questions"}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_SOFT = "soft_retention"


def verdict(arms: Sequence[Arm]) -> str:
    """The sentences of :func:`headline` as one text."""
    return " ".join(headline(arms))


def headline(arms: Sequence[Arm]) -> list[str]:
    """The most important sentence first: who keeps the answers within the margin, and what was no measurement at all.

    With the conditions and the seeds that this rests on, what it leaves of hearing, and what others lose.
    """
    trained = [arm for arm in arms if not arm.damage]
    acting = [arm for arm in trained if any(_acted(arm, part) for part in _parts(arm))]
    if not acting:
        return ["Nothing was measured: no run has a condition with audio attached in which the fusion had an effect."]
    void = [arm for arm in acting if arm.standing.not_retention]
    measured = [arm for arm in acting if not arm.standing.not_retention and _worst_acted(arm)]
    sentences = [_retention(measured)] if measured else []
    sentences += [_void(void)] if void else []
    sentences += [] if any(hears(arm) for arm in measured) else [_deaf(measured or void or acting)]
    return [sentence for sentence in [*sentences, _text(acting)] if sentence]


def hears(arm: Arm) -> bool:
    """Whether the matched clip helps: the interval of the audio gain lies above zero, and no seed speaks against it."""
    return arm.gain is not None and arm.gain.low > 0.0 and not arm.standing.not_hearing


def keeps(arm: Arm) -> bool:
    """Whether a loss of the margin is ruled out under every condition that was measured with audio and the gate open.

    On VL rows and, where they are a retention measurement, on text-only questions. An arm whose VL rows had nothing to
    lose keeps nothing.
    """
    parts = arm.judged_parts()
    cells = [cell for part in parts for cell in _opened(arm, part)]
    return (
        "VL" in parts
        and any(is_retention_condition(name) for name in arm.vl)
        and "bypass" in arm.vl
        and not _differing(arm)
        and all(cell.status == "non-inferior" for cell in cells)
    )


def passed_controls(group: Group) -> list[str]:
    """What a positive control did not fail in some seed; empty for an arm that is none."""
    if not group.damage:
        return []
    passed = [name for member in group.members for name in member.evaluation.result.passed_although_damaged()]
    return list(dict.fromkeys(passed))


def warnings(arms: Sequence[Arm], groups: Sequence[Group]) -> list[str]:
    """Whatever puts the figures in doubt, worst first."""
    found = [
        f"{arm.name}: the bypass is not the base bit for bit on {_listed(_differing(arm))}."
        for arm in arms
        if _differing(arm)
    ]
    for group in groups:
        if missed := passed_controls(group):
            found.append(f"{group.name}: this positive control did not fail: {_listed(missed)}.")
    for arm in arms:
        found += _doubts(arm)
    for group in groups:
        found += _older_steps(group)
        for name in sorted({name for member in group.members for name in member.run.metrics["training"]["inactive"]}):
            if not group.damage:
                found.append(f"{group.name}: {name} was on but never became active.")
    found += _unlike(groups)
    if not any(arm.damage for arm in arms):
        found.append("There is no positive control among these runs; make one with: safe eval RUN --positive-control")
    return found


def notes(arms: Sequence[Arm]) -> list[str]:
    """What is true of arms by their construction and easily overlooked."""
    found: list[str] = []
    adapted = [arm.name for arm in arms if arm.lora and not arm.damage]
    if adapted:
        verb = "trains" if len(adapted) == 1 else "train"
        found.append(
            f"{_listed(adapted)} also {verb} low-rank updates of the language model. They are on once the gate is open "
            "at all; the gate does not scale them, and only with them switched off is the model the base."
        )
    if any(arm.variant == _SOFT for arm in arms):
        found.append(f"{SOFT_RETENTION}.")
    renamed = [arm.name for arm in arms if arm.name.startswith(_SOFT) and arm.variant != _SOFT and not arm.damage]
    if renamed:
        found.append(
            f"{_listed(renamed)} here is the overfitting ablation's name of KL + Fisher (fisher_retention); the "
            "variant soft_retention is KL alone."
        )
    return found


def _retention(measured: Sequence[Arm]) -> str:
    """Of arms that are a retention measurement."""
    margin = f"{100 * max(arm.worst.margin.margin for arm in measured if arm.worst):g}"
    safe = [arm for arm in measured if keeps(arm) and hears(arm)]
    if not safe:
        heard = [arm for arm in measured if hears(arm)]
        candidates = heard or measured
        best = max(candidates, key=lambda arm: arm.worst.margin.lower_limit if arm.worst else -1.0)
        kept = [arm for arm in measured if keeps(arm)] if not heard else []
        if kept:
            names, verb = _listed([arm.name for arm in kept]), _rules(len(kept))
            return f"{names} {verb} out a loss of {margin} points {_where(kept)}, {_seeds(kept)}, but no arm hears."
        who = "No arm that hears rules" if heard else "No arm rules"
        first = f"{who} out a loss of {margin} points {_where(measured)}"
        return (
            f"{first}; closest comes {best.name}, {_seeds([best])}, with {_worst(best)}{_hearing(best)}{_rows(best)}."
        )
    names = _listed([arm.name for arm in safe])
    gains = [100 * arm.gain.mean for arm in safe if arm.gain is not None]
    first = f"{names} {_rules(len(safe))} out a loss of {margin} points {_where(safe)}, {_seeds(safe)}"
    first = f"{first}, while hearing adds {_from_to(gains)} points"
    others = [arm for arm in measured if not keeps(arm)]
    if not others:
        return f"{first}."
    worst = min(others, key=lambda arm: arm.worst.change.mean if arm.worst else 0.0)
    return f"{first}; most is lost by {worst.name}, with {_worst(worst)}."


def _void(arms: Sequence[Arm]) -> str:
    """Of arms that had nothing to lose: how much changed is the result."""
    first, *others = arms
    said = [f"{first.name}: {NOT_RETENTION}: {first.standing.not_retention}"]
    for arm in others:
        cells = _opened(arm, "VL")
        changed, kl = max(cell.answer_change_rate for cell in cells), max(cell.kl for cell in cells)
        said.append(
            f"{arm.name} likewise: up to {100 * changed:.1f} % of the answers changed, KL of up to {kl:.3g} nats"
        )
    return f"{'; '.join(said)}."


def _deaf(arms: Sequence[Arm]) -> str:
    """What to do where nothing shows that any arm hears."""
    told = [(arm, arm.standing.not_hearing) for arm in arms if arm.standing.not_hearing]
    if not told:
        return ""
    arm, reason = max(told, key=lambda pair: pair[0].gain.mean if pair[0].gain is not None else -1.0)
    if len(arms) == 1:
        return f"Nothing shows that {arm.name} hears: {reason}."
    return f"Nothing shows that any arm hears; of the one that gains most, {arm.name}: {reason}."


def _text(arms: Sequence[Arm]) -> str:
    """What the first sentence leaves open of text-only answers, and what became of documents."""
    parts = []
    missing = [arm.name for arm in arms if not arm.standing.protected_text]
    if len(missing) == len(arms):
        parts.append(f"{TEXT_UNMEASURED[0].upper()}{TEXT_UNMEASURED[1:]}.")
    elif missing:
        parts.append(f"Of {_listed(missing)}, {TEXT_UNMEASURED}.")
    void = [arm for arm in arms if arm.text and arm.standing.not_text_retention]
    if void:
        arm = max(void, key=lambda arm: max(cell.answer_change_rate for cell in arm.text.values()))
        whose = f" of {arm.name}" if len(arms) > 1 else ""
        parts.append(f"Text-only questions{whose}: {NOT_RETENTION}: {arm.standing.not_text_retention}.")
    documents = [
        (cell.change.mean, name, arm)
        for arm in arms
        for name, cell in arm.documents.items()
        if is_retention_condition(name) and cell.is_measurement
    ]
    if documents:
        change, name, arm = max(documents, key=lambda found: found[0])
        whose = f" by {arm.name}" if len(arms) > 1 else ""
        base = arm.base_bits_per_byte
        of = f" on the base's {base.mean:.3f}" if base is not None else ""
        parts.append(f"Documents take at most {change:+.3f} bits per byte{of}, under {name}{whose}.")
    return " ".join(parts)


def _where(arms: Sequence[Arm]) -> str:
    """The conditions that arms were measured under, "every" only where all of the standard six were."""
    parts: list[Part] = [part for part in _PARTS if all(part in arm.judged_parts() for arm in arms)]
    # An arm without text-only rows beside one with them: only what all have is claimed of all.
    names: dict[Part, list[str]] = {
        part: [name for name in STANDARD if all(_has(arm, part, name) for arm in arms)] for part in parts
    }
    more = any(_has(arm, part, name) for arm in arms for part in parts for name in STANDARD if name not in names[part])
    rows = _listed([_QUESTIONS[part] for part in parts])
    if len({tuple(found) for found in names.values()}) == 1:
        return f"under {_conditions(next(iter(names.values())), more=more)} on {rows}"
    said = [f"under {_conditions(found, more=more)} on {_QUESTIONS[part]}" for part, found in names.items()]
    return _listed(said)


def _conditions(names: Sequence[str], *, more: bool) -> str:
    """The conditions by name, and that there were no others; ``more``: some arm was measured under others too."""
    if len(names) == len(STANDARD):
        return "every condition"
    if not names:
        return "none of the standard conditions"
    measured = (
        "that all were measured under" if more else "that was measured" if len(names) == 1 else "that were measured"
    )
    return f"{_listed(names)}, the {'only one' if len(names) == 1 else _NUMBERS[len(names)]} {measured},"


def _has(arm: Arm, part: Part, name: str) -> bool:
    return name in (arm.standing.measured if part == "VL" else arm.standing.measured_text)


def _seeds(arms: Sequence[Arm]) -> str:
    low, high = (choose(len(arm.seeds) for arm in arms) for choose in (min, max))
    if low == high:
        return "with one seed" if low == 1 else f"with {low} seeds"
    return f"with {'one' if low == 1 else low} to {high} seeds"


def _rules(count: int) -> str:
    return "rules" if count == 1 else "rule"


def _parts(arm: Arm) -> list[Part]:
    return ["VL", "text"] if arm.text else ["VL"]


def _heard(arm: Arm, part: Part) -> dict[str, AnswerCell]:
    return {name: cell for name, cell in arm.answers(part).items() if is_retention_condition(name)}


def _opened(arm: Arm, part: Part) -> list[AnswerCell]:
    return list(_heard(arm, part).values())


def _acted(arm: Arm, part: Part) -> bool:
    """Whether the fusion had an effect under some condition with audio attached and the gate open."""
    return any(cell.is_measurement for cell in _opened(arm, part))


def _worst_acted(arm: Arm) -> bool:
    return arm.worst is not None and arm.worst.is_measurement


def _differing(arm: Arm) -> list[str]:
    """The rows on which the bypass is not the base bit for bit."""
    parts = {"VL rows": arm.vl, "text-only questions": arm.text, "documents": arm.documents}
    return [rows for rows, cells in parts.items() if "bypass" in cells and not cells["bypass"].bit_equal]


def _doubts(arm: Arm) -> list[str]:
    """What an arm's figures cannot be taken for."""
    found: list[str] = []
    for rows, cells in (("", arm.vl), ("text-only questions, ", arm.text), ("documents, ", arm.documents)):
        names = [name for name, cell in cells.items() if name != "bypass" and not cell.is_measurement]
        if names:
            what = f"the fusion had no effect under {rows}{_listed(names)}"
            found.append(f"{arm.name}: {what}; this is not a retention measurement.")
    stands = arm.standing
    if stands.not_retention and _acted(arm, "VL"):
        found.append(f"{arm.name}: {NOT_RETENTION}: {stands.not_retention}.")
    if stands.not_text_retention and _acted(arm, "text"):
        found.append(f"{arm.name}: text-only questions: {NOT_RETENTION}: {stands.not_text_retention}.")
    if stands.not_hearing and not arm.damage:
        found.append(f"{arm.name}: nothing shows that it hears: {stands.not_hearing}.")
    return found


def _older_steps(group: Group) -> list[str]:
    """Evaluations of weights that the run has gone on from."""
    found: list[str] = []
    for member in group.members:
        step, steps = member.evaluation.step, member.run.metrics["training"]["steps"]
        if step != steps:
            hint = f"safe eval {member.run.folder}"
            found.append(
                f"{group.name}, seed {member.seed}: the evaluation with the most rows is of step {step}, and the run "
                f"has {steps}; evaluate it on as many rows with: {hint}"
            )
    return found


def _unlike(groups: Sequence[Group]) -> list[str]:
    """Bases or rows that differ between arms which are compared."""
    found: list[str] = []
    bases = {member.evaluation.key["base"]["sha256"] for group in groups for member in group.members}
    if len(bases) > 1:
        found.append(f"The runs have {len(bases)} different bases; compare arms of one base only.")
    for seed in sorted({member.seed for group in groups for member in group.members}):
        of_seed = [m.evaluation for group in groups for m in group.members if m.seed == seed]
        for rows, key in (("VL", "vl_rows_sha256"), ("text-only", "text_rows_sha256")):
            sets = {evaluation.key.get(key) for evaluation in of_seed}
            if len(sets) > 1:
                found.append(f"The runs of seed {seed} were evaluated on {len(sets)} different sets of {rows} rows.")
        contents = {evaluation.key.get("vl_files_sha256") for evaluation in of_seed} - {None}
        if len(contents) > 1 and len({evaluation.key.get("vl_rows_sha256") for evaluation in of_seed}) == 1:
            found.append(f"The images of the VL rows were replaced between the runs of seed {seed}.")
    seeds = {tuple(member.seed for member in group.members) for group in groups if not group.damage}
    if len(seeds) > 1:
        found.append("The arms have different seeds, and seeds differ more than arms may: compare over common ones.")
    return found


def _worst(arm: Arm) -> str:
    assert arm.worst is not None
    assert arm.worst_part is not None
    loss = -100 * arm.worst.change.mean
    if loss <= 0.0:
        return "no loss under any condition that was measured"
    points = f"{loss:.1f}" if loss >= 0.05 else "less than 0.05"
    return f"a loss of {points} points on {_QUESTIONS[arm.worst_part]} under {arm.worst_name}"


def _rows(arm: Arm) -> str:
    """What the number of questions can prove at all."""
    assert arm.worst is not None
    rows, needed = min(arm.worst.rows), arm.worst.margin.rows_needed
    return f", on {rows:,} questions where {needed:,} are needed" if rows < needed else ""


def _hearing(arm: Arm) -> str:
    return f" and {100 * arm.gain.mean:.1f} points gained by hearing" if arm.gain is not None else ""


def _from_to(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
