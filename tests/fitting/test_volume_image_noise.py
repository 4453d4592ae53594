"""Noise of the image, of volumes: against counts of the taps that lie on one noisy pixel."""

import numpy as np
import pytest
import scipy.linalg

import kernelfit
import naive
from helpers import BOUNDARIES, assert_close, grid
from kernelfit import find_kernel

KERNEL, STD = (3, 2, 3), 0.1

CASES = [
    (*boundary, kind, operation)
    for boundary in BOUNDARIES
    for kind in ("plain", "mask", "weights", "degree 0", "degree 2", "stride", "pairs")
    for operation in ("convolution", "correlation")
]


@grid("boundary, fillvalue, kind, operation", CASES[::9], 4)
def test_the_gram_matrix_loses_what_the_noise_adds(boundary, fillvalue, kind, operation):
    rng = np.random.default_rng(1)
    words = {"mode": "same", "boundary": boundary, "fillvalue": fillvalue, "operation": operation}
    words["stride"] = (2, 1, 2) if kind == "stride" else (1, 1, 1)
    keywords, kernel = dict(words), rng.normal(size=KERNEL)
    shapes = [(7, 8, 9), (6, 7, 8)][: 1 + (kind == "pairs")]
    degree = int(kind[-1]) if kind.startswith("degree") else None
    xs, ys, gram, moment, counts = [], [], 0.0, 0.0, 0.0
    for shape in shapes:
        x = rng.normal(0.5, 1.0, shape)
        matrix, used = naive.design_nd(x, KERNEL, **words)
        y = np.zeros(used.shape)
        y[used] = matrix.astype(float) @ kernel.ravel()
        y += 0.1 * rng.normal(size=y.shape)
        weights = np.ones(y.shape)
        if kind == "mask":
            weights[rng.random(y.shape) < 0.2] = 0.0
            keywords["mask"] = weights == 0
        elif kind == "weights":
            weights = keywords["weights"] = rng.uniform(0.3, 2.0, y.shape)
        noisy = x + STD * rng.normal(size=x.shape)
        rows = naive.design_nd(noisy, KERNEL, **words)[0].astype(float)
        labels = naive.design_nd(np.arange(x.size).reshape(shape), KERNEL, **{**words, "fillvalue": -1})[0].astype(int)
        w, beside = weights[used], np.zeros((used.sum(), 0))
        if degree is not None:
            keywords["background"] = degree
            beside = scipy.linalg.orth(naive.volume_terms(y.shape, degree)[used.ravel()])
        rows, values = (rows - beside @ (beside.T @ rows)) * np.sqrt(w)[:, None], y[used] * np.sqrt(w)
        gram, moment = gram + rows.T @ rows, moment + rows.T @ values
        taken = []
        for label in labels.T:
            one = np.zeros((x.size, beside.shape[1]))
            np.add.at(one, label[label >= 0], beside[label >= 0])
            taken.append(one)
        same = (labels[:, :, None] == labels[:, None]) & (labels >= 0)[:, :, None]
        counts = counts + np.einsum("t,tpq->pq", w, same) - np.einsum("pxi,qxi->pq", taken, taken)
        xs.append(noisy)
        ys.append(y)
    image, target = (xs, ys) if kind == "pairs" else (xs[0], ys[0])
    fit = find_kernel(image, target, KERNEL, image_noise=STD, **keywords)
    assert fit.image_noise == pytest.approx(STD)
    assert_close(fit.kernel.ravel(), np.linalg.solve(gram - STD**2 * counts, moment), 1e-8)
    if degree is None and kind != "weights":
        stats = kernelfit.accumulate(image, target, KERNEL, image_noise=STD, **keywords).solve()
        assert_close(stats.kernel, fit.kernel, 1e-8)
        assert_close(stats.stderr, fit.stderr, 1e-6)


def test_the_kernel_is_as_large_as_it_is():
    rng = np.random.default_rng(0)
    x, k = rng.normal(size=(14, 24, 26)), rng.random(KERNEL)
    y = kernelfit.apply_kernel(x, k, boundary="mirror") + 0.1 * rng.normal(size=x.shape)
    noisy = x + 0.4 * rng.normal(size=x.shape)
    plain = find_kernel(noisy, y, KERNEL, boundary="mirror")
    fit = find_kernel(noisy, y, KERNEL, boundary="mirror", image_noise=0.4)
    assert plain.kernel.sum() < 0.9 * k.sum()
    assert np.abs(fit.kernel - k).max() < 4.5 * fit.stderr.max() and abs(fit.kernel.sum() / k.sum() - 1) < 0.05
    with pytest.raises(ValueError, match="a stream"):
        kernelfit.accumulate_stream([(noisy, y)], KERNEL, boundary="mirror", image_noise=0.4)


@pytest.mark.slow
def test_coverage():
    inside = []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        x, k = rng.normal(size=(10, 16, 17)), rng.random(KERNEL)
        y = kernelfit.apply_kernel(x, k, boundary="wrap") + 0.2 * rng.normal(size=x.shape)
        fit = find_kernel(x + 0.3 * rng.normal(size=x.shape), y, KERNEL, boundary="wrap", image_noise=0.3)
        inside.append(np.mean(np.abs(fit.kernel - k) < 1.96 * fit.stderr))
    assert 0.92 < np.mean(inside) < 0.98
