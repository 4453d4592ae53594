"""Errors of rounding that follow the image are in the error bars, and do not pass for a kernel that is too narrow."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage

import naive
from helpers import assert_close, grid
from kernelfit import (
    ConjugateGradient,
    GaussianProcess,
    Model,
    NonNegative,
    Penalized,
    Sparse,
    Verdict,
    apply_kernel,
    find_kernel,
)
from kernelfit.data.observation import as_observation
from kernelfit.diagnostics import tiles
from kernelfit.diagnostics.rounding import Rounding

BINOMIAL = np.outer([1, 2, 1], [1, 4, 6, 4, 1]) / 64
WORDS = "the errors of rounding to integers follow the image"


def rounded(image, kernel, dtype="u1"):
    return np.rint(apply_kernel(image.astype(float), kernel, boundary="symm")).astype(dtype)


def ramp(size=(110, 140)):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.rint(20 + 0.31 * y + 0.57 * x).astype("u1")


def rectangles(seed, size=(120, 150)):
    rng = np.random.default_rng(seed)
    image = np.full(size, rng.uniform(10, 240))
    for _ in range(12):
        row, col = rng.integers(0, size[0] - 10), rng.integers(0, size[1] - 10)
        rows, cols = rng.integers(8, 60, 2)
        image[row : row + rows, col : col + cols] = rng.uniform(10, 240)
    return np.rint(image).astype("u1")


def texture(seed, size=(150, 190)):
    rng = np.random.default_rng(seed)
    broad = scipy.ndimage.gaussian_filter(rng.normal(size=size), 3.0)
    return np.rint(np.clip(120 + 12 * rng.normal(size=size) + 150 * broad, 0, 255)).astype("u1")


def stars(seed, size=(180, 210)):
    rng, sky = np.random.default_rng(seed), np.zeros(size)
    np.add.at(sky, tuple(rng.integers(0, n, 90) for n in size), 10 ** rng.uniform(1.5, 3.2, 90))
    return np.rint(np.minimum(scipy.ndimage.gaussian_filter(sky, 1.0) + 20, 255)).astype("u1")


def noted(fit):
    return any(WORDS in note for note in fit.notes)


@pytest.mark.parametrize("operation", ["convolution", "correlation"])
def test_what_rounding_does_to_an_estimate(operation):
    """Held against dense least squares: errors of the pixels, and what a kernel makes of the image."""
    image, kernel = texture(0, (31, 38)), np.random.default_rng(0).random((3, 5))
    target = np.rint(apply_kernel(image, kernel, boundary="symm", operation=operation)).astype("i2")
    fit = find_kernel(image, target, (3, 5), operation=operation)
    pair = as_observation(image, target, Model((3, 5), operation=operation))
    rounding = Rounding(tiles.read([pair], fit, None, whole=2**17), fit, 0.0)
    matrix, _ = naive.design(image, (3, 5), mode="same", boundary=None, operation=operation)
    errors = np.random.default_rng(1).uniform(-0.5, 0.5, len(matrix))
    w = np.random.default_rng(2).normal(size=15)
    (made,) = rounding._made(w)
    assert_close(made.ravel(), matrix @ (fit.factor @ w), 1e-9)
    moved = fit.factor @ rounding._moved([errors.reshape(made.shape)])
    assert_close(moved, np.linalg.lstsq(matrix, errors, rcond=None)[0], 1e-6)
    assert_close(rounding.predictions[0].ravel(), matrix @ fit.kernel.ravel(), 1e-9)
    noise = np.random.default_rng(3).normal(size=made.shape)
    (found,) = rounding._errors(w, [noise])
    values = (matrix @ (fit.kernel.ravel() + fit.factor @ w)).reshape(made.shape)
    assert_close(found + values, np.rint(values + noise), 1e-9)


def test_what_rounding_does_to_a_kernel_and_a_background_with_weights():
    """Held against dense least squares of both."""
    image, kernel = texture(0, (31, 38)), np.random.default_rng(0).random((3, 5))
    weights = np.random.default_rng(1).uniform(0.5, 9.0, image.shape)
    target = np.rint(apply_kernel(image, kernel, boundary="symm") + 7).astype("i2")
    fit = find_kernel(image, target, (3, 5), background=1, weights=weights)
    pair = as_observation(image, target, Model((3, 5), background=1))
    inside = weights[1:-1, 2:-2]
    rounding = Rounding(tiles.read([pair], fit, [inside], whole=2**17), fit, 0.0)
    assert rounding.n_terms == 3
    y, x = np.mgrid[-1 : 1 : image.shape[0] * 1j, -1 : 1 : image.shape[1] * 1j][:, 1:-1, 2:-2].reshape(2, -1)
    taps, _ = naive.design(image, (3, 5), mode="same", boundary=None)
    matrix, roots = np.column_stack([taps, np.ones(len(taps)), y, x]), np.sqrt(inside).reshape(-1, 1)
    errors = np.random.default_rng(2).uniform(-0.5, 0.5, len(matrix))
    expected = np.linalg.lstsq(matrix * roots, errors * roots[:, 0], rcond=None)[0]
    w = rounding._moved_all([errors.reshape(1, *inside.shape)])
    assert_close(rounding.factor @ w[:15], expected[:15], 1e-6)
    (made,) = rounding._made(w)
    assert_close(made.ravel(), matrix @ expected, 1e-6)
    assert np.std(rounding._made(rounding._start(0.4, 0)[0])[0]) == pytest.approx(0.4, rel=0.5)  # in gray levels


@pytest.mark.parametrize("solver", [Penalized(), GaussianProcess()], ids=str)
def test_a_prior_lets_through_what_it_lets_through_of_any_other_errors(solver):
    """The response of the kernel to the target, the hyperparameters left as they are."""
    image, kernel = texture(0, (31, 38)), np.random.default_rng(0).random((3, 5))
    target = np.rint(apply_kernel(image, kernel, boundary="symm")).astype("i2")
    fit = find_kernel(image, target, (3, 5), solver=solver)
    pair = as_observation(image, target, Model((3, 5)))
    rounding = Rounding(tiles.read([pair], fit, None, whole=2**17), fit, 0.0)
    matrix, _ = naive.design(image, (3, 5), mode="same", boundary=None)
    errors = np.random.default_rng(1).uniform(-0.5, 0.5, len(matrix))
    settled = fit.factor[:, : fit.factor.shape[1] - fit.unsettled] / fit.noise_std
    w = rounding._moved([errors.reshape(rounding.predictions[0].shape)])
    assert_close(rounding.held @ rounding.factor @ w, settled @ settled.T @ matrix.T @ errors, 1e-6)


PRIORS = [Penalized(), GaussianProcess(), Sparse(), NonNegative(), ConjugateGradient(), "auto"]
KEYWORDS = [{"solver": solver} for solver in PRIORS] + [
    {"background": 0},
    {"background": 1, "weights": np.random.default_rng(0).uniform(0.1, 2.0, (110, 140))},
    {"background": 0, "weights": 1e-4 * np.random.default_rng(1).uniform(0.5, 1.5, (110, 140))},
    {"background": 0, "mask": np.random.default_rng(2).random((110, 140)) < 0.3},
]


@pytest.mark.parametrize("keywords", KEYWORDS, ids=lambda k: ", ".join(f"{a} {b!s:.20}" for a, b in k.items()))
@pytest.mark.parametrize("scene", ["ramp", pytest.param("smooth", marks=pytest.mark.slow)])
def test_priors_backgrounds_and_weights_hold_what_rounding_does(scene, keywords):
    image = ramp()
    if scene == "smooth":
        made = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=image.shape), 8.0)
        image = np.rint(128 + 20 * made / made.std()).astype("u1")
    target = rounded(image, BINOMIAL) + (3 if "background" in keywords else 0)
    fit = find_kernel(image, target.astype("u1"), BINOMIAL.shape, **keywords)
    assert np.abs((fit.kernel - BINOMIAL) / fit.stderr).max() < 6
    assert fit.noise_std >= fit.rounding and noted(fit)
    assert fit.verdict is not Verdict.SOLVED


@pytest.mark.parametrize("keywords", [{"weights": np.linspace(1, 2, 97)}, {"mask": np.arange(97) < 9}], ids=" ".join)
def test_a_target_of_two_values_stands_at_their_ends_and_is_looked_at(keywords):
    """What is predicted at the ends of those that count is left out where noise decides which do, and not all of it."""
    image = np.where(scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(81, 97)), 2.0) > 0, 255, 30)
    kernel = np.array([[0.0, 0.3617, 0.0], [0.0, 0.0, 0.0]])
    target = np.rint(apply_kernel(image.astype(float), kernel, boundary="symm")).astype("u1")
    assert len(np.unique(target)) == 2
    fit = find_kernel(image.astype("u1"), target, (2, 3), **keywords)
    assert np.abs((fit.kernel - kernel) / fit.stderr).max() < 3 and noted(fit)


def test_on_a_ramp_the_errors_are_as_large_as_what_is_found_is_wrong():
    """Every step of the ramp is alike, and rounded alike: the target is the image itself, moved."""
    fit = find_kernel(ramp(), rounded(ramp(), BINOMIAL), BINOMIAL.shape)
    assert np.abs(fit.kernel - BINOMIAL).max() > 0.3
    assert np.abs((fit.kernel - BINOMIAL) / fit.stderr).max() < 4
    assert fit.verdict is not Verdict.SOLVED and noted(fit)
    assert Verdict.ILL_CONDITIONED in {f.verdict for f in fit.findings}


def test_where_the_image_varies_nothing_is_added():
    for seed in range(3):
        image = texture(seed)
        fit = find_kernel(image, rounded(image, BINOMIAL), BINOMIAL.shape)
        assert fit.verdict is Verdict.SOLVED and not noted(fit)


@pytest.mark.slow
@pytest.mark.parametrize("scene", [rectangles, stars, lambda seed: ramp((100 + seed, 120))])
@pytest.mark.parametrize(
    "kernel", [np.ones((3, 2)) / 6, BINOMIAL, np.array([[1, 2, 1]]) / 4], ids=["box", "2-d", "row"]
)
def test_errors_hold_the_truth(scene, kernel):
    found = []
    for seed in range(4):
        image = scene(seed)
        fit = find_kernel(image, rounded(image, kernel), kernel.shape)
        found.append(np.abs((fit.kernel - kernel) / fit.stderr).ravel())
    assert np.sqrt(np.mean(np.concatenate(found) ** 2)) < 2.0


def test_a_background_beside_a_residual_smaller_than_rounding():
    """Its errors are those of rounding, as the taps' are."""
    image = ramp()
    fits = [find_kernel(image, rounded(image, np.ones((1, 1))).astype(t), (1, 1), background=0) for t in ("u1", "f8")]
    assert fits[0].noise_std == pytest.approx(12**-0.5)
    sums = np.array([[np.sum(image.astype(float) ** 2), image.sum()], [image.sum(), image.size]])
    assert fits[0].background.stderr[0] == pytest.approx(np.sqrt(np.linalg.inv(sums)[1, 1] / 12), rel=1e-6)


