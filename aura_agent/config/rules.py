"""What the keys of a config must be together, and what looks wrong: one pass over a config whose shape is right.

Pure but for what ``Host`` answers. Whether a key is there at all is asked of *said*: one with a wrong value is at its
default in the config, and must not be called missing on top.
"""

import grp
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from msgspec import Struct

from aura_agent.config.addresses import clean_base_url, is_loopback, judge_webhook, parse_listen
from aura_agent.config.lines import Path
from aura_agent.config.models import (
    HOOKS,
    JOB_NAME_PATTERN,
    MAX_TAIL_BYTES,
    Config,
    Expect,
    Hook,
    Job,
    JobDefaults,
    UndeliverableHook,
    Watch,
    WatchProcess,
)
from aura_agent.config.report import Findings
from aura_agent.config.shape import nearest, quoted
from aura_agent.errors import ScheduleError
from aura_agent.report.redaction import compile_pattern
from aura_agent.units import format_duration

# Which keys the table at a path has, one that is misspelt being the model's that was meant.
Said = Callable[[Path, type[Struct]], frozenset[str]]

_MAX_HOOK_S = 600.0
_MAX_SOCKET_PATH_BYTES = 107  # sun_path without its NUL, unix(7)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ENV_NAMES = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)?\*|[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_NAME_RULE = 'use letters, digits, ".", "_" and "-", at most 100, the first a letter or digit'
# Keys that mean something to a job with fire times only, to one with those of a clock, and to one that is run at all.
_FIRE_TIME_ONLY = frozenset(
    {"catch_up", "catch_up_limit", "jitter", "job_group", "misfire_grace", "overlap", "timezone", "when_removed"}
)
_WALL_TIME_ONLY = frozenset({"catch_up", "catch_up_limit", "jitter", "misfire_grace", "timezone"})
_NEVER_USELESS = frozenset({"enabled", "grace", "reporters"})
_RUN_ONLY = frozenset(JobDefaults.__struct_fields__) - _NEVER_USELESS


@dataclass(frozen=True, slots=True)
class Host:
    """What this host knows: whether there are such accounts, the variables TZ and TZDIR, files' modes."""

    has_user: Callable[[str], bool]
    has_group: Callable[[str], bool]
    tz_env: str | None
    tz_dir: str | None
    is_public: Callable[[str], bool]  # whether everybody can read a file


def this_host() -> Host:
    return Host(
        lambda name: name.isdecimal() or _known(pwd.getpwnam, name),
        lambda name: name.isdecimal() or _known(grp.getgrnam, name),
        os.environ.get("TZ"),
        os.environ.get("TZDIR"),
        _is_public,
    )


def check(config: Config, said: Said, host: Host, findings: Findings, *, now: datetime | None = None) -> None:
    """Report what is wrong with *config*; with *now* also what its schedules do from then on."""
    _check_api(config, findings)
    _check_agent(config, host, findings)
    _check_redaction(config, findings)
    for name in config.job_groups:
        if re.fullmatch(JOB_NAME_PATTERN, name) is None:
            findings.error(("job_groups", name), f"{quoted(name)} is not a group's name; {_NAME_RULE}")
    zones: dict[str | None, ZoneInfo] = {}
    for name in config.jobs:
        _JobCheck(name, config, said, host, zones, findings).check(now)
    _check_sharing(config, findings)


def _check_api(config: Config, findings: Findings) -> None:
    api = config.api
    try:
        clean_base_url(api.base_url, allow_insecure=api.allow_insecure)
    except ValueError as problem:
        findings.error(("api", "base_url"), str(problem))
    if api.token_file is not None and not api.token_file.startswith("/"):
        findings.error(("api", "token_file"), "not an absolute path; write the path of a file that holds the token")
    if api.token_env is not None:
        if not _ENV_NAME.fullmatch(api.token_env) or api.token_env.startswith("aura_"):
            findings.error(("api", "token_env"), "not a variable's name; the token itself doesn't belong in the config")
        if api.token_file is not None:
            findings.error(("api", "token_env"), "token_file is given too; keep one of them")


def _check_agent(config: Config, host: Host, findings: Findings) -> None:
    agent, status = config.agent, config.status
    for key, path in (("state_dir", agent.state_dir), ("socket", agent.socket)):
        if path is not None and not path.startswith("/"):
            findings.error(("agent", key), 'not an absolute path; begin it with "/"')
    if agent.socket is not None and len(os.fsencode(agent.socket)) > _MAX_SOCKET_PATH_BYTES:
        findings.error(
            ("agent", "socket"), f"longer than {_MAX_SOCKET_PATH_BYTES} bytes; a socket needs a shorter path"
        )
    _check_heartbeat(("agent", "heartbeat"), agent.heartbeat, findings)
    _check_reporters(("agent", "reporters"), agent.reporters, host, findings)
    if status.listen is not None:
        try:
            address, _ = parse_listen(status.listen)
        except ValueError as problem:
            findings.error(("status", "listen"), f"{quoted(status.listen)} is {problem}")
            return
        if not is_loopback(address) and not status.allow_remote:
            hint = "the page has no login; listen on 127.0.0.1, or set allow_remote = true"
            findings.error(("status", "listen"), f"other hosts could reach {address}: {hint}")


