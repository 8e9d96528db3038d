"""The test's own test: values from a table of the chi-square distribution."""

import pytest

from tests.chi_square import p_value, p_value_of_one_law


@pytest.mark.parametrize(("statistic", "degrees", "expected"), [(3.841459, 1, 0.05), (11.344867, 3, 0.01)])
def test_p_values_are_those_of_the_table(statistic, degrees, expected):
    off = (statistic * 100 / 2) ** 0.5
    observed = [100 + off, 100 - off, *[100] * (degrees - 1)]
    assert p_value(observed, [100] * (degrees + 1)) == pytest.approx(expected, rel=1e-5)


def test_rows_of_one_law_and_rows_of_two():
    assert p_value_of_one_law([[100, 200], [50, 100]]) == pytest.approx(1)
    # 2 x 2: n (ad - bc)^2 / the product of the sums = 400 * 10,000^2 / (200^4 * 300 / 300) = 25
    assert p_value_of_one_law([[125, 75], [75, 125]]) == pytest.approx(5.733e-7, rel=1e-3)
