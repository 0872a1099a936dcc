"""Controllers as processes of their own, on a real etcd and an API server, and what operators do to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from k8sovs.records import Keys
from tests.support.apiserver import ApiServerProcess
from tests.support.etcd import EtcdServers

KEYS = Keys("/k8s.ovs.com/ovs/network", "k8ssdn")
NETWORK = {
    "Name": "k8ssdn",
    "Network": "172.11.0.0/16",
    "HostSubnetLength": 10,
    "ServiceNetwork": "10.96.0.0/12",
    "PluginName": "k8s-ovs-multitenant",
}

T = TypeVar("T")


def eventually(condition: Callable[[], T], *, within: float = 10.0) -> T:
    """The first true result of `condition`, within so many seconds."""
    deadline = time.monotonic() + within
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {within} s: {condition}"
        time.sleep(0.02)
    return result


class Site:
    """What a controller works on: an etcd and an API server. Operators use etcdctl and kubectl."""

    def __init__(self, etcd: EtcdServers, api: ApiServerProcess) -> None:
        self.etcd = etcd
        self.api = api

    def controller(self, identity: str = "c1", **settings: str) -> ControllerProcess:
        return ControllerProcess(self, identity, settings)

    def environment(self, identity: str, settings: dict[str, str]) -> dict[str, str]:
        return os.environ | {
            "K8SOVS_ETCD_ENDPOINTS": ",".join(self.etcd.endpoints),
            "K8SOVS_KUBECONFIG": str(self.api.kubeconfig),
            "K8SOVS_IDENTITY": identity,
            "K8SOVS_NETWORK": json.dumps(NETWORK),
            "K8SOVS_LEASE_TTL_S": "2",
            **settings,
        }

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`k8sovs` as an operator runs it who has set etcdctl up."""
        environment = os.environ | {"ETCDCTL_ENDPOINTS": ",".join(self.etcd.endpoints)}
        command = [sys.executable, "-m", "k8sovs.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment, check=False)

    def value(self, key: str) -> str | None:
        text = self.etcd.etcdctl("get", key, "--print-value-only")
        return text.rstrip("\n") if text else None

    def revision(self, key: str) -> int:
        """At which revision of the store a key was written last."""
        fields = self.etcd.etcdctl("get", key, "--write-out=fields").splitlines()
        return next(int(line.split(":")[1]) for line in fields if line.startswith('"ModRevision"'))

    def values(self, folder: str) -> dict[str, str]:
        """Everything in a folder, by the last part of the key."""
        lines = self.etcd.etcdctl("get", folder, "--prefix").splitlines()
        return {key.removeprefix(folder): value for key, value in zip(lines[::2], lines[1::2], strict=True)}

    def json(self, key: str) -> dict[str, object] | None:
        value = self.value(key)
        return None if value is None else json.loads(value)

    def record(self, namespace: str) -> dict[str, object]:
        found = self.json(KEYS.netnamespace(namespace))
        assert found is not None, f"{namespace} has no record"
        return found

    def vnid(self, namespace: str) -> tuple[int, list[int]] | None:
        found = self.json(KEYS.vnid(namespace))
        return None if found is None else (found["Send"], found["Accept"])  # type: ignore[return-value]

    def leader(self) -> str | None:
        """The identity under the oldest key of the election."""
        line = self.etcd.etcdctl("get", KEYS.leader, "--prefix", "--sort-by=CREATE", "--limit=1", "--print-value-only")
        return line.strip() or None

    def create_namespace(self, name: str) -> None:
        """Returns when it has an id."""
        self.api.kubectl("create", "namespace", name)
        eventually(lambda: self.vnid(name))

    def act(self, namespace: str, action: str, target: str = "", *, within: float = 1.0) -> float:
        """Write an action as the predecessor documents it; returns the seconds until it is cleared."""
        record = {"NetName": namespace, "NetID": 300924, "Action": action, "Namespace": target}
        self.etcd.put(KEYS.netnamespace(namespace), json.dumps(record))
        began = time.monotonic()
        eventually(lambda: not self.record(namespace)["Action"], within=within)
        return time.monotonic() - began

    def settled(self, namespace: str) -> int:
        """The id of a namespace, once nodes accept no other."""

        def alone() -> tuple[int, list[int]] | None:
            vnid = self.vnid(namespace)
            return vnid if vnid is not None and vnid[1] == [vnid[0]] else None

        found = eventually(alone)
        assert found is not None
        return found[0]


class ControllerProcess:
    """`k8sovs controller`, from entering to leaving. `log` is what it has said so far."""

    def __init__(self, site: Site, identity: str, settings: dict[str, str]) -> None:
        self._site = site
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.identity = identity
        self._log = site.api.kubeconfig.with_name(f"{identity}.log")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        command = [sys.executable, "-m", "k8sovs.cli", "controller"]
        environment = self._site.environment(self.identity, self._settings)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def wait_leading(self) -> Self:
        eventually(lambda: self._site.leader() == self.identity and "leadership-won" in self.log)
        return self

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(10)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
