"""Noise that is correlated and a model that does not hold are told apart."""

import dataclasses

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage

from helpers import assert_close, grid
from kernelfit import Model, Penalized, Verdict, apply_kernel, find_kernel
from kernelfit.core.findings import Finding
from kernelfit.data.masking import PlaneSelection
from kernelfit.data.observation import as_observation, of_target
from kernelfit.diagnostics import lags, misfit, samples, tiles, whiteness
from kernelfit.diagnostics.tile_design import TileDesign

SHAPE = (6, 9)


def texture(seed, size=(230, 270)):
    rng = np.random.default_rng(seed)
    broad = scipy.ndimage.gaussian_filter(rng.normal(size=size), 3.0)
    return 120.0 + 25.0 * scipy.ndimage.gaussian_filter(rng.normal(size=size), 0.7) + 400.0 * broad


def scene(seed=0, shape=SHAPE):
    """An image, a kernel of sum one, and noise of 1 % of what the kernel makes of the image."""
    rng, image = np.random.default_rng(seed + 100), texture(seed)
    kernel = rng.random(shape)
    kernel /= kernel.sum()
    made = apply_kernel(image, kernel, boundary="symm")
    return image, kernel, made, 0.01 * made.std() * rng.normal(size=made.shape)


def looked_at(pair, fit, weights=None):
    """The findings of a fit, whose weights are those of the pixels of each pair."""
    return misfit.misfits(tiles.read([pair], fit, weights), fit, weighted=weights is not None)


def found(image, target, shape=SHAPE, weights=None, lay=None, **keywords):
    """The findings of a fit, without a boundary."""
    lay = lay or {}
    fit = find_kernel(image, target, shape, **lay, **keywords)
    pair = as_observation(image, target, Model(shape, **lay))
    return looked_at(pair, fit, weights)


def verdicts(findings):
    return [f.verdict for f in findings]


def warped(made, move):
    """What lies at ``move(y, x)`` from the middle, resampled."""
    middle = [(n - 1) / 2 for n in made.shape]
    y, x = np.meshgrid(*(np.arange(n) - m for n, m in zip(made.shape, middle, strict=True)), indexing="ij")
    return scipy.ndimage.map_coordinates(made, [a + m for a, m in zip(move(y, x), middle, strict=True)], mode="reflect")


@grid("seed", range(4), 4)
@pytest.mark.parametrize("noise", ["white", "coloured", "photons", "none", "rounded", "rounded alone"])
def test_a_model_that_holds_is_left_alone(noise, seed):
    image, _, made, grain = scene(seed)
    rng = np.random.default_rng(seed)
    target = {
        "white": lambda: made + grain,
        "coloured": lambda: made + 3 * scipy.ndimage.uniform_filter(grain, 3),
        "photons": lambda: rng.poisson(np.maximum(made, 0)).astype(float),
        "none": lambda: made,
        "rounded": lambda: np.rint(made + 50 * grain / grain.std() / 25).astype("i2"),
        "rounded alone": lambda: np.rint(made).astype("i2"),
    }[noise]()
    assert found(image, target) == []


def misfit_scenes():
    """Yield a name, the verdict, and what makes the target of the image, the kernel and the true target."""

    def turned(image, kernel, made):
        a = np.deg2rad(0.6)
        return warped(made, lambda y, x: (y * np.cos(a) - x * np.sin(a), y * np.sin(a) + x * np.cos(a)))

    def rows(image, kernel, made):
        other = apply_kernel(image, np.roll(kernel, 1, axis=0), boundary="symm")
        return np.where(np.arange(len(made))[:, None] % 2, made, other)

    def halves(image, kernel, made):
        other = scipy.ndimage.gaussian_filter(made, 0.8)
        return np.where(np.arange(made.shape[1]) < 100, made, other)

    yield "turned", Verdict.MISALIGNED, turned
    yield "scaled", Verdict.MISALIGNED, lambda i, k, made: warped(made, lambda y, x: (1.006 * y, 1.006 * x))
    yield "rows", Verdict.VARYING, rows
    yield "halves", Verdict.VARYING, halves
    yield "wide", Verdict.SHAPE_TOO_SMALL, lambda i, k, made: scipy.ndimage.uniform_filter(made, (5, 7))
    yield "curve", Verdict.NONLINEAR, lambda i, k, made: 255 * (np.maximum(made, 1) / 255) ** 0.45
    yield "clipped", Verdict.NONLINEAR, lambda i, k, made: np.clip(made, None, np.quantile(made, 0.93))
    yield "maximum", Verdict.NONLINEAR, lambda i, k, made: scipy.ndimage.maximum_filter(i, (3, 5))
    yield "pedestal", Verdict.OFFSET, lambda i, k, made: made + 9.0


