"""Questions packed as branches behind an image have the loss that they have one by one."""

import math

import pytest
import torch
from torch.nn import functional
from transformers import EfficientNetConfig, FastVlmConfig, FastVlmForConditionalGeneration, LlamaConfig

from experiments.real.train_base import (
    Packed,
    accuracies,
    answer_loss,
    build_projector,
    draw_by_image,
    pack,
    rate_factor,
)
from safe_train.data.example import Example

IMAGE, PLACES = 5, 4
PREFIX = [1, 7, *[IMAGE] * PLACES]
BRANCHES = [([8, 9, 10], [11, 2]), ([12], [13, 14, 2]), ([8, 15], [16, 2])]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    vision = EfficientNetConfig(
        image_size=16, num_channels=3, kernel_sizes=[3], in_channels=[8], out_channels=[8], depthwise_padding=[],
        strides=[2], num_block_repeats=[1], expand_ratios=[1], hidden_dim=12,
    )  # fmt: skip
    vision.hidden_size = 12
    text = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    config = FastVlmConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), image_token_index=IMAGE, tie_word_embeddings=True
    )
    found = FastVlmForConditionalGeneration(config).eval().requires_grad_(False)
    for parameter in found.model.language_model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far from uniform predictions, which hide a wrong mask
    found.model.language_model.set_attn_implementation("eager")
    return found


def packed(features, padding=0):
    ids, positions, sees, targets = pack(PREFIX, BRANCHES)
    length = len(ids) + padding
    mask = torch.eye(length, dtype=torch.bool)
    mask[: len(ids), : len(ids)] = sees
    scores = torch.zeros(1, 1, length, length).masked_fill(~mask, float("-inf"))
    pad = (0, padding)
    return Packed(
        functional.pad(ids, pad)[None], functional.pad(positions, pad)[None], scores, features[None],
        functional.pad(targets, pad, value=-100)[None],
    )  # fmt: skip


def one_by_one(model, projector, features):
    """Mean cross-entropy over all answer tokens of ordinary causal sequences, by the model itself."""
    losses = []
    for prompt, answer in BRANCHES:
        ids = torch.tensor([[*PREFIX, *prompt, *answer]])
        embeddings = model.get_input_embeddings()(ids).masked_scatter((ids == IMAGE)[..., None], projector(features))
        logits = model.lm_head(model.model.language_model(inputs_embeds=embeddings).last_hidden_state)[0]
        start = len(PREFIX) + len(prompt)
        for offset, token in enumerate(answer):
            losses.append(-torch.log_softmax(logits[start + offset - 1].double(), -1)[token])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("padding", [0, 3])
def test_branches_have_the_loss_of_separate_sequences(model, padding):
    features = torch.randn(PLACES, 12, generator=torch.Generator().manual_seed(1))
    projector = build_projector(model, features[None], seed=0)
    expected = one_by_one(model, projector, features)
    assert answer_loss(model, projector, packed(features, padding)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_branch_that_sees_another_one_has_another_loss(model):
    features = torch.randn(PLACES, 12, generator=torch.Generator().manual_seed(1))
    projector = build_projector(model, features[None], seed=0)
    batch = packed(features)
    length = batch.ids.shape[1]
    causal = torch.full((1, 1, length, length), float("-inf")).triu(1)
    leaking = Packed(batch.ids, batch.positions, causal, batch.features, batch.targets)
    expected = one_by_one(model, projector, features).item()
    assert abs(answer_loss(model, projector, leaking).item() - expected) > 1e-3


def test_positions_begin_again_behind_the_image_and_targets_are_the_answers():
    _, positions, sees, targets = pack(PREFIX, BRANCHES)
    assert positions.tolist() == [*range(6), *range(6, 11), *range(6, 10), *range(6, 10)]
    assert [token for token in targets.tolist() if token != -100] == [11, 2, 13, 14, 2, 16, 2]
    assert not sees[11:, 6:11].any()
    assert sees[11:, :6].all()


def test_the_projector_begins_with_outputs_as_large_as_the_embeddings(model):
    features = 7.0 + 3.0 * torch.randn(200, PLACES, 12, generator=torch.Generator().manual_seed(2))
    out = build_projector(model, features, seed=0)(features)
    assert out.std().item() == pytest.approx(model.get_input_embeddings().weight.std().item(), rel=0.05)
    first: torch.nn.Linear = build_projector(model, features, seed=0).linear_1  # type: ignore[assignment]
    hidden = first(features)
    assert hidden.mean(dim=(0, 1)).abs().max() < 0.1  # the offset of 7 is gone
    assert hidden.std().item() == pytest.approx(1.0, rel=0.3)


def test_the_learning_rate_rises_in_a_line_and_falls_as_a_cosine():
    assert rate_factor(0.025, 0.05) == pytest.approx(0.5)
    assert rate_factor(0.05, 0.05) == pytest.approx(1.0)
    assert rate_factor(0.525, 0.05) == pytest.approx(0.5)
    assert rate_factor(1.0, 0.05) == pytest.approx(0.0)
    assert rate_factor(0.2875, 0.05) == pytest.approx((1 + math.sqrt(0.5)) / 2)


def question(image, kind, answer):
    return Example(f"{image}-{kind}", "?", (answer,), cluster=image, kind=kind)


def test_questions_are_drawn_by_image():
    examples = [question(str(image), kind, "a") for image in range(10) for kind in ("x", "y", "z")]
    drawn = draw_by_image(examples, 10, seed=0)
    assert len(drawn) == 12  # the fourth image is drawn whole
    assert len({example.cluster for example in drawn}) == 4
    assert draw_by_image(examples, 100, seed=0) != examples
    assert len(draw_by_image(examples, 100, seed=0)) == 30


def test_accuracies_by_type_with_the_majority():
    examples = [question(str(n), "color", "red" if n < 6 else "blue") for n in range(8)]
    examples += [question(str(n), "shape", "box") for n in range(8)]
    scores = [1.0] * 4 + [0.0] * 4 + [1.0] * 8
    found = accuracies(examples, scores)
    assert (found["color"].mean, found["shape"].mean, found["all"].mean) == (0.5, 1.0, 0.75)
    assert (found["all"].questions, found["color"].questions) == (16, 8)
    assert found["color"].majority == pytest.approx(6 / 8)
    assert found["color"].low < 0.5 < found["color"].high
