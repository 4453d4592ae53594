"""Pixels that no kernel made do not decide what is found; what no kernel makes ends soon, and is said."""

import numpy as np
import pytest
import scipy.ndimage

import kernelfit
from helpers import camera
from kernelfit.api import discover
from kernelfit.core.findings import Verdict
from kernelfit.core.model import Execution, Selection
from kernelfit.fitting import discovery, spans, strays

KERNEL = np.outer([1, 2, 4, 2, 1.0], [1, 2, 3, 4, 3, 2, 1.0]) / 160.0


def photograph(rows=150, cols=190):
    return np.asarray(camera()[40 : 40 + rows, 60 : 60 + cols], dtype=float)


def blurred(image, noise=0.5):
    made = scipy.ndimage.convolve(image, KERNEL)
    return made + np.random.default_rng(2).normal(0, noise, made.shape)


def hot(target, rng):
    target.flat[rng.choice(target.size, target.size // 100, replace=False)] = 400.0


def both_ways(target, rng):
    at = rng.choice(target.size, target.size // 100, replace=False)
    target.flat[at] += np.where(np.arange(len(at)) % 2, 150.0, -150.0)


def streaks(target, rng):
    for _ in range(25):
        row, col, along = rng.integers(0, 130), rng.integers(0, 170), np.arange(12)
        target[row + along, col + along * rng.integers(0, 2)] += rng.exponential(200.0, 12)


def label(target, rng):
    target[100:116, 30:80] = 255.0 * (rng.random((16, 50)) < 0.5)


def frame(target, rng):  # noqa: ARG001
    target[:7], target[-7:], target[:, :7], target[:, -7:] = 30.0, 30.0, 30.0, 30.0


@pytest.mark.parametrize("spoil", [hot, both_ways, streaks, label, frame])
def test_strays_are_held_down_and_said(spoil):
    image = photograph()
    clean = blurred(image)
    target = clean.copy()
    spoil(target, np.random.default_rng(3))
    fit = kernelfit.find_kernel(image, target)
    assert fit.kernel.shape == KERNEL.shape
    assert fit.verdict.ok or spoil is frame  # which takes much of what is bright
    assert any("held down (robust='clip')" in words for words in fit.found)
    given = kernelfit.find_kernel(image, clean, KERNEL.shape, mode="crop", origin=fit.convention.origin)
    errors = [np.linalg.norm(one.kernel - KERNEL) for one in (fit, given)]
    assert errors[0] < 1.3 * errors[1]
    again = eval(f"kernelfit.{fit.reproduce()}", {"kernelfit": kernelfit, "image": image, "target": target})
    assert np.array_equal(again.kernel, fit.kernel)


def test_the_remedy_is_named_where_something_else_is_said_of_the_noise():
    image = photograph()
    target = blurred(image)
    hot(target, np.random.default_rng(3))
    fit = kernelfit.find_kernel(image, target, noise=(0.01, 0.5))
    assert any("give robust='clip'" in words for words in fit.found) and "robust" not in fit.reproduce()


def test_a_few_bright_stars_with_photon_noise_are_no_strays():
    rng = np.random.default_rng(5)
    sky = np.zeros((160, 190))
    sky[rng.integers(5, 155, 60), rng.integers(5, 185, 60)] = 3e3 * rng.pareto(1.2, 60)
    image = scipy.ndimage.gaussian_filter(sky, 1.2) + 20.0
    target = rng.poisson(scipy.ndimage.convolve(image, KERNEL)).astype(float)
    assert not discovery.discover(image, target, Selection(), Execution()).strays
    pair = spans.Pair(image, target, Selection(), Execution())
    found = strays.without_strays(pair, pair.fit((-4, 5, -5, 6), (1, 1)))
    assert found is None or found[1] < 2e-4


@pytest.mark.parametrize("apart", [0.0, 0.3, -0.6])
def test_the_displacement_of_halves_is_seen_in_two_bands(apart):
    image = photograph()
    cols = np.arange(190.0) + np.linspace(0.0, 2 * apart, 190)
    moved = scipy.ndimage.map_coordinates(image, np.meshgrid(np.arange(150.0), cols, indexing="ij"), order=3)
    pair = spans.Pair(image, blurred(moved, 0.1)[:, :180], Selection(), Execution())
    found = pair.fit((-6, 7, -7, 8), (1, 1))
    seen = spans.displaced(pair, found, 1)
    assert 0.4 < -seen / apart < 1.2 if apart else abs(seen) < 0.03
    assert apart or abs(spans.displaced(pair, found, 0)) < 0.03


def test_a_cut_reads_the_pixels_once(monkeypatch):
    """Whether it was scaled shows in bands of what is there."""
    image, passes = photograph(), []
    sums = spans.Pair.sums
    monkeypatch.setattr(spans.Pair, "sums", lambda pair, *a: passes.append(a[0]) or sums(pair, *a))
    fit = kernelfit.find_kernel(image, blurred(image)[3:-9, 5:-2])
    assert fit.kernel.shape == KERNEL.shape and len(passes) == 1


def test_what_was_blurred_before_a_stride_is_looked_at_by_means_alone(monkeypatch):
    image, looks = photograph(), []
    look = discovery.looks_at
    monkeypatch.setattr(discovery, "looks_at", lambda *a, **k: looks.append(k["means"]) or look(*a, **k))
    fit = kernelfit.find_kernel(image, blurred(image)[::2, 1::2])
    assert fit.convention.stride == (2, 2) and looks == [True]


@pytest.mark.parametrize("filtered", [scipy.ndimage.median_filter, scipy.ndimage.grey_closing])
def test_a_filter_without_a_kernel_ends_soon_and_is_said(filtered):
    image = np.rint(photograph()).astype(np.uint8)
    fit = kernelfit.find_kernel(image, filtered(image, 5))
    assert fit.kernel.size < 700 and not fit.verdict.ok
    assert any("more taps leave hardly less" in words for words in fit.found)
    assert any(one.verdict is Verdict.NONLINEAR for one in fit.findings)


@pytest.mark.parametrize("filtered", [scipy.ndimage.maximum_filter, scipy.ndimage.minimum_filter])
@pytest.mark.parametrize("side", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_maxima_are_known_by_a_few_taps(filtered, side, monkeypatch):
    """Chance makes lags far off stand out, which are many taps."""
    image, taps = np.asarray(camera()[:240, :300]), []
    fit_of = spans.Pair.fit
    monkeypatch.setattr(
        spans.Pair, "fit", lambda pair, box, *a: taps.append(spans.count_of(box)) or fit_of(pair, box, *a)
    )
    fit = kernelfit.find_kernel(image, filtered(image, side))
    assert max(taps) < 500 and fit.kernel.size <= 81
    assert any("more taps leave hardly less" in words for words in fit.found)
    assert any(one.verdict is Verdict.NONLINEAR for one in fit.findings)
    assert all(one.verdict is not Verdict.NOISE_DOMINATES for one in fit.findings)


def test_what_a_part_of_a_span_lacks_is_no_sign_of_a_filter_without_a_kernel():
    """Ghosts far off leave as much at edges, but as often above as below."""
    image = np.asarray(camera()[:240, :300], dtype=float)
    small = image.reshape(120, 2, 150, 2).mean(axis=(1, 3))
    kernel = np.zeros((25, 31))
    kernel[10:15, 13:18], kernel[0, 0], kernel[-1, -1] = 0.85 / 25, 0.1, 0.05
    for pair in ((image, small), (image, scipy.ndimage.convolve(image, kernel))):
        fit = kernelfit.find_kernel(*pair)
        assert fit.verdict.ok and fit.r_squared > 1 - 1e-10


def test_residuals_near_edges_are_told_from_noise():
    image = photograph()
    rng, clean = np.random.default_rng(0), blurred(image, 0.0)
    honest = [blurred(image), rng.poisson(clean), clean * rng.normal(1, 0.05, clean.shape)]
    honest.append(scipy.ndimage.gaussian_filter(image, 6.0))  # of which the span has a part
    filters = [scipy.ndimage.median_filter, scipy.ndimage.maximum_filter, scipy.ndimage.grey_opening]
    pairs = [spans.Pair(image, t, Selection(), Execution()) for t in (*honest, *(made(image, 5) for made in filters))]
    at_edges = [strays.near_edges(pair, pair.fit((-4, 5, -5, 6), (1, 1))) for pair in pairs]
    assert at_edges == len(honest) * [False] + len(filters) * [True]
    even = 100 + 50 * scipy.ndimage.gaussian_filter(rng.normal(size=image.shape), 1.5)  # as steep everywhere
    for made, told in ((scipy.ndimage.maximum_filter(even, 3), True), (blurred(even), False)):
        pair = spans.Pair(even, made, Selection(), Execution())
        assert strays.near_edges(pair, pair.fit((-4, 5, -5, 6), (1, 1))) == told


@pytest.mark.parametrize("text", [True, False])
def test_strays_outside_the_middle_that_is_looked_at_are_seen_too(text):
    image = np.clip(np.rint(1.3 * camera()[20:400, 60:460]), 0.0, 255.0)  # of 152000 pixels, many of them saturated
    target = np.clip(np.rint(blurred(image, 0.0)), 0, 255)
    if text:
        target[365:373, 20:380] = 180.0 * (np.random.default_rng(3).random((8, 360)) < 0.5)
    image, target = image.astype(np.uint8), target.astype(np.uint8)
    assert discover._middle(image, target, Selection(), None) is not None
    fit = kernelfit.find_kernel(image, target)
    assert any("held down (robust='clip')" in words for words in fit.found) == text
    assert fit.verdict.ok and fit.kernel.shape == KERNEL.shape
    assert np.linalg.norm(fit.kernel - KERNEL) < 0.02 * np.linalg.norm(KERNEL)
