"""Chunks, products and layout of the launches under a head."""

from __future__ import annotations

import pytest
import torch

from safe_kernels import linear_kl_divergence
from safe_kernels.linear_kl import triton_impl
from safe_kernels.linear_kl.heads import LinearHeads
from tests.kernels.linear_kl.test_api import problem


@pytest.mark.parametrize(("vocabulary", "chunk"), [(152064, 2048), (32000, 8192), (128256, 2304), (262144, 1024)])
def test_default_chunks_are_whole_tiles(vocabulary: int, chunk: int) -> None:
    """1.25 GB over 4 bytes a class and token, rounded down to 256; at most 8192."""
    assert triton_impl.default_chunk(vocabulary, torch.bfloat16) == chunk


@pytest.mark.parametrize(
    ("tokens", "largest", "chunk"),
    [(8192, 2048, 2048), (5000, 2048, 1792), (100, 2048, 100), (7, 3, 3), (2049, 2048, 1280)],
)
def test_chunks_are_even(tokens: int, largest: int, chunk: int) -> None:
    assert triton_impl.even_chunk(tokens, largest) == chunk
    assert -(-tokens // chunk) == -(-tokens // largest)


@pytest.mark.parametrize("vocabulary", [150, 160, 1])
def test_rows_begin_where_wide_loads_may(vocabulary: int) -> None:
    weight = torch.randn(vocabulary, 8)
    rows = triton_impl.LogitRows(5, 3, LinearHeads(weight, None, None, None, None, 1.0))
    assert rows.width % 16 == 0
    assert rows.width - vocabulary < 16
    for size in (3, 2):  # the last chunk is smaller: what was a teacher's row becomes a row of differences
        states = torch.randn(2, size, 8)
        teacher, difference = rows.fill(states[0], states[1])
        torch.testing.assert_close(teacher[:, :vocabulary], states[1] @ weight.T)
        torch.testing.assert_close(difference[:, :vocabulary], (states[0] - states[1]) @ weight.T)
        assert (teacher[:, vocabulary:] == -torch.inf).all()
        assert (difference[:, vocabulary:] == 0.0).all()


@pytest.mark.parametrize("vocabulary", [150, 160])
def test_padding_does_not_show(vocabulary: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 3 and 2 tokens, whose memory is shared, under a cap, which makes -inf finite."""
    student, teacher, weight = problem(5, vocabulary=vocabulary, device=device)
    found = []
    for backend in ("triton", "torch"):
        monkeypatch.setenv("SAFE_KERNELS_BACKEND", backend)
        options = {"logit_softcap": 2.0, "chunk_tokens": 3, "reduction": "none"}
        found.append(linear_kl_divergence(student, teacher, weight, **options))
    torch.testing.assert_close(*found)


def test_a_shared_head_is_read_twice_a_chunk(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the logits and differences together, once for the gradient."""
    student, teacher, weight = problem(5, device=device)
    read = []
    product = triton_impl.product
    monkeypatch.setattr(triton_impl, "product", lambda a, b, out: (read.append(tuple(a.shape)), product(a, b, out)))
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    linear_kl_divergence(student.requires_grad_(), teacher, weight, chunk_tokens=3)
    assert read == [(6, 24), (3, 150), (4, 24), (2, 150)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("vocabulary", [8197, 32064, 92553, 152064])
def test_native_sizes(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one block natively; rows beyond 2^31 elements; the last token is the first again."""
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    tokens = 2**31 // vocabulary + 2 if vocabulary > 90000 else 9
    student, teacher, weight = (tensor.bfloat16() for tensor in problem(tokens, 64, vocabulary, 1e-2, device="cuda"))
    student[-1], teacher[-1] = student[0], teacher[0]
    found = linear_kl_divergence(student, teacher, weight, reduction="none", chunk_tokens=tokens)
    assert torch.equal(found[-1], found[0])
