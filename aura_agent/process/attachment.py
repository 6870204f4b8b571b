"""What of a job's output goes with its ping: the end of it, without what must not leave the host."""

from collections.abc import Sequence

from aura_agent.process.tail import Tail, marked
from aura_agent.report.redaction import redact

LEFT_OUT = "[the output is left out: the patterns of [attach] redact can't be applied to it]\n"


def attachment(tail: Tail, max_bytes: int, patterns: Sequence[str] | None) -> bytes:
    """Return the last *max_bytes* of *tail* as the body of a ping; a first line tells what is missing.

    *tail* keeps CONTEXT_BYTES more than that. None for *patterns*: nobody knows them, so nothing of the output may be
    sent; nor if one of them is wrong or too slow. For the main thread.
    """
    if patterns is None:
        return LEFT_OUT.encode()
    context, text, missing_bytes = tail.ending(max_bytes)
    if patterns:
        try:
            text = redact(text, patterns, context)
        except (TimeoutError, ValueError):
            return LEFT_OUT.encode()
    return marked(text, missing_bytes).encode()
