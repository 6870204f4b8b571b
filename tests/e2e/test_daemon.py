"""The daemon as a service: schedules, signals, reload, watches, and what its commands say."""

import json
import os
import pwd
import signal
import subprocess
import time
from pathlib import Path

import pytest

from aura_agent.wrapper.daemon import Daemon, Refused
from tests.e2e.sites import Site
from tests.machine import needs, root
from tests.waiting import wait_until

_EVERY_SECOND = """
[jobs.tick]
every = "1s"
command = ["true"]
"""


def _runs(site: Site, job: str) -> list[dict[str, object]]:
    listed = site.agent("history", job, "--json")
    assert listed.returncode == 0, listed.stderr
    rows: list[dict[str, object]] = json.loads(listed.stdout)
    return rows


def test_cron_and_interval_jobs_run_and_ping_and_a_failing_one_does_not(site: Site) -> None:
    """Six fields with seconds first; success goes the whole way, failure is silence."""
    for name in ("cron", "tick", "bad"):
        site.server.create_heartbeat(name)
    site.configure(
        _EVERY_SECOND
        + """
[jobs.cron]
schedule = "* * * * * *"
shell = "echo $0 $HOME"
[jobs.bad]
every = "1s"
shell = "echo sorry; exit 3"
"""
    )
    site.start()
    wait_until(lambda: len(site.server.pings("cron")) >= 2 and len(site.server.pings("tick")) >= 2)
    wait_until(lambda: len(_runs(site, "bad")) >= 2)

    assert site.stop() == 0
    assert site.server.pings("bad") == []
    bad = _runs(site, "bad")[0]
    assert (bad["outcome"], bad["exit_code"], bad["tail"]) == ("failed", 3, "sorry\n")


def test_what_was_missed_is_made_up_for_in_turn(site: Site) -> None:
    """After a pause of the whole process, catch_up = "all" runs each second's job, none beside another, none skipped."""
    alone = f"mkdir {site.home}/busy && sleep 0.05; rmdir {site.home}/busy"
    site.configure(f'[jobs.tick]\nevery = "1s"\ncatch_up = "all"\nshell = "{alone}"\n')
    site.start()
    wait_until(lambda: site.events("run.finished"))
    assert site.daemon is not None
    site.daemon.send_signal(signal.SIGSTOP)
    stopped_at, before = time.time(), len(site.events("run.finished"))
    wait_until(lambda: time.time() > stopped_at + 3)
    site.daemon.send_signal(signal.SIGCONT)
    wait_until(lambda: len(site.events("run.finished")) >= before + 4)

    assert {run["outcome"] for run in _runs(site, "tick")} == {"succeeded"}


@pytest.mark.root
@needs(root)
def test_a_job_runs_as_its_user_in_its_place(site: Site, tmp_path: Path) -> None:
    """User, working directory, umask, environment: as configured, and a clean environment besides."""
    nobody = pwd.getpwnam("nobody")
    place = Path("/tmp") / f"aura-{os.getpid()}-{site.server.port}"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    site.extra["SURPRISE"] = "inherited"
    site.configure(
        f"""
[jobs.who]
schedule = "@yearly"
user = "nobody"
cwd = "{place}"
umask = "0027"
env = {{ COLOUR = "red" }}
shell = "id -un >out; pwd >>out; umask >>out; echo $COLOUR $SURPRISE $HOME $USER >>out"
"""
    )
    try:
        site.start()
        assert site.agent("trigger", "who").returncode == 0
        wait_until(lambda: [run["outcome"] for run in _runs(site, "who")] == ["succeeded"])
        lines = (place / "out").read_text().splitlines()
        assert lines == ["nobody", str(place), "0027", f"red {nobody.pw_dir} nobody"]
    finally:
        (place / "out").unlink(missing_ok=True)
        place.rmdir()


