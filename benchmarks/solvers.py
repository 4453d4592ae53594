"""Print what the solvers' error bars, strengths and times come to; `benchmarks.zoo` prints their errors.

python -m benchmarks.solvers coverage [--draws 1000] [--seed 0]   # of 95 % intervals; variance of least squares
python -m benchmarks.solvers gcv [--sides 440 800] [--seed 0]     # strength by GCV against the best one
python -m benchmarks.solvers path                                 # all strengths at 31x31, relative to one eigh
python -m benchmarks.solvers times                                # of the Gaussian process and of "auto"
python -m benchmarks.solvers small                                # "auto" of large kernels at small images
python -m benchmarks.solvers supports [--scenes 200] [--seed 0]   # how often the right support is chosen
"""

import argparse
import itertools
import statistics
import time

import numpy as np
import scipy.linalg
import scipy.signal

import kernelfit
from kernelfit import GaussianProcess, Penalized
from kernelfit.solvers.evidence import ENVELOPES, FAMILIES
from kernelfit.solvers.penalties import Spectrum, penalty_matrix

from . import zoo


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


def inside(fit, kernel):
    """Return the share of taps inside the 95 % intervals."""
    low, high = fit.confidence(0.95)
    return float(np.mean((low <= kernel) & (kernel <= high)))


def coverage(draws, seed, shape=(9, 8)):
    """Print the shares, and the variance of least squares relative to Cramer and Rao's bound."""
    rng = np.random.default_rng(seed)
    image = zoo.photographs()["camera"][:120, :140] + rng.normal(0.0, 2.0, (120, 140))  # a photograph and its grain
    scene = zoo.Scene(image, shape)
    kernel, held, taps = rng.normal(size=shape), [], []
    for _ in range(draws):
        fit = scene.stats(kernel, 0.05, rng).solve()
        held.append(inside(fit, kernel))
        taps.append(fit.kernel.ravel())
    clean = scene.stats(kernel, 0.0, rng)
    variance = 0.05**2 * (clean.target_energy / clean.n_pixels - (clean.target_sum / clean.n_pixels) ** 2)
    bound = variance * np.trace(np.linalg.inv(clean.gram))
    print(f"least squares, {draws} draws: {np.mean(held):.4f} of the taps inside their 95 % intervals")
    print(f"variance / Cramer and Rao's bound: {np.sum((np.array(taps) - kernel.ravel()) ** 2) / draws / bound:.3f}")
    found = {}
    kinds = itertools.cycle(itertools.product(FAMILIES, ENVELOPES, (None, "point")))
    for _, (family, envelope, symmetric) in zip(range(draws), kinds, strict=False):
        center = tuple(0.5 * (n - 1) + (rng.uniform(-1, 1) if symmetric is None else 0.0) for n in shape)
        prior = kernelfit.Prior(family, 1.0, rng.uniform(1, 4), rng.uniform(1.5, 4), center, envelope, symmetric)
        kernel = draw_from_prior(prior, shape, rng)
        stats = scene.stats(kernel, 10 ** rng.uniform(-3, -1.3), rng)
        found.setdefault((family, envelope, symmetric), []).append(inside(stats.solve(GaussianProcess()), kernel))
    for kind, shares in found.items():
        print(f"    {', '.join(map(str, kind)):45s} {np.mean(shares):.3f}")
    every = np.concatenate(list(found.values()))
    print(f"Gaussian process, {draws} kernels drawn from its priors: {np.mean(every):.4f}")


def gcv(sides, seed):
    """Print how often the strength by GCV is at most 1.15 times worse than the best, for the biharmonic penalty."""
    rows = []
    for at, (side, scene) in enumerate(zoo.scenes(sides, zoo.SHAPES, seed)):
        spectrum = Spectrum(scene.base, penalty_matrix("biharmonic", scene.base))
        rng = np.random.default_rng([seed, at])
        for noise, kernel in itertools.product((0.001, 0.01, 0.05), zoo.kernels(scene.shape, seed).values()):
            spectrum.take(scene.stats(kernel, noise, rng))
            _, best, chosen = zoo.by_strength(spectrum, kernel.ravel())
            rows.append(chosen / best)
        print(f"side {side}, {scene.shape[0]}x{scene.shape[1]}: worst so far {max(rows):.3f}", flush=True)
    print(f"GCV at most 1.15 times the best strength in {sum(r <= 1.15 for r in rows)} of {len(rows)} cases")


def _median(work, repeats):
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def path(repeats):
    """Print the time of all strengths, with GCV, relative to one eigendecomposition of the Gram matrix."""
    _, scene = next(zoo.scenes([440], ["31x31"], 0))
    stats = scene.stats(zoo.kernels((31, 31))["airy"], 0.01, np.random.default_rng(0))
    ratios = []
    for _ in range(repeats):
        once = _median(lambda: scipy.linalg.eigh(stats.gram), 1)
        ratios.append(_median(lambda: stats.solve(Penalized()), 1) / once)
    print(f"strengths by GCV at 31x31 / scipy.linalg.eigh: {statistics.median(ratios):.2f} (eigh {once:.2f} s)")


def times(repeats):
    """Print seconds of the Gaussian process, and of "auto", for kernels of several sorts."""
    for shape in ("15x15", "31x31"):
        _, scene = next(zoo.scenes([440], [shape], 0))
        for name, kernel in zoo.kernels(scene.shape).items():
            stats = scene.stats(kernel, 0.01, np.random.default_rng(0))
            process, auto = (
                _median(lambda stats=stats, solver=solver: stats.solve(solver), repeats)
                for solver in (GaussianProcess(), "auto")
            )
            kind = str(stats.solve(GaussianProcess()).prior)
            print(f"{shape} {name:24s} process {process:.2f} s, auto {auto:.2f} s   {kind}", flush=True)


def small(repeats):
    """Print processor seconds of ``find_kernel(..., solver="auto")`` for every kernel of the zoo at small images."""
    photo = zoo.photographs()["camera"][150:, 150:]
    kernelfit.find_kernel(photo[:70, :70], photo[:70, 70:140], 21, solver="auto")  # what is imported at the first call
    for side, taps in ((100, 15), (100, 21), (100, 31), (81, 41)):
        image, found = photo[: side + taps - 1, : side + taps - 1], {}
        for name, kernel in zoo.kernels((taps, taps)).items():
            target = scipy.signal.convolve(image, kernel, mode="valid")
            target += np.random.default_rng(0).normal(0.0, 0.01 * target.std(), target.shape)
            seconds = []
            for _ in range(repeats):
                start = time.process_time()
                fit = kernelfit.find_kernel(image, target, taps, solver="auto")
                seconds.append(time.process_time() - start)
            found[name] = statistics.median(seconds)
            print(f"    {name:24s} {found[name]:6.2f} s, error {zoo.error(fit, kernel):.4f}   {fit.solver}", flush=True)
        every = sorted(found.values())
        print(
            f"{taps}x{taps} at {side}x{side}: median {statistics.median(every):.2f} s, most {every[-1]:.2f} s",
            flush=True,
        )


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
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["coverage", "gcv", "path", "times", "small", "supports"])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--sides", type=int, nargs="+", default=[440, 800])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    work = {
        "coverage": lambda: coverage(args.draws, args.seed),
        "gcv": lambda: gcv(args.sides, args.seed),
        "path": lambda: path(args.repeats),
        "times": lambda: times(args.repeats),
        "small": lambda: small(args.repeats),
        "supports": lambda: supports(args.scenes, args.seed),
    }
    work[args.what]()


if __name__ == "__main__":
    main()
