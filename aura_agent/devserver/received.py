"""What has come in, in order of arrival: the answer to "did it really arrive?". Kept in memory, and bounded."""

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime

RUN_HEADER = "x-aura-run"  # recorded if a client sends it; the service's page knows no such header
_MAX_PINGS = 200_000
_MAX_REQUESTS = 50_000


@dataclass(frozen=True, slots=True)
class ReceivedPing:
    """One POST to a ping URL. *accepted*: it counts, whatever the client was told."""

    heartbeat_id: str
    name: str
    at: datetime
    body: str
    run: str | None
    accepted: bool


@dataclass(slots=True)
class ReceivedRequest:
    """One request to the API or a ping URL. A ping's *path* is ``/ping/{key}``, with its heartbeat beside it.

    *headers* have lower-case names and lack Authorization, of which *authorized* says whether there was one.
    *status* is None while there is no answer (and if there will never be one), *fault* the kind that was applied.
    """

    method: str
    path: str
    query: str
    at: datetime
    headers: dict[str, str] = field(repr=False)
    authorized: bool
    heartbeat_id: str | None = None
    status: int | None = None
    fault: str | None = None


class Received:
    """The two lists."""

    def __init__(self) -> None:
        self._pings: deque[ReceivedPing] = deque(maxlen=_MAX_PINGS)
        self._requests: deque[ReceivedRequest] = deque(maxlen=_MAX_REQUESTS)

    def add_ping(self, ping: ReceivedPing) -> None:
        self._pings.append(ping)

    def add_request(self, request: ReceivedRequest) -> None:
        self._requests.append(request)

    def pings(self, heartbeat: str | None = None) -> list[ReceivedPing]:
        """Return the pings of *heartbeat* (an id or a name), or all of them."""
        return [ping for ping in self._pings if heartbeat in (None, ping.heartbeat_id, ping.name)]

    def requests(self) -> list[ReceivedRequest]:
        return list(self._requests)

    def clear(self) -> None:
        self._pings.clear()
        self._requests.clear()
