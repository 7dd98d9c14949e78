"""One call of every operation on given sizes, with its definition in float64: what the GPU's tests and sweeps share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.rehearsal import sized
from safe_kernels import (
    ewc_penalty_,
    fisher_diagonal_,
    kl_divergence,
    linear_kl_divergence,
    project_null_space_,
    squared_gradient_ema_,
)
from safe_kernels.ewc_penalty import reference as ewc_reference
from safe_kernels.fisher_diagonal import reference as fisher_reference
from safe_kernels.kl import reference as kl_reference
from safe_kernels.linear_kl import reference as linear_kl_reference
from safe_kernels.project_null_space import reference as null_space_reference
from safe_kernels.squared_gradient_ema import reference as ema_reference

Tensors = list[Tensor]


@dataclass(frozen=True)
class Case:
    """One operation.

    Attributes:
        operation: its public name.
        name: what sets the case apart from others of the operation.
        make: inputs of a dtype on a device.
        call: results for the inputs, which it leaves as they are.
        expected: the results by the definition, in float64.
        scales: for each result, what errors are relative to; by default the result itself.
        in_place: prepares a call that changes the same tensors each time, to be timed without copies; by default
            `call` is timed.
    """

    operation: str
    name: str
    make: Callable[[torch.device, torch.dtype], Tensors]
    call: Callable[[Tensors], Tensors]
    expected: Callable[[Tensors], Tensors]
    scales: Callable[[Tensors], Tensors] | None = None
    in_place: Callable[[Tensors], Callable[[], Any]] | None = None

    def repeated(self, inputs: Tensors) -> Callable[[], Any]:
        """The operation alone, to be called again and again."""
        return self.in_place(inputs) if self.in_place else lambda: self.call(inputs)

    def errors(self, inputs: Tensors, found: Sequence[Tensor]) -> list[float]:
        """Relative error of each result in Euclidean norm; NaN where a result holds NaN."""
        expected = self.expected(inputs)
        scales = self.scales(inputs) if self.scales else expected
        return [
            float((got.double() - want).norm() / scale.double().norm())
            for got, want, scale in zip(found, expected, scales, strict=True)
        ]


def wide(tensors: Sequence[Tensor]) -> Tensors:
    """In float64."""
    return [tensor.detach().double() for tensor in tensors]


def logits_case(tokens: int, classes: int, divergence: Any = "forward", temperature: float = 1.7) -> Case:
    """`kl_divergence`: value of each token and gradient, in float16 times a loss scale, without which it underflows."""

    def scale(logits: Tensor) -> float:
        return 4096.0 if logits.dtype == torch.float16 else 1.0

    def make(device: torch.device, dtype: torch.dtype) -> Tensors:
        teacher = 3.0 * torch.randn(tokens, classes, device=device)
        return [(teacher + 0.1 * torch.randn_like(teacher)).to(dtype), teacher.to(dtype)]

    def call(inputs: Tensors) -> Tensors:
        student = inputs[0].detach().requires_grad_()
        options: dict[str, Any] = {"temperature": temperature, "divergence": divergence, "reduction": "none"}
        values = kl_divergence(student, inputs[1], **options)
        return [values.detach(), torch.autograd.grad(scale(student) * values.sum(), student)[0]]

    def expected(inputs: Tensors) -> Tensors:
        student, teacher = wide(inputs)
        values = kl_reference.token_divergence(student.requires_grad_(), teacher, temperature, divergence)
        return [values.detach(), torch.autograd.grad(scale(inputs[0]) * values.sum(), student)[0]]

    return Case("kl_divergence", f"N {tokens}, V {classes}, {divergence}", make, call, expected)


def linear_case(
    tokens: int,
    hidden: int,
    classes: int,
    divergence: Any = "forward",
    softcap: float | None = None,
    chunk: int | None = None,
) -> Case:
    """`linear_kl_divergence` under one head: value of each token and gradient."""

    def make(device: torch.device, dtype: torch.dtype) -> Tensors:
        teacher = torch.randn(tokens, hidden, device=device)
        student = teacher + 0.1 * torch.randn_like(teacher)
        weight = 3.0 * torch.randn(classes, hidden, device=device) / hidden**0.5
        return [student.to(dtype), teacher.to(dtype), weight.to(dtype)]

    def call(inputs: Tensors) -> Tensors:
        student, (teacher, weight) = inputs[0].detach().requires_grad_(), inputs[1:]
        values = linear_kl_divergence(
            student, teacher, weight, divergence=divergence, logit_softcap=softcap, chunk_tokens=chunk, reduction="none"
        )
        return [values.detach(), torch.autograd.grad(values.sum(), student)[0]]

    def expected(inputs: Tensors) -> Tensors:
        student, teacher, weight = wide(inputs)
        student.requires_grad_()
        values = linear_kl_reference.linear_token_divergence(
            student, teacher, weight, divergence=divergence, logit_softcap=softcap
        )
        return [values.detach(), torch.autograd.grad(values.sum(), student)[0]]

    name = f"N {tokens}, H {hidden}, V {classes}, {divergence}, softcap {softcap}"
    return Case("linear_kl_divergence", name, make, call, expected)


def fisher_case(samples: int, tokens: int, din: int, dout: int) -> Case:
    """`fisher_diagonal_` on an accumulator of zeros."""

    def make(device: torch.device, dtype: torch.dtype) -> Tensors:
        return [torch.randn(samples, tokens, size, device=device).to(dtype) for size in (din, dout)]

    def call(inputs: Tensors) -> Tensors:
        return [fisher_diagonal_(inputs[0].new_zeros((dout, din), dtype=torch.float32), *inputs)]

    def expected(inputs: Tensors) -> Tensors:
        return [fisher_reference.fisher_diagonal(*wide(inputs))]

    def in_place(inputs: Tensors) -> Callable[[], Any]:
        out = inputs[0].new_zeros((dout, din), dtype=torch.float32)
        return lambda: fisher_diagonal_(out, *inputs)

    name = f"N {samples}, T {tokens}, {dout} x {din}"
    return Case("fisher_diagonal_", name, make, call, expected, in_place=in_place)


def average_case(shapes: Sequence[tuple[int, ...]], decay: float = 0.9) -> Case:
    """`squared_gradient_ema_` of many tensors, with gradients of the dtype."""

    def make(device: torch.device, dtype: torch.dtype) -> Tensors:
        fishers = [torch.rand(shape, device=device) for shape in shapes]
        return [*fishers, *(torch.randn(shape, device=device).to(dtype) for shape in shapes)]

    def call(inputs: Tensors) -> Tensors:
        fishers, grads = [tensor.clone() for tensor in inputs[: len(shapes)]], inputs[len(shapes) :]
        squared_gradient_ema_(fishers, grads, decay)
        return fishers

    def expected(inputs: Tensors) -> Tensors:
        pairs = zip(wide(inputs[: len(shapes)]), wide(inputs[len(shapes) :]), strict=True)
        return [ema_reference.squared_gradient_ema(fisher, grad, decay) for fisher, grad in pairs]

    return Case("squared_gradient_ema_", f"{len(shapes)} tensors", make, call, expected)


def penalty_case(shapes: Sequence[tuple[int, ...]], weight: float = 0.5) -> Case:
    """`ewc_penalty_` of many tensors: the value, then the gradient of each parameter, added to one that is there."""
    count = len(shapes)

    def make(device: torch.device, dtype: torch.dtype) -> Tensors:
        params = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
        anchors = [(p.float() + 0.1 * torch.randn(p.shape, device=device)).to(dtype) for p in params]
        grads = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
        return [*params, *anchors, *(torch.rand(shape, device=device) for shape in shapes), *grads]

    def call(inputs: Tensors) -> Tensors:
        params, anchors, fishers, grads = (inputs[k * count : (k + 1) * count] for k in range(4))
        leaves = [param.detach().requires_grad_() for param in params]
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.grad = grad.clone()
        value = ewc_penalty_(leaves, anchors, fishers, weight)
        return [value, *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    def expected(inputs: Tensors) -> Tensors:
        params, anchors, fishers, grads = (wide(inputs[k * count : (k + 1) * count]) for k in range(4))
        pulls = [weight * f * (p - a) for p, a, f in zip(params, anchors, fishers, strict=True)]
        value = ewc_reference.ewc_penalty(params, anchors, fishers, weight)
        return [value, *(grad + pull for grad, pull in zip(grads, pulls, strict=True))]

    return Case("ewc_penalty_", f"{count} tensors", make, call, expected)


def projection_case(
    shapes: Sequence[tuple[int, int]], rank: int, *, flat: bool = False, one_sided: bool = False
) -> Case:
    """`project_null_space_` of many tensors by bases of their rows, or of the tensors as vectors."""
    count = len(shapes)

    def make(device: torch.device, dtype: torch.dtype) -> Tensors:
        tensors = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
        sizes = [rows * columns if flat else columns for rows, columns in shapes]
        random = [torch.randn(size, min(rank, size), device=device) for size in sizes]
        return [*tensors, *(torch.linalg.qr(matrix)[0].contiguous() for matrix in random)]

    def call(inputs: Tensors) -> Tensors:
        tensors = [tensor.clone() for tensor in inputs[:count]]
        project_null_space_(tensors, inputs[count:], one_sided=one_sided)
        return tensors

    def expected(inputs: Tensors) -> Tensors:
        pairs = zip(wide(inputs[:count]), wide(inputs[count:]), strict=True)
        return [null_space_reference.projected(tensor, basis, one_sided) for tensor, basis in pairs]

    form = "flat" if flat else "rows"
    shape = f" of {shapes[0][0]} x {shapes[0][1]}" if len(set(shapes)) == 1 else ""
    name = f"{count} tensors{shape}, {form}, rank {rank}{', one-sided' if one_sided else ''}"

    def in_place(inputs: Tensors) -> Callable[[], Any]:
        tensors = [tensor.clone() for tensor in inputs[:count]]
        return lambda: project_null_space_(tensors, inputs[count:], one_sided=one_sided)

    return Case(
        "project_null_space_", name, make, call, expected, scales=lambda inputs: inputs[:count], in_place=in_place
    )


def everyday_cases() -> list[Case]:
    """Each operation once, at a native size."""
    classes, size = sized(152064, 70), sized(4096, 24)
    shapes = sized([(612, 612)] * 40 + [(4096, 1024), (37, 1031)], [(6, 12), (3, 5)])
    flats = sized([(612, 612)] * 40 + [(37, 1031)], [(6, 12), (3, 5)])
    return [
        logits_case(sized(64, 3), classes),
        linear_case(sized(256, 4), sized(1024, 16), classes),
        fisher_case(4, sized(512, 5), size, size),
        average_case(shapes),
        penalty_case(shapes),
        projection_case(shapes, 8),
        projection_case(flats, 8, flat=True),
    ]
