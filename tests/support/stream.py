"""A stream of numbered datagrams from one pod to another, one each millisecond, that tells which got lost.

with Stream(sender.sandbox, receiver.sandbox, address) as stream:
    ...whatever is to be survived...
assert stream.lost == 0
"""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType

from tests.support.namespaces import Sandbox

PORT = 9000
_RECEIVE = f"""
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
sock.bind(("", {PORT}))
print("ready", flush=True)
sock.settimeout(20)
seen = set()
while (data := sock.recv(64)) != b"end":
    seen.add(data)
print(len(seen))
"""
_SEND = f"""
import select, socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], {PORT}))
count, due = 0, time.monotonic()
while not select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
    sock.send(b"%d" % count)
    count, due = count + 1, due + 0.001
print(count)
time.sleep(0.1)
for _ in range(10):  # nobody knows whether one arrives
    sock.send(b"end")
"""


class Stream:
    """The stream flows from `__enter__` to `__exit__`; then `sent` and `lost` say how it went."""

    def __init__(self, sender: Sandbox, receiver: Sandbox, address: str) -> None:
        self._sender = sender
        self._receiver = receiver
        self._address = address
        self.sent = 0
        self.lost = 0

    def __enter__(self) -> Stream:
        self._receiving = self._start(self._receiver, _RECEIVE)
        assert self._receiving.stdout is not None
        self._receiving.stdout.readline()
        self._sending = self._start(self._sender, _SEND, self._address)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            sent, _ = self._sending.communicate("stop\n", timeout=20)
            received, complaint = self._receiving.communicate(timeout=30)
            assert received, f"the stream broke off: {complaint}"
            self.sent, self.lost = int(sent), int(sent) - int(received)
        finally:
            self._sending.kill()
            self._receiving.kill()

    def _start(self, sandbox: Sandbox, program: str, *arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            sandbox.command(sys.executable, "-c", program, *arguments), stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
