"""``/integrations``: list. The platform and the host of its URL, never a credential."""

import msgspec

from aura_agent.devserver.paging import next_cursor, parse_page
from aura_agent.devserver.routes.call import Call, Reply
from aura_agent.devserver.routes.operation import Listing, Resource, listing
from aura_agent.devserver.tables import integrations


class IntegrationOut(msgspec.Struct, frozen=True):
    """An integration as the API shows it."""

    id: str
    platform: str
    url_host: str


def _list(call: Call) -> Reply:
    page = parse_page(call.query)
    rows = integrations.page_of(call.service.db, call.caller.organization_id, page)
    data = [IntegrationOut(row.id, row.platform, row.url_host) for row in rows[: page.limit]]
    return Reply(Listing(data, next_cursor(page, rows)))


RESOURCES = (Resource("/integrations", {"GET": listing("List the integrations", IntegrationOut, _list)}),)
