"""What is asked of the kernels of volumes: statistics, supports, differences, boundaries, numbers."""

import numpy as np
import pytest
import scipy.stats

import kernelfit
import naive
from helpers import assert_close, grid
from kernelfit.analysis.psf_volume import Peak

KERNEL = (3, 2, 4)


def pair(seed=0, shape=(8, 10, 12), noisy=0.1, **words):
    rng = np.random.default_rng(seed)
    x, k = rng.normal(0.4, 1.0, shape), rng.normal(size=KERNEL)
    y = kernelfit.apply_kernel(x, k, **{"boundary": "fill", **words})
    return x, k, y + noisy * rng.normal(size=y.shape)


# ---- statistics -----------------------------------------------------------------------------------------------------


@grid("kind", ["constant", "plain", "mask", "stride", "pairs"], 5)
def test_statistics_are_those_of_the_design_matrix(kind, tmp_path):
    step = (2, 1, 2) if kind == "stride" else (1, 1, 1)
    words = {"boundary": "mirror", "stride": step}
    given = [pair(seed, **words) for seed in range(1 + (kind == "pairs"))]
    keywords, weights = dict(words), np.ones(given[0][2].shape)
    if kind == "mask":
        weights[np.random.default_rng(3).random(weights.shape) < 0.2] = 0.0
        keywords["mask"] = weights == 0
    if kind in ("constant", "mask"):
        keywords["background"] = 0
    xs, ys = [one[0] for one in given], [one[2] + 2.0 * (kind != "plain") for one in given]
    x, y = (xs, ys) if kind == "pairs" else (xs[0], ys[0])
    stats = kernelfit.accumulate(x, y, KERNEL, **keywords)
    matrix = np.concatenate([naive.design_nd(one, KERNEL, mode="same", **words)[0] for one in xs]).astype(float)
    counted = np.tile(weights.ravel(), len(given)) > 0
    matrix, values = matrix[counted], np.concatenate([one.ravel() for one in ys])[counted]
    if "background" in keywords:
        matrix, values = matrix - matrix.mean(axis=0), values - values.mean()
    assert stats.n_pixels == len(values) - ("background" in keywords) and stats.supports == (KERNEL,)
    assert_close(stats.gram, matrix.T @ matrix, 1e-10)
    assert_close(stats.moment, matrix.T @ values, 1e-10)
    fit = stats.solve()
    again = kernelfit.find_kernel(x, y, KERNEL, **keywords)
    assert_close(fit.kernel, again.kernel, 1e-9)
    assert_close(fit.stderr, again.stderr, 1e-9)
    if fit.background is not None:
        assert_close(fit.background.coefficients, again.background.coefficients, 1e-9)
        assert_close(fit.background.stderr, again.background.stderr, 1e-9)
    stats.save(tmp_path / "sums.npz")
    loaded = kernelfit.NormalStats.load(tmp_path / "sums.npz")
    assert_close(loaded.solve().kernel, fit.kernel, 1e-14)
    assert loaded.solve().verdict is fit.verdict and loaded.convention == stats.convention
    if kind == "pairs":
        apart = [kernelfit.accumulate(*both, KERNEL, **words) for both in zip(xs, ys, strict=True)]
        assert_close((apart[0] + apart[1]).gram, stats.gram, 1e-12)
        assert (apart[0] + apart[1]).solve().verdict is stats.solve().verdict


def test_a_smaller_support_is_a_part_of_the_sums():
    x, _, y = pair(boundary="wrap")
    whole = kernelfit.accumulate(x, y, (4, 3, 5), boundary="wrap")
    part = whole.crop((2, 3, 1), (1, 0, 3))
    window = tuple((a - o, a - o + n - 1) for a, o, n in zip((1, 0, 3), (1, 1, 2), (2, 3, 1), strict=True))
    direct = kernelfit.find_kernel(x, y, lags=window, boundary="wrap")
    assert part.convention.origin == direct.convention.origin
    assert_close(part.solve().kernel, direct.kernel, 1e-10)
    with pytest.raises(ValueError, match="got a support of 2x3x5 at .*, need one inside 4x3x5"):
        whole.crop((2, 3, 5), (3, 0, 0))


