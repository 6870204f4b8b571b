"""Connections are used again only after a clean answer: a 2xx with not a byte behind it.

httpcore keeps a connection after any answer that was read to its end, and what came behind that end answers the next
request: a ping would count as delivered although the server said 503. It looks whether the idle socket is readable,
but not at the bytes that it has read already. The pool asks ``has_expired`` before each use; where what is asked for
there isn't found, in another version of httpcore, the connection isn't used again.
"""

from typing import Any

import httpcore
import httpx


def reuse_only_clean_connections(transport: httpx.AsyncHTTPTransport) -> httpx.AsyncHTTPTransport:
    """Let *transport* give up each connection after anything but a clean 2xx; return *transport*."""
    pool = transport._pool  # noqa: SLF001  # httpx has no other way to a pool of one's own
    create = pool.create_connection
    pool.create_connection = lambda origin: _CleanConnection(create(origin))  # type: ignore[method-assign]
    return transport


class _CleanConnection(httpcore.AsyncConnectionInterface):
    """A connection of a pool, which has expired as soon as it isn't clean."""

    def __init__(self, inner: httpcore.AsyncConnectionInterface) -> None:
        self._inner = inner
        self._succeeded = True
        self._http11: Any = None

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        response = await self._inner.handle_async_request(request)
        self._succeeded = 200 <= response.status <= 299
        self._http11 = getattr(response.stream, "_connection", None)
        return response

    def has_expired(self) -> bool:
        return self._inner.has_expired() or (self._inner.is_idle() and not self._is_clean())

    def is_available(self) -> bool:
        return self._inner.is_available() and self._is_clean()

    def _is_clean(self) -> bool:
        return self._succeeded and not _has_left_over(self._http11)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def info(self) -> str:
        return self._inner.info()

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        return self._inner.can_handle_request(origin)

    def is_idle(self) -> bool:
        return self._inner.is_idle()

    def is_closed(self) -> bool:
        return self._inner.is_closed()


def _has_left_over(http11: Any) -> bool:
    """Whether bytes lie behind the last answer that *http11*, an httpcore.AsyncHTTP11Connection, has read.

    In the parser, in the TLS layer, or in what anyio's socket has read ahead.
    """
    try:
        if http11._h11_state.trailing_data[0]:  # noqa: SLF001
            return True
        stream = http11._network_stream._stream  # noqa: SLF001
        while hasattr(stream, "transport_stream"):
            if stream._ssl_object.pending() or stream._read_bio.pending:  # noqa: SLF001
                return True
            stream = stream.transport_stream
        return bool(stream._protocol.read_queue)  # noqa: SLF001
    except AttributeError:
        return True
