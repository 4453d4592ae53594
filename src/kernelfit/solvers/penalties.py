"""Penalised least squares: one decomposition gives every strength, and the data choose among them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.linalg  # scipy.optimize is imported when first used

from ..core.estimate import Estimate, StrengthPath
from ..core.findings import Finding, Verdict
from ..core.geometry import Shape
from ..core.normal_equations import NormalEquations
from ..core.validation import Array, as_number
from .cholesky import RCOND_CHOLESKY, eigen_factor, product
from .least_squares import EPS, at_minimum, blocks, detail_of, finish, rescaled

Penalty = str | Array | Callable[[Shape], Array]
PENALTIES = ("ridge", "gradient", "laplacian", "biharmonic")
#: Kernels so many times as rough, in squares, as a penalty supposes widen its errors.
_ROUGHER = 2.0
#: Strengths of a path: 16 to a decade.
_PATH = np.logspace(-14, 6, 321)


@dataclass(frozen=True, eq=False)
class Penalized:
    """Penalised least squares: the kernel that minimises ``|y - A k|^2 + strength * t * k'Qk``.

    The factor ``t = trace(D) / trace(Q)`` with D the Gram matrix of the taps less their mean (term by term, where there
    are several source images) makes the strength relative and without dimension: at strength 1 an average tap feels the
    penalty as much as the data. Scaling the image, the target or the penalty leaves it as it is, and so does a constant
    added to the image; doubling the number of pixels at the same strength leaves the kernel as it is.

    One eigendecomposition of ``R^-1 G R^-T`` with ``G + t Q = R R'`` gives the kernel, its residual and its effective
    degrees of freedom ``df = trace(G (G + strength t Q)^-1)`` for every strength, kept in `KernelFit.path`. The
    covariance is that of the posterior, ``s^2 (G + strength t Q)^-1`` with ``s^2 = rss / (n - df)``: it takes the
    penalty for what is known of the kernel beforehand.

    Parameters
    ----------
    penalty : {"ridge", "gradient", "laplacian", "biharmonic"} or ndarray or callable, optional
        ``k'Qk``, of each term's support by itself, with the kernel zero beyond its support: ``|k|^2``, ``|grad k|^2``
        (forward differences, those across the border included), ``|L k|^2`` or ``|L L k|^2`` with the five-point
        Laplacian L. Or Q itself, of shape (taps, taps), symmetric and positive semi-definite; or a function that makes
        Q of the (rows, cols) of a support. The default is "biharmonic".
    strength : float or {"gcv", "discrepancy"}, optional
        The strength; or "gcv" (the default): the one that minimises the generalised cross-validation
        ``n rss / (n - df)^2``; or "discrepancy": the one for which ``rss = n noise_std^2``.
    noise_std : float, optional
        Standard deviation of the noise of a target pixel, for "discrepancy".

    Raises
    ------
    ValueError
        If the penalty or the strength is unknown, the strength negative, or `noise_std` missing or superfluous; and by
        `solve` if Q has the wrong shape, or is not symmetric and positive semi-definite.

    References
    ----------
    G. Golub, M. Heath and G. Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter",
    Technometrics 21 (1979), section 1, doi:10.1080/00401706.1979.10489751. V. Morozov, "On the solution of functional
    equations by the method of regularization", Soviet Math. Dokl. 7 (1966).

    Examples
    --------
    >>> import numpy as np, scipy.signal, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image = rng.normal(size=(60, 70)).cumsum(axis=0).cumsum(axis=1)
    >>> kernel = np.outer(scipy.signal.windows.gaussian(9, 1.5), scipy.signal.windows.gaussian(11, 2.0))
    >>> target = scipy.signal.convolve2d(image, kernel, mode="valid")
    >>> target += rng.normal(0.0, 0.01 * target.std(), target.shape)
    >>> stats = kernelfit.accumulate(image, target, (9, 11))
    >>> plain, smooth = stats.solve(), stats.solve(kernelfit.Penalized("biharmonic"))
    >>> bool(np.linalg.norm(smooth.kernel - kernel) < 0.1 * np.linalg.norm(plain.kernel - kernel))
    True
    >>> smooth.uncertainty
    'posterior'
    """

    penalty: Penalty = "biharmonic"
    strength: float | str = "gcv"
    noise_std: float | None = None

    needs: ClassVar[str] = "normal equations"

    def __post_init__(self) -> None:
        if isinstance(self.penalty, str) and self.penalty not in PENALTIES:
            msg = f"got penalty={self.penalty!r}, need one of {', '.join(PENALTIES)}, a matrix or a function"
            raise ValueError(msg)
        if not (isinstance(self.penalty, (str, np.ndarray)) or callable(self.penalty)):
            raise TypeError(f"got penalty={self.penalty!r}, need one of {', '.join(PENALTIES)}, an array or a function")
        if isinstance(self.strength, str):
            if self.strength not in ("gcv", "discrepancy"):
                raise ValueError(f"got strength={self.strength!r}, need a number, 'gcv' or 'discrepancy'")
        elif not as_number(self.strength, "strength") >= 0:
            raise ValueError(f"got strength={self.strength!r}, need a finite number of at least 0")
        if (self.noise_std is None) == (self.strength == "discrepancy"):
            raise ValueError(
                f"got strength={self.strength!r} and noise_std={self.noise_std!r}; give noise_std with "
                "strength='discrepancy', and only with it"
            )
        if self.noise_std is not None and not as_number(self.noise_std, "noise_std") >= 0:
            raise ValueError(f"got noise_std={self.noise_std!r}, need a finite number of at least 0")

    def __str__(self) -> str:
        penalty = self.penalty if isinstance(self.penalty, str) else "given penalty"
        return f"Penalized({penalty}, {self.strength if isinstance(self.strength, str) else f'{self.strength:.3g}'})"

    @rescaled
    def solve(self, stats: NormalEquations) -> Estimate:
        """Return the penalised kernel, with the path of strengths, and verdicts where something is left open."""
        least, stats = at_minimum(stats)
        spectrum = Spectrum(stats, penalty_matrix(self.penalty, stats))
        findings: list[Finding] = []
        strength, path = self._choose(spectrum, findings)
        taps, inverse = spectrum.taps(strength), spectrum.factor(strength)
        df_model = float(spectrum.df_model(np.array([strength]))[0])
        figures: dict[str, Any] = {"df_model": df_model, "strength": strength, "path": path, "findings": findings}
        figures["held"] = spectrum.beyond(strength, taps, df_model)
        return finish(stats, taps, inverse, str(self), least=least, prior=strength > 0, **figures)

    def _choose(self, spectrum: "Spectrum", findings: list[Finding]) -> tuple[float, StrengthPath]:
        """Return the strength and the path it was chosen from."""
        n = spectrum.n_pixels
        grid = _PATH
        df_model, rss = spectrum.df_model(grid), spectrum.rss(grid)
        if self.strength == "discrepancy":
            assert self.noise_std is not None
            goal = n * self.noise_std**2
            path = StrengthPath(grid, df_model, rss, rss - goal, f"rss - n noise_std^2, noise_std {self.noise_std:g}")
            if rss[0] >= goal or rss[-1] <= goal:
                end = 0.0 if rss[0] >= goal else float(grid[-1])
                detail = f"rss lies between {rss[0]:.4g} and {rss[-1]:.4g}, {goal:.4g} was asked for"
                findings.append(Finding(Verdict.NO_MINIMUM, detail))
                return end, path
            at = int(np.searchsorted(rss, goal))
            low, high = math.log(grid[at - 1]), math.log(grid[at])
            found = scipy.optimize.brentq(lambda s: spectrum.rss(np.exp([s]))[0] - goal, low, high, xtol=1e-10)
            return float(np.exp(found)), path
        path = StrengthPath(grid, df_model, rss, gcv(n, df_model, rss), "generalised cross-validation")
        if not isinstance(self.strength, str):
            return float(self.strength), path
        best = int(np.argmin(path.score))
        if best in (0, len(grid) - 1) or not np.isfinite(path.score[best - 1 : best + 2]).all():
            none = np.zeros(1)
            if n > spectrum.rank == len(spectrum._gram) and best == 0:
                if gcv(n, spectrum.df_model(none), spectrum.rss(none))[0] <= path.score[0] * (1 + 1e-3):
                    return 0.0, path  # no penalty at all is the best
            findings.append(Finding(Verdict.NO_MINIMUM, f"{n} pixels, rank {spectrum.rank}, strength {grid[best]:.1e}"))
            return float(grid[best]), path

        def score(s: float) -> float:
            at = np.exp([s])
            return float(gcv(n, spectrum.df_model(at), spectrum.rss(at))[0])

        bounds = math.log(grid[best - 1]), math.log(grid[best + 1])
        found = scipy.optimize.minimize_scalar(score, bounds=bounds, method="bounded")
        return float(np.exp(found.x)), path


def gcv(n: int, df_model: Array, rss: Array) -> Array:
    """Return ``n rss / (n - df)^2``, infinite where nothing is left to validate with."""
    df_resid = n - df_model
    score = np.full(len(rss), math.inf)
    np.divide(n * rss, df_resid**2, out=score, where=df_resid > 1e-9 * n)
    return score


def laplacian(shape: Shape) -> Array:
    """Return the five-point Laplacian, its sign turned, of a kernel that is zero beyond its support: (taps, taps)."""
    total: Array = np.zeros((1, 1))
    for n in shape:
        side = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
        total = np.kron(total, np.eye(n)) + np.kron(np.eye(len(total)), side)
    return total


def _of_support(penalty: str, shape: Shape) -> Array:
    """Return Q of one support."""
    taps = math.prod(shape)
    if penalty == "ridge":
        return np.eye(taps)
    power = {"gradient": 1, "laplacian": 2, "biharmonic": 4}[penalty]
    return np.asarray(np.linalg.matrix_power(laplacian(shape), power))


def penalty_matrix(penalty: Penalty, stats: NormalEquations) -> Array:
    """Return ``t Q``, so that a strength of 1 means that the average tap feels the penalty as much as the data."""
    m = stats.n_taps
    detail = detail_of(stats.gram, stats.supports)
    whole = np.zeros((m, m))
    of_terms = blocks(stats.supports)
    if isinstance(penalty, np.ndarray):
        parts = [(slice(0, m), _checked(penalty, m))]
    else:
        parts = [
            (
                where,
                _of_support(penalty, shape) if isinstance(penalty, str) else _checked(penalty(shape), math.prod(shape)),
            )
            for where, shape in zip(of_terms, stats.supports, strict=True)
        ]
    for where, q in parts:
        data, own = float(detail[where].sum()), float(np.trace(q))
        whole[where, where] = q * ((data if data > 0 else 1.0) / own)
    return whole


def _checked(penalty: npt.ArrayLike, taps: int) -> Array:
    q = np.asarray(penalty, dtype=np.float64)
    if q.shape != (taps, taps):
        raise ValueError(f"got a penalty of shape {q.shape}, need ({taps}, {taps}), one row for each tap")
    scale = float(np.abs(q).max(initial=0.0))
    if not (np.isfinite(scale) and scale > 0 and np.abs(q - q.T).max() <= 1e-10 * scale):
        raise ValueError("got a penalty that is not symmetric, finite and unlike zero; need k'Qk, such as Q = D.T @ D")
    if float(scipy.linalg.eigvalsh(q, subset_by_index=[0, 0])[0]) < -1e-10 * scale * taps:
        raise ValueError("got a penalty with a negative eigenvalue, need k'Qk >= 0 for every k, such as Q = D.T @ D")
    return 0.5 * (q + q.T)


class Spectrum:
    """``G + s Q`` for every s from one eigendecomposition.

    In the coordinates ``k = c + T x`` both matrices are diagonal, ``T'GT = diag(g)`` and ``T'QT = diag(q)``, with
    ``T = R^-T V``, ``G + Q = R R'`` and V the eigenvectors of ``R^-1 G R^-T``. The sum is much better conditioned than
    either: the image holds what is smooth, the penalty what is rough. What neither determines is left at zero.
    """

    def __init__(self, stats: NormalEquations, penalty: Array) -> None:
        """Decompose."""
        self.n_pixels = stats.n_pixels
        self._gram, self._penalty = stats.gram, penalty
        both = stats.gram + penalty
        lower, info = scipy.linalg.lapack.dpotrf(both, lower=1, clean=1)
        norm = float(np.abs(both).sum(axis=0).max())
        rcond = scipy.linalg.lapack.dpocon(lower, norm, uplo="L")[0] if info == 0 else 0
        if rcond > RCOND_CHOLESKY:
            middle = scipy.linalg.solve_triangular(lower, stats.gram, lower=True)
            middle = scipy.linalg.solve_triangular(lower, middle.T, lower=True)
            _, vectors = scipy.linalg.eigh(middle, driver="evd", overwrite_a=True, check_finite=False)
            self._basis = scipy.linalg.solve_triangular(lower, vectors, lower=True, trans="T", overwrite_b=True)
        else:
            whiten = eigen_factor(both).factor
            _, vectors = scipy.linalg.eigh(product(whiten.T, product(stats.gram, whiten)))
            self._basis = product(whiten, vectors)
        # each from its own matrix, so that the smaller of the two is known as well as the larger
        self._g = np.einsum("ij,ij->j", self._basis, product(stats.gram, self._basis))
        self._q = np.einsum("ij,ij->j", self._basis, product(penalty, self._basis))
        floor = len(self._g) * EPS  # of their sum, which is 1
        self._g = np.where(self._g > floor, self._g, 0.0)
        self._q = np.where(self._q > floor, self._q, 0.0)
        self.rank = int(np.count_nonzero(self._g))
        self.take(stats)

    def take(self, stats: NormalEquations) -> None:
        """Go on with the target of other statistics, of the same image."""
        center, moment, self._energy = stats.around()
        # of a kernel that no penalty shrinks, its remainder beyond what the basis spans plays no part
        self._center = center
        self._given = moment
        self._moment = np.where(self._g > 0, self._basis.T @ moment, 0.0)
        self._pull = self._basis.T @ (self._penalty @ center)

    def _weight(self, strength: Array) -> Array:
        """Return ``1 / (g + s q)``, shape (strengths, coordinates); zero where nothing is determined."""
        total = self._g + strength[:, None] * self._q
        return np.asarray(np.divide(1.0, total, out=np.zeros_like(total), where=total > 0))

    def df_model(self, strength: Array) -> Array:
        """Return the effective degrees of freedom."""
        return np.asarray(self._weight(strength) @ self._g)

    def _step(self, strength: Array) -> Array:
        return np.asarray((self._moment - strength[:, None] * self._pull) * self._weight(strength))

    def rss(self, strength: Array) -> Array:
        """Return the residual sums of squares."""
        step = self._step(strength)
        return np.asarray(np.maximum(0.0, self._energy - 2 * step @ self._moment + step**2 @ self._g))

    def taps(self, strength: float) -> Array:
        """Return the kernel, with one step of refinement."""
        at = np.array([strength])
        step = self._basis @ self._step(at)[0]
        rest = self._given - self._gram @ step - strength * (self._penalty @ (self._center + step))
        better = np.asarray(self._center + step + self._basis @ (self._weight(at)[0] * (self._basis.T @ rest)))
        return better if self.rank == len(better) else np.asarray(self._center + step)

    def factor(self, strength: float) -> Array:
        """Return a factor F of ``(G + s Q)^-1 = F F'``."""
        return np.asarray(self._basis * np.sqrt(self._weight(np.array([strength]))[0]))

    def beyond(self, strength: float, taps: Array, df_model: float) -> Array | None:
        """Return columns by which the covariance is larger where kernels are rougher than the penalty supposes.

        It stands for a prior: coordinates x of variance ``s^2 / (strength q)``. Of those that the data determine, by
        shares ``h = g / (g + strength q)``, the squares tell how much larger these have to be (method of moments).
        """
        at = np.array([strength])
        pull, weight = strength * self._q, self._weight(at)[0]
        variance = float(self.rss(at)[0]) / max(self.n_pixels - df_model, 1.0)
        if not (variance > 0 and pull.any()):
            return None
        seen = float(np.sum((self._g * weight) ** 2))
        told = strength * float(taps @ (self._penalty @ taps)) / variance - float(np.sum(self._g * pull * weight**2))
        if not told > _ROUGHER * seen > 0:
            return None
        return np.asarray(self._basis * (weight * np.sqrt((told / seen - 1.0) * pull)))


def choose_strength(
    stats: NormalEquations, penalty: Penalty, strength: float | str, findings: list[Finding]
) -> tuple[Array, float]:
    """Return ``strength t Q`` for solvers that add a penalty to something else, and the strength."""
    solver = Penalized(penalty, strength)
    matrix = penalty_matrix(penalty, stats)
    value = solver._choose(Spectrum(stats, matrix), findings)[0] if isinstance(strength, str) else float(strength)
    return value * matrix, value
