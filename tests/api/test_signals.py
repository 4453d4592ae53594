"""Signals: arrays of one dimension, wherever images go."""

import math
import re

import numpy as np
import pytest
import scipy.signal

import kernelfit
import naive
from helpers import BOUNDARIES, MODES, OPERATIONS, assert_close, grid
from kernelfit import find_kernel


def noise(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.convolve(rng.normal(0.2, 1.0, n + 2), [1.0, 0.6, 0.2], mode="valid")


def pair(n, taps, seed=1, noisy=0.1, **words):
    """A signal, a kernel and the target it makes, where nothing is assumed as if there were zeros, with noise."""
    rng = np.random.default_rng(seed)
    x, k = noise(n, seed + 100), rng.normal(size=taps)
    known = {**words, "boundary": words.get("boundary") or "fill"}
    matrix, used = naive.design_nd(x, (taps,), **known)
    y = np.zeros(used.shape)
    y[used] = matrix @ k
    return x, k, y + noisy * rng.normal(size=y.shape)


def dense(x, y, taps, weights=None, extra=None, **words):
    """Kernel and standard errors of dense least squares, with columns beside the taps."""
    matrix, used = naive.design_nd(x, (taps,), **words)
    w = np.ones(used.sum()) if weights is None else np.broadcast_to(weights, used.shape)[used]
    if extra is not None:
        matrix = np.column_stack([matrix, extra[used]])
    a, b = matrix[w > 0] * np.sqrt(w[w > 0])[:, None], y[used][w > 0] * np.sqrt(w[w > 0])
    k, *_ = np.linalg.lstsq(a.astype(float), b, rcond=None)
    variance = np.sum((b - a @ k) ** 2) / (len(b) - len(k))
    errors = np.sqrt(variance * np.diag(np.linalg.inv((a.T @ a).astype(float))))
    return k[:taps], errors[:taps], used


CASES = [
    (mode, *boundary, operation, taps) for mode in MODES for boundary in BOUNDARIES for operation in OPERATIONS
    for taps in (1, 4, 7)
]  # fmt: skip


@grid("mode, boundary, fillvalue, operation, taps", CASES, 5)
def test_it_is_dense_least_squares(mode, boundary, fillvalue, operation, taps):
    words = dict(mode=mode, boundary=boundary, fillvalue=fillvalue, operation=operation)
    x, _, y = pair(61, taps, **words)
    fit = find_kernel(x, y, taps, **words)
    expected, errors, used = dense(x, y, taps, **words)
    assert fit.kernel.shape == fit.stderr.shape == (taps,) and fit.n_pixels == used.sum()
    assert_close(fit.kernel, expected, 1e-10)
    assert_close(fit.stderr, errors, 1e-9)
    assert fit.convention.ndim == 1 and fit.convention.origin == ((taps - 1) // 2,)
    predicted, left = fit.predict(x), fit.residual(x, y)
    assert predicted.shape == y.shape
    np.testing.assert_array_equal(np.isnan(predicted), ~used)
    assert_close(np.nansum(left**2), fit.rss, 1e-9)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("lags", [(0, 6), (-9, -5), (4, 10), (-2, 3), (5, 5)], ids=str)
def test_windows_of_lags(lags, operation):
    x, k = noise(80), np.random.default_rng(3).normal(size=lags[1] - lags[0] + 1)
    y = np.zeros(80)
    for lag, tap in zip(range(lags[0], lags[1] + 1), k, strict=True):
        y += tap * np.roll(x, lag)
    fit = find_kernel(x, y, lags=lags, boundary="wrap", operation=operation)
    assert_close(fit.kernel, k if operation == "convolution" else k[::-1], 1e-10)
    assert sorted(fit.lags) == list(range(lags[0], lags[1] + 1)) and fit.lags.shape == k.shape
    assert_close(fit.kernel[np.argsort(fit.lags)], k, 1e-10)
    assert_close(find_kernel(x, y, kernelfit.Model(lags=lags, boundary="wrap", operation=operation)).kernel, fit.kernel)


def test_windows_of_lags_of_images():
    image = np.random.default_rng(0).normal(size=(30, 41))
    target = 2 * np.roll(image, (3, -8), (0, 1))
    fit = find_kernel(image, target, lags=((2, 4), (-9, -6)), boundary="wrap")
    assert fit.kernel.shape == (3, 4) and fit.kernel[1, 1] == pytest.approx(2)
    assert [list(lag) for lag in fit.lags] == [[2, 3, 4], [-9, -8, -7, -6]]


@pytest.mark.parametrize("stride, offset", [(2, 0), (3, 1), (5, 4)])
@pytest.mark.parametrize("boundary", [None, "symm"])
def test_stride(stride, offset, boundary):
    words = dict(mode="same", boundary=boundary, stride=stride, offset=offset)
    x, _, y = pair(143, 6, **words)
    fit = find_kernel(x, y, 6, **words)
    assert_close(fit.kernel, dense(x, y, 6, **words)[0], 1e-10)
    assert fit.convention.stride == (stride,) and fit.convention.offset == (offset,)
    assert fit.predict(x).shape == y.shape


@pytest.mark.parametrize("kind", ["mask", "weights", "some", "nan", "masked array", "image_mask"])
@pytest.mark.parametrize("background", [None, 0, 2])
def test_masks_weights_and_backgrounds(kind, background):
    rng = np.random.default_rng(5)
    x, _, y = pair(160, 5, boundary="wrap", mode="same")
    bad, w = rng.random(160) < 0.2, np.ones(160)
    y += 3.0 + 0.02 * np.arange(160)
    words: dict = {"boundary": "wrap", "background": background}
    source, target = x, y
    if kind in ("mask", "masked array", "nan"):
        w = ~bad * 1.0
        target = np.where(bad, np.nan, y) if kind == "nan" else np.ma.array(y, mask=bad) if "array" in kind else y
        words |= {"mask": bad} if kind == "mask" else {"nan": "mask"} if kind == "nan" else {}
    elif kind == "image_mask":
        words["image_mask"] = np.arange(160) == 70
        w = 1.0 - np.isin(np.arange(160), range(68, 73))
    else:
        w = rng.uniform(0.2, 3, 160) if kind == "weights" else np.where(bad, 0.5, 1.0)
        words["weights"] = w
    extra = None if background is None else np.polynomial.legendre.legvander(np.linspace(-1, 1, 160), background)
    fit = find_kernel(source, target, 5, **words)
    expected, errors, _ = dense(x, y, 5, w, extra, mode="same", boundary="wrap")
    assert_close(fit.kernel, expected, 1e-6)
    assert_close(fit.stderr, errors, 1e-6)
    assert fit.weights.shape == (160,)
    if background is not None:
        assert fit.background.coefficients.shape == (background + 1,) == (len(fit.background.powers),)
        assert fit.background.image().shape == (160,) and fit.predict(x).shape == (160,)
        assert np.nansum(w * fit.residual(x, y) ** 2) == pytest.approx(fit.rss, rel=1e-6)
        assert kernelfit.find_kernel(x, y, 5, boundary="wrap", background=background).background.stderr.all()


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("channels", ["shared", "separate", "mixed"])
def test_channels(axis, channels):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 3))
    k = rng.normal(size={"shared": (1, 1, 4), "separate": (3, 1, 4), "mixed": (2, 3, 4)}[channels])
    n_targets = 2 if channels == "mixed" else 3
    y = np.zeros((90, n_targets))
    for t in range(n_targets):
        for s in range(3) if channels == "mixed" else [t]:
            taps = k[t % len(k), s % k.shape[1]]
            y[:, t] += np.convolve(x[:, s], taps)[1:91]
    laid = (lambda a: a) if axis == -1 else np.transpose
    fit = find_kernel(
        laid(x), laid(y), 4, boundary="fill", channel_axis=axis, channels=channels, mask=np.arange(90) < 5
    )
    assert fit.kernel.shape == {"shared": (4,), "separate": (3, 4), "mixed": (2, 3, 4)}[channels]
    assert_close(fit.kernel, k.reshape(fit.kernel.shape), 1e-9)
    assert fit.channel_axis == axis and fit.predict(laid(x)).shape == laid(y).shape
    assert_close(fit.predict(laid(x)), laid(y), 1e-9)
    assert_close(kernelfit.apply_kernel(laid(x), fit.kernel, channel_axis=axis), laid(y), 1e-9)
    split = kernelfit.split_channels(fit)
    assert len(split) == k.shape[0] * k.shape[1] and all(one.kernel.shape == (4,) for one in split.values())


