"""Every solver on statistics of two source images with different supports, against dense textbook solutions."""

import dataclasses

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.signal

import kernelfit
import naive
from dense import dense_penalty, dense_prior, detail
from helpers import assert_close
from kernelfit import Constrained, GaussianProcess, InBasis, LeastSquares, NonNegative, NormalStats, Penalized, Sparse

TERMS = ((4, 3), (2, 5))
SIZES = [12, 10]


@pytest.fixture(scope="module")
def two():
    """(A, y, stats): the target is the sum of two images' convolutions, cut to the same pixels, and noise."""
    rng = np.random.default_rng(3)
    size = (16, 19)
    blocks = []
    for rows, cols in TERMS:
        image = scipy.signal.convolve2d(
            rng.normal(size=(size[0] + rows - 1, size[1] + cols - 1)), np.ones((2, 2)), mode="same"
        )
        blocks.append(naive.design(image, (rows, cols), mode="valid", boundary=None)[0])
    a = np.hstack(blocks)
    truth = np.concatenate([np.outer([0.2, 1, 0.8, 0.1], [0.5, 1, 0.4]).ravel(), np.linspace(-0.5, 1.0, 10)])
    y = a @ truth + rng.normal(0.0, 0.3, len(a))
    convention = kernelfit.Convention()
    stats = NormalStats(a.T @ a, a.T @ y, float(y @ y), float(y.sum()), len(y), TERMS, convention)
    return a, y, stats


def taps(fit):
    return np.ravel(fit.kernel)


def test_least_squares(two):
    a, y, stats = two
    fit = stats.solve()
    assert_close(taps(fit), np.linalg.lstsq(a, y, rcond=None)[0], 1e-9)
    assert_close(fit.covariance(), fit.rss / (len(y) - 22) * np.linalg.inv(a.T @ a), 1e-9)


@pytest.mark.parametrize("penalty", ["ridge", "gradient", "laplacian", "biharmonic"])
def test_penalties_are_of_each_term_by_itself(two, penalty):
    a, y, stats = two
    blocks, start = [], 0
    for shape, size in zip(TERMS, SIZES, strict=True):
        own, q = a[:, start : start + size], dense_penalty(penalty, shape)
        blocks.append(q * detail(own) / np.trace(q))
        start += size
    q = 0.03 * scipy.linalg.block_diag(*blocks)
    fit = stats.solve(Penalized(penalty, 0.03))
    assert_close(taps(fit), np.linalg.solve(a.T @ a + q, a.T @ y), 1e-9)
    assert fit.df_model == pytest.approx(np.trace(a @ np.linalg.solve(a.T @ a + q, a.T)), rel=1e-9)
    made = stats.solve(Penalized(lambda shape: dense_penalty(penalty, shape), 0.03))
    assert_close(taps(made), taps(fit), 1e-10)
    truth, _ = scipy.optimize.nnls(np.vstack([a, np.linalg.cholesky(q).T]), np.concatenate([y, np.zeros(22)]))
    assert_close(taps(stats.solve(NonNegative(penalty=penalty, strength=0.03))), truth, 1e-8)


@pytest.mark.parametrize("symmetric", [None, "both"])
def test_the_process_has_a_prior_for_each_term(two, symmetric):
    a, y, stats = two
    fit = stats.solve(GaussianProcess("matern52", "gaussian", symmetric))
    assert len(fit.priors) == 2 and fit.priors[0].length != fit.priors[1].length
    p = scipy.linalg.block_diag(*(dense_prior(prior, shape) for prior, shape in zip(fit.priors, TERMS, strict=True)))
    k = a @ p @ a.T + fit.noise_std**2 * np.eye(len(y))
    assert_close(taps(fit), p @ a.T @ np.linalg.solve(k, y), 1e-7)
    expected = -0.5 * (y @ np.linalg.solve(k, y) + np.linalg.slogdet(k)[1] + len(y) * np.log(2 * np.pi))
    assert fit.log_evidence == pytest.approx(expected, rel=1e-8)


def test_constraints_hold_for_each_term(two):
    a, y, stats = two
    fit = stats.solve(Constrained(total=3.0, symmetric="rows"))
    rows = []
    for at, shape in enumerate(TERMS):
        unit = np.eye(SIZES[at]).reshape(-1, *shape)
        before, after = sum(SIZES[:at]), sum(SIZES[at + 1 :])
        for row in [*(unit - unit[:, ::-1]).reshape(SIZES[at], -1), np.ones(SIZES[at])]:
            rows.append(np.concatenate([np.zeros(before), row, np.zeros(after)]))
    c = np.array(rows)
    d = np.where(c.sum(axis=1) > 5, 3.0, 0.0)
    system = np.block([[a.T @ a, c.T], [c, np.zeros((len(c), len(c)))]])
    truth = np.linalg.lstsq(system, np.concatenate([a.T @ y, d]), rcond=1e-13)[0][:22]
    assert_close(taps(fit), truth, 1e-8)
    assert taps(fit)[:12].sum() == pytest.approx(3.0) and taps(fit)[12:].sum() == pytest.approx(3.0)


def test_no_negative_taps_bases_and_few_taps(two):
    a, y, stats = two
    assert_close(taps(stats.solve(NonNegative())), scipy.optimize.nnls(a, y)[0], 1e-8)
    total = stats.solve(NonNegative(total=7.0))
    assert taps(total).sum() == pytest.approx(7.0) and taps(total).min() >= 0
    basis = np.random.default_rng(0).normal(size=(22, 6))
    assert_close(taps(stats.solve(InBasis(basis))), basis @ np.linalg.lstsq(a @ basis, y, rcond=None)[0], 1e-8)
    with pytest.raises(ValueError, match="need 22 for supports"):
        stats.solve(InBasis(np.ones((2, 4, 3))))
    few = stats.solve(Sparse(n_taps=4))
    chosen = np.flatnonzero(taps(few))
    assert_close(taps(few)[chosen], np.linalg.lstsq(a[:, chosen], y, rcond=None)[0], 1e-8)


def test_auto_and_image_noise(two):
    a, y, stats = two
    fit = stats.solve("auto")
    assert np.isfinite(taps(fit)).all() and fit.solver.startswith("auto: ")
    changed, share = stats.without_image_noise([0.3, 0.0])
    assert 0 < share < 1
    noise = np.diag(np.repeat([0.09 * share * len(y), 0.0], SIZES))
    assert_close(taps(changed.solve()), np.linalg.solve(a.T @ a - noise, a.T @ y), 1e-9)


@pytest.mark.parametrize("solver", [LeastSquares(), Penalized(), GaussianProcess(), Sparse(), "auto"])
def test_equal_supports_give_a_stack_of_kernels(two, solver):
    a, y, stats = two
    a = a[:, : 2 * 10]
    stats = dataclasses.replace(stats, gram=a.T @ a, moment=a.T @ y, supports=((2, 5), (2, 5)))
    fit = stats.solve(solver)
    assert fit.kernel.shape == (2, 2, 5) and fit.stderr.shape == (2, 2, 5)
    assert fit.summary()
