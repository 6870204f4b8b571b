"""How much aura-run adds to a job: paired whole-process times in one run, as ratios to a bare `python -c pass`.

    make bench

Prints a table of medians. Commands of a pair take turns, so that a machine whose speed drifts is fair to both.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from aura_agent.devserver.threaded import ThreadedDevServer

BIN = Path(sys.executable).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=50, help="runs of each command")
    count = parser.parse_args().n
    bare = [sys.executable, "-c", "pass"]
    with tempfile.TemporaryDirectory() as name, ThreadedDevServer() as server:
        home = Path(name)
        environment = _prepare(home, server)
        wrapped = [str(BIN / "aura-run"), "-H", "bench", "--", "true"]
        rows = [
            (
                "aura-run --no-wait -- true, no daemon",
                _pair([*wrapped[:1], "--no-wait", *wrapped[1:]], bare, environment, count),
            )
        ]
        daemon = subprocess.Popen(
            [BIN / "aura-agent", "run"],
            env=environment | {"AURA_CONFIG": str(home / "config.toml")},
            stderr=subprocess.DEVNULL,
        )
        try:
            _until((home / "run/agent.sock").exists)
            rows.append(("aura-run -- true, daemon up", _pair(wrapped, bare, environment, count)))
            unnamed = [str(BIN / "aura-run"), "--", "true"]
            rows.append(("the same, heartbeat by the command's name", _pair(unnamed, bare, environment, count)))
        finally:
            daemon.terminate()
            daemon.wait()
    print(f"{'what':<45}{'median ms':>10}{'bare ms':>10}{'ratio':>8}   (paired medians of {count})")
    for what, (ours, theirs, ratio) in rows:
        print(f"{what:<45}{ours * 1000:>10.1f}{theirs * 1000:>10.1f}{ratio:>8.2f}")


def _pair(
    ours: Sequence[str], theirs: Sequence[str], environment: dict[str, str], count: int
) -> tuple[float, float, float]:
    """Return the medians of both commands in seconds, and of the ratios pair by pair."""
    pairs = [(_time(ours, environment), _time(theirs, environment)) for _ in range(count + 2)][2:]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def _time(command: Sequence[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _prepare(home: Path, server: ThreadedDevServer) -> dict[str, str]:
    server.create_heartbeat("bench", expected_interval=3600)
    (home / "token").write_text(server.token)
    (home / "token").chmod(0o600)
    (home / "config.toml").write_text(
        f'[api]\nbase_url = "{server.base_url}"\ntoken_file = "{home}/token"\n'
        f'[agent]\nstate_dir = "{home}/state"\nsocket = "{home}/run/agent.sock"\n'
    )
    # Without what would keep Python from caching our modules: an installed wheel has them compiled.
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    return kept | {"AURA_STATE_DIR": f"{home}/state", "AURA_SOCKET": f"{home}/run/agent.sock"}


def _until(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError("no daemon")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
