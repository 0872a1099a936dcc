"""API servers as processes of their own, the embedded one and Kubernetes' own, and kubectl against them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack, closing
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from k8sovs.lab import cluster, pki, realserver
from k8sovs.lab.realserver import RealServer
from tests.support.lab import eventually

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: lab, cluster: {{server: "http://{address}"}}}}]
contexts: [{{name: lab, context: {{cluster: lab, user: lab}}}}]
users: [{{name: lab, user: {{}}}}]
current-context: lab
"""


class ApiServer:
    """An API server under test, whichever it is; `kubeconfig` is the path of a file that leads to it."""

    kubeconfig: Path
    address: str

    def connect(self) -> http.client.HTTPConnection:
        """A connection as somebody who may do everything."""
        return http.client.HTTPConnection(self.address, timeout=10)

    def request(
        self, method: str, path: str, body: object = None, accept: str = "application/json", **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Code and JSON of the answer. The body is JSON by default, bytes are sent as they are."""
        with closing(self.connect()) as connection:
            content = body if isinstance(body, bytes | None) else json.dumps(body)
            kind = {} if content is None else {"Content-Type": "application/json"}
            connection.request(method, path, content, {"Accept": accept, **kind, **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True, **environment: str) -> str:
        """Standard output of kubectl; CalledProcessError, with its standard error, if it fails."""
        home = {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.kubeconfig.parent)}
        command = ["kubectl", *arguments]
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=check,
            timeout=30,
            env=os.environ | home | environment,
        ).stdout


class ApiServerProcess(ApiServer):
    """The embedded one. Starts on entering."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._arguments = arguments
        self._listen = "127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None
        self.kubeconfig = directory / "kubeconfig"
        self.address = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """A new server with no objects; at the address of the one before, if there was one."""
        # A test run that is killed, by its time limit for instance, must leave no server behind.
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "k8sovs.lab.apiserver"]
        command += ["--listen", self._listen, *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().split()
        assert line[:1] == ["listening"], "the API server did not start: see its standard error"
        self.address = self._listen = line[1]
        self.kubeconfig.write_text(KUBECONFIG.format(address=self.address))

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(10)
        self.kill()
        return status

    def kill(self) -> None:
        """Whatever state it is in, nothing is left of it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def pause(self) -> None:
        """It keeps its connections, and is silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class RealApiServer(ApiServer):
    """Kubernetes' own, with a controller manager that only ends namespaces. Starts on entering."""

    def __init__(self, assets: Path, directory: Path) -> None:
        self.kubeconfig = directory / "kubeconfig"
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        port, etcd_port = free_ports(2)
        self.pki = pki.create(directory / "pki", realserver.SERVER_NAMES)
        loopback = IPv4Address("127.0.0.1")
        self._server = RealServer(assets, directory, self.pki, loopback, port, etcd_port, controllers=("namespace",))
        self.address = f"127.0.0.1:{port}"
        admin = realserver.by_certificate(self.pki, "admin")
        cluster.write_kubeconfig(self.kubeconfig, f"https://{self.address}", self.pki, admin)

    def __enter__(self) -> Self:
        try:
            for command in (
                self._server.etcd(),
                self._server.apiserver(),
                self._server.controller_manager(self.kubeconfig),
            ):
                self._start(*command)
            eventually(self._is_ready, "the real API server is ready", deadline_s=50)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """All three, and their data with the directory."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    def connect(self) -> http.client.HTTPConnection:
        context = ssl.create_default_context(cafile=self.pki.authority)
        context.load_cert_chain(self.pki.certificate("admin"), self.pki.key("admin"))
        return http.client.HTTPSConnection(self.address, timeout=10, context=context)

    def clean(self) -> None:
        """Remove what a test has made, as far as tests make it: tenants and nodes."""
        self.kubectl("delete", "nodes", "--all")
        names = self.kubectl("get", "ns", "-o", "name").split()
        tenants = [name for name in names if name != "namespace/default" and "/kube-" not in name]
        for name in tenants:
            namespace = name.removeprefix("namespace/")
            self.kubectl("-n", namespace, "delete", "pods", "--all", "--grace-period=0", "--force")
            self.kubectl("delete", "ns", namespace)

    def _start(self, *command: str) -> None:
        with (self._directory / f"{Path(command[0]).name}.log").open("wb") as log:
            guarded = ["setpriv", "--pdeathsig", "KILL", *command]
            self._processes.append(subprocess.Popen(guarded, stdout=log, stderr=log))

    def _is_ready(self) -> bool:
        for process in self._processes:
            assert process.poll() is None, f"{process.args!r} ended: see the logs in {self._directory}"
        try:
            return self.request("GET", "/api/v1/namespaces/default")[0] == 200
        except OSError:
            return False


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on, each with a free one above."""
    found: list[int] = []
    while len(found) < count:
        with ExitStack() as opened:
            first = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = first.getsockname()[1]
            try:
                opened.enter_context(socket.create_server(("127.0.0.1", port + 1)))
            except OSError:
                continue
            found.append(port)
    return found
