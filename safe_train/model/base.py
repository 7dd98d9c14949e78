"""The base: any Hugging Face image-text-to-text model, frozen, with its decoder layers, hidden size and head found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from configs.model_configs import EMBEDDED
from safe_train.embedded import weights
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
        return logits if self.logit_softcap is None else torch.tanh(logits / self.logit_softcap) * self.logit_softcap


@dataclass(frozen=True)
class Base:
    """A frozen vision-language model with its processor.

    Attributes:
        model: the untouched model, in evaluation mode, no parameter requiring a gradient.
        processor: its own processor, with a chat template.
        source: the hub id or folder that it was loaded from.
    """

    model: Any  # a PreTrainedModel that can generate; no published type says both
    processor: Any
    source: str

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
        cap = getattr(self.text_config, "final_logit_softcapping", None)
        return OutputHead(module.weight, getattr(module, "bias", None), cap)

    def last_hidden_state(self, **inputs: Tensor) -> Tensor:
        """Hidden states [B, T, H] that the head reads, without computing logits."""
        return self.model.base_model(**inputs, use_cache=False).last_hidden_state


def load_base(source: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Base:
    """Loads a base by local folder or hub id, frozen; ``"embedded"`` is the one in the package.

    Code from a model's repository is never run, and weights are read from safetensors only.

    Raises:
        InputError: the folder has no model, no weights or no processor, or the id cannot be fetched.
    """
    folder = str(weights.base_folder()) if source == EMBEDDED else source
    _check_folder(folder, "the vision-language model")
    try:
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            folder,
            "an image-text-to-text model with safetensors weights and a processor",
            str(error).strip().splitlines()[0],
            "name a local folder with --base-model, or a hub id that this machine can fetch",
        ) from error
    if model.base_model is model:
        raise InputError(folder, "a model with a separate head", type(model).__name__, "choose another base")
    nn.Module.to(model.requires_grad_(False).eval(), device)
    return Base(model, processor, source)


def _check_folder(folder: str, what: str) -> None:
    """A path-like source must be a model folder; this catches the common slips before transformers does."""
    path = Path(folder)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(path, f"a folder with the config.json of {what}", "none", "point to the model's folder")
        if not any(path.glob("*.safetensors")):
            raise InputError(path, "*.safetensors weights", "none", "copy the weights there, converted to safetensors")
    elif path.is_absolute() or folder.startswith((".", "~")):
        raise InputError(folder, f"the folder of {what}", "no such folder", "correct the path, or give a hub id")
