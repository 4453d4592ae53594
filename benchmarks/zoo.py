"""A zoo of kernels: the error of each solver against the truth, and what solver="auto" makes of it.

Run as ``python -m benchmarks.zoo [--sides 440 800] [--noise 0.1 1 5] [--seed 0]``; prints one row for each case and a
summary, as a table in Markdown. The errors are relative, ``|k - truth| / |truth|``.

``python -m benchmarks.zoo coverage`` draws kernels from the Gaussian process's own priors and counts how many taps its
intervals hold; ``python -m benchmarks.zoo supports`` counts how often `choose_support` finds the right one.
"""

import argparse
import dataclasses
import itertools
import time

import numpy as np
import scipy.signal
import scipy.special

import kernelfit
from kernelfit import GaussianProcess, LeastSquares, NonNegative, Penalized, Sparse
from kernelfit.evidence import ENVELOPES, FAMILIES
from kernelfit.penalties import PENALTIES, Spectrum, penalty_matrix

SHAPES = ((15, 15), (21, 19), (31, 27))


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


def oracle(stats, kernel, penalty):
    """Return the smallest error of a penalty over all strengths, and that of the strength by GCV."""
    spectrum = Spectrum(stats, penalty_matrix(penalty, stats))
    truth = kernel.ravel()
    strengths = np.logspace(-12, 4, 65)
    best = min(np.linalg.norm(spectrum.taps(s) - truth) for s in strengths)
    return best / np.linalg.norm(truth), error(stats.solve(Penalized(penalty)), kernel)


def error(fit, kernel):
    """Return the relative error."""
    return float(np.linalg.norm(fit.kernel - kernel) / np.linalg.norm(kernel))


