"""What is wrong with a config is told in full: file, line, key, and what to do."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from aura_agent.config.load import examine_config, load_config
from aura_agent.config.models import Config, Job, JobDefaults
from aura_agent.errors import AuraError, ConfigError
from tests.config.tomlwriter import dumps
from tests.machine import needs, no_system_config

NOW = datetime(2026, 11, 24, tzinfo=UTC)
TOKEN = "aura_live_0123456789abcdef0123456789abcdef"
PING_URL = "https://ping.aura.example/beat/7f3c9a"


def problems(directory: Path, text: str, **conf_d: str) -> list[str]:
    """Return all problems of a config, the directory's name taken out."""
    return _told(directory, text, conf_d)[0]


def warnings(directory: Path, text: str) -> list[str]:
    errors, told = _told(directory, text, {})
    assert errors == []
    return told


def _told(directory: Path, text: str, conf_d: dict[str, str]) -> tuple[list[str], list[str]]:
    main = directory / "config.toml"
    main.write_text(text)
    for name, more in conf_d.items():
        (directory / "conf.d").mkdir(exist_ok=True)
        (directory / "conf.d" / f"{name}.toml").write_text(more)
    examined = examine_config(str(main), now=NOW)
    assert (examined.config is None) == bool(examined.problems)
    return (
        [str(problem).replace(f"{directory}/", "") for problem in examined.problems],
        [str(warning).replace(f"{directory}/", "") for warning in examined.warnings],
    )


def test_patterns_that_cannot_be_applied_are_told(tmp_path: Path) -> None:
    """Each by its place; what they are meant to hide isn't shown."""
    told = problems(tmp_path, '[attach]\nredact = [\n  "ok=[0-9]+",\n  "hunter2(",\n  "x*",\n]\n')

    assert [line.partition(": ")[0] for line in told] == ["config.toml:4", "config.toml:5"]
    assert "not a regular expression" in told[0]
    assert "everywhere" in told[1]
    assert "hunter2" not in "".join(told)


@pytest.mark.parametrize(("mode", "warns"), [(0o644, True), (0o640, False), (0o600, False)])
def test_a_webhook_that_everybody_can_read_is_told(tmp_path: Path, mode: int, warns: bool) -> None:
    """Whoever has its URL can post to it; the file that file:PATH names isn't the config's."""
    hooks = 'on_failure.webhook = "https://hooks.example/hunter2"\non_recovery.webhook = "file:/etc/x"\n'
    main = tmp_path / "config.toml"
    main.write_text(f"[defaults]\n{hooks}[jobs.a]\n{RUNNING}")
    main.chmod(mode)

    told = [str(warning) for warning in examine_config(str(main), now=NOW).warnings]

    hint = "everybody on this host can read this secret; chmod 600 the file, or write file:PATH"
    assert told == [f"{main}:2: defaults.on_failure.webhook: {hint}"] * warns


ALL_AT_ONCE = """\
[api]
base_url = "http://aura.example/api-v1"
token_fil = "/etc/aura-agent/token"
[agent]
stop_grace = 30
timeout = "3s"
log_level = "warn"
socket = "agent.sock"
[status]
listen = "0.0.0.0:8787"
[job.x]
[defaults]
timezone = "Europe/Berln"
every = "3s"
[jobs.backup]
schedule = [
  "0 3 * * *",
  "61 * * * *",
]
comand = ["/usr/local/bin/backup.sh"]
timeout = "2 hours"
overlap = "forbit"
success_codes = [0, 300, "x"]
expect.file = { newer_than = 5, min_size = "1mb" }
env = { A = 3, "B-C" = "" }
[jobs.postgres]
heartbeat = "backup"
every = "60s"
watch.process = { pidfile = "main.pid", pattern = "(" }
[jobs."my job"]
command = "ls -l"
every = "0.5s"
"""

