"""``discover --as config --write``: jobs change hands from cron to the daemon, and nobody is left without a master."""

import json
import re
import subprocess

import pytest
from hypothesis import given, strategies as st

from aura_agent.discover.quiet_moment import wait_s
from tests.discover.hosts import DISCOVERED
from tests.discover.live import LiveHost
from tests.machine import mounts, needs

_LIVE = [pytest.mark.root, needs(mounts)]
TABLE = "# own\n0 3 * * * /bin/true\n15 4 * * * /bin/false && date\n"
AS_CONFIG = "aura-agent discover --as config --write"
# Beside a daemon that is ready: commands, then its end.
_BESIDE = """
aura-agent run -c {config} 2> /run/daemon.log & daemon=$!
until aura-agent status > /dev/null 2>&1 || ! kill -0 $daemon; do sleep 0.05; done
{commands}
kill $daemon; wait $daemon
"""


@pytest.fixture
def host(live: LiveHost) -> LiveHost:
    live.link_into_path()
    live.crontab("bob", TABLE)
    live.write("/etc/aura-agent/config.toml", "[agent]\n")
    return live


def beside_daemon(
    host: LiveHost, commands: str, config: str = "/etc/aura-agent/config.toml"
) -> "subprocess.CompletedProcess[str]":
    return host.run("sh", "-c", _BESIDE.format(config=config, commands=commands))


@pytest.mark.parametrize("at", [0.0, 1.9, 2.0, 30.0, 49.9, 50.0, 59.999])
def test_a_switch_waits_for_the_quiet_part_of_a_minute(at: float) -> None:
    """It has ten seconds until the next jobs are due, and cron has started those of this minute."""
    waits_s = wait_s(at)

    assert 2.0 <= (at + waits_s) % 60 < 50.0
    assert waits_s <= 12.0


@given(st.floats(0, 60, exclude_max=True))
def test_a_switch_in_a_quiet_moment_never_waits(second: float) -> None:
    """Whatever the second: at most once, until the next minute has begun."""
    assert wait_s((second + wait_s(second)) % 60) == 0.0


