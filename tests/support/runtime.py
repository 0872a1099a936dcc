"""A container runtime on a node of a lab: it makes sandboxes and calls the CNI executable, as containerd does."""

from __future__ import annotations

import json
import re
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.cni import environment, run_plugin
from tests.support.namespaces import Sandbox, run


@dataclass(frozen=True, slots=True)
class Answer:
    """What the executable said: exit status and the JSON of its standard output."""

    status: int
    said: Mapping[str, Any]

    @property
    def address(self) -> str:
        """The address that an ADD gave."""
        address: str = self.said["ips"][0]["address"].partition("/")[0]
        return address

    @property
    def code(self) -> int:
        """The code of an error; 0 for a success."""
        return self.said["code"] if self.status else 0

    @property
    def host_mac(self) -> str:
        """The MAC of the node's end of the pod's link."""
        mac: str = self.said["interfaces"][0]["mac"]
        return mac


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod's sandbox, attached or not."""

    namespace: str
    name: str
    sandbox: Sandbox
    container_id: str = field(default_factory=lambda: secrets.token_hex(32))

    @property
    def has_interface(self) -> bool:
        """Whether there is an `eth0` in the sandbox."""
        return "eth0" in devices(self.sandbox.run("ip", "-json", "link"))

    def reaches(self, address: str, *options: str) -> bool:
        """Whether one ping is answered within a second, or what `options` say."""
        return self.sandbox.succeeds("ping", "-n", "-q", "-c1", "-W1", *options, address)

    def start_ping(self, address: str, *options: str) -> subprocess.Popen[bytes]:
        """The same, while the test goes on; its exit status is 0 if an answer comes."""
        command = self.sandbox.command("ping", "-n", "-q", "-c1", "-W1", *options, address)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    @contextmanager
    def pinging(self, address: str) -> Iterator[Pings]:
        """One every 2 ms while the block runs; afterwards the counts are known."""
        command = self.sandbox.command("ping", "-n", "-q", "-i0.002", address)
        pings, process = Pings(), subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            yield pings
        finally:
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=30)
        counts = re.search(r"(\d+) packets transmitted, (\d+) received", said)
        assert counts, said
        pings.lost = max(0, int(counts[1]) - int(counts[2]) - 1)  # the answer to the last may be under way


@dataclass(slots=True)
class Pings:
    """What became of pings."""

    lost: int = 0


def devices(listing: str) -> set[str]:
    """The names in what `ip -json link` prints."""
    return {link["ifname"] for link in json.loads(listing)}


