r"""Frequent Directions: a small sketch of many rows, kept as they stream by.

A buffer of 2 l rows is filled; when it is full, it is replaced by l rows: its singular values are shrunk by
`s_i^2 <- max(s_i^2 - s_{l+1}^2, 0)`. For the rows G seen and the sketch S,

    0 <= G^T G - S^T S <= ||G - G_k||_F^2 / (l + 1 - k) I      for every k <= l

(Ghashami, Liberty, Phillips, Woodruff 2016, "Frequent Directions: simple and deterministic matrix sketching";
shrinking by the next singular value keeps l rows and makes the denominator l + 1 - k).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from safe_kernels._checks import check_floating, check_positive, check_shape
from safe_kernels._dtypes import WIDE_DTYPES
from safe_kernels.bases.basis import Basis, sketch_basis
from safe_kernels.bases.spectrum import check_selection, spectrum, without_autocast


class FrequentDirections:
    """Streaming sketch of rows, for the principal subspace of more of them than memory holds.

    Args:
        dim: length d of a row.
        rank: l, the rows kept; the buffer holds 2 l. Bases of up to this rank can be asked for.
        device: where the sketch lives.
        dtype: float32 or float64.

    Attributes:
        dim: length of a row.
        rank: rows kept.
        sample_count: rows seen.
        energy: their squared Frobenius norm.
    """

    def __init__(
        self, dim: int, rank: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        check_positive("dim", dim)
        check_positive("rank", rank)
        check_selection(rank, None, dim)
        self.dim = dim
        self.rank = rank
        self.sample_count = 0
        self.energy = 0.0
        self._buffer = torch.zeros((2 * rank, dim), device=device, dtype=dtype)
        check_floating("dtype", self._buffer, WIDE_DTYPES)
        self._filled = 0

    @property
    def sketch(self) -> Tensor:
        """The rows S kept, at most [2 l, d]; a view."""
        return self._buffer[: self._filled]

    def update(self, rows: Tensor) -> None:
        """Add rows [n, d] of any floating dtype.

        Raises:
            TypeError: the dtype is not supported.
            ValueError: the shape does not fit, or the rows are not finite.
        """
        check_floating("rows", rows)
        check_shape("rows", rows, (rows.shape[0] if rows.dim() == 2 else 0, self.dim))
        energy = float(torch.linalg.vector_norm(rows, dtype=torch.float64)) ** 2
        if not energy < float("inf"):
            raise ValueError("rows: expected finite values, got NaN or infinity")
        self._absorb(rows)
        self.sample_count += rows.shape[0]
        self.energy += energy

    def merge(self, other: FrequentDirections) -> None:
        """Add the rows that another sketch has seen; the bound then holds for all rows together.

        Raises:
            ValueError: the other sketch has another row length or rank.
        """
        if (other.dim, other.rank) != (self.dim, self.rank):
            raise ValueError(
                f"other: expected dim {self.dim} and rank {self.rank}, got dim {other.dim} and rank {other.rank}"
            )
        self._absorb(other.sketch)
        self.sample_count += other.sample_count
        self.energy += other.energy

    def basis(self, *, rank: int | None = None, energy: float | None = None) -> Basis:
        """Principal subspace of the sketch.

        Args:
            rank: at most so many vectors, by default and at most the sketch's rank.
            energy: as few vectors as capture this share of all rows' energy, in (0, 1].

        Raises:
            ValueError: rank or energy does not fit.
        """
        rank = self.rank if rank is None else rank
        check_selection(rank, energy, self.rank)
        return sketch_basis(self.sketch, self.energy, rank=rank, energy=energy)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on, as tensors: sketch, sample_count (int64), energy (float64), rank (int64)."""
        return {
            "sketch": self.sketch.clone(),
            "sample_count": torch.tensor(self.sample_count),
            "energy": torch.tensor(self.energy, dtype=torch.float64),
            "rank": torch.tensor(self.rank),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state; going on from it gives the same bits as never having stopped.

        Raises:
            ValueError: the state belongs to a sketch of another row length or rank.
        """
        rows, rank = state["sketch"], int(state["rank"])
        check_shape("state['sketch']", rows, (rows.shape[0], self.dim))
        if rank != self.rank or rows.shape[0] > 2 * self.rank:
            raise ValueError(f"state['rank']: expected {self.rank}, got {rank} with {rows.shape[0]} rows")
        self._filled = rows.shape[0]
        self._buffer.zero_()
        self._buffer[: self._filled] = rows
        self.sample_count = int(state["sample_count"])
        self.energy = float(state["energy"])

    def _absorb(self, rows: Tensor) -> None:
        taken = 0
        while taken < rows.shape[0]:
            if self._filled == self._buffer.shape[0]:
                self._shrink()
            step = min(self._buffer.shape[0] - self._filled, rows.shape[0] - taken)
            self._buffer[self._filled : self._filled + step] = rows[taken : taken + step]
            self._filled += step
            taken += step

    def _shrink(self) -> None:
        """Replace the full buffer by `rank` rows with shrunk singular values."""
        # The buffer's dtype is enough here: rounding moves the sketch by 1e-7 of its energy, far inside the bound.
        with without_autocast(self._buffer.device):
            squares, left = spectrum("rows", (self._buffer @ self._buffer.t()).double())
        kept = squares[: self.rank]
        shrunk = (kept - squares[self.rank]).clamp_min(0.0)
        # Rows of left^T B have norm s_i; a direction of norm zero stays zero.
        factors = torch.where(kept > 0, (shrunk / kept.clamp_min(torch.finfo(kept.dtype).tiny)).sqrt(), 0.0)
        mixing = (left[:, : self.rank] * factors).t().to(self._buffer.dtype)
        with without_autocast(self._buffer.device):
            self._buffer[: self.rank] = mixing @ self._buffer
        self._buffer[self.rank :].zero_()
        self._filled = self.rank
