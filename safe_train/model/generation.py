"""Generates answers greedily up to an end token, independent of the base's own generation settings.

A base's ``generation_config.json`` is made for chats: beams, repetition penalties, minimum lengths, and end tokens
that may differ from the one that ends a turn of its chat template. They would distort the measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from safe_train.model.base import Base
from safe_train.model.prompting import Turn, prompts_of

_WITHOUT_EFFECT = {
    # which tokens begin and fill a text, and who wrote the file
    "bos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version", "_from_model_config",
    # what greedy search of a given length does not read
    "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "use_cache",
    "max_length", "max_new_tokens", "cache_implementation",
}  # fmt: skip
_NEUTRAL = dict.fromkeys(
    ("num_beams", "num_return_sequences", "repetition_penalty", "encoder_repetition_penalty", "length_penalty"), 1
)
"""Values of settings that change nothing; of all others these are 0, False, none at all."""


def stop_tokens(base: Base) -> list[int]:
    """Tokens that end an answer: what the base's prompts end one with, the tokenizer's own end, and configured ones.

    Of the tokens in the base's generation configuration the special ones count: any other is part of some answer.
    """
    tokenizer = base.processor.tokenizer
    of_prompts = prompts_of(base.processor).answer_ids(Turn("?", answer="yes"))[-1]
    listed = _configured_ends(base)
    special = {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
    found = {of_prompts, tokenizer.eos_token_id, *(token for token in listed if token in special)}
    return sorted(found - {None})


@torch.no_grad()
def generate_greedily(base: Base, inputs: dict[str, Tensor], max_new_tokens: int, **options: Any) -> Tensor:
    """Token ids [B, new tokens] that follow left-padded prompts; sequences that have ended are filled with padding.

    Args:
        base: generates.
        inputs: prompts, as its processor encodes them.
        max_new_tokens: where an answer is cut off.
        options: of ``generate``, in place of those here.
    """
    with greedy(base), contiguous_states(base):
        generated = base.model.generate(**inputs, **{"max_new_tokens": max_new_tokens, "do_sample": False} | options)
    return generated[:, inputs["input_ids"].shape[1] :]


@contextmanager
def greedy(base: Base) -> Iterator[None]:
    """Inside the block, ``generate`` defaults to greedy search with :func:`stop_tokens`."""
    own = base.model.generation_config  # generate fills in from here what a configuration in its arguments leaves open
    base.model.generation_config = greedy_configuration(base)
    try:
        yield
    finally:
        base.model.generation_config = own


@contextmanager
def contiguous_states(base: Base) -> Iterator[None]:
    """Inside the block, the head of a base in half precision on a CPU gets its hidden states in one piece.

    ``generate`` gives it the last state of each prompt, a strided slice. PyTorch then copies the head's weight once for
    each example and multiplies one by one. In bfloat16, for 100 examples of width 576 and 49,152 tokens, that is
    12 s and 5.7 GB in place of 0.02 s, for the same bits. In float32 it is less than a second, but the product of
    all examples at once has other last bits, so nothing changes there.
    """
    head = base.model.get_output_embeddings()
    if head.weight.device.type != "cpu" or head.weight.dtype not in (torch.bfloat16, torch.float16):
        yield
        return
    hook = head.register_forward_pre_hook(lambda _module, inputs: tuple(states.contiguous() for states in inputs))
    try:
        yield
    finally:
        hook.remove()


def greedy_configuration(base: Base) -> GenerationConfig:
    """Greedy search with nothing of the base's own settings but its special end tokens."""
    pad = base.processor.tokenizer.pad_token_id
    stops = stop_tokens(base)
    return GenerationConfig(
        do_sample=False, num_beams=1, eos_token_id=stops, pad_token_id=stops[0] if pad is None else pad
    )


def own_settings(base: Base) -> dict[str, Any]:
    """What the base's own configuration says that greedy answers would have depended on, for the key of older ones."""
    own = base.model.generation_config
    said = {
        name: value
        for name, value in own.to_diff_dict().items()
        if name not in _WITHOUT_EFFECT and value and value != _NEUTRAL.get(name)
    }
    said.pop("eos_token_id", None)
    ends = _configured_ends(base)
    return said if set(ends) == set(stop_tokens(base)) else said | {"eos_token_id": ends}


def _configured_ends(base: Base) -> list[int | None]:
    configured = base.model.generation_config.eos_token_id
    return configured if isinstance(configured, list) else [configured]
