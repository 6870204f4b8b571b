"""systemd's unit files: timers, and the commands of their services. Pure.

Read as systemd.syntax(7) has it: the fragment first, then its drop-ins; an empty value takes back what came before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aura_agent.discover.calendar import calendar_interval_s, span_s
from aura_agent.errors import ScheduleError

Settings = dict[tuple[str, str], list[str]]  # (section, key) → values

# Prefixes of ExecStart= that may stand before aura-run as well; "@" names another argv[0], which it can't hand on.
_PREFIXES = "-:+!"
_WRAPPABLE_TYPES = frozenset({"simple", "exec", "oneshot"})  # in others systemd waits for words of the main process
_CONFINING = ("User", "DynamicUser", "ProtectSystem", "PrivateNetwork", "RestrictAddressFamilies", "RootDirectory")


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
    return settings


def timing_of(timer: Settings) -> Timing:
    """Return how often the timer elapses: with several triggers as often as the one that is heard soonest."""
    intervals, problems = [], []
    for (section, key), values in timer.items():
        for value in values if section == "Timer" else ():
            try:
                if key == "OnCalendar":
                    intervals.append(calendar_interval_s(value))
                elif key in ("OnUnitActiveSec", "OnUnitInactiveSec"):
                    intervals.append(span_s(value))
            except ScheduleError as problem:
                problems.append(str(problem))
    text = "; ".join(
        f"{key}={value}"
        for (section, key), values in timer.items()
        if section == "Timer" and key.startswith("On")
        for value in values
    )
    if problems:
        return Timing(None, text, problems[0])
    if not intervals:
        return Timing(None, text, "elapses once per boot or start only, so no ping can be expected of it")
    try:
        delay_s = sum(span_s(value) for value in timer.get(("Timer", "RandomizedDelaySec"), [])[-1:])
    except ScheduleError as problem:
        return Timing(None, text, str(problem))
    return Timing(min(intervals) + delay_s, text)


def service_command(service: Settings) -> tuple[list[str], str]:
    """Return the ``ExecStart=`` lines, and why nothing can be put in front of the last (empty: it can)."""
    commands = service.get(("Service", "ExecStart"), [])
    kind = _last(service, "Type", "simple")
    if not commands:
        return [], "its service has no ExecStart="
    if kind not in _WRAPPABLE_TYPES:
        return commands, f"its service is of Type={kind}, whose main process systemd must know"
    if commands[-1].lstrip(_PREFIXES).startswith("@"):
        return commands, 'its command begins with "@"'
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


def hints(service: Settings) -> Iterator[str]:
    """Yield what in the service's settings may keep aura-run from its store, or the job from running at all."""
    confining = [key for key in _CONFINING if _last(service, key, "no") not in ("no", "false", "root")]
    if confining:
        yield f"{', '.join(confining)} may keep aura-run from its store: let the daemon take its reports (reporters)"
    conditions = [key for _, key in service if key.startswith("Condition") or key == "ExecCondition"]
    if conditions:
        yield f"{', '.join(conditions)} may keep it from running: then no ping comes, and Aura alarms"


def _last(service: Settings, key: str, default: str) -> str:
    return next(reversed(service.get(("Service", key), [])), default)


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
