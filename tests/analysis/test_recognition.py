"""Filters get their names: the truth is what the tools themselves make of a single bright pixel, or of an image."""

import functools
import math
import re

import numpy as np
import pytest
import scipy.ndimage as ndimage
import scipy.stats

import kernelfit
from helpers import assert_close, grid
from kernelfit.analysis import filter_families as families
from kernelfit.analysis import filter_shapes, recognition
from kernelfit.analysis import filter_table as table
from kernelfit.analysis.filter_families import Hint
from kernelfit.analysis.filter_problem import Rounding, of_whole_steps, without_prior
from kernelfit.analysis.filter_shapes import Grid
from kernelfit.analysis.recognition import nearest
from kernelfit.report import report_html

SHAPE = (13, 15)
ERROR = 2e-4


def response(apply, shape=SHAPE):
    """Return the kernel of a filter: what it makes of one bright pixel."""
    spot = np.zeros((shape[0] + 20, shape[1] + 20))
    spot[shape[0] // 2 + 10, shape[1] // 2 + 10] = 1.0
    return apply(spot)[10:-10, 10:-10]


def noisy(kernel, seed=0):
    """Return a kernel with errors that hang together, and their covariance."""
    rng = np.random.default_rng(seed)
    factor = np.eye(kernel.size) + 0.3 * np.eye(kernel.size, k=1) - 0.2 * np.eye(kernel.size, k=kernel.shape[1])
    errors = ERROR * factor @ rng.standard_normal(kernel.size)
    return kernel + errors.reshape(kernel.shape), ERROR**2 * factor @ factor.T


def recognised(kernel):
    return kernelfit.recognise(*noisy(kernel))


@functools.cache
def best_of(case):
    return recognised(CASES[case][0])[0]


def gaussian(sigma, **more):
    return lambda a: ndimage.gaussian_filter(a, sigma, mode="constant", **more)


def turned(long, short, degrees):
    y, x = np.mgrid[-6:7, -7:8]
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (c * x - s * y) / long, (s * x + c * y) / short


RADIUS = np.hypot(*np.mgrid[-6:7, -7:8])


def unit(taps):
    return taps / taps.sum()


CASES = {
    "gaussian": (response(gaussian(1.2)), "gaussian", {"sigma": 1.2}),
    "cut": (response(gaussian(1.6, radius=2)), "gaussian", {"sigma": 1.6}),
    "axes": (response(gaussian((0.8, 1.3))), "gaussian", {"sigma_rows": 0.8, "sigma_cols": 1.3}),
    "turned": (
        unit(np.exp(-0.5 * (turned(2, 1, 35)[0] ** 2 + turned(2, 1, 35)[1] ** 2))),
        "gaussian",
        {"sigma_along": 2, "sigma_across": 1, "angle": 35},
    ),
    "moved": (
        unit(np.exp(-0.5 * ((np.mgrid[-6:7, -7:8][0] - 0.4) ** 2 + (np.mgrid[-6:7, -7:8][1] + 1.3) ** 2))),
        "gaussian",
        {"sigma_along": 1, "shift_rows": 0.4, "shift_cols": -1.3},
    ),
    "box": (response(lambda a: ndimage.uniform_filter(a, (3, 5))), "box", {"rows": 3, "cols": 5}),
    "soft box": (
        np.outer(unit(np.array([0] * 4 + [0.4, 1, 1, 1, 0.4] + [0] * 4)), np.eye(15)[7]),
        "box",
        {"rows": 3.8, "cols": 1},
    ),
    "binomial": (
        np.outer(np.pad([1, 4, 6, 4, 1], 4), np.pad([1, 2, 1], 6)) / 64.0,
        "binomial",
        {"rows": 5, "cols": 3},
    ),
    "disc": (unit((RADIUS <= 4).astype(float)), "disc", {"radius": 4}),
    "soft disc": (unit(np.clip(3.3 + 0.5 - RADIUS, 0, 1)), "disc", {"radius": 3.3}),
    "ring": (unit(((RADIUS <= 5) & (RADIUS > 3)).astype(float)), "ring", {"inner": 3, "outer": 5}),
    "row": (response(lambda a: ndimage.uniform_filter(a, (1, 7))), "motion", {"length": 7, "angle": 0}),
    "moffat": (unit((1 + (RADIUS / 2.0) ** 2) ** -2.5), "moffat", {"alpha": 2, "beta": 2.5}),
    "airy": (unit(filter_shapes.airy(RADIUS, 2.5)), "airy", {"radius": 2.5}),
    "lorentzian": (unit(1 / (1 + (RADIUS / 1.7) ** 2)), "lorentzian", {"gamma": 1.7}),
    "exponential": (unit(np.exp(-RADIUS / 1.1)), "exponential", {"scale": 1.1}),
    "sobel": (response(lambda a: ndimage.sobel(a, 0)), "sobel", {"axis": 0, "size": 3}),
    "prewitt": (response(lambda a: ndimage.prewitt(a, 1)), "prewitt", {"axis": 1}),
    "laplacian": (response(ndimage.laplace), "laplacian", {"neighbours": 4}),
    "scaled": (response(lambda a: 0.7 * ndimage.laplace(a)), "laplacian", {"neighbours": 4, "gain": 0.7}),
    "slope": (response(gaussian(1.1, order=(0, 1))), "gaussian derivative", {"sigma": 1.1, "axis": 1}),
    "log": (response(lambda a: ndimage.gaussian_laplace(a, 1.2)), "laplacian of gaussian", {"sigma": 1.2}),
    "dog": (
        response(lambda a: gaussian(0.7)(a) - gaussian(1.2)(a)),
        "difference of gaussians",
        {"sigma_low": 0.7, "sigma_high": 1.2},
    ),
    "unsharp": (
        response(lambda a: a + 0.8 * (a - gaussian(1.3)(a))),
        "unsharp mask",
        {"radius": 1.3, "amount": 0.8},
    ),
    "sharpen": (response(lambda a: a - 0.5 * ndimage.laplace(a)), "sharpen", {"amount": 0.5, "neighbours": 4}),
    "high-boost": (
        response(lambda a: a + 1.5 * (a - ndimage.uniform_filter(a, (5, 3)))),
        "high-boost",
        {"rows": 5, "cols": 3, "amount": 1.5},
    ),
    "emboss": (
        response(lambda a: ndimage.correlate(a, [[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]])),
        "emboss",
        {"angle": 0},
    ),
    "identity": (response(lambda a: a), "identity", {}),
    "whole shift": (response(lambda a: np.roll(a, (2, -1), (0, 1))), "shift", {"rows": 2, "cols": -1}),
    "linear shift": (response(lambda a: ndimage.shift(a, (0.3, -1.4), order=1)), "shift", {"rows": 0.3, "cols": -1.4}),
    "spline shift": (
        response(lambda a: ndimage.shift(a, (0.3, -1.4), order=3)),
        "shift",
        {"rows": 0.3, "cols": -1.4, "order": 3},
    ),
    "box then gaussian": (
        response(lambda a: ndimage.uniform_filter(gaussian(0.9)(a), (3, 5))),
        "box then gaussian",
        {"sigma": 0.9},
    ),
    "gaussian then sobel": (
        response(lambda a: ndimage.sobel(gaussian(0.9)(a), 1)),
        "gaussian then sobel",
        {"sigma": 0.9, "axis": 1},
    ),
}


QUICK = ("gaussian", "cut", "turned", "box", "sobel", "unsharp", "sharpen", "linear shift")


@pytest.mark.slow
@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_each_family_is_named_and_its_numbers_are_within_their_errors(case):
    _, name, numbers = CASES[case]
    best = best_of(case)
    assert best.name == name
    assert best.p_value > 1e-3
    for key, truth in numbers.items():
        got = best.parameters[key]
        assert abs(got.value - truth) <= 4 * got.error + 1e-12, (key, got)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rotated", "bilinear", "distance", "pixel"])
def test_lines_of_all_kinds_are_motion(kind):
    kernel = filter_shapes.line(Grid(SHAPE, (6.0, 7.0)), 6.3, 33.0, kind)
    best = recognised(kernel)[0]
    assert best.name == "motion"
    for key, truth in (("length", 6.3), ("angle", 33.0)):
        assert abs(best.parameters[key].value - truth) < 4 * best.parameters[key].error


def test_a_soft_line_is_an_integral_along_the_path():
    grid, n = Grid((9, 11), (4.0, 5.0)), 4001
    t = (np.arange(n) + 0.5) / n * 5.3 - 5.3 / 2
    y, x = (axis[:, None] for axis in grid.axes())
    rows, cols = -t * math.sin(math.radians(25)), t * math.cos(math.radians(25))
    tents = np.maximum(1 - np.abs(y - rows), 0) @ np.maximum(1 - np.abs(x - cols), 0).T / n
    np.testing.assert_allclose(filter_shapes.line(grid, 5.3, 25.0, "bilinear"), tents, atol=1e-6)
    near = np.histogram2d(rows, cols, bins=[np.arange(-4.5, 5), np.arange(-5.5, 6)])[0] / n
    np.testing.assert_allclose(filter_shapes.line(grid, 5.3, 25.0, "pixel"), near, atol=1e-3)


def test_a_soft_disc_covers_taps_in_part():
    grid = Grid((9, 12), (4.2, 5.7))
    fine = (np.arange(200) + 0.5) / 200 - 0.5
    y, x = (np.add.outer(axis, fine).ravel() for axis in grid.axes())
    inside = (y[:, None] ** 2 + x[None, :] ** 2 <= 3.1**2).reshape(9, 200, 12, 200).mean(axis=(1, 3))
    np.testing.assert_allclose(filter_shapes.disc_area(grid, 3.1), unit(inside), atol=2e-5)


@pytest.mark.slow
def test_chi_square_is_that_of_the_covariance():
    taps, covariance = noisy(CASES["gaussian"][0])
    best = kernelfit.recognise(taps, covariance)[0]
    left = (taps - best.kernel).ravel()
    chi = left @ np.linalg.solve(covariance, left)
    assert best.chi_square == pytest.approx(chi, rel=1e-6)
    assert best.dof == taps.size - 1
    assert best.p_value == pytest.approx(scipy.stats.chi2.sf(chi, best.dof), rel=1e-6)
    assert str(best).startswith("a gaussian of sigma 1.20") and f"of {best.dof})" in str(best)


@pytest.mark.slow
def test_random_kernels_have_no_name():
    rng = np.random.default_rng(5)
    for shape in ((3, 5), (6, 7)):
        kernel = rng.normal(size=shape)
        assert recognised(kernel / np.abs(kernel).sum()) == ()
        assert recognised(unit(rng.random(shape))) == ()


@pytest.mark.slow
def test_what_is_near_a_filter_is_told_with_how_far():
    rng = np.random.default_rng(3)
    kernel = CASES["gaussian"][0] * (1 + 0.05 * rng.normal(size=SHAPE))
    taps, covariance = noisy(kernel)
    assert kernelfit.recognise(taps, covariance) == ()
    found = nearest(taps, covariance)
    assert "gaussian" in found.name
    assert found.p_value < 1e-6
    assert found.distance == pytest.approx(np.linalg.norm(found.kernel - taps) / np.linalg.norm(taps))
    assert 0.005 < found.distance < 0.1


@pytest.mark.slow
def test_a_gain_that_is_nearly_one_does_not_hide_the_name():
    taps, covariance = noisy(CASES["gaussian"][0] * 1.0085)
    found = [one for one in kernelfit.recognise(taps, covariance, level=1e-12) if one.name == "gaussian"]
    assert found and found[0].p_value > 1e-3


def test_a_box_beside_the_identity_is_no_laplacian():
    kernel = np.zeros((5, 7))
    kernel[1:4, 2:5] = 1 / 13
    kernel[2, 3] = 5 / 13
    assert recognised(kernel)[0].name == "identity plus box"


def test_noise_has_no_name():
    errors = ERROR * np.random.default_rng(0).standard_normal(SHAPE)
    assert kernelfit.recognise(errors, ERROR**2) == ()
    assert nearest(errors, ERROR**2) is None
    assert kernelfit.recognise(np.zeros(SHAPE)) == ()


def test_exact_taps_need_no_covariance():
    best = kernelfit.recognise(CASES["cut"][0])[0]
    assert best.name == "gaussian"
    assert best.parameters["sigma"].value == pytest.approx(1.6, abs=1e-6)
    assert "radius=2" in best.calls["scipy"]


@pytest.mark.parametrize("operation", ["convolution", "correlation"])
def test_a_fit_of_even_sides_and_another_origin_is_named(operation):
    image = np.random.default_rng(1).normal(size=(60, 71))
    target = ndimage.sobel(image, 1) + np.random.default_rng(2).normal(0, 1e-3, image.shape)
    origin = (1, 4) if operation == "convolution" else (4, 1)
    fit = kernelfit.find_kernel(image, target, (6, 7), origin=origin, operation=operation)
    best = fit.recognise()[0]
    assert best.name == "sobel" and best.parameters["axis"].value == 1
    assert "shift_rows" not in best.parameters
    np.testing.assert_allclose(best.kernel, fit.kernel, atol=1e-3)
    made = eval(best.calls["scipy"], {"scipy": __import__("scipy.ndimage"), "image": image, "kernel": best.kernel})
    np.testing.assert_allclose(made[9:-9, 9:-9], ndimage.sobel(image, 1)[9:-9, 9:-9], atol=1e-9)
    lone = eval(
        {"convolution": "convolve", "correlation": "correlate"}[operation] + "(image, kernel, origin=o)",
        {
            "convolve": ndimage.convolve,
            "correlate": ndimage.correlate,
            "image": image,
            "kernel": best.kernel,
            "o": (-2, 1) if operation == "convolution" else (1, -2),
        },
    )
    np.testing.assert_allclose(lone[9:-9, 9:-9], made[9:-9, 9:-9], atol=1e-9)


@pytest.mark.parametrize(
    ("kernel", "covariance", "level", "match"),
    [
        (np.ones(3), None, 1e-3, "rows and columns"),
        (np.full((2, 3), np.nan), None, 1e-3, "finite"),
        (np.ones((2, 3)), np.ones((2, 2)), 1e-3, r"covariance of shape \(2, 2\) for 6 taps"),
        (np.ones((2, 3)), -1.0, 1e-3, "negative variances"),
        (np.ones((2, 3)), None, 1.0, "level=1.0"),
    ],
)
def test_what_cannot_be_is_refused(kernel, covariance, level, match):
    with pytest.raises(ValueError, match=match):
        kernelfit.recognise(kernel, covariance, level=level)


def test_a_fit_has_its_own_covariance():
    image = np.random.default_rng(1).normal(size=(20, 21))
    fit = kernelfit.find_kernel(image, image, (1, 3))
    with pytest.raises(ValueError, match="beside a fit"):
        kernelfit.recognise(fit, 1.0)


@pytest.mark.parametrize("size", [5, 7, 9])
def test_opencv_of_8_bits_makes_gaussians_of_256_parts(size):
    cv2 = pytest.importorskip("cv2")
    spot = np.zeros((1, 41), np.uint8)
    spot[0, 20] = 255
    for sigma in (0.9, 1.31, 2.2):
        taps = np.array(filter_shapes.opencv_bell(size, sigma))
        made = cv2.GaussianBlur(spot, (size, 1), sigma)[0, 20 - size // 2 : 21 + size // 2]
        np.testing.assert_array_equal(np.rint(taps * 255 / 256), made)


def test_pillow_makes_gaussians_of_three_boxes():
    pillow = pytest.importorskip("PIL.Image")
    from PIL import ImageFilter

    step = np.repeat(np.repeat(np.array([[0, 255]], np.uint8), 20, axis=1), 5, axis=0)
    for sigma in (0.7, 1.3, 2.6):
        made = np.asarray(pillow.fromarray(step).filter(ImageFilter.GaussianBlur(sigma)))[2]
        profile = filter_shapes.pillow_bell(np.arange(-12.0, 13), sigma)
        assert profile.sum() == pytest.approx(1)
        expected = np.convolve(step[2].astype(float), profile, mode="same")
        assert np.abs(made - expected)[12:-12].max() <= 1.5


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_calls_of_scipy_and_scikit_image_and_opencv_make_the_kernel(case):
    best = best_of(case)
    image = np.random.default_rng(0).normal(size=(50, 61))
    expected = kernelfit.apply_kernel(image, best.kernel, boundary="symm")
    names = {"numpy": np, "scipy": __import__("scipy.ndimage"), "image": image, "kernel": best.kernel}
    calls = dict(best.calls)
    for tool, module in (("opencv", "cv2"), ("scikit-image", "skimage")):
        try:
            names[module] = __import__(module)
        except ImportError:
            calls.pop(tool, None)
    if "skimage" in names:
        import skimage.filters
        import skimage.morphology  # noqa: F401
    calls.pop("pillow", None)
    for tool, call in calls.items():
        if "#" in call:  # roughly
            continue
        made = eval(call, names)
        np.testing.assert_allclose(made[15:-15, 15:-15], expected[15:-15, 15:-15], atol=2e-3, err_msg=f"{tool} {call}")


@pytest.mark.parametrize(
    "verb", [kernelfit.recognise, kernelfit.separable, kernelfit.measure_psf, kernelfit.compare_kernels]
)
@pytest.mark.parametrize("kernel", ["gaussian", np.ones((2, 3)) * 1j, [[1.0], [2.0, 3.0]], None], ids=repr)
def test_what_is_no_kernel_is_refused(verb, kernel):
    if verb is kernelfit.compare_kernels and isinstance(kernel, np.ndarray):
        kernel = np.full((2, 3), np.nan)  # complex ones are compared
    arguments = (kernel, np.ones((2, 3))) if verb is kernelfit.compare_kernels else (kernel,)
    with pytest.raises((TypeError, ValueError), match=r"got .*(kernel|first).*[,;] need"):
        verb(*arguments)


def test_numbers_that_are_none_are_refused():
    kernel = np.outer([1.0, 2], [1.0, 3, 1])
    assert kernelfit.separable(kernel, np.int64(1)).rank == 1
    for rank in (True, 1.5, "1"):
        with pytest.raises(TypeError, match="got rank=.*, need a whole number"):
            kernelfit.separable(kernel, rank)
    with pytest.raises(TypeError, match="got level='a', need one real number"):
        kernelfit.recognise(kernel, level="a")
    fit = kernelfit.find_kernel(np.arange(50.0) ** 0.5, np.arange(50.0), 3)
    with pytest.raises(ValueError, match="of one dimension, need two for 'scipy'"):
        fit.export("scipy")


@grid("length, angle", [(7.822, -36.83), (8.887, -21.89), (6.573, -54.23)], 3)
def test_a_line_is_found_from_its_moments(length, angle):
    """A Gaussian that begins in another direction ends in another place."""
    line = filter_shapes.line(Grid(SHAPE, (6.0, 7.0)), length, angle, "rotated")
    best = recognised(line)[0]
    assert best.name == "motion"
    for name, truth in (("length", length), ("angle", angle)):
        value, error = best.parameters[name]
        assert abs(value - truth) < 4 * error < 0.1


def rounded_half_up(image, taps):
    """What tools of 8 bits make of a filter."""
    return np.clip(np.floor(ndimage.convolve(image, taps, mode="nearest") + 0.5), 0, 255).astype(np.uint8)


def gray(rows, cols, seed, fine=4):
    """A picture of 8 bits, smooth as photographs are, so that errors of rounding depend on it."""
    rng = np.random.default_rng(seed)
    rough = sum(w * ndimage.gaussian_filter(rng.normal(size=(rows, cols)), s) * s for s, w in ((1, fine), (4, 90)))
    return np.clip(np.rint(128 + rough), 20, 235)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_errors_of_rounding_hide_no_filter(seed):
    image = gray(331, 290, seed)
    detail = np.array([[0, -1, 0], [-1, 10, -1], [0, -1, 0]])
    fit = kernelfit.find_kernel(image, rounded_half_up(image, detail / 6), (5, 7), background=0)
    assert fit.rounding == pytest.approx(12**-0.5) and fit.noise_std < 1.1 * fit.rounding
    best = fit.recognise()[0]
    assert best.name == "sharpen" and abs(best.parameters["amount"].value - 1 / 6) < 0.01
    whole = fit.as_integers()
    # of halves that are rounded up other kernels, with another constant, make the same target to the pixel
    assert whole.denominator == 6 and whole.probability < 0.5
    np.testing.assert_array_equal(whole.numerators[1:4, 2:5], detail)


@pytest.mark.slow
def test_a_filter_that_rounds_half_way_is_named():
    image = made = gray(331, 290, 3, fine=20)
    box = np.ones((1, 3)) / 3
    for taps in (box, box, box, box.T, box.T, box.T):  # as Pillow does at a sigma of sqrt(2)
        made = np.floor(ndimage.convolve(made, taps, mode="nearest") + 0.5)
    fit = kernelfit.find_kernel(image, made.astype(np.uint8), (9, 11), background=0, errors="sandwich")
    best = fit.recognise()[0]
    assert best.name == "gaussian" and abs(best.parameters["sigma"].value - math.sqrt(2)) < 0.01
    exact = kernelfit.find_kernel(image, made, (9, 11), background=0, errors="sandwich")
    assert exact.rounding == 0.0 and not any(c.name == "gaussian" for c in exact.recognise())


def test_beside_a_prior_counts_what_the_data_say(tmp_path):
    rng = np.random.default_rng(5)
    image = rng.random((60, 70))
    target = ndimage.gaussian_filter(image, (0.9, 1.2)) + rng.normal(0, 0.003, image.shape)
    plain, fit = (kernelfit.find_kernel(image, target, (9, 11), solver=one) for one in (None, "auto"))
    assert fit.uncertainty == "posterior" and not np.allclose(fit.kernel, plain.kernel, atol=1e-4)
    best, expected = fit.recognise()[0], plain.recognise()[0]
    assert best.name == expected.name == "gaussian" and abs(best.chi_square / expected.chi_square - 1) < 0.02
    assert_close(best.parameters["sigma_rows"].value, expected.parameters["sigma_rows"].value, 1e-6)
    fit.save(tmp_path / "kernel.npz")
    assert str(kernelfit.KernelFit.load(tmp_path / "kernel.npz").recognise()[0]) == str(best)
    blend = kernelfit.find_kernel(image, np.zeros_like(image), (9, 11), solver="auto")
    assert blend.recognise() == ()


@pytest.mark.slow
def test_a_summary_does_not_look_for_pairs_of_filters():
    kernel = response(lambda x: ndimage.uniform_filter(ndimage.gaussian_filter(x, 1.3), 5))
    image = np.random.default_rng(6).random((70, 80))
    fit = kernelfit.find_kernel(image, ndimage.convolve(image, kernel), SHAPE, solver=None)
    assert recognition.in_words(fit) == ""
    assert fit.recognise()[0].name == "box then gaussian"


@pytest.mark.slow
def test_as_many_numbers_as_taps_are_no_name():
    """A soft disc that may move, of one sum, can be nearly any four taps."""
    rng = np.random.default_rng(8)
    for _ in range(4):
        kernel = np.zeros((4, 5))
        kernel[1:3, 2:4] = unit(rng.random((2, 2)))
        assert recognised(kernel) == ()
    kernel[1:3, 2:4] = np.outer([0.3, 0.7], [0.6, 0.4])
    assert recognised(kernel)[0].name == "shift"


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [1.4])
def test_intervals_hold_what_rounding_half_way_does(sigma):
    pillow = pytest.importorskip("PIL.Image")
    from PIL import ImageFilter

    image = gray(301, 270, 5, fine=20).astype(np.uint8)
    made = np.asarray(pillow.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
    fit = kernelfit.find_kernel(image, made, (11, 13), background=0, errors="sandwich")
    best = fit.recognise()[0]
    assert best.name == "gaussian"
    for value, error in best.parameters.values():  # one sigma, or those of rows and columns
        assert abs(value - sigma) < 1.96 * error < 0.25


def test_how_rounding_widens_intervals():
    """By what chi-square tells, or along one number alone; 0.95 of a normal distribution lies within 1.96."""
    last = Rounding(doubt=200.0, n_pixels=10000, excess=1.0)
    assert last.widened(1.2, "", None) == last.widened(1.2, "boxes", 1.5) == pytest.approx(1.2)
    assert last.widened(0.8, "", None) == 1.0
    boxes = Rounding(0.0, 10000, 2.0)
    assert boxes.widened(1.0, "", None) == 1.0
    half = 0.5 * 10000 / 1.96**2  # half of the noise is that of rounding half way
    assert boxes.widened(1.0, "boxes", 0.5) == pytest.approx(1 + half, rel=1e-3)
    assert boxes.widened(1.0, "boxes", None) == pytest.approx(1 + 0.35**2 * half, rel=1e-3)
    assert boxes.widened(1.0, "radius", None) == pytest.approx(1 + 0.15**2 * half, rel=1e-3)
    assert boxes.widened(1.0, "box", None) == pytest.approx(1 + 0.08**2 * half, rel=1e-3)
    assert boxes._replace(smoothed=True).widened(1.0, "", None) == pytest.approx(1 + half, rel=1e-3)
    assert boxes.widened(1.0, "table", 1.0) == pytest.approx(1 + 64 / 1.96**2, rel=1e-3)
    assert boxes.widened(1.0, "", 0.5) == boxes.widened(1.0, "table", 0.5) == 1.0


@pytest.mark.slow
def test_errors_of_rounding_that_are_as_good_as_random_widen_no_interval():
    """A number of a rounded target has the error that it has beside noise of the same variance."""
    image = photograph(200, 231, 1).astype(float)
    exact = ndimage.gaussian_filter(image, 0.9)
    noise = np.random.default_rng(0).normal(0, 12**-0.5, exact.shape)
    rounded, plain = (
        kernelfit.find_kernel(image, target, (9, 11), background=0).recognise()[0].parameters["sigma"]
        for target in (np.rint(exact).astype(np.uint8), exact + noise)
    )
    assert abs(rounded.value - 0.9) < 3 * rounded.error
    assert_close(rounded.error, plain.error, 0.12)


def test_what_rounding_makes_of_whole_numbers():
    """Of 0 and +-1 half a number is none: NumPy rounds halves to even numbers."""
    d = np.arange(-20, 21)
    weights = np.exp(-0.5 * (d / 3.0) ** 2)
    for amount in (0.3, 0.5, 0.51, 1.02, 1.7):
        factor, variance = of_whole_steps(np.array([amount]), 3.0)
        made = np.rint(amount * d)
        assert factor[0] == pytest.approx(np.polyfit(d, made, 1, w=np.sqrt(weights))[0], rel=1e-3)
        assert variance[0] == pytest.approx(12 * np.average((made - amount * d) ** 2, weights=weights), rel=1e-3)
    (less, more), _ = of_whole_steps(np.array([0.49, 0.51]), 1.0)
    assert less < 0.47 and more > 0.53


@pytest.mark.slow
@pytest.mark.parametrize(("sigma", "amount"), [(0.877, 0.507), (1.42, 0.494), (1.8, 0.33), (1.23, 1.503), (1.03, 1.03)])
def test_amounts_near_fractions_have_intervals_that_hold_what_rounding_makes_of_them(sigma, amount):
    """OpenCV's unsharp mask of 8 bits: half of small differences, or a little more, is the same."""
    cv2 = pytest.importorskip("cv2")
    for seed in range(3):
        image = photograph(270, 251, seed)
        target = cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (0, 0), sigma), -amount, 0)
        best = kernelfit.find_kernel(image, target, (15, 13), background=0).recognise()[0]
        value, error = best.parameters["amount"]
        assert best.name == "unsharp mask" and abs(value - amount) < 2.5 * error < 0.1
        value, error = best.parameters["radius"]
        assert abs(value - sigma) < max(0.02, 3 * error)
        assert error == 0  # of a table: no boxes of Pillow's


