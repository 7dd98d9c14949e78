"""Prepares the batches of the next steps in worker processes while one trains.

A worker makes everything that needs no model: it decodes files, tokenizes, runs the image processor and the audio
encoders' feature extractors. What it sends back is one piece of memory a step. The workers, their queues and the order
of what they send are PyTorch's ``DataLoader``; processes and not threads, since processors and extractors hold Python's
lock for most of their time (``bench/test_input_pipeline.py``).
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from safe_train.audio.input import AudioInput
from safe_train.data.cache.features import PreparedClip
from safe_train.data.collator import Collator
from safe_train.errors import InputError
from safe_train.io.packed_tensors import PackedTensors
from safe_train.model.audio.encoder import EncoderInputs
from safe_train.model.batch import Batch

_TOKENIZERS = "TOKENIZERS_PARALLELISM"
_LEFT_TO_THE_RUN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that a terminal or a scheduler sends to all processes of a run, which ends its workers itself."""


@dataclass(frozen=True)
class PreparedStep:
    """A process's batches of a step, without what their models make of them.

    Attributes:
        task: batches of audio examples, without audio.
        retention: the same of retention examples.
        clips: those of their clips whose features were not in memory.
    """

    task: list[Batch]
    retention: list[Batch]
    clips: Mapping[AudioInput | None, Sequence[PreparedClip]]


class Preparing(Protocol):
    """The interface of the batches that are prepared."""

    collator: Collator

    def buckets(self, step: int) -> tuple[list[list[Any]], list[list[Any]]]:
        """This process's examples of a step: those of each task batch, and those of each retention batch."""
        ...

    def prepare(self, step: int, clips: Sequence[AudioInput | None]) -> PreparedStep:
        """The step without what models make of it, with these clips decoded."""
        ...


class StepPrefetcher:
    """The prepared steps from one on, in their order.

    Attributes:
        end: behind the last step.
    """

    def __init__(self, batches: Preparing, first: int, end: int, num_workers: int, prefetch_factor: int) -> None:
        """Starts the workers.

        Args:
            batches: what prepares a step, in a worker.
            first: the first step.
            end: behind the last.
            num_workers: worker processes, at least 1.
            prefetch_factor: steps that each may be ahead.
        """
        self._batches, self._position, self.end = batches, _Position(first), end
        batches.collator.features.know_encoders()
        loader = DataLoader(
            _Steps(batches),
            sampler=_Orders(batches, self._position, end),
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            collate_fn=_as_it_is,
            pin_memory=torch.device(batches.collator.device).type == "cuda",
            worker_init_fn=_leave_signals_to_the_run,
            multiprocessing_context="fork",  # a worker shares the examples and the processor with this process
            generator=torch.Generator(),  # the default one is the run's, and a number would be drawn of it
        )
        with _without_threads_of_tokenizers():
            self._found: Iterator[_PackedStep | _Failure] = iter(loader)

    def close(self) -> None:
        """Ends the workers at once, also where the traceback of an error keeps this object."""
        self._found._shutdown_workers()  # type: ignore[attr-defined] - its destructor; there is no public name for it

    @property
    def next_step(self) -> int:
        """The step that is taken next."""
        return self._position.step

    @property
    def num_ordered(self) -> int:
        """How many steps the workers have been asked for, those that were taken included."""
        return self._position.ordered

    def take(self) -> PreparedStep:
        """The next step.

        Raises:
            InputError: a file of it cannot be read.
            RuntimeError: a worker has died.
        """
        found, step = next(self._found), self.next_step
        self._position.step += 1
        if isinstance(found, _Failure):
            raise InputError(*found.words)
        return found.unpack(self._batches.collator.device, *self._batches.buckets(step))


