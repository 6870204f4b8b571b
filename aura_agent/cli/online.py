"""What ``check --online`` asks: Aura for its heartbeats and what the token may do, the store for what it has pinged.

The verdicts are those of ``aura_agent.sync.verdict``.
"""

import asyncio
import os

from aura_agent.cli.declared import Declared, look_up
from aura_agent.cli.settings import open_api, open_store, store_directory
from aura_agent.config.models import Config
from aura_agent.config.shape import quoted
from aura_agent.errors import StoreError
from aura_agent.outbox.queries import other_feeder_text, other_feeders
from aura_agent.sync.plan import FedHeartbeat, Finding
from aura_agent.sync.verdict import Verdict, judge


def compare(config: Config) -> tuple[list[Finding], list[Finding]]:
    """Return what is wrong and what looks wrong with the heartbeats of *config*, in its order.

    Raises ConfigError: there is no token; ApiError: Aura can't be asked, or refuses the token.
    """
    declared, verdict, may_write = asyncio.run(_ask(config))
    warnings = [*verdict.warnings, *_other_feeders(config, declared.targets)]
    if may_write is False:
        names = ", ".join(quoted(target.name) for target in verdict.mendable)
        hint = "create one with the scope Read & write"
        warnings.append(Finding(("api",), f"the token is read-only, so aura-agent sync can't mend {names}; {hint}"))
    return [*declared.unclear, *verdict.errors], warnings


async def _ask(config: Config) -> tuple[Declared, Verdict, bool | None]:
    async with open_api(config) as client:
        declared = await look_up(config, client)
        verdict = judge(declared.targets, declared.listed)
        changed = [step.target for step in declared.steps if step.action != "keep"]
        verdict.mendable = [target for target in verdict.mendable if target in changed]
        return declared, verdict, await client.may_write() if verdict.mendable else None


def _other_feeders(config: Config, targets: list[FedHeartbeat]) -> list[Finding]:
    """Return the heartbeats that were pinged, but not by this host. Reads the store if there is one of this user."""
    last_pings_ns = {
        target.heartbeat.id: int(target.heartbeat.last_ping_at.timestamp() * 1e9)
        for target in targets
        if target.heartbeat is not None
        and target.heartbeat.last_ping_at is not None
        and all(feeder.through_outbox for feeder in target.feeders)
    }
    if not last_pings_ns or not os.path.exists(os.path.join(store_directory(config), "outbox.db")):
        return []
    try:
        outbox = open_store(config, "check")
    except StoreError as problem:
        return [Finding(("agent", "state_dir"), f"whether something else pings can't be told: {problem}")]
    try:
        foreign = other_feeders(outbox, last_pings_ns)
    finally:
        outbox.close()
    return [
        Finding(target.feeder.path, other_feeder_text(target.name))
        for target in targets
        if target.heartbeat is not None and target.heartbeat.id in foreign
    ]
