"""What aura-run takes from the config: a whole job for ``-j``, or settings for a command that is a job's very own.

Loaded only where it is needed: before the job for ``-j``, else beside the running job when no daemon answers.
"""

import os

from aura_agent.config.lend import lend, matching_jobs
from aura_agent.config.load import load_config
from aura_agent.config.models import ApiSettings, Config, Job
from aura_agent.config.settings import account_in, config_path
from aura_agent.errors import AuraError, ConfigError
from aura_agent.report.account import Account
from aura_agent.wrapper.options import Options, Usage
from aura_agent.wrapper.warnings import print_line, warn


def take_job(options: Options) -> None:
    """Complete *options* from the job it names, command included. Raises Usage: there is nothing that could be run."""
    try:
        path = config_path(options.config, os.environ)
        config = None if path is None else load_config(path, check_rules=False)
    except AuraError as problem:
        config, why = None, _first_line(problem)
    else:
        why = "there is no config"
    job = None if config is None else config.jobs.get(options.job or "")
    options.job_found = job is not None
    if config is not None:
        options.redact = config.attach.redact
        options.token_variable = config.api.token_env or ""
    if job is None:
        if config is not None:
            why = "the config has no such job"
        if not options.command:
            raise Usage(f"aura-run: job {options.job!r}: {why}; nothing was run\n")
        print_line(
            f"job {options.job!r}: {why}; the command runs all the same"
            + ("" if _has_target(options) else ", without a ping")
        )
        return
    _take(options, options.job or "", job)


def account(config: Config | None) -> Account | None:
    """Return how stores name the API token that this run has; None: it has none that can be read."""
    try:
        return account_in(ApiSettings() if config is None else config.api, os.environ)
    except ConfigError:
        return None  # whoever sends says so


def read(flag: str | None, store: str) -> Config | None:
    """Return the config that *flag*, the environment or its usual place names.

    None, with one warning, if it is broken.
    """
    try:
        path = config_path(flag, os.environ)
        return None if path is None else load_config(path, check_rules=False)
    except AuraError as problem:
        warn(store, "config", _first_line(problem))
        return None


def borrow(options: Options, config: Config, store: str) -> None:
    """Let the one job whose command is exactly ours fill in what the command line left open."""
    names = matching_jobs(config, options.command)
    if len(names) == 1:
        options.borrow(lend(names[0], config.jobs[names[0]]))
    elif names:
        warn(store, "two jobs", f"jobs {' and '.join(names)} have this very command: name one with -j; none is taken")


def _take(options: Options, name: str, job: Job) -> None:
    if not options.command:
        command = list(job.command or ()) or ([job.shell_program, "-c", job.shell] if job.shell else [])
        if not command:
            raise Usage(f"aura-run: job {name!r} has no command; write one after --; nothing was run\n")
        if job.user is not None:
            _refuse_other_user(name, job.user)
        options.command = command
        options.env = _variables(name, job)
        if job.umask is not None:
            os.umask(int(job.umask, 8))
        if job.cwd is not None:
            try:
                os.chdir(job.cwd)
            except OSError as problem:
                raise Usage(f"aura-run: job {name!r}: cwd: {problem.strerror}; nothing was run\n") from problem
        if job.nice is not None:
            try:
                os.setpriority(os.PRIO_PROCESS, 0, job.nice)
            except OSError as problem:
                raise Usage(f"aura-run: job {name!r}: nice: {problem.strerror}; nothing was run\n") from problem
    options.borrow(lend(name, job))


def _variables(name: str, job: Job) -> dict[str, str]:
    if job.env_file is None:
        return job.env
    from aura_agent.process.envfile import read_env_file

    try:
        return read_env_file(job.env_file) | job.env
    except ValueError as problem:
        raise Usage(f"aura-run: job {name!r}: {problem}; nothing was run\n") from None


def _has_target(options: Options) -> bool:
    return options.heartbeat is not None or options.ping_url is not None


def _refuse_other_user(name: str, user: str) -> None:
    import pwd

    try:
        wanted = pwd.getpwnam(user).pw_uid
    except KeyError:
        raise Usage(f"aura-run: job {name!r}: there is no user {user!r}; nothing was run\n") from None
    if wanted != os.geteuid():
        raise Usage(f"aura-run: job {name!r} runs as {user!r}: start aura-run as that user; nothing was run\n")


def _first_line(problem: AuraError) -> str:
    if isinstance(problem, ConfigError) and len(problem.problems) > 1:
        return f"{problem.problems[0]} (and {len(problem.problems) - 1} more; see aura-agent check)"
    return str(problem)
