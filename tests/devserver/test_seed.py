"""The seed file."""

from pathlib import Path

import pytest

from aura_agent.devserver.seed import load_seed
from aura_agent.devserver.server import DevServer
from aura_agent.errors import ConfigError
from tests.devserver.conftest import client

pytestmark = pytest.mark.anyio

_SEED = """
[[tokens]]
token = "known-token-for-reading"
scope = "read"

[[heartbeats]]
name = "nightly"
expected_interval = "1d"
grace_period = "30m"
id = "11111111-1111-4111-8111-111111111111"

[[heartbeats]]
name = "hourly"
expected_interval = 3600
"""


def _written(directory: Path, text: str) -> str:
    path = directory / "seed.toml"
    path.write_text(text)
    return str(path)


async def test_a_seed_gives_heartbeats_and_tokens_beside_the_generated_one(tmp_path: Path) -> None:
    """Durations as in a config or seconds as in the API; the token has its scope."""
    seed = load_seed(_written(tmp_path, _SEED))
    async with DevServer(seed=seed) as aura, client(aura, "known-token-for-reading") as reader:
        rows = {row["name"]: row for row in (await reader.get("/heartbeats")).json()["data"]}
        refused = await reader.post("/heartbeats", json={"name": "x"})
        async with client(aura, aura.token) as api:
            assert (await api.post("/heartbeats", json={"name": "x"})).status_code == 201

    assert refused.status_code == 403
    assert rows["nightly"]["id"] == "11111111-1111-4111-8111-111111111111"
    assert (rows["nightly"]["expected_interval"], rows["nightly"]["grace_period"]) == (86400, 1800)
    assert rows["hourly"]["expected_interval"] == 3600


async def test_planting_a_seed_again_changes_what_it_names_and_repeats_nothing(tmp_path: Path) -> None:
    """On a file that has it already: no twins, new lengths, the same ping URLs."""
    database = str(tmp_path / "aura.db")
    async with DevServer(db=database, seed=load_seed(_written(tmp_path, _SEED))) as aura:
        keys = [aura.heartbeat(name).ping_url.rpartition("/")[2] for name in ("nightly", "hourly")]

    changed = load_seed(_written(tmp_path, _SEED.replace("3600", "1800").replace('"nightly"', '"every night"')))
    async with DevServer(db=database, seed=changed) as aura:
        assert aura.heartbeat("hourly").expected_interval == 1800
        assert [aura.heartbeat(name).ping_url.rpartition("/")[2] for name in ("every night", "hourly")] == keys


def test_every_problem_is_told_with_its_place(tmp_path: Path) -> None:
    """All of them at once: file, line, key, and what is wrong; a bad token isn't repeated."""
    path = _written(
        tmp_path,
        """
[[tokens]]
token = "sh0rt"
[[heartbeats]]
name = ""
[[heartbeats]]
name = "a"
expected_interval = "soon"
[[heartbeats]]
nmae = "b"
[[heartbeat]]
name = "c"
""",
    )

    with pytest.raises(ConfigError) as caught:
        load_seed(path)

    not_a_duration = '\'soon\' is not a duration; write a number with a unit, such as "90s", "15m", "2h30m", "1d"'
    known = "[[organizations]], [[teams]], [[users]], [[tokens]], [[monitors]], [[heartbeats]], [[integrations]]"
    lines = str(caught.value).splitlines()
    assert [line.partition("seed.toml")[2] for line in lines] == [
        f": heartbeat: is not known here; a seed has {known}",
        ":2: tokens[0].token: Expected `str` of length >= 16",
        ":4: heartbeats[0].name: Expected `str` of length >= 1",
        f":6: heartbeats[1].expected_interval: {not_a_duration}",
        ":9: heartbeats[2]: Object contains unknown field `nmae`",
    ]
    assert "sh0rt" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[heartbeats]", "is not valid TOML"),
        ("heartbeats = 5", "must be tables"),
        (
            '[[heartbeats]]\nname="a"\nid="x"\n[[heartbeats]]\nname="b"\nid="x"',
            r"heartbeats\[1\]\.id: another one has this id x",
        ),
        ('[[heartbeats]]\nname="a"\ngrace_period="500ms"', "whole seconds"),
    ],
)
def test_a_broken_seed_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    """Never a traceback."""
    with pytest.raises(ConfigError, match=expected) as caught:
        load_seed(_written(tmp_path, text))

    assert len(caught.value.problems) == 1


def test_a_missing_seed_is_named(tmp_path: Path) -> None:
    """With the reason."""
    with pytest.raises(ConfigError, match=r"none\.toml: can't be read: No such file or directory"):
        load_seed(str(tmp_path / "none.toml"))
