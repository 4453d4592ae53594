"""A tile made at one go has the statistics of its own rows of A; our own factor is that of the inverse."""

import contextlib

import numpy as np
import pytest

import naive
from helpers import assert_close, grid, observe
from kernelfit import kernel_map
from kernelfit.data.blocks import Box
from kernelfit.engines.small_tiles import TileReader

BOXES = [Box(0, 0, 17, 23), Box(17, 0, 16, 23), Box(5, 23, 16, 22), Box(9, 4, 17, 30)]


def problem_of(shape, **keywords):
    rng = np.random.default_rng(1)
    image = rng.normal(0.5, 1.0, (47, 61))
    target = rng.normal(0.2, 1.0, naive.target_shape(image.shape, shape, "same"))
    settings = {"mode": None, "boundary": None, "fillvalue": 0.7, "origin": None, "operation": "convolution"}
    return image, target, observe(image, target, shape, **{**settings, **keywords})


@grid("shape", [(1, 1), (1, 4), (5, 1), (3, 2), (4, 7)], 2)
@grid("boundary", [None, "fill", "wrap", "symm"], 2)
@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize("method", ["direct", "fft"])
def test_the_statistics_are_those_of_the_rows_of_the_design_matrix(shape, boundary, operation, method):
    image, target, observation = problem_of(shape, boundary=boundary, operation=operation)
    matrix, used = naive.design_dense(image, shape, mode="same", boundary=boundary, fillvalue=0.7, operation=operation)
    rows, cols = np.flatnonzero(used.any(axis=1)), np.flatnonzero(used.any(axis=0))
    where = np.full(used.shape, -1)
    where[used] = np.arange(used.sum())
    assert TileReader.fits(observation, BOXES)
    reader, stack = TileReader(observation, BOXES, method), contextlib.ExitStack()
    own = stack.enter_context(reader.buffers())
    total, n_pixels = 0.0, 0
    for box in BOXES:  # of several sizes, so that a buffer holds remains of the one before
        a, c = rows[0] + box.row, cols[0] + box.col
        pick = where[a : a + box.rows, c : c + box.cols].ravel()
        x, y = matrix[pick], target[used][pick]
        condition, rss, size, least, spread = reader.read(box, own)
        stats = reader.statistics(box, own)
        assert_close(stats.gram, x.T @ x, 1e-12)
        assert_close(stats.moment, x.T @ y, 1e-12)
        assert stats.target_energy == pytest.approx(y @ y, rel=1e-12)
        assert stats.target_sum == pytest.approx(y.sum(), rel=1e-9, abs=1e-9)
        assert stats.n_pixels == y.size and stats.supports == (shape,)
        np.testing.assert_array_equal(stats.gram, stats.gram.T)
        total, n_pixels = total + x.T @ x, n_pixels + y.size
        taps, (expected,), *_ = np.linalg.lstsq(x, y, rcond=None)
        assert_close(reader.to_user(own.taps), taps, 1e-10)
        assert rss == pytest.approx(expected, rel=1e-10)
        assert_close(reader.to_user(own.spread), np.diag(np.linalg.inv(x.T @ x)), 1e-10)
        assert size == pytest.approx(np.linalg.norm(taps), rel=1e-9)
        diagonal = np.diag(np.linalg.inv(x.T @ x))
        assert least == pytest.approx(diagonal.min(), rel=1e-9) and spread == pytest.approx(diagonal.sum(), rel=1e-9)
        assert 0.3 * np.linalg.cond(x.T @ x, 1) <= condition <= 1.0001 * np.linalg.cond(x.T @ x, 1)
    assert_close(reader.total(own.total, n_pixels).gram, total, 1e-12)
    assert reader.total(own.total, n_pixels).n_pixels == n_pixels
    stack.close()
    reader.close()


def test_large_tiles_are_left_to_the_pass_for_images():
    image = np.zeros((1100, 900))
    settings = {"mode": None, "boundary": None, "fillvalue": 0.0, "origin": None, "operation": "convolution"}
    observation = observe(image, image, (3, 4), **settings)
    assert not TileReader.fits(observation, [Box(0, 0, 600, 700)])
    with pytest.raises(ValueError, match="got tiles too large"):
        TileReader(observation, [Box(0, 0, 600, 700)], "fft")


@pytest.mark.parametrize("method", ["direct", "fft"])
def test_a_map_of_large_tiles_is_the_map_of_its_sub_problems(method):
    rng = np.random.default_rng(3)
    image = rng.normal(size=(560, 1210))
    target = np.roll(image, (1, -1), (0, 1)) + 0.1 * rng.normal(size=image.shape)
    found = kernel_map(image, target, (3, 4), (1, 2), method=method)
    for i in range(2):
        row, col, rows, cols = found.boxes[0, i]
        part = (slice(row, row + rows), slice(col, col + cols))
        whole = (slice(row - 1, row + rows + 1), slice(col - 2, col + cols + 1))
        alone = kernel_map(image[whole], target[part], (3, 4), 1, method=method)
        assert_close(found.kernels[0, i], alone.kernels[0, 0], 1e-10)


@pytest.mark.parametrize("method", ["direct", "fft"])
def test_pixels_that_are_not_finite_are_refused(method):
    image, target, _ = problem_of((3, 4))
    image[30, 41] = np.nan
    with pytest.raises(ValueError, match=r"got image with 1 pixel that is NaN or infinite, the first at .* \(30, 41\)"):
        kernel_map(image, target, (3, 4), (2, 3), method=method)


@pytest.mark.parametrize("shape", [(3, 4), (9, 7)])
def test_the_bits_do_not_depend_on_the_workers(shape, method):
    image, target, _ = problem_of(shape)
    one, many = (kernel_map(image, target, shape, (3, 4), method=method, workers=n) for n in (1, 5))
    assert one.kernels.tobytes() == many.kernels.tobytes() and one.stderr.tobytes() == many.stderr.tobytes()
    assert one.common.tobytes() == many.common.tobytes() and one.variation == many.variation
