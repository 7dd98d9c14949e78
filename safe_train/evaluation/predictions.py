"""One line of JSON per answer, written batch by batch: an interrupted evaluation resumes where it stopped.

Each line carries its own digest, since a score with a flipped bit would still parse.
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
        row_id: of the example.
        answer: what was generated; empty for documents.
        score: VQA accuracy on VL and text-only questions, exact match on audio examples, in 0..1; 0 for documents.
        token_f1: largest F1 of the answer's words with a reference's; audio examples only, else None.
        ended: whether the answer ended by itself within the maximum length.
        heard: the clip, noise or silence that was attached; None without audio.
        draw: the number of the draw in a repeated condition.
        kl: KL(base || SAFE) in nats, mean over the tokens of the reference answer or document; VL and text-only
            examples with audio attached only.
        tokens: number of tokens in that mean.
        updates: for each fused layer, ``|gate * update| / |hidden|``, mean over its calls; empty where none ran.
        fusion_calls: number of times a fusion layer changed the example's hidden states.
        logits_sha256: of the example's logits with its reference answer or text; base and bypass only.
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
"""Gives the predictions of a batch of examples."""


class PredictionStore:
    """A folder with the examples and, for each condition, the answers to them.

    With several processes, only the main one reads and writes; all generate answers and get every prediction.

    Attributes:
        between: called after each round of batches, in all processes, with the number of answered examples and the
            total of the condition; if it raises, the evaluation ends there.
        folder: ``rows.vl.jsonl``, ``rows.audio.jsonl``, ``vl.<condition>.jsonl`` and ``audio.<condition>.jsonl``; with
            text-only examples also ``rows.text.jsonl`` and ``text.<condition>.jsonl``.
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
        """The store of an evaluation; existing answers are kept, since ``folder`` is named by the fingerprint.

        Raises:
            InputError: the folder cannot be written.
        """
        with processes.raise_on_any_rank():
            if processes.is_main:
                write_text(folder / KEY, json_text(key))
                for kind, examples in (("vl", vl), ("audio", audio), *([("text", text)] if text else [])):
                    lines = [json.dumps(_describe_example(example), ensure_ascii=False) for example in examples]
                    write_text(folder / f"rows.{kind}.jsonl", "".join(f"{line}\n" for line in lines))
        return cls(folder, processes)

    def path(self, kind: Kind, condition: str) -> Path:
        """The file of a condition."""
        return self.folder / f"{kind}.{condition}.jsonl"

    def rows(self, kind: Kind) -> dict[str, dict[str, Any]]:
        """What the examples say, by their ids.

        Raises:
            InputError: they are not there, or a line is damaged.
        """
        path = self.folder / f"rows.{kind}.jsonl"
        expected, hint = "the examples of an evaluation", f"evaluate again with: safe eval {self.folder.parent.parent}"
        lines = read_lines(path)
        if not path.is_file():
            raise InputError(path, expected, "no such file", hint)
        for number, line in enumerate(lines, start=1):
            if line is None or not _is_row(line):
                raise InputError(path, expected, f"line {number} that is damaged", hint)
        return {line["row_id"]: line for line in lines if line is not None}

    def read(self, kind: Kind, condition: str) -> list[Prediction]:
        """The answers so far; a damaged line, which is reported in a warning, and what follows it, are left out."""
        path = self.path(kind, condition)
        predictions: list[Prediction] = []
        for number, line in enumerate(read_lines(path), start=1):
            prediction = None if line is None else _parse(line)
            if prediction is None:
                logger.warning("%s: line %d is damaged; it and what follows it count as not answered", path, number)
                break
            predictions.append(prediction)
        return predictions

    def complete(
        self, kind: Kind, condition: str, examples: Sequence[Example], answer: Answer, size: int
    ) -> list[Prediction]:
        """All predictions of a condition: whole batches that are there already, the others from ``answer``.

        Args:
            kind: which examples.
            condition: its name.
            examples: all examples of the condition, draw after draw.
            answer: returns the predictions of a batch of examples.
            size: examples per batch; the same at every call, so that the batches are.

        Raises:
            InputError: the file cannot be written; what was written before stays.
        """
        kept = self._read_whole_batches(kind, condition, examples, size) if self.processes.is_main else []
        predictions = [
            _build(values) for values in self.processes.broadcast([asdict(prediction) for prediction in kept])
        ]
        if len(predictions) == len(examples):
            return predictions
        path = self.path(kind, condition)
        self._write(path, predictions, mode="w")
        for batches in answer_batches(examples, answer, size, self.processes, first=len(predictions)):
            self._write(path, batches, mode="a")
            predictions += batches
            self.between(len(predictions), len(examples))
        return predictions

    def _read_whole_batches(
        self, kind: Kind, condition: str, examples: Sequence[Example], size: int
    ) -> list[Prediction]:
        """The answers of whole batches that are there already."""
        predictions = self.read(kind, condition)[: len(examples)]
        if len(predictions) < len(examples):
            predictions = predictions[: len(predictions) // size * size]
        return (
            predictions
            if [prediction.row_id for prediction in predictions]
            == [example.row_id for example in examples[: len(predictions)]]
            else []
        )

    def _write(self, path: Path, predictions: Sequence[Prediction], *, mode: Literal["a", "w"]) -> None:
        with self.processes.raise_on_any_rank():
            if self.processes.is_main:
                _write_lines(path, predictions, mode=mode)


class NoStore:
    """Stores nothing; for evaluations during training.

    Attributes:
        between: as that of a :class:`PredictionStore`.
    """

    def __init__(self, processes: Processes = ALONE) -> None:
        self.processes = processes
        self.between: Callable[[int, int], None] = lambda _done, _total: None

    def complete(
        self, _kind: Kind, _condition: str, examples: Sequence[Example], answer: Answer, size: int
    ) -> list[Prediction]:
        """All predictions, from ``answer``."""
        predictions: list[Prediction] = []
        for batches in answer_batches(examples, answer, size, self.processes):
            predictions += batches
            self.between(len(predictions), len(examples))
        return predictions


def answer_batches(
    examples: Sequence[Example], answer: Answer, size: int, processes: Processes, first: int = 0
) -> Iterator[list[Prediction]]:
    """The predictions of the examples from ``first`` on, as many batches at a time as there are processes.

    Batch k is answered by process k modulo their number, and its predictions are given to all. The batches are those
    that one process makes, so the answers are too, to the last bit. Where processes must run the same forward passes,
    one that no batch is left for answers the round's first, to no purpose but that.
    """
    starts = range(first, len(examples), size)
    for index in range(0, len(starts), processes.world_size):
        round_starts = starts[index : index + processes.world_size]
        own = round_starts[processes.rank :][:1]
        with processes.raise_on_any_rank():
            predictions = [asdict(prediction) for start in own for prediction in answer(examples[start : start + size])]
            if processes.collective_forward and not own:
                answer(examples[round_starts[0] : round_starts[0] + size])
        yield [_build(values) for part in processes.gather(predictions) for values in part]


def _write_lines(path: Path, predictions: Sequence[Prediction], *, mode: Literal["a", "w"]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8") as file:
            file.writelines(_line(prediction) for prediction in predictions)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        got = str(error.strerror or error)
        raise InputError(path, "a file that can be written", got, "make room, then run again: it resumes") from error


def _is_row(example: dict[str, Any]) -> bool:
    """Whether the fields are what a store writes; digests of contents are missing in those of an earlier version."""
    return (
        all(isinstance(example.get(name), str) for name in ("row_id", "question", "kind"))
        and isinstance(example.get("answers"), list)
        and all(isinstance(answer, str) for answer in example["answers"])
        and all(
            isinstance(example.get(name), str | None) for name in ("image", "audio", "image_sha256", "audio_sha256")
        )
    )


def _line(prediction: Prediction) -> str:
    values = asdict(prediction)
    return json.dumps(values | {_DIGEST: _digest(values)}, ensure_ascii=False) + "\n"


def _parse(line: dict[str, Any]) -> Prediction | None:
    """The prediction of a line, None if it is not what was written; lines of an earlier version have no digest."""
    digest = line.pop(_DIGEST, None)
    try:
        prediction = from_plain(Prediction, line)
    except ValueError:
        return None
    return prediction if digest in (None, _digest(line)) and 0.0 <= prediction.score <= 1.0 else None


def _digest(values: Mapping[str, Any]) -> str:
    return json_sha256(values)[:_DIGITS]


def _build(values: Mapping[str, Any]) -> Prediction:
    return Prediction(**{**values, "updates": tuple(values["updates"])})


def row_files(example: Example) -> dict[str, str]:
    """SHA-256 of the example's image and clip, by field, where it has them.

    Raises:
        InputError: one cannot be read.
    """
    clip = example.audio.path if isinstance(example.audio, Amplified) else example.audio
    files = {"image_sha256": example.image, "audio_sha256": clip}
    return {name: content_sha256(path) for name, path in files.items() if isinstance(path, Path)}


def _describe_example(example: Example) -> dict[str, Any]:
    return {
        "row_id": example.row_id,
        "question": example.question,
        "answers": list(example.answers),
        "image": str(example.image) if example.image else None,
        "audio": describe(example.audio) if example.audio else None,
        "kind": example.kind,
        "cluster": example.cluster,
        **row_files(example),
    }
