"""Difference images: variance and mask against loops, noise made white, outliers, and which of two is convolved."""

import numpy as np
import pytest
import scipy.ndimage

import kernelfit
import naive
from helpers import assert_close
from kernelfit.core.field import Field
from kernelfit.engines.forward import propagated
from kernelfit.restoration import decorrelation

SHAPE = (110, 140)


def convention(shape, boundary=None, field=None):
    made = kernelfit.Model(shape, boundary=boundary).convention("same")
    return made if field is None else type(made)(**{**vars(made), "field": field})


def scene(seed=0, *, widths=(1.0, (1.7, 1.4)), shape=SHAPE, sigma=(1.0, 2.0), factor=1.3):
    """Science image and reference: stars seen through two blurs, a slope, and white noise."""
    rng = np.random.default_rng(seed)
    sky = np.where(rng.random(shape) > 0.985, 400 * rng.random(shape) ** -0.7, 0.0)
    blurred = [scipy.ndimage.gaussian_filter(sky, width) for width in widths]
    science = factor * blurred[1] + 20 + np.linspace(-3, 3, shape[0])[:, None]
    noise = [s * rng.standard_normal(shape) for s in sigma]
    return science + noise[0], blurred[0] + noise[1]


@pytest.mark.parametrize("boundary", [None, "fill", "wrap", "symm", "mirror", "nearest"])
def test_variance_through_a_kernel_as_loops_have_it(boundary):
    rng = np.random.default_rng(1)
    variance, kernel = rng.random((9, 12)) + 0.1, rng.normal(size=(3, 4))
    want = naive.variance_through(variance, lambda *_: kernel, (3, 4), naive.default_origin((3, 4)), boundary)
    assert_close(np.nan_to_num(propagated(variance, kernel, convention((3, 4), boundary))), np.nan_to_num(want), 1e-12)


@pytest.mark.parametrize(
    "variation",
    [kernelfit.Polynomial(1), kernelfit.Polynomial(2), pytest.param(kernelfit.Spline(0), marks=pytest.mark.slow)],
    ids=str,
)
def test_variance_through_a_kernel_that_varies(variation):
    rng = np.random.default_rng(2)
    field = Field(variation, (8, 11))
    variance, kernel = rng.random((8, 11)) + 0.1, rng.normal(size=(field.n, 2, 3))
    variance[3, 4] = np.nan  # not known, and so is what it touches
    made = propagated(variance, kernel, convention((2, 3), "symm", field))
    want = naive.variance_through(
        variance, lambda *at: np.tensordot(field.at(*at), kernel, 1), (2, 3), naive.default_origin((2, 3)), "symm"
    )
    assert np.array_equal(np.isnan(made), np.isnan(want)) and np.isnan(want).sum() == 6
    assert_close(np.nan_to_num(made), np.nan_to_num(want), 1e-12)


@pytest.mark.parametrize("which", ["reference", pytest.param("science", marks=pytest.mark.slow)])
def test_image_variance_and_mask_as_loops_have_them(which):
    rng = np.random.default_rng(3)
    science, reference = scene(3, shape=(40, 46))
    variances = [0.5 + rng.random(science.shape) for _ in range(2)]
    masks = [rng.random(science.shape) > 0.997 for _ in range(2)]
    science[20, 30] = np.nan
    before = science.copy(), reference.copy()
    exposures = [
        kernelfit.Exposure(image, noise=v, mask=m)
        for image, v, m in zip((science, reference), variances, masks, strict=True)
    ]
    difference = kernelfit.subtract(*exposures, (5, 3), which=which)
    assert np.array_equal(before[0], science, equal_nan=True) and np.array_equal(before[1], reference)
    masks[0] |= np.isnan(science)
    order = (0, 1) if which == "science" else (1, 0)
    (x, v_x, m_x), (y, v_y, m_y) = (((science, reference)[i], variances[i], masks[i]) for i in order)
    kernel, fit = difference.fit.kernel, difference.fit
    want = v_y + naive.variance_through(np.where(m_x, np.nan, v_x), lambda *_: kernel, (5, 3), (2, 1), None)
    want[m_y] = np.nan
    assert np.array_equal(difference.mask, np.isnan(want)) and np.array_equal(
        np.isnan(difference.variance), np.isnan(want)
    )
    good = ~np.isnan(want)
    made = (
        naive.apply(np.where(m_x, 0, x), kernel, mode="same", boundary="fill", fillvalue=0.0) + fit.background.image()
    )
    light = np.pad(np.where(good, np.abs(made - np.median(made[good])), 0), 1)  # the kernel is too small for the stars
    most = np.lib.stride_tricks.sliding_window_view(light, (3, 3)).max(axis=(2, 3))
    assert difference.misfit > 0
    bright = np.maximum(most - 5 * np.sqrt(np.nan_to_num(want)), 0)
    assert_close(difference.variance[good], (want + (difference.misfit * bright) ** 2)[good], 1e-9)
    sign = 1 if which == "reference" else -1
    assert_close(difference.image[good], sign * (y - made)[good], 1e-9)
    assert difference.which == which


