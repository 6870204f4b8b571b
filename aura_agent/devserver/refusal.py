"""The error envelope: how the API says no. Every answer that isn't 2xx carries it."""

import secrets
from collections.abc import Mapping

import msgspec
from starlette.responses import Response

# The reference's codes, and the two that HTTP itself needs.
CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "payload_too_large",
    429: "rate_limited",
    500: "internal_error",
}


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong: one of the reference's codes, a sentence, and what to quote to support."""

    code: str
    message: str
    request_id: str


class Envelope(msgspec.Struct, frozen=True):
    """The body of every answer that isn't 2xx."""

    error: ErrorDetail


class Refusal(Exception):  # an answer, not a failure of ours
    """The request gets *status* and an envelope with *message*."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.message, self.headers = status, message, dict(headers or {})
        super().__init__(message)

    def response(self) -> Response:
        return Response(envelope(self.status, self.message), self.status, self.headers, "application/json")


def envelope(status: int, message: str) -> bytes:
    """Return the body for *status*."""
    code = CODES.get(status, "internal_error" if status >= 500 else "bad_request")
    request_id = f"req_{secrets.token_hex(13).upper()}"
    return msgspec.json.encode(Envelope(ErrorDetail(code, message, request_id)))


def not_found(what: str) -> Refusal:
    return Refusal(404, f"{what} not found")
