"""Whether each part of the daemon makes progress. Pure: what was measured comes in.

All times are of a clock that stands still while the machine is suspended.
"""

from dataclasses import dataclass

from aura_agent.outbox.worker import Hanging

_NO_ANSWER_S = 60.0  # no call of the store takes so long on a disk that moves
_LOOP_SLOW_S = 120.0  # the scheduler looks up every 30 s; four times that means that it is stuck


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """For how long (s) each part has owed an answer; *asleep_s*: since the scheduler looked up."""

    asleep_s: float
    deaf_s: float
    turn_s: float
    store: Hanging

    @property
    def stuck(self) -> str:
        """Return what has come to a stop in a way that only a restart ends; empty if nothing has.

        A disk that does not answer is none: a restart would end the jobs, which go on, and find the same disk.
        """
        if self.asleep_s > _LOOP_SLOW_S:
            return f"the scheduler has not looked up for {self.asleep_s:.0f} s"
        if self.deaf_s > _NO_ANSWER_S:
            return f"the report socket has not answered for {self.deaf_s:.0f} s"
        if self.store.took_s > _NO_ANSWER_S:
            return f"the store's thread has computed for {self.store.took_s:.0f} s" if self.store.computes else ""
        return f"the courier has not come round for {self.turn_s:.0f} s" if self.turn_s > _NO_ANSWER_S else ""