class _JobCheck:
    """The rules of one job. *zones*: those that have been looked up already."""

    def __init__(
        self,
        name: str,
        config: Config,
        said: Said,
        host: Host,
        zones: dict[str | None, ZoneInfo],
        findings: Findings,
    ) -> None:
        self._name = name
        self._job: Job = config.jobs[name]
        self._groups = config.job_groups
        self._allow_insecure = config.api.allow_insecure
        self._said_at = said
        self._said_in: Said = lambda path, model: said(("jobs", name, *path), model)
        self._said = self._said_in((), Job)
        self._host = host
        self._zones = zones
        self._findings = findings

    def check(self, now: datetime | None) -> None:
        if re.fullmatch(JOB_NAME_PATTERN, self._name) is None:
            self._error((), f"{quoted(self._name)} is not a job's name; {_NAME_RULE}")
        _check_heartbeat(("jobs", self._name, "heartbeat"), self._job.heartbeat, self._findings)
        self._check_source()
        self._check_schedule(now)
        self._check_watch()
        self._check_expectations()
        self._check_limits()
        self._check_group()
        self._check_surroundings()
        self._check_hooks()

    def _check_source(self) -> None:
        said = self._said
        for key in ("schedule", "every"):
            if "expected_interval" in said and key in said:
                self._error(("expected_interval",), f"{key} says how often it runs; take out expected_interval")
        if "watch" in said:
            for key in ("command", "shell", "expect"):
                if key in said:
                    self._error((key,), f"a watch runs nothing; take out {key}, or watch")
            if "schedule" in said:
                self._error(("schedule",), 'a watch has no schedule; write every = "60s" instead')
            elif "every" not in said:
                self._error(("watch",), 'a watch looks every so often; add every = "60s"')
            self._warn_useless(_RUN_ONLY, "a watch, which runs nothing")
            return
        if {"command", "shell"} <= said:
            self._error(("shell",), "command is given too; keep one of them")
        if {"schedule", "every"} <= said:
            self._error(("every",), "schedule is given too; keep one of them")
        if not {"schedule", "every"} & said:
            self._warn_useless(_FIRE_TIME_ONLY, "a job without schedule or every, which something else runs")
        elif not {"command", "shell"} & said:
            self._error((), 'there is nothing to run; add command = ["…"] or shell = "…"')

    def _check_schedule(self, now: datetime | None) -> None:
        from aura_agent.schedule.plan import is_reboot

        job = self._job
        if job.schedule is None:
            if job.timezone is not None:
                self._zone()
            return
        zone = self._zone()
        texts = [job.schedule] if isinstance(job.schedule, str) else job.schedule
        for index, text in enumerate(texts):
            path: Path = ("schedule",) if isinstance(job.schedule, str) else ("schedule", index)
            self._check_expression(path, text, zone, now)
        if texts and all(is_reboot(text) for text in texts):
            self._warn_useless(_WALL_TIME_ONLY, "@reboot alone, which is due once per boot")

    def _zone(self) -> ZoneInfo | None:
        from aura_agent.schedule.zones import host_zone, zone

        name = self._job.timezone
        try:
            if name is None and None not in self._zones:
                found = host_zone(self._host.tz_env, self._host.tz_dir)
                self._zones[None] = found.zone
                if found.doubt:
                    self._findings.warn(self._path("schedule"), found.doubt)
            elif name not in self._zones:
                self._zones[name] = zone(name)
            return self._zones[name]
        except ScheduleError as problem:
            path = self._path("schedule") if self._job.timezone is None else self._path("timezone")
            self._findings.error(path, str(problem))
            return None

    def _check_expression(self, path: Path, text: str, zone: ZoneInfo | None, now: datetime | None) -> None:
        from aura_agent.schedule.lint import lint
        from aura_agent.schedule.plan import build

        try:
            schedule = build([text], None, job=self._name, zone=zone or ZoneInfo("UTC"))
            warnings = [] if now is None or zone is None else lint(schedule, now=now)
        except ScheduleError as problem:
            self._error(path, str(problem))
            return
        for warning in warnings:
            self._warn(path, warning)

    def _check_watch(self) -> None:
        watch = self._job.watch
        if watch is None:
            return
        for path, problem in _watch_problems(watch, self._said_in):
            self._error(("watch", *path), problem)
        process = watch.process
        if process is not None and process.user is not None and not self._host.has_user(process.user):
            self._warn(("watch", "process", "user"), f"this host has no user {quoted(process.user)}")

    def _check_expectations(self) -> None:
        expect = self._job.expect
        if expect is None:
            return
        if not self._said_in(("expect",), Expect):
            self._error(("expect",), "nothing is expected; write expect.file, or leave expect out")
        if expect.file is None:
            return
        if not expect.file.path.startswith("/"):
            self._error(("expect", "file", "path"), 'not an absolute path; begin it with "/"')
        if expect.file.newer_than == 0:
            self._error(("expect", "file", "newer_than"), 'nothing is newer than that; write "start" or a duration')

    def _check_limits(self) -> None:
        job = self._job
        if job.every is not None and job.every < 1:
            self._error(("every",), f"{format_duration(job.every)} is too short; write 1s or more")
        if job.expected_interval is not None and job.expected_interval < 1:
            self._error(
                ("expected_interval",), f"{format_duration(job.expected_interval)} is too short; write 1s or more"
            )
        if job.timeout is not None and job.timeout <= 0:
            self._findings.error(self._path("timeout"), "would end each run at once; leave it out for no limit")
        if job.max_age is not None and job.max_age <= 0:
            self._findings.error(self._path("max_age"), "no ping could be delivered; write a longer duration")
        if not 1 <= job.tail_bytes <= MAX_TAIL_BYTES:
            self._findings.error(self._path("tail_bytes"), "out of range; write a size from 1B to 200kB")
        if job.every is not None and job.every >= 1 and job.jitter >= job.every:
            self._warn_key("jitter", "is as long as every; runs may fall on the next fire time")

    def _check_group(self) -> None:
        group, groups = self._job.job_group, self._groups
        if group is not None and group not in groups:
            near = nearest(group, list(groups))
            hint = f'did you mean "{near}"?' if near else f"add [job_groups.{group}]"
            self._findings.error(self._path("job_group"), f"there is no job group {quoted(group)}; {hint}")

    def _check_surroundings(self) -> None:
        job, host = self._job, self._host
        if job.command is not None and not job.command[0].strip():
            self._error(("command", 0), "an empty program name; write the program's path")
        for key, path in (("cwd", job.cwd), ("env_file", job.env_file), ("shell_program", job.shell_program)):
            if path is not None and not path.startswith("/"):
                self._findings.error(self._path(key), 'not an absolute path; begin it with "/"')
        for index, names in enumerate(job.inherit_env):
            if not _ENV_NAMES.fullmatch(names):
                hint = 'write a name, "PREFIX_*" or "*"'
                self._findings.error((*self._path("inherit_env"), index), f"{quoted(names)} is no variable; {hint}")
        if job.output == "drop" and job.attach == "output":
            self._findings.error(self._path("attach"), 'output = "drop" leaves nothing to send; change one of them')
        for variable in job.env:
            if not _ENV_NAME.fullmatch(variable):
                rule = "letters, digits and _, the first no digit"
                self._findings.error((*self._path("env"), variable), f"not a variable's name; use {rule}")
        if job.user is not None and not host.has_user(job.user):
            self._warn_key("user", f"this host has no user {quoted(job.user)}; the job won't start")
        if job.group is not None and not host.has_group(job.group):
            self._warn_key("group", f"this host has no group {quoted(job.group)}; the job won't start")
        _check_reporters(self._path("reporters"), job.reporters, host, self._findings)

    def _check_hooks(self) -> None:
        insecure = self._allow_insecure
        for key in HOOKS:
            hook: Hook | None = getattr(self._job, key)
            if hook is None:
                continue
            path = self._path(key)
            if hook.webhook is not None and not hook.webhook.startswith("file:"):
                file = self._findings.place((*path, "webhook")).rpartition(":")[0]
                if self._host.is_public(file):
                    hint = "chmod 600 the file, or write file:PATH"
                    self._findings.warn((*path, "webhook"), f"everybody on this host can read this secret; {hint}")
            for at, problem in _hook_problems(hook, self._said_at(path, type(hook)), allow_insecure=insecure):
                self._findings.error((*path, *at), problem)

    def _warn_useless(self, keys: frozenset[str], of: str) -> None:
        for key in keys & self._said:
            self._warn((key,), f"has no effect on {of}")

    def _path(self, key: str) -> Path:
        """Return where the value of *key* was said: here, or in [defaults]."""
        return ("jobs", self._name, key) if key in self._said else ("defaults", key)

    def _error(self, path: Path, message: str) -> None:
        self._findings.error(("jobs", self._name, *path), message)

    def _warn(self, path: Path, message: str) -> None:
        self._findings.warn(("jobs", self._name, *path), message)

    def _warn_key(self, key: str, message: str) -> None:
        self._findings.warn(self._path(key), message)


