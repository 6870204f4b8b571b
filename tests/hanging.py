"""A file system that hangs as a dead NFS server's does: whoever looks at anything there waits, and can be killed."""

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.machine import root

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def hanging(directory: Path) -> Iterator[None]:
    """Mount a file system on *directory* whose server never answers: who looks at anything there waits till the end."""
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
        if _libc.mount(b"hanging", os.fsencode(directory), b"fuse", 0, options) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            yield
        finally:
            os.close(server)  # whoever waits gets an error
            server = -1
            _libc.umount2(os.fsencode(directory), 2)  # MNT_DETACH
    finally:
        if server >= 0:
            os.close(server)


@cache
def fuse() -> str:
    if root():
        return root()
    with tempfile.TemporaryDirectory() as directory:
        try:
            with hanging(Path(directory)):
                return ""
        except OSError as problem:
            return f"FUSE ({problem.strerror})"
