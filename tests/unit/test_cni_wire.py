from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.errors import CniError, ErrorCode
from cni.wire import decode_call, encode_answer


def test_a_call_is_its_variables_then_standard_input() -> None:
    call = b"CNI_COMMAND=ADD\0CNI_ARGS=A=1;B=2\0CNI_NETNS=\0\0{\0}"
    assert decode_call(call) == ({"CNI_COMMAND": "ADD", "CNI_ARGS": "A=1;B=2", "CNI_NETNS": ""}, b"{\0}")


def test_a_call_may_have_neither_variables_nor_input() -> None:
    assert decode_call(b"\0") == ({}, b"")


@pytest.mark.parametrize("call", [b"", b"CNI_COMMAND=ADD", b"CNI_COMMAND=ADD\0", b"CNI_COMMAND\0\0{}"])
def test_a_call_that_is_cut_off_is_a_decoding_failure(call: bytes) -> None:
    with pytest.raises(CniError) as caught:
        decode_call(call)
    assert caught.value.code is ErrorCode.DECODING_FAILURE


def test_a_variable_that_is_not_utf8_is_an_error_of_the_environment() -> None:
    with pytest.raises(CniError, match="CNI_ARGS") as caught:
        decode_call(b"CNI_ARGS=\xff\0\0")
    assert caught.value.code is ErrorCode.INVALID_ENVIRONMENT


@given(st.binary())
def test_whatever_comes_is_a_call_or_an_error_of_ours(call: bytes) -> None:
    with suppress(CniError):
        decode_call(call)


def test_an_answer_begins_with_the_exit_status() -> None:
    assert encode_answer(1, b"{}\n") == b"1\n{}\n"
