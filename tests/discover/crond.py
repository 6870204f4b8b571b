"""What cron does with the command of a crontab's line, told anew: the loop over the command in cronie's
src/do_command.c, and in Debian's, and the call of the shell after it.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


def divide(command: str, *, halves: bool = False) -> tuple[str, str]:
    """Return what the shell gets and what goes to its standard input, character by character as cron goes.

    *halves*: two backslashes become one, as in Debian's cron.
    """
    kept: list[str] = []
    escaped = False
    for index, char in enumerate(command):
        if escaped:
            if char == "%" or (halves and char == "\\"):
                kept[-1] = char
            else:
                kept.append(char)
            escaped = False
        elif char == "%":
            return "".join(kept), _input(command[index + 1 :])
        else:
            kept.append(char)
            escaped = char == "\\"
    return "".join(kept), ""


def _input(text: str) -> str:
    """Return the input: each % a line feed unless a backslash is before it, and a line feed at the end."""
    given: list[str] = []
    escaped = False
    for char in text:
        if escaped:
            if char != "%":
                given.append("\\")
        elif char == "%":
            char = "\n"  # noqa: PLW2901  as the loop in cron does
        escaped = not escaped and char == "\\"
        if not escaped:
            given.append(char)
    if escaped:
        given.append("\\")
    return "".join(given) if given and given[-1] == "\n" else "".join([*given, "\n"])


def run(
    command: str, environment: Mapping[str, str], home: Path, shell: str = "/bin/sh"
) -> "subprocess.CompletedProcess[bytes]":
    """Run the command of a line, as cron does when it is due."""
    line, given = divide(command)
    return subprocess.run(
        [shell, "-c", line],
        input=os.fsencode(given),
        env={**environment, "SHELL": shell},
        cwd=home,
        capture_output=True,
        check=False,
        timeout=60,
    )
