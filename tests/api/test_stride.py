"""A target that holds every stride-th pixel: against the loops, SciPy's slices, and resamplers nobody here wrote.

The kernel that comes back is the one for which ``convolve2d(image, kernel, mode, boundary, fillvalue)[oy::sy, ox::sx]``
is the target. Nothing is square, nor are strides; they neither divide the kernels nor the images.
"""

import dataclasses
import itertools
import json
import re
import tracemalloc

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
import naive
from helpers import (
    BOUNDARIES,
    MODES,
    OPERATIONS,
    assert_close,
    assert_same_bits,
    assert_same_stats,
    camera,
    grid,
    observe,
    selected,
    smooth_image,
    weighted_fit,
)
from kernelfit import (
    Verdict,
    accumulate,
    accumulate_stream,
    apply_kernel,
    check_boundary,
    choose_method,
    choose_support,
    find_kernel,
)
from kernelfit.analysis import residuals
from kernelfit.cli import parser
from kernelfit.core import geometry
from kernelfit.core.mode import infer_mode
from kernelfit.data.reader import Reader
from kernelfit.diagnostics import score_covariance, whiteness
from kernelfit.engines import weighted
from kernelfit.engines.cost_model import Choice
from kernelfit.imageio import kernels
from kernelfit.solvers import errors_in_variables

# (image, kernel, stride, offset)
SHAPES = (
    ((23, 32), (3, 4), (2, 3), (1, 2)),
    ((25, 18), (5, 2), (2, 2), (0, 1)),
    ((13, 41), (1, 7), (1, 4), (0, 3)),
    ((44, 16), (6, 4), (5, 1), (4, 0)),
    ((31, 43), (3, 4), (4, 6), (2, 5)),  # strides larger than the kernel
)
EDGES = dict(itertools.pairwise([*("fill", "symm", "wrap", "mirror", "nearest"), "fill"]))


def scenes():
    for (mode, (boundary, fillvalue)), operation in itertools.product(itertools.product(MODES, BOUNDARIES), OPERATIONS):
        for i, (image, shape, stride, offset) in enumerate(SHAPES):
            if mode == "valid" and boundary is not None and i:
                continue  # it is not looked at
            origin = (shape[0] - 1, 0) if mode == "same" and i % 2 else None
            convention = {"mode": mode, "boundary": boundary, "fillvalue": fillvalue, "operation": operation}
            yield image, shape, {**convention, "origin": origin, "stride": stride, "offset": offset}


ALL = list(scenes())
SOME = ALL[::7]


def named(case):
    image, shape, conv = case
    short = f"{conv['mode']}-{conv['boundary']}-{conv['operation'][:4]}"
    return f"{short}-{image}-{shape}-{conv['stride']}".replace(" ", "")


all_of_them = grid("case", ALL, 4, ids=named)
some_of_them = grid("case", SOME, 3, ids=named)


def drawn(case, seed=0, std=0.3):
    """(image, kernel, target with noise everywhere, design matrix, used)."""
    (image_shape, shape, convention), rng = case, np.random.default_rng(seed)
    image, kernel = rng.normal(0.5, 1.0, image_shape), rng.normal(0.2, 1.0, shape)
    matrix, used = naive.design_dense(image, shape, **convention)
    target = rng.normal(0.0, std, used.shape)
    target[used] += matrix @ kernel.ravel()
    return image, kernel, target, matrix, used


# ---- against the loops ----------------------------------------------------------------------------------------------


def test_the_oracle_is_two_that_agree():
    for image_shape, shape, convention in SOME:
        image = np.random.default_rng(0).normal(size=image_shape)
        (one, used), (other, also) = (f(image, shape, **convention) for f in (naive.design, naive.design_dense))
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(used, also)


@all_of_them
def test_statistics(case, method):
    image, _, target, matrix, used = drawn(case)
    stats = accumulate(image, target, case[1], method=method, **case[2])
    assert_same_stats(stats, naive.products(matrix, target, used))
    assert stats.supports == (case[1],)


@all_of_them
def test_apply_and_the_whole_fit(case):
    image, kernel, target, matrix, used = drawn(case)
    fit = find_kernel(image, target, case[1], **case[2])
    best = np.linalg.lstsq(matrix, target[used], rcond=None)[0]
    left = target[used] - matrix @ best
    variance = left @ left / (len(left) - len(best))
    assert_close(fit.kernel.ravel(), best, 1e-10)
    assert_close(fit.covariance(), variance * np.linalg.inv(matrix.T @ matrix), 1e-8)
    assert (fit.convention.stride, fit.convention.offset) == (case[2]["stride"], case[2]["offset"])
    predicted = fit.predict(image)
    np.testing.assert_array_equal(np.isnan(predicted), ~used)
    assert_close(predicted[used], matrix @ best, 1e-10)
    if used.all() and case[2]["boundary"]:
        assert_close(apply_kernel(image, kernel, **case[2]), (matrix @ kernel.ravel()).reshape(used.shape), 1e-12)


