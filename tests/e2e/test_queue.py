"""The commands of the outbox, and a ping by hand, against an embedded Aura."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
from contextlib import closing
from typing import Any

import pytest

from aura_agent.outbox.store import open_outbox
from tests.e2e.sites import AURA_AGENT, Site
from tests.waiting import wait_until


@pytest.fixture
def waiting(site: Site) -> Site:
    """A site without a daemon in whose outbox a ping waits for each of two heartbeats."""
    for name in ("one", "two"):
        site.server.create_heartbeat(name, expected_interval=3600)
        assert site.run("-H", name, "--no-wait", "--attach", "summary", "--", "true").returncode == 0
    return site


def _entry(site: Site, heartbeat: str) -> dict[str, Any]:
    (row,) = [row for row in site.queue("--all") if row["heartbeat"] == heartbeat]
    return row


def _show(site: Site, entry_id: int) -> dict[str, Any]:
    shown = site.agent("queue", "show", str(entry_id), "--json")
    assert shown.returncode == 0, shown.stderr
    row: dict[str, Any] = json.loads(shown.stdout)
    return row


def test_show_tells_all_of_an_entry_but_its_url(waiting: Site) -> None:
    """Run, place in the order, state, size of the body; the same for people, line by line."""
    waiting.server.set_fault(target="ping", kind="status", status=403)
    assert waiting.agent("queue", "flush", "--heartbeat", "one").returncode == 1
    entry = _entry(waiting, "one")

    row = _show(waiting, entry["id"])
    told = waiting.agent("queue", "show", str(entry["id"])).stdout

    assert row["run_id"] == entry["run_id"]
    assert (row["state"], row["tries"], row["replay"], row["under_way"]) == ("parked", 1, "latest", False)
    assert row["boot"] == 1
    assert row["started_boot_s"] > 0
    assert row["body_bytes"] > 10
    assert row["expires_after_s"] > 3600
    assert "HTTP 403" in row["reason"]
    assert row["next_try_s"] > 3000
    assert f"run:         {entry['run_id']}" in told
    assert "parked, since" in told
    assert "/ping/" not in told + json.dumps(row)


def test_show_and_drop_of_what_is_not_there_say_so(waiting: Site) -> None:
    """One line, status 1, and where to look."""
    for arguments in (["queue", "show", "99"], ["queue", "drop", "99", "--yes"]):
        asked = waiting.agent(*arguments)
        assert (asked.returncode, asked.stdout) == (1, "")
        assert (
            asked.stderr
            == "aura-agent: no ping 99 in the outbox: aura-agent queue list --all has those that there are\n"
        )


def test_a_locked_database_keeps_nobody_from_looking(waiting: Site) -> None:
    """What is on record is shown, and a line says what isn't and why; later all of it is there."""
    before = _entry(waiting, "one")
    assert waiting.run("-H", "one", "--no-wait", "--", "true").returncode == 0
    other = sqlite3.connect(waiting.state / "outbox.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        asked = [
            waiting.agent("queue", "list", "--json"),
            waiting.agent("queue", "show", str(before["id"]), "--json"),
            waiting.agent("history", "--json"),
        ]
    finally:
        other.close()

    listed, shown, ran = (json.loads(each.stdout) for each in asked)
    assert [each.returncode for each in asked] == [0, 0, 0]
    assert (len(listed), shown["run_id"], len(ran)) == (2, before["run_id"], 2)
    for each in asked:
        (line,) = each.stderr.splitlines()
        assert line.startswith(
            "aura-agent: warning: spooled reports could not be read and are missing here: outbox: database is"
        )
    assert len(waiting.queue()) == 2
    assert len(waiting.queue("--all")) == 3


def test_flush_counts_a_parked_ping_once(site: Site) -> None:
    """However often it is tried meanwhile."""
    assert site.run("-H", "nope", "--no-wait", "--", "true").returncode == 0

    flushed = site.agent("queue", "flush")

    assert (flushed.returncode, flushed.stdout) == (1, "1 parked\n")


