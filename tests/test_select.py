"""Smaller supports, solvers compared, and what "auto" picks."""

import numpy as np
import pytest
import scipy.signal

import kernelfit
import naive
from kernelfit import Constrained, GaussianProcess, LeastSquares, Penalized, Sparse
from kernelfit.solvers import auto

IMAGE, SHAPE = (24, 31), (7, 6)


def pair(seed=0, shape=SHAPE, noise=0.2, image=IMAGE):
    rng = np.random.default_rng(seed)
    before = scipy.signal.convolve2d(rng.normal(size=image), np.ones((2, 2)), mode="same")
    target = scipy.signal.convolve2d(before, rng.normal(size=shape), mode="same")
    return before, target + rng.normal(0.0, noise, target.shape)


# ---- statistics of parts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize("corner", [None, (1, 0), (3, 2)])
@pytest.mark.parametrize("centred", [False, True])
def test_crop_is_the_block_of_the_smaller_support(close, operation, corner, centred):
    image, target = pair()
    stats = kernelfit.accumulate(image, target, SHAPE, operation=operation)
    matrix, used = naive.design(image, SHAPE, mode="same", boundary=None, operation=operation)
    y = target[used]
    if centred:
        c = np.linspace(-1, 1, stats.n_taps)
        stats = stats.centered(c, matrix.T @ (y - matrix @ c), float(np.sum((y - matrix @ c) ** 2)))
    small = stats.crop((3, 3), corner)
    row, col = corner if corner is not None else (2, 1)  # origin (3, 2) less the new centre (1, 1)
    kept = np.arange(stats.n_taps).reshape(SHAPE)[row : row + 3, col : col + 3].ravel()
    truth = np.linalg.lstsq(matrix[:, kept], y, rcond=None)[0]
    fit = small.solve()
    close(fit.kernel.ravel(), truth, 1e-10)
    assert fit.rss == pytest.approx(np.sum((y - matrix[:, kept] @ truth) ** 2), rel=1e-9)
    assert small.convention.origin == (3 - row, 2 - col)
    close(fit.predict(image)[used], matrix[:, kept] @ truth, 1e-10)


def test_crop_refuses_what_lies_outside():
    stats = kernelfit.accumulate(*pair(), SHAPE)
    for shape, corner in (((8, 3), None), ((3, 3), (5, 0)), ((3, 3), (-1, 0))):
        with pytest.raises(ValueError, match="need one inside 7x6"):
            stats.crop(shape, corner)
    with pytest.raises(ValueError, match="need one that holds the origin"):
        stats.crop((3, 3), (0, 0))


@pytest.mark.parametrize("centred", [False, True])
def test_taking_a_part_away_leaves_the_other(same_stats, centred):
    image, target = pair()
    north = kernelfit.accumulate(image[:15], target[:15], SHAPE)
    south = kernelfit.accumulate(image[9:], target[9:], SHAPE)
    both = north + south
    if centred:
        c = np.linspace(-1, 1, both.n_taps)
        both = both.centered(c, *both._centered(c))
    rest = both - north
    same_stats(rest, south)
    assert np.allclose(rest.solve().kernel, south.solve().kernel, rtol=0, atol=1e-9)
    assert rest.solve().rss == pytest.approx(south.solve().rss, rel=1e-8)
    with pytest.raises(ValueError, match="take a part from the whole"):
        north - both


def test_noise_of_the_image_is_taken_off():
    rng = np.random.default_rng(4)
    clean = scipy.signal.convolve2d(rng.normal(size=(300, 260)), np.ones((2, 2)), mode="same")
    kernel = rng.normal(size=(3, 4))
    target = scipy.signal.convolve2d(clean, kernel, mode="valid") + rng.normal(0.0, 0.1, (298, 257))
    stats = kernelfit.accumulate(clean + rng.normal(0.0, 0.3, clean.shape), target, (3, 4))
    changed, taken = stats.without_image_noise(0.3)
    plain, better = (np.linalg.norm(s.solve().kernel - kernel) for s in (stats, changed))
    assert taken == 1.0 and better < 0.25 * plain
    changed, taken = stats.without_image_noise(50.0)
    assert taken < 0.1 and np.linalg.eigvalsh(changed.gram)[0] > 0
    moved = stats.centered(kernel.ravel(), *stats._centered(kernel.ravel())).without_image_noise(0.3)[0]
    assert np.allclose(moved.solve().kernel, stats.without_image_noise(0.3)[0].solve().kernel, atol=1e-9)


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


