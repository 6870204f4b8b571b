"""What a row of the store may hold: checks that name the damaged column. Pure.

SQLite's STRICT tables keep types apart, and nothing else: a disk, a tool or a bug may leave what no clock shows.
A row that fails a check is quarantined (`aura_agent.outbox.entries`), and never stops the work on other rows.
"""

import sqlite3

from aura_agent.outbox.boot_numbers import BETWEEN_BOOTS_NS

# What reading a damaged row, or writing what follows from it, raises. A busy, full or broken disk raises other errors.
UNREADABLE = (TypeError, ValueError, OverflowError, sqlite3.IntegrityError, sqlite3.DataError)

_MAX_BOOT_NS = 1 << 60  # 36 years of uptime
_MAX_BOOT_NUMBER = 1 << 31
_LONGEST_INTERVAL_S = 10 * 366 * 86_400.0


def check_instant(row: sqlite3.Row, boot_number: str, boot_ns: str, boot_now: int) -> None:
    """Raise ValueError unless these columns of *row* hold the number of a boot and an instant of it.

    *boot_now* is the number of the boot that goes on: of an earlier one, instants may be those of an unseen boot.
    """
    if not 0 <= row[boot_number] < _MAX_BOOT_NUMBER:
        raise ValueError(f"column {boot_number} holds {row[boot_number]!r}")
    at_ns = row[boot_ns]
    is_unseen = at_ns is not None and at_ns >= BETWEEN_BOOTS_NS and row[boot_number] < boot_now
    if at_ns is None or not (abs(at_ns) < _MAX_BOOT_NS or is_unseen):
        raise ValueError(f"column {boot_ns} holds {at_ns!r}")


def check_run_id(row: sqlite3.Row, column: str) -> None:
    """Raise ValueError unless *column* of *row* holds a run id."""
    run_id = row[column]
    if not (isinstance(run_id, str) and run_id and run_id.isascii()):
        raise ValueError(f"column {column} holds no run id")


def check_age(row: sqlite3.Row, column: str) -> None:
    """Raise ValueError unless *column* of *row* is empty or holds a length of time."""
    if row[column] is not None and not row[column] >= 0:
        raise ValueError(f"column {column} holds {row[column]!r}")


def lifetime_s(interval_s: float | None, grace_s: float | None) -> float | None:
    """Return interval + grace of a heartbeat; None where what Aura or the cache says of it can't be an interval."""
    if interval_s is None or not 0 < interval_s <= _LONGEST_INTERVAL_S:
        return None
    return interval_s + (grace_s if grace_s is not None and 0 < grace_s <= _LONGEST_INTERVAL_S else 0)
