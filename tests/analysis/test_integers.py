"""Kernels of whole numbers are found to the digit, and others are not taken for such."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage as ndimage

import kernelfit
from helpers import grid

IMAGE = np.random.default_rng(1).normal(100, 30, size=(80, 91))


def fit_of(weights, denominator, noise=0.05):
    rng = np.random.default_rng(2)
    target = ndimage.convolve(IMAGE, np.array(weights) / denominator) + rng.normal(0, noise, IMAGE.shape)
    return kernelfit.find_kernel(IMAGE, target, (5, 7))


@pytest.mark.parametrize(
    ("weights", "denominator"),
    [([[1, 2, 1], [2, 4, 2], [1, 2, 1]], 16), ([[0, -1, 0], [-1, 10, -1], [0, -1, 0]], 6), ([[1, 0, -1]], 1)],
)
def test_the_smallest_denominator_gives_the_numerators(weights, denominator):
    fit = fit_of(weights, denominator)
    whole = fit.as_integers()
    inner = np.zeros((5, 7), int)
    rows, cols = np.shape(weights)
    inner[2 - rows // 2 : 3 + rows // 2, 3 - cols // 2 : 4 + cols // 2] = weights
    assert whole.denominator == denominator
    np.testing.assert_array_equal(whole.numerators, inner)
    assert whole.probability < 1e-2
    assert str(whole).startswith(f"1/{denominator} of")


@pytest.mark.slow
def test_polished_taps_are_exact():
    fit = fit_of([[1, 2, 1], [2, 4, 2], [1, 2, 1]], 16)
    polished = fit.polished()
    np.testing.assert_array_equal(polished.kernel[1:4, 2:5] * 16, [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert not polished.stderr.any()
    assert any("whole numbers over 16" in note for note in polished.notes)
    assert isinstance(polished.summary(), str)
    np.testing.assert_array_equal(fit.polished().polished().kernel, polished.kernel)


def test_a_kernel_of_other_numbers_is_left_with_a_note():
    taps = np.random.default_rng(3).random((5, 7))
    fit = kernelfit.find_kernel(IMAGE, ndimage.convolve(IMAGE, taps) + IMAGE * 0 + 0.5, (5, 7), background=0)
    polished = fit.polished()
    np.testing.assert_array_equal(polished.kernel, fit.kernel)
    assert any("not polished" in note for note in polished.notes)


def test_where_the_errors_are_large_it_says_that_chance_does_it():
    fit = fit_of(np.random.default_rng(3).random((3, 5)), 7.0, noise=40.0)
    whole = fit.as_integers()
    assert whole is None or whole.probability > 1e-2
    assert any("not polished" in note for note in fit.polished().notes)


def test_nothing_is_not_whole():
    fit = kernelfit.find_kernel(IMAGE, np.random.default_rng(5).normal(size=IMAGE.shape), (3, 5))
    assert fit.as_integers() is None


@pytest.mark.slow
def test_the_probability_is_that_of_chance():
    """Of arbitrary kernels a share p have one of p or less."""
    rng = np.random.default_rng(6)
    fit = fit_of([[1, 2]], 3, noise=20.0)
    fit = dataclasses.replace(fit, kernel=fit.kernel[:1, :2], root=3e-3 * np.eye(2), root_scale=1.0)
    found = [dataclasses.replace(fit, kernel=rng.random((1, 2)) + 0.5).as_integers() for _ in range(2000)]
    share = np.mean([whole is not None and whole.probability <= 0.05 for whole in found])
    assert 0.03 < share < 0.07


def test_noise_does_not_hide_whole_numbers():
    """In all but one of a thousand kernels every tap is within its error, however many taps there are."""
    fit = fit_of([[1, 2, 1], [2, 4, 2], [1, 2, 1]], 16)
    truth = np.zeros((5, 7))
    truth[1:4, 2:5] = np.outer([1, 2, 1], [1, 2, 1]) / 16
    kernels = truth + fit.sample(500, 7) - fit.kernel
    kept = [dataclasses.replace(fit, kernel=kernel).as_integers() for kernel in kernels]
    assert sum(whole is not None and whole.denominator == 16 for whole in kept) >= 497


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_all_taps_together_tell_denominators_apart(seed):
    """Over 255 each tap is as near, but the numerators add up to 256, and the sum is better known than any tap."""
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 40, (120, 133))
    row = np.array([1, 4, 6, 4, 1])
    noise = rng.normal(0, 1.6, image.shape)
    target = kernelfit.apply_kernel(image, np.outer(row, row) / 256, boundary="wrap") + noise
    whole = kernelfit.find_kernel(image, target, (5, 7), boundary="wrap").as_integers()
    assert whole.denominator == 256
    np.testing.assert_array_equal(whole.numerators[:, 1:6], np.outer(row, row))


def test_taps_that_a_prior_holds_for_equal_are_whole_numbers_too():
    rng = np.random.default_rng(4)
    weights = np.outer([1, 2, 1], [1, 4, 6, 4, 1])
    target = ndimage.convolve(IMAGE, weights / 64) + rng.normal(0, 0.05, IMAGE.shape)
    fit = kernelfit.find_kernel(IMAGE, target, (3, 5), solver=kernelfit.GaussianProcess(symmetric="both"))
    whole = fit.as_integers()
    assert whole.denominator == 64
    np.testing.assert_array_equal(whole.numerators, weights)


BINOMIAL = np.array([1, 4, 6, 4, 1])
WHOLE = {
    "256": (np.outer(BINOMIAL, BINOMIAL), 256, 0.12),
    "25": (np.outer([1, 3, 1], [1, 3, 1]), 25, 0.12),
    "27": (np.outer([1, 1, 1], [1, 2, 3, 2, 1]), 27, 0.12),
    "49": (np.outer([1, 2, 1, 2, 1], [2, 3, 2]), 49, 0.1),
    "35": (np.array([[-3, 12, 17, 12, -3]]), 35, 0.04),
    "8": (np.outer([1, 2, 1], [1, 0, -1]), 8, 0.12),
}


@grid("case", list(WHOLE), 2)
def test_a_smaller_denominator_within_the_errors_that_fits_worse_is_not_taken(case):
    """Taps known to a tenth of a numerator: 243 may be within all errors where the taps are 256ths."""
    weights, denominator, error = WHOLE[case]
    blurred = ndimage.gaussian_filter(IMAGE, 0.6)
    fit = kernelfit.find_kernel(blurred, blurred + np.random.default_rng(2).normal(size=IMAGE.shape), (5, 7))
    root = fit.factor / np.linalg.norm(fit.factor, axis=1).mean()
    inner = np.zeros((5, 7))
    rows, cols = weights.shape
    inner[2 - rows // 2 : 3 + rows // 2, 3 - cols // 2 : 4 + cols // 2] = weights
    for seed in range(12):
        noise = (root @ np.random.default_rng(seed).normal(size=root.shape[1])).reshape(5, 7)
        scale = error / denominator
        known = dataclasses.replace(fit, kernel=inner / denominator + scale * noise, root=root, root_scale=scale)
        whole = known.as_integers()
        assert whole.denominator == denominator, (seed, whole.denominator)
        np.testing.assert_array_equal(whole.numerators, inner)
