"""Which solver, and which support: chosen by what the statistics can say of each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.special

from ..compiled.blas import one_blas_thread
from ..core.estimate import Estimate
from ..core.geometry import Shape
from ..core.normal_equations import NormalEquations
from ..solvers.auto import as_solver
from ..solvers.least_squares import EPS, Solver, least_squares, residual_at


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

    fits: tuple[Estimate, ...]
    scores: dict[str, tuple[float, ...]]
    ranked_by: str

    def __str__(self) -> str:
        """Return a table, one screen long."""
        names = list(self.scores)
        lines = [" ".join([f"{'solver':44s}", f"{'df':>8s}", *(f"{name:>14s}" for name in names)])]
        for at, fit in enumerate(self.fits):
            text = fit.solver if len(fit.solver) <= 44 else f"{fit.solver[:41]}..."
            values = [f"{self.scores[name][at]:14.8g}" for name in names]
            lines.append(" ".join([f"{text:44s}", f"{fit.df_model:8.1f}", *values]))
        return "\n".join([*lines, f"the best first, by {self.ranked_by}"])


@one_blas_thread
def compare(
    stats: NormalEquations,
    solvers: Sequence[Solver | str],
    *,
    tiles: Sequence[NormalEquations] | None = None,
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
        raise ValueError("got no solvers, need at least one; give [LeastSquares(), GaussianProcess()] or the like")
    fits = [solver.solve(stats) for solver in made]
    n = stats.n_pixels
    scores: dict[str, list[float]] = {name: [] for name in ("gcv", "aic", "bic", "evidence")}
    for fit in fits:
        df_resid = n - fit.df_model
        log_rss = n * math.log(fit.rss / n) if fit.rss > 0 else -math.inf
        scores["gcv"].append(n * fit.rss / df_resid**2 if df_resid > 0 else math.inf)
        scores["aic"].append(log_rss + 2 * fit.df_model)
        scores["bic"].append(log_rss + fit.df_model * math.log(n))
        scores["evidence"].append(fit.log_evidence)
    if tiles is not None:
        if len(tiles) < 2 or sum(tile.n_pixels for tile in tiles) != n:
            raise ValueError(
                f"got {len(tiles)} tiles of {sum(tile.n_pixels for tile in tiles)} pixels in all, need at least two "
                f"that add up to the {n} pixels of the statistics; accumulate each part by itself, and add them up"
            )
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
    stats: NormalEquations
    p_value: float


@one_blas_thread
def choose_support(stats: NormalEquations, *, level: float = 1e-4) -> Support:
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
        The rectangle, which holds the origin if the support does, and its statistics.

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
    if len(stats.supports) != 1:
        msg = f"got statistics of {len(stats.supports)} terms, need one; choose the support of each source by itself"
        raise ValueError(msg)
    if not 0 < level < 1:
        raise ValueError(f"got level={level!r}, need a number between 0 and 1 such as 1e-4")
    whole = least_squares(stats)
    if not whole.full or stats.n_pixels <= stats.n_taps:
        raise ValueError(
            f"got {stats.n_pixels} pixels that determine {whole.rank} of {stats.n_taps} taps, need all of them and "
            "pixels to spare; start from a smaller shape"
        )
    (rows, cols), origin = stats.supports[0], stats.convention.origin
    box = [0, rows, 0, cols]
    dropped: list[int] = []
    settled: set[int] = set()
    while len(settled) < 4:
        part = stats.crop((box[1] - box[0], box[3] - box[2]), (box[0], box[2]))
        found = least_squares(part)
        df_resid = part.n_pixels - part.n_taps
        rounding = EPS * found.condition * float(np.linalg.norm(found.taps))
        again: list[int] = []
        for side in range(4):
            taps = _edge(box, side, origin)
            if taps is None:
                settled.add(side)
                continue
            k, rows_of = found.taps[taps], found.inverse[taps]
            c = rows_of @ rows_of.T * (found.rss / df_resid)
            c[np.diag_indices_from(c)] += rounding**2
            if not np.any(k) or _tail(float(k @ np.linalg.solve(c, k)), len(k), df_resid) > level:
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
        df_resid = stats.n_pixels - stats.n_taps
        excess = max(0.0, least_squares(part).rss - whole.rss)
        p_value = _tail(excess / (whole.rss / df_resid), count, df_resid) if count and whole.rss > 0 else 1.0
        if p_value > level or not dropped or excess <= 1e-12 * stats.target_energy:
            return Support(shape, corner, part, p_value)
        side = dropped.pop()
        box[side] += -1 if side in (0, 2) else 1


def _edge(box: list[int], side: int, origin: Shape) -> npt.NDArray[np.intp] | None:
    """Return which taps of the box lie on a side; None if the side holds the origin, or all that is left."""
    rows, cols = box[1] - box[0], box[3] - box[2]
    at = box[side] - (side % 2)
    if at == origin[side // 2] or (rows, cols)[side // 2] == 1:
        return None
    index = np.arange(rows * cols).reshape(rows, cols)
    return (index[0], index[-1], index[:, 0], index[:, -1])[side]


def _tail(chi2: float, count: int, df_resid: int) -> float:
    """Return the probability that F exceeds ``chi2 / count``."""
    return float(scipy.special.fdtrc(count, df_resid, chi2 / count))
