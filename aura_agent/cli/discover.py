"""``aura-agent discover``: what runs on this host on a schedule, and how it can be watched. What to do is planned in
``aura_agent.discover``; here it is shown, and written if asked for.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import click

from aura_agent.cli.discover_switch import (
    backups_of,
    new_stamp,
    quiet_moment,
    reload_daemon,
    reload_units,
    why_no_daemon,
)
from aura_agent.cli.discover_unwrap import unwrap_host
from aura_agent.cli.discover_view import (
    change_rows,
    file_rows,
    hints,
    in_utf8,
    job_rows,
    result_text,
    show_changes,
    show_jobs,
    show_left,
    show_written,
    silence_text,
)
from aura_agent.cli.output import on_one_line, say
from aura_agent.cli.settings import config_option, json_option, print_json
from aura_agent.config.load import load_config
from aura_agent.config.models import Config
from aura_agent.config.schema import write_duration
from aura_agent.config.settings import config_path
from aura_agent.discover.accounts import Account
from aura_agent.discover.changes import Written, to_undo, undo, write
from aura_agent.discover.host import Host, needed_by, read_text
from aura_agent.discover.installation import find_aura_run, why_not_lasting
from aura_agent.discover.plan import (
    MOVED,
    Change,
    Facts,
    Job,
    Proposal,
    Shape,
    declare,
    heartbeats_in,
    propose,
)
from aura_agent.discover.runnable import why_not_runnable
from aura_agent.discover.survey import read_host
from aura_agent.errors import AuraError, ConfigError, UsageError
from aura_agent.report.places import SYSTEM_CONFIG

_EXAMPLE = """\b
Examples:
  aura-agent discover
  aura-agent discover --only backup --write
  aura-agent discover --undo
  aura-agent discover --unwrap --write
  aura-agent discover --as config --root /srv/copy-of-a-host
"""
_DISCOVERED = "conf.d/discovered.toml"


@click.command("discover", epilog=_EXAMPLE)
@click.option("--write", "writes", is_flag=True, help="Do what is shown, with a backup.")
@click.option("--undo", "undoes", is_flag=True, help="Take the last --write back, file by file.")
@click.option("--unwrap", "unwraps", is_flag=True, help="The way back: take aura-run out of every line and unit.")
@click.option(
    "--as",
    "shape",
    type=click.Choice(["crontab", "config"]),
    default="crontab",
    show_default=True,
    help="aura-run in front of each command; or jobs of the daemon, and cron's lines commented out.",
)
@click.option("--force", is_flag=True, help="With --as config: write although no daemon answers to run the jobs.")
@click.option("--only", multiple=True, metavar="NAME", help="This job alone; may be given several times.")
@click.option("--root", default="/", metavar="DIR", help="Look at the copy of a host in DIR, and write there.")
@config_option
@json_option
def discover(
    config_file: str | None,
    *,
    writes: bool,
    undoes: bool,
    unwraps: bool,
    shape: Shape,
    force: bool,
    only: tuple[str, ...],
    root: str,
    as_json: bool,
) -> None:
    """Find what cron, anacron and systemd timers run on this host, and put aura-run in front of it.

    Shows what would change, line by line, and changes nothing without --write. Lines that have aura-run already, and
    those that can't be wrapped without a change of their meaning, are left alone, with the reason. --unwrap goes
    the way back, whatever else was changed since; it too changes nothing without --write.
    """
    if not os.path.isdir(root):
        raise UsageError(f"--root {root}: no such directory")
    if undoes:
        if writes or only or unwraps:
            raise UsageError("--undo takes back the last --write as a whole; give it alone")
        _undo(os.path.abspath(root), config_file, as_json=as_json)
        return
    if unwraps and shape == "config":
        raise UsageError("--unwrap finds lines and jobs of both forms; leave --as config out")
    host = read_host(root)
    if host.unreadable and not host.tables and not host.timers:
        raise AuraError("\n".join(host.unreadable))
    place = config_path(config_file, os.environ) if host.is_live or config_file else host.path(SYSTEM_CONFIG)
    declared = _declared(host, place or SYSTEM_CONFIG)
    config_exists = place is not None and os.path.exists(place)
    config = _config(place if config_exists else None, needed=not unwraps)
    taken = {name for job, spec in config.jobs.items() for name in (job, spec.heartbeat or job)}
    taken |= {name for table in host.idle for name in heartbeats_in(table.text)}
    if declared is None and shape == "config":
        raise AuraError(f"{place or SYSTEM_CONFIG}: only root can add jobs there; or name a config of your own with -c")
    host.set_aside_what_others_own()
    if unwraps:
        hostname = os.uname().nodename
        unwrap_host(
            *(host, config_file, config, declared), hostname=hostname, only=only, writes=writes, as_json=as_json
        )
        return

    def plan(facts: Facts) -> Proposal:
        return propose(host.tables, host.timers, declared, facts, taken=taken, shape=shape, only=only)

    facts = _facts(host)
    proposal = plan(facts)
    doubt = ""
    if shape == "crontab" and host.is_live:  # nobody can be asked about the users of a copy
        doubt = why_not_lasting(facts.aura_run, os.geteuid()) if proposal.jobs else ""
        cannot_run = _cannot_run(facts.aura_run, proposal)
        proposal = plan(replace(facts, cannot_run=cannot_run)) if cannot_run else proposal
    switches = shape == "config" and host.is_live and bool(proposal.changes)
    if switches and not force and (problem := why_no_daemon(config_file)):
        doubt = f"{problem}; or add --force, and nobody runs these jobs until it is there"
    written = None
    if writes and proposal.changes:
        if doubt:
            raise AuraError(f"{doubt}; nothing was written")
        with quiet_moment() if switches else nullcontext():
            written = _write(host, proposal.changes, declared, shape)
            problem = reload_daemon(config_file, _moved(proposal, written)) if switches and written.done else ""
            if problem and not force:
                raise AuraError(_put_back(host.root, config_file, problem))
        if problem:
            say(f"aura-agent: nobody runs these jobs until the daemon does: {problem}", err=True)
    jobs = proposal.jobs
    if written is not None:
        done = {change.path for change in written.done}
        jobs = tuple(job for job in jobs if job.path in done)
    following = _following(host, jobs, shape, declared=declared is not None, done=writes)
    left = [*proposal.left, *host.ignored]
    if as_json:
        rows = change_rows(proposal.changes, left, host.unreadable, written)
        commands = [command.partition("   #")[0] for command in following]
        print_json(in_utf8({"jobs": job_rows(jobs), **rows, "refused": doubt or None, "next": commands}))
    else:
        show_changes(proposal.changes)
        show_jobs(jobs, empty="nothing to propose" if written is None else "nothing was written")
        show_left(left)
        for problem in (*host.unreadable, *([f"{doubt}; --write refuses it"] if doubt else [])):
            say(f"aura-agent: {problem}", err=True)
        for hint in hints(jobs, shape, config_exists=config_exists):
            say(hint)
        show_written(written)
        for command in following:
            say(f"Next: {command}")
    if written is not None and written.left:
        sys.exit(1)


def _config(place: str | None, *, needed: bool) -> Config:
    """Return the config at *place*; if it is broken and not *needed*, an empty one. The way back needs none."""
    try:
        return Config() if place is None else load_config(place, check_rules=False)
    except ConfigError as problem:
        if needed:
            raise
        say(f"aura-agent: {problem}; going on without the config", err=True)
        return Config()


def _write(host: Host, changes: Sequence[Change], declared: Change | None, shape: Shape) -> Written:
    tables = [change for change in changes if declared is None or change.path != declared.path]

    def sections(done: Sequence[Change]) -> Change | None:
        return None if declared is None else declare(declared, done, shape)

    written = write(tables, sections, host.root, backups_of(host.root), new_stamp(), whole=shape == "config")
    reload_units(host.root, [change.path for change in written.done])
    return written


def _moved(proposal: Proposal, written: Written) -> dict[str, str]:
    """Return the jobs that were written, with their heartbeats."""
    done = {change.path for change in written.done}
    return {job.name: job.heartbeat for job in proposal.jobs if job.path in done}


def _put_back(root: str, config_file: str | None, problem: str) -> str:
    """Give cron its jobs back; return what to say about it."""
    results = undo(root, backups_of(root))[1]
    reload_daemon(config_file, {})
    left = [result_text(result) for result in results if result.problem]
    return "\n".join(
        [f"{problem}; cron's lines and the config {'were put back' if left else 'are as they were'}", *left]
    )


def _cannot_run(aura_run: str, proposal: Proposal) -> dict[Account, str]:
    """Return which accounts of the jobs can't execute aura-run, and why."""
    accounts = dict.fromkeys(job.account for job in proposal.jobs)
    found = {account: why_not_runnable(aura_run, account) for account in accounts}
    return {account: reason for account, reason in found.items() if reason}


