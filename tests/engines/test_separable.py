"""Kernels of few columns and rows: the same numbers as SciPy's direct sums, whatever is chosen."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
from helpers import assert_close
from kernelfit.compiled.separable import correlate_separable
from kernelfit.engines import forward


@pytest.mark.parametrize(("stride", "sides"), [((1, 1), (5, 7)), ((2, 3), (4, 3)), ((3, 1), (1, 6)), ((1, 2), (7, 1))])
def test_loops_are_the_sum_of_the_products(stride, sides):
    rng = np.random.default_rng(0)
    block, columns, rows = rng.normal(size=(31, 52)), rng.normal(size=(2, sides[0])), rng.normal(size=(2, sides[1]))
    expected = scipy.signal.correlate(block, columns.T @ rows, mode="valid", method="direct")
    expected = expected[:: stride[0], :: stride[1]]
    out, pad = np.full(expected.shape, np.nan), 3 * stride[0]
    padded = np.pad(columns, ((0, 0), (pad, pad)))
    lines = np.zeros(5 * 52 + 64)
    correlate_separable(block.ravel(), 52, padded, rows, *stride, out.reshape(-1), 0, out.shape[1], *out.shape, lines)
    assert_close(out, expected, 1e-13)


def test_columns_and_rows_are_found_where_there_are_few():
    rng = np.random.default_rng(1)
    whole = np.outer([1.0, 2, 1], [1.0, 4, 6, 4, 1])
    columns, rows = forward.columns_and_rows(whole)
    assert len(columns) == 1
    np.testing.assert_array_equal(columns.T @ rows, whole)
    taps = rng.normal(size=(31, 2)) @ rng.normal(size=(2, 29))
    columns, rows = forward.columns_and_rows(taps)
    assert len(columns) == 2
    assert_close(columns.T @ rows, taps, 1e-14)
    assert forward.columns_and_rows(rng.normal(size=(31, 29))) is None
    columns, rows = forward.columns_and_rows(np.zeros((3, 5)))
    assert not (columns.T @ rows).any()


@pytest.mark.parametrize("boundary", ["fill", "wrap", "mirror"])
def test_apply_kernel_gives_the_same_either_way(boundary, monkeypatch):
    rng = np.random.default_rng(2)
    image = rng.normal(size=(270, 310))
    image[40, 50] = np.nan
    kernel = rng.normal(size=(6, 1)) @ rng.normal(size=(1, 9)) + np.outer(np.ones(6), np.eye(9)[2])
    settings = {"boundary": boundary, "origin": (1, 6), "operation": "correlation"}
    for lattice in ({}, {"stride": (1, 2), "offset": (0, 1)}):
        monkeypatch.setattr(forward, "_FEWEST", 1)
        quick = kernelfit.apply_kernel(image, kernel, **settings, **lattice)
        monkeypatch.setattr(forward, "_FEWEST", 10**9)
        plain = kernelfit.apply_kernel(image, kernel, **settings, **lattice)
        np.testing.assert_array_equal(np.isnan(quick), np.isnan(plain))
        assert_close(np.nan_to_num(quick), np.nan_to_num(plain), 1e-13)
        assert np.isnan(quick).any()


LAYOUTS = {
    "as it is": lambda a: a,
    "a part": lambda a: np.pad(a, 3)[3:-3, 3:-3],
    "columns first": np.asfortranarray,
    "turned": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "every second": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "single": lambda a: a.astype(np.float32),
    "big-endian": lambda a: a.astype(">f8"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("settings", [
    {"boundary": "wrap"}, {"boundary": "symm", "origin": (0, 6)}, {"mode": "valid"}, {"mode": "full", "fillvalue": 3.0},
    {"boundary": "nearest", "stride": (3, 2), "offset": (2, 1)}, {"boundary": "mirror", "operation": "correlation"},
    {"mode": "crop", "size": (60, 50), "boundary": "fill", "origin": (-40, -55)},
    {"mode": "crop", "size": (60, 50), "boundary": "fill", "origin": (-4, 12)},
], ids=str)  # fmt: skip
def test_tiles_read_from_the_array_and_those_along_its_edges(layout, settings, monkeypatch):
    """The image is neither copied nor changed; tiles within it, and across its edges, are those of the direct sums."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(-9, 9, size=(101, 140)).astype(np.float64)
    image = LAYOUTS[layout](pixels)
    kernel = np.outer([1.0, 2, -1, 3, 1], [2.0, 1, 0, -1, 1, 1, 4])
    monkeypatch.setattr(forward, "_TILE", 48)
    monkeypatch.setattr(forward, "_FEWEST", 10**9)
    plain = kernelfit.apply_kernel(pixels, kernel, **settings)
    monkeypatch.setattr(forward, "_FEWEST", 1)
    np.testing.assert_array_equal(kernelfit.apply_kernel(image, kernel, **settings), plain)
    np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("at", [(0, 0), (50, 70), (100, 139), (2, 60)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_spreads_over_the_kernel_alone(at, bad, monkeypatch):
    rng = np.random.default_rng(4)
    image, kernel = rng.normal(size=(101, 140)), np.outer([1.0, 0, 2], [2.0, 1, 0, -1, 1])
    image[at] = bad
    monkeypatch.setattr(forward, "_TILE", 48)
    monkeypatch.setattr(forward, "_FEWEST", 1)
    made = kernelfit.apply_kernel(image, kernel, boundary="wrap")
    near = np.zeros(image.shape, dtype=bool)
    near[at] = True
    np.testing.assert_array_equal(np.isnan(made), scipy.ndimage.maximum_filter(near, (3, 5), mode="wrap"))
    expected = scipy.ndimage.convolve(np.where(near, 0, image), kernel, mode="wrap")
    assert_close(np.where(np.isnan(made), 0, made), np.where(np.isnan(made), 0, expected), 1e-13)


def test_sums_beyond_the_largest_number_are_infinite():
    image = np.full((300, 310), 1e308)
    made = kernelfit.apply_kernel(image, np.outer([1.0, 1], [1.0, 1, 1]), boundary="wrap")
    assert np.isposinf(made).all()


def test_an_image_that_may_not_be_written_to_is_laid_on():
    image = np.random.default_rng(5).normal(size=(300, 310))
    kernel = np.outer([1.0, 2, 1], [1.0, 0, -1, 3])
    expected = kernelfit.apply_kernel(image, kernel)
    image.flags.writeable = False
    np.testing.assert_array_equal(kernelfit.apply_kernel(image, kernel), expected)
