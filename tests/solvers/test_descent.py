"""The descent between bounds: against SciPy's, and in how few steps."""

import numpy as np
import pytest
import scipy.optimize

from helpers import assert_close
from kernelfit.solvers.descent import descend


def valley(at):
    """A bent valley in three variables, and its slope."""
    x, y, z = at
    value = (1 - x) ** 2 + 20 * (y - x**2) ** 2 + 3 * (z - y) ** 2
    return value, np.array([-2 * (1 - x) - 80 * x * (y - x**2), 40 * (y - x**2) - 6 * (z - y), 6 * (z - y)])


@pytest.mark.parametrize("high", [9.0, 0.7])
def test_it_ends_where_scipys_does(high):
    low, high, start = np.full(3, -2.0), np.full(3, high), np.array([-1.2, 1.0, 0.5])
    truth = scipy.optimize.minimize(valley, start, jac=True, bounds=list(zip(low, high, strict=True)), tol=1e-12)
    found = descend(valley, start, low, high, 300, 1e-12)
    assert_close(found.at, truth.x, 1e-4)
    assert (found.at <= high).all() and found.value == valley(found.at)[0]


def test_a_guess_of_the_curvature_saves_steps_and_what_is_good_enough_ends_it():
    bent = np.diag([400.0, 3.0, 0.1]) + 0.05
    middle = np.array([0.3, -0.2, 0.1])
    calls = []

    def bowl(at):
        calls.append(at)
        return 0.5 * (at - middle) @ bent @ (at - middle), bent @ (at - middle)

    bounds = np.full(3, -5.0), np.full(3, 5.0)
    assert_close(descend(bowl, np.zeros(3), *bounds, 30, 1e-9, bent).at, middle, 1e-6)
    assert len(calls) <= 4
    calls.clear()
    found = descend(bowl, middle + 1e-3, *bounds, 30, 0.01, bent)
    assert len(calls) == 1 and found.value < 0.01


def test_where_there_is_no_value_it_takes_shorter_steps():
    def steep(at):
        return (np.inf, np.zeros(1)) if at[0] <= 0 else (at[0] - np.log(at[0]), np.array([1 - 1 / at[0]]))

    found = descend(steep, np.array([3.0]), np.array([-9.0]), np.array([9.0]), 40, 1e-9, np.array([[0.01]]))
    assert found.at == pytest.approx(1.0, abs=1e-3)
