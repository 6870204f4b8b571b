"""What ``sync`` does: which heartbeats it creates and which it changes, and why it can't. Pure.

Only interval and grace of what the config names are ever changed; nothing is deleted or renamed.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from aura_agent.api.assumptions import looks_like_id
from aura_agent.api.heartbeats import Heartbeat
from aura_agent.config.lines import Path
from aura_agent.sync.feeders import Feeder

Action = Literal["create", "update", "keep"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with the key at ``path``."""

    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class FedHeartbeat:
    """One heartbeat and all that feed it. ``heartbeat`` is None if Aura doesn't have it.

    ``feeder`` is the one that decides over interval and grace: with several, the one that must be heard soonest. The
    others' pings can only come in between, so it alone keeps the heartbeat up.
    """

    feeder: Feeder
    feeders: tuple[Feeder, ...]
    heartbeat: Heartbeat | None

    @property
    def name(self) -> str:
        return self.feeder.heartbeat if self.heartbeat is None else self.heartbeat.name or self.heartbeat.id


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one heartbeat: lengths in seconds, None where nothing is said or known."""

    action: Action
    target: FedHeartbeat
    interval_s: int | None
    grace_s: int | None

    @property
    def new_interval_s(self) -> int | None:
        """The interval to write, None if it stays."""
        heartbeat = self.target.heartbeat
        return None if heartbeat is not None and heartbeat.expected_interval_s == self.interval_s else self.interval_s

    @property
    def new_grace_s(self) -> int | None:
        """The grace to write, None if it stays."""
        heartbeat = self.target.heartbeat
        return None if heartbeat is not None and heartbeat.grace_period_s == self.grace_s else self.grace_s


def find_targets(feeders: Iterable[Feeder], listed: Iterable[Heartbeat]) -> tuple[list[FedHeartbeat], list[Finding]]:
    """Return the heartbeats that *feeders* name, and those names that *listed*, all that Aura has, has twice."""
    by_id: dict[str, Heartbeat] = {}
    by_name: dict[str, list[Heartbeat]] = defaultdict(list)
    for heartbeat in listed:
        by_id[heartbeat.id] = heartbeat
        by_name[heartbeat.name or ""].append(heartbeat)
    groups: dict[str, list[Feeder]] = defaultdict(list)  # by id, else by the name that Aura doesn't have
    findings = []
    for feeder in feeders:
        wanted = feeder.heartbeat
        found = [wanted] if wanted in by_id else [heartbeat.id for heartbeat in by_name.get(wanted, ())]
        if len(found) > 1:
            hint = f"name one of them by its id: {', '.join(sorted(found))}"
            findings.append(Finding(feeder.path, f'Aura has {len(found)} heartbeats named "{wanted}"; {hint}'))
        else:
            groups[found[0] if found else wanted].append(feeder)
    targets = [FedHeartbeat(min(group, key=_patience_s), tuple(group), by_id.get(key)) for key, group in groups.items()]
    return targets, findings


def plan_steps(targets: Iterable[FedHeartbeat], listed: Iterable[Heartbeat]) -> tuple[list[Step], list[Finding]]:
    """Return what to do, in the order of the config, and what can't be done."""
    steps, findings = [], []
    for target in targets:
        feeder = target.feeder
        step = Step("keep", target, feeder.interval_s, feeder.grace_s)
        if target.heartbeat is None:
            if looks_like_id(feeder.heartbeat) or feeder.interval_s is None:
                findings.append(Finding(feeder.path, unknown_text(feeder, listed)))
                continue
            step = replace(step, action="create")
        elif step.new_interval_s is not None or step.new_grace_s is not None:
            step = replace(step, action="update")
        steps.append(step)
    return steps, findings


def unknown_text(feeder: Feeder, listed: Iterable[Heartbeat]) -> str:
    """Return what to say of a heartbeat that Aura doesn't have, with the nearest name that it has."""
    wanted = feeder.heartbeat
    if looks_like_id(wanted):
        return f"Aura has no heartbeat with the id {wanted}, as far as the token sees; ids can't be created: correct it"
    near = get_close_matches(wanted, [heartbeat.name for heartbeat in listed if heartbeat.name], 1, 0.6)
    guess = f'did you mean "{near[0]}"? Else ' if near else ""
    how = "" if feeder.interval_s is not None else 'say how often it is pinged (expected_interval = "1d"), and '
    return f'Aura has no heartbeat named "{wanted}"; {guess}{how}create it with aura-agent sync'


def _patience_s(feeder: Feeder) -> float:
    if feeder.interval_s is None:
        return float("inf")
    return feeder.interval_s + (feeder.grace_s or 0)
