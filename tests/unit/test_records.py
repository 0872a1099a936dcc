from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8sovs.records import (
    VNI_FIRST,
    VNI_MAX,
    Keys,
    Mode,
    NetNamespaceRecord,
    NetworkConfig,
    RecordError,
    SubnetRecord,
    VnidRecord,
    parse_vni_cursor,
)

KEYS = Keys("/k8s.ovs.com/ovs/network", "k8ssdn")
SUBNET_KEY = KEYS.subnet(IPv4Address("192.0.2.11"))
NAMESPACE_KEY = KEYS.netnamespace("helloworld1")
VNID_KEY = KEYS.vnid("helloworld1")

CONFIG = (
    b'{"Name":"k8ssdn","Network":"172.11.0.0/16","HostSubnetLength":10,"ServiceNetwork":"10.96.0.0/12",'
    b'"PluginName":"k8s-ovs-multitenant"}'
)
SUBNET = b'{"Host":"node1","HostIP":"192.0.2.11","Subnet":"172.11.0.0/22","Assign":false}'
NAMESPACE = b'{"NetName":"helloworld1","NetID":300924,"Action":"","Namespace":""}'
VNID = b'{"Send":3831805,"Accept":[3831805]}'

PARSERS: dict[str, tuple[Callable[[str, bytes], object], str, bytes]] = {
    "config": (NetworkConfig.parse, KEYS.config, CONFIG),
    "subnet": (SubnetRecord.parse, SUBNET_KEY, SUBNET),
    "namespace": (NetNamespaceRecord.parse, NAMESPACE_KEY, NAMESPACE),
    "vnid": (VnidRecord.parse, VNID_KEY, VNID),
}
each_parser = pytest.mark.parametrize(("parse", "key", "good"), PARSERS.values(), ids=PARSERS.keys())

