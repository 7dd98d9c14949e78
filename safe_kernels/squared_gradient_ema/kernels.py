"""Triton kernel of the squared-gradient average."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

import triton
import triton.language as tl

from safe_kernels._elementwise.kernels import block_of_program, load_float32, row_pointer


@triton.jit
def squared_gradient_ema_kernel(
    addresses_ptr: tl.tensor,
    sizes_ptr: tl.tensor,
    blocks_ptr: tl.tensor,
    decay: tl.tensor,
    share: tl.tensor,
    GRAD: tl.constexpr,
    ALIGNED: tl.constexpr,
    ELEMENTS: tl.constexpr,
) -> None:
    """One block of `fisher <- decay fisher + (1 - decay) grad^2`."""
    row, start, left = block_of_program(sizes_ptr, blocks_ptr, ELEMENTS)
    fisher_ptr = row_pointer(addresses_ptr + row * 2, start, tl.float32, ALIGNED)
    grad_ptr = row_pointer(addresses_ptr + row * 2 + 1, start, GRAD, ALIGNED)
    # Four elements an access, whatever the dtypes: one layout for both, or values go through shared memory.
    lane = tl.max_contiguous(tl.arange(0, ELEMENTS), 4)
    if left >= ELEMENTS:
        _average_block(fisher_ptr + lane, grad_ptr + lane, decay, share, None)
    else:
        _average_block(fisher_ptr + lane, grad_ptr + lane, decay, share, lane < left)


@triton.jit
def _average_block(
    fisher_ptr: tl.tensor, grad_ptr: tl.tensor, decay: tl.tensor, share: tl.tensor, inside: tl.tensor
) -> None:
    grad = load_float32(grad_ptr, inside)
    tl.store(fisher_ptr, decay * load_float32(fisher_ptr, inside) + share * grad * grad, mask=inside)
