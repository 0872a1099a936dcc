"""A container runtime in the words of the CNI specification 1.1.0, section 3, for one plugin under test."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.support.lab import eventually
from tests.support.namespaces import Sandbox

DEADLINE_S = 60.0
NEWEST_KNOWN = (1, 1, 0)
ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=conformance"


def numbers(version: str) -> tuple[int, ...]:
    """A version, to be compared."""
    return tuple(map(int, version.split(".")))


@dataclass(frozen=True)
class Subject:
    """A plugin to be judged.

    `conf` is its plugin configuration object, `network` the configuration's name, `domain` the network namespace that
    the runtime is in. `unavailable` are fields of a configuration that it cannot serve an ADD with, if it has such.
    """

    plugin: Path
    network: str
    conf: Mapping[str, Any]
    domain: str
    cni_path: str
    unavailable: Mapping[str, Any] | None = None

    def host(self, *command: str) -> str:
        """What `command` prints in the runtime's networking domain."""
        return subprocess.run(
            self.on_host(*command), capture_output=True, text=True, timeout=DEADLINE_S, check=True
        ).stdout

    def on_host(self, *command: str) -> list[str]:
        """`command`, to be run in the runtime's networking domain."""
        return ["nsenter", f"--net={self.domain}", "--", *command]

    def execute(self, variables: Mapping[str, str], stdin: bytes) -> Outcome:
        """Run the executable with exactly these variables."""
        done = subprocess.run(
            self.on_host(str(self.plugin)),
            input=stdin,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **variables},
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return Outcome(done.returncode, done.stdout)

    def request(self, **fields: object) -> bytes:
        """The request configuration derived from the plugin's; a field that is None is left out."""
        derived = {name: value for name, value in self.conf.items() if name != "capabilities"}
        derived |= {"cniVersion": self.version, "name": self.network, **fields}
        return json.dumps({name: value for name, value in derived.items() if value is not None}).encode()

    @cached_property
    def versions(self) -> list[str]:
        """The versions that plugin and suite know, oldest first; before 0.3.0 results had another form."""
        stdin = json.dumps({"cniVersion": "1.0.0"}).encode()
        told = self.execute({"CNI_COMMAND": "VERSION"}, stdin).json["supportedVersions"]
        return sorted((one for one in told if (0, 3, 0) <= numbers(one) <= NEWEST_KNOWN), key=numbers)

    @property
    def version(self) -> str:
        """The newest of them."""
        return self.versions[-1]

    @contextmanager
    def container(self) -> Iterator[Container]:
        """A container with a network namespace of its own; what is attached to it is detached at the end."""
        with Sandbox() as sandbox:
            container = Container(self, sandbox)
            try:
                yield container
            finally:
                for ifname in sorted(container.used):
                    container.delete(ifname)


@dataclass(frozen=True)
class Outcome:
    """What a call came to."""

    status: int
    stdout: bytes

    @property
    def json(self) -> dict[str, Any]:
        """Standard output."""
        said = json.loads(self.stdout)
        assert isinstance(said, dict), "what a plugin says is a JSON object"
        return said

    @property
    def result(self) -> dict[str, Any]:
        """The result of a call that must have succeeded."""
        assert self.status == 0, self.stdout
        return self.json

    @property
    def error(self) -> dict[str, Any]:
        """The error of a call that must have failed."""
        assert self.status != 0, "the call succeeded"
        return self.json

    @property
    def message(self) -> str:
        """All the words of the error."""
        return f"{self.error['msg']} {self.error.get('details', '')}"


@dataclass
class Container:
    """A container that the plugin is called for; `used` are the interfaces that it was ever asked to make."""

    subject: Subject
    sandbox: Sandbox
    identifier: str = field(default_factory=lambda: f"conformance-{secrets.token_hex(8)}")
    used: set[str] = field(default_factory=set)

    def variables(self, command: str, ifname: str = "eth0", **changes: str | None) -> dict[str, str]:
        """The parameters of a call; one that is None is left out."""
        usual = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.identifier,
            "CNI_NETNS": self.sandbox.path,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": ARGS,
            "CNI_PATH": self.subject.cni_path,
        }
        return {name: value for name, value in (usual | changes).items() if value is not None}

    def add(self, ifname: str = "eth0", **fields: object) -> Outcome:
        """ADD; `fields` go before those of the configuration."""
        self.used.add(ifname)
        return self.subject.execute(self.variables("ADD", ifname), self.subject.request(**fields))

    def check(self, result: Mapping[str, Any], ifname: str = "eth0") -> Outcome:
        """CHECK with `result` as the one that was stored."""
        return self.subject.execute(self.variables("CHECK", ifname), self.subject.request(prevResult=result))

    def delete(self, ifname: str = "eth0", *, netns: str | None = "", **fields: object) -> Outcome:
        """DEL; `netns` None leaves it out, empty takes the container's."""
        variables = self.variables("DEL", ifname, CNI_NETNS=self.sandbox.path if netns == "" else netns)
        return self.subject.execute(variables, self.subject.request(**fields))

    def link(self, ifname: str = "eth0") -> dict[str, Any] | None:
        """The interface with its addresses, as the kernel shows it."""
        links = json.loads(self.sandbox.run("ip", "-json", "address"))
        return next((link for link in links if link["ifname"] == ifname), None)

    def wait_without(self, ifname: str = "eth0") -> None:
        """Wait until there is no such interface: a plugin may have the kernel remove it while it answers."""
        eventually(lambda: self.link(ifname) is None, f"{ifname} is gone from the container")

    def peer(self, ifname: str = "eth0") -> str:
        """The host's end of the interface, which must be one of a pair."""
        link = self.link(ifname)
        assert link is not None
        hosts = json.loads(self.subject.host("ip", "-json", "link"))
        return next(str(one["ifname"]) for one in hosts if one["ifindex"] == link["link_index"])

    def addresses(self, ifname: str = "eth0") -> set[str]:
        """Its addresses in CIDR notation."""
        link = self.link(ifname) or {"addr_info": []}
        return {f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"] if one["scope"] != "link"}

    def routes(self) -> set[str]:
        """Where the container's IPv4 routes lead, in CIDR notation."""
        found = {route["dst"] for route in json.loads(self.sandbox.run("ip", "-json", "route"))}
        return {"0.0.0.0/0" if one == "default" else one if "/" in one else f"{one}/32" for one in found}
