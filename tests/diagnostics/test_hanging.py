"""Kernels that vary by more than the functions of the place can follow, told by what hangs together at bright stars."""

import numpy as np
import pytest
import scipy.ndimage

import kernelfit
from helpers import assert_close
from kernelfit.core.findings import Verdict
from kernelfit.data.plan import make_plan
from kernelfit.diagnostics import hanging, tiles, whiteness

SHAPE = (240, 290)


def stars(seed, *, varied):
    """Return stars on a sky, and what a kernel makes of them that varies by degree 2, or by more; noise-free."""
    rng = np.random.default_rng(seed)
    image = np.zeros(SHAPE)
    image[rng.integers(0, SHAPE[0], 300), rng.integers(0, SHAPE[1], 300)] = np.minimum(500 / (1 - rng.random(300)), 4e4)
    image = scipy.ndimage.gaussian_filter(image, 0.9) + 20
    at = np.arange(9) - 4.0
    kernel = np.exp(-(at[:, None] ** 2 + at**2) / 4)
    kernel /= kernel.sum()
    wider = scipy.ndimage.laplace(kernel)
    v, u = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    place = 0.3 * v * v + 0.2 * u * u + (0.4 * v**3 * u + 0.3 * u**4 if varied else 0.0)
    return image, kernelfit.apply_kernel(image, kernel) + kernelfit.apply_kernel(image * place, wider)


def noise_of(kind, clean, rng):
    white = rng.standard_normal(SHAPE)
    return {
        "white": 5 * white,
        "photon": 0.5 * np.sqrt(np.maximum(clean, 1)) * white,
        "coloured": 8 * scipy.ndimage.gaussian_filter(white, 0.6),
        "coloured and louder at stars": np.sqrt(np.maximum(clean, 1)) * scipy.ndimage.gaussian_filter(white, 0.5),
    }[kind]


def told(fit):
    """Return what the fit says of bright places."""
    return [f for f in fit.findings if f.verdict is Verdict.VARYING]


KEYWORDS = {
    "least squares": {"variation": 2},
    "prior": {"variation": 2, "solver": "auto"},
    "own functions": {"variation": "own", "solver": kernelfit.GaussianProcess()},
}


def fit_of(image, target, **keywords):
    if keywords["variation"] == "own":
        v, u = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
        keywords["variation"] = kernelfit.Basis(np.array([np.ones(SHAPE), v * v, u * u]))
    return kernelfit.find_kernel(image, target, 9, background=0, **keywords)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 4])
@pytest.mark.parametrize("name", KEYWORDS)
def test_a_degree_that_is_too_low_is_told(name, seed):
    image, clean = stars(seed, varied=True)
    target = clean + noise_of("white", clean, np.random.default_rng(seed))
    (finding,) = told(fit_of(image, target, **KEYWORDS[name]))
    assert "bright places" in finding.detail
    assert ("variation=4" if KEYWORDS[name]["variation"] == 2 else "more functions") in str(finding)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["white", "photon", "coloured", "coloured and louder at stars"])
@pytest.mark.parametrize("name", KEYWORDS)
def test_noise_however_loud_and_correlated_is_not(name, kind):
    for seed in (2, 3):
        image, clean = stars(seed, varied=False)
        target = clean + noise_of(kind, clean, np.random.default_rng(seed))
        assert not told(fit_of(image, target, **KEYWORDS[name]))


@pytest.mark.slow
def test_correlated_noise_makes_chance_larger():
    excess = []
    for seed in range(100, 118):
        image, clean = stars(seed, varied=False)
        target = clean + noise_of("coloured", clean, np.random.default_rng(seed))
        fit = fit_of(image, target, variation=2)
        assert not told(fit)
        check = kernelfit.check_noise(image, target, fit)
        excess.append(check.together[0] / np.sqrt(check.together[1]))
    assert 0.5 < np.std(excess) < 1.4


