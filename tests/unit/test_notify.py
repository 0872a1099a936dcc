"""What the service manager hears of a host that is ready, on a socket as systemd's."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agent import notify


@pytest.mark.parametrize("is_abstract", [False, True])
def test_the_service_manager_is_told_where_it_asked_to_be(tmp_path: Path, is_abstract: bool) -> None:
    address = f"@k8sovs-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        manager.settimeout(10)
        notify.ready(address)
        assert manager.recv(100) == b"READY=1"


def test_a_service_manager_that_is_not_there_or_not_asked_for_is_no_reason_to_fail(tmp_path: Path) -> None:
    notify.ready("")
    notify.ready(str(tmp_path / "nobody"))
