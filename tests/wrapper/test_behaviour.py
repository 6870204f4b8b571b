"""The page of behaviours says what the tests prove."""

from tests.wrapper.behaviour import PAGE, page


def test_the_page_is_made_of_the_tests() -> None:
    """Whoever changes a row changes the test beside it: run `make behaviour`."""
    assert PAGE.read_text(encoding="utf-8") == page()