@grid("seed", range(3), 3)
@pytest.mark.parametrize("name, verdict, make", list(misfit_scenes()), ids=lambda v: v if isinstance(v, str) else "")
def test_a_model_that_does_not_hold_is_named(name, verdict, make, seed):
    image, kernel, made, grain = scene(seed)
    target = make(image, kernel, made) + grain * (name != "clipped")
    assert verdicts(found(image, target))[:1] == [verdict]


@pytest.mark.slow
@pytest.mark.parametrize("name, verdict, make", list(misfit_scenes()), ids=lambda v: v if isinstance(v, str) else "")
def test_so_it_is_if_the_noise_is_correlated_besides(name, verdict, make):
    image, kernel, made, grain = scene(1)
    assert found(image, make(image, kernel, made) + 2 * scipy.ndimage.uniform_filter(grain, 3))


def stars(seed, size=(190, 240)):
    rng, sky = np.random.default_rng(seed), np.zeros(size)
    n = size[0] * size[1] // 400
    np.add.at(sky, tuple(rng.integers(0, k, n) for k in size), 10 ** rng.uniform(1.5, 4, n))
    return scipy.ndimage.gaussian_filter(sky, 1.0) + 50


@grid("seed", range(4), 4)
def test_a_few_bright_stars_do_not_outvote_the_others(seed):
    image, rng = stars(seed), np.random.default_rng(seed)
    kernel = rng.random((3, 6))
    made = apply_kernel(image, kernel / kernel.sum(), boundary="symm")
    noise = 0.003 * made.std() * rng.normal(size=made.shape)
    assert found(image, made + noise, kernel.shape) == []
    assert found(image, rng.poisson(made).astype(float), kernel.shape) == []
    a = np.deg2rad(0.4)
    turned = warped(made, lambda y, x: (y * np.cos(a) - x * np.sin(a), y * np.sin(a) + x * np.cos(a)))
    assert found(image, turned + noise, kernel.shape) != []  # which one depends on where the bright ones stand
    far = np.roll(made, (9, -12), (0, 1))
    assert verdicts(found(image, far + noise, kernel.shape)) == [Verdict.SHAPE_TOO_SMALL]


def test_rotation_and_scale_are_told():
    image, _, made, grain = scene(3, (5, 8))
    a = np.deg2rad(0.8)  # as the picture is seen, clockwise

    def move(y, x):
        return (y * np.cos(a) - x * np.sin(a)) / 1.004, (y * np.sin(a) + x * np.cos(a)) / 1.004

    (finding,) = found(image, warped(made, move) + grain, (5, 8))
    words = finding.detail.split()
    assert float(words[words.index("by") + 1]) == pytest.approx(-0.8, abs=0.08)
    assert float(words[words.index("magnified") + 1]) == pytest.approx(1.004, abs=0.001)


def test_the_lag_outside_the_support_is_told_in_the_kernels_own_index():
    image = np.random.default_rng(0).normal(size=(150, 180))
    for operation, sign in (("convolution", 1), ("correlation", -1)):
        target = np.roll(image, (9, 0), (0, 1))
        (finding,) = found(image, target, (3, 4), lay={"operation": operation})
        assert finding.verdict is Verdict.SHAPE_TOO_SMALL
        assert f"tap ({1 + sign * 9}, {1})" in finding.detail


