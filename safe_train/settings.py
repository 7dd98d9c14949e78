"""What the sections of the configuration have in common; each section stands in its owner's ``settings.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A part of the configuration: immutable, and an unknown key is an error.

    What a setting or its value was called in earlier versions is read as well, so that old files go on working; what
    is written has today's names.

    Attributes:
        earlier_names: today's name by the earlier one.
        earlier_values: of a setting, by today's name, today's value by the earlier one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    earlier_names: ClassVar[Mapping[str, str]] = {}
    earlier_values: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    @classmethod
    def renamed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values by today's names.

        Raises:
            ValueError: a setting is given by both of its names.
        """
        found: dict[str, Any] = {}
        for given, value in values.items():
            name = cls.earlier_names.get(given, given)
            if name in found or (name != given and name in values):
                earlier = next(old for old, new in cls.earlier_names.items() if new == name)
                raise ValueError(f"one of {name} and its earlier name {earlier}")
            meaning = cls.earlier_values.get(name, {})
            found[name] = meaning.get(value, value) if isinstance(value, str) else value
        return found

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_names(cls, values: Any) -> Any:
        return cls.renamed(values) if isinstance(values, Mapping) else values
