"""Reads the TOML files that users write, and names every fault of a file at once.

A file's shape is a tree of `Table`s. A field's `description` is the phrase that follows "allowed:" when its
value is refused, so each table documents itself and its faults in the same words.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import InputError

_LONGEST_VALUE = 60


class Table(BaseModel):
    """One TOML table: exact types, no unknown keys, never changed after reading."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def contradictions(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        """Say what is wrong between keys, as "key: found …; allowed: …"; `raw` has not been checked."""
        del raw
        yield from ()


T = TypeVar("T", bound=Table)


def read_toml(path: Path, error: type[InputError]) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        error: the file cannot be read, is not UTF-8 or is not TOML (with the line).
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise error(f"{path}: cannot be read: {fault.strerror or fault}") from fault
    except UnicodeDecodeError as fault:
        raise error(f"{path}: not a text file in UTF-8") from fault
    except tomllib.TOMLDecodeError as fault:
        raise error(f"{path}: not valid TOML: {fault}", hint="strings need quotes") from fault


def check(raw: Mapping[str, Any], table: type[T], where: str, error: type[InputError]) -> T:
    """Return `raw` as a checked `table`.

    Raises:
        error: one line for each fault, "where: key.path: found …; allowed: …".
    """
    faults: list[str] = []
    checked: T | None = None
    try:
        checked = table.model_validate(raw)
    except ValidationError as fault:
        faults = [_sentence(table, details) for details in fault.errors(include_url=False)]
    faults += _contradictions(table, raw)
    if checked is None or faults:
        raise error("\n".join(f"{where}: {line}" for line in dict.fromkeys(faults)))
    return checked


def show(value: object) -> str:
    """Return a found value the way it looks in a TOML file, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def closest(name: str, known: Iterable[str]) -> str:
    """Return 'did you mean "x"? ' for the nearest of the known names, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"? ' if near else ""


def _contradictions(table: type[Table], raw: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    yield from (prefix + line for line in table.contradictions(raw))
    for name in table.model_fields:
        inner, below = _table_of(table, name), raw.get(name)
        if inner is not None and isinstance(below, Mapping):
            yield from _contradictions(inner, below, f"{prefix}{name}.")


def _sentence(table: type[Table], details: ErrorDetails) -> str:
    path = _dotted(details["loc"])
    owner, name = _owner(table, details["loc"])
    if details["type"] == "extra_forbidden":
        known = tuple(owner.model_fields)
        return f"{path}: unknown key; {closest(name, known)}allowed: {', '.join(known)}"
    allowed = _allowed(owner, name, details)
    if details["type"] == "missing":
        return f"{path}: missing; needed: {allowed}"
    return f"{path}: found {show(details['input'])}; allowed: {allowed}"


def _allowed(owner: type[Table], name: str, details: ErrorDetails) -> str:
    field = owner.model_fields.get(name)
    if field is not None and field.description:
        return field.description
    inner = _table_of(owner, name)
    return f"a table [{name}]" if inner is not None else details["msg"]


def _owner(table: type[Table], loc: tuple[int | str, ...]) -> tuple[type[Table], str]:
    """Return the table that holds the key at `loc`, and the key's name in it."""
    name = str(loc[0]) if loc else ""
    inner = _table_of(table, name)
    if inner is None or len(loc) < 2:
        return table, name
    return _owner(inner, loc[1:])


def _table_of(table: type[Table], name: str) -> type[Table] | None:
    """Return the type of a nested table, whether it may be left out (`Inner | None`) or not."""
    field = table.model_fields.get(name)
    if field is None:
        return None
    options = [field.annotation, *getattr(field.annotation, "__args__", ())]
    return next((kind for kind in options if isinstance(kind, type) and issubclass(kind, Table)), None)


def _dotted(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")
