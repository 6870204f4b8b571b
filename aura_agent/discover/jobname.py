"""What to call a line of shell: after the program that does the work. Pure.

A line is looked at command by command. Runners (``sudo``, ``flock``), shells and interpreters stand in front of the
work; commands such as ``sleep`` and ``mkdir`` only prepare it. The first command that does neither gives the name. A
name stays the same as long as that command does.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aura_agent.discover.shellline import POSIX_SHELLS, SHELLS_OWN, is_assignment, tokens, unquoted

# Words of the shell that the command itself may follow.
LEADING = frozenset(
    {"!", "{", "builtin", "command", "do", "elif", "else", "exec", "if", "then", "time", "until", "while"}
)
# Commands that prepare the work, or tell of it: they give the name only where nothing else is done.
_HELPERS = frozenset(
    {
        *("awk", "basename", "cat", "chgrp", "chmod", "chown", "cut", "date", "dirname", "egrep", "fgrep", "gawk"),
        *("grep", "head", "hostname", "id", "ln", "logger", "ls", "mail", "mailx", "mkdir", "mktemp", "mountpoint"),
        *("nproc", "pgrep", "pidof", "rm", "rmdir", "sed", "sendmail", "seq", "shuf", "sleep", "sort", "ssh-agent"),
        *("stat", "sync", "tail", "tee", "touch", "tr", "ts", "tty", "uname", "uniq", "wc"),
        *("which", "whoami"),
    }
)
_EXTENSIONS = re.compile(
    r"(?<=.)\.(?:awk|bash|bat|bin|cgi|cjs|csh|dll|exe|go|groovy|jar|js|ksh|lua|mjs|phar|php\d?|phtml|pl|pm|ps1|pyc?|pyz"
    r"|r|rb|run|script|sh|tcl|ts|zsh)\Z",
    re.IGNORECASE,
)


_ARITHMETIC = re.compile(r"\$\(\(.*?\)\)")


@dataclass(frozen=True, slots=True)
class _Options:
    """Which options of a program take the next word as their value; ``operands`` are its own words after them."""

    short: str = ""
    long: tuple[str, ...] = ()
    operands: int = 0
    line: str = ""  # short option whose value is a line of shell


_RUNNERS = {
    **dict.fromkeys(("chronic", "cronic", "nohup", "run-one", "run-this-one", "unbuffer", "xvfb-run"), _Options()),
    "chpst": _Options("ubUeCnoplmdfr/"),
    "chroot": _Options("", ("--userspec", "--groups"), 1),
    "chrt": _Options("TPD", (), 1),
    "doas": _Options("uC"),
    "env": _Options("uC", ("--unset", "--chdir")),
    "envdir": _Options(operands=1),
    "flock": _Options("wE", ("--wait", "--timeout", "--conflict-exit-code"), 1, "c"),
    "ionice": _Options("cn", ("--class", "--classdata")),
    "lckdo": _Options("Ww", (), 1),
    "nice": _Options("n", ("--adjustment",)),
    "numactl": _Options("NCmip"),
    "runuser": _Options("ugGsw", ("--user", "--group", "--shell"), 0, "c"),
    "setlock": _Options(operands=1),
    "setpriv": _Options("", ("--reuid", "--regid", "--groups")),
    "setsid": _Options(),
    "softlimit": _Options("adflmoprst"),
    "stdbuf": _Options("ioe", ("--input", "--output", "--error")),
    "su": _Options("gGsw", ("--group", "--shell"), 0, "c"),
    "sudo": _Options("ugCDhpRTUrt", ("--user", "--group", "--chdir", "--host", "--prompt")),
    "systemd-cat": _Options("tp", ("--identifier", "--priority")),
    "systemd-inhibit": _Options("", ("--what", "--who", "--why", "--mode")),
    "systemd-run": _Options("pEtu", ("--property", "--setenv", "--unit", "--uid", "--gid", "--slice", "--description")),
    "taskset": _Options("", (), 1),
    "timeout": _Options("sk", ("--signal", "--kill-after"), 1),
    "unshare": _Options(),
    "watch": _Options("n", ("--interval",)),
    "xargs": _Options("adEILnPs", ("--max-args", "--max-procs", "--replace", "--delimiter", "--arg-file")),
}
# Programs that run another after a word of their own.
_VERBS = {
    **dict.fromkeys(("hatch", "pdm", "pipenv", "poetry", "rye"), "run"),
    **dict.fromkeys(("bundle", "nodenv", "pyenv", "rbenv"), "exec"),
    "uv": "run",
}
# Shells and interpreters: options with a value before the script. Versions and "env -S" are taken off before.
_INTERPRETERS = {
    **dict.fromkeys(POSIX_SHELLS | {"csh", "fish", "tcsh"}, _Options("oO", ("--rcfile", "--init-file"), 0, "c")),
    **dict.fromkeys(("busybox", "gradlew", "npx", "uvx", "perl5", "wine"), _Options()),
    "bun": _Options("r"),
    "dotnet": _Options(),
    "java": _Options("", ("-cp", "-classpath", "--class-path", "-p", "--module-path", "--add-opens")),
    "lua": _Options("el"),
    "node": _Options("er", ("--eval", "--require", "--import", "--env-file")),
    "perl": _Options("eEI"),
    "php": _Options("crdzRBEF", ("--run", "--define", "--php-ini")),
    "pwsh": _Options("", ("-ExecutionPolicy", "-Command", "-c")),
    "pypy": _Options("cWX"),
    "python": _Options("cWX"),
    "Rscript": _Options("e"),
    "ruby": _Options("eIrC"),
    "tclsh": _Options(),
}
_CODE = {"lua": "e", "node": "e", "perl": "eE", "php": "r", "pypy": "c", "python": "c", "Rscript": "e", "ruby": "e"}
# Scripts and tools with a task for each purpose: the task belongs to the name. Options with a value before the task.
_TASKS = {
    **dict.fromkeys(("artisan", "console", "drush", "manage", "occ", "cake", "yii", "typo3", "magento"), _Options()),
    **dict.fromkeys(("ant", "gradle", "grunt", "gulp", "just", "mvn", "task"), _Options("f")),
    **dict.fromkeys(("cap", "fab", "inv", "invoke", "rails", "rake", "wp"), _Options("f")),
    **dict.fromkeys(("composer", "flask"), _Options("d", ("--app", "--working-dir"))),
    "make": _Options("CfIjlo", ("--directory", "--file", "--makefile", "--jobs")),
    **dict.fromkeys(("npm", "pnpm", "yarn"), _Options("", ("--prefix", "--cwd", "--dir"))),
}
_CONTAINERS = frozenset({"docker", "nerdctl", "podman"})
_WITHOUT_VALUE = frozenset(
    {
        *("--detach", "--init", "--interactive", "--no-deps", "--no-healthcheck", "--no-TTY", "--privileged"),
        *("--publish-all", "--quiet", "--quiet-pull", "--read-only", "--replace", "--rm", "--service-ports", "--tty"),
    }
)
_SSH = _Options("bcDEeFIiJLlmOopQRSWwB", (), 1)

_Guess = tuple[int, str]  # how much a name says of the work, and the name
_NOTHING: _Guess = (0, "")
_CARRIER, _HELPER, _WORK = 1, 2, 3


def runs_another(program: str) -> bool:
    """Whether *program* runs the command that its arguments name: ``sudo``, ``flock``, ``timeout``."""
    return program.rpartition("/")[2] in _RUNNERS


def name_of(line: str) -> str | None:
    """Return what to call *line*: the program that does the work, without extension; None if none can be told."""
    return _guess_line(line)[1] or None


def _guess_line(line: str) -> _Guess:
    """Return the first of the names in the line that say most of the work."""
    return max((_guess(words) for words in _commands(line)), key=lambda guess: guess[0], default=_NOTHING)


def _commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each command in *line*, without quotes, redirections and assignments."""
    words: list[str] = []
    target = False
    for kind, token in tokens(_ARITHMETIC.sub("0", line)):
        if kind == "op" and ("<" in token or ">" in token):
            target = True
        elif kind == "word" and target:
            target = False
        elif kind == "word":
            if words or not is_assignment(token):
                words.append(unquoted(token))
        elif words:
            yield words
            words = []
    if words:
        yield words


