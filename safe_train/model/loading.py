"""Loading a base: only from safetensors, without code from its repository, and only if SAFE supports it."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig
from transformers.utils.import_utils import is_flash_attn_2_available

from safe_train.configs.model_configs import EMBEDDED
from safe_train.embedded import weights
from safe_train.errors import InputError
from safe_train.model.base import Base
from safe_train.model.folders import as_input_error, check_folder, load_weights, missing_weights, read_model_config
from safe_train.model.requirements import refuse_architecture, with_head_found
from safe_train.model.trial import check_image_size, check_template, complete_processor, try_rows

Attention = Literal["auto", "sdpa", "eager", "flash_attention_2"]
"""Implementation of attention; ``auto`` is the fastest that transformers finds."""

Quantization = Literal["none", "4bit", "8bit"]
"""Form in which the frozen base's weights are kept."""

_EXPECTED = "an image-text-to-text model with safetensors weights and a processor"
_HINT = "name a local folder with --base-model, or a hub id that this machine can fetch"


def load_base(
    source: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attention: Attention = "auto",
    quantization: Quantization | Any = "none",
) -> Base:
    """Loads a base by local folder or hub id, frozen; ``"embedded"`` is the one in the package.

    Code from a model's repository is never run, and weights are read from safetensors only.

    Raises:
        InputError: the folder has no model, not all of its weights, or no processor; the id cannot be fetched; SAFE
            cannot work with the architecture; this machine cannot run the attention or the quantization.
    """
    folder = str(weights.base_folder()) if source == EMBEDDED else source
    device = torch.device(device)
    check_folder(folder, "the vision-language model")
    _require_attention(attention, device, dtype)
    options = _quantization_options(quantization, device, dtype)
    with as_input_error(folder, _EXPECTED, _HINT):
        config = read_model_config(folder)
        refuse_architecture(config, folder)
        if attention != "auto":
            options["attn_implementation"] = attention_by_part(config, attention)
        model, missing, left_over = load_weights(AutoModelForImageTextToText, folder, config, dtype=dtype, **options)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    if not hasattr(processor, "tokenizer"):  # what AutoProcessor finds if there is no more than a tokenizer
        hint = "copy processor_config.json and preprocessor_config.json there"
        raise InputError(folder, "a processor of images and text", type(processor).__name__, hint)
    check_image_size(processor, folder)
    complete_processor(processor, config)
    if source != EMBEDDED:
        check_template(processor, folder)
    if missing:  # transformers would leave these at random values
        raise missing_weights(folder, missing)
    layers = [name for name in left_over if ".layers." in name and "vision" not in name]
    if layers:  # and these it would leave out
        got = f"further ones, {layers[0]} among them"
        raise InputError(folder, "weights of the decoder layers of config.json", got, "copy the model's folder again")
    model.requires_grad_(False).eval()
    if quantization == "none":
        nn.Module.to(model, device)
    with as_input_error(folder, _EXPECTED, _HINT):
        base = with_head_found(Base(model, processor, source))
    try_rows(base, folder)
    return base


def attention_by_part(config: Any, attention: str) -> str | dict[str, str]:
    """What ``from_pretrained`` takes as ``attn_implementation``: by part where the vision tower has no such attention.

    A convolutional tower has none, and transformers would refuse the whole model for it; it keeps its own way.
    """
    without = {name for name in config.sub_configs if name != "text_config" and _lacks(config, name, attention)}
    return dict.fromkeys(["", *(set(config.sub_configs) - without)], attention) if without else attention


def _lacks(config: Any, part: str, attention: str) -> bool:
    """Whether transformers says of a part's class that it has no such implementation of attention."""
    classes: Any = MODEL_MAPPING
    kind = type(getattr(config, part, None))
    supports = {"sdpa": "_supports_sdpa", "flash_attention_2": "_supports_flash_attn"}.get(attention)
    return supports is not None and kind in classes and not getattr(classes[kind], supports, True)


def _require_attention(attention: Attention, device: torch.device, dtype: torch.dtype) -> None:
    """The conditions of flash attention, which are reported before anything is loaded."""
    if attention == "flash_attention_2":
        where, hint = "model.attention", "choose sdpa"
        if device.type != "cuda":
            raise InputError(where, "a CUDA device for flash_attention_2", str(device), hint)
        if not is_flash_attn_2_available():
            raise InputError(where, "the package flash-attn", "none that runs here", f"install it, or {hint}")
        if dtype == torch.float32:
            raise InputError(where, "half precision for flash_attention_2", "fp32", f"set precision=bf16, or {hint}")


def _quantization_options(quantization: Quantization | Any, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What ``from_pretrained`` takes to quantize linear layers by bitsandbytes; the head keeps its precision.

    A value that is not a name is a quantization configuration of transformers, used unchanged.
    """
    if quantization == "none":
        return {}
    name = quantization if isinstance(quantization, str) else "quantization_config"
    where, hint = "model.quantization", "or set it to none"
    if device.type != "cuda":
        raise InputError(where, f"a CUDA device for {name}", str(device), f"run on a GPU, {hint}")
    if importlib.util.find_spec("bitsandbytes") is None:
        install = f"pip install 'bitsandbytes>=0.46.1', {hint}"
        raise InputError(where, "the package bitsandbytes", "none installed", install)
    if not isinstance(quantization, str):
        config = quantization
    elif quantization == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        # NormalFloat-4 with quantized scales: Dettmers et al. 2023, arXiv:2305.14314.
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"quantization_config": config, "device_map": {"": device}}
