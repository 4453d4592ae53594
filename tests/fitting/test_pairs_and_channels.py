"""Several pairs, channels and a background, against the dense matrix of the whole problem."""

import numpy as np
import pytest

import kernelfit
import naive
from helpers import assert_close, grid, mostly_slow, observe, smooth_image
from kernelfit import (
    Background,
    GaussianProcess,
    KernelFit,
    NonNegative,
    Penalized,
    Verdict,
    accumulate,
    apply_kernel,
    find_kernel,
)
from kernelfit.engines import accumulation, edge_correction
from kernelfit.solvers import cholesky, least_squares

BOUNDARIES = [(None, 0.0), ("fill", 2.75), ("wrap", 0.0), ("symm", 0.0), ("mirror", 0.0), ("nearest", 0.0)]
CONVENTIONS = [
    {
        "mode": mode,
        "boundary": boundary,
        "fillvalue": fillvalue,
        "operation": ("convolution", "correlation")[(i + j) % 2],
    }
    for i, mode in enumerate(("same", "valid", "full"))
    for j, (boundary, fillvalue) in enumerate(BOUNDARIES)
    if boundary is not None or mode != "full"
]
SIZES = [(23, 31), (19, 40), (37, 18)]


@pytest.fixture(params=mostly_slow(CONVENTIONS, 6), ids=lambda c: f"{c['mode']}-{c['boundary']}-{c['operation'][:4]}")
def convention(request):
    return request.param


def planes(seed, n, size):
    return np.random.default_rng([seed, *size]).normal(0.5, 1.0, (n, *size))


def random_pairs(seed, shape, mode, n_sources=1, n_targets=1, sizes=SIZES):
    """[(sources, targets)] of noise on noise, stacked along the first axis."""
    return [
        (planes(seed, n_sources, size), planes(seed + 1, n_targets, naive.target_shape(size, shape, mode)) + 0.3 * i)
        for i, size in enumerate(sizes)
    ]


def same(fit, truth, tolerance=1e-9):
    """One kernel against the dense solution."""
    assert_close(fit.kernel.reshape(truth.kernel.shape), truth.kernel, tolerance, "kernel")
    assert_close(fit.covariance(), truth.covariance, tolerance, "covariance")
    errors = np.sqrt(np.diag(truth.covariance)).reshape(fit.kernel.shape)
    assert_close(fit.stderr, errors, tolerance, "stderr")
    assert fit.rss == pytest.approx(truth.rss, rel=tolerance)
    assert fit.noise_std == pytest.approx(truth.noise_std, rel=tolerance)
    assert fit.n_pixels == truth.n_pixels


# ---- several pairs --------------------------------------------------------------------------------------------------


@grid("shape", [(5, 2), (3, 4)], 2, ids=str)
def test_several_pairs(shape, convention, method):
    pairs = random_pairs(1, shape, convention["mode"])
    fit = find_kernel([x[0] for x, _ in pairs], [y[0] for _, y in pairs], shape, method=method, **convention)
    same(fit, naive.joint([(x, y[0]) for x, y in pairs], shape, **convention))
    assert fit.method == method


def test_several_pairs_without_noise_are_refined(method):
    """Rounding, not noise, is what is left: all pairs are read a second time."""
    kernel = np.random.default_rng(3).normal(size=(4, 7))
    images = [smooth_image(*size, seed=i) for i, size in enumerate(SIZES)]
    targets = [apply_kernel(image, kernel, boundary="mirror") for image in images]
    fit = find_kernel(images, targets, (4, 7), boundary="mirror", method=method)
    assert fit.refined >= 1 and fit.verdict is Verdict.SOLVED
    assert_close(fit.kernel, kernel, 1e-13)
    for image, target in zip(images, targets, strict=True):
        assert_close(fit.predict(image), target, 1e-13)


def solved(stats):
    """Least squares by the factorisation that a fit of pixels uses."""
    factorisation = cholesky.factorise(stats.gram, workers=2)
    return least_squares.estimate_of(stats, least_squares.least_squares(stats, factorisation))