def test_what_stands_under_a_mask_changes_no_bit():
    science, reference = scene(4, shape=(60, 70))
    masks = [np.random.default_rng(seed).random(science.shape) > 0.995 for seed in (5, 6)]
    made = []
    for value in (0.0, 1e9):
        both = [np.where(m, value, a) for a, m in zip((science, reference), masks, strict=True)]
        made.append(
            kernelfit.subtract(*[kernelfit.Exposure(a, mask=m) for a, m in zip(both, masks, strict=True)], (5, 7))
        )
    one, other = made
    assert np.array_equal(one.image, other.image, equal_nan=True)
    assert np.array_equal(one.variance, other.variance, equal_nan=True)


@pytest.mark.slow
def test_sharper_one_is_convolved_and_what_is_new_is_positive():
    science, reference = scene(7)
    science = science + 60 * scipy.ndimage.gaussian_filter(
        np.eye(1, SHAPE[0] * SHAPE[1], 50 * 140 + 90).reshape(SHAPE), 1.5
    )
    for pair, which, sign in (((science, reference), "reference", 1), ((reference, science), "science", -1)):
        difference = kernelfit.subtract(*pair, 9)
        assert difference.which == which
        peak = np.unravel_index(np.nanargmax(sign * difference.significance), SHAPE)
        assert np.abs(np.subtract(peak, (50, 90))).max() <= 1
    assert "convolved   the science" in difference.summary() and str(difference) == difference.summary()


@pytest.mark.parametrize("known", [pytest.param(True, marks=pytest.mark.slow), False])
def test_variance_is_that_of_the_difference_and_noise_is_made_white(known):
    science, reference = scene(8)
    pair = (
        [kernelfit.Exposure(a, noise=s) for a, s in ((science, 1.0), (reference, 2.0))]
        if known
        else (science, reference)
    )
    plain, white = (kernelfit.subtract(*pair, (9, 11), decorrelate=yes) for yes in (False, True))
    assert plain.decorrelation is None and white.decorrelation.sum() == pytest.approx(1)
    assert np.allclose(plain.noise_std, (1.0, 2.0), rtol=0.06)
    for difference, correlated in ((plain, True), (white, False)):
        z = np.where(difference.mask | difference.rejected, 0, difference.significance)
        n = np.count_nonzero(z)
        assert (z**2).sum() / n == pytest.approx(1, abs=0.04)  # 5 standard deviations of 10^4 pixels
        near = max(
            float((z[a:, b:] * z[: SHAPE[0] - a, : SHAPE[1] - b]).sum()) / n for a, b in ((1, 0), (0, 1), (1, 1))
        )
        assert (near > 0.08) if correlated else (abs(near) < 0.04)


