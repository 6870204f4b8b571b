"""One line on stderr for what needs a human, once a day per cause: cron mails everything that is printed."""

import os
from time import time

_DAY_S = 86400.0
_PATIENCE_MS = 1000


def warn(directory: str, cause: str, text: str) -> None:
    """Print *text* unless *cause* has been warned of within a day; where that can't be remembered, print it."""
    if _is_new(directory, cause):
        print_line(text)


def print_line(text: str) -> None:
    """Print one line of ours to stderr, if there is one that takes it: no signal gets through to us meanwhile."""
    from select import PIPE_BUF, POLLOUT, poll

    line = f"aura-run: {text}".encode("utf-8", "surrogateescape")
    room = poll()
    room.register(2, POLLOUT)
    try:
        if not room.poll(_PATIENCE_MS):
            return
        os.write(2, line[: PIPE_BUF - 1] + b"\n")  # a longer one could wait for room after all
    except OSError:
        pass


def _is_new(directory: str, cause: str) -> bool:
    """Whether *cause* hasn't been warned of within a day: remembered in the store, or where any file may lie."""
    from binascii import crc32

    name = f"{crc32(f'{directory} {cause}'.encode('utf-8', 'surrogateescape')):08x}"
    said = (os.environ.get("XDG_RUNTIME_DIR") or "", os.environ.get("TMPDIR") or "")
    elsewhere = next((path for path in said if os.path.isabs(path)), "/tmp")  # noqa: S108  # ours if prepared
    places = (directory, os.path.join(elsewhere, f"aura-run-{os.geteuid()}"))
    for place in places:
        try:
            mark = os.lstat(os.path.join(place, "warned", name))
            if mark.st_uid == os.geteuid() and abs(time() - mark.st_mtime) < _DAY_S:
                return False
        except OSError:
            pass
    for place in places:
        try:
            _mark(place, name)
        except OSError:
            continue
        break
    return True


def _mark(place: str, name: str) -> None:
    from aura_agent.private_files import make_directory, open_private
    from aura_agent.report.spool import prepare

    prepare(place)
    marks = os.path.join(place, "warned")
    make_directory(marks)
    mark = os.path.join(marks, name)
    os.close(open_private(mark, os.O_WRONLY | os.O_TRUNC))
    os.utime(mark)
