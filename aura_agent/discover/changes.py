"""Make the changes that were planned, and take them back.

Each write is a *set*: a directory, 0700, that holds each file as it was and as it becomes, and a manifest. All of it is
on disk before the first file changes. The sets lie apart from the files, since whatever lies in /etc/cron.d may be
taken for a crontab: cronie reads files there whatever their name. A file that can't be written is left alone, and so is
one that has changed since it was read; the others are written all the same.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from aura_agent.discover.backups import MANIFEST, BackupSet, new_set, newest_set, shown
from aura_agent.discover.file_content import content, put, remove, to_bytes, why
from aura_agent.discover.merge import take_back
from aura_agent.discover.plan import Change
from aura_agent.errors import AuraError

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
    """Make *changes* below *root*, then what *declare* asks for; the set is *stamp* in the directory *backups* there.

    The config is last: it declares nothing of a file that was left alone. *whole*: without it the other changes make no
    sense, and are taken back if it can't be written. Raises AuraError: no backup can be kept, and nothing was written.
    """
    declared = declare(changes)
    last = [] if declared is None else [declared]
    with ExitStack() as stack:
        try:
            kept = stack.enter_context(new_set(root, backups, stamp))
            _keep([*changes, *last], root, kept)
        except OSError as problem:
            where = shown(root, backups, stamp)
            raise AuraError(f"{where}: {problem.strerror}: no backup, so nothing was written") from problem
        return _made(changes, declare, root, kept, declared, whole=whole)


def _made(
    changes: Sequence[Change], declare: Declare, root: str, kept: BackupSet, declared: Change | None, *, whole: bool
) -> Written:
    """Make the changes of a set that is on disk."""
    results = [_make(change, root) for change in changes]
    done = [change for change, result in zip(changes, results, strict=True) if not result.problem]
    final = declare(done) if done else None
    if final is not None:
        results.append(_make_last(final, [*changes, final], root, kept, is_kept=final == declared))
        if not results[-1].problem:
            done.append(final)
        elif whole:
            results += [_put_back(change, root) for change in reversed(done)]
            done = []
    if not done:
        kept.mark_as_undone()
    left = tuple(result for result in results if result.problem)
    return Written(kept.path if done else None, tuple(done), left)


def to_undo(root: str, backups: str) -> list[str]:
    """Return what the next ``undo`` is to take back: each file as it was written. Raises AuraError, as that does."""
    try:
        with newest_set(root, backups) as kept:
            return [kept.read(name) for name in kept.names() if name.endswith(".after")]
    except OSError as problem:
        raise AuraError(f"{shown(root, backups)}: {problem.strerror}") from problem


def undo(root: str, backups: str) -> tuple[str, list[FileResult]]:
    """Take back the newest set in *backups* that hasn't been; return it, and what became of each file.

    In a file that has changed since, each line that is still as it was written becomes again what it was. A set counts
    as undone unless another try may do better. Raises AuraError: there is none, it isn't ours, or can't be read.
    """
    try:
        with newest_set(root, backups) as kept:
            return kept.path, _undone(root, kept)
    except OSError as problem:
        raise AuraError(f"{shown(root, backups)}: {problem.strerror}") from problem


def _undone(root: str, kept: BackupSet) -> list[FileResult]:
    try:
        items = json.loads(kept.read(MANIFEST))["changes"]
        results = [_take_back(item, kept, root) for item in reversed(items)]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        manifest = os.path.join(kept.path, MANIFEST)
        raise AuraError(f"{manifest}: can't be read: {problem}; the files as they were are beside it") from problem
    if not any(result.again for result in results):
        kept.mark_as_undone()
    return results


def _make(change: Change, root: str) -> FileResult:
    try:
        if content(change.path, change.owner, root) != change.before:
            return FileResult(change.path, "changed while it was looked at; try again")
        _store(change.path, change.after, change.owner, root, change.mode)
    except _PROBLEMS as problem:
        return FileResult(change.path, why(problem))
    return FileResult(change.path, was=change.before or "", now=change.after or "")


def _make_last(
    change: Change, all_of_them: Sequence[Change], root: str, kept: BackupSet, *, is_kept: bool
) -> FileResult:
    """Make the change of the config; the set gets it first unless it is there already."""
    try:
        if not is_kept:
            _keep(all_of_them, root, kept)
    except OSError as problem:
        return FileResult(change.path, f"{kept.path}: {problem.strerror}: no backup, so not written")
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


def _keep(changes: Sequence[Change], root: str, kept: BackupSet) -> None:
    """Write the set, or write it anew. Raises OSError."""
    items = []
    for number, change in enumerate(changes):
        name = f"{number}-{change.path.strip('/').replace('/', '-')}"
        item: dict[str, object] = {"path": change.path, "owner": change.owner}
        for when, text in (("before", change.before), ("after", change.after)):
            item[when] = None if text is None else name if when == "before" else f"{name}.{when}"
            if text is not None:
                kept.write(str(item[when]), text)
        item["after_sha256"] = None if change.after is None else _digest(change.after)
        items.append(item)
    kept.write(MANIFEST, json.dumps({"version": 2, "root": root, "changes": items}, indent=2) + "\n")
    kept.sync()


def _take_back(item: dict[str, Any], backup: BackupSet, root: str) -> FileResult:
    path, owner = item["path"], item["owner"]

    def kept(name: str | None) -> str | None:
        return None if name is None else backup.read(name)

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
            where = os.path.join(backup.path, item["before"] or "")
            problem = f"changed since; as it was: {where}" if after is None or missing else ""
            if missing and after is not None:
                problem += f"; left as they are: {'; '.join(line.strip() for line in missing)}"
        if text != now:
            _store(path, text, owner, root, 0o644)
    except _PROBLEMS as failed:
        return FileResult(path, why(failed), again=True)
    return FileResult(path, problem, now or "", text or "")


def _digest(text: str) -> str:
    return hashlib.sha256(to_bytes(text)).hexdigest()
