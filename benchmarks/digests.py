"""Digests of many small fits, to prove that a change of the code keeps the results.

    python -m benchmarks.digests write FILE.json              compute all scenes and store what came out
    python -m benchmarks.digests compare FILE.json            compute them again and name those that differ
    python -m benchmarks.digests compare FILE.json --only dask    those with this in their name

Plain fits, least squares of the direct and the fft engine, must agree to the bit in kernels, errors and sums. All other
arrays must agree to 1e-10 of their norm. Verdicts are compared by name, and told on a line of their own. A scene that
raises is stored as such, by the type of its exception.

The bits depend on the processor and on the versions of the libraries below, so that a file is for the machine that
wrote it; `compare` says so if they are others. So it does if BLAS has another number of threads: that leaves plain fits
as they are, but where a strength or a prior is searched for, its rounding moves the minimum found, and with it kernels
by up to 1e-4. The data come from the photograph, NumPy and SciPy alone, never from kernelfit.
"""

import argparse
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
import scipy.signal
import skimage.data
from numpy.typing import NDArray

import kernelfit

Array = NDArray[np.float64]
Shape = tuple[int, int]

#: What must agree to the bit in a plain fit; the rest agrees to `TOLERANCE` of its norm, as everything in other fits.
EXACT = ("kernel", "stderr", "kernels", "gram", "moment")
TOLERANCE = 1e-10
MODES = ("same", "valid", "full")
PADDING = {None: "constant", "fill": "constant", "wrap": "wrap", "symm": "symmetric", "mirror": "reflect",
           "nearest": "edge"}  # fmt: skip


class Scene(NamedTuple):
    """A name, whether the bits count, and what computes a fit, statistics, a map or a dict of arrays."""

    name: str
    plain: bool
    run: Callable[[], Any]


# ---------------------------------------------------------------------------------------------------------------- data


def picture(shape: Shape, corner: Shape = (110, 150), seed: int = 0) -> Array:
    """Return a crop of the photograph plus faint noise, with values that are no round numbers: sums of those round."""
    crop = skimage.data.camera()[corner[0] : corner[0] + shape[0], corner[1] : corner[1] + shape[1]]
    return crop / 255.0 + np.random.default_rng(seed).normal(0.0, 0.02, shape)


