"""What aura-run loads when a daemon is there: next to nothing."""

import subprocess
import sys

from tests.e2e.sites import Site
from tests.waiting import wait_until

_TELL = """
import os, sys
leave = os._exit
def tell(status):
    os.write(1, " ".join(sorted(sys.modules)).encode())
    leave(status)
os._exit = tell
from aura_agent.wrapper.main import main
main()
"""
_HEAVY = {
    *("httpx", "structlog", "asyncio", "click", "sqlite3", "msgspec", "rich", "psutil", "tomllib"),
    *("json", "re", "socket", "signal", "subprocess", "typing", "dataclasses", "datetime", "logging", "threading"),
}


def test_with_a_daemon_nothing_heavy_is_imported(site: Site) -> None:
    """Neither HTTP client nor log library nor event loop nor command line library, with and without a heartbeat named."""
    site.server.create_heartbeat("true")
    site.extra["AURA_SOCKET"] = f"{site.home}/run/agent.sock"
    site.start()
    bare = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, check=True)
    for number, arguments in enumerate((["-H", "true"], []), 1):
        ended = subprocess.run(
            [sys.executable, "-c", _TELL, *arguments, "--", "true"],
            env=site.environment | {"AURA_CONFIG": ""},
            capture_output=True,
            check=True,
        )
        imported = set(ended.stdout.decode().split())
        assert "aura_agent.wrapper.daemon" in imported
        assert imported & (_HEAVY - set(bare.stdout.decode().split())) == set()
        wait_until(lambda number=number: len(site.server.pings("true")) == number)  # type: ignore[misc]
