"""Noise of the image itself, which plain least squares does not reckon with."""

import collections

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
import naive
from helpers import assert_close, grid, observe
from kernelfit import Verdict
from kernelfit.solvers import errors_in_variables

KERNEL = np.outer([0.2, 1.0, 0.7, 0.0], [0.1, 0.5, 1.0, 0.4, -0.3])


def smooth(rng, shape=(70, 83), side=2):
    return scipy.signal.convolve2d(rng.normal(size=shape), np.ones((side, side)) / side, mode="same")


def verdicts(fit):
    return [finding.verdict for finding in fit.findings]


def noise_gram(image_shape, shape, counted=slice(None), **convention):
    """Expected Gram matrix of noise of variance 1, pixel by pixel: what each alone puts into the design, squared."""
    total = 0.0
    for at in range(image_shape[0] * image_shape[1]):
        unit = np.zeros(image_shape)
        unit.flat[at] = 1.0
        matrix, _ = naive.design_dense(unit, shape, **convention)
        total = total + matrix[counted].T @ matrix[counted]
    return total


@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize(
    "mode, boundary",
    [("same", b) for b in (None, "fill", "wrap", "symm", "mirror", "nearest")] + [("valid", None), ("full", "fill")],
)
def test_noisy_products_are_counted_pixel_by_pixel(mode, boundary, operation):
    image_shape, shape = (7, 9), (4, 3)
    convention = {"mode": mode, "boundary": boundary, "operation": operation}
    target = np.zeros(naive.target_shape(image_shape, shape, mode))
    plan = observe(np.zeros(image_shape), target, shape, fillvalue=0.0, origin=None, **convention).geometry
    assert_close(errors_in_variables.counts_of(plan), noise_gram(image_shape, shape, **convention), 1e-14)
    counted = np.random.default_rng(0).random(plan.size) < 0.7
    expected = noise_gram(image_shape, shape, counted.ravel(), **convention)
    assert_close(errors_in_variables.counts_of(plan, counted), expected, 1e-14)


def attenuated(rng, boundary, std=0.5):
    image = smooth(rng, (90, 75)) + 0.7 * rng.normal(size=(90, 75))
    target = kernelfit.apply_kernel(image, KERNEL, boundary=boundary) + rng.normal(0.0, 0.3, image.shape)
    return image + rng.normal(0.0, std, image.shape), target


@pytest.mark.slow
@grid("boundary, masked", [("symm", 0.3), ("fill", 0.0), ("symm", 0.0)], 3)
def test_the_kernel_is_too_small_without_and_right_with(boundary, masked):
    """Along the kernel itself, over 25 pairs; error bars of the mean from their scatter."""
    rng = np.random.default_rng(2)
    plain, better, inside = [], [], []
    for _ in range(25):
        image, target = attenuated(rng, boundary)
        keywords = {"shape": KERNEL.shape, "boundary": boundary}
        keywords |= {"mask": rng.random(target.shape) < masked} if masked else {}
        fits = [kernelfit.find_kernel(image, target, **keywords)]
        fits.append(kernelfit.find_kernel(image, target, **keywords, image_noise=0.5, errors="sandwich"))
        for fit, found in zip(fits, (plain, better), strict=True):
            found.append(np.sum((fit.kernel - KERNEL) * KERNEL) / np.sum(KERNEL**2))
        low, high = fits[1].confidence(0.95)
        inside.append(np.mean((low <= KERNEL) & (high >= KERNEL)))
        assert fits[1].image_noise == 0.5 and fits[1].errors == "sandwich"
    error = np.std(better) / np.sqrt(len(better))
    assert np.mean(plain) < -0.06 and abs(np.mean(better)) < 3 * error < 0.01
    assert 0.92 <= np.mean(inside) <= 0.98


