"""A zoo of kernels: the error of each solver against the truth, and what solver="auto" makes of it.

    python -m benchmarks.zoo [--sides 440 800] [--noise 0.1 1 5] [--shapes 15x15 21x19 31x27] [--seed 0]

prints one row for each case as a table in Markdown, and a summary. The errors are relative, ``|k - truth| / |truth|``.
"Best of all" is the least error of all solvers, the strengths of penalties and the numbers of taps chosen against the
truth. The statistics of a scene are taken once, and the target's follow from the kernel: ``A'y = G k + A'noise``. Set
OPENBLAS_NUM_THREADS=1 to share a machine. The seed changes noise, photograph and the random kernels.
"""

import argparse
import dataclasses
import itertools
import time

import numpy as np
import scipy.special

import kernelfit
from kernelfit import GaussianProcess, LeastSquares, NonNegative, Penalized, Sparse
from kernelfit.solvers.auto import Auto
from kernelfit.solvers.gaussian_process import most_probable
from kernelfit.solvers.penalties import PENALTIES, Spectrum, penalty_matrix

SHAPES = ("15x15", "21x19", "31x27")
#: Kernels whose error under "auto" should be at most a third of that of least squares.
SMOOTH = ("gaussian wide", "gaussian narrow", "airy", "smooth asymmetric")


def grid(shape, center=(0.0, 0.0)):
    """Return rows and columns from the centre of a support."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return rows - (shape[0] - 1) / 2 - center[0], cols - (shape[1] - 1) / 2 - center[1]


def over(shape, function, fine=5):
    """Average a function of (row, col) over each tap's square."""
    y, x = grid(shape)
    steps = (np.arange(fine) - (fine - 1) / 2) / fine
    return sum(function(y + a, x + b) for a in steps for b in steps) / fine**2


def kernels(shape, seed=0):
    """Return {name: kernel}, all of a sum or a norm of one."""
    rng = np.random.default_rng([seed, *shape])
    y, x = grid(shape)
    scale = min(shape) / 15
    radius = np.hypot(y, x)

    def airy(a, b):
        u = 1.1 / scale * np.hypot(a, b) + 1e-9
        return (2 * scipy.special.j1(u) / u) ** 2

    def deltas():
        kernel = np.zeros(shape)
        spots = rng.choice(kernel.size, 3, replace=False)
        kernel.ravel()[spots] = [0.6, 0.3, 0.1]
        return kernel

    def streak():
        kernel = np.zeros(shape)
        for t in np.linspace(-1, 1, 4001):
            a, b = shape[0] / 2 - 0.5 + 3.2 * scale * t, shape[1] / 2 - 0.5 + 5.1 * scale * t
            i, j = int(a), int(b)
            u, v = a - i, b - j
            kernel[i : i + 2, j : j + 2] += np.outer([1 - u, u], [1 - v, v])
        return kernel

    def asymmetric():
        lobe = np.exp(-((y + scale) ** 2) / (5 * scale**2) - (x - scale) ** 2 / (9 * scale**2))
        return lobe - 0.35 * np.exp(-((y - 2 * scale) ** 2 + (x + 2.5 * scale) ** 2) / (6 * scale**2))

    found = {
        "gaussian wide": np.exp(-(y**2 + 0.7 * x**2 + 0.3 * x * y) / (2 * (2.2 * scale) ** 2)),
        "gaussian narrow": np.exp(-((y - 0.3) ** 2 + (x + 0.2) ** 2) / (2 * 0.9**2)),
        "moffat": (1 + (radius / (1.8 * scale)) ** 2) ** -2.5,
        "airy": over(shape, airy),
        "defocus disc": over(shape, lambda a, b: (np.hypot(a, b) < 4.3 * scale) * 1.0),
        "ring": over(shape, lambda a, b: ((np.hypot(a, b) < 5.4 * scale) & (np.hypot(a, b) > 3.3 * scale)) * 1.0),
        "box": over(shape, lambda a, b: ((np.abs(a) < 2.5 * scale) & (np.abs(b) < 3.5 * scale)) * 1.0),
        "motion streak": streak(),
        "three deltas": deltas(),
        "difference of gaussians": np.exp(-(radius**2) / (2 * (1.3 * scale) ** 2))
        - 0.25 * np.exp(-(radius**2) / (2 * (2.6 * scale) ** 2)),
        "exponential": np.exp(-radius / (1.6 * scale)),
        "white noise": rng.normal(size=shape),
        "smooth asymmetric": asymmetric(),
    }
    return {
        name: kernel / (kernel.sum() if kernel.min() >= 0 else np.linalg.norm(kernel)) for name, kernel in found.items()
    }


