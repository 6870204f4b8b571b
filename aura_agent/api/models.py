"""How the API's objects are read into structs, and what is written is sent. Pure.

A model is a msgspec struct whose fields' types say how they are read: fields that it doesn't know are ignored, one
that is missing or can't be read is None, and only the ``id`` must be there. What is written is a struct too, in which
UNSET fields aren't sent.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, Protocol, TypeVar, get_args

import msgspec

from aura_agent.api import assumptions
from aura_agent.api.errors import ApiGarbled
from aura_agent.secret import Secret

_READERS: dict[type, Callable[[object], Any]] = {
    str: assumptions.text_of,
    int: assumptions.count_of,
    float: assumptions.length_of,
    datetime: assumptions.instant_of,
    Secret: assumptions.url_of,
}


class Model(Protocol):
    """A struct with an id; its other fields are ``TYPE | None`` with a TYPE of those above."""

    @property
    def id(self) -> str: ...


M = TypeVar("M", bound=Model)


def read(model: type[M], fields: Mapping[str, Any]) -> M:
    """Read one object of the API. Raises ApiGarbled if it has no id."""
    if not assumptions.text_of(fields.get("id")):
        raise ApiGarbled(f"the Aura API answered with a {model.__name__.lower()} that has no id")
    return model(**{name: reader(fields.get(wire_name)) for name, wire_name, reader in _plan(model)})


def written(fields: msgspec.Struct, extra: Mapping[str, object] | None) -> dict[str, object]:
    """Return *fields* under the API's names, without what is UNSET; *extra* goes along as it is."""
    sent: dict[str, object] = msgspec.to_builtins(fields)
    for name, value in sent.items():
        if isinstance(value, float) and value.is_integer():
            sent[name] = int(value)  # the reference's examples write whole seconds without a point
    return {**(extra or {}), **sent}


@cache
def _plan(model: type[Any]) -> tuple[tuple[str, str, Callable[[object], Any]], ...]:
    """Return (our name, the wire's name, reader) of each field."""
    return tuple(
        (field.name, field.encode_name, _READERS[get_args(field.type)[0] if get_args(field.type) else field.type])
        for field in msgspec.structs.fields(model)
    )
