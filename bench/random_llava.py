"""LLaVA of any size with random weights and a processor that works, for measurements of time and memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from safe_train.embedded.models import build_processor
from safe_train.model.base import Base


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA.

    Attributes:
        hidden: width of the decoder.
        layers: decoder layers.
        image_side: image tokens along one side of an image.
        vision_hidden: width of the vision tower.
        vocabulary: rows of the embedding and of the head.
        head_width: width of an attention head of the decoder; those of the vision tower are 64 wide.
        feed_forward: width of the decoder's feed-forward layers; None for 11/4 of its own, about as Llama's are.
        vision_layers: layers of the vision tower; None for half as many as the decoder has.
    """

    hidden: int
    layers: int
    image_side: int
    vision_hidden: int
    vocabulary: int = 2048
    head_width: int = 64
    feed_forward: int | None = None
    vision_layers: int | None = None

    @property
    def config(self) -> LlavaConfig:
        """The configuration; patches are of 14 pixels."""
        image = LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=self.vision_hidden,
                intermediate_size=4 * self.vision_hidden,
                num_hidden_layers=self.vision_layers or max(2, self.layers // 2),
                num_attention_heads=max(1, self.vision_hidden // 64),
                image_size=14 * self.image_side,
                patch_size=14,
            ),
            text_config=LlamaConfig(
                vocab_size=self.vocabulary,
                hidden_size=self.hidden,
                intermediate_size=self.feed_forward or self.hidden * 11 // 4,
                num_hidden_layers=self.layers,
                num_attention_heads=max(1, self.hidden // self.head_width),
                max_position_embeddings=2048,
            ),
            image_token_index=build_processor().tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=self.image_side**2,
        )
        return image

    @property
    def processor(self) -> LlavaProcessor:
        """The embedded base's tokenizer and template, with images of this size."""
        embedded = build_processor()
        side = 14 * self.image_side
        return LlavaProcessor(
            image_processor=CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
            tokenizer=embedded.tokenizer,
            patch_size=14,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=embedded.chat_template,
            image_token="<image>",
        )

    def base(self, folder: Path, device: torch.device, dtype: torch.dtype) -> Base:
        """A frozen base whose random weights are made on the device; its configuration and processor go to a folder.

        A file of the weights would take longer to write and read than everything that is measured.
        """
        self.save(folder, weights=False)
        torch.manual_seed(0)
        with device:
            model = LlavaForConditionalGeneration._from_config(self.config, dtype=dtype)
        return Base(model.requires_grad_(False).eval(), self.processor, str(folder))

    def save(self, folder: Path, *, weights: bool = True) -> Path:
        """Writes configuration and processor, and random weights unless they are not wanted."""
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        if weights:
            LlavaForConditionalGeneration(self.config).save_pretrained(folder)
        else:
            self.config.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        return folder


LLAVA_13B = Shape(
    hidden=5120, layers=40, image_side=24, vision_hidden=1024, vocabulary=32_064, head_width=128, feed_forward=13_824,
    vision_layers=24,
)  # fmt: skip
"""The sizes of llava-hf/llava-1.5-13b-hf."""
