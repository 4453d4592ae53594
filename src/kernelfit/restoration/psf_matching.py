"""From one point spread function to another: a kernel of the full size of noise-free stamps, zeros beyond them."""

import math
from typing import NamedTuple

import numpy as np
import scipy.fft

from ..compiled.fft import SMALL
from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict, ranked
from ..core.geometry import Convention, default_origin
from ..core.validation import Array

#: Strengths tried, relative to the largest power of the source's spectrum: smaller and smaller ones, and larger ones
#: where the second is no better.
STRENGTHS = ((1e-6, 1e-9, 1e-12), (1e-5, 1e-4, 1e-3, 1e-2))
#: Iterations with each: at least and at most; they end if so many more take off less than such a share of the residual.
_LEAST, _MOST, _CHECKED, _STILL = 20, 60, 10, 0.02
#: A score so small needs no other mean of the ridge. A shift so near to whole pixels is one; one that is not has such a
#: variance along each axis: of 0 to .5 it left least of Gaussians of widths 2 and 3.
_ENOUGH, _SAME_PLACE, _SOFT = 1e-4, 1e-6, 0.25
#: What a unit of negative weight counts beside one of the residual.
NEGATIVE = 5e-3
#: A stamp has decayed if its rim is below this share of its peak, and holds so much of its weight in its middle.
_DECAYED, _MIDDLE = 2e-3, 0.5
#: A stamp is cut off if more of its peak is left at the rim: a kernel of such stamps is wrong by about as much.
_CUT = 1e-2


def decayed(stamp: Array) -> bool:
    """Return whether an array is a stamp of something that has faded to nothing at its edges."""
    if min(stamp.shape) < 9:
        return False
    peak = max(float(stamp.max()), -float(stamp.min()))
    if not 0 < peak < math.inf or not rim(stamp) < _DECAYED * peak:
        return False
    (rows, cols), size = stamp.shape, np.abs(stamp) / peak
    middle = size[rows // 4 : rows - rows // 4, cols // 4 : cols - cols // 4].sum()
    return bool(middle > _MIDDLE * size.sum())


def rim(stamp: Array) -> float:
    """Return the largest modulus along the edges."""
    return float(max(np.abs(stamp[[0, -1]]).max(), np.abs(stamp[:, [0, -1]]).max()))


def area(stamp: Array) -> float:
    """Return the noise-equivalent area, ``(sum P)^2 / sum P^2`` pixels: the smaller, the sharper."""
    unit = stamp / (float(np.abs(stamp).max(initial=0.0)) or 1.0)
    return float(unit.sum() ** 2 / np.sum(unit**2))


class _Stamps:
    """The equations ``S k = t`` of stamps that are zero beyond their edges, S an operator of two transforms."""

    def __init__(self, source: Array, target: Array, workers: int) -> None:
        self.target, self.shape = target, (target.shape[0], target.shape[1])
        # neither the target's pixels nor those of the gradient may meet what a transform repeats
        self.size = [scipy.fft.next_fast_len(2 * n - 1, real=True) for n in self.shape]
        self.workers = workers if self.size[0] * self.size[1] > SMALL else 1
        self.first = default_origin((target.shape[0], target.shape[1]))
        self.spectrum = scipy.fft.rfft2(source, self.size, workers=self.workers)
        self.power = self.spectrum.real**2 + self.spectrum.imag**2
        self.scale = float(self.power.max())

    def _filtered(self, array: Array, transfer: Array, start: tuple[int, int], into: tuple[int, int]) -> Array:
        wide = np.zeros(self.size)
        rows, cols = self.shape
        wide[start[0] : start[0] + rows, start[1] : start[1] + cols] = array
        made = scipy.fft.irfft2(scipy.fft.rfft2(wide, workers=self.workers) * transfer, self.size, workers=self.workers)
        return np.asarray(made[into[0] : into[0] + rows, into[1] : into[1] + cols])

    def apply(self, kernel: Array) -> Array:
        """Return what a kernel makes of the source."""
        return self._filtered(kernel, self.spectrum, (0, 0), self.first)

    def share(self, kernel: Array) -> float:
        """Return the residual's share of the target, ``D = sum |t - S k| / sum |t|``."""
        return float(np.abs(self.target - self.apply(kernel)).sum() / np.abs(self.target).sum())

    def adjoint(self, residual: Array) -> Array:
        """Return ``S'r``."""
        return self._filtered(residual, self.spectrum.conj(), self.first, (0, 0))

    def solve(self, kernel: Array, strength: float, mean: Array | float = 0.0) -> tuple[Array, int]:
        """Minimise ``|t - S k|^2 + strength |k - mean|^2`` from a kernel on; return it and the number of iterations."""
        # Conjugate gradients, preconditioned by the division of spectra, until the residual hardly changes any more.
        ridge = strength * self.scale
        inverse = 1.0 / (self.power + ridge)
        residual = self.target - self.apply(kernel)
        gradient = self.adjoint(residual) - ridge * (kernel - mean)
        direction = step = self._filtered(gradient, inverse, (0, 0), (0, 0))
        size, last = float(np.vdot(gradient, step)), math.inf
        for count in range(_MOST):
            if not size > 0:
                return kernel, count
            image = self.apply(direction)
            curve = float(np.vdot(image, image) + ridge * np.vdot(direction, direction))
            rate = size / curve
            kernel = kernel + rate * direction
            residual = residual - rate * image
            if count % _CHECKED == _CHECKED - 1:
                left = float(np.abs(residual).sum())
                if count >= _LEAST and left > (1 - _STILL) * last:
                    return kernel, count + 1
                last = left
            gradient = self.adjoint(residual) - ridge * (kernel - mean)
            step = self._filtered(gradient, inverse, (0, 0), (0, 0))
            size, before = float(np.vdot(gradient, step)), size
            direction = step + size / before * direction
        return kernel, _MOST


class _Match(NamedTuple):
    """A kernel found with one strength, the residual's share of the target, and the negative weight's of the kernel."""

    kernel: Array
    strength: float
    share: float
    negative: float

    @property
    def score(self) -> float:
        """What has to be least."""
        return self.share + NEGATIVE * self.negative


def _best(stamps: _Stamps, mean: Array, strength: float | None) -> tuple[_Match, int]:
    """Return the best kernel over the strengths, one at a time from the last one on, and the number of iterations."""
    best, iterations = None, 0
    smaller, larger = STRENGTHS if strength is None else ((strength,), ())
    for ladder in (smaller, larger):
        kernel = mean
        for one in ladder:
            kernel, count = stamps.solve(kernel, one, mean)
            iterations += count
            negative = float(-kernel[kernel < 0].sum()) / max(abs(float(kernel.sum())), 1e-300)
            found = _Match(kernel, one, stamps.share(kernel), negative)
            if best is not None and found.score >= best.score:
                break
            best = found
        if best is not None and best.strength != smaller[0]:
            break
    assert best is not None
    return best, iterations


def _between(source: Array, target: Array) -> Array | None:
    """Return the Gaussian kernel with the difference of two stamps' moments, as narrow as they say; None for neither.

    Of no width it is one tap; between pixels it has some, or it would ring.
    """
    places = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float64) for n in source.shape), indexing="ij"), axis=-1)
    sums, means, covariances = [], [], []
    for stamp in (source, target):
        total = float(stamp.sum())
        if not total > 0:
            return None
        mean = np.einsum("ij,ijk->k", stamp, places) / total
        off = places - mean
        sums.append(total)
        means.append(mean)
        covariances.append(np.einsum("ij,ijk,ijl->kl", stamp, off, off) / total)
    values, vectors = np.linalg.eigh(covariances[1] - covariances[0])
    shift = means[1] - means[0]
    off = np.abs(shift - np.rint(shift)) > _SAME_PLACE
    shift[~off] = np.rint(shift[~off])
    values = np.maximum(values, _SOFT if off.any() else 0.0)
    shift += default_origin((source.shape[0], source.shape[1]))
    frequency = np.stack(np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in source.shape), indexing="ij"), axis=-1)
    decay = np.square(frequency @ vectors) @ values
    return np.asarray(np.fft.ifft2(np.exp(-0.5 * decay - 1j * (frequency @ shift))).real * (sums[1] / sums[0]))