@pytest.mark.slow
def test_a_lag_so_far_out_that_no_pixel_of_the_tiles_is_left(monkeypatch):
    """Then the wider support cannot be compared, and the correlation alone tells."""
    image, _, made, grain = scene(0)
    target = made + grain + 0.3 * np.roll(image, (14, -3), (0, 1))
    far = found(image, target)
    monkeypatch.setattr(misfit, "_margins", lambda parts, peak: [(0, 70), (70, 0)])
    assert verdicts(found(image, target)) == verdicts(far) == [Verdict.SHAPE_TOO_SMALL]


@pytest.mark.slow
def test_a_shift_of_a_smooth_image_is_found():
    """By lag, or as a constant, which is the best that taps and a mean can do with it."""
    for seed in range(3):
        image, _, made, grain = scene(seed)
        told = verdicts(found(image, np.roll(made, (14, -3), (0, 1)) + grain))
        assert told and set(told) <= {Verdict.SHAPE_TOO_SMALL, Verdict.OFFSET}


@pytest.mark.slow
def test_integers_that_were_rounded_down():
    image, _, made, grain = scene(1)
    for target in (np.floor(made), np.floor(made + 3 * grain)):
        (finding,) = found(image, target.astype("i2"))
        assert finding.verdict is Verdict.OFFSET and "rounded down" in finding.detail


def test_what_is_excluded_plays_no_part():
    image, _, made, grain = scene(2)
    mask = np.random.default_rng(0).random(made.shape) < 0.1
    mask[60:140, 30:90] = True
    fits = []
    for garbage in (0.0, 1e9):
        target = np.where(mask, garbage, made + grain)
        fit = find_kernel(image, target, SHAPE, mask=mask)
        pair = as_observation(image, target, Model(SHAPE))
        item = PlaneSelection(masks=(mask,)).judge(pair).item
        fits.append(looked_at(item.observation, fit, [item.weights]))
    assert fits == [[], []]


@pytest.mark.slow
def test_saturation_by_chance_is_no_curve():
    """Of pixels near the end of the range those count whose noise is negative."""
    image, _, made, grain = scene(4)
    noisy = made + 20 * grain
    end = float(np.quantile(noisy, 0.9))
    fit = find_kernel(image, noisy, SHAPE, saturated=(None, end))
    pair = as_observation(image, noisy, Model(SHAPE))
    weights = [(noisy < end)[pair.geometry.used]]
    assert looked_at(pair, fit, weights) == []


def test_strides_and_solvers():
    image, kernel, _, _ = scene(5)
    lay = {"stride": (2, 3)}
    rng = np.random.default_rng(0)
    made = apply_kernel(image, kernel, boundary="symm", **lay)
    assert found(image, made + 0.2 * rng.normal(size=made.shape), lay=lay) == []
    wide = apply_kernel(scipy.ndimage.uniform_filter(image, 9), kernel, boundary="symm", **lay)
    assert Verdict.SHAPE_TOO_SMALL in verdicts(found(image, wide + 0.02 * rng.normal(size=made.shape), lay=lay))
    whole = apply_kernel(image, kernel, boundary="symm")
    assert found(image, whole + 2 * rng.normal(size=whole.shape), solver=Penalized(strength=1e-2)) == []


