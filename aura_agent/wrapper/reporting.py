"""How a run gets on record: to the daemon, else to our store's files, its ping then by our own hands.

As long as the run goes on, something stands for it that ends when we do: the open connection to the daemon, and a start
record under a lock, from the beginning where there is no daemon, else once the run turns out to take a while. Whoever
finds either gone, and no outcome, knows that the run is lost.

The report is durable before anything is tried over the network, so whatever ends the wait loses nothing. All trouble
here is one line on stderr and leaves the exit status alone.
"""

import errno
import os
from time import monotonic

from aura_agent.boot_time import NO_BOOT_ID, current_boot_id, namespace_offset_ns
from aura_agent.report.places import (
    DAEMON_LOCK,
    SYSTEM_CONFIG,
    UNJUDGED_SUFFIX,
    own_state_dir,
    socket_path,
    state_dir,
)
from aura_agent.report.wire import MAX_LINE_BYTES, encode
from aura_agent.wrapper.job import Ended
from aura_agent.wrapper.options import Options

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from collections.abc import Callable

    from aura_agent.config.models import Config
    from aura_agent.wrapper.daemon import Daemon
    from aura_agent.wrapper.record_keeper import RecordKeeper, Stored

_MAX_ARGV_BYTES = 1 << 16
_MAX_URL_BYTES = 4000
_MAX_NAME_CHARS = 4000
_MAX_TAIL_CHARS = 50_000
_ACCOUNT_BYTES = 64  # in a line, for the fingerprint that the spool's has
_TOO_LONG = "[the output is left out: it has too many bytes that are no text]\n"

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
    """One run's way onto the record. Made once the job is running; before, if ``--no-overlap`` asks for the store."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._run_id = os.urandom(16).hex()
        self._boot_id = current_boot_id()  # empty without /proc: the daemon knows it, else the store does
        self._ahead_ns = namespace_offset_ns()
        self._attempt = 0
        self._start: dict[str, str] = {}  # fields of the attempt's start
        self._record: RecordKeeper | None = None
        self._recorded = 0  # the attempt that it is of
        self._copy: str | None = None  # the file that tells our own store of a failure that the daemon is given
        self._is_refused = False
        self._untold = False  # there was no room for that
        self._daemon: Daemon | None = None
        self._lent: dict[str, str] = {}  # what the daemon has said of the run
        self._socket_path = socket_path(os.environ, None)
        self._left_alone: Daemon | None = None  # one that takes nothing from us, or doesn't answer
        self._config: Config | None = None
        self._account: str | None = None  # None: not looked for yet
        self._looked = False  # whether the config has been looked for
        named = options.heartbeat is not None or options.ping_url is not None or options.job is not None
        self._wants_settings = not named  # a job of the config may have settings for this command
        self.knows_settings = named
        self.fate = ""  # what became of the report, for a terminal
        self._slow: list[Daemon] = []  # connections whose end would mean that the run is lost
        self._store = state_dir(os.environ, None, os.geteuid())
        self._ref, self._no_ref = reference(options)

    def find_store(self) -> str:
        """Return our store's directory, as the config has it if there is one."""
        self._look_for_store()
        return self._store

    def introduce(self, ended: Ended, is_over: "Callable[[], bool]") -> None:
        """Put on record that the next attempt has begun; at the first, borrow what the config knows of the run.

        *is_over* may wait a moment: an attempt that has ended before its start is stored needs no record of that.
        """
        options = self._options
        self._attempt += 1
        first = self._attempt == 1
        wants = first and self._wants_settings
        fields = self._start = {
            "run": self._run_id,
            "boot": self._boot_id,
            "start_boot_ns": str(ended.started_boot_ns - self._ahead_ns),
            "start_ns": str(ended.started_ns),
            "ref": self._ref or "",
            "job": self._job_name(),
            "hooks": "none" if os.environ.get("AURA_HOOK") else "",
        }
        if not first:
            self._name_heartbeat()
        if wants:
            fields = fields | {"argv": self._argv()}
        if options.config is None or not first:
            self._introduce_to_daemon(fields, wants)
        if self._daemon is None and first:
            self._look_into_config(fields, wants)
        if self._daemon is None:
            self._record_start(is_over)
        elif self._may_own_store_send():
            self._record_start()

    def learn_settings(self) -> None:
        """The job has ended: what the config demands must be known before its outcome is judged. Ask once more.

        The daemon may have been slow, or come up meanwhile.
        """
        if self.knows_settings:
            return
        if self._left_alone is not None:
            self._slow.append(self._left_alone)
            self._left_alone = None
        self._connect()
        if self._daemon is not None:
            self._ask_daemon(self._start | {"argv": self._argv()})
        elif self._options.config is None and not (self._slow or _may_exist(SYSTEM_CONFIG)):
            self.knows_settings = not os.path.exists(self._socket_path)

    def leaves_job_to_daemon(self) -> bool:
        """Whether a daemon is there to judge a run of the job that ``-j`` names, whose config we can't read."""
        if self._options.job_found is False and self._daemon is not None:
            self.knows_settings = False
            return True
        return False

    def settle(self) -> None:
        """The run takes a while: let a record stand for it that outlives the daemon and a power cut."""
        if self._recorded != self._attempt:
            if not self._lent:
                self._hear_daemon()
            if self._daemon is None:
                self._look_for_store()
            self._record_start()
        if self._record is not None:
            self._record.settle()
        if self._daemon is None:
            self._name_account()

    def keep(
        self, ended: Ended, outcome: str, *, attempts: int, reason: str, body: bytes | None, tail: str
    ) -> "Delivery | None":
        """Make the outcome durable; return what is left to do by our own hands, if no daemon does it."""
        options, ended_s = self._options, monotonic()
        if options.doubt:
            warn(self._store, "doubt", options.doubt)
        self._name_heartbeat()
        unjudged = outcome == "succeeded" and not self.knows_settings
        if self._no_ref and not unjudged:
            warn(self._store, f"no heartbeat {self._job_name()}", self._no_ref)
        fields = self._start | {
            "end_boot_ns": str(ended.ended_boot_ns - self._ahead_ns),
            "end_ns": str(ended.ended_ns),
            "outcome": outcome,
            "ref": self._ref or "",
            "job": self._job_name(),
            "code": "" if ended.code is None else str(ended.code),
            "signal": "" if ended.killed_by is None else str(ended.killed_by),
            "attempts": str(attempts),
            "reason": reason,
            "max_age_s": "" if options.max_age_s is None else str(options.max_age_s),
            "replay": options.replay,
            "body": "" if body is None or outcome != "succeeded" else body.decode("utf-8", "surrogateescape"),
            "tail": tail[-_MAX_TAIL_CHARS:],
        }
        if len(encode("run", fields)) > MAX_LINE_BYTES - _ACCOUNT_BYTES:
            fields["body"] = _TOO_LONG  # no reader takes such a line, and the ping matters more than what goes with it
        if not unjudged:
            fields["settings"] = "known"
        elif options.job_found is False:
            fields["settings"] = "daemon"
        else:
            fields["argv"] = self._argv()
        withdraws = outcome not in ("succeeded", "skipped")
        if self._is_handed_over(fields, withdraws=withdraws) or (self._ref is None and not unjudged):
            if not self._untold:
                self._forget_start()
            self.fate = "" if self._ref is None else "reported to the daemon"
            return None
        self.fate = "queued, will be sent later"
        try:
            self._look_for_store()
        except BaseException as problem:  # noqa: BLE001  # an upgrade, no memory: the store that we know of serves
            self._name_problem(problem)
        fields["account"] = self._name_account()
        stored = self._spool(fields, unjudged=unjudged)
        path, served = stored.path, stored.served
        if unjudged:
            self._forget_start()
            text = (
                "the config can't be read and no daemon answers: no ping before a daemon knows its settings; or use -H"
            )
            warn(self._store, "unjudged", f"{self._job_name()}: {text}")
            return None
        spooled = path is not None
        if spooled:
            self._forget_copy()
        succeeded = outcome == "succeeded"
        may_wait = not options.no_wait and options.wait_s > 0
        calls_hooks = may_wait and not self._start.get("hooks") and self._has_hooks(others=not served)
        if spooled and not calls_hooks and (not may_wait or (served and not succeeded)):
            return None
        if not spooled and not calls_hooks and not succeeded:
            return None  # if there is a start record, it stays, and tells of a lost run: that withdraws, too
        report = {key: value for key, value in fields.items() if value} | {"boot": self._boot_id or "unknown"}
        deadline_s = ended_s + options.wait_s
        daemon = None if self._is_refused else self._socket_path
        return Delivery(
            *(options, self._config, self._store, report, path, served, calls_hooks),
            done=self._forget_start,
            deadline_s=deadline_s,
            socket_path=daemon,
            hangs=stored.hangs,
        )

    def _name_account(self) -> str:
        """Return the fingerprint of our token: whoever sends the ping may have another one by then."""
        if self._account is None:
            self._account = ""
            variables = ("AURA_TOKEN", "AURA_TOKEN_FILE", "CREDENTIALS_DIRECTORY")
            if self._config is not None or any(map(os.environ.get, variables)):
                try:
                    from aura_agent.wrapper import lookup

                    account = lookup.account(self._config)
                    self._account = "" if account is None else account.fingerprint
                except BaseException:  # noqa: BLE001, S110  # no report may be lost for it: it is then read as whoever sends
                    pass
        return self._account

    def _has_hooks(self, *, others: bool) -> bool:
        """Whether the config has hooks for this job; with *others* also for one whose lost run may come to light."""
        jobs = {} if self._config is None else self._config.jobs
        own = jobs.get(self._job_name())
        return any(
            job.on_failure or job.on_recovery or job.on_lost_run or job.on_undeliverable
            for job in (jobs.values() if others else [] if own is None else [own])
        )

    def redact(self) -> tuple[str, ...] | None:
        """Return the patterns of what no ping may take along; None: there is a config, and it can't be read."""
        if self._options.redact is None:
            self._look_for_store()
            if self._config is not None:
                self._options.redact = self._config.attach.redact
            elif not self._looked and not os.path.exists(SYSTEM_CONFIG):
                self._options.redact = ()
        return self._options.redact

    # -- the daemon ----------------------------------------------------------------------------------------------

    def _introduce_to_daemon(self, fields: dict[str, str], wants: bool) -> None:
        if self._attempt == 1:
            self._connect()
        if self._daemon is None:
            return
        try:
            self._daemon.introduce(fields)
        except TimeoutError:
            self._leave_alone()
        except OSError:
            self._daemon = None
        # From the second attempt on, a line is read for each that is written, lest they fill the socket.
        if (wants or self._options.attach == "output" or self._attempt > 1) and self._hear_daemon() and wants:
            self._apply_settings()

    def _ask_daemon(self, fields: dict[str, str]) -> None:
        """Introduce the run anew, and apply what the daemon answers."""
        assert self._daemon is not None
        try:
            self._daemon.introduce(fields)
        except OSError:
            self._leave_alone()
        if self._hear_daemon():
            self._apply_settings()

    def _apply_settings(self) -> None:
        self.knows_settings = True
        if self._lent:
            self._options.borrow(self._lent)
            self._name_heartbeat()

    def _argv(self) -> str:
        """Return the command as one text; empty if it is too long to be a job's."""
        argv = "\0".join(self._options.command)
        return argv if len(argv) <= _MAX_ARGV_BYTES else ""

    def _hear_daemon(self) -> bool:
        """Learn what the daemon knows of the run, and which store it serves; return whether it has answered."""
        if self._daemon is None:
            return False
        from aura_agent.wrapper.daemon import Refused

        try:
            lent = self._lent = self._daemon.settings()
            self._options.redact = tuple(lent["redact"].split("\0")) if "redact" in lent else ()
            store = "" if os.environ.get("AURA_STATE_DIR") else lent.get("store", "")
            if store and os.path.exists(os.path.join(store, DAEMON_LOCK)):  # else it isn't where we see the disk from
                self._store = store
        except Refused as refusal:
            self._refused(str(refusal))
        except TimeoutError:
            self._leave_alone()
        except OSError:
            self._daemon = None
        else:
            return True
        return False

    def _is_handed_over(self, fields: dict[str, str], *, withdraws: bool) -> bool:
        """The same as ``_hand_over``; whatever keeps us from it leaves the report to the spool."""
        try:
            return self._hand_over(fields, withdraws=withdraws)
        except BaseException as problem:  # noqa: BLE001
            self._name_problem(problem)
            return False

    def _name_problem(self, problem: BaseException) -> None:
        warn(self._store, type(problem).__name__, f"internal error ({type(problem).__name__}): the report is stored")

    def _hand_over(self, fields: dict[str, str], *, withdraws: bool) -> bool:
        """Give what waits in our store, then the report *fields*, to the daemon; return whether it has the latter."""
        record = encode("run", fields)
        for _ in range(2):  # the daemon that heard of the run's start may have been restarted since
            if self._daemon is None:
                self._connect()
            if self._daemon is None:
                return False
            from aura_agent.wrapper.daemon import Busy, Refused

            try:
                if withdraws:
                    self._tell_own_store(fields)
                self._hand_over_what_waits()
                self._daemon.hand_over(record)
            except Refused as refusal:
                self._refused(str(refusal))
                return False
            except Busy:
                self._leave_alone()
                return False
            except TimeoutError:
                self._leave_alone()  # it may have the report all the same; it knows runs that it has seen
                return False
            except OSError:
                self._daemon = None
            else:
                return True
        return False

    def _hand_over_what_waits(self) -> None:
        holds_unjudged = self._holds_unjudged()
        if self._has_own_store() or holds_unjudged:
            try:
                from aura_agent.wrapper.handover import hand_over, hand_over_unjudged

                if holds_unjudged:
                    hand_over_unjudged(self._store, self._socket_path)
                if self._has_own_store():
                    hand_over(self._store, self._socket_path, self._run_id)
            except OSError:
                raise
            except BaseException as problem:  # noqa: BLE001  # it waits there for the next aura-run
                self._name_problem(problem)

    def _holds_unjudged(self) -> bool:
        try:
            names = os.listdir(os.path.join(self._store, "spool"))
        except OSError:
            return False  # a store of no use keeps nothing from the daemon
        return any(name.endswith(UNJUDGED_SUFFIX) for name in names)

    def _has_own_store(self) -> bool:
        return os.path.isdir(self._store) and not os.path.exists(os.path.join(self._store, DAEMON_LOCK))

    def _may_own_store_send(self) -> bool:
        """Whether an older success may still be sent from our own store, beside the daemon."""
        if self._ref is None or not self._has_own_store():
            return False
        from aura_agent.wrapper.handover import holds_anything

        return holds_anything(self._store, self._run_id)

    def _tell_own_store(self, fields: dict[str, str]) -> None:
        """Put a failure into our own store, too, before the daemon has it: there it may withdraw a success.

        Somebody may be sending that, or send it once the daemon is gone. Hooks are the daemon's.
        """
        if self._copy is not None:
            return
        try:
            if not self._may_own_store_send():
                return
            from aura_agent.wrapper.record_keeper import RecordKeeper

            copy = {"boot": "", "hooks": "none", "account": self._name_account()}
            keeper = RecordKeeper(self._store, f"{self._run_id}-copy", self._boot_id, self._attempt)
            self._copy = keeper.store(encode("run", fields | copy)).path
            self._untold = self._copy is None
        except BaseException:  # noqa: BLE001  # no room, an upgrade: the daemon is told all the same
            self._untold = True  # a start record, if there is one, stays: it will count as a lost run

    def _forget_copy(self) -> None:
        path = self._copy
        if path is not None:
            from aura_agent.report import spool
            from aura_agent.wrapper.helper import GLANCE_S, leave_to_helper

            leave_to_helper(lambda: spool.remove(path), patience_s=GLANCE_S)

    def _connect(self) -> None:
        if self._left_alone is not None:
            return
        self._daemon = None
        if _may_exist(self._socket_path):
            from aura_agent.wrapper.daemon import Daemon, NotTrusted

            try:
                self._daemon = Daemon(self._socket_path)
            except NotTrusted as problem:
                warn(self._store, "socket", f"not reported to {self._socket_path}: {problem.strerror}")
            except OSError:
                pass

    def _refused(self, refusal: str) -> None:
        self.knows_settings = True  # its jobs are not for this user
        text = f"the daemon takes no reports from this user ({refusal}): see reporters in its config"
        warn(self._store, "refused", text)
        self._is_refused = True
        self._leave_alone()

    def _leave_alone(self) -> None:
        """Ask this daemon for nothing more. The connection stays: its end would mean that the run is lost."""
        self._left_alone, self._daemon = self._daemon, None

    # -- without it ----------------------------------------------------------------------------------------------

    def _look_into_config(self, fields: dict[str, str], wants: bool) -> None:
        """No daemon where one usually answers: see what the config says of socket, store and this command."""
        self._look_for_store()
        if self._config is None and self._options.config is None:
            return
        from aura_agent.wrapper import lookup

        path = self._socket_path
        if self._config is not None:
            path = socket_path(os.environ, self._config.agent.socket)
        if self._options.config is not None or path != self._socket_path:
            self._socket_path, self._left_alone = path, None
            self._introduce_to_daemon(fields, wants)
        if wants and self._daemon is None and self._config is not None:
            lookup.borrow(self._options, self._config, self._store)
            self.knows_settings = True

    def _look_for_store(self) -> None:
        """Read the config, once, for the store that the daemon serves; a daemon that answers spares us that."""
        if self._looked or (self._options.config is None and not os.access(SYSTEM_CONFIG, os.R_OK)):
            return
        from aura_agent.wrapper import lookup

        self._looked = True
        self._config = lookup.read(self._options.config, self._store)
        if self._config is not None:
            self._store = own_state_dir(os.environ, self._config.agent.state_dir, os.geteuid())

    def _name_heartbeat(self) -> None:
        """Say how the report names its heartbeat, now that the config has lent what it has to lend."""
        if self._options.ping_url is None:
            self._ref, self._no_ref = reference(self._options)
        self._start |= {"ref": self._ref or "", "job": self._job_name()}

    def _record_start(self, is_over: "Callable[[], bool]" = lambda: False) -> None:
        """Let a record of our own stand for the attempt. It is for what waits: without a heartbeat nothing does."""
        self._name_heartbeat()
        if self._ref is None:
            return
        keeper = self._keeper()  # loads what the outcome needs, too
        if is_over():
            return
        keeper.start(encode("start", self._start | {"boot": ""}))
        before, self._record = self._record, keeper
        self._recorded = self._attempt
        if before is not None:
            self._record.started()
            before.forget()

    def _forget_start(self) -> None:
        if self._record is not None:
            self._record.forget()
            self._record = None

    def _keeper(self) -> "RecordKeeper":
        from aura_agent.wrapper.record_keeper import RecordKeeper

        return RecordKeeper(self._store, self._run_id, self._boot_id, self._attempt)

    def _spool(self, fields: dict[str, str], *, unjudged: bool) -> "Stored":
        """Store the report *fields* in our spool; if there is no way, warn."""
        suffix = UNJUDGED_SUFFIX if unjudged else ""
        keeper = self._record
        if keeper is None or keeper.directory != self._store:
            keeper = self._keeper()
        stored = keeper.store(encode("run", fields | {"boot": ""}), suffix)
        if stored.problem == os.strerror(errno.EMFILE):
            os.close(0)  # the job has ended, and the report takes a descriptor
            stored = keeper.store(encode("run", fields | {"boot": ""}), suffix)
        if stored.path is None:
            text = f"{self._store}: {stored.problem}: this run's ping can't be kept, only sent at once"
            warn(self._store, "store", text)
        else:
            self._forget_start()
            if not self._boot_id:
                warn(self._store, "boot", f"{NO_BOOT_ID}: the ping is sent, and its order is told by the clocks alone")
        return stored

    def _job_name(self) -> str:
        return self._options.job or os.path.basename(self._options.command[0])


