"""How this program speaks HTTP: time-outs, proxies, trust, identity, and what an httpx exception means.

Shared by the API client and by the delivery of pings. Nothing here knows tokens or ping URLs beyond the URL that it is
asked to judge, and nothing it returns or raises holds one. To build a client never fails: proxies (``proxies``) and
trusted certificates (``trust``) are found out when the first request needs them, what can't be used is left out and
named in ``problems``, and what fails is a failed request, tried again like any other.
"""

import http.cookiejar
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec

import httpx

from aura_agent import __version__
from aura_agent.api.proxies import read_proxies
from aura_agent.api.reuse import reuse_only_clean_connections
from aura_agent.api.trouble import Trouble
from aura_agent.api.trust import TrustStore
from aura_agent.report.ping_url import host_of

USER_AGENT = f"aura-agent/{__version__}"
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_ODD_IN_HOST = frozenset("% /\\")  # httpx would quote these and ask the resolver for the result
_KEEPALIVE_EXPIRY_S = 30.0
_MAX_IDLE_CONNECTIONS = 8

_BY_TYPE: tuple[tuple[type[BaseException], Trouble], ...] = (
    (httpx.ConnectTimeout, Trouble.CONNECT_TIMEOUT),
    (httpx.ReadTimeout, Trouble.READ_TIMEOUT),
    (httpx.WriteTimeout, Trouble.WRITE_TIMEOUT),
    (httpx.PoolTimeout, Trouble.POOL_TIMEOUT),
    (httpx.ProxyError, Trouble.PROXY),
    (httpx.ProtocolError, Trouble.NOT_HTTP),
    (httpx.DecodingError, Trouble.NOT_HTTP),
    (httpx.UnsupportedProtocol, Trouble.BAD_URL),
    (httpx.InvalidURL, Trouble.BAD_URL),
    (httpx.ConnectError, Trouble.CONNECT),
    (httpx.NetworkError, Trouble.NETWORK),
    (httpx.RequestError, Trouble.NETWORK),
    (OSError, Trouble.NETWORK),
)
_BY_CAUSE: tuple[tuple[type[BaseException], Trouble], ...] = (
    (ssl.SSLError, Trouble.TLS),
    (socket.gaierror, Trouble.DNS),
    (ConnectionRefusedError, Trouble.REFUSED),
    (ConnectionResetError, Trouble.RESET),
    (BrokenPipeError, Trouble.RESET),
)
# The codes are those that X509_STORE_CTX_get_error(3) lists.
_BY_VERIFY_CODE = {
    10: Trouble.TLS_EXPIRED,
    9: Trouble.TLS_NOT_YET_VALID,
    **dict.fromkeys((62, 64), Trouble.TLS_WRONG_NAME),
    **dict.fromkeys((2, 18, 19, 20, 21), Trouble.TLS_UNKNOWN_ISSUER),
}


class TlsSetupError(httpx.ConnectError):
    """TLS can't be set up on this host; nothing was sent."""


class HttpEnvironment:
    """What the environment says of HTTP: proxies and trusted certificates, shared by all clients of a process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.proxies = read_proxies(environ, socks=find_spec("socksio") is not None)
        self.trust = TrustStore(environ)

    def load(self) -> None:
        """Load the certificates now, so that ``problems`` is complete."""
        try:
            self.trust.context()
        except ssl.SSLError:
            pass  # the request that needs it says so

    def problems(self) -> list[str]:
        """Return what of the environment can't be used, one line each."""
        lines = [str(entry) for entry in (*self.proxies.unusable, *self.trust.unusable)]
        return [*lines, *([self.trust.problem] if self.trust.problem else [])]


@cache
def http_environment() -> HttpEnvironment:
    """Return this process's own."""
    return HttpEnvironment(os.environ)


def build_client(*, max_connections: int | None) -> httpx.AsyncClient:
    """Return a client that follows no redirects, keeps no cookies, and takes proxies and CAs from the environment."""
    limits = httpx.Limits(
        max_connections=max_connections,
        max_keepalive_connections=_MAX_IDLE_CONNECTIONS,
        keepalive_expiry=_KEEPALIVE_EXPIRY_S,
    )
    return httpx.AsyncClient(
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        timeout=timeouts(30.0),
        cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=())),
        follow_redirects=False,
        trust_env=False,  # httpx raises for what can't be used, when it is built
        transport=_Routes(http_environment(), limits),
    )