def test_the_smallest_support_is_found():
    x, k, y = pair(shape=(12, 16, 18), boundary="wrap")
    stats = kernelfit.accumulate(x, y, (5, 6, 6), boundary="wrap")
    found = kernelfit.choose_support(stats)
    assert found.shape == KERNEL and found.p_value > 1e-4
    assert found.corner == tuple(o - (n - 1) // 2 for o, n in zip((2, 2, 2), KERNEL, strict=True))
    fit = found.stats.solve()
    assert_close(fit.kernel, kernelfit.find_kernel(x, y, KERNEL, boundary="wrap").kernel, 1e-9)
    # the test of all that was left out is that of two dense fits
    squares = [stats.solve().rss, fit.rss]
    n, wide, narrow = x.size, 180, 24
    f = (squares[1] - squares[0]) / (wide - narrow) / (squares[0] / (n - wide))
    assert found.p_value == pytest.approx(scipy.stats.f.sf(f, wide - narrow, n - wide), rel=1e-6)


# ---- differences ----------------------------------------------------------------------------------------------------


def test_kernels_are_compared_origin_on_origin():
    x, k, y = pair(boundary="wrap", noisy=0.2)
    fit = kernelfit.find_kernel(x, y, KERNEL, boundary="wrap")
    turned = kernelfit.find_kernel(x, y, KERNEL, boundary="wrap", operation="correlation", origin=(1, 1, 2))
    assert_close(turned.kernel, np.flip(fit.kernel), 1e-9)
    same = kernelfit.compare_kernels(fit, turned)
    assert np.abs(same.difference).max() < 1e-9 and same.origin == (1, 0, 1) and not same.differ
    found = kernelfit.compare_kernels(fit, k)
    d = (fit.kernel - k).ravel()
    assert found.chi2 == pytest.approx(d @ np.linalg.solve(fit.covariance(), d), rel=1e-6) and found.dof == 24
    assert found.exact and not found.differ and kernelfit.compare_kernels(fit, k + 0.3).differ
    wide = np.zeros((5, 4, 6))
    wide[1:4, 1:3, 1:5] = k
    assert_close(kernelfit.compare_kernels(wide, k).relative + 1, 1.0, 1e-12)
    with pytest.raises(ValueError, match="got kernels of 3 and of 2 dimensions"):
        kernelfit.compare_kernels(fit, k[0])
    colours = kernelfit.find_kernel(x, y, (2, 4), channel_axis=0, channels="separate")
    with pytest.raises(ValueError, match="one plane of it"):
        kernelfit.compare_kernels(colours, colours)


# ---- boundaries -----------------------------------------------------------------------------------------------------

EDGES = [("wrap", 0.0), ("symm", 0.0), ("mirror", 0.0), ("nearest", 0.0), ("fill", 2.5)]


@grid(
    "edge, kind, mode",
    [(e, k, m) for e in EDGES for k in ("plain", "constant", "mask", "declared") for m in ("same", "full")][::3],
    14,
)
def test_the_boundary_is_found_along_all_axes(edge, kind, mode):
    boundary, value = edge
    rng = np.random.default_rng(4)
    x = rng.normal(size=(9, 13, 14)).cumsum(axis=0).cumsum(axis=1)
    y = kernelfit.apply_kernel(x, rng.random(KERNEL), boundary=boundary, fillvalue=value, mode=mode)
    y = y + 0.02 * rng.normal(size=y.shape)
    words = {"constant": {"background": 0}, "declared": {"boundary": "wrap" if boundary != "wrap" else "symm"}}
    words["mask"] = {"mask": rng.random(y.shape) < 0.1}
    fit = kernelfit.find_kernel(x, y, KERNEL, mode=mode, **words.get(kind, {}))
    found = kernelfit.check_boundary(x, y, fit, mask=words["mask"]["mask"] if kind == "mask" else None)
    assert found.best == boundary and found.possible == (boundary,)
    assert 0.8 < found.rows[0].ratio < 1.25 and found.rows[1].ratio > 5
    if boundary == "fill":
        assert found.rows[0].fillvalue == pytest.approx(value, abs=0.01)
    if kind == "plain":  # the pixels whose footprint leaves the volume: of an end plane those of a window
        assert found.n_pixels == np.isnan(fit.predict(x)).sum()


# ---- numbers --------------------------------------------------------------------------------------------------------


def gaussian(shape, center, moments):
    apart = np.stack(np.mgrid[tuple(slice(0, n) for n in shape)], axis=-1) - np.asarray(center)
    return np.exp(-0.5 * np.einsum("...i,ij,...j", apart, np.linalg.inv(moments), apart))


MOMENTS = np.array([[2.0, 0.3, 0.0], [0.3, 1.6, 0.5], [0.0, 0.5, 3.0]])


def test_the_numbers_of_a_gaussian_are_its_own():
    k = gaussian((11, 10, 13), (5.2, 4.4, 6.3), MOMENTS)
    found = kernelfit.measure_psf(3 * k / k.sum(), origin=(5, 4, 6))
    assert found.sum.value == pytest.approx(3)
    assert_close([found.shift_planes.value, found.shift_rows.value, found.shift_cols.value], [0.2, 0.4, 0.3], 0.02)
    half = 2 * np.sqrt(2 * np.log(2))
    cuts = half / np.sqrt(np.diag(np.linalg.inv(MOMENTS)))
    assert_close([found.fwhm_planes.value, found.fwhm_rows.value, found.fwhm_cols.value], cuts, 6e-3)
    values, vectors = np.linalg.eigh(MOMENTS)
    assert_close([one.value for one in found.widths], half * np.sqrt(values[::-1]), 6e-3)
    assert_close(np.abs(np.array(found.axes) @ vectors[:, ::-1]), np.eye(3), 5e-3)
    response = np.sqrt(2 * np.log(2)) / (2 * np.pi * np.sqrt(np.diag(MOMENTS)))
    assert_close([found.mtf50_planes.value, found.mtf50_rows.value, found.mtf50_cols.value], response, 5e-3)
    rng = np.random.default_rng(0)
    far = np.linalg.norm(rng.multivariate_normal(np.zeros(3), MOMENTS, 200_000), axis=1)
    for share, radius in found.radii.items():
        assert radius.value == pytest.approx(np.quantile(far, share), rel=0.02)
    assert "FWHM along planes" in str(found) and found.to_dict()["widths"][0]["stderr"] is None
    turned = kernelfit.measure_psf(np.flip(k), origin=(5, 5, 6), operation="correlation")
    assert turned.shift_rows.value == pytest.approx(found.shift_rows.value)
    edge = kernelfit.measure_psf(np.ones((3, 3, 4)), origin=(1, 1, 1))
    assert any("edge of its support" in note for note in edge.notes) and edge.shift_cols.fixed == "by symmetry"
    assert any("no centre" in note for note in kernelfit.measure_psf(np.diff(k, axis=0), origin=(1, 1, 1)).notes)
    with pytest.raises(ValueError, match="origin of three numbers"):
        kernelfit.measure_psf(k)


@pytest.mark.slow
def test_the_errors_are_those_of_the_derivatives():
    """Of each number along each tap that matters, by differences."""
    k = gaussian((7, 6, 8), (3.1, 2.4, 3.6), 0.5 * MOMENTS)
    peak, rng = Peak.of(k), np.random.default_rng(0)
    step = 1e-4 * rng.normal(size=k.shape)
    other = [Peak.of(k + sign * step) for sign in (1, -1)]

    def every(one):
        return np.concatenate([one.numbers()[:6], one.principal_by_taps()[0], one.center])

    difference = (every(other[0]) - every(other[1])) / 2
    slopes = [gradient for _, gradient in peak.numbers_by_taps()[:6]]
    slopes = np.array([*slopes, *peak.principal_by_taps()[2], *peak.place_by_taps()[:3]])
    assert_close(slopes @ step.ravel(), difference, 2e-3)
    x = rng.normal(size=(12, 14, 16))
    y = kernelfit.apply_kernel(x, k, boundary="wrap") + 0.2 * rng.normal(size=x.shape)
    fit = kernelfit.find_kernel(x, y, k.shape, boundary="wrap")
    found = fit.psf()
    total = fit.covariance().sum()
    assert found.sum.stderr == pytest.approx(np.sqrt(total), rel=1e-9)
    assert abs(found.sum.value - k.sum()) < 4 * found.sum.stderr
    assert found.shift_rows.stderr > 0 and found.widths[0].stderr > 0 and found.radii[0.5].stderr > 0
    even = kernelfit.find_kernel(x, y, k.shape, boundary="wrap", solver=kernelfit.Constrained(symmetric="point")).psf()
    assert even.shift_planes.fixed == "by symmetry" and even.widths[0].stderr > 0


@pytest.mark.slow
def test_coverage_of_the_numbers():
    k = gaussian((7, 6, 8), (3.1, 2.4, 3.6), 0.6 * MOMENTS)
    peak = Peak.of(k)
    truth = np.concatenate([peak.numbers(), peak.principal_by_taps()[0]])
    far = []
    for seed in range(16):
        noisy = k + 0.015 * np.random.default_rng(seed).normal(size=k.shape)
        found = Peak.of(noisy)
        widths, _, slopes = found.principal_by_taps()
        numbers = [*found.numbers_by_taps(), *zip(widths, slopes, strict=True)]
        far.append([(v - t) / (0.015 * np.linalg.norm(g)) for (v, g), t in zip(numbers, truth, strict=True)])
    inside = np.mean(np.abs(far) < 1.96, axis=0)
    assert inside.min() > 0.7 and 0.9 < inside.mean() < 0.99
