"""Services that the switch handles, with real sockets across nodes, in a lab with two tenants."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.lab import LabUnderTest, eventually
from tests.support.sockets import Inside, say

LAB_OPTIONS = ("--nodes", "2", "--service-proxy", "ovs")
FOLDER = "/k8s.ovs.com/ovs/network/k8ssdn"
PORT = 8080
PODS = {
    "red/a": "node1",
    "red/b": "node1",
    "red/c": "node2",
    "blue/x": "node1",
    "blue/y": "node2",
    "default/g": "node2",
}
NODES = {"node1": "192.0.2.11", "node2": "192.0.2.12"}
OUTER, BALANCED = "198.19.0.7", "198.19.0.8"
MORE_SERVERS = (("red/b", 9090), ("red/c", 8081), ("red/c", 9090))


@dataclass
class Cluster:
    """The lab with its pods, and the Services that one test makes."""

    lab: LabUnderTest
    inside: Inside
    netns: dict[str, str]
    ip: dict[str, str]
    made: list[tuple[str, str, str]] = field(default_factory=list)
    number: int = 10

    def service(
        self, name: str, *backends: str, udp: bool = False, port: dict[str, int] | None = None, **spec: object
    ) -> str:
        """Make a Service NAMESPACE/NAME with a slice of its own; its address."""
        namespace, short = name.split("/")
        self.number += 1
        address = spec.pop("clusterIP", f"10.96.1.{self.number}")
        protocol = "UDP" if udp else "TCP"
        numbers = {"name": "p", "port": 80, "targetPort": PORT, "protocol": protocol, **(port or {})}
        self.put("v1", "Service", namespace, short, spec={"clusterIP": address, "ports": [numbers], **spec})
        self.slice(name, *backends, protocol=protocol)
        return str(address)

    def slice(self, name: str, *backends: str, protocol: str = "TCP", **conditions: bool) -> None:
        """Say which pods (or addresses) are the endpoints now; those with a `!` in front have the `conditions`."""
        namespace, short = name.split("/")
        port = PORT
        endpoints = []
        for one in backends:
            pod = one.removeprefix("!")
            state = conditions if one.startswith("!") else {"ready": True}
            home = {"nodeName": PODS[pod]} if pod in PODS else {}
            address, _, given = self.ip.get(pod, pod).partition(":")
            port = int(given or port)
            endpoints.append({"addresses": [address], "conditions": state, **home})
        self.put(
            *("discovery.k8s.io/v1", "EndpointSlice", namespace, f"{short}-x"),
            labels={"kubernetes.io/service-name": short},
            addressType="IPv4",
            endpoints=endpoints,
            ports=[{"name": "p", "port": port, "protocol": protocol}],
        )

    def put(self, version: str, kind: str, namespace: str, name: str, labels: object = None, **body: object) -> None:
        metadata = {"name": name, "namespace": namespace, "labels": labels or {}}
        document = json.dumps({"apiVersion": version, "kind": kind, "metadata": metadata, **body})
        subprocess.run(
            ["kubectl", "apply", "--validate=false", "-f", "-"],
            input=document, text=True, check=True, capture_output=True, env=self.lab.env,
        )  # fmt: skip
        self.made.append((kind, namespace, name))

    def patch_status(self, namespace: str, name: str, body: str) -> None:
        """Write the status of a Service, as a load balancer's controller does."""
        path = f"/api/v1/namespaces/{namespace}/services/{name}"
        whole = json.loads(self.lab.run("kubectl", "get", "--raw", path)) | json.loads(body)
        subprocess.run(
            ["kubectl", "replace", "--raw", f"{path}/status", "-f", "-"],
            input=json.dumps(whole), text=True, check=True, capture_output=True, env=self.lab.env,
        )  # fmt: skip

    def gateway(self, node: str) -> str:
        """The address of a node in the pod network."""
        shown = self.lab("exec", node, "--", "ip", "-4", "-o", "addr", "show", "dev", "tun0")
        return shown.split("inet ")[1].split("/")[0]

    def remove_all(self) -> None:
        for kind, namespace, name in reversed(dict.fromkeys(self.made)):
            self.lab.run("kubectl", "-n", namespace, "delete", kind, name, "--ignore-not-found")
        self.made.clear()

    def answered(self, who: str, address: str, times: int = 1, port: int = 80, *, timeout_s: float = 5.0) -> set[str]:
        """Who answered the connections from a pod, or the errors."""
        return {
            answer.split()[0] for answer in self.inside.ask(self.netns[who], address, port, times, timeout_s=timeout_s)
        }

    def eventually_answered(self, who: str, address: str, by: set[str], *, port: int = 80) -> None:
        """Until now the agent may not have heard of it."""
        eventually(
            lambda: self.answered(who, address, 12, port, timeout_s=1.0) == by, f"{who} gets {by} at {address}:{port}"
        )

    def act(self, namespace: str, action: str, target: str = "") -> None:
        """One of the three verbs, until its last phase."""
        key = f"{FOLDER}/netnamespaces/{namespace}"
        record = json.loads(self.lab.run("etcdctl", "get", "--print-value-only", key))
        self.lab.run("etcdctl", "put", key, json.dumps(record | {"Action": action, "Namespace": target}))

        def settled() -> bool:
            acted = json.loads(self.lab.run("etcdctl", "get", "--print-value-only", key))["Action"] == ""
            vnid = json.loads(self.lab.run("etcdctl", "get", "--print-value-only", f"{FOLDER}/vnids/{namespace}"))
            return acted and vnid["Accept"] == [vnid["Send"]]

        eventually(settled, f"{namespace}: {action} {target}")

    def datapath_flows(self, node: str, pod: str) -> list[str]:
        """The datapath flows that match what comes from a pod."""
        dumped = self.lab("exec", node, "--", "ovs-appctl", "dpctl/dump-flows", "-m")
        link = re.search(rf"in_port\((k8o\w+)\)[^\n]*src={re.escape(self.ip[pod])}[,/]", dumped)
        return [line for line in dumped.splitlines() if link and f"in_port({link[1]})" in line and "0x0806" not in line]


