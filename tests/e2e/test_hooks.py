"""Hooks of the daemon: who is told of what, by real commands and a real webhook."""

import json
import os
import pwd
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hookserver import HookServer, hook_server
from tests.e2e.sites import AURA_RUN, Site
from tests.machine import needs, root
from tests.waiting import wait_until

# Writes its variables, and what is in the output's file, into a file of its own; in one step, for those who wait.
_TELL = """#!/bin/sh
{ env | grep ^AURA; stat -c 'mode=%a uid=%u' "$AURA_HOOK_OUTPUT_FILE"; cat "$AURA_HOOK_OUTPUT_FILE"; } >PLACE/new.$$ 2>/dev/null
mv PLACE/new.$$ PLACE/told.$$
"""


@pytest.fixture
def webhook() -> Iterator[HookServer]:
    with hook_server() as served:
        yield served


@pytest.fixture
def tell(site: Site) -> str:
    """A command for hooks."""
    script = site.home / "tell"
    script.write_text(_TELL.replace("PLACE", str(site.home)))
    script.chmod(0o755)
    return str(script)


def _told(site: Site) -> list[str]:
    """Return what the command was told, each time."""
    files = sorted(site.home.glob("told.*"), key=lambda path: path.stat().st_mtime_ns)
    return [path.read_text() for path in files]


def _variables(told: str) -> dict[str, str]:
    lines = [line.partition("=") for line in told.splitlines() if line.startswith("AURA_HOOK")]
    return {name: value for name, _, value in lines}


def _by_hand(name: str, shell: str, more: str = "") -> str:
    return f"[jobs.{name}]\nschedule = \"@yearly\"\nshell = '''{shell}'''\n{more}\n"


def _trigger(site: Site, job: str) -> None:
    triggered = site.agent("trigger", job)
    assert triggered.returncode == 0, triggered.stderr


def test_a_failure_calls_command_and_webhook_with_the_facts(site: Site, tell: str, webhook: HookServer) -> None:
    """Variables and a private file of the output, gone afterwards; an object with Slack's text; no output off the host."""
    site.configure(
        _by_hand(
            "backup",
            "echo '<!channel> out of space'; exit 3",
            f'on_failure = {{ command = ["{tell}"], webhook = "{webhook.url}" }}',
        )
    )
    site.start()
    _trigger(site, "backup")
    wait_until(lambda: webhook.posts and site.events("hook.called"))

    (told,) = _told(site)
    facts = _variables(told)
    (run,) = json.loads(site.agent("history", "backup", "--json").stdout)
    assert "mode=600 uid=" in told
    assert told.endswith("<!channel> out of space\n")
    path = facts.pop("AURA_HOOK_OUTPUT_FILE")
    assert not os.path.exists(path)
    assert float(facts.pop("AURA_HOOK_DURATION_S")) >= 0
    assert facts.pop("AURA_HOOK_STARTED_AT").endswith("Z")
    assert facts.pop("AURA_HOOK_TEXT").startswith(f"backup on {os.uname().nodename} failed: exit status 3 (took ")
    assert facts == {
        "AURA_HOOK": "on_failure",
        "AURA_HOOK_JOB": "backup",
        "AURA_HOOK_HEARTBEAT": "backup",
        "AURA_HOOK_HOST": os.uname().nodename,
        "AURA_HOOK_RUN_ID": run["run_id"],
        "AURA_HOOK_OUTCOME": "failed",
        "AURA_HOOK_EXIT_CODE": "3",
        "AURA_HOOK_ATTEMPTS": "1",
        "AURA_HOOK_REASON": "exit status 3",
    }
    (post,) = webhook.posts
    assert webhook.types == ["application/json"]
    assert (post["hook"], post["job"], post["run_id"], post["outcome"]) == (
        "on_failure",
        "backup",
        run["run_id"],
        "failed",
    )
    assert (post["exit_code"], post["signal"], post["attempts"]) == (3, None, 1)
    assert "out of space" not in json.dumps(post)


