"""The embedded models, untrained, in the Hugging Face classes: LLaVA (CLIP, Llama) and a CLAP audio tower."""

from __future__ import annotations

import math
import string

import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    ClapAudioConfig,
    ClapAudioModelWithProjection,
    ClapFeatureExtractor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from safe_train.embedded.questions import questions_about
from safe_train.embedded.scenes import COLORS, IMAGE_SIZE, POSITIONS, SHAPES, SIZES, Item, Scene
from safe_train.embedded.sounds import ALL_SOUNDS, AUDIO_QUESTION, CLIP_SECONDS, SAMPLE_RATE
from safe_train.embedded.text_skills import text_words

PATCH_SIZE = 24
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'user: ' }}{% else %}{{ 'assistant: ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image> ' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def vocabulary() -> list[str]:
    """Every word that the procedural questions, answers, captions and documents use, sorted."""
    everything = Scene(
        tuple(
            Item(k, shape, color, size)
            for k, shape, color, size in zip(range(4), SHAPES, COLORS, SIZES * 2, strict=False)
        ),
        (0, 0),
    )
    lone_digit = Scene((Item(0, digit=0),), (0, 0))
    sentences = [AUDIO_QUESTION, "user: assistant: note:", *POSITIONS, *COLORS, *SIZES]
    sentences += [sound.caption for sound in ALL_SOUNDS] + list(string.digits)
    sentences += [f"{q.text} {q.answer}" for scene in (everything, lone_digit) for q in questions_about(scene)]
    return sorted({word.rstrip("?.") for sentence in sentences for word in sentence.split()} | text_words())


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A Unigram tokenizer with one piece a word and byte fallback, so that it encodes any text."""
    pieces = list(SPECIAL_TOKENS) + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["▁", "?", ".", *string.ascii_lowercase] + [f"▁{word}" for word in vocabulary()]
    # Equal scores: the segmentation with the fewest pieces wins, so a known word is always one piece.
    tokenizer = Tokenizer(
        Unigram([(piece, -1.0) for piece in pieces], unk_id=SPECIAL_TOKENS.index("<unk>"), byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> LlavaProcessor:
    """Images to 48 x 48 pixels in -1..1, text with the image placeholder expanded to four image tokens."""
    image_processor = CLIPImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor,
        build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,  # CLIP's class token, which the "default" strategy drops again
    )


def build_base(processor: LlavaProcessor, seed: int = 0) -> LlavaForConditionalGeneration:
    """An untrained LLaVA of 1.3 M parameters."""
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=96,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        initializer_range=0.08,  # at the usual 0.02 a decoder this small does not learn to bind attributes
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    config.pad_token_id = tokenizer.pad_token_id
    model = LlavaForConditionalGeneration(config)
    for module in model.model.multi_modal_projector.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
    model.generation_config.do_sample = False
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def build_feature_extractor() -> ClapFeatureExtractor:
    """Log-mel spectrograms of two seconds at 16 kHz, 32 mel bins."""
    return ClapFeatureExtractor(
        feature_size=32,
        sampling_rate=SAMPLE_RATE,
        hop_length=500,
        max_length_s=int(CLIP_SECONDS),
        fft_window_size=512,
        frequency_min=50,
        frequency_max=8_000,
        truncation="rand_trunc",
        padding="repeatpad",
    )


def build_audio_encoder(seed: int = 0) -> ClapAudioModelWithProjection:
    """An untrained CLAP audio tower of 0.13 M parameters."""
    torch.manual_seed(seed)
    config = ClapAudioConfig(
        window_size=4,
        num_mel_bins=32,
        spec_size=64,
        patch_size=4,
        patch_stride=[4, 4],
        hidden_size=64,
        patch_embeds_hidden_size=32,
        depths=[1, 1],
        num_attention_heads=[2, 4],
        num_hidden_layers=2,
        projection_dim=64,
        enable_fusion=False,
        num_classes=30,
    )
    return ClapAudioModelWithProjection(config)
