"""A kernel that varies over the field: how good it is, what it costs, and whether its error bars hold.

    python -m benchmarks.varying [side] [scenes] [evidence]   # default 1024 and 1; 4000 stars at that side
    python -m benchmarks.varying [side] [scenes] degree       # the same where the kernel is of the degree
    python -m benchmarks.varying [side] cost                  # in plain fits, and memory

Stars on a sloping sky; the kernel, a Gaussian, widens by 1.8 from the centre to the corners, with the square of the
distance, and scales the flux by 1.3. Brightness and seeing are such that a constant kernel has an excess of .47 and a
kernel error of about .22, and that of degree 2 one of .06 and about .33.
excess: rms of (prediction - truth without noise) / noise. error: of the kernel at 25 places, relative. cover: share of
the taps there within 1.96 standard errors. Medians over the scenes, of coverage means. Times are of the processor, in
seconds and in plain fits (constant kernel, the same background). "evidence": the degree by evidence too, which is slow.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import kernelfit
from kernelfit.core.field import Field

Array = npt.NDArray[np.float64]
SIDE, WIDEN, SCALE, SEEING = 11, 1.8, 1.3, 0.88


class Scene(NamedTuple):
    """An image, its target, that without noise, the noise, and the kernel at a pixel."""

    image: Array
    target: Array
    model: Array
    sigma: Array
    kernel: Callable[[int, int], Array]


def gaussian(width: float) -> Array:
    """Return a kernel of sum 1."""
    at = np.arange(SIDE) - (SIDE - 1) / 2
    kernel = np.exp(-(at[:, None] ** 2 + at**2) / (2 * width**2))
    return np.asarray(kernel / kernel.sum())


def scene(n: int, *, photons: bool = True, seed: int = 0, degree: int | None = None) -> Scene:
    """Draw the scene: photon noise of a gain of 1, or white noise of standard deviation 15.

    With a degree the kernel is the polynomial of the place that comes nearest to it.
    """
    rng = np.random.default_rng(seed)
    stars, reach = 4000 * n * n // 1024**2, 8
    flux = np.minimum(500 / (1 - rng.random(stars)), 3e5)
    image = np.zeros((n + 2 * reach, n + 2 * reach))
    near = np.arange(-reach, reach + 1)
    for f, row, col in zip(flux, *rng.uniform(0, n, (2, stars)), strict=True):
        i, j = int(row), int(col)
        down, across = (np.exp(-((near + k - at) ** 2) / (2 * SEEING**2)) for k, at in ((i, row), (j, col)))
        image[i : i + 2 * reach + 1, j : j + 2 * reach + 1] += f * np.outer(down, across) / (2 * np.pi * SEEING**2)
    image = image[reach:-reach, reach:-reach].copy()
    u = np.linspace(-1, 1, n)
    bins = np.linspace(1.0, WIDEN, 13)
    place = (WIDEN - 1) * (u[:, None] ** 2 + u**2) / 2 / (bins[1] - bins[0])
    model = 200 + 60 * u[:, None] + np.zeros((n, n))
    for at, width in enumerate(bins):
        share = np.clip(1 - np.abs(place - at), 0, 1)
        model += kernelfit.apply_kernel(image * share, SCALE * gaussian(float(width)))

    def kernel(row: int, col: int) -> Array:
        low = min(int(place[row, col]), len(bins) - 2)
        part = place[row, col] - low
        return np.asarray(SCALE * ((1 - part) * gaussian(bins[low]) + part * gaussian(bins[low + 1])))

    if degree is not None:
        at = np.linspace(0, n - 1, 25).astype(int)
        every = [(row, col) for row in at for col in at]
        taps = np.array([kernel(*place).ravel() for place in every])
        field = Field(kernelfit.Polynomial(degree), (n, n))
        parts = np.linalg.lstsq(np.array([field.at(*place) for place in every]), taps, rcond=None)[0]
        model = 200 + 60 * u[:, None] + np.zeros((n, n))
        for part, unit in zip(parts, np.eye(field.n), strict=True):
            weight = field.surface(unit, np.arange(n, dtype=float), np.arange(n, dtype=float))
            model += kernelfit.apply_kernel(image * weight, part.reshape(SIDE, SIDE))

        def kernel(row: int, col: int) -> Array:
            return np.asarray(np.tensordot(field.at(row, col), parts, 1).reshape(SIDE, SIDE))

    sigma = np.sqrt(np.maximum(model, 1.0)) if photons else np.full((n, n), 15.0)
    return Scene(image, model + sigma * rng.standard_normal((n, n)), model, sigma, kernel)


def scores(fit: kernelfit.KernelFit, made: Scene) -> tuple[float, float, float, float]:
    """Return excess, the median and the largest error of the kernel, and the coverage."""
    off = (fit.predict(made.image) - made.model) / made.sigma
    places = (np.linspace(0.1, 0.9, 5) * len(made.image)).astype(int)
    errors, pulls = [], []
    for row in places:
        for col in places:
            here, truth = fit.at(row, col), made.kernel(row, col)
            errors.append(np.linalg.norm(here.kernel - truth) / np.linalg.norm(truth))
            pulls.append((here.kernel - truth) / here.stderr)
    excess, cover = np.sqrt(np.nanmean(off**2)), np.mean(np.abs(pulls) < 1.96)
    return float(excess), float(np.median(errors)), float(np.max(errors)), float(cover)


def memory(what: str) -> float:
    """Return a line of the process's memory, in MiB: "VmRSS", or "VmHWM" for the most there was."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(what)) / 1024


