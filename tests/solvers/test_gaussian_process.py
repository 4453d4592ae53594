"""The Gaussian-process prior: against a dense implementation in pixels, its gradients, and its coverage."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.signal
import scipy.spatial.distance

import kernelfit
import naive
from dense import dense_prior
from helpers import assert_close, grid
from kernelfit import GaussianProcess
from kernelfit.solvers import evidence, gaussian_process, hyperparameters, least_squares, projection
from kernelfit.solvers.evidence import Kind
from kernelfit.solvers.gaussian_process import most_probable
from kernelfit.solvers.projection import Projection

SHAPE = (5, 4)


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(1)
    image = scipy.signal.convolve2d(rng.normal(size=(17, 22)), np.ones((3, 2)), mode="same")
    kernel = np.outer([0.1, 0.6, 1.0, 0.5, 0.1], [0.2, 1.0, 0.8, 0.1])
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    target += rng.normal(0.0, 0.3, target.shape)
    matrix, _ = naive.design(image, SHAPE, mode="valid", boundary=None)
    return matrix, target.ravel(), kernelfit.accumulate(image, target, SHAPE)


@pytest.fixture(scope="module")
def square_scene():
    rng = np.random.default_rng(2)
    image = scipy.signal.convolve2d(rng.normal(size=(17, 22)), np.ones((3, 2)), mode="same")
    target = scipy.signal.convolve2d(image, np.outer([0.1, 0.6, 1.0, 0.5], [0.2, 1.0, 0.8, 0.1]), mode="valid")
    target += rng.normal(0.0, 0.3, target.shape)
    matrix, _ = naive.design(image, (4, 4), mode="valid", boundary=None)
    return matrix, target.ravel(), kernelfit.accumulate(image, target, (4, 4))


@grid("symmetric", [None, "point", "both", "square"], 3)
@pytest.mark.parametrize("envelope", evidence.ENVELOPES)
@grid("family", evidence.FAMILIES, 2)
def test_against_a_dense_process_in_pixels(scene, square_scene, family, envelope, symmetric):
    a, y, stats = square_scene if symmetric == "square" else scene
    fit = stats.solve(GaussianProcess(family, envelope, symmetric))
    assert (fit.prior.family, fit.prior.envelope, fit.prior.symmetric) == (family, envelope, symmetric)
    p = dense_prior(fit.prior, stats.supports[0])
    s2 = fit.noise_std**2
    k = a @ p @ a.T + s2 * np.eye(len(y))
    assert_close(fit.kernel.ravel(), p @ a.T @ np.linalg.solve(k, y), 1e-7, "posterior mean")
    # the posterior covariance and, by differences, how far the uncertain hyperparameters move the mean
    posterior = p - p @ a.T @ np.linalg.solve(k, a @ p)
    more = fit.covariance() - posterior
    assert (
        np.linalg.eigvalsh(more)[0] > -1e-7 * np.trace(posterior)
        and np.linalg.matrix_rank(more, 1e-9 * np.trace(posterior)) <= 5
    )
    expected = -0.5 * (y @ np.linalg.solve(k, y) + np.linalg.slogdet(k)[1] + len(y) * np.log(2 * np.pi))
    assert fit.log_evidence == pytest.approx(expected, rel=1e-8)
    assert fit.df_model == pytest.approx(np.trace(a @ p @ a.T @ np.linalg.inv(k)), rel=1e-6)
    assert fit.uncertainty == "posterior"


@pytest.mark.parametrize(
    "kind", [Kind("matern52"), Kind("squared-exponential", "power"), Kind("matern32", symmetric="both")]
)
def test_uncertain_hyperparameters_move_the_mean(scene, kind):
    """The added covariance against differences of dense posterior means and of the evidence."""
    a, y, stats = scene
    fit = stats.solve(GaussianProcess(*kind))
    prior, s = fit.prior, fit.noise_std
    theta = np.array([np.log(prior.amplitude / s), np.log(prior.length), np.log(prior.radius), *prior.center])
    data = Projection.whole(stats, least_squares.least_squares(stats))
    under = data.under(kind.symmetric)
    free = range(5) if kind.symmetric is None else range(3)

    def theta_of(at):
        a, length, radius = np.exp(at[:3])
        return kernelfit.Prior(kind.family, a, length, radius, tuple(at[3:]), kind.envelope, kind.symmetric)

    def mean(at):
        p = dense_prior(theta_of(at), SHAPE)
        return p @ a.T @ np.linalg.solve(a @ p @ a.T + np.eye(len(y)), y)

    def slope(at):
        return evidence.evidence(under, kind, at, slope=True)[1][list(free)]

    unit = np.eye(5)
    moves = np.array([(mean(theta + 1e-4 * unit[i]) - mean(theta - 1e-4 * unit[i])) / 2e-4 for i in free]).T
    half = np.array([(slope(theta + 0.05 * unit[i]) - slope(theta)) / 0.1 for i in free])
    values, vectors = np.linalg.eigh(0.5 * (half + half.T))
    truth = moves @ (vectors / np.maximum(values, 1.0)) @ vectors.T @ moves.T
    p = dense_prior(prior, SHAPE)
    posterior = p - p @ a.T @ np.linalg.solve(a @ p @ a.T + s**2 * np.eye(len(y)), a @ p)
    assert_close(fit.covariance(), posterior + truth, 1e-5)


@pytest.mark.parametrize("family", evidence.FAMILIES)
@pytest.mark.parametrize("envelope", evidence.ENVELOPES)
@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("symmetric", [None, "point", "both", "square"])
def test_gradients_are_the_differences(scene, square_scene, family, envelope, reduced, symmetric):
    _, _, stats = square_scene if symmetric == "square" else scene
    start = least_squares.least_squares(stats)
    data = Projection.part(stats, start, 7) if reduced else Projection.whole(stats, start)
    kind = Kind(family, envelope, symmetric)
    data = data.under(symmetric)
    middle = [1.7, 2.1] if symmetric is None else [0.5 * (n - 1) for n in data.grids[0].shape]
    theta = np.array([1.2, 0.4, 0.6, *middle])
    value, slope = evidence.evidence(data, kind, theta, slope=True)
    for at in range(5 if symmetric is None else 3):
        step = 1e-5 * np.eye(5)[at]
        ends = [evidence.evidence(data, kind, theta + sign * step)[0] for sign in (1, -1)]
        assert slope[at] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-3)
    other, applied = evidence.applied_evidence(data, kind, theta, slope=True)
    assert other == pytest.approx(value, rel=1e-11)
    assert_close(applied, slope, 1e-8)


@pytest.mark.parametrize("symmetric", [None, "both"])
def test_the_inverse_of_all_the_data_gives_the_same_evidence(scene, symmetric):
    data = Projection.whole(*reversed(least_squares.at_minimum(scene[2]))).under(symmetric)
    kind, theta = Kind("matern52", "power", symmetric), np.array([-0.5, 0.9, 0.7, 2.1, 1.4])
    assert data.inverse is not None
    value, slope = evidence.evidence(data, kind, theta, slope=True)
    data.__dict__["inverse"] = None  # as where rounding would spoil it
    plain, plain_slope = evidence.evidence(data, kind, theta, slope=True)
    assert_close(value, plain, 1e-12)
    assert_close(slope, plain_slope, 1e-9)


def test_an_evidence_that_rounding_spoils_has_a_slope_of_as_many_numbers(scene):
    data = Projection.whole(*reversed(least_squares.at_minimum(scene[2])))
    data.__dict__["inverse"] = data.inverse._replace(matrix=-data.inverse.matrix)
    value, slope = evidence.evidence(data, Kind("matern32"), np.array([-9.0, 0.9, 0.7, 2.1, 1.4]), slope=True)
    assert value == np.inf and slope.shape == (5,)


def test_constraints_that_say_the_same_count_once():
    """Of a symmetric posterior: as many taps are held as scipy's method holds, and the kernel is the same."""
    rng = np.random.default_rng(4)
    image = scipy.signal.convolve2d(rng.normal(size=(50, 61)), np.ones((3, 3)), mode="same")
    y, x = np.mgrid[-4:5, -3:4]
    target = scipy.signal.convolve2d(image, (y**2 + x**2 < 8) * 1.0, mode="valid")
    target += rng.normal(0.0, 0.3 * target.std(), target.shape)
    stats = kernelfit.accumulate(image, target, (9, 7))
    fit = stats.solve(GaussianProcess(symmetric="point"))
    changed, distance, held = most_probable(stats, fit)
    factor, mean = fit._covariance_factor(), fit.kernel.ravel()
    x, _ = scipy.optimize.nnls(factor.T, -np.linalg.lstsq(factor, mean, rcond=1e-12)[0])
    step = factor.T @ x
    assert 0 < held == np.count_nonzero(x) < np.count_nonzero(changed.kernel == 0)
    assert_close(distance, float(step @ step), 1e-6)
    assert_close(changed.kernel.ravel(), np.maximum(mean + factor @ step, 0), 1e-7)
    same, beyond, count = most_probable(stats, fit, lambda held: 0.5 * distance)
    assert same is fit and beyond > 0.5 * distance and count in (0, held)


