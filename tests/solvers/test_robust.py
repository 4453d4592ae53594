"""Criteria that hold outliers down: their derivatives, and the errors that follow."""

import numpy as np
import pytest
import scipy.signal

import kernelfit
import naive
from kernelfit.solvers import robust


@pytest.mark.parametrize("loss", robust.TUNING)
def test_slopes_are_the_derivatives_of_what_is_held_down(loss):
    ratio = np.array([0.05, 0.3, 0.44, 0.7, 0.93, 1.2, 2.5])
    ends = [(ratio + step) * robust.factor(ratio + step, loss) for step in (1e-6, -1e-6)]
    np.testing.assert_allclose(robust.slope(ratio, loss), (ends[0] - ends[1]) / 2e-6, atol=1e-5)


@pytest.mark.parametrize("loss", robust.TUNING)
def test_errors_are_those_of_the_criterion(loss):
    """``mean(psi^2) / mean(psi')^2`` times the inverse Gram matrix, for weights that do not follow the image."""
    rng = np.random.default_rng(12)
    image = rng.normal(size=(90, 111))
    target = scipy.signal.convolve2d(image, rng.normal(size=(3, 4)), mode="valid") + rng.standard_t(3, (88, 108))
    fit = kernelfit.find_kernel(image, target, (3, 4), robust=loss)
    matrix, used = naive.design_dense(image, (3, 4), mode="valid", boundary=None)
    left = target[used] - matrix @ fit.kernel.ravel()
    reach = {"huber": 1.345, "tukey": 4.685, "clip": 4.0}[loss] * 1.4826 * np.median(np.abs(left))
    ratio = np.abs(left) / reach
    psi = (
        left * {"huber": 1 / np.maximum(ratio, 1), "tukey": np.clip(1 - ratio**2, 0, 1) ** 2, "clip": ratio <= 1}[loss]
    )
    steep = np.where(ratio < 1, (1 - ratio**2) * (1 - 5 * ratio**2), 0.0) if loss == "tukey" else ratio <= 1
    error = np.sqrt(np.mean(psi**2)) / np.mean(steep)
    expected = error * np.sqrt(np.diag(np.linalg.inv(matrix.T @ matrix)))
    np.testing.assert_allclose(fit.stderr.ravel(), expected, rtol=0.03)
