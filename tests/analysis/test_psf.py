"""Point spread functions whose numbers are known on paper, and kernels compared."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d

import kernelfit
from kernelfit import Constrained, Sparse, compare_kernels, find_kernel, measure_psf

FWHM = 2 * math.sqrt(2 * math.log(2))  # of a Gaussian of standard deviation one


def gaussian(shape, center, along, across, degrees):
    """A Gaussian sampled at the taps, its long axis `degrees` from the columns towards the top."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    t = math.radians(degrees)
    u = (x - center[1]) * math.cos(t) - (y - center[0]) * math.sin(t)
    v = (x - center[1]) * math.sin(t) + (y - center[0]) * math.cos(t)
    kernel = np.exp(-(u**2) / (2 * along**2) - v**2 / (2 * across**2))
    return kernel / kernel.sum()


@pytest.mark.parametrize("along, across, degrees", [(2.5, 1.3, 30), (3.0, 1.2, -65), (1.6, 1.1, 90), (2.2, 1.0, 0)])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.3, -0.45)])
def test_gaussian(along, across, degrees, offset):
    found = measure_psf(0.7 * gaussian((31, 35), (15 + offset[0], 17 + offset[1]), along, across, degrees))
    assert found.sum.value == pytest.approx(0.7, rel=1e-9)
    assert found.shift_rows.value == pytest.approx(offset[0], abs=1e-5)
    assert found.shift_cols.value == pytest.approx(offset[1], abs=1e-5)
    assert found.fwhm_along.value == pytest.approx(FWHM * along, rel=0.02)
    assert found.fwhm_across.value == pytest.approx(FWHM * across, rel=0.02)
    assert found.ellipticity.value == pytest.approx(1 - across / along, abs=0.015)
    assert abs((found.angle.value - degrees + 90) % 180 - 90) < 0.5
    half = math.sqrt(math.log(2) / 2) / math.pi  # exp(-2 (pi f s)^2) = 1/2
    assert found.mtf50_along.value == pytest.approx(half / along, rel=2e-3)
    assert found.mtf50_across.value == pytest.approx(half / across, rel=2e-3)
    assert math.isnan(found.fwhm_along.stderr) and found.notes == ()


@pytest.mark.parametrize("sigma", [1.2, 2.0, 2.9])
def test_encircled_energy_of_a_round_gaussian(sigma):
    found = measure_psf(gaussian((41, 37), (20, 18), sigma, sigma, 0))
    for share, radius in found.radii.items():  # 1 - exp(-r^2 / 2 s^2) = share
        assert radius.value == pytest.approx(sigma * math.sqrt(-2 * math.log(1 - share)), rel=0.01)
    assert found.ellipticity.value == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("beta, width", [(2.5, 2.0), (4.0, 3.0)])
def test_moffat(beta, width):
    y, x = np.mgrid[-20:21, -22:23]
    found = measure_psf((1 + (x**2 + y**2) / width**2) ** -beta)
    expected = 2 * width * math.sqrt(2 ** (1 / beta) - 1)
    assert found.fwhm_along.value == pytest.approx(expected, rel=0.02)
    assert found.fwhm_across.value == pytest.approx(expected, rel=0.02)


def test_box_and_disc():
    box = np.zeros((9, 11))
    box[2:7, 3:8] = 1 / 25
    found = measure_psf(box)
    assert found.fwhm_along.value == pytest.approx(5, rel=0.03)
    # sin(5 pi f) / (5 sin(pi f)) = 1/2
    assert found.mtf50_along.value == pytest.approx(0.1229, abs=1e-3)
    y, x = np.mgrid[-8:9, -9:10]
    disc = np.clip(6 - np.hypot(y, x) + 0.5, 0, 1)
    found = measure_psf(disc)
    assert found.fwhm_along.value == pytest.approx(12, rel=0.02)
    assert found.radii[0.5].value == pytest.approx(6 * math.sqrt(0.5), rel=0.02)


def test_one_tap_is_a_shift():
    kernel = np.zeros((5, 7))
    kernel[1, 5] = 0.5
    found = measure_psf(kernel)
    assert (found.sum.value, found.shift_rows.value, found.shift_cols.value) == (0.5, -1, 2)
    assert math.isnan(found.mtf50_along.value) and "no MTF50" in " ".join(found.notes)
    assert "not defined" in str(found)


def test_shift_says_where_the_image_went():
    """Whatever the operation: the content of the target lies that much further down and to the right."""
    image = np.random.default_rng(0).normal(size=(40, 50))
    target = np.roll(image, (2, -3), axis=(0, 1))
    for operation in ("convolution", "correlation"):
        fit = find_kernel(image, target, (7, 9), boundary="wrap", operation=operation)
        found = measure_psf(fit)
        assert found.shift_rows.value == pytest.approx(2, abs=1e-9)
        assert found.shift_cols.value == pytest.approx(-3, abs=1e-9)


