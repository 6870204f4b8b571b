"""How we stand with the API: does it answer, does it know us, and when may it be asked again.

While it doesn't, the agent goes on with what is cached: ``degraded: auth`` where the token is refused, ``degraded:
api`` where the API can't be reached or talks nonsense. It is asked again slowly, and more slowly still where only a
person can mend it; and soon, once, where there was no network, when a ping shows that there is.
"""

import random
from enum import StrEnum

from aura_agent.api import ApiError, ApiMisconfigured, ApiUnreachable, Forbidden, RateLimited, Unauthorized
from aura_agent.api.retry_after import after_retry_after_s
from aura_agent.clock import Clock
from aura_agent.delivery.backoff import delay_s
from aura_agent.delivery.observer import Observer

_AUTH_BASE_S = 300.0
_SLOW_CAP_S = 3600.0


class Degraded(StrEnum):
    """What we do without."""

    AUTH = "auth"
    API = "api"


class Standing:
    """The outcome of the last call, and the back-off after failed ones."""

    def __init__(self, clock: Clock, rng: random.Random, observer: Observer) -> None:
        self._clock = clock
        self._rng = rng
        self._observer = observer
        self.reset()

    def reset(self) -> None:
        """Forget the failures: token or address have changed, or somebody has mended something."""
        self.degraded: Degraded | None = None
        self.reason = ""
        self._failures = self._held_until_ns = 0
        self._hurried = self._may_be_hurried = False

    @property
    def problem(self) -> str:
        """One line for people, empty while nothing is wrong."""
        return "" if self.degraded is None else f"degraded: {self.degraded}: {self.reason}"

    def held_s(self) -> float:
        """Return how long the API is left alone."""
        return max(0, self._held_until_ns - self._clock.read().boot_ns) / 1e9

    def failed(self, problem: ApiError) -> None:
        """A call that says something of all others has failed."""
        refused = isinstance(problem, (Unauthorized, Forbidden, ApiMisconfigured))
        self._failures += 1
        self.degraded = Degraded.AUTH if refused else Degraded.API
        self.reason = str(problem)
        self._may_be_hurried = isinstance(problem, ApiUnreachable) and not self._hurried
        self._hurried = False
        self._observer.note("api.failed", error=self.reason, status=problem.status, degraded=self.degraded.value)
        if refused:
            wait_s = delay_s(self._failures, self._rng, base_s=_AUTH_BASE_S, cap_s=_SLOW_CAP_S)
        elif isinstance(problem, RateLimited):
            # A fleet that uses up its token together must come back over an hour, or nobody's listing ever ends.
            wait_s = delay_s(self._failures, self._rng, cap_s=_SLOW_CAP_S)
        else:
            wait_s = delay_s(self._failures + 1, self._rng)
        if problem.retry_after_s is not None:
            wait_s = max(wait_s, after_retry_after_s(problem.retry_after_s, self._rng))
        self._held_until_ns = self._clock.read().boot_ns + int(wait_s * 1e9)

    def hurry(self) -> bool:
        """A ping got through: where the API could not be reached, ask it again soon; return whether that is sooner.

        Where that fails as well, not before the next back-off: pings may get through where the API doesn't answer.
        """
        if not self._may_be_hurried:
            return False
        self._hurried, self._may_be_hurried = True, False
        soon_ns = self._clock.read().boot_ns + int(delay_s(1, self._rng) * 1e9)
        self._held_until_ns = min(self._held_until_ns, soon_ns)
        return True

    def answered(self) -> None:
        """A call has succeeded."""
        if self.degraded is not None:
            self._observer.note("api.recovered")
        self.reset()
