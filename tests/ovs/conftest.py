from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.openvswitch import OpenVswitch


@pytest.fixture
def openvswitch() -> Iterator[OpenVswitch]:
    """A private Open vSwitch with simulated devices and no bridge yet."""
    with OpenVswitch() as switch:
        yield switch