@pytest.mark.usefixtures("host")
class TestLive:
    """On a running host, as root."""

    pytestmark = _LIVE

    @pytest.mark.parametrize("config", ["[agent]\n", '[agent]\nsocket = "/run/other/agent.sock"\n', None])
    def test_without_a_daemon_nothing_is_moved(self, host: LiveHost, config: str | None) -> None:
        """Refused in one line that says what to do; a look says it beforehand."""
        if config is None:
            host.path("/etc/aura-agent/config.toml").unlink()
        else:
            host.write("/etc/aura-agent/config.toml", config)
        before = host.files()

        looked = host.discover("--as", "config")
        refused = host.discover("--as", "config", "--write")

        assert (looked.returncode, refused.returncode, refused.stdout) == (0, 1, "")
        (line,) = refused.stderr.splitlines()
        assert "no daemon answers at /run/" in line
        assert "nothing was written" in line
        assert "--force" in line
        assert "no daemon answers at /run/" in looked.stderr
        assert host.files() == before

    def test_by_force_jobs_are_moved_without_a_daemon(self, host: LiveHost) -> None:
        """That nobody runs them until it is there is said."""
        forced = host.discover("--as", "config", "--write", "--force")

        assert forced.returncode == 0
        assert "nobody runs these jobs until the daemon does: no daemon answers" in forced.stderr
        assert host.read("/var/spool/cron/crontabs/bob").count("\n# aura-agent runs this: ") == 2

    def test_the_daemon_runs_moved_jobs_at_once_and_gives_them_back(self, host: LiveHost) -> None:
        """No command is left to be forgotten."""
        done = beside_daemon(
            host,
            f"{AS_CONFIG} >&2; cat /var/spool/cron/crontabs/bob > /run/moved; aura-agent status --json;"
            " aura-agent discover --undo >&2; aura-agent status --json",
        )

        text = done.stdout.replace("}\n{", "},{")
        moved, back = json.loads(f"[{text}]")
        assert len(moved["jobs"]) == 2, done.stderr
        assert host.read("/run/moved").count("\n# aura-agent runs this: ") == 2
        assert back["jobs"] == []
        assert host.read("/var/spool/cron/crontabs/bob") == TABLE
        assert not host.path(DISCOVERED).exists()
        assert "Aura alarms after interval + grace" in done.stderr

    @pytest.mark.parametrize(
        ("config", "meanwhile", "problem"),
        [
            ("/etc/other.toml", ":", "it runs on another config"),
            ("/etc/aura-agent/config.toml", "cp /etc/wrong.toml /etc/aura-agent/config.toml", "jobs.x.schedule"),
        ],
    )
    def test_jobs_that_the_daemon_does_not_take_go_back_to_cron(
        self, host: LiveHost, config: str, meanwhile: str, problem: str
    ) -> None:
        """It has another config, or refuses what is on disk: all is as it was, and why is said."""
        host.write("/etc/other.toml", "[agent]\n")
        host.write("/etc/wrong.toml", '[jobs.x]\nschedule = "99 3 * * *"\ncommand = ["true"]\n')

        done = beside_daemon(host, f"{meanwhile}; {AS_CONFIG}; echo $?", config)

        assert done.stdout == "1\n", done.stderr
        assert problem in done.stderr
        assert "cron's lines and the config are as they were" in done.stderr
        assert host.read("/var/spool/cron/crontabs/bob") == TABLE
        assert not host.path(DISCOVERED).exists()

    def test_an_unwrap_takes_jobs_from_the_daemon_and_gives_them_to_cron(self, host: LiveHost) -> None:
        """In this order, and without a command that could be forgotten; wrapped lines of others are done as well."""
        host.write("/etc/cron.d/own", "0 3 * * * root aura-run -H mine -- /x\n")

        done = beside_daemon(
            host, f"{AS_CONFIG} >&2; aura-agent discover --unwrap --write >&2; echo $? >&2; aura-agent status --json"
        )

        assert json.loads(done.stdout)["jobs"] == [], done.stderr
        assert host.read("/var/spool/cron/crontabs/bob") == TABLE
        assert host.read("/etc/cron.d/own") == "0 3 * * * root /x\n"
        assert not host.path(DISCOVERED).exists()
        assert re.search(r"No ping comes any more for: (mine, |.*, mine\. )", done.stderr)

    def test_an_unwrap_leaves_a_table_alone_that_cannot_be_written(self, host: LiveHost) -> None:
        """The others are done, only theirs is no longer declared, and the exit status is 1."""
        host.write("/etc/cron.d/own", "0 3 * * * root /x/own.sh\n")
        assert host.discover("--write").returncode == 0
        host.write("/etc/cron.deny", "bob\n")

        done = host.discover("--unwrap", "--write")

        assert done.returncode == 1
        assert "crontabs/bob: crontab refuses it: bob is not allowed to use crontab; left alone" in done.stderr
        assert "Written: 2 of 3 files; " in done.stdout
        assert host.read("/etc/cron.d/own") == "0 3 * * * root /x/own.sh\n"
        assert host.read("/var/spool/cron/crontabs/bob").count("aura-run") == 2
        assert host.read(DISCOVERED).count("[jobs.") == 2

    def test_without_the_config_s_file_cron_keeps_its_lines(self, host: LiveHost) -> None:
        """A table that was written already is put back."""
        directory = host.path("/etc/aura-agent/conf.d")
        directory.mkdir()
        read_only = f"mount --bind {directory} {directory}; mount -o remount,bind,ro {directory}"

        done = host.discover("--as", "config", "--write", "--force", before=read_only)

        assert done.returncode == 1
        assert "/etc/aura-agent/conf.d/discovered.toml: Read-only file system; left alone" in done.stderr
        assert "put back as it was, since the config can't be written" in done.stderr
        assert host.read("/var/spool/cron/crontabs/bob") == TABLE
        again = host.discover("--undo")
        assert "nothing to undo" in again.stderr