def test_output_leaves_the_host_only_if_it_may_and_redacted(site: Site, webhook: HookServer) -> None:
    """attach = "output": less what redact matches, and as plain text for Slack."""
    site.configure(
        _by_hand(
            "backup",
            "echo 'password=hunter3 <@U1> failed'; exit 1",
            f'attach = "output"\non_failure.webhook = "{webhook.url}"',
        ),
        top="[attach]\nredact = ['password=[a-z0-9]+']\n",
    )
    site.start()
    _trigger(site, "backup")
    wait_until(lambda: webhook.posts)

    (post,) = webhook.posts
    assert post["output"] == "[redacted] <@U1> failed\n"
    assert "[redacted] &lt;@U1&gt; failed" in post["text"]
    assert "hunter3" not in json.dumps(post)


def test_a_recovery_is_told_once_and_over_a_restart(site: Site, tell: str) -> None:
    """The first success after a failure; neither the second nor one that no failure went before."""
    site.configure(
        _by_hand("backup", f"exit $(cat {site.home}/status)", f'on_recovery.command = ["{tell}"]')
        + _by_hand("fine", "true", f'on_recovery.command = ["{tell}"]')
    )
    status = site.home / "status"
    status.write_text("1")
    site.start()
    _trigger(site, "backup")
    _trigger(site, "fine")
    wait_until(lambda: len(site.events("run.finished")) == 2)
    assert site.stop() == 0
    status.write_text("0")
    site.start()
    _trigger(site, "backup")
    wait_until(lambda: _told(site))
    _trigger(site, "backup")
    wait_until(lambda: len(site.events("run.finished")) == 4)
    assert site.stop() == 0  # which calls what is due

    (told,) = _told(site)
    facts = _variables(told)
    assert (facts["AURA_HOOK"], facts["AURA_HOOK_JOB"], facts["AURA_HOOK_OUTCOME"]) == (
        "on_recovery",
        "backup",
        "succeeded",
    )
    assert "AURA_HOOK_REASON" not in facts


def test_lost_runs_are_told_whoever_judges_them(site: Site, tell: str) -> None:
    """One of the daemon's own, after its kill -9; one of an aura-run that is killed; as failures, if nothing else is said."""
    site.configure(
        _by_hand("own", f"echo $$ >{site.home}/own; sleep 1000", f'on_lost_run.command = ["{tell}"]')
        + f'[jobs.cron]\nexpected_interval = "1d"\non_failure.command = ["{tell}"]\n'
    )
    site.start()
    _trigger(site, "own")
    wait_until(lambda: (site.home / "own").exists() and (site.home / "own").read_text().strip())
    wait_until(lambda: site.rows("SELECT 1 FROM open_runs"))
    site.kill()
    os.kill(int((site.home / "own").read_text()), signal.SIGKILL)
    site.start()
    wait_until(lambda: len(_told(site)) == 1)
    site.run("-j", "cron", "--", "sh", "-c", f"while ! ls {site.state}/runs/*; do sleep 0.01; done; kill -9 $PPID")
    wait_until(lambda: len(_told(site)) == 2)

    facts = [_variables(told) for told in _told(site)]
    assert [(each["AURA_HOOK"], each["AURA_HOOK_JOB"], each["AURA_HOOK_OUTCOME"]) for each in facts] == [
        ("on_lost_run", "own", "lost"),
        ("on_lost_run", "cron", "lost"),
    ]


def test_pings_that_do_not_get_through_are_told_once_until_one_does(site: Site, webhook: HookServer) -> None:
    """By waiting time, though each success takes the place of the one before; and again in the next outage."""
    site.server.create_heartbeat("tick", expected_interval=3600)
    site.configure(
        f'[jobs.tick]\nevery = "1s"\ncommand = ["true"]\non_undeliverable = {{ webhook = "{webhook.url}", after = "3s" }}\n'
    )
    site.server.set_fault(target="ping", kind="status", status=503)
    site.start()
    wait_until(lambda: webhook.posts)
    wait_until(lambda: len(site.events("run.finished")) > 6)
    assert len(webhook.posts) == 1
    site.server.clear_faults()
    assert site.agent("queue", "flush").returncode == 0
    wait_until(lambda: site.server.pings("tick"))
    site.server.set_fault(target="ping", kind="status", status=503)
    wait_until(lambda: len(webhook.posts) == 2)

    first, second = webhook.posts
    assert (first["hook"], first["job"], first["outcome"]) == ("on_undeliverable", "tick", "succeeded")
    assert "HTTP 503" in first["reason"]
    assert "pings don't get through" in second["text"]


