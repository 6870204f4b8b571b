"""How a run's outcome gets out of aura-run: to the daemon, else to the spool, and then by our own hands.

The report is durable before anything is tried over the network, so whatever ends the wait loses nothing. All trouble
here is one line on stderr and leaves the exit status alone.
"""

import os

from aura_agent.report.boots import current_boot_id
from aura_agent.report.places import SYSTEM_CONFIG, socket_path, state_dir
from aura_agent.report.wire import encode
from aura_agent.wrapper.daemon import Daemon, Refused
from aura_agent.wrapper.job import Ended
from aura_agent.wrapper.options import Options
from aura_agent.wrapper.warnings import warn

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from aura_agent.config.models import Config

_MAX_ARGV_BYTES = 1 << 16

# Names of these say nothing about the job: what they run does.
_CARRIERS = frozenset(
    {
        *("ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "pwsh", "sh", "tcsh", "zsh"),
        *("java", "lua", "node", "perl", "php", "pypy", "python", "ruby", "npm", "npx", "uv", "uvx"),
        *("chroot", "chrt", "doas", "env", "flock", "ionice", "nice", "nohup", "numactl", "runuser", "setpriv"),
        *("setsid", "stdbuf", "su", "sudo", "systemd-run", "taskset", "time", "timeout", "unshare", "watch", "xargs"),
    }
)


class Reporter:
    """One run's way out. Made once the job is running."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._run_id = os.urandom(16).hex()
        self._boot_id = current_boot_id()
        self._daemon: Daemon | None = None
        self._unsure = False
        self._config: Config | None = None
        self._store = state_dir(os.environ, None, os.geteuid())
        self._ref = reference(options)

    def introduce(self, ended: Ended) -> None:
        """Tell the daemon that the run has begun, and borrow what the config knows of it."""
        options = self._options
        wants = options.heartbeat is None and options.ping_url is None and options.job is None
        fields = {
            "run": self._run_id,
            "boot": self._boot_id,
            "start_boot_ns": str(ended.started_boot_ns),
            "start_ns": str(ended.started_ns),
            "ref": self._ref or "",
            "job": self._job_name(),
        }
        argv = "\0".join(options.command)
        if wants and len(argv) <= _MAX_ARGV_BYTES:
            fields["argv"] = argv
        if options.config is None:
            self._try_daemon(socket_path(os.environ, None), fields, wants)
        if self._daemon is None:
            self._look_into_config(fields, wants)

    def report(self, ended: Ended, outcome: str, *, attempts: int, reason: str, body: bytes | None) -> None:
        """Make the outcome durable, and deliver it where no daemon does."""
        self._ref = reference(self._options)
        if self._ref is None:
            warn(self._store, f"no heartbeat {self._job_name()}", _no_heartbeat(self._options.command[0]))
        fields = {
            "run": self._run_id,
            "boot": self._boot_id,
            "start_boot_ns": str(ended.started_boot_ns),
            "start_ns": str(ended.started_ns),
            "end_boot_ns": str(ended.ended_boot_ns),
            "end_ns": str(ended.ended_ns),
            "outcome": outcome,
            "ref": self._ref or "",
            "job": self._job_name(),
            "code": "" if ended.code is None else str(ended.code),
            "signal": "" if ended.killed_by is None else str(ended.killed_by),
            "attempts": str(attempts),
            "reason": reason,
            "max_age_s": "" if self._options.max_age_s is None else str(self._options.max_age_s),
            "replay": self._options.replay,
            "body": "" if body is None or outcome != "succeeded" else body.decode("utf-8", "surrogateescape"),
        }
        if self._hand_over(encode("run", fields)) or self._ref is None:
            return
        if self._unsure:
            fields["unsure"] = "yes"
        spooled = self._spool(encode("run", fields))
        if self._options.no_wait and spooled:
            return
        if outcome == "succeeded" or spooled:
            from aura_agent.wrapper.delivery import deliver

            deliver(self._options, self._config, self._store, fields, spooled=spooled)

    # -- private -------------------------------------------------------------------------------------------------

    def _hand_over(self, record: bytes) -> bool:
        if self._daemon is None:
            return False
        try:
            self._daemon.hand_over(record)
        except Refused as refusal:
            self._refused(refusal)
            return False
        except OSError:
            self._unsure = True  # it may have the report all the same; it knows runs that it has seen
            return False
        self._daemon.close()
        return True

    def _spool(self, record: bytes) -> bool:
        from aura_agent.report import boots, spool

        try:
            spool.prepare(self._store)
            boots.count(self._store, self._boot_id)
            spool.write(self._store, self._run_id, record)
        except OSError as problem:
            text = f"{self._store}: {problem.strerror}: this run's ping can't be kept, only sent at once"
            warn(self._store, "store", text)
            return False
        finally:
            self._drop_daemon()
        return True

    def _try_daemon(self, path: str, fields: dict[str, str], wants: bool) -> None:
        try:
            self._daemon = Daemon(path)
            self._daemon.introduce(fields)
            if wants:
                self._options.borrow(self._daemon.settings())
        except Refused as refusal:
            self._refused(refusal)
        except OSError:
            self._drop_daemon()

    def _look_into_config(self, fields: dict[str, str], wants: bool) -> None:
        """No daemon where one usually answers: see what the config says of socket, store and this command."""
        if self._options.config is None and not os.access(SYSTEM_CONFIG, os.R_OK):
            return
        from aura_agent.wrapper import lookup

        self._config = lookup.read(self._options.config, self._store)
        if self._config is None:
            if self._options.config is not None:
                self._try_daemon(socket_path(os.environ, None), fields, wants)
            return
        self._store = state_dir(os.environ, self._config.agent.state_dir, os.geteuid())
        path = socket_path(os.environ, self._config.agent.socket)
        if self._options.config is not None or path != socket_path(os.environ, None):
            self._try_daemon(path, fields, wants)
        if wants and self._daemon is None:
            lookup.borrow(self._options, self._config, self._store)

    def _refused(self, refusal: Refused) -> None:
        warn(
            self._store,
            "refused",
            f"the daemon takes no reports from this user ({refusal}): see reporters in its config",
        )
        self._drop_daemon()

    def _drop_daemon(self) -> None:
        if self._daemon is not None:
            self._daemon.close()
            self._daemon = None

    def _job_name(self) -> str:
        return self._options.job or os.path.basename(self._options.command[0])


def reference(options: Options) -> str | None:
    """Return how the report names its heartbeat, None if nothing does."""
    if options.ping_url is not None:
        url = _ping_url(options.ping_url)
        return None if url is None else f"url:{url}"
    if options.heartbeat is not None:
        return f"heartbeat:{options.heartbeat}"
    name = lent_name(options.command[0])
    return None if name is None else f"auto:{name}"


def lent_name(command: str) -> str | None:
    """Return the heartbeat's name that *command* lends: its basename without extension; None for carriers."""
    base = os.path.basename(command)
    stem, dot, _ = base.rpartition(".")
    name = stem if dot and stem else base
    carrier = name.rstrip("0123456789.-") if name.startswith(("python", "pypy", "perl", "ruby", "php", "lua")) else name
    return None if not name or carrier in _CARRIERS else name


def store() -> str:
    """Return this user's store, as far as it can be told before the job runs."""
    return state_dir(os.environ, None, os.geteuid())


def identity(options: Options) -> str:
    """Return what makes two runs runs of the same job, for ``--no-overlap``."""
    return options.job or options.heartbeat or "\0".join(options.command)


def _ping_url(said: str) -> str | None:
    """Return the URL itself, from its file if it is in one; None (and no word of it) if there is none."""
    if not said.startswith("file:"):
        return said.strip() or None
    try:
        file = os.open(said.removeprefix("file:"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(file, 4096).decode("utf-8", "replace").strip() or None
    except OSError:
        return None
    finally:
        os.close(file)


def _no_heartbeat(command: str) -> str:
    name = os.path.basename(command)
    return f"no heartbeat for {name!r}: name one with -H; the job ran all the same"
