r"""Orthonormal bases of the directions that hold most of a set of rows' energy (their principal subspace).

For rows G [n, d] with singular values s_1 >= s_2 >= ... and right singular vectors v_i, the best subspace of rank r is
spanned by v_1..v_r and captures the share (s_1^2 + ... + s_r^2) / ||G||_F^2 of the energy (Eckart and Young 1936).
The squares s_i^2 are the eigenvalues of both G G^T [n, n] and G^T G [d, d], whichever is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from safe_kernels._checks import check_floating, check_rank, check_shape
from safe_kernels._dtypes import WIDE_DTYPES, accumulation_dtype
from safe_kernels.bases.spectrum import (
    check_selection,
    energy_share,
    gram_spectrum,
    select_rank,
    singular_resolution,
    spectrum,
    vectors_from_gram,
)


@dataclass(frozen=True)
class Basis:
    """An orthonormal basis and how much it holds.

    Attributes:
        vectors: [d, r] orthonormal columns, strongest first; float64 for float64 rows, else float32.
        captured_energy: share in [0, 1] of the rows' squared norm that lies in the subspace; 0 where there is none. A
            basis from a sketch gives a lower bound.
        singular_values: [r] singular values of the rows (not squared), largest first.
    """

    vectors: Tensor
    captured_energy: float
    singular_values: Tensor

    @property
    def rank(self) -> int:
        """Number of basis vectors."""
        return self.vectors.shape[1]

    def oriented(self, direction: Tensor) -> Basis:
        """The same subspace with every vector's sign such that its product with `direction` [d] is not negative.

        One-sided projection removes what points along the vectors. Oriented by the mean gradient of a loss, they point
        to where an update raises that loss.
        """
        check_shape("direction", direction.flatten(), (self.vectors.shape[0],))
        products = direction.to(self.vectors.dtype).flatten() @ self.vectors
        signs = torch.where(products < 0, -1.0, 1.0).to(self.vectors.dtype)
        return Basis(self.vectors * signs, self.captured_energy, self.singular_values)


def gram_basis(rows: Tensor, *, rank: int | None = None, energy: float | None = None) -> Basis:
    """Principal subspace of rows, from the eigenvectors of their Gram matrix in float64 ([n, n], or [d, d] if smaller).

    A float32 Gram matrix would square the condition number: singular values below 3e-4 of the largest would be noise.
    The rows are never copied whole.

    Args:
        rows: [n, d], any floating dtype.
        rank: at most so many vectors; None is no limit.
        energy: as few vectors as capture this share, in (0, 1]; None takes as many as `rank` allows.

    Returns:
        The basis; fewer vectors than `rank` where the rows have fewer independent directions.

    Raises:
        TypeError: the dtype is not supported.
        ValueError: shape, rank or energy does not fit, or the rows are not finite.
    """
    check_rank("rows", rows, "n, d")
    check_floating("rows", rows)
    check_selection(rank, energy, rows.shape[1])
    dtype = accumulation_dtype(rows.dtype)
    resolution = singular_resolution(min(rows.shape), dtype) ** 2
    if rows.shape[0] > rows.shape[1]:
        wide = rows.double()
        return _eigenbasis("rows", wide.t() @ wide, dtype, resolution, rank, energy)
    squares, left = gram_spectrum("rows", rows)
    total = float(squares.sum())
    keep = select_rank(squares, total, resolution, rank, energy)
    vectors = vectors_from_gram(rows, squares[:keep], left[:, :keep])
    return Basis(vectors, energy_share(squares[:keep], total), squares[:keep].sqrt().to(dtype))


def covariance_basis(cov: Tensor, *, rank: int | None = None, energy: float | None = None) -> Basis:
    """Principal subspace of the rows whose second moment `sum_n a_n a_n^T` (or its mean) is `cov`, by float64 `eigh`.

    Accumulate `cov += a.T @ a` over a layer's inputs to protect the layer's outputs on them.

    Args:
        cov: [d, d] symmetric positive semi-definite, float32 or float64 (half precision is summed too coarsely).
        rank: at most so many vectors; None is no limit.
        energy: as few vectors as capture this share, in (0, 1]; None takes as many as `rank` allows.

    Returns:
        The basis; fewer vectors than `rank` where `cov` has a smaller rank. Singular values are roots of eigenvalues.

    Raises:
        TypeError: the dtype is not supported.
        ValueError: shape, rank or energy does not fit, or `cov` is not finite.
    """
    check_rank("cov", cov, "d, d")
    check_floating("cov", cov, WIDE_DTYPES)
    check_shape("cov", cov, (cov.shape[0], cov.shape[0]))
    check_selection(rank, energy, cov.shape[0])
    resolution = singular_resolution(cov.shape[0], cov.dtype)
    return _eigenbasis("cov", cov.double(), cov.dtype, resolution, rank, energy)


def sketch_basis(rows: Tensor, total: float, *, rank: int, energy: float | None) -> Basis:
    """Principal subspace of a sketch's rows; the captured share is of `total`, the energy of all rows sketched."""
    squares, left = gram_spectrum("rows", rows)
    resolution = singular_resolution(rows.shape[0], rows.dtype) ** 2
    keep = select_rank(squares, total, resolution, rank, energy)
    vectors = vectors_from_gram(rows, squares[:keep], left[:, :keep])
    return Basis(vectors, energy_share(squares[:keep], total), squares[:keep].sqrt().to(rows.dtype))


def _eigenbasis(
    name: str, moment: Tensor, dtype: torch.dtype, resolution: float, rank: int | None, energy: float | None
) -> Basis:
    squares, vectors = spectrum(name, moment)
    total = float(squares.sum())
    keep = select_rank(squares, total, resolution, rank, energy)
    return Basis(vectors[:, :keep].to(dtype), energy_share(squares[:keep], total), squares[:keep].sqrt().to(dtype))
