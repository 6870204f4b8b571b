"""Which proxy a URL goes through, and which entries of the variables are left out."""

import pytest
from hypothesis import given, strategies as st

from aura_agent.api.proxies import read_proxies

PROXY = {"HTTPS_PROXY": "http://proxy.example:3128"}


@pytest.mark.parametrize(
    ("entry", "host", "port", "bypasses"),
    [
        ("fd00::/8", "fd12::1", None, True),
        ("fd00::/8", "[fd12::1]", None, True),
        ("fd00::/8", "fe80::1", None, False),
        ("10.0.0.0/8", "10.1.2.3", None, True),
        ("10.0.0.0/8", "11.1.2.3", None, False),
        ("10.0.0.0/8", "ten.example", None, False),
        ("10.1.2.3", "10.1.2.3", None, True),
        ("10.1.2.3:8443", "10.1.2.3", 8443, True),
        ("10.1.2.3:8443", "10.1.2.3", None, False),
        ("[fd12::1]", "fd12::1", None, True),
        ("[fd12::1]:443", "fd12::1", None, True),
        ("fd12::1", "fd12::1", 8443, True),
        ("aura.example", "aura.example", None, True),
        ("aura.example", "api.aura.example", None, True),
        ("aura.example", "notaura.example", None, False),
        ("AURA.example.", "aura.EXAMPLE", None, True),
        (".aura.example", "api.aura.example", None, True),
        (".aura.example", "aura.example", None, False),
        ("*.aura.example", "api.aura.example", None, True),
        ("aura.example:443", "aura.example", None, True),
        ("aura.example:444", "aura.example", None, False),
        ("https://aura.example", "aura.example", None, True),
        ("http://aura.example", "aura.example", None, False),
        ("other.example, aura.example", "aura.example", None, True),
        ("other.example aura.example", "aura.example", None, True),
        ("*", "aura.example", None, True),
    ],
)
def test_no_proxy_entry_covers_what_curl_says(entry: str, host: str, port: int | None, *, bypasses: bool) -> None:
    proxies = read_proxies({**PROXY, "NO_PROXY": entry})

    assert proxies.unusable == ()
    assert proxies.proxy_for("https", host, port) == (None if bypasses else PROXY["HTTPS_PROXY"])


@pytest.mark.parametrize(
    "entry", ["fd00::/200", "10.0.0.0/99", "[fd00::1", "host:99999", "host:port", "a*b.example", "ftp://host", "a@b"]
)
def test_no_proxy_entry_that_means_nothing_is_named_and_the_others_count(entry: str) -> None:
    proxies = read_proxies({**PROXY, "no_proxy": f"one.example,{entry},two.example"})

    assert [(left_out.variable, left_out.text) for left_out in proxies.unusable] == [
        ("no_proxy", entry.replace("a@b", "[redacted]@b"))
    ]
    assert proxies.proxy_for("https", "one.example", None) is None
    assert proxies.proxy_for("https", "two.example", None) is None
    assert proxies.proxy_for("https", "three.example", None) is not None


@pytest.mark.parametrize(
    "value",
    [
        "nonsense://user:hunter2@proxy.example",
        "http://user:hunter2@",
        "http://user:hunter2@proxy.example:port",
        "http://user:hunter2@proxy.example:0",
        "http://user:hunter2@proxy.example:70000",
        "http://user:hun/ter2@proxy.example",
        "socks5://user:hunter2@proxy.example",
        "user:hunter2@[proxy",
        "http://user:hunter2@pro xy.example",
    ],
)
def test_proxy_that_cannot_be_used_is_left_out_without_its_password(value: str) -> None:
    """The next variable that names one counts."""
    proxies = read_proxies({"HTTPS_PROXY": value, "ALL_PROXY": "proxy.example:3128"})

    (left_out,) = proxies.unusable
    assert left_out.variable == "HTTPS_PROXY"
    assert "hunter2" not in str(left_out)
    assert "ter2" not in str(left_out)
    assert proxies.proxy_for("https", "aura.example", None) == "http://proxy.example:3128"


def test_socks_proxy_counts_where_it_can_be_used() -> None:
    proxies = read_proxies({"ALL_PROXY": "socks5h://proxy.example:1080"}, socks=True)

    assert proxies.proxy_for("https", "aura.example", None) == "socks5h://proxy.example:1080"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1"]
)
def test_loopback_is_never_proxied(host: str) -> None:
    proxies = read_proxies({"ALL_PROXY": "http://proxy.example", "HTTP_PROXY": "http://proxy.example"})

    assert proxies.proxy_for("http", host, 8080) is None


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({"https_proxy": "http://lower", "HTTPS_PROXY": "http://upper"}, "http://lower"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://upper"}, None),
        ({"HTTPS_PROXY": "http://one", "ALL_PROXY": "http://all"}, "http://one"),
        ({"all_proxy": "all.example"}, "http://all.example"),
        ({"HTTP_PROXY": "http://one"}, None),
        ({"https_proxy": "http://one", "NO_PROXY": ""}, "http://one"),
    ],
)
def test_variables_count_as_in_urllib(environ: dict[str, str], proxy: str | None) -> None:
    assert read_proxies(environ).proxy_for("https", "aura.example", None) == proxy


def test_http_proxy_of_a_cgi_script_is_the_clients() -> None:
    """The header "Proxy" becomes HTTP_PROXY there."""
    environ = {"HTTP_PROXY": "http://evil.example", "REQUEST_METHOD": "GET"}

    assert read_proxies(environ).proxy_for("http", "aura.example", None) is None


@given(st.dictionaries(st.sampled_from(["http_proxy", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "no_proxy"]), st.text()))
def test_no_value_raises(environ: dict[str, str]) -> None:
    """Any text gives proxies, or entries that are left out; each proxy that is left is one that httpx takes."""
    import httpx

    proxies = read_proxies(environ)
    for scheme in ("http", "https"):
        proxy = proxies.proxy_for(scheme, "aura.example", None)
        assert proxy is None or httpx.Proxy(proxy).url.host
