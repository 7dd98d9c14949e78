"""Every kernel configuration that the launches of `safe_kernels` can ask for, as input for ahead-of-time compilation.

A configuration that only changes what is skipped (no mask, no gradient) is not listed apart from the fuller one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import triton.language as tl

from safe_kernels._divergence import triton_impl as divergence
from safe_kernels._elementwise import triton_impl as elementwise
from safe_kernels.ewc_penalty.kernels import ewc_kernel
from safe_kernels.fisher_diagonal import kernels as diagonal_kernels
from safe_kernels.fisher_diagonal import triton_impl as diagonal
from safe_kernels.kl import kernels as kl_kernels
from safe_kernels.linear_kl import kernels as linear_kl_kernels
from safe_kernels.project_null_space import kernels as projection_kernels
from safe_kernels.project_null_space import triton_impl as projection
from safe_kernels.squared_gradient_ema.kernels import squared_gradient_ema_kernel

DTYPES = {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32}
TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Configuration:
    """One kernel with the types and constants of one launch.

    Attributes:
        name: kernel and what sets this configuration apart.
        kernel: the function under `triton.jit`.
        types: Triton's type of each argument that is not a constant, in order.
        constants: values of the constants.
        warps: warps a program.
        vector_loads: whether the data allow 128-bit loads.
        odd: names of integers that need not be multiples of 16.
        shipped: among those that everyday tests compile.
        elements: elements that a program handles in one round of its hot loops; 0 where they are not element-wise.
    """

    name: str
    kernel: Any
    types: tuple[str, ...]
    constants: dict[str, Any]
    warps: int
    vector_loads: bool = True
    shipped: bool = False
    odd: tuple[str, ...] = ()
    elements: int = 0


def configurations(backend: str, tensor_copies: bool = False) -> list[Configuration]:
    """All configurations for `"cuda"` or `"hip"`.

    `tensor_copies`: for chips with a copy engine for blocks of tensors, which also have more shared memory.
    """
    precision = "ieee" if backend == "hip" else "tf32x3"
    fisher = _fisher(backend, tensor_copies)
    return [*_divergences(backend), *fisher, *_multi_tensor(), *_projections(precision, tensor_copies)]


def _divergences(backend: str) -> list[Configuration]:
    found = []
    for dtype in DTYPES:
        pair = (f"*{dtype}", f"*{dtype}")
        everyday = dtype == "bf16"
        for name, code in divergence.DIVERGENCE_CODES.items():
            block = divergence.block_size(name, backend)
            blocks = divergence.block_count(152064, block)
            constants = {"DIVERGENCE": code, "MASKED": True, "BLOCK": block}
            forward = (*pair, "*u8", "*fp32", "*fp32", "i32", "i32", "i32", "fp32", "fp32")
            backward = ("*fp32", *pair, "*u8", "*fp32", f"*{dtype}", "i32", "i32", "i32", "fp32", "fp32")
            found += [
                Configuration(
                    f"kl logits forward {name} {dtype}", kl_kernels.logits_forward_kernel, forward,
                    {**constants, "BLOCKS": blocks}, divergence.WARPS, shipped=everyday and name == "jsd",
                    elements=constants["BLOCK"],
                ),
                Configuration(
                    f"kl logits backward {name} {dtype}", kl_kernels.logits_backward_kernel, backward, constants,
                    divergence.WARPS, shipped=everyday and name == "jsd", elements=constants["BLOCK"],
                ),
            ]  # fmt: skip
            options = ("", " softcap", " bias") if everyday or dtype == "fp32" else ("", " softcap")
            found += [
                _linear_divergence(f"linear kl {name}{option} {dtype}", dtype, {**constants, "BLOCKS": blocks}, option)
                for option in options
            ]
    block = divergence.block_size("forward", backend)
    two_heads = {"DIVERGENCE": 0, "MASKED": True, "BLOCK": block, "FROM_LOGITS": True}
    two_heads["BLOCKS"] = divergence.block_count(152064, block)
    return [*found, _linear_divergence("linear kl forward two heads", "fp32", two_heads, " bias"), *_slices(backend)]


def _slices(backend: str) -> list[Configuration]:
    """Heads whose classes are shared out among processes."""
    found = []
    rows, numbers = ("*bf16",) * 4, ("i32", "i32", "i32", "fp32", "fp32")
    for name, code in divergence.DIVERGENCE_CODES.items():
        block = divergence.block_size(name, backend)
        constants = {"FROM_LOGITS": False, "BIAS": False, "MASKED": True, "SOFTCAP": False, "BLOCK": block}
        kernels: list[tuple[str, Any, tuple[str, ...], dict[str, int]]] = [
            ("summary", linear_kl_kernels.slice_summary_kernel, ("*u8", "*fp32", *numbers), {"BLOCKS": 32}),
            (
                "gradient", linear_kl_kernels.slice_gradient_kernel,
                ("*u8", "*fp32", "*fp32", "*fp32", *numbers, "fp32"), {"DIVERGENCE": code},
            ),
        ]  # fmt: skip
        if name == "jsd":
            kernels.append(
                ("mixture", linear_kl_kernels.slice_mixture_kernel, ("*u8", "*fp32", "*fp32", *numbers, "fp32"), {})
            )
        found += [
            Configuration(
                f"linear kl slice {what} {name} bf16", kernel, (*rows, *types), {**constants, **more}, divergence.WARPS,
                elements=block,
            )
            for what, kernel, types, more in kernels
        ]  # fmt: skip
    return found


def _linear_divergence(name: str, dtype: str, constants: dict[str, Any], option: str) -> Configuration:
    types = (*(f"*{dtype}",) * 4, "*u8", "*fp32", "*fp32", "i32", "i32", "fp32", "fp32", "fp32")
    chosen = {"FROM_LOGITS": False, "BIAS": option == " bias", "SOFTCAP": option == " softcap", "WANT_GRADIENT": True}
    return Configuration(
        name, linear_kl_kernels.difference_kernel, types, {**chosen, **constants}, divergence.WARPS,
        shipped=dtype == "bf16" and (constants["DIVERGENCE"] == 0 or option == " softcap"), elements=constants["BLOCK"],
    )  # fmt: skip


FISHER_SHAPES = {
    "": (4096, 4096, 512),
    " 32 tokens": (4096, 4096, 32),
    " 64 tokens": (4096, 4096, 64),
    " odd": (4099, 4097, 512),
    " to rank 8": (8, 4096, 512),
    " from rank 8": (4096, 8, 512),
    " from rank 12": (4097, 12, 512),
    " to rank 32": (32, 4097, 512),
    " from rank 64": (4096, 64, 512),
    " 60 to 60": (60, 60, 512),
    " 5 to 12": (5, 12, 512),
}
"""Layers by dout, din and tokens of a sample: every tile, both orientations, and sizes that are no multiples of 16."""


def _fisher(backend: str, tensor_copies: bool) -> list[Configuration]:
    found = [_diagonal(backend, tensor_copies, "bf16", shape, samples=64) for shape in FISHER_SHAPES]
    found += [_diagonal(backend, tensor_copies, "fp32", shape, samples=64) for shape in FISHER_SHAPES]
    found += [_diagonal(backend, tensor_copies, "fp16", shape, samples=64) for shape in ("", " to rank 8")]
    found += [_diagonal(backend, tensor_copies, "bf16", shape, samples=2) for shape in (" from rank 8",)]
    found += [_diagonal(backend, tensor_copies, "one token", shape, samples=64) for shape in ("", " odd", " to rank 8")]
    for dtype in DTYPES:
        for square, odd in product((False, True), (False, True)):
            parts = diagonal.FLOAT32_PARTS if square or dtype == "fp32" else 1
            if parts == 1 and not odd:
                continue
            columns = diagonal.operand_columns(4096)
            found.append(
                Configuration(
                    f"fisher operand {dtype}{' squared' if square else ''}{' odd' if odd else ''}",
                    diagonal_kernels.operand_kernel,
                    ("*bf16" if parts > 1 else f"*{dtype}", f"*{dtype}", "i32", "i32", "i32", "i32"),
                    {
                        "SQUARE": square,
                        "PARTS": parts,
                        "ROWS": diagonal.OPERAND_ELEMENTS // columns,
                        "COLUMNS": columns,
                    },
                    diagonal.OPERAND_WARPS,
                    vector_loads=not odd,
                    odd=("rows", "operand_rows", *(("size",) if odd else ())),
                )
            )
    constants = {"SPLITS": diagonal.SPLITS_AT_ONCE, "ELEMENTS": diagonal.SPLIT_ELEMENTS}
    types = ("*fp32", "*fp32", "i32", "i32")
    found.append(
        Configuration(
            "fisher splits", diagonal_kernels.add_splits_kernel, types, constants, diagonal.SPLIT_WARPS,
            vector_loads=False, odd=("splits", "size"),
        )
    )  # fmt: skip
    return found


def _diagonal(backend: str, tensor_copies: bool, operands: str, shape: str, samples: int) -> Configuration:
    """The launch for one layer; float32 operands and the squares of one token come as bfloat16 parts."""
    dout, din, tokens = FISHER_SHAPES[shape]
    split = operands in ("fp32", "one token")
    products = diagonal.FLOAT32_PRODUCTS if split else 1
    plan = diagonal.diagonal_plan(dout, din, samples, tokens, products)
    dtype = "bf16" if split else operands
    sources = [f"*{dtype}", f"*{dtype}"]
    if tensor_copies:
        sources = [f"tensordesc<{dtype}[1, {plan.tokens}, {size}]>" for size in (plan.rows, plan.columns)]
    odd = {"x_size": din if plan.transposed else dout, "y_size": dout if plan.transposed else din}
    return Configuration(
        f"fisher diagonal{shape} {operands}{'' if plan.splits == 1 else ' split'}",
        diagonal_kernels.fisher_diagonal_kernel,
        ("*fp32", *sources, *["i32"] * 7),
        {
            "TENSOR_COPIES": tensor_copies,
            "SQUARE": operands != "one token",
            "PRODUCTS": products,
            "TRANSPOSED": plan.transposed,
            "SPLIT": plan.splits > 1,
            "WIDEN": False,
            "ROWS": plan.rows,
            "COLUMNS": plan.columns,
            "TOKENS": plan.tokens,
            "ONE_BLOCK": diagonal.one_block(tokens, plan.tokens, products),
            "GROUP": diagonal.GROUP,
            "STAGES": diagonal.stages(backend),
        },
        plan.warps,
        odd=("samples", "samples_a_split", "tokens", *(name for name, size in odd.items() if size % 16)),
        shipped=operands in ("bf16", "fp32") and shape in ("", " to rank 8"),
    )


def _multi_tensor() -> list[Configuration]:
    found = []
    for aligned in (True, False):
        suffix = "" if aligned else " unaligned"
        constants = {"ALIGNED": aligned, "ELEMENTS": elementwise.ELEMENTS}
        found += [
            Configuration(
                f"squared-gradient average {name}{suffix}", squared_gradient_ema_kernel,
                ("*i64", "*i64", "*i32", "fp32", "fp32"), {"GRAD": dtype, **constants}, elementwise.WARPS, aligned,
                shipped=name == "bf16",
            )
            for name, dtype in DTYPES.items()
        ]  # fmt: skip
        for grad, param, anchor in product(DTYPES, DTYPES, DTYPES):
            dtypes = {"GRAD": DTYPES[grad], "PARAM": DTYPES[param], "ANCHOR": DTYPES[anchor]}
            found.append(
                Configuration(
                    f"ewc penalty {param}, gradient {grad}, anchor {anchor}{suffix}", ewc_kernel,
                    ("*i64", "*i64", "*i32", "*fp32", "fp32"), {**dtypes, **constants}, elementwise.WARPS, aligned,
                    shipped=(grad, param, anchor) in (("bf16", "bf16", "fp32"), ("fp32", "fp32", "fp32")),
                )
            )  # fmt: skip
    return found


def _projections(precision: str, much_memory: bool) -> list[Configuration]:
    return [*_row_projections(precision, much_memory), *_flat_projections(), *_flat_reductions()]


def _row_projections(precision: str, much_memory: bool) -> list[Configuration]:
    found = []
    for (name, dtype), rank, by_vector, aligned, long in product(
        DTYPES.items(), projection.ROW_RANKS, (True, False), (True, False), (False, True)
    ):
        read = {"by_vector": by_vector, "aligned": aligned, "much_memory": much_memory}
        length = projection.LONG_ROWS["float32" if name == "fp32" else "half"]
        tiles = [projection.row_tile(TORCH_DTYPES[name], length + beyond, rank, **read) for beyond in (0, 1)]
        if long and tiles[0] == tiles[1]:
            continue
        tile = tiles[long]
        found.append(
            Configuration(
                f"row projection {name} rank {rank}{' long' if long else ''}{_basis_suffix(by_vector, aligned)}",
                projection_kernels.row_projection_kernel,
                ("*i64", "*i64", "*i32"),
                {
                    "X": dtype,
                    "BY_VECTOR": by_vector,
                    "ALIGNED": aligned,
                    "ONE_SIDED": True,
                    "WIDEN": False,
                    "PRECISION": precision,
                    "RANK": rank,
                    "INNER": max(rank, projection.INNER_RANK),
                    "ROWS": tile.rows,
                    "SLICES": tile.slices,
                    "COLUMNS": tile.columns,
                    "STAGES": tile.stages,
                },
                tile.warps,
                vector_loads=aligned,
                shipped=aligned and not by_vector and name != "fp16" and rank in (8, 64),
                elements=tile.rows * tile.slices * tile.columns,
            )
        )
    return found


def _flat_projections() -> list[Configuration]:
    found = []
    stored = ((torch.float32, True), (torch.float32, False), (torch.float16, True))
    for (name, dtype), (basis_dtype, by_vector), rank, aligned in product(
        DTYPES.items(), stored, projection.FLAT_RANKS, (True, False)
    ):
        basis_name = "fp32" if basis_dtype == torch.float32 else "fp16"
        step = projection.flat_step(basis_dtype, by_vector, aligned, rank)
        constants = {
            "X": dtype,
            "BASIS": DTYPES[basis_name],
            "BY_VECTOR": by_vector,
            "ALIGNED": aligned,
            "RANK": rank,
            "ELEMENTS": projection.FLAT_ELEMENTS,
            "STEP": step,
        }
        for title, kernel in (
            ("flat coefficients", projection_kernels.flat_coefficients_kernel),
            ("flat subtraction", projection_kernels.flat_subtract_kernel),
        ):
            found.append(
                Configuration(
                    f"{title} {name}, basis {basis_name} rank {rank}{_basis_suffix(by_vector, aligned)}",
                    kernel,
                    ("*i64", "*i64", "*i32", "*fp32"),
                    constants,
                    projection.FLAT_WARPS,
                    vector_loads=aligned,
                    shipped=aligned and name == "bf16" and rank in (8, 64) and (basis_name == "fp32" or rank == 8),
                    elements=step,
                )
            )
    return found


def _flat_reductions() -> list[Configuration]:
    return [
        Configuration(
            f"flat reduction rank {rank}{' corrected' if corrected else ''}",
            projection_kernels.flat_reduce_kernel,
            ("*fp32", "*i64", "*i64", "*fp32", "*fp32"),
            {"ONE_SIDED": True, "CORRECTED": corrected, "RANK": rank, "PARTS": projection.REDUCED // rank},
            projection.FLAT_WARPS,
            shipped=rank == 8 and corrected,
            elements=projection.REDUCED,
        )
        for rank, corrected in product(projection.FLAT_RANKS, (True, False))
    ]


def _basis_suffix(by_vector: bool, aligned: bool) -> str:
    return f"{' by vector' if by_vector else ''}{'' if aligned else ' unaligned'}"
