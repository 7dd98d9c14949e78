"""Every kernel configuration that the launches of `safe_kernels` can ask for, as input for ahead-of-time compilation.

A configuration that only changes what is skipped (no mask, no gradient) is not listed apart from the fuller one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import triton.language as tl

from safe_kernels.fisher import _kernels as fisher_kernels
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
                "TILE": fisher.HALF_TILE if half else fisher.FLOAT32_TILE,
                "TOKENS": fisher.TOKENS,
                "GROUP": fisher.GROUP,
            }
            found.append(
                Configuration(
                    f"fisher diagonal{' one token' if one_token else ''} {dtype}",
                    fisher_kernels.fisher_diagonal_kernel,
                    ("*fp32", f"*{dtype}", f"*{dtype}", "i32", "i32", "i32", "i32"),
                    constants,
                    fisher.FISHER_WARPS,
                    shipped=dtype != "fp16" and not one_token,
                )
            )
    return found


def _multi_tensor() -> list[Configuration]:
    tables = ("*i64", "*i64", "*i64")
    found = []
    for aligned in (True, False):
        suffix = "" if aligned else " unaligned"
        constants = {"ALIGNED": aligned, "ELEMENTS": fisher.ELEMENTS}
        for name, dtype in DTYPES.items():
            found.append(
                Configuration(
                    f"squared-gradient average {name}{suffix}", fisher_kernels.squared_gradient_ema_kernel,
                    (*tables, "fp32"), {"GRAD": dtype, **constants}, fisher.ELEMENTWISE_WARPS, aligned,
                    shipped=name == "bf16",
                )
            )  # fmt: skip
            found += [
                Configuration(
                    f"ewc penalty {name}, anchor {anchor_name}{suffix}", fisher_kernels.ewc_kernel,
                    (*tables, "*fp32", "fp32"), {"PARAM": dtype, "ANCHOR": anchor, **constants},
                    fisher.ELEMENTWISE_WARPS, aligned, shipped=name == "bf16" and anchor_name == "fp32",
                )
                for anchor_name, anchor in DTYPES.items()
            ]  # fmt: skip
    return found


def _projections(precision: str) -> list[Configuration]:
    rows = {"ONE_SIDED": True, "PRECISION": precision, "ROWS": null_space.ROWS}
    flat = {"ELEMENTS": null_space.FLAT_ELEMENTS, "STEP": null_space.FLAT_STEP}
    kernels = (
        ("row projection", null_space_kernels.row_projection_kernel, (), rows, null_space.ROW_WARPS),
        ("flat coefficients", null_space_kernels.flat_partial_kernel, ("*fp32",), flat, null_space.FLAT_WARPS),
        ("flat subtraction", null_space_kernels.flat_subtract_kernel, ("*fp32",), flat, null_space.FLAT_WARPS),
    )
    found = []
    for rank, aligned, rank_aligned in product(null_space.RANK_PADS, (True, False), (True, False)):
        for name, kernel, types, constants, warps in kernels:
            if kernel is null_space_kernels.row_projection_kernel:
                constants = {**constants, "COLUMNS": null_space.COLUMNS[rank]}
            found.append(
                Configuration(
                    f"{name} rank {rank}{'' if aligned else ' unaligned'}{'' if rank_aligned else ' odd rank'}",
                    kernel,
                    ("*i64", "*i64", "*i64", *types),
                    {"ALIGNED": aligned, "RANK_ALIGNED": rank_aligned, "RANK": rank, **constants},
                    warps,
                    vector_loads=rank_aligned,
                    shipped=aligned and rank_aligned and rank in (null_space.RANK_PADS[0], null_space.MAXIMUM_RANK),
                    elements=constants["ROWS"] * constants["COLUMNS"] if "ROWS" in constants else constants["STEP"],
                )
            )
    for rank in null_space.RANK_PADS:
        constants = {"ONE_SIDED": True, "RANK": rank}
        types = ("*fp32", "*i64", "*fp32")
        found.append(
            Configuration(
                f"flat reduction rank {rank}", null_space_kernels.flat_reduce_kernel, types, constants, 1, False
            )
        )
    return found
