"""What an answer of a ping URL means: a table, and one function that reads it. Pure.

Only 2xx acknowledges. The rest is a question of who can mend it: time (again, with back-off), the API (resolve the
ping URL anew), ourselves (send without the body), or people (parked: one try an hour until the entry expires).
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from aura_agent.api.retry_after import RETRY_AFTER_CAP_S, retry_after_s as parse_retry_after_s
from aura_agent.api.trouble import BEFORE_SENDING, Trouble, describe
from aura_agent.delivery.hosts import Failure


class Verdict(StrEnum):
    """What to do with the entry."""

    DELIVERED = "delivered"
    RETRY = "retry"
    RESOLVE_ANEW = "resolve_anew"
    WITHOUT_BODY = "without_body"
    PARK = "park"


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict, why for people, and how long a Retry-After asks to wait: above 0, at most an hour, else None."""

    verdict: Verdict
    reason: str
    retry_after_s: float | None = None


# First and last status of each row; the first row that has a status decides. They cover 100 to 599.
STATUSES: tuple[tuple[int, int, Verdict, str], ...] = (
    (200, 299, Verdict.DELIVERED, ""),
    (401, 401, Verdict.PARK, "the ping URL wants authorization, which none should: fetch it anew from Aura"),
    (403, 403, Verdict.PARK, "the ping URL is forbidden: is the heartbeat paused or deleted, or a proxy in between?"),
    (404, 404, Verdict.RESOLVE_ANEW, "the ping URL is unknown to the server: was the heartbeat deleted?"),
    (407, 407, Verdict.RETRY, "the proxy wants authorization: check HTTPS_PROXY"),
    (408, 408, Verdict.RETRY, "the server timed out"),
    (410, 410, Verdict.RESOLVE_ANEW, "the ping URL is gone: was the heartbeat deleted?"),
    (413, 413, Verdict.WITHOUT_BODY, "the ping's body is too large for the server"),
    (425, 425, Verdict.RETRY, "too early for the server"),
    (429, 429, Verdict.RETRY, "too many requests"),
    (400, 499, Verdict.PARK, "the server refuses the ping: check the ping URL"),
    (100, 199, Verdict.RETRY, "no final answer"),
    (300, 399, Verdict.RETRY, "redirects aren't followed: check the ping URL, and for a login page in between"),
    (500, 599, Verdict.RETRY, "the server failed"),
)
# The kinds of trouble that time doesn't mend; every other one is tried again.
_TIMED_OUT = frozenset({Trouble.READ_TIMEOUT, Trouble.WRITE_TIMEOUT, Trouble.TOTAL_TIMEOUT})
FOR_PEOPLE = frozenset({Trouble.BAD_URL, Trouble.INSECURE_URL})


def classify(status: int | None, error: str | None, retry_after: str | None, now: datetime) -> Answer:
    """Return what the answer means. *error* says why there is no *status*; *now* is aware, for a Retry-After date.

    A Retry-After counts only where the ping is to be sent again, and one of zero seconds says nothing: what would
    follow it without pause would be a busy loop.
    """
    if status is None:
        error = error or Trouble.UNEXPECTED
        return Answer(Verdict.PARK if error in FOR_PEOPLE else Verdict.RETRY, describe(error))
    verdict, meaning = _meaning(status)
    reason = f"HTTP {status}: {meaning}" if meaning else f"HTTP {status}"
    if verdict is not Verdict.RETRY:
        return Answer(verdict, reason)
    wait_s = parse_retry_after_s(retry_after, now)
    return Answer(verdict, reason, min(RETRY_AFTER_CAP_S, wait_s) if wait_s else None)


def failure_of(error: str | None) -> Failure:
    """Return what an attempt that is to be made again says of its host; *error* says why there was no answer."""
    if error is None:
        return Failure.ERROR
    if error in BEFORE_SENDING:
        return Failure.CONNECT
    return Failure.HANG if error in _TIMED_OUT else Failure.BROKEN


def _meaning(status: int) -> tuple[Verdict, str]:
    for first, last, verdict, meaning in STATUSES:
        if first <= status <= last:
            return verdict, meaning
    return Verdict.RETRY, "no status that HTTP knows"
