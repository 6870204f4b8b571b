"""Takes out of a job's output what must not leave the host: whatever ``[attach] redact`` matches.

Pure but for the time that it takes: the patterns are the operator's, and one that backtracks without end must not hold
up whoever waits for the job. A match is replaced whole, wherever it lies across the beginning of what is sent.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

HIDDEN = "[redacted]"
BUDGET_S = 0.5  # for all patterns together; 200 kB and ten sane ones take some milliseconds

TYPE_CHECKING = False  # typing's own costs aura-run an import
if TYPE_CHECKING:
    import re
    from types import FrameType


def compile_pattern(text: str) -> "re.Pattern[str]":
    """Return the regular expression in *text*. Raises ValueError: it is none, or would match nothing at all."""
    import re
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what a later Python may read otherwise: nobody here could mend it
            pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError) as problem:
        raise ValueError(f"not a regular expression: {problem}") from None
    if pattern.match(""):
        raise ValueError("matches an empty text, and so everywhere")
    return pattern


def redact(text: str, patterns: Sequence[str], context: str = "") -> str:
    """Return *text* without what any of *patterns* matches; *context* is what came right before it, and isn't returned.

    For the main thread. Raises TimeoutError: that took longer than BUDGET_S; ValueError: a pattern is wrong.
    """
    whole = context + text
    with _within_budget():
        spans = sorted(match.span() for each in patterns for match in compile_pattern(each).finditer(whole))
    parts: list[str] = []
    at = len(context)
    for start, end in spans:
        if end > at:
            parts += [whole[at:start], HIDDEN if start >= at or not parts else ""]
            at = end
    return "".join(parts) + whole[at:]


@contextmanager
def _within_budget() -> "Iterator[None]":
    """Raise TimeoutError in the block when the budget is used up: re looks for signals as it goes (Modules/_sre)."""
    import signal

    def expire(_signum: int, _frame: "FrameType | None") -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expire)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    timer = signal.setitimer(signal.ITIMER_REAL, BUDGET_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGALRM, before)