def photographs():
    """Return {name: gray photograph}: those of scikit-image that are shipped in its wheel."""
    from skimage import data

    found = {"camera": data.camera()}
    for name in ("astronaut", "coffee", "chelsea"):
        try:
            found[name] = getattr(data, name)().mean(axis=2)
        except Exception:  # noqa: BLE001 - not in the wheel, and no network
            continue
    return {name: np.asarray(image, dtype=float) for name, image in found.items()}


class Scene:
    """The statistics of one image and support, for any kernel and noise."""

    def __init__(self, image, shape):
        """Take them."""
        self.image, self.shape = image, shape
        rows, cols = image.shape[0] - shape[0] + 1, image.shape[1] - shape[1] + 1
        self.base = kernelfit.accumulate(image, np.ones((rows, cols)), shape)
        self.sums = self.base.moment  # A'1

    def stats(self, kernel, noise, rng):
        """Return the statistics of a kernel's target with noise of a share of the target's standard deviation."""
        k, n = kernel.ravel(), self.base.n_pixels
        rows, cols = (a - b + 1 for a, b in zip(self.image.shape, self.shape, strict=True))
        e = rng.standard_normal((rows, cols))
        drawn = kernelfit.accumulate(self.image, e, self.shape).moment
        clean = self.base.gram @ k
        scale = noise * np.sqrt(k @ clean / n - (self.sums @ k / n) ** 2)
        return dataclasses.replace(
            self.base,
            moment=clean + scale * drawn,
            target_energy=float(k @ clean + 2 * scale * (k @ drawn) + scale**2 * np.sum(e**2)),
            target_sum=float(self.sums @ k + scale * e.sum()),
        )


