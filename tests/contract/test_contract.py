"""Server, client and command line hold to one contract: each row of the table is asked three times."""

import asyncio
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from aura_agent.api import (
    ApiError,
    AuraClient,
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    RateLimited,
    Unauthorized,
)
from aura_agent.api.models import read
from aura_agent.devserver.rates import RateLimits
from aura_agent.devserver.threaded import ThreadedDevServer
from aura_agent.secret import Secret
from tests.cli.running import Ran, aura_agent
from tests.contract.table import (
    ENDPOINTS,
    LIMITED,
    NO_TOKEN,
    OUTCOMES,
    ROLE,
    SCOPE,
    SUCCESS,
    TEAM,
    Endpoint,
    Ends,
    Harmless,
    Prevented,
    Row,
)
from tests.contract.world import Given, World

CODES: dict[int, tuple[str, type[ApiError]]] = {
    400: ("bad_request", BadRequest),
    401: ("unauthorized", Unauthorized),
    403: ("forbidden", Forbidden),
    404: ("not_found", NotFound),
    409: ("conflict", Conflict),
    429: ("rate_limited", RateLimited),
}
# What 401, 403 and 429 must name as the likely cause.
CAUSES = {
    NO_TOKEN: "token: ",
    SCOPE: "scope: ",
    ROLE: "role: ",
    TEAM: "team: ",
    LIMITED: "60 requests a minute",
}
# These differ between two objects that were made alike; a new monitor is probed at once.
OWN = ("id", "monitor_id", "created_at", "updated_at", "started_at", "resolved_at", "status")


def rows(kind: type[Row], *, without: str = "", only: str = "") -> list[Any]:
    """Return (endpoint, outcome, row) of each row of this *kind*."""
    return [
        pytest.param(endpoint, outcome, row, id=f"{endpoint}: {outcome}")
        for endpoint in ENDPOINTS
        for outcome, row in endpoint.rows.items()
        if isinstance(row, kind) and outcome != without and only in ("", outcome)
    ]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with ThreadedDevServer() as server:
        yield World(server)


@pytest.fixture(scope="module")
def busy_world() -> Iterator[World]:
    """One in which a token has one request an hour."""
    with ThreadedDevServer(rate_limit=RateLimits(per_hour=1)) as server:
        yield World(server)


class Askers:
    """Who makes a call: somebody with curl, somebody with the client, somebody with the command."""

    def __init__(self, base_url: str, home: Path) -> None:
        self._base_url, self._home = base_url, home
        self._stores = itertools.count()

    def plain(self, endpoint: Endpoint, given: Given, query: Mapping[str, str] | None = None) -> httpx.Response:
        return httpx.request(
            endpoint.method,
            self._base_url + endpoint.path.format(id=given.id),
            params=query or {name: value.format(id=given.id) for name, value in endpoint.query.items()},
            json=dict(given.fields) if endpoint.method in ("POST", "PATCH") else None,
            headers={"Authorization": f"Bearer {given.token}"},
            trust_env=False,
            timeout=20,
        )

    def client(self, endpoint: Endpoint, given: Given) -> Any:
        async def asking() -> object:
            async with AuraClient(self._base_url, Secret(given.token)) as aura:
                return await endpoint.ask(aura, given)

        return asyncio.run(asking())

    def command(self, endpoint: Endpoint, given: Given) -> Ran:
        ran = aura_agent(*self.words(endpoint, given), environment=self.environment(given))
        assert given.token not in ran.stdout + ran.stderr
        return ran

    def process(self, endpoint: Endpoint, given: Given) -> Ran:
        """Return how the command ends as a process of its own."""
        main = "from aura_agent.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", main, *self.words(endpoint, given)],
            env=self.environment(given),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def words(self, endpoint: Endpoint, given: Given) -> list[str]:
        return ["api", *endpoint.command(given), "--json"]

    def environment(self, given: Given) -> dict[str, str]:
        """Return where a host has things that has never asked before."""
        config = self._home / "config.toml"
        config.write_text("")
        return {
            "AURA_API_URL": self._base_url,
            "AURA_CONFIG": str(config),
            "AURA_STATE_DIR": str(self._home / f"state-{next(self._stores)}"),
            "AURA_TOKEN": given.token,
        }


@pytest.fixture
def askers(world: World, tmp_path: Path) -> Askers:
    return Askers(world.server.base_url, tmp_path)


@pytest.mark.parametrize(("endpoint", "outcome", "row"), rows(Ends, without=SUCCESS))
def test_a_refusal_is_the_same_for_all(
    request: pytest.FixtureRequest, tmp_path: Path, endpoint: Endpoint, outcome: str, row: Ends
) -> None:
    """Status, code and a request id from the server; class and request id in the client; one line of the command."""
    where: World = request.getfixturevalue("busy_world" if outcome == LIMITED else "world")
    askers = Askers(where.server.base_url, tmp_path)
    given = row.given(endpoint, where)
    status = int(outcome[:3])
    code, kind = CODES[status]

    answer = askers.plain(endpoint, given)
    with pytest.raises(ApiError) as caught:
        askers.client(endpoint, given)
    ran = askers.command(endpoint, given)

    envelope = answer.json()["error"]
    assert set(envelope) == {"code", "message", "request_id"}
    assert (answer.status_code, envelope["code"]) == (status, code)
    error = caught.value
    assert (type(error), error.status, error.code) == (kind, status, code)
    assert re.fullmatch(r"req_\w+", envelope["request_id"])
    assert re.fullmatch(r"req_\w+", error.request_id)
    assert error.message == envelope["message"]
    assert (ran.status, ran.stdout) == (1, "")
    [line] = ran.stderr.splitlines()
    for text in (line, f"aura-agent: {error}"):
        assert text.startswith(f"aura-agent: the Aura API refused {endpoint.method} /")
        assert f"({status}): {envelope['message']}" in text
        assert CAUSES.get(outcome, "") in text
        assert re.search(r"\[request id req_\w+\]$", text)
        assert given.token not in text
    if outcome == LIMITED:
        assert error.retry_after_s is not None
        assert 0 < error.retry_after_s <= 3600
        assert "try again in" in line


