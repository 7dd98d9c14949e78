"""What every family shares: a tokenizer with the family's own markers, small configurations, saving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from safe_train.embedded.models import build_tokenizer

TEXT_LAYERS = 4


@dataclass(frozen=True)
class Family:
    """A model class that people use as a base.

    Attributes:
        name: as its makers write it.
        save: writes a tiny random model of the class, with its own processor, into a folder.
        image_marker: what stands for an image in the text that its processor takes.
        images_per_row: most images that a question may come with, for the tests.
    """

    name: str
    save: Callable[[Path], Path]
    image_marker: str
    images_per_row: int = 2


def tokenizer_with(*markers: str, eos: str = "</s>", **named: str) -> PreTrainedTokenizerFast:
    """The embedded tokenizer with further special tokens; those ``named`` a processor asks for by attribute."""
    backend = build_tokenizer().backend_tokenizer
    backend.post_processor = TemplateProcessing(single="$A", pair="$A:0 $B:1", special_tokens=[])
    added = [AddedToken(token, special=True, normalized=False) for token in (*markers, *named.values())]
    backend.add_special_tokens(added)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token=eos,
        unk_token="<unk>",
        extra_special_tokens=named,
        clean_up_tokenization_spaces=False,
    )


def text_config(tokenizer: PreTrainedTokenizerFast, model_type: str, **changes: Any) -> dict[str, Any]:
    """A decoder of four layers with grouped-query attention."""
    return {
        "model_type": model_type,
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.2,  # logits far enough apart that two models seldom agree on an answer by chance
    } | changes


def vision_config(**changes: Any) -> dict[str, Any]:
    """A vision tower of two layers for images of 32 x 32 pixels."""
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
        "initializer_range": 0.2,
    } | changes


def chat_template(turn_start: str, turn_end: str, image: str, generation: str, *, opening: str = "") -> str:
    """A template of the shape that all chat models share; the markers are the family's.

    Args:
        turn_start: what opens a turn, with ``{{ role }}`` for who speaks.
        turn_end: what closes it.
        image: what stands for an image.
        generation: what opens the turn that is to be generated.
        opening: what stands before the first turn.
    """
    return (
        opening
        + "{% for message in messages %}{% set role = message.role %}"
        + turn_start
        + "{% for part in message.content %}"
        + "{% if part.type == 'image' %}"
        + image
        + "{% else %}{{ part.text }}{% endif %}{% endfor %}"
        + turn_end
        + "{% endfor %}{% if add_generation_prompt %}"
        + generation
        + "{% endif %}"
    )


def save(model_class: type[PreTrainedModel], config: Any, processor: Any, folder: Path, *markers: str) -> Path:
    """Writes a random model that never emits the placeholders of images, and its processor.

    A random model may emit a placeholder, and its next step would look for an image that is not there.
    """
    tokenizer = processor.tokenizer
    torch.manual_seed(1)
    model: Any = model_class(config)
    for parameter in model.parameters():  # Gemma 3's projector begins at zero, where images have no effect
        if not parameter.any() and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    generation = model.generation_config
    generation.bos_token_id, generation.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    generation.pad_token_id = tokenizer.pad_token_id
    generation.suppress_tokens = [tokenizer.convert_tokens_to_ids(marker) for marker in markers]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
