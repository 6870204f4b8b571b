"""The checks of a monitor, at ``/monitors/{id}/checks`` and ``/checks?monitor_id=…``: newest first."""

import msgspec

from aura_agent.devserver.instants import from_us
from aura_agent.devserver.paging import next_cursor, parse_page
from aura_agent.devserver.probes import Verdict
from aura_agent.devserver.refusal import Refusal
from aura_agent.devserver.routes.call import Call, Reply
from aura_agent.devserver.routes.monitors import found
from aura_agent.devserver.routes.operation import Listing, Resource, listing
from aura_agent.devserver.routes.shapes import Instant
from aura_agent.devserver.tables import checks
from aura_agent.devserver.tables.checks import Check

_MONITOR_ID = {"name": "monitor_id", "in": "query", "required": True, "schema": {"type": "string"}}


class CheckOut(msgspec.Struct, frozen=True, kw_only=True):
    """A check as the API shows it. *status_code* and *response_time_ms* are null where no answer came."""

    id: str
    monitor_id: str
    status: Verdict
    status_code: int | None
    response_time_ms: int | None
    checked_at: Instant


def shown(check: Check) -> CheckOut:
    return CheckOut(
        id=check.id,
        monitor_id=check.monitor_id,
        status=check.status,
        status_code=check.status_code,
        response_time_ms=check.response_time_ms,
        checked_at=from_us(check.checked_us),
    )


def _list_below_monitor(call: Call) -> Reply:
    return _list(call, call.path["id"])


def _list_by_parameter(call: Call) -> Reply:
    if "monitor_id" not in call.query:
        raise Refusal(400, "monitor_id is missing: checks are listed for one monitor")
    return _list(call, call.query["monitor_id"])


def _list(call: Call, monitor_id: str) -> Reply:
    page = parse_page(call.query)
    rows = checks.page_of(call.service.db, found(call, monitor_id).id, page)
    return Reply(Listing([shown(row) for row in rows[: page.limit]], next_cursor(page, rows)))


RESOURCES = (
    Resource("/monitors/{id}/checks", {"GET": listing("List a monitor's checks", CheckOut, _list_below_monitor)}),
    Resource("/checks", {"GET": listing("List a monitor's checks", CheckOut, _list_by_parameter, _MONITOR_ID)}),
)
