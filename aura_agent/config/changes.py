"""Noticing that the files of a config have changed: by inotify(7), without polling.

Watched are the directories that the files and every symbolic link on the way to them are in, since editors put a new
file in the old one's place, and Kubernetes a new link (``..data``) in front of a whole directory. What counts is the
content: a touch is no change. Bursts are waited out, so that a config of several files is seen as a whole.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING

from aura_agent.background_thread import run_in_thread
from aura_agent.config.documents import MAX_FILE_BYTES, conf_d_files

if TYPE_CHECKING:
    from asyncinotify import Inotify, Mask

_QUIET_S = 0.2  # without an event, and the change is over
_RESTLESS_S = 5.0  # nobody's writing puts it off for longer
_MAX_LINKS = 40  # as path_resolution(7)


async def changes(path: str) -> AsyncIterator[None]:
    """Yield once when the config at *path* is being watched, and then after each change of its files' content.

    Raises OSError: the kernel grants no watch.
    """
    from asyncinotify import Inotify, Mask

    wanted = Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.CLOSE_WRITE | Mask.ATTRIB | Mask.ONLYDIR
    seen: bytes | None = None
    while True:
        with Inotify() as inotify:
            await run_in_thread(partial(_watch, inotify, path, wanted), "config watch")  # its disk may hang
            await _quiet(inotify)  # at first, too: somebody may be in the middle of writing
            now = await run_in_thread(partial(fingerprint, path), "config watch")
            if now != seen:
                seen = now
                yield
            await inotify.get()


def _watch(inotify: "Inotify", path: str, wanted: "Mask") -> None:
    for directory in lookup_directories(path):
        try:
            inotify.add_watch(directory, wanted)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # one that isn't there shows up in the one above it


async def _quiet(inotify: "Inotify") -> None:
    try:
        async with asyncio.timeout(_RESTLESS_S):
            while True:
                async with asyncio.timeout(_QUIET_S):
                    await inotify.get()
    except TimeoutError:
        pass


def fingerprint(path: str) -> bytes:
    """Return a digest of what the files of the config at *path* are and hold; what can't be read counts as that."""
    digest = hashlib.sha256()
    for file in _files(path):
        try:
            opened = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(opened, "rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
        except OSError as problem:
            content = str(problem.errno).encode()
        digest.update(b"%d %b %d %b" % (len(file), os.fsencode(file), len(content), content))
    return digest.digest()


def lookup_directories(path: str) -> set[str]:
    """Return the directories whose entries decide what the files of the config at *path* are."""
    conf_d = os.path.join(os.path.dirname(path), "conf.d")
    found: set[str] = set()
    for file in (*_files(path), os.path.join(conf_d, "any.toml")):
        found |= _on_the_way(os.path.abspath(file))
    return found


def _files(path: str) -> list[str]:
    try:
        return [path, *conf_d_files(path)]
    except OSError:
        return [path]


def _on_the_way(path: str) -> set[str]:
    """Return the directory of each symbolic link on the way to *path* (absolute), and that of the file at its end."""
    found, here, links = set(), "/", 0
    parts = path.split("/")
    while parts:
        part = parts.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            here = os.path.dirname(here)
            continue
        entry = os.path.join(here, part)
        try:
            target = os.readlink(entry)
        except OSError:  # no link, or nothing is there yet
            if parts and not os.path.isdir(entry):
                break
            if parts:
                here = entry
            continue
        found.add(here)
        links += 1
        if links > _MAX_LINKS:
            break
        here = "/" if target.startswith("/") else here
        parts = target.split("/") + parts
    return found | {here}
