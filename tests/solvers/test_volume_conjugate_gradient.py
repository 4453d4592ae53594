"""Conjugate gradients for volumes, by transforms along three axes, against dense algebra."""

import functools
import math

import numpy as np
import pytest

import kernelfit
import naive
from helpers import BOUNDARIES, MODES, OPERATIONS, assert_close, grid
from kernelfit import ConjugateGradient, Prior, find_kernel
from kernelfit.engines import cost_model, voxel_pass, weighted

CG = ConjugateGradient()


@pytest.fixture(autouse=True)
def blocks(monkeypatch):
    """Let all passes be by transforms, in small blocks."""
    monkeypatch.setattr(weighted, "VOXEL_NS", 0.0)
    monkeypatch.setattr(voxel_pass, "_ROOM", 1000)


def scene(shape, kernel, **words):
    """A volume, its dense design matrix, where it is used, and a noisy target."""
    rng = np.random.default_rng(7)
    image = rng.normal(0.3, 1.0, shape)
    matrix, used = naive.design_nd(image, kernel, **words)
    matrix, target = matrix.astype(float), np.zeros(used.shape)
    target[used] = matrix @ rng.normal(size=matrix.shape[1])
    return image, matrix, used, target + 0.1 * rng.normal(size=used.shape)


CASES = [
    (mode, *boundary, operation, kernel) for mode in MODES for boundary in BOUNDARIES for operation in OPERATIONS
    for kernel in ((3, 2, 4), (1, 3, 3), (2, 5, 1), (4, 1, 2))
]  # fmt: skip


@grid("mode, boundary, fillvalue, operation, kernel", CASES[::9], 11)
def test_it_is_dense_least_squares(mode, boundary, fillvalue, operation, kernel):
    words = {"mode": mode, "boundary": boundary, "fillvalue": fillvalue, "operation": operation}
    image, matrix, used, target = scene((6, 7, 9), kernel, **words)
    fit = find_kernel(image, target, kernel, **words, solver=CG, tolerance=1e-9)
    expected = np.linalg.lstsq(matrix, target[used], rcond=None)[0].reshape(kernel)
    assert fit.method == "cg" and fit.kernel.shape == kernel
    assert_close(fit.kernel, expected, 1e-9)
    assert_close(fit.rss, np.sum((target[used] - matrix @ expected.ravel()) ** 2), 1e-9)


KINDS = [
    (kind, degree, stride, kernel) for kind in ("plain", "mask", "weights", "nan") for degree in (None, 0, 2)
    for stride in (1, (2, 1, 3)) for kernel in ((2, 3, 2), (3, 2, 4))
]  # fmt: skip


@grid("kind, degree, stride, kernel", KINDS[::7], 7)
def test_what_counts_backgrounds_and_strides(kind, degree, stride, kernel):
    lattice = {"boundary": "symm", "stride": stride, "offset": 0 if stride == 1 else (1, 0, 2)}
    image, matrix, used, target = scene((10, 11, 14), kernel, mode="same", **lattice)
    rng, more, counts = np.random.default_rng(5), {}, np.ones(target.shape)
    if degree is not None:
        terms = naive.volume_terms(target.shape, degree)
        target += (terms @ np.arange(3.0, 3 + terms.shape[1])).reshape(target.shape)
        matrix = np.hstack([matrix, terms])
    if kind == "weights":
        more["weights"] = counts = rng.random(target.shape) + 0.5
    elif kind != "plain":
        out = rng.random(target.shape) < 0.1
        counts = 1.0 - out
        more |= {"mask": out} if kind == "mask" else {"nan": "mask"}
        target[out] = np.nan if kind == "nan" else 50.0
    kept, root = counts.ravel() > 0, np.sqrt(counts.ravel())
    both = (root[:, None] * matrix)[kept], (root[kept] * target.ravel()[kept])
    expected = np.linalg.lstsq(*both, rcond=None)[0]
    words = {**lattice, "background": degree, **more}
    fit = find_kernel(image, target, kernel, **words, solver=CG, tolerance=1e-9)
    m = math.prod(kernel)
    assert_close(fit.kernel.ravel(), expected[:m], 1e-9)
    spare = kept.sum() - matrix.shape[1]
    noise = math.sqrt(np.sum((both[1] - both[0] @ expected) ** 2) / spare)
    spread = noise**2 * np.diag(np.linalg.inv(both[0].T @ both[0]))
    np.testing.assert_allclose(fit.noise_std, noise, rtol=1e-3)
    np.testing.assert_allclose(fit.typical_stderr, np.sqrt(spread[:m].mean()), rtol=0.1)
    if degree is not None:
        assert_close(fit.background.coefficients.ravel(), expected[m:], 1e-8)
        np.testing.assert_allclose(fit.background.stderr.ravel(), np.sqrt(spread[m:]), rtol=0.1)


