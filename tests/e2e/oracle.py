"""What must have come of a storm, worked out naively from the storm's own log. Knows nothing of how any of it works.

A run that was killed may have ended in more than one way, and of two runs that began at about the same time nobody can
tell which came first: then each possibility is allowed. Everything else is a problem, named by run.
"""

from dataclasses import dataclass

from tests.e2e.storm import Seen

_TICK_S = 0.01  # /proc/uptime, which the jobs read, has hundredths of a second, cut off
_WITHDRAWING = {"failed", "timed_out", "killed", "not_started", "lost"}
_OUTCOMES = {
    "good": "succeeded",
    "again": "succeeded",
    "bad": "failed",
    "crash": "killed",
    "slow": "timed_out",
    "missing": "not_started",
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run in the oracle's eyes: its deciding attempt began after *earliest_s* and before *latest_s*."""

    tag: str
    beat: str
    round: int
    earliest_s: float
    latest_s: float
    outcome: str

    def surely_before(self, other: "Run") -> bool:
        return self.latest_s < other.earliest_s


def problems(
    seen: list[Seen],
    pings: list[dict[str, list[str]]],
    outcomes: dict[str, str],
    states: dict[str, str],
    disturbances: int,
) -> list[str]:
    """Return what is wrong. *outcomes* and *states* are what the store says of each run and entry, by tag."""
    found = [problem for run in seen for problem in _wrong_status(run)]
    for run in seen:
        outcome = outcomes.get(run.plan.tag)
        if outcome not in allowed(run):
            found.append(f"{run.plan.tag}: {outcome}, where {allowed(run)} was possible: {run}")
    runs = [_run(run, outcomes[run.plan.tag]) for run in seen if run.plan.tag in outcomes]
    found += [f"{tag}: {state} at the end" for tag, state in states.items() if state in ("waiting", "expired")]
    for beat in {run.beat for run in runs}:
        of_beat = [run for run in runs if run.beat == beat]
        heard = [(number, tag) for number, noted in enumerate(pings) for tag in noted[beat]]
        found += _false_pings(of_beat, heard)
        found += _missing_pings(of_beat, heard, states)
        for tag in {tag for _, tag in heard}:
            times = sum(tag == other for _, other in heard)
            if times > 1 + disturbances + sum(run.plan.kind == "killed" for run in seen):
                found.append(f"{tag}: pinged {times} times")
    return found


def allowed(seen: Seen) -> set[str | None]:
    """Return the outcomes that the run may have on record; None: it may have left no trace."""
    plan = seen.plan
    if plan.kind not in ("stopped", "killed"):
        return {_OUTCOMES[plan.kind]}
    if seen.struck_s is None:
        return {"succeeded"}
    if plan.kind == "stopped":
        if seen.status == 0:
            return {"succeeded"}
        return {"killed"} if seen.starts_s else {"killed", None}
    if seen.status == 0:
        return {"succeeded"}
    ended_before = bool(seen.ends_s) and seen.ends_s[-1] <= seen.struck_s
    return {"lost"} | ({"succeeded"} if ended_before else set()) | (set() if seen.waited else {None})


def _wrong_status(seen: Seen) -> list[str]:
    """The caller got the job's own end, and no more than a line of what went wrong on our side."""
    plan = seen.plan
    wanted: dict[str, set[int]] = {
        "good": {0},
        "again": {0},
        "bad": {plan.detail},
        "crash": {-plan.detail},
        "slow": {124},
        "missing": {127},
        "stopped": {0, -15},
        "killed": {0, -9},
    }
    found = [] if seen.status in wanted[plan.kind] else [f"{plan.tag}: exit status {seen.status}: {seen}"]
    if b"Traceback" in seen.errors or b"internal error" in seen.errors:
        found.append(f"{plan.tag}: {seen.errors!r}")
    return found


def _run(seen: Seen, outcome: str) -> Run:
    earliest_s, latest_s = seen.launched_s, seen.ended_s
    if seen.starts_s:
        latest_s = seen.starts_s[-1] + _TICK_S
    if len(seen.starts_s) > 1:
        earliest_s = max(earliest_s, seen.ends_s[-2])
    return Run(seen.plan.tag, seen.plan.beat, seen.round, earliest_s, latest_s, outcome)


def _false_pings(runs: list[Run], heard: list[tuple[int, str]]) -> list[str]:
    """Nobody was pinged for a run that didn't succeed, nor after a later run was on record."""
    by_tag = {run.tag: run for run in runs}
    found = []
    for number, tag in heard:
        pinged = by_tag.get(tag)
        if pinged is None or pinged.outcome != "succeeded":
            found.append(f"{tag}: pinged, but {pinged}")
            continue
        found += [
            f"{tag}: pinged in round {number}, after {later}: {pinged}"
            for later in runs
            if later.round < number and pinged.surely_before(later)
        ]
    return found


def _missing_pings(runs: list[Run], heard: list[tuple[int, str]], states: dict[str, str]) -> list[str]:
    """Each success was told, unless something later stood against it; the newest was told last."""
    found = []
    tags = [tag for _, tag in heard]
    for run in runs:
        if run.outcome != "succeeded":
            continue
        state = states.get(run.tag)
        others = [other for other in runs if other is not run and not other.surely_before(run)]
        possible = {
            "delivered": run.tag in tags,
            "invalidated": any(other.outcome in _WITHDRAWING for other in others),
            "superseded": any(other.outcome == "succeeded" for other in others),
        }
        if not possible.get(state or "", False):
            found.append(f"{run.tag}: {state}, which nothing explains: {run}")
    newest = [run for run in runs if not any(run.surely_before(other) for other in runs)]
    if all(run.outcome == "succeeded" for run in newest) and not (tags and tags[-1] in {run.tag for run in newest}):
        found.append(f"{newest}: should have been told last, but {tags[-1:]}")
    return found
