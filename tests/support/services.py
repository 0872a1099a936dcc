"""Services for worlds: one of each kind, and a strategy that mixes states of endpoints."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import strategies as st

from flows.service import Backend, Endpoint, Protocol, Service, ServicePort

TCP, UDP = Protocol.TCP, Protocol.UDP


def vip(number: int) -> IPv4Address:
    """A cluster address of the worlds' network of Services."""
    return IPv4Address("10.96.0.0") + number


def endpoint(address: IPv4Address | str, port: int = 8080, **state: bool) -> Endpoint:
    """An endpoint; the world says on whose node it is."""
    return Endpoint(Backend(IPv4Address(address), port), local=False, **state)


def service(name: str, number: int, *endpoints: Endpoint, **more: object) -> Service:
    """A Service with one port, 80 over TCP."""
    return Service(name, (vip(number),), (ServicePort(TCP, 80, None, endpoints),), **more)  # type: ignore[arg-type]


def examples() -> tuple[Service, ...]:
    """Each kind once; addresses of endpoints are those of the worlds' first two nodes."""
    here, there = endpoint("172.11.0.2"), endpoint("172.11.4.2")
    dns = (ServicePort(UDP, 53, None, (here,)), ServicePort(TCP, 53, None, (here, there)))
    web = (ServicePort(TCP, 80, 30080, (here, there)),)
    return (
        service("a/plain", 10, here, there),
        Service("a/two-ports", (vip(11),), dns),
        service("a/empty", 12),
        service("a/sticky", 13, here, there, affinity_s=60),
        Service("a/outside", (vip(14),), web, external=(IPv4Address("203.0.113.7"),)),
        Service("a/kept", (vip(15),), (ServicePort(TCP, 80, 30081, (here, there)),), external_local=True),
        service("a/near", 16, here, there, internal_local=True),
        service("a/large", 17, *(endpoint(IPv4Address("172.11.4.2") + number) for number in range(30))),
        Service("a/sctp", (vip(18),), (ServicePort(Protocol.SCTP, 80, None, (there,)),)),
        service("default/kubernetes", 1, endpoint("192.0.2.11", 6443)),
    )


def _endpoints() -> st.SearchStrategy[tuple[Endpoint, ...]]:
    one = st.builds(
        endpoint,
        st.integers(0, 40).map(lambda number: IPv4Address("172.11.0.2") + number),
        st.sampled_from((8080, 8081)),
        ready=st.booleans(),
        serving=st.booleans(),
        terminating=st.booleans(),
    )
    return st.lists(one, max_size=4, unique_by=lambda each: each.backend).map(tuple)


@st.composite
def services(draw: st.DrawFn) -> tuple[Service, ...]:
    """Some Services, a few of which lay claim to the same addresses and ports."""
    found = []
    protocols = st.sampled_from(tuple(Protocol))
    for number in draw(st.lists(st.integers(1, 6), unique=True, max_size=4)):
        chosen = draw(st.lists(st.tuples(protocols, st.sampled_from((80, 81))), unique=True, max_size=2))
        node_ports = [draw(st.sampled_from((None, 30000 + 100 * number + port))) for _, port in chosen]
        ports = tuple(
            ServicePort(protocol, port, node_port, draw(_endpoints()))
            for (protocol, port), node_port in zip(chosen, node_ports, strict=True)
        )
        outer = st.sampled_from(((), (IPv4Address("203.0.113.7"),), (vip(1),)))
        affinity, near, kept = draw(st.sampled_from((None, 60))), draw(st.booleans()), draw(st.booleans())
        found.append(Service(f"ns/s{number}", (vip(number),), ports, draw(outer), affinity, near, kept))
    return tuple(found)
