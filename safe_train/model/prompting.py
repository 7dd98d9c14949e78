"""Formats questions for a base: with its chat template, or, for PaliGemma, as the prefix of the answer.

A document has no template, as in evaluation harnesses: one token that begins a text (``bos``, or ``eos`` where the
tokenizer has no other), then the text without an end token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PaliGemmaProcessor

from safe_train.errors import InputError

_STAND_IN = "\u2983stand-in\u2984"  # for an answer, where its text alone does not tell its place
_PLACEHOLDERS = ("image_token", "boi_token", "fake_image_token", "video_token", "audio_token")


@dataclass(frozen=True)
class Turn:
    """A question, with its answer or without.

    Attributes:
        question: the text.
        num_images: images that come before it.
        answer: the text, or None.
    """

    question: str
    num_images: int = 0
    answer: str | None = None


@dataclass(frozen=True)
class Document:
    """A text without a question.

    Attributes:
        text: the text.
    """

    text: str
    num_images = 0


class Prompts(Protocol):
    """Formats turns and documents as a base was trained on."""

    def encode(
        self, turns: Sequence[Turn | Document], images: Sequence[Sequence[Any]], padding_side: str
    ) -> dict[str, Tensor]:
        """What the base takes, for turns with the images of each and documents, padded to the longest."""
        ...

    def answer_ids(self, turn: Turn | Document) -> list[int]:
        """The tokens that follow the prompt: the answer and its end token; of a document, all after the first."""
        ...


def prompts_of(processor: Any) -> Prompts:
    """The prompt format of a processor.

    Raises:
        InputError: the processor has no chat template.
    """
    if isinstance(processor, PaliGemmaProcessor):
        return PrefixPrompts(processor)
    if not getattr(processor, "chat_template", None):
        raise InputError("processor", "a chat template", "none", "choose an instruction-tuned base")
    return ChatPrompts(processor)


class ChatPrompts:
    """Prompts by a chat template."""

    def __init__(self, processor: Any) -> None:
        """Takes a processor, or a tokenizer alone."""
        self.processor, self.tokenizer = processor, getattr(processor, "tokenizer", processor)
        added = self.tokenizer.added_tokens_decoder.values()
        self._markers = [token.content for token in added if token.special]

    def encode(
        self, turns: Sequence[Turn | Document], images: Sequence[Sequence[Any]], padding_side: str
    ) -> dict[str, Tensor]:
        """See :class:`Prompts`."""
        asked = [(turn, of_turn) for turn, of_turn in zip(turns, images, strict=True) if isinstance(turn, Turn)]
        # Documents alone: what else the base takes for each token is found by a question.
        encoded = self._conversations(asked or [(Turn("?"), [])], padding_side)
        if len(asked) == len(turns):
            return encoded
        texts = [None if isinstance(turn, Turn) else document_ids(self.tokenizer, turn) for turn in turns]
        return _with_documents(encoded, texts, self.tokenizer.pad_token_id, padding_side)

    def _conversations(self, asked: Sequence[tuple[Turn, Sequence[Any]]], padding_side: str) -> dict[str, Tensor]:
        """What the base takes for turns with the images of each, padded to the longest."""
        images = [list(of_turn) for _, of_turn in asked]
        encoded = self.processor(
            text=[self.text(turn) for turn, _ in asked],
            # One list a turn: Gemma 3 and SmolVLM take a flat list for the images of one turn, and LLaVA-OneVision
            # treats a turn's only image in another way than one of several.
            images=images if any(images) else None,
            padding=True,
            padding_side=padding_side,
            add_special_tokens=False,  # the chat template has written them
            return_tensors="pt",
        )
        return dict(encoded)

    def answer_ids(self, turn: Turn | Document) -> list[int]:
        """See :class:`Prompts`.

        Raises:
            InputError: the template writes another prompt when the answer is known.
        """
        if isinstance(turn, Document):
            return document_ids(self.tokenizer, turn)[1:]
        return self.last_answer_ids(messages_of(replace(turn, answer=turn.answer or "")))

    def last_answer_ids(self, messages: Sequence[Mapping[str, Any]], **template: Any) -> list[int]:
        """The tokens of a conversation's last message, the assistant's, and its end token.

        Args:
            messages: the conversation.
            template: what the chat template is given beside it, such as ``tools``.

        Raises:
            InputError: the template writes another prompt when the answer is known.
        """
        texts = [self.conversation(messages[:-1], **template), self.conversation(messages, **template)]
        prompt, full = (self.tokenizer(text, add_special_tokens=False).input_ids for text in texts)
        if full[: len(prompt)] != prompt or text_in(messages[-1]).strip() not in texts[1][len(texts[0]) :]:
            raise _unstable()
        return full[len(prompt) :]

    def text(self, turn: Turn) -> str:
        """:meth:`conversation` of a turn."""
        return self.conversation(messages_of(turn))

    def conversation(self, messages: Sequence[Mapping[str, Any]], **template: Any) -> str:
        """The conversation up to where an answer is to begin, or, where its last message is one, up to its end."""
        answered = messages[-1]["role"] == "assistant"
        asked, answer = list(messages[:-1] if answered else messages), text_in(messages[-1]).strip()
        prompt = self.processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False, **template)
        if not answered:
            return prompt
        whole = self._rendered(messages, prompt, template)
        behind = max(whole.find(answer, len(prompt)), len(prompt)) + len(answer)
        if whole.count(answer, len(prompt)) > 1:  # a short answer is part of a header's or an end marker's name, too
            marked = self._rendered([*asked, {**messages[-1], "content": _replaced(messages[-1])}], prompt, template)
            place = marked.find(_STAND_IN)
            if place >= 0 and whole[:place] == marked[:place] and whole.startswith(answer, place):
                behind = place + len(answer)
        return self._end(whole, behind)

    def _rendered(self, messages: Sequence[Mapping[str, Any]], prompt: str, template: Mapping[str, Any]) -> str:
        """An answered conversation, behind its prompt as a generation finds it."""
        whole = self.processor.apply_chat_template(
            list(messages), add_generation_prompt=False, tokenize=False, **template
        )
        return prompt + _behind(prompt, whole)

    def _end(self, whole: str, behind: int) -> str:
        """The conversation up to the marker that ends the answer, where a generation stops.

        What some templates write after it, such as a line break, is not part of an answer.
        """
        ends = [whole.find(marker, behind) + len(marker) for marker in self._markers if marker in whole[behind:]]
        if ends:
            return whole[: min(ends)]
        # Some templates (LLaVA-1.5's) end a turn with a space alone; the model must learn to stop all the same.
        return whole.rstrip() + (self.tokenizer.eos_token or "")


def text_in(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content is a string or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _replaced(message: Mapping[str, Any]) -> Any:
    """The message's content with the stand-in as its text."""
    if isinstance(message["content"], str):
        return _STAND_IN
    return [{"type": "text", "text": _STAND_IN}]


