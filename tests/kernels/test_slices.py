"""Work that is cut into pieces: at least three and a shorter last one, against float64, and each of them counts.

The loops are found in the source, so that a new one without a problem here fails. For each loop a problem is set up in
which it goes around several times; then, as the negative control, the same problem with one of the pieces left out.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import safe_kernels
from safe_kernels import LinearGradientGram, fisher_diagonal_, kl_divergence, linear_kl_divergence, project_null_space_
from safe_kernels.bases import spectrum
from safe_kernels.fisher_diagonal import reference as fisher_reference
from safe_kernels.fisher_diagonal import triton_impl as fisher_launches
from safe_kernels.kl import reference as kl_reference
from safe_kernels.project_null_space import reference as null_space_reference
from safe_kernels.project_null_space import stored_basis
from tests.kernels.conftest import BACKENDS
from tests.tolerances import (
    DIVERGENCE_GRADIENT,
    DIVERGENCE_VALUE,
    FISHER,
    GRAM,
    ORTHONORMAL,
    PROJECTION,
    ROUNDED_BASIS,
    relative_error,
)

# NumPy's, in the interpreter: rows far apart are computed again where they have overflowed, and what is missing is NaN.
pytestmark = pytest.mark.filterwarnings(
    "ignore:overflow encountered", "ignore:invalid value encountered", "ignore:All-NaN slice"
)

FOLDER = Path(str(safe_kernels.__file__)).parent

Error = Callable[[], float]
"""The worst error of a problem, as a multiple of its tolerance."""


@dataclass(frozen=True)
class Loop:
    """A loop over pieces: where it stands, and the name that gives it its pieces."""

    module: str
    function: str
    line: int
    pieces: str

    def __str__(self) -> str:
        return f"{self.module}.{self.function}:{self.pieces}@{self.line}"

    @property
    def in_kernel(self) -> bool:
        """Whether it runs on a GPU, or in Triton's interpreter."""
        return self.module.endswith("kernels")


def cuts(call: ast.Call) -> str | None:
    """The name that gives pieces, if this call does: ``range`` with a step, ``slices`` or a tensor's ``split``."""
    if isinstance(call.func, ast.Name):
        name = call.func.id
        return name if name == "slices" or (name == "range" and len(call.args) == 3) else None
    on_tensor = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) != "tl"
    return "split" if on_tensor and call.func.attr == "split" and call.args else None


def loops() -> Iterator[Loop]:
    for path in sorted(FOLDER.rglob("*.py")):
        module = ".".join(path.relative_to(FOLDER).with_suffix("").parts)
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                calls = (node for node in ast.walk(function) if isinstance(node, ast.Call))
                found = {(call.lineno, name) for call in calls if (name := cuts(call))}
                yield from (Loop(module, function.name, line, name) for line, name in sorted(found))


LOOPS = list(loops())


# Problems


def divergences(rows: int = 8, distances: tuple[float, ...] = (0.3,)) -> float:
    """Logits [rows, 201] of every divergence and distance, the last token masked.

    Of a row that is far apart one class is all that counts; there is one in each block of 64.
    """
    worst = []
    for divergence, distance in product(("forward", "reverse", "jsd"), distances):
        teacher = 3.0 * torch.randn(rows, 201)
        student = teacher + distance * torch.randn(rows, 201)
        if distance > 40.0:
            student[torch.arange(rows), 64 * torch.arange(rows) % 256 + 5] += 200.0
        mask = torch.arange(rows) < rows - 1
        leaf, wide = student.clone().requires_grad_(), student.double().requires_grad_()
        values = kl_divergence(leaf, teacher, mask=mask, divergence=divergence, reduction="none")
        values.sum().backward()
        want = kl_reference.token_divergence(wide, teacher.double(), 1.0, divergence) * mask
        want.sum().backward()
        assert leaf.grad is not None
        assert wide.grad is not None
        worst.append(relative_error(values, want) / DIVERGENCE_VALUE[torch.float32])
        if distance > 40.0:  # q is one class to seven digits; what is left is rounding of logits of size 200
            worst.append(float((leaf.grad.double() - wide.grad).abs().max()) / 1e-3)
        else:
            worst.append(relative_error(leaf.grad, wide.grad) / DIVERGENCE_GRADIENT[torch.float32])
    return largest(worst)


def where() -> torch.device:
    """The GPU for compiled kernels, else the CPU."""
    compiled = os.environ["SAFE_KERNELS_BACKEND"] == "triton" and torch.cuda.is_available()
    return torch.device("cuda" if compiled else "cpu")


