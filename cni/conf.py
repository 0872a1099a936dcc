"""The two files that make a container runtime call this plugin: the network configuration and the executable.

Both appear in one step: written beside their place, made durable, renamed. So a runtime never reads half a
configuration, and an executable that is running can be replaced ("text file busy" otherwise).
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from cni.versions import SUPPORTED

CONF_FILE = "10-k8s-ovs.conflist"
EXECUTABLE = "k8s-ovs"
"""File name of the executable, and so the plugin's type."""
NETWORK = "k8s-ovs"
BASE_VERSION = "1.0.0"
"""For runtimes that do not know `cniVersions`; containerd 1.6 refuses a configuration of 1.1.0."""


def render_conflist(socket_path: Path, chained: str = "[]") -> bytes:
    """The network configuration list; the executable finds the agent at `socket_path`.

    `chained`: the configurations of plugins to be called after ours, a JSON list of objects.

    Source: CNI specification 1.1.0, section "Configuration format".
    """
    plugin = {"type": EXECUTABLE, "capabilities": {"bandwidth": True}, "socket": str(socket_path)}
    conflist = {
        "cniVersion": BASE_VERSION,
        "cniVersions": list(SUPPORTED),
        "name": NETWORK,
        "plugins": [plugin, *json.loads(chained)],
    }
    return json.dumps(conflist, indent=2).encode() + b"\n"


def install_conf(directory: Path, conflist: bytes) -> bool:
    """Put the configuration into `directory`, which is made if need be; False if it was there. Raises OSError."""
    return _install(directory / CONF_FILE, conflist, 0o644)


def install_executable(directory: Path, source: Path) -> bool:
    """Put the executable `source` into `directory`, which is made if need be; False if it was there. Raises OSError."""
    return _install(directory / EXECUTABLE, source.read_bytes(), 0o755)


def _install(path: Path, content: bytes, mode: int) -> bool:
    if _is_installed(path, content, mode):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name ends in .tmp: runtimes read only .conf, .conflist and .json.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:  # nothing is swallowed
        os.unlink(temporary)
        raise
    _sync_directory(path.parent)
    return True


def _is_installed(path: Path, content: bytes, mode: int) -> bool:
    try:
        return path.stat().st_mode & 0o7777 == mode and path.read_bytes() == content
    except FileNotFoundError:
        return False


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
