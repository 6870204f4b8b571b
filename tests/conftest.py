"""What all tests share: the surroundings they run in, the event loop, how Hypothesis judges slowness.

Nothing of the host gets in: time zones come from the pinned ``tzdata`` package, and no ``AURA_…`` variable, state
directory or config of the user's is seen.
"""

import os
import signal
import zoneinfo
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.machine import LACKS, no_system_config

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Under nohup, or in the background of a script, they are ignored, and so in all that the tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# An empty search path leaves the tzdata package alone (PEP 615); the variable is for the processes that tests start.
os.environ["PYTHONTZPATH"] = ""
zoneinfo.reset_tzpath(())

for _name in (
    "API_URL",
    "CONFIG",
    "HEARTBEAT",
    "HOOK",
    "JOB",
    "PING_URL",
    "SOCKET",
    "STATE_DIR",
    "TOKEN",
    "TOKEN_FILE",
    "WAIT",
):
    os.environ.pop(f"AURA_{_name}", None)


_RUN_WITHOUT_A_CONFIG = {"daemon", "e2e", "faults", "wrapper"}  # directories in which aura-run looks for the host's


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where the host's config is in sight, leave out what would read it."""
    missing = no_system_config()
    for item in items if missing else ():
        if item.path.parent.name in _RUN_WITHOUT_A_CONFIG:
            item.add_marker(pytest.mark.skip(reason=f"{LACKS}{missing}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is demanded, a test that was skipped has failed: the machine lacks what CI must have."""
    report = yield
    if report.skipped and os.environ.get("AURA_TEST_DEMAND") == "1" and LACKS in str(report.longrepr):
        report.outcome = "failed"
    return report


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
