"""The Retry-After header (RFC 9110, section 10.2.3): seconds or an HTTP date. Pure."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_MAX_DIGITS = 12  # more than any delay meant seriously, and int() refuses thousands of digits


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Return how many seconds after *now* the header *value* asks to wait, never below zero.

    None: there is no header, or it can't be read. *now* is aware.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:_MAX_DIGITS]) if len(text.lstrip("0")) <= _MAX_DIGITS else 10.0**_MAX_DIGITS
    try:
        at = parsedate_to_datetime(text)
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return max(0.0, (at - now).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
