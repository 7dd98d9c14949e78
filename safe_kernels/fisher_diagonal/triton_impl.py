"""Launches of the Triton kernels of the Fisher diagonal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from safe_kernels._triton import cdiv, launch, widen_for_dot
from safe_kernels.fisher_diagonal.kernels import add_splits_kernel, fisher_diagonal_kernel, operand_kernel

ALIGNMENT = 16
"""Rows of operands begin at multiples of this many elements, else copies of 128 bits are not possible."""

FLOAT32_PARTS = 3
FLOAT32_PRODUCTS = 6
"""A float32 number is the sum of three bfloat16 numbers. Three of the nine products of parts are below its rounding."""

TOKENS = (64, 32)
"""Tokens of a step of the kernel, the preferred first."""

PROCESSORS = 132
"""Of an H100 or H200. A constant, so that sums are split in the same way on every GPU."""

STEPS_A_LAUNCH = 16
"""A second launch takes as long as about so many steps."""

MAXIMUM_FEATURES = 2**25
"""Offsets in a block of tokens are 32-bit."""

TENSOR_COPY_CAPABILITIES = (9, 10)
GROUP = 8
OPERAND_BYTES = 2**28
"""Prepared operands of so many samples are held at a time (one sample at least)."""

OPERAND_ELEMENTS = 4096
OPERAND_WARPS = 8
SPLITS_AT_ONCE = 16
SPLIT_ELEMENTS = 256
SPLIT_WARPS = 4


@dataclass(frozen=True)
class DiagonalPlan:
    """How one Fisher diagonal is cut into programs.

    Attributes:
        rows: of a tile, along the operand x; at least the 64 that a matrix instruction of Hopper needs.
        columns: of a tile, along the operand y.
        tokens: of a step.
        transposed: x is the layer's input and y its gradient, not the other way round.
        samples_a_split: consecutive samples of one program.
        splits: programs that share a tile.
        warps: of a program. With fewer, the two sums of a tile spill.
    """

    rows: int
    columns: int
    tokens: int
    transposed: bool
    samples_a_split: int
    splits: int
    warps: int


@lru_cache(maxsize=1024)
def diagonal_plan(dout: int, din: int, samples: int, tokens: int, products: int) -> DiagonalPlan:
    """Choose tiles and splits by the sizes alone.

    The narrow side of a low-rank factor gets a tile as narrow as a matrix instruction allows. Where there are fewer
    tiles than processors, programs share the samples, so that the fewest steps follow one another.

    Args:
        dout: of the layer.
        din: of the layer.
        samples: to be squared one by one.
        tokens: of each sample.
        products: for each product of operands.
    """
    wide, narrow = max(dout, din), min(dout, din)
    rows = 64 if wide <= 64 else 128
    columns = min(128, max(16, 1 << (narrow - 1).bit_length()))
    if rows == columns == 128 and 2 * samples * cdiv(dout, rows) * cdiv(din, columns) <= PROCESSORS:
        rows = columns = 64
    transposed = columns < rows and dout < din
    x_size, y_size = (din, dout) if transposed else (dout, din)
    block = min(TOKENS, key=lambda size: (_pad(tokens, size) > 1.125 * _pad(tokens, TOKENS[-1]), -size))
    residents = 1 if rows == columns == 128 else 2
    samples_a_split = _samples_a_split(
        cdiv(x_size, rows) * cdiv(y_size, columns), residents * PROCESSORS, samples, cdiv(tokens, block) * products
    )
    return DiagonalPlan(
        rows=rows,
        columns=columns,
        tokens=block,
        transposed=transposed,
        samples_a_split=samples_a_split,
        splits=cdiv(samples, samples_a_split),
        warps=8 if rows * columns >= 128 * 64 else 4,
    )


def _samples_a_split(tiles: int, slots: int, samples: int, steps: int) -> int:
    """Samples of a program, so that rounds of programs times steps of each, and a second launch, are the fewest."""
    if tiles >= slots:
        return samples

    def cost(splits: int) -> int:
        rounds = cdiv(tiles * splits, slots)
        return rounds * cdiv(samples, splits) * steps + (STEPS_A_LAUNCH if splits > 1 else 0)

    return cdiv(samples, min(range(1, min(samples, slots) + 1), key=cost))


def _pad(amount: int, step: int) -> int:
    return cdiv(amount, step) * step


def fisher_diagonal_(out: Tensor, inputs: Tensor, grad_outputs: Tensor) -> None:
    """Add the squared per-sample weight gradients to `out`."""
    samples, tokens, din = inputs.shape
    dout = grad_outputs.shape[2]
    if inputs.numel() == 0 or dout == 0:
        return
    if max(dout, din) > MAXIMUM_FEATURES:
        raise ValueError(
            f"inputs, grad_outputs: expected at most {MAXIMUM_FEATURES} features, got {din} and {dout}; "
            "give slices of the layer one by one, or set SAFE_KERNELS_BACKEND=torch"
        )
    target = out.contiguous()
    sample_bytes = 2 * FLOAT32_PARTS * tokens * (_pad(din, ALIGNMENT) + _pad(dout, ALIGNMENT))
    step = max(1, OPERAND_BYTES // sample_bytes) if _is_split(inputs) else samples
    for start in range(0, samples, step):
        _add(target, inputs[start : start + step].contiguous(), grad_outputs[start : start + step].contiguous())
    if target is not out:
        out.copy_(target)


def _is_split(inputs: Tensor) -> bool:
    """Whether operands are split into parts: float32, and the squares of half precision, which have twice its bits."""
    return inputs.dtype == torch.float32 or inputs.shape[1] == 1


def _add(out: Tensor, inputs: Tensor, grad_outputs: Tensor) -> None:
    """The operation on contiguous tensors."""
    samples, tokens, din = inputs.shape
    dout = grad_outputs.shape[2]
    one_token = tokens == 1
    products = FLOAT32_PRODUCTS if _is_split(inputs) else 1
    if one_token:
        # The square of a product is the product of squares: samples take the place of tokens, and operands are
        # squared instead of the sum. Tokens are then blocks of the kernel, filled up with zeros.
        samples, tokens = cdiv(samples, TOKENS[0]), TOKENS[0]
    plan = diagonal_plan(dout, din, samples, tokens, products)
    operands = [_prepare_operand(tensor, samples * tokens) for tensor in (grad_outputs, inputs)]
    sizes = [dout, din]
    if plan.transposed:
        operands.reverse()
        sizes.reverse()
    tiles = cdiv(sizes[0], plan.rows) * cdiv(sizes[1], plan.columns)
    found = out.new_empty((plan.splits, dout, din)) if plan.splits > 1 else out
    copies = tensor_copies(out.device)
    if copies:
        blocks = [(1, plan.tokens, plan.rows), (1, plan.tokens, plan.columns)]
        sources = [_describe(*pair, tokens) for pair in zip(operands, blocks, strict=True)]
    else:
        sources = operands
    launch(
        fisher_diagonal_kernel,
        tiles * plan.splits,
        found,
        *sources,
        samples,
        plan.samples_a_split,
        tokens,
        *sizes,
        *(operand.shape[-1] for operand in operands),
        TENSOR_COPIES=copies,
        SQUARE=not one_token,
        PRODUCTS=products,
        TRANSPOSED=plan.transposed,
        SPLIT=plan.splits > 1,
        WIDEN=widen_for_dot(),
        ROWS=plan.rows,
        COLUMNS=plan.columns,
        TOKENS=plan.tokens,
        ONE_BLOCK=one_block(tokens, plan.tokens, products),
        GROUP=GROUP,
        STAGES=stages("hip" if torch.version.hip is not None else "cuda"),
        device=out.device,
        num_warps=plan.warps,
    )
    if plan.splits > 1:
        launch(
            add_splits_kernel,
            cdiv(out.numel(), SPLIT_ELEMENTS),
            out,
            found,
            plan.splits,
            out.numel(),
            SPLITS=SPLITS_AT_ONCE,
            ELEMENTS=SPLIT_ELEMENTS,
            device=out.device,
            num_warps=SPLIT_WARPS,
        )


def one_block(tokens: int, block: int, products: int) -> bool:
    """Whether each round of the kernel ends a sample."""
    return tokens <= block and products == 1


def stages(backend: str) -> int:
    """Steps under way at a time: what fits the memory that NVIDIA and AMD compute units share among threads."""
    return 2 if backend == "hip" else 4


@lru_cache(maxsize=64)
def tensor_copies(device: torch.device) -> bool:
    """Whether the device has a copy engine for blocks of tensors, as Hopper and Blackwell have."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device)[0] in TENSOR_COPY_CAPABILITIES


