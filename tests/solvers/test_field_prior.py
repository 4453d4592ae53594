"""The prior of a kernel that varies over the field, against dense matrices of all pixels."""

import numpy as np
import pytest

import kernelfit
import naive
from helpers import assert_close
from kernelfit.solvers.evidence import Kind
from kernelfit.solvers.field_prior import _Joint, best_degree, search_field
from kernelfit.solvers.least_squares import at_minimum

SIDES, SHAPE = (5, 7), (48, 40)


def bump(width, center=(2.0, 3.0)):
    y, x = np.mgrid[: SIDES[0], : SIDES[1]]
    kernel = np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / (2 * width**2))
    return kernel / kernel.sum()


def scene(changes, noise=0.1, seed=0, shape=SHAPE):
    """An image, the target of kernels that widen along the columns by powers of the place, and the kernel there."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape)
    v = np.linspace(-1, 1, shape[1])
    share = sum(c * v**p for p, c in changes.items()) + np.zeros(shape)
    kernels = bump(1.0), bump(1.7) - bump(1.0)
    target = sum(kernelfit.apply_kernel(image * w, k) for w, k in zip((np.ones(shape), share), kernels, strict=True))
    return image, target + rng.normal(0, noise, shape), lambda col: kernels[0] + share[0, col] * kernels[1]


def naive_prior(prior):
    """cov(k[p], k[q]) = a^2 e(p) e(q) rho(|p - q| / l), tap by tap."""
    taps = [(r, c) for r in range(SIDES[0]) for c in range(SIDES[1])]
    out = np.empty((len(taps), len(taps)))

    def envelope(p):
        u = ((p[0] - prior.center[0]) ** 2 + (p[1] - prior.center[1]) ** 2) / prior.radius**2
        return np.exp(-u / 2) if prior.envelope == "gaussian" else (1 + u / 6) ** -3

    for i, p in enumerate(taps):
        for j, q in enumerate(taps):
            t = np.hypot(p[0] - q[0], p[1] - q[1]) / prior.length
            out[i, j] = prior.amplitude**2 * envelope(p) * envelope(q) * np.exp(-(t**2) / 2)
    return out


@pytest.mark.slow
def test_the_posterior_is_that_of_all_pixels():
    image, target, _ = scene({1: 1.0})
    fit = kernelfit.find_kernel(
        image, target, SIDES, variation=1, solver=kernelfit.GaussianProcess("squared-exponential")
    )
    assert len(fit.priors) == 3 and len({prior.amplitude for prior in fit.priors}) == 2
    matrix, used = naive.varying_design(image, SIDES, naive.polynomials(SHAPE, 1), mode="same", boundary=None)
    prior = np.zeros((105, 105))
    for at, one in enumerate(fit.priors):
        prior[35 * at : 35 * at + 35, 35 * at : 35 * at + 35] = naive_prior(one)
    y = target[used]
    total = matrix @ prior @ matrix.T + fit.noise_std**2 * np.eye(len(y))
    gain = np.linalg.solve(total, matrix @ prior).T
    assert_close(fit.kernel.ravel(), gain @ y, 1e-6)
    settled = fit.factor[:, : fit.factor.shape[1] - fit.unsettled]
    assert_close(settled @ settled.T, prior - gain @ matrix @ prior, 1e-6)
    sign, log_det = np.linalg.slogdet(total)
    evidence = -0.5 * (y @ np.linalg.solve(total, y) + log_det + len(y) * np.log(2 * np.pi))
    assert fit.log_evidence == pytest.approx(evidence, rel=1e-6)
    assert fit.alternatives["degree 0"] < fit.log_evidence - 50


@pytest.mark.slow
@pytest.mark.parametrize(("family", "envelope"), [("matern52", "gaussian"), ("squared-exponential", "power")])
@pytest.mark.parametrize("symmetric", [None, "point"])
def test_the_derivatives_are_those_of_the_evidence(family, envelope, symmetric):
    image, target, _ = scene({1: 1.0})
    start, stats = at_minimum(kernelfit.accumulate(image, target, SIDES, variation=2))
    found = search_field(stats, start, family, envelope, symmetric)
    levels = np.array([0, 1, 1, 2, 2, 2])
    joint = _Joint(stats, start, found.kind, found.theta, found.ties, levels)
    free = np.array([0.3, 0.1, -0.1, -0.5, -0.7, 0.1, 0.2])
    sums = joint.sums(free)
    assert joint.kind.symmetric == symmetric
    value, slopes = joint.value(sums, free)
    assert_close(joint.value(sums, free, shapes=False)[1][[0, 3, 4]], slopes[[0, 3, 4]], 1e-6)
    for at, slope in enumerate(slopes):
        moved = [free + h * (np.arange(7) == at) for h in (1e-3, -1e-3)]
        both = [joint.value(joint.sums(one), one)[0] for one in moved]
        assert slope == pytest.approx((both[0] - both[1]) / 2e-3, rel=1e-3, abs=1e-2)
    alone = joint.value(sums.up_to(levels, 0), free, shapes=False)[0]
    without = free - np.array([0, 0, 0, 40.0, 40.0, 0, 0])
    assert alone == pytest.approx(joint.value(joint.sums(without), without)[0], abs=1e-3)
    assert abs(alone - value) > 0.1


def test_the_curvature_is_that_of_the_value():
    image, target, _ = scene({1: 1.0})
    start, stats = at_minimum(kernelfit.accumulate(image, target, SIDES, variation=1))
    kind = Kind("squared-exponential")
    ties = np.zeros((3, 5, 6))
    ties[:, 0, 0] = ties[0, 1, 1] = ties[:, 2, 2] = ties[1:, 0, 3] = ties[1:, 1, 4] = ties[1:, 2, 5] = 1.0
    base = np.tile([2.0, 0.7, 0.3, 2.0, 3.0], (3, 1))
    joint = _Joint(stats, start, kind, base.ravel(), ties.reshape(15, 6), np.array([0, 1, 1]))
    free, steps = np.array([0.1, -0.1, 0.4, -1.0, 0.1, 0.2]), 1e-3 * np.eye(6)
    found = joint.curvature(free, np.array([0, 3]), np.full(6, 2.0))
    slopes = [joint.value(joint.sums(at), at)[1] for one in steps for at in (free + one, free - one)]
    expected = np.array([(a - b) / 2e-3 for a, b in zip(slopes[::2], slopes[1::2], strict=True)])
    values, vectors = np.linalg.eigh(0.5 * (expected + expected.T))
    assert_close(found, (vectors * np.abs(values)) @ vectors.T, 0.1)


@pytest.mark.slow
def test_it_finds_kernels_better_than_least_squares_and_knows_how_well():
    errors, pulls = [], []
    for seed in range(3):
        image, target, truth = scene({1: 0.5, 2: 0.5}, noise=0.2, seed=seed, shape=(90, 100))
        fits = [
            kernelfit.find_kernel(image, target, SIDES, variation=2, solver=solver)
            for solver in (kernelfit.LeastSquares(), "auto")
        ]
        for col in (5, 50, 95):
            errors.append([np.linalg.norm(fit.at(40, col).kernel - truth(col)) for fit in fits])
            pulls.append(((fits[1].at(40, col).kernel - truth(col)) / fits[1].at(40, col).stderr)[1:-1, 2:-2])
    least, prior = np.mean(errors, axis=0)
    assert prior < 0.8 * least
    assert 0.4 < np.sqrt(np.mean(np.square(pulls))) < 2  # where the kernel is


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.05, 0.5, 2.0])
def test_the_errors_hold_for_all_taps_however_weak_the_data_are(noise):
    held = []
    for seed in range(3):
        image, target, truth = scene({1: 0.3, 2: 0.5}, noise=noise, seed=seed, shape=(90, 100))
        fit = kernelfit.find_kernel(image, target, SIDES, variation=2, solver="auto")
        held += [np.abs(fit.at(40, col).kernel - truth(col)) < 1.96 * fit.at(40, col).stderr for col in (5, 50, 95)]
    assert 0.93 <= np.mean(held)
    assert np.mean(np.array(held)[:, :, [0, -1]]) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "degree"),
    [({1: 0.6}, 1), *(pytest.param(*one, marks=pytest.mark.slow) for one in (({}, 0), ({1: 0.2, 2: 0.6}, 2)))],
)
@pytest.mark.parametrize("noise", [0.2, pytest.param(1e-12, marks=pytest.mark.slow)])
def test_the_degree_is_chosen(changes, degree, noise):
    image, target, _ = scene(changes, noise=noise, shape=(80, 90))
    fit = kernelfit.find_kernel(image, target, SIDES, variation="auto")
    field = fit.convention.field
    assert (0 if field is None else field.variation.degree) == degree
    assert any(f"degree {degree} of those tried" in note for note in fit.notes)


def test_the_lower_degree_is_taken_where_the_higher_is_not_clearly_better():
    assert best_degree({0: 10.0, 1: 5.0, 2: 4.5}) == 0
    assert best_degree({0: 10.0, 1: -5.0, 2: -10.5}) == 1
    assert best_degree({0: 10.0, 1: 9.0, 2: -30.0}) == 2


@pytest.mark.slow
def test_a_high_degree_a_mask_and_what_is_refused():
    image, target, _ = scene({3: 0.9}, noise=0.05, shape=(120, 130))
    mask = np.random.default_rng(0).random(target.shape) < 0.1
    fit = kernelfit.find_kernel(image, np.where(mask, 1e6, target), SIDES, variation="auto", mask=mask, background=0)
    assert fit.convention.field.variation.degree == 3
    few = kernelfit.find_kernel(image[:20, :20], target[:20, :20], SIDES, variation="auto")
    assert few.convention.field is None and "too few pixels" in few.notes[-1]
    for verb in (kernelfit.accumulate, lambda *a, **k: kernelfit.kernel_map(*a, (2, 2), **k)):
        with pytest.raises(ValueError, match="variation"):
            verb(image, target, SIDES, variation="auto")
