"""Noise of volumes that is correlated along rows, columns and planes."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
import naive
from helpers import assert_close, grid
from kernelfit import Verdict
from kernelfit.diagnostics import score_covariance, whiteness

KERNEL = (2, 3, 2)


def coloured(rng, shape, size=(2, 1, 2)):
    return scipy.ndimage.uniform_filter(rng.normal(size=shape), size, mode="wrap") * np.sqrt(np.prod(size))


def pair(shape, seed=0, size=(2, 1, 2), **words):
    rng = np.random.default_rng(seed)
    x = rng.normal(0.5, 1.0, shape)
    matrix, used = naive.design_nd(x, KERNEL, **words)
    y = np.full(used.shape, np.nan)
    y[used] = matrix.astype(float) @ rng.normal(size=12)
    return x, y + 0.3 * coloured(rng, y.shape, size), matrix.astype(float), used


def noise_covariance(h, used):
    """``h * h`` between all pairs of the pixels that are used."""
    c, places = scipy.signal.convolve(h, h), np.argwhere(used)
    apart = places[:, None] - places[None]
    far = len(c) // 2
    inside = (np.abs(apart) <= far).all(axis=-1)
    return np.where(inside, c[tuple(np.moveaxis(np.clip(apart, -far, far) + far, -1, 0))], 0.0)


def residual_products(left, counted, lag):
    ahead = tuple(slice(max(0, n), s + min(0, n)) for n, s in zip(lag, left.shape, strict=True))
    behind = tuple(slice(max(0, -n), s + min(0, -n)) for n, s in zip(lag, left.shape, strict=True))
    return np.sum(left[ahead] * left[behind]) / np.sum(counted[ahead] * counted[behind])


KINDS = ("mask", "weights", "background", "pairs")
CASES = [
    {"boundary": "symm", "operation": "correlation"},
    {"boundary": "wrap", "stride": (1, 2, 1)},
    {"boundary": None},
]


@grid("kind, convention", [(kind, words) for kind in KINDS for words in CASES][1:], 8, ids=str)
def test_it_is_that_of_the_dense_problem(kind, convention):
    """``G_w^-1 A'W C W A G_w^-1``, exactly, edges and all."""
    words = {"mode": "same", "operation": "convolution", **convention}
    shapes = [(6, 9, 8), (4, 6, 7)][: 1 + (kind == "pairs")]
    given = [pair(shape, seed, **words) for seed, shape in enumerate(shapes)]
    rng, keywords = np.random.default_rng(9), {"boundary": convention["boundary"], "operation": words["operation"]}
    keywords |= {"stride": words.get("stride", 1), "mode": "same"}
    xs, ys = [one[0] for one in given], [one[1] for one in given]
    weights = [np.ones(y.shape) for y in ys]
    if kind == "weights":
        weights = [rng.gamma(4.0, 0.25, y.shape) for y in ys]
        keywords["weights"] = weights[0]
    elif kind == "background":
        keywords["background"] = 0
        ys[0] = ys[0] + 2
    else:
        weights = [1.0 - (rng.random(y.shape) < 0.1) for y in ys]
        keywords["mask"] = [w == 0 for w in weights] if kind == "pairs" else weights[0] == 0
    x, y = (xs, ys) if kind == "pairs" else (xs[0], ys[0])
    plain = kernelfit.find_kernel(x, y, KERNEL, **keywords)
    found = kernelfit.check_noise(x, y, plain)
    h = whiteness.shaping_filter(found)
    bread, meat, sums = 0.0, 0.0, np.zeros(2)
    constant = float(np.ravel(plain.background.coefficients)[0]) if kind == "background" else 0.0
    for (_, _, matrix, used), target, weight in zip(given, ys, weights, strict=True):
        roots = np.sqrt(weight[used])
        scaled, beside = matrix * roots[:, None], np.ones((len(roots), int(kind == "background"))) * roots[:, None]
        scaled = np.hstack([scaled, beside])
        bread, meat = bread + scaled.T @ scaled, meat + scaled.T @ noise_covariance(h, used) @ scaled
        left, counted = np.zeros((2, *used.shape))
        left[used] = (target[used] - matrix @ plain.kernel.ravel() - constant) * roots
        counted[used] = roots > 0
        window = np.argwhere(used)
        inside = tuple(slice(a, b + 1) for a, b in zip(window.min(axis=0), window.max(axis=0), strict=True))
        pairs = [np.sum(a[inside][1:, :, 1:] * a[inside][:-1, :, :-1]) for a in (left, counted)]
        sums += pairs
    assert found.autocovariance.shape == (17, 17, 17)
    assert found.autocovariance[9, 8, 9] == pytest.approx(sums[0] / sums[1], rel=1e-9)
    bread = np.linalg.inv(bread)
    truth = bread @ meat @ bread
    fit = kernelfit.find_kernel(x, y, KERNEL, errors="sandwich", **keywords)
    assert fit.errors == "sandwich"
    assert_close(fit.covariance(), truth[:12, :12], 1e-9)
    assert_close(kernelfit.sandwich_errors(x, y, plain).covariance(), truth[:12, :12], 1e-9)
    if kind == "background":
        assert_close(np.ravel(fit.background.stderr), np.sqrt(np.diag(truth)[12:]), 1e-8)


