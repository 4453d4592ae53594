"""Restoring an image: exact where that is possible, near the best balance, no frame that rings."""

import io
import warnings
import weakref

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import naive
from helpers import assert_close, camera, grid
from kernelfit import apply_kernel, deconvolve, find_kernel, set_fft
from kernelfit.compiled import fft
from kernelfit.restoration import deconvolution, inpainting


def photograph():
    return camera()[:, :480] / 255.0


def gaussian(rows, cols, sigma):
    y, x = np.mgrid[:rows, :cols]
    kernel = np.exp(-((y - (rows - 1) / 2) ** 2 + (x - (cols - 1) / 2) ** 2) / (2 * sigma**2))
    return kernel / kernel.sum()


def psnr(found, truth):
    return -10 * np.log10(np.mean((found - truth) ** 2))


def blurred(kernel, noise=0.01, seed=0):
    target = scipy.signal.convolve(photograph(), kernel, mode="valid")
    target += np.random.default_rng(seed).normal(0, noise * photograph().std(), target.shape)
    half = [k // 2 for k in kernel.shape]
    return photograph()[half[0] : -half[0], half[1] : -half[1]], target


@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize(
    "shape, origin",
    [((3, 5), None), ((4, 2), None), ((2, 3), (0, 2)), ((1, 4), (0, 3)), ((1, 1), None), ((3, 5), (-4, 7))],
)
def test_periodic_images_come_back(shape, origin, operation):
    rng = np.random.default_rng(0)
    image, kernel = rng.random((30, 41)), 0.2 * rng.random(shape)
    kernel[0, -1] += 2.0
    target = apply_kernel(image, kernel, boundary="wrap", origin=origin, operation=operation)
    found = deconvolve(target, kernel, boundary="wrap", origin=origin, operation=operation, balance=0)
    np.testing.assert_allclose(found, image, rtol=0, atol=1e-11)


@pytest.mark.parametrize("penalty", ["laplacian", "identity"])
def test_division_is_the_plain_formula(penalty):
    rng = np.random.default_rng(1)
    target, kernel = rng.random((20, 27)), rng.random((3, 4))
    placed = np.zeros(target.shape)
    placed[:3, :4] = kernel
    transfer = np.fft.fft2(np.roll(placed, (-1, -1), (0, 1)))
    laplacian = np.zeros(target.shape)
    for at, value in (((0, 0), 4), ((1, 0), -1), ((-1, 0), -1), ((0, 1), -1), ((0, -1), -1)):
        laplacian[at] = value
    q = np.abs(np.fft.fft2(laplacian)) ** 2 if penalty == "laplacian" else np.ones(target.shape)
    power = np.abs(transfer) ** 2
    expected = np.fft.ifft2(transfer.conj() * np.fft.fft2(target) / (power + 0.3 * power.mean() * q / q.mean())).real
    found = deconvolve(target, kernel, balance=0.3, boundary="wrap", penalty=penalty)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("origin", [None, (0, 30), (22, 3)])
def test_a_kernel_larger_than_a_periodic_image_meets_itself(origin):
    rng = np.random.default_rng(3)
    target, kernel = rng.random((10, 13)), rng.random((23, 31))
    row, col = origin or (11, 15)
    folded = np.zeros(target.shape)
    for at in np.ndindex(kernel.shape):
        folded[(at[0] - row) % 10, (at[1] - col) % 13] += kernel[at]
    transfer = np.fft.fft2(folded)
    power = np.abs(transfer) ** 2
    expected = np.fft.ifft2(transfer.conj() * np.fft.fft2(target) / (power + 0.3 * power.mean())).real
    found = deconvolve(target, kernel, balance=0.3, boundary="wrap", penalty="identity", origin=origin)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape, words", [((97, 120), {}), ((95, 61), {"boundary": "wrap"}), ((40, 33), {"edges": "solve"})]
)
def test_parts_and_threads_and_libraries_give_the_same(shape, words, dtype, monkeypatch):
    """Large images, whose memory is given back while their plans are kept, and small ones."""
    target, kernel = photograph()[200 : 200 + shape[0], 100 : 100 + shape[1]].astype(dtype), gaussian(5, 7, 1.2)
    words = {"edges": "fade", "balance": 0.01} | words
    previous = set_fft(backend="scipy")
    try:
        expected = deconvolve(target, kernel, **words)
    finally:
        set_fft(**previous)
    monkeypatch.setattr(fft, "_PART", 2**11)
    for small in (2**20, 0):
        monkeypatch.setattr(fft, "SMALL", small)
        fft._pool.clear()
        first, *others = (deconvolve(target, kernel, workers=workers, **words) for workers in (1, 2, 3, 2))
        assert first.dtype == dtype and all((other == first).all() for other in others)
        np.testing.assert_allclose(first, expected, rtol=0, atol=1e-10 if dtype == np.float64 else 1e-3)
    fft._pool.clear()


