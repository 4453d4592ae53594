"""Whatever is asked for, each tile is a problem of its own: that of its rows of the design matrix."""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

import naive
from helpers import assert_close, grid
from kernelfit import (
    ConjugateGradient,
    GaussianProcess,
    NonNegative,
    Penalized,
    Sparse,
    Verdict,
    Wiener,
    find_kernel,
    kernel_map,
)

SHAPE, GRID = (3, 2), (2, 3)
SIZE = (37, 53)


def scene(pairs=1, channels=None, seed=0, noise=0.1):
    """Images and targets of noisy filters that grow from left to right; the last axis the channels, if any."""
    rng = np.random.default_rng(seed)
    whole = SIZE if channels is None else (*SIZE, channels)
    images = [rng.normal(0.5, 1.0, whole) for _ in range(pairs)]
    grow = np.linspace(0, 1, SIZE[1]) if channels is None else np.linspace(0, 1, SIZE[1])[:, None]
    targets = [grow * i + 0.3 * np.roll(i, (1, 1), (0, 1)) + noise * rng.normal(size=whole) + 2 for i in images]
    return images, targets


def planes_of(images, targets, keywords):
    """For each kernel the pairs of (source planes, target plane) that share it, and (pair, channel) of each."""
    kind = keywords.get("channels", "shared")
    if "channel_axis" not in keywords:
        return [[([i], t, (p, None)) for p, (i, t) in enumerate(zip(images, targets, strict=True))]]
    both, n = list(enumerate(zip(images, targets, strict=True))), targets[0].shape[2]
    if kind == "shared":
        return [[([i[..., c]], t[..., c], (p, c)) for p, (i, t) in both for c in range(n)]]
    if kind == "separate":
        return [[([i[..., c]], t[..., c], (p, c)) for p, (i, t) in both] for c in range(n)]
    return [[([i[..., s] for s in range(i.shape[2])], t[..., c], (p, c)) for p, (i, t) in both] for c in range(n)]


def twin(group, box, keywords, selects):
    """Dense least squares over the pixels of a tile that count."""
    names = ("boundary", "operation", "stride", "offset", "origin")
    convention = {"mode": "same", "boundary": None} | {name: keywords[name] for name in names if name in keywords}
    convention["stride"] = tuple(np.broadcast_to(convention.get("stride", 1), 2))
    row, col, rows, cols = box
    pairs, weights = [], []
    for sources, target, (pair, _) in group:
        own = np.zeros(target.shape)
        own[row : row + rows, col : col + cols] = 1.0
        if "weights" in selects:
            own *= selects["weights"][pair]
        if "mask" in selects:
            own[selects["mask"][pair]] = 0.0
        if "image_mask" in selects:
            matrix, used = naive.design_dense(selects["image_mask"][pair], SHAPE, **convention)
            own[np.nonzero(used)[0][matrix.any(axis=1)], np.nonzero(used)[1][matrix.any(axis=1)]] = 0.0
        own[~np.isfinite(target)] = 0.0
        pairs.append((sources, np.where(np.isfinite(target), target, 0.0)))
        weights.append(own)
    return naive.joint(pairs, SHAPE, degree=keywords.get("background"), weights=weights, **convention)


SELECTS = {
    "mask": lambda rng: rng.random(SIZE) < 0.1,
    "image_mask": lambda rng: rng.random(SIZE) < 0.01,
    "weights": lambda rng: rng.random(SIZE) + 0.2,
}


