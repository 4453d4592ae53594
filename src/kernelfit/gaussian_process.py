"""A Gaussian-process prior on the kernel whose hyperparameters and family the data choose."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize

from . import result
from .evidence import (
    ENVELOPES,
    FAMILIES,
    SYMMETRIES,
    Grid,
    Kind,
    Projection,
    blocks_of,
    covariance_of,
    evidence,
    images_of,
    root_of,
    spectral_evidence,
)
from .result import KernelFit, Prior
from .solve import LeastSquares, Minimum, judge, least_squares, residual_at
from .statistics import NormalStats

Array = npt.NDArray[np.float64]


#: Above this many taps hyperparameters are sought on few combinations of the data, ...
_DIRECT = 144
#: ... so many of them, then settled on all, or, above _LARGE taps, on these.
_COMBINATIONS = (80, 200)
_LARGE = 500
#: Steps of a descent from a start, to another kind of prior, and to settle.
_STEPS = (40, 20, 6)
#: A kind of prior is given up where twice its log evidence lies so far below the best before or after its descent.
_FAR, _HOPELESS = 60.0, 12.0
#: A change of twice the log evidence that matters no more.
_ENOUGH = 0.03
#: Smallest standard error, relative to the largest tap, at which a prior can matter beside rounding.
_NO_NOISE = 1e-9


@dataclass(frozen=True)
class GaussianProcess:
    """The posterior mean under a Gaussian-process prior that maximises the evidence.

    The taps k[p] of a term are normal with mean zero and ::

        cov(k[p], k[q]) = a^2 e(p) e(q) rho(|p - q| / l),    e(p) = exp(-|p - c|^2 / (2 r^2))

    where the envelope e says where in the support the kernel lives, and the correlation rho how smooth it is:
    ``exp(-t^2 / 2)`` ("squared-exponential"), ``(1 + u + u^2 / 3) exp(-u)`` with ``u = sqrt(5) t`` ("matern52"),
    ``(1 + u) exp(-u)`` with ``u = sqrt(3) t`` ("matern32") or ``exp(-t)`` ("exponential"). The amplitude a (in units of
    the kernel), the length l, the radius r and the centre c (pixels; each term has its own) and the noise s maximise ::

        log p(y) = -n/2 log(2 pi s^2) - (rss + q) / (2 s^2) - log det(I + W'PW / s^2) / 2

    with P the prior covariance, ``G = WW'`` the Gram matrix, rss the least residual and
    ``q = min over k of (k - k0)'G(k - k0) + s^2 k'P^-1 k``, where k0 is the least-squares kernel. No inverse of G is
    needed, so that it stays finite where the image does not determine every tap. There is nothing to set. The
    covariance is that of
    the posterior, ``(P^-1 + G / s^2)^-1``, at the hyperparameters found.

    Above 144 taps the search runs on 112 combinations of the moments that hold most of the image's energy (a likelihood
    of part of the data); families that come near are improved on all of them (above 500 taps only the best, on 224)
    and compared on all.

    Parameters
    ----------
    family : {"auto", "squared-exponential", "matern52", "matern32", "exponential"}, optional
        The correlation; "auto" (the default) takes the one with the largest evidence.

    Raises
    ------
    ValueError
        If the family is unknown.

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
    (2006), sections 4.2 and 5.4.1.

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

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.family not in ("auto", *FAMILIES):
            msg = f"got family={self.family!r}, need 'auto' or one of {', '.join(FAMILIES)}"
            raise ValueError(msg)
        if self.envelope not in ("auto", *ENVELOPES):
            msg = f"got envelope={self.envelope!r}, need 'auto' or one of {', '.join(ENVELOPES)}"
            raise ValueError(msg)
        if self.symmetric not in ("auto", None, *SYMMETRIES):
            msg = f"got symmetric={self.symmetric!r}, need 'auto', None or one of {', '.join(SYMMETRIES)}"
            raise ValueError(msg)

    def __str__(self) -> str:
        """Say the settings in one line."""
        return f"GaussianProcess({self.family})"

    def solve(self, stats: NormalStats) -> KernelFit:
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
        start = least_squares(stats)
        if _beyond_a_prior(stats, start):
            fit = LeastSquares().solve(stats)
            reason = "least squares, the noise being too small for a prior to matter"
            return _replace(fit, solver=f"{self}: {reason}")
        grids = [Grid(shape) for shape in stats.terms]
        whole = few = Projection.whole(stats, start)
        if stats.n_taps > _DIRECT:
            few = Projection.part(stats, start, _COMBINATIONS[0])
        found = self._search(few, grids)
        if stats.n_taps > _DIRECT:
            more = Projection.part(stats, start, _COMBINATIONS[1]) if stats.n_taps > _LARGE else whole
            least = min(value for value, _ in found.values())
            near = {kind: theta for kind, (value, theta) in found.items() if value < least + _HOPELESS}
            found = {kind: _descend(more, grids, kind, theta, steps=_STEPS[2]) for kind, theta in near.items()}
        best = min(found, key=lambda kind: found[kind][0])
        relative = {kind: 0.5 * (found[best][0] - value) for kind, (value, _) in found.items()}
        return self._posterior(stats, start, few, grids, best, found[best][1], relative)

    def _search(self, data: Projection, grids: list[Grid]) -> dict[Kind, tuple[float, Array]]:
        """Return the (value, hyperparameters) of the kinds of prior that were tried, each from where the last ended.

        Correlations come from the smoothest to the roughest, as long as that does not do harm; then the other
        envelope for the best of them; then symmetries of the best, each of which contains those before.
        """
        families = FAMILIES if self.family == "auto" else (self.family,)
        envelope = "gaussian" if self.envelope == "auto" else self.envelope
        found: dict[Kind, tuple[float, Array]] = {}

        def best() -> Kind:
            return min(found, key=lambda kind: found[kind][0])

        def attempt(kind: Kind, theta: Array) -> bool:
            """Descend from a start, and say whether the kind is the best so far."""
            least = found[best()][0]
            at_first = data.under(kind.symmetric, grids)
            if evidence_of(at_first)(at_first, grids, kind, theta)[0] > least + _FAR:
                return False
            found[kind] = _descend(data, grids, kind, theta, steps=_STEPS[1])
            return found[kind][0] < least

        first = Kind(families[0], envelope)
        begin = min((_descend(data, grids, first, theta, steps=8) for theta in _starts(data, grids, first)), key=_value)
        found[first] = _descend(data, grids, first, begin[1], steps=_STEPS[0])
        for before, family in itertools.pairwise(families):
            theta = found[Kind(before, envelope)][1].copy()
            theta[1::5] += math.log(1.3)  # a rougher family is as smooth at a longer length
            kind = Kind(family, envelope)
            found[kind] = _descend(data, grids, kind, theta, steps=_STEPS[1])
            if found[kind][0] > found[best()][0] + _HOPELESS:
                break
        if self.envelope == "auto":
            theta = found[best()][1].copy()
            theta[2::5] -= 0.2
            kind = best()._replace(envelope="power")
            if attempt(kind, theta):
                for family in families:
                    if abs(families.index(family) - families.index(kind.family)) == 1:
                        attempt(kind._replace(family=family), found[kind][1])
        middle = np.concatenate([[0.5 * (n - 1) for n in grid.shape] for grid in grids])
        groups = SYMMETRIES if self.symmetric == "auto" else () if self.symmetric is None else (self.symmetric,)
        for symmetric in groups:
            if symmetric == "square" and any(grid.shape[0] != grid.shape[1] for grid in grids):
                break
            theta = found[best()][1].copy()
            theta[3::5], theta[4::5] = middle[::2], middle[1::2]
            kind = best()._replace(symmetric=symmetric)
            if self.symmetric != "auto":
                return {kind: _descend(data, grids, kind, theta, steps=_STEPS[1])}
            if not attempt(kind, theta):
                break
        return found

    def _posterior(
        self,
        stats: NormalStats,
        start: Minimum,
        few: Projection,
        grids: list[Grid],
        kind: Kind,
        theta: Array,
        relative: dict[Kind, float],
    ) -> KernelFit:
        prior = covariance_of(grids, kind, theta)
        root = root_of(prior)
        inner = root.T @ (stats.gram @ root)
        inner[np.diag_indices_from(inner)] += 1.0
        lower = scipy.linalg.cholesky(inner, lower=True)
        factor = scipy.linalg.solve_triangular(lower, root.T, lower=True).T  # F F' = (P^-1 + G)^-1, in units of s^2
        # from the center, then one step of refinement; x are the coordinates k = U x
        moment = stats.around()[1] + stats.gram @ stats.around()[0]
        x = scipy.linalg.cho_solve((lower, True), root.T @ moment)
        for _ in range(2):
            rest, rss = residual_at(stats, root @ x)
            x = x + scipy.linalg.cho_solve((lower, True), root.T @ rest - x)
        taps = root @ x
        rest, rss = residual_at(stats, taps)
        noise_std = math.sqrt((rss + float(x @ x)) / stats.n_pixels)
        freedom = float(root.shape[1] - np.sum(scipy.linalg.lapack.dtrtri(lower, lower=1)[0] ** 2))
        n = stats.n_pixels
        value = n * math.log(rss + float(x @ x)) + 2 * float(np.log(np.diag(lower)).sum())
        log_evidence = -0.5 * (value + n * (1 + math.log(2 * math.pi) - math.log(n)))
        factor = np.hstack([factor, _unsettled(stats, few, grids, kind, theta, factor, rest / noise_std**2)])
        factor = factor * noise_std
        findings = judge(stats, taps, factor, start.rank, start.condition, rss, prior=True)
        evidences = {str(other): log_evidence + difference for other, difference in relative.items()}
        chosen = f"{self}: {kind} by evidence" if "auto" in (self.family, self.envelope, self.symmetric) else str(self)
        return result.assemble(
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
            freedom=freedom,
            priors=tuple(
                Prior(
                    kind.family,
                    noise_std * math.exp(t[0]),
                    math.exp(t[1]),
                    math.exp(t[2]),
                    (float(t[3]), float(t[4])),
                    kind.envelope,
                    kind.symmetric,
                )
                for t in theta.reshape(-1, 5)
            ),
            log_evidence=log_evidence,
            alternatives=evidences if len(evidences) > 1 else {},
        )


