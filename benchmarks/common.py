"""The scenes every benchmark draws from, and how two things are timed against each other.

A scene is a photograph-like image, a kernel with no symmetry and rarely square, and the noisy target the two make.
Nothing here uses kernelfit: the truth must not depend on what is measured.

``KERNELFIT_BENCH=full`` in the environment takes the sizes that matter; the default takes sizes that finish quickly.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.signal
from numpy.typing import NDArray

FULL = os.environ.get("KERNELFIT_BENCH", "") == "full"

KERNELS = ["5x5", "9x15", "15x15", "31x27"] if FULL else ["5x5", "9x15"]  # rows x columns
SIZES = [512, 2048, 4096] if FULL else [512]  # rows of the image; columns are 3/4 of that
NOISES = [0.0, 0.01]  # standard deviation of the noise over that of the noise-free target


@dataclass(frozen=True)
class Scene:
    """An image, the kernel, and the same-size target they make; beyond the image's edges lay zeros."""

    image: NDArray[np.float64]
    target: NDArray[np.float64]
    kernel: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        """Sides of the kernel."""
        rows, columns = self.kernel.shape
        return rows, columns


def image_like_a_photograph(rows: int, columns: int, seed: int = 0) -> NDArray[np.float64]:
    """Return noise whose amplitude falls as 1/frequency, as that of photographs does; mean 128, deviation 40."""
    spectrum = np.fft.rfft2(np.random.default_rng(seed).standard_normal((rows, columns)))
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :])
    frequency[0, 0] = np.inf
    image = np.fft.irfft2(spectrum / frequency, s=(rows, columns))
    return 128.0 + 40.0 / image.std() * image


def kernel_of_shape(name: str, seed: int = 1) -> NDArray[np.float64]:
    """Return a kernel of sum one, for ``"5x7"`` of 5 rows and 7 columns: an off-centre blob with rough taps."""
    rows, columns = map(int, name.split("x"))
    y, x = np.mgrid[:rows, :columns]
    blob = np.exp(-(((y - 0.4 * rows) / (0.3 * rows)) ** 2) - ((x - 0.6 * columns) / (0.25 * columns)) ** 2)
    kernel = blob * np.random.default_rng(seed).uniform(0.2, 1.0, (rows, columns))
    return kernel / kernel.sum()


def make_scene(kernel: str, size: int, noise: float, seed: int = 2) -> Scene:
    """Return the scene of this kernel, these image rows and this noise; the same one every time."""
    image = image_like_a_photograph(size, 3 * size // 4)
    taps = kernel_of_shape(kernel)
    target = scipy.signal.fftconvolve(image, taps, mode="same")
    if noise:
        target += np.random.default_rng(seed).normal(0.0, noise * target.std(), target.shape)
    return Scene(image, target, taps)


def relative_error(found: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Return the distance of `found` from `truth` over the size of `truth`, both in the Euclidean norm."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def ratio_of_times(
    ours: Callable[[], object], yardstick: Callable[[], object], repeats: int = 15, seconds: float = 2.0
) -> float:
    """Return the median of (seconds of `ours`) / (seconds of `yardstick`), run in turn.

    Taken in turn, both meet the same weather on a busy machine, so that the ratio means something where the times do
    not. Each runs once beforehand, unmeasured; then both run at least `repeats` times and for `seconds` in all.
    """
    ours()
    yardstick()
    ratios: list[float] = []
    end = time.perf_counter() + seconds
    while len(ratios) < repeats or time.perf_counter() < end:
        ratios.append(_seconds(ours) / _seconds(yardstick))
    return statistics.median(ratios)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
