"""A line of shell: whether it is one plain command, what to call it, and what its exit status hides. Pure.

It is looked at, never rewritten. Where a shell would have to be asked, a line counts as more than a plain command.
"""

import re
import shlex
from collections.abc import Iterator

from aura_agent.wrapper.reporting import lent_name

# Shells that understand single quotes as POSIX has them, and -c.
POSIX_SHELLS = frozenset({"sh", "ash", "bash", "dash", "ksh", "mksh", "zsh"})

# Words that a shell takes for its own: in front of them no program can stand. Of dash(1), bash(1) and ksh(1).
_SHELLS_OWN = frozenset(
    {
        *("!", ".", ":", "[", "[[", "]]", "{", "}", "alias", "bg", "break", "builtin", "case", "cd", "command"),
        *("continue", "declare", "do", "done", "echo", "elif", "else", "esac", "eval", "exec", "exit", "export"),
        *("false", "fc", "fg", "fi", "for", "function", "getopts", "hash", "if", "jobs", "kill", "let", "local"),
        *("printf", "pwd", "read", "readonly", "return", "select", "set", "shift", "shopt", "source", "test"),
        *("then", "time", "times", "trap", "true", "type", "typeset", "ulimit", "umask", "unalias", "unset"),
        *("until", "wait", "while"),
    }
)
# Of them, those that the command itself may follow; and programs that run another, with options that take a value.
_LEADING = frozenset(
    {"!", "{", "builtin", "command", "do", "elif", "else", "exec", "if", "then", "time", "until", "while"}
)
_RUNNERS = {
    **dict.fromkeys(("chronic", "cronic", "nohup", "setsid", "systemd-inhibit"), ""),
    "chrt": "",
    "doas": "u",
    "env": "uCS",
    "flock": "wE",
    "ionice": "cnp",
    "nice": "n",
    "runuser": "ugG",
    "stdbuf": "ioe",
    "sudo": "ugCDhpRTU",
    "systemd-cat": "tp",
    "taskset": "",
    "timeout": "sk",
}
_OPERANDS = {"chrt": 1, "flock": 1, "taskset": 1, "timeout": 1}  # words of their own before the command
_TOKEN = re.compile(
    r"""(?P<blank>[ \t]+)|(?P<op>&&|\|\||[0-9]*[<>]+[&|]?|&>+|[;&|()`\n])"""
    r"""|(?P<word>(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^\s;&|()<>`'"\\])+)|(?P<odd>.)""",
    re.DOTALL,
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


def is_plain(line: str) -> bool:
    """Whether *line* is one command of plain words, so that a program in front of it changes nothing for it."""
    tokens = list(_tokens(line))
    if not tokens or any(kind != "word" or word.startswith("#") for kind, word in tokens):
        return False
    words = [word for _, word in tokens]
    if any(opened in word for word in words for opened in ("$(", "`")):
        return False
    first = words[0]
    # Only a word with a slash names a program whatever a variable in it holds.
    return "=" not in first and (
        "/" in first or (re.fullmatch(r"[\w.+-]+", first) is not None and first not in _SHELLS_OWN)
    )


def plain_words(line: str) -> list[str] | None:
    """Return the arguments of a plain command without anything that a shell would expand; None for all else."""
    if not is_plain(line) or re.search(r"[$*?\[\]~{}\\!]", line):
        return None
    return shlex.split(line)


def shell_call(shell: str, line: str) -> str:
    """Return the words that have *shell* run *line*. Single quotes keep all as it is, also what cron makes of ``%``."""
    quoted = line.replace("'", "'\\''")
    return f"{shell} -c '{quoted}'"


def doubt(line: str) -> str:
    """Return how the exit status of *line* may be good although something in it failed; empty if it can't."""
    ops = [word for kind, word in _tokens(line) if kind == "op"]
    if ops and ops[-1] == "&":
        return "it goes on in the background: its status is known before it is done"
    if "||" in ops:
        return "what follows || may hide a failure"
    if "|" in ops:
        return "only the last command of a pipe decides over success"
    if ";" in ops:
        return "only the last command decides over success; && in place of ; lets each"
    return ""


def name_of(line: str) -> str | None:
    """Return what to call *line*: the program that it is about, without extension; None if none can be told."""
    for words in _commands(line):
        name = _name(words)
        if name is not None:
            return name
    return None


def _commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each command in *line*, without quotes, redirections and assignments."""
    words: list[str] = []
    target = False
    for kind, token in _tokens(line):
        if kind == "op" and ("<" in token or ">" in token):
            target = True
        elif kind == "word" and target:
            target = False
        elif kind == "word":
            if words or not _ASSIGNMENT.match(token):
                words.append(_unquoted(token))
        elif words:
            yield words
            words = []
    if words:
        yield words


def _name(words: list[str]) -> str | None:
    words = list(words)
    while words:
        base = words.pop(0).rpartition("/")[2]
        if base in _LEADING:
            continue
        if base in _SHELLS_OWN:
            return None
        if base == "run-parts":
            return next((word.rstrip("/").rpartition("/")[2] for word in words if not word.startswith("-")), base)
        if base in _RUNNERS:
            _drop_options(words, _RUNNERS[base], _OPERANDS.get(base, 0))
            continue
        name = lent_name(base)
        if name is not None:
            return name
        # An interpreter: its script, its module, or the line that it is given.
        for index, word in enumerate(words):
            if word == "-m" or not word.startswith("-"):
                script = "".join(words[index + 1 : index + 2]) if word == "-m" else word
                return lent_name(script) or None
            if word[-1] in "ecr":
                return name_of("".join(words[index + 1 : index + 2])) if word.endswith("c") else None
        return None
    return None


def _drop_options(words: list[str], with_value: str, operands: int) -> None:
    """Take from the front of *words* what belongs to a runner: options, assignments, and *operands* words."""
    while words:
        if words[0].startswith("-"):
            option = words.pop(0)
            if len(option) == 2 and option[1] in with_value and words:
                words.pop(0)
        elif _ASSIGNMENT.match(words[0]):
            words.pop(0)
        elif operands:
            words.pop(0)
            operands -= 1
        else:
            return


def _tokens(line: str) -> Iterator[tuple[str, str]]:
    """Yield the words and operators of *line*; ``odd`` is what fits nowhere, as a quote without its partner."""
    for found in _TOKEN.finditer(line.strip()):
        kind = found.lastgroup
        assert kind is not None
        if kind != "blank":
            yield kind, found[0]


def _unquoted(word: str) -> str:
    try:
        return "".join(shlex.split(word))
    except ValueError:
        return word