def _describe(operand: Tensor, block: tuple[int, int, int], tokens: int) -> TensorDescriptor:
    """[parts, rows, stride] as [parts * samples, tokens, stride] for the copy engine, which fills up with zeros."""
    parts, rows, stride = operand.shape
    return TensorDescriptor.from_tensor(operand.view(parts * rows // tokens, tokens, stride), list(block))


def _prepare_operand(tensor: Tensor, rows: int) -> Tensor:
    """[N, T, size] as [parts, rows, stride] with aligned rows; itself where it is that already."""
    count, size = tensor.shape[0] * tensor.shape[1], tensor.shape[2]
    split = _is_split(tensor)
    if not split and size % ALIGNMENT == 0 and tensor.data_ptr() % 16 == 0:
        return tensor.view(1, rows, size)
    stride = _pad(size, ALIGNMENT)
    shape = (FLOAT32_PARTS if split else 1, rows, stride)
    operand = tensor.new_empty(shape, dtype=torch.bfloat16 if split else tensor.dtype)
    columns = operand_columns(stride)
    launch(
        operand_kernel,
        cdiv(rows, OPERAND_ELEMENTS // columns) * cdiv(stride, columns),
        operand,
        tensor,
        count,
        rows,
        size,
        stride,
        SQUARE=tensor.shape[1] == 1,
        PARTS=shape[0],
        ROWS=OPERAND_ELEMENTS // columns,
        COLUMNS=columns,
        device=tensor.device,
        num_warps=OPERAND_WARPS,
    )
    return operand


def operand_columns(stride: int) -> int:
    """Columns of a program that prepares an operand."""
    return min(256, 1 << (stride - 1).bit_length())
