"""Sockets inside other network namespaces, without a fork.

A socket belongs for ever to the network namespace that its thread was in when it was opened (network_namespaces(7)).
So a thread steps into the namespace, opens its sockets, and steps back; the sockets then serve any thread.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000

_OWN = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)


class NetnsGone(Exception):
    """There is no network namespace at `path`."""

    def __init__(self, path: str, reason: str | None) -> None:
        super().__init__(f"no network namespace at {path}: {reason}; the sandbox is gone or never was")
        self.path = path


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of the network namespace at `path`. Raises NetnsGone."""
    try:
        # Not blocking: a pipe at this path would otherwise hold the thread until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NetnsGone(path, error.strerror) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def entered(descriptor: int, path: str) -> Iterator[None]:
    """The calling thread is inside the namespace `descriptor` (opened from `path`), and back outside afterwards.

    Call it in a thread that nobody else relies on, never across an await. Raises NetnsGone if `path` turned out to
    be an ordinary file, as it is after a reboot that forgot to remove it.
    """
    with opened(_OWN) as home:
        try:
            setns(descriptor)
        except OSError as error:
            raise NetnsGone(path, error.strerror) from None
        try:
            yield
        finally:
            setns(home)


def setns(descriptor: int) -> None:
    """Move the calling thread into the network namespace `descriptor` (setns(2)). Raises OSError."""
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def is_own(descriptor: int) -> bool:
    """Whether `descriptor` is the namespace that the calling thread is in."""
    theirs, ours = os.fstat(descriptor), os.stat(_OWN)
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
