"""What becomes of a fire time that comes while the job's previous run is still going."""

from dataclasses import dataclass
from typing import Literal

Overlap = Literal["forbid", "allow", "replace", "queue"]
Action = Literal["start", "skip", "replace", "queue"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why; ``replace`` means: stop the running ones, then start."""

    action: Action
    reason: str


def decide(overlap: Overlap, running: int, queued: int) -> Decision:
    """Decide over one fire time, given how many runs of the job are going and how many wait.

    At most one run waits: more would only repeat what the waiting one does.
    """
    if overlap == "allow" or (running == 0 and queued == 0):
        return Decision("start", "" if running == 0 else 'runs beside the previous one (overlap = "allow")')
    if overlap == "replace":
        if running == 0:
            return Decision("skip", 'a run waits for the one it replaces to end (overlap = "replace")')
        if queued > 0:
            return Decision("skip", 'the previous run is being replaced already (overlap = "replace")')
        return Decision("replace", 'the previous run is still going (overlap = "replace")')
    if overlap == "queue":
        if queued > 0:
            return Decision("skip", 'a run waits already (overlap = "queue")')
        return Decision("queue", 'the previous run is still going (overlap = "queue")')
    return Decision("skip", 'the previous run is still going (overlap = "forbid")')
