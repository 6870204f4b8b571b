"""The Retry-After header (RFC 9110, section 10.2.3): how it reads, and how long we wait for it. Pure."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRY_AFTER_CAP_S = 3600.0
_LATER_AT_MOST = 0.2
_MAX_DIGITS = 12  # more than any delay meant seriously, and int() refuses thousands of digits


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Return how many seconds after *now* the header *value* asks to wait, never below zero.

    None: there is no header, or it can't be read. *now* is aware.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        digits = text.lstrip("0") or "0"
        return float(digits) if len(digits) <= _MAX_DIGITS else 10.0**_MAX_DIGITS
    try:
        at = parsedate_to_datetime(text)
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return max(0.0, (at - now).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def after_retry_after_s(asked_s: float, rng: random.Random) -> float:
    """Return the wait for a Retry-After of *asked_s*: never earlier, and up to 20 % later.

    An hour in all at the most: who asks for more is asked again after an hour.
    """
    return min(RETRY_AFTER_CAP_S, max(0.0, asked_s) * (1.0 + rng.uniform(0.0, _LATER_AT_MOST)))


def latest_after_retry_after_s(asked_s: float) -> float:
    """Return the longest wait that ``after_retry_after_s`` can make of *asked_s*, and a second more."""
    return asked_s * (1.0 + _LATER_AT_MOST) + 1.0
