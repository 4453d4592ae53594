"""Which solver, and which support: chosen by what the statistics can say of each."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.special

from ..exact.blas import one_blas_thread
from ..geometry import Shape
from ..result import KernelFit
from ..statistics import NormalStats
from .constrained import NonNegative
from .gaussian_process import GaussianProcess, most_probable
from .solve import EPS, Solver, as_solver, least_squares, residual_at
from .sparse import Sparse

Array = npt.NDArray[np.float64]
#: Difference in the expected error of prediction, in units of s^2, that counts.
_CLEARLY = 4.0
#: Standard deviations by which negative taps may be less likely than chance if a kernel is to have none.
_UNLIKELY = 3.0


@dataclass(frozen=True)
class Auto:
    """What ``solver="auto"`` means: the Gaussian process, few taps, or no negative taps, whichever the data prefer.

    The Gaussian process comes first; if the negative taps of its mean are no more than chance, in the metric of its
    covariance, its most probable kernel without any. A sparse kernel (where its evidence, ``-(n log(2 pi) + n + ebic) /
    2``, is the larger) or `NonNegative` takes its place where Mallows' estimate of the error of prediction, ``rss / s^2
    - n + 2 df``, is clearly lower; for few taps df counts their choice, too. Few taps whose estimate shows no bias,
    being at most df, are not given up for one lower by more than df: that much error they do not have.
    Least squares is returned where there is no noise to weigh against: the Gaussian process with a long radius and no
    correlation comes to the same when the kernel is all detail.
    """

    def __str__(self) -> str:
        """Say the settings in one line."""
        return "auto"

    def solve(self, stats: NormalStats) -> KernelFit:
        """Return the kernel of the more probable solver.

        Parameters
        ----------
        stats : NormalStats
            The statistics.

        Returns
        -------
        KernelFit
            The kernel; `KernelFit.solver` says what was picked, and why.
        """
        return self.pick(stats, GaussianProcess().solve(stats))

    def pick(self, stats: NormalStats, smooth: KernelFit) -> KernelFit:
        """Return what `solve` does, given the Gaussian process's kernel."""
        if math.isnan(smooth.log_evidence):
            return dataclasses.replace(
                smooth, solver="auto: LeastSquares(), the noise being too small for a prior to matter"
            )
        evidence = {"GaussianProcess": smooth.log_evidence}
        best, reason = smooth, f"log evidence {smooth.log_evidence:.1f}"
        if stats.n_pixels > 2 * stats.n_taps:
            positive, distance, held = most_probable(stats, smooth)
            if 0 < held and distance < held + _UNLIKELY * math.sqrt(2 * held):
                best = positive
            few = Sparse().solve(stats)
            evidence["Sparse"] = sparse_evidence(stats, few)
            reason += f", of few taps {evidence['Sparse']:.1f}"
            choices = [(fit, _expected_error(stats, fit)) for fit in (best, NonNegative().solve(stats))]
            own_error = math.inf
            if evidence["Sparse"] > smooth.log_evidence:  # then the others have to be clearly better
                freedom = _with_choice(stats, few)
                choices.insert(0, (few, _expected_error(stats, few, freedom)))
                own_error = freedom if choices[0][1] <= freedom else math.inf  # of few taps that show no bias
            least = min(choices, key=lambda choice: choice[1])
            best, own = choices[0]
            if _CLEARLY < own - least[1] <= own_error:  # who claims to save more than there is owes it to chance
                reason = f"expected error of prediction {least[1]:.1f} s^2, of {best.solver} {own:.1f} s^2"
                best = least[0]
        return dataclasses.replace(
            best, solver=f"auto: {best.solver} ({reason})", alternatives={**smooth.alternatives, **evidence}
        )


def _expected_error(stats: NormalStats, fit: KernelFit, freedom: float | None = None) -> float:
    """Return Mallows' estimate of ``|A (k - truth)|^2 / s^2``, with the noise s of least squares."""
    least = least_squares(stats)
    variance = least.rss / (stats.n_pixels - least.rank)
    return fit.rss / variance - stats.n_pixels + 2 * (fit.freedom if freedom is None else freedom)


