"""Hooks of an aura-run without a daemon: called by itself, after everything else, and never in the way."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.hookserver import HookServer, hook_server
from tests.e2e.sites import AURA_RUN, Site
from tests.machine import needs, tmpfs
from tests.waiting import wait_until


@pytest.fixture
def webhook() -> Iterator[HookServer]:
    with hook_server() as served:
        yield served


@pytest.fixture
def cron(site: Site, webhook: HookServer) -> Site:
    """A site with a job of cron's, whose failures and recoveries are told to a webhook; no daemon."""
    site.server.create_heartbeat("cron", expected_interval=3600)
    hook = f'webhook = "{webhook.url}"'
    site.configure(
        f'[jobs.cron]\nexpected_interval = "1d"\ncommand = ["sh", "{site.home}/job"]\n'
        f"on_failure = {{ {hook} }}\non_recovery = {{ {hook} }}\n"
    )
    return site


def _job(site: Site, script: str) -> "subprocess.CompletedProcess[bytes]":
    """Run the job's own command, as its line in a crontab does: it is lent the hooks."""
    (site.home / "job").write_text(script)
    return site.run("--", "sh", f"{site.home}/job")


def test_failure_and_recovery_are_told_and_nothing_else_changes(cron: Site, webhook: HookServer) -> None:
    """Status and output are the job's; the ping goes out; a second success says nothing new."""
    failed = _job(cron, "echo oh; exit 4")
    again = [_job(cron, "echo fine") for _ in range(2)]

    assert (failed.returncode, failed.stdout, failed.stderr) == (4, b"oh\n", b"")
    assert [(ended.returncode, ended.stdout, ended.stderr) for ended in again] == [(0, b"fine\n", b"")] * 2
    assert [(post["hook"], post["job"], post["exit_code"]) for post in webhook.posts] == [
        ("on_failure", "cron", 4),
        ("on_recovery", "cron", 0),
    ]
    assert webhook.posts[0]["reason"] == "exit status 4"
    assert len(cron.server.pings("cron")) == 2


def test_a_daemon_that_comes_later_tells_nothing_twice(cron: Site, webhook: HookServer) -> None:
    """Also in a store that a daemon serves, and while that is down."""
    cron.start()
    assert cron.stop() == 0
    assert _job(cron, "exit 4").returncode == 4
    assert len(webhook.posts) == 1

    cron.start()
    assert cron.agent("history", "cron", "--json").stdout.count('"failed"') == 1
    assert cron.stop() == 0

    assert len(webhook.posts) == 1


def test_no_wait_leaves_hooks_to_whoever_takes_the_report_in(cron: Site, webhook: HookServer) -> None:
    """They would hold up whoever asked not to be."""
    assert cron.run("-j", "cron", "--no-wait", "--", "false").returncode == 1
    assert webhook.posts == []

    cron.start()
    wait_until(lambda: webhook.posts)

    assert webhook.posts[0]["hook"] == "on_failure"


def test_a_hook_that_fails_is_one_line_a_day(cron: Site, webhook: HookServer) -> None:
    """Without the webhook's URL; the status is the job's."""
    webhook.answers += [500] * 4

    first, second = _job(cron, "exit 4"), _job(cron, "exit 4")

    assert (first.returncode, second.returncode) == (4, 4)
    assert first.stderr == b"aura-run: on_failure of cron failed: webhook: HTTP 500\n"
    assert second.stderr == b""
    assert len(webhook.posts) == 4


def test_a_hook_that_hangs_is_waited_for_no_longer_than_said(cron: Site, webhook: HookServer) -> None:
    """--wait bounds hooks as it does the delivery before them; a signal ends the wait with the job's status."""
    webhook.held.clear()
    (cron.home / "job").write_text("exit 4")

    ended = cron.run("--wait", "3s", "--", "sh", f"{cron.home}/job")
    waiting = subprocess.Popen(
        [AURA_RUN, "--wait", "50s", "--", "sh", f"{cron.home}/job"],
        env=cron.environment,
        cwd=cron.home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: len(webhook.posts) == 2)
    waiting.send_signal(signal.SIGTERM)

    assert (ended.returncode, ended.stderr) == (4, b"aura-run: hooks were not done within 3 s: see --wait\n")
    assert waiting.wait(timeout=30) == 4


def test_a_command_that_hangs_is_ended_with_us(cron: Site) -> None:
    """Nothing of a hook outlives its time."""
    cron.configure(
        f'[jobs.cron]\nexpected_interval = "1d"\non_failure.command = ["sh", "-c", "echo $$ >{cron.home}/pid; sleep 1000"]\n'
    )

    ended = cron.run("--wait", "2s", "-j", "cron", "--", "false")

    assert ended.returncode == 1
    assert not os.path.exists(f"/proc/{(cron.home / 'pid').read_text().strip()}")


def test_captured_output_reaches_a_command_in_a_private_file(cron: Site) -> None:
    """attach = "output" is what captures it."""
    show = f'cat "$AURA_HOOK_OUTPUT_FILE" >{cron.home}/shown; echo "$AURA_HOOK_OUTPUT_FILE" >{cron.home}/path'
    cron.configure(
        f"[jobs.cron]\nexpected_interval = \"1d\"\nattach = 'output'\non_failure.command = ['sh', '-c', '{show}']\n"
    )

    ended = cron.run("-j", "cron", "--", "sh", "-c", "echo oh dear; exit 4")

    assert (ended.returncode, ended.stdout, ended.stderr) == (4, b"oh dear\n", b"")
    assert (cron.home / "shown").read_text() == "oh dear\n"
    assert not os.path.exists((cron.home / "path").read_text().strip())


def test_inside_a_hook_none_is_called(cron: Site, webhook: HookServer) -> None:
    """A job that a hook starts fails in silence: its caller sees it."""
    cron.extra["AURA_HOOK"] = "on_failure"

    assert _job(cron, "exit 4").returncode == 4

    assert webhook.posts == []
    assert [run["outcome"] for run in json.loads(cron.agent("history", "--json").stdout)] == ["failed"]


@pytest.mark.root
@needs(tmpfs)
def test_a_full_disk_keeps_no_failure_from_being_told(cron: Site, webhook: HookServer) -> None:
    """The store takes nothing: the hook is called from memory."""
    cron.state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "tmpfs", cron.state], check=True)
    try:
        ended = _job(cron, "exit 4")
    finally:
        subprocess.run(["umount", cron.state], check=True)

    assert ended.returncode == 4
    assert [post["hook"] for post in webhook.posts] == ["on_failure"]
