"""Print how often a misfit is named where there is none, and where there is one that spoils the kernel.

Run as ``python -m benchmarks.verdicts [pairs] [rounded | halfway | drifts] [seed]``. A pair is a crop of a photograph,
a texture of a random spectrum or a field of stars, blurred by a kernel of a random family. Pairs that are fine have
white, photon, rounded or correlated noise; each misfit is made with white noise of .1 to 30 % of the target's
deviation. It counts where it moves the kernel by more than three standard errors, in root mean square over the taps,
from that of the same pair without it.

With ``rounded`` pairs have no noise but the rounding of image and target to 8 and 16 bits, kernels of random or small
rational numbers, and images of six kinds in turn. It prints how often a right-sized kernel is said to be too small, and
any of the model to fail; how often 95 % intervals hold the truth, of all and of those with nothing to doubt; and how
often a tail outside the shape, of .01 to 5 % of the kernel, on all sides, two or one, is found where it moves a tap by
more than three standard errors.

With ``halfway`` pairs are of 8 bits and their noise is 1.1 to 3 times that of one rounding, as filters leave it that
round half way. It prints, for filters and for plain kernels with so little noise, how often the model is said to fail
(a false alarm), how often the noise is, and how often 95 % intervals hold the kernel where there is a true one; and
for misfits so small that the noise stays as little, how often they are told, and how often at least doubted, where they
move the kernel by more than three standard errors.

With ``drifts`` pairs are signals of eight kinds with noise of seven, correlated over up to a thousand samples, louder
and quieter with time. It prints how often a response that does not change is said to; and of responses that change
along a ramp, there and back, or at once, so that the noise seems a twentieth to a half louder, how often
that is told, or anything doubted, where kernels of two parts differ by more than three standard errors.
"""

import itertools
import sys
from collections import Counter

import numpy as np
import scipy.ndimage
import scipy.signal
from PIL import Image, ImageFilter
from skimage import data

from kernelfit import Model, apply_kernel, find_kernel
from kernelfit.data.observation import as_observation
from kernelfit.diagnostics import tiles
from kernelfit.diagnostics.misfit import misfits
from kernelfit.diagnostics.quantization import ALONE, HALF_WAY, ROUNDING

from .boundary import kernel

SIZE = 256, 300
PHOTOGRAPHS = [data.camera, data.moon, data.coins, data.brick, data.grass, data.gravel, data.clock]


def image(rng, kind=None):
    """Return a photograph's crop, a texture or a field of stars."""
    kind = rng.integers(3) if kind is None else kind
    if kind == 0:
        photo = PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))]().astype(float)
        size = [min(n, k) for n, k in zip(photo.shape, SIZE, strict=True)]
        at = [rng.integers(n - k + 1) for n, k in zip(photo.shape, size, strict=True)]
        return photo[at[0] : at[0] + size[0], at[1] : at[1] + size[1]]
    if kind == 1:
        frequency = np.hypot(np.fft.fftfreq(SIZE[0])[:, None], np.fft.rfftfreq(SIZE[1])[None]) + 0.5 / max(SIZE)
        made = np.fft.irfft2(np.fft.rfft2(rng.normal(size=SIZE)) / frequency ** rng.uniform(0.3, 1.3), SIZE)
        return np.maximum(128 + 40 * made / made.std(), 0)
    sky, n = np.zeros(SIZE), SIZE[0] * SIZE[1] // 400
    np.add.at(sky, tuple(rng.integers(0, k, n) for k in SIZE), 10 ** rng.uniform(1.5, 4, n))
    return scipy.ndimage.gaussian_filter(sky, 1.0) + 50