def test_pairs_streams_and_statistics(tmp_path):
    rng = np.random.default_rng(2)
    k = rng.normal(size=6)
    signals = [noise(n, n) for n in (150, 211, 97)]
    pairs = [(x, np.convolve(x, k)[2 : len(x) + 2] + 0.1 * rng.normal(size=len(x))) for x in signals]
    fit = find_kernel([x for x, _ in pairs], [y for _, y in pairs], 6)
    blocks = [dense(x, y, 6, mode="same", boundary=None) for x, y in pairs]
    a = np.vstack([naive.design_nd(x, (6,), mode="same", boundary=None)[0] for x, _ in pairs]).astype(float)
    b = np.concatenate([y[used] for (_, y), (_, _, used) in zip(pairs, blocks, strict=True)])
    assert_close(fit.kernel, np.linalg.lstsq(a, b, rcond=None)[0], 1e-10)
    total = sum(kernelfit.accumulate(x, y, 6) for x, y in pairs)
    streams = [
        kernelfit.accumulate_stream(pairs, 6),
        kernelfit.accumulate_stream(iter(pairs), 6, block=64),
        kernelfit.accumulate_stream(lambda: ({"image": x, "target": y} for x, y in pairs), 6),
        kernelfit.accumulate_stream(iter(pairs), kernelfit.Model((6,))),
        kernelfit.accumulate_stream(iter(pairs), lags=(-2, 3)),
    ]
    for stats in (total, *streams):
        solved = stats.solve()
        assert solved.kernel.shape == (6,) and solved.convention.origin == (2,)
        assert_close(solved.kernel, fit.kernel, 1e-9)
    total.save(tmp_path / "sums.npz")
    again = kernelfit.NormalStats.load(tmp_path / "sums.npz")
    np.testing.assert_array_equal(again.solve().kernel, total.solve().kernel)
    assert total.crop(3).solve().kernel.shape == (3,) and total.crop((4,), (1,)).solve().convention.origin == (1,)
    wide = kernelfit.accumulate(*pairs[1], lags=(-7, 9))
    support = kernelfit.choose_support(wide)
    assert support.shape == (6,) and support.corner == (5,) and list(support.stats.solve().lags) == list(range(-2, 4))
    found = kernelfit.compare(total, [kernelfit.LeastSquares(), kernelfit.Penalized()])
    assert all(one.kernel.shape == (6,) for one in found.fits)


