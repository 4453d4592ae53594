"""Volumes in Dask arrays: blocks with halos along all three axes give the kernel of the loops."""

import numpy as np
import pytest

import kernelfit
import naive
from helpers import BOUNDARIES, MODES, OPERATIONS, assert_close, assert_same_bits, grid
from kernelfit import Verdict, find_kernel
from kernelfit.api import dask as scale
from kernelfit.data.plan import make_plan
from kernelfit.fitting import dask_blocks

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")


@pytest.fixture(autouse=True)
def one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def lazy(array, chunks=(3, 4, 5)):
    """A Dask array whose chunks are computed; of four axes the channels come last, two in a chunk."""
    return da.from_array(array, chunks=(*chunks, 2)[: np.ndim(array)]) + 0


def pair(shape, kernel, seed=1, noisy=0.1, **words):
    rng = np.random.default_rng(seed)
    x, k = rng.normal(0.3, 1.0, shape), rng.normal(size=kernel)
    matrix, used = naive.design_nd(x, kernel, **{**words, "boundary": words.get("boundary") or "fill"})
    y = np.zeros(used.shape)
    y[used] = matrix.astype(float) @ k.ravel()
    return x, y + noisy * rng.normal(size=y.shape)


def dense(x, y, kernel, weights=1.0, degree=None, **words):
    """The kernel, its errors and the coefficients of a background, from the matrix itself."""
    matrix, used = naive.design_nd(x, kernel, **words)
    beside = np.zeros((used.size, 0)) if degree is None else naive.volume_terms(used.shape, degree)
    root = np.sqrt(np.broadcast_to(weights, used.shape)[used])
    a = np.hstack([matrix.astype(float), beside[used.ravel()]])[root > 0] * root[root > 0, None]
    b = y[used][root > 0] * root[root > 0]
    found = np.linalg.lstsq(a, b, rcond=None)[0]
    rss, m = np.sum((b - a @ found) ** 2), int(np.prod(kernel))
    errors = np.sqrt(rss / (len(b) - len(found)) * np.diag(np.linalg.inv(a.T @ a)))
    return found[:m].reshape(kernel), errors[:m].reshape(kernel), found[m:]


CASES = [
    (mode, *boundary, operation, kernel) for mode in MODES for boundary in BOUNDARIES for operation in OPERATIONS
    for kernel in ((3, 2, 4), (1, 3, 3), (2, 5, 1), (4, 1, 2))
]  # fmt: skip


@grid("mode, boundary, fillvalue, operation, kernel", CASES, 17)
def test_it_is_dense_least_squares(mode, boundary, fillvalue, operation, kernel):
    words = {"mode": mode, "boundary": boundary, "fillvalue": fillvalue, "operation": operation}
    x, y = pair((7, 8, 9), kernel, **words)
    expected, errors, _ = dense(x, y, kernel, **words)
    fit = scale.find_kernel(lazy(x), lazy(y, (2, 5, 4)), kernel, block=(2, 3, 4), **words)
    assert_close(fit.kernel, expected, 1e-10)
    assert_close(fit.stderr, errors, 1e-9)
    same = find_kernel(x, y, kernel, **words)
    assert_close(fit.kernel, same.kernel, 1e-12)
    assert fit.convention == same.convention and fit.n_pixels == same.n_pixels and fit.verdict is same.verdict
    solved = scale.accumulate(lazy(x), lazy(y), kernel, block=(3, 4, 20), **words).solve()
    assert_close(solved.kernel, expected, 1e-10)


STRIDES = [
    (stride, offset, boundary, operation)
    for stride, offset in (
        ((2, 1, 3), (1, 0, 2)),
        ((1, 2, 1), (0, 1, 0)),
        ((3, 1, 1), (2, 0, 0)),
        ((4, 2, 2), (0, 1, 1)),
    )
    for boundary in (None, "wrap", "mirror", "nearest")
    for operation in OPERATIONS
]


@grid("stride, offset, boundary, operation", STRIDES, 7)
def test_stride(stride, offset, boundary, operation):
    words = {"mode": "same", "boundary": boundary, "operation": operation, "stride": stride, "offset": offset}
    x, y = pair((13, 9, 11), (3, 2, 2), **words)
    expected = dense(x, y, (3, 2, 2), **words)
    for given in ((lazy(x), lazy(y)), (x, lazy(y)), (x, y)):
        fit = scale.find_kernel(*given, (3, 2, 2), block=(2, 3, 2), **words)
        assert_close(fit.kernel, expected[0], 1e-10)
        assert_close(fit.stderr, expected[1], 1e-9)


