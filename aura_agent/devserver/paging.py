"""Cursor pagination: newest first, by (creation, id).

The cursor says where the last page ended rather than how many rows it had, so what is inserted or deleted while
somebody walks neither repeats nor hides the rows that were there before.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Protocol

import msgspec

from aura_agent.devserver.instants import from_us, to_us
from aura_agent.devserver.refusal import Refusal

DEFAULT_LIMIT = 50
MAX_LIMIT = 100
_MAX_CURSOR_CHARS = 500

# The two parameters as an OpenAPI document declares them.
PARAMETERS: tuple[dict[str, Any], ...] = (
    {
        "name": "limit",
        "in": "query",
        "description": "How many to return at the most.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    },
    {
        "name": "cursor",
        "in": "query",
        "description": "The `next_cursor` of the page before; only what a list gave out is valid.",
        "schema": {"type": "string", "format": "cursor"},
    },
)


@dataclass(frozen=True, slots=True)
class Page:
    """Up to *limit* rows that come after (*before_us*, *before_id*), newest first."""

    limit: int
    before_us: int = 2**63 - 1
    before_id: str = ""


class Listed(Protocol):
    """A row that can be listed."""

    @property
    def id(self) -> str: ...
    @property
    def created_us(self) -> int: ...


class _Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Annotated[str, msgspec.Meta(max_length=100)]
    created_at: Annotated[datetime, msgspec.Meta(tz=True)]


def parse_page(query: Mapping[str, str]) -> Page:
    """Return the page that *query* asks for; Refusal 400: ``limit`` or ``cursor`` is bad."""
    limit = _limit(query.get("limit"))
    text = query.get("cursor")
    if text is None:
        return Page(limit)
    cursor = _decode(text)
    return Page(limit, to_us(cursor.created_at), cursor.id)


def next_cursor(page: Page, rows: Sequence[Listed]) -> str | None:
    """Return the cursor after *page*, for which one row more than its limit was asked; None: that was all."""
    if len(rows) <= page.limit:
        return None
    last = rows[page.limit - 1]
    return (
        base64.urlsafe_b64encode(msgspec.json.encode(_Cursor(last.id, from_us(last.created_us)))).decode().rstrip("=")
    )


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise Refusal(400, f"limit must be a number from 1 to {MAX_LIMIT}")


def _decode(text: str) -> _Cursor:
    text = text[:_MAX_CURSOR_CHARS]  # a longer one isn't ours, and what is left of it won't decode
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=_Cursor)
    except (ValueError, binascii.Error) as exc:
        raise Refusal(400, "cursor is not one that this list gave out") from exc
