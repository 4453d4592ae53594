"""Filters of four tools, recognised: how many get their name, whether the intervals hold, how long it takes.

``python -m benchmarks.recognition [N] [RANDOM] [--seed SEED]`` runs N outputs of SciPy, scikit-image, OpenCV and Pillow
(500; a tool that is not installed is left out), in 8 bits and as floats with noise, and RANDOM kernels without a name
(500). It prints what was not named, a table, and for each number of each filter how far off it was in units of its
error (mean and standard deviation, which should be 0 and 1). Some six minutes of one core; take a seed that nobody has
seen.
"""

import argparse
import collections
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage as ndimage

import kernelfit

from .common import image_like_a_photograph

NOISE = 0.5  # of outputs in floats
SHAPE = (15, 15)
WIDE = {"shape": (19, 19)}  # derivatives of Gaussians up to sigma 2.2, which are cut off four sigma out


class Case(NamedTuple):
    """A filter of a tool: the names it may be given, its numbers, and what it makes of an image of 8 bits."""

    tool: str
    names: tuple[str, ...]
    numbers: dict[str, float]
    apply: Callable[[np.ndarray], np.ndarray]
    weights: np.ndarray | None = None  # of an integer kernel
    settings: dict[str, Any] = {}


def optional(name: str) -> Any:
    """Return a module, None if it is not installed."""
    try:
        return __import__(name, fromlist=["_"])
    except ImportError:
        return None


cv2, pillow, skfilters = optional("cv2"), optional("PIL.Image"), optional("skimage.filters")