SOLVERS = [
    kernelfit.Penalized(), kernelfit.Penalized("biharmonic"), kernelfit.GaussianProcess(), kernelfit.NonNegative(),
    kernelfit.Constrained(total=1.0), kernelfit.Sparse(), kernelfit.ConjugateGradient(), "auto",
    kernelfit.InBasis(np.eye(9)[:, ::2]),
]  # fmt: skip


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: str(s)[:20])
def test_solvers_are_those_of_an_image_of_one_row(solver):
    x, _, y = pair(400, 9, boundary="symm", mode="same")
    fit = find_kernel(x, y, 9, boundary="symm", solver=solver)
    image = find_kernel(x[None], y[None], (1, 9), boundary="symm", solver=solver)
    assert fit.kernel.shape == (9,) and image.kernel.shape == (1, 9)
    np.testing.assert_array_equal(fit.kernel, image.kernel[0])
    np.testing.assert_array_equal(fit.stderr, image.stderr[0])
    assert all(len(prior.center) == 1 for prior in fit.priors) and str(fit.priors)
    assert isinstance(fit.summary(), str)


@pytest.mark.parametrize("words", [
    {"robust": "tukey"}, {"noise": (2.0, 1.0)}, {"image_noise": 0.05}, {"errors": "sandwich"}, {"method": "wiener"},
    {"method": "cg", "tolerance": 1e-4},
], ids=str)  # fmt: skip
def test_noise_and_methods_are_those_of_an_image_of_one_row(words):
    x, _, y = pair(700, 8, boundary="wrap", mode="same")
    words = {"boundary": "wrap", **words}
    fit, image = find_kernel(x, y + 9, 8, **words), find_kernel(x[None], y[None] + 9, (1, 8), **words)
    np.testing.assert_array_equal(fit.kernel, image.kernel[0])
    np.testing.assert_array_equal(fit.stderr, image.stderr[0])
    assert fit.weights is None or fit.weights.shape == x.shape


