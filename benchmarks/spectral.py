"""Print what ``method="wiener"`` costs, relative to one `scipy.fft.rfft2` of the image, and whether it is exact.

Run as ``python -m benchmarks.spectral [section ...] [--workers N] [--repeats N]``. Sections (default: all):

* time: find_kernel and accumulate_spectra at 4096^2, float64, 15x15, 1 % noise, whole and by blocks. Each is the
  median of ratios to R, one `scipy.fft.rfft2` of the image by as many threads, run just before it. Each run waits until
  threads of BLAS, which spin for a while after their last work, have gone to sleep.
* memory: the peak beyond the arrays given, in MiB, of the process's own memory, mapped files left out.
* exact: the error of the kernel from periodic, noise-free data.
* start: whether conjugate gradients on kernels of thousands of taps gain by starting from the kernel of the division,
  of the whole image or of blocks: iterations to the same tolerance, and what division, pass and iteration take.

How near the kernels come to the best balance prints `benchmarks.balance`, how well `deconvolve` restores
`benchmarks.restoration`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import scipy.fft
import scipy.signal
from kernelfit.speed import run_apart
from skimage import data

import kernelfit
from kernelfit import Model
from kernelfit.data.observation import as_observation
from kernelfit.engines import implicit_gram
from kernelfit.engines.accumulation import Frame, pass_over
from kernelfit.solvers import conjugate_gradient

from .common import image_like_a_photograph, kernel_of_shape, relative_error

SIZE, SIDE = 4096, 15


def periodic_pair(size: int, side: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an image, what a kernel makes of it if the image repeats itself, with noise, and the kernel."""
    image, kernel = image_like_a_photograph(size, size), kernel_of_shape(f"{side}x{side}")
    target = kernelfit.apply_kernel(image, kernel, boundary="wrap")
    target += noise * target.std() * np.random.default_rng(1).standard_normal(target.shape)
    return image, target, kernel


def ratio_to(yardstick: Callable[[], object], work: Callable[[], object], repeats: int) -> float:
    """Return the median ratio of the seconds of two works, each after a rest."""

    def rested(what: Callable[[], object]) -> float:
        time.sleep(0.1)
        return seconds(what)

    work()
    yardstick()
    pairs = [(rested(yardstick), rested(work)) for _ in range(repeats)]
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


WATCH = """
import threading, time
def peak_beyond(call):
    \"\"\"Return by how many MiB a call raises the process's own memory, mapped files left out.\"\"\"
    seen, done = [], threading.Event()
    def watch():
        while not done.wait(0.002):
            seen.append(status("RssAnon"))
    before, watcher = status("RssAnon"), threading.Thread(target=watch)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return max(seen, default=before) - before
"""


