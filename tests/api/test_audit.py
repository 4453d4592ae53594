"""A given kernel held against a pair: what it lacks, with errors, and a verdict; against sums over the pixels."""

import json

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
from helpers import assert_close

KERNEL = np.array([[0.1, 0.2, 0.0, 0.02], [0.0, 0.4, 0.2, 0.1], [0.05, 0.0, 0.03, 0.0]])
NOISE = 0.01


@pytest.fixture(scope="module")
def image():
    return scipy.ndimage.gaussian_filter(np.random.default_rng(0).random((96, 107)), 0.6) * 4


def slowly(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def noisy(values, seed=1):
    return values + np.random.default_rng(seed).normal(0, NOISE, values.shape)


def smooth(row=0.0, col=0.0, shape=(11, 13), widths=(1.1, 1.4)):
    """Return a lopsided blur that is moved from the middle of its array."""
    y, x = (np.arange(n) - (n - 1) // 2 - by for n, by in zip(shape, (row, col), strict=True))
    taps = np.exp(-0.5 * (y[:, None] / widths[0]) ** 2 - 0.5 * ((x + 0.4 * y[:, None]) / widths[1]) ** 2)
    taps *= 1 + 0.25 * np.tanh(y[:, None] + 0.5 * x)
    return taps / taps.sum()


def left_by(target, made, used):
    """Return the share of a target's variance that a prediction leaves on the pixels used."""
    y = target[used]
    return np.sum((y - made[used]) ** 2) / np.sum((y - y.mean()) ** 2)


def beside(target, made, used):
    """Return the same with the factor and the constant that fit best."""
    columns = np.stack([made[used], np.ones(used.sum())], axis=1)
    fitted = np.zeros(target.shape)
    fitted[used] = columns @ np.linalg.lstsq(columns, target[used], rcond=None)[0]
    return left_by(target, fitted, used)


@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize(
    ("mode", "origin"), [("same", None), slowly("same", (0, 3)), slowly("valid", None), slowly("full", None)]
)
def test_the_right_kernel_explains_its_pair(image, mode, origin, operation):
    lies = {"mode": mode, "operation": operation, **({} if origin is None else {"origin": origin})}
    target = noisy(kernelfit.apply_kernel(image, KERNEL, **lies))
    found = kernelfit.audit(image, target, KERNEL, **{k: v for k, v in lies.items() if k != "mode"})
    assert found.outcome == "as given" and found.explains and found.orientation == "as given"
    assert found.p_value > 1e-3 and abs(found.steps[0].chi2_per_dof - 1) < 0.1
    assert found.whole_shift == (0, 0)
    for number, truth in zip((*found.shift, found.scale, *found.offset), (0, 0, 1, 0), strict=True):
        assert abs(number.value - truth) < 4 * number.stderr < 0.05
    assert_close(found.best.noise_std, NOISE, 0.05)


def test_what_is_left_is_that_of_the_pixels(image):
    target = noisy(1.7 * scipy.ndimage.shift(scipy.signal.convolve2d(image, KERNEL, mode="same"), (2, -3)) + 5)
    found = kernelfit.audit(image, target, KERNEL)
    used = ~np.isnan(found.best.predict(image))
    made = scipy.signal.convolve2d(image, KERNEL, mode="same")
    left = {step.name: step.unexplained for step in found.steps}
    assert_close(left["as given"], left_by(target, made, used), 1e-9)
    assert_close(left["with a factor and a constant"], beside(target, made, used), 1e-9)
    assert_close(left["moved by (2, -3) pixels"], beside(target, np.roll(made, (2, -3), axis=(0, 1)), used), 1e-7)
    adjusted = kernelfit.apply_kernel(
        image, found.kernel, mode="crop", size=image.shape, origin=found.best.convention.origin
    )
    assert_close(left["moved between pixels"], beside(target, adjusted, used), 1e-7)
    assert found.outcome == "adjusted" and not found.explains and found.whole_shift == (2, -3)
    chi2 = [step.chi2_per_dof for step in found.steps]
    assert chi2[0] > chi2[1] > chi2[2] >= chi2[3] * 0.999 and chi2[-1] == 1.0


@pytest.mark.slow
def test_shift_factor_and_constant_have_errors(image):
    wide = {"shape": (13, 15), "widths": (1.4, 2.1)}
    target = noisy(2 * kernelfit.apply_kernel(image, smooth(0.37, -0.72, **wide), boundary="symm") + 3)
    found = kernelfit.audit(image, target, smooth(**wide))
    for number, truth in zip((*found.shift, found.scale, *found.offset), (0.37, -0.72, 2, 3), strict=True):
        assert abs(number.value - truth) < 5 * number.stderr < 0.2, (number, truth)
    assert found.whole_shift == (0, -1) and found.outcome == "adjusted"
    for words in ("moved by", "down", "to the left", "multiplied by", "constant"):
        assert words in found.verdict
    assert "turned" not in found.verdict


@pytest.mark.parametrize(
    ("name", "turn"),
    [
        ("turned by 180 degrees", lambda k: k[::-1, ::-1]),
        ("turned by 90 degrees to the left", np.rot90),
        slowly("mirrored top to bottom", lambda k: k[::-1]),
        slowly("mirrored left to right", lambda k: k[:, ::-1]),
        slowly("transposed", lambda k: k.T),
        slowly("turned by 90 degrees to the right", lambda k: np.rot90(k, -1)),
        slowly("transposed and turned by 180 degrees", lambda k: k.T[::-1, ::-1]),
    ],
)
def test_an_array_laid_out_otherwise_is_told(image, name, turn):
    kernel = np.pad(KERNEL, ((0, 0), (0, 1)))  # of odd sides, so that it turns about its middle
    target = noisy(scipy.signal.convolve2d(image, turn(kernel), mode="same"))
    found = kernelfit.audit(image, target, kernel)
    assert found.orientation.startswith(name) and found.outcome == "adjusted"
    assert all(abs(one.value) < 5 * one.stderr for one in found.shift)
    assert name in found.verdict


def test_a_symmetric_kernel_is_not_turned(image):
    taps = np.outer([1, 2, 1], [1, 4, 6, 4, 1]) / 64
    found = kernelfit.audit(image, noisy(scipy.signal.convolve2d(image, taps, mode="same")), taps)
    assert found.orientation == "as given" and found.explains


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stride", "at"), [((3, 2), (1.0, 0.5)), pytest.param((2, 2), (0.5, 0.5), marks=pytest.mark.slow)]
)
def test_half_a_pixel_between_a_kernel_and_a_reduced_picture(image, stride, at):
    large = scipy.ndimage.gaussian_filter(np.random.default_rng(3).random((150, 168)), 0.7) * 255
    whole = kernelfit.apply_kernel(large, smooth(-at[0], -at[1]), boundary="symm")  # target pixel 0 stands at `at`
    target = np.rint(whole[:: stride[0], :: stride[1]])
    found = kernelfit.audit(large, target, smooth())
    assert found.best.convention.stride == stride and found.centre is not None
    for number, truth in zip(found.centre, at, strict=True):
        assert abs(number.value - truth) < max(5 * number.stderr, 5e-3) and number.stderr < 0.02
    assert any("middle of blocks" in note for note in found.notes)
    assert "row" in str(found) and "chi2/dof" in str(found)


def test_no_kernel_explains_noise(image):
    target = np.random.default_rng(5).normal(size=image.shape)
    found = kernelfit.audit(image, target, KERNEL)
    assert found.outcome == "no" and "holds nothing" in found.verdict
    assert any("no kernel relates" in note for note in found.notes)


def landscape(seed, shape=(96, 107)):
    """Return what hangs together from pixel to pixel, as photographs do."""
    white = np.random.default_rng(seed).normal(size=shape)
    rows, cols = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    return np.fft.irfft2(np.fft.rfft2(white) / np.maximum(np.hypot(rows, cols), 0.01), shape)


@pytest.mark.parametrize("kernel", [KERNEL, smooth()])
def test_no_kernel_explains_another_photograph(kernel):
    found = kernelfit.audit(landscape(1), landscape(2), kernel)
    assert found.outcome == "no" and "holds nothing" in found.verdict


def test_a_ramp_does_not_determine_what_explains_it():
    ramp = np.add.outer(np.arange(60.0), 2 * np.arange(50.0))
    notes = kernelfit.audit(ramp, ramp, KERNEL).notes
    assert any("determines 1 of" in note and "other kernels" in note for note in notes)
    pair = np.random.default_rng(0).random((60, 50))
    assert not kernelfit.audit(pair, pair, KERNEL).notes


@pytest.mark.parametrize("degree", [0, 1])
def test_a_target_of_nothing_but_a_background_is_refused(image, degree):
    target = 3 + degree * np.arange(image.shape[1]) + np.zeros(image.shape)
    with pytest.raises(ValueError, match="holds nothing of the image"):
        kernelfit.audit(image, target, KERNEL, background=degree)
    with pytest.raises(ValueError, match=r"take a constant off$"):  # and no word of a shape, which an audit has
        kernelfit.audit(np.full(image.shape, 3.0), image, KERNEL)


def test_another_kernel_does_not(image):
    target = noisy(scipy.signal.convolve2d(image, KERNEL, mode="same"))
    found = kernelfit.audit(image, target, np.ones((5, 7)))
    assert found.outcome == "no" and "does not explain" in found.verdict and found.share < 0.5
    assert found.difference.differ


@pytest.mark.slow
def test_a_kernel_that_is_a_little_wrong(image):
    target = noisy(scipy.signal.convolve2d(image, KERNEL, mode="same"))
    kernel = KERNEL + 0.02 * np.random.default_rng(1).normal(size=KERNEL.shape)
    found = kernelfit.audit(image, target, kernel)
    assert found.outcome == "in the main" and 0.98 < found.share < 1 and found.p_value < 1e-6


@pytest.mark.slow
def test_far_from_where_it_lies(image):
    whole = noisy(scipy.signal.convolve2d(image, KERNEL, mode="same"))
    target = whole[37:, 31:]
    found = kernelfit.audit(image, target, KERNEL)
    assert found.whole_shift == (-37, -31) and found.outcome == "adjusted"
    assert found.steps[0].chi2_per_dof > 100
    there = kernelfit.audit(image, target, KERNEL, mode="crop", origin=(1 + 37, 1 + 31))
    assert there.explains and there.whole_shift == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["correlation", slowly("convolution")])
