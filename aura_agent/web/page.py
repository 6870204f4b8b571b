"""Where the status page listens. Where it can't, everything else goes on."""

import socket
from collections.abc import Callable

from aura_agent.config.addresses import parse_listen
from aura_agent.delivery.observer import Observer
from aura_agent.web.serving import LazyServer


class Page:
    """The page at *address*, ``host:port``, served by what *serve* makes of a bound socket.

    ``problem`` says why it doesn't listen there; empty if it does.
    """

    def __init__(self, address: str, serve: Callable[[socket.socket], LazyServer], observer: Observer) -> None:
        self._address = address
        self._serve = serve
        self._observer = observer
        self._server: LazyServer | None = None
        self.problem = ""

    async def listen(self) -> bool:
        """Try to listen; return whether the page is served now."""
        try:
            bound = _bind(self._address)
        except OSError as failure:
            before, self.problem = self.problem, f"the status page can't listen on {self._address}: {failure.strerror}"
            if self.problem != before:
                self._observer.note("status.failed", error=self.problem)
            return False
        self._server = self._serve(bound)
        await self._server.start()
        self.problem = ""
        self._observer.note("status.listening", port=bound.getsockname()[1])
        return True

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()


def _bind(address: str) -> socket.socket:
    """Return a socket that listens on *address*. Raises OSError."""
    host, port = parse_listen(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named since asyncio switches Nagle off only where it is: 40 ms for each answer otherwise.
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(128)
    except OSError:
        bound.close()
        raise
    return bound
