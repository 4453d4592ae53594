"""Whether a signal's response drifts, and that noise alone is not taken for it."""

import numpy as np
import pytest
import scipy.signal

import kernelfit
from kernelfit import Verdict

TIME = {
    "slowly": lambda t: 2 * t - 1,
    "there and back": lambda t: 4 * t * (1 - t),
    "at once": lambda t: 1.0 * (t > 0.5),
}


def coloured(a, n, rng):
    return scipy.signal.lfilter([1.0], [1.0, -a], rng.normal(size=n + 2000))[2000:] * np.sqrt(1 - a * a)


def doubts(fit):
    return {finding.verdict for finding in fit.findings}


@pytest.mark.parametrize("how", TIME)
@pytest.mark.parametrize("errors", ["plain", "sandwich"])
@pytest.mark.parametrize("column", [False, True])
def test_a_response_that_drifts_is_told(how, errors, column):
    rng, n = np.random.default_rng(5), 9000
    x = coloured(0.6, n, rng)
    first, change = np.exp(-np.arange(13) / 3), 0.2 * rng.normal(size=13)
    steady = np.convolve(x, first)[:n] + 0.2 * rng.normal(size=n)
    y = steady + TIME[how](np.arange(n) / n) * np.convolve(x, change)[:n]
    words = {"origin": (0, 0)} if column else {"lags": (0, 12)}
    shape = ((13, 1),) if column else ()
    pair = [of[:, None] if column else of for of in (x, y, steady)]
    fit = kernelfit.find_kernel(*pair[:2], *shape, errors=errors, **words)
    assert fit.verdict is Verdict.VARYING and "drifts from one end to the other" in fit.summary()
    assert kernelfit.find_kernel(pair[0], pair[2], *shape, errors=errors, **words).verdict.ok


@pytest.mark.parametrize("signal", [0.0, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("noise", [0.0, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("n", [1500, pytest.param(20000, marks=pytest.mark.slow)])
def test_noise_however_correlated_is_no_drift(signal, noise, n):
    rng = np.random.default_rng(n)
    for n_taps in (3, 17):
        x = coloured(signal, n, rng)
        y = np.convolve(x, rng.normal(size=n_taps) * np.exp(-np.arange(n_taps) / 4))[:n]
        y = y + 0.3 * y.std() * coloured(noise, n, rng)
        assert Verdict.VARYING not in doubts(kernelfit.find_kernel(x, y, lags=(0, n_taps - 1)))


@pytest.mark.parametrize(
    "kind", ["louder towards the end", "as loud as the signal", "a signal that grows", "few events"]
)
def test_noise_and_signals_that_change_are_no_drift(kind):
    rng, n = np.random.default_rng(2), 7000
    t, x = np.arange(n) / n, rng.normal(size=n)
    if kind == "a signal that grows":
        x = x * (0.1 + 3 * t)
    elif kind == "few events":
        x = x * (rng.random(n) < 0.02)
    y = np.convolve(x, np.exp(-np.arange(11) / 3))[:n]
    loud = {"louder towards the end": 0.1 + t, "as loud as the signal": 0.1 + np.abs(y) / y.std()}.get(kind, 0.5)
    fit = kernelfit.find_kernel(x, y + 0.5 * y.std() * loud * rng.normal(size=n), lags=(0, 10))
    assert Verdict.VARYING not in doubts(fit)


@pytest.mark.parametrize("operation", ["convolution", "correlation"])
def test_two_taps_that_drift_against_each_other_leave_the_prediction_alone(operation):
    rng, n = np.random.default_rng(8), 9000
    x, first, change = rng.normal(size=n), np.zeros(13), np.zeros(13)
    first[:5], change[:2] = [1.0, 1.0, 0.9, 0.9, 0.8], [0.1, -0.1]
    words = {"mode": "valid", "operation": operation}
    parts = [kernelfit.apply_kernel(x, taps, **words) for taps in (first, change)]
    y = parts[0] + np.linspace(-1, 1, len(parts[0])) * parts[1] + 0.3 * rng.normal(size=len(parts[0]))
    assert kernelfit.find_kernel(x, y, 13, **words).verdict is Verdict.VARYING


@pytest.mark.parametrize("inputs", [1, 2])
def test_of_many_outputs_those_that_drift_are_told(inputs):
    rng, n, taps, outputs = np.random.default_rng(7), 9000, 9, 6  # more than are looked at together
    x = np.stack([coloured(0.6, n, rng) for _ in range(inputs)], axis=1)
    kernels, change = rng.normal(size=(2, outputs, inputs, taps))
    words = {"channel_axis": -1, "lags": (0, taps - 1), "channels": "mixed", "boundary": "fill"}
    made, moved = (
        kernelfit.apply_kernel(x, k, channel_axis=-1, origin=(0,), boundary="fill") for k in (kernels, 0.1 * change)
    )
    drifts = np.array([0, 1, 0, 0, 1, 0])
    y = made + rng.normal(size=made.shape) + np.linspace(-1, 1, n)[:, None] * moved * drifts
    fits = kernelfit.find_kernel(x, y, **words).parts
    assert [Verdict.VARYING in doubts(fit) for fit in fits] == list(drifts == 1)
    for at in (1, 4):
        (alone,) = kernelfit.find_kernel(x, y[:, [at]], **words).parts
        assert [f.detail for f in alone.findings] == [f.detail for f in fits[at].findings]
