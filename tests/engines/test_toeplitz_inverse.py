"""The inverse of the Gram matrix of signals against dense ones, and fits of signals that leave bands open."""

import numpy as np
import pytest
import scipy.fft
import scipy.signal

import kernelfit
from helpers import assert_close
from kernelfit.compiled.dense import invert_displaced
from kernelfit.core.findings import Verdict
from kernelfit.engines.implicit_gram import ToeplitzInverse, TorusInverse


def windows(signal, taps):
    """Return the design matrix of the valid problem."""
    return np.lib.stride_tricks.sliding_window_view(signal, taps)


@pytest.mark.parametrize(("taps", "lengths"), [(2, (9,)), (7, (30,)), (50, (300, 211)), (40, (90, 140, 300))])
def test_it_is_the_inverse(taps, lengths):
    rng = np.random.default_rng(taps)
    signals = [np.convolve(rng.normal(size=n), [1, 1, 1], mode="same") for n in lengths]
    gram = sum(windows(one, taps).T @ windows(one, taps) for one in signals)
    ends = np.stack([one[: taps - 1] for one in signals]), np.stack([one[1 - taps :] for one in signals])
    torus = TorusInverse(gram[:1, None, None, np.abs(np.arange(1 - taps, taps))])
    for ridge in (0.0, 3.0):
        found = ToeplitzInverse(torus, gram[0], ends, ridge)
        inverse = np.linalg.inv(gram + ridge * np.eye(taps))
        assert found.done and found.ridge == ridge
        assert_close(found.diagonal()[0, 0], inverse.diagonal(), 1e-12)
        vector = rng.normal(size=taps)
        assert_close(found(vector[None, None])[0, 0], inverse @ vector, 1e-12)
    beside = ToeplitzInverse(torus, gram[0], ends).beside(np.full((1, 2, taps + 1), 3.0))
    assert_close(beside(vector[None, None])[0, 0], inverse @ vector, 1e-12)


def test_its_power_is_that_of_the_means_of_the_diagonals():
    """From few samples, whose ends are a large part of the sums."""
    rng, taps = np.random.default_rng(5), 17
    signals = [np.convolve(rng.normal(size=n), [1, 2, 1], mode="same") for n in (30, 41)]
    gram = sum(windows(one, taps).T @ windows(one, taps) for one in signals)
    ends = np.stack([one[: taps - 1] for one in signals]), np.stack([one[1 - taps :] for one in signals])
    torus = TorusInverse(gram[:1, None, None, np.abs(np.arange(1 - taps, taps))])
    means = np.array([np.trace(gram, lag) / (taps - lag) for lag in range(taps)]) * np.kaiser(33, 26.0)[16:]
    expected = [means[0] + 2 * np.sum(means[1:] * np.cos(2 * np.pi * k * np.arange(1, 17) / 33)) for k in range(17)]
    assert_close(ToeplitzInverse(torus, gram[0], ends).power(), np.maximum(expected, 1e-12 * max(expected)), 1e-10)


def test_a_matrix_that_is_not_positive_is_said_to_be_none():
    first = np.r_[1.0, 2.0, 0.0, 1.0]  # (1 2 0; 2 1 2; 0 2 1)
    negative = np.zeros((1, 7))
    negative[0, 1:4] = first[1:]
    assert not invert_displaced(first, np.zeros((0, 7)), negative)


def pair(taps, *, seed=0, length=3000, top=0.4, noise=0.01):
    """Return a sweep, nothing of which is above `top` cycles per sample, a decaying response, and what it makes."""
    rng = np.random.default_rng(seed)
    t = np.arange(length)
    sweep = scipy.signal.chirp(t, 0.002, length, top, method="logarithmic")
    spectrum = scipy.fft.rfft(sweep)
    spectrum[scipy.fft.rfftfreq(length) > top] = 0.0
    sweep = scipy.fft.irfft(spectrum, length)
    response = rng.normal(size=taps) * np.exp(-3.0 * np.arange(taps) / taps)
    heard = kernelfit.apply_kernel(sweep, response, origin=0, boundary="wrap")
    return sweep, response, heard + noise * heard.std() * rng.normal(size=length)


@pytest.mark.parametrize("boundary", ["fill", "wrap", None])
def test_coloured_signals_need_hardly_an_iteration(boundary):
    rng = np.random.default_rng(2)
    signals = [scipy.signal.lfilter([1], [1, -0.98], rng.normal(size=n)) for n in (900, 1300)]
    taps = rng.normal(size=61)
    heard = [
        kernelfit.apply_kernel(one, taps, boundary=boundary or "fill") + 0.01 * rng.normal(size=len(one))
        for one in signals
    ]
    fit = kernelfit.find_kernel(signals, heard, 61, boundary=boundary, method="cg", tolerance=1e-9)
    exact = kernelfit.find_kernel(signals, heard, 61, boundary=boundary, method="fft")
    assert fit.method == "cg" and fit.iterations <= 3 and fit.verdict is Verdict.SOLVED
    assert_close(fit.kernel, exact.kernel, 1e-9)
    assert fit.typical_stderr == pytest.approx(float(np.sqrt(np.mean(exact.stderr**2))), rel=0.02)


def test_an_open_band_is_told_and_the_rest_as_good_as_by_least_squares():
    sweep, response, heard = pair(240)
    fit = kernelfit.find_kernel(sweep, heard, lags=(0, 239), boundary="wrap", method="cg")
    (finding,) = (one for one in fit.findings if one.verdict is Verdict.RANK_DEFICIENT)
    low, high = (float(part.split()[0]) for part in finding.detail.split("between ")[1].split(" and "))
    assert 0.37 < low < 0.44 and high > 0.49
    assert 100 < fit.rank < 235 and fit.iterations < 40
    f = scipy.fft.rfftfreq(480)
    inside = (f > 0.01) & (f < 0.35)
    exact = np.linalg.lstsq(scipy.linalg.circulant(sweep)[:, :240], heard, rcond=1e-8)[0]
    ours, theirs = (np.linalg.norm(scipy.fft.rfft(k - response, 480)[inside]) for k in (fit.kernel, exact))
    assert ours < 1.1 * theirs
    error = np.linalg.norm(fit.kernel - response)
    assert error < 0.7 * np.linalg.norm(response)
    assert fit.typical_stderr * 240**0.5 == pytest.approx(error, rel=0.4)


def test_a_band_that_is_weak_but_not_empty_is_told():
    sweep, response, heard = pair(240, noise=0.1)
    floor = 1e-4 * np.random.default_rng(3).normal(size=len(sweep))
    words = {"lags": (0, 239), "boundary": "wrap", "method": "cg"}
    fit = kernelfit.find_kernel(sweep + floor, heard, **words)
    finding = next(one for one in fit.findings if one.verdict is Verdict.ILL_CONDITIONED)
    assert "and 0.499 cycles per sample" in finding.detail and "ConjugateGradient" in finding.text
    assert fit.rank == 240
    signal = sweep + 100 * floor
    quiet = kernelfit.find_kernel(signal, kernelfit.apply_kernel(signal, response, origin=0, boundary="wrap"), **words)
    assert Verdict.ILL_CONDITIONED not in {one.verdict for one in quiet.findings}
