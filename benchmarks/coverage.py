"""Whether 95 % intervals hold the truth in 95 of 100 cases: those of taps, and of the numbers of a kernel's shape.

    python -m benchmarks.coverage [draws]

The taps' solvers see a new noise of the target in each draw; the numbers are measured on a kernel with noise of a known
covariance, which needs no pixels.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.signal

import kernelfit
from kernelfit.core.estimate import Estimate

Array = npt.NDArray[np.float64]


def profile(shape: tuple[int, int], along: float, across: float, degrees: float, coma: float = 0.0) -> Array:
    """Return a Gaussian with its long axis so many degrees from the columns, and with a tail to one side."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    y, x = y - shape[0] / 2 + 0.8, x - shape[1] / 2 + 0.3
    t = np.radians(degrees)
    u, v = x * np.cos(t) - y * np.sin(t), x * np.sin(t) + y * np.cos(t)
    kernel = np.exp(-(u**2) / (2 * along**2) - v**2 / (2 * across**2))
    if coma:
        kernel += coma * np.exp(-((u - 2.2) ** 2) / (2 * (1.3 * along) ** 2) - v**2 / (2 * (1.5 * across) ** 2))
    return np.asarray(kernel / kernel.sum())


KERNELS = {
    "elongated": profile((17, 21), 2.4, 1.5, 30.0),
    "round": profile((15, 17), 1.8, 1.8, 0.0),
    "nearly round": profile((15, 17), 1.9, 1.75, -50.0),
    "coma": profile((19, 23), 1.8, 1.4, 20.0, coma=0.35),
}


def noise_factor(shape: tuple[int, int], smooth: bool) -> Array:
    """Return a factor of a covariance of the taps: white, or what an image with little fine detail leaves."""
    if not smooth:
        return np.eye(shape[0] * shape[1])
    y, x = np.mgrid[: shape[0], : shape[1]].reshape(2, -1)
    distance = np.hypot(y[:, None] - y, x[:, None] - x)
    factor: Array = np.linalg.cholesky(np.linalg.inv(np.exp(-distance / 6)))
    return factor / np.sqrt(np.mean(np.sum(factor**2, axis=1)))


def psf_coverage(kernel: Array, factor: Array, draws: int) -> tuple[dict[str, float], float]:
    """Return the share of draws in which each number's interval holds the truth, and the seconds one takes."""
    rng = np.random.default_rng(1)
    template = kernelfit.find_kernel(rng.normal(size=(60, 70)), rng.normal(size=(60, 70)), kernel.shape)
    truth = {
        name: number.value
        for name, number, _ in kernelfit.measure_psf(kernel, origin=template.convention.origin).rows()
    }
    hits: dict[str, list[bool]] = {name: [] for name in truth}
    start = time.perf_counter()
    for _ in range(draws):
        noisy = kernel + (factor @ rng.standard_normal(factor.shape[1])).reshape(kernel.shape)
        fields = {name: getattr(template, name) for name in Estimate.__dataclass_fields__}
        fit = Estimate(**{**fields, "kernel": noisy, "factor": factor, "findings": ()})
        for name, number, _ in kernelfit.measure_psf(fit).rows():
            away = number.value - truth[name]
            if name == "angle":
                away = (away + 90) % 180 - 90
            hits[name].append(abs(away) <= 1.96 * number.stderr)
    return {name: float(np.mean(own)) for name, own in hits.items()}, (time.perf_counter() - start) / draws


SOLVERS: dict[str, Callable[[Array], object]] = {
    "LeastSquares()": lambda _: kernelfit.LeastSquares(),
    "Constrained(total)": lambda kernel: kernelfit.Constrained(total=float(kernel.sum())),
    "Constrained(point)": lambda _: kernelfit.Constrained(symmetric="point"),
    "InBasis(6)": lambda kernel: kernelfit.InBasis(
        np.array([kernel, *np.random.default_rng(0).normal(size=(5, *kernel.shape))])
    ),
    "Sparse(), few large taps": lambda _: kernelfit.Sparse(),
    "NonNegative(), all above 0": lambda _: kernelfit.NonNegative(),
}


def tap_coverage(solver: object, kernel: Array, draws: int) -> float:
    """Return the share of taps that their 95 % intervals hold, among those that have an error."""
    rng = np.random.default_rng(2)
    image = scipy.signal.convolve2d(rng.normal(size=(46, 53)), np.ones((2, 2)), mode="valid")
    clean = scipy.signal.convolve2d(image, kernel, mode="valid")
    known, hits = 0, 0
    for _ in range(draws):
        fit = kernelfit.accumulate(image, clean + rng.normal(0, 0.05, clean.shape), kernel.shape).solve(solver)
        low, high = fit.confidence()
        some = fit.stderr > 0
        known += int(some.sum())
        hits += int(((low <= kernel) & (kernel <= high))[some].sum())
    return hits / known


def main() -> None:
    """Print the tables."""
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    kernel = np.outer([0.2, 0.6, 1.0, 0.6, 0.2], [0.3, 0.8, 1.0, 1.0, 0.8, 0.3, 0.3])
    kernel = kernel + kernel[::-1, ::-1]
    few = np.zeros((5, 7))
    few[1, 2], few[3, 5] = 1.0, -0.5
    print(f"taps, {draws} draws")
    for name, make in SOLVERS.items():
        own = few if "few" in name else kernel
        print(f"  {name:28s}{tap_coverage(make(own), own, draws):.3f}", flush=True)
    for name, kernel in KERNELS.items():
        for smooth in (False, True):
            level = (0.02 if smooth else 0.015) * float(kernel.max())
            found, seconds = psf_coverage(kernel, level * noise_factor(kernel.shape, smooth), draws)
            print(f"{name}, {'rough' if smooth else 'white'} errors, {draws} draws, {1e3 * seconds:.0f} ms each")
            print("  " + ", ".join(f"{number} {share:.3f}" for number, share in found.items()), flush=True)


if __name__ == "__main__":
    main()