@pytest.mark.parametrize("spread", [0.3, 2.0, 6.0])
@pytest.mark.parametrize("n", [7, 60, 240])
def test_a_kernel_without_negative_taps_that_is_too_far_off_is_not_looked_for(n, spread):
    """The distance is bounded from below: nearly reached if it matters, and never beyond the distance itself."""
    rng = np.random.default_rng(n)
    places = np.arange(n)
    metric = np.exp(-0.5 * (np.subtract.outer(places, places) / spread) ** 2) + 1e-10 * np.eye(n)
    bump = 5 * np.exp(-0.5 * ((places - n / 3) / 2) ** 2)
    mean = bump - 1 + np.linalg.cholesky(metric + 0.1 * np.eye(n)) @ rng.normal(size=n)
    root = np.linalg.cholesky(metric)
    x, _ = scipy.optimize.nnls(root.T, -scipy.linalg.solve_triangular(root, mean, lower=True))
    distance = float(x @ metric @ x)
    told = [gaussian_process._is_beyond(metric, mean, share * distance) for share in (0.3, 0.6, 1.0001, 3.0, math.inf)]
    assert distance > 0 and told == [True, True, False, False, False]


@pytest.mark.parametrize("mean", [[0.0, 0.0], [1.0, 3.0], []])
def test_nothing_is_far_from_having_no_negative_taps_without_one(mean):
    assert not gaussian_process._is_beyond(np.eye(len(mean)), np.array(mean), 1.0)


