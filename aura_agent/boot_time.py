"""Which boot this is, and how our CLOCK_BOOTTIME relates to the host's.

``os`` only: ``aura-run`` imports this beside the job.
"""

import os

NO_BOOT_ID = "/proc/sys/kernel/random/boot_id can't be read (ProcSubset=pid, or a chroot without /proc)"
_INITIAL_NAMESPACE = "time:[4026531834]"  # PROC_TIME_INIT_INO in include/linux/proc_ns.h


def current_boot_id() -> str:
    """Return the kernel's id of this boot (random(4)); an empty text where /proc doesn't have it."""
    return _first_bytes("/proc/sys/kernel/random/boot_id", 64).strip()


def namespace_offset_ns() -> int:
    """Return how far our CLOCK_BOOTTIME is ahead of the host's: not at all, but in a time namespace.

    The file has the offsets of the namespace that children get (time_namespaces(7)), mostly our own, too.
    """
    for line in _first_bytes("/proc/self/timens_offsets", 512).splitlines():
        clock, *numbers = line.split()
        if clock in ("boottime", "7") and numbers != ["0", "0"]:  # 7 is CLOCK_BOOTTIME
            return _offset_ns(numbers)
    return 0


def _offset_ns(numbers: list[str]) -> int:
    try:
        ours = os.readlink("/proc/self/ns/time")
        if ours == _INITIAL_NAMESPACE or ours != os.readlink("/proc/self/ns/time_for_children"):
            return 0
        seconds, nanoseconds = map(int, numbers)
    except (OSError, ValueError):
        return 0
    return seconds * 10**9 + nanoseconds


def _first_bytes(path: str, size: int) -> str:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(file, size).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(file)
