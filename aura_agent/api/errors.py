"""What can go wrong with the API, one class per row of the reference's table of errors.

    ApiError
    ├── BadRequest         400 bad_request
    ├── Unauthorized       401 unauthorized
    ├── Forbidden          403 forbidden
    ├── NotFound           404 not_found
    ├── Conflict           409 conflict
    ├── RateLimited        429 rate_limited
    │   └── BudgetSpent    it would be refused with 429, so nothing was sent
    ├── InternalError      500 internal_error, and every other 5xx
    ├── ApiUnreachable     no answer came
    ├── ApiGarbled         an answer came that isn't what the contract says: a captive portal, truncated JSON
    └── ApiMisconfigured   base URL or token can't be used; nothing was sent

Names follow the reference's error codes. Texts are one line, quote the server's message and request id,
and hold neither token nor ping URL.
"""

from aura_agent.api.trouble import describe
from aura_agent.errors import AuraError
from aura_agent.units import format_duration


class ApiError(AuraError):
    """The API said no, or could not be asked.

    *code*, *message*, *request_id* are the error envelope's, empty where it had none; *status* is None where no answer
    came; *retry_after_s* is what a Retry-After asked for.
    """

    def __init__(
        self,
        text: str,
        *,
        code: str = "",
        message: str = "",
        request_id: str = "",
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(text)
        self.code, self.message, self.request_id = code, message, request_id
        self.status, self.retry_after_s = status, retry_after_s


class BadRequest(ApiError):
    """400: malformed JSON or failed validation."""


class Unauthorized(ApiError):
    """401: the token is missing, invalid or revoked."""


class Forbidden(ApiError):
    """403: the token's scope, the organization role or team membership forbids it."""


class NotFound(ApiError):
    """404: no such resource in the token's organization."""


class Conflict(ApiError):
    """409: plan limits or constraints are in the way."""


class RateLimited(ApiError):
    """429: over 60 requests in a minute or 1,000 in an hour, counted per token."""


class BudgetSpent(RateLimited):
    """The token's budget lets no request through for the next *wait_s*, so nothing was sent."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(
            f"the token's 60 requests a minute and 1,000 an hour are used up for the next {format_duration(wait_s)}: "
            "nothing was sent",
            code="rate_limited",
            retry_after_s=wait_s,
        )


class InternalError(ApiError):
    """500 and every other 5xx."""


class ApiUnreachable(ApiError):
    """No answer came; *kind* is a Trouble's value, *host* says who was asked.

    *undecided* names a write, such as ``POST /heartbeats``, that may have been done all the same; else it is empty.
    """

    def __init__(self, kind: str, host: str, *, undecided: str = "") -> None:
        self.kind, self.host, self.undecided = kind, host, undecided
        text = f"the Aura API at {host} can't be reached: {describe(kind)}"
        super().__init__(f"{text}; {undecided} may have been done all the same" if undecided else text)


class ApiGarbled(ApiError):
    """An answer that isn't what the contract says."""


class ApiMisconfigured(ApiError):
    """What the client was given can't be used; nothing was sent."""


BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
}
# For a status that the table doesn't have.
BY_CODE: dict[str, type[ApiError]] = {
    "bad_request": BadRequest,
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "not_found": NotFound,
    "conflict": Conflict,
    "rate_limited": RateLimited,
    "internal_error": InternalError,
}


def error_class(status: int, code: str) -> type[ApiError]:
    """Return the class for an answer: by its status where the reference's table has it, else by the envelope's code."""
    if status >= 500:
        return InternalError
    return BY_STATUS.get(status) or BY_CODE.get(code, ApiError)


def likely_cause(status: int, method: str, message: str) -> str:
    """Return what to look at for *status*: for 401 and 403 the likely one of token, scope, role and team, else empty.

    Source: the reference's "Token permissions". The server's *message* decides where it names one of them.
    """
    if status == 401:
        return "token: mistyped, revoked, or of another Aura; create one under Account → API Tokens there"
    if status == 429:
        return "the token's 60 requests a minute or 1,000 an hour are used up, by all hosts that share it"
    if status != 403:
        return ""
    said = message.lower()
    for words, hint in _FORBIDDEN_BY_MESSAGE:
        if any(word in said for word in words):
            return hint
    return _FORBIDDEN_BY_METHOD.get(method, _FORBIDDEN_TO_WRITE)


_TEAM = "team: it belongs to a team that the token's owner isn't a member of"
_SCOPE = "scope: the token is read-only; create one with the scope Read & write"
_ROLE = "role: the organization role of the token's owner doesn't allow it; did the role change?"
_FORBIDDEN_BY_MESSAGE = (
    (("team",), _TEAM),
    (("scope", "read only", "only read", "read-only", "read_only", "readonly"), _SCOPE),
    (("role", "viewer", "member", "permission"), _ROLE),
)
_FORBIDDEN_TO_WRITE = (
    "likely the token's scope (it must be Read & write), else the role of its owner (Owner, Admin or Member), "
    "else the team that it belongs to"
)
_FORBIDDEN_BY_METHOD = {
    "GET": "any token may read, so this is likely a proxy's answer, or the token's organization was changed",
    "DELETE": (
        "likely the token's scope (it must be Read & write), else the role of its owner (only Owner and Admin "
        "may delete), else the team that it belongs to"
    ),
}