def blob(shape: Shape, seed: int = 1) -> Array:
    """Return a kernel of sum one without symmetry: an off-centre blob with rough taps."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = np.exp(-(((y - 0.4 * shape[0]) / (0.35 * shape[0])) ** 2) - ((x - 0.6 * shape[1]) / (0.3 * shape[1])) ** 2)
    taps = smooth * np.random.default_rng(seed).uniform(0.3, 1.0, shape)
    return taps / taps.sum()


def filtered(
    image: Array,
    taps: Array,
    mode: str | None = "same",
    boundary: str | None = None,
    fillvalue: float = 0.0,
    origin: int | Shape | None = None,
    operation: str = "convolution",
    stride: int | Shape = 1,
    offset: int | Shape = 0,
) -> Array:
    """Return what the kernel makes of the image, with the meaning that `find_kernel` gives these keywords."""
    sides = taps.shape
    centre = [(n - 1) // 2 for n in sides] if origin is None else list(np.broadcast_to(origin, 2))
    if operation == "correlation":
        taps, centre = taps[::-1, ::-1], [n - 1 - at for n, at in zip(sides, centre, strict=True)]
    constant = {"constant_values": fillvalue if boundary == "fill" else 0.0} if boundary in (None, "fill") else {}
    padded = np.pad(image, [(n, n) for n in sides], mode=PADDING[boundary], **constant)  # type: ignore[call-overload]
    whole = scipy.signal.convolve(padded, taps, mode="full", method="fft" if taps.size > 200 else "direct")
    steps, first = np.broadcast_to(stride, 2), np.broadcast_to(offset, 2)
    cuts = []
    for n, side, at, step, start in zip(image.shape, sides, centre, steps, first, strict=True):
        begin, length = {"same": (at, n), "valid": (side - 1, n - side + 1), "full": (0, n + side - 1)}[mode or "same"]
        cuts.append(slice(side + begin + start, side + begin + length, step))
    return np.array(whole[tuple(cuts)])


def noisy(target: Array, level: float = 0.01, seed: int = 2) -> Array:
    """Return the target plus white noise, `level` times its own standard deviation."""
    return target + np.random.default_rng(seed).normal(0.0, level * target.std(), target.shape)


@functools.cache
def pair(shape: Shape = (70, 83), kernel: Shape = (5, 8), level: float = 0.02) -> tuple[Array, Array]:
    """Return an image and its noisy same-size target, made with zeros beyond the edge; both read-only."""
    image = picture(shape)
    target = noisy(filtered(image, blob(kernel)), level)
    image.setflags(write=False)
    target.setflags(write=False)
    return image, target


def holes(shape: Shape, share: float = 0.03, seed: int = 3) -> NDArray[np.bool_]:
    """Return a mask of scattered pixels and a blot."""
    mask = np.random.default_rng(seed).random(shape) < share
    mask[shape[0] // 3 : shape[0] // 3 + 6, shape[1] // 2 : shape[1] // 2 + 9] = True
    return mask


def colours(shape: Shape = (52, 61), kernel: Shape = (4, 5)) -> tuple[Array, Array]:
    """Return an image of three channels and its target, each channel with a kernel of its own."""
    planes = [picture(shape, corner, seed) for seed, corner in enumerate([(110, 150), (140, 190), (180, 130)])]
    targets = [noisy(filtered(p, blob(kernel, 5 + i)), 0.01, 9 + i) for i, p in enumerate(planes)]
    return np.stack(planes, axis=-1), np.stack(targets, axis=-1)


def pairs() -> tuple[list[Array], list[Array]]:
    """Return three images of different sizes and their targets, of one kernel."""
    images = [picture(shape, (100 + 9 * i, 140), i) for i, shape in enumerate([(40, 57), (61, 44), (52, 50)])]
    return images, [noisy(filtered(image, blob((5, 4))), 0.02, 20 + i) for i, image in enumerate(images)]


# -------------------------------------------------------------------------------------------------------------- scenes


def fit(image: Any, target: Any, shape: Any, **keywords: Any) -> Any:
    """Find a kernel."""
    return kernelfit.find_kernel(image, target, shape, **keywords)


def made(shape: Shape, size: Shape, level: float, engine: str, **convention: Any) -> Any:
    """Find a kernel in a target that was made under the same convention."""
    image = picture(size)
    target = filtered(image, blob(shape), **convention)
    return fit(image, noisy(target, level) if level else target, shape, method=engine, **convention)


def conventions() -> Iterator[Scene]:
    """Modes, boundaries, operations, origins, strides and shapes of kernels, with and without noise."""
    count = 0
    for mode in MODES:
        for boundary in PADDING:
            for operation, shape in (("convolution", (5, 4)), ("correlation", (4, 7))):
                convention = {"mode": mode, "boundary": boundary, "operation": operation}
                if boundary == "fill":
                    convention |= {"fillvalue": 0.3 * (count % 3)}
                engine, level = ("direct", "fft")[count % 2], (0.0, 0.01, 0.1)[count // 2 % 3]
                name = f"convention {mode} {boundary} {operation} {engine} noise {level:g}"
                yield Scene(name, True, functools.partial(made, shape, (58, 71), level, engine, **convention))
                count += 1
    more: list[tuple[str, Shape, Shape, float, dict[str, Any]]] = [
        ("origin corner", (5, 4), (58, 71), 0.01, {"origin": (0, 0)}),
        ("origin last tap, wrap", (5, 4), (58, 71), 0.01, {"origin": (4, 3), "boundary": "wrap"}),
        ("origin int, correlation, symm", (5, 7), (58, 71), 0.0,
         {"origin": 1, "operation": "correlation", "boundary": "symm"}),
        ("stride 2 3 from 1 0", (5, 4), (90, 101), 0.01, {"stride": (2, 3), "offset": (1, 0)}),
        ("stride 2 from 0 1, symm", (6, 5), (91, 88), 0.01, {"stride": 2, "offset": (0, 1), "boundary": "symm"}),
        ("stride 3 1, valid, correlation", (4, 7), (90, 71), 0.0,
         {"stride": (3, 1), "offset": (2, 0), "mode": "valid", "operation": "correlation"}),
        ("stride 1 2, full, fill", (3, 6), (58, 90), 0.01,
         {"stride": (1, 2), "offset": (0, 1), "mode": "full", "boundary": "fill", "fillvalue": 0.2}),
        ("stride beyond the kernel", (3, 2), (140, 150), 0.01, {"stride": (4, 5), "offset": (3, 2)}),
        ("stride 2, origin, wrap", (5, 4), (90, 84), 0.01, {"stride": 2, "origin": (1, 0), "boundary": "wrap"}),
        ("kernel 1x9", (1, 9), (58, 71), 0.01, {}),
        ("kernel 9x1, nearest", (9, 1), (58, 71), 0.01, {"boundary": "nearest"}),
        ("kernel 1x1", (1, 1), (58, 71), 0.01, {}),
        ("kernel 2x6, mirror", (2, 6), (58, 71), 0.01, {"boundary": "mirror"}),
        ("kernel 6x2, without noise", (6, 2), (58, 71), 0.0, {}),
        ("image narrow", (7, 3), (300, 6), 0.01, {}),
        ("image flat, wrap", (3, 5), (5, 300), 0.01, {"boundary": "wrap"}),
        ("kernel 15x11", (15, 11), (90, 112), 0.01, {}),
        ("kernel 14x20, wrap", (14, 20), (120, 110), 0.01, {"boundary": "wrap"}),
        ("kernel 31x27", (31, 27), (200, 240), 0.01, {}),
        ("kernel 31x27, symm, without noise", (31, 27), (200, 240), 0.0, {"boundary": "symm"}),
    ]  # fmt: skip
    for name, shape, size, level, convention in more:
        for engine in ("direct", "fft"):
            yield Scene(f"{name} {engine}", True, functools.partial(made, shape, size, level, engine, **convention))
    yield Scene("kernel 31x27 auto, fill, full", True, functools.partial(
        made, (31, 27), (200, 240), 0.01, "auto", mode="full", boundary="fill"))  # fmt: skip


def arrays() -> Iterator[Scene]:
    """Types and layouts of arrays, numbers of workers."""

    def typed(kind: str, span: float, engine: str, **keywords: Any) -> Any:
        image, target = pair()
        low, high = target.min(), target.max()
        whole = span * (0.05 + 0.9 * (target - low) / (high - low))  # away from the ends of the type
        return fit((span * np.clip(image, 0, 1)).astype(kind), whole.astype(kind), (5, 8), method=engine, **keywords)

    for kind, span in (("uint8", 255.0), ("uint16", 65535.0), ("int16", 32767.0), ("float32", 1.0), (">f8", 1.0)):
        for engine in ("direct", "fft"):
            yield Scene(f"dtype {kind} {engine}", True, functools.partial(typed, kind, span, engine))
    yield Scene("dtype uint8, wrap, all used", True, functools.partial(
        typed, "uint8", 255.0, "auto", boundary="wrap", saturated=None))  # fmt: skip

    def laid(how: Callable[[Array], Array], engine: str) -> Any:
        image, target = pair()
        return fit(how(image), how(target), (5, 8), method=engine)

    def stepped(array: Array) -> Array:
        return np.repeat(np.repeat(array, 2, axis=0), 3, axis=1)[::2, ::3]

    def reversed_twice(array: Array) -> Array:
        return np.array(array[::-1, ::-1])[::-1, ::-1]

    for name, how in (("Fortran", np.asfortranarray), ("steps", stepped), ("reversed", reversed_twice)):
        for engine in ("direct", "fft"):
            yield Scene(f"layout {name} {engine}", True, functools.partial(laid, how, engine))

    def worked(workers: int) -> Any:
        image, target = pair((150, 170), (9, 7))
        return fit(image, target, (9, 7), workers=workers)

    for workers in (1, 3):
        yield Scene(f"workers {workers}", True, functools.partial(worked, workers))


def planes() -> Iterator[Scene]:
    """Channels and several pairs."""

    def coloured(channels: str, axis: int, **keywords: Any) -> Any:
        image, target = (np.moveaxis(a, -1, axis) for a in colours())
        return fit(image, target, (4, 5), channels=channels, channel_axis=axis, **keywords)

    for channels in ("shared", "separate", "mixed"):
        for axis, keywords in ((-1, {"method": "direct"}), (0, {"method": "fft"}), (1, {"boundary": "fill"})):
            name = f"channels {channels} axis {axis} {' '.join(keywords.values())}"
            yield Scene(name, True, functools.partial(coloured, channels, axis, **keywords))
    yield Scene("channels mixed, background 0", False, functools.partial(coloured, "mixed", -1, background=0))
    yield Scene("channels separate, mask", False, functools.partial(coloured, "separate", -1,
                                                                    mask=holes((52, 61))[..., None]))  # fmt: skip

    def several(**keywords: Any) -> Any:
        images, targets = pairs()
        return fit(images, targets, (5, 4), **keywords)

    for engine in ("direct", "fft"):
        yield Scene(f"pairs {engine}", True, functools.partial(several, method=engine))
    yield Scene("pairs, fill", True, functools.partial(several, boundary="fill"))
    yield Scene("pairs, background 1", False, functools.partial(several, background=1))
    yield Scene("pairs, masks", False, lambda: several(mask=[holes(image.shape) for image in pairs()[0]]))

    def coloured_pairs() -> Any:
        (a, x), (b, y) = colours(), colours((47, 50))
        return fit([a, b], [x, y], (4, 5), channel_axis=-1, channels="separate")

    yield Scene("pairs of channels separate", True, coloured_pairs)


def weights() -> Iterator[Scene]:
    """Backgrounds, masks, weights, outliers, noise, and what else is not a plain fit."""
    image, target = pair()
    mask = holes(image.shape)
    y, x = (np.linspace(-1, 1, n) for n in image.shape)
    uneven = 1.0 + y[:, None] ** 2 + 0.5 * x
    rng = np.random.default_rng(4)

    def altered(**keywords: Any) -> Any:
        return fit(image, target, (5, 8), **keywords)

    for degree in (0, 1, 2):
        for boundary in (None, "symm"):
            name = f"background {degree} {boundary}"
            yield Scene(name, False, functools.partial(altered, background=degree, boundary=boundary))
    yield Scene("background 1, stride 2", False, lambda: fit(image, target[::2, ::2], (5, 8), stride=2, background=1))
    for name, keywords in {
        "mask": {"mask": mask},
        "mask, symm, direct": {"mask": mask, "boundary": "symm", "method": "direct"},
        "mask, fft": {"mask": mask, "method": "fft"},
        "mask of most": {"mask": ~holes(image.shape, 0.2)},
        "image_mask": {"image_mask": holes(image.shape, 0.002)},
        "image_mask and mask, wrap": {"image_mask": holes(image.shape, 0.002, 8), "mask": mask, "boundary": "wrap"},
        "weights": {"weights": uneven},
        "weights, fill, fft": {"weights": uneven, "boundary": "fill", "method": "fft"},
        "weights and mask": {"weights": uneven, "mask": mask},
        "weights, background 1": {"weights": uneven, "background": 1},
        "mask, background 0": {"mask": mask, "background": 0},
        "image noise": {"image_noise": 0.01},
        "image noise, mask": {"image_noise": 0.01, "mask": mask},
        "image noise, wrap": {"image_noise": 0.01, "boundary": "wrap"},
        "sandwich": {"errors": "sandwich"},
        "sandwich, symm": {"errors": "sandwich", "boundary": "symm"},
        "sandwich, mask": {"errors": "sandwich", "mask": mask},
        "saturated given": {"saturated": (None, float(np.quantile(target, 0.97)))},
        "saturated both": {"saturated": (float(np.quantile(target, 0.02)), float(np.quantile(target, 0.97)))},
    }.items():
        yield Scene(name, False, functools.partial(altered, **keywords))

    def correlated(**keywords: Any) -> Any:
        noise = scipy.ndimage.gaussian_filter(np.random.default_rng(5).standard_normal(target.shape), 1.0)
        return fit(image, target + 0.02 * noise, (5, 8), **keywords)

    yield Scene("sandwich, noise correlated", False, functools.partial(correlated, errors="sandwich"))
    yield Scene("plain errors, noise correlated", True, functools.partial(correlated, method="fft"))

    def with_nan() -> Any:
        source, result = image.copy(), target.copy()
        source[7, 9] = result[20, 30] = np.nan
        result[40, 11] = np.inf
        return fit(source, result, (5, 8), nan="mask")

    def clipped(saturated: Any) -> Any:
        return fit(image, np.clip(290.0 * target, 0, 255).astype(np.uint8), (5, 8), saturated=saturated)

    yield Scene("nan masked", False, with_nan)
    yield Scene("saturated auto", False, functools.partial(clipped, "auto"))
    yield Scene("saturated None", True, functools.partial(clipped, None))

    counts = rng.poisson(400.0 * np.clip(filtered(np.clip(image, 0.01, None), blob((5, 8)), boundary="symm"), 0, None))
    for name, noise in (("poisson", "poisson"), ("gain and read", (1.5, 4.0))):
        for boundary in (None, "symm"):
            yield Scene(f"noise {name} {boundary}", False, functools.partial(
                fit, image, counts.astype(float), (5, 8), noise=noise, boundary=boundary))  # fmt: skip

    dirty = np.array(target)
    dirty.ravel()[rng.choice(dirty.size, 90, replace=False)] += rng.normal(0.0, 1.0, 90)
    for robust in ("huber", "tukey", "clip"):
        for keywords in ({}, {"boundary": "fill"}):
            name = f"robust {robust} {' '.join(keywords.values())}".rstrip()
            yield Scene(name, False, functools.partial(fit, image, dirty, (5, 8), robust=robust, **keywords))
    yield Scene("robust huber, mask, background 0", False, functools.partial(
        fit, image, dirty, (5, 8), robust="huber", mask=mask, background=0))  # fmt: skip


def iterations() -> Iterator[Scene]:
    """Conjugate gradients, and division by frequency."""
    for boundary in (None, "wrap", "symm"):
        yield Scene(f"cg 45x47 {boundary}", False, functools.partial(
            made, (45, 47), (300, 280), 0.05, "cg", boundary=boundary))  # fmt: skip
    yield Scene("cg 9x7", False, functools.partial(made, (9, 7), (90, 83), 0.05, "cg"))
    for boundary in PADDING:
        yield Scene(f"wiener {boundary}", False, functools.partial(
            made, (7, 6), (90, 104), 0.02, "wiener", boundary=boundary))  # fmt: skip
    yield Scene("wiener full fill", False, functools.partial(
        made, (7, 6), (90, 104), 0.02, "wiener", mode="full", boundary="fill"))  # fmt: skip
    yield Scene("wiener valid, correlation", False, functools.partial(
        made, (7, 6), (90, 104), 0.02, "wiener", mode="valid", operation="correlation"))  # fmt: skip

    def divided(shape: Shape, **keywords: Any) -> Any:
        image, target = pair((120, 133), shape)
        return fit(image, target, shape, method="wiener", **keywords)

    yield Scene("wiener, balance given", False, functools.partial(divided, (5, 8), balance=1e-4))
    yield Scene("wiener 35x33, cropped", False, functools.partial(divided, (35, 33)))

    def in_blocks() -> Any:
        image, target = pair((200, 180), (5, 8))
        return kernelfit.accumulate_spectra(image, target, (5, 8), block=(64, 48)).solve()

    yield Scene("spectra in blocks", False, in_blocks)


def later(name: str, *settings: Any, **keywords: Any) -> Callable[[], Any]:
    """Return a call of something public, whose name is looked up when it is called."""
    return lambda: getattr(kernelfit, name)(*settings, **keywords)


def solvers() -> Iterator[Scene]:
    """Every solver, on statistics and by the keyword."""
    shape = (9, 11)
    image, target = pair((80, 91), shape, 0.05)
    y, x = np.mgrid[-4:5, -5:6]
    basis = np.array([np.exp(-(y**2 + x**2) / (2.0 * width**2)) for width in (1, 2, 3, 4)])
    every = {
        f"Penalized {penalty} {strength}": later("Penalized", penalty, strength)
        for penalty in ("gradient", "laplacian", "biharmonic", "ridge")
        for strength in ("gcv", 1e-4)
    }
    every |= {f"Constrained {s}": later("Constrained", symmetric=s) for s in ("point", "rows", "columns", "both")}
    every |= {
        "Penalized discrepancy": later("Penalized", "gradient", "discrepancy", 0.009),
        "Penalized matrix": later("Penalized", np.diag(1.0 + (y**2 + x**2).ravel()), 1e-3),
        "GaussianProcess": later("GaussianProcess"),
        "GaussianProcess matern32": later("GaussianProcess", "matern32", "gaussian", None),
        "GaussianProcess non-negative": later("GaussianProcess", "exponential", "power", "point", True),
        "NonNegative": later("NonNegative"),
        "NonNegative total": later("NonNegative", total=1.0),
        "NonNegative penalty": later("NonNegative", penalty="laplacian"),
        "NonNegative penalty given": later("NonNegative", penalty="gradient", strength=1e-3, total=1.0),
        "Constrained total": later("Constrained", total=1.0),
        "Constrained both ways": later("Constrained", 1.0, "point"),
        "InBasis": later("InBasis", basis),
        "Sparse ebic": later("Sparse"),
        "Sparse bic": later("Sparse", "bic"),
        "Sparse 12": later("Sparse", n_taps=12),
        "auto": lambda: "auto",
    }

    def solved(make: Callable[[], Any]) -> Any:
        return kernelfit.accumulate(image, target, shape).solve(make())

    def found(make: Callable[[], Any], **keywords: Any) -> Any:
        return fit(image, target, shape, solver=make(), **keywords)

    for name, make in every.items():
        yield Scene(f"solver {name}", False, functools.partial(solved, make))
    yield Scene("solver LeastSquares", True, functools.partial(solved, later("LeastSquares")))
    yield Scene("find LeastSquares", True, functools.partial(found, later("LeastSquares"), boundary="fill"))
    mask = holes(image.shape)
    for name, keywords in {
        "Penalized biharmonic gcv": {"boundary": "fill"},
        "NonNegative": {"mask": mask},
        "Sparse ebic": {"background": 0},
        "Constrained point": {"boundary": "symm", "noise": (800.0, 5.0)},
        "GaussianProcess matern32": {"robust": "huber"},
        "auto": {"method": "fft"},
    }.items():
        yield Scene(f"find {name} {' '.join(keywords)}", False, functools.partial(found, every[name], **keywords))
    yield Scene("solver singular", False, lambda: fit(np.ones((30, 37)) + np.arange(37) % 3, target[:30, :37], (3, 5)))


def sums() -> Iterator[Scene]:
    """Statistics, streams, maps and Dask."""
    shape = (5, 4)
    image, target = pair((110, 131), shape)
    mask = holes(image.shape)

    for engine in ("direct", "fft"):
        sums_of = later("accumulate", image, target, shape, boundary="symm", method=engine)
        yield Scene(f"accumulate {engine}", True, sums_of)
    yield Scene("accumulate, stride", True, lambda: kernelfit.accumulate(
        image, target[1::2, ::3], shape, stride=(2, 3), offset=(1, 0)))  # fmt: skip
    yield Scene("accumulate, added and solved", True, lambda: (
        kernelfit.accumulate(image[:60], target[:60], shape) + kernelfit.accumulate(image[60:], target[60:], shape)
    ).solve())  # fmt: skip
    yield Scene("accumulate, mask", False, lambda: kernelfit.accumulate(image, target, shape, mask=mask))
    uneven = 1.0 + image**2
    yield Scene("accumulate, weights", False, lambda: kernelfit.accumulate(image, target, shape, weights=uneven))

    def streamed(items: Callable[[], Any], **keywords: Any) -> Any:
        return kernelfit.accumulate_stream(items(), shape, **keywords)

    def frames() -> Iterator[tuple[Array, Array]]:
        yield from zip(*pairs(), strict=True)

    def one() -> list[Any]:
        return [(image, target)]

    for engine in ("direct", "fft"):
        yield Scene(f"stream of pairs {engine}", True, functools.partial(streamed, frames, method=engine))
        yield Scene(f"stream in blocks {engine}", True, functools.partial(
            streamed, one, method=engine, block=(32, 40), boundary="nearest"))  # fmt: skip
    yield Scene("stream, small blocks, wrap", True, functools.partial(streamed, one, block=17, boundary="wrap"))
    yield Scene("stream, stride", True, lambda: kernelfit.accumulate_stream(
        [(image, target[::2, ::2])], shape, stride=2, block=23))  # fmt: skip
    yield Scene("stream, solved", True, lambda: streamed(frames, workers=1).solve())
    yield Scene("stream, masks", False, lambda: streamed(lambda: [(image, target, mask), (image, target)], block=50))
    yield Scene("stream, weights", False, lambda: streamed(
        lambda: [{"image": image, "target": target, "weights": uneven}]))  # fmt: skip

    def mapped(tiles: Any, **keywords: Any) -> Any:
        return kernelfit.kernel_map(image, target, shape, tiles, **keywords)

    for engine in ("direct", "fft", "auto"):
        yield Scene(f"map 3x4 {engine}", True, functools.partial(mapped, (3, 4), method=engine))
    yield Scene("map 8x9, fill", True, functools.partial(mapped, (8, 9), boundary="fill"))
    yield Scene("map, overlap", True, functools.partial(mapped, (4, 3), overlap=(3, 5)))
    yield Scene("map, correlation, wrap", True, functools.partial(
        mapped, (2, 5), operation="correlation", boundary="wrap"))  # fmt: skip
    yield Scene("map, smoothness", False, functools.partial(mapped, (4, 5), smoothness=0.3))
    yield Scene("map, mask", False, functools.partial(mapped, (3, 4), mask=mask))
    yield Scene("map, weights", False, functools.partial(mapped, (3, 4), weights=uneven))
    yield Scene("map, smoothness and mask", False, functools.partial(mapped, (4, 3), smoothness=1.0, mask=mask))
    yield Scene("map, solver", False, lambda: mapped((2, 3), solver=kernelfit.Penalized("gradient")))

    def lazy(image: Array, target: Array, door: str = "find_kernel", **keywords: Any) -> Any:
        import dask.array

        a, b = dask.array.from_array(image, chunks=(50, 37)), dask.array.from_array(target, chunks=(41, 60))
        return getattr(kernelfit.scale, door)(a, b, shape, **keywords)

    for engine in ("direct", "fft"):
        yield Scene(f"dask {engine}", True, functools.partial(lazy, image, target, method=engine))
    yield Scene("dask, symm, blocks", True, functools.partial(lazy, image, target, boundary="symm", block=(30, 45)))
    yield Scene("dask, without noise", True, lambda: lazy(
        image, filtered(image, blob(shape), boundary="wrap"), boundary="wrap", block=64))  # fmt: skip
    yield Scene("dask, valid, correlation", True, lambda: lazy(
        image, target[2:-2, 1:-2], mode="valid", operation="correlation"))  # fmt: skip
    yield Scene("dask, stride", True, lambda: lazy(image, target[::2, 1::3], stride=(2, 3), offset=(0, 1)))
    yield Scene("dask accumulate", True, functools.partial(lazy, image, target, "accumulate", block=48))
    yield Scene("dask, mask", False, functools.partial(lazy, image, target, mask=mask, block=48))
    yield Scene("dask, weights", False, functools.partial(lazy, image, target, weights=uneven))
    yield Scene("dask, solver", False, lambda: lazy(image, target, solver=kernelfit.Penalized("gradient")))


def uses() -> Iterator[Scene]:
    """Use kernels: restoration, checks, measurements."""
    shape = (7, 6)
    taps = blob(shape)

    def blurred(boundary: str | None = "symm", level: float = 0.02) -> Array:
        return noisy(filtered(picture((60, 73)), taps, boundary=boundary), level)

    def restored(boundary: str | None, **keywords: Any) -> Any:
        return {"image": kernelfit.deconvolve(blurred(boundary or "symm"), taps, boundary=boundary, **keywords)}

    for name, boundary, keywords in (
        ("wrap", "wrap", {}),
        ("auto", None, {}),
        ("fade", None, {"edges": "fade"}),
        ("solve", None, {"edges": "solve", "balance": 1e-3}),
        ("identity", "wrap", {"penalty": "identity"}),
        ("mask", None, {"mask": holes((60, 73)), "balance": 1e-2}),
        ("correlation", "wrap", {"operation": "correlation", "origin": (1, 2)}),
    ):
        yield Scene(f"deconvolve {name}", False, functools.partial(restored, boundary, **keywords))

    def checked(boundary: str, declared: str | None) -> Any:
        image, target = picture((60, 73)), blurred(boundary)
        check = kernelfit.check_boundary(image, target, fit(image, target, shape, boundary=declared))
        rows = sorted(check.rows, key=lambda row: row.boundary)
        names = [str(check.best), *check.equal, "possible", *check.possible]
        return {name: [getattr(row, name) for row in rows] for name in ("rms", "ratio", "distance")} | {
            "verdicts": names
        }

    for boundary, declared in (("symm", None), ("wrap", None), ("nearest", "nearest"), ("fill", "symm")):
        yield Scene(f"check_boundary {boundary} {declared}", False, functools.partial(checked, boundary, declared))

    def supported() -> Any:
        image, target = picture((80, 91)), noisy(filtered(picture((80, 91)), blob((3, 4))), 0.05)
        support = kernelfit.choose_support(kernelfit.accumulate(image, target, (9, 8)))
        small = described(support.stats.solve())
        return small | {"support": [*support.shape, *support.corner], "p_value": support.p_value}

    def measured(**keywords: Any) -> Any:
        rows = kernelfit.measure_psf(fit(picture((60, 73)), blurred(), shape, **keywords)).rows()
        return {"numbers": [number for _, numbers, _ in rows for number in numbers if not isinstance(number, str)]}

    yield Scene("choose_support", False, supported)
    yield Scene("measure_psf", False, measured)
    yield Scene("measure_psf, correlation, symm", False, functools.partial(
        measured, operation="correlation", boundary="symm"))  # fmt: skip
    for boundary in ("fill", "wrap", "symm", "mirror", "nearest"):
        for mode in MODES:
            yield Scene(f"apply_kernel {mode} {boundary}", False, functools.partial(applied, mode, boundary))
    yield Scene("predict and residual", False, lambda: residual(shape, blurred()))
    yield Scene("compare_kernels", False, lambda: compared(shape, blurred(), blurred(level=0.05)))


def applied(mode: str, boundary: str) -> dict[str, Any]:
    """Apply a kernel."""
    return {"image": kernelfit.apply_kernel(picture((31, 37)), blob((4, 5)), mode=mode, boundary=boundary)}


def residual(shape: Shape, target: Array) -> dict[str, Any]:
    """Return the residual of a fit with a background."""
    image = picture((60, 73))
    return {"image": fit(image, target, shape, background=1).residual(image, target)}


def compared(shape: Shape, first: Array, second: Array) -> dict[str, Any]:
    """Compare two kernels."""
    image = picture((60, 73))
    found = kernelfit.compare_kernels(fit(image, first, shape), fit(image, second, shape))
    return {name: getattr(found, name) for name in ("difference", "stderr", "chi2", "p_value")}


def scenes() -> list[Scene]:
    """Return all scenes."""
    every = [s for group in (conventions, arrays, planes, weights, iterations, solvers, sums, uses) for s in group()]
    twice = [name for name, count in Counter(s.name for s in every).items() if count > 1]
    assert not twice, twice
    return every


# ------------------------------------------------------------------------------------------------------------- digests


def described(result: Any) -> dict[str, Any]:
    """Return what counts of a result by name: arrays, and under "verdicts" the names of its verdicts."""
    if isinstance(result, Mapping):
        return dict(result)
    names: tuple[str, ...]
    if hasattr(result, "kernels"):
        names = ("kernels", "stderr", "noise_std", "common", "variation", "p_value")
        findings = [found for row in result.findings for tile in row for found in tile]
    elif hasattr(result, "kernel"):
        names, findings = ("kernel", "stderr", "rss", "noise_std", "rank", "n_pixels"), list(result.findings)
    else:
        names, findings = ("gram", "moment", "target_energy", "target_sum", "n_pixels"), []
    out = {name: getattr(result, name) for name in names}
    if getattr(result, "background", None) is not None:
        out["background"] = result.background.coefficients
    return out | {"verdicts": [found.verdict.name for found in findings]}


def digest(scene: Scene) -> dict[str, Any]:
    """Compute a scene and return its record."""
    record: dict[str, Any] = {"class": "plain" if scene.plain else "other"}
    try:
        found = described(scene.run())
    except Exception as error:  # also what a broken change raises; the other scenes still count
        return record | {"error": f"{type(error).__name__}: {error}"}
    record["verdicts"] = found.pop("verdicts", [])
    values = {
        name: np.ascontiguousarray(
            [v for v in value if not isinstance(v, str)] if isinstance(value, tuple) else value, dtype=np.float64
        )
        for name, value in found.items()
    }
    if scene.plain:
        record["sha256"] = {n: hashlib.sha256(v.tobytes()).hexdigest() for n, v in values.items() if n in EXACT}
    return record | {"arrays": {name: value.tolist() for name, value in values.items()}}


def distance(before: Any, after: Any) -> float:
    """Return how far two arrays are apart, over the norm of the first; infinite if they cannot be compared."""
    a, b = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if a.shape != b.shape:
        return np.inf
    known = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~known], b[~known], equal_nan=True):
        return np.inf
    gap = float(np.linalg.norm(a[known] - b[known]))
    size = float(np.linalg.norm(a[known]))
    return gap / size if size else np.inf if gap else 0.0


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Say in what two records of numbers differ."""
    if "error" in before or "error" in after:
        kinds = [record.get("error", "").partition(":")[0] for record in (before, after)]
        told = [record.get("error", "a result")[:200] for record in (before, after)]
        return [] if kinds[0] == kinds[1] else [f"{told[0]} before, {told[1]} now"]
    out = []
    for name in sorted({*before["arrays"], *after["arrays"]}):
        if name not in before["arrays"] or name not in after["arrays"]:
            out.append(f"{name} only {'before' if name in before['arrays'] else 'now'}")
            continue
        apart = distance(before["arrays"][name], after["arrays"][name])
        hashes = [record.get("sha256", {}).get(name) for record in (before, after)]
        if hashes[0] != hashes[1] or not apart <= TOLERANCE:
            out.append(f"{name} by {apart:.1e} of its norm")
    return out


