"""Rows to look at: answers that changed first, then some that did not, then clips; the same choice at every call."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safe_train.data.example import DOCUMENT
from safe_train.evaluation.conditions import MATCHED, SILENCE, conditions_for
from safe_train.evaluation.predictions import BASE, Kind, Prediction, PredictionStore
from safe_train.report.grouping import Member, VariantRuns
from safe_train.report.media import Clip, Picture, clip, picture

Change = Literal["right to wrong", "wrong to right", "unchanged", "heard"]

CHANGED, CHANGED_TEXT, UNCHANGED, HEARD = 6, 3, 3, 3
"""How many examples of each kind at most: changed answers to VL and to text-only questions, then the others."""

PARTS: dict[Kind, str] = {"vl": "VL", "text": "text", "audio": "audio"}
"""Names of the kinds of examples on the page."""

_A_CONDITION = 6  # how many answers of a variant under one condition are candidates


@dataclass(frozen=True)
class AnsweredExample:
    """A row with what the base and SAFE say.

    Attributes:
        arm: its variant.
        seed: of the run.
        part: ``VL``, ``text`` or ``audio``.
        condition: what was heard.
        change: what became of the answer; ``heard`` for an audio example, where the base has nothing to say.
        row_id: of the row.
        kind: its question type.
        question: as it was put.
        references: each once, the most frequent first.
        picture: the image, or None.
        clip: what was heard.
        base: the base's answer; for an audio example SAFE's answer in silence.
        safe: SAFE's answer.
        base_score: VQA accuracy, or by the metric of audio examples.
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

    group: VariantRuns
    member: Member
    part: str
    condition: str
    change: Change
    row: dict[str, Any]
    base: Prediction
    safe: Prediction


def choose_examples(groups: Sequence[VariantRuns]) -> list[AnsweredExample]:
    """At most ``CHANGED + CHANGED_TEXT + UNCHANGED + HEARD``, variants in turn, no row twice; the first seed's."""
    trained = [group for group in groups if not group.damage]
    seen: set[str] = set()
    chosen = [
        candidate
        for limit, candidates_of in (
            (CHANGED, lambda group: _find_changed(group, "vl")),
            (CHANGED_TEXT, lambda group: _find_changed(group, "text")),
            (UNCHANGED, _find_unchanged),
            (HEARD, _find_heard),
        )
        for candidate in itertools.islice(_take_turns([candidates_of(group) for group in trained], seen), limit)
    ]
    return [_build_example(candidate) for candidate in chosen]


def _find_changed(group: VariantRuns, kind: Kind) -> Iterator[_Candidate]:
    """Answers whose score changed, under every condition in turn, the lost ones before the won ones."""
    found: list[tuple[int, _Candidate]] = []
    for condition, pairs in _pair_answers(group, kind):
        flips = sorted(
            (pair for pair in pairs if pair[2].score != pair[1].score), key=lambda p: p[2].score > p[1].score
        )
        for rank, (row, base, safe) in enumerate(flips[:_A_CONDITION]):
            change: Change = "right to wrong" if safe.score < base.score else "wrong to right"
            found.append((rank, _Candidate(group, group.members[0], PARTS[kind], condition, change, row, base, safe)))
    yield from _sort_by_rank(found)


def _sort_by_rank(found: Sequence[tuple[int, _Candidate]]) -> Iterator[_Candidate]:
    """The first of every condition, then the second of every one."""
    return (candidate for _, candidate in sorted(found, key=lambda pair: pair[0]))


def _find_unchanged(group: VariantRuns) -> Iterator[_Candidate]:
    found: list[tuple[int, _Candidate]] = []
    for condition, pairs in _pair_answers(group, "vl"):
        same = [pair for pair in pairs if pair[1].answer == pair[2].answer]
        for rank, (row, base, safe) in enumerate(same[:_A_CONDITION]):
            found.append((rank, _Candidate(group, group.members[0], "VL", condition, "unchanged", row, base, safe)))
    yield from _sort_by_rank(found)


def _find_heard(group: VariantRuns) -> Iterator[_Candidate]:
    member = group.members[0]
    store = PredictionStore(member.evaluation.folder)
    rows = store.rows("audio")
    silent = {prediction.row_id: prediction for prediction in store.read("audio", SILENCE.name)}
    for prediction in store.read("audio", MATCHED.name):
        if prediction.row_id in rows and prediction.row_id in silent:
            yield _Candidate(
                group,
                member,
                "audio",
                MATCHED.name,
                "heard",
                rows[prediction.row_id],
                silent[prediction.row_id],
                prediction,
            )


def _pair_answers(
    group: VariantRuns, kind: Kind
) -> Iterator[tuple[str, list[tuple[dict[str, Any], Prediction, Prediction]]]]:
    """Row, base's answer and SAFE's answer, condition by condition, with audio attached and the gate open."""
    member = group.members[0]
    store = PredictionStore(member.evaluation.folder)
    if kind == "text" and not member.evaluation.result.text:
        return
    rows = {row_id: row for row_id, row in store.rows(kind).items() if row["kind"] != DOCUMENT}
    base = {
        prediction.row_id: prediction for prediction in PredictionStore(member.evaluation.base_folder).read(kind, BASE)
    }
    for condition in conditions_for(kind).values():
        if condition.is_retention and condition.draws == 1:
            predictions = store.read(kind, condition.name)
            known = [
                prediction for prediction in predictions if prediction.row_id in rows and prediction.row_id in base
            ]
            yield (
                condition.name,
                [(rows[prediction.row_id], base[prediction.row_id], prediction) for prediction in known],
            )


def _clip_digests(store: PredictionStore) -> dict[str, str]:
    """SHA-256 of the clips that were evaluated, by path; empty for results that do not say."""
    rows = store.rows("audio").values()
    return {row["audio"]: row["audio_sha256"] for row in rows if row.get("audio") and row.get("audio_sha256")}


def _take_turns(candidates: Sequence[Iterator[_Candidate]], seen: set[str]) -> Iterator[_Candidate]:
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


def _build_example(candidate: _Candidate) -> AnsweredExample:
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
