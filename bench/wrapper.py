"""What aura-run costs its job: paired figures of one run on one machine, and the goals that they are held against.

    make bench-wrapper            ARGS="-n 20" for a quick look

Ratios are medians over pairs of ours and the bare command, taken in turns. Services at a distance and hanging ones are
embedded Auras with faults; each has a daemon of its own. Peers (sentry-cli) are measured if they are installed.
Where a report is kept the disk's syncs are part of the time: TMPDIR says which disk, and it should have nothing else
to do.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from aura_agent.devserver.threaded import ThreadedDevServer
from bench.distant import distant_service
from bench.measure import Pairs, beside_its_job, first_byte_s, pairs, run_s, through_a_pipe_s

BIN = Path(sys.executable).parent
AURA_RUN = str(BIN / "aura-run")
BARE = [sys.executable, "-c", "pass"]
_MUCH = ["head", "-c", "4G", "/dev/zero"]
_SPAN_S = 20.0
_HOUR_S = 3600.0
_DISTANCES_S = {"50 ms away": 0.05, "200 ms away": 0.2, "hanging": None}


class Host:
    """A directory with a config, a store and a socket; with ``daemon()`` somebody listens there."""

    def __init__(self, home: Path, server: ThreadedDevServer) -> None:
        home.mkdir()
        self._home = home
        server.create_heartbeat("bench", expected_interval=3600)
        (home / "token").write_text(server.token)
        (home / "token").chmod(0o600)
        (home / "config.toml").write_text(
            f'[api]\nbase_url = "{server.base_url}"\ntoken_file = "{home}/token"\n'
            f'[agent]\nstate_dir = "{home}/state"\nsocket = "{home}/run/agent.sock"\n'
        )
        # Without what would keep Python from caching our modules: an installed wheel has them compiled.
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
        self.environment = kept | {"AURA_STATE_DIR": f"{home}/state", "AURA_SOCKET": f"{home}/run/agent.sock"}

    @contextmanager
    def daemon(self) -> Iterator[None]:
        command = [BIN / "aura-agent", "run", "-c", self._home / "config.toml"]
        with subprocess.Popen(command, env=self.environment, stderr=subprocess.DEVNULL) as daemon:
            try:
                _until((self._home / "run/agent.sock").exists)
                yield
            finally:
                daemon.terminate()

    def run_s(self, *arguments: str) -> float:
        return run_s([AURA_RUN, *arguments], self.environment)

    def bare_s(self) -> float:
        return run_s(BARE, self.environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=50, help="pairs for each figure")
    count = parser.parse_args().n
    print(f"{'what':<54}{'goal':>9}{'figure':>10}   beside it (medians of {count} pairs)")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        near = Host(Path(name) / "near", stack.enter_context(ThreadedDevServer()))
        _alone(near, count)
        stack.enter_context(near.daemon())
        _with_a_daemon(near, count)
        for distance, delay_s in _DISTANCES_S.items():
            server = stack.enter_context(ThreadedDevServer())
            far = Host(Path(name) / distance.replace(" ", "-"), server)
            if delay_s is None:
                server.set_fault("hang")
            else:
                server.set_fault("slow", delay_s=delay_s)
            with far.daemon():
                _at_a_distance(near, far, distance, count)
        _peers(near, count)
        _memory_and_time(near)
        _throughput(near, max(5, count // 5))


def _alone(host: Host, count: int) -> None:
    spool = pairs(lambda: host.run_s("--no-wait", "-H", "bench", "--", "true"), host.bare_s, count)
    _ratio("aura-run --no-wait -- true, no daemon (spool)", "<= 1.40", spool, "python -c pass")
    job = ["/bin/echo"]
    wrapped = [AURA_RUN, "--no-wait", "-H", "bench", "--", *job]
    # What the bare job needs from its own exec to its first byte is no part of what we add.
    itself = pairs(lambda: first_byte_s(wrapped, host.environment), lambda: first_byte_s(job, host.environment), count)
    start = pairs(lambda: first_byte_s(wrapped, host.environment) - itself.second, host.bare_s, count)
    _ratio("from exec of aura-run to exec of the job", "<= 1.20", start, "python -c pass")


def _with_a_daemon(host: Host, count: int) -> None:
    named = pairs(lambda: host.run_s("-H", "bench", "--", "true"), host.bare_s, count)
    _ratio("aura-run -- true, daemon up", "<= 1.35", named, "python -c pass")
    unnamed = pairs(lambda: host.run_s("--", "true"), host.bare_s, count)
    _ratio("the same, heartbeat by the command's name", "<= 1.35", unnamed, "python -c pass")


def _peers(host: Host, count: int) -> None:
    sentry = shutil.which("sentry-cli")
    for delay_s in (0.0, *filter(None, _DISTANCES_S.values())) if sentry is not None else ():
        with distant_service(delay_s) as port:
            environment = host.environment | {"SENTRY_DSN": f"http://key@127.0.0.1:{port}/1"}
            command = [str(sentry), "monitors", "run", "bench", "--", "true"]
            taken = pairs(lambda: run_s(command, environment), host.bare_s, count)  # noqa: B023  # called at once
        _ratio(f"sentry-cli monitors run bench -- true, {delay_s * 1000:.0f} ms away", "", taken, "python -c pass")


def _at_a_distance(near: Host, far: Host, distance: str, count: int) -> None:
    command = ("-H", "bench", "--", "true")
    compared = pairs(lambda: far.run_s(*command), lambda: near.run_s(*command), count)
    _ratio(f"aura-run -- true, daemon up, service {distance}", "~ 1.00", compared, "service near")


def _memory_and_time(host: Host) -> None:
    wrapped = [AURA_RUN, "-H", "bench", "--", "sh", "-c", "read x; exit 0"]
    held, later, total_ns = beside_its_job(wrapped, host.environment, _SPAN_S)
    per_hour_ns = (later.cpu_ns - held.cpu_ns) / _SPAN_S * _HOUR_S
    _figure("RSS while the job runs", "<= 10 MiB", f"{held.rss_bytes / 2**20:.1f} MiB", "daemon up")
    _figure(
        "PSS while the job runs", "<= 6 MiB", f"{held.pss_bytes / 2**20:.1f} MiB", "shared with who else runs Python"
    )
    _figure("threads while the job runs", "1", str(held.threads), "")
    _figure(
        "processor time over a job of one hour",
        "< 20 ms",
        f"{(total_ns + per_hour_ns) / 1e6:.1f} ms",
        f"start and end with the job's own {total_ns / 1e6:.1f} ms; {later.wakeups - held.wakeups} wakeups and"
        f" {(later.cpu_ns - held.cpu_ns) / 1e6:.1f} ms in {_SPAN_S:.0f} s, extrapolated",
    )


def _throughput(host: Host, count: int) -> None:
    for attach, goal in (("none", ">= 0.97"), ("output", ">= 0.90")):
        wrapped = [AURA_RUN, "-H", "bench", "--attach", attach, "--", *_MUCH]
        # Throughput is the inverse of time: the bare command's time over ours.
        taken = pairs(
            lambda: through_a_pipe_s(_MUCH, host.environment),
            lambda wrapped=wrapped: through_a_pipe_s(wrapped, host.environment),  # type: ignore[misc]
            count,
        )
        beside = f"{4 / taken.second:.1f} of {4 / taken.first:.1f} GiB/s, {count} pairs"
        _figure(f'output through to a pipe, attach = "{attach}"', goal, f"{taken.ratio:.2f}", beside)


def _ratio(what: str, goal: str, taken: Pairs, theirs: str) -> None:
    _figure(what, goal, f"{taken.ratio:.2f}", f"{taken.first * 1000:.1f} ms; {theirs} {taken.second * 1000:.1f} ms")


def _figure(what: str, goal: str, figure: str, beside: str) -> None:
    print(f"{what:<54}{goal:>9}{figure:>10}   {beside}", flush=True)


def _until(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError("no daemon")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
