"""Restoring an image: exact where that is possible, near the best balance, no frame that rings."""

import dask.array as da
import h5py
import numpy as np
import pytest
import scipy.signal
import skimage.data
import skimage.restoration
import zarr

from kernelfit import apply_kernel, deconvolve

CAMERA = skimage.data.camera()[:, :480] / 255.0


def gaussian(rows, cols, sigma):
    y, x = np.mgrid[:rows, :cols]
    kernel = np.exp(-((y - (rows - 1) / 2) ** 2 + (x - (cols - 1) / 2) ** 2) / (2 * sigma**2))
    return kernel / kernel.sum()


def psnr(found, truth):
    return -10 * np.log10(np.mean((found - truth) ** 2))


def blurred(kernel, noise=0.01, seed=0):
    target = scipy.signal.convolve(CAMERA, kernel, mode="valid")
    target += np.random.default_rng(seed).normal(0, noise * CAMERA.std(), target.shape)
    half = [k // 2 for k in kernel.shape]
    return CAMERA[half[0] : -half[0], half[1] : -half[1]], target


@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize(
    "shape, origin", [((3, 5), None), ((4, 2), None), ((2, 3), (0, 2)), ((1, 4), (0, 3)), ((1, 1), None)]
)
def test_periodic_images_come_back(shape, origin, operation):
    rng = np.random.default_rng(0)
    image, kernel = rng.random((30, 41)), 0.2 * rng.random(shape)
    kernel[0, -1] += 2.0
    target = apply_kernel(image, kernel, boundary="wrap", origin=origin, operation=operation)
    found = deconvolve(target, kernel, boundary="wrap", origin=origin, operation=operation, balance=0)
    np.testing.assert_allclose(found, image, rtol=0, atol=1e-11)


@pytest.mark.parametrize("penalty", ["laplacian", "identity"])
def test_division_is_the_plain_formula(penalty):
    rng = np.random.default_rng(1)
    target, kernel = rng.random((20, 27)), rng.random((3, 4))
    placed = np.zeros(target.shape)
    placed[:3, :4] = kernel
    transfer = np.fft.fft2(np.roll(placed, (-1, -1), (0, 1)))
    laplacian = np.zeros(target.shape)
    for at, value in (((0, 0), 4), ((1, 0), -1), ((-1, 0), -1), ((0, 1), -1), ((0, -1), -1)):
        laplacian[at] = value
    q = np.abs(np.fft.fft2(laplacian)) ** 2 if penalty == "laplacian" else np.ones(target.shape)
    power = np.abs(transfer) ** 2
    expected = np.fft.ifft2(transfer.conj() * np.fft.fft2(target) / (power + 0.3 * power.mean() * q / q.mean())).real
    found = deconvolve(target, kernel, balance=0.3, boundary="wrap", penalty=penalty)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma, noise", [(1.0, 0.01), (1.5, 0.01), (2.5, 0.05)])
def test_the_balance_is_near_the_best(sigma, noise):
    kernel = gaussian(9, 9, sigma)
    image, target = blurred(kernel, noise)
    found = psnr(deconvolve(target, kernel), image)
    best = max(psnr(deconvolve(target, kernel, balance=b), image) for b in 10.0 ** np.arange(-6, 3.1, 0.5))
    assert found > best - 0.3
    assert found > psnr(target, image) + 1
    theirs = max(
        psnr(skimage.restoration.wiener(target, kernel, b, clip=False), image) for b in 10.0 ** np.arange(-4, 1.1, 0.5)
    )
    assert found > theirs


def test_no_frame_rings():
    """The error at the edges is not much larger than inside."""
    kernel = gaussian(9, 7, 1.5)
    image, target = blurred(kernel)
    error = (deconvolve(target, kernel) - image) ** 2
    inside = np.sqrt(error[20:-20, 20:-20].mean())
    for edge in (error[:8], error[-8:], error[:, :8], error[:, -8:]):
        assert np.sqrt(edge.mean()) < 2 * inside


def test_dtypes_and_inputs():
    kernel = gaussian(5, 4, 1.0)
    target = apply_kernel(CAMERA[:90, :120], kernel, boundary="nearest")
    single = target.astype(np.float32)
    copy = single.copy()
    single.setflags(write=False)
    found = deconvolve(single, kernel)
    assert found.dtype == np.float32 and (single == copy).all() and found.shape == target.shape
    np.testing.assert_allclose(found, deconvolve(single.astype(float), kernel), atol=2e-3)
    eight = (target * 255).astype(np.uint8)
    assert deconvolve(eight, kernel).dtype == np.float64
    assert (deconvolve(target, kernel, workers=1) == deconvolve(target, kernel, workers=2)).all()


@pytest.mark.parametrize("target", [np.zeros((30, 24)), np.full((30, 24), 2.5)])
@pytest.mark.parametrize("balance", ["auto", 0])
@pytest.mark.filterwarnings("error")
def test_flat_targets(target, balance):
    kernel = np.ones((2, 3)) / 6  # its transform has zeros
    for boundary in (None, "wrap"):
        found = deconvolve(target, kernel, balance=balance, boundary=boundary)
        np.testing.assert_allclose(found, target, rtol=0, atol=1e-9)


def test_kernel_larger_than_the_image():
    assert np.isfinite(deconvolve(CAMERA[:20, :13], gaussian(31, 25, 3.0))).all()


@pytest.mark.parametrize(
    "arguments, keywords, error, match",
    [
        ((CAMERA, np.zeros((3, 3))), {}, ValueError, "zero everywhere"),
        ((CAMERA, np.full((3, 3), np.nan)), {}, ValueError, "got kernel with 9 NaN"),
        ((np.full((9, 9), np.inf), np.ones((3, 3))), {}, ValueError, "got target with 81 NaN"),
        ((CAMERA, np.ones((3, 3))), {"boundary": "fill"}, ValueError, "boundary='fill'"),
        ((CAMERA, np.ones((3, 3))), {"penalty": "tv"}, ValueError, "penalty='tv'"),
        ((CAMERA, np.ones((3, 3))), {"balance": -1}, ValueError, "balance=-1"),
        ((CAMERA, np.ones((3, 3))), {"origin": 3}, ValueError, "origin=3"),
        ((CAMERA[0], np.ones((3, 3))), {}, ValueError, "1 dimensions"),
        ((CAMERA, np.ones((3, 3), dtype=complex)), {}, TypeError, "kernel of dtype complex"),
    ],
)
def test_bad_input_is_named(arguments, keywords, error, match):
    with pytest.raises(error, match=match):
        deconvolve(*arguments, **keywords)


def test_stored_images_and_kernels_are_read_like_others(tmp_path):
    rng = np.random.default_rng(0)
    target, kernel = rng.normal(size=(50, 61)), rng.normal(size=(3, 5))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        images = [
            file.create_dataset("chunked", data=target, chunks=(16, 20)),
            file.create_dataset("whole", data=target),
            zarr.array(target, chunks=(16, 20)),
            da.from_array(target, chunks=(16, 20)),
        ]
        kernels = [file.create_dataset("kernel", data=kernel), zarr.array(kernel, chunks=(2, 2)), da.from_array(kernel)]
        for call in (deconvolve, apply_kernel):
            expected = call(target, kernel)
            for image in images:
                np.testing.assert_array_equal(call(image, kernel), expected)
            for taps in kernels:
                np.testing.assert_array_equal(call(target, taps), expected)
