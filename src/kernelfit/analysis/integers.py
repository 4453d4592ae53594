"""Taps that are whole numbers over a common denominator: the smallest one that the errors allow."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special

from ..core.estimate import Estimate, require_real
from .filter_problem import Problem, as_problem, rounding_of, without_prior
from .filter_search import chance

Array = npt.NDArray[np.float64]
_MOST = 1 << 16  # denominators that are tried
_ROUGH = 1e-7  # of the largest tap: what tools lose in single precision
_FALSE_ALARM = 1e-3
_BY_CHANCE = 1e-6
_LIKELY = 0.05  # denominators that chance makes with more are looked through to the end of their lot


@dataclass(frozen=True, eq=False)
class IntegerKernel:
    """A kernel of whole numbers; made by `KernelFit.as_integers`.

    Attributes
    ----------
    numerators : ndarray of int64, of the kernel's shape
        The taps times the denominator.
    denominator : int
        The smallest for which every tap is a whole number within its error.
    probability : float
        That a kernel of arbitrary taps, as large and as well known, would have such a denominator or a smaller one by
        chance; taps of zero do not count. Near 1 it says nothing of the kernel.
    """

    numerators: npt.NDArray[np.int64]
    denominator: int
    probability: float

    @property
    def kernel(self) -> Array:
        """The taps."""
        return self.numerators / self.denominator

    def __str__(self) -> str:
        return f"1/{self.denominator} of\n{self.numerators}\n(by chance {self.probability:.1g})"


def as_integers(fit: Estimate) -> IntegerKernel | None:
    """Return the kernel over the smallest denominator that makes every tap whole within its error; None above 65536."""
    # A tap lies no farther off than noise would take any of the taps in 99.9 of 100 kernels. Where no denominator is
    # more than chance, and the noise is that of a rounded target, a tap may be off by as much more as `recognise` lets
    # pass. What tools lose in single precision, 1e-7 of the largest tap, counts beside the errors.
    require_real(fit)
    fit = without_prior(fit)
    taps = fit.kernel
    size = float(np.abs(taps).max())
    if not size > 0 or not np.isfinite(fit.stderr).all():
        return None
    error = np.where(fit.stderr > 1e-3 * fit.stderr.max(), fit.stderr, fit.stderr.max())  # a choice held the others
    reach = float(-scipy.special.ndtri(0.5 * _FALSE_ALARM / taps.size)) * np.hypot(error, _ROUGH * size)
    large = np.flatnonzero(np.abs(taps) > reach)
    together = 1.0
    if fit.root is not None and large.size and error.max() > 0:
        # of errors that hang together, fewer combinations are as large
        scaled = fit._covariance_factor()[large] / error.ravel()[large, None]
        together = math.exp(0.5 * min(0.0, float(np.linalg.slogdet(scaled @ scaled.T)[1])))
    found = _smallest(taps, reach, as_problem(fit, None) if taps.ndim == 2 else None, together)
    doubt = rounding_of(fit).doubt
    if doubt > 0 and (found is None or found.probability > _BY_CHANCE):
        other = _smallest(taps, reach + math.sqrt(doubt) * error, None)
        if other is not None and (found is None or other.probability < found.probability):
            return other
    return found


def _smallest(taps: Array, reach: Array, problem: Problem | None, together: float = 1.0) -> IntegerKernel | None:
    """Return the kernel over the smallest denominator within reach of every tap that is beyond chance.

    Of those up to twice as large the likeliest is taken: a smaller one may be within the errors and yet fit worse.
    """
    large, wide = taps[np.abs(taps) > reach], reach[np.abs(taps) > reach]
    if not large.size:
        return None
    chances, alone, best, least, most = 0.0, None, None, math.inf, _MOST
    for start in range(1, _MOST + 1, 256):
        n = np.arange(start, start + 256)[:, None]
        near = (np.abs(n * large - np.rint(n * large)) <= n * wide).all(axis=1)
        every = chances + np.cumsum(together * np.exp(np.log(np.minimum(2 * n * wide, 1.0)).sum(axis=1)))
        for at in np.flatnonzero(near).tolist():
            numerators = np.rint((start + at) * np.where(np.abs(taps) > reach, taps, 0.0)).astype(np.int64)
            whole = IntegerKernel(numerators, start + at, min(1.0, float(every[at])))
            alone = alone or whole
            if problem is None or whole.denominator > most:
                return best or alone
            left = taps - whole.kernel
            left = left[::-1, ::-1] if problem.turned else left
            chi_square, doubt = float(np.sum(problem.white(left.reshape(1, -1)) ** 2)), problem.rounding.doubt
            if chance(chi_square, problem.n, doubt) >= _FALSE_ALARM:
                most = min(most, 2 * whole.denominator - 1)
                # of the numerators of a denominator n one in n^k is the kernel's
                length = chi_square / (1 + doubt / problem.n) + 2 * large.size * math.log(whole.denominator)
                if length < least:
                    best, least = whole, length
        chances = float(every[-1])
        if start + 256 > most or (alone is not None and chances > _LIKELY):
            break
    return best or alone


def polish(fit: Estimate) -> dict[str, Any]:
    """Return what changes of a fit where its kernel is made of whole numbers."""
    whole = as_integers(fit) if fit.kernel.ndim == 2 else None
    if whole is None or whole.probability > _BY_CHANCE:
        why = "no whole numbers fit the taps" if whole is None else f"by chance as likely as {whole.probability:.1g}"
        return {"notes": (*fit.notes, f"the kernel was not polished: {why}")}
    note = f"the kernel was polished: its taps are whole numbers over {whole.denominator}"
    return {"kernel": whole.kernel, "root_scale": 0.0, "typical_stderr": 0.0, "notes": (*fit.notes, note)}
