"""What is proposed for a host: which jobs, under which names, and what is left alone for which reason."""

import os
from pathlib import Path

import pytest

from aura_agent.cli.next import schedule_of
from aura_agent.config.load import examine_config
from aura_agent.discover.below import below
from aura_agent.discover.units import obstacle, read_unit
from tests.discover.hosts import CONFIG, DISCOVERED, Copy

HOST = os.uname().nodename.partition(".")[0]


def names(copy: Copy, *arguments: str) -> list[str]:
    return [job["name"] for job in copy.told(*arguments)["jobs"]]


def test_all_tables_of_a_host_are_read(copy: Copy) -> None:
    """User crontabs, the system's, cron.d, anacron's; each job with its user and interval."""
    copy.write("/var/spool/cron/crontabs/bob", "0 3 * * * one\n", 0o600)
    copy.write("/var/spool/cron/crontabs/eve", "@hourly two\n", 0o600)
    copy.write("/etc/crontab", "0 3 * * 1-5 www-data three\n")
    copy.write("/etc/cron.d/own", "*/5 * * * * root four\n")
    copy.write("/etc/anacrontab", "7 10 five-id five\n")
    copy.write("/usr/sbin/anacron", "")

    told = copy.told()

    assert [(job["where"], job["name"], job["user"], job["interval_s"]) for job in told["jobs"]] == [
        ("/var/spool/cron/crontabs/bob:1", "one", "bob", 86_400),
        ("/var/spool/cron/crontabs/eve:1", "two", "eve", 3600),
        ("/etc/crontab:1", "three", "www-data", 3 * 86_400),
        ("/etc/cron.d/own:1", "four", "root", 300),
        ("/etc/anacrontab:1", "five", None, 7 * 86_400),
    ]
    assert [job["heartbeat"] for job in told["jobs"]] == [f"{HOST}/{job['name']}" for job in told["jobs"]]


def test_names_are_given_once(copy: Copy) -> None:
    """Numbered on a clash: with each other, with jobs of the config, and with lines that have aura-run already."""
    copy.write("/etc/aura-agent/config.toml", f'{CONFIG}[jobs.backup]\nheartbeat = "other"\n')
    copy.write("/etc/crontab", f"0 1 * * * root aura-run -H {HOST}/backup-2 -- x\n0 2 * * * root /a/backup.sh\n")
    copy.write("/etc/cron.d/b", "0 3 * * * root /b/backup.py\n0 4 * * * root echo x\n0 5 * * * root echo y\n")

    assert names(copy) == ["backup-3", "backup-4", "job", "job-2"]


def test_names_stay_when_a_part_is_written(copy: Copy) -> None:
    """What was proposed for the others before is what is proposed for them after."""
    copy.write("/etc/crontab", "".join(f"{minute} 3 * * * root /{minute}/backup.sh\n" for minute in range(4)))
    before = names(copy)

    copy.told("--write", "--only", "backup-2")

    assert before == ["backup", "backup-2", "backup-3", "backup-4"]
    assert names(copy) == ["backup", "backup-3", "backup-4"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("@reboot root x", "at boot only"),
        ("0 3 * * * root /usr/local/bin/aura-run -- x", "aura-run is there already"),
        ("0 3 * * * root sh -c 'aura-run -H x -- y'", "aura-run is there already"),
        ("0 3 * * * root test -d /run/systemd/system || x", "does nothing where systemd runs"),
        ("0 3 * * * root test -x /usr/sbin/anacron || x", "does nothing where anacron is"),
        ("0 3 * * * root run-parts /etc/cron.weekly", "no script for it"),
        ("0 3 * * * root " + "x" * 990, "too long for cron"),
    ],
)
def test_what_would_not_be_true_is_left_alone(copy: Copy, line: str, reason: str) -> None:
    """Each with its reason."""
    copy.path("/run/systemd/system").mkdir(parents=True)
    copy.path("/etc/cron.weekly").mkdir(parents=True)
    copy.write("/usr/sbin/anacron", "")
    copy.write("/etc/crontab", f"{line}\n")

    assert reason in copy.reasons()["/etc/crontab:1"]
    assert copy.told()["changes"] == []


