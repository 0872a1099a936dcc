from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.vni import VnisExhausted, following, is_behind, next_free
from k8sovs.records import VNI_FIRST, VNI_MAX

ids = st.integers(VNI_FIRST, VNI_MAX)
near_the_ends = st.integers(VNI_FIRST, VNI_FIRST + 20) | st.integers(VNI_MAX - 20, VNI_MAX)


@given(near_the_ends, st.frozensets(near_the_ends))
def test_an_allocated_id_is_in_range_and_was_free(cursor: int, in_use: frozenset[int]) -> None:
    found = next_free(cursor, in_use)
    assert VNI_FIRST <= found <= VNI_MAX
    assert found not in in_use


@given(near_the_ends, st.frozensets(near_the_ends))
def test_every_id_that_is_passed_over_is_in_use(cursor: int, in_use: frozenset[int]) -> None:
    found = next_free(cursor, in_use)
    while cursor != found:
        assert cursor in in_use
        cursor = following(cursor)


def test_the_search_goes_round_at_the_end() -> None:
    assert next_free(VNI_MAX, {VNI_MAX}) == VNI_FIRST
    assert following(VNI_MAX) == VNI_FIRST


def test_global_and_reserved_ids_are_followed_by_the_first_one() -> None:
    assert {following(low) for low in range(VNI_FIRST)} == {VNI_FIRST}


def test_when_every_id_is_in_use_the_search_ends_with_an_error() -> None:
    with pytest.raises(VnisExhausted):
        next_free(VNI_FIRST, range(VNI_FIRST, VNI_MAX + 1))


@given(ids, st.integers(1, 1000))
def test_a_cursor_that_was_turned_back_is_behind(cursor: int, steps: int) -> None:
    size = VNI_MAX + 1 - VNI_FIRST
    earlier = VNI_FIRST + (cursor - VNI_FIRST - steps) % size
    assert is_behind(earlier, cursor)
    assert not is_behind(cursor, earlier)
    assert not is_behind(cursor, cursor)
