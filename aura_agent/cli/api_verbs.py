"""The verbs of ``aura-agent api RESOURCE VERB``: each is written once, and given to the resources that have it.

What a resource is asked stands in the client; nothing is printed before the API has answered.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import click
import msgspec

from aura_agent.api import AuraClient
from aura_agent.cli.api_objects import print_object, print_objects, read_fields
from aura_agent.cli.output import on_one_line, say
from aura_agent.cli.settings import config_option, json_option, open_api, print_json, read_config
from aura_agent.units import parse_duration_s

EXAMPLE_ID = "3f6b…"
_DEFAULT_ROWS = 50  # the API's own default for a page
_PAGE_ROWS = 100

T = TypeVar("T")
Option = Callable[[Callable[..., None]], Callable[..., None]]


def duration_s(text: str) -> float:
    """Return the seconds of an option such as ``90s`` or ``1d``."""
    try:
        return parse_duration_s(text)
    except ValueError as problem:
        raise click.BadParameter(str(problem)) from None


def ask(config_file: str | None, operation: Callable[[AuraClient], Awaitable[T]]) -> T:
    """Return what *operation* gets from the Aura of the config. Raises ConfigError, ApiError."""
    client = open_api(read_config(config_file))

    async def asking() -> T:
        async with client:
            return await operation(client)

    return asyncio.run(asking())


class Resource:
    """The commands of one resource, in ``group``; *one* is what a single object of it is called."""

    def __init__(self, name: str, one: str, about: str, *, example: str = "list") -> None:
        self.name, self.one = name, one
        self.group = click.Group(name, help=self._help(about, example))

    def lists(
        self,
        fetch: Callable[..., AsyncIterator[msgspec.Struct]],
        columns: dict[str, str],
        *,
        verb: str = "list",
        parameter: Option = lambda command: command,
        example: str = "--all --json",
    ) -> None:
        """Add a listing; *parameter* is what *fetch* wants beside ``limit``, the size of a page."""

        @self._command(verb, f"List {self.name}." if verb == "list" else f"List the {verb} of one {self.one}.", example)
        @parameter
        @click.option("--limit", type=click.IntRange(min=1), metavar="N", help=f"N rows; default: {_DEFAULT_ROWS}.")
        @click.option("--all", "everything", is_flag=True, help="Every row.")
        @config_option
        @json_option
        def list_(limit: int | None, everything: bool, config_file: str | None, as_json: bool, **about: str) -> None:
            if everything and limit is not None:
                raise click.UsageError("--all and --limit exclude each other")
            # One row more than the default shows tells, within the same request, whether there are more.
            wanted = None if everything else limit or _DEFAULT_ROWS + 1
            page = min(_PAGE_ROWS, wanted or _PAGE_ROWS)
            things = ask(config_file, lambda aura: _take(fetch(aura, limit=page, **about), wanted))
            more = limit is None and not everything and len(things) > _DEFAULT_ROWS
            print_objects(
                things[:_DEFAULT_ROWS] if more else things,
                columns,
                as_json=as_json,
                empty=f"no {self.name if verb == 'list' else verb}",
            )
            if more:
                say(f"aura-agent: these are the first {_DEFAULT_ROWS}; --limit N or --all shows more", err=True)

    def gets(self, fetch: Callable[[AuraClient, str], Awaitable[msgspec.Struct]]) -> None:
        @self._command("get", f"Show one {self.one}.", EXAMPLE_ID)
        @click.argument("identity", metavar="ID")
        @config_option
        @json_option
        def get(identity: str, config_file: str | None, as_json: bool) -> None:
            print_object(ask(config_file, lambda aura: fetch(aura, identity)), as_json=as_json)

    def creates(
        self,
        write: Callable[..., Awaitable[msgspec.Struct]],
        shape: type[msgspec.Struct],
        options: Sequence[Option],
        *,
        required: Sequence[str],
        example: str,
    ) -> None:
        @self._command("create", f"Create a {self.one} from options or a file; options win.", example)
        @_fields_from(options)
        @config_option
        @json_option
        def create(path: str | None, no_team: bool, config_file: str | None, as_json: bool, **flags: object) -> None:
            fields, extra = _gather(shape, path, flags, no_team=no_team)
            missing = [f"--{name}" for name in required if name not in fields]
            if missing:
                raise click.UsageError(f"a {self.one} needs {' and '.join(missing)}, or the same in --file")
            print_object(ask(config_file, lambda aura: write(aura, **fields, extra=extra)), as_json=as_json)

    def updates(
        self,
        write: Callable[..., Awaitable[msgspec.Struct]],
        shape: type[msgspec.Struct],
        options: Sequence[Option],
        *,
        example: str,
    ) -> None:
        @self._command(
            "update", f"Change what is given of a {self.one}, and leave the rest.", f"{EXAMPLE_ID} {example}"
        )
        @click.argument("identity", metavar="ID")
        @_fields_from(options)
        @config_option
        @json_option
        def update(
            identity: str, path: str | None, no_team: bool, config_file: str | None, as_json: bool, **flags: object
        ) -> None:
            fields, extra = _gather(shape, path, flags, no_team=no_team)
            if not fields and not extra:
                raise click.UsageError("nothing to change: name a field, or give --file")
            print_object(ask(config_file, lambda aura: write(aura, identity, **fields, extra=extra)), as_json=as_json)

    def deletes(
        self,
        fetch: Callable[[AuraClient, str], Awaitable[msgspec.Struct]],
        remove: Callable[[AuraClient, str], Awaitable[None]],
    ) -> None:
        @self._command("delete", f"Delete a {self.one}; asks first, unless --yes.", f"{EXAMPLE_ID} --yes")
        @click.argument("identity", metavar="ID")
        @click.option("--yes", is_flag=True, help="Don't ask.")
        @config_option
        @json_option
        def delete(identity: str, yes: bool, config_file: str | None, as_json: bool) -> None:
            if not yes:
                if not (sys.stdin.isatty() and sys.stderr.isatty()):
                    raise click.UsageError("nobody is there to be asked, so nothing was deleted: give --yes")
                name = getattr(ask(config_file, lambda aura: fetch(aura, identity)), "name", None) or "without a name"
                if not click.confirm(f"Delete the {self.one} {on_one_line(name)} ({identity})?", err=True):
                    say("aura-agent: nothing was deleted", err=True)
                    sys.exit(1)
            ask(config_file, lambda aura: remove(aura, identity))
            if as_json:
                print_json({"id": identity, "deleted": True})
            else:
                say(f"deleted {self.one} {identity}")

    def _command(self, verb: str, about: str, example: str) -> Callable[[Callable[..., None]], click.Command]:
        return self.group.command(verb, help=self._help(about, f"{verb} {example}"))

    def _help(self, about: str, example: str) -> str:
        return f"{about}\n\n\b\nExample: aura-agent api {self.name} {example}"


async def _take(things: AsyncIterator[T], count: int | None) -> list[T]:
    taken: list[T] = []
    async for thing in things:
        taken.append(thing)
        if len(taken) == count:
            break
    return taken


def _fields_from(options: Sequence[Option]) -> Option:
    """Return a decorator that adds *options*, those for the team, and ``--file``."""
    team = click.option("--team", "team_id", metavar="ID", help="The team that it belongs to.")
    no_team = click.option("--no-team", is_flag=True, help="It belongs to no team.")
    file = click.option(
        "--file", "path", type=click.Path(), metavar="FILE", help="The API's fields, as JSON or TOML; - is stdin."
    )
    every: tuple[Option, ...] = (*options, team, no_team, file)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(every):
            command = option(command)
        return command

    return decorate


def _gather(
    shape: type[msgspec.Struct], path: str | None, flags: dict[str, object], *, no_team: bool
) -> tuple[dict[str, object], dict[str, object]]:
    """Return the fields to write, under our names, and those that only the service may know; an option wins."""
    given = {name: value for name, value in flags.items() if value is not None}
    if no_team:
        if "team_id" in given:
            raise click.UsageError("--team and --no-team exclude each other")
        given["team_id"] = None
    known, extra = read_fields(path, shape)
    return known | given, extra
