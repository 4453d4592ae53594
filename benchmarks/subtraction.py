"""Differences of simulated exposures: the variance, the whiteness of the noise, new stars found, and false ones.

    python -m benchmarks.subtraction [side] [pairs]       # default 512 pixels, 2 pairs

Two exposures of one field with photon and read noise, seeing of 2.6 and 3.2 to 4.4 pixels of full width (elliptical,
over the field), factor 1.3, a sloping sky, cosmic rays, and stars cut at 50000. New stars are of 6 standard deviations:
of the brightest pixel, and of the whole star, of which noise lifts 84 of 100 above 5. Detections are counted away from
cosmic rays, which a program for them would mask; the fits are not told of any.
"""

import sys
import time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.ndimage
import scipy.signal
import scipy.stats

import kernelfit

Array = npt.NDArray[np.float64]
REACH, FULL, FACTOR = 12, 50000.0, 1.3
GAIN, READ = (1.5, 1.2), (6.0, 5.0)
SKY = (200.0, 150.0)
SHARP = 1.1


class Pair(NamedTuple):
    """Science image and reference, the cosmic rays of both, and the new stars."""

    science: Array
    reference: Array
    rays: npt.NDArray[np.bool_]
    new: list[tuple[int, int]]


def shape_at(u: float, v: float) -> Array:
    """Return the covariance of the science image's point spread function at a place from -1 to 1."""
    down, across, turn = 1.6 + 0.2 * u + 0.1 * v, 1.5 + 0.15 * v, 0.15 * u
    return np.array([[down**2, turn], [turn, across**2]])


def star(covariance: Array, row: float, col: float) -> Array:
    """Return a star of flux 1 on a stamp, off its middle pixel by a part of one."""
    near = np.arange(-REACH, REACH + 1)
    y, x = near[:, None] - row, near - col
    inverse = np.linalg.inv(covariance)
    power = inverse[0, 0] * y**2 + 2 * inverse[0, 1] * y * x + inverse[1, 1] * x**2
    return np.asarray(np.exp(-0.5 * power) / (2 * np.pi * np.sqrt(np.linalg.det(covariance))))


def pair(n: int, seed: int, new: int, whole: bool) -> Pair:
    """Draw a pair with some new stars of 6 standard deviations, of their brightest pixel or as a whole."""
    rng, shape = np.random.default_rng(seed), (n, n + 40)
    images = [np.zeros((shape[0] + 2 * REACH, shape[1] + 2 * REACH)) for _ in range(2)]

    def add(image: Array, flux: float, row: float, col: float, *, sharp: bool) -> Array:
        i, j = int(row), int(col)
        u, v = 2 * row / (shape[0] - 1) - 1, 2 * col / (shape[1] - 1) - 1
        stamp = star(SHARP**2 * np.eye(2) if sharp else shape_at(u, v), row - i, col - j)
        image[i : i + 2 * REACH + 1, j : j + 2 * REACH + 1] += flux * stamp
        return stamp

    count = 2500 * shape[0] * shape[1] // 1024**2
    for flux in np.minimum(300 * (1 - rng.random(count)) ** (-1 / 1.2), 4e5):
        row, col = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        add(images[0], FACTOR * flux, row, col, sharp=False)
        add(images[1], flux, row, col, sharp=True)
    variances = [s / g + (r / g) ** 2 for s, g, r in zip(SKY, GAIN, READ, strict=True)]
    places = []
    for _ in range(new):
        row, col = rng.uniform(20, shape[0] - 20), rng.uniform(20, shape[1] - 20)
        i, j = int(row) + REACH, int(col) + REACH
        if images[0][i - 3 : i + 4, j - 3 : j + 4].max() > 100:
            continue  # not upon another star
        stamp = star(shape_at(2 * row / shape[0] - 1, 2 * col / shape[1] - 1), row - int(row), col - int(col))
        kernel = FACTOR * star(shape_at(0, 0) - SHARP**2 * np.eye(2), 0, 0)
        noise = np.sqrt(variances[0] + variances[1] * float((kernel**2).sum()))
        if whole:  # after decorrelation the noise is white, of s_y^2 + s_x^2 K(0)^2
            power = np.abs(np.fft.rfft2(stamp, (64, 64))) ** 2
            spread = variances[0] + variances[1] * np.abs(np.fft.rfft2(kernel, (64, 64))) ** 2
            weight = np.full(power.shape[1], 2.0)
            weight[[0, -1]] = 1.0
            flux = 6 / np.sqrt(float((power / spread * weight).sum()) / 64**2)
        else:
            flux = 6 * noise / stamp.max()
        add(images[0], flux, row, col, sharp=False)
        places.append((int(round(row)), int(round(col))))
    slope = 20 * np.linspace(-1, 1, shape[0])[:, None]
    noisy, hits = [], []
    for image, sky, gain, read in zip(images, (SKY[0] + slope, SKY[1]), GAIN, READ, strict=True):
        clean = image[REACH:-REACH, REACH:-REACH] + sky
        made = rng.poisson(clean * gain) / gain + rng.normal(0, read / gain, shape)
        ray = np.zeros(shape, dtype=bool)
        for _ in range(shape[0] * shape[1] // 4000):
            at, angle = rng.uniform(8, np.array(shape) - 8), rng.uniform(0, 2 * np.pi)
            for step in range(rng.integers(1, 7)):
                ray[int(at[0] + step * np.sin(angle)), int(at[1] + step * np.cos(angle))] = True
        made[ray] += rng.uniform(300, 5000, int(ray.sum()))
        noisy.append(np.minimum(made, FULL))
        hits.append(ray)
    return Pair(noisy[0], noisy[1], hits[0] | hits[1], places)


def correlation(values: Array, good: npt.NDArray[np.bool_]) -> float:
    """Return the largest correlation of near pixels that count."""
    z, found = np.where(good, values, 0.0), []
    for a, b in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0)):
        one, other = (slice(a, None), slice(b, None)), (slice(0, z.shape[0] - a), slice(0, z.shape[1] - b))
        found.append((z[one] * z[other]).sum() / (good[one] & good[other]).sum() / (z**2).sum() * good.sum())
    return float(np.abs(found).max())


