"""Gemma 3 and PaliGemma: image tokens, or the whole prompt, attend to each other in both directions."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessor,
)

from tests.model.families.building import chat_template, save, text_config, tokenizer_with, vision_config

_SIDE = {"height": 32, "width": 32}
_TURNS = chat_template(
    "<start_of_turn>{{ 'model' if role == 'assistant' else role }}\n", "<end_of_turn>\n", "<start_of_image>",
    "<start_of_turn>model\n", opening="{{ bos_token }}",
)  # fmt: skip
_ALTERNATING = ["sliding_attention", "full_attention"] * 2


def save_gemma3(folder: Path) -> Path:
    """Layers with sliding and with full attention; turns end in a marker that is not the end of the text."""
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = tokenizer_with("<start_of_turn>", "<end_of_turn>", **named)
    ids = {name: tokenizer.convert_tokens_to_ids(marker) for name, marker in named.items()}
    config = Gemma3Config(
        vision_config=vision_config(model_type="siglip_vision_model", patch_size=8, vision_use_head=False),
        text_config=text_config(
            tokenizer, "gemma3_text", head_dim=16, query_pre_attn_scalar=16, sliding_window=12, layer_types=_ALTERNATING
        ),
        mm_tokens_per_image=4,
        image_token_index=ids["image_token"],
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
    )
    processor = Gemma3Processor(Gemma3ImageProcessor(size=_SIDE), tokenizer, chat_template=_TURNS, image_seq_length=4)
    return save(Gemma3ForConditionalGeneration, config, processor, folder, *named.values())


def save_paligemma(folder: Path) -> Path:
    """PaliGemma 2: a Gemma 2 decoder with capped logits; no chat template, the answer follows the prompt."""
    tokenizer = tokenizer_with(image_token="<image>")
    image_processor = SiglipImageProcessor(size=_SIDE, image_seq_length=4)
    processor = PaliGemmaProcessor(image_processor, tokenizer)  # adds tokens for places and segments
    config = PaliGemmaConfig(
        vision_config=vision_config(model_type="siglip_vision_model", projection_dim=64, vision_use_head=False),
        text_config=text_config(
            tokenizer, "gemma2", head_dim=16, query_pre_attn_scalar=16, sliding_window=12, layer_types=_ALTERNATING
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=64,
        hidden_size=64,
    )
    return save(PaliGemmaForConditionalGeneration, config, processor, folder, "<image>")
