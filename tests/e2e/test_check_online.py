"""``aura-agent check --online`` against an embedded Aura: what it finds, and what it leaves as it is."""

import json
import re
from collections.abc import Iterator

import httpx
import pytest

from aura_agent.clock import Reading, SystemClock
from aura_agent.devserver.threaded import ThreadedDevServer
from tests.e2e.sites import Site
from tests.waiting import wait_until

DAILY = """
[jobs.backup]
heartbeat = "nightly-backup"
schedule = "0 9 * * MON-FRI"
timezone = "UTC"
timeout = "2h"
command = ["x"]
"""
DAY_S = 86400


class ShiftedClock:
    """The system's clocks, the wall's some time ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0

    def read(self) -> Reading:
        now = SystemClock().read()
        return Reading(now.boot_ns, now.wall_ns + self.ahead_s * 10**9)


@pytest.fixture
def aura_clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory, aura_clock: ShiftedClock) -> Iterator[Site]:
    with ThreadedDevServer(clock=aura_clock) as server:
        made = Site(tmp_path_factory.mktemp("site"), server)
        made.configure(DAILY)
        yield made
        if made.daemon is not None:
            made.daemon.kill()
            made.daemon.wait()


def online(site: Site) -> tuple[int, list[str], list[str]]:
    """Return the exit status, the problems and the warnings, places left out."""
    asked = site.agent("check", "--online", "--json")
    assert asked.stderr == ""
    answer = json.loads(asked.stdout)
    return (
        asked.returncode,
        [f"{one['key']}: {one['message']}" for one in answer["problems"]],
        [f"{one['key']}: {one['message']}" for one in answer["warnings"]],
    )


def test_what_suits_is_ok(site: Site) -> None:
    """As without --online: one line, and nothing is written to Aura."""
    site.server.create_heartbeat("nightly-backup", 3 * DAY_S, 3 * 3600)

    asked = site.agent("check", "--online")

    assert (asked.returncode, asked.stdout, asked.stderr) == (0, "ok: 1 job\n", "")
    assert [(one.method, one.path.rpartition("/")[2]) for one in site.server.requests()] == [("GET", "heartbeats")]


def test_a_schedule_that_the_heartbeat_does_not_allow_is_wrong(site: Site) -> None:
    """File, line and key, the numbers in words, and what to set; after a sync all is well."""
    site.server.create_heartbeat("nightly-backup", DAY_S, 300)
    line = site.config.read_text().splitlines().index('heartbeat = "nightly-backup"') + 1

    asked = site.agent("check", "--online")

    assert (asked.returncode, asked.stdout) == (1, "")
    (said,) = asked.stderr.splitlines()
    assert said.startswith(f"aura-agent: {site.config}:{line}: jobs.backup.heartbeat: fires up to 3d apart (Fri ")
    assert ', a run may take 2h (timeout): 3d2h; "nightly-backup" allows interval 1d + grace 5m = 1d5m: ' in said
    assert said.endswith("; set interval 3d and grace 2h5m, as aura-agent sync does")

    assert site.agent("sync").returncode == 0
    assert online(site) == (0, [], [])


def test_a_run_that_may_take_too_long_is_a_warning(site: Site) -> None:
    """The schedule fits: exit 0."""
    site.server.create_heartbeat("nightly-backup", 3 * DAY_S, 3600)

    status, problems, (warning,) = online(site)

    assert (status, problems) == (0, [])
    assert "3d2h" in warning
    assert "= 3d1h: a false alarm if it comes to that" in warning


def test_an_unknown_heartbeat_and_one_named_twice_are_wrong(site: Site) -> None:
    """The nearest name, and both ids."""
    site.server.create_heartbeat("nightly-backups", 3 * DAY_S, 3 * 3600)
    twins = sorted(site.server.create_heartbeat("twin").id for _ in range(2))
    site.configure(DAILY + '[jobs.b]\nheartbeat = "twin"\nevery = "1h"\ncommand = ["x"]\n')

    status, problems, _ = online(site)

    assert status == 1
    assert problems == [
        f'jobs.b.heartbeat: Aura has 2 heartbeats named "twin"; name one of them by its id: {", ".join(twins)}',
        (
            'jobs.backup.heartbeat: Aura has no heartbeat named "nightly-backup"; did you mean "nightly-backups"?'
            " Else create it with aura-agent sync"
        ),
    ]


def test_a_read_only_token_is_a_warning_where_sync_would_have_to_write(site: Site) -> None:
    """Where all suits, it is all that is needed; asking changes nothing."""
    site.extra["AURA_TOKEN"] = site.server.create_token("read")
    _, _, missing = online(site)
    site.server.create_heartbeat("nightly-backup", 3 * DAY_S, 3 * 3600)
    _, _, suits = online(site)
    site.extra["AURA_TOKEN"] = site.server.token
    site.server.update_heartbeat("nightly-backup", expected_interval=60)
    _, _, may_write = online(site)

    assert missing == [
        (
            "api: the token is read-only, so aura-agent sync can't mend"
            ' "nightly-backup"; create one with the scope Read & write'
        )
    ]
    assert (suits, may_write) == ([], [])
    assert site.server.status("nightly-backup").expected_interval == 60


@pytest.mark.parametrize("broken", ["token", "aura", "answer"])
def test_what_keeps_it_from_asking_is_one_line(site: Site, broken: str) -> None:
    """A refused token, no Aura, or nonsense in its place: exit 1."""
    if broken == "token":
        site.extra["AURA_TOKEN"] = "aura_live_of_somebody_else"
    elif broken == "aura":
        site.server.refuse()
    else:
        site.server.set_fault("status", target="api", status=302, location="https://login.example")

    asked = site.agent("check", "--online")

    assert (asked.returncode, asked.stdout) == (1, "")
    (line,) = asked.stderr.splitlines()
    assert {"token": "(401)", "aura": "can't be reached", "answer": "redirects aren't followed"}[broken] in line


def test_without_a_token_it_is_said_once(site: Site) -> None:
    """Offline it is a warning, here it is what keeps it from asking."""
    site.config.write_text(DAILY)

    asked = site.agent("check", "--online")

    assert (asked.returncode, asked.stdout) == (1, "")
    assert asked.stderr == "aura-agent: no API token; set token_file in [api], or AURA_TOKEN_FILE\n"


def test_a_config_that_is_wrong_is_not_held_against_aura(site: Site) -> None:
    """First things first: what is wrong with it, and no request."""
    site.configure(DAILY.replace("timeout", "timeuot"))

    asked = site.agent("check", "--online")

    assert asked.returncode == 1
    assert "timeuot" in asked.stderr
    assert site.server.requests() == []


def test_a_paused_heartbeat_is_a_warning(site: Site) -> None:
    """Nobody would hear of a job that fails."""
    heartbeat = site.server.create_heartbeat("nightly-backup", 3 * DAY_S, 3 * 3600)
    httpx.patch(
        f"{site.server.base_url}/heartbeats/{heartbeat.id}",
        headers={"Authorization": f"Bearer {site.server.token}"},
        json={"paused": True},
        trust_env=False,
    ).raise_for_status()

    assert online(site) == (
        0,
        [],
        ['jobs.backup.heartbeat: "nightly-backup" is paused in Aura, so it raises no alarm; resume it there'],
    )


def test_another_feeder_is_told_by_check_and_by_status(site: Site, aura_clock: ShiftedClock) -> None:
    """A ping arrives that isn't ours: both name the heartbeat, status from what the daemon has last listed."""
    heartbeat = site.server.create_heartbeat("nightly-backup", 3 * DAY_S, 3 * 3600)
    assert site.run("-H", "nightly-backup", "--", "true").returncode == 0
    wait_until(lambda: len(site.server.pings("nightly-backup")) == 1, what="our own ping")
    assert online(site) == (0, [], [])

    aura_clock.ahead_s = 3600
    httpx.post(heartbeat.ping_url, trust_env=False).raise_for_status()
    told = (
        'something else pings "nightly-backup" too, and hides it if the job here fails: another host, user or program'
    )

    assert online(site) == (0, [], [f"jobs.backup.heartbeat: {told}"])
    site.run("-H", "a name that makes it list anew", "--", "true")
    site.start()
    assert json.loads(site.agent("status", "--json").stdout)["warnings"] == [told]
    assert f"warning: {told}\n" in site.agent("status").stdout


