"""SAFE: a frozen base with audio input, whose bypass is the base bit for bit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from safe_train.errors import InputError
from safe_train.io.files import json_text, read_object
from safe_train.io.tensor_files import save_tensors
from safe_train.model.activation_checkpointing import checkpoint_layers
from safe_train.model.audio.encoder import AudioEncoder, AudioFeatures
from safe_train.model.audio.projector import AudioProjector
from safe_train.model.base import Base
from safe_train.model.fusion import GatedCrossAttention
from safe_train.model.generation import generate_greedily
from safe_train.model.lora import LanguageModelLora
from safe_train.model.shared_prefix import PrefixRecorder, SharedPrefix, continue_from

ADAPTER_WEIGHTS = "adapter.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Shape of the trained parts.

    Attributes:
        num_audio_tokens: audio tokens per clip, for each encoder.
        projector_hidden: width of the projector's hidden layers.
        fusion_layers: indices of the decoder layers whose output reads the audio tokens.
        fusion_dim: width of queries, keys and values over all heads.
        fusion_heads: attention heads.
        lora_rank: rank of low-rank updates of the decoder's attention; 0 means none.
        init_seed: seed of the initialization.
        projector_layers: linear layers of the projector.
    """

    num_audio_tokens: int
    projector_hidden: int
    fusion_layers: tuple[int, ...]
    fusion_dim: int
    fusion_heads: int
    lora_rank: int = 0
    init_seed: int = 0
    projector_layers: int = 2


class FusionStatistics:
    """The fusion's effect on a batch: proof that a result was measured with an active fusion.

    Attributes:
        calls: for each fused layer, the number of times it changed hidden states.
    """

    def __init__(self) -> None:
        self.calls: dict[int, int] = {}
        self._ratios: dict[int, Tensor] = {}

    def record(self, layer: int, hidden: Tensor, update: Tensor) -> None:
        """Adds a call on ``hidden`` [B, T, H]; ``update`` is what is added to it."""
        self.calls[layer] = self.calls.get(layer, 0) + 1
        ratio = update.float().flatten(1).norm(dim=1) / hidden.float().flatten(1).norm(dim=1).clamp_min(1e-30)
        self._ratios[layer] = self._ratios[layer] + ratio if layer in self._ratios else ratio

    def updates(self) -> list[tuple[float, ...]]:
        """For each example, ``|update| / |hidden|`` (Frobenius norms) by layer, mean over calls; empty if none."""
        if not self.calls:
            return []
        columns = [(self._ratios[layer] / self.calls[layer]).tolist() for layer in sorted(self.calls)]
        return list(zip(*columns, strict=True))


