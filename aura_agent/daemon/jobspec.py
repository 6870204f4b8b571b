"""What the config says of a job, as what the process layer takes."""

import math
import os
from collections.abc import Mapping
from functools import cache

from aura_agent.config.models import Job
from aura_agent.process.account import Account, job_environment, resolve_account
from aura_agent.process.envfile import read_env_file
from aura_agent.process.failure import SpawnFailed
from aura_agent.process.file_rights import file_rights_of
from aura_agent.process.spawn import Output, SpawnSpec

DEFAULT_UMASK = 0o022  # as under cron; the daemon's own, 0077, is for its secrets
_OUTPUTS: Mapping[str, tuple[Output, Output]] = {
    "history": ("pipe", "stdout"),
    "log": ("pipe", "pipe"),
    "drop": ("null", "null"),
}


def spawn_spec(job: Job) -> SpawnSpec:
    """Return how *job* is started: as cron would, with a clean environment.

    Raises SpawnFailed: there is no such account, or env_file can't be used.
    """
    account = resolve_account(job.user, job.group)
    # One pipe keeps the order in which things were written, two tell for the log which stream they came by.
    stdout, stderr = _OUTPUTS[job.output]
    return SpawnSpec(
        argv=tuple(job.command or ()),
        shell_text=job.shell,
        shell=job.shell_program,
        env=_environment(account, tuple(job.inherit_env), job.shell_program) | _own_variables(job, account),
        cwd=job.cwd,
        account=account,
        umask=int(job.umask, 8) if job.umask is not None else DEFAULT_UMASK,
        nice=job.nice,
        limits=_limits(job),
        stdout=stdout,
        stderr=stderr,
    )


def places_of(job: Job) -> list[str]:
    """Return the absolute paths that are looked at to start *job*."""
    program = job.shell_program if job.shell is not None else (job.command or ("",))[0]
    cwd = job.cwd
    if cwd is None:
        try:
            cwd = resolve_account(job.user, job.group).home
        except SpawnFailed:
            cwd = ""
    return [path for path in (cwd, program, job.env_file) if path and path.startswith("/")]


def withhold_variable(name: str) -> None:
    """Take the variable *name*, which holds a secret of ours, out of our environment: no job and no hook gets it."""
    if os.environ.pop(name, None) is not None:
        _environment.cache_clear()


@cache
def _environment(account: Account, inherit: tuple[str, ...], shell: str) -> dict[str, str]:
    """Return what jobs that agree in these have in common; our own environment is what it is made of."""
    return job_environment(account, os.environ, inherit=inherit, shell=shell)


def _own_variables(job: Job, account: Account) -> dict[str, str]:
    if job.env_file is None:
        return job.env
    try:
        return read_env_file(job.env_file, file_rights_of(account), (account.uid, account.gid)) | job.env
    except ValueError as problem:
        raise SpawnFailed(str(problem)) from None


def _limits(job: Job) -> dict[str, int]:
    limits = job.limits
    said = {} if limits is None else {name: getattr(limits, name) for name in limits.__struct_fields__}
    return {name: math.ceil(value) for name, value in said.items() if value is not None}