def test_noise_is_white_after_a_decorrelation_kernel():
    rng = np.random.default_rng(9)
    kernels = np.abs(rng.normal(size=(2, 5, 3))) + np.array([[[0, 1, 0]]]) * 3
    kernels *= 1.2 / kernels.sum(axis=(1, 2), keepdims=True)
    for ratio in (0.1, 2.0):
        for kernel, phi in zip(kernels, decorrelation.decorrelation_kernels(kernels, ratio), strict=True):
            assert_close(phi, phi[::-1, ::-1], 1e-12)
            size = (64, 48)
            k, f = (np.abs(np.fft.fft2(one, size)) ** 2 for one in (kernel, phi))
            power = f * (1 + ratio * k)
            assert power.max() / power.min() < 1.02 and power[0, 0] == pytest.approx(1 + ratio * kernel.sum() ** 2)


def test_levels_of_both_exposures_from_the_covariance():
    kernel = np.array([[0.1, 0.5, 0.2], [0.0, 0.3, 0.1]])
    own = decorrelation.autocorrelations(kernel[None])[0]
    covariance = 4.0 * own
    covariance[1, 2] += 2.25
    for known in ((None, None), (2.25, None), (None, 4.0), (2.25, 4.0)):
        assert_close(decorrelation.noise_levels(covariance, own, known), [2.25, 4.0], 1e-9)
    assert decorrelation.noise_levels(-own, own, (None, None)).tolist() == [0, 0]
    values = np.random.default_rng(10).normal(size=(13, 17))
    made = decorrelation.autocovariance(values, values < 1, (2, 3))
    used = np.where(values < 1, values, 0)
    want = sum(used[i, j] * used[i + 1, j - 2] for i in range(12) for j in range(2, 17))
    count = sum((values[i, j] < 1) * (values[i + 1, j - 2] < 1) for i in range(12) for j in range(2, 17))
    assert made[2 + 1, 3 - 2] == pytest.approx(want / count)


@pytest.mark.slow
def test_cosmic_rays_and_stars_that_vary_do_not_move_the_kernel():
    science, reference = scene(11)
    truth = kernelfit.subtract(science, reference, 9).fit
    spoilt, rng = [science.copy(), reference.copy()], np.random.default_rng(12)
    rays = [tuple(rng.integers(10, n - 10, 8) for n in SHAPE) for _ in spoilt]
    for image, at in zip(spoilt, rays, strict=True):
        image[at] += rng.uniform(200, 2000, 8)
    star = np.unravel_index(np.argmax(scipy.ndimage.gaussian_filter(science, 1)), SHAPE)
    rows, cols = np.ogrid[: SHAPE[0], : SHAPE[1]]
    spoilt[0] += 900 * np.exp(-((rows - star[0]) ** 2 + (cols - star[1]) ** 2) / 5)
    difference = kernelfit.subtract(*spoilt, 9)
    assert difference.rejected[rays[0]].all() and difference.rejected[star]
    clean = scene(11, sigma=(0.0, 0.0))[1]
    want, made, kept = (
        kernelfit.apply_kernel(clean, fit.kernel)
        for fit in (truth, difference.fit, kernelfit.subtract(*spoilt, 9, clip=None).fit)
    )
    assert np.linalg.norm(made - want) < 0.01 * np.linalg.norm(want) < 0.1 * np.linalg.norm(kept - want)


def test_saturated_pixels_of_either_exposure_are_masked():
    science, reference = scene(13, shape=(60, 70))
    full = [float(np.quantile(a, 0.999)) for a in (science, reference)]
    both = [
        kernelfit.Exposure(np.minimum(a, top), saturated=(None, top))
        for a, top in zip((science, reference), full, strict=True)
    ]
    assert all(one.mask.any() for one in both)
    difference = kernelfit.subtract(*both, (7, 5))
    touched = scipy.ndimage.binary_dilation(both[1].mask, np.ones((7, 5)))
    edge = np.ones(difference.mask.shape, dtype=bool)
    edge[3:-3, 2:-2] = False
    assert np.array_equal(difference.mask, touched | both[0].mask | edge)
    whole = kernelfit.Exposure(np.array([[0, 7, 255], [3, 4, 5]], dtype=np.uint8))
    assert whole.mask.tolist() == [[True, False, True], [False, False, False]]


