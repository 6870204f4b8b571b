"""systemd/aura-agent.service in a booted systemd, with an embedded Aura beside it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.systemd.aura import TOKEN, Aura
from tests.systemd.installed import CREDENTIAL, UNIT, Installed
from tests.systemd.machine import Machine
from tests.waiting import wait_until

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(180)]

_UNITS = Path(__file__).resolve().parents[2] / "systemd"
_NO_JOBS = (_UNITS / "10-no-jobs.conf").read_text()


def test_unit_becomes_active_when_the_agent_is_ready(installed: Installed) -> None:
    """`systemctl start` returns once the agent answers, and `systemctl status` shows how many jobs it has."""
    installed.start()

    assert installed.state() == "active"
    assert "4 jobs" in installed.machine.show(UNIT, "StatusText")
    assert installed.main_pid() == installed.status()["pid"]


def test_start_fails_with_the_reason_when_the_config_is_broken(installed: Installed) -> None:
    """A config that can't be read keeps the unit from starting, and the journal names file, line and key."""
    installed.configure('[jobs.nightly]\nscedule = "0 3 * * *"\n')
    installed.drop_in("once", "[Service]\nRestart=no\n")

    assert installed.machine.try_run("systemctl", "start", UNIT).returncode != 0
    said = installed.machine.journal("-u", UNIT)
    assert "config.toml:" in said
    assert "scedule" in said
    assert "Traceback" not in said


def test_reload_takes_a_new_config(installed: Installed) -> None:
    """`systemctl reload` brings a new job into force in the same process."""
    installed.start()
    pid = installed.main_pid()
    installed.configure('[jobs.nightly]\ncommand = ["true"]\nschedule = "0 3 * * *"\n[jobs.brand-new]\n')

    installed.machine.run("systemctl", "reload", UNIT)

    assert [job["name"] for job in installed.status()["jobs"]] == ["nightly", "brand-new"]
    assert pid == installed.main_pid()


def test_broken_config_on_reload_leaves_the_old_one_in_force(installed: Installed) -> None:
    """`systemctl reload` fails, the service stays active with its jobs, and says what is wrong."""
    installed.start()
    pid = installed.main_pid()
    installed.configure("[jobs.nightly\n")

    assert installed.machine.try_run("systemctl", "reload", UNIT).returncode != 0
    assert ("active", pid) == (installed.state(), installed.main_pid())
    state = installed.status()
    assert len(state["jobs"]) == 4
    assert "config.toml" in state["config_problem"]


def test_sighup_reloads_too(installed: Installed) -> None:
    """Whoever sends SIGHUP, as log rotation does, gets a reload rather than the end of the daemon."""
    installed.start()
    pid = installed.main_pid()
    installed.configure("[jobs.brand-new]\n")

    installed.machine.run("systemctl", "kill", "--kill-who=main", "--signal=HUP", UNIT)

    wait_until(lambda: [job["name"] for job in installed.status()["jobs"]] == ["brand-new"], what="reloaded")
    assert ("active", pid) == (installed.state(), installed.main_pid())


def test_success_of_a_job_reaches_aura(installed: Installed, aura: Aura) -> None:
    """A job that ends well is one ping of its heartbeat."""
    installed.start()
    installed.trigger("nightly")

    wait_until(lambda: aura.pings("nightly") == 1, what="the ping arrives")


def test_job_runs_as_its_user_and_no_less_free_than_under_cron(installed: Installed) -> None:
    """`user = …` is who the job is, by name and all ids; it sees the machine's own mounts, and sudo would work."""
    installed.start()
    installed.trigger("mail")
    installed.wait_for_outcome("mail", "succeeded")

    home = installed.machine.path("/home/backup-user")
    assert (home / "who").read_text().strip() == "backup-user"
    status = dict(line.split(":\t", 1) for line in (home / "status").read_text().splitlines() if ":\t" in line)
    uid = installed.machine.run("id", "-u", "backup-user").strip()
    assert [uid] * 4 == status["Uid"].split()
    assert "0" not in status["Gid"].split() + status["Groups"].split()
    assert status["NoNewPrivs"].strip() == "0"
    assert installed.machine.run("readlink", "/proc/1/ns/mnt") == (home / "namespace").read_text()


def test_killed_agent_is_restarted_with_its_queue(installed: Installed, aura: Aura) -> None:
    """After `kill -9` systemd starts it again, and the ping that waited is delivered."""
    aura.refuse_pings()
    installed.start()
    installed.trigger("nightly")
    installed.wait_for_outcome("nightly", "succeeded")
    pid = installed.main_pid()

    installed.machine.run("kill", "-9", str(pid))
    installed.wait_restarted(pid)

    assert aura.pings("nightly") == 0
    aura.recover()
    installed.machine.run("aura-agent", "queue", "flush")
    wait_until(lambda: aura.pings("nightly") == 1, what="the ping arrives")


