"""Priors of responses that decay, against the forms of the textbook and dense matrices."""

import numpy as np
import pytest
import scipy.linalg
import scipy.signal

import kernelfit
from helpers import assert_close
from kernelfit import GaussianProcess
from kernelfit.solvers import evidence, hyperparameters, least_squares
from kernelfit.solvers.evidence import DECAYS, Kind
from kernelfit.solvers.projection import Grid, Projection

N = 24


def textbook(family, a, radius, length, n=N):
    """Chen, Ohlsson and Ljung (2012), section 5, element by element; k, j = 1, 2, ..., and the scale of a tap 0."""
    out = np.empty((n, n))
    for k in range(1, n + 1):
        for j in range(1, n + 1):
            if family == "ss":
                lam, most = np.exp(-2 / (3 * radius)), max(k, j)
                out[k - 1, j - 1] = 3 * (lam ** (k + j + most) / 2 - lam ** (3 * most) / 6) / lam**3
            else:
                lam = np.exp(-2 / radius)
                rho = np.sqrt(lam) if family == "tc" else np.exp(-1 / length)
                out[k - 1, j - 1] = lam ** ((k + j) / 2) * rho ** abs(k - j) / lam
    if family == "tc":
        lam = np.exp(-2 / radius)
        own = np.array([[min(lam**k, lam**j) for j in range(n)] for k in range(n)])
        assert_close(out, own, 1e-12)
    return a**2 * out


def scene(seed=0, n=400, noise=0.3):
    """A signal, what a response that rings and decays makes of it, and that response."""
    rng = np.random.default_rng(seed)
    x = scipy.signal.lfilter([1.0], [1.0, -0.6], rng.normal(size=n))
    t = np.arange(N)
    kernel = np.exp(-t / 5.0) * np.cos(0.5 * t)
    return x, np.convolve(x, kernel)[:n] + noise * rng.normal(size=n), kernel


@pytest.mark.parametrize("shape", [(1, N), (N, 1)])
@pytest.mark.parametrize("family", DECAYS)
def test_the_forms_of_the_textbook(family, shape):
    radius, length = 6.0, (2.5 if family == "dc" else 6.0)
    theta = np.array([np.log(1.7), np.log(length), np.log(radius), 0.0, 0.0])
    found = evidence.covariance_of([Grid(shape)], Kind(family, "decay"), theta)
    assert_close(found, textbook(family, 1.7, radius, length), 1e-12)


@pytest.mark.parametrize("family", DECAYS)
def test_the_posterior_is_that_of_dense_matrices(family):
    x, y, _ = scene()
    fit = kernelfit.find_kernel(x, y, lags=(0, N - 1), solver=GaussianProcess(family))
    prior = fit.prior
    assert (prior.family, prior.envelope) == (family, "decay")
    matrix = scipy.linalg.toeplitz(x, np.zeros(N))[N - 1 :]
    p = textbook(family, prior.amplitude, prior.radius, prior.length)
    total = matrix @ p @ matrix.T + fit.noise_std**2 * np.eye(len(matrix))
    target = y[N - 1 :]
    assert_close(fit.kernel, p @ matrix.T @ np.linalg.solve(total, target), 1e-7)
    expected = -0.5 * (
        target @ np.linalg.solve(total, target) + np.linalg.slogdet(total)[1] + len(target) * np.log(2 * np.pi)
    )
    assert fit.log_evidence == pytest.approx(expected, rel=1e-8)
    if family != "dc":
        assert prior.length == pytest.approx(prior.radius)


@pytest.mark.parametrize("family", DECAYS)
@pytest.mark.parametrize("compute", [evidence.evidence, evidence.applied_evidence])
def test_the_slopes_along_what_is_free(family, compute):
    x, y, _ = scene()
    start, stats = least_squares.at_minimum(kernelfit.accumulate(x, y, lags=(0, N - 1)))
    data, kind = Projection.whole(stats, start), Kind(family, "decay")
    theta, ties = np.array([0.5, 1.6, 1.6, 0.0, 0.0]), kind.ties(1)
    assert ties.shape[1] == (3 if family == "dc" else 2)
    slope = ties.T @ compute(data, kind, theta, slope=True)[1]
    for at, along in enumerate(ties.T):
        ends = [compute(data, kind, theta + sign * 1e-5 * along)[0] for sign in (1, -1)]
        assert slope[at] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-4)


