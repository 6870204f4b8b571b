"""``aura-agent sync`` as a person or a pipeline calls it, against an embedded Aura."""

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.e2e.sites import AURA_AGENT, Site

JOBS = """
[jobs.a]
every = "1h"
timeout = "10m"
command = ["x"]
[jobs.b]
every = "1h"
timeout = "10m"
command = ["x"]
[jobs.c]
every = "1h"
timeout = "10m"
command = ["x"]
"""


def kept(site: Site, name: str) -> tuple[int, int]:
    """Return the interval and the grace that Aura has."""
    shown = site.server.status(name)
    return shown.expected_interval, shown.grace_period


def writes(site: Site) -> list[tuple[str, int | None]]:
    """Return the requests that may change something, and what they were answered."""
    return [(one.method, one.status) for one in site.server.requests() if one.method != "GET"]


def use_token(site: Site, token: str) -> None:
    site.extra["AURA_TOKEN"] = token


def test_it_creates_and_changes_what_the_config_declares(site: Site) -> None:
    """The diff comes first, then what was done; a second sync has nothing to do."""
    site.configure(JOBS, agent='heartbeat = "host"')
    site.server.create_heartbeat("a", 3600, 60)
    site.server.create_heartbeat("b", 3600, 900)

    first, second = site.agent("sync"), site.agent("sync")

    assert (first.returncode, first.stderr) == (0, "")
    why = "every 1h, a run may take 10m (timeout)"
    assert first.stdout.splitlines() == [
        '+ "host": interval 1m, grace 5m (agent: a healthy agent pings every minute)',
        f'~ "a": grace 1m → 15m (jobs.a: runs {why})',
        '= "b"',
        f'+ "c": interval 1h, grace 15m (jobs.c: runs {why})',
        "2 to create, 1 to change, 1 as it should be",
        'created "host"',
        'changed "a"',
        'created "c"',
    ]
    assert {name: kept(site, name) for name in ("host", "a", "b", "c")} == {
        "host": (60, 300),
        "a": (3600, 900),
        "b": (3600, 900),
        "c": (3600, 900),
    }
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout.splitlines()[-1] == "0 to create, 0 to change, 4 as it should be"
    assert writes(site) == [("POST", 201), ("PATCH", 200), ("POST", 201)]


def test_a_dry_run_changes_nothing(site: Site) -> None:
    """The same diff, exit 0, and not one request that writes; a read-only token is enough."""
    site.configure(JOBS)
    use_token(site, site.server.create_token("read"))

    shown = site.agent("sync", "--dry-run")

    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[-1] == "3 to create, 0 to change, 0 as it should be"
    assert writes(site) == []


def test_what_the_config_does_not_own_stays_as_it_is(site: Site) -> None:
    """Neither a foreign heartbeat nor the name of one that is given by its id is touched, and nothing is deleted."""
    site.server.create_heartbeat("foreign", 61, 62)
    owned = site.server.create_heartbeat("any name", 60, 900)
    site.configure(f'[jobs.a]\nheartbeat = "{owned.id}"\nevery = "1h"\ntimeout = "10m"\ncommand = ["x"]\n')

    done = site.agent("sync")

    assert (done.returncode, done.stderr) == (0, "")
    assert kept(site, "foreign") == (61, 62)
    assert (site.server.status(owned.id).name, kept(site, owned.id)) == ("any name", (3600, 900))
    assert writes(site) == [("PATCH", 200)]


