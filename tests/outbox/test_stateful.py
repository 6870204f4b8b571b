"""The promises of the outbox over any life that a host may lead, held against ``oracle``.

Two stores with their files, a user's and the daemon's, on a host whose clocks the test moves. The short form leads the
same lives each time, so that a change is judged by itself; ``make stateful`` looks for new ones, and AURA_TEST_SEED=N
repeats a run.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aura_agent.clock import Reading
from aura_agent.delivery.deadline import Deadline, Instant
from aura_agent.outbox.claims import LEASE_S, Attempt, Ended
from aura_agent.outbox.handover import handed_over, to_hand_over
from aura_agent.outbox.heartbeats import CachedHeartbeat
from aura_agent.outbox.store import Outbox
from aura_agent.report import spool, wire
from aura_agent.report.account import account_of
from aura_agent.report.record import Outcome, Report
from aura_agent.report.started import StartRecord
from aura_agent.secret import Secret
from tests.outbox.oracle import ATTEMPT_NS, GRACE_NS, INTERVAL_NS, WITHDRAWING, Log, Post, Run, S, other_of
from tests.outbox.stores import START, MovedClock, damage, delivered, not_delivered, open_outbox

_LIVES = int(os.environ.get("AURA_STATEFUL_LIVES", "80"))
_SEED = time.time_ns() if "AURA_STATEFUL_LIVES" in os.environ else 20261125
_STORES = ("daemon", "user")
_BEATS = ("one", "two")
_BOOT_STARTS_AT_NS = 7 * S
_2036_NS = 2_085_978_496 * S  # where NTP's first era ends (RFC 5905, section 6): what some clocks begin with

_places = st.integers(0, 7)  # which of several runs or attempts: the rest of a division
_answers = st.sampled_from(["200", "200", "200", "unheard", "503", "refused"])
_stores = st.sampled_from(("daemon", "daemon", "user"))
_beats = st.sampled_from(("one", "one", "one", "two"))
_ends = st.sampled_from(
    [Outcome.SUCCEEDED] * 24 + [Outcome(name) for name in sorted(WITHDRAWING - {"lost"})] + [Outcome.SKIPPED]
)


@dataclass
class _Going:
    """A run that goes on; *record* is its wrapper's start record, None for one of the daemon's own, *daemon* that."""

    store: str
    report: Report
    heartbeat: str
    record: StartRecord | None = None
    daemon: Outbox | None = None


@dataclass
class _Sent:
    """A POST under way, and the process that began it."""

    store: str
    process: Outbox
    attempt: Attempt
    post: Post
    began_ns: int


_ACCOUNTS = {api: account_of(f"https://{api}.example", Secret(f"aura_live_{api}")) for api in ("a", "b")}


@dataclass(frozen=True)
class _Job:
    """What may run: *own* is the daemon's, all else runs under a wrapper."""

    store: str
    beat: str
    called: str
    max_age_s: float | None
    replay_all: bool
    own: bool


_jobs = st.builds(
    _Job,
    store=_stores,
    beat=_beats,
    called=st.sampled_from(["heartbeat:{1}", "heartbeat:id-{0}", "auto:{1}", "url:http://127.0.0.1:9/ping/{0}"]),
    max_age_s=st.sampled_from([None, None, None, 600.0]),
    replay_all=st.booleans(),
    own=st.booleans(),
)
_MARKS = ("failed", "succeeded")
_COLUMNS = {
    "entries": ("epoch", "started_boot_ns", "ended_boot_ns", "max_age_s"),
    "streams": (
        *(f"{mark}_{part}" for mark in (*_MARKS, "delivered") for part in ("epoch", "boot_ns", "run")),
        *("due_epoch", "due_boot_ns", "urgency_wall_ns", "tries", "since_boot_ns"),
    ),
    "refs": tuple(f"{mark}_{part}" for mark in _MARKS for part in ("epoch", "boot_ns", "run")),
    "heartbeats": ("ping_url",),
}
_waits = st.sampled_from([0.0, 0.5, 30.0])
_ways = st.sampled_from(["socket", "accepted", "spool", "both", "killed after it"])


