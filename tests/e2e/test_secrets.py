"""Token and ping URLs are seen by nobody: every error path is driven, and everything that was written is searched."""

import os
import stat
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.e2e.sites import AURA_RUN, Site
from tests.waiting import wait_until
from tests.wrapper.runs import children

_FAULTS = [
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 401},
    {"kind": "status", "status": 403},
    {"kind": "status", "status": 404},
    {"kind": "status", "status": 413},
    {"kind": "status", "status": 429, "retry_after": 1},
    {"kind": "status", "status": 302, "location": "http://127.0.0.1:9/"},
    {"kind": "drop"},
    {"kind": "drop_after"},
]


class Evidence:
    """Everything that anybody could have read, by where it stood."""

    def __init__(self, *secrets: str) -> None:
        self._secrets = secrets
        self._texts: list[tuple[str, bytes]] = []

    def add(self, where: str, text: bytes | str) -> None:
        self._texts.append((where, text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text))

    def ran(self, ended: "subprocess.CompletedProcess[bytes] | subprocess.CompletedProcess[str]") -> None:
        for name, text in (("stdout", ended.stdout), ("stderr", ended.stderr)):
            self.add(f"{name} of {ended.args}", text or b"")

    def processes(self) -> None:
        """What ``ps`` shows of all processes now."""
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self.add(str(cmdline), cmdline.read_bytes())
            except OSError:
                continue

    def leaks(self) -> list[str]:
        return [where for where, text in self._texts if any(secret.encode() in text for secret in self._secrets)]


def _exposed_files(home: Path, *secrets: str) -> list[str]:
    """Return the files under *home* that hold a secret and that others than their owner can read."""
    found = []
    for path in home.rglob("*"):
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets):
            private = stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
            if not private:
                found.append(str(path))
    return found


def test_no_error_path_shows_a_secret(site: Site) -> None:
    """Faults of every kind at API, ping URL and webhook, wrong tokens, broken configs, debug logs, metrics, page, ps."""
    heartbeat = site.server.create_heartbeat("beat", expected_interval=3600)
    key = heartbeat.ping_url.rpartition("/")[2]
    wrong = "aura_live_wrong5ecretwrong5ecret"
    evidence = Evidence(site.server.token, key, wrong, "hook5ecret")
    site.configure(
        '[jobs.tick]\nheartbeat = "beat"\nevery = "1s"\nshell = "env; exit 0"\nattach = "output"\n'
        '[jobs.bad]\nevery = "1s"\ncommand = ["false"]\non_failure.webhook = "http://127.0.0.1:9/hook5ecret"\n',
        agent='log_level = "debug"',
        top='[status]\nlisten = "127.0.0.1:0"\n',
    )
    site.start()
    wait_until(lambda: site.server.pings("beat"))
    for fault in _FAULTS:
        for target in ("ping", "api"):
            site.server.set_fault(target=target, times=3, **fault)  # type: ignore[arg-type]
        seen = len(site.server.requests())
        wait_until(lambda seen=seen: len(site.server.requests()) > seen + 1)  # type: ignore[misc]
        evidence.ran(site.run("-H", "beat", "--", "env"))
        evidence.processes()
        site.server.clear_faults()
    site.server.refuse()
    evidence.ran(site.run("-H", "beat", "--", "env"))
    for arguments in (
        ["status"],
        ["status", "--json"],
        ["queue", "list", "--all"],
        ["queue", "list", "--json"],
        ["history"],
    ):
        evidence.ran(site.agent(*arguments))
    port = site.events("status.listening")[0]["port"]
    for path in ("/", "/metrics", "/healthz"):
        evidence.add(path, httpx.get(f"http://127.0.0.1:{port}{path}").content)
    site.server.accept()
    (site.home / "token").write_text(wrong + "\n")
    evidence.ran(site.agent("reload"))
    site.server.change_ping_url("beat")
    wait_until(lambda: [request for request in site.server.requests() if request.status == 401])
    site.config.write_text(site.config.read_text() + f'[api]\ntoken = "{wrong}"\n')
    evidence.ran(site.agent("reload"))
    evidence.ran(site.agent("check"))
    wait_until(lambda: site.events("hook.failed"))
    site.stop()
    evidence.add("the log", site.log.read_bytes())

    assert evidence.leaks() == []
    assert _exposed_files(site.home, site.server.token, key) == []


