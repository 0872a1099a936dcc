"""Which pods a load balancer outside the cluster is told of, how it is told, and how its file is written."""

from __future__ import annotations

import asyncio
import json
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from k8sovs.backends import Backend, BackendList, Format, Publisher, Target, render, resolve, write_atomically
from k8sovs.backends.publish import reload
from k8sovs.kubernetes import EndpointSlice, Pod, Service, from_document

WEB = Target("red", "web")
PODS = {"a": "172.11.0.2", "b": "172.11.4.2", "c": "172.11.4.3"}


def pod(name: str, address: str, phase: str = "Running") -> Pod:
    document = {"metadata": {"name": name, "namespace": "red"}, "status": {"podIP": address, "phase": phase}}
    return from_document(document, Pod)


def service(**ports: int) -> Service:
    entries = [{"name": name, "port": port} for name, port in ports.items()]
    return from_document({"metadata": {"name": "web", "namespace": "red"}, "spec": {"ports": entries}}, Service)


def endpoint(name: str, address: str, ready: bool | None = True, kind: str = "Pod") -> dict[str, object]:
    reference = {"kind": kind, "name": name, "namespace": "red"}
    conditions = {} if ready is None else {"ready": ready}
    return {"addresses": [address], "conditions": conditions, "targetRef": reference, "nodeName": "node1"}


def slice_of(*endpoints: dict[str, object], ports: dict[str, int] | None = None) -> EndpointSlice:
    entries = [{"name": name, "port": port} for name, port in (ports or {"http": 8080}).items()]
    document = {
        "metadata": {"name": "web-1", "namespace": "red", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": entries,
    }
    return from_document(document, EndpointSlice)


def found(*slices: EndpointSlice, target: Target = WEB, known: Service | None = None) -> dict[str, str]:
    """Names and places of the backends."""
    pods = {name: pod(name, address) for name, address in PODS.items()}
    listed = resolve(target, known or service(http=80), slices, pods)
    return {one.name: f"{one.address}:{one.port}" for one in listed.backends}


@pytest.mark.parametrize("text", ["red", "red/", "/web", "red/web:", "red/web/x", "Red/web", "red/web:80:90", "a_b/c"])
def test_a_target_is_a_namespace_a_service_and_perhaps_a_port(text: str) -> None:
    with pytest.raises(ValueError, match="is not NAMESPACE/SERVICE"):
        Target.parse(text)


def test_no_two_targets_have_the_same_name_in_a_configuration() -> None:
    texts = ["a/b", "a/b:c", "a-b/c", "a/b-c", "a/b:80"]
    assert [Target.parse(text).name for text in texts] == ["a_b", "a_b_c", "a-b_c", "a_b-c", "a_b_80"]
    assert [str(Target.parse(text)) for text in texts] == texts


def test_ready_pods_are_backends_and_others_are_not() -> None:
    endpoints = slice_of(
        endpoint("a", "172.11.0.2"), endpoint("b", "172.11.4.2", ready=False), endpoint("c", "172.11.4.3", ready=None)
    )
    assert found(endpoints) == {"a": "172.11.0.2:8080", "c": "172.11.4.3:8080"}


def test_a_pod_in_two_slices_is_one_backend_and_all_are_ordered_by_address() -> None:
    first = slice_of(endpoint("c", "172.11.4.3"), endpoint("a", "172.11.0.2"))
    second = slice_of(endpoint("a", "172.11.0.2"), endpoint("b", "172.11.4.2"))
    assert list(found(first, second)) == ["a", "b", "c"]


@pytest.mark.parametrize("port", ["metrics", "9100"])
def test_a_port_is_chosen_by_its_name_or_by_its_number_in_the_service(port: str) -> None:
    endpoints = slice_of(endpoint("a", "172.11.0.2"), ports={"http": 8080, "metrics": 19100})
    both = service(http=80, metrics=9100)
    assert found(endpoints, target=Target("red", "web", port), known=both) == {"a": "172.11.0.2:19100"}


@pytest.mark.parametrize(
    ("target", "known", "said"),
    [
        (WEB, None, "there is no Service web in namespace red"),
        (
            WEB,
            service(http=80, metrics=9100),
            "say which port, red/web:PORT; the Service has http (80), metrics (9100)",
        ),
        (Target("red", "web", "8080"), service(http=80), "no such port; it has http (80)"),
    ],
)
def test_what_is_not_there_has_no_backends_and_is_said(target: Target, known: Service | None, said: str) -> None:
    listed = resolve(target, known, [slice_of(endpoint("a", "172.11.0.2"))], {"a": pod("a", "172.11.0.2")})
    assert listed.backends == ()
    assert said in listed.problems[0]


@pytest.mark.parametrize(
    "foreign",
    [
        endpoint("victim", "172.11.8.9"),
        endpoint("a", "172.11.8.9"),
        endpoint("a\n    server evil 192.0.2.66:80", "172.11.8.9"),
        endpoint("a", "127.0.0.1"),
        endpoint("a", "172.11.0.2", kind="Node"),
        {"addresses": ["172.11.0.2"], "conditions": {}},
    ],
    ids=["another tenant's pod", "its address", "a line of configuration", "the host itself", "no pod", "nobody's"],
)
def test_an_endpoint_made_by_hand_leads_to_no_other_than_the_namespaces_own_pods(foreign: dict[str, object]) -> None:
    listed = resolve(WEB, service(http=80), [slice_of(foreign)], {"a": pod("a", "172.11.0.2")})
    assert listed.backends == ()
    assert "is no pod of namespace red: left out" in listed.problems[0]


def test_a_finished_pod_is_no_backend_as_its_address_may_be_anothers() -> None:
    pods = {"a": pod("a", "172.11.0.2", "Succeeded")}
    assert resolve(WEB, service(http=80), [slice_of(endpoint("a", "172.11.0.2"))], pods).backends == ()


def test_addresses_of_ipv6_and_ports_that_are_none_are_passed_over() -> None:
    assert found(slice_of(endpoint("a", "2001:db8::1"))) == {}
    assert found(slice_of(endpoint("a", "172.11.0.2"), ports={"http": 0})) == {}


LISTS = (
    BackendList(WEB, (Backend("a", IPv4Address("172.11.0.2"), 8080, "node1"),)),
    BackendList(Target("blue", "api", "grpc"), ()),
)


def test_haproxy_gets_a_backend_section_for_each_target() -> None:
    assert render(LISTS, Format.HAPROXY).splitlines()[1:] == [
        "backend red_web",
        "    server a 172.11.0.2:8080",
        "backend blue_api_grpc",
    ]


def test_haproxy_gets_no_server_name_twice_when_a_pod_is_there_by_two_ports() -> None:
    address = IPv4Address("172.11.0.2")
    twice = BackendList(WEB, (Backend("a", address, 8080), Backend("a", address, 9090)))
    assert [line.split()[1] for line in render([twice], Format.HAPROXY).splitlines()[2:]] == ["a-8080", "a-9090"]


def test_nginx_gets_an_upstream_for_each_target_with_a_server_that_is_down_for_nobody() -> None:
    assert render(LISTS, Format.NGINX).splitlines()[1:] == [
        "upstream red_web {",
        "    server 172.11.0.2:8080;  # a",
        "}",
        "upstream blue_api_grpc {",
        "    server 127.0.0.1:9 down;",
        "}",
    ]


def test_a_script_gets_one_line_of_json() -> None:
    backend = {"name": "a", "address": "172.11.0.2", "port": 8080, "node": "node1"}
    (line,) = render(LISTS, Format.JSON).splitlines()
    assert json.loads(line) == [
        {"service": "red/web", "name": "red_web", "backends": [backend]},
        {"service": "blue/api:grpc", "name": "blue_api_grpc", "backends": []},
    ]


def test_a_file_is_replaced_as_a_whole_keeps_its_mode_and_is_left_alone_when_it_is_right(tmp_path: Path) -> None:
    path = tmp_path / "backends.cfg"
    assert write_atomically(path, "one")
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o640)
    before = path.stat().st_ino
    assert write_atomically(path, "two")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", 0o640)
    after = path.stat()
    assert after.st_ino != before
    assert not write_atomically(path, "two")
    assert path.stat() == after
    assert list(tmp_path.iterdir()) == [path]


