"""Tiny random vision-language models of real classes, with their real processors, saved to a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from safe_train.embedded.models import build_processor, build_tokenizer

_QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|im_start|>", "<|im_end|>")
_QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_llava(folder: Path) -> Path:
    """A random LLaVA of five decoder layers with grouped-query attention; unlike the embedded one in every size."""
    processor = build_processor()
    tokenizer = processor.tokenizer
    torch.manual_seed(1)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            image_size=48, patch_size=24,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=5,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )  # fmt: skip
    return _save(LlavaForConditionalGeneration(config), processor, tokenizer, folder)


def save_qwen2_vl(folder: Path) -> Path:
    """A random Qwen2-VL: multimodal rotary positions, packed image patches, another chat template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer().backend_tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    added = [AddedToken(name, special=True, normalized=False) for name in _QWEN_TOKENS]
    tokenizer.add_tokens(added, special_tokens=True)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in _QWEN_TOKENS}
    torch.manual_seed(2)
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0},
        },
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=84 * 84),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=_QWEN_TEMPLATE,
    )
    return _save(Qwen2VLForConditionalGeneration(config), processor, tokenizer, folder)


def _save(model, processor, tokenizer, folder: Path) -> Path:
    generation = model.generation_config
    generation.bos_token_id, generation.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    generation.pad_token_id = tokenizer.pad_token_id
    # A random model may emit the placeholder of an image, which its next step would look for an image for.
    image_token = getattr(model.config, "image_token_id", None)
    generation.suppress_tokens = [image_token]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
