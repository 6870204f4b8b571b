"""The prober: checks the monitors when they are due, on one timer for the next of them.

A monitor has a task only while its check is under way; at most a score of checks are, and each ends within its
time-out. httpx is loaded by the first check: who has no monitor doesn't pay for it.
"""

import asyncio
import sqlite3
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

import aura_agent
from aura_agent.clock import Clock
from aura_agent.devserver import probes
from aura_agent.devserver.alarm import Alarm
from aura_agent.devserver.database import transaction
from aura_agent.devserver.tables import checks, monitors
from aura_agent.devserver.tables.checks import Check
from aura_agent.devserver.tables.monitors import MonitorRow

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 10.0
_AT_ONCE = 20


class Prober:
    """Probes the monitors of one database, each for *timeout_s* at the most. Belongs to one event loop."""

    def __init__(self, db: sqlite3.Connection, clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        self._db = db
        self._clock = clock
        self._timeout_s = timeout_s
        self._alarm = Alarm(clock, self._probe_due)
        self._started = False
        self._under_way: set[asyncio.Task[None]] = set()
        self._http: httpx.AsyncClient | None = None

    def start(self) -> None:
        """Probe what fell due while nobody did, and go on. Never called: monitors stay as they are."""
        self._started = True
        now_us = self._alarm.now_us()
        monitors.resume_checks(self._db, now_us)
        self._probe_due(now_us)

    async def stop(self) -> None:
        """Give up the checks that are under way; the next start makes them anew."""
        self._alarm.stop()
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)
        if self._http is not None:
            await self._http.aclose()

    def settle(self, now_us: int) -> None:
        """Start the checks that are due by *now_us*; costs a comparison while none is."""
        if self._alarm.due_us is not None and now_us >= self._alarm.due_us:
            self._probe_due(now_us)

    def expect(self, due_us: int | None) -> None:
        """A check is due at *due_us* from now on."""
        if self._started and due_us is not None and (self._alarm.due_us is None or due_us < self._alarm.due_us):
            self._alarm.set(due_us)

    def _probe_due(self, now_us: int) -> None:
        for row in monitors.take_due(self._db, now_us, _AT_ONCE - len(self._under_way)):
            task = asyncio.get_running_loop().create_task(self._check(row), name="probe")
            self._under_way.add(task)
            task.add_done_callback(self._checked)
        # With no room left, the end of a check is what to wait for.
        full = len(self._under_way) >= _AT_ONCE
        self._alarm.set(None if full else monitors.next_due_us(self._db))

    def _checked(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.result()
            self._probe_due(self._alarm.now_us())

    async def _check(self, row: MonitorRow) -> None:
        started = self._clock.read()
        status_code = await self._ask(row.url)
        now = self._clock.read()
        now_us = now.wall_ns // 1000
        check = Check(
            id=checks.new_id(),
            monitor_id=row.id,
            status=probes.verdict(status_code),
            status_code=status_code,
            response_time_ms=None if status_code is None else (now.boot_ns - started.boot_ns) // 1_000_000,
            checked_us=now_us,
        )
        assert row.due_us is not None, "only what is due is taken"
        with transaction(self._db):
            monitors.record(self._db, row, check, probes.next_due_us(row.due_us, row.check_interval, now_us))

    async def _ask(self, url: str) -> int | None:
        """Return the status of the answer; None: there was none in time."""
        try:
            if self._http is None:
                self._http = _client()
            async with asyncio.timeout(self._timeout_s), self._http.stream("GET", url) as response:
                return response.status_code
        except Exception:  # noqa: BLE001  # whatever is wrong with a URL of the client's choice: it can't be asked
            return None


def _client() -> "httpx.AsyncClient":
    """Return a client that takes nothing from probe to probe: no cookie, and no connection, since no body is read.

    It trusts whom this host trusts. Raises ssl.SSLError: OpenSSL can't be used here.
    """
    import httpx

    from aura_agent.api.transport import http_environment

    return httpx.AsyncClient(
        verify=http_environment().trust.context(),
        trust_env=False,
        timeout=None,  # noqa: S113  # each probe is bounded as a whole
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        headers={"User-Agent": f"aura-agent/{aura_agent.__version__} (embedded Aura)"},
    )
