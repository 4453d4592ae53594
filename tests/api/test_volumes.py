"""Volumes: arrays of three dimensions, under a kernel of three."""

import dataclasses

import numpy as np
import pytest

import kernelfit
import naive
from helpers import BOUNDARIES, MODES, OPERATIONS, assert_close, grid
from kernelfit import find_kernel

SHAPE, KERNEL = (7, 9, 11), (3, 2, 4)


def volume(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1.0, shape)


def pair(shape, kernel, seed=1, noisy=0.1, **words):
    """A volume, a kernel and the target it makes, where nothing is assumed as if there were zeros, with noise."""
    rng = np.random.default_rng(seed)
    x, k = volume(shape, seed + 100), rng.normal(size=kernel)
    matrix, used = naive.design_nd(x, kernel, **{**words, "boundary": words.get("boundary") or "fill"})
    y = np.zeros(used.shape)
    y[used] = matrix.astype(float) @ k.ravel()
    return x, k, y + noisy * rng.normal(size=y.shape)


def dense(pairs, kernel, weights=None, constant=False, **words):
    """Kernel, its standard errors, the constants and the residual sum of squares of dense least squares."""
    rows, values, roots = [], [], []
    for i, (x, y) in enumerate(pairs):
        matrix, used = naive.design_nd(x, kernel, **words)
        w = np.ones(used.sum()) if weights is None else np.broadcast_to(weights[i], used.shape)[used]
        beside = np.zeros((len(matrix), len(pairs) * constant))
        beside[:, i : i + constant] = 1.0
        rows.append(np.column_stack([matrix.astype(float), beside])[w > 0])
        values.append(y[used][w > 0])
        roots.append(np.sqrt(w[w > 0]))
    root = np.concatenate(roots)
    a, b = np.concatenate(rows) * root[:, None], np.concatenate(values) * root
    k = np.linalg.lstsq(a, b, rcond=None)[0]
    rss = float(np.sum((b - a @ k) ** 2))
    errors = np.sqrt(rss / (len(b) - len(k)) * np.diag(np.linalg.inv(a.T @ a)))
    m = int(np.prod(kernel))
    return k[:m].reshape(kernel), errors[:m].reshape(kernel), k[m:], rss


CASES = [
    (mode, *boundary, operation, kernel) for mode in MODES for boundary in BOUNDARIES for operation in OPERATIONS
    for kernel in (KERNEL, (1, 3, 3), (2, 5, 1), (4, 1, 2))
]  # fmt: skip


