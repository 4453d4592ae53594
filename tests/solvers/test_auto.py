"""What solver="auto" picks."""

import numpy as np
import pytest
import scipy.signal
import scipy.stats

import kernelfit
from helpers import assert_close
from kernelfit import Constrained
from kernelfit.solvers import auto


def blurred(seed=0, shape=(90, 101)):
    return scipy.signal.convolve2d(np.random.default_rng(seed).normal(size=shape), np.ones((4, 4)), mode="same")


def errors(kernel, noise):
    image = blurred()
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    target += np.random.default_rng(1).normal(0.0, noise * target.std(), target.shape)
    stats = kernelfit.accumulate(image, target, kernel.shape)
    fits = stats.solve(), stats.solve("auto")
    return *(np.linalg.norm(fit.kernel - kernel) for fit in fits), fits[1]


def test_auto_takes_few_taps_for_deltas():
    kernel = np.zeros((9, 11))
    kernel[1, 2], kernel[5, 9], kernel[8, 0] = 0.6, 0.3, 0.1
    plain, auto, fit = errors(kernel, 0.01)
    assert fit.solver.startswith("auto: Sparse") and auto < 0.3 * plain


def test_auto_asks_nobody_else_where_few_taps_leave_nothing_to_gain(monkeypatch):
    kernel = np.zeros((9, 11))
    kernel[1, 2], kernel[5, 9] = 0.7, 0.3
    before = errors(kernel, 0.01)[2]
    monkeypatch.setattr(auto, "most_probable", None)
    monkeypatch.setattr(auto.NonNegative, "solve", None)
    assert errors(kernel, 0.01)[2].solver == before.solver
    monkeypatch.setattr(auto, "_with_choice", lambda *_: 5.0)  # so many degrees of freedom that others may be better
    with pytest.raises(TypeError):
        errors(kernel, 0.01)


def test_auto_takes_the_process_for_a_gaussian():
    kernel = np.outer(scipy.signal.windows.gaussian(9, 1.5), scipy.signal.windows.gaussian(11, 2.0))
    plain, auto, fit = errors(kernel, 0.01)
    assert fit.solver.startswith("auto: GaussianProcess") and auto < 0.1 * plain
    assert fit.alternatives["Sparse"] < fit.log_evidence


def test_auto_is_never_much_worse_than_least_squares():
    for noise in (0.001, 0.1):
        plain, auto, _ = errors(np.random.default_rng(3).normal(size=(7, 9)), noise)
        assert auto < 1.1 * plain


def test_auto_without_noise_is_least_squares():
    image = blurred()
    kernel = np.random.default_rng(3).normal(size=(5, 7))
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    fit = kernelfit.find_kernel(image, target, (5, 7), solver="auto")
    assert_close(fit.kernel, kernel, 1e-11)
    assert fit.solver.startswith("auto: LeastSquares()")
    with pytest.raises(ValueError, match="use LeastSquares"):
        Constrained()


@pytest.mark.parametrize(
    ("own", "claimed", "picked"), [(0.0, -3.0, "Sparse"), (20.0, 0.0, "NonNegative"), (0.0, -1000.0, "Sparse")]
)
def test_auto_gives_few_taps_up_for_what_they_can_have_lost_only(own, claimed, picked, monkeypatch):
    """Not below the margin; where they show bias; and not for more than their degrees of freedom, a claim of chance."""
    rng = np.random.default_rng(3)
    before = scipy.signal.convolve2d(rng.normal(size=(24, 31)), np.ones((2, 2)), mode="same")
    kernel = np.zeros((7, 6))
    kernel[1, 2], kernel[4, 3], kernel[5, 0] = 1.0, 0.6, 0.8
    target = scipy.signal.convolve2d(before, kernel, mode="same") + 0.05 * np.random.default_rng(5).normal(
        size=before.shape
    )
    stats = kernelfit.accumulate(before, target, kernel.shape)
    assert stats.solve("auto").solver.startswith("auto: Sparse")
    errors = {"Sparse": own, "NonNegative": claimed}
    monkeypatch.setattr(
        auto, "_expected_error", lambda _, fit, df_model=None: errors.get(fit.solver.split("(")[0], 99.0)
    )
    assert stats.solve("auto").solver.startswith(f"auto: {picked}")


def test_the_choice_of_taps_near_the_threshold_costs_degrees_of_freedom():
    rng = np.random.default_rng(3)
    image, kernel = rng.normal(size=(44, 53)), np.zeros((5, 6))
    kernel[1, 2], kernel[4, 0] = 1.0, 0.11
    target = scipy.signal.convolve2d(image, kernel, mode="valid") + rng.normal(size=(40, 48))
    stats = kernelfit.accumulate(image, target, (5, 6))
    fit = stats.solve(kernelfit.Sparse(n_taps=2))
    chosen = fit.kernel != 0
    c = np.sqrt(np.log(stats.n_pixels) + 2 * np.log(28 / 3))
    gram = stats.gram[np.ix_(chosen.ravel(), chosen.ravel())]
    stderr = fit.noise_std * np.sqrt(np.diag(np.linalg.inv(gram)))
    expected = 2 + 2 * c * scipy.stats.norm.pdf(c - np.abs(fit.kernel[chosen]) / stderr).sum()
    assert expected > 2.1 and auto._with_choice(stats, fit) == pytest.approx(expected, rel=1e-9)
