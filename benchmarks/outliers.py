"""What robust fits are worth and cost: their error against the fit that knows which pixels are garbage.

    python -m benchmarks.outliers            the error in 192 scenes of 256 x 300, some minutes
    python -m benchmarks.outliers quick      the same in 48
    python -m benchmarks.outliers cost       the time at 1024 x 1024, in plain fits

A share of the target's pixels, one by one or in blobs, is replaced by garbage of a hundred times the signal's
deviation. The images: a photograph, star fields of 8, 40 and 1500 stars on a flat sky, printed text, a flat graphic.
"Told" counts the fits whose verdict is not "solved", "worst untold" is the largest error ratio among the others.
"""

import itertools
import sys

import numpy as np
import scipy.ndimage
import scipy.signal
from kernelfit.weighted import ratio, scene
from numpy.typing import NDArray
from skimage import data

from kernelfit import find_kernel

from .common import kernel_of_shape

Array = NDArray[np.float64]
SIZE = (256, 300)
STARS = {"8 stars": 8, "40 stars": 40, "1500 stars": 1500}
KINDS = ("photograph", *STARS, "text", "graphic")
CRITERIA = ("huber", "tukey", "clip")


def image_of(kind: str, seed: int) -> Array:
    """Return an image of a kind."""
    rng = np.random.default_rng([seed, 1])
    if kind == "photograph":
        return data.camera()[100 : 100 + SIZE[0], 80 : 80 + SIZE[1]].astype(float)
    if kind == "text":
        return np.kron(data.page()[20 : 20 + SIZE[0] // 2, 30 : 30 + SIZE[1] // 2], np.ones((2, 2)))
    if kind == "graphic":
        image = np.full(SIZE, 200.0)
        for _ in range(12):
            y, x = (rng.integers(0, side - 40) for side in SIZE)
            image[y : y + rng.integers(8, 40), x : x + rng.integers(8, 40)] = rng.integers(0, 256)
        return image
    stars, n = np.zeros(SIZE), STARS[kind]
    places = tuple(rng.integers(6, side - 6, n) for side in SIZE)
    np.add.at(stars, places, 1000 * (1 + rng.pareto(1.3, n)).clip(max=100))
    return scipy.ndimage.gaussian_filter(stars, 1.0) + 100.0


def spoilt(kind: str, blobs: bool, noise: float, share: float, seed: int) -> tuple[Array, Array, Array, Array]:
    """Return an image, its target, the kernel and where the garbage is."""
    rng = np.random.default_rng([seed, 2])
    image, kernel = image_of(kind, seed), kernel_of_shape("7x9")
    clean = scipy.signal.convolve2d(image, kernel, mode="same", boundary="symm")
    target = clean + noise * clean.std() * rng.standard_normal(clean.shape)
    field = rng.random(clean.shape)
    if blobs:
        field = scipy.ndimage.gaussian_filter(rng.standard_normal(clean.shape), 3.0, mode="wrap")
    bad = field > np.quantile(field, 1 - share)
    garbage = rng.normal(size=bad.sum()) if seed % 2 == 0 else rng.random(bad.sum())
    target[bad] = 100 * clean.std() * garbage
    return image, target, kernel, bad


def accuracy(seeds: int) -> None:
    """Print a line for each kind of image, share of garbage and criterion."""
    print("image        share criterion  median   worst  within 1.2   told  worst untold")
    for kind, share, robust in itertools.product(KINDS, (0.01, 0.1), CRITERIA):
        ratios, told = [], []
        for blobs, noise, seed in itertools.product((False, True), (0.01, 0.05), range(seeds)):
            image, target, kernel, bad = spoilt(kind, blobs, noise, share, seed)
            known = find_kernel(image, target, kernel.shape, mask=bad)
            fit = find_kernel(image, target, kernel.shape, robust=robust)
            ratios.append(np.linalg.norm(fit.kernel - kernel) / np.linalg.norm(known.kernel - kernel))
            told.append(not fit.verdict.ok)
        untold = max((r for r, t in zip(ratios, told, strict=True) if not t), default=np.nan)
        good = f"{sum(r <= 1.2 for r in ratios)} of {len(ratios)}"
        print(
            f"{kind:12s} {share:5.2f} {robust:9s} {np.median(ratios):7.2f} {max(ratios):7.2f}  {good:>10s} "
            f"{sum(told):6d} {untold:14.2f}",
            flush=True,
        )


def cost(size: int = 1024, side: int = 15, repeats: int = 7) -> None:
    """Print the time of robust fits, in plain fits of the same size."""
    image, _, clean, noise = scene(size, side)
    rng = np.random.default_rng(0)
    plain = clean + noise * rng.standard_normal(clean.shape)
    bad = rng.random(clean.shape) < 0.01
    target = np.where(bad, 100 * clean.std() * rng.standard_normal(clean.shape), plain)
    for robust in CRITERIA:
        times = ratio(
            lambda robust=robust: find_kernel(image, target, side, robust=robust),
            lambda: find_kernel(image, plain, side),
            repeats,
        )
        print(f"{robust}: {times:.1f} plain fits at {size} x {size}, {side} x {side}", flush=True)


def main(arguments: list[str]) -> None:
    """Print what is asked for."""
    if "cost" in arguments:
        cost()
    else:
        accuracy(1 if "quick" in arguments else 4)


if __name__ == "__main__":
    main(sys.argv[1:])
