"""Weights keep their values and their places when their format changes."""

import io
import struct

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from experiments.real import convert
from experiments.real.convert import read_ctranslate2
from safe_train.errors import InputError


def text(value):
    encoded = value.encode() + b"\0"
    return struct.pack("<H", len(encoded)) + encoded


def ctranslate2(variables, version=6):
    """A model file of variables, as CTranslate2's specification has it."""
    parts = [struct.pack("<I", version), text("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    kinds = {"float32": 0, "int8": 1, "float16": 4}
    for name, values in variables.items():
        parts += [text(name), struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)]
        parts += [struct.pack("<BI", kinds[str(values.dtype)], values.nbytes), values.tobytes()]
    return b"".join([*parts, struct.pack("<I", 0)])


def test_variables_are_read_with_their_shapes_and_types():
    variables = {
        "encoder/conv1/weight": np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        "encoder/conv1/bias": np.array([-1.5, 2.5], dtype=np.float32),
        "decoder/num_heads": np.array(6, dtype=np.int8),
    }
    found = read_ctranslate2(io.BytesIO(ctranslate2(variables)))
    assert list(found) == list(variables)
    for name, values in variables.items():
        assert found[name].dtype == torch.from_numpy(values).dtype
        assert torch.equal(found[name], torch.from_numpy(values))


def test_a_file_that_ends_early_or_has_another_version_is_refused():
    data = ctranslate2({"a/b": np.zeros(8, dtype=np.float32)})
    with pytest.raises(InputError, match="expected 32 bytes more, got 31"):
        read_ctranslate2(io.BytesIO(data[:-5]))
    with pytest.raises(InputError, match="version 6 of CTranslate2's format, got 7"):
        read_ctranslate2(io.BytesIO(ctranslate2({}, version=7)))


def whisper_variables(model):
    """A Whisper model's weights by CTranslate2's names, queries, keys and values joined: the other way round."""
    state, layers = model.state_dict(), 1
    zeros = torch.zeros(8)

    def joined(prefix, parts, field):
        return torch.cat([state.get(f"{prefix}.{part}.{field}", zeros) for part in parts])

    found = {"decoder/embeddings/weight": state["model.decoder.embed_tokens.weight"]}
    found["decoder/num_heads"] = torch.tensor(2)
    for number, field in ((n, f) for n in (1, 2) for f in ("weight", "bias")):
        found[f"encoder/conv{number}/{field}"] = state[f"model.encoder.conv{number}.{field}"]
    for half in ("encoder", "decoder"):
        found[f"{half}/position_encodings/encodings"] = state[f"model.{half}.embed_positions.weight"]
        pairs = {"": "layer_norm"} | {f"layer_{n}/": f"layers.{n}." for n in range(layers)}
        for ours, theirs in pairs.items():
            norms = (
                {"layer_norm": theirs}
                if not ours
                else {
                    "self_attention/layer_norm": f"{theirs}self_attn_layer_norm",
                    "ffn/layer_norm": f"{theirs}final_layer_norm",
                    **({"attention/layer_norm": f"{theirs}encoder_attn_layer_norm"} if half == "decoder" else {}),
                }
            )
            for name, path in norms.items():
                found[f"{half}/{ours}{name}/gamma"] = state[f"model.{half}.{path}.weight"]
                found[f"{half}/{ours}{name}/beta"] = state[f"model.{half}.{path}.bias"]
        for n in range(layers):
            layer = f"model.{half}.layers.{n}"
            for field in ("weight", "bias"):
                ours = f"{half}/layer_{n}"
                for index in (0, 1):
                    found[f"{ours}/ffn/linear_{index}/{field}"] = state[f"{layer}.fc{index + 1}.{field}"]
                attention = f"{layer}.self_attn"
                found[f"{ours}/self_attention/linear_0/{field}"] = joined(
                    attention, ("q_proj", "k_proj", "v_proj"), field
                )
                found[f"{ours}/self_attention/linear_1/{field}"] = state[f"{attention}.out_proj.{field}"]
                if half == "decoder":
                    attention = f"{layer}.encoder_attn"
                    found[f"{ours}/attention/linear_0/{field}"] = state[f"{attention}.q_proj.{field}"]
                    found[f"{ours}/attention/linear_1/{field}"] = joined(attention, ("k_proj", "v_proj"), field)
                    found[f"{ours}/attention/linear_2/{field}"] = state[f"{attention}.out_proj.{field}"]
    return found


@pytest.fixture(scope="module")
def whisper():
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=4, max_source_positions=10,
        max_target_positions=6, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def test_every_whisper_weight_finds_its_place(whisper):
    found = {}
    for name, tensor in whisper_variables(whisper).items():
        found |= convert.whisper_tensors(name, tensor)
    expected = {name: tensor for name, tensor in whisper.state_dict().items() if name != "proj_out.weight"}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_key_with_a_bias_has_no_place_and_is_kept_to_be_refused():
    bias = torch.cat([torch.zeros(8), torch.ones(8), torch.zeros(8)])
    assert "model.encoder.layers.0.self_attn.k_proj.bias" in convert.whisper_tensors(
        "encoder/layer_0/self_attention/linear_0/bias", bias
    )


def test_vision_names():
    assert convert.vision_name("_conv_stem.weight") == "embeddings.convolution.weight"
    assert convert.vision_name("_bn1.running_var") == "encoder.top_bn.running_var"
    assert convert.vision_name("_blocks.3._bn1.bias") == "encoder.blocks.3.depthwise_conv.depthwise_norm.bias"
    assert convert.vision_name("_blocks.11._expand_conv.weight") == "encoder.blocks.11.expansion.expand_conv.weight"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gates_that_the_lite_models_leave_out_are_exactly_one(dtype):
    assert torch.sigmoid(torch.tensor(convert.SATURATED, dtype=dtype)).item() == 1.0


def test_tensors_that_are_not_the_models_are_refused(tmp_path):
    layer = torch.nn.Linear(2, 3)
    with pytest.raises(InputError, match="expected 2 tensors of Linear, got 2 others, the first bias"):
        convert.load_exactly(layer, {"weight": torch.zeros(3, 3)}, tmp_path / "weights")
    convert.load_exactly(layer, {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, tmp_path / "weights")
    assert layer.weight.sum() == 6