def test_auto_takes_one_for_a_signal_whose_response_decays_and_none_for_images():
    x, kernel = scene()[0], np.exp(-np.arange(N) / 6)  # of first order
    y = np.convolve(x, kernel)[: len(x)] + np.random.default_rng(5).normal(size=len(x))
    plain, fit = (kernelfit.find_kernel(x, y, lags=(0, N - 1), solver=solver) for solver in (None, "auto"))
    assert fit.prior.family in DECAYS and f"GaussianProcess(auto): {fit.prior.family} by" in fit.solver
    assert np.linalg.norm(fit.kernel - kernel) < np.linalg.norm(plain.kernel - kernel)
    image = kernelfit.find_kernel(x[None], y[None], lags=((0, 0), (0, N - 1)), solver="auto")
    assert not set(DECAYS) & set(image.alternatives)


def test_what_is_refused():
    image = np.random.default_rng(0).random((30, 40))
    with pytest.raises(ValueError, match="need a signal's kernel"):
        kernelfit.find_kernel(image, image, (3, 5), solver=GaussianProcess("tc"))
    with pytest.raises(ValueError, match="decays from the first tap"):
        GaussianProcess("dc", envelope="power")
    x = np.random.default_rng(0).normal(size=9000)
    for solver in ("auto", GaussianProcess()):
        with pytest.raises(ValueError, match="more than 2000 taps.*ConjugateGradient"):
            kernelfit.find_kernel(x, x, lags=(0, 2000), solver=solver)


def test_the_variance_of_an_independent_part_is_its_mean_under_the_evidence():
    """Against the evidence of dense matrices of all samples, integrated over standard deviations."""
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(size=80), np.exp(-np.arange(N) / 2.0) + 0.1 * rng.normal(size=N)
    matrix = scipy.linalg.toeplitz(x, np.zeros(N))[N - 1 :]
    y, p, s = matrix @ kernel + 0.4 * rng.normal(size=len(matrix)), textbook("tc", 1.0, 2.0, 2.0), 0.4
    gram = matrix.T @ matrix
    factor = np.linalg.cholesky(np.linalg.inv(np.linalg.inv(p / s**2) + gram))
    pull = matrix.T @ (y - matrix @ (factor @ factor.T @ matrix.T @ y)) / s
    stds = np.linspace(0.0, 2.0, 1501)[1:]
    score = []
    for std in stds:
        total = matrix @ (p + (std * s) ** 2 * np.eye(N)) @ matrix.T + s**2 * np.eye(len(y))
        score.append(y @ np.linalg.solve(total, y) + np.linalg.slogdet(total)[1])
    weight = np.exp(-0.5 * (np.array(score) - min(score)))
    found = hyperparameters.independent_variance(gram, factor, pull)
    assert found == pytest.approx(float(weight @ stds**2 / weight.sum()), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("family", DECAYS)
def test_coverage_over_responses_of_the_prior(family):
    rng = np.random.default_rng(7)
    root = scipy.linalg.cholesky(textbook(family, 1.0, 8.0, 4.0) + 1e-12 * np.eye(N), lower=True)
    held, squares = [], []
    for _ in range(40):
        x, kernel = rng.normal(size=300), root @ rng.normal(size=N)
        y = np.convolve(x, kernel)[:300] + 0.5 * rng.normal(size=300)
        fit = kernelfit.find_kernel(x, y, lags=(0, N - 1), solver=GaussianProcess(family))
        low, high = fit.confidence(0.95)
        held.append(np.mean((low <= kernel) & (kernel <= high)))
        squares.append([np.sum((fit.kernel - kernel) ** 2), np.sum(fit.stderr**2)])
    assert np.mean(held) > 0.93
    error, expected = np.sum(squares, axis=0)
    assert 0.5 < error / expected < 1.1


@pytest.mark.slow
def test_tails_that_the_prior_has_given_up_have_errors():
    """A response that decays more slowly than its beginning tells: the errors of its tail are not nothing."""
    rng, held = np.random.default_rng(8), []
    t = np.arange(60)
    kernel = np.exp(-t / 3.0) * np.cos(t) + 0.05 * np.exp(-t / 30.0)
    for _ in range(10):
        x = rng.normal(size=400)
        y = np.convolve(x, kernel)[:400] + 0.5 * rng.normal(size=400)
        low, high = kernelfit.find_kernel(x, y, lags=(0, 59), solver=GaussianProcess("tc")).confidence(0.95)
        held.append(((low <= kernel) & (kernel <= high))[20:])
    assert np.mean(held) > 0.9
