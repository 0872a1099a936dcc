r"""The wires of a lab: a bridge for the underlay, and a namespace each for control plane, nodes and the outside.

    <lab>-node1 .. nodeN      <lab>-control (etcd, API server, controllers)
            \                   /
             192.0.2.0/24, bridge in <lab>-fabric, which is also the router (.1)
                        |
             198.51.100.0/24  <lab>-outside (.10)

    <lab>-client (198.18.0.10) --- eth1 of <lab>-edge1 .. edgeN, and nothing else

Nothing leads from here to the machine's uplink. In the machine's own namespace only blackhole routes appear: they keep
a packet that somebody sends there by mistake from leaving the machine.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from k8sovs.lab.layout import (
    CLIENT_ADDRESS,
    CLIENTS,
    CLUSTER_NETWORK,
    CONTROL_ADDRESS,
    FABRIC_ADDRESS,
    OUTSIDE,
    OUTSIDE_ADDRESS,
    OUTSIDE_GATEWAY,
    SERVICE_NETWORK,
    UNDERLAY,
    Datapath,
    Lab,
    LabError,
    NodeLayout,
    route_metric,
)
from k8sovs.lab.netns import Journal, inside, ip_batch, run, set_sysctls

UNDERLAY_NIC = "eth0"
CLIENT_NIC = "eth1"
UNDERLAY_BRIDGE = "underlay"
SHIELD_TABLE = "k8sovs-lab"
GUARDED = (CLUSTER_NETWORK, SERVICE_NETWORK, UNDERLAY, OUTSIDE, CLIENTS)


def build_fabric(lab: Lab, journal: Journal) -> None:
    """The bridge and router in the middle, and the control plane's and the outside's namespaces on it."""
    fabric = lab.netns("fabric")
    journal.create(fabric)
    set_sysctls(fabric, {"net.ipv4.ip_forward": 1})
    ip_batch(
        fabric,
        [
            f"link add {UNDERLAY_BRIDGE} type bridge forward_delay 0",
            f"address add {FABRIC_ADDRESS}/{UNDERLAY.prefixlen} dev {UNDERLAY_BRIDGE}",
            f"link set {UNDERLAY_BRIDGE} up",
        ],
    )
    control, outside = lab.netns("control"), lab.netns("outside")
    journal.create(control)
    _plug(lab, control, "control", bridged=True)
    _address(control, UNDERLAY_NIC, IPv4Interface((CONTROL_ADDRESS, UNDERLAY.prefixlen)), FABRIC_ADDRESS)
    journal.create(outside)
    _plug(lab, outside, "outside", bridged=False)
    ip_batch(fabric, [f"address add {OUTSIDE_GATEWAY}/{OUTSIDE.prefixlen} dev outside"])
    _address(outside, UNDERLAY_NIC, IPv4Interface((OUTSIDE_ADDRESS, OUTSIDE.prefixlen)))
    ip_batch(outside, [f"route add {UNDERLAY} via {OUTSIDE_GATEWAY}"])


def plug_node(lab: Lab, journal: Journal, node: NodeLayout) -> None:
    """The namespace of a node with its NIC, which has no address yet: that is on a switch or on the NIC."""
    journal.create(node.netns)
    _plug(lab, node.netns, node.name, bridged=True)


def address_node(node: NodeLayout, device: str) -> None:
    """Give the node its address on `device`, and its way out."""
    _address(node.netns, device, IPv4Interface((node.address, UNDERLAY.prefixlen)), FABRIC_ADDRESS)


def build_client(lab: Lab, journal: Journal) -> None:
    """The namespace of a client, which is on a network of its own with the edge hosts."""
    client = lab.netns("client")
    journal.create(client)
    ip_batch(client, [f"link add {UNDERLAY_NIC} type bridge forward_delay 0"])
    _address(client, UNDERLAY_NIC, IPv4Interface((CLIENT_ADDRESS, CLIENTS.prefixlen)))


def plug_client(lab: Lab, edge: NodeLayout) -> None:
    """A second NIC of an edge host, towards its clients."""
    client = lab.netns("client")
    ends = f"{CLIENT_NIC} type veth peer name {edge.name} netns {client}"
    run("ip", "-netns", edge.netns, "link", "add", *ends.split())
    ip_batch(client, [f"link set {edge.name} master {UNDERLAY_NIC}", f"link set {edge.name} up"])
    _address(edge.netns, CLIENT_NIC, IPv4Interface((edge.client_side, CLIENTS.prefixlen)))


def shield_etcd(lab: Lab, node: NodeLayout) -> None:
    """Let no pod of the node reach etcd: it asks nobody who they are.

    A pod's packets come with the node's address, so only the node can tell them from its own. They are those that it
    forwards; what its own processes send passes through another hook.
    """
    rules = f"""
        table ip {SHIELD_TABLE} {{
            chain forward {{
                type filter hook forward priority filter; policy accept;
                ip daddr {CONTROL_ADDRESS} tcp dport {{ {", ".join(map(str, lab.etcd_ports))} }} drop
            }}
        }}
    """
    run(*inside(node.netns, "nft", "--file", "-"), stdin=rules)


def _plug(lab: Lab, netns: str, port: str, *, bridged: bool) -> None:
    """A veth from `netns` to the fabric, its end there called `port`; it is never in the machine's own namespace."""
    fabric = lab.netns("fabric")
    run("ip", "-netns", netns, "link", "add", UNDERLAY_NIC, "type", "veth", "peer", "name", port, "netns", fabric)
    ip_batch(netns, [f"link set {UNDERLAY_NIC} up"])
    ip_batch(fabric, [*([f"link set {port} master {UNDERLAY_BRIDGE}"] if bridged else []), f"link set {port} up"])
    # A veth hands over frames with their checksums left to be filled in, which a userspace switch cannot do.
    for end, device in ((netns, UNDERLAY_NIC), (fabric, port)):
        run(*inside(end, "ethtool", "-K", device, "tx", "off"))


