"""Conjugate gradients against dense algebra: every setting, penalty and prior, and how honest the errors are."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.signal

import kernelfit
import naive
from helpers import grid
from kernelfit import ConjugateGradient, Prior
from kernelfit.core.findings import Verdict
from kernelfit.solvers import conjugate_gradient

SHAPE = (6, 4)
CG = ConjugateGradient()


def pair_of(image_shape, seed=0, shape=SHAPE, noise=0.05):
    """A smooth image about a mean, and its target under wrapped edges."""
    rng = np.random.default_rng(seed)
    image = scipy.signal.convolve2d(rng.normal(size=image_shape), np.ones((3, 2)) / 6, mode="same", boundary="wrap") + 2
    kernel = np.random.default_rng(99).normal(size=shape)
    target = scipy.signal.convolve2d(image, kernel, mode="same", boundary="wrap")
    return image, target + noise * rng.normal(size=image_shape)


def design(image, boundary="wrap", **more):
    return naive.design_dense(image, SHAPE, mode="same", boundary=boundary, **more)[0]


def surface(shape, degree):
    down, across = (np.polynomial.legendre.legvander(np.linspace(-1, 1, n), degree) for n in shape)
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    return np.stack([np.outer(down[:, i], across[:, j]).ravel() for i, j in powers], axis=1)


def close(fit, matrix, values, part=0.01, taps=None):
    """Compare a kernel with dense least squares, in standard errors."""
    taps = fit.kernel.size if taps is None else taps
    found, _, _, _ = np.linalg.lstsq(matrix, values, rcond=None)
    n, m = matrix.shape
    noise = math.sqrt(np.sum((values - matrix @ found) ** 2) / (n - m))
    spread = np.diag(np.linalg.inv(matrix.T @ matrix))[:taps]
    error = noise * math.sqrt(spread.sum())
    assert 0 < np.linalg.norm(fit.kernel.ravel() - found[:taps]) <= part * error
    np.testing.assert_allclose(fit.noise_std, noise, rtol=2e-3)
    np.testing.assert_allclose(fit.typical_stderr, error / math.sqrt(taps), rtol=0.1)


@grid("boundary", ["wrap", "symm", "mirror", "nearest", "fill", None], 3)
@pytest.mark.parametrize("operation", ["convolution", "correlation"])
def test_every_boundary(boundary, operation):
    image, target = pair_of((30, 41))
    more = {"operation": operation, "fillvalue": 1.5 if boundary == "fill" else 0.0}
    matrix, used = naive.design_dense(image, SHAPE, mode="same", boundary=boundary, **more)
    fit = kernelfit.find_kernel(image, target, SHAPE, mode="same", boundary=boundary, **more, solver=CG)
    close(fit, matrix, target[used])


def test_weights_mask_nan_and_saturation():
    image, target = pair_of((30, 41))
    rng = np.random.default_rng(5)
    weights, mask = rng.random(target.shape) + 0.5, rng.random(target.shape) < 0.1
    high = float(np.quantile(target, 0.95))
    target[3, 4] = np.nan
    fit = kernelfit.find_kernel(
        image, target, SHAPE, boundary="wrap", weights=weights, mask=mask, nan="mask", saturated=(None, high), solver=CG
    )
    kept = ~mask & ~(target >= high) & np.isfinite(target)
    root = np.sqrt(weights[kept])
    close(fit, root[:, None] * design(image)[kept.ravel()], root * target[kept])
    assert fit.n_pixels == kept.sum()


@pytest.mark.parametrize("degree", [0, 2])
def test_background_beside_weights_of_several_pairs(degree):
    pairs, weights = [pair_of((30, 41), 1), pair_of((33, 27), 2)], []
    rows, values = [], []
    columns = [surface(image.shape, degree) for image, _ in pairs]
    targets = []
    for i, (image, target) in enumerate(pairs):
        own = np.random.default_rng(i).random(image.shape) + 0.5
        weights.append(own)
        targets.append(target + 3 + (columns[i] @ np.arange(columns[i].shape[1])).reshape(target.shape))
        root = np.sqrt(own.ravel())[:, None]
        others = [columns[i] if j == i else np.zeros((target.size, c.shape[1])) for j, c in enumerate(columns)]
        rows.append(root * np.hstack([design(image), *others]))
        values.append(root[:, 0] * targets[i].ravel())
    fit = kernelfit.find_kernel(
        [i for i, _ in pairs], targets, SHAPE, boundary="wrap", background=degree, weights=weights, solver=CG
    )
    close(fit, np.vstack(rows), np.concatenate(values), taps=math.prod(SHAPE))
    least = kernelfit.find_kernel(
        [i for i, _ in pairs], targets, SHAPE, boundary="wrap", background=degree, weights=weights
    )
    apart = np.abs(fit.background.coefficients - least.background.coefficients)
    assert (apart <= 0.05 * least.background.stderr).all()
    np.testing.assert_allclose(fit.r_squared, least.r_squared, rtol=1e-5)


def test_a_mean_that_the_background_takes_up_costs_no_iterations():
    image, target = pair_of((40, 31))
    fits = [
        kernelfit.find_kernel(image + mean, target, SHAPE, boundary="wrap", background=0, solver=CG)
        for mean in (0.0, 1e4)
    ]
    assert fits[1].iterations <= fits[0].iterations + 2
    assert np.linalg.norm(fits[0].kernel - fits[1].kernel) <= 0.05 * np.linalg.norm(fits[0].stderr)


@pytest.mark.parametrize("stride", [(2, 3), (4, 1)])
def test_stride_that_does_not_divide_the_sides(stride):
    image, target = pair_of((61, 70))
    offset = (1, 0)
    target = target[offset[0] :: stride[0], offset[1] :: stride[1]]
    fit = kernelfit.find_kernel(image, target, SHAPE, boundary="wrap", stride=stride, offset=offset, solver=CG)
    close(fit, design(image, stride=stride, offset=offset), target.ravel())


@pytest.mark.slow
def test_mixed_channels_and_shared_planes():
    images, targets = zip(*(pair_of((30, 41), seed) for seed in (1, 2)), strict=True)
    image, target = np.stack(images, axis=-1), np.stack(targets, axis=-1)
    target[..., 0] += 0.3 * np.roll(images[1], 1, axis=0)
    shared = kernelfit.find_kernel(image, target, SHAPE, boundary="wrap", channel_axis=-1, solver=CG)
    close(shared, np.vstack([design(i) for i in images]), np.moveaxis(target, -1, 0).ravel())
    mixed = kernelfit.find_kernel(image, target, SHAPE, boundary="wrap", channel_axis=-1, channels="mixed", solver=CG)
    for t, part in enumerate(mixed.parts):
        close(part, np.hstack([design(i) for i in images]), target[..., t].ravel())


@pytest.mark.slow
def test_photon_noise_and_outliers_end_where_least_squares_of_a_gram_matrix_ends():
    image, target = pair_of((50, 41))
    target = target - target.min() + 5
    rng = np.random.default_rng(3)
    target += 0.3 * np.sqrt(target) * rng.normal(size=target.shape)
    target.ravel()[rng.choice(target.size, 40)] += 30
    for settings in ({"noise": (10.0, 1.0)}, {"robust": "clip"}, {"robust": "huber", "noise": (10.0, 1.0)}):
        both = [
            kernelfit.find_kernel(image, target, SHAPE, boundary="wrap", background=0, **settings, solver=solver)
            for solver in (CG, None)
        ]
        assert np.linalg.norm(both[0].kernel - both[1].kernel) <= 0.04 * np.linalg.norm(both[1].stderr)
        np.testing.assert_allclose(both[0].stderr.mean(), both[1].stderr.mean(), rtol=0.12)
        assert both[0].iterations > 0


def penalty_of(name, shape):
    sides = [2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1) for n in shape]
    once = np.kron(sides[0], np.eye(shape[1])) + np.kron(np.eye(shape[0]), sides[1])
    power = {"identity": 0, "gradient": 1, "laplacian": 2, "biharmonic": 4}[name]
    return np.linalg.matrix_power(once, power)


@grid("name", conjugate_gradient.PENALTIES, 3)
@pytest.mark.parametrize("settings", [{}, {"stride": 2, "background": 0}])
def test_penalties(name, settings):
    image, target = pair_of((50, 61), noise=0.3)
    step = settings.get("stride", 1)
    target = target[::step, ::step]
    matrix = design(image, stride=(step, step))
    if "background" in settings:
        matrix = matrix - matrix.mean(axis=0)
        target = target + 2
    values = target.ravel() - ("background" in settings) * target.mean()
    gram, q = matrix.T @ matrix, penalty_of(name, SHAPE)
    detail = np.trace(gram) - gram.sum() / len(gram)  # of the taps less their mean
    both = gram + 0.03 * detail / np.trace(q) * q
    kernel = np.linalg.solve(both, matrix.T @ values)
    df_model = np.trace(np.linalg.solve(both, gram))
    spare = len(values) - ("background" in settings) - df_model
    noise = math.sqrt(np.sum((values - matrix @ kernel) ** 2) / spare)
    error = noise * math.sqrt(np.trace(np.linalg.inv(both)))
    solver = ConjugateGradient(name, 0.03)
    fit = kernelfit.find_kernel(image, target, SHAPE, boundary="wrap", **settings, solver=solver)
    assert np.linalg.norm(fit.kernel.ravel() - kernel) <= 0.01 * error
    np.testing.assert_allclose(fit.noise_std, noise, rtol=3e-3)
    np.testing.assert_allclose(fit.typical_stderr * math.sqrt(len(kernel)), error, rtol=0.1)
    np.testing.assert_allclose(fit.df_model, df_model, atol=2)
    assert fit.uncertainty == "posterior" and fit.strength == 0.03 and name in fit.solver
    known = "ridge" if name == "identity" else name
    same = kernelfit.find_kernel(
        image, target, SHAPE, boundary="wrap", **settings, solver=kernelfit.Penalized(known, 0.03)
    )
    assert np.linalg.norm(fit.kernel - same.kernel) <= 0.01 * error


def covariance_of(prior, shape):
    """Tap by tap."""
    rho = {
        "squared-exponential": lambda t: math.exp(-t * t / 2),
        "matern32": lambda t: (1 + math.sqrt(3) * t) * math.exp(-math.sqrt(3) * t),
        "exponential": lambda t: math.exp(-t),
    }[prior.family]

    def envelope(p):
        u = ((p[0] - prior.center[0]) ** 2 + (p[1] - prior.center[1]) ** 2) / prior.radius**2
        return math.exp(-u / 2) if prior.envelope == "gaussian" else (1 + u / 6) ** -3

    taps = list(np.ndindex(shape))
    found = np.zeros((len(taps), len(taps)))
    for i, p in enumerate(taps):
        for j, q in enumerate(taps):
            images = [q] if prior.symmetric is None else [q, (shape[0] - 1 - q[0], shape[1] - 1 - q[1])]
            if prior.symmetric == "both":
                images += [(shape[0] - 1 - q[0], q[1]), (q[0], shape[1] - 1 - q[1])]
            total = sum(rho(math.dist(p, image) / prior.length) for image in images)
            found[i, j] = prior.amplitude**2 * envelope(p) * envelope(q) * total
    return found


PRIORS = [
    Prior("squared-exponential", 0.7, 1.5, 2.0, (2.2, 1.4)),
    Prior("matern32", 0.7, 1.5, 2.0, (2.5, 1.5), "power", "point"),
    Prior("exponential", 0.3, 2.5, 1.0, (2.5, 1.5), "gaussian", "both"),
]


@pytest.mark.slow
@grid("prior", PRIORS, 3)
@pytest.mark.parametrize("noise_std", [None, 0.5])
def test_priors(prior, noise_std):
    image, target = pair_of((30, 41), noise=0.5)
    weights = np.random.default_rng(7).random(target.shape) + 0.5
    root = np.sqrt(weights.ravel())
    matrix, values = root[:, None] * design(image), root * target.ravel()
    left = values - matrix @ np.linalg.lstsq(matrix, values, rcond=None)[0]
    noise = math.sqrt(left @ left / (len(values) - math.prod(SHAPE))) if noise_std is None else noise_std
    covariance = covariance_of(prior, SHAPE)
    inner = matrix @ covariance @ matrix.T + noise**2 * np.eye(len(values))
    gain = np.linalg.solve(inner, matrix @ covariance).T
    kernel, spread = gain @ values, covariance - gain @ matrix @ covariance
    solver = ConjugateGradient(prior=prior, noise_std=noise_std)
    fit = kernelfit.find_kernel(image, target, SHAPE, boundary="wrap", weights=weights, solver=solver)
    error = math.sqrt(np.trace(spread))
    assert np.linalg.norm(fit.kernel.ravel() - kernel) <= 0.015 * error
    np.testing.assert_allclose(fit.noise_std, noise, rtol=1e-3)
    np.testing.assert_allclose(fit.typical_stderr * math.sqrt(len(kernel)), error, rtol=0.15)
    assert fit.priors == (prior,) and fit.uncertainty == "posterior"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"penalty": "ridge", "strength": 1.0}, "need one of None, 'identity'"),
        ({"penalty": "gradient"}, "need a finite strength"),
        ({"strength": 1.0}, "need a finite strength"),
        ({"penalty": "gradient", "strength": -1.0}, "need a finite strength"),
        ({"penalty": "gradient", "strength": 1.0, "prior": PRIORS[0]}, "need one or the other"),
        ({"noise_std": 1.0}, "a prior beside it"),
        ({"prior": PRIORS[0], "noise_std": 0.0}, "above 0"),
    ],
)
def test_settings_that_mean_nothing(settings, words):
    with pytest.raises(ValueError, match=words):
        ConjugateGradient(**settings)


@pytest.mark.parametrize("settings", [{"errors": "sandwich"}, {"image_noise": 0.1}])
def test_what_needs_the_gram_matrix_is_refused_with_the_reason(settings):
    image, target = pair_of((30, 41))
    with pytest.raises(ValueError, match="Gram matrix"):
        kernelfit.find_kernel(image, target, SHAPE, solver=CG, **settings)


def narrow(ratio, side, seed):
    """White noise of so many pixels per tap, a kernel of `side` rows, and a target with noise."""
    rng = np.random.default_rng(seed)
    shape = (side, side - 2)
    rows = math.ceil(math.sqrt(ratio) * side)
    image = rng.normal(size=(rows, math.ceil(ratio * math.prod(shape) / rows)))
    kernel = np.outer(*(np.exp(-((np.arange(n) - n // 2) ** 2) / (0.05 * n * n)) for n in shape))
    target = scipy.signal.convolve2d(image, kernel, mode="same") + 0.02 * rng.normal(size=image.shape)
    return image, target, kernel


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.1, 1.5, 3.0])
def test_errors_are_honest_however_few_pixels(ratio):
    told, true, covered, scenes = [], [], [], 24
    for seed in range(scenes):
        image, target, kernel = narrow(ratio, 13, seed)
        fit = kernelfit.find_kernel(image, target, kernel.shape, boundary="fill", solver=CG)
        low, high = fit.confidence(0.95)
        told.append(fit.typical_stderr**2)
        true.append(np.mean((fit.kernel - kernel) ** 2))
        covered.append(np.mean((low <= kernel) & (kernel <= high)))
        assert (Verdict.NO_REDUNDANCY in {f.verdict for f in fit.findings}) == (ratio < 1.25)
    assert 0.9 <= math.sqrt(np.mean(told) / np.mean(true)) <= 1.1
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.slow
def test_far_from_least_squares_it_goes_on_or_says_so(monkeypatch):
    image, target, kernel = narrow(1.05, 19, 3)
    least = kernelfit.find_kernel(image, target, kernel.shape, boundary="fill", method="fft")
    fit = kernelfit.find_kernel(image, target, kernel.shape, boundary="fill", solver=CG)
    assert np.linalg.norm(fit.kernel - least.kernel) <= 0.02 * np.linalg.norm(least.stderr)
    np.testing.assert_allclose(fit.typical_stderr, math.sqrt(np.mean(least.stderr**2)), rtol=0.1)
    np.testing.assert_allclose(fit.noise_std, least.noise_std, rtol=0.01)
    monkeypatch.setattr(conjugate_gradient, "MOST_ITERATIONS", 8)
    fit = kernelfit.find_kernel(image, target, kernel.shape, boundary="fill", solver=CG)
    assert Verdict.NOT_CONVERGED in {f.verdict for f in fit.findings}


def test_where_few_pixels_are_spare_the_residual_has_settled():
    """The noise is told from a residual that is known to a hundredth at least, however large the tolerance."""
    zero = np.zeros((31, 33))
    few, many = (conjugate_gradient.stop_rule(7.0, zero, n, 0.1)(zero, zero) for n in (31 * 33 + 2, 10**6))
    assert few == pytest.approx(0.01 * 7.0) and many == pytest.approx(0.1**2 * 31 * 33 / (10**6 - 31 * 33) * 7.0)


@pytest.mark.parametrize("boundary", [None, "wrap"])
@pytest.mark.parametrize("name", ["stripes", "ramp", "waves"])
def test_taps_that_the_image_leaves_open_are_said(name, boundary):
    rows, cols = np.mgrid[:30, :41]
    waves = np.sin(2 * np.pi * rows / 15) + np.cos(6 * np.pi * cols / 41)
    image = {"stripes": 120.0 + 80 * (cols // 3 % 2), "ramp": 1.0 * rows + 2 * cols, "waves": waves}
    rng = np.random.default_rng(0)
    target = kernelfit.apply_kernel(image[name], rng.random(SHAPE), boundary="wrap") + 1e-3 * rng.normal(size=(30, 41))
    fits = [kernelfit.find_kernel(image[name], target, SHAPE, boundary=boundary, method=m) for m in ("cg", "direct")]
    assert [fit.verdict for fit in fits] == 2 * [Verdict.RANK_DEFICIENT]
    sharp = image[name] + rng.normal(size=(30, 41))
    assert kernelfit.find_kernel(sharp, target, SHAPE, method="cg").verdict is not Verdict.RANK_DEFICIENT


def test_noise_that_dominates_is_said():
    image, target, kernel = narrow(1.1, 15, 1)
    target += 2.0 * np.random.default_rng(0).normal(size=target.shape)
    for solver in (CG, None):
        fit = kernelfit.find_kernel(image, target, kernel.shape, boundary="fill", solver=solver)
        assert Verdict.NOISE_DOMINATES in {f.verdict for f in fit.findings}


def test_the_exact_way_is_chosen_where_it_takes_seconds():
    assert kernelfit.choose_method((50, 50), 47).method != "cg"
    assert kernelfit.choose_method((2000, 2000), 63).method != "cg"
    assert kernelfit.choose_method((4096, 4096), 127).method == "cg"
    assert kernelfit.choose_method((4096, 4096), 127, 2).method == "cg"


def test_any_number_of_workers_gives_the_same():
    image, target = pair_of((50, 41))
    fits = [
        kernelfit.find_kernel(image, target, SHAPE, background=0, weights=np.ones(target.shape), solver=CG, workers=n)
        for n in (1, 3)
    ]
    np.testing.assert_array_equal(fits[0].kernel, fits[1].kernel)
    assert fits[0].typical_stderr == fits[1].typical_stderr


def test_noise_free_is_refined_to_rounding():
    image, target = pair_of((40, 51), noise=0.0)
    mask = np.random.default_rng(1).random(target.shape) < 0.1
    fit = kernelfit.find_kernel(image, target + 1, SHAPE, boundary="wrap", background=0, mask=mask, solver=CG)
    kernel = np.random.default_rng(99).normal(size=SHAPE)
    assert fit.refined >= 1 and np.linalg.norm(fit.kernel - kernel) <= 1e-10 * np.linalg.norm(kernel)


def test_statistics_are_refused():
    image, target = pair_of((30, 41))
    with pytest.raises(ValueError, match="need LeastSquares"):
        kernelfit.accumulate(image, target, SHAPE).solve(CG)


def test_solver_is_frozen_and_says_itself():
    assert str(ConjugateGradient("gradient", 0.5)) == "ConjugateGradient(gradient, 0.5)"
    assert "matern32" in str(ConjugateGradient(prior=PRIORS[1])) and str(CG) == "ConjugateGradient()"
    with pytest.raises(dataclasses.FrozenInstanceError):
        CG.penalty = "gradient"


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_an_image_of_zeros(noise):
    """Nothing is known of any tap, and no probe overflows."""
    target = np.random.default_rng(0).normal(0.0, noise, (20, 21))
    fit = kernelfit.find_kernel(np.zeros((20, 21)), target, (4, 3), solver=kernelfit.ConjugateGradient())
    assert not fit.kernel.any() and not fit.verdict.ok
    assert noise == 0 or fit.stderr.min() > 1e40
