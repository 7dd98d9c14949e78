"""The collective operations that the mechanisms use, and their trivial form for a single process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor


class Collectives(Protocol):
    """Sums and gathers over the processes of a training.

    Each process holds the examples r, r + n, r + 2n, ... of a batch, r its rank and n their number. Every method but
    :meth:`global_indices` is collective: all processes call it, in the same order.
    """

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its sum over all processes, with the same bits in each."""
        ...

    def sum(self, count: int) -> int:
        """Sum of a count."""
        ...

    def mean(self, value: float, count: int) -> float:
        """Mean over all processes of a mean over ``count`` items."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        ...

    def gather_rows(self, rows: Tensor, total: int) -> Tensor:
        """Gathers a batch [total, ...] in its order from the shards [n, ...] of all processes."""
        ...

    def global_indices(self, count: int) -> range:
        """Indices in the batch of this process's ``count`` examples."""
        ...


class SingleProcess:
    """The collectives of a training in one process: each returns its argument."""

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Leaves them as they are."""

    def sum(self, count: int) -> int:
        """The count."""
        return count

    def mean(self, value: float, count: int) -> float:
        """The value."""
        return value

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def gather_rows(self, rows: Tensor, total: int) -> Tensor:
        """The rows."""
        return rows

    def global_indices(self, count: int) -> range:
        """All of them."""
        return range(count)


SINGLE_PROCESS = SingleProcess()
