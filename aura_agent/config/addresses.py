"""Where to listen and whom to talk to: reading ``HOST:PORT`` and base URLs, and telling loopback from the rest.

Pure: no name is looked up. Texts of errors never hold the URL, which may have a password in it.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of ``"127.0.0.1:8787"`` or ``"[::1]:8787"``. Raises ValueError with what to write."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed) or not (port.isascii() and port.isdigit()):
        raise ValueError('not an address; write HOST:PORT, such as "127.0.0.1:8787" or "[::1]:8787"')
    if int(port) > 65535:
        raise ValueError("not a port; write a number from 0 to 65535")
    host = host[1:-1] if bracketed else host
    if host != "localhost":
        try:
            ip_address(host)
        except ValueError as exc:
            raise ValueError('not an address; write an IP address or "localhost" before the colon') from exc
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether *host*, an address or name, can only be this host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def judge_webhook(url: str, *, allow_insecure: bool) -> str:
    """Return what is wrong with *url* as a webhook's, empty if nothing is; *url* itself may be a secret."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or not url.isprintable() or not url.isascii() or " " in url:
        return "not a URL; write one that begins with https://, or file:PATH"
    if parts.scheme == "http" and not allow_insecure and not is_loopback(host):
        return "http:// would show it to the network; write https://, or set allow_insecure = true in [api]"
    return ""


def clean_base_url(text: str, *, allow_insecure: bool) -> str:
    """Return the base URL without a slash at its end. Raises ValueError with what to write instead."""
    text = text.strip()
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError as exc:
        raise ValueError("not a URL; write one that begins with https://") from exc
    if url.scheme not in ("http", "https") or not host or not text.isprintable() or " " in text:
        raise ValueError("not a URL; write one that begins with https://")
    if url.username is not None or url.password is not None:
        raise ValueError("a URL with a user or password in it; give the token by token_file instead")
    if url.query or url.fragment:
        raise ValueError("a base URL has no query and no fragment; leave out what follows the path")
    if url.scheme == "http" and not allow_insecure and not is_loopback(host):
        raise ValueError("http:// would show the token to the network; write https://, or set allow_insecure = true")
    return text.rstrip("/")
