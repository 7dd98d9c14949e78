"""Maximum lengths of generated answers: that of the longest reference, within limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safe_train.data.collator import Collator
from safe_train.data.example import Example
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.model.prompting import Turn

SHORTEST, LONGEST = 12, 128
"""Limits of the length in tokens where the settings give none."""

_CANDIDATES = 16  # of the longest texts; what stands around an answer moves its number of tokens by one or two at most


@dataclass(frozen=True)
class AnswerLengths:
    """Maximum answer lengths in tokens, including the end token.

    Attributes:
        vl: for VL examples.
        text: for text-only questions.
        audio: for audio examples.
    """

    vl: int
    text: int
    audio: int


def answer_lengths(
    settings: EvaluationSettings,
    encoder: Collator,
    vl: Sequence[Example],
    text: Sequence[Example] = (),
    audio: Sequence[Example] = (),
) -> AnswerLengths:
    """The setting, or per kind of examples the tokens of its longest reference, from ``SHORTEST`` to ``LONGEST``."""
    if settings.max_new_tokens is not None:
        return AnswerLengths(*(settings.max_new_tokens,) * 3)
    return AnswerLengths(*(_longest(encoder, examples) for examples in (vl, text, audio)))


def _longest(encoder: Collator, examples: Sequence[Example]) -> int:
    """The template is put around the longest texts alone: around all it takes minutes with ten answers a question."""
    turns = {
        answer: Turn(example.question, 0 if example.image is None else 1, answer)
        for example in examples
        if not example.is_document
        for answer in example.answers
    }
    if not turns:
        return SHORTEST
    tokens = encoder.processor.tokenizer(list(turns), add_special_tokens=False).input_ids
    by_length = sorted(zip(tokens, turns.values(), strict=True), key=lambda pair: -len(pair[0]))
    longest = max(len(encoder.prompts.answer_ids(turn)) for _, turn in by_length[:_CANDIDATES])
    return min(max(longest, SHORTEST), LONGEST)