class SafeModel(nn.Module):
    """A base with projectors and fusions attached through forward hooks.

    The hooks do nothing unless audio is attached and the gate is open, so a forward pass without audio runs exactly the
    operations of the base. Neither the base's code nor its weights or embedding table are touched.

    Attributes:
        base: the frozen base.
        gate: scalar in [0, 1] that multiplies every fusion update; 0 is the bypass.
        statistics: a ``FusionStatistics`` that records the fusion's effect, or None to save the time.
    """

    def __init__(self, base: Base, encoders: Sequence[AudioEncoder], config: AdapterConfig) -> None:
        super().__init__()
        self.base = base
        self.config = config
        self.encoders = nn.ModuleList(encoders)
        device = base.model.device
        layers = base.decoder_layers
        for index in config.fusion_layers:
            if not 0 <= index < len(layers):
                raise InputError("fusion_layers", f"indices below {len(layers)}", str(index), "choose other layers")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.init_seed)
            self.projectors = nn.ModuleList(
                AudioProjector(
                    encoder.num_features,
                    encoder.feature_size,
                    config.num_audio_tokens,
                    config.projector_hidden,
                    base.hidden_size,
                    config.projector_layers,
                    encoder.features_per_window,
                )
                for encoder in encoders
            ).to(device)
            self.fusions = nn.ModuleList(
                GatedCrossAttention(base.hidden_size, config.fusion_dim, config.fusion_heads)
                for _ in config.fusion_layers
            ).to(device)
            self.lora = LanguageModelLora(base.model.get_decoder(), config.lora_rank) if config.lora_rank else None
        self.gate = 1.0
        self.statistics: FusionStatistics | None = None
        self._audio: tuple[Tensor, Tensor] | None = None
        self._hooks = [
            layers[index].register_forward_hook(self._fusion_hook(index, fusion))
            for index, fusion in zip(config.fusion_layers, self.fusions, strict=True)
        ]

    def detach(self) -> None:
        """Takes the fusions off the base's layers, which then hold nothing of them; low-rank updates stay."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _fusion_hook(self, layer: int, fusion: nn.Module) -> Any:
        def add_update(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            if self._audio is None or self.gate == 0.0:
                return None
            hidden = output[0] if isinstance(output, tuple) else output
            tokens, mask = _match_batch(*self._audio, batch=hidden.shape[0])
            update = self.gate * fusion(hidden, tokens, mask)
            if self.statistics is not None:
                self.statistics.record(layer, hidden, update)
            # Rows without audio keep their own bits: adding a zero would turn -0.0 into 0.0.
            fused = torch.where(mask.any(dim=1)[:, None, None], hidden + update, hidden)
            return (fused, *output[1:]) if isinstance(output, tuple) else fused

        return add_update

    def checkpoint_gradients(self) -> None:
        """Computes the decoder's inner activations again in each backward pass, to save the memory that they take."""
        checkpoint_layers(self.base.decoder_layers, self._lora_as_it_is)

    def _lora_as_it_is(self) -> AbstractContextManager[None]:
        """A context for later with LoRA as it is now; by the backward pass, the audio is no longer attached."""
        return nullcontext() if self.lora is None else self.lora.as_active(self.lora.active)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name: projectors, fusions and, if there is one, LoRA."""
        parts: dict[str, nn.Module] = {"projectors": self.projectors, "fusions": self.fusions}
        if self.lora is not None:
            parts["lora"] = self.lora
        return {f"{name}.{key}": p for name, part in parts.items() for key, p in part.named_parameters()}

    def trainable_linears(self) -> dict[str, nn.Linear]:
        """The linear layers whose weights are trained, by the name of their weight in ``trainable_parameters``."""
        by_weight = {id(p): name for name, p in self.trainable_parameters().items()}
        return {
            by_weight[id(module.weight)]: module
            for module in self.modules()
            if isinstance(module, nn.Linear) and id(module.weight) in by_weight
        }

    @contextmanager
    def attached(self, features: Sequence[AudioFeatures]) -> Iterator[None]:
        """Attaches audio to every forward pass inside the block, one clip per example, as features of each encoder."""
        projected = [
            projector(feature.to(self.base.model.device))
            for projector, feature in zip(self.projectors, features, strict=True)
        ]
        previous = self._audio
        self._audio = (torch.cat([tokens for tokens, _ in projected], 1), torch.cat([mask for _, mask in projected], 1))
        if self.lora is not None:
            self._check_lora_rows()
            self.lora.set_active(self.gate > 0.0)
        try:
            yield
        finally:
            self._audio = previous
            if self.lora is not None:
                self.lora.set_active(previous is not None and self.gate > 0.0)

    @contextmanager
    def bypass(self) -> Iterator[None]:
        """The base itself inside the block, whatever audio is attached outside of it."""
        previous, self._audio = self._audio, None
        if self.lora is not None:
            self.lora.set_active(False)
        try:
            yield
        finally:
            self._audio = previous
            if self.lora is not None:
                self.lora.set_active(previous is not None and self.gate > 0.0)

    def _check_lora_rows(self) -> None:
        """LoRA changes every example of a batch, so one without audio would no longer be the base's."""
        assert self._audio is not None
        if not self._audio[1].any(dim=1).all():
            raise ValueError(
                "with LoRA, every row of a batch must have audio; run the rows without audio in the bypass"
            )

    def last_hidden_state(
        self,
        inputs: dict[str, Tensor],
        features: Sequence[AudioFeatures] | None,
        prefix: SharedPrefix | None = None,
    ) -> Tensor:
        """Hidden states [B, T, H] that the head reads, with audio attached or, for None, in the bypass.

        A ``prefix`` of the same inputs, from ``bypass_and_prefix``, is not computed again; the result is the same bits.
        """
        with self.bypass() if features is None else self.attached(features):
            if prefix is None:
                return self.base.last_hidden_state(**inputs)
            return continue_from(prefix, self.base.model.get_decoder(), self.base.decoder_layers)

    @torch.no_grad()
    def bypass_and_prefix(self, inputs: dict[str, Tensor]) -> tuple[Tensor, SharedPrefix | None]:
        """Hidden states in the bypass, and what a pass with audio on the same inputs need not compute again.

        That is everything up to the first fused decoder layer, whose output the fusion is added to. Nothing is shared
        with LoRA, which changes the layers before, and on bases whose hidden states are not their decoder's output.
        """
        if self.lora is not None:
            return self.last_hidden_state(inputs, None), None
        first = min(self.config.fusion_layers)
        with PrefixRecorder(self.base.model.get_decoder(), self.base.decoder_layers, first) as recorder:
            hidden = self.last_hidden_state(inputs, None)
        return hidden, recorder.prefix(hidden)

    def generate(self, inputs: dict[str, Tensor], features: Sequence[AudioFeatures] | None, **options: Any) -> Tensor:
        """Token ids [B, new tokens] that follow left-padded prompts, by :func:`generate_greedily`."""
        with self.bypass() if features is None else self.attached(features):
            return generate_greedily(self.base, inputs, **options)

    def save_adapter(self, folder: Path) -> None:
        """Writes the trained parts and their configuration, never the base's weights."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.trainable_parameters().items()}
        save_tensors(tensors, folder / ADAPTER_WEIGHTS)
        described = self._describe() | {
            "base_model": self.base.source,
            "audio_encoders": [encoder.source for encoder in self.encoders],
            "gate": self.gate,
        }
        (folder / ADAPTER_CONFIG).write_text(json_text(described), encoding="utf-8")

    def _describe(self) -> dict[str, Any]:
        """What the trained parts depend on: sizes, and the processing of a clip before them."""
        described = dataclasses.asdict(self.config) | {
            "audio_features": [encoder.features for encoder in self.encoders],
            "audio_level_db": [encoder.level_db for encoder in self.encoders],
            "audio_window": [encoder.window for encoder in self.encoders],
        }
        return json.loads(json.dumps(described))  # as it is read back, without tuples

    def load_adapter(self, folder: Path) -> None:
        """Reads trained parts written by ``save_adapter``.

        Raises:
            InputError: the file is missing, or its tensors are not those of this configuration.
        """
        path = folder / ADAPTER_WEIGHTS
        hint = "use the configuration that the run was trained with"
        if not path.is_file():
            raise InputError(path, "the trained parts of a run", "no such file", "name a run that saved a checkpoint")
        try:
            stored = load_file(path, device=str(self.base.model.device))
        except SafetensorError as error:
            raise InputError(path, "whole safetensors", str(error), "go back to an older checkpoint") from error
        own = self.trainable_parameters()
        shapes = {name: tuple(p.shape) for name, p in own.items()}
        if shapes != {name: tuple(tensor.shape) for name, tensor in stored.items()}:
            differing = sorted(set(shapes) ^ set(stored)) or [n for n in shapes if shapes[n] != tuple(stored[n].shape)]
            raise InputError(
                path,
                "the tensors of this configuration",
                f"other names or shapes ({differing[0]})",
                hint,
            )
        self._require_description(folder / ADAPTER_CONFIG, hint)
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(stored[name])

    def _require_description(self, path: Path, hint: str) -> None:
        """Finds out whether the trained parts were trained for this; an earlier version did not write every part."""
        stored = read_object(path, "the description of the trained parts", hint)
        for name, value in self._describe().items():
            if name in stored and stored[name] != value:
                raise InputError(path, f"{name} {json.dumps(value)}", json.dumps(stored[name]), hint)


def _match_batch(tokens: Tensor, mask: Tensor, *, batch: int) -> tuple[Tensor, Tensor]:
    """Repeats audio for the hypotheses of a beam search, which lie next to each other in the batch."""
    if tokens.shape[0] == batch:
        return tokens, mask
    if batch % tokens.shape[0]:
        raise ValueError(f"audio for {tokens.shape[0]} rows cannot serve a batch of {batch}")
    repeats = batch // tokens.shape[0]
    return tokens.repeat_interleave(repeats, dim=0), mask.repeat_interleave(repeats, dim=0)
