"""Hosts for each test: a copy of one, and one to be root on."""

from pathlib import Path

import pytest

from tests.discover.hosts import Copy
from tests.discover.live import LiveHost, install


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("installation") / "aura-agent")


@pytest.fixture
def live(tmp_path: Path, installation: Path) -> LiveHost:
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    return LiveHost(root, installation)