def linear_divergences(dtype: torch.dtype = torch.float32, **options: Any) -> float:
    """Hidden states [7, 24] and a head of 150 classes."""
    weight = torch.randn(150, 24, device=where()).to(dtype)
    teacher = torch.randn(7, 24, device=where()).to(dtype)
    student = (teacher.float() + 0.1 * torch.randn_like(teacher, dtype=torch.float32)).to(dtype).requires_grad_()
    values = linear_kl_divergence(student, teacher, weight, reduction="none", **options)
    values.sum().backward()
    leaf = student.detach().double().requires_grad_()
    want = kl_reference.token_divergence(leaf @ weight.double().T, teacher.double() @ weight.double().T, 1.0, "forward")
    want.sum().backward()
    assert student.grad is not None
    assert leaf.grad is not None
    return largest(
        [
            relative_error(values, want) / DIVERGENCE_VALUE[dtype],
            relative_error(student.grad, leaf.grad) / DIVERGENCE_GRADIENT[dtype],
        ]
    )


def fisher(samples: int, tokens: int, dout: int, din: int) -> float:
    device = where()
    inputs, grads = torch.randn(samples, tokens, din, device=device), torch.randn(samples, tokens, dout, device=device)
    found = fisher_diagonal_(torch.zeros(dout, din, device=device), inputs, grads)
    want = fisher_reference.fisher_diagonal(inputs.double(), grads.double())
    return relative_error(found, want) / FISHER[torch.float32]


def projection(shape: tuple[int, ...], dimension: int, rank: int, dtype: torch.dtype = torch.float32) -> float:
    basis = torch.linalg.qr(torch.randn(dimension, rank, dtype=torch.float64))[0].float().contiguous()
    tensor = torch.randn(shape).to(dtype)
    before = tensor.double()
    want = null_space_reference.projected(before, basis.double(), False)
    project_null_space_([tensor], [basis])
    return float((tensor.double() - want).norm() / before.norm()) / PROJECTION[dtype]


def gram_matrix() -> float:
    rows = torch.randn(5, 20)
    return relative_error(spectrum.gram(rows), rows.double() @ rows.double().T) / GRAM[torch.float64]


def product_of_rows() -> float:
    left, right = torch.randn(5, 20), torch.randn(3, 20)
    return relative_error(spectrum.product(left, right), left.double() @ right.double().T) / GRAM[torch.float64]


def orthonormal_columns() -> float:
    """``V L^-T`` of ``V^T V = L L^T`` is the Q of the QR decomposition in which R's diagonal is positive."""
    vectors = torch.randn(20, 4)
    q, r = torch.linalg.qr(vectors.double())
    found = spectrum.orthonormalize_(vectors.clone())
    return relative_error(found, q * r.diagonal().sign()) / ORTHONORMAL[torch.float32]


def rounded_basis() -> float:
    """Vectors are the basis to float16, times a power of two; the correction is the inverse of their Gram matrix."""
    basis = torch.linalg.qr(torch.randn(50, 4))[0].contiguous()
    stored = stored_basis.round_basis(basis)
    vectors = stored.vectors.double()
    scale = 2.0 ** round(float((vectors.norm() / basis.norm()).log2()))
    assert stored.correction is not None
    identity = stored.correction.double() @ vectors.T @ vectors
    return largest(
        [
            relative_error(vectors / scale, basis) / ROUNDED_BASIS,
            relative_error(identity, torch.eye(4)) / FISHER[torch.float32],
        ]
    )


def gradient_gram(samples: int, tokens: int, din: int, dout: int) -> float:
    """Gram matrix and projector onto the best subspace, of gradients formed one by one."""
    inputs, grads = torch.randn(samples, tokens, din), torch.randn(samples, tokens, dout)
    gram = LinearGradientGram(din, dout)
    gram.update(inputs, grads)
    rows = torch.einsum("nto,nti->noi", grads.double(), inputs.double()).flatten(1)
    best = torch.linalg.svd(rows, full_matrices=False).Vh[:4].T
    vectors = gram.basis(rank=4).vectors.double()
    return largest(
        [
            relative_error(gram.gram(), rows @ rows.T) / GRAM[torch.float32],
            relative_error(vectors @ (vectors.T @ best), best) / 1e-4,
        ]
    )


def largest(errors: list[float]) -> float:
    """The largest, and NaN if one of them is."""
    return float(torch.tensor(errors).max())


