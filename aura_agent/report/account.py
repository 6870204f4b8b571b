"""Whose credentials are in use, named without the token: for the store's scopes, the API budget and reports.

A token is random and long, so a plain SHA-256 of it can't be reversed by guessing; slow key derivation would add
nothing.
"""

from typing import NamedTuple

from aura_agent.secret import Secret


class Account(NamedTuple):
    """One token at one API. *fingerprint* names the pair, *token_digest* the token alone."""

    fingerprint: str
    base_url: str
    token_digest: str


def account_of(base_url: str, token: Secret) -> Account:
    """Return how *token* at *base_url* is named."""
    from hashlib import sha256  # late: aura-run needs it only after its job, and only without a daemon

    text = token.reveal()
    return Account(
        fingerprint=sha256(f"{base_url}\n{text}".encode()).hexdigest()[:32],
        base_url=base_url,
        token_digest=sha256(text.encode()).hexdigest()[:32],
    )
