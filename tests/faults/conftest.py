"""A site for each test, as for the tests of whole processes."""

from tests.e2e.conftest import site

__all__ = ["site"]