@contextmanager
def reported_deaths() -> Iterator[None]:
    """Tells in one line that a worker has died, which PyTorch raises wherever the run happens to be.

    Raises:
        InputError: a worker has died, most often of too little memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        words = " ".join(str(error).split())
        hint = "give the run more memory or a larger /dev/shm, or lower data.num_workers or data.prefetch_factor"
        raise InputError("data.num_workers", "workers that go on", words, hint) from error


@dataclass
class _Position:
    """The step that is taken next, and how many have been ordered so far."""

    step: int
    ordered: int = 0


@dataclass(frozen=True)
class _Order:
    """A step that is to be prepared, and the numbers of those of its different clips that are to be decoded."""

    step: int
    clips: tuple[int, ...]


class _Orders(Sampler[_Order]):
    """Every step, with its clips that are neither in memory nor ordered before. It runs in the process of the run."""

    def __init__(self, batches: Preparing, position: _Position, end: int) -> None:
        self._batches, self._position, self._end = batches, position, end

    def __iter__(self) -> Iterator[_Order]:
        coming: deque[tuple[int, set[AudioInput | None]]] = deque()
        for step in range(self._position.step, self._end):
            while coming and coming[0][0] < self._position.step:
                coming.popleft()
            different = _different_clips(self._batches, step)
            ordered = set(self._batches.collator.features.missing(different)).difference(*(each for _, each in coming))
            coming.append((step, ordered))
            self._position.ordered += 1
            yield _Order(step, tuple(number for number, clip in enumerate(different) if clip in ordered))


class _Steps(Dataset[Any]):
    """Prepares a step. It runs in a worker, which has a copy of everything."""

    def __init__(self, batches: Preparing) -> None:
        self._batches = batches

    def __getitem__(self, order: _Order) -> _PackedStep | _Failure:
        """What is sent back."""
        self._batches.collator.in_this_thread()
        try:
            different = _different_clips(self._batches, order.step)
            prepared = self._batches.prepare(order.step, [different[number] for number in order.clips])
        except InputError as error:
            return _Failure(tuple(map(str, error.args)))
        return _PackedStep.pack(prepared, order.clips)


@dataclass(frozen=True)
class _Failure:
    """What an error says, which ``DataLoader`` would rebuild from its message alone."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class _PackedStep:
    """A prepared step on its way between processes; examples and clips are known there and do not travel.

    Attributes:
        tensors: of the batches, and what encoders take of clips.
        stored: features of clips that were found on disk.
        clips: of each clip its number, and for each encoder its key and, unless it was found on disk, the length of
            what is in each window.
    """

    tensors: PackedTensors
    stored: PackedTensors
    clips: list[tuple[int, list[tuple[str, list[int] | None]]]]

    @classmethod
    def pack(cls, step: PreparedStep, numbers: Sequence[int]) -> _PackedStep:
        tensors, stored, clips = {}, {}, []
        for kind, batches in (("task", step.task), ("retention", step.retention)):
            for place, batch in enumerate(batches):
                tensors |= _under(f"{kind}/{place}/", batch.to_tensors())
        for number, of_encoders in zip(numbers, step.clips.values(), strict=True):
            for encoder, clip in enumerate(of_encoders):
                if clip.inputs is None:
                    stored |= _under(f"{number}/{encoder}/", clip.stored or {})
                else:
                    for window, part in enumerate(clip.inputs):
                        tensors |= _under(f"clip/{number}/{encoder}/{window}/", part.tensors)
            lengths = [
                (clip.key, None if clip.inputs is None else [part.num_samples for part in clip.inputs])
                for clip in of_encoders
            ]
            clips.append((number, lengths))
        return cls(PackedTensors.pack(tensors), PackedTensors.pack(stored), clips)

    def unpack(self, device: str | torch.device, task: list[list[Any]], retention: list[list[Any]]) -> PreparedStep:
        """The step on the device, of these examples."""
        tensors, stored = self.tensors.unpack(device), self.stored.unpack()
        different = list(dict.fromkeys(example.audio for bucket in (*task, *retention) for example in bucket))

        def clip(number: int, encoder: int, key: str, lengths: list[int] | None) -> PreparedClip:
            if lengths is None:
                return PreparedClip(key, _within(f"{number}/{encoder}/", stored), None)
            place = f"clip/{number}/{encoder}"
            inputs = [EncoderInputs(_within(f"{place}/{n}/", tensors), length) for n, length in enumerate(lengths)]
            return PreparedClip(key, None, inputs)

        def batches(kind: str, buckets: list[list[Any]]) -> list[Batch]:
            return [
                Batch.from_tensors(_within(f"{kind}/{place}/", tensors), tuple(examples))
                for place, examples in enumerate(buckets)
            ]

        return PreparedStep(
            batches("task", task),
            batches("retention", retention),
            {
                different[number]: [clip(number, encoder, *known) for encoder, known in enumerate(of_encoders)]
                for number, of_encoders in self.clips
            },
        )

    def pin_memory(self) -> _PackedStep:
        """What goes to the device, in pinned memory."""
        return _PackedStep(self.tensors.pin_memory(), self.stored, self.clips)


def _different_clips(batches: Preparing, step: int) -> list[AudioInput | None]:
    """Of a step, in the order of its examples."""
    task, retention = batches.buckets(step)
    return list(dict.fromkeys(example.audio for bucket in (*task, *retention) for example in bucket))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _within(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _as_it_is(prepared: Any) -> Any:
    return prepared


def _leave_signals_to_the_run(_worker: int) -> None:
    for number in _LEFT_TO_THE_RUN:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _without_threads_of_tokenizers() -> Iterator[None]:
    """For a fork: the library's threads do not outlive it, and it says so in each process that it was not told of."""
    before = os.environ.get(_TOKENIZERS)
    os.environ[_TOKENIZERS] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TOKENIZERS]
        else:
            os.environ[_TOKENIZERS] = before