def test_verbs_that_take_a_fit():
    x, k, y = pair(900, 7, boundary="mirror", mode="same", noisy=0.05)
    fit = find_kernel(x, y, 7)
    check = kernelfit.check_boundary(x, y, fit)
    assert check.best == "mirror" and "samples" in str(check) and "pixel" not in str(check)
    assert not kernelfit.check_noise(x, y, fit).coloured
    coloured = y + np.convolve(np.random.default_rng(0).normal(size=905), np.ones(6), "valid")
    check = kernelfit.check_noise(x, coloured, find_kernel(x, coloured, 7))
    assert check.coloured and check.autocovariance.ndim == 1 and check.autocorrelation.max() == 1
    assert re.search(r"at lag 1 and reaches \d+ samples", str(check))
    assert (kernelfit.sandwich_errors(x, coloured, find_kernel(x, coloured, 7)).stderr > fit.stderr).all()
    other = find_kernel(x, y, lags=(-5, 6))
    difference = kernelfit.compare_kernels(fit, other)
    assert difference.difference.shape == (12,) and difference.origin == (5,) and not difference.differ
    assert kernelfit.compare_kernels(fit, 1.1 * k).differ and "at lag" in str(difference)


@pytest.mark.parametrize("boundary", ["wrap", None])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_apply_and_deconvolve(boundary, operation):
    x, k = noise(300), np.array([0.1, 1.0, 0.4, 0.2])
    words = {"boundary": boundary or "fill", "origin": -3, "operation": operation}
    y = kernelfit.apply_kernel(x, k, **words)
    matrix, used = naive.design_nd(x, (4,), mode="same", **{**words, "origin": (-3,)})
    assert_close(y, matrix @ k, 1e-12)
    found = kernelfit.deconvolve(y, k, balance=1e-9, **{**words, "boundary": boundary})
    assert found.shape == (300,) and np.abs(found - x)[30:-30].max() < 1e-3
    hidden = y.copy()
    hidden[100] = np.nan
    assert kernelfit.deconvolve(hidden, k, nan="mask", **{**words, "boundary": boundary}).shape == (300,)


def test_maps():
    x = noise(4000)
    y = np.convolve(x, [1.0, 0.5, 0.2])[:4000] * np.where(np.arange(4000) < 2000, 1.0, 2.0)
    y += 0.01 * np.random.default_rng(0).normal(size=4000)
    found = kernelfit.kernel_map(x, y, None, 4, lags=(0, 2), background=1)
    assert found.kernels.shape == (4, 3) and found.boxes.shape == (4, 2) and found.centers.shape == (4,)
    assert_close(found.kernels[:, 0], [1, 1, 2, 2], 5e-3)
    assert found.verdicts.shape == (4,) and found.common.shape == (3,) and found.background.shape == (4, 2)
    start, length = found.boxes[2]
    alone = find_kernel(x[start - 2 : start + length], y[start : start + length], 3, mode="valid", background=1)
    assert_close(found.kernels[2], alone.kernel, 1e-9)
    assert "4 tiles" in found.summary() and "samples" in found.summary() and "pixel" not in found.summary()


def test_dask():
    array = pytest.importorskip("dask.array")
    x, _, y = pair(3000, 5, mode="same")
    lazy = array.from_array(x, chunks=700), array.from_array(y, chunks=900)
    expected = find_kernel(x, y, 5).kernel
    for fit in (kernelfit.scale.find_kernel(*lazy, 5), kernelfit.scale.accumulate(*lazy, lags=(-2, 2)).solve()):
        assert fit.kernel.shape == (5,)
        assert_close(fit.kernel, expected, 1e-10)


def test_a_shape_that_has_to_be_given():
    pytest.importorskip("dask")
    x = noise(100)
    for call in (
        lambda: kernelfit.accumulate(x, x),
        lambda: kernelfit.accumulate_stream([(x, x)]),
        lambda: kernelfit.kernel_map(x, x, None, 3),
        lambda: kernelfit.scale.find_kernel(x, x),
        lambda: kernelfit.scale.accumulate(x, x),
    ):
        with pytest.raises(TypeError, match=r"got no shape, need the kernel's; or lags=\(first, last\)"):
            call()


class Stored:
    """What can be sliced along one axis, as HDF5 and Zarr are, and tells how it is chunked."""

    def __init__(self, array, chunks=(500,)):
        self.array, self.shape, self.dtype, self.chunks, self.most = array, array.shape, array.dtype, chunks, 0

    def __getitem__(self, key):
        part = self.array[key]
        self.most = max(self.most, part.size)
        return part


