"""Complex images and signals: image, target or both."""

import re

import numpy as np
import pytest

import kernelfit
import naive
from complex_pairs import SHAPE, SIZE, check, normal, pair
from helpers import BOUNDARIES, MODES, OPERATIONS, assert_close, grid
from kernelfit import Verdict, accumulate, find_kernel

CASES = [(mode, *edge, op) for mode in MODES for edge in BOUNDARIES for op in OPERATIONS]


@grid("mode, boundary, fillvalue, operation", CASES, 13)
@pytest.mark.parametrize("size, shape", [(SIZE, SHAPE), ((41,), (4,)), ((9, 12), (3, 2))], ids=str)
def test_it_is_dense_least_squares(mode, boundary, fillvalue, operation, size, shape):
    words = dict(mode=mode, boundary=boundary, fillvalue=fillvalue, operation=operation)
    image, _, target = pair(size, shape, **words)
    fit = find_kernel(image, target, shape, **words)
    matrix, used = naive.design_nd(image, shape, **words)
    check(fit, matrix, target[used])
    assert fit.kernel.shape == fit.stderr.shape == shape and fit.kernel.dtype == np.complex128
    predicted, left = fit.predict(image), fit.residual(image, target)
    np.testing.assert_array_equal(np.isnan(predicted), ~used)
    assert_close(predicted[used], matrix @ fit.kernel.ravel(), 1e-12)
    assert_close(np.nansum(np.abs(left) ** 2), fit.rss, 1e-9)
    about_mean = np.sum(np.abs(target[used] - target[used].mean()) ** 2)
    assert fit.r_squared == pytest.approx(1 - fit.rss / about_mean, rel=1e-9)
    if boundary is not None:
        applied = kernelfit.apply_kernel(image, fit.kernel, **words)
        np.testing.assert_allclose(applied, predicted, rtol=1e-13, atol=1e-13)


@pytest.mark.slow
@grid("method", ["fft", "direct"], 2)
@pytest.mark.parametrize("kinds", ["cc", "rc", "cr"])
@pytest.mark.parametrize("background", [None, 1])
def test_either_may_be_real(kinds, method, background):
    image, _, target = pair(kinds=kinds, mode="same")
    if kinds[1] == "c":
        target += (3 + 2j) - (0.2 - 0.1j) * np.arange(13)[:, None]
    if kinds == "cr":
        target = (target * 10).astype(np.int16)
    before = image.copy(), target.copy()
    fit = find_kernel(image, target, SHAPE, boundary="wrap", mode="same", background=background, method=method)
    matrix, _ = naive.design_nd(image, SHAPE, mode="same", boundary="wrap")
    if background is None:
        check(fit, matrix, target.ravel())
    else:
        down, across = np.meshgrid(np.linspace(-1, 1, 13), np.linspace(-1, 1, 10), indexing="ij")
        extra = np.column_stack([np.ones(130), *(v.ravel() for v in (across, down))])
        whole, covariance, rss = naive.complex_fit(np.column_stack([matrix, extra]), target.ravel())
        places = [kernelfit_powers.index(p) for p in ((0, 0), (0, 1), (1, 0))]
        assert_close(fit.kernel.ravel(), whole[:6], 1e-9)
        assert_close(fit.background.coefficients[places], whole[6:], 1e-9)
        errors = np.sqrt(np.diag(covariance))
        assert_close(fit.stderr.ravel(), errors[:6] + 1j * errors[9:15], 1e-8)
        assert_close(fit.background.stderr[places], errors[6:9] + 1j * errors[15:], 1e-8)
        assert fit.df_resid == 2 * (130 - 9)
        assert_close(np.sum(np.abs(fit.residual(image, target)) ** 2), rss, 1e-9)
    assert (image == before[0]).all() and (target == before[1]).all()


