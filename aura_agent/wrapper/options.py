"""aura-run's command line and environment, read by hand: argparse alone would double the time before the job runs."""

import os

from aura_agent import __version__

USAGE = """\
usage: aura-run [OPTIONS] -- COMMAND [ARG...]
Run COMMAND as if alone, and ping its Aura heartbeat when it has succeeded.
  -H, --heartbeat ID|NAME   the heartbeat to ping; else HOST/backup or backup
                            for a command backup.sh           [AURA_HEARTBEAT]
      --ping-url file:PATH  ping the URL in this file; no token [AURA_PING_URL]
  -j, --job NAME            take everything from this job of the config
  -c, --config FILE         default: /etc/aura-agent/config.toml
      --timeout D           SIGTERM to the whole process tree after D (90s, 2h)
      --kill-after D        SIGKILL after a further D (10s)
      --retries N           run again on failure, at most N times (0)
      --retry-delay D       wait D before each retry (10s)
      --no-overlap          if it still runs: don't run, exit 75
      --success-codes LIST  exit codes that count as success (0)
  -q, --quiet               print the job's output only if it fails
      --attach WHAT         what goes with the ping: none, summary, output
      --tail-bytes N        how much of the output (10000)
      --no-wait, --wait D   leave the ping to the outbox; deliver for D (10s)
      --help, --version
Exit status: the job's own; 124 timed out, 126 not executable, 127 not found,
75 skipped by --no-overlap, 125 wrong usage, nothing was run.
In a crontab, by full path (cron's PATH may lack /usr/local/bin):
  0 3 * * *  /usr/local/bin/aura-run -H backup -- /srv/backup.sh --full
man aura-run has the rest.
"""

WITH_VALUE = {
    "-H": "heartbeat",
    "--heartbeat": "heartbeat",
    "--ping-url": "ping_url",
    "-j": "job",
    "--job": "job",
    "-c": "config",
    "--config": "config",
    "--timeout": "timeout",
    "--kill-after": "kill_after",
    "--retries": "retries",
    "--retry-delay": "retry_delay",
    "--success-codes": "success_codes",
    "--attach": "attach",
    "--tail-bytes": "tail_bytes",
    "--wait": "wait",
}
FLAGS = {"--no-overlap": "no_overlap", "-q": "quiet", "--quiet": "quiet", "--no-wait": "no_wait"}
_FROM_ENVIRONMENT = {"AURA_JOB": "job", "AURA_CONFIG": "config"}
_MAX_TAIL_BYTES = 200_000
_MAX_DURATION_S = 3.2e9  # a hundred years
_WAIT_S = 10.0


class Usage(Exception):  # not every one is an error: --help is one too
    """The command line ends here: *text* goes to stderr (or stdout, for status 0) and nothing is run."""

    def __init__(self, text: str, status: int = 125) -> None:
        super().__init__(text)
        self.text, self.status = text, status


class Options:
    """What was asked for. ``None`` means not said: the config may fill it in."""

    __slots__ = (
        "attach",
        "command",
        "config",
        "doubt",
        "env",
        "expect",
        "heartbeat",
        "job",
        "job_found",
        "kill_after_s",
        "max_age_s",
        "no_overlap",
        "no_wait",
        "ping_url",
        "quiet",
        "redact",
        "replay",
        "retries",
        "retry_backoff",
        "retry_delay_s",
        "retry_max_delay_s",
        "success_codes",
        "tail_bytes",
        "timeout_s",
        "token_variable",
        "wait_s",
    )

    def __init__(self, said: dict[str, str], command: list[str]) -> None:
        """Raises Usage: a value can't be read."""
        self.command = command
        self.heartbeat = said.get("heartbeat")
        self.ping_url = said.get("ping_url")
        self.job = said.get("job")
        self.config = said.get("config")
        self.timeout_s = _duration(said, "timeout")
        self.kill_after_s = _duration(said, "kill_after")
        self.retries = _count(said, "retries")
        self.retry_delay_s = _duration(said, "retry_delay")
        self.retry_backoff, self.retry_max_delay_s = 1, 0.0  # the same wait each time, unless a job says otherwise
        self.success_codes = _codes(said)
        self.no_overlap = "no_overlap" in said
        self.quiet = "quiet" in said
        self.attach = _attach(said)
        self.tail_bytes = _tail_bytes(said)
        self.no_wait = "no_wait" in said
        wait_s = _duration(said, "wait")
        self.wait_s = _WAIT_S if wait_s is None else wait_s
        self.doubt = ""  # what is wrong and didn't keep the job from running
        self.job_found: bool | None = None  # None: not looked for
        # These only the config can say; None: nobody has said yet.
        self.redact: tuple[str, ...] | None = None
        self.max_age_s: float | None = None
        self.replay = ""
        self.expect: dict[str, str] = {}
        self.env: dict[str, str] = {}
        self.token_variable = ""  # holds the API token: not for the job

    def borrow(self, lent: dict[str, str]) -> None:
        """Fill in from *lent*, a job's settings as one record's fields, what the command line left unsaid."""
        self.job = lent.get("job", self.job)
        if self.heartbeat is None and self.ping_url is None:
            self.heartbeat = lent.get("heartbeat")
        if self.timeout_s is None and "timeout_s" in lent:
            self.timeout_s = float(lent["timeout_s"])
        if self.kill_after_s is None and "kill_after_s" in lent:
            self.kill_after_s = float(lent["kill_after_s"])
        if self.retries is None and "retries" in lent:
            self.retries = int(lent["retries"])
        if self.retry_delay_s is None and "retry_delay_s" in lent:
            self.retry_delay_s = float(lent["retry_delay_s"])
            self.retry_backoff = int(lent.get("retry_backoff", "1"))
            self.retry_max_delay_s = float(lent.get("retry_max_delay_s", "0"))
        if self.success_codes is None and "success_codes" in lent:
            self.success_codes = frozenset(int(code) for code in lent["success_codes"].split(","))
        if self.attach is None:
            self.attach = lent.get("attach")
        if self.tail_bytes is None and "tail_bytes" in lent:
            self.tail_bytes = int(lent["tail_bytes"])
        if "max_age_s" in lent:
            self.max_age_s = float(lent["max_age_s"])
        self.replay = lent.get("replay", "")
        self.expect = {key: value for key, value in lent.items() if key.startswith("expect_")}


