"""A job's schedule as one object, and which of its fire times to start now.

Pure: the time, the last fire time and the boot id are parameters. Work is bounded whatever the downtime: the newest
fire time is searched for, not walked to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from aura_agent.errors import ScheduleError
from aura_agent.schedule.expression import REBOOT, Expression, parse
from aura_agent.units import format_duration

CatchUp = Literal["skip", "latest", "all"]

COUNT_LIMIT = 50  # missed fire times are counted one by one: ten thousand jobs may have missed some at once
# A clock that is set back by less may be one that was set to another zone: nothing is run twice. One that was more than
# a day ahead was wrong, and its fire times hold nothing up.
MOST_AHEAD = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that makes a job due: expressions (any of them), or an interval, and perhaps the boot of the host.

    ``period_us`` counts from the Unix epoch, so it doesn't drift and a start of the daemon is no fire time.
    """

    expressions: tuple[Expression, ...] = ()
    period_us: int | None = None
    at_reboot: bool = False

    def next_after(self, after: datetime) -> datetime | None:
        """Return the first fire time strictly later than *after* (aware), in UTC; None only for a bare @reboot.

        Raises ScheduleError when the calendar ends.
        """
        if self.period_us is not None:
            passed = (after - _EPOCH) // _TICK // self.period_us
            try:
                return _EPOCH + (passed + 1) * self.period_us * _TICK
            except OverflowError:
                raise ScheduleError("every: no fire time before the calendar ends") from None
        if not self.expressions:
            return None
        return min(expression.next_after(after) for expression in self.expressions)

    def written(self) -> str:
        """Return as text, to be kept, what the fire times depend on."""
        if self.period_us is not None:
            return f"every {self.period_us} us"
        return "; ".join(f"{expression.text} {expression.zone.key}" for expression in self.expressions)

    def explain(self, fire: datetime) -> str:
        """Return in words why *fire*, one of the fire times, is one."""
        if self.period_us is not None:
            return f"every {format_duration(self.period_us / 1e6)}, counted from 1970-01-01T00:00Z"
        alone = len(self.expressions) == 1  # then nothing else can have made it one: no second search
        return "; ".join(each.explain(fire) for each in self.expressions if alone or each.fires_at(fire))

    def fires_between(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the first *limit* fire times in (after, until], oldest first."""
        fires: list[datetime] = []
        at = self.next_after(after)
        while at is not None and at <= until and len(fires) < limit:
            fires.append(at)
            at = self.next_after(at)
        return fires

    def last_between(self, after: datetime, until: datetime) -> datetime | None:
        """Return the newest fire time in (after, until], or None; bounded work however many there are."""
        newest = self.next_after(after)
        if newest is None or newest > until:
            return None
        # Between `newest`, a fire time, and `free`, after which none follows, the last one is closed in on.
        free, back = until, timedelta(seconds=1)
        while until - back > newest:
            fire = self.next_after(until - back)
            if fire is not None and fire <= until:
                newest = fire
                break
            free, back = until - back, 2 * back
        while (following := self.next_after(newest)) is not None and following <= until:
            newest = following
            if newest < free:
                middle = newest + (free - newest) // 2
                fire = self.next_after(middle)
                if fire is not None and fire <= until:
                    newest = fire
                else:
                    free = middle
        return newest


@dataclass(frozen=True, slots=True)
class Start:
    """A fire time to start now, and why."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """Fire times in a row that are not started; ``count`` is a lower bound unless ``exact``."""

    first: datetime
    last: datetime
    count: int
    exact: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Due:
    """What to do now: ``start`` and ``skipped``, both oldest first.

    ``last_fire`` is what to pass the next time: the newest fire time that has been dealt with, here or before.
    """

    start: tuple[Start, ...]
    skipped: tuple[Skipped, ...]
    last_fire: datetime

    def oldest(self) -> "Due":
        """Return the same with the oldest start alone; the next plan finds the others again."""
        return Due(self.start[:1], self.skipped, self.start[0].at)


def build(schedule: str | list[str] | None, every_s: float | None, *, job: str, zone: ZoneInfo) -> Schedule:
    """Return the schedule of a job from its config keys ``schedule`` and ``every``; *job* seeds ``H``.

    Raises ScheduleError: an expression is invalid or never fires, both keys or neither are given, or ``every`` is
    shorter than a second.
    """
    if every_s is not None:
        if schedule is not None:
            raise ScheduleError("schedule and every exclude each other; keep one of them")
        if every_s < 1:
            raise ScheduleError(f"every = {format_duration(every_s)!r} is too short; use 1s or more")
        return Schedule(period_us=round(every_s * 1e6))
    texts = [schedule] if isinstance(schedule, str) else schedule or []
    if not texts:
        raise ScheduleError('no fire time: write schedule = "0 3 * * *" or every = "15m"')
    wall_times = [text for text in texts if not is_reboot(text)]
    return Schedule(
        expressions=tuple(parse(text, job=job, zone=zone) for text in wall_times),
        at_reboot=len(wall_times) < len(texts),
    )


def is_reboot(text: str) -> bool:
    """Whether *text* of a schedule stands for the boot, and for no wall time."""
    return text.strip().lower() == REBOOT


def reboot_due(schedule: Schedule, *, boot_id: str, last_boot_id: str | None) -> bool:
    """Whether ``@reboot`` is due: once per boot, *last_boot_id* being the one it was last started in, if ever."""
    return schedule.at_reboot and boot_id != last_boot_id


def go_on(last_fire: datetime, ahead: Sequence[datetime], now: datetime) -> tuple[datetime, tuple[datetime, ...]]:
    """Return from which fire time a job goes on, and up to which others have been dealt with far ahead of *now*.

    *last_fire* and *ahead* are what this returned before, *last_fire* as far as fire times have been dealt with since.
    What is more than MOST_AHEAD ahead holds nothing up until the clock comes there: then no slot runs twice, after a
    start in 1970 either.
    """
    marks = (*ahead, last_fire)
    reached = [mark for mark in marks if mark - now <= MOST_AHEAD]
    return max(reached, default=now), tuple(mark for mark in marks if mark not in reached)


def plan_due(
    schedule: Schedule, last_fire: datetime, now: datetime, catch_up: CatchUp, misfire_grace_s: float, limit: int
) -> Due:
    """Decide what becomes of the fire times in (last_fire, now].

    The newest is started, with ``skip`` only if it is at most *misfire_grace_s* late; with ``all`` the *limit* newest
    are. A clock that was set back makes nothing due before it has passed *last_fire* again: no slot runs twice.
    """
    first = schedule.next_after(last_fire)
    if first is None or first > now:
        return Due((), (), last_fire)
    newest = schedule.last_between(first, now) or first
    late_s = (now - newest).total_seconds()
    if catch_up == "all":
        chosen = _newest(schedule, last_fire, newest, max(limit, 1))
    elif catch_up == "skip":
        chosen = [newest] if late_s <= misfire_grace_s else []
    else:
        chosen = [newest]
    skipped = []
    if first < (oldest := chosen[0] if chosen else newest):
        skipped.append(_skipped(schedule, last_fire, oldest, _why_skipped(catch_up, newest, len(chosen))))
    if not chosen:
        grace = f"{format_duration(late_s)} late, misfire_grace is {format_duration(misfire_grace_s)}"
        skipped.append(Skipped(newest, newest, 1, True, f'missed ({grace}); catch_up = "skip"'))
    starts = tuple(Start(at, _why_start(schedule, at, now, misfire_grace_s)) for at in chosen)
    return Due(starts, tuple(skipped), newest)


def _newest(schedule: Schedule, after: datetime, newest: datetime, limit: int) -> list[datetime]:
    """Return the *limit* newest fire times in (after, newest], oldest first."""
    fires = schedule.fires_between(after, newest, limit + 1)
    if len(fires) <= limit:
        return fires
    found = [newest]
    while len(found) < limit and (at := schedule.last_between(after, found[-1] - _TICK)) is not None:
        found.append(at)
    return found[::-1]


def _skipped(schedule: Schedule, after: datetime, before: datetime, reason: str) -> Skipped:
    """Return the fire times in (after, before) as one group; there is one at the least."""
    last = schedule.last_between(after, before - _TICK)
    assert last is not None
    counted = schedule.fires_between(after, last, COUNT_LIMIT)
    return Skipped(counted[0], last, len(counted), counted[-1] == last, reason)


def _why_skipped(catch_up: CatchUp, newest: datetime, started: int) -> str:
    if catch_up == "all":
        return f'missed; catch_up = "all" makes up for the newest {started} only'
    if catch_up == "skip":
        return 'missed; catch_up = "skip"'
    return f'missed; the run for {_stamp(newest)} makes up for it (catch_up = "latest")'


def _why_start(schedule: Schedule, at: datetime, now: datetime, misfire_grace_s: float) -> str:
    late_s = (now - at).total_seconds()
    why = schedule.explain(at)
    return why if late_s <= misfire_grace_s else f"{why}; missed, made up for {format_duration(late_s)} later"


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
