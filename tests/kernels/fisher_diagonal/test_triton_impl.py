"""The Fisher diagonal's Triton kernel: tiles, blocks of tokens, samples, splits and prepared operands, each with
sizes that cross its border, and with broken kernels that must be found out."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from safe_kernels import fisher_diagonal_
from safe_kernels._triton import on_device
from safe_kernels.fisher_diagonal import kernels, reference, triton_impl
from safe_kernels.fisher_diagonal.triton_impl import PROCESSORS, TOKENS, DiagonalPlan, diagonal_plan
from tests.tolerances import FISHER, relative_error

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.fixture(params=["pointers", "tensor copies"])
def copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> str:
    """Both ways of bringing operands; the interpreter knows both, a GPU perhaps only the first."""
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    wanted = request.param == "tensor copies"
    if wanted and device.type == "cuda" and not triton_impl.tensor_copies(device):
        pytest.skip("the device has no copy engine for blocks of tensors")
    monkeypatch.setattr(triton_impl, "tensor_copies", lambda _: wanted)
    return request.param


@pytest.fixture
def few_processors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three slots of programs, and splits that cost nothing: small problems are split like large ones."""
    monkeypatch.setattr(triton_impl, "PROCESSORS", 3)
    monkeypatch.setattr(triton_impl, "STEPS_A_LAUNCH", 0)
    diagonal_plan.cache_clear()
    yield
    diagonal_plan.cache_clear()