def test_a_fit_has_its_own_convention(image, operation):
    target = noisy(scipy.signal.convolve2d(image, KERNEL, mode="same"))
    fit = kernelfit.find_kernel(image, target, (5, 7), operation=operation)
    found = kernelfit.audit(image, target, fit)
    assert found.explains
    large = kernelfit.apply_kernel(image, smooth(), boundary="symm")
    fit = kernelfit.find_kernel(image, noisy(large)[1::2, 1::2], (11, 13), stride=2, offset=1, solver="auto")
    found = kernelfit.audit(image, noisy(large, 7)[1::2, 1::2], fit)
    assert found.best.convention.stride == (2, 2) and found.whole_shift == (0, 0)


def test_colours_share_the_kernel_and_masks_count(image):
    colours = np.stack([image, image[::-1], image[:, ::-1]], axis=-1)
    made = [scipy.signal.convolve2d(plane, KERNEL, mode="same") for plane in np.moveaxis(colours, -1, 0)]
    target = noisy(np.stack(made, axis=-1) + [1.0, 2.0, 3.0])
    bad = np.zeros(image.shape, dtype=bool)
    bad[40:50, 30:70] = True
    target[bad] = 99
    before = [colours.copy(), target.copy(), KERNEL.copy()]
    found = kernelfit.audit(colours, target, KERNEL, mask=bad)
    assert found.outcome == "adjusted" and len(found.offset) == 3
    assert_close([one.value for one in found.offset], [1, 2, 3], 0.01)
    for array, old in zip((colours, target, KERNEL), before, strict=True):
        assert np.array_equal(array, old)


