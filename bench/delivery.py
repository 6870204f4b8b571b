"""What the outbox and its courier do in a second, beside the least that anybody would have to do; and the herd.

    make bench-delivery           ARGS="--small" for a quick look

Ratios are of one run on one machine: ours and the bare loop take turns. The disk's syncs are part of the figures:
TMPDIR says which disk, and it should have nothing else to do.
"""

import argparse
import asyncio
import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx

from aura_agent.clock import SystemClock
from aura_agent.delivery.courier import Courier
from aura_agent.delivery.observer import Silence
from aura_agent.delivery.post import build_http
from aura_agent.delivery.resolver import Resolver
from aura_agent.outbox.heartbeats import CachedHeartbeat
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report import wire
from aura_agent.report.boots import current_boot_id
from aura_agent.report.record import Outcome, Report
from aura_agent.secret import Secret
from bench import herd
from bench.acknowledger import acknowledging

BIN = Path(sys.executable).parent
_CONCURRENT = 16
_CLIENTS = 50
_TAKES = 3
_NUMBERS = count()
_BOOT = current_boot_id()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a tenth of everything")
    scale = 10 if parser.parse_args().small else 1
    print(f"{'what':<66}{'goal':>11}{'figure':>9}   beside it")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        _reports(home, 3000 // scale)
        _drain(home, 20_000 // scale, 2000 // scale)
        _memory(home, 100_000 // scale)
    made = herd.simulate(10_000 // scale)
    for row in herd.table(made):
        figure(*row)
    if scale == 1:
        herd.DRAWING.write_text(herd.draw(made), encoding="utf-8")


def figure(what: str, goal: str, value: str, beside: str) -> None:
    print(f"{what:<66}{goal:>11}{value:>9}   {beside}", flush=True)


# -- accepting ---------------------------------------------------------------------------------------------------------


def _reports(home: Path, reports: int) -> None:
    """While the network is away: the heartbeats are known, and nobody answers at their ping URLs."""
    _filled(home / "reports" / "state", "http://127.0.0.1:9", 0, _CLIENTS).close()
    with _daemon(home / "reports", "http://127.0.0.1:9") as (directory, _):
        path = str(directory / "agent.sock")
        takes = [
            (_bare_per_s(home, reports), _clients_per_s(path, 1, reports), _clients_per_s(path, _CLIENTS, 3 * reports))
            for _ in range(_TAKES)
        ]
    bare, one, many = (statistics.median(column) for column in zip(*takes, strict=True))
    beside = f"/s; bare INSERT + commit {bare:.0f}/s"
    figure("durable reports over the socket, one client", ">= 0.45", f"{one / bare:.2f}", f"{one:.0f}{beside}")
    what = f"{_CLIENTS} clients, a connection per report"
    figure(what, ">= 3", f"{many / bare:.2f}", f"{many:.0f}{beside}")


def _bare_per_s(home: Path, rows: int) -> float:
    """The least that keeps a report: a row of the same size, committed and synced, one after the other."""
    path = home / f"bare{next(_NUMBERS)}.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE reports (id INTEGER PRIMARY KEY, line BLOB)")
    line = _line("beat0")
    began_s = time.perf_counter()
    for _ in range(rows):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO reports (line) VALUES (?)", (line,))
        connection.execute("COMMIT")
    took_s = time.perf_counter() - began_s
    connection.close()
    path.unlink()
    return rows / took_s


def _clients_per_s(path: str, clients: int, reports: int) -> float:
    """Reports per second of so many clients at once; each report has a connection of its own."""

    def client(lines: list[bytes]) -> None:
        for line in lines:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                connection.sendall(line)
                answer = connection.recv(1000)
                assert answer.startswith(b"ok "), answer

    each = reports // clients
    work = [[_line(f"beat{number}") for _ in range(each)] for number in range(clients)]
    threads = [threading.Thread(target=client, args=(lines,)) for lines in work]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return each * clients / (time.perf_counter() - began_s)


def _line(beat: str) -> bytes:
    return wire.encode("run", _report(beat).to_fields())


def _report(beat: str, *, replay_all: bool = False) -> Report:
    now = SystemClock().read()
    return Report(
        run_id=f"run{next(_NUMBERS):012}",
        boot_id=_BOOT,
        started=now,
        ended=now,
        outcome=Outcome.SUCCEEDED,
        ref=f"heartbeat:{beat}",
        job=beat,
        exit_code=0,
        replay_all=replay_all,
    )


# -- sending -----------------------------------------------------------------------------------------------------------


def _drain(home: Path, entries: int, beats: int) -> None:
    with acknowledging() as url:
        takes = []
        for number in range(_TAKES):
            bare_s = asyncio.run(_bare_posts_s(url, entries))
            takes.append((bare_s, asyncio.run(_drain_s(home / f"drain{number}", url, entries, beats))))
    bare, ours = (entries / statistics.median(column) for column in zip(*takes, strict=True))
    what = f'draining {entries:,} entries of {beats:,} heartbeats, replay = "all"'
    figure(what, ">= 0.5", f"{ours / bare:.2f}", f"{ours:.0f}/s; bare httpx, {_CONCURRENT} at once {bare:.0f}/s")


async def _bare_posts_s(url: str, posts: int) -> float:
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=_CONCURRENT)) as http:
        left = iter(range(posts))

        async def send() -> None:
            for number in left:
                response = await http.post(f"{url}/functions/v1/ping/{number:032x}")
                assert response.status_code == 200

        began_s = time.perf_counter()
        await asyncio.gather(*(send() for _ in range(_CONCURRENT)))
        return time.perf_counter() - began_s


async def _drain_s(directory: Path, url: str, entries: int, beats: int) -> float:
    outbox = _filled(directory, url, entries, beats)
    worker, rng = OutboxWorker(outbox), random.Random(1)
    async with build_http() as http:
        resolver = Resolver(worker, None, SystemClock(), rng, Silence())
        courier = Courier(worker, resolver, http, rng, Silence(), limit=_CONCURRENT, max_rate_per_s=1e6)
        began_s = time.perf_counter()
        await courier.drain(3600, retry=True)
        took_s = time.perf_counter() - began_s
    left = await worker.call(Outbox.waiting_count)
    assert left == 0, f"{left} left"
    await worker.close()
    return took_s


def _filled(directory: Path, url: str, entries: int, beats: int) -> Outbox:
    """Return a store in which so many entries wait for as many heartbeats, whose ping URLs it knows."""
    outbox = Outbox(str(directory), SystemClock(), owner="bench", hostname="bench")
    outbox.remember(
        [
            CachedHeartbeat(
                f"id{number}",
                f"beat{number}",
                86_400,
                3600,
                "up",
                None,
                Secret(f"{url}/functions/v1/ping/{number:032x}"),
                0,
            )
            for number in range(beats)
        ]
    )
    for begin in range(0, entries, beats):
        batch = min(beats, entries - begin)
        outbox.accept([_report(f"beat{number}", replay_all=True) for number in range(batch)])
    return outbox


# -- waiting -----------------------------------------------------------------------------------------------------------


def _memory(home: Path, entries: int) -> None:
    with _daemon(home / "empty", "http://127.0.0.1:9") as (_, pid):
        empty_bytes = _settled_rss_bytes(pid)
    _filled(home / "full" / "state", "http://127.0.0.1:9", entries, 2000).close()
    with _daemon(home / "full", "http://127.0.0.1:9") as (_, pid):
        full_bytes = _settled_rss_bytes(pid)
    grown = (full_bytes - empty_bytes) / 2**20
    what = f"{entries:,} entries wait, nobody answers: the daemon's RSS grows by"
    figure(what, "<= 15 MiB", f"{grown:.1f} MiB", f"{full_bytes / 2**20:.1f}; empty {empty_bytes / 2**20:.1f} MiB")


def _settled_rss_bytes(pid: int) -> int:
    """Return the RSS once it has not grown for some seconds."""
    highest, since_s = 0, time.monotonic()
    while time.monotonic() - since_s < 5:
        rss_bytes = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
        if rss_bytes > highest:
            highest, since_s = rss_bytes, time.monotonic()
        time.sleep(0.1)
    return highest


@contextmanager
def _daemon(home: Path, base_url: str) -> Iterator[tuple[Path, int]]:
    """Run a daemon without a token; yields where its socket is, and its pid."""
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(
        f'[api]\nbase_url = "{base_url}"\n[agent]\nstate_dir = "{home}/state"\nsocket = "{home}/agent.sock"\n'
        'flush_timeout = "1s"\n'
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    command = [BIN / "aura-agent", "run", "-c", home / "config.toml"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as daemon:
        try:
            _until((home / "agent.sock").exists)
            yield home, daemon.pid
        finally:
            daemon.terminate()


def _until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError("no daemon")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