def test_sigterm_lets_jobs_finish_and_flushes(site: Site) -> None:
    """No new runs; what runs gets its grace; its ping still goes out; the status is 0."""
    site.server.create_heartbeat("slow")
    site.configure(
        '[jobs.slow]\nschedule = "@yearly"\nshell = "touch begun; while [ ! -e go ]; do sleep 0.05; done"\n'
        f'cwd = "{site.home}"\n'
    )
    site.config.write_text(site.config.read_text().replace('stop_grace = "5s"', 'stop_grace = "60s"'))
    site.start()
    assert site.agent("trigger", "slow").returncode == 0
    wait_until((site.home / "begun").exists)
    assert site.daemon is not None
    site.daemon.terminate()
    wait_until(lambda: site.events("agent.stopping"))
    (site.home / "go").touch()

    assert site.daemon.wait(timeout=60) == 0
    site.daemon = None
    assert len(site.server.pings("slow")) == 1
    assert site.waiting() == 0


def test_a_job_that_outstays_the_grace_is_ended_and_pings_nothing(site: Site) -> None:
    """killed by our own stop is an outcome that withdraws; what it leaves is in the history."""
    site.server.create_heartbeat("endless")
    site.configure(
        '[jobs.endless]\nschedule = "@yearly"\nshell = "trap \'\' TERM; sleep 1000 & wait; wait"\nkill_after = "200ms"\n'
    )
    site.config.write_text(site.config.read_text().replace('stop_grace = "5s"', 'stop_grace = "0s"'))
    site.start()
    site.agent("trigger", "endless")
    wait_until(lambda: site.events("run.started"))

    assert site.stop() == 0
    assert [run["outcome"] for run in _runs(site, "endless")] == ["killed"]
    assert site.server.pings() == []


def test_a_killed_daemons_run_is_lost(site: Site) -> None:
    """It counts as a failure, found by the next daemon."""
    site.configure('[jobs.long]\nschedule = "@yearly"\nshell = "exec sleep 1000"\n')
    site.start()
    site.agent("trigger", "long")
    wait_until(lambda: site.rows("SELECT 1 FROM open_runs"))
    pid = site.events("run.started")[0]["pid"]
    site.kill()
    os.kill(pid, signal.SIGKILL)
    site.start()

    wait_until(lambda: [run["outcome"] for run in _runs(site, "long")] == ["lost"])


def test_a_timeout_kills_the_tree_and_is_said(site: Site) -> None:
    """The outcome is timed_out, with its reason in the history."""
    site.configure('[jobs.long]\nschedule = "@yearly"\nshell = "sleep 1000 & wait"\ntimeout = "300ms"\n')
    site.start()
    site.agent("trigger", "long")

    wait_until(lambda: [run["outcome"] for run in _runs(site, "long")] == ["timed_out"])
    assert "timed out after 0.3s" in str(_runs(site, "long")[0]["reason"])


def test_an_expectation_that_is_not_met_is_a_failure(site: Site) -> None:
    """Exit 0 without the file that the run was there to make is no success."""
    site.server.create_heartbeat("dump")
    site.configure(
        f"""
[jobs.dump]
schedule = "@yearly"
shell = "test -e skip || echo data >dump.out"
cwd = "{site.home}"
expect.file = {{ path = "{site.home}/dump.out", newer_than = "start", min_size = "1B" }}
"""
    )
    site.start()
    site.agent("trigger", "dump")
    wait_until(lambda: len(site.server.pings("dump")) == 1)
    (site.home / "skip").touch()
    site.agent("trigger", "dump")

    wait_until(lambda: [run["outcome"] for run in _runs(site, "dump")] == ["failed", "succeeded"])
    assert "before the run's start" in str(_runs(site, "dump")[0]["reason"])


def test_a_broken_config_keeps_the_old_one_running(site: Site) -> None:
    """SIGHUP and reload say what is wrong; status shows it until it is mended."""
    site.server.create_heartbeat("tick")
    site.configure(_EVERY_SECOND)
    site.start()
    site.configure('[jobs.tick]\nevery = "1s"\ncomand = ["true"]\n')
    assert site.daemon is not None
    site.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: site.events("config.refused"))

    reloaded = site.agent("reload")
    assert reloaded.returncode == 1
    assert "comand" in reloaded.stderr
    assert "command" in reloaded.stderr
    assert "comand" in json.loads(site.agent("status", "--json").stdout)["config_problem"]
    heard = len(site.server.pings("tick"))
    wait_until(lambda: len(site.server.pings("tick")) > heard)

    site.server.create_heartbeat("tock")
    site.configure('[jobs.tock]\nevery = "1s"\ncommand = ["true"]\n')
    assert site.agent("reload").returncode == 0
    wait_until(lambda: site.server.pings("tock"))
    status = json.loads(site.agent("status", "--json").stdout)
    assert (status["config_problem"], [job["name"] for job in status["jobs"]]) == ("", ["tock"])