@pytest.mark.slow
@pytest.mark.parametrize(("sigma", "shape"), [(1.45, (11, 13)), ((1.7, 0.8), (13, 9))])
def test_a_gaussian_that_fits_has_no_other_width_for_what_the_shape_cuts_off(sigma, shape):
    """Taps of the rim hold what lies beyond, which chi-square hardly tells, but a width of so small an error does."""
    image = photograph(330, 341, 3).astype(float)
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(0, 0.1, image.shape)
        target = ndimage.gaussian_filter(image, sigma) + noise
        best = kernelfit.find_kernel(image, target, shape, background=0).recognise()[0]
        assert best.name == "gaussian" and len(best.parameters) == np.size(sigma)
        for (value, error), truth in zip(best.parameters.values(), np.ravel(sigma), strict=True):
            assert abs(value - truth) < 3.5 * error < 0.01


@pytest.mark.slow
def test_where_both_gaussians_are_cut_off_is_sought_again():
    """Of widths that fit a wrong cut, the right one looks worse."""
    low, high, gain = 0.6781703424769039, 1.220706616458427, 7.8454
    image = photograph(245, 251, 254).astype(float)
    exact = gain * (ndimage.gaussian_filter(image, low) - ndimage.gaussian_filter(image, high))
    for seed in range(4):
        target = 128 + exact + np.random.default_rng(seed).normal(0, 12**-0.5, image.shape)
        best = kernelfit.find_kernel(image, np.rint(target), (15, 15), background=0).recognise()[0]
        assert best.name == "difference of gaussians"
        for key, truth in (("sigma_low", low), ("sigma_high", high)):
            value, error = best.parameters[key]
            assert abs(value - truth) < 4 * error


