"""What is found of a pair of which nothing is given, against the truth and a call with everything given.

    python -m benchmarks.discovery [zoo resamplers filters unrelated psf command] [--seed 0] [--every 1]
    python -m benchmarks.discovery --pairs IMAGE TARGET ...

zoo: kernels of 5x7, 15x15 and 31x27 with noise of .1, 1 and 5 % and shifts up to 60 pixels, whole pairs and crops;
resamplers: Pillow, OpenCV, scikit-image and SciPy, factors of 2, 3 and 4; filters: 8-bit pictures; unrelated: pairs of
which none was made of the other; psf: point spread functions. "held" is the share of the kernel's energy in the
support, "error" that of the kernel over that of the call with everything given, "cost" the median ratio of processor
times, over a call that is given the size and the place found, transforms being planned already. --every draws one case
in so many.
--pairs says what is found in files. Set OPENBLAS_NUM_THREADS=1 to share a machine.
"""

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import scipy.ndimage
import scipy.signal

import kernelfit
from benchmarks.zoo import kernels, photographs

SIDE, ROOM = 440, 60


def by_lag(fit):
    """Return {(row, col): tap}, the place of the target's first pixel included."""
    rows, cols = (np.asarray(lags) - o for lags, o in zip(fit.lags, fit.convention.offset, strict=True))
    return {(int(r), int(c)): fit.kernel[i, j] for i, r in enumerate(rows) for j, c in enumerate(cols)}


