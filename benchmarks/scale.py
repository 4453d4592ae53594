"""Pairs larger than memory, and larger than one process: python -m benchmarks.scale [section ...].

Sections: `rate` (the streamed rate against the one in memory), `memory` (32768 x 32768 in Zarr: peak memory, rate),
`find` (the rate of `find_kernel` from 20000 x 20000 in Zarr against the one in memory, and its peak memory),
`resume` (killed at ten random moments), `maps` (a kernel for each of 16 x 16 tiles against a single one), `planning` (a
graph of expressions of 65536 x 65536, on the client), `reads` (how often each chunk of stored arrays is decoded),
`again` (the same of fits that need the pixels several times). Files go to a folder of their own that is removed.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

import kernelfit
from benchmarks.common import image_like_a_photograph, kernel_of_shape
from kernelfit.data import chunked

SIDE = 15
#: Of the Zarr arrays: None, "auto" for Zarr's own choice, Zstandard, which takes about half as long over noise as the
#: fit, or "blosc" for Blosc with LZ4 and its bytes sorted, which takes less.
CODEC: str | None = None
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def make_store(folder: str, size: int, chunk: int = 1024) -> list[str]:
    """Write a pair of size x size uint16 to Zarr, tile by tile; return the two paths.

    The image is what a camera of 12 bits records: a photograph-like scene of 2048 +- 640 with noise of 32, repeated
    every 4096 pixels; the target is the image under a kernel, with noise of 20 that does not repeat. So the low bits
    are noise, which no codec compresses.
    """
    import scipy.fft
    import zarr
    import zarr.codecs

    kind = f"{size}_{chunk}_{CODEC or 'plain'}"
    names = [os.path.join(folder, f"{name}{kind}.zarr") for name in ("image", "target")]
    if os.path.exists(names[0]):
        return names
    codec = zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle") if CODEC == "blosc" else CODEC
    how = {"shape": (size, size), "dtype": "uint16", "chunks": (chunk, chunk), "compressors": codec}
    stores = [zarr.create_array(name, **how) for name in names]
    side = min(size, 4096)
    rng = np.random.default_rng(0)
    image = 16 * image_like_a_photograph(side, side) + 32 * rng.standard_normal((side, side))
    image = np.clip(np.round(image), 0, 4095)
    kernel = np.zeros_like(image)
    kernel[:SIDE, :SIDE] = kernel_of_shape(f"{SIDE}x{SIDE}")
    kernel = np.roll(kernel, (-(SIDE // 2), -(SIDE // 2)), (0, 1))
    with scipy.fft.set_workers(2):
        clean = scipy.fft.irfft2(scipy.fft.rfft2(image) * scipy.fft.rfft2(kernel), image.shape).astype(np.float32)
    pixels = image.astype(np.uint16)
    for row in range(0, size, side):
        for col in range(0, size, side):
            own = (slice(min(side, size - row)), slice(min(side, size - col)))
            place = (slice(row, row + own[0].stop), slice(col, col + own[1].stop))
            noise = 20 * rng.standard_normal(clean.shape, dtype=np.float32)
            stores[0][place] = pixels[own]
            stores[1][place] = np.clip(np.round(clean + noise), 0, 65535).astype(np.uint16)[own]
    return names


def median_ratio(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the median of ours / theirs, run in turn after one round that does not count; and theirs in seconds."""
    ours(), theirs()
    ratios, seconds = [], []
    for _ in range(repeats):
        times = []
        for work in (ours, theirs):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
        seconds.append(times[1])
    return statistics.median(ratios), statistics.median(seconds)


def rate(folder: str, repeats: int, size: int) -> None:
    """Print the rate of every way to read a pair, relative to arrays in memory."""
    import zarr

    names = make_store(folder, 4096)
    stores = [zarr.open_array(name, mode="r") for name in names]
    arrays = [np.asarray(s[...]) for s in stores]
    memory = lambda: kernelfit.accumulate(*arrays, SIDE)  # noqa: E731
    ways: dict[str, Callable[[], object]] = {
        "streamed, in memory": lambda: kernelfit.accumulate_stream([tuple(arrays)], SIDE),
        "accumulate, Zarr": lambda: kernelfit.accumulate(*stores, SIDE),
        "streamed, Zarr": lambda: kernelfit.accumulate_stream([tuple(stores)], SIDE),
    }
    for name, work in ways.items():
        ratio, seconds = median_ratio(memory, work, repeats)
        print(f"{name}: {ratio:.2f} of the rate in memory ({4096**2 / seconds / 1e6:.0f} Mpixel/s)", flush=True)
    if CODEC is not None:
        share, _ = median_ratio(memory, lambda: decoded(names), repeats)
        print(
            f"the codec alone would leave {1 / (1 + 1 / share):.2f} of the rate in memory, on as many cores", flush=True
        )