def matched(difference: kernelfit.DifferenceImage) -> Array:
    """Return the significance of a star at each pixel of a difference whose noise is white."""
    phi = difference.decorrelation
    assert phi is not None
    phi = phi if phi.ndim == 2 else phi[0]
    stamp = scipy.signal.convolve(star(shape_at(0, 0), 0, 0), phi, mode="same")
    good = ~difference.mask
    weight = np.where(good, 1 / np.where(good, difference.variance, 1), 0)
    turned = stamp[::-1, ::-1]
    top = scipy.signal.fftconvolve(np.where(good, difference.image, 0) * weight, turned, mode="same")
    return np.asarray(top / np.sqrt(np.maximum(scipy.signal.fftconvolve(weight, turned**2, mode="same"), 1e-12)))


def main(n: int, pairs: int) -> None:
    """Print the tables."""
    for known in (True, False):
        print(f"{n} x {n + 40}, noise {'known' if known else 'estimated'}")
        for seed in range(pairs):
            for whole in (False, True):
                made = pair(n, seed, 40 * n * n // 512**2 + 20, whole)
                exposures = [
                    kernelfit.Exposure(image, noise=(g, r) if known else None, saturated=(None, FULL))
                    for image, g, r in zip((made.science, made.reference), GAIN, READ, strict=True)
                ]
                start, cpu = time.perf_counter(), time.process_time()
                white = kernelfit.subtract(*exposures, 11, variation=2, decorrelate=True)
                seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
                lit = scipy.ndimage.binary_dilation(made.rays, np.ones((19, 19)))
                good = ~white.mask & ~white.rejected
                z = np.where(white.mask, 0, white.significance)
                ratio = float(np.mean(z[good] ** 2))
                near = correlation(z, good)
                how = f"convolved {white.which}, {seconds:5.1f} s ({cpu:.1f} CPU s), verdict {white.verdict.name}"
                print(f"  pair {seed}, {how}: variance {ratio:.4f} of what it says, correlation {near:.4f}")
                found = np.where(lit | white.mask, 0, matched(white))
                peaks = (found == scipy.ndimage.maximum_filter(found, 5)) & (found > 5)
                about = np.zeros(z.shape, dtype=bool)
                seen = usable = 0
                for row, col in made.new:
                    box = (slice(max(0, row - 3), row + 4), slice(max(0, col - 3), col + 4))
                    about[box] = True
                    if not (lit[box] | white.mask[box]).any():
                        usable, seen = usable + 1, seen + bool(peaks[box].any())
                sky = ~lit & ~white.mask & ~scipy.ndimage.binary_dilation(about, np.ones((9, 9)))
                kind = "star" if whole else "brightest pixel"
                print(f"    new stars, 6 sigma of the {kind}: {seen} of {usable} found at 5 sigma", end="; ")
                print(f"false peaks of the filter at 5 sigma: {int((peaks & sky).sum())}", end="; pixels above ")
                counts = [
                    (level, int((z[sky] > level).sum()), sky.sum() * scipy.stats.norm.sf(level)) for level in (3, 4, 5)
                ]
                print(", ".join(f"{level}: {got} (noise makes {want:.2f})" for level, got, want in counts), flush=True)


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]) if len(sys.argv) > 2 else (int(sys.argv[1]) if sys.argv[1:] else 512, 2))
