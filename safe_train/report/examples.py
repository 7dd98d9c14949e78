"""Rows to look at: answers that changed first, then some that did not, then clips; the same choice at every call."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safe_train.data.example import DOCUMENT
from safe_train.evaluation.conditions import AUDIO_CONDITIONS, VL_CONDITIONS
from safe_train.evaluation.predictions import BASE, Kind, Prediction, PredictionStore
from safe_train.report.grouping import Group, Member
from safe_train.report.media import Clip, Picture, clip, picture

Change = Literal["right to wrong", "wrong to right", "unchanged", "heard"]

CHANGED, CHANGED_TEXT, UNCHANGED, HEARD = 6, 3, 3, 3
"""How many examples of each kind at most: changed answers on VL rows and on text-only questions, then the others."""

PARTS: dict[Kind, str] = {"vl": "VL", "text": "text", "audio": "audio"}
"""Names of the kinds of rows on the page."""

_A_CONDITION = 6  # how many answers of an arm under one condition are candidates


@dataclass(frozen=True)
class AnsweredExample:
    """A row with what the base and SAFE say.

    Attributes:
        arm: its arm.
        seed: of the run.
        part: ``VL``, ``text`` or ``audio``.
        condition: what was heard.
        change: what became of the answer; ``heard`` for an audio row, where the base has nothing to say.
        row_id: of the row.
        kind: its question type.
        question: as it was put.
        references: each once, the most frequent first.
        picture: the image, or None.
        clip: what was heard.
        base: the base's answer; for an audio row SAFE's answer in silence.
        safe: SAFE's answer.
        base_score: VQA accuracy, or by the metric of audio rows.
        safe_score: the same of SAFE's answer.
    """

    arm: str
    seed: int
    part: str
    condition: str
    change: Change
    row_id: str
    kind: str
    question: str
    references: list[str]
    picture: Picture | None
    clip: Clip
    base: str
    safe: str
    base_score: float
    safe_score: float


@dataclass(frozen=True)
class _Candidate:
    """An example without its files."""

    group: Group
    member: Member
    part: str
    condition: str
    change: Change
    row: dict[str, Any]
    base: Prediction
    safe: Prediction


def choose_examples(groups: Sequence[Group]) -> list[AnsweredExample]:
    """At most ``CHANGED + CHANGED_TEXT + UNCHANGED + HEARD``, arms in turn, no row twice; the first seed's."""
    trained = [group for group in groups if not group.damage]
    seen: set[str] = set()
    chosen = [
        candidate
        for limit, candidates_of in (
            (CHANGED, lambda group: _changed(group, "vl")),
            (CHANGED_TEXT, lambda group: _changed(group, "text")),
            (UNCHANGED, _unchanged),
            (HEARD, _heard),
        )
        for candidate in itertools.islice(_in_turn([candidates_of(group) for group in trained], seen), limit)
    ]
    return [_example(candidate) for candidate in chosen]


def _changed(group: Group, kind: Kind) -> Iterator[_Candidate]:
    """Answers whose score changed, under every condition in turn, the lost ones before the won ones."""
    found: list[tuple[int, _Candidate]] = []
    for condition, pairs in _conditions(group, kind):
        flips = sorted(
            (pair for pair in pairs if pair[2].score != pair[1].score), key=lambda p: p[2].score > p[1].score
        )
        for rank, (row, base, safe) in enumerate(flips[:_A_CONDITION]):
            change: Change = "right to wrong" if safe.score < base.score else "wrong to right"
            found.append((rank, _Candidate(group, group.members[0], PARTS[kind], condition, change, row, base, safe)))
    yield from _by_rank(found)


def _by_rank(found: Sequence[tuple[int, _Candidate]]) -> Iterator[_Candidate]:
    """The first of every condition, then the second of every one."""
    return (candidate for _, candidate in sorted(found, key=lambda pair: pair[0]))


def _unchanged(group: Group) -> Iterator[_Candidate]:
    found: list[tuple[int, _Candidate]] = []
    for condition, pairs in _conditions(group, "vl"):
        same = [pair for pair in pairs if pair[1].answer == pair[2].answer]
        for rank, (row, base, safe) in enumerate(same[:_A_CONDITION]):
            found.append((rank, _Candidate(group, group.members[0], "VL", condition, "unchanged", row, base, safe)))
    yield from _by_rank(found)


def _heard(group: Group) -> Iterator[_Candidate]:
    member = group.members[0]
    store = PredictionStore(member.evaluation.folder)
    rows = store.rows("audio")
    silent = {sample.row_id: sample for sample in store.read("audio", "silence")}
    for sample in store.read("audio", "matched"):
        if sample.row_id in rows and sample.row_id in silent:
            yield _Candidate(
                group, member, "audio", "matched", "heard", rows[sample.row_id], silent[sample.row_id], sample
            )


def _conditions(group: Group, kind: Kind) -> Iterator[tuple[str, list[tuple[dict[str, Any], Prediction, Prediction]]]]:
    """Row, base's answer and SAFE's answer, condition by condition, with audio attached and the gate open."""
    member = group.members[0]
    store = PredictionStore(member.evaluation.folder)
    if kind == "text" and not member.evaluation.result.text:
        return
    rows = {row_id: row for row_id, row in store.rows(kind).items() if row["kind"] != DOCUMENT}
    base = {sample.row_id: sample for sample in PredictionStore(member.evaluation.base_folder).read(kind, BASE)}
    for name, condition in VL_CONDITIONS.items():
        if condition.attach and condition.gate == 1.0 and condition.draws == 1:
            samples = store.read(kind, name)
            known = [sample for sample in samples if sample.row_id in rows and sample.row_id in base]
            yield name, [(rows[sample.row_id], base[sample.row_id], sample) for sample in known]


def _clip_digests(store: PredictionStore) -> dict[str, str]:
    """SHA-256 of the clips that were evaluated, by path; empty for results that do not say."""
    rows = store.rows("audio").values()
    return {row["audio"]: row["audio_sha256"] for row in rows if row.get("audio") and row.get("audio_sha256")}


def _in_turn(candidates: Sequence[Iterator[_Candidate]], seen: set[str]) -> Iterator[_Candidate]:
    """The first of each whose row was not seen, then the second of each, and so on; what is given counts as seen."""
    waiting = list(candidates)
    while waiting:
        for source in list(waiting):
            fresh = next((candidate for candidate in source if candidate.row["row_id"] not in seen), None)
            if fresh is None:
                waiting.remove(source)
            else:
                seen.add(fresh.row["row_id"])
                yield fresh


def _example(candidate: _Candidate) -> AnsweredExample:
    row, safe = candidate.row, candidate.safe
    return AnsweredExample(
        arm=candidate.group.name,
        seed=candidate.member.seed,
        part=candidate.part,
        condition=candidate.condition,
        change=candidate.change,
        row_id=row["row_id"],
        kind=row["kind"],
        question=row["question"],
        references=list(dict.fromkeys(row["answers"])),
        picture=picture(Path(row["image"]), row.get("image_sha256")) if row.get("image") else None,
        clip=clip(safe.heard or "silence", _clip_digests(PredictionStore(candidate.member.evaluation.folder))),
        base=candidate.base.answer,
        safe=safe.answer,
        base_score=candidate.base.score,
        safe_score=safe.score,
    )


def describe_condition(name: str, kind: Kind) -> str:
    """What rows hear under a condition, in a few words; empty for a condition that is no longer registered."""
    registry = AUDIO_CONDITIONS if kind == "audio" else VL_CONDITIONS
    return registry[name].description if name in registry else ""
