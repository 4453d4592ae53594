"""Print how well and how fast `deconvolve` restores, beside scikit-image's two Wiener filters on the same inputs.

Run as ``python -m benchmarks.restoration [edges | time]``. The image is scikit-image's ``camera()`` scaled to 0..1. Its
target is a crop of the blurred image, so that the pixels beyond its edge are unknown; noise 0.01 is 1% of its
deviation. PSNR is taken over the whole frame and away from its edges. The time is the median of ratios to
scikit-image's ``wiener``, run in turn; that takes once or twice as long, depending on whether the C library keeps freed
memory. With ``time``: the ratio for blur 1.5 and noise 0.01, one thread on either side, in processes that do and do
not. With ``edges``: a table of the PSNR on six photographs with edges faded and solved for, what "auto" does, and with
1 % of the pixels, a column and a spot dead and masked; times are relative to fading.
"""

import os
import statistics
import subprocess
import sys
import time

import numpy as np
import scipy.signal
from skimage import data, restoration

from kernelfit import deconvolve

from .common import ratio_of_times

SIDE, MARGIN = 9, 16


def psnr(found, truth, margin=0):
    """Return the peak signal-to-noise ratio in decibels for a peak of one."""
    rows, cols = truth.shape
    inside = np.s_[margin : rows - margin, margin : cols - margin]
    return -10 * np.log10(np.mean((found[inside] - truth[inside]) ** 2))


def scene(sigma, noise, seed=0, image=None, shape=(SIDE, SIDE)):
    """Return the image, the kernel and the target."""
    image = data.camera() / 255.0 if image is None else image
    y, x = np.mgrid[: shape[0], : shape[1]]
    y, x = y - shape[0] // 2, x - shape[1] // 2
    kernel = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    target = scipy.signal.fftconvolve(image, kernel, mode="valid")
    target += np.random.default_rng(seed).normal(0, noise * image.std(), target.shape)
    down, across = (side // 2 for side in shape)
    return image[down:-down, across:-across], kernel, target


def edges():
    """Print what solving for the edges, and for dead pixels, gains and costs."""
    photographs = {
        "camera": data.camera(),
        "moon": data.moon(),
        "coins": data.coins(),
        "astronaut": data.astronaut()[..., 1],
        "page": data.page(),
        "brick": data.brick(),
    }
    print(f"{'image':<10} {'kernel':<10} {'noise':>6}    fade   solve  masked  auto   times: solve  masked")
    for name, pixels in photographs.items():
        for shape, sigma in (((5, 5), 0.8), ((9, 9), 1.5), ((9, 9), 2.5), ((21, 15), 4.0)):
            for noise in (0.001, 0.01, 0.05):
                image, kernel, target = scene(sigma, noise, image=pixels / 255.0, shape=shape)
                dead = np.random.default_rng(0).random(target.shape) < 0.01
                dead[:, 137] = dead[40:52, 60:75] = True
                spoilt = np.where(dead, 0.0, target)
                found, seconds = [], []
                for what, words in (
                    (target, {"edges": "fade"}),
                    (target, {"edges": "solve"}),
                    (spoilt, {"mask": dead}),
                ):
                    start = time.perf_counter()
                    found.append(deconvolve(what, kernel, **words))
                    seconds.append(time.perf_counter() - start)
                auto = "fade" if (deconvolve(target, kernel) == found[0]).all() else "solve"
                print(
                    f"{name:<10} {shape[0]}x{shape[1]} {sigma:<5} {noise:6.3f}",
                    *(f"{psnr(f, image):7.2f}" for f in found),
                    f"  {auto:<5}",
                    *(f"{t / seconds[0]:10.0f}" for t in seconds[1:]),
                    flush=True,
                )


def once():
    """Print one thread's time relative to that of scikit-image's wiener."""
    _, kernel, target = scene(1.5, 0.01)
    ours = lambda: deconvolve(target, kernel, workers=1)  # noqa: E731
    print(ratio_of_times(ours, lambda: restoration.wiener(target, kernel, 0.02, clip=False), 25))


def times():
    """Print the median of `once` in processes of their own, with and without memory that is kept."""
    keep = {"MALLOC_MMAP_THRESHOLD_": "2000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
    for what, more in (("as it comes", {}), ("memory kept", keep)):
        command = [sys.executable, "-m", "benchmarks.restoration", "once"]
        runs = [subprocess.run(command, env=os.environ | more, capture_output=True, check=True) for _ in range(5)]
        ratios = sorted(float(run.stdout) for run in runs)
        print(f"deconvolve / wiener, {what}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def main():
    """Print the table."""
    sections = {"edges": edges, "time": times, "once": once}
    if len(sys.argv) > 1:
        sections[sys.argv[1]]()
        return
    print(f"{'blur':>5} {'noise':>6}  {'method':<34} {'PSNR':>6} {'inside':>7} {'time':>6}")
    for sigma in (1.0, 1.5, 2.5):
        for noise in (0.01, 0.05):
            image, kernel, target = scene(sigma, noise)
            balances = 10.0 ** np.arange(-8, 3.1, 0.25)
            ours = max((psnr(deconvolve(target, kernel, balance=b), image), b) for b in balances)
            theirs = max((psnr(restoration.wiener(target, kernel, b, clip=False), image), b) for b in balances)
            rng = np.random.default_rng(1)

            def wiener(target=target, kernel=kernel, balance=theirs[1]):
                return restoration.wiener(target, kernel, balance, clip=False)

            def unsupervised(target=target, kernel=kernel, rng=rng):
                return restoration.unsupervised_wiener(target, kernel, rng=rng, clip=False)[0]

            for name, work in (
                ("deconvolve, auto", lambda: deconvolve(target, kernel)),  # noqa: B023
                ("deconvolve, auto, one thread", lambda: deconvolve(target, kernel, workers=1)),  # noqa: B023
                (f"deconvolve, best balance {ours[1]:.0e}", lambda: deconvolve(target, kernel, balance=ours[1])),  # noqa: B023
                (f"skimage wiener, best {theirs[1]:.0e}", wiener),
                ("skimage unsupervised_wiener", unsupervised),
            ):
                found = work()
                ratio = ratio_of_times(work, wiener, 3 if "unsupervised" in name else 9)
                print(
                    f"{sigma:5.1f} {noise:6.2f}  {name:<34} {psnr(found, image):6.2f} "
                    f"{psnr(found, image, MARGIN):7.2f} {ratio:6.2f}"
                )


if __name__ == "__main__":
    main()