@pytest.mark.parametrize("kernel", [[[1, 0, -1], [2, 0, -2], [1, 0, -1]], [[0, 0], [0, 0]]])
def test_without_a_sum_there_is_no_shape(kernel):
    found = measure_psf(np.array(kernel, dtype=float))
    assert math.isnan(found.shift_rows.value) and math.isnan(found.fwhm_along.value)
    assert "no centre" in found.notes[0]


def test_a_kernel_cut_off_says_so():
    assert "reaches the edge" in measure_psf(gaussian((5, 7), (2, 3), 3, 3, 0)).notes[0]
    assert measure_psf(-gaussian((15, 17), (7, 8), 2, 1, 10)).fwhm_along.value == pytest.approx(FWHM * 2, rel=0.02)


@pytest.mark.slow
def test_errors_cover_the_truth():
    """Over many noises the numbers scatter about the truth by as much as their errors say."""
    rng = np.random.default_rng(5)
    image = rng.normal(size=(60, 70))
    kernel = gaussian((11, 13), (5.2, 5.9), 1.8, 1.2, 25)
    clean = convolve2d(image, kernel, mode="valid")
    truth = measure_psf(kernel)
    names = ("sum", "shift_rows", "shift_cols", "fwhm_along", "fwhm_across", "ellipticity", "angle", "mtf50_along")
    scores = []
    for _ in range(20):
        found = measure_psf(find_kernel(image, clean + rng.normal(0, 0.03, clean.shape), (11, 13)))
        pairs = [(getattr(found, name), getattr(truth, name)) for name in names]
        pairs += [(found.radii[0.5], truth.radii[0.5])]
        scores.append([(a.value - b.value) / a.stderr for a, b in pairs])
    spread = np.sqrt(np.mean(np.square(scores), axis=0))
    assert (spread > 0.5).all() and (spread < 1.7).all(), spread


def test_same_errors_every_time_and_json():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(30, 40))
    fit = find_kernel(image, 0.5 * image + rng.normal(0, 0.1, image.shape), (5, 7))
    assert fit.psf() == measure_psf(fit) and fit.psf().to_dict()["sum"]["stderr"] > 0


@pytest.mark.parametrize(
    "number, text",
    [
        (kernelfit.Measured(1.23456, 0.0123), "1.235 +/- 0.012"),
        (kernelfit.Measured(1234.5, 67.0), "1234 +/- 67"),
        (kernelfit.Measured(1.5), "1.5"),
        (kernelfit.Measured(math.nan, 1.0), "not defined"),
        (kernelfit.Measured(0.25, 1e-15), "0.25 +/- 1e-15"),
    ],
)
def test_numbers_in_words(number, text):
    assert str(number) == text


@pytest.mark.parametrize(
    "kernel, keywords, error, says",
    [
        (np.ones(3), {}, ValueError, "rows and columns"),
        (np.ones((2, 3, 3)), {}, ValueError, "one plane"),
        (np.array([[1.0, np.nan]]), {}, ValueError, "NaN"),
        (np.ones((3, 3)) * 1j, {}, TypeError, "complex"),
        (np.ones((3, 3)), {"origin": (1, 1, 1)}, ValueError, "origin"),
        (np.ones((3, 3)), {"operation": "both"}, ValueError, "operation"),
    ],
)
def test_bad_kernels(kernel, keywords, error, says):
    with pytest.raises(error, match=says):
        measure_psf(kernel, **keywords)


# ---- two kernels ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_same_kernel_differs_by_chance_only():
    """The p-values of pairs of fits of one kernel are even between 0 and 1."""
    rng = np.random.default_rng(3)
    image = rng.normal(size=(30, 34))
    kernel = rng.normal(size=(3, 4))
    clean = convolve2d(image, kernel, mode="valid")
    fits = [find_kernel(image, clean + rng.normal(0, 0.1, clean.shape), (3, 4)) for _ in range(60)]
    chances = [compare_kernels(a, b).p_value for a, b in zip(fits[::2], fits[1::2], strict=True)]
    assert 0.3 < np.mean(chances) < 0.7 and min(chances) > 1e-3 and max(chances) > 0.8
    other = find_kernel(image, convolve2d(image, kernel + 0.05, mode="valid") + rng.normal(0, 0.1, clean.shape), (3, 4))
    assert compare_kernels(fits[0], other).differ
    assert not compare_kernels(fits[0], kernel).differ


