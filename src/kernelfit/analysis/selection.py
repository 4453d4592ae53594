"""Which solver: chosen by what the statistics can say of each."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..compiled.threads import one_blas_thread
from ..core.dimensions import lowered, of_any_dimension
from ..core.estimate import Estimate
from ..core.normal_equations import NormalEquations
from ..solvers.auto import as_solver
from ..solvers.least_squares import Solver, require_equations, residual_at


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

    def _lowered(self) -> "Comparison":
        return dataclasses.replace(self, fits=tuple(lowered(fit) for fit in self.fits))

    def __str__(self) -> str:
        names = list(self.scores)
        lines = [" ".join([f"{'solver':44s}", f"{'df':>8s}", *(f"{name:>14s}" for name in names)])]
        for at, fit in enumerate(self.fits):
            text = fit.solver if len(fit.solver) <= 44 else f"{fit.solver[:41]}..."
            values = [f"{self.scores[name][at]:14.8g}" for name in names]
            lines.append(" ".join([f"{text:44s}", f"{fit.df_model:8.1f}", *values]))
        return "\n".join([*lines, f"the best first, by {self.ranked_by}"])


@of_any_dimension
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
    require_equations(stats)
    if isinstance(solvers, str) or not hasattr(solvers, "__iter__"):
        raise TypeError(f"got solvers={solvers!r:.60}, need a list of them, such as [LeastSquares(), 'auto']")
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
