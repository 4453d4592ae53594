"""A kernel for each block of a volume: the same as the fit of its pixels alone."""

import numpy as np
import pytest

import complex_pairs
import naive
from helpers import assert_close
from kernelfit import ConjugateGradient, Verdict, Wiener, accumulate, find_kernel, kernel_map

SIZE, SHAPE, TILES = (8, 13, 17), (2, 1, 3), (2, 3, 2)


def varying_pair(seed=0, kinds="rr"):
    """A kernel whose sum grows from plane to plane."""
    image, _, target = complex_pairs.pair(SIZE, SHAPE, seed=seed, noise=0.3, kinds=kinds, mode="same", boundary="wrap")
    return image, target + np.linspace(0, 2, SIZE[0])[:, None, None] * image


def spans(sides, counts, overlap=0):
    each = [
        [(max(0, i * n // k - overlap), min(n, (i + 1) * n // k + overlap)) for i in range(k)]
        for n, k in zip(sides, counts, strict=True)
    ]
    for at in np.ndindex(*counts):
        yield at, [span[i] for span, i in zip(each, at, strict=True)]


@pytest.mark.parametrize("boundary", [None, "wrap"])
@pytest.mark.parametrize("overlap, method", [(0, "fft"), (1, "direct")])
def test_each_tile_is_a_least_squares_problem_of_its_own(boundary, overlap, method):
    image, target = varying_pair()
    result = kernel_map(image, target, SHAPE, TILES, overlap=overlap, boundary=boundary, method=method)
    matrix, used = naive.design_nd(image, SHAPE, mode="same", boundary=boundary)
    axes = [np.unique(where) for where in np.nonzero(used)]
    place = np.full(used.shape, -1)
    place[used] = np.arange(used.sum())
    assert result.kernels.shape == (*TILES, *SHAPE) and result.verdicts.shape == TILES
    assert result.boxes.shape == (*TILES, 6) and result.noise_std.shape == TILES
    for at, ends in spans([len(axis) for axis in axes], TILES, overlap):
        first = [int(axis[a]) for axis, (a, _) in zip(axes, ends, strict=True)]
        sides = [b - a for a, b in ends]
        pick = place[tuple(slice(f, f + n) for f, n in zip(first, sides, strict=True))].ravel()
        expected, (rss,), *_ = np.linalg.lstsq(matrix[pick], target[used][pick], rcond=None)
        assert_close(result.kernels[at].ravel(), expected, 1e-11)
        noise = np.sqrt(rss / (len(pick) - 6))
        assert result.noise_std[at] == pytest.approx(noise, rel=1e-9)
        assert_close(
            result.stderr[at].ravel(), noise * np.sqrt(np.diag(np.linalg.inv(matrix[pick].T @ matrix[pick]))), 1e-9
        )
        assert result.boxes[at].tolist() == [*first, *sides]
        assert result.centers[at].tolist() == [f + (n - 1) / 2 for f, n in zip(first, sides, strict=True)]


def test_the_variation_is_the_f_statistic():
    image, target = varying_pair()
    result = kernel_map(image, target, SHAPE, TILES, boundary="wrap")
    matrix, _ = naive.design_nd(image, SHAPE, mode="same", boundary="wrap")
    tile = np.zeros(SIZE, int)
    for number, (_, ends) in enumerate(spans(SIZE, TILES)):
        tile[tuple(slice(*end) for end in ends)] = number
    rss = [np.linalg.lstsq(matrix[tile.ravel() == n], target[tile == n], rcond=None)[1][0] for n in range(12)]
    together = np.linalg.lstsq(matrix, target.ravel(), rcond=None)
    own, extra, spare = sum(rss), 11 * 6, target.size - 12 * 6
    assert result.variation == pytest.approx((together[1][0] - own) / extra / (own / spare), rel=1e-9)
    assert result.p_value < 1e-9
    assert_close(result.common.ravel(), together[0], 1e-11)
    even = kernel_map(image, target - np.linspace(0, 2, 8)[:, None, None] * image, SHAPE, TILES, boundary="wrap")
    assert even.p_value > 0.01 and even.variation == pytest.approx(1, abs=0.4)
    text = result.summary()
    assert "2 x 3 x 2 tiles of 4 x 4 to 5 x 8 to 9 pixels" in text and "centroid plane" in text
    assert (even.verdicts == Verdict.SOLVED).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        {"mask": True},
        {"mask": True, "background": 0},
        {"errors": "sandwich"},
        {"image_noise": 0.2},
        {"solver": ConjugateGradient(), "tolerance": 1e-12},
        {"kinds": "cc", "mask": True, "background": 0},
        {"kinds": "cr", "real": True},
        {"listed": True, "background": 0},
    ],
    ids=str,
)
def test_each_tile_is_the_fit_of_its_pixels(words):
    words = dict(words)
    image, target = varying_pair(kinds=words.pop("kinds", "rr"))
    excluded = np.random.default_rng(5).random(SIZE) < 0.1 if words.pop("mask", False) else np.zeros(SIZE, bool)
    if excluded.any():
        words["mask"] = excluded
    listed = words.pop("listed", False)
    pair = ([image, image[::-1]], [target, target]) if listed else (image, target)
    result = kernel_map(*pair, SHAPE, (2, 1, 2), boundary="wrap", **words)
    for at, ends in spans(SIZE, (2, 1, 2)):
        outside = np.ones(SIZE, bool)
        outside[tuple(slice(*end) for end in ends)] = False
        mask = outside | excluded
        fit = find_kernel(*pair, SHAPE, boundary="wrap", **{**words, "mask": [mask, mask] if listed else mask})
        assert_close(result.kernels[at], fit.kernel, 1e-8)
        if not {"errors", "image_noise", "tolerance"} & set(words):  # which are estimated
            assert_close(result.stderr[at], fit.stderr, 1e-8)
        if "background" in words:
            assert_close(result.background[at], fit.background.coefficients, 1e-8)


def test_photon_noise_and_channels_are_those_of_planes():
    """A kernel of one plane, in blocks of all planes: many images of shared kernels."""
    rng = np.random.default_rng(3)
    image = rng.uniform(50, 150, (4, 14, 15, 2))
    target = rng.poisson(np.stack([image[..., 0] + 0.2 * np.roll(image[..., 1], 1, 2), image.sum(-1)], -1)).astype(
        float
    )
    words = dict(channel_axis=-1, channels="mixed", boundary="wrap", noise="poisson")
    deep = kernel_map(image, target, (1, 1, 3), (1, 2, 1), **words)
    flat = kernel_map(list(image), list(target), (1, 3), (2, 1), **words)
    assert_close(deep.kernels[0, ..., 0, :, :], flat.kernels, 1e-9)
    assert_close(deep.stderr[0, ..., 0, :, :], flat.stderr, 1e-9)
    assert deep.variation == pytest.approx(flat.variation, rel=1e-6)


def test_smoothness_is_one_dense_system():
    image, target = varying_pair()
    strength, tiles = 0.3, (2, 1, 3)
    result = kernel_map(image, target, SHAPE, tiles, boundary="wrap", smoothness=strength)
    matrix, _ = naive.design_nd(image, SHAPE, mode="same", boundary="wrap")
    grams, rights = [], []
    for _, ends in spans(SIZE, tiles):
        inside = np.zeros(SIZE, bool)
        inside[tuple(slice(*end) for end in ends)] = True
        own = matrix[inside.ravel()]
        grams.append(own.T @ own)
        rights.append(own.T @ target[inside])
    g = np.mean([np.trace(gram) / 6 for gram in grams])
    whole = np.zeros((36, 36))
    for i, gram in enumerate(grams):
        whole[6 * i : 6 * i + 6, 6 * i : 6 * i + 6] = gram
    for i, j in ((0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)):
        step = np.zeros((6, 36))
        step[:, 6 * i : 6 * i + 6], step[:, 6 * j : 6 * j + 6] = np.eye(6), -np.eye(6)
        whole += strength * g * step.T @ step
    assert_close(result.kernels.ravel(), np.linalg.solve(whole, np.concatenate(rights)), 1e-9)


def test_what_is_refused():
    image, target = varying_pair()
    with pytest.raises(ValueError, match=r"got tiles=\(2, 2\) of length 2, need an int or three ints"):
        kernel_map(image, target, SHAPE, (2, 2))
    with pytest.raises(ValueError, match="the smallest of which has 1x1x2 pixels, too few for 6 taps"):
        kernel_map(image, target, SHAPE, (8, 13, 7), boundary="wrap")
    with pytest.raises(ValueError, match="need at least 1 x 1 x 1 and no more than"):
        kernel_map(image, target, SHAPE, (9, 1, 1), boundary="wrap")
    for pair, shape in ((image, target), SHAPE), ((image[0, 0], target[0, 0]), 3):
        with pytest.raises(ValueError, match="each tile has a kernel of its own"):
            kernel_map(*pair, shape, 2, variation=1)
    for verb in (find_kernel, accumulate):
        with pytest.raises(ValueError, match="its functions are of images and signals; need kernel_map"):
            verb(image, target, SHAPE, variation=1)


def test_divided_spectra():
    image, target = varying_pair()
    result = kernel_map(image, target, SHAPE, (2, 1, 1), boundary="wrap", solver=Wiener())
    assert (result.verdicts == Verdict.APPROXIMATE).all() and np.isfinite(result.kernels).all()
    assert result.kernels[1].sum() - result.kernels[0].sum() == pytest.approx(8 / 7, abs=0.4)
