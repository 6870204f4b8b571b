"""What a job finds in its environment."""

import os
import subprocess
import sys

import pytest

from aura_agent.process.account import DEFAULT_PATH, Account, job_environment, resolve_account
from aura_agent.process.environment import SECRETS, SUPERVISION, without_secrets
from aura_agent.process.failure import SpawnFailed

BACKUP = Account("backup", 34, 34, (34,), "/var/backups")


def test_the_clean_environment_is_that_of_cron_with_locale_and_zone() -> None:
    """Nothing else of the daemon's environment reaches a job."""
    inherited = {
        "LANG": "de_DE.UTF-8",
        "LC_TIME": "C",
        "TZ": "Europe/Berlin",
        "EDITOR": "vi",
        "HOME": "/root",
        "PATH": "/x",
    }

    assert job_environment(BACKUP, inherited) == {
        "HOME": "/var/backups",
        "LOGNAME": "backup",
        "USER": "backup",
        "SHELL": "/bin/sh",
        "PATH": DEFAULT_PATH,
        "LANG": "de_DE.UTF-8",
        "LC_TIME": "C",
        "TZ": "Europe/Berlin",
    }


@pytest.mark.parametrize("name", sorted(SECRETS | SUPERVISION))
def test_an_inherited_environment_loses_what_is_not_the_jobs(name: str) -> None:
    """Secrets and the daemon's systemd variables stay with the daemon, other variables pass."""
    ours = {name: "x", "EDITOR": "vi", "LISTEN_ADDRESS": "::"}

    assert job_environment(BACKUP, ours, inherit=("*", name)) == {
        "HOME": "/var/backups",
        "LOGNAME": "backup",
        "USER": "backup",
        "SHELL": "/bin/sh",
        "PATH": DEFAULT_PATH,
        "EDITOR": "vi",
        "LISTEN_ADDRESS": "::",
    }


def test_only_what_is_named_is_inherited() -> None:
    """A name stands for itself, one that ends in * for all that begin so."""
    ours = {"PROXY": "1", "PROXY_HTTP": "2", "PROXY_FTP": "3", "OTHER": "4", "PATH": "/opt/bin"}

    named = job_environment(BACKUP, ours, inherit=("PROXY_*", "PATH"))

    assert {name: named.get(name) for name in ours} == {
        "PROXY": None,
        "PROXY_HTTP": "2",
        "PROXY_FTP": "3",
        "OTHER": None,
        "PATH": "/opt/bin",
    }


def test_an_inherited_environment_keeps_our_names_when_the_account_is_ours() -> None:
    """HOME as the operator has set it for the daemon is only replaced where the job runs as somebody else."""
    inherited = {"HOME": "/srv/agent", "PATH": "/opt/bin", "SHELL": "/bin/zsh"}

    ours = job_environment(BACKUP._replace(switch=False), inherited, inherit=("*",), shell="/bin/bash")
    other = job_environment(BACKUP, inherited, inherit=("*",))

    assert (ours["HOME"], ours["PATH"], ours["USER"]) == ("/srv/agent", "/opt/bin", "backup")
    assert ours["SHELL"] == "/bin/bash"
    assert (other["HOME"], other["PATH"]) == ("/var/backups", "/opt/bin")


@pytest.mark.parametrize("inherit", [(), ("*",)])
def test_what_is_written_for_the_job_wins(inherit: tuple[str, ...]) -> None:
    """The operator's own variables override all others, whatever their name."""
    extra = {"PATH": "/opt/bin", "HOME": "/srv", "AURA_HEARTBEAT": "inner"}

    environment = job_environment(BACKUP, {"AURA_HEARTBEAT": "outer"}, extra, inherit=inherit)

    assert {name: environment[name] for name in extra} == extra


def test_under_aura_run_only_the_secrets_are_withheld() -> None:
    """A job of a Type=notify unit still finds its NOTIFY_SOCKET."""
    environment = dict.fromkeys(SECRETS, "x") | {"NOTIFY_SOCKET": "/run/n", "AURA_TOKEN_FILE": "/etc/t"}

    assert without_secrets(environment) == {"NOTIFY_SOCKET": "/run/n", "AURA_TOKEN_FILE": "/etc/t"}


def test_the_withheld_names_cost_aura_run_no_import() -> None:
    """The module that aura-run needs before the job starts imports nothing."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules);"
        "import aura_agent.process.environment, aura_agent.process.tail; print(*sorted(set(sys.modules) - before))"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, root], check=True, capture_output=True, text=True
    ).stdout.split()

    assert all(name.startswith("aura_agent") for name in loaded)


def test_our_own_account_needs_no_switch() -> None:
    """Without user and group a job runs as we do."""
    account = resolve_account()

    assert (account.uid, account.gid, account.switch) == (os.geteuid(), os.getegid(), False)


@pytest.mark.parametrize(
    ("user", "group", "named"),
    [("no-such-user", None, "no-such-user"), (None, "no-such-group", "no-such-group"), ("4294967295", None, "`user`")],
)
def test_an_unknown_account_is_a_spawn_failure_that_names_it(user: str | None, group: str | None, named: str) -> None:
    """(uid_t)-1 counts as unknown: the kernel would leave the job root."""
    with pytest.raises(SpawnFailed, match=named) as caught:
        resolve_account(user, group)

    assert caught.value.outcome == "not_started"
    assert "\n" not in str(caught.value)
