"""The part of lmms-eval that a model of another package meets, in place of lmms-eval itself where it is not installed.

Read from lmms-eval 0.7.3: the abstract base class ``lmms_eval.api.model.lmms``, ``ModelManifest`` and the checks of
``ModelRegistryV2.get_model_class`` in ``lmms_eval.models.registry_v2``, and the arguments of ``Instance``. Where
lmms-eval can be imported, the tests run against its own classes.
"""

from __future__ import annotations

import abc
import importlib
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any


class CacheHook:
    """Keeps answers as they come."""

    def __init__(self, _cachinglm: Any) -> None:
        self.kept: list[tuple[str, Any, str]] = []

    def add_partial(self, attr: str, req: Any, res: str) -> None:
        self.kept.append((attr, req, res))


class lmms(abc.ABC):
    """The base class of models."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.cache_hook = CacheHook(None)
        self.task_dict: dict[str, Any] = {}

    @abc.abstractmethod
    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]: ...

    @abc.abstractmethod
    def generate_until(self, requests: list[Any]) -> list[str]: ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests: list[Any]) -> list[str]: ...

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Any:
        given = dict(pair.split("=", 1) for pair in arg_string.split(","))
        return cls(**given, **{key: value for key, value in (additional_config or {}).items() if value is not None})


@dataclass(frozen=True)
class ModelManifest:
    """Where the classes of a model are."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


class ModelRegistryV2:
    """Finds the class of a model."""

    def __init__(self) -> None:
        self.manifests: dict[str, ModelManifest] = {}

    def register_manifest(self, manifest: ModelManifest) -> None:
        self.manifests |= dict.fromkeys((manifest.model_id, *manifest.aliases), manifest)

    def get_model_class(self, model_name: str, force_simple: bool = False) -> type:
        manifest = self.manifests[model_name]
        simple = manifest.chat_class_path is None or (force_simple and manifest.simple_class_path is not None)
        path = manifest.simple_class_path if simple else manifest.chat_class_path
        assert path is not None
        module, name = path.rsplit(".", 1)
        found = getattr(importlib.import_module(module), name)
        if not issubclass(found, sys.modules["lmms_eval.api.model"].lmms) or found.is_simple != simple:
            raise TypeError(path)
        return found


def modules() -> dict[str, ModuleType]:
    """The modules by name, for ``sys.modules``."""
    contents = {
        "lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.models": {}, "lmms_eval.api.model": {"lmms": lmms},
        "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest, "ModelRegistryV2": ModelRegistryV2},
    }  # fmt: skip
    made = {name: ModuleType(name) for name in contents}
    for name, module in made.items():
        vars(module).update(contents[name])
    return made
