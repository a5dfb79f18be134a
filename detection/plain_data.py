"""Frozen dataclasses as plain data, for JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


def from_plain(cls: type[T], given: Any, where: str) -> T:
    """A dataclass, and those in it, of plain data as `dataclasses.asdict` and JSON give it.

    Args:
        cls: a dataclass; fields that are dataclasses themselves are annotated as such.
        given: a mapping; what is left out keeps its default.
        where: named in errors.
    Raises:
        ValueError: a key that is not known, with those that are; one that is missing; a value that does not do.
    """
    assert is_dataclass(cls)
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: expected a mapping, got {given!r}")
    known = {each.name for each in fields(cls)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"{where}: expected keys among {', '.join(sorted(known))}, got {', '.join(unknown)}")
    hints = get_type_hints(cls)
    values = {}
    for name, value in given.items():
        if is_dataclass(hints[name]):
            value = from_plain(hints[name], value, f"{where}.{name}")
        values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def merged(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data with some values changed, also in mappings within.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    result = dict(given)
    for name, value in changes.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
