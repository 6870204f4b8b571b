"""A run's outcome as the outbox takes it, and its way from and to a line."""

from dataclasses import dataclass, replace
from enum import StrEnum

from aura_agent.clock import Reading
from aura_agent.report import wire

_MAX_TAIL_CHARS = 50_000  # in a line: each may become nine characters there
_WALL_LEEWAY_NS = 60 * 10**9  # a wall clock may be set back a little at any time


class Outcome(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    KILLED = "killed"
    NOT_STARTED = "not_started"
    LOST = "lost"
    SKIPPED = "skipped"

    @property
    def withdraws(self) -> bool:
        """Whether a success that waits from before this run must not be sent any more."""
        return self not in (Outcome.SUCCEEDED, Outcome.SKIPPED)


class Ref:
    """How a report names its heartbeat, as one text: ``heartbeat:``, ``auto:`` or ``url:`` and a value.

    ``heartbeat`` is an id or an exact name, ``auto`` a command's name (``HOST/name``, else ``name``), ``url`` a ping
    URL: such a text is a secret.
    """

    HEARTBEAT, AUTO, URL = "heartbeat:", "auto:", "url:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run, ended. Instants are pairs of clocks; *boot_id* says to which boot their first halves belong.

    *started* is the start of the deciding attempt, the last one. *ref* is None where no heartbeat is named: such a
    run has a history and no ping. *account* is the fingerprint (``report.account``) of the API token that the run was
    made with, empty where the report doesn't say. *calls_hooks* is false where nobody shall be told of it by a hook,
    or has been.
    """

    run_id: str
    boot_id: str
    started: Reading
    ended: Reading
    outcome: Outcome
    ref: str | None = None
    account: str = ""
    job: str = ""
    exit_code: int | None = None
    signal: int | None = None
    attempts: int = 1
    reason: str = ""
    max_age_s: float | None = None
    replay_all: bool = False
    body: bytes | None = None
    tail: str = ""
    cpu_s: float | None = None
    max_rss_bytes: int | None = None
    io_read_bytes: int | None = None
    io_written_bytes: int | None = None
    calls_hooks: bool = True

    @property
    def duration_s(self) -> float:
        return max(0, self.ended.boot_ns - self.started.boot_ns) / 1e9

    @classmethod
    def lost(cls, fields: dict[str, str], reason: str) -> "Report":
        """Return what a ``start`` record amounts to if no outcome follows. Raises ValueError.

        Its end is its start: whoever knows better replaces that.
        """
        told = ("run", "boot", "start_boot_ns", "start_ns", "job", "ref", "hooks")
        known: dict[str, str] = {key: fields[key] for key in told if key in fields}
        known |= {"end_boot_ns": known.get("start_boot_ns", ""), "end_ns": known.get("start_ns", "")}
        return cls.from_fields(known | {"outcome": Outcome.LOST.value, "reason": reason})

    @classmethod
    def from_fields(cls, fields: dict[str, str]) -> "Report":
        """Return the report that a ``run`` record holds. Raises ValueError: a field is missing or wrong."""
        try:
            return cls(
                run_id=_run_id(fields["run"]),
                boot_id=fields["boot"],
                started=Reading(_int(fields["start_boot_ns"]), _int(fields["start_ns"])),
                ended=Reading(_int(fields["end_boot_ns"]), _int(fields["end_ns"])),
                outcome=Outcome(fields["outcome"]),
                ref=_ref(fields.get("ref")),
                account=_account(fields.get("account", "")),
                job=fields.get("job", "")[:200],
                exit_code=_int(fields["code"]) if "code" in fields else None,
                signal=_int(fields["signal"]) if "signal" in fields else None,
                attempts=_int(fields.get("attempts", "1")),
                reason=fields.get("reason", "")[:500],
                max_age_s=float(fields["max_age_s"]) if "max_age_s" in fields else None,
                replay_all=fields.get("replay") == "all",
                body=fields["body"].encode("utf-8", "surrogateescape") if "body" in fields else None,
                tail=fields.get("tail", "")[-_MAX_TAIL_CHARS:],
                calls_hooks=fields.get("hooks") != "none",
            )
        except KeyError as missing:
            raise ValueError(f"no {missing.args[0]}") from None

    def to_fields(self) -> dict[str, str]:
        """Return the fields of the ``run`` record for this report."""
        fields = {
            "run": self.run_id,
            "boot": self.boot_id,
            "start_boot_ns": str(self.started.boot_ns),
            "start_ns": str(self.started.wall_ns),
            "end_boot_ns": str(self.ended.boot_ns),
            "end_ns": str(self.ended.wall_ns),
            "outcome": self.outcome.value,
            "ref": self.ref or "",
            "account": self.account,
            "job": self.job,
            "code": "" if self.exit_code is None else str(self.exit_code),
            "signal": "" if self.signal is None else str(self.signal),
            "attempts": str(self.attempts),
            "reason": self.reason,
            "max_age_s": "" if self.max_age_s is None else repr(self.max_age_s),
            "replay": "all" if self.replay_all else "",
            "body": "" if self.body is None else self.body.decode("utf-8", "surrogateescape"),
            "tail": self.tail[-_MAX_TAIL_CHARS:],
            "hooks": "" if self.calls_hooks else "none",
        }
        return {key: value for key, value in fields.items() if value}


def report_in(line: bytes) -> Report | None:
    """Return the report that the ``run`` record in *line* holds; None: it holds none."""
    try:
        verb, fields = wire.decode(line)
        return Report.from_fields(fields) if verb == "run" else None
    except ValueError:
        return None


def in_the_past(report: Report, boot_id: str, now: Reading) -> Report:
    """Return *report* with no instant of the boot *boot_id*, that of *now*, in the future, and its end after its start.

    Who reports has read the clocks before us: ones that were ahead must not put a run behind all that are to come.
    Of another boot nothing is known: then our wall clock may be the one that is wrong.
    """
    started, ended = report.started, report.ended
    if report.boot_id == boot_id:
        started, ended = _at_most(started, now), _at_most(ended, now)
    if ended.boot_ns < started.boot_ns:
        ended = ended._replace(boot_ns=started.boot_ns)
    same = started is report.started and ended is report.ended
    return report if same else replace(report, started=started, ended=ended)


def told_by_others(report: Report, now: Reading) -> Report:
    """Return *report* of another boot, by a user whose clocks we don't share, with no wall time ahead of ours."""
    started, ended = (
        told._replace(wall_ns=now.wall_ns) if told.wall_ns > now.wall_ns + _WALL_LEEWAY_NS else told
        for told in (report.started, report.ended)
    )
    return (
        report if (started, ended) == (report.started, report.ended) else replace(report, started=started, ended=ended)
    )


def _at_most(told: Reading, now: Reading) -> Reading:
    if told.boot_ns > now.boot_ns:
        return Reading(now.boot_ns, min(told.wall_ns, now.wall_ns))
    return told._replace(wall_ns=now.wall_ns) if told.wall_ns > now.wall_ns + _WALL_LEEWAY_NS else told


def _run_id(text: str) -> str:
    if not (8 <= len(text) <= 64 and text.isascii() and text.isalnum()):
        raise ValueError("not a run id")
    return text


def _ref(text: str | None) -> str | None:
    if text is None:
        return None
    if not text.startswith((Ref.HEARTBEAT, Ref.AUTO, Ref.URL)) or len(text) > 4096:
        raise ValueError("not a heartbeat's name, id or URL")
    return text


def _account(text: str) -> str:
    if text and not (len(text) == 32 and text.isascii() and text.isalnum()):
        raise ValueError("not an account's fingerprint")
    return text


def _int(text: str) -> int:
    number = int(text)
    if number.bit_length() > 63:  # SQLite's are of 64 bits
        raise ValueError("a number that is too large")
    return number
