"""``aura-agent discover`` on a host with Debian's cron and systemd: they take what it writes, and run it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from aura_agent.discover.calendar import as_cron
from aura_agent.discover.cronfiles import unreadable_line
from aura_agent.discover.dialects import DEBIAN, OLD_DEBIAN
from aura_agent.discover.units import obstacle, read_unit
from aura_agent.schedule.expression import parse
from aura_agent.schedule.zones import zone
from tests.systemd.machine import Machine
from tests.waiting import wait_until

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(240)]

_SPOOL = "/var/spool/cron/crontabs/backup-user"
_LEFT_BEHIND = ("/etc/cron.d/ours", "/etc/aura-agent", "/var/backups/aura-agent", "/var/lib/aura-agent", "/root/cron")
# What a minute's run shows, each once bare and once wrapped: environment, input, % and backslashes as this cron has
# them, quotes, a pipe and its status, bytes that are no UTF-8.
_COMMANDS = (
    "env | grep -v '^_=' | sort > {}-environment",
    "cat > {}-input%one \\% two%three\\\\four",
    "(date -u -d @0 +\\%Y; printf '\\%s\\n' \"it's\" 'a \"b\"' c\\ d) > {}-quotes",
    "( pwd; umask; id -un; echo $0; echo $- ) > {}-surroundings 2>&1",
    "{{ false | true; echo $? && false || echo caf\udce9; }} > {}-status",
)


@pytest.fixture
def host(machine: Machine) -> Iterator[Machine]:
    """The machine, which afterwards has no jobs, and nothing of discover's."""
    try:
        yield machine
    finally:
        while machine.try_run("aura-agent", "discover", "--undo").returncode == 0:
            pass
        machine.try_run("crontab", "-u", "backup-user", "-r")
        for unit in ("tick.timer", "tick.service"):
            machine.try_run("systemctl", "stop", unit)
        machine.run("rm", "-rf", *_LEFT_BEHIND, "/home/backup-user/.local")
        machine.run("sh", "-c", "rm -rf /etc/systemd/system/tick.* /home/backup-user/bare-* /home/backup-user/ours-*")
        machine.run("systemctl", "daemon-reload")


