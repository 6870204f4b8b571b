"""What to do about the jobs of a host: their names, the lines that change, the heartbeats to declare. Pure.

Nothing is guessed: what can't be wrapped without a change of its meaning is left alone, with the reason. A line that
has aura-run already is left alone too, so that a second look changes nothing.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from aura_agent.config.schema import write_duration
from aura_agent.discover.accounts import Account, service_account
from aura_agent.discover.crontab import Entry, Form, Line, read_table
from aura_agent.discover.dialects import CRONIE, Dialect
from aura_agent.discover.jobname import name_of
from aura_agent.discover.shellline import POSIX_SHELLS, called_line, doubt, is_plain, plain_words, shell_call
from aura_agent.discover.units import Settings, bare_command, drop_in, hints, obstacle, service_command, timing_of
from aura_agent.errors import ScheduleError, UsageError
from aura_agent.schedule.zones import zone

Shape = Literal["crontab", "config"]  # aura-run in front of what runs the job now; or a job of the daemon instead

DROP_INS = "/etc/systemd/system"
DROP_IN_NAME = "50-aura-run.conf"
_SYSTEMD_RUNS = "/run/systemd/system"  # what lines that leave their work to a timer test for, sd_booted(3)
_ANACRON = "/usr/sbin/anacron"
_RUN_CRONS = "/usr/lib/cron/run-crons"  # SUSE's way to /etc/cron.daily and its like
_OURS = re.compile(r"(?:^|[\s/;&|(\"'])aura-(?:run|agent)(?=\s)")
_THEIR_HEARTBEAT = re.compile(r"aura-run\s[^|;&\n]*?(?:-H\s*|--heartbeat[= ]\s*)([\w./-]+)")
_DECLARED_HEARTBEAT = re.compile(r"""^heartbeat\s*=\s*["']([^"']+)["']""")
# Variables that are cron's own affair, and none of the job's.
_CRONS_OWN = frozenset(
    {
        *("CONTENT_TRANSFER_ENCODING", "CONTENT_TYPE", "CRON_TZ", "LOGNAME", "MAILFROM", "MAILTO", "MLS_LEVEL"),
        *("RANDOM_DELAY", "SHELL"),
    }
)
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
MOVED = "# aura-agent runs this: "  # in front of a line whose job is one of the config now
HEAD = (
    "# What aura-agent discover has found on this host. aura-agent sync creates the heartbeats; grace and all else may"
    " be added.\n"
)


@dataclass(frozen=True, slots=True)
class Table:
    """A crontab or anacrontab, as *dialect* reads it; ``owner`` is whose, None for the system's.

    ``unknown_users`` are those of its users that have no account, ``homeless`` those whose home isn't there.
    """

    path: str
    text: str
    form: Form
    owner: str | None = None
    dialect: Dialect = CRONIE
    unknown_users: frozenset[str] = frozenset()
    homeless: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Timer:
    """A systemd timer and its service."""

    name: str
    service_name: str
    timer: Settings
    service: Settings


@dataclass(frozen=True, slots=True)
class Batch:
    """A directory that run-parts works through: the scripts that it runs, and the files that it ignores."""

    scripts: tuple[str, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides about this host's lines.

    ``run_parts_tells``: whether run-parts fails when a script does; ``needed``: the files and directories without which
    aura-run doesn't run, itself if nothing else is known; ``cannot_run``: who can't execute aura-run, and why.
    """

    hostname: str
    aura_run: str
    needed: Sequence[str] = ()
    systemd: bool = False
    anacron: bool = False
    run_parts_tells: bool = True
    batches: Mapping[str, Batch] = field(default_factory=dict)
    cannot_run: Mapping[Account, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A job that can have a heartbeat; ``when`` is as it is written, ``notes`` are for people.

    ``path`` is the file that changes for it, ``account`` whose rights its process has.
    """

    where: str
    path: str
    name: str
    heartbeat: str
    when: str
    interval_s: float
    user: str | None
    command: str
    account: Account
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Left:
    """A job that is left alone."""

    where: str
    command: str
    reason: str


@dataclass(frozen=True, slots=True)
class Change:
    """A file that becomes another; ``before`` is None for a new one, which gets ``mode``, ``after`` for one to remove.

    ``owner``: whose crontab. ``sections``: what the config declares of its jobs once it is written.
    """

    path: str
    before: str | None
    after: str | None
    owner: str | None = None
    mode: int = 0o644
    sections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """All of it, in the order of the files and lines."""

    jobs: tuple[Job, ...]
    left: tuple[Left, ...]
    changes: tuple[Change, ...]


class Names:
    """Names of jobs and their heartbeats, each given once."""

    def __init__(self, hostname: str, taken: Collection[str]) -> None:
        self._host = _clean(hostname.partition(".")[0]) or "host"
        self._taken = set(taken)

    def give(self, wanted: str | None) -> tuple[str, str]:
        """Return a name for a job that should be called *wanted*, and its heartbeat's: numbered if it is taken."""
        base = _clean(wanted or "") or "job"
        name, number = base, 1
        while {name, f"{self._host}/{name}"} & self._taken:
            number += 1
            name = f"{base}-{number}"
        self._taken |= {name, f"{self._host}/{name}"}
        return name, f"{self._host}/{name}"


def propose(
    tables: Sequence[Table],
    timers: Sequence[Timer],
    declared: Change | None,
    facts: Facts,
    *,
    taken: Collection[str] = (),
    shape: Shape = "crontab",
    only: Collection[str] = (),
) -> Proposal:
    """Return what to do about the jobs in *tables* and *timers*; with *only* about those of these names alone.

    *declared* is the file of the config that is to hold the jobs, as it is now (``after`` is ignored), None if nothing
    can be declared; *taken* are names of jobs and heartbeats that are in use. Raises UsageError: a name in *only* is
    none.
    """
    names = Names(facts.hostname, {*taken, *_names_in_use(tables, timers)})
    parts = [_propose_table(table, facts, names, shape, only) for table in tables]
    parts += [_propose_timer(timer, facts, names, shape, only) for timer in timers]
    jobs = [job for part in parts for job in part.jobs]
    unknown = set(only).difference(*(part.named for part in parts))
    if unknown:
        raise UsageError(f"no job to propose is called {', '.join(sorted(unknown))}; see them without --only")
    changes = [part.change for part in parts if part.change is not None]
    if declared is not None and (declaration := declare(declared, changes, shape)) is not None:
        changes.append(declaration)
    return Proposal(tuple(jobs), tuple(left for part in parts for left in part.left), tuple(changes))


def declare(declared: Change, changes: Sequence[Change], shape: Shape) -> Change | None:
    """Return *declared* with the sections of *changes* at its end; None if they have none.

    Commands may hold what others mustn't read.
    """
    sections = [section for change in changes for section in change.sections]
    if not sections:
        return None
    before = HEAD if declared.before is None else declared.before
    text = "\n".join((before if before.endswith("\n") or not before else f"{before}\n", *sections))
    return Change(declared.path, declared.before, text, mode=0o600 if shape == "config" else 0o644)


def heartbeats_in(text: str) -> set[str]:
    """Return the heartbeats that a table's lines, a drop-in or a file of the config name."""
    lines = [line for line in text.split("\n") if not line.lstrip().startswith("#")]
    found = (pattern.findall(line) for line in lines for pattern in (_THEIR_HEARTBEAT, _DECLARED_HEARTBEAT))
    return {name for names in found for name in names}


@dataclass(slots=True)
class _Part:
    """What comes of one table or timer.

    ``sections`` are those of the config, one for each of a table's jobs; ``named`` are the names of all jobs, wanted or
    not.
    """

    jobs: list[Job] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    change: Change | None = None


def _propose_table(table: Table, facts: Facts, names: Names, shape: Shape, only: Collection[str]) -> _Part:
    part, texts = _Part(), []
    for line in read_table(table.text, table.form, table.dialect):
        texts.append(line.text)
        where, entry = f"{table.path}:{line.number}", line.entry
        reason = line.problem if entry is None else _why_not(entry, table, facts, shape)
        if reason:
            part.left.append(Left(where, line.text.strip() if entry is None else entry.command, reason))
        if entry is None or reason:
            continue
        job = _job(where, entry, table, facts, names, shape)
        part.named |= {job.name, job.heartbeat}
        if only and not {job.name, job.heartbeat} & set(only):
            continue
        text = _wrapped(line, job, facts) if shape == "crontab" else MOVED + line.text
        if shape == "crontab":
            reason = facts.cannot_run.get(job.account, "") or _too_long(text[entry.at :], table)
        if reason:
            part.left.append(Left(where, entry.command, reason))
            continue
        texts[-1] = text
        part.jobs.append(job)
        part.sections.append(_declaration(job) if shape == "crontab" else _moved(job, entry, table))
    after = "".join(texts)
    if after != table.text:
        part.change = Change(table.path, table.text, after, table.owner, sections=tuple(part.sections))
    return part


def _why_not(entry: Entry, table: Table, facts: Facts, shape: Shape) -> str:
    """Return why a job is left alone; empty if it isn't."""
    shell = entry.settings.get("SHELL") or "/bin/sh"
    if _OURS.search(entry.command):
        return "aura-run is there already"
    if entry.user in table.unknown_users:
        return f'there is no user "{entry.user}"; cron doesn\'t run it'
    if "HOME" not in entry.settings and (entry.user or table.owner) in table.homeless:
        return f"the home of {entry.user or table.owner} isn't there, so {table.dialect.name} doesn't run it"
    if entry.quiet and table.form == "user" and table.owner not in (None, "root"):
        return "only lines of root may begin with -; cron doesn't run it"
    if entry.interval_s is None:
        return "runs at boot only, so no ping can be expected of it"
    if facts.systemd and _SYSTEMD_RUNS in entry.command:
        return "does nothing where systemd runs: a timer does its work"
    if facts.anacron and _ANACRON in entry.command and table.form != "anacron":
        return "does nothing where anacron is: see /etc/anacrontab"
    if shell.rpartition("/")[2] not in POSIX_SHELLS or not re.fullmatch(r"/[\w./+-]+", shell):
        return f"SHELL={shell} may read quotes in ways of its own"
    if _RUN_CRONS in entry.command:
        return f"{_RUN_CRONS} ends well whatever its scripts do; give them lines of their own"
    if "run-parts" in entry.command:
        if not facts.run_parts_tells:
            return "this run-parts ends well whatever its scripts do; give them lines of their own"
        batch = _batch(entry, facts)
        if batch is not None and not batch.scripts:
            return "there is no script for it to run"
    return _why_not_config(entry, table) if shape == "config" else ""


def _why_not_config(entry: Entry, table: Table) -> str:
    """Return why a job that could be wrapped can't be one of the daemon."""
    if table.form == "anacron":
        return "anacron decides when; --as crontab leaves it there"
    if entry.given:
        return "has input after a %, which a job of the config can't; --as crontab keeps it"
    if not entry.settings.get("HOME", "/").startswith("/"):
        return "HOME is no absolute path: where it runs is for cron to say; --as crontab leaves that to cron"
    if entry.schedule is None:
        return "cron takes a random time of its own for ~; --as crontab leaves that to cron"
    cron_tz = entry.settings.get("CRON_TZ")
    if cron_tz and table.dialect.cron_tz:
        try:
            zone(cron_tz)
        except ScheduleError as problem:
            return f"CRON_TZ: {problem}"
    try:
        "".join((entry.command, *entry.settings.values())).encode()
    except UnicodeEncodeError:
        return "isn't UTF-8, which TOML wants; --as crontab keeps the bytes"
    return ""


def _too_long(command: str, table: Table) -> str:
    """Return why a command with aura-run in front of it can't be written; empty if it can."""
    limit = table.dialect.max_command_bytes
    if table.form == "anacron" or limit is None:
        return ""
    if len(command.rstrip("\n").encode("utf-8", "surrogateescape")) <= limit:
        return ""
    return f"too long for cron with aura-run in front of it: more than {limit} bytes"


def _job(where: str, entry: Entry, table: Table, facts: Facts, names: Names, shape: Shape) -> Job:
    name, heartbeat = names.give(name_of(as_shell_sees(entry, table)))
    notes = [doubt(entry.command)]
    batch = _batch(entry, facts)
    if batch is not None:
        notes.append(f"run-parts runs {', '.join(batch.scripts)}; it fails if one of them does")
        if batch.ignored:
            notes.append(
                f"run-parts ignores {', '.join(batch.ignored)}: not executable, or its name has other"
                " characters than letters, digits, _ and -"
            )
    if shape == "config" and entry.settings.get("MAILTO"):
        notes.append(f"cron mailed its output to {entry.settings['MAILTO']}; aura-agent doesn't")
    if table.form == "anacron":
        notes.append("anacron runs it late where the host was off; set grace to suit")
    assert entry.interval_s is not None
    interval_s = entry.interval_s + _random_delay_s(entry, table)
    user = entry.user or table.owner
    return Job(
        *(where, table.path, name, heartbeat, entry.when, interval_s, user, entry.command),
        *(Account(user or "root"), tuple(filter(None, notes))),
    )


def _random_delay_s(entry: Entry, table: Table) -> float:
    """Return how much later anacron and cronie may start the job, crontab(5) and anacrontab(5) of cronie."""
    minutes = entry.settings.get("RANDOM_DELAY", "")
    heeded = table.form == "anacron" or table.dialect.cron_tz
    return 60.0 * int(minutes) if heeded and re.fullmatch(r"\d{1,5}", minutes, re.ASCII) else 0.0


def _wrapped(line: Line, job: Job, facts: Facts) -> str:
    """Return the line with aura-run in front of its command."""
    entry = line.entry
    assert entry is not None
    command = entry.command
    shell = entry.settings.get("SHELL") or "/bin/sh"
    # A call of the shell gets another around it: --unwrap takes one away. Anacron's lines may go on.
    if called_line(shell, command) is not None or not is_plain(command.replace("\\\n", "")):
        command = shell_call(shell, command)
    return line.with_command(f"{facts.aura_run} -H {job.heartbeat} -- {command}")


def _propose_timer(timer: Timer, facts: Facts, names: Names, shape: Shape, only: Collection[str]) -> _Part:
    commands, reason = service_command(timer.service)
    command = bare_command(commands[-1]) if commands else ""
    timing = timing_of(timer.timer)
    if any(_OURS.search(f" {line}") for line in commands):
        reason = "aura-run is there already"
    reason = reason or timing.problem or obstacle(timer.service, facts.needed or (facts.aura_run,))
    if shape == "config" and not reason:
        reason = "systemd decides when; --as crontab puts aura-run in front of its command"
    if reason or timing.interval_s is None:
        return _Part(left=[Left(timer.name, command, reason)])
    name, heartbeat = names.give(timer.name.removesuffix(".timer"))
    named, account = {name, heartbeat}, service_account(timer.service)
    if only and not named & set(only):
        return _Part(named=named)
    if account in facts.cannot_run:
        return _Part(named=named, left=[Left(timer.name, command, facts.cannot_run[account])])
    user = next(reversed(timer.service.get(("Service", "User"), [])), None)
    notes = tuple(hints(timer.service))
    path = f"{DROP_INS}/{timer.service_name}.d/{DROP_IN_NAME}"
    job = Job(timer.name, path, name, heartbeat, timing.text, timing.interval_s, user, command, account, notes)
    after = drop_in(commands, f"{facts.aura_run} -H {heartbeat} --")
    return _Part([job], named=named, change=Change(path, None, after, sections=(_declaration(job),)))


def _declaration(job: Job) -> str:
    """Return a job of the config that something else runs."""
    return _section(job, {"expected_interval": write_duration(job.interval_s)})


def _moved(job: Job, entry: Entry, table: Table) -> str:
    """Return a job of the config that the daemon runs in cron's place."""
    keys: dict[str, object] = {"schedule": entry.schedule}
    if entry.settings.get("CRON_TZ") and table.dialect.cron_tz:
        keys["timezone"] = entry.settings["CRON_TZ"]
    if job.user not in (None, "root"):
        keys["user"] = job.user
    delay_s = _random_delay_s(entry, table)
    if delay_s:
        keys["jitter"] = write_duration(delay_s)
    line = as_shell_sees(entry, table)
    words = plain_words(line)
    if words is not None:
        keys["command"] = words
    else:
        keys["shell"] = line
    shell = entry.settings.get("SHELL") or "/bin/sh"
    if shell != "/bin/sh":
        keys["shell_program"] = shell
    if "HOME" in entry.settings:
        keys["cwd"] = entry.settings["HOME"]  # cron begins there, wherever the account's home is
    env = {
        name: value for name, value in entry.settings.items() if name not in _CRONS_OWN and _VARIABLE.fullmatch(name)
    }
    return _section(job, keys | ({"env": env} if env else {}))


def _section(job: Job, keys: Mapping[str, object]) -> str:
    said = "".join(f"{key} = {_toml(value)}\n" for key, value in {"heartbeat": job.heartbeat, **keys}.items())
    name = _toml(job.name) if "." in job.name else job.name
    return f"[jobs.{name}]  # {_printable(f'{job.where}: {job.when}')}\n{said}"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {_toml(text)}' for name, text in value.items())} }}"
    # JSON's strings and lists of them are TOML's, but for one control character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def as_shell_sees(entry: Entry, table: Table) -> str:
    """Return the command's line as the shell gets it: cron takes backslashes off ``%``, and Debian's off their like."""
    line = entry.command.replace("\\\n", "")
    if table.form != "anacron" and table.dialect.percent:
        escaped = r"\\([%\\])" if table.dialect.halves_backslashes else r"\\(%)|(\\.)"
        line = re.sub(escaped, lambda found: found[1] or found[0], line)
    return line.strip()


def _batch(entry: Entry, facts: Facts) -> Batch | None:
    return next(
        (batch for path, batch in facts.batches.items() if re.search(rf"{path}(?![\w/-])", entry.command)), None
    )


def _names_in_use(tables: Sequence[Table], timers: Sequence[Timer]) -> Iterator[str]:
    """Yield the heartbeats that lines name which have aura-run already."""
    for table in tables:
        yield from _THEIR_HEARTBEAT.findall(table.text)
    for timer in timers:
        for command in timer.service.get(("Service", "ExecStart"), []):
            yield from _THEIR_HEARTBEAT.findall(command)


def _clean(text: str) -> str:
    """Return *text* as a job's name may be: the rule is JOB_NAME_PATTERN of the config."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text, flags=re.ASCII).strip("-._")[:80]


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
