"""Keys and certificates of a lab whose API server asks who one is; made by `openssl`, and gone with the lab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from k8sovs.lab.netns import run

ADMIN: Final = "/O=system:masters/CN=lab-admin"
"""To Kubernetes, whose group is in O and whose name is in CN, somebody who may do everything."""

_DAYS: Final = "3650"
_NEW_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_EXTENSIONS: Final = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[member]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""


@dataclass(frozen=True, slots=True)
class Pki:
    """The files, all in one directory."""

    directory: Path

    @property
    def authority(self) -> Path:
        """The certificate by which all others are known."""
        return self.directory / "ca.crt"

    def certificate(self, name: str) -> Path:
        """That of `name`: server or admin."""
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        """The private key of `name`: server, admin, or accounts, which signs the tokens of service accounts."""
        return self.directory / f"{name}.key"


def create(directory: Path, server_names: Sequence[str]) -> Pki:
    """Make everything; `server_names` are the names of the server, as `IP:192.0.2.2` or `DNS:localhost`. LabError."""
    pki = Pki(directory)
    directory.mkdir(mode=0o700)
    config = directory / "openssl.cnf"
    config.write_text(_EXTENSIONS.format(names=", ".join(server_names)))
    _certify(pki, config, "ca", "/CN=k8sovs-lab", "-extensions", "authority")
    signed = ("-extensions", "member", "-CA", str(pki.authority), "-CAkey", str(pki.key("ca")))
    _certify(pki, config, "server", "/CN=kube-apiserver", *signed)
    _certify(pki, config, "admin", ADMIN, *signed)
    run("openssl", "genrsa", "-out", str(pki.key("accounts")), "2048")
    return pki


def _certify(pki: Pki, config: Path, name: str, subject: str, *how: str) -> None:
    files = ("-keyout", str(pki.key(name)), "-out", str(pki.certificate(name)))
    run("openssl", "req", "-x509", "-config", str(config), *_NEW_KEY, "-days", _DAYS, "-subj", subject, *files, *how)
