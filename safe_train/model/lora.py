"""Low-rank updates of the decoder's attention, active only while audio is attached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

_ATTENTION_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]


class LanguageModelLora(nn.Module):
    """LoRA (Hu et al. 2021) on the attention projections of a decoder, through PEFT; zero at initialization.

    When inactive, every layer runs only its base layer, so the bypass stays the base bit for bit.

    Attributes:
        active: whether the updates are applied.
    """

    def __init__(self, decoder: Any, rank: int) -> None:
        super().__init__()
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_ATTENTION_PROJECTIONS, lora_dropout=0.0), decoder
        )
        self._layers = [module for module in decoder.modules() if isinstance(module, BaseTunerLayer)]
        self.factors = nn.ModuleList(
            nn.ModuleList([getattr(layer, half)["default"] for half in ("lora_A", "lora_B")]) for layer in self._layers
        )
        decoder.requires_grad_(False)
        self.factors.requires_grad_(True)
        self.set_active(False)

    def set_active(self, active: bool) -> None:
        """Switches all layers.

        peft also switches whether the factors are trained. That is undone: a backward pass may run after the layers
        have been switched off, and whoever froze the factors wants them frozen.
        """
        self.active = active
        trained = [parameter.requires_grad for parameter in self.factors.parameters()]
        for layer in self._layers:
            layer.enable_adapters(active)
        for parameter, flag in zip(self.factors.parameters(), trained, strict=True):
            parameter.requires_grad_(flag)

    @contextmanager
    def as_active(self, active: bool) -> Iterator[None]:
        """Switches all layers inside the block."""
        previous = self.active
        self.set_active(active)
        try:
            yield
        finally:
            self.set_active(previous)
