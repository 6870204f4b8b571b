"""What is to be asked of the API, and when, so that the cache stays good. Pure: the time is a parameter.

Ping URLs are fetched once and renewed rarely; what a heartbeat expects is looked at about once a day. Each host and
heartbeat has its own moment for that, so that a fleet which started together doesn't ask together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aura_agent.outbox.heartbeats import CachedHeartbeat
from aura_agent.outbox.scopes import Listing
from aura_agent.schedule.jitter import stable_jitter_s

FACTS_S = 86_400.0
URL_S = 7 * 86_400.0
_EARLIEST, _SPREAD = 0.75, 0.5  # due between three quarters and five quarters of these
_PAGE = 100
NOT_USED = Listing(is_used=False, listed_wall_ns=None, list_after_wall_ns=0)
_AHEAD_S = 3600.0  # a stamp further ahead comes from a clock that was wrong


@dataclass(frozen=True, slots=True)
class Refresh:
    """What to ask now: the list of all heartbeats, single ones, ping URLs; *next_s*: when more falls due."""

    listing: bool
    facts: tuple[str, ...]
    urls: tuple[str, ...]
    next_s: float

    @property
    def due(self) -> bool:
        """Whether there is anything to ask."""
        return self.listing or bool(self.facts or self.urls)


def listing_left_s(listing: Listing, host: str, now_ns: int) -> float:
    """Return how long the list of heartbeats still holds at *now_ns*: names move, and only a list tells."""
    return _left_s(listing.listed_wall_ns, URL_S, host, "names", now_ns) if listing.is_used else math.inf


def plan(
    found: Sequence[Sequence[CachedHeartbeat]], known: int, host: str, now_ns: int, listing: Listing = NOT_USED
) -> Refresh:
    """Return what to ask at *now_ns* (Unix epoch).

    *found* has, for each heartbeat that is wanted, what the cache holds under its name or id: nothing, or several,
    where only a listing helps. *known* is how many heartbeats the cache holds in all: a listing of so many is asked
    for where it takes fewer requests than the wanted ones alone. *listing* is the one that names were last found by.
    """
    wanted = {each[0].id: each[0] for each in found if len(each) == 1}
    facts_s = {key: _left_s(beat.listed_wall_ns, FACTS_S, host, key, now_ns) for key, beat in wanted.items()}
    urls_s = {
        key: _left_s(beat.url_wall_ns if beat.ping_url else None, URL_S, host, key, now_ns)
        for key, beat in wanted.items()
    }
    stale = tuple(key for key, left_s in facts_s.items() if left_s <= 0)
    list_s = listing_left_s(listing, host, now_ns)
    lists = len(wanted) < len(found) or (bool(stale) and len(wanted) > -(-known // _PAGE)) or list_s <= 0
    later_s = [left_s for left_s in (list_s, *facts_s.values(), *urls_s.values()) if 0 < left_s < math.inf]
    return Refresh(
        listing=lists,
        facts=() if lists else stale,
        urls=tuple(key for key, left_s in urls_s.items() if left_s <= 0),
        next_s=min(later_s, default=FACTS_S),
    )


def _left_s(then_ns: int | None, period_s: float, host: str, heartbeat_id: str, now_ns: int) -> float:
    """Return how long what was learnt at *then_ns* still holds; None: it was never learnt."""
    if then_ns is None:
        return 0.0
    age_s = (now_ns - then_ns) / 1e9
    if age_s < -_AHEAD_S:
        return 0.0
    return period_s * _EARLIEST + stable_jitter_s(host, heartbeat_id, period_s * _SPREAD) - age_s
