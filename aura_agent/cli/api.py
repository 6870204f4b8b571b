"""``aura-agent api RESOURCE VERB``: the whole REST API. Which resource has which verbs, options and columns."""

import click

from aura_agent.api import AuraClient
from aura_agent.api.heartbeats import HeartbeatFields
from aura_agent.api.monitors import MonitorFields
from aura_agent.cli.api_objects import print_object
from aura_agent.cli.api_verbs import EXAMPLE_ID, Resource, ask, duration_s
from aura_agent.cli.settings import config_option, json_option, print_json

_NAME = click.option("--name", help="Its name.")
_URL = click.option("--url", help="What Aura probes.")
_CHECK_INTERVAL = click.option(
    "--check-interval", "check_interval_s", type=duration_s, metavar="D", help="How often Aura probes it, such as 60s."
)
_EXPECTED_INTERVAL = click.option(
    "--expected-interval", "expected_interval_s", type=duration_s, metavar="D", help="How often a ping comes: 1d."
)
_GRACE_PERIOD = click.option(
    "--grace-period", "grace_period_s", type=duration_s, metavar="D", help="How late a ping may be: 30m."
)
_MONITOR_OPTIONS = (_NAME, _URL, _CHECK_INTERVAL)
_HEARTBEAT_OPTIONS = (_NAME, _EXPECTED_INTERVAL, _GRACE_PERIOD)

# Title: field.
_MONITOR_COLUMNS = {
    "id": "id",
    "name": "name",
    "url": "url",
    "every": "check_interval_s",
    "status": "status",
    "team": "team_id",
}
_CHECK_COLUMNS = {
    "checked": "checked_at",
    "status": "status",
    "code": "status_code",
    "took": "response_time_ms",
    "id": "id",
}
_HEARTBEAT_COLUMNS = {
    "id": "id",
    "name": "name",
    "status": "status",
    "every": "expected_interval_s",
    "grace": "grace_period_s",
    "last ping": "last_ping_at",
    "team": "team_id",
}
_INCIDENT_COLUMNS = {
    "id": "id",
    "status": "status",
    "started": "started_at",
    "resolved": "resolved_at",
    "heartbeat": "heartbeat_id",
    "monitor": "monitor_id",
    "notes": "resolution_notes",
}
_INTEGRATION_COLUMNS = {"id": "id", "platform": "platform", "host": "url_host"}


@click.group()
def api() -> None:
    """The REST API: everything that the token's organization has in Aura.

    Example: aura-agent api heartbeats list --json
    """


_monitors = Resource("monitors", "monitor", "Monitors: the URLs that Aura probes.")
_monitors.lists(AuraClient.list_monitors, _MONITOR_COLUMNS)
_monitors.gets(AuraClient.get_monitor)
_monitors.creates(
    AuraClient.create_monitor,
    MonitorFields,
    _MONITOR_OPTIONS,
    required=("name", "url"),
    example="--name api.example.com --url https://api.example.com/health --check-interval 60s",
)
_monitors.updates(AuraClient.update_monitor, MonitorFields, _MONITOR_OPTIONS, example="--check-interval 5m")
_monitors.deletes(AuraClient.get_monitor, AuraClient.delete_monitor)
_monitors.lists(
    AuraClient.list_monitor_checks,
    _CHECK_COLUMNS,
    verb="checks",
    parameter=click.argument("monitor_id", metavar="ID"),
    example=EXAMPLE_ID,
)

_checks = Resource("checks", "check", "Checks: single probes of a monitor.", example=f"list --monitor {EXAMPLE_ID}")
_checks.lists(
    AuraClient.list_checks,
    _CHECK_COLUMNS,
    parameter=click.option("--monitor", "monitor_id", metavar="ID", required=True, help="The monitor whose checks."),
    example=f"--monitor {EXAMPLE_ID} --json",
)

_heartbeats = Resource("heartbeats", "heartbeat", "Heartbeats: what jobs ping.")
_heartbeats.lists(AuraClient.list_heartbeats, _HEARTBEAT_COLUMNS)
_heartbeats.gets(AuraClient.get_heartbeat)
_heartbeats.creates(
    AuraClient.create_heartbeat,
    HeartbeatFields,
    _HEARTBEAT_OPTIONS,
    required=("name",),
    example="--name nightly-backup --expected-interval 1d --grace-period 30m",
)
_heartbeats.updates(AuraClient.update_heartbeat, HeartbeatFields, _HEARTBEAT_OPTIONS, example="--grace-period 1h")
_heartbeats.deletes(AuraClient.get_heartbeat, AuraClient.delete_heartbeat)


@_heartbeats.group.command("ping-url")
@click.argument("identity", metavar="ID")
@config_option
@json_option
def _ping_url(identity: str, config_file: str | None, as_json: bool) -> None:
    """Print the URL that pings a heartbeat; whoever has it can fake a success.

    Example: aura-agent api heartbeats ping-url 3f6b… > backup.url
    """
    url = ask(config_file, lambda aura: aura.ping_url(identity)).reveal()
    if as_json:
        print_json({"url": url})
    else:
        click.echo(url)


_incidents = Resource("incidents", "incident", "Incidents: what Aura alerts people of.")
_incidents.lists(AuraClient.list_incidents, _INCIDENT_COLUMNS)
_incidents.gets(AuraClient.get_incident)


@_incidents.group.command("resolve")
@click.argument("identity", metavar="ID")
@click.option("--notes", metavar="TEXT", help="What was done about it.")
@config_option
@json_option
def _resolve(identity: str, notes: str | None, config_file: str | None, as_json: bool) -> None:
    """Resolve an incident.

    Example: aura-agent api incidents resolve 3f6b… --notes "Restart fixed it"
    """
    incident = ask(config_file, lambda aura: aura.resolve_incident(identity, resolution_notes=notes))
    print_object(incident, as_json=as_json)


_integrations = Resource("integrations", "integration", "Integrations: where Aura sends its alerts.")
_integrations.lists(AuraClient.list_integrations, _INTEGRATION_COLUMNS)

for _resource in (_monitors, _checks, _heartbeats, _incidents, _integrations):
    api.add_command(_resource.group)
