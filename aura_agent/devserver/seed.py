"""The seed file: what exists from the start. ``docs/dev-server.md`` has an example of everything.

Reading it tells every problem at once, each with its line; what becomes of it is in ``planting.py``.
"""

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from aura_agent.devserver.permissions import Role, Scope, may_hold
from aura_agent.devserver.routes.heartbeats import GraceS, IntervalS
from aura_agent.devserver.routes.monitors import CheckIntervalS, Url
from aura_agent.devserver.routes.shapes import Name
from aura_agent.devserver.tables.organizations import FIRST
from aura_agent.devserver.tables.users import OWNER
from aura_agent.errors import ConfigError, Problem
from aura_agent.units import parse_duration_s

T = TypeVar("T")

_LENGTHS = ("expected_interval", "grace_period", "check_interval")

Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
Limit = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class SeedOrganization(_Table, frozen=True):
    """An organization and what its plan allows; None: as much as any."""

    name: Name
    max_monitors: Limit | None = None
    max_heartbeats: Limit | None = None


class SeedTeam(_Table, frozen=True):
    """A team of an organization."""

    name: Name
    id: Id | None = None
    organization: str = FIRST


class SeedUser(_Table, frozen=True):
    """A user with a role in an organization, and the names of their teams there."""

    name: Name
    role: Role = "member"
    teams: tuple[str, ...] = ()
    organization: str = FIRST


class SeedToken(_Table, frozen=True):
    """A token with a value that is known beforehand, of a user."""

    token: Annotated[str, msgspec.Meta(min_length=16, max_length=200, pattern=r"^[\x21-\x7e]+$")]
    scope: Scope = "write"
    label: str = "seed"
    user: str = OWNER
    organization: str = FIRST


class SeedMonitor(_Table, frozen=True):
    """A monitor; its length in seconds, *team* a name."""

    name: Name
    url: Url
    check_interval: CheckIntervalS = 60
    team: str | None = None
    id: Id | None = None
    organization: str = FIRST


class SeedHeartbeat(_Table, frozen=True):
    """A heartbeat; lengths in seconds, *team* a name."""

    name: Name
    expected_interval: IntervalS = 3600
    grace_period: GraceS = 300
    team: str | None = None
    id: Id | None = None
    organization: str = FIRST