def test_pairs_are_the_sum_of_their_statistics():
    pairs = random_pairs(4, (3, 5), "same")
    stats = [accumulate(x[0], y[0], (3, 5), method="direct") for x, y in pairs]
    total = stats[0] + stats[1] + stats[2]
    fit = find_kernel([x[0] for x, _ in pairs], [y[0] for _, y in pairs], (3, 5), method="direct")
    assert fit.refined == 0
    assert fit.kernel.tobytes() == solved(total).kernel.tobytes()


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_one_pair_is_the_pair_itself(noise, kind, method):
    image = np.random.default_rng(5).normal(size=(40, 51))
    target = apply_kernel(image, np.ones((3, 4)), boundary="wrap") + noise * np.random.default_rng(6).normal(
        size=image.shape
    )
    one = find_kernel(image, target, (3, 4), boundary="wrap", method=method)
    listed = find_kernel(kind([image]), kind([target]), (3, 4), boundary="wrap", method=method)
    for name in ("kernel", "stderr", "factor"):
        assert getattr(one, name).tobytes() == getattr(listed, name).tobytes()
    for name in ("rss", "noise_std", "refined", "condition", "r_squared", "findings"):
        assert getattr(one, name) == getattr(listed, name)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_one_pair_goes_the_way_it_always_went(noise, method):
    """Statistics, solve, and the residual taken from the pixels: the same bits as those rooms called one by one."""
    from kernelfit.engines import accumulation

    image = np.random.default_rng(7).normal(size=(60, 51))
    target = apply_kernel(image, np.ones((5, 4)), boundary="symm") + noise * np.random.default_rng(8).normal(
        size=image.shape
    )
    settings = {"mode": None, "boundary": "symm", "fillvalue": 0.0, "origin": None, "operation": "convolution"}
    observation = observe(image, target, (5, 4), **settings)
    stats = accumulation.statistics(observation, method, 2)[0]
    fit, refined = solved(stats), 0
    if least_squares.rounding_matters(stats, fit):
        while refined < 3:
            before = fit.kernel
            moments, energies = accumulation.residual_moments(observation, before[None, None], method, 2)
            stats = stats.centered(before.ravel(), moments[0], float(energies[0]))
            fit, refined = solved(stats), refined + 1
            if np.linalg.norm(fit.kernel - before) <= 1e-6 * np.linalg.norm(fit.kernel):
                break
    found = find_kernel(image, target, (5, 4), boundary="symm", method=method)
    assert found.kernel.tobytes() == fit.kernel.tobytes() and found.factor.tobytes() == fit.factor.tobytes()
    assert (found.rss, found.refined) == (fit.rss, refined) and (refined > 0) == (noise == 0.0)


@pytest.mark.parametrize("method", ["direct", "fft"])
def test_the_order_of_the_work_changes_no_bit(method, monkeypatch):
    """Whichever thread comes last: no place of the Gram matrix of several sources is written by two of them."""
    ((x, y),) = random_pairs(10, (5, 7), "same", 3, 1, sizes=[(60, 90)])
    settings = {"channel_axis": 0, "channels": "mixed", "method": method, "workers": 1}
    first = find_kernel(x, y, (5, 7), **settings)
    for room in (accumulation, edge_correction):
        monkeypatch.setattr(room, "in_order", lambda work, do, workers: [do(w) for w in work[::-1]][::-1])
    again = find_kernel(x, y, (5, 7), **settings)
    assert first.kernel.tobytes() == again.kernel.tobytes()


def test_any_number_of_workers_gives_the_same_bits():
    pairs = random_pairs(9, (3, 5), "same", 2, 2, sizes=[(90, 300), (130, 70)])
    settings = {"channel_axis": 0, "channels": "mixed", "background": 1}
    fits = [find_kernel(*zip(*pairs, strict=True), (3, 5), **settings, workers=n) for n in (1, 3)]
    assert fits[0].kernel.tobytes() == fits[1].kernel.tobytes()
    assert fits[0].background.coefficients.tobytes() == fits[1].background.coefficients.tobytes()


def test_pairs_too_small_for_themselves_serve_together():
    """Each has fewer pixels than the kernel has taps; together they determine it."""
    kernel = np.random.default_rng(10).normal(size=(4, 5))
    images = [np.random.default_rng([11, i]).normal(size=(6, 9)) for i in range(4)]
    targets = [apply_kernel(image, kernel, mode="valid", boundary=None) for image in images]
    with pytest.raises(ValueError, match="15 target pixels cannot determine the 20 taps"):
        find_kernel(images[0], targets[0], (4, 5))
    assert_close(find_kernel(images, targets, (4, 5)).kernel, kernel, 1e-11)


# ---- channels -------------------------------------------------------------------------------------------------------


def along(stack, axis):
    return np.moveaxis(stack, 0, axis)


@grid("axis", [0, 1, -1], 3)
def test_shared(axis, convention, method):
    """One kernel for all channels of all pairs."""
    shape = (3, 4)
    pairs = random_pairs(12, shape, convention["mode"], 3, 3, SIZES[:2])
    images, targets = ([along(pair[i], axis) for pair in pairs] for i in (0, 1))
    fit = find_kernel(images, targets, shape, channel_axis=axis, method=method, **convention)
    truth = naive.joint([(x[None], y) for pair in pairs for x, y in zip(*pair, strict=True)], shape, **convention)
    same(fit, truth)
    assert (fit.channels, fit.channel_axis, fit.parts) == ("shared", axis, ())
    round_trip(fit, images[0], convention)


@grid("axis", [0, 2], 2)
def test_separate(axis, convention, method):
    """One kernel for each channel, each with its own figures."""
    shape = (4, 3)
    pairs = random_pairs(13, shape, convention["mode"], 3, 3, SIZES[:2])
    images, targets = ([along(pair[i], axis) for pair in pairs] for i in (0, 1))
    fit = find_kernel(images, targets, shape, channel_axis=axis, channels="separate", method=method, **convention)
    assert fit.kernel.shape == fit.stderr.shape == (3, *shape)
    for c, part in enumerate(fit.parts):
        truth = naive.joint([(x[c : c + 1], y[c]) for x, y in pairs], shape, **convention)
        same(part, truth)
        assert fit.kernel[c].tobytes() == part.kernel.tobytes()
        assert fit.stderr[c].tobytes() == part.stderr.tobytes()
        assert fit.covariance()[c].tobytes() == part.covariance().tobytes()
    round_trip(fit, images[0], convention)


