"""Flows and groups of all Services, made anew only for those that have changed.

There is a piece for each Service and one for each address that has endpoints, which several Services may share. As
there may be tens of thousands, they are put together in `SHARDS` parts; a change makes those parts anew that it is in.
Many changes at once can be taken a few at a time, so that nobody has to wait for all of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network
from zlib import crc32

from flows.balancing import Frontend, fragment_flow, frontends, service_rules
from flows.flow import Flow, FlowKey, Source
from flows.group import GroupEntry, GroupKey
from flows.replies import Answering, Place, direct_flows, reply_flows, steered_flows
from flows.service import Service, ServiceProxy, answers
from flows.tables import UNROUTABLE

Rule = Flow | GroupEntry
RuleKey = FlowKey | GroupKey
Part = Mapping[RuleKey, Rule]

PartName = tuple[Source, int]
"""A source, and the number of one of its parts; only Services have more than one."""

SHARDS = 2048
_LARGEST_GROUP = 0xFFFFFF00

_Name = tuple[str, str | int]
"""Of a piece: what kind of thing it is about, and which."""


class ServiceParts:
    """Remembers the parts of the last Services, by the Service's key or the endpoints' address.

    `network` is that of the cluster's Services, `pods` that of all pods, `subnet` that of this node's. Nobody may claim
    an address of these as an external one: it would take the packets of somebody else.
    """

    def __init__(self, network: IPv4Network, pods: IPv4Network, subnet: IPv4Network, proxy: ServiceProxy) -> None:
        self._balances = proxy is ServiceProxy.OVS
        self._network = network
        self._kept_free = (network, pods, *UNROUTABLE)
        self._pods = pods
        self._subnet = subnet
        self._services: Mapping[str, Service] = {}
        self._parts: dict[PartName, Part] = {}
        self._pieces: list[dict[_Name, Part]] = [{} for _ in range(SHARDS)]
        self._touched: set[int] = set()
        self._claims: dict[Frontend, set[tuple[bool, str]]] = defaultdict(set)
        self._outer: Counter[IPv4Address] = Counter()
        self._answering: dict[IPv4Address, Counter[Answering]] = defaultdict(Counter)
        self._numbers = GroupNumbers()
        self.complete = True
        """Whether the parts are those of all that was asked for last."""
        self.ended: frozenset[Place] = frozenset()
        """Endpoints that went with the last update and had said before that they would: nothing is left of them."""

    def update(self, services: Mapping[str, Service], most: int | None = None) -> Mapping[PartName, Part]:
        """The parts for `services`; those that have not changed are the same objects.

        No more than about `most` ports and endpoints are looked at. If there are more that have changed, `complete` is
        False, and the parts are those for some of the new Services and some of the old.
        """
        if services is self._services:
            return self._parts
        if self.complete:
            self.ended = frozenset()
        before = self._services
        gone = sorted(before.keys() - services.keys())
        concerned = gone + sorted(key for key, service in services.items() if before.get(key) is not service)
        taken = concerned if most is None else list(_up_to(most, concerned, before, services))
        self.complete = len(taken) == len(concerned)
        now = dict(before)
        for key in taken:
            if key in services:
                now[key] = services[key]
            else:
                del now[key]
        self._services = services if self.complete else now
        changed = {key for key in taken if key in services}
        old = [before[key] for key in taken if key in before]
        new = [services[key] for key in taken if key in services]
        if self._balances:
            self._balance(now, changed, old, new)
        self._recount_endpoints(old, new)
        self._parts = dict(self._parts)
        for number in self._touched:
            part = {key: rule for piece in self._pieces[number].values() for key, rule in piece.items()}
            self._parts[Source.SERVICES, number] = part
        self._touched.clear()
        return self._parts

    def _balance(
        self, services: Mapping[str, Service], changed: set[str], old: Sequence[Service], new: Sequence[Service]
    ) -> None:
        """Make the pieces of Services anew that have changed, or whose claims others have."""
        rivals = self._reclaim(old, new)
        for service in old:
            if service.key not in services:
                self._put(("service", service.key), {})
                self._numbers.release(service.key)
        for key in sorted(changed | (rivals & services.keys())):
            rules = service_rules(services[key], partial(self._has, key), self._network, self._numbers.of)
            self._put(("service", key), {rule.key: rule for rule in rules})
        self._recount_outer(old, new)

    def _put(self, name: _Name, piece: Part) -> None:
        number = crc32(str(name[1]).encode()) % SHARDS
        if piece:
            self._pieces[number][name] = piece
        else:
            self._pieces[number].pop(name, None)
        self._touched.add(number)

    def _reclaim(self, old: Iterable[Service], new: Iterable[Service]) -> set[str]:
        """Take the claims of `old` for those of `new`; the Services that others' claims may have changed for."""
        touched: set[Frontend] = set()
        for service in old:
            for frontend, own in frontends(service):
                self._claims[frontend].discard((not own, service.key))
                touched.add(frontend)
        for service in new:
            for frontend, own in frontends(service):
                self._claims[frontend].add((not own, service.key))
                touched.add(frontend)
        rivals = {key for frontend in touched for _, key in self._claims[frontend]}
        for frontend in touched:
            if not self._claims[frontend]:
                del self._claims[frontend]
        return rivals

    def _has(self, key: str, frontend: Frontend) -> bool:
        """Of several that claim it, the Service has it whose own address it is, then the first by name."""
        foreign, winner = min(self._claims[frontend])
        address = frontend.address
        stolen = foreign and address is not None and any(address in network for network in self._kept_free)
        return winner == key and not stolen

    def _recount_outer(self, old: Iterable[Service], new: Iterable[Service]) -> None:
        """Keep one part for each address outside the network of Services."""
        for services, step in ((old, -1), (new, 1)):
            for service in services:
                for address in {*service.external, *service.cluster_addresses}:
                    if address in self._network:
                        continue
                    self._outer[address] += step
                    flow = fragment_flow(address)
                    self._put(("outer", int(address)), {flow.key: flow} if self._outer[address] else {})

    def _recount_endpoints(self, old: Iterable[Service], new: Iterable[Service]) -> None:
        """Make the parts of those addresses anew whose ports are others now."""
        before: dict[IPv4Address, frozenset[Answering]] = {}
        ending = {place for service in old for place in _ending(service)}
        for services, step in ((old, -1), (new, 1)):
            for service in services:
                for address, answering in _answering(service):
                    counted = self._answering[address]
                    before.setdefault(address, frozenset(counted))
                    counted[answering] += step
                    if not counted[answering]:
                        del counted[answering]
        self.ended = frozenset(place for place in self.ended | ending if not self._answers(place))
        for address, ports in sorted(before.items()):
            counted = self._answering[address]
            if not counted:
                del self._answering[address]
                self._put(("endpoint", int(address)), {})
            elif counted.keys() != ports:
                self._put(("endpoint", int(address)), {flow.key: flow for flow in self._of_endpoint(address, counted)})

    def _answers(self, place: Place) -> bool:
        return any(
            (one.protocol, one.port) == (place.protocol, place.port) for one in self._answering.get(place.address, ())
        )

    def _of_endpoint(self, address: IPv4Address, ports: Collection[Answering]) -> Iterator[Flow]:
        if self._balances:
            yield from reply_flows(address, ports, self._subnet)
            yield from direct_flows(address, ports, self._pods)
        else:
            yield from steered_flows(address, ports)


