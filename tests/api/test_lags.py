"""Windows of lags that do not hold 0: the origin outside the kernel."""

import numpy as np
import pytest

import kernelfit
import naive
from helpers import assert_close
from kernelfit import find_kernel

SHAPE, ORIGIN = (3, 5), (-4, 9)


def pair(boundary, operation="convolution", stride=(1, 1), offset=(0, 0), noise=0.01):
    rng = np.random.default_rng(1)
    image, kernel = rng.normal(0.3, 1.0, (31, 38)), rng.normal(size=SHAPE)
    words = dict(mode="same", origin=ORIGIN, operation=operation, stride=stride, offset=offset)
    matrix, used = naive.design_dense(image, SHAPE, boundary=boundary or "wrap", **words)
    target = np.zeros(used.shape)
    target[used] = matrix @ kernel.ravel()
    return image, kernel, target + noise * rng.normal(size=target.shape), {"boundary": boundary, **words}


@pytest.mark.parametrize("boundary", [None, "fill", "wrap", "symm", "mirror", "nearest"])
@pytest.mark.parametrize("stride, offset, operation", [
    ((1, 1), (0, 0), "convolution"), ((1, 1), (0, 0), "correlation"), ((2, 3), (1, 2), "convolution"),
])  # fmt: skip
def test_it_is_dense_least_squares(boundary, stride, offset, operation):
    image, _, target, words = pair(boundary, operation, stride, offset)
    matrix, used = naive.design_dense(image, SHAPE, **words)
    expected = np.linalg.lstsq(matrix, target[used], rcond=None)[0]
    fit = find_kernel(image, target, SHAPE, **words)
    assert_close(fit.kernel.ravel(), expected, 1e-10)
    assert fit.n_pixels == used.sum() and fit.convention.origin == ORIGIN
    model = np.full(used.shape, np.nan)
    model[used] = matrix @ expected
    predicted = fit.predict(image)
    np.testing.assert_array_equal(np.isnan(predicted), ~used)
    assert_close(predicted[used], model[used], 1e-9)


@pytest.mark.parametrize("words, tolerance", [
    ({"method": "cg"}, 0.02), ({"method": "wiener"}, 0.1), ({"robust": "huber"}, 0.02), ({"background": 1}, 0.02),
    ({"mask": np.indices((31, 38)).sum(axis=0) % 7 == 0}, 0.02), ({"solver": "auto"}, 0.02),
])  # fmt: skip
def test_with_other_settings(words, tolerance):
    image, kernel, target, convention = pair("wrap")
    fit = find_kernel(image, target, SHAPE, **convention, **words)
    assert np.linalg.norm(fit.kernel - kernel) < tolerance * np.linalg.norm(kernel)


@pytest.mark.parametrize("mode, operation, rows, cols", [
    ("same", "convolution", [4, 5, 6], [-9, -8, -7, -6, -5]),
    ("same", "correlation", [-4, -5, -6], [9, 8, 7, 6, 5]),
    ("valid", "convolution", [-2, -1, 0], [-4, -3, -2, -1, 0]),
    ("full", "correlation", [2, 1, 0], [4, 3, 2, 1, 0]),
])  # fmt: skip
def test_lags_are_those_of_the_arrays(mode, operation, rows, cols):
    """target[t] holds k[p] image[t - lag[p]]: an image of one bright pixel shows the kernel at the lags."""
    image, kernel = np.random.default_rng(2).normal(size=(20, 27)), np.arange(1.0, 16.0).reshape(SHAPE)
    words = {"mode": mode, "operation": operation, "boundary": "fill", "origin": ORIGIN if mode == "same" else None}
    fit = find_kernel(image, kernelfit.apply_kernel(image, kernel, **words), SHAPE, **words)
    assert [list(lags) for lags in fit.lags] == [rows, cols]
    spike = np.zeros((20, 27))
    spike[10, 13] = 1.0
    shown = kernelfit.apply_kernel(spike, kernel, **words)
    assert_close(shown[np.ix_(10 + fit.lags[0], 13 + fit.lags[1])], kernel, 1e-12)


@pytest.mark.slow
def test_what_takes_a_fit_takes_it(tmp_path):
    image, kernel, target, words = pair("wrap")
    fit = find_kernel(image, target, SHAPE, **words)
    fit.save(tmp_path / "fit.npz")
    again = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    assert again.convention == fit.convention
    wide = find_kernel(image, target, (5, 8), **{**words, "origin": (-3, 11)})
    assert not kernelfit.compare_kernels(fit, wide).differ
    down = fit.lags[0] @ fit.kernel.sum(axis=1) / fit.kernel.sum()
    assert fit.psf().shift_rows.value == pytest.approx(down)
    assert "origin (-4, 9)" in fit.summary() and "rect" in fit._repr_html_()
    restored = kernelfit.deconvolve(target, fit.kernel, boundary="wrap", origin=ORIGIN, balance=1e-6)
    assert np.corrcoef(restored.ravel(), image.ravel())[0, 1] > 0.95
    stats = kernelfit.accumulate(image, target, (5, 8), **{**words, "origin": (-3, 11)})
    support = kernelfit.choose_support(stats)
    assert (support.shape, support.corner) == (SHAPE, (1, 2)) and support.stats.convention.origin == ORIGIN


def test_a_window_beyond_the_image_is_refused():
    image, _, target, words = pair(None)
    with pytest.raises(ValueError, match="0 interior pixels"):
        find_kernel(image, target, SHAPE, **{**words, "origin": (-40, 0)})
