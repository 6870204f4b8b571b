"""Runs that were wrapped in a crontab count for the config's job whose heartbeat they feed."""

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

from tests.e2e.sites import Site
from tests.waiting import wait_until


def configure(site: Site, jobs: str, names: tuple[str, ...]) -> dict[str, str]:
    """Start a daemon for *jobs* with a status page; return the ids of heartbeats of these *names*."""
    ids = {name: site.server.create_heartbeat(name).id for name in names}
    site.configure(jobs, top='[status]\nlisten = "127.0.0.1:0"')
    site.start()
    return ids


def last(site: Site, name: str) -> dict[str, Any] | None:
    """Return the newest run of the job as ``status`` shows it."""
    jobs = json.loads(site.agent("status", "--json").stdout)["jobs"]
    found: dict[str, Any] | None = next(job["last"] for job in jobs if job["name"] == name)
    return found


def page(site: Site, path: str) -> str:
    (listening,) = site.events("status.listening")
    with urllib.request.urlopen(f"http://127.0.0.1:{listening['port']}{path}", timeout=30) as answer:
        return str(answer.read().decode())


def history(site: Site, job: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(site.agent("history", job, "--json").stdout)
    return rows


def job(name: str, heartbeat: str, more: str = "") -> str:
    return f'[jobs.{name}]\nheartbeat = "{heartbeat}"\nevery = "1h"\ncommand = ["/bin/true", "{name}"]\n{more}\n'


def script(site: Site, name: str) -> str:
    path: Path = site.home / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_a_wrapped_line_counts_for_the_job_that_has_its_heartbeat(site: Site) -> None:
    """By name and by id; in status, page, metrics and history."""
    ids = configure(site, job("backup", "nightly"), ("nightly",))
    assert site.run("-H", "nightly", "--", "sh", "-c", "exit 0").returncode == 0
    wait_until(lambda: last(site, "backup") is not None, what="the run")
    assert "succeeded" in page(site, "/")
    assert site.run("-H", ids["nightly"], "--", "sh", "-c", "exit 3").returncode == 3

    wait_until(lambda: (last(site, "backup") or {}).get("outcome") == "failed", what="the second run")
    assert [(row["job"], row["outcome"]) for row in history(site, "backup")] == [
        ("backup", "failed"),
        ("backup", "succeeded"),
    ]
    metrics = page(site, "/metrics")
    assert 'job="backup"' in metrics
    assert 'job="sh"' not in metrics


def test_another_heartbeats_run_is_not_the_jobs_for_its_name(site: Site) -> None:
    """A program called as the job is, with a heartbeat of its own."""
    configure(site, job("backup", "nightly"), ("nightly", "other"))
    assert site.run("-H", "other", "--", script(site, "backup")).returncode == 0

    wait_until(lambda: len(history(site, "other")) == 1, what="the run")
    assert last(site, "backup") is None
    assert history(site, "backup") == []
    ours = [line for line in page(site, "/metrics").splitlines() if 'job="backup"' in line]
    assert [line for line in ours if not line.startswith("aura_agent_running")] == []


def test_jobs_that_share_a_heartbeat_are_told_apart_by_name(site: Site) -> None:
    configure(site, job("one", "shared") + job("two", "shared"), ("shared",))
    assert site.run("-H", "shared", "--", script(site, "two")).returncode == 0

    wait_until(lambda: last(site, "two") is not None, what="the run")
    assert last(site, "one") is None
    assert (len(history(site, "one")), len(history(site, "two"))) == (0, 1)


def test_a_command_whose_name_finds_the_heartbeat_counts_for_its_job(site: Site) -> None:
    """``HOST/name``, which nobody wrote on the command line."""
    heartbeat = f"{os.uname().nodename}/report.sh"
    configure(site, job("report", heartbeat), (heartbeat, f"{os.uname().nodename}/report"))
    assert site.run("--", script(site, "report.sh")).returncode == 0

    wait_until(lambda: site.rows("SELECT job, heartbeat FROM runs"), what="the run")
    (run,) = site.rows("SELECT heartbeat FROM runs")
    assert bool(history(site, "report")) == (run[0] == "report.sh")


def test_the_jobs_hook_is_called_for_a_wrapped_line_that_fails(site: Site) -> None:
    """And only that job's: the program has no name of its own."""
    told = site.home / "told"
    hook = 'on_failure.command = ["/bin/sh", "-c", "echo $AURA_HOOK_JOB >>{}"]'
    jobs = job("backup", "nightly", hook.format(told)) + job("mail", "letters", hook.format(f"{told}-mail"))
    configure(site, jobs, ("nightly", "letters"))
    assert site.run("-H", "nightly", "--", "sh", "-c", "exit 3").returncode == 3

    wait_until(lambda: told.exists() and told.read_text() != "", what="the hook")
    assert told.read_text() == "backup\n"
    assert not (site.home / "told-mail").exists()
