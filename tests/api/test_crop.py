"""Targets of a size of their own, cut from anywhere, or larger than the image."""

import numpy as np
import pytest

import kernelfit
import naive
from helpers import assert_close

IMAGE, SHAPE = (21, 26), (3, 4)
CASES = [  # size of the target, origin
    ((12, 9), (4, 9)),  # inside
    ((12, 13), (-2, -1)),  # beyond the first row and column
    ((30, 35), (1, 2)),  # beyond the last
    ((33, 37), (-5, -6)),  # all round
    ((21, 26), (-5, 8)),  # as large, moved
]


@pytest.mark.parametrize(("size", "origin"), CASES)
@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize("boundary", [None, "fill", "symm"])
@pytest.mark.parametrize(("stride", "offset"), [((1, 1), (0, 0)), ((2, 1), (1, 0))])
def test_a_crop_is_what_the_definition_says(size, origin, operation, boundary, stride, offset):
    if stride == (2, 1):
        size, origin = (size[0] // 2, size[1]), (origin[0] // 2, origin[1])
    if operation == "correlation":
        origin = tuple(k - 1 - o for k, o in zip(SHAPE, origin, strict=True))
    rng = np.random.default_rng(0)
    image, target = rng.normal(size=IMAGE), rng.normal(size=size)
    words = {"mode": "crop", "boundary": boundary, "fillvalue": 0.5, "origin": origin, "operation": operation}
    words |= {"stride": stride, "offset": offset}
    matrix, used = naive.design_dense(image, SHAPE, size=size, **words)
    fit = kernelfit.find_kernel(image, target, SHAPE, **words)
    assert fit.n_pixels == used.sum() == len(matrix)
    assert_close(fit.kernel.ravel(), np.linalg.lstsq(matrix, target[used], rcond=None)[0])
    expected = matrix @ fit.kernel.ravel()
    assert_close(fit.predict(image)[used], expected)
    assert np.isnan(fit.predict(image)[~used]).all()
    assert fit.convention.size == size and f"of {size[0]}x{size[1]}" in str(fit.convention)
    if boundary is not None:
        assert_close(kernelfit.apply_kernel(image, fit.kernel, size=size, **words)[used], expected)
    again = kernelfit.find_kernel(image, target, SHAPE, **fit.convention.keywords())
    assert np.array_equal(again.kernel, fit.kernel)


def test_a_crop_is_kept_in_a_file(tmp_path):
    rng = np.random.default_rng(1)
    image = rng.normal(size=IMAGE)
    fit = kernelfit.find_kernel(image, image[5:17, 8:19], (2, 3), mode="crop", origin=(6, 9))
    fit.save(tmp_path / "fit.npz")
    assert kernelfit.KernelFit.load(tmp_path / "fit.npz").convention == fit.convention
    assert fit.kernel[1, 1] == pytest.approx(1.0) and np.abs(fit.kernel).sum() == pytest.approx(1.0)


def test_what_is_refused():
    image = np.random.default_rng(2).random(IMAGE)
    with pytest.raises(ValueError, match="cannot determine"):
        kernelfit.find_kernel(image, image[:9, :9], SHAPE, mode="crop", origin=(100, 0))
    for words in ({"mode": "crop"}, {"mode": "same", "size": (3, 4)}):
        with pytest.raises(ValueError, match="need a size for mode='crop'"):
            kernelfit.apply_kernel(image, np.ones(SHAPE), **words)
