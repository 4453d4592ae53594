"""A kernel for each tile: the same as cutting the tiles out by hand; with a penalty, the same as one dense system."""

import numpy as np
import pytest

import naive
from helpers import assert_close, grid
from kernelfit import Finding, GaussianProcess, Penalized, Verdict, find_kernel, kernel_map


def varying_pair(noise=0.3, shape=(53, 71), seed=0):
    """A kernel whose middle tap grows from left to right."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0.5, 1.0, shape)
    kernel = rng.normal(size=(2, 3))
    target = naive.apply(image, kernel, mode="same", boundary="wrap")
    return image, target + np.linspace(0, 2, shape[1]) * image + noise * rng.normal(size=shape)


def cut(n, count, overlap):
    for i in range(count):
        yield max(0, i * n // count - overlap), min(n, (i + 1) * n // count + overlap)


@pytest.mark.parametrize("boundary", [None, "wrap"])
@pytest.mark.parametrize("overlap", [0, (3, 5)])
def test_each_tile_is_a_least_squares_problem_of_its_own(boundary, overlap, method):
    image, target = varying_pair()
    result = kernel_map(image, target, (2, 3), (3, 4), overlap=overlap, boundary=boundary, method=method)
    matrix, used = naive.design_dense(image, (2, 3), mode="same", boundary=boundary)
    rows, cols = np.flatnonzero(used.any(axis=1)), np.flatnonzero(used.any(axis=0))
    where = np.full(used.shape, -1)
    where[used] = np.arange(used.sum())
    y, x = (overlap, overlap) if isinstance(overlap, int) else overlap
    assert result.kernels.shape == (3, 4, 2, 3) and result.verdicts.shape == (3, 4)
    for i, (a, b) in enumerate(cut(len(rows), 3, y)):
        for j, (c, d) in enumerate(cut(len(cols), 4, x)):
            pick = where[rows[a] : rows[0] + b, cols[c] : cols[0] + d].ravel()
            expected, (rss,), *_ = np.linalg.lstsq(matrix[pick], target[used][pick], rcond=None)
            assert_close(result.kernels[i, j].ravel(), expected, 1e-12)
            noise = np.sqrt(rss / (len(pick) - 6))
            assert result.noise_std[i, j] == pytest.approx(noise, rel=1e-9)
            inverse = np.linalg.inv(matrix[pick].T @ matrix[pick])
            assert_close(result.stderr[i, j].ravel(), noise * np.sqrt(np.diag(inverse)), 1e-9)
            assert result.boxes[i, j].tolist() == [rows[a], cols[c], b - a, d - c]
    assert (result.verdicts == Verdict.SOLVED).all()
    assert result.centers[0, 0].tolist() == [
        rows[0] + (result.boxes[0, 0, 2] - 1) / 2,
        cols[0] + (result.boxes[0, 0, 3] - 1) / 2,
    ]


def test_the_variation_is_the_f_statistic():
    image, target = varying_pair()
    result = kernel_map(image, target, (2, 3), (2, 3), boundary="wrap")
    matrix, _ = naive.design_dense(image, (2, 3), mode="same", boundary="wrap")
    tile = np.zeros(image.shape, int)
    for i, (a, b) in enumerate(cut(53, 2, 0)):
        for j, (c, d) in enumerate(cut(71, 3, 0)):
            tile[a:b, c:d] = 3 * i + j
    y = target.ravel()
    rss = [np.linalg.lstsq(matrix[tile.ravel() == t], y[tile.ravel() == t], rcond=None)[1][0] for t in range(6)]
    common, (whole,), *_ = np.linalg.lstsq(matrix, y, rcond=None)
    expected = (whole - sum(rss)) / 30 / (sum(rss) / (y.size - 36))
    assert result.variation == pytest.approx(expected, rel=1e-9) and result.p_value < 1e-6
    np.testing.assert_allclose(result.common.ravel(), common, rtol=1e-9)
    same = find_kernel(image, target, (2, 3), boundary="wrap").predict(image)
    flat = kernel_map(image, same + np.random.default_rng(4).normal(size=same.shape), (2, 3), (2, 3), boundary="wrap")
    assert 0.3 < flat.variation < 2 and flat.p_value > 1e-3
    assert "6 of 6 tiles: solved" in result.summary() and "F = " in result.summary()


def test_without_noise_the_pixels_are_read_again():
    rng = np.random.default_rng(0)
    image = 1e3 + np.cumsum(rng.normal(size=(90, 80)), axis=1)  # hard: a large mean, strongly correlated
    kernel = rng.normal(size=(3, 4))
    target = naive.apply(image, kernel, mode="valid", boundary=None)
    result = kernel_map(image, target, (3, 4), (2, 2))
    for k in result.kernels.reshape(-1, 3, 4):
        assert_close(k, kernel, 1e-9)


def dense_penalised(image, target, grid, shape, strength):
    """Every tile's design matrix in one large one, and a row for each difference of neighbouring taps."""
    matrix, _ = naive.design_dense(image, shape, mode="same", boundary="wrap")
    m, y = matrix.shape[1], target.ravel()
    tile = np.zeros(image.shape, int)
    for i, (a, b) in enumerate(cut(image.shape[0], grid[0], 0)):
        for j, (c, d) in enumerate(cut(image.shape[1], grid[1], 0)):
            tile[a:b, c:d] = grid[1] * i + j
    n = grid[0] * grid[1]
    big = np.zeros((n * m, n * m))
    right = np.zeros(n * m)
    rss = 0.0
    for t in range(n):
        part = matrix[tile.ravel() == t]
        big[t * m : (t + 1) * m, t * m : (t + 1) * m] = part.T @ part
        right[t * m : (t + 1) * m] = part.T @ y[tile.ravel() == t]
        own = y[tile.ravel() == t]
        rss += np.sum((own - part @ np.linalg.lstsq(part, own, rcond=None)[0]) ** 2)
    weight = strength * np.trace(big) / (n * m)
    for t in range(n):
        for u in range(n):
            if (u == t + 1 and u % grid[1]) or u == t + grid[1]:
                for p in range(m):
                    a, b = t * m + p, u * m + p
                    big[a, a] += weight
                    big[b, b] += weight
                    big[a, b] -= weight
                    big[b, a] -= weight
    taps = np.linalg.solve(big, right).reshape(*grid, *shape)
    noise = np.sqrt(rss / (y.size - n * m))
    return taps, noise * np.sqrt(np.diag(np.linalg.inv(big))).reshape(taps.shape)


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_a_penalty_across_tiles_is_the_dense_system(strength):
    image, target = varying_pair(noise=1.0)
    result = kernel_map(image, target, (2, 3), (3, 4), smoothness=strength, boundary="wrap")
    taps, stderr = dense_penalised(image, target, (3, 4), (2, 3), strength)
    assert_close(result.kernels, taps, 1e-9)
    np.testing.assert_allclose(result.stderr, stderr, rtol=0.15)  # 256 draws
    again = kernel_map(image, target, (2, 3), (3, 4), smoothness=strength, boundary="wrap", workers=1)
    assert again.kernels.tobytes() == result.kernels.tobytes() and again.stderr.tobytes() == result.stderr.tobytes()


