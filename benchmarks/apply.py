"""How long a kernel of low rank takes on an image: columns and rows, a transform, and `scipy.signal.fftconvolve`.

``python -m benchmarks.apply`` prints a table: nanoseconds per pixel (processor time, the median over rounds), what
`apply_kernel` chooses, and how many times quicker than `fftconvolve` it is by the clock, run in turn.
"""

import time

import numpy as np
import scipy.signal

import kernelfit
from kernelfit.engines import forward

from .common import SMALL, image_like_a_photograph, ratio_of_times

SIDE = 512 if SMALL else 2048


def nanoseconds(work, rounds: int = 3) -> float:
    """Return the processor time of a call for each pixel."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return float(np.median(times)) / SIDE**2 * 1e9


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    image = image_like_a_photograph(SIDE, SIDE * 4 // 3)[:, :SIDE].copy()
    print("| kernel | rank | columns and rows | transform | fftconvolve | chosen | quicker than fftconvolve |")
    print("|---|---|---|---|---|---|---|")
    for side, rank in ((3, 1), (5, 5), (7, 7), (9, 2), (15, 1), (31, 1), (31, 3), (31, 8), (63, 1)):
        kernel = rng.normal(size=(side, rank)) @ rng.normal(size=(rank, side))
        limits = forward._TRANSFORM_NS
        row = []
        for limit in (1e9, 0.0):  # columns and rows; none
            forward._TRANSFORM_NS = limit
            kernelfit.apply_kernel(image, kernel)
            row.append(nanoseconds(lambda k=kernel: kernelfit.apply_kernel(image, k)))
        forward._TRANSFORM_NS = limits
        chosen = "transform" if forward.columns_and_rows(kernel) is None else "columns and rows"
        row.append(nanoseconds(lambda k=kernel: scipy.signal.fftconvolve(image, k, mode="same")))
        ratio = ratio_of_times(
            lambda k=kernel: scipy.signal.fftconvolve(image, k, mode="same"),
            lambda k=kernel: kernelfit.apply_kernel(image, k),
            repeats=3,
            seconds=0.0,
        )
        cells = " | ".join(f"{ns:.0f}" for ns in row)
        print(f"| {side} x {side} | {rank} | {cells} | {chosen} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
