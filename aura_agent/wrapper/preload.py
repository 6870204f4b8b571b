"""Load what the end of a run needs while the job still runs: an upgrade may replace or remove the files meanwhile.

What can't be loaded now is tried again when it is needed. Delivery is not part of this: it costs much, and without it
the report waits in the queue.
"""

import _thread

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from aura_agent.wrapper.options import Options

_ALWAYS = (
    "resource",
    "aura_agent.wrapper.daemon",
    "aura_agent.wrapper.warnings",
    "aura_agent.wrapper.record_keeper",
    "aura_agent.wrapper.helper_channel",
    "aura_agent.report.started",
)


def load_in_background(options: "Options") -> None:
    """Load it in a thread: the main one hears signals meanwhile."""
    try:
        _thread.start_new_thread(_load, (_modules(options),))
    except RuntimeError:
        _load(_modules(options))


def _modules(options: "Options") -> list[str]:
    modules = list(_ALWAYS)
    if options.retry_backoff != 1:
        modules.append("aura_agent.schedule.retry")
    if options.attach == "summary":
        modules.append("aura_agent.units")
    if options.attach == "output":
        modules += ("aura_agent.process.attachment", "re", "signal")
    if options.expect:
        modules.append("aura_agent.wrapper.expectation")
    if options.timeout_s is not None:
        modules.append("aura_agent.wrapper.timeout")
    return modules


def _load(modules: list[str]) -> None:
    for name in modules:
        try:
            __import__(name)
        except BaseException:  # noqa: BLE001, S112  # whoever needs it says so
            continue