def test_a_strong_penalty_makes_all_kernels_the_common_one():
    image, target = varying_pair()
    result = kernel_map(image, target, (2, 3), (2, 3), smoothness=1e5, boundary="wrap")
    for k in result.kernels.reshape(-1, 2, 3):
        assert_close(k, result.common, 1e-4)


def test_neighbours_fill_in_what_a_tile_does_not_determine():
    image, target = varying_pair()
    image = image.copy()
    image[10:42, 24:60] = 0.0
    grid = (4, 5)
    plain = kernel_map(image, target, (2, 3), grid, boundary="wrap")
    empty = np.argwhere(plain.verdicts == Verdict.RANK_DEFICIENT)
    assert len(empty) and (plain.verdicts == Verdict.SOLVED).sum() >= 8
    result = kernel_map(image, target, (2, 3), grid, smoothness=0.01, boundary="wrap")
    taps, _ = dense_penalised(image, target, grid, (2, 3), 0.01)
    assert_close(result.kernels, taps, 1e-8)
    for at in empty:
        assert result.verdicts[tuple(at)] is Verdict.PRIOR_DECIDES
        assert isinstance(result.findings[at[0]][at[1]][0], Finding)
        assert np.linalg.norm(result.kernels[tuple(at)]) > 0.1


def test_a_solver_of_its_own_for_each_tile():
    image, target = varying_pair()
    result = kernel_map(image, target, (4, 5), (1, 2), boundary="wrap", solver=GaussianProcess())
    plain = kernel_map(image, target, (4, 5), (1, 2), boundary="wrap")
    assert result.stderr.max() < plain.stderr.max()


