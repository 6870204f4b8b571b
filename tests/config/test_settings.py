"""Who wins where the same thing is said twice, and what is refused without showing it."""

import os
from pathlib import Path

import pytest

from aura_agent.config.addresses import is_loopback, parse_listen
from aura_agent.config.models import DEFAULT_BASE_URL, ApiSettings
from aura_agent.config.settings import base_url, config_path, find_token, socket_path, state_dir
from aura_agent.errors import ConfigError
from aura_agent.secret import Secret

TOKEN = "aura_live_0123456789abcdef0123456789abcdef"


def secret_file(path: Path, content: str | bytes, mode: int = 0o600) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return str(path)


def test_the_config_is_the_flag_then_the_variable_then_the_usual_place(tmp_path: Path) -> None:
    """An empty variable counts as unset; without any of the three there is no config."""
    flag, variable, usual = (str(tmp_path / name) for name in ("flag", "variable", "usual"))
    environ = {"AURA_CONFIG": variable}
    for path in (flag, variable):
        Path(path).touch()

    assert config_path(flag, environ, default=usual) == flag
    assert config_path(None, environ, default=usual) == variable
    assert config_path(None, {"AURA_CONFIG": ""}, default=usual) is None
    Path(usual).touch()
    assert config_path(None, {}, default=usual) == usual


@pytest.mark.parametrize(
    ("flag", "environ", "source"), [("/no/such", {}, "-c"), (None, {"AURA_CONFIG": "/no/such"}, "AURA_CONFIG")]
)
def test_a_config_that_was_named_must_be_there(flag: str | None, environ: dict[str, str], source: str) -> None:
    """The error says which file, and who named it."""
    with pytest.raises(ConfigError) as raised:
        config_path(flag, environ)

    assert str(raised.value) == f"/no/such: no such file; correct {source}"


def test_the_token_has_one_precedence(tmp_path: Path) -> None:
    """AURA_TOKEN, AURA_TOKEN_FILE, token_file, token_env, then systemd's credential."""
    (tmp_path / "credentials").mkdir()
    secret_file(tmp_path / "credentials" / "aura-token", "from-credential")
    api = ApiSettings(token_file=secret_file(tmp_path / "file", "from-file\n"), token_env="MINE")
    environ = {
        "AURA_TOKEN": " from-variable\n",
        "AURA_TOKEN_FILE": secret_file(tmp_path / "other", "from-other-file"),
        "MINE": "from-mine",
        "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"),
    }

    assert find_token(api, environ) == Secret("from-variable")
    environ["AURA_TOKEN"] = ""
    assert find_token(api, environ) == Secret("from-other-file")
    environ["AURA_TOKEN_FILE"] = ""
    assert find_token(api, environ) == Secret("from-file")
    api = ApiSettings(token_env="MINE")
    assert find_token(api, environ) == Secret("from-mine")
    environ["MINE"] = ""
    assert find_token(api, environ) == Secret("from-credential")
    assert find_token(api, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None
    assert find_token(ApiSettings(), {}) is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "holds no token"),
        (f"{TOKEN}\n{TOKEN}\n", "not a token: it has spaces, several lines"),
        (f"Bearer {TOKEN}", "not a token: it has spaces"),
        (f"{TOKEN}\xe9", "not a token"),
        (TOKEN.encode() + b"\xff\x00", "not a token"),
        (TOKEN * 200, "larger than 4 KiB"),
    ],
)
def test_what_is_no_token_is_refused_unseen(tmp_path: Path, content: str | bytes, problem: str) -> None:
    """The error names the file, and shows nothing of what is in it."""
    path = secret_file(tmp_path / "token", content)

    for api, environ in ((ApiSettings(token_file=path), {}), (ApiSettings(), {"AURA_TOKEN_FILE": path})):
        with pytest.raises(ConfigError, match=problem) as raised:
            find_token(api, environ)
        assert path in str(raised.value)
        assert "0123456789abcdef" not in str(raised.value)


def test_a_token_in_place_of_its_file_is_not_shown() -> None:
    """A common mistake: the token itself where its path belongs."""
    for api, environ in ((ApiSettings(token_file=TOKEN), {}), (ApiSettings(), {"AURA_TOKEN_FILE": TOKEN})):
        with pytest.raises(ConfigError, match="No such file") as raised:
            find_token(api, environ)
        assert "0123456789abcdef" not in str(raised.value)


