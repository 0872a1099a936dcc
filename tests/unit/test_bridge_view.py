from __future__ import annotations

from agent.bridge import PortView, squatters


def port(name: str, ofport: int | None, request: int | None = None) -> PortView:
    return PortView(name, "", ofport, request, {}, None)


def test_nobody_is_moved_who_sits_right() -> None:
    assert squatters([port("vxlan0", 1, 1), port("tun0", 2, 2), port("k8oa", 256, 256), port("br0", 65534)]) == {}


def test_who_holds_a_number_of_the_overlay_moves_to_a_free_one() -> None:
    assert squatters([port("eth1", 1), port("eth2", 2), port("eth3", 3)]) == {"eth1": 4, "eth2": 5}


def test_who_asks_for_a_number_of_the_overlay_moves_too() -> None:
    assert squatters([port("eth1", 7, 1)]) == {"eth1": 3}


def test_who_is_on_the_way_to_another_number_is_not_told_again() -> None:
    assert squatters([port("eth1", 1, 3)]) == {}


def test_a_number_that_somebody_asks_for_is_not_free() -> None:
    assert squatters([port("eth1", 1), port("eth2", None, 3)]) == {"eth1": 4}


def test_the_overlays_own_ports_are_no_squatters_even_when_swapped() -> None:
    assert squatters([port("vxlan0", 2), port("tun0", 1)]) == {}
