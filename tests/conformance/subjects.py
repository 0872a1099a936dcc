"""What the suite judges by itself: our executable with a node's agent behind it, and Debian's `bridge`.

The latter shows that the judge is fair: whoever wrote the reference plugins wrote the specification too. Where
`bridge` does not do what a sentence says, it stands in BRIDGE_DEVIATIONS with what it does instead; a deviation that
is none any more fails.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.conformance.runtime import Subject
from tests.support.lab import LabUnderTest
from tests.support.namespaces import Sandbox
from tests.support.runtime import Node

OURS, BRIDGE, GIVEN = "k8s-ovs", "bridge", "given"

REFERENCE_PLUGINS = Path("/usr/lib/cni")

_ABOUT = "without CNI_COMMAND it says what it is, for the person who called it by hand, and exits with 0"
_NAMELESS = "the message tells what is wrong with the value, not which variable it is of"
_OWN_VERSION = "it answers with the newest version that it speaks, whatever the input says"

BRIDGE_DEVIATIONS: Mapping[str, str] = {
    "test_operations_there_are_no_others[]": _ABOUT,
    "test_operations_there_are_no_others[None]": _ABOUT,
    "test_error_4_must_contain_the_names_of_missing_variables[CNI_COMMAND]": _ABOUT,
    "test_error_4_must_contain_the_names_of_invalid_variables[CNI_CONTAINERID]": _NAMELESS,
    "test_error_4_must_contain_the_names_of_invalid_variables[CNI_IFNAME]": _NAMELESS,
    "test_version_must_output_the_version_of_the_input_and_a_list[0.4.0]": _OWN_VERSION,
    "test_version_must_output_the_version_of_the_input_and_a_list[1.1.0]": _OWN_VERSION,
    "test_error_cni_version_is_the_protocol_version_in_use": "its errors have no cniVersion",
    "test_error_1_incompatible_version[None]": "a configuration without a version is of 0.1.0, as it once was",
    "test_add_if_supplied_a_prev_result_must_pass_it_through_or_modify_it": "it means to be the first plugin",
    "test_check_should_return_an_error_if_the_container_is_generally_unreachable": "it looks "
    "whether the host's end is there, not whether it is up",
    "test_delegation_if_a_delegate_fails_on_add_the_plugin_should_execute_it_with_del": "it does so only for failures "
    "that come after its delegate succeeded",
}


@contextmanager
def ours() -> Iterator[Subject]:
    """The executable as an agent has installed it on a node of a lab."""
    lab = LabUnderTest(f"test-{os.getpid()}")
    try:
        lab("up", "--nodes", "1")
        status = lab.status()["nodes"][0]
        node = Node(status)
        conf = node.conf()
        yield Subject(
            plugin=node.executable,
            network="conformance",
            conf={name: value for name, value in conf.items() if name not in ("name", "cniVersion")},
            domain=f"/run/netns/{Path(node.netns).name}",
            cni_path=str(node.executable.parent),
            unavailable={"socket": "/run/nobody-listens-here.sock"},
        )
    finally:
        lab("down")


@contextmanager
def bridge() -> Iterator[Subject]:
    """The reference plugin with host-local, in a network namespace of its own."""
    with Sandbox() as domain, TemporaryDirectory() as leases:
        domain.run("ip", "link", "set", "lo", "up")
        ipam = {
            "type": "host-local",
            "dataDir": leases,
            "ranges": [[{"subnet": "198.18.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        yield Subject(
            plugin=REFERENCE_PLUGINS / "bridge",
            network="conformance",
            conf={"type": "bridge", "bridge": "conf0", "isGateway": True, "ipam": ipam},
            domain=domain.path,
            cni_path=str(REFERENCE_PLUGINS),
        )


@contextmanager
def given(plugin: Path, conf: Path, domain: str | None, cni_path: str | None) -> Iterator[Subject]:
    """Any plugin, with the configuration object of its type in the file `conf`, which may hold a list of them."""
    document: dict[str, Any] = json.loads(conf.read_text())
    listed = document.get("plugins", [document])
    mine = next((one for one in listed if one["type"] == plugin.name), listed[0])
    with Sandbox() as fresh:
        fresh.run("ip", "link", "set", "lo", "up")
        yield Subject(
            plugin=plugin.absolute(),
            network="conformance",
            conf={name: value for name, value in mine.items() if name not in ("name", "cniVersion")},
            domain=domain or fresh.path,
            cni_path=cni_path or str(plugin.absolute().parent),
        )