def parse(arguments: list[str], environ: "os._Environ[str]") -> Options:
    """Return the options in *arguments*, completed from *environ*. Raises Usage."""
    said: dict[str, str] = {}
    at = 0
    while at < len(arguments):
        word = arguments[at]
        at += 1
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            at -= 1
            break
        if word in ("-h", "--help"):
            raise Usage(USAGE, 0)
        if word == "--version":
            raise Usage(f"aura-run {__version__}\n", 0)
        name, equals, value = word.partition("=")
        if word in FLAGS:
            said[FLAGS[word]] = "yes"
        elif name in WITH_VALUE:
            if not equals:
                if at == len(arguments):
                    raise _wrong(f"{word} needs a value")
                value = arguments[at]
                at += 1
            said[WITH_VALUE[name]] = value
        elif word[:2] in WITH_VALUE and not word.startswith("--"):
            said[WITH_VALUE[word[:2]]] = word[2:]
        else:
            raise _wrong(f"{name} takes no value" if name in FLAGS else f"unknown option {name}")
    _check_target(said)
    # A target on the command line stands alone: an inherited variable must not redirect it.
    if not said.keys() & {"heartbeat", "ping_url", "job"}:
        for variable, key in (("AURA_PING_URL", "ping_url"), ("AURA_HEARTBEAT", "heartbeat")):
            if environ.get(variable):
                said[key] = environ[variable]
                break
    for variable, key in _FROM_ENVIRONMENT.items():
        if key not in said and environ.get(variable):
            said[key] = environ[variable]
    options = Options(said, arguments[at:])
    if "wait" not in said and environ.get("AURA_WAIT"):
        _take_wait(options, environ["AURA_WAIT"])
    if not options.command and options.job is None:
        raise _wrong("no command; write it after --")
    return options


def _check_target(said: dict[str, str]) -> None:
    url = said.get("ping_url")
    if url is not None and not url.startswith("file:"):
        raise _wrong("--ping-url takes file:PATH: a URL here would show in ps; or set AURA_PING_URL")
    if "://" in said.get("heartbeat", ""):
        raise _wrong(
            "--heartbeat takes an id or a name: a URL here would show in ps; put it into a file for --ping-url"
        )
    if url is not None and "heartbeat" in said:
        raise _wrong("give --heartbeat or --ping-url, not both")
    for key in ("heartbeat", "job", "config"):
        if said.get(key) == "":
            raise _wrong(f"--{key} is empty")


def _take_wait(options: Options, text: str) -> None:
    """Take AURA_WAIT. A variable is not the command line: a wrong one doesn't keep the job from running."""
    try:
        options.wait_s = _duration({"wait": text}, "wait") or 0.0
    except Usage:
        options.doubt = f"AURA_WAIT: {text!r} is not a duration such as 10s: {_WAIT_S:g} s are used"


def _duration(said: dict[str, str], key: str) -> float | None:
    if key not in said:
        return None
    from aura_agent.units import parse_duration_s

    option = "--" + key.replace("_", "-")
    try:
        seconds = parse_duration_s(said[key])
    except ValueError as problem:
        raise _wrong(f"{option}: {problem}") from None
    if seconds > _MAX_DURATION_S:
        raise _wrong(f"{option}: more than a hundred years")
    if key == "timeout" and not seconds:
        raise _wrong(f"{option}: a job can't be done in no time; leave it out for no limit")
    return seconds


def _count(said: dict[str, str], key: str) -> int | None:
    if key not in said:
        return None
    if not (said[key].isascii() and said[key].isdigit() and len(said[key]) < 10):
        raise _wrong(f"--{key}: {said[key]!r} is not a whole number")
    return int(said[key])


def _codes(said: dict[str, str]) -> frozenset[int] | None:
    if "success_codes" not in said:
        return None
    codes = [code.strip() for code in said["success_codes"].split(",")]
    if not all(code.isascii() and code.isdigit() and len(code) < 4 and int(code) <= 255 for code in codes):
        raise _wrong(f"--success-codes: {said['success_codes']!r} is not a list of exit codes such as 0,3")
    return frozenset(int(code) for code in codes)


def _attach(said: dict[str, str]) -> str | None:
    if "attach" in said and said["attach"] not in ("none", "summary", "output"):
        raise _wrong(f"--attach: {said['attach']!r} is none of none, summary, output")
    return said.get("attach")


def _tail_bytes(said: dict[str, str]) -> int | None:
    text = said.get("tail_bytes")
    if text is None:
        return None
    from aura_agent.units import parse_size_bytes

    try:
        count = int(text) if text.isascii() and text.isdigit() else parse_size_bytes(text)
    except ValueError as problem:
        raise _wrong(f"--tail-bytes: {problem}") from None
    except OverflowError:
        count = _MAX_TAIL_BYTES + 1
    if count > _MAX_TAIL_BYTES:
        raise _wrong(f"--tail-bytes: at most {_MAX_TAIL_BYTES}")
    return count


def _wrong(what: str) -> Usage:
    return Usage(f"aura-run: {what} (see aura-run --help); nothing was run\n")
