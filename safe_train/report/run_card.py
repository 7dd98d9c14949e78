"""What the figures depend on: hashes, versions, seeds, settings, examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safe_train.io.records import from_plain
from safe_train.report.grouping import Member, VariantRuns, settings
from safe_train.runs.environment import Machine


@dataclass(frozen=True)
class RunCard:
    """A run, or the positive control made from it.

    Attributes:
        arm: its variant.
        seed: its seed.
        folder: of the run.
        evaluation: folder of the answers, in the run's.
        step: of the checkpoint that was evaluated.
        finished_at: end of the evaluation, local time.
        vl_rows: rows of the condition with the most.
        text_rows: the same for text-only questions and documents.
        audio_rows: the same for audio examples.
        data: what the examples are: procedural, or the sources' names.
        not_shown: examples of the run's other evaluations, which are smaller or older.
        margin: the loss that is accepted.
        max_new_tokens: longest answer.
        batch_size: examples per batch of the evaluation.
        sha256: by what was hashed.
        versions: by package.
        machine: what it was trained on; None where a run does not say.
    """

    arm: str
    seed: int
    folder: str
    evaluation: str
    step: int
    finished_at: str
    vl_rows: int
    text_rows: int
    audio_rows: int
    data: str
    not_shown: list[str]
    margin: float
    max_new_tokens: int
    batch_size: int
    sha256: dict[str, str]
    versions: dict[str, str]
    machine: Machine | None


@dataclass(frozen=True)
class Settings:
    """Settings of the variants.

    Attributes:
        shared: the same in every variant, dotted.
        by_arm: the others, by variant.
    """

    shared: dict[str, Any]
    by_arm: dict[str, dict[str, Any]]


def run_cards(groups: Sequence[VariantRuns]) -> list[RunCard]:
    """One a run and evaluation, in the order of the variants."""
    return [_build_card(group, member) for group in groups for member in group.members]


def compare_settings(groups: Sequence[VariantRuns]) -> Settings:
    """What the variants have in common and where they differ, with what was derived from the registry of variants."""
    by_arm = {group.name: _describe(group.members[0]) for group in groups if not group.damage}
    keys = list(dict.fromkeys(key for values in by_arm.values() for key in values))
    differing = [key for key in keys if len({json.dumps(values.get(key)) for values in by_arm.values()}) > 1]
    first = next(iter(by_arm.values()))
    return Settings(
        shared={key: first[key] for key in keys if key not in differing},
        by_arm={name: {key: values.get(key) for key in differing} for name, values in by_arm.items()},
    )


def _describe(member: Member) -> dict[str, Any]:
    effective: dict[str, Any] = member.run.described.get("effective", {})
    derived = {
        f"effective.{section}.{key}": value
        for section, values in effective.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if key != "init_seed"
    }
    return settings(member.run.config) | derived


def _build_card(group: VariantRuns, member: Member) -> RunCard:
    key, result, rows = member.evaluation.key, member.evaluation.result, member.evaluation.rows
    data = member.run.config.data
    hashes = {
        "trained parts": key["trained_parts_sha256"],
        f"base {key['base']['source']}": key["base"]["sha256"],
        "VL rows": key["vl_rows_sha256"],
        "audio rows": key["audio_rows_sha256"],
    }
    hashes |= {"text-only rows": key["text_rows_sha256"]} if "text_rows_sha256" in key else {}
    hashes |= {f"audio encoder {encoder['source']}": encoder["sha256"] for encoder in key["audio_encoders"]}
    return RunCard(
        arm=group.name,
        seed=member.seed,
        folder=str(member.run.folder),
        evaluation=str(member.evaluation.folder.relative_to(member.run.folder)),
        step=key["step"],
        finished_at=member.evaluation.finished_at,
        vl_rows=rows.vl,
        text_rows=rows.text,
        audio_rows=rows.audio,
        data="procedural" if member.run.is_procedural else f"{data.val_vl_source}, {data.val_audio_source}",
        not_shown=[] if group.damage else [str(other.rows) for other in member.run.not_shown],
        margin=max((cell.non_inferiority.margin for cell in result.vl.values()), default=0.0),
        max_new_tokens=key["max_new_tokens"],
        batch_size=key["batch_size"],
        sha256=hashes,
        versions=key["versions"],
        machine=_read_machine(member.run.described.get("machine")),
    )


def _read_machine(written: Any) -> Machine | None:
    try:
        return from_plain(Machine, written)
    except ValueError:
        return None