def test_lines_for_hosts_without_systemd_or_anacron_count_there(copy: Copy) -> None:
    """The same lines, where neither is."""
    copy.write(
        "/etc/crontab",
        "0 3 * * * root test -d /run/systemd/system || x\n0 4 * * * root test -x /usr/sbin/anacron || y\n",
    )

    assert names(copy) == ["x", "y"]


def test_a_shell_with_other_quotes_is_left_alone(copy: Copy) -> None:
    """What it makes of single quotes isn't known here."""
    copy.write("/etc/crontab", "SHELL=/usr/bin/fish\n0 3 * * * root x\nSHELL=/bin/bash\n0 3 * * * root y; z\n")

    assert names(copy) == ["y"]
    assert "SHELL=/usr/bin/fish" in copy.reasons()["/etc/crontab:2"]
    assert "-- /bin/bash -c 'y; z'" in copy.told()["changes"][0]["after"]


def test_a_batch_of_run_parts_is_one_job(copy: Copy) -> None:
    """Called after its directory; what run-parts runs and what it ignores, as a script with a dot, is told."""
    copy.write("/etc/crontab", "25 6 * * * root cd / && run-parts --report /etc/cron.daily\n")
    for name, mode in (
        ("apt", 0o755),
        ("b_1-x", 0o755),
        ("backup.sh", 0o755),
        ("README", 0o644),
        (".placeholder", 0o644),
    ):
        copy.write(f"/etc/cron.daily/{name}", "#!/bin/sh\n", mode)

    (job,) = copy.told()["jobs"]

    assert job["name"] == "cron.daily"
    assert any("runs apt, b_1-x;" in note for note in job["notes"])
    assert any("ignores README, backup.sh:" in note for note in job["notes"])


def test_a_run_parts_that_hides_failures_is_left_alone(copy: Copy) -> None:
    """cronie's is a script that ends with 0 whatever happened: each ping would be a guess."""
    copy.write("/usr/bin/run-parts", "#!/bin/bash\nexit 0\n", 0o755)
    copy.write("/etc/crontab", "25 6 * * * root run-parts /etc/cron.daily\n")

    assert "ends well whatever" in copy.reasons()["/etc/crontab:1"]


def test_files_that_cron_ignores_are_ignored(copy: Copy) -> None:
    """Debian's cron takes no dots in /etc/cron.d; cronie does, but no backups and no hidden files."""
    for name in ("good", "with.dot", ".hidden", "old~", "x.rpmsave"):
        copy.write(f"/etc/cron.d/{name}", "0 3 * * * root x\n")
    debian = [job["where"] for job in copy.told()["jobs"]]
    copy.cron("cronie")
    cronie = [job["where"] for job in copy.told()["jobs"]]

    assert debian == ["/etc/cron.d/good:1"]
    assert cronie == ["/etc/cron.d/good:1", "/etc/cron.d/with.dot:1"]
    assert "cron ignores a file of this name" in copy.reasons()["/etc/cron.d/old~"]


def test_a_timer_gets_a_drop_in_for_its_service(copy: Copy) -> None:
    """In front of the last command: those before it must have succeeded. Prefixes stay in front."""
    copy.timer(
        "report",
        "OnCalendar=*-*-* 4:00\nRandomizedDelaySec=1h",
        "Type=oneshot\nExecStart=/a b\nExecStart=-/c \\\n  'd e'",
    )

    told = copy.told()

    (job,) = told["jobs"]
    assert (job["where"], job["heartbeat"], job["interval_s"]) == ("report.timer", f"{HOST}/report", 90_000)
    drop_in, declared = told["changes"]
    assert drop_in["path"] == "/etc/systemd/system/report.service.d/50-aura-run.conf"
    first, second, third, fourth = drop_in["after"].splitlines()
    assert (first, second, third) == ("[Service]", "ExecStart=", "ExecStart=/a b")
    assert fourth.startswith("ExecStart=-/")
    assert fourth.endswith(f"aura-run -H {HOST}/report -- /c 'd e'")
    assert 'expected_interval = "1d1h"' in declared["after"]


