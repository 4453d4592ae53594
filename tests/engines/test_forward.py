"""Kernel -> target: apply_kernel against plain loops and scipy, and the dot test that ties it to accumulate."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
import naive
from helpers import assert_close, scipy_targets
from kernelfit import accumulate, apply_kernel


def test_equals_plain_loops_and_scipy(scene):
    target = apply_kernel(scene.image, scene.kernel, **scene.forward)
    assert target.dtype == np.float64
    assert_close(target, scene.exact_target, 1e-13, "loops")
    for name, expected in scipy_targets(scene, scene.image, scene.kernel):
        assert_close(target, expected, 1e-13, name)


@pytest.mark.parametrize("operation, signal, ndimage", [
    ("convolution", scipy.signal.convolve2d, scipy.ndimage.convolve),
    ("correlation", scipy.signal.correlate2d, scipy.ndimage.correlate),
])  # fmt: skip
@pytest.mark.parametrize("shape", [(5, 3), (4, 7), (3, 6), (2, 8), (1, 5), (6, 1)], ids=str)
def test_the_centre_of_each_library(shape, operation, signal, ndimage):
    """The default origin is scipy.signal's; scipy.ndimage's is side // 2: they part on even sides."""
    rng = np.random.default_rng(1)
    image, kernel = rng.normal(size=(23, 31)), rng.normal(size=shape)
    assert_close(apply_kernel(image, kernel, operation=operation), signal(image, kernel, mode="same"), 1e-13)
    centre = (shape[0] // 2, shape[1] // 2)
    here = apply_kernel(image, kernel, operation=operation, origin=centre, boundary="mirror")
    assert_close(here, ndimage(image, kernel, mode="mirror"), 1e-13)


@pytest.mark.parametrize("mode, boundary", [("full", "fill"), ("valid", "fill"), ("same", "wrap"), ("full", "symm")])
def test_larger_images(mode, boundary):
    rng = np.random.default_rng(2)
    image, kernel = rng.normal(size=(180, 333)), rng.normal(size=(6, 9))
    expected = scipy.signal.convolve2d(image, kernel, mode=mode, boundary=boundary, fillvalue=-2.0)
    assert_close(apply_kernel(image, kernel, mode=mode, boundary=boundary, fillvalue=-2.0), expected, 1e-13)


def test_defaults_are_convolve2d_same_with_zeros():
    rng = np.random.default_rng(3)
    image, kernel = rng.normal(size=(19, 12)), rng.normal(size=(4, 3))
    assert_close(apply_kernel(image, kernel), scipy.signal.convolve2d(image, kernel, mode="same"), 1e-14)


def test_a_delta_moves_the_image_without_rounding():
    image = np.random.default_rng(4).normal(size=(17, 24))
    kernel = np.zeros((5, 6))
    kernel[1, 5] = 1.0
    moved = apply_kernel(image, kernel, boundary="wrap", origin=(2, 3))
    np.testing.assert_array_equal(moved, np.roll(image, (-1, 2), axis=(0, 1)))
    moved = apply_kernel(image, kernel, boundary="wrap", origin=(2, 3), operation="correlation")
    np.testing.assert_array_equal(moved, np.roll(image, (1, -2), axis=(0, 1)))


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">f4", "float16", "bool"])
def test_any_real_type_and_unchanged(dtype):
    rng = np.random.default_rng(5)
    image = rng.integers(0, 2 if dtype == "bool" else 200, size=(40, 57)).astype(dtype)[::2, ::-1]
    image.setflags(write=False)
    kernel = rng.normal(size=(3, 4))
    kernel.setflags(write=False)
    before = image.copy(), kernel.copy()
    target = apply_kernel(image, kernel, boundary="symm")
    assert_close(target, scipy.signal.convolve2d(image.astype(float), kernel, mode="same", boundary="symm"), 1e-14)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(kernel, before[1])


def test_any_number_of_workers_gives_the_same_bits():
    rng = np.random.default_rng(6)
    image, kernel = rng.normal(size=(500, 333)), rng.normal(size=(5, 4))
    alone = apply_kernel(image, kernel, workers=1)
    for workers in (2, 3, 5):
        np.testing.assert_array_equal(apply_kernel(image, kernel, workers=workers), alone)