def coded(values, quality):
    """Return what JPEG makes of values, by its own blocks and table, on a grid that need not begin at a block."""
    table = np.add.outer(np.arange(8), np.arange(8)) * 9.0 + 14
    step = np.maximum(1, np.rint(table * (2 - 0.02 * quality)))
    padded = np.pad(values, [(0, -n % 8) for n in values.shape], mode="edge") - 128
    blocks = padded.reshape(padded.shape[0] // 8, 8, -1, 8)
    spectra = scipy.fft.dctn(blocks, axes=(1, 3), norm="ortho")
    kept = step[:, None, :] * np.rint(spectra / step[:, None, :])
    made = scipy.fft.idctn(kept, axes=(1, 3), norm="ortho").reshape(padded.shape) + 128
    return np.rint(made[: values.shape[0], : values.shape[1]]).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("quality", [70, pytest.param(90, marks=pytest.mark.slow)])
def test_blocks_of_jpeg_are_no_kernels_of_even_and_odd_rows(quality):
    image, _, made, _ = scene()
    kernel = np.outer(np.hanning(8)[1:-1], np.hanning(11)[1:-1])
    made = apply_kernel(image, kernel / kernel.sum(), boundary="symm")
    target = coded(made, quality)[3:, 5:]
    fit = find_kernel(image[3:, 5:], target, SHAPE)
    assert Verdict.VARYING not in verdicts(fit.findings)
    alternating = made + 0.03 * (made - made.mean()) * (-1.0) ** np.arange(len(made))[:, None]
    assert Verdict.VARYING in verdicts(find_kernel(image, alternating, SHAPE).findings)


def test_small_and_flat_pairs():
    rng = np.random.default_rng(0)
    for size in [(4, 5), (6, 9), (12, 9), (23, 31), (1, 300), (300, 1), (2, 200)]:
        image = rng.normal(size=size)
        shape = (min(2, size[0]), min(3, size[1]))
        target = apply_kernel(image, rng.normal(size=shape)) + 0.1 * rng.normal(size=size)
        if size[0] * size[1] > 20:
            assert found(image, target, shape) == []
    assert found(np.full((60, 70), 3.0), rng.normal(size=(60, 70)), (3, 4)) == []


def test_a_misfit_takes_the_place_of_coloured_noise():
    image, _, made, grain = scene(0)
    target = np.roll(made, (14, -3), (0, 1)) + grain
    fit = find_kernel(image, target, SHAPE)
    told = Finding(Verdict.SHAPE_TOO_SMALL, "why")
    pair = as_observation(image, target, Model(SHAPE))
    looked = whiteness.look([pair], fit, misfits=[told])
    assert told in looked.findings


def test_other_residuals_of_targets_that_are_looked_at_together():
    """What is left once something is taken off is looked at by itself, not as the residual that it was."""
    image, kernel, made, grain = scene(6)
    targets = [made + grain, made + 3 * np.roll(image, 20, axis=1) + grain]
    pair = as_observation(image, targets[0], Model(SHAPE))
    readers = tuple(dataclasses.replace(pair.targets[0], array=target) for target in targets)
    pair = dataclasses.replace(pair, targets=readers)
    memo = samples.Memo()
    memo.observations, memo.fits = [pair], [find_kernel(image, target, SHAPE) for target in targets]
    for memo.at in (0, 1):
        parts = tiles.read([of_target(pair, memo.at)], memo.fits[memo.at], None, memo)
        assert [part.at for _, part in parts] == [memo.at]
        assert lags.suspects(parts) == [0] * memo.at
    noise = np.random.default_rng(0).normal(size=parts[0][1].left.shape)
    assert lags.suspects(tiles.with_residuals(parts, [noise], [parts[0][1].known])) == []


@pytest.mark.parametrize(("dtype", "level"), [("u1", 20), ("f4", 3e-7), ("f8", 1e9)])
def test_of_tiles_where_the_image_is_the_same_everywhere_a_mean_is_taken_off(dtype, level):
    """Those of a few spots on a sky, all of which may lie between the tiles; no kernel explains more."""
    image, rng = np.full((140, 85), level, dtype), np.random.default_rng(3)
    target = 2.0 * image + rng.normal(size=image.shape)
    fit = find_kernel(image, target, (3, 7), boundary="wrap")
    parts = tiles.read([as_observation(image, target, Model((3, 7), boundary="wrap"))], fit, None)
    left = [10.0 + 1e3 * rng.normal(size=p.left.shape) for _, p in parts]
    for one, was, (_, part) in zip(TileDesign.of(parts).without(left), left, parts, strict=True):
        assert_close(one[part.known], (was - was[part.known].mean())[part.known], 1e-9)
