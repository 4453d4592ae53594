"""Noise that plain least squares does not reckon with: in the image, and correlated from pixel to pixel."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
import naive
from helpers import assert_close, grid
from kernelfit import Constrained, GaussianProcess, Penalized, Verdict
from kernelfit.data.observation import as_observation
from kernelfit.diagnostics import score_covariance, whiteness
from kernelfit.solvers import sandwich

KERNEL = np.outer([0.2, 1.0, 0.7, 0.0], [0.1, 0.5, 1.0, 0.4, -0.3])


def smooth(rng, shape=(70, 83), side=2):
    return scipy.signal.convolve2d(rng.normal(size=shape), np.ones((side, side)) / side, mode="same")


def blurred_noise(rng, shape, size=(3, 3)):
    return scipy.ndimage.uniform_filter(rng.normal(size=shape), size, mode="wrap") * np.sqrt(np.prod(size))


def verdicts(fit):
    return [finding.verdict for finding in fit.findings]


# ---- noise that is correlated ---------------------------------------------------------------------------------------


def test_the_autocovariance_is_that_of_the_residual():
    """A pair of one tile, lag by lag."""
    rng = np.random.default_rng(0)
    image = smooth(rng, (40, 33))
    target = scipy.signal.convolve2d(image, KERNEL, mode="same") + blurred_noise(rng, image.shape)
    fit = kernelfit.find_kernel(image, target, KERNEL.shape, operation="correlation")
    found = kernelfit.check_noise(image, target, fit)
    rest = fit.residual(image, target)
    rest = rest[np.isfinite(rest).any(axis=1)][:, np.isfinite(rest).any(axis=0)]
    assert found.n_pixels == rest.size == 37 * 29
    for dy, dx in ((0, 0), (0, 1), (2, 0), (1, -3), (8, 8)):
        one = rest[: rest.shape[0] - dy, max(0, -dx) : rest.shape[1] - max(0, dx)]
        two = rest[dy:, max(0, dx) : rest.shape[1] + min(0, dx)]
        assert found.autocovariance[8 + dy, 8 + dx] == pytest.approx(np.mean(one * two), rel=1e-9)
    assert_close(found.autocovariance, found.autocovariance[::-1, ::-1], 1e-12)


@pytest.mark.parametrize("rows", [3, 60])
def test_few_pixels_and_the_filtered_image_tell_it_nearly_as_well(rows):
    """With a constant, and pixels that do not count: few of them, so that the image is filtered, or many."""
    rng = np.random.default_rng(3)
    image = smooth(rng, (150, 170), 3) + 20.0
    target = scipy.signal.convolve2d(image, KERNEL, mode="same") + blurred_noise(rng, image.shape)
    weights = np.where(np.arange(len(image))[:, None] < rows, 0.0, np.ones(image.shape))
    fit = kernelfit.find_kernel(image, target, KERNEL.shape, background=0, weights=weights)
    shaping = whiteness.shaping_filter(kernelfit.check_noise(image, target, fit))
    model = kernelfit.Model(KERNEL.shape, background=0)
    pair = [as_observation(image, target, model)]
    used = [weights[1:-2, 2:-2]]
    assert used[0].shape == pair[0].size
    exact = score_covariance.correct(pair, fit, shaping, 1, weights=used)
    rough = score_covariance.correct(pair, fit, shaping, 1, weights=used, pixels=2**13)
    assert np.median(exact.stderr / fit.stderr) < 0.8 or np.median(exact.stderr / fit.stderr) > 1.25
    assert_close(rough.stderr, exact.stderr, 0.12)
    assert_close(rough.background.stderr, exact.background.stderr, 0.25)
    assert np.all(exact.background.stderr > 1.5 * fit.background.stderr)


@pytest.mark.slow
def test_white_noise_is_left_alone_and_coloured_noise_found():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        image = smooth(rng, (150, 161))
        clean = scipy.signal.convolve2d(image, KERNEL, mode="valid")
        fit = kernelfit.find_kernel(image, clean + 0.3 * rng.normal(size=clean.shape), KERNEL.shape)
        assert fit.verdict.ok
        # noise that differs from place to place is white all the same
        loud = np.where(np.arange(clean.shape[1]) < 40, 1.0, 0.1)
        assert kernelfit.find_kernel(image, clean + loud * rng.normal(size=clean.shape), KERNEL.shape).verdict.ok
        for size in ((3, 3), (1, 2)):
            fit = kernelfit.find_kernel(image, clean + 0.3 * blurred_noise(rng, clean.shape, size), KERNEL.shape)
            assert fit.verdict is Verdict.COLOURED_NOISE and "errors='sandwich'" in str(fit.findings[0])
    assert kernelfit.find_kernel(image, clean, KERNEL.shape).verdict.ok  # rounding is no noise


def test_a_kernel_cut_short_shows_in_the_residual():
    rng = np.random.default_rng(3)
    image = smooth(rng, (150, 161))
    target = scipy.signal.convolve2d(image, np.ones((9, 9)) / 81, mode="same") + 1e-3 * rng.normal(size=image.shape)
    assert verdicts(kernelfit.find_kernel(image, target, (7, 6))) == [Verdict.SHAPE_TOO_SMALL]


def test_the_shaping_filter_makes_the_noise():
    """White noise filtered by h has the autocovariance h * h."""
    rng = np.random.default_rng(5)
    image = smooth(rng, (400, 420))
    target = scipy.signal.convolve2d(image, KERNEL, mode="valid") + 0.2 * blurred_noise(rng, (397, 416), (3, 2))
    fit = kernelfit.find_kernel(image, target, KERNEL.shape)
    h = whiteness.shaping_filter(kernelfit.check_noise(image, target, fit))
    made = scipy.signal.convolve2d(h, h[::-1, ::-1])
    middle = len(made) // 2
    near = made[middle - 3 : middle + 4, middle - 3 : middle + 4]
    rows, cols = np.maximum(0, 3 - np.abs(np.arange(-3, 4))) / 3, np.maximum(0, 2 - np.abs(np.arange(-3, 4))) / 2
    assert_close(near, 0.04 * np.outer(rows, cols), 0.1)


def test_the_sandwich_is_that_of_the_dense_problem():
    """Against ``G^-1 A'CA G^-1`` with the noise's covariance between all pairs of pixels."""
    rng = np.random.default_rng(1)
    image = smooth(rng, (50, 43))
    matrix, used = naive.design_dense(image, (3, 4), mode="valid", boundary=None)
    target = (matrix @ rng.normal(size=12)).reshape(used.shape)
    target = target + 0.3 * blurred_noise(rng, target.shape)
    fit = kernelfit.find_kernel(image, target, (3, 4))
    better = kernelfit.sandwich_errors(image, target, fit)
    h = whiteness.shaping_filter(kernelfit.check_noise(image, target, fit))
    y, x = np.divmod(np.arange(used.size), used.shape[1])
    c = scipy.signal.convolve2d(h, h[::-1, ::-1])
    dy, dx = np.subtract.outer(y, y), np.subtract.outer(x, x)
    far = len(c) // 2
    inside = (np.abs(dy) <= far) & (np.abs(dx) <= far)
    cov = np.where(inside, c[np.clip(dy, -far, far) + far, np.clip(dx, -far, far) + far], 0.0)
    bread = np.linalg.inv(matrix.T @ matrix)
    truth = bread @ matrix.T @ cov @ matrix @ bread
    assert_close(better.covariance(), truth, 0.2)  # the edges: the filter reaches a good part of the way across
    assert better.kernel is fit.kernel and better.errors == "sandwich"
    again = kernelfit.find_kernel(image, target, (3, 4), errors="sandwich")
    assert_close(again.covariance(), better.covariance(), 1e-8)


@grid("convention", [{}, {"boundary": "symm", "operation": "correlation"}, {
    "boundary": "wrap", "stride": (1, 2), "offset": (0, 1)}], 2, ids=str)  # fmt: skip
@pytest.mark.parametrize("weighted", [False, True])
def test_the_weighted_sandwich_is_that_of_the_dense_problem(weighted, convention, monkeypatch):
    """The same of ``G_w^-1 A'W C W A G_w^-1``, exactly, edges and all, for a mask and for weights."""
    rng = np.random.default_rng(1)
    image = smooth(rng, (45, 52))
    convention = {"mode": "same", "boundary": None, **convention}
    matrix, used = naive.design_dense(image, (3, 4), **convention)
    target = naive.apply_design(matrix, used, rng.normal(size=(3, 4)))
    weights = rng.gamma(4.0, 0.25, target.shape) if weighted else np.ones(target.shape)
    target = target + 0.3 * blurred_noise(rng, target.shape) / np.sqrt(weights)
    mask = rng.random(target.shape) < 0.1
    weights[mask] = 0.0
    target[mask] = np.nan
    keywords = {"weights": weights} if weighted else {"mask": mask}
    plain = kernelfit.find_kernel(image, target, (3, 4), **keywords, **convention)
    assert plain.verdict is Verdict.COLOURED_NOISE
    found = kernelfit.check_noise(image, target, plain)
    assert found.reach >= 2 and found.n_pixels <= np.count_nonzero(~mask[used])
    fit = kernelfit.find_kernel(image, target, (3, 4), **keywords, **convention, errors="sandwich")
    h = whiteness.shaping_filter(found)
    c, roots = scipy.signal.convolve2d(h, h[::-1, ::-1]), np.sqrt(weights[used])
    y, x = np.nonzero(used)
    y, x = ((i - i.min()) for i in (y, x))
    left, counted = np.zeros((2, y.max() + 1, x.max() + 1))
    left[y, x] = np.nan_to_num(target[used] - matrix @ plain.kernel.ravel()) * roots
    counted[y, x] = roots > 0
    sums = [(a[1:, 2:] * a[:-1, :-2]).sum() for a in (left, counted)]
    assert found.autocovariance[9, 10] == pytest.approx(sums[0] / sums[1], rel=1e-9)  # of pairs that both count
    dy, dx, far = np.subtract.outer(y, y), np.subtract.outer(x, x), len(c) // 2
    inside = (np.abs(dy) <= far) & (np.abs(dx) <= far)
    cov = np.where(inside, c[np.clip(dy, -far, far) + far, np.clip(dx, -far, far) + far], 0.0)
    scaled = matrix * roots[:, None]
    bread = np.linalg.inv(scaled.T @ scaled)
    truth = bread @ scaled.T @ cov @ scaled @ bread
    assert_close(fit.covariance(), truth, 1e-9)
    assert_close(kernelfit.sandwich_errors(image, target, plain).covariance(), truth, 1e-9)
    monkeypatch.setattr(score_covariance, "_PIXELS", 1200)
    monkeypatch.setattr(score_covariance, "_SIDE", 12)
    assert_close(kernelfit.sandwich_errors(image, target, plain).covariance(), truth, 0.4)  # from some of the boxes
    monkeypatch.setattr(score_covariance, "_PIXELS", 500)
    few = kernelfit.sandwich_errors(image, target, plain).covariance()  # a quarter, each for four
    assert 0.6 < np.trace(few) / np.trace(truth) < 1.6