@grid(
    "keywords, pairs, selects",
    [
        ({"stride": (2, 1), "offset": (1, 0)}, 1, ()),
        ({"background": 1, "operation": "correlation", "boundary": "symm"}, 1, ()),
        ({"background": 0, "stride": (1, 2)}, 2, ()),
        ({"background": 1}, 2, ("mask", "weights")),
        ({"origin": (0, 1)}, 2, ("image_mask",)),
        ({"nan": "mask", "background": 0}, 1, ()),
        ({"channel_axis": 2}, 1, ()),
        ({"channel_axis": 2, "background": 1}, 2, ("mask",)),
        ({"channel_axis": 2, "channels": "separate", "background": 1, "boundary": "wrap"}, 1, ()),
        ({"channel_axis": 2, "channels": "separate"}, 2, ("weights", "image_mask")),
        ({"channel_axis": 2, "channels": "mixed", "operation": "correlation"}, 1, ()),
        ({"channel_axis": 2, "channels": "mixed", "background": 1}, 2, ("mask",)),
        ({"channel_axis": 2, "channels": "mixed", "stride": 2, "boundary": "fill"}, 1, ("weights",)),
    ],
    3,
)
def test_a_tile_is_dense_least_squares_over_its_pixels(keywords, pairs, selects):
    images, targets = scene(pairs, 2 if "channel_axis" in keywords else None)
    down, across = np.broadcast_to(keywords.get("stride", 1), 2)
    top, left = np.broadcast_to(keywords.get("offset", 0), 2)
    targets = [target[top::down, left::across] for target in targets]
    rng = np.random.default_rng(5)
    selects = {name: [SELECTS[name](rng) for _ in images] for name in selects}
    for name in {"mask", "weights"} & selects.keys():
        selects[name] = [one[top::down, left::across] for one in selects[name]]
    if "nan" in keywords:
        targets[0][7, 9] = np.nan
    one = pairs == 1
    given = {name: value[0] if one else value for name, value in selects.items()}
    found = kernel_map(*((images[0], targets[0]) if one else (images, targets)), SHAPE, GRID, **keywords, **given)
    groups = planes_of(images, targets, keywords)
    several = keywords.get("channels", "shared") != "shared"
    for at in np.ndindex(GRID):
        for c, group in enumerate(groups):
            here = (*at, c) if several else at
            box = found.boxes[at]
            expected = twin(group, box, keywords, selects)
            assert_close(found.kernels[here].reshape(expected.kernel.shape), expected.kernel, 1e-10)
            assert_close(found.stderr[here].ravel(), np.sqrt(np.diag(expected.covariance)), 1e-8)
            assert found.noise_std[here] == pytest.approx(expected.noise_std, rel=1e-8)
            for beside, (_, target, (pair, channel)) in zip(expected.background, group, strict=True):
                if found.background is None:
                    continue
                index = (*at, *(() if one else (pair,)), *(() if channel is None else (channel,)))
                degree, (row, col, rows, cols) = keywords["background"], box
                whole = naive.surface_columns(np.ones(target.shape, bool), degree) @ beside
                own = naive.surface_columns(np.ones((rows, cols), bool), degree) @ found.background[index]
                assert_close(own, whole.reshape(target.shape)[row : row + rows, col : col + cols].ravel(), 1e-8)
    assert (found.background is None) == ("background" not in keywords)
    assert found.kernels.shape[:2] == found.verdicts.shape == GRID and "tiles" in found.summary()


@grid(
    "keywords",
    [
        {"errors": "sandwich"},
        {"robust": "huber"},
        {"robust": "tukey", "noise": (200.0, 3.0)},
        {"image_noise": 0.05},
        {"solver": ConjugateGradient()},
        {"method": "wiener"},
        {"solver": Wiener(taper=0.5)},
        {"solver": GaussianProcess()},
        {"solver": "auto"},
        {"solver": Penalized("ridge", 0.01), "background": 0},
        {"solver": Sparse()},
    ],
    3,
)
def test_a_tile_is_the_fit_of_the_images_cut_out(keywords):
    (image,), (target,) = scene()
    found = kernel_map(image, target, SHAPE, GRID, **keywords)
    for at in np.ndindex(GRID):
        row, col, rows, cols = found.boxes[at]
        # the footprint of a pixel: one row before it and one after, one column before
        inner = image[row - 1 : row + rows + 1, col - 1 : col + cols]
        alone = find_kernel(inner, target[row : row + rows, col : col + cols], SHAPE, mode="valid", **keywords)
        assert_close(found.kernels[at], alone.kernel, 1e-6)
        assert_close(found.stderr[at], alone.stderr, 1e-6)
        assert [f.verdict for f in found.findings[at[0]][at[1]]] == [f.verdict for f in alone.findings]
    assert_close(found.common, find_kernel(image, target, SHAPE, **keywords).kernel, 1e-12)
    assert np.isnan(found.variation) and np.isnan(found.p_value)


