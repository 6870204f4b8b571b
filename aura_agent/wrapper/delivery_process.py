"""Delivery in a process of its own, which ends with us: where the store's disk hangs it may never end, and we do.

Modules that a thread of ours may be importing are imported before the fork: their locks stay locked in there.
"""

import gc
import os
from select import PIPE_BUF
from time import monotonic

from aura_agent.process.subreaper import die_with_parent
from aura_agent.wrapper.warnings import begin_anew, flush_lines, print_raw, warn

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable

    from aura_agent.wrapper.reporting import Delivery
else:
    import _signal

_LEEWAY_S = 0.5


def deliver_apart(what: "Delivery", work: "Callable[[], None]") -> None:
    """Have *work* done, and wait for it: delivery and hooks take ``wait_s`` each, delivery from the job's end on.

    SIGALRM then ends us, and with us what still goes on. Raises OSError: there can be no process.
    """
    left_s = max(0.0, what.deadline_s - monotonic()) + _LEEWAY_S
    parent, (reading, writing) = os.getpid(), os.pipe()
    if os.fork() == 0:
        try:
            begin_anew()
            gc.enable()
            os.close(reading)
            if not os.isatty(2):
                os.dup2(writing, 2)  # whoever waits for the end of our stderr doesn't wait for a process that hangs
                os.close(writing)  # on a terminal it stays open: its end tells our parent that we are done
            _signal.setitimer(_signal.ITIMER_REAL, left_s, 1.0)
            if die_with_parent(parent):
                work()
        except BaseException as problem:  # noqa: BLE001  # an upgrade, no memory
            _say(what, problem)
        finally:
            flush_lines()
            os._exit(0)
    _signal.setitimer(_signal.ITIMER_REAL, left_s + (what.options.wait_s if what.calls_hooks else 0.0) + _LEEWAY_S, 1.0)
    os.close(writing)
    while said := os.read(reading, PIPE_BUF):
        print_raw(said)


def _say(what: "Delivery", problem: BaseException) -> None:
    name = f"{type(problem).__name__}{f': {problem.strerror}' if isinstance(problem, OSError) else ''}"
    rest = "; it is queued" if what.path is not None else ""
    warn(what.store, "delivery", f"no ping can be sent now: internal error ({name}){rest}")
