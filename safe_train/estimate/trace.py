"""What a computation costs, found by running it on the meta device: arithmetic, memory traffic, bytes alive at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_MANY = 2**30
_MEMORY_BOUND = ("safe_kernels::project_null_space_",)
"""Operators with products whose time is that of their memory traffic: a basis has few vectors."""

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass
class Cost:
    """What a computation takes.

    Attributes:
        flops: arithmetic operations of its matrix products; a multiplication and an addition are two.
        traffic: bytes that its other operations read and write, each for itself.
        operations: how many operations are started.
    """

    flops: float = 0.0
    traffic: float = 0.0
    operations: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.traffic + other.traffic, self.operations + other.operations)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.flops * times, self.traffic * times, round(self.operations * times))


class MetaTrace(TorchDispatchMode):
    """Counts, inside a ``with`` block, what operations on meta tensors would cost elsewhere.

    A meta tensor has no value, so where the program asks for one it is told 1.0, True, or as a count a large number:
    every check for finite values passes, and every limit is reached. Attention counts as the fused kernels do it, which
    never hold the scores of a whole row.

    Attributes:
        cost: of everything so far.
        alive: bytes of the meta tensors that are alive.
        peak: largest ``alive`` since the last phase began.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost()
        self.alive = self.peak = 0
        self._storages: dict[int, int] = {}
        self._attention = ExitStack()

    def __enter__(self) -> MetaTrace:
        self._attention.enter_context(_fused_attention())
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._attention.close()

    @contextmanager
    def phase(self) -> Iterator[Phase]:
        """Measures a block: what it costs, and the largest number of bytes that are alive in it."""
        found = Phase()
        before, self.cost = self.cost, Cost()
        self.peak = self.alive
        yield found
        found.cost, self.cost = self.cost, before + self.cost
        found.peak = self.peak

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else _MANY
        given = [tensor for tensor in _tensors((args, kwargs)) if tensor.is_meta]
        known = {tensor.untyped_storage()._cdata for tensor in given}
        result = func(*args, **kwargs)
        made = [tensor for tensor in _tensors(result) if tensor.is_meta]
        new = [tensor for tensor in made if tensor.untyped_storage()._cdata not in known]
        for tensor in new:
            self._note(tensor)
        if new or func._schema.is_mutable:  # else it gives views of what was there, or leaves the meta device
            self._count(func, args, kwargs, result, given + new)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        self._storages[key] = size
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.alive -= self._storages.pop(key)

    def _count(self, func: Any, args: tuple, kwargs: dict, result: Any, moved: list[Tensor]) -> None:
        formula = _FORMULAS.get(func._overloadpacket) or flop_registry.get(func._overloadpacket)
        if formula is not None and func.name() not in _MEMORY_BOUND:
            self.cost += Cost(flops=formula(*args, **kwargs, out_val=result), operations=1)
        else:
            self.cost += Cost(traffic=sum(_span(tensor) for tensor in moved), operations=1)


@dataclass
class Phase:
    """A part of a traced computation.

    Attributes:
        cost: what it took.
        peak: largest number of bytes alive in it, those from before included.
    """

    cost: Cost = field(default_factory=Cost)
    peak: int = 0


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention on the meta device as the fused CPU kernel; by itself it would be taken apart into matrix products.

    The function is replaced for the block, since a mode would not be on where a backward pass runs forward again.
    """
    own = F.scaled_dot_product_attention

    def routed(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return (_attention if query.is_meta else own)(query, *args, **kwargs)

    F.scaled_dot_product_attention = routed
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
    return _CPU_ATTENTION(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Two products: of queries with keys, of weights with values."""
    batch, heads, length, width = query.shape
    return 2 * batch * heads * length * key.shape[-2] * (width + value.shape[-1])


def _attention_backward_flops(_gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Five products: the scores again, and the gradients of weights, values, queries and keys."""
    batch, heads, length, width = query.shape
    return 2 * batch * heads * length * key.shape[-2] * (3 * width + 2 * value.shape[-1])


_FORMULAS: dict[Any, Callable[..., int]] = {
    _CPU_ATTENTION: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors among the arguments or results of an operator, which nests lists and tuples at most."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    return [tensor for part in tree for tensor in _tensors(part)]


def _span(tensor: Tensor) -> int:
    """Bytes of the tensor's own elements, one that is expanded over others counted once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
