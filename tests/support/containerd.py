"""A containerd of the tests' own on a node of a lab: nothing of it is shared with the machine's service.

It runs in the node's network namespace, with its root, state and socket in one directory, and cgroups under one name.
Images cannot be pulled here, so the pause image is made on the spot: a busybox whose web server answers on PORT.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.cri import Cri
from tests.support.lab import eventually
from tests.support.runtime import Node

BUSYBOX = Path("/bin/busybox")  # Debian's busybox-static
PAUSE = "registry.k8s.io/pause:3.6"
PLUGINS = Path("/usr/lib/cni")  # the reference plugins, in Debian's containernetworking-plugins
PORT = 8080
PAGE = b"a real pod\n"
_CGROUPS = Path("/sys/fs/cgroup")
_SHIM_SOCKETS = Path("/run/containerd/s")  # the one place that containerd's configuration does not name
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


_RECORDER = """#!/bin/sh
call=$(mktemp -d {calls}/XXXXXXXX)
cat >$call/stdin.json
env | grep ^CNI_ >$call/env
exec {plugin} <$call/stdin.json
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of our executable by containerd."""

    environment: Mapping[str, str]
    conf: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> Call:
        """The call that the recorder has put into `directory`."""
        lines = (directory / "env").read_text().splitlines()
        variables = dict(line.split("=", 1) for line in lines)
        return cls(variables, json.loads((directory / "stdin.json").read_text()))


class Containerd:
    """The runtime of `node`, whose plugins are `conflist` and whatever executables it names."""

    def __init__(self, node: Node, conflist: Mapping[str, object]) -> None:
        self.node = node
        self._conflist = conflist
        self._process: subprocess.Popen[bytes] | None = None
        self._mounted = False

    def __enter__(self) -> Containerd:
        self.directory = Path(tempfile.mkdtemp(prefix="ctrd-", dir="/run"))
        self.socket = self.directory / "containerd.sock"
        self.cgroup = self.directory.name
        for name in ("net.d", "bin", "calls"):
            (self.directory / name).mkdir()
        (self.directory / "net.d" / "10-test.conflist").write_text(json.dumps(self._conflist))
        for name in ("loopback", "portmap"):
            (self.directory / "bin" / name).symlink_to(PLUGINS / name)
        recorder = self.directory / "bin" / self.node.executable.name
        recorder.write_text(_RECORDER.format(calls=self.directory / "calls", plugin=self.node.executable))
        recorder.chmod(0o755)
        (self.directory / "config.toml").write_text(self._config())
        (self.directory / "pause.tar").write_bytes(pause_image())
        self._mounted = _mount_cgroups()
        try:
            self.start()
            self.ctr("images", "import", str(self.directory / "pause.tar"))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.node.command("containerd", "--config", str(self.directory / "config.toml")),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        with self.cri() as cri:
            eventually(lambda: cri.network_problem() is None, "containerd's network is ready")

    def kill(self) -> None:
        """Kill it without a chance to tidy up; the pods go on, held by their shims."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def cri(self) -> Cri:
        """A client."""
        return Cri(self.socket)

    def ctr(self, *arguments: str) -> str:
        """containerd's own command line, in the namespace that Kubernetes has there."""
        command = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"ctr {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.directory / "log").read_text(errors="replace")

    def calls(self, sandbox: str) -> list[Call]:
        """What it has asked of our executable for a sandbox."""
        named = f"CNI_CONTAINERID={sandbox}"
        directories = (self.directory / "calls").iterdir()
        return [Call.read(one) for one in directories if named in (one / "env").read_text().splitlines()]

    def leftovers(self) -> list[object]:
        """What it keeps for sandboxes: the processes that hold them, and their network namespaces."""
        return [*self._shims(), *(self.directory / "state" / "io.containerd.grpc.v1.cri" / "netns").glob("*")]

    def end_shims(self) -> None:
        """End the processes that hold sandboxes, and with them their pods."""
        for pid in self._shims():
            sockets = _listening(pid)
            os.kill(pid, signal.SIGKILL)
            for path in sockets:
                path.unlink(missing_ok=True)
        for pid in self._members():
            os.kill(pid, signal.SIGKILL)

    def _shims(self) -> list[int]:
        return [pid for pid in _processes() if str(self.socket).encode() in _command(pid) and pid != self._pid]

    @property
    def _pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def _config(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return f"""
version = 2
root = "{self.directory}/root"
state = "{self.directory}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{self.socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{self.directory}/opt"
[{cri}]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
sandbox_image = "{PAUSE}"
[{cri}.cni]
bin_dir = "{self.directory}/bin"
conf_dir = "{self.directory}/net.d"
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
Root = "{self.directory}/runc"
"""

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
        self.end_shims()
        for mount in sorted(_mounts(self.directory), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False)
        eventually(lambda: not self._members(), "the pods' processes are gone")
        for cgroup in sorted(self._cgroups(), reverse=True):
            cgroup.rmdir()
        if self._mounted:
            subprocess.run(["umount", "--recursive", str(_CGROUPS)], check=True)
        shutil.rmtree(self.directory)
        for directory in (_SHIM_SOCKETS, _SHIM_SOCKETS.parent):
            with suppress(OSError):  # it never was, or somebody else uses it
                directory.rmdir()

    def _cgroups(self) -> list[Path]:
        roots = [path for path in _CGROUPS.glob(f"*/{self.cgroup}") if path.is_dir()]
        roots += [path for path in [_CGROUPS / self.cgroup] if path.is_dir()]
        return [path for root in roots for path in (root, *(below for below in root.rglob("*") if below.is_dir()))]

    def _members(self) -> set[int]:
        files = [cgroup / "cgroup.procs" for cgroup in self._cgroups()]
        return {int(pid) for file in files if file.exists() for pid in file.read_text().split()}


def _mount_cgroups() -> bool:
    """Mount the cgroups if nobody has, as in a chroot; whether that was done. runc makes no container without.

    Of version 1, a hierarchy for each controller, where the kernel has its controllers there (cgroups(7)).
    """
    if any(line.split(" - ")[1].startswith("cgroup") for line in Path("/proc/self/mountinfo").read_text().splitlines()):
        return False
    known = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()[1:]]
    first = [name for name, hierarchy, *_ in known if hierarchy != "0"]
    _mount("tmpfs" if first else "cgroup2", _CGROUPS)
    for name in first:
        (_CGROUPS / name).mkdir()
        _mount("cgroup", _CGROUPS / name, "-o", name)
    return True


