"""expect.file: the file that a run is there to make, looked for after it."""

from datetime import datetime

from aura_agent.units import format_duration, format_size
from aura_agent.watch.condition import Condition, shown
from aura_agent.watch.file import epoch_ns, others, search_facts, too_small, why_none
from aura_agent.watch.newest import MAX_ENTRIES, find_newest

_TICK_NS = 10**7
_SECOND_NS = 10**9


def expect_file(
    *,
    path: str,
    started_at: datetime,
    now: datetime,
    newer_than_s: float | None = None,
    min_size_bytes: int | None = None,
    max_entries: int = MAX_ENTRIES,
) -> Condition:
    """Look at the newest regular file that *path* (a glob) matches, after a run that started at *started_at*.

    Healthy: it was modified since the run's start, or within *newer_than_s* before *now* if that is given; and it
    has at least *min_size_bytes*. Modification times are allowed to be early by ``timestamp_slack_ns``.
    """
    now_ns = epoch_ns(now)
    since_ns = epoch_ns(started_at) if newer_than_s is None else now_ns - round(newer_than_s * 1e9)
    search = find_newest(path, now_ns=now_ns, max_entries=max_entries)
    newest, facts = search.newest, search_facts(search, now_ns)
    if newest is None or search.cut_off:
        return Condition(False, why_none(path, search, now_ns), facts)
    early_ns = since_ns - newest.mtime_ns
    if early_ns > timestamp_slack_ns(newest.mtime_ns):
        limit = "the run's start" if newer_than_s is None else f"the last {format_duration(newer_than_s)}"
        text = f"{shown(newest.path)} was last modified {format_duration(early_ns / 1e9)} before {limit}"
        if newest.ctime_ns >= since_ns:
            text += ", though it was put there since: `cp -p`, `mv` and `rsync -t` keep the old time"
        return Condition(False, text + others(search, now_ns), facts)
    if min_size_bytes is not None and newest.size_bytes < min_size_bytes:
        return Condition(False, too_small(newest, min_size_bytes), facts)
    return Condition(True, f"{shown(newest.path)} is new, {format_size(newest.size_bytes)}", facts)


def timestamp_slack_ns(mtime_ns: int) -> int:
    """Return how much earlier than the write itself a file system may have stamped it.

    Linux takes the time of the last timer tick (ktime_get_coarse_real_ts64): up to 10 ms with HZ=100. Some file
    systems keep whole seconds, FAT even ones; such a time shows it by its round value.
    """
    if mtime_ns % (2 * _SECOND_NS) == 0:
        return 2 * _SECOND_NS
    return _SECOND_NS if mtime_ns % _SECOND_NS == 0 else _TICK_NS