def match(source: Array, target: Array, strength: float | None, workers: int) -> Estimate:
    """Return the kernel that takes one stamp to another of the same shape."""
    # Without a strength the one is taken for which the residual's share of the target, with `NEGATIVE` times the
    # negative weight's share of the kernel, is least: noise-free stamps can have both small. What the source does not
    # tell of the kernel stays as it is in the mean of the ridge. Zeros make it ring where the two are about as sharp;
    # the Gaussian between them does not.
    powers = [math.frexp(float(np.abs(stamp).max()))[1] for stamp in (source, target)]
    source, target = (np.ldexp(stamp, -power) for stamp, power in zip((source, target), powers, strict=True))
    stamps = _Stamps(source, target, workers)
    best, iterations = _best(stamps, np.zeros(stamps.shape), strength)
    between = _between(source, target) if strength is None else None
    if between is not None and best.score > min(_ENOUGH, stamps.share(between)):
        other, count = _best(stamps, between, strength)
        best, iterations = min(best, other, key=lambda one: one.score), iterations + count
    residual = target - stamps.apply(best.kernel)
    rss, n, unit = float(np.vdot(residual, residual)), target.size, math.ldexp(1.0, powers[1])
    variance = float(np.sum((target - target.mean()) ** 2))
    findings = []
    if best.negative > 1:
        sharper = area(target) < area(source)
        why = "the target is the sharper of the two" if sharper else "the target has detail that the source lacks"
        detail = f"the kernel's negative weight is {best.negative:.3g} times its sum: {why}"
        findings.append(Finding(Verdict.ILL_CONDITIONED, detail))
    said = f"residual D = sum|r| / sum|target| = {best.share:.2g}"
    notes = [f"{said}, negative weight {best.negative:.2g} of the kernel's sum"]
    for name, stamp in (("source", source), ("target", target)):
        said, left = f"the {name} has not faded at its edges", rim(stamp) / float(np.abs(stamp).max())
        if left > _CUT:
            detail = f"{said}, where {100 * left:.2g} % of its peak are left, and zeros are assumed beyond"
            findings.append(Finding(Verdict.WRONG_BOUNDARY, detail, "take off the sky, or cut out larger stamps"))
        elif not decayed(stamp):
            notes.append(f"{said}, beyond which zeros are assumed")
    return Estimate(
        kernel=np.ldexp(best.kernel, powers[1] - powers[0]),
        root=None,
        noise_std=math.sqrt(rss / n) * unit,
        rank=n,
        condition=math.nan,
        rss=rss * unit**2,
        r_squared=1.0 - rss / variance if variance > 0 else math.nan,
        n_pixels=n,
        convention=Convention("same", "fill", origin=stamps.first),
        findings=ranked(findings),
        method="fft",
        method_reason="stamps that fade to zero",
        iterations=iterations,
        solver=f"match_psf, ridge of {best.strength:.0e} of the largest power",
        df_model=float(n),
        strength=best.strength,
        notes=tuple(notes),
    )
