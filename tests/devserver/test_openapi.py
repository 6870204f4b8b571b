"""The document that the embedded Aura publishes about its own API, and the API held against it."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings, strategies as st

from aura_agent.devserver.openapi import document
from aura_agent.devserver.paging import Page, next_cursor
from aura_agent.devserver.refusal import CODES
from aura_agent.devserver.routes import RESOURCES, api_routes
from aura_agent.devserver.service import API_PATH
from aura_agent.devserver.threaded import ThreadedDevServer

_DOCUMENT = document(RESOURCES, API_PATH)


class _Row(NamedTuple):
    id: str
    created_us: int


def _cursor(row: _Row) -> str:
    cursor = next_cursor(Page(1), [row, row])
    assert cursor is not None
    return cursor


# What a document can't say of an opaque parameter: which values are valid.
schemathesis.openapi.format("cursor", st.builds(_Row, st.text(max_size=40), st.integers(0, 2**50)).map(_cursor))


def _described() -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_dict(json.loads(json.dumps(_DOCUMENT)))  # it writes into what it gets


described, described_for_sequences = _described(), _described()
# A call whose body comes from an earlier answer counts as invalid still, if an invalid one was made for it at first.
described_for_sequences.config.generation.update(modes=[schemathesis.GenerationMode.POSITIVE])


@described.hook
def filter_query(_context: schemathesis.HookContext, query: dict[str, Any] | None) -> bool:
    """Leave out what wouldn't be sent: a parameter without a value isn't in the URL, so it can't be refused."""
    return all(_is_sent(value) for value in (query or {}).values())


def _is_sent(value: object) -> bool:
    return any(map(_is_sent, value)) if isinstance(value, (list, dict)) else value is not None


@pytest.fixture(scope="module")
def aura() -> Iterator[ThreadedDevServer]:
    # The monitors of the tests have URLs that nobody should be bothered at.
    with ThreadedDevServer(probe_monitors=False) as server:
        yield server


@described.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_operation_does_what_the_document_says(case: schemathesis.Case[Any], aura: ThreadedDevServer) -> None:
    """Whatever the document allows or forbids to send, the answer is one that it declares."""
    case.call_and_validate(base_url=aura.base_url, headers={"Authorization": f"Bearer {aura.token}"})


def test_operations_one_after_the_other_do_what_the_document_says() -> None:
    """What was created is there for the calls that follow, and what was deleted is gone."""
    answers: set[tuple[str, int | None]] = set()

    class Calls(described_for_sequences.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            # A new one for each sequence: what was left behind by others would lead to other calls.
            self.aura = ThreadedDevServer(probe_monitors=False)
            self.aura.start()

        def teardown(self) -> None:
            answers.update((request.method, request.status) for request in self.aura.requests())
            self.aura.stop()

        def get_call_kwargs(self, case: schemathesis.Case[Any]) -> dict[str, Any]:  # noqa: ARG002
            return {"base_url": self.aura.base_url, "headers": {"Authorization": f"Bearer {self.aura.token}"}}

    Calls.run(
        settings=settings(
            max_examples=20, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
        )
    )

    assert {("POST", 201), ("GET", 200)} <= answers, "nothing was created and read"


def test_it_is_published_without_a_token(aura: ThreadedDevServer) -> None:
    """At the API's base path, as it is tested here."""
    answer = httpx.get(aura.base_url + "/openapi.json", trust_env=False)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == _DOCUMENT
    assert answer.json()["openapi"] == "3.1.0"


def test_every_route_is_described_and_everything_described_is_a_route(aura: ThreadedDevServer) -> None:
    """Path by path and method by method; and each is one of the reference's."""
    routes = {
        (route.path, method)
        for route in api_routes(aura.service)
        for method in route.methods or ()
        if method != "HEAD"  # HTTP's own: every GET has it
    }
    paths = {
        (path, method.upper()) for path, item in _DOCUMENT["paths"].items() for method in item if method != "parameters"
    }

    assert paths == routes
    assert routes == {
        *((path, "GET") for path in ("/monitors", "/monitors/{id}", "/monitors/{id}/checks", "/checks")),
        *((path, "GET") for path in ("/heartbeats", "/heartbeats/{id}", "/heartbeats/{id}/ping-url")),
        *((path, "GET") for path in ("/incidents", "/incidents/{id}", "/integrations")),
        *((path, "POST") for path in ("/monitors", "/heartbeats", "/incidents/{id}/resolve")),
        *((path, method) for path in ("/monitors/{id}", "/heartbeats/{id}") for method in ("PATCH", "DELETE")),
    }


def test_every_refusal_is_declared_with_the_envelope() -> None:
    """Each operation names the statuses that it may answer, and each of those has the reference's envelope."""
    for path, item in _DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            responses = operation["responses"]
            refused = {int(status) for status in responses if not status.startswith("2")}
            assert {400, 401, 403, 429, 500} <= refused
            assert (404 in refused) == ("{id}" in path or path == "/checks")
            assert (413 in refused) == ("requestBody" in operation)
            assert (409 in refused) == (method in ("post", "patch"))
            for status in refused:
                assert responses[str(status)] == {"$ref": f"#/components/responses/{CODES[status]}"}
    for answer in _DOCUMENT["components"]["responses"].values():
        assert answer["content"] == {"application/json": {"schema": {"$ref": "#/components/schemas/Envelope"}}}


def test_no_reference_in_it_leads_nowhere() -> None:
    """Everything that it refers to is in it, and nothing is in it that nobody refers to."""
    refers = set(re.findall(r'"\$ref": "(#/[^"]+)"', json.dumps(_DOCUMENT)))
    components = {
        f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in _DOCUMENT["components"][kind]
    }

    assert refers == components