@pytest.fixture(scope="module")
def running(lab: LabUnderTest) -> Iterator[Cluster]:
    with Inside() as inside:
        netns, ip = {}, {}
        for pod, node in PODS.items():
            added = lab.add_pod(pod, node)
            netns[pod], ip[pod] = added["netns"], added["ip"]
            inside.serve(netns[pod], pod, PORT)
        for pod, port in MORE_SERVERS:
            inside.serve(netns[pod], f"{pod}:{port}", port)
        for node in lab.node_places():
            netns[node.name], ip[node.name] = node.netns, node.address
            inside.serve(node.netns, node.name, 6443)
        outside = lab.outside()
        netns["outside"], ip["outside"] = outside.netns, outside.address
        yield Cluster(lab, inside, netns, ip)


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    yield running
    running.remove_all()


def test_connections_are_spread_over_the_endpoints_from_pods_and_from_nodes(cluster: Cluster) -> None:
    address = cluster.service("red/web", "red/a", "red/b", "red/c")
    cluster.eventually_answered("red/a", address, {"red/a", "red/b", "red/c"})
    said = cluster.inside.ask(cluster.netns["red/c"], address, 80, 300)
    shares = {name.split()[0]: count / 300 for name, count in said.items()}
    assert all(0.2 < share < 0.47 for share in shares.values()), shares
    for node in NODES:
        assert cluster.answered(node, address, 30) == {"red/a", "red/b", "red/c"}


def test_each_port_of_a_service_leads_where_its_name_does_on_each_endpoint(cluster: Cluster) -> None:
    ports = [{"name": "p", "port": 80, "targetPort": "web"}, {"name": "q", "port": 81, "targetPort": "admin"}]
    address = "10.96.1.200"
    cluster.put("v1", "Service", "red", "two", spec={"clusterIP": address, "ports": ports})
    for pod, web in (("red/b", PORT), ("red/c", 8081)):
        cluster.put(
            *("discovery.k8s.io/v1", "EndpointSlice", "red", f"two-{pod[-1]}"),
            labels={"kubernetes.io/service-name": "two"},
            addressType="IPv4",
            endpoints=[{"addresses": [cluster.ip[pod]], "conditions": {"ready": True}, "nodeName": PODS[pod]}],
            ports=[{"name": "p", "port": web, "protocol": "TCP"}, {"name": "q", "port": 9090, "protocol": "TCP"}],
        )
    cluster.eventually_answered("red/a", address, {"red/b", "red/c:8081"})
    cluster.eventually_answered("red/a", address, {"red/b:9090", "red/c:9090"}, port=81)


def test_endpoints_that_are_not_ready_are_used_where_a_service_publishes_them(cluster: Cluster) -> None:
    published = cluster.service("red/early", publishNotReadyAddresses=True)
    plain = cluster.service("red/late")
    for name in ("red/early", "red/late"):
        cluster.slice(name, "!red/c", ready=False, serving=False, terminating=False)
    cluster.eventually_answered("red/a", published, {"red/c"})
    assert cluster.answered("red/a", plain) == {"ConnectionRefusedError"}