@pytest.mark.slow
def test_stored_signals_are_read_in_blocks():
    x, _, y = pair(20000, 3, mode="same")
    source, target = Stored(x), Stored(y)
    fit = find_kernel(source, target, 3, boundary="fill")
    np.testing.assert_array_equal(fit.kernel, find_kernel(x, y, 3, boundary="fill").kernel)
    stereo = Stored(np.stack([x, x], axis=-1), (500, 2)), Stored(np.stack([y, y], axis=-1), (500, 2))
    assert find_kernel(*stereo, 3, channel_axis=-1, channels="separate").kernel.shape == (2, 3)


def test_results_come_back_from_files(tmp_path):
    x, _, y = pair(300, 6, mode="same")
    fit = find_kernel(x, y + 1, 6, background=1, weights=np.linspace(1, 2, 300), solver=kernelfit.GaussianProcess())
    fit.save(tmp_path / "fit.npz")
    again = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    for name in ("kernel", "stderr", "weights"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fit, name))
    assert again.convention == fit.convention and again.priors == fit.priors
    np.testing.assert_array_equal(again.predict(x), fit.predict(x))
    np.testing.assert_array_equal(again.background.image(), fit.background.image())
    assert again.summary() == fit.summary()
    call = "find_kernel(image, target, (6,), mode='same', background=1, weights=weights, solver=kernelfit."
    assert fit.reproduce().startswith(call) and again.reproduce() == fit.reproduce()


# ---- words, and what is refused -------------------------------------------------------------------------------------

X, Y = np.arange(40.0) % 7, np.arange(40.0) % 5


@pytest.mark.parametrize("arguments, words, error, match", [
    ((X, Y[:30], 5), {}, ValueError, "'same' 40, 'valid' 36, 'full' 44"),
    ((X, Y, 50), {}, ValueError, "samples cannot determine 50 taps"),
    ((X, Y, 5), {"boundary": "fill", "mask": X > -1}, ValueError, "sample"),
    ((X, np.where(X == 3, np.nan, Y), 5), {}, ValueError, "first at sample 3"),
    ((X, Y, 5), {"origin": (0, 1)}, ValueError, r"\(0, 1\).* one whole"),
    ((X, Y, (1, 5)), {}, ValueError, "need 2"),
    ((X, Y, 5), {"stride": (2, 2), "offset": 1}, ValueError, "one whole number"),
    ((X, Y, 5), {"lags": (0, 4)}, ValueError, "lags= beside a shape"),
    ((X, Y), {"lags": (4, 0)}, ValueError, r"lags=\(4, 0\)"),
    ((X, Y), {"lags": 4}, TypeError, "lags=4"),
    ((X, Y[:36]), {"lags": (0, 4)}, ValueError, "mode='valid'"),
    ((X, Y, 0), {}, ValueError, "at least one tap"),
    ((X, Y, 5), {"background": 39}, ValueError, "lower degree"),
    ((X, Y, 5), {"stride": 2, "offset": 2}, ValueError, "offset=2 with stride=2"),
    ((X, Y[:, None], 5), {}, ValueError, "1 dimensions and target with 2"),
    ((X[:, None], Y, 5), {}, ValueError, "target with 1 dimensions"),
    ((X, Y, 5), {"mask": np.zeros(39, bool)}, ValueError, "mask of shape"),
    ((np.stack([X, X]), np.stack([Y, Y]), 5), {"channel_axis": 5}, ValueError, "channel_axis=5"),
    ((X, Y, 5), {"unknown": 1}, TypeError, "unknown"),
])  # fmt: skip
def test_bad_input_is_named(arguments, words, error, match):
    with pytest.raises(error, match=match) as caught:
        find_kernel(*arguments, **words)
    if "need 2" not in match and "dimensions" not in match:
        assert not re.search(r"pixel|\brows?\b|column|\bimages?\b|\b1x|\[:1,", str(caught.value)), caught.value


def test_axes_of_length_one_are_kept():
    """An image of one row is an image, of one column as well, and a kernel of one row is none of a signal."""
    assert find_kernel(X[None], Y[None], (1, 3)).kernel.shape == (1, 3)
    assert find_kernel(X[:, None], Y[:, None], (3, 1)).kernel.shape == (3, 1)
    assert find_kernel(X[None], Y[None], (1, 3)).predict(X[None]).shape == (1, 40)
    with pytest.raises(ValueError, match="1 dimensions"):
        find_kernel(X[None], Y[None], (1, 3)).predict(X)
    with pytest.raises(ValueError, match="2 dimensions"):
        find_kernel(X, Y, 3).predict(X[None])
    rows = [row for row in np.random.default_rng(0).normal(size=(9, 20))]
    assert find_kernel(rows, rows, (1, 3)).kernel.shape == (1, 3)  # rows of an image, by the kernel's shape
    assert find_kernel(rows, rows, 3).kernel.shape == (3,)  # nine signals


