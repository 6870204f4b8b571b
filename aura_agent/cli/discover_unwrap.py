"""``aura-agent discover --unwrap``: take aura-run out of all that a host runs."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext

from aura_agent.cli.discover_switch import (
    backups_of,
    new_stamp,
    quiet_moment,
    reload_daemon,
    reload_units,
    why_no_daemon,
)
from aura_agent.cli.discover_view import (
    change_rows,
    in_utf8,
    show_changes,
    show_left,
    show_taken_out,
    show_written,
    silence_text,
    taken_out_rows,
)
from aura_agent.cli.output import say
from aura_agent.cli.settings import print_json
from aura_agent.config.models import Config
from aura_agent.discover.changes import Written, write
from aura_agent.discover.host import Host
from aura_agent.discover.plan import Change
from aura_agent.discover.unit_files import read_unit_files
from aura_agent.discover.unwrap import Known, Unwrapping, undeclare, unwrap
from aura_agent.errors import AuraError


def unwrap_host(
    host: Host,
    config_file: str | None,
    config: Config,
    declared: Change | None,
    *,
    hostname: str,
    only: Sequence[str],
    writes: bool,
    as_json: bool,
) -> None:
    """Show what would lose its aura-run, and take it out if *writes*. Ends with 1 if something wasn't written."""
    units, packages = read_unit_files(host)
    heartbeats = {name: job.heartbeat or name for name, job in config.jobs.items()}
    known = Known(None if declared is None else declared.before, heartbeats, hostname)
    found = unwrap([*host.tables, *host.idle], units, known, only)

    def declare(done: Sequence[Change]) -> Change | None:
        return None if declared is None else undeclare(declared, found.jobs, done)

    config_change = declare(found.changes)
    if found.moves and config_change is None:
        raise AuraError(
            f"{'' if declared is None else declared.path}: the moved jobs can't be taken out of it safely; remove them"
            " by hand, reload the daemon, and take the comment off cron's lines"
        )
    changes = [*found.changes, *([] if config_change is None else [config_change])]
    written, problem = None, ""
    if writes and changes:
        switches = found.moves and host.is_live
        with quiet_moment() if switches else nullcontext():
            written = write(found.changes, declare, host.root, backups_of(host.root), new_stamp(), whole=found.moves)
            if host.is_live and config_change in written.done and not why_no_daemon(config_file):
                problem = reload_daemon(config_file, {})
        reload_units(host.root, [change.path for change in written.done])
    left = [*found.left, *packages, *host.ignored]
    silenced = _silenced(found, written)
    following = _following(writes=writes, changed=bool(changes) if written is None else bool(written.done), only=only)
    if as_json:
        rows = change_rows(changes, left, host.unreadable, written)
        print_json(
            in_utf8(
                {
                    "taken_out": taken_out_rows(found.taken_out),
                    **rows,
                    "heartbeats_silenced": silenced,
                    "next": [command.partition("   #")[0] for command in following],
                }
            )
        )
    else:
        show_changes(changes)
        show_taken_out(found.taken_out)
        show_left(left)
        for line in host.unreadable:
            say(f"aura-agent: {line}", err=True)
        show_written(written)
        if silenced:
            say(silence_text(silenced, done=written is not None))
        for command in following:
            say(f"Next: {command}")
    if problem:
        raise AuraError(f"the daemon goes on running these jobs, beside cron: {problem}")
    if written is not None and written.left:
        sys.exit(1)


def _silenced(found: Unwrapping, written: Written | None) -> list[str]:
    """Return the heartbeats of what is taken out, or was, if something has been written."""
    done = None if written is None else {change.path for change in written.done}
    return sorted(
        {
            item.heartbeat
            for item in found.taken_out
            if item.heartbeat and (done is None or item.where in done or item.where.rpartition(":")[0] in done)
        }
    )


def _following(*, writes: bool, changed: bool, only: Sequence[str]) -> list[str]:
    if not changed:
        return []
    if writes:
        return ["aura-agent discover --undo   # put aura-run back"]
    names = "".join(f" --only {name}" for name in only)
    return [f"aura-agent discover --unwrap --write{names}   # do it, with a backup"]