@pytest.mark.slow
def test_families_are_compared_on_the_same_data_above_256_taps(monkeypatch):
    monkeypatch.setattr(hyperparameters, "EASY", 100)  # fewer than the sets of "point", more than those of "both"
    monkeypatch.setattr(hyperparameters, "_HOPELESS", 40.0)
    monkeypatch.setattr(hyperparameters.Views, "near", lambda self, kinds: self.few)
    rng = np.random.default_rng(3)
    image = rng.normal(size=(90, 100)).cumsum(axis=0).cumsum(axis=1)
    kernel = np.outer(scipy.signal.windows.gaussian(17, 2.0), scipy.signal.windows.gaussian(19, 3.0))
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    target += rng.normal(0.0, 0.002 * target.std(), target.shape)
    fit = kernelfit.accumulate(image, target, kernel.shape).solve(GaussianProcess())
    assert fit.prior.family == "squared-exponential"
    assert len(fit.alternatives) > 1
    assert max(fit.alternatives.values()) - min(fit.alternatives.values()) < 60


def test_the_hyperparameters_maximise_the_evidence(scene):
    _, _, stats = scene
    fit = stats.solve(GaussianProcess())
    assert fit.log_evidence == max(fit.alternatives.values())
    data = Projection.whole(stats, least_squares.least_squares(stats))
    prior = fit.prior
    kind = Kind(prior.family, prior.envelope, prior.symmetric)
    assert fit.alternatives[str(kind)] == fit.log_evidence
    theta = np.array(
        [np.log(prior.amplitude / fit.noise_std), np.log(prior.length), np.log(prior.radius), *prior.center]
    )
    data = data.under(kind.symmetric)
    here = evidence.evidence(data, kind, theta)[0]
    rng = np.random.default_rng(0)
    for _ in range(50):
        near = theta + rng.normal(0.0, 0.2, 5) * ([1, 1, 1, 0, 0] if kind.symmetric else 1)
        assert evidence.evidence(data, kind, near)[0] > here - 0.1