def test_what_is_said_of_signals():
    rng = np.random.default_rng(0)
    x, k = noise(2000), np.exp(-np.arange(30) / 8.0)
    y = np.convolve(x, k)[:2000] + 0.01 * rng.normal(size=2000)
    fit = find_kernel(x, y, lags=(0, 9), mask=rng.random(2000) < 0.1)
    assert not fit.verdict.ok
    said = [fit.summary(), *(f.detail for f in fit.findings), *fit.notes, fit.method_reason, fit.weighting]
    for text in said:
        assert not re.search(r"pixel|\brows?\b|column|\bimages?\b", text), text
    assert "10 taps, lags 0 to 9" in fit.summary() and math.isfinite(fit.noise_std)


@pytest.mark.slow
def test_pictures_and_report(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    x = noise(3000)
    y = np.convolve(x, np.exp(-np.arange(40) / 9.0))[:3000] + 0.05 * np.random.default_rng(0).normal(size=3000)
    fit = find_kernel(x, y, lags=(0, 39))
    figure = fit.plot(x, y)
    said = [text for ax in figure.axes for text in (ax.get_title(), ax.get_xlabel(), ax.get_ylabel())]
    said.append(figure.get_suptitle())
    assert "decay" in said and "frequency response" in said and "lag, samples" in said
    assert not [text for text in said if re.search(r"pixel|\brows?\b|column", text)]
    ax = kernelfit.plot.kernel(fit)
    np.testing.assert_array_equal(ax.lines[-1].get_xydata(), np.column_stack([fit.lags, fit.kernel]))
    decay = kernelfit.plot.cuts(fit).lines[0].get_ydata()
    assert decay[0] == 0 and (np.diff(decay) <= 0).all() and decay[9] == pytest.approx(-10 * 2 / np.log(10), abs=0.5)
    response = kernelfit.plot.frequency_response(fit).lines[0].get_xydata()
    assert response[0, 1] == pytest.approx(20 * np.log10(abs(fit.kernel.sum())))
    page = kernelfit.report.report_html(fit, x, y)
    words = re.sub(r"base64,[^\"]*|<style>.*?</style>", "", page, flags=re.S)
    assert "lag" in words and "40 taps" in words and not re.search(r"pixel|\brows?\b|point spread", words)
    assert "<pre" in fit._repr_html_() and "40 taps" in fit._repr_html_()
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("delay", [0, 1500, 7000])
def test_a_long_response_and_a_long_delay_are_found(delay):
    rng = np.random.default_rng(delay)
    x = rng.normal(size=60000)
    response = np.exp(-np.arange(900) / 140.0) * rng.normal(size=900)
    y = np.r_[rng.normal(size=delay), scipy.signal.fftconvolve(x, response)][: x.size]
    y = y + 0.3 * rng.normal(size=x.size)
    fit = kernelfit.find_kernel(x, y)
    assert fit.verdict.ok
    lags = np.asarray(fit.lags)
    assert lags[0] <= delay and lags[-1] >= delay + 600
    if delay:
        assert f"the kernel's lags are {lags[0]} to {lags[-1]}" in fit.found
    given = kernelfit.find_kernel(x, y, lags=(delay, delay + 899))
    truth = np.zeros(len(lags))
    inside = (lags >= delay) & (lags < delay + 900)
    truth[inside] = response[lags[inside] - delay]
    left = np.sum(response[lags[-1] + 1 - delay :] ** 2) if lags[-1] < delay + 899 else 0.0
    error = np.sqrt(np.sum((fit.kernel - truth) ** 2) + left)
    assert error < 1.25 * np.linalg.norm(given.kernel - response)  # what is lost in the noise is left out


def test_channels_of_a_signal_that_are_not_said_to_be_are_asked_for():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 3000, 2))
    with pytest.raises(ValueError, match="say channel_axis=-1 if the 2 columns are channels of a signal"):
        kernelfit.find_kernel(x, y)
    with pytest.raises(ValueError, match="say channel_axis=0 if the 2 rows are channels of a signal"):
        kernelfit.find_kernel(x.T, y.T)
