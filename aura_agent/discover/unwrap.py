"""The way back: what to change so that no job of a host runs below ``aura-run``, or as one of the config. Pure.

Whatever else was changed since stays. What can't be known is left alone, with the reason.
"""

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aura_agent.discover.crontab import Entry, Line, read_table
from aura_agent.discover.jobsections import without_jobs
from aura_agent.discover.plan import DROP_IN_NAME, MOVED, Change, Left, Table, as_shell_sees
from aura_agent.discover.shellline import plain_words
from aura_agent.discover.units import bare_command, read_unit
from aura_agent.discover.wrapping import Call, bare, has_aura_run
from aura_agent.errors import UsageError

_RUNS_ITSELF = frozenset({"schedule", "every", "command", "shell", "watch", "follow"})
_EXEC = re.compile(r"(?P<start>[ \t]*Exec\w+[ \t]*=[ \t]*[-:+!@|]*)(?P<command>[^\n]*)(?P<end>\n?)")
_DROP_IN = re.compile(r"\[Service\]\nExecStart=\n(?:ExecStart=[^\n]*\n)+")


@dataclass(frozen=True, slots=True)
class UnitFile:
    """A file below /etc/systemd/system, or a drop-in there."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class TakenOut:
    """One place that loses its aura-run; ``heartbeat`` is for people, empty if it can't be told."""

    where: str
    command: str
    heartbeat: str


@dataclass(slots=True)
class Unwrapping:
    """All of it; ``jobs`` are those that the config loses, by the path of the file whose change makes up for them."""

    taken_out: list[TakenOut] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    jobs: dict[str, set[str]] = field(default_factory=dict)
    moves: bool = False  # whether the daemon runs some of them


@dataclass(frozen=True, slots=True)
class Known:
    """What the config says: the file that discover writes, and the heartbeats of all jobs."""

    declared: str | None
    heartbeats: Mapping[str, str]
    hostname: str

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Return the jobs that discover has declared."""
        try:
            jobs = tomllib.loads(self.declared or "").get("jobs", {})
        except (tomllib.TOMLDecodeError, UnicodeError):
            return {}
        return jobs if isinstance(jobs, dict) else {}


def unwrap(tables: Sequence[Table], units: Sequence[UnitFile], known: Known, only: Collection[str]) -> Unwrapping:
    """Return what to change; with *only* for the heartbeats or jobs of these names alone.

    Raises UsageError: a name in *only* is none.
    """
    found = Unwrapping()
    names: set[str] = set()
    jobs = known.jobs()
    for table in tables:
        _unwrap_table(table, known, jobs, only, names, found)
    for unit in units:
        _unwrap_unit(unit, known, jobs, only, names, found)
    if unknown := set(only) - names:
        raise UsageError(f"nothing with aura-run is called {', '.join(sorted(unknown))}; see all without --only")
    return found


def undeclare(declared: Change, jobs: Mapping[str, set[str]], done: Iterable[Change]) -> Change | None:
    """Return the config's file without the jobs that the changes in *done* make up for; None if it stays.

    A file in which only discover's own words are left is removed.
    """
    names = {name for change in done for name in jobs.get(change.path, ())}
    if declared.before is None or not names:
        return None
    after = without_jobs(declared.before, names)
    if after == declared.before:
        return None
    return Change(declared.path, declared.before, after, mode=declared.mode)


def commands_with_aura_run(unit: str) -> list[str]:
    """Return the commands of a unit file that have aura-run, without their prefixes."""
    return [
        command
        for (_, key), values in read_unit([unit]).items()
        if key.startswith("Exec")
        for command in map(bare_command, values)
        if has_aura_run(command)
    ]


def _unwrap_table(
    table: Table,
    known: Known,
    jobs: dict[str, dict[str, Any]],
    only: Collection[str],
    names: set[str],
    found: Unwrapping,
) -> None:
    texts = []
    lines = read_table(table.text, table.form, table.dialect)
    # As it would be if cron ran all of it again: a line's settings are those above it.
    restored = {
        line.number: line
        for line in read_table(
            re.sub(rf"^{re.escape(MOVED)}", "", table.text, flags=re.MULTILINE), table.form, table.dialect
        )
    }
    for line in lines:
        text = line.text
        where = f"{table.path}:{line.number}"
        if line.text.startswith(MOVED):
            text = _put_back(where, line, restored[line.number].entry, table, jobs, only, names, found)
        elif line.entry is not None and has_aura_run(line.entry.command):
            text = _unwrap_line(where, line, line.entry, table, known, jobs, only, names, found)
        elif line.problem and has_aura_run(line.text):
            found.left.append(Left(where, line.text.strip(), line.problem))
        texts.append(text)
    after = "".join(texts)
    if after != table.text:
        found.changes.append(Change(table.path, table.text, after, table.owner))


def _unwrap_line(
    where: str,
    line: Line,
    entry: Entry,
    table: Table,
    known: Known,
    jobs: dict[str, dict[str, Any]],
    only: Collection[str],
    names: set[str],
    found: Unwrapping,
) -> str:
    without = bare(entry.command, entry.settings.get("SHELL") or "/bin/sh")
    heartbeats = [_heartbeat(call, entry.settings, known) for call in without.calls]
    called = _called(heartbeats)
    names |= called
    if only and not called & set(only):
        return line.text
    if without.problem:
        found.left.append(Left(where, entry.command, without.problem))
        return line.text
    found.taken_out += [TakenOut(where, without.text, heartbeat) for heartbeat in heartbeats]
    _forget(table.path, heartbeats, jobs, found)
    return line.with_command(without.text)


def _put_back(
    where: str,
    line: Line,
    entry: Entry | None,
    table: Table,
    jobs: dict[str, dict[str, Any]],
    only: Collection[str],
    names: set[str],
    found: Unwrapping,
) -> str:
    """Return the line that cron had before its job was moved to the config, if the config still has that job."""
    text = line.text.removeprefix(MOVED)
    gone = {name for moved in found.jobs.values() for name in moved}
    name = None
    if entry is not None:
        candidates = (name for name, job in jobs.items() if name not in gone and _is_same(job, entry, table))
        name = next(candidates, None)
    if name is None:
        reason = "no job in conf.d/discovered.toml is this one any more; where it runs now can't be known"
        if not only:
            found.left.append(Left(where, text.strip(), reason))
        return line.text
    heartbeat = str(jobs[name].get("heartbeat", name))
    called = {name} | _called([heartbeat])
    names |= called
    if only and not called & set(only):
        return line.text
    assert entry is not None
    found.taken_out.append(TakenOut(where, entry.command, heartbeat))
    found.jobs.setdefault(table.path, set()).add(name)
    found.moves = True
    return text


def _is_same(job: Mapping[str, Any], entry: Entry, table: Table) -> bool:
    """Whether the config's *job* is what ``discover --as config`` made of *entry*, whatever else it says by now."""
    line = as_shell_sees(entry, table)
    user = entry.user or table.owner
    return (
        job.get("schedule") == entry.schedule
        and job.get("user") == (None if user in (None, "root") else user)
        and (job.get("shell") == line or ("command" in job and job["command"] == plain_words(line)))
    )