def scenes(sides, shapes, seed):
    """Yield (side, Scene): crops of photographs, mirrored where a photograph is too small."""
    photos = list(photographs().values())
    for at, (side, shape) in enumerate(itertools.product(sides, shapes)):
        photo = photos[(at + seed) % len(photos)]
        photo = np.tile(np.hstack([photo, photo[:, ::-1]]), (3, 2))
        rows, cols = map(int, shape.split("x"))
        yield side, Scene(photo[: side + rows - 1, : side + cols - 1 - side // 10], (rows, cols))


def error(fit, kernel):
    """Return the relative error."""
    return float(np.linalg.norm(fit.kernel - kernel) / np.linalg.norm(kernel))


def by_strength(spectrum, truth):
    """Return the strength with the least error of a penalty, that error, and that of the strength by GCV."""

    def off(strength):
        return float(np.linalg.norm(spectrum.taps(strength) - truth) / np.linalg.norm(truth))

    best = min(np.logspace(-12, 4, 65), key=off)
    return best, off(best), off(Penalized()._choose(spectrum, [])[0])


def case(stats, spectra, kernel):
    """Return {what: figure} of one pair."""
    found = {"least squares": error(stats.solve(LeastSquares()), kernel)}
    others = []
    for penalty, spectrum in spectra.items():
        spectrum.take(stats)
        strength, best, chosen = by_strength(spectrum, kernel.ravel())
        others.append(best)
        if penalty in ("gradient", "biharmonic"):
            others += [
                error(stats.solve(NonNegative(penalty=penalty, strength=share * strength)), kernel)
                for share in (1.0, 0.1)
            ]
        if penalty == "biharmonic":
            found |= {"biharmonic, best": best, "biharmonic, gcv": chosen}
    start = time.perf_counter()
    process = stats.solve(GaussianProcess())
    found["seconds"] = time.perf_counter() - start
    found["gaussian process"] = error(process, kernel)
    low, high = process.confidence(0.95)
    found["coverage"] = float(np.mean((low <= kernel) & (kernel <= high)))
    auto = Auto().pick(stats, process)
    found["auto"], found["picked"] = error(auto, kernel), auto.solver
    others.append(error(most_probable(stats, process)[0], kernel))
    counts = sorted({1, 2, 3, 5, 9, 15, 25, 40, kernel.size // 4})
    others += [error(stats.solve(Sparse(n_taps=count)), kernel) for count in counts]
    found["sparse"] = error(stats.solve(Sparse()), kernel)
    found["non-negative"] = error(stats.solve(NonNegative()), kernel)
    own = ("least squares", "gaussian process", "sparse", "non-negative", "auto")
    found["best of all"] = min(*others, *(found[name] for name in own))
    return found


COLUMNS = (
    "least squares",
    "biharmonic, best",
    "biharmonic, gcv",
    "gaussian process",
    "coverage",
    "sparse",
    "non-negative",
    "auto",
    "best of all",
    "seconds",
)


def summary(rows):
    """Print what the rows come to."""

    def share(test):
        held = [test(found) for _, found in rows]
        return f"{sum(held)} of {len(held)}, {np.mean(held):.0%}"

    print(f"\n{len(rows)} cases")
    print(
        "gcv at most 1.15 times the best biharmonic:",
        share(lambda f: f["biharmonic, gcv"] <= 1.15 * f["biharmonic, best"]),
    )
    print("auto at most 1.05 times the best of all:", share(lambda f: f["auto"] <= 1.05 * f["best of all"]))
    for solver in ("auto", "gaussian process"):
        print(f"{solver} / least squares, worst: {max(f[solver] / f['least squares'] for _, f in rows):.3g}")
    for wanted in SMOOTH:
        ratios = [f["auto"] / f["least squares"] for name, f in rows if name == wanted]
        if ratios:
            print(f"auto / least squares, {wanted}: median {np.median(ratios):.3g}, worst {max(ratios):.3g}")
    covered = [f["coverage"] for _, f in rows]
    print(f"coverage of the process's 95 % intervals: mean {np.mean(covered):.3f}, lowest {min(covered):.3f}")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[440, 800])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 1.0, 5.0], help="percent")
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--kernels", nargs="+", help="names; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--losses", action="store_true", help="say what was picked where auto is not within 1.05")
    args = parser.parse_args()
    print(f"| kernel | support | side | noise, % | {' | '.join(COLUMNS)} |")
    print("|---" * (4 + len(COLUMNS)) + "|")
    rows = []
    for at, (side, scene) in enumerate(scenes(args.sides, args.shapes, args.seed)):
        spectra = {penalty: Spectrum(scene.base, penalty_matrix(penalty, scene.base)) for penalty in PENALTIES}
        scene.base.solve()
        rng = np.random.default_rng([args.seed, at])
        for percent, (name, kernel) in itertools.product(args.noise, kernels(scene.shape, args.seed).items()):
            if args.kernels and name not in args.kernels:
                continue
            found = case(scene.stats(kernel, percent / 100, rng), spectra, kernel)
            rows.append((name, found))
            figures = " | ".join(f"{found[column]:.3g}" for column in COLUMNS)
            print(f"| {name} | {'x'.join(map(str, scene.shape))} | {side} | {percent:g} | {figures} |", flush=True)
            if args.losses and found["auto"] > 1.05 * found["best of all"]:
                print(f"  {found['auto'] / found['best of all']:.3g}: {found['picked']}")
    summary(rows)


if __name__ == "__main__":
    main()