@grid("origin", [(0, 1, 3), (-1, 1, 5), (6, 0, -7)], 3)
def test_lags_outside_of_the_kernel(origin):
    x, y = pair((8, 9, 10), (2, 3, 2), boundary="fill", mode="same", origin=origin)
    fit = scale.find_kernel(lazy(x), lazy(y), (2, 3, 2), block=3, boundary="fill", origin=origin)
    assert_close(fit.kernel, dense(x, y, (2, 3, 2), boundary="fill", mode="same", origin=origin)[0], 1e-10)
    unseen = [find(x, y, (2, 3, 2), boundary="fill", origin=(9, 1, 1)) for find in (scale.find_kernel, find_kernel)]
    assert unseen[0].verdict is unseen[1].verdict and not unseen[0].verdict.ok


KINDS = ("plain", "mask", "weights", "nan", "masked array", "image_mask", "all of it")


@grid("kind, degree, boundary", [(k, d, b) for k in KINDS for d in (None, 0, 2) for b in ("wrap", "fill", None)], 19)
@grid("parted", [True, False], 2)
def test_masks_weights_and_a_background(kind, degree, boundary, parted):
    rng, kernel = np.random.default_rng(5), (2, 3, 2)
    words = {"boundary": boundary, "mode": "same"}
    x, y = pair((8, 9, 10), kernel, **words)
    if degree is not None:
        beside = naive.volume_terms(y.shape, degree)
        y += (beside @ rng.normal(size=beside.shape[1])).reshape(y.shape)
    keywords, weight, source, target = {**words, "background": degree}, np.ones(y.shape), x, y
    bad = rng.random(y.shape) < 0.2
    bad[3] = True
    give = lazy if parted else np.asarray
    if kind in ("mask", "all of it"):
        keywords["mask"] = give(bad)
        weight = weight * ~bad
    if kind in ("weights", "all of it"):
        own = rng.uniform(0.2, 3, y.shape)
        own[0, 2:4] = 0.0
        keywords["weights"], weight = give(own), weight * own
    if kind == "nan":
        source, target, keywords["nan"] = x.copy(), np.where(bad, np.nan, y), "mask"
        source[4, 5, 6] = np.inf
    if kind == "masked array":
        target = np.ma.array(np.where(bad, np.nan, y), mask=bad)
    if kind in ("nan", "masked array"):
        weight = weight * ~bad
    if kind in ("image_mask", "nan", "all of it"):
        dead = np.zeros(x.shape, bool)
        dead[4, 5, 6] = dead[7, 0, 9] = True
        dead[7, 0, 9] = kind != "nan"
        if kind != "nan":
            keywords["image_mask"], source = give(dead), np.where(dead, np.nan, x)
        matrix, used = naive.design_nd(dead, kernel, mode="same", boundary=boundary or "fill")
        weight = weight * ~matrix.astype(bool).any(axis=1).reshape(used.shape)
    expected, errors, beside = dense(x, y, kernel, weight, degree, **words)
    target = da.from_array(target, chunks=(3, 4, 5)) if parted else target
    fit = scale.find_kernel(give(source), target, kernel, block=(3, 4, 5), **keywords)
    assert_close(fit.kernel, expected, 1e-9)
    assert_close(fit.stderr, errors, 1e-8)
    if degree is not None:
        assert_close(fit.background.coefficients.ravel(), beside, 1e-8)
    stats = scale.accumulate(give(source), target, kernel, block=(8, 4, 20), **keywords)
    assert_close(stats.solve().kernel, expected, 1e-9)
    assert bool(fit.notes) is (kind != "plain") or boundary is None  # of which not all are used