@pytest.mark.slow
def test_pairs_that_share_the_kernel(image):
    targets = [noisy(scipy.signal.convolve2d(one, KERNEL, mode="same"), len(one)) for one in (image, image[:70])]
    assert kernelfit.audit([image, image[:70]], targets, KERNEL).explains


def test_plain_types(image):
    target = noisy(scipy.signal.convolve2d(image, KERNEL, mode="same"))
    found = kernelfit.audit(image, target, 2 * KERNEL, background=None)
    fields = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert fields["outcome"] == "adjusted" and fields["offset"] == [] and abs(fields["scale"]["value"] - 0.5) < 0.01
    assert fields["kernel"] == found.kernel.tolist() and fields["centre"] is None
    assert len(fields["steps"]) == len(found.steps)


@pytest.mark.parametrize(
    ("kernel", "words", "error", "message"),
    [
        (np.zeros((3, 2)), {}, ValueError, "zeros"),
        (np.full((3, 2), np.nan), {}, ValueError, "NaN"),
        (np.ones((2, 3, 4)), {}, ValueError, "rows and columns; audit one plane"),
        (np.ones(3), {}, ValueError, "rows and columns; signals are not audited"),
        (np.ones((3, 2)) * 1j, {}, TypeError, "real"),
        (np.ones((61, 62)), {}, ValueError, "cut off its faint edges"),
        (KERNEL, {"boundary": "symm"}, TypeError, "no use"),
        (KERNEL, {"nonsense": 1}, TypeError, "nonsense"),
    ],
)
def test_bad_calls(image, kernel, words, error, message):
    with pytest.raises(error, match=message):
        kernelfit.audit(image, image, kernel, **words)


def test_signals_and_complex_images_are_refused(image):
    with pytest.raises(TypeError, match="image of complex"):
        kernelfit.audit(image * 1j, image, KERNEL)
    with pytest.raises(ValueError, match="signals are not audited"):
        kernelfit.audit(image[0], image[0], KERNEL)


@pytest.mark.slow
def test_errors_hold_the_truth(image):
    moved = scipy.ndimage.shift(np.pad(smooth(), 8), (0.37, -0.72), order=5)
    made = 2 * kernelfit.apply_kernel(image, moved, boundary="symm") + 3
    truth = np.array([0.37, -0.72, 2, 3])
    scores = []
    for seed in range(16):
        found = kernelfit.audit(image, noisy(made, seed), smooth())
        numbers = (*found.shift, found.scale, *found.offset)
        scores.append([(n.value - t) / n.stderr for n, t in zip(numbers, truth, strict=True)])
    assert np.all(np.abs(np.mean(scores, axis=0)) < 1) and 0.7 < np.std(scores) < 1.3
