"""One record as one line: a verb, then ``key=value`` words with values percent-encoded.

The same lines travel over the daemon's socket and lie in spool files. A reader ignores keys that it doesn't know, so
an old wrapper can meet a new daemon; ``v`` says which version the writer speaks. Values are text in which bytes that
aren't UTF-8 survive as surrogate escapes (PEP 383), so argument lists and job output pass unchanged.

Requests:   ``start`` (a run has begun; the open connection is its record), ``run`` (its outcome)
Answers:    ``job`` (what the config knows of it), ``ok`` (durable), ``refused``, ``busy``
"""

VERSION = "1"
MAX_LINE_BYTES = 1 << 20

_SAFE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/:,+@"


def encode(verb: str, fields: dict[str, str]) -> bytes:
    """Return the line for *fields*, newline included; keys with an empty value are left out."""
    words = [f"{key}={quote(value)}" for key, value in fields.items() if value]
    return " ".join([verb, f"v={VERSION}", *words]).encode("ascii") + b"\n"


def decode(line: bytes) -> tuple[str, dict[str, str]]:
    """Return verb and fields of *line*. Raises ValueError: it isn't such a line."""
    try:
        verb, *words = line.decode("ascii").split()
    except ValueError:
        raise ValueError("not a record") from None
    fields = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError("a word without '='")
        fields[key] = unquote(value)
    return verb, fields


def quote(text: str) -> str:
    """Return *text* with every byte outside a small safe set as ``%XX``."""
    raw = text.encode("utf-8", "surrogateescape")
    if not raw.translate(None, _SAFE):
        return text
    return "".join([chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in raw])


def unquote(text: str) -> str:
    """Undo ``quote``. Raises ValueError: a broken escape."""
    if "%" not in text:
        return text
    first, *parts = text.split("%")
    raw = bytearray(first.encode("ascii"))
    for part in parts:
        if len(part) < 2:
            raise ValueError("a broken escape")
        raw.append(int(part[:2], 16))
        raw += part[2:].encode("ascii")
    return raw.decode("utf-8", "surrogateescape")
