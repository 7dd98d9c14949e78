"""Conversations, prompts with completions and plain texts as retention examples, by the model's own chat template."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from safe_train.errors import InputError
from safe_train.model.prompting import ChatPrompts, Document, document_ids

IGNORED = -100
"""Label of a token on which no loss is taken, in transformers as in torch's cross-entropy."""

Message = Mapping[str, Any]


class ChatCollator:
    """Puts rows of text, with images or without, together as a batch with labels on what is answered.

    A row is one of those that TRL trains on:

    - ``messages``, the last of them the assistant's, whose tokens and end token are labeled; those before are context;
    - ``prompt`` and ``completion``: both messages, the same; or both strings, of which the completion is labeled, with
      an end token behind it;
    - ``text``, labeled behind the token that begins a text.

    Messages may come with ``tools`` and ``chat_template_kwargs`` for the chat template.

    A row of messages may have ``images`` or ``image``: for the image parts of the messages in their order, or, where
    they name none, for the beginning of the first question.
    """

    def __init__(self, processing_class: Any) -> None:
        """Takes the model's processor, or the tokenizer of a text model."""
        self.processor = processing_class
        self.tokenizer = getattr(processing_class, "tokenizer", processing_class)
        self._takes_images = self.tokenizer is not processing_class

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """What the model takes, padded on the right, and ``labels`` int64 [B, T].

        Raises:
            InputError: a row is of none of the kinds, rows of messages and others are mixed, the chat template writes
                another prompt once the answer is known, or a tokenizer is to read images.
        """
        chats, images = [messages_in(row) for row in rows], [images_in(row) for row in rows]
        if all(chat is None for chat in chats):
            if any(images):
                hint = "write the text as messages"
                raise InputError("retention examples", "images beside messages", "images beside plain text", hint)
            return self._texts(rows)
        if any(chat is None for chat in chats):
            expected = "rows of messages alone, or none of them"
            raise InputError("retention examples", expected, "both kinds", "write all rows as messages")
        templates = [_template_options(row) for row in rows]
        return self._conversations([chat for chat in chats if chat is not None], images, templates)

    def _conversations(
        self, chats: Sequence[list[Message]], images: Sequence[list[Any]], templates: Sequence[dict[str, Any]]
    ) -> dict[str, Tensor]:
        if not getattr(self.processor, "chat_template", None):
            hint = "choose an instruction-tuned model, or write rows with prompt and completion as strings"
            raise InputError("processing_class", "a chat template, for rows of messages", "none", hint)
        if any(images) and not self._takes_images:
            hint = "give the trainer the model's processor: processing_class=AutoProcessor.from_pretrained(...)"
            raise InputError("processing_class", "a processor, for rows with images", "a tokenizer", hint)
        prompts = ChatPrompts(self.processor)
        formed = [self._in_form(chat, len(of_row)) for chat, of_row in zip(chats, images, strict=True)]
        encoded = dict(
            self.processor(
                text=[prompts.conversation(chat, **more) for chat, more in zip(formed, templates, strict=True)],
                **({"images": list(images)} if any(images) else {}),
                padding=True,
                padding_side="right",
                add_special_tokens=False,  # the chat template has written them
                return_tensors="pt",
            )
        )
        answers = [prompts.last_answer_ids(chat, **more) for chat, more in zip(formed, templates, strict=True)]
        return self._labeled(encoded, answers)

    def _in_form(self, chat: Sequence[Message], num_images: int) -> Sequence[Message]:
        """Contents as templates take them: lists of parts for a processor, strings for a tokenizer."""
        if not self._takes_images:
            return [{**message, "content": _as_text(message.get("content"))} for message in chat]
        parts = [{**message, "content": _as_parts(message.get("content"))} for message in chat]
        named = sum(part["type"] == "image" for message in parts for part in message["content"])
        if num_images and not named:
            first = next((message for message in parts if message["role"] == "user"), parts[0])
            first["content"][:0] = [{"type": "image"}] * num_images
        elif named != num_images:
            expected = f"images for the {named} that the messages name"
            raise InputError("retention examples", expected, str(num_images), "add them under images")
        return parts

    def _texts(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        pairs = [self._split(row) for row in rows]
        ids = [[*prompt, *answer] for prompt, answer in pairs]
        length = max(map(len, ids))
        filled = torch.tensor([row + [self._padding()] * (length - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids])
        return self._labeled({"input_ids": filled, "attention_mask": mask}, [answer for _, answer in pairs])

    def _split(self, row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        """Tokens of the context, and those to be labeled."""
        if "text" in row:
            first, *rest = document_ids(self.tokenizer, Document(row["text"]))
            return [first], rest
        if "prompt" not in row or "completion" not in row:
            hint = "write rows with messages, with prompt and completion, with text, or with input_ids and labels"
            expected = "messages, prompt and completion, or text"
            raise InputError("retention examples", expected, ", ".join(map(str, row)) or "nothing", hint)
        end = self.tokenizer.eos_token or ""
        completion = row["completion"] if end and row["completion"].endswith(end) else row["completion"] + end
        # Together, as they are read: alone, some tokenizers begin the completion in another way.
        whole = self.tokenizer(row["prompt"] + completion).input_ids
        prompt = self.tokenizer(row["prompt"]).input_ids
        if self.tokenizer.eos_token_id is not None and whole[-2:] == [self.tokenizer.eos_token_id] * 2:
            whole = whole[:-1]  # of a tokenizer that adds one itself
        pairs = enumerate(zip(prompt, whole, strict=False))
        first = next((place for place, (alone, together) in pairs if alone != together), min(len(prompt), len(whole)))
        return whole[:first], whole[first:]

    def _padding(self) -> int:
        found = self.tokenizer.pad_token_id
        return next(number for number in (found, self.tokenizer.eos_token_id, 0) if number is not None)

    @staticmethod
    def _labeled(encoded: dict[str, Tensor], answers: Sequence[list[int]]) -> dict[str, Tensor]:
        """Adds labels on the tokens that end each row, which are those of its answer."""
        labels = torch.full_like(encoded["input_ids"], IGNORED)
        for row, (length, answer) in enumerate(zip(encoded["attention_mask"].sum(dim=1), answers, strict=True)):
            place = slice(int(length) - len(answer), int(length))
            if encoded["input_ids"][row, place].tolist() != answer:
                raise InputError(
                    "processing_class",
                    "conversations whose last tokens are those of the answer",
                    "others",
                    "write rows with input_ids and labels",
                )
            labels[row, place] = torch.tensor(answer)
        return {**encoded, "labels": labels}


def messages_in(row: Any) -> list[Message] | None:
    """The messages of a row, the answer last, each with a content of its own; None if it has none."""
    if not isinstance(row, Mapping):
        raise InputError("retention examples", "rows with named columns", type(row).__name__, "make each a dictionary")
    if isinstance(row.get("messages"), Sequence) and not isinstance(row["messages"], str):
        found = list(row["messages"])
    elif all(isinstance(row.get(name), list) for name in ("prompt", "completion")):
        found = [*row["prompt"], *row["completion"]]
    else:
        return None
    if not found or found[-1].get("role") != "assistant":
        got = f"one of role {found[-1].get('role')!r}" if found else "no message"
        raise InputError("retention examples", "messages that end in the assistant's answer", got, "add the answer")
    return copy.deepcopy(found)


def images_in(row: Mapping[str, Any]) -> list[Any]:
    """The images of a row, in order: those of its columns, or those that stand in its messages."""
    if row.get("images") is not None:
        found = list(row["images"]) if isinstance(row["images"], (list, tuple)) else [row["images"]]
    elif row.get("image") is not None:
        found = [row["image"]]
    else:
        contents = [message.get("content") for message in messages_in(row) or []]
        parts = [part for content in contents if isinstance(content, list) for part in content]
        found = [part.get("image") for part in parts if part.get("type") == "image"]
    return [_opened(image) for image in found if image is not None]


def _opened(image: Any) -> Any:
    """An image of ``datasets`` that is not decoded, opened; any other as it is."""
    if not isinstance(image, Mapping):
        return image
    source = io.BytesIO(image["bytes"]) if image.get("bytes") else image["path"]
    return Image.open(source)


def _template_options(row: Mapping[str, Any]) -> dict[str, Any]:
    tools = {"tools": row["tools"]} if row.get("tools") else {}
    return tools | dict(row.get("chat_template_kwargs") or {})


def _as_parts(content: Any) -> list[dict[str, Any]]:
    """Parts without what they show: the images are given apart. ``datasets`` fills missing keys with None."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    _require_known(content)
    shown = ({"type": "image"} if part["type"] == "image" else part for part in content)
    return [{name: value for name, value in part.items() if value is not None} for part in shown]


def _as_text(content: Any) -> str | None:
    if content is None or isinstance(content, str):
        return content
    _require_known(content)
    return "".join(part["text"] for part in content if part["type"] == "text")


def _require_known(parts: Sequence[Mapping[str, Any]]) -> None:
    for part in parts:
        if part.get("type") not in ("text", "image"):
            hint = "leave the row out, or give Retention a collate of your own"
            raise InputError("retention examples", "parts of type text or image", repr(part.get("type")), hint)
