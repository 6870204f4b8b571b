"""A site for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aura_agent.devserver.threaded import ThreadedDevServer
from tests.e2e.sites import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ThreadedDevServer() as server:
        made = Site(tmp_path, server)
        made.configure()
        yield made
        if made.daemon is not None:
            made.daemon.kill()
            made.daemon.wait()
