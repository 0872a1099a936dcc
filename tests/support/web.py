"""A web server that says its name, and a client that counts who answers; each is a process in a namespace of its own.

    nsenter --net=... python web.py serve PORT NAME
    nsenter --net=... python web.py ask COUNT URL       prints {"answers": {NAME: COUNT}, "failures": [WHY]}

The client opens a connection for each request, and asks one after the other, until SIGTERM at the latest.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from k8sovs.lab.waiting import PATIENCE

TIMEOUT_S = 10.0
# A test run that is killed, by its time limit for instance, must leave nothing behind.
IN_NAMESPACE = ("setpriv", "--pdeathsig", "KILL", "nsenter")


class Server(ThreadingHTTPServer):
    """Takes as many connections at once as a test makes."""

    request_queue_size = 128

    def server_bind(self) -> None:
        """As for any server: the one for HTTP would first ask for the name of its address, which nobody answers."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "web", self.server_address[1]

    def handle_error(self, *_: object) -> None:
        """Health checks hang up before they have been answered in full."""


def serve(port: int, name: str) -> None:
    """Answer every GET with `name`, every POST with the length of what was posted, for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(name)

        def do_POST(self) -> None:
            self.answer(str(len(self.rfile.read(int(self.headers["Content-Length"])))))

        def answer(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.send_header("X-Client", self.client_address[0])
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with Server(("0.0.0.0", port), Handler) as server:
        sys.stdout.write("serving\n")
        sys.stdout.flush()
        server.serve_forever()


def ask(count: int, url: str) -> None:
    """Ask `count` times, and print what came of it."""
    answers: Counter[str] = Counter()
    failures = []
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append("to stop"))
    for _ in range(count):
        if told:
            break
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                answers[response.read().decode()] += 1
        except OSError as error:
            failures.append(str(error))
    sys.stdout.write(json.dumps({"answers": answers, "failures": failures}))


def start_server(netns: str, port: int, name: str) -> subprocess.Popen[str]:
    """A server in a network namespace, once it listens."""
    argv = [*IN_NAMESPACE, f"--net={netns}", "--", sys.executable, __file__, "serve", str(port), name]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "serving\n", f"{name} does not listen on {port}"
    return process


class Asking:
    """Requests under way from a network namespace."""

    def __init__(self, netns: str, url: str, count: int) -> None:
        argv = [*IN_NAMESPACE, f"--net={netns}", "--", sys.executable, __file__, "ask", str(count), url]
        # A proxy of this machine's is none of the namespace's.
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment)

    def stop(self) -> None:
        """Let the request under way be the last."""
        self._process.terminate()

    def ended(self) -> tuple[dict[str, int], list[str]]:
        """How many answers came from whom, and why others failed."""
        output, _ = self._process.communicate(timeout=120 * PATIENCE)
        outcome = json.loads(output)
        return outcome["answers"], outcome["failures"]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), sys.argv[3])
    else:
        ask(int(sys.argv[2]), sys.argv[3])
