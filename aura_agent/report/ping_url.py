"""What a ping URL must look like, whoever hands it in. Pure; `aura-run` loads it, so it imports nothing.

Who sends judges further (`aura_agent.api.transport.judge_url`): TLS, and host names in other scripts.
"""

_HOST_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_MAX_HOST_CHARACTERS = 253  # RFC 1035, section 2.3.4
_MAX_LABEL_CHARACTERS = 63
_MAX_PORT = 65535
_PORTS = {"http": ":80", "https": ":443"}


def host_of(url: str) -> str:
    """Return host and port of *url*, in lower case and without user information.

    Raises ValueError: the URL can't be pinged. Its text says why and holds nothing of the URL.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise ValueError("not an http:// or https:// URL")
    if not url.isprintable() or " " in url:
        raise ValueError("the URL holds a space or a control character")
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    place = rest[:end].rpartition("@")[2].lower()
    if place.startswith("["):
        address, bracket, port = place.partition("]")
        host = address + bracket
        _check_address(address[1:], bracket)
    else:
        host, colon, port = place.partition(":")
        port = colon + port
        _check_name(host)
    if port in ("", ":"):
        return host
    digits = port[1:]
    if not port.startswith(":") or not (digits.isascii() and digits.isdigit() and len(digits) <= 9):
        raise ValueError("the port is not a number")
    if not 1 <= int(digits) <= _MAX_PORT:
        raise ValueError(f"the port is not between 1 and {_MAX_PORT}")
    return host + port


def canonical(url: str) -> str:
    """Return *url* in the one spelling that stands for all that mean the same request.

    Scheme and host in lower case, without the scheme's own port and without a fragment. Raises ValueError as host_of.
    """
    host = host_of(url)
    scheme, _, rest = url.partition("#")[0].partition("://")
    scheme = scheme.lower()
    end = min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))
    user, at, _ = rest[:end].rpartition("@")
    path = rest[end:]
    return f"{scheme}://{user}{at}{host.removesuffix(_PORTS[scheme])}{'' if path.startswith('/') else '/'}{path}"


def _check_address(address: str, bracket: str) -> None:
    from _socket import AF_INET6, inet_pton

    try:
        inet_pton(AF_INET6, address if bracket else "")
    except (OSError, ValueError):
        raise ValueError("the host is not an IPv6 address in brackets") from None


def _check_name(host: str) -> None:
    name = host.removesuffix(".")
    if not name:
        raise ValueError("the URL has no host: is a variable in it empty?")
    labels = name.split(".")
    if len(name) > _MAX_HOST_CHARACTERS or any(len(label) > _MAX_LABEL_CHARACTERS for label in labels):
        raise ValueError("the host name, or a part of it between dots, is too long")
    if not all(labels):
        raise ValueError("a part of the host name between dots is empty")
    if not name.isascii():
        return  # who sends knows the rules of other scripts
    if not _HOST_CHARACTERS.issuperset(name):
        raise ValueError("the host name holds a character that no host name has")
    if all(label.isdigit() for label in labels):
        _check_numbers(labels)
    for label in labels:
        if label.startswith("xn--"):
            _check_punycode(label[4:])


def _check_numbers(labels: list[str]) -> None:
    if len(labels) == 4 and any(int(label) > 255 or label != str(int(label)) for label in labels):
        raise ValueError("the host is not an IPv4 address")


def _check_punycode(encoded: str) -> None:
    try:
        decoded = encoded.encode("ascii").decode("punycode")
    except UnicodeError:
        decoded = ""
    if not decoded:
        raise ValueError("a part of the host name begins with xn-- and encodes nothing")
