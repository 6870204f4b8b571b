"""watch.file: whether the newest match of a glob is young and large enough."""

from datetime import UTC, datetime, timedelta

from aura_agent.units import format_duration, format_size
from aura_agent.watch.condition import Condition, shown
from aura_agent.watch.newest import MAX_ENTRIES, Match, Search, find_newest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_file(
    *,
    path: str,
    now: datetime,
    max_age_s: float | None = None,
    min_size_bytes: int | None = None,
    max_entries: int = MAX_ENTRIES,
) -> Condition:
    """Look at the newest regular file that *path* (a glob) matches, by modification time.

    Healthy: it was modified at most *max_age_s* before *now*, and has at least *min_size_bytes*. A file from the
    future (more than a minute) is never the newest: its age can't be told.
    """
    now_ns = epoch_ns(now)
    search = find_newest(path, now_ns=now_ns, max_entries=max_entries)
    newest, facts = search.newest, search_facts(search, now_ns)
    if newest is None or search.cut_off:
        return Condition(False, why_none(path, search, now_ns), facts)
    age_s = (now_ns - newest.mtime_ns) / 1e9
    name = shown(newest.path)
    if max_age_s is not None and age_s > max_age_s:
        text = f"{name} is {format_duration(age_s)} old, more than {format_duration(max_age_s)}"
        return Condition(False, text + others(search, now_ns), facts)
    if min_size_bytes is not None and newest.size_bytes < min_size_bytes:
        return Condition(False, too_small(newest, min_size_bytes), facts)
    return Condition(True, f"{name} is {format_duration(max(0.0, age_s))} old, {format_size(newest.size_bytes)}", facts)


def epoch_ns(instant: datetime) -> int:
    """Return *instant* in nanoseconds since the epoch, without going through a float."""
    return (instant - _EPOCH) // timedelta(microseconds=1) * 1000


def search_facts(search: Search, now_ns: int) -> dict[str, object]:
    facts: dict[str, object] = {"files": search.files}
    if search.newest is not None:
        facts |= {
            "path": shown(search.newest.path),
            "size_bytes": search.newest.size_bytes,
            "age_s": (now_ns - search.newest.mtime_ns) / 1e9,
        }
    if search.future is not None:
        facts |= {
            "future_path": shown(search.future.path),
            "future_by_s": (search.future.mtime_ns - now_ns) / 1e9,
        }
    if search.unreadable:
        facts["unreadable"] = [shown(note) for note in search.unreadable]
    return facts


def why_none(path: str, search: Search, now_ns: int) -> str:
    """Say why no newest file can be told."""
    if search.cut_off:
        return f"{shown(path)}: too many directory entries to look at; write a narrower pattern"
    if search.future is not None:
        return f"{shown(path)}: no file whose age can be told" + others(search, now_ns)
    if search.not_files and not search.unreadable:
        return f"{shown(path)} matches no regular file, only directories or the like"
    if search.missing and not search.unreadable:
        return f"no file matches {shown(path)}: {shown(search.missing)} does not exist"
    return f"no file matches {shown(path)}" + others(search, now_ns)


def others(search: Search, now_ns: int) -> str:
    """Say what else might have been the newest file, and why it isn't."""
    text = ""
    if search.future is not None:
        ahead_s = (search.future.mtime_ns - now_ns) / 1e9
        text += f"; {shown(search.future.path)} has a time {format_duration(ahead_s)} in the future"
    if search.unreadable:
        text += f"; can't read {shown(search.unreadable[0])}"
    return text


def too_small(newest: Match, min_size_bytes: int) -> str:
    size, needed = format_size(newest.size_bytes), format_size(min_size_bytes)
    if size == needed:
        size, needed = f"{newest.size_bytes} B", f"{min_size_bytes} B"
    return f"{shown(newest.path)} is too small: {size}, expected at least {needed}"
