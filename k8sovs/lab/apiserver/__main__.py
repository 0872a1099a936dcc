"""The server's process: `python -m k8sovs.lab.apiserver --listen 127.0.0.1:6443 [--listen-fd N]`.

It prints one line on standard output for each address that it listens on, as `listening ADDRESS:PORT`, once it does,
and ends on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

import yaml
from aiohttp import web

from k8sovs.lab.apiserver.addresses import ServiceAddresses
from k8sovs.lab.apiserver.journal import Journal
from k8sovs.lab.apiserver.registry import Registry
from k8sovs.lab.apiserver.resources import RESOURCES
from k8sovs.lab.apiserver.server import ApiServer
from k8sovs.lab.apiserver.store import Store

SHUTDOWN_S: Final = 0.2
"""Open requests (watches) get this long."""

_SUFFIX_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
"""That of Kubernetes: no vowels, hence no words."""


def listening_socket(address: str) -> socket.socket:
    """A TCP socket at HOST:PORT. OSError: the address cannot be had; ValueError: it is none."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"--listen {address}: expected HOST:PORT")
    try:
        return socket.create_server((host, int(port)), backlog=1024)
    except OSError as error:
        raise OSError(f"--listen {address}: {error.strerror or error}") from error


def name_suffix() -> str:
    """The end of a generated name."""
    return "".join(random.choices(_SUFFIX_ALPHABET, k=5))


async def serve(sockets: Sequence[socket.socket], options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Clients come back with the versions of a server before this one: start above them, so that they are told to
    # list again. A hundred writes a second would be needed to catch up with the clock.
    journal = Journal(options.journal) if options.journal is not None else None
    store = Store(revision=int(time.time() * 100), history_length=options.history, journal=journal)
    registry = Registry(
        store,
        ServiceAddresses(options.service_network),
        now=lambda: datetime.now(UTC),
        new_uid=lambda: str(uuid.uuid4()),
        name_suffix=name_suffix,
    )
    for path in options.manifest:
        for document in yaml.safe_load_all(path.read_text()):
            group, _, _ = document["apiVersion"].rpartition("/")
            resource = next(one for one in RESOURCES if one.kind == document["kind"] and one.group == group)
            registry.create(resource, document["metadata"].get("namespace", ""), document)
    application = ApiServer(registry, bookmark_interval_s=options.bookmark_interval).application()
    runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        for opened in sockets:
            await web.SockSite(runner, opened).start()
            host, port = opened.getsockname()[:2]
            sys.stdout.write(f"listening {host}:{port}\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await runner.cleanup()


def main() -> int:
    """Parse the command line and serve; 1 if an address cannot be listened on."""
    parser = argparse.ArgumentParser(prog="k8sovs-lab-apiserver", description="in-memory Kubernetes API of the lab")
    parser.add_argument("--listen", action="append", default=[], metavar="HOST:PORT", help="port 0 takes a free one")
    parser.add_argument("--listen-fd", action="append", default=[], type=int, metavar="N", help="a listening socket")
    parser.add_argument(
        "--manifest", action="append", default=[], type=Path, metavar="FILE", help="objects to begin with (YAML)"
    )
    parser.add_argument("--service-network", type=IPv4Network, default=IPv4Network("10.96.0.0/12"))
    parser.add_argument("--bookmark-interval", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--history", type=int, default=10_000, metavar="N", help="changes of each kind to remember")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="keep the objects here for the next server")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        try:
            sockets = [stack.enter_context(listening_socket(address)) for address in arguments.listen]
            sockets += [stack.enter_context(socket.socket(fileno=number)) for number in arguments.listen_fd]
        except (OSError, ValueError) as error:
            sys.stderr.write(f"the API server cannot listen: {error}\n")
            return 1
        if not sockets:
            parser.error("nothing to listen on: give --listen or --listen-fd")
        asyncio.run(serve(sockets, arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
