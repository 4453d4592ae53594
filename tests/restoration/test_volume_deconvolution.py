"""Restoring a volume: exact where that is possible, else the plain formula; missing pixels and edges are solved for."""

import numpy as np
import pytest
import scipy.ndimage

import naive
from helpers import grid
from kernelfit import apply_kernel, deconvolve
from kernelfit.restoration import deconvolution

CASES = [
    (shape, origin, operation) for operation in ("convolution", "correlation")
    for shape, origin in (((3, 2, 5), None), ((4, 1, 2), (0, 0, 1)), ((1, 3, 3), (-2, 4, 1)), ((1, 1, 1), None))
]  # fmt: skip


@grid("shape, origin, operation", CASES, 3)
def test_periodic_volumes_come_back(shape, origin, operation):
    rng = np.random.default_rng(0)
    volume, kernel = rng.random((9, 12, 15)), 0.1 * rng.random(shape)
    kernel[0, 0, -1] += 2.0
    words = {"boundary": "wrap", "origin": origin, "operation": operation}
    target = apply_kernel(volume, kernel, **words)
    found = deconvolve(target, kernel, balance=0, **words)
    np.testing.assert_allclose(found, volume, rtol=0, atol=1e-11)
    single = deconvolve(target.astype(np.float32), kernel, balance=0, **words)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, volume, rtol=0, atol=1e-5)


MISSING = [
    (penalty, boundary, operation) for boundary in ("wrap", None) for penalty in ("laplacian", "identity")
    for operation in ("convolution", "correlation")
]  # fmt: skip


@grid("penalty, boundary, operation", MISSING, 8)
def test_missing_pixels_and_edges_are_solved_for(penalty, boundary, operation, monkeypatch):
    monkeypatch.setattr(deconvolution.inpainting, "_TOLERANCE", 1e-11)
    rng = np.random.default_rng(2)
    target, kernel = rng.random((4, 5, 6)), rng.random((1, 2, 2)) + np.array([[[2.0, 0], [0, 0]]])
    mask = rng.random(target.shape) < 0.1
    size = target.shape if boundary == "wrap" else deconvolution._period(target.shape, kernel.shape, 2, 16)
    inside = tuple(map(slice, target.shape))
    words = {"balance": 0.2, "boundary": boundary, "penalty": penalty, "operation": operation}
    whole, seen = np.zeros(size), np.zeros(size, dtype=bool)
    whole[inside], seen[inside] = target, ~mask
    strength = 0.2 * np.sum(kernel**2)
    expected = naive.restored(whole, seen, kernel, (0, 0, 0), strength, operation, penalty)[inside]
    bad = np.where(mask, np.nan, target)
    np.testing.assert_allclose(deconvolve(bad, kernel, mask=mask, **words), expected, rtol=0, atol=1e-8)
    assert (deconvolve(bad, kernel, nan="mask", **words) == deconvolve(bad, kernel, mask=mask, **words)).all()
    if boundary is None:
        seen[inside] = True
        expected = naive.restored(whole, seen, kernel, (0, 0, 0), strength, operation, penalty)[inside]
        np.testing.assert_allclose(deconvolve(target, kernel, edges="solve", **words), expected, rtol=0, atol=1e-8)


def scene(noise=0.01):
    """A volume with edges, a kernel wider along the planes, and what of its target is inside."""
    rng = np.random.default_rng(5)
    volume = scipy.ndimage.gaussian_filter((rng.random((40, 44, 50)) > 0.985).astype(float), 0.7) * 10
    z, y, x = np.mgrid[-4:5, -2:3, -2:3]
    kernel = np.exp(-(z**2) / 8 - (y**2 + x**2) / 2)
    kernel /= kernel.sum()
    target = apply_kernel(volume, kernel, mode="valid")
    return volume[4:-4, 2:-2, 2:-2], kernel, target + noise * target.std() * rng.normal(size=target.shape)


@pytest.mark.slow
def test_the_balance_is_near_the_best_one():
    volume, kernel, target = scene(0.05)
    errors = {b: np.std(deconvolve(target, kernel, balance=b) - volume) for b in ("auto", 1e-4, 1e-3, 1e-2, 1e-1)}
    assert errors["auto"] < 1.15 * min(errors.values())
    assert errors["auto"] < 0.8 * np.std(target - volume)


@pytest.mark.slow
def test_edges_that_would_ring_are_solved_for():
    volume, kernel, target = scene(0.0005)
    volume, target = volume[:18, :, :36], target[:18, :, :36]
    errors = {edges: np.std(deconvolve(target, kernel, edges=edges) - volume) for edges in ("fade", "solve", "auto")}
    assert errors["solve"] < 0.8 * errors["fade"] and errors["auto"] <= errors["fade"]


def test_refusals():
    kernel = np.ones((2, 3, 2))
    with pytest.raises(ValueError, match="target with 2 dimensions .* and a kernel of three, need 3"):
        deconvolve(np.ones((9, 9)), kernel)
    bad = np.ones((5, 6, 7))
    bad[2, 3, 4] = np.inf
    with pytest.raises(ValueError, match=r"\(plane, row, column\) \(2, 3, 4\)"):
        deconvolve(bad, kernel)
    with pytest.raises(ValueError, match="nearer to the 2x3x2 kernel"):
        deconvolve(np.ones((5, 6, 7)), kernel, origin=(30, 0, 0))