def messages_of(turn: Turn) -> list[dict[str, Any]]:
    """The question and, if there is one, the answer, as chat templates take them."""
    content = [{"type": "image"}] * turn.num_images + [{"type": "text", "text": turn.question}]
    asked = [{"role": "user", "content": content}]
    if turn.answer is None:
        return asked
    return [*asked, {"role": "assistant", "content": [{"type": "text", "text": turn.answer}]}]


class PrefixPrompts:
    """PaliGemma's form: images, ``<bos>``, the question and a line break, all attending to each other; then the answer.

    Answer and ``<eos>`` attend backwards. ``token_type_ids`` are 0 up to the line break and 1 after it. In a document,
    only ``<bos>`` is the prefix, so that each of its tokens attends to those before it and to no later one. Its own
    processor accepts no turn without an image, and misplaces ``<bos>`` in one batched with images, so the text is
    built here. Source: Beyer et al. 2024, arXiv:2407.07726, section 3.
    """

    def __init__(self, processor: PaliGemmaProcessor) -> None:
        self.processor: Any = processor

    def encode(
        self, turns: Sequence[Turn | Document], images: Sequence[Sequence[Any]], padding_side: str
    ) -> dict[str, Tensor]:
        """See :class:`Prompts`."""
        prefixes = [self._prefix_ids(turn) for turn in turns]
        waits = [isinstance(turn, Turn) and turn.answer is None for turn in turns]
        suffixes = [[] if waiting else self.answer_ids(turn) for turn, waiting in zip(turns, waits, strict=True)]
        pad, rows = self.processor.tokenizer.pad_token_id, list(zip(prefixes, suffixes, strict=True))
        inputs = {
            "input_ids": _pad([[*prefix, *suffix] for prefix, suffix in rows], pad, padding_side),
            "attention_mask": _pad([[1] * len([*prefix, *suffix]) for prefix, suffix in rows], 0, padding_side),
            "token_type_ids": _pad([[0] * len(p) + [1] * len(s) for p, s in rows], 0, padding_side),
        }
        flat = [image for of_turn in images for image in of_turn]
        return inputs | (dict(self.processor.image_processor(flat, return_tensors="pt")) if flat else {})

    def answer_ids(self, turn: Turn | Document) -> list[int]:
        """See :class:`Prompts`."""
        if isinstance(turn, Document):
            return document_ids(self.processor.tokenizer, turn)[1:]
        return [*self._ids(turn.answer or ""), self.processor.tokenizer.eos_token_id]

    def _prefix_ids(self, turn: Turn | Document) -> list[int]:
        if isinstance(turn, Document):
            return document_ids(self.processor.tokenizer, turn)[:1]
        image_tokens = self.processor.image_token * (self.processor.image_seq_length * turn.num_images)
        return self._ids(image_tokens + self.processor.tokenizer.bos_token + turn.question + "\n")

    def _ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False).input_ids