def _with_choice(stats: NormalStats, fit: KernelFit) -> float:
    """Return the degrees of freedom of a sparse fit, the choice of its taps included.

    Keeping what exceeds a threshold c (in standard errors) has ``t + c sum_j phi(c - |z_j|)`` of them by Stein's lemma:
    taps near the threshold come and go with the noise. Those kept stand for those just missed, hence the 2.
    """
    t = int(fit.freedom)
    kept = fit.stderr > 0
    z = np.abs(fit.kernel[kept]) / fit.stderr[kept]
    c = math.sqrt(math.log(stats.n_pixels) + 2 * math.log(max(1.0, (stats.n_taps - t) / (t + 1))))
    return t + 2 * c * float(np.sum(np.exp(-0.5 * (c - z) ** 2))) / math.sqrt(2 * math.pi)


def sparse_evidence(stats: NormalStats, fit: KernelFit) -> float:
    """Return the approximate log evidence of a sparse fit."""
    n = stats.n_pixels
    return -0.5 * (n * (1 + math.log(2 * math.pi)) + Sparse()._score(stats, int(fit.freedom), fit.rss))


# ---- solvers compared -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Comparison:
    """Solvers side by side, the best first.

    Parameters
    ----------
    fits : tuple of KernelFit
        One fit for each solver, the best first.
    scores : dict of str to tuple of float
        ``gcv``, ``n rss / (n - df)^2``; ``aic``, ``n log(rss / n) + 2 df``; ``bic``, ``n log(rss / n) + df log n``;
        ``evidence``, the log evidence where the solver has one; and with tiles ``prediction``, the mean square of what
        each tile's pixels differ from the prediction of the others. In the order of the fits.
    ranked_by : str
        The score that the order follows.
    """

    fits: tuple[KernelFit, ...]
    scores: dict[str, tuple[float, ...]]
    ranked_by: str

    def __str__(self) -> str:
        """Return a table, one screen long."""
        names = list(self.scores)
        lines = [" ".join([f"{'solver':44s}", f"{'df':>8s}", *(f"{name:>14s}" for name in names)])]
        for at, fit in enumerate(self.fits):
            text = fit.solver if len(fit.solver) <= 44 else f"{fit.solver[:41]}..."
            values = [f"{self.scores[name][at]:14.8g}" for name in names]
            lines.append(" ".join([f"{text:44s}", f"{fit.freedom:8.1f}", *values]))
        return "\n".join([*lines, f"the best first, by {self.ranked_by}"])


