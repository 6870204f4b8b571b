"""Whether tables read from TOML have the shape of the models, key by key, so that all that is wrong comes out at once.

Types, bounds and units are judged here, one value at a time; what several keys mean together is for ``rules``.
A value is quoted in a message only where the key tells that it can't be a secret.
"""

import re
from collections.abc import Callable
from datetime import date, datetime, time
from difflib import get_close_matches
from functools import lru_cache
from math import isfinite
from typing import TypeVar

import msgspec
from msgspec import NODEFAULT, inspect

from aura_agent.config.lines import Path
from aura_agent.config.models import (
    MAX_DURATION_S,
    AgentSettings,
    ApiSettings,
    AttachSettings,
    Job,
    JobDefaults,
    JobGroup,
    StatusSettings,
)
from aura_agent.units import parse_duration_s, parse_size_bytes

Complain = Callable[[Path, str], None]
Model = TypeVar("Model", bound=msgspec.Struct)

_SHOWN_CHARS = 60
_SECRET = re.compile(r"aura_[a-z]+_\w+|\w+://\w\S*", re.ASCII)
# What people call things elsewhere.
_ALIASES = {
    "args": "command",
    "cmd": "command",
    "cron": "schedule",
    "directory": "cwd",
    "environment": "env",
    "grace": "stop_grace",
    "interval": "every",
    "period": "every",
    "retry": "retries",
    "socket_path": "socket",
    "token": "token_file",
    "tz": "timezone",
    "url": "base_url",
    "working_dir": "cwd",
    "workdir": "cwd",
}
_WRONG = object()


@lru_cache
def fields_of(model: type[msgspec.Struct]) -> dict[str, inspect.Field]:
    """Return the keys of the table that *model* describes."""
    described = inspect.type_info(model)
    assert isinstance(described, inspect.StructType)
    return {field.encode_name: field for field in described.fields}


def read_table(model: type[msgspec.Struct], raw: object, path: Path, complain: Complain) -> dict[str, object]:
    """Return the values of *raw*, converted, for each key that *model* has and *raw* says rightly."""
    if not isinstance(raw, dict):
        complain(path, f"expected a table, got {_kind(raw)}; {_how_to_write_table(path)}")
        return {}
    fields, values = fields_of(model), {}
    for key, value in raw.items():
        if key not in fields:
            complain((*path, key), _unknown(model, key))
            continue
        read = _read(fields[key].type, value, (*path, key), complain)
        if read is not _WRONG:
            values[key] = read
    return values


def finish(model: type[Model], values: dict[str, object], path: Path, complain: Complain) -> Model | None:
    """Return the model with these *values*, defaults for the rest; None, with a complaint each, if some are missing."""
    missing = [
        key
        for key, field in fields_of(model).items()
        if key not in values and field.default is NODEFAULT and field.default_factory is NODEFAULT
    ]
    for key in missing:
        complain(path, f"{key} is missing; add it")
    return None if missing else model(**values)


def nearest(key: str, known: "list[str] | dict[str, inspect.Field]") -> str | None:
    """Return which of *known* was most likely meant by *key*."""
    plain = key.lower().replace("-", "_").replace(" ", "_")
    if plain in known:
        return plain
    if _ALIASES.get(plain, "") in known:
        return _ALIASES[plain]
    near = get_close_matches(plain, known, 1, 0.6)
    return near[0] if near else None


def hide_secrets(text: str) -> str:
    """Return *text* without anything that looks like a token or a URL."""
    return _SECRET.sub("…", text)


def quoted(value: str) -> str:
    """Return *value* for a message, short and printable. Secrets in it are hidden with those of the whole message."""
    shown = value if len(value) <= _SHOWN_CHARS else value[: _SHOWN_CHARS - 1] + "…"
    return f'"{shown}"' if shown.isprintable() else ascii(shown)


def _unknown(model: type[msgspec.Struct], key: str) -> str:
    fields = fields_of(model)
    home = _home_of(key)
    if home is not None:
        return f"unknown key here; it belongs in {home}"
    near = nearest(key, fields)
    if near is not None:
        return f'unknown key; did you mean "{near}"?'
    if len(fields) <= 8:
        return f"unknown key; there are {', '.join(fields)}"
    return "unknown key; see config.example.toml for those that there are"