kernelfit_powers = [(0, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize("kind", ["mask", "weights", "some", "nan", "masked array", "image_mask"])
@grid("real", [False, True], 2)
def test_masks_and_weights(kind, real):
    rng = np.random.default_rng(5)
    image, _, target = pair((12, 15), mode="same", boundary="wrap")
    bad, w = rng.random((12, 15)) < 0.2, np.ones((12, 15))
    words, source, result = {"boundary": "wrap", "mode": "same", "real": real}, image, target
    if kind in ("mask", "masked array", "nan"):
        w = ~bad * 1.0
        holes = np.where(rng.random(bad.shape) < 0.5, complex(np.nan, 1), complex(1, np.inf))  # in either part
        result = np.where(bad, holes, target) if kind == "nan" else target
        result = np.ma.array(target, mask=bad) if "array" in kind else result
        words |= {"mask": bad} if kind == "mask" else {"nan": "mask"} if kind == "nan" else {}
    elif kind == "image_mask":
        words["image_mask"] = np.zeros((12, 15), bool)
        words["image_mask"][5, 7] = True
        w[5:7, 6:9] = 0.0
    else:
        w = rng.uniform(0.2, 3, (12, 15)) if kind == "weights" else np.where(bad, 0.5, 1.0)
        words["weights"] = w
    fit = find_kernel(source, result, SHAPE, **words)
    matrix, _ = naive.design_nd(image, SHAPE, mode="same", boundary="wrap")
    check(fit, matrix, target.ravel(), w.ravel(), real=real)
    np.testing.assert_array_equal(fit.weights, w)
    about_mean = np.sum(w * np.abs(target - np.sum(w * target) / w.sum()) ** 2)
    assert fit.r_squared == pytest.approx(1 - fit.rss / about_mean, rel=1e-9)
    assert len(fit.notes) == (kind not in ("weights", "some"))


@pytest.mark.parametrize("words", [dict(stride=2, offset=1), dict(stride=(3, 1)), dict(origin=(4, -2))], ids=str)
@pytest.mark.parametrize("size, shape", [((17, 24), (3, 4)), ((90,), (5,))], ids=str)
def test_stride_and_origin(words, size, shape):
    if len(size) == 1:
        words = {k: v[:1] if isinstance(v, tuple) else v for k, v in words.items()}
    known = dict(mode="same", boundary="symm") | words
    image, _, target = pair(size, shape, **known)
    fit = find_kernel(image, target, shape, **known)
    matrix, used = naive.design_nd(image, shape, **known)
    check(fit, matrix, target[used])
    assert fit.predict(image).shape == target.shape


@pytest.mark.parametrize("size, shape", [((11, 14), (2, 3)), ((50,), (5,))], ids=str)
def test_a_real_kernel_is_that_of_both_parts(size, shape):
    image, _, target = pair(size, shape, mode="valid")
    fit = find_kernel(image, target, shape, real=True, background=None)
    matrix, used = naive.design_nd(image, shape, mode="valid", boundary=None)
    check(fit, matrix, target[used], real=True)
    assert fit.kernel.dtype == np.float64
    assert_close(fit.predict(image)[used], matrix @ fit.kernel.ravel(), 1e-12)
    assert "real=True" in fit.reproduce()
    again = eval(fit.reproduce(), {"find_kernel": find_kernel, "image": image, "target": target})
    assert (again.kernel == fit.kernel).all()
    real = find_kernel(image.real, target.real, shape, real=True)
    assert (real.kernel == find_kernel(image.real, target.real, shape).kernel).all()


@grid("mode", [None, "mixed"], 2)
def test_pairs_share_a_kernel(mode):
    pairs = [pair(size, seed=3, mode="valid") for size in ((9, 12), (14, 8))]
    images, _, targets = zip(*pairs, strict=True)
    words = {}
    if mode:
        images, targets, words = [a[None] for a in images], [a[None] for a in targets], {"channel_axis": 0}
        words["channels"] = mode
    fit = find_kernel(list(images), list(targets), SHAPE, background=0, **words)
    blocks = [naive.design_nd(image, SHAPE, mode="valid", boundary=None)[0] for image, _, _ in pairs]
    ones = [np.eye(2)[i][None].repeat(len(block), axis=0) for i, block in enumerate(blocks)]
    matrix = np.block([[block, one] for block, one in zip(blocks, ones, strict=True)])
    whole, covariance, _ = naive.complex_fit(matrix, np.concatenate([np.ravel(t) for t in targets]))
    assert_close(fit.kernel.ravel(), whole[:6], 1e-9)
    assert_close(fit.background.coefficients.ravel(), whole[6:], 1e-9)
    errors = np.sqrt(np.diag(covariance))
    assert_close(fit.stderr.ravel(), errors[:6] + 1j * errors[8:14], 1e-8)
    left = [fit.residual(i, t, pair=at) for at, (i, t) in enumerate(zip(images, targets, strict=True))]
    assert_close(sum(np.sum(np.abs(r) ** 2) for r in left), fit.rss, 1e-9)


@pytest.mark.parametrize("channels", ["shared", "separate"])
def test_channels(channels):
    planes = [pair(seed=s, mode="valid") for s in (1, 2, 3)]
    image, target = (np.stack([p[i] for p in planes], axis=-1) for i in (0, 2))
    target = target * [1, 2j, 1 - 1j]
    fit = find_kernel(image, target, SHAPE, channel_axis=-1, channels=channels)
    blocks = [naive.design_nd(p[0], SHAPE, mode="valid", boundary=None)[0] for p in planes]
    if channels == "shared":
        check(fit, np.concatenate(blocks), np.moveaxis(target, -1, 0).ravel())
    else:
        for c, block in enumerate(blocks):
            check(fit.parts[c], block, target[..., c].ravel())
            assert (fit.kernel[c] == fit.parts[c].kernel).all()
    assert fit.predict(image).shape == target.shape


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("size, shape", [((17, 12), (2, 3)), ((120,), (4,))], ids=str)
def test_coils_are_mixed(size, shape, mask):
    """Parallel imaging: each coil's sample is a sum over its neighbours in all coils."""
    rng = np.random.default_rng(2)
    n, out = 4, 3
    image, kernels = normal(rng, *size, n), normal(rng, out, n, *shape)
    blocks = [naive.design_nd(image[..., c], shape, mode="valid", boundary=None)[0] for c in range(n)]
    matrix = np.concatenate(blocks, axis=1)
    sides = tuple(s - k + 1 for s, k in zip(size, shape, strict=True))
    target = (matrix @ kernels.reshape(out, -1).T).reshape(*sides, out)
    target = target + 0.3 * normal(rng, *target.shape)
    bad = rng.random(sides) < 0.1
    words = {"mask": bad} if mask else {}
    fit = find_kernel(image, target, shape, channel_axis=-1, channels="mixed", **words)
    assert fit.kernel.shape == (out, n, *shape) and fit.covariance().shape == (out, *(2 * matrix.shape[1],) * 2)
    keep = ~bad.ravel() if mask else slice(None)
    for t in range(out):
        check(fit.parts[t], matrix[keep], target[..., t].ravel()[keep])
    predicted = (matrix @ fit.kernel.reshape(out, -1).T).reshape(target.shape)
    assert_close(fit.predict(image), predicted, 1e-12)


def test_ridge_and_conjugate_gradients():
    image, _, target = pair((22, 17), (3, 4), mode="valid")
    matrix, _ = naive.design_nd(image, (3, 4), mode="valid", boundary=None)
    fit = find_kernel(image, target, (3, 4), solver=kernelfit.Penalized("ridge", strength=0.1))
    gram = matrix.conj().T @ matrix
    detail = np.trace(gram).real - np.sum(gram).real / 12  # of the taps less their mean
    ridge = np.linalg.solve(gram + 0.1 * detail / 12 * np.eye(12), matrix.conj().T @ target.ravel())
    assert_close(fit.kernel.ravel(), ridge, 1e-9)
    chosen = find_kernel(image, target, (3, 4), solver=kernelfit.Penalized("ridge"))
    assert 11 < chosen.df_model <= 12 and chosen.df_model == pytest.approx(
        chosen.path.df_model[np.argmin(np.abs(np.log(chosen.path.strength / chosen.strength)))], abs=0.5
    )
    found = find_kernel(image, target, (3, 4), method="cg")
    exact, _, _ = naive.complex_fit(matrix, target.ravel())
    assert_close(found.kernel.ravel(), exact, 1e-4)
    assert found.stderr.real == pytest.approx(found.stderr.imag) and found.rank == 12


@pytest.mark.parametrize("size, shape", [((16, 21), (2, 3)), ((90,), (4,))], ids=str)
@grid("balance, words", [(0.3, {}), ("auto", {}), (0.0, {"stride": 2}), (0.2, {"channels": "mixed"})], 2, ids=str)
def test_division_by_frequency(size, shape, balance, words):
    """The minimum of ``sum |Y - K X|^2 + balance m q |K|^2`` among kernels of the shape, all of them complex."""
    size = tuple(s + s % 2 for s in size) if "stride" in words else size
    mixed, stride = "channels" in words, words.get("stride", 1)
    images = [pair(size, shape, seed=s, mode="same", boundary="wrap")[0] for s in ((1, 2) if mixed else (1,))]
    convention = dict(mode="same", boundary="wrap", stride=stride)
    designs = [naive.design_nd(a, shape, **convention) for a in images]
    matrix, n_taps = np.concatenate([m for m, _ in designs], axis=1), int(np.prod(shape))
    rng = np.random.default_rng(3)
    target = (matrix @ normal(rng, matrix.shape[1])).reshape(designs[0][1].shape)
    target = target + 0.3 * normal(rng, *target.shape)
    image = np.stack(images) if mixed else images[0]
    words = {**words, **({"channel_axis": 0} if mixed else {}), "boundary": "wrap", "mode": "same"}
    solver = kernelfit.Wiener(balance=balance)
    fit = find_kernel(image, target[None] if mixed else target, shape, solver=solver, **words)
    laplacian = np.zeros((16, 16))
    laplacian[0, 0], laplacian[0, [1, -1]], laplacian[[1, -1], 0] = 4, -1, -1
    lags = np.fft.ifft2(np.abs(np.fft.fft2(laplacian)) ** 2 / 20).real  # those of the power spectrum q
    places = np.indices((1,) * (2 - len(shape)) + shape).reshape(2, -1)
    penalty = lags[tuple(places[:, :, None] - places[:, None])]
    held = 0.0 if balance == "auto" else balance
    mean = np.mean([np.sum(np.abs(a) ** 2) for a in images])
    gram = matrix.conj().T @ matrix + held * mean * np.kron(np.eye(len(images)), penalty)
    wanted = np.linalg.solve(gram, matrix.conj().T @ target.ravel())
    if balance == "auto":
        assert np.linalg.norm(fit.kernel.ravel() - wanted) < 0.5 * np.linalg.norm(fit.stderr)
    else:
        assert_close(fit.kernel.ravel(), wanted, 1e-9)
        left = np.sum(np.abs(target.ravel() - matrix @ wanted) ** 2)
        assert_close(fit.rss, left, 1e-9)
        variance = np.sum(np.abs(target - target.mean()) ** 2)
        assert fit.r_squared == pytest.approx(1 - left / variance, rel=1e-9)
    assert fit.method == "wiener" and fit.kernel.size == n_taps * len(images)
    assert np.isfinite(fit.stderr).all() and fit.n_pixels == target.size


@pytest.mark.slow
def test_the_prior_is_circular():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-3:3, -3:4]
    kernel = np.exp(-(y**2 + x**2) / 6) * np.exp(0.5j * x + 0.3j)
    image = normal(rng, 24, 21)
    matrix, used = naive.design_nd(image, kernel.shape, mode="valid", boundary=None)
    target = (matrix @ kernel.ravel()).reshape(used.shape)
    target = target + 2 * normal(rng, *target.shape)
    solver = kernelfit.GaussianProcess("matern32", envelope="gaussian", symmetric=None)
    fit = find_kernel(image, target, kernel.shape, solver=solver)
    prior = fit.prior
    assert len(fit.priors) == 1
    places = np.mgrid[:6, :7].reshape(2, -1)
    apart = np.sqrt(3) * np.hypot(*(places[:, :, None] - places[:, None])) / prior.length
    envelope = np.exp(-np.sum((places.T - prior.center) ** 2, axis=1) / (2 * prior.radius**2))
    covariance = prior.amplitude**2 * (1 + apart) * np.exp(-apart) * np.multiply.outer(envelope, envelope)
    whole = matrix @ (2 * covariance) @ matrix.conj().T + fit.noise_std**2 * np.eye(len(matrix))  # E y y*
    solved = np.linalg.solve(whole, target.ravel())
    assert_close(fit.kernel.ravel(), 2 * covariance @ matrix.conj().T @ solved, 1e-7)
    density = -np.linalg.slogdet(np.pi * whole)[1] - (target.ravel().conj() @ solved).real
    assert fit.log_evidence == pytest.approx(density, rel=1e-8)
    turned = find_kernel(image, target * np.exp(0.7j), kernel.shape, solver=solver)
    assert_close(turned.kernel, fit.kernel * np.exp(0.7j), 1e-6)
    assert turned.log_evidence == pytest.approx(fit.log_evidence, rel=1e-9)
    chosen = find_kernel(image, target, kernel.shape, solver="auto")
    plain = find_kernel(image, target, kernel.shape)
    assert np.linalg.norm(chosen.kernel - kernel) < 0.7 * np.linalg.norm(plain.kernel - kernel)
    basis = np.array([np.exp(-(y**2 + x**2) / w) for w in (2, 6, 12)])
    held = find_kernel(image, target, kernel.shape, solver=kernelfit.InBasis(basis))
    small = matrix @ basis.reshape(3, -1).T
    assert_close(held.kernel.ravel(), basis.reshape(3, -1).T @ np.linalg.lstsq(small, target.ravel())[0], 1e-9)


def test_counts_in_words_are_of_complex_numbers():
    rng = np.random.default_rng(0)
    image = normal(rng, 6, 7)
    few = find_kernel(image, normal(rng, 5, 5), (2, 3))
    details = {f.verdict: f.detail for f in few.findings}
    assert details[Verdict.NO_REDUNDANCY].startswith("25 pixels, rank 6")
    flat = find_kernel(np.full((20, 30), 1 + 1j), normal(rng, 20, 30), (2, 3), boundary="wrap")
    details = {f.verdict: f.detail for f in flat.findings}
    assert flat.rank == 1 and details[Verdict.RANK_DEFICIENT].startswith("rank 1 of 6, because the image is constant")
    same = find_kernel(normal(rng, 20, 30), np.full((20, 30), 2 - 3j), (2, 3), boundary="wrap")
    assert any(f.verdict is Verdict.NO_SIGNAL and "2-3j" in f.detail for f in same.findings)
    with pytest.raises(ValueError, match="5 target pixels cannot determine the 6 taps"):
        find_kernel(image[:2], normal(rng, 1, 5), (2, 3), mode="valid")


def test_statistics_add_and_are_kept(tmp_path):
    image, _, target = pair((30, 21), mode="same", boundary="wrap")
    target += 1 - 2j
    words = dict(boundary="wrap", mode="same", background=0)
    stats = accumulate(image, target, SHAPE, **words)
    fit, one = stats.solve(), find_kernel(image, target, SHAPE, **words)
    for name in ("kernel", "stderr", "n_pixels", "rank", "noise_std", "r_squared", "df_resid"):
        assert_close(getattr(fit, name), getattr(one, name), 1e-9, name)
    assert_close(fit.background.coefficients, one.background.coefficients, 1e-9)
    stats.save(tmp_path / "stats.npz")
    again = kernelfit.NormalStats.load(tmp_path / "stats.npz")
    assert (again.solve().kernel == fit.kernel).all() and again.target_sum == stats.target_sum
    halves = [
        accumulate(image[rows], target[rows], SHAPE, mode="same", real=True) for rows in (slice(0, 15), slice(15, 30))
    ]
    both = (halves[0] + halves[1]).solve()
    exact = find_kernel([image[:15], image[15:]], [target[:15], target[15:]], SHAPE, mode="same", real=True)
    assert_close(both.kernel, exact.kernel, 1e-9)
    assert both.n_pixels == exact.n_pixels and both.kernel.dtype == np.float64
    with pytest.raises(ValueError, match="different kernels"):
        halves[0] + accumulate(image.real, target.real, SHAPE, mode="same")


@pytest.mark.parametrize("size, shape", [((17, 12), (2, 3)), ((120,), (4,))], ids=str)
def test_results_are_kept_and_told(size, shape, tmp_path):
    image, _, target = pair(size, shape, mode="same", boundary="wrap")
    fit = find_kernel(image, target, shape, boundary="wrap", background=0, mask=np.abs(target) > 8)
    fit.save(tmp_path / "fit.npz")
    again = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    for name in ("kernel", "stderr", "weights"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fit, name))
    assert again.convention == fit.convention and again.df_resid == fit.df_resid
    np.testing.assert_array_equal(again.background.coefficients, fit.background.coefficients)
    assert "complex" in fit.summary() and "j" in fit.summary() and fit._repr_html_()
    low, high = fit.confidence(0.9)
    assert_close((low + high) / 2, fit.kernel) and ((high - low).imag > 0).all()
    draws = fit.sample(4000, 0).reshape(4000, -1) - fit.kernel.ravel()
    parts = np.concatenate([draws.real, draws.imag], axis=1)
    assert np.abs(np.cov(parts.T) - fit.covariance()).max() < 0.1 * fit.covariance().max()


