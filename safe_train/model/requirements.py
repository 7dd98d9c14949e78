"""What SAFE requires of a base: one decoder, whose hidden states a linear map turns into the logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from safe_train.errors import InputError
from safe_train.model.base import Base

_QUERY_FORMERS = ("blip-2", "instructblip", "instructblipvideo")
_HINT = "choose a decoder-only base; docs/models.md lists the classes that are tested"

# Logits of the probe spread this far, so that a cap (Gemma 2's is 30) or a scale shows.
_PROBE_SPREAD = 20.0
# A forgotten scale, cap or bias moves logits by several percent and more; bfloat16 rounds by 0.4 %.
_PROBE_TOLERANCE = 0.02


def refuse_architecture(config: Any, folder: str) -> None:
    """Refuses what SAFE cannot work with, before any weights are loaded.

    Raises:
        InputError: the configuration is an encoder-decoder's or one of the BLIP-2 kind.
    """
    if config.model_type in _QUERY_FORMERS:
        got = f"{config.model_type}: a query former before a whole language model, and no chat template"
        raise InputError(folder, "a decoder beside a head, and a processor with a chat template", got, _HINT)
    if config.is_encoder_decoder or config.get_text_config().is_encoder_decoder:
        got = f"{config.model_type}: an encoder-decoder, whose question is read by layers that hear nothing"
        raise InputError(folder, "a decoder-only language model", got, _HINT)


def with_head_found(base: Base) -> Base:
    """The base with the one of the two heads, with the configured cap or without, that its model computes.

    Training and distillation take the head apart from the model. So random states are put in the place of the model's
    own, large enough for a cap on the logits to show, and the model's logits are compared with the head's.

    Raises:
        InputError: the model has no head apart, no list of decoder layers, or a head of another form.
    """
    name = type(base.model).__name__
    module = base.model.get_output_embeddings()
    if base.model.base_model is base.model or module is None:
        raise InputError(base.source, "a model with a separate head", name, _HINT)
    if not module.weight.is_floating_point():
        raise InputError(base.source, "a head that is not quantized", str(module.weight.dtype), _HINT)
    if not len(base.decoder_layers):
        raise InputError(base.source, "decoder layers", f"none in {name}", _HINT)
    states = _probe_states(base)
    logits = _logits_of(base, states).float()
    errors = {}
    for caps_logits in (True, False):
        candidate = replace(base, caps_logits=caps_logits)
        expected = candidate.head(states)
        errors[caps_logits] = float((logits - expected).norm() / expected.norm())
        if errors[caps_logits] <= _PROBE_TOLERANCE:
            return candidate
    got = f"other logits in {name} (relative difference {min(errors.values()):.2g})"
    raise InputError(base.source, "logits that are softcap(h W + b) of the last hidden states h", got, _HINT)


def _probe_states(base: Base) -> Tensor:
    """Random states [1, 2, H] whose logits, before any cap, spread by ``_PROBE_SPREAD``."""
    head = base.head
    generator = torch.Generator().manual_seed(0)
    states = torch.randn((1, 2, base.hidden_size), generator=generator).to(head.weight)
    spread = torch.nn.functional.linear(states, head.weight).float().std()
    return (states.float() * (_PROBE_SPREAD / spread)).to(states.dtype)


@torch.no_grad()
def _logits_of(base: Base, states: Tensor) -> Tensor:
    """The model's logits [1, 2, V] when its decoder ends in these states."""

    def replace(_module: Any, _inputs: Any, output: Any) -> Any:
        output.last_hidden_state = states
        return output

    handle = base.model.base_model.register_forward_hook(replace)
    try:
        ids = torch.ones((1, states.shape[1]), dtype=torch.int64, device=states.device)  # any token will do
        return base.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    finally:
        handle.remove()
