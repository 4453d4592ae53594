"""Statistics to a kernel: no pixel is seen here."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import scipy.linalg
import scipy.special

from ..core import estimate
from ..core.estimate import Estimate, StrengthPath
from ..core.findings import Finding, Verdict
from ..core.geometry import Shape
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from .cholesky import FAR, Inverse, exponent, factorise, product, times

Solve = Callable[[Any, NormalEquations], Estimate]
EPS = float(np.finfo(np.float64).eps)
#: From this condition number on a solution is called ill-conditioned, even if it has full rank.
ILL_CONDITIONED = 1e13
#: Spare pixels for each tap below which a fit has hardly any redundancy.
_SPARE = 0.25
#: A mean square below which products of pixels lose digits, being denormal.
LEAST_SQUARE = 2.0**-1010
#: With fewer pixels for each unknown than this a fit has to be better than chance makes it, ...
_AMPLE = 6
#: ... which is taken for as good with this probability.
_BY_CHANCE = 2e-3
#: Where equations about their minimum keep it.
_MINIMUM = "_minimum"


class Solver(Protocol):
    """What makes a kernel of what it `needs`, "normal equations", "operator" or "spectra": frozen settings."""

    needs: ClassVar[str]

    def solve(self, stats: NormalEquations) -> Estimate:
        """Return the kernel that `stats` (a `NormalStats`, or `SpectralStats`) determine."""


def require_equations(stats: object) -> None:
    """Refuse what are no normal equations."""
    if not isinstance(stats, NormalEquations):
        raise TypeError(f"got stats={stats!r:.60}, need NormalStats, what accumulate returns")


def rescaled(solve: Solve, far: int = FAR) -> Solve:
    """Make a solver see equations of images of about size 1, by powers of two: the same bits at any scale."""

    @functools.wraps(solve)
    def wrapper(self: Any, stats: NormalEquations) -> Estimate:
        require_equations(stats)
        image = exponent(float(stats.gram.diagonal().max(initial=0.0)), far) // 2
        target = exponent(stats.target_energy, far) // 2
        if image == target == 0:
            return solve(self, stats)
        powers = {"gram": 2 * image, "moment": image + target, "target_energy": 2 * target, "target_sum": target}
        if stats.center is not None:
            powers |= {"center": target - image, "center_moment": image + target, "center_energy": 2 * target}
        even = dataclasses.replace(stats, **{name: _times_two(getattr(stats, name), -n) for name, n in powers.items()})
        if (known := stats.__dict__.get(_MINIMUM)) is not None:
            units = {
                "taps": target - image,
                "inverse": -image,
                "spread": -2 * image,
                "noise_std": target,
                "rss": 2 * target,
            }
            minimum: dict[str, Any] = {name: _times_two(getattr(known, name), -n) for name, n in units.items()}
            even.__dict__[_MINIMUM] = dataclasses.replace(known, **minimum)
        given = {"total": image - target, "noise_std": -target}  # settings that have a unit
        settings = {name: _times_two(value, n) for name, n in given.items() if (value := getattr(self, name, None))}
        fit = solve(dataclasses.replace(self, **settings) if settings else self, even)
        tap = target - image
        back = {"kernel": tap, "root_scale": tap, "noise_std": target, "rss": 2 * target}
        changed: dict[str, Any] = {name: _times_two(getattr(fit, name), n) for name, n in back.items()}
        if fit.path is not None:
            changed["path"] = dataclasses.replace(fit.path, rss=_times_two(fit.path.rss, 2 * target))
        changed["priors"] = tuple(dataclasses.replace(p, amplitude=_times_two(p.amplitude, tap)) for p in fit.priors)
        unit = stats.n_pixels * target * math.log(2.0)  # of a density of the target's pixels
        changed["log_evidence"] = fit.log_evidence - unit
        changed["alternatives"] = {name: value - unit for name, value in fit.alternatives.items()}
        changed["findings"] = tuple(no_signal(stats) if f.verdict is Verdict.NO_SIGNAL else f for f in fit.findings)
        return dataclasses.replace(fit, **changed)

    return wrapper


def _times_two(value: Any, power: int) -> Any:
    """Return a number or an array times a power of two."""
    if isinstance(value, (list, tuple)):
        return tuple(None if one is None else _times_two(one, power) for one in value)
    if isinstance(value, complex):
        return complex(_times_two(value.real, power), _times_two(value.imag, power))
    found = np.ldexp(value, power)
    return float(found) if np.ndim(value) == 0 else found


@dataclass(frozen=True)
class LeastSquares:
    """Ordinary least squares: the kernel with the smallest residual, without any bias.

    ``G k = b`` is solved by Cholesky's factorisation where the reciprocal condition number of G is above 1e-12, else by
    the symmetric eigendecomposition, where eigenvalues below ``max(taps, 16) * eps`` times the largest count as zero
    and the solution of smallest norm is returned. The covariance is ``s^2 G^-1`` with ``s^2 = rss / (n - rank)``.
    """

    #: What it is given.
    needs: ClassVar[str] = "normal equations"

    @rescaled
    def solve(self, stats: NormalEquations) -> Estimate:
        """Return the kernel of least squares, with verdicts where the statistics leave something open."""
        return estimate_of(stats, least_squares(stats))


@dataclass(frozen=True, eq=False)
class LeastSquaresSolution:
    """The minimum of ``|y - A k|^2``: what every other solver starts from."""

    taps: Array  # (taps,); the kernel; of several the smallest
    inverse: Array  # (taps, rank); a factor F of the (pseudo-)inverse of G, ``F F'``
    spread: Array  # (taps,); the diagonal of ``F F'``
    rank: int
    condition: float
    rss: float
    noise_std: float  # ``sqrt(rss / (n - rank))``, NaN if there are no more pixels than taps

    @property
    def full(self) -> bool:
        """Whether every tap is determined."""
        return self.rank == len(self.taps)

    @property
    def stderr(self) -> Array:
        """Standard error of each tap."""
        return np.asarray(self.noise_std * np.sqrt(self.spread))


def steps_of(stats: Sequence[NormalEquations], found: Inverse) -> list[tuple[Array, Array]]:
    """Return the step to the minimum of each of many targets that share a Gram matrix G, and G times it."""
    moments = np.stack([one.around()[1] for one in stats], axis=1)
    steps = product(found.factor, product(found.factor.T, moments))
    changes = product(stats[0].gram, steps)
    return list(zip(steps.T, changes.T, strict=True))


def least_squares(
    stats: NormalEquations, factorisation: Inverse | None = None, known: tuple[Array, Array] | None = None
) -> LeastSquaresSolution:
    """Minimise ``|y - A k|^2``; the factorisation is made by LAPACK unless it is given, as may be its `steps_of`."""
    center, moment, energy = stats.around()
    found = factorise(stats.gram) if factorisation is None else factorisation
    inverse, rank = found.factor, found.factor.shape[1]
    if rank < stats.n_taps:  # the solution of smallest norm holds nothing of what is not determined
        basis = inverse / np.sqrt(np.einsum("ij,ij->j", inverse, inverse))  # eigenvectors, times numbers
        shift = basis @ (basis.T @ center) - center
        moment = moment - stats.gram @ shift
        center = center + shift
    if known is not None:
        step, change = known
    elif found.upper:
        from ..compiled import dense

        step, change = np.empty_like(center), np.empty_like(center)
        dense.step_to_minimum(np.ascontiguousarray(stats.gram), inverse, np.ascontiguousarray(moment), step, change)
    else:
        step = times(inverse, times(inverse.T, moment))
        change = times(stats.gram, step)
    rss = energy - float((step * (2 * moment - change)).sum())
    rss = max(rss, EPS**2 * stats.target_energy)  # no fit is known to be better than the target's own rounding
    df_resid = stats.n_pixels - rank
    noise_std = math.sqrt(rss / df_resid) if df_resid > 0 else math.nan
    return LeastSquaresSolution(center + step, inverse, found.spread, rank, found.condition, rss, noise_std)


def estimate_of(stats: NormalEquations, found: LeastSquaresSolution) -> Estimate:
    """Put the minimum together as a result, and judge it; the factor stays where it is, for others to share."""
    findings = judge(stats, found.taps, found.stderr[:, None], found.rank, found.condition, found.rss)
    figures = {"condition": found.condition, "rss": found.rss, "noise_std": found.noise_std}
    scale = found.noise_std
    return estimate.assemble(
        stats, found.taps, found.inverse, rank=found.rank, findings=findings, root_scale=scale, **figures
    )


def finish(
    stats: NormalEquations,
    taps: Array,
    inverse: Array,
    text: str,
    *,
    least: LeastSquaresSolution,
    n_free: int = 0,
    form: bool = False,
    prior: bool = True,
    strength: float = math.nan,
    df_model: float | None = None,
    path: StrengthPath | None = None,
    findings: Sequence[Finding] = (),
    held: Array | None = None,
) -> Estimate:
    """Assemble a result from a kernel and a factor of the inverse that its covariance is s^2 times."""
    # The degrees of freedom are `n_free` unless `df_model` says otherwise. Whether the data prove anything the `least`
    # squares of all taps tell; or, where the kernels are held to a linear `form`, these are the least squares. What
    # taps that are `held` at zero leave open (see `let_in`) is in the covariance, and no cause for doubt.
    _, rss = residual_at(stats, taps)
    df = float(n_free) if df_model is None else df_model
    df_resid = stats.n_pixels - df
    noise_std = math.sqrt(rss / df_resid) if df_resid > EPS * stats.n_pixels else math.nan
    factor = inverse * noise_std
    known = least.rank, least.condition
    fitted = (n_free, rss) if form else (least.rank, least.rss)
    found = judge(stats, taps, factor, *known, rss, prior=prior, least=fitted)
    return estimate.assemble(
        stats,
        taps,
        factor if held is None else np.hstack([factor, held * noise_std]),
        rank=least.rank,
        condition=least.condition,
        rss=rss,
        noise_std=noise_std,
        findings=(*findings, *found),
        solver=text,
        uncertainty="sampling" if math.isnan(strength) else "posterior",
        unsettled=0 if held is None else held.shape[1],
        df_model=df,
        strength=strength,
        path=path,
    )


def let_in(gram: Array, inverse: Array, moves: Array) -> Array:
    """Return by what the kernel moves if each of some moves is let in alone: one standard error of it, for s = 1.

    `moves`: columns, such as a tap that is held at zero. `inverse`: a factor of the inverse for the taps that are free,
    which follow; nothing is returned of moves that the image does not tell from them.
    """
    image = gram @ moves
    across = inverse.T @ image
    energy = np.einsum("ij,ij->j", moves, image)
    curvature = energy - np.einsum("ij,ij->j", across, across)
    told = curvature > 16 * len(gram) * EPS * energy
    return np.asarray((moves - inverse @ across)[:, told] / np.sqrt(curvature[told]))


def at_minimum(stats: NormalEquations) -> tuple[LeastSquaresSolution, NormalEquations]:
    """Return the minimum, and the same equations about it, where what a large mean of the image hides cancels."""
    # Those know their minimum, so that solvers that follow each other factorise once.
    known = stats.__dict__.get(_MINIMUM)
    if known is not None:
        return known, stats
    found = least_squares(stats)
    return found, about(stats, found)


def about(stats: NormalEquations, found: LeastSquaresSolution) -> NormalEquations:
    """Return equations about their minimum, which is given."""
    centered = stats.centered(found.taps, np.zeros(stats.n_taps), found.rss)
    centered.__dict__[_MINIMUM] = found  # not a field: equations that are made of these forget it
    return centered


def gram_root(gram: Array, found: LeastSquaresSolution) -> Array:
    """Return W of as many columns as the rank, ``WW' = G``."""
    if found.full:
        lower, info = scipy.linalg.lapack.dpotrf(gram.T, lower=1, clean=1)
        if info == 0:
            return np.asarray(lower)
    values, vectors = scipy.linalg.eigh(gram)
    kept = slice(len(values) - found.rank, None)
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def detail_of(gram: Array, supports: Sequence[Shape]) -> Array:
    """Return the energies of the taps less their mean in each term, which do not depend on the mean of the image."""
    found = np.array(gram.diagonal())
    for where in blocks(supports):
        own = gram[where, where]
        if len(own) > 1:
            least = EPS * float(found[where].max())
            found[where] = np.maximum(found[where] - 2 * own.mean(axis=0) + own.mean(), least)
    return found