def test_stop_ends_a_running_job_and_says_so(installed: Installed) -> None:
    """`systemctl stop` gives the job its grace, ends it, records it as killed, and leaves no process behind."""
    installed.start()
    installed.trigger("long")
    wait_until(lambda: "86399" in installed.machine.run("ps", "-e", "-o", "args"), what="the job runs")

    installed.machine.run("systemctl", "stop", UNIT)

    assert (installed.machine.show(UNIT, "Result"), installed.machine.show(UNIT, "ExecMainStatus")) == ("success", "0")
    assert "86399" not in installed.machine.run("ps", "-e", "-o", "args")
    assert "killed" in installed.machine.run("aura-agent", "history", "long")


def test_watchdog_restarts_an_agent_that_is_stuck(installed: Installed) -> None:
    """An agent that doesn't come round to its work any more is killed and started again."""
    installed.drop_in("watchdog", "[Service]\nWatchdogSec=2\nTimeoutAbortSec=5\n")
    installed.start()
    pid = installed.main_pid()

    installed.machine.run("kill", "-STOP", str(pid))
    installed.wait_restarted(pid)

    assert "Failed with result 'watchdog'" in installed.machine.journal("-u", UNIT)


def test_watchdog_leaves_a_healthy_agent_alone(installed: Installed) -> None:
    """The agent feeds its watchdog in time: several of its periods pass without a restart."""
    installed.drop_in("watchdog", "[Service]\nWatchdogSec=1\n")
    installed.start()
    pid, fed_at = installed.main_pid(), int(installed.machine.show(UNIT, "WatchdogTimestampMonotonic"))

    def fed_for_3_s() -> bool:
        return int(installed.machine.show(UNIT, "WatchdogTimestampMonotonic")) - fed_at > 3_000_000

    wait_until(fed_for_3_s, what="the watchdog is fed for three seconds")
    assert (pid, "0") == (installed.main_pid(), installed.machine.show(UNIT, "NRestarts"))


def test_unit_starts_without_the_credential(installed: Installed, aura: Aura) -> None:
    """Without a token jobs run all the same and their pings wait; a restart that brings one delivers them."""
    installed.machine.path(CREDENTIAL).unlink()
    installed.start()
    installed.trigger("nightly")
    installed.wait_for_outcome("nightly", "succeeded")
    assert installed.status()["queue"]["waiting"] == 1

    installed.machine.write(CREDENTIAL, TOKEN, 0o600)
    installed.machine.run("systemctl", "restart", UNIT)

    wait_until(lambda: aura.pings("nightly") == 1, what="the ping arrives")


def test_jobs_cannot_read_the_credential(installed: Installed) -> None:
    """A job that runs as another user can read neither the credential nor its store."""
    job = 'shell = "cat /run/credentials/aura-agent.service/aura-token /etc/credstore/aura-token > ~/stolen"'
    installed.configure(f'[jobs.mail]\nuser = "backup-user"\nschedule = "0 0 1 1 *"\n{job}\n')
    installed.start()
    installed.trigger("mail")
    installed.wait_for_outcome("mail", "failed")

    assert installed.machine.path("/home/backup-user/stolen").read_text() == ""


def test_aura_run_in_another_unit_reports_over_the_socket(installed: Installed, aura: Aura) -> None:
    """`ExecStart=aura-run …` of a unit of another user is a run of the daemon, and needs no token of its own."""
    installed.start()
    installed.machine.write(
        "/run/systemd/system/reported.service",
        "[Service]\nType=oneshot\nUser=backup-user\n"
        "ExecStart=/opt/aura-agent/bin/aura-run -H reported -j reported -- /usr/bin/true\n",
    )
    installed.machine.run("systemctl", "daemon-reload")

    installed.machine.run("systemctl", "start", "reported.service")

    wait_until(lambda: aura.pings("reported") == 1, what="the ping arrives")
    installed.wait_for_outcome("reported", "succeeded")
    assert not installed.machine.path("/home/backup-user/.local").exists()


def test_aura_run_of_a_stranger_is_refused_and_its_job_runs(installed: Installed, aura: Aura) -> None:
    """A user who is not among the reporters gets one line that names the setting, and the job's own status."""
    installed.start()

    done = installed.machine.try_run(
        *("setpriv", "--reuid=stranger", "--regid=stranger", "--init-groups", "env", "HOME=/home/stranger"),
        *("aura-run", "-H", "reported", "--no-wait", "--", "sh", "-c", "exit 7"),
    )

    assert done.returncode == 7
    assert "reporters" in done.stderr
    assert aura.pings("reported") == 0


