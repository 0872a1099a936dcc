"""The arithmetic of the scale benchmark."""

import pytest

from scripts.bench_figures import percentile
from scripts.bench_growth import exponents, growth_exponent, median_interval


@pytest.mark.parametrize(("full", "exponent"), [(3.0, 0.0), (30.0, 1.0), (300.0, 2.0), (0.3, -1.0)])
def test_ten_times_the_size_for_ten_to_the_x_times_the_cost_is_growth_by_x(full: float, exponent: float) -> None:
    assert growth_exponent(3.0, full) == pytest.approx(exponent)


def test_only_times_that_both_sizes_have_and_that_are_above_the_noise_are_compared() -> None:
    tenth = {"a_ms_tenth": 1.0, "b_ms_tenth": 1.0, "c_s_tenth": 0.001, "d_mb_tenth": 50.0, "zero_ms_tenth": 0.0}
    full = {"a_ms": 10.0, "b_ms": 4.9, "c_s": 0.1, "d_mb": 500.0, "zero_ms": 10.0, "alone_ms": 10.0}
    found = exponents(tenth, full, "_tenth")
    assert found == pytest.approx({"a_ms": 1.0, "c_s": 2.0})


def test_a_percentile_is_the_smallest_sample_that_so_many_do_not_exceed() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert [percentile(samples, percent) for percent in (1, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]


def test_a_percentile_of_few_samples_is_one_of_them() -> None:
    assert percentile([2.0, 1.0, 3.0], 99) == 3.0


@pytest.mark.parametrize(("count", "left_out"), [(5, 0), (10, 1), (20, 5), (30, 9)])
def test_the_interval_of_a_median_is_that_of_the_tables(count: int, left_out: int) -> None:
    """The usual tables of the sign test, 95 %: ranks 2 and 9 of 10, 6 and 15 of 20, 10 and 21 of 30."""
    samples = [float(number) for number in range(count)]
    assert median_interval(samples) == (left_out, count - 1 - left_out)
