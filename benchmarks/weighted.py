"""What masks and weights cost, relative to the unweighted fit, and against the dense weighted problem.

    python -m benchmarks.weighted            the table, at 2048 x 2048 (1024 x 1024 against dense)
    python -m benchmarks.weighted quick      the same at 512 x 512
    python -m benchmarks.weighted beside     the same weights with background=1, against the fit with that background
    python -m benchmarks.weighted photons    photon noise on stars, 15 x 15 taps, in plain fits, by CPU time
    python -m benchmarks.weighted coverage   how often 95 % intervals hold the truth under photon noise

Each line is the median of ratios of times taken in turn. The error is the distance of the kernel from the truth over
that which its standard errors let one expect: 1 is as good as can be, so that a quick wrong answer shows.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.ndimage
import scipy.signal
from numpy.typing import NDArray

import kernelfit

from . import varying
from .common import image_like_a_photograph, kernel_of_shape

Array = NDArray[np.float64]


def scene(size: int, side: int) -> tuple[Array, Array, Array, float]:
    """Return an image, a kernel, what the one makes of the other, and the noise to add: 1 % of it."""
    image, kernel = image_like_a_photograph(size, size), kernel_of_shape(f"{side}x{side}")
    clean = scipy.signal.fftconvolve(image, kernel, mode="same")
    return image, kernel, clean, 0.01 * float(clean.std())


def weighted_scene(kind: str, clean: Array, noise: float) -> tuple[Array, dict[str, Any]]:
    """Return the target of a kind of weights, and the keywords that tell of them; garbage stands under the mask."""
    rng = np.random.default_rng(0)
    if kind == "inverse variance":  # sky, photons, a camera whose corners are dark, and pixels that differ
        y, x = (np.linspace(-1, 1, n) for n in clean.shape)
        dark = 1.0 / (1.0 + y[:, None] ** 2 + x**2)
        variance = (50.0 + np.maximum(clean, 1.0)) / dark * np.exp(0.2 * rng.standard_normal(clean.shape))
        variance /= variance.mean()
        return clean + noise * np.sqrt(variance) * rng.standard_normal(clean.shape), {"weights": 1.0 / variance}
    if kind == "1000 bad pixels":
        mask = np.zeros(clean.shape, dtype=bool)
        mask.ravel()[rng.choice(clean.size, 1000, replace=False)] = True
    else:  # 10 % in blobs of a few dozen pixels across
        smooth = scipy.ndimage.gaussian_filter(rng.standard_normal(clean.shape), 8.0, mode="wrap")
        mask = smooth < np.quantile(smooth, 0.1)
    target = clean + noise * rng.standard_normal(clean.shape)
    target[mask] = np.nan
    return target, {"mask": mask}


def dense(image: Array, target: Array, side: int, weights: Array) -> Array:
    """Solve the weighted problem from patches laid out in blocks, multiplied by BLAS."""
    half = side // 2
    windows = np.lib.stride_tricks.sliding_window_view(image, (side, side))
    gram, moment = np.zeros((side**2, side**2)), np.zeros(side**2)
    rows = max(1, 8192 // windows.shape[1])
    for row in range(0, len(windows), rows):
        patches = windows[row : row + rows].reshape(-1, side**2)
        inside = np.s_[half + row : half + row + len(patches) // windows.shape[1], half : half + windows.shape[1]]
        w = weights[inside].ravel()
        scaled = patches * w[:, None]
        gram += scaled.T @ patches
        moment += scaled.T @ target[inside].ravel()
    return scipy.linalg.solve(gram, moment, assume_a="pos").reshape(side, side)[::-1, ::-1]


def ratio(ours: Callable[[], object], yardstick: Callable[[], object], repeats: int) -> float:
    """Return the median of ratios of times, taken in turn after one of each to warm up."""
    ours()
    yardstick()
    ratios = []
    for _ in range(repeats):
        times = []
        for work in (yardstick, ours):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        ratios.append(times[1] / times[0])
    return statistics.median(ratios)


def line(size: int, side: int, kind: str, repeats: int, **more: Any) -> str:
    """Measure one line of the table."""
    image, kernel, clean, noise = scene(size, side)
    target, keywords = weighted_scene(kind, clean, noise)
    plain = np.where(np.isfinite(target), target, clean)
    keywords |= more
    fit = kernelfit.find_kernel(image, target, side, **keywords)
    cost = ratio(
        lambda: kernelfit.find_kernel(image, target, side, **keywords),
        lambda: kernelfit.find_kernel(image, plain, side, **more),
        repeats,
    )
    error = float(np.sqrt(np.mean((fit.kernel - kernel) ** 2) / np.mean(fit.stderr**2)))
    return f"{size:6d} {side:4d}  {kind:18s} {cost:8.2f}  {error:6.2f}  {fit.weighting}"


def against_dense(size: int, side: int) -> str:
    """Measure the dense weighted problem against the fit with weights."""
    image, _, clean, noise = scene(size, side)
    target, keywords = weighted_scene("inverse variance", clean, noise)
    fit = kernelfit.find_kernel(image, target, side, **keywords)
    times = ratio(
        lambda: dense(image, target, side, keywords["weights"]),
        lambda: kernelfit.find_kernel(image, target, side, **keywords),
        1,
    )
    apart = np.linalg.norm(dense(image, target, side, keywords["weights"]) - fit.kernel) / np.linalg.norm(fit.stderr)
    what = f"dense weighted patches at {size}, {side} x {side}"
    return f"{what}: {times:.1f} times as long; kernels {apart:.1g} stderr apart"


def photons(size: int, side: int = 15, repeats: int = 3) -> str:
    """Measure what photon noise costs on stars on a sloping sky, and how far the weights' own solution is."""
    image = varying.scene(size).image
    at = np.arange(11) - 5.0
    kernel = np.exp(-(at[:, None] ** 2 + at**2) / 4)
    mean = kernelfit.apply_kernel(image, 1.3 * kernel / kernel.sum())
    mean += 200 + 60 * np.linspace(-1, 1, size)[:, None]
    counts = np.random.default_rng(1).poisson(mean).astype(float)
    fit = kernelfit.find_kernel(image, counts, side, noise="poisson", background=1)
    ratios = []
    for _ in range(repeats):
        times = []
        for words in ({}, {"noise": "poisson"}):
            start = time.process_time()
            kernelfit.find_kernel(image, counts, side, background=1, **words)
            times.append(time.process_time() - start)
        ratios.append(times[1] / times[0])
    return f"{size:6d} {side:4d}  {statistics.median(ratios):6.2f} plain fits; {'; '.join(fit.notes)}; {fit.weighting}"


