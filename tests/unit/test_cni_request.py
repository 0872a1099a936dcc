import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.errors import CniError, ErrorCode
from cni.request import AttachmentKey, Command, NetConf, PodIdentity, Request
from cni.versions import SUPPORTED

CONF = {"cniVersion": "1.1.0", "name": "k8s-ovs", "type": "k8s-ovs"}
ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "e1518fdf17c8",
    "CNI_NETNS": "/var/run/netns/cni-77af6544",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=tenant2;K8S_POD_NAME=web-0;K8S_POD_UID=8a37b917",
    "CNI_PATH": "/opt/cni/bin",
}


def conf(**fields: object) -> NetConf:
    return NetConf.parse(json.dumps(CONF | fields).encode())


def request(conf_fields: dict[str, object] | None = None, **variables: str) -> Request:
    return Request.parse(ENVIRONMENT | variables, conf(**(conf_fields or {})))


def test_an_add_tells_container_namespace_interface_and_pod() -> None:
    add = request()
    assert (add.command, add.key, add.netns) == (
        Command.ADD,
        AttachmentKey("e1518fdf17c8", "eth0"),
        "/var/run/netns/cni-77af6544",
    )
    assert add.pod == PodIdentity("tenant2", "web-0", "8a37b917")


def test_the_order_of_the_arguments_does_not_matter() -> None:
    backwards = ";".join(reversed(ENVIRONMENT["CNI_ARGS"].split(";")))
    assert request(CNI_ARGS=backwards).pod == request().pod


def test_a_pod_without_uid_is_accepted() -> None:
    assert request(CNI_ARGS="K8S_POD_NAMESPACE=a;K8S_POD_NAME=b").pod == PodIdentity("a", "b", "")


@pytest.mark.parametrize(
    "args",
    [
        "",
        "K8S_POD_NAME=b",
        "K8S_POD_NAMESPACE=a",
        "K8S_POD_NAMESPACE=../x;K8S_POD_NAME=b",
        "K8S_POD_NAMESPACE=a;K8S_POD_NAME=B/c",
    ],
)
def test_a_pod_name_that_kubernetes_would_not_give_is_an_error_only_where_the_pod_is_asked_for(args: str) -> None:
    call = request(CNI_ARGS=args)
    with pytest.raises(CniError) as caught:
        _ = call.pod
    assert caught.value.code is ErrorCode.INVALID_ENVIRONMENT


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_supported_version_is_taken(version: str) -> None:
    assert conf(cniVersion=version).cni_version == version


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "2.0.0", "", None, 1])
def test_another_version_is_incompatible(version: object) -> None:
    with pytest.raises(CniError) as caught:
        conf(cniVersion=version)
    assert caught.value.code is ErrorCode.INCOMPATIBLE_VERSION
    assert all(supported in caught.value.details for supported in SUPPORTED)


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
@pytest.mark.parametrize("name", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])
def test_a_missing_variable_is_named(command: str, name: str) -> None:
    with pytest.raises(CniError, match=name) as caught:
        request({"prevResult": {}}, CNI_COMMAND=command, **{name: ""})
    assert caught.value.code is ErrorCode.INVALID_ENVIRONMENT


def test_a_del_needs_no_network_namespace() -> None:
    assert request(CNI_COMMAND="DEL", CNI_NETNS="").netns == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CNI_COMMAND", "add"),
        ("CNI_COMMAND", ""),
        ("CNI_CONTAINERID", "-x"),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_CONTAINERID", "a\n"),
        ("CNI_NETNS", "netns/x"),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a" * 16),
        ("CNI_IFNAME", "eth 0"),
        ("CNI_IFNAME", "eth/0"),
        ("CNI_IFNAME", "eth:0"),
        ("CNI_IFNAME", "eth%d"),
        ("CNI_IFNAME", "eth\x01"),
        ("CNI_IFNAME", "all"),
        ("CNI_IFNAME", "default"),
        ("CNI_NETNS", "/" + "x" * 4095),
        ("CNI_CONTAINERID", "x" * 256),
        ("CNI_ARGS", "novalue"),
        ("CNI_ARGS", "=x"),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(CniError, match=name) as caught:
        request(**{name: value})
    assert caught.value.code is ErrorCode.INVALID_ENVIRONMENT


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", None),
        ("name", ""),
        ("name", "a/b"),
        ("type", 7),
        ("prevResult", []),
        ("runtimeConfig", "x"),
        ("cni.dev/valid-attachments", {}),
        ("cni.dev/valid-attachments", [{"containerID": "a"}]),
        ("cni.dev/valid-attachments", [{"containerID": "a", "ifname": "eth0"}, None]),
    ],
)
def test_a_bad_field_of_the_configuration_is_named(field: str, value: object) -> None:
    with pytest.raises(CniError, match=field) as caught:
        conf(**{field: value})
    assert caught.value.code is ErrorCode.INVALID_CONFIG


def test_gc_names_the_attachments_that_stay() -> None:
    entries = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}]
    collect = request({"cni.dev/valid-attachments": entries}, CNI_COMMAND="GC", CNI_CONTAINERID="", CNI_IFNAME="")
    assert collect.conf.valid_attachments == {AttachmentKey("a", "eth0"), AttachmentKey("b", "net1")}


def test_gc_takes_the_other_name_of_the_list() -> None:
    assert conf(**{"cni.dev/attachments": []}).valid_attachments == frozenset()


def test_gc_without_the_list_is_refused_instead_of_collecting_everything() -> None:
    with pytest.raises(CniError, match="valid-attachments"):
        request(CNI_COMMAND="GC")


def test_check_needs_the_previous_result() -> None:
    with pytest.raises(CniError, match="prevResult"):
        request(CNI_COMMAND="CHECK")


def test_the_runtime_configuration_is_passed_on() -> None:
    bandwidth = {"bandwidth": {"IngressRate": 10000000, "IngressBurst": 4294967295}}
    assert conf(runtimeConfig=bandwidth).runtime_config == bandwidth


@pytest.mark.parametrize("document", [b"", b"[]", b"null", b'"x"', b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_json_object_is_a_decoding_failure(document: bytes) -> None:
    with pytest.raises(CniError) as caught:
        NetConf.parse(document)
    assert caught.value.code is ErrorCode.DECODING_FAILURE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FIELDS = ("name", "type", "prevResult", "runtimeConfig", "cni.dev/valid-attachments", "cni.dev/attachments")


@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON),
    st.dictionaries(st.sampled_from(sorted(ENVIRONMENT)), st.text()),
)
def test_whatever_comes_is_a_request_or_an_error_of_ours(fields: dict[str, object], variables: dict[str, str]) -> None:
    try:
        _ = request(fields, **variables).pod
    except CniError as error:
        json.loads(error.render())


def test_an_error_about_a_huge_value_is_short() -> None:
    with pytest.raises(CniError) as caught:
        conf(cniVersion="9" * 1_000_000)
    assert len(caught.value.render()) < 1000
