from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8sovs.etcd import EtcdConfig
from k8sovs.etcd.model import Endpoint, Range, from_wire, to_wire

CA, CERT, KEY = Path("ca.pem"), Path("client.pem"), Path("client.key")


@pytest.mark.parametrize(
    ("endpoint", "server"),
    [
        ("http://127.0.0.1:2379", Endpoint("127.0.0.1:2379", tls=False)),
        ("https://etcd-0.example:2379/", Endpoint("etcd-0.example:2379", tls=True)),
        ("etcd:2379", Endpoint("etcd:2379", tls=False)),
        ("http://[2001:db8::1]:2379", Endpoint("[2001:db8::1]:2379", tls=False)),
    ],
)
def test_an_endpoint_is_a_url_or_an_address(endpoint: str, server: Endpoint) -> None:
    assert EtcdConfig((endpoint,)).servers == (server,)


def test_an_address_alone_means_tls_where_certificates_are_given() -> None:
    assert EtcdConfig(("etcd:2379",), ca=CA).servers == (Endpoint("etcd:2379", tls=True),)


@pytest.mark.parametrize(
    "endpoint", ["", "127.0.0.1", "ftp://a:1", "http://a:1/path", "http://:1", "a:b", "http://a:1,b:1"]
)
def test_an_endpoint_of_another_form_is_refused_with_its_text(endpoint: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT") as raised:
        EtcdConfig((endpoint,))
    assert repr(endpoint) in str(raised.value)


def test_settings_that_cannot_work_together_are_refused() -> None:
    for wrong, reason in (
        (lambda: EtcdConfig(()), "no etcd endpoint"),
        (lambda: EtcdConfig(("https://a:1",), cert=CERT), "its key"),
        (lambda: EtcdConfig(("https://a:1",), key=KEY), "its key"),
        (lambda: EtcdConfig(("http://a:1",), user="u"), "password"),
        (lambda: EtcdConfig(("http://a:1",), ca=CA), "use https"),
    ):
        with pytest.raises(ValueError, match=reason):
            wrong()


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(EtcdConfig(("http://a:1",), user="u", password="secret"))


@given(st.binary())
def test_a_key_of_any_bytes_survives_the_way_in_and_out(key: bytes) -> None:
    assert to_wire(from_wire(key)) == key


def test_a_folder_is_everything_below_it_and_a_key_is_itself() -> None:
    assert Range.of("/a/") == Range(b"/a/", b"/a0")
    assert Range.of("/a") == Range(b"/a")
