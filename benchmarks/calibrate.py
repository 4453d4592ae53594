"""Measure the constants of `kernelfit.choose_method`'s cost model, on one core, and print them beside those in force.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.calibrate

Each is the median of passes over whole images, so that reading, converting and calling are in it. Only their ratios
matter to the choice; change `choice.py` if one is off by a factor that differs from the others' by more than 1.5.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

import kernelfit
from kernelfit import pair
from kernelfit.exact import choice, edges

from .common import image_like_a_photograph


def seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Return the median time of a call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def nanoseconds_per_pixel(shape: tuple[int, int], method: str, size: int = 2048) -> float:
    """Return the time of the statistics of one pair."""
    image = image_like_a_photograph(size, size)
    return seconds(lambda: kernelfit.accumulate(image, image, shape, method=method, workers=1)) / size**2 * 1e9


def main() -> None:
    """Measure and print."""
    small, large = (nanoseconds_per_pixel((n, n), "direct") for n in (3, 9))
    direct = (large - small) / (9 * 26 - 3 * 8)
    read = small - 3 * 8 * direct
    strip = pair.Reader(image_like_a_photograph(20, 4096), (20, 4096))
    edge = seconds(lambda: edges.strip_lags((strip,), 0, 20, 4096, 20, "direct")) / (20 * 21 / 2 * 41 * 4096) * 1e9
    narrow, wide = (nanoseconds_per_pixel((rows, 15), "fft") for rows in (2, 14))
    layout = choice.segment(2048 - 14, 14)
    waste = layout.length / layout.step * (1 + 28 / layout.length)
    spectral = (wide - narrow) / (4 * 12) / waste
    transform = (narrow / waste - 8 * spectral) / 2
    tiny = image_like_a_photograph(64, 64)
    start = seconds(lambda: kernelfit.accumulate(tiny, tiny, 3, method="fft", workers=1)) * 1e9
    taps = 900
    root = np.eye(taps) + 0.1 * np.random.default_rng(0).random((taps, taps))
    gram = root @ root.T
    stats = kernelfit.accumulate(tiny, tiny, (30, 30))
    fields = {name: getattr(stats, name) for name in ("target_energy", "target_sum", "terms", "convention")}

    def solve() -> object:
        fresh = kernelfit.NormalStats(gram=gram, moment=stats.moment, n_pixels=10**6, **fields)
        return fresh.solve().stderr

    dense = seconds(solve) / (2 / 3 * taps**3) * 1e9
    for name, value in (
        ("READ_NS", read),
        ("DIRECT_NS", direct),
        ("STRIP_NS", edge),
        ("SPECTRAL_NS", spectral),
        ("TRANSFORM_NS", transform),
        ("DENSE_NS", dense),
        ("FFT_START_NS", start),
    ):
        print(f"{name:13s} measured {value:10.3g}   in force {getattr(choice, name):.3g}")


if __name__ == "__main__":
    main()
