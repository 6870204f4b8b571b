"""The seed file."""

import re
from pathlib import Path

import pytest

from aura_agent.devserver.seed import load_seed
from aura_agent.devserver.server import DevServer
from aura_agent.errors import AuraError, ConfigError
from tests.devserver.conftest import client

pytestmark = pytest.mark.anyio

_DOCS = Path(__file__).parents[2] / "docs" / "dev-server.md"
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


async def test_the_example_of_the_docs_is_what_it_says(tmp_path: Path) -> None:
    """Everything in it is there, for its users, within its plan; and the credential of its integration isn't."""
    [example] = re.findall(r"```toml\n(.*?)```", _DOCS.read_text(), re.DOTALL)
    path = str(tmp_path / "aura.db")
    for _ in range(2):  # planted again, it is all the same
        async with (
            DevServer(seed=load_seed(_written(tmp_path, example)), db=path, probe_monitors=False) as aura,
            client(aura, "aura_dev_alice_for_tests") as alice,
            client(aura, "aura_dev_victor_for_tests") as victor,
            client(aura, aura.token) as owner_of_another,
        ):
            [monitor] = (await victor.get("/monitors")).json()["data"]
            [heartbeat] = (await victor.get("/heartbeats")).json()["data"]
            [integration] = (await victor.get("/integrations")).json()["data"]
            assert (monitor["name"], monitor["url"]) == ("shop", "http://127.0.0.1:8080/health")
            assert monitor["check_interval"] == 60
            assert (heartbeat["name"], heartbeat["id"]) == ("nightly-backup", "11111111-1111-4111-8111-111111111111")
            assert (heartbeat["expected_interval"], heartbeat["grace_period"]) == (86_400, 1_800)
            assert monitor["team_id"] == heartbeat["team_id"] == "0b0e7a52-9e51-4a4c-8d0c-3f3a52f0a001"
            assert (integration["platform"], integration["url_host"]) == ("slack", "hooks.slack.com")
            assert "secret" not in "\n".join(aura.service.db.iterdump())
            assert (await alice.patch(f"/monitors/{monitor['id']}", json={"name": "shop"})).status_code == 200
            assert (await victor.patch(f"/monitors/{monitor['id']}", json={"name": "x"})).status_code == 403
            assert (await owner_of_another.get("/monitors")).json()["data"] == []
            numbers = range(20)
            created = [await alice.post("/monitors", json={"name": "x", "url": f"http://x/{n}"}) for n in numbers]
            assert [answer.status_code for answer in created] == [201] * 19 + [409]
            for answer in created[:-1]:
                await alice.delete(f"/monitors/{answer.json()['id']}")


async def test_an_id_of_another_organization_is_refused(tmp_path: Path) -> None:
    """One line; nothing of the seed is planted."""
    database = str(tmp_path / "aura.db")
    seeds = [
        f'[[organizations]]\nname = "acme"\n[[heartbeats]]\nname = "{name}"\nid = "one"\norganization = "{name}"\n'
        for name in ("acme", "dev")
    ]
    async with DevServer(db=database, seed=load_seed(_written(tmp_path, seeds[0]))):
        pass

    with pytest.raises(AuraError, match="id one belongs to another organization"):
        await DevServer(db=database, seed=load_seed(_written(tmp_path, seeds[1]))).start()

    async with DevServer(db=database) as aura:
        assert aura.heartbeat("one").name == "acme"
        with pytest.raises(LookupError):
            aura.heartbeat("dev")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[[organizations]]\nname="a"\n[[organizations]]\nname="a"',
            ":3: organizations[1].name: another one has this name a",
        ),
        ('[[teams]]\nname="a"\n[[teams]]\nname="a"', ":3: teams[1].name: another one has this name a"),
        ('[[users]]\nname="a"\nrole="boss"', ":1: users[0].role: Invalid enum value"),
        ('[[users]]\nname="a"\nteams=["t"]', ":1: users[0].teams: dev has no [[teams]] named 't'"),
        ('[[users]]\nname="a"\norganization="b"', ":1: users[0].organization: there is no [[organizations]] named 'b'"),
        ('[[tokens]]\ntoken="0123456789abcdef"\nuser="a"', ":1: tokens[0].user: dev has no [[users]] named 'a'"),
        (
            '[[users]]\nname="a"\nrole="viewer"\n[[tokens]]\ntoken="0123456789abcdef"\nuser="a"',
            ":4: tokens[0].scope: a is a viewer, whose tokens can only have the scope read",
        ),
        ('[[monitors]]\nname="a"', ":1: monitors[0]: Object missing required field `url`"),
        ('[[monitors]]\nname="a"\nurl="ftp://a"', ":1: monitors[0].url: Expected `str` matching regex"),
        (
            '[[monitors]]\nname="a"\nurl="http://a"\ncheck_interval="2d"',
            ":1: monitors[0].check_interval: Expected `int` <= 86400",
        ),
        ('[[monitors]]\nname="a"\nurl="http://a"\nteam="t"', ":1: monitors[0].team: dev has no [[teams]] named 't'"),
        ('[[monitors]]\nname="a"\nurl="http://a"\nteam=[]', ":1: monitors[0].team: Expected `str | null`, got `array`"),
        ('[[integrations]]\nplatform="slack"\nurl="secret"', ":1: integrations[0].url: Expected `str` matching regex"),
        ('[[organizations]]\nname="a"\nmax_monitors=-1', ":1: organizations[0].max_monitors: Expected `int` >= 0"),
    ],
)
def test_what_tables_say_of_each_other_is_judged_too(tmp_path: Path, text: str, expected: str) -> None:
    """What is named must be in the file; names and ids differ; with the line of the table that is wrong."""
    with pytest.raises(ConfigError) as caught:
        load_seed(_written(tmp_path, text))

    lines = [line.partition("seed.toml")[2] for line in str(caught.value).splitlines()]
    assert any(line.startswith(expected) for line in lines), lines
    assert "secret" not in str(caught.value)


def test_a_token_that_is_there_twice_is_not_repeated(tmp_path: Path) -> None:
    """The line says where, and not what."""
    text = '[[tokens]]\ntoken="0123456789abcdef"\n' * 2
    with pytest.raises(ConfigError) as caught:
        load_seed(_written(tmp_path, text))

    assert str(caught.value).endswith("seed.toml:3: tokens[1].token: another one has this token; give each its own")


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
