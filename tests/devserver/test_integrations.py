"""Integrations: what they are for, and never what they know."""

import httpx
import pytest

from aura_agent.devserver.server import DevServer
from tests.devserver.conftest import client

pytestmark = pytest.mark.anyio


async def test_integrations_show_platform_and_host_alone(
    aura: DevServer, api: httpx.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    """Newest first, by page; the credential in the URL is in no answer and not even in the database."""
    aura.create_integration("slack", "https://hooks.slack.com/services/T0/B0/very-secret")
    aura.create_integration("telegram", "https://api.telegram.org/bot123:very-secret/sendMessage")
    aura.create_integration("webhook", "https://someone:very-secret@example.com:8443/?key=very-secret")

    first = (await api.get("/integrations", params={"limit": 2})).json()
    second = (await api.get("/integrations", params={"limit": 2, "cursor": first["next_cursor"]})).json()

    listed = first["data"] + second["data"]
    assert sorted((row["platform"], row["url_host"]) for row in listed) == [
        ("slack", "hooks.slack.com"),
        ("telegram", "api.telegram.org"),
        ("webhook", "example.com"),
    ]
    assert all(set(row) == {"id", "platform", "url_host"} for row in listed)
    assert second["next_cursor"] is None
    assert "very-secret" not in "\n".join(aura.service.db.iterdump())
    assert "very-secret" not in "".join(capfd.readouterr())


async def test_integrations_belong_to_their_organization(aura: DevServer) -> None:
    """Another one's token lists none of ours."""
    aura.create_integration("slack", "https://hooks.slack.com/x")
    async with client(aura, aura.create_token("read", "another")) as other:
        assert (await other.get("/integrations")).json() == {"data": [], "next_cursor": None}