def test_the_correction_survives_refinement():
    """A pair without any noise but a given one: centred at the attenuated kernel, corrected all the same."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(40, 37))
    target = scipy.signal.convolve2d(image, KERNEL, mode="valid")
    matrix, _ = naive.design_dense(image, KERNEL.shape, mode="valid", boundary=None)
    truth = np.linalg.solve(matrix.T @ matrix - 0.04 * len(matrix) * np.eye(20), matrix.T @ target.ravel())
    fit = kernelfit.find_kernel(image, target, KERNEL.shape, image_noise=0.2)
    assert fit.refined > 0
    assert_close(fit.kernel.ravel(), truth, 1e-10)
    assert fit.rss == pytest.approx(np.sum((target.ravel() - matrix @ truth) ** 2), rel=1e-8)
    stats, share = kernelfit.accumulate(image, target, KERNEL.shape).without_image_noise(0.2)
    assert_close(stats.solve().kernel.ravel(), truth, 1e-10)
    assert share == 1.0


@pytest.mark.slow
@grid("convention", [{"boundary": "mirror"}, {"boundary": None, "operation": "correlation"}, {
    "boundary": "symm", "stride": (2, 1), "offset": (1, 0)}], 3, ids=str)  # fmt: skip
def test_noise_of_the_image_under_a_mask_is_that_of_the_dense_problem(convention):
    rng = np.random.default_rng(3)
    image, std = smooth(rng, (31, 27)) + rng.normal(size=(31, 27)), 0.3
    convention = {"mode": "same", **convention}
    matrix, used = naive.design_dense(image, (3, 4), **convention)
    target = naive.apply_design(matrix, used, rng.normal(size=(3, 4)))
    target = target + 0.3 * rng.normal(size=target.shape)
    mask = rng.random(target.shape) < 0.2
    target[mask] = np.nan
    fit = kernelfit.find_kernel(image, target, (3, 4), mask=mask, image_noise=std, **convention)
    counted = ~mask[used]
    own, values = matrix[counted], target[used][counted]
    gram = own.T @ own - std**2 * noise_gram(image.shape, (3, 4), counted, **convention)
    assert_close(fit.kernel.ravel(), np.linalg.solve(gram, own.T @ values), 1e-9)
    # what two target pixels that share their noise add: each pair by itself
    plan = observe(image, np.zeros(target.shape), (3, 4), fillvalue=0.0, origin=None, **{
        "operation": "convolution", "stride": 1, "offset": 0, **convention}).geometry  # fmt: skip
    whole = np.zeros(plan.size, dtype=bool)
    whole[:] = ~mask[plan.offset[0] :, plan.offset[1] :][: plan.size[0], : plan.size[1]]
    at = np.argwhere(whole) * plan.stride
    counts = collections.Counter(tuple(apart) for one in at for apart in one - at[np.abs(at - one).max(axis=1) < 4])
    taps, expected = np.argwhere(np.ones((3, 4))), np.zeros((12, 12))
    for apart, n in counts.items():
        here = [fit.kernel[tuple(p)] if (p >= 0).all() and (p < (3, 4)).all() else 0.0 for p in taps + apart]
        there = [fit.kernel[tuple(p)] if (p >= 0).all() and (p < (3, 4)).all() else 0.0 for p in taps - apart]
        expected += n * np.multiply.outer(here, there)
    assert_close(
        errors_in_variables.shared(fit, std, errors_in_variables.pairs_of(whole, plan)), std**4 * expected, 1e-9
    )
    scores = fit.noise_std**2 * own.T @ own + std**4 * expected
    assert_close(fit.covariance(), np.linalg.solve(gram, np.linalg.solve(gram, scores).T), 1e-8)


@pytest.mark.slow
def test_more_noise_than_there_is_image_is_said():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(60, 71))
    target = scipy.signal.convolve2d(image, KERNEL, mode="valid") + rng.normal(0.0, 0.1, (57, 67))
    fit = kernelfit.find_kernel(image, target, KERNEL.shape, image_noise=3.0)
    assert Verdict.IMAGE_NOISE in verdicts(fit) and 0.3 < fit.image_noise < 1.0
    assert np.isfinite(fit.kernel).all() and "taken off" in fit.summary()
    constant = kernelfit.find_kernel(np.ones((60, 71)), target, KERNEL.shape, mode="valid", image_noise=0.1)
    assert Verdict.IMAGE_NOISE in verdicts(constant) and constant.image_noise == 0.0


def test_bad_noise_is_refused():
    image, target = np.random.default_rng(0).random((2, 30, 40))
    for value in (-1.0, np.nan, np.inf, True, "1"):
        with pytest.raises((TypeError, ValueError), match="got image_noise="):
            kernelfit.find_kernel(image, target, 3, image_noise=value)
    with pytest.raises(ValueError, match="got errors='robust', need one of 'plain', 'sandwich'"):
        kernelfit.find_kernel(image, target, 3, errors="robust")
    for method in ("cg", "wiener"):
        with pytest.raises(ValueError, match=r"need solver=LeastSquares"):
            kernelfit.find_kernel(image, target, 3, image_noise=0.1, method=method)
    with pytest.raises(ValueError, match="weights=fit.weights"):
        kernelfit.find_kernel(image, target, 3, errors="sandwich", robust="clip")
    stats = kernelfit.accumulate(image, target, (3, 4))
    for std in (-1.0, [0.1, 0.2], np.nan):
        with pytest.raises(ValueError, match="got std="):
            stats.without_image_noise(std)


def test_a_tenth_of_every_direction_stays_and_the_errors_know_it():
    """More noise is given than there is: the share that comes off, the kernel and its covariance by their formulas."""
    rng = np.random.default_rng(8)
    image, std = scipy.signal.convolve2d(rng.normal(size=(91, 83)), np.ones((1, 2)), mode="valid"), 2.0
    target = scipy.signal.convolve2d(image, [[1.0, 0.4]], mode="valid") + 0.3 * rng.normal(size=(91, 81))
    fit = kernelfit.find_kernel(image, target, (1, 2), mode="valid", image_noise=std)
    matrix, used = naive.design_dense(image, (1, 2), mode="valid", boundary=None)
    gram, n, y = matrix.T @ matrix, len(matrix), target[used]
    share = 0.9 / (n * std**2 / np.linalg.eigvalsh(gram)[0])
    assert fit.image_noise == pytest.approx(np.sqrt(share) * std, rel=1e-9)
    less = gram - share * n * std**2 * np.eye(2)
    kernel = np.linalg.solve(less, matrix.T @ y)
    assert_close(fit.kernel.ravel(), kernel, 1e-9)
    variance = np.sum((y - matrix @ kernel) ** 2) / (n - 2)
    a, b = kernel  # products k[p + d] k[q - d] of taps that are there, over d
    products = n * np.array([[a * a, 2 * a * b], [2 * a * b, b * b]])
    scores = variance * gram + (share * std**2) ** 2 * products
    assert_close(fit.covariance(), np.linalg.solve(less, np.linalg.solve(less, scores).T), 1e-9)
