"""The part of the Container Runtime Interface that a kubelet needs for pod sandboxes, as a client.

The messages are declared here with the field numbers of the CRI definition (`runtime.v1`), and only those fields that
the tests use; protobuf passes over the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "runtime.v1"
DEADLINE_S = 60.0
READY = 0
NODE = 2
"""A namespace that is the node's."""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "uint32": _Field.TYPE_UINT32,
    "int64": _Field.TYPE_INT64,
}
_MESSAGES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "PodSandboxMetadata": {
        "name": (1, "string"),
        "uid": (2, "string"),
        "namespace": (3, "string"),
        "attempt": (4, "uint32"),
    },
    "PortMapping": {
        "protocol": (1, "int32"),
        "container_port": (2, "int32"),
        "host_port": (3, "int32"),
        "host_ip": (4, "string"),
    },
    "PodSandboxConfig": {
        "metadata": (1, "PodSandboxMetadata"),
        "hostname": (2, "string"),
        "log_directory": (3, "string"),
        "port_mappings": (5, "*PortMapping"),
        "annotations": (7, "*Entry"),
        "linux": (8, "LinuxPodSandboxConfig"),
    },
    "LinuxPodSandboxConfig": {"cgroup_parent": (1, "string"), "security_context": (2, "LinuxSandboxSecurityContext")},
    "LinuxSandboxSecurityContext": {"namespace_options": (1, "NamespaceOption"), "privileged": (6, "bool")},
    "NamespaceOption": {"network": (1, "int32"), "pid": (2, "int32"), "ipc": (3, "int32")},
    "ContainerMetadata": {"name": (1, "string"), "attempt": (2, "uint32")},
    "ImageSpec": {"image": (1, "string")},
    "KeyValue": {"key": (1, "string"), "value": (2, "string")},
    "Mount": {
        "container_path": (1, "string"),
        "host_path": (2, "string"),
        "readonly": (3, "bool"),
        "propagation": (5, "int32"),
    },
    "Int64Value": {"value": (1, "int64")},
    "Capability": {"add_capabilities": (1, "*string"), "drop_capabilities": (2, "*string")},
    "LinuxContainerSecurityContext": {
        "capabilities": (1, "Capability"),
        "privileged": (2, "bool"),
        "namespace_options": (3, "NamespaceOption"),
        "run_as_user": (5, "Int64Value"),
        "readonly_rootfs": (7, "bool"),
        "no_new_privs": (11, "bool"),
        "run_as_group": (12, "Int64Value"),
    },
    "LinuxContainerConfig": {"security_context": (2, "LinuxContainerSecurityContext")},
    "ContainerConfig": {
        "metadata": (1, "ContainerMetadata"),
        "image": (2, "ImageSpec"),
        "command": (3, "*string"),
        "args": (4, "*string"),
        "envs": (6, "*KeyValue"),
        "mounts": (7, "*Mount"),
        "log_path": (11, "string"),
        "linux": (15, "LinuxContainerConfig"),
    },
    "CreateContainerRequest": {
        "pod_sandbox_id": (1, "string"),
        "config": (2, "ContainerConfig"),
        "sandbox_config": (3, "PodSandboxConfig"),
    },
    "CreateContainerResponse": {"container_id": (1, "string")},
    "StartContainerRequest": {"container_id": (1, "string")},
    "StartContainerResponse": {},
    "StopContainerRequest": {"container_id": (1, "string"), "timeout": (2, "int64")},
    "StopContainerResponse": {},
    "Entry": {"key": (1, "string"), "value": (2, "string")},  # a map is a list of these on the wire
    "RunPodSandboxRequest": {"config": (1, "PodSandboxConfig")},
    "RunPodSandboxResponse": {"pod_sandbox_id": (1, "string")},
    "StopPodSandboxRequest": {"pod_sandbox_id": (1, "string")},
    "StopPodSandboxResponse": {},
    "RemovePodSandboxRequest": {"pod_sandbox_id": (1, "string")},
    "RemovePodSandboxResponse": {},
    "PodSandboxStatusRequest": {"pod_sandbox_id": (1, "string")},
    "PodSandboxNetworkStatus": {"ip": (1, "string")},
    "PodSandboxStatus": {
        "id": (1, "string"),
        "metadata": (2, "PodSandboxMetadata"),
        "state": (3, "int32"),
        "network": (5, "PodSandboxNetworkStatus"),
    },
    "PodSandboxStatusResponse": {"status": (1, "PodSandboxStatus")},
    "ListPodSandboxRequest": {},
    "PodSandbox": {"id": (1, "string"), "metadata": (2, "PodSandboxMetadata"), "state": (3, "int32")},
    "ListPodSandboxResponse": {"items": (1, "*PodSandbox")},
    "StatusRequest": {},
    "RuntimeCondition": {
        "type": (1, "string"),
        "status": (2, "bool"),
        "reason": (3, "string"),
        "message": (4, "string"),
    },
    "RuntimeStatus": {"conditions": (1, "*RuntimeCondition")},
    "StatusResponse": {"status": (1, "RuntimeStatus")},
}


