"""Load what the daemon would otherwise import only when needed: an upgrade may remove or replace the files before.

It takes memory that an idle daemon wouldn't need, so HTTP for the control socket stays out: without it commands fail,
and nothing else.
"""

from collections.abc import Callable

from aura_agent.background_thread import run_in_thread
from aura_agent.config.models import Config

_ALWAYS = (
    *("anyio._backends._asyncio", "httpcore._backends.anyio", "encodings.idna", "json", "stringprep"),  # a request's
    *("aura_agent.watch.expect", "aura_agent.watch.process", "aura_agent.process.tree"),
)


def load_late_modules(config: Config, loaded: Callable[[], None] = lambda: None) -> None:
    """Begin to load them in a thread; *loaded* is called when that is done. For the event loop's thread."""
    names = [*_ALWAYS, "aura_agent.config.changes"] if config.agent.reload_on_change else list(_ALWAYS)
    run_in_thread(lambda: _load(names), "late modules").add_done_callback(lambda _: loaded())


def _load(names: list[str]) -> None:
    for name in names:
        try:
            __import__(name)
        except Exception:  # noqa: BLE001, S112  # whoever needs it says so
            continue
