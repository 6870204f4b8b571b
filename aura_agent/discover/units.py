"""systemd's unit files: timers, and the commands of their services. Pure.

Read as systemd.syntax(7) has it: the fragment first, then its drop-ins; an empty value takes back what came before.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from aura_agent.discover.calendar import calendar_interval_s, span_s
from aura_agent.errors import ScheduleError

Settings = dict[tuple[str, str], list[str]]  # (section, key) → values

# Prefixes of ExecStart= that may stand before aura-run as well.
_PREFIXES = "-:+!"
_WRAPPABLE_TYPES = frozenset({"simple", "exec", "oneshot"})  # in others systemd waits for words of the main process
# Settings that may keep aura-run from its store, or from Aura; the job itself still runs as before.
_CONFINING = (
    *("User", "DynamicUser", "ProtectSystem", "ProtectHome", "ReadOnlyPaths", "PrivateNetwork", "NetworkNamespacePath"),
    *("RestrictAddressFamilies", "RestrictNetworkInterfaces", "IPAddressDeny", "SocketBindDeny", "PrivateUsers"),
)
# One empty value takes back all of them, systemd.timer(5).
_TRIGGERS = frozenset(
    {"OnActiveSec", "OnBootSec", "OnStartupSec", "OnUnitActiveSec", "OnUnitInactiveSec", "OnCalendar"}
)
# Sets of system calls of systemd.exec(5) whose loss Python and aura-run don't notice.
_NEEDLESS_CALLS = frozenset(
    {
        *("@aio", "@clock", "@cpu-emulation", "@debug", "@keyring", "@module", "@mount", "@obsolete", "@pkey"),
        *("@privileged", "@raw-io", "@reboot", "@sandbox", "@swap"),
    }
)
_ENOUGH_CALLS = frozenset({"@system-service", "@known"})
_LATENESS = (("Timer", "RandomizedDelaySec"), ("Timer", "AccuracySec"))  # both may make an elapse that much later
_NO = frozenset({"", "no", "false", "off", "0", "n", "f"})


@dataclass(frozen=True, slots=True)
class Timing:
    """How often a timer elapses at the least; ``problem`` says why that can't be told."""

    interval_s: float | None
    text: str
    problem: str = ""


def read_unit(texts: Sequence[str]) -> Settings:
    """Return the settings of a unit: its fragment and its drop-ins, in this order."""
    settings: Settings = {}
    for text in texts:
        section = ""
        for line in _joined(text):
            key, equals, value = line.partition("=")
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1]
            elif equals and value.strip():
                settings.setdefault((section, key.strip()), []).append(value.strip())
            elif equals:
                settings[section, key.strip()] = []
                if section == "Timer" and key.strip() in _TRIGGERS:
                    settings |= {("Timer", trigger): [] for trigger in _TRIGGERS}
    return settings


def timing_of(timer: Settings) -> Timing:
    """Return how often the timer elapses: with several triggers as often as the one that elapses most often."""
    triggers = {key: values for (section, key), values in timer.items() if section == "Timer" and key in _TRIGGERS}
    text = "; ".join(f"{key}={value}" for key, values in triggers.items() for value in values)
    events = triggers.pop("OnCalendar", [])
    spans = [value for key in ("OnUnitActiveSec", "OnUnitInactiveSec") for value in triggers.get(key, [])]
    try:
        intervals = [span_s(value) for value in spans]
        if events:
            intervals.append(calendar_interval_s(events))
        if not intervals:
            return Timing(None, text, "elapses once per boot or start only, so no ping can be expected of it")
        late_s = [span_s(timer[key][-1]) for key in _LATENESS if timer.get(key)]
    except ScheduleError as problem:
        return Timing(None, text, str(problem))
    return Timing(min(intervals) + sum(late_s), text)


def service_command(service: Settings) -> tuple[list[str], str]:
    """Return the ``ExecStart=`` lines, and why nothing can be put in front of the last (empty: it can)."""
    commands = service.get(("Service", "ExecStart"), [])
    kind = _last(service, "Type", "simple")
    if not commands:
        return [], "its service has no ExecStart="
    if kind not in _WRAPPABLE_TYPES:
        return commands, f"its service is of Type={kind}, whose main process systemd must know"
    prefix = commands[-1].lstrip(_PREFIXES)[:1]
    if prefix in ("@", "|"):  # another argv[0], or a shell: what follows is no program of its own
        return commands, f'its command begins with "{prefix}"'
    if " ; " in commands[-1]:
        return commands, "its ExecStart= has several commands"
    return commands, ""