def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="cri.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            label = _Field.LABEL_REPEATED if kind.startswith("*") else _Field.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            kind = kind.lstrip("*")
            if kind in _SCALARS:
                added.type = _SCALARS[kind]
            else:
                added.type, added.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_POOL = _pool()


def message(kind: str, **fields: object) -> Any:  # noqa: ANN401 - the class is made at run time
    """A message of the CRI."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{kind}"))(**fields)


class CriError(Exception):
    """The runtime refused; the text is its own."""


class Cri:
    """A connection to the runtime that listens at the Unix socket `path`."""

    def __init__(self, path: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix://{path}", [("grpc.enable_retries", 0)])

    def __enter__(self) -> Cri:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def network_problem(self) -> str | None:
        """Why the runtime's network is not ready; None if it is."""
        conditions = self._call("Status").status.conditions
        network = next(condition for condition in conditions if condition.type == "NetworkReady")
        return None if network.status else str(network.message)

    def run_sandbox(
        self,
        namespace: str,
        name: str,
        *,
        cgroup: str,
        host_port: int | None = None,
        port: int = 0,
        annotations: Mapping[str, str] | None = None,
    ) -> str:
        """Start a pod's sandbox below `cgroup`; its id. `host_port` of the node leads to `port` of the pod."""
        config = {
            "metadata": {"name": name, "uid": f"uid-of-{namespace}-{name}", "namespace": namespace},
            "hostname": name,
            "linux": {"cgroup_parent": f"/{cgroup}"},
            "port_mappings": [{"host_port": host_port, "container_port": port}] if host_port else [],
            "annotations": [{"key": key, "value": value} for key, value in (annotations or {}).items()],
        }
        return str(self._call("RunPodSandbox", config=config).pod_sandbox_id)

    def run_on_host_network(self, name: str, cgroup: str, log_directory: Path, container: Mapping[str, object]) -> str:
        """Start a pod of the node's own network with one container (a ContainerConfig); the container's id."""
        config = {
            "metadata": {"name": name, "uid": f"uid-of-{name}", "namespace": "kube-system"},
            "log_directory": str(log_directory),
            "linux": {
                "cgroup_parent": f"/{cgroup}",
                "security_context": {"namespace_options": {"network": NODE}, "privileged": True},
            },
        }
        sandbox = str(self._call("RunPodSandbox", config=config).pod_sandbox_id)
        asked = {"pod_sandbox_id": sandbox, "config": container, "sandbox_config": config}
        made = str(self._call("CreateContainer", **asked).container_id)
        self._call("StartContainer", container_id=made)
        return made

    def stop_container(self, container: str, grace_s: int = 10) -> None:
        """SIGTERM, and SIGKILL when the time is over."""
        self._call("StopContainer", container_id=container, timeout=grace_s)

    def address(self, sandbox: str) -> str:
        """The pod's address."""
        return str(self._call("PodSandboxStatus", pod_sandbox_id=sandbox).status.network.ip)

    def remove(self, sandbox: str) -> None:
        """Stop and remove a sandbox, as a kubelet does with a pod that was deleted."""
        self._call("StopPodSandbox", pod_sandbox_id=sandbox)
        self._call("RemovePodSandbox", pod_sandbox_id=sandbox)

    def sandboxes(self) -> dict[str, bool]:
        """Every sandbox that the runtime knows, and whether it is ready."""
        return {one.id: one.state == READY for one in self._call("ListPodSandbox").items}

    def _call(self, method: str, **fields: object) -> Any:  # noqa: ANN401 - the class is made at run time
        call = self._channel.unary_unary(
            f"/{PACKAGE}.RuntimeService/{method}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=type(message(f"{method}Response")).FromString,
        )
        try:
            return call(message(f"{method}Request", **fields), timeout=DEADLINE_S, wait_for_ready=True)
        except grpc.RpcError as error:
            raise CriError(f"{method}: {error.details()}") from None  # type: ignore[attr-defined]
