"""Volumes of several channels, against dense least squares."""

import numpy as np
import pytest

import kernelfit
import naive
from helpers import assert_close, grid
from kernelfit import ConjugateGradient, apply_kernel, find_kernel

SHAPE, KERNEL, M = (6, 7, 9), (3, 2, 2), 12


def scene(how, axis, seed=0, shape=SHAPE, **words):
    """An image of two channels, the design matrix of each, where they are used, and a noisy target."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0.3, 1.0, (*shape, 2))
    every = [naive.design_nd(image[..., c], KERNEL, **words) for c in range(2)]
    matrices, used = [matrix.astype(float) for matrix, _ in every], every[0][1]
    target = 0.1 * rng.normal(size=(*used.shape, 3 if how == "mixed" else 2))
    taps = np.random.default_rng(99).normal(size=(3, 2, M))
    for t in range(target.shape[-1]):
        if how == "mixed":
            target[used, t] += sum(matrix @ k for matrix, k in zip(matrices, taps[t], strict=True))
        else:
            target[used, t] += matrices[t] @ taps[0, t if how == "separate" else 0]
    return np.moveaxis(image, -1, axis), matrices, used, np.moveaxis(target, -1, axis)


def dense(how, matrices, values, weights=None, terms=None):
    """The kernels of dense least squares, given a column of values for each channel of the target."""
    n = values.shape[1]
    root = np.sqrt(np.ones(values.shape) if weights is None else weights)
    terms = np.zeros((len(values), 0)) if terms is None else terms

    def solved(matrix, y, w):
        return np.linalg.lstsq(w[:, None] * matrix, w * y, rcond=None)[0]

    if how == "mixed":
        whole = np.hstack([*matrices, terms])
        return np.stack([solved(whole, values[:, t], root[:, t])[: 2 * M].reshape(2, *KERNEL) for t in range(n)])
    if how == "separate":
        both = [np.hstack([matrix, terms]) for matrix in matrices]
        return np.stack([solved(both[c], values[:, c], root[:, c])[:M].reshape(KERNEL) for c in range(n)])
    rows = [np.hstack([matrices[c], *(terms * (c == d) for d in range(n))]) for c in range(n)]
    return solved(np.vstack(rows), values.T.ravel(), root.T.ravel())[:M].reshape(KERNEL)


CASES = [
    (how, axis, boundary, background, solver) for how in ("shared", "separate", "mixed")
    for axis, boundary, background in ((-1, None, None), (0, "wrap", 1), (2, "symm", 0), (-3, "fill", None))
    for solver in (None, ConjugateGradient())
]  # fmt: skip


@grid("how, axis, boundary, background, solver", CASES, 5)
def test_it_is_dense_least_squares(how, axis, boundary, background, solver):
    words = {"mode": "same", "boundary": boundary, "operation": "convolution" if axis else "correlation"}
    image, matrices, used, target = scene(how, axis, **words)
    more = {"channels": how, "channel_axis": axis, "background": background, "solver": solver}
    more |= {} if solver is None else {"tolerance": 1e-9}
    fit = find_kernel(image, target, KERNEL, **words, **more)
    terms = None if background is None else naive.volume_terms(SHAPE, background)[used.ravel()]
    assert_close(fit.kernel, dense(how, matrices, np.moveaxis(target, axis, -1)[used], terms=terms), 1e-9)
    left = fit.residual(image, target)
    assert left.shape == target.shape
    assert_close(np.nansum(left**2), fit.rss, 1e-8)


WEIGHED = [(how, kind) for how in ("shared", "separate", "mixed") for kind in ("mask", "mask of all", "weights", "nan")]


@grid("how, kind", WEIGHED, 4)
def test_masks_and_weights_of_each_channel(how, kind):
    image, matrices, used, target = scene(how, -1, mode="same", boundary="wrap")
    rng = np.random.default_rng(3)
    out = rng.random(target.shape if kind != "mask of all" else SHAPE) < 0.1
    weights = rng.random(target.shape) + 0.5 if kind == "weights" else np.broadcast_to(1.0 - (
        out if out.ndim == 4 else out[..., None]), target.shape)  # fmt: skip
    expected = dense(how, matrices, target[used], weights[used])
    if kind != "weights":
        target[weights == 0] = np.nan if kind == "nan" else 50.0
    more = {"weights": weights} if kind == "weights" else {"nan": "mask"} if kind == "nan" else {"mask": out}
    fit = find_kernel(image, target, KERNEL, boundary="wrap", channel_axis=-1, channels=how, **more)
    assert_close(fit.kernel, expected, 1e-9)


def test_a_mask_of_the_image_concerns_the_channel_that_it_is_of():
    image, matrices, used, target = scene("mixed", -1, mode="same", boundary="fill")
    dead = np.zeros(image.shape, dtype=bool)
    dead[3, 4, 5, 1] = True
    touched = np.asarray(naive.design_nd(dead[..., 1].astype(float), KERNEL, mode="same", boundary="fill")[0] != 0)
    reached = touched.any(axis=1).reshape(SHAPE)
    expected = dense("mixed", matrices, target[used], np.repeat(~reached.ravel()[:, None], 3, axis=1).astype(float))
    image[dead] = 1e4
    words = {"boundary": "fill", "channel_axis": -1, "channels": "mixed"}
    assert_close(find_kernel(image, target, KERNEL, image_mask=dead, **words).kernel, expected, 1e-9)


@grid("how", ["mixed", "shared", "separate"], 3)
def test_pairs_of_unlike_sizes_and_their_sums(how):
    words = {"mode": "same", "boundary": "mirror"}
    scenes = [scene(how, -1, seed, shape, **words) for seed, shape in ((1, SHAPE), (2, (7, 6, 10)))]
    matrices = [np.vstack(both) for both in zip(*(one[1] for one in scenes), strict=True)]
    values = np.vstack([target.reshape(-1, target.shape[-1]) for *_, target in scenes])
    images, targets = [one[0] for one in scenes], [one[3] for one in scenes]
    more = {"channel_axis": -1, "channels": how, **words}
    expected = dense(how, matrices, values)
    assert_close(find_kernel(images, targets, KERNEL, **more).kernel, expected, 1e-9)
    pairs = list(zip(images, targets, strict=True))
    stats = [kernelfit.accumulate(*pair, KERNEL, **more) for pair in pairs]
    assert_close((stats[0] + stats[1]).solve().kernel, expected, 1e-9)
    assert_close(kernelfit.accumulate_stream(pairs, KERNEL, **more).solve().kernel, expected, 1e-9)


def test_a_kernel_for_each_channel_or_pair_of_channels_is_laid_on():
    rng = np.random.default_rng(4)
    image, kernels = rng.normal(size=(2, 5, 6, 7)), rng.normal(size=(3, 2, *KERNEL))

    def one(t, c):
        return apply_kernel(image[c], kernels[t, c], boundary="wrap")

    words = {"boundary": "wrap", "channel_axis": 0}
    assert_close(apply_kernel(image, kernels, **words), np.stack([one(t, 0) + one(t, 1) for t in range(3)]), 1e-12)
    assert_close(apply_kernel(image, kernels[0], **words), np.stack([one(0, 0), one(0, 1)]), 1e-12)
    same = [apply_kernel(channel, kernels[1, 0], boundary="wrap") for channel in image]
    assert_close(apply_kernel(image, kernels[1, 0], **words), np.stack(same), 1e-12)
    with pytest.raises(ValueError, match="image of 2 channels and kernels for 3"):
        apply_kernel(image, kernels[:, 0], **words)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["shared", "separate", "mixed"])
def test_what_is_asked_of_a_result(how, tmp_path):
    image, _, _, target = scene(how, -1, shape=(10, 12, 13), mode="same", boundary="wrap")
    words = {"boundary": "wrap", "channel_axis": -1, "channels": how}
    fit = find_kernel(image, target, KERNEL, background=0, **words)
    assert fit.verdict is kernelfit.Verdict.SOLVED
    fit.save(tmp_path / "fit.npz")
    loaded = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    np.testing.assert_array_equal(loaded.predict(image), fit.predict(image))
    assert kernelfit.check_boundary(image, target, fit).equal == ("wrap",)
    for part in kernelfit.split_channels(fit).values():
        assert part.kernel.shape == KERNEL and np.isfinite(part.psf().sum.stderr)
    errors = kernelfit.sandwich_errors(image, target, fit).stderr
    assert errors.shape == fit.kernel.shape and 0.7 < np.median(errors / fit.stderr) < 1.4
    noisy = find_kernel(image, target, KERNEL, image_noise=0.01, **words)
    assert 0 < np.abs(noisy.kernel - fit.kernel).max() < 0.02
    if how == "separate":
        pytest.importorskip("matplotlib").use("agg")
        assert len(fit.plot().subfigs) == 2
        assert "2 kernels of 3 x 2 x 2 taps" in kernelfit.report.report_html(fit, image, target)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"channel_axis": 4}, "one of -4 to 3"),
        ({"channel_axis": 0}, "image of 6 channels and target of 5"),
    ],
)
def test_refusals(words, message):
    image = np.random.default_rng(0).normal(size=(6, 7, 8, 2))
    with pytest.raises(ValueError, match=message):
        find_kernel(image, image[1:], KERNEL, **words)
    with pytest.raises(ValueError, match="need 4: planes, rows, columns and channels"):
        find_kernel(image[..., 0], image[..., 0], KERNEL, channel_axis=-1)
