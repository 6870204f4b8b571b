"""What ``status``, page and metrics show of the store: read at each look, and as it was last where no disk answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from aura_agent.errors import StoreSilentError
from aura_agent.outbox.queries import oldest_waiting_s, other_feeders, state_counts
from aura_agent.outbox.reader import Readable
from aura_agent.outbox.run_history import LastRun, last_runs, last_successes, newest_of, run_owners
from aura_agent.outbox.run_owner import RunOwners
from aura_agent.outbox.worker import OutboxWorker


@dataclass(frozen=True, slots=True)
class StoreView:
    """The store at one instant: pings by state, other feeders of heartbeats by id, the newest runs."""

    read_at: datetime
    counts: Mapping[str, int]
    oldest_s: float
    foreign: Mapping[str, str]
    runs: list[LastRun]
    owners: RunOwners

    @property
    def newest(self) -> dict[str, LastRun]:
        """The newest run of each job."""
        return newest_of(self.runs, self.owners)

    @property
    def successes(self) -> dict[str, float]:
        """The end of each job's newest success, in seconds since the Unix epoch."""
        return last_successes(self.runs, self.owners)


class StoreViewer:
    """Reads the store of *worker*. ``problem`` says that what was shown last is old; empty if it isn't."""

    def __init__(self, worker: OutboxWorker) -> None:
        self._worker = worker
        self._seen: StoreView | None = None
        self.problem = ""

    @property
    def owners(self) -> RunOwners | None:
        """Who owned which runs when that was last looked at."""
        return None if self._seen is None else self._seen.owners

    async def look(self, jobs: Mapping[str, str]) -> StoreView:
        """Return what the store holds, for *jobs* with the heartbeats that they feed. Raises StoreError."""
        self.problem = ""
        try:
            self._seen = await self._worker.read(partial(_view, jobs=jobs))
        except StoreSilentError:
            if self._seen is None:
                raise
            at = self._seen.read_at
            self.problem = f"queue and last runs are shown as they were at {at:%Y-%m-%dT%H:%M:%SZ}"
        return self._seen


def _view(store: Readable, jobs: Mapping[str, str]) -> StoreView:
    return StoreView(
        datetime.now(UTC),
        state_counts(store),
        oldest_waiting_s(store),
        other_feeders(store),
        last_runs(store),
        run_owners(store, jobs),
    )
