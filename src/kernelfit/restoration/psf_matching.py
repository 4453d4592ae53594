"""From one point spread function to another: a kernel of the full size of noise-free stamps, zeros beyond them."""

import math

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
#: What a unit of negative weight counts beside one of the residual.
NEGATIVE = 5e-3
#: A stamp has decayed if its rim is below this share of its peak, and holds so much of its weight in its middle.
_DECAYED, _MIDDLE = 2e-3, 0.5
#: A stamp is cut off if more of its peak is left at the rim: a kernel of such stamps is wrong by about as much.
_CUT = 1e-2


def decayed(stamp: Array) -> bool:
    """Return whether an array is a stamp of something that has faded to nothing at its edges."""
    size = np.abs(stamp)
    (rows, cols), peak = stamp.shape, float(size.max(initial=0.0))
    if min(stamp.shape) < 9 or not 0 < peak < math.inf:
        return False
    middle = size[rows // 4 : rows - rows // 4, cols // 4 : cols - cols // 4].sum()
    return rim(stamp) < _DECAYED * peak and middle > _MIDDLE * size.sum()


def rim(stamp: Array) -> float:
    """Return the largest modulus along the edges."""
    return float(max(np.abs(stamp[[0, -1]]).max(), np.abs(stamp[:, [0, -1]]).max()))


def area(stamp: Array) -> float:
    """Return the noise-equivalent area, ``(sum P)^2 / sum P^2`` pixels: the smaller, the sharper."""
    return float(stamp.sum() ** 2 / np.sum(stamp**2))


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

    def adjoint(self, residual: Array) -> Array:
        """Return ``S'r``."""
        return self._filtered(residual, self.spectrum.conj(), self.first, (0, 0))

    def solve(self, kernel: Array, strength: float) -> tuple[Array, int]:
        """Minimise ``|t - S k|^2 + strength |k|^2`` from a kernel on; return it and the number of iterations."""
        # Conjugate gradients, preconditioned by the division of spectra, until the residual hardly changes any more.
        ridge = strength * self.scale
        inverse = 1.0 / (self.power + ridge)
        residual = self.target - self.apply(kernel)
        gradient = self.adjoint(residual) - ridge * kernel
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
            gradient = self.adjoint(residual) - ridge * kernel
            step = self._filtered(gradient, inverse, (0, 0), (0, 0))
            size, before = float(np.vdot(gradient, step)), size
            direction = step + size / before * direction
        return kernel, _MOST


def match(source: Array, target: Array, strength: float | None, workers: int) -> Estimate:
    """Return the kernel that takes one stamp to another of the same shape."""
    # Without a strength the one is taken for which the residual's share of the target, ``D = sum |r| / sum |t|``, with
    # `NEGATIVE` times the negative weight's share of the kernel, is least: noise-free stamps can have both small.
    stamps = _Stamps(source, target, workers)
    total = float(np.abs(target).sum())
    kernel, best, iterations = np.zeros(stamps.shape), None, 0
    smaller, larger = STRENGTHS if strength is None else ((strength,), ())
    for ladder in (smaller, larger):
        for one in ladder:
            kernel, count = stamps.solve(kernel, one)
            iterations += count
            residual = target - stamps.apply(kernel)
            share = float(np.abs(residual).sum()) / total
            negative = float(-kernel[kernel < 0].sum()) / max(abs(float(kernel.sum())), 1e-300)
            score = share + NEGATIVE * negative
            if best is not None and score >= best[0]:
                break
            best = score, kernel, residual, share, negative, one
        if best is not None and best[-1] != smaller[0]:
            break
        kernel = np.zeros(stamps.shape)
    assert best is not None
    _, kernel, residual, share, negative, chosen = best
    rss, n = float(np.vdot(residual, residual)), target.size
    variance = float(np.sum((target - target.mean()) ** 2))
    findings = []
    if negative > 1:
        detail = f"the kernel's negative weight is {negative:.3g} times its sum: the target is the sharper of the two"
        findings.append(Finding(Verdict.ILL_CONDITIONED, detail))
    notes = [f"residual D = sum|r| / sum|target| = {share:.2g}, negative weight {negative:.2g} of the kernel's sum"]
    for name, stamp in (("source", source), ("target", target)):
        said, left = f"the {name} has not faded at its edges", rim(stamp) / float(np.abs(stamp).max())
        if left > _CUT:
            detail = f"{said}, where {100 * left:.2g} % of its peak are left, and zeros are assumed beyond"
            findings.append(Finding(Verdict.WRONG_BOUNDARY, detail, "take off the sky, or cut out larger stamps"))
        elif not decayed(stamp):
            notes.append(f"{said}, beyond which zeros are assumed")
    return Estimate(
        kernel=kernel,
        root=None,
        noise_std=math.sqrt(rss / n),
        rank=n,
        condition=math.nan,
        rss=rss,
        r_squared=1.0 - rss / variance if variance > 0 else math.nan,
        n_pixels=n,
        convention=Convention("same", "fill", origin=stamps.first),
        findings=ranked(findings),
        method="fft",
        method_reason="stamps that fade to zero",
        iterations=iterations,
        solver=f"match_psf, ridge of {chosen:.0e} of the largest power",
        df_model=float(n),
        strength=chosen,
        notes=tuple(notes),
    )
