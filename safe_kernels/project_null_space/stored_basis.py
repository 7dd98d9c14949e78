"""How a basis is kept for many projections: where its vectors lie, and in which dtype."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 2**20


class StoredBasis(NamedTuple):
    """A basis as the implementations read it.

    Attributes:
        vectors: [d, r]. Its memory is [d, r] or, if `by_vector`, [r, d] row-major.
        by_vector: whether a vector's entries lie side by side.
        correction: (U^T U)^-1, [r, r], where the columns are not orthonormal; coefficients are (U^T U)^-1 U^T x.
        flat: whether the tensor is projected as one vector.
    """

    vectors: Tensor
    by_vector: bool
    correction: Tensor | None
    flat: bool


def keep_layout(basis: Tensor, flat: bool) -> StoredBasis:
    """The basis itself; a packed copy only where its strides are of neither kind."""
    contiguous = basis.is_contiguous()
    by_vector = basis.shape[1] == 1 if contiguous else basis.t().is_contiguous()
    return StoredBasis(basis if contiguous or by_vector else basis.contiguous(), by_vector, None, flat)


def round_basis(basis: Tensor) -> StoredBasis:
    r"""A basis of the flat form in float16, and what makes the projection exact again.

    The columns of the rounded V = round(U S) are neither orthonormal nor of length 1, but

        X - V (V^T V)^-1 V^T X

    is the exact projection out of the span of V. S is a power of two that brings the entries to a size of about 1,
    where float16 has all its 11 digits; it cancels. V's span is turned against U's by 2^-12 or so in sine.
    """
    dimension, rank = basis.shape
    scale = 2.0 ** round(math.log2(max(dimension, 1)) / 2)
    vectors = torch.empty((rank, dimension), dtype=torch.float16, device=basis.device)
    gram = torch.zeros((rank, rank), dtype=torch.float64, device=basis.device)
    step = max(1, _BLOCK_ELEMENTS // rank)
    for start in range(0, dimension, step):
        block = vectors[:, start : start + step]
        block.copy_((basis[start : start + step] * scale).t())
        wide = block.double()
        gram.addmm_(wide, wide.t())
    correction = torch.linalg.inv(gram).to(basis.dtype)
    return StoredBasis(vectors.t(), True, correction, True)
