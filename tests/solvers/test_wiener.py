"""Division by frequency: exact where data are periodic, near the best balance elsewhere, honest, never NaN."""

import warnings

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import scipy.signal

import complex_pairs
from helpers import assert_close, camera, grid
from kernelfit import KernelFit, Verdict, Wiener, accumulate_spectra, apply_kernel, find_kernel


def photograph():
    return camera()[:440].astype(float)


PERIODIC = [("same", "wrap", 0.0), ("full", "wrap", 0.0), ("full", "fill", 2.75)]


def relative(found, truth):
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


def smooth_kernel(rows, cols):
    y, x = np.mgrid[:rows, :cols]
    blob = np.exp(-(((y - 0.4 * rows) / (0.3 * rows)) ** 2) - ((x - 0.6 * cols) / (0.25 * cols)) ** 2)
    return blob / blob.sum()


def crop_of_a_larger_scene(kernel, noise=0.01, seed=0):
    """A photograph whose edges depend on pixels outside, and the noisy target."""
    target = scipy.signal.convolve(photograph(), kernel, mode="valid")
    return photograph(), target + np.random.default_rng(seed).normal(0, noise * target.std(), target.shape)


# ---- periodic data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode, boundary, fillvalue", PERIODIC)
@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize(
    "sides, shape", [((40, 53), (5, 4)), ((41, 50), (3, 5)), ((36, 44), (1, 6)), ((39, 43), (4, 1))]
)
def test_periodic_data_give_the_kernel(mode, boundary, fillvalue, operation, sides, shape):
    rng = np.random.default_rng(7)
    image, kernel = rng.random(sides), rng.normal(size=shape)
    keywords = {"mode": mode, "boundary": boundary, "fillvalue": fillvalue, "operation": operation}
    target = apply_kernel(image, kernel, **keywords)
    for balance in ("auto", 0):
        fit = find_kernel(image, target, shape, method="wiener", balance=balance, **keywords)
        assert relative(fit.kernel, kernel) < 1e-10
    assert fit.verdict is Verdict.SOLVED and fit.method == "wiener" and fit.convention.mode == mode


@pytest.mark.parametrize("origin", [(0, 0), (3, 2), (0, 2), (2, 1)])
@pytest.mark.parametrize("operation", ["convolution", "correlation"])
def test_origin(origin, operation):
    rng = np.random.default_rng(8)
    image, kernel = rng.random((31, 45)), rng.normal(size=(4, 3))
    keywords = {"boundary": "wrap", "origin": origin, "operation": operation}
    fit = find_kernel(image, apply_kernel(image, kernel, **keywords), (4, 3), method="wiener", **keywords)
    assert relative(fit.kernel, kernel) < 1e-10 and fit.convention.origin == origin


def power_of(penalty, shape):
    """The power spectrum of a penalty, of mean one, by the definition."""
    stencil = np.zeros(shape)
    laplacian = [((0, 0), 4), ((1, 0), -1), ((-1, 0), -1), ((0, 1), -1), ((0, -1), -1)]
    for at, value in laplacian if penalty == "laplacian" else [((0, 0), 1)]:
        stencil[at] = value
    q = np.abs(np.fft.fft2(stencil)) ** 2
    return q / q.mean()


@pytest.mark.parametrize("rows, cols, gain", [(5, 4, False), (15, 13, True)])
def test_a_balance_is_chosen_only_where_it_gains(rows, cols, gain):
    """Where the data determine the kernel well, that of no balance, which is least squares, is kept."""
    kernel = smooth_kernel(rows, cols)
    clean, errors = apply_kernel(photograph(), kernel, boundary="wrap"), np.zeros(2)
    for seed in range(3):
        target = clean + np.random.default_rng(seed).normal(0, 0.01 * clean.std(), clean.shape)
        ways = {"method": "wiener"}, {}
        fits = [find_kernel(photograph(), target, kernel.shape, boundary="wrap", **words) for words in ways]
        errors += [relative(fit.kernel, kernel) ** 2 for fit in fits]
        assert (fits[0].spectrum.balance > 0) == gain
    assert errors[0] < (0.3 if gain else 1 + 1e-6) * errors[1]


