"""What sync would do, and what it can't."""

from aura_agent.api import Heartbeat
from aura_agent.config.models import Job
from aura_agent.sync.feeders import Feeder
from aura_agent.sync.plan import find_targets, plan_steps
from tests.sync.feeding import UUID, feeders, heartbeat

HOURLY = Job(every=3600.0, timeout=600.0)  # wants 1h and a grace of 15m


def plan(found: list[Feeder], listed: list[Heartbeat]) -> tuple[list[str], list[str]]:
    """Return the steps and the problems, in short."""
    targets, unclear = find_targets(found, listed)
    steps, impossible = plan_steps(targets, listed)
    shown = [f"{step.action} {step.target.name} {step.new_interval_s} {step.new_grace_s}" for step in steps]
    return shown, [f"{'.'.join(map(str, one.path))}: {one.message}" for one in (*unclear, *impossible)]


def test_what_is_missing_is_created() -> None:
    """With name, interval and grace; what Aura has besides isn't in the plan."""
    assert plan(feeders(a=HOURLY), [heartbeat("foreign")]) == (["create a 3600 900"], [])


def test_what_differs_is_changed_and_nothing_else() -> None:
    """Each of the two by itself."""
    listed = [heartbeat("a", 3600, 900), heartbeat("b", 60, 900), heartbeat("c", 3600, 0), heartbeat("d", None, None)]

    assert plan(feeders(a=HOURLY, b=HOURLY, c=HOURLY, d=HOURLY), listed)[0] == [
        "keep a None None",
        "update b 3600 None",
        "update c None 900",
        "update d 3600 900",
    ]


def test_an_id_is_found_first_and_never_created() -> None:
    """A heartbeat given by its id is changed under whatever name; one that isn't there is an error."""
    job = Job(heartbeat=UUID, every=3600.0, timeout=600.0)

    listed = [heartbeat("any", 60, 900, identity=UUID), heartbeat(UUID, 60, 900)]
    assert plan(feeders(a=job), listed) == (["update any 3600 None"], [])
    assert plan(feeders(a=job), []) == (
        [],
        [
            (
                f"jobs.a.heartbeat: Aura has no heartbeat with the id {UUID}, as far as the token sees;"
                " ids can't be created: correct it"
            )
        ],
    )


def test_a_name_that_stands_for_two_is_an_error() -> None:
    """It lists both ids; what the others need is planned all the same."""
    listed = [heartbeat("a", identity="2"), heartbeat("a", identity="1")]

    assert plan(feeders(a=HOURLY, b=HOURLY), listed) == (
        ["create b 3600 900"],
        ['jobs.a.heartbeat: Aura has 2 heartbeats named "a"; name one of them by its id: 1, 2'],
    )


def test_without_an_interval_nothing_is_created() -> None:
    """The error says which key to add; a heartbeat that exists is left as it is, but for a grace that is asked for."""
    reported, with_grace = Job(command=("x",)), Job(command=("x",), grace=60.0)

    assert plan(feeders(cert=reported), [heartbeat("certs")]) == (
        [],
        [
            (
                'jobs.cert.heartbeat: Aura has no heartbeat named "cert"; did you mean "certs"?'
                ' Else say how often it is pinged (expected_interval = "1d"), and create it with aura-agent sync'
            )
        ],
    )
    assert plan(feeders(cert=reported), [heartbeat("cert")])[0] == ["keep cert None None"]
    assert plan(feeders(cert=with_grace), [heartbeat("cert")])[0] == ["update cert None 60"]


def test_of_two_jobs_the_one_that_must_be_heard_soonest_decides() -> None:
    """Also if one names the heartbeat by its id: there is one step, and a second sync changes nothing."""
    daily = Job(heartbeat="x", every=86400.0, timeout=600.0)
    hourly = Job(heartbeat=UUID, every=3600.0, timeout=600.0)
    unknown = Job(heartbeat="x", command=("x",))
    listed = [heartbeat("x", 60, 900, identity=UUID)]

    assert plan(feeders(a=daily, b=hourly, c=unknown), listed)[0] == ["update x 3600 None"]
    assert plan(feeders(a=daily, b=hourly, c=unknown), [heartbeat("x", 3600, 900, identity=UUID)])[0] == [
        "keep x None None"
    ]