def test_the_spectrum_of_a_large_image_is_not_kept(monkeypatch):
    monkeypatch.setattr(fft, "SMALL", 0)
    plane = fft.borrow_plane(64, 80, np.float64)
    plane.forward(lambda row, out: out.fill(1.0), 2)
    kept = weakref.ref(plane._lines.base)
    fft.give_back(plane)
    assert kept() is None
    fft._pool.clear()


@pytest.mark.slow
@grid("sigma, noise", [(1.0, 0.01), (1.5, 0.01), (2.5, 0.05)], 3)
def test_the_balance_is_near_the_best(sigma, noise):
    kernel = gaussian(9, 9, sigma)
    image, target = blurred(kernel, noise)
    found = psnr(deconvolve(target, kernel), image)
    best = max(psnr(deconvolve(target, kernel, balance=b), image) for b in 10.0 ** np.arange(-6, 3.1, 0.5))
    assert found > best - 0.3
    assert found > psnr(target, image) + 1
    restoration = pytest.importorskip("skimage.restoration")
    theirs = max(
        psnr(restoration.wiener(target, kernel, b, clip=False), image) for b in 10.0 ** np.arange(-4, 1.1, 0.5)
    )
    assert found > theirs


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("boundary", ["wrap", None])
def test_the_scale_of_the_kernel_is_that_of_the_image_and_nothing_else(boundary, dtype):
    rng = np.random.default_rng(0)
    image = 40 * scipy.ndimage.gaussian_filter(rng.normal(size=(60, 71)), 1.5) + 100
    kernel = np.outer([1, 2, 1], [1, 2, 3, 2]) / 32
    target = apply_kernel(image, kernel, boundary=boundary or "symm") + 0.3 * rng.normal(size=image.shape)
    target, mask = target.astype(dtype), rng.random(image.shape) < 0.05
    words = [{}, {"balance": 1e-4}, {"mask": mask}] + ([{"edges": "fade"}] if boundary is None else [])
    for some in words:
        found = deconvolve(target, kernel, boundary=boundary, **some)
        for scale in (2.0**-40, 2.0**20):
            other = deconvolve(target, scale * kernel, boundary=boundary, **some)
            assert np.array_equal(scale * other, found)


def test_no_frame_rings():
    """The error at the edges is not much larger than inside."""
    kernel = gaussian(9, 7, 1.5)
    image, target = blurred(kernel)
    error = (deconvolve(target, kernel) - image) ** 2
    inside = np.sqrt(error[20:-20, 20:-20].mean())
    for edge in (error[:8], error[-8:], error[:, :8], error[:, -8:]):
        assert np.sqrt(edge.mean()) < 2 * inside


def test_the_room_beyond_the_image_is_enough(monkeypatch):
    """At a size that with one kernel more is good for transforms; with no more than that, 0.9 dB are lost."""
    kernel = gaussian(9, 7, 2.5)
    image, target = (a[:471, :473] for a in blurred(kernel))
    found = psnr(deconvolve(target, kernel), image)
    monkeypatch.setattr(deconvolution, "_period", lambda image, *_, **__: (image[0] + 73, image[1] + 67))
    assert found > psnr(deconvolve(target, kernel), image) - 0.1


def test_the_room_of_what_fades_is_enough(monkeypatch):
    """Without solving for the pixels beyond the edges, at a size after which a little less is good for transforms."""
    kernel = gaussian(19, 17, 3.5)
    image, target = (a[:463, :503] for a in blurred(kernel))
    found = psnr(deconvolve(target, kernel, edges="fade"), image)
    monkeypatch.setattr(deconvolution, "_period", lambda image, *_, **__: (image[0] + 177, image[1] + 201))
    assert found > psnr(deconvolve(target, kernel, edges="fade"), image) - 0.45


