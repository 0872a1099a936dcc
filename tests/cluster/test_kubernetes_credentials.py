"""Who our client is to an API server, and which servers it believes: certificates, tokens, a pod's service account."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from k8sovs.kubernetes import Kubernetes, KubernetesError, KubernetesUnavailable, Namespace
from k8sovs.lab import pki
from k8sovs.lab.cluster import write_kubeconfig
from k8sovs.lab.pki import Pki
from k8sovs.lab.realserver import by_certificate
from tests.support.scripted_api import Answer, ScriptedApi

LIST = Answer({"metadata": {"resourceVersion": "1"}, "items": [{"metadata": {"name": "t"}}]})
UNAUTHORIZED = Answer({"kind": "Status", "status": "Failure", "code": 401, "reason": "Unauthorized"}, 401)
IN_A_POD = """
import asyncio
from k8sovs.kubernetes import Kubernetes, Namespace

async def main():
    async with Kubernetes(None) as kubernetes:
        print(*(item.metadata.name for item in await kubernetes.list(Namespace)))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return pki.create(tmp_path_factory.mktemp("keys") / "pki", ("IP:127.0.0.1",))


def tls(keys: Pki, *, asks_for_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=keys.authority)
    context.load_cert_chain(keys.certificate("server"), keys.key("server"))
    context.verify_mode = ssl.CERT_REQUIRED if asks_for_certificate else ssl.CERT_NONE
    return context


def kubeconfig(directory: Path, api: ScriptedApi, keys: Pki | None, user: Mapping[str, str]) -> str:
    path = directory / "kubeconfig"
    write_kubeconfig(path, f"https://127.0.0.1:{api.port}", keys, user)
    return str(path)


async def test_a_client_certificate_is_shown_to_the_server(tmp_path: Path, keys: Pki) -> None:
    async with ScriptedApi(tmp_path, [LIST], tls(keys, asks_for_certificate=True)) as api:
        config = kubeconfig(tmp_path, api, keys, by_certificate(keys, "admin"))
        async with Kubernetes(config) as kubernetes:
            assert len(await kubernetes.list(Namespace)) == 1
        async with Kubernetes(kubeconfig(tmp_path, api, keys, {})) as nobody:
            with pytest.raises(KubernetesError):
                await nobody.list(Namespace)


async def test_a_server_whose_certificate_nobody_vouches_for_is_not_believed(tmp_path: Path, keys: Pki) -> None:
    async with ScriptedApi(tmp_path, [LIST], tls(keys)) as api:
        async with Kubernetes(kubeconfig(tmp_path, api, None, {"token": "secret"})) as kubernetes:
            with pytest.raises(KubernetesUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                await kubernetes.list(Namespace)
        assert api.requests == []


async def test_a_token_that_is_refused_is_read_from_its_file_again(tmp_path: Path, keys: Pki) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    async with ScriptedApi(tmp_path, [LIST, UNAUTHORIZED, LIST], tls(keys)) as api:
        async with Kubernetes(kubeconfig(tmp_path, api, keys, {"tokenFile": str(token)})) as kubernetes:
            await kubernetes.list(Namespace)
            token.write_text("new")
            await kubernetes.list(Namespace)
        assert [request.authorization for request in api.requests] == ["Bearer old", "Bearer old", "Bearer new"]


async def test_without_a_kubeconfig_the_service_account_of_the_pod_is_used(tmp_path: Path, keys: Pki) -> None:
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("of the pod")
    (account / "namespace").write_text("kube-system")
    (account / "ca.crt").write_bytes(keys.authority.read_bytes())
    # In a mount namespace of its own, so that the machine's /run stays as it is.
    place = "/run/secrets/kubernetes.io/serviceaccount"
    mount = f'mount -t tmpfs none /run && mkdir -p {place} && cp "$1"/* {place} && shift && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", str(account), sys.executable, "-c", IN_A_POD]
    async with ScriptedApi(tmp_path, [LIST], tls(keys)) as api:
        environment = os.environ | {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
        pod = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
        output, _ = await pod.communicate()
        assert (pod.returncode, output) == (0, b"t\n")
        assert [request.authorization for request in api.requests] == ["Bearer of the pod"]


def test_outside_of_a_pod_it_is_said_that_there_is_no_service_account() -> None:
    with pytest.raises(KubernetesError, match="service account"):
        Kubernetes(None)


def test_a_kubeconfig_names_the_server_and_is_nobody_elses_to_read(tmp_path: Path, keys: Pki) -> None:
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, "https://192.0.2.2:6443", keys, {"token": "secret"})
    assert path.stat().st_mode & 0o077 == 0
    assert json.loads(path.read_text())["clusters"][0]["cluster"]["server"] == "https://192.0.2.2:6443"