@pytest.mark.parametrize("kind", ["name", "id", "interval"])
def test_what_can_not_be_done_stops_all_of_it(site: Site, kind: str) -> None:
    """A name that exists twice, an id that doesn't, a job of unknown interval: file, line, key, and nothing done."""
    twins = sorted([site.server.create_heartbeat("twin").id, site.server.create_heartbeat("twin").id])
    unknown = "0b8ad9a2-5c6e-4d0e-9a55-0f6a5b1f7c11"
    wrong, said = {
        "name": ('heartbeat = "twin"', f"name one of them by its id: {twins[0]}, {twins[1]}"),
        "id": (f'heartbeat = "{unknown}"', f"Aura has no heartbeat with the id {unknown}"),
        "interval": ('heartbeat = "new"', 'say how often it is pinged (expected_interval = "1d")'),
    }[kind]
    site.configure(f"{JOBS}\n[jobs.z]\n{wrong}\n" + ("" if kind == "interval" else 'every = "1h"\ncommand = ["x"]\n'))
    line = site.config.read_text().splitlines().index(wrong) + 1

    asked = site.agent("sync")

    assert asked.returncode == 1
    assert asked.stderr.startswith(f"aura-agent: {site.config}:{line}: jobs.z.heartbeat: ")
    assert said in asked.stderr
    assert len(asked.stderr.splitlines()) == 1
    assert writes(site) == []


@pytest.mark.parametrize(
    ("role", "scope", "cause"), [("viewer", "read", "scope"), ("owner", "read", "scope"), ("member", "write", "role")]
)
def test_who_may_not_write_is_told_why(site: Site, role: str, scope: str, cause: str) -> None:
    """One line; a role that was taken away counts at once. Nothing was changed."""
    site.configure(JOBS)
    token = site.server.create_token(scope, role=role)  # type: ignore[arg-type]
    if cause == "role":
        site.server.set_role(token, "viewer")
    use_token(site, token)

    asked = site.agent("sync")

    assert asked.returncode == 1
    (line,) = asked.stderr.splitlines()
    assert line.startswith('aura-agent: nothing was changed; "a": the Aura API refused POST /heartbeats (403): ')
    assert f"; {cause}: " in line
    assert token not in asked.stdout + asked.stderr


def test_a_failure_in_between_says_what_was_done(site: Site) -> None:
    """And what wasn't; the next sync goes on from there."""
    site.configure(JOBS)
    for name in ("a", "b", "c"):
        site.server.create_heartbeat(name, 60, 60)
    site.server.set_fault("status", target="api", heartbeat="b", status=500)

    failed = site.agent("sync")
    site.server.clear_faults()
    mended = site.agent("sync")

    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert line.startswith('aura-agent: 1 of 3 done; not done: "b", "c"; "b": the Aura API failed (500)')
    assert (mended.returncode, mended.stdout.splitlines()[-2:]) == (0, ['changed "b"', 'changed "c"'])


def test_what_was_created_without_an_answer_is_not_created_twice(site: Site) -> None:
    """The connection breaks after the first heartbeat was made: nobody claims that nothing was, and all goes on."""
    site.configure(JOBS)
    site.server.set_fault("slow", target="api", times=1)  # the listing
    site.server.set_fault("drop_after", target="api", times=1)

    failed, mended = site.agent("sync"), site.agent("sync")

    assert failed.returncode == 1
    assert '0 of 3 done; not done: "a", "b", "c"; "a": ' in failed.stderr
    assert "POST /heartbeats may have been done all the same" in failed.stderr
    assert (mended.returncode, mended.stdout.splitlines()[-2:]) == (0, ['created "b"', 'created "c"'])


def test_what_is_wrong_with_one_heartbeat_does_not_keep_the_others_back(site: Site) -> None:
    """A full plan, or an interval that Aura doesn't take: what can be done is done, the rest is told line by line."""
    site.configure(JOBS + '[jobs.d]\nschedule = "0 0 29 2 *"\ncommand = ["x"]\n')
    site.server.create_heartbeat("c", 60, 60)
    site.server.create_heartbeat("d", 60, 60)
    site.server.set_plan(max_heartbeats=3)

    failed = site.agent("sync")

    assert failed.returncode == 1
    assert failed.stdout.splitlines()[-2:] == ['created "a"', 'changed "c"']
    full, refused = failed.stderr.splitlines()
    assert full.startswith('aura-agent: "b": the Aura API refused POST /heartbeats (409): ')
    assert refused.startswith('aura-agent: 2 of 4 done; not done: "b", "d"; "d": the Aura API refused PATCH ')
    assert "(400)" in refused


