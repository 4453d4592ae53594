"""Print how well and how fast `deconvolve` restores, beside scikit-image's two Wiener filters on the same inputs.

Run as ``python -m benchmarks.restoration``. The image is scikit-image's ``camera()`` scaled to 0..1. Its target is a
crop of the blurred image, so that the pixels beyond its edge are unknown; noise 0.01 is 1% of the image's deviation.
PSNR is taken over the whole frame and away from its edges. The time is the median of ratios to scikit-image's
``wiener``, run in turn.
"""

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


def scene(sigma, noise, seed=0):
    """Return the image, the kernel and the target."""
    image = data.camera()[:, :480] / 255.0
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    kernel = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    target = scipy.signal.fftconvolve(image, kernel, mode="valid")
    target += np.random.default_rng(seed).normal(0, noise * image.std(), target.shape)
    half = SIDE // 2
    return image[half:-half, half:-half], kernel, target


def main():
    """Print the table."""
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