class Life(RuleBasedStateMachine):
    """Whatever happens, in whatever order. True time is in nanoseconds from the beginning."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.clock = MovedClock()
        self.log = Log()
        self.now_ns = 0
        self.wall_offset_ns = START.wall_ns
        self.network = True
        self.numbers = count(1)
        self.going: list[_Going] = []
        self.gone: list[_Going] = []  # their wrappers were killed, and nobody has looked since
        self.lost: list[_Going] = []  # somebody has
        self.orphans: list[_Going] = []  # their daemon was killed, and nobody has looked since
        self.boots_began_ns = {1: 0}
        self.sent: list[_Sent] = []
        self.told: list[tuple[str, Report]] = []
        self.hung: list[Outbox] = []
        self.asleep_ns = 0
        self.stopped: list[tuple[_Sent, Deadline]] = []
        self.invalid: set[str] = set()
        self.set_clocks()
        self.apis = dict.fromkeys(_STORES, "a")
        self.identity = ""
        self.names_are_swapped = False
        self.stores = {name: self.open(name) for name in _STORES}

    @initialize(
        known=st.sampled_from([_BEATS, ("one",), ()]),
        lies=st.booleans(),
        identity=st.sampled_from(["", "renamed", "two APIs"]),
        damages=st.sampled_from(["", *_COLUMNS]),
    )
    def begin_life(self, known: tuple[str, ...], lies: bool, identity: str, damages: str) -> None:
        self.damages = damages
        self.clock_lies = lies
        self.identity = identity
        for beat in known:
            for store in _STORES:
                self.learn(store, beat)

    # -- runs ----------------------------------------------------------------------------------------------------

    @rule(jobs=st.lists(_jobs, min_size=2, max_size=4), then_s=_waits)
    def begin_several(self, jobs: list[_Job], then_s: float) -> None:
        for job in jobs:
            self.begin(job, then_s)

    def begin(self, job: _Job, then_s: float) -> None:
        """A job starts: the daemon's own, or one under a wrapper."""
        now = self.clock.read()
        report = Report(
            run_id=f"run{next(self.numbers):08}",
            boot_id=self.boot_id(),
            started=now,
            ended=now,
            outcome=Outcome.LOST,
            ref=job.called.format(self.beat_id(job), job.beat),
            account=_ACCOUNTS[self.apis[job.store]].fingerprint,
            job=job.beat,
            max_age_s=job.max_age_s,
            replay_all=job.replay_all,
        )
        run = _Going(job.store, report, f"{self.apis[job.store]}/{job.beat}")
        self.put_on_record(run, own=job.own and job.store == "daemon")
        self.going.append(run)
        self.now_ns += int(then_s * S)
        self.set_clocks()

    @rule(runs=st.lists(st.tuples(_jobs, _waits, _ends, _ways), min_size=3, max_size=8))
    def run(self, runs: list[tuple[_Job, float, Outcome, str]]) -> None:
        """Jobs that nothing happens to while they run."""
        for job, took_s, outcome, way in runs:
            self.begin(job, took_s)
            self.end(-1, outcome, way)

    @precondition(lambda self: self.going)
    @rule(place=_places)
    def retry(self, place: int) -> None:
        """Its attempt failed, and another one starts: that decides from now on."""
        run = self.going[place % len(self.going)]
        run.report = replace(run.report, started=self.clock.read(), attempts=run.report.attempts + 1)
        before = run.record
        self.put_on_record(run, own=before is None)
        if before is not None:
            before.remove()

    @precondition(lambda self: self.going)
    @rule(ends=st.lists(st.tuples(_places, _ends, _ways), min_size=1, max_size=3))
    def end_several(self, ends: list[tuple[int, Outcome, str]]) -> None:
        for place, outcome, way in ends[: len(self.going)]:
            self.end(place, outcome, way)

    def end(self, place: int, outcome: Outcome, way: str) -> None:
        """A job ends, and its outcome becomes durable in one way or the other."""
        run = self.going.pop(place % len(self.going))
        run.report = replace(run.report, ended=self.clock.read(), outcome=outcome)
        self.report(run, way)
        if run.record is not None:
            if way == "killed after it":
                _let_go(run.record)
            else:
                run.record.remove()

    @precondition(lambda self: any(run.record for run in self.going))
    @rule(place=_places)
    def kill_wrapper(self, place: int) -> None:
        """An aura-run is killed while its job runs: nobody will tell how that ended."""
        wrapped = [run for run in self.going if run.record]
        run = wrapped[place % len(wrapped)]
        self.going.remove(run)
        self.lose(run)

    @precondition(lambda self: self.gone or self.lost)
    @rule(place=_places, outcome=_ends)
    def turn_up(self, place: int, outcome: Outcome) -> None:
        """The outcome of a run that was thought lost, or soon would be, arrives after all."""
        runs = self.gone or self.lost
        run = runs.pop(place % len(runs))
        run.report = replace(run.report, outcome=outcome)
        self.report(run, "socket")

    @precondition(lambda self: self.told)
    @rule(place=st.integers(0, 30))
    def tell_again(self, place: int) -> None:
        """The same report once more: nobody knew that it had been taken."""
        store, report = self.told[place % len(self.told)]
        assert self.stores[store].accept([report]) in ([], [report.run_id])

    # -- deliveries ----------------------------------------------------------------------------------------------

    @rule(store=_stores, limit=st.sampled_from([1, 8]), stops=st.sampled_from([False, False, False, True]))
    def send(self, store: str, limit: int, stops: bool = False) -> None:
        """Somebody looks what may be sent, and begins to send it, unless the process *stops* before the request."""
        self.judge_lost(store)
        for attempt in self.stores[store].claim(limit).attempts:
            assert self.log.against(store, attempt.run_id, self.now_ns) == []
            run = self.log.success(store, attempt.run_id)
            assert run is not None
            beat = self.log.feeds(store, run)
            assert attempt.url.reveal().endswith(beat.replace("/", "-"))
            post = Post(run, beat, self.now_ns + int(LEASE_S * S))
            self.log.posts[store].append(post)
            sent = _Sent(store, self.stores[store], attempt, post, self.now_ns)
            if stops:
                self.stopped.append((sent, Deadline(self.instant(), attempt.deadline_ns)))
            else:
                self.sent.append(sent)

    @precondition(lambda self: self.stopped)
    @rule(place=_places)
    def go_on(self, place: int) -> None:
        """A sender that was stopped before its request goes on: it sends in time, or has the ping judged anew."""
        sent, deadline = self.stopped.pop(place % len(self.stopped))
        problem = deadline.problem(self.instant())
        if not problem:
            assert self.log.too_late(sent.store, sent.post.run, sent.began_ns, self.now_ns) == []
            self.sent.append(sent)
            return
        sent.process.settle([Ended(attempt=sent.attempt, reason=problem, unsent=True)])
        sent.post.ended = True

    @rule(hours=st.sampled_from([0.01, 0.5, 2.0]))
    def suspend(self, hours: float) -> None:
        """Somebody closes the lid: only CLOCK_BOOTTIME goes on."""
        self.asleep_ns += int(hours * 3600 * S)
        self.wait(hours * 3600)

    @rule(store=_stores, count=st.sampled_from([1, 5]))
    def report_invalid_urls(self, store: str, count: int) -> None:
        """Runs whose ping URL has no host, as an unset variable leaves it: they are in nobody's way."""
        now = self.clock.read()
        reports = [
            Report(
                run_id=f"bad{next(self.numbers):08}",
                boot_id=self.boot_id(),
                started=now,
                ended=now,
                outcome=Outcome.SUCCEEDED,
                ref=f"url:https:///ping/{number}",
            )
            for number in range(count)
        ]
        self.invalid |= {report.run_id for report in reports}
        self.stores[store].accept(reports)

    @precondition(lambda self: self.damages)
    @rule(
        store=_stores,
        place=st.integers(0, 100),
        value=st.sampled_from(["NULL", "'text'", "CAST(x'ff' AS TEXT)", str(2**63 - 1), str(1 - 2**63)]),
        then_calm=st.booleans(),
    )
    def damage(self, store: str, place: int, value: str, then_calm: bool) -> None:
        """A disk spoils a row, rather one of a queue in which something waits. Of a mark's two copies one stays whole."""
        table = self.damages
        column = _COLUMNS[table][place % len(_COLUMNS[table])]
        if table == "heartbeats":
            value = "'https:///ping/x'"
        elif table == "entries" and value == "NULL":
            value = "'text'"  # what may not be NULL there is never read as such
        elif column.endswith("_run") and value == "'text'":
            value = "NULL"  # a text might be a run's id
        elif column == "tries" or (value == "NULL" and column == "urgency_wall_ns"):
            value = str(2**63 - 1)
        name = {"entries": "run_id", "refs": "ref"}.get(table, "id")
        waiting = {
            "entries": "state = 'waiting'",
            "streams": "id IN (SELECT stream_id FROM entries WHERE state = 'waiting')",
            "refs": "stream_id IN (SELECT stream_id FROM entries WHERE state = 'waiting')",
        }
        connection = self.stores[store].connection
        query = f"SELECT * FROM {table} WHERE {waiting.get(table, 'TRUE')} ORDER BY {name}"
        rows = connection.execute(query).fetchall()
        if not rows and table != "entries":
            rows = connection.execute(f"SELECT * FROM {table} ORDER BY {name}").fetchall()
        if not rows or (table == "entries" and column == "max_age_s" and value == str(2**63 - 1)):
            return
        row = rows[place % len(rows)]
        if table == "entries":
            self.log.damaged[store].add(row["run_id"])
        damage(self.directory / store / "outbox.db", table, column, value, f"{name} = '{row[name]}'")
        if then_calm:
            self.calm()

    @precondition(lambda self: self.sent)
    @rule(place=_places, answer=_answers)
    def answer(self, place: int, answer: str) -> None:
        """A POST ends: acknowledged, arrived without our knowing, or neither."""
        sent = self.sent.pop(place % len(self.sent))
        if not self.network and answer in ("200", "unheard"):
            answer = "503"
        if answer in ("200", "unheard"):
            self.arrive(sent)
        if answer == "200":
            delivered(sent.process, sent.attempt, answer)
            self.log.delivered[sent.store].add(sent.attempt.run_id)
            self.log.delivered_to[sent.attempt.run_id] = sent.post.heartbeat
        else:
            parked = answer == "refused"
            not_delivered(sent.process, sent.attempt, answer, delay_s=3600.0 if parked else 5.0, parked=parked)
        sent.post.ended = True

    @rule(up=st.booleans())
    def network_changes(self, up: bool) -> None:
        self.network = up

    @rule(heard=st.booleans())
    def hand_over(self, heard: bool) -> None:
        """The user's store gives what it holds to the daemon, and perhaps never learns that this was taken."""
        self.judge_lost("user")
        user = self.stores["user"]
        user.take_in()
        reports = list(to_hand_over(user))
        self.stores["daemon"].accept(reports)
        for run in self.log.runs["user"]:
            if run.outcome in WITHDRAWING and not self.was_given(run):
                self.log.record("daemon", replace(self.as_given(run), ref=""), self.now_ns)
        for report in reports:
            given = self.log.success("user", report.run_id)
            if report.run_id in self.invalid:
                continue
            if report.outcome is Outcome.SUCCEEDED and self.log.success("daemon", report.run_id) is None:
                assert given is not None
                self.log.record("daemon", replace(self.as_given(given), ref=report.ref or ""), self.now_ns)
        if heard:
            handed_over(user, [report.run_id for report in reports])

    @rule(store=_stores, beat=st.sampled_from(_BEATS), change=st.booleans())
    def ask(self, store: str, beat: str, change: bool) -> None:
        """Somebody asks Aura, or another Aura, or after names were swapped there."""
        if change and self.identity == "renamed":
            self.swap_names((store,))
        elif change and self.identity == "two APIs":
            self.change_account(store)
        self.learn(store, beat)

    def learn(self, store: str, beat: str) -> None:
        """A listing names a heartbeat that its runs were for; both, once they have swapped their names."""
        api = self.apis[store]
        known = self.log.known[store]
        known.update(
            f"{api}/{each}" for each in (_BEATS if self.names_are_swapped or self.log.swapped[store] else [beat])
        )
        self.log.swapped[store] = self.names_are_swapped
        rows = []
        for each in sorted(known):
            if each.startswith(api):
                key, name = each.replace("/", "-"), (other_of(each) if self.names_are_swapped else each)[2:]
                interval_s, grace_s = INTERVAL_NS / S, GRACE_NS / S
                rows.append(CachedHeartbeat(f"id-{key}", name, interval_s, grace_s, "up", None, _url(key), 0))
        self.stores[store].remember(rows)

    def swap_names(self, told: tuple[str, ...]) -> None:
        """Somebody gives each of the two heartbeats the other one's name, and some stores are told."""
        self.names_are_swapped = not self.names_are_swapped
        self.log.names_were_swapped = True
        for store in told:
            self.learn(store, "one")

    def change_account(self, store: str) -> None:
        """From now on its runs are for another Aura."""
        self.enter(store, "b" if self.apis[store] == "a" else "a")

    def enter(self, store: str, api: str) -> None:
        self.apis[store] = api
        self.stores[store].enter(_ACCOUNTS[api])

    # -- time and processes --------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 6.0, 20.0, LEASE_S + 1, 700.0, 1800.0, 4300.0]))
    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * S)
        self.set_clocks()

    @rule(
        store=_stores,
        how=st.sampled_from(["in order", "in order", "killed", "killed, others look", "hung", "reboot"]),
        arrived=st.booleans(),
    )
    def restart(self, store: str, how: str, arrived: bool) -> None:
        """Another process takes over from one that ended in order, was killed, just hangs, or went with the power."""
        if how == "reboot":
            self.reboot(arrived=arrived)
            return
        before = self.stores[store]
        if how == "hung":
            self.hung.append(before)
        else:
            if how == "in order":
                self.give_up(before, arrived=arrived)
                self.end_own_runs(before)
                before.release_leases()
                before.close()
            else:
                self.die(before, arrived=arrived)
        self.stores[store] = self.open(store)
        if how == "killed" and store == "daemon":
            self.lose_own_runs()

    @rule(job=_jobs, outcome=_ends)
    def kill_the_daemon_during_a_run(self, job: _Job, outcome: Outcome) -> None:
        """A run has ended, and another one goes on, as the daemon is killed; somebody looks before the next one starts."""
        job = replace(job, store="daemon", own=True)
        self.begin(job, 1.0)
        self.end(-1, outcome, "socket")
        self.begin(job, 1.0)
        self.die(self.stores["daemon"], arrived=False)
        self.stores["daemon"] = self.open("daemon")
        self.send("daemon", 8)

    @precondition(lambda self: not self.hung and not self.sent and not self.stopped)
    @rule(store=_stores)
    def put_back(self, store: str) -> None:
        """A backup of the store takes its place, from before the last pings were sent."""
        self.network = True
        copy = self.directory / "backup"
        database = self.directory / store / "outbox.db"
        self.judge_lost(store)
        self.stores[store].take_in()
        self.close_in_order(store)
        shutil.copy(database, copy)
        self.stores[store] = self.open(store)
        for _ in range(2):
            self.send(store, 1)
            if self.sent:
                self.answer(-1, "200")
        self.close_in_order(store)
        shutil.copy(copy, database)
        self.stores[store] = self.open(store)
        self.send(store, 8)

    def close_in_order(self, store: str) -> None:
        self.end_own_runs(self.stores[store])
        self.stores[store].release_leases()
        self.stores[store].close()

    @rule(store=_stores, how=st.sampled_from(["removed", "older"]))
    def lose_boots(self, store: str, how: str) -> None:
        """Somebody removes the file that counts boots, or puts an older copy there."""
        path = self.directory / store / "boots"
        if how == "removed":
            path.unlink(missing_ok=True)
        elif path.exists():
            path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))

    def reboot(self, *, arrived: bool) -> None:
        for process in [*self.stores.values(), *self.hung]:
            self.die(process, arrived=arrived)
        self.hung.clear()
        for run in self.going:
            self.lose(run)
        self.going = []
        self.now_ns += 60 * S
        self.log.boot += 1
        self.log.boot_began_ns = self.boots_began_ns[self.log.boot] = self.now_ns
        self.set_clocks()
        self.apis = dict.fromkeys(_STORES, "a")
        self.identity = ""
        self.names_are_swapped = False
        self.stores = {name: self.open(name) for name in _STORES}
        self.lose_own_runs()

    @precondition(lambda self: self.clock_lies)
    @rule(change=st.sampled_from(["right", "back", "ahead", "1970", "2036"]))
    def set_wall_clock(self, change: str) -> None:
        """Somebody sets the wall clock, rightly or not."""
        self.log.clock_was_right = False
        offsets_ns = {
            "right": START.wall_ns,
            "back": START.wall_ns - 3600 * S,
            "ahead": START.wall_ns + 3600 * S,
            "1970": -self.now_ns,
            "2036": _2036_NS - self.now_ns,
        }
        self.wall_offset_ns = offsets_ns[change]
        self.set_clocks()

    # -- what must hold ------------------------------------------------------------------------------------------

    @rule()
    def calm(self) -> None:
        """The network lasts: everything that may be sent is sent, and Aura knows what is true."""
        self.network = True
        for process in self.hung:
            self.die(process, arrived=False)
        self.hung.clear()
        for store in _STORES:
            for api in ("a", "b") if self.identity == "two APIs" else ("a",):
                self.enter(store, api)
                for beat in _BEATS:
                    self.learn(store, beat)
        while self.stopped:
            self.go_on(0)
        self.wait(LEASE_S + 1)
        while self.sent:
            self.answer(0, "200")
        for store in reversed(_STORES):
            self.stores[store].hurry()
            self.send(store, 4)
            while self.sent:
                self.answer(0, "200")
                self.send(store, 4)
            rows = self.stores[store].connection.execute(
                "SELECT run_id, iif(held AND state = 'waiting', 'held', state) AS state FROM entries"
            )
            states = {row["run_id"]: row["state"] for row in rows}
            assert self.log.missing(store, states, self.now_ns, handed_to="daemon") == []
        assert self.log.outlived() == []

    def teardown(self) -> None:
        for process in [*self.stores.values(), *self.hung]:
            process.close()
        for run in self.going:
            if run.record is not None:
                run.record.remove()

    # -- private -------------------------------------------------------------------------------------------------

    def boot_id(self) -> str:
        return f"boot{self.log.boot}"

    def set_clocks(self) -> None:
        boot_ns = _BOOT_STARTS_AT_NS + self.now_ns - self.log.boot_began_ns
        self.clock.reading = Reading(boot_ns, self.wall_offset_ns + self.now_ns)

    def instant(self) -> Instant:
        return Instant(self.clock.read().boot_ns, self.now_ns - self.asleep_ns)

    def open(self, store: str) -> Outbox:
        """Open a store as a new process does."""
        (self.directory / store).mkdir(parents=True, exist_ok=True, mode=0o700)
        marks = str(self.directory / "marks")
        outbox = open_outbox(self.directory / store, self.clock, f"owner{next(self.numbers)}", self.boot_id(), marks)
        outbox.enter(_ACCOUNTS[self.apis[store]])
        return outbox

    def put_on_record(self, run: _Going, *, own: bool) -> None:
        report = run.report
        if own:
            run.daemon = self.stores["daemon"]
            run.daemon.begin([(report.run_id, report.job, report.ref, report.started)])
            return
        fields = {key: value for key, value in report.to_fields().items() if not key.startswith(("end_", "outcome"))}
        line = wire.encode("start", fields)
        run.record = StartRecord(str(self.directory / run.store), report.run_id, report.attempts, line)

    def report(self, run: _Going, way: str) -> None:
        report = run.report
        line = wire.encode("run", report.to_fields())
        if way in ("spool", "both", "killed after it"):
            spool.write(str(self.directory / run.store), report.run_id, line)
        if way in ("socket", "both"):
            self.stores[run.store].keep({line: report})
        if way == "accepted":
            self.stores[run.store].accept([report])
        self.log.record(run.store, self.as_seen(run, report.outcome), self.now_ns)
        self.told.append((run.store, report))

    def as_seen(self, run: _Going, outcome: Outcome) -> Run:
        report = run.report
        boot = int(report.boot_id.removeprefix("boot"))
        took_ns = report.ended.boot_ns - report.started.boot_ns
        return Run(
            run_id=report.run_id,
            heartbeat=run.heartbeat,
            ref=report.ref or "",
            key=(boot, report.started.boot_ns, report.run_id),
            ended_ns=self.true_ns(boot, report.started.boot_ns + max(0, took_ns)),
            outcome=outcome.value,
            max_age_ns=None if report.max_age_s is None else int(report.max_age_s * S),
            replay_all=report.replay_all,
            named=(report.ref or "").startswith(("heartbeat:one", "heartbeat:two", "auto:")),
        )

    def beat_id(self, job: _Job) -> str:
        return f"{self.apis[job.store]}-{job.beat}"

    def was_given(self, run: Run) -> bool:
        """Whether the daemon has that outcome already, under whatever name."""
        return any(other.run_id == run.run_id and other.outcome == run.outcome for other in self.log.runs["daemon"])

    def as_given(self, run: Run) -> Run:
        """Return what the daemon is told of a run: by an id, where its heartbeat is known."""
        beat = self.log.feeds("user", run)
        return replace(run, heartbeat=beat, named=False) if beat in self.log.known["user"] else run

    def true_ns(self, boot: int, boot_ns: int) -> int:
        return self.boots_began_ns[boot] + boot_ns - _BOOT_STARTS_AT_NS

    def lose(self, run: _Going) -> None:
        """Its wrapper is gone; it is lost for whoever looks next."""
        assert run.record is not None
        _let_go(run.record)
        run.report = replace(run.report, ended=self.clock.read())
        self.gone.append(run)

    def lose_own_runs(self) -> None:
        """The daemon starts: whatever daemon began the runs on record, it is gone."""
        self.stores["daemon"].lose_open_runs()
        self.orphans += [run for run in self.going if run.record is None]
        self.going = [run for run in self.going if run.record]
        self.judge_lost("daemon")

    def end_own_runs(self, daemon: Outbox) -> None:
        """A daemon that stops in order ends its jobs."""
        for run in [run for run in self.going if run.daemon is daemon]:
            self.end(self.going.index(run), Outcome.KILLED, "accepted")

    def die(self, process: Outbox, *, arrived: bool) -> None:
        """*process* is killed: nobody will tell how its runs and its attempts ended."""
        self.give_up(process, arrived=arrived)
        self.orphans += [run for run in self.going if run.daemon is process]
        self.going = [run for run in self.going if run.daemon is not process]
        _die(process)

    def judge_lost(self, store: str) -> None:
        """Somebody is about to look: what nobody has told of by now is lost."""
        for run in [run for run in self.gone if run.store == store]:
            self.log.record(store, self.as_seen(run, Outcome.LOST), self.now_ns)
            self.gone.remove(run)
            self.lost.append(run)
        if store == "daemon":
            for run in self.orphans:
                self.log.record(store, self.as_seen(run, Outcome.LOST), self.now_ns)
            self.orphans.clear()

    def give_up(self, process: Outbox, *, arrived: bool) -> None:
        """The process ends: what it was sending has arrived or not, and nobody will ever know."""
        for sent, deadline in [each for each in self.stopped if each[0].process is process]:
            self.stopped.remove((sent, deadline))
            sent.post.ended = True
        for sent in [sent for sent in self.sent if sent.process is process]:
            self.sent.remove(sent)
            sent.post.ended = True
            if arrived:
                self.arrive(sent)

    def arrive(self, sent: _Sent) -> None:
        self.log.arrived.append((sent.post.run, min(self.now_ns, sent.began_ns + ATTEMPT_NS)))


