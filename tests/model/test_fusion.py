"""The gated cross-attention against its definition, head by head in float64, and against what must not matter."""

import math

import pytest
import torch

from safe_train.model.fusion import GatedCrossAttention

HIDDEN, DIM, HEADS = 24, 16, 4


@pytest.fixture
def fusion():
    torch.manual_seed(0)
    module = GatedCrossAttention(HIDDEN, DIM, HEADS).double()
    torch.nn.init.normal_(module.output.weight, std=0.5)
    return module


def inputs(batch=3, length=5, tokens=4):
    generator = torch.Generator().manual_seed(1)
    hidden, audio = (
        torch.randn(batch, count, HIDDEN, generator=generator, dtype=torch.float64) for count in (length, tokens)
    )
    mask = torch.tensor([[True] * tokens, [True] * (tokens - 2) + [False] * 2, [False] * tokens])[:batch]
    return hidden, audio, mask


def definition(fusion, hidden, audio, mask):
    """``W_o softmax(q k^T / sqrt(d)) v`` by loops over rows, positions and heads; rows without audio get zeros."""

    def norm(x):
        return x / (x.square().mean() + torch.finfo(x.dtype).eps).sqrt()

    update = torch.zeros_like(hidden)
    size = DIM // HEADS
    for row in range(len(hidden)):
        heard = [norm(token) for token, kept in zip(audio[row], mask[row], strict=True) if kept]
        for position in range(hidden.shape[1] if heard else 0):
            query = fusion.query.weight @ norm(hidden[row, position])
            parts = []
            for head in range(HEADS):
                own = slice(head * size, (head + 1) * size)
                scores = torch.stack([query[own] @ (fusion.key.weight @ token)[own] for token in heard])
                weights = (scores / math.sqrt(size)).softmax(0)
                parts.append(
                    sum(w * (fusion.value.weight @ token)[own] for w, token in zip(weights, heard, strict=True))
                )
            update[row, position] = fusion.output.weight @ torch.cat(parts)
    return update


def test_it_is_the_definition(fusion):
    given = inputs()
    torch.testing.assert_close(fusion(*given), definition(fusion, *given), rtol=1e-10, atol=1e-10)


def test_negative_control_one_head_is_another_function(fusion):
    given = inputs()
    fusion.num_heads = 1
    assert (fusion(*given) - definition(fusion, *given)).norm() > 0.1 * definition(fusion, *given).norm()


def test_masked_tokens_do_not_matter_and_a_row_without_audio_is_not_changed(fusion):
    hidden, audio, mask = inputs()
    other = audio.masked_fill(~mask[..., None], 1e6)
    assert torch.equal(fusion(hidden, other, mask), fusion(hidden, audio, mask))
    assert torch.equal(fusion(hidden, audio, mask)[2], torch.zeros_like(hidden[2]))


def test_before_training_it_has_no_effect():
    hidden, audio, mask = (part.float() if part.is_floating_point() else part for part in inputs())
    assert torch.equal(GatedCrossAttention(HIDDEN, DIM, HEADS)(hidden, audio, mask), torch.zeros_like(hidden))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="multiple of the 3 heads, got 16"):
        GatedCrossAttention(HIDDEN, DIM, 3)
