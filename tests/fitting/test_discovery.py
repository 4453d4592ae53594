"""What is not given is found: support, place, size, stride, constant, channels."""

import re

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
from helpers import assert_close, camera
from kernelfit.analysis import place
from kernelfit.api import discover
from kernelfit.core.model import Execution, Selection
from kernelfit.fitting import channel_relation, discovery, spans

KERNEL = np.outer([1, 2, 4, 1.0], [1, 3, 4, 2, 1, 0.5, 0.2]) / 94.0  # 4 x 7: even, off the middle


def picture_of(name):
    return getattr(pytest.importorskip("skimage.data"), name)()


def photograph(rows=150, cols=190):
    return np.asarray(camera()[40 : 40 + rows, 60 : 60 + cols], dtype=float)


def lagged(fit):
    """{(row, col): tap} by the lags of the taps."""
    conv = fit.convention
    assert conv.operation == "convolution"
    at = [np.asarray(lags) - o for lags, o in zip(fit.lags, conv.offset, strict=True)]
    return {(int(r), int(c)): fit.kernel[i, j] for i, r in enumerate(at[0]) for j, c in enumerate(at[1])}


def off(found, expected):
    """Relative difference of two kernels by lags."""
    every = {*found, *expected}
    norm = np.sqrt(sum(v**2 for v in expected.values()))
    return np.sqrt(sum((found.get(d, 0.0) - expected.get(d, 0.0)) ** 2 for d in every)) / norm


def truth(kernel=KERNEL, shift=(0, 0)):
    """The taps of `whole` less a shift, by their lags."""
    return {(r - shift[0], c - shift[1]): kernel[r, c] for r in range(kernel.shape[0]) for c in range(kernel.shape[1])}


@pytest.mark.parametrize(
    ("rows", "cols", "mode"),
    [
        (slice(1, 151), slice(3, 193), "same"),  # SciPy's place
        (slice(0, 150), slice(6, 196), "same"),
        pytest.param(slice(40, 130), slice(17, 188), "crop", marks=pytest.mark.slow),
        (slice(3, 150), slice(6, 190), "valid"),
        (slice(None), slice(None), "full"),
    ],
)
@pytest.mark.parametrize("noise", [pytest.param(0.0, marks=pytest.mark.slow), 0.01])
def test_place_size_and_support(rows, cols, mode, noise):
    image = photograph()
    whole = scipy.signal.convolve2d(image, KERNEL)  # its pixel t is lag 0 of the image's pixel t
    start = (rows.start or 0, cols.start or 0)
    target = whole[rows, cols] + np.random.default_rng(0).normal(0, noise * whole.std(), whole[rows, cols].shape)
    fit = kernelfit.find_kernel(image, target)
    assert fit.convention.mode == mode
    assert fit.predict(image).shape == target.shape
    if noise == 0:
        assert fit.kernel.shape == KERNEL.shape and fit.verdict.ok
        assert off(lagged(fit), truth(shift=start)) < 1e-9
    origin = {"origin": tuple(np.array(start))} if mode in ("same", "crop") else {}
    given = kernelfit.find_kernel(image, target, KERNEL.shape, mode=mode, **origin)
    assert off(lagged(fit), truth(shift=start)) <= 1.3 * off(lagged(given), truth(shift=start)) + 1e-9
    again = eval(f"kernelfit.{fit.reproduce()}", {"kernelfit": kernelfit, "image": image, "target": target})
    assert np.array_equal(again.kernel, fit.kernel) and again.convention == fit.convention
    assert fit.found[0].startswith(f"a kernel of {fit.kernel.shape[0]}x{fit.kernel.shape[1]}") and not again.found
    assert fit.summary().startswith("found ")


@pytest.mark.parametrize(
    "situation",
    [
        "crop",
        "stride",
        "nan",
        "alpha",
        "stamps",
        "signal",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                *("equal", "gray", "mixed", "separate", "boundary", "fill", "constant", "periodic", "parity", "mask"),
                *(
                    "saturated",
                    "photons",
                    "robust",
                    "solver",
                    "selection",
                    "noisy image",
                    "correlation",
                    "strided crop",
                ),
            )
        ),
    ],
)
def test_the_call_written_out_gives_the_same(situation):
    rng, words, image = np.random.default_rng(13), {}, photograph(90, 113)
    target = scipy.signal.convolve2d(image, KERNEL, mode="same") + rng.normal(0, 0.2, image.shape)
    if situation == "crop":
        target = target[13:71, 20:99]
    elif situation == "stride":
        target = target[1::2, ::3]
    elif situation == "strided crop":
        target = target[5:80:2, 30:100:3]
    elif situation == "parity":
        target = target[:-1, :-1]
    elif situation == "nan":
        target[10:14, 30:40], words = np.nan, {"nan": "mask"}
    elif situation == "mask":
        target[10:14, 30:40] = 1e4
        words = {"mask": target == 1e4}
    elif situation == "constant":
        target = target + 7
    elif situation == "saturated":
        words = {"saturated": (None, float(np.quantile(target, 0.95)))}
    elif situation == "photons":
        words = {"noise": (2.0, 1.5), "nan": "mask"}
    elif situation == "robust":
        target[rng.random(target.shape) < 0.002] += 40
        words = {"robust": "tukey"}
    elif situation == "solver":
        words = {"solver": kernelfit.Penalized("gradient", 1e-3)}
    elif situation == "selection":
        words = {"selection": kernelfit.Selection(mask=rng.random(target.shape) < 0.1)}
    elif situation == "noisy image":
        words = {"image_noise": 0.1, "solver": "auto", "method": "direct"}
    elif situation == "correlation":
        words = {"operation": "correlation"}
    elif situation in ("boundary", "fill"):
        image, kernel = photograph(24, 29), rng.dirichlet(np.ones(99)).reshape(9, 11)
        words = {"boundary": "fill", "fillvalue": 50.0} if situation == "fill" else {}
        mode = {"fill": "constant"}.get(situation, "mirror")
        target = scipy.ndimage.convolve(image, kernel, mode=mode, cval=50.0)
    elif situation == "periodic":
        image = np.tile(rng.normal(size=(7, 9)), (10, 9))
        target = scipy.ndimage.convolve(image, np.full((2, 3), 1 / 6), mode="wrap")
    elif situation == "stamps":
        y, x = np.mgrid[-20:21, -22:23]
        image, target = (np.exp(-(x**2 + y**2) / (2 * s**2)) for s in (1.5, 2.5))
    elif situation == "signal":
        image = rng.normal(size=400)
        target, words = scipy.signal.lfilter(response(), 1, image)[40:], {"robust": "huber"}
    elif situation in ("alpha", "equal"):
        planes = [image] * 3 if situation == "equal" else [image, image[::-1], image[:, ::-1]]
        image = np.dstack([*planes, np.full(image.shape, 255.0)]).astype(np.uint8)
        target = scipy.ndimage.convolve(image[..., :3].astype(float), np.full((3, 4, 1), 1 / 12))
    elif situation in ("gray", "mixed", "separate"):
        image = colours()
        blurred = scipy.ndimage.convolve(image, np.full((1, 3, 1), 1 / 3))
        own = np.dstack([blurred[..., 0], np.roll(blurred[..., 1], 1, axis=1), blurred[..., 2]])
        mix = [[0.6, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.3, 0.7]]
        target = {"gray": blurred @ [0.3, 0.6, 0.1], "mixed": blurred @ mix, "separate": own}[situation]
    fit = kernelfit.find_kernel(image, target, **words)
    names = {"kernelfit": kernelfit, "image": image, "target": target, **words}
    again = eval(f"kernelfit.{fit.reproduce()}", names)
    assert np.array_equal(again.kernel, fit.kernel) and again.convention == fit.convention
    assert again.r_squared > 0.99