def test_no_tap_is_negative_and_the_result_is_that_of_nnls():
    (image,), (target,) = scene()
    found = kernel_map(image, target, SHAPE, GRID, boundary="fill", solver=NonNegative())
    matrix, _ = naive.design_dense(image, SHAPE, mode="same", boundary="fill")
    for at in np.ndindex(GRID):
        row, col, rows, cols = found.boxes[at]
        inside = np.zeros(target.shape, bool)
        inside[row : row + rows, col : col + cols] = True
        assert_close(
            found.kernels[at].ravel(),
            scipy.optimize.nnls(matrix[inside.ravel()], target.ravel()[inside.ravel()])[0],
            1e-9,
        )


@pytest.mark.parametrize("gain", [1.0, 4.0])
def test_photon_noise_weighs_each_tile_by_its_own_prediction(gain):
    rng = np.random.default_rng(3)
    image = rng.gamma(1.0, 40.0, SIZE)
    kernel, grow = np.array([[0.2, 0.1], [0.4, 0.1], [0.1, 0.1]]), np.linspace(1.0, gain, SIZE[1])
    target = rng.poisson(grow * naive.apply(image, kernel, mode="same", boundary="wrap"))
    found = kernel_map(image, target, SHAPE, GRID, boundary="wrap", noise="poisson")
    matrix, _ = naive.design_dense(image, SHAPE, mode="same", boundary="wrap")
    y, rows = target.ravel().astype(float), tiles_of(found, target.shape)

    def fit(part, weights):
        root = np.sqrt(weights)
        taps = np.linalg.lstsq(matrix[part] * root[:, None], y[part] * root, rcond=None)[0]
        return taps, float(np.sum(weights * (y[part] - matrix[part] @ taps) ** 2))

    for at, part in zip(np.ndindex(GRID), rows, strict=True):
        weights = np.ones(len(part))
        for _ in range(50):
            taps, _ = fit(part, weights)
            weights = 1 / np.maximum(matrix[part] @ taps, 0.01 * y[part].mean())
        off = np.linalg.norm(found.kernels[at].ravel() - taps)
        assert off <= 0.03 * np.linalg.norm(found.stderr[at])
    # the test compares sums with the weights of the whole
    weights = 1 / np.maximum(matrix @ found.common.ravel(), 0.01 * y.mean())
    left = sum(fit(part, weights[part])[1] for part in rows)
    whole = fit(np.arange(len(y)), weights)[1]
    assert found.variation == pytest.approx((whole - left) / 30 / (left / (len(y) - 36)), rel=1e-3)
    assert found.p_value > 1e-3 if gain == 1.0 else found.p_value < 1e-9


def tiles_of(found, shape):
    """The numbers of the target's pixels in each tile."""
    numbers = np.arange(np.prod(shape)).reshape(shape)
    return [numbers[r : r + h, c : c + w].ravel() for r, c, h, w in found.boxes.reshape(-1, 4)]


def reduced(found, image, target, degree):
    """For each tile the matrix and values without the surface of the tile."""
    matrix, _ = naive.design_dense(image, SHAPE, mode="same", boundary="wrap")
    every = naive.surface_columns(np.ones(target.shape, bool), degree)
    out = []
    for part in tiles_of(found, target.shape):
        basis = scipy.linalg.orth(every[part])
        out.append([a - basis @ (basis.T @ a) for a in (matrix[part], target.ravel()[part])])
    return out


