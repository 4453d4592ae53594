"""Masks, weights, noise models, outliers, saturation and rounding, against the dense weighted problem."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
import naive
from helpers import SCENES, assert_close, grid, observe, planned, selected, weighted_fit
from kernelfit import Verdict, accumulate, accumulate_stream, apply_kernel, find_kernel
from kernelfit.compiled import patch_sums
from kernelfit.core.background import Background
from kernelfit.core.model import PixelVariance
from kernelfit.data import chunked, masking, observation
from kernelfit.engines import patches, sampled_gram, sampling, weighted, weighted_iteration, weighted_pass
from kernelfit.engines.cost_model import Choice
from kernelfit.fitting import pipeline, reweighting, weighted_fitter

SOME = SCENES[::13]
STRATEGIES = ("subtract", "patches", "iterate")
CONVENTION = {"mode": None, "boundary": None, "fillvalue": 0.0, "origin": None, "operation": "convolution"}


def some_weights(kind, scene):
    """(keywords, the weight of each target pixel); the image mask excludes by its footprints."""
    rng = np.random.default_rng(5)
    rows, cols = scene.target_shape
    if kind == "mask":
        mask = rng.random((rows, cols)) < 0.1
        mask[rows // 3 : rows // 2, 1 : cols - 1] |= rng.random() < 2
        return {"mask": mask}, (~mask).astype(float)
    if kind == "weights":
        weights = rng.gamma(1.0, size=(rows, cols))
        weights[0, 1:4] = 0.0
        return {"weights": weights}, weights
    if kind == "levels":  # runs of equal weights, broadcast along the columns
        weights = np.repeat(rng.integers(0, 3, rows), 1)[:, None].astype(float)
        return {"weights": weights}, np.broadcast_to(weights, (rows, cols))
    bad = np.zeros(scene.image_shape, dtype=bool)
    bad[1, scene.image_shape[1] // 2] = True
    excluded = naive.touched(bad, scene.shape, **scene.convention)
    return {"image_mask": bad}, (~excluded).astype(float)


def items_of(image, target, shape, convention, **keywords):
    return selected(image, target, shape, convention, **keywords)


@pytest.mark.parametrize("kind", ["mask", "weights", "levels", "image mask"])
@grid("scene", SOME, 3, ids=str)
def test_statistics_equal_the_dense_ones(scene, kind):
    keywords, weights = some_weights(kind, scene)
    expected = naive.weighted_stats(scene.image, scene.target, scene.shape, weights, **scene.convention)
    convention = scene.convention
    if expected.n_pixels < scene.shape[0] * scene.shape[1]:
        with pytest.raises(ValueError, match="leave"):
            accumulate(scene.image, scene.target, scene.shape, **convention, **keywords)
        return
    judged = items_of(scene.image, scene.target, scene.shape, convention, **keywords)
    found = [accumulate(scene.image, scene.target, scene.shape, **convention, **keywords)]
    found += [weighted.statistics([judged.item], m, 2, r) for m in ("direct", "fft") for r in STRATEGIES[:2]]
    for stats in found:
        scale = np.trace(expected.gram)
        assert np.abs(stats.gram - expected.gram).max() <= 1e-12 * scale
        assert_close(stats.moment, expected.moment, 1e-10)
        assert stats.target_energy == pytest.approx(expected.target_energy, rel=1e-12)
        assert stats.target_sum == pytest.approx(expected.target_sum, rel=1e-9, abs=1e-9)
        assert stats.total_weight == pytest.approx(expected.total_weight, rel=1e-12)
        assert stats.n_pixels == expected.n_pixels


def bigger_scenes():
    shapes = {(41, 53): (4, 6), (57, 38): (6, 3), (45, 50): (5, 5)}
    for i, (mode, boundary, operation) in enumerate(
        [
            ("same", None, "convolution"),
            ("same", "wrap", "correlation"),
            ("same", "mirror", "convolution"),
            ("full", "fill", "convolution"),
            ("full", "symm", "correlation"),
            ("valid", None, "correlation"),
            ("same", "nearest", "convolution"),
        ]
    ):
        image, kernel = list(shapes.items())[i % 3]
        yield (
            image,
            kernel,
            {**CONVENTION, "mode": mode, "boundary": boundary, "operation": operation, "fillvalue": 1.5},
        )


@grid("image_shape, shape, convention", list(bigger_scenes()), 3, ids=str)
@grid("kind", ["mask", "weights"], 2)
def test_the_three_strategies_agree_with_the_dense_fit(image_shape, shape, convention, kind):
    rng = np.random.default_rng(1)
    image = scipy.ndimage.gaussian_filter(rng.normal(1.0, 3.0, image_shape), 0.6)
    size = naive.target_shape(image_shape, shape, convention["mode"])
    target = rng.normal(size=size)
    _, used = naive.design_dense(image, shape, **convention)
    target[used] = naive.design_dense(image, shape, **convention)[0] @ rng.normal(size=shape[0] * shape[1])
    target += 0.05 * rng.normal(size=size)
    if kind == "mask":
        mask = scipy.ndimage.gaussian_filter(rng.normal(size=size), 2.0) > 0.2
        keywords, weights = {"mask": mask}, (~mask).astype(float)
    else:
        weights = rng.gamma(2.0, size=size)
        keywords = {"weights": weights}
    kernel, stderr, rss = naive.weighted_fit(image, target, shape, weights, **convention)
    judged = items_of(image, target, shape, convention, **keywords)
    for strategy in STRATEGIES:
        for method in ("direct", "fft"):
            choice = Choice(method, "as asked")
            fit = weighted_fit([judged], choice, 2, strategy=strategy, tolerance=1e-8)
            assert fit.weighting.startswith(strategy)
            assert_close(fit.kernel, kernel, 1e-9)
            assert fit.rss == pytest.approx(rss, rel=1e-9)
            assert_close(fit.stderr, stderr, 0.06 if strategy == "iterate" else 1e-9)
    np.testing.assert_array_equal(np.asarray(fit.weights, dtype=float)[used], weights[used])


@grid("image_shape, shape, convention", list(bigger_scenes()), 3, ids=str)
@grid("kind", ["mask", "weights"], 2)
def test_backgrounds_beside_weights(image_shape, shape, convention, kind):
    """Two pairs, each with a surface and weights of its own, in every strategy and with both engines."""
    rng = np.random.default_rng(11)
    degree = {"mask": 1, "weights": 2}[kind]
    pairs, weights = [], []
    for size in (image_shape, (image_shape[0] - 9, image_shape[1] + 4)):
        image = scipy.ndimage.gaussian_filter(rng.normal(5.0, 3.0, size), 0.6)
        target = rng.normal(30.0, 1.0, naive.target_shape(size, shape, convention["mode"]))
        matrix, used = naive.design_dense(image, shape, **convention)
        target[used] += matrix @ np.linspace(-1.0, 1.0, matrix.shape[1])
        w = rng.gamma(2.0, size=target.shape)
        if kind == "mask":
            w = (scipy.ndimage.gaussian_filter(rng.normal(size=target.shape), 2.0) < 0.2).astype(float)
        pairs.append(([image], target))
        weights.append(w)
    truth = naive.joint(pairs, shape, degree=degree, weights=weights, **convention)
    given = {"mask": [w == 0 for w in weights]} if kind == "mask" else {"weights": weights}
    selection = kernelfit.Selection(**given, saturated=None)
    asked = planned(
        [x[0] for x, _ in pairs],
        [y for _, y in pairs],
        shape,
        selection=selection,
        background=degree,
        **convention,
    )
    (judged,) = asked.judged(0)
    for strategy in STRATEGIES:
        for method in ("direct", "fft"):
            fit = weighted_fit(judged, Choice(method, "as asked"), 2, strategy=strategy, tolerance=1e-9)
            assert fit.weighting.startswith(strategy)
            assert_close(fit.kernel, truth.kernel[0], 1e-9)
            assert_close(fit.background.coefficients, truth.background, 1e-9)
            assert fit.rss == pytest.approx(truth.rss, rel=1e-9)
            assert (fit.n_pixels, fit.df_resid) == (
                truth.n_pixels,
                truth.n_pixels - truth.kernel.size - truth.background.size,
            )
            loose = strategy == "iterate"
            assert_close(fit.stderr, np.sqrt(np.diag(truth.covariance)).reshape(shape), 0.1 if loose else 1e-9)
            assert_close(fit.background.stderr, truth.background_stderr, 0.05 if loose else 1e-9)


def photo(shape, seed=0):
    rng = np.random.default_rng(seed)
    broad = scipy.ndimage.gaussian_filter(rng.normal(size=shape), 5.0, mode="wrap")
    return 100.0 + 3.0 * rng.normal(size=shape) + 300.0 * broad


def blob(shape, seed=3):
    y, x = np.mgrid[: shape[0], : shape[1]]
    taps = np.exp(-(((y - 0.4 * shape[0]) / 2.0) ** 2) - ((x - 0.6 * shape[1]) / 1.5) ** 2)
    taps *= np.random.default_rng(seed).uniform(0.3, 1.0, shape)
    return taps / taps.sum()


def blurred(image, kernel):
    return scipy.signal.convolve2d(image, kernel, mode="same", boundary="symm")


@grid("garbage", [np.nan, np.inf, -np.inf, 1e300, 1e-320], 3)
def test_garbage_under_a_mask_changes_no_bit(garbage):
    image = photo((60, 73))
    target = blurred(image, blob((4, 5))) + np.random.default_rng(0).normal(size=image.shape)
    mask = np.random.default_rng(1).random(target.shape) < 0.05
    bad = np.zeros(image.shape, dtype=bool)
    bad[20, 30] = bad[41, 5] = True
    spoilt_target, spoilt_image = np.where(mask, garbage, target), np.where(bad, garbage, image)
    keep = spoilt_target.copy(), spoilt_image.copy()
    weights = {"weights": np.where(mask, garbage, target**2)}
    settings = [{}, {"robust": "clip"}, weights, {"background": 1}, {"background": 1, "robust": "huber"}]
    settings += [{**weights, "background": 0}, {"background": 2, "noise": "poisson"}]
    for more in settings:
        keywords = {"mask": mask, "image_mask": bad, "boundary": "symm", **more}
        plain = find_kernel(
            image, target, (4, 5), **{**keywords, **({"weights": target**2} if "weights" in more else {})}
        )
        spoilt = find_kernel(spoilt_image, spoilt_target, (4, 5), **keywords)
        assert plain.kernel.tobytes() == spoilt.kernel.tobytes()
        assert plain.stderr.tobytes() == spoilt.stderr.tobytes()
        assert (plain.rss, plain.n_pixels) == (spoilt.rss, spoilt.n_pixels)
        if "background" in more:
            assert plain.background.coefficients.tobytes() == spoilt.background.coefficients.tobytes()
            assert plain.background.stderr.tobytes() == spoilt.background.stderr.tobytes()
    np.testing.assert_array_equal(keep[0], spoilt_target)
    np.testing.assert_array_equal(keep[1], spoilt_image)


def test_nan_and_masked_arrays_are_masks():
    image = photo((60, 73))
    target = blurred(image, blob((4, 5))) + np.random.default_rng(0).normal(size=image.shape)
    mask, bad = np.random.default_rng(1).random((2, *target.shape)) < 0.01
    said = find_kernel(image, target, (4, 5), mask=mask, image_mask=bad)
    holes = np.where(bad, np.inf, image), np.where(mask, np.nan, target)
    with pytest.raises(ValueError, match="nan='mask'"):
        find_kernel(*holes, (4, 5))
    found = find_kernel(*holes, (4, 5), nan="mask")
    masked = find_kernel(np.ma.masked_array(image, bad), np.ma.masked_array(target, mask), (4, 5))
    part = find_kernel(np.ma.masked_array(image, bad), target, (4, 5), mask=mask)
    assert said.kernel.tobytes() == found.kernel.tobytes() == masked.kernel.tobytes() == part.kernel.tobytes()
    unmasked = find_kernel(np.ma.masked_array(image), np.ma.masked_array(target), (4, 5))
    assert unmasked.weights is None and unmasked.kernel.tobytes() == find_kernel(image, target, (4, 5)).kernel.tobytes()
    assert sum(int(note.split()[0]) for note in said.notes) == 57 * 69 - said.n_pixels


def test_equal_weights_are_none():
    image = photo((50, 61))
    target = blurred(image, blob((3, 5))) + np.random.default_rng(0).normal(size=image.shape)
    plain = find_kernel(image, target, (3, 5))
    ones = find_kernel(image, target, (3, 5), weights=np.ones((1, 61)), mask=np.zeros(target.shape, dtype=bool))
    assert ones.weights is None and ones.kernel.tobytes() == plain.kernel.tobytes()
    tens = find_kernel(image, target, (3, 5), weights=1e-30)
    assert_close(tens.kernel, plain.kernel, 1e-11)
    assert_close(tens.stderr, plain.stderr, 1e-9)
    assert tens.noise_std == pytest.approx(1e-15 * plain.noise_std, rel=1e-9)


def test_any_number_of_workers_gives_the_same_bits():
    image = photo((90, 118))
    rng = np.random.default_rng(0)
    target = blurred(image, blob((7, 5))) + rng.normal(size=image.shape)
    judged = items_of(image, target, (7, 5), CONVENTION, weights=rng.gamma(1.0, size=target.shape))
    for strategy in STRATEGIES:
        fits = [weighted_fit([judged], Choice("fft", ""), n, strategy=strategy) for n in (1, 2, 3)]
        assert len({fit.kernel.tobytes() for fit in fits}) == 1
        assert len({fit.stderr.tobytes() for fit in fits}) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_background_needs_no_order_of_threads(strategy):
    image = photo((90, 118))
    rng = np.random.default_rng(0)
    target = blurred(image, blob((7, 5))) + rng.normal(size=image.shape)
    selection = kernelfit.Selection(weights=rng.gamma(1.0, size=target.shape), saturated=None)
    asked = planned(image, target, (7, 5), selection=selection, background=1, **{**CONVENTION, "boundary": "symm"})
    (judged,) = asked.judged(0)
    fits = [weighted_fit(judged, Choice("fft", ""), n, strategy=strategy) for n in (1, 2, 3)]
    assert len({fit.kernel.tobytes() for fit in fits}) == 1
    assert len({fit.background.coefficients.tobytes() for fit in fits}) == 1


@pytest.mark.parametrize("channels", ["shared", "separate", "mixed"])
def test_colours_with_a_mask_and_a_background_each(channels):
    rng = np.random.default_rng(0)
    colours = np.stack([photo((60, 73), s) for s in range(3)], axis=-1)
    kernel, offsets = blob((4, 5)), np.array([40.0, -7.0, 900.0])
    target = np.stack([blurred(colours[..., c], kernel) for c in range(3)], axis=-1) + offsets
    target += rng.normal(size=target.shape)
    holes = rng.random(target.shape) < 0.05
    settings = {"channel_axis": -1, "channels": channels, "background": 0, "boundary": "symm"}
    fit = find_kernel(colours, np.where(holes, np.nan, target), (4, 5), nan="mask", **settings)
    at = fit.background
    assert at.coefficients.shape == (3, 1) and np.all(np.abs(at.coefficients[:, 0] - offsets) < 4.5 * at.stderr[:, 0])
    for c in range(3):
        single = {"shared": fit.kernel, "separate": fit.kernel[c], "mixed": fit.kernel[c, c]}[channels]
        assert np.abs(single - kernel).max() < 0.05
    assert fit.n_pixels == int((~holes).sum())
    residual = fit.residual(colours, target)
    assert np.sum(residual[~holes] ** 2) == pytest.approx(fit.rss, rel=1e-9)


def test_solvers_never_penalise_a_background():
    """The statistics are those of the kernel alone, whatever the weights: a large offset costs no solver anything."""
    rng = np.random.default_rng(0)
    image, kernel = photo((90, 101)), blob((7, 9))
    target = blurred(image, kernel) + 2 * rng.normal(size=image.shape) + 1e5
    mask = rng.random(target.shape) < 0.1
    fits = [
        find_kernel(image, np.where(mask, 1e9, target), (7, 9), mask=mask, background=0, boundary="symm", solver=solver)
        for solver in (None, kernelfit.NonNegative(), kernelfit.GaussianProcess(), "auto")
    ]
    errors = [np.linalg.norm(fit.kernel - kernel) for fit in fits]
    assert max(errors[1:]) < 0.7 * errors[0]
    for fit in fits:
        assert fit.background.coefficients[0] == pytest.approx(1e5, abs=10)
        assert abs(np.mean(fit.residual(image, target)[~mask])) < 1e-6


@pytest.mark.parametrize("operation", ["convolution", "correlation"])
def test_a_sample_holds_patches_and_surface_as_the_pixels_do(operation):
    """Of exact pairs every drawn equation holds, whichever rows were drawn."""
    kernel, rng = blob((4, 5)), np.random.default_rng(0)
    images = [photo((650, 470)), photo((90, 81), 1)]  # of the first only some rows are read
    surfaces = [Background(1, 100 * rng.normal(size=(1, 3)), np.zeros((1, 3)), (i.shape,)) for i in images]
    targets = [
        kernelfit.apply_kernel(i, kernel, boundary="wrap", operation=operation) + s.image()
        for i, s in zip(images, surfaces, strict=True)
    ]
    convention = {**CONVENTION, "boundary": "wrap", "operation": operation}
    asked = planned(images, targets, (4, 5), background=1, **convention)
    items = [
        observation.WeightedObservation(p, rng.gamma(1.0, size=t.shape))
        for p, t in zip(asked.groups[0], targets, strict=True)
    ]
    sample = sampling.draw(items)
    unknowns = np.concatenate([kernel.ravel(), *(s.coefficients.ravel() for s in surfaces)])
    assert sample.share < 0.1 and sample.patches.shape[1] == 26
    assert_close(sample.patches @ unknowns, sample.values, 1e-12)
    left = [np.empty(t.shape) for t in targets]
    here = weighted_pass.residual(items, unknowns, "fft", 2, keep=left)
    assert max(np.abs(one).max() for one in left) < 1e-9 and here.energy < 1e-12


def test_an_exact_background_beside_a_mask():
    """No noise, and an image whose mean is ten times its contrast: kernel and surface to rounding."""
    rng = np.random.default_rng(0)
    image, kernel = photo((70, 91)) + 1000.0, blob((4, 5))
    y, x = np.mgrid[:70, :91]
    target = blurred(image, kernel) + 500 + 3 * y - 2 * x
    mask = rng.random(target.shape) < 0.2
    for more in ({"mask": mask}, {"weights": np.where(mask, 0.0, rng.gamma(2.0, size=mask.shape))}):
        fit = find_kernel(image, np.where(mask, 1e7, target), (4, 5), boundary="symm", background=1, **more)
        assert fit.verdict is Verdict.SOLVED
        assert_close(fit.kernel, kernel, 1e-10)
        assert_close(fit.predict(image), target, 1e-12)


@pytest.mark.slow
def test_a_few_photons_make_no_sure_kernel():
    """Predictions that are less than their errors, and the weights that follow them, are not believed."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        image, taps = rng.exponential(0.05, (90, 110)), rng.random((5, 4))
        target = rng.poisson(apply_kernel(image, taps / taps.sum(), boundary="symm")).astype(float)
        fit = find_kernel(image, target, taps.shape, boundary="symm", noise="poisson")
        assert not fit.verdict.ok or np.abs((fit.kernel - taps / taps.sum()) / fit.stderr).max() < 4


