"""Priors and penalties do not see the mean of an image, and equations of any scale have the same answer."""

import numpy as np
import pytest
import scipy.signal

import kernelfit
from kernelfit import Constrained, GaussianProcess, InBasis, LeastSquares, NonNegative, Penalized, Sparse, Verdict

SHAPE = (5, 7)
SOLVERS = {
    "ridge": Penalized("ridge"),
    "gradient": Penalized("gradient"),
    "given strength": Penalized("ridge", 0.01),
    "GaussianProcess": GaussianProcess(),
    "Sparse": Sparse(),
    "NonNegative": NonNegative(),
    "NonNegative, ridge": NonNegative(penalty="ridge"),
    "symmetric": Constrained(symmetric="both"),
}


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(3)
    image = rng.normal(size=(90, 100))
    y, x = np.mgrid[-2:3, -3:4]
    kernel = np.exp(-(y**2) / 2.2 - x**2 / 4)
    kernel /= kernel.sum()
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    return image, target + rng.normal(0.0, 0.1, target.shape)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("mean", [-1e5, 1e6])
def test_a_mean_changes_no_more_than_the_sum(pair, name, mean):
    """It tells the sum of the taps, and nothing else; all else stays within a fraction of an error."""
    image, target = pair
    error = kernelfit.find_kernel(image, target, SHAPE).stderr.max()
    plain = kernelfit.find_kernel(image, target, SHAPE, solver=SOLVERS[name])
    moved = kernelfit.find_kernel(image + mean, target + mean, SHAPE, solver=SOLVERS[name])
    assert np.abs(moved.kernel - plain.kernel).max() < 0.6 * error
    assert abs(moved.kernel.sum() - 1) < 1e-6
    assert np.median(moved.stderr) == pytest.approx(np.median(plain.stderr), rel=0.2)
    assert not any(f.verdict is Verdict.NO_MINIMUM for f in moved.findings)


def test_a_mean_of_one_of_two_sources(pair):
    image, target = pair
    other = np.random.default_rng(4).normal(size=image.shape)
    both = target + scipy.signal.convolve2d(other, np.full(SHAPE, 0.02), mode="valid")
    images = [np.stack([image + mean, other]) for mean in (0.0, 1e6)]
    targets = [both + mean for mean in (0.0, 1e6)]
    kw = {"channels": "mixed", "channel_axis": 0, "mode": "valid"}
    for solver in (Penalized("ridge"), NonNegative()):
        a, b = (
            kernelfit.find_kernel(x, y[None], SHAPE, solver=solver, **kw) for x, y in zip(images, targets, strict=True)
        )
        assert np.abs(a.kernel - b.kernel).max() < 0.6 * a.stderr.max()


def test_a_strength_at_the_end_of_its_path_is_told():
    rng = np.random.default_rng(0)
    for _ in range(20):
        fit = kernelfit.accumulate(*rng.normal(size=(2, 20, 22)), (3, 4)).solve(Penalized("ridge"))
        at_end = fit.strength in (fit.path.strength[0], fit.path.strength[-1])
        assert at_end == any(f.verdict is Verdict.NO_MINIMUM for f in fit.findings)


def stats_of(a, y, image, target):
    a, y = np.ldexp(a, image), np.ldexp(y, target)
    sums = float(y @ y), float(y.sum())
    return kernelfit.NormalStats(a.T @ a, a.T @ y, *sums, len(y), ((3, 5),), kernelfit.Convention())


@pytest.mark.parametrize("image, target", [(500, 500), (-495, -495), (-490, 0), (0, -490), (480, -470)])
def test_the_same_bits_at_any_scale(image, target, capfd):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(400, 15))
    y = a @ np.eye(15)[3] - a[:, 7] / 2 + rng.normal(0.0, 0.1, 400)
    unit = float(np.ldexp(1.0, target - image))
    for solver in (
        *(LeastSquares(), "auto", Sparse(), Penalized(), Penalized("ridge"), GaussianProcess(), NonNegative()),
        *(Constrained(symmetric="point"), InBasis(np.eye(15)[:, 2:9])),
    ):
        plain, far = stats_of(a, y, 0, 0).solve(solver), stats_of(a, y, image, target).solve(solver)
        assert far.kernel.tobytes() == (plain.kernel * unit).tobytes() and far.verdict is plain.verdict
        assert far.noise_std == np.ldexp(plain.noise_std, target)
    held = [
        stats_of(a, y, 0, 0).solve(Constrained(total=0.3)),
        stats_of(a, y, image, target).solve(Constrained(total=0.3 * unit)),
    ]
    assert np.allclose(held[1].kernel / unit, held[0].kernel, rtol=1e-12)
    assert capfd.readouterr() == ("", "")  # nothing from LAPACK


@pytest.mark.parametrize("factor", [1e-162, 1e-170])
def test_squares_that_underflow_are_refused(factor):
    rng = np.random.default_rng(1)
    image, target = rng.normal(size=(2, 20, 23)) * factor
    with pytest.raises(ValueError, match="squares underflow; multiply"):
        kernelfit.find_kernel(image, target, (3, 4))
    fine = kernelfit.find_kernel(image / factor * 1e-150, image / factor * 1e-150, (3, 4))
    assert fine.verdict.ok and abs(fine.kernel[1, 1] - 1) < 1e-12
    zero = kernelfit.find_kernel(image * 0, target / factor, (3, 4))
    assert zero.verdict is Verdict.RANK_DEFICIENT


@pytest.mark.parametrize("mean", [1e7, 1e8])
def test_a_mean_that_drowns_all_detail_is_no_exception(mean):
    rng = np.random.default_rng(0)
    image = rng.standard_normal((60, 71)) + mean
    target = image[:, ::-1] + 0.05 * rng.standard_normal(image.shape)
    for solver in ("auto", kernelfit.GaussianProcess()):
        assert not kernelfit.find_kernel(image, target, (3, 5), solver=solver).verdict.ok


@pytest.mark.parametrize("solver", [kernelfit.GaussianProcess(), kernelfit.Sparse(), "auto", kernelfit.Penalized()])
def test_a_mean_that_drowns_the_target_gives_no_large_kernel(solver):
    """Where the target varies by rounding alone, no solver makes a kernel out of that."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(41, 52))
    for mean in (1e8, 3e9):
        fit = kernelfit.find_kernel(image + mean, 0.01 * image + 3 * mean, (3, 4), solver=solver)
        assert not fit.verdict.ok and np.abs(fit.kernel).max() < 10