def test_a_second_daemon_is_refused(site: Site) -> None:
    """One line, and the first goes on."""
    site.start()

    second = site.agent("run")

    assert second.returncode == 1
    assert len(second.stderr.splitlines()) == 1
    assert "another daemon" in second.stderr
    assert site.agent("status").returncode == 0


def test_status_without_a_daemon_says_so(site: Site) -> None:
    """Exit 1 and one line that says what to do."""
    asked = site.agent("status")

    assert asked.returncode == 1
    assert len(asked.stderr.splitlines()) == 1
    assert "no daemon answers" in asked.stderr


def test_a_pause_holds_over_a_restart(site: Site) -> None:
    """Until it is resumed; and it says that the heartbeat in Aura isn't paused."""
    site.server.create_heartbeat("tick")
    site.configure(_EVERY_SECOND)
    site.start()
    paused = site.agent("pause", "tick")
    assert "heartbeat" in paused.stdout
    site.stop()
    site.start()
    assert json.loads(site.agent("status", "--json").stdout)["jobs"][0]["next"] is None
    heard = len(site.server.pings())
    assert site.agent("resume", "tick").returncode == 0
    wait_until(lambda: len(site.server.pings()) > heard)


def test_trigger_names_the_nearest_job(site: Site) -> None:
    """A typo is an error that helps."""
    site.configure(_EVERY_SECOND)
    site.start()

    asked = site.agent("trigger", "tik")

    assert asked.returncode == 1
    assert "'tick'" in asked.stderr


def test_a_watched_process_pings_while_it_lives(site: Site) -> None:
    """Alive it pings every second; dead, the pings end."""
    site.server.create_heartbeat("alive")
    process = subprocess.Popen(["sleep", "1000"])
    (site.home / "pid").write_text(f"{process.pid}\n")
    site.configure(f'[jobs.alive]\nevery = "1s"\nwatch.process = {{ pidfile = "{site.home}/pid" }}\n')
    site.start()
    wait_until(lambda: len(site.server.pings("alive")) >= 2)
    process.kill()
    process.wait()
    wait_until(lambda: any(event["healthy"] is False for event in site.events("watch.changed")))
    heard = len(site.server.pings("alive"))
    wait_until(lambda: json.loads(site.agent("status", "--json").stdout)["jobs"][0]["watch"]["healthy"] is False)

    assert len(site.server.pings("alive")) == heard
    assert site.queue("--all") == []


def test_a_watched_file_pings_while_it_is_fresh(site: Site) -> None:
    """Old or missing is unhealthy, with the reason in status."""
    site.server.create_heartbeat("fresh")
    site.configure(
        f'[jobs.fresh]\nevery = "1s"\nwatch.file = {{ path = "{site.home}/*.dump", max_age = "1h", min_size = "2B" }}\n'
    )
    site.start()
    wait_until(lambda: any(event["healthy"] is False for event in site.events("watch.changed")))
    assert site.server.pings() == []
    (site.home / "a.dump").write_text("data")
    wait_until(lambda: site.server.pings("fresh"))


def test_the_agents_own_heartbeat_is_pinged(site: Site) -> None:
    """Once a minute, while it works: the first look is at the next full minute, so only the set-up is seen here."""
    site.server.create_heartbeat("agent")
    site.configure(agent='heartbeat = "agent"')
    site.start()

    assert site.agent("status").returncode == 0