def test_workers_and_progress():
    image, target = varying_pair()
    told = []
    results = [kernel_map(image, target, (2, 3), (3, 4), workers=n, progress=lambda *a: told.append(a)) for n in (1, 3)]
    assert results[0].kernels.tobytes() == results[1].kernels.tobytes()
    assert told == 2 * [("reading tiles", i + 1, 12) for i in range(12)]


@pytest.mark.parametrize(
    "keywords, text",
    [
        ({"tiles": 0}, "got tiles=0, need at least 1 x 1"),
        ({"tiles": (30, 30)}, "got tiles=.30, 30., the smallest of which has 1x2 pixels, too few for 6 taps"),
        ({"tiles": (2, 72)}, "no more than the .52, 69. target pixels"),
        ({"overlap": -1}, "got overlap=-1, need a number of pixels"),
        ({"smoothness": -0.5}, "got smoothness=-0.5, need a number from 0 to 1e6"),
        ({"smoothness": "auto"}, "got smoothness='auto', need a number"),
        ({"smoothness": True}, "got smoothness=True, need one real number"),
        ({"shape": True}, "got shape=True, need an int or a pair"),
        ({"shape": {3, 5}}, "got shape={3, 5}, need an int or a pair"),
        ({"shape": {3: 5}}, "got shape={3: 5}, need an int or a pair"),
        ({"smoothness": 1.0, "solver": GaussianProcess()}, "need one or the other"),
        ({"method": "wiener", "smoothness": 1.0}, r"got Wiener\(\) with smoothness=1: both are penalties"),
    ],
)
def test_what_is_refused(keywords, text):
    image, target = varying_pair()
    with pytest.raises((TypeError, ValueError), match=text):
        kernel_map(image, target, **{"shape": (2, 3), "tiles": (2, 2), **keywords})


@pytest.mark.parametrize("scale, worst", [(0.0, None), (0.09, Verdict.POOR_FIT), (3.0, Verdict.NOISE_DOMINATES)])
def test_what_is_doubtful_about_a_tile_is_what_is_about_a_fit(scale, worst, method):
    rng = np.random.default_rng(6)
    image, noise = rng.normal(size=(61, 83)), rng.normal(size=(61, 83))
    if scale > 1:  # an image so smooth that the fit is good, and the kernel is not
        y, x = np.mgrid[:61, :83] / 100
        image = np.sin(9 * x + 5 * y) + np.cos(7 * y - 4 * x) + 1e-4 * image
    target = scale * np.roll(image, (0, 1), (0, 1)) + noise if scale else np.zeros(image.shape)
    found = kernel_map(image, target, (2, 3), 1, method=method)
    alone = find_kernel(image, target, (2, 3), method=method)
    assert [f.verdict for f in found.findings[0][0]] == [f.verdict for f in alone.findings]
    assert worst is None or [f.verdict for f in alone.findings] == [worst]
    np.testing.assert_allclose(found.stderr[0, 0], alone.stderr, rtol=1e-6)


# ---- masks and weights ----------------------------------------------------------------------------------------------


def spoilt_pair():
    """A pair of five rows and columns of tiles, of which one has a large blob, others single pixels, some nothing."""
    image, target = varying_pair()
    rng = np.random.default_rng(7)
    mask = np.zeros(target.shape, bool)
    mask[12:24, 20:40] = True
    mask[30:, :20] = rng.random((23, 20)) < 0.1
    image_mask = np.zeros(image.shape, bool)
    image_mask[44, 60] = image_mask[3, 70] = True
    weights = np.ones(target.shape)
    weights[:20, 30:] = rng.choice([0.0, 1.0, 2.5], (20, 41))
    image, target = image.copy(), np.where(mask, np.nan, target)
    image[image_mask] = 1e30
    return image, target, mask, image_mask, weights


