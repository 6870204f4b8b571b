"""Cursor pagination."""

import httpx
import pytest
from hypothesis import given, settings, strategies as st

from aura_agent.devserver.server import DevServer
from aura_agent.devserver.threaded import ThreadedDevServer

pytestmark = pytest.mark.anyio


@settings(max_examples=25, deadline=None)
@given(
    existing=st.integers(0, 12),
    limit=st.integers(1, 5),
    changes=st.lists(st.sampled_from(["insert", "delete"]), max_size=12),
)
def test_walking_while_rows_come_and_go_neither_loses_nor_repeats_the_old_ones(
    existing: int, limit: int, changes: list[str]
) -> None:
    """Each row that exists from before the walk until after it is seen exactly once."""
    with ThreadedDevServer() as aura:
        old = [aura.create_heartbeat(f"old-{number}").id for number in range(existing)]
        left, pending = list(old), iter(changes)
        seen: list[str] = []
        cursor: str | None = None
        with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {aura.token}"}) as http:
            while True:
                params = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
                page = http.get(aura.base_url + "/heartbeats", params=params).json()
                assert len(page["data"]) <= limit
                seen += [row["id"] for row in page["data"]]
                cursor = page["next_cursor"]
                if cursor is None:
                    break
                change = next(pending, None)
                if change == "insert":
                    aura.create_heartbeat("new")
                elif change == "delete" and left:
                    aura.delete_heartbeat(left.pop(len(left) // 2))

    assert len(seen) == len(set(seen))
    assert set(left) <= set(seen)


async def test_the_default_page_has_fifty_rows_and_a_page_at_most_a_hundred(
    aura: DevServer, api: httpx.AsyncClient
) -> None:
    """The reference's numbers; a page that holds just all has no cursor."""
    for number in range(100):
        aura.create_heartbeat(f"heartbeat-{number}")

    first = (await api.get("/heartbeats")).json()
    second = (await api.get("/heartbeats", params={"cursor": first["next_cursor"]})).json()
    whole = (await api.get("/heartbeats", params={"limit": 100})).json()

    assert (len(first["data"]), len(second["data"]), second["next_cursor"]) == (50, 50, None)
    assert whole["data"] == first["data"] + second["data"]
    assert whole["next_cursor"] is None


async def test_a_cursor_outlives_the_row_it_was_made_from(aura: DevServer, api: httpx.AsyncClient) -> None:
    """Deleting the last row of a page doesn't break the next page."""
    heartbeats = [aura.create_heartbeat(f"heartbeat-{number}") for number in range(3)]
    first = (await api.get("/heartbeats", params={"limit": 1})).json()
    aura.delete_heartbeat(first["data"][0]["id"])

    rest = (await api.get("/heartbeats", params={"cursor": first["next_cursor"]})).json()

    assert {row["id"] for row in first["data"] + rest["data"]} == {heartbeat.id for heartbeat in heartbeats}