@pytest.mark.slow
@grid("operation", ["convolution", "correlation"], 3)
@grid("penalty", ["laplacian", "identity"], 2)
@pytest.mark.parametrize("boundary", [None, "wrap"])
def test_missing_pixels_are_penalised_least_squares_of_the_others(boundary, penalty, operation, monkeypatch):
    """Against the matrix; with an unknown boundary all pixels beyond the edges are missing ones, too."""
    monkeypatch.setattr(inpainting, "_TOLERANCE", 1e-12)
    monkeypatch.setattr(inpainting, "_MOST_ITERATIONS", 5000)
    rng = np.random.default_rng(2)
    target, kernel, origin = rng.random((13, 10)), rng.random((2, 3)), (1, 0)
    if operation == "correlation":
        kernel -= kernel.mean()  # which tells nothing of the image's mean
    mask = rng.random(target.shape) < 0.1
    mask[:, 4] = mask[0, 0] = mask[-1, 5] = True
    size = target.shape if boundary == "wrap" else deconvolution._period(target.shape, kernel.shape, 2, 16)
    whole, seen = np.zeros(size), np.zeros(size, dtype=bool)
    whole[:13, :10], seen[:13, :10] = target, ~mask
    expected = naive.restored(whole, seen, kernel, origin, 0.2 * np.sum(kernel**2), operation, penalty)[:13, :10]
    words = dict(balance=0.2, boundary=boundary, penalty=penalty, origin=origin, operation=operation)
    found = deconvolve(np.where(mask, np.nan, target), kernel, mask=mask, **words)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    assert (deconvolve(np.where(mask, 1e9, target), kernel, mask=mask, **words) == found).all()
    assert (deconvolve(np.ma.array(target, mask=mask), kernel, **words) == found).all()
    assert (deconvolve(np.where(mask, np.inf, target), kernel, nan="mask", **words) == found).all()
    assert (deconvolve(target, kernel, mask=mask, workers=1, **words) == found).all()
    if boundary is None:
        seen[:13, :10] = True
        expected = naive.restored(whole, seen, kernel, origin, 0.2 * np.sum(kernel**2), operation, penalty)[:13, :10]
        np.testing.assert_allclose(deconvolve(target, kernel, edges="solve", **words), expected, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_dead_pixels_cost_next_to_nothing_when_masked():
    kernel = gaussian(9, 7, 1.5)
    image, target = blurred(kernel)
    mask = np.random.default_rng(3).random(target.shape) < 0.01
    mask[:, 137] = mask[40:52, 60:75] = True
    whole = psnr(deconvolve(target, kernel), image)
    spoilt = np.where(mask, 0.0, target)
    assert psnr(deconvolve(spoilt, kernel, mask=mask), image) > whole - 0.1
    with pytest.warns(UserWarning, match="column 137 of the target is 0 throughout"):
        assert psnr(deconvolve(np.where(np.arange(mask.shape[1]) == 137, 0.0, target), kernel), image) < whole - 5


@pytest.mark.slow
def test_thick_bars_and_flat_images_are_not_called_dead():
    kernel = gaussian(9, 7, 1.5)
    _, target = blurred(kernel)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deconvolve(np.pad(target[:200, :180], ((20, 20), (0, 9))), kernel)
        deconvolve(np.full((30, 40), 3.0), kernel)
        deconvolve(target[:1], kernel[4:5])
    with pytest.warns(UserWarning, match="row 3 of the target is 0.5 throughout"):
        target[3:5] = 0.5
        deconvolve(target[:200], kernel)


@grid("sigma, noise, gained", [(1.5, 0.05, -0.1), (2.5, 0.001, 2.0), (2.5, 1e-4, 5.0)], 3)
def test_edges_are_solved_where_they_would_ring(sigma, noise, gained):
    kernel = gaussian(9, 7, sigma)
    image, target = (a[150:350, 120:310] for a in blurred(kernel, noise))
    found, faded, solved = (deconvolve(target, kernel, edges=edges) for edges in ("auto", "fade", "solve"))
    assert (found == (solved if gained > 0 else faded)).all()
    assert psnr(solved, image) > psnr(faded, image) + gained
    best = max(psnr(deconvolve(target, kernel, balance=b, edges="solve"), image) for b in 10.0 ** np.arange(-4, 1))
    assert psnr(solved, image) > best - 0.3


@pytest.mark.slow
def test_a_rough_frame_and_too_much_contrast_are_seen():
    target = photograph()[150:270, 120:220]
    ripple = 0.12 * np.sin(np.arange(100) * 2.0) * np.ones((120, 1))
    inner, frame = ripple.copy(), ripple.copy()
    inner[:, :6] = inner[:, -6:] = 0.0
    frame[:, 6:-6] = 0.0
    assert inpainting.rings(target + frame, target, (9, 6)) and inpainting.rings(2 * target, target, (9, 6))
    assert inpainting.rings((target + frame).T, target.T, (6, 9))
    assert not inpainting.rings(target + inner, target, (9, 6)) and not inpainting.rings(target, target, (9, 6))


@pytest.mark.slow
def test_dtypes_and_inputs():
    kernel = gaussian(5, 4, 1.0)
    target = apply_kernel(photograph()[:90, :120], kernel, boundary="nearest")
    single = target.astype(np.float32)
    copy = single.copy()
    single.setflags(write=False)
    found = deconvolve(single, kernel)
    assert found.dtype == np.float32 and (single == copy).all() and found.shape == target.shape
    np.testing.assert_allclose(found, deconvolve(single.astype(float), kernel), atol=2e-3)
    eight = (target * 255).astype(np.uint8)
    assert deconvolve(eight, kernel).dtype == np.float64
    assert (deconvolve(target, kernel, workers=1) == deconvolve(target, kernel, workers=2)).all()


@pytest.mark.parametrize("target", [np.zeros((30, 24)), np.full((30, 24), 2.5)])
@pytest.mark.parametrize("balance", ["auto", 0])
@pytest.mark.filterwarnings("error")
def test_flat_targets(target, balance):
    kernel = np.ones((2, 3)) / 6  # its transform has zeros
    for boundary in (None, "wrap"):
        found = deconvolve(target, kernel, balance=balance, boundary=boundary)
        np.testing.assert_allclose(found, target, rtol=0, atol=1e-9)


def test_kernel_larger_than_the_image():
    assert np.isfinite(deconvolve(photograph()[:20, :13], gaussian(31, 25, 3.0))).all()


NOISE = np.random.default_rng(0).random((51, 48))


@pytest.mark.parametrize(
    "arguments, keywords, error, match",
    [
        ((NOISE, np.zeros((3, 3))), {}, ValueError, "zero everywhere"),
        ((NOISE, np.full((3, 3), np.nan)), {}, ValueError, "got kernel with 9 NaN"),
        ((np.full((9, 9), np.inf), np.ones((3, 3))), {}, ValueError, "got target with 81 NaN"),
        ((NOISE, np.ones((3, 3))), {"boundary": "fill"}, ValueError, "boundary='fill'"),
        ((NOISE, np.ones((3, 3))), {"penalty": "tv"}, ValueError, "penalty='tv'"),
        ((NOISE, np.ones((3, 3))), {"balance": -1}, ValueError, "balance=-1"),
        ((NOISE, np.ones((3, 3))), {"edges": "mirror"}, ValueError, "edges='mirror'"),
        ((NOISE, np.ones((3, 3))), {"nan": "fill"}, ValueError, "nan='fill'"),
        ((NOISE, np.ones((3, 3))), {"mask": NOISE}, TypeError, "mask of dtype float64"),
        ((NOISE, np.ones((3, 3))), {"mask": np.ones((4, 5), dtype=bool)}, ValueError, "mask of shape"),
        ((NOISE, np.ones((3, 3))), {"mask": NOISE > -1}, ValueError, "every pixel is masked"),
        ((NOISE, np.ones((3, 3))), {"mask": NOISE > 0.9, "balance": 0}, ValueError, "balance=0 with pixels"),
        ((NOISE[0], np.ones((3, 3))), {}, ValueError, "1 dimensions"),
        ((NOISE, np.full((3, 3), "a")), {}, TypeError, "kernel of dtype"),
    ],
)
def test_bad_input_is_named(arguments, keywords, error, match):
    with pytest.raises(error, match=match):
        deconvolve(*arguments, **keywords)


def test_stored_images_and_kernels_are_read_like_others(tmp_path):
    h5py, zarr, da = (pytest.importorskip(name) for name in ("h5py", "zarr", "dask.array"))
    rng = np.random.default_rng(0)
    target, kernel = rng.normal(size=(50, 61)), rng.normal(size=(3, 5))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        images = [
            file.create_dataset("chunked", data=target, chunks=(16, 20)),
            file.create_dataset("whole", data=target),
            zarr.array(target, chunks=(16, 20)),
            da.from_array(target, chunks=(16, 20)),
        ]
        kernels = [file.create_dataset("kernel", data=kernel), zarr.array(kernel, chunks=(2, 2)), da.from_array(kernel)]
        for call in (deconvolve, apply_kernel):
            expected = call(target, kernel)
            for image in images:
                np.testing.assert_array_equal(call(image, kernel), expected)
            for taps in kernels:
                np.testing.assert_array_equal(call(target, taps), expected)


@pytest.mark.slow
@grid("quality", [75, 95], 2)
@grid("width", [3.0, 1.5], 2)
def test_compression_is_not_taken_for_detail(quality, width):
    """Its errors are not white, and plain cross-validation finds none of them: 10 to 50 dB worse than no restoring."""
    x = np.arange(-8, 9)
    kernel = np.exp(-(x[:, None] ** 2 + x[None, 1:-1] ** 2) / (2 * width**2))
    kernel /= kernel.sum()
    blurred = apply_kernel(photograph(), kernel, boundary="symm")
    Image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    Image.fromarray(np.uint8(np.round(255 * blurred))).save(file, "JPEG", quality=quality)
    target = np.asarray(Image.open(file)) / 255.0

    def error(found):
        return float(np.sqrt(np.mean((found - photograph())[20:-20, 20:-20] ** 2)))

    found = error(deconvolve(target, kernel))
    best = min(error(deconvolve(target, kernel, balance=10.0**p)) for p in np.arange(-5, 1.1, 0.5))
    assert found < 0.95 * error(target)
    assert found < 1.05 * best


def test_what_nobody_saw_is_not_pulled_to_zero_unasked():
    y, x = np.mgrid[:90, :100]
    image = 5 + np.sin(x / 7) * np.cos(y / 9) + 0.2 * np.sin(x * y / 300)
    kernel = np.outer(*(np.exp(-(np.arange(-k, k + 1) ** 2) / 8) for k in (6, 5)))
    target = apply_kernel(image, kernel / kernel.sum(), mode="valid", boundary=None)
    words = {"penalty": "identity"}
    default, faded = (deconvolve(target, kernel / kernel.sum(), edges=e, **words) for e in ("auto", "fade"))
    assert np.array_equal(default, faded)


@pytest.mark.parametrize("shape, kind", [((20, 23), float), ((20, 23), complex), ((6, 8, 9), float)], ids=str)
def test_values_whose_squares_underflow_are_refused(shape, kind):
    rng = np.random.default_rng(0)
    target, kernel = rng.random(shape).astype(kind), rng.random((2,) * (len(shape) - 1) + (3,)).astype(kind)
    for small in (1e-160, 1e-300):
        with pytest.raises(ValueError, match="got kernel .* whose squares underflow; .* multiply it by a constant"):
            deconvolve(target, kernel * small)
        with pytest.raises(ValueError, match="got target .* whose squares underflow"):
            deconvolve(target * small, kernel)
    assert_close(deconvolve(target, kernel * 1e-120) * 1e-120, deconvolve(target, kernel), 0.05)
    assert np.isfinite(deconvolve(target * 1e120, kernel)).all()


def test_a_fit_in_place_of_its_kernel_is_told():
    image = np.random.default_rng(0).random((20, 23))
    fit = find_kernel(image, image, (1, 2))
    with pytest.raises(TypeError, match=r"got kernel of dtype object, need numbers; pass its kernel: fit\.kernel"):
        deconvolve(image, fit)