def test_mixed(convention, method):
    """Every target channel from every image channel."""
    shape = (3, 2)
    pairs = random_pairs(14, shape, convention["mode"], 3, 2, SIZES[:2])
    images, targets = ([along(pair[i], -1) for pair in pairs] for i in (0, 1))
    fit = find_kernel(images, targets, shape, channel_axis=-1, channels="mixed", method=method, **convention)
    assert fit.kernel.shape == fit.stderr.shape == (2, 3, *shape)
    for d, part in enumerate(fit.parts):
        same(part, naive.joint([(x, y[d]) for x, y in pairs], shape, **convention))
        assert fit.kernel[d].tobytes() == part.kernel.tobytes()
    round_trip(fit, images[0], convention)


def round_trip(fit, image, convention):
    """predict, apply_kernel and the oracle make the same of the kernels."""
    axis = fit.channel_axis
    model = fit.predict(image)
    sources = np.moveaxis(image, axis, 0)
    kernels = fit.kernel
    if kernels.ndim == 2:
        truth = [naive.apply_design(*naive.design_dense(s, kernels.shape, **convention), kernels) for s in sources]
    elif kernels.ndim == 3:
        truth = [
            naive.apply_design(*naive.design_dense(s, k.shape, **convention), k)
            for s, k in zip(sources, kernels, strict=True)
        ]
    else:
        designs = [naive.design_dense(s, kernels.shape[2:], **convention) for s in sources]
        truth = [sum(naive.apply_design(*a, k) for a, k in zip(designs, row, strict=True)) for row in kernels]
    truth = np.stack(truth, axis=axis)
    np.testing.assert_array_equal(np.isnan(model), np.isnan(truth))
    assert_close(np.nan_to_num(model), np.nan_to_num(truth), 1e-12, "predict")
    if convention["boundary"] is not None or convention["mode"] == "valid":
        again = apply_kernel(image, kernels, channel_axis=axis, **convention)
        assert_close(again, truth, 1e-12, "apply_kernel")


@pytest.mark.parametrize("channels", ["separate", "mixed"])
def test_exact_channels_are_refined(channels, method):
    image = np.stack([smooth_image(50, 61, seed=i) for i in range(3)], axis=-1)
    kernel = np.random.default_rng(15).normal(size=(3, 4, 3) if channels == "separate" else (2, 3, 4, 3))
    target = apply_kernel(image, kernel, boundary="nearest", channel_axis=-1)
    fit = find_kernel(image, target, (4, 3), boundary="nearest", channel_axis=-1, channels=channels, method=method)
    assert fit.refined >= 1 and fit.verdict is Verdict.SOLVED and fit.r_squared == pytest.approx(1.0, abs=1e-12)
    assert_close(fit.kernel, kernel, 1e-12)
    assert_close(fit.residual(image, target) + target, target, 1e-12)


def test_the_figures_of_several_kernels():
    rng = np.random.default_rng(16)
    image = rng.normal(size=(40, 51, 3))
    kernel = rng.normal(size=(3, 3, 4))
    target = apply_kernel(image, kernel, channel_axis=-1) + rng.normal(size=image.shape) * [0.1, 1.0, 20.0]
    fit = find_kernel(image, target, (3, 4), channel_axis=2, channels="separate")
    assert [part.noise_std for part in fit.parts] == pytest.approx([0.1, 1.0, 20.0], rel=0.05)
    assert fit.rss == sum(part.rss for part in fit.parts)
    assert (fit.rank, fit.n_pixels) == (36, 3 * 38 * 48)
    assert fit.noise_std == pytest.approx(np.sqrt(fit.rss / (fit.n_pixels - fit.rank)))
    assert (
        fit.parts[0].verdict is Verdict.SOLVED
        and fit.parts[2].verdict is fit.verdict is Verdict.NOISE_DOMINATES
        or fit.verdict is Verdict.POOR_FIT
    )
    assert all("channel 2" in finding.detail for finding in fit.findings) and fit.findings
    low, high = fit.confidence(0.9)
    for c, part in enumerate(fit.parts):
        np.testing.assert_array_equal(np.stack(part.confidence(0.9)), [low[c], high[c]])
    draws = fit.sample(2000, 17)
    assert draws.shape == (2000, 3, 3, 4)
    np.testing.assert_allclose(draws.std(axis=0), fit.stderr, rtol=0.1)
    text = fit.summary()
    for part in fit.parts:
        assert f"{part.noise_std:.4g}" in text
    assert "3 x 3 x 4" in text