def test_families_are_even_or_odd_as_they_say():
    """Turned about the centre by 180 degrees."""
    seen, hint = set(), Hint(1.3, 1.6, 1.1, 20.0, (2, 3))
    for place in (Grid((7, 9), (3.0, 4.0)), Grid((8, 7), (3.5, 2.5))):
        opposite = [np.rint(2 * c).astype(int) - np.arange(n) for c, n in zip(place.center, place.shape, strict=True)]
        inside = [(at >= 0) & (at < n) for at, n in zip(opposite, place.shape, strict=True)]
        turned = np.ix_(*(at[on] for at, on in zip(opposite, inside, strict=True)))
        for family in (*table.SINGLES, *table.CASCADES[:: 3 if inside[1].all() else 99]):
            for setting, theta in list(family.starts(place, hint))[:60] if family.parity else ():
                seen.add(family.parity)
                taps = family.taps(place, setting, np.array(theta))
                assert np.allclose(taps[turned], family.parity * taps[np.ix_(*inside)], atol=1e-9)
    assert seen == {1, -1}


def test_a_shift_by_whole_pixels_along_one_axis_is_named():
    """Four taps along the other axis, of three numbers: zeros elsewhere tell one of them."""
    kernel = np.zeros((7, 9))
    kernel[2:6, 5] = filter_shapes.cubic(np.arange(-1.0, 3.0) - 0.3, -0.75)
    best = recognised(kernel)[0]
    assert best.name == "shift" and best.parameters["cols"].value == pytest.approx(1.0, abs=1e-3)
    assert best.parameters["rows"].value == pytest.approx(0.3, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.86, 1.34])
