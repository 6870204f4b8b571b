"""A job's output as lines of the log."""

from aura_agent.process.lines import Lines


def lines_of(chunks: list[bytes], max_bytes: int = 1_000_000) -> list[str]:
    said: list[str] = []
    lines = Lines(said.append, max_bytes)
    for chunk in chunks:
        lines.feed(chunk)
    lines.end()
    return said


def test_lines_are_whole_however_they_arrive() -> None:
    """A chunk may end within a line, within a character; the last line needs no end."""
    assert lines_of([b"one\ntw", b"o\r\n\n\xc3", b"\xa4\nrest"]) == ["one", "two", "", "ä", "rest"]


def test_a_line_without_an_end_comes_in_pieces() -> None:
    """What a job prints without a newline isn't kept in memory for ever."""
    said = lines_of([b"x" * 5000] * 4)

    assert "".join(said) == "x" * 20_000
    assert max(map(len, said)) == 8192


def test_a_flood_is_cut_and_counted() -> None:
    """Beyond the bound nothing is logged but how much it was."""
    assert lines_of([b"12345\n", b"678", b"9\nabc\n"], max_bytes=8) == [
        "12345",
        "67",
        "[... 7 bytes more are not logged]",
    ]