@pytest.mark.slow
def test_kernel_varies_over_the_field():
    science, reference = scene(14)
    varied = science * np.linspace(0.8, 1.2, SHAPE[1])
    difference = kernelfit.subtract(varied, reference, 9, variation=1, decorrelate=True)
    assert difference.decorrelation.shape[0] == 3
    sums = [difference.fit.at(55, col).kernel.sum() for col in (5, 134)]
    assert sums[1] / sums[0] == pytest.approx(1.2 / 0.8, rel=0.1)
    z = difference.significance[~difference.mask & ~difference.rejected]
    assert np.mean(z**2) == pytest.approx(1, abs=0.06)


@pytest.mark.slow
def test_shape_of_the_kernel_is_found():
    science, reference = scene(15)
    rows, cols = kernelfit.subtract(science, reference).fit.kernel.shape
    assert 7 <= cols <= 13 and 7 <= rows <= 17  # of 1.4 and 1.1 pixels of standard deviation
    moved = kernelfit.subtract(np.roll(science, 4, axis=0), reference).fit.kernel.shape
    assert moved[0] >= rows + 6


def test_exposures_of_other_packages_bring_mask_and_noise():
    image = np.arange(20.0).reshape(4, 5)
    mask = image > 17
    nddata = pytest.importorskip("astropy.nddata")
    for kind, value in (("StdDevUncertainty", 2.0), ("VarianceUncertainty", 4.0), ("InverseVariance", 0.25)):
        uncertainty = getattr(nddata, kind)(np.full(image.shape, value))
        made = kernelfit.Exposure(nddata.NDData(image, mask=mask, uncertainty=uncertainty))
        assert np.array_equal(made.mask, mask) and np.all(made.noise[~mask] == 4.0) and made.uneven
    assert np.array_equal(kernelfit.Exposure(np.ma.array(image, mask=mask)).mask, mask)
    photons = kernelfit.Exposure(image, noise=(2.0, 3.0)).variance(image - 4, np.nan)
    assert_close(photons, np.maximum(image - 4, 0) / 2 + 2.25, 1e-15)


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"noise": np.ones((3, 5))}, ValueError, "need .4, 5., the variance of each pixel"),
        ({"noise": np.zeros((4, 5))}, ValueError, "20 pixels whose variance is not above 0"),
        ({"noise": 0.0}, ValueError, "need a standard deviation above 0"),
        ({"noise": "photons"}, ValueError, "need one of 'constant', 'poisson'"),
        ({"noise": (0, 1)}, ValueError, "need a gain above 0"),
        ({"noise": [1, 2, 3]}, TypeError, "need the variance of each pixel"),
        ({"mask": np.ones((4, 4), bool)}, ValueError, "got mask of shape"),
        ({"saturated": (3, 3)}, ValueError, "need low < high"),
    ],
)
def test_exposures_that_are_none(fields, error, match):
    with pytest.raises(error, match=match):
        kernelfit.Exposure(np.ones((4, 5)), **fields)


