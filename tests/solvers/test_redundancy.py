"""What the data decide every solver says alike: unrelated images are not solved, small fits that are right are."""

import numpy as np
import pytest
import scipy.signal

import kernelfit
from helpers import grid
from kernelfit import (
    Constrained,
    GaussianProcess,
    InBasis,
    LeastSquares,
    NonNegative,
    Penalized,
    Sparse,
    Verdict,
)


def solvers(taps):
    basis = np.random.default_rng(7).normal(size=(taps, max(1, taps // 2)))
    return {
        "least squares": LeastSquares(),
        "auto": "auto",
        "Sparse": Sparse(),
        "ridge": Penalized("ridge"),
        "biharmonic": Penalized(),
        "GaussianProcess": GaussianProcess(),
        "NonNegative": NonNegative(),
        "NonNegative, penalty": NonNegative(penalty="ridge"),
        "total": Constrained(total=1.0),
        "symmetric": Constrained(symmetric="point"),
        "basis": InBasis(basis),
    }


@grid(
    "size, shape, n",
    [((5, 5), (3, 3), 20), ((5, 6), (3, 3), 20), ((6, 5), (2, 3), 20), ((8, 7), (3, 5), 20), ((9, 10), (5, 5), 10)],
    5,
)
def test_unrelated_noise_is_solved_by_no_solver(size, shape, n):
    rng = np.random.default_rng(0)
    solved = dict.fromkeys(solvers(1), 0)
    for i in range(n):
        image, target = rng.random(size) + i % 2, rng.normal(size=size) * 10.0 ** (i % 3)
        stats = kernelfit.accumulate(image, target, shape)
        for name, solver in solvers(shape[0] * shape[1]).items():
            solved[name] += stats.solve(solver).verdict.ok
    assert max(solved.values()) <= (1 if n > 10 else 0), solved


@pytest.mark.parametrize("name", [name for name in solvers(1) if name not in ("total", "symmetric", "basis")])
def test_no_more_pixels_than_taps(name):
    rng = np.random.default_rng(1)
    fit = kernelfit.accumulate(*rng.normal(size=(2, 5, 7)), (3, 4)).solve(solvers(12)[name])
    assert any(f.verdict is Verdict.NO_REDUNDANCY for f in fit.findings)


@pytest.mark.parametrize("name", list(solvers(1)))
def test_small_fits_that_are_right_stay_solved(name):
    rng = np.random.default_rng(2)
    image = rng.random((8, 9))
    kernel = np.outer([0.5, 1.0, 0.5], [0.25, 0.5, 1.0, 0.5, 0.25]) / 5
    stats = kernelfit.accumulate(image, scipy.signal.convolve2d(image, kernel, mode="valid"), (3, 5))  # 30 pixels
    solver = solvers(15)[name]
    solver = InBasis(np.stack([kernel, np.ones((3, 5))])) if name == "basis" else solver
    solver = Constrained(total=float(kernel.sum())) if name == "total" else solver
    fit = stats.solve(solver)
    assert fit.verdict.ok, fit.findings
    assert np.allclose(fit.kernel, kernel, atol=1e-6)
    noisy = scipy.signal.convolve2d(image, kernel, mode="valid") + rng.normal(0.0, 0.005, (6, 5))
    assert kernelfit.accumulate(image, noisy, (3, 5)).solve(solver).verdict.ok


def test_the_first_question_stays_solved():
    """6x6 integers, 36 pixels for 25 taps: exact, so that chance is out of the question."""
    image = np.random.default_rng(0).integers(0, 10, (6, 6)).astype(float)
    kernel = np.zeros((5, 5))
    kernel[1, 0] = 0.5
    target = scipy.signal.convolve2d(image, kernel, mode="same")
    assert not any(
        f.verdict is Verdict.NO_REDUNDANCY for f in kernelfit.find_kernel(image, target, 5, boundary="fill").findings
    )


def test_little_redundancy_in_figures():
    rng = np.random.default_rng(3)
    fit = kernelfit.accumulate(rng.normal(size=(7, 8)), rng.normal(size=(7, 8)), (3, 5)).solve()  # 20 pixels, 15 taps
    (finding,) = [f for f in fit.findings if f.verdict is Verdict.NO_REDUNDANCY]
    assert "1.33 pixels for each unknown" in finding.detail and "known to 32%" in finding.detail


@pytest.mark.parametrize(("size", "little"), [((4, 12), True), ((5, 10), True), ((4, 14), False), ((5, 11), False)])
def test_a_right_kernel_from_hardly_more_pixels_than_taps(size, little):
    """Up to a quarter more is little, however well they fit."""
    rng = np.random.default_rng(5)
    image, kernel = rng.random(size), rng.normal(size=(3, 5))
    target = scipy.signal.convolve2d(image, kernel, mode="valid") + rng.normal(0.0, 1e-3, (size[0] - 2, size[1] - 4))
    fit = kernelfit.accumulate(image, target, kernel.shape).solve()
    told = [f.detail for f in fit.findings if f.verdict is Verdict.NO_REDUNDANCY]
    assert bool(told) == little
    times = 1 / np.sqrt(1 - 15 / target.size)
    assert not little or f"about {times:.2g} times those of many pixels" in told[0]
