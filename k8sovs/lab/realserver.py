"""Kubernetes' own API server, from the binaries of a directory, in place of the embedded one.

The directory is the one that KUBEBUILDER_ASSETS names in many projects: `kube-apiserver` must be in it;
`kube-controller-manager`, if it is there, takes over from our small controllers; `etcd` may be, else the machine's is
taken. Whoever talks to this server needs a certificate of the lab's `Pki` or a service account's token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import yaml

from k8sovs.kubernetes import (
    AlreadyExists,
    ClusterRole,
    ClusterRoleBinding,
    Kubernetes,
    Resource,
    ServiceAccount,
    from_document,
)
from k8sovs.lab.layout import SERVICE_NETWORK
from k8sovs.lab.pki import Pki

RBAC: Final = Path(__file__).parents[2] / "deploy" / "kustomize" / "rbac.yaml"
"""The roles that we ship."""

ACCOUNT_NAMESPACE: Final = "kube-system"
ACCOUNTS: Final = {"controller": "k8s-ovs-controller", "agent": "k8s-ovs-agent"}
"""Which service account each of our daemons has."""

SERVER_NAMES: Final = ("IP:127.0.0.1", "DNS:localhost", "DNS:kubernetes.default.svc", f"IP:{SERVICE_NETWORK[1]}")
"""Names by which the server may be called beside its address."""

_KINDS: Final[Mapping[str, type[Resource]]] = {
    "ServiceAccount": ServiceAccount,
    "ClusterRole": ClusterRole,
    "ClusterRoleBinding": ClusterRoleBinding,
}
CONTROLLERS: Final = (
    *("namespace", "serviceaccount", "garbagecollector", "root-ca-cert-publisher"),
    *("deployment", "replicaset", "statefulset", "job", "endpoint", "endpointslice"),
)
"""Not those that judge nodes: the lab's kubelets send no heartbeats."""


@dataclass(frozen=True, slots=True)
class RealServer:
    """The commands; all processes run in one network namespace."""

    assets: Path
    directory: Path
    """where they keep their files"""
    pki: Pki
    address: IPv4Address
    port: int
    etcd_port: int
    controllers: tuple[str, ...] = CONTROLLERS
    """which of the controller manager's"""

    @property
    def manages_itself(self) -> bool:
        """Whether there is a controller manager."""
        return self._binary("kube-controller-manager").exists()

    def etcd(self) -> tuple[str, ...]:
        """The store of its objects, apart from the one of ours."""
        binary = self._binary("etcd")
        return (
            *(str(binary) if binary.exists() else "etcd", "--name=kubernetes", "--log-level=warn", "--unsafe-no-fsync"),
            f"--data-dir={self.directory / 'kubernetes-etcd'}",
            *(f"--listen-client-urls={self._etcd_url}", f"--advertise-client-urls={self._etcd_url}"),
            f"--listen-peer-urls=http://127.0.0.1:{self.etcd_port + 1}",
        )

    def apiserver(self) -> tuple[str, ...]:
        """The API server. Pods need no service account in it: nobody would make one in time."""
        pki = self.pki
        return (
            *(str(self._binary("kube-apiserver")), f"--etcd-servers={self._etcd_url}"),
            *(f"--bind-address={self.address}", f"--secure-port={self.port}", f"--advertise-address={self.address}"),
            *(f"--tls-cert-file={pki.certificate('server')}", f"--tls-private-key-file={pki.key('server')}"),
            *(f"--client-ca-file={pki.authority}", "--authorization-mode=RBAC"),
            *("--service-account-issuer=https://kubernetes.default.svc", "--api-audiences=kubernetes"),
            f"--service-account-key-file={pki.key('accounts')}",
            f"--service-account-signing-key-file={pki.key('accounts')}",
            *(f"--service-cluster-ip-range={SERVICE_NETWORK}", "--endpoint-reconciler-type=none"),
            "--disable-admission-plugins=ServiceAccount",
        )

    def controller_manager(self, kubeconfig: Path) -> tuple[str, ...]:
        """The controller manager, with the rights of `kubeconfig`."""
        return (
            *(str(self._binary("kube-controller-manager")), f"--kubeconfig={kubeconfig}", "--leader-elect=false"),
            *(f"--controllers={','.join(self.controllers)}", "--bind-address=127.0.0.1"),
            f"--secure-port={self.port + 1}",
            f"--service-account-private-key-file={self.pki.key('accounts')}",
            f"--root-ca-file={self.pki.authority}",
        )

    @property
    def _etcd_url(self) -> str:
        return f"http://127.0.0.1:{self.etcd_port}"

    def _binary(self, name: str) -> Path:
        return self.assets / name


async def install_roles(kubernetes: Kubernetes) -> None:
    """Create the service accounts, roles and bindings that we ship, where they are missing. KubernetesError."""
    for document in yaml.safe_load_all(RBAC.read_text()):
        try:
            await kubernetes.create(from_document(document, _KINDS[document["kind"]]))
        except AlreadyExists:
            continue


def by_certificate(pki: Pki, name: str) -> dict[str, str]:
    """The `user` of a kubeconfig who has a certificate."""
    return {"client-certificate": str(pki.certificate(name)), "client-key": str(pki.key(name))}


async def by_token(kubernetes: Kubernetes, account: str) -> dict[str, str]:
    """The `user` of a kubeconfig who is one of our service accounts. KubernetesError."""
    return {"token": await kubernetes.create_token(ACCOUNT_NAMESPACE, account)}
