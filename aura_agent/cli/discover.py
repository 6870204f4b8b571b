"""``aura-agent discover``: what runs on this host on a schedule, and how it can be watched. What to do is planned in
``aura_agent.discover``; here it is shown, and written if asked for.
"""

import difflib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import click

from aura_agent.cli.settings import config_option, json_option, on_one_line, print_json, print_table
from aura_agent.clock import SystemClock
from aura_agent.config.load import load_config
from aura_agent.config.models import Config
from aura_agent.config.schema import write_duration
from aura_agent.config.settings import config_path
from aura_agent.discover.changes import Undone, undo, write
from aura_agent.discover.host import Host, needed_by, own_name, read_host, read_text
from aura_agent.discover.plan import DROP_INS, Change, Facts, Proposal, Shape, propose
from aura_agent.errors import AuraError, UsageError
from aura_agent.report.places import SYSTEM_CONFIG, state_dir
from aura_agent.units import format_duration

_EXAMPLE = """\b
Examples:
  aura-agent discover
  aura-agent discover --only backup --write
  aura-agent discover --undo
  aura-agent discover --as config --root /srv/copy-of-a-host
"""
_BACKUPS = "/var/backups/aura-agent"  # of root; others have theirs with their store
_DISCOVERED = "conf.d/discovered.toml"


@click.command("discover", epilog=_EXAMPLE)
@click.option("--write", "writes", is_flag=True, help="Do what is shown, with a backup.")
@click.option("--undo", "undoes", is_flag=True, help="Take the last --write back.")
@click.option(
    "--as",
    "shape",
    type=click.Choice(["crontab", "config"]),
    default="crontab",
    show_default=True,
    help="aura-run in front of each command; or jobs of the daemon, and cron's lines commented out.",
)
@click.option("--only", multiple=True, metavar="NAME", help="This job alone; may be given several times.")
@click.option("--root", default="/", metavar="DIR", help="Look at the copy of a host in DIR, and write there.")
@config_option
@json_option
def discover(
    config_file: str | None,
    *,
    writes: bool,
    undoes: bool,
    shape: Shape,
    only: tuple[str, ...],
    root: str,
    as_json: bool,
) -> None:
    """Find what cron, anacron and systemd timers run on this host, and put aura-run in front of it.

    Shows what would change, line by line, and changes nothing without --write. Lines that have aura-run already, and
    those that can't be wrapped without a change of their meaning, are left alone, with the reason.
    """
    if not os.path.isdir(root):
        raise UsageError(f"--root {root}: no such directory")
    if undoes:
        if writes or only:
            raise UsageError("--undo takes back the last --write as a whole; give it alone")
        _undo(os.path.abspath(root), as_json=as_json)
        return
    host = read_host(root)
    if host.unreadable and not host.tables and not host.timers:
        raise AuraError("\n".join(host.unreadable))
    place = config_path(config_file, os.environ) if host.is_live or config_file else host.path(SYSTEM_CONFIG)
    declared = _declared(host, place or SYSTEM_CONFIG)
    config_exists = place is not None and os.path.exists(place)
    config = load_config(place, check_rules=False) if config_exists else Config()
    taken = {name for job, spec in config.jobs.items() for name in (job, spec.heartbeat or job)}
    if declared is None and shape == "config":
        raise AuraError(f"{place or SYSTEM_CONFIG}: only root can add jobs there; or name a config of your own with -c")
    host.set_aside_what_others_own()
    proposal = propose(host.tables, host.timers, declared, _facts(host), taken=taken, shape=shape, only=only)
    backup = None
    if writes and proposal.changes:
        stamp = f"{SystemClock().read().wall:%Y%m%dT%H%M%S.%fZ}"
        backup = write(proposal.changes, host.root, _backups(host.root), stamp)
        _reload_units(host.root, [change.path for change in proposal.changes])
    following = _following(host, proposal, shape, declared=declared is not None, done=writes)
    if as_json:
        print_json(_in_utf8(_rows(host, proposal, backup, following)))
        return
    _show(host, proposal, shape, backup, following, config_exists=config_exists)