def _hook_problems(hook: Hook, said: frozenset[str], *, allow_insecure: bool) -> Iterator[tuple[Path, str]]:
    if said and not {"command", "webhook"} & said:
        yield (), 'nothing is called; add command = ["…"] or webhook = "…", or write {} for nothing'
    if hook.command is not None and not hook.command[0].strip():
        yield ("command", 0), "an empty program name; write the program's path"
    if hook.webhook is not None and not hook.webhook.startswith("file:"):
        if problem := judge_webhook(hook.webhook, allow_insecure=allow_insecure):
            yield ("webhook",), problem
    elif hook.webhook is not None and not hook.webhook.startswith("file:/"):
        yield ("webhook",), 'not an absolute path; begin it with "file:/"'
    if not 0 < hook.timeout <= _MAX_HOOK_S:
        yield ("timeout",), f"out of range; write a duration up to {format_duration(_MAX_HOOK_S)}"
    if isinstance(hook, UndeliverableHook) and hook.after <= 0:
        yield ("after",), "every ping waits a moment; write a longer duration"


def _watch_problems(watch: Watch, said: Said) -> Iterator[tuple[Path, str]]:
    process, file = watch.process, watch.file
    if not said(("watch",), Watch):
        yield (), "nothing to look at; write watch.process or watch.file"
    if process is not None and file is not None:
        yield ("file",), "watch.process is given too; make two jobs of it"
    if process is not None:
        if not {"pidfile", "pattern", "name"} & said(("watch", "process"), WatchProcess):
            yield ("process",), "nothing to look for; add pidfile, pattern or name"
        if process.pidfile is not None and not process.pidfile.startswith("/"):
            yield ("process", "pidfile"), 'not an absolute path; begin it with "/"'
        if process.pattern is not None:
            try:
                re.compile(process.pattern)
            except re.error as problem:
                yield ("process", "pattern"), f"not a regular expression: {problem}; a \\ makes a character literal"
    if file is not None:
        if not file.path.startswith("/"):
            yield ("file", "path"), 'not an absolute path; begin it with "/"'
        if file.max_age is not None and file.max_age <= 0:
            yield ("file", "max_age"), "no file is as young as that; write a longer duration"


