"""Files that the host's cron, anacron or run-parts ignores: they have no jobs, and are named with the reason."""

import os

import pytest

from aura_agent.discover.cronfiles import FileFacts, names_all_accounts, option_of, read_accounts, why_ignored
from aura_agent.discover.dialects import BUSYBOX, CRONIE, DEBIAN, Dialect
from tests.discover.hosts import Copy
from tests.machine import needs, root

LINE = "0 3 * * * root x\n"
PASSWD = "root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n"


def names(copy: Copy) -> list[str]:
    return [job["name"] for job in copy.told()["jobs"]]


def test_each_cron_has_places_of_its_own(copy: Copy) -> None:
    """What lies where another cron would look is named, and isn't run by this one."""
    copy.write("/var/spool/cron/crontabs/bob", "0 3 * * * debian\n", 0o600)
    copy.write("/var/spool/cron/tabs/bob", "0 3 * * * suse\n", 0o600)
    copy.write("/var/spool/cron/bob", "0 3 * * * fedora\n", 0o600)
    copy.write("/etc/crontabs/bob", "0 3 * * * alpine\n", 0o600)
    copy.write("/etc/crontab", "0 3 * * * root system\n")
    found = {}

    for cron in ("debian", "suse", "busybox"):
        copy.cron(cron)
        found[cron] = names(copy)

    assert found == {"debian": ["debian", "system"], "suse": ["suse", "system"], "busybox": ["alpine"]}
    reasons = copy.reasons()
    assert reasons["/var/spool/cron/tabs/bob"] == "busybox's crond reads no crontabs in /var/spool/cron/tabs"
    assert reasons["/etc/crontab"] == "busybox's crond doesn't read it"


def test_a_line_of_alpine_is_rewritten_for_busybox(copy: Copy) -> None:
    """Through the link that Alpine has: % and # are what they are to its crond, and nothing is found twice."""
    copy.cron("busybox")
    copy.write("/etc/crontabs/root", "# min\thour\n0 2 * * * date +%F > /x # daily\n", 0o600)
    copy.path("/var/spool/cron").mkdir(parents=True)
    copy.path("/var/spool/cron/crontabs").symlink_to("/etc/crontabs")

    copy.told("--write")

    assert copy.told()["left_alone"][0]["reason"] == "aura-run is there already"
    before, after = copy.read("/etc/crontabs/root").splitlines()
    assert before == "# min\thour"
    assert after.endswith("/date -- /bin/sh -c 'date +%F > /x '# daily")


def test_a_line_of_alpine_comes_back_as_it_was(copy: Copy) -> None:
    """--unwrap reads it as busybox's crond does: % and # stay where they are."""
    table = "0 2 * * * date +%F > /x # daily\n@daily a | b%c # d\n*/5 * * * * x \\\n  --y\n"
    copy.cron("busybox")
    copy.write("/etc/crontabs/root", table, 0o600)

    copy.told("--write")
    wrapped = copy.read("/etc/crontabs/root")
    copy.told("--unwrap", "--write")

    assert wrapped.count("aura-run") == 3
    assert copy.read("/etc/crontabs/root") == table


def test_alpine_s_init_script_may_name_another_place(copy: Copy) -> None:
    """By crond's option -c."""
    copy.cron("busybox")
    copy.write("/etc/conf.d/crond", '# options\nCRON_OPTS="-l 8 -c /srv/crontabs"\n')
    copy.write("/srv/crontabs/root", "0 3 * * * there\n", 0o600)
    copy.write("/etc/crontabs/root", "0 3 * * * here\n", 0o600)

    assert names(copy) == ["there"]


@pytest.mark.parametrize(
    ("cron", "reason"),
    [
        ("", "no cron is installed here, so nothing runs it"),
        ("dcron", "runs under dcron, whose ways aren't known here"),
    ],
)
def test_tables_that_nothing_known_runs_have_no_jobs(copy: Copy, cron: str, reason: str) -> None:
    """Packages leave files in /etc/cron.d also where there is no cron."""
    copy.cron(cron)
    copy.write("/etc/cron.d/own", LINE)
    copy.write("/var/spool/cron/crontabs/bob", "0 3 * * * x\n", 0o600)
    copy.write("/etc/anacrontab", "1 5 id y\n")

    assert copy.told()["jobs"] == copy.told()["changes"] == []
    reasons = copy.reasons()
    assert reasons["/etc/cron.d/own"] == reasons["/var/spool/cron/crontabs/bob"] == reason
    assert reasons["/etc/anacrontab"] == "no anacron is installed here, so nothing runs it"


