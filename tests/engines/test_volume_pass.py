"""The engine of volumes against sums of products of pixels, plane by plane."""

import numpy as np
import pytest

import kernelfit
from helpers import OPERATIONS, assert_close, grid
from kernelfit.core.model import Model, Selection
from kernelfit.data.plan import make_plan
from kernelfit.engines import accumulation, volume_pass


def planes(shape, kernel, *, background=None, **words):
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 1.0, shape)
    known = {**words, "boundary": words["boundary"] or "fill"}
    y = kernelfit.apply_kernel(x, rng.normal(size=kernel), **known)
    return make_plan(x, y + 0.1, Model(kernel, background=background, **words), Selection()).groups[0]


def assert_same_sums(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("gram", "moment", "target_energy", "target_sum"):
            assert_close(getattr(one, name), getattr(other, name), 1e-12, name)
        assert (one.n_pixels, one.supports, one.convention) == (other.n_pixels, other.supports, other.convention)


CASES = [
    (mode, boundary, operation, kernel)
    for mode, boundary in (("same", "symm"), ("same", None), ("valid", None), ("full", "fill"), ("same", "wrap"))
    for operation in OPERATIONS
    for kernel in ((3, 2, 4), (2, 5, 1), (5, 1, 3), (9, 3, 3), (4, 1, 1))
]


@grid("mode, boundary, operation, kernel", CASES, 9)
def test_it_gives_what_planes_give(mode, boundary, operation, kernel):
    some = planes((11, 13, 17), kernel, mode=mode, boundary=boundary, operation=operation)
    assert_same_sums(accumulation.of_lot(some, "fft", 2), accumulation.of_lot(some, "direct", 1))


@pytest.mark.parametrize("kernel", [(3, 4, 2), (2, 1, 3)], ids=str)
def test_planes_that_are_cut(kernel, monkeypatch):
    some = planes((7, 83, 127), kernel, mode="same", boundary="mirror", operation="convolution")
    whole = accumulation.of_lot(some, "fft", 1)
    monkeypatch.setattr(volume_pass, "_ROOM", 1)
    cut = accumulation.of_lot(some, "fft", 1)
    assert_same_sums(cut, whole)
    assert_same_sums(cut, accumulation.of_lot(some, "direct", 1))


@pytest.mark.parametrize("backend", ["pyfftw", "scipy"])
def test_planes_of_which_a_few_are_held_at_a_time(backend, monkeypatch):
    some = planes((11, 7, 9), (5, 3, 2), mode="same", boundary="wrap", operation="correlation")
    monkeypatch.setattr(volume_pass, "_BATCHES", (3,))
    previous = kernelfit.set_fft(backend=backend)
    try:
        found = accumulation.of_lot(some, "fft", 1)
    finally:
        kernelfit.set_fft(**previous)
    assert_same_sums(found, accumulation.of_lot(some, "direct", 1))


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits():
    some = planes((80, 9, 12), (4, 3, 2), mode="same", boundary="nearest", operation="convolution")
    one, three = (accumulation.of_lot(some, "fft", n)[0] for n in (1, 3))
    for name in ("gram", "moment"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))
    assert one.target_energy == three.target_energy
    assert_same_sums([one], accumulation.of_lot(some, "direct", 1))


@pytest.mark.parametrize("boundary", [None, "wrap"])
def test_a_fit_by_it(boundary):
    rng = np.random.default_rng(1)
    x, k = rng.normal(0.5, 1.0, (12, 15, 19)), rng.normal(size=(4, 3, 5))
    y = 4 + kernelfit.apply_kernel(x, k, boundary="wrap")
    fit = kernelfit.find_kernel(x, y, k.shape, boundary=boundary, background=0, method="fft")
    assert fit.method == "fft" and fit.refined
    assert_close(fit.kernel, k, 1e-12)
    assert_close(fit.background.coefficients, [4.0], 1e-11)
    mask = rng.random(y.shape) < 0.1
    fit = kernelfit.find_kernel(
        x, np.where(mask, np.inf, y), k.shape, boundary=boundary, background=0, method="fft", mask=mask
    )
    assert_close(fit.kernel, k, 1e-10)