def test_a_refused_token_degrades_the_agent_and_says_so(site: Site) -> None:
    """In status, page and metrics; what was resolved before is pinged all the same, and it recovers by a reload."""
    import httpx

    site.server.create_heartbeat("known", 3600)
    site.server.create_heartbeat("new", 3600)
    jobs = '[jobs.{0}]\nschedule = "@yearly"\ncommand = ["true"]\n'
    top = '[status]\nlisten = "127.0.0.1:0"\n'
    site.configure(jobs.format("known"), top=top)
    site.start()
    assert site.agent("trigger", "known").returncode == 0
    wait_until(lambda: site.server.pings("known"))
    site.server.set_fault("status", target="api", status=401)
    site.configure(jobs.format("known") + jobs.format("new"), top=top)
    assert site.agent("reload").returncode == 0
    for job in ("new", "known"):
        assert site.agent("trigger", job).returncode == 0
    wait_until(lambda: len(site.server.pings("known")) == 2 and site.events("api.failed"))
    status = site.agent("status").stdout
    port = site.events("status.listening")[0]["port"]
    assert "problem: degraded: auth: the Aura API refused GET /heartbeats" in status
    assert "degraded: auth" in httpx.get(f"http://127.0.0.1:{port}/").text
    assert 'aura_agent_api_degraded{kind="auth"} 1.0' in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    site.server.clear_faults()
    assert site.agent("reload").returncode == 0
    wait_until(lambda: site.server.pings("new"))

    assert "degraded" not in site.agent("status").stdout


