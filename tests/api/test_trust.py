"""Which certificates are trusted, found out with real files, FIFOs and directories."""

import os
import ssl
import subprocess
from pathlib import Path

import pytest

from aura_agent.api.trust import TrustStore
from tests.faults.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def bundle(authority: Authority) -> str:
    return str(authority.home / "ca.pem")


def _store(environ: dict[str, str], *bundles: str, directories: tuple[str, ...] = ()) -> TrustStore:
    return TrustStore(environ, bundles=bundles, directories=directories, fallback=lambda: None)


def _names(store: TrustStore) -> list[str]:
    return [dict(part[0] for part in ca["subject"])["commonName"] for ca in store.context().get_ca_certs()]  # type: ignore[misc]


def test_first_bundle_of_the_host_that_can_be_read_is_taken(bundle: str, tmp_path: Path) -> None:
    """A missing, an empty and a broken one are passed over, as a host may have any of them."""
    (tmp_path / "empty.pem").touch()
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n")
    others = [str(tmp_path / name) for name in ("missing.pem", "empty.pem", "broken.pem", "")]
    store = _store({}, *others, bundle)

    assert _names(store) == ["test authority"]
    assert (store.unusable, store.problem) == ((), "")


def test_package_is_the_fallback_where_the_host_has_none(bundle: str) -> None:
    store = TrustStore({}, bundles=("/nonexistent",), directories=(), fallback=lambda: bundle)

    assert _names(store) == ["test authority"]


def test_host_without_any_certificates_still_gets_a_context() -> None:
    """It trusts nobody, and says what to do."""
    store = _store({}, "/nonexistent")

    assert store.context().get_ca_certs() == []
    assert "install ca-certificates" in store.problem
    assert store.context().verify_mode is ssl.CERT_REQUIRED


def test_this_hosts_own_store_or_the_package_is_found() -> None:
    store = TrustStore({})
    store.context()

    assert (store.unusable, store.problem) == ((), "")


@pytest.mark.parametrize("kind", ["missing", "empty", "directory", "fifo", "forbidden"])
def test_ssl_cert_file_that_cannot_be_loaded_is_named_and_left_out(kind: str, bundle: str, tmp_path: Path) -> None:
    """The host's store serves. A FIFO isn't opened: that would wait for whoever writes to it."""
    path = tmp_path / kind
    if kind == "empty":
        path.touch()
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "forbidden":
        path = tmp_path / ("x" * 300)  # ENAMETOOLONG stands for any error that the kernel may have
    store = _store({"SSL_CERT_FILE": str(path)}, bundle)

    assert _names(store) == ["test authority"]
    assert [(entry.variable, entry.text) for entry in store.unusable] == [("SSL_CERT_FILE", str(path))]


def test_variables_replace_the_hosts_store(authority: Authority, bundle: str, tmp_path: Path) -> None:
    own = Authority.create(tmp_path)
    store = _store({"SSL_CERT_FILE": str(own.home / "ca.pem")}, bundle)

    (certificate,) = store.context().get_ca_certs(binary_form=True)
    assert certificate == ssl.PEM_cert_to_DER_cert((own.home / "ca.pem").read_text())


def test_each_directory_of_ssl_cert_dir_counts_alone(bundle: str, tmp_path: Path) -> None:
    """One that is missing and one without hashed names are named; the third is used, and the host's store isn't."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "ca.pem").write_text(Path(bundle).read_text())
    (tmp_path / "hashed").mkdir()
    (tmp_path / "hashed" / "ca.pem").write_text(Path(bundle).read_text())
    subprocess.run(["openssl", "rehash", tmp_path / "hashed"], check=True)
    paths = [str(tmp_path / name) for name in ("missing", "plain", "hashed")]
    store = _store({"SSL_CERT_DIR": os.pathsep.join(paths)}, bundle)
    store.context()

    assert [(entry.variable, entry.text) for entry in store.unusable] == [("SSL_CERT_DIR", path) for path in paths[:2]]
    assert _names(store) == []  # looked up when a certificate asks for it


@pytest.mark.parametrize("path", ["/nonexistent/keys", "/dev/full/keys", "FIFO"])
def test_sslkeylogfile_that_cannot_be_written_is_left_out(path: str, bundle: str, tmp_path: Path) -> None:
    if path == "FIFO":
        path = str(tmp_path / "fifo")
        os.mkfifo(path)
    store = _store({"SSLKEYLOGFILE": path}, bundle)

    assert _names(store) == ["test authority"]
    assert [(entry.variable, entry.text) for entry in store.unusable] == [("SSLKEYLOGFILE", path)]


def test_file_that_is_mended_counts_without_a_restart(bundle: str, tmp_path: Path) -> None:
    """Looked at again when a certificate was refused, and only read if it has changed."""
    path = tmp_path / "late.pem"
    store = _store({"SSL_CERT_FILE": str(path)})
    assert _names(store) == []
    path.write_text(Path(bundle).read_text())

    store.look_again()

    assert _names(store) == ["test authority"]
    assert (store.unusable, store.problem) == ((), "")
