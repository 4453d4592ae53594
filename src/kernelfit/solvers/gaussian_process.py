"""A Gaussian-process prior on the kernel whose hyperparameters and family the data choose."""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import scipy.linalg  # scipy.optimize is imported when first used

from ..core import estimate
from ..core.estimate import Estimate, Prior
from ..core.normal_equations import NormalEquations
from ..core.validation import known
from .cholesky import product, times
from .evidence import DECAYS, ENVELOPES, FAMILIES, Kind, all_taps, covariance_of, root_of
from .field_prior import search_field
from .hyperparameters import Views, independent_part, search, unsettled
from .least_squares import LeastSquaresSolution, at_minimum, blocks, estimate_of, judge, rescaled, residual_at
from .projection import SYMMETRIES, Grid, Projection

Array = npt.NDArray[np.float64]
#: Smallest standard error, relative to the largest tap, at which a prior can matter beside rounding.
_NO_NOISE = 1e-9
#: Share of their variances that is added to those of taps that may be held at zero.
_TRACE = 1e-10
#: A tap that others held at zero leaves less than this share of its standard error depends on them.
_DEPENDENT = 1e-4
#: Steps that may show how far a kernel without negative taps is, how often that is looked at; those for the step size.
_STEPS, _LOOK, _POWER = 150, 10, 10


