"""One line on stderr for what needs a human, once a day per cause: cron mails everything that is printed.

On a terminal each line is printed each time, and also what became of the run.

A thread writes the lines, so that nothing here blocks: no signal gets through to the main thread while it writes, and
stderr may be a full pipe, a stopped terminal, a hung disk. poll(2) alone doesn't help: the job may fill the pipe
between it and the write, and a file is always ready. O_NONBLOCK would change the job's stderr, too.
"""

import _thread
import os
from time import monotonic, time

_PIPE_BUF = 4096
_DAY_S = 86400.0
_PATIENCE_S = 0.05  # per line, until the first that takes longer: the job may be waiting to be started, or to be reaped
_LEAVING_S = 1.0  # for all that is left when we end

_lines: list[bytes] = []
_writing = _thread.allocate_lock()  # held while the thread lives
_is_stuck = False


def warn(directory: str, cause: str, text: str) -> None:
    """Print *text* unless *cause* has been warned of within a day; where that can't be remembered, print it.

    A terminal gets it each time: somebody looks on.
    """
    if os.isatty(2) or _is_known(directory, cause) is not True:
        print_line(text)


def say_on_terminal(text: str) -> None:
    """Print *text* if stderr is a terminal: cron gets no such line."""
    if os.isatty(2):
        print_line(text)


def _is_known(directory: str, cause: str) -> bool | None:
    """Whether *cause* has been warned of within a day; None: that can't be found out in time."""
    try:
        from aura_agent.report import spool  # noqa: F401  # before the fork
        from aura_agent.wrapper.helper import GLANCE_S, ask
    except BaseException:  # noqa: BLE001  # what can't be loaded any more keeps no line back
        return None
    try:
        answer = ask(lambda: b"new" if _is_new(directory, cause) else b"known", GLANCE_S)
    except OSError:  # no process is to be had: by ourselves
        try:
            return not _is_new(directory, cause)
        except BaseException:  # noqa: BLE001
            return None
    return None if answer is None else answer == b"known"


def print_line(text: str) -> None:
    """Print one line of ours to stderr, after those before it; later, or never, if stderr takes none now."""
    # Names may be somebody else's: nothing of them moves a terminal's cursor or turns a line's direction round.
    line = "".join(char if char.isprintable() else "?" for char in f"aura-run: {text}").encode()
    print_raw(line[: _PIPE_BUF - 1] + b"\n")  # a longer one would not be written in one piece


def print_raw(said: bytes) -> None:
    """The same with lines as they are, of at most PIPE_BUF bytes."""
    global _is_stuck
    _lines.append(said)
    _is_stuck = not _written(0.0 if _is_stuck else _PATIENCE_S)


def begin_anew() -> None:
    """In a forked process: what was to be printed is the other's, and so is the thread that does it."""
    global _writing, _is_stuck
    _writing, _is_stuck = _thread.allocate_lock(), False
    _lines.clear()


def flush_lines() -> None:
    """Give what is still to be printed a last second."""
    _written(_LEAVING_S)


def _written(patience_s: float) -> bool:
    """Have all lines written, and return whether that was done within *patience_s*."""
    deadline = monotonic() + patience_s
    while _writing.acquire(timeout=max(0.0, deadline - monotonic())):
        if not _lines:
            _writing.release()
            return True
        try:
            _thread.start_new_thread(_write_lines, ())
        except RuntimeError:  # no thread is to be had
            _write_if_there_is_room()
            _writing.release()
    return False


def _write_lines() -> None:
    """Write the lines in their order; one that can't be written is lost."""
    try:
        while _lines:
            try:
                os.write(2, _lines[0])
            except BlockingIOError:  # somebody who shares our stderr made it non-blocking
                _has_room(None)
                continue
            except OSError:
                pass
            del _lines[0]
    finally:
        _writing.release()


def _write_if_there_is_room() -> None:
    try:
        while _lines and _has_room(0):
            os.write(2, _lines[0])
            del _lines[0]
    except OSError:
        pass
    _lines.clear()


def _has_room(patience_ms: int | None) -> bool:
    from select import POLLOUT, poll

    room = poll()
    room.register(2, POLLOUT)
    return bool(room.poll(patience_ms))


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
