"""Every kernel configuration that the launches of `safe_kernels` can ask for, as input for ahead-of-time compilation.

A configuration that only changes what is skipped (no mask, no gradient) is not listed apart from the fuller one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import triton.language as tl

from safe_kernels.fisher import _diagonal_kernels as diagonal_kernels
from safe_kernels.fisher import _kernels as fisher_kernels
from safe_kernels.fisher import diagonal_triton as diagonal
from safe_kernels.fisher import triton as fisher
from safe_kernels.kl import _kernels as kl_kernels
from safe_kernels.kl import triton as kl
from safe_kernels.null_space import _kernels as null_space_kernels
from safe_kernels.null_space import triton as null_space

DTYPES = {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32}


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
    elements: int = 0


def configurations(backend: str) -> list[Configuration]:
    """All configurations for `"cuda"` or `"hip"`."""
    precision = "ieee" if backend == "hip" else "tf32x3"
    return [*_divergences(), *_fisher(precision), *_multi_tensor(), *_projections(precision)]


def _divergences() -> list[Configuration]:
    found = []
    for dtype in DTYPES:
        pair = (f"*{dtype}", f"*{dtype}")
        for name, code in kl.DIVERGENCE_CODES.items():
            constants = {"DIVERGENCE": code, "MASKED": True, "BLOCK": kl.BLOCK}
            everyday = dtype == "bf16"
            forward = (*pair, "*u8", "*fp32", "*fp32", "i32", "fp32")
            backward = ("*fp32", *pair, "*u8", "*fp32", f"*{dtype}", "i32", "fp32")
            found += [
                Configuration(
                    f"kl logits forward {name} {dtype}", kl_kernels.logits_forward_kernel, forward, constants, kl.WARPS,
                    shipped=everyday and name == "jsd", elements=kl.BLOCK,
                ),
                Configuration(
                    f"kl logits backward {name} {dtype}", kl_kernels.logits_backward_kernel, backward, constants,
                    kl.WARPS, shipped=everyday and name == "jsd", elements=kl.BLOCK,
                ),
            ]  # fmt: skip
            found += [
                Configuration(
                    f"linear kl {name}{' softcap' if softcap else ''} {dtype}",
                    kl_kernels.difference_kernel,
                    (*pair, "*u8", "*fp32", "*fp32", "i32", "fp32", "fp32"),
                    {**constants, "SOFTCAP": softcap, "WANT_GRADIENT": True},
                    kl.WARPS,
                    shipped=everyday and (name == "forward" or softcap),
                    elements=kl.BLOCK,
                )
                for softcap in (False, True)
            ]
    return found


def _fisher(precision: str) -> list[Configuration]:
    found = []
    for dtype in DTYPES:
        for one_token in (False, True):
            half = dtype != "fp32" and not one_token
            constants = {
                "ONE_TOKEN": one_token,
                "WIDEN": False,
                "PRECISION": "ieee" if half else precision,
                "TILE": diagonal.HALF_TILE if half else diagonal.FLOAT32_TILE,
                "TOKENS": diagonal.TOKENS,
                "GROUP": diagonal.GROUP,
            }
            found.append(
                Configuration(
                    f"fisher diagonal{' one token' if one_token else ''} {dtype}",
                    diagonal_kernels.fisher_diagonal_kernel,
                    ("*fp32", f"*{dtype}", f"*{dtype}", "i32", "i32", "i32", "i32"),
                    constants,
                    diagonal.FISHER_WARPS,
                    shipped=dtype != "fp16" and not one_token,
                )
            )
    return found


def _multi_tensor() -> list[Configuration]:
    found = []
    for aligned in (True, False):
        suffix = "" if aligned else " unaligned"
        constants = {"ALIGNED": aligned, "ELEMENTS": fisher.ELEMENTS}
        found += [
            Configuration(
                f"squared-gradient average {name}{suffix}", fisher_kernels.squared_gradient_ema_kernel,
                ("*i64", "*i64", "*i32", "fp32"), {"GRAD": dtype, **constants}, fisher.WARPS, aligned,
                shipped=name == "bf16",
            )
            for name, dtype in DTYPES.items()
        ]  # fmt: skip
        for grad, param, anchor in product(DTYPES, DTYPES, DTYPES):
            dtypes = {"GRAD": DTYPES[grad], "PARAM": DTYPES[param], "ANCHOR": DTYPES[anchor]}
            found.append(
                Configuration(
                    f"ewc penalty {param}, gradient {grad}, anchor {anchor}{suffix}", fisher_kernels.ewc_kernel,
                    ("*i64", "*i64", "*i32", "*fp32", "fp32"), {**dtypes, **constants}, fisher.WARPS, aligned,
                    shipped=(grad, param, anchor) in (("bf16", "bf16", "fp32"), ("fp32", "fp32", "fp32")),
                )
            )  # fmt: skip
    return found


def _projections(precision: str) -> list[Configuration]:
    return [*_row_projections(precision), *_flat_projections(), *_flat_reductions()]


def _row_projections(precision: str) -> list[Configuration]:
    found = []
    for (name, dtype), rank, by_vector, aligned in product(
        DTYPES.items(), null_space.ROW_RANKS, (True, False), (True, False)
    ):
        of_kind = null_space.COLUMNS if aligned else null_space.UNALIGNED_COLUMNS
        columns = of_kind["float32" if name == "fp32" else "half"][rank]
        found.append(
            Configuration(
                f"row projection {name} rank {rank}{_basis_suffix(by_vector, aligned)}",
                null_space_kernels.row_projection_kernel,
                ("*i64", "*i64", "*i32"),
                {
                    "X": dtype,
                    "BY_VECTOR": by_vector,
                    "ALIGNED": aligned,
                    "ONE_SIDED": True,
                    "WIDEN": False,
                    "PRECISION": precision,
                    "RANK": rank,
                    "ROWS": null_space.ROWS,
                    "COLUMNS": columns,
                    "STAGES": null_space.STAGES,
                },
                null_space.WARPS,
                vector_loads=aligned,
                shipped=aligned and not by_vector and name != "fp16" and rank != 32,
                elements=null_space.ROWS * columns,
            )
        )
    return found


def _flat_projections() -> list[Configuration]:
    found = []
    stored = ((torch.float32, True), (torch.float32, False), (torch.float16, True))
    for (name, dtype), (basis_dtype, by_vector), rank, aligned in product(
        DTYPES.items(), stored, null_space.FLAT_RANKS, (True, False)
    ):
        basis_name = "fp32" if basis_dtype == torch.float32 else "fp16"
        step = null_space.flat_step(basis_dtype, by_vector, aligned, rank)
        constants = {
            "X": dtype,
            "BASIS": DTYPES[basis_name],
            "BY_VECTOR": by_vector,
            "ALIGNED": aligned,
            "RANK": rank,
            "ELEMENTS": null_space.FLAT_ELEMENTS,
            "STEP": step,
        }
        for title, kernel in (
            ("flat coefficients", null_space_kernels.flat_coefficients_kernel),
            ("flat subtraction", null_space_kernels.flat_subtract_kernel),
        ):
            found.append(
                Configuration(
                    f"{title} {name}, basis {basis_name} rank {rank}{_basis_suffix(by_vector, aligned)}",
                    kernel,
                    ("*i64", "*i64", "*i32", "*fp32"),
                    constants,
                    null_space.WARPS,
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
            null_space_kernels.flat_reduce_kernel,
            ("*fp32", "*i64", "*i64", "*fp32", "*fp32"),
            {"ONE_SIDED": True, "CORRECTED": corrected, "RANK": rank, "PARTS": null_space.REDUCED // rank},
            null_space.WARPS,
            shipped=rank == 8 and corrected,
            elements=null_space.REDUCED,
        )
        for rank, corrected in product(null_space.FLAT_RANKS, (True, False))
    ]


def _basis_suffix(by_vector: bool, aligned: bool) -> str:
    return f"{' by vector' if by_vector else ''}{'' if aligned else ' unaligned'}"
