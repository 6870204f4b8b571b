"""What the daemon's scheduler costs: start, memory, idling, and a minute in which 500 jobs are due, beside its peers.

    make bench-schedule           ARGS="--quick" for one round with fewer jobs

All run the same jobs on the same machine in turns; goals that compare are ratios within one run. Peers are cronstable
and yacron, in an environment of their own (make installs them), and Debian's cron if it is installed and we are root.
Ready is who has run its @reboot job. The status pages are on only where the row says so.
"""

import argparse
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from aura_agent.devserver.threaded import ThreadedDevServer
from bench.measure import Held, held_by

OURS = str(Path(sys.executable).parent / "aura-agent")
_IDLE_S = 60.0
_DUE_AT_ONCE = 500
_READY_S = 600.0
_FAR_OFF = "{minute} {hour} 29 2 1"  # both day fields: cron takes either, and neither is near
_START_GOALS = {1: 0.35, 1000: 0.5, 10_000: 2.0}
_MEMORY_GOALS = {1: 48, 1000: 52, 10_000: 85}


class Daemon:
    """A scheduler in a directory of its own. Subclasses say how it is told of its jobs: *shells* by cron expression."""

    name = ""

    def __init__(self, home: Path) -> None:
        self.home = home

    def write(self, jobs: list[tuple[str, str]], page_port: int | None) -> list[str]:
        """Write the config for *jobs* (expression, line of shell) and return the command."""
        raise NotImplementedError

    @contextmanager
    def running(self, jobs: list[tuple[str, str]], page_port: int | None = None) -> Iterator["subprocess.Popen[bytes]"]:
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(mode=0o700)
        command = self.write(jobs, page_port)
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
        with (self.home / "log").open("wb") as log:
            daemon = subprocess.Popen(command, env=kept, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield daemon
        finally:
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


class AuraAgent(Daemon):
    name = "aura-agent"

    def __init__(self, home: Path, server: ThreadedDevServer) -> None:
        super().__init__(home)
        self.server = server
        server.create_heartbeat("ready", expected_interval=86_400)

    def write(self, jobs: list[tuple[str, str]], page_port: int | None) -> list[str]:
        (self.home / "token").write_text(self.server.token)
        (self.home / "token").chmod(0o600)
        lines = [
            (
                f'[api]\nbase_url = "{self.server.base_url}"\ntoken_file = "{self.home}/token"\n'
                f'[agent]\nstate_dir = "{self.home}/state"\nsocket = "{self.home}/agent.sock"\nlog_level = "warning"\n'
            ),
        ]
        if page_port is not None:
            lines.append(f'[status]\nlisten = "127.0.0.1:{page_port}"\n')
        for number, (expression, shell) in enumerate(jobs):
            name = "ready" if expression == "@reboot" else f"job-{number}"
            # One heartbeat for all: what is measured is the schedule, and one delivery is wanted before memory is.
            lines.append(f"[jobs.{name}]\nheartbeat = 'ready'\nschedule = '{expression}'\nshell = '{shell}'\n")
        (self.home / "config.toml").write_text("".join(lines))
        return [OURS, "run", "-c", str(self.home / "config.toml")]


class Yaml(Daemon):
    """Cronstable and yacron have one format."""

    def __init__(self, home: Path, program: Path) -> None:
        super().__init__(home)
        self.name, self._program = program.name, str(program)

    def write(self, jobs: list[tuple[str, str]], page_port: int | None) -> list[str]:
        lines = [] if page_port is None else [f"web:\n  listen:\n    - http://127.0.0.1:{page_port}\n"]
        lines.append("defaults:\n  captureStderr: false\njobs:\n")
        for number, (expression, shell) in enumerate(jobs):
            lines.append(f"  - name: job-{number}\n    command: '{shell}'\n    schedule: '{expression}'\n")
        (self.home / "jobs.yaml").write_text("".join(lines))
        return [self._program, "-c", str(self.home / "jobs.yaml")]


class DebianCron(Daemon):
    """In a mount namespace of its own, where there is no crontab but ours."""

    name = "Debian's cron"

    def write(self, jobs: list[tuple[str, str]], page_port: int | None) -> list[str]:  # noqa: ARG002  # it has no page
        (self.home / "root").write_text("".join(f"{expression} {shell}\n" for expression, shell in jobs))
        (self.home / "root").chmod(0o600)
        (self.home / "none").mkdir()
        inside = (
            f"mount -t tmpfs -o mode=1730 none /var/spool/cron && mkdir -m 1730 /var/spool/cron/crontabs"
            f" && install -m 600 {self.home}/root /var/spool/cron/crontabs/root"
            f" && mount --bind {self.home}/none /etc/cron.d && mount --bind /dev/null /etc/crontab"
            f" && mount -t tmpfs none /run && exec cron -f"
        )
        return ["unshare", "--mount", "sh", "-c", inside]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, no 10,000 jobs, ten seconds of idling")
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is taken (3)")
    parser.add_argument("--peers", type=Path, help="the bin directory that has cronstable and yacron")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as place, ThreadedDevServer() as server:
        ours = AuraAgent(Path(place) / "ours", server)
        peers: list[Daemon] = []
        programs = [] if options.peers is None else [options.peers / name for name in ("cronstable", "yacron")]
        peers.extend(Yaml(Path(place) / program.name, program) for program in programs if program.exists())
        if shutil.which("cron") is not None and os.geteuid() == 0:
            peers.append(DebianCron(Path(place) / "cron"))
        print(f"{'':<58}{'goal':>9}{'aura-agent':>12}", *(f"{peer.name:>14}" for peer in peers))
        for count in (1, 1000) if options.quick else (1, 1000, 10_000):
            # yacron takes minutes for 10,000 jobs: 403 s on the machine that the goals were set on.
            able = [peer for peer in peers if count < 10_000 or peer.name != "yacron"]
            _start_and_memory(ours, peers, able, count, rounds)
        _idle(ours, peers, 10.0 if options.quick else _IDLE_S)
        _looking(ours, 10_000 if options.quick else 100_000, rounds)
        _due_at_once(ours, peers, Path(place), 100 if options.quick else _DUE_AT_ONCE, rounds)


def _start_and_memory(ours: AuraAgent, peers: list[Daemon], able: list[Daemon], count: int, rounds: int) -> None:
    starts: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for _ in range(rounds):
        for daemon in (ours, *able):
            began = len(ours.server.pings())
            begun_s = time.monotonic()
            with daemon.running([("@reboot", f"touch {daemon.home}/ready"), *_not_due(count - 1)]) as process:
                _until((daemon.home / "ready").exists)
                starts.setdefault(daemon.name, []).append(time.monotonic() - begun_s)
                if daemon is ours:
                    _until(lambda began=began: len(ours.server.pings()) > began)  # type: ignore[misc]
                memory.setdefault(daemon.name, []).append(_settled(process.pid).rss_bytes / 2**20)
    _row(f"start to ready, {count:,} jobs", f"<= {_START_GOALS[count]:g} s", ours, peers, starts, "{:.2f} s")
    _row(f"RSS idle, {count:,} jobs", f"<= {_MEMORY_GOALS[count]} MiB", ours, peers, memory, "{:.1f} MiB")


def _idle(ours: AuraAgent, peers: list[Daemon], span_s: float) -> None:
    spent: dict[str, list[float]] = {}
    wakeups: dict[str, list[float]] = {}
    for number, daemon in enumerate((ours, *peers)):
        jobs = [("@reboot", f"touch {daemon.home}/ready"), *_not_due(999)]
        with daemon.running(jobs, page_port=_free_port() if number < 3 else None) as process:
            _until((daemon.home / "ready").exists)
            _settled(process.pid)
            time.sleep(2.0)
            before_s = _cpu_s(process.pid)
            wakeups[daemon.name] = [_seconds_awake(process.pid, round(span_s))]
            spent[daemon.name] = [(_cpu_s(process.pid) - before_s) * 1000]
    _row(f"CPU over {span_s:.0f} s idle, 1,000 jobs, status page on", "<= 10 ms", ours, peers, spent, "{:.1f} ms")
    # One look more than the time has halves of a minute: that at the start, or one that falls into two seconds.
    _row("seconds of it in which a thread woke up", f"<= {span_s // 30 + 1:.0f}", ours, peers, wakeups, "{:.0f}")


def _looking(ours: AuraAgent, runs: int, rounds: int) -> None:
    """The processor time of /metrics with 1,000 jobs, half of which have run: *runs* times in all, beside once each."""
    port, took_s = _free_port(), {500: list[float](), runs: list[float]()}
    for count, spans_s in took_s.items():
        with ours.running([("@reboot", f"touch {ours.home}/ready"), *_not_due(999)], port) as process:
            _until((ours.home / "ready").exists)
            _settled(process.pid)
            _put_on_record(ours.home / "state" / "outbox.db", count)
            for _ in range(rounds + 1):
                before_s = _cpu_s(process.pid)
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                    answer.read()
                spans_s.append(_cpu_s(process.pid) - before_s)
    few_s, many_s = (statistics.median(spans_s[1:]) for spans_s in took_s.values())
    ratio = {ours.name: [many_s / few_s]}
    _row(f"/metrics, 1,000 jobs: CPU for {runs:,} runs / 500", "<= 2.0", ours, [], ratio, "{:.2f}")


def _put_on_record(database: Path, runs: int) -> None:
    now_ns = time.time_ns()
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.executemany(
            "INSERT INTO runs VALUES (?, ?, 'ready', 'succeeded', ?, 1.0, 0, NULL, 1, '', '', NULL, NULL, NULL, NULL)",
            ((f"r{number}", f"job-{number * 500 // runs}", now_ns - (runs - number) * 10**9) for number in range(runs)),
        )


def _due_at_once(ours: AuraAgent, peers: list[Daemon], place: Path, count: int, rounds: int) -> None:
    ratios: dict[str, list[tuple[float, float]]] = {}
    spent: dict[str, list[float]] = {}
    bare: list[tuple[float, float]] = []
    for _ in range(rounds):
        bare.append(_quantiles(_spawned_bare(place / "bare", count)))
        for daemon in (ours, *peers):
            out = daemon.home / "out"
            # Two minutes from now at the least, so that everybody is at rest when it comes.
            due_s = (int(time.time() + 20) // 60 + 1) * 60
            at = time.localtime(due_s)
            percent = r"\%" if isinstance(daemon, DebianCron) else "%"
            shell = f"date +{percent}s.{percent}N >>{out}"
            with daemon.running([(f"{at.tm_min} {at.tm_hour} * * *", shell)] * count) as process:
                time.sleep(max(0.0, due_s - 1 - time.time()))
                before_s = _cpu_s(process.pid)
                _until(lambda out=out: out.exists() and out.read_bytes().count(b"\n") == count)  # type: ignore[misc]
                time.sleep(2.0)
                spent.setdefault(daemon.name, []).append(_cpu_s(process.pid) - before_s)
                late_s = [float(line) - due_s for line in out.read_text().split()]
            ratios.setdefault(daemon.name, []).append(_quantiles(late_s))
    for index, (name, goal) in enumerate((("p50", "<= 1.00"), ("p99", "<= 1.05"))):
        floor_s = statistics.median(pair[index] for pair in bare)
        figures = {who: [pair[index] / floor_s for pair in taken] for who, taken in ratios.items()}
        what = f"{count} jobs due at once: lateness {name} / bare {floor_s:.2f} s"
        _row(what, goal, ours, peers, figures, "{:.2f}")
    _row("the daemon's own CPU for that", "<= 0.20 s", ours, peers, spent, "{:.2f} s")


def _spawned_bare(out: Path, count: int) -> list[float]:
    """Return how late each of *count* starts is in a bare loop of posix_spawn."""
    out.unlink(missing_ok=True)
    began_s = time.time()
    argv = ["/bin/sh", "-c", f"date +%s.%N >>{out}"]
    pids = [os.posix_spawn("/bin/sh", argv, {"PATH": os.defpath}) for _ in range(count)]
    for pid in pids:
        os.waitpid(pid, 0)
    return [float(line) - began_s for line in out.read_text().split()]


def _not_due(count: int) -> list[tuple[str, str]]:
    return [(_FAR_OFF.format(minute=number % 60, hour=number // 60 % 24), "true") for number in range(count)]


def _quantiles(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


def _settled(pid: int) -> Held:
    """Return what *pid* holds once it has used no processor for a second."""
    while True:
        before = _cpu_s(pid)
        time.sleep(1.0)
        if _cpu_s(pid) == before:
            return held_by(pid)


def _cpu_s(pid: int) -> float:
    """Return the processor time of all living threads of *pid*; finer than the ticks of proc_pid_stat(5)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _seconds_awake(pid: int, span_s: int) -> int:
    """Return in how many of the next *span_s* seconds any thread of *pid* wakes up."""
    awake, count = 0, _wakeups(pid)
    for _ in range(span_s):
        time.sleep(1.0)
        before, count = count, _wakeups(pid)
        awake += count > before
    return awake


def _wakeups(pid: int) -> int:
    status = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for text in status)


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _row(what: str, goal: str, ours: Daemon, peers: list[Daemon], taken: dict[str, list[float]], form: str) -> None:
    figures = [form.format(statistics.median(taken[who.name])) if who.name in taken else "-" for who in (ours, *peers)]
    print(f"{what:<58}{goal:>9}{figures[0]:>12}", *(f"{figure:>14}" for figure in figures[1:]), flush=True)


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _READY_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it has not happened")
        time.sleep(0.002)


if __name__ == "__main__":
    main()
