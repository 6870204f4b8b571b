"""Any tree of TOML values as TOML, all in inline tables: enough to generate configs."""

import math


def dumps(tree: dict[str, object]) -> str:
    """Return a document of which each top-level key has its own line."""
    return "".join(f"{_text(key)} = {_value(value)}\n" for key, value in tree.items())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    assert isinstance(value, dict)
    return "{" + ", ".join(f"{_text(key)} = {_value(item)}" for key, item in value.items()) + "}"


def _text(text: str) -> str:
    return '"' + "".join(char if char.isalnum() or char in " /*@" else f"\\U{ord(char):08x}" for char in text) + '"'
