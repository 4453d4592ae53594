"""Kernels that vary over the field, against dense least squares with columns phi_j(source pixel) * image."""

import dataclasses

import numpy as np
import pytest
import scipy.interpolate

import kernelfit
import naive
from helpers import assert_close
from kernelfit.data.plan import make_plan
from kernelfit.solvers.errors_in_variables import counts_of

SHAPE, SIDES = (37, 46), (3, 4)


def scene(seed=0, shape=SHAPE, sides=SIDES, degree=2, noise=0.3, **convention):
    """An image, the design of a kernel that varies, and its target with noise."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0.5, 1.0, shape)
    convention = {"mode": "same", "boundary": "wrap", **convention}
    functions = naive.polynomials(shape, degree)
    matrix, used = naive.varying_design(image, sides, functions, **convention)
    taps = rng.normal(size=matrix.shape[1])
    target = np.zeros(used.shape)
    target[used] = matrix @ taps
    target += noise * rng.normal(size=used.shape)
    return image, target, matrix, used


def dense(matrix, values, weights=None, more=None):
    """Taps, their covariance and s^2 of weighted least squares, beside further columns."""
    full = matrix if more is None else np.hstack([matrix, more])
    root = np.ones(len(values)) if weights is None else np.sqrt(weights)
    taps = np.linalg.lstsq(full * root[:, None], values * root, rcond=None)[0]
    rest = (values - full @ taps) * root
    variance = rest @ rest / (np.count_nonzero(root) - full.shape[1])
    n = matrix.shape[1]
    cov = variance * np.linalg.inv((full * root[:, None]).T @ (full * root[:, None]))[:n, :n]
    return taps, cov, variance


@pytest.mark.slow
@pytest.mark.parametrize(
    ("convention", "sides"),
    [
        ({"boundary": None}, (3, 4)),
        pytest.param({"boundary": "wrap"}, (4, 3), marks=pytest.mark.slow),
        pytest.param({"boundary": "symm", "operation": "correlation"}, (3, 4), marks=pytest.mark.slow),
        pytest.param({"boundary": "mirror", "mode": "full"}, (3, 2), marks=pytest.mark.slow),
        ({"boundary": "nearest", "origin": (2, 0)}, (3, 4)),
        ({"boundary": "fill", "fillvalue": 2.75}, (1, 5)),
        ({"boundary": None, "mode": "valid", "stride": (2, 3), "offset": (1, 0)}, (5, 4)),
    ],
)
@pytest.mark.parametrize("method", ["direct", pytest.param("fft", marks=pytest.mark.slow)])
def test_it_is_dense_least_squares(convention, sides, method):
    image, target, matrix, used = scene(sides=sides, **convention)
    taps, cov, variance = dense(matrix, target[used])
    keywords = {"mode": "same", **convention}
    fit = kernelfit.find_kernel(image, target, sides, variation=2, method=method, **keywords)
    assert fit.kernel.shape == (6, *sides)
    assert_close(fit.kernel.ravel(), taps, 1e-9)
    assert_close(fit.covariance(), cov, 1e-8)
    assert fit.noise_std**2 == pytest.approx(variance, rel=1e-9)
    assert_close(fit.predict(image)[used], matrix @ taps, 1e-9)
    assert_close(fit.residual(image, target)[used], target[used] - matrix @ taps, 1e-8)


def test_the_kernel_at_a_place_has_the_errors_of_the_coefficients():
    image, target, matrix, used = scene()
    taps, cov, _ = dense(matrix, target[used])
    fit = kernelfit.find_kernel(image, target, SIDES, variation=kernelfit.Polynomial(2), mode="same", boundary="wrap")
    functions = naive.polynomials(SHAPE, 2)
    for row, col in ((0, 0), (36, 11), (20, 45)):
        here = fit.at(row, col)
        values = np.array([phi[row, col] for phi in functions])
        mix = np.kron(values, np.eye(12))
        assert here.kernel.shape == here.stderr.shape == SIDES
        assert_close(here.kernel.ravel(), mix @ taps, 1e-9)
        assert_close(here.covariance(), mix @ cov @ mix.T, 1e-8)
        assert here.at(0, 0).kernel is here.kernel
    assert_close(fit.at(10.5, 3).kernel, 0.5 * (fit.at(10, 3).kernel + fit.at(11, 3).kernel), 0.02)
    sums = fit.sum_map()
    assert sums.shape == SHAPE
    assert sums[36, 11] == pytest.approx(fit.at(36, 11).kernel.sum())
    for place in ((37, 3), (3, -1), (np.nan, 0), (1, 1e9)):
        with pytest.raises(ValueError, match="need one row and one column|got row=nan, need"):
            fit.at(*place)


def test_degree_0_is_the_kernel_that_is_the_same_everywhere():
    image, target, *_ = scene()
    fit = kernelfit.find_kernel(image, target, SIDES, variation=0)
    assert fit.kernel.shape == SIDES and fit.convention.field is None
    assert np.array_equal(fit.kernel, kernelfit.find_kernel(image, target, SIDES).kernel)
    with pytest.raises(ValueError, match="need one that varies"):
        fit.sum_map()


@pytest.mark.parametrize(
    "strategy",
    ["everything", *(pytest.param(one, marks=pytest.mark.slow) for one in ("mask", "weights", "background"))],
)
def test_masks_weights_and_backgrounds(strategy):
    image, target, matrix, used = scene(seed=3, boundary=None)
    rng = np.random.default_rng(5)
    keywords, weights, more = {}, np.ones(target.shape), None
    if strategy in ("mask", "everything"):
        keywords["mask"] = rng.random(target.shape) < 0.2
        weights *= ~keywords["mask"]
        target = np.where(keywords["mask"], np.nan, target)
    if strategy in ("weights", "everything"):
        keywords["weights"] = rng.uniform(0.5, 2, target.shape)
        weights = weights * keywords["weights"]
    if strategy in ("background", "everything"):
        keywords["background"] = 1
        more = np.stack([phi[used] for phi in naive.polynomials(target.shape, 1)], axis=1)
        target = target + 3 + 2 * np.linspace(-1, 1, target.shape[0])[:, None]
    values = np.nan_to_num(target)[used]
    taps, cov, _ = dense(matrix, values, weights[used], more)
    fit = kernelfit.find_kernel(image, target, SIDES, variation=2, mode="same", **keywords)
    n = matrix.shape[1]
    assert_close(fit.kernel.ravel(), taps[:n], 1e-8)
    assert_close(fit.covariance(), cov, 1e-6)
    if more is not None:
        assert_close(fit.background.coefficients, taps[n:], 1e-8)
        full = np.hstack([matrix, more]) @ taps
        assert_close(fit.predict(image)[used], full, 1e-8)


@pytest.mark.slow
def test_pairs_and_colours():
    one, two = scene(seed=1, boundary=None), scene(seed=2, boundary=None)
    both = [np.stack([a, b], axis=-1) for a, b in ((one[0], two[0]), (one[1], two[1]))]
    values = np.concatenate([one[1][one[3]], two[1][two[3]]])
    taps, _, _ = dense(np.vstack([one[2], two[2]]), values)
    keywords = {"variation": 2, "mode": "same"}
    fit = kernelfit.find_kernel([one[0], two[0]], [one[1], two[1]], SIDES, **keywords)
    assert_close(fit.kernel.ravel(), taps, 1e-9)
    shared = kernelfit.find_kernel(*both, SIDES, channel_axis=-1, **keywords)
    assert_close(shared.kernel.ravel(), taps, 1e-9)
    apart = kernelfit.find_kernel(*both, SIDES, channel_axis=-1, channels="separate", **keywords)
    assert apart.kernel.shape == (2, 6, *SIDES)
    assert_close(apart.kernel[1].ravel(), dense(two[2], two[1][two[3]])[0], 1e-9)
    mixed = kernelfit.find_kernel(*both, SIDES, channel_axis=-1, channels="mixed", **keywords)
    taps, cov, _ = dense(np.hstack([one[2], two[2]]), two[1][two[3]])
    assert mixed.kernel.shape == (2, 2, 6, *SIDES)
    assert_close(mixed.kernel[1].ravel(), taps, 1e-9)
    values = np.array([phi[5, 7] for phi in naive.polynomials(SHAPE, 2)])
    mix = np.kron(np.eye(2), np.kron(values, np.eye(12)))
    here = mixed.at(5, 7)
    assert here.kernel.shape == (2, 2, *SIDES)
    assert_close(here.kernel[1].ravel(), mix @ taps, 1e-9)
    assert_close(here.covariance()[1], mix @ cov @ mix.T, 1e-8)
    for found in (shared, apart, mixed):
        left = found.residual(*both)
        assert left.shape == both[0].shape and (found is shared or np.nanstd(left) < 0.4)
        assert found.sum_map().shape == (*found.kernel.shape[:-3], *SHAPE)
    with pytest.raises(ValueError, match="need one shape"):
        kernelfit.find_kernel([one[0], two[0][:-2]], [one[1], two[1][:-2]], SIDES, **keywords)


@pytest.mark.parametrize(
    "how", ["accumulate", *(pytest.param(how, marks=pytest.mark.slow) for how in ("stream", "blocks"))]
)
def test_statistics_and_streams(how):
    image, target, matrix, used = scene(seed=4, boundary=None)
    taps, cov, _ = dense(matrix, target[used])
    keywords = {"variation": 2, "mode": "same"}
    if how == "accumulate":
        stats = kernelfit.accumulate(image, target, SIDES, **keywords)
    else:
        block = (16, 20) if how == "blocks" else None
        stats = kernelfit.accumulate_stream([(image, target)], SIDES, block=block, **keywords)
    fit = stats.solve()
    assert_close(fit.kernel.ravel(), taps, 1e-9)
    assert_close(fit.covariance(), cov, 1e-8)
    assert_close(fit.residual(image, target)[used], target[used] - matrix @ taps, 1e-8)


@pytest.mark.slow
def test_results_and_statistics_are_kept(tmp_path):
    image, target, *_ = scene(boundary=None)
    fit = kernelfit.find_kernel(image, target, SIDES, variation=2, background=1)
    fit.save(tmp_path / "fit.npz")
    back = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    assert back.convention == fit.convention
    assert np.array_equal(back.at(3, 4).kernel, fit.at(3, 4).kernel)
    assert np.array_equal(back.predict(image), fit.predict(image), equal_nan=True)
    stats = kernelfit.accumulate(image, target, SIDES, variation=2)
    stats.save(tmp_path / "stats.npz")
    again = kernelfit.NormalStats.load(tmp_path / "stats.npz").solve()
    assert np.array_equal(again.kernel, stats.solve().kernel)
    assert again.at(3, 4).kernel.shape == SIDES
    with pytest.raises(ValueError, match="variation add up"):
        stats + kernelfit.accumulate(image, target, SIDES, variation=kernelfit.Polynomial(2, flux="constant"))


@pytest.mark.slow
def test_a_point_spread_function_that_widens():
    rng = np.random.default_rng(0)
    image = np.zeros((90, 120))
    image[tuple(rng.integers(0, n, 900) for n in image.shape)] = rng.uniform(5, 50, 900)
    y, x = np.mgrid[-4:5, -5:6]
    narrow, wide = (np.exp(-(y**2 + x**2) / (2 * s**2)) for s in (1.2, 1.6))
    share = np.linspace(0, 1, 120)
    parts = [
        kernelfit.apply_kernel(image * weight, kernel / kernel.sum())
        for weight, kernel in (((1 - share), narrow), (share, wide))
    ]
    target = parts[0] + parts[1] + rng.normal(0, 0.01, image.shape)
    fit = kernelfit.find_kernel(image, target, (9, 11), variation=1)
    assert fit.verdict.ok
    widths = fit.width_map((2, 3))
    assert_close(widths[0], 2.355 * np.array([1.2, 1.36, 1.6]), 0.02)
    assert_close(fit.width_map().shape, (7, 9), 0)
    assert_close(fit.sum_map(), np.ones(image.shape), 0.01)
    there = fit.at(45, 119).psf()
    assert abs(there.fwhm_along.value - 2.355 * 1.6) < 4 * there.fwhm_along.stderr
    assert fit.psf().sum.value == pytest.approx(fit.at(44.5, 59.5).kernel.sum())
    assert "varying as a polynomial of degree 1" in fit.summary()


@pytest.mark.parametrize("background", [None, 1])
def test_constant_flux(background):
    image, target, matrix, used = scene(seed=6, boundary=None, degree=1)
    more = np.zeros((used.sum(), 0))
    if background is not None:
        more = np.stack([phi[used] for phi in naive.polynomials(SHAPE, background)], axis=1)
    sums = np.zeros((2, matrix.shape[1] + more.shape[1]))
    sums[0, 12:24] = sums[1, 24:36] = 1
    free = np.linalg.svd(sums)[2][2:].T  # all kernels whose second and third sums are zero
    full = np.hstack([matrix, more]) @ free
    taps = free @ np.linalg.lstsq(full, target[used], rcond=None)[0]
    left = target[used] - np.hstack([matrix, more]) @ taps
    cov = left @ left / (used.sum() - free.shape[1]) * free @ np.linalg.inv(full.T @ full) @ free.T
    variation = kernelfit.Polynomial(1, flux="constant")
    keywords = {"variation": variation, "background": background}
    fit = kernelfit.find_kernel(image, target, SIDES, **keywords)
    assert_close(fit.kernel.ravel(), taps[:36], 1e-9)
    assert_close(fit.covariance(), cov[:36, :36], 1e-8)
    assert np.ptp(fit.sum_map()) < 1e-12 * np.abs(fit.sum_map()).max() + 1e-12
    stats = kernelfit.accumulate(image, target, SIDES, **keywords)
    assert_close(stats.solve().kernel.ravel(), taps[:36], 1e-9)
    for wrong in ({"solver": kernelfit.NonNegative()}, {"method": "cg"}):
        with pytest.raises(ValueError, match="constant flux"):
            kernelfit.find_kernel(image, target, SIDES, **keywords, **wrong)


@pytest.mark.parametrize(
    ("convention", "weighted"),
    [
        ({"boundary": None}, True),
        ({"boundary": "symm"}, False),
        ({"boundary": "mirror", "operation": "correlation"}, True),
        ({"boundary": "nearest", "mode": "full"}, False),
        ({"boundary": None, "stride": (2, 1)}, False),
    ],
)
def test_noise_of_the_image_is_counted_where_it_lies(convention, weighted):
    shape, sides = (7, 9), (2, 3)
    image = np.zeros(shape)
    model = kernelfit.Model(sides, variation=1, **convention)
    functions = naive.polynomials(shape, 1)
    keywords = {"mode": "same", **convention}
    matrix, used = naive.varying_design(image, sides, functions, **keywords)
    weights = np.random.default_rng(0).uniform(0.5, 2, used.shape) if weighted else np.ones(used.shape)
    expected = np.zeros((matrix.shape[1],) * 2)
    for at in np.ndindex(shape):
        image[at] = 1
        rows = naive.varying_design(image, sides, functions, **keywords)[0]
        expected += rows.T @ (weights[used][:, None] * rows)
        image[at] = 0
    plan = make_plan(image, np.zeros(used.shape), model, kernelfit.Selection(), determined=False)
    plan = plan.groups[0][0].geometry
    assert_close(counts_of(plan, weights[plan.used] if weighted else None), expected, 1e-12)


@pytest.mark.slow
def test_noise_of_the_image_is_taken_off():
    rng = np.random.default_rng(1)
    clean = rng.normal(size=(140, 150))
    functions = naive.polynomials(clean.shape, 1)
    taps = rng.normal(size=(3, 2, 3))
    target = sum(kernelfit.apply_kernel(clean * phi, k) for phi, k in zip(functions, taps, strict=True))
    target += rng.normal(0, 0.1, target.shape)
    image = clean + rng.normal(0, 0.5, clean.shape)
    plain = kernelfit.find_kernel(image, target, (2, 3), variation=1)
    error = np.linalg.norm(plain.kernel - taps) / np.linalg.norm(taps)
    for keywords in ({}, {"background": 1}, {"weights": np.broadcast_to(rng.uniform(1, 2, 150), target.shape)}):
        fit = kernelfit.find_kernel(image, target, (2, 3), variation=1, image_noise=0.5, **keywords)
        pulls = (fit.kernel - taps) / fit.stderr
        assert 0.5 < np.sqrt(np.mean(pulls**2)) < 1.7
        assert np.linalg.norm(fit.kernel - taps) < 0.2 * error * np.linalg.norm(taps)
    stats = kernelfit.accumulate(image, target, (2, 3), variation=1)
    again = stats.without_image_noise(0.5)[0].solve()
    assert_close(again.kernel, kernelfit.find_kernel(image, target, (2, 3), variation=1, image_noise=0.5).kernel, 0.02)


@pytest.mark.slow
def test_dask():
    array = pytest.importorskip("dask.array")
    image, target, matrix, used = scene(seed=4, boundary="symm")
    mask = np.random.default_rng(3).random(target.shape) < 0.1
    image_mask = np.zeros(image.shape, dtype=bool)
    image_mask[11, 7] = image_mask[36, 45] = True
    keywords = {"variation": 2, "mode": "same", "boundary": "symm"}
    blocks = [array.from_array(one, chunks=(20, 17)) for one in (image, target)]
    fit = kernelfit.scale.find_kernel(*blocks, SIDES, **keywords)
    assert_close(fit.kernel.ravel(), dense(matrix, target[used])[0], 1e-9)
    masks = {"mask": mask, "image_mask": image_mask}
    fit = kernelfit.scale.find_kernel(*blocks, SIDES, **keywords, **masks)
    same = kernelfit.find_kernel(image, target, SIDES, **keywords, **masks)
    assert fit.n_pixels == same.n_pixels
    assert_close(fit.kernel, same.kernel, 1e-9)


def test_splines(tmp_path):
    image, target, _, used = scene(seed=7, boundary=None, degree=2, sides=(2, 3))
    knots = [np.concatenate([[-1] * 3, np.linspace(-1, 1, n + 2), [1] * 3]) for n in (0, 1)]
    places = [np.linspace(-1, 1, n) for n in SHAPE]
    splines = [
        [scipy.interpolate.BSpline.basis_element(k[i : i + 5], extrapolate=False)(at) for i in range(len(k) - 4)]
        for k, at in zip(knots, places, strict=True)
    ]
    for some in splines:
        some[-1][-1] = 1.0  # the last spline ends with the last pixel
    functions = [np.outer(np.nan_to_num(a), np.nan_to_num(b)) for a in splines[0] for b in splines[1]]
    functions[0] = np.ones(SHAPE)
    matrix, used = naive.varying_design(image, (2, 3), functions, mode="same", boundary=None)
    fit = kernelfit.find_kernel(image, target, (2, 3), variation=kernelfit.Spline((0, 1)))
    taps, cov, _ = dense(matrix, target[used])
    assert fit.kernel.shape == (20, 2, 3)
    assert_close(fit.kernel.ravel(), taps, 1e-7)
    assert_close(fit.covariance(), cov, 1e-6)
    mix = np.kron([phi[36, 20] for phi in functions], np.eye(6))
    assert_close(fit.at(36, 20).kernel.ravel(), mix @ taps, 1e-7)
    fit.save(tmp_path / "fit.npz")
    assert kernelfit.KernelFit.load(tmp_path / "fit.npz").convention == fit.convention
    assert "spline over (0, 1) knots" in str(fit.convention)
    for wrong, error in ((-1, ValueError), (1.5, TypeError), (True, TypeError), ((1, 2, 3), TypeError)):
        with pytest.raises(error, match="got knots="):
            kernelfit.Spline(wrong)


def test_bad_calls():
    image, target, *_ = scene(boundary=None)
    for value, error in ((-1, ValueError), (1.5, TypeError), (True, TypeError), ("linear", TypeError)):
        with pytest.raises(error, match="variation="):
            kernelfit.find_kernel(image, target, SIDES, variation=value)
    for arguments, error in (((-1,), ValueError), ((1.5,), TypeError), ((True,), TypeError), ((1, "none"), ValueError)):
        with pytest.raises(error, match="got (degree|flux)="):
            kernelfit.Polynomial(*arguments)
    with pytest.raises(ValueError, match="cannot determine 3780 taps"):
        kernelfit.find_kernel(image, target, (12, 15), variation=5)
    fit = kernelfit.find_kernel(image, target, SIDES, variation=2)
    with pytest.raises(ValueError, match="over which the kernel was found to vary"):
        fit.predict(image[:-1])
    assert dataclasses.asdict(fit.convention)["field"]["shape"] == SHAPE


@pytest.mark.parametrize("variation", [1, kernelfit.Polynomial(1, flux="constant"), kernelfit.Spline((0, 1))], ids=str)
def test_the_call_is_written_out(variation):
    image = np.random.default_rng(0).normal(size=(40, 51))
    target = image * np.linspace(1, 2, 51)
    fit = kernelfit.find_kernel(image, target, (1, 2), variation=variation)
    again = eval(f"kernelfit.{fit.reproduce()}", {"kernelfit": kernelfit, "image": image, "target": target})
    assert again.convention == fit.convention and np.array_equal(again.kernel, fit.kernel)
    for place in ("a", None, [1, 2], np.nan):
        with pytest.raises((TypeError, ValueError), match="got row=.*, need"):
            fit.at(place, 1)


def complex_design(image, functions, **words):
    """The same columns of a complex image, of which what fills in beyond the edge is real."""
    real, used = naive.varying_design(image.real, SIDES, functions, **words)
    other = {"fillvalue": 0.0} if "fillvalue" in words else {}
    return real + 1j * naive.varying_design(image.imag, SIDES, functions, **{**words, **other})[0], used


@pytest.mark.slow
@pytest.mark.parametrize("method", ["direct", "fft"])
@pytest.mark.parametrize(
    "words",
    [
        {"boundary": "wrap"},
        {"boundary": "mirror", "mode": "full", "operation": "correlation"},
        {"boundary": "fill", "fillvalue": 2.75},
        {"boundary": None, "mode": "valid", "stride": (2, 3), "offset": (1, 0)},
    ],
    ids=str,
)
def test_complex_kernels_vary_by_real_functions(words, method):
    rng = np.random.default_rng(5)
    image = rng.normal(size=(*SHAPE, 2)) @ [1.0, 1j] + 0.5
    matrix, used = complex_design(image, naive.polynomials(SHAPE, 1), **{"mode": "same", **words})
    target = np.zeros(used.shape, complex)
    target[used] = matrix @ rng.normal(size=(matrix.shape[1], 2)) @ [1.0, 1j]
    target += 0.3 * rng.normal(size=(*used.shape, 2)) @ [1.0, 1j]
    fit = kernelfit.find_kernel(image, target, SIDES, variation=1, method=method, **{"mode": "same", **words})
    taps = np.linalg.lstsq(matrix, target[used], rcond=None)[0]
    assert fit.kernel.shape == (3, *SIDES)
    assert_close(fit.kernel.ravel(), taps, 1e-9)
    assert_close(fit.residual(image, target)[used], target[used] - matrix @ taps, 1e-9)
    left = target[used] - matrix @ taps
    variance = np.sum(np.abs(left) ** 2) / (len(left) - len(taps))
    assert fit.noise_std**2 == pytest.approx(variance, rel=1e-9)
    mix = np.kron([phi[3, 7] for phi in naive.polynomials(SHAPE, 1)], np.eye(12))
    cov = variance / 2 * mix @ np.linalg.inv(matrix.conj().T @ matrix) @ mix.T
    here = fit.at(3, 7)
    assert_close(here.kernel.ravel(), mix @ taps, 1e-9)
    assert_close(here.covariance(), np.block([[cov.real, -cov.imag], [cov.imag, cov.real]]), 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask", "background", "pairs", "real", "flux", "mixed", "huber", "sums", "cg"])
def test_complex_kernels_that_vary_go_with_the_rest(kind):
    rng = np.random.default_rng(6)
    image, target = (rng.normal(size=(*SHAPE, 2)) @ [1.0, 1j] for _ in range(2))
    functions = naive.polynomials(SHAPE, 1)
    matrix = complex_design(image, functions, mode="same", boundary="wrap")[0]
    target += (matrix @ rng.normal(size=(36, 2)) @ [1.0, 1j]).reshape(SHAPE)
    words, values, pair = {"boundary": "wrap", "variation": 1}, target.ravel(), (image, target)
    if kind == "mask":
        words["mask"] = rng.random(SHAPE) < 0.2
        matrix, values = matrix[~words["mask"].ravel()], target[~words["mask"]]
    elif kind == "background":
        words["background"] = 0
        matrix = np.hstack([matrix, np.ones((len(matrix), 1))])
    elif kind == "pairs":
        other = complex_design(image[::-1], functions, mode="same", boundary="wrap")[0]
        pair, matrix = ([image, image[::-1]], [target, target]), np.vstack([matrix, other])
        values = np.tile(values, 2)
    elif kind == "real":
        words["real"] = True
        matrix, values = (np.concatenate([one.real, one.imag]) for one in (matrix, values))
    elif kind == "flux":
        words["variation"] = kernelfit.Polynomial(1, flux="constant")
    elif kind == "mixed":
        pair = tuple(np.stack([one, one[::-1]], axis=-1) for one in pair)
        words |= {"channel_axis": -1, "channels": "mixed"}
        matrix = np.hstack([matrix, complex_design(image[::-1], functions, mode="same", boundary="wrap")[0]])
    elif kind == "huber":
        words["robust"] = "huber"
        target[5, 7] += 40j
    elif kind == "cg":
        words |= {"method": "cg", "tolerance": 1e-9}
    if kind == "sums":
        fit = sum(kernelfit.accumulate(*pair, SIDES, **words) for _ in range(2)).solve()
    else:
        fit = kernelfit.find_kernel(*pair, SIDES, **words)
    if kind == "huber":
        root = np.sqrt(fit.weights.ravel())
        matrix, values = matrix * root[:, None], target.ravel() * root
        assert fit.weights[5, 7] < 0.2
    taps = np.linalg.lstsq(matrix, values, rcond=None)[0][: 72 if kind == "mixed" else 36]
    if kind == "flux":
        tied = np.kron(np.eye(3)[1:], np.ones(12))
        gram = np.block([[matrix.conj().T @ matrix, tied.T], [tied, np.zeros((2, 2))]])
        taps = np.linalg.solve(gram, np.r_[matrix.conj().T @ values, 0, 0])[:36]
    found = fit.kernel[0] if kind == "mixed" else fit.kernel
    assert_close(found.ravel(), taps, 1e-8)
