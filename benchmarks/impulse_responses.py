"""Impulse responses of random systems of 30th order: how good `auto` is beside least squares.

    python -m benchmarks.impulse_responses [--draws 10] [--seed 0]
    python -m benchmarks.impulse_responses --room     a room's response of 20000 taps, from noise and from sweeps

After the test bank of T. Chen, H. Ohlsson and L. Ljung, "On the estimation of transfer functions, regularizations and
Gaussian processes - Revisited", Automatica 48 (2012), section 7: fast systems have all poles inside a circle of 0.95,
slow ones a pair outside of it; the noise has a tenth of the variance of what the system puts out, or as much. 125 taps
from 500 samples of white noise. Where the package impulseest is installed, its "DC" stands beside them. The fit is
``100 (1 - |g - truth| / |truth - mean|)``; 100 is perfect.
"""

import argparse
import importlib.util
import sys
import time
from typing import Any

import numpy as np
import scipy.signal

import kernelfit
from kernelfit import GaussianProcess

TAPS, SAMPLES, ORDER = 125, 500, 30


def system(rng, *, slow):
    """Return the impulse response of a random system: a sum of resonances, all inside the unit circle."""
    t, g = np.arange(TAPS + 400), 0.0
    radii = 0.95 * np.sqrt(rng.random(ORDER // 2))
    if slow:
        radii[0] = rng.uniform(0.95, 0.99)
    for radius in radii:
        g = g + rng.normal() * radius**t * np.cos(rng.uniform(0, np.pi) * t + rng.uniform(0, 2 * np.pi))
    return g


def score(found, truth):
    """Return the fit in percent."""
    return 100 * (1 - np.linalg.norm(found - truth) / np.linalg.norm(truth - truth.mean()))


def impulseest(u, y):
    """Return the impulse response that the package of that name finds."""
    import impulseest as package

    module = sys.modules["impulseest.impulseest"]  # whose loops put arrays of one element into arrays: NumPy < 2.4
    module.create_Phi = lambda u, n, N: np.array([u[n - i : N - i, 0] for i in range(n)])
    module.create_Y = lambda y, n, _: np.array(y[n:])
    try:
        return np.ravel(package.impulseest(u, y, n=TAPS, RegularizationKernel="DC"))
    except np.linalg.LinAlgError:  # a prior that is not positive definite to rounding
        return np.full(TAPS, np.nan)


def room(taps=20000, samples=10**6, rate=48000):
    """Print time, errors where the signal has power and elsewhere, and the verdict, of responses of a room."""
    rng, t = np.random.default_rng(1), np.arange(samples)
    response = rng.normal(size=taps) * np.exp(-t[:taps] / (0.15 * taps))
    fade = np.minimum(1.0, np.minimum(t, np.maximum(samples - taps - t, 0)) / (0.05 * rate))
    sweep = scipy.signal.chirp(t / rate, 20, (samples - taps) / rate, 20000, method="logarithmic")
    signals = {
        "noise": rng.normal(size=samples),
        "sweep, hard ends": sweep,
        "sweep, soft ends, silence": sweep * fade**2,
    }
    f = np.fft.rfftfreq(2**16, 1 / rate)
    inside = (f > 40) & (f < 18500)
    print("| signal | dB | processor time | error, 40 to 18500 Hz | elsewhere | stderr over error | verdict |")
    print("|---|---|---|---|---|---|---|")
    for name, signal in signals.items():
        clean = scipy.signal.fftconvolve(signal, response)[:samples]
        for level in (20, 40, 60):
            heard = clean + clean.std() * 10 ** (-level / 20) * rng.normal(size=samples)
            start = time.process_time()
            fit = kernelfit.find_kernel(signal, heard, lags=(0, taps - 1), boundary="fill")
            seconds = time.process_time() - start
            error, truth = (np.fft.rfft(part, 2**16) for part in (fit.kernel - response, response))
            shares = [np.linalg.norm(error[some]) / np.linalg.norm(truth[some]) for some in (inside, ~inside)]
            ratio = fit.typical_stderr / (fit.kernel - response).std()
            told = "; ".join(f"{one.verdict.name}: {one.detail}" for one in fit.findings[:1]) or "SOLVED"
            values = f"{seconds:.1f} s | {shares[0]:.2g} | {shares[1]:.2g} | {ratio:.2f}"
            print(f"| {name} | {level} | {values} | {told} |", flush=True)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10, help="of each of the four")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--room", action="store_true")
    args = parser.parse_args()
    if args.room:
        return room()
    solvers: dict[str, Any] = {
        "least squares": None,
        "tc": GaussianProcess("tc"),
        "dc": GaussianProcess("dc"),
        "auto": "auto",
    }
    if importlib.util.find_spec("impulseest") is not None:
        solvers["impulseest, DC"] = impulseest
    print("| systems | signal / noise | " + " | ".join(solvers) + " | auto's error bars hold | auto, s | its choice |")
    print("|---" * (5 + len(solvers)) + "|")
    for slow in (False, True):
        for ratio in (10.0, 1.0):
            rng = np.random.default_rng([args.seed, slow, int(ratio)])
            fits, held, seconds, picked = {name: [] for name in solvers}, [], 0.0, {}
            for _ in range(args.draws):
                g, u = system(rng, slow=slow), rng.normal(size=SAMPLES + 500)
                y = scipy.signal.lfilter(g, [1.0], u)
                y, u = y[500:] + rng.normal(size=SAMPLES) * np.std(y[500:]) / np.sqrt(ratio), u[500:]
                for name, solver in solvers.items():
                    if solver is impulseest:
                        fits[name].append(score(impulseest(u, y), g[:TAPS]))
                        continue
                    start = time.process_time()
                    fit = kernelfit.find_kernel(u, y, lags=(0, TAPS - 1), solver=solver)
                    taken = time.process_time() - start
                    fits[name].append(score(fit.kernel, g[:TAPS]))
                low, high = fit.confidence(0.95)
                held.append(np.mean((low <= g[:TAPS]) & (g[:TAPS] <= high)))
                seconds += taken / args.draws
                family = fit.prior.family if fit.prior else fit.solver.split("(")[0]
                picked[family] = picked.get(family, 0) + 1
            means = " | ".join(f"{np.nanmean(values):.1f}" for values in fits.values())
            chosen = ", ".join(f"{name} {count}" for name, count in sorted(picked.items(), key=lambda one: -one[1]))
            name = f"{'slow' if slow else 'fast'} | {ratio:g}"
            print(f"| {name} | {means} | {np.mean(held):.3f} | {seconds:.2f} | {chosen} |", flush=True)


if __name__ == "__main__":
    main()