def environment() -> dict[str, str]:
    """Return what the bits depend on besides the code."""
    names = ("numpy", "scipy", "scikit-image", "numba", "pyfftw")
    versions = {name: importlib.metadata.version(name) for name in names}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = {name: os.environ.get(name, "") for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    here = {"python": platform.python_version(), "machine": platform.machine(), "cores": str(cores)}
    return here | versions | limits


def main(arguments: list[str] | None = None) -> int:
    """Write or compare, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", help="scenes with this in their name")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument("--times", action="store_true", help="tell the ten slowest scenes")
    asked = parser.parse_args(arguments)
    if asked.task == "write" and asked.file.exists() and not asked.overwrite:
        parser.error(f"got {asked.file}, which exists; need another name, or --overwrite")
    reference = json.loads(asked.file.read_text()) if asked.task == "compare" else {}
    warnings.simplefilter("ignore")
    started, seconds, records = time.perf_counter(), {}, {}
    for scene in scenes():
        if asked.only in scene.name:
            begin = time.perf_counter()
            records[scene.name] = digest(scene)
            seconds[scene.name] = time.perf_counter() - begin
    if asked.times:
        for name in sorted(seconds, key=seconds.__getitem__)[:-11:-1]:
            print(f"{seconds[name]:7.2f} s  {name}")
    counts = Counter("raised" if "error" in record else record["class"] for record in records.values())
    total = f"{len(records)} scenes ({', '.join(f'{n} {kind}' for kind, n in sorted(counts.items()))})"
    total += f" by kernelfit {kernelfit.__version__} in {time.perf_counter() - started:.0f} s"
    if asked.task == "write":
        for name, record in records.items():
            if "error" in record:
                print(f"{name}: {record['error']}")
        part = asked.file.with_name(asked.file.name + ".part")
        part.write_text(json.dumps({"kernelfit": kernelfit.__version__, "made with": environment(), "scenes": records}))
        os.replace(part, asked.file)
        print(total)
        return 0
    return compare(reference, asked.only, records, total)


def compare(reference: dict[str, Any], only: str, records: dict[str, Any], total: str) -> int:
    """Print what differs from the content of a file, and return the exit code."""
    then, now = reference["made with"], environment()
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            print(f"note: {name} was {then.get(name) or 'unset'}, is {now.get(name) or 'unset'}; results may differ")
    known = {name: record for name, record in reference["scenes"].items() if only in name}
    numbers = verdicts = missing = 0
    for name in dict.fromkeys([*known, *records]):
        if name not in known or name not in records:
            print(f"{name}: only {'in the file' if name in known else 'computed now'}")
            missing += 1
            continue
        before, after = known[name], json.loads(json.dumps(records[name]))
        if found := differences(before, after):
            print(f"{name} ({before['class']}): {'; '.join(found)}")
            numbers += 1
        names = [record.get("verdicts", []) for record in (before, after)]
        if names[0] != names[1] and "error" not in before and "error" not in after:
            print(f"{name}: verdicts were {', '.join(names[0]) or 'none'}, are {', '.join(names[1]) or 'none'}")
            verdicts += 1
    print(f"{numbers} differ in numbers, {verdicts} in verdicts, {missing} are not in both; {total}")
    return 1 if numbers or verdicts or missing else 0


if __name__ == "__main__":
    sys.exit(main())