def _mount(kind: str, where: Path, *options: str) -> None:
    subprocess.run(["mount", "-t", kind, *options, kind, str(where)], check=True)


def pause_image() -> bytes:
    """The image of a sandbox, as `docker save` would write it."""
    layer = _archive({"busybox": BUSYBOX.read_bytes(), "index.html": PAGE})
    config = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": ["/busybox", "httpd", "-f", "-p", str(PORT), "-h", "/"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    return _archive(
        {
            "layer.tar": layer,
            "config.json": json.dumps(config).encode(),
            "manifest.json": json.dumps(manifest).encode(),
        }
    )


def _archive(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _command(pid: int) -> bytes:
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes()
    except OSError:
        return b""


def _listening(pid: int) -> list[Path]:
    """The Unix sockets of a shim: it would remove them itself if it could."""
    held = {os.readlink(link) for link in Path("/proc", str(pid), "fd").iterdir()}
    table = [line.split() for line in Path("/proc", str(pid), "net", "unix").read_text().splitlines()[1:]]
    paths = [Path(row[7]) for row in table if len(row) > 7 and f"socket:[{row[6]}]" in held]
    return [path for path in paths if path.parent == _SHIM_SOCKETS]


def _mounts(directory: Path) -> list[str]:
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{directory}/")]
