"""When cron's jobs can change hands without a fire time in between. Pure.

cron reads its tables as a minute begins, and starts what is due in it then. Nothing is due in the rest of the minute.
"""

_BEGINS_S = 2.0  # cron, and the daemon, have started what this minute has
_ENDS_S = 50.0  # the change has the rest of the minute


def wait_s(second: float) -> float:
    """Return how long to wait, *second* into a minute, for the quiet part of one."""
    return 0.0 if _BEGINS_S <= second < _ENDS_S else (_BEGINS_S - second) % 60.0