@dataclass(frozen=True)
class Problem:
    """A problem for a loop.

    Attributes:
        error: its error as a multiple of the tolerance.
        sizes: constants of `safe_kernels` that are replaced, dotted, so that it goes around several times.
        backend: which computes it.
        even: whether all pieces have one length by construction, so that there is no shorter last one.
    """

    error: Error
    sizes: dict[str, Any]
    backend: str = "torch"
    even: bool = False


LOGITS = Problem(divergences, {"kl.torch_impl.SLICE_ELEMENTS": 2 * 201})  # 2, 2, 2 and 1 rows
HALF_HEAD = Problem(lambda: linear_divergences(torch.bfloat16), {"linear_kl.torch_impl._CAST_ROWS": 64})
CLASSES = Problem(lambda: divergences(2, (1e-3, 3.0)), {}, "triton")  # 64, 64, 64 and 9
FAR = Problem(lambda: divergences(5, (60.0,)), {}, "triton")
# 10 parts of 64 elements and a last one, summed 4 at a time: 4, 4 and 3.
FLAT = Problem(lambda: projection((645,), 645, 16), {}, "triton", even=True)

PROBLEMS: dict[str, Problem] = {
    "_divergence.torch_impl.slices": LOGITS,
    "kl.torch_impl.logits_divergence": LOGITS,
    "_divergence.torch_impl.divergence_": Problem(
        linear_divergences, {"linear_kl.torch_impl._SLICE_ELEMENTS": 2 * 150}
    ),
    "linear_kl.torch_impl.linear_divergence": Problem(lambda: linear_divergences(chunk_tokens=3), {}),
    "linear_kl.torch_impl._apply_head": HALF_HEAD,
    "linear_kl.torch_impl._project": HALF_HEAD,
    "linear_kl.triton_impl.linear_divergence": Problem(lambda: linear_divergences(chunk_tokens=3), {}, "triton"),
    "_divergence.kernels.summary": CLASSES,
    "_divergence.kernels.student_normalizer": FAR,
    "_divergence.kernels.jensen_shannon": CLASSES,
    "_divergence.kernels.write_gradient": CLASSES,
    "_divergence.kernels.write_zeros": CLASSES,
    "fisher_diagonal.torch_impl.fisher_diagonal_": Problem(
        lambda: fisher(3, 4, 20, 6),
        {"fisher_diagonal.torch_impl._TILE_ELEMENTS": 1, "fisher_diagonal.torch_impl._MINIMUM_TILE_ROWS": 8},
    ),
    "fisher_diagonal.triton_impl.fisher_diagonal_": Problem(
        lambda: fisher(5, 6, 12, 20), {"fisher_diagonal.triton_impl.OPERAND_BYTES": 2 * 3 * 2 * 6 * (16 + 32)}, "triton"
    ),
    "fisher_diagonal.kernels.add_splits_kernel": Problem(
        lambda: fisher(9, 3, 5, 12),
        {
            "fisher_diagonal.triton_impl.SPLITS_AT_ONCE": 4,
            "fisher_diagonal.triton_impl.SPLIT_ELEMENTS": 32,
            "fisher_diagonal.triton_impl.STEPS_A_LAUNCH": 0,
        },
        "triton",
    ),
    "bases.spectrum.gram": Problem(gram_matrix, {"bases.spectrum._ELEMENTS": 32, "bases.spectrum._BLOCK": 2}),
    "bases.spectrum.product": Problem(product_of_rows, {"bases.spectrum._ELEMENTS": 32}),
    "bases.spectrum.orthonormalize_": Problem(orthonormal_columns, {"bases.spectrum._ROTATED": 32}),
    "project_null_space.stored_basis.round_basis": Problem(
        rounded_basis, {"project_null_space.stored_basis._BLOCK_ELEMENTS": 64}
    ),
    "project_null_space.torch_impl._project_rows_": Problem(
        lambda: projection((7, 10), 10, 3), {"project_null_space.torch_impl._BLOCK_ELEMENTS": 30}
    ),
    "project_null_space.torch_impl._project_vector_": Problem(
        lambda: projection((5, 10), 50, 4, torch.bfloat16), {"project_null_space.torch_impl._BLOCK_ELEMENTS": 64}
    ),
    "bases.linear_gradient_gram._form_gradients": Problem(  # longer than wide: kept as gradients
        lambda: gradient_gram(5, 12, 4, 7),
        {"bases.linear_gradient_gram._FORMED": 1, "bases.linear_gradient_gram._FORMED_OUTPUTS": 3},
    ),
    "bases.linear_gradient_gram.split": Problem(
        lambda: gradient_gram(7, 2, 40, 30), {"bases.linear_gradient_gram._TOKENS": 4}
    ),
    "bases.linear_gradient_gram._weighted_sums_of_tokens": Problem(
        lambda: gradient_gram(7, 2, 40, 30), {"bases.linear_gradient_gram._FORMED": 13 * 4 * 40}
    ),
    "project_null_space.kernels.flat_coefficients_kernel": FLAT,
    "project_null_space.kernels.flat_reduce_kernel": FLAT,
    "project_null_space.kernels.flat_subtract_kernel": FLAT,
}


