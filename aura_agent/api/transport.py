"""How this program speaks HTTP: time-outs, proxies, identity, and what an httpx exception means.

Shared by the API client and by the delivery of pings. Nothing here knows tokens or ping URLs beyond the URL that it is
asked to judge, and nothing it returns or raises holds one. Loopback never goes through a proxy: a plain http:// URL is
only allowed there because it doesn't leave the host.
"""

import http.cookiejar
import socket
import ssl
from collections.abc import Iterator

import httpx

from aura_agent import __version__
from aura_agent.api.errors import ApiMisconfigured
from aura_agent.api.trouble import Trouble
from aura_agent.report.ping_url import host_of

USER_AGENT = f"aura-agent/{__version__}"
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})  # the same list that bypasses the proxies below
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


def build_client(*, max_connections: int | None) -> httpx.AsyncClient:
    """Return a client that follows no redirects, keeps no cookies, and takes proxies and CAs from the environment.

    Raises ApiMisconfigured: a proxy or certificate variable of the environment can't be used.
    """
    no_cookies = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
    try:
        return httpx.AsyncClient(
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            timeout=timeouts(30.0),
            limits=httpx.Limits(
                max_connections=max_connections,
                max_keepalive_connections=_MAX_IDLE_CONNECTIONS,
                keepalive_expiry=_KEEPALIVE_EXPIRY_S,
            ),
            cookies=no_cookies,
            follow_redirects=False,
            trust_env=True,
            mounts={f"all://{f'[{host}]' if ':' in host else host}": None for host in LOOPBACK_HOSTS},
        )
    except (ValueError, TypeError, OSError, ImportError, httpx.InvalidURL) as exc:
        # The exception's text may hold a proxy's password, so only its kind is told.
        raise ApiMisconfigured(
            f"HTTP can't be set up ({type(exc).__name__}): check the variables HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, "
            "NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
        ) from None


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
    for cause in () if isinstance(exc, httpx.TimeoutException) else _causes(exc):
        for kind, trouble in _BY_CAUSE:
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
