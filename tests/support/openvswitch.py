"""A private Open vSwitch: its own database, its own switch daemon, its own run directory, for any user.

It knows no kernel datapath. With `dummy` (the default) every device is simulated, so nothing outside the run directory
is touched and no privilege is needed; without it bridges are of the userspace datapath and their internal ports are
tap devices, which takes root and a network namespace of one's own.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
START_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 30.0


class CommandFailed(Exception):
    """A command of Open vSwitch exited with an error; the message holds the command and what it said."""


class OpenVswitch:
    """ovsdb-server and ovs-vswitchd in a temporary directory, running from `__enter__` to `__exit__`.

    `prefix` goes before each daemon's command line, for instance `("nsenter", "--net=/run/netns/x", "--")`; it has to
    end in an exec, so that the process keeps its id. `arguments` are more flags for ovs-vswitchd.
    """

    def __init__(self, *, dummy: bool = True, prefix: tuple[str, ...] = (), arguments: tuple[str, ...] = ()) -> None:
        self._dummy = dummy
        self._arguments = arguments
        self._prefix = prefix
        self._directory = tempfile.TemporaryDirectory(prefix="k8sovs-ovs-")
        self._vswitchd: subprocess.Popen[bytes] | None = None
        self._ovsdb: subprocess.Popen[bytes] | None = None
        self.rundir = Path(self._directory.name)

    def __enter__(self) -> OpenVswitch:
        try:
            self._run("ovsdb-tool", "create", str(self._database), str(SCHEMA))
            self.start_ovsdb()
            self.vsctl("--no-wait", "init")
            self.start_vswitchd()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def db_socket(self) -> Path:
        """The Unix socket on which the database answers."""
        return self.rundir / "db.sock"

    @property
    def vswitchd_pid(self) -> int:
        """Process id of the running ovs-vswitchd."""
        assert self._vswitchd is not None, "ovs-vswitchd is not running"
        return self._vswitchd.pid

    @property
    def control_socket(self) -> Path:
        """The control socket (unixctl) of the running ovs-vswitchd."""
        return self.rundir / f"ovs-vswitchd.{self.vswitchd_pid}.ctl"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which any program of Open vSwitch works on this switch."""
        rundir = str(self.rundir)
        directories = dict.fromkeys(("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"), rundir)
        return {**os.environ, **directories}

    def mgmt(self, bridge: str) -> Path:
        """The Unix socket on which `bridge` speaks OpenFlow."""
        return self.rundir / f"{bridge}.mgmt"

    def log(self) -> str:
        """What ovs-vswitchd has logged so far."""
        return (self.rundir / "ovs-vswitchd.log").read_text()

    def vsctl(self, *arguments: str) -> str:
        """`ovs-vsctl`; unless told `--no-wait` it returns when the switch has done what was asked."""
        return self._run("ovs-vsctl", f"--db=unix:{self.db_socket}", "--retry", "--timeout=20", *arguments)

    def ofctl(self, *arguments: str, stdin: str | bytes | None = None) -> str:
        """`ovs-ofctl` in OpenFlow 1.5; a bridge is called by its name."""
        return self._run("ovs-ofctl", "--protocols=OpenFlow15", "--timeout=20", *arguments, stdin=stdin)

    def appctl(self, *arguments: str) -> str:
        """`ovs-appctl` to ovs-vswitchd."""
        return self._run("ovs-appctl", f"--target={self.control_socket}", "--timeout=20", *arguments)

    def trace(self, bridge: str, flow: str) -> str:
        """What `bridge` would do with a packet given in the words of ovs-fields(7)."""
        return self.appctl("ofproto/trace", bridge, flow)

    def start_ovsdb(self) -> None:
        """Start the database server and wait until it answers."""
        self._ovsdb = self._start("ovsdb-server", str(self._database), f"--remote=punix:{self.db_socket}")
        self._await(lambda: self.db_socket.exists(), self._ovsdb, "ovsdb-server")

    def kill_ovsdb(self) -> None:
        """Kill the database server without a chance to tidy up."""
        _kill(self._ovsdb)
        self._ovsdb = None
        self.db_socket.unlink(missing_ok=True)

    def start_vswitchd(self) -> None:
        """Start the switch daemon and wait until it has configured every bridge of the database."""
        # The override puts simulated datapaths in the place of both "system" and "netdev".
        datapath = "--enable-dummy=override" if self._dummy else "--disable-system"
        self._vswitchd = self._start("ovs-vswitchd", f"unix:{self.db_socket}", datapath, *self._arguments)
        self._await(lambda: self.control_socket.exists(), self._vswitchd, "ovs-vswitchd")
        self.vsctl("set", "Open_vSwitch", ".", f"external_ids:test-vswitchd={self.vswitchd_pid}")

    def kill_vswitchd(self) -> None:
        """Kill the switch daemon without a chance to tidy up: its flows are gone, its sockets stay as dead files."""
        _kill(self._vswitchd)
        self._vswitchd = None

    @property
    def _database(self) -> Path:
        return self.rundir / "conf.db"

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        # setpriv lets the kernel end the daemon when the test process dies, however it dies.
        command = [*self._prefix, "setpriv", "--pdeathsig=KILL", program, *arguments]
        options = ["--pidfile", "--log-file", "--verbose=console:off", "--no-chdir"]
        return subprocess.Popen(
            command + options,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _await(self, ready: Callable[[], bool], process: subprocess.Popen[bytes], name: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                log = self.rundir / f"{name}.log"
                raise CommandFailed(f"{name} did not start: {log.read_text() if log.exists() else 'no log'}")
            time.sleep(0.005)

    def _run(self, *command: str, stdin: str | bytes | None = None) -> str:
        result = subprocess.run(
            command,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=self.environment,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if result.returncode:
            said = (result.stderr + result.stdout).decode(errors="replace").strip()
            raise CommandFailed(f"{' '.join(command)}: exit status {result.returncode}: {said}")
        return result.stdout.decode()

    def _stop(self) -> None:
        _kill(self._vswitchd)
        _kill(self._ovsdb)
        self._directory.cleanup()


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()