def _value(found: tuple[float, Array]) -> float:
    return found[0]


def _unsettled(
    stats: NormalStats,
    few: Projection,
    grids: list[Grid],
    kind: Kind,
    theta: Array,
    factor: Array,
    pull: Array,
) -> Array:
    """Return a factor of what the uncertainty of the hyperparameters adds to the covariance, in units of s^2.

    Laplace's approximation: they are normal about their best values, with the inverse of half the value's second
    derivatives for their covariance (differences of the gradient, on few combinations of the data), and move the
    kernel by ``(I - C G) dP P^-1 k``, where ``P^-1 k`` is `pull`. None is taken to be less certain than by 1.
    """
    data = few.under(kind.symmetric, grids)
    step = 0.05
    free = [at for at in range(len(theta)) if kind.symmetric is None or at % 5 < 3]
    here = evidence_of(data)(data, grids, kind, theta, slope=True)[1]
    there = [evidence_of(data)(data, grids, kind, theta + step * np.eye(len(theta))[at], slope=True)[1] for at in free]
    curvature = (np.array(there) - here)[:, free] / (2 * step)
    moves = np.zeros((stats.n_taps, len(theta)))
    for at, (grid, b) in enumerate(zip(grids, blocks_of(grids, kind, theta), strict=True)):
        own = pull[b.where]
        own = np.sum([own[g] for g in images_of(grid.shape, kind.symmetric)], axis=0)
        own_moves = [2 * (b.covariance @ own), b.slope @ own]
        for by in (b.by_radius, *b.by_center):
            own_moves.append(by * (b.covariance @ own) + b.covariance @ (by * own))
        moves[b.where, 5 * at : 5 * at + 5] = np.array(own_moves).T
    moves = moves[:, free]
    moves = moves - factor @ (factor.T @ (stats.gram @ moves))
    values, vectors = scipy.linalg.eigh(0.5 * (curvature + curvature.T))
    return np.asarray(moves @ (vectors / np.sqrt(np.maximum(values, 1.0))))


