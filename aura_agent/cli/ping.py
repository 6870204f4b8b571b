"""``aura-agent ping``: one ping by a person's hand, past the outbox: an answer of now."""

import asyncio
import random
from contextlib import suppress

import click

from aura_agent.cli.settings import config_option, json_option, open_store, print_json, read_config, service
from aura_agent.config.models import Config
from aura_agent.delivery.now import Sent, ping_now
from aura_agent.errors import AuraError, StoreError, UsageError


@click.command()
@click.argument("heartbeat")
@config_option
@json_option
def ping(heartbeat: str, config_file: str | None, as_json: bool) -> None:
    """Ping HEARTBEAT, a name or an id, once and now: tell Aura that its job has just succeeded.

    Nobody checks that claim: it silences an alarm that may be deserved. The ping doesn't enter the outbox, isn't sent
    again, and leaves what waits there as it is. Exit 1 unless Aura acknowledges it.

    Example: aura-agent ping nightly-backup
    """
    if not heartbeat:
        raise UsageError("HEARTBEAT is empty: name the heartbeat (see aura-agent ping --help)")
    if "://" in heartbeat:
        raise UsageError("a URL in the command line shows in ps: name the heartbeat (see aura-agent ping --help)")
    sent = asyncio.run(_ping(read_config(config_file), heartbeat))
    if as_json:
        print_json(
            {
                "heartbeat": sent.heartbeat,
                "id": sent.heartbeat_id,
                "acknowledged": sent.acknowledged,
                "reason": sent.reason,
                "duration_s": round(sent.duration_s, 3),
            }
        )
    elif sent.acknowledged:
        click.echo(f"told Aura that {sent.heartbeat!r} has just succeeded: {sent.reason} in {sent.duration_s:.3f} s")
    if not sent.acknowledged:
        raise AuraError(f"the ping for {sent.heartbeat!r} was not acknowledged: {sent.reason}")


async def _ping(config: Config, heartbeat: str) -> Sent:
    from aura_agent.clock import SystemClock
    from aura_agent.delivery.observer import Silence
    from aura_agent.delivery.post import build_http
    from aura_agent.delivery.resolver import Resolver
    from aura_agent.outbox.worker import OutboxWorker

    where = service(config)
    worker = OutboxWorker(open_store(config, "ping"))
    resolver = Resolver(worker, where.client_factory(), SystemClock(), random.Random(), Silence())
    try:
        async with build_http() as http:
            sent = await ping_now(worker, resolver, http, heartbeat, allow_insecure=where.allow_insecure)
        if sent.acknowledged:
            with suppress(StoreError):  # Aura has it; at worst check --online takes it for somebody else's
                await worker.call(lambda outbox: outbox.note_ping_by_hand(sent.stream_id))
    finally:
        await worker.close()
    return sent
