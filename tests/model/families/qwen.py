"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: rotary positions in three axes, images of any shape as packed patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tests.model.families.building import chat_template, save, text_config, tokenizer_with

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_CHATML = chat_template(
    "<|im_start|>{{ role }}\n", "<|im_end|>\n", IMAGE, "<|im_start|>assistant\n"
)  # fmt: skip
_PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


def save_qwen2_vl(folder: Path) -> Path:
    """The first of the three."""
    tokenizer = _tokenizer()
    config = Qwen2VLConfig(
        text_config=_text(tokenizer, "qwen2_vl_text", mrope_section=[2, 3, 3]),
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
        **_token_ids(tokenizer),
    )
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 84 * 84}),
        tokenizer,
        Qwen2VLVideoProcessor(),
        chat_template=_CHATML,
    )
    return save(Qwen2VLForConditionalGeneration, config, processor, folder, *_PLACEHOLDERS)


def save_qwen2_5_vl(folder: Path) -> Path:
    """Attention in windows in its vision tower, but for the last layer."""
    tokenizer = _tokenizer()
    config = Qwen2_5_VLConfig(
        text_config=_text(tokenizer, "qwen2_5_vl_text", mrope_section=[2, 3, 3]),
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
            "window_size": 56, "fullatt_block_indexes": [1],
        },
        **_token_ids(tokenizer),
    )  # fmt: skip
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 84 * 84}),
        tokenizer,
        Qwen2VLVideoProcessor(),
        chat_template=_CHATML,
    )
    return save(Qwen2_5_VLForConditionalGeneration, config, processor, folder, *_PLACEHOLDERS)


def save_qwen3_vl(folder: Path) -> Path:
    """Features of inner vision layers are added to the first decoder layers' outputs, where a fusion may act too."""
    tokenizer = _tokenizer()
    config = Qwen3VLConfig(
        text_config=_text(tokenizer, "qwen3_vl_text", mrope_section=[3, 3, 2], mrope_interleaved=True, head_dim=16),
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
        },
        **_token_ids(tokenizer),
    )  # fmt: skip
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(patch_size=16, size={"shortest_edge": 64 * 64, "longest_edge": 96 * 96}),
        tokenizer,
        Qwen3VLVideoProcessor(),
        chat_template=_CHATML,
    )
    return save(Qwen3VLForConditionalGeneration, config, processor, folder, *_PLACEHOLDERS)


def _tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer_with("<|im_start|>", "<|im_end|>", *_PLACEHOLDERS, eos="<|im_end|>")


def _text(tokenizer: PreTrainedTokenizerFast, model_type: str, *, mrope_section: list[int], **changes: Any) -> dict:
    interleaved = {key: changes.pop(key) for key in ("mrope_interleaved",) if key in changes}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": mrope_section} | interleaved
    return text_config(tokenizer, model_type, rope_parameters=rope, **changes)


def _token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {name: tokenizer.convert_tokens_to_ids(marker) for name, marker in zip(names, _PLACEHOLDERS, strict=True)}
