"""Tells the service manager that the host is ready, so that what depends on it is started then (sd_notify(3))."""

from __future__ import annotations

import socket

from k8sovs.logs import get_logger

log = get_logger(__name__)

TIMEOUT_S = 1.0
"""A manager whose queue is full has stopped reading; the host is no less ready for it."""


def ready(address: str) -> None:
    """Say it at `address`, the value of `NOTIFY_SOCKET`; empty where nobody wants to know.

    That nobody listens is logged, and no more.
    """
    if not address:
        return
    # An "@" stands for the zero byte of the abstract namespace (unix(7)).
    name = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(TIMEOUT_S)
            manager.connect(name)
            manager.send(b"READY=1")
    except OSError as error:
        log.warning("service-manager-not-told", socket=address, error=str(error))