def _replace(fit: KernelFit, **changes: object) -> KernelFit:
    import dataclasses

    return dataclasses.replace(fit, **changes)  # type: ignore[arg-type]


def _beyond_a_prior(stats: NormalStats, start: Minimum) -> bool:
    """Whether there is no noise, or no signal, that a prior could be weighed against."""
    largest = float(np.abs(start.taps).max(initial=0.0))
    spare = stats.n_pixels - start.rank
    if start.rank == 0 or largest == 0.0:
        return True
    if not start.full or spare <= 0:
        return False
    error = math.sqrt(start.rss / spare * float(np.einsum("ij,ij->i", start.inverse, start.inverse).max()))
    return error < _NO_NOISE * largest


# ---- the search -----------------------------------------------------------------------------------------------------


def _bounds(data: Projection, grids: list[Grid]) -> list[tuple[float, float]]:
    """Return how far the search may go: beyond, nothing changes any more, or rounding takes over."""
    brightest = float(np.einsum("ij,ij->i", data.weights, data.weights).max())
    found = []
    for grid in grids:
        side = float(max(grid.shape))
        found += [
            (0.5 * math.log(1e-6 / brightest), 0.5 * math.log(1e13 / brightest)),
            (math.log(0.25), math.log(8 * side)),
            (math.log(0.4), math.log(8 * side)),
            (-0.25 * grid.shape[0], 1.25 * grid.shape[0] - 1),
            (-0.25 * grid.shape[1], 1.25 * grid.shape[1] - 1),
        ]
    return found


