"""The inverse of :func:`dataclasses.asdict`: typed records from plain JSON values, or an error that names the field."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")

_NUMBERS = (int, float)


def from_plain(kind: type[Record], value: Any, where: str = "") -> Record:
    """A ``kind`` from plain values; nested dataclasses, lists, dictionaries and ``None`` where the type allows it.

    Tuples are of one type and any length, and come from lists.

    Args:
        kind: a dataclass or a type that its fields have.
        value: what JSON gave.
        where: the place, for the error.

    Raises:
        ValueError: a field without a default is missing, a field is unknown, or a value is not of its type.
    """
    if kind is Any:
        return value
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        rest = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else from_plain(rest[0], value, where)  # type: ignore[return-value]
    if is_dataclass(kind):
        return _record(kind, value, where)
    if origin is dict:
        _require(isinstance(value, dict), where, "an object", value)
        return {key: from_plain(arguments[1], item, f"{where}.{key}") for key, item in value.items()}  # type: ignore[return-value]
    if origin is list:
        _require(isinstance(value, list), where, "a list", value)
        return [from_plain(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value)]  # type: ignore[return-value]
    if origin is tuple:
        _require(isinstance(value, list), where, "a list", value)
        return tuple(from_plain(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))  # type: ignore[return-value]
    accepted = _NUMBERS if kind is float else (kind,)
    is_number_for_flag = isinstance(value, bool) and kind is not bool
    _require(isinstance(value, accepted) and not is_number_for_flag, where, kind.__name__, value)
    return value  # type: ignore[return-value]


def _record(kind: type[Record], value: Any, where: str) -> Record:
    _require(isinstance(value, dict), where, "an object", value)
    known = {
        field.name: field.default is MISSING and field.default_factory is MISSING
        for field in fields(kind)  # type: ignore[arg-type]
    }
    missing = [name for name, required in known.items() if required and name not in value]
    unknown = [name for name in value if name not in known]
    if missing or unknown:
        odd = f"no {missing[0]!r}" if missing else f"an unknown {unknown[0]!r}"
        raise ValueError(f"{where.lstrip('.') or kind.__name__}: {odd}")
    hints = get_type_hints(kind)
    return kind(**{name: from_plain(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _require(holds: bool, where: str, expected: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{where.lstrip('.')}: not {expected} but {type(value).__name__}")