@pytest.mark.parametrize(
    "words, message",
    [
        (dict(noise="poisson"), "counts are not complex"),
        (dict(saturated=(0, 1)), "no largest one"),
        (dict(variation="auto"), "prior of each part"),
        (dict(variation=1, solver="auto"), "change of phase"),
        (dict(solver=kernelfit.NonNegative()), "real numbers"),
        (dict(solver=kernelfit.Sparse()), "real numbers"),
        (dict(solver=kernelfit.GaussianProcess(non_negative=True)), "real numbers"),
        (dict(solver=kernelfit.Constrained(total=1)), "real numbers"),
        (dict(real=1), "need True or False"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused(words, message):
    image, _, target = pair(mode="valid")
    with pytest.raises((ValueError, TypeError), match=message):
        find_kernel(image, target, SHAPE, **words)


def test_what_takes_real_kernels_says_so():
    image, _, target = pair(mode="valid")
    fit = find_kernel(image, target, SHAPE)
    calls = [fit.psf, fit.recognise, fit.as_integers, lambda: fit.export("scipy")]
    for call in calls:
        with pytest.raises(TypeError, match="complex"):
            call()
    with pytest.raises(ValueError, match=r"got image with 1 pixel that is NaN or infinite, the first at .*\(3, 4\)"):
        image[3, 4] = complex(1, np.nan)
        find_kernel(image, target, SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize("size, shape", [((31, 26), (2, 3)), ((150,), (4,))], ids=str)
@grid("words", [{}, {"background": 0, "mask": True}, {"robust": "huber"}, {"channels": "mixed"}, {"real": True}], 2)
def test_maps_are_fits_of_tiles(size, shape, words):
    words = {"mode": "same", "boundary": "wrap", **words}
    image, _, target = pair(size, shape, noise=0.4, **{k: v for k, v in words.items() if k in ("mode", "boundary")})
    mask = np.random.default_rng(0).random(size) < 0.1 * words.pop("mask", False)
    if "channels" in words:
        image, target = np.stack([image, image[::-1] ** 2]), np.stack([target, 1j * target, target.conj()])
        words["channel_axis"] = 0
    tiles = (2, 3) if len(size) == 2 else 3
    found = kernelfit.kernel_map(image, target, shape, tiles, **words, mask=mask)
    extra = (3, 2) if "channels" in words else ()
    assert found.kernels.shape == found.stderr.shape == (*np.atleast_1d(tiles), *extra, *shape)
    assert found.kernels.dtype == found.stderr.dtype == (np.float64 if "real" in words else np.complex128)
    at = (1, 2) if len(size) == 2 else (2,)
    start, sides = np.split(found.boxes[at], 2)
    inside = tuple(slice(a, a + n) for a, n in zip(start, sides, strict=True))
    outside = np.ones(size, dtype=bool)
    outside[inside] = mask[inside]
    alone = find_kernel(image, target, shape, **words, mask=outside)
    tolerance = 1e-2 if "robust" in words else 1e-9
    assert_close(found.kernels[at], alone.kernel, tolerance)
    assert_close(found.stderr[at], alone.stderr, 10 * tolerance)
    assert_close(found.noise_std[at], [p.noise_std for p in alone.parts] if extra else alone.noise_std, 0.1)
    assert found.summary() and found.common.shape == alone.kernel.shape
    with pytest.raises(ValueError, match="smoothness"):
        kernelfit.kernel_map(image, target, shape, tiles, **words, smoothness=1.0)


@pytest.mark.parametrize("size, shape", [((31, 26), (2, 3)), ((150,), (4,))], ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernels_are_compared(size, shape, operation):
    fits = []
    for seed in (1, 2):
        image, kernel, _ = pair(size, shape, mode="same", boundary="wrap")
        target = kernelfit.apply_kernel(image, kernel, boundary="wrap", operation=operation)
        target = target + 0.2 * normal(np.random.default_rng(seed + 10), *size)
        fits.append(find_kernel(image, target, shape, boundary="wrap", operation=operation))
    found = kernelfit.compare_kernels(*fits)
    apart = (fits[0].kernel - fits[1].kernel).ravel()
    parts = np.concatenate([apart.real, apart.imag])
    chi2 = parts @ np.linalg.solve(fits[0].covariance() + fits[1].covariance(), parts)
    assert found.chi2 == pytest.approx(chi2, rel=1e-8) and found.dof == len(parts) and not found.differ
    turn = (slice(None, None, -1 if operation == "correlation" else 1),) * len(shape)
    assert_close(found.difference[turn].ravel(), apart)
    both = np.sqrt(fits[0].stderr.real ** 2 + fits[1].stderr.real ** 2)
    assert_close(found.stderr.real[turn], both)
    assert_close(found.stderr.imag, found.stderr.real, 1e-2)
    other = kernelfit.compare_kernels(fits[0], 2j * fits[0].kernel)
    assert operation == "correlation" or other.differ and other.exact and other.dof == len(parts) and "j" in str(other)
    assert kernelfit.compare_kernels(fits[0].kernel, fits[0].kernel.real).relative > 0.1


@grid("constant, told", [(2 - 1j, "real parts and .* imaginary parts"), (-1.5j, "-1.5.* imaginary")], 2)
def test_a_constant_in_the_target_is_told(constant, told):
    rng = np.random.default_rng(1)
    image, kernel = normal(rng, 130, 150), normal(rng, *SHAPE)
    target = kernelfit.apply_kernel(image, kernel, boundary="wrap") + 0.3 * normal(rng, 130, 150)
    assert find_kernel(image, target, SHAPE, boundary="wrap").verdict.ok
    fit = find_kernel(image, target + constant, SHAPE, boundary="wrap")
    assert [f.verdict for f in fit.findings] == [Verdict.OFFSET]
    assert re.search(told, fit.findings[0].detail) and ("real parts" in fit.findings[0].detail) == bool(constant.real)
    assert find_kernel(image, target + constant, SHAPE, boundary="wrap", background=0).verdict.ok


@pytest.mark.slow
def test_a_constant_in_one_of_several_targets_is_told_of_that_one():
    rng = np.random.default_rng(12)
    image, kernels = normal(rng, 130, 150, 2), normal(rng, 3, 2, 3, 2)
    target = kernelfit.apply_kernel(image, kernels, boundary="wrap", channel_axis=-1) + normal(rng, 130, 150, 3)
    target[..., 1] += 1j
    fit = find_kernel(image, target, (3, 2), channel_axis=-1, channels="mixed", boundary="wrap")
    told = [[f.verdict for f in part.findings] for part in fit.parts]
    assert told == [[], [Verdict.OFFSET], []]
    assert "imaginary parts" in fit.parts[1].findings[0].detail and "real" not in fit.parts[1].findings[0].detail
    share = float(fit.parts[1].findings[0].detail.split("a constant of ")[1].split(" ")[0])
    assert share == pytest.approx(1, abs=0.1)


@grid("words", [{"background": 1}, {}, {"real": True}, {"channels": "mixed"}], 4, ids=str)
def test_streams(words, tmp_path):
    words = {"boundary": "wrap", "mode": "same", **words}
    pairs = [pair(size, mode="same", boundary="wrap", seed=4)[::2] for size in ((30, 41), (52, 23))]
    if "channels" in words:
        words["channel_axis"] = 0
        pairs = [(np.stack([a, a.real**2]), np.stack([b, 1j * b])) for a, b in pairs]
    masks = [np.random.default_rng(i).random(b.shape) < 0.1 for i, (_, b) in enumerate(pairs)]
    stream = [(*both, mask) for both, mask in zip(pairs, masks, strict=True)]
    fit = kernelfit.accumulate_stream(stream, SHAPE, block=16, **words).solve()
    images, targets = zip(*pairs, strict=True)
    whole = find_kernel(list(images), list(targets), SHAPE, mask=masks, **words)
    for name in ("kernel", "stderr", "noise_std", "n_pixels", "rank", "r_squared", "df_resid"):
        assert_close(getattr(fit, name), getattr(whole, name), 1e-9, name)
    if fit.background is not None:
        assert_close(fit.background.coefficients, whole.background.coefficients, 1e-9)
        assert fit.background.coefficients.shape == (2, 3)


@pytest.mark.parametrize("size, shape", [((17, 22), (2, 3)), ((150,), (4,))], ids=str)
@grid("mixed", [True, False], 2)
def test_the_parts_by_themselves(size, shape, mixed):
    rng = np.random.default_rng(0)
    images = [pair(size, shape, seed=s, mode="valid")[0] for s in (1, 2)]
    matrix = np.concatenate([naive.design_nd(a, shape, mode="valid", boundary=None)[0] for a in images], axis=1)
    matrix = matrix if mixed else matrix[:, : int(np.prod(shape))]
    sides = tuple(n - k + 1 for n, k in zip(size, shape, strict=True))
    target = normal(rng, *sides)
    words = {"channel_axis": 0, "channels": "mixed"} if mixed else {}
    fit = find_kernel(np.stack(images) if mixed else images[0], target[None] if mixed else target, shape, **words)
    parts = kernelfit.split_channels(fit)
    covariance = naive.complex_fit(matrix, target.ravel())[1]
    m, n = len(covariance) // 2, int(np.prod(shape))
    assert len(parts) == (4 if mixed else 2)
    for at, (name, part) in enumerate(parts.items()):
        first = (m if at % 2 else 0) + at // 2 * n
        assert name.endswith("imaginary part" if at % 2 else "real part")
        own = fit.kernel.reshape(-1, *shape)[at // 2]
        np.testing.assert_array_equal(part.kernel, own.imag if at % 2 else own.real)
        assert_close(part.covariance(), covariance[first : first + n, first : first + n], 1e-8)
        assert part.noise_std == pytest.approx(
            fit.parts[0].noise_std / np.sqrt(2) if mixed else fit.noise_std / np.sqrt(2)
        )
    if len(size) == 2:
        assert kernelfit.compare_kernels(*list(parts.values())[:2]).chi2 > 0
        pytest.importorskip("matplotlib")
        assert len(fit.plot().axes) >= 8