def test_probes_metrics_and_page(site: Site) -> None:
    """Only where listen is set; no secret on any of them."""
    import httpx

    site.server.create_heartbeat("tick")
    site.configure(_EVERY_SECOND, top='[status]\nlisten = "127.0.0.1:0"\n')
    site.start()
    wait_until(lambda: site.server.pings("tick"))
    port = site.events("status.listening")[0]["port"]
    answers = {path: httpx.get(f"http://127.0.0.1:{port}{path}") for path in ("/", "/healthz", "/readyz", "/metrics")}

    assert {answer.status_code for answer in answers.values()} == {200}
    assert 'aura_agent_pings_total{job="tick",state="delivered"}' in answers["/metrics"].text
    assert "tick" in answers["/"].text
    for answer in answers.values():
        assert site.server.token not in answer.text
        assert site.server.heartbeat("tick").ping_url.rpartition("/")[2] not in answer.text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost", 200),
        ("LOCALHOST.", 200),
        ("[::1]", 200),
        ("rebound.example", 421),
        ("127.0.0.1.rebound.example", 421),
        ("localhost.rebound.example", 421),
        ("192.0.2.1", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_the_page_answers_to_names_of_this_host_alone(site: Site, host: str, status: int) -> None:
    """A domain that was made to mean 127.0.0.1 reads nothing, and browsers are told what the page never does."""
    import httpx

    site.configure(top='[status]\nlisten = "127.0.0.1:0"\n')
    site.start()
    port = site.events("status.listening")[0]["port"]

    for path in ("/", "/metrics", "/healthz"):
        answer = httpx.get(f"http://127.0.0.1:{port}{path}", headers={"Host": f"{host}:{port}"})

        assert answer.status_code == status
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert ("aura" in answer.text or answer.text == "ok") == (status == 200)


def test_a_matching_command_borrows_its_jobs_settings(site: Site) -> None:
    """With no flags, a job whose command is exactly this argv lends heartbeat, time-out and success codes."""
    script = site.home / "work.sh"
    script.write_text('#!/bin/sh\n[ "$1" = hang ] && exec sleep 1000\nexit 3\n')
    script.chmod(0o755)
    site.server.create_heartbeat("lent")
    site.configure(
        f"""
[jobs.good]
heartbeat = "lent"
command = ["{script}", "--full"]
success_codes = [0, 3]
[jobs.slow]
heartbeat = "lent"
command = ["{script}", "hang"]
timeout = "300ms"
"""
    )
    for with_daemon in (False, True):
        if with_daemon:
            site.start()
        assert site.run("--", str(script), "--full").returncode == 3
        wait_until(lambda: len(site.server.pings("lent")) == 1 + with_daemon)  # noqa: B023
        assert site.run("--", str(script), "hang").returncode == 124


def test_a_job_by_name_brings_its_command(site: Site) -> None:
    """-j NAME alone runs the config's command; without a readable job nothing is run."""
    site.server.create_heartbeat("mine")
    site.configure('[jobs.mine]\nshell = "echo $COLOUR"\nenv = { COLOUR = "red" }\n')

    ended = site.run("-j", "mine")
    unknown = site.run("-j", "other")

    assert (ended.returncode, ended.stdout) == (0, b"red\n")
    assert [ping.name for ping in site.server.pings()] == ["mine"]
    assert (unknown.returncode, len(unknown.stderr.splitlines())) == (125, 1)


def test_a_broken_config_does_not_keep_a_command_from_running(site: Site) -> None:
    """One line, and the command's own status."""
    site.config.write_text("[jobs\n")
    site.extra = {"AURA_STATE_DIR": str(site.state), "AURA_SOCKET": str(site.home / "none")}

    ended = site.run("-H", "x", "--no-wait", "--", "sh", "-c", "exit 5")

    assert ended.returncode == 5
    assert len(ended.stderr.splitlines()) == 1
    assert b"config.toml:1" in ended.stderr


@pytest.mark.root
@needs(root)
def test_only_reporters_may_report(site: Site) -> None:
    """The kernel says who reports: a user who isn't among them is refused by name."""
    site.start()

    child = os.fork()
    if child == 0:
        verdict = 3
        try:
            os.chdir(site.home / "run")  # the way there is closed to others: pytest sees to that anew as it starts
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            verdict = _refused("agent.sock")
        finally:
            os._exit(verdict)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert site.events("report.refused")[0]["user"] == "nobody"


def _refused(path: str) -> int:
    daemon = Daemon(path)
    daemon.introduce({"run": "run12345", "boot": "b", "start_boot_ns": "1", "start_ns": "1", "ref": "heartbeat:x"})
    try:
        daemon.settings()
    except Refused as refusal:
        return 0 if "nobody" in str(refusal) else 2
    return 1


def test_a_store_that_breaks_under_it_is_never_healthy(site: Site) -> None:
    """The daemon says so, or ends with an error for its supervisor; it doesn't go on as if all were well."""
    import sqlite3

    site.configure(_EVERY_SECOND, top='[status]\nlisten = "127.0.0.1:0"\n')
    site.start()
    wait_until(lambda: site.events("run.finished"))
    broken = sqlite3.connect(site.state / "outbox.db", timeout=30)
    broken.executescript("DROP TABLE streams; DROP TABLE runs; DROP TABLE jobs;")
    broken.close()
    daemon = site.daemon
    assert daemon is not None

    def noticed() -> bool:
        if daemon.poll() is not None:
            return True
        import httpx

        try:
            return httpx.get(f"http://127.0.0.1:{site.events('status.listening')[0]['port']}/readyz").status_code == 503
        except httpx.TransportError:
            return False

    wait_until(noticed)
    assert daemon.poll() in (None, 1)


def test_a_reload_asked_for_during_the_start_is_not_deadly(site: Site) -> None:
    """SIGHUP from whoever can't wait: heard once the daemon is ready, if it comes after Python has begun to listen."""
    site.start()
    assert site.daemon is not None
    for _ in range(20):
        site.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: site.events("config.loaded"))

    assert site.agent("status").returncode == 0
    assert site.stop() == 0