def decoded(names: list[str]) -> None:
    """Decode all chunks into one buffer for each processor, and do nothing with them."""
    from concurrent.futures import ThreadPoolExecutor

    import numcodecs

    codec = numcodecs.get_codec({"id": "blosc" if CODEC == "blosc" else "zstd"})
    files = [
        os.path.join(at, file) for name in names for at, _, own in os.walk(os.path.join(name, "c")) for file in own
    ]
    n = kernelfit.data.observation.as_workers(None)

    def decode(first: int) -> None:
        out = np.empty(2 * 1024**2, np.uint8)
        for file in files[first::n]:
            with open(file, "rb") as packed:
                codec.decode(packed.read(), out)

    with ThreadPoolExecutor(n) as pool:
        list(pool.map(decode, range(n)))


STREAM = """
import json, resource, sys, time
import numpy as np, zarr, kernelfit
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
names, side, checkpoint = json.loads(sys.argv[1])
stores = [zarr.open_array(name, mode="r") for name in names]
small = [np.asarray(s[:4096, :4096]) for s in stores]
kernelfit.accumulate(small[0][:600, :600], small[1][:600, :600], side)
memory = []
for _ in range(3):
    start = time.perf_counter()
    kernelfit.accumulate(*small, side)
    memory.append(small[0].size / (time.perf_counter() - start))
del small
start = time.perf_counter()
stats = kernelfit.accumulate_stream([tuple(stores)], side, checkpoint=checkpoint)
seconds = time.perf_counter() - start
fit = stats.solve()
print(json.dumps([peak(), stats.n_pixels / seconds, sorted(memory)[1], fit.noise_std, seconds, fit.kernel.tolist()]))
"""


def memory(folder: str, repeats: int, size: int) -> None:
    """Fit a large pair in a fresh process; print its peak memory and rate."""
    start = time.perf_counter()
    names = make_store(folder, size)
    print(f"written in {time.perf_counter() - start:.0f} s", flush=True)
    checkpoint = os.path.join(folder, "sums.npz")
    if os.path.exists(checkpoint):
        os.unlink(checkpoint)
    call = json.dumps([names, SIDE, checkpoint])
    done = subprocess.run([sys.executable, "-c", STREAM, call], capture_output=True, text=True, check=True, cwd=ROOT)
    peak, streamed, inside, noise, seconds, kernel = json.loads(done.stdout)
    truth = kernel_of_shape(f"{SIDE}x{SIDE}")
    error = np.linalg.norm(np.array(kernel) - truth) / np.linalg.norm(truth)
    print(
        f"{size} x {size} uint16 in Zarr, {SIDE} x {SIDE}: peak {peak:.0f} MiB in all, {seconds:.0f} s, "
        f"{streamed / 1e6:.1f} Mpixel/s, {streamed / inside:.2f} of the rate in memory at 4096^2; noise {noise:.2f}, "
        f"kernel error {error:.1e}",
        flush=True,
    )


FIND = """
import json, sys, threading, time
import zarr, kernelfit
names, side = json.loads(sys.argv[1])
stores = [zarr.open_array(name, mode="r") for name in names]
def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024
def watch():
    while not over:
        seen.append(anonymous())
        time.sleep(0.005)
start, over, seen = anonymous(), [], []
some = stores[0][:600, :600]
kernelfit.find_kernel(some, some, side)
before = anonymous()
watcher = threading.Thread(target=watch)
watcher.start()
verdict = kernelfit.find_kernel(*stores, side).verdict.name
over.append(True)
watcher.join()
print(json.dumps([start, before, max(seen), verdict]))
"""


def find(folder: str, repeats: int, size: int) -> None:
    """Print the rate of `find_kernel` from Zarr relative to arrays in memory, and the memory that it takes."""
    side = min(size, 20000)
    names = make_store(folder, side)
    call = json.dumps([names, SIDE])
    done = subprocess.run([sys.executable, "-c", FIND, call], capture_output=True, text=True, check=True, cwd=ROOT)
    start, before, peak, verdict = json.loads(done.stdout)
    print(
        f"peak anonymous memory {peak:.0f} MiB: {peak - before:.0f} beyond the {before:.0f} of the interpreter after "
        f"a small fit ({start:.0f} after the imports); {verdict}",
        flush=True,
    )
    stores = zarr_of(names)
    arrays = [np.asarray(one[...]) for one in stores]
    seconds: list[list[float]] = []
    for _ in range(repeats + 1):
        own = []
        for pair in (arrays, stores):
            wall, cpu = time.perf_counter(), time.process_time()
            kernelfit.find_kernel(*pair, SIDE)
            own += [time.perf_counter() - wall, time.process_time() - cpu]
        seconds.append(own)
    memory_wall, memory_cpu, wall, cpu = np.array(seconds[1:]).T
    print(
        f"find_kernel, {side} x {side} uint16, {SIDE} x {SIDE}, {CODEC or 'not compressed'}: "
        f"{np.median(memory_wall / wall):.2f} of the rate in memory ({side**2 / np.median(wall) / 1e6:.0f} Mpixel/s), "
        f"{np.median(memory_cpu / cpu):.2f} by processor seconds ({np.median(cpu):.1f} s)",
        flush=True,
    )


