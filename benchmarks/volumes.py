"""Volumes: the time of a fit beside that of one `scipy.signal.fftconvolve`, in turn, its memory, and coverage.

python -m benchmarks.volumes          the times
python -m benchmarks.volumes memory   memory beyond the input, of memory-mapped volumes
python -m benchmarks.volumes errors   share of the taps inside their intervals, and false alarms
"""

import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import scipy.signal

import kernelfit

_CASES = [((96, 256, 256), (9, 9, 9)), ((64, 128, 128), (5, 5, 5)), ((32, 512, 512), (3, 7, 7))]


def pair(shape, kernel, seed=0):
    """Return a volume of noise, a kernel, and what it makes, with one per cent of noise, in single precision."""
    rng = np.random.default_rng(seed)
    image, taps = rng.random(shape, dtype=np.float32), rng.random(kernel, dtype=np.float32)
    taps /= taps.sum()
    target = scipy.signal.fftconvolve(image, taps, mode="same")
    target += 0.01 * target.std() * rng.standard_normal(shape, dtype=np.float32)
    return image, taps, target


def times(rounds=5):
    """Print the ratio of a fit to a convolution, both the quickest of some rounds in turn."""
    print("volume           kernel   fftconvolve   find_kernel   ratio   CPU ratio")
    for shape, kernel in _CASES:
        image, taps, target = pair(shape, kernel)
        kernelfit.find_kernel(image[:16, :64, :64], target[:16, :64, :64], kernel, boundary="fill")
        found = {}
        for _ in range(rounds):
            for name, call in (
                ("scipy", lambda: scipy.signal.fftconvolve(image, taps, mode="same")),  # noqa: B023
                ("fit", lambda: kernelfit.find_kernel(image, target, taps.shape, boundary="fill")),  # noqa: B023
            ):
                wall, cpu = time.perf_counter(), time.process_time()
                call()
                found.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - cpu))
        (one, one_cpu), (fit, fit_cpu) = (np.min(found[name], axis=0) for name in ("scipy", "fit"))
        sides = "x".join(map(str, shape)), "x".join(map(str, kernel))
        print(f"{sides[0]:16} {sides[1]:8} {one:9.3f} s {fit:11.3f} s {fit / one:7.2f} {fit_cpu / one_cpu:9.2f}")


def memory(shape=(512, 512, 128), kernel=(9, 9, 9)):
    """Print the anonymous memory of the process at its largest, less that before (Linux)."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        names = [Path(folder) / f"{name}.npy" for name in ("image", "target")]
        arrays = [np.lib.format.open_memmap(name, "w+", np.float32, shape) for name in names]
        for z in range(shape[0]):
            arrays[0][z] = rng.random(shape[1:], dtype=np.float32)
            arrays[1][z] = 0.5 * arrays[0][z] + 0.5 * arrays[0][z - 1] + 0.01 * rng.standard_normal(shape[1:])
        del arrays
        image, target = (np.load(name, mmap_mode="r") for name in names)
        kernelfit.find_kernel(image[:16, :64, :64], target[:16, :64, :64], kernel)
        before, most, done = _anonymous(), [0], threading.Event()

        def watch():
            while not done.wait(0.01):
                most[0] = max(most[0], _anonymous())

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        kernelfit.find_kernel(image, target, kernel)
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
        sides = "x".join(map(str, shape)), "x".join(map(str, kernel))
        print(f"{sides[0]}, {sides[1]}: {seconds:.1f} s, {(most[0] - before) / 2**20:.0f} MiB beyond the input")


def _anonymous():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines["RssAnon"].split()[0])


def errors(rounds=200):
    """Print coverage and false alarms over random volumes of every boundary."""
    inside, alarms = [], {}
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        image, taps = rng.normal(size=(10 + seed % 9, 32, 40)), rng.normal(size=(3, 3, 4))
        boundary = ("fill", "symm", "wrap", "mirror", "nearest")[seed % 5]
        target = kernelfit.apply_kernel(image, taps, boundary=boundary)
        target += 0.1 * target.std() * rng.standard_normal(target.shape)
        fit = kernelfit.find_kernel(image, target, taps.shape, boundary=boundary, background=(None, 0)[seed % 2])
        low, high = fit.confidence()
        inside.append(np.mean((low < taps) & (taps < high)))
        for finding in fit.findings:
            alarms[finding.verdict.name] = alarms.get(finding.verdict.name, 0) + 1
    print(f"{rounds} volumes: coverage of 95 % intervals {100 * np.mean(inside):.1f} %, alarms {alarms or 0}")


if __name__ == "__main__":
    {"memory": memory, "errors": errors}.get((*sys.argv[1:], "")[0], times)()