def _home_of(key: str) -> str | None:
    """Return the table that does have *key*."""
    homes: dict[str, type[msgspec.Struct]] = {
        "[api]": ApiSettings,
        "[agent]": AgentSettings,
        "[status]": StatusSettings,
        "[attach]": AttachSettings,
        "[jobs.NAME] or [defaults]": JobDefaults,
        "[jobs.NAME]": Job,
        "[job_groups.NAME]": JobGroup,
    }
    return next((home for home, model in homes.items() if key in fields_of(model)), None)


def _read(expected: inspect.Type, value: object, path: Path, complain: Complain) -> object:
    """Return *value* as the type says, or _WRONG after a complaint."""
    written, expected = _unwrap(expected)
    if isinstance(expected, inspect.UnionType):
        return _read_one_of(expected, value, path, complain)
    if isinstance(expected, inspect.StructType):
        before = _Counting(complain)
        values = read_table(expected.cls, value, path, before)
        # A part that is wrong may be the one that would be missing: say it once.
        model = finish(expected.cls, values, path, (lambda _path, _text: None) if before.count else complain)
        return _WRONG if model is None else model
    if isinstance(expected, (inspect.ListType, inspect.VarTupleType)):
        return _read_list(expected, value, path, complain)
    if isinstance(expected, inspect.DictType):
        return _read_strings(value, path, complain)
    problem, converted = _scalar(written, expected, value)
    if problem:
        complain(path, problem)
        return _WRONG
    return converted


def _read_one_of(union: inspect.UnionType, value: object, path: Path, complain: Complain) -> object:
    choices = [choice for choice in union.types if not isinstance(_unwrap(choice)[1], inspect.NoneType)]
    for choice in choices:
        written, plain = _unwrap(choice)
        if isinstance(plain, inspect.LiteralType) and value in plain.values:
            return value
        if isinstance(plain, (inspect.ListType, inspect.VarTupleType)) and isinstance(value, list):
            return _read(choice, value, path, complain)
    first = choices[0]
    if len(choices) == 1:
        return _read(first, value, path, complain)
    written, plain = _unwrap(first)
    problem, converted = _scalar(written, plain, value)
    if problem:
        others = " or ".join(_other(_unwrap(choice)[1]) for choice in choices[1:])
        complain(path, f"{problem}; or {others}")
        return _WRONG
    return converted


def _other(plain: inspect.Type) -> str:
    if isinstance(plain, inspect.LiteralType):
        return " or ".join(f'"{value}"' for value in plain.values)
    return "a list of strings"


def _read_list(
    expected: inspect.ListType | inspect.VarTupleType, value: object, path: Path, complain: Complain
) -> object:
    items = "numbers" if isinstance(_unwrap(expected.item_type)[1], inspect.IntType) else "strings"
    if not isinstance(value, list):
        example = "[0, 3]" if items == "numbers" else '["…", "…"]'
        instead = "; or use shell for a line of shell" if path[-1] == "command" and isinstance(value, str) else ""
        complain(path, f"expected a list of {items}, got {_kind(value)}; write {path[-1]} = {example}{instead}")
        return _WRONG
    if expected.min_length and len(value) < expected.min_length:
        complain(path, f"an empty list; write at least one of the {items}")
        return _WRONG
    read = [_read(expected.item_type, item, (*path, index), complain) for index, item in enumerate(value)]
    if any(item is _WRONG for item in read):
        return _WRONG
    return tuple(read) if isinstance(expected, inspect.VarTupleType) else read


def _read_strings(value: object, path: Path, complain: Complain) -> object:
    """Read a table of strings, such as env."""
    if not isinstance(value, dict):
        complain(path, f'expected a table of strings, got {_kind(value)}; write {path[-1]} = {{ NAME = "…" }}')
        return _WRONG
    wrong = False
    for key, item in value.items():
        problem, _ = _scalar("", inspect.StrType(), item)
        if problem:
            complain((*path, key), problem)
            wrong = True
    return _WRONG if wrong else dict(value)