def _undo(root: str, config_file: str | None, *, as_json: bool) -> None:
    backups = backups_of(root)
    switches = root == "/" and any(MOVED in text for text in to_undo(root, backups))
    with quiet_moment() if switches else nullcontext():
        directory, results = undo(root, backups)
        if switches and not why_no_daemon(config_file) and (problem := reload_daemon(config_file, {})):
            say(f"aura-agent: the daemon goes on running these jobs, beside cron: {problem}", err=True)
    reload_units(root, [result.path for result in results])
    problems = [result for result in results if result.problem]
    silenced = sorted(
        {name for result in results for name in heartbeats_in(result.was)}
        - {name for result in results for name in heartbeats_in(result.now)}
    )
    if as_json:
        print_json(
            in_utf8(
                {"ok": not problems, "backup": directory, "files": file_rows(results), "heartbeats_silenced": silenced}
            )
        )
        sys.exit(1 if problems else 0)
    for result in results:
        if not result.problem:
            say(f"as it was: {on_one_line(result.path)}")
        elif result.was != result.now:
            say(f"partly as it was: {on_one_line(result.path)}")
    if silenced:
        say(silence_text(silenced))
    if problems:
        lines = [result_text(result) for result in problems]
        if any(result.again for result in problems):
            lines.append(f"try again, or remove {directory} to get at the backup before it")
        raise AuraError("\n".join(lines))


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
    except (FileNotFoundError, NotADirectoryError):
        return Change(inside, None, "")  # in the latter case its write says why it fails


def _facts(host: Host) -> Facts:
    aura_run = find_aura_run(sys.argv[0], sys.executable)
    return Facts(
        hostname=os.uname().nodename,
        aura_run=aura_run,
        needed=needed_by(aura_run),
        systemd=host.systemd,
        anacron=host.anacron,
        run_parts_tells=host.run_parts != "script",
        batches=host.batches,
    )


def _following(host: Host, jobs: Sequence[Job], shape: Shape, *, declared: bool, done: bool) -> list[str]:
    """Return the commands to go on with, each with what it does; *declared*: the config names the heartbeats."""
    if not jobs:
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
        commands = [f"{create} {job.heartbeat} --expected-interval {write_duration(job.interval_s)}" for job in jobs]
    return [*commands, "aura-agent discover --undo   # take it back"]