@grid("seed", range(3), 3)
@pytest.mark.parametrize("scene", [texture, stars])
def test_a_kernel_wider_than_its_support_is_seen_below_the_rounding(scene, seed):
    image, wide = scene(seed), np.full((5, 7), 0.0)
    wide[1:-1, 1:-1] = BINOMIAL
    assert find_kernel(image, rounded(image, BINOMIAL), BINOMIAL.shape).verdict is Verdict.SOLVED
    wide[2, 0] = wide[1, -1] = 0.004 if scene is texture else 0.02
    fit = find_kernel(image, rounded(image, wide), BINOMIAL.shape)
    assert fit.noise_std < 1.1 * 12**-0.5
    assert fit.verdict is Verdict.SHAPE_TOO_SMALL


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_a_constant_that_rounding_makes_of_a_flat_sky_is_none(seed):
    rng, sky = np.random.default_rng(seed), np.zeros((200, 230))
    np.add.at(sky, tuple(rng.integers(0, n, 115) for n in sky.shape), 10 ** rng.uniform(1.5, 4, 115))
    image = np.rint(np.clip(0.32 * (scipy.ndimage.gaussian_filter(sky, 1.0) + 50), 0, 255)).astype("u1")
    fit = find_kernel(image, rounded(image, np.array([[0.5, 0.5]])), (1, 2))
    assert {Verdict.OFFSET, Verdict.NONLINEAR, Verdict.SHAPE_TOO_SMALL}.isdisjoint(f.verdict for f in fit.findings)