def test_a_token_file_that_is_no_file_does_not_hold_us_up(tmp_path: Path) -> None:
    """A FIFO without a writer would block for ever."""
    os.mkfifo(tmp_path / "fifo")

    for path, problem in ((tmp_path / "fifo", "it is not a regular file"), (tmp_path, "it is not a regular file")):
        with pytest.raises(ConfigError, match=problem):
            find_token(ApiSettings(token_file=str(path)), {})


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_token_that_everybody_can_read_is_warned_of(tmp_path: Path, mode: int, warned: bool) -> None:
    """It is taken all the same."""
    heard: list[str] = []
    path = secret_file(tmp_path / "token", TOKEN, mode)

    assert find_token(ApiSettings(token_file=path), {}, warn=heard.append) == Secret(TOKEN)
    assert heard == ([f"api.token_file: everybody on this host can read {path}; chmod 600 it"] if warned else [])


def test_the_base_url_comes_from_the_variable_first() -> None:
    """A slash at the end makes no difference."""
    api = ApiSettings(base_url="https://a.example/api/")

    assert base_url(ApiSettings(), {}) == DEFAULT_BASE_URL
    assert base_url(api, {"AURA_API_URL": ""}) == "https://a.example/api"
    assert base_url(api, {"AURA_API_URL": "https://b.example/x//"}) == "https://b.example/x"


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080/api", "http://127.9.9.9", "http://[::1]:80/x", "http://localhost:1", "http://LOCALHOST./"],
)
def test_plain_http_is_for_loopback(url: str) -> None:
    """What can only be this host needs no encryption."""
    assert base_url(ApiSettings(base_url=url), {}) == url.rstrip("/")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://aura.example/api", "set allow_insecure = true"),
        ("http://localhost.example/api", "set allow_insecure = true"),
        ("http://127.0.0.1.example/api", "set allow_insecure = true"),
        ("http://127.1@aura.example/api", "user or password"),
        ("https://me:hunter2@aura.example", "user or password"),
        ("https://aura.example/?key=hunter2", "no query"),
        ("aura.example/api", "not a URL"),
        ("ftp://aura.example", "not a URL"),
        ("https://", "not a URL"),
        ("https://aura.example:port/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://aura.example/a b", "not a URL"),
    ],
)
def test_a_base_url_that_will_not_do_is_refused_unseen(url: str, problem: str) -> None:
    """In the file as in the variable; the text doesn't hold the URL, which may hold a password."""
    for api, environ, source in (
        (ApiSettings(base_url=url), {}, "api.base_url"),
        (ApiSettings(), {"AURA_API_URL": url}, "AURA_API_URL"),
    ):
        with pytest.raises(ConfigError, match=problem) as raised:
            base_url(api, environ)
        assert str(raised.value).startswith(f"{source}: ")
        assert "hunter2" not in str(raised.value)
        assert "example" not in str(raised.value)


def test_plain_http_to_others_can_be_allowed() -> None:
    """Behind a proxy that adds the encryption it is right."""
    assert base_url(ApiSettings(base_url="http://proxy:3128/x", allow_insecure=True), {}) == "http://proxy:3128/x"


def test_store_and_socket_follow_variable_config_and_user() -> None:
    """Root's store is the daemon's; everybody else has one of their own."""
    home = {"HOME": "/home/me"}

    assert state_dir({"AURA_STATE_DIR": "/a"}, "/b", 0) == "/a"
    assert state_dir({"AURA_STATE_DIR": ""}, "/b", 1000) == "/b"
    assert state_dir(home, None, 0) == "/var/lib/aura-agent"
    assert state_dir(home, None, 1000) == "/home/me/.local/state/aura-agent"
    assert state_dir(home | {"XDG_STATE_HOME": "/s"}, None, 1000) == "/s/aura-agent"
    assert socket_path({"AURA_SOCKET": "/a"}, "/b") == "/a"
    assert socket_path({"AURA_SOCKET": ""}, "/b") == "/b"
    assert socket_path({}, None) == "/run/aura-agent/agent.sock"


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:8787", ("127.0.0.1", 8787)), ("[::1]:0", ("::1", 0)), ("localhost:80", ("localhost", 80))],
)
def test_an_address_to_listen_on_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    """IPv6 addresses stand in brackets, which are no part of them."""
    assert parse_listen(text) == address
    assert is_loopback(address[0])


@pytest.mark.parametrize("text", ["", ":8787", "::1:8787", "127.0.0.1", "127.0.0.1:http", "1.2.3:80", "[::1]", "a b:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """With what to write instead."""
    with pytest.raises(ValueError, match="write"):
        parse_listen(text)