class Delivery:
    """What is left to do without a daemon.

    *report* are the fields of the run's report, *path* is the spool file that holds it, None if no disk took it. In a
    store that is *served* a daemon sees to all other runs. *calls_hooks*: the job has some, and no daemon calls them.
    *done* is to be called once a report that no disk took has been delivered: until then its start stays on record.
    *deadline_s*, of the monotonic clock, is when delivery ends at the latest.
    *socket_path* is where a daemon may come up that takes our reports.
    *hangs*: the store's disk doesn't answer, and nobody should ask it anything.
    """

    def __init__(
        self,
        options: Options,
        config: "Config | None",
        store: str,
        report: dict[str, str],
        path: str | None,
        served: bool,
        calls_hooks: bool,
        done: "Callable[[], None]",
        deadline_s: float,
        socket_path: str | None = None,
        hangs: bool = False,
    ) -> None:
        self.options, self.config, self.store = options, config, store
        self.hangs = hangs
        self.report, self.path, self.served, self.calls_hooks, self.done = report, path, served, calls_hooks, done
        self.deadline_s = deadline_s
        self.socket_path = socket_path


def _may_exist(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def warn(directory: str, cause: str, text: str) -> None:
    """As ``aura_agent.wrapper.warnings`` has it, which is loaded when there is something to say."""
    from aura_agent.wrapper import warnings

    warnings.warn(directory, cause, text)


def reference(options: Options) -> tuple[str | None, str]:
    """Return how the report names its heartbeat; or None, and what is to be said of that."""
    if options.ping_url is not None:
        return _ping_url(options.ping_url)
    if options.heartbeat is not None:
        if len(options.heartbeat) > _MAX_NAME_CHARS:
            return None, "the heartbeat's name is too long to be one: no ping is sent; the job ran all the same"
        if "://" in options.heartbeat:  # a ping URL: as a name it would show in messages and pages
            return None, "AURA_HEARTBEAT: a URL: put it into AURA_PING_URL; no ping is sent; the job ran all the same"
        return f"heartbeat:{options.heartbeat}", ""
    if options.job_found is False:
        return None, ""  # said when the job was looked for; a guess could feed another heartbeat than the job's
    name = lent_name(options.command[0])
    if name is None:
        base = os.path.basename(options.command[0])
        return None, f"no heartbeat for {base!r}: name one with -H; the job ran all the same"
    return f"auto:{name}", ""


def lent_name(command: str) -> str | None:
    """Return the heartbeat's name that *command* lends: its basename without extension; None for carriers."""
    base = os.path.basename(command)
    stem, dot, _ = base.rpartition(".")
    name = stem if dot and stem else base
    carrier = name.rstrip("0123456789.-") if name.startswith(("python", "pypy", "perl", "ruby", "php", "lua")) else name
    return None if not name or carrier in _CARRIERS else name


def _ping_url(said: str) -> tuple[str | None, str]:
    """Return the reference to the URL that *said* is or whose file it names; or None, and why, without a word of it."""
    source, url = "AURA_PING_URL", said
    if said.startswith("file:"):
        path = said.removeprefix("file:")
        source = f"the ping URL's file {path}" if "://" not in path else "the ping URL's file"
        try:
            url = _content(path)
        except OSError as problem:
            return None, f"{source}: {problem.strerror}: no ping is sent; the job ran all the same"
    from aura_agent.report.ping_url import canonical

    url = url.strip()
    try:
        url = canonical(url if url.isascii() and len(url) <= _MAX_URL_BYTES else "")
    except ValueError as problem:
        return None, f"{source}: {problem}: no ping is sent; the job ran all the same"
    return f"url:{url}", ""


def _content(path: str) -> str:
    """Return the beginning of a regular file. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold us up
    try:
        if os.fstat(file).st_mode & 0o170000 != 0o100000:
            raise OSError(22, "not a regular file")
        return os.read(file, _MAX_URL_BYTES + 1).decode("utf-8", "replace")
    finally:
        os.close(file)