def blocks(supports: Sequence[Shape]) -> list[slice]:
    """Return where the taps of each term stand."""
    ends = np.cumsum([0, *(math.prod(sides) for sides in supports)])
    return [slice(int(start), int(stop)) for start, stop in itertools.pairwise(ends)]


def residual_at(stats: NormalEquations, taps: Array) -> tuple[Array, float]:
    """Return ``A'(y - A k)`` and ``|y - A k|^2`` of a kernel k."""
    center, moment, energy = stats.around()
    step = taps - center
    change = times(stats.gram, step)
    return moment - change, max(0.0, energy - float(step @ (2 * moment - change)))


def rounding_matters(
    stats: NormalEquations,
    fit: Estimate | LeastSquaresSolution,
    trace: float | None = None,
    energy: float | None = None,
) -> bool:
    """Say whether a pass over the pixels could improve a fit found from uncentered statistics."""
    # Rounding moves the taps by about ``eps * condition * |k|`` and the rss by about ``eps * y'y``: no pass is needed
    # if the first is far below every tap's error and the second far below the rss. `trace` and `energy` are those
    # before a background was eliminated.
    if not math.isfinite(fit.condition) or not math.isfinite(fit.noise_std):
        return True
    lost = 1.0 if trace is None else trace / max(float(np.trace(stats.gram)), float(np.finfo(np.float64).tiny))
    taps = fit.taps if isinstance(fit, LeastSquaresSolution) else fit.kernel
    size, least = float(np.linalg.norm(taps)), float(fit.stderr.min())
    energy = stats.target_energy if energy is None else energy
    return rounding_limits(fit.rss, energy, fit.condition * lost, size, least)


