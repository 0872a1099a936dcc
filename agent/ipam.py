"""Addresses of this node's subnet: who has which, and which is next.

An address goes out again as late as possible: first those never used, in ascending order, then the one that has been
free for longest. What outlives the agent is kept beside the ports in OVSDB; at start it comes back by `reserve`.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address, IPv4Network


class SubnetFull(Exception):
    """Every address of the subnet is in use."""

    def __init__(self, subnet: IPv4Network, capacity: int) -> None:
        super().__init__(f"all {capacity} pod addresses of this node's subnet {subnet} are in use")


class AddressRefused(Exception):
    """This address cannot be reserved: it belongs to somebody else, or is none for pods."""


class Leases:
    """The addresses of `subnet` without its first two (network, gateway) and its last (broadcast)."""

    def __init__(self, subnet: IPv4Network) -> None:
        self.subnet = subnet
        self._owners: dict[IPv4Address, str] = {}
        self._freed: OrderedDict[IPv4Address, None] = OrderedDict()
        self._first = self._unused = int(subnet.network_address) + 2
        self._end = int(subnet.broadcast_address)

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def capacity(self) -> int:
        """How many pods can have an address."""
        return max(0, self._end - self._first)

    @property
    def full(self) -> bool:
        """Whether `allocate` would raise."""
        return len(self._owners) >= self.capacity

    def owner(self, address: IPv4Address) -> str | None:
        """Who has `address`."""
        return self._owners.get(address)

    def allocate(self, owner: str) -> IPv4Address:
        """An address for `owner`. Raises SubnetFull."""
        while self._unused < self._end:
            address = IPv4Address(self._unused)
            self._unused += 1
            if address not in self._owners and address not in self._freed:
                break
        else:
            if not self._freed:
                raise SubnetFull(self.subnet, self.capacity)
            address, _ = self._freed.popitem(last=False)
        self._owners[address] = owner
        return address

    def release(self, owner: str) -> None:
        """Make free what `owner` has; nothing happens if that is nothing."""
        for address in [held for held, holder in self._owners.items() if holder == owner]:
            del self._owners[address]
            self._freed[address] = None

    def reserve(self, address: IPv4Address, owner: str) -> None:
        """Give `owner` exactly this address, as it had it before. Raises AddressRefused."""
        if not self._first <= int(address) < self._end:
            raise AddressRefused(f"{address} is no pod address of this node's subnet {self.subnet}")
        holder = self._owners.setdefault(address, owner)
        if holder != owner:
            raise AddressRefused(f"{address} cannot be reserved for {owner}: {holder} has it")
        self._freed.pop(address, None)
