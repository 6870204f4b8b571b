"""Integrations. Of a URL with credentials only the host is stored: what isn't there can't be shown."""

import sqlite3
import uuid
from dataclasses import dataclass
from urllib.parse import urlsplit

from aura_agent.devserver.paging import Page

_COLUMNS = "id, platform, url_host, created_us"


@dataclass(frozen=True, slots=True)
class Integration:
    """One row."""

    id: str
    platform: str
    url_host: str
    created_us: int


def ensure(db: sqlite3.Connection, organization_id: str, platform: str, url: str, now_us: int) -> Integration:
    """Return the organization's integration with *platform* at the host of *url*, which is created if missing."""
    host = urlsplit(url).hostname or ""
    row = db.execute(
        f"SELECT {_COLUMNS} FROM integrations WHERE organization_id = ? AND platform = ? AND url_host = ?",
        (organization_id, platform, host),
    ).fetchone()
    if row is not None:
        return Integration(*row)
    created = Integration(str(uuid.uuid4()), platform, host, now_us)
    db.execute(
        "INSERT INTO integrations (id, organization_id, platform, url_host, created_us) VALUES (?, ?, ?, ?, ?)",
        (created.id, organization_id, platform, host, now_us),
    )
    return created


def page_of(db: sqlite3.Connection, organization_id: str, page: Page) -> list[Integration]:
    """Return *page* and one row more."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM integrations WHERE organization_id = ? AND (created_us, id) < (?, ?)"
        " ORDER BY created_us DESC, id DESC LIMIT ?",
        (organization_id, page.before_us, page.before_id, page.limit + 1),
    )
    return [Integration(*row) for row in rows]