def document_ids(tokenizer: Any, document: Document) -> list[int]:
    """The token that begins a text, and the tokens of the document.

    Raises:
        InputError: the tokenizer has no such token.
    """
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise InputError("tokenizer", "a token that begins or ends texts", "neither", "choose a base with one")
    return [first, *tokenizer(document.text, add_special_tokens=False).input_ids]


def placeholder_in(processor: Any, text: str) -> str | None:
    """The first of the processor's placeholders for images, videos or sound in a text, or None."""
    tokens = (getattr(processor, name, None) for name in _PLACEHOLDERS)
    return next((str(token) for token in tokens if token and str(token) in text), None)


def _with_documents(
    encoded: dict[str, Tensor], texts: Sequence[list[int] | None], pad: int, side: str
) -> dict[str, Tensor]:
    """Encoded conversations with documents among them; the ``None`` of ``texts`` are the conversations, in order.

    Whatever has a value a token (such as the type of a token, of which text has 0) is padded along; images are left
    alone, since documents have none.
    """
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    result = dict(encoded)
    for name, value in encoded.items():
        if value.shape != ids.shape:
            continue
        conversations = (row[real.bool()].tolist() for row, real in zip(value, mask, strict=True))
        of_documents = {"input_ids": lambda text: text, "attention_mask": lambda text: [1] * len(text)}
        filled = of_documents.get(name, lambda text: [0] * len(text))
        rows = [next(conversations) if text is None else filled(text) for text in texts]
        result[name] = _pad(rows, pad if name == "input_ids" else 0, side).to(value.dtype)
    return result


def _behind(prompt: str, whole: str) -> str:
    """What follows the prompt in a conversation, also where that writes the prompt with other white space.

    LLaVA-OneVision's template writes ``assistant`` and a line break before an answer that is to come, but a space
    before one that is known. A generation follows the former, so the answer is trained behind the former.

    Raises:
        InputError: the conversation begins in another way.
    """
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    rest = whole
    for character in "".join(prompt.split()):
        rest = rest.lstrip()
        if not rest.startswith(character):
            raise _unstable()
        rest = rest[1:]
    return rest.lstrip()


def _unstable() -> InputError:
    return InputError(
        "chat template",
        "an answer that follows the generation prompt",
        "a conversation that is not its prompt followed by the answer",
        "choose a base whose template is prefix-stable",
    )


def _pad(rows: list[list[int]], value: int, side: str) -> Tensor:
    """Rows of integers as one int64 tensor."""
    length = max(len(row) for row in rows)
    filled = [
        [value] * (length - len(row)) + row if side == "left" else row + [value] * (length - len(row)) for row in rows
    ]
    return torch.tensor(filled)