def _starts(data: Projection, grids: list[Grid], kind: Kind) -> list[Array]:
    """Return where to begin: a kernel in the middle of its support, narrow or wide, each with its best amplitude."""
    bounds = _bounds(data, grids)
    found: list[Array] = []
    for length, share in ((2.0, 0.2), (1.2, 0.6)):
        rows = []
        for grid in grids:
            side = math.sqrt(grid.shape[0] * grid.shape[1])
            middle = [0.5 * (n - 1) for n in grid.shape]
            rows.append([0.0, math.log(length), math.log(max(0.5, share * side)), *middle])
        theta = np.array(rows)
        unit = data.weights.T @ covariance_of(grids, kind, theta.ravel()) @ data.weights
        values, vectors = scipy.linalg.eigh(unit, driver="evd")
        z = (vectors.T @ data.data) ** 2
        log_a = np.linspace(*bounds[0], 120)
        s = 1 + np.exp(2 * log_a)[:, None] * np.maximum(values, 0.0)
        score = data.n * np.log(data.rss + (z / s).sum(axis=1)) + np.log(s).sum(axis=1)
        theta[:, 0] = log_a[int(np.argmin(score))]
        found.append(theta.ravel())
    return found


def evidence_of(data: Projection) -> Callable[..., tuple[float, Array]]:
    """Return the quicker way to the evidence."""
    return spectral_evidence if len(data.weights) > max(_LARGE, 1.5 * data.weights.shape[1]) else evidence


def _descend(data: Projection, grids: list[Grid], kind: Kind, theta: Array, steps: int) -> tuple[float, Array]:
    """Return the least value near a start, and where it is."""
    data = data.under(kind.symmetric, grids)
    compute = evidence_of(data)
    bounds = _bounds(data, grids)
    if kind.symmetric is not None:
        bounds = [(theta[at],) * 2 if at % 5 > 2 else bound for at, bound in enumerate(bounds)]

    def both(at: Array) -> tuple[float, Array]:
        return compute(data, grids, kind, at, slope=True)

    found = scipy.optimize.minimize(
        both,
        theta,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxfun": steps, "ftol": _ENOUGH / data.scale, "gtol": _ENOUGH},
    )
    return float(found.fun), np.asarray(found.x)