def test_store_and_sockets_have_the_modes_that_keep_them_private(installed: Installed) -> None:
    """The state is root's alone; the report socket is everybody's, the control socket root's."""
    installed.start()
    installed.trigger("nightly")
    installed.wait_for_outcome("nightly", "succeeded")

    state = installed.machine.path("/var/lib/aura-agent")
    assert (state.stat().st_mode, state.stat().st_uid) == (0o40700, 0)
    files = [path for path in state.rglob("*") if path.is_file()]
    assert files
    assert {0} == {path.stat().st_mode & 0o077 for path in files}
    run = installed.machine.path("/run/aura-agent")
    assert run.stat().st_mode == 0o40755
    assert (run / "agent.sock").stat().st_mode & 0o777 == 0o666
    assert (run / "control.sock").stat().st_mode & 0o777 == 0o600


def test_socket_directory_outlives_a_restart(installed: Installed) -> None:
    """A container that has the directory mounted still finds the socket after a restart of the agent."""
    installed.start()
    run = installed.machine.path("/run/aura-agent")
    before = run.stat().st_ino

    installed.machine.run("systemctl", "restart", UNIT)

    assert before == run.stat().st_ino
    assert (run / "agent.sock").is_socket()


def test_journal_never_holds_the_token_or_a_ping_url(installed: Installed, aura: Aura) -> None:
    """Neither success, nor refusal, nor debug logging puts a secret into the journal."""
    installed.configure(agent='log_level = "debug"\n')
    installed.start()
    installed.trigger("nightly")
    wait_until(lambda: aura.pings("nightly") == 1, what="the ping arrives")
    aura.refuse_pings()
    installed.trigger("nightly")
    wait_until(lambda: installed.status()["queue"]["waiting"] == 1, what="a ping waits")
    installed.machine.run("systemctl", "stop", UNIT)

    said = installed.machine.journal()
    assert "nightly" in said
    assert TOKEN not in said
    assert "/ping/" not in said


def test_drop_in_for_agents_without_jobs_leaves_reports_and_watches_working(installed: Installed, aura: Aura) -> None:
    """Locked up as 10-no-jobs.conf does it, reports and watches of other users' processes are pinged."""
    installed.drop_in("10-no-jobs", _NO_JOBS)
    watched = '[jobs.guarded]\nevery = "1s"\nwatch.process = { name = "sleep", user = "backup-user" }\n'
    installed.configure(f"[jobs.reported]\n{watched}")
    installed.machine.run("systemd-run", "--quiet", "--unit=guarded", "--uid=backup-user", "/usr/bin/sleep", "86398")
    try:
        installed.start()
        installed.machine.run("aura-run", "-H", "reported", "--", "true")

        wait_until(lambda: aura.pings("reported") == 1, what="the report is pinged")
        wait_until(lambda: aura.pings("guarded") > 0, what="the watch is pinged")
        installed.machine.run("systemctl", "reload", UNIT)
    finally:
        installed.machine.run("systemctl", "stop", "guarded.service")


def test_unit_file_has_no_mistakes(machine: Machine) -> None:
    """`systemd-analyze verify` has nothing to say of the installed unit, and it can be enabled."""
    done = machine.try_run("systemd-analyze", "verify", f"/etc/systemd/system/{UNIT}")

    assert (done.returncode, done.stderr) == (0, "")
    machine.run("systemctl", "enable", UNIT)
    machine.run("systemctl", "disable", UNIT)


@pytest.mark.parametrize(
    ("drop_in", "threshold"),
    # In tenths. What starts jobs as their users is as exposed as cron is (9.6), and a little less.
    [("", 94), (_NO_JOBS, 27)],
    ids=["as it is", "without jobs"],
)
def test_unit_is_no_more_exposed_than_stated(tmp_path: Path, drop_in: str, threshold: int) -> None:
    """`systemd-analyze security` stays below what docs/installing.md says."""
    whole = tmp_path / UNIT
    shutil.copy(_UNITS / UNIT, whole)
    with whole.open("a") as file:
        file.write(drop_in)
    argv = ["systemd-analyze", "--no-pager", "security", "--offline=yes", f"--threshold={threshold}", str(whole)]

    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "SYSTEMD_COLORS": "0"})

    assert done.returncode == 0, done.stdout[-200:] + done.stderr
