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
    safe = [arm for arm in measured if keeps(arm)]
    others = [arm for arm in measured if arm not in safe]
    if not safe:
        best = max(measured, key=lambda arm: arm.worst.change.mean if arm.worst else 0.0)
        return f"No arm rules out a loss of {margin} points under every condition; closest comes {_loss(best)}{_hearing(best)}."
    names = _listed([arm.name for arm in safe])
    gains = [100 * arm.gain.mean for arm in safe if arm.gain is not None]
    hearing = f" while hearing adds {_from_to(gains)} points" if gains else ""
    first = f"{names} rule{'s' if len(safe) == 1 else ''} out a loss of {margin} points under every condition{hearing}"
    if not others:
        return f"{first}."
    worst = min(others, key=lambda arm: arm.worst.change.mean if arm.worst else 0.0)
    return f"{first}; {_loss(worst)}."


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
    """What is true of an arm by its construction and easily overlooked."""
    return [
        f"{arm.name} also trains low-rank updates of the language model. They are on as soon as the gate is open at all, "
        "so the gate does not scale them, and without the SAFE parts this model is the base only with them switched off."
        for arm in arms
        if arm.lora and not arm.damage
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


def _loss(arm: Arm) -> str:
    assert arm.worst is not None
    change = 100 * arm.worst.change.mean
    return f"{arm.name} {'loses' if change < 0 else 'gains'} {abs(change):.1f} points under {arm.worst_condition}"


def _hearing(arm: Arm) -> str:
    return f" while hearing adds {100 * arm.gain.mean:.1f}" if arm.gain is not None else ""


def _from_to(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