@pytest.mark.parametrize("penalty", ["laplacian", "identity"])
@pytest.mark.parametrize(
    ("width", "shape", "balance", "close"),
    [(0.0, (3, 5), 1e-3, 1e-11), (0.0, (3, 5), 10.0, 1e-11), (1.0, (5, 7), 1e-6, 5e-11), (1.0, (5, 7), 1e-9, 5e-11)],
)
def test_the_kernel_is_the_minimum_among_those_of_its_shape(penalty, width, shape, balance, close):
    """Penalised least squares with a design matrix written down tap by tap, and refined; smooth images are harder."""
    image, target = np.random.default_rng(9).normal(size=(2, 24, 19))
    image = scipy.ndimage.gaussian_filter(image, width, mode="wrap")
    places = [(r - (shape[0] - 1) // 2, c - (shape[1] - 1) // 2) for r in range(shape[0]) for c in range(shape[1])]
    design = np.stack([np.roll(image, at, (0, 1)).ravel() for at in places], axis=1)
    level = np.mean(np.abs(np.fft.fft2(image)) ** 2) / image.size
    rough = np.fft.ifft2(power_of(penalty, image.shape)).real  # of a tap with one so many pixels away
    q = np.array([[rough[a[0] - b[0], a[1] - b[1]] for b in places] for a in places])
    matrix, moment = design.T @ design + balance * level * image.size * q, design.T @ target.ravel()
    expected = np.linalg.solve(matrix, moment)
    for _ in range(3):
        rest = moment.astype(np.longdouble) - matrix.astype(np.longdouble) @ expected
        expected += np.linalg.solve(matrix, rest.astype(np.float64))
    fit = accumulate_spectra(image, target, shape, boundary="wrap").solve(balance, penalty)
    np.testing.assert_allclose(fit.kernel, expected.reshape(shape), rtol=0, atol=close * np.abs(expected).max())
    assert fit.spectrum.balance == balance


@pytest.mark.parametrize("penalty", ["laplacian", "identity"])
def test_large_kernels_are_cropped_from_the_plain_formula(penalty):
    """And come without errors of the taps."""
    image, target = np.random.default_rng(9).normal(size=(2, 71, 64))
    x, y, q = np.fft.fft2(image), np.fft.fft2(target), power_of(penalty, image.shape)
    power = np.abs(x) ** 2
    stats = accumulate_spectra(image, target, (35, 30), boundary="wrap")
    for balance in (1e-3, 10.0):
        full = np.fft.ifft2(np.conj(x) * y / (power + balance * power.mean() * q)).real
        expected = np.roll(full, (17, 14), (0, 1))[:35, :30]
        fit = stats.solve(balance, penalty)
        np.testing.assert_allclose(fit.kernel, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert np.isnan(fit.stderr).all()


@grid("shape, name", [((5, 5), "disc"), ((15, 13), "blob"), ((27, 31), "blob"), ((15, 15), "disc")], 4)
def test_periodic_data_give_no_larger_an_error_than_the_exact_method(shape, name):
    y, x = np.mgrid[: shape[0], : shape[1]]
    disc = (np.hypot(y - shape[0] // 2, x - shape[1] // 2) < 0.3 * min(shape)) * 1.0
    kernel = smooth_kernel(*shape) if name == "blob" else disc / disc.sum()
    clean = apply_kernel(photograph(), kernel, boundary="wrap")
    target = clean + np.random.default_rng(3).normal(0, 0.01 * clean.std(), clean.shape)
    fit = find_kernel(photograph(), target, shape, boundary="wrap", method="wiener")
    exact = find_kernel(photograph(), target, shape, boundary="wrap")
    assert relative(fit.kernel, kernel) < 1.02 * relative(exact.kernel, kernel)


def test_rss_is_that_of_the_residual():
    rng = np.random.default_rng(10)
    image = rng.normal(size=(64, 50))
    target = apply_kernel(image, smooth_kernel(5, 4), boundary="wrap") + rng.normal(0, 0.1, image.shape)
    fit = find_kernel(image, target, (5, 4), boundary="wrap", method="wiener")
    residual = fit.residual(image, target)
    assert fit.rss == pytest.approx(np.sum(residual**2), rel=1e-9)
    assert fit.noise_std == pytest.approx(0.1, rel=0.05)
    crop = image[:24, :19]
    few = accumulate_spectra(crop, rng.normal(size=crop.shape), (7, 15), boundary="wrap").solve(0)
    assert few.noise_std**2 == pytest.approx(few.rss / (crop.size - 105), rel=1e-6)  # every tap takes a degree


def test_errors_are_those_of_a_simulation():
    """The expected error, noise and what the balance holds back, against the truth in ten realisations."""
    rng = np.random.default_rng(11)
    image = photograph()[:120, :100]
    kernel = smooth_kernel(7, 6)
    clean = apply_kernel(image, kernel, boundary="wrap")
    for balance in ("auto", 1e-5):
        errors, expected, fits = [], [], []
        for _ in range(10):
            fit = find_kernel(
                image,
                clean + rng.normal(0, 0.02 * clean.std(), clean.shape),
                (7, 6),
                boundary="wrap",
                method="wiener",
                balance=balance,
            )
            errors.append(np.mean((fit.kernel - kernel) ** 2))
            expected.append(np.mean(fit.stderr**2))
            fits.append(fit.kernel)
        assert 0.6 < np.sqrt(np.mean(expected) / np.mean(errors)) < 1.6
    scatter = np.sqrt(np.mean(np.var(fits, axis=0)))
    assert scatter < 1.2 * np.sqrt(np.mean(expected))


# ---- data that are not periodic ------------------------------------------------------------------------------------


@grid("shape, rough", [((9, 20), True), ((5, 5), False), ((15, 13), False), ((31, 27), True)], 2)
def test_real_crops_come_near_the_best_balance(shape, rough):
    """And the errors of the taps tell the error that there is."""
    kernel = smooth_kernel(*shape)
    if rough:
        kernel *= np.random.default_rng(1).uniform(0.2, 1.0, shape)
    stats = accumulate_spectra(*crop_of_a_larger_scene(kernel), shape)
    fit = stats.solve()
    balances = 10.0 ** np.arange(-5, 0) if rough else 10.0 ** np.arange(-9, 4)
    best = min(relative(stats.solve(b).kernel, kernel) for b in balances)
    assert relative(fit.kernel, kernel) < 1.2 * best
    told = np.linalg.norm(fit.stderr) / np.linalg.norm(fit.kernel - kernel)
    assert 0.7 < told < 1.5
    assert fit.verdict is Verdict.APPROXIMATE and "exact method" in fit.verdict.value


def test_real_crops_beat_scikit_image_with_roles_swapped():
    shape = (15, 13)
    kernel = smooth_kernel(*shape)
    image, target = crop_of_a_larger_scene(kernel)
    fit = find_kernel(image, target, shape, method="wiener")
    inside = image[7:-7, 6:-6]
    errors = []
    for balance in 10.0 ** np.arange(-9, 4):
        full = pytest.importorskip("skimage.restoration").wiener(target, inside, balance, clip=False)
        centre = np.array(full.shape) // 2
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                r, c = centre[0] - 7 + dr, centre[1] - 6 + dc
                errors.append(relative(full[r : r + 15, c : c + 13], kernel))
    assert relative(fit.kernel, kernel) < min(errors)


@pytest.mark.parametrize("boundary", [None, "fill", "wrap", "symm", "mirror", "nearest"])
@pytest.mark.parametrize("operation", ["convolution", "correlation"])
def test_every_boundary_and_blocks(boundary, operation):
    rng = np.random.default_rng(12)
    image, kernel = rng.random((210, 260)), rng.normal(size=(4, 5))
    keywords = {"boundary": boundary, "operation": operation}
    target = apply_kernel(image, kernel, operation=operation, boundary=boundary or "nearest")
    for block in (None, 64):
        stats = accumulate_spectra(image, target, (4, 5), block=block, **keywords)
        assert relative(stats.solve().kernel, kernel) < 0.15, block
    valid = apply_kernel(image, kernel, operation=operation, mode="valid")
    fit = find_kernel(image, valid, (4, 5), method="wiener", operation=operation)
    assert relative(fit.kernel, kernel) < 0.15


# ---- the spectrum, files, verdicts ---------------------------------------------------------------------------------


def test_spectrum_tells_what_the_image_holds():
    """An image without detail beyond a quarter of the band."""
    rng = np.random.default_rng(13)
    radius = np.hypot(np.fft.fftfreq(120)[:, None], np.fft.rfftfreq(150))
    image = scipy.fft.irfft2(scipy.fft.rfft2(rng.normal(size=(120, 150))) * (radius < 0.2), s=(120, 150))
    target = apply_kernel(image, smooth_kernel(7, 5), boundary="wrap") + rng.normal(0, 0.01, image.shape)
    spectrum = find_kernel(image, target, (7, 5), boundary="wrap", method="wiener").spectrum
    low, high = spectrum.frequencies < 0.15, spectrum.frequencies > 0.25
    assert spectrum.coherence[low].min() > 0.9 and spectrum.coherence[high].max() < 0.3
    assert spectrum.passed[low].min() > 0.5 and spectrum.passed[high].max() < 0.1
    assert 0.03 < spectrum.determined < np.pi * 0.2**2 + 0.02
    full = find_kernel(*crop_of_a_larger_scene(smooth_kernel(5, 5), noise=1e-4), 5, method="wiener").spectrum
    assert full.determined > 0.95


def test_result_survives_a_file(tmp_path):
    fit = find_kernel(*crop_of_a_larger_scene(smooth_kernel(5, 4)), (5, 4), method="wiener")
    fit.save(tmp_path / "fit.npz")
    again = KernelFit.load(tmp_path / "fit.npz")
    assert again.kernel.tobytes() == fit.kernel.tobytes() and again.findings == fit.findings
    for name, value in vars(fit.spectrum).items():
        assert np.array_equal(getattr(again.spectrum, name), value), name
    assert "wiener" in again.summary()


NOISE = np.random.default_rng(14).normal(size=(2, 60, 47))


@pytest.mark.parametrize(
    "image, target, verdict",
    [
        (NOISE[0], np.zeros((60, 47)), Verdict.NO_SIGNAL),
        (NOISE[0], np.full((60, 47), 3.7), Verdict.NO_SIGNAL),
        (np.zeros((60, 47)), NOISE[1], Verdict.RANK_DEFICIENT),
        (np.full((60, 47), 0.1), NOISE[1], Verdict.RANK_DEFICIENT),
        (np.zeros((60, 47)), np.zeros((60, 47)), Verdict.RANK_DEFICIENT),
        (NOISE[0], NOISE[1], Verdict.NOISE_DOMINATES),
        (NOISE[0] * 1e-150, NOISE[0] * 1e-150, Verdict.SOLVED),
        (NOISE[0] * 1e100, NOISE[0] * 1e-100, Verdict.SOLVED),
    ],
)
@pytest.mark.parametrize("boundary", ["wrap", None])
def test_bad_numerics_is_a_verdict(image, target, verdict, boundary):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = find_kernel(image, target, (3, 4), boundary=boundary, method="wiener")
    assert np.isfinite(fit.kernel).all() and fit.kernel.shape == (3, 4)
    if boundary is None and verdict is Verdict.SOLVED:
        verdict = Verdict.APPROXIMATE
    assert verdict in [f.verdict for f in fit.findings] or fit.verdict is verdict
    assert fit.summary()


@pytest.mark.parametrize(
    "balance, error", [("big", ValueError), (-1, ValueError), (np.nan, ValueError), (None, TypeError)]
)
def test_bad_balance(balance, error):
    with pytest.raises(error, match=r"got balance=.*need 'auto'"):
        find_kernel(*NOISE, 3, method="wiener", balance=balance)


def test_the_choice_for_large_kernels():
    """Close to the best balance; the image is smaller than a sample of the band would be."""
    kernel = smooth_kernel(33, 35)
    stats = accumulate_spectra(*crop_of_a_larger_scene(kernel), (33, 35))
    best = min(relative(stats.solve(b).kernel, kernel) for b in 10.0 ** np.arange(-3, 4))
    assert relative(stats.solve().kernel, kernel) < 1.5 * best


VOLUMES = [
    ({}, "cc"),
    ({"operation": "correlation", "origin": (0, 2, 0)}, "rr"),
    ({"stride": (2, 1, 3), "offset": (1, 0, 2)}, "rr"),
    ({"background": 0}, "rr"),
    ({"background": 0}, "cc"),
    ({"shape": (1, 2, 3)}, "rr"),
    ({"shape": (3, 1, 1)}, "rc"),
]


@pytest.mark.parametrize("words, kinds", VOLUMES, ids=str)
def test_periodic_volumes_are_those_of_least_squares(words, kinds):
    words = {"boundary": "wrap", "mode": "same"} | words
    shape, background = words.pop("shape", (3, 2, 2)), words.pop("background", None)
    image, _, target = complex_pairs.pair((6, 9, 12), shape, kinds=kinds, **words)
    words |= {"background": background}
    for one, other in ((image, target), ([image, image[::-1]], [target, target[:, ::-1]])):
        expected = find_kernel(one, other, shape, **words)
        fit = find_kernel(one, other, shape, solver=Wiener(0.0), **words)
        assert fit.kernel.shape == shape and fit.convention == expected.convention
        assert_close(fit.kernel, expected.kernel, 1e-9)
        assert fit.rss == pytest.approx(expected.rss, rel=1e-7) and fit.n_pixels == expected.n_pixels
        if background is not None:
            assert_close(fit.background.coefficients, expected.background.coefficients, 1e-8)


def test_mixed_channels_of_volumes():
    rng = np.random.default_rng(1)
    image, target = rng.normal(size=(5, 8, 9, 2)), rng.normal(size=(5, 8, 9, 3))
    words = dict(channel_axis=-1, channels="mixed", boundary="wrap")
    expected = find_kernel(image, target, (2, 3, 2), **words)
    assert_close(find_kernel(image, target, (2, 3, 2), solver=Wiener(0.0), **words).kernel, expected.kernel, 1e-9)


def test_volumes_whose_edges_are_tapered():
    rng = np.random.default_rng(6)
    image, kernel = rng.normal(size=(12, 60, 70)), rng.normal(size=(3, 5, 4))
    target = apply_kernel(image, kernel, mode="valid") + 0.1 * rng.normal(size=(10, 56, 67))
    fit = find_kernel(image, target, (3, 5, 4), solver=Wiener())
    assert fit.verdict is Verdict.APPROXIMATE and "tapered" in str(fit.findings)
    error = np.linalg.norm(fit.kernel - kernel)
    assert 0.3 < error / np.linalg.norm(fit.stderr) < 2 and error < 0.1 * np.linalg.norm(kernel)
    flat = find_kernel(np.ones_like(image), target, (3, 5, 4), solver=Wiener())
    assert flat.verdict is Verdict.RANK_DEFICIENT and flat.kernel.shape == (3, 5, 4) and not flat.kernel.any()


@pytest.mark.parametrize("origin", [(2, 0), (-1, 5)])
@pytest.mark.parametrize("words", [{}, {"channel_axis": -1, "channels": "mixed"}, {"stride": (1, 2)}], ids=str)
def test_an_origin_outside_the_kernel(origin, words):
    rng = np.random.default_rng(2)
    image = rng.integers(0, 99, (9, 12, 2) if "channels" in words else (9, 12)).astype(np.int16)
    target = rng.normal(size=image[:, :: words.get("stride", (1, 1))[1]].shape)
    words = {"boundary": "wrap", "origin": origin} | words
    expected, fit = (find_kernel(image, target, (2, 3), solver=s, **words) for s in (None, Wiener(0.0)))
    assert_close(fit.kernel, expected.kernel, 1e-9)