@pytest.mark.parametrize(
    ("os_release", "jobs"),
    [
        ('NAME="Debian"\nID=debian\n', ["debian", "x"]),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", ["debian", "x"]),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', ["suse", "x"]),
        ("ID=alpine\n", ["alpine"]),
        ("ID=plan9\n", []),
    ],
)
def test_a_copy_without_programs_has_its_distribution_s_cron(copy: Copy, os_release: str, jobs: list[str]) -> None:
    """Who copies /etc and /var alone leaves nothing else to go by."""
    copy.cron("")
    copy.path("/usr/sbin").rmdir()
    copy.write("/etc/os-release", os_release)
    copy.write("/etc/crontab", LINE)
    copy.write("/var/spool/cron/crontabs/bob", "0 3 * * * debian\n", 0o600)
    copy.write("/var/spool/cron/tabs/bob", "0 3 * * * suse\n", 0o600)
    copy.write("/etc/crontabs/bob", "0 3 * * * alpine\n", 0o600)

    assert names(copy) == jobs


def test_debian_s_cron_ignores_a_file_with_a_bad_line(copy: Copy) -> None:
    """With all its good lines; other files, and other crons, are not concerned."""
    copy.write("/etc/cron.d/bad", "0 3 * * * root one\n0 3 * * root two\n")
    copy.write("/etc/cron.d/gone", "0 3 * * * root three\n0 4 * * * no-such-user four\n")
    copy.write("/etc/cron.d/good", "0 3 * * * root five\n")
    copy.write("/etc/cron.d/open-end", "0 3 * * * root six\n0 4 * * * root seven")
    copy.write("/var/spool/cron/crontabs/bob", "MAILTO=\n0 3 * * * eight\n", 0o600)
    copy.write("/etc/passwd", PASSWD)
    copy.write("/var/lib/dpkg/status", "Package: cron\nStatus: install ok installed\nVersion: 3.0pl1-162\n")

    debian = copy.told()
    copy.cron("cronie")
    cronie = copy.told()

    assert [job["name"] for job in debian["jobs"]] == ["five"]
    assert {item["where"]: item["reason"] for item in debian["left_alone"]} == {
        "/etc/cron.d/bad": "line 2: bad day-of-week; Debian's cron ignores the whole file",
        "/etc/cron.d/gone": 'line 2: bad username "no-such-user"; Debian\'s cron ignores the whole file',
        "/etc/cron.d/open-end": "line 2: no line feed at its end; Debian's cron ignores the whole file",
        "/var/spool/cron/crontabs/bob": "line 1: bad minute; Debian's cron ignores the whole file",
    }
    assert [job["name"] for job in cronie["jobs"]] == ["eight", "one", "three", "five", "six"]
    reasons = {item["where"]: item["reason"] for item in cronie["left_alone"]}
    assert reasons["/etc/cron.d/gone:2"] == 'there is no user "no-such-user"; cron doesn\'t run it'
    assert "no line feed" in reasons["/etc/cron.d/open-end:2"]


def test_a_table_that_nothing_runs_may_still_hold_an_aura_run(copy: Copy) -> None:
    """Its heartbeat's name is in use, and --unwrap takes it out as from any other."""
    host = os.uname().nodename.partition(".")[0]
    copy.write("/etc/cron.d/bad", f"0 3 * * * root aura-run -H {host}/x -- /a/x\nbad\n")
    copy.write("/etc/cron.d/good", "0 3 * * * root /b/x\n")

    assert names(copy) == ["x-2"]
    copy.told("--unwrap", "--write")

    assert copy.read("/etc/cron.d/bad") == "0 3 * * * root /a/x\nbad\n"
    assert names(copy) == ["x"]