def test_the_test_of_one_kernel_lets_each_tile_have_its_background():
    (image,), (target,) = scene(noise=0.5)
    target += np.add.outer(np.arange(SIZE[0]) > 18, 3 * (np.arange(SIZE[1]) > 20))  # a surface for no polynomial
    found = kernel_map(image, target, SHAPE, GRID, boundary="wrap", background=1)
    parts = reduced(found, image, target, 1)
    left = sum(np.linalg.lstsq(a, y, rcond=None)[1][0] for a, y in parts)
    whole = np.linalg.lstsq(*(np.concatenate(both) for both in zip(*parts, strict=True)), rcond=None)[1][0]
    spare = target.size - 6 * (6 + 3)
    assert found.variation == pytest.approx((whole - left) / 30 / (left / spare), rel=1e-8) and found.p_value < 1e-6
    same = naive.apply(image, np.ones(SHAPE), mode="same", boundary="wrap")
    target = target - target.round() + same + np.random.default_rng(2).normal(size=SIZE)
    flat = kernel_map(image, target, SHAPE, GRID, boundary="wrap", background=1)
    assert 0.3 < flat.variation < 2 and flat.p_value > 1e-3


def test_channels_of_uneven_noise_count_each_in_units_of_its_own():
    images, targets = scene(1, 2)
    targets[0][..., 1] += 30 * np.random.default_rng(1).normal(size=SIZE)
    settings = {"boundary": "wrap", "channel_axis": -1, "channels": "separate"}
    found = kernel_map(images[0], targets[0], SHAPE, GRID, **settings)
    alone = [kernel_map(images[0][..., c], targets[0][..., c], SHAPE, GRID, boundary="wrap") for c in range(2)]
    assert found.variation == pytest.approx(np.mean([one.variation for one in alone]), rel=1e-9)
    assert alone[0].p_value < 1e-6 and alone[1].variation < 3 and found.p_value < 1e-6
    np.testing.assert_allclose(found.noise_std, np.stack([one.noise_std for one in alone], axis=-1), rtol=1e-9)


def test_smoothness_beside_backgrounds_is_the_dense_system():
    (image,), (target,) = scene(noise=0.5)
    found = kernel_map(image, target, SHAPE, GRID, boundary="wrap", background=1, smoothness=0.3)
    parts = reduced(found, image, target, 1)
    grams = [a.T @ a for a, _ in parts]
    big = scipy.linalg.block_diag(*grams)
    weight = 0.3 * np.trace(big) / len(big)
    for i, j in [(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)]:
        e = np.zeros(6)
        e[i], e[j] = 1, -1
        big += weight * np.kron(np.outer(e, e), np.eye(6))
    taps = np.linalg.solve(big, np.concatenate([a.T @ y for a, y in parts])).reshape(-1, 6)
    assert_close(found.kernels.reshape(-1, 6), taps, 1e-9)
    matrix, _ = naive.design_dense(image, SHAPE, mode="same", boundary="wrap")
    for at, part, own in zip(np.ndindex(GRID), tiles_of(found, SIZE), taps, strict=True):
        columns = naive.surface_columns(np.ones(found.boxes[at][2:], bool), 1)
        beside = np.linalg.lstsq(columns, target.ravel()[part] - matrix[part] @ own, rcond=None)[0]
        assert_close(found.background[at], beside, 1e-8)


@pytest.mark.parametrize(
    "keywords", [{"background": 1}, {"solver": Penalized()}, {"noise": (200.0, 2.0)}, {"robust": "clip"}]
)
def test_tiles_that_determine_nothing_say_so(keywords):
    (image,), (target,) = scene()
    mask = np.zeros(SIZE, bool)
    mask[:, :38] = True
    mask[[3, 9, 30], [20, 25, 33]] = False
    found = kernel_map(image, np.where(mask, np.nan, target), SHAPE, (2, 4), mask=mask, **keywords)
    assert np.isfinite(found.kernels).all()
    assert (found.verdicts[:, :2] == Verdict.RANK_DEFICIENT).all() and np.isnan(found.stderr[0, 0]).all()
    assert found.verdicts[0, 3] is not Verdict.RANK_DEFICIENT and np.isfinite(found.stderr[:, 3]).all()
    other = kernel_map(image, np.where(mask, 7.0, target), SHAPE, (2, 4), mask=mask, workers=1, **keywords)
    assert other.kernels.tobytes() == found.kernels.tobytes() and other.stderr.tobytes() == found.stderr.tobytes()