RESUMED = """
import json, sys
import zarr, kernelfit
names, side, checkpoint = json.loads(sys.argv[1])
print("ready", flush=True)
stores = [zarr.open_array(name, mode="r") for name in names]
stats = kernelfit.accumulate_stream([tuple(stores)], side, block=256, checkpoint=checkpoint, every=0)
stats.save(checkpoint + ".done")
"""


def resume(folder: str, repeats: int, size: int) -> None:
    """Kill a streamed run at ten random moments, each time to start again; count how often the bits are the same."""
    import zarr

    names = make_store(folder, 2048)
    stores = [zarr.open_array(name, mode="r") for name in names]
    expected = kernelfit.accumulate_stream([tuple(stores)], SIDE, block=256)
    rng = np.random.default_rng()
    same = killed = 0
    seconds = 0.0
    for run in range(11):  # the first is left alone, to know how long one takes
        file = os.path.join(folder, f"run{run}.npz")
        call = json.dumps([names, SIDE, file])
        for life in range(100):
            process = subprocess.Popen([sys.executable, "-c", RESUMED, call], stdout=subprocess.PIPE, cwd=ROOT)
            assert process.stdout is not None
            process.stdout.readline()
            start = time.perf_counter()
            try:
                process.wait(timeout=float(rng.uniform(0.1, 1.0)) * seconds if life == 0 and run > 0 else None)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
            process.stdout.close()
            if process.returncode == 0:
                break
        seconds = time.perf_counter() - start if run == 0 else seconds
        stats = kernelfit.NormalStats.load(file + ".done")
        same += stats.gram.tobytes() == expected.gram.tobytes() and stats.moment.tobytes() == expected.moment.tobytes()
    print(
        f"killed {killed} of 11 runs with -9 on the way and resumed: the same bits {same} times out of 11", flush=True
    )


def zarr_of(names: list[str]) -> list[object]:
    """Open the two arrays."""
    import zarr

    return [zarr.open_array(name, mode="r") for name in names]


