"""How long to wait before the next try. Pure: a function of the count of failures and of an injected RNG."""

import random

BASE_S = 1.0
CAP_S = 300.0
_MAX_DOUBLINGS = 32  # far past the cap, and far below what a float can hold


def delay_s(attempts: int, rng: random.Random, *, base_s: float = BASE_S, cap_s: float = CAP_S) -> float:
    """Return the wait after *attempts* failed tries in a row: anything from 0 to 1, 2, 4, … seconds, 300 at the most.

    *base_s* stands for the 1, *cap_s* for the 300.

    Full jitter: many agents that failed together don't come back together.
    """
    ceiling_s = min(cap_s, base_s * 2.0 ** min(_MAX_DOUBLINGS, max(0, attempts - 1)))
    return rng.uniform(0.0, ceiling_s)