vnis = st.integers(0, VNI_MAX)
used_vnis = st.just(0) | st.integers(VNI_FIRST, VNI_MAX)
texts = st.text(max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def changed(good: bytes, **fields: object) -> bytes:
    """The record with some fields changed."""
    return json.dumps({**json.loads(good), **fields}).encode()


def without(good: bytes, name: str) -> bytes:
    return json.dumps({key: value for key, value in json.loads(good).items() if key != name}).encode()


# --- keys


def test_keys_lie_where_the_predecessor_has_them() -> None:
    assert KEYS.config == "/k8s.ovs.com/ovs/network/config"
    assert SUBNET_KEY == "/k8s.ovs.com/ovs/network/k8ssdn/subnets/192.0.2.11"
    assert NAMESPACE_KEY == "/k8s.ovs.com/ovs/network/k8ssdn/netnamespaces/helloworld1"
    assert VNID_KEY == "/k8s.ovs.com/ovs/network/k8ssdn/vnids/helloworld1"


def test_every_key_of_a_network_lies_in_its_folder() -> None:
    keys = (KEYS.subnets, KEYS.netnamespaces, KEYS.vnids, KEYS.leader, KEYS.vni_cursor)
    assert all(key.startswith(KEYS.network) for key in keys)


# --- what is in the records


def test_a_network_configuration_is_read() -> None:
    assert NetworkConfig.parse(KEYS.config, CONFIG) == NetworkConfig(
        "k8ssdn", IPv4Network("172.11.0.0/16"), 10, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT
    )


@pytest.mark.parametrize(
    ("plugin", "mode"),
    [
        ("k8s-ovs-subnet", Mode.SUBNET),
        ("K8S-OVS-Subnet", Mode.SUBNET),
        ("k8s-ovs-multitenant", Mode.MULTITENANT),
        ("k8s-ovs-MultiTenant", Mode.MULTITENANT),
    ],
)
def test_the_mode_is_read_in_any_case(plugin: str, mode: Mode) -> None:
    assert NetworkConfig.parse(KEYS.config, changed(CONFIG, PluginName=plugin)).mode is mode


def test_host_subnet_length_counts_host_bits() -> None:
    assert NetworkConfig.parse(KEYS.config, CONFIG).subnet_prefix_length == 22


@pytest.mark.parametrize(
    ("subnet", "belongs"),
    [("172.11.0.0/22", True), ("172.11.252.0/22", True), ("172.11.0.0/23", False), ("172.12.0.0/22", False)],
)
def test_a_network_knows_its_subnets(subnet: str, belongs: bool) -> None:
    assert NetworkConfig.parse(KEYS.config, CONFIG).has_subnet(IPv4Network(subnet)) is belongs


def test_a_subnet_is_read() -> None:
    assert SubnetRecord.parse(SUBNET_KEY, SUBNET) == SubnetRecord(
        "node1", IPv4Address("192.0.2.11"), IPv4Network("172.11.0.0/22"), assign=False
    )


@pytest.mark.parametrize("subnet", ["", None])
def test_a_subnet_still_to_be_assigned_is_none(subnet: str | None) -> None:
    record = SubnetRecord.parse(SUBNET_KEY, changed(SUBNET, Subnet=subnet, Assign=True))
    assert (record.subnet, record.assign) == (None, True)


def test_a_request_for_a_subnet_needs_no_more_than_its_key() -> None:
    record = SubnetRecord.parse(SUBNET_KEY, b'{"Assign":true}')
    assert (record.host, record.host_ip, record.assign) == ("192.0.2.11", IPv4Address("192.0.2.11"), True)


def test_a_namespace_is_read() -> None:
    assert NetNamespaceRecord.parse(NAMESPACE_KEY, NAMESPACE) == NetNamespaceRecord("helloworld1", 300924)


def test_the_global_id_is_not_a_missing_one() -> None:
    assert NetNamespaceRecord.parse(NAMESPACE_KEY, changed(NAMESPACE, NetID=0)).net_id == 0
    assert NetNamespaceRecord.parse(NAMESPACE_KEY, changed(NAMESPACE, NetID=None)).net_id is None
    assert NetNamespaceRecord.parse(NAMESPACE_KEY, without(NAMESPACE, "NetID")).net_id is None


def test_any_word_is_an_action_as_far_as_the_record_goes() -> None:
    record = NetNamespaceRecord.parse(NAMESPACE_KEY, changed(NAMESPACE, Action="jion", Namespace="../x"))
    assert (record.action, record.namespace) == ("jion", "../x")


def test_what_the_data_plane_does_is_read() -> None:
    assert VnidRecord.parse(VNID_KEY, b'{"Send":0,"Accept":[0,12]}') == VnidRecord(0, frozenset({0, 12}))


@each_parser
def test_a_record_is_written_as_the_predecessor_wrote_it(
    parse: Callable[[str, bytes], SubnetRecord], key: str, good: bytes
) -> None:
    assert parse(key, good).encode() == good


KNOWN = {name.casefold() for name in (*json.loads(NAMESPACE), "message")}


@given(st.dictionaries(texts.filter(lambda name: name.casefold() not in KNOWN), json_values))
def test_unknown_fields_are_kept(extra: dict[str, object]) -> None:
    written = NetNamespaceRecord.parse(NAMESPACE_KEY, changed(NAMESPACE, **extra)).encode()
    assert json.loads(written) == {**json.loads(NAMESPACE), **extra}


@given(
    st.builds(
        SubnetRecord,
        host=texts.filter(bool),
        host_ip=st.just(IPv4Address("192.0.2.11")),
        subnet=st.none() | st.just(IPv4Network("172.11.4.0/22")),
        assign=st.booleans(),
        message=texts,
        extra=st.just((("zone", '["a", 1]'),)),
    )
)
def test_a_subnet_survives_writing_and_reading(record: SubnetRecord) -> None:
    assert SubnetRecord.parse(SUBNET_KEY, record.encode()) == record


@given(
    st.builds(
        NetNamespaceRecord,
        net_name=st.just("helloworld1"),
        net_id=st.none() | vnis,
        action=texts,
        namespace=texts,
        message=texts,
    )
)
def test_a_namespace_survives_writing_and_reading(record: NetNamespaceRecord) -> None:
    assert NetNamespaceRecord.parse(NAMESPACE_KEY, record.encode()) == record


@given(st.builds(VnidRecord, send=used_vnis, accept=st.frozensets(used_vnis, max_size=4)))
def test_a_vnid_survives_writing_and_reading(record: VnidRecord) -> None:
    assert VnidRecord.parse(VNID_KEY, record.encode()) == record


# --- hostile values


@each_parser
@given(value=st.binary(max_size=200))
def test_junk_is_a_record_error(parse: Callable[[str, bytes], object], key: str, good: bytes, value: bytes) -> None:
    with pytest.raises(RecordError):
        parse(key, value)


@each_parser
@given(value=json_values, data=st.data())
def test_a_field_of_any_kind_is_read_or_a_record_error(
    parse: Callable[[str, bytes], object], key: str, good: bytes, value: object, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(json.loads(good))))
    with suppress(RecordError):
        hash(parse(key, changed(good, **{name: value})))