def test_a_headless_service_changes_nothing_for_its_endpoints(cluster: Cluster) -> None:
    cluster.service("red/headless", "red/c", clusterIP="None")
    marker = cluster.service("red/web", "red/b")
    cluster.eventually_answered("red/a", marker, {"red/b"})
    assert cluster.answered("red/a", cluster.ip["red/c"], 3, PORT) == {"red/c"}
    replies = cluster.lab("exec", "node1", "--", "ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "br0", "table=65")
    assert cluster.ip["red/c"] not in replies


def test_external_and_load_balancer_addresses_are_reached_from_pods_nodes_and_outside(cluster: Cluster) -> None:
    cluster.service("red/web", "red/c", type="LoadBalancer", externalIPs=[OUTER], port={"nodePort": 30090})
    ingress = json.dumps({"status": {"loadBalancer": {"ingress": [{"ip": BALANCED}]}}})
    cluster.patch_status("red", "web", ingress)
    # From outside by the router, and from there to node1.
    ways = ((cluster.netns["outside"], "198.51.100.1"), (f"/run/netns/{cluster.lab.name}-fabric", NODES["node1"]))

    def route(verb: str) -> None:
        for address in (OUTER, BALANCED):
            for netns, hop in ways:
                command = ["nsenter", f"--net={netns}", "ip", "route", verb, f"{address}/32", "via", hop]
                subprocess.run(command, check=True)

    route("add")
    try:
        for address in (OUTER, BALANCED):
            for who in ("red/a", "node1", "node2", "outside"):
                cluster.eventually_answered(who, address, {"red/c"})
            assert cluster.answered("blue/x", address, timeout_s=0.7) == {"TimeoutError"}
    finally:
        route("del")


def test_an_endpoint_sees_the_clients_own_address(cluster: Cluster) -> None:
    address = cluster.service("red/web", "red/c")
    cluster.eventually_answered("red/a", address, {"red/c"})
    assert set(cluster.inside.ask(cluster.netns["red/a"], address, 80)) == {f"red/c {cluster.ip['red/a']}"}


def test_a_pod_reaches_itself_through_its_own_service(cluster: Cluster) -> None:
    address = cluster.service("red/web", "red/a")
    cluster.eventually_answered("red/a", address, {"red/a"})


def test_a_service_of_another_tenant_is_silent_and_a_global_one_answers(cluster: Cluster) -> None:
    red, common = cluster.service("red/web", "red/a", "red/c"), cluster.service("default/web", "default/g")
    cluster.eventually_answered("red/b", red, {"red/a", "red/c"})
    cluster.eventually_answered("blue/x", common, {"default/g"})
    assert cluster.answered("blue/x", red, 4, timeout_s=0.7) == {"TimeoutError"}
    assert cluster.answered("default/g", red, 12) == {"red/a", "red/c"}


def test_endpoints_made_by_hand_in_another_tenant_open_no_hole(cluster: Cluster) -> None:
    address = cluster.service("blue/trick", cluster.ip["red/a"], cluster.ip["red/c"])
    cluster.eventually_answered("node1", address, {"red/a", "red/c"})
    assert cluster.answered("blue/x", address, 4, timeout_s=0.7) == {"TimeoutError"}
    assert cluster.answered("blue/y", address, 4, timeout_s=0.7) == {"TimeoutError"}


def test_join_and_isolate_hold_for_services_at_once_and_for_open_connections_too(cluster: Cluster) -> None:
    address = cluster.service("red/web", "red/c")
    cluster.eventually_answered("red/a", address, {"red/c"})
    cluster.act("blue", "join", "red")
    try:
        assert cluster.answered("blue/x", address, 3) == {"red/c"}
        talking = cluster.inside.start(cluster.netns["blue/x"], "talk", address, "80")
        assert talking.stdout is not None
        assert talking.stdout.readline().startswith("red/c")
        assert say(talking) == "same"
    finally:
        cluster.act("blue", "isolate")
    assert say(talking) == "TimeoutError"
    assert cluster.answered("blue/x", address, 2, timeout_s=0.7) == {"TimeoutError"}


def test_global_and_isolate_hold_for_services_at_once_and_for_open_connections_too(cluster: Cluster) -> None:
    address = cluster.service("red/web", "red/c")
    cluster.eventually_answered("red/a", address, {"red/c"})
    cluster.act("red", "global")
    try:
        talking = cluster.inside.start(cluster.netns["blue/x"], "talk", address, "80")
        assert talking.stdout is not None
        assert talking.stdout.readline().startswith("red/c")
        own = cluster.inside.start(cluster.netns["red/a"], "talk", address, "80")
        assert own.stdout is not None
        assert own.stdout.readline().startswith("red/c")
    finally:
        cluster.act("red", "isolate")
    assert say(own) == "same"
    assert say(talking) == "TimeoutError"
    assert cluster.answered("blue/x", address, 2, timeout_s=0.7) == {"TimeoutError"}


def test_no_endpoints_is_a_refusal_for_pods_and_nodes(cluster: Cluster) -> None:
    address, datagrams = cluster.service("red/web"), cluster.service("red/dns", udp=True)
    cluster.eventually_answered("red/a", address, {"ConnectionRefusedError"})
    assert cluster.answered("node1", address, 2) == {"ConnectionRefusedError"}
    assert cluster.inside.ask_udp(cluster.netns["red/a"], datagrams, 80, 10) == ["ConnectionRefusedError"]


def test_udp_is_answered_also_in_fragments(cluster: Cluster) -> None:
    near, far = cluster.service("red/near", "red/b", udp=True), cluster.service("red/far", "red/c", udp=True)
    for address, backend in ((near, "red/b"), (far, "red/c")):
        eventually(
            lambda address=address, backend=backend: cluster.inside.ask_udp(  # type: ignore[misc]
                cluster.netns["red/a"], address, 80, 100, timeout_s=0.5
            ) == [f"{backend} {cluster.ip['red/a']}"],
            "a small datagram is answered",
        )  # fmt: skip
        said = cluster.inside.ask_udp(cluster.netns["red/a"], address, 80, 100, 4000, 9000)
        assert said == [f"{backend} {cluster.ip['red/a']}"] * 3


def test_endpoints_that_are_addresses_of_nodes_are_reached_by_pods_and_nodes(cluster: Cluster) -> None:
    address = cluster.service("default/api", f"{NODES['node1']}:6443")
    for who in ("red/a", "blue/y", "node1", "node2"):
        cluster.eventually_answered(who, address, {"node1"})


def test_a_client_with_session_affinity_keeps_its_endpoint_until_it_stays_away(cluster: Cluster) -> None:
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 2}}}
    address = cluster.service("red/web", "red/a", "red/b", "red/c", **affinity)
    eventually(lambda: cluster.answered("red/a", address) <= {"red/a", "red/b", "red/c"}, "the Service answers")
    assert len(cluster.answered("red/a", address, 100)) == 1

    seen: set[str] = set()

    def comes_back_later() -> bool:
        dumped = cluster.lab("exec", "node1", "--", "ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "br0", "table=56")
        if "nw_src" not in dumped:
            seen.update(cluster.answered("red/a", address))
        return len(seen) > 1

    eventually(comes_back_later, "another endpoint after the time is over", deadline_s=40)


def test_the_endpoint_that_a_client_keeps_is_given_up_when_it_is_gone(cluster: Cluster) -> None:
    address = cluster.service("red/web", "red/b", "red/c", sessionAffinity="ClientIP")
    eventually(lambda: cluster.answered("red/a", address) <= {"red/b", "red/c"}, "the Service answers")
    (kept,) = cluster.answered("red/a", address, 10)
    (other,) = {"red/b", "red/c"} - {kept}
    cluster.slice("red/web", other)
    cluster.eventually_answered("red/a", address, {other})


def test_a_node_port_is_reached_from_pods_nodes_and_outside_at_every_node(cluster: Cluster) -> None:
    cluster.service("red/web", "red/c", type="NodePort", port={"nodePort": 30080})
    for who in ("red/a", "node1", "node2", "outside"):
        for node in NODES.values():
            cluster.eventually_answered(who, node, {"red/c"}, port=30080)


def test_a_node_port_of_another_node_is_no_way_into_another_tenant(cluster: Cluster) -> None:
    cluster.service("red/web", "red/a", "red/c", type="NodePort", port={"nodePort": 30081}, externalIPs=[OUTER])
    cluster.eventually_answered("red/b", NODES["node2"], {"red/a", "red/c"}, port=30081)
    cluster.eventually_answered("red/b", OUTER, {"red/a", "red/c"})
    for node in NODES.values():
        assert cluster.answered("blue/x", node, 3, 30081, timeout_s=0.7) == {"TimeoutError"}
    assert cluster.answered("blue/x", OUTER, 3, timeout_s=0.7) == {"TimeoutError"}


def test_with_the_external_policy_local_an_endpoint_sees_the_client_outside(cluster: Cluster) -> None:
    cluster.service(
        *("red/web", "red/a", "red/c"), type="NodePort", port={"nodePort": 30082}, externalTrafficPolicy="Local"
    )
    cluster.eventually_answered("outside", NODES["node2"], {"red/c"}, port=30082)
    cluster.eventually_answered("outside", NODES["node1"], {"red/a"}, port=30082)
    said = cluster.inside.ask(cluster.netns["outside"], NODES["node2"], 30082, 10)
    assert set(said) == {f"red/c {cluster.ip['outside']}"}
    assert cluster.answered("red/b", NODES["node2"], 12, 30082) == {"red/a", "red/c"}
    cluster.slice("red/web", "red/c")
    eventually(
        lambda: cluster.answered("outside", NODES["node1"], 2, 30082, timeout_s=0.5) == {"TimeoutError"},
        "no answer at a node without an endpoint",
    )
    assert cluster.answered("outside", NODES["node2"], 2, 30082) == {"red/c"}


def test_with_the_external_policy_cluster_an_endpoint_sees_the_node_that_was_asked(cluster: Cluster) -> None:
    cluster.service("red/web", "red/c", type="NodePort", port={"nodePort": 30083})
    cluster.eventually_answered("outside", NODES["node1"], {"red/c"}, port=30083)
    gateway = cluster.gateway("node1")
    assert set(cluster.inside.ask(cluster.netns["outside"], NODES["node1"], 30083, 5)) == {f"red/c {gateway}"}


def test_a_kube_proxy_beside_the_agent_breaks_nothing(cluster: Cluster) -> None:
    address = cluster.service("red/web", "red/c", type="NodePort", port={"nodePort": 30084})
    cluster.eventually_answered("red/a", address, {"red/c"})
    to = f"dnat to {cluster.ip['red/c']}:{PORT}"
    rules = f"ip daddr {address} tcp dport 80 {to}; fib daddr type local tcp dport 30084 meta mark set 0x4000 {to};"
    chains = "".join(
        f"chain {hook} {{ type nat hook {hook} priority -100; {rules} }}; " for hook in ("prerouting", "output")
    )
    chains += "chain out { type nat hook postrouting priority 100; meta mark 0x4000 masquerade; };"
    for node in NODES:
        cluster.lab("exec", node, "--", "nft", f"table ip kube {{ {chains} }}")
    try:
        for who in ("red/a", "node1", "node2"):
            assert cluster.answered(who, address, 3) == {"red/c"}
        for who in ("red/a", "node1", "outside"):
            for node in NODES.values():
                assert cluster.answered(who, node, 3, 30084) == {"red/c"}
        assert cluster.answered("blue/x", address, timeout_s=0.7) == {"TimeoutError"}
    finally:
        for node in NODES:
            cluster.lab("exec", node, "--", "nft", "delete table ip kube")


def test_with_the_internal_policy_local_only_endpoints_of_the_own_node_are_used(cluster: Cluster) -> None:
    address = cluster.service("red/web", "red/a", "red/c", internalTrafficPolicy="Local")
    cluster.eventually_answered("red/b", address, {"red/a"})
    assert cluster.answered("red/c", address, 12) == {"red/c"}


def test_an_endpoint_that_ends_keeps_its_connections_and_gets_no_new_ones(cluster: Cluster) -> None:
    address = cluster.service("red/web", "red/c")
    cluster.eventually_answered("red/a", address, {"red/c"})
    talking = cluster.inside.start(cluster.netns["red/a"], "talk", address, "80")
    assert talking.stdout is not None
    assert talking.stdout.readline().startswith("red/c")
    cluster.slice("red/web", "!red/c", "red/b", ready=False, serving=True, terminating=True)
    cluster.eventually_answered("red/a", address, {"red/b"})
    assert say(talking) == "same"


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("backend", ["red/b", "red/c"])
@pytest.mark.parametrize("who", ["red/a", "node1"])
def test_one_source_port_serves_an_endpoints_own_address_and_a_service_at_once(
    cluster: Cluster, who: str, backend: str, kind: str
) -> None:
    by_service = f"{cluster.service('red/web', backend, udp=kind == 'udp')}:80"
    by_address = f"{cluster.ip[backend]}:{PORT}"
    # A TCP server sends its name, then echoes; one of UDP always begins with its name.
    wanted = [backend, backend, *(["hello"] * 2 if kind == "tcp" else [backend] * 2)]

    def both(first: str, second: str) -> list[str]:
        return cluster.inside.ask_both(cluster.netns[who], first, second, kind)

    eventually(lambda: both(by_service, by_service)[0] == backend, "the Service answers")
    assert both(by_service, by_address) == wanted
    assert both(by_address, by_service) == wanted


def test_a_connection_to_an_endpoint_that_is_listed_no_more_goes_on_while_its_pod_lives(cluster: Cluster) -> None:
    address = cluster.service("red/web", "red/b", "red/c")
    cluster.eventually_answered("red/a", address, {"red/b", "red/c"})
    talks = [cluster.inside.start(cluster.netns["red/a"], "talk", address, "80") for _ in range(8)]
    assert {talking.stdout.readline().split()[0] for talking in talks if talking.stdout} == {"red/b", "red/c"}
    cluster.slice("red/web", "red/b")
    cluster.eventually_answered("red/a", address, {"red/b"})
    assert [say(talking) for talking in talks] == ["same"] * len(talks)
    cluster.slice("red/web")
    cluster.eventually_answered("red/a", address, {"ConnectionRefusedError"})
    assert [say(talking) for talking in talks] == ["same"] * len(talks)


def test_a_udp_client_gets_another_endpoint_when_its_own_is_gone_and_a_refusal_when_it_was_the_last(
    cluster: Cluster,
) -> None:
    address = cluster.service("red/dns", "red/c", udp=True)
    source = cluster.netns["red/a"]
    eventually(lambda: cluster.inside.ask_udp(source, address, 80, 9, timeout_s=0.5)[0].startswith("red/c"), "answers")

    def entries() -> list[str]:
        dumped = cluster.lab("exec", "node1", "--", "ovs-appctl", "dpctl/dump-conntrack")
        return [line for line in dumped.splitlines() if f"dst={address}," in line]

    assert entries()
    cluster.slice("red/dns", "red/b", protocol="UDP")
    eventually(lambda: not entries(), "mappings to the endpoint that is gone are forgotten")
    assert cluster.inside.ask_udp(source, address, 80, 9)[0].startswith("red/b")
    cluster.slice("red/dns", protocol="UDP")
    eventually(lambda: not entries(), "also when it was the last")
    assert cluster.inside.ask_udp(source, address, 80, 9) == ["ConnectionRefusedError"]


@pytest.mark.parametrize("count", [3, 300])
def test_the_datapath_has_at_most_32_flows_for_a_pod_and_a_service(cluster: Cluster, count: int) -> None:
    backends = [cluster.ip[pod] for pod in ("red/a", "red/b", "red/c")]
    backends += [f"172.11.{4 + number // 250}.{5 + number % 250}" for number in range(count - 3)]
    address = cluster.service("red/web", *backends)
    eventually(
        lambda: cluster.answered("red/b", address, 3, timeout_s=0.2) != {"ConnectionRefusedError"},
        "the Service is there",
    )
    cluster.lab("exec", "node1", "--", "ovs-appctl", "dpctl/del-flows")
    cluster.inside.ask(cluster.netns["red/b"], address, 80, 100, timeout_s=0.05)
    flows = cluster.datapath_flows("node1", "red/b")
    toward = [flow for flow in flows if "tcp" in flow or "recirc" in flow]
    assert 0 < len(toward) <= 32, "\n".join(toward)


def test_a_pod_elsewhere_is_reached_without_tracking(cluster: Cluster) -> None:
    cluster.lab("exec", "node1", "--", "ovs-appctl", "dpctl/flush-conntrack")
    assert cluster.answered("red/a", cluster.ip["red/c"], 5, PORT) == {"red/c"}
    dumped = cluster.lab("exec", "node1", "--", "ovs-appctl", "dpctl/dump-conntrack")
    assert cluster.ip["red/c"] not in dumped


def test_services_go_on_while_the_agent_is_away_and_after_it_came_back(cluster: Cluster) -> None:
    address = cluster.service("red/web", "red/c")
    cluster.eventually_answered("red/a", address, {"red/c"})
    cluster.lab("stop", "agent", "node1")
    try:
        assert cluster.answered("red/a", address, 5) == {"red/c"}
    finally:
        cluster.lab("start", "agent", "node1")
    cluster.slice("red/web", "red/b")
    cluster.eventually_answered("red/a", address, {"red/b"})
