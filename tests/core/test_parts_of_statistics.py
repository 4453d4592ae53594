"""Statistics of a smaller support, of fewer pixels, and less the noise of the image."""

import numpy as np
import pytest
import scipy.signal

import kernelfit
import naive
from helpers import assert_close, assert_same_stats

IMAGE, SHAPE = (24, 31), (7, 6)


def pair(seed=0, shape=SHAPE, noise=0.2, image=IMAGE):
    rng = np.random.default_rng(seed)
    before = scipy.signal.convolve2d(rng.normal(size=image), np.ones((2, 2)), mode="same")
    target = scipy.signal.convolve2d(before, rng.normal(size=shape), mode="same")
    return before, target + rng.normal(0.0, noise, target.shape)


@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize("corner", [None, (1, 0), (3, 2)])
@pytest.mark.parametrize("centred", [False, True])
def test_crop_is_the_block_of_the_smaller_support(operation, corner, centred):
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
    assert_close(fit.kernel.ravel(), truth, 1e-10)
    assert fit.rss == pytest.approx(np.sum((y - matrix[:, kept] @ truth) ** 2), rel=1e-9)
    assert small.convention.origin == (3 - row, 2 - col)
    assert_close(fit.predict(image)[used], matrix[:, kept] @ truth, 1e-10)


def test_a_crop_keeps_the_background():
    image, target = pair()
    matrix, used = naive.design(image, SHAPE, mode="same", boundary=None)
    small = kernelfit.accumulate(image, target + 3, SHAPE, background=0).crop((3, 3), (1, 0))
    kept = np.arange(matrix.shape[1]).reshape(SHAPE)[1:4, 0:3].ravel()
    columns = np.column_stack([matrix[:, kept], np.ones(len(matrix))])
    truth = np.linalg.lstsq(columns, target[used] + 3, rcond=None)[0]
    fit = small.solve()
    assert_close(fit.kernel.ravel(), truth[:-1], 1e-10)
    assert fit.background.coefficients.ravel()[0] == pytest.approx(truth[-1], rel=1e-9)


def test_crop_refuses_what_lies_outside():
    stats = kernelfit.accumulate(*pair(), SHAPE)
    for shape, corner in (((8, 3), None), ((3, 3), (5, 0)), ((3, 3), (-1, 0))):
        with pytest.raises(ValueError, match="need one inside 7x6"):
            stats.crop(shape, corner)
    assert stats.crop((3, 3), (0, 0)).convention.origin == stats.convention.origin  # which it does not hold


@pytest.mark.parametrize("centred", [False, True])
def test_taking_a_part_away_leaves_the_other(centred):
    image, target = pair()
    north = kernelfit.accumulate(image[:15], target[:15], SHAPE)
    south = kernelfit.accumulate(image[9:], target[9:], SHAPE)
    both = north + south
    if centred:
        c = np.linspace(-1, 1, both.n_taps)
        both = both.centered(c, *both._centered(c))
    rest = both - north
    assert_same_stats(rest, south)
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


def test_statistics_of_no_channel_are_refused():
    for parts in ((), (1, 2), ("a",)):
        with pytest.raises(ValueError, match="need the NormalStats of at least one channel"):
            kernelfit.ChannelStats(parts)
