"""The limiter on real files and among real processes; against the embedded Aura it stays below every 429."""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from aura_agent.api import AuraClient, BudgetSpent, Limiter, Purpose, RateLimited
from aura_agent.api.wire import Budget
from aura_agent.devserver.server import DevServer
from aura_agent.secret import Secret
from tests.devserver.clocks import PassingClock, StillClock

pytestmark = pytest.mark.anyio
TOKEN = "aura_live_of_this_test"
URL = "https://aura.example/api-v1"
NOTHING_TOLD = Budget(None, None)


def limiter(
    directory: Path | None, clock: StillClock | None = None, *, token: str = TOKEN, boot_id: str = "b"
) -> Limiter:
    passing = clock if isinstance(clock, PassingClock) else PassingClock()
    return Limiter(
        Secret(token),
        URL,
        clock or passing,
        random.Random(1),
        directory=None if directory is None else str(directory),
        boot_id=boot_id,
        sleep=passing.sleep,
    )


async def admitted(budget: Limiter, purpose: Purpose = Purpose.NEEDED) -> int:
    """Return how many requests are let through now."""
    count = 0
    while True:
        try:
            await budget.admit(purpose, 0.0)
        except BudgetSpent:
            return count
        count += 1


async def test_two_of_one_directory_share_what_a_token_may(tmp_path: Path) -> None:
    """And another token has a budget of its own."""
    clock = StillClock()
    for _ in range(25):
        await limiter(tmp_path, clock).admit(Purpose.NEEDED, 0.0)

    assert await admitted(limiter(tmp_path, clock)) == 35
    assert await admitted(limiter(tmp_path, clock, token="another_token_of_ours")) == 60


_ASKER = """
import asyncio, random, sys
from aura_agent.api import BudgetSpent, Limiter, Purpose
from aura_agent.clock import SystemClock
from aura_agent.secret import Secret

async def ask():
    budget = Limiter(Secret(sys.argv[2]), sys.argv[3], SystemClock(), random.Random(), directory=sys.argv[1], boot_id="b")
    count = 0
    while True:
        try:
            await budget.admit(Purpose.NEEDED, 0.0)
        except BudgetSpent:
            return count
        count += 1

print(asyncio.run(ask()))
"""


def test_processes_together_send_no_more_than_one_would(tmp_path: Path) -> None:
    """Six of them at once: sixty requests pass, whoever gets them."""
    asking = [
        subprocess.Popen([sys.executable, "-c", _ASKER, str(tmp_path), TOKEN, URL], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    counts = [int(process.communicate()[0]) for process in asking]

    assert sum(counts) == 60


async def test_the_file_is_private_and_holds_no_token(tmp_path: Path) -> None:
    """Neither in its name nor in what it says."""
    budget = limiter(tmp_path)
    await budget.settle(await budget.admit(Purpose.NEEDED, 0.0), Budget(59, 999))

    made = [Path(top, name) for top, _, names in os.walk(tmp_path) for name in names]
    assert made
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    assert (tmp_path / "budget").stat().st_mode & 0o777 == 0o700
    assert not any(TOKEN in path.name or TOKEN.encode() in path.read_bytes() for path in made)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 2]",
        b'{"boot_id": "b", "latest_ns": "many"}',
        b'{"boot_id": "b", "told": [null]}',
        os.urandom(500),
    ],
)
async def test_a_file_that_cannot_be_read_costs_a_minute(tmp_path: Path, content: bytes) -> None:
    """What was asked isn't known: the minute passes first, then all goes on."""
    clock = StillClock()
    await limiter(tmp_path, clock).admit(Purpose.NEEDED, 0.0)
    (file,) = (path for path in (tmp_path / "budget").iterdir() if not path.suffix)
    file.write_bytes(content)
    with pytest.raises(BudgetSpent, match="1m"):
        await limiter(tmp_path, clock).admit(Purpose.NEEDED, 0.0)
    clock.advance(60)

    assert await admitted(limiter(tmp_path, clock)) > 50