@one_blas_thread
def compare(
    stats: NormalStats,
    solvers: Sequence[Solver | str],
    *,
    tiles: Sequence[NormalStats] | None = None,
    by: str | None = None,
) -> Comparison:
    """Rank solvers by what they would make of pixels they have not seen.

    Parameters
    ----------
    stats : NormalStats
        The statistics of all pixels.
    solvers : sequence of solvers
        What to compare; "auto" is one, too.
    tiles : sequence of NormalStats, optional
        Statistics of at least two parts that add up to `stats`. Each is predicted by the kernel of the others: a
        subtraction and a solve for each tile and solver.
    by : {"prediction", "gcv", "aic", "bic", "evidence"}, optional
        The score to rank by; the default is "prediction" with tiles and "gcv" without.

    Returns
    -------
    Comparison
        The fits and their scores, the best first; ``print`` it for a table.

    Raises
    ------
    ValueError
        If there is no solver, the score unknown, or the tiles do not add up to the whole.

    References
    ----------
    M. Stone, "Cross-validatory choice and assessment of statistical predictions", J. R. Stat. Soc. B 36 (1974),
    section 2, doi:10.1111/j.2517-6161.1974.tb00994.x.

    Examples
    --------
    >>> import numpy as np, scipy.signal, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image = rng.normal(size=(50, 60)).cumsum(axis=0).cumsum(axis=1)
    >>> kernel = np.outer(scipy.signal.windows.gaussian(7, 1.2), scipy.signal.windows.gaussian(9, 1.5))
    >>> target = scipy.signal.convolve2d(image, kernel, mode="valid")
    >>> target += rng.normal(0.0, 0.02 * target.std(), target.shape)
    >>> stats = kernelfit.accumulate(image, target, (7, 9))
    >>> found = kernelfit.compare(stats, [kernelfit.LeastSquares(), kernelfit.GaussianProcess()])
    >>> [fit.solver.split("(")[0] for fit in found.fits]
    ['GaussianProcess', 'LeastSquares']
    """
    made = [as_solver(solver) for solver in solvers]
    if not made:
        msg = "got no solvers, need at least one; give [LeastSquares(), GaussianProcess()] or the like"
        raise ValueError(msg)
    fits = [solver.solve(stats) for solver in made]
    n = stats.n_pixels
    scores: dict[str, list[float]] = {name: [] for name in ("gcv", "aic", "bic", "evidence")}
    for fit in fits:
        spare = n - fit.freedom
        log_rss = n * math.log(fit.rss / n) if fit.rss > 0 else -math.inf
        scores["gcv"].append(n * fit.rss / spare**2 if spare > 0 else math.inf)
        scores["aic"].append(log_rss + 2 * fit.freedom)
        scores["bic"].append(log_rss + fit.freedom * math.log(n))
        scores["evidence"].append(fit.log_evidence)
    if tiles is not None:
        if len(tiles) < 2 or sum(tile.n_pixels for tile in tiles) != n:
            msg = (
                f"got {len(tiles)} tiles of {sum(tile.n_pixels for tile in tiles)} pixels in all, need at least two "
                f"that add up to the {n} pixels of the statistics; accumulate each part by itself, and add them up"
            )
            raise ValueError(msg)
        scores["prediction"] = [0.0] * len(made)
        for tile in tiles:
            rest = stats - tile
            for at, solver in enumerate(made):
                scores["prediction"][at] += residual_at(tile, solver.solve(rest).kernel.ravel())[1] / n
    ranked_by = by if by is not None else "prediction" if tiles is not None else "gcv"
    if ranked_by not in scores:
        msg = f"got by={ranked_by!r}, need one of {', '.join(scores)}{'' if tiles else '; prediction needs tiles'}"
        raise ValueError(msg)
    sign = -1.0 if ranked_by == "evidence" else 1.0
    keys = [math.inf if math.isnan(value) else sign * value for value in scores[ranked_by]]
    order = sorted(range(len(fits)), key=lambda at: keys[at])
    return Comparison(
        tuple(fits[at] for at in order),
        {name: tuple(values[at] for at in order) for name, values in scores.items()},
        ranked_by,
    )


# ---- supports -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Support:
    """The smallest support that the data do not reject.

    Parameters
    ----------
    shape : (int, int)
        Its rows and columns.
    corner : (int, int)
        The tap of the larger support that is its tap (0, 0).
    stats : NormalStats
        The statistics of it: ``support.stats.solve()``.
    p_value : float
        Of the test of all that was left out against the larger support.
    """

    shape: Shape
    corner: Shape
    stats: NormalStats
    p_value: float


