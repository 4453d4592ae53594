"""Print one table, in Markdown, of kernelfit beside whatever else is installed that finds kernels.

    python -m benchmarks.peers [--size 384] [--kernel 9x15] [--noise 0.01] [--repeats 5]

All get the same pair, of which nobody knows what lay beyond its edges. `error` is |found - truth| / |truth|; `time` is
relative to `find_kernel`'s, the median of runs in turn, and `memory` to its peak beyond the libraries and the pair,
each in a process of its own; both may use all cores, and standard errors are counted for kernelfit alone. A peer with a
parameter gets the best of a grid, chosen against the truth, which no user could; only the run with it is timed.
Memory below 1 MiB counts as 1.
`pip install '.[peers]'` gets the peers; PyTorch only if it is there.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

import kernelfit

from .common import Scene, im2col, im2col_lstsq, make_scene, relative_error

GRID = 10.0 ** np.arange(-12, 3.1)  # of a peer's parameter
ITERATIONS = 300  # of LSQR, at most
PEERS: dict[str, tuple[tuple[str, ...], Callable]] = {}


def peer(name: str, *needs: str):
    """Enter a function of (image, target, shape, parameter) under its name, with the modules it imports."""

    def enter(work: Callable) -> Callable:
        PEERS[name] = (needs, work)
        return work

    return enter


def crop_center(field: np.ndarray, shape: tuple[int, int], zero: tuple[int, int]) -> np.ndarray:
    """Return the taps of a field whose lag zero lies at `zero`."""
    top, left = (z - (side - 1) // 2 for z, side in zip(zero, shape, strict=True))
    return field[top : top + shape[0], left : left + shape[1]]


@peer("kernelfit")
def ours(image, target, shape):
    """Exact least squares, with standard errors."""
    fit = kernelfit.find_kernel(image, target, shape)
    assert fit.stderr.shape == shape
    return fit.kernel


@peer('kernelfit, method="wiener"')
def ours_by_frequency(image, target, shape):
    """Wiener division: approximate, as all the divisions below are."""
    return kernelfit.find_kernel(image, target, shape, method="wiener").kernel


@peer("im2col + numpy.linalg.lstsq")
def by_lstsq(image, target, shape):
    """Every patch a row of a matrix."""
    return im2col_lstsq(image, target, shape)


@peer("im2col + Cholesky")
def by_cholesky(image, target, shape):
    """Solve the normal equations of that matrix."""
    design, inner = im2col(image, target, shape)
    return scipy.linalg.cho_solve(scipy.linalg.cho_factor(design.T @ design), design.T @ inner).reshape(shape)


@peer("scikit-image wiener, roles swapped", "skimage.restoration")
def by_skimage(image, target, shape, balance):
    """Restore the kernel from the target, as if the image were the blur; it wants one of mean zero."""
    from skimage.restoration import wiener

    found = wiener(target - target.mean(), image - image.mean(), balance * image.size * image.var(), clip=False)
    # Its transform puts the blur's centre, the image's, at lag zero; so the kernel comes out about the middle.
    return crop_center(found, shape, (image.shape[0] // 2, image.shape[1] // 2))


@peer("photutils make_wiener_kernel", "photutils.psf_matching")
def by_photutils(image, target, shape, regularization):
    """Match the image to the target as if they were point spread functions; it makes the sum one, as the truth's is."""
    from photutils.psf_matching import make_wiener_kernel

    rows, cols = ((n - 1) // 2 * 2 + 1 for n in image.shape)  # it insists on odd sides
    pair = (image[:rows, :cols], target[:rows, :cols])
    return crop_center(make_wiener_kernel(*pair, regularization=regularization), shape, (rows // 2, cols // 2))


@peer("pylops + LSQR", "pylops")
def by_pylops(image, target, shape):
    """Solve by iteration, with the convolution as an operator on the kernel and the interior of its result."""
    from pylops import Pad
    from pylops.signalprocessing import Convolve2D

    above, left = (side - 1 for side in shape)
    inner = (image.shape[0] - above, image.shape[1] - left)
    widen = Pad(shape, ((0, image.shape[0] - shape[0]), (0, image.shape[1] - shape[1])))
    operator = Pad(inner, ((above, 0), (left, 0))).H @ Convolve2D(image.shape, image, offset=(0, 0)) @ widen
    top, start = shape[0] // 2, shape[1] // 2
    used = target[top : top + inner[0], start : start + inner[1]]
    found = scipy.sparse.linalg.lsqr(operator, used.ravel(), atol=1e-9, btol=1e-9, iter_lim=ITERATIONS)
    return found[0].reshape(shape)


@peer("torch unfold + lstsq", "torch")
def by_torch(image, target, shape):
    """Take the patches and the solver of PyTorch."""
    import torch

    pixels = torch.from_numpy(image)[None, None]
    design = torch.nn.functional.unfold(pixels, shape)[0].T.flip(1)
    top, left = shape[0] // 2, shape[1] // 2
    inner = target[top : top + image.shape[0] - shape[0] + 1, left : left + image.shape[1] - shape[1] + 1]
    inner = torch.from_numpy(np.ascontiguousarray(inner)).reshape(-1, 1)
    return torch.linalg.lstsq(design, inner).solution.reshape(shape).numpy()


def missing(needs: tuple[str, ...]) -> str:
    """Return why modules cannot be imported, or nothing if they can."""
    for module in needs:
        try:
            importlib.import_module(module)
        except Exception as reason:  # noqa: BLE001 - a package for another NumPy fails in its own ways
            return f"{type(reason).__name__}: {reason}".splitlines()[0]
    return ""


def prepared(name: str, scene: Scene) -> tuple[Callable[[], np.ndarray], str]:
    """Return a peer's call for this scene, with its best parameter, and how to write that parameter."""
    needs, work = PEERS[name]
    if work.__code__.co_argcount == 3:
        return lambda: work(*scene.pair, scene.shape), ""
    errors = {value: relative_error(work(*scene.pair, scene.shape, value), scene.kernel) for value in GRID}
    best = min(errors, key=errors.__getitem__)
    return lambda: work(*scene.pair, scene.shape, best), f" ({work.__code__.co_varnames[3]} {best:.0e})"


def memory_of(name: str, options: argparse.Namespace) -> float:
    """Return by how many MiB a peer raises the peak memory of a fresh process that is warm; NaN where unknown."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return float("nan")
    code = """
import json, sys
import kernelfit
from benchmarks.common import make_scene
from benchmarks.peers import GRID, PEERS
name, kernel, size, noise = json.load(sys.stdin)
scene, small = make_scene(kernel, size, noise), make_scene("3x5", 96, noise)
work = PEERS[name][1]
for engine in ("direct", "fft"):
    kernelfit.find_kernel(*small.pair, small.shape, method=engine).stderr
value = (1e-3,) * (work.__code__.co_argcount - 3)
work(*small.pair, small.shape, *value)
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew
before = peak()
work(*scene.pair, scene.shape, *value)
print(peak() - before)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[1]), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([name, options.kernel, options.size, options.noise]),
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return max(float(done.stdout.splitlines()[-1]), 1.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=384, help="rows of the image; columns are three quarters of that")
    parser.add_argument("--kernel", default="9x15", help="rows x columns")
    parser.add_argument("--noise", type=float, default=0.01, help="relative to the target's deviation")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    scene = make_scene(options.kernel, options.size, options.noise)
    reference, _ = prepared("kernelfit", scene)
    reference()
    base = memory_of("kernelfit", options)
    rows, skipped = [], []
    for name, (needs, _) in PEERS.items():
        reason = missing(needs)
        if reason:
            skipped.append(f"{name}: skipped, {reason}")
            continue
        work, parameter = prepared(name, scene)
        error = relative_error(work(), scene.kernel)
        ratio = 1.0 if name == "kernelfit" else in_turn(work, reference, options.repeats)
        memory = base if name == "kernelfit" else memory_of(name, options)
        rows.append((name + parameter, f"{error:.2g}", f"{ratio:.3g}", f"{memory / base:.3g}"))
        print(f"{name} done", file=sys.stderr)
    columns = scene.image.shape[1]
    print(f"{options.size} x {columns} pixels, kernel {options.kernel}, noise {options.noise:.2g}; ", end="")
    seconds = statistics.median(timed(reference) for _ in range(5))
    print(f"kernelfit took {seconds * 1000:.0f} ms and {base:.0f} MiB\n")
    print("| | error | time | memory |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    for line in skipped:
        print(f"\n{line}")


def in_turn(work: Callable[[], object], reference: Callable[[], object], repeats: int, seconds: float = 20.0) -> float:
    """Return the median ratio of two times, in so many rounds or as many as begin within `seconds`; both are warm."""
    end = time.perf_counter() + seconds
    ratios: list[float] = []
    while len(ratios) < repeats and (not ratios or time.perf_counter() < end):
        before, its, after = timed(reference), timed(work), timed(reference)
        ratios.append(2 * its / (before + after))
    return statistics.median(ratios)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