def _add_helper(evidence: Evidence, aura_run: int, helper: int) -> None:
    """Add what ``ps`` shows of a process that aura-run has forked, unless it has ended meanwhile.

    Its environment is what the caller gave aura-run, secrets and all: it must be that, and nothing else.
    """
    try:
        cmdline, environment = (Path(f"/proc/{helper}/{file}").read_bytes() for file in ("cmdline", "environ"))
    except (FileNotFoundError, ProcessLookupError):
        return
    evidence.add("a helper's cmdline", cmdline)
    assert environment in (b"", Path(f"/proc/{aura_run}/environ").read_bytes())


@pytest.mark.parametrize(
    "faults", [None, {"kind": "status", "status": 401}, {"kind": "drop"}], ids=["fine", "401", "drop"]
)
def test_aura_run_by_itself_shows_no_secret(site: Site, faults: dict[str, object] | None) -> None:
    """Token and ping URL from the environment reach neither the job nor any output, whatever the service does."""
    heartbeat = site.server.create_heartbeat("beat")
    key = heartbeat.ping_url.rpartition("/")[2]
    evidence = Evidence(site.server.token, key)
    site.config.unlink()
    site.extra = {
        "AURA_CONFIG": "",
        "AURA_STATE_DIR": str(site.state),
        "AURA_SOCKET": str(site.home / "none"),
        "AURA_API_URL": site.server.base_url,
        "AURA_WAIT": "2s",
        "CREDENTIALS_DIRECTORY": str(site.home),
    }
    if faults is not None:
        site.server.set_fault(target="all", **faults)  # type: ignore[arg-type]
    for target in ({"AURA_TOKEN": site.server.token, "AURA_HEARTBEAT": "beat"}, {"AURA_PING_URL": heartbeat.ping_url}):
        environment = site.environment | target
        evidence.ran(site.run("--", "env", env=environment))
        evidence.ran(site.run("--", "false", env=environment))
        job = subprocess.Popen(
            [AURA_RUN, "--", "sh", "-c", "echo $$; cat"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert job.stdout is not None
        wrapped = int(job.stdout.readline())
        evidence.processes()
        evidence.add("the job's environment", Path(f"/proc/{wrapped}/environ").read_bytes())
        for child in set(children(job.pid)) - {wrapped}:
            _add_helper(evidence, job.pid, child)
        output, errors = job.communicate()
        evidence.add("output", output + errors)
    evidence.ran(site.agent("queue", "list", "--all", "--json"))

    assert evidence.leaks() == []
    assert _exposed_files(site.home, site.server.token, key) == []
    assert os.path.exists(site.state)


def test_a_token_in_a_config_is_not_quoted(site: Site) -> None:
    """The commonest mistake: the token itself where its file should be named."""
    token = site.server.token
    site.config.write_text(
        f'[api]\ntoken_file = "{token}"\nbase_url = "http://user:{token}@127.0.0.1/x"\ntokn = "{token}"\n'
    )

    checked = site.agent("check")
    started = site.agent("run")

    assert (checked.returncode, started.returncode) == (1, 78)
    assert token not in checked.stdout + checked.stderr + started.stdout + started.stderr


def test_the_variable_that_holds_the_token_reaches_no_job(site: Site) -> None:
    """Whatever its name is: neither a job of the daemon that inherits all, nor its hook, nor a command under -j."""
    token = site.server.token
    site.server.create_heartbeat("beat")
    site.extra["COMPANY_SECRET"] = token
    dump = f"env > {site.home}"
    site.configure(
        f'[jobs.tick]\nheartbeat = "beat"\nschedule = "@yearly"\ninherit_env = ["*"]\nshell = "{dump}/job; exit 3"\n'
        f'on_failure.command = ["/bin/sh", "-c", "{dump}/hook"]\n'
        f'[jobs.wrapped]\nheartbeat = "beat"\ncommand = ["/bin/sh", "-c", "{dump}/wrapped"]\n'
    )
    site.config.write_text(
        site.config.read_text().replace(f'token_file = "{site.home}/token"', 'token_env = "COMPANY_SECRET"')
    )
    site.start()
    assert site.agent("trigger", "tick").returncode == 0
    wait_until((site.home / "hook").exists, what="the hook")
    assert site.agent("reload").returncode == 0
    site.stop()
    assert site.run("-j", "wrapped").returncode == 0

    dumped = {name: (site.home / name).read_text() for name in ("job", "hook", "wrapped")}

    assert [name for name, text in dumped.items() if token in text or "COMPANY_SECRET" in text] == []
    assert all("PATH=" in text for text in dumped.values())
    assert len(site.server.pings("beat")) == 1