@pytest.mark.parametrize(
    "solver", [None, GaussianProcess("matern52"), Penalized("ridge", 1e-3), Constrained(total=2.9)]
)
def test_white_scores_leave_the_errors_as_they_are(solver):
    rng = np.random.default_rng(0)
    image = smooth(rng)
    target = scipy.signal.convolve2d(image, KERNEL, mode="valid") + rng.normal(0.0, 0.3, (67, 79))
    stats = kernelfit.accumulate(image, target, KERNEL.shape)
    fit = stats.solve(solver)
    same = sandwich.with_scores(fit, stats.gram, fit.noise_std**2 * stats.gram)
    assert_close(same.covariance(), fit.covariance(), 1e-6)
    twice = sandwich.with_scores(fit, stats.gram, 4 * fit.noise_std**2 * stats.gram)
    assert (twice.stderr >= same.stderr * (1 - 1e-6)).all() and (twice.stderr <= 2 * same.stderr * (1 + 1e-6)).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(3, 3), (1, 5)])
def test_coverage_under_coloured_noise(size):
    """The sum of the taps, and the taps: plain intervals miss the one too often and the others too seldom."""
    rng = np.random.default_rng(9)
    hits = {"plain": [], "sandwich": []}
    sums = {"plain": [], "sandwich": []}
    for _ in range(60):
        image = smooth(rng, (80, 91))
        target = scipy.signal.convolve2d(image, KERNEL, mode="valid")
        target = target + 0.3 * blurred_noise(rng, target.shape, size)
        for errors in hits:
            fit = kernelfit.find_kernel(image, target, KERNEL.shape, errors=errors)
            low, high = fit.confidence(0.95)
            hits[errors].append(np.mean((low <= KERNEL) & (high >= KERNEL)))
            far = abs(fit.kernel.sum() - KERNEL.sum()) / np.sqrt(fit.covariance().sum())
            sums[errors].append(far < 1.96)
    assert np.mean(sums["plain"]) < 0.8 and 0.88 <= np.mean(sums["sandwich"]) <= 1.0
    assert np.mean(hits["plain"]) > 0.97 and 0.93 <= np.mean(hits["sandwich"]) <= 0.97