async def test_the_reload_runs_for_a_change_alone_and_again_after_it_failed(tmp_path: Path) -> None:
    runs, path = tmp_path / "runs", tmp_path / "backends.cfg"
    command = f"echo x >> {runs}; test -e {tmp_path / 'works'}"
    publisher = Publisher(lambda lists: render(lists, Format.JSON), path, command, lambda _: None)
    assert not await publisher.publish(LISTS)
    assert not await publisher.publish(LISTS, again=True)
    (tmp_path / "works").touch()
    assert await publisher.publish(LISTS, again=True)
    assert await publisher.publish(LISTS)
    assert len(runs.read_text().split()) == 3
    assert await publisher.publish(LISTS[:1])
    assert len(runs.read_text().split()) == 4


async def test_a_directory_that_is_missing_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "later" / "backends.cfg"
    publisher = Publisher(lambda lists: render(lists, Format.JSON), path, "", lambda _: None)
    assert not await publisher.publish(LISTS)
    path.parent.mkdir()
    assert await publisher.publish(LISTS, again=True)
    assert path.read_text() == render(LISTS, Format.JSON)


async def test_a_reload_that_hangs_is_ended_with_all_that_it_started() -> None:
    async with asyncio.timeout(10):
        assert await reload("sleep 100 & sleep 100", timeout=0.1) == "not done after 0 s"
