"""One machine and one Aura for all tests; each test gets the unit as if freshly installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.aura import Aura
from tests.systemd.installed import HEARTBEATS, Installed
from tests.systemd.machine import CACHE, Machine, booted


@pytest.fixture(scope="session")
def root() -> Path:
    """The root file system that ``setup.sh`` makes."""
    root = CACHE / "root"
    assert root.is_dir(), f"no {root}: run tests/systemd/setup.sh (make test-systemd does)"
    return root.resolve()


@pytest.fixture(scope="session")
def machine(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted(root, tmp_path_factory.mktemp("boot")) as machine:
        yield machine


@pytest.fixture(scope="session")
def aura(machine: Machine) -> Aura:
    return Aura(machine, HEARTBEATS)


@pytest.fixture
def installed(machine: Machine, aura: Aura) -> Iterator[Installed]:
    """The unit with its usual config and credential, not started, without any state."""
    aura.forget()
    installed = Installed(machine, aura)
    try:
        yield installed
    finally:
        installed.remove()