def _unwrap_unit(
    unit: UnitFile,
    known: Known,
    jobs: dict[str, dict[str, Any]],
    only: Collection[str],
    names: set[str],
    found: Unwrapping,
) -> None:
    texts, calls, named = [], 0, set[str]()
    for text in re.findall(r"[^\n]*\n|[^\n]+", unit.text):
        match = _EXEC.fullmatch(text)
        texts.append(text)
        if match is None or not has_aura_run(match["command"]):
            continue
        without = bare(match["command"])
        heartbeats = [_heartbeat(call, {}, known) for call in without.calls]
        called = _called(heartbeats)
        names |= called
        if only and not called & set(only):
            continue
        if without.problem:
            found.left.append(Left(unit.path, match["command"], without.problem))
            named.add(without.text)
            continue
        calls += 1
        texts[-1] = match["start"] + without.text + match["end"]
        found.taken_out += [TakenOut(unit.path, without.text, heartbeat) for heartbeat in heartbeats]
        _forget(unit.path, heartbeats, jobs, found)
    after: str | None = "".join(texts)
    if not only:
        reason = "aura-run isn't in the first line of the command; take it out by hand"
        left = [command for command in commands_with_aura_run("".join(texts)) if command not in named]
        found.left += [Left(unit.path, command, reason) for command in left]
    if not calls:
        return
    if unit.path.endswith(f"/{DROP_IN_NAME}") and _DROP_IN.fullmatch(unit.text):
        after = None  # as discover writes it: without aura-run it only repeats what the unit says
    found.changes.append(Change(unit.path, unit.text, after))


def _forget(path: str, heartbeats: Iterable[str], jobs: Mapping[str, Mapping[str, Any]], found: Unwrapping) -> None:
    """Note the jobs that discover declared for these heartbeats, and that nothing else runs."""
    for name, job in jobs.items():
        if job.get("heartbeat", name) in heartbeats and not _RUNS_ITSELF & set(job):
            found.jobs.setdefault(path, set()).add(name)


def _heartbeat(call: Call, settings: Mapping[str, str], known: Known) -> str:
    """Return what an aura-run pinged, for people. A ping URL is not for showing."""
    if call.heartbeat:
        return call.heartbeat
    if call.ping_url:
        return f"the one of {call.ping_url}" if call.ping_url.startswith("file:") else "the one of its ping URL"
    job = call.job or settings.get("AURA_JOB", "")
    if job:
        return known.heartbeats.get(job, f"the one of job {job}")
    if settings.get("AURA_PING_URL"):
        return "the one of AURA_PING_URL"
    if settings.get("AURA_HEARTBEAT"):
        return settings["AURA_HEARTBEAT"]
    return f"{known.hostname.partition('.')[0]}/{call.name} or {call.name}" if call.name else ""


def _called(heartbeats: Iterable[str]) -> set[str]:
    """Return the names under which heartbeats may be asked for: with their host, and without it."""
    return {name for heartbeat in heartbeats if heartbeat for name in (heartbeat, heartbeat.rpartition("/")[2])}
