"""The files of a config: reading them as TOML, joining them, and telling where in them a key stands.

A key is set in one file only, and a job is in one file as a whole; nothing overrides anything.
"""

import os
import re
import stat
import tomllib
from dataclasses import dataclass, field

from aura_agent.config.lines import Path, locate
from aura_agent.config.salvage import salvage
from aura_agent.errors import Problem
from aura_agent.other_writers import other_writer

MAX_FILE_BYTES = 16 * 1024**2  # a config of ten thousand jobs has some 5 MB; what is larger is something else
_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_HINTS = {
    "Invalid value": "text needs quotes, and true and false are lower case",
    "Expected '=' after a key in a key/value pair": "write KEY = VALUE; a key has letters, digits, - and _ only",
    "Invalid statement": "write KEY = VALUE or [TABLE]",
    "Unclosed array": "close it with ]",
    "Unterminated string": "close it with the quotes that it began with",
    "Cannot overwrite a value": "the key is there twice; keep one of them",
}


@dataclass(slots=True)
class Document:
    """One file: its text, and what it says."""

    file: str
    text: str
    data: dict[str, object]
    dropped: tuple[str, ...] = ()  # names of the tables that are not valid TOML, and left out
    _lines: dict[Path, int] = field(default_factory=dict, repr=False)

    def line(self, path: Path) -> int:
        """Return the line of *path*, or of the nearest table around it that is there."""
        if not self._lines:
            self._lines = locate(self.text)
        return self._lines[path[: self.depth(path)]]

    def depth(self, path: Path) -> int:
        """Return how many of the parts of *path* this file has."""
        at: object = self.data
        for depth, part in enumerate(path):
            there = part in at if isinstance(at, dict) else isinstance(at, list) and part in range(len(at))
            if not there:
                return depth
            at = at[part]  # type: ignore[index]
        return len(path)


def read_documents(path: str, *, conf_d: bool, partly: bool = False) -> tuple[list[Document], list[Problem]]:
    """Return *path* and, if *conf_d*, the files ``conf.d/*.toml`` beside it by name; and what can't be read.

    *partly*: a file that isn't valid TOML is read without its broken tables.
    """
    documents: list[Document] = []
    problems: list[Problem] = []
    files = [path]
    if conf_d:
        try:
            files += conf_d_files(path)
        except OSError as exc:
            problems.append(Problem(f"can't be listed: {exc.strerror}", file=str(exc.filename)))
    for file in files:
        document, problem = _read_document(file, partly=partly)
        if document is not None:
            documents.append(document)
        if problem is not None:
            problems.append(problem)
    return documents, problems


def conf_d_files(path: str) -> list[str]:
    """Return the further files of the config at *path*, in the order of their names. Raises OSError."""
    directory = os.path.join(os.path.dirname(path), "conf.d")
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        os.path.join(directory, name) for name in sorted(names) if name.endswith(".toml") and not name.startswith(".")
    ]


def join(documents: list[Document]) -> tuple[dict[str, object], list[Problem]]:
    """Return what all *documents* say together, and a problem for each key that two of them set."""
    joined: dict[str, object] = {}
    problems: list[Problem] = []
    for index, document in enumerate(documents):
        _join(joined, document.data, (), documents[: index + 1], problems)
    return joined, problems


def place(documents: list[Document], path: Path) -> tuple[str, int | None]:
    """Return file and line of *path*: of the first file that has most of it."""
    if not documents:
        return "", None
    document = max(documents, key=lambda document: document.depth(path))
    return document.file, document.line(path)


def key_text(path: Path) -> str:
    """Return *path* as one would write it in TOML: ``jobs."my job".command[1]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part.isascii() and part.replace("-", "").replace("_", "").isalnum()
            shown = part if bare else ascii(part)[1:-1].replace('"', '\\"').join('""')
            text += f".{shown}" if text else shown
    return text


def _join(
    target: dict[str, object],
    source: dict[str, object],
    path: Path,
    documents: list[Document],
    problems: list[Problem],
) -> None:
    document = documents[-1]
    for key, value in source.items():
        here = (*path, key)
        if key not in target:
            target[key] = dict(value) if isinstance(value, dict) else value
            continue
        there = target[key]
        if isinstance(there, dict) and isinstance(value, dict) and path == ():
            _join(there, value, here, documents, problems)
            continue
        file, line = place(documents[:-1], here)
        what = "this job is" if path == ("jobs",) else "this key is"
        message = f"{what} also set in {file}:{line}; keep one of them"
        problems.append(Problem(message, file=document.file, line=document.line(here), key=key_text(here)))


def _read_document(file: str, *, partly: bool) -> tuple[Document | None, Problem | None]:
    try:
        text, writer = _read_text(file)
    except OSError as exc:
        return None, Problem(f"can't be read: {exc.strerror}", file=file)
    except UnicodeDecodeError as exc:
        line = bytes(exc.object[: exc.start]).count(b"\n") + 1
        return None, Problem("not UTF-8; save the file as UTF-8", file=file, line=line)
    others = Problem(writer, file=file) if writer else None
    if others is not None and (not partly or os.geteuid() == 0):
        return None, others
    try:
        return Document(file, text, tomllib.loads(text)), others
    except (ValueError, RecursionError) as exc:
        problem = _syntax_problem(file, text, exc)
    saved = salvage(text) if partly else None
    if saved is None:
        return None, problem
    text, dropped = saved
    return Document(file, text, tomllib.loads(text), tuple(dropped)), problem


def _read_text(file: str) -> tuple[str, str]:
    """Return the text of *file*, and who else can change it. Raises OSError, UnicodeDecodeError."""
    opened = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold us up
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            kind = "a directory" if stat.S_ISDIR(found.st_mode) else "not a regular file"
            raise OSError(0, f"it is {kind}", file)
        with open(opened, "rb", closefd=False) as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(opened)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(0, "it is larger than 16 MiB", file)
    return content.decode("utf-8-sig"), other_writer(file, found)


def _syntax_problem(file: str, text: str, exc: Exception) -> Problem:
    if not isinstance(exc, tomllib.TOMLDecodeError):
        return Problem("not valid TOML: a number that is too long, or tables nested too deeply", file=file)
    message = str(exc)
    found = _POSITION.search(message)
    line = None if found is None else int(found[1]) if found[1] else max(1, len(text.splitlines()))
    message = _POSITION.sub("", message)
    hint = next((hint for start, hint in _HINTS.items() if message.startswith(start)), "")
    return Problem(f"not valid TOML: {message}" + (f"; {hint}" if hint else ""), file=file, line=line)
