"""The API's objects on the command line: as a table, as JSON, and read from a file.

Programs see the API's own names, whatever we call a field; a secret among them is never shown.
"""

import json
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from typing import get_args

import msgspec

from aura_agent.cli.settings import local, print_json, print_table
from aura_agent.errors import ConfigError, Problem
from aura_agent.secret import Secret
from aura_agent.units import format_duration, format_size

_MAX_FILE_BYTES = 1024 * 1024
_STDIN = "-"


def print_objects(things: Sequence[msgspec.Struct], columns: Mapping[str, str], *, as_json: bool, empty: str) -> None:
    """Print a listing; *columns* maps a title to the field below it."""
    if as_json:
        print_json([_plain(thing) for thing in things])
        return
    rows = [[_cell(field, getattr(thing, field)) for field in columns.values()] for thing in things]
    print_table(list(columns), rows, empty=empty)


def print_object(thing: msgspec.Struct, *, as_json: bool) -> None:
    """Print one object, field by field."""
    if as_json:
        print_json(_plain(thing))
        return
    rows = [[field.encode_name, _cell(field.name, getattr(thing, field.name))] for field in _shown(thing)]
    print_table(["field", "value"], rows, empty="")


def read_fields(path: str | None, shape: type[msgspec.Struct]) -> tuple[dict[str, object], dict[str, object]]:
    """Return what *path* says of an object: fields of *shape* under our names, and those that *shape* doesn't have.

    The file is JSON or TOML and names fields as the API does; ``-`` is standard input, None says nothing. Raises
    ConfigError with every field of a wrong type.
    """
    document = {} if path is None else _read(path)
    known: dict[str, object] = {}
    problems: list[Problem] = []
    for field in msgspec.structs.fields(shape):
        if field.encode_name not in document:
            continue
        try:
            known[field.name] = msgspec.convert(document.pop(field.encode_name), field.type)
        except msgspec.ValidationError as exc:
            text = str(exc).replace("`float`", "`number`")
            if field.name.endswith("_s"):
                text += "; lengths are in seconds here"
            problems.append(Problem(text, file=_name(path), key=field.encode_name))
    if problems:
        raise ConfigError(problems)
    return known, document


def _read(path: str) -> dict[str, object]:
    """Return the table or object that *path* holds. Raises ConfigError."""
    try:
        if path == _STDIN:
            content = sys.stdin.buffer.read(_MAX_FILE_BYTES + 1)
        else:
            with open(path, "rb") as file:
                content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise _unreadable(path, f"can't be read: {exc.strerror}") from exc
    if len(content) > _MAX_FILE_BYTES:
        raise _unreadable(path, f"is larger than {format_size(_MAX_FILE_BYTES)}: not one object of the API")
    try:
        document = _parse(content.decode("utf-8-sig"), os.path.splitext(path)[1].lower())
        # What JSON has no word for is told here; a date of TOML is text there.
        document = json.loads(json.dumps(document, allow_nan=False, default=_stamped))
    except UnicodeDecodeError as exc:
        raise _unreadable(path, "is not UTF-8 text") from exc
    except tomllib.TOMLDecodeError as exc:
        raise _unreadable(path, f"is not valid TOML: {exc}") from exc
    except json.JSONDecodeError as exc:
        raise _unreadable(path, f"is not valid JSON: {exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise _unreadable(path, "holds what JSON doesn't have: NaN, an infinity, or depth without end") from exc
    if not isinstance(document, dict):
        raise _unreadable(path, "must hold one object, {…}, with the API's fields")
    return document


def _parse(text: str, extension: str) -> object:
    """Read JSON or TOML: what the extension says, else JSON if it begins with a brace, which TOML never does."""
    if extension == ".toml" or (extension != ".json" and not text.lstrip().startswith("{")):
        return tomllib.loads(text)
    return json.loads(text)


def _stamped(at: date | time) -> str:
    return at.isoformat()


def _unreadable(path: str, why: str) -> ConfigError:
    return ConfigError([Problem(why, file=_name(path))])


def _name(path: str | None) -> str:
    return "standard input" if path == _STDIN else path or ""


def _plain(thing: msgspec.Struct) -> dict[str, object]:
    """Return *thing* for JSON: every field, null where there is nothing; whole numbers without a point."""
    plain: dict[str, object] = {}
    for field in _shown(thing):
        value = getattr(thing, field.name)
        plain[field.encode_name] = int(value) if isinstance(value, float) and value.is_integer() else value
    return plain


def _shown(thing: msgspec.Struct) -> list[msgspec.structs.FieldInfo]:
    return [field for field in msgspec.structs.fields(thing) if Secret not in get_args(field.type)]


def _cell(name: str, value: object) -> str:
    """Return a field's *value* for people."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return local(value)
    if isinstance(value, float):
        return f"{value:g} ms" if name.endswith("_ms") else format_duration(value)
    return str(value)