def scipy_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Yield one of each family of `scipy.ndimage`."""
    s, t = rng.uniform(0.7, 2.2), rng.uniform(0.6, 1.5)
    yield Case("scipy", ("gaussian",), {"sigma": s}, lambda a: ndimage.gaussian_filter(a.astype(float), s))
    sigmas = (s, min(t, 0.8 * s))
    yield Case("scipy", ("gaussian",), dict(zip(("sigma_rows", "sigma_cols"), sigmas, strict=True)),
               lambda a: ndimage.gaussian_filter(a.astype(float), sigmas))  # fmt: skip
    sides = tuple(int(n) for n in rng.choice([3, 5, 7, 9], 2))
    yield Case("scipy", ("box",), dict(zip(("rows", "cols"), map(float, sides), strict=True)),
               lambda a: ndimage.uniform_filter(a.astype(float), sides), np.ones(sides))  # fmt: skip
    axis = int(rng.integers(2))
    for name, verb, down in (("sobel", ndimage.sobel, [1, 2, 1]), ("prewitt", ndimage.prewitt, [1, 1, 1])):
        weights = np.outer(down, [1, 0, -1])
        yield Case("scipy", (name,), {"axis": axis}, lambda a, v=verb: v(a.astype(float), axis),
                   weights if axis else weights.T)  # fmt: skip
    cross = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    yield Case("scipy", ("laplacian",), {"neighbours": 4}, lambda a: ndimage.laplace(a.astype(float)), cross)
    yield Case("scipy", ("laplacian of gaussian",), {"sigma": s},
               lambda a: ndimage.gaussian_laplace(a.astype(float), s), None, WIDE)  # fmt: skip
    order = (1, 0) if axis == 0 else (0, 1)
    yield Case("scipy", ("gaussian derivative",), {"sigma": s, "axis": axis},
               lambda a: ndimage.gaussian_filter(a.astype(float), s, order=order), None, WIDE)  # fmt: skip
    shift = tuple(rng.uniform(-2, 2, 2).tolist())
    for order_ in (1, 3):
        yield Case("scipy", ("shift",), dict(zip(("rows", "cols"), shift, strict=True)),
                   lambda a, o=order_: ndimage.shift(a.astype(float), shift, order=o, mode="mirror"))  # fmt: skip
    small, few = min(t, 1.1), tuple(min(n, 7) for n in sides)  # of at most 15 x 15 taps
    yield Case("scipy", ("box then gaussian", "gaussian then box"), {"sigma": small},
               lambda a: ndimage.uniform_filter(ndimage.gaussian_filter(a.astype(float), small), few))  # fmt: skip
    yield Case("scipy", ("gaussian then sobel",), {"sigma": t, "axis": axis},
               lambda a: ndimage.sobel(ndimage.gaussian_filter(a.astype(float), t), axis))  # fmt: skip
    length, angle = rng.uniform(4, 10), rng.uniform(-80, 80)
    y, x = np.mgrid[-7:8, -7:8]
    radius = np.hypot(y, x)
    along, across = rng.uniform(1.6, 2.2), rng.uniform(0.7, 1.2)
    c, d = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    u, v = c * x - d * y, d * x + c * y
    alpha, beta, scale = rng.uniform(1.5, 2.5), rng.uniform(2.0, 4.0), rng.uniform(0.8, 1.5)
    turned = np.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2))
    row = np.clip(1 - np.abs(v), 0, None) * np.clip(length / 2 + 0.5 - np.abs(u), 0, 1)
    for names, numbers, taps in (
        (("gaussian",), {"sigma_along": along, "sigma_across": across, "angle": angle}, turned),
        (("moffat",), {"alpha": alpha, "beta": beta}, (1 + (radius / alpha) ** 2) ** -beta),
        (("exponential",), {"scale": scale}, np.exp(-radius / scale)),
        (("lorentzian",), {"gamma": alpha}, 1 / (1 + (radius / alpha) ** 2)),
        (("motion",), {"length": length, "angle": angle}, row),
    ):
        yield Case("scipy", names, numbers, lambda a, k=taps: ndimage.convolve(a.astype(float), k / k.sum()))
    inner, outer = 2, int(rng.integers(4, 7))
    ring = ((radius <= outer) & (radius > inner)).astype(float)
    yield Case(
        "scipy", ("ring",), {"outer": outer}, lambda a: ndimage.convolve(a.astype(float), ring / ring.sum()), ring
    )
    for m in (2, 3):
        first, settings = (m - 1) // 2, {"stride": m, "offset": (m - 1) // 2, "shape": (6, 6) if m == 2 else (7, 7)}
        yield Case("scipy", ("area",), {"rows": m, "cols": m},
                   lambda a, m=m, o=first: ndimage.uniform_filter(a.astype(float), m)[o::m, o::m], np.ones((m, m)),
                   settings)  # fmt: skip


def skimage_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Yield one of each family of `skimage.filters`."""
    import skimage.morphology

    s, amount, axis = rng.uniform(0.7, 2.0), rng.uniform(0.3, 2.0), int(rng.integers(2))
    yield Case("skimage", ("gaussian",), {"sigma": s},
               lambda a: skfilters.gaussian(a.astype(float), s, preserve_range=True))  # fmt: skip
    yield Case("skimage", ("unsharp mask",), {"radius": s, "amount": amount},
               lambda a: skfilters.unsharp_mask(a.astype(float), s, amount, preserve_range=True))  # fmt: skip
    for name, verb in (("sobel", skfilters.sobel_v if axis else skfilters.sobel_h),
                       ("scharr", skfilters.scharr_v if axis else skfilters.scharr_h),
                       ("prewitt", skfilters.prewitt_v if axis else skfilters.prewitt_h),
                       ("farid", skfilters.farid_v if axis else skfilters.farid_h)):  # fmt: skip
        yield Case("skimage", (name,), {"axis": axis}, lambda a, v=verb: v(a.astype(float)))
    yield Case("skimage", ("roberts",), {"diagonal": 1}, lambda a: skfilters.roberts_pos_diag(a.astype(float)))
    yield Case("skimage", ("laplacian",), {"neighbours": 4}, lambda a: skfilters.laplace(a.astype(float)))
    low = rng.uniform(0.6, 0.95)
    yield Case("skimage", ("difference of gaussians",), {"sigma_low": low, "sigma_high": 1.8 * low},
               lambda a: skfilters.difference_of_gaussians(a.astype(float), low, 1.8 * low))  # fmt: skip
    r = int(rng.integers(1, 7)) + 1
    disc = skimage.morphology.disk(r).astype(float)
    yield Case(
        "skimage", ("disc",), {"radius": r}, lambda a: ndimage.convolve(a.astype(float), disc / disc.sum()), disc
    )