ALL_PROBLEMS = """\
config.toml:2: api.base_url: http:// would show the token to the network; write https://, or set allow_insecure = true
config.toml:3: api.token_fil: unknown key; did you mean "token_file"?
config.toml:5: agent.stop_grace: 30 has no unit; write "30s", "30m" or "30h"
config.toml:6: agent.timeout: unknown key here; it belongs in [jobs.NAME] or [defaults]
config.toml:7: agent.log_level: "warn" is not among "debug", "error", "info", "warning"; did you mean "warning"?
config.toml:8: agent.socket: not an absolute path; begin it with "/"
config.toml:10: status.listen: other hosts could reach 0.0.0.0: the page has no login; listen on 127.0.0.1, or set \
allow_remote = true
config.toml:11: job: unknown key; did you mean "jobs"?
config.toml:13: defaults.timezone: unknown time zone "Europe/Berln"; did you mean "Europe/Berlin"?
config.toml:14: defaults.every: unknown key here; it belongs in [jobs.NAME]
config.toml:18: jobs.backup.schedule[1]: schedule "61 * * * *": minute field: "61": 61 is out of range; use 0-59
config.toml:20: jobs.backup.comand: unknown key; did you mean "command"?
config.toml:21: jobs.backup.timeout: "2 hours" is not a duration; write a number with a unit, such as "90s", "15m", \
"2h30m", "1d"
config.toml:22: jobs.backup.overlap: "forbit" is not among "allow", "forbid", "queue", "replace"; did you mean "forbid"?
config.toml:23: jobs.backup.success_codes[1]: 300 is out of range; write a whole number from 0 to 255
config.toml:23: jobs.backup.success_codes[2]: expected a whole number from 0 to 255, got a string; no quotes
config.toml:24: jobs.backup.expect.file.newer_than: 5 has no unit; write "5s", "5m" or "5h"; or "start"
config.toml:24: jobs.backup.expect.file.min_size: "1mb" is not a size; write a number with a unit, such as "512B", \
"10kB", "1MiB"
config.toml:25: jobs.backup.env.A: expected a string, got an integer; put it in quotes
config.toml:27: jobs.postgres.heartbeat: jobs.backup (config.toml:15) pings the same heartbeat; a job and a watch need \
one each
config.toml:29: jobs.postgres.watch.process.pidfile: not an absolute path; begin it with "/"
config.toml:29: jobs.postgres.watch.process.pattern: not a regular expression: missing ), unterminated subpattern at \
position 0; a \\ makes a character literal
config.toml:30: jobs."my job": "my job" is not a job's name; use letters, digits, ".", "_" and "-", at most 100, the \
first a letter or digit
config.toml:31: jobs."my job".command: expected a list of strings, got a string; write command = ["…", "…"]; or use \
shell for a line of shell
config.toml:32: jobs."my job".every: 0.5s is too short; write 1s or more
"""


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """All problems, in the order of the lines, each with its line, its key and what to do."""
    assert problems(tmp_path, ALL_AT_ONCE) == ALL_PROBLEMS.splitlines()