class Pieces:
    """Stands in for what gives a loop its pieces: notes them, and leaves one out if asked."""

    def __init__(self, loop: Loop, original: Callable[..., Any], left_out: str | None) -> None:
        self.loop, self.original, self.left_out = loop, original, left_out
        self.file = str(FOLDER.joinpath(*loop.module.split(".")).with_suffix(".py"))
        self.most = 0
        self.is_ragged = False

    def __call__(self, *arguments: Any) -> Any:
        given = self.original(*arguments)
        caller = sys._getframe(1)
        if (caller.f_code.co_name, caller.f_lineno) != (self.loop.function, self.loop.line):
            return given
        pieces = list(given)
        self.most = max(self.most, len(pieces))
        self.is_ragged |= len(pieces) > 2 and self.shorter_last(given, pieces)
        if self.left_out is not None and len(pieces) > 2:
            del pieces[{"first": 0, "middle": len(pieces) // 2, "last": -1}[self.left_out]]
        return pieces

    def __get__(self, instance: Tensor, owner: type[Tensor]) -> partial[Any]:
        """As a method of tensors."""
        return partial(self, instance)

    def shorter_last(self, given: Any, pieces: list[Any]) -> bool:
        if isinstance(given, range):
            return (given.stop - given.start) % given.step != 0
        if isinstance(pieces[0], slice):
            return pieces[-1].stop - pieces[-1].start < pieces[0].stop - pieces[0].start
        return len(pieces[-1]) < len(pieces[0])


def watched(loop: Loop, problem: Problem, monkeypatch: pytest.MonkeyPatch, left_out: str | None = None) -> Pieces:
    """Sets the problem up, with the loop's pieces noted."""
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", problem.backend)
    for name, size in problem.sizes.items():
        module, _, constant = name.rpartition(".")
        monkeypatch.setattr(module_of(module), constant, size)
    if loop.pieces == "split":
        pieces = Pieces(loop, Tensor.split, left_out)
        monkeypatch.setattr(Tensor, "split", pieces)
    else:
        module = module_of(loop.module)
        pieces = Pieces(loop, getattr(module, loop.pieces, builtins.range), left_out)
        monkeypatch.setattr(module, loop.pieces, pieces, raising=False)
    return pieces


def module_of(name: str) -> ModuleType:
    return importlib.import_module(f"safe_kernels.{name}")


def problem_of(loop: Loop) -> Problem:
    name = f"{loop.module}.{loop.function}"
    assert name in PROBLEMS, f"{name} cuts its work into pieces: give PROBLEMS one in which there are three"
    problem = PROBLEMS[name]
    if problem.backend == "triton" and (loop.in_kernel and torch.cuda.is_available()):
        pytest.skip("a compiled kernel has no loop of Python's whose pieces could be left out")
    if problem.backend == "triton" and "triton" not in BACKENDS:
        pytest.skip("Triton's kernels cannot run here")
    return problem


@pytest.fixture(autouse=True)
def fresh_plans() -> Iterator[None]:
    """Plans are kept by sizes, and not by the constants that are replaced here."""
    fisher_launches.diagonal_plan.cache_clear()
    yield
    fisher_launches.diagonal_plan.cache_clear()


def test_every_problem_is_of_a_loop() -> None:
    assert {f"{loop.module}.{loop.function}" for loop in LOOPS} == set(PROBLEMS)


@pytest.mark.parametrize("loop", LOOPS, ids=str)
def test_three_pieces_and_a_shorter_last_one_equal_float64(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(loop)
    pieces = watched(loop, problem, monkeypatch)
    assert problem.error() <= 1.0
    assert pieces.most >= 3
    assert pieces.is_ragged or problem.even


@pytest.mark.parametrize("left_out", ["first", "middle", "last"])
@pytest.mark.parametrize("loop", LOOPS, ids=str)
def test_a_piece_that_is_left_out_is_found(loop: Loop, left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: what a loop with one piece less computes fails its tolerance, or is no number at all."""
    problem = problem_of(loop)
    watched(loop, problem, monkeypatch, left_out)
    try:
        error = problem.error()
    except (ValueError, RuntimeError):  # what is no number is refused
        return
    assert not error <= 1.0