def specks(seed, size=(41, 57), sky=1.0):
    """A few bright pixels, far apart, on a faint sky."""
    rng = np.random.default_rng(seed)
    image = sky * rng.random(size)
    image[rng.integers(0, size[0], 3), rng.integers(0, size[1], 3)] += rng.uniform(500, 3000, 3)
    return image


@pytest.mark.parametrize("dtype", ["f2", "f4"])
@pytest.mark.parametrize(
    "keywords", [{}, {"background": 0}, {"errors": "sandwich"}], ids=["plain", "constant", "sandwich"]
)
def test_a_tap_that_rests_on_a_bright_pixel_has_the_error_of_its_digits(keywords, dtype):
    """Held against dense least squares of errors that are independent, each as large as its value rounds."""
    image, kernel = specks(0).astype(dtype), np.random.default_rng(1).random((3, 5))
    target = apply_kernel(image.astype(float), kernel, boundary="symm").astype(dtype)
    fit = find_kernel(image, target, (3, 5), **keywords)
    matrix, used = naive.design(image.astype(float), (3, 5), mode="same", boundary=None)
    values = target[1:-1, 2:-2].ravel()
    if keywords.get("background") == 0:
        matrix = np.column_stack([matrix, np.ones(len(matrix))])
    inverse = np.linalg.pinv(matrix)[:15] * (np.spacing(values).astype(float) / np.sqrt(12))
    expected = np.sqrt(np.sum(inverse**2, axis=1))
    assert np.sqrt(np.mean((fit.stderr.ravel() / expected) ** 2)) == pytest.approx(1, abs=0.2)
    assert np.abs((fit.kernel - kernel) / fit.stderr).max() < 4
    assert any("rounding to floating-point numbers" in note for note in fit.notes)


