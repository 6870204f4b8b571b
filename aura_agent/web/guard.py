"""What the status page tells browsers to do and not to do with it, and whom it doesn't answer.

A name of somebody else's domain may be made to mean 127.0.0.1 (DNS rebinding): a page from there could then read ours
in the browser of whoever is on this host. Its requests name that domain in ``Host``.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from aura_agent.config.addresses import is_loopback

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[_Message, _Receive, _Send], Awaitable[None]]

_HEADERS = [
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class Guard:
    """*application*, with these headers. *local_only*: it answers what is asked of a loopback address alone."""

    def __init__(self, application: _Application, *, local_only: bool) -> None:
        self._application = application
        self._local_only = local_only

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        async def send_guarded(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        if scope["type"] == "http" and self._local_only and not _asks_here(scope["headers"]):
            body = b"This page answers to localhost and loopback addresses alone. A proxy sends Host: localhost.\n"
            length = (b"content-length", str(len(body)).encode())
            await send_guarded(
                {"type": "http.response.start", "status": 421, "headers": [(b"content-type", b"text/plain"), length]}
            )
            await send({"type": "http.response.body", "body": body})
            return
        await self._application(scope, receive, send_guarded)


def _asks_here(headers: list[tuple[bytes, bytes]]) -> bool:
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    return len(hosts) <= 1 and all(is_loopback(_without_port(host)) for host in hosts)


def _without_port(host: str) -> str:
    """Return ``127.0.0.1`` of ``127.0.0.1:80``, ``::1`` of ``[::1]:80``."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