@pytest.mark.parametrize("weighted", [False, True])
def test_the_sums_are_those_of_pairs_of_neighbours(weighted):
    rng = np.random.default_rng(0)
    left, targets = rng.normal(size=(2, 2, 7, 9))
    targets[0, 2, 3] += 40  # bright
    known = rng.random(left.shape) < 0.8
    known[0, 1:4, 2:5] = True
    root = np.where(known, rng.uniform(0.5, 2, left.shape), 0.0) if weighted else None
    weight = np.where(known, 1.0, 0.0) if root is None else root
    model = np.where(known, targets - left, 0.0)
    model = model - weight * np.sum(weight * model) / np.sum(weight**2)
    bright = model**2 > np.sum(model**4) / np.sum(model**2)
    assert 0 < bright.sum() < 5
    expected = np.zeros(3)
    for lag in ((0, 1), (1, 0), (1, 1), (1, -1)):
        pairs = []
        for tile, row, col in np.argwhere(known):
            other = (tile, row + lag[0], col + lag[1])
            if 0 <= other[1] < 7 and 0 <= other[2] < 9 and known[other]:
                pairs.append(((tile, row, col), other))
        dull = [(a, b) for a, b in pairs if not bright[a] and not bright[b]]
        share = sum(left[a] * left[b] for a, b in dull) / sum(0.5 * (left[a] ** 2 + left[b] ** 2) for a, b in dull)
        for a, b in pairs:
            size, pull = 0.5 * (left[a] ** 2 + left[b] ** 2), model[a] * model[b]
            beyond = (left[a] * left[b] - share * size) * pull
            expected += [beyond, beyond**2, size * abs(pull)]
    assert_close(hanging.sums_of(left, targets, known, root), expected, 1e-12)


@pytest.mark.parametrize(("weighted", "stride"), [(False, (1, 1)), (True, (1, 1)), (True, (2, 1))])
def test_what_is_looked_at_in_tiles_is_the_whole_there(weighted, stride):
    image, clean = stars(2, varied=False)
    rng = np.random.default_rng(8)
    target = (clean + noise_of("white", clean, rng))[:: stride[0], :: stride[1]]
    weights = np.where(rng.random(target.shape) < 0.9, rng.uniform(0.5, 2, target.shape), 0.0) if weighted else None
    field, settings = kernelfit.Polynomial(1), {"background": 0, "weights": weights, "stride": stride}
    fit = kernelfit.find_kernel(image, target, (5, 7), variation=field, **settings)
    plan = make_plan(image, target, kernelfit.Model((5, 7), stride=stride, variation=field), kernelfit.Selection())
    (observation,) = plan.groups[0]
    own = np.ones(observation.size) if weights is None else weights[observation.geometry.used]
    bright = tiles.telling([observation], fit, [own] if weighted else None)
    ((left, targets, known, root, around),), share = whiteness._seen_again([observation], fit, None, bright)
    starts = [start for _, part in bright[0] for start in part.starts]
    assert share == bright[1] > 0.9
    residual = fit.residual(image, target)[observation.geometry.used]
    size = tuple(step * (n - 1) + k for step, n, k in zip(stride, observation.size, (5, 7), strict=True))
    blocks = np.stack([one.block(0, 0, size) for one in observation.sources])
    blocks -= np.median(blocks, axis=(1, 2), keepdims=True)
    windows = np.lib.stride_tricks.sliding_window_view(np.square(blocks).sum(axis=0), (5, 7)).sum(axis=(2, 3))
    windows = windows[:: stride[0], :: stride[1]] * own
    for at, (row, col) in enumerate(starts):
        here = np.s_[row : row + 32, col : col + 32]
        assert (known[at] == (own[here] > 0)).all()
        assert_close(left[at], residual[here] * np.sqrt(own[here]), 1e-8)
        assert_close(targets[at], target[observation.geometry.used][here] * np.sqrt(own[here]), 1e-12)
        assert root is None or (root[at] == np.sqrt(own[here])).all()
    brightest = int(np.argmax(around.max(axis=(1, 2))))
    row, col = starts[brightest]
    assert_close(around[brightest], windows[row : row + 32, col : col + 32], 0.1)