def case(image, kernel, noise, rng):
    """Return {what: figure} of one pair."""
    target = scipy.signal.fftconvolve(image, kernel, mode="valid")
    target = target + rng.normal(0.0, noise * target.std(), target.shape)
    stats = kernelfit.accumulate(image, target, kernel.shape)
    found = {"least squares": error(stats.solve(LeastSquares()), kernel)}
    best = []
    for penalty in PENALTIES:
        truth, chosen = oracle(stats, kernel, penalty)
        best.append(truth)
        if penalty == "biharmonic":
            found |= {"biharmonic, best": truth, "biharmonic, gcv": chosen}
    start = time.perf_counter()
    process = stats.solve(GaussianProcess())
    found["seconds"] = time.perf_counter() - start
    found["gaussian process"] = error(process, kernel)
    positive = stats.solve(GaussianProcess(non_negative=True))
    low, high = process.confidence(0.95)
    found["coverage"] = float(np.mean((low <= kernel) & (kernel <= high)))
    counts = sorted({1, 2, 3, 5, 9, 15, 25, 40, kernel.size // 4})
    few = [error(stats.solve(Sparse(n_taps=count)), kernel) for count in counts]
    found["sparse"] = error(stats.solve(Sparse()), kernel)
    found["non-negative"] = error(stats.solve(NonNegative()), kernel)
    auto = stats.solve("auto")
    found["auto"] = error(auto, kernel)
    others = [found[name] for name in ("least squares", "gaussian process", "sparse", "non-negative")]
    found["best of all"] = min(*best, *few, *others, error(positive, kernel))
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


def draw_from_prior(prior, shape, rng):
    """Return a kernel drawn from a prior, by its formula."""
    y, x = (axis.ravel() for axis in np.mgrid[: shape[0], : shape[1]])
    images = [(y, x)]
    if prior.symmetric is not None:
        images.append((shape[0] - 1 - y, shape[1] - 1 - x))

    def envelope(y, x):
        u = ((y - prior.center[0]) ** 2 + (x - prior.center[1]) ** 2) / prior.radius**2
        return np.exp(-u / 2) if prior.envelope == "gaussian" else (1 + u / 6) ** -3.0

    def rho(t):
        if prior.family == "squared-exponential":
            return np.exp(-(t**2) / 2)
        if prior.family == "matern52":
            return (1 + np.sqrt(5) * t + 5 * t**2 / 3) * np.exp(-np.sqrt(5) * t)
        if prior.family == "matern32":
            return (1 + np.sqrt(3) * t) * np.exp(-np.sqrt(3) * t)
        return np.exp(-t)

    covariance = sum(
        np.outer(envelope(y, x), envelope(v, u))
        * rho(np.hypot(np.subtract.outer(y, v), np.subtract.outer(x, u)) / prior.length)
        for v, u in images
    )
    values, vectors = np.linalg.eigh(covariance)
    return (vectors @ (np.sqrt(np.maximum(values, 0.0)) * rng.normal(size=len(y)))).reshape(shape)


def coverage(draws, seed, shape=(9, 8)):
    """Print the share of taps inside the process's 95 % intervals, on kernels drawn from its own priors."""
    rng = np.random.default_rng(seed)
    image = photographs()["camera"][:120, :140] + rng.normal(0.0, 2.0, (120, 140))  # a photograph and its grain
    base = kernelfit.accumulate(image, np.zeros((112, 133)), shape)
    inside = {}
    for _, (family, envelope, symmetric) in zip(
        range(draws), itertools.cycle(itertools.product(FAMILIES, ENVELOPES, (None, "point"))), strict=False
    ):
        center = tuple(0.5 * (n - 1) + (rng.uniform(-1, 1) if symmetric is None else 0.0) for n in shape)
        prior = kernelfit.Prior(family, 1.0, rng.uniform(1, 4), rng.uniform(1.5, 4), center, envelope, symmetric)
        kernel = draw_from_prior(prior, shape, rng)
        y = scipy.signal.fftconvolve(image, kernel, mode="valid")
        y += rng.normal(0.0, y.std() * 10 ** rng.uniform(-3, -1.3), y.shape)
        windows = np.lib.stride_tricks.sliding_window_view(image, y.shape)[::-1, ::-1]
        moment = np.einsum("ijkl,kl->ij", windows, y).ravel()
        stats = dataclasses.replace(base, moment=moment, target_energy=float(np.sum(y**2)), target_sum=float(y.sum()))
        low, high = stats.solve(GaussianProcess()).confidence(0.95)
        inside.setdefault((family, envelope, symmetric), []).append(np.mean((low <= kernel) & (kernel <= high)))
    for kind, found in inside.items():
        print(f"{str(kind):60s} {np.mean(found):.3f}")
    print(f"mean over {draws} draws: {np.mean(np.concatenate(list(inside.values()))):.3f}")


def supports(scenes, seed):
    """Print how often the right support is found when asked for at most 21x21, and whether one was too small."""
    right, small = 0, 0
    for at in range(scenes):
        rng = np.random.default_rng([seed, at])
        shape = int(rng.choice([3, 5, 7, 9, 11])), int(rng.choice([3, 5, 7, 9]))
        image = scipy.signal.convolve2d(rng.normal(size=(150, 161)), np.ones((3, 3)), mode="same")
        target = scipy.signal.fftconvolve(image, rng.normal(size=shape), mode="same")
        target += rng.normal(0.0, target.std() * 10 ** rng.uniform(-3, np.log10(0.03)), target.shape)
        found = kernelfit.choose_support(kernelfit.accumulate(image, target, (21, 21)))
        right += found.shape == shape and found.corner == ((21 - shape[0]) // 2, (21 - shape[1]) // 2)
        small += found.shape[0] < shape[0] or found.shape[1] < shape[1]
    print(f"the right support in {right} of {scenes} scenes; too small in {small}")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["zoo", "coverage", "supports"], default="zoo")
    parser.add_argument("--draws", type=int, default=1000, help="of kernels, for coverage")
    parser.add_argument("--scenes", type=int, default=200, help="for supports")
    parser.add_argument("--sides", type=int, nargs="+", default=[440, 800])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 1.0, 5.0], help="percent")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the supports")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long")
    args = parser.parse_args()
    if args.what == "coverage":
        coverage(args.draws, args.seed)
        return
    if args.what == "supports":
        supports(args.scenes, args.seed)
        return
    photos = list(photographs().values())
    print(f"| kernel | support | side | noise, % | {' | '.join(COLUMNS)} |")
    print("|---" * (4 + len(COLUMNS)) + "|")
    rows = []
    begin = time.perf_counter()
    for at, (side, percent, shape) in enumerate(itertools.product(args.sides, args.noise, SHAPES[: args.shapes])):
        photo = photos[at % len(photos)]
        photo = np.tile(np.hstack([photo, photo[:, ::-1]]), (3, 2))  # mirrored, where a photograph is too small
        image = photo[: side + shape[0] - 1, : side + shape[1] - 1 - side // 10]
        for name, kernel in kernels(shape, args.seed).items():
            if time.perf_counter() - begin > 60 * args.minutes:
                break
            found = case(image, kernel, percent / 100, np.random.default_rng([args.seed, at]))
            rows.append((name, found))
            figures = " | ".join(f"{found[column]:.3g}" for column in COLUMNS)
            print(f"| {name} | {shape[0]}x{shape[1]} | {side} | {percent:g} | {figures} |", flush=True)

    def share(test):
        return f"{np.mean([test(found) for _, found in rows]):.0%}"

    print(f"\n{len(rows)} cases")
    print(
        "gcv at most 1.15 times the best biharmonic:",
        share(lambda f: f["biharmonic, gcv"] <= 1.15 * f["biharmonic, best"]),
    )
    print("auto at most 1.05 times the best of all:", share(lambda f: f["auto"] <= 1.05 * f["best of all"]))
    print("auto / least squares, worst:", f"{max(f['auto'] / f['least squares'] for _, f in rows):.3g}")
    for wanted in ("gaussian", "airy", "smooth"):
        ratios = [f["auto"] / f["least squares"] for name, f in rows if name.startswith(wanted)]
        print(f"auto / least squares, worst of {wanted}:", f"{max(ratios, default=np.nan):.3g}")
    print("mean coverage of the process's 95 % intervals:", f"{np.mean([f['coverage'] for _, f in rows]):.3f}")


if __name__ == "__main__":
    main()
