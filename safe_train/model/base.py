"""The base: any Hugging Face image-text-to-text model, frozen, with its decoder layers, hidden size and head found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, tanh

from safe_train.errors import InputError


@dataclass(frozen=True)
class OutputHead:
    """The map from hidden states to logits: ``softcap(h W^T + b)``.

    Attributes:
        weight: [V, H].
        bias: [V] or None.
        logit_softcap: cap of ``cap * tanh(z / cap)``, or None.
    """

    weight: Tensor
    bias: Tensor | None
    logit_softcap: float | None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] in float32 of hidden states [..., H]."""
        logits = nn.functional.linear(hidden, self.weight, self.bias).float()
        return logits if self.logit_softcap is None else tanh(logits / self.logit_softcap) * self.logit_softcap


@dataclass(frozen=True)
class Base:
    """A frozen vision-language model with its processor.

    Attributes:
        model: the untouched model, in evaluation mode, no parameter requiring a gradient.
        processor: its own processor, with a chat template.
        source: the hub id or folder that it was loaded from.
        caps_logits: whether its class applies the cap on logits that its configuration may name; not all do.
    """

    model: Any  # a PreTrainedModel that can generate; no published type says both
    processor: Any
    source: str
    caps_logits: bool = True

    @property
    def text_config(self) -> Any:
        """Configuration of the language model inside."""
        return self.model.config.get_text_config(decoder=True)

    @property
    def hidden_size(self) -> int:
        """Width of the decoder's hidden states."""
        return self.text_config.hidden_size

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """The decoder layers, found through the model's own accessor.

        Raises:
            InputError: the decoder keeps its layers under none of the known names.
        """
        decoder = self.model.get_decoder()
        for path in ("layers", "model.layers", "model.decoder.layers", "decoder.layers"):
            layers: Any = decoder
            for name in path.split("."):
                layers = getattr(layers, name, None)
            if isinstance(layers, nn.ModuleList):
                return layers
        raise InputError(
            self.source,
            "a decoder-only language model with a list of layers",
            type(decoder).__name__,
            "choose a base whose get_decoder().layers exists",
        )

    @property
    def head(self) -> OutputHead:
        """The output head, read from the model."""
        module: Any = self.model.get_output_embeddings()
        cap = getattr(self.text_config, "final_logit_softcapping", None) if self.caps_logits else None
        return OutputHead(module.weight, getattr(module, "bias", None), cap)

    def ready(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encoded inputs on the model's device, what is no integer (pixels) in its precision: not all towers cast."""
        return {name: in_precision(value, self.model.dtype).to(self.model.device) for name, value in inputs.items()}

    def last_hidden_state(self, **inputs: Tensor) -> Tensor:
        """Hidden states [B, T, H] that the head reads, without computing logits."""
        return self.model.base_model(**inputs, use_cache=False).last_hidden_state


def in_precision(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Floating-point values in a precision; integers and truth values as they are."""
    return value.to(dtype) if value.is_floating_point() else value