@pytest.mark.parametrize("cron", ["debian", "cronie", "busybox"])
def test_a_crontab_without_an_account_is_ignored(copy: Copy, cron: str) -> None:
    """Its user is gone; a copy that doesn't say who has an account is taken as it is."""
    copy.cron(cron)
    copy.write("/var/spool/cron/crontabs/eve", "0 3 * * * x\n", 0o600)
    unsaid = names(copy)
    copy.write("/etc/nsswitch.conf", "passwd: files sss  # from a server\n")
    copy.write("/etc/passwd", PASSWD)
    elsewhere = names(copy)
    copy.write("/etc/nsswitch.conf", "passwd: files systemd\n")

    assert unsaid == elsewhere == ["x"]
    assert names(copy) == []
    assert copy.reasons()["/var/spool/cron/crontabs/eve"] == 'there is no user "eve"; cron ignores the file'


def test_cronie_runs_nothing_for_users_without_a_home(copy: Copy) -> None:
    """Debian's cron does, and cronie where the table sets HOME; a copy without /home doesn't say."""
    copy.write("/etc/passwd", PASSWD)
    copy.write("/var/spool/cron/crontabs/bob", "0 3 * * * x\nHOME=/tmp\n0 4 * * * y\n", 0o600)
    copy.write("/etc/cron.d/own", "0 3 * * * bob z\n")
    copy.cron("cronie")
    without_homes = names(copy)
    copy.path("/home").mkdir()
    homeless = names(copy)
    reasons = copy.reasons()
    copy.cron("debian")
    debian = names(copy)
    copy.cron("cronie")
    copy.path("/home/bob").mkdir()

    assert without_homes == debian == names(copy) == ["x", "y", "z"]
    assert homeless == ["y"]
    assert reasons["/etc/cron.d/own:1"] == "the home of bob isn't there, so cronie doesn't run it"


def test_cron_deny_keeps_no_job_from_running(copy: Copy) -> None:
    """Only crontab(1) reads it: what is installed runs on."""
    copy.write("/etc/cron.deny", "bob\n")
    copy.write("/etc/passwd", PASSWD)
    copy.write("/var/spool/cron/crontabs/bob", "0 3 * * * x\n", 0o600)

    assert names(copy) == ["x"]


def test_modes_and_links_decide_about_a_file(copy: Copy) -> None:
    """By the rules of the cron that is installed."""
    copy.write("/etc/cron.d/writable", LINE, 0o664)
    copy.write("/etc/cron.d/program", LINE, 0o755)
    os.link(copy.write("/etc/cron.d/twice", LINE), copy.path("/etc/twin"))
    copy.write("/var/spool/cron/crontabs/bob", "0 3 * * * x\n", 0o644)
    copy.write("/srv/table", "0 3 * * * x\n", 0o600)
    copy.path("/var/spool/cron/crontabs/eve").symlink_to("/srv/table")
    debian = copy.told()
    copy.cron("cronie")
    cronie = copy.told()

    assert [job["where"] for job in debian["jobs"]] == ["/etc/cron.d/program:1"]
    assert {item["where"]: item["reason"].partition(";")[0] for item in debian["left_alone"]} == {
        "/etc/cron.d/writable": "INSECURE MODE (group/other writable): mode 0664",
        "/etc/cron.d/twice": "NUMBER OF HARD LINKS > 1",
        "/var/spool/cron/crontabs/bob": "INSECURE MODE (mode 0600 expected): mode 0644",
        "/var/spool/cron/crontabs/eve": "CAN'T OPEN: it is a link",
    }
    assert [job["where"] for job in cronie["jobs"]] == [
        "/var/spool/cron/crontabs/bob:1",
        "/var/spool/cron/crontabs/eve:1",
        "/etc/cron.d/twice:1",
    ]
    assert {item["where"]: item["reason"] for item in cronie["left_alone"]} == {
        "/etc/cron.d/program": "BAD FILE MODE: mode 0755; cronie ignores the file",
        "/etc/cron.d/writable": "BAD FILE MODE: mode 0664; cronie ignores the file",
    }