def _check_redaction(config: Config, findings: Findings) -> None:
    for index, text in enumerate(config.attach.redact):
        try:
            compile_pattern(text)
        except ValueError as problem:
            findings.error(("attach", "redact", index), f"{problem}; a \\ makes a character literal")


def _check_heartbeat(path: Path, heartbeat: str | None, findings: Findings) -> None:
    if heartbeat is not None and "://" in heartbeat:
        findings.error(path, "a URL; write the heartbeat's id or name (a ping URL is a secret)")


def _check_reporters(path: Path, reporters: tuple[str, ...], host: Host, findings: Findings) -> None:
    for index, reporter in enumerate(reporters):
        group = reporter.startswith("@")
        known = host.has_group(reporter[1:]) if group else host.has_user(reporter)
        if not known:
            what = "group" if group else "user"
            findings.warn((*path, index), f"this host has no {what} {quoted(reporter.removeprefix('@'))}")


def _check_sharing(config: Config, findings: Findings) -> None:
    """Report heartbeats that have more than one feeder: each would hide the other's failure."""
    feeders: dict[str, tuple[Path, str]] = {}
    if config.agent.heartbeat is not None:
        feeders[config.agent.heartbeat] = (("agent", "heartbeat"), "agent")
    for name, job in config.jobs.items():
        if not job.enabled or job.heartbeat is None:
            continue
        path: Path = ("jobs", name, "heartbeat")
        kind = "watch" if job.watch is not None else "job"
        first, first_kind = feeders.setdefault(job.heartbeat, (path, kind))
        if first == path:
            continue
        where = f"{'.'.join(map(str, first[:-1]))} ({findings.place(first)})"
        if kind == first_kind:
            findings.warn(path, f"{where} pings the same heartbeat, so one can hide that the other fails")
        elif first_kind == "agent":
            findings.error(path, f"the agent's own heartbeat, see {where}; use one of its own")
        else:
            findings.error(path, f"{where} pings the same heartbeat; a job and a watch need one each")


def _is_public(file: str) -> bool:
    try:
        return bool(os.stat(file).st_mode & stat.S_IROTH)
    except OSError:
        return False


def _known(look_up: Callable[[str], object], name: str) -> bool:
    try:
        look_up(name)
    except (KeyError, ValueError):
        return False
    return True
