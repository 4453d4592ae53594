"""From one point spread function to another."""

import numpy as np
import pytest

import kernelfit
import naive
from helpers import assert_close
from kernelfit.restoration.psf_matching import area, decayed

SHAPE = (31, 36)


def gaussian(std, shape=SHAPE, beside=1.0):
    rows, cols = (np.arange(n) - (n - 1) // 2 for n in shape)
    stamp = np.exp(-np.add.outer(rows**2 / 2, (cols / beside) ** 2 / 2) / std**2)
    return stamp / stamp.sum()


def moffat(width, shape=SHAPE):
    rows, cols = (np.arange(n) - (n - 1) // 2 for n in shape)
    stamp = (1 + np.add.outer(rows**2, cols**2) / width**2) ** -2.5
    return stamp / stamp.sum()


def translated(stamp, down, across):
    row, col = (np.exp(-2j * np.pi * by * np.fft.fftfreq(n)) for by, n in zip((down, across), stamp.shape, strict=True))
    return np.fft.ifft2(np.fft.fft2(stamp) * row[:, None] * col).real


@pytest.mark.parametrize("shape", [(11, 8), (8, 13)])
def test_it_is_the_ridge_of_the_dense_equations(shape):
    rng = np.random.default_rng(0)
    source, target = gaussian(1.2, shape) + 1e-3 * rng.random(shape), gaussian(1.5, shape, 1.3)
    matrix, used = naive.design_dense(source, shape, mode="same", boundary="fill")
    assert used.all()
    strength = 1e-3
    power = np.abs(np.fft.fft2(source, [2 * n - 1 for n in shape])).max() ** 2
    ridge = strength * power * np.eye(matrix.shape[1])
    expected = np.linalg.solve(matrix.T @ matrix + ridge, matrix.T @ target.ravel()).reshape(shape)
    fit = kernelfit.match_psf(source, target, strength=strength)
    assert_close(fit.kernel, expected, 2e-3)  # as far as the iterations go
    assert_close(fit.predict(source), target - fit.residual(source, target), 1e-12)


@pytest.mark.parametrize(
    ("source", "target", "share", "negative"),
    [
        (gaussian(1.3), gaussian(2.1), 1e-9, 1e-5),
        (gaussian(1.3), gaussian(1.4), 2e-4, 0.3),
        (gaussian(1.3), gaussian(1.8, beside=1.4), 2e-5, 1e-2),
        (gaussian(1.3, (51, 46)), moffat(4.4, (51, 46)), 2e-5, 0.02),
    ],
)
def test_noise_free_stamps_come_out(source, target, share, negative):
    fit = kernelfit.match_psf(source, target)
    assert np.abs(fit.residual(source, target)).sum() < share * target.sum()
    assert -fit.kernel[fit.kernel < 0].sum() < negative * fit.kernel.sum()
    assert fit.verdict.ok and fit.convention.boundary == "fill" and fit.kernel.shape == source.shape


@pytest.mark.parametrize("make", [gaussian, moffat])
def test_a_stamp_and_itself_differ_by_one_tap(make):
    fit = kernelfit.match_psf(make(2.3), make(2.3))
    expected = np.zeros(SHAPE)
    expected[fit.convention.origin] = 1.0
    assert fit.verdict.ok
    assert_close(fit.kernel, expected, 1e-9)


@pytest.mark.parametrize(
    ("source", "target", "share", "negative"),
    [
        (gaussian(2.0), gaussian(2.02), 1e-5, 0.2),
        (gaussian(2.0), gaussian(2.0, beside=1.1), 1e-6, 0.2),
        (moffat(3.0), moffat(3.1), 2e-4, 0.2),
        (3 * gaussian(2.0), np.roll(gaussian(2.05), (2, -3), (0, 1)), 1e-4, 0.2),
        (gaussian(2.0), translated(gaussian(2.0), 0.3, -0.2), 1e-3, 0.95),
        (gaussian(2.02), gaussian(2.0), 2e-3, 0.5),
    ],
)
def test_a_kernel_of_stamps_that_are_about_as_sharp_rings_little(source, target, share, negative):
    fit = kernelfit.match_psf(source, target)
    assert np.abs(fit.residual(source, target)).sum() < share * target.sum()
    assert -fit.kernel[fit.kernel < 0].sum() < negative * fit.kernel.sum() and fit.verdict.ok


@pytest.mark.parametrize("unit", [1e-120, 1e-9, 1e7, 1e120])
def test_units_do_not_matter(unit):
    fit, plain = (kernelfit.match_psf(gaussian(1.9), u * gaussian(2.0, beside=1.1)) for u in (unit, 1.0))
    assert_close(fit.kernel / unit, plain.kernel, 1e-6)
    assert fit.verdict is plain.verdict and fit.noise_std == pytest.approx(unit * plain.noise_std, rel=0.05)
    assert fit.r_squared == pytest.approx(plain.r_squared, abs=1e-9)


@pytest.mark.slow
def test_which_is_the_sharper():
    sharp, broad = gaussian(1.3), gaussian(2.1)
    assert area(sharp) == pytest.approx(4 * np.pi * 1.3**2, rel=1e-3) and area(sharp) < area(broad)
    fit = kernelfit.match_psf(broad, sharp, which="auto")
    assert fit.verdict.ok and "target is the sharper" in fit.found[0]
    assert_close(fit.kernel, kernelfit.match_psf(sharp, broad).kernel, 1e-12)
    assert not kernelfit.match_psf(broad, sharp).verdict.ok


def test_stamps_without_a_shape_go_there():
    sharp, broad = gaussian(1.3), gaussian(2.1)
    fit = kernelfit.find_kernel(sharp, broad, solver="auto")
    assert_close(fit.kernel, kernelfit.match_psf(sharp, broad).kernel, 1e-12)
    assert "stamps that fade" in fit.found[0]
    assert kernelfit.find_kernel(sharp, broad, (9, 11), boundary="fill").kernel.shape == (9, 11)
    assert not decayed(np.random.default_rng(0).random(SHAPE)) and not decayed(np.zeros(SHAPE)) and decayed(sharp)


@pytest.mark.parametrize("name", ["source", "target"])
def test_stamps_that_are_cut_off_are_doubted(name):
    stamps = {"source": gaussian(1.3), "target": gaussian(2.1)}
    assert kernelfit.match_psf(**stamps).verdict.ok
    stamps[name] = stamps[name] + 0.02 * stamps[name].max()  # a sky that was not taken off
    fit = kernelfit.match_psf(**stamps)
    doubts = [finding for finding in fit.findings if finding.verdict is kernelfit.Verdict.WRONG_BOUNDARY]
    assert len(doubts) == 1 and f"the {name} has not faded" in str(doubts[0]) and "take off the sky" in doubts[0].text


def test_one_plane_is_asked_for_and_no_channels():
    with pytest.raises(ValueError, match=r"give one plane of it, of colours such as \[\.\.\., 1\]$"):
        kernelfit.match_psf(np.ones((9, 10, 3)), np.ones((9, 10, 3)))


def test_what_is_refused():
    stamp = gaussian(1.3)
    for words, message in (({"target": stamp[1:]}, "need one shape"), ({"target": 0 * stamp}, "of zeros"),
                           ({"strength": -1.0}, "at least 0"), ({"which": "target"}, "'source', 'auto'"),
                           ({"source": np.full(SHAPE, np.nan)}, "NaN"), ({"source": 1e160 * stamp}, "or underflow"),
                           ({"target": 1e-160 * stamp}, "or underflow")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            kernelfit.match_psf(**{"source": stamp, "target": stamp, **words})
    ramp = kernelfit.match_psf(stamp + 0.01 * stamp.max(), stamp)
    assert any("source has not faded" in note for note in ramp.notes)


def test_what_has_faded_and_what_has_not():
    y, x = np.mgrid[-12:13, -15:16]
    blob = np.exp(-0.5 * (y**2 + x**2) / 9)
    ring = np.exp(-0.5 * (np.hypot(y / 25, x / 31) - 0.32) ** 2 / 0.02**2)
    assert decayed(blob) and not decayed(blob + 0.01)
    assert not decayed(ring) and not decayed(np.zeros((25, 31)))
    assert not decayed(blob[8:16, 10:20])
