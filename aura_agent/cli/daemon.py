"""Commands that speak to the running daemon, over its control socket."""

import os
import socket
from typing import Any, cast
from urllib.parse import quote

import click

from aura_agent.cli.output import say
from aura_agent.cli.settings import config_option, json_option, local, print_json, print_table, warn_of_config
from aura_agent.config.load import read_partly
from aura_agent.config.settings import config_path
from aura_agent.errors import ConfigError, DaemonError
from aura_agent.report import places
from aura_agent.units import format_duration

_TIMEOUT_S = 10.0
_PROBE_S = 1.0


@click.command()
@config_option
@json_option
def status(config_file: str | None, as_json: bool) -> None:
    """Show what runs, what ran, what waits and why; exit 1 when no daemon answers.

    Example: aura-agent status --json
    """
    state = ask_daemon(config_file, "GET", "/status")
    path = config_path(config_file, os.environ)
    if path is not None and not state["config_problem"]:  # a daemon that doesn't watch its config can't know
        warn_of_config(read_partly(path, check_rules=False))  # the rules of a thousand jobs take seconds
    if as_json:
        print_json(state)
        return
    waiting = state["queue"]["waiting"]
    say(
        f"aura-agent {state['version']}, pid {state['pid']}, since {local(state['started_at'])}; "
        f"{waiting} {'ping waits' if waiting == 1 else 'pings wait'}, {state['in_flight']} in flight"
    )
    if state["config_problem"]:
        say(f"the config on disk is broken, the former one is in force: {state['config_problem']}")
    if state["needs_restart"]:
        say(f"only a restart makes the config's new values hold for {', '.join(state['needs_restart'])}")
    for problem in state["problems"]:
        say(f"problem: {problem}")
    for warning in state.get("warnings", ()):  # an older daemon has none
        say(f"warning: {warning}")
    for notice in state.get("notices", ()):
        say(f"note: {notice}")
    print_table(
        ["job", "heartbeat", "state", "last", "ping", "next"],
        [_job_row(job) for job in state["jobs"]],
        empty="no jobs in the config",
    )


@click.command()
@click.argument("job")
@config_option
@json_option
def trigger(job: str, config_file: str | None, as_json: bool) -> None:
    """Run JOB now, beside its schedule; a success is pinged like any other.

    Example: aura-agent trigger backup
    """
    answer = ask_daemon(config_file, "POST", f"/jobs/{quote(job, safe='')}/trigger")
    said = {
        "looking": "looked at",
        "started": f"started as run {answer.get('run')}",
        "waiting": f"run {answer.get('run')} waits: {answer.get('reason')}",
    }
    _tell(answer, f"{job}: {said[answer['state']]}", as_json=as_json)


@click.command()
@click.argument("job")
@config_option
@json_option
def pause(job: str, config_file: str | None, as_json: bool) -> None:
    """Pause JOB until `resume`. Survives restarts.

    Aura goes on waiting for its pings: pause the heartbeat there too if it should not alarm.

    Example: aura-agent pause backup
    """
    answer = ask_daemon(config_file, "POST", f"/jobs/{quote(job, safe='')}/pause")
    _tell(answer, f"{job}: paused; its heartbeat in Aura is not, and will alarm when no ping comes", as_json=as_json)


@click.command()
@click.argument("job")
@config_option
@json_option
def resume(job: str, config_file: str | None, as_json: bool) -> None:
    """End JOB's pause; runs missed while paused are skipped.

    Example: aura-agent resume backup
    """
    answer = ask_daemon(config_file, "POST", f"/jobs/{quote(job, safe='')}/resume")
    _tell(answer, f"{job}: resumed", as_json=as_json)


@click.command()
@config_option
@json_option
def reload(config_file: str | None, as_json: bool) -> None:
    """Make the running daemon read its config anew; if it is broken, the old one stays in force.

    Example: aura-agent reload
    """
    answer = ask_daemon(config_file, "POST", "/reload")
    later = f"; only a restart changes {', '.join(answer['needs_restart'])}" if answer["needs_restart"] else ""
    _tell(answer, f"reloaded: {answer['jobs']} jobs{later}", as_json=as_json)


def _tell(answer: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        say(sentence)


def ask_daemon(config_file: str | None, method: str, path: str, body: object = None) -> dict[str, Any]:
    """Return the daemon's JSON answer; *body* goes as JSON. Raises DaemonError."""
    import httpx

    from aura_agent.api.transport import build_socket_client

    control, reports = _sockets(config_file)
    try:
        with build_socket_client(control, base_url="http://aura-agent", timeout_s=_TIMEOUT_S) as client:
            response = client.request(method, path, json=body)
            answer = cast("dict[str, Any]", response.json())
    except httpx.ConnectError as problem:
        raise DaemonError(f"no daemon answers at {control}: {_why_not(control, reports)}") from problem
    except httpx.TimeoutException as problem:
        raise DaemonError(
            f"the daemon at {control} hangs: no answer in {_TIMEOUT_S:.0f} s; it may still do what it was asked"
        ) from problem
    except (httpx.HTTPError, ValueError) as problem:
        raise DaemonError(f"the daemon at {control} gave no proper answer: {type(problem).__name__}") from problem
    if response.is_error:
        raise DaemonError(str(answer.get("error", response.status_code)))
    return answer


def _sockets(config_file: str | None) -> tuple[str, str]:
    """Return the daemon's sockets, for commands and for reports. Raises ConfigError: it can't be known where."""
    path = config_path(config_file, os.environ)
    said = None
    if path is not None:
        read = read_partly(path, check_rules=False)
        if not read.knows_place("socket"):
            raise ConfigError(read.problems)
        said = read.config.agent.socket
    reports = places.socket_path(os.environ, said)
    return os.path.join(os.path.dirname(reports), places.CONTROL_SOCKET), reports


def _why_not(control: str, reports: str) -> str:
    """Return why nobody answers at the control socket, and what to do."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(control)
        except PermissionError:
            return "permission denied; only the daemon's user and root may ask it"
        except FileNotFoundError:
            # A clean stop removes the control socket only.
            if os.path.exists(reports):
                return "the daemon was stopped; start it with aura-agent run"
            return "the daemon is not running; start it with aura-agent run, or name its config with -c"
        except ConnectionRefusedError:
            return "the daemon crashed or was killed; see its log, and start it with aura-agent run"
        except OSError as problem:
            if isinstance(problem, (BlockingIOError, TimeoutError)):
                return "the daemon hangs: it accepts no connection; see its log, or restart it"
            return problem.strerror or str(problem)
    return "the daemon closed the connection; see its log, and try again"


def _job_row(job: dict[str, Any]) -> list[str]:
    last = job["last"]
    state = "paused" if job["paused"] else job["kind"]
    if job["running"]:
        state = f"running since {local(job['running'][0]['since'])}"
    elif job.get("waiting"):  # an older daemon doesn't say
        state = f"waits: {job['waiting']}"
    ended = (
        "" if last is None else f"{last['outcome']} {local(last['started_at'])}, {format_duration(last['duration_s'])}"
    )
    ping = job["problem"] or ("" if last is None else last["ping"] or "")
    watch = job.get("watch")
    if watch is not None:
        health = {True: "healthy", False: "unhealthy", None: "not looked at yet"}[watch["healthy"]]
        ended, ping = f"{health}: {watch['reason']}", watch["problem"] or local(watch["pinged_at"])
    return [job["name"], job["heartbeat"], state, ended, ping, local(job["next"])]
