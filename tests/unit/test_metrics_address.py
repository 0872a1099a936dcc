"""Where a daemon shows its metrics."""

import subprocess
import sys

# The interpreter tells a hook of each look-up of a name; hooks cannot be taken off, hence a process of its own.
PROGRAM = """
import asyncio, sys
from prometheus_client import CollectorRegistry
from k8sovs.exposition import Exposition

def refuse(event, arguments):
    if event.startswith(("socket.gethostby", "socket.getnameinfo")):
        sys.exit(f"asked a name server: {event} {arguments}")

async def serve():
    async with Exposition(CollectorRegistry(), "127.0.0.1:0"):
        pass

sys.addaudithook(refuse)
asyncio.run(serve())
"""


def test_a_daemon_asks_no_name_server_to_show_its_metrics() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
