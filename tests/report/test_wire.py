"""Records as lines."""

import pytest
from hypothesis import given, strategies as st

from aura_agent.report import wire

_KEYS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12).filter(lambda key: key != "v")
_BYTES = st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@given(st.dictionaries(_KEYS, _BYTES | st.text(st.characters(exclude_categories=["Cs"]), max_size=100)))
def test_any_bytes_survive_the_wire(fields: dict[str, str]) -> None:
    """Whatever a job prints or is called with comes back byte for byte, and the record is one line."""
    line = wire.encode("run", fields)

    verb, read = wire.decode(line.rstrip(b"\n"))

    assert line.count(b"\n") == 1
    assert verb == "run"
    wanted = {key: value.encode("utf-8", "surrogateescape") for key, value in fields.items() if value}
    assert {key: value.encode("utf-8", "surrogateescape") for key, value in read.items()} == wanted | {"v": b"1"}


def test_unknown_keys_and_versions_are_readable() -> None:
    """An old reader meets a newer writer: what it doesn't know is there to be ignored."""
    assert wire.decode(b"run v=7 run=abc future=%C3%A4") == ("run", {"v": "7", "run": "abc", "future": "ä"})


@pytest.mark.parametrize("line", [b"", b"run x", b"run x=%4", b"run x=%zz", b"run x=\xff"])
def test_garbage_is_a_value_error(line: bytes) -> None:
    """What is no record raises ValueError and nothing else."""
    with pytest.raises(ValueError):  # noqa: PT011
        wire.decode(line)