def test_large_images_are_sampled(monkeypatch):
    """Blocks spread over the image give nearly what all of it gives."""
    rng = np.random.default_rng(4)
    image = smooth(rng, (300, 280))
    target = scipy.signal.convolve2d(image, KERNEL, mode="valid") + 0.3 * blurred_noise(rng, (297, 276))
    fit = kernelfit.find_kernel(image, target, KERNEL.shape)
    whole = kernelfit.sandwich_errors(image, target, fit)
    monkeypatch.setattr(score_covariance, "_WHOLE", 1000)
    monkeypatch.setattr(score_covariance, "_BLOCK", 64)
    assert_close(kernelfit.sandwich_errors(image, target, fit).covariance(), whole.covariance(), 0.1)


def test_few_pixels_are_enough_for_an_answer():
    rng = np.random.default_rng(0)
    for rows, cols in ((6, 7), (7, 9), (12, 5), (16, 13)):
        image, target = rng.random((rows, cols)), blurred_noise(rng, (rows, cols), (3, 3))
        for boundary in ("fill", "symm"):
            fit = kernelfit.find_kernel(image, target, (3, 4), boundary=boundary, errors="sandwich", image_noise=0.01)
            assert np.isfinite(fit.stderr).all() and fit.errors == "sandwich"
            assert kernelfit.check_noise(image, target, fit).n_pixels == rows * cols


def test_pairs_that_do_not_go_with_a_fit_are_refused():
    rng = np.random.default_rng(0)
    image, target = rng.random((2, 40, 50))
    fit = kernelfit.find_kernel(image, target, (3, 5), mode="same")
    for function in (kernelfit.check_noise, kernelfit.sandwich_errors):
        with pytest.raises(ValueError, match="need|fits"):
            function(image, target[:-1], fit)
    large = kernelfit.find_kernel(image, target, (3, 5), method="cg")
    with pytest.raises(ValueError, match="found iteratively"):
        kernelfit.sandwich_errors(image, target, large)
    assert not kernelfit.check_noise(image, target, large).coloured


def test_what_is_no_fit_and_nan_are_refused():
    image, target = np.random.default_rng(0).random((2, 40, 50))
    for look in (kernelfit.check_noise, kernelfit.sandwich_errors, kernelfit.check_boundary):
        with pytest.raises(TypeError, match="got fit='fit', need a KernelFit"):
            look(image, target, "fit")
    fit = kernelfit.find_kernel(image, target, (3, 2))
    target[5, 6] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinite, the first at \(row, column\) \(5, 6\)"):
        kernelfit.check_noise(image, target, fit)
