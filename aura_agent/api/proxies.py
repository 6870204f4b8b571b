"""Which proxy a URL goes through, from the environment's variables: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY. Pure.

An entry that can't be used is left out and named, without a proxy's password. Loopback is never proxied: a plain
http:// URL is only allowed there because it doesn't leave the host. As in urllib and curl, a lower-case variable wins,
and HTTP_PROXY doesn't count in a CGI script, where a client sets it (the header "Proxy").
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

_HOST = re.compile(r"[^\s\[\]/:?#@%\\]+")
_SOCKS = ("socks5", "socks5h")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Unusable:
    """One entry of a variable that is left out: its *text*, free of secrets, and what is wrong with it."""

    variable: str
    text: str
    problem: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.text!r} is left out: {self.problem}"


@dataclass(frozen=True, slots=True)
class _Exception:
    """One entry of NO_PROXY: what has to agree with a URL; None agrees with all."""

    host: str | None = None
    network: IPv4Network | IPv6Network | None = None
    subdomains_only: bool = False
    port: int | None = None
    scheme: str | None = None

    def covers(self, scheme: str, host: str, port: int | None) -> bool:
        if self.scheme not in (None, scheme) or self.port not in (None, port or _DEFAULT_PORTS.get(scheme)):
            return False
        if self.network is not None:
            address = _address(host)
            return address is not None and address in self.network
        if self.host is None:
            return True
        return host.endswith(f".{self.host}") or (host == self.host and not self.subdomains_only)


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxy for each scheme and the exceptions, as far as they can be used, and what can't be."""

    by_scheme: Mapping[str, str] = field(default_factory=dict)
    exceptions: tuple[_Exception, ...] = ()
    unusable: tuple[Unusable, ...] = ()

    def proxy_for(self, scheme: str, host: str, port: int | None) -> str | None:
        """Return the URL of the proxy for a URL with these parts; None: it is asked directly."""
        host = host.lower().rstrip(".").strip("[]")
        if is_loopback(host) or any(exception.covers(scheme, host, port) for exception in self.exceptions):
            return None
        return self.by_scheme.get(scheme) or self.by_scheme.get("all")


def read_proxies(environ: Mapping[str, str], *, socks: bool = False) -> Proxies:
    """Return what *environ* says of proxies; *socks*: whether a SOCKS proxy can be used."""
    by_scheme: dict[str, str] = {}
    exceptions: list[_Exception] = []
    unusable: list[Unusable] = []
    for scheme in ("http", "https", "all"):
        variable, value = _variable(environ, f"{scheme}_proxy")
        if not value:
            continue
        url = value if "://" in value else f"http://{value}"
        problem = _proxy_problem(url, socks=socks)
        if problem:
            unusable.append(Unusable(variable, _without_credentials(value), problem))
        else:
            by_scheme[scheme] = url
    variable, value = _variable(environ, "no_proxy")
    for text in re.split(r"[,\s]+", value):
        exception = _exception(text) if text else None
        if isinstance(exception, str):
            unusable.append(Unusable(variable, _without_credentials(text), exception))
        elif exception is not None:
            exceptions.append(exception)
    return Proxies(by_scheme, tuple(exceptions), tuple(unusable))


def is_loopback(host: str) -> bool:
    """Whether *host*, without brackets, is this host."""
    address = _address(host)
    if address is None:
        return host.lower().rstrip(".") == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return the variable that counts for *name*, and its value; empty where there is none."""
    for variable in (name, name.upper()):
        if variable in environ and not (variable == "HTTP_PROXY" and "REQUEST_METHOD" in environ):
            return variable, environ[variable].strip()
    return name, ""


def _proxy_problem(url: str, *, socks: bool) -> str:
    """Return why *url* can't be a proxy's, empty if it can."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "not a URL"
    if parts.scheme in _SOCKS and not socks:
        return "a SOCKS proxy needs the Python package socksio"
    if parts.scheme not in ("http", "https", *_SOCKS):
        return "the scheme must be http, https, socks5 or socks5h"
    if not host or not (_HOST.fullmatch(host) or _address(host) is not None):
        return "no valid host"
    if port == 0:
        return "no valid port"
    return "" if url.isascii() and url.isprintable() and " " not in url else "it holds characters that no URL has"


def _exception(text: str) -> "_Exception | str":
    """Return what an entry of NO_PROXY means, or why it means nothing."""
    if text == "*":
        return _Exception()
    scheme, separator, rest = text.rpartition("://")
    if separator and scheme not in ("http", "https", "all"):
        return "the scheme must be http, https or all"
    if "/" in rest or _address(rest) is not None:
        try:
            network = ip_network(re.sub(r"^\[(.*)\]", r"\1", rest), strict=False)
        except ValueError:
            return "not an address or a network such as 10.0.0.0/8 or fd00::/8"
        return _Exception(network=network, scheme=_scheme(scheme))
    host, port, problem = _host_and_port(rest)
    if problem:
        return problem
    address = _address(host)
    if address is not None:
        return _Exception(network=ip_network(address), port=port, scheme=_scheme(scheme))
    subdomains_only = host.startswith((".", "*."))
    host = host.removeprefix("*").removeprefix(".").rstrip(".").lower()
    if not _HOST.fullmatch(host) or "*" in host:
        return "not a host name, an address or a network"
    return _Exception(host=host, subdomains_only=subdomains_only, port=port, scheme=_scheme(scheme))


def _scheme(scheme: str) -> str | None:
    return None if scheme in ("", "all") else scheme


def _host_and_port(text: str) -> tuple[str, int | None, str]:
    """Split ``host``, ``host:port``, ``[address]:port``; the third is what is wrong."""
    host, separator, port = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        host, separator, port = text, "", ""
    elif not separator:
        host = text
    if separator and not (port.isascii() and port.isdigit() and 0 < len(port) < 6 and 1 <= int(port) <= 65535):
        return "", None, "not a host name, an address or a network"
    if host.startswith("[") != host.endswith("]"):
        return "", None, "a bracket is missing"
    return host.strip("[]"), int(port) if separator else None, ""


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _without_credentials(url: str) -> str:
    """Return *url* without user and password, which end at the last "@"."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    _, at, host = rest.rpartition("@")
    return f"{scheme}{separator}{'[redacted]@' if at else ''}{host}"