@pytest.mark.parametrize(
    ("timer", "service", "reason"),
    [
        ("OnBootSec=5min", "ExecStart=/x", "once per boot"),
        ("OnCalendar=Sat *-*-1..7 18:00", "ExecStart=/x", "day and weekday at once"),
        ("OnCalendar=daily", "Type=notify\nExecStart=/x", "Type=notify"),
        ("OnCalendar=daily\nOnCalendar=", "ExecStart=/x", "once per boot"),
        ("OnUnitActiveSec=1h\nOnCalendar=\nOnBootSec=5min", "ExecStart=/x", "once per boot"),
        ("OnCalendar=daily", "ExecStart=@/x y", '"@"'),
        ("OnCalendar=daily", "ExecStart=-|x y", '"|"'),
        ("OnCalendar=daily", "ExecStart=/x ; /y", "several commands"),
        ("OnCalendar=daily", "Type=oneshot", "no ExecStart"),
        ("OnCalendar=daily\nUnit=gone.service", "ExecStart=/x", "gone.service isn't there"),
        ("OnCalendar=daily", "ExecStart=/usr/local/bin/aura-run -H x -- /x", "aura-run is there already"),
    ],
)
def test_a_timer_that_can_not_be_told_is_left_alone(copy: Copy, timer: str, service: str, reason: str) -> None:
    """Each with its reason, and no drop-in."""
    copy.timer("x", timer, service)

    assert reason in copy.reasons()["x.timer"]
    assert copy.told()["changes"] == []


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        ("RootDirectory=/srv/jail", "RootDirectory=/srv/jail: aura-run isn't there"),
        ("RootImage=/srv/jail.raw", "RootImage=/srv/jail.raw: aura-run isn't there"),
        ("NoExecPaths=/\nExecPaths=/x /usr/lib", "NoExecPaths= may forbid"),
        ("AppArmorProfile=backup", "AppArmorProfile= may forbid"),
        ("InaccessiblePaths=/var /", "InaccessiblePaths=/: aura-run needs /"),
        ("TemporaryFileSystem=/:ro", "TemporaryFileSystem=/:ro: aura-run needs /"),
        ("SystemCallFilter=@basic-io @file-system", "SystemCallFilter= may forbid"),
        ("SystemCallFilter=@system-service\nSystemCallFilter=~@process", "SystemCallFilter= may forbid"),
        ("SystemCallFilter=~@network-io", "SystemCallFilter= may forbid"),
    ],
)
def test_a_service_in_which_aura_run_can_not_run_is_left_alone(copy: Copy, service: str, reason: str) -> None:
    """Wrapped it would end before its command begins."""
    copy.timer("x", "OnCalendar=daily", f"{service}\nExecStart=/x")

    told = copy.told()

    assert told["jobs"] == told["changes"] == []
    assert told["left_alone"][0]["reason"].startswith(reason)


@pytest.mark.parametrize(
    "service",
    [
        "RootDirectory=/srv\nRootDirectory=",
        "RootDirectory=/",
        "NoExecPaths=/var\nNoExecPaths=",
        "ExecPaths=/usr",
        "InaccessiblePaths=-/no/such /boot",
        "TemporaryFileSystem=/var/empty:ro",
        "SystemCallFilter=@system-service\nSystemCallFilter=~@mount @swap",
        "SystemCallFilter=~@clock @module",
        "MemoryDenyWriteExecute=yes\nPrivateTmp=yes\nProtectHome=read-only",
    ],
)
def test_a_service_in_which_aura_run_can_run_is_wrapped(copy: Copy, service: str) -> None:
    """An empty value takes back what was forbidden before; what hides other places hides nothing from aura-run."""
    copy.timer("x", "OnCalendar=daily", f"{service}\nExecStart=/x")

    assert names(copy) == ["x"]