@pytest.mark.parametrize("symmetric, shape", [(None, (8, 9)), ("point", (8, 9)), ("both", (9, 8)), ("square", (9, 9))])
def test_the_symmetry_is_found(symmetric, shape):
    rng = np.random.default_rng(8)
    y, x = np.mgrid[: shape[0], : shape[1]]
    y, x = y - 0.5 * (shape[0] - 1), x - 0.5 * (shape[1] - 1)
    tilt = {None: x * y + x, "point": x * y, "both": x**2, "square": 0 * x}[symmetric]
    kernel = np.exp(-0.1 * (x**2 + y**2) - 0.06 * tilt) * np.cos(1.7 * np.hypot(x, y))
    image = scipy.signal.convolve2d(rng.normal(size=(80, 91)), np.ones((3, 3)), mode="same")
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    target += rng.normal(0.0, 0.02 * target.std(), target.shape)
    stats = kernelfit.accumulate(image, target, shape)
    fit, free = stats.solve(GaussianProcess()), stats.solve(GaussianProcess(symmetric=None))
    assert fit.prior.symmetric == symmetric and free.prior.symmetric is None
    assert np.linalg.norm(fit.kernel - kernel) < (1.01 if symmetric is None else 0.92) * np.linalg.norm(
        free.kernel - kernel
    )
    if symmetric is not None:
        assert np.allclose(fit.kernel, fit.kernel[::-1, ::-1], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_long_tails_get_the_power_envelope():
    rng = np.random.default_rng(8)
    y, x = np.mgrid[-5:6, -6:7]
    kernel = (1 + ((y - 0.4) ** 2 + (x + 0.3) ** 2) / 3) ** -2.5
    image = scipy.signal.convolve2d(rng.normal(size=(100, 111)), np.ones((3, 3)), mode="same")
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    target += rng.normal(0.0, 0.005 * target.std(), target.shape)
    stats = kernelfit.accumulate(image, target, kernel.shape)
    fit, other = stats.solve(GaussianProcess()), stats.solve(GaussianProcess(envelope="gaussian"))
    assert fit.prior.envelope == "power" and "power envelope" in str(fit.prior)
    assert np.linalg.norm(fit.kernel - kernel) < 0.7 * np.linalg.norm(other.kernel - kernel)


@pytest.mark.slow
def test_no_negative_taps_is_the_most_probable_such_kernel(scene):
    """Kuhn and Tucker's conditions of ``(k - m)' C^-1 (k - m)`` over k >= 0."""
    a, y, stats = scene
    y = y - 2 * a[:, 3] - a[:, 17]
    stats = dataclasses.replace(stats, moment=a.T @ y, target_energy=float(y @ y), target_sum=float(y.sum()))
    free = stats.solve(GaussianProcess("exponential", symmetric=None))
    fit = stats.solve(GaussianProcess("exponential", symmetric=None, non_negative=True))
    assert free.kernel.min() < -0.5 and fit.kernel.min() == 0 and "no negative taps" in fit.solver
    kernel = fit.kernel.ravel()
    slope = np.linalg.solve(free.covariance(), kernel - free.kernel.ravel())
    scale = np.abs(slope).max()
    assert (slope > -1e-6 * scale).all() and np.abs(slope[kernel > 0]).max() < 1e-6 * scale
    p = dense_prior(free.prior, SHAPE)
    held = kernel == 0
    part = p[np.ix_(~held, ~held)] - p[np.ix_(~held, held)] @ np.linalg.solve(
        p[np.ix_(held, held)], p[np.ix_(held, ~held)]
    )
    assert fit.rss == pytest.approx(np.sum((y - a @ kernel) ** 2), rel=1e-9) and 0 < fit.df_model < free.df_model
    inside = a[:, ~held]
    hat = inside @ part @ inside.T @ np.linalg.inv(inside @ part @ inside.T + free.noise_std**2 * np.eye(len(y)))
    assert fit.df_model == pytest.approx(np.trace(hat), rel=0.1)  # but for what the hyperparameters add


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.0, 300.0])
@pytest.mark.parametrize("kind", [Kind("squared-exponential"), Kind("matern52", "power", "point")])
def test_the_part_that_a_prior_lets_show_tells_what_all_the_data_tell(kind, mean, monkeypatch):
    monkeypatch.setattr(projection, "_FIRST", 30)
    rng = np.random.default_rng(3)
    image = scipy.signal.convolve2d(rng.normal(size=(60, 71)), np.ones((3, 3)), mode="same") + mean
    y, x = np.mgrid[-7:8, -6:7]
    target = scipy.signal.convolve2d(image, np.exp(-(y**2) / 8 - x**2 / 6), mode="valid")
    target += rng.normal(0.0, 5.0, target.shape)
    start, stats = least_squares.at_minimum(kernelfit.accumulate(image, target, (15, 13)))
    views = hyperparameters.Views(stats, start)
    views.whole.__dict__["inverse"] = None  # which would be quicker than so large a part
    theta = np.array([-2.5, 1.0, 1.2, 7.0, 6.0])
    data = views.near([(kind, theta)]).under(kind.symmetric)
    assert data.weights.shape[1] < stats.n_taps
    whole = Projection.whole(stats, start).under(kind.symmetric)
    places = theta + rng.uniform(-0.2, 0.2, (5, 5)) * ([1, 1, 1, 0, 0] if kind.symmetric else 1)
    found = [
        [compute(part, kind, at, slope=True) for at in places]
        for part, compute in ((data, evidence.applied_evidence), (whole, evidence.evidence))
    ]
    values, slopes = ([[one[i] for one in row] for row in found] for i in (0, 1))
    assert_close(np.diff(values[0]), np.diff(values[1]), 0.02)
    free = slice(0, 3 if kind.symmetric else 5)
    assert_close(np.array(slopes[0])[:, free], np.array(slopes[1])[:, free], 0.02)


