"""The batches of a step: its examples, their encoding, and this process's shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F

from safe_train.audio.input import AudioInput
from safe_train.config import StageAConfig
from safe_train.data.collator import Collator
from safe_train.data.example import Example
from safe_train.data.sampler import ExampleSampler, length_buckets
from safe_train.distributed.processes import ALONE, Processes
from safe_train.errors import InputError
from safe_train.model.batch import Batch
from safe_train.training.prefetch import PreparedStep, StepPrefetcher, reported_deaths
from safe_train.training.settings import OptimizationSettings


@dataclass(frozen=True)
class StepExamples:
    """The examples of a step, over all processes.

    Attributes:
        task: audio examples of each micro-batch.
        retention: retention examples of each micro-batch; empty if no mechanism adds a loss.
    """

    task: list[list[Example]]
    retention: list[list[Example]]


@dataclass(frozen=True)
class StepBatch:
    """The encoded batches of a step, for this process. With length buckets, a micro-batch is several batches.

    Attributes:
        task: batches of audio examples.
        retention: batches of retention examples.
    """

    task: list[Batch]
    retention: list[Batch]


class StepBatches:
    """The batches of every step, a function of the step alone: a resumed or repeated step gets the same ones.

    Attributes:
        waited: seconds that this process has spent on getting batches; on a GPU that still computes, or not, meanwhile.
    """

    def __init__(
        self,
        config: StageAConfig,
        collator: Collator,
        sampler: ExampleSampler,
        processes: Processes = ALONE,
        *,
        with_retention: bool = True,
    ) -> None:
        """Takes what examples are drawn and encoded by.

        Args:
            config: sizes of the batches.
            collator: encodes examples.
            sampler: draws the examples.
            processes: share the examples of each batch.
            with_retention: whether a mechanism adds a loss on retention examples.

        Raises:
            InputError: there are more processes than examples in a batch.
        """
        require_examples_for_all_ranks(config.optimization, processes)
        self._prefetcher: StepPrefetcher | None = None
        self._staged: _Staged | None = None
        self.waited = 0.0
        self._data = config.data
        self.sampler, self.collator, self.processes = sampler, collator, processes
        self.with_retention = with_retention
        self._settings, self._has_buckets = config.optimization, config.data.length_buckets

    @property
    def retention_examples_per_step(self) -> int:
        """Retention examples of all processes in a step."""
        return self._settings.vl_batch_size * self._settings.gradient_accumulation_steps

    def examples(self, step: int) -> StepExamples:
        """The examples of a step, of all processes."""
        numbers = self._micro_batches(step)
        task = [self.sampler.audio_batch(number, self._settings.audio_batch_size) for number in numbers]
        retention = [self._retention_examples(number) for number in numbers] if self.with_retention else []
        return StepExamples(task, retention)

    @contextmanager
    def prefetched(self, first: int, end: int) -> Iterator[None]:
        """Lets workers prepare the steps from ``first`` up to ``end`` within the block, if the settings ask for some.

        Raises:
            InputError: a worker has died.
        """
        self.waited = 0.0
        if self._data.num_workers and first < end:
            self._prefetcher = StepPrefetcher(self, first, end, self._data.num_workers, self._data.prefetch_factor)
        try:
            with reported_deaths():
                yield
        finally:
            if self._prefetcher is not None:
                self._prefetcher.close()
            self._prefetcher = self._staged = None

    def stage(self, step: int) -> None:
        """Fetches a step that workers prepare, and lets the device have it while it still computes another.

        An error is raised when the step is taken: it may be in one process of several.
        """
        if self._prefetcher is None or self._prefetcher.next_step != step or step >= self._prefetcher.end:
            return
        with self._timed():
            try:
                self._staged = _Staged.of(step, partial(self._fetch, self._prefetcher), self._side_stream)
            except InputError as error:
                self._staged = _Staged(step, error)

    def at(self, step: int) -> StepBatch:
        """This process's batches of a step.

        Raises:
            InputError: a file of an example cannot be read.
        """
        with self._timed(), self.processes.raise_on_any_rank():
            batch = self._prepared_at(step)
        return batch

    @cached_property
    def _side_stream(self) -> torch.cuda.Stream | None:
        """On a GPU, one for all steps: the memory of a stream is kept for that stream."""
        device = torch.device(self.collator.device)
        return torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def _prepared_at(self, step: int) -> StepBatch:
        staged, self._staged = self._staged, None
        if staged is not None and staged.step == step:
            return staged.take()
        if self._prefetcher is not None and self._prefetcher.next_step == step:
            return self._fetch(self._prefetcher)
        return self.encode(*self._shard(step))

    def buckets(self, step: int) -> tuple[list[list[Example]], list[list[Example]]]:
        """This process's examples of a step: those of each task batch, and those of each retention batch."""
        task, retention = (
            [list(bucket) for micro_batch in micro_batches for bucket in self._buckets(micro_batch)]
            for micro_batches in self._shard(step)
        )
        return task, retention

    def prepare(self, step: int, clips: Sequence[AudioInput | None]) -> PreparedStep:
        """A step without what models make of it, with these clips decoded; on the CPU.

        Raises:
            InputError: a file of an example cannot be read.
        """
        task, retention = self.buckets(step)
        return PreparedStep(
            [self.collator.training_inputs(bucket) for bucket in task],
            [self.collator.training_inputs(bucket, protected=True) for bucket in retention],
            {clip: self.collator.features.prepare(clip) for clip in clips},
        )

    def _fetch(self, prefetcher: StepPrefetcher) -> StepBatch:
        """The next step that workers prepared, on the device, with the features of its clips."""
        step = prefetcher.take()
        return StepBatch(
            [self.collator.with_audio(batch, silence=False, prepared=step.clips) for batch in step.task],
            [self.collator.with_audio(batch, silence=True, prepared=step.clips) for batch in step.retention],
        )

    def _shard(self, step: int) -> tuple[list[Sequence[Example]], list[Sequence[Example]]]:
        """This process's share of the micro-batches of a step."""
        examples = self.examples(step)
        task, retention = (
            [self.processes.shard(micro_batch) for micro_batch in micro_batches]
            for micro_batches in (examples.task, examples.retention)
        )
        return task, retention

    def whole(self, step: int) -> StepBatch:
        """The batches of a step as one process would have them."""
        examples = self.examples(step)
        return self.encode(examples.task, examples.retention)

    def encode(self, task: Sequence[Sequence[Example]], retention: Sequence[Sequence[Example]]) -> StepBatch:
        """Encodes micro-batches."""
        return StepBatch(
            [self.encode_task(bucket) for micro_batch in task for bucket in self._buckets(micro_batch)],
            [self.encode_retention(bucket) for micro_batch in retention for bucket in self._buckets(micro_batch)],
        )

    def encode_task(self, examples: Sequence[Example]) -> Batch:
        """A batch of audio examples."""
        return self.collator.training_batch(examples)

    def encode_retention(self, examples: Sequence[Example]) -> Batch:
        """A batch of retention examples; audio is attached to each, silence where it has no clip."""
        return self.collator.with_audio(self.collator.training_inputs(examples, protected=True), silence=True)

    def for_calibration(self, step: int, num_examples: int) -> Iterator[Batch]:
        """The retention examples that come from a step on, at least so many of them in all processes.

        The activation subspace counts the inputs at padding too, so a shard is padded as the whole batch would be, and
        there are no length buckets.
        """
        first = self._micro_batches(step).start
        for number in range(first, first + -(-num_examples // self._settings.vl_batch_size)):
            with self.processes.raise_on_any_rank():
                batch = self.encode_retention(self.processes.shard(self._retention_examples(number)))
            lengths = self.processes.gather(batch.inputs["input_ids"].shape[1])
            yield pad_to(batch, max(lengths), self.collator.processor.tokenizer.pad_token_id)

    def _micro_batches(self, step: int) -> range:
        """Numbers of a step's micro-batches."""
        count = self._settings.gradient_accumulation_steps
        return range(step * count, (step + 1) * count)

    def _retention_examples(self, number: int) -> list[Example]:
        return self.sampler.retention_batch(number, self._settings.vl_batch_size)

    def _buckets(self, examples: Sequence[Example]) -> Sequence[Sequence[Example]]:
        """With length buckets, examples with and without an image apart."""
        return length_buckets(examples) if self._has_buckets else [examples]


@dataclass(frozen=True)
class _Staged:
    """A step that was fetched before its turn, or the error that fetching it met.

    Attributes:
        step: its number.
        found: the batches or the error.
        stream: of a GPU, where the batches are still being copied and encoded.
    """

    step: int
    found: StepBatch | InputError
    stream: torch.cuda.Stream | None = None

    @classmethod
    def of(cls, step: int, fetch: Callable[[], StepBatch], stream: torch.cuda.Stream | None) -> _Staged:
        """Fetches a step, on a GPU in a stream beside what it computes."""
        if stream is None:
            return cls(step, fetch())
        with torch.cuda.stream(stream):
            return cls(step, fetch(), stream)

    def take(self) -> StepBatch:
        """The batches, for what the device computes next.

        Raises:
            InputError: fetching them met it.
        """
        if isinstance(self.found, InputError):
            raise self.found
        if self.stream is not None:
            current = torch.cuda.current_stream(self.stream.device)
            current.wait_stream(self.stream)
            for batch in (*self.found.task, *self.found.retention):
                for tensor in batch.to_tensors().values():
                    tensor.record_stream(current)  # or its memory might be given away while it is read there
        return self.found


def pad_to(batch: Batch, length: int, pad_token_id: Any) -> Batch:
    """The batch padded on the right to ``length`` tokens; what has a value for each token is padded with zeros."""
    ids = batch.inputs["input_ids"]
    if ids.shape[1] == length:
        return batch
    missing = (0, length - ids.shape[1])
    inputs = {
        name: F.pad(value, missing, value=pad_token_id if name == "input_ids" else 0)
        if value.shape == ids.shape
        else value
        for name, value in batch.inputs.items()
    }
    return replace(batch, inputs=inputs)


def require_examples_for_all_ranks(settings: OptimizationSettings, processes: Processes) -> None:
    """Finds out whether every process has an example of each batch.

    Raises:
        InputError: there are more processes than examples.
    """
    for name in ("audio_batch_size", "vl_batch_size"):
        size = getattr(settings, name)
        if size < processes.world_size:
            hint = "raise it, or start fewer processes: it counts the rows of all"
            expected = f"a row for each of {processes.world_size} processes"
            raise InputError(f"optimization.{name}", expected, str(size), hint)