def discover(machine: Machine, *arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(machine.run("aura-agent", "discover", *arguments, "--json"))
    return answer


def install_crontab(machine: Machine, table: str) -> None:
    machine.path("/run/table").write_bytes(table.encode("utf-8", "surrogateescape"))
    machine.run("crontab", "-u", "backup-user", "/run/table")


def test_debian_s_cron_runs_wrapped_lines_as_it_ran_them(host: Machine) -> None:
    """Waits for cron's next minute, twice at the most: cron looks for changed crontabs once a minute."""
    host.run("systemctl", "start", "cron")
    # The first half stays bare: an aura-run in its comment-like last word is enough for discover to leave it alone.
    bare = "".join(f"* * * * * : aura-run ; {command.format('bare')}\n" for command in _COMMANDS)
    ours = "".join(f"* * * * * {command.format('ours')}\n" for command in _COMMANDS)
    install_crontab(host, f"# kept\nMAILTO=''\nA = ' b '\n\n{bare}{ours}")
    host.write("/etc/cron.d/ours", "* * * * * root mkdir -p /root/cron && id -un > /root/cron/$(date +\\%Y)\n")

    told = discover(host, "--write")

    where = [job["where"] for job in told["jobs"] if job["where"].startswith((_SPOOL, "/etc/cron.d/ours"))]
    assert where == [*(f"{_SPOOL}:{10 + index}" for index in range(5)), "/etc/cron.d/ours:1"]
    assert host.path(_SPOOL).stat().st_mode & 0o777 == 0o600
    home = host.path("/home/backup-user")
    names = [command.partition("{}-")[2].split("%")[0].split()[0] for command in _COMMANDS]
    wait_until(lambda: all((home / f"ours-{name}").exists() for name in names), 150.0, "cron has run all")
    wait_until(lambda: host.try_run("sh", "-c", "test -s /root/cron/*").returncode == 0, 150.0, "cron.d was run")
    wait_until(lambda: len(list(host.path("/home/backup-user/.local/state/aura-agent/spool").glob("*"))) >= 5, 60.0)
    for name in names:  # bare lines run each minute, too: one may be writing just now
        ours_file, bare_file = home / f"ours-{name}", home / f"bare-{name}"
        wait_until(lambda one=ours_file, other=bare_file: one.read_bytes() == other.read_bytes(), 90.0, name)  # type: ignore[misc]
    assert (home / "ours-input").read_bytes().startswith(b"one % two\nthree")


def test_debian_s_cron_takes_commands_of_just_that_length(host: Machine) -> None:
    """The limit that discover goes by is the one of the program; a line that would pass it is left alone."""
    longest = "x" * (DEBIAN.max_command_bytes or 0)
    install_crontab(host, f"0 3 * * * {longest}\n")
    with pytest.raises(AssertionError, match="errors in crontab file"):
        install_crontab(host, f"0 3 * * * {longest}x\n")

    (left,) = [item for item in discover(host)["left_alone"] if item["where"].startswith(_SPOOL)]

    assert "too long for cron" in left["reason"]


def test_debian_s_cron_refuses_what_is_said_to_be_ignored(host: Machine) -> None:
    """And takes all else, odd as it is: crontab(1) reads a table as the daemon does."""
    lines = [
        *("0 3 * * * x", "0 3 * * *", "60 3 * * * x", "5/15 * * * * x", "0~30 3 * * * x", "5!x 3 * * * x"),
        *("*x,99 * * * * x", "1, 2 * * * x", "0 22-2 * * * x", "*/0 * * * * x", "0 3 * JAN-dec Sun,7 x"),
        *("0 3 * january * x", "-0 3 * * * x", "0 3 * * * -n x", "0 3 * * * *x", "0 24 * * * x", "0 3 0 * * x"),
        *("@daily x", "@daily", "@fortnightly x", "@Daily x", "A=", "A=''", "A = b", "=c", "A='b", 'A="b" c', "A"),
        *("# c", "", "  ", f"0 3 * * * {'x' * 998}", f"0 3 * * * {'x' * 999}", "0 3 * * * caf\u00e9"),
    ]
    tables = [f"0 1 * * * a\n{line}{end}" for line in lines for end in ("\n", "")]
    taken = []
    for table in tables:
        host.path("/run/table").write_text(table)
        taken.append(host.try_run("crontab", "-u", "backup-user", "/run/table").returncode == 0)

    said = [not unreadable_line(table, "user", OLD_DEBIAN, lambda _: True) for table in tables]

    assert [table for table, one, other in zip(tables, taken, said, strict=True) if one != other] == []
    assert {True, False} <= set(taken)


def test_debian_s_cron_runs_only_the_files_that_have_jobs(host: Machine) -> None:
    """Waits for its next minute: what is named as ignored isn't run, what is to be wrapped is."""
    for name, mode in (("good", 0o644), ("writable", 0o664), ("with.dot", 0o644), ("foreign", 0o644), ("bad", 0o644)):
        bad = "* * * * * no-such-user x\n" if name == "bad" else ""
        host.write(f"/etc/cron.d/{name}", f"* * * * * root mkdir -p /root/cron/{name}\n{bad}", mode)
    host.run("chown", "backup-user", "/etc/cron.d/foreign")
    host.run("systemctl", "restart", "cron")

    jobs = {job["where"] for job in discover(host)["jobs"] if job["where"].startswith("/etc/cron.d/")}
    wait_until(lambda: host.path("/root/cron/good").exists(), 90.0, "cron has run what it runs")

    try:
        ran = {path.name for path in host.path("/root/cron").iterdir()}
        assert {where.partition(":")[0].rpartition("/")[2] for where in jobs} - {"e2scrub_all"} == ran == {"good"}
    finally:
        host.run("sh", "-c", "cd /etc/cron.d && rm -f good writable with.dot foreign bad")


def test_a_crontab_is_put_back(host: Machine) -> None:
    """By crontab(1), byte by byte."""
    table = "# own\n\n0 3 * * *\tx | y%z\n@daily  x\n"
    install_crontab(host, table)
    before = host.run("crontab", "-u", "backup-user", "-l")

    discover(host, "--write")
    assert "aura-run" in host.run("crontab", "-u", "backup-user", "-l")
    discover(host, "--undo")

    assert host.run("crontab", "-u", "backup-user", "-l") == before == table


def test_a_user_wraps_the_own_crontab(host: Machine) -> None:
    """Without root, by crontab(1); the heartbeat is then made by hand, and the system's jobs are left alone."""
    install_crontab(host, "0 3 * * * x\n")
    as_user = ("runuser", "-u", "backup-user", "--", "env", "HOME=/home/backup-user", "aura-agent", "discover")

    told = json.loads(host.run(*as_user, "--write", "--json"))

    assert [job["where"] for job in told["jobs"]] == [f"{_SPOOL}:1"]
    assert any(command.startswith("aura-agent api heartbeats create --name ") for command in told["next"])
    assert " -- x\n" in host.run("crontab", "-u", "backup-user", "-l")
    host.run(*as_user, "--undo")
    assert host.run("crontab", "-u", "backup-user", "-l") == "0 3 * * * x\n"


def test_a_timer_s_service_runs_below_aura_run(host: Machine) -> None:
    """Through a drop-in that systemd has read; an undo leaves it as it was."""
    host.write("/etc/systemd/system/tick.timer", "[Timer]\nOnCalendar=*-01-01\n")
    host.write(
        "/etc/systemd/system/tick.service",
        '[Service]\nType=oneshot\nExecStart=sh -c "exit $CODE"\nEnvironment=CODE=0\n',
    )
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "tick.timer")
    before = host.show("tick.service", "ExecStart")

    (job,) = discover(host, "--only", "tick", "--write")["jobs"]

    assert (job["where"], job["interval_s"]) == ("tick.timer", 366 * 86_400)
    assert "aura-run -H" in host.show("tick.service", "ExecStart")
    host.run("systemctl", "start", "tick.service")
    (run,) = json.loads(host.run("aura-agent", "history", job["heartbeat"], "--json"))
    assert (run["heartbeat"], run["outcome"]) == (job["heartbeat"], "succeeded")
    host.write("/etc/systemd/system/tick.service.d/fails.conf", "[Service]\nEnvironment=CODE=3\n")
    host.run("systemctl", "daemon-reload")
    assert host.try_run("systemctl", "start", "tick.service").returncode != 0
    assert host.show("tick.service", "ExecMainStatus") == "3"
    discover(host, "--undo")
    assert host.show("tick.service", "ExecStart").partition(";")[0] == before.partition(";")[0]
    assert "aura-run" not in host.show("tick.service", "ExecStart")


