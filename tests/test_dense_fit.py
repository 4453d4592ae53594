"""The dense matrix against scipy's own convolutions: every mode, boundary, origin and operation."""

import itertools

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import dense_fit as dense

NDIMAGE = {"fill": "constant", "wrap": "grid-wrap", "symm": "reflect", "mirror": "mirror", "nearest": "nearest"}
SHAPES = [(3, 5), (4, 3), (1, 6), (5, 2)]
IMAGE = np.random.default_rng(0).random((11, 14))


def applied(kernel, **convention):
    """The target that the matrix makes of a kernel."""
    scene = dense.Scene([IMAGE], [None], kernel.shape, **convention)
    fill = convention.get("fillvalue", 0.0)
    made = dense.patches(IMAGE, scene, fill, convention.get("boundary")) @ kernel.ravel()
    return made, dense.inside(IMAGE, scene)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize("mode", ["same", "valid", "full"])
@pytest.mark.parametrize("boundary", ["fill", "wrap", "symm"])
def test_signal(shape, operation, mode, boundary):
    kernel = np.random.default_rng(1).random(shape)
    ours, _ = applied(kernel, mode=mode, boundary=boundary, fillvalue=0.7, operation=operation)
    call = scipy.signal.convolve2d if operation == "convolution" else scipy.signal.correlate2d
    theirs = call(IMAGE, kernel, mode=mode, boundary=boundary, fillvalue=0.7)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize("boundary", list(NDIMAGE))
def test_ndimage(shape, operation, boundary):
    kernel = np.random.default_rng(2).random(shape)
    call = scipy.ndimage.convolve if operation == "convolution" else scipy.ndimage.correlate
    for origin in itertools.product(range(shape[0]), range(shape[1])):
        ours, _ = applied(kernel, boundary=boundary, fillvalue=0.7, origin=origin, operation=operation)
        # ndimage counts from the middle, n // 2
        shift = [o - n // 2 for o, n in zip(origin, shape, strict=True)]
        theirs = call(IMAGE, kernel, mode=NDIMAGE[boundary], cval=0.7, origin=shift)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("mode", ["same", "full"])
@pytest.mark.parametrize("operation", ["convolution", "correlation"])
def test_no_boundary_is_the_valid_part(mode, operation):
    kernel = np.random.default_rng(3).random((4, 3))
    valid, every = applied(kernel, mode="valid", operation=operation)
    ours, used = applied(kernel, mode=mode, operation=operation)
    assert every.all()
    assert used.sum() == valid.size
    np.testing.assert_allclose(ours[used], valid.ravel(), rtol=1e-12)


def test_stride_keeps_every_so_many_pixels():
    kernel = np.random.default_rng(4).random((3, 5))
    whole, _ = applied(kernel, boundary="mirror")
    some, _ = applied(kernel, boundary="mirror", stride=(3, 2), offset=(1, 0))
    np.testing.assert_allclose(some, whole[1::3, ::2], rtol=1e-14)


def test_differences_are_those_of_the_padded_kernel():
    kernel = np.random.default_rng(5).random((3, 5))
    wide = np.pad(kernel, 1)
    squares = np.sum(np.diff(wide, axis=0) ** 2) + np.sum(np.diff(wide, axis=1) ** 2)
    assert np.sum((dense.differences((3, 5)) @ kernel.ravel()) ** 2) == pytest.approx(squares, rel=1e-12)


def test_a_kernel_comes_back_through_everything_that_excludes():
    rng = np.random.default_rng(6)
    kernel, image = rng.random((3, 4)), rng.random((20, 23))
    target = scipy.signal.convolve2d(image, kernel, mode="same") + 2.0 + 0.5 * np.linspace(-1, 1, 20)[:, None]
    bad = rng.random(image.shape) < 0.03
    spoilt, mask = np.where(bad, np.nan, image), rng.random(target.shape) < 0.1
    broken = np.where(mask, 1e6, target)
    broken[4, 5], broken[7, 8] = np.nan, 40.0
    settings = {"background": 1, "mask": [mask], "nan": "mask", "saturated": (None, 40.0), "boundary": "fill"}
    (system,) = dense.systems(dense.Scene([spoilt], [broken], (3, 4), **settings))
    taps = dense.least_squares(*dense.reduced(system))
    np.testing.assert_allclose(taps.reshape(3, 4), kernel, rtol=1e-9)
    np.testing.assert_allclose(dense.background(system, taps), [2.0, 0.0, 0.5], atol=1e-9)
    touched = scipy.ndimage.convolve(bad.astype(float), np.ones((3, 4)), mode="constant", origin=(0, -1)) > 0.5
    counted = ~touched & ~mask
    counted[4, 5] = counted[7, 8] = False
    assert len(system.values) == counted.sum()


@pytest.mark.parametrize("channels", ["shared", "mixed"])
def test_what_noise_of_the_image_adds_is_the_sum_over_its_pixels(channels):
    rng = np.random.default_rng(7)
    images, targets = rng.random((2, 9, 12, 2)), rng.random((2, 9, 12, 2))
    settings = {"weights": list(rng.random((2, 9, 12)) + 0.5), "background": 1, "boundary": "symm"}
    scene = dense.Scene(list(images), list(targets), (2, 3), channel_axis=-1, channels=channels, **settings)
    system = dense.systems(scene)[0]
    root = np.sqrt(system.weights)[:, None]
    basis = np.linalg.qr(system.surface * root)[0]
    expected = 0.0
    for label in np.unique(system.labels):
        one = (system.labels == label) * root
        one = one - basis @ (basis.T @ one)
        expected = expected + one.T @ one
    whole = dense.reduced(system)[0]
    rest = dense.without_image_noise(system, 1e-3)[0]
    np.testing.assert_allclose(whole.T @ whole - rest.T @ rest, 1e-3 * expected, rtol=1e-8, atol=1e-10)
