"""Make the changes that were planned, and take them back.

Each write is a *set*: a directory, 0700, that holds each file as it was and as it becomes, and a manifest. All of it is
on disk before the first file changes. The sets lie apart from the files, since whatever lies in /etc/cron.d may be
taken for a crontab: cronie reads files there whatever their name. A file that can't be written is left alone, and so is
one that has changed since it was read; the others are written all the same.
"""

import errno
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aura_agent.discover.file_content import content, put, remove, sync_directory, to_bytes, why, write_new
from aura_agent.discover.host import read_text
from aura_agent.discover.merge import take_back
from aura_agent.discover.plan import Change
from aura_agent.errors import AuraError
from aura_agent.private_files import make_directory, make_parents

_MANIFEST = "manifest.json"
_UNDONE = "undone.json"
_PROBLEMS = (AuraError, OSError, subprocess.SubprocessError)

# What is to be done to the config, from the changes that were made.
Declare = Callable[[Sequence[Change]], Change | None]


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one file: what it held and holds; ``problem`` says why it, or a part of it, is left alone."""

    path: str
    problem: str = ""
    was: str = ""
    now: str = ""
    again: bool = False  # whether another try may do better


@dataclass(frozen=True, slots=True)
class Written:
    """What a write has done; ``backup`` is the set that undoes it, None if nothing was written."""

    backup: str | None
    done: tuple[Change, ...]
    left: tuple[FileResult, ...]


def write(
    changes: Sequence[Change], declare: Declare, root: str, backups: str, stamp: str, *, whole: bool = False
) -> Written:
    """Make *changes* below *root*, then what *declare* asks for; the set is *stamp* below *backups*.

    The config is last: it declares nothing of a file that was left alone. *whole*: without it the other changes make no
    sense, and are taken back if it can't be written. Raises AuraError: no backup can be kept, and nothing was written.
    """
    directory = os.path.join(backups, stamp)
    declared = declare(changes)
    last = [] if declared is None else [declared]
    try:
        make_parents(os.path.dirname(backups))
        make_directory(backups)
        if not make_directory(directory):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), directory)
        _keep([*changes, *last], root, directory)
        sync_directory(backups)
    except OSError as problem:
        raise AuraError(f"{directory}: {problem.strerror}: no backup, so nothing was written") from problem
    results = [_make(change, root) for change in changes]
    done = [change for change, result in zip(changes, results, strict=True) if not result.problem]
    final = declare(done) if done else None
    if final is not None:
        results.append(_make_last(final, [*changes, final], root, directory, kept=final == declared))
        if not results[-1].problem:
            done.append(final)
        elif whole:
            results += [_put_back(change, root) for change in reversed(done)]
            done = []
    if not done:
        os.rename(os.path.join(directory, _MANIFEST), os.path.join(directory, _UNDONE))
    left = tuple(result for result in results if result.problem)
    return Written(directory if done else None, tuple(done), left)


def to_undo(backups: str) -> list[str]:
    """Return what the next ``undo`` is to take back: each file as it was written. Raises AuraError, as that does."""
    directory = _newest(backups)
    try:
        names = [name for name in os.listdir(directory) if name.endswith(".after")]
        return [read_text(os.path.join(directory, name)) for name in names]
    except OSError as problem:
        raise AuraError(f"{directory}: {problem.strerror}") from problem


def undo(root: str, backups: str) -> tuple[str, list[FileResult]]:
    """Take back the newest set under *backups* that hasn't been; return it, and what became of each file.

    In a file that has changed since, each line that is still as it was written becomes again what it was. A set counts
    as undone unless another try may do better. Raises AuraError: there is none, or it can't be read.
    """
    directory = _newest(backups)
    manifest = os.path.join(directory, _MANIFEST)
    try:
        with open(manifest, encoding="utf-8") as file:
            kept = json.load(file)["changes"]
        results = [_take_back(item, directory, root) for item in reversed(kept)]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise AuraError(f"{manifest}: can't be read: {problem}; the files as they were are beside it") from problem
    if not any(result.again for result in results):
        os.rename(manifest, os.path.join(directory, _UNDONE))
    return directory, results


def _make(change: Change, root: str) -> FileResult:
    try:
        if content(change.path, change.owner, root) != change.before:
            return FileResult(change.path, "changed while it was looked at; try again")
        _store(change.path, change.after, change.owner, root, change.mode)
    except _PROBLEMS as problem:
        return FileResult(change.path, why(problem))
    return FileResult(change.path, was=change.before or "", now=change.after or "")


def _make_last(change: Change, all_of_them: Sequence[Change], root: str, directory: str, *, kept: bool) -> FileResult:
    """Make the change of the config; the set gets it first unless it is *kept* there already."""
    try:
        if not kept:
            _keep(all_of_them, root, directory)
    except OSError as problem:
        return FileResult(change.path, f"{directory}: {problem.strerror}: no backup, so not written")
    return _make(change, root)


def _put_back(change: Change, root: str) -> FileResult:
    """Take a change back that was just made; return why it is none."""
    try:
        _store(change.path, change.before, change.owner, root, change.mode)
    except _PROBLEMS as problem:
        return FileResult(change.path, f"changed, and can't be put back: {why(problem)}")
    return FileResult(change.path, "put back as it was, since the config can't be written")


def _store(path: str, text: str | None, owner: str | None, root: str, mode: int) -> None:
    if text is None:
        remove(path, root)
    else:
        put(path, text, owner, root, mode)


def _keep(changes: Sequence[Change], root: str, directory: str) -> None:
    """Write the set, or write it anew. Raises OSError."""
    kept = []
    for number, change in enumerate(changes):
        name = f"{number}-{change.path.strip('/').replace('/', '-')}"
        item: dict[str, object] = {"path": change.path, "owner": change.owner}
        for when, text in (("before", change.before), ("after", change.after)):
            item[when] = None if text is None else name if when == "before" else f"{name}.{when}"
            if text is not None:
                _write_over(os.path.join(directory, str(item[when])), text)
        item["after_sha256"] = None if change.after is None else _digest(change.after)
        kept.append(item)
    manifest = json.dumps({"version": 2, "root": root, "changes": kept}, indent=2) + "\n"
    _write_over(os.path.join(directory, _MANIFEST), manifest)
    sync_directory(directory)


def _write_over(path: str, text: str) -> None:
    new = f"{path}.new"
    write_new(new, text)
    os.rename(new, path)


def _take_back(item: dict[str, Any], directory: str, root: str) -> FileResult:
    path, owner = item["path"], item["owner"]

    def kept(name: str | None) -> str | None:
        return None if name is None else read_text(os.path.join(directory, name))

    try:
        now, before = content(path, owner, root), kept(item["before"])
        if now == before:
            return FileResult(path, was=now or "", now=now or "")
        as_written = _digest(now) == item["after_sha256"] if now is not None else item["after_sha256"] is None
        problem = ""
        if as_written:
            text = before
        else:
            after = kept(item.get("after"))  # a set of an older version has none
            text, missing = (now, []) if after is None else take_back(before, after, now)
            where = os.path.join(directory, item["before"] or "")
            problem = f"changed since; as it was: {where}" if after is None or missing else ""
            if missing and after is not None:
                problem += f"; left as they are: {'; '.join(line.strip() for line in missing)}"
        if text != now:
            _store(path, text, owner, root, 0o644)
    except _PROBLEMS as failed:
        return FileResult(path, why(failed), again=True)
    return FileResult(path, problem, now or "", text or "")


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


def _digest(text: str) -> str:
    return hashlib.sha256(to_bytes(text)).hexdigest()
