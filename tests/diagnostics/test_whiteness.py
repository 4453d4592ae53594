"""The look at the residual that every fit ends with, whatever weighs its pixels or lies beside its kernel."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
from helpers import grid
from kernelfit import Verdict, find_kernel
from kernelfit.diagnostics import samples, whiteness

SHAPE = (5, 4)


def scene(seed, coloured, size=(150, 171)):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=size).cumsum(axis=0)
    target = kernelfit.apply_kernel(image, rng.normal(size=SHAPE), mode="same", boundary="symm")
    grain = rng.normal(size=size)
    if coloured:
        grain = 3 * scipy.ndimage.uniform_filter(grain, 3)
    return rng, image, target, 0.05 * target.std() * grain


def masked(rng, image, target, grain):
    mask = rng.random(target.shape) < 0.2
    return (image, np.where(mask, np.nan, target + grain)), {"mask": mask}


def weighed(rng, image, target, grain):
    weights = rng.gamma(3.0, 0.3, target.shape)
    return (image, target + grain / np.sqrt(weights)), {"weights": weights}


def saturated(rng, image, target, grain):
    noisy = target + grain
    return (image, noisy), {"saturated": (None, float(np.quantile(noisy, 0.97)))}


def on_a_slope(rng, image, target, grain):
    y, x = np.mgrid[-1 : 1 : target.shape[0] * 1j, -1 : 1 : target.shape[1] * 1j]
    return (image, target + grain + target.std() * (3 + y - 2 * x + x * y)), {"background": 2}


def with_outliers(robust):
    def made(rng, image, target, grain):
        noisy = target + grain
        noisy[20:40, 50:60] += 5 * target.std()
        noisy[rng.random(target.shape) < 0.01] = 1e4
        return (image, noisy), {"robust": robust}

    return made


def two_pairs(rng, image, target, grain):
    noisy = target + grain
    parts = [slice(0, 70), slice(70, None)]
    mask = np.zeros((70, target.shape[1]), dtype=bool)
    mask[10:20] = True
    return ([image[p] for p in parts], [noisy[p] for p in parts]), {"mask": [mask, None]}


WAYS = {
    "mask": masked,
    "weights": weighed,
    "saturated": saturated,
    "background": on_a_slope,
    "huber": with_outliers("huber"),
    "tukey": with_outliers("tukey"),
    "clip": with_outliers("clip"),
    "pairs": two_pairs,
}


@grid("way", WAYS, 2)
def test_correlated_noise_is_seen_and_white_noise_left_alone(way):
    for seed in range(3):
        for coloured in (False, True):
            pair, keywords = WAYS[way](*scene(seed, coloured))
            fit = find_kernel(*pair, SHAPE, boundary=None, **keywords)
            assert (Verdict.COLOURED_NOISE in [f.verdict for f in fit.findings]) is coloured
            assert coloured or fit.verdict is Verdict.SOLVED


@pytest.mark.parametrize("channels", ["mixed", "shared", "separate"])
def test_channels(channels):
    for coloured in (False, True):
        planes = [scene(seed, coloured) for seed in (1, 2)]
        image = np.stack([image for _, image, _, _ in planes])
        kernel = np.random.default_rng(3).normal(size=SHAPE)
        target = np.stack([kernelfit.apply_kernel(one, kernel, mode="same", boundary="symm") for one in image])
        if channels == "mixed":
            target = target + 0.5 * target[::-1]
        target += np.stack([grain for *_, grain in planes])
        for background in (None, 0):
            fit = find_kernel(image, target, SHAPE, channels=channels, channel_axis=0, background=background)
            found = [Verdict.COLOURED_NOISE in [f.verdict for f in one.findings] for one in fit.parts or (fit,)]
            assert set(found) == {coloured}


def test_what_is_excluded_is_not_looked_at():
    """The residual of pixels that count is the same, to rounding, whatever stands at the others."""
    rng, image, target, grain = scene(5, False)
    mask, bad = np.zeros((2, *target.shape), dtype=bool)
    mask[30:60, 40:90] = True
    bad[100:103, 20:150] = True
    fits, checks = [], []
    for garbage in (0.0, 1e12):
        one, other = np.where(bad, garbage, image), np.where(mask, garbage, target + grain)
        fits.append(find_kernel(one, other, SHAPE, mask=mask, image_mask=bad))
        assert fits[-1].verdict is Verdict.SOLVED
        checks.append(kernelfit.check_noise(one, other, fits[-1]))  # to which only the fit's weights are known
    assert np.array_equal(fits[0].kernel, fits[1].kernel)
    assert np.array_equal(checks[0].autocovariance, checks[1].autocovariance)


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_pixels_that_matter_are_those_in_a_footprint(stride):
    known = np.random.default_rng(0).random((2, 7, 6)) < 0.15
    halo = tuple(s * (n - 1) + k for s, n, k in zip(stride, known.shape[1:], SHAPE, strict=True))
    expected = np.zeros((2, *halo), dtype=bool)
    for tile, y, x in np.argwhere(known):
        expected[tile, stride[0] * y : stride[0] * y + SHAPE[0], stride[1] * x : stride[1] * x + SHAPE[1]] = True
    assert not expected.all()
    assert np.array_equal(samples._needed(known, halo, stride), expected)


@pytest.mark.parametrize(
    "share, verdict", [(0.9, Verdict.SOLVED), (0.05, Verdict.SOLVED), (0.0, Verdict.NOISE_DOMINATES)]
)
def test_a_small_r_squared_is_no_doubt_where_what_is_left_is_plain_noise(share, verdict):
    rng = np.random.default_rng(4)
    image = rng.normal(size=(130, 147))
    made = scipy.signal.convolve2d(image, rng.normal(size=(3, 5)), "same")
    target = np.sqrt(share) * made / made.std() + np.sqrt(1 - share) * rng.normal(size=image.shape)
    fit = find_kernel(image, target, (3, 5))
    assert fit.verdict is verdict and any("plain noise" in note for note in fit.notes) is (share == 0.05)
    assert Verdict.POOR_FIT in [f.verdict for f in find_kernel(image, np.abs(target) + 0.2 * target, (3, 5)).findings]
    moved = np.roll(made / made.std(), (4, 6), (0, 1)) + rng.normal(size=image.shape)
    assert not find_kernel(image, moved, (3, 5)).verdict.ok


# ---- noise that depends on the signal -------------------------------------------------------------------------------


def field(seed):
    """Stars on a sky, in photons."""
    rng = np.random.default_rng(seed)
    stars = np.zeros((230, 260))
    stars[rng.integers(0, 230, 250), rng.integers(0, 260, 250)] = rng.pareto(1.5, 250) * 3000
    image = scipy.ndimage.gaussian_filter(stars, 0.9) + 100
    expected = scipy.ndimage.gaussian_filter(image, (1.2, 1.0), truncate=5)
    return image, expected, rng.poisson(expected).astype(np.float64)


@pytest.mark.slow
def test_photon_noise_is_seen_if_it_is_not_declared():
    for seed in range(4):
        image, expected, target = field(seed)
        plain = find_kernel(image, target, (9, 11))
        assert [f.verdict for f in plain.findings] == [Verdict.UNEVEN_NOISE]
        assert kernelfit.check_noise(image, target, plain).depends
        told = find_kernel(image, target, (9, 11), weights=1 / expected)
        assert Verdict.UNEVEN_NOISE not in [f.verdict for f in told.findings]
        even = expected + np.random.default_rng(seed).normal(0.0, 10.0, expected.shape)
        assert find_kernel(image, even, (9, 11)).verdict is Verdict.SOLVED


def test_a_declared_level_is_held_against_the_residual():
    rng = np.random.default_rng(0)
    image = 100 + 1000 * rng.random((140, 150))
    expected = scipy.ndimage.uniform_filter(image, (3, 5))
    for gain, right in ((2.0, True), (0.5, False)):
        target = rng.poisson(2.0 * expected) / 2.0
        fit = find_kernel(image, target, (3, 5), noise=(gain, 0.0))
        assert fit.noise_std == pytest.approx(1.0 if right else 0.5, rel=0.03)
        assert [f.verdict for f in fit.findings] == ([] if right else [Verdict.UNEVEN_NOISE])
        assert right or "times what was declared" in fit.findings[0].detail


def test_unevenness_is_the_ratio_of_the_two_errors():
    rng = np.random.default_rng(0)
    model = rng.gamma(0.3, 1.0, 40_000)
    away = (model - model.mean()) ** 2
    assert whiteness._unevenness(rng.normal(size=model.size), model) == 1.0
    std = np.sqrt(0.1 + model)
    truth = np.sqrt((std**2 * away).mean() / (std**2).mean() / away.mean())
    assert whiteness._unevenness(std * rng.normal(size=model.size), model) == pytest.approx(truth, rel=0.1)
    assert truth > 1.5
    assert whiteness._unevenness(np.zeros(10), np.ones(10)) == 1.0
    for far, told in ((3, False), (4, True)):  # pixels that say how loud it is there
        model = np.repeat([0.0, 100.0], [2000, far])
        left = np.where(model > 0, 30.0, rng.normal(size=model.size))
        assert (whiteness._unevenness(left, model) > 1) is told
    assert whiteness._unevenness(left[-60:], model[-60:]) == 1.0


def specks(seed, size=(60, 75)):
    """A few spots far apart on a dark sky, of which one or two are the brightest by far."""
    rng, image = np.random.default_rng(seed), np.full(size, 5.0)
    image[rng.integers(1, size[0] - 1, 14), rng.integers(1, size[1] - 1, 14)] += 10 ** rng.uniform(1.5, 2.8, 14)
    return image


@pytest.mark.parametrize("errors", ["plain", "sandwich"])
def test_noise_of_a_few_spots_is_seen(errors):
    """The kernel follows the brightest pixels, so that those below them tell; sandwich errors are no remedy."""
    box = np.random.default_rng(0).random((3, 4))
    for seed in range(6):
        rng, image = np.random.default_rng(seed), specks(seed)
        clean = kernelfit.apply_kernel(image, box, boundary="symm")
        loud = clean + rng.normal(size=clean.shape) * (0.2 + 0.05 * (clean - clean.min()))
        even = clean + rng.laplace(size=clean.shape)
        assert find_kernel(image, even, (3, 4), errors=errors).verdict is Verdict.SOLVED
        verdict = find_kernel(image, loud, (3, 4), errors=errors).verdict
        assert verdict is (Verdict.UNEVEN_NOISE if seed in (1, 5) else Verdict.SHAPE_TOO_SMALL)


@pytest.mark.parametrize("case", ["plain", "weights", "mask", "background", "cg"])
def test_noise_of_spots_is_seen_wherever_they_are(case):
    """Of a small pair some tiles are looked at, between which all of the spots may be."""
    image, (rows, cols) = np.zeros((121, 134)), (np.array([3, 60, 62, 117, 118]), np.array([66, 5, 129, 64, 70]))
    image[rows, cols] = [148.0, 121.0, 117.0, 101.0, 64.0]
    kernel = np.array([[0.2, 0.4, -0.3, 0.1], [0.1, 0.2, 0.3, -0.1]])
    clean = kernelfit.apply_kernel(image, kernel, boundary="symm")
    words = {
        "weights": {"weights": np.where(np.arange(134) < 50, 2.0, 1.0) * np.ones((121, 1))},
        "mask": {"mask": np.arange(121)[:, None] * np.ones(134) > 115},
        "background": {"background": 1},
        "cg": {"solver": kernelfit.ConjugateGradient()},
    }.get(case, {})
    for seed, level in enumerate([1.0 + 0.2 * np.abs(clean), 1.0] * 3):
        noise = np.random.default_rng(seed).normal(size=clean.shape) / np.sqrt(words.get("weights", 1.0))
        target = clean + level * noise
        fit = find_kernel(image, target, kernel.shape, boundary="symm", **words)
        assert (Verdict.UNEVEN_NOISE in {f.verdict for f in fit.findings}) is (np.ndim(level) > 0), seed
        assert Verdict.NO_REDUNDANCY not in {f.verdict for f in fit.findings}


@pytest.mark.parametrize("shape", [(3, 5), (1, 4)])
def test_a_kernel_of_a_single_spot_has_nothing_that_could_speak_against_it(shape):
    """As many pixels as taps, and each is followed, whatever it is; what lies around tells nothing."""
    kernel = np.random.default_rng(1).normal(size=shape)
    for brightness, told in (([900.0], True), ([900.0, 40.0], True), ([900.0, 800.0], False)):
        image = np.full((70, 91), 3.0)
        image[[20, 52][: len(brightness)], [31, 66][: len(brightness)]] += brightness
        clean = kernelfit.apply_kernel(image, kernel, boundary="wrap")
        target = clean + np.random.default_rng(2).normal(size=clean.shape)
        for words in ({}, {"background": 0}, {"errors": "sandwich"}):
            fit = find_kernel(image, target, shape, boundary="wrap", **words)
            assert (Verdict.NO_REDUNDANCY in {f.verdict for f in fit.findings}) is told
        assert find_kernel(image, clean, shape, boundary="wrap").verdict is Verdict.SOLVED  # without noise


def test_noise_that_grows_with_a_small_picture_is_seen():
    rng = np.random.default_rng(3)
    image = rng.gamma(0.5, 20.0, (16, 25))
    clean = kernelfit.apply_kernel(image, np.full((1, 2), 0.5), boundary="wrap")
    for level, told in ((0.2 * clean, True), (2.0, False)):
        fit = find_kernel(image, clean + level * rng.normal(size=clean.shape), (1, 2), boundary="wrap")
        assert (Verdict.UNEVEN_NOISE in [f.verdict for f in fit.findings]) is told


def test_ranks_of_residuals_that_are_correlated_tell_less():
    rng = np.random.default_rng(0)
    power, reach = rng.random(4000), np.sort(rng.random(4000)) ** 200
    power[-64:] += 0.4
    assert whiteness._louder(power, reach, 1.0) > 1 == whiteness._louder(power, reach, 20.0)
    assert whiteness._louder(np.ones(4000), reach, 1.0) == 1.0  # ties


# ---- rounding -------------------------------------------------------------------------------------------------------


def test_rounding_of_flat_parts_is_no_coloured_noise_and_its_errors_hold():
    """Halves that are rounded to even numbers leave the kernel, by chance; rounded up they turn it."""
    y, x = np.mgrid[:120, :130]
    image, box = np.uint8(np.round(100 + 60 * np.sin(x / 40) * np.cos(y / 50)) // 3 * 3), np.ones((2, 3)) / 6
    made = scipy.signal.correlate2d(image.astype(float), box, mode="valid")
    for target in (np.rint(made), np.floor(made + 0.5)):
        fit = find_kernel(image, np.uint8(target), (2, 3), mode="valid", operation="correlation")
        assert fit.noise_std < 1.1 * np.sqrt(1 / 12)
        assert Verdict.COLOURED_NOISE not in {f.verdict for f in fit.findings}
        assert np.abs((fit.kernel - box) / fit.stderr).max() < 3
        assert any("that of rounding to integers, which is not quite white" in note for note in fit.notes)
    loud = np.uint8(target + 20 * (scipy.ndimage.uniform_filter(np.random.default_rng(0).random(target.shape), 5)))
    found = find_kernel(image, loud, (2, 3), mode="valid", operation="correlation", background=0)
    assert Verdict.COLOURED_NOISE in [f.verdict for f in found.findings]


def test_no_residual_of_many_gray_levels_is_one_of_rounding():
    """Where most of a picture is black the noise may be less than that of rounding, and loud where it is not."""
    rng, image = np.random.default_rng(5), np.zeros((75, 92))
    image[rng.integers(4, 70, 9), rng.integers(4, 88, 9)] = rng.uniform(60, 200, 9)
    kernel = np.array([[0.5, 0.1, 0.0], [0.2, 0.0, 0.2]])
    clean = kernelfit.apply_kernel(image, kernel, boundary="symm")
    for level, told in ((0.08, True), (0.0, False)):
        target = np.rint(np.clip(clean * (1 + level * rng.normal(size=clean.shape)), 0, 255)).astype("u1")
        fit = find_kernel(np.rint(image).astype("u1"), target, kernel.shape, boundary="symm")
        assert np.sqrt(np.mean((target - fit.predict(image)) ** 2)) < np.sqrt(1 / 12)
        assert (fit.verdict is Verdict.UNEVEN_NOISE) is told


def test_exact_data_are_not_held_against_a_declared_level():
    image = 100 + 1000 * np.random.default_rng(0).random((60, 70))
    target = scipy.signal.correlate2d(image, np.full((3, 5), 1 / 15), mode="valid")
    fit = find_kernel(image, target, (3, 5), noise="poisson")
    assert fit.noise_std < 1e-9 and fit.verdict is Verdict.SOLVED


# ---- where it is looked at ------------------------------------------------------------------------------------------


def test_a_bright_object_in_the_middle_is_seen():
    y, x = np.mgrid[-130:130, -150:150]
    rng = np.random.default_rng(0)
    image = 20 + 20000 * np.exp(-(x**2 + y**2) / 200) * rng.random(x.shape)
    target = rng.poisson(kernelfit.apply_kernel(image, np.full(SHAPE, 0.05))).astype(np.float64)
    assert Verdict.UNEVEN_NOISE in [f.verdict for f in find_kernel(image, target, SHAPE).findings]


@pytest.mark.parametrize("corner", [(0, 120), (98, 118), (180, 10)])
def test_tiles_lie_where_pixels_count(corner):
    rng = np.random.default_rng(1)
    image = rng.random((260, 300))
    grain = scipy.ndimage.uniform_filter(rng.normal(size=image.shape), 3)
    target = kernelfit.apply_kernel(image, np.full(SHAPE, 0.05)) + 0.3 * grain
    mask = np.ones(image.shape, dtype=bool)
    mask[corner[0] : corner[0] + 70, corner[1] : corner[1] + 80] = False
    fit = find_kernel(image, target, SHAPE, mask=mask)
    assert Verdict.COLOURED_NOISE in [f.verdict for f in fit.findings]
    check = kernelfit.check_noise(image, target, fit)
    assert check.coloured and check.n_pixels > 1500
    nothing = whiteness.NoiseCheck(check.autocovariance, 0, 0, 1.0, 1.0)
    assert str(nothing).startswith("not looked at")


@pytest.mark.slow
def test_small_images_raise_no_alarm_by_chance():
    rng = np.random.default_rng(2)
    for _ in range(60):
        side = int(rng.integers(6, 12))
        image = 50 + 100 * rng.random((side, side + 1))
        expected = kernelfit.apply_kernel(image, np.full((2, 3), 1 / 6), boundary="wrap")
        target = rng.poisson(expected) + rng.normal(0.0, 3.0, expected.shape)
        fit = find_kernel(image, target, (2, 3), boundary="wrap", noise=(1.0, 3.0))
        assert not {f.verdict for f in fit.findings} & {Verdict.UNEVEN_NOISE, Verdict.COLOURED_NOISE}


@pytest.mark.slow
def test_what_a_fit_of_many_taps_leaves_is_not_called_correlated():
    rng = np.random.default_rng(3)
    image, kernel = rng.random((30, 31)), rng.random((29, 28))
    target = kernelfit.apply_kernel(image, kernel, boundary="wrap") + rng.normal(0.0, 0.5, image.shape)
    fit = find_kernel(image, target, kernel.shape, boundary="wrap")
    assert Verdict.COLOURED_NOISE not in [f.verdict for f in fit.findings]


# ---- check_noise on fits of all kinds -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("coloured", [False, True])
def test_a_background_and_several_pairs_are_looked_at_as_the_fit_was(coloured):
    rng, image, target, grain = scene(7, coloured)
    y, x = np.mgrid[-1 : 1 : target.shape[0] * 1j, -1 : 1 : target.shape[1] * 1j]
    noisy = target + grain + target.std() * (2 + y - 3 * x * y)
    fit = find_kernel(image, noisy, SHAPE, background=2)
    assert kernelfit.check_noise(image, noisy, fit).coloured is coloured
    parts = [slice(0, 70), slice(70, None)]
    mask = rng.random((70, target.shape[1])) < 0.3
    both = [image[p] for p in parts], [np.where(mask, np.nan, noisy[parts[0]]), noisy[parts[1]]]
    for words in ({"mask": [mask, None], "background": 2}, {"mask": [mask, None]}):
        fit = find_kernel(*both, SHAPE, **words)
        found = kernelfit.check_noise(*both, fit)
        told = Verdict.COLOURED_NOISE in [f.verdict for f in fit.findings]
        assert found.coloured is told is (coloured or "background" not in words)
        with pytest.raises(ValueError, match="got images and targets of 1 and 1 pairs, need 2 of either"):
            kernelfit.check_noise(image, noisy, fit)
    assert kernelfit.sandwich_errors(*both, fit).errors == "sandwich"
    with pytest.raises(ValueError, match="got images and targets of 2 and 1 pairs"):
        kernelfit.check_noise(both[0], both[1][:1], fit)
    flat = find_kernel(image, noisy, SHAPE, background=0)
    assert kernelfit.sandwich_errors(image, noisy, flat).errors == "sandwich"


def test_smooth_noise_of_complex_images_is_told():
    rng = np.random.default_rng(0)
    smooth = 0.5 * scipy.ndimage.gaussian_filter(rng.normal(size=(2, 40, 43)), (0, 1.0, 1.0))
    image, kernel = rng.normal(size=(40, 43)) + 1j * rng.normal(size=(40, 43)), rng.normal(size=(2, 3)) + 1j
    noise = smooth[0] + 1j * smooth[1]
    fit = kernelfit.find_kernel(image, kernelfit.apply_kernel(image, kernel) + noise, kernel.shape)
    assert fit.verdict is Verdict.COLOURED_NOISE and "sandwich" in str(fit.findings[0])
