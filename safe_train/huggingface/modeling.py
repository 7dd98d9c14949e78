"""SAFE as a Hugging Face model: the base with audio attached, saved and shared as its small adapter."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.utils.hub import cached_file

from safe_train.errors import InputError
from safe_train.huggingface.adapter_files import WEIGHTS, write_adapter
from safe_train.huggingface.binding import OTHER_WEIGHTS, why_stale
from safe_train.huggingface.configuration import HUB_OPTIONS, SafeConfig
from safe_train.huggingface.processing import SafeProcessor
from safe_train.model.audio.encoder import AudioFeatures, load_audio_encoder
from safe_train.model.audio.feature_readout import seconds_of
from safe_train.model.base import in_precision
from safe_train.model.folders import as_input_error
from safe_train.model.generation import stop_tokens
from safe_train.model.loading import load_base
from safe_train.model.safe_model import SafeModel

# What the Auto classes and pipelines add to every call, and what would only matter to a model that loads itself.
_OPTIONS_WITHOUT_EFFECT = {
    "_from_auto", "_from_pipeline", "adapter_kwargs", "trust_remote_code", "use_safetensors", "low_cpu_mem_usage",
}  # fmt: skip
_SHARDING = ("auto", "balanced", "balanced_low_0", "sequential")


class SafeForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Answers text, images and audio with a frozen vision-language model and a trained adapter.

    Without audio, and for the rows of a batch without audio, it is the base bit for bit. ``forward`` and ``generate``
    take what the base takes and, from :class:`~safe_train.huggingface.SafeProcessor`, the clips of the rows.

    Attributes:
        safe_model: the model itself, with gate and bypass.
    """

    config: SafeConfig  # type: ignore[assignment]
    config_class = SafeConfig
    base_model_prefix = "vision_language_model"
    main_input_name = "input_ids"
    input_modalities = ("text", "image", "audio")  # type: ignore[assignment]
    output_modalities = ("text",)
    accepts_loss_kwargs = False  # the base computes the loss of a batch as it does without SAFE
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True  # the base's own affair

    def __init__(self, config: SafeConfig, safe_model: SafeModel | None = None) -> None:
        """Takes a model as it is, or loads base and encoders and initializes the trained parts.

        Raises:
            InputError: the base or an encoder cannot be loaded.
        """
        super().__init__(config)
        found = safe_model if safe_model is not None else _assemble(config)
        found.gate = config.gate
        # A tuple hides it from nn.Module: its parts are registered by the names under which they are saved.
        self._safe_model = (found,)
        self.projectors, self.fusions = found.projectors, found.fusions
        if found.lora is not None:
            self.lora = found.lora
        self.audio_encoders = found.encoders
        self.vision_language_model = found.base.model
        self.generation_config = found.base.model.generation_config
        self.all_tied_weights_keys: dict[str, str] = {}
        trained = found.trainable_parameters()
        self._keys_to_ignore_on_save = {name for name in self.state_dict() if name not in trained}
        self.train(False)

    @classmethod
    def from_safe_model(
        cls, model: SafeModel, *, license: str = "unknown", retention: Mapping[str, Any] | None = None
    ) -> SafeForConditionalGeneration:
        """Wraps a model that was trained here; it shares the weights.

        Args:
            model: the model, with its gate as it is to be published.
            license: of the adapter, as the hub writes it.
            retention: figures of its run. They are saved only beside the weights whose digest they name as
                ``weights_sha256``.
        """
        encoders: Any = model.encoders
        config = SafeConfig(
            base_model=model.base.source,
            audio_encoders=[encoder.source for encoder in encoders],
            audio_features=[encoder.features for encoder in encoders],
            audio_seconds=[seconds_of(encoder.window, encoder.sampling_rate) for encoder in encoders],
            audio_windows=most if (most := max(encoder.num_windows for encoder in encoders)) > 1 else None,
            audio_level_db=encoders[0].level_db,
            adapter=_plain(model),
            gate=model.gate,
            license=license,
            retention=retention,
            dtype=model.base.model.dtype,
        )
        return cls(config, model)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        config: SafeConfig | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: str | torch.device | int | Mapping[str, Any] | None = None,
        quantization_config: Any = None,
        attn_implementation: Any = "auto",
        **options: Any,
    ) -> SafeForConditionalGeneration:
        """Loads the base and the encoders from their own sources, then the adapter from a folder or hub id.

        A warning tells where the figures of ``config.json`` were measured on other weights.

        Args:
            pretrained_model_name_or_path: folder or hub id with ``config.json`` and ``model.safetensors``.
            model_args: none.
            config: used in place of ``config.json``.
            dtype: precision of base and encoders; None and ``"auto"`` are the adapter's own.
            device_map: the device of the whole model. It is not sharded: ``"auto"`` and its kin are the first GPU, or
                the CPU where there is none.
            quantization_config: of the base's linear layers, on a GPU.
            attn_implementation: of the base: ``auto``, ``sdpa``, ``eager`` or ``flash_attention_2``.
            options: those of :data:`HUB_OPTIONS`.

        Raises:
            InputError: something is missing, is not that of the configuration, or cannot be fetched.
            TypeError: an option that has no meaning here.
        """
        dtype = options.pop("torch_dtype", None) or dtype
        hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
        unknown = sorted(set(options) - _OPTIONS_WITHOUT_EFFECT)
        if unknown or model_args:
            known = ", ".join((*HUB_OPTIONS, "dtype", "device_map", "quantization_config", "attn_implementation"))
            raise TypeError(f"from_pretrained: expected {known}, got {unknown}")
        device = _one_device(device_map, quantized=quantization_config is not None)
        if config is None:
            config = SafeConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        if isinstance(dtype, str) and dtype != "auto":
            dtype = getattr(torch, dtype)
        if isinstance(dtype, torch.dtype):
            config.dtype = dtype
        base_options = {"attention": attn_implementation, "quantization": quantization_config or "none"}
        model = cls(config, _assemble(config, device, **base_options))
        path = cached_file(pretrained_model_name_or_path, WEIGHTS, **hub)
        assert path is not None  # cached_file raises for what cannot be found
        load_trained_parts(model.safe_model, Path(path))
        if why_stale(config, model.safe_model.trainable_parameters()) == OTHER_WEIGHTS:
            warnings.warn(f"{path}: {OTHER_WEIGHTS}; the figures of config.json are not theirs", stacklevel=2)
        return model

    @property
    def safe_model(self) -> SafeModel:
        """The model without the Hugging Face interface; the same weights."""
        return self._safe_model[0]

    @property
    def processor(self) -> SafeProcessor:
        """The processor of this model."""
        encoders: Any = self.audio_encoders
        return SafeProcessor(self.safe_model.base.processor, [e.extractor for e in encoders], self.config)

    def train(self, mode: bool = True) -> SafeForConditionalGeneration:
        """Sets the mode of the trained parts; base and encoders stay in evaluation mode, as they are frozen."""
        super().train(mode)
        self.vision_language_model.eval()
        self.audio_encoders.eval()
        return self

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        audio_values: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """The base's own output, with the rows' clips attached.

        Args:
            input_ids: int64 [B, T].
            attention_mask: [B, T].
            audio_values: float32 [B, E, S], mono samples of each row's clip at the rate of each of E encoders.
            audio_lengths: int64 [B, E], samples that are the clip's own; 0 for a row without audio.
            labels: int64 [B, T], -100 where no loss is taken; the loss is the base's.
            inputs: whatever else the base takes, such as ``pixel_values``.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels} | inputs
        with self._attach(audio_values, audio_lengths):
            return self.vision_language_model(**self._cast(given))

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        *,
        audio_values: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """What the base's ``generate`` returns, prompt first, with the rows' clips attached at every step.

        Generation settings are the base's own, but an answer also ends where the base's prompts end one.
        """
        if generation_config is None:
            options.setdefault("eos_token_id", stop_tokens(self.safe_model.base))
        with self._attach(audio_values, audio_lengths):
            return self.vision_language_model.generate(inputs, generation_config, **self._cast(options))

    def audio_features(self, audio_values: Tensor, audio_lengths: Tensor) -> list[AudioFeatures]:
        """Features of each encoder; a row without audio has none that can be attended to."""
        waveforms, lengths = audio_values.float().cpu(), audio_lengths.tolist()
        return [
            encoder([row[index, : length[index]] for row, length in zip(waveforms, lengths, strict=True)])
            for index, encoder in enumerate(self.audio_encoders)
        ]

    @contextmanager
    def _attach(self, audio_values: Tensor | None, audio_lengths: Tensor | None) -> Iterator[None]:
        if (audio_values is None) != (audio_lengths is None):
            raise ValueError("expected audio_values and audio_lengths together, got one of them")
        if audio_values is None or audio_lengths is None or not audio_lengths.any():
            with self.safe_model.bypass():
                yield
            return
        with self.safe_model.attached(self.audio_features(audio_values, audio_lengths)):
            yield

    def _cast(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Pixels in the base's precision; the model's own is that of the trained parts."""
        dtype = self.vision_language_model.dtype
        return {
            name: in_precision(value, dtype) if isinstance(value, Tensor) else value for name, value in inputs.items()
        }

    def get_input_embeddings(self) -> nn.Module:
        """The base's."""
        return self.vision_language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The base's."""
        return self.vision_language_model.get_output_embeddings()

    def get_decoder(self) -> nn.Module:
        """The base's."""
        return self.vision_language_model.get_decoder()

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **_options: Any,
    ) -> None:
        """Writes configuration, model card, processor configuration and the trained parts; never the base's weights.

        The figures in ``config.retention`` are written if they were measured on these very weights. Otherwise card and
        configuration say that the weights have not been evaluated.

        Args:
            save_directory: the folder; other files in it stay.
            is_main_process: only the main process of several writes.
            state_dict: taken in place of the model's own tensors.
            push_to_hub: also upload the folder.
            repo_id: where to, and the name in the card; by default a repository named after the folder.
            _options: sharding and the like, which an adapter of a few MB has no use for.
        """
        if is_main_process:
            source = self.safe_model.trainable_parameters() if state_dict is None else state_dict
            tensors = {name: source[name].detach() for name in self.safe_model.trainable_parameters()}
            self.config.adapter, self.config.gate = _plain(self.safe_model), self.safe_model.gate
            self.config.architectures = [type(self).__name__]
            write_adapter(Path(save_directory), self.config, tensors, repo_id)
        if push_to_hub:
            self.push_to_hub(repo_id or Path(save_directory).name)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload SAFE adapter",
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Uploads what ``save_pretrained`` writes, and returns the address of the commit.

        The inherited method would put a blank model card in the place of the one with the retention results.
        """
        api = HfApi(token=token)
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, repo_id=repository)
            return api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=commit_message,
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )


def load_trained_parts(model: SafeModel, path: Path) -> None:
    """Puts stored tensors into the trained parts.

    Raises:
        InputError: they are not those of the model's configuration.
    """
    with as_input_error(path, "whole safetensors", "fetch the file again"):
        stored = load_file(path)
    own = model.trainable_parameters()
    shapes = {name: tuple(parameter.shape) for name, parameter in own.items()}
    found = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    if shapes != found:
        differing = min(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        got = f"{differing}: {found.get(differing, 'none')} in place of {shapes.get(differing, 'none')}"
        raise InputError(path, "the trained parts of config.json", got, "fetch both files of one revision")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(stored[name])


def _plain(model: SafeModel) -> dict[str, Any]:
    """The adapter's shape as JSON has it."""
    return json.loads(json.dumps(dataclasses.asdict(model.config)))


def _one_device(device_map: Any, *, quantized: bool) -> torch.device:
    """The device that a device map stands for.

    Raises:
        InputError: it names several.
    """
    if isinstance(device_map, Mapping):
        if len(set(device_map.values())) != 1:
            raise InputError("device_map", "one device: the base is not sharded", str(device_map), "name one, or auto")
        (device_map,) = set(device_map.values())
    if device_map in _SHARDING or (device_map is None and quantized):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device("cpu" if device_map is None else device_map)


def _assemble(config: SafeConfig, device: torch.device | str = "cpu", **base_options: Any) -> SafeModel:
    dtype = config.base_dtype
    base = load_base(config.base_folder, dtype=dtype, device=device, **base_options)
    options = config.audio_options
    encoders = [
        load_audio_encoder(source, dtype=dtype, device=device, **given)
        for source, given in zip(config.audio_encoders, options, strict=True)
    ]
    return SafeModel(base, encoders, config.adapter_config)