@grid("boundary", ["mirror", None], 2)
@grid("shape, stride, offset", [((9, 4), (4, 2), (3, 1)), ((7, 9), (2, 3), (1, 0))], 2)
def test_many_tiles(shape, stride, offset, boundary, method):
    image = smooth_image(101, 2503).astype(">f4")[:, ::-1]
    convention = {"mode": "same", "boundary": boundary, "stride": stride, "offset": offset, "operation": "correlation"}
    matrix, used = naive.design_dense(image, shape, **convention)
    target = np.random.default_rng(1).normal(size=used.shape)
    stats = accumulate(image, target, shape, method=method, workers=2, **convention)
    assert_same_stats(stats, naive.products(matrix, target, used))


@grid("boundary", BOUNDARIES, 3, ids=str)
def test_a_reader_takes_steps(boundary):
    """Blocks anywhere, beyond the edges too, of whatever can be sliced."""
    rng = np.random.default_rng(2)
    image = rng.normal(size=(5, 7))
    before, after = (9, 11), (10, 8)
    whole = naive.extend(image, before, after, *boundary)
    whole[np.isnan(whole)] = 0.0  # where nothing is assumed
    for step, pace in itertools.product((1, 2, 3, 4, 8), (1, 3, 5)):
        kept = whole[::step, ::pace]
        plain = Reader(image, kept.shape, before, *boundary, stride=(step, pace))
        for reader, expected in ((plain, kept), (plain.transposed(), kept.T)):
            for row, col in itertools.product(range(-2, expected.shape[0]), range(-1, expected.shape[1], 2)):
                block = reader.block(row, col, (4, 3))
                place = np.zeros((4, 3))
                rows, cols = (slice(max(0, -a), max(0, min(n, m - a))) for a, n, m in
                              zip((row, col), (4, 3), expected.shape, strict=True))  # fmt: skip
                part = expected[max(0, row) : row + 4, max(0, col) : col + 3]
                place[rows, cols] = part
                np.testing.assert_array_equal(block, place)


