"""Which job of the config a run belongs to. Pure.

A wrapped line of a crontab reports under its program's name ("sh"), so a heartbeat that exactly one job of the config
feeds decides. The job's name decides among jobs that share a heartbeat, and for runs without one. A run with a job's
name and another heartbeat is not that job's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from aura_agent.report.record import Ref


class Source(NamedTuple):
    """Where a run comes from, as its report says: its job's name, and the label of its heartbeat; empty for none."""

    job: str
    heartbeat: str


class Meanings:
    """Which heartbeats labels and refs mean: ids, or ``name:NAME`` for a heartbeat that the cache doesn't know.

    *attached* has the heartbeat's id for each stored ref, None if it isn't known. *cached* are pairs of id and name.
    *candidates* returns the ids or names that a ref may stand for; *label* what people are shown of a ref.
    """

    def __init__(
        self,
        attached: Mapping[str, str | None],
        cached: Iterable[tuple[str, str]],
        candidates: Callable[[str], Sequence[str]],
        label: Callable[[str], str],
    ) -> None:
        self._attached = attached
        self._candidates = candidates
        self._ids: dict[str, list[str]] = {}
        for heartbeat_id, name in cached:
            self._ids.setdefault(name, []).append(heartbeat_id)
        self._ids |= {each: [each] for ids in self._ids.values() for each in ids}
        self._refs: dict[str, list[str]] = {}
        for ref in attached:
            self._refs.setdefault(label(ref), []).append(ref)

    def of_ref(self, ref: str) -> tuple[str, ...]:
        """Return the heartbeats that a stored ref may mean, the likeliest first."""
        heartbeat_id = self._attached.get(ref)
        if heartbeat_id is not None:
            return (heartbeat_id,)
        candidates = self._candidates(ref)
        for wanted in candidates:
            if wanted in self._ids:
                ids = self._ids[wanted]
                return (ids[0],) if len(ids) == 1 else (f"name:{wanted}",)
        return tuple(f"name:{wanted}" for wanted in candidates) or (ref,)

    def of_label(self, label: str) -> tuple[str, ...]:
        """Return the same for the label of a run's heartbeat; nothing where it may mean either of two heartbeats."""
        if not label:
            return ()
        refs = self._refs.get(label)
        if refs is None:
            by_name, by_command = (self.of_ref(kind + label) for kind in (Ref.HEARTBEAT, Ref.AUTO))
            return by_name if not by_name[0].startswith("name:") else (*by_name, *by_command)
        meanings = {self.of_ref(ref) for ref in refs}
        return meanings.pop() if len(meanings) == 1 else ()


class RunOwners:
    """The jobs of a config, *jobs* by name with the heartbeat that each feeds, as owners of runs."""

    def __init__(self, jobs: Mapping[str, str], meanings: Meanings) -> None:
        self._jobs = jobs
        self._meanings = meanings
        self._feeding: dict[str, list[str]] = {}
        for name, heartbeat in jobs.items():
            fed = meanings.of_ref(Ref.HEARTBEAT + heartbeat)[0]
            self._feeding.setdefault(fed, []).append(name)

    def of(self, source: Source) -> str | None:
        """Return the job whose run that is, None if it is no job's of the config."""
        heartbeats = self._meanings.of_label(source.heartbeat)
        if not heartbeats:
            return source.job if source.job in self._jobs else None
        for heartbeat in heartbeats:
            feeding = self._feeding.get(heartbeat, [])
            if source.job in feeding:
                return source.job
            if len(feeding) == 1:
                return feeding[0]
        return None

    def named(self, source: Source) -> str:
        """Return the name under which the run counts: its job's, else its own, told apart from that of a job."""
        return self.of(source) or (f"{source.job} ({source.heartbeat})" if source.job in self._jobs else source.job)

    def is_of(self, source: Source, wanted: str) -> bool:
        """Whether *wanted* names the run: its job of the config, else its own name, or its heartbeat by id or name."""
        if wanted in self._jobs:
            return self.of(source) == wanted
        heartbeats = self._meanings.of_label(source.heartbeat)
        return wanted in source or (
            len(heartbeats) == 1 and heartbeats == self._meanings.of_ref(Ref.HEARTBEAT + wanted)
        )
