"""Certificates for tests, made by the ``openssl`` program: an authority, and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_DAYS = "2"


class Missing(Exception):
    """There is no ``openssl`` program; the text says what to do."""


@dataclass(frozen=True)
class Signed:
    """PEM files of one subject."""

    certificate: Path
    key: Path
    both: Path
    """Key, certificate and authority in one file, as Kafka's PEM key stores have it."""


class Authority:
    """A certificate authority in a folder.

    Args:
        folder: for its files.
        name: of the authority.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        if shutil.which("openssl") is None:
            raise Missing("openssl is missing: install it (Debian: apt-get install openssl)")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.certificate = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        self._name = name
        _openssl(
            "req", "-x509", *_new_key(self._key), "-subj", f"/CN={name}", "-days", _DAYS,
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-out", self.certificate,
        )  # fmt: skip

    def sign(self, name: str, hosts: Sequence[str] = (), password: str | None = None) -> Signed:
        """A certificate of a subject.

        Args:
            name: the subject.
            hosts: ``DNS:...`` and ``IP:...``.
            password: of the key; None leaves it in the clear.
        """
        key, request, certificate, both = (self._folder / f"{name}.{end}" for end in ("key", "csr", "pem", "both.pem"))
        extensions = self._folder / f"{name}.ext"
        names = f"subjectAltName={','.join(hosts)}\n" if hosts else ""
        extensions.write_text(f"{names}keyUsage=digitalSignature\nauthorityKeyIdentifier=keyid\n")
        _openssl("req", *_new_key(key, password), "-subj", f"/CN={name}", "-out", request)
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-days", _DAYS,
            "-set_serial", str(abs(hash((self._name, name))) + 1), "-extfile", extensions, "-out", certificate,
        )  # fmt: skip
        both.write_text(key.read_text() + certificate.read_text() + self.certificate.read_text())
        return Signed(certificate, key, both)


def _new_key(path: Path, password: str | None = None) -> list[str | Path]:
    secrecy = ["-noenc"] if password is None else ["-passout", f"pass:{password}"]
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *secrecy, "-keyout", path]


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["openssl", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"openssl {arguments[0]}: {done.stderr}"