def _guess(words: list[str]) -> _Guess:
    """Return the name that a command gives."""
    words = list(words)
    while words:
        base = _base(words.pop(0))
        plain = _EXTENSIONS.sub("", base)
        if base in LEADING:
            if base == "command" and words[:1] in (["-v"], ["-V"]):
                return _NOTHING
            _drop_options(words, _Options("a" if base == "exec" else ""))
        elif base in SHELLS_OWN or not base:
            return _NOTHING
        elif base in _RUNNERS:
            lines = _drop_options(words, _RUNNERS[base])
            if base == "su" and not lines:  # what follows is the user, and then options again
                lines = _drop_options(words[1:], _RUNNERS[base])
            if lines or base == "su":
                return _guess_line(lines[0]) if lines else _NOTHING
            if base == "runuser" and words[1:2] == ["-c"]:
                return _guess_line(" ".join(words[2:3]))
        elif base in _VERBS and words and words[0] == _VERBS[base]:
            words.pop(0)
            _drop_options(words, _Options())
        elif base in _SPECIAL:
            return _SPECIAL[base](words, base)
        elif (interpreter := _interpreter(base)) is not None:
            return _interpreted(interpreter, words, base)
        elif plain in _TASKS:
            return _WORK, _with_task(plain, words)
        else:
            return (_HELPER if base in _HELPERS else _WORK), plain
    return _NOTHING