def test_flush_under_retry_after_does_not_say_that_nothing_waits(site: Site) -> None:
    """It keeps to Retry-After, as everybody does."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    site.server.set_fault("status", target="ping", status=429, retry_after=600)
    site.run("-H", "beat", "--wait", "5s", "--", "true")

    flushed = site.agent("queue", "flush")

    assert (flushed.returncode, flushed.stdout.splitlines()[0]) == (1, "nothing may be sent yet")


def test_flush_of_one_heartbeat_leaves_the_others(waiting: Site) -> None:
    """By name, then by id; what waits for others is neither sent nor counted as left."""
    by_name = waiting.agent("queue", "flush", "--heartbeat", "one")
    assert (by_name.returncode, by_name.stdout) == (0, "1 delivered\n")
    assert (len(waiting.server.pings("one")), len(waiting.server.pings("two"))) == (1, 0)

    heartbeat_id = waiting.rows("SELECT id FROM heartbeats WHERE name = 'two'")[0][0]
    by_id = waiting.agent("queue", "flush", "--heartbeat", heartbeat_id, "--json")

    assert (by_id.returncode, json.loads(by_id.stdout)) == (0, {"left": 0})
    assert len(waiting.server.pings("two")) == 1


def test_a_flush_says_what_is_wrong_with_the_store(waiting: Site) -> None:
    """Nothing can be sent where what is sent can't be put on record."""
    assert len(waiting.queue()) == 2  # it brings in the spool
    with closing(sqlite3.connect(waiting.state / "outbox.db")) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE UPDATE OF lease_owner ON streams BEGIN SELECT RAISE(ABORT, 'full'); END"
        )

    flushed = waiting.agent("queue", "flush")

    assert flushed.returncode == 1
    problem, left = flushed.stderr.splitlines()
    assert problem == "aura-agent: outbox: full: check the disk and the state directory"
    assert left == "2 left: aura-agent queue list says why"
    assert waiting.server.pings() == []


def test_flush_of_a_heartbeat_that_is_left_exits_1(waiting: Site) -> None:
    """As does one that the outbox never heard of."""
    waiting.server.set_fault(target="ping", kind="status", status=500)

    left = waiting.agent("queue", "flush", "--heartbeat", "two")
    unknown = waiting.agent("queue", "flush", "--heartbeat", "tow")

    assert (left.returncode, left.stderr) == (1, "1 left: aura-agent queue list says why\n")
    assert unknown.returncode == 1
    assert "'tow'" in unknown.stderr


def test_drop_ends_one_entry_and_all(waiting: Site) -> None:
    """The state says so with its reason, nothing is sent, and there is nothing left to drop."""
    one = _entry(waiting, "one")["id"]

    dropped = waiting.agent("queue", "drop", str(one), "--yes", "--json")
    again = waiting.agent("queue", "drop", str(one), "--yes")
    everything = waiting.agent("queue", "drop", "--all", "-y")
    flushed = waiting.agent("queue", "flush")

    assert (dropped.returncode, json.loads(dropped.stdout)) == (0, {"dropped": [one], "under_way": []})
    assert (again.returncode, again.stderr) == (
        1,
        f"aura-agent: ping {one} doesn't wait: it is dropped (dropped by hand)\n",
    )
    assert (everything.returncode, everything.stdout) == (0, "1 dropped\n")
    assert (flushed.returncode, flushed.stdout) == (0, "nothing waits\n")
    assert [(row["state"], row["reason"]) for row in waiting.queue("--all")] == [("dropped", "dropped by hand")] * 2
    assert waiting.server.pings("one") == []


