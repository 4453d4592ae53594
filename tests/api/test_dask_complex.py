"""Complex numbers in Dask arrays: signals, images and volumes in blocks give the kernel of dense least squares."""

import numpy as np
import pytest

import naive
from complex_pairs import check, normal, pair
from helpers import BOUNDARIES, assert_close, grid
from kernelfit import Verdict, accumulate_stream, apply_kernel, find_kernel
from kernelfit.api import dask as scale

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

SIZES = {1: ((61,), (5,), 13), 2: ((13, 10), (2, 3), (5, 4)), 3: ((5, 7, 8), (3, 1, 2), (3, 4, 8))}


@pytest.fixture(autouse=True)
def one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def lazy(array):
    """A Dask array whose chunks are computed."""
    return da.from_array(array, chunks=(5, 4, 8, 2)[: np.ndim(array)]) + 0


def close(fit, same, tolerance=1e-12):
    assert_close(fit.kernel, same.kernel, tolerance)
    assert_close(fit.stderr, same.stderr, 10 * tolerance)
    assert (fit.verdict, fit.n_pixels, fit.convention) == (same.verdict, same.n_pixels, same.convention)


EDGES = [(*edge, ndim) for edge in BOUNDARIES for ndim in SIZES]
CASES = [(*words, ("cc", "rc", "cr")[i % 4 % 3]) for i, words in enumerate(EDGES)]


@grid("boundary, fillvalue, ndim, kinds", CASES, 7)
@pytest.mark.parametrize("real", [False, True])
def test_it_is_dense_least_squares(boundary, fillvalue, ndim, kinds, real):
    size, shape, block = SIZES[ndim]
    words = dict(mode="same", boundary=boundary, fillvalue=fillvalue)
    image, _, target = pair(size, shape, kinds=kinds, **words)
    side = shape if ndim > 1 else shape[0]
    fit = scale.find_kernel(lazy(image), lazy(target), side, block=block, real=real, **words)
    matrix, used = naive.design_nd(image, shape, **words)
    check(fit, matrix, target[used], real=real)
    close(fit, find_kernel(image, target, side, real=real, **words))
    assert_close(
        scale.accumulate(lazy(image), lazy(target), side, real=real, **words).solve().kernel, fit.kernel, 1e-11
    )


@grid("ndim", list(SIZES), 1)
@grid("settings", [
    {"background": 0}, {"stride": 2}, {"robust": "huber"}, {"errors": "sandwich"}, {"solver": "auto"}, {"weights": 1},
    {"channels": "shared"}, {"channels": "separate"}, {"channels": "mixed"}, {"mask": 1}, {"image_mask": 1},
], 2)  # fmt: skip
def test_settings_do_what_they_do_in_memory(ndim, settings):
    size, shape, block = SIZES[ndim]
    size, settings, rng = tuple(n + 3 for n in size), dict(settings), np.random.default_rng(3)
    axis = {"channel_axis": -1} if "channels" in settings else {}
    many = (2,) if axis else ()
    n = many + many if settings.get("channels") == "mixed" else ()
    image, kernel = normal(rng, *size, *many), normal(rng, *n, *shape)
    target = apply_kernel(image, kernel, boundary="wrap", stride=settings.get("stride", 1), **axis)
    target = target + 0.1 * normal(rng, *target.shape) + (2 - 3j) * ("background" in settings)
    for name in settings.keys() & {"mask", "image_mask", "weights"}:
        settings[name] = rng.uniform(0.2, 3, size) if name == "weights" else rng.random(size) < 0.05
    asked = {"boundary": "wrap", **axis, **settings}
    side = shape if ndim > 1 else shape[0]
    fit = scale.find_kernel(lazy(image), lazy(target), side, block=block, **asked)
    same = find_kernel(image, target, side, **asked)
    close(fit, same, 1e-4 if "solver" in settings else 1e-12)  # hyperparameters are found to what they matter
    assert [f.verdict for f in fit.findings] == [f.verdict for f in same.findings]
    if "background" in settings:
        assert_close(fit.background.coefficients, same.background.coefficients, 1e-11)
    if "mask" in settings:
        assert fit.notes == same.notes  # which count numbers, not their parts


@pytest.mark.parametrize("ndim", SIZES)
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("bad", [complex(np.nan, 1), complex(1, np.inf)])
def test_a_number_counts_if_both_of_its_parts_do(ndim, real, bad):
    size, shape, block = SIZES[ndim]
    image, _, target = pair(size, shape, boundary="wrap", mode="same")
    (image if real else target)[tuple(n // 2 for n in size)] = bad
    side, words = shape if ndim > 1 else shape[0], {"boundary": "wrap", "nan": "mask", "real": real}
    same = find_kernel(image, target, side, **words)
    fit = scale.find_kernel(lazy(image), lazy(target), side, block=block, **words)
    close(fit, same)
    stream = accumulate_stream([(image, target)], side, **words).solve()
    assert_close(stream.kernel, same.kernel, 1e-12)
    assert stream.n_pixels == same.n_pixels < np.prod(size)
    for one in (fit, stream):
        assert one.notes[0].startswith(f"{np.prod(size) - same.n_pixels} of {np.prod(size)} ")


def test_the_residual_is_looked_at_as_complex_numbers():
    rng = np.random.default_rng(5)
    image, _, target = pair((30, 43), (3, 5), boundary="fill", mode="same", noise=0)
    noise = 0.1 * rng.normal(size=target.shape) + 0.5j * rng.normal(size=target.shape)
    fit = scale.find_kernel(lazy(image), lazy(target + noise), (3, 5), boundary="fill")
    assert fit.verdict is Verdict.COLOURED_NOISE and "not circular" in str(fit.findings[0])
    known = {"boundary": "fill", "fillvalue": 3.0}
    target = apply_kernel(image, normal(rng, 3, 5), **known) + 0.1 * normal(rng, 30, 43)
    mask = rng.random((30, 43)) < 0.05
    assert scale.find_kernel(lazy(image), lazy(target), (3, 5), image_mask=mask, **known).verdict is Verdict.SOLVED