def _interpreter(base: str) -> str | None:
    stem = re.sub(r"[\d.-]+\Z", "", base)
    name = {"nodejs": "node", "pypy": "pypy"}.get(stem, stem)
    return next((known for known in (base, name) if known in _INTERPRETERS), None)


def _interpreted(name: str, words: list[str], base: str) -> _Guess:
    """Return the name of what an interpreter runs: its script, its module, or what is in a line that it is given."""
    options = _INTERPRETERS[name]
    code = _CODE.get(name, "")
    while words and words[0].startswith("-") and words[0] != "-":
        option = words.pop(0)
        if option == "--":
            break
        if option in ("-m", "-jar", "-File") and words and name != "ruby":
            module = words[0] if option == "-m" else _stem(words[0])
            return _WORK, module
        if options.line and not option.startswith("--") and options.line in option:
            return _guess_line(words[0]) if words else _NOTHING
        if option in ("--run", "--eval", "-Command") or (option[1:2] and option[-1] in code and option[1] != "-"):
            return _CARRIER, base
        if _takes_value(option, options) and words:
            words.pop(0)
    if name in ("bun", "deno") and words[:1] == ["run"]:
        words.pop(0)
    if name in ("busybox", "npx", "uvx"):
        return _guess(words) if words else _NOTHING
    if not words:
        return _NOTHING if options.line else (_CARRIER, base)
    plain = _stem(words.pop(0)) if name != "java" else words.pop(0)
    return _WORK, _with_task(plain, words) if plain in _TASKS else plain


def _with_task(name: str, words: list[str]) -> str:
    """Return the name of a tool with its task."""
    words = list(words)
    _drop_options(words, _TASKS[name])
    if name in ("npm", "pnpm", "yarn") and words[:1] in (["run"], ["run-script"]):
        words.pop(0)
        _drop_options(words, _Options())
    return f"{name}-{words[0]}" if words else name


def _run_parts(words: list[str], base: str) -> _Guess:
    _drop_options(words, _Options("au", ("--arg", "--umask", "--regex")))
    return _WORK, words[0].rstrip("/").rpartition("/")[2] if words else base


