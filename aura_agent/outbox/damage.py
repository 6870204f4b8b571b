"""What a row of the store may hold: checks that name the damaged column. Pure.

SQLite's STRICT tables keep types apart, and nothing else: a disk, a tool or a bug may leave what no clock shows.
A row that fails a check is quarantined (`aura_agent.outbox.entries`), and never stops the work on other rows.
"""

import sqlite3
from typing import TypeGuard

from aura_agent.outbox.boot_numbers import BETWEEN_BOOTS_NS

# What reading a damaged row, or writing what follows from it, raises. A busy, full or broken disk raises other errors.
UNREADABLE = (TypeError, ValueError, OverflowError, sqlite3.IntegrityError, sqlite3.DataError)

_MAX_BOOT_NS = 1 << 60  # 36 years of uptime
_MAX_BOOT_NUMBER = 1 << 31
_NO_INSTANT_NS = (1 << 63) - 1  # all bits set
_LONGEST_INTERVAL_S = 10 * 366 * 86_400.0


def check_instant(row: sqlite3.Row, boot_number: str, boot_ns: str, newest_boot: int | None) -> None:
    """Raise ValueError unless these columns of *row* hold the number of a boot and an instant of it.

    *newest_boot* is the highest number that a boot has: of an earlier one, instants may be those of an unseen boot.
    None: not known here.
    """
    number, at_ns = row[boot_number], row[boot_ns]
    if not isinstance(number, int) or not 0 <= number <= (_MAX_BOOT_NUMBER if newest_boot is None else newest_boot):
        raise ValueError(f"column {boot_number} holds {number!r}")
    is_instant = isinstance(at_ns, int) and (
        abs(at_ns) < _MAX_BOOT_NS or (BETWEEN_BOOTS_NS <= at_ns < _NO_INSTANT_NS and number != newest_boot)
    )
    if not is_instant:
        raise ValueError(f"column {boot_ns} holds {at_ns!r}")


def check_run_id(row: sqlite3.Row, column: str) -> None:
    """Raise ValueError unless *column* of *row* holds a run id."""
    run_id = row[column]
    if not (isinstance(run_id, str) and run_id and run_id.isascii()):
        raise ValueError(f"column {column} holds no run id")


def check_wall_time(row: sqlite3.Row, column: str) -> None:
    """Raise TypeError unless *column* of *row* holds a number: a wall clock may say anything."""
    if not isinstance(row[column], int):
        raise TypeError(f"column {column} holds {row[column]!r}")


def check_age(row: sqlite3.Row, column: str) -> None:
    """Raise ValueError unless *column* of *row* is empty or holds a length of time."""
    if row[column] is not None and not (isinstance(row[column], float | int) and row[column] >= 0):
        raise ValueError(f"column {column} holds {row[column]!r}")


def lifetime_s(interval_s: float | None, grace_s: float | None) -> float | None:
    """Return interval + grace of a heartbeat; None where what Aura or the cache says of it can't be an interval."""
    if not _is_length(interval_s):
        return None
    return interval_s + (grace_s if _is_length(grace_s) else 0)


def _is_length(seconds: object) -> TypeGuard[float]:
    return isinstance(seconds, float | int) and 0 < seconds <= _LONGEST_INTERVAL_S
