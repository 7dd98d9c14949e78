"""Where a run's base and audio encoders come from: its settings, or the model configuration that it names."""

from __future__ import annotations

from safe_train.configs.model_configs import CACHE_PREFIX, get_model_config
from safe_train.errors import InputError
from safe_train.io.cache import cache_root
from safe_train.model.settings import ModelSettings


def base_source(settings: ModelSettings) -> str:
    """Hub id or folder of the base, or ``"embedded"``.

    Raises:
        InputError: the configuration's folder has not been made on this machine.
    """
    return settings.base_model or located(get_model_config(settings.config).base_model, settings.config)


def encoder_sources(settings: ModelSettings) -> tuple[str, ...]:
    """The same of each audio encoder."""
    if settings.audio_encoders:
        return settings.audio_encoders
    return tuple(located(source, settings.config) for source in get_model_config(settings.config).audio_encoders)


def located(source: str, name: str) -> str:
    """A source of a model configuration as it is, or the path of its folder in the cache.

    Args:
        source: of the configuration.
        name: of the configuration.

    Raises:
        InputError: the folder has not been made on this machine.
    """
    if not source.startswith(CACHE_PREFIX):
        return source
    folder = cache_root() / source.removeprefix(CACHE_PREFIX)
    if not folder.is_dir():
        hint = f"run `{get_model_config(name).made_by}` in a checkout of this project"
        raise InputError(folder, f"a folder of the model configuration {name!r}", "no such folder", hint)
    return str(folder)
