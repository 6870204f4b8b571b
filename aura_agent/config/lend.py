"""What a job of the config lends to an aura-run: its settings as a record's fields, over the socket or at home."""

from aura_agent.config.models import Config, Job


def matching_jobs(config: Config, command: list[str]) -> list[str]:
    """Return the names of the jobs whose command is exactly *command*."""
    return [name for name, job in config.jobs.items() if job.command is not None and list(job.command) == command]


def lend(name: str, job: Job) -> dict[str, str]:
    """Return the settings of *job*, all as text; what it doesn't set is left out."""
    fields = {
        "job": name,
        "heartbeat": job.heartbeat or name,
        "timeout_s": _number(job.timeout),
        "kill_after_s": _number(job.kill_after),
        "retries": str(job.retries),
        "retry_delay_s": _number(job.retry_delay),
        "retry_backoff": str(job.retry_backoff),
        "retry_max_delay_s": _number(job.retry_max_delay),
        "success_codes": ",".join(str(code) for code in job.success_codes),
        "max_age_s": _number(job.max_age),
        "replay": job.replay,
        "attach": job.attach,
        "tail_bytes": str(job.tail_bytes),
    }
    if job.expect is not None and job.expect.file is not None:
        wanted = job.expect.file
        fields["expect_path"] = wanted.path
        fields["expect_newer_than"] = "start" if wanted.newer_than == "start" else _number(wanted.newer_than)
        fields["expect_min_bytes"] = "" if wanted.min_size is None else str(wanted.min_size)
    return {key: value for key, value in fields.items() if value}


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)
