"""Kernels of signals that drift with time, against dense least squares of the columns times functions of the sample."""

import dataclasses

import numpy as np
import pytest

import kernelfit
import naive
from helpers import BOUNDARIES, MODES, OPERATIONS, assert_close, grid
from kernelfit import Basis, Polynomial, Spline, Verdict, find_kernel

N, TAPS = 300, 4


def functions_of(degree, n=N):
    """Legendre polynomials of the sample, each as an image of one row."""
    return [naive.legendre_value(i, np.linspace(-1, 1, n)[None]) + np.zeros((1, n)) for i in range(degree + 1)]


def scene(degree=2, seed=0, noise=0.3, **convention):
    """A signal, the kernels of the functions, a target of them, the matrix, and which samples have an equation."""
    rng = np.random.default_rng(seed)
    x, k = rng.normal(size=N), rng.normal(size=(degree + 1, TAPS))
    words = {name: (0, value) if name in ("origin", "offset") else value for name, value in convention.items()}
    words |= {"stride": (1, convention["stride"])} if "stride" in convention else {}
    matrix, used = naive.varying_design(
        x[None], (1, TAPS), functions_of(degree), **{"mode": "same", "boundary": None, **words}
    )
    y = np.zeros(used.shape)
    y[used] = matrix @ k.ravel()
    return x, k, (y + noise * rng.normal(size=y.shape))[0], matrix, used[0]


def dense(matrix, values, weights=1.0, more=None):
    a = matrix if more is None else np.hstack([matrix, more])
    root = np.sqrt(np.broadcast_to(weights, values.shape))
    a, b = (a * root[:, None])[root > 0], (values * root)[root > 0]
    found = np.linalg.lstsq(a, b, rcond=None)[0]
    variance = np.sum((b - a @ found) ** 2) / (len(b) - len(found))
    return found, np.sqrt(variance * np.diag(np.linalg.inv(a.T @ a)))


CASES = [
    {"mode": mode, "boundary": boundary, "fillvalue": fill, "operation": operation}
    for mode in MODES for boundary, fill in BOUNDARIES for operation in OPERATIONS
]  # fmt: skip


@grid("convention", CASES, 5, ids=str)
@grid("method", ["direct", "fft"], 2)
def test_it_is_dense_least_squares(convention, method):
    x, _, y, matrix, used = scene(**convention)
    fit = find_kernel(x, y, TAPS, variation=2, method=method, **convention)
    expected, errors = dense(matrix, y[used])
    assert fit.kernel.shape == fit.stderr.shape == (3, TAPS) and fit.rank == 3 * TAPS
    assert_close(fit.kernel.ravel(), expected, 1e-10)
    assert_close(fit.stderr.ravel(), errors, 1e-9)
    assert_close(fit.residual(x, y)[used], y[used] - matrix @ expected, 1e-9)
    np.testing.assert_array_equal(np.isnan(fit.predict(x)), ~used)


def test_a_stride_with_lags():
    words = {"boundary": "mirror", "stride": 3, "offset": 1, "origin": 2}
    x, _, y, matrix, used = scene(**words)
    fit = find_kernel(x, y, variation=2, boundary="mirror", lags=(-2, 1), stride=3, offset=1)
    assert_close(fit.kernel.ravel(), dense(matrix, y[used])[0], 1e-10)


@grid("kind", ["mask", "weights", "background", "pairs", "stream", "dask", "cg", "sums"], 4)
def test_it_goes_with_the_rest(kind):
    x, _, y, matrix, used = scene(boundary="symm")
    rng, words, weights, more = np.random.default_rng(1), {"boundary": "symm", "variation": 2}, 1.0, None
    find = find_kernel
    if kind == "mask":
        words["mask"] = rng.random(N) < 0.3
        weights = ~words["mask"] * 1.0
    elif kind == "weights":
        weights = words["weights"] = rng.uniform(0.2, 3, N)
    elif kind == "background":
        y, words["background"], more = y + 3.0, 1, np.vstack(functions_of(1)).T
    elif kind == "cg":
        words |= {"solver": kernelfit.ConjugateGradient(), "tolerance": 1e-10}
    elif kind == "dask":
        pytest.importorskip("dask.array")
        find, words["block"] = kernelfit.scale.find_kernel, 70
    expected, _ = dense(matrix, y, weights, more)
    if kind == "pairs":
        x2, _, y2, second, _ = scene(seed=3, boundary="symm")
        expected, _ = dense(np.vstack([matrix, second]), np.concatenate([y, y2]))
        fit = find([x, x2], [y, y2], TAPS, **words)
    elif kind == "stream":
        fit = kernelfit.accumulate_stream([(x, y)], TAPS, block=80, **words).solve()
    elif kind == "sums":
        fit = kernelfit.accumulate(x, y, TAPS, **words).solve()
    else:
        fit = find(x, y, TAPS, **words)
    assert_close(fit.kernel.ravel(), expected[: 3 * TAPS], 1e-7 if kind == "cg" else 1e-10)