class SeedIntegration(_Table, frozen=True):
    """An integration. Of its URL, which usually holds a credential, only the host is kept."""

    platform: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{1,50}$")]
    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[A-Za-z0-9._-]+([:/?#][!-~]*)?$")]
    organization: str = FIRST


@dataclass(frozen=True, slots=True)
class Seed:
    """What to plant."""

    organizations: list[SeedOrganization]
    teams: list[SeedTeam]
    users: list[SeedUser]
    tokens: list[SeedToken]
    monitors: list[SeedMonitor]
    heartbeats: list[SeedHeartbeat]
    integrations: list[SeedIntegration]


_SECTIONS = tuple(Seed.__annotations__)
# What must differ between two tables of a section.
_UNIQUE = {
    "organizations": (("name",),),
    "teams": (("organization", "name"), ("id",)),
    "users": (("organization", "name"),),
    "tokens": (("token",),),
    "monitors": (("id",),),
    "heartbeats": (("id",),),
}


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
    return _Reader(path, text, document).read()


class _Reader:
    """Turns a parsed document into a Seed, and collects what is wrong on the way."""

    def __init__(self, path: str, text: str, document: dict[str, Any]) -> None:
        self._path = path
        self._lines = text.splitlines()
        self._document = document
        self._problems: list[Problem] = []

    def read(self) -> Seed:
        for key in self._document:
            if key not in _SECTIONS:
                known = ", ".join(f"[[{section}]]" for section in _SECTIONS)
                self._wrong(f"is not known here; a seed has {known}", key)
        seed = Seed(
            organizations=list(self._tables("organizations", SeedOrganization)),
            teams=list(self._tables("teams", SeedTeam)),
            users=list(self._tables("users", SeedUser)),
            tokens=list(self._tables("tokens", SeedToken)),
            monitors=list(self._tables("monitors", SeedMonitor)),
            heartbeats=list(self._tables("heartbeats", SeedHeartbeat)),
            integrations=list(self._tables("integrations", SeedIntegration)),
        )
        for section in _SECTIONS:
            self._judge_section(section)
        if self._problems:
            raise ConfigError(sorted(self._problems, key=lambda problem: problem.line or 0))
        return seed

    def _tables(self, section: str, shape: type[T]) -> Iterator[T]:
        tables = self._document.get(section, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._wrong(f"must be tables; write [[{section}]]", section)
            return
        for number, table in enumerate(tables):
            try:
                lengths = {name: _length_s(table[name], name) for name in _LENGTHS if name in table}
                yield msgspec.convert({**table, **lengths}, shape)
            except ValueError as exc:
                # A bad token must not be repeated; msgspec names the field and the rule, never the value.
                message, _, place = str(exc).partition(" - at ")
                self._wrong_at(section, number, place.strip("`$."), message)

    def _judge_section(self, section: str) -> None:
        """Judge what a table says of others. As it is written, so that one bad table isn't told again for each."""
        seen = set()
        for number, table in self._written(section):
            for names in _UNIQUE.get(section, ()):
                values = [table.get(name, FIRST if name == "organization" else None) for name in names]
                key = repr((names, values))  # values may be of any type here, lists too
                if key in seen and None not in values:
                    said = "" if section == "tokens" else f" {values[-1]}"
                    self._wrong_at(
                        section, number, names[-1], f"another one has this {names[-1]}{said}; give each its own"
                    )
                seen.add(key)
            self._judge_references(section, number, table)

    def _judge_references(self, section: str, number: int, table: dict[str, Any]) -> None:
        organization = table.get("organization", FIRST)
        if organization not in (FIRST, *self._names("organizations")):
            self._wrong_at(section, number, "organization", f"there is no [[organizations]] named {organization!r}")
        named = table.get("teams", ()) if section == "users" else (table["team"],) if "team" in table else ()
        for team in named if isinstance(named, (list, tuple)) else ():
            if team not in self._names("teams", organization):
                key = "teams" if section == "users" else "team"
                self._wrong_at(section, number, key, f"{organization} has no [[teams]] named {team!r}")
        if section == "tokens":
            self._judge_owner(number, table, organization)

    def _judge_owner(self, number: int, token: dict[str, Any], organization: Any) -> None:
        name = token.get("user", OWNER)
        of_name = [
            user for _, user in self._written("users") if _owned(user, organization) and user.get("name") == name
        ]
        if not of_name and name != OWNER:
            self._wrong_at("tokens", number, "user", f"{organization} has no [[users]] named {name!r}")
        for user in of_name:
            role, scope = user.get("role", "member"), token.get("scope", "write")
            if not may_hold(role, scope):
                self._wrong_at(
                    "tokens", number, "scope", f"{name} is a viewer, whose tokens can only have the scope read"
                )

    def _names(self, section: str, organization: Any = None) -> list[Any]:
        """Return the names in *section*, of one organization if it is given."""
        return [
            table.get("name")
            for _, table in self._written(section)
            if organization is None or _owned(table, organization)
        ]

    def _written(self, section: str) -> list[tuple[int, dict[str, Any]]]:
        """Return the tables of *section* with their numbers, whatever is in them."""
        tables = self._document.get(section, [])
        written = enumerate(tables if isinstance(tables, list) else [])
        return [(number, table) for number, table in written if isinstance(table, dict)]

    def _wrong_at(self, section: str, number: int, key: str, message: str) -> None:
        self._wrong(message, f"{section}[{number}]" + (f".{key}" if key else ""), self._line(section, number))

    def _wrong(self, message: str, key: str, line: int | None = None) -> None:
        self._problems.append(Problem(message, file=os.path.relpath(self._path), line=line, key=key))

    def _line(self, section: str, number: int) -> int | None:
        """Return the line on which the table begins, if it is written as ``[[section]]``."""
        heads = [at for at, line in enumerate(self._lines, 1) if re.match(rf"\s*\[\[\s*{section}\s*\]\]", line)]
        return heads[number] if number < len(heads) else None


def _owned(table: dict[str, Any], organization: Any) -> bool:
    return bool(table.get("organization", FIRST) == organization)


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