@grid("operation, stride", [(o, s) for o in ("convolution", "correlation") for s in (1, (2, 1, 2))], 2)
def test_without_weights_it_is_that_of_the_image_filtered_as_the_noise_is(operation, stride):
    words = {"mode": "valid", "boundary": None, "operation": operation, "stride": stride}
    x, y, matrix, _ = pair((11, 13, 12), **words)
    plain = kernelfit.find_kernel(x, y, KERNEL, **words)
    h = whiteness.shaping_filter(kernelfit.check_noise(x, y, plain))
    h = score_covariance._fitting(h, y.shape, 12)
    step = (stride,) * 3 if stride == 1 else stride
    apart = np.zeros([s * (n - 1) + 1 for s, n in zip(step, h.shape, strict=True)])
    apart[tuple(slice(None, None, s) for s in step)] = h
    other, _ = naive.design_nd(scipy.signal.convolve(x, apart, mode="valid"), KERNEL, **words)
    other = other.astype(float)
    bread = np.linalg.inv(matrix.T @ matrix)
    truth = bread @ (other.T @ other * (len(matrix) / len(other))) @ bread
    fit = kernelfit.find_kernel(x, y, KERNEL, errors="sandwich", **words)
    assert_close(fit.covariance(), truth, 1e-9)
    assert_close(kernelfit.sandwich_errors(x, y, plain).covariance(), truth, 1e-9)


def test_noise_of_large_volumes_is_looked_at_in_stacks_of_windows():
    rng = np.random.default_rng(8)
    x, k = rng.random((20, 90, 100)), rng.random(KERNEL)
    y = kernelfit.apply_kernel(x, k, boundary="wrap") + rng.normal(size=x.shape)
    fit = kernelfit.find_kernel(x, y, KERNEL, boundary="wrap")
    check, left = kernelfit.check_noise(x, y, fit), fit.residual(x, y)
    assert check.n_pixels == 2 * 9 * 4 * 40 * 40
    stacks = [left[z : z + 9, r : r + 40, c : c + 40] for z in (2, 8) for r in (2, 47) for c in (5, 55)]
    sums = [(np.sum(one[2:, :-1, 3:] * one[:-2, 1:, :-3]), one[2:, 1:, 3:].size) for one in stacks]
    expected = sum(total for total, _ in sums) / sum(n for _, n in sums)
    assert check.autocovariance[10, 7, 11] == pytest.approx(expected, rel=1e-9)


def test_noise_correlated_along_the_depth_alone_is_told_and_white_noise_is_not():
    rng = np.random.default_rng(3)
    x, k = rng.random((14, 40, 45)), rng.random(KERNEL)
    clean = kernelfit.apply_kernel(x, k, boundary="wrap")
    assert kernelfit.find_kernel(x, clean + 0.3 * rng.normal(size=x.shape), KERNEL, boundary="wrap").verdict.ok
    y = clean + 0.3 * coloured(rng, x.shape, (3, 1, 1))
    fit = kernelfit.find_kernel(x, y, KERNEL, boundary="wrap")
    (told,) = [str(f) for f in fit.findings if f.verdict is Verdict.COLOURED_NOISE]
    assert "errors='sandwich'" in told and "at lag (1, 0, 0)" in told
    better = kernelfit.find_kernel(x, y, KERNEL, boundary="wrap", errors="sandwich")
    assert better.verdict.ok and np.sqrt(better.covariance().sum()) > 1.4 * np.sqrt(fit.covariance().sum())


@pytest.mark.slow
def test_coverage_and_a_sample_of_boxes(monkeypatch):
    """The sum of the taps: plain intervals miss it too often. Some boxes give nearly what all give."""
    hits = {"plain": [], "sandwich": []}
    for seed in range(16):
        rng = np.random.default_rng(seed)
        x, k = scipy.ndimage.uniform_filter(rng.normal(size=(12, 20, 22)), 2), rng.normal(size=KERNEL)
        y = kernelfit.apply_kernel(x, k, boundary="wrap") + 0.3 * coloured(rng, x.shape, (3, 2, 2))
        for errors in hits:
            fit = kernelfit.find_kernel(x, y, KERNEL, boundary="wrap", errors=errors)
            hits[errors].append(abs(fit.kernel.sum() - k.sum()) / np.sqrt(fit.covariance().sum()) < 1.96)
    assert np.mean(hits["plain"]) < 0.65 and np.mean(hits["sandwich"]) >= 0.8
    words = {"boundary": "wrap", "mask": rng.random(x.shape) < 0.1}
    whole = kernelfit.find_kernel(x, y, KERNEL, errors="sandwich", **words).covariance()
    monkeypatch.setattr(score_covariance, "_PIXELS", 2000)
    monkeypatch.setattr(score_covariance, "_SIDE", 20)
    few = kernelfit.find_kernel(x, y, KERNEL, errors="sandwich", **words).covariance()
    assert 0.6 < np.trace(few) / np.trace(whole) < 1.6 and np.abs(few - whole).max() > 0