@dataclass(frozen=True)
class GaussianProcess:
    """The posterior mean under a Gaussian-process prior that maximises the evidence.

    The taps k[p] of a term are normal with mean zero and ::

        cov(k[p], k[q]) = a^2 e(p) e(q) rho(|p - q| / l)

    where the envelope e says where in the support the kernel lives: ``exp(-u / 2)`` ("gaussian") or ``(1 + u / 6)^-3``
    ("power", for long tails) with ``u = |p - c|^2 / r^2``; and the correlation rho how smooth it is: ``exp(-t^2 / 2)``
    ("squared-exponential"), ``(1 + u + u^2 / 3) exp(-u)`` with ``u = sqrt(5) t`` ("matern52"), ``(1 + u) exp(-u)`` with
    ``u = sqrt(3) t`` ("matern32") or ``exp(-t)`` ("exponential"). Under a symmetry the covariance is summed over the
    images of q: turned by 180 degrees about the middle of the support ("point"), rows or columns in reverse order too
    ("both"), or rows and columns exchanged as well ("square"); c is then the middle. The amplitude a (in units of the
    kernel), the length l, the radius r and the centre c (pixels; each term has its own) and the noise s maximise ::

        log p(y) = -n/2 log(2 pi s^2) - (rss + q) / (2 s^2) - log det(I + W'PW / s^2) / 2

    with P the prior covariance, ``G = WW'`` the Gram matrix, rss the least residual and
    ``q = min over k of (k - k0)'G(k - k0) + s^2 k'P^-1 k``, where k0 is the least-squares kernel. No inverse of G is
    needed, so that it stays finite where the image does not determine every tap. There is nothing to set. The
    covariance is that of the posterior, ``(P^-1 + G / s^2)^-1``, at the hyperparameters found, plus what their own
    uncertainty adds (Laplace's approximation). For signals' decays and for a `variation` it also counts an independent
    part of each tap, of the variance that the evidence leaves room for: a prior that has faded to nothing would
    otherwise be sure of taps that nobody has seen.

    For volumes lengths along planes and along rows are in units of their own, two more numbers that the evidence finds
    (`Prior.scales`): the radius and the length differ from axis to axis, in one proportion. The symmetry "both" turns
    every axis round, "square" exchanges rows and columns as well.

    For signals there are priors of responses that decay from the first tap on, numbered j = 0, 1, ...::

        "tc"   a^2 exp(-2 max(i, j) / r)
        "dc"   a^2 exp(-(i + j) / r) exp(-|i - j| / l)
        "ss"   a^2 exp(-(i + j) / r) (3 exp(-|i - j| / (3 r)) - exp(-|i - j| / r)) / 2

    Chen, Ohlsson and Ljung's with ``lambda = exp(-2 / r)``, of "ss" ``exp(-2 / (3 r))``, and ``rho = exp(-1 / l)``.
    With family "auto" they are tried for signals.

    The kernels of a `variation` have a prior of this kind for each function of the place: the amplitude is one for each
    degree, length and radius are one for the constant and one for all others, whose length stays near the radius, so
    that they need not be of one shape; and the centre is that of the constant;
    `KernelFit.alternatives` holds the evidence of the degrees below. A symmetry is not looked for.

    The real and the imaginary parts of complex kernels are independent, and have the same prior, which no change of
    phase changes.

    Above 256 taps the search begins on 80 combinations of the moments that hold most of the image's energy (a
    likelihood of part of the data), and the best kinds of prior are settled on those in which such kernels can show
    beside the noise, or on all of them.

    Parameters
    ----------
    family : {"auto", "squared-exponential", "matern52", "matern32", "exponential", "tc", "dc", "ss"}, optional
        The correlation; "auto" (the default) takes the one with the largest evidence.
    envelope : {"auto", "gaussian", "power"}, optional
        The envelope, default "auto", likewise.
    symmetric : {"auto", None, "point", "both", "square"}, optional
        The symmetry, default "auto", likewise; None for none.
    non_negative : bool, optional
        Whether to return the most probable kernel without negative taps; the error bars stay those of the posterior
        without that knowledge. Default False.

    Raises
    ------
    ValueError
        If the family, the envelope or the symmetry is unknown; by `solve`, if the symmetry is "square" and a support is
        not.

    Notes
    -----
    Where the noise is so small that the standard errors of least squares lie below 1e-9 of the largest tap, no prior
    can matter beside rounding and the kernel of least squares is returned. `KernelFit.priors` holds the
    hyperparameters, `KernelFit.log_evidence` the evidence, `KernelFit.alternatives` that of the families weighed.

    References
    ----------
    G. Pillonetto and G. De Nicolao, "A new kernel-based approach for linear system identification", Automatica 46
    (2010), sections 3 and 5, doi:10.1016/j.automatica.2009.10.031. T. Chen, H. Ohlsson and L. Ljung, "On the estimation
    of transfer functions, regularizations and Gaussian processes - Revisited", Automatica 48 (2012), section 4,
    doi:10.1016/j.automatica.2012.05.026. C. Rasmussen and C. Williams, "Gaussian Processes for Machine Learning"
    (2006), sections 4.2 and 5.4.1, and, for the uncertainty of the hyperparameters, 3.4.

    Examples
    --------
    >>> import numpy as np, scipy.signal, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image = rng.normal(size=(60, 70)).cumsum(axis=0).cumsum(axis=1)
    >>> kernel = np.outer(scipy.signal.windows.gaussian(9, 1.5), scipy.signal.windows.gaussian(11, 1.5))
    >>> target = scipy.signal.convolve2d(image, kernel, mode="valid")
    >>> target += rng.normal(0.0, 0.01 * target.std(), target.shape)
    >>> stats = kernelfit.accumulate(image, target, (9, 11))
    >>> plain, fit = stats.solve(), stats.solve(kernelfit.GaussianProcess())
    >>> bool(np.linalg.norm(fit.kernel - kernel) < 0.05 * np.linalg.norm(plain.kernel - kernel))
    True
    >>> fit.prior.family
    'squared-exponential'
    """

    family: str = "auto"
    envelope: str = "auto"
    symmetric: str | None = "auto"
    non_negative: bool = False

    needs: ClassVar[str] = "normal equations"

    def __post_init__(self) -> None:
        known(self.family, ("auto", *FAMILIES, *DECAYS), "family")
        known(self.envelope, ("auto", *ENVELOPES), "envelope")
        known(self.symmetric, ("auto", None, *SYMMETRIES), "symmetric")
        if self.family in DECAYS and (self.envelope != "auto" or self.symmetric not in ("auto", None)):
            raise ValueError(
                f"got family={self.family!r} with envelope={self.envelope!r} and symmetric={self.symmetric!r}, need "
                "neither: it decays from the first tap on"
            )

    def __str__(self) -> str:
        settings = [self.family]
        settings += [] if self.envelope == "auto" else [f"envelope={self.envelope}"]
        settings += [] if self.symmetric == "auto" else [f"symmetric={self.symmetric}"]
        settings += ["non_negative=True"] if self.non_negative else []
        return f"GaussianProcess({', '.join(settings)})"

    @functools.partial(rescaled, far=0)  # the search ends where steps are small by bits that depend on the scale
    def solve(self, stats: NormalEquations) -> Estimate:
        """Return the posterior mean.

        Parameters
        ----------
        stats : NormalStats
            The statistics.

        Returns
        -------
        KernelFit
            The kernel with its posterior covariance, the hyperparameters and the evidence.
        """
        if self.family in DECAYS and any(min(shape) > 1 for shape in stats.supports):
            raise ValueError(f"got family={self.family!r} for supports of {stats.supports}, need a signal's kernel")
        if self.family in DECAYS and stats.convention.field is not None:
            raise ValueError(f"got family={self.family!r} with a variation, need another family")
        start, stats = at_minimum(stats)
        if beyond_a_prior(stats, start):
            fit = estimate_of(stats, start)
            reason = "least squares, the noise being too small for a prior to matter"
            if not stats.varies:
                reason = "least squares, the target being the same everywhere"
            return dataclasses.replace(fit, solver=f"{self}: {reason}")
        if self.symmetric == "square" and any(sides[-2] != sides[-1] for sides in stats.supports):
            msg = f"got symmetric='square' for supports of {stats.supports}, need as many rows as columns, or 'both'"
            raise ValueError(msg)
        if stats.convention.field is not None:
            return self._varying(stats, start)
        views = Views(stats, start)
        found = search(views, self.family, self.envelope, self.symmetric)
        best = min(found, key=lambda kind: found[kind].value)
        relative = {kind: 0.5 * (found[best].value - one.value) for kind, one in found.items()}
        fit = self._posterior(stats, start, views.few, best, found[best].at, relative)
        return most_probable(stats, fit)[0] if self.non_negative else fit

    def _varying(self, stats: NormalEquations, start: LeastSquaresSolution) -> Estimate:
        """Return the posterior mean of a kernel that varies over the field."""
        found = search_field(stats, start, self.family, self.envelope, self.symmetric)
        fit = self._posterior(
            stats, start, Views(stats, start).few, found.kind, found.theta, {found.kind: 0.0}, found.ties
        )
        top = max(found.by_degree)
        evidences = {
            f"degree {degree}": fit.log_evidence + 0.5 * (found.by_degree[top] - value)
            for degree, value in found.by_degree.items()
        }
        fit = dataclasses.replace(fit, alternatives=evidences)
        return most_probable(stats, fit)[0] if self.non_negative else fit

    def _posterior(
        self,
        stats: NormalEquations,
        start: LeastSquaresSolution,
        few: Projection,
        kind: Kind,
        theta: Array,
        relative: dict[Kind, float],
        ties: Array | None = None,
    ) -> Estimate:
        grids = few.under(kind.symmetric).grids
        root = all_taps(grids, root_of(covariance_of(grids, kind, theta)))
        # What a large mean of the image tells, the sums, in columns of its own: it would drown the rest in its rounding
        ones = np.zeros((stats.n_taps, len(grids)))
        for at, where in enumerate(blocks(stats.supports)):
            ones[where, at] = 1.0
        root = _turned(root, root.T @ ones)
        inner = product(root.T, product(stats.gram, root))
        inner[np.diag_indices_from(inner)] += 1.0
        lower, info = scipy.linalg.lapack.dpotrf(inner, lower=1, clean=1)
        if info != 0:  # rounding of a Gram matrix that a large mean drowns: no eigenvalue is less than one
            values, vectors = scipy.linalg.eigh(inner)
            lower = scipy.linalg.cholesky((vectors * np.maximum(values, 1.0)) @ vectors.T, lower=True)
        inverse = scipy.linalg.lapack.dtrtri(lower, lower=1)[0]
        # F F' = (P^-1 + G)^-1, in units of s^2
        factor = scipy.linalg.blas.dtrmm(1.0, inverse, root, side=1, lower=1, trans_a=1)
        # from the center, then one step of refinement; x are the coordinates k = U x
        moment = stats.around()[1] + times(stats.gram, stats.around()[0])
        x = scipy.linalg.cho_solve((lower, True), root.T @ moment)
        for _ in range(2 if info == 0 else 0):
            rest, rss = residual_at(stats, root @ x)
            x = x + scipy.linalg.cho_solve((lower, True), root.T @ rest - x)
        taps = root @ x
        rest, rss = residual_at(stats, taps)
        held = root[:, : len(grids)]  # P^-1 k by what the sums should be, too: the pixels tell it to rounding only
        rest = rest + ones @ scipy.linalg.lstsq(held.T @ ones, x[: len(grids)] - held.T @ rest)[0]
        noise_std = math.sqrt((rss + float(x @ x)) / stats.n_pixels)
        df_model = float(root.shape[1] - np.sum(inverse**2))
        n = stats.n_pixels
        value = n * math.log(rss + float(x @ x)) + 2 * float(np.log(np.diag(lower)).sum())
        log_evidence = -0.5 * (value + n * (1 + math.log(2 * math.pi) - math.log(n)))
        more = unsettled(stats, few, kind, theta, factor, rest / noise_std, ties)
        if ties is not None or kind.family in DECAYS:
            more = np.hstack([more, independent_part(stats.gram, factor, rest / noise_std)])
        factor = np.hstack([factor, more]) * noise_std
        findings = judge(
            stats, taps, factor, start.rank, start.condition, rss, prior=True, least=(start.rank, start.rss)
        )
        evidences = {str(other): log_evidence + difference for other, difference in relative.items()}
        chosen = f"{self}: {kind} by evidence" if "auto" in (self.family, self.envelope, self.symmetric) else str(self)
        return estimate.assemble(
            stats,
            taps,
            factor,
            rank=start.rank,
            condition=start.condition,
            rss=rss,
            noise_std=noise_std,
            findings=findings,
            solver=chosen,
            uncertainty="posterior",
            unsettled=more.shape[1],
            df_model=df_model,
            priors=tuple(
                Prior(
                    kind.family,
                    noise_std * math.exp(t[0]),
                    math.exp(t[1]),
                    math.exp(t[2]),
                    tuple(float(c) for c in t[3 : 3 + grid.ndim]),
                    kind.envelope,
                    kind.symmetric,
                    tuple(math.exp(c) for c in t[3 + grid.ndim :]),
                )
                for t, grid in zip(theta.reshape(len(grids), -1), grids, strict=True)
            ),
            log_evidence=log_evidence,
            alternatives=evidences if len(evidences) > 1 else {},
        )


