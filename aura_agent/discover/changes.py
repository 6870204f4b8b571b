"""Writing what was proposed, so that it can be undone.

Each write is a *set*: a directory, 0700, that holds the files as they were and a manifest, all on disk before the first
of them changes. It lies apart from them, since whatever lies in /etc/cron.d may be taken for a crontab: cronie reads
files there whatever their name. A file is replaced as a whole, by one of the same owner, mode and extended attributes;
a user's crontab by crontab(1), which tells cron. What has changed since it was read, or written, isn't touched.
"""

import errno
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from aura_agent.discover.below import below
from aura_agent.discover.host import by_crontab, own_name, read_own_crontab, read_text, read_user_crontab
from aura_agent.discover.plan import Change
from aura_agent.errors import AuraError
from aura_agent.private_files import make_directory, make_parents

_MANIFEST = "manifest.json"
_UNDONE = "undone.json"
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Undone:
    """What became of one file: ``problem`` is why it wasn't put back."""

    path: str
    problem: str = ""


def write(changes: Sequence[Change], root: str, backups: str, stamp: str) -> str:
    """Make *changes* below *root*, and return the set under *backups*, named *stamp*, that undoes them.

    Raises AuraError: something isn't as it was read, or can't be written; what was written before stays, and is undone
    like the rest.
    """
    for change in changes:
        if _content(change.path, change.owner, root) != change.before:
            raise AuraError(f"{change.path}: changed while it was looked at; nothing was written: try again")
    directory = _keep(changes, root, backups, stamp)
    for done, change in enumerate(changes):
        try:
            _put(change.path, change.after, change.owner, root, change.mode)
        except (AuraError, OSError, subprocess.SubprocessError) as problem:
            why = problem.strerror if isinstance(problem, OSError) else str(problem)
            left = f"{done} of {len(changes)} files were written, aura-agent discover --undo takes them back"
            raise AuraError(f"{change.path}: {why}; {left}") from problem
    return directory


def undo(root: str, backups: str) -> tuple[str, list[Undone]]:
    """Take back the newest set under *backups* that hasn't been; return it, and what became of each file.

    Raises AuraError: there is none, or it can't be read.
    """
    directory = _newest(backups)
    manifest = os.path.join(directory, _MANIFEST)
    try:
        with open(manifest, encoding="utf-8") as file:
            kept = json.load(file)["changes"]
        results = [_take_back(item, directory, root) for item in reversed(kept)]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise AuraError(f"{manifest}: can't be read: {problem}; the files as they were are beside it") from problem
    if not any(result.problem for result in results):
        os.rename(manifest, os.path.join(directory, _UNDONE))
    return directory, results


def _keep(changes: Sequence[Change], root: str, backups: str, stamp: str) -> str:
    """Write the set. Raises AuraError."""
    directory = os.path.join(backups, stamp)
    try:
        make_parents(os.path.dirname(backups))
        make_directory(backups)
        if not make_directory(directory):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), directory)
        kept = []
        for number, change in enumerate(changes):
            name = f"{number}-{change.path.strip('/').replace('/', '-')}"
            if change.before is not None:
                _write_new(os.path.join(directory, name), change.before, 0o600)
            kept.append(
                {
                    "path": change.path,
                    "owner": change.owner,
                    "before": None if change.before is None else name,
                    "after_sha256": _digest(change.after),
                }
            )
        manifest = json.dumps({"version": 1, "root": root, "changes": kept}, indent=2) + "\n"
        _write_new(os.path.join(directory, _MANIFEST), manifest, 0o600)
        for path in (directory, backups):
            _sync_directory(path)
    except OSError as problem:
        raise AuraError(f"{directory}: {problem.strerror}: no backup, so nothing was written") from problem
    return directory


def _take_back(item: dict[str, str | None], directory: str, root: str) -> Undone:
    path, owner, name = item["path"], item["owner"], item["before"]
    assert path is not None
    try:
        now = _content(path, owner, root)
        before = None if name is None else read_text(os.path.join(directory, name))
        if now == before:
            return Undone(path)
        if now is None or _digest(now) != item["after_sha256"]:
            return Undone(path, f"changed since; as it was: {os.path.join(directory, name or '')}")
        if before is None:
            os.unlink(below(root, path))
            _remove_if_empty(os.path.dirname(below(root, path)))
        else:
            _put(path, before, owner, root, 0o644)
    except (AuraError, OSError, subprocess.SubprocessError) as problem:
        return Undone(path, (problem.strerror or "") if isinstance(problem, OSError) else str(problem))
    return Undone(path)


def _newest(backups: str) -> str:
    try:
        stamps = [name for name in os.listdir(backups) if os.path.exists(os.path.join(backups, name, _MANIFEST))]
    except FileNotFoundError:
        stamps = []
    except OSError as problem:
        raise AuraError(f"{backups}: {problem.strerror}") from problem
    if not stamps:
        raise AuraError(f"nothing to undo: there is no backup in {backups}")
    return os.path.join(backups, max(stamps))


def _content(path: str, owner: str | None, root: str) -> str | None:
    """Return what a file holds now; None if there is none. Raises OSError."""
    read = read_user_crontab if owner is not None and by_crontab(root) else read_text
    try:
        return read(below(root, path))
    except FileNotFoundError:
        return None
    except PermissionError:
        if owner != own_name() or not by_crontab(root):
            raise
        return read_own_crontab() or None


def _put(path: str, text: str, owner: str | None, root: str, mode: int) -> None:
    """Make *text* the content of a file or a crontab. Raises AuraError, OSError."""
    if owner is not None and by_crontab(root):
        user = ["-u", owner] if os.geteuid() == 0 else []
        done = subprocess.run(
            ["crontab", *user, "-"], input=_bytes(text), capture_output=True, check=False, timeout=_TIMEOUT_S
        )
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise AuraError(f"crontab refuses it: {'; '.join(lines)}")
        if _content(path, owner, root) != text:
            raise AuraError("crontab took something else than it was given")
        return
    _replace(below(root, path), text, mode)


def _replace(path: str, text: str, mode: int) -> None:
    """Replace a file as a whole, or make it. Its directory is made if need be. Raises OSError."""
    parent, name = os.path.split(path)
    make_parents(parent, 0o755)
    # Cron passes over names that begin with a dot, whichever cron it is.
    new = os.path.join(parent, f".{name}.{os.urandom(6).hex()}")
    try:
        _write_new(new, text, mode)
        if os.path.exists(path):
            was = os.stat(path)
            os.chown(new, was.st_uid, was.st_gid)
            shutil.copystat(path, new)
            os.utime(new)  # cron reads a file anew only if this has changed
        os.rename(new, path)
    except OSError:
        if os.path.exists(new):
            os.unlink(new)
        raise
    _sync_directory(parent)


def _write_new(path: str, text: str, mode: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(file, "wb") as writer:
        writer.write(_bytes(text))
        writer.flush()
        os.fchmod(file, mode)
        os.fsync(file)


def _sync_directory(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove_if_empty(directory: str) -> None:
    """Remove a directory that was made for a drop-in, unless something else is in it by now."""
    if directory.endswith(".service.d") and not os.listdir(directory):
        os.rmdir(directory)


def _digest(text: str) -> str:
    return hashlib.sha256(_bytes(text)).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