def _container(words: list[str], base: str) -> _Guess:
    """Return the name of what runs in a container: its command, else the image, the service or the container."""
    _drop_options(
        words, _Options("Hclf", ("--context", "--host", "--file", "--project-name", "--env-file", "--log-level"))
    )
    if base in _CONTAINERS and words[:1] in (["container"], ["compose"]):
        words.pop(0)
        _drop_options(
            words, _Options("fp", ("--file", "--project-name", "--project-directory", "--env-file", "--profile"))
        )
    verb = words.pop(0) if words else ""
    if verb not in ("exec", "restart", "run", "start"):
        return _WORK, base
    runs = verb in ("exec", "run")
    while words and words[0].startswith("-"):
        option = words.pop(0)
        alone = "=" in option or option in _WITHOUT_VALUE or re.fullmatch(r"-[ditPqT]+", option) is not None
        if runs and not alone and words:
            words.pop(0)
    if not words:
        return _WORK, base
    what = words.pop(0)
    inner = _guess(words) if words and not words[0].startswith("-") and runs else _NOTHING
    return inner if inner[0] > _CARRIER else (_WORK, _image(what))


def _image(reference: str) -> str:
    """Return the last part of an image's name, without tag and digest."""
    return reference.partition("@")[0].rpartition("/")[2].partition(":")[0]


def _kubectl(words: list[str], base: str) -> _Guess:
    inner = _guess(words[words.index("--") + 1 :]) if "--" in words else _NOTHING
    return inner if inner[0] > _CARRIER else (_WORK, base)


def _remote(words: list[str], base: str) -> _Guess:
    _drop_options(words, _SSH)
    inner = _guess_line(" ".join(words)) if words else _NOTHING
    return inner if inner[0] > _CARRIER else (_WORK, base)


def _service(words: list[str], base: str) -> _Guess:
    _drop_options(words, _Options("HMpt"))
    verb = words.pop(0) if words else ""
    if base == "service":
        return _WORK, verb or base
    _drop_options(words, _Options())
    if verb.startswith("is-") or verb == "status":
        return _HELPER, base
    return _WORK, words[0].removesuffix(".service") if words else base


_SPECIAL: dict[str, Callable[[list[str], str], _Guess]] = {
    **dict.fromkeys(_CONTAINERS | {"docker-compose", "podman-compose"}, _container),
    "kubectl": _kubectl,
    "run-parts": _run_parts,
    "service": _service,
    "ssh": _remote,
    "systemctl": _service,
}


def _drop_options(words: list[str], options: _Options) -> list[str]:
    """Take from the front of *words* what belongs to a runner: options, assignments, and its operands.

    Returns the lines of shell that its options hold.
    """
    lines: list[str] = []
    operands = options.operands
    while words:
        if words[0] == "--":
            words.pop(0)
            if not operands:
                break
        elif words[0].startswith("-") and words[0] != "-":
            option = words.pop(0)
            if options.line and (option == "--command" or re.fullmatch(rf"-\w*{options.line}", option)) and words:
                lines.append(words.pop(0))
            elif _takes_value(option, options) and words:
                words.pop(0)
        elif words[0] == "-" or is_assignment(words[0]):
            words.pop(0)
        elif operands:
            words.pop(0)
            operands -= 1
        else:
            break
    return lines


def _takes_value(option: str, options: _Options) -> bool:
    """Whether the value of *option* is the next word. Of letters in one word, the first that takes a value ends it."""
    if option in options.long:
        return True
    if option.startswith("--") or option[1:2].isdigit():
        return False
    first = next((index for index, letter in enumerate(option) if index and letter in options.short), None)
    return first is not None and first == len(option) - 1


def _base(word: str) -> str:
    return word.rstrip("/").rpartition("/")[2]


def _stem(word: str) -> str:
    return _EXTENSIONS.sub("", _base(word))