def _answering(service: Service) -> Iterator[tuple[IPv4Address, Answering]]:
    for port in service.ports:
        for endpoint in port.endpoints:
            if answers(port.protocol, endpoint):
                backend = endpoint.backend
                yield backend.address, Answering(port.protocol, backend.port, service.external_local)


def _up_to(
    most: int, keys: Iterable[str], before: Mapping[str, Service], after: Mapping[str, Service]
) -> Iterator[str]:
    """The first of `keys`, as many as have `most` ports and endpoints; one at least."""
    size = 0
    for key in keys:
        yield key
        service = after.get(key) or before[key]
        size += sum(1 + len(port.endpoints) for port in service.ports)
        if size >= most:
            return


def _ending(service: Service) -> Iterator[Place]:
    for port in service.ports:
        for endpoint in port.endpoints:
            if endpoint.terminating:
                yield Place(port.protocol, endpoint.backend.address, endpoint.backend.port)


class GroupNumbers:
    """A number for each group's name: a hash of it, so that an agent that starts again finds the groups it left.

    Of two names with one hash (there is one chance in twenty of that among 20,000) the later gets the next number.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._taken: set[int] = set()

    def of(self, name: str) -> int:
        """The number of the group called `name`, which begins with its Service's key."""
        number = self._numbers.get(name)
        if number is None:
            number = int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big") % _LARGEST_GROUP + 1
            while number in self._taken:
                number = number % _LARGEST_GROUP + 1
            self._numbers[name] = number
            self._taken.add(number)
        return number

    def release(self, service: str) -> None:
        """Forget the numbers of a Service that is gone."""
        for name in [name for name in self._numbers if name.startswith(f"{service}/")]:
            self._taken.discard(self._numbers.pop(name))