@pytest.mark.parametrize("solver", [Penalized(), NonNegative(), GaussianProcess(), "auto"], ids=str)
def test_solvers_take_channels_and_backgrounds(solver):
    """Any solver: what it makes of each channel is what it makes of that channel alone."""
    rng = np.random.default_rng(18)
    image = rng.normal(size=(30, 41, 2))
    kernel = np.outer([1.0, 2.0, 1.0], [1.0, 3.0, 3.0, 1.0]) / 30
    target = apply_kernel(image, kernel, channel_axis=-1) + 0.1 * rng.normal(size=image.shape) + 5.0
    fit = find_kernel(image, target, (3, 4), channel_axis=-1, channels="separate", solver=solver, background=0)
    for c in range(2):
        alone = find_kernel(image[..., c], target[..., c], (3, 4), solver=solver, background=0)
        np.testing.assert_allclose(fit.kernel[c], alone.kernel, rtol=1e-9, atol=1e-12)
    assert np.linalg.norm(fit.kernel - kernel) < 0.1 * np.linalg.norm(fit.kernel)
    np.testing.assert_allclose(fit.background.coefficients, 5.0, atol=0.02)
    both = find_kernel(image, target, (3, 4), channel_axis=-1, channels="mixed", solver=solver)
    assert both.kernel.shape == (2, 2, 3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cg", "wiener"])
def test_other_methods_take_channels(method):
    image = np.stack([smooth_image(60, 81, seed=i) for i in (1, 2)], axis=-1)
    kernel = np.random.default_rng(19).normal(size=(2, 5, 4))
    target = apply_kernel(image, kernel, boundary="wrap", channel_axis=-1)
    settings = {"boundary": "wrap", "method": method, "channel_axis": -1}
    separate = find_kernel(image, target, (5, 4), channels="separate", **settings)
    assert_close(separate.kernel, kernel, 1e-6)
    shared_target = apply_kernel(image, kernel[0], boundary="wrap", channel_axis=-1)
    assert_close(find_kernel(image, shared_target, (5, 4), **settings).kernel, kernel[0], 1e-6)
    images, targets = [image[..., 0], image[:40, :, 1]], [shared_target[..., 0]]
    targets.append(apply_kernel(images[1], kernel[0], boundary="wrap"))
    several = find_kernel(images, targets, (5, 4), boundary="wrap", method=method)
    assert_close(several.kernel, kernel[0], 1e-6 if method == "cg" else 0.02)  # in blocks, which are not periodic
    mixture = np.random.default_rng(20).normal(size=(2, 2, 5, 4))
    both = [sum(apply_kernel(image[..., i], k, boundary="wrap") for i, k in enumerate(row)) for row in mixture]
    mixed = find_kernel(image, np.stack(both, axis=-1), (5, 4), channels="mixed", **settings)
    assert_close(mixed.kernel, mixture, 1e-6)
    lifted = find_kernel(image, target + [3.0, -2.0], (5, 4), channels="separate", background=0, **settings)
    assert_close(lifted.kernel, kernel, 1e-6)
    assert_close([fit.background.coefficients[0] for fit in lifted.parts], [3.0, -2.0], 1e-5)
    if method == "wiener":
        with pytest.raises(ValueError, match="need background=0"):
            find_kernel(image, target, (5, 4), channels="separate", background=1, **settings)


class Sliced:
    """Nothing but a shape, a dtype and slices, as h5py and zarr give."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, key):
        assert all(isinstance(k, (slice, int)) for k in key), key
        return self.array[key]


@pytest.mark.parametrize("channels", ["shared", "separate", "mixed"])
@pytest.mark.parametrize("axis", [0, 2])
def test_channels_of_what_can_only_be_sliced(channels, axis):
    image, target = np.random.default_rng(20).integers(0, 255, (2, 30, 41, 3), dtype=np.uint8)
    image, target = (np.moveaxis(a, -1, axis) for a in (image, target))
    settings = {"channel_axis": axis, "channels": channels, "boundary": "mirror", "background": 0}
    plain = find_kernel(image, target, (3, 4), **settings)
    sliced = find_kernel(Sliced(image), Sliced(target), (3, 4), **settings)
    assert plain.kernel.tobytes() == sliced.kernel.tobytes()


# ---- background -----------------------------------------------------------------------------------------------------


@grid("degree", [3, 1, 0], 2)
def test_background(degree, convention, method):
    shape = (2, 5)
    ((x, y),) = random_pairs(21, shape, convention["mode"], sizes=SIZES[:1])
    fit = find_kernel(x[0], y[0], shape, background=degree, method=method, **convention)
    truth = naive.joint([(x, y[0])], shape, degree=degree, **convention)
    same(fit, truth)
    assert_close(fit.background.coefficients, truth.background[0], 1e-9, "coefficients")
    assert_close(fit.background.stderr, truth.background_stderr[0], 1e-9, "their errors")
    surface = naive.surface_columns(np.ones(y[0].shape, bool), degree) @ truth.background[0]
    assert_close(fit.background.image(), surface.reshape(y[0].shape), 1e-9, "image")
    residual = fit.residual(x[0], y[0])
    assert np.nansum(residual**2) == pytest.approx(truth.rss, rel=1e-9)
    assert fit.df_resid == truth.n_pixels - truth.kernel.size - truth.background.size


def test_each_pair_has_its_background(convention, method):
    shape = (3, 4)
    pairs = random_pairs(22, shape, convention["mode"])
    fit = find_kernel(
        [x[0] for x, _ in pairs], [y[0] for _, y in pairs], shape, background=2, method=method, **convention
    )
    truth = naive.joint([(x, y[0]) for x, y in pairs], shape, degree=2, **convention)
    same(fit, truth)
    assert_close(fit.background.coefficients, truth.background, 1e-9)
    assert_close(fit.background.stderr, truth.background_stderr, 1e-9)
    with pytest.raises(ValueError, match="pair=None, need one of 0 to 2"):
        fit.predict(pairs[0][0][0])
    rss = sum(np.nansum(fit.residual(x[0], y[0], pair=i) ** 2) for i, (x, y) in enumerate(pairs))
    assert rss == pytest.approx(truth.rss, rel=1e-9)


@grid("channels", ["shared", "separate", "mixed"], 3)
def test_each_channel_has_its_background(channels, convention, method):
    shape = (3, 2)
    n_targets = 2 if channels == "mixed" else 3
    pairs = random_pairs(23, shape, convention["mode"], 3, n_targets, SIZES[:2])
    images, targets = ([along(pair[i], -1) for pair in pairs] for i in (0, 1))
    fit = find_kernel(
        images, targets, shape, background=1, channel_axis=-1, channels=channels, method=method, **convention
    )
    assert fit.background.coefficients.shape == fit.background.stderr.shape == (2, n_targets, 3)
    if channels == "shared":
        flat = [(x[None], y) for pair in pairs for x, y in zip(*pair, strict=True)]
        truth = naive.joint(flat, shape, degree=1, **convention)
        same(fit, truth)
        assert_close(fit.background.coefficients.reshape(6, 3), truth.background, 1e-9)
        assert_close(fit.background.stderr.reshape(6, 3), truth.background_stderr, 1e-9)
    else:
        for d, part in enumerate(fit.parts):
            sources = [x if channels == "mixed" else x[d : d + 1] for x, _ in pairs]
            truth = naive.joint(
                [(x, y[d]) for x, (_, y) in zip(sources, pairs, strict=True)], shape, degree=1, **convention
            )
            same(part, truth)
            assert_close(fit.background.coefficients[:, d], truth.background, 1e-9)
            assert_close(fit.background.stderr[:, d], truth.background_stderr, 1e-9)
    rss = sum(np.nansum(fit.residual(x, y, pair=i) ** 2) for i, (x, y) in enumerate(zip(images, targets, strict=True)))
    assert rss == pytest.approx(fit.rss, rel=1e-9)


@pytest.mark.parametrize("channels", [None, "shared", "mixed"])
def test_an_exact_background(channels, method):
    """No noise: kernel and surface are found to rounding, on an image whose mean is ten times its contrast."""
    degree = 2
    n = 1 if channels is None else 2
    image = np.stack([smooth_image(70, 91, seed=30 + i) + 1000.0 for i in range(n)], axis=-1)
    kernel = np.random.default_rng(24).normal(size=(n, n, 4, 5) if channels == "mixed" else (4, 5))
    rng = np.random.default_rng(25)
    truth = Background(degree, 100 * rng.normal(size=(n, 6)), np.zeros((n, 6)), ((70, 91),), -1)
    target = apply_kernel(image, kernel, boundary="symm", channel_axis=-1) + truth.image()
    if channels is None:
        image, target = image[..., 0], target[..., 0]
        settings = {}
    else:
        settings = {"channel_axis": -1, "channels": channels}
    fit = find_kernel(image, target, (4, 5), boundary="symm", background=degree, method=method, **settings)
    assert fit.refined >= 1 and fit.verdict is Verdict.SOLVED
    assert_close(fit.kernel, kernel, 1e-11)
    assert_close(fit.background.coefficients.reshape(n, 6), truth.coefficients, 1e-9)
    assert_close(fit.predict(image), target, 1e-13)
    if channels != "mixed":
        assert fit.rss < 1e-20 * (target**2).sum()


def test_a_background_that_is_declared_takes_the_bias_away():
    """What it is for: an offset and a slope ruin the kernel unless they are fitted with it."""
    rng = np.random.default_rng(26)
    image = 100 + rng.normal(size=(60, 71))
    kernel = rng.normal(size=(3, 4))
    y, x = np.mgrid[:60, :71]
    target = apply_kernel(image, kernel, boundary="nearest") + 50 + 0.5 * y - 0.3 * x + 0.1 * rng.normal(size=y.shape)
    fits = [find_kernel(image, target, (3, 4), background=degree) for degree in (None, 1)]
    errors = [np.linalg.norm(fit.kernel - kernel) for fit in fits]
    assert errors[1] < 0.01 < 0.1 < errors[0]
    assert np.all(np.abs(fits[1].kernel - kernel) < 4.5 * fits[1].stderr)
    at = fits[1].background
    assert at.powers == [(0, 0), (0, 1), (1, 0)]
    # the mean over the target, half the slopes across it; the kernel's sum and the offset are told apart by the image's
    # contrast alone, hence the errors
    expected = [50 + 0.5 * 29.5 - 0.3 * 35, -0.3 * 35, 0.5 * 29.5]
    assert np.all(np.abs(at.coefficients - expected) < 4.5 * at.stderr)


@pytest.mark.slow
def test_error_bars_of_a_background_cover_the_truth():
    rng = np.random.default_rng(27)
    image = rng.normal(1.0, 1.0, size=(18, 25))
    kernel = rng.normal(size=(2, 3))
    truth = Background(1, np.array([4.0, -2.0, 1.0]), np.zeros(3), ((18, 25),))
    clean = apply_kernel(image, kernel, boundary="symm") + truth.image()
    inside = []
    for draw in range(400):
        target = clean + np.random.default_rng([28, draw]).normal(0, 0.5, clean.shape)
        fit = find_kernel(image, target, (2, 3), boundary="symm", background=1, workers=1)
        low, high = fit.confidence(0.95)
        reach = (high - low)[0, 0] / 2 / fit.stderr[0, 0]
        taps = (low <= kernel) & (kernel <= high)
        off = np.abs(fit.background.coefficients - truth.coefficients)
        inside.append([*taps.ravel(), *(off <= reach * fit.background.stderr)])
    assert 0.93 <= np.mean(inside) <= 0.97
    assert np.all(np.abs(np.mean(inside, axis=0) - 0.95) < 0.04)


def test_an_image_that_is_a_background_itself():
    """A ramp under a plane, a constant under an offset: nothing of the kernel is left, and rounding is not mistaken."""
    rng = np.random.default_rng(29)
    y, x = np.mgrid[:30, :41].astype(float)
    for image, degree in ((7.3 + 0 * x, 0), (3 * x - 2 * y + 5.1, 1)):
        fit = find_kernel(image, rng.normal(size=image.shape), (3, 4), background=degree)
        assert fit.rank == 0 and not fit.kernel.any() and not fit.stderr.any()
        found = [f for f in fit.findings if f.verdict is Verdict.RANK_DEFICIENT]
        assert found and "beside a background" in found[0].detail
    fit = find_kernel(3 * x - 2 * y + 5.1, rng.normal(size=x.shape), (3, 4), background=0)
    assert fit.rank == 1


def test_a_target_that_is_a_background_itself():
    y, x = np.mgrid[:30, :41].astype(float)
    image = np.random.default_rng(30).normal(size=x.shape)
    fit = find_kernel(image, 3 * x - 2 * y + 5.1, (3, 4), background=1)
    assert fit.verdict is Verdict.NO_SIGNAL and "all that the target holds" in fit.findings[0].detail
    np.testing.assert_allclose(fit.kernel, 0.0, atol=1e-12)
    np.testing.assert_allclose(fit.background.image(), 3 * x - 2 * y + 5.1, rtol=1e-10, atol=1e-10)


def test_a_constant_background_is_predicted_for_any_image():
    rng = np.random.default_rng(31)
    image = rng.normal(size=(30, 41, 2))
    target = apply_kernel(image, np.ones((2, 3)), channel_axis=-1, boundary="wrap") + [128.0, -3.0]
    fit = find_kernel(image, target, (2, 3), channel_axis=-1, background=0, boundary="wrap")
    other = rng.normal(size=(9, 14, 2))
    expected = apply_kernel(other, np.ones((2, 3)), channel_axis=-1, boundary="wrap") + [128.0, -3.0]
    np.testing.assert_allclose(fit.predict(other), expected, atol=1e-10)
    sloped = find_kernel(image, target, (2, 3), channel_axis=-1, background=1, boundary="wrap")
    np.testing.assert_allclose(sloped.predict(image), target, atol=1e-10)
    with pytest.raises(ValueError, match="for which the background was found"):
        sloped.predict(other)


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", ["shared", "separate", "mixed"])
def test_a_saved_fit_of_channels_comes_back(channels, tmp_path):
    images, targets = np.random.default_rng(32).normal(size=(2, 2, 20, 31, 3))
    fit = find_kernel(list(images), list(targets), (3, 4), channel_axis=-1, channels=channels, background=1)
    fit.save(tmp_path / "fit.npz")
    back = KernelFit.load(tmp_path / "fit.npz")
    for name in ("kernel", "stderr"):
        assert getattr(back, name).tobytes() == getattr(fit, name).tobytes()
    assert back.covariance().tobytes() == fit.covariance().tobytes()
    assert len(back.parts) == len(fit.parts) == (0 if channels == "shared" else 3)
    for one, other in zip((back, *back.parts), (fit, *fit.parts), strict=True):
        assert one.background.coefficients.tobytes() == other.background.coefficients.tobytes()
        assert one.background.stderr.tobytes() == other.background.stderr.tobytes()
        assert (one.background.degree, one.background.shapes) == (1, ((20, 31), (20, 31)))
        assert one.background.channel_axis == other.background.channel_axis
    assert back.summary() == fit.summary()
    np.testing.assert_array_equal(back.predict(images[1], pair=1), fit.predict(images[1], pair=1))


# ---- what is refused ------------------------------------------------------------------------------------------------

IMAGE, TARGET = np.random.default_rng(33).normal(size=(2, 20, 31, 3))
GRAY = IMAGE[..., 0]


@pytest.mark.parametrize(
    "error, words, image, target, settings",
    [
        (ValueError, "list of 2 as image and a list of 1 as target", [GRAY, GRAY], [GRAY], {}),
        (ValueError, "list of 2 as image and one array as target", [GRAY, GRAY], GRAY, {}),
        (ValueError, r"image\[1\] with 3 dimensions", [GRAY, IMAGE], [GRAY, GRAY], {}),
        (ValueError, "channel_axis", IMAGE, TARGET, {}),
        (ValueError, "different modes", [GRAY, GRAY], [GRAY, GRAY[1:-1, 1:-1]], {}),
        (ValueError, "pair 1 with an image of 2x2.*no 3x3 footprint", [GRAY, GRAY[:2, :2]], [GRAY, GRAY[:2, :2]], {}),
        (ValueError, "channels='separate' without channel_axis", GRAY, GRAY, {"channels": "separate"}),
        (ValueError, "'shared', 'separate', 'mixed'", IMAGE, TARGET, {"channel_axis": -1, "channels": "all"}),
        (ValueError, "for signals, need one whole number", GRAY, GRAY, {"channel_axis": -1, "origin": (1, 1)}),
        (ValueError, "need one of -2 to 1", GRAY, GRAY, {"channel_axis": 2}),
        (ValueError, "one of -3 to 2", IMAGE, TARGET, {"channel_axis": 3}),
        (TypeError, "channel_axis='rgb'", IMAGE, TARGET, {"channel_axis": "rgb"}),
        (ValueError, "3 channels and target of 2.*channels='mixed'", IMAGE, TARGET[..., :2], {"channel_axis": -1}),
        (ValueError, "different numbers of channels", [IMAGE, IMAGE[..., :2]], [TARGET, TARGET[..., :2]],
         {"channel_axis": -1}),
        (ValueError, "empty image", IMAGE[..., :0], TARGET[..., :0], {"channel_axis": -1}),
        (TypeError, "background='linear'", GRAY, GRAY, {"background": "linear"}),
        (TypeError, "background=True", GRAY, GRAY, {"background": True}),
        (TypeError, "background=1.5", GRAY, GRAY, {"background": 1.5}),
        (ValueError, "background=-1", GRAY, GRAY, {"background": -1}),
        (ValueError, "more than 18 rows and columns", GRAY, GRAY, {"background": 18}),
        (ValueError, "12 target pixels cannot determine the 9 taps.*and 6 coefficients", GRAY[:3, :4], GRAY[:3, :4],
         {"background": 2, "boundary": "wrap"}),
        (ValueError, "15 target pixels cannot determine the 27 taps of 3 3x3 kernels", IMAGE[:5, :7], TARGET[1:4, 1:6],
         {"channel_axis": -1, "channels": "mixed"}),
    ],
)  # fmt: skip
def test_refused(error, words, image, target, settings):
    with pytest.raises(error, match=words):
        find_kernel(image, target, 3, **settings)


@pytest.mark.parametrize("channels", ["separate", "mixed"])
@pytest.mark.parametrize("which", ["image", "target"])
def test_nan_is_located(channels, which):
    images, targets = [IMAGE.copy(), IMAGE.copy()], [TARGET.copy(), TARGET.copy()]
    (images if which == "image" else targets)[1][7, 11, 2] = np.nan
    with pytest.raises(ValueError, match=rf"{which} of pair 1, channel 2 with 1 pixel .*\(7, 11\)"):
        find_kernel(images, targets, 3, channel_axis=-1, channels=channels, background=1)


@pytest.mark.parametrize("kernel, axis, words", [
    (np.ones((2, 3, 3)), -1, "3 channels and kernels for 2"), (np.ones((3, 3)), None, "3 dimensions"),
    (np.ones((2, 4, 3, 3)), -1, "kernels for 4"), (np.ones((2, 4, 3, 3)), None, "kernel with 4 dimensions"),
    (np.ones((0, 3, 3)), -1, "empty kernel"),
])  # fmt: skip
def test_refused_by_apply_kernel(kernel, axis, words):
    with pytest.raises(ValueError, match=words):
        apply_kernel(IMAGE, kernel, channel_axis=axis)


def test_rows_of_numbers_are_still_an_image():
    """A list of lists was always an image, and is no list of images."""
    rows = GRAY.tolist()
    assert find_kernel(rows, rows, 3).kernel.shape == (3, 3)
    assert kernelfit.Background is Background


def test_pairs_of_different_numbers_of_channels_are_refused():
    rng = np.random.default_rng(0)
    images, targets = [rng.normal(size=(20, 24, n)) for n in (2, 3)], [rng.normal(size=(20, 24, 2)) for _ in range(2)]
    with pytest.raises(ValueError, match="different numbers of channels .pair 0 and pair 1"):
        find_kernel(images, targets, (2, 3), channel_axis=-1, channels="mixed")
    with pytest.raises(ValueError, match="different numbers of channels .pair 0 and pair 1"):
        find_kernel(targets, images, (2, 3), channel_axis=-1, channels="mixed")


@pytest.mark.parametrize("size", [(90, 70), (4000,)], ids=str)
def test_the_diagnosis_of_several_targets_is_that_of_each(size):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, *size))
    kernels = rng.normal(size=(3, 3, *(2, 3)[-len(size) :]))
    words = {"boundary": "wrap", "channel_axis": 0, "channels": "mixed"}
    target = kernelfit.apply_kernel(image, kernels, boundary="wrap", channel_axis=0)
    noise = 0.3 * rng.normal(size=target.shape)
    noise[1] += 2 * np.roll(image[2], 8, axis=-1)  # beyond the support
    noise[2] += np.roll(noise[2], 1, axis=-1)  # coloured
    target += noise
    target[0, ..., :2] += 3 * rng.normal(size=target[0, ..., :2].shape)  # not at the edges as declared
    fit = find_kernel(image, target, kernels.shape[2:], **words)
    alone = [find_kernel(image, one[None], kernels.shape[2:], **words).parts[0] for one in target]
    assert {f.verdict.name for f in fit.findings} >= {"SHAPE_TOO_SMALL", "COLOURED_NOISE", "WRONG_BOUNDARY"}
    for part, one in zip(fit.parts, alone, strict=True):
        assert [f.verdict for f in part.findings] == [f.verdict for f in one.findings]
        assert [f.detail for f in part.findings] == [f.detail for f in one.findings]


@pytest.mark.parametrize("axis", [-1, 0])
def test_separate_kernels_of_a_filter_that_mixes_channels_are_told_to_be_mixed(axis):
    rng = np.random.default_rng(3)
    image = 100 + 20 * rng.normal(size=(90, 107, 3)).cumsum(axis=2)
    blurred = apply_kernel(image, rng.random((3, 5)) / 7, boundary="symm", channel_axis=-1)
    mixing = np.array([[0.5, 0.3, 0.1], [0.2, 0.6, 0.1], [0.1, 0.2, 0.6]])
    noise = rng.normal(0, 0.5, image.shape)
    for target, mixed in ((blurred @ mixing + noise, True), (blurred**2 / 100 + noise, False)):
        pair = [np.moveaxis(one, -1, axis) for one in (image, target)]
        fit = find_kernel(*pair, (3, 5), channels="separate", channel_axis=axis)
        assert not fit.verdict.ok
        assert ("channels='mixed'" in fit.findings[0].text) is mixed


@pytest.mark.parametrize(
    ("size", "shape", "words"),
    [
        ((1200,), (7,), {}),
        ((1200,), (7,), {"operation": "correlation", "stride": 2}),
        ((1201,), (7,), {"background": 1}),
        ((61, 47), (3, 5), {"background": 0}),
        ((90, 61), (5, 3), {"stride": (1, 2)}),
    ],
)
def test_many_outputs_share_a_factor_and_are_each_looked_at(size, shape, words):
    """Errors from one inverse; what is left of each output is that of its own kernel, also of those with an echo."""
    rng = np.random.default_rng(4)
    x, kernels = rng.normal(size=(*size, 3)), rng.normal(size=(7, 3, *shape))
    words = {"origin": (0,) * len(shape), "channel_axis": -1, "boundary": "wrap", **words}
    background = {"background": words.pop("background")} if "background" in words else {}
    y = kernelfit.apply_kernel(x, kernels, **words)
    y += rng.normal(size=y.shape) + 9 * bool(background)
    echo = np.roll(x[..., 1], 20, axis=-1)[..., :: np.ravel(words.get("stride", 1))[-1]]
    for t in (2, 5):
        y[..., t] += echo
    words |= {"channels": "mixed", "solver": kernelfit.LeastSquares(), **background}
    fit = kernelfit.find_kernel(x, y, shape, **words)
    assert all(np.shares_memory(part.root, fit.parts[0].root) for part in fit.parts)
    assert [part.verdict.name == "SHAPE_TOO_SMALL" for part in fit.parts] == [t in (2, 5) for t in range(7)]
    for t, part in enumerate(fit.parts):
        alone = kernelfit.find_kernel(x, y[..., t : t + 1], shape, **words).parts[0]
        assert_close(part.kernel, alone.kernel, 1e-12)
        assert_close(part.covariance(), alone.covariance(), 1e-12)
        assert [f.verdict for f in part.findings] == [f.verdict for f in alone.findings]
        assert [f.detail for f in part.findings] == [f.detail for f in alone.findings]


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("numbers", ["real", "complex"])
def test_many_targets_are_fitted_as_each_by_itself(noise, numbers):
    """By products of matrices, whether the channels lie apart or side by side in memory, and whether refined or not."""
    rng = np.random.default_rng(40)
    image, kernels, more = rng.normal(size=(13, 17, 2)), rng.normal(size=(9, 2, 3, 2)), rng.normal(size=(13, 17, 9))
    if numbers == "complex":
        kernels = kernels + 1j * rng.normal(size=kernels.shape)
    words = {"channel_axis": -1, "boundary": "wrap"}
    target = kernelfit.apply_kernel(image, kernels, **words) + noise * more
    fit = kernelfit.find_kernel(image, target, (3, 2), channels="mixed", **words)
    assert (fit.refined > 0) == (noise == 0)
    apart = kernelfit.find_kernel(image, np.asfortranarray(target), (3, 2), channels="mixed", **words)
    np.testing.assert_array_equal(apart.kernel, fit.kernel)
    for t in range(9):
        one = kernelfit.find_kernel(image, target[..., t : t + 1], (3, 2), channels="mixed", **words)
        assert_close(fit.kernel[t], one.kernel[0], 1e-12)
        if noise:
            assert_close(fit.stderr[t], one.stderr[0], 1e-11)