def some(cases, seed, every):
    """Return one case in so many, drawn by the seed: at even steps all would be of one factor or one noise."""
    cases = list(cases)
    drawn = np.random.default_rng(seed).permutation(len(cases))[: -(-len(cases) // every)]
    return [cases[i] for i in sorted(drawn)]


def compared(found, given, truth):
    """Return the share of the energy held, and the ratio of errors, of kernels by lags."""
    energy = sum(v**2 for v in truth.values())
    held = sum(v**2 for d, v in truth.items() if d in found) / energy

    def error(kernel):
        return sum((kernel.get(d, 0.0) - truth.get(d, 0.0)) ** 2 for d in {*kernel, *truth}) ** 0.5

    least = 1e-9 * energy**0.5
    return held, (error(found) + least) / (error(given) + least)


class Table:
    """Counts of what came out right."""

    def __init__(self, name):
        """Begin."""
        self.name, self.rows, self.seconds = name, [], []

    def add(self, case, image, target, kernel, shift, stride=(1, 1), first=(0, 0)):
        """Find a kernel whose tap (0, 0) has the lag `shift`, with nothing given and with everything."""
        try:
            fit = kernelfit.find_kernel(image, target)
        except ValueError as error:
            print(f"  {case}: {error}")
            self.rows.append((False, 0.0, np.inf))
            return
        origin = tuple(-s - f for s, f in zip(shift, first, strict=True))
        words = {"mode": "crop", "origin": origin, "stride": stride, "offset": first}
        if fit.background is not None:
            words["background"] = 0
        given = kernelfit.find_kernel(image, target, kernel.shape, **words)
        place = {"origin": fit.convention.origin, "stride": fit.convention.stride, "offset": fit.convention.offset}
        times = [time.process_time()]  # of calls whose transforms are planned
        for keywords in ({}, {"shape": fit.kernel.shape, **words, **place}):
            kernelfit.find_kernel(image, target, **keywords)
            times.append(time.process_time())
        self.seconds.append((times[1] - times[0]) / max(times[2] - times[1], 1e-3))
        truth = {(r + shift[0], c + shift[1]): kernel[r, c] for r, c in np.ndindex(kernel.shape)}
        held, ratio = compared(by_lag(fit), by_lag(given), truth)
        right = fit.convention.stride == stride and held > 0.5
        self.rows.append((right, held, ratio))
        if not right or held < 0.999 or ratio > 1.1:
            shapes = f"{fit.kernel.shape} of {kernel.shape}"
            print(f"  {case}: {shapes}, held {held:.5f}, error {ratio:.2f}, {fit.verdict.name}")

    def __str__(self):
        """Say it in one row."""
        right, held, ratio = (np.array(column) for column in zip(*self.rows, strict=True))
        shares = [100 * np.mean(v) for v in (right, held >= 0.999, ratio <= 1.1)]
        cost = f"{np.median(self.seconds):.1f}" if self.seconds else ""
        return f"| {self.name} | {len(right)} | " + " | ".join(f"{s:.1f} %" for s in shares) + f" | {cost} |"


def zoo(seed, every):
    """Kernels, noise, shifts and crops."""
    rng = np.random.default_rng(seed)
    photos = [np.pad(p, ((0, 300), (0, 300)), mode="symmetric")[: SIDE + 2 * ROOM, :] for p in photographs().values()]
    for shape in ((5, 7), (15, 15), (31, 27)):
        table = Table(f"zoo {shape[0]}x{shape[1]}")
        cases = list(itertools.product(kernels(shape, seed).items(), (0.001, 0.01, 0.05)))
        for (name, kernel), noise in some(cases, seed, every):
            photo = photos[rng.integers(len(photos))][:, : SIDE + 3 * ROOM]
            whole = scipy.signal.fftconvolve(photo, kernel)
            row, col = rng.integers(-ROOM, ROOM + 1, 2)
            cut = rng.integers(0, 80, 2) if rng.random() < 0.5 else (0, 0)
            rows, cols = SIDE - cut[0], SIDE + ROOM - cut[1]
            image = photo[ROOM : ROOM + SIDE, ROOM : 2 * ROOM + SIDE]
            target = whole[ROOM + row : ROOM + row + rows, ROOM + col : ROOM + col + cols]
            target = target + rng.normal(0, noise * target.std(), target.shape)
            table.add(f"{name} {noise:g} ({row}, {col})", image, target, kernel, (-row, -col))
        yield table


def resamplers(seed, every):
    """Pictures that were made smaller."""
    import cv2
    import skimage.transform
    from PIL import Image

    ways = {}
    for name in ("BOX", "BILINEAR", "BICUBIC", "LANCZOS"):
        ways[f"Pillow {name.lower()}"] = lambda a, s, name=name: np.asarray(
            Image.fromarray(a.astype(np.float32)).resize((a.shape[1] // s, a.shape[0] // s), getattr(Image, name))
        )
    for name in ("AREA", "LINEAR", "CUBIC", "LANCZOS4"):
        ways[f"OpenCV {name.lower()}"] = lambda a, s, name=name: cv2.resize(
            a, (a.shape[1] // s, a.shape[0] // s), interpolation=getattr(cv2, f"INTER_{name}")
        )
    ways["scikit-image mean"] = lambda a, s: skimage.transform.downscale_local_mean(a, (s, s))
    ways["scikit-image resize"] = lambda a, s: skimage.transform.resize(
        a, (a.shape[0] // s, a.shape[1] // s), order=1, anti_aliasing=True, preserve_range=True, mode="reflect"
    )
    ways["SciPy zoom"] = lambda a, s: scipy.ndimage.zoom(a, 1 / s, order=1, grid_mode=True, mode="reflect")
    for first in ((0, 0), (1, 0), (1, 1)):
        ways[f"slices from {first}"] = lambda a, s, f=first: a[f[0] :: s, f[1] :: s][
            : a.shape[0] // s, : a.shape[1] // s
        ]
    table = Table("resamplers")
    cases = list(itertools.product(list(photographs().items())[:3], ways.items(), (2, 3, 4), (False, True)))
    for (photo, array), (name, way), factor, whole in some(cases, seed, every):
        image = array[: 240 // factor * factor, : 300 // factor * factor]
        target = way(image, factor)
        kernel, shift = _by_lags(way, factor)
        if whole:
            image, target = np.rint(image), np.rint(target)
        table.add(f"{photo} {name} 1/{factor}{' rounded' * whole}", image, target, kernel, shift, (factor, factor))
    yield table


def _by_lags(way, factor):
    """Return the kernel of a resampler from its answers to single pixels, and the lag of its first tap."""
    found, at = {}, 15 * factor
    for r, c in np.ndindex(factor, factor):
        probe = np.zeros((30 * factor, 32 * factor))
        probe[at + r, at + c] = 1
        answer = np.asarray(way(probe, factor), dtype=float)
        for i, j in np.argwhere(np.abs(answer) > 1e-9):
            found[factor * i - at - r, factor * j - at - c] = answer[i, j]
    rows, cols = (sorted({d[axis] for d in found}) for axis in (0, 1))
    kernel = np.zeros((rows[-1] - rows[0] + 1, cols[-1] - cols[0] + 1))
    for (r, c), value in found.items():
        kernel[r - rows[0], c - cols[0]] = value
    return kernel, (int(rows[0]), int(cols[0]))


def filters(seed, every):
    """Take filters of 8-bit pictures, rounded and cut off to 8 bits."""
    table = Table("8-bit filters")
    rng = np.random.default_rng(seed)
    bell = scipy.signal.windows.gaussian
    known = {f"box {m}x{n}": np.full((m, n), 1 / (m * n)) for m, n in ((2, 2), (3, 5), (7, 4), (9, 9))}
    for std in (0.8, 1.3, 2.5):
        side = 2 * int(4 * std + 0.5) + 1
        taps = np.outer(bell(side, std), bell(side, std))
        known[f"gaussian {std}"] = taps / taps.sum()
    known |= {
        "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0.0]]),
        "emboss": np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2.0]]),
    }
    known |= {"motion": np.eye(9)[::-1] / 9, "random 6x3": rng.dirichlet(np.ones(18)).reshape(6, 3)}
    for (photo, array), (name, kernel) in some(itertools.product(photographs().items(), known.items()), seed, every):
        image = np.clip(np.rint(array[:300, :340]), 0, 255)
        whole = np.clip(np.rint(scipy.signal.convolve2d(image, kernel)), 0, 255).astype(np.uint8)
        top, left = ((k - 1) // 2 for k in kernel.shape)
        target = whole[top : top + image.shape[0], left : left + image.shape[1]]
        table.add(f"{photo} {name}", image, target, kernel, (-top, -left))
    yield table


def unrelated(seed, every):
    """Pairs of photographs, far crops, mirrored ones, noise, skies, surfaces, gratings, rectangles and signals."""
    rng, photos = np.random.default_rng(seed), list(photographs().values())
    rows, cols = 160, 190
    y, x = np.mgrid[:rows, :cols] / rows

    def photo(n=rows, m=cols, first=None):
        whole = photos[rng.integers(len(photos)) if first is None else first]
        i, j = (rng.integers(0, side - k + 1) for side, k in zip(whole.shape, (n, m), strict=True))
        return whole[i : i + n, j : j + m]

    def noise():
        return rng.normal(size=(rows, cols))

    def pink(power):
        frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols)) + 1 / rows
        return np.fft.irfft2(np.fft.rfft2(noise()) / frequency**power, s=(rows, cols))

    def sky():
        stars = np.zeros((rows, cols))
        stars[rng.integers(0, rows, 50), rng.integers(0, cols, 50)] = 50 + 100 * rng.pareto(1.5, 50)
        return scipy.ndimage.gaussian_filter(stars, 1.5) + 0.2 * noise()

    def surface():
        a = rng.normal(size=5)
        return a[0] * y + a[1] * x + a[2] * x * y + a[3] * x**2 + a[4] * y**2

    def rectangles():
        found = np.zeros((rows, cols))
        for _ in range(8):
            (a, b), (c, d) = np.sort(rng.integers(0, rows, 2)), np.sort(rng.integers(0, cols, 2))
            found[a:b, c:d] += rng.normal()
        return found

    kinds = {
        "photographs": lambda: (photo(first=0), photo(first=1)),
        "far crops": lambda: (photos[0][:150, :180], photos[0][-150:, -180:]),
        "mirrored": lambda: (lambda one: (one, one[::-1]))(photo()),
        "of another size": lambda: (photo(first=0), photo(80, 95, 1)),
        "8 bit": lambda: tuple(photo(first=i).astype(np.uint8) for i in (1, 2)),
        "small": lambda: (photo(24, 30, 0), photo(24, 30, 1)),
        "noise": lambda: (photo(), noise()),
        "noises": lambda: (pink(1), pink(1)),
        "clouds": lambda: (pink(2), pink(2)),
        "skies": lambda: (sky(), sky()),
        "surfaces": lambda: (surface(), surface()),
        "surface and photograph": lambda: (surface(), photo()),
        "gratings": lambda: tuple(np.sin(f * x + g * y) + 0.05 * noise() for f, g in rng.uniform(-90, 90, (2, 2))),
        "rectangles": lambda: (rectangles(), rectangles()),
        "nearly flat": lambda: (photo(), 100 + 0.01 * noise()),
        "random walks": lambda: tuple(rng.normal(size=(2, 500)).cumsum(axis=1)),
        "sines": lambda: (np.sin(0.1 * np.arange(400)), np.sin(0.13 * np.arange(400))),
    }
    wrong, count, doubted = 0, 0, {}
    for number in range(0, 204, every):
        kind = list(kinds)[number // every % len(kinds)]
        image, target = kinds[kind]()
        count += 1
        try:
            fit = kernelfit.find_kernel(image, target)
        except ValueError:
            continue
        wrong += fit.verdict.ok
        doubted[kind, fit.verdict.name] = doubted.get((kind, fit.verdict.name), 0) + 1
    print(f"unrelated: {wrong} of {count} pairs called solved; not refused, but doubted: {doubted}")
    return ()


def psf(seed, every):  # noqa: ARG001
    """Point spread functions of 51x51, full widths at half maximum in pixels."""

    def gaussian(width, n=51, other=None, angle=0.0):
        y, x = np.mgrid[:n, :n] - (n - 1) / 2
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        return _unit(np.exp(-4 * np.log(2) * (u**2 / width**2 + v**2 / (other or width) ** 2)))

    def moffat(width, n=51):
        y, x = np.mgrid[:n, :n] - (n - 1) / 2
        return _unit((1 + 4 * (2**0.4 - 1) * (x**2 + y**2) / width**2) ** -2.5)

    cases = {
        "Gauss 3 -> 5": (gaussian(3), gaussian(5)),
        "Gauss 3 -> 3.2": (gaussian(3), gaussian(3.2)),
        "Moffat 3 -> Gauss 5": (moffat(3), gaussian(5)),
        "Gauss 3 -> Moffat 5": (gaussian(3), moffat(5)),
        "Gauss 3 -> elliptical": (gaussian(3), gaussian(6, other=4, angle=0.5)),
        "Gauss 5 -> 3": (gaussian(5), gaussian(3)),
        "129x129, Gauss 6 -> Moffat 10": (gaussian(6, 129), moffat(10, 129)),
    }
    print("| stamps | D | negative weight | CPU ms |\n|---|---|---|---|")
    for name, (source, target) in cases.items():
        kernelfit.match_psf(source, target)
        start = time.process_time()
        fit = kernelfit.match_psf(source, target, workers=1)
        cost = 1e3 * (time.process_time() - start)
        left, kernel = np.abs(fit.residual(source, target)).sum(), fit.kernel
        print(f"| {name} | {left:.1e} | {-kernel[kernel < 0].sum() / kernel.sum():.2g} | {cost:.0f} |")
    return ()


def command(seed, every):  # noqa: ARG001
    """Run `kernelfit find before.png after.png` on 8-bit pictures of 512x512, and the same with the shape given."""
    from PIL import Image

    def seconds(*words):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "kernelfit", "find", *words], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    print("| kernel | shape given, CPU s | nothing given | ratio |\n|---|---|---|---|")
    photo = np.clip(np.rint(next(iter(photographs().values()))[:512, :512]), 0, 255)
    for shape, name in (((5, 7), "gaussian narrow"), ((15, 15), "motion streak"), ((31, 27), "smooth asymmetric")):
        target = np.clip(np.rint(scipy.signal.convolve2d(photo, kernels(shape, seed)[name], mode="same")), 0, 255)
        with tempfile.TemporaryDirectory() as folder:
            paths = [f"{folder}/{part}.png" for part in ("before", "after")]
            for path, pixels in zip(paths, (photo, target), strict=True):
                Image.fromarray(pixels.astype(np.uint8)).save(path)
            times = [
                [seconds(*paths, *more) for more in (["--shape", ",".join(map(str, shape))], [])] for _ in range(4)
            ]
        given, found = np.median(times[1:], axis=0)  # of programs that are compiled
        ratio = np.median([b / a for a, b in times[1:]])
        print(f"| {name}, {shape[0]}x{shape[1]} | {given:.2f} | {found:.2f} | {ratio:.2f} |", flush=True)
    return ()


def _unit(stamp):
    return stamp / stamp.sum()


def main():
    """Print the tables."""
    parts = {"zoo": zoo, "resamplers": resamplers, "filters": filters, "unrelated": unrelated, "psf": psf}
    parts["command"] = command
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[], choices=[*parts, []])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--pairs", nargs="+", default=[])
    args = parser.parse_args()
    for image, target in zip(args.pairs[::2], args.pairs[1::2], strict=True):
        pair = [kernelfit.io.read_image(path, colours=True) for path in (image, target)]
        try:
            fit = kernelfit.find_kernel(*pair)
            print(f"{target}: {fit.verdict.name}, noise {fit.noise_std:.3g}, {'; '.join(fit.found)}")
        except ValueError as error:
            print(f"{target}: {error}")
    tables = [
        table for name in args.parts or ([] if args.pairs else parts) for table in parts[name](args.seed, args.every)
    ]
    if tables:
        print("\n| scenes | cases | stride and place right | 99.9 % held | error <= 1.1 times | cost over given |")
        print("\n".join(["|---|---|---|---|---|---|", *map(str, tables)]))


if __name__ == "__main__":
    main()
