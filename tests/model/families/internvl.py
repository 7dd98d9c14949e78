"""InternVL 3: tiles of an image, their patches shuffled together four to a token, a Qwen2 decoder."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
)

from tests.model.families.building import chat_template, save, text_config, tokenizer_with, vision_config

_CHATML = chat_template("<|im_start|>{{ role }}\n", "<|im_end|>\n", "<IMG_CONTEXT>\n", "<|im_start|>assistant\n")


def save_internvl(folder: Path) -> Path:
    """Images in up to four tiles and a thumbnail."""
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tokenizer = tokenizer_with("<|im_start|>", "<|im_end|>", eos="<|im_end|>", **named)
    config = InternVLConfig(
        vision_config=vision_config(image_size=[32, 32], patch_size=[8, 8]),
        text_config=text_config(tokenizer, "qwen2"),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    side = {"height": 32, "width": 32}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=side, crop_to_patches=True, min_patches=1, max_patches=4),
        tokenizer,
        InternVLVideoProcessor(size=side),
        image_seq_length=4,
        chat_template=_CHATML,
    )
    return save(InternVLForConditionalGeneration, config, processor, folder, *named.values())