def test_a_ping_that_expires_is_told(site: Site, webhook: HookServer) -> None:
    """Before it has waited for as long as the hook says: it never gets through."""
    site.server.create_heartbeat("tick", expected_interval=3600)
    site.configure(
        _by_hand("tick", "true", f'max_age = "1s"\non_undeliverable.webhook = "{webhook.url}"'),
    )
    site.server.set_fault(target="ping", kind="status", status=503, retry_after=1)
    site.start()
    _trigger(site, "tick")
    wait_until(lambda: webhook.posts)

    assert "expired undelivered" in webhook.posts[0]["reason"]


def test_a_reported_run_calls_hooks_at_the_daemon(site: Site, tell: str) -> None:
    """With the job's name, exit code, signal and output of an aura-run that captures it."""
    site.configure(f'[jobs.cron]\nexpected_interval = "1d"\nattach = "output"\non_failure.command = ["{tell}"]\n')
    site.start()

    ended = site.run("-j", "cron", "--", "sh", "-c", "echo oh dear; kill -9 $$")

    wait_until(lambda: _told(site))
    (told,) = _told(site)
    facts = _variables(told)
    assert (ended.returncode, ended.stderr) == (-9, b"")
    assert (facts["AURA_HOOK_OUTCOME"], facts["AURA_HOOK_SIGNAL"]) == ("killed", "9")
    assert told.endswith("oh dear\n")


def test_a_hook_that_fails_is_tried_twice_and_logged_without_its_url(site: Site, webhook: HookServer) -> None:
    """Command and webhook apart; the third time would be one too many."""
    count = site.home / "count"
    site.configure(
        _by_hand(
            "backup",
            "exit 1",
            f'on_failure = {{ command = ["sh", "-c", "echo x >>{count}; echo no mail; exit 7"], webhook = "{webhook.url}" }}',
        )
    )
    webhook.answers += [500, 404]
    site.start()
    _trigger(site, "backup")
    wait_until(lambda: not site.rows("SELECT 1 FROM hook_calls") and site.events("hook.failed"))
    site.stop()

    assert (count.read_text(), len(webhook.posts)) == ("x\nx\n", 2)
    command, post = site.events("hook.failed")
    assert (command["job"], command["hook"], command["what"]) == ("backup", "on_failure", "command")
    assert (command["reason"], command["output"]) == ("exit status 7", "no mail\n")
    assert (post["what"], post["reason"]) == ("webhook", "HTTP 404")
    assert site.events("hook.called") == []
    assert "hunter2" not in site.log.read_text()


def test_a_slow_hook_holds_up_nothing(site: Site, webhook: HookServer) -> None:
    """While it hangs the next runs and their pings go on; the stop ends it within its grace, and it is told later."""
    site.server.create_heartbeat("tick")
    site.configure(
        _by_hand("backup", "exit 1", f'on_failure = {{ webhook = "{webhook.url}", timeout = "10m" }}')
        + '[jobs.tick]\nevery = "1s"\ncommand = ["true"]\n',
    )
    site.config.write_text(site.config.read_text().replace('flush_timeout = "5s"', 'flush_timeout = "200ms"'))
    webhook.held.clear()
    site.start()
    _trigger(site, "backup")
    wait_until(lambda: webhook.posts)
    before = len(site.server.pings("tick"))
    wait_until(lambda: len(site.server.pings("tick")) > before + 1)
    assert site.stop() == 0
    webhook.held.set()
    site.start()
    wait_until(lambda: site.events("hook.called"))

    assert [post["job"] for post in webhook.posts] == ["backup", "backup"]


