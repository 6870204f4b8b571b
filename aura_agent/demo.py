"""The demo: an embedded Aura, a real daemon and a real aura-run in one terminal, with an outage in the middle.

Everything in it is the product: the daemon and aura-run are started as a user would start them, and the verdict at the
end is drawn from what Aura received and what the outbox says, not from what the demo thinks that it did.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aura_agent.clock import SystemClock
from aura_agent.devserver.server import DevServer
from aura_agent.errors import AuraError
from aura_agent.outbox.queries import queue_rows
from aura_agent.outbox.rules import State
from aura_agent.outbox.run_history import run_rows
from aura_agent.outbox.store import Outbox
from aura_agent.report.record import Outcome

CRON, EVERY, FAILING, BACKUP = "cron", "interval", "failing", "backup"
_QUIET_S, _OUTAGE_S, _DRAIN_S, _STOP_S = 9.0, 10.0, 18.0, 12.0  # with start-up, less than a minute in all

_CONFIG = """\
[api]
base_url = {base_url}
token_file = {token_file}
[agent]
state_dir = {state_dir}
socket = {socket}
stop_grace = "3s"
flush_timeout = "5s"
[jobs.{cron}]
schedule = "*/4 * * * * *"
shell = "echo as cron would"
[jobs.{every}]
every = "3s"
command = ["true"]
[jobs.{failing}]
every = "5s"
shell = "echo no luck; exit 3"
"""

_SHOWN = {
    "run.finished": "",
    "ping.delivered": "bold green",
    "ping.postponed": "yellow",
    "ping.superseded": "dim",
    "ping.invalidated": "magenta",
    "ping.expired": "magenta",
    "heartbeat.resolved": "cyan",
    "agent.started": "cyan",
    "agent.stopping": "cyan",
    "agent.stopped": "cyan",
}


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one heartbeat; *reached*: its newest success was followed by a ping that Aura accepted."""

    heartbeat: str
    runs: int
    successes: int
    pings: int
    superseded: int
    waiting: int
    reached: bool

    @property
    def good(self) -> bool:
        if self.heartbeat == FAILING:
            return self.runs > 0 and self.successes == 0 and self.pings == 0
        return self.successes > 0 and self.reached and self.waiting == 0


async def run_demo(*, keep: bool, as_json: bool = False) -> bool:
    """Show it all; return whether every promise was kept. Raises AuraError: it was interrupted, or the daemon ended.

    With *as_json* stdout gets the account alone, as an array of objects.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, stop.set)
    os.umask(0o022)  # the caller's may shut us out of what we make
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aura-demo-")))
        server = DevServer()
        await server.start()
        stack.push_async_callback(server.stop)
        show = _Show(sys.stderr if as_json else sys.stdout)
        show.say(f"An embedded Aura listens at {server.base_url}")
        for name in (CRON, EVERY, FAILING, BACKUP):
            server.create_heartbeat(name, expected_interval=60, grace_period=60)
        environment = _prepare(home, server)
        daemon = await _start_daemon(environment)
        watching = asyncio.create_task(show.follow(daemon), name="log")
        stack.push_async_callback(_end, daemon)
        if not await _unless(stop, daemon, _story(show, server, environment, home)):
            raise DemoEnded(
                "interrupted" if stop.is_set() else "the daemon has ended by itself: see what it said above"
            )
        if keep:
            show.say(f"Left running. API: {server.base_url}  token: {server.token}")
            show.say(f"Try, in another terminal: AURA_CONFIG={home}/config.toml aura-agent status   (Ctrl-C ends this)")
            await _unless(stop, daemon, asyncio.Event().wait())
        else:
            await _drained(server, home)
        show.say("The daemon is told to stop: no new runs, a last flush, the rest stays on disk")
        await _end(daemon)
        await watching
        rows, left = _account(home, server)
    if as_json:
        print(json.dumps([{**asdict(row), "good": row.good} for row in rows], indent=2))
    else:
        _print_account(rows)
    return left == 0 and all(row.good for row in rows)


class DemoEnded(AuraError):
    """The demo has ended before its end."""


async def _unless(
    stop: asyncio.Event, daemon: asyncio.subprocess.Process, work: Coroutine[object, object, object]
) -> bool:
    """Do *work*; False: it was cut short, since we were told to stop or the daemon ended."""
    working = asyncio.ensure_future(work)
    ends = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(daemon.wait())]
    await asyncio.wait([working, *ends], return_when=asyncio.FIRST_COMPLETED)
    complete = working.done()
    for task in (working, *ends):
        task.cancel()
    await asyncio.gather(*ends, return_exceptions=True)
    if complete:
        await working
    else:
        await asyncio.gather(working, return_exceptions=True)
    return complete


async def _story(show: "_Show", server: DevServer, environment: dict[str, str], home: Path) -> None:
    await asyncio.sleep(_QUIET_S / 2)
    await _run_by_hand(show, environment, home)
    await asyncio.sleep(_QUIET_S / 2)
    show.say(f"Aura goes away for {_OUTAGE_S:.0f} s. Jobs go on; their pings wait in the outbox")
    await server.refuse()
    await asyncio.sleep(_OUTAGE_S / 2)
    await _run_by_hand(show, environment, home)
    await show.run([sys.executable, "-m", "aura_agent", "queue", "list"], environment, home)
    await asyncio.sleep(_OUTAGE_S / 2)
    await server.accept()
    show.say("Aura is back: the queue drains, the newest success of each heartbeat first and last")


async def _drained(server: DevServer, home: Path) -> None:
    """Wait until what waited has been heard of, for a bounded time."""
    deadline = time.monotonic() + _DRAIN_S
    heard = len(server.pings())
    while time.monotonic() < deadline and (  # noqa: ASYNC110  # looks at another process's store
        len(server.pings()) < heard + 4 or _waiting(home)
    ):
        await asyncio.sleep(0.2)


class _Show:
    """Prints what happens as it happens, each line with the seconds since the start."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console = Console(file=stream, highlight=False)
        self._started = time.monotonic()

    async def run(self, command: list[str], environment: dict[str, str], home: Path) -> int:
        """Run *command* as a user would, with its output among ours; return its exit status."""
        process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=home, stdout=self._stream)
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()

    def say(self, text: str) -> None:
        self._print(Text(text, style="bold"))

    async def follow(self, daemon: asyncio.subprocess.Process) -> None:
        """Show the daemon's log, one line an event, until it ends."""
        assert daemon.stderr is not None
        while line := await daemon.stderr.readline():
            try:
                event = json.loads(line)
            except ValueError:
                self._print(Text("  " + line.decode("utf-8", "replace").rstrip(), style="red"))
                continue
            name = event.get("event", "")
            if name in _SHOWN:
                facts = "  ".join(
                    f"{key}={event[key]}"
                    for key in ("job", "heartbeat", "outcome", "reason", "tries")
                    if event.get(key)
                )
                self._print(Text.assemble("  ", (f"{name:<20}", _SHOWN[name]), " ", facts))

    def _print(self, text: Text) -> None:
        at = Text(f"{time.monotonic() - self._started:5.1f}s ", style="dim")
        self._console.print(at + text, soft_wrap=True)