def _scalar(written: str, expected: inspect.Type, value: object) -> tuple[str, object]:
    """Return what is wrong with a single value (empty: nothing), and the value converted."""
    if written == "duration":
        return _duration(value)
    if written == "size":
        return _size(value)
    if isinstance(expected, inspect.LiteralType):
        return _choice(expected, value), value
    if isinstance(expected, inspect.BoolType):
        return ("" if isinstance(value, bool) else f"expected true or false, got {_kind(value)}; no quotes"), value
    if isinstance(expected, inspect.IntType):
        return _number(expected, value), value
    assert isinstance(expected, inspect.StrType), expected
    return _text(expected, value), value


def _duration(value: object) -> tuple[str, object]:
    if _is_number(value):
        return f'{value} has no unit; write "{value}s", "{value}m" or "{value}h"', None
    if not isinstance(value, str):
        return f'expected a duration, got {_kind(value)}; write one such as "90s", "15m", "2h30m", "1d"', None
    try:
        seconds = parse_duration_s(value)
    except ValueError:
        hint = 'write a number with a unit, such as "90s", "15m", "2h30m", "1d"'
        return f"{quoted(value)} is not a duration; {hint}", None
    if seconds > MAX_DURATION_S:
        return f"{quoted(value)} is more than ten years; write a shorter duration", None
    return "", seconds


def _size(value: object) -> tuple[str, object]:
    if _is_number(value):
        return f'{value} has no unit; write "{value}B", "{value}kB" or "{value}MB"', None
    if not isinstance(value, str):
        return f'expected a size, got {_kind(value)}; write one such as "512B", "10kB", "1MiB"', None
    try:
        return "", parse_size_bytes(value)
    except (ValueError, OverflowError):
        return f'{quoted(value)} is not a size; write a number with a unit, such as "512B", "10kB", "1MiB"', None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _choice(expected: inspect.LiteralType, value: object) -> str:
    choices = [str(choice) for choice in expected.values]
    listed = ", ".join(f'"{choice}"' for choice in choices)
    if not isinstance(value, str):
        return f"expected a string, got {_kind(value)}; write one of {listed}"
    if value in choices:
        return ""
    near = get_close_matches(value.lower(), choices, 1, 0.6)
    return f"{quoted(value)} is not among {listed}" + (
        f'; did you mean "{near[0]}"?' if near else "; write one of them"
    )


def _number(expected: inspect.IntType, value: object) -> str:
    low, high = expected.ge, expected.le
    bounds = f"a whole number from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        return f"expected {bounds}, got {_kind(value)}" + ("; no quotes" if isinstance(value, str) else "")
    if (low is not None and value < low) or (high is not None and value > high):
        return f"{value} is out of range; write {bounds}"
    return ""


def _text(expected: inspect.StrType, value: object) -> str:
    if not isinstance(value, str):
        return f"expected a string, got {_kind(value)}; put it in quotes"
    if "\0" in value:
        return "a string with a NUL character; leave it out"
    if expected.min_length and not value.strip():
        return "an empty string; write something, or leave the key out"
    if expected.pattern is not None and re.fullmatch(expected.pattern, value) is None:
        return f'{quoted(value)} is not an octal mask; write one such as "0022"'
    return ""


def _unwrap(expected: inspect.Type) -> tuple[str, inspect.Type]:
    """Return how the value is written (a format such as "duration", or nothing), and the type without its notes."""
    written = ""
    while isinstance(expected, inspect.Metadata):
        written = (expected.extra_json_schema or {}).get("format", written)
        expected = expected.type
    return written, expected


def _how_to_write_table(path: Path) -> str:
    if len(path) == 1:
        return f"write [{path[0]}]"
    if path[0] == "jobs" and len(path) == 2:
        return "write [jobs.NAME]"
    return f"write {path[-1]} = {{ KEY = … }}"


def _kind(value: object) -> str:
    """Return what *value* is, in TOML's words."""
    if isinstance(value, bool):
        return "a boolean"
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (str, "a string"),
        (int, "an integer"),
        (float, "a float"),
        (list, "an array"),
        (dict, "a table"),
        ((datetime, date, time), "a date or time"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


class _Counting:
    """Passes complaints on and counts them."""

    def __init__(self, complain: Complain) -> None:
        self._complain = complain
        self.count = 0

    def __call__(self, path: Path, text: str) -> None:
        self.count += 1
        self._complain(path, text)