def layer(
    samples: int, tokens: int, dout: int, din: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Inputs and output gradients; the samples differ in size, so that none can stand for another."""
    scale = torch.arange(1, samples + 1, device=device)[:, None, None] / samples
    inputs = torch.randn(samples, tokens, din, device=device) * scale
    return inputs.to(dtype), torch.randn(samples, tokens, dout, device=device).to(dtype)


def error(inputs: Tensor, grads: Tensor) -> float:
    """Of the operation against the definition in float64, on an accumulator that holds something."""
    start = torch.rand(grads.shape[2], inputs.shape[2], device=inputs.device)
    found = fisher_diagonal_(start.clone(), inputs, grads)
    return relative_error(found, start.double() + reference.fisher_diagonal(inputs.double(), grads.double()))


@pytest.mark.parametrize(
    ("samples", "tokens", "dout", "din", "dtype"),
    [
        (2, 120, 150, 140, torch.bfloat16),  # 2 x 2 tiles, blocks of 64 and 56 tokens
        (2, 120, 150, 140, torch.float32),
        (3, 70, 140, 257, torch.bfloat16),  # 2 x 3 tiles, blocks of 32, 32 and 6 tokens
        (2, 64, 129, 128, torch.float16),  # a last tile of one row; exactly one block
    ],
)
def test_several_tiles_blocks_and_samples(
    few_processors: None,
    copies: str,
    device: torch.device,
    samples: int,
    tokens: int,
    dout: int,
    din: int,
    dtype: torch.dtype,
) -> None:
    plan = diagonal_plan(dout, din, samples, tokens, products=1)
    assert (plan.rows, plan.columns, plan.splits) == (128, 128, 1)
    assert error(*layer(samples, tokens, dout, din, dtype, device)) < FISHER[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_small_tiles_where_programs_are_few(copies: str, device: torch.device, dtype: torch.dtype) -> None:
    assert diagonal_plan(130, 70, 1, 20, products=1).rows == 64
    assert error(*layer(1, 20, 130, 70, dtype, device)) < FISHER[dtype]


NARROW = [(1, 1), (4, 300), (300, 4), (8, 144), (144, 8), (12, 17), (65, 3), (3, 65), (33, 129), (60, 131), (64, 64)]


@pytest.mark.parametrize(
    ("dout", "din", "dtype"),
    [
        *((*sizes, torch.bfloat16) for sizes in NARROW),
        *((*sizes, torch.float32) for sizes in ((1, 1), (8, 144), (65, 3))),
        *((*sizes, torch.float16) for sizes in ((144, 8), (12, 17))),
    ],
)
def test_narrow_and_odd_layers(copies: str, device: torch.device, dtype: torch.dtype, dout: int, din: int) -> None:
    assert error(*layer(2, 37, dout, din, dtype, device)) < FISHER[dtype]


@pytest.mark.parametrize(
    ("samples", "dtype"),
    [(1, torch.bfloat16), (64, torch.float32), (130, torch.bfloat16), (130, torch.float16), (130, torch.float32)],
)
def test_one_token_a_sample(copies: str, device: torch.device, dtype: torch.dtype, samples: int) -> None:
    """Squares of half precision have more bits than half precision: rounding them would show."""
    assert error(*layer(samples, 1, 9, 70, dtype, device)) < FISHER[dtype]


@pytest.mark.parametrize(
    ("samples", "tokens", "dout", "din", "dtype"),
    [
        (2, 40, 8, 20, torch.bfloat16),
        (7, 40, 20, 8, torch.bfloat16),  # 3, 3 and 1 samples
        (8, 3, 8, 20, torch.float32),
        (5, 3, 130, 40, torch.bfloat16),  # 2 tiles
        (400, 1, 8, 20, torch.bfloat16),  # blocks of tokens are shared out
    ],
)
def test_splits_of_the_samples(
    few_processors: None,
    copies: str,
    device: torch.device,
    samples: int,
    tokens: int,
    dout: int,
    din: int,
    dtype: torch.dtype,
) -> None:
    count, size = (samples, tokens) if tokens > 1 else (-(-samples // TOKENS[0]), TOKENS[0])
    assert diagonal_plan(dout, din, count, size, products=1).splits > 1
    inputs, grads = layer(samples, tokens, dout, din, dtype, device)
    assert error(inputs, grads) < FISHER[dtype]
    out = torch.zeros(dout, din, device=device)
    assert torch.equal(fisher_diagonal_(out.clone(), inputs, grads), fisher_diagonal_(out.clone(), inputs, grads))


def test_more_splits_than_are_summed_at_once(
    copies: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_impl, "SPLITS_AT_ONCE", 4)
    monkeypatch.setattr(triton_impl, "SPLIT_ELEMENTS", 32)
    monkeypatch.setattr(triton_impl, "STEPS_A_LAUNCH", 0)
    diagonal_plan.cache_clear()
    assert diagonal_plan(5, 12, 9, 3, products=1).splits == 9
    assert error(*layer(9, 3, 5, 12, torch.bfloat16, device)) < FISHER[torch.bfloat16]
    diagonal_plan.cache_clear()


PARTS = "the smallest parts are left out"
BREAKS = {
    "the sum of a sample is not squared": ("product * product if SQUARE else product", "product"),
    "a sample's sum goes on into the next": (f"{12 * ' '}product = tl.zeros([ROWS, COLUMNS], tl.float32)", ""),
    "samples are squared together": ("if ends:", "if ends & (sample == samples):"),
    "the last block of tokens is dropped": ("blocks = tl.cdiv(tokens, TOKENS)", "blocks = tokens // TOKENS"),
    "a block reads into the next sample": (
        "steps < tokens - start",
        "steps < tokens - start + (sample + 1 < samples)",
    ),
    "every sample is the first": ("sample = tl.where(ends, sample + 1, sample)", "pass"),
    PARTS: ("& 3) * samples", "& 1) * samples"),
    "the right half of a tile lies on the left": ("first_column + HALF", "first_column"),
    "tiles of a last, smaller group are mixed up": ("tl.minimum(row_tiles - group * GROUP, GROUP)", "GROUP"),
    "rows and columns are exchanged": ("if TRANSPOSED:", "if not TRANSPOSED:"),
    "what was there is lost": ("if not SPLIT:", "if SPLIT:"),
}


def mutated(folder: Path, old: str, new: str) -> ModuleType:
    """The module of kernels with one text replaced by another."""
    source = Path(str(kernels.__file__)).read_text(encoding="utf-8")
    assert old in source, f"{old!r} is no longer in the kernels"
    path = folder / "mutated_kernels.py"
    path.write_text(source.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mutated_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", [None, *BREAKS])
def test_broken_kernels_are_found_out(
    name: str | None, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: one line of the kernel is made wrong. Only the kernel as it is passes."""
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    monkeypatch.setattr(triton_impl, "tensor_copies", lambda _: False)
    kernels = mutated(tmp_path, *(BREAKS[name] if name else ("total", "total")))
    monkeypatch.setattr(triton_impl, "fisher_diagonal_kernel", kernels.fisher_diagonal_kernel)
    monkeypatch.setattr(triton_impl, "GROUP", 2)
    plan = DiagonalPlan(
        rows=128, columns=128, tokens=32, transposed=False, samples_a_split=2, splits=1, warps=8
    )  # 3 x 2 tiles
    monkeypatch.setattr(triton_impl, "diagonal_plan", lambda *_: plan)
    found = [error(*layer(2, 40, 300, 140, torch.bfloat16, device))]
    if name in (None, PARTS):
        found.append(error(*layer(2, 40, 5, 6, torch.float32, device)))
    assert all(worst < FISHER[torch.float32] for worst in found) == (name is None)


def test_six_products_of_parts_are_float32_and_three_are_not(
    copies: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of very different sizes; three products of the two larger parts would cost half as much."""
    inputs, grads = (
        tensor * torch.exp(2.0 * torch.randn_like(tensor)) for tensor in layer(3, 64, 24, 20, torch.float32, device)
    )
    six = error(inputs, grads)
    assert six < FISHER[torch.float32] / 10
    monkeypatch.setattr(triton_impl, "FLOAT32_PRODUCTS", 3)
    assert error(inputs, grads) > max(4.0 * six, FISHER[torch.float32] / 4)


def test_products_of_parts_from_the_smallest_to_the_largest() -> None:
    """A part i is 2^-8i of its number: products i, j with i + j <= 2 matter, and each is taken once."""
    x, y = (
        [getattr(parts, "value", parts) >> 2 * term & 3 for term in range(6)]
        for parts in (kernels.X_PARTS, kernels.Y_PARTS)
    )
    taken = list(zip(x, y, strict=True))
    assert sorted(taken) == [(i, j) for i in range(3) for j in range(3) if i + j <= 2]
    assert [i + j for i, j in taken] == [2, 2, 2, 1, 1, 0]


def test_prepared_operands_of_few_samples_at_a_time(
    copies: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, grads = layer(5, 6, 20, 12, torch.float32, device)
    sizes: list[int] = []
    add = triton_impl._add
    monkeypatch.setattr(triton_impl, "_add", lambda out, *pair: (sizes.append(len(pair[0])), add(out, *pair)))
    monkeypatch.setattr(triton_impl, "OPERAND_BYTES", 2 * 3 * 2 * 6 * (16 + 32))
    assert error(inputs, grads) < FISHER[torch.float32]
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(("size", "shift", "copied"), [(32, 0, False), (32, 8, False), (32, 1, True), (24, 0, True)])
def test_operands_are_copied_only_where_rows_are_not_aligned(
    copies: str, device: torch.device, size: int, shift: int, copied: bool
) -> None:
    memory = torch.randn(2 * 5 * size + shift, device=device).bfloat16()
    tensor = memory[shift:].view(2, 5, size)
    operand = triton_impl._prepare_operand(tensor, 10)
    assert operand.data_ptr() % 16 == 0
    assert (operand.data_ptr() != tensor.data_ptr()) == copied
    assert torch.equal(operand[0, :, :size], tensor.view(10, size))
    assert operand.shape == (1, 10, 32)
    assert error(tensor, torch.randn(2, 5, 6, device=device).bfloat16()) < FISHER[torch.bfloat16]


def test_the_parts_of_a_float32_number_sum_to_it(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    tensor = torch.randn(2, 5, 21, device=device) * 10.0 ** torch.arange(-10, 11, device=device)
    parts = triton_impl._prepare_operand(tensor, 10).double()
    assert parts.shape == (3, 10, 32)
    assert torch.equal(parts.sum(0)[:, :21], tensor.view(10, 21).double())
    assert torch.equal(parts[..., 21:], torch.zeros_like(parts[..., 21:]))
    assert relative_error(parts[:2].sum(0)[:, :21], tensor.view(10, 21)) > 1e-8  # the third part is needed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_number_that_is_none_stays_in_its_column(copies: str, device: torch.device, dtype: torch.dtype) -> None:
    inputs, grads = layer(2, 20, 20, 36, dtype, device)
    inputs[1, 3, 5] = float("inf")
    inputs[0, 2, 7] = float("nan")
    found = fisher_diagonal_(torch.zeros(20, 36, device=device), inputs, grads)
    lost = torch.zeros(36, dtype=torch.bool, device=device)
    lost[[5, 7]] = True
    assert not found[:, lost].isfinite().any()
    want = reference.fisher_diagonal(inputs.double(), grads.double())[:, ~lost]
    assert relative_error(found[:, ~lost], want) < FISHER[dtype]


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory that is never touched is the CPU's")
def test_rows_beyond_two_to_the_31_elements() -> None:
    """Offsets of samples and tokens are 64-bit. Of 6 GB of zeros, the pages of the first tile's columns are touched."""
    samples, tokens, din, dout = 3, 16, 2**26, 16
    memory = torch.from_numpy(numpy.zeros(samples * tokens * din, dtype=numpy.int16)).view(torch.bfloat16)
    inputs = memory.view(samples, tokens, din)
    columns = torch.randn(samples, tokens, 64).bfloat16()
    inputs[:, :, :64] = columns
    grads = torch.randn(samples, tokens, dout).bfloat16()
    out = torch.from_numpy(numpy.zeros((dout, din), dtype=numpy.float32))
    kernels.fisher_diagonal_kernel[(1,)](
        out, inputs, grads, samples, samples, tokens, din, dout, din, dout,
        TENSOR_COPIES=False, SQUARE=True, PRODUCTS=1, TRANSPOSED=True, SPLIT=False, WIDEN=True,
        ROWS=64, COLUMNS=16, TOKENS=16, ONE_BLOCK=True, GROUP=8, STAGES=1,
    )  # fmt: skip
    assert samples * tokens * din > 2**31
    want = reference.fisher_diagonal(columns.double(), grads.double())
    assert relative_error(out[:, :64], want) < FISHER[torch.bfloat16]


@triton.jit
def offsets_kernel(out_ptr, first, stride, SIZE: tl.constexpr):
    tl.store(out_ptr + tl.arange(0, SIZE), kernels._inside_row(first, stride, SIZE))


@pytest.mark.parametrize(("first", "stride"), [(0, 16), (0, 64), (64, 80), (64, 128), (128, 144)])
def test_offsets_stay_within_a_row(device: torch.device, first: int, stride: int) -> None:
    """What is past the end is replaced by whole, aligned groups of 16, so that loads stay wide and need no mask."""
    out = torch.empty(64, dtype=torch.int32, device=device)
    with on_device(device):
        offsets_kernel[(1,)](out, first, stride, SIZE=64)
    inside = min(64, stride - first)
    assert out[:inside].tolist() == list(range(first, first + inside))
    assert out.max() < stride
    assert all(group == list(range(group[0], group[0] + 16)) for group in out.view(4, 16).tolist())


def test_features_whose_offsets_would_overflow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs, out = (torch.zeros(1, device=device).expand(*shape, 2**25 + 1) for shape in ((1, 2), (1,)))
    with pytest.raises(ValueError, match="at most 33554432 features, got 33554433 and 1; give slices"):
        triton_impl.fisher_diagonal_(out, inputs, torch.zeros(1, 2, 1, device=device))


SIZES = st.integers(1, 20000)


@given(dout=SIZES, din=SIZES, samples=st.integers(1, 300), tokens=st.integers(1, 3000), split=st.booleans())
def test_plan_covers_everything_once(dout: int, din: int, samples: int, tokens: int, split: bool) -> None:
    plan = diagonal_plan(dout, din, samples, tokens, products=6 if split else 1)
    assert (plan.splits - 1) * plan.samples_a_split < samples <= plan.splits * plan.samples_a_split
    assert plan.rows in (64, 128)
    assert plan.columns in (16, 32, 64, 128)
    assert plan.tokens in TOKENS
    # Two float32 sums, with their addresses, within the 255 registers of a thread.
    assert 2 * plan.rows * plan.columns <= 128 * 32 * plan.warps
    x_size, y_size = (din, dout) if plan.transposed else (dout, din)
    tiles = -(-x_size // plan.rows) * -(-y_size // plan.columns)
    # A tile is at most twice as wide as its side, or as narrow as can be.
    assert plan.columns <= max(16, 2 * y_size - 1)
    assert plan.rows <= max(64, 2 * x_size - 1)
    if plan.splits > 1:
        assert tiles < 2 * PROCESSORS


def programs(dout: int, din: int, samples: int, tokens: int, products: int = 1) -> int:
    plan = diagonal_plan(dout, din, samples, tokens, products)
    x_size, y_size = (din, dout) if plan.transposed else (dout, din)
    return -(-x_size // plan.rows) * -(-y_size // plan.columns) * plan.splits


def test_plan_of_low_rank_factors() -> None:
    down = diagonal_plan(8, 4096, 64, 512, products=1)
    up = diagonal_plan(4096, 8, 64, 512, products=1)
    assert (down.rows, down.columns, down.transposed) == (128, 16, True)
    assert (up.rows, up.columns, up.transposed) == (128, 16, False)
    assert programs(8, 4096, 64, 512) >= PROCESSORS
    assert programs(4096, 8, 64, 512) >= PROCESSORS


def test_plan_of_wide_layers() -> None:
    plan = diagonal_plan(4096, 11008, 64, 512, products=1)
    assert (plan.rows, plan.columns, plan.warps, plan.splits, plan.transposed) == (128, 128, 8, 1, False)
    # 64 tiles leave half of the processors idle; two splits do not.
    assert diagonal_plan(1024, 1024, 4, 512, products=6).splits == 2
    # One sample cannot be shared out: tiles become smaller instead.
    assert diagonal_plan(512, 512, 1, 512, products=1).rows == 64


def test_plan_does_not_split_what_is_done_before_a_second_launch() -> None:
    assert diagonal_plan(64, 64, 2, 64, products=1).splits == 1
    assert diagonal_plan(64, 64, 64, 64, products=1).splits > 1


@pytest.mark.parametrize(("tokens", "block"), [(1, 32), (32, 32), (33, 64), (64, 64), (70, 32), (512, 64), (577, 64)])
def test_plan_takes_the_smaller_block_where_the_larger_is_mostly_empty(tokens: int, block: int) -> None:
    assert diagonal_plan(256, 256, 4, tokens, products=1).tokens == block


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("samples", "tokens", "dout", "din"),
    [(4, 512, 4096, 4096), (3, 77, 4099, 1031), (64, 512, 8, 4096), (64, 100, 4096, 12), (256, 1, 4096, 4096)],
)
def test_native_sizes(
    copies: str, device: torch.device, dtype: torch.dtype, samples: int, tokens: int, dout: int, din: int
) -> None:
    assert error(*layer(samples, tokens, dout, din, dtype, device)) < FISHER[dtype]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_more_than_two_to_the_31_elements(copies: str, device: torch.device) -> None:
    inputs = torch.randn(9, 65536, 4096, device=device, dtype=torch.bfloat16)
    grads = torch.randn(9, 65536, 16, device=device, dtype=torch.bfloat16)
    grads[:, :-100] = 0  # sums of few products, as elsewhere
    found = fisher_diagonal_(torch.zeros(16, 4096, device=device), inputs, grads)
    want = torch.zeros(16, 4096, device=device, dtype=torch.float64)
    for sample, gradient in zip(inputs, grads, strict=True):
        for start in range(0, 4096, 512):
            product = gradient.double().T @ sample[:, start : start + 512].double()
            want[:, start : start + 512] += product.square()
    assert relative_error(found, want) < FISHER[torch.bfloat16]