def test_drop_asks_nobody_where_nobody_is(waiting: Site) -> None:
    """No terminal and no --yes: wrong usage, and everything still waits."""
    asked = waiting.agent("queue", "drop", "--all", stdin=subprocess.DEVNULL)

    assert asked.returncode == 2
    assert "--yes" in asked.stderr
    assert waiting.waiting() == 2


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 2), (b"y\n", 0)], ids=["no", "yes"])
def test_drop_asks_a_person(waiting: Site, answer: bytes, left: int) -> None:
    """On a terminal; it names the heartbeats, and a no drops nothing."""
    ours, theirs = os.openpty()
    asking = subprocess.Popen(
        [AURA_AGENT, "queue", "drop", "--all"],
        env=waiting.environment,
        cwd=waiting.home,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while b"?" not in shown:
        shown += os.read(ours, 4096)
    os.write(ours, answer)
    status = asking.wait(timeout=60)
    os.close(ours)

    assert b"Drop 2 pings for one, two?" in shown
    assert (status, waiting.waiting()) == (int(left > 0), left)


def test_what_is_being_sent_is_not_dropped(waiting: Site) -> None:
    """It is named, the status is 1, and it ends as its attempt does."""
    waiting.server.set_fault(target="ping", kind="hang")
    entry = _entry(waiting, "one")["id"]
    flush = threading.Thread(target=waiting.agent, args=("queue", "flush", "--heartbeat", "one"))
    flush.start()
    wait_until(lambda: _show(waiting, entry)["under_way"])

    asked = waiting.agent("queue", "drop", str(entry), "--yes")

    waiting.server.clear_faults()
    flush.join()
    assert (asked.returncode, asked.stdout) == (1, "0 dropped\n")
    assert asked.stderr == f"{entry} is being sent at this moment: not dropped\n"
    assert _show(waiting, entry)["state"] != "dropped"


def test_a_daemon_logs_and_counts_what_is_dropped(site: Site) -> None:
    """ping.dropped in its log, with heartbeat and reason."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    site.server.set_fault(target="ping", kind="status", status=403)
    site.start()
    assert site.run("-H", "beat", "--", "true").returncode == 0
    wait_until(lambda: site.events("ping.parked"))

    asked = site.agent("queue", "drop", "--all", "--yes")

    assert (asked.returncode, asked.stdout) == (0, "1 dropped\n")
    wait_until(lambda: site.events("ping.dropped"))
    event = site.events("ping.dropped")[0]
    assert (event["heartbeat"], event["reason"], event["level"]) == ("beat", "dropped by hand", "warning")


def test_a_ping_by_hand_goes_straight_to_aura(site: Site) -> None:
    """By name and by id, acknowledged, said as what it claims, and never in the outbox."""
    heartbeat = site.server.create_heartbeat("nightly backup")

    by_name = site.agent("ping", "nightly backup")
    by_id = site.agent("ping", heartbeat.id, "--json")

    assert by_name.returncode == 0, by_name.stderr
    assert by_name.stdout.startswith("told Aura that 'nightly backup' has just succeeded: HTTP 2")
    told = json.loads(by_id.stdout)
    assert (by_id.returncode, told["heartbeat"], told["id"], told["acknowledged"]) == (
        0,
        "nightly backup",
        heartbeat.id,
        True,
    )
    assert len(site.server.pings("nightly backup")) == 2
    assert site.queue("--all") == []


def test_a_ping_by_hand_that_is_not_acknowledged_says_why(site: Site) -> None:
    """An answer other than 2xx, no answer, no such heartbeat, no token: one line, status 1, and nothing waits."""
    site.server.create_heartbeat("beat")
    assert site.agent("ping", "beat").returncode == 0
    site.server.set_fault(target="ping", kind="status", times=1)
    site.server.set_fault(target="ping", kind="drop_after")
    for reason in ("HTTP 500", "connection"):
        asked = site.agent("ping", "beat")
        assert (asked.returncode, asked.stdout) == (1, "")
        assert len(asked.stderr.splitlines()) == 1
        assert reason in asked.stderr
    unknown = site.agent("ping", "baet", "--json")
    assert unknown.returncode == 1
    assert json.loads(unknown.stdout)["acknowledged"] is False
    assert "no heartbeat named 'baet'" in unknown.stderr
    site.config.write_text(site.config.read_text().replace("token_file", "# token_file"))
    assert "no API token" in site.agent("ping", "other").stderr
    assert site.queue("--all") == []


def test_a_ping_by_hand_follows_a_ping_url_that_changed(site: Site) -> None:
    """The cached one answers 404: it is asked for anew, and used at once."""
    site.server.create_heartbeat("beat")
    assert site.agent("ping", "beat").returncode == 0
    site.server.change_ping_url("beat")

    asked = site.agent("ping", "beat")

    assert asked.returncode == 0, asked.stderr
    assert len(site.server.pings("beat")) == 2


def test_a_ping_by_hand_is_not_taken_for_another_feeder(site: Site) -> None:
    """The outbox knows when it last got one through, whoever's hand it was."""
    site.server.create_heartbeat("beat")
    assert site.run("-H", "beat", "--", "true").returncode == 0
    before = site.rows("SELECT delivered_wall_ns, delivered_run FROM streams")

    assert site.agent("ping", "beat").returncode == 0

    ((later_ns, run),) = site.rows("SELECT delivered_wall_ns, delivered_run FROM streams")
    assert later_ns > before[0][0]
    assert run == before[0][1]


def test_queue_drop_in_a_store_of_thousands_names_no_entry_twice(site: Site) -> None:
    """More than queue list shows: --all means all."""
    outbox = open_outbox(str(site.state), "test")
    with outbox.connection as connection:
        connection.execute("INSERT INTO streams (id, scope) VALUES (1, 1)")
        connection.executemany(
            "INSERT INTO entries (stream_id, run_id, job, epoch, started_boot_ns, ended_boot_ns, ended_wall_ns,"
            " replay_all, state, accepted_wall_ns, changed_wall_ns) VALUES (1, ?, 'x', 1, 1, 1, 1, 1, 'waiting', 1, 1)",
            [(f"run{number}",) for number in range(1500)],
        )
    outbox.close()

    asked = site.agent("queue", "drop", "--all", "--yes")

    assert (asked.returncode, asked.stdout) == (0, "1500 dropped\n")


def test_flush_sends_nothing_that_the_run_of_a_killed_daemon_withdraws(site: Site) -> None:
    """The success waits, the next run goes on, the daemon is killed, the network is back: that run is lost."""
    site.server.create_heartbeat("nightly", expected_interval=3600)
    site.server.set_fault(target="ping", kind="status", status=503)
    running, block = site.home / "running", site.home / "block"
    site.configure(
        f"[jobs.nightly]\nheartbeat = 'nightly'\nschedule = '@reboot'\n"
        f"shell = 'test ! -e {block} || {{ echo $$ >{running}; exec sleep 600; }}'\n"
    )
    site.start()
    wait_until(lambda: site.server.pings("nightly"), what="a first try of the success")
    block.touch()
    assert site.agent("trigger", "nightly").returncode == 0
    wait_until(lambda: running.exists() and running.read_text(), what="a run that goes on")
    wait_until(lambda: site.rows("SELECT 1 FROM open_runs"), what="a run on record")
    site.kill()
    os.kill(int(running.read_text()), signal.SIGKILL)
    site.server.clear_faults()
    site.server.clear_received()

    flushed = site.agent("queue", "flush")

    assert (flushed.returncode, site.server.pings("nightly")) == (0, []), flushed.stderr
    assert [row["state"] for row in site.queue("--all")] == ["invalidated"]
    assert "lost" in site.agent("history", "nightly").stdout


def test_what_waits_in_a_restored_store_is_judged_by_auras_last_ping(waiting: Site) -> None:
    """It was delivered, and contradicted, before the backup took the store's place; a new success is sent at once."""
    backup = waiting.home / "backup"
    assert len(waiting.queue()) == 2
    shutil.copytree(waiting.state, backup)
    assert waiting.agent("queue", "flush").returncode == 0
    assert waiting.run("-H", "one", "--", "false").returncode == 1
    shutil.rmtree(waiting.state)
    shutil.copytree(backup, waiting.state)
    waiting.server.clear_received()

    assert waiting.run("-H", "two", "--wait", "30s", "--", "true").returncode == 0
    flushed = waiting.agent("queue", "flush")

    assert (flushed.returncode, len(waiting.server.pings("two"))) == (0, 1)
    assert waiting.server.pings("one") == []
    row = _entry(waiting, "one")
    assert (row["state"], row["reason"]) == ("superseded", "Aura has had a later ping, before the store was put back")
