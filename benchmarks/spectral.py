"""Print what ``method="wiener"`` costs, relative to one `scipy.fft.rfft2` of the image, and whether it is exact.

Run as ``python -m benchmarks.spectral [section ...] [--workers N] [--repeats N]``. Sections (default: all):

* time: find_kernel and accumulate_spectra at 4096^2, float64, 15x15, 1 % noise, whole and by blocks. Each is the
  median of ratios to R, one `scipy.fft.rfft2` of the image by as many threads, run just before it. Each run waits until
  threads of BLAS, which spin for a while after their last work, have gone to sleep.
* memory: the peak beyond the arrays given, in MiB, at two sizes.
* exact: the error of the kernel from periodic, noise-free data.

How near the kernels come to the best balance prints `benchmarks.balance`, how well `deconvolve` restores
`benchmarks.restoration`.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy.fft

import kernelfit

from .common import image_like_a_photograph, kernel_of_shape, relative_error
from .speed import run_apart

SIZE, SIDE = 4096, 15


def periodic_pair(size: int, side: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an image, what a kernel makes of it if the image repeats itself, with noise, and the kernel."""
    image, kernel = image_like_a_photograph(size, size), kernel_of_shape(f"{side}x{side}")
    target = kernelfit.apply_kernel(image, kernel, boundary="wrap")
    target += noise * target.std() * np.random.default_rng(1).standard_normal(target.shape)
    return image, target, kernel


def ratio_to(yardstick: Callable[[], object], work: Callable[[], object], repeats: int) -> float:
    """Return the median ratio of the seconds of two works, each after a rest."""

    def seconds(what: Callable[[], object]) -> float:
        time.sleep(0.1)
        start = time.perf_counter()
        what()
        return time.perf_counter() - start

    work()
    yardstick()
    pairs = [(seconds(yardstick), seconds(work)) for _ in range(repeats)]
    return statistics.median(ours / theirs for theirs, ours in pairs)


def times(workers: int, repeats: int) -> None:
    """Time the whole image and blocks."""
    image, target, _ = periodic_pair(SIZE, SIDE, 0.01)
    find, accumulate = kernelfit.find_kernel, kernelfit.accumulate_spectra
    works = {
        "find_kernel, periodic, whole": lambda: find(
            image, target, SIDE, method="wiener", boundary="wrap", workers=workers
        ),
        "find_kernel, boundary unknown, by blocks": lambda: find(image, target, SIDE, method="wiener", workers=workers),
        "accumulate_spectra, periodic, whole": lambda: accumulate(
            image, target, SIDE, boundary="wrap", workers=workers
        ),
        "accumulate_spectra, not periodic, whole": lambda: accumulate(image, target, SIDE, workers=workers),
        "accumulate_spectra, by blocks": lambda: accumulate(image, target, SIDE, block="auto", workers=workers),
    }
    for name, work in works.items():
        ratio = ratio_to(lambda: scipy.fft.rfft2(image, workers=workers), work, repeats)
        print(f"{name} / R at {SIZE}^2, {SIDE}x{SIDE}: {ratio:.2f}", flush=True)


def memory(workers: int, repeats: int) -> None:
    """Measure the peak memory in fresh, warm processes."""
    for name, keywords, sizes in (
        ("periodic, whole", 'boundary="wrap"', (2048, 4096)),
        ("by blocks", "", (4096, 8192)),
    ):
        for size in sizes:
            code = f"""
def call(image, target):
    return kernelfit.find_kernel(image, target, {SIDE}, method="wiener", workers={workers}, {keywords})
image = np.random.default_rng(0).random(({size}, {size}))
target = np.roll(image, 1, axis=1)
call(image[:300, :300], target[:300, :300])
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew
before = status("VmHWM")
call(image, target)
print(status("VmHWM") - before)
"""
            arrays = size**2 * 8 / 2**20
            peak = run_apart(code)[0]
            print(f"find_kernel, {name}, {size}^2: {peak:.0f} MiB ({peak / arrays:.2f} of the image)", flush=True)


def exact(workers: int, repeats: int) -> None:
    """Print the error where there is nothing to be in doubt about."""
    for size, side in ((512, 5), (512, 15), (512, 31), (SIZE, SIDE)):
        rng = np.random.default_rng(0)
        image, kernel = rng.random((size, size - 12)), kernel_of_shape(f"{side}x{side}")
        target = kernelfit.apply_kernel(image, kernel, boundary="wrap")
        fit = kernelfit.find_kernel(image, target, side, method="wiener", boundary="wrap", workers=workers)
        error = relative_error(fit.kernel, kernel)
        print(f"error, periodic and noise-free, {size}x{size - 12}, {side}x{side}: {error:.1e}")


SECTIONS: dict[str, Callable[[int, int], None]] = {"time": times, "memory": memory, "exact": exact}


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"got {', '.join(sorted(unknown))}, need one of {', '.join(SECTIONS)}")
    for name in options.sections or SECTIONS:
        SECTIONS[name](options.workers, options.repeats)


if __name__ == "__main__":
    main()
