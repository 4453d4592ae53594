"""Whether 95 % intervals hold the truth in 95 of 100 cases: those of taps, and of the numbers of a kernel's shape.

    python -m benchmarks.error_bars [draws] [settings] [part of a setting's name ...]

The taps' solvers see a new noise of the target in each draw; the numbers are measured on a kernel with noise of a known
covariance, which needs no pixels. With "settings" the table of masks, weights and the like is all that is printed, or
what of it has such a name.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator

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
        fit = Estimate(**{**fields, "kernel": noisy, "root": factor, "root_scale": 1.0, "findings": ()})
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
    "Sparse(), small taps beside": lambda _: kernelfit.Sparse(),
    "NonNegative(), all above 0": lambda _: kernelfit.NonNegative(),
}


def tap_coverage(solver: object, kernel: Array, draws: int) -> float:
    """Return the share of taps that their 95 % intervals hold, among those that are not held at zero."""
    rng = np.random.default_rng(2)
    image = scipy.signal.convolve2d(rng.normal(size=(46, 53)), np.ones((2, 2)), mode="valid")
    clean = scipy.signal.convolve2d(image, kernel, mode="valid")
    known, hits = 0, 0
    for _ in range(draws):
        fit = kernelfit.accumulate(image, clean + rng.normal(0, 0.05, clean.shape), kernel.shape).solve(solver)
        low, high = fit.confidence()
        some = fit.kernel != 0
        known += int(some.sum())
        hits += int(((low <= kernel) & (kernel <= high))[some].sum())
    return hits / known


@dataclasses.dataclass
class Scene:
    """An image, what a kernel makes of it, and draws of noise."""

    kernel: Array
    image: Array
    clean: Array
    rng: np.random.Generator

    @classmethod
    def of(cls, size: tuple[int, int] = (46, 53), stride: int = 1, mean: float = 0.0, smooth: bool = True) -> "Scene":
        """Return a scene of a texture, the target 'valid'."""
        rng = np.random.default_rng(5)
        kernel = np.outer([0.2, 0.6, 1.0, 0.6, 0.2], [0.3, 0.8, 1.0, 1.0, 0.8, 0.3, 0.3]) / 15
        image = rng.normal(size=size)
        if smooth:
            image = scipy.signal.convolve2d(image, np.ones((2, 2)), mode="valid")
        image = image + mean
        clean = scipy.signal.convolve2d(image, kernel, mode="valid")[::stride, ::stride]
        return cls(kernel, image, clean, rng)

    def noise(self, level: float | Array = 0.05) -> Array:
        """Return white noise of the target."""
        return np.asarray(level * self.rng.normal(size=self.clean.shape))


Fits = Callable[[], tuple[kernelfit.KernelFit, Array, Array]]


def settings() -> Iterator[tuple[str, Fits]]:
    """Yield each setting: a draw of a fit, the true taps, and the true coefficients of a background."""
    none = np.zeros(0)
    find = kernelfit.find_kernel

    def of(name: str, scene: Scene, draw: Callable[[Scene], tuple[Array, dict[str, object]]], **words: object):
        def fit() -> tuple[kernelfit.KernelFit, Array, Array]:
            target, more = draw(scene)
            return find(scene.image, target, scene.kernel.shape, mode="valid", **words, **more), scene.kernel, none

        return name, fit

    plain = Scene.of()
    yield of("plain", plain, lambda s: (s.clean + s.noise(), {}))
    mask = np.random.default_rng(0).random(plain.clean.shape) < 0.3
    mask[5:20, 8:19] = True
    yield of("mask", plain, lambda s: (np.where(mask, 1e3, s.clean + s.noise()), {"mask": mask}))
    levels = 0.03 * np.exp(np.random.default_rng(1).normal(size=plain.clean.shape))
    yield of("weights", plain, lambda s: (s.clean + s.noise(levels), {"weights": levels**-2.0}))
    bright = Scene.of(mean=40.0)
    yield of("photon noise", bright, lambda s: (s.rng.poisson(s.clean).astype(float), {"noise": "poisson"}))
    shape = plain.clean.shape
    truth = np.array([3.0, -1.0, 0.5])
    surface = kernelfit.Background(1, truth, truth, (shape,)).image()
    for name, words in (("", {}), (", cg", {"solver": kernelfit.ConjugateGradient()})):

        def beside(words: dict[str, object] = words) -> tuple[kernelfit.KernelFit, Array, Array]:
            target = bright.clean + surface + bright.noise()
            found = find(bright.image, target, bright.kernel.shape, mode="valid", background=1, **words)
            return found, bright.kernel, truth

        yield f"background{name}", beside
    stack = np.stack([plain.image, plain.image[::-1] ** 2, plain.image[:, ::-1]], axis=-1)
    made = kernelfit.apply_kernel(stack, plain.kernel, mode="valid", channel_axis=-1)
    for channels in ("shared", "separate"):

        def coloured(channels: str = channels) -> tuple[kernelfit.KernelFit, Array, Array]:
            target = made + 0.05 * plain.rng.normal(size=made.shape)
            words = {"channel_axis": -1, "channels": channels, "mode": "valid"}
            found = find(stack, target, plain.kernel.shape, **words)
            return found, np.broadcast_to(plain.kernel, found.kernel.shape), none

        yield f"channels {channels}", coloured
    yield of("stride 2", Scene.of((92, 107), 2), lambda s: (s.clean + s.noise(), {}), stride=2)
    white = Scene.of(smooth=False)

    def seen() -> tuple[kernelfit.KernelFit, Array, Array]:
        image = white.image + 0.1 * white.rng.normal(size=white.image.shape)
        found = find(image, white.clean + white.noise(), white.kernel.shape, mode="valid", image_noise=0.1)
        return found, white.kernel, none

    yield "image noise", seen

    def outliers(s: Scene) -> tuple[Array, dict[str, object]]:
        spoilt = s.rng.random(s.clean.shape) < 0.04
        return s.clean + s.noise() + np.where(spoilt, s.rng.normal(0, 5, s.clean.shape), 0.0), {}

    for loss in ("huber", "tukey"):
        yield of(f"robust {loss}", plain, outliers, robust=loss)
    filters = np.outer([0.5, 1.0, 0.5], [0.5, 1.0, 0.5])

    def correlated(s: Scene) -> tuple[Array, dict[str, object]]:
        larger = s.rng.normal(size=[n + 2 for n in s.clean.shape])
        return s.clean + 0.03 * scipy.signal.convolve2d(larger, filters, mode="valid"), {}

    yield of("sandwich", Scene.of((120, 131)), correlated, errors="sandwich")
    for ratio in (1.1, 1.5, 3.0):
        rows = round(math.sqrt(ratio * 195))
        image = np.random.default_rng(2).normal(size=(rows + 12, round(ratio * 195 / rows) + 14))
        taps = np.random.default_rng(3).normal(size=(13, 15))
        iterated = Scene(taps, image, scipy.signal.convolve2d(image, taps, mode="valid"), np.random.default_rng(4))
        words: dict[str, object] = {"solver": kernelfit.ConjugateGradient()}
        yield of(
            f"cg, {iterated.clean.size / taps.size:.2f} pixels a tap",
            iterated,
            lambda s: (s.clean + s.noise(), {}),
            **words,
        )


def setting_coverage(fit: Fits, draws: int) -> tuple[float, float]:
    """Return the shares of taps, and of coefficients of a background, that their 95 % intervals hold."""
    taps, beside = [], []
    for _ in range(draws):
        found, kernel, truth = fit()
        low, high = found.confidence()
        taps.append(np.mean((low <= kernel) & (kernel <= high)))
        if truth.size and found.background is not None:
            away = np.abs(found.background.coefficients.ravel() - truth)
            beside.append(np.mean(away <= 1.96 * found.background.stderr.ravel()))
    return float(np.mean(taps)), float(np.mean(beside)) if beside else math.nan


def main() -> None:
    """Print the tables."""
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print(f"taps of each setting, {draws} draws")
    parts = [word for word in sys.argv[2:] if word != "settings"]
    for name, fit in settings():
        if parts and not any(part in name for part in parts):
            continue
        share, beside = setting_coverage(fit, draws)
        more = "" if math.isnan(beside) else f", coefficients {beside:.3f}"
        print(f"  {name:28s}{share:.3f}{more}", flush=True)
    if "settings" in sys.argv:
        return
    kernel = np.outer([0.2, 0.6, 1.0, 0.6, 0.2], [0.3, 0.8, 1.0, 1.0, 0.8, 0.3, 0.3])
    kernel = kernel + kernel[::-1, ::-1]
    few = np.zeros((5, 7))
    few[1, 2], few[3, 5] = 1.0, -0.5
    small = few + 0.002 * np.random.default_rng(7).normal(size=few.shape)
    print(f"taps, {draws} draws")
    for name, make in SOLVERS.items():
        own = few if "few" in name else small if "small" in name else kernel
        print(f"  {name:28s}{tap_coverage(make(own), own, draws):.3f}", flush=True)
    for name, kernel in KERNELS.items():
        for smooth in (False, True):
            level = (0.02 if smooth else 0.015) * float(kernel.max())
            found, seconds = psf_coverage(kernel, level * noise_factor(kernel.shape, smooth), draws)
            print(f"{name}, {'rough' if smooth else 'white'} errors, {draws} draws, {1e3 * seconds:.0f} ms each")
            print("  " + ", ".join(f"{number} {share:.3f}" for number, share in found.items()), flush=True)


if __name__ == "__main__":
    main()
