"""LLaVA, LLaVA-NeXT, LLaVA-OneVision and FastVLM, whose processor is LLaVA's."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    CLIPImageProcessor,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
)

from tests.model.families.building import chat_template, save, text_config, tokenizer_with, vision_config

_SIDE = {"height": 32, "width": 32}
_PINPOINTS = [[32, 64], [64, 32], [64, 64]]
_VICUNA = chat_template("{{ role | upper }}: ", " ", "<image>\n", "ASSISTANT:", opening="{{ bos_token }}")
_CHATML = chat_template("<|im_start|>{{ role }} ", "<|im_end|>", "<image>\n", "<|im_start|>assistant\n")


def save_llava(folder: Path) -> Path:
    """CLIP and Llama: four image tokens, the class token dropped; turns end in a space alone, as LLaVA-1.5's do."""
    tokenizer = tokenizer_with(image_token="<image>")
    config = LlavaConfig(
        vision_config=vision_config(model_type="clip_vision_model"),
        text_config=text_config(tokenizer, "llama"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size=_SIDE, crop_size=_SIDE),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=_VICUNA,
        num_additional_image_tokens=1,
    )
    return save(LlavaForConditionalGeneration, config, processor, folder, "<image>")


def save_llava_next(folder: Path) -> Path:
    """An image as a whole and in tiles by its aspect ratio, with a token at the end of each row of patches."""
    tokenizer = tokenizer_with(image_token="<image>")
    config = LlavaNextConfig(
        vision_config=vision_config(model_type="clip_vision_model"),
        text_config=text_config(tokenizer, "mistral", sliding_window=None),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=_PINPOINTS,
        image_seq_length=4,
    )
    processor = LlavaNextProcessor(
        LlavaNextImageProcessor(size={"shortest_edge": 32}, crop_size=_SIDE, image_grid_pinpoints=_PINPOINTS),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=_VICUNA,
        num_additional_image_tokens=1,
    )
    return save(LlavaNextForConditionalGeneration, config, processor, folder, "<image>")


def save_llava_onevision(folder: Path) -> Path:
    """SigLIP and Qwen2; tiles for a question's only image, a single view each where there are several."""
    tokenizer = tokenizer_with(
        "<|im_start|>", "<|im_end|>", eos="<|im_end|>", image_token="<image>", video_token="<video>"
    )
    config = LlavaOnevisionConfig(
        vision_config=vision_config(model_type="siglip_vision_model", vision_use_head=False),
        text_config=text_config(tokenizer, "qwen2"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=_PINPOINTS,
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=_SIDE, image_grid_pinpoints=_PINPOINTS),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=_SIDE),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=_CHATML,
    )
    return save(LlavaOnevisionForConditionalGeneration, config, processor, folder, "<image>", "<video>")


def save_fast_vlm(folder: Path) -> Path:
    """A convolutional tower, EfficientNet, whose maps of 2 x 2 are four image tokens, and a Llama decoder."""
    tokenizer = tokenizer_with("<|im_start|>", "<|im_end|>", eos="<|im_end|>", image_token="<image>")
    tower = {
        "model_type": "efficientnet",
        "width_coefficient": 0.025,  # of the 1280 channels of the last layer, 32 are left; of the others the least, 8
        "depth_coefficient": 1.0,
        "hidden_dim": 32,
        "hidden_size": 32,
        "in_channels": [32, 16, 24, 40],
        "out_channels": [16, 24, 40, 80],
        "kernel_sizes": [3, 3, 5, 3],
        "strides": [1, 2, 2, 2],
        "num_block_repeats": [1, 2, 1, 1],
        "expand_ratios": [1, 6, 6, 6],
        "hidden_act": "relu6",
        "image_size": 32,
        "initializer_range": 0.5,
    }
    config = FastVlmConfig(
        vision_config=tower,
        text_config=text_config(tokenizer, "llama"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size=_SIDE, do_center_crop=False),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="full",
        chat_template=_CHATML,
        num_additional_image_tokens=0,
    )
    return save(FastVlmForConditionalGeneration, config, processor, folder, "<image>")