def _prepare(home: Path, server: DevServer) -> dict[str, str]:
    """Write config, token and job; return the environment in which agent and wrapper run."""
    (home / "token").write_text(server.token + "\n")
    (home / "token").chmod(0o600)
    (home / "run").mkdir()
    config = _CONFIG.format(
        base_url=json.dumps(server.base_url),
        token_file=json.dumps(str(home / "token")),
        state_dir=json.dumps(str(home / "state")),
        socket=json.dumps(str(home / "run/agent.sock")),
        cron=CRON,
        every=EVERY,
        failing=FAILING,
    )
    (home / "config.toml").write_text(config)
    script = home / "backup.sh"
    script.write_text("#!/bin/sh\necho backing up\n")
    script.chmod(0o755)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TERM", "TZ") if name in os.environ}
    return kept | {"AURA_CONFIG": str(home / "config.toml")}


async def _start_daemon(environment: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aura_agent", "run"),
        env=environment,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C and a closed terminal are for us, and we tell it to stop
    )


async def _run_by_hand(show: _Show, environment: dict[str, str], home: Path) -> None:
    show.say("$ aura-run -- ./backup.sh")
    program = "from aura_agent.wrapper.main import main; main()"
    status = await show.run([sys.executable, "-c", program, "--", "./backup.sh"], environment, home)
    show.say(f"  exit status {status}")


async def _end(daemon: asyncio.subprocess.Process) -> None:
    """Tell the daemon to stop; kill it if it doesn't."""
    if daemon.returncode is not None:
        return
    try:
        daemon.terminate()
        async with asyncio.timeout(_STOP_S):
            await daemon.wait()
    except (TimeoutError, ProcessLookupError):
        pass
    finally:
        if daemon.returncode is None:
            daemon.kill()
            await daemon.wait()


def _open(home: Path) -> Outbox:
    return Outbox(str(home / "state"), SystemClock(), owner="demo", hostname=os.uname().nodename)


def _waiting(home: Path) -> int:
    outbox = _open(home)
    try:
        return outbox.waiting_count()
    finally:
        outbox.close()


def _account(home: Path, server: DevServer) -> tuple[list[Row], int]:
    """Return what became of each heartbeat, from the store's record and what Aura received, and how many pings wait."""
    outbox = _open(home)
    try:
        runs, entries = run_rows(outbox, limit=10_000), queue_rows(outbox, ended=True, limit=10_000)
        left = outbox.waiting_count()
    finally:
        outbox.close()
    rows = []
    for name in (CRON, EVERY, FAILING, BACKUP):
        mine = [run for run in runs if name in (run.heartbeat, run.job)]
        good = [run for run in mine if run.outcome == Outcome.SUCCEEDED]
        newest = max((entry.ended_at for entry in entries if entry.heartbeat == name), default=None)
        pings = [ping for ping in server.pings(name) if ping.accepted]
        rows.append(
            Row(
                heartbeat=name,
                runs=len(mine),
                successes=len(good),
                pings=len(pings),
                superseded=sum(entry.heartbeat == name and entry.state == State.SUPERSEDED for entry in entries),
                waiting=sum(entry.heartbeat == name and entry.state in (State.WAITING, "parked") for entry in entries),
                reached=newest is not None and any(ping.at >= newest for ping in pings),
            )
        )
    return rows, left


def _print_account(rows: list[Row]) -> None:
    table = Table("heartbeat", "runs", "successes", "pings at Aura", "superseded", "waiting", "promise")
    for row in rows:
        verdict = Text("kept", style="green") if row.good else Text("BROKEN", style="bold red")
        numbers = (row.runs, row.successes, row.pings, row.superseded, row.waiting)
        table.add_row(row.heartbeat, *map(str, numbers), verdict)
    Console().print(table)
