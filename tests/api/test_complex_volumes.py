"""Complex volumes: image, target or both."""

import numpy as np
import pytest

import kernelfit
import naive
from complex_pairs import check, normal, pair
from helpers import BOUNDARIES, MODES, OPERATIONS, assert_close, grid
from kernelfit import accumulate, find_kernel

SIZE, SHAPE = (5, 7, 8), (3, 1, 2)
EDGES = [(mode, *edge, op) for mode in MODES for edge in BOUNDARIES for op in OPERATIONS]
CASES = [(*words, ("cc", "rc", "cr")[i % 3]) for i, words in enumerate(EDGES)]


@grid("mode, boundary, fillvalue, operation, kinds", CASES, 11)
@pytest.mark.parametrize("shape, method, real", [(SHAPE, "fft", False), ((2, 2, 3), "direct", True)], ids=str)
def test_it_is_dense_least_squares(mode, boundary, fillvalue, operation, kinds, shape, method, real):
    words = dict(mode=mode, boundary=boundary, fillvalue=fillvalue, operation=operation)
    image, _, target = pair(SIZE, shape, kinds=kinds, **words)
    fit = find_kernel(image, target, shape, method=method, real=real, **words)
    matrix, used = naive.design_nd(image, shape, **words)
    check(fit, matrix, target[used], real=real)
    assert fit.kernel.shape == fit.stderr.shape == shape
    predicted, left = fit.predict(image), fit.residual(image, target)
    np.testing.assert_array_equal(np.isnan(predicted), ~used)
    assert_close(predicted[used], matrix @ fit.kernel.ravel(), 1e-12)
    assert_close(np.nansum(np.abs(left) ** 2), fit.rss, 1e-9)
    if boundary is not None:
        applied = kernelfit.apply_kernel(image, fit.kernel, **words)
        np.testing.assert_allclose(applied, predicted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("words", [dict(stride=(2, 1, 2), offset=(1, 0, 1)), dict(origin=(-1, 0, 4))], ids=str)
def test_stride_and_origin(words):
    known = dict(mode="same", boundary="mirror") | words
    image, _, target = pair((8, 9, 11), SHAPE, **known)
    matrix, used = naive.design_nd(image, SHAPE, **known)
    check(find_kernel(image, target, SHAPE, **known), matrix, target[used])


@pytest.mark.parametrize("kind", ["mask", "weights", "nan", "image_mask"])
@grid("background", [None, 0], 1)
def test_masks_weights_and_a_constant(kind, background):
    rng = np.random.default_rng(5)
    image, _, target = pair(SIZE, SHAPE, mode="same", boundary="wrap")
    bad, w = rng.random(SIZE) < 0.2, np.ones(SIZE)
    words = {"boundary": "wrap", "background": background}
    result = target + (2 - 3j) * (background is not None)
    clean = result
    if kind == "weights":
        w = words["weights"] = rng.uniform(0.2, 3, SIZE)
    elif kind == "image_mask":
        words["image_mask"] = np.zeros(SIZE, bool)
        words["image_mask"][2, 5, 7] = True
        w[1:4, 5, [7, 0]] = 0.0
    else:
        w = ~bad * 1.0
        holes = np.where(rng.random(SIZE) < 0.5, complex(np.nan, 1), complex(1, np.inf))  # in either part
        result = np.where(bad, holes, result) if kind == "nan" else result
        words |= {"mask": bad} if kind == "mask" else {"nan": "mask"}
    fit = find_kernel(image, result, SHAPE, **words)
    matrix, _ = naive.design_nd(image, SHAPE, mode="same", boundary="wrap")
    np.testing.assert_array_equal(fit.weights if fit.weights is not None else w, w)
    if background is None:
        check(fit, matrix, clean.ravel(), w.ravel())
        return
    beside = np.column_stack([matrix, np.ones(w.size)])
    whole, covariance, _ = naive.complex_fit(beside, clean.ravel(), w.ravel())
    errors = np.sqrt(np.diag(covariance))
    assert_close(fit.kernel.ravel(), whole[:6], 1e-9)
    assert_close(fit.background.coefficients, whole[6:], 1e-9)
    assert_close(fit.stderr.ravel(), errors[:6] + 1j * errors[7:13], 1e-8)
    assert_close(fit.background.image(), np.full(SIZE, whole[6]), 1e-9)


@pytest.mark.parametrize("channels", ["shared", "separate", "mixed"])
def test_channels_are_those_of_planes(channels):
    """A kernel of one plane makes each plane of the target of one of the image: many images of shared kernels."""
    rng = np.random.default_rng(2)
    image, target = normal(rng, 4, 9, 11, 2), normal(rng, 4, 9, 11, 2)
    words = dict(channel_axis=-1, channels=channels, boundary="wrap", weights=rng.uniform(0.5, 2, (4, 9, 11, 1)))
    deep = find_kernel(image, target, (1, 2, 3), **words)
    flat = find_kernel(list(image), list(target), (2, 3), **{**words, "weights": list(words["weights"])})
    assert_close(deep.kernel[..., 0, :, :], flat.kernel, 1e-11)
    assert_close(deep.stderr[..., 0, :, :], flat.stderr, 1e-11)
    assert deep.n_pixels == flat.n_pixels and deep.noise_std == pytest.approx(flat.noise_std)


@pytest.mark.parametrize("words", [dict(image_noise=0.2), dict(errors="sandwich"), dict(robust="huber")], ids=str)
def test_axes_are_alike(words):
    """What depends on no axis in particular is the same along any."""
    image, _, target = pair((9, 10, 12), (2, 1, 3), mode="same", boundary="wrap")
    fit = find_kernel(image, target, (2, 1, 3), boundary="wrap", **words)
    turned = find_kernel(image.transpose(2, 0, 1), target.transpose(2, 0, 1), (3, 2, 1), boundary="wrap", **words)
    assert_close(turned.kernel, fit.kernel.transpose(2, 0, 1), 1e-5 if "robust" in words else 1e-9)
    assert_close(turned.stderr, fit.stderr.transpose(2, 0, 1), 0.05 if "errors" in words else 1e-3)


def test_image_noise_is_that_of_planes():
    image, _, target = pair((3, 9, 12), (1, 2, 3), mode="same", boundary="mirror", seed=4)
    words = dict(boundary="mirror", image_noise=0.3)
    deep, flat = find_kernel(image, target, (1, 2, 3), **words), find_kernel(list(image), list(target), (2, 3), **words)
    assert_close(deep.kernel[0], flat.kernel, 1e-9)
    assert_close(deep.stderr[0], flat.stderr, 1e-9)


def test_what_is_left_is_exact_without_noise():
    image, kernel, target = pair((8, 9, 10), SHAPE, noise=0.0, mode="same", boundary="mirror")
    fit = find_kernel(image, target + (1 + 1j), SHAPE, boundary="mirror", background=0)
    assert_close(fit.kernel, kernel, 1e-12)
    assert fit.refined and fit.verdict.ok


def test_other_ways_to_the_same_kernel(tmp_path):
    words = dict(boundary="wrap", mode="same")
    image, _, target = pair((6, 9, 10), SHAPE, **words)
    fit = find_kernel(image, target, SHAPE, **words)
    iterated = find_kernel(image, target, SHAPE, solver=kernelfit.ConjugateGradient(), tolerance=1e-12, **words)
    assert_close(iterated.kernel, fit.kernel, 1e-9)
    assert_close(accumulate(image, target, SHAPE, **words).solve().kernel, fit.kernel, 1e-12)
    stream = kernelfit.accumulate_stream([(image[:4], target[:4]), (image[2:], target[2:])], SHAPE, mode="same")
    both = find_kernel([image[:4], image[2:]], [target[:4], target[2:]], SHAPE, mode="same")
    assert_close(stream.solve().kernel, both.kernel, 1e-12)
    real, imaginary = kernelfit.split_channels(fit).values()
    np.testing.assert_array_equal(real.kernel + 1j * imaginary.kernel, fit.kernel)
    fit.save(tmp_path / "fit.npz")
    np.testing.assert_array_equal(kernelfit.KernelFit.load(tmp_path / "fit.npz").kernel, fit.kernel)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", ["cc", "rc"])
def test_questions_put_to_the_residual(kinds):
    image, kernel, target = pair((9, 12, 13), (3, 2, 2), mode="same", boundary="mirror", kinds=kinds)
    fit = find_kernel(image, target, (3, 2, 2), boundary="mirror")
    assert fit.verdict.ok
    check = kernelfit.check_boundary(image, target, fit)
    assert check.best == "mirror" and check.possible == ("mirror",)
    assert check.interior == pytest.approx(fit.noise_std, rel=0.1)
    masked = find_kernel(image, target, (3, 2, 2), boundary="mirror", mask=np.arange(12)[:, None] == 3, background=0)
    assert kernelfit.check_boundary(image, target, masked).best == "mirror"
    assert find_kernel(image, target, (3, 2, 2), boundary="wrap").verdict is kernelfit.Verdict.WRONG_BOUNDARY
    assert not kernelfit.check_noise(image, target, fit).coloured
    uneven = (
        kernelfit.apply_kernel(image, kernel, boundary="mirror")
        + 0.3 * normal(np.random.default_rng(3), 9, 12, 13).real
    )
    found = find_kernel(image, uneven, (3, 2, 2), boundary="mirror")  # noise of the real part alone
    assert "not circular" in str(kernelfit.check_noise(image, uneven, found))  # also where one part has none at all
    with pytest.raises(TypeError, match="got a real pair with the fit of a complex one"):
        kernelfit.check_boundary(image.real, target.real, fit)


@pytest.mark.slow
def test_pictures():
    pytest.importorskip("matplotlib").use("Agg")
    image, _, target = pair((6, 9, 10), SHAPE, mode="same", boundary="wrap")
    fit = find_kernel(image, target, SHAPE, boundary="wrap")
    assert len(fit.plot(image, target).subfigs) == 2
    assert "complex numbers" in kernelfit.report.report_html(fit, image, target)


@pytest.mark.parametrize("channels, where", [("mixed", ""), ("shared", " in channel 1"), ("separate", " in channel 1")])
def test_what_is_excluded_is_counted_in_numbers_of_one_volume(channels, where):
    rng = np.random.default_rng(2)
    image, mask = normal(rng, *SIZE, 2), np.zeros(SIZE, bool)
    mask[2, 3:5, 1:4] = True
    words = {"channel_axis": -1, "channels": channels, "mask": mask, "boundary": "wrap"}
    for numbers in (image, image.real):
        fit = find_kernel(numbers, numbers + 0.1 * rng.normal(size=image.shape), (2, 1, 2), **words)
        assert fit.notes[-1] == f"6 of 280 target pixels excluded{where}: masked"
