"""What the commands share: the config that they mean, the store it points to, and how tables and JSON are printed."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click

from aura_agent.cli.output import on_one_line, plain_json, say
from aura_agent.config.load import PartlyRead, load_config, read_partly
from aura_agent.config.models import Config
from aura_agent.config.settings import account_in, base_url, config_path, find_token
from aura_agent.errors import ConfigError, Problem, StoreError
from aura_agent.outbox.database import BUSY_TIMEOUT_S
from aura_agent.outbox.store import Outbox, open_outbox
from aura_agent.report import places
from aura_agent.units import format_duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from aura_agent.api import AuraClient
    from aura_agent.delivery.inline import Service

_LOOK_PATIENCE_S = 2.0  # who only looks wants to see what there is, not to wait for who keeps the database locked
_NARROW_COLUMNS = 90  # a table of half a dozen columns is torn to shreds in fewer
_API_PATIENCE_S = 75.0  # the minute's limit is waited for; who has used up the hour is told so
REFUSAL_WAIT_S = 60.0  # for a command that Aura refuses with 429; who is to wait longer is told so

F = TypeVar("F", bound=Callable[..., object])


def config_option(command: F) -> F:
    return click.option("-c", "--config", "config_file", type=click.Path(), metavar="FILE", help="The config file.")(
        command
    )


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def read_config(flag: str | None) -> Config:
    """Return the config that *flag*, AURA_CONFIG or the usual place names; an empty one if there is none.

    Raises ConfigError.
    """
    path = config_path(flag, os.environ)
    return Config() if path is None else load_config(path)


def read_config_to_look(flag: str | None, *, needs_store: bool = True) -> PartlyRead:
    """Return what can be read of the config that ``read_config`` reads, for a command that only looks.

    One line on stderr names the first problem. Raises ConfigError: it can't be known where the store is.
    """
    path = config_path(flag, os.environ)
    if path is None:
        return PartlyRead(Config(), [], ())
    read = read_partly(path)
    if needs_store and not read.knows_place("state_dir"):
        raise ConfigError(read.problems)
    warn_of_config(read)
    return read


def warn_of_config(read: PartlyRead) -> None:
    """Print the first problem of a config that can only partly be read."""
    if read.problems:
        others = len(read.problems) - 1
        more = f" (and {others} more: aura-agent check lists them)" if others else ""
        say(f"aura-agent: warning: the config has errors: {read.problems[0]}{more}", err=True)


def store_directory(config: Config) -> str:
    return places.state_dir(os.environ, config.agent.state_dir, os.geteuid())


def open_store(config: Config, role: str, *, patience_s: float = BUSY_TIMEOUT_S, knows_account: bool = True) -> Outbox:
    """Open the config's store, and say what had to be set aside for that. Raises StoreError.

    *patience_s* is how long others may keep it locked; *knows_account*: whether the config says which account is meant.
    """
    outbox = open_outbox(store_directory(config), role, patience_s=patience_s)
    for notice in outbox.take_notices():
        say(f"aura-agent: {notice}", err=True)
    if not knows_account:
        return outbox
    try:
        outbox.enter(account_in(config.api, os.environ))
    except StoreError as problem:
        say(f"aura-agent: {problem}", err=True)
    except ConfigError:
        pass  # who needs the token says what is wrong with it
    return outbox


def open_to_look(read: PartlyRead, role: str) -> Outbox:
    """Open the store for who wants to be shown what is in it, and bring in what its spool holds.

    Where that can't be now, a line says so: what is on record can be shown all the same. Raises StoreError.
    """
    outbox = open_store(read.config, role, patience_s=_LOOK_PATIENCE_S, knows_account=read.is_whole("api"))
    try:
        outbox.take_in()
    except StoreError as problem:
        say(f"aura-agent: warning: spooled reports could not be read and are missing here: {problem}", err=True)
    return outbox


def service(config: Config) -> "Service":
    """Return where Aura is, from config and environment. Raises ConfigError: the token's file can't be read."""
    from aura_agent.api.transport import http_environment
    from aura_agent.delivery.inline import Service

    http_environment().load()
    for problem in http_environment().problems():
        say(f"aura-agent: {problem}", err=True)
    return Service(
        base_url=base_url(config.api, os.environ),
        token=find_token(config.api, os.environ),
        allow_insecure=config.api.allow_insecure,
        state_dir=store_directory(config),
    )


def open_api(config: Config) -> "AuraClient":
    """Return a client of the config's Aura; it says on stderr if it has to wait for the token's turn.

    Raises ConfigError: there is no token, or it can't be read.
    """
    from aura_agent.api import Purpose

    open_client = service(config).client_factory(on_wait=say_wait, refusal_wait_s=REFUSAL_WAIT_S)
    if open_client is None:
        raise ConfigError([Problem("no API token; set token_file in [api], or AURA_TOKEN_FILE")])
    return open_client(Purpose.LISTING, _API_PATIENCE_S)


def say_wait(wait_s: float, reason: str = "Aura's rate limit is used up until then") -> None:
    say(f"aura-agent: waiting {format_duration(wait_s)}: {reason}", err=True)


def print_json(value: object) -> None:
    takes_all = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    click.echo(plain_json(json.dumps(value, indent=2, ensure_ascii=not takes_all, default=_plain)))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print *rows* for people: a table, on a narrow terminal a few lines per row, or the line *empty*."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    rows = list(rows)
    for row in rows:
        table.add_row(*(Text(on_one_line(cell)) for cell in row))
    console = Console()
    if not rows:
        say(empty)
    elif not console.is_terminal:
        # Piped, a table is as wide as it needs to be: grep and awk want whole cells.
        Console(width=1000).print(table)
    elif console.width >= _NARROW_COLUMNS or _width(console, table) <= console.width:
        console.print(table)
    else:
        for first, *others in rows:
            console.print(Text(on_one_line(first), style="bold"))
            for column, cell in zip(columns[1:], others, strict=True):
                if cell:
                    console.print(Text(f"  {column}: {on_one_line(cell)}"))


def _width(console: "Console", table: "Table") -> int:
    """Return how many columns *table* would like to have."""
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def local(at: datetime | str | None) -> str:
    """Return an instant in the host's zone, for people; empty for none."""
    if at is None:
        return ""
    instant = datetime.fromisoformat(at) if isinstance(at, str) else at
    return instant.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def stamp(at: datetime | None) -> str | None:
    """Return an instant as RFC 3339 in UTC, for programs."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fields_of(row: object, names: Sequence[str]) -> Mapping[str, object]:
    return {name: getattr(row, name) for name in names}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return stamp(value)
    raise TypeError(f"not plain: {type(value).__name__}")
