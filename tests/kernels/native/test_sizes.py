"""Sizes beyond one block of a kernel, odd ones among them, in every dtype: merging, tails and tile order."""

from __future__ import annotations

import pytest
import torch

from bench.gpu.cases import (
    Case,
    average_case,
    fisher_case,
    linear_case,
    logits_case,
    penalty_case,
    projection_case,
)
from bench.rehearsal import sized
from tests.kernels.native.limits import largest_errors

pytestmark = pytest.mark.gpu

VOCABULARIES = sized([8197, 32064, 92553, 152064], [67])
"""Two blocks and a bit; LLaVA-1.5; InternVL; Qwen."""

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
DIVERGENCES = ["forward", "reverse", "jsd"]
SHAPES = sized([(612, 612), (4096, 1024), (37, 1031), (1, 1), (129, 4096), (5, 48)], [(6, 16), (3, 5), (1, 1)])
FLAT_SHAPES = sized([(612, 612), (37, 1031), (1, 1), (1000, 1003), (16, 16)], [(6, 16), (3, 5), (1, 1)])
LAYERS = sized(
    [
        (3, 1, 4096, 4096),
        (2, 512, 4096, 4096),
        (3, 17, 1031, 513),
        (4, 33, 4096, 8),
        (4, 33, 8, 4096),
        (5, 64, 612, 1224),
    ],
    [(3, 1, 20, 12), (2, 17, 19, 33)],
)
"""Samples, tokens, inputs and outputs; 8 is a LoRA's rank."""


def assert_close(case: Case, device: torch.device, dtype: torch.dtype) -> None:
    """All results of a case are within their tolerances."""
    inputs = case.make(device, dtype)
    errors = case.errors(inputs, case.call(inputs))
    limits = largest_errors(case, dtype, len(errors))
    assert all(error < largest for error, largest in zip(errors, limits, strict=True)), (errors, limits)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("classes", VOCABULARIES)
def test_divergence_of_logits(native_device: torch.device, classes: int, divergence: str, dtype: torch.dtype) -> None:
    assert_close(logits_case(5, classes, divergence), native_device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("classes", VOCABULARIES)
def test_divergence_under_a_head(
    native_device: torch.device, classes: int, divergence: str, softcap: float | None, dtype: torch.dtype
) -> None:
    """Three chunks, the last one shorter."""
    case = linear_case(sized(37, 5), sized(512, 16), classes, divergence, softcap, chunk=sized(16, 2))
    assert_close(case, native_device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", sized([4096, 1031], [17]))
def test_width_of_the_hidden_states(native_device: torch.device, hidden: int, dtype: torch.dtype) -> None:
    assert_close(linear_case(sized(300, 5), hidden, VOCABULARIES[0]), native_device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_fisher_diagonal(native_device: torch.device, layer: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    assert_close(fisher_case(*layer), native_device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_average_of_squared_gradients(native_device: torch.device, dtype: torch.dtype) -> None:
    assert_close(average_case(SHAPES), native_device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_penalty(native_device: torch.device, dtype: torch.dtype) -> None:
    assert_close(penalty_case(SHAPES), native_device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("rank", [1, 8, 17, 64, 65])
def test_projection_of_rows(native_device: torch.device, rank: int, one_sided: bool, dtype: torch.dtype) -> None:
    assert_close(projection_case(SHAPES, rank, one_sided=one_sided), native_device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("rank", [1, 8, 17, 64])
def test_projection_of_vectors(native_device: torch.device, rank: int, one_sided: bool, dtype: torch.dtype) -> None:
    assert_close(projection_case(FLAT_SHAPES, rank, flat=True, one_sided=one_sided), native_device, dtype)
