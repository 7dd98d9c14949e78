"""Retention examples of a data set, batch by batch, as a function of seed and number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from safe_train.distributed.processes import ALONE, Processes
from safe_train.errors import InputError
from safe_train.finetuning.chats import IGNORED, ChatCollator, images_in
from safe_train.model.folders import FOREIGN_ERRORS, as_input_error

Collate = Callable[[list[Any]], Mapping[str, Any]]

_ROWS = int.from_bytes(b"protected", "big")  # tells these random numbers from the others of a seed
_FEW = 32  # rows that are looked at to find out what all are
_CHAT_COLUMNS = frozenset({"messages", "prompt", "completion", "text"})


class RowData(Protocol):
    """A data set of rows as a ``transformers.Trainer`` takes them."""

    def __len__(self) -> int:
        """Rows."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """One row."""
        ...


@dataclass(frozen=True)
class RetentionBatch:
    """Retention examples.

    Attributes:
        inputs: what the model takes, ``input_ids`` [B, T] among them, perhaps images.
        rows: int64 [N], the row of each labeled token.
        positions: int64 [N], the position whose hidden state predicts it.
        labels: int64 [N], the labeled tokens.
    """

    inputs: dict[str, Tensor]
    rows: Tensor
    positions: Tensor
    labels: Tensor

    @property
    def num_rows(self) -> int:
        """Examples in the batch."""
        return self.inputs["input_ids"].shape[0]

    @staticmethod
    def of(collated: Mapping[str, Any], device: torch.device) -> RetentionBatch:
        """A collated batch; position t predicts label t + 1, and labels of -100 do not count.

        Raises:
            ValueError: it has no labels, or none that counts.
        """
        if "labels" not in collated:
            got = ", ".join(collated)
            raise ValueError(f"retention examples: expected labels, got {got}; add them to the data set")
        inputs = {name: value.to(device) for name, value in collated.items() if isinstance(value, Tensor)}
        targets = inputs.pop("labels")[:, 1:]
        rows, positions = (targets != IGNORED).nonzero(as_tuple=True)
        if not len(rows):
            raise ValueError("retention examples: expected labels other than -100 behind the first token, got none")
        return RetentionBatch(inputs, rows, positions, targets[rows, positions])


class RetentionExamples:
    """Batches of retention examples as a function of seed and number, so that a resumed run sees the same ones.

    Every row comes once before any comes again, in an order of its own each time.
    """

    def __init__(
        self,
        data: RowData,
        collate: Collate,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        """Takes the rows.

        Raises:
            InputError: they have no number, such as a stream's; or there are more processes than rows in a batch.
            ValueError: there are none.
        """
        if batch_size < processes.world_size:
            expected = f"at least one retention example for each of {processes.world_size} processes"
            raise InputError("rows_per_step", expected, str(batch_size), f"set it to {processes.world_size} or more")
        self.data, self.collate, self.batch_size = data, collate, batch_size
        self.seed, self.device, self.processes = seed, device, processes
        self._order: tuple[int, list[int]] = (-1, [])
        first_of(data)

    def require_readable(self) -> None:
        """Puts every row of text together alone, and the first of any others: later it would fail the training.

        Raises:
            InputError: the collator does not take a row.
            ValueError: a row has no labels.
        """
        for index in range(len(self.data) if is_text(self.data) else 1):  # to put an image into a batch takes long
            self._collated([index])

    def _collated(self, indices: Sequence[int]) -> RetentionBatch:
        """Rows put together; what a collator raises names them.

        Raises:
            InputError: the collator does not take them.
            ValueError: they have no labels.
        """
        which = f"{indices[0]}" if len(indices) == 1 else f"among {', '.join(map(str, indices))}"
        expected = "what the trainer's collator takes, as rows of the training data"
        with as_input_error(f"retention examples, row {which}", expected, _HINT):
            collated = self.collate([self.data[index] for index in indices])
        return RetentionBatch.of(collated, self.device)

    def batch(self, number: int) -> RetentionBatch:
        """This process's share of batch number so and so."""
        places = range(number * self.batch_size, (number + 1) * self.batch_size)
        return self._batch(self.processes.shard(places))

    def coming(self, number: int, num_rows: int, *, one_by_one: bool = False) -> Iterator[RetentionBatch]:
        """Whole batches from a number on, with at least ``num_rows`` rows in all; or each of their rows alone."""
        first, count = number * self.batch_size, -(-num_rows // self.batch_size)
        size = 1 if one_by_one else self.batch_size
        for start in range(first, first + count * self.batch_size, size):
            yield self._batch(range(start, start + size))

    def _batch(self, places: Sequence[int]) -> RetentionBatch:
        return self._collated([self._index(place) for place in places])

    def _index(self, place: int) -> int:
        epoch, within = divmod(place, len(self.data))
        if self._order[0] != epoch:
            order = np.random.default_rng([_ROWS, self.seed, epoch]).permutation(len(self.data))
            self._order = (epoch, order.tolist())
        return self._order[1][within]


_HINT = (
    "tokenize them: input_ids, and labels that are -100 where nothing is to be kept; or give the trainer the model's "
    "tokenizer or processor as processing_class, for rows of messages"
)


def first_of(data: RowData) -> Any:
    """The first row.

    Raises:
        InputError: the data set has no length.
        ValueError: it has no rows.
    """
    if not hasattr(data, "__len__"):
        hint = "take a part of it as a list: list(itertools.islice(rows, 1000))"
        raise InputError("retention examples", "a data set with a length", type(data).__name__, hint)
    if not len(data):
        raise ValueError("retention examples: expected at least one, got none; without them nothing is retained")
    try:
        return data[0]
    except KeyError as error:
        got = f"{type(data).__name__} with {', '.join(map(str, data))}"  # type: ignore[arg-type]
        hint = "choose one of its parts, such as data['train']"
        raise InputError("retention examples", "rows by their number", got, hint) from error


def is_text(data: RowData) -> bool:
    """Whether the rows are conversations or texts without an image, which are quickly read."""
    first = first_of(data)
    if not isinstance(first, Mapping) or "input_ids" in first or _CHAT_COLUMNS.isdisjoint(first):
        return False
    try:
        return not any(images_in(data[index]) for index in range(min(len(data), _FEW)))
    except InputError:
        return False


def collator_for(data: RowData, collate: Collate, processing_class: Any) -> Collate:
    """What puts the rows together.

    For rows of text, a :class:`ChatCollator`. For rows of token ids and labels, the trainer's collator if it returns
    them as rows, else padding: trainers of preferences or rewards have a collator for rows of another kind, and one
    without padding makes a single row of all. For any other rows, the trainer's collator.

    Args:
        data: the retention examples.
        collate: the trainer's collator.
        processing_class: the trainer's processor or tokenizer, or None.

    Raises:
        InputError: as :class:`RetentionExamples`.
        ValueError: as :class:`RetentionExamples`.
    """
    first = first_of(data)
    if not isinstance(first, Mapping):
        return collate
    if "input_ids" not in first and processing_class is not None and not _CHAT_COLUMNS.isdisjoint(first):
        return ChatCollator(processing_class)
    columns = [first.get(name) for name in ("input_ids", "labels")]
    if all(_is_integers(column) for column in columns) and not _returns_rows(collate, first):
        tokenizer = getattr(processing_class, "tokenizer", processing_class)
        return partial(pad_rows, padding=getattr(tokenizer, "pad_token_id", None) or 0)
    return collate


def pad_rows(rows: Sequence[Mapping[str, Any]], padding: int) -> dict[str, Tensor]:
    """Token ids and labels [B, T], padded on the right, with an attention mask."""
    length = max(len(row["input_ids"]) for row in rows)

    def padded(values: Iterable[Any], value: int) -> Tensor:
        return torch.tensor([[*map(int, row), *[value] * (length - len(row))] for row in values])

    return {
        "input_ids": padded((row["input_ids"] for row in rows), padding),
        "labels": padded((row["labels"] for row in rows), IGNORED),
        "attention_mask": padded(([1] * len(row["input_ids"]) for row in rows), 0),
    }


def _is_integers(column: Any) -> bool:
    if isinstance(column, (Tensor, np.ndarray)):
        column = column.tolist()
    return isinstance(column, (list, tuple)) and all(isinstance(value, Integral) for value in column)


def _returns_rows(collate: Collate, row: Mapping[str, Any]) -> bool:
    """Whether a collator makes two rows of two, of different lengths, and leaves the labels as they are."""
    length = len(row["input_ids"])
    shorter = {
        name: value[:-1] if _is_integers(value) and len(value) == length else value for name, value in row.items()
    }
    try:
        collated = collate([dict(row), dict(shorter)])
        found = [[int(label) for label in labels if label != IGNORED] for labels in collated["labels"]]
    except FOREIGN_ERRORS:
        return False
    return found == [[int(x) for x in given["labels"] if int(x) != IGNORED] for given in (row, shorter)]
