"""Durations and sizes as people write them: ``90s``, ``2h30m``, ``1d``; ``10kB``, ``1MiB``.

Imported by aura-run before the job starts: nothing but builtins, and no ``re``.
"""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {
    "B": 1,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}


def parse_duration_s(text: str) -> float:
    """Return the seconds that *text* says: ``"90s"``, ``"2h30m"``, ``"0.5s"``, ``"0s"``; a bare ``0`` too.

    Raises ValueError with a message for the user: anything else, a unit twice or out of order included.
    """
    text = text.strip()
    if text == "0":
        return 0.0
    total, last_unit_s = 0.0, float("inf")
    parts = _split(text)
    for number, unit in parts:
        unit_s = _SECONDS.get(unit)
        if unit_s is None or unit_s >= last_unit_s:
            parts = []
            break
        total += number * unit_s
        last_unit_s = unit_s
    if not parts:
        raise ValueError(f'{text!r} is not a duration; write a number with a unit, such as "90s", "15m", "2h30m", "1d"')
    return total


def parse_size_bytes(text: str) -> int:
    """Return the bytes that *text* says: ``"10kB"`` (1000s), ``"1MiB"`` (1024s), ``"512B"``.

    Raises ValueError with a message for the user.
    """
    parts = _split(text.strip())
    if len(parts) != 1 or parts[0][1] not in _BYTES:
        raise ValueError(f'{text!r} is not a size; write a number with a unit, such as "512B", "10kB", "1MiB"')
    number, unit = parts[0]
    return int(number * _BYTES[unit])


def format_duration(seconds: float) -> str:
    """Return *seconds* for people: ``"0.12s"``, ``"42s"``, ``"2h30m"``, ``"3d4h"``: two units at the most."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 10:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
    rest = round(seconds)
    parts: list[tuple[int, str]] = []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, int(_SECONDS[unit]))
        if count or parts:
            parts.append((count, unit))
        if len(parts) == 2:
            break
    return "".join(f"{count}{unit}" for count, unit in parts if count)


def format_size(count_bytes: int) -> str:
    """Return *count_bytes* for people: ``"512 B"``, ``"1.5 MB"``."""
    size, unit = float(count_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{count_bytes} B" if unit == "B" else f"{size:.1f} {unit}"


def _split(text: str) -> list[tuple[float, str]]:
    """Return ``[(number, unit), …]``, or an empty list if *text* isn't made of such pairs."""
    parts: list[tuple[float, str]] = []
    at = 0
    while at < len(text):
        start = at
        while at < len(text) and (text[at] in "0123456789."):
            at += 1
        digits = text[start:at]
        start = at
        while at < len(text) and text[at].isascii() and text[at].isalpha():
            at += 1
        unit = text[start:at]
        if not digits.strip(".") or digits.count(".") > 1 or not unit:
            return []
        parts.append((float(digits), unit))
    return parts
