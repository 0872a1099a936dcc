"""Calling the CNI executable as a container runtime does, and a socket that answers in the agent's place."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
EXECUTABLE = ROOT / "cni" / "shim" / "k8s-ovs"
RECORDED = ROOT / "tests" / "recorded" / "cni"
DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """One call that containerd made of the reference `bridge` plugin."""

    name: str
    environment: Mapping[str, str]
    stdin: bytes

    def for_socket(self, path: Path) -> bytes:
        """Its standard input, had it been meant for the agent at `path`."""
        return json.dumps({**json.loads(self.stdin), "socket": str(path)}).encode()


def recorded_calls() -> list[Recorded]:
    """All recorded calls, in order."""
    return [
        Recorded(
            directory.name,
            dict(line.split("=", 1) for line in (directory / "env").read_text().splitlines() if line),
            (directory / "stdin.json").read_bytes(),
        )
        for directory in sorted(RECORDED.iterdir())
    ]


def environment(command: str, container_id: str = "c0ffee", **variables: str) -> dict[str, str]:
    """The CNI variables of an ordinary call; `variables` override."""
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": "/var/run/netns/cni-test",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=tenant1;K8S_POD_NAME=web",
        "CNI_PATH": "/opt/cni/bin",
        **variables,
    }


def conf(path: Path, **fields: object) -> bytes:
    """The network configuration that sends a call to the socket at `path`."""
    return json.dumps(
        {"cniVersion": "1.0.0", "name": "k8s-ovs", "type": "k8s-ovs", "socket": str(path), **fields}
    ).encode()


def encode_call(variables: Mapping[str, str], stdin: bytes) -> bytes:
    """The call as docs/cni.md describes it, for tests that need no executable."""
    return b"".join(f"{name}={value}\0".encode() for name, value in variables.items()) + b"\0" + stdin


def run_plugin(
    variables: Mapping[str, str], stdin: bytes, executable: Path = EXECUTABLE
) -> subprocess.CompletedProcess[bytes]:
    """Run the executable with this environment alone."""
    return subprocess.run([executable], input=stdin, env=dict(variables), capture_output=True, timeout=DEADLINE_S)


class FakeAgent:
    """A socket that records calls and answers each with the next of `answers`; None hangs up without an answer."""

    def __init__(self, path: Path, answers: Sequence[bytes | None]) -> None:
        self.calls: list[bytes] = []
        self._answers = list(answers)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(DEADLINE_S)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> FakeAgent:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._thread.join(DEADLINE_S)
        self._listener.close()

    def _serve(self) -> None:
        for answer in self._answers:
            connection, _ = self._listener.accept()
            with connection:
                call = b""
                while chunk := connection.recv(1 << 16):
                    call += chunk
                self.calls.append(call)
                if answer is not None:
                    connection.sendall(answer)
