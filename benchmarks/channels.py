"""Complex numbers and many channels: coverage of the intervals, time beside real fits and other packages, memory.

    python -m benchmarks.channels [coverage] [time] [coils] [outputs]

Without words all four tables. Times are processor times of all threads, the best of some runs in turn. "outputs" sets
`find_kernel` beside MNE's TimeDelayingRidge and mTRFpy's TRF, where they are installed (`pip install '.[peers]'`); they
give no errors and no verdict. The kernels of all three are held against dense least squares.
"""

import importlib.util
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.ndimage

import kernelfit


def normal(rng: np.random.Generator, *shape: int) -> Any:
    """Return circular noise of variance 2."""
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def seconds(works: dict[str, Callable[[], object]], repeats: int = 3) -> dict[str, float]:
    """Return the least processor time of each, run in turn."""
    best = dict.fromkeys(works, np.inf)
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - start)
    return best


def coverage(draws: int = 200) -> None:
    """Print how often 95 % intervals hold the truth, for the real parts and the imaginary ones."""
    cases: dict[str, dict[str, Any]] = {
        "valid, 24x31, 3x4": {},
        "few pixels, 9x10, 3x4": {"size": (9, 10)},
        "mask, background": {"background": 0, "masked": True},
        "real kernel": {"real": True},
        "signal, 200, 5 taps": {"size": (200,), "shape": (5,)},
        "four coils to one": {"coils": 4},
        "ridge chosen by GCV": {"solver": kernelfit.Penalized("ridge")},
        "outliers, huber": {"robust": "huber", "outliers": 0.05},
        "outliers, tukey, mask": {"robust": "tukey", "outliers": 0.05, "masked": True},
        "outliers, clip": {"robust": "clip", "outliers": 0.05},
        "noise of the image": {"image_noise": 0.5, "size": (40, 51)},
        "noise of the image, four coils": {"image_noise": 0.5, "size": (40, 51), "coils": 4},
        "not circular, real image, plain": {"kind": "one part", "flat": True, "size": (40, 51)},
        "not circular, real image, sandwich": {
            "kind": "one part",
            "flat": True,
            "size": (40, 51),
            "errors": "sandwich",
        },
        "coloured, plain": {"kind": "smooth", "size": (70, 81)},
        "coloured, sandwich": {"kind": "smooth", "size": (70, 81), "errors": "sandwich"},
        "coloured, sandwich, mask": {"kind": "smooth", "size": (70, 81), "errors": "sandwich", "masked": True},
        "Wiener, periodic": {"method": "wiener", "mode": "same", "boundary": "wrap"},
    }
    print("| 95 % intervals | real parts | imaginary parts |\n|---|---|---|")
    for name, words in cases.items():
        words = dict(words)
        size, shape = words.pop("size", (24, 31)), words.pop("shape", (3, 4))
        coils, masked, flat = words.pop("coils", 0), words.pop("masked", False), words.pop("flat", False)
        kind, outliers, std = words.pop("kind", "white"), words.pop("outliers", 0.0), words.get("image_noise", 0.0)
        words = {"mode": "valid", **words}
        rng, held = np.random.default_rng(0), []
        for _ in range(draws):
            stack = (coils,) if coils else ()
            image, kernel = normal(rng, *stack, *size), normal(rng, *stack, *shape)
            image = image.real if flat else image
            if kind == "smooth":  # so that the colour of the noise matters
                image = scipy.ndimage.uniform_filter(image, (1, 3)) * 2
            if words.get("real"):
                kernel = kernel.real
            axis = {"channel_axis": 0} if coils else {}
            target = kernelfit.apply_kernel(image, kernel[None] if coils else kernel, mode=words["mode"],
                                            boundary=words.get("boundary"), **axis)  # fmt: skip
            target = target + noise(rng, kind, target.shape) + (3 - 1j) * ("background" in words)
            far = rng.random(target.shape) < outliers
            target[far] += 60 * np.exp(2j * np.pi * rng.random(np.count_nonzero(far)))
            image = image + std * normal(rng, *image.shape) / np.sqrt(2) if std else image
            mask = {"mask": rng.random(target.shape) < 0.2} if masked else {}
            mixed = {**axis, "channels": "mixed"} if coils else {}
            fit = kernelfit.find_kernel(image, target, shape, **words, **mask, **mixed)
            low, high = fit.confidence(0.95)
            parts = [(low.real <= kernel.real) & (kernel.real <= high.real)]
            if not words.get("real"):
                parts.append((low.imag <= kernel.imag) & (kernel.imag <= high.imag))
            held.append([float(part.mean()) for part in parts])
        found = np.mean(held, axis=0)
        print(f"| {name} | {' | '.join([*(f'{100 * share:.1f} %' for share in found), '', ''][:2])} |", flush=True)


def noise(rng: np.random.Generator, kind: str, size: tuple[int, ...]) -> Any:
    """Return noise of variance 8: circular, nearly all of it in the imaginary part, or filtered by a complex kernel."""
    if kind == "white":
        return 2.0 * normal(rng, *size)
    if kind == "one part":
        return 0.5 * rng.normal(size=size) + 2.8j * rng.normal(size=size)
    white = normal(rng, *size[:-1], size[-1] + 2)
    return white[..., 2:] + (1.2 + 0.5j) * white[..., 1:-1] + 0.8 * white[..., :-2]


