"""Smaller supports, solvers compared, and what "auto" picks."""

import numpy as np
import pytest
import scipy.signal
import scipy.stats

import kernelfit
import naive
from kernelfit import GaussianProcess, LeastSquares, Penalized, Sparse

IMAGE, SHAPE = (24, 31), (7, 6)


def pair(seed=0, shape=SHAPE, noise=0.2, image=IMAGE):
    rng = np.random.default_rng(seed)
    before = scipy.signal.convolve2d(rng.normal(size=image), np.ones((2, 2)), mode="same")
    target = scipy.signal.convolve2d(before, rng.normal(size=shape), mode="same")
    return before, target + rng.normal(0.0, noise, target.shape)


# ---- compare --------------------------------------------------------------------------------------------------------


def test_compare_predicts_each_tile_from_the_others():
    image, target = pair(noise=2.0)
    pieces = [(image[a : b + 6], target[a + 3 : b + 3]) for a, b in ((0, 6), (6, 12), (12, 18))]
    tiles, dense = [], []
    for source, result in pieces:
        tiles.append(kernelfit.accumulate(source, result[:, 2:-3], SHAPE, mode="valid"))
        dense.append((naive.design(source, SHAPE, mode="valid", boundary=None)[0], result[:, 2:-3].ravel()))
    stats = tiles[0] + tiles[1] + tiles[2]
    expected = 0.0
    for out, (a, y) in enumerate(dense):
        rest = [pair for at, pair in enumerate(dense) if at != out]
        k = np.linalg.lstsq(np.vstack([r[0] for r in rest]), np.concatenate([r[1] for r in rest]), rcond=None)[0]
        expected += np.sum((y - a @ k) ** 2) / stats.n_pixels
    found = kernelfit.compare(stats, [LeastSquares(), Sparse(n_taps=1)], tiles=tiles)
    at = [fit.solver for fit in found.fits].index("LeastSquares()")
    assert found.scores["prediction"][at] == pytest.approx(expected, rel=1e-8)
    assert found.ranked_by == "prediction" and list(found.scores["prediction"]) == sorted(found.scores["prediction"])
    assert len(str(found).splitlines()) == 4


@pytest.mark.slow
def test_compare_by_each_score():
    stats = kernelfit.accumulate(*pair(), SHAPE)
    solvers = [LeastSquares(), Penalized("ridge"), GaussianProcess("matern32"), "auto"]
    n = stats.n_pixels
    for by in ("gcv", "aic", "bic", "evidence"):
        found = kernelfit.compare(stats, solvers, by=by)
        values = [v for v in found.scores[by] if not np.isnan(v)]
        assert values == sorted(values, reverse=by == "evidence")
        for fit, gcv in zip(found.fits, found.scores["gcv"], strict=True):
            assert gcv == pytest.approx(n * fit.rss / (n - fit.df_model) ** 2)
    with pytest.raises(ValueError, match="prediction needs tiles"):
        kernelfit.compare(stats, solvers, by="prediction")
    with pytest.raises(ValueError, match="need at least one"):
        kernelfit.compare(stats, [])
    with pytest.raises(ValueError, match="add up to"):
        kernelfit.compare(stats, solvers, tiles=[stats, stats])


# ---- support --------------------------------------------------------------------------------------------------------


def test_the_right_support_is_found():
    """Random kernels, 3x3 to 11x9, noise 0.1 to 3 %; asked for at most 15x17 to be quick."""
    right, scenes = 0, 40
    for seed in range(scenes):
        rng = np.random.default_rng(seed)
        shape = (int(rng.choice([3, 5, 7, 9, 11])), int(rng.choice([3, 5, 7, 9])))
        image = scipy.signal.convolve2d(rng.normal(size=(90, 101)), np.ones((3, 3)), mode="same")
        kernel = rng.normal(size=shape)
        target = scipy.signal.convolve2d(image, kernel, mode="same")
        target += rng.normal(0.0, target.std() * 10 ** rng.uniform(-3, np.log10(0.03)), target.shape)
        stats = kernelfit.accumulate(image, target, (15, 17))
        found = kernelfit.choose_support(stats)
        assert found.shape[0] >= shape[0] and found.shape[1] >= shape[1]
        assert found.stats.supports == (found.shape,) and 0 <= found.p_value <= 1
        right += found.shape == shape and found.corner == ((15 - shape[0]) // 2, (17 - shape[1]) // 2)
    assert right >= 0.95 * scenes


def test_a_support_off_the_centre_and_without_noise():
    rng = np.random.default_rng(0)
    image, kernel = rng.normal(size=(50, 61)), np.zeros((9, 8))
    kernel[3:6, 2:7] = rng.normal(size=(3, 5))
    target = scipy.signal.convolve2d(image, kernel, mode="same")
    found = kernelfit.choose_support(kernelfit.accumulate(image, target, (9, 8)))
    assert found.shape == (3, 5) and found.corner == (3, 2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        kernelfit.choose_support(found.stats, level=2.0)
    with pytest.raises(ValueError, match="start from a smaller shape"):
        kernelfit.choose_support(kernelfit.accumulate(np.ones((30, 31)), np.ones((30, 31)), (5, 4)))


def test_what_was_left_out_is_tested_as_a_whole():
    """Rows at the rim none of which tells by itself, and that together do."""
    rng = np.random.default_rng(2)
    image = rng.normal(size=(90, 101))
    kernel = np.zeros((9, 3))
    kernel[4] = 1.0
    for size in np.linspace(0.5, 3.0, 26):
        kernel[[0, 1, 2, 3, 5, 6, 7, 8]] = size / 90
        target = scipy.signal.convolve2d(image, kernel, mode="same") + rng.normal(size=image.shape)
        stats = kernelfit.accumulate(image, target, (9, 3))
        found, whole = kernelfit.choose_support(stats), stats.solve()
        count = 27 - found.shape[0] * found.shape[1]
        if count:
            rise = (found.stats.solve().rss - whole.rss) / count / (whole.rss / whole.df_resid)
            assert found.p_value == pytest.approx(scipy.stats.f.sf(rise, count, whole.df_resid), rel=1e-6)
            assert found.p_value > 1e-4
