"""Each operation once, at a native size: what fails here need not be measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.gpu.cases import Case, everyday_cases
from tests.kernels.native.limits import largest_errors

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.operation(case.operation), id=f"{case.operation} {case.name}")
        for case in everyday_cases()
    ],
)
def test_equals_float64(
    native_device: torch.device, case: Case, dtype: torch.dtype, record_property: Callable[[str, Any], None]
) -> None:
    record_property("operation", case.operation)
    inputs = case.make(native_device, dtype)
    errors = case.errors(inputs, case.call(inputs))
    record_property("errors", errors)
    for error, largest in zip(errors, largest_errors(case, dtype, len(errors)), strict=True):
        assert error < largest