def test_a_clock_that_is_not_auras_is_shown_by_status_and_used_for_nothing(
    site: Site, aura_clock: ShiftedClock
) -> None:
    """The Date of an acknowledgement tells: people see by how much, and the next ping goes out as ever."""
    site.server.create_heartbeat("nightly-backup", 60, 300)
    site.start()
    assert json.loads(site.agent("status", "--json").stdout)["clock_ahead_s"] is None
    aura_clock.ahead_s = -7200
    for times in (1, 2):
        assert site.run("-H", "nightly-backup", "--", "true").returncode == 0
        wait_until(lambda times=times: len(site.server.pings("nightly-backup")) == times, what="the ping")  # type: ignore[misc]

    wait_until(lambda: json.loads(site.agent("status", "--json").stdout)["clock_ahead_s"], what="the skew")
    assert re.search("warning: this host's clock is (1h59m|2h) ahead of Aura's", site.agent("status").stdout)


def test_a_watch_is_not_taken_for_somebody_else(site: Site, aura_clock: ShiftedClock) -> None:
    """What was a job is watched by now: the watch's own pings are on no record, and nobody is accused of them."""
    heartbeat = site.server.create_heartbeat("nightly-backup", 60, 300)
    assert site.run("-H", "nightly-backup", "--", "true").returncode == 0
    wait_until(lambda: len(site.server.pings("nightly-backup")) == 1, what="the job's ping")
    site.configure('[jobs.backup]\nheartbeat = "nightly-backup"\nevery = "60s"\nwatch.file = { path = "/x" }\n')

    aura_clock.ahead_s = 3600
    httpx.post(heartbeat.ping_url, trust_env=False).raise_for_status()
    site.run("-H", "a name that makes it list anew", "--", "true")

    assert online(site) == (0, [], [])
    site.start()
    assert json.loads(site.agent("status", "--json").stdout)["warnings"] == []