def test_dot_test(scene):
    """<A k, y> == <k, A'y> and |A k|^2 == k'G k: the forward operator is the transpose of what accumulate sums."""
    kernel, y = scene.kernel, scene.rng("dot").normal(size=scene.target_shape)
    _, used = scene.design
    forward = apply_kernel(scene.image, kernel, **scene.forward)[used]
    taps = kernel.ravel()
    for method in ("direct", "fft"):
        stats = accumulate(scene.image, y, scene.shape, method=method, **scene.convention)
        difference = forward @ y[used] - taps @ stats.moment
        assert abs(difference) <= 1e-12 * np.linalg.norm(forward) * np.linalg.norm(y[used])
        scale = np.abs(taps) @ np.abs(stats.gram) @ np.abs(taps)
        assert abs(forward @ forward - taps @ stats.gram @ taps) <= 1e-12 * scale


@pytest.mark.parametrize("operation", ["convolution", "correlation"])
def test_predict_knows_what_is_undetermined(operation):
    """boundary=None: NaN exactly where the footprint leaves the image, the value elsewhere."""
    rng = np.random.default_rng(7)
    image, kernel = rng.normal(size=(18, 25)), rng.normal(size=(4, 3))
    target = apply_kernel(image, kernel, boundary="nearest", operation=operation)
    fit = kernelfit.find_kernel(image, target, (4, 3), operation=operation)
    _, used = naive.design_dense(image, (4, 3), mode="same", boundary=None, operation=operation)
    assert used.sum() == (18 - 3) * (25 - 2)
    for array in (fit.predict(image), fit.residual(image, target)):
        assert array.shape == target.shape
        np.testing.assert_array_equal(np.isnan(array), ~used)
    np.testing.assert_allclose(fit.predict(image)[used], target[used], rtol=0, atol=1e-11)
    np.testing.assert_allclose(fit.residual(image, target)[used], 0.0, rtol=0, atol=1e-11)


def test_residual_is_target_minus_prediction():
    rng = np.random.default_rng(8)
    image, target = rng.normal(size=(2, 18, 25))
    fit = kernelfit.find_kernel(image, target, (2, 3), boundary="wrap")
    residual = fit.residual(image, target)
    np.testing.assert_allclose(
        residual, target - scipy.signal.convolve2d(image, fit.kernel, "same", "wrap"), rtol=0, atol=1e-13
    )
    assert fit.rss == pytest.approx((residual**2).sum(), rel=1e-12)


def test_predict_takes_another_image():
    """A fit is a filter: it applies to an image of any size under its own convention."""
    rng = np.random.default_rng(9)
    image, other, kernel = rng.normal(size=(30, 21)), rng.normal(size=(17, 44)), rng.normal(size=(3, 4))
    fit = kernelfit.find_kernel(image, apply_kernel(image, kernel, boundary="symm"), (3, 4), boundary="symm")
    assert_close(fit.predict(other), scipy.signal.convolve2d(other, kernel, "same", "symm"), 1e-11)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(3, 4), (9, 11)], ids=str)
@pytest.mark.parametrize("stride", [1, (2, 3)])
def test_a_bad_pixel_spoils_what_it_lies_under_and_nothing_else(shape, bad, stride):
    rng = np.random.default_rng(6)
    image, kernel = rng.normal(size=(41, 150)), rng.normal(size=shape)
    spoiled = image.copy()
    spoiled[[0, 20, 20], [7, 60, 149]] = bad
    keywords = {"boundary": "symm", "stride": stride}
    found = apply_kernel(spoiled, kernel, **keywords)
    under = apply_kernel(np.where(spoiled == image, 0.0, 1.0), np.ones(shape), **keywords) > 0.5
    assert 0 < under.sum() < under.size / 2
    np.testing.assert_array_equal(np.isnan(found), under)
    assert_close(found[~under], apply_kernel(image, kernel, **keywords)[~under], 1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5), (1, 7)])
def test_a_kernel_that_is_not_finite_is_refused(shape, bad):
    """One such tap would make all pixels NaN."""
    kernel, channels = np.ones(shape), {"channel_axis": -1} if len(shape) == 3 else {}
    kernel[..., 0, 4] = bad
    image = np.ones((9, 11, 2)) if channels else np.ones((9, 11))
    with pytest.raises(ValueError, match=r"got kernel with . of .* NaN or infinite, the first at .*0, 4.*nan_to_num"):
        kernelfit.apply_kernel(image, kernel, **channels)
    assert np.isfinite(kernelfit.apply_kernel(image, np.nan_to_num(kernel, posinf=0.0), **channels)).all()
