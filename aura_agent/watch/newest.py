"""Finding the newest file that a glob pattern matches, with bounded work.

Patterns are a shell's: ``*``, ``?``, ``[…]`` within one name, ``**`` for any depth of directories, names that begin
with a dot only if the pattern says so. Without ``**`` no directory is read but those that the pattern names, and a
part without wildcards isn't looked for in its directory, so that one may be entered without being readable. ``**``
doesn't follow symbolic links to directories. Only regular files count (symbolic links to them too).
"""

import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_ENTRIES = 200_000  # directory entries looked at in one search; some seconds on a slow disk
# A modification time further ahead says nothing about a file's age: it would count as fresh until then. Less than
# that is the difference between our clock and a file server's.
FUTURE_SLACK_NS = 60 * 10**9
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Match:
    """A regular file: its path, size, and times in nanoseconds since the epoch."""

    path: str
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


@dataclass(slots=True)
class Search:
    """What a search found. newest: of those whose time can be believed, the larger of two that are as new."""

    newest: Match | None = None
    files: int = 0
    not_files: int = 0  # directories, sockets, …: matched by name, not counted
    future: Match | None = None  # the newest of those from the future
    unreadable: list[str] = field(default_factory=list)  # "path: why", the first few
    missing: str = ""  # a directory of the pattern without wildcards that doesn't exist
    cut_off: bool = False  # more than max_entries to look at: newest isn't known
    _entries: int = 0


def find_newest(pattern: str, *, now_ns: int, max_entries: int = MAX_ENTRIES) -> Search:
    """Return the newest regular file that *pattern* matches. What can't be read is reported, not raised."""
    search = Search()
    root = "/" if pattern.startswith("/") else ""
    parts = [part for part in pattern.split("/") if part and part != "."]
    for path in _expand(root, parts, search, max_entries):
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue  # gone meanwhile, or a link to nothing
        except OSError as exc:
            _note(search, path, exc)
            continue
        if not stat.S_ISREG(found.st_mode):
            search.not_files += 1
            continue
        search.files += 1
        match = Match(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if match.mtime_ns > now_ns + FUTURE_SLACK_NS:
            search.future = _newer(search.future, match)
        else:
            search.newest = _newer(search.newest, match)
    return search


def _newer(one: Match | None, other: Match) -> Match:
    return other if one is None or (other.mtime_ns, other.size_bytes) > (one.mtime_ns, one.size_bytes) else one


def _expand(directory: str, parts: list[str], search: Search, max_entries: int) -> Iterator[str]:
    """Yield the paths below *directory* that *parts* match, each once; unchecked where the last part is literal."""
    if not parts:
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        rest = rest[next((index for index, other in enumerate(rest) if other != "**"), len(rest)) :]
        yield from _expand_any_depth(directory, rest or ["*"], search, max_entries)
    elif not _MAGIC.search(part):
        path = os.path.join(directory, part)
        if not rest:
            yield path
        elif _enterable(path, search):
            yield from _expand(path, rest, search, max_entries)
    else:
        matches = re.compile(fnmatch.translate(part)).match
        for entry in _scan(directory, search, max_entries):
            if not matches(entry.name) or (entry.name.startswith(".") and not part.startswith(".")):
                continue
            if not rest:
                yield entry.path
            elif _is_directory(entry, follow=True):
                yield from _expand(entry.path, rest, search, max_entries)


def _expand_any_depth(directory: str, rest: list[str], search: Search, max_entries: int) -> Iterator[str]:
    seen: set[str] = set()  # `**/x/**/y` reaches a path in several ways
    pending = [directory]
    while pending and not search.cut_off:
        at = pending.pop()
        for path in _expand(at, rest, search, max_entries):
            if path not in seen:
                seen.add(path)
                yield path
        pending += [
            entry.path
            for entry in _scan(at, search, max_entries)
            if not entry.name.startswith(".") and _is_directory(entry, follow=False)
        ]


def _scan(directory: str, search: Search, max_entries: int) -> Iterator[os.DirEntry[str]]:
    try:
        entries = os.scandir(directory or ".")
    except (FileNotFoundError, NotADirectoryError):
        search.missing = search.missing or directory
        return
    except OSError as exc:
        _note(search, directory or ".", exc)
        return
    with entries:
        while True:
            try:
                entry = next(entries)
            except StopIteration:
                return
            except OSError as exc:
                _note(search, directory, exc)
                return
            search._entries += 1  # noqa: SLF001 - this module's own
            if search._entries > max_entries:  # noqa: SLF001
                search.cut_off = True
                return
            yield entry


def _enterable(path: str, search: Search) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        search.missing = search.missing or path
    except OSError as exc:
        _note(search, path, exc)
    else:
        return True
    return False


def _is_directory(entry: os.DirEntry[str], *, follow: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:
        return False


def _note(search: Search, path: str, exc: OSError) -> None:
    note = f"{path}: {exc.strerror}"
    if len(search.unreadable) < 5 and note not in search.unreadable:
        search.unreadable.append(note)
