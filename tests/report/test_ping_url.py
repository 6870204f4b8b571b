"""One spelling for all that mean the same request to a ping URL."""

import pytest

from aura_agent.report.ping_url import canonical

_SAME = "https://u:Pw@aura.example/Ping/Xy?a=B"


@pytest.mark.parametrize(
    "spelling",
    [
        _SAME,
        "HTTPS://u:Pw@Aura.Example/Ping/Xy?a=B",
        "https://u:Pw@aura.example:443/Ping/Xy?a=B",
        "https://u:Pw@aura.example:/Ping/Xy?a=B#nightly",
    ],
)
def test_spellings_of_one_url_are_one(spelling: str) -> None:
    assert canonical(spelling) == _SAME


@pytest.mark.parametrize(
    ("url", "canonical_url"),
    [
        ("http://aura.example:80", "http://aura.example/"),
        ("http://aura.example?x", "http://aura.example/?x"),
        ("http://aura.example:443/x", "http://aura.example:443/x"),
        ("https://[::80]/x//Y/", "https://[::80]/x//Y/"),
        ("https://[::1]:443/x#a/b?c", "https://[::1]/x"),
    ],
)
def test_what_makes_another_request_stays(url: str, canonical_url: str) -> None:
    assert canonical(url) == canonical_url
