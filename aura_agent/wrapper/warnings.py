"""One line on stderr for what needs a human, once a day per cause: cron mails everything that is printed."""

import os
from time import time

_DAY_S = 86400.0


def warn(directory: str, cause: str, text: str) -> None:
    """Print *text* unless *cause* has been warned of within a day; where that can't be remembered, print it."""
    if _is_new(directory, cause):
        print_line(text)


def print_line(text: str) -> None:
    """Print one line of ours to stderr, if there is one."""
    try:
        os.write(2, f"aura-run: {text}\n".encode("utf-8", "surrogateescape"))
    except OSError:
        pass


def _is_new(directory: str, cause: str) -> bool:
    from binascii import crc32

    marks = os.path.join(directory, "warned")
    mark = os.path.join(marks, f"{crc32(cause.encode('utf-8', 'surrogateescape')):08x}")
    try:
        if abs(time() - os.stat(mark).st_mtime) < _DAY_S:
            return False
    except OSError:
        pass
    try:
        from aura_agent.report.spool import prepare

        prepare(directory)
        os.makedirs(marks, 0o700, exist_ok=True)
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        os.utime(mark)
    except OSError:
        pass
    return True