def test_a_hidden_home_hides_an_aura_run_in_it() -> None:
    """ProtectHome= and its like count for what aura-run needs, and for nothing else."""
    at_home = ["/home/ann/.venv/bin/aura-run", "/usr/bin/python3"]
    elsewhere = ["/opt/aura-agent/bin/aura-run", "/usr/bin/python3"]

    def why(line: str, needed: list[str]) -> str:
        return obstacle(read_unit([f"[Service]\n{line}\n"]), needed)

    assert "aura-run needs /home/ann" in why("ProtectHome=yes", at_home)
    assert "aura-run needs /home/ann" in why("ProtectHome=tmpfs", at_home)
    assert why("ProtectHome=read-only", at_home) == why("ProtectHome=no", at_home) == ""
    assert why("ProtectHome=yes", elsewhere) == ""
    assert "aura-run needs /opt/aura-agent" in why("InaccessiblePaths=-/opt", elsewhere)
    assert why("InaccessiblePaths=/opt/aura", elsewhere) == ""


def test_several_triggers_are_told_as_one_interval(copy: Copy) -> None:
    """Calendar events are one union; how much later systemd may start it counts as well."""
    copy.timer("a", "OnCalendar=Mon 04:00\nOnCalendar=Thu 04:00", "ExecStart=/x")
    copy.timer("b", "OnCalendar=daily\nOnUnitActiveSec=6h\nAccuracySec=1h", "ExecStart=/x")
    copy.timer("c", "OnCalendar=weekly\nOnCalendar=\nOnCalendar=*-*-* 06:00\nOnCalendar=*-*-* 18:00", "ExecStart=/x")

    assert [job["interval_s"] for job in copy.told()["jobs"]] == [4 * 86_400, 7 * 3600, 12 * 3600]


