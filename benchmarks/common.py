"""The scenes every benchmark draws from, and how two things are timed against each other.

A scene is a photograph-like image, a kernel with no symmetry and rarely square, and the noisy target the two make.
The truth must not depend on what is measured: of kernelfit, nothing is used here but the look for a name.

``KERNELFIT_BENCH`` in the environment chooses the sizes: "small" to see that everything runs, "full" to see how it
grows; without it they are the ones whose history is kept.
"""

import os
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.signal
from numpy.typing import NDArray

import kernelfit

PROFILE = os.environ.get("KERNELFIT_BENCH", "")
if PROFILE not in ("", "small", "full"):
    msg = f"got KERNELFIT_BENCH={PROFILE!r}, need 'small', 'full' or nothing"
    raise ValueError(msg)
FULL, SMALL = PROFILE == "full", PROFILE == "small"


def by_profile(usual: list, small: list, full: list) -> list:
    """Return the parameters of the profile asked for."""
    return small if SMALL else full if FULL else usual


KERNELS = by_profile(["5x5", "9x15", "27x21"], ["3x5"], ["5x5", "9x15", "15x15", "31x27"])  # rows x columns
SIZES = by_profile([1024], [192], [512, 2048, 4096])  # rows of the image; columns are 3/4 of that
REPEATS, SECONDS = (3, 0.0) if SMALL else (15, 2.0)  # of a ratio: at least so many rounds, and for so long
CLOCK: Callable[[], float] = time.perf_counter  # of a ratio
NOISES = [0.0, 0.01]  # standard deviation of the noise over that of the noise-free target


@dataclass(frozen=True)
class Scene:
    """An image, the kernel, and the same-size target they make; beyond the image's edges lay zeros."""

    image: NDArray[np.float64]
    target: NDArray[np.float64]
    kernel: NDArray[np.float64]

    @property
    def pair(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Image and target."""
        return self.image, self.target

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


def im2col_lstsq(
    image: NDArray[np.float64], target: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the kernel the way it is found by hand: every patch a row of a matrix, then `numpy.linalg.lstsq`."""
    design, inner = im2col(image, target, shape)
    return np.linalg.lstsq(design, inner, rcond=None)[0].reshape(shape)


def im2col(
    image: NDArray[np.float64], target: NDArray[np.float64], shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the design matrix, (interior pixels, taps), and the interior of a same-size target."""
    windows = np.lib.stride_tricks.sliding_window_view(image, shape)
    top, left = shape[0] // 2, shape[1] // 2
    inner = target[top : top + windows.shape[0], left : left + windows.shape[1]]
    return windows[:, :, ::-1, ::-1].reshape(-1, shape[0] * shape[1]), inner.ravel()


def without_machine_code(folder: str | os.PathLike[str]) -> None:
    """Copy the package into a folder without the machine code beside its sources, which a first call would find."""
    home = os.path.dirname(kernelfit.__file__)
    shutil.copytree(home, os.path.join(folder, "kernelfit"), ignore=shutil.ignore_patterns("*.nbi", "*.nbc"))


def require(name: str) -> Any:
    """Return something public of kernelfit; an older version that lacks it gives "n/a", not a failure."""
    if not hasattr(kernelfit, name):
        msg = f"kernelfit {kernelfit.__version__} has no {name}"
        raise NotImplementedError(msg)
    return getattr(kernelfit, name)


def ratio_of_times(
    ours: Callable[[], object],
    yardstick: Callable[[], object],
    repeats: int | None = None,
    seconds: float | None = None,
) -> float:
    """Return the median of (seconds of `ours`) / (seconds of `yardstick`), run in turn.

    Taken in turn, both meet the same weather on a busy machine, so that the ratio means something where the times do
    not: each time of ours is divided by the mean of the yardstick's just before and just after. Each runs once
    beforehand, unmeasured; then both run at least `repeats` times and for `seconds` in all (`REPEATS`, `SECONDS`).
    """
    least = REPEATS if repeats is None else repeats
    end = time.perf_counter() + (SECONDS if seconds is None else seconds)
    ours()
    yardstick()
    ratios: list[float] = []
    before = _seconds(yardstick)
    while len(ratios) < least or time.perf_counter() < end:
        mine, after = _seconds(ours), _seconds(yardstick)
        ratios.append(2 * mine / (before + after))
        before = after
    return statistics.median(ratios)


def _seconds(work: Callable[[], object]) -> float:
    start = CLOCK()
    work()
    return CLOCK() - start