def maps(folder: str, repeats: int, size: int) -> None:
    """Time a map of 16 x 16 kernels against a single kernel."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((4096, 4096))
    import scipy.signal

    target = scipy.signal.oaconvolve(image, kernel_of_shape("11x11"), mode="same")
    target += 0.01 * rng.standard_normal(target.shape)
    ratio, seconds = median_ratio(
        lambda: kernelfit.kernel_map(image, target, 11, 16),
        lambda: kernelfit.find_kernel(image, target, 11).stderr,
        repeats,
    )
    print(f"kernel_map, 16 x 16 tiles, 11 x 11 at 4096^2: {ratio:.2f} times a single fit ({seconds:.2f} s)", flush=True)


def planning(folder: str, repeats: int, size: int) -> None:
    """Say what it takes on the client to plan the statistics of expressions of stored arrays; no pixel is read."""
    import dask.array as da
    import zarr

    side, chunk = 65536, 1024
    stored = zarr.create_array(os.path.join(folder, "plan.zarr"), shape=(side, side), chunks=(chunk, chunk), dtype="u2",
                               overwrite=True)  # fmt: skip
    dark, flat = da.full((side, side), 7.0, chunks=chunk), da.full((side, side), 1.5, chunks=chunk)
    raw = da.from_zarr(stored)
    image, target = ((raw[:side, :side].astype("f4") - dark) / flat for _ in range(2))
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        kernelfit.scale.accumulate(image, target, SIDE, compute=False)
        seconds.append(time.process_time() - start)
    tracemalloc.start()
    made = kernelfit.scale.accumulate(image, target, SIDE, compute=False)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    del made
    print(
        f"planning, {side}^2 in chunks of {chunk}^2: {statistics.median(seconds):.2f} s of CPU, {peak:.0f} MiB at most"
    )


class Counted:
    """An array in chunks, which counts how often each is read."""

    def __init__(self, pixels: np.ndarray, chunks: tuple[int, int]) -> None:
        self.pixels, self.chunks, self.shape, self.dtype, self.ndim = pixels, chunks, pixels.shape, pixels.dtype, 2
        self.reads = np.zeros([-(-n // c) for n, c in zip(pixels.shape, chunks, strict=True)], dtype=int)

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        """Return a part, and count the chunks that it touches."""
        ends = [k.indices(n)[:2] for k, n in zip(key, self.shape, strict=True)]
        if all(a < b for a, b in ends):
            touched = [slice(a // c, -(-b // c)) for (a, b), c in zip(ends, self.chunks, strict=True)]
            self.reads[touched[0], touched[1]] += 1
        return self.pixels[key]


def counted(
    verb: Callable[..., Any], image: np.ndarray, target: np.ndarray, chunks: tuple[int, int], **words: Any
) -> str:
    """Say how often the chunks of a pair are read by a call, those of the array of which more are."""
    pair = [Counted(array, chunks) for array in (image, target)]
    verb(*pair, (5, 7), **words)
    return f"{max(one.reads.mean() for one in pair):.2f} (most {max(one.reads.max() for one in pair)})"


def reads(folder: str, repeats: int, size: int) -> None:
    """Print how often each chunk is read, for statistics and for fits with and without noise, in several shapes."""
    rng = np.random.default_rng(0)
    print("| image | chunks | statistics | fit | fit without noise |\n|---|---|---|---|---|")
    for shape, chunks in (((1024, 17408), (512, 512)), ((17408, 1024), (512, 512)), ((5000, 5000), (700, 900)),
                          ((4096, 4096), (4096, 64)), ((4096, 4096), (64, 4096))):  # fmt: skip
        image = rng.integers(0, 60000, shape).astype(np.uint16)
        plain = kernelfit.apply_kernel(image, kernel_of_shape("5x7"), boundary="symm")
        noisy = np.rint(plain + rng.normal(0, 50, shape)).clip(0, 65535).astype(np.uint16)
        ways = (kernelfit.accumulate, noisy), (kernelfit.find_kernel, noisy), (kernelfit.find_kernel, plain)
        row = [counted(verb, image, target, chunks) for verb, target in ways]
        print(f"| {shape[0]}x{shape[1]} | {chunks[0]}x{chunks[1]} | {' | '.join(row)} |", flush=True)


#: What goes over the pixels several times.
AGAIN: dict[str, dict[str, Any]] = {
    "a background": {"background": 1},
    "a mask": {"mask": lambda rng, shape: rng.random(shape) < 0.002},
    "weights": {"weights": lambda rng, shape: rng.uniform(0.5, 2.0, shape)},
    "photon noise": {"noise": "poisson"},
    "robust, Huber": {"robust": "huber"},
    "robust, Tukey": {"robust": "tukey"},
    "sandwich errors": {"errors": "sandwich"},
    "variation": {"variation": 1},
    "conjugate gradients": {"method": "cg"},
}


def again(folder: str, repeats: int, size: int) -> None:
    """Print how often each chunk is read by fits that need it several times, where memory may keep it or may not."""
    rng = np.random.default_rng(0)
    image = np.round(50 * rng.gamma(2.0, 5.0, (2048, 1900))).astype(np.uint16)
    target = rng.poisson(kernelfit.apply_kernel(image, abs(kernel_of_shape("5x7")), boundary="symm")).astype(np.uint16)
    chunked.BUDGET //= 32  # an eighth of an array: larger ones would take longer and say the same
    free = chunked.free_bytes
    print("| 2048x1900 in chunks of 128x128, a fit with | memory free | memory refused |\n|---|---|---|")
    for name, words in AGAIN.items():
        laid = {key: value(rng, image.shape) if callable(value) else value for key, value in words.items()}
        row = []
        for chunked.free_bytes in (free, lambda: 0):
            row.append(counted(kernelfit.find_kernel, image, target, (128, 128), workers=1, **laid))
        print(f"| {name} | {' | '.join(row)} |", flush=True)


SECTIONS = {
    "rate": rate,
    "memory": memory,
    "find": find,
    "resume": resume,
    "maps": maps,
    "planning": planning,
    "reads": reads,
    "again": again,
}


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=32768, help="side of the large pair")
    parser.add_argument("--folder", help="where the files go, and stay; default: a temporary folder")
    parser.add_argument(
        "--compressed",
        nargs="?",
        const="auto",
        choices=["auto", "blosc"],
        help="compress the pairs: default Zarr's own",
    )
    options = parser.parse_args()
    global CODEC
    CODEC = options.compressed
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"got {', '.join(sorted(unknown))}, need one of {', '.join(SECTIONS)}")
    with tempfile.TemporaryDirectory() as own:
        for name in options.sections or SECTIONS:
            SECTIONS[name](options.folder or own, options.repeats, options.size)


if __name__ == "__main__":
    main()
