from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ipam import AddressRefused, Leases, SubnetFull

SUBNET = IPv4Network("172.11.4.0/29")


def test_the_network_the_gateway_and_the_broadcast_address_are_never_given_out() -> None:
    leases = Leases(SUBNET)
    given_out = [str(leases.allocate(f"pod{i}")) for i in range(leases.capacity)]
    assert given_out == ["172.11.4.2", "172.11.4.3", "172.11.4.4", "172.11.4.5", "172.11.4.6"]


def test_a_full_subnet_says_so_and_gives_nothing() -> None:
    leases = Leases(SUBNET)
    for i in range(leases.capacity):
        leases.allocate(f"pod{i}")
    with pytest.raises(SubnetFull, match="all 5 pod addresses"):
        leases.allocate("one too many")
    assert len(leases) == 5


def test_the_address_that_has_been_free_for_longest_goes_out_first() -> None:
    leases = Leases(SUBNET)
    first, second, third = (leases.allocate(name) for name in "abc")
    for owner in "bca":
        leases.release(owner)
    unused = [leases.allocate(name) for name in "de"]
    assert [leases.allocate(name) for name in "fgh"] == [second, third, first]
    assert not {first, second, third} & set(unused)


def test_releasing_twice_gives_the_address_out_once() -> None:
    leases = Leases(IPv4Network("172.11.4.0/30"))
    address = leases.allocate("a")
    leases.release("a")
    leases.release("a")
    assert leases.allocate("b") == address
    with pytest.raises(SubnetFull):
        leases.allocate("c")


def test_who_has_no_address_releases_none() -> None:
    leases = Leases(SUBNET)
    address = leases.allocate("a")
    leases.release("another")
    assert leases.owner(address) == "a"


def test_an_owner_gives_back_all_it_has() -> None:
    leases = Leases(SUBNET)
    addresses = [leases.allocate("a"), leases.allocate("a")]
    leases.release("a")
    assert [leases.owner(address) for address in addresses] == [None, None]


def test_a_reserved_address_is_not_given_to_another() -> None:
    leases = Leases(SUBNET)
    leases.reserve(IPv4Address("172.11.4.2"), "old")
    assert leases.allocate("new") == IPv4Address("172.11.4.3")
    assert leases.owner(IPv4Address("172.11.4.2")) == "old"


def test_an_address_cannot_be_reserved_for_two() -> None:
    leases = Leases(SUBNET)
    leases.reserve(IPv4Address("172.11.4.2"), "first")
    with pytest.raises(AddressRefused, match="second: first has it"):
        leases.reserve(IPv4Address("172.11.4.2"), "second")


@pytest.mark.parametrize("address", ["172.11.4.0", "172.11.4.1", "172.11.4.7", "172.11.4.8", "10.0.0.1"])
def test_an_address_that_no_pod_can_have_cannot_be_reserved(address: str) -> None:
    with pytest.raises(AddressRefused, match="no pod address"):
        Leases(SUBNET).reserve(IPv4Address(address), "a")


@pytest.mark.parametrize("subnet", ["10.0.0.0/31", "10.0.0.0/32"])
def test_a_subnet_without_room_for_a_pod_is_full(subnet: str) -> None:
    leases = Leases(IPv4Network(subnet))
    assert leases.capacity == 0
    with pytest.raises(SubnetFull):
        leases.allocate("a")


STEPS = st.lists(
    st.tuples(st.sampled_from(["allocate", "release", "reserve"]), st.integers(min_value=0, max_value=7)), max_size=60
)


@given(STEPS)
def test_leases_agree_with_a_list_of_addresses_in_the_order_of_their_release(steps: list[tuple[str, int]]) -> None:
    leases = Leases(SUBNET)
    free = [SUBNET[i] for i in range(2, 7)]
    used: dict[IPv4Address, str] = {}
    for number, (step, position) in enumerate(steps):
        owner, address = f"pod{number}", SUBNET[position]
        if step == "allocate" and free:
            assert leases.allocate(owner) == free[0]
            used[free.pop(0)] = owner
        elif step == "release":
            leases.release(used.get(address, owner))
            if used.pop(address, None):
                free.append(address)
        elif step == "reserve" and address in free:
            leases.reserve(address, owner)
            free.remove(address)
            used[address] = owner
        assert {at: leases.owner(at) for at in SUBNET if leases.owner(at)} == used