@grid("boundary, overlap, solver", [(None, 0, None), ("wrap", (4, 2), None), ("symm", 0, Penalized("ridge", 0.1))], 3)
@grid("given", ["both", "mask", "weights", "masked array", "nan"], 2)
def test_a_map_with_masks_is_the_fit_of_each_tile_with_its_masks(given, boundary, overlap, solver):
    image, target, mask, image_mask, weights = spoilt_pair()
    more = {
        "mask": {"mask": mask},
        "both": {"mask": mask, "image_mask": image_mask},
        "weights": {"mask": mask, "weights": weights},
        "masked array": {},
        "nan": {"nan": "mask"},
    }[given]
    if given in ("mask", "weights"):
        image = np.where(image_mask, 0.0, image)
    elif given == "nan":
        image = np.where(image_mask, np.nan, image)
    pair = (
        (np.ma.array(image, mask=image_mask), np.ma.array(target, mask=mask))
        if given == "masked array"
        else (image, target)
    )
    keywords = {"boundary": boundary, "solver": solver}
    result = kernel_map(*pair, (2, 3), (3, 4), overlap=overlap, **more, **keywords)
    excluded = 0
    for row, col in np.ndindex(3, 4):
        top, left, rows, cols = result.boxes[row, col]
        outside = np.ones(target.shape, bool)
        outside[top : top + rows, left : left + cols] = False
        own = {**more, "mask": outside | mask}
        if given in ("masked array", "both"):
            own["image_mask"] = image_mask
        alone = find_kernel(image, target, (2, 3), **own, **keywords)
        assert_close(result.kernels[row, col], alone.kernel, 1e-9)
        assert_close(result.stderr[row, col], alone.stderr, 1e-7)
        assert result.noise_std[row, col] == pytest.approx(alone.noise_std, rel=1e-7)
        excluded += rows * cols - alone.n_pixels
    assert excluded > 200


def test_a_tile_without_pixels_that_count_says_so_and_neighbours_fill_it():
    image, target = varying_pair()
    mask = np.zeros(target.shape, bool)
    mask[10:36, 14:40] = True
    mask[14, 20] = False
    plain = kernel_map(image, target, (2, 3), (4, 5), boundary="wrap", mask=mask)
    assert plain.verdicts[1, 1] is Verdict.RANK_DEFICIENT and (plain.verdicts == Verdict.SOLVED).sum() >= 10
    assert np.isfinite(plain.kernels).all() and np.isnan(plain.stderr[1, 1]).any()
    assert np.isfinite(plain.variation)
    other = np.where(mask, 1e6, target)  # what stands there changes no bit
    again = kernel_map(image, other, (2, 3), (4, 5), boundary="wrap", mask=mask, workers=1)
    assert again.kernels.tobytes() == plain.kernels.tobytes() and again.common.tobytes() == plain.common.tobytes()
    assert_close(plain.common, find_kernel(image, target, (2, 3), boundary="wrap", mask=mask).kernel, 1e-10)
    smooth = kernel_map(image, target, (2, 3), (4, 5), boundary="wrap", mask=mask, smoothness=0.01)
    assert smooth.verdicts[1, 1] is Verdict.NO_REDUNDANCY and np.linalg.norm(smooth.kernels[1, 1]) > 0.1
    assert "tiles" in smooth.summary()


def test_masked_tiles_without_noise_are_read_again():
    rng = np.random.default_rng(0)
    image = 1e3 + np.cumsum(rng.normal(size=(90, 80)), axis=1)
    kernel = rng.normal(size=(3, 4))
    target = naive.apply(image, kernel, mode="valid", boundary=None)
    mask = rng.random(target.shape) < 0.05
    result = kernel_map(image, np.where(mask, 0.0, target), (3, 4), (2, 2), mask=mask)
    for k in result.kernels.reshape(-1, 3, 4):
        assert_close(k, kernel, 1e-9)


def test_masks_of_large_tiles_and_what_is_refused():
    rng = np.random.default_rng(3)
    image = rng.normal(size=(560, 1210))
    target = np.roll(image, (1, -1), (0, 1)) + 0.1 * rng.normal(size=image.shape)
    mask = np.zeros(image.shape, bool)
    mask[100:130, 40:80] = True
    found = kernel_map(image, np.where(mask, 9.0, target), (3, 4), (1, 2), mask=mask)
    left = mask | (np.arange(1210) >= found.boxes[0, 1, 1])
    assert_close(found.kernels[0, 0], find_kernel(image, target, (3, 4), mask=left).kernel, 1e-9)
    with pytest.raises(ValueError, match="leave none of 3588 target pixels"):
        kernel_map(*varying_pair(), (2, 3), (2, 2), mask=np.ones((53, 71), bool))
    with pytest.raises(TypeError, match="got mask of dtype float64, need bool"):
        kernel_map(*varying_pair(), (2, 3), (2, 2), mask=np.ones((53, 71)))
