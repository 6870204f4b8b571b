"""What the config says of a job, as what the process layer takes."""

import os

from aura_agent.config.models import Job
from aura_agent.process.account import job_environment, resolve_account
from aura_agent.process.spawn import SpawnSpec

DEFAULT_UMASK = 0o022  # as under cron; the daemon's own, 0077, is for its secrets


def spawn_spec(job: Job) -> SpawnSpec:
    """Return how *job* is started: as cron would, with a clean environment. Raises SpawnFailed: no such account."""
    account = resolve_account(job.user, job.group)
    return SpawnSpec(
        argv=tuple(job.command or ()),
        shell_text=job.shell,
        env=job_environment(account, os.environ, job.env),
        cwd=job.cwd,
        account=account,
        umask=int(job.umask, 8) if job.umask is not None else DEFAULT_UMASK,
    )
