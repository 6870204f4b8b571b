"""What a token has asked of the API, and when it may ask again. Pure: *now* is a parameter, nothing is read or slept.

The reference grants 60 requests a minute and 1,000 an hour per token, and doesn't say where a window begins. So each
request counts for a whole window after the latest instant at which it can have reached the service: however the
service lays its windows, none of them ever holds more than its limit of ours. What its answers tell of the remaining
budget (others share the token) only ever lowers that.

Instants are CLOCK_BOOTTIME nanoseconds: no step of the wall clock moves them. A ledger that was written in an earlier
boot, or later than *now*, is read as if no time had passed since: that never lets too much through.
"""

from enum import IntEnum
from typing import NamedTuple

import msgspec


class Purpose(IntEnum):
    """What a request is for, most urgent first."""

    NEEDED = 0  # a ping waits for it
    REFRESH = 1  # what is known may have changed, or will be needed
    LISTING = 2  # everything else: somebody looks, or changes something by hand


class Window(NamedTuple):
    """One of the token's limits: so many requests within so many nanoseconds."""

    length_ns: int
    limit: int


WINDOWS = (Window(60 * 10**9, 60), Window(3600 * 10**9, 1000))  # the reference, "Rate limits"
REQUEST_NS = 30 * 10**9  # no request is on its way for longer: the client gives up by then
_KEPT_FOR_URGENT = {Purpose.NEEDED: 0, Purpose.REFRESH: 6, Purpose.LISTING: 3}  # one of so many requests; 0: none


class Told(msgspec.Struct):
    """What an answer said of a window: *left* requests, ours since then taken off."""

    left: int
    at_ns: int


class Ledger(msgspec.Struct):
    """One token's requests. *told* goes with WINDOWS."""

    boot_id: str
    written_ns: int = 0
    latest_ns: list[int] = []
    told: list[Told | None] = msgspec.field(default_factory=lambda: [None] * len(WINDOWS))
    held_until_ns: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for what was written for other windows."""
        if len(self.told) != len(WINDOWS):
            raise ValueError(f"told must be {len(WINDOWS)} long")

    def bring_to(self, boot_id: str, now_ns: int) -> None:
        """Make it a ledger of this boot, written at *now_ns*, and forget what no window holds any more."""
        if boot_id != self.boot_id:
            # The boot began after the last entry, and time passes within it only.
            self._shift(-self.written_ns)
            self.boot_id, self.written_ns = boot_id, 0
        elif now_ns < self.written_ns:
            self._shift(now_ns - self.written_ns)
        self.written_ns = now_ns
        longest_ns = max(window.length_ns for window in WINDOWS)
        self.latest_ns = sorted(at for at in self.latest_ns if at > now_ns - longest_ns)

    def wait_ns(self, purpose: Purpose, now_ns: int) -> int:
        """Return how long a request for *purpose* has to wait; 0: it may be sent now."""
        may_ns = self.held_until_ns
        for window, told in zip(WINDOWS, self.told, strict=True):
            kept = _kept(purpose, window)
            counted = [at for at in self.latest_ns if at > now_ns - window.length_ns]
            too_many = len(counted) - (window.limit - kept)
            if too_many >= 0:
                may_ns = max(may_ns, counted[too_many] + window.length_ns)
            if told is not None and told.left <= kept:
                # Its window had begun when the answer was given, and is over this much later at the latest.
                may_ns = max(may_ns, told.at_ns + window.length_ns)
        return max(0, may_ns - now_ns)

    def reserve(self, now_ns: int) -> int:
        """Count a request that is sent now; return what ``settle`` knows it by."""
        latest_ns = now_ns + REQUEST_NS
        self.latest_ns.append(latest_ns)
        for told in self.told:
            if told is not None:
                told.left -= 1
        return latest_ns

    def settle(self, reserved_ns: int, now_ns: int, left: tuple[int | None, ...]) -> None:
        """Its answer is here, and says how many requests are *left* of each window (None: it doesn't say).

        What never gets an answer is not settled: it may yet arrive.
        """
        if reserved_ns in self.latest_ns:
            self.latest_ns.remove(reserved_ns)
            self.latest_ns.append(min(reserved_ns, now_ns))
            self.latest_ns.sort()
        under_way = sum(at > now_ns for at in self.latest_ns)
        sent_ns = reserved_ns - REQUEST_NS
        for index, said in enumerate(left):
            if said is None:
                continue
            # Whether the answer counts those that are under way isn't known: take them off.
            now_left, told = said - under_way, self.told[index]
            if told is not None and sent_ns < told.at_ns:
                now_left = min(now_left, told.left)  # the two crossed: which is the newer isn't known either
            self.told[index] = Told(now_left, now_ns)

    def hold(self, until_ns: int) -> None:
        """Ask nothing before *until_ns*: the service said so."""
        self.held_until_ns = max(self.held_until_ns, until_ns)

    def _shift(self, by_ns: int) -> None:
        self.latest_ns = [at + by_ns for at in self.latest_ns]
        self.held_until_ns += by_ns
        for told in self.told:
            if told is not None:
                told.at_ns += by_ns


def _kept(purpose: Purpose, window: Window) -> int:
    """Return how many requests of *window* are left to what is more urgent than *purpose*."""
    share = _KEPT_FOR_URGENT[purpose]
    return window.limit // share if share else 0
