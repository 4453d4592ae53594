"""Kernels held to what is known of them: non-negative, of given sum, symmetric, or in a basis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.linalg

from ..core.estimate import Estimate
from ..core.findings import Finding
from ..core.normal_equations import NormalEquations
from ..core.validation import Array, as_number, known
from .cholesky import eigen_factor
from .least_squares import EPS, at_minimum, blocks, detail_of, finish, let_in, rescaled, residual_at
from .penalties import Penalized, Penalty, choose_strength
from .projection import images_of

Mask = npt.NDArray[np.bool_]
#: A sum of taps whose square is still a number beside those of images.
LARGEST = 1e150
SYMMETRIES = ("point", "rows", "columns", "both")


def _total(value: float | None) -> None:
    if value is not None and not abs(as_number(value, "total")) < LARGEST:
        raise ValueError(f"got total={value!r}, need one of less than {LARGEST:g}; scale both images")


def factor_of(gram: Array) -> Array:
    """Return F with ``F F' = G^+``."""
    lower, info = scipy.linalg.lapack.dpotrf(gram, lower=1, clean=1)
    if info == 0 and float(np.diag(lower).min()) > 1e-6 * float(np.diag(lower).max()):
        return np.asarray(scipy.linalg.lapack.dtrtri(lower, lower=1)[0].T)
    return eigen_factor(gram).factor


def _onto_total(inverse: Array, ones: Array) -> tuple[Array, Array]:
    """Return the direction in which a kernel moves to reach a sum, per unit of it, and the factor with it left out."""
    across = inverse.T @ ones
    length = float(across @ across)
    if length == 0.0:
        return np.zeros(len(inverse)), inverse
    direction = inverse @ across / length
    return direction, inverse - np.multiply.outer(inverse @ across, across) / length


@dataclass(frozen=True, eq=False)
class InBasis:
    """Least squares over kernels of the form ``k = B c``.

    ``B'GB c = B'b``; the covariance of the taps is ``s^2 B (B'GB)^-1 B'`` with ``s^2 = rss / (n - rank B)``.

    Parameters
    ----------
    basis : array_like, shape (taps, coefficients) or (coefficients, rows, cols)
        B, one column, or one kernel, for each coefficient. Kernels of one source's support serve every source of that
        shape, each with coefficients of its own.

    Raises
    ------
    ValueError
        If the basis is not finite, or, by `solve`, does not fit the taps.

    References
    ----------
    C. Alard and R. Lupton, "A method for optimal image subtraction", ApJ 503 (1998), section 2, doi:10.1086/305984,
    where B holds Gaussians times polynomials.

    Examples
    --------
    >>> import numpy as np, scipy.signal, kernelfit
    >>> image = np.random.default_rng(0).random((40, 50))
    >>> y, x = np.mgrid[-3:4, -4:5]
    >>> basis = np.array([np.exp(-(y**2 + x**2) / (2 * width**2)) for width in (1, 2, 3)])
    >>> target = scipy.signal.convolve2d(image, basis[0] + 2 * basis[2], mode="valid")
    >>> fit = kernelfit.accumulate(image, target, (7, 9)).solve(kernelfit.InBasis(basis))
    >>> bool(np.allclose(fit.kernel, basis[0] + 2 * basis[2]))
    True
    """

    basis: npt.ArrayLike

    needs: ClassVar[str] = "normal equations"

    def __post_init__(self) -> None:
        basis = np.asarray(self.basis, dtype=np.float64)
        if basis.ndim not in (2, 3, 4) or basis.size == 0 or not np.isfinite(basis).all():
            raise ValueError(
                f"got a basis of shape {basis.shape}, need (taps, coefficients), (coefficients, rows, cols) "
                "or (coefficients, planes, rows, cols), all finite"
            )

    def __str__(self) -> str:
        basis = np.asarray(self.basis)
        return f"InBasis({basis.shape[1] if basis.ndim == 2 else basis.shape[0]} coefficients)"

    @rescaled
    def solve(self, stats: NormalEquations) -> Estimate:
        """Return the best kernel in the basis, of the support's shape."""
        basis = np.asarray(self.basis, dtype=np.float64)
        if basis.ndim > 2:
            basis = basis.reshape(len(basis), -1).T
        if len(stats.supports) > 1 and all(len(basis) == math.prod(sides) for sides in stats.supports):
            basis = np.asarray(np.kron(np.eye(len(stats.supports)), basis), dtype=np.float64)
        if len(basis) != stats.n_taps:
            raise ValueError(f"got a basis for {len(basis)} taps, need {stats.n_taps} for supports of {stats.supports}")
        least, stats = at_minimum(stats)
        taps, inverse = in_basis(stats, basis)
        return finish(stats, taps, inverse, str(self), least=least, n_free=inverse.shape[1], form=True)