def test_photon_noise_of_a_sky():
    """The background's photons count: the noise is that of kernel and sky together."""
    rng = np.random.default_rng(3)
    stars = np.zeros((120, 131))
    stars[rng.integers(0, 120, 80), rng.integers(0, 131, 80)] = rng.pareto(1.5, 80) * 3000
    image, kernel = scipy.ndimage.gaussian_filter(stars, 1.0), blob((5, 4))
    mean = blurred(image, kernel) + 100.0
    fit = find_kernel(image, rng.poisson(mean), (5, 4), noise="poisson", background=0, saturated=None)
    assert fit.noise_std == pytest.approx(1.0, abs=0.02)
    assert fit.background.coefficients[0] == pytest.approx(100, abs=4 * fit.background.stderr[0])
    assert 0.05 < fit.background.stderr[0] < 0.2  # 10 / sqrt(15 000) and a little
    assert np.abs((fit.kernel - kernel) / fit.stderr).max() < 4
    assert_close(fit.weights[2:-2, 2:-1], 1.0 / fit.predict(image)[2:-2, 2:-1], 0.02)


def test_several_pairs_and_channels_have_masks_each():
    rng = np.random.default_rng(0)
    images = [photo((60, 73)), photo((45, 80), 1)]
    targets = [blurred(i, blob((4, 5))) + rng.normal(size=i.shape) for i in images]
    mask = [rng.random(t.shape) < 0.1 for t in targets]
    fit = find_kernel(images, targets, (4, 5), mask=mask)
    parts = [accumulate(i, t, (4, 5), mask=m) for i, t, m in zip(images, targets, mask, strict=True)]
    assert_close(fit.kernel, (parts[0] + parts[1]).solve().kernel, 1e-11)
    assert len(fit.weights) == 2 and fit.n_pixels == sum(p.n_pixels for p in parts)
    one = find_kernel(images, targets, (4, 5), mask=[None, mask[1]])
    assert one.n_pixels == 57 * 69 + parts[1].n_pixels
    with pytest.raises(ValueError, match="need a list"):
        find_kernel(images, targets, (4, 5), mask=mask[0])
    colours = np.stack([photo((60, 73), s) for s in range(3)], axis=-1)
    blurs = np.stack([blurred(colours[..., c], (c + 1) * blob((4, 5))) for c in range(3)], axis=-1)
    blurs += rng.normal(size=blurs.shape)
    holes = rng.random(blurs.shape) < 0.05
    spoilt = np.where(holes, 1e6, blurs)
    separate = find_kernel(colours, spoilt, (4, 5), channel_axis=-1, channels="separate", mask=holes)
    for c in range(3):
        alone = find_kernel(colours[..., c], spoilt[..., c], (4, 5), mask=holes[..., c])
        assert_close(separate.kernel[c], alone.kernel, 1e-12)
    mixed = find_kernel(colours, spoilt, (4, 5), channel_axis=-1, channels="mixed", mask=holes)
    truth = np.zeros((3, 3, 4, 5))
    for c in range(3):
        truth[c, c] = (c + 1) * blob((4, 5))
    errors = np.stack([part.stderr.reshape(3, 4, 5) for part in mixed.parts])
    assert np.abs((mixed.kernel - truth) / errors).max() < 5
    plane = find_kernel(colours, np.where(holes[..., :1], np.nan, blurs), (4, 5), channel_axis=-1, mask=holes[..., 0])
    assert plane.n_pixels == 3 * int((~holes[2:-1, 2:-2, 0]).sum())


