"""One line of JSON an answer, written batch by batch: an evaluation that was cut off goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from safe_train.data.audio_input import Amplified, describe
from safe_train.data.rows import Row
from safe_train.digests import content_sha256
from safe_train.errors import InputError
from safe_train.files import file_problem, json_text, write_text
from safe_train.parallel import ALONE, Processes

Kind = Literal["vl", "text", "audio"]
KEY = "key.json"
BASE = "base"


@dataclass(frozen=True)
class Sample:
    """One answer.

    Attributes:
        row_id: of the row.
        answer: what was generated; empty for documents.
        score: VQA accuracy on VL and text-only questions, exact match on audio rows, in 0..1; 0 for documents.
        token_f1: largest F1 of the answer's words with a reference's; audio rows only, else None.
        ended: whether the answer ended by itself within the longest length that is allowed.
        heard: the clip, noise or silence; None where no audio was attached.
        draw: the number of the draw in a repeated condition.
        kl: KL(base || SAFE) in nats, mean over the tokens of the reference answer or document; VL and text-only rows
            with audio attached only.
        tokens: how many tokens that mean is over.
        updates: for each fused layer, ``|gate * update| / |hidden|``, mean over its calls; empty where none ran.
        fusion_calls: times that a fusion layer changed the row's hidden states.
        logits_sha256: of the row's logits with its reference answer or text; base and bypass only.
        bits: of documents, ``-sum log2 p(token | tokens before)`` over the text; None for questions.
        num_bytes: of documents, length of the text in UTF-8; 0 for questions.
    """

    row_id: str
    answer: str
    score: float
    token_f1: float | None = None
    ended: bool = True
    heard: str | None = None
    draw: int = 0
    kl: float | None = None
    tokens: int = 0
    updates: tuple[float, ...] = ()
    fusion_calls: int = 0
    logits_sha256: str | None = None
    bits: float | None = None
    num_bytes: int = 0


Answer = Callable[[Sequence[Row]], list[Sample]]
"""Gives the samples of a batch of rows."""


class SampleStore:
    """A folder with the rows and, for each condition, the answers to them.

    Of several processes, the main one reads and writes; all of them answer, and all get every sample.

    Attributes:
        folder: ``rows.vl.jsonl``, ``rows.audio.jsonl``, ``vl.<condition>.jsonl`` and ``audio.<condition>.jsonl``; with
            text-only rows also ``rows.text.jsonl`` and ``text.<condition>.jsonl``.
    """

    def __init__(self, folder: Path, processes: Processes = ALONE) -> None:
        self.folder, self.processes = folder, processes

    @classmethod
    def create(
        cls,
        folder: Path,
        key: Mapping[str, Any],
        vl: Sequence[Row],
        audio: Sequence[Row],
        processes: Processes = ALONE,
        text: Sequence[Row] = (),
    ) -> SampleStore:
        """The store of an evaluation; what is there already is kept, since ``folder`` is named after the key.

        Raises:
            InputError: the folder cannot be written.
        """
        with processes.together():
            if processes.is_main:
                write_text(folder / KEY, json_text(key))
                for kind, rows in (("vl", vl), ("audio", audio), *([("text", text)] if text else [])):
                    lines = [json.dumps(_row(row), ensure_ascii=False) for row in rows]
                    write_text(folder / f"rows.{kind}.jsonl", "".join(f"{line}\n" for line in lines))
        return cls(folder, processes)

    def path(self, kind: Kind, condition: str) -> Path:
        """The file of a condition."""
        return self.folder / f"{kind}.{condition}.jsonl"

    def read(self, kind: Kind, condition: str) -> list[Sample]:
        """The answers so far; a line that was cut off, and what follows it, is left out."""
        path = self.path(kind, condition)
        samples: list[Sample] = []
        if file_problem(path) is None:
            for line in path.read_bytes().split(b"\n"):
                try:
                    samples.append(_stored(json.loads(line)))
                except (ValueError, KeyError, TypeError, RecursionError):  # ValueError: no JSON, or not UTF-8
                    break
        return samples

    def complete(self, kind: Kind, condition: str, rows: Sequence[Row], answer: Answer, size: int) -> list[Sample]:
        """All samples of a condition: whole batches that are there already, the others from ``answer``.

        Args:
            kind: which rows.
            condition: its name.
            rows: all rows of the condition, draw after draw.
            answer: gives the samples of a batch of rows.
            size: rows a batch; the same at every call, so that the batches are.

        Raises:
            InputError: the file cannot be written; what was written before stays.
        """
        kept = self._kept(kind, condition, rows, size) if self.processes.is_main else []
        samples = [_sample(values) for values in self.processes.from_main([asdict(sample) for sample in kept])]
        if len(samples) == len(rows):
            return samples
        path = self.path(kind, condition)
        self._write(path, samples, mode="w")
        for batches in answered(rows, answer, size, self.processes, first=len(samples)):
            self._write(path, batches, mode="a")
            samples += batches
        return samples

    def _kept(self, kind: Kind, condition: str, rows: Sequence[Row], size: int) -> list[Sample]:
        """The answers of whole batches that are there already."""
        samples = self.read(kind, condition)[: len(rows)]
        if len(samples) < len(rows):
            samples = samples[: len(samples) // size * size]
        return samples if [sample.row_id for sample in samples] == [row.row_id for row in rows[: len(samples)]] else []

    def _write(self, path: Path, samples: Sequence[Sample], *, mode: Literal["a", "w"]) -> None:
        with self.processes.together():
            if self.processes.is_main:
                _write_lines(path, samples, mode=mode)


class NoStore:
    """Keeps nothing; for evaluations on the way."""

    def __init__(self, processes: Processes = ALONE) -> None:
        self.processes = processes

    def complete(self, _kind: Kind, _condition: str, rows: Sequence[Row], answer: Answer, size: int) -> list[Sample]:
        """All samples, from ``answer``."""
        return [sample for batches in answered(rows, answer, size, self.processes) for sample in batches]


def answered(
    rows: Sequence[Row], answer: Answer, size: int, processes: Processes, first: int = 0
) -> Iterator[list[Sample]]:
    """The samples of the rows from ``first`` on, as many batches at a time as there are processes.

    Batch k is answered by process k modulo their number, and its samples are given to all. The batches are those that
    one process makes, so the answers are too, to the last bit. Where processes must run the same forward passes, one
    that no batch is left for answers the round's first, to no purpose but that.
    """
    starts = range(first, len(rows), size)
    for index in range(0, len(starts), processes.world_size):
        round_starts = starts[index : index + processes.world_size]
        own = round_starts[processes.rank :][:1]
        with processes.together():
            samples = [asdict(sample) for start in own for sample in answer(rows[start : start + size])]
            if processes.in_step and not own:
                answer(rows[round_starts[0] : round_starts[0] + size])
        yield [_sample(values) for part in processes.gather(samples) for values in part]


def _write_lines(path: Path, samples: Sequence[Sample], *, mode: Literal["a", "w"]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        got = str(error.strerror or error)
        raise InputError(path, "a file that can be written", got, "make room, then run again: it goes on") from error


def _stored(values: Mapping[str, Any]) -> Sample:
    """A sample from a file; ValueError if what tables and pages show of it is of another type than it should be."""
    sample = _sample(values)
    words = (sample.row_id, sample.answer, *(text for text in (sample.heard,) if text is not None))
    if not all(isinstance(text, str) for text in words) or not isinstance(sample.score, int | float):
        raise ValueError("not the fields of a sample")
    for text in words:
        text.encode()  # half a character cannot be written again
    return sample


def _sample(values: Mapping[str, Any]) -> Sample:
    return Sample(**{**values, "updates": tuple(values["updates"])})


def row_files(row: Row) -> dict[str, str]:
    """SHA-256 of the row's image and clip, by field, where it has them.

    Raises:
        InputError: one cannot be read.
    """
    clip = row.audio.path if isinstance(row.audio, Amplified) else row.audio
    files = {"image_sha256": row.image, "audio_sha256": clip}
    return {name: content_sha256(path) for name, path in files.items() if isinstance(path, Path)}


def _row(row: Row) -> dict[str, Any]:
    return {
        "row_id": row.row_id,
        "question": row.question,
        "answers": list(row.answers),
        "image": str(row.image) if row.image else None,
        "audio": describe(row.audio) if row.audio else None,
        "kind": row.kind,
        "cluster": row.cluster,
        **row_files(row),
    }
