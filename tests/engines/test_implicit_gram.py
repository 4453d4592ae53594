"""Conjugate gradients on the structure of the Gram matrix, against the matrix itself."""

import numpy as np
import pytest
import scipy.signal

import kernelfit
from helpers import grid, observe
from kernelfit.core import geometry
from kernelfit.engines import accumulation, implicit_gram, passes
from kernelfit.solvers import conjugate_gradient


def pair_of(image_shape, kernel_shape, noise, seed=0):
    rng = np.random.default_rng(seed)
    image = scipy.signal.convolve2d(rng.normal(size=image_shape), np.ones((3, 2)) / 6, mode="same") + 5
    kernel = rng.normal(size=kernel_shape)
    target = scipy.signal.convolve2d(image, kernel, mode="same", boundary="wrap")
    return image, target + noise * rng.normal(size=image_shape), kernel


@pytest.mark.parametrize("boundary", [None, "wrap", "symm"])
@pytest.mark.parametrize(
    ("image_shape", "kernel_shape"),
    [((70, 90), (5, 8)), ((90, 70), (8, 5)), ((150, 120), (21, 9)), ((40, 300), (1, 33)), ((200, 31), (17, 2))],
)
@pytest.mark.parametrize("most_products", [0, implicit_gram.MOST_PRODUCTS])
def test_operator_equals_the_gram_matrix(image_shape, kernel_shape, boundary, most_products, monkeypatch):
    monkeypatch.setattr(implicit_gram, "MOST_PRODUCTS", most_products)
    image, target, _ = pair_of(image_shape, kernel_shape, 0.1)
    settings = dict(mode=None, boundary=boundary, fillvalue=0.0, origin=None, operation="convolution")
    observation = observe(image, target, kernel_shape, **settings)
    frame = passes.Frame.of(observation)
    sums, _ = accumulation.pass_over(observation, frame, "fft", 2, None, None)
    operator = implicit_gram.NormalOperator(frame, sums.lags[0, 0], 2)
    taps = np.random.default_rng(1).normal(size=kernel_shape)
    found = frame.to_user(operator(frame.from_user(taps[None])[0])[None])
    expected = kernelfit.accumulate(image, target, kernel_shape, boundary=boundary).gram @ taps.ravel()
    assert np.linalg.norm(found.ravel() - expected) <= 1e-13 * np.linalg.norm(expected)


@grid("operation", geometry.OPERATIONS, 2)
@pytest.mark.parametrize("shape", [(13, 9), (6, 17)])
def test_same_kernel_as_by_cholesky(shape, operation):
    image, target, _ = pair_of((120, 150), shape, 0.3)
    dense = kernelfit.find_kernel(image, target, shape, boundary="wrap", operation=operation, method="fft")
    fit = kernelfit.find_kernel(image, target, shape, boundary="wrap", operation=operation, method="cg")
    assert fit.method == "cg" and fit.iterations > 0 and fit.tolerance == conjugate_gradient.TOLERANCE
    assert fit.verdict is dense.verdict
    # The solver's own error is about the tolerance times that of the noise, in the norm of the Gram matrix (which the
    # preconditioner stands for when it is time to stop, hence the factor).
    gram = kernelfit.accumulate(image, target, shape, boundary="wrap", operation=operation).gram
    step = (fit.kernel - dense.kernel).ravel()
    assert 0 < step @ gram @ step <= 9 * (conjugate_gradient.TOLERANCE * dense.noise_std) ** 2 * step.size
    np.testing.assert_allclose(fit.rss, dense.rss, rtol=1e-3)
    np.testing.assert_allclose(fit.noise_std, dense.noise_std, rtol=1e-3)
    np.testing.assert_allclose(fit.stderr.mean(), dense.stderr.mean(), rtol=0.33)


@pytest.mark.slow
def test_noise_free_to_rounding():
    image, target, kernel = pair_of((130, 110), (11, 14), 0.0)
    fit = kernelfit.find_kernel(image, target, kernel.shape, boundary="wrap", method="cg")
    assert fit.refined >= 1
    assert np.linalg.norm(fit.kernel - kernel) <= 1e-12 * np.linalg.norm(kernel)


@pytest.mark.slow
def test_a_smaller_tolerance_is_kept():
    image, target, _ = pair_of((120, 150), (9, 12), 0.3)
    exact = kernelfit.find_kernel(image, target, (9, 12), method="fft").kernel
    rough, fine = (
        np.linalg.norm(kernelfit.find_kernel(image, target, (9, 12), method="cg", tolerance=t).kernel - exact)
        for t in (0.3, 1e-6)
    )
    assert fine < 1e-4 * rough


@pytest.mark.slow
def test_progress_is_told():
    image, target, _ = pair_of((60, 80), (9, 12), 0.3)
    told = []
    kernelfit.find_kernel(image, target, (9, 12), method="cg", progress=lambda *args: told.append(args))
    stages = [stage for stage, _, _ in told]
    assert stages[0] == "reading pixels" and stages[-1] == "iterating"
    assert all(0 < done <= total for _, done, total in told)


def test_an_image_without_detail_is_said_not_to_converge_or_solved():
    image, target = np.full((60, 70), 3.0), np.random.default_rng(2).normal(size=(60, 70))
    fit = kernelfit.find_kernel(image, target, (9, 12), method="cg")
    assert np.isfinite(fit.kernel).all() and not fit.verdict.ok


@pytest.mark.slow
def test_what_is_not_to_be_had_is_said(tmp_path):
    image, target, _ = pair_of((60, 80), (9, 12), 0.3)
    fit = kernelfit.find_kernel(image, target, (9, 12), method="cg")
    with pytest.raises(ValueError, match="found iteratively"):
        fit.covariance()
    with pytest.raises(ValueError, match="conjugate gradients never form these sums"):
        kernelfit.accumulate(image, target, (9, 12), method="cg")
    with pytest.raises(ValueError, match="tolerance"):
        kernelfit.find_kernel(image, target, (9, 12), method="cg", tolerance=2.0)
    fit.save(tmp_path / "fit.npz")
    again = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    assert again.factor is None and (again.stderr == fit.stderr).all() and again.iterations == fit.iterations
    assert "iterations" in fit.summary()


def test_chosen_by_cost():
    assert kernelfit.choose_method((4096, 4096), 127).method == "cg"
    assert kernelfit.choose_method((2048, 2048), (31, 30)).method == "fft"
    assert kernelfit.choose_method((512, 700), (3, 2)).method == "direct"
    assert kernelfit.choose_method((1, 10**7), (1, 1001)).method == "fft"
