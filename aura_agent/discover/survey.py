"""All that a host runs on a schedule: the tables of cron and anacron, and the timers. Reads, and changes nothing."""

import os

from aura_agent.discover.host import Host
from aura_agent.discover.tables import read_batches, read_tables
from aura_agent.discover.timers import read_timers


def read_host(root: str) -> Host:
    """Look at everything; what can't be read is noted, not raised."""
    host = Host(os.path.abspath(root))
    host.systemd = os.path.isdir(host.path("/run/systemd/system"))
    read_tables(host)
    read_batches(host)
    read_timers(host)
    return host
