"""What the figures say in one sentence, and what a reader must know before believing it."""

from __future__ import annotations

from collections.abc import Sequence

from safe_train.evaluation.results import is_retention_condition
from safe_train.report.arms import Arm
from safe_train.report.grouping import Group


def verdict(arms: Sequence[Arm]) -> str:
    """One sentence: who keeps the base's answers within the margin, what that leaves of hearing, what others lose."""
    trained = [arm for arm in arms if not arm.damage]
    measured = [arm for arm in trained if arm.worst is not None and arm.worst.is_measurement]
    if not measured:
        return "Nothing was measured: no run has a condition with audio attached in which the fusion had an effect."
    margin = f"{100 * max(arm.worst.margin.margin for arm in measured if arm.worst):g}"
    safe = [arm for arm in measured if keeps(arm) and hears(arm)]
    if not safe:
        best = max(measured, key=lambda arm: (hears(arm), arm.worst.margin.lower_limit if arm.worst else -1.0))
        first = f"No arm that hears rules out a loss of {margin} points under every condition"
        return f"{first}; closest comes {best.name}, with {_worst(best)}{_hearing(best)}{_rows(best)}."
    names = _listed([arm.name for arm in safe])
    gains = [100 * arm.gain.mean for arm in safe if arm.gain is not None]
    first = f"{names} rule{'s' if len(safe) == 1 else ''} out a loss of {margin} points under every condition"
    first = f"{first} while hearing adds {_from_to(gains)} points"
    others = [arm for arm in measured if not keeps(arm)]
    if not others:
        return f"{first}."
    worst = min(others, key=lambda arm: arm.worst.change.mean if arm.worst else 0.0)
    return f"{first}; most is lost by {worst.name}, with {_worst(worst)}."


def hears(arm: Arm) -> bool:
    """Whether the matched clip helps: the interval of the audio gain lies above zero."""
    return arm.gain is not None and arm.gain.low > 0.0


def keeps(arm: Arm) -> bool:
    """Whether a loss of the margin is ruled out under every condition with audio attached and the gate open."""
    cells = [cell for name, cell in arm.vl.items() if is_retention_condition(name)]
    bypass = arm.vl.get("bypass")
    return bool(cells) and all(cell.status == "non-inferior" for cell in cells) and bool(bypass and bypass.bit_equal)


def passed_controls(group: Group) -> list[str]:
    """What a positive control did not fail in some seed; empty for an arm that is none."""
    if not group.damage:
        return []
    passed = [name for member in group.members for name in member.evaluation.result.passed_although_damaged()]
    return list(dict.fromkeys(passed))


def warnings(arms: Sequence[Arm], groups: Sequence[Group]) -> list[str]:
    """Whatever puts the figures in doubt, worst first."""
    found = [f"{arm.name}: the bypass is not the base bit for bit." for arm in arms if _bypass_differs(arm)]
    for group in groups:
        if missed := passed_controls(group):
            found.append(f"{group.name}: this positive control did not fail: {_listed(missed)}.")
    found += [_not_measured(arm) for arm in arms if _not_measured(arm)]
    for group in groups:
        for name in sorted({name for member in group.members for name in member.run.metrics["training"]["inactive"]}):
            if not group.damage:
                found.append(f"{group.name}: {name} was on but never became active.")
    found += _unlike(groups)
    if not any(arm.damage for arm in arms):
        found.append("There is no positive control among these runs; make one with: safe eval RUN --positive-control")
    return found


def notes(arms: Sequence[Arm]) -> list[str]:
    """What is true of arms by their construction and easily overlooked."""
    adapted = [arm.name for arm in arms if arm.lora and not arm.damage]
    if not adapted:
        return []
    verb = "trains" if len(adapted) == 1 else "train"
    return [
        f"{_listed(adapted)} also {verb} low-rank updates of the language model. They are on once the gate is open at "
        "all; the gate does not scale them, and only with them switched off is the model the base."
    ]


def _bypass_differs(arm: Arm) -> bool:
    return "bypass" in arm.vl and not arm.vl["bypass"].bit_equal


def _not_measured(arm: Arm) -> str:
    names = [name for name, cell in arm.vl.items() if cell.status == "not a measurement"]
    return (
        f"{arm.name}: the fusion had no effect under {_listed(names)}; this is not a retention measurement."
        if names
        else ""
    )


def _unlike(groups: Sequence[Group]) -> list[str]:
    """Bases or rows that differ between arms which are compared."""
    found: list[str] = []
    bases = {member.evaluation.key["base"]["sha256"] for group in groups for member in group.members}
    if len(bases) > 1:
        found.append(f"The runs have {len(bases)} different bases; compare arms of one base only.")
    for seed in sorted({member.seed for group in groups for member in group.members}):
        rows = {m.evaluation.key["vl_rows_sha256"] for group in groups for m in group.members if m.seed == seed}
        if len(rows) > 1:
            found.append(f"The runs of seed {seed} were evaluated on {len(rows)} different sets of VL rows.")
    seeds = {tuple(member.seed for member in group.members) for group in groups if not group.damage}
    if len(seeds) > 1:
        found.append("The arms have different seeds, and seeds differ more than arms may: compare over common ones.")
    return found


def _worst(arm: Arm) -> str:
    assert arm.worst is not None
    loss = -100 * arm.worst.change.mean
    if loss <= 0.0:
        return "no loss under any condition"
    return f"a loss of {f'{loss:.1f}' if loss >= 0.05 else 'less than 0.05'} points under {arm.worst_condition}"


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
