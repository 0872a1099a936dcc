"""A pod of a manifest as a kubelet would have it run: its settings, mounts and rights in the words of the CRI.

What lies at a path of the host is found at another in a lab: `places` says where, for volumes of the host's; a
ConfigMap or a Secret is a directory that the caller has filled. Fields that are of no use here are passed over, and a
volume or a variable that cannot be made fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

HOST_TO_CONTAINER = 1
NODE = 2

Document = Mapping[str, Any]


def container_config(
    template: Document, places: Mapping[str, Path], fields: Mapping[str, str], image: str
) -> dict[str, object]:
    """The ContainerConfig of the only container of a pod template.

    `places` by the name of a volume; one that is missing is left out, and only if it is an optional Secret.
    """
    spec = template["spec"]
    (container,) = spec["containers"]
    security = {**spec.get("securityContext", {}), **container["securityContext"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    optional = {name for name, volume in volumes.items() if volume.get("secret", {}).get("optional")}
    return {
        "metadata": {"name": container["name"]},
        "image": {"image": image},
        "command": container.get("command", []),
        "args": container["args"],
        "envs": [{"key": one["name"], "value": _value(one, fields)} for one in container["env"]],
        "mounts": [
            _mount(mount, places[mount["name"]])
            for mount in container["volumeMounts"]
            if not (mount["name"] in optional and mount["name"] not in places)
        ],
        "log_path": "log",
        "linux": {"security_context": _rights(security)},
    }


def _value(variable: Document, fields: Mapping[str, str]) -> str:
    if "value" in variable:
        return str(variable["value"])
    return fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]


def _mount(mount: Document, place: Path) -> dict[str, object]:
    slave = mount.get("mountPropagation") == "HostToContainer"
    return {
        "container_path": mount["mountPath"],
        "host_path": str(place),
        "readonly": mount.get("readOnly", False),
        "propagation": HOST_TO_CONTAINER if slave else 0,
    }


def _rights(security: Document) -> dict[str, object]:
    rights: dict[str, object] = {
        "privileged": security.get("privileged", False),
        "namespace_options": {"network": NODE},
        "run_as_user": {"value": security["runAsUser"]},
        "readonly_rootfs": security.get("readOnlyRootFilesystem", False),
        "no_new_privs": not security.get("allowPrivilegeEscalation", True),
        "capabilities": {"drop_capabilities": security.get("capabilities", {}).get("drop", [])},
    }
    if "runAsGroup" in security:
        rights["run_as_group"] = {"value": security["runAsGroup"]}
    return rights
