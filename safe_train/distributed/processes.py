"""Data-parallel processes: the sums and gathers by which several compute what one would, rounding aside.

Every process holds all weights and takes its share of each batch's rows: of n processes, process r takes the rows r,
r + n, r + 2 n, ... Losses are divided by the number of answer tokens of all processes, so the *sum* of the processes'
gradients is the gradient of the whole batch; a mean of their means would not be, where the shares hold different
numbers of tokens.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from safe_train.distributed.launch import find_launch
from safe_train.errors import InputError, NonFiniteLossError, PeerRankError, ProcessLostError

logger = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT, EARLIER_TIMEOUT = "SAFE_TIMEOUT", "SAFE_PATIENCE"
"""Variable with the seconds that a process waits for the others before it gives up, and its earlier name."""

_SECONDS = 1800
_BUCKET = 2**24  # elements summed at once: few messages for many small tensors, little memory beside the gradients


class Processes:
    """The processes of a run, as one of them sees them. Alone, each method gives back what it was given.

    Every method but :meth:`shard` and :meth:`global_indices` is collective: all processes call it, in the same order.

    Attributes:
        rank: number of this process, from 0.
        world_size: how many there are.
        collective_forward: whether the base's forward passes are collective too, as they are where it is sharded.
            Each process must then run as many of them as any other.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.world_size, self.collective_forward = rank, world_size, False
        self._device = device or torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, prints and shows progress."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.world_size == 1

    def mesh(self) -> DeviceMesh:
        """All processes in a row, for PyTorch's sharding; its messages and those sent here cannot be confused."""
        group = torch.distributed.new_group(timeout=timedelta(seconds=_timeout()))
        assert isinstance(group, torch.distributed.ProcessGroup)
        return DeviceMesh.from_group(group, self._device.type)

    def shard(self, rows: Sequence[T]) -> Sequence[T]:
        """This process's rows of a batch."""
        return rows if self.is_alone else rows[self.rank :: self.world_size]

    def global_indices(self, count: int) -> range:
        """Where the ``count`` rows of this process's share stand in the batch."""
        return range(self.rank, self.rank + count * self.world_size, self.world_size)

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its sum over all processes, which has the same bits in each of them."""
        if self.is_alone:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            self._all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def sum(self, count: int) -> int:
        """Sum of a count over all processes."""
        return count if self.is_alone else int(self._reduce(count, torch.int64))

    def mean(self, value: float, count: int) -> float:
        """Mean over all processes of a mean over ``count`` items."""
        if self.is_alone:
            return value
        return self._reduce(value * count, torch.float64) / self.sum(count)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.is_alone else self.sum(int(flag)) > 0

    def gather(self, value: Any) -> list[Any]:
        """The JSON values of all processes, in their order. JSON, since unpickling runs what the sender says."""
        if self.is_alone:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self._device)
        sizes = [int(size) for size in self._all_gather(torch.tensor([len(data)], device=self._device))]
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device=self._device)
        padded[: len(data)] = data
        texts = zip(self._all_gather(padded), sizes, strict=True)
        return [json.loads(text[:size].cpu().numpy().tobytes()) for text, size in texts]

    def broadcast(self, value: Any) -> Any:
        """The main process's JSON value."""
        return self.gather(value if self.is_main else None)[0]

    def gather_rows(self, rows: Tensor, total: int) -> Tensor:
        """The ``total`` rows [total, ...] of a batch, in its order, of which each process gives its share [n, ...]."""
        if self.is_alone:
            return rows
        longest = -(-total // self.world_size)
        padded = rows.new_zeros((longest, *rows.shape[1:]))
        padded[: len(rows)] = rows
        # Row j of process r is row j n + r of the batch; what was padded comes to lie behind the last.
        return torch.stack(self._all_gather(padded), dim=1).flatten(0, 1)[:total]

    @contextmanager
    def summed_gradients(self, parameters: Iterable[Tensor]) -> Iterator[None]:
        """Sums over all processes what backward passes inside the block add to the gradients.

        Gradients from before the block are sums already, and are set aside meanwhile.
        """
        if self.is_alone:
            yield
            return
        trained = list(parameters)
        earlier = [parameter.grad for parameter in trained]
        for parameter in trained:
            parameter.grad = None
        yield
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        self.sum_(gradients)
        for parameter, before, gradient in zip(trained, earlier, gradients, strict=True):
            parameter.grad = gradient if before is None else before.add_(gradient)

    @contextmanager
    def raise_on_any_rank(self) -> Iterator[None]:
        """Makes an error that one process meets inside the block end all of them, with one line of the main process.

        Nothing inside may be collective: the process that fails would be missed there.

        Raises:
            InputError: in the main process; it was raised by any.
            NonFiniteLossError: likewise.
            PeerRankError: in the others.
        """
        if self.is_alone:
            yield
            return
        failure: InputError | NonFiniteLossError | None = None
        try:
            yield
        except (InputError, NonFiniteLossError) as error:
            failure = error
        if not self.any(failure is not None):
            return
        found = self.gather(None if failure is None else [type(failure).__name__, *map(str, failure.args)])
        rank, (kind, *words) = next((rank, words) for rank, words in enumerate(found) if words is not None)
        if not self.is_main:
            raise PeerRankError(is_input=kind == InputError.__name__) from failure
        if failure is not None:
            raise failure
        words[0] = f"process {rank}: {words[0]}"
        raise InputError(*words) if kind == InputError.__name__ else NonFiniteLossError(*words)

    def require_same(self, what: str, tensors: Mapping[str, Tensor]) -> None:
        """Finds out whether the tensors have the same bits in every process.

        Raises:
            InputError: they have not, as may be on machines of different kinds.
        """
        if self.is_alone:
            return
        digest = hashlib.sha256()
        for _, tensor in sorted(tensors.items()):
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        found = self.gather(digest.hexdigest())
        with self.raise_on_any_rank():
            if digest.hexdigest() != found[0]:
                raise InputError(what, "the same bits in every process", "others", "use machines of one kind")

    def _reduce(self, value: float, dtype: torch.dtype) -> float:
        tensor = torch.tensor([value], dtype=dtype, device=self._device)
        self._all_reduce(tensor)
        return tensor.item()

    def _all_reduce(self, tensor: Tensor) -> None:
        with self._waiting():
            torch.distributed.all_reduce(tensor)

    def _all_gather(self, tensor: Tensor) -> list[Tensor]:
        found = [torch.empty_like(tensor) for _ in range(self.world_size)]
        with self._waiting():
            torch.distributed.all_gather(found, tensor.contiguous())
        return found

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what gloo raises has no narrower class
            raise _lost(self.rank, self.world_size, error) from error


ALONE = Processes()
"""A single process."""


@contextmanager
def connected(device: torch.device) -> Iterator[Processes]:
    """The processes that this one was started with, connected for the block; alone, nothing is.

    Accelerate makes the process group: gloo for a CPU; NCCL for GPUs, of which each process of a node takes one.

    Raises:
        InputError: the environment says nothing sensible, or a GPU is named by its number.
        ProcessLostError: the others cannot be reached.
    """
    launch = find_launch()
    if launch.world_size == 1:
        yield ALONE
        return
    if device.index is not None:
        raise InputError("device", f"auto or cuda for {launch.world_size} processes", str(device), "leave it at auto")
    from accelerate import PartialState

    # Accelerate would count the machine's cores, where this process may be bound to fewer; torch has counted those.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    if not torch.distributed.is_initialized():
        PartialState._reset_state()  # what it remembers of a group that is closed
    if launch.is_main:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        logger.info("waiting for the other %d processes at %s", launch.world_size - 1, place)
    try:
        with _default_signals():
            state = PartialState(cpu=device.type == "cpu", timeout=timedelta(seconds=_timeout()))
    except RuntimeError as error:
        raise _lost(launch.rank, launch.world_size, error) from error
    try:
        yield Processes(state.process_index, state.num_processes, state.device)
    except RuntimeError as error:  # from a forward or backward pass of a sharded base
        if isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error):
            raise _lost(launch.rank, launch.world_size, error) from error
        raise
    state.destroy_process_group()  # not after an error: the others may be gone


@contextmanager
def _default_signals() -> Iterator[None]:
    """Lets Ctrl-C and the like end the process at once, while it waits in a library that runs no handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    before = {n: signal.signal(n, signal.SIG_DFL) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _timeout() -> float:
    name = EARLIER_TIMEOUT if TIMEOUT not in os.environ and EARLIER_TIMEOUT in os.environ else TIMEOUT
    text = os.environ.get(name, str(_SECONDS))
    if not text.isdecimal() or int(text) < 1:
        raise InputError(name, "seconds, at least 1", repr(text), "correct or unset it")
    return float(text)


def _lost(rank: int, world_size: int, error: RuntimeError) -> ProcessLostError:
    detail = " ".join(str(error).split())
    return ProcessLostError(
        f"process {rank} of {world_size}: expected the others' answers, got {detail}; "
        "see what the others said last, then resume with --resume"
    )


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, in groups of one dtype that are not much larger than ``_BUCKET`` elements."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (bucket[0].dtype != tensor.dtype or sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
