"""Take jobs out of a file of the config that holds nothing but such sections. Pure."""

import tomllib
from collections.abc import Collection

from aura_agent.discover.plan import HEAD


def without_jobs(text: str, names: Collection[str]) -> str | None:
    """Return *text* without the sections of these jobs; unchanged if that can't be done safely.

    None: nothing is left but what discover writes at the top.
    """
    lines = text.splitlines(keepends=True)
    starts = [at for at, line in enumerate(lines) if line.startswith("[")]
    # A section begins with the blank lines above it.
    begins = [_above(lines, at) for at in starts]
    drop = set[int]()
    for index, at in enumerate(starts):
        if _job(lines[at]) in names:
            drop |= set(range(begins[index], begins[index + 1] if index + 1 < len(begins) else len(lines)))
    after = "".join(line for at, line in enumerate(lines) if at not in drop)
    try:
        wanted, is_now = tomllib.loads(text), tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        return text
    for name in names:
        wanted.get("jobs", {}).pop(name, None)
    if not wanted.get("jobs"):
        wanted.pop("jobs", None)
    if is_now != wanted:
        return text
    return None if not after.strip() or after.strip() == HEAD.strip() else after


def _above(lines: list[str], at: int) -> int:
    while at and not lines[at - 1].strip():
        at -= 1
    return at


def _job(header: str) -> str | None:
    """Return which job a table's header is about; None for others."""
    try:
        jobs = tomllib.loads(header).get("jobs")
    except tomllib.TOMLDecodeError:
        return None
    return next(iter(jobs), None) if isinstance(jobs, dict) else None
