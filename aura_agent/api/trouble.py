"""Why no answer came: one word for code and log keys, one phrase for people. Pure, and free of httpx."""

from enum import StrEnum


class Trouble(StrEnum):
    """What kept a request from being answered."""

    BAD_URL = "bad_url"
    INSECURE_URL = "insecure_url"
    DNS = "dns"
    REFUSED = "refused"
    CONNECT = "connect"
    TLS = "tls"
    TLS_EXPIRED = "tls_expired"
    TLS_NOT_YET_VALID = "tls_not_yet_valid"
    TLS_WRONG_NAME = "tls_wrong_name"
    TLS_UNKNOWN_ISSUER = "tls_unknown_issuer"
    TLS_SETUP = "tls_setup"
    RESET = "reset"
    NETWORK = "network"
    NOT_HTTP = "not_http"
    PROXY = "proxy"
    CONNECT_TIMEOUT = "connect_timeout"
    READ_TIMEOUT = "read_timeout"
    WRITE_TIMEOUT = "write_timeout"
    POOL_TIMEOUT = "pool_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    UNEXPECTED = "unexpected"


TEXTS = {
    Trouble.BAD_URL: "the URL isn't an http(s) URL with a host",
    Trouble.INSECURE_URL: "http:// is refused except on localhost, 127.0.0.1 and ::1: use https, or set allow_insecure",
    Trouble.DNS: "the host name was not found (DNS)",
    Trouble.REFUSED: "connection refused",
    Trouble.CONNECT: "can't connect",
    Trouble.TLS: "TLS failed: the server doesn't speak it, or refuses this client",
    Trouble.TLS_EXPIRED: "the server's certificate has expired, or this host's clock is ahead",
    Trouble.TLS_NOT_YET_VALID: "the server's certificate is not valid yet: is this host's clock behind?",
    Trouble.TLS_WRONG_NAME: "the server's certificate is for another name: check the URL, the DNS and the proxy",
    Trouble.TLS_UNKNOWN_ISSUER: "the certificate is by an unknown issuer: install its CA, or set SSL_CERT_FILE",
    Trouble.TLS_SETUP: "TLS can't be set up on this host: check OpenSSL's configuration",
    Trouble.RESET: "connection reset",
    Trouble.NETWORK: "network error",
    Trouble.NOT_HTTP: "the connection was closed early, or the answer isn't HTTP",
    Trouble.PROXY: "the proxy refused",
    Trouble.CONNECT_TIMEOUT: "timed out while connecting",
    Trouble.READ_TIMEOUT: "timed out waiting for the answer",
    Trouble.WRITE_TIMEOUT: "timed out while sending",
    Trouble.POOL_TIMEOUT: "timed out waiting for a free connection",
    Trouble.TOTAL_TIMEOUT: "timed out",
    Trouble.UNEXPECTED: "unexpected error",
}

# With these nothing of the request can have reached the service.
BEFORE_SENDING = frozenset(
    {
        Trouble.BAD_URL,
        Trouble.INSECURE_URL,
        Trouble.DNS,
        Trouble.REFUSED,
        Trouble.CONNECT,
        Trouble.TLS,
        Trouble.TLS_EXPIRED,
        Trouble.TLS_NOT_YET_VALID,
        Trouble.TLS_WRONG_NAME,
        Trouble.TLS_UNKNOWN_ISSUER,
        Trouble.TLS_SETUP,
        Trouble.PROXY,
        Trouble.CONNECT_TIMEOUT,
        Trouble.POOL_TIMEOUT,
    }
)


def describe(error: str) -> str:
    """Return the phrase for *error*: a Trouble's value, or a text of its own, which is returned as it is."""
    try:
        return TEXTS[Trouble(error)]
    except ValueError:
        return error
