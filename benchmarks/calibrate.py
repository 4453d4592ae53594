"""Measure the constants of `kernelfit.choose_method`'s cost model, on one core, and print them beside those in force.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.calibrate
    OPENBLAS_NUM_THREADS=1 python -m benchmarks.calibrate weights     those of the choice between ways to weigh

Each is the median of passes over whole images, so that reading, converting and calling are in it. Only their ratios
matter to the choice; change `cost_model.py` if one is off by a factor that differs from the others' by more than 1.5.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

import kernelfit
from kernelfit import Model
from kernelfit.data.observation import WeightedObservation, as_observation
from kernelfit.data.reader import Reader
from kernelfit.engines import cost_model, edge_correction, patches, weighted, weighted_pass

from .common import image_like_a_photograph

CONVENTION = {"mode": None, "boundary": None, "fillvalue": 0.0, "origin": None, "operation": "convolution"}


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


def weighted_pass_ns(shape: tuple[int, int], method: str, size: int = 2048) -> float:
    """Return the time per pixel of a pass with weights."""
    image = image_like_a_photograph(size, size)
    observation = as_observation(image, image, Model(shape, **CONVENTION))
    item = WeightedObservation(observation, np.random.default_rng(0).random(observation.size))
    taps = np.ones(shape[0] * shape[1])
    return seconds(lambda: weighted_pass.residual([item], taps, method, 1)) / size**2 * 1e9


def patches_ns(shape: tuple[int, int], size: int = 512) -> float:
    """Return the time per pixel of sums over the patches of pixels whose weights all differ."""
    image = image_like_a_photograph(size, size)
    observation = as_observation(image, image, Model(shape, **CONVENTION))
    weights = np.random.default_rng(0).random(observation.size)
    return seconds(lambda: patches.sums(observation, weights), 3) / weights.size * 1e9


def reading_ns(n: int = 1000, size: int = 2048) -> float:
    """Return the time to read a patch by itself."""
    reader = Reader(image_like_a_photograph(size, size), (size, size))
    rows, cols = np.random.default_rng(0).integers(0, size - 15, (2, n))
    return seconds(lambda: patches.read_one_by_one((reader,), rows, cols, (15, 15))) / n * 1e9


def of_weights() -> None:
    """Measure and print what the choice between ways to weigh is made of."""
    low, high = weighted_pass_ns((4, 15), "fft"), weighted_pass_ns((28, 28), "fft")
    plain_low, plain_high = (nanoseconds_per_pixel((n, max(n, 15)), "fft") for n in (4, 28))
    direct = weighted_pass_ns((7, 7), "direct")
    few, many = patches_ns((9, 9)), patches_ns((19, 19))
    # few = 81 * 82 / 2 multiply + 81 gather, many = 361 * 362 / 2 multiply + 361 gather
    multiply = (many - few * 361 / 81) / (361 * 362 / 2 - 361 * 82 / 2)
    gather = few / 81 - 41 * multiply
    print_beside(
        weighted,
        PASS_NS=low - 4 * (high - low) / 24,
        PASS_ROW_NS=(high - low) / 24,
        PASS_TAP_NS=direct / 49,
        PLAIN_NS=plain_low - 4 * (plain_high - plain_low) / 24,
        PLAIN_ROW_NS=(plain_high - plain_low) / 24,
    )
    print_beside(patches, MULTIPLY_NS=multiply, GATHER_NS=gather, READ_NS=reading_ns())


def print_beside(room: object, **measured: float) -> None:
    """Print measured constants beside those of a room."""
    for name, value in measured.items():
        print(f"{name:13s} measured {value:10.3g}   in force {getattr(room, name):.3g}")


def main(arguments: list[str]) -> None:
    """Measure and print."""
    if "weights" in arguments:
        of_weights()
        return
    small, large = (nanoseconds_per_pixel((n, n), "direct") for n in (3, 9))
    direct = (large - small) / (9 * 26 - 3 * 8)
    read = small - 3 * 8 * direct
    strip = Reader(image_like_a_photograph(20, 4096), (20, 4096))
    edge = (
        seconds(lambda: edge_correction.strip_lags((strip,), 0, 20, 4096, 20, "direct"))
        / (20 * 21 / 2 * 41 * 4096)
        * 1e9
    )
    narrow, wide = (nanoseconds_per_pixel((rows, 15), "fft") for rows in (2, 14))
    layout = cost_model.segment(2048 - 14, 14)
    waste = layout.length / layout.step * (1 + 28 / layout.length)
    spectral = (wide - narrow) / (4 * 12) / waste
    transform = (narrow / waste - 8 * spectral) / 2
    tiny = image_like_a_photograph(64, 64)
    start = seconds(lambda: kernelfit.accumulate(tiny, tiny, 3, method="fft", workers=1)) * 1e9
    taps = 900
    root = np.eye(taps) + 0.1 * np.random.default_rng(0).random((taps, taps))
    gram = root @ root.T
    stats = kernelfit.accumulate(tiny, tiny, (30, 30))
    fields = {name: getattr(stats, name) for name in ("target_energy", "target_sum", "supports", "convention")}

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
        print(f"{name:13s} measured {value:10.3g}   in force {getattr(cost_model, name):.3g}")


if __name__ == "__main__":
    main(sys.argv[1:])