@grid("channels", ["shared", "separate", "mixed"], 3)
@grid("axis", [-1, 1], 2)
def test_channels_pairs_and_masks_of_each(channels, axis):
    rng, kernel = np.random.default_rng(2), (2, 2, 3)
    xs = [rng.normal(size=(6, 7, 8, 3)) for _ in range(2)]
    taps = rng.normal(size=(3, *kernel))
    ys = [np.stack([kernelfit.apply_kernel(x[..., c], taps[c], boundary="symm") for c in range(3)], -1) for x in xs]
    ys = [y + 0.1 * rng.normal(size=y.shape) for y in ys]
    masks = [rng.random(y.shape) < 0.1 for y in ys]
    xs, ys, masks = ([np.moveaxis(one, -1, axis) for one in some] for some in (xs, ys, masks))
    words = {"channel_axis": axis, "channels": channels, "boundary": "symm", "background": 0}
    expected = find_kernel(xs, ys, kernel, mask=masks, **words)
    given = [[da.from_array(one, chunks=3) for one in some] for some in (xs, ys, masks)]
    fit = scale.find_kernel(*given[:2], kernel, mask=given[2], block=(2, 4, 5), **words)
    assert_close(fit.kernel, expected.kernel, 1e-9)
    assert_close(fit.stderr, expected.stderr, 1e-7)
    assert_close(fit.background.coefficients, expected.background.coefficients, 1e-8)
    if channels == "shared":
        rows = [np.moveaxis(one, axis, -1) for one in (*xs, *ys, *masks)]
        parts = [(rows[i][..., c], rows[i + 2][..., c], rows[i + 4][..., c]) for i in range(2) for c in range(3)]
        a = np.concatenate(
            [naive.design_nd(x, kernel, mode="same", boundary="symm")[0][~m.ravel()] for x, _, m in parts]
        )
        ones = np.repeat(np.eye(6), [np.sum(~m) for *_, m in parts], axis=0)
        b = np.concatenate([y[~m] for _, y, m in parts])
        assert_close(fit.kernel.ravel(), np.linalg.lstsq(np.hstack([a, ones]), b, rcond=None)[0][:12], 1e-9)


def scenes():
    """Targets of one volume, with what is asked for and the verdict, if that is not to be the same alone."""
    rng = np.random.default_rng(0)
    image = rng.random((14, 60, 70))
    blurred = kernelfit.apply_kernel(image, rng.random((3, 2, 4)), boundary="wrap")
    noisy = blurred + 0.01 * rng.normal(size=image.shape)
    clipped = np.clip(np.rint(60 * blurred - 120), 0, 255).astype("u1")
    yield from (
        (noisy, {"boundary": "wrap"}, Verdict.SOLVED),
        (noisy, {"boundary": "mirror"}, Verdict.WRONG_BOUNDARY),
        (blurred, {"boundary": "wrap"}, Verdict.SOLVED),
        (clipped, {"boundary": "wrap"}, None),
        (noisy + 9.0, {"boundary": "wrap", "background": 1}, Verdict.SOLVED),
        (noisy, {"boundary": "wrap", "errors": "sandwich"}, Verdict.SOLVED),
        (noisy + 9.0, {"boundary": "wrap", "background": 1, "errors": "sandwich"}, Verdict.SOLVED),
        (noisy, {"boundary": "wrap", "robust": "huber"}, Verdict.SOLVED),
        (noisy, {"boundary": "wrap", "image_noise": 1e-3}, Verdict.SOLVED),
        (noisy, {"solver": kernelfit.NonNegative(), "boundary": "wrap"}, Verdict.SOLVED),
    )


@grid("number", range(10), 3)
def test_what_is_doubted_in_memory_is_doubted(number):
    image = np.random.default_rng(0).random((14, 60, 70))
    target, keywords, verdict = list(scenes())[number]
    expected = find_kernel(image, target, (3, 2, 4), **keywords)
    chunks = (5, 33, 40)
    fit = scale.find_kernel(lazy(image, chunks), lazy(target, chunks), (3, 2, 4), block=(6, 31, 70), **keywords)
    assert_close(fit.kernel, expected.kernel, 1e-12)
    assert_close(fit.stderr, expected.stderr, 1e-9 if expected.rss > 1e-9 else 0.5)
    assert [f.verdict for f in fit.findings] == [f.verdict for f in expected.findings]
    assert fit.verdict is (expected.verdict if verdict is None else verdict)
    assert fit.notes == expected.notes and fit.refined == expected.refined


def test_volumes_of_unlike_depth_where_most_is_saturated():
    """Beside one that is not, whose few saturated pixels are left out."""
    rng, kernel = np.random.default_rng(4), (3, 2, 2)
    xs = [rng.random((depth, 9, 8)) for depth in (9, 5)]
    ys = [kernelfit.apply_kernel(x, np.ones(kernel) / 12, boundary="wrap") for x in xs]
    ys = [np.where(ys[0] > 0.5, 255, 0).astype("u1"), np.clip(np.rint(400 * ys[1]), 0, 255).astype("u1")]
    words = {"boundary": "wrap", "background": 0}
    expected = find_kernel(xs, ys, kernel, **words)
    fit = scale.find_kernel([lazy(x) for x in xs], [lazy(y) for y in ys], kernel, block=(2, 9, 5), **words)
    assert 0 < sum(y.size for y in ys) - fit.n_pixels < ys[1].size and fit.n_pixels == expected.n_pixels
    assert_close(fit.kernel, expected.kernel, 1e-10)
    assert_close(fit.background.coefficients, expected.background.coefficients, 1e-9)