def test_a_job_finds_the_surroundings_that_its_config_says(site: Site) -> None:
    """Variables from a file and from the daemon, the chosen shell, priority and limits; its lines are in the log."""
    (site.home / "env").write_text("COLOUR=red\nSHAPE=round\n")
    site.extra |= {"PROXY": "inherited", "SURPRISE": "inherited"}
    site.configure(
        f"""
[jobs.place]
schedule = "@yearly"
env_file = "{site.home}/env"
env = {{ SHAPE = "square" }}
inherit_env = ["PROXY"]
shell_program = "/bin/bash"
nice = 7
limits = {{ open_files = 100, core = "0B" }}
output = "log"
shell = 'echo $COLOUR $SHAPE $PROXY $SURPRISE $SHELL ${{BASH_VERSION:+bash}} $(nice) $(ulimit -n) $(ulimit -c); echo oops >&2'
[jobs.quiet]
schedule = "@yearly"
output = "drop"
shell = "at=$(readlink /proc/$$/fd/1); echo $at >{site.home}/where; echo lost"
[jobs.broken]
schedule = "@yearly"
env_file = "{site.home}/none"
command = ["true"]
"""
    )
    site.start()
    for job in ("place", "quiet", "broken"):
        assert site.agent("trigger", job).returncode == 0
        wait_until(lambda job=job: _runs(site, job))  # type: ignore[misc]

    said = "red square inherited /bin/bash bash 7 100 0"
    logged = [(event["stream"], event["text"]) for event in site.events("run.output")]
    assert sorted(logged) == [("stderr", "oops"), ("stdout", said)]
    (place,), (quiet,), (broken,) = (_runs(site, job) for job in ("place", "quiet", "broken"))
    assert sorted(str(place["tail"]).splitlines()) == sorted([said, "oops"])
    assert isinstance(place["cpu_s"], float)
    assert (place["io_read_bytes"], place["io_written_bytes"]) != (None, None)
    assert ((site.home / "where").read_text(), quiet["tail"]) == ("/dev/null\n", "")
    assert (broken["outcome"], broken["reason"]) == (
        "not_started",
        f"env_file {site.home}/none: No such file or directory",
    )


def test_a_trigger_says_whether_its_run_waits_and_a_removed_job_is_stopped(site: Site) -> None:
    """Started, waits for the previous run, or for its turn: as status has it. Gone from the config, it is ended."""
    hang = 'schedule = "@yearly"\ncommand = ["sleep", "1000"]\njob_group = "slow"\nwhen_removed = "stop"\n'
    site.configure(f'[job_groups.slow]\nmax_concurrent = 1\n[jobs.one]\noverlap = "queue"\n{hang}[jobs.two]\n{hang}')
    site.start()
    said = [site.agent("trigger", job).stdout for job in ("one", "one", "two")]
    states = {job["name"]: job["waiting"] for job in json.loads(site.agent("status", "--json").stdout)["jobs"]}
    skipped = site.agent("trigger", "two")
    assert said[0].startswith("one: started as run ")
    assert said[1].endswith('waits: the previous run is still going (overlap = "queue")\n')
    assert said[2].endswith("waits: 1 runs go on, and max_concurrent of job group slow is 1\n")
    assert all(states.values())
    assert (skipped.returncode, len(skipped.stderr.splitlines())) == (1, 1)
    wait_until(lambda: site.events("run.started"))
    site.configure(f"[job_groups.slow]\nmax_concurrent = 1\n[jobs.two]\n{hang}")
    assert site.agent("reload").returncode == 0
    wait_until(lambda: len(site.events("run.started")) == 2)

    assert {str(run["outcome"]): run["reason"] for run in _runs(site, "one")} == {
        "killed": "its job has left the config",
        "skipped": "its job has left the config",
    }
    assert site.events("run.started")[1]["job"] == "two"


def test_changed_files_are_reloaded_by_themselves_if_that_is_asked_for(site: Site) -> None:
    """A broken one is refused and told, the old one stays; the next good one holds, its log level too."""
    top = '[status]\nlisten = "127.0.0.1:0"\n'
    site.configure(agent="reload_on_change = true", top=top)
    site.start()
    site.configure('[jobs.a]\ncomand = ["true"]\n', agent="reload_on_change = true", top=top)
    wait_until(lambda: site.events("config.refused"))
    assert "comand" in json.loads(site.agent("status", "--json").stdout)["config_problem"]
    import httpx

    port = site.events("status.listening")[0]["port"]
    assert "aura_agent_config_problems 1.0" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    site.configure("[jobs.b]\n", agent='reload_on_change = true\nlog_level = "warning"', top=top)
    wait_until(lambda: [job["name"] for job in json.loads(site.agent("status", "--json").stdout)["jobs"]] == ["b"])

    assert site.agent("reload").returncode == 0
    assert site.events("config.loaded") == []