def fine(rng):
    """Return an image, a target with nothing but noise, and the kernel."""
    source, taps = image(rng), kernel(rng)
    made = apply_kernel(source, taps, boundary="symm")
    level = 10 ** rng.uniform(-3, -0.5) * made.std()
    white = rng.normal(size=made.shape)
    how = rng.integers(4)
    if how == 0:
        return source, made + level * white, taps
    if how == 1:
        gain = 10 ** rng.uniform(-2, 1)
        return source, rng.poisson(np.maximum(made, 0) * gain) / gain, taps
    if how == 2:
        return source, np.rint(made + white), taps
    coloured = scipy.ndimage.gaussian_filter(white, rng.uniform(0.6, 2))
    return source, made + level * coloured / coloured.std(), taps


def moved(made, rows, cols):
    """Return what lies at other places, in pixels from the middle, given as functions of row and column."""
    middle = [(n - 1) / 2 for n in made.shape]
    y, x = np.meshgrid(*(np.arange(n) - m for n, m in zip(made.shape, middle, strict=True)), indexing="ij")
    return scipy.ndimage.map_coordinates(made, [rows(y, x) + middle[0], cols(y, x) + middle[1]], mode="reflect")


def spoiled(name, rng, source, taps):
    """Return the target with a misfit and without."""
    made = apply_kernel(source, taps, boundary="symm")
    a = rng.uniform(0.003, 0.01)
    if name == "radial":
        far = max(made.shape) / 2
        return moved(
            made,
            lambda y, x: y * (1 + a * (y * y + x * x) / far**2),
            lambda y, x: x * (1 + a * (y * y + x * x) / far**2),
        ), made
    if name == "rotation":
        turn = np.deg2rad(rng.uniform(0.2, 1))
        c, s = np.cos(turn), np.sin(turn)
        return moved(made, lambda y, x: c * y - s * x, lambda y, x: s * y + c * x), made
    if name == "scale":
        return moved(made, lambda y, x: (1 + a) * y, lambda y, x: (1 + a) * x), made
    if name == "shift":
        return np.roll(made, rng.integers(8, 15, 2) * rng.choice([-1, 1], 2), (0, 1)), made
    if name == "gamma":
        light = (np.maximum(source, 1) / 255) ** 2.2
        return 255 * np.maximum(apply_kernel(light, taps, boundary="symm"), 1e-9) ** (1 / 2.2), made
    if name == "clipped":
        return np.clip(made, *np.quantile(made, [0.05, rng.uniform(0.9, 0.99)])), made
    if name == "maximum":
        return scipy.ndimage.maximum_filter(source, 3), made
    if name == "constant":
        return made + rng.uniform(1, 20), made
    if name == "wider":
        return scipy.ndimage.uniform_filter(made, 7), made
    other = scipy.ndimage.gaussian_filter(made, rng.uniform(0.4, 1))
    return np.where(np.arange(made.shape[1]) < rng.uniform(0.2, 0.8) * made.shape[1], made, other), made


MISFITS = "radial rotation scale shift gamma clipped maximum constant wider halves".split()


def judged(source, target, shape):
    """Return the fit and its misfits."""
    fit = find_kernel(source, target, shape)
    return fit, misfits(tiles.read([as_observation(source, target, Model(shape))], fit, None), fit, weighted=False)


KINDS = "photograph texture stars ramp smooth flat".split()
RATIONAL = [
    np.ones(shape) / (shape[0] * shape[1]) for shape in ((1, 2), (2, 2), (3, 1), (3, 3), (4, 4), (5, 5), (7, 7))
]
RATIONAL += [np.outer(a, b) / (sum(a) * sum(b)) for a, b in (((1,), (1, 2, 1)), ((1, 2, 1), (1, 2, 1)))]
RATIONAL += [np.outer(a, b) / (sum(a) * sum(b)) for a, b in (((1,), (1, 4, 6, 4, 1)), ((1, 4, 6, 4, 1),) * 2)]


