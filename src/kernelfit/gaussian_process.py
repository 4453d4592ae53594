"""A Gaussian-process prior on the kernel whose hyperparameters and family the data choose."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize

from . import result
from .evidence import FAMILIES, Grid, Projection, covariance_of, evidence, root_of, spectral_evidence
from .result import KernelFit, Prior
from .solve import LeastSquares, Minimum, judge, least_squares, residual_at
from .statistics import NormalStats

Array = npt.NDArray[np.float64]


#: Above this many taps hyperparameters are sought on few combinations of the data, ...
_DIRECT = 144
#: ... so many of them, then settled on all, or, above _LARGE taps for the best family only, on these, ...
_COMBINATIONS = (112, 224)
_LARGE = 500
#: ... in so many steps, for the families whose value on the few lies this near to the best.
_SETTLING = 10
_HOPELESS = 40.0
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

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.family not in ("auto", *FAMILIES):
            msg = f"got family={self.family!r}, need 'auto' or one of {', '.join(FAMILIES)}"
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
        data = Projection.whole(stats, start)
        grids = [Grid(shape) for shape in stats.terms]
        names = FAMILIES if self.family == "auto" else (self.family,)
        if stats.n_taps <= _DIRECT:
            found = _search(data, grids, names)
        else:
            few = Projection.part(stats, start, _COMBINATIONS[0])
            found = _search(few, grids, names)
            least = min(value for value, _ in found.values())
            found = {name: pair for name, pair in found.items() if pair[0] < least + _HOPELESS}
            if stats.n_taps <= _LARGE:
                for name, (_, theta) in found.items():
                    found[name] = _descend(data, grids, name, theta, steps=_SETTLING)
            else:
                found = {name: (evidence(data, grids, name, at)[0], at) for name, (_, at) in found.items()}
                best = min(found, key=lambda name: found[name][0])
                more = Projection.part(stats, start, _COMBINATIONS[1])
                theta = _descend(more, grids, best, found[best][1], steps=_SETTLING // 2)[1]
                value = evidence(data, grids, best, theta)[0]
                if value < found[best][0]:
                    found[best] = value, theta
        best = min(found, key=lambda name: found[name][0])
        theta, values = found[best][1], {name: value for name, (value, _) in found.items()}
        return self._posterior(stats, start, data, grids, best, theta, values)

    def _posterior(
        self,
        stats: NormalStats,
        start: Minimum,
        data: Projection,
        grids: list[Grid],
        family: str,
        theta: Array,
        values: dict[str, float],
    ) -> KernelFit:
        prior = covariance_of(grids, family, theta)
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
        factor = factor * noise_std
        findings = judge(stats, taps, factor, start.rank, start.condition, rss, prior=True)
        evidences = {name: data.log_evidence(value) for name, value in values.items()}
        chosen = f"{self}: {family} by evidence" if self.family == "auto" else str(self)
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
                Prior(family, noise_std * math.exp(t[0]), math.exp(t[1]), math.exp(t[2]), (float(t[3]), float(t[4])))
                for t in theta.reshape(-1, 5)
            ),
            log_evidence=evidences[family],
            alternatives=evidences if len(evidences) > 1 else {},
        )


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


def _starts(data: Projection, grids: list[Grid], family: str) -> list[Array]:
    """Return where to begin: a kernel in the middle of its support, narrow or wide, each with its best amplitude."""
    bounds = _bounds(data, grids)
    found = []
    for length, share in ((2.0, 0.2), (1.2, 0.6)):
        rows = []
        for grid in grids:
            side = math.sqrt(grid.shape[0] * grid.shape[1])
            middle = [0.5 * (n - 1) for n in grid.shape]
            rows.append([0.0, math.log(length), math.log(max(0.5, share * side)), *middle])
        theta = np.array(rows)
        unit = data.weights.T @ covariance_of(grids, family, theta.ravel()) @ data.weights
        values, vectors = scipy.linalg.eigh(unit, driver="evd")
        z = (vectors.T @ data.data) ** 2
        log_a = np.linspace(*bounds[0], 120)
        s = 1 + np.exp(2 * log_a)[:, None] * np.maximum(values, 0.0)
        score = data.n * np.log(data.rss + (z / s).sum(axis=1)) + np.log(s).sum(axis=1)
        theta[:, 0] = log_a[int(np.argmin(score))]
        found.append(theta.ravel())
    return found


def _descend(data: Projection, grids: list[Grid], family: str, theta: Array, steps: int = 60) -> tuple[float, Array]:
    """Return the least value near a start, and where it is."""
    spectral = len(data.weights) > max(_LARGE, 1.5 * data.weights.shape[1])
    compute = spectral_evidence if spectral else evidence

    def both(at: Array) -> tuple[float, Array]:
        return compute(data, grids, family, at, slope=True)

    found = scipy.optimize.minimize(
        both,
        theta,
        jac=True,
        method="L-BFGS-B",
        bounds=_bounds(data, grids),
        options={"maxfun": steps, "ftol": _ENOUGH / data.scale, "gtol": _ENOUGH},
    )
    return float(found.fun), np.asarray(found.x)


def _search(data: Projection, grids: list[Grid], names: tuple[str, ...]) -> dict[str, tuple[float, Array]]:
    """Return the best (value, hyperparameters) of each family; each but the first starts where the one before ended."""
    found: dict[str, tuple[float, Array]] = {}
    begin = _starts(data, grids, names[0])
    for name in names:
        if len(begin) > 1:  # a few steps tell which start is the better one
            begin = [min((_descend(data, grids, name, theta, steps=8) for theta in begin), key=lambda p: p[0])[1]]
        found[name] = _descend(data, grids, name, begin[0])
        theta = found[name][1].copy()
        theta[1::5] += math.log(1.3)  # a rougher family is as smooth at a longer length
        begin = [theta]
    return found