@pytest.mark.slow
def test_photon_noise_intervals_cover_what_they_say():
    """With noise="poisson" 95 % intervals cover as often; with all pixels taken alike they do not."""
    rng = np.random.default_rng(7)
    stars = np.zeros((60, 71))
    stars[rng.integers(0, 60, 60), rng.integers(0, 71, 60)] = rng.pareto(1.5, 60) * 500
    image = scipy.ndimage.gaussian_filter(stars, 1.0) + 4.0 + rng.uniform(0, 2, stars.shape)
    kernel = blob((3, 4))
    mean = blurred(image, kernel)
    hits = {"poisson": 0, "constant": 0}
    n = 120
    for _ in range(n):
        counts = rng.poisson(mean).astype(float)
        for noise in hits:
            low, high = find_kernel(image, counts, (3, 4), noise=noise).confidence(0.95)
            hits[noise] += int(np.count_nonzero((low <= kernel) & (kernel <= high)))
    covered = {noise: hit / (n * kernel.size) for noise, hit in hits.items()}
    assert 0.93 <= covered["poisson"] <= 0.97
    assert covered["constant"] < 0.9


def test_gain_and_read_noise():
    rng = np.random.default_rng(2)
    image = photo((120, 131)).clip(1.0)
    mean = blurred(image, blob((3, 5)))
    gain, read = 4.0, 20.0
    target = (rng.poisson(mean * gain) + read * rng.normal(size=mean.shape)) / gain
    fit = find_kernel(image, target, (3, 5), noise=(gain, read))
    assert fit.noise_std == pytest.approx(1.0, abs=0.02)
    model = blurred(image, fit.kernel)[1:-1, 2:-2]
    assert_close(fit.weights[1:-1, 2:-2], 1.0 / (model / gain + (read / gain) ** 2), 1e-3)


