"""A line of shell: whether it is one plain command, and what its exit status hides. Pure.

It is looked at, never rewritten. Where a shell would have to be asked, a line counts as more than a plain command.
"""

import re
import shlex
from collections.abc import Iterator

# Shells that understand single quotes as POSIX has them, and -c.
POSIX_SHELLS = frozenset({"sh", "ash", "bash", "dash", "ksh", "mksh", "zsh"})

# Words that a shell takes for its own: in front of them no program can stand. Of dash(1), bash(1) and ksh(1).
SHELLS_OWN = frozenset(
    {
        *("!", ".", ":", "[", "[[", "]]", "{", "}", "alias", "bg", "break", "builtin", "case", "cd", "command"),
        *("continue", "declare", "do", "done", "echo", "elif", "else", "esac", "eval", "exec", "exit", "export"),
        *("false", "fc", "fg", "fi", "for", "function", "getopts", "hash", "if", "jobs", "kill", "let", "local"),
        *("printf", "pwd", "read", "readonly", "return", "select", "set", "shift", "shopt", "source", "test"),
        *("then", "time", "times", "trap", "true", "type", "typeset", "ulimit", "umask", "unalias", "unset"),
        *("until", "wait", "while"),
    }
)
_TOKEN = re.compile(
    r"""(?P<blank>[ \t]+)|(?P<op>&&|\|\||[0-9]*[<>]+[&|]?|&>+|[;&|()`\n])"""
    r"""|(?P<word>(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^\s;&|()<>`'"\\])+)|(?P<odd>.)""",
    re.DOTALL,
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


def is_plain(line: str) -> bool:
    """Whether *line* is one command of plain words, so that a program in front of it changes nothing for it."""
    parts = list(tokens(line))
    if not parts or any(kind != "word" or word.startswith("#") for kind, word in parts):
        return False
    words = [word for _, word in parts]
    if any(opened in word for word in words for opened in ("$(", "`")):
        return False
    first = words[0]
    # Only a word with a slash names a program whatever a variable in it holds.
    return "=" not in first and (
        "/" in first or (re.fullmatch(r"[\w.+-]+", first) is not None and first not in SHELLS_OWN)
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


def called_line(shell: str, words: str) -> str | None:
    """Return the line that *words* have *shell* run, if ``shell_call`` makes just these words of it."""
    start = f"{shell} -c '"
    if not (words.startswith(start) and words.endswith("'") and len(words) > len(start)):
        return None
    line = words[len(start) : -1].replace("'\\''", "'")
    return line if shell_call(shell, line) == words else None


def doubt(line: str) -> str:
    """Return how the exit status of *line* may be good although something in it failed; empty if it can't."""
    ops = [word for kind, word in tokens(line) if kind == "op"]
    if ops and ops[-1] == "&":
        return "it goes on in the background: its status is known before it is done"
    if "||" in ops:
        return "what follows || may hide a failure"
    if "|" in ops:
        return "only the last command of a pipe decides over success"
    if ";" in ops:
        return "only the last command decides over success; && in place of ; lets each"
    return ""


def tokens(line: str) -> Iterator[tuple[str, str]]:
    """Yield the words and operators of *line*; ``odd`` is what fits nowhere, as a quote without its partner."""
    for kind, text, _ in token_spans(line.strip()):
        yield kind, text


def token_spans(line: str) -> Iterator[tuple[str, str, int]]:
    """Yield the same as ``tokens``, each with where it begins in *line*."""
    for found in _TOKEN.finditer(line):
        kind = found.lastgroup
        assert kind is not None
        if kind != "blank":
            yield kind, found[0], found.start()


def is_assignment(word: str) -> bool:
    """Whether *word* gives a variable its value, where it stands in front of a command."""
    return _ASSIGNMENT.match(word) is not None


def unquoted(word: str) -> str:
    """Return *word* without its quotes; as it is if one has no partner."""
    try:
        return "".join(shlex.split(word))
    except ValueError:
        return word