def test_where_a_filter_is_cut_off_is_sought_before_it_is_given_up(sigma):
    """Of a Laplacian of a Gaussian known to 1e-5, with a gain: a wrong cut leaves a chi-square of thousands."""
    kernel = 9.8 * response(lambda x: ndimage.gaussian_laplace(x, sigma), (17, 19))
    best = kernelfit.recognise(kernel, (2e-5 * np.abs(kernel).max()) ** 2)[0]
    assert best.name == "laplacian of gaussian" and best.parameters["sigma"].value == pytest.approx(sigma, abs=1e-3)


@pytest.mark.slow
def test_a_profile_is_named_whose_nearest_start_is_cut_off_too_early():
    y, x = np.mgrid[-7:8, -7:8]
    kernel = unit((1 + (y**2 + x**2) / 1.8744**2) ** -3.9823)
    best = kernelfit.recognise(kernel, 1e-12)[0]
    assert best.name == "moffat" and best.parameters["beta"].value == pytest.approx(3.9823, abs=1e-2)


@pytest.mark.parametrize(("sigma", "box", "error"), [(0.7, 3, 3e-6), (0.7, 3, 3e-5), (1.1, 3, 3e-5), (0.9, 5, 3e-6)])
def test_an_identity_of_no_weight_does_not_stand_before_a_filter(sigma, box, error):
    """Of a box and a Gaussian, the second known so well that each is a start of its own."""
    kernel = response(lambda x: ndimage.uniform_filter(ndimage.gaussian_filter(x, sigma), box), (15, 15))
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(0, error, kernel.shape)
        best = kernelfit.recognise(kernel + noise, error**2)[0]
        assert best.name == "box then gaussian" and set(best.parameters) == {"rows", "cols", "sigma"}
        assert abs(best.parameters["sigma"].value - sigma) < 4 * best.parameters["sigma"].error