def test_links_of_a_copy_are_followed_within_it(copy: Copy, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As the copied host would: the unit of an enabled timer, a masked one, and a crontab elsewhere."""
    other = tmp_path_factory.mktemp("this-host") / "crontab"
    other.write_text("0 4 * * * root of-this-host\n")
    copy.write(str(other), "0 3 * * * root of-the-copy\n")
    copy.path("/etc/crontab").symlink_to(other)
    copy.timer("good", "OnCalendar=daily", "ExecStart=/x")
    copy.write("/srv/units/linked.timer", "[Timer]\nOnCalendar=hourly\n")
    copy.path("/etc/systemd/system/linked.timer").symlink_to("/srv/units/linked.timer")
    copy.path("/etc/systemd/system/linked.service").symlink_to("/usr/lib/systemd/system/good.service")
    copy.path("/etc/systemd/system/timers.target.wants/linked.timer").symlink_to("/etc/systemd/system/linked.timer")
    copy.timer("masked", "OnCalendar=daily", "ExecStart=/x")
    copy.path("/etc/systemd/system/masked.timer").symlink_to("/dev/null")

    assert names(copy) == ["of-the-copy", "good", "linked"]


def test_links_without_end_lead_nowhere(copy: Copy) -> None:
    """Neither out of the copy nor on for ever."""
    copy.path("/etc/crontab").symlink_to("/etc/cron.d/loop")
    copy.path("/etc/cron.d").mkdir()
    copy.path("/etc/cron.d/loop").symlink_to("../crontab")
    copy.path("/etc/up").symlink_to("../../../../../../../../etc")

    assert copy.told()["jobs"] == []
    assert below(str(copy.root), "/etc/up/aura-agent/../../x") == str(copy.root / "x")
    assert below(str(copy.root), "/../../etc/./passwd") == str(copy.root / "etc/passwd")


def test_what_may_keep_a_service_from_pinging_is_told(copy: Copy) -> None:
    """Another user's store, a sandbox, a condition that isn't met."""
    copy.timer(
        "x",
        "OnCalendar=daily",
        "ExecStart=/x\nUser=bob\nPrivateNetwork=yes\nProtectSystem=no\n[Unit]\nConditionACPower=true",
    )

    (job,) = copy.told()["jobs"]

    assert job["user"] == "bob"
    first, second = job["notes"]
    assert first.startswith("User, PrivateNetwork may keep aura-run from its store")
    assert second.startswith("ConditionACPower may keep it from running")


def test_drop_ins_of_a_unit_count(copy: Copy) -> None:
    """An empty value takes back what the fragment said; of two with one name the administrator's counts."""
    copy.timer("x", "OnCalendar=daily", "ExecStart=/x")
    copy.write("/etc/systemd/system/x.timer.d/often.conf", "[Timer]\nOnCalendar=\nOnUnitActiveSec=2d\n")
    copy.write("/usr/lib/systemd/system/x.service.d/a.conf", "[Service]\nExecStart=\nExecStart=/vendor\n")
    copy.write("/etc/systemd/system/x.service.d/a.conf", "# none\n[Service]\nExecStart=\nExecStart=/ours\n")

    told = copy.told()

    (job,) = told["jobs"]
    assert (job["interval_s"], job["command"]) == (2 * 86_400, "/ours")
    assert told["changes"][0]["after"].count("ExecStart=") == 2


def test_jobs_of_the_config_run_when_cron_ran_them(copy: Copy) -> None:
    """Time, zone, user, variables and the line itself; the config is right as ``check`` sees it."""
    copy.cron("cronie")
    copy.write(
        "/etc/cron.d/own",
        'MAILTO=bob\nCRON_TZ=Asia/Tokyo\nA=\'x " \u00e9\'\n0\t3 * * * root /bin/true "a b"\n'
        "SHELL=/bin/bash\nHOME=/srv\n*/5 * * * * nobody date +\\%F >> ~/log\n",
    )

    told = copy.told("--as", "config", "--write")

    examined = examine_config(str(copy.path("/etc/aura-agent/config.toml")))
    assert examined.problems == []
    assert examined.config is not None
    first, second = examined.config.jobs["job"], examined.config.jobs["date"]
    assert (first.schedule, first.timezone, first.user, first.env) == (
        "0 3 * * *",
        "Asia/Tokyo",
        None,
        {"A": 'x " \u00e9'},
    )
    assert (first.shell_program, first.cwd) == ("/bin/sh", None)
    assert (second.shell, second.shell_program, second.user) == ("date +%F >> ~/log", "/bin/bash", "nobody")
    assert (second.cwd, second.env["HOME"]) == ("/srv", "/srv")
    assert schedule_of("job", first)[1].key == "Asia/Tokyo"
    assert any("mailed its output to bob" in note for note in told["jobs"][0]["notes"])
    assert copy.path(DISCOVERED).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 3 * * * root cat%x", "input after a %"),
        ("0 3 * * * root x \udcff", "isn't UTF-8"),
        ("0~30 3 * * * root x", "random time"),
        ("HOME=there\n0 3 * * * root x", "HOME is no absolute path"),
    ],
)
def test_what_the_config_can_not_say_stays_with_cron(copy: Copy, line: str, reason: str) -> None:
    """It is said, and can still be wrapped."""
    copy.cron("cronie")
    copy.write("/etc/crontab", f"{line}\n")

    (left,) = copy.told("--as", "config")["left_alone"]

    assert reason in left["reason"]
    assert len(copy.told()["jobs"]) == 1


def test_a_cron_tz_that_is_no_zone_of_ours_stays_with_cronie(copy: Copy) -> None:
    """What is written is always a right config; an empty one is none at all."""
    copy.cron("cronie")
    copy.write("/etc/crontab", "CRON_TZ=CET-1CEST\n0 3 * * * root x\nCRON_TZ=\n0 4 * * * root y\n")

    told = copy.told("--as", "config", "--write")

    assert [item["reason"] for item in told["left_alone"]] == [
        'CRON_TZ: unknown time zone "CET-1CEST"; use an IANA name such as "Europe/Berlin"'
    ]
    assert examine_config(str(copy.path("/etc/aura-agent/config.toml"))).problems == []
    assert len(told["jobs"]) == 1


