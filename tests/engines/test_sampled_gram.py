"""The weighted Gram matrix from slow weights and a sample of patches."""

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage

import naive
from helpers import assert_close
from kernelfit import Basis, Model, Selection, find_kernel
from kernelfit.core.variation import Separable
from kernelfit.data.observation import WeightedObservation, of_target, together
from kernelfit.data.plan import make_plan
from kernelfit.engines import sampled_gram, weighted
from kernelfit.engines.cost_model import Choice
from kernelfit.fitting import weighted_fitter


def stars(shape, n, seed, background=100.0):
    """(image, mean of the target, counts)."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape)
    image[tuple(rng.integers(0, side, n) for side in shape)] = np.minimum(rng.pareto(1.2, n) * 1000, 1e5)
    image = scipy.ndimage.gaussian_filter(image, 0.9)
    slope = np.linspace(0.5, 1.5, shape[0])[:, None] * np.linspace(0.8, 1.2, shape[1])
    mean = scipy.ndimage.gaussian_filter(image, (1.2, 1.5), truncate=3) + background * slope
    return image, mean, rng.poisson(mean).astype(float)


def items_of(image, target, weights, shape, **model):
    """Return the pair with weights on all of the target, as the engines see it."""
    found = []
    for one in make_plan(image, target, Model(shape, **model), Selection()).groups[0]:
        one = of_target(one, 0)
        plan = one.geometry
        used = tuple(slice(o, o + n) for o, n in zip(plan.offset, plan.size, strict=True))
        found.append(WeightedObservation(one, np.ascontiguousarray(weights[used])))
    return found


MODELS = [
    {},
    {"background": 1},
    {"mode": "full", "boundary": "fill", "operation": "correlation", "background": 0},
    {"mode": "same", "boundary": "nearest", "origin": (1, 3)},
]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_sample_of_all_patches_is_exact(model):
    image, mean, target = stars((41, 53), 30, 0)
    if model.get("mode") == "full":
        mean, target = (np.pad(one, ((1, 1), (2, 2)), mode="edge") for one in (mean, target))
    items = items_of(image, target, 1 / mean, (3, 5), **model)
    even = [Separable(np.full(n, 0.02), np.ones(m)) for n, m in (item.weights.shape for item in items)]
    found = sampled_gram.sampled(items, sampled_gram.base_of(items, even, "fft", 2), 2)
    assert_close(found, weighted.accumulated(items, 1)[0], 1e-10)


@pytest.mark.parametrize("background", [None, 0, 1])
def test_pixels_that_are_left_out_or_count_little_are_taken_off_exactly(background):
    """Of what is in the base, a background times the root of the level included."""
    image, mean, target = stars((41, 53), 30, 0)
    weights = 1 / mean
    weights[np.random.default_rng(1).random(mean.shape) < 0.2] = 0.0
    weights[12:17, 20:31] *= 1e-4
    items = items_of(image, target, weights, (3, 5), background=background)
    levels = [
        Separable(np.linspace(0.01, 0.03, n), np.linspace(0.9, 1.3, m)) for n, m in (i.weights.shape for i in items)
    ]
    found = sampled_gram.sampled(items, sampled_gram.base_of(items, levels, "fft", 1), 1)
    assert_close(found, weighted.accumulated(items, 1)[0], 1e-2)


def test_a_stride_and_pairs(monkeypatch):
    monkeypatch.setattr(sampled_gram, "MOST", 1000)
    image, mean, target = stars((82, 106), 60, 0)
    items = items_of(image, target[::2, ::2][:41], 1 / mean[::2, ::2][:41], (4, 5), stride=2, mode="same")
    even = [Separable(np.full(n, 0.02), np.ones(m)) for n, m in (item.weights.shape for item in items)]
    found = sampled_gram.sampled(items, sampled_gram.base_of(items, even, "direct", 1), 1)
    assert_close(found, weighted.accumulated(items, 1)[0], 1e-10)
    images, means, targets = zip(stars((41, 53), 30, 0), stars((37, 61), 30, 1), strict=True)
    both = [i for pair in zip(images, targets, means, strict=True) for i in items_of(pair[0], pair[1], 1 / pair[2], 3)]
    even = [Separable(np.full(n, 0.02), np.ones(m)) for n, m in (item.weights.shape for item in both)]
    found = sampled_gram.sampled(both, sampled_gram.base_of(both, even, "fft", 2), 2)
    assert_close(found, weighted.accumulated(both, 1)[0], 1e-10)


def test_weights_that_vary_slowly_are_in_the_base():
    image, _, target = stars((90, 107), 200, 0)
    slow = np.multiply.outer(np.linspace(0.5, 1.5, 90), np.linspace(1.2, 0.8, 107))
    items = items_of(image, target, slow, (3, 5), background=1)
    base = sampled_gram.base_of(items, sampled_gram.levels_of(items), "fft", 1)
    level = np.multiply.outer(base.levels[0].down, base.levels[0].across)
    assert_close(level, items[0].weights, 0.05)
    exact, moment, _ = weighted.accumulated(items, 1)
    values = scipy.linalg.eigvalsh(exact, together(items, base.grams))
    assert 0.95 < values[0] and values[-1] < 1.05
    assert_close(base.moment, moment, 0.05)


def test_pixels_that_are_left_out_are_left_out_of_the_moment():
    image, mean, target = stars((90, 107), 200, 0)
    weights = np.where(np.random.default_rng(0).random(mean.shape) < 0.1, 0.0, 1 / mean)
    items = items_of(image, np.where(weights > 0, target, 1e6), weights, (3, 5), background=0)
    base = sampled_gram.base_of(items, sampled_gram.levels_of(items), "fft", 1)
    assert_close(base.moment, weighted.accumulated(items, 1)[1], 0.02)


def test_a_part_of_the_patches_is_nearly_enough(monkeypatch):
    image, mean, target = stars((160, 187), 300, 1)
    items = items_of(image, target, 1 / mean, (5, 7), background=1)
    exact = weighted.accumulated(items, 1)[0]
    monkeypatch.setattr(sampled_gram, "MOST", 250)
    assert sampled_gram.sample_size(items) == 250 * 35
    base = sampled_gram.base_of(items, sampled_gram.levels_of(items), "fft", 2)
    found = sampled_gram.sampled(items, base, 2)
    values = scipy.linalg.eigvalsh(exact, found)
    assert 0.8 < values[0] and values[-1] < 1.25
    assert scipy.linalg.eigvalsh(exact, together(items, base.grams))[0] < 0.3
    errors, right = (np.sqrt(np.diag(np.linalg.inv(one)))[:35] for one in (found, exact))
    assert_close(errors, right, 0.03)
    assert (found == sampled_gram.sampled(items, base, 1)).all()


def test_few_patches_for_many_taps_are_no_sample():
    image, mean, target = stars((60, 67), 30, 0)
    items = items_of(image, target, 1 / mean, (21, 23))
    assert sampled_gram.sample_size(items) == 0
    assert sampled_gram.sample_size(items_of(image, target, 1 / mean, (21, 23), variation=1)) == 0


VARYING = [
    *MODELS,
    {"stride": 2, "mode": "same", "background": 0},
    {"channel_axis": -1, "channels": "mixed", "background": 1},
    {"variation": Basis(np.stack([np.ones((90, 107)), np.linspace(0, 1, 90)[:, None] ** 2 * np.linspace(1, 3, 107)]))},
]


@pytest.mark.parametrize("model", VARYING, ids=lambda m: ",".join(m) or "none")
def test_tiles_of_a_kernel_that_varies_are_nearly_enough(model):
    image, mean, target = stars((90, 107), 400, 3)
    if model.get("channels"):
        image = np.stack([image, np.roll(image[::-1], 7, axis=1) + 30.0], axis=-1)
        target = np.stack([target, target[::-1]], axis=-1)
    if model.get("mode") == "full":
        mean, target = (np.pad(one, ((1, 1), (2, 2)), mode="edge") for one in (mean, target))
    step = model.get("stride", 1)
    weights = np.where(np.random.default_rng(0).random(mean.shape) < 0.1, 0.0, 1 / mean)[::step, ::step]
    (item, *_) = items_of(image, target[::step, ::step], weights, (3, 5), **{"variation": 2, **model})
    found = sampled_gram.sampled([item], sampled_gram.base_of([item], sampled_gram.levels_of([item]), "fft", 1), 2)
    exact = weighted.accumulated([item], 1)[0]
    values = scipy.linalg.eigvalsh(exact, found)
    assert 0.5 < values[0] and values[-1] < 1.7
    errors, right = (np.sqrt(np.diag(np.linalg.inv(one)))[: item.n_taps] for one in (found, exact))
    assert_close(errors, right, 0.04)


def test_photon_noise_by_passes_is_the_exact_fit_with_its_own_weights(monkeypatch):
    own = weighted.choose_strategy
    monkeypatch.setattr(
        weighted, "choose_strategy", lambda *a, exact=False: own(*a, exact=True) if exact else Choice("iterate", "")
    )
    image, _, target = stars((120, 131), 150, 2)
    mask = np.random.default_rng(0).random(target.shape) < 0.03
    for more in ({"background": 1}, {"background": 1, "mask": mask}):
        fit = find_kernel(
            image, np.where(mask, 1e5, target) if "mask" in more else target, (5, 7), noise="poisson", **more
        )
        assert "passes" in fit.notes[-1] and fit.weighting.startswith("iterate")
        matrix, used = naive.design_dense(image, (5, 7), mode="same", boundary=None)
        u, v = (np.linspace(-1, 1, n) for n in target.shape)
        terms = [np.ones(target.shape), u[:, None] + 0 * v, v + 0 * u[:, None]]
        matrix = np.column_stack([matrix, *(term[used].ravel() for term in terms)])
        y, w = target[used].ravel(), fit.weights[used].ravel()
        root = np.sqrt(w)
        found, *_ = np.linalg.lstsq(matrix * root[:, None], y * root, rcond=None)
        assert np.abs((fit.kernel.ravel() - found[:35]) / fit.stderr.ravel()).max() < 1e-3
        predicted = matrix @ found
        good = w > 0
        assert_close(1 / w[good], predicted[good], 0.02)  # weights of the kernel's own prediction
        rss = np.sum(w * (y - predicted) ** 2) / (good.sum() - 38)
        right = np.sqrt(rss * np.diag(np.linalg.inv((matrix * w[:, None]).T @ matrix)))[:35]
        assert_close(fit.stderr.ravel(), right, 0.05)


def test_photon_noise_of_a_kernel_that_varies_is_the_exact_fit_with_its_own_weights(monkeypatch):
    own, words = weighted.choose_strategy, {"background": 1, "variation": 1}
    image, _, target = stars((120, 131), 300, 2)
    with monkeypatch.context() as patched:
        patched.setattr(
            weighted, "choose_strategy", lambda *a, exact=False: own(*a, exact=True) if exact else Choice("iterate", "")
        )
        fit = find_kernel(image, target, (5, 7), noise="poisson", **words)
    assert "passes" in fit.notes[-1] and fit.weighting.startswith("iterate") and "tiles" in fit.weighting
    exact = find_kernel(image, target, (5, 7), weights=fit.weights, **words)
    assert exact.weighting.startswith("patches")
    assert np.abs((fit.kernel - exact.kernel) / exact.stderr).max() < 1e-3
    assert_close(fit.stderr, exact.stderr, 0.05)


def test_a_bad_sample_leaves_the_rounds(monkeypatch):
    image, _, target = stars((60, 71), 60, 2)
    monkeypatch.setattr(weighted_fitter.Metric, "sampled", classmethod(lambda *_: None))
    own = weighted.choose_strategy
    monkeypatch.setattr(
        weighted, "choose_strategy", lambda *a, exact=False: own(*a, exact=True) if exact else Choice("iterate", "")
    )
    fit = find_kernel(image, target, (7, 9), noise="poisson", background=1)
    assert "round" in fit.notes[-1]
