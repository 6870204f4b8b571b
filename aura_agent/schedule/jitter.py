"""A delay that spreads a fleet over time and stays the same for one job on one host."""

from hashlib import sha256


def stable_jitter_s(host: str, job: str, max_s: float) -> float:
    """Return a delay in [0, max_s) that depends on *host* and *job* alone."""
    digest = sha256(f"{host}\0{job}".encode()).digest()
    return int.from_bytes(digest[:6]) / (1 << 48) * max_s