HOSTILE = {
    "a mebibyte of junk": b"x" * 2**20,
    "a mebibyte of JSON": b'{"Host":"' + b"x" * 2**20 + b'"}',
    "deep nesting": b"[" * 60_000,
    "deep nesting of objects": b'{"a":' * 10_000,
    "a number of many digits": b'{"NetID":' + b"9" * 10_000 + b',"Send":1}',
    "not UTF-8": b'{"Host":"\xff"}',
    "UTF-16": '{"Host":"node1"}'.encode("utf-16"),
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a string": b'"node1"',
    "not a number": b'{"NetID":NaN,"Send":NaN,"Assign":NaN,"HostSubnetLength":NaN}',
    "infinity": b'{"NetID":Infinity,"Send":-Infinity,"Assign":Infinity,"HostSubnetLength":1e999}',
}


@each_parser
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_value_is_a_record_error(
    parse: Callable[[str, bytes], object], key: str, good: bytes, value: bytes
) -> None:
    with pytest.raises(RecordError) as raised:
        parse(key, value)
    assert raised.value.key == key
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("parse", [SubnetRecord.parse, NetNamespaceRecord.parse])
def test_half_a_character_is_a_record_error(parse: Callable[[str, bytes], object]) -> None:
    key = SUBNET_KEY if parse == SubnetRecord.parse else NAMESPACE_KEY
    with pytest.raises(RecordError, match="message"):
        parse(key, b'{"message":"\\ud800"}')


@pytest.mark.parametrize("net_id", [-1, 2**24, True, False, 10.0, "10", [10], {"a": 1}, 1e3])
def test_a_net_id_that_is_none_does_not_spoil_the_action_beside_it(net_id: object) -> None:
    record = NetNamespaceRecord.parse(NAMESPACE_KEY, changed(NAMESPACE, NetID=net_id, Action="global"))
    assert (record.net_id, record.action) == (None, "global")


def test_names_of_fields_count_in_any_case_and_are_written_in_ours() -> None:
    lower = NAMESPACE.lower().replace(b'"action":""', b'"ACTION":"global"')
    record = NetNamespaceRecord.parse(NAMESPACE_KEY, lower)
    assert (record.net_id, record.action, record.extra) == (300924, "global", ())
    assert record.encode() == changed(NAMESPACE, Action="global").replace(b" ", b"")


def test_of_one_field_in_several_cases_the_exact_name_counts() -> None:
    twice = b'{"netname":"x","NetName":"helloworld1","netid":7,"NETID":8,"action":""}'
    record = NetNamespaceRecord.parse(NAMESPACE_KEY, twice)
    assert (record.net_name, record.net_id, record.extra) == ("helloworld1", 8, ())


@pytest.mark.parametrize(("send", "accept"), [(1, [1]), (9, [9, 10]), (10, [5, 10])])
def test_a_reserved_id_is_nobodys(send: int, accept: list[int]) -> None:
    with pytest.raises(RecordError, match="no id of a namespace"):
        VnidRecord.parse(VNID_KEY, changed(VNID, Send=send, Accept=accept))