def in_basis(stats: NormalEquations, basis: Array) -> tuple[Array, Array]:
    """Minimise over ``k = B c``, and return k and a factor of the covariance of k in units of s^2."""
    basis = scipy.linalg.orth(basis)
    inverse = basis @ factor_of(basis.T @ stats.gram @ basis)
    return refined(stats, basis @ (basis.T @ stats.around()[0]), inverse), inverse


def refined(stats: NormalEquations, taps: Array, inverse: Array) -> Array:
    """Return the minimum over the columns of a factor of its covariance, from a kernel among what they span."""
    for _ in range(2):
        taps = taps + inverse @ (inverse.T @ residual_at(stats, taps)[0])
    return taps


@dataclass(frozen=True)
class Constrained:
    """Least squares over kernels of a given sum, or a given symmetry, or both.

    Taps that the symmetry makes equal are one unknown; the sum is met to rounding. The covariance is that of the
    estimate under the constraints, ``s^2 N (N'GN)^-1 N'`` with N a basis of the kernels they allow.

    Parameters
    ----------
    total : float or sequence of (float or None), optional
        What the taps of each source add up to; of several sources one number for all, or one for each, None where a sum
        is free. The default None leaves all free.
    symmetric : {None, "point", "rows", "columns", "both"}, optional
        What leaves the kernel as it is: turning it by 180 degrees, reversing the order of its rows, of its columns, or
        of either, for volumes of the planes as well. About the middle of the support. The default None asks for none.

    Raises
    ------
    ValueError
        If the sum is not finite, the symmetry unknown, or neither is given.

    References
    ----------
    G. Golub and C. Van Loan, "Matrix Computations", 4th ed. (2013), section 6.2.3.

    Examples
    --------
    >>> import numpy as np, scipy.signal, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image = rng.random((40, 50))
    >>> target = scipy.signal.convolve2d(image, np.full((3, 5), 1 / 15), mode="valid")
    >>> target += rng.normal(0.0, 0.01, target.shape)
    >>> fit = kernelfit.accumulate(image, target, (3, 5)).solve(kernelfit.Constrained(total=1.0, symmetric="point"))
    >>> round(float(fit.kernel.sum()), 9)
    1.0
    >>> bool(np.allclose(fit.kernel, fit.kernel[::-1, ::-1]))
    True
    """

    total: float | Sequence[float | None] | None = None
    symmetric: str | None = None

    needs: ClassVar[str] = "normal equations"

    def __post_init__(self) -> None:
        for one in _each(self.total):
            _total(one)
        known(self.symmetric, (None, *SYMMETRIES), "symmetric")
        if self.total is None and self.symmetric is None:
            raise ValueError("got no constraint, need total, symmetric or both; use LeastSquares() for none")

    def __str__(self) -> str:
        return f"Constrained(total={self.total}, symmetric={self.symmetric})"

    @rescaled
    def solve(self, stats: NormalEquations) -> Estimate:
        """Return the best kernel that meets the constraints."""
        totals = _each(self.total)
        if len(totals) not in (1, len(stats.supports)):
            msg = f"got {len(totals)} totals, need one, or one for each of {len(stats.supports)} sources (None: free)"
            raise ValueError(msg)
        least, stats = at_minimum(stats)
        taps, inverse = in_basis(stats, _symmetric_basis(stats, self.symmetric))
        held = 0
        for where, total in zip(blocks(stats.supports), totals * (len(stats.supports) // len(totals)), strict=True):
            if total is None:
                continue
            ones = np.zeros(stats.n_taps)
            ones[where] = 1.0
            direction, inverse = _onto_total(inverse, ones)
            for _ in range(2):
                taps = taps + direction * (total - float(ones @ taps))
            held += 1
        return finish(stats, taps, inverse, str(self), least=least, n_free=inverse.shape[1] - held, form=True)


def _each(total: float | Sequence[float | None] | None) -> tuple[float | None, ...]:
    if total is None or isinstance(total, (int, float, np.number)):
        return (total,)
    try:
        return tuple(total)
    except TypeError:
        raise TypeError(f"got total={total!r}, need a number, or one for each source") from None


def _symmetric_basis(stats: NormalEquations, symmetric: str | None) -> Array:
    """Return the basis of the kernels of a symmetry: one column for each set of equal taps."""
    blocks = []
    for shape in stats.supports:
        _, column = np.unique(np.min(images_of(shape, symmetric), axis=0), return_inverse=True)
        blocks.append(np.eye(int(column.max()) + 1)[column])
    return np.asarray(scipy.linalg.block_diag(*blocks))


@dataclass(frozen=True, eq=False)
class NonNegative:
    """Least squares over kernels without negative taps, with a given sum or a penalty if asked for.

    An active-set method (Lawson and Hanson's on the normal equations) gives the exact minimum: the multipliers of the
    taps at zero are checked. The covariance is that of the taps above zero, and of each tap at zero as it would be if
    it alone were let in beside them. With a penalty the strength is that of `Penalized`, found as if negative taps were
    allowed.

    Parameters
    ----------
    total : float, optional
        What all taps add up to, above 0; the default None leaves it free.
    penalty : str, ndarray or callable, optional
        A penalty as in `Penalized`; the default None uses none.
    strength : float or "gcv", optional
        Its strength as in `Penalized`, default "gcv".

    Raises
    ------
    ValueError
        If the sum is not above zero, or the penalty or strength unknown.

    References
    ----------
    C. Lawson and R. Hanson, "Solving Least Squares Problems" (1995), chapter 23, doi:10.1137/1.9781611971217.
    R. Bro and S. De Jong, "A fast non-negativity-constrained least squares algorithm", J. Chemometrics 11 (1997),
    section 2.

    Examples
    --------
    >>> import numpy as np, scipy.signal, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image = rng.random((40, 50))
    >>> target = scipy.signal.convolve2d(image, np.eye(5) / 5, mode="valid") + rng.normal(0.0, 0.01, (36, 46))
    >>> fit = kernelfit.accumulate(image, target, 5).solve(kernelfit.NonNegative(total=1.0))
    >>> bool(fit.kernel.min() >= 0), round(float(fit.kernel.sum()), 9)
    (True, 1.0)
    """

    total: float | None = None
    penalty: Penalty | None = None
    strength: float | str = "gcv"

    needs: ClassVar[str] = "normal equations"

    def __post_init__(self) -> None:
        _total(self.total)
        if self.total is not None and self.total <= 0:
            raise ValueError(f"got total={self.total!r}, need a sum above 0 for a kernel without negative taps")
        if self.strength == "discrepancy":
            msg = "got strength='discrepancy', need a number or 'gcv'; find it with Penalized and give the number"
            raise ValueError(msg)
        Penalized("ridge" if self.penalty is None else self.penalty, self.strength)

    def __str__(self) -> str:
        penalty = self.penalty if isinstance(self.penalty, str) or self.penalty is None else "given penalty"
        return f"NonNegative(total={self.total}, penalty={penalty})"

    @rescaled
    def solve(self, stats: NormalEquations) -> Estimate:
        """Return the best kernel without negative taps."""
        least, stats = at_minimum(stats)
        penalty, strength = None, math.nan
        findings: list[Finding] = []
        if self.penalty is not None:
            penalty, strength = choose_strength(stats, self.penalty, self.strength, findings)
        taps, free = _active_set(stats, penalty, self.total)
        gram = stats.gram if penalty is None else stats.gram + penalty
        part = factor_of(gram[np.ix_(free, free)]) if free.any() else np.zeros((0, 0))
        inverse = np.zeros((stats.n_taps, part.shape[1]))
        inverse[free] = part
        df_model = float(np.einsum("ij,ij->", inverse, stats.gram @ inverse))
        moves = np.eye(stats.n_taps)[:, ~free]
        if self.total is not None:
            direction, inverse = _onto_total(inverse, free.astype(np.float64))
            moves = moves - direction[:, None]
            df_model = max(0.0, df_model - 1.0)
        held = let_in(gram, inverse, moves)
        figures: dict[str, Any] = {"df_model": df_model, "strength": strength, "findings": findings, "held": held}
        return finish(stats, taps, inverse, str(self), least=least, n_free=int(free.sum()), **figures)


def _active_set(stats: NormalEquations, penalty: Array | None, total: float | None) -> tuple[Array, Mask]:
    """Minimise ``|y - A k|^2 + k'Qk`` over ``k >= 0`` (and ``sum k = total``); return k and which taps are free."""
    m = stats.n_taps
    gram, lowest = stats.gram, stats.around()[0]  # where nothing holds the taps
    if penalty is not None:
        gram = gram + penalty
        inverse = factor_of(gram)
        lowest = lowest - inverse @ (inverse.T @ (penalty @ lowest))
    size = np.abs(gram)
    scale = np.sqrt(np.maximum(np.diag(gram), np.finfo(float).tiny))
    detail = float(detail_of(gram, stats.supports).max()) * float(np.abs(lowest).sum())
    weight = scale / float(scale.max())

    def best(free: Mask) -> tuple[Array, float]:
        """Return the minimum with the other taps at zero, and the multiplier of the sum."""
        k = np.where(free, lowest, 0.0)
        at = np.flatnonzero(free)
        inverse = factor_of(gram[np.ix_(at, at)])
        for _ in range(3):
            k[at] -= inverse @ (inverse.T @ (gram[at] @ (k - lowest)))
        if total is None:
            return k, 0.0
        direction = inverse @ (inverse.T @ np.ones(len(at)))
        direction = direction if direction.any() else np.ones(len(at))
        change = (total - float(k.sum())) / float(direction.sum())
        k[at] += change * direction
        return k, -change

    def gain(k: Array, multiplier: float, free: Mask) -> tuple[Array, Array]:
        """Return how much more of each tap would lower half of what is minimised, and what rounding makes of that."""
        # It is zero on average over free taps: what it is beside that, rounding has made of the mean of the image.
        found = -(gram @ (k - lowest)) - multiplier
        for where in blocks(stats.supports):
            if free[where].any():
                found[where] -= found[where][free[where]].mean()
        return found, 1e3 * EPS * (0.1 * (size @ np.abs(k - lowest)) + detail) * weight

    k = lowest
    # Many taps change sides at a time (block principal pivoting), which may go round in circles, but comes near in a
    # few factorisations; from there the active-set method, which cannot, has few steps left.
    free, fewest, patience = k > 0, m + 1, 3
    while free.any() and patience:
        k, multiplier = best(free)
        wrong = np.where(free, k <= 0, np.greater(*gain(k, multiplier, free)))
        patience = 3 if wrong.sum() < fewest else patience - 1
        fewest = min(fewest, int(wrong.sum()))
        if not wrong.any():
            return k, free
        free = free ^ wrong
    k = np.maximum(k, 0.0)
    if not k.any():
        k[int(np.argmax(gram @ lowest / scale))] = total or 0.0
    if total is not None:
        k *= total / float(k.sum())
    free = k > 0
    for _ in range(10 * m + 10):
        while free.any():  # towards the minimum over the free taps, as far as the first that reaches zero
            goal, multiplier = best(free)
            falling = free & (goal <= 0)
            if not falling.any():
                k = goal
                break
            share = np.full(m, 1.0)
            share[falling] = k[falling] / np.maximum(k[falling] - goal[falling], np.finfo(float).tiny)
            k = k + float(share.min()) * (goal - k)
            stuck = falling & (share <= share.min() * (1 + 1e-12))
            free &= ~stuck & (k > 0)
            k[~free] = 0.0
        else:
            multiplier = 0.0
        pull, tolerance = gain(k, multiplier, free)
        enter = int(np.argmax(np.where(free, -math.inf, pull / scale)))
        if free.all() or not pull[enter] > tolerance[enter]:
            break
        free[enter] = True
    return k, free