def bare_command(command: str) -> str:
    """Return an ``ExecStart=`` line without its prefixes."""
    return command.lstrip(_PREFIXES)


def drop_in(commands: Sequence[str], words: str) -> str:
    """Return a drop-in that puts *words* in front of the last of *commands*: the ones before must have succeeded."""
    *before, last = commands
    command = bare_command(last)
    prefix = last[: len(last) - len(command)]
    lines = [*before, f"{prefix}{words} {command}"]
    return "\n".join(["[Service]", "ExecStart=", *(f"ExecStart={line}" for line in lines), ""])


def obstacle(service: Settings, needed: Collection[str]) -> str:
    """Return why aura-run can't run in this service; empty if nothing is known to be in its way.

    *needed* are the files and directories without which aura-run doesn't run. The rules are those of systemd.exec(5);
    where the manual leaves a doubt, the service counts as one in which aura-run can't run.
    """
    for key in ("RootDirectory", "RootImage"):
        root = _last(service, key, "")
        if root not in ("", "/"):
            return f"{key}={root}: aura-run isn't there"
    for key in ("AppArmorProfile", "SELinuxContext", "SmackProcessLabel"):
        if _last(service, key, "") not in ("", "unconfined"):
            return f"{key}= may forbid aura-run"
    if _words(service, "NoExecPaths"):
        return "NoExecPaths= may forbid to execute aura-run"
    hidden = [("InaccessiblePaths", path) for path in _words(service, "InaccessiblePaths", "InaccessibleDirectories")]
    hidden += [("TemporaryFileSystem", path) for path in _words(service, "TemporaryFileSystem")]
    home = _last(service, "ProtectHome", "no")
    if home not in {*_NO, "read-only"}:
        hidden += [(f"ProtectHome={home}: ", path) for path in ("/home", "/root", "/run/user")]
    for key, path in hidden:
        top = path.lstrip("-+").partition(":")[0].rstrip("/") + "/"
        lost = next((place for place in needed if f"{place}/".startswith(top)), None)
        if lost is not None:
            return f"{key if ': ' in key else f'{key}={path}: '}aura-run needs {lost}"
    return _obstacle_of_calls(service)


def _obstacle_of_calls(service: Settings) -> str:
    """Return why the filter of system calls may kill aura-run, or Python."""
    filters = service.get(("Service", "SystemCallFilter"), [])
    allowed = {call for value in filters if not value.startswith("~") for call in _calls(value)}
    denied = {call for value in filters if value.startswith("~") for call in _calls(value)}
    names_all = bool(filters) and not filters[0].startswith("~")  # the first says whether it lists all that is allowed
    if denied - _NEEDLESS_CALLS or (names_all and not allowed & _ENOUGH_CALLS):
        return "SystemCallFilter= may forbid what aura-run does"
    return ""


def _calls(value: str) -> set[str]:
    return {call.partition(":")[0] for call in value.removeprefix("~").split()}


def hints(service: Settings) -> Iterator[str]:
    """Yield what in the service's settings may keep aura-run from its store, or the job from running at all."""
    confining = [key for key in _CONFINING if _last(service, key, "no") not in {*_NO, "root"}]
    if confining:
        yield f"{', '.join(confining)} may keep aura-run from its store: let the daemon take its reports (reporters)"
    conditions = [key for _, key in service if key.startswith("Condition") or key == "ExecCondition"]
    if conditions:
        yield f"{', '.join(conditions)} may keep it from running: then no ping comes, and Aura alarms"


def _words(service: Settings, *keys: str) -> list[str]:
    """Return the words of all values of the keys."""
    return [word.strip("\"'") for key in keys for value in service.get(("Service", key), []) for word in value.split()]


def _joined(text: str) -> list[str]:
    """Return the lines that say something, those joined that end with a backslash."""
    lines: list[str] = []
    going_on = False
    for written in text.split("\n"):
        line = written.strip()
        if line.startswith(("#", ";")):
            continue
        goes_on = line.endswith("\\")
        line = line.removesuffix("\\").rstrip()
        if going_on:
            lines[-1] = f"{lines[-1]} {line}".strip()
        elif line or goes_on:
            lines.append(line)
        going_on = goes_on
    return lines


def _last(service: Settings, key: str, default: str) -> str:
    return next(reversed(service.get(("Service", key), [])), default)
