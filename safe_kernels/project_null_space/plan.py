"""The null-space projection, prepared for bases that stay from step to step."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from safe_kernels._checks import check_same_length, refuse_compilation
from safe_kernels._tables import Identities, addresses, refuse_overlaps
from safe_kernels.project_null_space import ops
from safe_kernels.project_null_space.api import check_projection
from safe_kernels.project_null_space.stored_basis import StoredBasis, keep_layout, round_basis

_LONG_ROW = 2048
"""Elements beyond which rows in half precision are read in slices, which want a basis of few vectors by element
(`LONG_ROWS` of the kernels' launches, which are not there without Triton)."""

_FORM: Callable[[Tensor], Any] = operator.attrgetter("dtype", "shape", "device")


class ProjectionPlan:
    r"""The null-space projection of fixed tensors out of fixed bases, prepared: `plan()` is `project_null_space_`.

        X <- X - (X U) U^T

    Tensors and bases are checked here, and not at every call. A call looks up where the tensors are; `plan(others)`
    projects others of the same shapes and dtypes, such as gradients made anew, which are looked at once. Some bases
    are copied, others not: another basis needs another plan.

    A CUDA graph may capture a call after one call outside of it with the same tensors. In code for `torch.compile`
    call `project_null_space_`.

    `basis_dtype=torch.float16` keeps the bases of flat forms, [numel, r], in half the memory, and a call reads half as
    much; they are most of what a call reads. The projection out of the rounded basis V stays exact,

        X <- X - V (V^T V)^-1 V^T X,

    but V's span is turned against U's: up to 2e-4 of the removed component is left (measured). The caller may drop
    its own copy. Bases of row forms are small beside their tensors and stay as they are.

    Args:
        tensors: any shapes, strides and floating dtypes; changed in place by the calls.
        bases: one for each tensor, orthonormal columns, float32 or float64; see `project_null_space_`. In flat forms a
            basis [d, r] whose memory is [r, d] (the transpose of a packed [r, d]) is read fastest. Those of row forms
            are copied where they do not lie as they are read fastest.
        one_sided: remove only positive coefficients.
        basis_dtype: in which dtype bases of flat forms are kept; None: as they are given.
        check_orthonormal: measure U^T U; makes the host wait for a GPU.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: as of `project_null_space_`, or two tensors share memory.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        bases: Sequence[Tensor],
        *,
        one_sided: bool = False,
        basis_dtype: torch.dtype | None = None,
        check_orthonormal: bool = False,
    ) -> None:
        if basis_dtype not in (None, torch.float16):
            raise TypeError(
                f"basis_dtype: expected None or torch.float16, got {basis_dtype}; bfloat16 takes as much memory for "
                "fewer digits"
            )
        check_projection(tensors, bases, check_orthonormal)
        self._tensors, self._one_sided = list(tensors), one_sided
        with torch.no_grad():
            self._bases = [
                _store(basis.detach(), tensor, basis_dtype) for tensor, basis in zip(tensors, bases, strict=True)
            ]
        self._identities = Identities()
        self._forms = list(map(_FORM, tensors))
        self._strides, self._places = list[tuple[int, ...]](), list[int]()
        self._launch: Callable[[Sequence[Tensor], list[int]], None] = _nothing
        if tensors:
            self._prepare(self._tensors)

    @torch.no_grad()
    def __call__(self, tensors: Sequence[Tensor] | None = None) -> None:
        """Project the tensors of the plan, or others of the same shapes and dtypes, in place.

        Raises:
            GraphCaptureError: a CUDA graph is being captured, and a tensor is not where it was at the call before.
            ValueError: others do not fit, or two of them share memory.
        """
        refuse_compilation("project_null_space_")
        given = self._tensors if tensors is None else tensors
        known = given is self._tensors or self._identities.same(given)
        if not known or addresses(given) != self._places:
            self._prepare(given)
        self._launch(given, self._places)
        torch.autograd.graph.increment_version(given)  # a launch changes them behind autograd's back

    def _prepare(self, tensors: Sequence[Tensor]) -> None:
        """Look at tensors that are new or have moved; where they are like those of before, what is prepared is kept."""
        check_same_length("tensors", tensors, "the plan's tensors", self._forms)
        forms, strides, places = list(map(_FORM, tensors)), list(map(Tensor.stride, tensors)), addresses(tensors)
        if forms != self._forms:
            index = list(map(operator.eq, forms, self._forms)).index(False)
            raise ValueError(
                f"tensors[{index}]: expected {_text(self._forms[index])} as in the plan, got {_text(forms[index])}; "
                "make another plan"
            )
        if places != self._places or strides != self._strides:
            refuse_overlaps("tensors", tensors)
        if strides != self._strides:
            self._launch = ops.prepare(tensors, self._bases, self._one_sided)
        self._strides, self._places = strides, places
        self._identities.remember(tensors)


def _store(basis: Tensor, tensor: Tensor, dtype: torch.dtype | None) -> StoredBasis:
    """Bases of row forms are small: copied where they do not lie as they are read fastest."""
    dimension, rank = basis.shape
    flat = tensor.numel() == dimension
    if flat:
        return round_basis(basis) if dtype is not None and rank else keep_layout(basis, flat)
    by_element = rank % 4 == 0 and (tensor.dtype == torch.float32 or (rank <= 8 and dimension > _LONG_ROW))
    return keep_layout(basis.contiguous() if by_element else basis.t().contiguous().t(), flat)


def _text(form: Any) -> str:
    dtype, shape, device = form
    return f"{dtype} {list(shape)} on {device}"


def _nothing(_: Sequence[Tensor], __: list[int]) -> None:
    """No tensors, nothing to do."""