def test_a_shift_keeps_a_small_support():
    image = photograph(200, 260)
    target = np.zeros_like(image)
    target[37:, :-52] = scipy.ndimage.convolve(image, np.full((3, 5), 1 / 15))[:-37, 52:]
    target += np.random.default_rng(1).normal(0, 0.5, target.shape)
    target[:37], target[:, -52:] = 7.0, 9.0  # what came in from beyond
    fit = kernelfit.find_kernel(image, target)
    assert fit.kernel.shape == (3, 5) and fit.convention.origin == (1 - 37, 2 + 52)
    assert any("shifted by 37 rows and -52 columns" in words for words in fit.found)


@pytest.mark.parametrize(("stride", "first"), [((2, 2), (1, 0)), ((3, 2), (2, 1)), ((1, 4), (0, 3))])
def test_stride_and_phase(stride, first):
    image = photograph(181, 223)
    whole = scipy.signal.convolve2d(image, KERNEL, mode="same")
    target = whole[first[0] :: stride[0], first[1] :: stride[1]]
    target = target + np.random.default_rng(2).normal(0, 0.1, target.shape)
    fit = kernelfit.find_kernel(image, target)
    assert fit.convention.stride == stride
    centre = [(k - 1) // 2 for k in KERNEL.shape]
    assert off(lagged(fit), truth(shift=[c + f for c, f in zip(centre, first, strict=True)])) < 0.02
    assert fit.predict(image).shape == target.shape


@pytest.mark.parametrize(
    ("stride", "first", "count", "noise"),
    [
        ((2, 3), (15, 31), (60, 45), 0.1),
        pytest.param((3, 1), (0, 40), (33, 90), 0.1, marks=pytest.mark.slow),
        pytest.param((4, 7), (21, 12), (30, 25), 0.0, marks=pytest.mark.slow),
        pytest.param((8, 5), (5, 66), (17, 27), 0.0, marks=pytest.mark.slow),
    ],
)
def test_a_stride_of_a_crop(stride, first, count, noise):
    """The sizes tell nothing of it."""
    image = photograph(181, 223)
    whole = scipy.signal.convolve2d(image, KERNEL, mode="same")[first[0] : :, first[1] :]
    target = whole[:: stride[0], :: stride[1]][: count[0], : count[1]]
    assert target.shape == count
    target = target + np.random.default_rng(12).normal(0, noise, count)
    fit = kernelfit.find_kernel(image, target)
    conv, centre = fit.convention, [(k - 1) // 2 for k in KERNEL.shape]
    assert conv.stride == stride and conv.mode == "crop" and conv.size == count
    assert off(lagged(fit), truth(shift=[c + f for c, f in zip(centre, first, strict=True)])) < 0.05
    if fit.kernel.shape == KERNEL.shape:
        assert conv.offset == tuple(f % s for f, s in zip(first, stride, strict=True))
    again = eval(f"kernelfit.{fit.reproduce()}", {"kernelfit": kernelfit, "image": image, "target": target})
    assert np.array_equal(again.kernel, fit.kernel)


@pytest.mark.slow
def test_every_few_pixels_of_a_part_of_noise():
    """Means over the stride do not show what was not blurred."""
    image = np.random.default_rng(4).normal(size=(170, 210))
    fit = kernelfit.find_kernel(image, image[10:130:5, 33:170:6])
    assert fit.kernel.shape == (1, 1) and fit.convention.stride == (5, 6) and fit.convention.offset == (0, 3)


def test_every_third_pixel_of_the_image_itself():
    image = photograph(100, 130)
    fit = kernelfit.find_kernel(image, image[2::3, 1::3])
    assert fit.kernel.shape == (1, 1) and fit.convention.offset == (2, 1) and fit.convention.stride == (3, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "ratio"), [((59, 78), r"3\.0"), ((61, 80), r"2\.95"), ((89, 121), r"2\.02"), ((119, 78), r"1\.513")]
)
def test_a_ratio_that_is_not_whole_is_said(shape, ratio):
    image = photograph(180, 240)
    zoom = [m / n for m, n in zip(shape, image.shape, strict=True)]
    small = scipy.ndimage.zoom(image, zoom, order=1, grid_mode=True, mode="nearest")
    assert small.shape == shape
    with pytest.raises(ValueError, match=f"ratio.* {ratio}"):
        kernelfit.find_kernel(image, small)


def test_a_constant_is_kept_if_it_is_one():
    image = camera()[40:190, 60:250]
    made = scipy.ndimage.convolve(image.astype(float), np.full((3, 4), 1 / 12))
    fit = kernelfit.find_kernel(image, made.astype(np.uint8))  # cut off, not rounded
    assert fit.background.degree == 0 and fit.background.coefficients.ravel()[0] == pytest.approx(-0.48, abs=0.03)
    assert fit.kernel.shape == (3, 4)
    assert kernelfit.find_kernel(image, np.rint(made).astype(np.uint8)).kernel.shape == (3, 4)
    assert kernelfit.find_kernel(image, made).background is None
    assert kernelfit.find_kernel(image, made + 2, background=None).background is None


def test_unrelated_pairs_are_refused():
    rng = np.random.default_rng(3)
    image = photograph()
    for target in (rng.normal(size=(150, 190)), picture_of("brick")[:190, :150] * 1.0, rng.random((90, 200))):
        with pytest.raises(ValueError, match="no kernel relates"):
            kernelfit.find_kernel(image, target)
    mask = np.zeros((60, 71), bool)
    mask[20:30, 40:] = True
    with pytest.raises(ValueError, match="no kernel relates"):
        kernelfit.find_kernel(*rng.normal(size=(2, 60, 71)), mask=mask)
    with pytest.raises(ValueError, match="without shape"):
        kernelfit.find_kernel(image, image, origin=2)


def test_complex_pairs_need_a_shape():
    image = photograph() + 1j
    for pair in ((image, image.real), (image.real, image), ([image], [image]), (image.real.tolist(), image.tolist())):
        with pytest.raises(TypeError, match="give shape="):
            kernelfit.find_kernel(*pair)


def test_the_first_span_holds_what_stands_out():
    """A wide kernel does so as a whole, wherever it lies and though its largest tap is at one end."""
    rng = np.random.default_rng(1)
    response = rng.normal(0.0, 0.01, (128, 160)).astype(np.float32)
    rows, cols = np.arange(-9, -2), np.arange(5, 16)
    response[np.ix_(rows, cols)] += np.outer(np.linspace(1.0, 0.3, 7), np.linspace(0.4, 1.0, 11)).astype(np.float32)
    box, height = place.first_box(response, (100, 120), (100, 120))
    assert box == (-9, -2, 5, 16) and height > 50


@pytest.mark.slow
def test_masks_and_correlation():
    image = photograph()
    target = scipy.ndimage.correlate(image, KERNEL)
    target[30:50, 60:100] = 1e4
    mask = target == 1e4
    fit = kernelfit.find_kernel(image, target, mask=mask, operation="correlation")
    assert_close(fit.kernel, KERNEL, 1e-9)
    assert fit.convention.origin == (2, 3)
    holes = np.where(mask, np.nan, target)
    assert_close(kernelfit.find_kernel(image, holes, nan="mask").kernel, KERNEL[::-1, ::-1], 1e-9)


def colours(rows=120, cols=140):
    image = np.stack([photograph(rows, cols)[::d, ::e] for d, e in ((1, 1), (-1, 1), (1, -1))], axis=-1)
    return image + 0.3 * np.roll(image, 1, axis=-1)


@pytest.mark.slow
def test_channels():
    image, rng = colours(), np.random.default_rng(4)
    box = np.full((3, 4, 1), 1 / 12)
    blurred = scipy.ndimage.convolve(image, box)
    noisy = blurred + rng.normal(0, 0.2, image.shape)
    shared = kernelfit.find_kernel(image, noisy)
    assert shared.channels == "shared" and shared.kernel.shape in ((3, 4), (4, 4), (3, 5))  # one empty side may stay
    alpha = np.dstack([np.rint(image), np.full(image.shape[:2], 255)]).astype(np.uint16)
    fit = kernelfit.find_kernel(alpha, scipy.ndimage.convolve(np.rint(image), box))
    assert fit.kernel.shape == (3, 4) and any("alpha channel of the image" in words for words in fit.found)
    own = np.stack([noisy[..., 0], np.roll(noisy[..., 1], 1, axis=1), noisy[..., 2]], axis=-1)
    assert kernelfit.find_kernel(image, own).channels == "separate"
    mixed = kernelfit.find_kernel(image, blurred @ [[0.6, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.3, 0.7]])
    assert mixed.channels == "mixed" and mixed.kernel.shape[:2] == (3, 3) and mixed.r_squared > 1 - 1e-9
    gray = kernelfit.find_kernel(image, blurred @ [0.3, 0.6, 0.1])
    assert gray.kernel.shape[:2] == (1, 3)
    assert_close(gray.kernel.sum(axis=(-2, -1))[0], [0.3, 0.6, 0.1], 1e-3)
    equal = kernelfit.find_kernel(np.repeat(image[..., :1], 3, axis=-1), blurred[..., 0])
    assert equal.kernel.shape == (3, 4) and any("channels of the image are equal" in words for words in equal.found)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [(0.299, 0.587, 0.114), (0.2126, 0.7152, 0.0722), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
@pytest.mark.parametrize("picture, stride", [("astronaut", 1), ("coffee", 2)])
def test_a_gray_picture_of_colours(picture, stride, weights):
    """What no kernel makes of the mean of the channels looks like a larger kernel, or a scale."""
    image = getattr(pytest.importorskip("skimage.data"), picture)()[:240, :300]
    down, across = (np.exp(-np.square(np.arange(n) - n // 2) / 3.0) for n in (7, 9))
    taps = np.outer(down / down.sum(), across / across.sum())
    target = np.rint(scipy.ndimage.convolve(image @ np.array(weights), taps))[::stride, ::stride].astype(np.uint8)
    fit = kernelfit.find_kernel(image, target)
    assert fit.channels == "mixed" and fit.verdict.ok and fit.convention.stride == (stride, stride)
    assert fit.kernel.shape[1] == 3 and all(k <= 11 for k in fit.kernel.shape[2:])
    np.testing.assert_allclose(fit.kernel.sum(axis=(0, 2, 3)), weights, atol=0.01)


def test_a_target_of_two_values_is_no_kernel():
    image = np.random.default_rng(0).normal(size=(60, 75))
    fit = kernelfit.find_kernel(image, image > 0.3)
    assert fit.kernel.shape == (1, 1) and not fit.verdict.ok


@pytest.mark.slow
@pytest.mark.parametrize("differ", [False, True])
def test_a_wide_kernel_of_all_colours_is_shared_unless_its_ends_differ(differ):
    """Its middle, which tells whether colours are mixed, leaves something of each colour."""
    image, (y, x) = pytest.importorskip("skimage.data").astronaut()[:300, :340], np.mgrid[:21, :19]
    taps = np.exp(-((y - 3) ** 2 + (x - 4) ** 2) / 8) + 0.7 * np.exp(-((y - 16) ** 2 + (x - 13) ** 2) / 10)
    every = [taps / taps.sum()] * 3
    if differ:
        taps = np.where(y < 4, 1.3 * taps, taps)
        every[1] = taps / taps.sum()
    planes = [scipy.ndimage.convolve(image[..., i].astype(float), every[i]) for i in range(3)]
    target = np.stack(planes, axis=-1) + np.random.default_rng(0).normal(0, 1, image.shape)
    assert kernelfit.find_kernel(image, target).channels == ("separate" if differ else "shared")


def test_pairs_share_what_the_first_tells(tmp_path):
    images = [photograph(), photograph()[::-1]]
    targets = [scipy.ndimage.convolve(image, KERNEL) for image in images]
    fit = kernelfit.find_kernel(images, targets)
    assert fit.kernel.shape == KERNEL.shape and fit.found[-1].startswith("found in the first pair")
    fit.save(tmp_path / "fit.npz")
    assert kernelfit.KernelFit.load(tmp_path / "fit.npz").found == fit.found


@pytest.mark.slow
def test_saturated_colours_are_left_out_of_the_first_look():
    """The mean of the channels no longer tells that one of them was cut."""
    colour = np.stack([np.roll(photograph(), 31 * c, axis=0) for c in range(3)], axis=-1)
    kernel = KERNEL[:3, :4] / KERNEL[:3, :4].sum()
    target = np.stack([scipy.ndimage.convolve(colour[..., c], kernel) for c in range(3)], axis=-1)
    most = float(np.quantile(target, 0.9))
    cut = np.minimum(target, most)
    assert 0.1 < (cut == most).any(axis=-1).mean() < 0.5
    fit = kernelfit.find_kernel(colour, cut, saturated=(None, most))
    assert fit.kernel.shape == (3, 4) and fit.r_squared > 1 - 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("edge", ["copied", "blank"])
def test_pixels_at_the_edges_that_the_kernel_did_not_make_do_not_count(edge, turned):
    """Filters of 3 x 3 and 5 x 5 copy what their zeros reach beyond, whichever side the others lie on."""
    image = np.rint(photograph()).astype(np.uint8)
    for taps in ([[0.5, 0.25], [0.25, 0.0]], [[0.0, 0.25], [0.25, 0.5]], [[0.5], [0.2]]):
        made = np.rint(scipy.ndimage.convolve(image.astype(float), np.pad(taps, ((1, 2), (2, 1))))).astype(np.uint8)
        target = image.copy() if edge == "copied" else np.zeros_like(image)
        target[2:-2, 2:-2] = made[2:-2, 2:-2]
        pair = [a.T.copy() if turned else a for a in (image, target)]
        fit = kernelfit.find_kernel(*pair)
        assert fit.verdict.ok and fit.noise_std < 0.3
        assert fit.kernel.max() == pytest.approx(0.5, abs=0.01) and max(fit.kernel.shape) <= 5
        assert any("not made by it" in word for word in fit.found)
    target = np.rint(scipy.ndimage.convolve(image.astype(float), np.ones((2, 3)) / 6)).astype(np.uint8)
    assert kernelfit.find_kernel(image, target).kernel.shape == (2, 3)


def test_correlated_noise_is_no_motion():
    image, rng = photograph(120, 140), np.random.default_rng(5)
    noise = 3 * scipy.ndimage.gaussian_filter(rng.normal(size=image.shape), 1.0)
    fit = kernelfit.find_kernel(image, scipy.ndimage.convolve(image, KERNEL) + noise)
    assert kernelfit.Verdict.COLOURED_NOISE in {f.verdict for f in fit.findings} and fit.registration is None


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 90])
def test_a_part_tells_where_many_pixels_are_saturated(monkeypatch, shift):
    """Unless the kernel lies far off; all pixels are fitted."""
    image = np.clip(2 * camera()[:400, :370].astype(float) - 150, 0, 255).astype(np.uint8)
    made = np.clip(np.rint(1.1 * scipy.ndimage.convolve(image.astype(float), KERNEL)), 0, 255).astype(np.uint8)
    target, sizes, look = np.roll(made, shift, axis=0), [], discover.discover
    monkeypatch.setattr(discover, "discover", lambda *a, **k: sizes.append(a[1].shape) or look(*a, **k))
    fit = kernelfit.find_kernel(image, target)
    assert 0.9 * 2**16 < np.prod(sizes[0]) < 1.1 * 2**16 and (len(sizes) == 1 or sizes[1] == target.shape)
    assert (len(sizes) > 1) == (shift > 0)
    assert off(lagged(fit), {d: 1.1 * v for d, v in truth(shift=(2 - shift, 3)).items()}) < 0.05


@pytest.mark.slow
def test_a_motion_goes_with_what_is_found():
    image = photograph(140, 170)
    turn = np.deg2rad(0.3)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = (np.array(image.shape) - 1) / 2
    turned = scipy.ndimage.affine_transform(image, matrix, middle - matrix @ middle, order=5, mode="mirror")
    target = scipy.ndimage.gaussian_filter(turned, (1.2, 0.8)) + np.random.default_rng(0).normal(0, 0.3, image.shape)
    plain, fit = (kernelfit.find_kernel(image, target, **words) for words in ({"method": "fft"}, {"register": "rigid"}))
    own = kernelfit.find_kernel(image, target)  # found by itself where nothing at all is given
    assert plain.registration is None and own.registration.kind == "affine" and own.noise_std < 0.6 * plain.noise_std
    assert "by an affine motion" in own.found[-1] and "register='affine'" in own.reproduce()
    angle, error = fit.registration.parameters["rotation"]
    assert abs(abs(angle) - 0.3) < 5 * error < 0.05 and fit.noise_std < 0.6 * plain.noise_std
    assert fit.found[-1].startswith("found without the motion")
    again = eval(f"kernelfit.{fit.reproduce()}", {"kernelfit": kernelfit, "image": image, "target": target})
    assert np.array_equal(again.kernel, fit.kernel)
    assert np.array_equal(again.registration.matrix, fit.registration.matrix)


def test_what_is_doubted_without_a_motion_is_not_doubted_with_it():
    image = photograph(140, 170)
    turn = np.deg2rad(1.0)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = (np.array(image.shape) - 1) / 2
    turned = scipy.ndimage.affine_transform(image, matrix, middle - matrix @ middle, order=5, mode="mirror")
    target = scipy.ndimage.gaussian_filter(turned, (1.2, 0.8)) + np.random.default_rng(0).normal(0, 0.3, image.shape)
    fit = kernelfit.find_kernel(image, target, register="rigid")
    assert any("nearest to what was done" in words for words in fit.found)  # without the motion
    assert fit.verdict.ok
    median = scipy.ndimage.median_filter(image, 5)
    for motion in ("shift", "rigid"):
        assert kernelfit.find_kernel(image, median, register=motion).verdict.name == "NONLINEAR"


def test_an_image_of_one_row():
    """The rows of the span are the first that there are no pixels for."""
    row = np.random.default_rng(1).normal(size=(1, 300))
    fit = kernelfit.find_kernel(row, scipy.signal.convolve2d(row, [[1.0, 2, 4]], mode="same"))
    np.testing.assert_allclose(fit.kernel, [[1, 2, 4]], atol=1e-9)


@pytest.mark.parametrize(
    ("image", "target", "keywords", "says"),
    [
        (np.full((20, 30), 3.0), None, {}, "image of one value, 3"),
        (np.full((20, 30), 3, dtype=np.uint8), None, {}, "image of one value, 3"),
        (np.full((20, 30), np.nan), None, {}, "image without a finite pixel"),
        (None, np.full((20, 30), np.inf), {}, "target without a finite pixel"),
        (None, None, {"mask": np.ones((20, 30), dtype=bool)}, "target without a finite pixel"),
        (np.ones((1, 1)), np.ones((1, 1)), {}, "image of one value, 1"),
        (np.random.default_rng(1).normal(1e9, 1, (20, 30)), None, {}, r"image of one value, 1e\+09, or nearly so"),
    ],
)
def test_pairs_that_tell_nothing_are_refused(image, target, keywords, says):
    usual = np.random.default_rng(0).normal(size=(20, 30))
    with pytest.raises(ValueError, match=f"got {says}.*, need "):
        kernelfit.find_kernel(usual if image is None else image, usual if target is None else target, **keywords)


@pytest.mark.parametrize("image_unit, target_unit", [(1e30, 1e-30), (1e-50, 1e50), (1e100, 1.0)])
def test_any_units(image_unit, target_unit):
    """The first look is in single precision."""
    image = np.random.default_rng(2).normal(5, 1, (60, 75))
    target = scipy.signal.convolve2d(image, KERNEL[:2, :3], mode="same")
    fit = kernelfit.find_kernel(image * image_unit, target * target_unit)
    np.testing.assert_allclose(fit.kernel * (image_unit / target_unit), KERNEL[:2, :3], rtol=1e-6)
    with pytest.raises(ValueError, match="got image with values up to .*overflow; divide both by a constant"):
        kernelfit.find_kernel(image * 1e200, target)
    with pytest.raises(ValueError, match="got target with values up to .*underflow; multiply both by a constant"):
        kernelfit.find_kernel(image, target * 1e-155)


def test_pairs_of_different_sizes():
    images = [photograph(), photograph(131, 167)]
    targets = [scipy.signal.convolve2d(one, KERNEL[:3, :4], mode="same") for one in images]
    np.testing.assert_allclose(kernelfit.find_kernel(images, targets).kernel, KERNEL[:3, :4], atol=1e-9)


def response(count=30):
    """A response that decays and changes its sign, the largest tap not the first."""
    return np.exp(-np.arange(count) / 6) * np.random.default_rng(7).normal(size=count)


@pytest.mark.parametrize(
    ("part", "fields"),
    [
        (slice(None), {"mode": "same", "origin": (0,)}),
        (slice(100, 600), {"mode": "crop", "origin": (100,), "size": (500,)}),
        (slice(3, None, 4), {"mode": "same", "stride": (4,)}),
        (slice(29, None), {"mode": "valid"}),
    ],
)
def test_signals(part, fields):
    signal, taps = np.random.default_rng(0).normal(size=800), response()
    target = scipy.signal.lfilter(taps, 1, signal)[part]
    fit = kernelfit.find_kernel(signal, target)
    assert fit.verdict.ok and fit.kernel.shape == (30,) and fit.predict(signal).shape == target.shape
    assert {name: getattr(fit.convention, name) for name in fields} == fields
    assert_close(fit.kernel, taps, 1e-9)
    assert fit.found[0].startswith("a kernel of 30 taps, which") and not any("row" in words for words in fit.found)
    again = eval(f"kernelfit.{fit.reproduce()}", {"kernelfit": kernelfit, "image": signal, "target": target})
    assert np.array_equal(again.kernel, fit.kernel)


def test_series_of_signals_and_channels():
    rng, taps = np.random.default_rng(1), response()
    signals = rng.normal(size=(2, 700))
    targets = scipy.signal.lfilter(taps, 1, signals) + 3
    for pair, keywords in (
        ((list(signals), list(targets)), {}),
        ((signals.T, targets.T), {"channel_axis": -1}),
        ((signals[0].tolist(), targets[0].tolist()), {}),
    ):
        fit = kernelfit.find_kernel(*pair, **keywords)
        assert_close(fit.kernel, taps, 1e-9)
        np.testing.assert_allclose(fit.background.coefficients.ravel(), 3)
    with pytest.raises(ValueError, match=r"no kernel relates \(signal 700, target 600"):
        kernelfit.find_kernel(signals[0], rng.normal(size=600))


def test_a_span_grows_where_it_has_to_even_without_room_to_grow_everywhere():
    """Of 24 x 24 pixels a kernel of 2 x 7 has too few for a square that holds it, and for all sides to grow at once."""
    kernel, photo = np.random.default_rng(2).dirichlet(np.ones(14)).reshape(2, 7), photograph()
    for start in (10, 40, 90):
        whole = scipy.signal.convolve2d(photo[start:, start:], kernel)[20:44, 23:47]
        fit = kernelfit.find_kernel(photo[start + 20 : start + 44, start + 20 : start + 44], whole)
        assert fit.kernel.shape == (2, 7) and off(lagged(fit), truth(kernel, (0, 3))) < 1e-6


@pytest.mark.parametrize(
    ("mode", "boundary"),
    [
        ("reflect", "symm"),
        *(
            pytest.param(*both, marks=pytest.mark.slow)
            for both in (("mirror", "mirror"), ("nearest", "nearest"), ("wrap", "wrap"), ("constant", "fill"))
        ),
    ],
)
@pytest.mark.parametrize("noise", [0.05, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_boundary_is_used_where_the_pair_is_too_small_without_one(mode, boundary, noise):
    rng, image = np.random.default_rng(6), photograph(26, 31)
    kernel = rng.dirichlet(np.ones(117)).reshape(13, 9)
    target = scipy.ndimage.convolve(image, kernel, mode=mode) + rng.normal(0, noise, image.shape)
    fit = kernelfit.find_kernel(image, target)
    assert fit.kernel.shape == kernel.shape and fit.convention.boundary == boundary and fit.n_pixels == image.size
    given = kernelfit.find_kernel(image, target, kernel.shape, boundary=boundary)
    assert off(lagged(fit), truth(kernel, (6, 4))) <= 1.1 * off(lagged(given), truth(kernel, (6, 4))) + 1e-9
    assert sum(f"boundary={boundary!r} is assumed" in words for words in fit.found) == 1


def test_a_boundary_is_not_used_where_the_pixels_inside_do():
    image = photograph()[60:120, 90:161]
    for noise in (0.05, 4.0):
        target = scipy.ndimage.convolve(image, KERNEL) + np.random.default_rng(3).normal(0, noise, image.shape)
        assert kernelfit.find_kernel(image, target).convention.boundary is None


def test_too_few_pixels_for_the_taps_are_said():
    rng, photo = np.random.default_rng(5), photograph()
    whole = scipy.signal.convolve2d(photo, rng.dirichlet(np.ones(81)).reshape(9, 9))[24:48, 24:48]
    fit = kernelfit.find_kernel(photo[20:44, 20:44], whole)
    assert fit.kernel.size < 81 and kernelfit.Verdict.SHAPE_TOO_SMALL in {f.verdict for f in fit.findings}
    assert any("are too few" in f.detail and "use more pixels" in f.text for f in fit.findings)


@pytest.mark.parametrize("degrees", [(1, 2), (2, 3)])
def test_surfaces_do_not_determine_a_kernel(degrees):
    y, x = np.mgrid[:60, :72] / 60.0
    image, target = (1 + y**d + x * y * d - x**d for d in degrees)
    with pytest.raises(ValueError, match="no kernel relates"):
        fit = kernelfit.find_kernel(image, target)
        raise ValueError("no kernel relates" if not fit.verdict.ok else "solved")


@pytest.mark.parametrize(
    ("first", "count"),
    [pytest.param((47, 22), (86, 118), marks=pytest.mark.slow), ((30, 10), (75, 87))],
)
def test_a_cut_of_about_half_the_sides_is_no_stride(first, count):
    """Both explain most of a smooth target; that the halves of a cut drift against each other as if strided tells."""
    image, kernel = photograph(150, 171), np.array([[0.1, 0.3, 0.2], [0.05, 0.25, 0.1]])
    whole = scipy.signal.convolve2d(image, kernel)
    target = whole[first[0] : first[0] + count[0], first[1] : first[1] + count[1]]
    target = target + np.random.default_rng(6).normal(0, 0.2, target.shape)
    fit = kernelfit.find_kernel(image, target)
    assert fit.convention.mode == "crop" and fit.convention.stride == (1, 1) and fit.verdict.ok
    assert off(lagged(fit), truth(kernel, first)) < 0.05


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_tile_over_and_over(noise):
    """The kernel is looked for within a period, and that others are as good is said."""
    rng = np.random.default_rng(8)
    tile = np.tile(rng.normal(size=(7, 9)), (10, 9))
    target = scipy.ndimage.convolve(tile, np.full((2, 3), 1 / 6), mode="wrap") + rng.normal(0, noise, tile.shape)
    fit = kernelfit.find_kernel(tile, target)
    assert fit.kernel.shape == (2, 3) and fit.verdict is kernelfit.Verdict.RANK_DEFICIENT
    assert any("repeats itself" in finding.detail for finding in fit.findings)
    assert fit.r_squared > 1 - 1e-9 - 20 * noise**2


def test_a_period_is_that_of_the_pixels():
    rng = np.random.default_rng(3)
    assert place.period(np.tile(rng.normal(size=(12, 16)), (8, 9))) == (11, 15)
    rows = np.repeat(rng.normal(size=(1, 90)), 70, axis=0) + 0.01 * rng.normal(size=(70, 90))
    for image in (photograph(), rng.normal(size=(90, 70)), scipy.ndimage.gaussian_filter(photograph(), 2.0), rows):
        assert place.period(image) is None


def test_a_span_that_grows_reads_the_pixels_once(monkeypatch):
    """The sums are those of a wider span, from which each step takes its own."""
    y, x = np.mgrid[-7:8, -6:7]
    kernel = np.exp(-(np.abs(y) + np.abs(x)) / 2.0)
    image, passes, steps = photograph(), [], []
    target = scipy.ndimage.convolve(image, kernel / kernel.sum())
    target += np.random.default_rng(5).normal(0, 0.02, target.shape)
    sums, fit = spans.Pair.sums, spans.Pair.fit
    monkeypatch.setattr(spans.Pair, "sums", lambda pair, *a: passes.append(a[0]) or sums(pair, *a))
    monkeypatch.setattr(spans.Pair, "fit", lambda pair, *a: steps.append(a[0]) or fit(pair, *a))
    found = kernelfit.find_kernel(image, target)
    assert len(passes) == 1 and len(steps) > 1 and steps[0] != steps[-1]
    assert off(lagged(found), truth(kernel / kernel.sum(), (7, 6))) < 0.05


@pytest.mark.parametrize(
    ("mode", "boundary"),
    [
        ("constant", "fill"),
        *(pytest.param(*b, marks=pytest.mark.slow) for b in (("reflect", "symm"), ("wrap", "wrap"))),
    ],
)
def test_the_boundary_is_named_and_not_used(mode, boundary):
    image = photograph(90, 110)
    target = scipy.ndimage.convolve(image, KERNEL, mode=mode)
    target += np.random.default_rng(9).normal(0, 0.3, image.shape)
    fit = kernelfit.find_kernel(image, target)
    assert fit.convention.boundary is None
    (note,) = [note for note in fit.notes if "edges" in note]
    assert f"go with boundary={boundary!r}" in note and note in fit.summary()
    assert f"the {kernelfit.check_boundary(image, target, fit).n_pixels} pixels" in note
    assert not any("go with" in note for note in kernelfit.find_kernel(image, target, boundary=boundary).notes)
    target[:4] += np.random.default_rng(10).normal(0, 40, (4, 110))
    assert not any("go with" in note for note in kernelfit.find_kernel(image, target).notes)


def laid_otherwise(array, how):
    """Return an array laid as words say."""
    return {
        "turned by 90 degrees to the left": lambda a: np.rot90(a),
        "turned by 180 degrees": lambda a: a[::-1, ::-1],
        "turned by 90 degrees to the right": lambda a: np.rot90(a, 3),
        "mirrored left to right": lambda a: a[:, ::-1],
        "transposed": lambda a: np.swapaxes(a, 0, 1),
        "mirrored top to bottom": lambda a: a[::-1],
        "transposed and turned by 180 degrees": lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    }[how](array)


@pytest.mark.parametrize(
    "how",
    [
        "turned by 90 degrees to the left",
        "turned by 180 degrees",
        "turned by 90 degrees to the right",
        "mirrored left to right",
        "transposed",
        "mirrored top to bottom",
        "transposed and turned by 180 degrees",
    ],
)
def test_how_a_target_was_turned_is_said_and_undone_by_what_the_error_gives(how):
    picture = camera()[60:300, 100:440].astype(float)
    kernel = np.outer(scipy.signal.windows.gaussian(7, 1.2), scipy.signal.windows.gaussian(5, 0.9))
    blurred = scipy.signal.convolve2d(picture, kernel / kernel.sum(), mode="same", boundary="symm")
    target = laid_otherwise(blurred, how) + np.random.default_rng(3).normal(0, 2.0, laid_otherwise(blurred, how).shape)
    with pytest.raises(ValueError, match=f"looks like the image {how}, need both to lie alike: give ") as caught:
        kernelfit.find_kernel(picture, target)
    code = re.search(r"give (.*), or turn the file", str(caught.value))[1]
    turned = eval(code, {"numpy": np, "image": picture})
    fit = kernelfit.find_kernel(turned, target)
    made = laid_otherwise(kernel / kernel.sum(), how)
    assert fit.verdict.ok
    rows, cols = ((n - m) // 2 for n, m in zip(fit.kernel.shape, made.shape, strict=True))
    assert rows >= 0
    np.testing.assert_allclose(fit.kernel[rows : rows + made.shape[0], cols : cols + made.shape[1]], made, atol=0.02)


@pytest.mark.parametrize(("rows", "cols"), [(0.667, 0.667), (1.5, 1.5), (2.0, 2.0), (0.4, 0.4), (0.8, 0.6)])
def test_a_target_scaled_by_a_ratio_that_is_no_stride_is_refused_with_the_ratio(rows, cols):
    picture = picture_of("coffee")[40:280, 90:420].mean(axis=2)
    target = scipy.ndimage.zoom(
        scipy.ndimage.gaussian_filter(picture, 1.5), (rows, cols), order=3, grid_mode=True, mode="nearest"
    )
    target += np.random.default_rng(5).normal(0, 1.0, target.shape)
    ratio = f"{picture.shape[0] / target.shape[0]:.4g} and {picture.shape[1] / target.shape[1]:.4g}"
    with pytest.raises(ValueError, match="scaled|ratio") as caught:
        kernelfit.find_kernel(picture, target)
    assert ratio in str(caught.value) or f"a ratio of {picture.shape[0] / target.shape[0]:.5g}" in str(caught.value)


def test_noise_does_not_turn_what_lies_as_it_should():
    """Nor does a stride, a part of the scene, or a picture that is its own mirror image."""
    rng = np.random.default_rng(8)
    picture = camera()[100:400, 60:420].astype(float)
    blurred = scipy.ndimage.gaussian_filter(picture, (2.0, 1.5))
    noisy = blurred + rng.normal(0, 60.0, blurred.shape)
    assert kernelfit.find_kernel(picture, noisy).convention.mode == "same"
    assert kernelfit.find_kernel(picture, noisy[::2, ::2]).convention.stride == (2, 2)
    assert kernelfit.find_kernel(picture, noisy[40:239:2, 30:301:2]).convention.stride == (2, 2)
    both = picture + picture[:, ::-1]
    blurred = scipy.ndimage.gaussian_filter(both, (2.0, 1.5)) + rng.normal(0, 60.0, both.shape)
    assert kernelfit.find_kernel(both, blurred).convention.mode == "same"


def test_many_taps_are_mixed_only_where_that_leaves_far_less():
    """As the errors of a palette do not: each channel has a little of the others in them."""
    rng = np.random.default_rng(11)
    image = rng.normal(size=(140, 170, 3))
    kernel = rng.random((3, 5))
    made = np.stack([scipy.ndimage.convolve(image[..., c], kernel, mode="wrap") for c in range(3)], axis=-1)
    for share, at_many in ((0.43, ("shared", "separate")), (3.0, ("mixed",))):
        target = made + share**0.5 * np.roll(image, 1, axis=-1) + rng.normal(size=image.shape)
        for shape, expected in (((3, 5), ("mixed",)), ((31, 33), at_many)):
            fields = {"shape": shape, "mode": "same"}
            assert channel_relation.channels_of(image, target, fields, Selection(), Execution())[0] in expected


@pytest.mark.parametrize("levels", [1, 255])
def test_integers_are_so_as_floating_point_numbers_too(levels):
    """Errors of rounding are not white: supports are tested against more of them, whatever the type."""
    image = photograph()
    target = np.rint(scipy.ndimage.convolve(image, KERNEL)) / levels

    def rounding(values):
        return spans.Pair(image, values, Selection(), Execution()).rounding

    assert rounding(target) == pytest.approx(1 / 6 / levels**2)
    assert rounding(target.astype(np.float32)) == pytest.approx(1 / 6 / levels**2)
    for other in (target + 0.3 / levels, 1e-30 * target, np.sqrt(2) * target, np.zeros((7, 9))):
        assert rounding(other) < 1e-20


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_means_of_blocks_that_were_rounded(dtype):
    image = scipy.ndimage.gaussian_filter(photograph(144, 210), 0.4)
    for step in ((2, 2), (2, 3), (3, 2)):
        target = image.reshape(144 // step[0], step[0], 210 // step[1], step[1]).mean(axis=(1, 3))
        pair = [np.rint(part).astype(dtype) for part in (image, target)]
        fit = kernelfit.find_kernel(*pair)
        assert (fit.kernel.shape, fit.convention.stride) == (step, step)


@pytest.mark.parametrize("weak", [0.0, 0.0004])
def test_sides_go_at_once_only_if_all_of_them_are_empty(weak):
    """Taps each of which hardly stands out are something together."""
    image = photograph()
    kernel = np.full((11, 13), weak) * np.where(np.add.outer(np.arange(11), np.arange(13)) % 2, 1, -1)
    kernel[4:6, 5:8] = 1 / 6
    target = scipy.ndimage.convolve(image, kernel) + np.random.default_rng(0).normal(0, 0.3, image.shape)
    pair = spans.Pair(image, target, Selection(), Execution())
    sums = pair.sums((-6, 7, -7, 8), (1, 1))
    whole = pair.fit(sums.box, (1, 1), sums)
    assert (whole.core(0), whole.core(2)) == ((-1, 1, -1, 2), (-4, 4, -4, 5))
    assert [whole.allows(pair.fit(whole.core(margin), (1, 1), sums)) for margin in (0, 2)] == 2 * [weak == 0]


def test_what_is_known_to_rounding_is_looked_at_no_wider(monkeypatch):
    image, widest = photograph(240, 300), []
    sums = spans.Pair.sums
    monkeypatch.setattr(spans.Pair, "sums", lambda pair, *a: widest.append(spans.count_of(a[0])) or sums(pair, *a))
    for target in (image.reshape(60, 4, 75, 4).mean(axis=(1, 3)), image[1::4, 2::4]):
        assert kernelfit.find_kernel(image, target).kernel.size in (16, 1)
    assert len(widest) == 2 and max(widest) <= spans.FEW_TAPS


@pytest.mark.parametrize(("noise", "shift", "searches"), [(0.05, 0, 1), (0.6, 0, 1), (0.05, 70, 2)])
def test_all_of_a_large_pair_is_looked_at_only_where_its_middle_tells_nothing(monkeypatch, noise, shift, searches):
    rng = np.random.default_rng(21)
    image = rng.normal(size=(190, 230))
    kernel = np.outer([1, 3, 2], [1, 2, 4, 1, 1]) / 54
    made = np.roll(scipy.ndimage.convolve(image, kernel), (shift, -shift), (0, 1))
    target = made + noise * made.std() * rng.normal(size=made.shape)
    monkeypatch.setattr(discovery, "_WHOLE", 64)
    seen, search = [], discovery._search
    monkeypatch.setattr(discovery, "_search", lambda pair, *rest: seen.append(pair.image.shape) or search(pair, *rest))
    fit = kernelfit.find_kernel(image, target)
    assert len(seen) == searches and seen[0] == (64, 64)
    assert fit.kernel.shape[0] <= 7 and fit.verdict.ok
    if shift:
        assert seen[1] == image.shape
        assert any("shifted by 70 rows and -70 columns" in words for words in fit.found)
