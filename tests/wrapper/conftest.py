"""A host for each test; with an Aura to report to, a site."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aura_agent.devserver.threaded import ThreadedDevServer
from tests.e2e.sites import Site
from tests.wrapper.runs import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ThreadedDevServer() as server:
        made = Site(tmp_path, server)
        made.configure()
        yield made
        if made.daemon is not None:
            made.daemon.kill()
            made.daemon.wait()