def _turned(rows: Array, first: Array) -> Array:
    """Return ``rows @ Q`` where the first columns of the orthogonal Q span those of `first`."""
    lapack = scipy.linalg.lapack
    reflections, scales, *_ = lapack.dgeqrf(first)
    found, *_ = lapack.dormqr("R", "N", reflections, scales, rows, max(64, 64 * len(rows)))
    return np.asarray(found)


def beyond_a_prior(stats: NormalEquations, start: LeastSquaresSolution) -> bool:
    """Whether there is no noise, or no signal, that a prior could be weighed against."""
    largest = float(np.abs(start.taps).max(initial=0.0))
    df_resid = stats.n_pixels - start.rank
    if start.rank == 0 or largest == 0.0 or not stats.varies:
        return True
    if not start.full or df_resid <= 0:
        return False
    error = math.sqrt(start.rss / df_resid * float(start.spread.max()))
    return error < _NO_NOISE * largest


def most_probable(
    stats: NormalEquations, fit: Estimate, likely: Callable[[int], float] = lambda _: math.inf
) -> tuple[Estimate, float, int]:
    """Return the kernel without negative taps that a posterior holds for the most probable.

    It minimises ``(k - m)' C^-1 (k - m)`` over ``k >= 0``, m and C being mean and covariance of the posterior. No
    inverse of C is needed: ``k = m + C x`` with ``x >= 0`` and ``x'k = 0``.

    Parameters
    ----------
    stats : NormalStats
        The statistics.
    fit : KernelFit
        The posterior.
    likely : callable, optional
        The distance from which on that kernel is not wanted, given how many taps are held at zero, and not less for
        more of them.

    Returns
    -------
    fit : KernelFit
        With that kernel; the covariance stays C. The posterior's mean if it is not wanted.
    distance : float
        ``(k - m)' C^-1 (k - m)``; about `held` or less if the kernel has no negative taps.
    held : int
        Number of independent taps that are held at zero.
    """
    factor, mean = fit._covariance_factor(), fit.kernel.ravel()
    if mean.min() >= 0:
        return fit, 0.0, 0
    size = math.ldexp(1.0, math.frexp(float(np.abs(factor).max()))[1])  # whose square may be beyond all numbers
    factor, mean = factor / size, mean / size
    # one of each set of taps that are equal by symmetry stands for all
    grids = [Grid(shape, prior.symmetric) for shape, prior in zip(stats.supports, fit.priors, strict=True)]
    starts = np.cumsum([0] + [math.prod(grid.shape) for grid in grids])
    one = np.concatenate([start + grid.images[0] for start, grid in zip(starts, grids, strict=False)])
    x = _multipliers(factor[one], mean[one], likely(len(one)))
    if x is None:  # the kernel is far from having no negative taps
        return fit, math.inf, 0
    step = factor[one].T @ x
    settled, held = factor[:, : factor.shape[1] - fit.unsettled], one[x > 0]
    # of constraints that say the same but for rounding, as those of a smooth prior, only one counts
    rows = settled[held] / np.linalg.norm(factor[held], axis=1, keepdims=True)
    across, triangle, _ = scipy.linalg.qr(rows.T, mode="economic", pivoting=True)
    count = int(np.count_nonzero(np.abs(triangle.diagonal()) > _DEPENDENT))
    across, distance = across[:, :count], float(step @ step)
    if distance >= likely(count):
        return fit, distance, count
    taps = np.maximum(mean + factor @ step, 0.0) * size
    taps[all_taps(grids, x) > 0] = 0.0
    _, rss = residual_at(stats, taps)
    free = settled - product(product(settled, across), across.T)  # of the covariance given that those taps are zero
    df_model = float(np.einsum("ij,ij->", free, product(stats.gram, free))) / (fit.noise_std / size) ** 2
    changed = dataclasses.replace(
        fit, kernel=taps.reshape(fit.kernel.shape), rss=rss, df_model=df_model, solver=f"{fit.solver}, no negative taps"
    )
    return changed, distance, count


