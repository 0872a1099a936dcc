"""A private switch that holds the pipeline of each node of a small world, and what it says about a packet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from flows.desired import desired_flows
from flows.tables import ARP_METER, ARP_RATE, FIRST_POD_PORT, TUN_PORT, VXLAN_PORT
from flows.text import flow_text
from tests.support.openvswitch import OpenVswitch
from tests.support.worlds import World, node_address

_TABLE = re.compile(r"^ ?(\d+)\. ", re.MULTILINE)
_OUTPUT = re.compile(r"^    (?:output:(\d+)|IN_PORT)$", re.MULTILINE)
_ETH_DST = re.compile(r"^(?:Final flow|Flow):.*dl_dst=([0-9a-f:]+)", re.MULTILINE)
_VNI = re.compile(r"NXM_NX_TUN_ID\[0\.\.23\] is now (0x[0-9a-f]+|0)$", re.MULTILINE)
_TUN_DST = re.compile(r"set_field:([0-9.]+)->tun_dst$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a packet: the tables it passes, the port it leaves by (None: dropped), and how it then looks."""

    tables: tuple[int, ...]
    port: int | None
    eth_dst: str | None
    vni: int | None
    tun_dst: str | None
    megaflow: str

    @classmethod
    def of_trace(cls, trace: str) -> Fate:
        """Read the answer of `ofproto/trace`."""
        megaflow, actions = trace.split("Megaflow: ")[1].split("\nDatapath actions: ")
        output, vni, tun_dst, eth_dst = (_last(word, trace) for word in (_OUTPUT, _VNI, _TUN_DST, _ETH_DST))
        dropped = actions.startswith("drop")
        return cls(
            tables=tuple(map(int, _TABLE.findall(trace))),
            port=None if dropped or output is None else int(output),
            eth_dst=eth_dst,
            vni=None if vni is None else int(vni, 16),
            tun_dst=tun_dst,
            megaflow=megaflow,
        )


def _last(word: re.Pattern[str], text: str) -> str | None:
    found = word.findall(text)
    return found[-1] if found else None


class PipelineSwitch:
    """One bridge for each of `nodes` nodes, with a tunnel port, a host port and `pods` pod ports; see `install`."""

    def __init__(self, openvswitch: OpenVswitch, *, nodes: int = 2, pods: int = 3) -> None:
        self._switch = openvswitch
        for node in range(nodes):
            self._add_bridge(node, pods)

    def install(self, world: World) -> None:
        """Put the flows of every node of `world` in the place of those that are there."""
        for node in range(world.nodes):
            flows = desired_flows(world.snapshot(node)).values()
            self._switch.ofctl(
                "replace-flows", _bridge(node), "-", stdin="".join(f"{flow_text(flow)}\n" for flow in flows)
            )

    def fate(self, node: int, packet: str) -> Fate:
        """What the bridge of `node` does with a packet given in the words of ovs-fields(7)."""
        return Fate.of_trace(self._switch.trace(_bridge(node), packet))

    def receive(self, node: int, ofport: int, frame: bytes) -> None:
        """Let a frame come in by a port."""
        self._switch.appctl("netdev-dummy/receive", _interface(node, ofport), frame.hex())

    def sent(self, node: int, ofport: int) -> Path:
        """The pcap file of what went out of a port."""
        return self._switch.rundir / f"{_interface(node, ofport)}.pcap"

    def _add_bridge(self, node: int, pods: int) -> None:
        bridge, tunnel = _bridge(node), _interface(node, VXLAN_PORT)
        command = f"add-br {bridge} -- set bridge {bridge} datapath_type=dummy fail_mode=secure protocols=OpenFlow15"
        command += f" -- add-port {bridge} {tunnel} -- set interface {tunnel} type=vxlan ofport_request={VXLAN_PORT}"
        command += f" options:remote_ip=flow options:key=flow options:local_ip={node_address(node)}"
        for ofport in (TUN_PORT, *range(FIRST_POD_PORT, FIRST_POD_PORT + pods)):
            name = _interface(node, ofport)
            command += f" -- add-port {bridge} {name} -- set interface {name} type=dummy ofport_request={ofport}"
            command += f" options:tx_pcap={self.sent(node, ofport)}"
        self._switch.vsctl(*command.split())
        self._switch.ofctl("add-meter", bridge, f"meter={ARP_METER},pktps,band=type=drop,rate={ARP_RATE}")


def _bridge(node: int) -> str:
    return f"br{node}"


def _interface(node: int, ofport: int) -> str:
    return f"n{node}p{ofport}"