def rounding_limits(rss: float, energy: float, condition: float, size: float, least: float) -> bool:
    """Say what `rounding_matters` does of a kernel of norm `size` with standard errors of at least `least`."""
    return not (rss > 1e4 * EPS * energy and 10 * EPS * condition * size < 1e-3 * least)


def judge(
    stats: NormalEquations,
    taps: Array,
    factor: Array,
    rank: int,
    condition: float,
    rss: float,
    *,
    prior: bool = False,
    least: tuple[int, float] | None = None,
) -> tuple[Finding, ...]:
    """List what is doubtful about a fit; with a prior or penalty what the image leaves open is not set to zero."""
    # What the data alone decide comes from the equations, whatever the solver makes of them: their `rank`, and whether
    # least squares prove anything, of which `least` is the rank and the residual sum of squares (by default the fit's).
    findings = []
    m = stats.n_taps
    variance = stats.variance
    parts = 2 if stats.convention.numbers == "complex" else 1  # of a complex number, counted as one in words
    if stats.n_pixels > 1 and not stats.varies:
        findings.append(no_signal(stats))
    if rank < m:
        doubt = Verdict.PRIOR_DECIDES if prior else Verdict.RANK_DEFICIENT
        findings.append(Finding(doubt, f"rank {rank // parts} of {m // parts}, because {_cause(stats)}"))
    elif condition > ILL_CONDITIONED and not prior:
        findings.append(Finding(Verdict.ILL_CONDITIONED, f"condition {condition:.1e}"))
    if 0 < float(stats.gram.diagonal().max(initial=0.0)) < stats.n_pixels * LEAST_SQUARE:
        detail = "the squares of the image's pixels are too small for double precision: multiply both images by 2^600"
        findings.append(Finding(Verdict.ILL_CONDITIONED, detail))
    if detail := little_redundancy(stats.n_pixels, *(least or (rank, rss)), variance, parts):
        findings.append(Finding(Verdict.NO_REDUNDANCY, detail))
    if stats.n_pixels > rank or prior:
        norm = scipy.linalg.norm  # safe from overflow, as NumPy's is not
        size, error = (float(norm(part, check_finite=False)) for part in (taps, factor))
        findings += doubts(size, error, rss, variance, stats.target_energy)
    return tuple(findings)


