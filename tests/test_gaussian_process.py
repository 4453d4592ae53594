"""The Gaussian-process prior: against a dense implementation in pixels, its gradients, and its coverage."""

import dataclasses

import numpy as np
import pytest
import scipy.signal
import scipy.spatial.distance

import kernelfit
import naive
from kernelfit import GaussianProcess, evidence, gaussian_process

SHAPE = (5, 4)


def correlation(family, t):
    """Textbook forms, and for the Matern classes scikit-learn's if it is there."""
    if family == "squared-exponential":
        return np.exp(-(t**2) / 2)
    nu = {"matern52": 2.5, "matern32": 1.5, "exponential": 0.5}[family]
    from sklearn.gaussian_process import kernels

    return kernels.Matern(nu=nu)(np.zeros((1, 1)), np.ravel(t)[:, None]).reshape(t.shape)


def dense_prior(prior, shape):
    points = np.array([(i, j) for i in range(shape[0]) for j in range(shape[1])], dtype=float)
    envelope = np.exp(-np.sum((points - prior.center) ** 2, axis=1) / (2 * prior.radius**2))
    rho = correlation(prior.family, scipy.spatial.distance.cdist(points, points) / prior.length)
    return prior.amplitude**2 * np.outer(envelope, envelope) * rho


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(1)
    image = scipy.signal.convolve2d(rng.normal(size=(17, 22)), np.ones((3, 2)), mode="same")
    kernel = np.outer([0.1, 0.6, 1.0, 0.5, 0.1], [0.2, 1.0, 0.8, 0.1])
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    target += rng.normal(0.0, 0.3, target.shape)
    matrix, _ = naive.design(image, SHAPE, mode="valid", boundary=None)
    return matrix, target.ravel(), kernelfit.accumulate(image, target, SHAPE)


@pytest.mark.parametrize("family", evidence.FAMILIES)
def test_against_a_dense_process_in_pixels(scene, close, family):
    a, y, stats = scene
    fit = stats.solve(GaussianProcess(family))
    p = dense_prior(fit.prior, SHAPE)
    s2 = fit.noise_std**2
    k = a @ p @ a.T + s2 * np.eye(len(y))
    close(fit.kernel.ravel(), p @ a.T @ np.linalg.solve(k, y), 1e-8, "posterior mean")
    close(fit.covariance(), p - p @ a.T @ np.linalg.solve(k, a @ p), 1e-7, "posterior covariance")
    evidence = -0.5 * (y @ np.linalg.solve(k, y) + np.linalg.slogdet(k)[1] + len(y) * np.log(2 * np.pi))
    assert fit.log_evidence == pytest.approx(evidence, rel=1e-8)
    assert fit.freedom == pytest.approx(np.trace(a @ p @ a.T @ np.linalg.inv(k)), rel=1e-7)
    assert fit.uncertainty == "posterior"


@pytest.mark.parametrize("family", evidence.FAMILIES)
@pytest.mark.parametrize("reduced", [False, True])
def test_gradients_are_the_differences(scene, close, family, reduced):
    _, _, stats = scene
    start = gaussian_process.least_squares(stats)
    data = evidence.Projection.part(stats, start, 7) if reduced else evidence.Projection.whole(stats, start)
    grids = [evidence.Grid(SHAPE)]
    theta = np.array([1.2, 0.4, 0.6, 1.7, 2.1])
    value, slope = evidence.evidence(data, grids, family, theta, slope=True)
    for at in range(5):
        step = 1e-5 * np.eye(5)[at]
        ends = [evidence.evidence(data, grids, family, theta + sign * step)[0] for sign in (1, -1)]
        assert slope[at] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-4)
    other, by_spectra = evidence.spectral_evidence(data, grids, family, theta, slope=True)
    assert other == pytest.approx(value, rel=1e-11)
    close(by_spectra, slope, 1e-8)


def test_the_hyperparameters_maximise_the_evidence(scene):
    _, _, stats = scene
    fit = stats.solve(GaussianProcess())
    assert fit.log_evidence == max(fit.alternatives.values())
    data, grids = (
        evidence.Projection.whole(stats, gaussian_process.least_squares(stats)),
        [evidence.Grid(SHAPE)],
    )
    prior = fit.prior
    theta = np.array(
        [np.log(prior.amplitude / fit.noise_std), np.log(prior.length), np.log(prior.radius), *prior.center]
    )
    here = evidence.evidence(data, grids, prior.family, theta)[0]
    rng = np.random.default_rng(0)
    for _ in range(50):
        near = theta + rng.normal(0.0, 0.2, 5)
        assert evidence.evidence(data, grids, prior.family, near)[0] > here - 0.1


def test_a_search_on_part_of_the_data_ends_near_one_on_all(monkeypatch):
    rng = np.random.default_rng(3)
    image = scipy.signal.convolve2d(rng.normal(size=(80, 91)), np.ones((3, 3)), mode="same")
    y, x = np.mgrid[-5:6, -4:5]
    kernel = np.exp(-(y**2) / 6 - (x - 1) ** 2 / 4)
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    target += rng.normal(0.0, 0.05 * target.std(), target.shape)
    stats = kernelfit.accumulate(image, target, kernel.shape)
    whole = stats.solve(GaussianProcess())
    monkeypatch.setattr(gaussian_process, "_COMBINATIONS", (24, 60))
    monkeypatch.setattr(gaussian_process, "_LARGE", 60)
    monkeypatch.setattr(gaussian_process, "_DIRECT", 50)
    part = stats.solve(GaussianProcess())
    assert part.log_evidence > whole.log_evidence - 1.0
    assert np.linalg.norm(part.kernel - whole.kernel) < 0.5 * np.linalg.norm(whole.stderr)
    assert np.linalg.norm(part.kernel - kernel) < 0.3 * np.linalg.norm(stats.solve().kernel - kernel)


def test_coverage_on_kernels_of_its_own_prior():
    """95 % intervals over kernels drawn from the prior, hyperparameters and family found each time."""
    rng = np.random.default_rng(5)
    shape = (7, 6)
    image = scipy.signal.convolve2d(rng.normal(size=(40, 51)), np.ones((3, 3)), mode="same")
    base = kernelfit.accumulate(image, np.zeros((34, 46)), shape)
    matrix, _ = naive.design_dense(image, shape, mode="valid", boundary=None)
    covered, draws = 0.0, 120
    for at in range(draws):
        family = evidence.FAMILIES[at % 4]
        prior = kernelfit.Prior(family, 1.0, 2.5, 2.5, (3.0, 2.5))
        root = np.linalg.cholesky(dense_prior(prior, shape) + 1e-12 * np.eye(42))
        kernel = root @ rng.normal(size=42)
        y = matrix @ kernel
        y = y + rng.normal(0.0, 0.1 * y.std(), y.shape)
        stats = dataclasses.replace(base, moment=matrix.T @ y, target_energy=float(y @ y), target_sum=float(y.sum()))
        low, high = stats.solve(GaussianProcess()).confidence(0.95)
        covered += np.mean((low.ravel() <= kernel) & (kernel <= high.ravel()))
    assert 0.92 <= covered / draws <= 0.98


def test_no_noise_gives_least_squares(close):
    rng = np.random.default_rng(3)
    image, kernel = rng.normal(size=(30, 41)), rng.normal(size=(3, 5))
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    fit = kernelfit.find_kernel(image, target, (3, 5), solver=GaussianProcess())
    close(fit.kernel, kernel, 1e-12)
    assert "least squares" in fit.solver and fit.prior is None
