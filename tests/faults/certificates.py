"""Certificates of a CA of our own, made with openssl: good ones, and each way in which one is no good."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_CONFIG = """
[ca]
default_ca = ours
[ours]
dir = {home}
database = {home}/index
new_certs_dir = {home}
certificate = {home}/ca.pem
private_key = {home}/ca.key
serial = {home}/serial
default_md = sha256
policy = any
unique_subject = no
x509_extensions = leaf
copy_extensions = copy
[any]
commonName = supplied
[leaf]
basicConstraints = CA:FALSE
"""


@dataclass(frozen=True)
class Authority:
    """A CA whose files are in *home*; ``home / "ca.pem"`` is what makes its certificates trusted."""

    home: Path

    @classmethod
    def create(cls, home: Path) -> "Authority":
        (home / "openssl.cnf").write_text(_CONFIG.format(home=home))
        (home / "index").touch()
        (home / "serial").write_text("01\n")
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"),
            *("-subj", "/CN=test authority", "-addext", "keyUsage=critical,keyCertSign"),
            *("-keyout", home / "ca.key", "-out", home / "ca.pem"),
        )
        return cls(home)

    def server(self, name: str, *, valid: tuple[str, str] | None = None) -> ssl.SSLContext:
        """Return what serves TLS as *name*, valid from and to these instants (YYYYMMDDHHMMSSZ), or now."""
        key, request, certificate = (self.home / f"{name}.{ending}" for ending in ("key", "csr", "pem"))
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", request),
        )
        dates = ("-startdate", valid[0], "-enddate", valid[1]) if valid else ("-days", "30")
        _openssl(
            *("ca", "-batch", "-notext", "-config", self.home / "openssl.cnf", *dates),
            *("-in", request, "-out", certificate),
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context


def _openssl(*arguments: str | Path) -> None:
    made = subprocess.run(["openssl", *arguments], capture_output=True, check=False)
    assert made.returncode == 0, made.stderr.decode()