async def test_a_file_that_can_neither_be_read_nor_replaced_costs_no_more(tmp_path: Path) -> None:
    """Damaged, and the disk is full: each process waits for its minute once, not for ever."""
    clock = StillClock()
    await limiter(tmp_path, clock).admit(Purpose.NEEDED, 0.0)
    (file,) = (path for path in (tmp_path / "budget").iterdir() if not path.suffix)
    file.write_bytes(b"{")
    file.with_suffix(".new").mkdir()
    budget = limiter(tmp_path, clock)
    with pytest.raises(BudgetSpent, match="1m"):
        await budget.admit(Purpose.NEEDED, 0.0)
    clock.advance(60)

    assert await admitted(budget) == 60


async def test_a_directory_that_cannot_be_used_keeps_nobody_from_asking(tmp_path: Path) -> None:
    """The process goes on by itself, within the limits."""
    (tmp_path / "budget").write_text("this is no directory")

    assert await admitted(limiter(tmp_path, StillClock())) == 60


async def test_a_stopped_process_that_holds_the_lock_stops_nobody(tmp_path: Path) -> None:
    """Its lock is waited for a moment, then done without."""
    clock = StillClock()
    await limiter(tmp_path, clock).admit(Purpose.NEEDED, 0.0)
    (lock,) = (tmp_path / "budget").glob("*.lock")
    holder = await asyncio.create_subprocess_exec(
        "flock", str(lock), "sh", "-c", "echo locked; exec cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"locked\n"
    await limiter(tmp_path, clock).admit(Purpose.NEEDED, 0.0)
    await holder.communicate(b"")


async def test_a_429_holds_everybody_for_as_long_as_it_asks(tmp_path: Path) -> None:
    """Other processes too, and a reboot doesn't end it before its time."""
    clock = StillClock()
    budget = limiter(tmp_path, clock)
    await budget.settle(await budget.admit(Purpose.NEEDED, 0.0), NOTHING_TOLD, RateLimited("429", retry_after_s=300))
    for left_s in (300, 200):
        with pytest.raises(BudgetSpent) as spent:
            await limiter(tmp_path, clock).admit(Purpose.NEEDED, 0.0)
        assert left_s <= (spent.value.retry_after_s or 0) <= left_s + 60
        clock.advance(100)
    with pytest.raises(RateLimited):
        await limiter(tmp_path, StillClock(), boot_id="the next").admit(Purpose.NEEDED, 0.0)
    clock.advance(160)

    assert await admitted(limiter(tmp_path, clock)) > 0


async def test_who_is_patient_waits_for_the_turn_and_hears_how_long(tmp_path: Path) -> None:
    """The request that is over the minute's limit is sent in the next."""
    clock, waits = PassingClock(), list[float]()
    budget = Limiter(
        Secret(TOKEN), URL, clock, random.Random(1), directory=str(tmp_path), on_wait=waits.append, sleep=clock.sleep
    )
    began_ns = clock.read().boot_ns
    for _ in range(61):
        reserved = await budget.admit(Purpose.NEEDED, 120.0)
        await budget.settle(reserved, NOTHING_TOLD)

    assert 60e9 <= clock.read().boot_ns - began_ns < 64e9
    assert waits == [pytest.approx(60)]


async def test_a_burst_of_five_hundred_meets_no_429(tmp_path: Path) -> None:
    """Five clients at once, all in one budget, against an Aura that counts: each request is answered with a 200."""
    clock = PassingClock()
    async with DevServer(rate_limit=True, clock=clock) as aura:
        beat = aura.create_heartbeat("beat")

        async def ask() -> None:
            budget = Limiter(
                Secret(aura.token), URL, clock, random.Random(1), directory=str(tmp_path), sleep=clock.sleep
            )
            async with AuraClient(aura.base_url, Secret(aura.token), limiter=budget) as client:
                for _ in range(100):
                    await client.get_heartbeat(beat.id)

        await asyncio.gather(*(ask() for _ in range(5)))

        assert Counter(request.status for request in aura.requests()) == {200: 500}


async def test_a_client_of_its_own_keeps_to_the_limits_too() -> None:
    """The library, used without a limiter: the 41st request of a minute is not sent at once."""
    async with (
        DevServer(rate_limit=True) as aura,
        AuraClient(aura.base_url, Secret(aura.token), patience_s=0.0) as client,
    ):
        for _ in range(40):
            assert [beat async for beat in client.list_heartbeats()] == []
        with pytest.raises(BudgetSpent, match="nothing was sent"):
            await client.get_heartbeat("any")

        assert len(aura.requests()) == 40
