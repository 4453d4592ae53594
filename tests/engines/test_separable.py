"""Kernels of few columns and rows: the same numbers as SciPy's direct sums, whatever is chosen."""

import numpy as np
import pytest
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
    correlate_separable(block, padded, rows, *stride, out, np.empty(4 * 52), np.empty(52))
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
