"""Print which way to choose the balance of ``method="wiener"`` is best, each kernel's error against the truth.

Run as ``python -m benchmarks.balance [--seeds 20]``. The image is scikit-image's ``camera()``. A target is what a
kernel makes of it, with noise of 1% of its deviation: either a crop, whose edges depend on pixels outside, or periodic.
The columns are relative errors ``|k - truth| / |truth|``, root mean squares over the seeds:

* exact: least squares, ``method="auto"``;
* best: the best of 13 balances, a decade apart, chosen against the truth;
* floor: the largest balance whose residual is within the noise floor, the target's power beyond 0.45 cycles per pixel;
* gcv: generalised cross-validation; evidence: the maximum of the marginal likelihood under white noise;
* auto: ``balance="auto"``, the smallest estimated error; and "told", the error that the fit's own error bars tell;
* skimage: ``skimage.restoration.wiener`` with the roles of image and kernel swapped, cropped, the best of 13 balances
  and nine places.
"""

import argparse

import numpy as np
import scipy.signal
from skimage import data, restoration

from kernelfit import accumulate_spectra, apply_kernel, find_kernel
from kernelfit.solvers.block_toeplitz import Equations
from kernelfit.solvers.spectral_band import SAMPLES, Band

from .common import kernel_of_shape, relative_error

BALANCES = 10.0 ** np.arange(-9.0, 4.0)
FINE = 10.0 ** np.arange(-9.0, 3.1, 0.25)
SHAPES = ("5x5", "15x15", "31x31")


def kernels(name):
    """Return {name: kernel} of a shape such as "5x5"."""
    rows, cols = map(int, name.split("x"))
    y, x = np.mgrid[:rows, :cols]
    blob = np.exp(-(((y - 0.4 * rows) / (0.3 * rows)) ** 2) - ((x - 0.6 * cols) / (0.25 * cols)) ** 2)
    y, x = y - rows // 2, x - cols // 2
    gaussian = np.exp(-(y**2 + x**2) / (2 * (rows / 8) ** 2))
    disc = (np.hypot(y, x) < 0.3 * rows) * 1.0
    found = {"blob": blob, "rough blob": kernel_of_shape(name), "gaussian": gaussian, "disc": disc}
    return {key: kernel / kernel.sum() for key, kernel in found.items()}


def mean_misfit(equations, balance):
    """Return the mean over all frequencies of the power of a balance's residual."""
    return float(np.sum(equations.band.counts * equations.misfit(balance))) / equations.band.size


def noise_floor(equations):
    """Return the largest balance whose residual is no larger than the target's power at the highest frequencies."""
    band = equations.band
    far = np.hypot(band.rows[:, None], band.cols) > 0.45
    floor = band.mean(band.target * far) / band.mean(far * 1.0) / equations.stats.n_blocks
    return max((b for b in FINE if mean_misfit(equations, b) <= floor), default=FINE[0])


def cross_validated(equations):
    """Return the balance of the least generalised cross-validation, ``mean |Y - H X|^2 / (1 - df / n)^2``."""
    stats = equations.stats
    n = (stats.n_blocks * np.prod(stats.block)) ** 2 / stats.weight_square
    scores = []
    for balance in FINE:
        df_model = np.sum(equations.values * equations.inverses(balance))
        scores.append(mean_misfit(equations, balance) / (1 - df_model / n) ** 2)
    return FINE[int(np.argmin(scores))]


def most_evident(equations):
    """Return the balance of the maximum of the evidence: noise white, the taps normal as the penalty would have it."""
    values, stats, band = equations.values, equations.stats, equations.band
    n = (stats.n_blocks * band.size) ** 2 / stats.weight_square
    scores = []
    for balance in FINE:
        kernel = equations.kernel(balance)
        held = balance * np.sum((equations.inverses(balance) * equations.moment) ** 2)  # k' balance m Q k
        energy = stats.n_blocks * mean_misfit(equations, balance) * band.size + held * band.size
        scores.append(n * np.log(max(energy, 1e-300)) + np.log1p(values / balance).sum() if kernel.any() else np.inf)
    return FINE[int(np.argmin(scores))]


def swapped(image, target, kernel):
    """Return the error of scikit-image's division, the best over balances and places."""
    rows, cols = kernel.shape
    top, left = (a - b for a, b in zip(image.shape, target.shape, strict=True))
    inside = image[top // 2 : top // 2 + target.shape[0], left // 2 : left // 2 + target.shape[1]]
    errors = []
    for balance in BALANCES:
        full = restoration.wiener(target, inside, balance, clip=False)
        for shift in np.ndindex(3, 3):
            r = full.shape[0] // 2 - rows // 2 + shift[0] - 1
            c = full.shape[1] // 2 - cols // 2 + shift[1] - 1
            errors.append(relative_error(full[r : r + rows, c : c + cols], kernel))
    return min(errors)


COLUMNS = ("exact", "best", "floor", "gcv", "evidence", "auto", "told", "skimage")


def case(image, kernel, periodic, seed):
    """Return {column: error} of one pair."""
    keywords = {"boundary": "wrap"} if periodic else {}
    if periodic:
        target = apply_kernel(image, kernel, **keywords)
    else:
        target = scipy.signal.fftconvolve(image, kernel, mode="valid")
    target = target + np.random.default_rng(seed).normal(0.0, 0.01 * target.std(), target.shape)
    stats = accumulate_spectra(image, target, kernel.shape, **keywords)
    band = Band.of(stats, "laplacian", SAMPLES)
    fit = stats.solve()
    equations = Equations.of(stats, band)

    def error(balance):
        return relative_error(equations.kernel(balance)[::-1, ::-1], kernel)

    return {
        "exact": relative_error(find_kernel(image, target, kernel.shape, **keywords).kernel, kernel),
        "best": min(error(b) for b in BALANCES),
        "floor": error(noise_floor(equations)),
        "gcv": error(cross_validated(equations)),
        "evidence": error(most_evident(equations)),
        "auto": relative_error(fit.kernel, kernel),
        "told": np.linalg.norm(fit.stderr) / np.linalg.norm(kernel),
        "skimage": swapped(image, target, kernel),
    }


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="realisations of the noise to average over")
    args = parser.parse_args()
    image = data.camera().astype(float)
    for periodic in (False, True):
        print("periodic" if periodic else "crops of a larger scene")
        print(f"{'shape':7s} {'kernel':11s}", *(f"{name:>9s}" for name in COLUMNS))
        rows = []
        for shape in SHAPES:
            for name, kernel in kernels(shape).items():
                found = [case(image, kernel, periodic, seed) for seed in range(args.seeds)]
                rows.append({key: float(np.sqrt(np.mean([f[key] ** 2 for f in found]))) for key in COLUMNS})
                print(f"{shape:7s} {name:11s}", *(f"{rows[-1][key]:9.4f}" for key in COLUMNS), flush=True)
        for key in ("exact", "floor", "gcv", "evidence", "auto", "skimage"):
            ratios = [row[key] / row["best"] for row in rows]
            print(f"{key:>9s} / best: median {np.median(ratios):.2f}, worst {max(ratios):.2f}")
        ratios = [row["auto"] / row["exact"] for row in rows]
        print(f"     auto / exact: median {np.median(ratios):.4f}, worst {max(ratios):.4f}")
        ratios = [row["told"] / row["auto"] for row in rows]
        print(f"     told / auto: from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
