"""Print the tables of docs/coming-from.md: kernelfit beside photutils and scikit-image, on what each is made for.

    pip install '.[peers]' && python -m benchmarks.coming_from

A peer with a parameter gets the best of a grid, chosen against the truth, which no user could. `D` is the sum of the
absolute residual over the sum of the target; `negative` the negative part of a kernel over its sum.
"""

import numpy as np
from photutils.psf_matching import CosineBellWindow, make_kernel, make_wiener_kernel
from skimage import data, restoration

import kernelfit

BELLS = (0.2, 0.35, 0.5, 0.7, 0.9)


def gauss(width, stretch=1.0):
    """Return a Gaussian of a full width at half maximum, on 51 x 51 pixels."""
    y, x = np.mgrid[-25:26, -25:26]
    stamp = np.exp(-4 * np.log(2) * (y**2 + (x / stretch) ** 2) / width**2)
    return stamp / stamp.sum()


def moffat(width, power=3.0):
    """Return a Moffat profile."""
    y, x = np.mgrid[-25:26, -25:26]
    stamp = (1 + 4 * (2 ** (1 / power) - 1) * (y**2 + x**2) / width**2) ** -power
    return stamp / stamp.sum()


def stamps():
    """Yield rows of kernels between two point spread functions without noise."""
    pairs = {
        "Gaussian 3 to 5 px": (gauss(3), gauss(5)),
        "Gaussian 3 to elliptical": (gauss(3), gauss(4, 1.5)),
        "Moffat 3 to Gaussian 5": (moffat(3), gauss(5)),
        "Gaussian 3 to Moffat 5": (gauss(3), moffat(5)),
    }
    for name, (source, target) in pairs.items():

        def off(kernel, source=source, target=target):
            return float(np.abs(target - kernelfit.apply_kernel(source, kernel)).sum() / target.sum())

        found = (
            kernelfit.match_psf(source, target).kernel,
            make_wiener_kernel(source, target),
            min((make_wiener_kernel(source, target, regularization=r) for r in 10.0 ** np.arange(-12, 0)), key=off),
            min((make_kernel(source, target, window=CosineBellWindow(a)) for a in BELLS), key=off),
        )
        yield name, *(f"{off(k):.0e}" for k in found)


def restorations():
    """Yield rows of a photograph restored: 5 x 5 box, 1 % noise, 256 x 256 pixels; PSNR without its frame."""
    image = data.camera()[::2, ::2] / 255.0
    kernel = np.full((5, 5), 0.04)
    blurred = kernelfit.apply_kernel(image, kernel, boundary="symm")
    blurred += np.random.default_rng(0).normal(0, 0.01, image.shape)

    def psnr(found):
        return 10 * np.log10(1 / np.mean((found - image)[12:-12, 12:-12] ** 2))

    yield "blurred", f"{psnr(blurred):.1f}"
    yield "kernelfit.deconvolve, no parameter", f"{psnr(kernelfit.deconvolve(blurred, kernel)):.1f}"
    yield "skimage unsupervised_wiener", f"{psnr(restoration.unsupervised_wiener(blurred, kernel, rng=0)[0]):.1f}"
    best = max(psnr(restoration.wiener(blurred, kernel, b)) for b in (0.001, 0.003, 0.005, 0.01, 0.02, 0.03, 0.1))
    yield "skimage wiener, the best of 7 balances", f"{best:.1f}"
    best = max(psnr(restoration.richardson_lucy(blurred.clip(0), kernel, n)) for n in (10, 15, 20, 25, 30, 40))
    yield "skimage richardson_lucy, the best number of iterations", f"{best:.1f}"


def fields():
    """Yield rows of the kernel between two photographs, of which nobody knows what lay beyond the edges, 1 % noise."""
    image = data.camera()[100:357, 100:401].astype(np.float64)
    kernel = np.random.default_rng(1).random((7, 11)) ** 3
    kernel /= kernel.sum()
    target = kernelfit.apply_kernel(image, kernel, mode="valid")
    target += np.random.default_rng(2).normal(0, 0.01 * target.std(), target.shape)
    image = image[3:-3, 5:-5]

    def off(found):
        return float(np.linalg.norm(found - kernel) / np.linalg.norm(kernel))

    def middle(field):
        top, left = (n // 2 - k // 2 for n, k in zip(field.shape, kernel.shape, strict=True))
        return field[top : top + 7, left : left + 11]

    yield "kernelfit.find_kernel", f"{off(kernelfit.find_kernel(image, target, (7, 11)).kernel):.3f}"
    found = [middle(make_wiener_kernel(image, target, regularization=r)) for r in 10.0 ** np.arange(-12, 0)]
    yield "photutils make_wiener_kernel, the best of 12", f"{min(map(off, found)):.3f}"
    swapped = target - target.mean(), image - image.mean()
    scale = image.size * image.var()
    found = [middle(restoration.wiener(*swapped, b * scale, clip=False)) for b in 10.0 ** np.arange(-8, 1)]
    yield "skimage wiener with the roles swapped, the best of 9", f"{min(map(off, found)):.3f}"


def main():
    """Print the tables."""
    for heads, rows in (
        (("pair", "match_psf", "make_wiener_kernel", "best of 12 strengths", "best of 5 cosine bells"), stamps()),
        (("", "error of the kernel"), fields()),
        (("", "PSNR, dB"), restorations()),
    ):
        print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        for row in rows:
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