def photograph(rows, cols, seed):
    """A picture of 8 bits whose spectrum falls as those of photographs do."""
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(np.random.default_rng(seed).normal(size=(rows, cols)))
    picture = np.fft.irfft2(spectrum / frequency, s=(rows, cols))
    return np.clip(np.rint(128 + 28 / picture.std() * picture), 0, 255).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [1.2, 1.395])
def test_gaussians_cut_off_early_are_named(sigma):
    """OpenCV's of seven taps: of a picture, whose slow changes are known much better than its details."""
    places = np.arange(-3.0, 4)
    taps = unit(np.exp(-(places[:, None] ** 2 + places**2) / (2 * sigma**2)))
    for seed in range(3):
        image = photograph(289, 310, seed).astype(float)
        target = ndimage.convolve(image, taps) + np.random.default_rng((seed, 1)).normal(0, 0.5, image.shape)
        best = kernelfit.find_kernel(image, target, (15, 15), background=0).recognise()[0]
        value, error = best.parameters["sigma"]
        assert best.name == "gaussian" and abs(value - sigma) < 4 * error < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("sigma", "rows"), [(0.3, 300), (0.5, 300), (0.5, 700), (0.7, 700), (1.5, 300), (1.5, 700)])
def test_gaussians_of_pillow_have_the_plain_name(sigma, rows):
    """Six roundings are noise that hangs together with the image: chi-square says so, and the identity stays out."""
    pillow = pytest.importorskip("PIL.Image")
    from PIL import ImageFilter

    image = photograph(rows, rows + 40, 7)
    made = np.asarray(pillow.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
    fit = kernelfit.find_kernel(image, made, (13, 15), background=0)
    best = fit.recognise()[0]
    assert best.name == "gaussian" and set(best.parameters) == {"sigma"}
    assert best.chi_square < best.dof + 4 * math.sqrt(2 * best.dof) and best.p_value > 1e-3
    assert abs(best.parameters["sigma"].value - sigma) < 2 * best.parameters["sigma"].error < 0.1
    assert fit.nearest().name == "gaussian"


# ---- two pictures of 8 bits, and nothing else given ------------------------------------------------------------------

EMBOSS = np.array([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]])


