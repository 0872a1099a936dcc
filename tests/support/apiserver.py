"""The embedded API server as a process of its own, and kubectl against it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: lab, cluster: {{server: "http://{address}"}}}}]
contexts: [{{name: lab, context: {{cluster: lab, user: lab}}}}]
users: [{{name: lab, user: {{}}}}]
current-context: lab
"""


class ApiServerProcess:
    """Starts on entering; `kubeconfig` is the path of a file that leads to it."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._arguments = arguments
        self._listen = "127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None
        self.kubeconfig = directory / "kubeconfig"
        self.address = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """A new server with no objects; at the address of the one before, if there was one."""
        # A test run that is killed, by its time limit for instance, must leave no server behind.
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "k8sovs.lab.apiserver"]
        command += ["--listen", self._listen, *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().split()
        assert line[:1] == ["listening"], "the API server did not start: see its standard error"
        self.address = self._listen = line[1]
        self.kubeconfig.write_text(KUBECONFIG.format(address=self.address))

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(10)
        self.kill()
        return status

    def kill(self) -> None:
        """Whatever state it is in, nothing is left of it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def pause(self) -> None:
        """It keeps its connections, and is silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Standard output of kubectl; CalledProcessError, with its standard error, if it fails."""
        environment = os.environ | {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.kubeconfig.parent)}
        command = ["kubectl", *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=check, timeout=30, env=environment
        ).stdout
