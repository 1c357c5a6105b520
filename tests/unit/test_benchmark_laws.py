"""The law that the benchmarks read off measures at several sizes."""

import pytest

from benchmarks.laws import exponent, extrapolated


def test_a_measure_that_does_not_depend_on_the_size_has_the_exponent_zero() -> None:
    assert exponent({1e5: 3.0, 1e6: 3.0, 1e7: 3.0}) == pytest.approx(0)


def test_a_measure_in_proportion_to_the_size_has_the_exponent_one() -> None:
    assert exponent({1e5: 0.2, 1e6: 2.0, 1e7: 20.0}) == pytest.approx(1)


def test_a_measure_grows_beyond_the_largest_size_as_it_did_before_it() -> None:
    assert extrapolated({1e5: 5.0, 1e6: 1.0, 1e7: 10.0}, 1e8) == pytest.approx(100)


def test_a_measure_that_fell_is_not_taken_to_fall_on() -> None:
    assert extrapolated({1e6: 4.0, 1e7: 3.0}, 1e8) == pytest.approx(3)
