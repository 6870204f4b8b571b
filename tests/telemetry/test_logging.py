"""Logging as a process really does it: children whose stderr is read."""

import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

SETUP = """
import atexit, logging, os, sys, asyncio
import structlog
from aura_agent.telemetry.log_writer import LogWriter
from aura_agent.telemetry.logging import configure_logging, open_stderr, take_stderr
from aura_agent.telemetry.redact import Redactor
redactor, writer = Redactor(), open_stderr()
atexit.register(writer.flush, 30)
TOKEN, URL = "aura_live_0123456789", "https://ping.example/functions/v1/ping/s3cr3t-key"
redactor.add(TOKEN)
redactor.add(URL)
log = structlog.get_logger()
"""


def run(script: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SETUP + script], capture_output=True, text=True, timeout=60, check=False, **more
    )


def lines(child: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert "0123456789" not in child.stdout + child.stderr
    assert "s3cr3t" not in child.stdout + child.stderr
    return [json.loads(line) for line in child.stderr.splitlines()]


def test_events_are_json_on_stderr_and_stdout_stays_clean() -> None:
    """One JSON object a line: time in UTC, level, event, facts, and what is bound to the context."""
    child = run(
        """
configure_logging(redactor, writer)
structlog.contextvars.bind_contextvars(job="backup", run_id="r1")
log.debug("too.quiet")
log.info("ping.delivered", status=200, where=URL)
"""
    )

    [line] = lines(child)
    assert child.stdout == ""
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "ping.delivered",
        "job": "backup",
        "run_id": "r1",
        "status": 200,
        "where": "[redacted]",
    }


def test_no_exception_brings_a_secret_to_light() -> None:
    """Tracebacks of logged, chained and grouped exceptions are there, without the secrets and without local variables."""
    child = run(
        """
configure_logging(redactor, writer)
def deep():
    local_variable = "value of " + "a local"
    raise ValueError(URL)
try:
    try:
        deep()
    except ValueError as exc:
        raise ExceptionGroup(TOKEN, [RuntimeError(URL)]) from exc
except ExceptionGroup as exc:
    log.exception("agent.crashed", problem=exc, nested={"url": [URL.encode()]})
"""
    )

    [line] = lines(child)
    assert "in deep" in line["exception"]
    assert "ExceptionGroup" in line["exception"]
    assert "value of a local" not in child.stderr


def test_libraries_go_the_same_way_from_warning_on() -> None:
    """httpx's lines with URLs don't come, warnings of libraries do, redacted and with their origin."""
    child = run(
        """
configure_logging(redactor, writer, level="debug")
print(logging.getLogger("httpx").level, logging.getLogger("httpcore").level)
for name in ("httpx", "httpcore.http11", "asyncio", "uvicorn.access", "other"):
    logging.getLogger(name).debug("GET %s", URL)
    logging.getLogger(name).info("GET %s", URL)
logging.getLogger("httpx").warning("odd answer of %s", URL)
logging.getLogger("other").error("%s", "too", "many")
async def forgotten():
    async def fails():
        raise ValueError(URL)
    task = asyncio.create_task(fails())
    await asyncio.wait({task})
    del task
asyncio.run(forgotten())
"""
    )

    httpx_line, other, asyncio_line = lines(child)
    assert child.stdout == "30 30\n"
    assert (httpx_line["library"], httpx_line["level"], httpx_line["text"]) == (
        "httpx",
        "warning",
        "odd answer of [redacted]",
    )
    assert (other["library"], other["level"], other["text"]) == ("other", "error", "%s")
    assert asyncio_line["library"] == "asyncio"
    assert "ValueError: [redacted]" in asyncio_line["exception"]


def test_crash_report_is_redacted_too() -> None:
    """An exception that nobody caught is one log event, not a traceback with a URL in it."""
    child = run(
        "configure_logging(redactor, writer)\ntake_stderr(writer, redactor)\nraise ValueError(f'bad {URL} with {TOKEN}')"
    )

    [line] = lines(child)
    assert child.returncode == 1
    assert (line["event"], line["level"]) == ("agent.crashed", "critical")
    assert "ValueError: bad [redacted] with [redacted]" in line["exception"]


def test_secret_learned_later_is_hidden_from_then_on() -> None:
    """A ping URL that comes from the API in the middle of the run is known to loggers that exist already."""
    child = run(
        "configure_logging(redactor, writer)\nredactor.add('learned-later')\nlog.info('x.seen', at='learned-later')"
    )

    assert lines(child)[0]["at"] == "[redacted]"


def test_level_can_be_changed_while_running() -> None:
    """A second call replaces the first: no line comes twice, and old loggers obey."""
    child = run(
        """
configure_logging(redactor, writer, level="error")
log.info("a.hidden")
configure_logging(redactor, writer, level="info")
log.info("b.shown")
logging.getLogger("x").warning("once")
"""
    )

    assert [line["event"] for line in lines(child)] == ["b.shown", "library.warned"]


@pytest.mark.parametrize(
    "opening",
    [
        pytest.param("writer = LogWriter(os.open('/dev/full', os.O_WRONLY))", id="full disk"),
        pytest.param("r, w = os.pipe(); os.close(r); writer = LogWriter(w)", id="reader is gone"),
        pytest.param("r, w = os.pipe(); os.close(w); writer = LogWriter(w)", id="closed"),
        pytest.param("sys.stderr = None; writer = open_stderr()", id="no stderr at all"),
    ],
)
def test_log_that_cannot_be_written_stops_nothing(opening: str) -> None:
    """A full disk, a reader that is gone, a closed stream: the program goes on as if the line had been written."""
    child = run(
        f"""
{opening}
configure_logging(redactor, writer)
for _ in range(3):
    log.info("ping.delivered", text="\\udcff")
logging.getLogger("library").warning("odd")
print("went on", flush=True)
os._exit(0)
"""
    )

    assert (child.stdout, child.returncode) == ("went on\n", 0), child.stderr


def test_terminal_gets_lines_for_people_without_secrets() -> None:
    """On a terminal the same facts come as text, exceptions included, and just as redacted."""
    controller, terminal = pty.openpty()
    script = SETUP + (
        "configure_logging(redactor, writer)\n"
        "try:\n    raise ValueError(URL)\n"
        "except ValueError:\n    log.exception('ping.parked', job='backup', token=TOKEN)\n"
        "log.info('the.end')\n"
    )
    child = subprocess.Popen([sys.executable, "-W", "error", "-c", script], stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(controller, 65536):
            shown += chunk
    except OSError:  # Linux says EIO when the last holder of a terminal has closed it
        pass
    finally:
        os.close(controller)
        child.wait(timeout=60)

    text = shown.decode()
    assert child.returncode == 0, text
    assert "ping.parked" in text
    assert "backup" in text
    assert "ValueError" in text
    assert "the.end" in text
    assert "{" not in text
    assert "0123456789" not in text
    assert "s3cr3t" not in text


def test_nothing_is_set_up_by_importing() -> None:
    """Importing the module neither configures nor touches the root logger."""
    child = run("print(structlog.is_configured(), logging.getLogger().handlers)")

    assert child.stdout == "False []\n"
