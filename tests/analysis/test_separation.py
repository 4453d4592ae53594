"""A kernel as columns and rows, of the rank that its errors justify."""

import numpy as np
import pytest
import scipy.ndimage as ndimage

import kernelfit


def noisy_taps(rank, shape=(7, 9), error=1e-3):
    rng = np.random.default_rng(rank)
    truth = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    factor = error * (np.eye(truth.size) + 0.4 * np.eye(truth.size, k=1))
    return truth, truth + (factor @ rng.standard_normal(truth.size)).reshape(shape), factor @ factor.T


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_rank_is_that_which_the_errors_justify(rank):
    truth, taps, covariance = noisy_taps(rank)
    found = kernelfit.separable(taps, covariance=covariance)
    assert found.rank == rank
    assert found.dof == (7 - rank) * (9 - rank)
    left = (taps - found.kernel).ravel()
    assert found.chi_square == pytest.approx(left @ np.linalg.solve(covariance, left), rel=1e-6)
    values, right = np.linalg.svd(taps)[1:]
    cut = taps - (taps @ right[:rank].T) @ right[:rank]
    assert found.chi_square <= cut.ravel() @ np.linalg.solve(covariance, cut.ravel()) * (1 + 1e-9)
    np.testing.assert_allclose(found.singular_values, values)
    assert np.linalg.norm(found.kernel - truth) < np.linalg.norm(taps - truth)
    np.testing.assert_allclose(np.linalg.norm(found.columns, axis=1), np.linalg.norm(found.rows, axis=1))
    assert str(found).startswith(f"rank {rank} of 7")


def test_a_rank_that_is_asked_for_is_given_with_its_loss():
    _, taps, covariance = noisy_taps(3)
    found = kernelfit.separable(taps, 1, covariance=covariance)
    assert found.rank == 1 and found.p_value < 1e-6 and found.relative > 0.1
    assert np.isnan(found.loss)
    full = kernelfit.separable(taps, 7, covariance=covariance)
    np.testing.assert_allclose(full.kernel, taps, atol=1e-9)
    assert full.p_value == 1.0


def test_symmetries_and_sums_are_told():
    names = ("symmetric", "antisymmetric", "zero_sum", "unit_sum")

    def told(kernel):
        found = kernelfit.separable(kernel + 1e-4 * np.random.default_rng(0).normal(size=kernel.shape), covariance=1e-8)
        return tuple(getattr(found, name) for name in names)

    y, x = np.mgrid[-2:3, -3:4]
    bell = np.exp(-(y**2) / 2.0 - x**2 / 3.0)
    assert told(bell / bell.sum()) == (True, False, False, True)
    assert told(bell * x) == (False, True, True, False)
    assert told(bell * (x**2 - 1.5)) == (True, False, False, False)
    assert told(bell * (1 + 0.1 * x)) == (False, False, False, False)


@pytest.mark.parametrize("operation", ["convolution", "correlation"])
def test_columns_and_rows_of_a_fit_make_its_kernel(operation):
    rng = np.random.default_rng(4)
    image = rng.normal(size=(70, 81))
    weights = np.outer([1.0, 2, 3], [1.0, 0, -1, 2, 1])
    target = {"convolution": ndimage.convolve, "correlation": ndimage.correlate}[operation](image, weights)
    target += rng.normal(0, 0.01, image.shape)
    fit = kernelfit.find_kernel(image, target, (3, 5), operation=operation)
    found = kernelfit.separable(fit)
    assert found.rank == 1
    np.testing.assert_allclose(found.kernel, weights, atol=1e-3)
    assert 0 < found.loss < 0.2
    change = fit.predict(image) - kernelfit.apply_kernel(image, found.kernel, operation=operation)
    assert found.loss == pytest.approx(np.sqrt(np.nanmean(change**2)) / fit.noise_std, rel=0.05)


@pytest.mark.parametrize(("kernel", "rank"), [(np.ones((3, 5)), 4), (np.ones((3, 5)), 0), (np.zeros((3, 5)), None)])
def test_what_cannot_be_is_refused(kernel, rank):
    with pytest.raises(ValueError, match="need"):
        kernelfit.separable(kernel, rank)