@pytest.mark.parametrize(
    ("dtype", "keywords"), [("f2", {}), ("f4", {"solver": "auto"}), ("f2", {"robust": "huber"})], ids=str
)
def test_surroundings_that_repeat_are_rounded_alike(keywords, dtype):
    """Without noise the residual is zero, and tells nothing of the errors."""
    image = np.full((30, 37), 20.0)
    image[11, 14], image[20, 29] = 200, 1777
    kernel = np.random.default_rng(2).random((3, 4))
    fit = find_kernel(image, apply_kernel(image, kernel, boundary="wrap").astype(dtype), (3, 4), **keywords)
    assert fit.verdict is not Verdict.SOLVED or np.abs((fit.kernel - kernel) / fit.stderr).max() < 5
    if not keywords:  # many pixels of one error tell no more of the sum than one
        least = np.spacing(np.float16(20 * kernel.sum())).astype(float) / np.sqrt(12) / 20
        assert np.sqrt(fit.covariance().sum()) > 0.5 * least


def test_floats_of_random_errors_are_as_they_were():
    """The first are numbers of few digits, of which none is lost."""
    image, noise = texture(1), np.random.default_rng(0).normal(size=texture(1).shape)
    target = apply_kernel(image.astype(float), BINOMIAL, boundary="symm")
    for values in (target, target + 1e-4 * noise, target + noise):
        fit = find_kernel(image, values.astype("f4"), BINOMIAL.shape)
        assert fit.verdict is Verdict.SOLVED and not fit.notes and fit.unsettled == 0


@pytest.mark.parametrize("background", [None, 0, 1])
def test_the_covariance_of_random_errors_where_another_was_asked_for(background):
    image, kernel = texture(0, (31, 38)), np.random.default_rng(0).random((3, 5))
    target = np.rint(apply_kernel(image, kernel, boundary="symm")).astype("i2")
    plain, other = (
        find_kernel(image, target, (3, 5), background=background, errors=errors) for errors in ("plain", "sandwich")
    )
    pair = as_observation(image, target, Model((3, 5), background=background))
    factor = Rounding(tiles.read([pair], other, None, whole=2**17), other, 0.0).factor
    assert_close(factor @ factor.T, plain.covariance(), 1e-6)


@pytest.mark.parametrize("angle", [0.4, 1.2, 2.5])
def test_sandwich_errors_of_rounding_are_no_less_than_plain_ones(angle):
    """Those of a ramp of many digits take turns, and seem to cancel each other."""
    y, x = np.mgrid[:76, :130]
    image, kernel = 0.004 * (10 + np.cos(angle) * y + np.sin(angle) * x), np.array([[40.0], [110.0], [95.0]])
    target = np.rint(apply_kernel(image, kernel, boundary="wrap") + 60).astype("u1")
    plain, other = (find_kernel(image, target, (3, 1), background=0, errors=how) for how in ("plain", "sandwich"))
    assert other.noise_std < 1.1 * other.rounding
    values = np.linalg.eigvalsh(other.covariance() - (1 - 1e-6) * plain.covariance())
    assert values.min() > -1e-9 * values.max()


