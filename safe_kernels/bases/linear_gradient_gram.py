r"""The principal subspace of a linear layer's per-sample weight gradients, from inputs and output gradients alone.

For `y[n,t] = W a[n,t]` and the gradient d[n,t] of sample n's loss with respect to y[n,t], the sample's gradient with
respect to W [o, i] is, flat,

    g_n = vec(sum_t d[n,t] a[n,t]^T)

and so the Gram matrix of all samples' gradients is

    K[n,m] = <g_n, g_m> = sum_{t,s} (a[n,t] . a[m,s]) (d[n,t] . d[m,s])

With its eigenvalues s_i^2 and eigenvectors u_i, the i-th principal direction is a weighted sum of the gradients,

    v_i = (1 / s_i) sum_n u_i[n] g_n

T (i + o) numbers a sample are enough for all of it, where a gradient has i o. For n = m the identity gives the norms of
per-sample gradients: Goodfellow 2015, arXiv:1510.01799 (T = 1), and Li et al. 2022, arXiv:2110.05679.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safe_kernels._checks import check_floating, check_positive, check_rank, check_same_device, check_shape
from safe_kernels._dtypes import accumulation_dtype
from safe_kernels.bases.basis import Basis
from safe_kernels.bases.spectrum import (
    check_selection,
    energy_share,
    gram,
    orthonormalize_,
    product,
    select_rank,
    singular_resolution,
    spectrum,
    without_autocast,
)

_FORMED = 2**20
"""Elements of gradients formed at a time, 4 MiB of float32."""

_FORMED_OUTPUTS = 16
"""Outputs of the layer whose gradients are formed at a time at least: products with fewer are slow."""

_TOKENS = 2048
"""Tokens whose products with others are formed at a time: two float64 matrices of 32 MiB."""


class LinearGradientGram:
    """Samples' gradients of one weight, kept as inputs and output gradients, for the subspace that they span.

    Exact, unlike a sketch: what is kept determines every gradient. It takes as few numbers a sample as will do,
    `min(T (i + o), i o)`; longer sequences are kept as gradients.

    Args:
        in_features: i, width of the layer's inputs.
        out_features: o, width of its outputs.

    Attributes:
        in_features: width of the inputs.
        out_features: width of the outputs.
        sample_count: samples so far.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        check_positive("in_features", in_features)
        check_positive("out_features", out_features)
        self.in_features, self.out_features = in_features, out_features
        self.sample_count = 0
        self._parts: list[_Tokens | Tensor] = []
        self._dtype: torch.dtype | None = None
        self._device: torch.device | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(part.nbytes for part in self._parts)

    def update(self, inputs: Tensor, grad_outputs: Tensor) -> None:
        """Add samples. The tensors are kept without a copy: do not change them afterwards.

        Args:
            inputs: [N, T, i], any floating dtype. Padding counts nothing where its output gradient is zero.
            grad_outputs: [N, T, o] gradient of each sample's own loss, on the same device, any floating dtype.

        Raises:
            TypeError: a dtype is not supported, or results in float64 where there were samples in less, or reversely.
            ValueError: a shape does not fit, or the devices differ.
        """
        check_floating("inputs", inputs)
        check_floating("grad_outputs", grad_outputs)
        check_rank("inputs", inputs, "N, T, i")
        num_samples, num_tokens, _ = inputs.shape
        check_shape("inputs", inputs, (num_samples, num_tokens, self.in_features))
        check_shape("grad_outputs", grad_outputs, (num_samples, num_tokens, self.out_features))
        check_same_device("grad_outputs", grad_outputs, "inputs", inputs)
        tokens = _Tokens(inputs.detach(), grad_outputs.detach())
        if self._dtype not in (None, tokens.dtype):
            raise TypeError(f"inputs: expected a dtype that gives bases in {self._dtype} as before, got {inputs.dtype}")
        if self._device not in (None, inputs.device):
            raise ValueError(f"inputs: expected the device of the samples before, {self._device}, got {inputs.device}")
        self._dtype, self._device = tokens.dtype, inputs.device
        keeps_tokens = tokens.nbytes <= _num_gradient_bytes(inputs, grad_outputs)
        self._parts.append(tokens if keeps_tokens else tokens.gradients(slice(None)))
        self.sample_count += num_samples

    def gram(self) -> Tensor:
        """K [n, n] in float64, the products of all samples' gradients, in the order in which they came.

        From pairs of tokens, or from gradients that are formed for a few outputs at a time, whichever is less work.
        """
        tokens = self._tokens()
        if tokens and self._pairs_are_less_work(tokens):
            return _gram_of_pairs(tokens, self.sample_count)
        total: Tensor | None = None
        for _, formed in self._form_gradients():
            part = gram(formed)
            total = part if total is None else total.add_(part)
        return torch.zeros((0, 0), dtype=torch.float64) if total is None else total

    def basis(self, *, rank: int | None = None, energy: float | None = None, oriented: bool = False) -> Basis:
        """Principal subspace of the gradients: vectors [o i, r], flat like the weight; captured energy is exact.

        Args:
            rank: at most so many vectors; None is no limit.
            energy: as few vectors as capture this share, in (0, 1]; None takes as many as `rank` allows.
            oriented: give every vector the sign with which its product with the mean gradient is not negative, as
                `Basis.oriented` does: `<sum_n g_n, v_i> = s_i sum_n u_i[n]`.

        Returns:
            The basis; fewer vectors than `rank` where the gradients have fewer independent directions. Its vectors are
            float64 where the samples are, else float32.

        Raises:
            ValueError: rank or energy does not fit, there is no sample, or what was given is not finite.
        """
        size = self.in_features * self.out_features
        check_selection(rank, energy, size)
        if self._dtype is None:
            raise ValueError("basis: expected samples, got none; call update first")
        squares, left = spectrum("inputs, grad_outputs", self.gram())
        total = float(squares.sum())
        resolution = singular_resolution(min(self.sample_count, size), self._dtype) ** 2
        keep = min(select_rank(squares, total, resolution, rank, energy), size)
        squares, left = squares[:keep], left[:, :keep]
        if oriented:
            left = left * torch.where(left.sum(dim=0) < 0, -1.0, 1.0)
        weights = (left / squares.sqrt()).to(self._dtype)
        with without_autocast(weights.device):
            vectors = orthonormalize_(self._weighted_sums(weights))
        return Basis(vectors, energy_share(squares, total), squares.sqrt().to(self._dtype))

    def _tokens(self) -> list[_Tokens] | None:
        """The parts; None if some are kept as gradients."""
        tokens = [part for part in self._parts if isinstance(part, _Tokens)]
        return tokens if len(tokens) == len(self._parts) else None

    def _pairs_are_less_work(self, tokens: Sequence[_Tokens]) -> bool:
        """Products of all pairs of tokens, against forming the gradients and the products of all pairs of them."""
        num_tokens, count = sum(part.num_tokens for part in tokens), self.sample_count
        size = self.in_features * self.out_features
        return num_tokens**2 * (self.in_features + self.out_features) <= (2 * num_tokens + count**2) * size

    def _weighted_sums(self, weights: Tensor) -> Tensor:
        """`sum_n weights[n,k] g_n` as [o i, r], from tokens or from gradients, whichever is less work."""
        tokens, rank = self._tokens(), weights.shape[1]
        if tokens is not None:
            num_tokens = sum(part.num_tokens for part in tokens)
            if num_tokens * rank <= num_tokens + 2 * self.sample_count * rank:
                return _weighted_sums_of_tokens(tokens, weights)
        sums = weights.new_empty((self.out_features * self.in_features, rank))
        for outputs, formed in self._form_gradients():
            torch.mm(formed.t(), weights, out=sums[outputs.start * self.in_features : outputs.stop * self.in_features])
        return sums

    def _form_gradients(self) -> Iterator[tuple[slice, Tensor]]:
        """Some outputs at a time, the gradients of their weights: [n, outputs * i]. The next overwrites the last."""
        if not self._parts:
            return
        step = max(_FORMED_OUTPUTS, _FORMED // max(1, self.sample_count * self.in_features))
        step = min(step, self.out_features)
        buffer = torch.empty((self.sample_count, step * self.in_features), dtype=self._dtype, device=self._device)
        for start in range(0, self.out_features, step):
            outputs = slice(start, min(start + step, self.out_features))
            width = outputs.stop - outputs.start
            formed = buffer[:, : width * self.in_features]
            first = 0
            for part in self._parts:
                found = part.gradients(outputs) if isinstance(part, _Tokens) else part[:, outputs]
                formed[first : first + len(found)] = found.flatten(1)
                first += len(found)
            yield outputs, formed


@dataclass(frozen=True)
class _Tokens:
    """Samples as they were captured: inputs [N, T, i] and output gradients [N, T, o]."""

    inputs: Tensor
    grad_outputs: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """In which gradients are formed."""
        return accumulation_dtype(torch.promote_types(self.inputs.dtype, self.grad_outputs.dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.inputs.nbytes + self.grad_outputs.nbytes

    @property
    def num_tokens(self) -> int:
        """N T."""
        return self.inputs.shape[0] * self.inputs.shape[1]

    def gradients(self, outputs: slice) -> Tensor:
        """Gradients of these outputs' weights, [N, outputs, i]."""
        left = self.grad_outputs[:, :, outputs].to(self.dtype)
        with without_autocast(left.device):
            return left.transpose(1, 2) @ self.inputs.to(self.dtype)

    def split(self) -> Iterator[_Tokens]:
        """Parts of few tokens, of one sample at least."""
        step = max(1, _TOKENS // max(1, self.inputs.shape[1]))
        for inputs, grad_outputs in zip(self.inputs.split(step), self.grad_outputs.split(step), strict=True):
            yield _Tokens(inputs, grad_outputs)


def _num_gradient_bytes(inputs: Tensor, grad_outputs: Tensor) -> int:
    width = _Tokens(inputs, grad_outputs).dtype.itemsize
    return inputs.shape[0] * inputs.shape[2] * grad_outputs.shape[2] * width


def _weighted_sums_of_tokens(parts: Sequence[_Tokens], weights: Tensor) -> Tensor:
    """`sum_n weights[n,k] sum_t d[n,t] a[n,t]^T` as [o i, r]: for few tokens one product for some outputs at a time."""
    rank = weights.shape[1]
    inputs = torch.cat([part.inputs.flatten(0, 1) for part in parts]).to(weights.dtype)
    grad_outputs = torch.cat([part.grad_outputs.flatten(0, 1) for part in parts]).to(weights.dtype)
    lengths = torch.cat([torch.full((len(part.inputs),), part.inputs.shape[1]) for part in parts]).to(weights.device)
    of_token = weights.repeat_interleave(lengths, dim=0, output_size=len(inputs))
    in_features, out_features = inputs.shape[1], grad_outputs.shape[1]
    sums = weights.new_empty((out_features, in_features, rank))
    step = max(1, _FORMED // max(1, rank * max(inputs.shape)))
    for start in range(0, out_features, step):
        scaled = of_token.t()[:, None] * grad_outputs[:, start : start + step].t()
        found = scaled.flatten(0, 1) @ inputs
        sums[start : start + step] = found.view(*scaled.shape[:2], in_features).permute(1, 2, 0)
    return sums.flatten(0, 1)


def _gram_of_pairs(parts: Sequence[_Tokens], count: int) -> Tensor:
    """K from the products of all pairs of tokens."""
    blocks = [block for part in _join_neighbors(parts) for block in part.split()]
    total = torch.zeros((count, count), dtype=torch.float64, device=blocks[0].inputs.device)
    row = 0
    for number, left in enumerate(blocks):
        column = row
        for right in blocks[number:]:
            found = _pair_products(left, right)
            total[row : row + found.shape[0], column : column + found.shape[1]] = found
            column += found.shape[1]
        row += len(left.inputs)
    return total.triu_().add_(total.triu(1).t())


def _join_neighbors(parts: Sequence[_Tokens]) -> Iterator[_Tokens]:
    """Neighbors of one length as one part, so that many small updates are few products."""
    group: list[_Tokens] = []
    for part in parts:
        if group and (part.inputs.shape[1] != group[0].inputs.shape[1] or sum(p.num_tokens for p in group) > _TOKENS):
            yield _concatenate(group)
            group = []
        group.append(part)
    yield _concatenate(group)


def _concatenate(group: Sequence[_Tokens]) -> _Tokens:
    if len(group) == 1:
        return group[0]
    return _Tokens(torch.cat([part.inputs for part in group]), torch.cat([part.grad_outputs for part in group]))


def _pair_products(left: _Tokens, right: _Tokens) -> Tensor:
    """Products of the gradients of left samples [N] with those of right ones [M], in float64."""
    factors = product(left.inputs.flatten(0, 1), right.inputs.flatten(0, 1))
    factors *= product(left.grad_outputs.flatten(0, 1), right.grad_outputs.flatten(0, 1))
    sizes = (*left.inputs.shape[:2], *right.inputs.shape[:2])
    return factors.view(sizes).sum(dim=(1, 3))
