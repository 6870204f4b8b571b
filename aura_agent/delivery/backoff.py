"""How long to wait before the next try. Pure: a function of the count of failures and of an injected RNG."""

import random

BASE_S = 1.0
CAP_S = 300.0
RETRY_AFTER_CAP_S = 3600.0
_LATER_AT_MOST = 0.2
_MAX_DOUBLINGS = 32  # far past the cap, and far below what a float can hold


def delay_s(attempts: int, rng: random.Random) -> float:
    """Return the wait after *attempts* failed tries in a row: anything from 0 to 1, 2, 4, … seconds, 300 at the most.

    Full jitter: many agents that failed together don't come back together.
    """
    ceiling_s = min(CAP_S, BASE_S * 2.0 ** min(_MAX_DOUBLINGS, max(0, attempts - 1)))
    return rng.uniform(0.0, ceiling_s)


def after_retry_after_s(retry_after_s: float, rng: random.Random) -> float:
    """Return the wait for a Retry-After of *retry_after_s*: never earlier, and up to 20 % later.

    An hour in all at the most: who asks for more is asked again after an hour.
    """
    asked_s = max(0.0, retry_after_s)
    return min(RETRY_AFTER_CAP_S, asked_s * (1.0 + rng.uniform(0.0, _LATER_AT_MOST)))