def no_signal(stats: NormalEquations) -> Finding:
    """Say what every target pixel is."""
    return Finding(Verdict.NO_SIGNAL, f"every target pixel is {stats.target_sum / (stats.n_values or 1.0):.6g}")


def little_redundancy(n: int, rank: int, rss: float, variance: float, parts: int = 1) -> str:
    """Say in figures that so few of n pixels are to spare that the fit proves little; "" where that is not so."""
    # Unrelated images fit as well by chance as the tail of F tells for the share of the variance that a kernel
    # explains.
    df_resid, counts = n - rank, f"{n // parts} pixels, rank {rank // parts}"
    if df_resid <= 0:
        return counts
    if df_resid < _SPARE * rank:  # of generic images noise moves the taps by so much more than many pixels would show
        times = 1 / math.sqrt(1 - rank / n)
        return f"{counts}, so that errors are about {times:.2g} times those of many pixels"
    if n >= _AMPLE * rank or not 0 <= rss < variance:
        return ""
    terms = max(1, rank - parts)  # one tells the mean
    chance = float(scipy.special.fdtrc(terms, df_resid, (variance / max(rss, 1e-30 * variance) - 1) * df_resid / terms))
    if chance < _BY_CHANCE:
        return ""
    return (
        f"{counts}: {n / rank:.2f} pixels for each unknown, of unrelated images {chance:.2g} fit as "
        f"well, and the errors themselves are known to {1 / math.sqrt(2 * df_resid):.0%}"
    )


