"""Masks: from labels, packed without a look at the device, and refused where a CUDA graph would copy them."""

from __future__ import annotations

import pytest
import torch

from safe_kernels import answer_mask, kl_divergence, linear_kl_divergence
from safe_kernels._divergence import masks
from tests.kernels.linear_kl.test_api import measured, problem


def test_answer_mask_is_the_mask_of_the_shifted_labels() -> None:
    labels = torch.tensor([[-100, -100, 5, 7, -100], [-100, 3, -100, -100, 9]])
    # Position t predicts the token t + 1.
    want = torch.tensor([[False, True, True, False, False], [True, False, False, True, False]])
    assert torch.equal(answer_mask(labels), want)
    assert torch.equal(answer_mask(labels[0]), want[0])
    assert torch.equal(answer_mask(labels, shift=False), labels != -100)
    assert torch.equal(answer_mask(labels, ignore_index=3, shift=False), labels != 3)
    assert answer_mask(labels[:, :0]).shape == (2, 0)


def test_answer_mask_counts_what_cross_entropy_counts() -> None:
    """The gradient of a model's own shifted loss is non-zero at these positions and no others."""
    labels = torch.tensor([[-100, -100, 5, 7, -100], [-100, 3, -100, -100, 9]])
    logits = torch.randn(2, 5, 11, requires_grad=True)
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
    assert logits.grad is not None
    assert torch.equal(answer_mask(labels), logits.grad.abs().sum(-1) > 0)


def test_answer_mask_names_bad_labels() -> None:
    with pytest.raises(TypeError, match=r"labels: expected integers, got torch\.float32"):
        answer_mask(torch.zeros(3))
    with pytest.raises(ValueError, match=r"labels: expected shape \[\.\.\., T\]"):
        answer_mask(torch.tensor(3))


def test_packing_never_looks_at_the_device() -> None:
    """A tensor on the meta device has no data: what looks at it, as a synchronization does, fails."""
    mask = torch.tensor([True, False, True, True])
    there = torch.device("meta")
    rows = masks.find_kept_rows(mask, there)
    packed = masks.pack(torch.empty(4, 3, device=there), rows)
    assert packed.shape == (3, 3)
    assert masks.unpack(packed, rows, 4).shape == (4, 3)
    with pytest.raises(NotImplementedError):  # negative control: boolean indexing looks
        torch.empty(4, 3, device=there)[mask.to(there)]


def test_packing_keeps_the_masks_rows() -> None:
    rows = masks.find_kept_rows(torch.tensor([True, False, True]), torch.device("cpu"))
    tensor = torch.arange(6.0).view(3, 2)
    packed = masks.pack(tensor, rows)
    assert packed.tolist() == [[0, 1], [4, 5]]
    assert masks.unpack(packed, rows, 3).tolist() == [[0, 1], [0, 0], [4, 5]]
    assert masks.pack(tensor, None) is tensor
    assert masks.unpack(tensor, None, 3) is tensor


def test_a_mask_on_the_cpu_is_refused_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    mask = torch.ones(3, dtype=torch.bool)
    for copy in (masks.find_kept_rows, masks.move_mask):
        with pytest.raises(RuntimeError, match="mask: expected a mask on cuda:0 while a CUDA graph is captured"):
            copy(mask, torch.device("cuda:0"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mask_device", ["cpu", "cuda"])
def test_no_synchronization(mask_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    student, teacher, weight = problem(tokens=300, device="cuda")
    mask = torch.arange(300) % 3 > 0
    mask = mask.to(mask_device)
    measured(student, teacher, weight, mask=mask)  # compiles
    leaf = student.requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = linear_kl_divergence(leaf, teacher, weight, mask=mask)
        (loss + kl_divergence(leaf @ weight.T, teacher @ weight.T, mask=mask)).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
