"""Polynomials of three axes beside the kernels of volumes, against dense least squares."""

import numpy as np
import pytest

import kernelfit
import naive
from helpers import assert_close, grid
from kernelfit import find_kernel
from kernelfit.core.variation import n_terms

KERNEL = (2, 3, 2)


def pair(degree, seed=0, shape=(6, 9, 8), noisy=0.1, **words):
    rng = np.random.default_rng(seed)
    x = rng.normal(0.4, 1.0, shape)
    y = kernelfit.apply_kernel(x, rng.normal(size=KERNEL), boundary="mirror", **words)
    beside = naive.volume_terms(y.shape, degree)
    return x, y + (beside @ rng.normal(size=beside.shape[1])).reshape(y.shape) + noisy * rng.normal(size=y.shape)


CASES = [
    (degree, kind, mode, operation)
    for degree in (1, 2, 3)
    for kind in ("plain", "mask", "weights", "stride", "pairs")
    for mode in ("same", "full")
    for operation in ("convolution", "correlation")
]


@grid("degree, kind, mode, operation", CASES[::7], 4)
def test_it_is_dense_least_squares(degree, kind, mode, operation):
    words = {"operation": operation, "mode": mode}
    words["stride"] = (1, 2, 1) if kind == "stride" else (1, 1, 1)
    given = [pair(degree, seed, **words) for seed in range(1 + (kind == "pairs"))]
    xs, ys = [one[0] for one in given], [one[1] for one in given]
    x, y = (xs, ys) if kind == "pairs" else (xs[0], ys[0])
    rng, weight = np.random.default_rng(5), np.ones(ys[0].shape)
    keywords = {"boundary": "mirror", "background": degree, **words}
    if kind == "mask":
        weight[rng.random(weight.shape) < 0.2] = 0
        keywords["mask"] = weight == 0
    elif kind == "weights":
        weight = keywords["weights"] = rng.uniform(0.2, 2, weight.shape)
    fit = find_kernel(x, y, KERNEL, **keywords)
    n = n_terms(degree, 3)
    rows, values = [], []
    for at, (one, target) in enumerate(zip(xs, ys, strict=True)):
        matrix = naive.design_nd(one, KERNEL, boundary="mirror", **words)[0].astype(float)
        beside = np.zeros((len(matrix), n * len(xs)))
        beside[:, at * n : (at + 1) * n] = naive.volume_terms(target.shape, degree)
        root = np.sqrt(weight.ravel())
        rows.append(np.hstack([matrix, beside])[root > 0] * root[root > 0, None])
        values.append((target.ravel() * root)[root > 0])
    a, b = np.concatenate(rows), np.concatenate(values)
    expected = np.linalg.lstsq(a, b, rcond=None)[0]
    rss = np.sum((b - a @ expected) ** 2)
    errors = np.sqrt(rss / (len(b) - len(expected)) * np.diag(np.linalg.inv(a.T @ a)))
    m = int(np.prod(KERNEL))
    assert_close(fit.kernel.ravel(), expected[:m], 1e-9)
    assert_close(fit.stderr.ravel(), errors[:m], 1e-8)
    assert_close(fit.background.coefficients.ravel(), expected[m:], 1e-9)
    assert_close(fit.background.stderr.ravel(), errors[m:], 1e-8)
    assert fit.rss == pytest.approx(rss, rel=1e-8) and fit.background.degree == degree
    surface = naive.volume_terms(ys[0].shape, degree) @ expected[m : m + n]
    chosen = 0 if kind == "pairs" else None
    assert_close(fit.background.image(chosen).ravel(), surface, 1e-9)
    alone = kernelfit.apply_kernel(xs[0], fit.kernel, boundary="mirror", **words)
    assert_close(fit.predict(xs[0], chosen) - alone, surface.reshape(ys[0].shape), 1e-8)
    stats = kernelfit.accumulate(x, y, KERNEL, **keywords)
    solved = stats.solve()
    assert_close(solved.kernel, fit.kernel, 1e-8)
    assert_close(solved.background.coefficients, fit.background.coefficients, 1e-8)


@pytest.mark.slow
def test_what_else_sees_it(tmp_path):
    x, y = pair(2, shape=(9, 14, 15))
    fit = find_kernel(x, y, KERNEL, boundary="mirror", background=2)
    assert fit.verdict.ok and fit.background.powers[1] == (1, 0, 0)
    assert find_kernel(x, y, KERNEL, boundary="mirror", background=0).verdict is not kernelfit.Verdict.SOLVED
    assert kernelfit.check_boundary(x, y, find_kernel(x, y, KERNEL, background=2)).best == "mirror"
    assert find_kernel(x, y, KERNEL, boundary="mirror", background=2, errors="sandwich").errors == "sandwich"
    fit.save(tmp_path / "fit.npz")
    again = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    assert_close(again.predict(x), fit.predict(x), 1e-14)
    stats = kernelfit.accumulate(x, y, KERNEL, boundary="mirror", background=2)
    stats.save(tmp_path / "sums.npz")
    loaded = kernelfit.NormalStats.load(tmp_path / "sums.npz").solve()
    assert loaded.verdict.ok and stats.solve().verdict.ok
    assert_close(loaded.background.image(), fit.background.image(), 1e-8)
    assert "polynomial of degree 2" in fit.summary()