def test_the_kernel_at_a_sample_has_the_errors_of_the_coefficients():
    x, k, y, *_ = scene()
    fit = find_kernel(x, y, TAPS, variation=2)
    for sample in (0, 41.5, N - 1):
        values = np.array([naive.legendre_value(i, 2 * sample / (N - 1) - 1) + 0.0 for i in range(3)])
        there, mix = fit.at(sample), np.kron(values, np.eye(TAPS))
        assert there.kernel.shape == there.stderr.shape == (TAPS,) and there.convention.field is None
        assert_close(there.kernel, mix @ fit.kernel.ravel(), 1e-12)
        assert_close(there.covariance(), mix @ fit.covariance() @ mix.T, 1e-10)
        assert there.lags.tolist() == [-1, 0, 1, 2] and there.at(3).kernel is there.kernel
    assert fit.sum_map().shape == (N,)
    assert_close(fit.sum_map()[7], fit.at(7).kernel.sum(), 1e-12)
    assert np.all(np.abs(fit.kernel - k) < 6 * fit.stderr)
    for bad, error, words in (
        ((N,), ValueError, f"got the place {N}, need a sample of a signal of {N}"),
        ((0, 3), TypeError, "need a row and a column, of signals one sample"),
        (("a",), TypeError, "got sample='a', need one real number"),
        ((np.nan,), ValueError, "got sample=nan, need a finite number"),
        (((1, 2),), TypeError, r"got sample=\(1, 2\), need one real number"),
    ):
        with pytest.raises(error, match=words):
            fit.at(*bad)
    with pytest.raises(ValueError, match=r"fit\.at\(sample\)"):
        fit.export("scipy")
    with pytest.raises(ValueError, match="no width"):
        fit.width_map()


@grid("channels", ["shared", "separate", "mixed"], 3)
@grid("axis", [0, -1], 2)
def test_channels(channels, axis):
    both = [scene(seed=seed, boundary="wrap") for seed in (0, 5)]
    x, y = (np.stack([one[i] for one in both], axis) for i in (0, 2))
    fit = find_kernel(x, y, TAPS, variation=2, boundary="wrap", channel_axis=axis, channels=channels)
    matrices, values = [one[3] for one in both], [one[2] for one in both]
    if channels == "shared":
        expected = dense(np.vstack(matrices), np.concatenate(values))[0].reshape(3, TAPS)
    elif channels == "separate":
        expected = np.stack([dense(m, v)[0].reshape(3, TAPS) for m, v in zip(matrices, values, strict=True)])
    else:
        expected = np.stack([dense(np.hstack(matrices), v)[0].reshape(2, 3, TAPS) for v in values])
    assert_close(fit.kernel.reshape(expected.shape), expected, 1e-10)
    assert fit.at(5).kernel.shape == expected.shape[:-2] + (TAPS,)
    assert fit.sum_map().shape == (*expected.shape[:-2], N)
    assert fit.predict(x).shape == y.shape


def test_splines_functions_of_your_own_and_the_evidence(tmp_path):
    x, _, y, _, _ = scene(noise=0.05)
    ends = np.concatenate([[-1.0] * 3, [-1, 0, 1], [1.0] * 3])
    import scipy.interpolate

    table = scipy.interpolate.BSpline.design_matrix(np.linspace(-1, 1, N), ends, 3).toarray().T
    table[0] = 1.0
    matrix, used = naive.varying_design(x[None], (1, TAPS), table[:, None], mode="same", boundary=None)
    expected = dense(matrix, y[used[0]])[0].reshape(5, TAPS)
    for variation in (Spline(1), Basis(table)):
        fit = find_kernel(x, y, TAPS, variation=variation)
        assert_close(fit.kernel, expected, 1e-8)
        fit.save(tmp_path / "fit.npz", overwrite=True)
        again = kernelfit.KernelFit.load(tmp_path / "fit.npz")
        assert_close(again.at(7).kernel, fit.at(7).kernel, 0.0)
        assert again.convention == fit.convention
    auto = find_kernel(x, y, TAPS, variation="auto")
    assert auto.kernel.shape == (3, TAPS) and "degree 2" in auto.notes[-1]
    even = find_kernel(x, y, TAPS, variation=Polynomial(1, "constant"))
    assert np.ptp(even.sum_map()) < 1e-9 * np.abs(even.kernel).max()


def test_what_a_drift_does_to_a_kernel_that_does_not():
    """With it the noise is that of the target, and its intervals hold the truth."""
    x, k, y, *_ = scene(noise=0.1)
    fit, even = find_kernel(x, y, TAPS, variation=2), find_kernel(x, y, TAPS)
    assert fit.verdict is Verdict.SOLVED and 0.08 < fit.noise_std < 0.12 < even.noise_std
    inside = []
    for seed in range(60):
        x, k, y, *_ = scene(seed=seed + 10)
        fit = find_kernel(x, y, TAPS, variation=2)
        inside.append(np.abs(fit.kernel - k) < 1.96 * fit.stderr)
    assert 0.92 < np.mean(inside) < 0.98


def test_pictures_and_words(tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    from kernelfit import plot, report

    x, _, y, *_ = scene()
    fit = find_kernel(x, y, TAPS, variation=2)
    axes = fit.plot(x, y).axes
    assert [a.get_title() for a in axes if a.get_title().startswith("kernels of")] == [
        "kernels of 4 taps over the signal"
    ]
    drawn = plot.kernel_grid(fit)
    assert_close(drawn.lines[0].get_ydata(), fit.at(0).kernel, 1e-12)
    assert drawn.lines[0].get_xdata().tolist() == fit.lags.tolist() and len(drawn.lines) == 5
    assert_close(plot.flux_map(fit).lines[0].get_ydata(), fit.sum_map(), 1e-12)
    page = report.report_html(fit, x, y)
    assert "Kernels over the signal" in page and "Width over the field" not in page
    assert "varying as a polynomial of degree 2" in fit.summary()


def test_images_of_one_row_and_of_one_column_too():
    x, _, y, matrix, used = scene()
    expected = dense(matrix, y[used])[0].reshape(3, TAPS)
    assert_close(find_kernel(x[None], y[None], (1, TAPS), variation=2).kernel[:, 0], expected, 1e-10)
    column = find_kernel(x[:, None], y[:, None], (TAPS, 1), variation=2)
    assert_close(column.kernel[..., 0], expected, 1e-10)
    assert dataclasses.replace(column.convention.field.variation, _axes=(0, 1)) == Polynomial(2)