def doubts(size: float, error: float, rss: float, variance: float, energy: float) -> list[Finding]:
    """List what the noise leaves doubtful, given norm and expected error of the taps and the target's squares."""
    findings: list[Finding] = []
    if not variance > 1e-14 * energy:
        return findings
    if error > 0.5 * size:
        detail = f"the expected error of the kernel is {error / size if size else math.inf:.3g} of its norm"
        findings.append(Finding(Verdict.NOISE_DOMINATES, detail))
    if rss > 0.5 * variance:
        worse = ", worse than a constant: something seems to be added to the target (background=0)"
        findings.append(
            Finding(Verdict.POOR_FIT, f"R squared is {1 - rss / variance:.2g}{worse if rss > variance else ''}")
        )
    return findings


def _cause(stats: NormalEquations) -> str:
    """Say in words why the rank is deficient, as far as the Gram matrix tells."""
    diagonal = np.diag(stats.gram)
    scale = float(diagonal.max())
    if scale == 0:
        return "the image is zero everywhere, or so small that its squares are"
    parts = 2 if stats.convention.numbers == "complex" else 1  # whose Gram matrix begins with its real part
    if stats.n_pixels < stats.n_taps:
        return f"{stats.n_pixels // parts} pixels cannot determine {stats.n_taps // parts} taps"
    if len(stats.supports) != parts:
        return "the source images depend on each other linearly"
    if len(stats.supports[0]) == 3:
        return "the volume does not vary enough, or repeats itself, within a kernel of this shape"
    rows, cols = stats.supports[0]
    gram = stats.gram[: rows * cols, : rows * cols].reshape(rows, cols, rows, cols)
    own = diagonal[: rows * cols].reshape(rows, cols)
    periods = []
    for i in range(rows):
        for j in range(-(cols - 1) if i else 1, cols):
            y, x = np.mgrid[: rows - i, max(0, -j) : cols - max(0, j)]
            # sum of squares of the difference between the image and the image moved by (i, j)
            difference = own[y, x] + own[y + i, x + j] - 2 * gram[y, x, y + i, x + j]
            if difference.max() <= 1e-12 * scale:
                periods.append((i, j))
    if (0, 1) in periods and (1, 0) in periods:
        return "the image is constant, or varies so little about its mean that this should be taken off both images"
    if (0, 1) in periods:
        return "the image does not vary along its rows"
    if (1, 0) in periods:
        return "the image does not vary along its columns"
    if periods:
        shortest = min(periods, key=lambda p: (math.hypot(*p), p))
        return f"the image repeats itself every {shortest} (rows, columns), which is less than the kernel's shape"
    return "the image holds no detail at some of the frequencies that a kernel of this shape can have"