def test_a_prior_that_is_all_detail_needs_all_the_data(scene):
    _, _, stats = scene
    start, stats = least_squares.at_minimum(stats)
    assert Projection.near(stats, start, 1e3 * np.eye(20), 10) is None


def test_what_falls_too_slowly_to_be_a_part_is_looked_at_once(scene, monkeypatch):
    monkeypatch.setattr(projection, "_FIRST", 3)
    looks, onto = [], Projection._onto
    monkeypatch.setattr(Projection, "_onto", lambda *given: looks.append(given) or onto(*given))
    start, stats = least_squares.at_minimum(scene[2])
    assert Projection.near(stats, start, 1e3 * np.eye(20), 20) is None
    assert len(looks) == 1
    smooth = 1e4 * np.exp(-2.0 * np.arange(20.0))  # of few combinations, though more than are looked at first
    basis = scipy.linalg.cholesky(np.linalg.inv(stats.gram), lower=True)
    found = Projection.near(stats, start, (basis * smooth) @ basis.T, 20)
    assert found.weights.shape[1] < 20
    assert len(looks) == 3


@pytest.mark.parametrize("easy", [30, 300])
def test_a_search_that_begins_on_part_of_the_data_ends_near_one_on_all(monkeypatch, easy):
    rng = np.random.default_rng(3)
    image = scipy.signal.convolve2d(rng.normal(size=(80, 91)), np.ones((3, 3)), mode="same")
    y, x = np.mgrid[-5:6, -4:5]
    kernel = np.exp(-(y**2) / 6 - (x - 1) ** 2 / 4)
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    target += rng.normal(0.0, 0.05 * target.std(), target.shape)
    stats = kernelfit.accumulate(image, target, kernel.shape)
    whole = stats.solve(GaussianProcess())
    monkeypatch.setattr(hyperparameters, "COMBINATIONS", 10)
    monkeypatch.setattr(hyperparameters, "DIRECT", 50)
    monkeypatch.setattr(hyperparameters, "EASY", easy)
    part = stats.solve(GaussianProcess())
    assert part.log_evidence > whole.log_evidence - 1.0
    assert np.linalg.norm(part.kernel - whole.kernel) < 0.5 * np.linalg.norm(whole.stderr)
    assert np.linalg.norm(part.kernel - kernel) < 0.3 * np.linalg.norm(stats.solve().kernel - kernel)


@pytest.mark.slow
def test_coverage_on_kernels_of_its_own_prior():
    """95 % intervals over kernels drawn from the prior, hyperparameters and family found each time."""
    rng = np.random.default_rng(5)
    shape = (7, 6)
    image = scipy.signal.convolve2d(rng.normal(size=(40, 51)), np.ones((3, 3)), mode="same")
    base = kernelfit.accumulate(image, np.zeros((34, 46)), shape)
    matrix, _ = naive.design_dense(image, shape, mode="valid", boundary=None)
    covered, draws = 0.0, 40
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


def test_no_noise_gives_least_squares():
    rng = np.random.default_rng(3)
    image, kernel = rng.normal(size=(30, 41)), rng.normal(size=(3, 5))
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    fit = kernelfit.find_kernel(image, target, (3, 5), solver=GaussianProcess())
    assert_close(fit.kernel, kernel, 1e-12)
    assert "least squares" in fit.solver and fit.prior is None
