"""Every compiled loop on something small, against SciPy or dense matrices.

They run as plain Python, too: ``NUMBA_DISABLE_JIT=1 coverage run -m pytest -n 0 tests/compiled/test_loops.py``.
"""

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
import naive
from kernelfit.compiled.lag_sums import correlate_finite
from kernelfit.data.reader import any_in_window

RNG = np.random.default_rng(0)
IMAGE, KERNEL = RNG.random((26, 31)), RNG.random((3, 5))
WEIGHTS = RNG.random(IMAGE.shape)


def dense(image, target, shape, weights=None, **model):
    """Return the kernel of least squares."""
    matrix, used = naive.design_dense(image, shape, **model)
    keep = used.ravel()
    scale = np.sqrt(np.ones(keep.sum()) if weights is None else weights.ravel()[keep])
    return np.linalg.lstsq(matrix * scale[:, None], target.ravel()[keep] * scale, rcond=None)[0].reshape(shape)


@pytest.mark.parametrize("settings", [
    {"method": "direct"}, {"method": "fft"}, {"method": "cg"}, {"weights": WEIGHTS}, {"mask": WEIGHTS < 0.1},
    {"weights": np.where(WEIGHTS < 0.5, 1.0, 2.0)}, {"boundary": "wrap"}, {"boundary": "symm", "method": "fft"},
    {"boundary": "fill", "method": "direct"},
], ids=lambda settings: '-'.join(settings))  # fmt: skip
def test_a_fit_is_dense_least_squares(settings):
    boundary = settings.get("boundary")
    target = kernelfit.apply_kernel(IMAGE, KERNEL, boundary=boundary or "fill") + RNG.normal(0, 0.1, IMAGE.shape)
    fit = kernelfit.find_kernel(IMAGE, target, KERNEL.shape, workers=1, **settings)
    weights = settings.get("weights", ~settings["mask"] * 1.0 if "mask" in settings else None)
    expected = dense(IMAGE, target, KERNEL.shape, weights, mode="same", boundary=boundary)
    tolerance = 1e-3 if settings.get("method") == "cg" else 1e-9
    np.testing.assert_allclose(fit.kernel, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("settings", [
    {"solver": "auto"}, {"robust": "huber"}, {"noise": (2.0, 1.0)}, {"stride": 2}, {"variation": 1}, {"background": 1},
    {"method": "wiener", "boundary": "wrap"}, {"errors": "sandwich"}, {"image_noise": 1e-9},
], ids=lambda settings: '-'.join(settings))  # fmt: skip
def test_a_kernel_comes_back(settings):
    model = {name: settings[name] for name in ("stride", "boundary") if name in settings}
    target = kernelfit.apply_kernel(IMAGE, KERNEL, **{"boundary": "fill", **model}) + 1e-7 * RNG.random()
    fit = kernelfit.find_kernel(IMAGE, target, KERNEL.shape, workers=1, **settings)
    kernel = fit.at(13, 15).kernel if "variation" in settings else fit.kernel
    np.testing.assert_allclose(kernel, KERNEL, rtol=0, atol=1e-3)


def test_colours_and_large_kernels():
    stack = RNG.random((24, 27, 2))
    target = stack @ np.array([[1.0, 0.2], [-0.3, 0.7]])
    mixed = kernelfit.find_kernel(stack, target, (1, 3), channel_axis=-1, channels="mixed", workers=1)
    np.testing.assert_allclose(mixed.kernel[..., 0, 1], [[1.0, -0.3], [0.2, 0.7]], atol=1e-9)
    image, kernel = RNG.random((40, 43)), RNG.random((21, 20))  # 420 taps: the factor is our own
    made = kernelfit.apply_kernel(image, kernel, boundary="wrap")
    np.testing.assert_allclose(
        kernelfit.find_kernel(image, made, kernel.shape, boundary="wrap", workers=1).kernel, kernel, atol=1e-8
    )


@pytest.mark.parametrize(
    "kernel", [KERNEL, np.outer(np.hanning(9), np.hanning(11)), RNG.random((19, 17))], ids=np.shape
)
def test_a_kernel_is_laid_on(kernel):
    made = kernelfit.apply_kernel(IMAGE, kernel, workers=1)
    np.testing.assert_allclose(made, scipy.signal.convolve2d(IMAGE, kernel, "same"), atol=1e-10)


@pytest.mark.parametrize("shape", [(9, 4), (1, 7), (13, 2)])
def test_rows_of_lags_in_registers(shape):
    target = RNG.normal(size=IMAGE.shape)
    for method in ("fft", "direct"):
        fit = kernelfit.find_kernel(IMAGE, target, shape, method=method, workers=1)
        np.testing.assert_allclose(fit.kernel, dense(IMAGE, target, shape, mode="same", boundary=None), atol=1e-9)


def test_tiles_of_a_field():
    target = kernelfit.apply_kernel(IMAGE, KERNEL) + np.random.default_rng(1).normal(0, 0.01, IMAGE.shape)
    found = kernelfit.kernel_map(IMAGE, target, KERNEL.shape, tiles=(1, 2), workers=1)
    assert found.kernels.shape == (1, 2, *KERNEL.shape)
    np.testing.assert_allclose(found.kernels, np.broadcast_to(KERNEL, found.kernels.shape), atol=0.03)


@pytest.mark.slow
def test_a_blur_is_taken_out():
    kernel = np.outer([1, 2, 1], [1, 4, 4, 1]) / 40
    image = scipy.ndimage.gaussian_filter(RNG.random((40, 43)), 1.0)
    blurred = kernelfit.apply_kernel(image, kernel, boundary="symm") + RNG.normal(0, 1e-4, image.shape)
    for words in ({}, {"edges": "solve"}, {"penalty": "identity", "balance": 1e-3}, {"balance": 1e-4}):
        sharp = kernelfit.deconvolve(blurred, kernel, workers=1, **words)
        assert np.std((sharp - image)[6:-6, 6:-6]) < 0.5 * np.std((blurred - image)[6:-6, 6:-6]), words


def test_spectra_of_tapered_blocks():
    image = np.cumsum(RNG.normal(size=(70, 64)), axis=1)
    target = kernelfit.apply_kernel(image, KERNEL) + RNG.normal(0, 0.1, image.shape)
    fit = kernelfit.find_kernel(image, target, (5, 7), method="wiener", workers=1)
    assert np.linalg.norm(fit.kernel[1:4, 1:6] - KERNEL) < 0.2 * np.linalg.norm(KERNEL)


@pytest.mark.slow
def test_conjugate_gradients():
    target = kernelfit.apply_kernel(IMAGE, KERNEL, boundary="wrap") + RNG.normal(0, 0.5, IMAGE.shape)
    fit = kernelfit.find_kernel(IMAGE, target, (9, 7), method="cg", boundary="wrap", workers=1)
    exact = dense(IMAGE, target, (9, 7), mode="same", boundary="wrap")
    assert np.linalg.norm(fit.kernel - exact) < 0.05 * np.linalg.norm(fit.stderr)


def test_compiling_is_told_once_and_only_if_it_takes_long(monkeypatch):
    from kernelfit.compiled import jit

    now, told = [0.0], []
    monkeypatch.setattr(jit.time, "monotonic", lambda: now[0])
    listener = jit._Listener(lambda: told.append(now[0]))
    for seconds in (0.4, 0.4, 0.4, 0.1, 0.1):
        listener.on_start(None)
        listener.on_start(None)  # one loop that calls another
        now[0] += seconds
        listener.on_end(None)
        listener.on_end(None)
    assert told == [pytest.approx(1.2)]


def test_code_that_cannot_be_written_is_not_kept():
    from kernelfit.compiled import jit

    class Full:
        cache_path = "nowhere"

        def save_overload(self, *_):
            raise OSError(28, "No space left on device")

        def load_overload(self, *_):
            raise PermissionError(13, "Permission denied")

    kept = jit._Kept(Full(), test_code_that_cannot_be_written_is_not_kept)
    kept.save_overload(None, None)
    assert kept.load_overload(None, None) is None


@pytest.mark.parametrize(("n_i", "n_j"), [(1, 3), (3, 6), (5, 4), (6, 9)])
def test_lag_sums_are_those_of_plain_loops(n_i, n_j):
    from kernelfit.compiled import lag_sums

    rows, cols, a, b = 7, 9, RNG.random((9, 14)), RNG.random((7 + 8, 9 + 12))  # what lies beyond the rows takes no part
    out = np.ones((n_i, n_j))
    lag_sums.lag_sums(a, 2, b, 1, rows, cols, out)
    block = a[:rows, 2 : 2 + cols]
    expected = [[(block * b[i : i + rows, 1 + j : 1 + j + cols]).sum() + 1 for j in range(n_j)] for i in range(n_i)]
    np.testing.assert_allclose(out, expected, rtol=1e-13)
    pairs = np.zeros((len(a), len(b), b.shape[1] - a.shape[1] + 1))
    lag_sums.pair_lag_sums(a, b, pairs)
    windows = np.lib.stride_tricks.sliding_window_view(b, a.shape[1], axis=1)
    np.testing.assert_allclose(pairs, np.einsum("pc,qlc->pql", a, windows), rtol=1e-13)
    with pytest.raises(ValueError, match="row after row"):
        lag_sums.lag_sums(a, 2, b, 1, rows, cols, np.zeros((n_j, n_i)).T[:, ::-1])


@pytest.mark.parametrize("size", [(3, 40), (4, 16), (7, 17), (9, 15), (5, 33)])
@pytest.mark.parametrize("sides", [(3, 5), (6, 2)])
def test_rows_four_at_once_are_a_correlation(size, sides):
    block, taps = RNG.random([n + k - 1 for n, k in zip(size, sides, strict=True)]), RNG.random(sides)
    out = np.full(size, np.nan)
    correlate_finite(block, taps, *size, out)
    np.testing.assert_allclose(out, scipy.signal.correlate(block, taps, "valid", "direct"), rtol=0, atol=1e-13)


@pytest.mark.parametrize("window", [(1, 4), (3, 1), (7, 5), (8, 9)])
def test_windows_with_a_mark_are_found(window):
    marks = RNG.random((2, 19, 23)) < 0.01
    views = np.lib.stride_tricks.sliding_window_view(marks, window, axis=(1, 2))
    assert np.array_equal(any_in_window(marks, window), views.any(axis=(-2, -1)))
