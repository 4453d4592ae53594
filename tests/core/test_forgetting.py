"""Statistics times a factor: each pixel counts for a share of one."""

import numpy as np
import pytest

import kernelfit
from helpers import assert_close

SHAPE = (3, 5)


def pair(seed, shape=(30, 41), noise=0.3, factor=1.0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape)
    kernel = factor * np.outer([1.0, 2.0, 1.0], [1.0, -1.0, 3.0, 0.5, 0.2])
    return image, kernelfit.apply_kernel(image, kernel) + 2.0 + noise * rng.normal(size=shape), kernel


@pytest.mark.parametrize("background", [None, 1])
def test_a_factor_is_a_weight_of_every_pixel(background):
    """``stats * f + other`` has the kernel of weights f and 1; its errors are those of as many pixels fewer."""
    (a, at, _), (b, bt, _) = pair(0), pair(1)
    kw = {} if background is None else {"background": background}
    old, new = (kernelfit.accumulate(x, y, SHAPE, **kw) for x, y in ((a, at), (b, bt)))
    fit = (old * 0.25 + new).solve()
    weights = [np.full(y.shape, w) for y, w in ((at, 0.25), (bt, 1.0))]
    same = kernelfit.find_kernel([a, b], [at, bt], SHAPE, weights=weights, **kw)
    assert_close(fit.kernel, same.kernel, 1e-9)
    assert fit.rss == pytest.approx(same.rss, rel=1e-8)
    assert fit.n_pixels == pytest.approx(1.25 * new.solve().n_pixels, abs=3)
    assert 1.2 < np.median(fit.stderr / same.stderr) < 1.4  # sqrt of the noise of a pixel: 2 / 1.25


def test_a_factor_keeps_the_kernel_and_the_noise():
    image, target, _ = pair(2)
    stats = kernelfit.accumulate(image, target, SHAPE, background=0)
    whole, part = stats.solve(), (0.5 * stats).solve()
    assert_close(part.kernel, whole.kernel, 1e-10)
    assert part.noise_std == pytest.approx(whole.noise_std, rel=0.01)
    assert_close(part.stderr, np.sqrt(2) * whole.stderr, 0.02)
    assert_close(part.background.coefficients, whole.background.coefficients, 1e-9)
    assert (stats * 1.0).solve().kernel.tobytes() == whole.kernel.tobytes()


def test_the_image_noise_is_scaled_as_well():
    image, target, _ = pair(3)
    noisy = image + 0.3 * np.random.default_rng(9).normal(size=image.shape)
    stats = kernelfit.accumulate(noisy, target - 2.0, SHAPE, image_noise=0.3)
    assert_close((stats * 0.5).solve().kernel, stats.solve().kernel, 1e-9)
    both = (stats * 0.5 + stats).solve()
    assert_close(both.kernel, stats.solve().kernel, 1e-6)


@pytest.mark.slow
def test_it_follows_a_kernel_that_changes():
    stats = None
    for step in range(60):
        x, y, kernel = pair(step, shape=(12, 14), factor=1.0 if step < 30 else 2.0)
        new = kernelfit.accumulate(x, y, SHAPE, background=0)
        stats = new if stats is None else stats * 0.8 + new
    fit = stats.solve()
    assert np.abs(fit.kernel - kernel).max() < 5 * fit.stderr.max()


def test_channels_and_what_is_refused():
    image, target, _ = pair(4)
    stats = kernelfit.accumulate(image, target, SHAPE)
    many = kernelfit.accumulate(
        np.stack([image] * 2), np.stack([target] * 2), SHAPE, channel_axis=0, channels="separate"
    )
    assert_close((0.5 * many).solve().kernel, many.solve().kernel, 1e-10)
    for factor in (0, -0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match="above 0 and at most 1|finite"):
            stats * factor
    with pytest.raises(TypeError):
        stats * "half"
    with pytest.raises(TypeError):
        stats * stats
