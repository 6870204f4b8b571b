"""The API's own description: an OpenAPI 3.1 document, made from the declarations that serve it. Pure.

Source of the form: the OpenAPI Specification 3.1.0. JSON Schemas of the bodies are msgspec's, from the structs that
decode and encode them.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

import aura_agent
from aura_agent.devserver.refusal import CODES, Envelope
from aura_agent.devserver.routes.operation import Operation, Resource

_REF = "#/components/schemas/{name}"
_COUNT = {"schema": {"type": "integer", "minimum": 0}}
_BUDGET = {
    "X-RateLimit-Remaining-Minute": {"description": "Requests left in this minute, if they are limited.", **_COUNT},
    "X-RateLimit-Remaining-Hour": {"description": "Requests left in this hour, if they are limited.", **_COUNT},
}
_RETRY_AFTER = {"description": "Seconds until the window is over.", "schema": {"type": "integer", "minimum": 1}}
# What HTTP itself, the token, the limits and the server may answer to any request.
_ALWAYS = (400, 401, 403, 429, 500)


def document(resources: Iterable[Resource], base_path: str) -> dict[str, Any]:
    """Return the document that describes *resources*, served under *base_path*."""
    served = list(resources)
    shapes = _shapes(served)
    schemas, components = msgspec.json.schema_components(shapes, ref_template=_REF)
    schema_of = dict(zip(shapes, schemas, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Aura REST API, as the embedded Aura of aura-agent serves it",
            "version": aura_agent.__version__,
        },
        "servers": [{"url": base_path}],
        "security": [{"bearer": []}],
        "paths": {resource.path: _path_item(resource, schema_of) for resource in served},
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": components,
            "responses": {CODES[status]: _refusal(status, schema_of[Envelope]) for status in _statuses(served)},
        },
    }


def _shapes(resources: Iterable[Resource]) -> list[Any]:
    """Return every type that is a body somewhere, each once."""
    return list(dict.fromkeys((Envelope, *_bodies(resources))))


def _bodies(resources: Iterable[Resource]) -> Iterator[Any]:
    for resource in resources:
        for operation in resource.operations.values():
            yield from (shape for shape in (operation.reply, operation.body) if shape is not None)


def _statuses(resources: Iterable[Resource]) -> list[int]:
    """Return every status that refuses somewhere. 405 isn't one: no method that is described is refused."""
    return sorted(
        {
            status
            for resource in resources
            for operation in resource.operations.values()
            for status in _refusals(resource.path, operation)
        }
    )


def _path_item(resource: Resource, schema_of: dict[Any, Any]) -> dict[str, Any]:
    item: dict[str, Any] = {
        method.lower(): _operation(method, resource.path, operation, schema_of)
        for method, operation in resource.operations.items()
    }
    names = re.findall(r"{(\w+)}", resource.path)
    if names:
        item["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    return item


def _operation(method: str, path: str, operation: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": _operation_id(method, path),
        "summary": operation.summary,
        "tags": [path.split("/")[1]],
        "responses": {
            str(operation.status): _success(operation, schema_of),
            **{
                str(status): {"$ref": f"#/components/responses/{CODES[status]}"}
                for status in _refusals(path, operation)
            },
        },
    }
    if operation.query:
        described["parameters"] = list(operation.query)
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {"application/json": {"schema": schema_of[operation.body]}},
        }
    return described


def _operation_id(method: str, path: str) -> str:
    """Return a name such as ``get_heartbeats_id_ping_url``."""
    return "_".join((method.lower(), *re.findall(r"\w+", path)))


def _refusals(path: str, operation: Operation) -> list[int]:
    """Return the statuses, besides its own, that the operation may answer."""
    missing = "{" in path or any(parameter.get("required") for parameter in operation.query)
    more = {404: missing, 409: operation.conflicts, 413: operation.body is not None}
    return sorted((*_ALWAYS, *(status for status, may_be in more.items() if may_be)))


def _success(operation: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": operation.summary, "headers": _BUDGET}
    if operation.reply is not None:
        answer["content"] = {"application/json": {"schema": schema_of[operation.reply]}}
    return answer


def _refusal(status: int, envelope: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": CODES[status],
        "content": {"application/json": {"schema": envelope}},
    }
    if status == 429:
        answer["headers"] = {"Retry-After": _RETRY_AFTER}
    return answer
