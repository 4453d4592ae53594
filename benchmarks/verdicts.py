"""Print how often a misfit is named where there is none, and where there is one that spoils the kernel.

Run as ``python -m benchmarks.verdicts [pairs]``. A pair is a crop of a photograph, a texture of a random spectrum or a
field of stars, blurred by a kernel of a random family. Pairs that are fine have white, photon, rounded or correlated
noise; each misfit is made with white noise of .1 to 30 % of the target's deviation. It counts where it moves the kernel
by more than three standard errors, in root mean square over the taps, from that of the same pair without it.
"""

import sys
from collections import Counter

import numpy as np
import scipy.ndimage
from skimage import data

from kernelfit import Model, apply_kernel, find_kernel
from kernelfit.data.observation import as_observation
from kernelfit.diagnostics.misfit import misfits

from .boundary import kernel

SIZE = 256, 300
PHOTOGRAPHS = [data.camera, data.moon, data.coins, data.brick, data.grass, data.gravel, data.clock]


def image(rng):
    """Return a photograph's crop, a texture or a field of stars."""
    kind = rng.integers(3)
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
    return fit, misfits([as_observation(source, target, Model(shape))], fit, None, 1)


def main(pairs):
    """Print both tables."""
    alarms = Counter()
    for seed in range(pairs):
        source, target, taps = fine(np.random.default_rng([1, seed]))
        alarms.update(f.verdict.name for f in judged(source, target, taps.shape)[1][:1])
    print(f"false alarms: {alarms.total()} of {pairs} {dict(alarms)}")
    for name in MISFITS:
        counted, told = 0, Counter()
        for seed in range(max(1, pairs // 20)):
            rng = np.random.default_rng([2, seed])
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
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
