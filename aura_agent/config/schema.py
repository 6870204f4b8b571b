"""The config as a JSON Schema, made from the models: for editors, and for those who write configs by program."""

from typing import Any

import msgspec

from aura_agent.config.models import Config

_DURATION = {
    "type": "string",
    "pattern": r"^\s*(0|(\d+(\.\d*)?|\.\d+)(ms|s|m|h|d|w)((\d+(\.\d*)?|\.\d+)(ms|s|m|h|d|w))*)\s*$",
    "examples": ["90s", "15m", "2h30m", "1d"],
}
_SIZE = {
    "type": "string",
    "pattern": r"^\s*(\d+(\.\d*)?|\.\d+)(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)\s*$",
    "examples": ["512B", "10kB", "1MiB"],
}


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of a config file. It knows shapes; rules between keys are check's."""
    schema = msgspec.json.schema(Config)
    plain = _plain(schema)
    assert isinstance(plain, dict)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "aura-agent config", **plain}


def write_duration(seconds: float) -> str:
    """Return *seconds* as they are written in a config; exact to the millisecond."""
    rest = round(seconds * 1000)
    text = ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def write_size(size_bytes: int) -> str:
    """Return *size_bytes* as they are written in a config."""
    for unit, unit_bytes in (("GB", 10**9), ("MB", 10**6), ("kB", 1000)):
        if size_bytes and size_bytes % unit_bytes == 0:
            return f"{size_bytes // unit_bytes}{unit}"
    return f"{size_bytes}B"


def _plain(node: Any) -> Any:
    """Return *node* in TOML's terms: there is no null, and durations and sizes are text with a unit."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    choices = [choice for choice in node.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        node = {**{key: value for key, value in node.items() if key != "anyOf"}, **choices[0]}
    elif choices:
        node = {**node, "anyOf": choices}
    default = node.get("default")
    written = node.get("format")
    if written in ("duration", "size"):
        node = {key: value for key, value in node.items() if key not in ("format", "type")}
        node |= _DURATION if written == "duration" else _SIZE
        if default is not None:
            node["default"] = write_duration(default) if written == "duration" else write_size(default)
    # The defaults of a whole table are those of its keys.
    if default is None or isinstance(default, dict):
        node = {key: value for key, value in node.items() if key != "default"}
    return {key: _plain(value) for key, value in node.items()}
