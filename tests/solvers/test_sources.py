"""Forms and sums of several sources, and what solvers say of a target that is zero."""

import numpy as np
import pytest

import kernelfit
from kernelfit import Constrained, GaussianProcess, InBasis, LeastSquares, NonNegative, Penalized, Sparse, Verdict

MIXED = {"channels": "mixed", "channel_axis": 0}


@pytest.fixture(scope="module")
def mixed():
    rng = np.random.default_rng(0)
    image = rng.random((2, 40, 47))
    y, x = np.mgrid[-1:2, -2:3]
    basis = np.stack([np.exp(-(y**2 + x**2) / (2 * s**2)) for s in (0.7, 1.5)])
    kernels = np.stack([basis[0] + 0.5 * basis[1], -0.3 * basis[1]])
    target = sum(kernelfit.apply_kernel(i, k) for i, k in zip(image, kernels, strict=True))
    return image, (target + rng.normal(0.0, 1e-3, target.shape))[None], basis, kernels


@pytest.mark.parametrize("background", [None, 0])
def test_a_basis_serves_every_source(mixed, background):
    image, target, basis, kernels = mixed
    fit = kernelfit.find_kernel(image, target, (3, 5), solver=InBasis(basis), background=background, **MIXED)
    assert np.allclose(fit.kernel[0], kernels, atol=2e-3) and fit.parts[0].df_model == 4
    whole = np.kron(np.eye(2), basis.reshape(2, -1).T)
    other = kernelfit.find_kernel(image, target, (3, 5), solver=InBasis(whole), background=background, **MIXED)
    assert np.allclose(fit.kernel, other.kernel, atol=1e-12)
    with pytest.raises(ValueError, match="basis for 12 taps, need 30"):
        kernelfit.find_kernel(image, target, (3, 5), solver=InBasis(np.ones((1, 3, 4))), **MIXED)


def test_a_basis_with_a_column_twice(mixed):
    image, target, basis, kernels = mixed
    twice = InBasis(np.stack([basis[0], basis[1], basis[0] + basis[1]]))
    fit = kernelfit.find_kernel(image, target, (3, 5), solver=twice, **MIXED)
    assert fit.parts[0].df_model == 4 and np.allclose(fit.kernel[0], kernels, atol=2e-3)


def test_totals_of_each_source(mixed):
    image, target, _, _ = mixed
    free = kernelfit.find_kernel(image, target, (3, 5), **MIXED).kernel[0]
    one = kernelfit.find_kernel(image, target, (3, 5), solver=Constrained(total=[None, -1.0]), **MIXED).kernel[0]
    assert one[1].sum() == pytest.approx(-1.0, abs=1e-12) and abs(one[0].sum() - free[0].sum()) > 1e-6
    both = kernelfit.find_kernel(image, target, (3, 5), solver=Constrained(total=2.0), **MIXED).kernel[0]
    assert np.allclose(both.sum(axis=(1, 2)), 2.0)
    with pytest.raises(ValueError, match="got 3 totals, need one, or one for each of 2"):
        kernelfit.find_kernel(image, target, (3, 5), solver=Constrained(total=[1.0, None, 2.0]), **MIXED)
    with pytest.raises(ValueError, match="finite"):
        Constrained(total=[1.0, np.nan])


@pytest.mark.parametrize(
    "solver",
    [LeastSquares(), "auto", Sparse(), Sparse(n_taps=2), Penalized(), GaussianProcess(), NonNegative(total=1.0)],
    ids=str,
)
def test_a_target_or_an_image_of_zeros(solver):
    image, zero = np.random.default_rng(0).normal(size=(20, 24)), np.zeros((20, 24))
    for x, y in ((image, zero), (zero, image), (zero, zero)):
        fit = kernelfit.find_kernel(x, y, (3, 5), solver=solver)
        assert np.isfinite(fit.kernel).all()
        assert fit.verdict in (Verdict.NO_SIGNAL, Verdict.RANK_DEFICIENT, Verdict.PRIOR_DECIDES)


def test_what_solvers_need():
    for solver in (LeastSquares(), Sparse(), Penalized(), GaussianProcess(), NonNegative(), Constrained(total=1.0)):
        assert solver.needs == "normal equations"
    assert InBasis(np.ones((2, 3, 4))).needs == "normal equations" and "needs" not in repr(Sparse())
