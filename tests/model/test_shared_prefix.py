"""The student's pass that continues from the teacher's: the bits of two separate passes, forward and backward."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
)

from safe_train.configs.model_configs import EMBEDDED
from safe_train.model.audio.encoder import AudioFeatures, load_audio_encoder
from safe_train.model.base import Base
from safe_train.model.batch import Batch
from safe_train.model.retention_model import SafeRetentionModel
from safe_train.model.safe_model import AdapterConfig, SafeModel
from safe_train.model.shared_prefix import PrefixRecorder, continue_from
from safe_train.retention.mechanism import negative_log_likelihood

IMAGE = 99


@dataclass
class Case:
    """A model with audio to attach, and inputs of rows of different lengths."""

    model: SafeModel
    inputs: dict[str, torch.Tensor]
    features: tuple[AudioFeatures, ...]


def gemma3() -> tuple[Any, dict[str, torch.Tensor]]:
    """Sliding and full attention alternate; image tokens see each other."""
    text = Gemma3TextConfig(
        vocab_size=120, hidden_size=48, intermediate_size=64, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, sliding_window=4, layer_types=["sliding_attention", "full_attention"] * 2
        + ["sliding_attention"], max_position_embeddings=128,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=IMAGE,
        boi_token_index=97, eoi_token_index=98,
    )  # fmt: skip
    ids = token_ids(image_tokens=4)
    inputs = {"token_type_ids": (ids == IMAGE).long(), "pixel_values": torch.randn(2, 3, 32, 32)}
    return Gemma3ForConditionalGeneration(config), {"input_ids": ids} | inputs


def qwen3_vl() -> tuple[Any, dict[str, torch.Tensor]]:
    """Three-dimensional positions; features of the vision tower are also added behind the first decoder layers."""
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 120, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 5, "head_dim": 12,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10_000.0},
        },
        vision_config={
            "depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 48,
            "deepstack_visual_indexes": [0, 1, 2], "num_position_embeddings": 16,
        },
        image_token_id=IMAGE, video_token_id=96, vision_start_token_id=97, vision_end_token_id=98,
    )  # fmt: skip
    ids = token_ids(image_tokens=4)
    grid = torch.tensor([[1, 4, 4], [1, 4, 4]])
    inputs = {"pixel_values": torch.randn(32, 3 * 2 * 8 * 8), "image_grid_thw": grid}
    return Qwen3VLForConditionalGeneration(config), {"input_ids": ids} | inputs | {
        "mm_token_type_ids": (ids == IMAGE).long()
    }


def token_ids(image_tokens: int) -> torch.Tensor:
    text = torch.randint(5, 90, (2, 14), generator=torch.Generator().manual_seed(0))
    text[:, 2 : 2 + image_tokens], text[:, 1], text[:, 2 + image_tokens] = IMAGE, 97, 98
    return text


BUILDERS = {"gemma3": gemma3, "qwen3_vl": qwen3_vl}


@pytest.fixture(params=["embedded", "llava", "qwen2_vl", *BUILDERS])
def case(request, sources, rows, attach) -> Case:
    if request.param in sources:
        model, encoder = attach(sources[request.param])
        batch = encoder.training_batch(rows)
        return Case(model, batch.inputs, batch.features)
    torch.manual_seed(3)
    built, inputs = BUILDERS[request.param]()
    base = Base(built.requires_grad_(False).eval(), None, request.param)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][1, 11:] = 0
    config = AdapterConfig(num_audio_tokens=4, projector_hidden=16, fusion_layers=(1, 3), fusion_dim=32, fusion_heads=4)
    model = SafeModel(base, [load_audio_encoder(EMBEDDED)], config)
    for parameter in model.trainable_parameters().values():
        torch.nn.init.normal_(parameter, std=0.3)
    size = model.encoders[0].feature_size
    return Case(model, inputs, (AudioFeatures(torch.randn(2, 1, size), torch.ones(2, 1, dtype=torch.bool)),))


def gradients(model: SafeModel, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    model.base.head(hidden).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.trainable_parameters().items()}


def test_continued_pass_has_the_bits_of_a_whole_one(case):
    expected_teacher = case.model.last_hidden_state(case.inputs, None)
    expected = case.model.last_hidden_state(case.inputs, case.features)
    expected_gradients = gradients(case.model, expected)
    teacher, prefix = case.model.bypass_and_prefix(case.inputs)
    found = case.model.last_hidden_state(case.inputs, case.features, prefix)
    assert prefix is not None
    assert prefix.layer == min(case.model.config.fusion_layers)
    assert torch.equal(teacher, expected_teacher)
    assert torch.equal(found, expected)
    assert not torch.equal(found, teacher)
    found_gradients = gradients(case.model, found)
    assert all(torch.equal(found_gradients[name], gradient) for name, gradient in expected_gradients.items())
    assert all(gradient.abs().sum() > 0 for gradient in expected_gradients.values())
    assert torch.equal(case.model.last_hidden_state(case.inputs, None), expected_teacher)  # the layers are whole again


def test_what_is_shared_runs_once(case):
    first, layers = min(case.model.config.fusion_layers), case.model.base.decoder_layers
    calls = dict.fromkeys(range(len(layers)), 0)

    def count(index: int) -> Any:
        attention = next(m for name, m in layers[index].named_modules() if name.endswith("attn"))
        return attention.register_forward_hook(lambda *_: calls.update({index: calls[index] + 1}))

    handles = [count(index) for index in calls]
    _, prefix = case.model.bypass_and_prefix(case.inputs)
    case.model.last_hidden_state(case.inputs, case.features, prefix)
    for handle in handles:
        handle.remove()
    assert calls == {index: 1 if index <= first else 2 for index in calls}


def test_negative_control_a_prefix_that_reaches_over_a_fusion_gives_other_states(case):
    decoder, layers = case.model.base.model.get_decoder(), case.model.base.decoder_layers
    second = case.model.config.fusion_layers[1]
    with torch.no_grad():
        expected = case.model.last_hidden_state(case.inputs, case.features)
        with PrefixRecorder(decoder, layers, second) as recorder:
            hidden = case.model.last_hidden_state(case.inputs, None)
        with case.model.attached(case.features):
            found = continue_from(recorder.prefix(hidden), decoder, layers)
    assert not torch.equal(found, expected)


def test_with_a_closed_gate_the_continued_pass_is_the_bypass(case):
    case.model.gate = 0.0
    teacher, prefix = case.model.bypass_and_prefix(case.inputs)
    assert torch.equal(case.model.last_hidden_state(case.inputs, case.features, prefix), teacher)


def test_a_replaced_forward_is_put_back_after_an_error(case):
    _, prefix = case.model.bypass_and_prefix(case.inputs)
    layer = case.model.base.decoder_layers[prefix.layer + 1]
    own = layer.forward = lambda *_arguments, **_keywords: (_ for _ in ()).throw(KeyError("stop"))
    with pytest.raises(KeyError, match="stop"):
        case.model.last_hidden_state(case.inputs, case.features, prefix)
    assert layer.forward is own
    assert all("forward" not in vars(below) for below in case.model.base.decoder_layers[: prefix.layer + 1])


def test_lora_shares_nothing(attach, rows):
    model, encoder = attach("embedded", lora_rank=2)
    hidden, prefix = model.bypass_and_prefix(encoder.training_batch(rows).inputs)
    assert prefix is None
    assert torch.equal(hidden, model.last_hidden_state(encoder.training_batch(rows).inputs, None))


def test_nothing_is_shared_where_the_hidden_states_are_not_the_decoders_output():
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    layers = torch.nn.ModuleList(decoder)
    decoder.register_forward_hook(lambda _module, _arguments, output: (output,))
    with PrefixRecorder(decoder, layers, 0) as recorder:
        (hidden,) = decoder(torch.ones(1, 2))
    assert recorder.prefix(hidden) is not None
    assert recorder.prefix(2 * hidden) is None
    with PrefixRecorder(decoder, layers, 0) as recorder:
        decoder(torch.ones(1, 2))
        (hidden,) = decoder(torch.ones(1, 2))
    assert recorder.prefix(hidden) is None


def test_the_teacher_serves_the_student_of_its_own_batch_alone(attach, rows):
    model, encoder = attach("embedded")
    one, other = encoder.training_batch(rows[:2]), encoder.training_batch(rows[2:])
    protected = SafeRetentionModel(model)

    def states(batch: Batch) -> torch.Tensor:
        return model.last_hidden_state(batch.inputs, batch.features)[batch.token_rows, batch.token_positions]

    protected.teacher(one)
    assert torch.equal(protected.student(other).hidden, states(other))
    protected.teacher(one)
    found = protected.student(one)
    assert torch.equal(found.hidden, states(one))
    negative_log_likelihood(protected.head, found).backward()
    assert all(p.grad is not None for p in model.trainable_parameters().values())
