"""Which number a boot gets, and where a boot that has none belongs: pure rules over what database and file know.

The database is the authority: a number that it holds never changes, and no later boot gets a lower one, whatever became
of the file ``boots``. The file adds the boots in which nobody opened the database.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aura_agent.clock import Reading

# Runs of a boot without a number are ordered after all others of a numbered boot, by the time that their own boot had.
BETWEEN_BOOTS_NS = 2**62
_MAX_NS = 2**63 - 2  # all bits set are what damage leaves (``damage``)
_MAX_ID_CHARS = 64


class NumberedBoot(NamedTuple):
    """A boot that the database knows. *boot_id* None: an older version wrote the row. Wall times 0: not known."""

    number: int
    boot_id: str | None
    began_wall_ns: int
    newest_wall_ns: int


class UnseenBoot(NamedTuple):
    """A boot that no store of ours has counted: the numbered boots after which its runs belong, by the wall clock.

    *early* for a success, *late* for what withdraws: where clocks disagree, silence is better than a false ping.
    """

    early: int
    late: int
    began_wall_ns: int

    def boot_ns(self, started_boot_ns: int) -> int:
        """Return what orders a run of it among runs of the numbered boot, and exactly among runs of its own."""
        return min(_MAX_NS, BETWEEN_BOOTS_NS + max(0, self.began_wall_ns + started_boot_ns))

    def started_boot_ns(self, boot_ns: int) -> int:
        """Return the CLOCK_BOOTTIME that ``boot_ns`` was made of."""
        return max(0, boot_ns - BETWEEN_BOOTS_NS - self.began_wall_ns)


def number(known: Mapping[int, str | None], lines: Sequence[str], boot_id: str) -> tuple[dict[int, str], int]:
    """Return the boot ids to add to *known* by their numbers, and the number of *boot_id*, the boot that goes on.

    *lines* are those of the file, oldest first; *boot_id* is the last of them, or the file can't be used.
    """
    newest = max(known, default=0)
    added: dict[int, str] = {}
    if not any(known.values()) and len(lines) >= newest:
        # Written by an older version, for which a line's number was the boot's.
        added = {at: line for at, line in enumerate(lines[:newest], 1) if _is_boot_id(line)}
    numbers = {known_id: at for at, known_id in sorted({**known, **added}.items()) if known_id is not None}
    is_newest = numbers.get(boot_id) == newest
    earlier = lines[:-1] if lines and lines[-1] == boot_id else lines
    last_known = max((at for at, line in enumerate(earlier) if line in numbers), default=-1)
    for line in filter(_is_boot_id, dict.fromkeys(earlier[last_known + 1 :])):
        newest += 1
        added[newest] = line
        is_newest = False  # the store was elsewhere meanwhile
    if not is_newest:
        newest += 1
        added[newest] = boot_id
    return added, newest


def place(known: Sequence[NumberedBoot], started: Reading, ended: Reading) -> UnseenBoot:
    """Return where a boot without a number belongs among *known*, those before the boot that goes on.

    *started* and *ended* are of the first run that was heard of from it. A wall clock that says it was before all that
    is known may not have been set: a failure then counts as late as can be.
    """
    began_wall_ns = started.wall_ns - started.boot_ns
    over = [boot.number for boot in known if 0 < boot.newest_wall_ns <= began_wall_ns]
    begun = [
        boot.number
        for boot in known
        if 0 < (boot.began_wall_ns or boot.newest_wall_ns) <= max(started.wall_ns, ended.wall_ns)
    ]
    early = max(over, default=0)
    late = max(begun) if begun else max((boot.number for boot in known), default=0)
    return UnseenBoot(early, max(early, late), began_wall_ns)


def _is_boot_id(line: str) -> bool:
    """Whether *line* is no damage of the file."""
    return 0 < len(line) <= _MAX_ID_CHARS and line.isascii() and line.isprintable()
