"""Elementary functions against fifty digits, over all the sizes an argument may have."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor

from safe_kernels._elementary import expm1_and_excess, log_cosh, log_mean_exp
from tests.tolerances import ELEMENTARY

DTYPES = [torch.float32, torch.float64]
SIZES = [1e-12, 1e-6, 1e-3, 0.1, 0.2499, 0.2501, 0.3, 1.0, 5.0, 30.0, 40.0]


def arguments(dtype: torch.dtype, reach: float = 40.0) -> Tensor:
    sizes = torch.tensor([size for size in SIZES if size <= reach], dtype=dtype)
    return torch.cat((sizes, -sizes))


def exactly(function, x: Tensor) -> Tensor:
    with mpmath.workdps(50):
        return torch.tensor([float(function(mpmath.mpf(value))) for value in x.tolist()], dtype=torch.float64)


def excess(x):
    return mpmath.expm1(x) - x


def worst(found: Tensor, want: Tensor) -> float:
    return float(((found.double() - want) / want).abs().max())


def computed(x: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    return expm1_and_excess(x, reach, x.new_empty(3, *x.shape))


@pytest.mark.parametrize("reach", [0.25, 40.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_exponential_to_a_few_roundings(dtype: torch.dtype, reach: float) -> None:
    x = arguments(dtype, reach)
    expm1, above = computed(x, reach)
    assert worst(expm1, exactly(mpmath.expm1, x)) < ELEMENTARY[dtype]
    assert worst(above, exactly(excess, x)) < ELEMENTARY[dtype]
    assert (above >= 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_small_number_does_not_depend_on_what_is_beside_it(dtype: torch.dtype) -> None:
    x = arguments(dtype, 0.25)
    for alone, beside in zip(computed(x, 0.25), computed(x, 40.0), strict=True):
        assert torch.equal(alone, beside)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_stays_zero(dtype: torch.dtype) -> None:
    zero = torch.zeros(3, dtype=dtype)
    for reach in (0.0, 40.0):
        assert all(torch.equal(found, zero) for found in computed(zero, reach))
    assert torch.equal(log_cosh(zero), zero)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_cosh_to_a_few_roundings(dtype: torch.dtype) -> None:
    x = torch.cat((arguments(dtype), torch.tensor([1e4, -1e4], dtype=dtype)))
    assert worst(log_cosh(x), exactly(lambda value: mpmath.log(mpmath.cosh(value)), x)) < ELEMENTARY[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_usually_written_has_no_digits_left(dtype: torch.dtype) -> None:
    """Negative control."""
    x = arguments(dtype)
    assert worst(torch.expm1(x) - x, exactly(excess, x)) > 1e3 * ELEMENTARY[dtype]
    assert worst(x.cosh().log(), exactly(lambda value: mpmath.log(mpmath.cosh(value)), x)) > 1e3 * ELEMENTARY[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [0.02, 0.5, 0.9])
def test_log_mean_exp(dtype: torch.dtype, beta: float) -> None:
    """Against its series of fourth order near zero, and the definition away from it."""
    x = torch.tensor([-300.0, -30.0, -2.0, -1.0, 1.0, 5.0, 40.0, 300.0], dtype=dtype)
    wide, alpha = x.double(), 1.0 - beta
    want = torch.logaddexp(math.log(beta) - alpha * wide, math.log(alpha) + beta * wide)
    # Where beta is small both parts of the sum are large beside it.
    torch.testing.assert_close(log_mean_exp(x, beta).double(), want, rtol=20 * ELEMENTARY[dtype], atol=0)
    small = torch.tensor([-1e-4, 1e-6, 1e-3], dtype=dtype)
    a, b = beta, 1 - beta
    series = small.double() ** 2 * (a * b / 2) + small.double() ** 3 * (a * b * (a - b) / 6)
    torch.testing.assert_close(log_mean_exp(small, beta).double(), series, rtol=1e-6, atol=0)
    if beta == 0.5:
        torch.testing.assert_close(log_mean_exp(x, beta), log_cosh(x / 2))
