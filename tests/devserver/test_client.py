"""The agent's own API client against the embedded Aura: neither may drift from the other."""

import pytest

from aura_agent.api.client import AuraClient
from aura_agent.devserver.server import DevServer
from aura_agent.secret import Secret

pytestmark = pytest.mark.anyio


async def test_the_client_reads_every_page_and_every_field(aura: DevServer) -> None:
    """A listing over several pages, one heartbeat, its ping URL."""
    created = [aura.create_heartbeat(f"job-{number}", 60 + number, number) for number in range(7)]

    async with AuraClient(aura.base_url, Secret(aura.token)) as client:
        listed = [heartbeat async for heartbeat in client.list_heartbeats(limit=3)]
        one = await client.get_heartbeat(created[5].id)
        url = await client.ping_url(created[5].id)

    assert {heartbeat.id for heartbeat in listed} == {heartbeat.id for heartbeat in created}
    assert len(listed) == 7
    assert (one.name, one.status, one.expected_interval_s, one.grace_period_s) == ("job-5", "pending", 65, 5)
    assert one.created_at == aura.status("job-5").created_at
    assert url.reveal() == created[5].ping_url