def _url(name: str) -> Secret:
    return Secret(f"http://127.0.0.1:9/ping/{name}")


def _die(process: Outbox) -> None:
    """End *process* as the kernel ends one that was killed: what it holds open is closed, and nothing is tidied up."""
    process.connection.close()
    _close(f"/senders/{process._owner}")


def _let_go(record: StartRecord) -> None:
    """The same for a wrapper."""
    _close(record._path)


def _close(end: str) -> None:
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the listing's own
        if path.endswith(end):
            os.close(int(name))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory that costs no sync, where there is one: this is about decisions, and about no disk."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else str(tmp_path)
    with tempfile.TemporaryDirectory(dir=place) as directory:
        yield Path(directory)


@pytest.mark.timeout(3600)
def test_no_false_ping_is_sent_and_no_true_one_lost(memory: Path) -> None:
    """Runs, retries, kills, outages, reboots, wrong clocks, lost answers, two stores: the oracle has no objection."""
    number = int(os.environ.get("AURA_TEST_SEED", _SEED))
    print(f"AURA_TEST_SEED={number}")
    numbers = count(1)

    class AnyLife(Life):
        def __init__(self) -> None:
            super().__init__(memory / str(next(numbers)))

    run_state_machine_as_test(
        seed(number)(AnyLife),
        settings=settings(
            max_examples=_LIVES,
            stateful_step_count=80,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