def _undo(root: str, *, as_json: bool) -> None:
    directory, results = undo(root, _backups(root))
    _reload_units(root, [result.path for result in results])
    problems = [result for result in results if result.problem]
    if as_json:
        print_json(
            {
                "ok": not problems,
                "backup": directory,
                "files": [{"path": result.path, "problem": result.problem or None} for result in results],
            }
        )
        sys.exit(1 if problems else 0)
    for result in results:
        if not result.problem:
            click.echo(f"as it was: {on_one_line(result.path)}")
    if problems:
        raise AuraError("\n".join(_undone_text(result) for result in problems))


def _undone_text(result: Undone) -> str:
    return f"{on_one_line(result.path)}: {result.problem}"


def _declared(host: Host, config: str) -> Change | None:
    """Return the file of the config that is to hold the jobs, as it is now; None if it isn't ours to write.

    Its path is one below the root.
    """
    path = os.path.join(os.path.dirname(os.path.abspath(config)), _DISCOVERED)
    inside = path if host.is_live else f"/{os.path.relpath(path, host.root)}"
    if inside.startswith("/.."):
        raise UsageError(f"-c {config}: not below --root {host.root}")
    if not host.may_write(inside):
        return None
    try:
        return Change(inside, read_text(path), "")
    except FileNotFoundError:
        return Change(inside, None, "")


def _facts(host: Host) -> Facts:
    aura_run = _aura_run()
    return Facts(
        hostname=os.uname().nodename,
        aura_run=aura_run,
        needed=needed_by(aura_run),
        systemd=host.systemd,
        anacron=host.anacron,
        cron_tz=host.cron_tz,
        max_command_bytes=host.max_command_bytes,
        run_parts_tells=host.run_parts_tells,
        batches=host.batches,
    )


