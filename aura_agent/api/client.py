"""The async client of Aura's REST API: carries requests of ``wire`` over httpx and answers back.

Each call has explicit time-outs and one deadline over all; bodies are bounded; redirects are never followed, since
they would take the token elsewhere. Nothing is tried again but what a 429 refused, where a caller asks for that: what
was written may have been done although no answer came. A method per operation stands here; what it asks and how the
answer reads stands in the resource's own module.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import httpx
from msgspec import UNSET, UnsetType

from aura_agent.api import assumptions, heartbeats, incidents, integrations, monitors
from aura_agent.api.errors import (
    ApiError,
    ApiGarbled,
    ApiMisconfigured,
    ApiUnreachable,
    BudgetSpent,
    Forbidden,
    NotFound,
    RateLimited,
)
from aura_agent.api.heartbeats import Heartbeat, HeartbeatFields, ping_url_request, read_ping_url
from aura_agent.api.incidents import Incident, resolve_request
from aura_agent.api.integrations import Integration
from aura_agent.api.ledger import REQUEST_NS, Purpose
from aura_agent.api.limiter import Limiter, held_s
from aura_agent.api.models import M, read, written
from aura_agent.api.monitors import Check, Monitor, MonitorFields
from aura_agent.api.retry_after import latest_after_retry_after_s
from aura_agent.api.transport import USER_AGENT, build_client, judge_url, timeouts, trouble_of
from aura_agent.api.trouble import BEFORE_SENDING, Trouble, describe
from aura_agent.api.wire import (
    Budget,
    Reply,
    Request,
    below,
    checked_id,
    create_request,
    delete_request,
    get_request,
    list_request,
    next_page,
    parse_budget,
    parse_error,
    parse_object,
    parse_page,
    update_request,
)
from aura_agent.clock import SystemClock
from aura_agent.secret import Secret

MAX_BODY_BYTES = 2 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
# A listing without end, or of giants, is a fault of the server: it must not cost us our memory.
MAX_PAGES = 500
MAX_OBJECTS = 50_000
MAX_OBJECTS_PER_PAGE = 1_000  # ten times what we ask for
MAX_LISTING_BYTES = 64 * 1024 * 1024
_QUICK_BYTES = 64 * 1024  # more than this is read in a thread: the event loop has jobs to start
MAX_REQUEST_S = REQUEST_NS / 1e9  # the budget counts on it
_CONNECTIONS = 4


class AuraClient:
    """A client for one organization, which the *token* stands for.

    Used as an async context manager. *http* stays open at the end if it was given. *total_timeout_s* bounds each
    request from connecting to the last byte, 30 s at the most. Every method raises ApiError.

    Each request waits for its turn in the *limiter*'s budget, as urgent as its *purpose*; if that won't come within
    *patience_s*, it raises BudgetSpent and sends nothing. Without a limiter, this client alone keeps to the limits.
    A request that is refused with 429 is sent again after its Retry-After, as long as all its waits together take
    *refusal_wait_s* at the most; 0: never.
    """

    def __init__(
        self,
        base_url: str,
        token: Secret,
        *,
        http: httpx.AsyncClient | None = None,
        total_timeout_s: float = MAX_REQUEST_S,
        allow_insecure: bool = False,
        limiter: Limiter | None = None,
        purpose: Purpose = Purpose.LISTING,
        patience_s: float = math.inf,
        refusal_wait_s: float = 0.0,
    ) -> None:
        """Raise ApiMisconfigured if the base URL or the token can't be used."""
        self._base = _checked_base(base_url, allow_insecure=allow_insecure)
        self._token = _checked_token(token)
        self._http = http
        self._owns_http = http is None
        self._total_timeout_s = min(total_timeout_s, MAX_REQUEST_S)
        self._limiter = limiter or Limiter(token, base_url, SystemClock(), random.Random())  # spreads, protects nothing
        self._purpose, self._patience_s = purpose, patience_s
        self._refusal_wait_s = refusal_wait_s
        self.budget = Budget(None, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, unless they belong to a client that was given."""
        if self._owns_http and self._http is not None:
            http, self._http = self._http, None
            await http.aclose()

    async def list_monitors(self, *, limit: int = 100) -> AsyncIterator[Monitor]:
        """Yield every monitor of the organization, *limit* a page; one request per page, each with its deadline."""
        async for fields in self._walk(list_request(monitors.RESOURCE, limit=limit)):
            yield read(Monitor, fields)

    async def get_monitor(self, monitor_id: str) -> Monitor:
        """Return a monitor. Raises NotFound: the organization has none with this id."""
        return await self._object(Monitor, get_request(monitors.RESOURCE, monitor_id))

    async def create_monitor(
        self,
        *,
        name: str,
        url: str,
        check_interval_s: float | UnsetType = UNSET,
        team_id: str | UnsetType | None = UNSET,
        extra: Mapping[str, object] | None = None,
    ) -> Monitor:
        """Create a monitor and return it as it is now. *extra*: fields that this client doesn't know.

        Raises BadRequest, Forbidden, or Conflict: the plan's limit, or no such team.
        """
        fields = MonitorFields(name=name, url=url, check_interval_s=check_interval_s, team_id=team_id)
        return await self._object(Monitor, create_request(monitors.RESOURCE, written(fields, extra)))

    async def update_monitor(
        self,
        monitor_id: str,
        *,
        name: str | UnsetType = UNSET,
        url: str | UnsetType = UNSET,
        check_interval_s: float | UnsetType = UNSET,
        team_id: str | UnsetType | None = UNSET,
        extra: Mapping[str, object] | None = None,
    ) -> Monitor:
        """Change what is given, leave the rest, and return the monitor as it is now; *team_id* None: no team."""
        fields = MonitorFields(name=name, url=url, check_interval_s=check_interval_s, team_id=team_id)
        return await self._object(Monitor, update_request(monitors.RESOURCE, monitor_id, written(fields, extra)))

    async def delete_monitor(self, monitor_id: str) -> None:
        """Delete a monitor. Raises NotFound, also the second time; Forbidden: that takes Owner or Admin."""
        await self._ask(delete_request(monitors.RESOURCE, monitor_id))

    async def list_monitor_checks(self, monitor_id: str, *, limit: int = 100) -> AsyncIterator[Check]:
        """Yield a monitor's checks: ``GET /monitors/{id}/checks``."""
        path = below(monitors.RESOURCE, monitor_id, monitors.CHECKS)
        async for fields in self._walk(list_request(path, limit=limit)):
            yield read(Check, fields)

    async def list_checks(self, monitor_id: str, *, limit: int = 100) -> AsyncIterator[Check]:
        """Yield a monitor's checks: ``GET /checks?monitor_id=…``."""
        first = list_request(monitors.CHECKS, limit=limit, monitor_id=checked_id(monitor_id))
        async for fields in self._walk(first):
            yield read(Check, fields)

    async def list_heartbeats(self, *, limit: int = 100) -> AsyncIterator[Heartbeat]:
        """Yield every heartbeat of the organization, *limit* a page; one request per page, each with its deadline."""
        async for fields in self._walk(list_request(heartbeats.RESOURCE, limit=limit)):
            yield read(Heartbeat, fields)

    async def get_heartbeat(self, heartbeat_id: str) -> Heartbeat:
        """Return a heartbeat. Raises NotFound: the organization has none with this id."""
        return await self._object(Heartbeat, get_request(heartbeats.RESOURCE, heartbeat_id))

    async def create_heartbeat(
        self,
        *,
        name: str,
        expected_interval_s: float | UnsetType = UNSET,
        grace_period_s: float | UnsetType = UNSET,
        team_id: str | UnsetType | None = UNSET,
        extra: Mapping[str, object] | None = None,
    ) -> Heartbeat:
        """Create a heartbeat and return it as it is now. *extra*: fields that this client doesn't know.

        Raises BadRequest, Forbidden, or Conflict: the plan's limit, or no such team.
        """
        fields = HeartbeatFields(
            name=name, expected_interval_s=expected_interval_s, grace_period_s=grace_period_s, team_id=team_id
        )
        return await self._object(Heartbeat, create_request(heartbeats.RESOURCE, written(fields, extra)))

    async def update_heartbeat(
        self,
        heartbeat_id: str,
        *,
        name: str | UnsetType = UNSET,
        expected_interval_s: float | UnsetType = UNSET,
        grace_period_s: float | UnsetType = UNSET,
        team_id: str | UnsetType | None = UNSET,
        extra: Mapping[str, object] | None = None,
    ) -> Heartbeat:
        """Change what is given, leave the rest, and return the heartbeat as it is now; *team_id* None: no team."""
        fields = HeartbeatFields(
            name=name, expected_interval_s=expected_interval_s, grace_period_s=grace_period_s, team_id=team_id
        )
        request = update_request(heartbeats.RESOURCE, heartbeat_id, written(fields, extra))
        return await self._object(Heartbeat, request)

    async def delete_heartbeat(self, heartbeat_id: str) -> None:
        """Delete a heartbeat. Raises NotFound, also the second time; Forbidden: that takes Owner or Admin."""
        await self._ask(delete_request(heartbeats.RESOURCE, heartbeat_id))

    async def ping_url(self, heartbeat_id: str) -> Secret:
        """Return the URL that pings this heartbeat: whoever has it can fake a success."""
        return read_ping_url(parse_object(await self._ask(ping_url_request(heartbeat_id))))

    async def may_write(self) -> bool | None:
        """Whether the token may change heartbeats, asked without changing one; None if that can't be told."""
        try:
            await self.update_heartbeat(assumptions.NOBODY)
        except Forbidden:
            return False
        except NotFound:
            return True
        except ApiError:
            pass
        return None

    async def list_incidents(self, *, limit: int = 100) -> AsyncIterator[Incident]:
        """Yield every incident of the organization, open or resolved, *limit* a page."""
        async for fields in self._walk(list_request(incidents.RESOURCE, limit=limit)):
            yield read(Incident, fields)

    async def get_incident(self, incident_id: str) -> Incident:
        """Return an incident. Raises NotFound: the organization has none with this id."""
        return await self._object(Incident, get_request(incidents.RESOURCE, incident_id))

    async def resolve_incident(self, incident_id: str, *, resolution_notes: str | None = None) -> Incident:
        """Resolve an incident and return it as it is now. Raises Conflict: it is resolved already."""
        return await self._object(Incident, resolve_request(incident_id, resolution_notes))

    async def list_integrations(self, *, limit: int = 100) -> AsyncIterator[Integration]:
        """Yield every integration of the organization: platform and host, never credentials."""
        async for fields in self._walk(list_request(integrations.RESOURCE, limit=limit)):
            yield read(Integration, fields)

    async def _object(self, model: type[M], request: Request) -> M:
        return read(model, parse_object(await self._ask(request)))

    async def _walk(self, first: Request) -> AsyncIterator[dict[str, Any]]:
        """Yield the objects of a listing over all its pages. Raises ApiGarbled: it is too large for one."""
        seen: set[str] = set()
        request = first
        objects = size_bytes = 0
        for _page in range(MAX_PAGES):
            reply = await self._ask(request)
            is_quick = len(reply.body) <= _QUICK_BYTES
            page = parse_page(reply) if is_quick else await asyncio.to_thread(parse_page, reply)
            objects += len(page.items)
            size_bytes += len(reply.body)
            if len(page.items) > MAX_OBJECTS_PER_PAGE or objects > MAX_OBJECTS or size_bytes > MAX_LISTING_BYTES:
                raise ApiGarbled(
                    f"the Aura API's list {first.path} is too large: {objects} objects, {size_bytes} bytes"
                )
            del reply
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return
            if cursor in seen:
                raise ApiGarbled(f"the Aura API's list {first.path} goes in circles: a page's cursor came twice")
            seen.add(cursor)
            request = next_page(first, cursor)
        raise ApiGarbled(f"the Aura API's list {first.path} doesn't end: more than {MAX_PAGES} pages")

    async def _ask(self, request: Request) -> Reply:
        """Return a 2xx answer. Raises ApiError for everything else.

        A 429 says that nothing was done, so a write may be sent again, too.
        """
        patience_s, left_s = self._patience_s, self._refusal_wait_s
        while True:
            try:
                return await self._ask_once(request, patience_s)
            except BudgetSpent:
                raise
            except RateLimited as refusal:
                if held_s(refusal) > left_s:
                    raise
                left_s -= held_s(refusal)
                patience_s = latest_after_retry_after_s(held_s(refusal))

    async def _ask_once(self, request: Request, patience_s: float) -> Reply:
        if self._http is None:
            self._http = build_client(max_connections=_CONNECTIONS)
        reserved_ns = await self._limiter.admit(self._purpose, patience_s)
        deadline = asyncio.timeout(self._total_timeout_s)
        try:
            async with deadline:
                reply = await self._exchange(self._http, request)
        except Exception as exc:
            if isinstance(exc, ApiGarbled):
                raise
            kind = Trouble.TOTAL_TIMEOUT if deadline.expired() else trouble_of(exc)
            unsure = request.method != "GET" and kind not in BEFORE_SENDING
            raise ApiUnreachable(kind, self._base.host, undecided=str(request) if unsure else "") from exc
        self.budget = parse_budget(reply.headers)
        if 200 <= reply.status <= 299:
            await self._limiter.settle(reserved_ns, self.budget)
            return reply
        problem = parse_error(request, reply, datetime.now(UTC), hide=self._token.reveal())
        await self._limiter.settle(reserved_ns, self.budget, problem)
        raise problem

    async def _exchange(self, http: httpx.AsyncClient, request: Request) -> Reply:
        headers = {
            "Authorization": f"Bearer {self._token.reveal()}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # a compressed answer could be small on the wire and huge in memory
            "User-Agent": USER_AGENT,
        }
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        outgoing = http.build_request(
            request.method,
            str(self._base) + request.path,
            params=dict(request.query) or None,
            content=request.body,
            headers=headers,
            timeout=timeouts(self._total_timeout_s),
        )
        response = await http.send(outgoing, stream=True, auth=None, follow_redirects=False)
        try:
            succeeded = 200 <= response.status_code <= 299
            body = await _read(response, MAX_BODY_BYTES if succeeded else MAX_ERROR_BYTES, strict=succeeded)
        finally:
            await response.aclose()
        return Reply(response.status_code, {name.lower(): value for name, value in response.headers.items()}, body)


async def _read(response: httpx.Response, max_bytes: int, *, strict: bool) -> bytes:
    """Return the body as it came. Past *max_bytes*: raises ApiGarbled if *strict*, else the rest is left unread."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            if strict:
                raise ApiGarbled(f"the Aura API's answer is larger than {max_bytes} bytes", status=response.status_code)
            break
    return bytes(body[:max_bytes])


def _checked_base(base_url: str, *, allow_insecure: bool) -> httpx.URL:
    url = judge_url(base_url.rstrip("/"), allow_insecure=allow_insecure)
    if isinstance(url, Trouble):
        raise ApiMisconfigured(f"the API's base_url can't be used: {describe(url)}")
    if url.query or url.fragment or url.userinfo:
        raise ApiMisconfigured("the API's base_url can't be used: leave out user, password, query and fragment")
    return url


def _checked_token(token: Secret) -> Secret:
    text = token.reveal()
    if not text:
        raise ApiMisconfigured("the API token is empty: put one in token_file, AURA_TOKEN_FILE or AURA_TOKEN")
    for position, char in enumerate(text, start=1):
        if not "!" <= char <= "~":
            what = "a line break" if char in "\r\n" else "a blank" if char.isspace() else "no plain ASCII letter"
            raise ApiMisconfigured(
                f"the API token can't be sent: its character {position} of {len(text)} is {what}; copy the token anew"
            )
    return token
