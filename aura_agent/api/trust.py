"""Which certificates are trusted: what SSL_CERT_FILE and SSL_CERT_DIR name, else the host's store, else certifi's.

The ``truststore`` package does nearly that, but reads the bundle anew for each handshake, and knows no fallback.
What can't be loaded is left out and named. Files are looked at again when a certificate was refused: a bundle may have
been mended, updated or mounted since.
"""

import os
import re
import ssl
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress

from aura_agent.api.proxies import Unusable

# Debian, Ubuntu, Arch, Gentoo; Fedora, RHEL, and its older name; SUSE; Alpine; OpenELEC. As in Go's crypto/x509.
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/cacert.pem",
)
DIRECTORIES = ("/etc/ssl/certs", "/etc/pki/tls/certs")
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")  # as openssl-rehash(1) names certificates


class TrustStore:
    """The TLS context of this process, made when it is first asked for. Not for several threads at once.

    *bundles*, *directories* and *fallback* say where a host may have its certificates.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        bundles: tuple[str, ...] = BUNDLES,
        directories: tuple[str, ...] = DIRECTORIES,
        fallback: Callable[[], str | None] | None = None,
    ) -> None:
        self._environ = environ
        self._bundles = bundles
        self._directories = directories
        self._fallback = _certifi if fallback is None else fallback
        self._context: ssl.SSLContext | None = None
        self._loaded: tuple[object, ...] = ()
        self.unusable: tuple[Unusable, ...] = ()
        self.problem = ""  # that nothing is trusted at all

    def context(self) -> ssl.SSLContext:
        """Return the context. Raises ssl.SSLError: OpenSSL itself can't be used, as with a broken openssl.cnf."""
        if self._context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST
            self._load(context)
            self._context = context
        return self._context

    def look_again(self) -> None:
        """Load what has changed since; call it when a certificate was refused."""
        if self._context is not None and self._state() != self._loaded:
            self._load(self._context)

    def _load(self, context: ssl.SSLContext) -> None:
        self._loaded, self.problem = self._state(), ""
        unusable: list[Unusable] = []
        self._log_keys(context, unusable)
        if not self._load_named(context, unusable):
            self._load_of_host(context)
        self.unusable = tuple(unusable)

    def _log_keys(self, context: ssl.SSLContext, unusable: list[Unusable]) -> None:
        path = self._environ.get("SSLKEYLOGFILE")
        if not path:
            return
        problem = _no_regular_file(path) if os.path.lexists(path) else ""
        if not problem:
            try:
                context.keylog_filename = path
            except (OSError, ValueError) as exc:
                problem = _reason(exc)
        if problem:
            unusable.append(Unusable("SSLKEYLOGFILE", path, problem))

    def _load_named(self, context: ssl.SSLContext, unusable: list[Unusable]) -> bool:
        """Load what the variables name; return whether that was anything."""
        found = False
        file = self._environ.get("SSL_CERT_FILE")
        if file:
            problem = _load_bundle(context, file)
            found = not problem
            if problem:
                unusable.append(Unusable("SSL_CERT_FILE", file, problem))
        for directory in filter(None, self._environ.get("SSL_CERT_DIR", "").split(os.pathsep)):
            problem = _load_directory(context, directory)
            found = found or not problem
            if problem:
                unusable.append(Unusable("SSL_CERT_DIR", directory, problem))
        return found

    def _load_of_host(self, context: ssl.SSLContext) -> None:
        for bundle in self._bundles:
            if not _load_bundle(context, bundle):
                return
        for directory in self._directories:
            if not _load_directory(context, directory):
                return
        bundle_of_package = self._fallback()
        if bundle_of_package is None or _load_bundle(context, bundle_of_package):
            self.problem = "no trusted certificates found on this host: install ca-certificates, or set SSL_CERT_FILE"

    def _state(self) -> tuple[object, ...]:
        """Return what changes when one of the files does."""
        named = [self._environ.get(name, "") for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")]
        paths = [*filter(None, os.pathsep.join(named[:2]).split(os.pathsep)), *self._bundles, *self._directories]
        return tuple(_stamp(path) for path in paths)


def _load_bundle(context: ssl.SSLContext, path: str) -> str:
    """Load the certificates in the file *path*; return why that can't be done, empty if it is done."""
    try:
        problem = _no_regular_file(path)
        if not problem:
            context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as exc:
        return _reason(exc)
    return problem


def _load_directory(context: ssl.SSLContext, path: str) -> str:
    """Let OpenSSL look certificates up in the directory *path*; return why that is of no use, empty if it is."""
    try:
        if not any(_HASHED.fullmatch(name) for name in os.listdir(path)):
            return "no certificates named by their hash, see openssl-rehash(1)"
        context.load_verify_locations(capath=path)
    except (OSError, ValueError) as exc:
        return _reason(exc)
    return ""


def _no_regular_file(path: str) -> str:
    """Return why *path* can't be read without waiting for somebody. Raises OSError."""
    return "" if stat.S_ISREG(os.stat(path).st_mode) else "not a regular file"


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError):  # an OSError, too
        return "no certificates in it"
    return (exc.strerror if isinstance(exc, OSError) else None) or type(exc).__name__


def _stamp(path: str) -> tuple[int, ...] | None:
    with suppress(OSError, ValueError):
        found = os.stat(path)
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    return None


def _certifi() -> str | None:
    try:
        from certifi import where

        return where()
    except Exception:  # noqa: BLE001  # a distribution may have patched it to a file that isn't there
        return None
