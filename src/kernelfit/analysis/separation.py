"""A kernel as columns and rows: the rank that its errors justify."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..compiled.threads import one_blas_thread
from ..core.estimate import Estimate
from ..core.validation import as_count
from .field import middle
from .filter_problem import Problem, as_problem

Array = npt.NDArray[np.float64]
_LEVEL = 1e-3


@dataclass(frozen=True, eq=False)
class Separation:
    """A kernel as a sum of columns times rows; made by `separable`.

    Attributes
    ----------
    columns : ndarray, shape (rank, rows)
        The columns; each has the norm of its row.
    rows : ndarray, shape (rank, cols)
        The rows. ``columns.T @ rows`` is the kernel.
    rank : int
        How many there are: as many as the errors justify, unless it was given.
    chi_square, dof, p_value : float, int, float
        Of what the columns and rows leave of the kernel, and the probability of as much by chance.
    loss : float
        Root mean square of what this changes in a pixel of the prediction, in units of the noise of a pixel; NaN for
        taps without pixels.
    relative : float
        Norm of what is left over that of the kernel.
    singular_values : ndarray, shape (min(rows, cols),)
        Of the kernel.
    symmetric, antisymmetric : bool
        Whether the kernel is that, as far as its errors tell, about the middle of its support.
    zero_sum, unit_sum : bool
        Whether its taps add up to 0, or to 1.
    """

    columns: Array
    rows: Array
    rank: int
    chi_square: float
    dof: int
    p_value: float
    loss: float
    relative: float
    singular_values: Array
    symmetric: bool
    antisymmetric: bool
    zero_sum: bool
    unit_sum: bool

    @property
    def kernel(self) -> Array:
        """The taps that the columns and rows make."""
        return np.asarray(self.columns.T @ self.rows)

    def __str__(self) -> str:
        names = [n for n in ("symmetric", "antisymmetric", "zero_sum", "unit_sum") if getattr(self, n)]
        loss = f", {self.loss:.2g} of the noise in each pixel" if math.isfinite(self.loss) else ""
        return (
            f"rank {self.rank} of {len(self.singular_values)} "
            f"(chi-square {self.chi_square:.3g} of {self.dof}{loss}; {self.relative:.2g} of the kernel left out)"
            + (f"\n{', '.join(names).replace('_', ' ')}" if names else "")
        )


@one_blas_thread
def separable(
    kernel: Estimate | npt.ArrayLike, rank: int | None = None, *, covariance: npt.ArrayLike | None = None
) -> Separation:
    """Take a kernel apart into columns and rows, as few as its errors justify.

    Of all kernels of a rank r the one of the least ``(k - f)' C^-1 (k - f)`` is taken; it has ``(R - r)(S - r)``
    degrees of freedom of an R x S kernel. Its rank is the smallest of which chance leaves as much in 0.1 % of cases.

    Parameters
    ----------
    kernel : KernelFit or array_like, shape (rows, cols)
        The kernel.
    rank : int, optional
        How many columns and rows; the default is as many as the errors justify.
    covariance : array_like, optional
        Of an array's taps, as in `recognise`.

    Returns
    -------
    Separation
        Columns and rows, what they leave out, and what symmetries the kernel has.

    Raises
    ------
    ValueError
        If the kernel is not 2-D or all zero, its errors are not known, or the rank is none that it can have.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> found = kernelfit.separable(np.outer([1.0, 2, 1], [1.0, 0, -1, 0]))
    >>> found.rank, found.zero_sum
    (1, True)
    """
    fit = middle(kernel) if isinstance(kernel, Estimate) else None
    problem = as_problem(kernel if fit is None else fit, covariance)
    if problem is None:
        raise ValueError("got a kernel of zeros, or one whose errors are not known, need taps; ask for more pixels")
    taps = problem.taps[::-1, ::-1] if problem.turned else problem.taps
    most = min(taps.shape)
    if rank is not None and not 1 <= as_count(rank, "rank") <= most:
        raise ValueError(f"got rank={rank!r}, need a whole number from 1 to {most}, the shorter side of the kernel")
    for r in range(1, most + 1) if rank is None else (rank,):
        columns, rows, chi = _of_rank(problem, r)
        dof = (taps.shape[0] - r) * (taps.shape[1] - r)
        p_value = _chance(chi, dof)
        if p_value >= _LEVEL:
            break
    if problem.turned:
        columns, rows = columns[:, ::-1], rows[:, ::-1]
    left = taps - columns.T @ rows
    n = 0 if fit is None else fit.n_pixels
    ones = np.ones((1, taps.size))
    return Separation(
        columns,
        rows,
        len(columns),
        chi,
        dof,
        p_value,
        math.sqrt(chi / n) if n else math.nan,
        float(np.linalg.norm(left) / np.linalg.norm(taps)),
        np.asarray(np.linalg.svd(taps, compute_uv=False), dtype=np.float64),
        _holds(problem, _alike(taps.shape, 1.0)),
        _holds(problem, _alike(taps.shape, -1.0)),
        _holds(problem, ones),
        _holds(problem, ones, 1.0),
    )


def _of_rank(problem: Problem, rank: int) -> tuple[Array, Array, float]:
    """Return columns and rows of the least chi-square, found in turn from those of the singular values."""
    (height, width), given = problem.taps.shape, problem.given
    left, values, right = np.linalg.svd(problem.taps, full_matrices=False)
    columns, rows = left[:, :rank].T * np.sqrt(values[:rank, None]), right[:rank] * np.sqrt(values[:rank, None])
    chi = float(np.sum(problem.white((problem.taps - columns.T @ rows).reshape(1, -1)) ** 2))
    for _ in range(40):
        design = np.einsum("ri,jk->rjik", columns, np.eye(width)).reshape(-1, height * width)
        rows = np.linalg.lstsq(problem.white(design).T, given, rcond=None)[0].reshape(rank, width)
        design = np.einsum("rj,ik->rikj", rows, np.eye(height)).reshape(-1, height * width)
        white = problem.white(design).T
        solution = np.linalg.lstsq(white, given, rcond=None)[0]
        columns, before = solution.reshape(rank, height), chi
        chi = float(np.sum((given - white @ solution) ** 2))
        if not before - chi > 1e-3 + 1e-3 * chi:
            break
    balance = np.sqrt(np.linalg.norm(columns, axis=1) / np.maximum(np.linalg.norm(rows, axis=1), 1e-300))[:, None]
    return columns / np.maximum(balance, 1e-300), rows * balance, chi


def _chance(chi: float, dof: int) -> float:
    import scipy.special

    return float(scipy.special.chdtrc(dof, chi)) if dof > 0 else 1.0


def _alike(shape: tuple[int, ...], sign: float) -> Array:
    """Return the differences (or sums) of opposite taps, which are zero where a kernel is symmetric (or the other)."""
    n = math.prod(shape)
    half = (n + 1) // 2 if sign < 0 else n // 2
    return np.asarray((np.eye(n) - sign * np.eye(n)[::-1])[:half])


def _holds(problem: Problem, rows: Array, value: float = 0.0) -> bool:
    """Say whether sums of taps have a value, as far as the errors tell."""
    taps = problem.taps.ravel()
    if not len(rows):
        return True
    spread = problem.spread(rows)
    off = np.linalg.lstsq(spread @ spread.T, rows @ taps - value, rcond=1e-12)[0] @ (rows @ taps - value)
    return _chance(float(off), len(rows)) >= _LEVEL
