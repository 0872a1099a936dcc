"""A real etcd on loopback: one member or several, with or without TLS and users, that can be stopped in many ways.

with EtcdServers() as etcd:
    etcd.etcdctl("put", "/a", "1")
    store = Etcd(EtcdConfig(etcd.endpoints))
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.support.processes import hanging

START_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 30.0
# Below the range that the kernel takes for outgoing connections, so that none is in the way at a restart.
PORTS = range(20000, 32000)


class CommandFailed(Exception):
    """A command exited with an error; the message holds the command and what it said."""


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, a server's certificate for its address, and a client's, both signed by it."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


class EtcdServers:
    """A cluster of `members`, running from `__enter__` to `__exit__`. Members are numbered from 0.

    `arguments` are more flags for every member. With `tls` clients need a certificate of `certificates`. Users are set
    up by `enable_users`. Members end with the thread that started them, so that is to be the main thread. They serve on
    `address`; servers and etcdctl are run by `prefix`, for instance `("nsenter", "--net=/run/netns/x", "--")`.
    """

    def __init__(
        self,
        *,
        members: int = 1,
        tls: bool = False,
        arguments: tuple[str, ...] = (),
        address: str = "127.0.0.1",
        prefix: tuple[str, ...] = (),
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="k8sovs-etcd-")
        self._root = Path(self._directory.name)
        self._arguments = arguments
        self._address = address
        self._prefix = prefix
        self._client_ports = [_free_port() for _ in range(members)]
        self._peer_ports = [_free_port() for _ in range(members)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * members
        self._frozen: set[int] = set()
        self._login: tuple[str, ...] = ()
        self.certificates = _certificates(self._root, address) if tls else None

    def __enter__(self) -> EtcdServers:
        try:
            for member in range(len(self._processes)):
                self._spawn(member)
            self._await_health(self.endpoints)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The members' client URLs, in their order."""
        return tuple(self._client_url(member) for member in range(len(self._processes)))

    def etcdctl(self, *arguments: str, stdin: str | bytes | None = None) -> str:
        """`etcdctl` (API version 3) on the members that are running and not frozen, as root once there are users."""
        return self._etcdctl(self._serving, *self._login, *arguments, stdin=stdin)

    def put(self, key: str, value: str | bytes) -> None:
        """Write a key; the value goes in by standard input, whatever it holds."""
        self.etcdctl("put", key, stdin=value)

    def compact(self) -> int:
        """Forget all history before the present revision, which is returned."""
        text = self.etcdctl("endpoint", "status", "--write-out=fields")
        revision = max(int(line.split(":")[1]) for line in text.splitlines() if line.startswith('"Revision"'))
        try:
            self.etcdctl("compact", "--physical", str(revision))
        except CommandFailed as error:  # when there was an election meanwhile, etcdctl tries twice
            if "has been compacted" not in str(error):
                raise
        return revision

    def clear(self) -> None:
        """Delete every key."""
        self.etcdctl("del", "", "--prefix")

    def metric(self, name: str) -> float:
        """The sum of the counters that the first member shows at /metrics under `name`, a prefix, labels included."""
        with urllib.request.urlopen(f"{self.endpoints[0]}/metrics", timeout=COMMAND_TIMEOUT_S) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def enable_users(self, **roles: tuple[str, str, str]) -> None:
        """Turn authentication on: root (password root), and users with (password, folder to read, folder to write)."""
        self.etcdctl("user", "add", "root:root")
        self.etcdctl("user", "grant-role", "root", "root")
        for user, (password, read, write) in roles.items():
            self.etcdctl("role", "add", user)
            self.etcdctl("role", "grant-permission", user, "read", read, "--prefix")
            self.etcdctl("role", "grant-permission", user, "readwrite", write, "--prefix")
            self.etcdctl("user", "add", f"{user}:{password}")
            self.etcdctl("user", "grant-role", user, user)
        self.etcdctl("auth", "enable")
        self._login = ("--user=root:root",)

    def kill(self, member: int = 0) -> None:
        """Kill a member without a chance to say goodbye. Its data stay."""
        process = self._processes[member]
        if process is not None:
            process.kill()
            process.wait()
        self._processes[member] = None

    def start(self, member: int = 0) -> None:
        """Start a member that was killed, on the same ports and data, and wait until it serves."""
        self._spawn(member)
        self._await_health((self._client_url(member),))

    def restart(self, member: int = 0) -> None:
        """Kill a member and start it again."""
        self.kill(member)
        self.start(member)

    def recover(self) -> None:
        """Start every member that was killed, and wait until all serve."""
        for member, process in enumerate(self._processes):
            if process is None:
                self._spawn(member)
        self.wait_healthy()

    def wait_healthy(self) -> None:
        """Wait until every member that can serve does, having elected another leader if that was necessary."""
        self._await_health(self._serving)

    def wipe(self) -> None:
        """Kill every member, and start the cluster anew without its data: history begins again."""
        self._login = ()
        for member in range(len(self._processes)):
            self.kill(member)
            shutil.rmtree(self._root / f"member{member}")
        for member in range(len(self._processes)):
            self._spawn(member)
        self._await_health(self.endpoints)

    @contextmanager
    def frozen(self, member: int = 0) -> Iterator[None]:
        """A member that neither answers nor closes a connection while the block runs."""
        process = self._processes[member]
        assert process is not None, f"member {member} is not running"
        self._frozen.add(member)
        try:
            with hanging(process.pid):
                yield
        finally:
            self._frozen.remove(member)

    def pid(self, member: int = 0) -> int:
        """The process id of a running member."""
        process = self._processes[member]
        assert process is not None, f"member {member} is not running"
        return process.pid

    @property
    def _serving(self) -> tuple[str, ...]:
        return tuple(
            self._client_url(member)
            for member, process in enumerate(self._processes)
            if process is not None and member not in self._frozen
        )

    def _client_url(self, member: int) -> str:
        return f"{'https' if self.certificates else 'http'}://{self._address}:{self._client_ports[member]}"

    def _spawn(self, member: int) -> None:
        peers = [f"http://127.0.0.1:{port}" for port in self._peer_ports]
        # setpriv lets the kernel end the server when the test process dies, however it dies.
        command = [
            *(*self._prefix, "setpriv", "--pdeathsig=KILL", "etcd", f"--name=member{member}"),
            f"--data-dir={self._root / f'member{member}'}",
            f"--listen-client-urls={self._client_url(member)}",
            f"--advertise-client-urls={self._client_url(member)}",
            f"--listen-peer-urls={peers[member]}",
            f"--initial-advertise-peer-urls={peers[member]}",
            "--initial-cluster=" + ",".join(f"member{number}={url}" for number, url in enumerate(peers)),
            "--heartbeat-interval=50",
            "--election-timeout=500",
            "--bcrypt-cost=4",
            *self._arguments,
        ]
        if self.certificates:
            command += [
                f"--trusted-ca-file={self.certificates.ca}",
                f"--cert-file={self.certificates.server}",
                f"--key-file={self.certificates.server_key}",
                "--client-cert-auth",
            ]
        with self._log(member).open("ab") as log:
            self._processes[member] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _await_health(self, endpoints: tuple[str, ...]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._etcdctl(endpoints, *self._login, "endpoint", "health", "--command-timeout=2s")
            except CommandFailed as error:
                for member, process in enumerate(self._processes):
                    if process is not None and process.poll() is not None:
                        said = self._log(member).read_text()[-4000:]
                        raise CommandFailed(f"etcd member {member} ended: {said}") from error
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def _etcdctl(self, endpoints: tuple[str, ...], *arguments: str, stdin: str | bytes | None = None) -> str:
        command = [*self._prefix, "etcdctl", f"--endpoints={','.join(endpoints)}", "--dial-timeout=1s", *arguments]
        if self.certificates:
            command += [
                f"--cacert={self.certificates.ca}",
                f"--cert={self.certificates.client}",
                f"--key={self.certificates.client_key}",
            ]
        return _run(command, stdin)

    def _log(self, member: int) -> Path:
        return self._root / f"member{member}.log"

    def _stop(self) -> None:
        for member in range(len(self._processes)):
            self.kill(member)
        self._directory.cleanup()


def _run(command: list[str], stdin: str | bytes | None = None) -> str:
    result = subprocess.run(
        command,
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        env={**os.environ, "ETCDCTL_API": "3"},
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    if result.returncode:
        said = (result.stderr + result.stdout).decode(errors="replace").strip()
        raise CommandFailed(f"{' '.join(command)}: exit status {result.returncode}: {said}")
    return result.stdout.decode(errors="surrogateescape")


def _free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _certificates(directory: Path, address: str) -> Certificates:
    ca, ca_key = _certificate(directory, "ca", None, "basicConstraints=critical,CA:TRUE")
    server, server_key = _certificate(directory, "server", (ca, ca_key), f"subjectAltName=IP:{address}")
    client, client_key = _certificate(directory, "client", (ca, ca_key), "extendedKeyUsage=clientAuth")
    return Certificates(ca, server, server_key, client, client_key)


def _certificate(directory: Path, name: str, signer: tuple[Path, Path] | None, extension: str) -> tuple[Path, Path]:
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += [
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-addext",
        extension,
        "-out",
        str(certificate),
        "-keyout",
        str(key),
    ]
    if signer:
        command += ["-CA", str(signer[0]), "-CAkey", str(signer[1])]
    _run(command)
    return certificate, key
