"""System calls that Python has no name for, where it has none for one thread alone or none at all.

They are called by number through the C library's syscall(2), since its wrappers change every thread of the process.
"""

import ctypes
import os
import platform
from collections.abc import Iterable

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4  # linux/prctl.h
_KEYCTL_JOIN_SESSION_KEYRING = 1
# setgroups, keyctl; the numbers are those of the kernel's syscall tables.
_NUMBERS = {
    "x86_64": (116, 250),
    **dict.fromkeys(("aarch64", "riscv64", "loongarch64"), (159, 219)),
    "ppc64le": (81, 271),
    "s390x": (206, 280),
    **dict.fromkeys(("i386", "i686"), (206, 288)),
    **dict.fromkeys(("armv6l", "armv7l"), (206, 311)),
}
_OF_32_BITS = {"x86_64": "i686", "aarch64": "armv7l", "armv8l": "armv7l"}  # what a 64-bit kernel runs besides
_libc = ctypes.CDLL(None, use_errno=True)


def _numbers() -> tuple[int | None, int | None]:
    machine = platform.machine()  # the kernel's, not ours
    if ctypes.sizeof(ctypes.c_void_p) == 4:
        machine = _OF_32_BITS.get(machine, machine)
    return _NUMBERS.get(machine, (None, None))


_setgroups, _keyctl = _numbers()


def knows_thread_groups() -> bool:
    """Whether ``set_thread_groups`` knows its system call on this machine."""
    return _setgroups is not None


def set_thread_groups(groups: Iterable[int]) -> None:
    """Set the supplementary groups of this thread alone. Raises OSError."""
    if _setgroups is None:
        raise OSError(38, os.strerror(38))  # ENOSYS
    numbers = tuple(groups)
    array = (ctypes.c_uint32 * len(numbers))(*numbers)
    if _libc.syscall(_setgroups, len(numbers), array) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def set_thread_file_ids(uid: int, gid: int) -> None:
    """Let this thread alone reach files as *uid* and *gid* (setfsuid(2), setfsgid(2)). Raises PermissionError."""
    _libc.setfsgid(ctypes.c_uint32(gid))
    _libc.setfsuid(ctypes.c_uint32(uid))
    # Neither says whether it worked: asked for an impossible id, both return the one in force.
    in_force = _libc.setfsuid(ctypes.c_uint32(0xFFFFFFFF)), _libc.setfsgid(ctypes.c_uint32(0xFFFFFFFF))
    if tuple(number & 0xFFFFFFFF for number in in_force) != (uid, gid):
        raise PermissionError(1, os.strerror(1))


def forbid_dumps() -> None:
    """Keep our memory, which holds secrets, out of core files and from other processes of our user (prctl(2)).

    A program that we execute is not concerned.
    """
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def are_dumps_forbidden() -> bool:
    return bool(_libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0)


def join_new_session_keyring() -> None:
    """Give the process a session keyring of its own (keyctl(2)), where the kernel has keyrings and allows it."""
    if _keyctl is not None:
        _libc.syscall(_keyctl, _KEYCTL_JOIN_SESSION_KEYRING, None)
