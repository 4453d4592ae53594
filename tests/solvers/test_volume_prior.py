"""Gaussian-process priors on kernels of volumes, against dense algebra."""

import numpy as np
import pytest
import scipy.stats

import kernelfit
import naive
from helpers import assert_close, grid
from kernelfit import GaussianProcess
from kernelfit.solvers import evidence
from kernelfit.solvers.evidence import ENVELOPES, FAMILIES, Kind
from kernelfit.solvers.least_squares import at_minimum
from kernelfit.solvers.projection import Grid, Projection

SHAPE = (3, 4, 5)
RHO = {
    "squared-exponential": lambda t: np.exp(-(t**2) / 2),
    "matern52": lambda t: (1 + 5**0.5 * t + 5 * t**2 / 3) * np.exp(-(5**0.5) * t),
    "matern32": lambda t: (1 + 3**0.5 * t) * np.exp(-(3**0.5) * t),
    "exponential": lambda t: np.exp(-t),
}


def dense_prior(shape, prior):
    """``a^2 e(p) e(q) rho(|p - q| / l)`` with lengths along planes and rows in units of their own, over images of q."""
    taps, last = np.array(list(np.ndindex(shape)), dtype=float), np.array(shape) - 1.0
    unit = np.array([*prior.scales, 1.0])
    apart = (((taps - prior.center) / unit) ** 2).sum(axis=1) / prior.radius**2
    envelope = prior.amplitude * (np.exp(-apart / 2) if prior.envelope == "gaussian" else (1 + apart / 6) ** -3.0)
    turns = {None: [()], "point": [(), (0, 1, 2)], "both": [tuple(np.flatnonzero(b)) for b in np.ndindex(2, 2, 2)]}
    total = 0.0
    for turn in turns[prior.symmetric]:
        image = taps.copy()
        for axis in turn:
            image[:, axis] = last[axis] - image[:, axis]
        total = total + RHO[prior.family](np.linalg.norm((taps[:, None] - image) / unit, axis=2) / prior.length)
    return total * np.multiply.outer(envelope, envelope)


def scene(seed=0, noise=0.2, even=False, shape=(8, 10, 11)):
    rng = np.random.default_rng(seed)
    taps = np.array(list(np.ndindex(SHAPE)))
    middle = (np.array(SHAPE) - 1) / 2 if even else np.array([1.1, 1.3, 2.2])
    k = np.exp(-0.5 * (((taps - middle) / [1.1, 0.7, 0.9]) ** 2).sum(axis=1)).reshape(SHAPE)
    x = rng.normal(size=shape).cumsum(axis=0)
    y = kernelfit.apply_kernel(x, k, boundary="wrap")
    return x, k, y + noise * y.std() * rng.normal(size=x.shape)


@grid(
    "family, envelope, symmetric",
    [(f, e, s) for f in FAMILIES for e in ENVELOPES for s in (None, "point", "both")][::2],
    8,
)
def test_the_posterior_and_its_evidence_are_those_of_dense_algebra(family, envelope, symmetric):
    x, _, y = scene(even=symmetric is not None, shape=(5, 7, 8))
    fit = kernelfit.find_kernel(x, y, SHAPE, boundary="wrap", solver=GaussianProcess(family, envelope, symmetric))
    matrix = naive.design_nd(x, SHAPE, mode="same", boundary="wrap")[0].astype(float)
    assert len(fit.prior.scales) == 2 and len(fit.prior.center) == 3
    prior, s = dense_prior(SHAPE, fit.prior), fit.noise_std
    whole = matrix @ prior @ matrix.T + s**2 * np.eye(len(matrix))
    gain = prior @ matrix.T @ np.linalg.inv(whole)
    assert_close(fit.kernel.ravel(), gain @ y.ravel(), 1e-6)
    assert fit.log_evidence == pytest.approx(scipy.stats.multivariate_normal(cov=whole).logpdf(y.ravel()), rel=1e-7)
    settled = fit.factor[:, : fit.factor.shape[1] - fit.unsettled]
    assert_close(settled @ settled.T, prior - gain @ matrix @ prior, 1e-6)
    assert "x 1" in str(fit.prior)


@grid("family, envelope", [(f, e) for f in FAMILIES for e in ENVELOPES], 8)
@pytest.mark.parametrize("symmetric", [None, "both"])
def test_the_derivatives_of_the_evidence(family, envelope, symmetric):
    x, _, y = scene()
    start, stats = at_minimum(kernelfit.accumulate(x, y, SHAPE, boundary="wrap"))
    data, kind = Projection.whole(stats, start).under(symmetric), Kind(family, envelope, symmetric)
    theta = np.array([1.0, 0.3, 0.4, 1.1, 1.4, 2.2, 0.3, -0.2])
    values = []
    for compute in (evidence.evidence, evidence.applied_evidence):
        value, slope = compute(data, kind, theta, slope=True)
        steps = 1e-4 * np.eye(8)
        by = [(compute(data, kind, theta + e)[0] - compute(data, kind, theta - e)[0]) / 2e-4 for e in steps]
        assert_close(slope, np.array(by), 1e-5)
        values.append(value)
    assert values[0] == pytest.approx(values[1], rel=1e-10)
    assert Grid(SHAPE).width == 8


@pytest.mark.slow
def test_the_data_choose_the_prior_and_it_helps(tmp_path):
    x, k, y = scene(noise=0.3)
    plain = kernelfit.find_kernel(x, y, SHAPE, boundary="wrap")
    fit = kernelfit.find_kernel(x, y, SHAPE, boundary="wrap", solver="auto")
    assert fit.solver.startswith("auto: ") and fit.verdict.ok
    assert np.linalg.norm(fit.kernel - k) < 0.4 * np.linalg.norm(plain.kernel - k)
    # the depth is longer than rows, as the kernel is
    assert fit.prior.scales[0] > fit.prior.scales[1]
    fit.save(tmp_path / "fit.npz")
    assert kernelfit.KernelFit.load(tmp_path / "fit.npz").priors == fit.priors
    found = kernelfit.accumulate(x, y, SHAPE, boundary="wrap").solve("auto")
    assert_close(found.kernel, fit.kernel, 1e-6)
    with pytest.raises(ValueError, match="as many rows as columns"):
        kernelfit.find_kernel(x, y, SHAPE, boundary="wrap", solver=GaussianProcess(symmetric="square"))
    with pytest.raises(ValueError, match="need a signal's kernel"):
        kernelfit.find_kernel(x, y, SHAPE, boundary="wrap", solver=GaussianProcess("tc"))
    assert (
        kernelfit.find_kernel(x, y, SHAPE, boundary="wrap", solver=GaussianProcess(non_negative=True)).kernel.min() >= 0
    )


@pytest.mark.slow
def test_coverage():
    inside = []
    for seed in range(8):
        x, k, y = scene(seed, noise=0.3)
        fit = kernelfit.find_kernel(x, y, SHAPE, boundary="wrap", solver=GaussianProcess())
        inside.append(np.mean(np.abs(fit.kernel - k) < 1.96 * fit.stderr))
    assert 0.9 < np.mean(inside)
