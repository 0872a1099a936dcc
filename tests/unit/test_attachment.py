from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.attachment import PodAttachment, tenancy_ids
from agent.limits import HIGHEST, LOWEST, Limits
from cni.request import AttachmentKey, PodIdentity
from flows.snapshot import VNI_MAX, Tenancy

VNIS = st.integers(min_value=0, max_value=VNI_MAX)
TENANCIES = st.builds(Tenancy, VNIS, st.frozensets(VNIS))
RATES = st.none() | st.integers(min_value=LOWEST, max_value=HIGHEST)
ATTACHMENTS = st.builds(
    PodAttachment,
    key=st.builds(AttachmentKey, st.text(), st.text()),
    pod=st.builds(PodIdentity, st.text(), st.text(), st.text()),
    netns=st.text(),
    address=st.ip_addresses(v=4),
    tenancy=TENANCIES,
    limits=st.builds(Limits, RATES, RATES),
    network=st.text(),
)
ATTACHED = PodAttachment(
    AttachmentKey("c0ffee", "eth0"),
    PodIdentity("red", "web", ""),
    "/run/netns/x",
    IPv4Address("172.11.0.2"),
    Tenancy(0, frozenset({0, 10})),
)


@given(ATTACHMENTS)
def test_a_port_remembers_all_of_an_attachment(attachment: PodAttachment) -> None:
    assert PodAttachment.from_external_ids(attachment.external_ids()) == attachment


@given(ATTACHMENTS, TENANCIES)
def test_a_changed_tenancy_is_remembered_beside_the_rest(attachment: PodAttachment, tenancy: Tenancy) -> None:
    ids = attachment.external_ids() | tenancy_ids(tenancy)
    remembered = PodAttachment.from_external_ids(ids)
    assert remembered is not None
    assert remembered.tenancy == tenancy
    assert remembered.external_ids().keys() == attachment.external_ids().keys()


def test_ids_of_other_people_are_ignored() -> None:
    assert PodAttachment.from_external_ids(ATTACHED.external_ids() | {"iface-id": "x"}) == ATTACHED


LIMITS = {"k8sovs-ingress-bandwidth", "k8sovs-egress-bandwidth"}
OPTIONAL = {*LIMITS, "k8sovs-network"}


@pytest.mark.parametrize("missing", sorted(ATTACHED.external_ids().keys() - OPTIONAL))
def test_a_port_that_lacks_an_id_is_no_pods(missing: str) -> None:
    ids = ATTACHED.external_ids()
    del ids[missing]
    assert PodAttachment.from_external_ids(ids) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("k8sovs-address", "172.11.0"),
        ("k8sovs-address", "fd00::1"),
        ("k8sovs-send", "ten"),
        ("k8sovs-send", ""),
        ("k8sovs-send", "-1"),
        ("k8sovs-send", "16777216"),
        ("k8sovs-accept", "10,11"),
        ("k8sovs-accept", "10 16777216"),
    ],
)
def test_a_port_with_a_nonsensical_id_is_no_pods(name: str, value: str) -> None:
    assert PodAttachment.from_external_ids(ATTACHED.external_ids() | {name: value}) is None


@pytest.mark.parametrize("name", sorted(LIMITS))
@pytest.mark.parametrize("value", ["fast", "-1", "0", "9" * 5000])
def test_a_port_with_a_nonsensical_limit_is_a_pods_without_limit(name: str, value: str) -> None:
    assert PodAttachment.from_external_ids(ATTACHED.external_ids() | {name: value}) == ATTACHED


def test_a_port_without_ids_is_no_pods() -> None:
    assert PodAttachment.from_external_ids({}) is None


def test_a_port_of_an_agent_that_did_not_remember_the_network_is_of_the_installed_one() -> None:
    ids = ATTACHED.external_ids()
    del ids["k8sovs-network"]
    assert PodAttachment.from_external_ids(ids) == ATTACHED