def integers(kind, bits, rng):
    """Return an image of a kind in 8 or 16 bits."""
    if kind in ("photograph", "texture", "stars"):
        made = image(rng, KINDS.index(kind))
        made = scipy.ndimage.gaussian_filter(made, 0.5) if bits == 16 else made
        made = made * min(1.0, 250 / made.max() * (1 if kind != "stars" else rng.uniform(1, 8)))
    elif kind == "ramp":
        angle = rng.uniform(0, 2 * np.pi)
        made = np.cos(angle) * np.arange(SIZE[0])[:, None] + np.sin(angle) * np.arange(SIZE[1])
        made = 10 + (made - made.min()) / np.ptp(made) * rng.uniform(40, 230)
    elif kind == "smooth":
        made = scipy.ndimage.gaussian_filter(rng.normal(size=SIZE), 10 ** rng.uniform(0.5, 1.3), mode="wrap")
        made = 128 + made / made.std() * rng.uniform(5, 40)
    else:
        made = np.full(SIZE, rng.uniform(10, 240))
        for _ in range(rng.integers(5, 40)):
            (row, col), (rows, cols) = (rng.integers(0, n - 20) for n in SIZE), rng.integers(5, 120, 2)
            made[row : row + rows, col : col + cols] = rng.uniform(10, 240)
    return np.rint(np.clip(made, 0, 255) * (1 if bits == 8 else 257)).astype(f"u{bits // 8}")