def test_a_random_delay_counts_where_it_is_heeded(copy: Copy) -> None:
    """By anacron, and by cronie, whose jobs the daemon delays as much; to Debian's cron it is any variable."""
    copy.write("/etc/anacrontab", "RANDOM_DELAY=45\n1 5 id one\n")
    copy.write("/usr/sbin/anacron", "")
    copy.write("/etc/crontab", "RANDOM_DELAY=30\n0 3 * * * root two\nRANDOM_DELAY=soon\n0 4 * * * root three\n")
    debian = [job["interval_s"] - 86_400 for job in copy.told()["jobs"]]
    copy.cron("cronie")
    cronie = [job["interval_s"] - 86_400 for job in copy.told()["jobs"]]

    assert debian == [0, 0, 45 * 60]
    assert cronie == [30 * 60, 0, 45 * 60]
    assert 'jitter = "30m"' in copy.told("--as", "config")["changes"][-1]["after"]


def test_a_shell_without_a_path_is_left_alone(copy: Copy) -> None:
    """cron looks for it in the home; nothing is guessed."""
    copy.write("/etc/crontab", "SHELL=bash\n0 3 * * * root x\n")

    assert "SHELL=bash" in copy.reasons()["/etc/crontab:2"]


def test_moved_jobs_are_no_longer_cron_s(copy: Copy) -> None:
    """Their lines are comments, so nothing runs twice, and a second look finds nothing."""
    copy.write("/etc/crontab", "# m h\n0 3 * * * root x\n0 4 * * * root cat%x\n")

    copy.told("--as", "config", "--write")

    assert copy.read("/etc/crontab") == "# m h\n# aura-agent runs this: 0 3 * * * root x\n0 4 * * * root cat%x\n"
    assert copy.told("--as", "config")["jobs"] == []


def test_declared_jobs_are_a_right_config(copy: Copy) -> None:
    """As ``sync`` reads it: the heartbeat and how often it is pinged; what was there stays, byte by byte."""
    mine = '# mine\n[jobs.other]\nexpected_interval = "1h"'
    copy.write(DISCOVERED, mine, 0o640)
    copy.write("/etc/cron.d/a", "0 3 * * * root /x/run.parts.sh\n@weekly root x\n")

    copy.told("--write")

    examined = examine_config(str(copy.path("/etc/aura-agent/config.toml")))
    assert examined.problems == []
    assert examined.config is not None
    assert {name: (job.heartbeat, job.expected_interval) for name, job in examined.config.jobs.items()} == {
        "other": ("other", 3600),
        "run.parts": (f"{HOST}/run.parts", 86_400),
        "x": (f"{HOST}/x", 604_800),
    }
    assert copy.read(DISCOVERED).startswith(mine)
    assert copy.path(DISCOVERED).stat().st_mode & 0o777 == 0o640


def test_a_host_without_anything_says_so(tmp_path: Path) -> None:
    """Nothing to propose is no error."""
    ran = Copy(tmp_path).discover()

    assert (ran.status, ran.stdout, ran.stderr) == (0, "nothing to propose\n", "")


def test_a_newcomer_is_told_what_else_it_takes(copy: Copy) -> None:
    """Mail, users whose reports the daemon doesn't take, a config that isn't there; of what is left alone, none."""
    copy.write("/etc/cron.d/a", "0 3 * * * root x\n0 4 * * * www-data y\n")
    copy.path("/etc/aura-agent/config.toml").unlink()

    told = copy.discover().stdout

    assert "aura-run -q holds it back unless the job fails" in told
    assert 'reporters = ["root", "www-data"]' in told
    assert "there is no /etc/aura-agent/config.toml yet" in told
    assert "reporters" not in copy.discover("--as", "config").stdout
