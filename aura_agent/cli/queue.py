"""``aura-agent queue``: what waits in the outbox and why, delivering it now, and dropping it."""

import asyncio
import errno
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Self

import click

from aura_agent.cli.daemon import ask_daemon
from aura_agent.cli.output import on_one_line, say
from aura_agent.cli.settings import (
    config_option,
    json_option,
    local,
    open_store,
    open_to_look,
    print_json,
    print_table,
    read_config,
    read_config_to_look,
    service,
    store_directory,
)
from aura_agent.config.models import Config
from aura_agent.errors import AuraError
from aura_agent.outbox.claims import Dropped
from aura_agent.outbox.database import is_served
from aura_agent.outbox.queries import (
    PARKED,
    EntryRow,
    QueueRow,
    entry_row,
    left_in,
    queue_rows,
    streams_of,
)
from aura_agent.outbox.rules import State
from aura_agent.report import places
from aura_agent.units import format_duration

if TYPE_CHECKING:
    from aura_agent.wrapper.handover import ServingDaemon

_BY_HAND = "dropped by hand"
_ID = click.IntRange(1, 2**63 - 1)  # SQLite knows no others
_NO_SUCH = "no ping {} in the outbox: aura-agent queue list --all has those that there are"


@click.group()
def queue() -> None:
    """The outbox: pings that wait, and what became of the others.

    Example: aura-agent queue list --all
    """


@queue.command("list")
@click.option("--all", "ended", is_flag=True, help="Also what waits no more, with the reason.")
@config_option
@json_option
def list_(ended: bool, config_file: str | None, as_json: bool) -> None:
    """Show the pings that wait, oldest first.

    Example: aura-agent queue list --all
    """
    outbox = open_to_look(read_config_to_look(config_file), "list")
    try:
        rows = queue_rows(outbox, ended=ended)
    finally:
        outbox.close()
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    print_table(
        ["id", "heartbeat", "job", "ended", "state", "tries", "next try", "why"],
        [
            [
                str(row.id),
                row.heartbeat,
                row.job,
                local(row.ended_at),
                row.state,
                str(row.tries),
                "" if row.next_try_s is None else f"in {format_duration(row.next_try_s)}",
                row.reason,
            ]
            for row in rows
        ],
        empty="nothing waits" if not ended else "the outbox is empty",
    )


@queue.command()
@click.argument("entry_id", metavar="ID", type=_ID)
@config_option
@json_option
def show(entry_id: int, config_file: str | None, as_json: bool) -> None:
    """Show all of one ping: its run and the run's place in the order, its state and why, tries, when it expires.

    Example: aura-agent queue show 17
    """
    outbox = open_to_look(read_config_to_look(config_file), "show")
    try:
        row = entry_row(outbox, entry_id)
    finally:
        outbox.close()
    if row is None:
        raise AuraError(_NO_SUCH.format(entry_id))
    if as_json:
        print_json(asdict(row))
        return
    for name, value in _facts(row):
        say(f"{name + ':':13}{on_one_line(value)}")


def _facts(row: EntryRow) -> list[tuple[str, str]]:
    state = f"{row.state}, being sent at this moment" if row.under_way else row.state
    facts = [
        ("id", str(row.id)),
        ("heartbeat", row.heartbeat),
        ("job", row.job),
        ("run", row.run_id),
        ("order", f"boot {row.boot}, {row.started_boot_s:.3f} s after it"),
        ("ended", local(row.ended_at)),
        ("accepted", local(row.accepted_at)),
        ("state", f"{state}, since {local(row.changed_at)}"),
        ("why", row.reason or "-"),
        ("tries", str(row.tries)),
        ("next try", "-" if row.next_try_s is None else f"in {format_duration(row.next_try_s)}"),
        ("expires", f"{format_duration(row.expires_after_s)} after the run's end"),
        ("replay", row.replay),
        ("body", f"{row.body_bytes} bytes"),
    ]
    return [fact for fact in facts if fact[1]]