def tailed(taps, rng):
    """Return a kernel with a tail outside its shape, the origin that leaves the rest where it was, and the share."""
    wide, more = int(rng.integers(1, 3)), rng.integers(4)
    pads = [((wide, wide), (wide, wide)), ((0, 0), (wide, wide)), ((wide, wide), (0, 0)), ((0, 0), (0, wide))][more]
    share = 10 ** rng.uniform(-4, -1.3)
    tail = np.pad(np.zeros(taps.shape), pads, constant_values=1.0)
    tail *= rng.random(tail.shape) if rng.integers(2) else 1.0
    whole = np.pad((1 - share) * taps, pads) + share * tail / tail.sum()
    return whole, tuple((n - 1) // 2 + pad[0] for n, pad in zip(taps.shape, pads, strict=True))


def rounded(pairs):
    """Print what pairs say whose only noise is rounding."""
    print(
        "kind, bits: too small, model fails / pairs; taps in their 95 % interval, of pairs without doubt; tails found"
    )
    for kind in KINDS:
        for bits in (8, 16):
            told, inside, sure, counted, found, below = Counter(), [], [], 0, 0, [0, 0]
            for seed in range(pairs):
                rng = np.random.default_rng([3, KINDS.index(kind), bits, seed])
                source = integers(kind, bits, rng)
                taps = kernel(rng) if seed % 2 else RATIONAL[seed // 2 % len(RATIONAL)]

                def target(taps, origin=None, source=source):
                    made = apply_kernel(source.astype(float), taps, boundary="symm", origin=origin)
                    return np.rint(np.clip(made, 0, np.iinfo(source.dtype).max)).astype(source.dtype)

                fit = find_kernel(source, target(taps), taps.shape)
                told.update({f.verdict.name for f in fit.findings})
                held = np.abs(fit.kernel - taps) < 1.96 * fit.stderr
                inside += held.ravel().tolist()
                sure += held.ravel().tolist() if fit.verdict.ok else []
                wide, origin = tailed(taps, rng)
                other = find_kernel(source, target(wide, origin), taps.shape)
                share = (
                    1
                    - wide[tuple(slice(o - (n - 1) // 2, None) for o, n in zip(origin, taps.shape, strict=True))][
                        : taps.shape[0], : taps.shape[1]
                    ].sum()
                    / taps.sum()
                )
                if np.max(np.abs(other.kernel - (1 - share) * fit.kernel) / other.stderr) > 3:
                    seen, alone = not other.verdict.ok, other.noise_std < 1.1 * other.rounding
                    counted, found = counted + 1, found + seen
                    below = [below[0] + alone, below[1] + (alone and seen)]
            few = f"below rounding {below[1]} of {below[0]}"
            model = sum(told[v] for v in ("SHAPE_TOO_SMALL", "VARYING", "NONLINEAR", "MISALIGNED", "OFFSET"))
            print(
                f"{kind:10s} {bits:2d}: {told['SHAPE_TOO_SMALL']}, {model} / {pairs}; {np.mean(inside):.3f}, "
                f"{np.mean(sure) if sure else np.nan:.3f}; {found} of {counted}, {few}",
                flush=True,
            )


def pillow(filtering):
    """Return a filter of Pillow as a function of an array."""
    return lambda a: np.asarray(Image.fromarray(a).filter(filtering))


def unsharp(rng):
    """Return Pillow's unsharp mask."""
    return pillow(ImageFilter.UnsharpMask(rng.uniform(0.7, 2), int(rng.integers(30, 160)), 0))


def eight(values):
    """Round to 8 bits."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def softened(rng):
    """Return a filter that rounds between its passes, and its kernel."""
    taps = [rng.dirichlet(np.full(n, 2.0)) for n in rng.integers(2, 5, 2) * 2 - 1]

    def filtering(a):
        once = eight(scipy.ndimage.convolve1d(a.astype(float), taps[0], axis=0, mode="reflect"))
        return eight(scipy.ndimage.convolve1d(once.astype(float), taps[1], axis=1, mode="reflect"))

    return filtering, np.outer(*taps)


def twice(rng):
    """Return two filters of which the first is saved, and the kernel of both."""
    first, second = kernel(rng)[:5, :5], np.array([[0, -1, 0], [-1, 4 + (w := rng.uniform(1, 6)), -1], [0, -1, 0]]) / w
    first = np.abs(first) / np.abs(first).sum()

    def filtering(a):
        return eight(
            apply_kernel(eight(apply_kernel(a.astype(float), first, boundary="symm")), second, boundary="symm")
        )

    whole = scipy.signal.convolve(first, second)
    return (filtering, whole) if all(n % 2 for n in first.shape) else (filtering, None)


def noisy(rng):
    """Return a plain kernel whose target has little noise before it is rounded, and the kernel."""
    taps, level, photon = kernel(rng), rng.uniform(0.2, 0.7), rng.integers(2)

    def filtering(a):
        made = apply_kernel(a.astype(float), taps, boundary="symm")
        spread = np.sqrt(np.maximum(made, 0) / made.mean()) if photon else 1.0
        return eight(made + level * spread * rng.normal(size=made.shape))

    return filtering, taps


#: Filters that leave more than one rounding: each returns a function of an image and its kernel, or none for one.
HALF = {
    "Pillow gaussian": lambda rng: (pillow(ImageFilter.GaussianBlur(rng.uniform(0.6, 2))), None),
    "Pillow box": lambda rng: (pillow(ImageFilter.BoxBlur(rng.uniform(0.7, 3))), None),
    "Pillow unsharp": lambda rng: (
        pillow(ImageFilter.UnsharpMask(rng.uniform(1, 3), int(rng.integers(30, 160)), 0)),
        None,
    ),
    "rounded between passes": softened,
    "saved between two": twice,
    "noise of .2 to .7": noisy,
}
FAILS = "SHAPE_TOO_SMALL VARYING NONLINEAR MISALIGNED OFFSET".split()


def little(fit):
    """Say if the noise is that of more than one rounding and of few."""
    return ALONE < fit.noise_std / np.sqrt(ROUNDING) < HALF_WAY


def halfway(pairs, start):
    """Print what pairs of 8 bits say whose noise is little more than rounding."""
    print("filter: model fails, noise doubted / pairs of so little noise; taps in their interval, of pairs not doubted")
    for name, made in HALF.items():
        fails = doubts = counted = 0
        held: list[bool] = []
        for seed in range(pairs):
            rng = np.random.default_rng([4, start, seed])
            source = eight(image(rng, int(rng.integers(2))))
            filtering, taps = made(rng)
            shape = (13, 15) if taps is None else taps.shape
            fit = find_kernel(source, filtering(source), shape)
            if not little(fit):
                continue
            counted, fails = counted + 1, fails + (fit.verdict.name in FAILS)
            doubts += fit.verdict.name not in FAILS and not fit.verdict.ok
            if taps is not None and fit.verdict.ok:
                held += (np.abs(fit.kernel - taps) < 1.96 * fit.stderr).ravel().tolist()
        print(f"{name:24s} {fails}, {doubts} / {counted}; {np.mean(held) if held else np.nan:.3f}", flush=True)
    print("misfit: told, doubted / pairs where it moves the kernel by more than three standard errors")
    for name in [m for m in MISFITS if m not in ("shift", "constant")]:
        told = doubted = counted = 0
        for seed in range(pairs):
            rng = np.random.default_rng([5, start, seed])
            source, taps, level = eight(image(rng, seed % 2)), kernel(rng), rng.uniform(0, 0.6)
            bad, good = spoiled(name, rng, source.astype(float), taps)
            noise, amount = level * rng.normal(size=good.shape), 10 ** rng.uniform(-0.5, 0.5)
            left = find_kernel(source.astype(float), bad + 1e-3 * noise, taps.shape).noise_std
            share = min(1.0, amount * np.sqrt(ROUNDING) / left)  # of the misfit, so that it adds so many roundings
            fit = find_kernel(source, eight(good + share * (bad - good) + noise), taps.shape)
            other = find_kernel(source, eight(good + noise), taps.shape)
            errors = np.minimum(fit.stderr, other.stderr * fit.noise_std / other.noise_std)
            if little(fit) and np.sqrt(np.mean(((fit.kernel - other.kernel) / errors) ** 2)) > 3:
                counted, told = counted + 1, told + (fit.verdict.name in FAILS)
                doubted += not fit.verdict.ok
        print(f"{name:9s} {told}, {doubted} / {counted}", flush=True)


def correlated(over, n, rng):
    """Return a normal process of variance 1 that is correlated over about so many samples."""
    a = np.exp(-1 / over) if over else 0.0
    return scipy.signal.lfilter([1.0], [1.0, -a], rng.normal(size=n + 5000))[5000:] * np.sqrt(1 - a * a)


#: Signals, and what noise is made of, as functions of a length, a time from 0 to 1, and a generator.
SIGNALS = {
    "white": lambda n, t, rng: rng.normal(size=n),
    "over 10": lambda n, t, rng: correlated(10, n, rng),
    "over 100": lambda n, t, rng: correlated(100, n, rng),
    "over 1000": lambda n, t, rng: correlated(1000, n, rng),
    "grows": lambda n, t, rng: (0.1 + 3 * t) * rng.normal(size=n),
    "few events": lambda n, t, rng: rng.normal(size=n) * (rng.random(n) < 0.02),
    "heavy tails": lambda n, t, rng: rng.standard_t(3, size=n),
    "bursts": lambda n, t, rng: rng.normal(size=n) * np.exp(0.8 * correlated(300, n, rng)),
}
NOISES = {name: SIGNALS[name] for name in "white, over 10, over 100, over 1000, grows, heavy tails, bursts".split(", ")}
TIMES = {"ramp": lambda t: 2 * t - 1, "there and back": lambda t: 4 * t * (1 - t), "at once": lambda t: 2.0 * (t > 0.6)}


def drifts(pairs, start):
    """Print how often a response is said to drift, of signals and noise of every kind, and of those that do."""
    alarms = counted = 0
    for kind, noise in itertools.product(SIGNALS, NOISES):
        for seed in range(max(1, pairs // (len(SIGNALS) * len(NOISES)))):
            rng = np.random.default_rng([6, start, list(SIGNALS).index(kind), list(NOISES).index(noise), seed])
            n, m = int(10 ** rng.uniform(3.2, 4.3)), int(rng.integers(3, 30))
            t = np.arange(n) / n
            x = SIGNALS[kind](n, t, rng)
            y = np.convolve(x, rng.normal(size=m) * np.exp(-np.arange(m) / rng.uniform(2, 9)))[:n]
            y = y + 10 ** rng.uniform(-2, 0.5) * y.std() * NOISES[noise](n, t, rng)
            fit = find_kernel(x, y, lags=(0, m - 1))
            counted, alarms = counted + 1, alarms + any(f.verdict.name == "VARYING" for f in fit.findings)
    print(f"false alarms: {alarms} of {counted}", flush=True)
    for name, time in TIMES.items():
        told = doubted = total = 0
        for seed in range(max(1, pairs // 20)):
            rng = np.random.default_rng([7, start, list(TIMES).index(name), seed])
            n, m = int(10 ** rng.uniform(3.5, 4.3)), int(rng.integers(3, 30))
            t, x = np.arange(n) / n, SIGNALS[list(SIGNALS)[seed % 3]](n, np.arange(n) / n, rng)
            steady, change = (np.convolve(x, rng.normal(size=m) * np.exp(-np.arange(m) / 5))[:n] for _ in range(2))
            noise = 10 ** rng.uniform(-2, 0) * steady.std() * rng.normal(size=n)
            moves = time(t) - time(t).mean()
            change = moves * change / (moves * change).std() * noise.std() * np.sqrt(rng.uniform(1.05, 1.5) ** 2 - 1)
            fit = find_kernel(x, steady + noise + change, lags=(0, m - 1))
            first, last = (n // 4, 3 * n // 4) if name == "there and back" else (n // 2, n)
            halves = [
                find_kernel(x[part], (steady + noise + change)[part], lags=(0, m - 1))
                for part in (slice(first), slice(first, last))
            ]
            apart = (halves[1].kernel - halves[0].kernel) / np.hypot(halves[1].stderr, halves[0].stderr)
            if np.sqrt(np.mean(apart**2)) > 3:
                total, told = total + 1, told + any(f.verdict.name == "VARYING" for f in fit.findings)
                doubted += not fit.verdict.ok
        print(f"{name:14s} told {told}, doubted {doubted} of {total}", flush=True)


def main(pairs, start):
    """Print both tables."""
    alarms = Counter()
    for seed in range(pairs):
        source, target, taps = fine(np.random.default_rng([1, start, seed] if start else [1, seed]))
        alarms.update(f.verdict.name for f in judged(source, target, taps.shape)[1][:1])
    print(f"false alarms: {alarms.total()} of {pairs} {dict(alarms)}")
    for name in MISFITS:
        counted, told = 0, Counter()
        for seed in range(max(1, pairs // 20)):
            rng = np.random.default_rng([2, start, seed] if start else [2, seed])
            source, taps = image(rng), kernel(rng)
            bad, good = spoiled(name, rng, source, taps)
            noise = 10 ** rng.uniform(-3, -0.5) * bad.std() * rng.normal(size=bad.shape)
            fit, found = judged(source, bad + noise, taps.shape)
            other = find_kernel(source, good + noise, taps.shape)
            if np.sqrt(np.mean(((fit.kernel - other.kernel) / fit.stderr) ** 2)) > 3:
                counted += 1
                told[found[0].verdict.name if found else "missed"] += 1
        print(f"{name:9s} found {counted - told['missed']} of {counted}: {dict(told)}")


if __name__ == "__main__":
    numbers = [int(a) for a in sys.argv[1:] if a.isdigit()]
    if "rounded" in sys.argv:
        rounded(numbers[0] if numbers else 1000)
    else:
        name = next((word for word in ("halfway", "drifts") if word in sys.argv), "")
        usual, table = {"halfway": (60, halfway), "drifts": (560, drifts)}.get(name, (1000, main))
        table(*[*numbers, *(usual, 0)[len(numbers) :]][:2])