def memory(workers: int, repeats: int) -> None:
    """Measure the peak memory in fresh, warm processes."""
    words = f"side, workers={workers}"
    find, accumulate = "kernelfit.find_kernel(image, target, {})", "kernelfit.accumulate_spectra(image, target, {})"
    works = (
        ("find_kernel, periodic, whole", find.format(f'{words}, method="wiener", boundary="wrap"'), (2048, 4096)),
        ("find_kernel, by blocks", find.format(f'{words}, method="wiener"'), (4096, 8192, 16384)),
        ("accumulate_spectra, by blocks", accumulate.format(f'{words}, block="auto"'), (4096, 8192, 16384)),
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, call, sizes in works:
            for size in sizes:
                mapped = size > 8192
                code = f"""
{WATCH}
def make(name, shift):
    file = np.lib.format.open_memmap({folder!r} + name, mode="w+", dtype=np.float32, shape=({size}, {size}))
    for row in range(0, {size}, 512):
        some = np.random.default_rng(row).random((512, {size}), dtype=np.float32)
        file[row : row + 512] = np.roll(some, shift, axis=1)
    return np.load({folder!r} + name, mmap_mode="r")
if {mapped}:
    image, target = make("/image.npy", 0), make("/target.npy", 1)
else:
    image = np.random.default_rng(0).random(({size}, {size}))
    target = np.roll(image, 1, axis=1)
def work(image, target, side):
    {call}
work(image[:1100, :1100], target[:1100, :1100], {2 * SIDE})  # other blocks: buffers are kept, and should count
print(peak_beyond(lambda: work(image, target, {SIDE})))
"""
                peak, kind = run_apart(code)[0], "float32 from files" if mapped else "float64"
                print(f"{name}, {size}^2 {kind}: {peak:.0f} MiB beyond the images", flush=True)


def exact(workers: int, repeats: int) -> None:
    """Print the error where there is nothing to be in doubt about."""
    for size, side in ((512, 5), (512, 15), (512, 31), (SIZE, SIDE)):
        rng = np.random.default_rng(0)
        image, kernel = rng.random((size, size - 12)), kernel_of_shape(f"{side}x{side}")
        target = kernelfit.apply_kernel(image, kernel, boundary="wrap")
        fit = kernelfit.find_kernel(image, target, side, method="wiener", boundary="wrap", workers=workers)
        error = relative_error(fit.kernel, kernel)
        print(f"error, periodic and noise-free, {size}x{size - 12}, {side}x{side}: {error:.1e}")


def seconds(work: Callable[[], object]) -> float:
    """Time a work once."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def start(workers: int, repeats: int) -> None:
    """Count the iterations from a start of zero and from that of the division."""
    images = {
        "camera": data.camera().astype(float),
        "like a photograph": image_like_a_photograph(1024, 900),
        "white": np.random.default_rng(0).normal(size=(512, 480)),
    }
    print("image, kernel, noise: iterations from 0, whole, blocks; ms: pass, iteration, whole, blocks")
    for name, image in images.items():
        for side in (63, 127):
            kernel = kernel_of_shape(f"{side}x{side - 2}")
            target = scipy.signal.fftconvolve(image, kernel, mode="valid")
            for noise in (0.0, 0.01):
                target += noise * target.std() * np.random.default_rng(1).normal(size=target.shape)
                counts, times = starts(image, target, kernel.shape, workers, repeats)
                print(
                    f"{name}, {side}x{side - 2}, {noise:.0%}: {', '.join(map(str, counts))};",
                    ", ".join(f"{1e3 * t:.1f}" for t in times),
                    flush=True,
                )


def starts(
    image: np.ndarray, target: np.ndarray, shape: tuple[int, int], workers: int, repeats: int
) -> tuple[list[int], list[float]]:
    """Return the iterations from each start, and the seconds of a pass, an iteration, and each division."""
    words = dict(mode=None, boundary=None, fillvalue=0.0, origin=None, operation="convolution")
    observation = as_observation(image, target, Model(shape, **words))
    frame = Frame.of(observation)
    sums, _ = pass_over(observation, frame, "fft", workers, None, None)
    moment, energy = sums.moment[0, 0], float(sums.energy[0])
    operator = implicit_gram.NormalOperator(frame, sums.lags[0, 0], workers)
    inverse = implicit_gram.TorusInverse(sums.lags)

    def about(taps: np.ndarray) -> np.ndarray:
        return inverse(taps[None])[0]

    def divide(block: str | None) -> np.ndarray:
        stats = kernelfit.accumulate_spectra(image, target, shape, block=block, workers=workers)
        return frame.from_user(stats.solve(workers=workers).kernel[None])[0]

    counts = []
    for first in (np.zeros_like(moment), divide(None), divide("auto")):
        rest = moment - operator(first)
        left = energy - float((first * (moment + rest)).sum())
        rule = conjugate_gradient.stop_rule(left, rest, observation.geometry.n_pixels, conjugate_gradient.TOLERANCE)
        counts.append(conjugate_gradient.conjugate_gradients(lambda k, _: operator(k), about, rest, rule).count)
    works = [lambda: pass_over(observation, frame, "fft", workers, None, None), lambda: operator(moment)]
    works += [lambda: divide(None), lambda: divide("auto")]
    return counts, [statistics.median(seconds(work) for _ in range(repeats)) for work in works]


SECTIONS: dict[str, Callable[[int, int], None]] = {"time": times, "memory": memory, "exact": exact, "start": start}


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