@pytest.mark.parametrize("accept", [None, 1, [True], [-1], [2**24], ["1"], [[1]], list(range(17)), {"1": 1}])
def test_accepted_ids_are_few_numbers_in_their_range(accept: object) -> None:
    with pytest.raises(RecordError, match="Accept"):
        VnidRecord.parse(VNID_KEY, changed(VNID, Accept=accept))


@pytest.mark.parametrize("name", ["Send", "Accept"])
def test_a_vnid_has_both_fields(name: str) -> None:
    with pytest.raises(RecordError, match=name):
        VnidRecord.parse(VNID_KEY, without(VNID, name))


@pytest.mark.parametrize(
    "key",
    [
        f"{KEYS.netnamespaces}nested/helloworld1",
        f"{KEYS.netnamespaces}Hello_World",
        KEYS.netnamespaces,
        f"{KEYS.netnamespaces}{'a' * 64}",
        KEYS.vnid("helloworld1"),
        "helloworld1",
    ],
)
def test_a_key_that_names_no_namespace_is_a_record_error(key: str) -> None:
    with pytest.raises(RecordError):
        NetNamespaceRecord.parse(key, without(NAMESPACE, "NetName"))


def test_a_namespace_under_another_ones_key_is_refused() -> None:
    with pytest.raises(RecordError, match="disagree"):
        NetNamespaceRecord.parse(KEYS.netnamespace("other"), NAMESPACE)


@pytest.mark.parametrize("key", [KEYS.subnet(IPv4Address("192.0.2.12")), f"{KEYS.subnets}192.0.2.011"])
def test_a_subnet_whose_key_names_another_address_is_refused(key: str) -> None:
    with pytest.raises(RecordError):
        SubnetRecord.parse(key, SUBNET)


@pytest.mark.parametrize("address", ["224.0.0.1", "0.0.0.0", "255.255.255.255", "::1", "node1", 1, "1"])
def test_a_host_has_the_address_of_a_host(address: object) -> None:
    with pytest.raises(RecordError, match="HostIP"):
        SubnetRecord.parse(f"{KEYS.subnets}{address}", changed(SUBNET, HostIP=address))


@pytest.mark.parametrize(
    "subnet", ["172.11.0.1/22", "172.11.0.0/33", "172.11.0.0/-1", "fd00::/64", "x", 7, ["a"], True]
)
def test_a_subnet_is_a_network(subnet: object) -> None:
    with pytest.raises(RecordError, match="Subnet"):
        SubnetRecord.parse(SUBNET_KEY, changed(SUBNET, Subnet=subnet))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Name", ""),
        ("Name", "a/b"),
        ("Name", ".."),
        ("Network", ""),
        ("Network", "172.11.0.0/33"),
        ("HostSubnetLength", 1),
        ("HostSubnetLength", 17),
        ("HostSubnetLength", None),
        ("HostSubnetLength", True),
        ("ServiceNetwork", None),
        ("ServiceNetwork", "172.11.128.0/20"),
        ("PluginName", "flannel"),
        ("PluginName", None),
    ],
)
def test_a_network_that_cannot_be_is_refused_by_the_name_of_its_field(field: str, value: object) -> None:
    with pytest.raises(RecordError, match=field):
        NetworkConfig.parse(KEYS.config, changed(CONFIG, **{field: value}))


def test_the_cursor_is_an_id_that_may_be_allocated() -> None:
    assert parse_vni_cursor(KEYS.vni_cursor, b"10") == 10
    assert parse_vni_cursor(KEYS.vni_cursor, b"16777215") == VNI_MAX


@pytest.mark.parametrize(
    "value", [b"", b"9", b"-1", b"16777216", b"1e3", b"0x10", b"9" * 10_000, "١٢".encode(), b"\xff"]
)
def test_any_other_cursor_is_a_record_error(value: bytes) -> None:
    with pytest.raises(RecordError):
        parse_vni_cursor(KEYS.vni_cursor, value)
