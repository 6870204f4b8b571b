"""The resources ``/monitors`` and ``/checks``: a monitor probes a URL, a check is one probe of it. Pure."""

from datetime import datetime

import msgspec
from msgspec import UNSET, UnsetType

from aura_agent.api import assumptions

RESOURCE = "monitors"
CHECKS = "checks"


class Monitor(msgspec.Struct, frozen=True, kw_only=True, rename=assumptions.MONITOR_WIRE_NAMES):
    """A monitor as Aura has it. None: the answer didn't say, or said something that can't be read."""

    id: str
    name: str | None = None
    url: str | None = None
    check_interval_s: float | None = None
    status: str | None = None
    team_id: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class MonitorFields(msgspec.Struct, frozen=True, kw_only=True, rename=assumptions.MONITOR_WIRE_NAMES):
    """What is written of a monitor: UNSET is the service's choice, or stays as it is; no team is None."""

    name: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    check_interval_s: float | UnsetType = UNSET
    team_id: str | UnsetType | None = UNSET


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One probe of a monitor. None: the answer didn't say, or the probe never got that far."""

    id: str
    monitor_id: str | None = None
    status: str | None = None
    status_code: int | None = None
    response_time_ms: float | None = None
    checked_at: datetime | None = None