class Node:
    """One node of `lab status --json`."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self.name: str = status["name"]
        self.address: str = status["ip"]
        self.netns: str = status["netns"]
        self.ovs_rundir = Path(status["ovs_rundir"])
        self.agent_pid: int = status["agent_pid"]
        self.vswitchd_pid: int = status["vswitchd_pid"]
        self.ovsdb_pid: int = status["ovsdb_pid"]
        self.executable = Path(status["cni_bin"])
        self._conf = Path(status["cni_conf"])

    @contextmanager
    def pod(self, namespace: str, name: str = "web") -> Iterator[Pod]:
        """A sandbox that is not attached yet; its DEL comes at the end."""
        with Sandbox() as sandbox:
            pod = Pod(namespace, name, sandbox)
            try:
                yield pod
            finally:
                self.delete(pod)

    @contextmanager
    def attached(self, namespace: str, name: str = "web") -> Iterator[tuple[Pod, Answer]]:
        """A pod, and the answer of its ADD."""
        with self.pod(namespace, name) as pod:
            answer = self.call("ADD", pod)
            assert answer.status == 0, answer.said
            yield pod, answer

    def call(self, command: str, pod: Pod, conf: Mapping[str, object] | None = None, **variables: str) -> Answer:
        """Any call; `variables` go before those of an ordinary one, `conf` before the installed configuration."""
        return self.run(_variables(command, pod) | variables, conf)

    def check(self, pod: Pod, result: Mapping[str, object], **variables: str) -> Answer:
        """CHECK with `result` as what the ADD said."""
        return self.run(_variables("CHECK", pod) | variables, {"prevResult": result})

    def collect(self, valid: Iterable[Pod], **conf: object) -> Answer:
        """GC, with the `eth0` of each of `valid` as what is still there."""
        attachments = [{"containerID": pod.container_id, "ifname": "eth0"} for pod in valid]
        conf = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": attachments, **conf}
        return self.run({"CNI_COMMAND": "GC", "CNI_PATH": "/opt/cni/bin"}, conf)

    def start(self, command: str, pod: Pod, conf: Mapping[str, object] | None = None) -> subprocess.Popen[bytes]:
        """A call that nobody waits for yet; its standard output is there to be read."""
        with tempfile.TemporaryFile() as document:
            document.write(json.dumps({**self.conf(), **(conf or {})}).encode())
            document.seek(0)
            return subprocess.Popen(
                [self.executable], stdin=document, stdout=subprocess.PIPE, env=_variables(command, pod)
            )

    def run(self, variables: Mapping[str, str], conf: Mapping[str, object] | None = None) -> Answer:
        """Run the executable with this environment, and `conf` on top of the installed configuration."""
        document = json.dumps({**self.conf(), **(conf or {})}).encode()
        done = run_plugin(variables, document, self.executable)
        return Answer(done.returncode, json.loads(done.stdout or b"{}"))

    def conflist(self) -> dict[str, Any]:
        """The network configuration that the agent has installed."""
        conflist: dict[str, Any] = json.loads(self._conf.read_text())
        return conflist

    def conf(self) -> dict[str, object]:
        """The configuration of the plugin, with name and version filled in."""
        conflist = self.conflist()
        return {**conflist["plugins"][0], "name": conflist["name"], "cniVersion": conflist["cniVersion"]}

    def delete(self, pod: Pod) -> None:
        """DEL; it must succeed."""
        answer = self.call("DEL", pod)
        assert answer.status == 0, answer.said

    def status(self) -> int:
        """STATUS: 0, or the code of its error."""
        return self.run({"CNI_COMMAND": "STATUS", "CNI_PATH": "/opt/cni/bin"}).code

    def command(self, *command: str) -> list[str]:
        """`command`, to be run on the node."""
        directories = [f"OVS_{name}={self.ovs_rundir}" for name in ("RUNDIR", "DBDIR", "LOGDIR")]
        return ["nsenter", f"--net={self.netns}", "--", "env", *directories, *command]

    def execute(self, *command: str) -> str:
        """What `command` prints when it runs on the node; it must succeed."""
        return run(*self.command(*command))

    def ports(self) -> set[str]:
        """The ports of the bridge, as the database has them."""
        return set(self.execute("ovs-vsctl", "list-ports", "br0").split())

    def links(self) -> set[str]:
        """The node's ends of pod links."""
        return {name for name in devices(self.execute("ip", "-json", "link")) if name.startswith("k8o")}

    def flows(self) -> set[str]:
        """The flows of the bridge, without counters."""
        lines = self.execute("ovs-ofctl", "-OOpenFlow15", "--no-stats", "--no-names", "dump-flows", "br0").splitlines()
        return {line.strip() for line in lines if "actions=" in line}  # table 0 is not named


def _variables(command: str, pod: Pod) -> dict[str, str]:
    arguments = (
        f"IgnoreUnknown=1;K8S_POD_NAMESPACE={pod.namespace};K8S_POD_NAME={pod.name};"
        f"K8S_POD_INFRA_CONTAINER_ID={pod.container_id};K8S_POD_UID={pod.container_id[:32]}"
    )
    return environment(command, pod.container_id, CNI_NETNS=pod.sandbox.path, CNI_ARGS=arguments)
