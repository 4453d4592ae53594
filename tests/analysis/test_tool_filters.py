"""Filters as tools make them, with what is their own: sizes, tables, places; and the calls that make them again."""

import itertools

import numpy as np
import pytest
import scipy.ndimage as ndimage

import kernelfit
from kernelfit.analysis import filter_shapes as shapes
from kernelfit.analysis.filter_shapes import Grid

SHAPE = (15, 13)


def picture(seed=0, shape=(180, 230)):
    """Return a picture of 8 bits with edges and grain, that is never black or white."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 4)
    edges = np.where(smooth > 0, 30.0, -30.0) + 150 * smooth
    return np.clip(np.rint(128 + edges + rng.normal(0, 8, shape)), 20, 235).astype(np.uint8)


def named(kernel, error=3e-4, seed=0, shape=None):
    """Return the best name of taps with errors, in a shape that is wider."""
    wide = np.zeros(shape or np.add(kernel.shape, (2, 4)))
    rows, cols = ((a - b) // 2 for a, b in zip(wide.shape, kernel.shape, strict=True))
    wide[rows : rows + kernel.shape[0], cols : cols + kernel.shape[1]] = kernel
    rng = np.random.default_rng(seed)
    return kernelfit.recognise(wide + error * rng.standard_normal(wide.shape), error**2)


def assert_within(best, numbers):
    for key, truth in numbers.items():
        value, error = best.parameters[key]
        assert abs(value - truth) <= 4 * error + 1e-9, (key, best.parameters[key])


@pytest.mark.parametrize(
    ("sigmas", "reach"),
    [
        ((1.36, 1.21), (2, 3)),
        ((1.02, 1.35), (2, 3)),
        ((1.19, 1.06), (2, 3)),
        ((1.2, 1.45), (4, 2)),
        ((1.4, 1.3), (1, 5)),
    ],
)
def test_a_gaussian_cut_off_at_two_places_is_named(sigmas, reach):
    image = picture(0).astype(float)
    target = ndimage.gaussian_filter(image, sigmas, radius=reach)
    noise = np.random.default_rng(1).normal(0, 0.2, target.shape)
    (best, *_) = kernelfit.find_kernel(image, target + noise, SHAPE).recognise()
    assert best.name == "gaussian"
    assert_within(best, {"sigma_rows": sigmas[0], "sigma_cols": sigmas[1]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "sigmas"), [((0, 0), (1.63, 1.11)), ((7, 5), (1.3, 0.9)), ((5, 9), (1.2, 1.2)), ((7, 1), (1.1, 1.1))]
)
def test_opencv_of_8_bits_with_two_sizes_or_widths(size, sigmas):
    cv2 = pytest.importorskip("cv2")
    image = picture(1)
    target = cv2.GaussianBlur(image, size, sigmas[1], sigmaY=sigmas[0])
    (best, *_) = kernelfit.find_kernel(image, target, SHAPE).recognise()
    assert best.name == "gaussian"
    np.testing.assert_array_equal(eval(best.calls["opencv"], {"cv2": cv2, "image": image}), target)


@pytest.mark.slow
@pytest.mark.parametrize("radius", [(0.9, 1.7), (2.0, 1.1), (1.5, 1.3)])
def test_pillow_with_two_widths(radius):
    pillow = pytest.importorskip("PIL.Image")
    from PIL import ImageFilter

    image = picture(2)
    target = np.asarray(pillow.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
    fit = kernelfit.find_kernel(image, target, SHAPE, errors="sandwich")
    (best, *_) = fit.recognise()
    assert best.name == "gaussian"
    assert_within(best, {"sigma_cols": radius[0], "sigma_rows": radius[1]})


@pytest.mark.parametrize(("axis", "shape"), [(0, SHAPE), (1, SHAPE), (1, (1, 13)), (0, (15, 1))])
def test_a_gaussian_along_one_axis_has_its_calls(axis, shape):
    image = picture(3).astype(float)
    target = ndimage.gaussian_filter1d(image, 1.3, axis=axis)
    noise = np.random.default_rng(4).normal(0, 0.5, target.shape)
    (best, *_) = kernelfit.find_kernel(image, target + noise, shape).recognise()
    assert (best.name, best.parameters["axis"].value) == ("gaussian", axis)
    assert_within(best, {"sigma": 1.3})
    made = eval(best.calls["scipy"], {"scipy": __import__("scipy.ndimage"), "image": image})
    assert np.abs(made - target)[12:-12, 12:-12].max() < 0.1


@pytest.mark.parametrize("side", [7, 9])
def test_opencv_has_tables_for_sizes_without_a_sigma(side):
    cv2 = pytest.importorskip("cv2")
    image = picture(5).astype(float)
    target = cv2.GaussianBlur(image, (side, side), 0)
    noise = np.random.default_rng(6).normal(0, 0.2, target.shape)
    (best, *_) = kernelfit.find_kernel(image, target + noise, SHAPE).recognise()
    np.testing.assert_array_equal(eval(best.calls["opencv"], {"cv2": cv2, "image": image}), target)


ANGLES = (30.0, 45.0, -60.0, 12.0, 77.5)


@pytest.mark.parametrize(("side", "degrees"), list(itertools.product((7, 9, 13), ANGLES)))
def test_rows_are_turned_as_tools_do(side, degrees):
    row = np.zeros((side, side))
    row[side // 2] = 1
    place = Grid((side, side), (side // 2, side // 2))
    expected = {"scipy": ndimage.rotate(row, degrees, reshape=False, order=1)}
    cv2 = pytest.importorskip("cv2")
    matrix = cv2.getRotationMatrix2D((side // 2, side // 2), degrees, 1)
    expected["opencv"] = cv2.warpAffine(row, matrix, (side, side))
    pillow = pytest.importorskip("PIL.Image")
    expected["pillow"] = pillow.fromarray(row.astype(np.float32)).rotate(degrees, pillow.Resampling.BILINEAR)
    for tool, taps in expected.items():
        own = shapes.turned_row(place, side, degrees, tool)
        np.testing.assert_allclose(own, np.asarray(taps) / np.sum(taps), atol=1e-7, err_msg=tool)


@pytest.mark.parametrize(("tool", "degrees"), [("opencv", 30.0), ("opencv", -61.5), ("scipy", 45.0), ("pillow", 70.0)])
def test_rows_that_tools_turned_are_motion(tool, degrees):
    taps = shapes.turned_row(Grid((11, 11), (5.0, 5.0)), 9, degrees, tool)
    (best, *_) = named(taps)
    assert best.name == "motion"
    assert best.parameters["length"].value in (9, 11)  # Pillow's 9 has the taps of another 11
    assert_within(best, {"angle": degrees})


@pytest.mark.parametrize("sides", [(5, 5), (9, 5), (7, 11)])
def test_an_ellipse_is_that_of_opencv(sides):
    cv2 = pytest.importorskip("cv2")
    drawn = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, sides[::-1]).astype(float)
    np.testing.assert_allclose(named(drawn / drawn.sum())[0].kernel[1:-1, 2:-2], drawn / drawn.sum())
    assert named(drawn / drawn.sum())[0].name == "ellipse"


@pytest.mark.parametrize("order", [(2, 0), (0, 2), (1, 1), (0, 1)])
def test_derivatives_of_a_gaussian_have_their_order(order):
    spot = np.zeros((17, 15))
    spot[8, 7] = 1
    taps = ndimage.gaussian_filter(spot, 1.3, order=order, mode="constant")
    (best, *_) = named(taps)
    assert best.name == "gaussian derivative"
    assert_within(best, {"sigma": 1.3})
    made = eval(best.calls["scipy"], {"scipy": __import__("scipy.ndimage"), "image": spot})
    assert np.abs(made - taps).max() < 1e-3


@pytest.mark.parametrize(
    ("taps", "name", "numbers"),
    [
        (np.array([[1.0, 2, 1], [2, -12, 2], [1, 2, 1]]) * 0.7, "laplacian", {"alpha": 1 / 3, "gain": 0.7}),
        (
            np.pad(0.6 * shapes.line(Grid((9, 11), (4.0, 5.0)), 7.3, 30.0, "rotated"), 1)
            + 0.7 * np.pad([[1.0]], ((5, 5), (6, 6))),
            "identity plus motion",
            {"identity": 0.7, "weight": 0.6, "length": 7.3, "angle": 30},
        ),
    ],
)
def test_what_stands_beside_the_identity(taps, name, numbers):
    (best, *_) = named(taps, 2e-4)
    assert best.name == name
    assert_within(best, numbers)


def test_the_scale_of_a_filter_beside_the_identity_is_in_its_weight():
    image = picture(10)
    target = ndimage.convolve(image.astype(int), np.array([[-1, -1, -1], [0, 1, 0], [1, 1, 1]]))
    (best, *others) = kernelfit.find_kernel(image, target, SHAPE).recognise()
    assert (best.name, others) == ("identity plus prewitt", [])
    assert "scale" not in best.parameters
    assert_within(best, {"weight": -1})
    assert best.parameters["weight"].error < 1e-3


def test_chance_puts_no_derivative_beside_an_identity():
    """Of many filters one explains a little of the errors."""
    spot = np.pad([[1.0]], ((5, 5), (6, 6)))
    for seed in (51, 68, 152, 174):  # drawn of 250, where one of them explained ten of chi-square
        assert named(spot, 2e-4, seed)[0].name == "identity"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("gaussian", "cross", "gaussian then sharpen"),
        ("gaussian", "unsharp", "gaussian then unsharp mask"),
        ("gaussian", "ring", "ring then gaussian"),
        ("gaussian", "exponential", "exponential then gaussian"),
        ("gaussian", "shift", "shift then gaussian"),
        ("box", "disc", "disc then box"),
        ("box", "binomial", "binomial then box"),
        ("box", "unsharp", "box then unsharp mask"),
        ("box", "airy", "airy then box"),
        ("box", "moffat", "moffat then box"),
        ("box", "motion", "motion then box"),
    ],
)
def test_two_filters_one_after_the_other(first, second, name):
    place = Grid((13, 13), (6.0, 6.0))
    r = shapes.radius(place)
    seconds = {
        "cross": lambda a: a - ndimage.laplace(a),
        "unsharp": lambda a: a + 1.1 * (a - ndimage.gaussian_filter(a, 1.3)),
        "shift": lambda a: ndimage.shift(a, (0.3, -0.4), order=1),
    } | {
        key: lambda a, k=k: ndimage.convolve(a, k / k.sum())
        for key, k in {
            "ring": ((r > 1) & (r <= 3)) * 1.0,
            "disc": (r <= 3) * 1.0,
            "exponential": np.exp(-r / 1.2),
            "binomial": np.outer([1, 2, 1], [1.0, 2, 1]),
            "airy": shapes.airy(r, 3.0),
            "moffat": shapes.moffat(r, 2.0, 3.0),
            "motion": shapes.line(place, 6.0, 30.0, "rotated"),
        }.items()
    }
    spot = np.zeros((21, 23))
    spot[10, 11] = 1.0
    blurred = ndimage.gaussian_filter(spot, 1.0) if first == "gaussian" else ndimage.uniform_filter(spot, (3, 5))
    (best, *_) = named(seconds[second](blurred), 5e-5, shape=(21, 23))
    assert best.name == name


def test_calls_of_a_stride_are_those_of_their_place():
    image = picture(7).astype(float)
    target = ndimage.gaussian_filter(image, 0.8)[1::2, 1::2]
    noise = np.random.default_rng(8).normal(0, 0.5, target.shape)
    (best, *_) = kernelfit.find_kernel(image, target + noise, (13, 11), stride=2).recognise()
    assert best.name == "gaussian"
    names = {"scipy": __import__("scipy.ndimage"), "image": image, "kernel": best.kernel}
    assert np.abs(eval(best.calls["scipy"], names) - target)[8:-8, 8:-8].max() < 0.3


@pytest.mark.parametrize(("method", "fine"), [("BILINEAR", False), ("BICUBIC", False), ("BILINEAR", True)])
def test_shifts_of_pillow_and_opencv(method, fine):
    pillow, cv2 = pytest.importorskip("PIL.Image"), pytest.importorskip("cv2")
    image = picture(9)
    rows, cols = (0.71875, -0.46875) if fine else (0.713, -0.459)
    way = pillow.Resampling[method]
    made = pillow.fromarray(image)
    target = np.asarray(made.transform(made.size, pillow.Transform.AFFINE, (1, 0, -cols, 0, 1, -rows), way))
    (best, *_) = kernelfit.find_kernel(image, target, SHAPE).recognise()
    assert best.name == "shift"
    names = {"cv2": cv2, "numpy": np, "Image": pillow}
    again = np.asarray(eval(best.calls["pillow"], {**names, "image": made}), dtype=int)
    assert np.abs(again - target)[9:-9, 9:-9].max() <= 1
    own = eval(best.calls["opencv"], {**names, "image": image.astype(float), "kernel": best.kernel})
    assert np.abs(own - target)[9:-9, 9:-9].max() < 1.2
    assert ("warpAffine" in best.calls["opencv"]) is fine


def test_pillow_cuts_negative_results_off():
    taps = np.array([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
    assert "cut off" in named(taps)[0].calls["pillow"]
    assert "cut off" not in named(np.full((3, 3), 1 / 9))[0].calls["pillow"]
