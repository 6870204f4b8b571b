"""Files of environment variables: one ``NAME=value`` a line, as systemd's EnvironmentFile= and Docker's --env-file
have in common.

Empty lines and those that begin with ``#`` or ``;`` count for nothing. Around the value blanks are taken off, and one
pair of quotes, single or double. Nothing is expanded, continued or escaped, and what can't be read so is an error
rather than a guess. Values may be secrets: no error shows one.
"""

import os
import re
import stat
from contextlib import AbstractContextManager, nullcontext

from aura_agent.other_writers import other_writer

_MAX_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def read_env_file(
    path: str,
    rights: AbstractContextManager[object] = nullcontext(),  # noqa: B008
    owner: tuple[int, int] | None = None,
) -> dict[str, str]:
    """Return the variables in the file at *path*, which is read within *rights* and may belong to *owner*, uid and gid.

    Raises ValueError with a line for people: it can't be used.
    """
    with rights:
        content, found = _content(path)
    writer = other_writer(path, found, also=owner)
    if writer:
        raise ValueError(f"env_file {path}: {writer}")
    try:
        return parse_env_file(content.decode("utf-8-sig", "surrogateescape"))
    except ValueError as problem:
        raise ValueError(f"env_file {path}:{problem}") from None


def _content(path: str) -> tuple[bytes, os.stat_result]:
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold us up
        with open(opened, "rb") as file:
            found = os.fstat(opened)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"env_file {path}: not a regular file")
            content = file.read(_MAX_BYTES + 1)
    except OSError as problem:
        raise ValueError(f"env_file {path}: {problem.strerror}") from problem
    if len(content) > _MAX_BYTES:
        raise ValueError(f"env_file {path}: larger than 1 MiB")
    return content, found


def parse_env_file(text: str) -> dict[str, str]:
    """Return the variables that *text* sets, the last of a name. Raises ValueError: ``LINE: what is wrong``."""
    variables: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()  # noqa: PLW2901  # blanks, and the \r of files from elsewhere
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or _NAME.fullmatch(name) is None:
            raise ValueError(f"{number}: not NAME=value; a comment begins with #")
        if value[:1] in ("'", '"'):
            if len(value) < 2 or value[-1] != value[0]:
                raise ValueError(f"{number}: the quote of {name} doesn't end on its line")
            value = value[1:-1]
        if "\0" in value:
            raise ValueError(f"{number}: {name} holds a NUL character")
        variables[name] = value
    return variables