RUNNING = 'every = "1h"\ncommand = ["x"]\n'
TABLE: dict[str, tuple[str, list[str]]] = {
    "a bare number of seconds": (
        "[jobs.a]\nevery = 60\nshell = 'x'",
        ['config.toml:2: jobs.a.every: 60 has no unit; write "60s", "60m" or "60h"'],
    ),
    "a bare number of bytes": (
        f"[jobs.a]\n{RUNNING}tail_bytes = 10000",
        ['config.toml:4: jobs.a.tail_bytes: 10000 has no unit; write "10000B", "10000kB" or "10000MB"'],
    ),
    "too large a tail": (
        f'[jobs.a]\n{RUNNING}tail_bytes = "1MB"',
        ["config.toml:4: jobs.a.tail_bytes: out of range; write a size from 1B to 200kB"],
    ),
    "command and shell": (
        f'[jobs.a]\n{RUNNING}shell = "x"',
        ["config.toml:4: jobs.a.shell: command is given too; keep one of them"],
    ),
    "schedule and every": (
        f'[jobs.a]\n{RUNNING}schedule = "@daily"',
        ["config.toml:2: jobs.a.every: schedule is given too; keep one of them"],
    ),
    "an interval beside a schedule": (
        f'[jobs.a]\n{RUNNING}expected_interval = "1h"\n[jobs.b]\nexpected_interval = "0.5s"',
        [
            "config.toml:4: jobs.a.expected_interval: every says how often it runs; take out expected_interval",
            "config.toml:6: jobs.b.expected_interval: 0.5s is too short; write 1s or more",
        ],
    ),
    "nothing to run": (
        '[jobs.a]\nschedule = "@daily"',
        ['config.toml:1: jobs.a: there is nothing to run; add command = ["…"] or shell = "…"'],
    ),
    "an empty command": (
        '[jobs.a]\nevery = "1h"\ncommand = []',
        ["config.toml:3: jobs.a.command: an empty list; write at least one of the strings"],
    ),
    "an empty schedule": (
        '[jobs.a]\nschedule = []\nshell = "x"',
        ["config.toml:2: jobs.a.schedule: an empty list; write at least one of the strings"],
    ),
    "a watch without every": (
        '[jobs.a]\nwatch.file.path = "/x"',
        ['config.toml:2: jobs.a.watch: a watch looks every so often; add every = "60s"'],
    ),
    "a watch with a schedule": (
        '[jobs.a]\nschedule = "@daily"\nwatch.file.path = "/x"',
        ['config.toml:2: jobs.a.schedule: a watch has no schedule; write every = "60s" instead'],
    ),
    "a watch that runs something": (
        f'[jobs.a]\n{RUNNING}watch.file.path = "/x"',
        ["config.toml:3: jobs.a.command: a watch runs nothing; take out command, or watch"],
    ),
    "a watch of nothing": (
        '[jobs.a]\nevery = "1h"\nwatch = {}\n[jobs.b]\nevery = "1h"\nwatch.process = { user = "root" }',
        [
            "config.toml:3: jobs.a.watch: nothing to look at; write watch.process or watch.file",
            "config.toml:6: jobs.b.watch.process: nothing to look for; add pidfile, pattern or name",
        ],
    ),
    "a watch of two things": (
        '[jobs.a]\nevery = "1h"\nwatch.process.name = "x"\nwatch.file.path = "/x"',
        ["config.toml:4: jobs.a.watch.file: watch.process is given too; make two jobs of it"],
    ),
    "a file to watch that has no path": (
        '[jobs.a]\nevery = "1h"\nwatch.file.max_age = "1h"',
        ["config.toml:3: jobs.a.watch.file: path is missing; add it"],
    ),
    "relative paths": (
        f'[jobs.a]\n{RUNNING}cwd = "srv"\nexpect.file.path = "out/*"',
        [
            'config.toml:4: jobs.a.cwd: not an absolute path; begin it with "/"',
            'config.toml:5: jobs.a.expect.file.path: not an absolute path; begin it with "/"',
        ],
    ),
    "no time to run": (
        f'[defaults]\ntimeout = "0s"\n[jobs.a]\n{RUNNING}max_age = "0s"',
        [
            "config.toml:2: defaults.timeout: would end each run at once; leave it out for no limit",
            "config.toml:6: jobs.a.max_age: no ping could be delivered; write a longer duration",
        ],
    ),
    "an absurd duration": (
        f'[jobs.a]\n{RUNNING}timeout = "9999999999w"',
        ['config.toml:4: jobs.a.timeout: "9999999999w" is more than ten years; write a shorter duration'],
    ),
    "a table where text belongs": (
        f"[jobs.a]\n{RUNNING}[jobs.a.cwd]",
        ["config.toml:4: jobs.a.cwd: expected a string, got a table; put it in quotes"],
    ),
    "text where tables belong": (
        'api = "x"\njobs = 3',
        ["config.toml:1: api: expected a table, got a string; write [api]", ("config.toml:2: jobs: expected tables of "
         "jobs; write [jobs.NAME]")],
    ),
    "an array of jobs": (
        '[[jobs]]\nname = "a"',
        ["config.toml:1: jobs: expected tables of jobs; write [jobs.NAME]"],
    ),
    "a key of a job beside the tables": (
        'timeout = "2h"',
        ["config.toml:1: timeout: unknown key here; it belongs in [jobs.NAME] or [defaults]"],
    ),
    "what it is called elsewhere": (
        "[jobs.a]\ncron = '@daily'\ncmd = ['x']\n[jobs.b]\ninterval = '1h'\nretry-delay = '1s'\nworkdir = '/'",
        [
            'config.toml:2: jobs.a.cron: unknown key; did you mean "schedule"?',
            'config.toml:3: jobs.a.cmd: unknown key; did you mean "command"?',
            'config.toml:4: jobs.b: there is nothing to run; add command = ["…"] or shell = "…"',
            'config.toml:5: jobs.b.interval: unknown key; did you mean "every"?',
            'config.toml:6: jobs.b.retry-delay: unknown key; did you mean "retry_delay"?',
            'config.toml:7: jobs.b.workdir: unknown key; did you mean "cwd"?',
        ],
    ),
    "an unknown key of a small table": (
        "[status]\nzzz = 1",
        ["config.toml:2: status.zzz: unknown key; there are listen, allow_remote"],
    ),
    "a job that isn't a table": ("jobs.a = 3", [("config.toml:1: jobs.a: expected a table, got an integer; write "
                                               "[jobs.NAME]")]),
    "true in quotes": (
        f'[jobs.a]\n{RUNNING}enabled = "true"',
        ["config.toml:4: jobs.a.enabled: expected true or false, got a string; no quotes"],
    ),
    "a mask as a number": (
        f"[jobs.a]\n{RUNNING}umask = 22",
        ["config.toml:4: jobs.a.umask: expected a string, got an integer; put it in quotes"],
    ),
    "a mask of other digits": (
        f'[jobs.a]\n{RUNNING}umask = "089"',
        ['config.toml:4: jobs.a.umask: "089" is not an octal mask; write one such as "0022"'],
    ),
    "surroundings that can't be": (
        (f'[jobs.a]\n{RUNNING}env_file = "env"\nshell_program = "bash"\ninherit_env = ["A*B", "P_*"]\n'
        'nice = 20\nlimits = { open_files = 2, cpu = 60, cores = 1 }\noutput = "drop"\nattach = "output"'),
        [
            'config.toml:4: jobs.a.env_file: not an absolute path; begin it with "/"',
            'config.toml:5: jobs.a.shell_program: not an absolute path; begin it with "/"',
            'config.toml:6: jobs.a.inherit_env[0]: "A*B" is no variable; write a name, "PREFIX_*" or "*"',
            "config.toml:7: jobs.a.nice: 20 is out of range; write a whole number from -20 to 19",
            "config.toml:8: jobs.a.limits.open_files: 2 is out of range; write a whole number from 3 to 2147483647",
            'config.toml:8: jobs.a.limits.cpu: 60 has no unit; write "60s", "60m" or "60h"',
            'config.toml:8: jobs.a.limits.cores: unknown key; did you mean "core"?',
            'config.toml:10: jobs.a.attach: output = "drop" leaves nothing to send; change one of them',
        ],
    ),
    "groups that aren't there": (
        (f'[job_groups.database]\nmax_concurrent = 0\n[job_groups."a b"]\n[jobs.a]\n{RUNNING}job_group = "databse"\n'
        f'[jobs.b]\n{RUNNING}job_group = "mail"'),
        [
            "config.toml:2: job_groups.database.max_concurrent: 0 is out of range; write a whole number from 1 to 100000",
            ('config.toml:3: job_groups."a b": "a b" is not a group\'s name; use letters, digits, ".", "_" and "-", at most '
            "100, the first a letter or digit"),
            'config.toml:7: jobs.a.job_group: there is no job group "databse"; did you mean "database"?',
            'config.toml:11: jobs.b.job_group: there is no job group "mail"; add [job_groups.mail]',
        ],
    ),
    "groups that are no tables": ("job_groups = 3", ["config.toml:1: job_groups: expected tables of groups; write [job_groups.NAME]"]),
    "a NUL in an argument": (
        '[jobs.a]\nevery = "1h"\ncommand = ["x", "\\u0000"]',
        ["config.toml:3: jobs.a.command[1]: a string with a NUL character; leave it out"],
    ),
    "an environment without names": (
        f'[defaults.env]\n"A B" = "x"\n[jobs.a]\n{RUNNING}',
        ["config.toml:2: defaults.env.\"A B\": not a variable's name; use letters, digits and _, the first no digit"],
    ),
    "two places for the token": (
        '[api]\ntoken_file = "/x"\ntoken_env = "X"',
        ["config.toml:3: api.token_env: token_file is given too; keep one of them"],
    ),
    "a name that ends with a line end": (
        '[jobs."a\\n"]',
        [
            ("config.toml:1: jobs.\"a\\n\": 'a\\n' is not a job's name; use letters, digits, \".\", \"_\" and \"-\", at "
            "most 100, the first a letter or digit")
        ],
    ),
    "no port": (
        '[status]\nlisten = "localhost"',
        [('config.toml:2: status.listen: "localhost" is not an address; write HOST:PORT, such as "127.0.0.1:8787" or '
         '"[::1]:8787"')],
    ),
    "a name to listen on": (
        '[status]\nlisten = "example.com:80"',
        [('config.toml:2: status.listen: "example.com:80" is not an address; write an IP address or "localhost" before '
         "the colon")],
    ),
    "no such port": (
        '[status]\nlisten = "[::1]:65536"',
        ['config.toml:2: status.listen: "[::1]:65536" is not a port; write a number from 0 to 65535'],
    ),
    "a socket that the kernel wouldn't take": (
        f'[agent]\nsocket = "/{"x" * 107}"',
        ["config.toml:2: agent.socket: longer than 107 bytes; a socket needs a shorter path"],
    ),
    "a token's file without its directory": (
        '[api]\ntoken_file = "token"',
        ["config.toml:2: api.token_file: not an absolute path; write the path of a file that holds the token"],
    ),
    "a token's variable that can't be one": (
        '[api]\ntoken_env = "MY TOKEN"',
        ["config.toml:2: api.token_env: not a variable's name; the token itself doesn't belong in the config"],
    ),
    "a token where its variable belongs": (
        f'[api]\ntoken_env = "{TOKEN}"',
        ["config.toml:2: api.token_env: not a variable's name; the token itself doesn't belong in the config"],
    ),
    "nothing can be that young": (
        (f'[jobs.a]\n{RUNNING}expect.file = {{ path = "/x", newer_than = "0s" }}\n'
        '[jobs.b]\nevery = "1h"\nwatch.file = { path = "/x", max_age = "0s" }'),
        [
            'config.toml:4: jobs.a.expect.file.newer_than: nothing is newer than that; write "start" or a duration',
            "config.toml:7: jobs.b.watch.file.max_age: no file is as young as that; write a longer duration",
        ],
    ),
    "an expectation of nothing": (
        f"[jobs.a]\n{RUNNING}expect = {{}}",
        ["config.toml:4: jobs.a.expect: nothing is expected; write expect.file, or leave expect out"],
    ),
    "hooks that call nothing, or can't": (
        ('[defaults]\non_failure = { timeout = "5s" }\n'
        f'[jobs.a]\n{RUNNING}'
        'on_recovery = { webhook = "http://hooks.example/hunter2", timeout = "0s" }\n'
        'on_lost_run = { webhook = "file:x", comand = ["x"] }\n'
        'on_undeliverable = { command = [" "], after = "0s" }\n'
        '[jobs.b]\nevery = "1h"\ncommand = ["x"]\non_failure = {}\non_recovery = { webhook = "hunter2" }\n'),
        [
            ('config.toml:2: defaults.on_failure: nothing is called; add command = ["…"] or webhook = "…", or write {} '
            "for nothing"),
            ("config.toml:6: jobs.a.on_recovery.webhook: http:// would show it to the network; write https://, or set "
            "allow_insecure = true in [api]"),
            "config.toml:6: jobs.a.on_recovery.timeout: out of range; write a duration up to 10m",
            'config.toml:7: jobs.a.on_lost_run.comand: unknown key; did you mean "command"?',
            'config.toml:7: jobs.a.on_lost_run.webhook: not an absolute path; begin it with "file:/"',
            "config.toml:8: jobs.a.on_undeliverable.command[0]: an empty program name; write the program's path",
            "config.toml:8: jobs.a.on_undeliverable.after: every ping waits a moment; write a longer duration",
            "config.toml:13: jobs.b.on_recovery.webhook: not a URL; write one that begins with https://, or file:PATH",
        ],
    ),
    "the agent's heartbeat twice": (
        f'[agent]\nheartbeat = "h"\n[jobs.a]\nheartbeat = "h"\n{RUNNING}',
        ["config.toml:4: jobs.a.heartbeat: the agent's own heartbeat, see agent (config.toml:2); use one of its own"],
    ),
    "a key twice": (
        '[jobs.a]\nevery = "1h"\nevery = "2h"',
        ["config.toml:3: not valid TOML: Cannot overwrite a value; the key is there twice; keep one of them"],
    ),
    "no quotes": (
        "[jobs.a]\n\nevery = 1h",
        ["config.toml:3: not valid TOML: Expected newline or end of document after a statement"],
    ),
    "an array without its end": (
        "[jobs.a]\ncommand = [\n'x'\n",
        ["config.toml:3: not valid TOML: Unclosed array; close it with ]"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_each_problem_says_where_and_what_to_do(tmp_path: Path, case: str) -> None:
    """The line that a person sees, word for word."""
    text, expected = TABLE[case]

    assert problems(tmp_path, text) == expected


WARNINGS: dict[str, tuple[str, list[str]]] = {
    "two jobs on one heartbeat": (
        f'[jobs.a]\n{RUNNING}[jobs.b]\nheartbeat = "a"\n{RUNNING}',
        [
            (
                "config.toml:5: jobs.b.heartbeat: jobs.a (config.toml:1) pings the same heartbeat, so one can hide that "
                "the other fails"
            )
        ],
    ),
    "a job that is switched off shares nothing": (
        f'[jobs.a]\nenabled = false\n{RUNNING}[jobs.b]\nheartbeat = "a"\n{RUNNING}',
        [],
    ),
    "accounts that this host doesn't have": (
        f'[agent]\nreporters = ["root", "@no-such-group"]\n[jobs.a]\n{RUNNING}user = "no-such-user"',
        [
            'config.toml:2: agent.reporters[1]: this host has no group "no-such-group"',
            'config.toml:6: jobs.a.user: this host has no user "no-such-user"; the job won\'t start',
        ],
    ),
    "keys that mean nothing here": (
        '[jobs.a]\nevery = "1h"\nretries = 1\nwatch.file.path = "/x"\n[jobs.b]\ncatch_up = "all"',
        [
            "config.toml:3: jobs.a.retries: has no effect on a watch, which runs nothing",
            (
                "config.toml:6: jobs.b.catch_up: has no effect on a job without schedule or every, which something else "
                "runs"
            ),
        ],
    ),
    "keys that mean nothing to a boot": (
        '[jobs.a]\nshell = "x"\nschedule = ["@reboot"]\njitter = "5m"\noverlap = "allow"',
        ["config.toml:4: jobs.a.jitter: has no effect on @reboot alone, which is due once per boot"],
    ),
    "a page for other hosts that was asked for": ('[status]\nlisten = "0.0.0.0:80"\nallow_remote = true', []),
    "a jitter that reaches the next fire time": (
        f'[jobs.a]\n{RUNNING}jitter = "1h"',
        ["config.toml:4: jobs.a.jitter: is as long as every; runs may fall on the next fire time"],
    ),
    "what summer time does": (
        '[jobs.a]\nschedule = "30 2 * * *"\ntimezone = "Europe/Berlin"\nshell = "x"',
        [
            (
                'config.toml:2: jobs.a.schedule: schedule "30 2 * * *": 02:30 doesn\'t exist on 2027-03-28 in '
                "Europe/Berlin: runs at 03:00 instead"
            ),
            (
                'config.toml:2: jobs.a.schedule: schedule "30 2 * * *": 02:30 comes twice on 2027-10-31 in Europe/Berlin: '
                "runs at the first one"
            ),
        ],
    ),
    "reboot is a schedule": ('[jobs.a]\nschedule = ["@reboot", "@daily"]\nshell = "x"\ntimezone = "UTC"', []),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_what_looks_wrong_is_told_and_no_error(tmp_path: Path, case: str) -> None:
    """A warning leaves the config usable."""
    text, expected = WARNINGS[case]

    assert warnings(tmp_path, text) == expected


def test_further_files_add_jobs_and_inherit(tmp_path: Path) -> None:
    """conf.d is read in the order of names; [defaults] reaches the jobs of every file."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "config.toml").write_text('[defaults]\nretries = 2\nenv = { A = "1", B = "1" }\n[jobs.z]\n')
    (tmp_path / "conf.d" / "20.toml").write_text("[jobs.a]\nretries = 0\nenv.B = '2'\n")
    (tmp_path / "conf.d" / "10.toml").write_text("[agent]\nlog_level = 'debug'\n[jobs.b]\n")
    for name in "dcfebahg":
        (tmp_path / "conf.d" / f"9{name}.toml").write_text(f"[jobs.{name}{name}]")
    for ignored in ("30.toml.bak", ".40.toml"):
        (tmp_path / "conf.d" / ignored).write_text("not TOML")

    config = load_config(str(tmp_path / "config.toml"))

    assert list(config.jobs) == ["z", "b", "a", "aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh"]
    assert config.agent.log_level == "debug"
    assert [config.jobs[name].retries for name in ("z", "b", "a", "hh")] == [2, 2, 0, 2]
    assert config.jobs["a"].env == {"A": "1", "B": "2"}
    assert config.jobs["b"].heartbeat == "b"
    assert list(load_config(str(tmp_path / "config.toml"), conf_d=False).jobs) == ["z"]


def test_a_job_or_key_in_two_files_is_an_error_that_names_both(tmp_path: Path) -> None:
    """Nothing overrides anything."""
    more = '[api]\nallow_insecure = true\nbase_url = "https://b.example"\n\n[jobs.a]\n[jobs.b]\nshel = "x"\n'

    assert problems(tmp_path, '[api]\nbase_url = "https://a.example"\n[jobs.a]\n', more=more) == [
        "conf.d/more.toml:3: api.base_url: this key is also set in config.toml:2; keep one of them",
        "conf.d/more.toml:5: jobs.a: this job is also set in config.toml:3; keep one of them",
        'conf.d/more.toml:7: jobs.b.shel: unknown key; did you mean "shell"?',
    ]


def test_a_file_that_is_no_text_is_told_beside_the_rest(tmp_path: Path) -> None:
    """One broken file hides nothing of the others."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "binary.toml").write_bytes(b"a = 1\nb = '\xff'\n")
    (tmp_path / "conf.d" / "directory.toml").mkdir()
    os.mkfifo(tmp_path / "conf.d" / "fifo.toml")
    (tmp_path / "conf.d" / "huge.toml").touch()
    os.truncate(tmp_path / "conf.d" / "huge.toml", 17 * 1024**2)
    (tmp_path / "conf.d" / "link.toml").symlink_to("nowhere")

    assert sorted(problems(tmp_path, "[jobs.a]\nshel = 'x'")) == [
        "conf.d/binary.toml:2: not UTF-8; save the file as UTF-8",
        "conf.d/directory.toml: can't be read: it is a directory",
        "conf.d/fifo.toml: can't be read: it is not a regular file",
        "conf.d/huge.toml: can't be read: it is larger than 16 MiB",
        "conf.d/link.toml: can't be read: No such file or directory",
        'config.toml:2: jobs.a.shel: unknown key; did you mean "shell"?',
    ]


def test_the_beginning_that_windows_writes_is_no_error(tmp_path: Path) -> None:
    """A byte order mark and CR LF are read over, and lines still count."""
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbf[jobs.a]\r\nshel = 'x'\r\n")

    found = examine_config(str(tmp_path / "config.toml")).problems

    assert [(problem.line, problem.key) for problem in found] == [(2, "jobs.a.shel")]


def test_numbers_and_nesting_beyond_reason_are_problems_too(tmp_path: Path) -> None:
    """What makes the TOML reader give up ends in a message."""
    for text in ("a = " + "9" * 5000, "a = " + "[" * 5000 + "]" * 5000, "[jobs.a]\nevery = inf\nshell = 'x'"):
        assert len(problems(tmp_path, text)) == 1


@needs(no_system_config)
def test_no_config_at_all_is_an_error_of_its_own() -> None:
    """A command that needs a config says where one would be."""
    with pytest.raises(AuraError, match=r"there is no config: write /etc/aura-agent/config.toml"):
        load_config(None)


def test_the_error_carries_every_problem(tmp_path: Path) -> None:
    """load_config raises what examine_config found."""
    (tmp_path / "config.toml").write_text(ALL_AT_ONCE)

    with pytest.raises(ConfigError) as raised:
        load_config(str(tmp_path / "config.toml"))

    assert str(raised.value).replace(f"{tmp_path}/", "") == ALL_PROBLEMS.rstrip("\n")


@pytest.mark.parametrize("secret", [TOKEN, PING_URL])
def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path, secret: str) -> None:
    """Wherever a token or ping URL was pasted, the message doesn't show it."""
    keys = [f"{key} = {dumps_text(secret)}" for key in JobDefaults.__struct_fields__]
    own = [f"{key} = {dumps_text(secret)}" for key in set(Job.__struct_fields__) - set(JobDefaults.__struct_fields__)]
    text = "\n".join(
        [
            f"{dumps_text(secret)} = {dumps_text(secret)}",
            *(
                f"[{section}]\n" + "\n".join(f"{key} = {dumps_text(secret)}" for key in type(model).__struct_fields__)
                for section, model in (
                    ("api", Config().api),
                    ("agent", Config().agent),
                    ("status", Config().status),
                )
            ),
            f"token = {dumps_text(secret)}",
            "[defaults]",
            *keys,
            f"[jobs.{dumps_text(secret)}]",
            *own,
            "[jobs.a]",
            *keys,
            *own,
            f"[jobs.b]\nevery = '1h'\nwatch.process.pattern = {dumps_text('(' + secret)}",
            f"[jobs.c]\nschedule = [{dumps_text(secret)}]\nenv = {{ {dumps_text(secret)} = 1 }}\nshell = 'x'",
        ]
    )

    errors, told = _told(tmp_path, text, {})

    assert len(errors) > 30
    assert not [line for line in errors + told if secret[10:] in line]


def dumps_text(text: str) -> str:
    return f"'{text}'"


SCALARS = st.one_of(
    st.none().map(lambda _: 1979),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.sampled_from(
        ["", "1h", "0s", "10kB", "@daily", "* * * * *", "/x", "root", "start", "all", "Europe/Berlin", "@"]
    ),
    st.text(st.characters(codec="utf-8"), max_size=5),
)
KEYS = st.sampled_from(
    [*Config.__struct_fields__, *Job.__struct_fields__, "process", "file", "path", "pidfile", "pattern", "listen"]
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, TREES, max_size=4), st.dictionaries(KEYS, TREES, max_size=5))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_toml_says_ends_in_a_config_or_in_problems(
    tmp_path: Path, tree: dict[str, object], job: dict[str, object]
) -> None:
    """No combination of types makes reading fail otherwise, and each problem has a line."""
    path = tmp_path / "config.toml"
    path.write_text(dumps({**tree, "jobs": {"a": job}}), encoding="utf-8")

    examined = examine_config(str(path), now=NOW)

    assert (examined.config is None) == bool(examined.problems)
    assert all(problem.line is not None and problem.key for problem in examined.problems)