def _address(netns: str, device: str, address: IPv4Interface, gateway: IPv4Address | None = None) -> None:
    commands = [f"address add {address} dev {device}", f"link set {device} up"]
    if gateway is not None:
        commands.append(f"route add default via {gateway}")
    ip_batch(netns, commands)


def guard_routes(lab: Lab) -> tuple[IPv4Network, ...]:
    """Add the blackhole routes to the machine's own namespace; returns the prefixes left unguarded.

    A prefix that overlaps one that the machine itself routes somewhere, or that holds one of its name servers, is left
    alone: a route to the same prefix or to a part of it would win anyway, and taking a part of a wider one away could
    cut the machine off.
    """
    spared = tuple(prefix for prefix in GUARDED if _machine_uses(prefix))
    for prefix in GUARDED:
        if prefix not in spared:
            run("ip", "route", "add", "blackhole", str(prefix), "metric", str(route_metric(lab.name)))
    return spared


def unguard_routes(lab_name: str) -> None:
    """Remove the blackhole routes of a lab; none left is fine."""
    metric = route_metric(lab_name)
    for prefix in GUARDED:
        for route in json.loads(run("ip", "-json", "route", "show", "exact", str(prefix)) or "[]"):
            if route.get("type") == "blackhole" and route.get("metric") == metric:
                run("ip", "route", "del", "blackhole", str(prefix), "metric", str(metric))


def _machine_uses(prefix: IPv4Network) -> bool:
    around, within = (
        json.loads(run("ip", "-json", "route", "show", selector, str(prefix)) or "[]") for selector in ("match", "root")
    )
    leads_somewhere = any(
        route["dst"] != "default" and route.get("type") != "blackhole" for route in (*around, *within)
    )
    return leads_somewhere or any(server in prefix for server in _name_servers())


def _name_servers(path: Path = Path("/etc/resolv.conf")) -> tuple[IPv4Address, ...]:
    if not path.exists():
        return ()
    words = [line.split() for line in path.read_text().splitlines()]
    named = [entry[1] for entry in words if len(entry) > 1 and entry[0] == "nameserver" and ":" not in entry[1]]
    return tuple(IPv4Address(address) for address in named)


def kernel_datapath_available() -> bool:
    """Whether this machine's kernel has Open vSwitch, loaded or loadable."""
    if Path("/sys/module/openvswitch").exists():
        return True
    return _modprobe("openvswitch") and _modprobe("vport-vxlan")


def _modprobe(module: str) -> bool:
    try:
        run("modprobe", "--quiet", module)
    except LabError:
        return False
    return True


def resolve_datapath(asked: Datapath) -> Datapath:
    """Which datapath the nodes get. LabError when the kernel's was asked for and is not there."""
    available = asked is not Datapath.NETDEV and kernel_datapath_available()
    if asked is Datapath.SYSTEM and not available:
        raise LabError("this kernel has no openvswitch module: use '--datapath netdev'")
    return Datapath.SYSTEM if available else Datapath.NETDEV
