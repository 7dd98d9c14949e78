"""LoRA: the low-rank update while it is active, the base layer to the last bit while it is not."""

import pytest
import torch
from torch import nn

from safe_train.model.lora import LanguageModelLora

RANK, SIZE = 3, 8


class Attention(nn.Module):
    """A decoder's attention in names alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj"):
            setattr(self, name, nn.Linear(SIZE, SIZE, bias=False))

    def forward(self, x):
        return self.o_proj(self.q_proj(x) + self.k_proj(x) + self.v_proj(x)) + self.up_proj(x)


@pytest.fixture
def decoder():
    return Attention()


def test_inactive_it_is_the_base_bit_for_bit_and_active_the_update_is_added(decoder):
    x = torch.randn(4, SIZE)
    before = decoder(x)
    weights = {name: decoder.get_submodule(name).weight.detach().clone() for name in ("q_proj", "k_proj", "v_proj")}
    out, up = decoder.o_proj.weight.detach().clone(), decoder.up_proj.weight.detach().clone()
    lora = LanguageModelLora(decoder, RANK)
    assert torch.equal(decoder(x), before)
    for pair in lora.factors:
        nn.init.normal_(pair[1].weight)
    assert torch.equal(decoder(x), before)
    with lora.as_active(True):
        found = decoder(x)
    updates = [2.0 * pair[1].weight @ pair[0].weight for pair in lora.factors]  # alpha / rank = 2
    inner = sum(x @ (weight + update).T for weight, update in zip(weights.values(), updates[:3], strict=True))
    torch.testing.assert_close(found, inner @ (out + updates[3]).T + x @ up.T)
    assert torch.equal(decoder(x), before)


def test_the_factors_alone_are_trained_also_after_they_were_switched(decoder):
    lora = LanguageModelLora(decoder, RANK)
    trained = {id(parameter) for parameter in lora.factors.parameters()}
    for active in (True, False):
        lora.set_active(active)
        assert {id(p) for p in decoder.parameters() if p.requires_grad} == trained
    lora.factors.requires_grad_(False)
    lora.set_active(True)
    assert not any(parameter.requires_grad for parameter in decoder.parameters())
