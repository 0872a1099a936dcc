"""Services and EndpointSlices as the API writes them, read for the switch."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from agent.service_objects import service_of
from flows.service import Backend, Protocol, Service
from k8sovs.kubernetes import EndpointSlice, from_document
from k8sovs.kubernetes import Service as ServiceObject


def read(spec: dict[str, Any], *slices: dict[str, Any], status: dict[str, Any] | None = None) -> Service | None:
    body = {"metadata": {"name": "web", "namespace": "a"}, "spec": spec, "status": status or {}}
    listed = [
        from_document({"metadata": {"name": f"web-{number}", "namespace": "a"}, **body}, EndpointSlice)
        for number, body in enumerate(slices)
    ]
    return service_of(from_document(body, ServiceObject), listed, "node1")


def slice_of(*endpoints: dict[str, Any], kind: str = "IPv4", **port: object) -> dict[str, Any]:
    ports = [{"name": "http", "port": 8080, "protocol": "TCP", **port}]
    return {"addressType": kind, "endpoints": list(endpoints), "ports": ports}


def at(address: str, **more: object) -> dict[str, Any]:
    return {"addresses": [address], "nodeName": "node1", **more}


SPEC: dict[str, Any] = {"clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 80}]}


@pytest.mark.parametrize(
    "spec",
    [
        {**SPEC, "clusterIP": "None"},
        {"type": "ExternalName", "externalName": "example.com"},
        {**SPEC, "clusterIP": "fd00::1"},
        {**SPEC, "clusterIP": ""},
    ],
    ids=["headless", "by name", "IPv6", "not yet"],
)
def test_a_service_without_an_ipv4_address_is_none_of_ours(spec: dict[str, Any]) -> None:
    assert read(spec) is None


def test_the_port_of_a_slice_is_found_by_its_name() -> None:
    found = read(SPEC, slice_of(at("172.11.0.2")), slice_of(at("172.11.0.3"), name="other", port=9))
    assert found is not None
    assert [one.backend for one in found.ports[0].endpoints] == [Backend(IPv4Address("172.11.0.2"), 8080)]


def test_protocols_are_kept_apart_and_unknown_ones_passed_over() -> None:
    ports = [{"name": "u", "port": 53, "protocol": "UDP"}, {"name": "q", "port": 53, "protocol": "QUIC"}]
    found = read({**SPEC, "ports": ports}, slice_of(at("172.11.0.2"), name="u", protocol="UDP"))
    assert found is not None
    assert [port.protocol for port in found.ports] == [Protocol.UDP]
    assert len(found.ports[0].endpoints) == 1


def test_slices_and_addresses_that_are_not_ipv4_are_passed_over() -> None:
    found = read(SPEC, slice_of(at("fd00::1"), kind="IPv6"), slice_of(at("name.example"), kind="FQDN"))
    assert found is not None
    assert found.ports[0].endpoints == ()


@pytest.mark.parametrize(
    ("conditions", "ready", "serving", "terminating"),
    [
        ({}, True, True, False),
        ({"ready": True}, True, True, False),
        ({"ready": False}, False, False, False),
        ({"ready": False, "serving": True, "terminating": True}, False, True, True),
        ({"ready": False, "serving": False, "terminating": True}, False, False, True),
    ],
)
def test_conditions_that_are_not_said_have_the_defaults_of_the_api(
    conditions: dict[str, bool], ready: bool, serving: bool, terminating: bool
) -> None:
    found = read(SPEC, slice_of(at("172.11.0.2", conditions=conditions)))
    assert found is not None
    (one,) = found.ports[0].endpoints
    assert (one.ready, one.serving, one.terminating) == (ready, serving, terminating)


def test_addresses_published_before_they_are_ready_count_as_ready() -> None:
    found = read({**SPEC, "publishNotReadyAddresses": True}, slice_of(at("172.11.0.2", conditions={"ready": False})))
    assert found is not None
    assert found.ports[0].endpoints[0].ready


def test_an_endpoint_that_names_this_node_is_local() -> None:
    found = read(SPEC, slice_of(at("172.11.0.2"), at("172.11.4.2", nodeName="node2"), {"addresses": ["192.0.2.9"]}))
    assert found is not None
    assert [one.local for one in found.ports[0].endpoints] == [True, False, False]


def test_affinity_policies_and_outer_addresses_are_taken_over() -> None:
    spec = {
        **SPEC,
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}},
        "internalTrafficPolicy": "Local",
        "externalTrafficPolicy": "Local",
        "externalIPs": ["203.0.113.8", "2001:db8::1"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
    }
    ingress = [{"ip": "203.0.113.7"}, {"hostname": "lb.example"}]
    found = read(spec, status={"loadBalancer": {"ingress": ingress}})
    assert found is not None
    assert (found.affinity_s, found.internal_local, found.external_local) == (7, True, True)
    assert found.external == (IPv4Address("203.0.113.7"), IPv4Address("203.0.113.8"))
    assert found.ports[0].node_port == 30080


def test_affinity_without_a_time_lasts_three_hours() -> None:
    found = read({**SPEC, "sessionAffinity": "ClientIP"})
    assert found is not None
    assert found.affinity_s == 10800
