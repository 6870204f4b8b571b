"""docs/api-client.md: its example runs as it stands, and it leaves no name out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import aura_agent.api
from aura_agent.api import ApiError, AuraClient
from aura_agent.devserver.threaded import ThreadedDevServer

_PAGE = Path(__file__).parents[2] / "docs/api-client.md"


def test_the_documented_example_runs(tmp_path: Path) -> None:
    """Copied out of the page into a file, against an embedded Aura: it creates, changes, lists and deletes."""
    [example] = re.findall(r"```python\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example)
    with ThreadedDevServer() as server:
        server.create_heartbeat("other", 60, 60)
        ran = subprocess.run(
            [sys.executable, str(script)],
            env={"PATH": os.environ["PATH"], "AURA_API_URL": server.base_url, "AURA_TOKEN": server.token},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        asked = [(request.method, request.status) for request in server.requests()]

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == ["nightly-backup pending 86400.0", "other pending 60.0"]
    assert asked == [("POST", 201), ("PATCH", 200), ("GET", 200), ("DELETE", 204)]


def test_every_public_name_is_on_the_page() -> None:
    """Exceptions, and the client's methods for what isn't like another resource's."""
    page = _PAGE.read_text(encoding="utf-8")
    public = {name: getattr(aura_agent.api, name) for name in aura_agent.api.__all__}
    errors = {name for name, value in public.items() if isinstance(value, type) and issubclass(value, ApiError)}
    methods = {name for name in vars(AuraClient) if not name.startswith("_") and name not in ("aclose", "budget")}
    documented = {name.replace("heartbeat", "monitor") for name in methods}

    assert [name for name in sorted(errors | documented) if f"`{name}`" not in page] == []