def opencv_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Yield one of each family of OpenCV."""
    s, n, axis = rng.uniform(0.8, 1.8), int(rng.choice([5, 7, 9])), int(rng.integers(2))
    yield Case("opencv", ("gaussian",), {"sigma": s}, lambda a: cv2.GaussianBlur(a, (0, 0), s))
    yield Case("opencv", ("gaussian",), {"sigma": s}, lambda a: cv2.GaussianBlur(a, (n, n), s))
    sides = tuple(int(m) for m in rng.choice([3, 5, 7, 9], 2))
    yield Case("opencv", ("box",), dict(zip(("rows", "cols"), map(float, sides), strict=True)),
               lambda a: cv2.blur(a, sides[::-1]), np.ones(sides))  # fmt: skip
    d = (1, 0) if axis else (0, 1)
    size = int(rng.choice([3, 5]))
    yield Case("opencv", ("sobel",), {"axis": axis, "size": size}, lambda a: _wide(cv2.Sobel, a, *d, ksize=size))
    yield Case("opencv", ("scharr",), {"axis": axis}, lambda a: _wide(cv2.Scharr, a, *d))
    k = int(rng.choice([1, 3]))
    yield Case("opencv", ("laplacian",), {}, lambda a: _wide(cv2.Laplacian, a, ksize=k))
    five = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])
    yield Case("opencv", ("binomial",), {"rows": 5, "cols": 5}, lambda a: cv2.GaussianBlur(a, (5, 5), 0), five)
    yield Case("opencv", ("binomial",), {"rows": 5, "cols": 5}, lambda a: cv2.pyrDown(a), five,
               {"stride": 2, "shape": (9, 9)})  # fmt: skip
    sharpen = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])
    yield Case("opencv", ("sharpen",), {"amount": 1}, lambda a: cv2.filter2D(a, -1, sharpen.astype(float)), sharpen)
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    yield Case("opencv", ("emboss",), {}, lambda a: cv2.filter2D(a, -1, emboss.astype(float)), emboss[::-1, ::-1])
    m = int(rng.choice([5, 7, 9]))
    row = np.ones((1, m)) / m
    yield Case("opencv", ("motion", "box"), {"length": m}, lambda a: cv2.filter2D(a, -1, row), np.ones((1, m)))
    amount = rng.uniform(0.3, 1.7)
    yield Case("opencv", ("unsharp mask",), {"radius": s, "amount": amount},
               lambda a: cv2.addWeighted(a, 1 + amount, cv2.GaussianBlur(a, (0, 0), s), -amount, 0))  # fmt: skip
    shift = np.rint(rng.uniform(-2, 2, 2) * 32) / 32
    matrix = np.array([[1.0, 0, shift[1]], [0, 1, shift[0]]])
    for flag in (cv2.INTER_LINEAR, cv2.INTER_CUBIC):
        yield Case("opencv", ("shift",), {"rows": shift[0], "cols": shift[1]},
                   lambda a, f=flag: cv2.warpAffine(a, matrix, a.shape[::-1], flags=f))  # fmt: skip


def _wide(verb: Callable[..., np.ndarray], a: np.ndarray, *args: Any, **more: Any) -> np.ndarray:
    """Call a derivative of OpenCV, with results that may be negative."""
    return verb(a, cv2.CV_16S if a.dtype == np.uint8 else cv2.CV_64F, *args, **more)


def pillow_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Yield one of each family of Pillow, which knows 8 bits alone."""
    from PIL import ImageFilter

    def through(made: Any) -> Callable[[np.ndarray], np.ndarray]:
        return lambda a: np.asarray(pillow.fromarray(a).filter(made))

    s, r = rng.uniform(0.8, 2.2), float(rng.integers(1, 4))
    yield Case("pillow", ("gaussian",), {"sigma": s}, through(ImageFilter.GaussianBlur(s)))
    yield Case("pillow", ("box",), {"rows": 2 * r + 1}, through(ImageFilter.BoxBlur(r)), np.ones((int(2 * r + 1),) * 2))
    soft = r + rng.uniform(0.2, 0.8)
    yield Case("pillow", ("box",), {"rows": 2 * soft + 1, "cols": 2 * soft + 1}, through(ImageFilter.BoxBlur(soft)))
    percent = int(rng.integers(50, 200))
    yield Case("pillow", ("unsharp mask",), {"radius": s, "amount": percent / 100},
               through(ImageFilter.UnsharpMask(s, percent, 0)))  # fmt: skip
    for made, names in ((ImageFilter.SHARPEN, ("sharpen",)), (ImageFilter.DETAIL, ("sharpen",)),
                        (ImageFilter.EDGE_ENHANCE, ("sharpen",)), (ImageFilter.EMBOSS(), ("emboss",)),
                        (ImageFilter.BLUR, ("square ring",)), (ImageFilter.SMOOTH_MORE, ("smooth more",)),
                        (ImageFilter.SMOOTH, ("identity plus box",)),
                        (ImageFilter.CONTOUR, ("laplacian",))):  # fmt: skip
        size, scale, _, weights = made.filterargs
        yield Case("pillow", names, {}, through(made), np.array(weights).reshape(size))
    for factor, name, method in ((2, "bicubic", pillow.Resampling.BICUBIC), (3, "lanczos", pillow.Resampling.LANCZOS),
                                 (2, "bilinear", pillow.Resampling.BILINEAR)):  # fmt: skip
        yield Case("pillow", (name,), {}, lambda a, f=factor, m=method: _smaller(a, f, m), None,
                   {"stride": factor, "offset": (factor - 1) // 2, "shape": (2 * factor * 4,) * 2})  # fmt: skip


def _smaller(a: np.ndarray, factor: int, method: Any) -> np.ndarray:
    rows, cols = a.shape
    whole = a[: rows // factor * factor, : cols // factor * factor]
    return np.asarray(pillow.fromarray(whole).resize((whole.shape[1] // factor, whole.shape[0] // factor), method))


def cases(n: int, rng: np.random.Generator) -> Iterator[tuple[Case, int]]:
    """Yield n filters and 8 or 64 bits: of each tool that is installed all families in turn."""
    tools = [scipy_cases, *([skimage_cases] if skfilters else []), *([opencv_cases] if cv2 else [])]
    tools += [pillow_cases] if pillow else []
    count = 0
    while True:
        for make in tools:
            for bits in (8, 64):
                for case in make(rng):
                    if bits == 64 and case.tool == "pillow":
                        continue
                    yield case, bits
                    count += 1
                    if count == n:
                        return


def scene(rng: np.random.Generator) -> np.ndarray:
    """Return a picture of 8 bits that is never quite black or white."""
    picture = image_like_a_photograph(int(rng.integers(240, 320)), int(rng.integers(240, 320)), int(rng.integers(1e9)))
    return np.clip(np.rint(128 + 0.7 * (picture - 128)), 0, 255).astype(np.uint8)


def found(case: Case, bits: int, rng: np.random.Generator) -> Any:
    """Return the fit of what a filter made."""
    image = scene(rng)
    if bits == 8:
        target = case.apply(image)
        if target.dtype.kind == "f":  # as one would save it
            whole = np.rint(target)
            if case.weights is not None:
                target = whole.astype(np.uint8 if target.min() > -0.5 else np.int16)
            elif target.mean() > 50:
                target = np.clip(whole, 0, 255).astype(np.uint8)
            else:  # a derivative, about a medium gray
                target = np.clip(np.rint(128 + 40 / target.std() * target), 0, 255).astype(np.uint8)
    else:
        target = np.asarray(case.apply(image.astype(np.float64)), dtype=np.float64)
        target = target + rng.normal(0, NOISE, target.shape)
    settings = {"shape": SHAPE, "background": 0, **case.settings}
    stride = settings.get("stride", 1)
    if stride > 1:
        image = image[: target.shape[0] * stride, : target.shape[1] * stride]
    shape = settings.pop("shape")
    fit = kernelfit.find_kernel(image, target, shape, **settings)
    told = [f.verdict.name for f in fit.findings] + list(fit.notes)
    if any("COLOURED" in word or "not quite white" in word for word in told):  # rounded half way, then smoothed
        fit = kernelfit.find_kernel(image, target, shape, errors="sandwich", **settings)
    return fit


def main(n: int = 500, n_random: int = 500, seed: int = 11) -> None:
    """Print what is not named, and the table."""
    rng = np.random.default_rng(seed)
    rows: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    off_by: dict[str, list[float]] = collections.defaultdict(list)
    times = []
    for case, bits in cases(n, rng) if n else ():
        fit = found(case, bits, rng)
        if not times:
            fit.recognise()  # the first call imports and makes tables
        start = time.process_time()
        candidates = fit.recognise()
        if fit.kernel.shape == SHAPE:
            times.append(time.process_time() - start)
        row = rows[f"{case.tool}, {'8 bits' if bits == 8 else 'floats'}"]
        row["n"] += 1
        named = bool(candidates) and candidates[0].name in case.names
        row["named"] += named
        if not named:
            said = str(candidates[0]) if candidates else f"none, nearest {fit.nearest()}"
            print(f"{case.tool} {bits}: {case.names} {case.numbers}: {said} [{fit.verdict.name}]", flush=True)
        for name, truth in case.numbers.items() if named else ():
            got = candidates[0].parameters.get(name)
            if got is None or got.error == 0:
                wrong = got is not None and abs(got.value - truth) > 0.02
                row["discrete"] += 1
                row["discrete right"] += not wrong
                if wrong:
                    print(f"{case.tool} {bits}: {case.names} {name} {truth} told {candidates[0]}")
                continue
            off = got.value - truth
            off = ((off + 90) % 180 - 90 if name == "angle" else off) / got.error
            off_by[f"{case.tool} | {'8 bits' if bits == 8 else 'floats'} | {case.names[0]} | {name}"].append(off)
            row["intervals"] += 1
            row["inside"] += abs(off) < 1.96
            if abs(off) > 4:
                print(f"{case.tool} {bits}: {case.names} {name} {truth:.6g} told {got} ({off:.1f})")
        if case.weights is not None:
            row["integer"] += 1
            whole = fit.as_integers()
            right = whole is not None and _same(whole.numerators, case.weights)
            row["digit for digit"] += right
            if not right:
                print(f"{case.tool} {bits}: {case.names} integers {whole and whole.denominator}")
    if not n:
        print(f"random kernels without a name: {nameless(n_random, np.random.default_rng((seed, 1)))} of {n_random}")
        return
    print("\n| tool | outputs | named | intervals that hold | integer kernels digit for digit |")
    print("|---|---|---|---|---|")
    rows["all"] = sum(rows.values(), collections.Counter())
    for name, row in rows.items():
        print(f"| {name} | {row['n']} | {row['named']} ({row['named'] / row['n']:.1%}) | {row['inside']} of "
              f"{row['intervals']} ({row['inside'] / max(1, row['intervals']):.1%}) | {row['digit for digit']} of "
              f"{row['integer']} |")  # fmt: skip
    print("\n| tool | outputs | filter | number | intervals that hold | off by, in errors |")
    print("|---|---|---|---|---|---|")
    for name, off in sorted(off_by.items()):
        inside = sum(abs(z) < 1.96 for z in off)
        print(f"| {name} | {inside} of {len(off)} | {np.mean(off):+.2f} +- {np.std(off):.2f} |")
    quantile = np.quantile(times, 0.95)
    took = f"median {np.median(times):.3f} s of processor time, 95 % below {quantile:.3f} s, most {max(times):.3f} s"
    print(f"\nrecognise() of {SHAPE[0]} x {SHAPE[1]} taps: {took}")
    print(f"random kernels without a name: {nameless(n_random, np.random.default_rng((seed, 1)))} of {n_random}")


def nameless(n: int, rng: np.random.Generator) -> int:
    """Return how many random kernels get no name."""
    count = 0
    for i in range(n):
        image = scene(rng).astype(np.float64)
        sides = tuple(int(s) for s in rng.integers(2, 10, 2))
        kernel = rng.normal(size=sides) if i % 2 else rng.random(sides)
        kernel /= np.abs(kernel).sum() if i % 2 else kernel.sum()
        target = ndimage.convolve(image, kernel) + rng.normal(0, NOISE, image.shape)
        fit = kernelfit.find_kernel(image, target, tuple(s + 2 for s in sides))
        candidates = fit.recognise()
        count += not candidates
        if candidates:
            print(f"random {sides}: {candidates[0]}")
    return count


def _same(numerators: np.ndarray, weights: np.ndarray) -> bool:
    """Say whether two integer kernels are one, beside their common divisor and zeros around them."""
    cut = []
    for taps in (numerators, weights):
        whole = np.rint(taps).astype(np.int64)
        at = np.argwhere(whole)
        box = whole[tuple(slice(a, b + 1) for a, b in zip(at.min(axis=0), at.max(axis=0), strict=True))]
        cut.append(box // np.gcd.reduce(box.ravel()))
    one, other = cut  # tools turn kernels, and Pillow begins at the bottom
    return one.shape == other.shape and any((one == o).all() for o in (other, other[::-1], other[:, ::-1]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Filters of four tools, recognised.")
    parser.add_argument("n", nargs="?", type=int, default=500)
    parser.add_argument("n_random", nargs="?", type=int, default=500)
    parser.add_argument("--seed", type=int, default=11)
    main(**vars(parser.parse_args()))