@pytest.mark.parametrize(("endpoint", "outcome", "row"), [*rows(Harmless), *rows(Ends, only=SUCCESS)])
def test_a_success_is_the_same_for_all(
    world: World, askers: Askers, endpoint: Endpoint, outcome: str, row: Ends | Harmless
) -> None:
    """What the client reads and the command prints is what the server said, field by field."""
    reads = endpoint.method == "GET"
    given = row.given(endpoint, world)

    answer = askers.plain(endpoint, given)
    result = askers.client(endpoint, given if reads else (given := row.given(endpoint, world)))
    ran = askers.command(endpoint, given if reads else (given := row.given(endpoint, world)))

    assert answer.is_success, answer.text
    assert (ran.status, ran.stderr) == (0, "")
    printed = json.loads(ran.stdout)
    if endpoint.method == "DELETE":
        assert (answer.status_code, answer.content, result) == (204, b"", None)
        assert printed == {"id": given.id, "deleted": True}
    elif isinstance(result, Secret):
        assert (result.reveal(), printed) == (answer.json()["url"], answer.json())
    else:
        assert endpoint.model is not None
        said = answer.json()["data"] if isinstance(result, list) else [answer.json()]
        results, printed = (result, printed) if isinstance(result, list) else ([result], [printed])
        assert len(said) == 1
        assert all(set(fields) <= set(shown) for fields, shown in zip(said, printed, strict=True))
        own = () if reads else OWN
        expected = [comparable(read(endpoint.model, fields), own) for fields in said]
        assert [comparable(thing, own) for thing in results] == expected
        assert [comparable(read(endpoint.model, fields), own) for fields in printed] == expected


def comparable(thing: msgspec.Struct, own: tuple[str, ...]) -> dict[str, object]:
    """Return the fields but for those that are *own* to an object; instants to the millisecond, as --json has them."""
    return {
        name: value.replace(microsecond=value.microsecond // 1000 * 1000) if isinstance(value, datetime) else value
        for name, value in msgspec.structs.asdict(thing).items()
        if name not in own
    }


@pytest.mark.parametrize(("endpoint", "outcome", "row"), rows(Prevented))
def test_what_only_a_plain_request_can_say_is_refused(
    world: World, askers: Askers, endpoint: Endpoint, outcome: str, row: Prevented
) -> None:
    """The client and the command have no way to send it; the server refuses it all the same."""
    ends = endpoint.rows[SUCCESS]
    assert isinstance(ends, Ends)
    given = ends.given(endpoint, world)

    answer = askers.plain(endpoint, given, row.query)

    assert (answer.status_code, answer.json()["error"]["code"]) == (int(outcome), CODES[int(outcome)][0])


@pytest.mark.parametrize("outcome", [SUCCESS, *CAUSES])
def test_a_process_ends_as_the_call_does(request: pytest.FixtureRequest, tmp_path: Path, outcome: str) -> None:
    """What is asked here without a process is what a user's shell gets."""
    where: World = request.getfixturevalue("busy_world" if outcome == LIMITED else "world")
    askers = Askers(where.server.base_url, tmp_path)
    [endpoint] = [each for each in ENDPOINTS if str(each) == "PATCH /heartbeats/{id}"]
    row = endpoint.rows[outcome]
    assert isinstance(row, Ends)
    given = row.given(endpoint, where)

    ran, called = askers.process(endpoint, given), askers.command(endpoint, given)

    assert ran.status == called.status
    assert varying(ran.stdout) == varying(called.stdout)
    assert varying(ran.stderr) == varying(called.stderr)
    assert given.token not in ran.stdout + ran.stderr


def varying(text: str) -> str:
    """Return *text* without what differs from call to call."""
    return re.sub(r"req_\w+|try again in \w+|\"updated_at\".*", "…", text)


def test_the_table_is_whole() -> None:
    """Every endpoint has a row for every way to end, be it only the reason why it can't come to that."""
    assert {str(endpoint): set(OUTCOMES) ^ set(endpoint.rows) for endpoint in ENDPOINTS} == {
        str(endpoint): set() for endpoint in ENDPOINTS
    }
    reasons = [row.reason for each in ENDPOINTS for row in each.rows.values() if not isinstance(row, Ends)]
    assert all(reasons)


def test_the_table_has_every_route_of_the_published_document(world: World) -> None:
    """A route that the server gets and this table doesn't is noticed, and the other way round."""
    document = httpx.get(f"{world.server.base_url}/openapi.json", trust_env=False).json()
    published = {
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method in item
        if method in ("get", "post", "put", "patch", "delete")
    }

    assert {str(endpoint) for endpoint in ENDPOINTS} == published