def build_socket_client(path: str, *, base_url: str, timeout_s: float) -> httpx.Client:
    """Return a client of who listens on the unix socket *path*: no proxy and no certificate has a part in that."""
    trusts_nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # httpx would load the environment's certificates
    transport = httpx.HTTPTransport(uds=path, verify=trusts_nobody, trust_env=False)
    return httpx.Client(transport=transport, base_url=base_url, timeout=timeout_s, trust_env=False)


class _Routes(httpx.AsyncBaseTransport):
    """Sends each request straight or through its proxy, by a transport that is made when it is first needed."""

    def __init__(self, environment: HttpEnvironment, limits: httpx.Limits) -> None:
        self._environment = environment
        self._limits = limits
        self._transports: dict[tuple[str | None, bool], httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        transport = self._transport(self._environment.proxies.proxy_for(url.scheme, url.host, url.port), url.scheme)
        try:
            return await transport.handle_async_request(request)
        except httpx.ConnectError as exc:
            if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(exc)):
                self._environment.trust.look_again()
            raise

    def _transport(self, proxy: str | None, scheme: str) -> httpx.AsyncHTTPTransport:
        needs_tls = scheme == "https" or (proxy is not None and proxy.startswith("https:"))
        transport = self._transports.get((proxy, needs_tls))
        if transport is None:
            context = self._context(needs_tls=needs_tls)
            transport = reuse_only_clean_connections(
                httpx.AsyncHTTPTransport(
                    verify=context,
                    trust_env=False,
                    limits=self._limits,
                    proxy=None if proxy is None else _proxy(proxy, context),
                )
            )
            self._transports[proxy, needs_tls] = transport
        return transport

    def _context(self, *, needs_tls: bool) -> ssl.SSLContext:
        """Return the context; where TLS isn't needed, one that trusts nobody, and costs no look at any file."""
        try:
            return self._environment.trust.context() if needs_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        except ssl.SSLError as exc:
            raise TlsSetupError(type(exc).__name__) from None

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()


def _proxy(url: str, context: ssl.SSLContext) -> httpx.Proxy:
    return httpx.Proxy(url, ssl_context=context if url.startswith("https:") else None)


def timeouts(total_s: float) -> httpx.Timeout:
    """Return the time-outs of the steps of a request that has *total_s* in all.

    Waiting for a connection, TCP and TLS (``connect`` holds for each of the two) are over before the total is: httpcore
    leaks the socket of a TLS handshake that is cancelled from outside rather than timed out.
    """
    return httpx.Timeout(
        pool=min(5.0, total_s / 6), connect=min(10.0, total_s / 3), write=min(10.0, total_s), read=min(20.0, total_s)
    )


def judge_url(text: str, *, allow_insecure: bool) -> Trouble | httpx.URL:
    """Return *text* as a URL that may be asked, or why it may not."""
    try:
        host_of(text)
        url = httpx.URL(text)
        host = url.host  # decoding it fails for some names that begin with xn--
        url.raw_host.decode("ascii").encode("idna")  # as the resolver will
    except (httpx.InvalidURL, ValueError, TypeError):
        return Trouble.BAD_URL
    if not host or _ODD_IN_HOST & set(host):
        return Trouble.BAD_URL
    if url.scheme == "http" and not allow_insecure and host not in LOOPBACK_HOSTS:
        return Trouble.INSECURE_URL
    return url


def trouble_of(exc: BaseException) -> str:
    """Return the Trouble that *exc* stands for; what nobody expected also tells its type, never its text."""
    if isinstance(exc, TlsSetupError):
        return Trouble.TLS_SETUP
    for cause in () if isinstance(exc, httpx.TimeoutException) else _causes(exc):
        for kind, trouble in _BY_CAUSE:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return _BY_VERIFY_CODE.get(cause.verify_code, Trouble.TLS)
            if isinstance(cause, kind):
                return trouble
    for kind, trouble in _BY_TYPE:
        if isinstance(exc, kind):
            return trouble
    return f"{Trouble.UNEXPECTED} {type(exc).__name__}"


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield *exc* and all that led to it, members of exception groups included."""
    waiting, seen = [exc], set[int]()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            waiting.extend(current.exceptions)
        waiting.extend(cause for cause in (current.__cause__, current.__context__) if cause is not None)