@grid("mode, boundary, fillvalue, operation, kernel", CASES, 23)
def test_it_is_dense_least_squares(mode, boundary, fillvalue, operation, kernel):
    words = {"mode": mode, "boundary": boundary, "fillvalue": fillvalue, "operation": operation}
    x, _, y = pair((6, 7, 9), kernel, **words)
    fit = find_kernel(x, y, kernel, **words)
    expected, errors, _, rss = dense([(x, y)], kernel, **words)
    assert fit.kernel.shape == fit.stderr.shape == kernel
    assert_close(fit.kernel, expected, 1e-10)
    assert_close(fit.stderr, errors, 1e-9)
    assert_close(fit.rss, rss, 1e-9)
    assert fit.convention.ndim == 3 and fit.convention.origin == tuple((n - 1) // 2 for n in kernel)
    predicted, left = fit.predict(x), fit.residual(x, y)
    np.testing.assert_array_equal(np.isnan(predicted), ~naive.design_nd(x, kernel, **words)[1])
    assert_close(np.nansum(left**2), rss, 1e-9)
    assert [len(lags) for lags in fit.lags] == list(kernel)


STRIDES = [
    (*lattice, boundary, operation) for lattice in (((2, 1, 3), (1, 0, 2)), (2, 1), ((3, 1, 1), 0))
    for boundary in (None, "wrap") for operation in OPERATIONS
]  # fmt: skip


@grid("stride, offset, boundary, operation", STRIDES, 5)
def test_stride(stride, offset, boundary, operation):
    words = {"mode": "same", "boundary": boundary, "operation": operation, "stride": stride, "offset": offset}
    kernel = (3, 2, 2)
    x, _, y = pair((8, 9, 13), kernel, **words)
    fit = find_kernel(x, y, kernel, **words)
    assert_close(fit.kernel, dense([(x, y)], kernel, **words)[0], 1e-10)
    assert fit.predict(x).shape == y.shape
    assert_close(np.nansum(fit.residual(x, y) ** 2), fit.rss, 1e-9)


@pytest.mark.parametrize("origin", [(0, 1, 3), (2, 0, 0), (-1, 1, 5)])
def test_origin_and_lags(origin):
    x, k, _ = pair(SHAPE, KERNEL, boundary="wrap", mode="same")
    y = kernelfit.apply_kernel(x, k, boundary="wrap", origin=origin)
    fit = find_kernel(x, y, KERNEL, boundary="wrap", origin=origin)
    assert_close(fit.kernel, k, 1e-10)
    assert fit.convention.origin == origin
    window = tuple((-o, n - 1 - o) for o, n in zip(origin, KERNEL, strict=True))
    assert_close(find_kernel(x, y, lags=window, boundary="wrap").kernel, k, 1e-10)
    moved = sum(
        k[at] * np.roll(x, [p - o for p, o in zip(at, origin, strict=True)], (0, 1, 2)) for at in np.ndindex(KERNEL)
    )
    assert_close(y, moved, 1e-12)


def test_a_part_of_the_target():
    x, k, y = pair((9, 10, 12), KERNEL, noisy=0, mode="same", boundary="symm")
    fit = find_kernel(x, y[2:7, 1:8, 3:9], KERNEL, mode="crop", boundary="symm", origin=(3, 1, 4))
    assert_close(fit.kernel, k, 1e-9)
    assert fit.convention.size == (5, 7, 6)
    assert_close(fit.predict(x), y[2:7, 1:8, 3:9], 1e-9)


KINDS = ("mask", "weights", "some", "nan", "masked array", "image_mask", "broadcast")


@grid("kind, background", [(kind, background) for kind in KINDS for background in (None, 0)], 3)
def test_masks_weights_and_a_constant(kind, background):
    rng, kernel = np.random.default_rng(5), (2, 3, 2)
    x, _, y = pair((8, 9, 10), kernel, boundary="wrap", mode="same")
    y += 3.0 * (background is not None)
    bad, words, source, target = rng.random(y.shape) < 0.2, {"boundary": "wrap", "background": background}, x, y
    bad[3] = kind == "mask"
    w = ~bad * 1.0
    if kind == "mask":
        words["mask"] = bad
    elif kind == "nan":
        target, words["nan"] = np.where(bad, np.nan, y), "mask"
    elif kind == "masked array":
        target = np.ma.array(y, mask=bad)
    elif kind == "image_mask":
        words["image_mask"] = np.zeros(x.shape, bool)
        words["image_mask"][4, 5, 6] = True
        matrix, used = naive.design_nd(words["image_mask"], kernel, mode="same", boundary="wrap")
        w = 1.0 - matrix.any(axis=1).reshape(used.shape)
    elif kind == "broadcast":
        bad = np.arange(10) == 4
        words["mask"], w = bad, np.broadcast_to(~bad * 1.0, y.shape)
    else:
        w = rng.uniform(0.2, 3, y.shape) if kind == "weights" else np.where(bad, 0.5, 1.0)
        words["weights"] = w
    fit = find_kernel(source, target, kernel, **words)
    known = {"mode": "same", "boundary": "wrap"}
    expected, errors, constant, rss = dense([(x, y)], kernel, [w], background is not None, **known)
    assert fit.n_pixels == np.count_nonzero(w) and fit.weights.shape == y.shape
    assert_close(fit.weights, w, 1e-12)
    assert_close(fit.kernel, expected, 1e-9)
    assert_close(fit.stderr, errors, 1e-8)
    assert_close(fit.rss, rss, 1e-8)
    if background is not None:
        assert_close(fit.background.coefficients, constant, 1e-8)
        assert fit.background.image().shape == y.shape
        assert_close(fit.predict(x) - fit.background.image(), kernelfit.apply_kernel(x, fit.kernel, boundary="wrap"))
    if kind in ("mask", "image_mask"):
        (note,) = fit.notes
        assert note.startswith(f"{int((w == 0).sum())} of {y.size} target pixels excluded")


@pytest.mark.parametrize("background", [None, 0])
def test_pairs_share_a_kernel_and_have_constants_of_their_own(background):
    kernel, known = (2, 2, 3), {"mode": "same", "boundary": "mirror"}
    (x, k, y), (x2, _, _) = pair((5, 6, 7), kernel, **known), pair((4, 8, 6), kernel, seed=2, **known)
    y2 = kernelfit.apply_kernel(x2, k, boundary="mirror")
    if background == 0:
        y, y2 = y + 2, y2 - 5
    fit = find_kernel([x, x2], [y, y2], kernel, boundary="mirror", background=background)
    expected, errors, constants, _ = dense([(x, y), (x2, y2)], kernel, None, background == 0, **known)
    assert_close(fit.kernel, expected, 1e-9)
    assert_close(fit.stderr, errors, 1e-8)
    if background == 0:
        assert_close(fit.background.coefficients.ravel(), constants, 1e-9)
        apart = fit.predict(x2, 1) - fit.predict(x2, 0)
        assert_close(apart, np.full(x2.shape, constants[1] - constants[0]), 1e-8)
    masked = [None, np.random.default_rng(0).random(y2.shape) < 0.3]
    fit = find_kernel([x, x2], [y, y2], kernel, boundary="mirror", background=background, mask=masked)
    weights = [np.ones(y.shape), 1.0 - masked[1]]
    assert_close(fit.kernel, dense([(x, y), (x2, y2)], kernel, weights, background == 0, **known)[0], 1e-9)
    assert [w.shape for w in fit.weights] == [y.shape, y2.shape]


@pytest.mark.slow
def test_noise_and_outliers():
    rng, kernel = np.random.default_rng(0), (2, 3, 2)
    x = rng.uniform(20, 900, (9, 12, 14))
    k = np.abs(rng.normal(size=kernel))
    k /= k.sum()
    y = rng.poisson(kernelfit.apply_kernel(x, k, boundary="wrap")).astype(float)
    fit = find_kernel(x, y, kernel, boundary="wrap", noise="poisson")
    w = 1 / np.maximum(fit.predict(x), 1)
    assert_close(fit.kernel, dense([(x, y)], kernel, [w], mode="same", boundary="wrap")[0], 1e-4)
    assert 0.9 < fit.noise_std < 1.1 and not fit.findings
    bad = rng.random(y.shape) < 0.05
    fit = find_kernel(x, np.where(bad, 4000.0, y), kernel, boundary="wrap", robust="clip")
    assert np.abs(fit.kernel - k).max() < 6 * fit.stderr.max()
    assert not fit.weights[bad].any() and fit.weights.shape == y.shape


def test_saturated_pixels_are_told_of_the_whole_volume():
    rng, kernel = np.random.default_rng(1), (2, 2, 2)
    x = rng.uniform(0, 200, (6, 16, 17))
    y = np.clip(kernelfit.apply_kernel(x, np.full(kernel, 0.2), boundary="wrap") - 40, 0, 255).round().astype(np.uint8)
    y[2] = 255
    fit = find_kernel(x, y, kernel, boundary="wrap", background=0)
    kept = (y > 0) & (y < 255)
    np.testing.assert_array_equal(np.asarray(fit.weights) > 0, kept)
    assert_close(fit.kernel, dense([(x, y)], kernel, [kept * 1.0], True, mode="same", boundary="wrap")[0], 1e-9)


@pytest.mark.slow
def test_solvers():
    kernel, known = (2, 3, 2), {"mode": "same", "boundary": "symm"}
    x, k, y = pair((8, 9, 11), kernel, **known)
    matrix = naive.design_nd(x, kernel, **known)[0]
    gram, moment = matrix.T @ matrix, matrix.T @ y.ravel()
    words = {"boundary": "symm"}
    fit = find_kernel(x, y, kernel, solver=kernelfit.Constrained(total=2.0), **words)
    ones = np.linalg.solve(gram, np.ones(k.size))
    plain = np.linalg.solve(gram, moment)
    assert_close(fit.kernel.ravel(), plain + ones * (2 - plain.sum()) / ones.sum(), 1e-9)
    even = find_kernel(x, y, kernel, solver=kernelfit.Constrained(symmetric="point"), **words).kernel
    assert_close(even, np.flip(even), 1e-10)
    folded = matrix + matrix[:, ::-1]
    assert_close(even.ravel(), np.linalg.lstsq(folded, y.ravel(), rcond=None)[0] * 2, 1e-9)
    every = find_kernel(x, y, kernel, solver=kernelfit.Constrained(symmetric="both"), **words).kernel
    for axis in range(3):
        assert_close(every, np.flip(every, axis), 1e-12)
    cube = matrix.reshape(-1, *kernel)
    turned = sum(np.flip(cube, [1 + a for a in range(3) if turn[a]]) for turn in np.ndindex(2, 2, 2))
    least = np.linalg.lstsq(turned.reshape(matrix.shape), y.ravel(), rcond=None)[0]
    assert_close(every.ravel(), 8 * least, 1e-9)
    positive = find_kernel(x, y, kernel, solver=kernelfit.NonNegative(), **words).kernel
    assert_close(positive.ravel(), naive_nnls(matrix, y.ravel()), 1e-8)
    smooth = find_kernel(x, y, kernel, solver=kernelfit.Penalized("gradient", 0.3), **words)
    rough = sum(
        np.diff(np.pad(np.eye(k.size).reshape(-1, *kernel), [(0, 0), *[(int(a == i), int(a == i)) for a in range(3)]]),
                axis=1 + i).reshape(k.size, -1) @
        np.diff(np.pad(np.eye(k.size).reshape(-1, *kernel), [(0, 0), *[(int(a == i), int(a == i)) for a in range(3)]]),
                axis=1 + i).reshape(k.size, -1).T for i in range(3)
    )  # fmt: skip
    detail = np.diag(gram) - 2 * gram.mean(axis=0) + gram.mean()
    expected = np.linalg.solve(gram + 0.3 * rough * detail.sum() / np.trace(rough), moment)
    assert_close(smooth.kernel.ravel(), expected, 1e-8)
    sparse = find_kernel(x, y, kernel, solver=kernelfit.Sparse(), **words)
    assert sparse.kernel.shape == kernel and np.abs(sparse.kernel - k).max() < 0.1
    basis = np.random.default_rng(0).normal(size=(3, *kernel))
    fit = find_kernel(x, y, kernel, solver=kernelfit.InBasis(basis), **words)
    flat = basis.reshape(3, -1)
    expected = flat.T @ np.linalg.lstsq(matrix @ flat.T, y.ravel(), rcond=None)[0]
    assert_close(fit.kernel.ravel(), expected, 1e-9)


def naive_nnls(matrix, values):
    import scipy.optimize

    return scipy.optimize.nnls(matrix.astype(float), values)[0]


def test_what_comes_back(tmp_path):
    x, _, y = pair(SHAPE, KERNEL, boundary="nearest", mode="full")
    fit = find_kernel(x, y, KERNEL, boundary="nearest")
    assert "3 x 2 x 4" in fit.summary() and fit.convention.mode == "full"
    assert fit.reproduce() == "find_kernel(image, target, (3, 2, 4), mode='full', boundary='nearest')"
    assert fit.covariance().shape == (24, 24) and fit.sample(5, 0).shape == (5, *KERNEL)
    low, high = fit.confidence()
    assert low.shape == KERNEL and (low < high).all()
    path = tmp_path / "fit.npz"
    fit.save(path)
    again = kernelfit.KernelFit.load(path)
    np.testing.assert_array_equal(again.kernel, fit.kernel)
    assert again.convention == fit.convention and again.convention.origin == (1, 0, 1)
    assert_close(again.predict(x), fit.predict(x), 1e-15)
    model = kernelfit.Model(KERNEL, boundary="nearest", operation="correlation")
    assert model.dimensions == 3 and kernelfit.Model(3, ndim=3).kernel_shape == (3, 3, 3)
    assert find_kernel(x, y, model).kernel.shape == KERNEL
    assert_close(find_kernel(x, y[1:8, :9, 1:12], kernelfit.Model(3, ndim=3)).kernel.size, 27)


def test_apply_kernel_is_what_scipy_does():
    scipy_ndimage = pytest.importorskip("scipy.ndimage")
    import scipy.signal

    x, k = volume(), np.random.default_rng(0).normal(size=KERNEL)
    for mode in MODES:
        assert_close(kernelfit.apply_kernel(x, k, mode=mode), scipy.signal.convolve(x, k, mode=mode), 1e-12)
    for mine, theirs in (("symm", "reflect"), ("mirror", "mirror"), ("nearest", "nearest"), ("wrap", "wrap")):
        odd = k[:, :1, :3]
        got = kernelfit.apply_kernel(x, odd, boundary=mine, operation="correlation")
        assert_close(got, scipy_ndimage.correlate(x, odd, mode=theirs), 1e-12)


@pytest.mark.slow
def test_misfits_are_told():
    x, k, y = pair((12, 20, 24), (3, 3, 4), noisy=0.02, boundary="wrap", mode="same")
    assert not find_kernel(x, y, (3, 3, 4), boundary="wrap").findings
    wrong = find_kernel(x, y, (3, 3, 4), boundary="nearest")
    assert wrong.verdict is kernelfit.Verdict.WRONG_BOUNDARY
    narrow = find_kernel(x, y, (3, 3, 2), boundary="wrap")
    assert narrow.verdict is not kernelfit.Verdict.SOLVED
    shallow = find_kernel(x[:, :, 2:18], y[:, :, 2:18], (1, 3, 4))
    assert shallow.verdict is not kernelfit.Verdict.SOLVED
    moved = find_kernel(x, y + 3, (3, 3, 4), boundary="wrap")
    assert moved.verdict is kernelfit.Verdict.OFFSET
    flat = find_kernel(np.repeat(x[:1], 12, axis=0), y, (3, 3, 4), boundary="wrap")
    assert flat.verdict is kernelfit.Verdict.RANK_DEFICIENT


REFUSED = [
    (dict(shape=3), "need 2; if it is a volume, give the kernel's shape as three numbers"),
    (dict(shape=(3, 3)), "need 2; if it is a volume, give the kernel's shape as three numbers"),
    (dict(channel_axis=-1), "channel"),
    (dict(background=9), "need more than 9 planes, rows and columns"),
    (dict(variation=1), "variation= with a kernel of three dimensions"),
    (dict(shape=(27, 27, 27), boundary="fill", method="fft"), "cannot determine"),
    (dict(shape=(9, 3, 3), boundary="wrap"), "9x3x3, larger than the volume of 7x9x11"),
    (dict(shape=(9, 3, 3)), "no 9x3x3 footprint"),
    (dict(shape=(6, 8, 9)), "cannot determine"),
    (dict(shape=(27, 27, 27), boundary="fill"), "693 target pixels cannot determine the 19683 taps"),
    (dict(origin=(1, 1)), "got"),
    (dict(stride=(1, 1, 1, 1)), "got"),
    (dict(mask=np.zeros((7, 9, 10), bool)), "got mask of shape"),
    (dict(weights=np.full(SHAPE, -1.0)), "negative"),
]


@pytest.mark.parametrize("words, message", REFUSED, ids=lambda v: str(v)[:40])
def test_refusals(words, message):
    x = volume()
    with pytest.raises((ValueError, TypeError), match=message):
        find_kernel(x, x, **{"shape": KERNEL, **words})


def test_other_refusals():
    x = volume()
    with pytest.raises(ValueError, match="2 dimensions"):
        find_kernel(x[0], x[0], KERNEL)
    with pytest.raises(ValueError, match="target 7x9x10"):
        find_kernel(x, x[..., 1:], KERNEL)
    with pytest.raises(ValueError, match="plane 2"):
        bad = x.copy()
        bad[2, 3, 4] = np.nan
        find_kernel(bad, x, KERNEL)
    with pytest.raises(ValueError, match="too few for 27 taps"):
        kernelfit.kernel_map(x, x, (3, 3, 3), tiles=2)
    fit = find_kernel(x, x, KERNEL)
    for call in (fit.recognise, fit.nearest, lambda: fit.export("scipy")):
        with pytest.raises(ValueError, match="rows and columns|three numbers"):
            call()
    with pytest.raises(ValueError, match="pairs of different modes"):
        find_kernel([x, x], [x, x[1:-1, 1:, 1:-2]], KERNEL)
    assert dataclasses.replace(fit.convention).ndim == 3


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("beyond", [-1, 2])
def test_planes_that_the_kernel_lacks_are_told(operation, beyond):
    rng = np.random.default_rng(3)
    x, k = rng.normal(size=(9, 50, 60)), rng.normal(size=(2, 3, 2))
    words = {"boundary": "wrap", "operation": operation}
    y = kernelfit.apply_kernel(x, k, origin=(0, 1, 0), **words) + 0.05 * rng.normal(size=x.shape)
    fine = find_kernel(x, y, k.shape, origin=(0, 1, 0), **words)
    assert not fine.findings
    wide = np.zeros((4, 3, 2))
    wide[1:3] = k
    wide[beyond + 1, 1, 1] = 0.05
    y = kernelfit.apply_kernel(x, wide, origin=(1, 1, 0), **words) + 0.05 * rng.normal(size=x.shape)
    lacking = find_kernel(x, y, k.shape, origin=(0, 1, 0), **words)
    assert lacking.verdict is kernelfit.Verdict.SHAPE_TOO_SMALL
    assert f"plane {beyond} of taps, outside the 2x3x2 kernel" in lacking.findings[0].detail
