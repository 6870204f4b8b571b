"""What ``check --online`` says of the heartbeats that the config names. Pure.

An error is what is wrong for certain: no such heartbeat, or fire times that lie further apart than the heartbeat
allows. A warning is what goes wrong in the worst case: the longest run, an alarm that would come late.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from aura_agent.api.heartbeats import Heartbeat
from aura_agent.config.schema import write_duration
from aura_agent.sync.plan import FedHeartbeat, Finding, unknown_text
from aura_agent.sync.timing import DELIVERY_S, Timing

PAUSED = "paused"
_LATE_FACTOR = 3  # an alarm that comes so many times later than it could is worth a line
_ROOM_S = 60.0  # a run and its delivery take some time, whatever they are


@dataclass(slots=True)
class Verdict:
    """What was found; ``mendable`` are the targets that ``sync`` would mend."""

    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    mendable: list[FedHeartbeat] = field(default_factory=list)


def judge(targets: Iterable[FedHeartbeat], listed: Iterable[Heartbeat]) -> Verdict:
    """Hold *targets* against what Aura has of them; *listed* is all that it has."""
    verdict = Verdict()
    for target in targets:
        path, heartbeat = target.feeder.path, target.heartbeat
        if heartbeat is None:
            verdict.errors.append(Finding(path, unknown_text(target.feeder, listed)))
            verdict.mendable.append(target)
            continue
        if heartbeat.status == PAUSED:
            text = f'"{target.name}" is paused in Aura, so it raises no alarm; resume it there'
            verdict.warnings.append(Finding(path, text))
        if len({feeder.heartbeat for feeder in target.feeders}) > 1:  # else: the offline check has said so
            labels = ", ".join(feeder.label for feeder in target.feeders)
            text = (
                f'"{target.name}" is pinged by {labels}, once by name and once by id; one can hide that another fails'
            )
            verdict.warnings.append(Finding(path, text))
        if target.feeder.timing is not None:
            _judge_timing(target, heartbeat, target.feeder.timing, verdict)
    return verdict


def _judge_timing(target: FedHeartbeat, heartbeat: Heartbeat, timing: Timing, verdict: Verdict) -> None:
    interval_s, grace_s = heartbeat.expected_interval_s, heartbeat.grace_period_s
    if interval_s is None or grace_s is None:
        return
    allowed_s = interval_s + grace_s
    wanted_s = timing.whole_interval_s() + (target.feeder.grace_s or 0)
    if timing.gap_s > allowed_s:
        findings, what = verdict.errors, f": a false alarm {_how_often(timing, allowed_s)}"
    elif timing.silence_s > allowed_s:
        findings, what = verdict.warnings, ": a false alarm if it comes to that"
    elif allowed_s - timing.silence_s < _ROOM_S:
        findings, what = verdict.warnings, ", which leaves no time for the ping itself"
    elif allowed_s > max(_LATE_FACTOR * wanted_s, wanted_s + DELIVERY_S):
        findings = verdict.warnings
        what = f", so that an alarm comes {write_duration(allowed_s - wanted_s)} later than it could"
    else:
        return
    allows = f"interval {write_duration(interval_s)} + grace {write_duration(grace_s)}"
    allows = f'"{target.name}" allows {allows} = {write_duration(allowed_s)}{what}'
    findings.append(Finding(target.feeder.path, f"{_needs(timing)}; {allows}; {_mend(target, timing)}"))
    verdict.mendable.append(target)


def _needs(timing: Timing) -> str:
    """Return what the longest silence is made of, with the sum if there is more than one part."""
    text = timing.text()
    return text if timing.silence_s == timing.gap_s else f"{text}: {write_duration(timing.silence_s)}"


def _how_often(timing: Timing, allowed_s: float) -> str:
    over = sum(gap_s > allowed_s for gap_s in timing.gaps_s)
    if over == len(timing.gaps_s):
        return "after each run"
    return f"after {over} of the next {len(timing.gaps_s)} runs" if over else "when the clocks are changed"


def _mend(target: FedHeartbeat, timing: Timing) -> str:
    interval_s, own_s, enough_s = timing.whole_interval_s(), target.feeder.grace_s, timing.default_grace_s()
    if own_s is None or interval_s + own_s - timing.silence_s >= _ROOM_S:
        grace_s = enough_s if own_s is None else own_s
        return f"set interval {write_duration(interval_s)} and grace {write_duration(grace_s)}, as aura-agent sync does"
    too_short = f"the config's grace of {write_duration(own_s)} is too short"
    return f"set interval {write_duration(interval_s)} and grace {write_duration(enough_s)}: {too_short}"