# ---- against SciPy's slices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["fill", "wrap", "symm"])
@pytest.mark.parametrize("mode", MODES)
@grid("shape, stride", [((3, 4), (2, 3)), ((5, 5), 2), ((4, 7), (3, 1)), ((12, 11), 4)], 2, ids=str)
def test_the_round_trip(shape, stride, mode, boundary):
    rng = np.random.default_rng(0)
    (sy, sx) = stride if isinstance(stride, tuple) else (stride, stride)
    image, kernel = rng.random((61, 74)), rng.normal(size=shape)
    for oy, ox in {(0, 0), (sy - 1, sx // 2)}:
        target = scipy.signal.convolve2d(image, kernel, mode, boundary, 0.25)[oy::sy, ox::sx]
        keywords = {"stride": stride, "offset": (oy, ox), "boundary": boundary}
        if boundary == "fill":
            keywords["fillvalue"] = 0.25
        assert_close(apply_kernel(image, kernel, mode=mode, **keywords), target, 1e-12)
        fit = find_kernel(image, target, shape, mode=mode, **keywords)
        assert_close(fit.kernel, kernel, 1e-11)
        assert_close(fit.predict(image), target, 1e-11)
        assert fit.refined and fit.verdict.ok


@pytest.mark.parametrize("boundary", ["mirror", "nearest"])
def test_the_round_trip_of_ndimage(boundary):
    rng = np.random.default_rng(0)
    image, kernel = rng.random((40, 53)), rng.normal(size=(4, 5))
    target = scipy.ndimage.correlate(image, kernel, mode=boundary)[2::3, 1::2]
    convention = {"operation": "correlation", "origin": (2, 2), "boundary": boundary}
    fit = find_kernel(image, target, (4, 5), stride=(3, 2), offset=(2, 1), **convention)
    assert_close(fit.kernel, kernel, 1e-11)


def test_one_dimension():
    """Decimation of a signal: a row."""
    rng = np.random.default_rng(0)
    signal, taps = rng.normal(size=(1, 900)), scipy.signal.firwin(31, 1 / 5)[None]
    target = scipy.signal.upfirdn(taps[0], signal[0], up=1, down=5)[None]  # every fifth of the full convolution
    fit = find_kernel(signal, target, (1, 31), stride=(1, 5), mode="full", boundary="fill")
    assert_close(fit.kernel, taps, 1e-12)
    column = find_kernel(signal.T, target.T, (31, 1), stride=(5, 1), mode="full", boundary="fill")
    assert_close(column.kernel, taps.T, 1e-12)
    decimated = scipy.signal.decimate(signal[0], 5, n=30, ftype="fir")[None]
    window = scipy.signal.firwin(31, 1 / 5, window="hamming")
    found = find_kernel(signal, decimated, (1, 31), stride=(1, 5), boundary="fill")
    assert_close(found.kernel[0], window, 1e-11)


# ---- resamplers nobody here wrote -----------------------------------------------------------------------------------


def photograph():
    return camera()[:, 40:400]


def cubic(x):
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


PILLOW = {  # the filter, how far it reaches
    "BOX": (lambda x: 1.0 * (np.abs(x) < 0.5), 0.5),
    "BILINEAR": (lambda x: np.maximum(0.0, 1.0 - np.abs(x)), 1.0),
    "BICUBIC": (cubic, 2.0),
    "LANCZOS": (lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0), 3.0),
}


def centred(stride, reach):
    """Taps enough for a filter about the middle of a block of `stride` pixels: as even or odd as the stride."""
    side = int(np.ceil(2 * reach * stride))
    return side + (side - stride) % 2


def pillow_kernel(name, stride):
    function, reach = PILLOW[name]
    axes = []
    for s in stride:
        side = centred(s, reach)
        taps = function((np.arange(side) - (side - 1) / 2) / s)
        axes.append(taps / taps.sum())
    return np.outer(*axes)


@grid("stride", [(2, 3), (4, 2)], 2)
@pytest.mark.parametrize("name", PILLOW)
def test_pillow(name, stride):
    Image = pytest.importorskip("PIL.Image")
    sy, sx = stride
    kernel = pillow_kernel(name, stride)
    for image, tolerance in ((photograph().astype(np.float32), 3e-7), (photograph(), 0.025)):
        small = (image.shape[1] // sx, image.shape[0] // sy)
        target = np.asarray(Image.fromarray(image).resize(small, getattr(Image.Resampling, name)))
        fit = find_kernel(image, target, kernel.shape, stride=stride, offset=(sy // 2, sx // 2))
        assert_close(fit.kernel, kernel, tolerance)
        off = np.abs(fit.predict(image) - target)
        used = ~np.isnan(off)
        if name == "BOX":
            assert used.all()
        if target.dtype == np.uint8:  # rounded to whole numbers after either axis, and cut off at the ends
            off = off[used & (target > 0) & (target < 255)]
            assert np.quantile(off, 0.99) < 1.3 and fit.noise_std < 0.5
        else:
            assert off[used].max() < 1e-4 and fit.verdict.ok


def test_means_of_blocks():
    cv2, transform = pytest.importorskip("cv2"), pytest.importorskip("skimage.transform")
    image = photograph()[:, :357].astype(float)
    box = np.full((4, 3), 1 / 12)
    rows = image.shape[0] // 4 * 4
    means = image[:rows].reshape(-1, 4, 119, 3).mean(axis=(1, 3))  # what average pooling does
    keywords = {"stride": (4, 3), "offset": (2, 1)}
    targets = {
        "pooling": means,
        "downscale_local_mean": transform.downscale_local_mean(image, (4, 3)),
        "INTER_AREA": cv2.resize(image, (119, rows // 4), interpolation=cv2.INTER_AREA),
    }
    for target in targets.values():
        exact = 1e-7 if target is targets["INTER_AREA"] else 1e-11  # OpenCV's weights are float32
        assert_close(find_kernel(image, target, (4, 3), **keywords).kernel, box, exact)
        wide = find_kernel(image, target, (6, 5), **keywords)  # more taps than there are
        assert_close(wide.kernel, np.pad(box, 1), exact)
    # pooling with overlap is a "valid" correlation
    pooled = np.lib.stride_tricks.sliding_window_view(image, (5, 4)).mean(axis=(2, 3))[::3, ::2]
    fit = find_kernel(image, pooled, (5, 4), mode="valid", stride=(3, 2), operation="correlation")
    assert_close(fit.kernel, np.full((5, 4), 1 / 20), 1e-11)
    # a layer of a network with padding 2 and 1: the tap over pixel stride * t is that one
    layer = np.random.default_rng(0).normal(size=(5, 4))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, ((2, 2), (1, 2))), (5, 4))
    made = np.einsum("ijkl,kl->ij", windows[::3, ::2], layer)
    fit = find_kernel(image, made, (5, 4), stride=(3, 2), operation="correlation", origin=(2, 1), boundary="fill")
    assert_close(fit.kernel, layer, 1e-11)


# ---- weights, several terms, backgrounds ----------------------------------------------------------------------------


@some_of_them
@grid("kind", ["image mask", "weights", "mask"], 2)
def test_weighted_statistics(case, kind):
    image, _, target, matrix, used = drawn(case)
    rng = np.random.default_rng(5)
    if kind == "image mask":
        bad = np.zeros(image.shape, dtype=bool)
        bad[1, 9] = bad[5, 2] = True
        keywords, weights = {"image_mask": bad}, 1.0 * ~naive.touched(bad, case[1], **case[2])
        image = np.where(bad, np.nan, image)
    elif kind == "mask":
        mask = rng.random(target.shape) < 0.1
        mask[1, 1:] = True
        keywords, weights = {"mask": mask}, 1.0 * ~mask
        target = np.where(mask, np.nan, target)
    else:
        weights = rng.gamma(1.0, size=target.shape)
        keywords = {"weights": weights}
    clean, values = np.nan_to_num(image), np.nan_to_num(target)
    expected = naive.weighted_stats(clean, values, case[1], weights, **case[2])
    if expected.n_pixels < matrix.shape[1]:
        pytest.skip("too few are left")
    judged = selected(image, target, case[1], case[2], **keywords)
    found = [accumulate(image, target, case[1], **case[2], **keywords)]
    found += [weighted.statistics([judged.item], m, 2, r) for m in ("direct", "fft") for r in ("subtract", "patches")]
    for stats in found:
        assert np.abs(stats.gram - expected.gram).max() <= 1e-12 * np.trace(expected.gram)
        np.testing.assert_allclose(stats.moment, expected.moment, rtol=0, atol=1e-11 * np.abs(expected.moment).max())
        assert stats.n_pixels == expected.n_pixels
        assert stats.total_weight == pytest.approx(expected.total_weight, rel=1e-12)


@pytest.mark.parametrize("strategy", ["subtract", "patches", "iterate"])
@grid("case", [c for c in ALL if c[0] == (25, 18)][::5], 3, ids=named)
def test_weighted_fits(case, strategy):
    (_, shape, convention), rng = case, np.random.default_rng(3)
    image = rng.normal(0.5, 1.0, (75, 62))
    matrix, used = naive.design_dense(image, shape, **convention)
    target = rng.normal(0.0, 0.3, used.shape)
    target[used] += matrix @ rng.normal(size=shape[0] * shape[1])
    weights = rng.gamma(2.0, size=used.shape)
    kernel, stderr, rss = naive.weighted_fit(image, target, shape, weights, **convention)
    judged = selected(image, target, shape, convention, weights=weights)
    for engine in ("direct", "fft"):
        fit = weighted_fit([judged], Choice(engine, "as asked"), 2, tolerance=1e-4, strategy=strategy)
        assert_close(fit.kernel, kernel, 1e-5 if strategy == "iterate" else 1e-10)
        assert_close(fit.stderr, stderr, 0.1 if strategy == "iterate" else 1e-8)
        assert fit.rss == pytest.approx(rss, rel=1e-6)


@pytest.mark.slow
def test_long_runs_and_outliers():
    """A blob that is masked, whose runs are taken by their ends, and pixels struck by something else."""
    image, rng = smooth_image(400, 520), np.random.default_rng(0)
    kernel = rng.normal(size=(6, 5))
    target = apply_kernel(image, kernel, mode="valid", stride=(2, 3)) + rng.normal(0.0, 0.5, (198, 172))
    mask = np.zeros(target.shape, dtype=bool)
    mask[30:150, 20:140] = True
    keywords = {"mode": "valid", "stride": (2, 3)}
    fit = find_kernel(image, np.where(mask, np.nan, target), (6, 5), mask=mask, **keywords)
    assert_close(fit.kernel, naive.weighted_fit(image, target, (6, 5), ~mask, boundary=None, **keywords)[0], 1e-9)
    struck = target + 500.0 * (rng.random(target.shape) < 0.03)
    robust = find_kernel(image, struck, (6, 5), robust="tukey", **keywords)
    assert np.abs(robust.kernel - kernel).max() < 6 * robust.stderr.max()
    noisy = find_kernel(image, target, (6, 5), noise=(2.0, 1.0), **keywords) if target.mean() > 0 else robust
    assert np.isfinite(noisy.stderr).all()


@grid("degree", [2, None], 2)
@grid("case", [c for c in ALL if c[0] in ((23, 32), (25, 18))][::6], 4, ids=named)
def test_pairs_channels_and_backgrounds(case, degree, method):
    (_, shape, convention), rng = case, np.random.default_rng(4)
    pairs = []
    for size in ((33, 41), (29, 46)):
        sources = [rng.normal(0.5, 1.0, size) for _ in range(2)]
        rows, cols = naive.design_dense(sources[0], shape, **convention)[1].shape
        pairs.append((sources, rng.normal(size=(rows, cols))))
    truth = naive.joint(pairs, shape, degree=degree, **convention)
    images = [np.stack(sources) for sources, _ in pairs]
    targets = [target[None] for _, target in pairs]
    fit = find_kernel(
        images, targets, shape, channel_axis=0, channels="mixed", method=method, background=degree, **convention
    )
    assert_close(fit.kernel[0], truth.kernel, 1e-9)
    assert_close(fit.parts[0].covariance(), truth.covariance, 1e-8)
    if degree is not None:
        assert_close(fit.background.coefficients[:, 0], truth.background, 1e-8)
        assert_close(fit.background.stderr[:, 0], truth.background_stderr, 1e-8)


@pytest.mark.parametrize("boundary", [None, "symm"])
def test_an_exact_background_is_refined(boundary, method):
    image, kernel = smooth_image(90, 113), np.random.default_rng(0).normal(size=(5, 4))
    target = apply_kernel(image, kernel, stride=(2, 3), offset=(1, 1), boundary=boundary or "symm")
    y, x = np.mgrid[: target.shape[0], : target.shape[1]]
    keywords = {"stride": (2, 3), "offset": (1, 1), "boundary": boundary, "background": 1, "method": method}
    fit = find_kernel(image, target + 7 + 0.3 * y - 0.1 * x, (5, 4), **keywords)
    assert fit.refined
    assert_close(fit.kernel, kernel, 1e-11)


def test_separate_and_shared_channels():
    rng = np.random.default_rng(0)
    image, kernel = rng.random((50, 61, 3)), rng.normal(size=(3, 4, 5))
    target = apply_kernel(image, kernel, stride=3, offset=1, channel_axis=-1)
    assert target.shape == (17, 20, 3)
    fit = find_kernel(image, target, (4, 5), stride=3, offset=1, channel_axis=-1, channels="separate", boundary="fill")
    assert_close(fit.kernel, kernel, 1e-11)
    assert_close(fit.predict(image), target, 1e-11)


# ---- noise and edges ------------------------------------------------------------------------------------------------


def noise_gram(image_shape, shape, convention):
    """The Gram matrix of noise of variance 1, a pixel at a time."""
    total = 0.0
    for i in range(image_shape[0] * image_shape[1]):
        one = np.zeros(image_shape)
        one.flat[i] = 1.0
        matrix, _ = naive.design_dense(one, shape, **{**convention, "fillvalue": 0.0})
        total = total + matrix.T @ matrix
    return total


@pytest.mark.parametrize("case", [c for c in ALL if c[0] == (23, 32)][::4], ids=named)
def test_noise_of_the_image_is_counted(case):
    _, shape, convention = case
    rows, cols = naive.design_dense(np.zeros((9, 11)), shape, **convention)[1].shape
    plan = observe(np.zeros((9, 11)), np.zeros((rows, cols)), shape, determined=False, **convention).geometry
    assert_close(errors_in_variables.counts_of(plan), noise_gram((9, 11), shape, convention), 1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("shape, stride", [((5, 6), (2, 3)), ((4, 3), (5, 1)), ((3, 5), (1, 1))])
def test_noise_of_the_image_in_both_factors(shape, stride):
    """Taps p and q share the noise of the image at distances that are whole strides."""
    rng = np.random.default_rng(0)
    image, kernel = rng.random((40, 47)), rng.normal(size=shape)
    fit = find_kernel(image, apply_kernel(image, kernel, stride=stride), shape, stride=stride, boundary="fill")
    expected = np.zeros(shape + shape)
    for p, q, d in itertools.product(np.ndindex(shape), np.ndindex(shape), np.ndindex(11, 11)):
        step = [(e - 5) * s for e, s in zip(d, stride, strict=True)]
        at = [a + b for a, b in zip(p, step, strict=True)] + [a - b for a, b in zip(q, step, strict=True)]
        if all(0 <= i < n for i, n in zip(at, shape + shape, strict=True)):
            expected[p + q] += kernel[at[0], at[1]] * kernel[at[2], at[3]]
    assert_close(errors_in_variables.shared(fit, 0.5), fit.n_pixels / 16 * expected.reshape(kernel.size, -1), 1e-9)


def coloured(rng, shape, size=(1, 4)):
    made = scipy.ndimage.uniform_filter(rng.normal(size=(shape[0] + 20, shape[1] + 20)), size)
    return (made * np.sqrt(size[0] * size[1]))[10:-10, 10:-10]


def test_the_look_at_the_residual():
    rng = np.random.default_rng(0)
    image, kernel = rng.random((333, 402)), rng.normal(size=(5, 4))
    keywords = {"stride": (2, 3), "offset": (1, 2)}
    clean = apply_kernel(image, kernel, **keywords)
    white = find_kernel(image, clean + rng.normal(0.0, 0.1, clean.shape), (5, 4), **keywords)
    assert white.verdict.ok
    target = clean + 0.1 * coloured(rng, clean.shape, (2, 4))
    fit = find_kernel(image, target, (5, 4), **keywords)
    assert Verdict.COLOURED_NOISE in [f.verdict for f in fit.findings]
    # one tile that is the whole of a small pair: the very residual
    small, part = image[:60, :80], target[:30, :26]
    fit = find_kernel(small, part, (5, 4), **keywords)
    seen = kernelfit.check_noise(small, part, fit)
    left = fit.residual(small, part)
    left = left[~np.isnan(left).all(axis=1)][:, ~np.isnan(left).all(axis=0)]
    assert seen.n_pixels == left.size
    assert_close(seen.autocovariance[8, 8], np.mean(left**2), 1e-10)
    assert_close(seen.autocovariance[8, 9], np.mean(left[:, 1:] * left[:, :-1]), 1e-10)


def test_the_sandwich_filters_each_phase(monkeypatch):
    """The noise's filter lies on the pixels of the target; the columns of the design matrix are images of that size."""
    rng = np.random.default_rng(1)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=(161, 135)), 1.0)
    convention = {"mode": "valid", "stride": (3, 2)}
    matrix, used = naive.design_dense(image, (3, 4), boundary=None, **convention)
    target = (matrix @ rng.normal(size=12)).reshape(used.shape) + 0.3 * coloured(rng, used.shape)
    fit = find_kernel(image, target, (3, 4), **convention)
    check = kernelfit.check_noise(image, target, fit)
    h = whiteness.shaping_filter(check)
    columns = [scipy.signal.convolve2d(c.reshape(used.shape), h, mode="valid").ravel() for c in matrix.T]
    observation = observe(image, target, (3, 4), **fit.convention.keywords())
    gram, found, n = score_covariance.plain_scores([observation], fit, h, 1)
    assert_close(gram, matrix.T @ matrix, 1e-12)
    assert_close(found, np.array(columns) @ np.transpose(columns) * (used.size / len(columns[0])), 1e-10)
    assert n == used.size and len(h) > 3
    better = kernelfit.sandwich_errors(image, target, fit)
    assert np.linalg.norm(better.covariance() - fit.covariance()) > 0.5 * np.linalg.norm(fit.covariance())
    monkeypatch.setattr(score_covariance, "_WHOLE", 1000)
    monkeypatch.setattr(score_covariance, "_BLOCK", 64)
    assert_close(kernelfit.sandwich_errors(image, target, fit).covariance(), better.covariance(), 0.2)


@pytest.mark.parametrize("true", ["symm", "wrap"])
def test_boundaries_are_told_apart(true):
    image, rng = smooth_image(121, 152), np.random.default_rng(0)
    kernel = rng.random((6, 7))
    keywords = {"stride": (2, 3), "offset": (1, 0)}
    target = apply_kernel(image, kernel, boundary=true, **keywords)
    target = target + rng.normal(0.0, 0.5, target.shape)
    fit = find_kernel(image, target, (6, 7), **keywords)
    assert check_boundary(image, target, fit).best == true
    wrong = find_kernel(image, target, (6, 7), boundary=EDGES[true], **keywords)
    assert Verdict.WRONG_BOUNDARY in [f.verdict for f in wrong.findings]
    assert find_kernel(image, target, (6, 7), boundary=true, **keywords).verdict.ok


# ---- what follows from statistics -----------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_a_smaller_support_means_the_same_kernel(mode, operation):
    """What a crop says of its convention holds: its pixels are those of the target it came from."""
    rng = np.random.default_rng(0)
    image, kernel = rng.random((61, 74)), np.zeros((7, 8))
    kernel[2:5, 3:5] = rng.normal(size=(3, 2))
    keywords = {"mode": mode, "operation": operation, "stride": (2, 3), "offset": (1, 1)}
    target = apply_kernel(image, kernel, **keywords)
    stats = accumulate(image, target, (7, 8), boundary="fill", **keywords)
    fit = stats.crop((3, 2), (2, 3)).solve()
    assert_close(fit.kernel, kernel[2:5, 3:5], 1e-6)
    predicted = fit.predict(image)
    assert fit.convention.mode == "same"
    first = target[4:9, 5:12]  # is found somewhere in the prediction, at whole pixels of the target
    found = [
        np.abs(predicted[r : r + 5, c : c + 7] - first).max()
        for r in range(predicted.shape[0] - 4)
        for c in range(predicted.shape[1] - 6)
    ]
    assert min(found) < 1e-6
    chosen = choose_support(accumulate(image, target + rng.normal(0, 0.01, target.shape), (7, 8), **keywords))
    assert chosen.stats.supports == ((3, 2),)


@pytest.mark.parametrize(
    "solver",
    ["auto", kernelfit.GaussianProcess("matern52"), kernelfit.Penalized(), kernelfit.NonNegative()],
    ids=str,
)
def test_solvers_know_nothing_of_it(solver):
    image, rng = smooth_image(160, 191), np.random.default_rng(0)
    y, x = np.mgrid[-4:5, -3:5]
    kernel = np.exp(-(y**2) / 5 - (x - 0.5) ** 2 / 3)
    kernel /= kernel.sum()
    target = apply_kernel(image, kernel, stride=(2, 3))
    target = target + rng.normal(0.0, 2.0, target.shape)
    plain = find_kernel(image, target, kernel.shape, stride=(2, 3))
    fit = find_kernel(image, target, kernel.shape, stride=(2, 3), solver=solver)
    assert np.linalg.norm(fit.kernel - kernel) < np.linalg.norm(plain.kernel - kernel)


@pytest.mark.slow
def test_sums_of_statistics(tmp_path):
    rng = np.random.default_rng(0)
    image, target = rng.random((41, 52)), rng.random((21, 18))
    parts = {o: accumulate(image, target[: 21 - o], (3, 4), stride=(2, 3), offset=(o, 0)) for o in (0, 1)}
    both = parts[0] + parts[1]  # of the same kernel
    assert both.n_pixels == parts[0].n_pixels + parts[1].n_pixels and both.convention == parts[0].convention
    with pytest.raises(ValueError, match="operation, origin, stride and variation add up"):
        _ = parts[0] + accumulate(image, image, (3, 4))
    parts[1].save(tmp_path / "stats.npz")
    again = kernelfit.NormalStats.load(tmp_path / "stats.npz")
    assert_same_bits(again, parts[1])
    assert again.convention == parts[1].convention and again.convention.offset == (1, 0)
    assert "stride (2, 3) from pixel (1, 0)" in str(again.convention)
    assert str(again.convention) in again.solve().summary()
    assert "stride" not in str(kernelfit.Convention())


@pytest.mark.parametrize("method", ["direct", "fft"])
def test_any_number_of_workers_gives_the_same_bits(method):
    image = smooth_image(513, 700)
    target = np.random.default_rng(0).random((171, 350))
    one, three = (
        accumulate(image, target, (7, 6), stride=(3, 2), boundary="symm", method=method, workers=w) for w in (1, 3)
    )
    assert_same_bits(one, three)


@pytest.mark.slow
def test_streams_and_dask(tmp_path):
    da = pytest.importorskip("dask.array")
    rng = np.random.default_rng(0)
    image, kernel = rng.random((211, 190)), rng.normal(size=(6, 5))
    keywords = {"stride": (2, 3), "offset": (1, 1), "boundary": "mirror", "operation": "correlation"}
    target = apply_kernel(image, kernel, **keywords)
    whole = accumulate(image, target, (6, 5), **keywords)
    path = tmp_path / "sums.npz"
    streamed = accumulate_stream([(image, target)], (6, 5), block=(23, 17), checkpoint=path, **keywords)
    assert_same_stats(streamed, whole)
    assert_same_bits(
        accumulate_stream([(image, target)], (6, 5), block=(23, 17), checkpoint=path, **keywords), streamed
    )
    lazy = [da.from_array(a, chunks=(37, 41)) + 0 for a in (image, target)]
    assert_same_bits(kernelfit.scale.accumulate(*lazy, (6, 5), block=(23, 17), **keywords), streamed)
    assert_close(kernelfit.scale.find_kernel(*lazy, (6, 5), **keywords).kernel, kernel, 1e-11)


@pytest.mark.slow
def test_the_image_is_never_copied():
    image = np.random.default_rng(0).integers(0, 256, (2000, 3000), dtype=np.uint8)
    target = apply_kernel(image, np.full((4, 6), 1 / 24), stride=4).astype(np.float32)
    accumulate(image[:90, :80], target[:23, :20], (8, 6), stride=4)  # plans and compiled loops
    tracemalloc.start()
    accumulate(image, target, (8, 6), stride=4, workers=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < image.size * 8 / 3  # a copy as float64 would be 48 MB


# ---- what is refused, and what else there is ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, error, words",
    [
        ({"stride": 0}, ValueError, "got stride=0, need at least 1"),
        ({"stride": 2.0}, TypeError, "got stride=2.0, need an int or a pair"),
        ({"stride": (2, 2, 2)}, ValueError, "length 3"),
        ({"stride": (2, 3), "offset": (2, 0)}, ValueError, r"got offset=\(2, 0\) with stride=\(2, 3\), need 0 <= of"),
        ({"stride": 2, "offset": -1}, ValueError, "need 0 <= offset < stride"),
        ({"offset": 1}, ValueError, "got offset=1 with stride=1, need 0 <= offset < stride"),
        ({"stride": (4, 3)}, ValueError, r"stride=\(4, 3\), offset=\(0, 0\); a target .* 'same' 5x10, 'valid' 5x9, 'f"),
        ({"stride": (2, 3), "mode": "full"}, ValueError, r"with mode='full', stride=\(2, 3\)"),
    ],
)
def test_refused(settings, error, words):
    image, target = np.random.default_rng(0).random((20, 30)), np.zeros((10, 10))
    with pytest.raises(error, match=words):
        find_kernel(image, target, (3, 4), **settings)


def test_refused_by_apply_kernel():
    with pytest.raises(ValueError, match=r"got offset=\(0, 3\) where there are 3 pixels along an axis"):
        apply_kernel(np.ones((4, 5)), np.ones((2, 3)), mode="valid", stride=4, offset=(0, 3))


def test_too_few_pixels():
    image = np.random.default_rng(0).random((20, 30))
    with pytest.raises(ValueError, match="24 interior pixels cannot determine 30 taps"):
        find_kernel(image, image[::4, ::4][:, :8], (5, 6), stride=4)


def test_nan_is_located():
    image = np.random.default_rng(0).random((40, 50))
    target = image[::2, ::2].copy()
    for array in (image, target):
        array[7, 9] = np.nan
        with pytest.raises(ValueError, match=r"1 pixel .* \(7, 9\)"):
            find_kernel(image, target, 3, stride=2)
        array[7, 9] = 0.5


def test_the_first_mode_that_fits_is_taken():
    """With a stride several may; "same" is the one in which pixel t stands on pixel stride * t of the image."""
    image = np.random.default_rng(0).random((21, 26))
    fit = find_kernel(image, image[::5, ::5], 3, stride=5)
    assert fit.convention.mode == "same" and infer_mode((21, 26), (4, 5), (3, 3), None, (5, 5)) == "valid"
    np.testing.assert_allclose(fit.kernel, np.pad([[1.0]], 1), atol=1e-12)


@pytest.mark.slow
def test_methods():
    assert choose_method((4096, 4096), 24, 4).method == "fft"
    assert choose_method((4096, 4096), 3, (2, 3)).method == "direct"
    assert choose_method((4096, 4096), 127, 2).method == "cg"
    image = np.random.default_rng(0).random((300, 311))
    fit = find_kernel(image, image[1::2, ::2], (47, 45), stride=2, offset=(1, 0), boundary="wrap")
    assert fit.method == "fft" and abs(fit.kernel[23, 22] - 1) < 1e-9


def test_a_saved_fit_and_its_pictures(tmp_path):
    for package in ("astropy", "matplotlib", "tifffile"):
        pytest.importorskip(package)
    rng = np.random.default_rng(0)
    image, kernel = rng.random((61, 74)), rng.random((6, 7))
    target = apply_kernel(image, kernel, stride=(2, 3), offset=1) + rng.normal(0, 0.01, (30, 25))
    fit = find_kernel(image, target, (6, 7), stride=(2, 3), offset=1)
    fit.save(tmp_path / "fit.npz")
    again = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    np.testing.assert_array_equal(again.predict(image), fit.predict(image))
    for suffix in (".json", ".fits", ".tif"):
        kernels.write_kernel(tmp_path / f"kernel{suffix}", fit)
        assert kernels.read_kernel(str(tmp_path / f"kernel{suffix}")).convention == fit.convention
    window = residuals.window(fit, image, target)
    inside = fit.residual(image, target)
    np.testing.assert_allclose(window, inside[~np.isnan(inside)].reshape(window.shape), atol=1e-12)
    small = residuals.window(fit, image, target, side=8)
    assert small.shape == (8, 8)
    assert any(np.allclose(inside[r : r + 8, c : c + 8], small, atol=1e-12) for r in range(22) for c in range(17))
    full = dataclasses.replace(fit, convention=geometry.in_mode(fit.convention, (6, 7), "full"))
    assert full.convention.offset == (1, 1)  # two rows and three columns further on


@pytest.mark.slow
def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = photograph()[:301, :302]
    pytest.importorskip("PIL.Image").fromarray(image).save("large.png")
    kernel = pillow_kernel("BILINEAR", (2, 3))
    np.save("small.npy", apply_kernel(image, kernel, boundary="symm", stride=(2, 3), offset=(1, 2)))
    options = "--stride 2,3 --offset 1,2"
    assert parser.main(f"find large.png small.npy --shape 4,7 {options} -o k.json --report r.html".split()) == 0
    assert "stride (2, 3) from pixel (1, 2)" in capsys.readouterr().out
    found = kernels.read_kernel("k.json")
    np.testing.assert_allclose(found.kernel, kernel, atol=1e-3)
    assert parser.main("apply large.png k.json -o again.npy".split()) == 0
    np.testing.assert_allclose(np.load("again.npy"), np.load("small.npy"), atol=0.5)
    assert parser.main("apply large.png k.json --stride 1 -o blurred.npy".split()) == 0
    np.testing.assert_allclose(np.load("blurred.npy")[1::2, 2::3], np.load("again.npy"), atol=1e-10)
    assert parser.main("apply large.png k.json --mode full --boundary symm -o full.npy".split()) == 0
    whole, again = np.load("full.npy"), np.load("again.npy")
    np.testing.assert_allclose(whole[1:][: len(again), 1 : 1 + again.shape[1]], again, atol=1e-10)
    capsys.readouterr()
    assert parser.main("apply large.png k.json --offset 0 -o other.npy --force".split()) == 0
    assert parser.main("find large.png small.npy --shape 4,7 --json --stride 2,3 --offset 1,2".split()) == 0
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :])["convention"]["stride"] == [2, 3]
    np.savetxt("k.csv", kernel, delimiter=",")
    for call, words in {
        "deconvolve small.npy k.json -o sharp.npy": r"k.json: got a kernel of stride (2, 3), need one",
        "apply large.png k.csv --offset 1 -o a.npy": "got --offset without a stride",
        "find large.png small.npy --shape 4,7 --stride 2": "same 151x151",
        "find large.png small.npy --shape 4,7 --stride 0": "got '0', need one whole number of at least 1",
    }.items():
        assert parser.main(call.split()) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("mode", [None, *MODES])
def test_a_remainder_that_was_left_out_names_the_crop(mode):
    image, stride = np.random.default_rng(0).normal(size=(48, 60)), (3, 4)
    whole = apply_kernel(image, np.ones((2, 5)), mode=mode or "same", stride=stride, offset=1)
    target = whole[:-1] if mode != "full" else whole[:, :-1]
    with pytest.raises(ValueError, match="crop the image: ") as refused:
        find_kernel(image, target, (2, 5), mode=mode, stride=stride, offset=1)
    rows, cols = re.search(rf"image\[:(\d+), :(\d+)\] for '{mode or 'same'}'", str(refused.value)).groups()
    cropped = image[: int(rows), : int(cols)]
    assert 0 < (48 - int(rows)) + (60 - int(cols)) < 4
    np.testing.assert_array_equal(
        apply_kernel(cropped, np.ones((2, 5)), mode=mode or "same", stride=stride, offset=1).shape, target.shape
    )
    with pytest.raises(ValueError) as refused:  # more is missing than a remainder
        find_kernel(image, target[:-1, :-1], (2, 5), mode=mode, stride=stride, offset=1)
    assert "crop the image" not in str(refused.value)