def times() -> None:
    """Print processor times of complex fits beside those of their real parts."""
    rng = np.random.default_rng(0)
    print("\n| pair | real | complex | ratio |\n|---|---|---|---|")
    cases: list[tuple[tuple[int, ...], Any]] = [((1024,) * 2, (5, 7)), ((1024,) * 2, 15), ((2048,) * 2, 31)]
    cases += [((10**6,), 101), ((10**7,), 1001), ((32, 96, 96), (5, 5, 5))]
    for size, shape in cases:
        x = normal(rng, *size)
        y = (1 + 2j) * x + 0.1 * normal(rng, *size)
        a, b = x.real.copy(), y.real.copy()

        def real(a: Any = a, b: Any = b, shape: Any = shape) -> object:
            return kernelfit.find_kernel(a, b, shape)

        def whole(x: Any = x, y: Any = y, shape: Any = shape) -> object:
            return kernelfit.find_kernel(x, y, shape)

        best = seconds({"real": real, "complex": whole}, 2)
        told = f"{best['real']:.3f} s | {best['complex']:.3f} s | {best['complex'] / best['real']:.2f}"
        print(f"| {'x'.join(map(str, size))}, {shape} | {told} |", flush=True)


def coils() -> None:
    """Print error, time and memory of the calibration of 16 coils, beside dense least squares."""
    rng, n, shape = np.random.default_rng(0), 16, (5, 5)
    print("\n| calibration of 16 coils, 5x5 | relative error | time | peak memory | windowed matrix |")
    print("|---|---|---|---|---|")
    for size in ((40, 16), (96, 64)):
        image, kernels = normal(rng, *size, n), normal(rng, n, n, *shape)
        boundary = "wrap" if size == (40, 16) else "fill"
        target = kernelfit.apply_kernel(image, kernels, boundary=boundary, channel_axis=-1)
        target = target + 0.1 * normal(rng, *target.shape)
        rows, cols = size
        pad = np.pad(image, [(2, 2), (2, 2), (0, 0)], mode="wrap" if boundary == "wrap" else "constant")
        taps = [(c, 4 - p, 4 - q) for c in range(n) for p in range(5) for q in range(5)]
        windows = np.stack([pad[r : r + rows, s : s + cols, c].ravel() for c, r, s in taps], axis=1)
        exact = np.linalg.lstsq(windows, target.reshape(-1, n), rcond=None)[0].T.reshape(kernels.shape)

        def fitted(image: Any = image, target: Any = target, boundary: str = boundary) -> Any:
            words: dict[str, Any] = {"channel_axis": -1, "channels": "mixed", "boundary": boundary}
            return kernelfit.find_kernel(image, target, shape, **words)

        fit = fitted()
        error = np.linalg.norm(fit.kernel - exact) / np.linalg.norm(exact)
        taken = seconds({"fit": fitted}, 1)["fit"]
        tracemalloc.start()
        fitted()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        told = f"{error:.1e} | {taken:.2f} s | {peak / 2**20:.0f} MiB | {windows.nbytes / 2**20:.0f} MiB"
        print(f"| {rows}x{cols} | {told} |", flush=True)


def outputs() -> None:
    """Print processor times and errors of many outputs, beside MNE and mTRFpy."""
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    print("\n| signals | package | time | relative error |\n|---|---|---|---|")
    for n, ins, outs, lags in ((20000, 16, 8, 41), (8192, 16, 128, 33)):
        x, kernels = rng.normal(size=(n, ins)), rng.normal(size=(outs, ins, lags))
        words: dict[str, Any] = {"channel_axis": -1, "origin": (0,), "boundary": "fill"}
        y = kernelfit.apply_kernel(x, kernels, **words) + 5 * rng.normal(size=(n, outs))
        windows = np.stack([np.r_[np.zeros(t), x[: n - t, c]] for c in range(ins) for t in range(lags)], axis=1)
        exact = np.linalg.lstsq(windows, y, rcond=None)[0].T.reshape(kernels.shape)
        found: dict[str, Any] = {}

        def mine(x: Any = x, y: Any = y, lags: int = lags, found: dict[str, Any] = found) -> None:
            fit = kernelfit.find_kernel(x, y, lags=(0, lags - 1), channel_axis=-1, channels="mixed", boundary="fill")
            found["kernelfit"] = fit.kernel

        works: dict[str, Callable[[], object]] = {"kernelfit": mine}
        if importlib.util.find_spec("mne") and importlib.util.find_spec("sklearn"):
            import mne
            from mne.decoding import TimeDelayingRidge

            mne.set_log_level("ERROR")

            def ridge(x: Any = x, y: Any = y, lags: int = lags, found: dict[str, Any] = found) -> None:
                model = TimeDelayingRidge(0, lags - 1, 1.0, alpha=0.0, fit_intercept=False)
                found["MNE TimeDelayingRidge"] = model.fit(x, y).coef_

            works["MNE TimeDelayingRidge"] = ridge
        if importlib.util.find_spec("mtrf"):
            from mtrf.model import TRF

            def trf(x: Any = x, y: Any = y, lags: int = lags, found: dict[str, Any] = found) -> None:
                model = TRF()
                model.train([x], [y], 1.0, 0, lags - 1, 0.0)
                found["mTRFpy"] = np.moveaxis(model.weights, 2, 0)

            works["mTRFpy"] = trf
        for name, best in seconds(works, 2).items():
            error = np.linalg.norm(found[name] - exact) / np.linalg.norm(exact)
            print(f"| {n} x {ins} to {outs}, {lags} lags | {name} | {best:.2f} s | {error:.1e} |", flush=True)


if __name__ == "__main__":
    tables = {"coverage": coverage, "time": times, "coils": coils, "outputs": outputs}
    for word in sys.argv[1:] or tables:
        tables[word]()
