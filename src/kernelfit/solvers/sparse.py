"""Kernels of few taps."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core.estimate import Estimate, StrengthPath
from ..core.normal_equations import NormalEquations
from ..core.validation import Array, as_count, known
from .cholesky import product, times
from .constrained import factor_of, refined
from .least_squares import EPS, LeastSquaresSolution, at_minimum, estimate_of, finish, let_in, rescaled, residual_at

#: Share of the target's energy below which a difference of energies is rounding.
_CANCELLED = 1e-9
#: So many chosen taps are taken off the Gram matrix at a time.
_AT_A_TIME = 64


@dataclass(frozen=True)
class Sparse:
    """A kernel of few taps, chosen one at a time, as many as an information criterion is worth.

    At each step the tap that lowers the residual most, all chosen ones being refitted, is added (orthogonal least
    squares); then chosen taps whose loss is worth it are dropped again. The number t of taps minimises ::

        n log(rss / n) + t log n + 2 log(m! / (t! (m - t)!))

    the Bayesian information criterion with the number of ways to choose t of m taps ("ebic"), or without the last term
    ("bic"), or ``n log(rss / n) + 2 t`` ("aic"). The covariance is that of least squares on the chosen taps, and of
    each other tap as it would be if it alone were let in beside them.

    Parameters
    ----------
    criterion : {"ebic", "bic", "aic"}, optional
        The criterion, default "ebic".
    n_taps : int, optional
        The number of taps, instead of a criterion.

    Raises
    ------
    ValueError
        If the criterion is unknown or the number of taps less than 1.

    References
    ----------
    S. Chen, S. Billings and W. Luo, "Orthogonal least squares methods and their application to non-linear system
    identification", Int. J. Control 50 (1989), section 3, doi:10.1080/00207178908953472. J. Chen and Z. Chen, "Extended
    Bayesian information criteria for model selection with large model spaces", Biometrika 95 (2008), section 2,
    doi:10.1093/biomet/asn034.

    Examples
    --------
    >>> import numpy as np, scipy.signal, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image, kernel = rng.random((60, 50)), np.zeros((7, 9))
    >>> kernel[1, 2], kernel[6, 0] = 1.0, -0.5
    >>> target = scipy.signal.convolve2d(image, kernel, mode="valid")
    >>> target += rng.normal(0.0, 0.02, target.shape)
    >>> fit = kernelfit.accumulate(image, target, (7, 9)).solve(kernelfit.Sparse())
    >>> [tuple(map(int, tap)) for tap in np.argwhere(fit.kernel)]
    [(1, 2), (6, 0)]
    """

    criterion: str = "ebic"
    n_taps: int | None = None

    needs: ClassVar[str] = "normal equations"

    def __post_init__(self) -> None:
        if known(self.criterion, ("ebic", "bic", "aic"), "criterion") is None:
            raise ValueError("got criterion=None, need 'ebic', 'bic' or 'aic'")
        if self.n_taps is not None and as_count(self.n_taps, "n_taps") < 1:
            raise ValueError(f"got n_taps={self.n_taps!r}, need a whole number of at least 1")

    def __str__(self) -> str:
        return f"Sparse({self.criterion if self.n_taps is None else self.n_taps})"

    @rescaled
    def solve(self, stats: NormalEquations) -> Estimate:
        """Return the sparse kernel; its `path` has one entry for each number of taps tried."""
        least, stats = at_minimum(stats)
        if not stats.varies:
            text = f"{self}: least squares, the target being the same everywhere"
            return dataclasses.replace(estimate_of(stats, least), solver=text)
        order, rss, score = self._forward(stats, least)
        count = np.arange(1, len(order) + 1)
        path = StrengthPath(count.astype(np.float64), count.astype(np.float64), rss, score, self.criterion)
        chosen = list(order[: int(np.argmin(score)) + 1] if self.n_taps is None else order)
        taps, inverse = _on(stats, chosen)
        if self.n_taps is None and len(chosen) > 1:
            chosen, before = self._without_weak(stats, chosen, taps, inverse), chosen
            taps, inverse = (taps, inverse) if chosen == before else _on(stats, chosen)
        text = f"{self}: {len(chosen)} taps of {stats.n_taps}"
        others = np.delete(np.eye(stats.n_taps), chosen, axis=1)
        held = let_in(stats.gram, inverse, others)
        found = finish(stats, taps, inverse, text, least=least, n_free=len(chosen), path=path, held=held)
        return (
            found if len(chosen) == stats.n_taps else dataclasses.replace(found, notes=(self._supposed(stats, chosen),))
        )

    def _supposed(self, stats: NormalEquations, chosen: list[int]) -> str:
        """Say that errors are those given the taps that were chosen, and from where on others would have been."""
        t = len(chosen)
        gain = self._score(stats, t + 1, float(stats.n_pixels)) - self._score(stats, t, float(stats.n_pixels))
        least = (
            "" if self.n_taps is not None else f", which any below some {math.sqrt(max(gain, 0.0)):.2g} of its own are"
        )
        return f"standard errors suppose that the {stats.n_taps - t} taps left out are zero{least}"

    def _without_weak(self, stats: NormalEquations, chosen: list[int], taps: Array, inverse: Array) -> list[int]:
        """Return the chosen taps that are worth what each costs, ``k_j^2 / (G^-1)_jj``, the weakest being dropped."""
        # The others are not solved for anew: what a tap told of them is taken off, a column of `told` for each dropped.
        part, k, rss = inverse[chosen], taps[chosen], residual_at(stats, taps)[1]
        variance, least = np.einsum("ij,ij->i", part, part), 1.0 / stats.gram.diagonal()[chosen]
        kept, told = np.ones(len(chosen), dtype=bool), np.zeros((len(chosen), 0))
        while (t := int(kept.sum())) > 1:
            variance = np.maximum(variance, least)
            loss = np.where(kept, k**2 / variance, math.inf)
            weakest = int(np.argmin(loss))
            if self._score(stats, t - 1, rss + float(loss[weakest])) >= self._score(stats, t, rss):
                break
            rss += float(loss[weakest])
            column = part @ part[weakest] - told @ told[weakest]
            k = k - column * (k[weakest] / variance[weakest])
            column /= math.sqrt(variance[weakest])
            told, variance = np.column_stack([told, column]), variance - column**2
            kept[weakest] = False
        return [tap for tap, worth in zip(chosen, kept, strict=True) if worth]

    def _forward(self, stats: NormalEquations, least: LeastSquaresSolution) -> tuple[list[int], Array, Array]:
        """Choose taps one by one; return their order, and the residual sum of squares and the score after each."""
        # A column of G less its projection on those of the chosen taps (Cholesky, tap by tap) tells what others would
        # gain.
        # What many chosen ones explain is taken off the whole matrix at a time.
        gram, m = np.array(stats.gram), stats.n_taps
        most = min(least.rank, self.n_taps or m)
        # no more taps can score lower than they would with the residual of all of them
        possible = np.array([self._score(stats, t, least.rss) for t in range(1, most + 1)])
        possible = np.minimum.accumulate(possible[::-1])[::-1]
        whole = np.array(gram.diagonal())
        energy = whole.copy()  # of the part of a tap that the chosen ones do not explain
        pull = times(gram, least.taps)  # of that part on what is left of the target
        left = total = float(least.taps @ pull)
        lower, done = np.zeros((m, _AT_A_TIME), order="F"), 0
        order: list[int] = []
        rss: list[float] = []
        score: list[float] = []
        for step in range(most):
            if self.n_taps is None and min(score, default=math.inf) <= possible[step]:
                break
            known = energy > 2 * m * EPS * whole
            gain = np.where(known, pull**2 / np.where(known, energy, 1.0), -1.0)
            gain[order] = -1.0
            best = int(np.argmax(gain))
            if gain[best] < 0:
                break
            if step == done + _AT_A_TIME:
                gram -= product(lower, lower.T)
                done = step
            column = gram[best] - lower[:, : step - done] @ lower[best, : step - done]
            column /= math.sqrt(energy[best])
            lower[:, step - done] = column
            share = pull[best] / math.sqrt(energy[best])
            energy = energy - column**2
            pull = pull - share * column
            left -= share**2
            order.append(best)
            if left < _CANCELLED * total and least.rss < 1e3 * _CANCELLED * total:
                rest = _on(stats, order)[0] - least.taps
                left = float(rest @ times(gram, rest))
            rss.append(least.rss + max(left, 0.0))
            score.append(self._score(stats, len(order), rss[-1]))
        if not order:
            order, rss = [0], [stats.target_energy]
            score = [self._score(stats, 1, rss[0])]
        return order, np.array(rss), np.array(score)

    def _score(self, stats: NormalEquations, t: int, rss: float) -> float:
        n = stats.n_pixels
        floor = max(EPS * stats.target_energy, np.finfo(float).tiny)
        fit = n * math.log(max(rss, floor) / n)
        if self.criterion == "aic":
            return fit + 2 * t
        m = stats.n_taps
        choices = math.lgamma(m + 1) - math.lgamma(t + 1) - math.lgamma(m - t + 1) if self.criterion == "ebic" else 0.0
        return fit + t * math.log(n) + 2 * choices


def _on(stats: NormalEquations, chosen: list[int]) -> tuple[Array, Array]:
    """Return least squares on some taps, and a factor of its covariance in units of s^2."""
    part = factor_of(stats.gram[np.ix_(chosen, chosen)])
    inverse = np.zeros((stats.n_taps, part.shape[1]))
    inverse[chosen] = part
    start = np.zeros(stats.n_taps)
    start[chosen] = stats.around()[0][chosen]
    return refined(stats, start, inverse), inverse