def cost(n: int, repeats: int = 7) -> None:
    """Print what degree 2 costs, in plain fits with the same background and in memory beyond the images (Linux)."""
    # A plain fit of this pair ends as soon as it is seen to vary: that of one that does not looks at all of the noise.
    made = scene(n)
    same = kernelfit.apply_kernel(made.image, SCALE * gaussian(WIDEN)) + 200
    same = same + np.sqrt(np.maximum(same, 1.0)) * np.random.default_rng(1).standard_normal(same.shape)
    for background in (None, 1):
        ratios: list[tuple[float, float]] = []
        for _ in range(repeats):
            times = []
            for target, words in ((made.target, {}), (same, {}), (made.target, {"variation": 2})):
                kernelfit.find_kernel(made.image[:300, :300], target[:300, :300], SIDE, **words)
                with open("/proc/self/clear_refs", "w") as file:
                    file.write("5")  # the peak starts anew
                before, start = memory("VmRSS"), time.process_time()
                kernelfit.find_kernel(made.image, target, SIDE, background=background, **words)
                times.append(time.process_time() - start)
            ratios.append((times[2] / times[0], times[2] / times[1]))
            grown = memory("VmHWM") - before
        fits, others = np.median(ratios, axis=0)
        told = f"{fits:.1f} plain fits ({others:.1f} of a pair that does not vary), at most {grown:.0f} MiB more memory"
        print(f"{n} x {n}, degree 2, background={background}: {told}", flush=True)


def main(words: list[str]) -> None:
    """Print the tables."""
    given = [int(word) for word in words if word.isdigit()]
    n, scenes = (*given, *(1024, 1)[len(given) :])
    if "cost" in words:
        cost(n)
        return
    rows: dict[str, dict[str, Any]] = {
        "constant": {},
        "degree 2": {"variation": 2},
        "degree 2, auto": {"variation": 2, "solver": "auto"},
    }
    if "evidence" in words:
        rows["degree by evidence"] = {"variation": "auto", "solver": "auto"}
    for photons in (True, False):
        print(f"{n} x {n}, {'photon noise' if photons else 'white noise'}, {scenes} scenes")
        more = {f"{name}, weights": {**own, "noise": "poisson"} for name, own in rows.items() if photons}
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in (*rows, *more)}
        verdicts: dict[str, set[str]] = {name: set() for name in found}
        for seed in range(scenes):
            made, plain = scene(n, photons=photons, seed=seed, degree=2 if "degree" in words else None), 0.0
            for name, own in (rows | more).items():
                if not seed:
                    kernelfit.find_kernel(made.image[:200, :200], made.target[:200, :200], SIDE, background=1, **own)
                start = time.process_time()
                fit = kernelfit.find_kernel(made.image, made.target, SIDE, background=1, **own)
                seconds = time.process_time() - start
                plain = plain or seconds
                found[name].append((*scores(fit, made), seconds, seconds / plain))
                verdicts[name].add(fit.verdict.name)
        for name, many in found.items():
            excess, error, worst, _, seconds, fits = np.median(many, axis=0)
            told = f"excess {excess:.4f}  error {error:.3f} / {worst:.3f}  cover {np.mean([m[3] for m in many]):.3f}"
            print(
                f"  {name:26s} {told}  {seconds:6.2f} s, {fits:5.1f} plain fits  {', '.join(verdicts[name])}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
