"""The tolerance of each result of an operation; the figures themselves stand in `tests.tolerances`."""

from __future__ import annotations

import torch

from bench.gpu.cases import Case
from tests.tolerances import DIVERGENCE_GRADIENT, DIVERGENCE_VALUE, EWC_GRADIENT, FISHER, PROJECTION


def largest_errors(case: Case, dtype: torch.dtype, results: int) -> list[float]:
    """For each result of a case."""
    if case.operation in ("kl_divergence", "linear_kl_divergence"):
        return [DIVERGENCE_VALUE[dtype], DIVERGENCE_GRADIENT[dtype]]
    if case.operation == "ewc_penalty_":
        return [FISHER[dtype], *[EWC_GRADIENT[dtype]] * (results - 1)]
    table = PROJECTION if case.operation == "project_null_space_" else FISHER
    return [table[dtype]] * results
