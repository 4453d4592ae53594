"""Scenes of the kind that programs for difference images test themselves with, made anew, and what they record."""

import numpy as np
import pytest
import scipy.ndimage

from helpers import smooth_image
from kernelfit import apply_kernel, find_kernel


def stars(shape, n, seed, width=0.9):
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for row, col, flux in zip(*(rng.uniform(4, side - 4, n) for side in shape), rng.uniform(200, 5000, n), strict=True):
        image += flux * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * width**2))
    return image


def gaussian(shape, width):
    down, across = (np.exp(-((np.arange(n) - n // 2) ** 2) / (2 * width**2)) for n in shape)
    return np.outer(down, across) / (down.sum() * across.sum())


def test_ois_few_stars_on_a_small_image():
    """Stars on 32 x 35 pixels, 11 x 9 taps, zeros beyond the edge: ois comes to 2.6e-6 of the target."""
    image, kernel = stars((32, 35), 10, 0), 1.5 * gaussian((11, 9), 1.6)
    target = apply_kernel(image, kernel)
    fit = find_kernel(image, target, (11, 9), boundary="fill")
    assert np.abs(fit.predict(image) - target).max() < 2.6e-6 * target.max()
    assert np.abs(fit.kernel - kernel).max() < 1e-4 * kernel.max()


@pytest.mark.parametrize(("shape", "bound"), [((3, 5), 1e-11), ((9, 7), 1e-10)])
def test_ois_a_photograph_through_a_kernel_of_degree_two(shape, bound):
    """ois comes to 2e-11 with 3 x 3 taps and to 1e-10 with 9 x 9."""
    image, rng = 100 * smooth_image(90, 103), np.random.default_rng(1)
    u, v = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij")
    terms = [np.ones_like(u), u, v, u * u, u * v, v * v]
    kernels = [
        gaussian(shape, 1.2) * size + 0.01 * rng.normal(size=shape) for size in (1.0, 0.2, -0.1, 0.05, 0.1, -0.05)
    ]
    target = sum(apply_kernel(image * term, one) for term, one in zip(terms, kernels, strict=True)) + 7 + 3 * u - v
    fit = find_kernel(image, target, shape, variation=2, background=1)
    left = fit.residual(image, target)
    assert np.nanmax(np.abs(left)) < bound * np.abs(target).max()
    for row, col in ((10, 20), (45, 80)):
        there = sum(one * term[row, col] for term, one in zip(terms, kernels, strict=True))
        assert np.abs(fit.at(row, col).kernel - there).max() < 100 * bound * np.abs(there).max()


def test_lsst_kernel_sum_and_background_of_stars():
    """A constant kernel and background: LSST's ip_diffim records .969559 and .452304 for a pair of its own."""
    image = stars((120, 133), 40, 3) + 10
    kernel = 0.9695587 * gaussian((11, 13), 1.4)
    target = scipy.ndimage.convolve(image, kernel) + 0.452304
    fit = find_kernel(image, target, (11, 13), background=0)
    assert abs(fit.kernel.sum() - 0.9695587) < 1e-6
    assert abs(float(fit.background.coefficients.ravel()[0]) - 0.452304) < 1e-5
    noisy = target + np.random.default_rng(4).normal(size=target.shape)
    fit = find_kernel(image, noisy, (11, 13), background=0)
    total, error = fit.kernel.sum(), np.sqrt(fit.covariance().sum())
    assert abs(total - 0.9695587) < 4 * error < 0.02
