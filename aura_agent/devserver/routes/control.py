"""The control path, ``/_dev``: faults on demand, and what was received. Not part of the API; needs a write token.

POST   /_dev/faults                  a fault as JSON (see faults.py) -> 201 {"id": …}
GET    /_dev/faults                  those that are active
DELETE /_dev/faults, /_dev/faults/ID
GET    /_dev/pings[?heartbeat=ID|NAME], /_dev/requests
DELETE /_dev/received                forget both lists
POST   /_dev/heartbeats/ID/new-key   the ping URL changes, the old one answers 404
"""

import msgspec
from starlette.routing import Route

from aura_agent.devserver.database import transaction
from aura_agent.devserver.faults import Fault
from aura_agent.devserver.refusal import Refusal, not_found
from aura_agent.devserver.routes.call import Call, Reply, route
from aura_agent.devserver.service import Service
from aura_agent.devserver.tables import heartbeats


def control_routes(service: Service) -> list[Route]:
    """Return the routes."""
    return [
        route(service, "/faults", {"GET": _list_faults, "POST": _add_fault, "DELETE": _clear_faults}),
        route(service, "/faults/{id}", {"DELETE": _clear_fault}),
        route(service, "/pings", {"GET": _pings}),
        route(service, "/requests", {"GET": _requests}),
        route(service, "/received", {"DELETE": _forget}),
        route(service, "/heartbeats/{id}/new-key", {"POST": _new_key}),
    ]


def _add_fault(call: Call) -> Reply:
    fault = call.decode(Fault)
    if fault.kind == "refuse" and fault.for_s is None:
        raise Refusal(400, "refuse needs for_s: nobody could reach the control path to end it")
    return Reply({"id": call.service.order(fault)}, 201)


def _list_faults(call: Call) -> Reply:
    active = call.service.faults.list(call.service.monotonic_s())
    data = [{"id": each.id, "left": each.left, **msgspec.structs.asdict(each.fault)} for each in active]
    return Reply({"data": data})


def _clear_faults(call: Call) -> Reply:
    call.service.faults.clear()
    return Reply()


def _clear_fault(call: Call) -> Reply:
    if not call.service.faults.clear(call.path["id"]):
        raise not_found("Fault")
    return Reply()


def _pings(call: Call) -> Reply:
    return Reply({"data": call.service.received.pings(call.query.get("heartbeat"))})


def _requests(call: Call) -> Reply:
    return Reply({"data": call.service.received.requests()})


def _forget(call: Call) -> Reply:
    call.service.received.clear()
    return Reply()


def _new_key(call: Call) -> Reply:
    db = call.service.db
    row = heartbeats.find(db, call.caller.organization_id, call.path["id"])
    if row is None:
        raise not_found("Heartbeat")
    with transaction(db):
        row = heartbeats.update(db, heartbeats.with_new_key(row), call.now_us)
    return Reply({"url": call.service.ping_url(row.ping_key)})
