"""Trouble on demand: which request gets which, decided here; ``front.py`` makes it happen.

A fault waits for requests of its target (and of one heartbeat, if it names one) until it has been applied *times*
times, or for *for_s* seconds. The oldest that matches wins.

    hang        the request is taken and never answered, nor acted upon
    status      *status*, with *retry_after* and *location* as headers; not acted upon
    drop        acted upon and answered, but the connection ends in mid-body, short of its Content-Length
    drop_after  acted upon (a ping counts), then the connection ends without an answer
    slow        acted upon, answered after *delay_s*, one byte of the body every *drip_s*
    refuse      nobody listens on the port for *for_s* (all targets at once; ``listener.py``)
"""

import asyncio
import itertools
from typing import Annotated, Literal

import msgspec

Kind = Literal["refuse", "hang", "status", "drop", "drop_after", "slow"]
Target = Literal["ping", "api", "all"]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A fault as it is ordered."""

    kind: Kind
    target: Target = "all"
    heartbeat: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    for_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 500
    retry_after: int | str | None = None
    location: str | None = None
    delay_s: _Seconds = 0.0
    drip_s: _Seconds = 0.0

    def __post_init__(self) -> None:
        if self.kind == "refuse" and (self.target, self.heartbeat, self.times) != ("all", None, None):
            raise ValueError("refuse closes the port: it takes for_s, and neither target, heartbeat nor times")
        for name in ("retry_after", "location"):
            value = getattr(self, name)
            if isinstance(value, str) and not (value.isascii() and value.isprintable()):
                raise ValueError(f"{name} can't be a header's value")


class ActiveFault:
    """A fault that waits for requests. *ended* is set when it is cleared, which frees those it holds."""

    def __init__(self, fault_id: str, fault: Fault, now_s: float) -> None:
        self.id, self.fault = fault_id, fault
        self.left = fault.times
        self.ends_s = None if fault.for_s is None else now_s + fault.for_s
        self.ended = asyncio.Event()

    def matches(self, target: Target, heartbeat: tuple[str, str] | None) -> bool:
        """Tell whether it is for a request to *target* about *heartbeat*: (id, name), if it is about one."""
        if self.fault.target not in ("all", target):
            return False
        return self.fault.heartbeat is None or (heartbeat is not None and self.fault.heartbeat in heartbeat)


class Faults:
    """Those that are active. Time is monotonic seconds, and a parameter."""

    def __init__(self) -> None:
        self._active: dict[str, ActiveFault] = {}
        self._holding: set[ActiveFault] = set()
        self._numbers = itertools.count(1)

    def add(self, fault: Fault, now_s: float) -> str:
        """Return the id of the fault that is active from now on."""
        fault_id = f"fault-{next(self._numbers)}"
        self._active[fault_id] = ActiveFault(fault_id, fault, now_s)
        return fault_id

    def take(self, target: Target, heartbeat: tuple[str, str] | None, now_s: float) -> ActiveFault | None:
        """Return the fault that the request gets, and count it."""
        self._expire(now_s)
        for active in self._active.values():
            if active.matches(target, heartbeat):
                if active.left is not None:
                    active.left -= 1
                    if active.left == 0:
                        del self._active[active.id]
                self._holding.add(active)
                return active
        return None

    def list(self, now_s: float) -> list[ActiveFault]:
        self._expire(now_s)
        return list(self._active.values())

    def clear(self, fault_id: str | None = None) -> bool:
        """End one, or all of them, and free the requests that they hold; False: no such fault."""
        ending = {active for active in {*self._active.values(), *self._holding} if fault_id in (None, active.id)}
        for active in ending:
            active.ended.set()
            self._active.pop(active.id, None)
            self._holding.discard(active)
        return bool(ending)

    def _expire(self, now_s: float) -> None:
        for active in list(self._active.values()):
            if active.ends_s is not None and now_s >= active.ends_s:
                del self._active[active.id]
