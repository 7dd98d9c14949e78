"""SAFE's processor: the base's own for text and images, and clips as waveforms at the rates of the audio encoders."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoProcessor, BatchFeature, ProcessorMixin
from transformers.image_utils import load_image as fetch_image
from transformers.utils.hub import cached_file

from safe_train.configs.model_configs import EMBEDDED
from safe_train.data.image import load_image
from safe_train.embedded import weights
from safe_train.errors import InputError
from safe_train.huggingface.clips import Clip, Hearing, is_url, waveforms_of
from safe_train.huggingface.configuration import HUB_OPTIONS, SafeConfig
from safe_train.io.files import json_text, write_text
from safe_train.io.messages import value_shown
from safe_train.model.audio.feature_readout import window_of
from safe_train.model.folders import as_input_error, read_model_config
from safe_train.model.prompting import Turn, prompts_of
from safe_train.model.settings import MOST_WINDOWS
from safe_train.model.trial import check_template, complete_processor

PROCESSOR_CONFIG = "processor_config.json"
_CONFIGURED = ("base_model", "base_revision", "audio_encoders", "audio_seconds", "audio_windows")
_SINCE_LATER = ("audio_seconds", "audio_windows")  # what files of an earlier version do not have
_CONTENT_KEYS = {"image": ("image", "url", "path"), "audio": ("audio", "url", "path")}

Conversation = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Parsed:
    """A conversation in parts.

    Attributes:
        messages: without audio, and with placeholders of the images.
        images: in their order.
        clip: what is heard, if anything.
    """

    messages: list[dict[str, Any]]
    images: list[Any]
    clip: Clip | None


class SafeProcessor(ProcessorMixin):
    """Encodes conversations with text, images and at most one clip.

    A clip adds nothing to the text: SAFE hears through cross-attention and has no audio tokens in its vocabulary. It
    becomes ``audio_values``, float32 [B, E, S], its mono samples as each of E audio encoders hears them, and
    ``audio_lengths``, int64 [B, E], with 0 for a row without a clip. Without a single clip there are neither.
    """

    def __init__(self, base_processor: Any, extractors: Sequence[Any], config: SafeConfig) -> None:
        super().__init__(chat_template=getattr(base_processor, "chat_template", None))
        self.base_processor = base_processor
        base_processor.tokenizer.padding_side = "left"  # by which pipelines pad prompts that they join
        self.extractors = list(extractors)
        self.config = config

    @property
    def sampling_rates(self) -> list[int]:
        """Of each audio encoder, in Hz."""
        return [extractor.sampling_rate for extractor in self.extractors]

    @property
    def hearings(self) -> list[Hearing]:
        """What each audio encoder hears of a clip: all of it where neither configuration nor extractor says less."""
        seconds = self.config.audio_seconds or [None] * len(self.extractors)
        count = self.config.audio_windows or 1
        windows = (window_of(*each, count) for each in zip(self.extractors, seconds, strict=True))
        return [Hearing(rate, window) for rate, window in zip(self.sampling_rates, windows, strict=True)]

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]
        """The base's."""
        return self.base_processor.tokenizer

    @property
    def image_processor(self) -> Any:  # type: ignore[override]
        """The base's."""
        return self.base_processor.image_processor

    def to_dict(self) -> dict[str, Any]:
        """What ``processor_config.json`` holds."""
        return _describe(self.config)

    @property
    def model_input_names(self) -> list[str]:
        """What the model takes."""
        return [*self.base_processor.model_input_names, "audio_values", "audio_lengths"]

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Clip | Sequence[Clip | None] | None = None,
        *,
        sampling_rate: int | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Encodes texts that are conversations already, with the images of their placeholders.

        Args:
            images: as the base's processor takes them.
            text: one text or one a row.
            videos: as the base's processor takes them.
            audio: for each row a clip (see :data:`~safe_train.huggingface.clips.Clip`) or None.
            sampling_rate: of clips that are bare arrays, in Hz.
            options: those of the base's processor.

        Raises:
            InputError: a clip cannot be read, or is an array without a sampling rate.
            ValueError: there are not as many clips as texts.
        """
        given = {"images": images, "text": text, "videos": videos}
        encoded = self.base_processor(**{name: value for name, value in given.items() if value is not None}, **options)
        rows = 1 if text is None or isinstance(text, str) else len(text)
        clips = list(audio) if isinstance(audio, (list, tuple)) else [audio]
        if audio is not None and len(clips) != rows:
            raise ValueError(f"audio: expected one clip or None for each of {rows} texts, got {len(clips)}")
        encoded.update(self._audio_inputs(clips, sampling_rate))
        return encoded

    def _audio_inputs(self, clips: Sequence[Clip | None], sampling_rate: int | None) -> dict[str, Tensor]:
        if all(clip is None for clip in clips):
            return {}
        empty = [torch.zeros(0)] * len(self.sampling_rates)
        rows = [empty if clip is None else waveforms_of(clip, self.hearings, sampling_rate) for clip in clips]
        lengths = torch.tensor([[len(waveform) for waveform in row] for row in rows])
        values = torch.zeros(len(rows), len(self.sampling_rates), int(lengths.max()))
        for index, row in enumerate(rows):
            for encoder, waveform in enumerate(row):
                values[index, encoder, : len(waveform)] = waveform
        return {"audio_values": values, "audio_lengths": lengths}

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Conversation | Sequence[Conversation],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
        processor_kwargs: Mapping[str, Any] | None = None,
        **template_options: Any,
    ) -> Any:
        """Writes conversations by the base's chat template and, if asked to, encodes them with their images and clips.

        Content is a text or a list of ``{"type": "text", "text": ...}``, ``{"type": "image", "image": ...}`` (a file,
        a PIL image or an address) and ``{"type": "audio", "audio": ...}`` (a file, or an array with its rate as
        ``{"array": ..., "sampling_rate": ...}``). One question, with its answer or waiting for it, is encoded by the
        code of Stage A. In any conversation special tokens are the template's own; prompts are padded on the left and
        whole conversations on the right.

        Returns:
            The text or texts; with ``tokenize`` the ids, and with ``return_dict`` all inputs of the model.

        Raises:
            InputError: a file cannot be read, or a conversation has more than one clip or content of another kind.
        """
        batched = not isinstance(conversation[0], Mapping)
        conversations: Any = conversation if batched else [conversation]
        parsed = [_parse(messages) for messages in conversations]
        special = (chat_template, continue_final_message, template_options, processor_kwargs, return_tensors != "pt")
        encoded = None if any(special) or not tokenize else self._encoded_turns(parsed, waits=add_generation_prompt)
        if encoded is None:
            texts = [
                self.base_processor.apply_chat_template(
                    chat.messages,
                    chat_template=chat_template,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=continue_final_message,
                    tokenize=False,
                    **template_options,
                )
                for chat in parsed
            ]
            if not tokenize:
                return texts if batched else texts[0]
            options: dict[str, Any] = {
                "padding": True,
                "padding_side": "left" if add_generation_prompt or continue_final_message else "right",
                "add_special_tokens": False,  # the chat template has written them
                "return_tensors": return_tensors,
            }
            encoded = self(
                images=[chat.images for chat in parsed] if any(chat.images for chat in parsed) else None,
                text=texts,
                audio=[chat.clip for chat in parsed],
                **options | dict(processor_kwargs or {}),
            )
        return encoded if return_dict else encoded["input_ids"]

    def _encoded_turns(self, parsed: Sequence[_Parsed], *, waits: bool) -> BatchFeature | None:
        """Conversations of one question each, as Stage A encodes them; None if there is any other among them."""
        turns = [turn for chat in parsed if (turn := turn_of(chat.messages, waits=waits)) is not None]
        if len(turns) < len(parsed):
            return None
        images = [chat.images for chat in parsed]
        found = prompts_of(self.base_processor).encode(turns, images, "left" if waits else "right")
        return BatchFeature(found | self._audio_inputs([chat.clip for chat in parsed], None))

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **_options: Any) -> list[str]:
        """Writes ``processor_config.json``, which names the base; the base's own files are loaded from there.

        Raises:
            ValueError: it is to be uploaded; the model uploads it with the adapter.
        """
        if push_to_hub:
            raise ValueError("push_to_hub: expected False, got True; upload the model, the processor comes with it")
        return [str(write_processor_config(Path(save_directory), self.config))]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> SafeProcessor:  # type: ignore[override]
        """Loads the base's processor from its own source and adds the rates of the audio encoders.

        Raises:
            InputError: the folder has no ``processor_config.json`` of SAFE, or the base's processor cannot be loaded.
        """
        hub = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
        path = cached_file(pretrained_model_name_or_path, PROCESSOR_CONFIG, **hub)
        assert path is not None  # cached_file raises for what cannot be found
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            given = {name: values[name] for name in _CONFIGURED if name in values or name not in _SINCE_LATER}
            config = SafeConfig(**given)
            _require_windows(config)
        except (ValueError, KeyError, TypeError) as error:
            hint = "export the run again: safe export RUN FOLDER"
            raise InputError(path, "a processor of SAFE", f"{type(error).__name__} {error}", hint) from error
        return cls(*load_parts(config), config)


class SafeTokenizer:
    """Stands for the base's tokenizer in ``AutoTokenizer``, which asks for a class to every configuration."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """The base's own tokenizer.

        Raises:
            InputError: as :meth:`SafeProcessor.from_pretrained`.
        """
        return SafeProcessor.from_pretrained(pretrained_model_name_or_path, **options).tokenizer


def write_processor_config(folder: Path, config: SafeConfig) -> Path:
    """Writes ``processor_config.json``, and returns its path.

    Raises:
        InputError: the folder cannot be written.
    """
    path = folder / PROCESSOR_CONFIG
    write_text(path, json_text(_describe(config)))
    return path


def _describe(config: SafeConfig) -> dict[str, Any]:
    return {"processor_class": SafeProcessor.__name__} | {name: getattr(config, name) for name in _CONFIGURED}


def _require_windows(config: SafeConfig) -> None:
    """ValueError if ``audio_seconds`` are not a length for each encoder, or ``audio_windows`` no number of windows."""
    windows = config.audio_windows
    if windows is not None and (type(windows) is not int or not 1 <= windows <= MOST_WINDOWS):
        raise ValueError(f"audio_windows of {value_shown(windows)}, expected a number from 1 to {MOST_WINDOWS}")
    seconds = config.audio_seconds
    if seconds is not None and (
        len(seconds) != len(config.audio_encoders)
        or not all(isinstance(length, int | float) and 0 < length < math.inf for length in seconds)
    ):
        raise ValueError(f"audio_seconds of {value_shown(seconds)} for {len(config.audio_encoders)} audio encoders")


def load_parts(config: SafeConfig) -> tuple[Any, list[Any]]:
    """The base's processor and the feature extractor of each audio encoder.

    Raises:
        InputError: one of them cannot be loaded.
    """
    base = str(weights.base_folder()) if config.base_model == EMBEDDED else config.base_folder
    encoders = [str(weights.audio_encoder_folder()) if e == EMBEDDED else e for e in config.audio_encoders]
    hint = "make base and audio encoders available on this machine"
    with as_input_error(config.base_model, "the processors of base and encoders", hint):
        extractors = [AutoFeatureExtractor.from_pretrained(e, trust_remote_code=False) for e in encoders]
        processor = AutoProcessor.from_pretrained(base, trust_remote_code=False)
        complete_processor(processor, read_model_config(base))
        if config.base_model != EMBEDDED:
            check_template(processor, config.base_model)
    return processor, extractors


def turn_of(messages: Conversation, *, waits: bool) -> Turn | None:
    """A conversation that is one question behind its images, with its answer or waiting for it; None for any other."""
    roles = [message["role"] for message in messages]
    contents = [_parts(message) for message in messages]
    question = contents[0]
    num_images = sum(part["type"] == "image" for part in question)
    simple = roles == (["user"] if waits else ["user", "assistant"]) and all(
        [part["type"] for part in parts] == ["image"] * images + ["text"]
        for parts, images in zip(contents, (num_images, 0), strict=False)
    )
    if not simple:
        return None
    return Turn(question[-1]["text"], num_images, None if waits else contents[1][0]["text"])


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _parse(messages: Conversation) -> _Parsed:
    """A conversation's parts."""
    kept, images, clips = [], [], []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            kept.append(dict(message))
            continue
        parts = []
        for part in content:
            match part.get("type"):
                case "text":
                    parts.append(part)
                case "image":
                    images.append(_image(_value(part)))
                    parts.append({"type": "image"})
                case "audio":
                    clips.append(_value(part))
                case other:
                    raise InputError("content", "text, image or audio", repr(other), "leave it out")
        kept.append(dict(message) | {"content": parts})
    if len(clips) > 1:
        raise InputError("conversation", "at most one audio clip", f"{len(clips)}", "join them into one clip")
    return _Parsed(kept, images, clips[0] if clips else None)


def _value(part: Mapping[str, Any]) -> Any:
    keys = _CONTENT_KEYS[part["type"]]
    for key in keys:
        if part.get(key) is not None:
            return part[key]
    raise InputError(f"content of type {part['type']}", " or ".join(keys), ", ".join(part), "give the file or its data")


def _image(image: Any) -> Any:
    """A file as Stage A reads it, an address as transformers fetches it, anything else as it is."""
    if isinstance(image, (str, Path)):
        return fetch_image(str(image)) if is_url(image) else load_image(Path(image))
    return image