def test_kernels_are_laid_origin_on_origin():
    small, large = np.array([[0.0, 1.0, 2.0]]), np.zeros((5, 6))
    large[2, 1:4] = small  # SciPy's centre: column 2 of six, column 1 of three
    found = compare_kernels(small, large)
    assert found.difference.shape == (5, 6) and found.origin == (2, 2)
    assert found.relative == 0 and not found.differ and "same kernel" in str(found)
    large[4, 5] = 0.5
    found = compare_kernels(small, large)
    assert found.differ and found.largest == (4, 5) and found.difference[4, 5] == -0.5


def test_correlation_is_turned_before_it_is_compared():
    rng = np.random.default_rng(4)
    image = rng.normal(size=(30, 34))
    target = convolve2d(image, rng.normal(size=(4, 3)), mode="same") + rng.normal(0, 0.1, image.shape)
    one, other = (find_kernel(image, target, (4, 3), operation=name, origin=(1, 1) if name == "convolution" else (2, 1))
                  for name in ("convolution", "correlation"))  # fmt: skip
    found = compare_kernels(one, other)
    assert found.relative < 1e-9 and not found.differ and found.difference.shape == (4, 3)


def test_errors_of_arrays_and_bad_calls():
    kernel = np.ones((2, 3))
    found = compare_kernels(kernel, kernel + 0.1, stderr=(np.full((2, 3), 0.1), None))
    assert found.chi2 == pytest.approx(6) and found.dof == 6 and found.exact and "counts as exact" in str(found)
    both = compare_kernels(kernel, kernel + 0.1, stderr=(np.full((2, 3), 0.1), np.full((2, 3), 0.1)))
    assert both.chi2 == pytest.approx(3) and not both.exact and "counts as exact" not in str(both)
    with pytest.raises(ValueError, match="errors of shape"):
        compare_kernels(kernel, kernel, stderr=(np.ones(3), None))
    with pytest.raises(ValueError, match="rows and columns"):
        compare_kernels(kernel, np.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        compare_kernels(kernel, kernel * np.nan)
    exact = compare_kernels(kernel, kernel + 1, stderr=(np.zeros((2, 3)), np.zeros((2, 3))))
    assert exact.p_value == 0 and exact.differ


def test_taps_held_at_zero_tell_by_what_they_would_be():
    """Zeros that Sparse chose, or that lie beyond the shape, against taps about as far from it as their errors."""
    rng = np.random.default_rng(5)
    image = rng.normal(size=(60, 71))
    kernel = np.array([[0.0, 0.1, 0.0, 0.0, 0.0], [0.1, 0.6, 0.1, 0.0, 0.0], [0.0, 0.1, 0.0, 0.0, 0.0]])
    target = convolve2d(image, kernel, mode="same") + rng.normal(0, 0.1, image.shape)
    plain, sparse = (find_kernel(image, target, (3, 5), solver=solver) for solver in (None, Sparse()))
    none = sparse.kernel == 0
    assert none.sum() >= 8 and np.all(sparse.stderr[none] > 0) and np.all(plain.kernel[none] != 0)
    found = compare_kernels(sparse, plain.kernel)
    assert not found.differ and 0.01 < found.p_value and found.dof == 15
    assert compare_kernels(sparse, kernel).dof == 15
    for row, col in ((0, 4), (1, 1)):
        wrong = kernel.copy()
        wrong[row, col] += 0.05
        found = compare_kernels(sparse, wrong)
        assert found.differ and found.largest == (row, col)
    small = find_kernel(image, target, (3, 3))
    wide = np.pad(small.kernel, ((0, 0), (1, 1)))
    assert compare_kernels(small, wide).dof == 9
    assert "held there by a choice" in str(compare_kernels(small, kernel + 0.5 * (np.indices((3, 5))[1] == 4)))
    total = find_kernel(image, target, (3, 5), solver=Constrained(total=1.0))
    assert compare_kernels(total, plain.kernel).p_value > 0.01 and compare_kernels(total, plain.kernel + 0.02).differ


# ---- what limits the numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape, center, origin", [((30, 34), (14.5, 16.5), None), ((24, 29), (10.8, 15.3), (3, 20))])
def test_even_sides_and_any_origin(shape, center, origin):
    """A Gaussian between the taps: width, MTF50 and shift in closed form."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    taps = np.exp(-((y - center[0]) ** 2) / (2 * 1.7**2) - (x - center[1]) ** 2 / (2 * 2.6**2))
    found = kernelfit.measure_psf(taps, origin=origin)
    at = origin or ((shape[0] - 1) // 2, (shape[1] - 1) // 2)
    assert found.shift_rows.value == pytest.approx(center[0] - at[0], abs=1e-4)
    assert found.shift_cols.value == pytest.approx(center[1] - at[1], abs=1e-4)
    for sigma, width, mtf in ((2.6, found.fwhm_along, found.mtf50_along), (1.7, found.fwhm_across, found.mtf50_across)):
        assert width.value == pytest.approx(2 * np.sqrt(2 * np.log(2)) * sigma, rel=3e-3)
        assert mtf.value == pytest.approx(np.sqrt(2 * np.log(2)) / (2 * np.pi * sigma), rel=2e-3)
    assert found.notes == ()


def test_negative_lobes_are_told():
    y, x = np.mgrid[-14:15, -15:16].astype(float)
    core, wide = (np.exp(-(x**2 + y**2) / (2 * s**2)) / (2 * np.pi * s**2) for s in (1.5, 4.0))
    found = kernelfit.measure_psf(core - 0.5 * wide)
    inside = (
        2 * np.log(2) * 1.5**2
    )  # the core alone: at its half radius; with the lobe the half of the sum is further in
    assert found.sum.value == pytest.approx(0.5, abs=2e-3) and found.radii[0.5].value < np.sqrt(inside)
    assert any("negative" in note for note in found.notes)
    assert not any("negative" in note for note in kernelfit.measure_psf(core).notes)


def test_narrow_kernels_are_told():
    y, x = np.mgrid[-6:7, -7:8].astype(float)
    notes = [kernelfit.measure_psf(np.exp(-(x**2 + y**2) / (2 * s**2))).notes for s in (0.6, 1.3)]
    assert ["narrower than 2 pixels" in " ".join(each) for each in notes] == [True, False]


def test_a_kernel_of_noise_says_that_it_may_be_noise():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(50, 60))
    kernel = np.outer([1, 2, 3, 2, 1], [1, 3, 4, 4, 3, 1]) / 144
    for noise, said in ((0.02, False), (3.0, True)):
        target = kernelfit.apply_kernel(image, kernel) + rng.normal(0, noise, image.shape)
        notes = kernelfit.find_kernel(image, target, (7, 8)).psf().notes
        assert any("may be noise" in note for note in notes) is said


def test_what_the_image_leaves_open_has_no_errors():
    flat = np.ones((20, 24))
    found = kernelfit.find_kernel(flat, flat, (3, 4)).psf()
    assert np.isnan(found.sum.stderr) and np.isnan(found.fwhm_along.stderr)
    assert any("leaves part of this kernel open" in note for note in found.notes)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(30, 36))
    solver = kernelfit.Constrained(symmetric="point")  # fewer unknowns than taps, and all of them determined
    target = image + rng.normal(0, 0.1, image.shape)
    assert np.isfinite(kernelfit.find_kernel(image, target, (3, 5), solver=solver).psf().sum.stderr)


def test_a_shift_that_the_solver_rules_out_is_not_called_measured():
    rng = np.random.default_rng(0)
    image = rng.random((70, 80))
    y, x = np.mgrid[-4:5, -3:4]
    target = convolve2d(image, np.exp(-(y**2 + (x - 0.1) ** 2) / 4), mode="valid")
    stats = kernelfit.accumulate(image, target + rng.normal(0.0, 0.05, target.shape), (9, 7))
    free = stats.solve(kernelfit.GaussianProcess()).psf()
    tied = stats.solve(kernelfit.GaussianProcess(symmetric="point")).psf()
    assert 0 < free.shift_cols.stderr < 0.02 and not any("not measured" in note for note in free.notes)
    assert abs(tied.shift_cols.value) < 1e-9 and np.isnan(tied.shift_cols.stderr)
    assert any("its shift is not measured" in note for note in tied.notes)
    assert tied.sum.stderr > 0


def test_a_correlation_is_the_convolution_turned_errors_and_all():
    rng = np.random.default_rng(9)
    y, x = np.mgrid[-4:5, -5:6]
    image = gaussian_filter(rng.normal(size=(70, 83)), 0.7)
    target = convolve2d(image, np.exp(-((x - y / 2) ** 2) / 6 - (y - 0.4) ** 2 / 3), mode="same")
    target += rng.normal(0, 0.05 * target.std(), image.shape)
    fits = [find_kernel(image, target, (9, 11), operation=name) for name in ("convolution", "correlation")]
    one, other = (measure_psf(fit).rows() for fit in fits)
    for (name, a, _), (_, b, _) in zip(one, other, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-6, abs=1e-9), name
        assert a.stderr == pytest.approx(b.stderr, rel=1e-6), name
    one, other = (compare_kernels(fit, np.zeros((9, 11))) for fit in fits)
    np.testing.assert_allclose(one.stderr, other.stderr, rtol=1e-6)
    assert one.chi2 == pytest.approx(other.chi2, rel=1e-6) and one.largest == other.largest