@pytest.mark.slow
def test_what_is_not_looked_at_at_first(tmp_path):
    """Where nearly all of an integer target stands at its ends they count; a checkpoint; other schedulers; a store."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(20, 30, 33))
    y = kernelfit.apply_kernel(x, rng.normal(size=(3, 4, 2)), boundary="nearest")
    ends = np.where(y > 0, 255, 0).astype("u1")
    words = {"boundary": "nearest", "block": (7, 13, 40)}
    fit, expected = (
        scale.find_kernel(lazy(x), lazy(ends), (3, 4, 2), **words),
        find_kernel(x, ends, (3, 4, 2), boundary="nearest"),
    )
    assert_close(fit.kernel, expected.kernel, 1e-12)
    assert fit.n_pixels == ends.size
    y += 0.1 * rng.normal(size=y.shape)
    expected = scale.accumulate(lazy(x), lazy(y), (3, 4, 2), **words)
    file = tmp_path / "sums.npz"
    fit = scale.find_kernel(lazy(x), lazy(y), (3, 4, 2), checkpoint=file, **words)
    assert fit.kernel.tobytes() == scale.find_kernel(lazy(x), lazy(y), (3, 4, 2), **words).kernel.tobytes()
    assert (
        scale.find_kernel(lazy(x), lazy(y), (3, 4, 2), checkpoint=file, **words).kernel.tobytes()
        == fit.kernel.tobytes()
    )
    with pytest.raises(ValueError, match="pixels of the arrays differ"):
        scale.find_kernel(lazy(x), lazy(2 * y), (3, 4, 2), checkpoint=file, **words)
    for scheduler in ("threads", "processes"):
        with dask.config.set(scheduler=scheduler, num_workers=2 - (scheduler == "processes")):
            assert_same_bits(scale.accumulate(lazy(x), lazy(y), (3, 4, 2), **words), expected)
    later = scale.accumulate(x, y, (3, 4, 2), compute=False, **words)
    assert_same_bits(later.compute(), expected)
    zarr = pytest.importorskip("zarr")
    stores = [zarr.array(one, chunks=(6, 20, 20)) for one in (x, y)]
    for given in (stores, [da.from_zarr(one) for one in stores]):
        assert_same_bits(scale.accumulate(*given, (3, 4, 2), **words), expected)
    assert_close(expected.solve().kernel, find_kernel(x, y, (3, 4, 2), boundary="nearest").kernel, 1e-12)


def test_blocks_follow_chunks_and_no_pixel_travels():
    volume = da.random.default_rng(0).random((100, 300, 310), chunks=(33, 150, 310))
    plan = make_plan(volume, volume, kernelfit.Model((3, 5, 4), boundary="symm"), kernelfit.Selection())
    group = dask_blocks.BlockGroup(plan, 0, "fft", None)
    assert len(group.blocks) == 1 and all(group._own(s, t) for _, s, t in group.blocks[0])
    starts = {(block.planes[0].at, *block.plan.offset) for block, *_ in group.blocks[0]}
    assert {start[0] for start in starts} >= {0, 33, 66} and {start[1] for start in starts} == {0, 150}
    assert sum(len(block.planes) * block.plan.n_pixels for block, *_ in group.blocks[0]) == volume.size


def test_bad_calls_are_refused():
    x = lazy(np.random.default_rng(0).random((6, 7, 8)))
    with pytest.raises(ValueError, match=r"got block=\(2, 3\) of length 2, need .* three ints"):
        scale.find_kernel(x, x, (2, 2, 2), block=(2, 3), boundary="wrap")
    with pytest.raises(ValueError, match=r"got block=\(0, 3, 4\), need at least one"):
        scale.accumulate(x, x, (2, 2, 2), block=(0, 3, 4), boundary="wrap")
    with pytest.raises(ValueError, match=r"got mask of shape \(6, 7\), need \(6, 7, 8\)"):
        scale.find_kernel(x, x, (2, 2, 2), boundary="wrap", mask=da.zeros((6, 7), dtype=bool))
    with pytest.raises(TypeError, match="got weights of dtype complex128, need real numbers"):
        scale.find_kernel(x, x, (2, 2, 2), boundary="wrap", weights=da.zeros((6, 7, 8), dtype=complex))
    spoiled = np.ones((6, 7, 8))
    spoiled[4, 5, 6] = np.nan
    with pytest.raises(ValueError, match=r"block of target pixels that starts at \(3, 4, 4\).*NaN or infinite"):
        scale.accumulate(x, lazy(spoiled), (2, 2, 2), boundary="wrap", block=(3, 4, 4))