def test_a_cronie_may_take_any_file(copy: Copy) -> None:
    """Started with -p it looks at neither mode nor owner."""
    copy.cron("cronie")
    copy.write("/etc/cron.d/writable", LINE, 0o666)
    copy.write("/etc/sysconfig/crond", "CRONDARGS=-p\n")

    assert names(copy) == ["x"]


@pytest.mark.root
@needs(root)
def test_a_foreign_owner_decides_about_a_file(copy: Copy) -> None:
    """A table of the system is root's, a user's crontab the user's or root's; to busybox each is root's."""
    os.chown(copy.write("/etc/cron.d/foreign", LINE), 1000, 0)
    copy.write("/etc/passwd", PASSWD + "eve:x:1001:1001::/home/eve:/bin/sh\n")
    for name, uid in (("bob", 1000), ("eve", 1000), ("root", 0)):
        os.chown(copy.write(f"/var/spool/cron/crontabs/{name}", f"0 3 * * * of-{name}\n", 0o600), uid, 0)
    found = {}

    for cron in ("debian", "cronie", "busybox"):
        copy.cron(cron)
        found[cron] = names(copy)

    assert found == {"debian": ["of-bob", "of-root"], "cronie": ["of-bob", "of-root"], "busybox": ["of-root"]}
    assert copy.reasons()["/var/spool/cron/crontabs/bob"].startswith("WRONG FILE OWNER: uid 1000; busybox's crond")


@pytest.mark.root
@needs(root)
def test_a_copy_that_is_not_root_s_says_nothing_of_owners(copy: Copy) -> None:
    """Who copies files without being root owns them all; modes are as they were."""
    copy.path("/etc/aura-agent/config.toml").unlink()  # root would not follow somebody else's
    copy.write("/etc/cron.d/own", LINE)
    copy.write("/etc/cron.d/writable", LINE, 0o666)
    copy.write("/etc/passwd", PASSWD)
    copy.write("/var/spool/cron/crontabs/bob", "0 3 * * * y\n", 0o600)
    for path in (copy.root, *copy.root.rglob("*")):
        os.chown(path, 4001, 4001, follow_symlinks=False)

    assert names(copy) == ["y", "x"]
    assert copy.reasons()["/etc/cron.d/writable"].startswith("INSECURE MODE")


@pytest.mark.parametrize(
    ("file", "dialect", "is_users", "reason"),
    [
        (FileFacts(0, 0o100644, 1), DEBIAN, False, ""),
        (FileFacts(0, 0o100644, 1, link_uid=0), DEBIAN, False, ""),
        (FileFacts(0, 0o100644, 1, link_uid=7), DEBIAN, False, "WRONG SYMLINK OWNER"),
        (FileFacts(7, 0o100644, 1), DEBIAN, False, "WRONG FILE OWNER: uid 7"),
        (FileFacts(0, 0o100600, 1), DEBIAN, True, ""),
        (FileFacts(1000, 0o100600, 1), DEBIAN, True, ""),
        (FileFacts(7, 0o100600, 1), DEBIAN, True, "WRONG FILE OWNER: uid 7"),
        (FileFacts(1000, 0o101600, 1), DEBIAN, True, "INSECURE MODE (mode 0600 expected): mode 1600"),
        (FileFacts(1000, 0o100600, 2), DEBIAN, True, "NUMBER OF HARD LINKS > 1"),
        (FileFacts(0, 0o100444, 2, link_uid=7), CRONIE, False, ""),
        (FileFacts(7, 0o100644, 1), CRONIE, False, "WRONG FILE OWNER: uid 7"),
        (FileFacts(0, 0o100200, 1), CRONIE, False, "BAD FILE MODE: mode 0200"),
        (FileFacts(1000, 0o100640, 1, link_uid=7), CRONIE, True, ""),
        (FileFacts(1000, 0o100640, 2), CRONIE, True, "BAD LINK COUNT"),
        (FileFacts(0, 0o100666, 3), BUSYBOX, True, ""),
        (FileFacts(1000, 0o100600, 1), BUSYBOX, True, "WRONG FILE OWNER: uid 1000"),
    ],
)
def test_a_file_is_judged_as_its_cron_does(file: FileFacts, dialect: Dialect, is_users: bool, reason: str) -> None:
    """In the words of its log."""
    assert why_ignored(file, dialect, is_users=is_users, owner_uid=1000 if is_users else None, root_uid=0) == reason


