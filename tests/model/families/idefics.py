"""Idefics3 and SmolVLM: an image in tiles and as a whole, padded to the most tiles of the batch."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tests.model.families.building import chat_template, save, text_config, tokenizer_with, vision_config

_TEMPLATE = chat_template(
    "{{ role | capitalize }}: ", "<end_of_utterance>\n", "<image>", "Assistant:", opening="<|im_start|>"
)
_PLACEHOLDERS = ("<image>", "<fake_token_around_image>", "<global-img>")
_TILES = tuple(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2))
_SIZES = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}


def save_idefics3(folder: Path) -> Path:
    """Four tokens a tile, a Llama decoder."""
    tokenizer = _tokenizer()
    config = Idefics3Config(
        vision_config=vision_config(patch_size=8),
        text_config=text_config(tokenizer, "llama"),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    processor = Idefics3Processor(
        Idefics3ImageProcessor(**_SIZES), tokenizer, image_seq_len=4, chat_template=_TEMPLATE
    )  # fmt: skip
    return save(Idefics3ForConditionalGeneration, config, processor, folder, *_PLACEHOLDERS)


def save_smolvlm(folder: Path) -> Path:
    """The same shape, by classes of its own."""
    tokenizer = _tokenizer()
    config = SmolVLMConfig(
        vision_config=vision_config(patch_size=8),
        text_config=text_config(tokenizer, "llama"),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(**_SIZES),
        tokenizer,
        SmolVLMVideoProcessor(video_sampling={"max_frames": 2, "fps": 1, "video_size": {"longest_edge": 32}}),
        image_seq_len=4,
        chat_template=_TEMPLATE,
    )
    return save(SmolVLMForConditionalGeneration, config, processor, folder, *_PLACEHOLDERS)


def _tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer_with("<|im_start|>", "<end_of_utterance>", *_PLACEHOLDERS, *_TILES, eos="<end_of_utterance>")