def _aura_run() -> str:
    """Return where aura-run is: cron's PATH rarely has it. Raises AuraError."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "aura-run")
    of_python = os.path.join(os.path.dirname(sys.executable), "aura-run")
    found = next(
        (path for path in (beside, shutil.which("aura-run"), of_python) if path and os.access(path, os.X_OK)), None
    )
    if found is None:
        raise AuraError("no aura-run beside aura-agent, nor in PATH: install it, or link it into /usr/local/bin")
    if re.fullmatch(r"[\w./+-]+", found, re.ASCII) is None:
        raise AuraError(f"{found}: a crontab needs a plain path: link it into /usr/local/bin and call aura-agent there")
    return os.path.abspath(found)


def _backups(root: str) -> str:
    if root != "/":
        return os.path.join(root, _BACKUPS.lstrip("/"))
    return _BACKUPS if os.geteuid() == 0 else os.path.join(state_dir(os.environ, None, os.geteuid()), "discover")


def _reload_units(root: str, paths: list[str]) -> None:
    """Let systemd know of drop-ins that have come or gone."""
    if root != "/" or not any(path.startswith(DROP_INS) for path in paths) or not os.path.isdir("/run/systemd/system"):
        return
    done = subprocess.run(["systemctl", "daemon-reload"], capture_output=True, check=False)
    if done.returncode != 0:
        click.echo("aura-agent: systemctl daemon-reload failed; until it is done, timers run as before", err=True)


def _following(host: Host, proposal: Proposal, shape: Shape, *, declared: bool, done: bool) -> list[str]:
    """Return the commands to go on with, each with what it does; *declared*: the config names the heartbeats."""
    if not proposal.jobs:
        return []
    if not done:
        as_config = " --as config" if shape == "config" else ""
        return [f"aura-agent discover --write{as_config}   # do it, with a backup"]
    if not host.is_live:
        return []
    if declared:
        commands = ["aura-agent sync   # create the heartbeats, with interval and grace to suit (asks first)"]
    else:
        create = "aura-agent api heartbeats create --name"
        commands = [
            f"{create} {job.heartbeat} --expected-interval {write_duration(job.interval_s)}" for job in proposal.jobs
        ]
    if shape == "config":
        commands.append("aura-agent reload   # the daemon runs these jobs from now on; see aura-agent status")
    return [*commands, "aura-agent discover --undo   # take it back"]


def _hints(proposal: Proposal, shape: Shape, *, config_exists: bool) -> Iterator[str]:
    """Yield what a newcomer would otherwise find out later."""
    if shape == "crontab" and any(not job.where.endswith(".timer") for job in proposal.jobs):
        yield "cron goes on mailing what a job prints; aura-run -q holds it back unless the job fails"
    others = {job.user for job in proposal.jobs if job.user is not None} - {"root", own_name()}
    if shape == "crontab" and others:
        names = ", ".join(f'"{on_one_line(user)}"' for user in sorted(others))
        yield f'the daemon takes reports of these users only if [agent] says so: reporters = ["root", {names}]'
    if proposal.jobs and not config_exists:
        yield f"there is no {SYSTEM_CONFIG} yet: until it names a token_file in [api], nothing can be pinged"


def _show(
    host: Host, proposal: Proposal, shape: Shape, backup: str | None, following: list[str], *, config_exists: bool
) -> None:
    for change in proposal.changes:
        for line in _diff(change):
            click.echo(line)
    print_table(
        ["job", "heartbeat", "at least every", "where", "user", "note"],
        [
            [
                *(job.name, job.heartbeat, format_duration(job.interval_s), job.where, job.user or ""),
                "; ".join(job.notes),
            ]
            for job in proposal.jobs
        ],
        empty="nothing to propose",
    )
    left = [*proposal.left, *host.ignored]
    if left:
        print_table(
            ["left alone", "why", "command"], [[item.where, item.reason, item.command] for item in left], empty=""
        )
    for problem in host.unreadable:
        click.echo(f"aura-agent: {problem}", err=True)
    for hint in _hints(proposal, shape, config_exists=config_exists):
        click.echo(hint)
    if backup is not None:
        click.echo(f"Written; the files as they were are in {backup}")
    for command in following:
        click.echo(f"Next: {command}")


def _diff(change: Change) -> Iterator[str]:
    """Yield the lines of a unified diff, for people: a terminal is not moved by what is in them."""
    before = [] if change.before is None else change.before.removesuffix("\n").split("\n")
    names = ("/dev/null" if change.before is None else change.path, change.path)
    for line in difflib.unified_diff(before, change.after.removesuffix("\n").split("\n"), *names, lineterm="", n=1):
        yield on_one_line(line.replace("\t", "    "))


def _rows(host: Host, proposal: Proposal, backup: str | None, following: list[str]) -> dict[str, object]:
    return {
        "jobs": [
            {
                "name": job.name,
                "heartbeat": job.heartbeat,
                "where": job.where,
                "when": job.when,
                "interval_s": job.interval_s,
                "user": job.user,
                "command": job.command,
                "notes": list(job.notes),
            }
            for job in proposal.jobs
        ],
        "left_alone": [
            {"where": item.where, "command": item.command or None, "reason": item.reason}
            for item in (*proposal.left, *host.ignored)
        ],
        "changes": [
            {"path": change.path, "before": change.before, "after": change.after} for change in proposal.changes
        ],
        "unreadable": host.unreadable,
        "backup": backup,
        "next": [command.partition("   #")[0] for command in following],
    }


def _in_utf8(value: object) -> object:
    """Return *value* with a replacement character for each byte of a file that is no UTF-8: JSON knows no others."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, list):
        return [_in_utf8(item) for item in value]
    return {key: _in_utf8(item) for key, item in value.items()} if isinstance(value, dict) else value
