"""The seed file: tokens and heartbeats that exist from the start.

    [[tokens]]
    token = "aura_dev_for_ci"           # at least 16 characters
    scope = "read"                      # or "write" (default)
    label = "CI"

    [[heartbeats]]
    name = "nightly-backup"
    expected_interval = "1d"            # or seconds, as in the API
    grace_period = "30m"
    id = "11111111-1111-4111-8111-111111111111"

Planting twice changes nothing: a heartbeat is known by its id, or without one by its name.
"""

import os
import re
import sqlite3
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import msgspec

from aura_agent.devserver.routes.heartbeats import GraceS, IntervalS, Name
from aura_agent.devserver.tables import heartbeats, tokens
from aura_agent.devserver.tables.tokens import Scope
from aura_agent.errors import ConfigError, Problem
from aura_agent.units import parse_duration_s

T = TypeVar("T")

_LENGTHS = ("expected_interval", "grace_period")


class SeedToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token with a value that is known beforehand."""

    token: Annotated[str, msgspec.Meta(min_length=16, max_length=200, pattern=r"^[\x21-\x7e]+$")]
    scope: Scope = "write"
    label: str = "seed"


class SeedHeartbeat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A heartbeat; lengths in seconds."""

    name: Name
    expected_interval: IntervalS = 3600
    grace_period: GraceS = 300
    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,100}$")] | None = None


@dataclass(frozen=True, slots=True)
class Seed:
    """What to plant."""

    tokens: list[SeedToken]
    heartbeats: list[SeedHeartbeat]


def load_seed(path: str) -> Seed:
    """Read the seed in *path*. Raises ConfigError with every problem of it."""
    try:
        with open(path, "rb") as file:
            text = file.read().decode()
        document = tomllib.loads(text)
    except OSError as exc:
        raise ConfigError([Problem(f"can't be read: {exc.strerror}", file=path)]) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError([Problem("is not UTF-8 text", file=path)]) from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError([Problem(f"is not valid TOML: {exc}", file=path)]) from exc
    return _Reader(path, text).read(document)


def plant(db: sqlite3.Connection, organization_id: str, seed: Seed, now_us: int) -> None:
    """Put *seed* into the organization."""
    for token in seed.tokens:
        tokens.put(db, organization_id, token.token, label=token.label, scope=token.scope, now_us=now_us)
    for wanted in seed.heartbeats:
        known = [
            row
            for row in heartbeats.find_by_id_or_name(db, wanted.id or wanted.name)
            if row.organization_id == organization_id
        ]
        lengths: dict[str, Any] = {field: getattr(wanted, field) for field in ("name", *_LENGTHS)}
        if known:
            heartbeats.update(db, replace(known[0], **lengths), now_us)
        else:
            heartbeats.create(db, organization_id, **lengths, now_us=now_us, heartbeat_id=wanted.id)


class _Reader:
    """Turns a parsed document into a Seed, and collects what is wrong on the way."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()
        self._problems: list[Problem] = []

    def read(self, document: dict[str, Any]) -> Seed:
        for key in document:
            if key not in ("tokens", "heartbeats"):
                self._wrong("is not known here; a seed has [[tokens]] and [[heartbeats]]", key)
        seed = Seed(
            list(self._tables(document, "tokens", SeedToken)),
            list(self._tables(document, "heartbeats", SeedHeartbeat)),
        )
        ids = [heartbeat.id for heartbeat in seed.heartbeats if heartbeat.id is not None]
        for twice in sorted({each for each in ids if ids.count(each) > 1}):
            self._wrong(f"two heartbeats have the id {twice}; give each its own", "heartbeats")
        if self._problems:
            raise ConfigError(sorted(self._problems, key=lambda problem: problem.line or 0))
        return seed

    def _tables(self, document: dict[str, Any], section: str, shape: type[T]) -> Iterator[T]:
        tables = document.get(section, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._wrong(f"must be tables; write [[{section}]]", section)
            return
        for number, table in enumerate(tables):
            key = f"{section}[{number}]"
            try:
                lengths = {name: _length_s(table[name], name) for name in _LENGTHS if name in table}
                yield msgspec.convert({**table, **lengths}, shape)
            except ValueError as exc:
                # A bad token must not be repeated; msgspec names the field and the rule, never the value.
                message, _, place = str(exc).partition(" - at ")
                self._wrong(message, key + place.strip("`$"), self._line(section, number))

    def _wrong(self, message: str, key: str, line: int | None = None) -> None:
        self._problems.append(Problem(message, file=os.path.relpath(self._path), line=line, key=key))

    def _line(self, section: str, number: int) -> int | None:
        """Return the line on which the table begins, if it is written as ``[[section]]``."""
        heads = [at for at, line in enumerate(self._lines, 1) if re.match(rf"\s*\[\[\s*{section}\s*\]\]", line)]
        return heads[number] if number < len(heads) else None


def _length_s(value: Any, name: str) -> Any:
    """Return a duration's whole seconds; what isn't text stays what it is, for msgspec to judge."""
    if not isinstance(value, str):
        return value
    try:
        seconds = parse_duration_s(value)
    except ValueError as exc:
        raise ValueError(f"{exc} - at `$.{name}`") from exc
    if seconds != int(seconds):
        raise ValueError(f"Expected whole seconds - at `$.{name}`")
    return int(seconds)