def test_a_heartbeat_of_another_team_is_told(site: Site) -> None:
    """Which may come in the middle: before it stays done, after it nothing is tried."""
    site.configure(JOBS)
    site.server.create_heartbeat("b", 60, 60, team="database")
    use_token(site, site.server.create_token("write", role="member"))

    failed = site.agent("sync")

    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert line.startswith('aura-agent: 1 of 3 done; not done: "b", "c"; "b": the Aura API refused PATCH ')
    assert "; team: " in line


def test_json_is_one_object_whatever_happens(site: Site) -> None:
    """Each heartbeat with old and new, what was done, and the problems."""
    site.configure(JOBS)
    site.server.create_heartbeat("a", 3600, 60)
    site.server.create_heartbeat("b", 60, 900)
    site.server.set_fault("status", target="api", heartbeat="b", status=500)

    failed = site.agent("sync", "--json")
    site.server.clear_faults()
    done = site.agent("sync", "--json")

    assert (failed.returncode, done.returncode, failed.stderr, done.stderr) == (1, 0, "", "")
    answer = json.loads(failed.stdout)
    assert (answer["ok"], len(answer["problems"])) == (False, 1)
    assert [(row["heartbeat"], row["action"], row["done"]) for row in answer["heartbeats"]] == [
        ("a", "update", True),
        ("b", "update", False),
        ("c", "create", False),
    ]
    first = answer["heartbeats"][0]
    assert (first["id"], first["feeders"]) == (site.server.heartbeat("a").id, ["jobs.a"])
    assert (first["interval_s"], first["grace_s"]) == ({"old": 3600, "new": 3600}, {"old": 60, "new": 900})
    rows = json.loads(done.stdout)["heartbeats"]
    assert [(row["action"], row["id"]) for row in rows] == [
        ("keep", site.server.heartbeat("a").id),
        ("update", site.server.heartbeat("b").id),
        ("create", site.server.heartbeat("c").id),
    ]


@pytest.mark.parametrize(("answer", "flags", "changed"), [("n", (), False), ("y", (), True), ("", ("--yes",), True)])
def test_on_a_terminal_it_asks(site: Site, answer: str, flags: tuple[str, ...], changed: bool) -> None:
    """Nothing is written before a yes, or --yes; a no is exit 1."""
    site.configure(JOBS)

    status, said = on_a_terminal(site, answer, "sync", *flags)

    assert ("Do it?" in said) is not bool(flags)
    assert (status, writes(site)) == ((0, [("POST", 201)] * 3) if changed else (1, []))
    assert ("nothing was changed" in said) is not changed


def on_a_terminal(site: Site, answer: str, *arguments: str) -> tuple[int, str]:
    """Run a command of aura-agent on a terminal of its own, type *answer*, and return how it ended and what it said."""
    ours, theirs = pty.openpty()
    try:
        said = site.home / "said"
        with said.open("wb") as output:
            process = subprocess.Popen(
                [AURA_AGENT, *arguments], env=site.environment, stdin=theirs, stdout=output, stderr=output
            )
        os.write(ours, f"{answer}\n".encode())
        return process.wait(timeout=60), said.read_text()
    finally:
        os.close(ours)
        os.close(theirs)


def test_without_a_token_or_aura_it_is_one_line(site: Site, tmp_path: Path) -> None:
    """What is missing, and where to put it."""
    site.configure(JOBS)
    site.server.refuse()
    unreachable = site.agent("sync")
    site.config.write_text(JOBS)
    tokenless = site.agent("sync", env=site.environment | {"AURA_STATE_DIR": str(tmp_path)})

    for asked, said in ((unreachable, "can't be reached"), (tokenless, "no API token; set token_file in [api]")):
        assert (asked.returncode, asked.stdout) == (1, "")
        assert len(asked.stderr.splitlines()) == 1
        assert said in asked.stderr
