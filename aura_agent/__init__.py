"""aura-agent: pings an Aura heartbeat when a job has truly succeeded, and only then."""

__version__ = "0.1.0"