def test_a_command_that_outstays_its_time_is_ended_with_its_children(site: Site) -> None:
    """SIGTERM, then SIGKILL; the log says that it timed out."""
    pids = site.home / "pids"
    hook = f'["sh", "-c", "trap \\"\\" TERM; sleep 1000 & echo $$ $! >>{pids}; wait; wait; sleep 1000"]'
    site.configure(_by_hand("backup", "exit 1", f'on_failure = {{ command = {hook}, timeout = "200ms" }}'))
    site.start()
    _trigger(site, "backup")
    wait_until(lambda: site.events("hook.failed"))

    assert site.events("hook.failed")[0]["reason"] == "timed out after 0.2s"
    alive = [pid for pid in pids.read_text().split() if Path(f"/proc/{pid}").exists()]
    assert [pid for pid in alive if ") Z" not in Path(f"/proc/{pid}/stat").read_text()] == []


@pytest.mark.root
@needs(root)
def test_a_command_runs_as_the_jobs_user(site: Site, tell: str) -> None:
    """As does the job; the output's file is that user's alone."""
    site.home.chmod(0o1777)
    for parent in site.home.parents:
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    nobody = pwd.getpwnam("nobody")
    site.configure(_by_hand("backup", "id -un; exit 1", f'user = "nobody"\non_failure.command = ["{tell}"]'))
    site.start()
    _trigger(site, "backup")
    wait_until(lambda: _told(site))

    (told,) = _told(site)
    assert f"mode=600 uid={nobody.pw_uid}" in told
    assert told.endswith("nobody\n")


def test_a_webhook_in_a_file_and_hooks_from_defaults(site: Site, webhook: HookServer) -> None:
    """[defaults] holds for each job that says nothing else; {} is nothing; a file that is gone is a failure by its name."""
    secret = site.home / "webhook"
    secret.write_text(webhook.url + "\n")
    site.configure(
        f'[defaults]\non_failure.webhook = "file:{secret}"\n'
        + _by_hand("one", "exit 1")
        + _by_hand("quiet", "exit 1", "on_failure = {}")
    )
    site.start()
    _trigger(site, "quiet")
    wait_until(lambda: site.events("run.finished"))
    _trigger(site, "one")
    wait_until(lambda: webhook.posts)
    secret.unlink()
    _trigger(site, "one")
    wait_until(lambda: site.events("hook.failed"))

    assert [post["job"] for post in webhook.posts] == ["one"]
    assert site.events("hook.failed")[0]["reason"] == f"webhook: {secret}: can't be read: No such file or directory"
    assert site.events("hook.called")[0]["job"] == "one"


def test_what_another_process_found_out_is_told_by_the_next_daemon(site: Site, tell: str) -> None:
    """history takes in a failure from the spool, without a daemon: nothing of it is lost."""
    site.configure(f'[jobs.cron]\nexpected_interval = "1d"\non_failure.command = ["{tell}"]\n')
    site.run("-j", "cron", "--no-wait", "--", "false")
    assert '"failed"' in site.agent("history", "--json").stdout
    assert _told(site) == []

    site.start()
    wait_until(lambda: _told(site))

    assert [_variables(told)["AURA_HOOK_JOB"] for told in _told(site)] == ["cron"]


def test_an_aura_run_inside_a_hook_calls_no_hook(site: Site) -> None:
    """Or a job that mends itself would never come to an end."""
    code = f'["sh", "-c", "echo x >>{site.home}/count; {AURA_RUN} -c {site.config} -j backup -- false"]'
    site.configure(_by_hand("backup", "exit 1", f"on_failure = {{ command = {code} }}"))
    site.start()
    _trigger(site, "backup")
    wait_until(lambda: len(site.rows("SELECT 1 FROM runs")) == 3 and site.events("hook.failed"))
    assert site.stop() == 0

    assert (site.home / "count").read_text() == "x\nx\n"