def test_cron_and_systemd_are_as_they_were_after_an_unwrap(host: Machine) -> None:
    """Through crontab(1) and a reload of the units, though a line and the unit have changed since."""
    host.write("/etc/systemd/system/tick.timer", "[Timer]\nOnCalendar=*-01-01\n")
    host.write("/etc/systemd/system/tick.service", "[Service]\nType=oneshot\nExecStart=true\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "tick.timer")
    install_crontab(host, "0 3 * * *\tx | y%z\n")
    discover(host, "--write")
    table = host.run("crontab", "-u", "backup-user", "-l")
    install_crontab(host, f"{table}0 4 * * * /usr/local/bin/aura-run -q -- a\n")
    host.write("/etc/systemd/system/tick.service.d/mine.conf", "[Service]\nNice=5\n")

    told = discover(host, "--unwrap", "--write")

    assert host.run("crontab", "-u", "backup-user", "-l") == "0 3 * * *\tx | y%z\n0 4 * * * a\n"
    assert "aura-run" not in host.show("tick.service", "ExecStart")
    assert host.show("tick.service", "Nice") == "5"
    assert any(heartbeat.endswith("/tick") for heartbeat in told["heartbeats_silenced"])


@pytest.mark.parametrize(
    "settings",
    [
        ["SystemCallFilter=~@aio @clock @cpu-emulation @debug @keyring @module @mount", "MemoryDenyWriteExecute=yes"],
        ["SystemCallFilter=~@obsolete @pkey @privileged @raw-io @reboot @swap", "PrivateUsers=yes"],
        ["SystemCallFilter=@system-service", "SystemCallFilter=~@privileged", "ProtectHome=yes", "DynamicUser=yes"],
        [
            "InaccessiblePaths=-/boot /srv",
            "TemporaryFileSystem=/var/empty:ro",
            "ProtectSystem=strict",
            "PrivateTmp=yes",
        ],
        ["NoNewPrivileges=yes", "RestrictNamespaces=yes", "LockPersonality=yes", "IPAddressDeny=any", "ExecPaths=/usr"],
    ],
)
def test_aura_run_runs_in_services_that_are_wrapped(machine: Machine, settings: list[str]) -> None:
    """What isn't named as an obstacle is none: the job has run, with its status."""
    needed = ["/opt/aura-agent", "/usr/bin/python3"]
    assert obstacle(read_unit(["[Service]\n" + "\n".join(settings)]), needed) == ""
    words = [word for setting in settings for word in ("-p", setting)]

    done = machine.try_run(
        "systemd-run",
        "--wait",
        "--pipe",
        "-q",
        *words,
        "/opt/aura-agent/bin/aura-run",
        "--",
        "sh",
        "-c",
        "echo ran; exit 7",
    )

    assert (done.returncode, done.stdout) == (7, "ran\n"), done.stderr


@pytest.mark.parametrize(
    "setting",
    [
        "RootDirectory=/var",
        "NoExecPaths=/opt",
        "InaccessiblePaths=/opt",
        "TemporaryFileSystem=/opt",
        "SystemCallFilter=@basic-io @file-system",
        "SystemCallFilter=~@process",
    ],
)
def test_aura_run_can_not_run_in_services_that_are_left_alone(machine: Machine, setting: str) -> None:
    """What is named as an obstacle keeps the command from running below it."""
    assert obstacle(read_unit([f"[Service]\n{setting}"]), ["/opt/aura-agent"]) != ""

    done = machine.try_run(
        "systemd-run",
        "--wait",
        "--pipe",
        "-q",
        "-p",
        setting,
        "/opt/aura-agent/bin/aura-run",
        "--",
        "sh",
        "-c",
        "echo ran",
    )

    assert done.returncode != 0
    assert done.stdout == ""


@pytest.mark.parametrize(
    "event",
    [
        *("minutely", "hourly", "daily", "weekly", "monthly", "quarterly", "semiannually", "yearly", "*:0/15"),
        *("*:*:0/10", "Mon..Fri 08:00", "Sat,Sun *-*-* 6,18:30", "*-*-* 6..18/2:30:15", "*-01,07-31", "12-25 9:00"),
        *("Tuesday", "*-*-1/7 03:00", "*-*-* 0/6:00"),
    ],
)
def test_systemd_elapses_when_our_expression_fires(machine: Machine, event: str) -> None:
    """The next 40 times of a calendar event, as systemd-analyze tells them."""
    start = datetime(2027, 2, 27, 23, 59, 30, tzinfo=UTC)
    told = machine.run(
        "env",
        "TZ=UTC",
        "systemd-analyze",
        "calendar",
        "--iterations=40",
        f"--base-time={start:%F %T} UTC",
        f"{event} UTC",
    )
    elapses = [line.rpartition(": ")[2].split()[1:3] for line in told.splitlines() if ":" in line and "UTC" in line]
    expression = parse(as_cron(event)[0], job="", zone=zone("UTC"))

    ours, at = [], start
    for _ in range(40):
        at = expression.next_after(at)
        ours.append([f"{at:%Y-%m-%d}", f"{at:%H:%M:%S}"])

    assert [pair for pair in elapses if pair in ours][:40] == ours