@pytest.mark.parametrize("solver", [None, Penalized(), GaussianProcess(), NonNegative(), Sparse(), "auto", Wiener()])
def test_a_tile_of_one_value_is_no_error(solver):
    (image,), (target,) = scene()
    target[:19, :18], image[19:, 36:] = 3.0, 0.0
    more = {} if isinstance(solver, Wiener) else {"background": 0}
    found = kernel_map(image, target, SHAPE, GRID, solver=solver, **more)
    assert np.isfinite(found.kernels).all()
    assert found.verdicts[0, 0] is not Verdict.SOLVED and found.verdicts[1, 2] is not Verdict.SOLVED


@grid("keywords", [{"background": 1}, {"noise": "poisson"}, {"solver": "auto"}, {"robust": "huber"}], 3)
def test_the_bits_do_not_depend_on_the_workers_and_progress_is_told(keywords):
    (image,), (target,) = scene()
    target = np.abs(target)
    before, told = target.copy(), []
    one, many = (
        kernel_map(image, target, SHAPE, GRID, workers=n, progress=lambda *a: told.append(a), **keywords)
        for n in (1, 3)
    )
    for name in ("kernels", "stderr", "common", "noise_std"):
        assert getattr(one, name).tobytes() == getattr(many, name).tobytes()
    assert np.array_equal([one.variation], [many.variation], equal_nan=True)
    assert [a for a in told if a[0] == "reading tiles"] == 2 * [("reading tiles", i + 1, 6) for i in range(6)]
    assert (target == before).all()


def test_saturated_pixels_are_left_out_unless_all_are():
    (image,), (target,) = scene()
    target = np.clip(60 * target + 40, 0, 255).astype(np.uint8)
    found = kernel_map(image, target, SHAPE, GRID, boundary="fill")
    mask = (target == 0) | (target == 255)
    assert 10 < mask.sum() < 400
    expected = kernel_map(image, target, SHAPE, GRID, boundary="fill", mask=mask, saturated=None)
    assert_close(found.kernels, expected.kernels, 1e-12)
    binary = np.where(target > 128, 255, 0).astype(np.uint8)
    plain = kernel_map(image, binary, SHAPE, GRID, saturated=None)
    assert kernel_map(image, binary, SHAPE, GRID).kernels.tobytes() == plain.kernels.tobytes()


@pytest.mark.parametrize(
    "keywords, text",
    [
        (
            {"smoothness": 1.0, "noise": "poisson"},
            "got noise= with smoothness=1: it joins tiles whose",
        ),
        ({"smoothness": 1.0, "solver": Penalized()}, "with smoothness=1: both are penalties; need one or the other"),
        ({"background": 9}, "background=9 with 8x8 target pixels .* the smallest tile, need more than 9 rows"),
        ({"tiles": (18, 18), "background": 1}, "too few for 6 taps and 3 coefficients of the background"),
        ({"execution": 3}, "got execution=3, need a kernelfit.Execution"),
        ({"nonsense": 3}, r"kernel_map\(\) got an unexpected keyword argument 'nonsense'"),
    ],
)
def test_what_is_refused(keywords, text):
    (image,), (target,) = scene()
    with pytest.raises((TypeError, ValueError), match=text):
        kernel_map(image, target, **{"shape": SHAPE, "tiles": (4, 6), **keywords})


def test_pairs_of_several_shapes_are_refused():
    images, targets = scene(2)
    with pytest.raises(ValueError, match="got targets of shapes .*, need pairs of one shape"):
        kernel_map([images[0], images[1][:30]], [targets[0], targets[1][:30]], SHAPE, GRID)