@pytest.mark.parametrize("errors", ["plain", "sandwich"])
def test_on_a_ramp_errors_of_correlated_noise_hold_what_rounding_does(errors):
    fit = find_kernel(ramp(), rounded(ramp(), BINOMIAL), BINOMIAL.shape, errors=errors)
    assert noted(fit) and np.abs((fit.kernel - BINOMIAL) / fit.stderr).max() < 4


def smooth_integers(seed):
    made = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(230, 260)), 6)
    return np.rint(128 + 30 * made / made.std()).astype(np.uint8)


@pytest.mark.parametrize("seed, across", [(4, (3, 5)), (4, (5, 3)), (41, (3, 5)), (45, (3, 5))])
def test_errors_of_rounding_between_two_passes_that_follow_the_image_are_held(seed, across):
    rng, image = np.random.default_rng(seed), smooth_integers(seed)
    first, second = (rng.dirichlet(np.full(n, 2.0)) for n in across)
    once = np.rint(scipy.ndimage.convolve1d(image.astype(float), first, axis=0))
    target = np.rint(scipy.ndimage.convolve1d(once, second, axis=1)).astype(np.uint8)
    kernel = np.outer(first, second)
    fit = find_kernel(image, target, kernel.shape)
    away = np.sqrt(np.mean(((fit.kernel - kernel) / fit.stderr) ** 2))
    assert np.linalg.norm(fit.kernel - kernel) > 0.04 * np.linalg.norm(kernel)  # which random errors would not do
    assert away < 3.0
    assert any("between two passes" in note for note in fit.notes)


@pytest.mark.parametrize("seed", range(3))
def test_random_noise_beside_rounding_is_not_taken_for_that_between_passes(seed):
    rng, image = np.random.default_rng(seed), smooth_integers(seed)
    kernel = rng.dirichlet(np.ones(15)).reshape(3, 5)
    made = scipy.ndimage.convolve(image.astype(float), kernel)
    fit = find_kernel(image, np.rint(made + 0.4 * rng.normal(size=made.shape)).astype(np.uint8), kernel.shape)
    assert 1.5 < fit.noise_std / fit.rounding < 2.0
    assert not any("passes" in note for note in fit.notes)
    assert 0.4 < np.sqrt(np.mean(((fit.kernel - kernel) / fit.stderr) ** 2)) < 2.5


def test_the_passes_of_a_separable_kernel_round_as_they_do():
    rng, image = np.random.default_rng(1), smooth_integers(1)[:80, :90]
    first, second = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(5))
    once = scipy.ndimage.convolve1d(image.astype(float), first, axis=0)
    errors = scipy.ndimage.convolve1d(np.rint(once) - once, second, axis=1)
    target = np.rint(scipy.ndimage.convolve1d(np.rint(once), second, axis=1)).astype(np.uint8)
    fit = find_kernel(image, target, (3, 5))
    fit = dataclasses.replace(fit, kernel=np.outer(first, second))
    observation = as_observation(image, target, Model((3, 5)))
    parts = tiles.read([observation], fit, None, whole=10**6)
    made = Rounding(parts, fit, float(np.mean(errors[1:-1, 2:-2] ** 2)), passes=True).between[1]
    np.testing.assert_allclose(made[0][0], errors[1:-1, 2:-2], atol=1e-6)


@pytest.mark.parametrize("size", [(1, 5), (4, 1), (3, 3)])
def test_a_kernel_of_one_row_has_no_second_pass(size):
    image = smooth_integers(2)[:70, :90]
    kernel = np.full(size, 1 / 5) if 1 in size else np.outer([0.02, 0.95, 0.03], [0.02, 0.94, 0.04])
    target = np.rint(scipy.ndimage.convolve(image.astype(float), kernel)).astype(np.uint8)
    fit = dataclasses.replace(find_kernel(image, target, size), kernel=kernel)
    parts = tiles.read([as_observation(image, target, Model(size))], fit, None, whole=10**6)
    assert Rounding(parts, fit, 0.02, passes=True).between == []