def test_compare_by_each_score():
    stats = kernelfit.accumulate(*pair(), SHAPE)
    solvers = [LeastSquares(), Penalized("ridge"), GaussianProcess("matern32"), "auto"]
    n = stats.n_pixels
    for by in ("gcv", "aic", "bic", "evidence"):
        found = kernelfit.compare(stats, solvers, by=by)
        values = [v for v in found.scores[by] if not np.isnan(v)]
        assert values == sorted(values, reverse=by == "evidence")
        for fit, gcv in zip(found.fits, found.scores["gcv"], strict=True):
            assert gcv == pytest.approx(n * fit.rss / (n - fit.freedom) ** 2)
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
        assert found.stats.terms == (found.shape,) and 0 <= found.p_value <= 1
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


# ---- auto -----------------------------------------------------------------------------------------------------------


def blurred(seed=0, shape=(90, 101)):
    return scipy.signal.convolve2d(np.random.default_rng(seed).normal(size=shape), np.ones((4, 4)), mode="same")


def errors(kernel, noise):
    image = blurred()
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    target += np.random.default_rng(1).normal(0.0, noise * target.std(), target.shape)
    stats = kernelfit.accumulate(image, target, kernel.shape)
    fits = stats.solve(), stats.solve("auto")
    return *(np.linalg.norm(fit.kernel - kernel) for fit in fits), fits[1]


def test_auto_takes_few_taps_for_deltas():
    kernel = np.zeros((9, 11))
    kernel[1, 2], kernel[5, 9], kernel[8, 0] = 0.6, 0.3, 0.1
    plain, auto, fit = errors(kernel, 0.01)
    assert fit.solver.startswith("auto: Sparse") and auto < 0.3 * plain


def test_auto_takes_the_process_for_a_gaussian():
    kernel = np.outer(scipy.signal.windows.gaussian(9, 1.5), scipy.signal.windows.gaussian(11, 2.0))
    plain, auto, fit = errors(kernel, 0.01)
    assert fit.solver.startswith("auto: GaussianProcess") and auto < 0.1 * plain
    assert fit.alternatives["Sparse"] < fit.log_evidence


def test_auto_is_never_much_worse_than_least_squares():
    for noise in (0.001, 0.1):
        plain, auto, _ = errors(np.random.default_rng(3).normal(size=(7, 9)), noise)
        assert auto < 1.1 * plain


def test_auto_without_noise_is_least_squares(close):
    image = blurred()
    kernel = np.random.default_rng(3).normal(size=(5, 7))
    target = scipy.signal.convolve2d(image, kernel, mode="valid")
    fit = kernelfit.find_kernel(image, target, (5, 7), solver="auto")
    close(fit.kernel, kernel, 1e-11)
    assert fit.solver.startswith("auto: LeastSquares()")
    with pytest.raises(ValueError, match="use LeastSquares"):
        Constrained()


@pytest.mark.parametrize(
    ("own", "claimed", "picked"), [(0.0, -3.0, "Sparse"), (20.0, 0.0, "NonNegative"), (0.0, -1000.0, "Sparse")]
)
def test_auto_gives_few_taps_up_for_what_they_can_have_lost_only(own, claimed, picked, monkeypatch):
    """Not below the margin; where they show bias; and not for more than their degrees of freedom, a claim of chance."""
    before, _ = pair(3)
    kernel = np.zeros(SHAPE)
    kernel[1, 2], kernel[4, 3], kernel[5, 0] = 1.0, 0.6, 0.8
    target = scipy.signal.convolve2d(before, kernel, mode="same") + 0.05 * np.random.default_rng(5).normal(size=IMAGE)
    stats = kernelfit.accumulate(before, target, SHAPE)
    assert stats.solve("auto").solver.startswith("auto: Sparse")
    errors = {"Sparse": own, "NonNegative": claimed}
    monkeypatch.setattr(
        auto, "_expected_error", lambda _, fit, freedom=None: errors.get(fit.solver.split("(")[0], 99.0)
    )
    assert stats.solve("auto").solver.startswith(f"auto: {picked}")
