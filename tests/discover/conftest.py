"""A copy of a host for each test."""

from pathlib import Path

import pytest

from tests.discover.hosts import Copy


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)
