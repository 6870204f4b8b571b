"""Which aura-run is written into crontabs and units: one that outlasts a checkout, a home and a user."""

import os
import pwd
import re
import shutil
from collections.abc import Iterator

from aura_agent.errors import AuraError
from aura_agent.other_writers import other_writer

STANDARD = ("/usr/local/bin/aura-run", "/usr/bin/aura-run")
_MAX_SCRIPT_BYTES = 100_000
_HOMES = ("/home", "/root")
_NO_HOMES = frozenset({"/", "/bin", "/dev", "/etc", "/nonexistent", "/opt", "/run", "/sbin", "/srv", "/usr", "/var"})
_OF_SERVICES = ("/opt/", "/usr/")  # an account that lives there is no person's
_FIRST_USER = 1000  # login.defs(5): below it are the system's own accounts
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm", "/run/user")  # noqa: S108  nothing is written there
_CHECKOUT = (".git", ".hg", "pyproject.toml")
_HOW = "install it for all users, as the README does below /opt"


def find_aura_run(program: str, interpreter: str) -> str:
    """Return the aura-run of this installation: *program* is the running aura-agent, *interpreter* its Python.

    Where ``/usr/local/bin`` or ``/usr/bin`` has the same one, that path is returned. Raises AuraError: there is none.
    """
    beside = os.path.join(os.path.dirname(os.path.abspath(program)), "aura-run")
    of_python = os.path.join(os.path.dirname(interpreter), "aura-run")
    candidates = (beside, shutil.which("aura-run"), of_python)
    found = next((path for path in candidates if path and os.access(path, os.X_OK)), None)
    if found is None:
        raise AuraError("no aura-run beside aura-agent, nor in PATH: install it, or link it into /usr/local/bin")
    found = next((path for path in STANDARD if _same(found, path)), os.path.abspath(found))
    if re.fullmatch(r"[\w./+-]+", found, re.ASCII) is None:
        raise AuraError(f"{found}: a crontab needs a plain path: link it into /usr/local/bin and call aura-agent there")
    return found


def why_not_lasting(path: str, uid: int) -> str:
    """Return why *path* is no aura-run for other people's lines; empty if it is one.

    Links are followed, and so is the script's interpreter. *uid* is who writes: users may have their own in their home.
    """
    for part in dict.fromkeys((path, os.path.realpath(path), *interpreters(path))):
        named = f"{path} is" if part == path else f"{path} leads to {part}, which is"
        for home in _homes(uid):
            if _within(part, home):
                return f"{named} in the home {home}: {_HOW}"
        for directory in _TEMPORARY:
            if _within(part, directory):
                return f"{named} in a temporary directory: {_HOW}"
        checkout = next(_checkouts(part), None)
        if checkout is not None:
            return f"{named} in the checkout {checkout}: {_HOW}"
        changer = _changer(part) if uid == 0 else ""
        if changer:
            return f"{named} not root's alone ({changer}): {_HOW}"
    return ""


def _changer(path: str) -> str:
    """Return who but root can change the program that root's lines would run."""
    try:
        return other_writer(path, os.stat(path))
    except OSError:
        return ""  # it is tried as well, and can't be run


def interpreters(path: str) -> Iterator[str]:
    """Yield the program that runs the script *path*, as it is named and as it really is."""
    first = _read(path).partition(b"\n")[0]
    words = first[2:].split() if first.startswith(b"#!") else []
    if words:
        yield os.fsdecode(words[0])
        yield os.path.realpath(os.fsdecode(words[0]))


def _homes(uid: int) -> Iterator[str]:
    """Yield the homes of people; for an ordinary user that of others alone."""
    own = set()
    for account in pwd.getpwall():
        if account.pw_uid == uid and uid != 0:
            own.add(os.path.realpath(account.pw_dir))
        elif account.pw_dir in _NO_HOMES or account.pw_dir.startswith(_OF_SERVICES):
            continue
        elif account.pw_uid == 0 or account.pw_uid >= _FIRST_USER:
            yield account.pw_dir
    for parent in _HOMES:
        names = os.listdir(parent) if parent == "/home" and os.path.isdir(parent) else []
        homes = [parent] if parent == "/root" else [os.path.join(parent, name) for name in names]
        yield from (home for home in homes if os.path.realpath(home) not in own)


def _checkouts(path: str) -> Iterator[str]:
    directory = os.path.dirname(path)
    while directory not in ("/", ""):
        if any(os.path.lexists(os.path.join(directory, mark)) for mark in _CHECKOUT):
            yield directory
        directory = os.path.dirname(directory)


def _within(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")


def _same(found: str, standard: str) -> bool:
    """Whether two paths are one installation: one file, or the same script for the same interpreter."""
    if not os.access(standard, os.X_OK):
        return False
    if os.path.realpath(found) == os.path.realpath(standard):
        return True
    one, other = _read(found).partition(b"\n"), _read(standard).partition(b"\n")
    if not one[0].startswith(b"#!") or one[2] != other[2]:
        return False
    places = [_place(line) for line in (one[0], other[0])]
    return places[0] == places[1] != ""


def _place(shebang: bytes) -> str:
    """Return the directory of the interpreter, which is its environment's: that it links to another says nothing."""
    words = shebang[2:].split()
    return os.path.realpath(os.path.dirname(os.fsdecode(words[0]))) if words else ""


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as script:
            return script.read(_MAX_SCRIPT_BYTES)
    except OSError:
        return b""
