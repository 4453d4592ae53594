"""Print how long it takes to find a kernel, relative to what it takes to apply one.

    python -m benchmarks.speed [section ...] [--workers N] [--repeats N]

Sections: kernels, stages, statistics, large, lstsq, memory, growth, signal, stride (default: all). Every ratio is the
median of runs in turn of both sides with the same number of threads (SciPy's transforms by `scipy.fft.set_workers`; for
one thread of BLAS as well, set OPENBLAS_NUM_THREADS=1). The yardsticks: F is
`scipy.signal.fftconvolve(image, kernel, mode="same")` on the same arrays, R is one `scipy.fft.rfft2(image)`.
"""

import argparse
import contextlib
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
import scipy.signal

import kernelfit

from .common import image_like_a_photograph, kernel_of_shape, relative_error

SIDES = (3, 5, 7, 11, 15, 21, 31)


def in_turn(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median seconds of the first, and of the others the median ratio to it in the same round."""
    times = []
    for round_ in range(repeats + 1):
        row = []
        for work in works:
            start = time.perf_counter()
            work()
            row.append(time.perf_counter() - start)
        if round_:
            times.append(row)
    first = statistics.median(row[0] for row in times)
    return [first] + [statistics.median(row[i] / row[0] for row in times) for i in range(1, len(works))]


def square_scene(size: int, side: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an image, a kernel, and the target with this relative noise."""
    image = image_like_a_photograph(size, size)
    kernel = kernel_of_shape(f"{side}x{side}")
    target = scipy.signal.fftconvolve(image, kernel, mode="same")
    target += noise * target.std() * np.random.default_rng(1).standard_normal(target.shape)
    return image, target, kernel


def cell(size: int, side: int, workers: int, repeats: int) -> None:
    """Print F, find_kernel / F with 1 % noise and noise-free, both kernels' errors, their passes, and the engine."""
    image, clean, kernel = square_scene(size, side, 0.0)
    noisy = square_scene(size, side, 0.01)[1]
    ours = [lambda t=t: kernelfit.find_kernel(image, t, side, workers=workers) for t in (noisy, clean)]
    with scipy.fft.set_workers(workers):
        times = in_turn(
            [
                lambda: scipy.signal.fftconvolve(image, kernel, mode="same"),
                lambda: ours[0]().stderr,
                lambda: ours[1]().stderr,
            ],
            repeats,
        )
    fits = [find() for find in ours]
    errors = [relative_error(fit.kernel, kernel) for fit in fits]
    print(*times, *errors, *(1 + fit.refined for fit in fits), ("direct", "fft").index(fits[0].method))


def kernels(workers: int, repeats: int) -> None:
    """Time the whole of find_kernel, standard errors included.

    Each pair in three processes of its own: F differs threefold with what a process has left of its memory, so that the
    order of the sizes would decide.
    """
    print("find_kernel / F         1 % noise           noise-free      (kernel error; passes)")
    for size in (1024, 2048, 4096):
        for side in SIDES:
            runs = [run_apart(f"cell({size}, {side}, {workers}, {repeats})") for _ in range(3)]
            numbers = [statistics.median(column) for column in zip(*runs, strict=True)]
            seconds, with_noise, without, *errors = numbers[:5]
            parts = [f"({e:.1e}; {n:.0f})" for e, n in zip(errors, numbers[5:7], strict=True)]
            print(
                f"{size:5d}^2 {side:2d}x{side:<2d} {('direct', 'fft')[int(numbers[7])]:6s}"
                f" {with_noise:6.3f} {parts[0]}   {without:6.3f} {parts[1]}   F = {seconds:.3f} s",
                flush=True,
            )


def stages(workers: int, repeats: int) -> None:
    """Print what one core spends on each stage of a fit of 31 x 31 taps, some of them within others."""
    from kernelfit.compiled import dense
    from kernelfit.diagnostics import tiles
    from kernelfit.fitting import equations, pipeline
    from kernelfit.solvers import cholesky

    own: dict[str, tuple[Any, str]] = {
        "statistics": (equations, "statistics"),
        "factor, inverse": (cholesky, "_made"),
        "condition": (dense, "condition"),
        "minimum": (equations, "least_squares"),
        "second pass": (equations, "residual_moments"),
        "looks": (pipeline, "diagnosed"),
        "of them tiles": (tiles, "read"),
        "of them misfits": (pipeline, "misfits"),
    }
    for size, noise in ((1024, 0.01), (1024, 0.0), (2048, 0.01), (2048, 0.0)):
        image, target, kernel = square_scene(size, 31, noise)
        rows: list[dict[str, float]] = []

        def timed(name: str, work: Callable[..., Any], *args: Any, rows: Any = rows, **kwargs: Any) -> Any:
            start = time.process_time()
            made = work(*args, **kwargs)
            rows[-1][name] = rows[-1].get(name, 0.0) + time.process_time() - start
            return made

        with contextlib.ExitStack() as stack:
            for name, (module, function) in own.items():
                work = functools.partial(timed, name, getattr(module, function))
                stack.enter_context(unittest.mock.patch.object(module, function, work))
            for _ in range(repeats + 1):
                rows.append({})
                timed("whole", lambda i=image, t=target: kernelfit.find_kernel(i, t, 31, workers=1).stderr)
                with scipy.fft.set_workers(1):
                    timed("F", scipy.signal.fftconvolve, image, kernel, mode="same")
        found = {name: statistics.median(row.get(name, 0.0) for row in rows[1:]) for name in ("F", "whole", *own)}
        told = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in found.items() if seconds)
        print(f"ms of one core, 31x31 at {size}^2, noise {noise:.0%}: {told}", flush=True)