def _is_beyond(metric: Array, mean: Array, most: float) -> bool:
    """Whether the distance of `most_probable` is more than `most`, as far as some steps towards it tell."""
    # Any x >= 0 bounds it from below, by (x'm)^2 / x'Cx. Accelerated projected gradients (Beck and Teboulle 2009, with
    # the restarts of O'Donoghue and Candes 2015) reach a tenth of what is left in some dozens of products.
    if not (math.isfinite(most) and np.any(mean < 0)):
        return False
    largest = mean
    for _ in range(_POWER):
        largest = times(metric, largest / np.linalg.norm(largest))
    step, pace, before = 1 / (1.1 * np.linalg.norm(largest)), 1.0, 0.0
    x = ahead = np.zeros(len(mean))
    for i in range(1, _STEPS + 1):
        new = np.maximum(ahead - step * (mean + times(metric, ahead)), 0.0)
        if (new - x) @ (ahead - new) > 0:
            ahead, pace = new, 1.0
        else:
            faster = (1 + math.sqrt(1 + 4 * pace**2)) / 2
            ahead, pace = new + (pace - 1) / faster * (new - x), faster
        x = new
        if i % _LOOK == 0:
            length = float(x @ times(metric, x))
            bound = float(x @ mean) ** 2 / length if length > 0 else 0.0
            if bound > most:
                return True
            if bound - before < (most - bound) / (_STEPS // _LOOK):  # there is no getting there
                return False
            before = bound
    return False


def _multipliers(factor: Array, mean: Array, most: float) -> Array | None:
    """Return x of `most_probable`, of one tap of each set; None where the distance is more than `most`."""
    # Block principal pivoting, in units of the standard errors, of which a trace is added: a smooth prior leaves the
    # covariance without full rank. Where a prior has faded taps are zero to rounding.
    covariance, found = product(factor, factor.T), np.zeros(len(mean))
    least = _NO_NOISE * float(np.abs(mean).max())
    some = np.flatnonzero((covariance.diagonal() > least**2) | (mean < -least))
    scale = np.sqrt(np.maximum(covariance.diagonal()[some], np.finfo(np.float64).tiny))
    metric = covariance[np.ix_(some, some)] / np.multiply.outer(scale, scale)
    metric[np.diag_indices_from(metric)] += _TRACE
    mean = mean[some] / scale
    if _is_beyond(metric, mean, most):
        return None
    x, held, fewest, patience = np.zeros(len(mean)), mean < 0, len(mean) + 1, 3
    while patience:
        at = np.flatnonzero(held)
        lower, info = scipy.linalg.lapack.dpotrf(metric[np.ix_(at, at)], lower=1, overwrite_a=1)
        if info != 0:
            break
        x[:] = 0.0
        x[at] = scipy.linalg.lapack.dpotrs(lower, -mean[at], lower=1)[0]
        taps = mean + times(metric, x)
        wrong = np.where(held, x < 0, taps < -1e-9 * np.abs(mean).max())
        if not wrong.any():
            found[some] = x / scale
            return found
        patience = 3 if wrong.sum() < fewest else patience - 1
        fewest = min(fewest, int(wrong.sum()))
        held = held ^ wrong
    # It goes round in circles. With ``m = F z`` it is the non-negative least-squares problem ``|F'x + z|^2``.
    rows = factor[some]
    try:
        found[some], _ = scipy.optimize.nnls(rows.T, -scipy.linalg.lstsq(rows, mean * scale, cond=1e-12)[0])
    except RuntimeError:  # too many iterations
        return None
    return found