@pytest.mark.parametrize(
    ("pair", "words", "error", "match"),
    [
        ((np.ones((40, 50)), np.ones((50, 40))), {}, ValueError, "bring them to the same pixels first"),
        ((np.ones((4, 5, 6)), np.ones((4, 5, 6))), {}, ValueError, "got science with 3 dimensions"),
        ((np.ones((40, 50)), np.ones((40, 50)) * 1j), {}, TypeError, "got reference of dtype complex128"),
        ((np.ones((40, 50)),) * 2, {"which": "sharper"}, ValueError, "got which='sharper'"),
        ((np.ones((40, 50)),) * 2, {"which": None}, ValueError, "got which=None"),
        ((np.ones((40, 50)),) * 2, {"clip": 0}, ValueError, "got clip=0"),
        ((np.ones((40, 50)),) * 2, {"variation": "auto"}, ValueError, "got variation='auto'"),
        ((np.ones((40, 50)),) * 2, {"decorrelate": 1}, TypeError, "got decorrelate=1"),
        ((np.ones((40, 50)),) * 2, {"execution": 2}, TypeError, "got execution=2"),
        ((np.full((40, 50), np.nan),) * 2, {}, ValueError, "need some that"),
        ((np.arange(2000.0).reshape(40, 50) ** 1.5 % 97,) * 2, {}, ValueError, "tells no noise.*Exposure"),
        ((np.arange(2000.0).reshape(40, 50), np.ones((40, 50))), {}, ValueError, "reference of one value, 1"),
        (
            (np.full((40, 50), 7), np.arange(2000.0).reshape(40, 50)),
            {},
            ValueError,
            "science image of one value",
        ),
    ],
)
def test_calls_that_are_refused(pair, words, error, match):
    with pytest.raises(error, match=match):
        kernelfit.subtract(*pair, 3, **words)


@pytest.mark.parametrize(("boundary", "told"), [("fill", True), ("symm", False), (None, False)])
def test_a_wrong_boundary_is_told(boundary, told):
    rng = np.random.default_rng(0)
    sky = 20 + 2000.0 * (rng.random((150, 170)) > 0.985)
    reference = scipy.ndimage.gaussian_filter(sky, 1.0, mode="reflect")
    science = scipy.ndimage.gaussian_filter(reference, (1.3, 1.1), mode="reflect")
    both = [one + rng.normal(0, s, sky.shape) for one, s in ((science, 5.0), (reference, 5.0))]
    both[0][rng.integers(0, 150, 20), rng.integers(0, 170, 20)] += 100  # outliers anywhere
    difference = kernelfit.subtract(*both, 9, boundary=boundary)
    found = [finding for finding in difference.findings if finding.verdict is kernelfit.Verdict.WRONG_BOUNDARY]
    assert bool(found) == told


def test_the_fit_of_a_difference_tells_its_own_call_and_of_no_weights():
    science, reference = (np.asarray(one) for one in scene()[:2])
    fit = kernelfit.subtract(science, reference, (7, 9), which="science", background=0, clip=5.0).fit
    names = {"subtract": kernelfit.subtract, "science": science, "reference": reference}
    again = eval(fit.reproduce(), names)
    assert fit.reproduce().startswith("subtract(science, reference, shape=(7, 9), which='science', background=0")
    assert_close(again.kernel, fit.kernel, 0)


def test_light_that_the_kernel_cannot_make_is_in_the_variance():
    """The kernel is wider on one side, and the fit not told: most stars are off by a share, which is no new light."""
    rng = np.random.default_rng(7)
    shape = (120, 137)
    sky = np.zeros(shape)
    sky[tuple(rng.integers(0, n, 150) for n in shape)] = rng.uniform(2000, 20000, 150)
    reference = scipy.ndimage.gaussian_filter(sky, 1.2)
    narrow, wide = (scipy.ndimage.gaussian_filter(reference, width) for width in (1.2, 1.5))
    share = np.linspace(0, 1, shape[1])
    science = (1 - share) * narrow + share * wide
    noisy = [kernelfit.Exposure(one + 2 * rng.standard_normal(shape), noise=2.0) for one in (science, reference)]
    found = kernelfit.subtract(*noisy, (9, 11), which="reference")
    assert 0.01 < found.misfit < 0.2 and "misfit" in found.summary()
    light = scipy.ndimage.maximum_filter(science, 3)
    bright = ~found.mask & (light > 30)
    assert 0.8 < np.std(found.significance[bright]) < 1.3
    assert np.median(np.abs(found.significance[bright])) < 0.8
    assert found.variance[bright].max() > 5 * found.variance[~found.mask & (light < 1)].max()
    told = kernelfit.subtract(*noisy, (9, 11), which="reference", variation=1)
    assert told.misfit < 0.3 * found.misfit
