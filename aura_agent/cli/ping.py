"""``aura-agent ping``: one ping by a person's hand, past the outbox: an answer of now."""

import asyncio
import random
from contextlib import suppress
from dataclasses import replace

import click

from aura_agent.cli.output import say
from aura_agent.cli.settings import (
    REFUSAL_WAIT_S,
    config_option,
    json_option,
    open_store,
    print_json,
    read_config,
    say_wait,
    service,
)
from aura_agent.config.models import Config
from aura_agent.delivery.now import Sent, ping_now
from aura_agent.errors import AuraError, StoreError, UsageError
from aura_agent.units import format_duration


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
        say(f"told Aura that {sent.heartbeat!r} has just succeeded: {sent.reason} in {sent.duration_s:.3f} s")
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
    open_client = where.client_factory(say_wait, refusal_wait_s=REFUSAL_WAIT_S)
    resolver = Resolver(worker, open_client, SystemClock(), random.Random(), Silence())
    clock_s = asyncio.get_running_loop().time
    give_up_s = clock_s() + REFUSAL_WAIT_S
    try:
        async with build_http() as http:
            while True:
                sent = await ping_now(worker, resolver, http, heartbeat, allow_insecure=where.allow_insecure)
                wait_s = sent.retry_after_s
                if sent.acknowledged or not wait_s:
                    break
                if wait_s > give_up_s - clock_s():
                    sent = replace(sent, reason=f"{sent.reason}; try again in {format_duration(wait_s)}")
                    break
                say_wait(wait_s, sent.reason)
                await asyncio.sleep(wait_s)
        if sent.acknowledged:
            with suppress(StoreError):  # Aura has it; at worst check --online takes it for somebody else's
                await worker.call(lambda outbox: outbox.note_ping_by_hand(sent.stream_id))
    finally:
        await worker.close()
    return sent
