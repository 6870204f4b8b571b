"""A store for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outbox.stores import Bench, bench


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Bench]:
    """A bench with an empty store."""
    made = bench(tmp_path)
    yield made
    made.outbox.close()