@pytest.mark.parametrize("robust", ["huber", "tukey", "clip"])
@pytest.mark.parametrize("sign", [0, 1])
def test_outliers_cost_little(robust, sign):
    """1 % garbage of a hundred times the signal: nearly as good as knowing which they are."""
    rng = np.random.default_rng(4)
    image, kernel = photo((150, 181)), blob((5, 7))
    clean = blurred(image, kernel)
    target = clean + 0.01 * clean.std() * rng.normal(size=clean.shape)
    bad = rng.random(clean.shape) < 0.01
    target[bad] = 100 * clean.std() * (rng.random(bad.sum()) if sign else rng.normal(size=bad.sum()))
    known = find_kernel(image, target, (5, 7), mask=bad)
    fit = find_kernel(image, target, (5, 7), robust=robust)
    plain = find_kernel(image, target, (5, 7))
    error = [np.linalg.norm(f.kernel - kernel) for f in (fit, known, plain)]
    assert error[0] <= 1.2 * error[1] < 0.01 * error[2]
    assert_close(fit.stderr, known.stderr, 0.1)
    assert fit.verdict is Verdict.SOLVED
    assert np.mean(np.asarray(fit.weights[2:-2, 3:-3], dtype=float)[bad[2:-2, 3:-3]] > 0.05) < 0.1


def star_field(shape, n, seed):
    """A few bright stars on a flat sky: a handful of pixels tell the kernel."""
    rng = np.random.default_rng(seed)
    stars = np.zeros(shape)
    np.add.at(
        stars, tuple(rng.integers(6, side - 6, n) for side in shape), 1000 * (1 + rng.pareto(1.3, n)).clip(0, 100)
    )
    return scipy.ndimage.gaussian_filter(stars, 1.0) + 100.0


def flat_graphic(shape, seed):
    rng = np.random.default_rng(seed)
    image = np.full(shape, 200.0)
    for _ in range(9):
        y, x = (rng.integers(0, side - 30) for side in shape)
        image[y : y + rng.integers(8, 30), x : x + rng.integers(8, 30)] = rng.integers(0, 256)
    return image


@pytest.mark.slow
@grid("kind", ["stars", "graphic"], 2)
@pytest.mark.parametrize("blobs", [False, True])
def test_outliers_where_few_pixels_tell_the_kernel(kind, blobs):
    """Pixels of much leverage are neither lost nor, if they are garbage, believed; beside a background, too."""
    kernel, ratios = blob((5, 7)), {"huber": [], "tukey": [], "clip": []}
    for seed in range(3):
        rng = np.random.default_rng([seed, 7])
        image = star_field((120, 141), 8, seed) if kind == "stars" else flat_graphic((120, 141), seed)
        clean = blurred(image, kernel)
        target = clean + 0.02 * clean.std() * rng.normal(size=clean.shape) + 30.0
        field = rng.random(clean.shape)
        if blobs:
            field = scipy.ndimage.gaussian_filter(rng.normal(size=clean.shape), 2.0, mode="wrap")
        bad = field > np.quantile(field, 0.99)
        target[bad] += 100 * clean.std() * rng.normal(size=bad.sum())
        known = find_kernel(image, target, (5, 7), mask=bad, background=0)
        for robust, found in ratios.items():
            fit = find_kernel(image, target, (5, 7), robust=robust, background=0)
            assert fit.verdict is Verdict.SOLVED
            assert fit.background.coefficients[0] == pytest.approx(30, abs=5 * fit.background.stderr[0])
            assert_close(fit.stderr, known.stderr, 0.25)
            found.append(np.linalg.norm(fit.kernel - kernel) / np.linalg.norm(known.kernel - kernel))
    assert max(ratios["clip"]) < 1.1
    assert np.median(ratios["tukey"]) < 1.2 and max(ratios["tukey"]) < 1.5
    assert np.median(ratios["huber"]) < 1.3 and max(ratios["huber"]) < 1.7


@pytest.mark.slow
@grid("seed", range(3), 3)
def test_outliers_that_decide_are_told(seed):
    """Two stars, and a fifth of all pixels garbage: nothing tells which are, and the verdict says so."""
    image, kernel = star_field((120, 141), 2, 4), blob((5, 7))
    rng = np.random.default_rng(seed)
    clean = blurred(image, kernel)
    target = clean + 0.02 * clean.std() * rng.normal(size=clean.shape)
    bad = rng.random(clean.shape) < 0.2
    target[bad] = 100 * clean.std() * rng.normal(size=bad.sum())
    error = np.linalg.norm(find_kernel(image, target, (5, 7), mask=bad).kernel - kernel)
    huber, decided = None, 0
    for robust in ("huber", "tukey", "clip"):
        fit = find_kernel(image, target, (5, 7), robust=robust)
        told = {f.verdict for f in fit.findings} & {Verdict.OUTLIERS_DECIDE, Verdict.NOT_CONVERGED}
        assert told or np.linalg.norm(fit.kernel - kernel) < 3 * error, robust
        huber = fit if robust == "huber" else huber
        if np.linalg.norm(fit.kernel - huber.kernel) > 12 * np.linalg.norm(fit.stderr):
            assert Verdict.OUTLIERS_DECIDE in told and "robust='huber'" in str(fit.findings), robust
            decided += 1
    assert decided or seed != 1


def test_saturated_pixels_are_left_out():
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (90, 101))
    kernel = 1.6 * blob((3, 4))
    target = np.clip(np.rint(blurred(image, kernel)), 0, 255).astype(np.uint8)
    fit = find_kernel(image, target, (3, 4))
    clipped = int((target[1:-1, 2:-1] == 255).sum() + (target[1:-1, 2:-1] == 0).sum())
    assert clipped > 500 and fit.n_pixels == 88 * 98 - clipped
    assert any(note.startswith(f"{clipped} of ") and "saturated" in note for note in fit.notes)
    assert np.abs((fit.kernel - kernel) / fit.stderr).max() < 5
    used = find_kernel(image, target, (3, 4), saturated=None)
    assert np.abs((used.kernel - kernel) / used.stderr).max() > 10
    low = find_kernel(image, target.astype(float), (3, 4), saturated=(None, 255))
    assert low.n_pixels == 88 * 98 - int((target[1:-1, 2:-1] == 255).sum())
    mostly = find_kernel(image, np.where(target > 128, 255, 0).astype(np.uint8), (3, 4))
    assert mostly.n_pixels == 88 * 98 and "nearly all of it" in mostly.notes[0]
    assert Verdict.NONLINEAR in {f.verdict for f in mostly.findings}