@queue.command()
@click.argument("entry_id", metavar="[ID]", type=_ID, required=False)
@click.option("--all", "everything", is_flag=True, help="Drop all that waits.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@config_option
@json_option
def drop(entry_id: int | None, everything: bool, yes: bool, config_file: str | None, as_json: bool) -> None:
    """Drop a ping that waits, or all of them: they are never sent. A ping that is being sent is left alone.

    Aura then hears nothing of those runs, and alarms if it waits for them. Exit 1 if something could not be dropped.

    Example: aura-agent queue drop 17
    """
    if (entry_id is None) != everything:
        raise click.UsageError("give the ID of a ping, or --all")
    config = read_config(config_file)
    rows = _rows_to_drop(config, entry_id)
    if not yes:
        _ask_to_drop(rows)
    dropped = _drop(config, config_file, [row.id for row in rows])
    if as_json:
        print_json(asdict(dropped))
    else:
        say(f"{len(dropped.dropped)} dropped")
        for under_way in dropped.under_way:
            say(f"{under_way} is being sent at this moment: not dropped", err=True)
    sys.exit(0 if len(dropped.dropped) == len(rows) else 1)


def _rows_to_drop(config: Config, entry_id: int | None) -> list[QueueRow]:
    """Return what waits, all of it or the one. Raises AuraError: that one isn't there, or doesn't wait."""
    outbox = open_store(config, "drop")
    try:
        outbox.take_in()
        if entry_id is None:
            return queue_rows(outbox, ended=False, limit=None)
        row = entry_row(outbox, entry_id)
    finally:
        outbox.close()
    if row is None:
        raise AuraError(_NO_SUCH.format(entry_id))
    if row.state not in (State.WAITING, PARKED):
        raise AuraError(f"ping {entry_id} doesn't wait: it is {row.state} ({row.reason})")
    return [row]


def _ask_to_drop(rows: list[QueueRow]) -> None:
    if not rows:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("cannot ask for confirmation: stdin is not a terminal; pass --yes")
    names = ", ".join(sorted({row.heartbeat for row in rows}))
    what = "the ping" if len(rows) == 1 else f"{len(rows)} pings"
    if not click.confirm(f"Drop {what} for {on_one_line(names)}?", err=True):
        raise AuraError("nothing was dropped")


def _drop(config: Config, config_file: str | None, entry_ids: list[int]) -> Dropped:
    """Drop *entry_ids*; the daemon does it where one serves the store, since its log and metrics tell of it."""
    if is_served(store_directory(config)):
        answer = ask_daemon(config_file, "POST", "/queue/drop", {"ids": entry_ids, "reason": _BY_HAND})
        return Dropped(tuple(answer["dropped"]), tuple(answer["under_way"]))
    outbox = open_store(config, "drop")
    try:
        return outbox.drop(entry_ids, _BY_HAND)
    finally:
        outbox.close()


@queue.command()
@click.option("--heartbeat", metavar="ID|NAME", help="Only what waits for this heartbeat.")
@config_option
@json_option
def flush(heartbeat: str | None, config_file: str | None, as_json: bool) -> None:
    """Deliver now all that may be sent, without waiting for back-off; exit 1 if anything is left.

    Runs whose aura-run is gone are judged first: a lost one withdraws what waits from before it. A user's own pings
    are forwarded to the daemon if one answers and takes this user's reports.

    Example: aura-agent queue flush --heartbeat nightly-backup
    """
    if heartbeat == "":
        raise click.UsageError("--heartbeat is empty: name one, or leave it out for all that waits")
    left = asyncio.run(_flush(read_config(config_file), heartbeat, quiet=as_json))
    if as_json:
        print_json({"left": left})
    elif left:
        say(f"{left} left: aura-agent queue list says why", err=True)
    sys.exit(1 if left else 0)


async def _flush(config: Config, heartbeat: str | None, *, quiet: bool) -> int:
    from aura_agent.delivery.inline import courier_for, flush
    from aura_agent.wrapper.handover import ServingDaemon

    daemon = ServingDaemon(store_directory(config), places.socket_path(os.environ, config.agent.socket))
    outbox = open_store(config, "flush")
    outbox.take_in()
    streams = None if heartbeat is None else streams_of(outbox, heartbeat)
    if streams == []:
        outbox.close()
        raise AuraError(f"no ping for {heartbeat!r} was ever in the outbox: aura-agent queue list --all has those")
    waiting = left_in(outbox, streams).waiting
    if waiting and daemon.answers():
        outbox.close()
        if _forward(daemon, quiet=quiet):
            return _count_left(config, heartbeat)
        outbox = open_store(config, "flush")
    with _Progress(waiting, quiet=quiet) as progress:
        async with courier_for(outbox, service(config), progress, withheld=daemon.answers) as (courier, worker):
            left = await flush(courier, worker, lambda: progress.tried, heartbeat)
            if left and courier.store_problem:
                say(f"aura-agent: {courier.store_problem}", err=True)
    if left and daemon.answers() and _forward(daemon, quiet=quiet):
        return _count_left(config, heartbeat)
    return left


def _forward(daemon: "ServingDaemon", *, quiet: bool) -> bool:
    """Forward the pings to the daemon, which may know of a failure that withdraws them; False: it does not take them.

    Raises AuraError: it does not answer, or is busy.
    """
    try:
        is_taken = daemon.take_all()
    except OSError as problem:
        why = "takes no reports now" if problem.errno == errno.EBUSY else "does not answer"
        raise AuraError(
            f"the daemon at {daemon.socket_path} {why} ({problem.strerror or problem}): nothing was sent,"
            " since it may know of later failures; try again, or stop it first"
        ) from problem
    if is_taken and not quiet:
        say("forwarded to the daemon, which sends them")
    return is_taken


def _count_left(config: Config, heartbeat: str | None) -> int:
    outbox = open_store(config, "flush")
    try:
        return left_in(outbox, None if heartbeat is None else streams_of(outbox, heartbeat)).waiting
    finally:
        outbox.close()


class _Progress:
    """A bar on a terminal, one line of sums elsewhere; counts what delivery tells."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._quiet, self._total = quiet, total
        self._bar = Progress(
            TextColumn("delivering"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)
        self._seen: dict[str, set[object]] = {}  # by what became of them: a ping may be parked more than once
        self.tried: set[str] = set()  # runs

    def note(self, event: str, **facts: object) -> None:
        if not event.startswith("ping."):
            return
        what = event.removeprefix("ping.")
        self.tried.add(str(facts.get("run_id", "")))
        ended = what not in ("postponed", "parked")
        which = facts.get("run_id") or (object() if ended else facts.get("heartbeat"))
        self._seen.setdefault(what, set()).add(which)
        self._bar.update(self._task, advance=int(ended), description=on_one_line(str(facts.get("heartbeat", ""))))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._bar.stop()
        if not self._quiet:
            sums = ", ".join(f"{len(pings)} {what}" for what, pings in sorted(self._seen.items()))
            say(sums or ("nothing may be sent yet" if self._total else "nothing waits"))
