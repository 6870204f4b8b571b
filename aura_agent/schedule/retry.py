"""How long a run that failed waits for its repetition. Pure, and without an import: aura-run uses it, too."""


def retry_delay_s(repetition: int, first_s: float, backoff: float, max_s: float) -> float:
    """Return the wait before the *repetition*-th repetition, 1 being the first.

    Each is *backoff* times as long as the one before, up to *max_s*, but never shorter than *first_s*.
    """
    try:
        grown_s = first_s * backoff ** (repetition - 1)
    except OverflowError:
        grown_s = max_s
    return max(first_s, min(grown_s, max_s))


def all_retries_s(retries: int, first_s: float, backoff: float, max_s: float) -> float:
    """Return what the waits before *retries* repetitions come to."""
    return sum(retry_delay_s(repetition, first_s, backoff, max_s) for repetition in range(1, retries + 1))
