"""A host for each test."""

from pathlib import Path

import pytest

from tests.wrapper.runs import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)