def as_bytes(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def of_pillow(name, *numbers):
    def made(image):
        pil, filters = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageFilter")
        chosen = getattr(filters, name)
        return np.asarray(pil.fromarray(image).filter(chosen(*numbers) if numbers else chosen))

    return made


def of_opencv(name, *arguments):
    return lambda image: getattr(pytest.importorskip("cv2"), name)(image, *arguments)


#: What makes the target, what the name begins with, and numbers of it, as closely as they have to be told.
TOOLS = {
    "BLUR": (of_pillow("BLUR"), "square ring", {}),
    "SMOOTH": (of_pillow("SMOOTH"), "identity plus box", {"weight": (9 / 13, 0.01)}),
    "SMOOTH_MORE": (of_pillow("SMOOTH_MORE"), "smooth more", {}),
    "SHARPEN": (of_pillow("SHARPEN"), "sharpen", {"amount": (1 / 8, 1e-3)}),
    "DETAIL": (of_pillow("DETAIL"), "sharpen", {"amount": (1 / 6, 1e-3)}),
    "EDGE_ENHANCE": (of_pillow("EDGE_ENHANCE"), "sharpen", {"amount": (1 / 2, 1e-3)}),
    "EMBOSS": (of_pillow("EMBOSS"), "emboss", {}),
    "CONTOUR": (of_pillow("CONTOUR"), "laplacian", {"neighbours": (8, 0)}),
    "UnsharpMask": (of_pillow("UnsharpMask", 3, 80, 0), "unsharp mask", {"radius": (3, 0.2), "amount": (0.8, 0.12)}),
    "GaussianBlur": (of_pillow("GaussianBlur", 2.7), "gaussian", {"sigma": (2.7, 0.06)}),
    "blur": (of_opencv("blur", (3, 5)), "box", {"rows": (5, 0), "cols": (3, 0)}),
    "GaussianBlur of 5": (of_opencv("GaussianBlur", (5, 5), 0), "binomial", {}),
    "GaussianBlur of 1.5": (of_opencv("GaussianBlur", (0, 0), 1.5), "gaussian", {"sigma": (1.5, 0)}),
    "filter2D": (of_opencv("filter2D", -1, EMBOSS), "emboss", {}),
    "motion": (of_opencv("filter2D", -1, np.eye(9) / 9), "motion", {"angle": (-45, 0.1)}),
    "sobel": (lambda a: as_bytes(128 + ndimage.sobel(a.astype(float), 0) / 8), "sobel", {"axis": (0, 0)}),
    "scharr": (
        lambda a: as_bytes(128 + ndimage.convolve(a.astype(float), np.outer([1, 0, -1], [3, 10, 3])) / 32),
        "scharr",
        {"axis": (0, 0)},
    ),
    "laplace": (lambda a: as_bytes(128 + ndimage.laplace(a.astype(float)) / 4), "laplacian", {"neighbours": (4, 0)}),
    "log": (lambda a: as_bytes(128 + 9 * ndimage.gaussian_laplace(a.astype(float), 1.4)), "laplacian of gaussian",
            {"sigma": (1.4, 0.01)}),
    "gaussian": (lambda a: as_bytes(ndimage.gaussian_filter(a.astype(float), 2.0)), "gaussian", {"sigma": (2, 0.02)}),
    "cut off between passes": (lambda a: ndimage.gaussian_filter(a, 1.0), "gaussian", {"sigma": (1, 0.05)}),
    "uniform": (lambda a: ndimage.uniform_filter(a, 5), "box", {"rows": (5, 0), "cols": (5, 0)}),
    "shift": (lambda a: as_bytes(ndimage.shift(a.astype(float), (1.3, -0.6), order=1)), "shift", {"rows": (1.3, 0.01)}),
}  # fmt: skip


@grid("case", list(TOOLS), 4)
def test_filters_of_tools_are_named_in_summary_report_and_nearest(case):
    apply, name, numbers = TOOLS[case]
    image = photograph(331, 290, 7)
    fit = kernelfit.find_kernel(image, apply(image), solver="auto")  # as the command line does
    line = next(line for line in fit.summary().splitlines() if line.startswith("filter"))
    assert line.removeprefix("filter").strip().split(" ", 1)[1].startswith(name)
    best = fit.nearest()
    assert best.name == name and str(best) in line
    for key, (value, near) in numbers.items():
        assert abs(best.parameters[key].value - value) <= near, (key, best)
    if case in ("SHARPEN", "gaussian"):
        assert str(best).replace("+-", "±") in report_html(fit, image, apply(image))


@grid("channels", ["separate", "shared", "mixed"], 1)
def test_each_channel_has_its_name_in_a_summary(channels):
    image = np.stack([photograph(160, 171, seed) for seed in range(3)], axis=-1)
    target = as_bytes(ndimage.gaussian_filter(image.astype(float), (1.3, 1.3, 0)))
    fit = kernelfit.find_kernel(image, target, (9, 11), channels=channels, channel_axis=-1, solver="auto")
    lines = [line for line in fit.summary().splitlines() if re.search(r"a gaussian of sigma 1\.(29|30)", line)]
    assert len(lines) == (1 if channels == "shared" else 3)
    expected = {"shared": "a gaussian", "separate": "channel 0: a gaussian", "mixed": "channel 0 from channel 0: a"}
    assert lines[0].startswith(f"filter      {expected[channels]}")


def test_a_profile_that_may_be_a_gaussian_is_no_moffat():
    """Of a beta that cannot be told from none, or lies at the end of those that are sought."""
    kernel = unit((1 + RADIUS**2 / (2 * 300 * 1.8**2)) ** -300.0)
    for error in (ERROR, 1e-7):
        assert not any("moffat" in one.name for one in kernelfit.recognise(kernel, error**2))
    few = unit((1 + RADIUS**2 / 6.0) ** -3.0)
    assert kernelfit.recognise(few, 1e-10)[0].name == "moffat"


@grid("sigma", [1.6, 2.4, 3.1], 1)
def test_of_filters_that_say_the_same_the_usual_one_is_told(sigma):
    """Nine taps do not tell a Gaussian from an Airy disc or a Lorentzian."""
    taps = response(gaussian(sigma, radius=1), (5, 7))
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(0, 3e-4, taps.shape)
        best = kernelfit.recognise(taps + noise, 9e-8)[0]
        assert (
            best.name == "gaussian" and abs(best.parameters["sigma"].value - sigma) < 4 * best.parameters["sigma"].error
        )


def test_the_simplest_number_between_two():
    assert [families.simplest(*ends) for ends in ((1.46, 1.53), (1.6, 1.71), (1.2301, 1.2379))] == [1.5, 1.7, 1.234]


def test_what_a_prior_hides_of_rounding_is_in_the_errors():
    """Errors of rounding that follow the image move the kernel of least squares, too."""
    image = gray(200, 231, 4, fine=1)
    target = as_bytes(128 + ndimage.sobel(image, 0) / 8)
    plain, fit = (kernelfit.find_kernel(image, target, (3, 5), background=0, solver=one) for one in (None, "auto"))
    assert any("follow the image" in note for note in plain.notes)
    assert_close(np.linalg.norm(without_prior(fit).stderr), np.linalg.norm(plain.stderr), 0.3)


@pytest.mark.parametrize(
    ("length", "degrees", "kind", "error", "seed"),
    [(7.2355, 59.2142, "rotated", 3.5485e-4, 8), (5.2387, -0.9117, "pixel", 2.2672e-4, 51),
     (6.8836, -40.2996, "rotated", 8.0886e-4, 56)],
)  # fmt: skip
def test_the_length_of_a_line_holds_what_lines_of_another_kind_say(length, degrees, kind, error, seed):
    """A row of ones that was turned is, within errors, one that falls off with the distance and is shorter."""
    kernel = filter_shapes.line(Grid(SHAPE, (6.0, 7.0)), length, degrees, kind)
    noise = error * np.random.default_rng(seed).standard_normal(SHAPE)
    best = kernelfit.recognise(kernel + noise, error**2)[0]
    assert best.name == "motion"
    assert abs(best.parameters["length"].value - length) < 2.5 * best.parameters["length"].error < 0.3
    assert best.parameters["angle"].value == pytest.approx(degrees, abs=4 * best.parameters["angle"].error)


def test_numbers_of_another_meaning_widen_no_interval():
    """A Laplacian of eight neighbours is half one of four and half one of diagonals, whose amount counts otherwise."""
    kernel = -np.ones((3, 3)) / 8
    kernel[1, 1] = 2.0
    best = kernelfit.recognise(np.pad(kernel, ((1, 1), (2, 2))) + noisy(np.zeros((5, 7)))[0], ERROR**2)[0]
    assert best.name == "sharpen" and 0 < best.parameters["amount"].error < ERROR


@pytest.mark.parametrize(("sigma", "shape"), [(1.6, (9, 9)), (1.9, (11, 9))])
def test_a_gaussian_is_named_that_the_shape_cuts_off(sigma, shape):
    """The taps of the rim hold what lies beyond it, so that no Gaussian fits all of them."""
    image = photograph(160, 180, 3).astype(float)
    target = ndimage.gaussian_filter(image, sigma) + np.random.default_rng(1).normal(0, 0.5, image.shape)
    fit = kernelfit.find_kernel(image, target, shape)
    best = fit.recognise()[0]
    assert best.name == "gaussian" and best.kernel.shape == shape and set(best.parameters) == {"sigma"}
    assert abs(best.parameters["sigma"].value - sigma) < 4 * best.parameters["sigma"].error < 0.02
    assert best.distance < 0.1 and re.match(r"scipy.ndimage.gaussian_filter\(image, [\d.]+\)$", best.calls["scipy"])


def test_random_kernels_without_a_rim_of_zeros_have_no_name():
    rng = np.random.default_rng(0)
    for _ in range(12):
        kernel = rng.random(rng.integers(6, 10, 2))
        assert not kernelfit.recognise(*noisy(kernel / kernel.sum()))


@pytest.mark.parametrize(("name", "apply"), [
    ("gaussian", lambda a: ndimage.gaussian_filter(a, 1.3)), ("box", lambda a: ndimage.uniform_filter(a, (3, 5))),
])  # fmt: skip
def test_a_filter_of_bytes_that_cuts_decimals_off_is_named(name, apply):
    """SciPy's of 8 bits lose half a level in each pass, which a kernel without a constant can only follow."""
    image = np.ascontiguousarray(photograph(220, 250, 4))
    fit = kernelfit.find_kernel(image, apply(image), (11, 13))
    assert fit.verdict is kernelfit.Verdict.OFFSET
    best = fit.recognise()[0]
    assert best.name == name and "gain" not in best.parameters
    for key, truth in {"gaussian": {"sigma": 1.3}, "box": {"rows": 3, "cols": 5}}[name].items():
        assert best.parameters[key].value == pytest.approx(truth, abs=0.004)


def test_a_filter_beside_black_that_is_left_out_is_named():
    """Where much is cut off at black more is rounded up than down, and the sum of the taps is off."""
    pil, image_filter = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageFilter")
    image = np.clip(photograph(220, 250, 5).astype(float) - 110, 0, 255).astype(np.uint8)
    target = np.asarray(pil.fromarray(image).filter(image_filter.SHARPEN))
    fit = kernelfit.find_kernel(image, target, (5, 7))
    assert abs(fit.kernel.sum() - 1) > 1e-4
    assert fit.recognise()[0].name == "sharpen"


def test_a_width_between_the_first_ones_is_found():
    """A kernel known so well that a start which is off by a tenth, and cut off elsewhere, is given up."""
    kernel = response(lambda a: ndimage.gaussian_laplace(a, 1.593), (19, 17))
    error = 2e-5 * np.abs(kernel).max()
    noise = error * np.random.default_rng(0).standard_normal(kernel.shape)
    best = kernelfit.recognise(kernel + noise, error**2)[0]
    assert best.name == "laplacian of gaussian"
    assert abs(best.parameters["sigma"].value - 1.593) < 4 * best.parameters["sigma"].error < 1e-3