def coverage(n: int = 500) -> None:
    """Print the coverage of 95 % intervals, with photon noise declared and not, and beside a sky."""
    rng = np.random.default_rng(7)
    stars = np.zeros((60, 71))
    stars[rng.integers(0, 60, 60), rng.integers(0, 71, 60)] = rng.pareto(1.5, 60) * 500
    image = scipy.ndimage.gaussian_filter(stars, 1.0) + 4.0 + rng.uniform(0, 2, stars.shape)
    kernel = kernel_of_shape("3x4")
    mean = scipy.signal.convolve2d(image, kernel, mode="same", boundary="symm")
    for sky, more in ((0.0, {}), (30.0, {"background": 0})):
        hits = {"poisson": 0, "constant": 0}
        for _ in range(n):
            counts = rng.poisson(mean + sky).astype(float)
            for noise in hits:
                low, high = kernelfit.find_kernel(image, counts, (3, 4), noise=noise, **more).confidence(0.95)
                hits[noise] += int(np.count_nonzero((low <= kernel) & (kernel <= high)))
        for noise, hit in hits.items():
            print(f"noise={noise!r} {more}: {100 * hit / (n * kernel.size):.1f} % of {n} x {kernel.size} intervals")


def coverage_by_a_sample(n: int = 200) -> None:
    """Print the coverage where the Gram matrix comes from a sample of patches: stars on a sloping sky."""
    rng = np.random.default_rng(3)
    stars = np.zeros((310, 331))
    flux = np.minimum(rng.pareto(1.2, 450) * 1500, 3e5)
    stars[rng.integers(0, 310, 450), rng.integers(0, 331, 450)] = flux
    image, side = scipy.ndimage.gaussian_filter(stars, 0.8), (11, 13)
    kernel = np.multiply.outer(*(np.exp(-((np.arange(k) - k // 2) ** 2) / 4.0) for k in side))
    kernel *= 1.3 / kernel.sum()
    mean = kernelfit.apply_kernel(image, kernel, boundary="nearest") + 200 + 60 * np.linspace(-1, 1, 310)[:, None]
    hits = 0
    for _ in range(n):
        fit = kernelfit.find_kernel(image, rng.poisson(mean).astype(float), side, noise="poisson", background=1)
        hits += int(np.count_nonzero(np.abs(fit.kernel - kernel) < 1.96 * fit.stderr))
    print(f"stars, {fit.weighting}: {100 * hits / (n * kernel.size):.1f} % of {n} x {kernel.size} intervals")


def main(arguments: list[str]) -> None:
    """Print the table."""
    if "coverage" in arguments:
        coverage()
        coverage_by_a_sample()
        return
    if "photons" in arguments:
        for size in [int(a) for a in arguments if a.isdigit()] or [1024, 2048]:
            print(photons(size), flush=True)
        return
    more = {"background": 1} if "beside" in arguments else {}
    quick = "quick" in arguments
    size, repeats = (512, 3) if quick else (2048, 7)
    wanted = [int(a) for a in arguments if a.isdigit()] or [15, 31]
    print("  size side  weights                cost   error  how")
    for side in wanted:
        for kind in ("1000 bad pixels", "blobs", "inverse variance"):
            print(line(size, side, kind, repeats if side < 31 else 5, **more), flush=True)
    if "dense" in arguments or not (more or any(a.isdigit() for a in arguments)):
        print(against_dense(size // 2, 15))


if __name__ == "__main__":
    main(sys.argv[1:])
