"""Take ``aura-run`` out of a command line, whoever put it there. Pure.

The text is cut, never rewritten: what stays is what was there, byte by byte. Only where ``discover`` itself put a shell
around the line, that goes with it. Where it isn't sure that the rest means the same, the line is left alone.
"""

import re
from dataclasses import dataclass, field

from aura_agent.discover.jobname import LEADING, runs_another
from aura_agent.discover.shellline import (
    POSIX_SHELLS,
    called_line,
    is_assignment,
    is_plain,
    token_spans,
    unquoted,
)
from aura_agent.wrapper.options import FLAGS, WITH_VALUE
from aura_agent.wrapper.reporting import lent_name

_NAMED = re.compile(r"(?:^|[\s/;&|(\"'`])aura-run(?=\s|$)")

_Token = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Call:
    """One ``aura-run`` that was taken out, and how it found its heartbeat; ``name`` is what its command lends."""

    heartbeat: str = ""
    job: str = ""
    ping_url: str = ""
    name: str = ""


@dataclass(slots=True)
class Bare:
    """A command without its ``aura-run``s; ``problem`` says why it is left as it was."""

    text: str
    calls: list[Call] = field(default_factory=list)
    problem: str = ""


class _Unclear(Exception):
    """The text is the reason why a line is left alone."""


def has_aura_run(command: str) -> bool:
    """Whether *command* names aura-run in front of its comment."""
    return _NAMED.search(_without_comment(command)) is not None


def bare(command: str, shell: str | None = None) -> Bare:
    """Return *command* without ``aura-run``; *shell*: what runs it, if ``discover`` may have put it around the line."""
    calls: list[Call] = []
    try:
        text = _without(command, shell, calls)
    except _Unclear as problem:
        return Bare(command, problem=str(problem))
    if has_aura_run(text):
        return Bare(command, problem="aura-run is named where it can't be taken out safely; do it by hand")
    return Bare(text, calls)


def _without(command: str, shell: str | None, calls: list[Call]) -> str:
    parts = list(token_spans(command))
    for index in _positions(parts):
        after, call = _options(command, parts, index)
        start, rest = parts[index][2], command[after:]
        if index == 0 and shell is not None:
            line = called_line(shell, rest)
            # Only for such a line discover puts a shell around it.
            if line is not None and (called_line(shell, line) is not None or not _is_plain(line)):
                rest = line
        calls.append(Call(call.heartbeat, call.job, call.ping_url, lent_name(_first_word(rest)) or ""))
        return command[:start] + _without(rest, None if start else shell, calls)
    return _in_quotes(command, parts, calls)


def _positions(parts: list[_Token]) -> list[int]:
    """Return where ``aura-run`` stands as a command, the first place alone."""
    begins, runner, target = True, False, False
    for index, (kind, text, _) in enumerate(parts):
        if kind == "op" and re.search("[<>]", text):
            target = True
        elif kind == "op":
            begins, runner, target = True, False, False
        elif kind != "word" or target:
            target = False
        elif text.startswith("#"):
            break
        elif (begins or runner) and unquoted(text).rpartition("/")[2] == "aura-run":
            return [index]
        elif begins and not is_assignment(text) and text not in LEADING:
            begins, runner = False, runs_another(unquoted(text))
    return []


def _options(command: str, parts: list[_Token], at: int) -> tuple[int, Call]:
    """Return where the command of the ``aura-run`` at *at* begins, and how it names its heartbeat. Raises _Unclear."""
    said: dict[str, str] = {}
    words = iter(parts[at + 1 :])
    for kind, text, start in words:
        word = unquoted(text)
        if kind != "word" or "$(" in text:
            break
        if word == "--":
            begins = start + len(text)
            begins += len(command[begins:]) - len(command[begins:].lstrip(" \t"))
            if not command[begins:]:
                break
            return begins, _call(said)
        if not word.startswith("-") or word == "-":
            return start, _call(said)
        name, equals, value = word.partition("=")
        if word in FLAGS:
            continue
        if name in WITH_VALUE:
            if not equals:
                kind, text, _ = next(words, ("", "", 0))  # noqa: PLW2901  its value
                if kind != "word":
                    break
                value = unquoted(text)
            said[WITH_VALUE[name]] = value
        elif word[:2] in WITH_VALUE and not word.startswith("--"):
            said[WITH_VALUE[word[:2]]] = word[2:]
        else:
            raise _Unclear(f"aura-run's option {name} is unknown")
    if "job" in said:
        raise _Unclear(f"aura-run -j {said['job']} takes its command from the config; write the command here by hand")
    raise _Unclear("aura-run's options or command can't be told apart from the rest")


def _call(said: dict[str, str]) -> Call:
    return Call(said.get("heartbeat", ""), said.get("job", ""), said.get("ping_url", ""))


def _in_quotes(command: str, parts: list[_Token], calls: list[Call]) -> str:
    """Return *command* without the aura-runs in a line that it gives to a shell, in single quotes."""
    shell = calling = False
    for kind, text, start in parts:
        if kind != "word":
            shell = calling = False
        elif calling and _NAMED.search(text):
            line = text[1:-1].replace("'\\''", "'")
            if text[0] + line.replace("'", "'\\''") + text[-1] != text or not text.startswith("'"):
                raise _Unclear("aura-run stands within quotes; take it out by hand")
            inner = _without(line, None, calls).replace("'", "'\\''")
            return f"{command[:start]}'{inner}'{command[start + len(text) :]}"
        elif unquoted(text).rpartition("/")[2] in POSIX_SHELLS:
            shell = True
        else:
            calling = shell and re.fullmatch("-[a-z]*c", text) is not None
    return command


def _is_plain(line: str) -> bool:
    return is_plain(line.replace("\\\n", ""))


def _first_word(command: str) -> str:
    return next((unquoted(text) for kind, text, _ in token_spans(command) if kind == "word"), "")


def _without_comment(command: str) -> str:
    at = next((start for kind, text, start in token_spans(command) if kind == "word" and text.startswith("#")), None)
    return command if at is None else command[:at]
