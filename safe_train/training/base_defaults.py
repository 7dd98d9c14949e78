"""Defaults that are derived from the base: sizes, learning rates and precision."""

from __future__ import annotations

import logging
from typing import Any

from safe_train.config import StageAConfig
from safe_train.configs.model_configs import EMBEDDED, get_model_config, sizes_for
from safe_train.embedded import weights
from safe_train.model.folders import as_input_error, check_folder, read_model_config
from safe_train.model.sources import base_source, located

logger = logging.getLogger(__name__)

TUNED_WIDTH = 128
"""Width of the base that the default learning rates were tuned on, the embedded one."""


def follow_base(config: StageAConfig, device_type: str) -> StageAConfig:
    """Fills settings that were not given with values that fit the base, and logs them.

    The defaults are those of the embedded base. Another base is commonly fifty times as wide, and they do not fit it:

    - the sizes of the trained parts become those of ``sizes_for``, unless a model configuration was named;
    - the learning rates become ``default * min(1, TUNED_WIDTH / width)``: the best one of Adam falls in proportion to
      the width (Yang et al. 2022, arXiv:2203.03466, section 4);
    - the precision becomes bf16 on a GPU.

    A model configuration that was named may have defaults of its own, which come first.

    Values set here count as given afterwards, so that a resumed run continues unchanged.

    Args:
        config: of a run.
        device_type: ``cuda`` or ``cpu``.

    Raises:
        InputError: the base's configuration cannot be read, or the model configuration's folders are not there.
    """
    config = _with_named_defaults(config) if get_model_config(config.model.config).defaults else config
    source = base_source(config.model)
    if source in (EMBEDDED, str(weights.base_folder())):
        return config
    decoder = _decoder_config(source)
    width = decoder.hidden_size
    found = {
        "model": _sizes(config, width, decoder.num_hidden_layers),
        "optimization": _rates(config, width),
        "": {"precision": "bf16"} if device_type == "cuda" and "precision" not in config.model_fields_set else {},
    }
    settings = [
        f"{section}.{name}={value:g}".lstrip(".")
        if isinstance(value, float)
        else f"{section}.{name}={value}".lstrip(".")
        for section, values in found.items()
        for name, value in values.items()
    ]
    if settings:
        logger.info("not given, so it follows from the base, which is %d wide: %s", width, ", ".join(settings))
    _warn_of_embedded_encoder(config)
    top = found.pop("")
    sections = {name: getattr(config, name).model_copy(update=values) for name, values in found.items()}
    return config.model_copy(update=sections | top)


def _with_named_defaults(config: StageAConfig) -> StageAConfig:
    """The defaults of the model configuration in place of the general ones, where nothing is given."""
    sections: dict[str, dict[str, Any]] = {}
    for dotted, value in get_model_config(config.model.config).defaults.items():
        section, _, name = dotted.rpartition(".")
        given = (getattr(config, section) if section else config).model_fields_set
        if name not in given:
            text = located(value, config.model.config) if isinstance(value, str) else value
            sections.setdefault(section, {})[name] = text
    top = sections.pop("", {})
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections.items()} | top
    )


def _decoder_config(source: str) -> Any:
    """Of the base; its weights are not read."""
    check_folder(source, "the vision-language model", with_weights=False)
    with as_input_error(source, "an image-text-to-text model with a config.json", "name a local folder, or a hub id"):
        return read_model_config(source).get_text_config(decoder=True)


def _sizes(config: StageAConfig, width: int, num_layers: int) -> dict[str, int]:
    if "config" in config.model.model_fields_set:
        return {}
    return {name: size for name, size in sizes_for(width, num_layers).items() if getattr(config.model, name) is None}


def _rates(config: StageAConfig, width: int) -> dict[str, float]:
    given, rates = config.optimization.model_fields_set, ("lr_projector", "lr_adapter")
    factor = min(1.0, TUNED_WIDTH / width)
    return {name: factor * getattr(config.optimization, name) for name in rates if name not in given}


def _warn_of_embedded_encoder(config: StageAConfig) -> None:
    if config.model.audio_encoders is None and get_model_config(config.model.config).audio_encoders == (EMBEDDED,):
        logger.warning("the embedded audio encoder knows procedural sounds alone; name another with --audio-encoder")
