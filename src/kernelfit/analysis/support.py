"""Which taps a kernel needs: the smallest rectangle that the data do not reject."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.special

from ..compiled.threads import one_blas_thread
from ..core.normal_equations import NormalEquations
from ..core.validation import as_number
from ..solvers.cholesky import times
from ..solvers.least_squares import EPS, LeastSquaresSolution, least_squares, require_equations

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Support:
    """The smallest support that the data do not reject.

    Parameters
    ----------
    shape : (int, int)
        Its rows and columns; of signals (taps,), of volumes (planes, rows, columns).
    corner : (int, int)
        The tap of the larger support that is its first.
    stats : NormalStats
        The statistics of it: ``support.stats.solve()``.
    p_value : float
        Of the test of all that was left out against the larger support.
    """

    shape: tuple[int, ...]
    corner: tuple[int, ...]
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
    require_equations(stats)
    if len(stats.supports) != 1:
        msg = f"got statistics of {len(stats.supports)} terms, need one; choose the support of each source by itself"
        raise ValueError(msg)
    if not 0 < as_number(level, "level") < 1:
        raise ValueError(f"got level={level!r}, need a number between 0 and 1 such as 1e-4")
    whole = least_squares(stats)
    if not whole.full or stats.n_pixels <= stats.n_taps:
        raise ValueError(
            f"got {stats.n_pixels} pixels that determine {whole.rank} of {stats.n_taps} taps, need all of them and "
            "pixels to spare; start from a smaller shape"
        )
    rectangle = Rectangle(stats, whole, stats.convention.origin)
    rectangle.shrink(level)
    ndim = stats.convention.ndim
    shape, corner = rectangle.shape[-ndim:], rectangle.corner[-ndim:]
    return Support(shape, corner, stats.crop(shape, corner), rectangle.p_value())


class Rectangle:
    """A support, what the data say of its taps, and of those that were left out one row or column at a time."""

    # With F the factor of the covariance, ``F F' = G^-1``, the kernel is ``k = F u``. Taps e are held at zero by taking
    # the part of u along the rows ``F_e`` away, the square of which is what the residual grows by; all rows that were
    # left out so far are kept as an orthonormal basis Q. `kept`: a tap that is never left out. Side 0 is the first row,
    # side 1 the last one, 2 and 3 are those of the columns; of volumes planes come before them.

    def __init__(
        self, stats: NormalEquations, whole: LeastSquaresSolution, kept: tuple[int, ...] | None = None
    ) -> None:
        self.factor, self.kept, self.floor = whole.inverse, kept, 1e-12 * stats.target_energy
        self._lines: dict[tuple[int, int], tuple[int, Array]] = {}
        sides = stats.supports[0]
        self.box = [end for n in sides for end in (0, n)]
        self._index = np.arange(math.prod(sides)).reshape(sides)
        if not np.any(np.tril(self.factor, -1)) and whole.full:
            self._u = np.asarray(scipy.linalg.solve_triangular(self.factor, whole.taps))
        else:
            self._u = times(self.factor.T, times(stats.gram, whole.taps))
        count = len(self._u)  # the rank; of the basis a vector is in each row
        self._vectors, self._rank = np.empty((count, count)), 0
        self._least = 1e-11 * float(np.abs(self.factor).max(initial=1e-288))
        self._dropped: list[tuple[int, int]] = []
        self._rss, self._df_resid = whole.rss, stats.n_pixels - whole.rank
        self._rounding = EPS * whole.condition * float(np.linalg.norm(whole.taps))

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sides."""
        return tuple(b - a for a, b in zip(self.box[::2], self.box[1::2], strict=True))

    @property
    def _basis(self) -> Array:
        """Q' of what was left out."""
        return self._vectors[: self._rank]

    @property
    def corner(self) -> tuple[int, ...]:
        """The first tap."""
        return tuple(self.box[::2])

    def edge_p_value(self, side: int, taps: int = 1) -> float:
        """Return the p-value of the F-test that so many taps along a side, whole rows or columns, hold nothing."""
        index = np.moveaxis(self._index, side // 2, 0)
        count = min(-(-taps * len(index) // index.size), len(index) - 1)
        return self._test(self.factor[(index[-count:] if side % 2 else index[:count]).ravel()]) if count else 1.0

    def shrink(self, level: float) -> None:
        """Leave out sides that hold nothing at a level, until none is left, or all of them together hold something."""
        settled: set[int] = set()
        while len(settled) < len(self.box):
            empty = []
            for side in range(len(self.box)):
                rows = self._edge(side)
                if rows is not None and self._test(rows) > level:
                    empty.append(side)
                else:
                    settled.add(side)
            settled -= set(empty)
            if not empty:
                break
            for side in empty:
                self._leave_out(side)
        while self._dropped and self._excess() > self.floor and self.p_value() <= level:
            self._put_back()

    def p_value(self) -> float:
        """Return the p-value of all that was left out."""
        count, excess = self._rank, self._excess()
        return _tail(excess / (self._rss / self._df_resid), count, self._df_resid) if count and self._rss > 0 else 1.0

    def _excess(self) -> float:
        return float(np.sum((self._basis @ self._u) ** 2))

    def _edge(self, side: int) -> Array | None:
        """Return the rows of the factor of a side's taps, less what was left out; None for one that has to stay."""
        axis, at = side // 2, self.box[side] - (side % 2)
        if self.shape[axis] == 1 or (self.kept is not None and at == self.kept[axis]):
            return None
        known, line = self._lines.get((axis, at), (0, self.factor[self._index.take(at, axis)]))
        if known < self._rank:  # what was left out since
            new = self._basis[known:]
            line = line - (line @ new.T) @ new
        self._lines[axis, at] = self._rank, line
        others = [slice(*self.box[2 * a : 2 * a + 2]) for a in range(len(self.shape)) if a != axis]
        return np.asarray(line[tuple(others)].reshape(-1, line.shape[-1]))

    def _test(self, rows: Array) -> float:
        k = times(rows, self._u)
        excess = self._excess()
        df_resid = self._df_resid + self._rank
        c = (rows @ rows.T) * ((self._rss + excess) / df_resid)
        c[np.diag_indices_from(c)] += self._rounding**2
        return _tail(float(k @ np.linalg.solve(c, k)), len(k), df_resid) if np.any(k) else 1.0

    def _leave_out(self, side: int) -> None:
        rows = self._edge(side)
        if rows is None:
            return
        q, r = np.linalg.qr(rows.T)
        scale = np.abs(np.diag(r))
        q = q[:, scale > max(1e-10 * scale.max(initial=0.0), self._least)][:, : len(self._u) - self._rank]
        q -= self._basis.T @ (self._basis @ q)  # again, or it is not quite orthogonal
        self._vectors[self._rank : self._rank + q.shape[1]] = q.T
        self._rank += q.shape[1]
        self._dropped.append((side, q.shape[1]))
        self.box[side] += -1 if side % 2 else 1

    def _put_back(self) -> None:
        side, count = self._dropped.pop()
        self._rank -= count
        self.box[side] -= -1 if side % 2 else 1


def _tail(chi2: float, count: int, df_resid: int) -> float:
    """Return the probability that F exceeds ``chi2 / count``."""
    return float(scipy.special.fdtrc(count, df_resid, chi2 / count))
