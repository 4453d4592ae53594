"""Values that were cut off inside the range of their type, and white paper, which is none."""

import numpy as np
import pytest
import scipy.ndimage

from kernelfit import Model, Verdict, apply_kernel, find_kernel
from kernelfit.data.observation import as_observation
from kernelfit.diagnostics import tiles
from kernelfit.diagnostics.misfit import misfits
from kernelfit.diagnostics.plateau import missing

KERNEL = np.random.default_rng(0).random((3, 4)) / 6


def stars(seed, size=(130, 155)):
    rng, sky = np.random.default_rng(seed), np.zeros(size)
    np.add.at(sky, tuple(rng.integers(0, n, 120) for n in size), 10 ** rng.uniform(2, 3.5, 120))
    return scipy.ndimage.gaussian_filter(sky, 0.9) + rng.normal(40, 2, size)


def paper(seed, size=(130, 155)):
    """Black letters on white."""
    return np.where(
        scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), 2.0) > 0.08, 9.0, 250.0
    )


def told(fit):
    return [f.detail for f in fit.findings if "cut off: saturated=" in f.detail]


@pytest.mark.parametrize("dtype", ["u2", "f4", "f8"])
@pytest.mark.parametrize("noise", [0.0, 3.0])
@pytest.mark.parametrize("way", [1, -1])
def test_a_target_that_was_cut_off_is_told_and_helped(way, noise, dtype):
    """A camera of 12 bits in 16, a float that was clipped; the range that is named clears it."""
    image = stars(1)
    made = apply_kernel(image, KERNEL, boundary="symm") + noise * np.random.default_rng(2).normal(size=image.shape)
    made = made if way > 0 else 900 - made
    end = np.rint(np.quantile(made, 0.99 if way > 0 else 0.01))
    target = (np.minimum if way > 0 else np.maximum)(made, end)
    target = np.rint(target).astype(dtype) if dtype == "u2" else target.astype(dtype)
    fit = find_kernel(image, target, KERNEL.shape, background=0)
    assert fit.verdict is Verdict.NONLINEAR and told(fit)
    named = f"saturated=({f'None, {end:g}' if way > 0 else f'{end:g}, None'})"
    assert named in told(fit)[0]
    ends = (None, float(end)) if way > 0 else (float(end), None)
    assert not told(find_kernel(image, target, KERNEL.shape, background=0, saturated=ends))
    weights = np.random.default_rng(3).uniform(0.5, 2.0, target.shape)
    assert told(find_kernel(image, target, KERNEL.shape, background=0, weights=weights))


@pytest.mark.parametrize("steps", ["u1", "u2", "f4", "f8", "of 255"])
def test_white_paper_is_no_plateau(steps):
    """Nor is a sky of zero, nor halves of a step between values that are rounded."""
    for image in (paper(0), paper(1) + np.linspace(0, 4, 155), np.maximum(stars(0) - 50, 0)):
        image = np.rint(image).clip(0, 255) if steps != "f8" else image
        made = apply_kernel(image, KERNEL / KERNEL.sum(), boundary="symm")
        if steps in ("u1", "u2"):
            target = np.rint(made).astype(steps)
        else:
            target = np.rint(made) / 255 if steps == "of 255" else made.astype(steps)
        fit = find_kernel(image, target, KERNEL.shape)
        assert not told(fit)


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_paper_whose_noise_was_cut_off_is_told(dtype):
    """The white ones among the others are predicted below the end, by as much as half of the noise is missing."""
    image = paper(0)
    made = apply_kernel(image, KERNEL / KERNEL.sum(), boundary="symm")
    noisy = made + np.random.default_rng(1).normal(0, 6, made.shape)
    for cut, seen in ((250.0, True), (1e9, False)):
        target = np.minimum(noisy, cut)
        target = np.rint(np.maximum(target, 1)).astype(dtype) if dtype == "u2" else target.astype(dtype)
        assert (
            any("stand at 250 with nothing above" in words for words in told(find_kernel(image, target, (3, 4))))
            is seen
        )


def test_few_pixels_at_the_end_are_no_plateau():
    """Seven of them, or as many as have the next value."""
    image = stars(3)
    made = apply_kernel(image, KERNEL, boundary="symm")
    top = np.sort(made.ravel())
    for count, seen in ((7, False), (40, True)):
        target = np.minimum(made, top[-count])
        fit = find_kernel(image, target, KERNEL.shape)
        pair = as_observation(image, target, Model(KERNEL.shape))
        assert bool(told(fit)) is seen
        assert seen is any(
            "cut off: saturated" in f.detail for f in misfits(tiles.read([pair], fit, None), fit, weighted=False)
        )
    stepped = np.minimum(np.rint(made / 40), np.rint(top[-40] / 40))  # few values, each of many pixels
    assert not told(find_kernel(image, stepped, KERNEL.shape))


SHARP = np.array([[0, -1, 0, 0], [-1, 6, -1, 0], [0, -1, 0, 0]]) / 2


def beyond(image, target, **words):
    fit = find_kernel(image, target, SHARP.shape, **words)
    pair = as_observation(image, target, Model(SHARP.shape))
    return [found.detail for found in missing(tiles.read([pair], fit, None), fit)]


@pytest.mark.parametrize("way", [1, -1])
def test_more_than_noise_predicted_where_there_is_nothing(way):
    """At an end that does not stand out, and at none of a target with noise, counts or steps."""
    image, rng = 0.05 * np.where(paper(0) < 100, 100, 250.0), np.random.default_rng(5)
    made = apply_kernel(image, SHARP, boundary="symm")
    noisy = made + rng.normal(0, 2, made.shape)
    assert f"{'below' if way > 0 else 'above'} 0, where none of it is" in beyond(image, way * np.maximum(noisy, 0))[0]
    assert not beyond(image, way * noisy)
    assert not beyond(image, way * np.rint(noisy))
    counts = rng.poisson(apply_kernel(image - image.min(), np.abs(SHARP), boundary="symm"))
    assert not beyond(image - image.min(), way * counts.astype(float))
    flat = np.rint(apply_kernel(image, np.abs(SHARP), boundary="symm") / 5)
    assert not beyond(image, way * flat)  # what lies beyond is less than half a step


def test_negative_predictions_of_photons_are_told():
    image = 0.05 * np.where(paper(0) < 100, 100, 250.0)
    made = apply_kernel(image, SHARP, boundary="symm")
    counts = np.random.default_rng(5).poisson(np.maximum(made, 0)).astype(float)
    fit = find_kernel(image, counts, SHARP.shape, noise="poisson")
    assert fit.verdict is Verdict.NONLINEAR
    assert any("below 0, where none of it is" in f.detail for f in fit.findings)


def test_values_that_were_left_out_are_no_end():
    """Of the pixels that a range leaves, some near its end are predicted beyond."""
    rng = np.random.default_rng(3)
    image = 100 + 8 * scipy.ndimage.gaussian_filter(rng.normal(size=(130, 155)), 0.8)
    made = apply_kernel(image, KERNEL, boundary="symm")
    target = made + rng.normal(0, 0.3 * made.std(), made.shape)
    fit = find_kernel(image, target, KERNEL.shape, saturated=(None, float(np.quantile(target, 0.9))))
    assert not any("where none of it is" in f.detail for f in fit.findings)
