"""Rows of a divergence side by side: what one may do to the next, and what lies behind the last."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from safe_kernels._divergence import torch_impl
from safe_kernels._divergence.inputs import Measure
from safe_kernels.linear_kl import triton_impl
from safe_kernels.linear_kl.heads import LinearHeads
from tests.kernels.conftest import BACKENDS
from tests.kernels.kl.test_api import DIVERGENCES, measured, pair
from tests.kernels.linear_kl.test_api import measured as linear_measured
from tests.kernels.linear_kl.test_api import problem

NAN = float("nan")

# NumPy's, in the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value encountered")


def near_far_and_nan(device: torch.device) -> tuple[Tensor, Tensor]:
    """Six rows: near, far and with a student that is no number, each twice, in turns."""
    near, far, nan = pair(2, 97, 0.05, device), pair(2, 97, 60.0, device), pair(2, 97, 0.05, device)
    nan[0][:, 7] = NAN
    order = [0, 2, 4, 1, 3, 5]
    student, teacher = (torch.cat(logits)[order] for logits in zip(near, far, nan, strict=True))
    return student, teacher


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_row_that_is_no_number_leaves_its_neighbors_as_they_are(
    backend: str, device: torch.device, divergence: str
) -> None:
    student, teacher = near_far_and_nan(device)
    numbers = [0, 1, 3, 4]
    want = measured(student[numbers], teacher[numbers], divergence)
    for found, expected in zip(measured(student, teacher, divergence), want, strict=True):
        assert torch.equal(found[numbers], expected)
        assert not found[[2, 5]].isfinite().any()


@pytest.mark.parametrize("which", ["near and NaN", "near, far and NaN", "NaN alone", "near alone"])
def test_rows_taken_for_near_are_as_near_as_is_said(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """The short way relies on a bound of the differences' spread, which a NaN has not."""
    student, teacher = near_far_and_nan(torch.device("cpu"))
    chosen = {"near and NaN": [0, 2, 3], "near, far and NaN": [0, 1, 2], "NaN alone": [2, 5], "near alone": [0, 3]}
    rows = chosen[which]
    taken: list[int] = []
    original = torch_impl._near_

    def checked(teacher: Tensor, difference: Tensor, reach: float, *rest: Any) -> Tensor:
        taken.append(len(difference))
        assert bool((difference.amax(-1) - difference.amin(-1) <= reach).all())
        return original(teacher, difference, reach, *rest)

    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "torch")
    monkeypatch.setattr(torch_impl, "_near_", checked)
    measured(student[rows], teacher[rows], "forward")
    assert taken == ([] if which == "NaN alone" else [sum(row in (0, 3) for row in rows)])


def guarded(tensor: Tensor, behind: float) -> Tensor:
    """The same values, with others behind them in memory."""
    room = torch.full((tensor.numel() + 64,), behind, dtype=tensor.dtype, device=tensor.device)
    return room[: tensor.numel()].view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("behind", [NAN, float("inf")])
def test_what_lies_behind_a_head_and_its_bias_is_not_read(
    backend: str, device: torch.device, separate: bool, behind: float
) -> None:
    """150 classes, of which a last block has less than it could hold, and rows are padded to 160."""
    student, teacher, weight = problem(device=device)
    options: dict[str, Tensor] = {"head_bias": torch.randn(150, device=device)}
    if separate:
        options["teacher_head_weight"] = weight + 0.1 * torch.randn_like(weight)
        options["teacher_head_bias"] = torch.randn(150, device=device)
    want = linear_measured(student, teacher, weight, **options)
    apart = {name: guarded(tensor, behind) for name, tensor in options.items()}
    found = linear_measured(student, teacher, guarded(weight, behind), **apart)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


@pytest.mark.skipif("triton" not in BACKENDS, reason="Triton's kernels cannot run here")
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("masked", [[0], [1, 3], [4], [0, 1, 2, 3, 4]])
def test_masked_rows_are_zeros_and_end_where_the_next_begins(
    device: torch.device, divergence: str, masked: list[int]
) -> None:
    """The kernel's own mask, as on a GPU; memory behind the last row stays as it is."""
    student, teacher, weight = problem(5, device=device)
    logits = triton_impl.LogitRows(5, 5, LinearHeads(weight, None, None, None, None, 1.0))
    found = []
    mask = torch.ones(5, dtype=torch.bool, device=device)
    mask[masked] = False
    for given in (None, mask):
        rows, difference = logits.fill(student, teacher)
        room = torch.full((difference.numel() + 64,), 7.0, device=device)
        other = room[: difference.numel()].view(difference.shape).copy_(difference)
        values, scales = torch.full((5,), NAN, device=device), torch.full((5,), NAN, device=device)
        triton_impl._Rows(rows, other, given, logits, Measure(divergence)).divergence(values, scales, True)
        assert (room[difference.numel() :] == 7.0).all()
        found.append((values, scales, other))
    for plain, with_mask in zip(*found, strict=True):
        assert torch.equal(with_mask[mask], plain[mask])
        assert torch.equal(with_mask[~mask], torch.zeros_like(with_mask[~mask]))
