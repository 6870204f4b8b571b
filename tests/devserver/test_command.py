"""``aura-agent dev-server`` as a process."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

_COMMAND = [sys.executable, "-c", "from aura_agent.cli.main import main; main()", "dev-server"]


@contextmanager
def _running(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command and yield it with the first line that it prints."""
    with subprocess.Popen(
        [*_COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_says_where_in_one_line_of_json_and_ends_with_0(tmp_path: Path, signum: signal.Signals) -> None:
    """Base URL and token work as soon as the line is there; nothing else is ever printed; a signal ends it well."""
    seed = tmp_path / "seed.toml"
    seed.write_text('[[heartbeats]]\nname = "backup"\n')
    with _running("--json", "--seed", str(seed), "--db", str(tmp_path / "aura.db")) as (process, line):
        said = json.loads(line)
        with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {said['token']}"}) as http:
            [backup] = http.get(said["base_url"] + "/heartbeats").json()["data"]
            ping_url = http.get(f"{said['base_url']}/heartbeats/{backup['id']}/ping-url").json()["url"]
            assert http.post(ping_url).is_success
            assert http.post(ping_url + "x").status_code == 404
            limited = http.get(said["base_url"] + "/heartbeats")

            process.send_signal(signum)
            stdout, stderr = process.communicate(timeout=20)

    assert set(said) == {"base_url", "token"}
    assert limited.headers["x-ratelimit-remaining-minute"] == "57"
    assert (process.returncode, stdout, stderr) == (0, "", "")


def test_without_json_it_tells_people() -> None:
    """One line, with the base URL and the token; --no-rate-limit does what it says."""
    with _running("--no-rate-limit") as (_, line):
        words = line.split()
        base_url = next(word for word in words if word.startswith("http://127.0.0.1:"))
        answer = httpx.get(base_url + "/heartbeats", headers={"Authorization": f"Bearer {words[-1]}"}, trust_env=False)

    assert answer.status_code == 200
    assert "x-ratelimit-remaining-minute" not in answer.headers


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--seed", "missing.toml"], 1, "missing.toml: can't be read: No such file or directory"),
        (["--db", "missing/aura.db"], 1, "missing/aura.db: No such file or directory; choose another --db"),
        (["--port", "70000"], 2, "--port"),
    ],
)
def test_an_error_is_one_line(tmp_path: Path, options: list[str], status: int, said: str) -> None:
    """On stderr, with status 1, or 2 for usage."""
    done = subprocess.run([*_COMMAND, *options], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
