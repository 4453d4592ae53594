"""A curve found together with the kernel: against a dense joint system, the truth, and beside everything else."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
from helpers import assert_close, smooth_image
from kernelfit.core.curve import CURVES, FAMILIES, SIDES, Curve
from kernelfit.fitting import curve, curve_errors

KERNEL = np.exp(-(np.arange(-2, 3)[:, None] ** 2) / 3 - np.arange(-3, 4) ** 2 / 5)
KERNEL /= KERNEL.sum()
THETA = {"gamma": np.array([2.2]), "srgb": np.zeros(0), "monotone": np.array([-1.5, -1.0, 0.0, 0.6, 0.7, 0.5])}


def lights(shape=(110, 130), seed=0, noise=0.002, kernel=KERNEL):
    """Return light, and the noisy light that the kernel makes of it, both from 0 to 1."""
    rng = np.random.default_rng(seed)
    light = 0.45 + 0.9 * scipy.ndimage.gaussian_filter(rng.normal(size=shape), 1.0)
    light = np.clip(light + 0.3 * np.linspace(-1, 1, shape[1]), 0.02, 0.98)
    blurred = scipy.signal.convolve2d(light, kernel, mode="same")
    return light, np.clip(blurred + rng.normal(0, noise, shape), 0, 1)


def encoded(light, family="gamma", theta=None, bits=8):
    values = FAMILIES[family].inverse(light, THETA[family] if theta is None else np.array([theta]))
    return np.rint(np.clip(255 * values, 0, 255)).astype(np.uint8) if bits else values


def error(fit):
    kernel = fit.kernel if fit.kernel.ndim == 2 else fit.kernel[0]
    return np.linalg.norm(kernel - KERNEL) / np.linalg.norm(KERNEL)


@pytest.mark.parametrize("family", CURVES)
def test_families_agree_with_themselves(family):
    own, theta = FAMILIES[family], THETA[family]
    v = np.linspace(0.01, 0.99, 57)
    assert_close(own.inverse(own.value(v, theta), theta), v, 1e-3 if family == "monotone" else 1e-12)
    step = 1e-6
    assert_close(own.slope(v, theta), (own.value(v + step, theta) - own.value(v - step, theta)) / (2 * step), 2e-3)
    for i, change in enumerate(own.change(v, theta)):
        ends = [own.value(v, theta + sign * step * np.eye(len(theta))[i]) for sign in (1, -1)]
        assert_close(change, (ends[0] - ends[1]) / (2 * step), 1e-6)
    assert np.all(np.diff(own.value(np.linspace(-0.1, 1.1, 99), theta)) >= 0)
    assert_close(own.value(np.array([0.0, 1.0]), theta), [0.0, 1.0], 1e-12)


def test_srgb_is_that_of_the_standard():
    values = np.array([0, 10, 11, 128, 255]) / 255
    expected = [0.0, 0.0030353, 0.0033465, 0.2158605, 1.0]
    assert_close(FAMILIES["srgb"].value(values, np.zeros(0)), expected, 1e-6)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("family", CURVES[:2])
def test_curve_and_kernel_are_found(family, side):
    light, blurred = lights()
    image = encoded(light, family) if side != "target" else np.rint(255 * light).astype(np.uint8)
    target = encoded(blurred, family) if side != "image" else np.rint(255 * blurred).astype(np.uint8)
    fit = kernelfit.find_kernel(image, target, (5, 7), curve=family, curve_side=side)
    own, theta = FAMILIES[family], THETA[family]
    made = 255 * own.value(image / 255, theta) if side != "target" else image
    seen = 255 * own.value(target / 255, theta) if side != "image" else target
    assert error(fit) < 1.05 * error(kernelfit.find_kernel(made, seen, (5, 7)))
    assert np.abs(fit.curve.parameters - theta).max(initial=0.0) < 0.02
    residual = fit.residual(image, target)
    assert np.nanstd(residual) < 1.0  # in values of the file
    assert_close(fit.curve.shown(fit.curve.target(target.astype(float)))[5:9], target[5:9].astype(float), 1e-9)


def test_a_monotone_curve_is_found():
    light, blurred = lights()
    image, target = (encoded(one, "monotone", bits=0) for one in (light, blurred))
    fit = kernelfit.find_kernel(image, target, (5, 7), curve="monotone")
    at = np.linspace(0.1, 0.9, 9)
    true = FAMILIES["monotone"].value(at, THETA["monotone"])
    assert np.abs(fit.curve(at) - true).max() < 0.02
    gamma = kernelfit.find_kernel(image, target, (5, 7), curve="gamma")
    assert error(fit) < 1.05 * error(kernelfit.find_kernel(light, blurred, (5, 7)))
    assert error(fit) < 0.3 * error(gamma)


def test_errors_are_those_of_the_dense_joint_system():
    light, blurred = lights((60, 70))
    image, target = (encoded(one, bits=0) for one in (light, blurred))
    fit = kernelfit.find_kernel(image, target, (5, 7), curve="gamma")
    (gamma,), k = fit.curve.parameters, fit.kernel
    patches = np.lib.stride_tricks.sliding_window_view(image**gamma, k.shape)[:, :, ::-1, ::-1].reshape(-1, k.size)
    slope = scipy.signal.convolve2d(image**gamma * np.log(image), k, mode="valid")
    model = (patches @ k.ravel()).reshape(slope.shape)
    whole = np.column_stack([patches, (slope - model * np.log(model) / gamma).ravel()])
    joint = fit.noise_std**2 * np.linalg.inv(whole.T @ whole)
    assert_close(fit.stderr.ravel(), np.sqrt(np.diag(joint))[:-1], 1e-3)
    assert_close(fit.curve.stderr, np.sqrt(np.diag(joint))[-1:], 1e-3)
    assert_close(fit.curve.error(0.5), np.abs(0.5**gamma * np.log(0.5)) * fit.curve.stderr[0], 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("side, bits", [("both", 0), *((side, 8) for side in SIDES)])
def test_intervals_hold(side, bits):
    ratios = []
    for seed in range(16):
        rng = np.random.default_rng(seed)
        light = 0.5 + 0.48 * np.tanh(2 * scipy.ndimage.gaussian_filter(rng.normal(size=(60, 70)), 1.0))
        blurred = scipy.signal.convolve2d(light, KERNEL, mode="same") + rng.normal(0, 0.002, light.shape)
        image = encoded(light, bits=bits) if side != "target" else np.rint(255 * light).astype(np.uint8)
        target = encoded(blurred, bits=bits) if side != "image" else np.rint(255 * blurred).astype(np.uint8)
        fit = kernelfit.find_kernel(image, target, (5, 7), curve="gamma", curve_side=side)
        ratios.append((fit.curve.parameters[0] - 2.2) / fit.curve.stderr[0])
    assert abs(np.mean(ratios)) < 0.6
    assert 0.7 < np.sqrt(np.mean(np.square(ratios))) < 1.35


def clipped(seed=0, shape=(70, 80)):
    """Return light, and what a kernel that sharpens makes of it, of which noise near zero is cut off."""
    kernel = 1.6 * KERNEL.copy()
    kernel[[0, -1]] -= 0.6 / (2 * kernel.shape[1])
    light = lights(shape, seed)[0] ** 3
    blurred = scipy.signal.convolve2d(light, kernel, mode="same")
    return light, np.clip(blurred + np.random.default_rng(seed + 99).normal(0, 0.01, shape), 0, 1)


@pytest.mark.slow
def test_a_target_that_is_cut_off_does_not_seem_lighter():
    ratios = []
    for seed in range(8):
        fit = kernelfit.find_kernel(*map(encoded, clipped(seed)), (5, 7), curve="gamma")
        ratios.append((fit.curve.parameters[0] - 2.2) / fit.curve.stderr[0])
    assert abs(np.mean(ratios)) < 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "stack, keywords",
    [
        (lambda one: np.stack([one, one], -1), {"channel_axis": -1}),
        (lambda one: np.stack([one, one]), {"channel_axis": 0, "channels": "separate"}),
        (lambda one: [one, one], {}),
    ],
)
def test_what_lies_near_an_end_is_left_out_of_colours_and_pairs(stack, keywords):
    image, target = map(encoded, clipped())
    one = kernelfit.find_kernel(image, target, (5, 7), curve="gamma")
    two = kernelfit.find_kernel(stack(image), stack(target), (5, 7), curve="gamma", **keywords)
    assert_close(two.curve.parameters, one.curve.parameters, 1e-4)
    assert min(abs(two.n_pixels - n * one.n_pixels) for n in (1, 2)) < 10
    assert np.mean(target == 0) < 0.5 and one.n_pixels < np.count_nonzero(target[2:-2, 3:-3])


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_the_mean_error_of_a_rounded_target_is_known(noise):
    model = np.linspace(10, 12.4, 49)
    drawn = model + np.random.default_rng(0).normal(0, noise, (20000, 49))
    found = curve_errors.error_of_rounding(model, np.full(49, noise**2))
    assert_close(found, np.mean(np.rint(drawn) - model, axis=0), 0.02 if noise < 0.2 else 0.2)


def settings():
    """Yield a name, and what makes the arguments of a call."""

    def masked(x, y, rng):
        bad = rng.random(y.shape) < 0.05
        return x, np.where(bad, 3, y).astype(np.uint8), {"mask": bad}

    yield "mask", masked
    yield "weights", lambda x, y, rng: (x, y, {"weights": 0.5 + rng.random(y.shape)})
    yield "stride", lambda x, y, rng: (x, y[::2, 1::3], {"stride": (2, 3), "offset": (0, 1)})
    yield "pairs", lambda x, y, rng: ([x, x[:50]], [y, y[:50]], {})
    yield "colours", lambda x, y, rng: (np.stack([x] * 2, -1), np.stack([y] * 2, -1), {"channel_axis": -1})
    yield (
        "separate",
        lambda x, y, rng: (np.stack([x] * 2), np.stack([y] * 2), {"channel_axis": 0, "channels": "separate"}),
    )
    yield "variation", lambda x, y, rng: (x, y, {"variation": 1})
    yield "auto", lambda x, y, rng: (x, y, {"solver": "auto"})
    yield "robust", lambda x, y, rng: (x, y, {"robust": "huber"})
    yield "edge", lambda x, y, rng: (x, y, {"boundary": "fill"})


@pytest.mark.parametrize(
    "name, make",
    [pytest.param(*s, id=s[0], marks=[pytest.mark.slow] * (s[0] not in ("mask", "stride"))) for s in settings()],
)
def test_it_goes_with_everything_else(name, make):
    light, blurred = lights()
    image, target, keywords = make(encoded(light), encoded(blurred), np.random.default_rng(1))
    fit = kernelfit.find_kernel(image, target, (5, 7), curve="gamma", **keywords)
    assert abs(fit.curve.parameters[0] - 2.2) < 0.05
    assert error(fit) < 0.1


def test_a_background_is_one_of_light():
    light, blurred = lights()
    fit = kernelfit.find_kernel(encoded(light), encoded(0.9 * blurred + 0.05), (5, 7), curve="gamma", background=0)
    assert abs(fit.curve.parameters[0] - 2.2) < 0.05
    assert abs(fit.background.coefficients.ravel()[0] - 0.05 * 255) < 1.0


def test_linear_pairs_suffer_no_harm():
    light, blurred = lights(noise=0.005)
    plain = kernelfit.find_kernel(light, blurred, (5, 7))
    fit = kernelfit.find_kernel(light, blurred, (5, 7), curve="gamma")
    assert fit.curve.parameters[0] == 1 and fit.curve.stderr[0] > 0 and "are light" in str(fit.curve)
    assert_close(fit.kernel, plain.kernel, 1e-9)
    assert (fit.stderr >= plain.stderr * (1 - 1e-9)).all()  # which hold that of the power
    power = 1 + 6 * fit.curve.stderr[0]
    fit = kernelfit.find_kernel(light ** (1 / power), blurred ** (1 / power), (5, 7), curve="gamma")
    assert 0 < abs(fit.curve.parameters[0] - power) < 4 * fit.curve.stderr[0] and fit.curve.parameters[0] != 1
    light, blurred = light - 0.2, blurred - 0.2  # some of which is below 0
    fit, plain = (kernelfit.find_kernel(light, blurred, (5, 7), curve=curve) for curve in ("gamma", None))
    assert error(fit) < 1.05 * error(plain)
    assert abs(fit.curve.parameters[0] - 1) < 4 * fit.curve.stderr[0]


def test_a_power_within_its_error_of_1_is_1_and_its_variance_holds_the_difference():
    light = curve.Light("gamma", "both", FAMILIES["gamma"], (1.0, 1.0), None, None)
    for power, kept, more in ((1.01, 1.0, 1e-4), (0.99, 1.0, 1e-4), (1.02, 1.02, 0.0)):
        theta, variance = light.kept(np.array([power]), np.array([[1e-4]]))
        assert theta[0] == kept and abs(variance[0] - more) < 1e-15
    other = dataclasses.replace(light, family=FAMILIES["monotone"])
    assert (other.kept(np.full(6, 1.0), np.eye(6))[0] == 1).all() and not other.kept(np.zeros(6), np.eye(6))[0].any()


def test_signals_have_curves():
    x = np.random.default_rng(0).random(3000) * 0.8 + 0.1
    y = np.convolve(x, [0.2, 0.5, 0.3], "same") + np.random.default_rng(1).normal(0, 0.002, 3000)
    fit = kernelfit.find_kernel(np.sqrt(x), np.sqrt(y), 3, curve="gamma")
    assert abs(fit.curve.parameters[0] - 2) < 5 * fit.curve.stderr[0] < 0.05
    assert_close(fit.kernel, [0.2, 0.5, 0.3], 0.01)


@pytest.mark.parametrize(
    "keywords, words",
    [
        ({"method": "wiener"}, "never sees a residual"),
        ({"method": "cg"}, "inverse Gram matrix"),
        ({"image_noise": 1.0}, "differ from pixel to pixel"),
        ({"errors": "sandwich"}, "white noise"),
        ({"variation": "auto"}, "need a degree"),
        ({"curve": "log"}, "need one of"),
        ({"curve_side": "left"}, "need one of"),
        ({"curve": None, "curve_side": "image"}, "without a curve"),
    ],
)
def test_what_does_not_go_with_it_is_refused_in_words(keywords, words):
    image = smooth_image(40, 50)
    with pytest.raises(ValueError, match=words):
        kernelfit.find_kernel(image, image, 5, **{"curve": "gamma", **keywords})
    with pytest.raises(ValueError, match="find_kernel"):
        kernelfit.accumulate(image, image, 5, curve="gamma")


def test_values_that_are_no_light_are_refused():
    image = smooth_image(40, 53)
    low = image - np.percentile(image, 70)
    for side, pair, name in (
        ("both", (low, low), "image"),
        ("both", (image, low), "target"),
        ("image", (low, image), "image"),
    ):
        with pytest.raises(
            ValueError, match=f"got {name} with 70% of its values below 0 and curve='srgb', need values of"
        ):
            kernelfit.find_kernel(*pair, (3, 5), curve="srgb", curve_side=side)
    kernelfit.find_kernel(image, low, (3, 5), curve="gamma", curve_side="image")  # of which the target is no part


def test_a_fit_is_kept_and_told(tmp_path):
    light, blurred = lights((60, 70))
    image, target = encoded(light), encoded(blurred)
    fit = kernelfit.find_kernel(image, target, (5, 7), curve="gamma")
    fit.save(tmp_path / "fit.npz")
    back = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    assert np.array_equal(back.predict(image), fit.predict(image), equal_nan=True)
    assert back.curve.parameters == fit.curve.parameters and back.curve.stderr == fit.curve.stderr
    assert "curve='gamma'" in fit.reproduce()
    assert "to the power of" in fit.summary()
    assert not kernelfit.check_noise(image, target, fit).coloured
    with pytest.raises(ValueError, match="with a curve"):
        fit.export("scipy")
    with pytest.raises(ValueError, match="with a curve"):
        kernelfit.check_boundary(image, target, fit)


@pytest.mark.slow
def test_the_verdict_names_the_keyword():
    light, blurred = lights((200, 240))
    plain = kernelfit.find_kernel(encoded(light), encoded(blurred), (7, 9))
    assert any("curve='gamma'" in str(f) for f in plain.findings)
    bent = [encoded(one, "monotone", bits=0) for one in (light, blurred)]
    fit = kernelfit.find_kernel(*bent, (7, 9), curve="gamma")
    assert any("take curve='monotone', or" in f.remedy for f in fit.findings)


def test_white_follows_from_the_type_or_the_values():
    light, blurred = lights((40, 50))
    for image, white in ((encoded(light), 255.0), (light, 1.0), (200 * light, 255.0), (1000 * light, 65535.0)):
        fit = kernelfit.find_kernel(image, image, 3, curve="srgb")
        assert fit.curve.scale == (white, white)
    curve = Curve("gamma", "both", np.array([2.0]), np.zeros((1, 1)), (255.0, 65535.0))
    assert_close(curve.image([51.0]), [0.04 * 255], 1e-12)
    assert_close(curve.target([13107.0]), [0.04 * 65535], 1e-12)
    assert_close(curve.shown(np.array([0.04 * 65535])), [13107.0], 1e-12)