def test_debian_s_cron_may_follow_the_lsb(copy: Copy) -> None:
    """With -l it takes names with dots of a certain form, and no capital letters."""
    for name in ("good", "vendor.example-jobs", "Capital", "with.dot"):
        copy.write(f"/etc/cron.d/{name}", LINE)
    plain = [job["where"].partition(":")[0] for job in copy.told()["jobs"]]
    copy.write("/etc/default/cron", "# options\nEXTRA_OPTS='-L 5 -l'\n")
    lsb = [job["where"].partition(":")[0] for job in copy.told()["jobs"]]

    assert plain == ["/etc/cron.d/Capital", "/etc/cron.d/good"]
    assert lsb == ["/etc/cron.d/good", "/etc/cron.d/vendor.example-jobs"]


def test_what_run_parts_ignores_is_named(copy: Copy) -> None:
    """A name with a dot, one that isn't executable, a directory."""
    copy.write("/etc/crontab", "25 6 * * * root run-parts /etc/cron.daily\n")
    copy.write("/etc/cron.daily/good", "#!/bin/sh\n", 0o755)
    copy.write("/etc/cron.daily/backup.sh", "#!/bin/sh\n", 0o755)
    copy.write("/etc/cron.daily/plain", "#!/bin/sh\n", 0o644)
    copy.path("/etc/cron.daily/dir").mkdir()
    debian = copy.reasons()
    copy.write("/usr/bin/run-parts", "#!/bin/bash\n", 0o755)
    script = copy.reasons()

    assert debian == {
        "/etc/cron.daily/backup.sh": "run-parts ignores it: a dot in its name",
        "/etc/cron.daily/dir": "run-parts ignores it: no regular file",
        "/etc/cron.daily/plain": "run-parts ignores it: not executable",
    }
    assert "/etc/cron.daily/backup.sh" not in script


def test_the_run_parts_of_suse_is_left_alone(copy: Copy) -> None:
    """Its run-crons ends well whatever its scripts do."""
    copy.cron("suse")
    line = "-*/15 * * * * root test -x /usr/lib/cron/run-crons && /usr/lib/cron/run-crons >/dev/null 2>&1"
    copy.write("/etc/crontab", f"SHELL=/bin/bash\n{line}\n-0 3 * * * root x\n")

    assert names(copy) == ["x"]
    assert "ends well whatever" in copy.reasons()["/etc/crontab:2"]
    assert copy.told()["changes"][0]["after"].splitlines()[2].startswith("-0 3 * * * root /")


@pytest.mark.parametrize(
    ("settings", "variable", "letter", "value"),
    [
        ("A='-l'", "A", "l", ""),
        ('# A="-l"\nA="-L 5 -l"\n', "A", "l", ""),
        ('A="-c /etc/x -l 8"', "A", "c", "/etc/x"),
        ("A=-c/etc/x", "A", "c", "/etc/x"),
        ("A=-L", "A", "l", None),
        ('AA="-l"', "A", "l", None),
        ('A=""', "A", "l", None),
        ("", "A", "l", None),
    ],
)
def test_options_of_a_daemon_are_found(settings: str, variable: str, letter: str, value: str | None) -> None:
    """In the files that start scripts read."""
    assert option_of(settings, variable, letter) == value


def test_accounts_are_those_of_the_copy() -> None:
    """As long as its /etc/passwd has them all."""
    assert read_accounts(PASSWD + "+::::::\nbad\n\nx:x:1:1::/x:\n") == {
        "root": (0, "/root"),
        "bob": (1000, "/home/bob"),
        "x": (1, "/x"),
    }
    assert names_all_accounts("")
    assert names_all_accounts("hosts: dns\npasswd:\t\tfiles systemd\n")
    assert not names_all_accounts("passwd: files ldap")
