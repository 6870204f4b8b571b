"""The last bytes of a stream."""

import os

import pytest
from hypothesis import given, strategies as st

from aura_agent.process.pump import Pump, pump
from aura_agent.process.tail import Tail
from tests.waiting import until

pytestmark = pytest.mark.anyio


@given(st.lists(st.binary(max_size=50), max_size=30), st.integers(0, 60))
def test_a_tail_keeps_what_the_naive_model_keeps(chunks: list[bytes], max_bytes: int) -> None:
    """However the stream is cut into chunks, the last bytes are kept and the others counted."""
    tail, everything = Tail(max_bytes), b""
    for chunk in chunks:
        tail.feed(chunk)
        everything += chunk

        assert tail.content() == (everything[-max_bytes:] if max_bytes else b"")
        assert tail.dropped_bytes == len(everything) - len(tail.content())
        assert tail.total_bytes == len(everything)


@given(st.integers(0, 60), st.integers(0, 200), st.integers(0, 100))
def test_what_a_whole_tail_follows_need_not_be_fed(max_bytes: int, skipped: int, more: int) -> None:
    """Skipping is counted, and shows neither in the content nor as a seam in it."""
    tail = Tail(max_bytes)
    after = bytes(byte % 256 for byte in range(max_bytes + more))
    tail.feed(b"before")
    tail.skip(skipped)
    tail.feed(after)

    assert tail.content() == after[more:]
    assert tail.dropped_bytes == len(b"before") + skipped + more


@given(st.text(max_size=80), st.integers(0, 60))
def test_a_cut_never_splits_a_character(text: str, max_bytes: int) -> None:
    """What is shown is a true end of the text, and the first line accounts for every byte before it."""
    tail = Tail(max_bytes)
    encoded = text.encode()
    tail.feed(encoded)

    shown = tail.text()

    if len(encoded) <= max_bytes:
        assert shown == text
    else:
        marker, _, rest = shown.partition("\n")
        assert text.endswith(rest)
        assert len(encoded) - len(rest.encode()) == int(marker.split()[1])
        assert len(rest.encode()) > max_bytes - 4


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    """Binary output can be shown."""
    tail = Tail(10)
    tail.feed(b"a\xff\xfeb")

    assert tail.text() == "a\ufffd\ufffdb"


def test_a_tail_does_not_grow() -> None:
    """A job that writes for ever costs a bounded amount of memory."""
    tail = Tail(1000)
    for _ in range(1000):
        tail.feed(b"x" * 999)

    assert len(tail._kept) <= 2 * 1000


async def test_a_pump_reads_to_the_end_and_closes() -> None:
    """Everything written arrives in the tail and, chunk by chunk, in the callback."""
    read_end, write_end = os.pipe()
    chunks: list[bytes] = []
    tail = Tail(6)
    os.write(write_end, b"hello ")
    os.write(write_end, b"world")
    os.close(write_end)

    await pump(read_end, tail, chunks.append)

    assert b"".join(chunks) == b"hello world"
    assert tail.content() == b" world"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read_end)


async def test_a_pump_whose_pipe_stays_open_reads_on_in_the_background() -> None:
    """Who holds the other end may write on after the wait has been given up, without SIGPIPE."""
    read_end, write_end = os.pipe()
    tail = Tail(100)
    reader = Pump(read_end, tail)
    os.write(write_end, b"early")
    await until(lambda: tail.total_bytes == 5)

    assert not await reader.drained(timeout_s=0.01)
    reader.release()
    os.write(write_end, b"late")
    os.close(write_end)

    assert await reader.drained(timeout_s=20)
    assert tail.content() == b"early"
    assert not reader.open


async def test_a_broken_callback_does_not_block_the_writer() -> None:
    """The pipe is read to its end, then the callback's error is raised."""
    read_end, write_end = os.pipe()
    tail = Tail(100)

    def broken(_: bytes) -> None:
        raise RuntimeError("disk full")

    reader = Pump(read_end, tail, broken)
    os.write(write_end, b"one")
    await until(lambda: tail.total_bytes == 3)
    os.write(write_end, b"two")
    os.close(write_end)

    with pytest.raises(RuntimeError, match="disk full"):
        await reader.drained(timeout_s=20)
    assert tail.content() == b"onetwo"