def statistics_pass(workers: int, repeats: int) -> None:
    """Time the statistics alone, and those of the direct engine on one thread."""
    image, target, _ = square_scene(4096, 15, 0.01)
    seconds, ratio = in_turn(
        [
            lambda: scipy.fft.rfft2(image),
            lambda: kernelfit.accumulate(image, target, 15, workers=workers),
        ],
        repeats,
    )
    print(f"accumulate / R at 4096^2, 15x15: {ratio:.2f}   R = {seconds:.3f} s", flush=True)
    for side in (5, 15):
        image, target, kernel = square_scene(2048, side, 0.01)
        with scipy.fft.set_workers(1):
            seconds, ratio = in_turn(
                [
                    lambda i=image, k=kernel: scipy.signal.fftconvolve(i, k, mode="same"),
                    lambda i=image, t=target, s=side: kernelfit.accumulate(i, t, s, method="direct", workers=1),
                ],
                repeats,
            )
        print(
            f"accumulate, direct, one thread / F at 2048^2, {side}x{side}: {ratio:.2f}   F = {seconds:.3f} s",
            flush=True,
        )


def large(workers: int, repeats: int) -> None:
    """Time kernels of thousands of taps."""
    for size, side in ((2048, 63), (4096, 127)):
        image, target, kernel = square_scene(size, side, 0.01)
        seconds, ratio = in_turn(
            [
                lambda i=image, k=kernel: scipy.signal.fftconvolve(i, k, mode="same"),
                lambda i=image, t=target, s=side: kernelfit.find_kernel(i, t, s, workers=workers).stderr,
            ],
            max(2, repeats // 2),
        )
        fit = kernelfit.find_kernel(image, target, side, workers=workers)
        print(
            f"find_kernel / F at {size}^2, {side}x{side}: {ratio:.2f}   F = {seconds:.3f} s"
            f"   {fit.method}, {fit.iterations} iterations, kernel error {relative_error(fit.kernel, kernel):.1e}",
            flush=True,
        )


def im2col_lstsq(image: np.ndarray, target: np.ndarray, side: int) -> np.ndarray:
    """Return the kernel the way it is found today."""
    half = side // 2
    windows = np.lib.stride_tricks.sliding_window_view(image, (side, side))
    design = windows.reshape(-1, side * side)[:, ::-1]
    inner = target[half : half + windows.shape[0], half : half + windows.shape[1]]
    return np.linalg.lstsq(design, inner.ravel(), rcond=None)[0].reshape(side, side)


def lstsq(workers: int, repeats: int) -> None:
    """Compare with im2col and numpy.linalg.lstsq: time, peak memory beyond the inputs, error."""
    image, target, kernel = square_scene(1024, 15, 0.01)
    ours = lambda: kernelfit.find_kernel(image, target, 15, workers=workers)  # noqa: E731
    ours()
    seconds, ratio = in_turn([ours, lambda: im2col_lstsq(image, target, 15)], 2)
    errors = [relative_error(k, kernel) for k in (ours().kernel, im2col_lstsq(image, target, 15))]
    peaks = [peak_of(f"{name}(*scene[:2], 15)") for name in ("kernelfit.find_kernel", "im2col_lstsq")]
    print(
        f"im2col + lstsq at 1024^2, 15x15: {ratio:.0f} times our time ({seconds:.3f} s), "
        f"{peaks[1] / peaks[0]:.0f} times our memory ({peaks[0]:.0f} MiB), "
        f"error {errors[1]:.2e} (ours {errors[0]:.2e})",
        flush=True,
    )


def run_apart(code: str) -> list[float]:
    """Run code in a fresh process; return the numbers that it prints. `peak()` is its peak memory so far in MiB."""
    prelude = f"""
import resource, sys
import numpy as np
sys.path.insert(0, {os.path.dirname(os.path.dirname(os.path.abspath(__file__)))!r})
from benchmarks.speed import *
def status(*names):
    with open("/proc/self/status") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(names)) / 1024
"""
    done = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def peak_of(call: str) -> float:
    """Return by how many MiB a call raises the peak memory of a process that is warm."""
    code = f"""
small = square_scene(256, 15, 0.01)
kernelfit.find_kernel(*small[:2], 15).stderr
im2col_lstsq(small[0][:64, :64], small[1][:64, :64], 5)
scene = square_scene(1024, 15, 0.01)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew
before = status("VmHWM")
{call}
print(status("VmHWM") - before)
"""
    return max(run_apart(code)[0], 1.0)


def memory(workers: int, repeats: int) -> None:
    """Read pairs from files in processes that may take 400 MiB of address space beyond the mapped files."""
    with tempfile.TemporaryDirectory() as folder:
        for size, dtype, sides in ((8192, "uint8", (5, 15)), (16384, "float32", (15, 31))):
            names = [os.path.join(folder, f"{name}{size}.npy") for name in ("image", "target")]
            rng = np.random.default_rng(0)
            for name in names:
                file = np.lib.format.open_memmap(name, mode="w+", dtype=dtype, shape=(size, size))
                for row in range(0, size, 512):
                    file[row : row + 512] = rng.integers(0, 256, (512, size), dtype=np.uint8)
                file.flush()
                del file
            for side in sides:
                code = f"""
small = np.random.default_rng(0).random((2, 300, 300))
kernelfit.find_kernel(*small, {side}).stderr
pair = [np.load(name, mmap_mode="r") for name in {names!r}]
limit = int((status("VmSize") + 400) * 2**20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before, peak = status("RssAnon", "VmSwap"), 0.0
def watch(*_):
    global peak
    peak = max(peak, status("RssAnon", "VmSwap"))
fit = kernelfit.find_kernel(*pair, {side}, workers={workers}, progress=watch)
fit.stderr
watch()
print(peak - before)
"""
                print(f"{size}^2 {dtype} memmap, {side}x{side}: {run_apart(code)[0]:.0f} MiB", flush=True)
            for name in names:
                os.unlink(name)


def growth(workers: int, repeats: int, figure: str | None = None) -> None:
    """Print the time per pixel against the size, and the time against the side of the kernel."""
    for threads in sorted({1, workers}):
        rows = []
        for size in (512, 1024, 2048, 4096, 8192):
            image, target, _ = square_scene(size, 15, 0.01)
            work = lambda i=image, t=target, n=threads: kernelfit.accumulate(i, t, 15, workers=n)  # noqa: E731
            rounds = repeats * max(1, 2**22 // size**2)  # as many pixels of each, at least
            rows.append((size, in_turn([work], rounds)[0] / size**2 * 1e9))
        least = min(ns for _, ns in rows)
        told = ", ".join(f"{size}^2 {ns:.1f} ({ns / least:.2f})" for size, ns in rows)
        print(f"ns per pixel at 15x15, threads: {threads}: {told}", flush=True)
    image = image_like_a_photograph(2048, 2048)
    times = []
    for side in (3, 5, 7, 9, 11, 15, 21, 31, 45, 63):
        target = scipy.signal.fftconvolve(image, kernel_of_shape(f"{side}x{side}"), mode="same")
        target += 0.01 * target.std() * np.random.default_rng(1).standard_normal(target.shape)
        work = lambda t=target, s=side: kernelfit.find_kernel(image, t, s, workers=workers).stderr  # noqa: E731
        kernel = kernel_of_shape(f"{side}x{side}")
        yardstick = lambda k=kernel: scipy.signal.fftconvolve(image, k, mode="same")  # noqa: E731
        times.append((side, in_turn([yardstick, work], repeats)[1]))
    print("find_kernel / F at 2048^2: " + ", ".join(f"{side}: {ratio:.3f}" for side, ratio in times), flush=True)
    if figure is not None:
        plot_against_side(times, figure)


def plot_against_side(times: list[tuple[int, float]], figure: str) -> None:
    """Draw the time against the side of the kernel."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sides, ratios = zip(*times, strict=True)
    picture, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.plot(sides, ratios, "o-", color="tab:blue")
    axes.axhline(1, color="0.6", linewidth=1)
    axes.text(sides[0], 1, "applying the kernel once (fftconvolve)", va="bottom", color="0.4", fontsize=9)
    axes.set(xscale="log", yscale="log", xlabel="side of the kernel", ylabel="time to find it / time to apply it")
    axes.set_xticks(sides, [str(s) for s in sides], minor=False)
    axes.set_yticks(kept := [y for y in (0.1, 0.2, 0.5, 1, 2, 5) if min(ratios) / 1.5 < y < max(ratios) * 1.5], kept)
    axes.minorticks_off()
    axes.set_title("2048 x 2048 pixels, 1 % noise, error bars included", fontsize=10)
    picture.savefig(figure, dpi=120)


def cpu(work: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def signal(workers: int, repeats: int) -> None:
    """Time a signal of ten million samples and a kernel of 1001."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 10**7))
    kernel = rng.standard_normal((1, 1001))
    target = scipy.signal.oaconvolve(image, kernel, mode="same") + rng.standard_normal(image.shape)
    works = [
        lambda: scipy.signal.oaconvolve(image, kernel, mode="same"),
        lambda: kernelfit.find_kernel(image, target, (1, 1001), workers=workers).stderr,
    ]
    seconds, ratio = in_turn(works, repeats)
    print(f"find_kernel / oaconvolve, 10^7 samples, 1001 taps: {ratio:.2f}   oaconvolve = {seconds:.3f} s", flush=True)
    used = np.array([[cpu(work) for work in works] for _ in range(repeats)])
    print(f"in processor time: {np.median(used[:, 1] / used[:, 0]):.2f}", flush=True)


def stride(workers: int, repeats: int) -> None:
    """Time kernels of 12 x 12 of downsampled images, against the filtering and the slice that made them."""
    image, whole, kernel = square_scene(2048, 12, 0.0)

    def ratios(step: int) -> list[float]:
        place = slice(step // 2, None, step)
        kept = {"stride": step, "offset": step // 2, "workers": workers}
        clean = np.ascontiguousarray(whole[place, place])
        noisy = clean + 0.01 * clean.std() * np.random.default_rng(1).standard_normal(clean.shape)
        return in_turn(
            [
                lambda: scipy.signal.fftconvolve(image, kernel, mode="same")[place, place],
                lambda: kernelfit.find_kernel(image, noisy, 12, **kept).stderr,
                lambda: kernelfit.find_kernel(image, clean, 12, **kept).stderr,
                lambda: kernelfit.accumulate(image, noisy, 12, **kept),
                lambda: kernelfit.apply_kernel(image, kernel, **kept),
            ],
            repeats,
        )

    print("stride at 2048^2, 12 x 12 taps, / F: find_kernel with 1 % noise, noise-free; accumulate; apply_kernel")
    for step in (1, 2, 4):
        seconds, *found = ratios(step)
        print(f"{step:10}   {'  '.join(f'{ratio:6.2f}' for ratio in found)}   F = {seconds:.3f} s", flush=True)


SECTIONS: dict[str, Callable[..., None]] = {
    "kernels": kernels,
    "stages": stages,
    "statistics": statistics_pass,
    "large": large,
    "lstsq": lstsq,
    "memory": memory,
    "growth": growth,
    "signal": signal,
    "stride": stride,
}


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--figure", help="file for the plot of section growth (needs matplotlib)")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"got {', '.join(sorted(unknown))}, need one of {', '.join(SECTIONS)}")
    print(f"{options.workers} threads on each side, medians of {options.repeats} rounds")
    with scipy.fft.set_workers(options.workers):
        for name in options.sections or SECTIONS:
            more = {"figure": options.figure} if name == "growth" else {}
            SECTIONS[name](options.workers, options.repeats, **more)


if __name__ == "__main__":
    main()