@one_blas_thread
def choose_support(stats: NormalStats, *, level: float = 1e-4) -> Support:
    """Return the smallest rectangle of taps that the data do not reject.

    From the support asked for, the outermost row or column of each side is left out as long as its taps, all others in
    the rectangle being free, do not differ from zero at `level` in the F-test ``k_e' (C_ee)^-1 k_e / |e|`` with
    ``|e|`` and ``n - taps`` degrees of freedom, C being their covariance. What was left out is then tested as a whole;
    if that is rejected, the sides are put back in the reverse order until it is not. A row is kept if it holds
    anything that the noise cannot explain; one that is missing holds no more than the noise can hide.

    Parameters
    ----------
    stats : NormalStats
        Statistics of one term, for a support at least as large as the kernel.
    level : float, optional
        Probability at which a single empty row or column is taken for one that is not, default 1e-4.

    Returns
    -------
    Support
        The rectangle, which holds the origin, and its statistics.

    Raises
    ------
    ValueError
        If there is more than one term, no more pixels than taps, the image does not determine every tap, or the level
        does not lie between 0 and 1.

    References
    ----------
    G. Seber and A. Lee, "Linear Regression Analysis", 2nd ed. (2003), section 4.3.1, doi:10.1002/9780471722199.

    Examples
    --------
    >>> import numpy as np, scipy.signal, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image = rng.random((60, 70))
    >>> target = scipy.signal.convolve2d(image, rng.random((3, 5)), mode="same") + rng.normal(0.0, 0.01, image.shape)
    >>> kernelfit.choose_support(kernelfit.accumulate(image, target, (11, 13))).shape
    (3, 5)
    """
    if len(stats.terms) != 1:
        msg = f"got statistics of {len(stats.terms)} terms, need one; choose the support of each source by itself"
        raise ValueError(msg)
    if not 0 < level < 1:
        msg = f"got level={level!r}, need a number between 0 and 1 such as 1e-4"
        raise ValueError(msg)
    whole = least_squares(stats)
    if not whole.full or stats.n_pixels <= stats.n_taps:
        msg = (
            f"got {stats.n_pixels} pixels that determine {whole.rank} of {stats.n_taps} taps, need all of them and "
            "pixels to spare; start from a smaller shape"
        )
        raise ValueError(msg)
    (rows, cols), origin = stats.terms[0], stats.convention.origin
    box = [0, rows, 0, cols]
    dropped: list[int] = []
    settled: set[int] = set()
    while len(settled) < 4:
        part = stats.crop((box[1] - box[0], box[3] - box[2]), (box[0], box[2]))
        found = least_squares(part)
        spare = part.n_pixels - part.n_taps
        rounding = EPS * found.condition * float(np.linalg.norm(found.taps))
        again: list[int] = []
        for side in range(4):
            taps = _edge(box, side, origin)
            if taps is None:
                settled.add(side)
                continue
            k, rows_of = found.taps[taps], found.inverse[taps]
            c = rows_of @ rows_of.T * (found.rss / spare)
            c[np.diag_indices_from(c)] += rounding**2
            if not np.any(k) or _tail(float(k @ np.linalg.solve(c, k)), len(k), spare) > level:
                again.append(side)
            else:
                settled.add(side)
        for side in again:
            if _edge(box, side, origin) is not None:
                box[side] += 1 if side in (0, 2) else -1
                dropped.append(side)
        settled = settled - set(again) if again else settled
        if not again:
            break
    while True:
        shape, corner = (box[1] - box[0], box[3] - box[2]), (box[0], box[2])
        part = stats.crop(shape, corner)
        count = stats.n_taps - part.n_taps
        spare = stats.n_pixels - stats.n_taps
        excess = max(0.0, least_squares(part).rss - whole.rss)
        p_value = _tail(excess / (whole.rss / spare), count, spare) if count and whole.rss > 0 else 1.0
        if p_value > level or not dropped or excess <= 1e-12 * stats.target_energy:
            return Support(shape, corner, part, p_value)
        side = dropped.pop()
        box[side] += -1 if side in (0, 2) else 1


def _edge(box: list[int], side: int, origin: Shape) -> npt.NDArray[np.intp] | None:
    """Return which taps of the box lie on a side; None if the side holds the origin."""
    rows, cols = box[1] - box[0], box[3] - box[2]
    at = box[side] - (side % 2)
    if at == origin[side // 2]:
        return None
    index = np.arange(rows * cols).reshape(rows, cols)
    return (index[0], index[-1], index[:, 0], index[:, -1])[side]


def _tail(chi2: float, count: int, spare: int) -> float:
    """Return the probability that F exceeds ``chi2 / count``."""
    return float(scipy.special.fdtrc(count, spare, chi2 / count))