@pytest.mark.parametrize("weights", [None, "some"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_a_target_most_of_which_is_cut_off_is_not_solved(dtype, weights):
    rng = np.random.default_rng(1)
    image = 30 + 8 * rng.normal(size=(43, 57))
    kernel = rng.normal(size=(3, 4))
    made = apply_kernel(image, kernel - kernel.mean() - 1 / 6, boundary="symm")
    target = np.clip(np.rint(made), 0, 255).astype(dtype)
    assert 0.95 < np.mean(target == 0) < 0.999
    given = None if weights is None else 0.5 + rng.random(target.shape)
    fit = find_kernel(image, target, (3, 4), weights=given)
    assert Verdict.NONLINEAR in {f.verdict for f in fit.findings} and not fit.verdict.ok
    assert any("where they seem to be cut off" in f.detail for f in fit.findings)
    if given is None:
        streamed = accumulate_stream([(image, target)], (3, 4), block=20).solve()
        assert Verdict.NONLINEAR in {f.verdict for f in streamed.findings} and not streamed.verdict.ok
    dots = np.zeros((43, 57))
    dots[5::9, 4::11] = 200  # of which the kernel makes zeros nearly everywhere
    sparse = np.rint(apply_kernel(dots, np.abs(kernel) / 20, boundary="symm")).astype(dtype)
    assert Verdict.NONLINEAR not in {f.verdict for f in find_kernel(dots, sparse, (3, 4), weights=given).findings}


def test_a_target_that_is_white_everywhere_tells_of_no_kernel():
    image = np.full((33, 41), 20.0)
    image[11, 17] = 200
    kernel = np.full((3, 4), 0.02)
    kernel[1, 2] = -0.6
    target = np.clip(np.rint(apply_kernel(image, kernel, boundary="wrap") + 300), 0, 255).astype("u1")
    streamed = accumulate_stream([(image, target)], (3, 4), background=0, block=20).solve()
    chunks = [chunked.Chunked(one) for one in (image, target)]
    for fit in (*(find_kernel(*pair, (3, 4), background=0) for pair in ((image, target), chunks)), streamed):
        assert Verdict.NONLINEAR in {f.verdict for f in fit.findings} and not fit.verdict.ok


@grid("seed", range(3), 3)
@pytest.mark.parametrize("errors", ["plain", "sandwich"])
def test_where_noise_decides_what_is_cut_off_a_fit_is_not_solved(seed, errors):
    """What is left of pixels predicted near an end is brighter than they are; masked by their prediction it is well."""
    rng = np.random.default_rng(seed)
    image = np.clip(
        180 * scipy.ndimage.gaussian_filter(rng.normal(size=(90, 110)), 3) + 3 * rng.normal(size=(90, 110)), 0, None
    )
    kernel = np.outer([1, 2, 1], [1, 2, 3, 2]) / 32
    made = apply_kernel(image, kernel, boundary="symm")

    def off(fit):
        away = (fit.kernel - kernel).ravel()
        return away @ np.linalg.solve(fit.covariance(), away) / away.size

    target = np.clip(np.rint(made - 2 + 1.5 * rng.normal(size=made.shape)), 0, 255).astype("u1")
    fit = find_kernel(image, target, (3, 4), background=0, errors=errors)
    assert Verdict.NONLINEAR in {f.verdict for f in fit.findings} and not fit.verdict.ok
    assert any("count by what noise made of them" in f.detail for f in fit.findings)
    assert off(fit) > 5
    well = find_kernel(image, target, (3, 4), background=0, errors=errors, mask=(made < 10) | (made > 248))
    assert well.verdict is Verdict.SOLVED and off(well) < 3


@pytest.mark.parametrize("values", [(0, 1), (7, 255), (0, 255)], ids=str)
def test_black_and_white_is_not_saturated(values):
    """Without one of them nothing would be left to see."""
    drawing = np.random.default_rng(4).choice(np.array(values, dtype=np.uint8), (41, 53))
    fit = find_kernel(drawing, np.roll(drawing, (1, -1), (0, 1)), (3, 5), boundary="wrap")
    assert fit.n_pixels == drawing.size and "they are used, " in fit.notes[0]
    # rounding to 0 and 1 leaves open what any other tap adds, up to a half
    assert fit.verdict is (Verdict.ILL_CONDITIONED if values == (0, 1) else Verdict.SOLVED)
    assert fit.verdict.ok or ("rounding" in str(fit) and 0.05 < np.median(fit.stderr) < 0.5)
    expected = np.zeros((3, 5))
    expected[2, 1] = 1
    assert_close(fit.kernel, expected, 1e-12)
    with_gray = drawing.copy()
    with_gray[:9] = 90 + np.arange(53)
    fit = find_kernel(drawing, with_gray, (1, 3))
    assert "saturated" in fit.notes[0] and fit.n_pixels < drawing.size


def test_rounding_enters_the_errors():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (50, 61))
    shifted = find_kernel(image, np.roll(image, 1, axis=1), (1, 3), boundary="wrap")
    assert shifted.noise_std == pytest.approx(12**-0.5) and shifted.stderr.min() > 0
    assert "rounding" in shifted.notes[-1]
    as_float = find_kernel(image, np.roll(image, 1, axis=1).astype(float), (1, 3), boundary="wrap")
    assert as_float.noise_std < 1e-6
    rounded = find_kernel(image, np.rint(0.37 * image).astype(int), (1, 3), boundary="wrap")
    assert rounded.noise_std == pytest.approx(12**-0.5, rel=0.05)


def test_values_that_wrapped_round_are_reported():
    rng = np.random.default_rng(0)
    image = photo((90, 101)).clip(0, 255)
    target = np.rint(2.0 * blurred(image, blob((3, 4)))).astype(np.int64)
    share = float((target > 255).mean())
    assert 0.01 < share < 0.4
    fit = find_kernel(image, target.astype(np.uint8), (3, 4))
    assert Verdict.WRAPPED in [f.verdict for f in fit.findings]
    fine = find_kernel(image, np.clip(target, 0, 255).astype(np.uint8), (3, 4), saturated=None)
    noisy = find_kernel(image, np.clip(target + rng.normal(0, 40, target.shape), 0, 255).astype(np.uint8), (3, 4))
    for other in (fine, noisy):
        assert Verdict.WRAPPED not in [f.verdict for f in other.findings]


def test_runs_and_single_pixels_give_the_same_sums():
    rng = np.random.default_rng(0)
    observation = observe(photo((40, 61)), photo((40, 61), 1), (3, 9), **CONVENTION)
    extended = observation.sources[0].block(0, 0, observation.geometry.extended_shape)
    matrix = np.lib.stride_tricks.sliding_window_view(extended, (3, 9)).reshape(-1, 27)[:, ::-1]
    values = observation.targets[0].block(0, 0, observation.size).ravel()
    runs = np.repeat(rng.integers(-1, 2, (38, 5)), 11, axis=1)[:, :53].astype(float)
    for weights in (runs, rng.normal(size=(38, 53)), np.ones((38, 53), dtype=bool), runs > 0):
        found = patches.sums(observation, weights, with_moment=True)
        flat = np.asarray(weights, dtype=float).ravel()
        assert np.abs(found.gram - (matrix * flat[:, None]).T @ matrix).max() < 1e-12 * np.trace(matrix.T @ matrix)
        assert_close(found.moment[0], matrix.T @ (flat * values), 1e-11)
        less = patches.sums(observation, weights, 0.5)
        assert np.abs(less.gram - (matrix * (flat - 0.5)[:, None]).T @ matrix).max() < 1e-12 * np.trace(
            matrix.T @ matrix
        )
    for few, base in ((np.arange(38 * 53).reshape(38, 53) != 777, 1.0), (np.arange(38 * 53).reshape(38, 53) == 5, 0.0)):
        flat = few.ravel() - base  # read one by one
        found = patches.sums(observation, few, base, with_moment=True)
        assert_close(found.gram, (matrix * flat[:, None]).T @ matrix, 1e-11)
        assert_close(found.moment[0], matrix.T @ (flat * values), 1e-11)
    found = patches.Runs.of(runs)
    rebuilt = np.zeros(runs.shape)
    rows, cols, at = found.pixels()
    rebuilt[rows, cols] = at
    np.testing.assert_array_equal(rebuilt, runs)
    assert patches.shortest_run((3, 9)) < 11  # so that long runs were among them


def test_patches_are_gathered_wherever_they_are():
    """Eight pixels at a time: neighbours along a row, and others whose first and last are as far apart."""
    block, out = photo((20, 30)), np.zeros((12, 19))
    rows, cols = (
        np.array([5] * 8 + [7, 7, 2, 7, 3, 7, 7, 7] + [1, 16, 9]),
        np.array([*range(3, 11), 4, 9, 1, 8, 0, 2, 7, 11, 5, 0, 26]),
    )
    patch_sums.gather(block, rows, cols, 3, 4, out)
    expected = [block[r : r + 3, c : c + 4].ravel() for r, c in zip(rows, cols, strict=True)]
    np.testing.assert_array_equal(out.T, expected)


@pytest.mark.parametrize(
    ("n_pixels", "shape", "n_differ", "n_count", "strategy"),
    [
        (2048**2, 15, 1000, 2048**2, "subtract"),
        (2048**2, 31, 1000, 2048**2, "subtract"),
        (2048**2, 15, 2048**2, 2048**2, "iterate"),
        (2048**2, (15, 7), 2048**2, 2048**2, "iterate"),
        (2048**2, 3, 2048**2, 2048**2, "patches"),
        (2048**2, 15, 2048**2, 5000, "patches"),
        (100**2, 9, 100**2, 100**2, "patches"),
    ],
)
def test_the_cheapest_strategy_is_chosen(n_pixels, shape, n_differ, n_count, strategy):
    kernel = (shape, shape) if isinstance(shape, int) else shape
    costs = [patches.costs_of_pixels(n, kernel) for n in (n_differ, n_count)]
    choice = weighted.choose_strategy(n_pixels, shape, *costs)
    assert choice.method == strategy and strategy in choice.reason


@pytest.mark.slow
def test_weights_that_follow_the_image_take_a_sample():
    """A few stars with photon noise: the unweighted Gram matrix is far off, a sample beside it is not."""
    rng = np.random.default_rng(0)
    stars = np.zeros((230, 260))
    stars[rng.integers(0, 230, 30), rng.integers(0, 260, 30)] = rng.pareto(1.2, 30) * 500
    image = scipy.ndimage.gaussian_filter(stars, 1.2) + 20 + rng.normal(size=stars.shape)
    mean = blurred(image, blob((9, 7)))
    weights = 1.0 / mean.clip(5.0)
    target = mean + rng.normal(size=mean.shape) / np.sqrt(weights)
    judged = items_of(image, target, (9, 7), CONVENTION, weights=weights)
    exact, fit = (
        weighted_fit([judged], Choice("fft", ""), 2, strategy=strategy) for strategy in ("patches", "iterate")
    )
    assert "a sample of" in fit.weighting and fit.verdict is Verdict.SOLVED and fit.iterations < 10
    assert np.linalg.norm(fit.kernel - exact.kernel) <= 1e-7 * np.linalg.norm(exact.stderr)
    assert_close(fit.stderr, exact.stderr, 0.02)


def test_iterations_that_run_out_are_told(monkeypatch):
    rng = np.random.default_rng(0)
    image = photo((80, 91))
    target = blurred(image, blob((5, 7))) + rng.normal(size=image.shape)
    judged = items_of(image, target, (5, 7), CONVENTION, weights=rng.gamma(1.0, size=target.shape))
    monkeypatch.setattr(weighted_iteration, "MOST_ITERATIONS", 1)
    fit = weighted_fit([judged], Choice("fft", ""), 2, strategy="iterate", tolerance=1e-8)
    assert fit.verdict is Verdict.NOT_CONVERGED


# ---- sparse, bright stars on a sky: weights follow the image as closely as they can ----


def stars_on_a_sky(shape, n, seed):
    """(image, mean of the target, counts)."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape)
    image[tuple(rng.integers(0, side, n) for side in shape)] = np.minimum(rng.pareto(1.2, n) * 1000, 1e6)
    image = scipy.ndimage.gaussian_filter(image, 0.9) + 200
    mean = scipy.ndimage.gaussian_filter(image, 1.2, truncate=4)
    return image, mean, rng.poisson(mean).astype(float)


def dense_fit(image, target, shape, weights, **more):
    """(kernel, standard errors, rows of the design) of weighted least squares."""
    design, used = naive.design_dense(image, shape, mode="same", boundary=None, **more)
    y, w = target[used], np.broadcast_to(weights, target.shape)[used]
    root = np.sqrt(w)[:, None]
    kernel = np.linalg.lstsq(design * root, y * root[:, 0], rcond=None)[0]
    left = (y - design @ kernel) * root[:, 0]
    variance = left @ left / (len(y) - len(kernel))
    errors = np.sqrt(variance * np.diag(np.linalg.inv((design * root).T @ (design * root))))
    return kernel.reshape(shape), errors.reshape(shape), design, used


def iteration_preferred(monkeypatch):
    """Let the iteration seem the cheapest way, as it is for larger images."""
    own = weighted.choose_strategy
    monkeypatch.setattr(
        weighted, "choose_strategy", lambda *a, exact=False: own(*a, exact=True) if exact else Choice("iterate", "")
    )


STARS = grid("shape, n, seed", [((101, 120), 60, 1), ((101, 120), 500, 2), ((200, 190), 120, 3)], 3)


@STARS
def test_a_sample_makes_the_iteration_exact_and_its_errors_right(shape, n, seed, monkeypatch):
    image, mean, target = stars_on_a_sky(shape, n, seed)
    kernel, errors, _, _ = dense_fit(image, target, (7, 9), 1 / mean)
    iteration_preferred(monkeypatch)
    fit = find_kernel(image, target, (7, 9), weights=1 / mean)
    assert fit.weighting.startswith("iterate") and fit.verdict is not Verdict.ROUGH_ERRORS
    assert np.abs((fit.kernel - kernel) / errors).max() < 1e-6
    assert_close(fit.stderr, errors, 0.05)


@STARS
def test_where_the_iteration_is_off_the_exact_way_is_taken(shape, n, seed, monkeypatch):
    image, mean, target = stars_on_a_sky(shape, n, seed)
    kernel, errors, _, _ = dense_fit(image, target, (7, 9), 1 / mean)
    iteration_preferred(monkeypatch)
    monkeypatch.setattr(sampled_gram, "sample_size", lambda items: 0)
    fit = find_kernel(image, target, (7, 9), weights=1 / mean)
    assert "patches" in fit.weighting and "iterate" not in fit.weighting
    assert np.abs((fit.kernel - kernel) / errors).max() < 1e-5
    assert_close(fit.stderr, errors, 1e-6)
    monkeypatch.setattr(weighted_fitter, "EXACT_IS_BEARABLE", 0.0)
    rough = find_kernel(image, target, (7, 9), weights=1 / mean)
    told = [float(f.detail.split()[-1]) for f in rough.findings if f.verdict is Verdict.ROUGH_ERRORS]
    assert np.abs(np.log(rough.stderr / errors)).max() < np.log(told[0])


def test_where_the_iteration_is_good_it_stays(monkeypatch):
    rng = np.random.default_rng(100)
    image = photo((101, 120))
    weights = rng.gamma(1.0, size=image.shape) + 0.1
    target = blurred(image, blob((7, 9))) + rng.normal(size=image.shape) / np.sqrt(weights)
    iteration_preferred(monkeypatch)
    fit = find_kernel(image, target, (7, 9), weights=weights)
    assert fit.weighting.startswith("iterate") and fit.verdict is Verdict.SOLVED


@pytest.mark.slow
@grid("preferred", ["cheapest", "iterate"], 2)
def test_photon_noise_ends_where_the_prediction_makes_the_weights(preferred, monkeypatch):
    if preferred == "iterate":
        iteration_preferred(monkeypatch)
    for seed in range(3):
        image, _, target = stars_on_a_sky((100, 119), 60, seed)
        fit = find_kernel(image, target, (7, 9), noise="poisson")
        design, used = naive.design_dense(image, (7, 9), mode="same", boundary=None)
        predicted = np.full(target.shape, np.inf)
        predicted[used] = np.maximum(design @ fit.kernel.ravel(), 2.0)
        kernel, errors, _, _ = dense_fit(image, target, (7, 9), 1 / predicted)
        assert np.abs((fit.kernel - kernel) / errors).max() < 0.1
        own, _, _, _ = dense_fit(image, target, (7, 9), fit.weights)
        assert np.sqrt(np.mean(((fit.kernel - own) / errors) ** 2)) < 1e-4
        assert_close(fit.stderr, errors, 0.05)
        assert not {Verdict.NOT_CONVERGED, Verdict.ROUGH_ERRORS} & {f.verdict for f in fit.findings}


def with_cosmic_rays(counts, n, rng):
    hit = counts.copy()
    for _ in range(n):
        row, col, length = rng.integers(0, counts.shape[0]), rng.integers(0, counts.shape[1]), rng.integers(1, 8)
        hit[row, col : col + length] += rng.uniform(2000, 50000)
    return hit


@pytest.mark.slow
@grid("background", [None, 0], 2)
@grid("seed", range(4), 4)
def test_photon_noise_survives_cosmic_rays_in_both_images(background, seed):
    """Nothing can be right here; but weights stay within reason, and nothing runs away or is blamed."""
    rng = np.random.default_rng(seed)
    image, _, target = stars_on_a_sky((151, 160), 60, seed)
    image, target = (with_cosmic_rays(one, 15, rng) for one in (rng.poisson(image).astype(float), target))
    image[:, 50] = target[:, 50] = 0
    fit = find_kernel(image, target, (10, 11), noise="poisson", background=background)
    assert np.abs(fit.kernel).max() < 2
    assert np.sum(fit.kernel) < 3
    assert Verdict.NOT_CONVERGED not in [f.verdict for f in fit.findings]
    # no weight but that of a prediction at most 20 standard deviations off
    weights, counts = fit.weights[fit.weights > 0], target[fit.weights > 0]
    far = 200 + 20 * np.sqrt(100 + counts)  # the observed is 20 standard deviations from such a prediction
    least = np.maximum(counts + 200 - 20 * np.sqrt(100 + counts), 0.5)
    assert np.all(weights * (counts + far) >= 0.999)
    assert np.all(weights * least <= 1.001)


def test_a_prediction_far_from_the_observed_is_not_believed():
    model = PixelVariance(0.5, 9.0)
    observed, floor = np.array([400.0, 400.0, 400.0, 0.0, -300.0]), 2.0
    variance = model.at(np.array([410.0, -1e9, 1e9, 1e9, 5.0]), observed, floor, 5.0)
    assert_close(variance[0], 0.5 * 410 + 9)
    for got, seen in zip(
        variance[1:4], observed[1:4], strict=True
    ):  # the observed is five of its standard deviations off
        assert_close(abs(seen - (got - 9) / 0.5), 5 * np.sqrt(got))
    assert_close(variance[4], 0.5 * floor + 9)


@pytest.mark.parametrize("keywords", [{"robust": r} for r in ("huber", "tukey", "clip")] + [{"noise": "poisson"}])
def test_rounding_is_no_outlier(keywords):
    image, kernel = 4 * photo((60, 73)), blob((4, 5))
    target = scipy.signal.convolve2d(image, kernel, mode="same", boundary="symm")
    for more in ({}, {"noise": "poisson"}):
        fit = find_kernel(image, target, (4, 5), boundary="symm", **{**keywords, **more})
        assert_close(fit.kernel, kernel, 1e-10)
        assert all("about 0 %" in note for note in fit.notes if note.startswith("about"))


@pytest.mark.slow
@grid("robust", ["huber", "tukey", "clip"], 3)
@grid("seed", range(3), 3)
def test_bright_pixels_taken_for_outliers_are_told(robust, seed):
    """Photon noise of bright stars is no outlier, though it looks like one beside that of the sky."""
    image, mean, target = stars_on_a_sky((151, 160), 600, seed)
    even = mean + 14 * np.random.default_rng(seed).normal(size=mean.shape)
    rays, even_rays = (with_cosmic_rays(one, 10, np.random.default_rng(seed)) for one in (target, even))
    saturated = np.where(mean > np.quantile(mean, 0.995), 0.5 * mean, even)
    told = [
        [f for f in fit.findings if f.verdict is Verdict.OUTLIERS_DECIDE]
        for fit in (
            find_kernel(image, rays, (9, 11), robust=robust, background=0),
            find_kernel(image, saturated, (9, 11), robust=robust, background=0),
            find_kernel(image, rays, (9, 11), robust=robust, background=0, noise="poisson"),
            find_kernel(image, even_rays, (9, 11), robust=robust, background=0),
        )
    ]
    for found in told[:2]:
        assert "of the brightest pixels" in found[0].detail and "noise='poisson'" in str(found[0])
    assert not any(told[2:])


@pytest.mark.slow
def test_weighted_statistics_add_and_are_saved(tmp_path):
    image = photo((60, 73))
    rng = np.random.default_rng(0)
    target = blurred(image, blob((3, 5)))[1:-1, 2:-2] + rng.normal(size=(58, 69))
    weights = rng.gamma(1.0, size=target.shape)
    whole = accumulate(image, target, (3, 5), weights=weights)
    north = accumulate(image[:32], target[:30], (3, 5), weights=weights[:30])
    south = accumulate(image[30:], target[30:], (3, 5), weights=weights[30:])
    both = north + south
    assert_close(both.gram, whole.gram, 1e-12)
    assert both.total_weight == pytest.approx(whole.total_weight) and both.n_pixels == whole.n_pixels
    assert_close((whole - south).solve().kernel, north.solve().kernel, 1e-8)
    plain = accumulate(image[:32], target[:30], (3, 5))
    assert (plain + south).total_weight == pytest.approx(30 * 69 + south.total_weight)
    whole.save(tmp_path / "stats.npz")
    again = kernelfit.NormalStats.load(tmp_path / "stats.npz")
    assert again.weight_sum == whole.weight_sum and again.weighting == whole.weighting
    fit = find_kernel(image, target, (3, 5), weights=weights)
    fit.save(tmp_path / "fit.npz")
    loaded = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    np.testing.assert_array_equal(loaded.weights, fit.weights)
    assert (loaded.notes, loaded.weighting) == (fit.notes, fit.weighting)
    assert fit.weighting.split(" (")[0] in fit.summary()


def test_solvers_take_weighted_statistics():
    rng = np.random.default_rng(0)
    image, kernel = photo((90, 101)), blob((7, 9))
    target = blurred(image, kernel) + 2 * rng.normal(size=image.shape)
    weights = rng.gamma(2.0, size=target.shape)
    weights[target < 80] = 0
    plain = find_kernel(image, target, (7, 9), weights=weights)
    smooth = find_kernel(image, target, (7, 9), weights=weights, solver=kernelfit.NonNegative())
    assert smooth.kernel.min() >= 0 and smooth.weighting == plain.weighting
    assert np.linalg.norm(smooth.kernel - kernel) < np.linalg.norm(plain.kernel - kernel)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"mask": np.zeros((3, 3), dtype=bool)}, ValueError, "mask of shape"),
        ({"mask": np.zeros((30, 41))}, TypeError, "mask of dtype float64, need bool"),
        ({"image_mask": np.zeros((2, 41), dtype=bool)}, ValueError, "image_mask of shape"),
        ({"mask": np.ones((30, 41), dtype=bool)}, ValueError, "leave none of"),
        ({"mask": np.arange(30 * 41).reshape(30, 41) > 400}, None, ""),
        ({"mask": np.arange(30 * 41).reshape(30, 41) > 100}, ValueError, "leave .* need at least"),
        ({"weights": -np.ones((30, 41))}, ValueError, "negative, NaN or infinite, the first -1.0 at"),
        ({"weights": np.full((30, 41), np.nan)}, ValueError, "negative, NaN or infinite"),
        ({"weights": np.ones((30, 41), dtype=complex)}, TypeError, "weights of dtype complex128"),
        ({"nan": "ignore"}, ValueError, "nan='ignore'"),
        ({"nan": None}, ValueError, "nan=None"),
        ({"saturated": "yes"}, ValueError, "saturated='yes'"),
        ({"saturated": 255}, TypeError, "saturated=255"),
        ({"saturated": (9, 3)}, ValueError, "low < high"),
        ({"noise": "gauss"}, ValueError, "noise='gauss'"),
        ({"noise": (0, 1)}, ValueError, "gain above 0"),
        ({"noise": 3}, TypeError, "noise=3"),
        ({"noise": "poisson", "weights": np.ones((30, 41))}, ValueError, "one or the other"),
        ({"robust": "l1"}, ValueError, "robust='l1'"),
        ({"robust": "clip", "method": "wiener"}, ValueError, "each counting alike"),
        (
            {"mask": np.arange(30 * 41).reshape(30, 41) > 127, "background": 1},
            ValueError,
            "leave 37 of 910 .* need at least 38 .* and 3 coefficients",
        ),
    ],
)
def test_bad_settings_are_refused(keywords, error, message):
    image = photo((30, 41))
    if error is None:
        assert find_kernel(image, image, (5, 7), **keywords).n_pixels > 35
        return
    with pytest.raises(error, match=message):
        find_kernel(image, image, (5, 7), **keywords)


def test_photon_noise_needs_counts():
    image = photo((30, 41))
    with pytest.raises(ValueError, match="need counts"):
        find_kernel(image, -image, (3, 5), noise="poisson")


@pytest.mark.parametrize("robust", ["huber", "tukey", "clip"])
def test_outliers_in_nothing(robust):
    """No signal, or no image: a verdict, and no warning."""
    image = photo((40, 51))
    assert find_kernel(image, 0 * image, (3, 4), robust=robust).verdict is Verdict.NO_SIGNAL
    assert find_kernel(0 * image, image, (3, 4), robust=robust).verdict is Verdict.RANK_DEFICIENT


def test_no_boundary_is_doubted_for_saturation():
    image = np.random.default_rng(0).uniform(0, 255, (60, 71))
    target = np.clip(np.rint(scipy.signal.convolve2d(image, 1.7 * blob((3, 4)), mode="same")), 0, 255).astype(np.uint8)
    for boundary in ("fill", "wrap"):
        fit = find_kernel(image, target, (3, 4), boundary=boundary)
        assert (Verdict.WRONG_BOUNDARY in [f.verdict for f in fit.findings]) == (boundary == "wrap")


def test_an_exact_pair_with_outliers_is_recovered_exactly():
    rng = np.random.default_rng(0)
    image, kernel = photo((60, 73)), blob((4, 5))
    target = scipy.signal.convolve2d(image, kernel, mode="same", boundary="symm")
    bad = rng.random(target.shape) < 0.02
    target[bad] = rng.normal(0, 1e5, bad.sum())
    fit = find_kernel(image, target, (4, 5), boundary="symm", robust="clip")
    assert_close(fit.kernel, kernel, 1e-9)
    assert int((~fit.weights).sum()) >= bad.sum()
    assert dataclasses.replace(fit).verdict.ok


@pytest.mark.parametrize("robust", ["huber", "tukey", "clip"])
def test_outliers_need_few_passes_and_one_exact_round(robust, monkeypatch):
    rng = np.random.default_rng(4)
    image = photo((150, 181))
    target = blurred(image, blob((5, 7))) + rng.normal(size=image.shape)
    target[rng.random(target.shape) < 0.01] = 1e4
    calls = {"solve": 0, "residual": 0}

    def count(owner, name):
        own = getattr(owner, name)

        def counted(*args, **keywords):
            calls[name] += 1
            return own(*args, **keywords)

        monkeypatch.setattr(owner, name, counted)

    count(weighted_fitter.WeightedFitter, "solve")
    count(reweighting, "residual")
    fit = find_kernel(image, target, (5, 7), robust=robust)
    assert fit.verdict is Verdict.SOLVED
    assert calls["solve"] <= 2 and 3 <= calls["residual"] <= 12


# ---- saturated pixels, told from the target itself ----


def saturated_pair(shape=(61, 83), kernel=(4, 7), dtype=np.uint8):
    rng = np.random.default_rng(8)
    image = rng.integers(0, 256, shape).astype(dtype)
    blurred = kernelfit.apply_kernel(image, rng.uniform(0, 0.3, kernel), boundary="wrap")
    info = np.iinfo(dtype)
    return image, np.clip(np.rint(3 * (blurred - blurred.mean()) + 100), info.min, min(info.max, 255)).astype(dtype)


def lazy_weights(target, image, **keywords):
    keywords = {"mode": None, "fillvalue": 0.0, "origin": None, "operation": "convolution", "boundary": None} | keywords
    judged = masking.PlaneSelection(saturated="auto").judge(observe(image, target, (4, 7), **keywords))
    assert isinstance(judged.item.weights, masking.Unsaturated)
    return judged.item


@pytest.mark.parametrize("boundary", [None, "wrap"])
def test_weights_of_saturated_pixels_are_those_of_a_mask(boundary):
    image, target = saturated_pair()
    item = lazy_weights(target, image, boundary=boundary)
    lazy, plan = item.weights, item.observation.geometry
    place = tuple(slice(o, o + n) for o, n in zip(plan.offset, plan.size, strict=True))
    dense = ((target > 0) & (target < 255))[place]
    assert 0.02 < 1 - dense.mean() < 0.9
    assert lazy.shape == dense.shape and lazy.dtype == dense.dtype and lazy.n_nonzero == dense.sum() == item.n_pixels
    rows, cols = np.array([3, 17, 17, 40]), np.array([2, 9, 50, 0])
    for key in (slice(4, 19), (slice(3, 30), slice(None)), (slice(None, None, 3), slice(5, 60, 4)), rows, (rows, cols)):
        np.testing.assert_array_equal(lazy[key], dense[key])
    np.testing.assert_array_equal(lazy.T[5:30, 2:9], dense.T[5:30, 2:9])
    np.testing.assert_array_equal(np.asarray(lazy), dense)
    read = item.observation.targets[0].block(0, 0, dense.shape)
    np.testing.assert_array_equal(read, np.where(dense, target[place].astype(float), 0.0))


@pytest.mark.parametrize("shape", [(4, 7), (9, 2)])
@pytest.mark.parametrize("method", ["direct", "fft"])
def test_saturation_and_its_mask_give_the_same_bits(shape, method, monkeypatch):
    image, target = saturated_pair()
    mask = (target == 0) | (target == 255)
    for keywords in ({}, {"robust": "huber"}, {"background": 1}):
        by_mask = kernelfit.find_kernel(image, target, shape, method=method, mask=mask, saturated=None, **keywords)
        fit = kernelfit.find_kernel(image, target, shape, method=method, **keywords)
        np.testing.assert_array_equal(fit.kernel, by_mask.kernel)
        np.testing.assert_array_equal(fit.stderr, by_mask.stderr)
        np.testing.assert_array_equal(fit.weights, by_mask.weights)
    monkeypatch.setattr(pipeline, "MOST_KEPT", 0)
    fit = kernelfit.find_kernel(image, target, shape, method=method)
    assert fit.weights is None and any("saturated" in note for note in fit.notes)


def test_images_that_carry_a_mask_of_their_own():
    """As numpy.ma's, and astropy's NDData and CCDData."""
    nddata = pytest.importorskip("astropy.nddata")
    rng = np.random.default_rng(0)
    image = rng.random((40, 50))
    target = scipy.signal.convolve2d(image, np.ones((2, 3)), mode="same")
    mask = rng.random(target.shape) < 0.05
    target[mask] = 1e9
    expected = find_kernel(image, np.ma.array(target, mask=mask), (2, 3))
    for wrapped in (nddata.CCDData(target, unit="adu", mask=mask), nddata.NDData(target, mask=mask)):
        assert np.array_equal(find_kernel(image, wrapped, (2, 3)).kernel, expected.kernel)
        assert np.array_equal(find_kernel([nddata.NDData(image)], [wrapped], (2, 3)).kernel, expected.kernel)
        np.testing.assert_allclose(kernelfit.accumulate(image, wrapped, (2, 3)).solve().kernel, 1.0, rtol=1e-9)


@pytest.mark.parametrize(
    ("ends", "text"),
    [((None, 4.0), "at 4 or above"), ((1.5, None), "at 1.5 or below"), ((1.5, 4.0), "at 1.5 or below or 4 or above")],
)
def test_the_note_names_the_ends_there_are(ends, text):
    image = np.random.default_rng(0).random((30, 40))
    fit = find_kernel(image, scipy.signal.convolve2d(image, np.ones((2, 3)), mode="same"), (2, 3), saturated=ends)
    assert fit.notes[0].endswith(f"saturated, {text}")


@pytest.mark.parametrize("level", [100.0, 1e5])
def test_a_prediction_below_a_hundredth_of_the_mean_or_four_of_its_errors_counts_as_that(level):
    rng = np.random.default_rng(3)
    image = level * rng.random((60, 73))
    image[:, 40:] = 0.0
    target = rng.poisson(blurred(image, np.full((2, 3), 1 / 6))).astype(float)
    fit = find_kernel(image, target, (2, 3), boundary="symm", noise="poisson")
    mean = target.mean()
    least = max(0.01 * mean, 4 * np.sqrt(mean * 6 / target.size))
    assert (least > 0.01 * mean) == (level == 100.0)
    assert fit.weights.max() * least == pytest.approx(1.0, rel=1e-9)


def test_a_sample_of_some_patches_stands_for_all_of_them():
    rng = np.random.default_rng(6)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=(120, 141)), 1.0) * np.linspace(0.2, 3.0, 141)
    judged = items_of(image, rng.normal(size=(120, 141)), (3, 4), CONVENTION, weights=rng.gamma(1.0, size=(120, 141)))
    sample, whole = sampling.draw([judged.item], 600), weighted.statistics([judged.item], "direct", 1, "patches").gram
    assert 300 < len(sample.values) < 1200 and sample.share < 0.1
    assert 0.85 < np.trace(sample.gram) / np.trace(whole) < 1.15


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_more_than_rounding_is_what_was_cut_off_of_a_sparse_image_too(dtype):
    """Where the image stands at the ends of its type as well, zeros alone tell nothing."""
    rng = np.random.default_rng(6)
    image = np.where(rng.random((43, 57)) < 0.04, rng.integers(20, 255, (43, 57)), 0).astype(dtype)
    kernel = np.full((3, 4), -0.4)
    kernel[1, 2] = 0.9
    target = np.clip(np.rint(apply_kernel(image.astype(float), kernel, boundary="symm")), 0, 255).astype(dtype)
    assert np.mean(target == 0) > 0.95
    fit = find_kernel(image, target, (3, 4))
    assert any("where they seem to be cut off" in f.detail for f in fit.findings) and not fit.verdict.ok
    plain = np.rint(apply_kernel(image.astype(float), np.abs(kernel) / 9, boundary="symm")).astype(dtype)
    assert not any("cut off" in f.detail for f in find_kernel(image, plain, (3, 4)).findings)
