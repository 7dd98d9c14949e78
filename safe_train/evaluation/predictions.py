"""One line of JSON an answer, written batch by batch: an evaluation that was cut off goes on where it stopped.

Each line carries a digest of itself, since a score with a flipped bit is a score, too.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from safe_train.audio.input import Amplified, describe
from safe_train.data.example import Example
from safe_train.distributed.processes import ALONE, Processes
from safe_train.errors import InputError
from safe_train.io.files import json_text, read_lines, write_text
from safe_train.io.fingerprints import content_sha256, json_sha256
from safe_train.io.records import from_plain

logger = logging.getLogger(__name__)

Kind = Literal["vl", "text", "audio"]
KEY = "key.json"
BASE = "base"

_DIGEST, _DIGITS = "sha256", 16  # of a line's digest; a million lines are told apart by far fewer


@dataclass(frozen=True)
class Prediction:
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


Answer = Callable[[Sequence[Example]], list[Prediction]]
"""Gives the samples of a batch of rows."""


class PredictionStore:
    """A folder with the rows and, for each condition, the answers to them.

    Of several processes, the main one reads and writes; all of them answer, and all get every sample.

    Attributes:
        between: called after each round of batches, in all processes, with the number of rows that are answered and of
            all rows of the condition; by an error it ends the evaluation there.
        folder: ``rows.vl.jsonl``, ``rows.audio.jsonl``, ``vl.<condition>.jsonl`` and ``audio.<condition>.jsonl``; with
            text-only rows also ``rows.text.jsonl`` and ``text.<condition>.jsonl``.
    """

    def __init__(self, folder: Path, processes: Processes = ALONE) -> None:
        self.folder, self.processes = folder, processes
        self.between: Callable[[int, int], None] = lambda _done, _total: None

    @classmethod
    def create(
        cls,
        folder: Path,
        key: Mapping[str, Any],
        vl: Sequence[Example],
        audio: Sequence[Example],
        processes: Processes = ALONE,
        text: Sequence[Example] = (),
    ) -> PredictionStore:
        """The store of an evaluation; what is there already is kept, since ``folder`` is named after the key.

        Raises:
            InputError: the folder cannot be written.
        """
        with processes.raise_on_any_rank():
            if processes.is_main:
                write_text(folder / KEY, json_text(key))
                for kind, rows in (("vl", vl), ("audio", audio), *([("text", text)] if text else [])):
                    lines = [json.dumps(_row(row), ensure_ascii=False) for row in rows]
                    write_text(folder / f"rows.{kind}.jsonl", "".join(f"{line}\n" for line in lines))
        return cls(folder, processes)

    def path(self, kind: Kind, condition: str) -> Path:
        """The file of a condition."""
        return self.folder / f"{kind}.{condition}.jsonl"

    def rows(self, kind: Kind) -> dict[str, dict[str, Any]]:
        """What the rows say, by their ids.

        Raises:
            InputError: they are not there, or a line is damaged.
        """
        path = self.folder / f"rows.{kind}.jsonl"
        expected, hint = "the rows of an evaluation", f"evaluate again with: safe eval {self.folder.parent.parent}"
        lines = read_lines(path)
        if not path.is_file():
            raise InputError(path, expected, "no such file", hint)
        for number, line in enumerate(lines, start=1):
            if line is None or not _is_row(line):
                raise InputError(path, expected, f"line {number} that is damaged", hint)
        return {line["row_id"]: line for line in lines if line is not None}

    def read(self, kind: Kind, condition: str) -> list[Prediction]:
        """The answers so far; a damaged line, which is told in a warning, and what follows it, are left out."""
        path = self.path(kind, condition)
        samples: list[Prediction] = []
        for number, line in enumerate(read_lines(path), start=1):
            sample = None if line is None else _whole(line)
            if sample is None:
                logger.warning("%s: line %d is damaged; it and what follows it count as not answered", path, number)
                break
            samples.append(sample)
        return samples

    def complete(
        self, kind: Kind, condition: str, rows: Sequence[Example], answer: Answer, size: int
    ) -> list[Prediction]:
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
        samples = [_sample(values) for values in self.processes.broadcast([asdict(sample) for sample in kept])]
        if len(samples) == len(rows):
            return samples
        path = self.path(kind, condition)
        self._write(path, samples, mode="w")
        for batches in answered(rows, answer, size, self.processes, first=len(samples)):
            self._write(path, batches, mode="a")
            samples += batches
            self.between(len(samples), len(rows))
        return samples

    def _kept(self, kind: Kind, condition: str, rows: Sequence[Example], size: int) -> list[Prediction]:
        """The answers of whole batches that are there already."""
        samples = self.read(kind, condition)[: len(rows)]
        if len(samples) < len(rows):
            samples = samples[: len(samples) // size * size]
        return samples if [sample.row_id for sample in samples] == [row.row_id for row in rows[: len(samples)]] else []

    def _write(self, path: Path, samples: Sequence[Prediction], *, mode: Literal["a", "w"]) -> None:
        with self.processes.raise_on_any_rank():
            if self.processes.is_main:
                _write_lines(path, samples, mode=mode)


class NoStore:
    """Keeps nothing; for evaluations on the way.

    Attributes:
        between: as that of a :class:`PredictionStore`.
    """

    def __init__(self, processes: Processes = ALONE) -> None:
        self.processes = processes
        self.between: Callable[[int, int], None] = lambda _done, _total: None

    def complete(
        self, _kind: Kind, _condition: str, rows: Sequence[Example], answer: Answer, size: int
    ) -> list[Prediction]:
        """All samples, from ``answer``."""
        samples: list[Prediction] = []
        for batches in answered(rows, answer, size, self.processes):
            samples += batches
            self.between(len(samples), len(rows))
        return samples


def answered(
    rows: Sequence[Example], answer: Answer, size: int, processes: Processes, first: int = 0
) -> Iterator[list[Prediction]]:
    """The samples of the rows from ``first`` on, as many batches at a time as there are processes.

    Batch k is answered by process k modulo their number, and its samples are given to all. The batches are those that
    one process makes, so the answers are too, to the last bit. Where processes must run the same forward passes, one
    that no batch is left for answers the round's first, to no purpose but that.
    """
    starts = range(first, len(rows), size)
    for index in range(0, len(starts), processes.world_size):
        round_starts = starts[index : index + processes.world_size]
        own = round_starts[processes.rank :][:1]
        with processes.raise_on_any_rank():
            samples = [asdict(sample) for start in own for sample in answer(rows[start : start + size])]
            if processes.collective_forward and not own:
                answer(rows[round_starts[0] : round_starts[0] + size])
        yield [_sample(values) for part in processes.gather(samples) for values in part]


def _write_lines(path: Path, samples: Sequence[Prediction], *, mode: Literal["a", "w"]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8") as file:
            file.writelines(_line(sample) for sample in samples)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        got = str(error.strerror or error)
        raise InputError(path, "a file that can be written", got, "make room, then run again: it goes on") from error


def _is_row(row: dict[str, Any]) -> bool:
    """Whether the fields are what a store writes; digests of contents are missing in those of an earlier version."""
    return (
        all(isinstance(row.get(name), str) for name in ("row_id", "question", "kind"))
        and isinstance(row.get("answers"), list)
        and all(isinstance(answer, str) for answer in row["answers"])
        and all(isinstance(row.get(name), str | None) for name in ("image", "audio", "image_sha256", "audio_sha256"))
    )


def _line(sample: Prediction) -> str:
    values = asdict(sample)
    return json.dumps(values | {_DIGEST: _digest(values)}, ensure_ascii=False) + "\n"


def _whole(line: dict[str, Any]) -> Prediction | None:
    """The sample of a line, None if it is not what was written; lines of an earlier version have no digest."""
    digest = line.pop(_DIGEST, None)
    try:
        sample = from_plain(Prediction, line)
    except ValueError:
        return None
    return sample if digest in (None, _digest(line)) and 0.0 <= sample.score <= 1.0 else None


def _digest(values: Mapping[str, Any]) -> str:
    return json_sha256(values)[:_DIGITS]


def _sample(values: Mapping[str, Any]) -> Prediction:
    return Prediction(**{**values, "updates": tuple(values["updates"])})


def row_files(row: Example) -> dict[str, str]:
    """SHA-256 of the row's image and clip, by field, where it has them.

    Raises:
        InputError: one cannot be read.
    """
    clip = row.audio.path if isinstance(row.audio, Amplified) else row.audio
    files = {"image_sha256": row.image, "audio_sha256": clip}
    return {name: content_sha256(path) for name, path in files.items() if isinstance(path, Path)}


def _row(row: Example) -> dict[str, Any]:
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