def test_volumes_of_unlike_sizes_share_a_kernel():
    scenes = [scene(shape, (3, 2, 2), mode="valid", boundary=None) for shape in ((6, 9, 8), (9, 7, 10))]
    matrix = np.vstack([one for _, one, _, _ in scenes])
    values = np.concatenate([target.ravel() for *_, target in scenes])
    images, targets = [one[0] for one in scenes], [one[3] for one in scenes]
    fit = find_kernel(images, targets, (3, 2, 2), solver=CG, tolerance=1e-9)
    assert_close(fit.kernel.ravel(), np.linalg.lstsq(matrix, values, rcond=None)[0], 1e-9)


def laplacian(shape):
    """Of the nearest neighbours along three axes, its sign turned."""
    sides = [2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1) for n in shape]
    parts = [[side if i == j else np.eye(len(side)) for j, side in enumerate(sides)] for i in range(3)]
    return sum(functools.reduce(np.kron, part) for part in parts)


@grid("name, power", [("identity", 0), ("gradient", 1), ("laplacian", 2), ("biharmonic", 4)], 3)
def test_penalties(name, power):
    shape = (3, 2, 4)
    image, matrix, _, target = scene((10, 12, 9), shape, mode="same", boundary="wrap")
    gram, q = matrix.T @ matrix, np.linalg.matrix_power(laplacian(shape), power)
    detail = np.trace(gram) - gram.sum() / len(gram)
    kernel = np.linalg.solve(gram + 0.3 * detail / np.trace(q) * q, matrix.T @ target.ravel())
    fit = find_kernel(image, target, shape, boundary="wrap", solver=ConjugateGradient(name, 0.3), tolerance=1e-9)
    assert_close(fit.kernel.ravel(), kernel, 1e-9)
    same = kernelfit.Penalized("ridge" if name == "identity" else name, 0.3)
    assert_close(fit.kernel, find_kernel(image, target, shape, boundary="wrap", solver=same).kernel, 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [None, "point"])
def test_a_prior_whose_lengths_differ_along_the_axes(symmetric):
    shape = (3, 2, 4)
    prior = Prior("squared-exponential", 0.7, 1.5, 2.0, (1.1, 0.4, 1.6), "gaussian", symmetric, (0.5, 0.8))
    image, matrix, _, target = scene((8, 9, 11), shape, mode="same", boundary="wrap")
    places, scales = np.array(list(np.ndindex(shape))), np.array([0.5, 0.8, 1.0])
    envelope = np.exp(-np.sum(((places - prior.center) / scales) ** 2, axis=1) / (2 * prior.radius**2))
    apart = (places[:, None] - places) / scales
    covariance = np.exp(-np.sum(apart**2, axis=2) / (2 * prior.length**2))
    if symmetric:
        apart = (places[:, None] - (np.array(shape) - 1 - places)) / scales
        covariance += np.exp(-np.sum(apart**2, axis=2) / (2 * prior.length**2))
    covariance *= prior.amplitude**2 * envelope[:, None] * envelope
    inner = matrix @ covariance @ matrix.T + 0.5**2 * np.eye(len(matrix))
    expected = covariance @ matrix.T @ np.linalg.solve(inner, target.ravel())
    solver = ConjugateGradient(prior=prior, noise_std=0.5)
    fit = find_kernel(image, target, shape, boundary="wrap", solver=solver, tolerance=1e-9)
    assert_close(fit.kernel.ravel(), expected, 1e-8)


@pytest.mark.slow
def test_noise_of_photons_and_outliers():
    image, _, _, target = scene((12, 13, 10), (3, 2, 2), mode="same", boundary="wrap")
    target = target - target.min() + 5
    target.ravel()[np.random.default_rng(1).choice(target.size, 30)] += 40
    for words in ({"noise": (10.0, 1.0)}, {"robust": "clip"}):
        both = [
            find_kernel(image, target, (3, 2, 2), boundary="wrap", background=0, **words, solver=solver)
            for solver in (CG, None)
        ]
        assert np.linalg.norm(both[0].kernel - both[1].kernel) <= 0.05 * np.linalg.norm(both[1].stderr)
        np.testing.assert_allclose(both[0].noise_std, both[1].noise_std, rtol=0.02)


def test_large_kernels_are_found_so_unasked(monkeypatch):
    image, _, _, target = scene((10, 12, 9), (3, 2, 4), mode="same", boundary="wrap")
    monkeypatch.setattr(cost_model, "MOST_BYTES", 0)
    assert find_kernel(image, target, (3, 2, 4), boundary="wrap").method == "cg"
    assert find_kernel(image, target, (3, 2, 4), boundary="wrap", solver=kernelfit.Penalized()).method == "fft"
    strided = find_kernel(image, target[::2], (3, 2, 4), boundary="wrap", stride=(2, 1, 1))
    assert strided.method == "cg" and strided.verdict is kernelfit.Verdict.SOLVED


def test_pixels_that_overflow_are_named():
    image, _, _, target = scene((6, 7, 9), (3, 2, 2), mode="same", boundary="wrap")
    image[3, 4, 5] = np.inf
    with pytest.raises(
        ValueError, match=r"plane 3 with 1 pixel NaN or infinite, the first at \(row, column\) \(4, 5\)"
    ):
        find_kernel(image, target, (3, 2, 2), boundary="wrap", solver=CG)
