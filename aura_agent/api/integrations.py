"""The resource ``/integrations``: where Aura sends its alerts, without the credentials. Pure."""

import msgspec

RESOURCE = "integrations"


class Integration(msgspec.Struct, frozen=True, kw_only=True):
    """One integration: the platform, and the host of its URL for identification."""

    id: str
    platform: str | None = None
    url_host: str | None = None
