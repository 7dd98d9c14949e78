"""Eigenvalues and eigenvectors of Gram matrices in float64, and how many of them to keep."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from safe_kernels._dtypes import accumulation_dtype

_ELEMENTS = 2**18
"""Elements converted to float64 at a time when a Gram matrix is summed: 2 MiB, so that they stay in the cache."""

_ROTATED = 2**20
"""Elements of a basis rotated at a time: a second basis would be as large as the first."""

_BLOCK = 32
"""Rows of a Gram matrix formed at a time, from the diagonal on: the other half is its mirror image."""


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keeps autocast, where a caller has it on, from taking float32 products in half precision."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def check_selection(rank: int | None, energy: float | None, dimension: int) -> None:
    """Raise `ValueError` unless 0 <= rank <= dimension and 0 < energy <= 1, where given."""
    if rank is not None and not 0 <= rank <= dimension:
        raise ValueError(f"rank: expected a number from 0 to the dimension {dimension}, got {rank}")
    if energy is not None and not 0.0 < energy <= 1.0:
        raise ValueError(f"energy: expected a share in (0, 1], got {energy}")


def singular_resolution(size: int, dtype: torch.dtype) -> float:
    """Share of the largest singular value below which a direction may be nothing but the rounding of `size` entries."""
    return 4.0 * size * torch.finfo(dtype).eps


def gram(rows: Tensor) -> Tensor:
    """`rows @ rows.T` in float64."""
    count, dimension = rows.shape
    total = rows.new_zeros((count, count), dtype=torch.float64)
    step = max(1, _ELEMENTS // max(1, count))
    for start in range(0, dimension, step):
        columns = rows[:, start : start + step].double()
        for first in range(0, count, _BLOCK):
            block = slice(first, first + _BLOCK)
            total[block, first:].addmm_(columns[block], columns[first:].t())
    return total.triu_().add_(total.triu(1).t())


def product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.T` in float64."""
    total = left.new_zeros((left.shape[0], right.shape[0]), dtype=torch.float64)
    step = max(1, _ELEMENTS // max(1, *total.shape))
    for start in range(0, left.shape[1], step):
        columns = slice(start, start + step)
        total.addmm_(left[:, columns].double(), right[:, columns].double().t())
    return total


def spectrum(name: str, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (largest first, negative rounding removed) and eigenvectors of a symmetric float64 matrix.

    Raises:
        ValueError: the matrix, made from argument `name`, is not finite.
    """
    if not torch.isfinite(moment).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    values, vectors = torch.linalg.eigh(moment)
    return values.flip(0).clamp_min(0.0), vectors.flip(1)


def gram_spectrum(name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values [n], largest first, and left singular vectors [n, n] of rows [n, d], in float64."""
    return spectrum(name, gram(rows))


def select_rank(squares: Tensor, total: float, resolution: float, rank: int | None, energy: float | None) -> int:
    """How many directions to keep: at most `rank`, as few as reach `energy`, none that is only rounding.

    Args:
        squares: squared singular values, largest first.
        total: energy of which `energy` is a share.
        resolution: squares at most this share of the largest are rounding, not directions.
        rank: limit, or None.
        energy: target share, or None.
    """
    if total <= 0.0 or len(squares) == 0:
        return 0
    keep = int((squares > resolution * squares[0]).sum())
    if energy is not None:
        # On the CPU: sums along a dimension have no fixed order on a GPU, and torch may have been told to refuse them.
        on_host = squares if squares.is_meta else squares.cpu()
        reached = on_host.cumsum(0) >= energy * total * (1.0 - 1e-12)
        keep = min(keep, int((~reached).sum()) + 1)
    return keep if rank is None else min(keep, rank)


def vectors_from_gram(rows: Tensor, squares: Tensor, left: Tensor) -> Tensor:
    """Right singular vectors [d, r] from squared singular values [r] and left singular vectors [n, r].

    `rows^T left / s` is orthonormal up to rounding that grows as s shrinks. One Cholesky step takes that out.
    """
    dtype = accumulation_dtype(rows.dtype)
    scaled = (left / squares.sqrt()).to(dtype)
    with without_autocast(rows.device):
        return orthonormalize_(rows.to(dtype).t() @ scaled)


def orthonormalize_(vectors: Tensor) -> Tensor:
    """Make the columns of nearly orthonormal vectors [d, r] orthonormal, in place; they span what they did, in order.

    With `V^T V = L L^T` it is `V <- V L^-T`.
    """
    factor = torch.linalg.cholesky(gram(vectors.t()))
    identity = torch.eye(factor.shape[0], dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False).t().to(vectors.dtype)
    step = max(1, _ROTATED // max(1, vectors.shape[1]))
    for part in vectors.split(step):
        part.copy_(part @ inverse)
    return vectors


def energy_share(squares: Tensor, total: float) -> float:
    """Share of the total energy that these squared singular values hold, in [0, 1]; 0 of none."""
    return min(1.0, float(squares.sum()) / total) if total > 0.0 else 0.0
