"""Paths of a host whose root directory is some directory of this one."""

import os

_MAX_LINKS = 40  # as many as Linux follows in one path, path_resolution(7)
_NOWHERE = ".too-many-links"


def below(root: str, path: str) -> str:
    """Return where *path* of the host below *root* lies here: every link is followed as if *root* were ``/``.

    The result never leads out of *root*. A part that doesn't exist stays as it is written. A path with too many links
    becomes one that doesn't exist.
    """
    root = os.path.abspath(root)
    done: list[str] = []
    left = path.split("/")[::-1]
    links = 0
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done[:-1]
            continue
        try:
            target = os.readlink(os.path.join(root, *done, part))
        except OSError:
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            return os.path.join(root, _NOWHERE)
        if target.startswith("/"):
            done = []
        left += target.split("/")[::-1]
    return os.path.join(root, *done)
