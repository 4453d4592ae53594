"""The search for the filter that a kernel is: families of filters fitted to it, in units of its errors."""

import collections
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from . import filter_table as table
from .filter_families import ADD, BLEND, FAR, GAIN, PLUS, UNIT, Family, Hint, Setting, Start
from .filter_shapes import Grid

Array = npt.NDArray[np.float64]
_NUMBER = 9.0  # what a number more has to explain of chi-square at least: chance does in 3 of 1000 kernels
_USUAL = 4.0  # of chi-square: where a filter is cut off as tools do unasked, unless the kernel tells so much
_PRUNED = 100.0  # a family that starts so many times worse than the best is given up ...
_NEAR = 0.03  # ... unless its numbers are sought and it explains all but this share of the kernel
_SLIGHT = 1e-3  # what chi-square below its expectation counts, where the errors are in doubt
_LIMITS = {"sigma": (0.12, 1e3), "beta": (0.3, 60.0), "a": (-4.0, 2.0)}
_LIMITS |= dict.fromkeys(("radius", "length", "alpha", "gamma", "scale", "inner", "outer"), (0.05, 1e3))


@dataclass(frozen=True, eq=False)
class Problem:
    """A kernel, as a convolution, and the matrix (or the factors) that makes its errors independent and equal to 1.

    `turned` says that it was given as a correlation; `doubt` is what chi-square may gain beside chance. Where a prior
    holds taps for equal the matrix is that of their `sets`, times the roots of how many there are, and `rough` is the
    error of what sets them apart.
    """

    taps: Array
    origin: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]
    turned: bool
    doubt: float
    whitener: Array
    errors: Array
    sets: npt.NDArray[np.intp] | None = None
    rough: Array | float = 1.0

    def white(self, templates: Array) -> Array:
        """Return kernels, flat, in units of the errors; of sets also what sets their taps apart."""
        if self.sets is not None:
            means, apart = in_sets(templates, self.sets)
            return np.hstack([means @ self.whitener.T, apart / self.rough])
        return np.asarray(templates * self.whitener if self.whitener.ndim == 1 else templates @ self.whitener.T)

    def spread(self, rows: Array) -> Array:
        """Return what makes the covariance of sums of taps, times its transpose."""
        if self.whitener.ndim == 1:
            return np.asarray(rows / self.whitener)
        inverse = np.linalg.pinv(self.whitener)
        if self.sets is None:
            return np.asarray(rows @ inverse)
        means, apart = in_sets(rows, self.sets)
        return np.hstack([means @ inverse, apart * self.rough])

    @functools.cached_property
    def given(self) -> Array:
        """The kernel in units of its errors."""
        return np.asarray(self.white(self.taps.reshape(1, -1))[0])


def in_sets(rows: Array, sets: npt.NDArray[np.intp]) -> tuple[Array, Array]:
    """Return the means of rows over sets of columns, times the roots of how many there are, and what is left."""
    order, counts = np.argsort(sets, kind="stable"), np.bincount(sets)
    sums = np.add.reduceat(rows[:, order], np.cumsum(counts) - counts, axis=1)
    return sums / np.sqrt(counts), rows - (sums / counts)[:, sets]


@dataclass(frozen=True, eq=False)
class Fit:
    """A family fitted: its numbers, and the factors of the filter and of the identity beside it."""

    family: Family
    grid: Grid
    mode: str
    setting: Setting
    theta: Array
    factors: Array
    chi_square: float
    n_free: int
    model: Array
    errors: Array

    @property
    def determined(self) -> bool:
        """Whether the kernel tells every width: a Gaussian much narrower than a pixel has none."""
        known = zip(self.family.names, self.theta.tolist(), self.errors.tolist(), strict=False)
        return all(
            name.split("_")[0] not in _LIMITS or 0 < error < max(abs(value), 1.0) for name, value, error in known
        )

    def score(self, n: int, doubt: float = 0.0) -> float:
        """Return Schwarz's criterion, or one that is stricter where there are few taps.

        Where the errors are in doubt, what chi-square is below its expectation hardly counts.
        """
        expected = n - self.n_free + doubt if doubt else 0.0
        chi = max(self.chi_square, expected) + _SLIGHT * min(self.chi_square - expected, 0.0)
        return chi + self.n_free * max(math.log(n), _NUMBER)


def _bounded(family: Family, theta: Array) -> Array:
    """Return numbers that a filter can have."""
    limits = [_LIMITS.get(name.split("_")[0], (-1e3, 1e3)) for name in family.names]
    if "box" in family.name:
        limits = [
            (1.0, 1e3) if name in ("rows", "cols") else limit for name, limit in zip(family.names, limits, strict=True)
        ]
    return np.asarray(np.clip(theta, *np.array(limits).T))


@functools.lru_cache(maxsize=128)
def _templates(family: Family, grid: Grid, starts: tuple[Start, ...]) -> tuple[Array, Array]:
    """Return filters that do not depend on the kernel, and the identity beside each."""
    return _made(family, grid, starts)


def _made(family: Family, grid: Grid, starts: Sequence[Start]) -> tuple[Array, Array]:
    """Return filters, flat, and the identity beside each, or the first of two filters that the image goes through."""
    with np.errstate(all="ignore"):
        templates = np.array([family.taps(grid, setting, np.array(theta)).ravel() for setting, theta in starts])
    if family.identity is None:
        identities = np.outer(*(np.abs(axis) < 0.25 for axis in grid.axes())).astype(np.float64).reshape(1, -1)
    else:
        identities = np.array([family.identity(grid, setting, np.array(theta)).ravel() for setting, theta in starts])
    return np.nan_to_num(templates, posinf=0.0, neginf=0.0), identities


def _moments(taps: Array, grid: Grid) -> list[tuple[float, ...]]:
    """Return the Gaussian of a kernel's second moments about its middle: one, or none where they are no widths."""
    y, x = grid.axes()
    total = float(taps.sum())
    if abs(total) < 0.05 * float(np.abs(taps).sum()):
        return []
    down, across = float(taps.sum(axis=1) @ y) / total, float(taps.sum(axis=0) @ x) / total
    y, x = y - down, x - across
    rows, cols, both = (float(a @ taps @ b) / total for a, b in ((y * y, x**0), (y**0, x * x), (y, x)))
    squares, axes = np.linalg.eigh([[rows, both], [both, cols]])
    if not squares[0] > 0:
        return []
    degrees = math.degrees(math.atan2(-axes[0, 1], axes[1, 1]))
    return [(*np.sqrt(squares[::-1]).tolist(), degrees, down, across)]


class _State(NamedTuple):
    """A filter with its numbers: what it leaves of the kernel, its taps, those of the identity, and their factors."""

    left: Array
    template: Array
    identity: Array
    columns: Array  # of which the factors are free, in units of the errors
    factors: Array  # as they are told
    both: tuple[float, float]  # of the template and of the identity


class Search:
    """The fits of all families to one kernel."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.n = problem.taps.size if problem.sets is not None else len(problem.given)

    def coarse(self, family: Family, grid: Grid, starts: Sequence[Start]) -> dict[str, tuple[float, list[Start]]]:
        """Return, for each mode, the least chi-square and the best starts, as many as the family asks for."""
        chi = self.chi_squares(family, grid, starts)
        best = {mode: np.argsort(chi[mode])[: family.tries].tolist() for mode in family.modes}
        return {mode: (max(float(chi[mode][i[0]]), 0.0), [starts[j] for j in i]) for mode, i in best.items()}

    def chi_squares(self, family: Family, grid: Grid, starts: Sequence[Start]) -> dict[str, Array]:
        """Return the chi-square of each start, for each mode."""
        make = _templates if family.constant else _made
        templates, identities = make(family, grid, tuple(starts))
        g, e, y = self.problem.white(templates), self.problem.white(identities), self.problem.given
        yy, gy, gg = float(y @ y), g @ y, np.einsum("ij,ij->i", g, g) + 1e-300
        ey, ee = e @ y, np.einsum("ij,ij->i", e, e) + 1e-300
        ge = np.einsum("ij,ij->i", g, np.broadcast_to(e, g.shape))
        beside = yy - 2 * ey + ee
        determinant = ee * gg - ge**2
        determinant = np.where(determinant > 1e-9 * ee * gg, determinant, np.inf)
        apart = ee + gg - 2 * ge
        apart = np.where(apart > 1e-12 * (ee + gg), apart, np.inf)  # else the filter is the identity
        return {
            UNIT: yy - 2 * gy + gg,
            GAIN: yy - gy**2 / gg,
            BLEND: beside - (ey - gy - ee + ge) ** 2 / apart,
            ADD: beside - (gy - ge) ** 2 / gg,
            PLUS: yy - (gg * ey**2 + ee * gy**2 - 2 * ge * ey * gy) / determinant,
        }

    def state(self, family: Family, grid: Grid, mode: str, setting: Setting, theta: Array) -> _State:
        """Return a filter with these numbers, and the factors that fit best."""
        (template,), (identity,) = _made(family, grid, [(setting, tuple(theta.tolist()))])
        g, e = self.problem.white(np.array([template, identity]))
        given = self.problem.given
        base, columns = {UNIT: (g, []), GAIN: (0.0, [g]), BLEND: (e, [e - g]), ADD: (e, [g]), PLUS: (0.0, [e, g])}[mode]
        left, matrix = given - base, np.array(columns).reshape(-1, len(given))
        factors = np.linalg.lstsq(matrix @ matrix.T, matrix @ left, rcond=1e-12)[0] if columns else np.zeros(0)
        first = float(factors[0]) if columns else 0.0
        both = {
            UNIT: (1.0, 0.0),
            GAIN: (first, 0.0),
            BLEND: (-first, 1 + first),
            ADD: (first, 1.0),
            PLUS: (float(factors[-1]) if columns else 0.0, first),
        }[mode]
        return _State(left - factors @ matrix, template, identity, matrix, factors, both)

    def slopes(self, family: Family, grid: Grid, setting: Setting, theta: Array, state: _State) -> Array:
        """Return the derivatives of the filter by its numbers, in units of the errors, at these factors."""
        steps = 1e-5 * np.maximum(np.abs(theta), 0.1)
        moved = [(setting, tuple(row)) for row in (theta + np.diag(steps)).tolist()]
        templates, identities = _made(family, grid, moved)
        change = state.both[0] * (templates - state.template) + state.both[1] * (identities - state.identity)
        return self.problem.white(change / steps[:, None])

    def descend(self, family: Family, grid: Grid, mode: str, setting: Setting, theta: Array) -> Array:
        """Take Levenberg's and Marquardt's steps, the factors being eliminated: L. Kaufman, BIT 15 (1975), 49."""
        if not len(theta):
            return theta
        theta = _bounded(family, theta)
        state = self.state(family, grid, mode, setting, theta)
        chi, damping = float(state.left @ state.left), 1e-3
        for _ in range(30):
            slopes = self.slopes(family, grid, setting, theta, state)
            if len(state.columns):
                slopes -= np.linalg.lstsq(state.columns.T, slopes.T, rcond=None)[0].T @ state.columns
            gram, pull = slopes @ slopes.T, slopes @ state.left
            fallen = 0.0
            for _ in range(6):
                damped = gram + damping * np.diag(np.diag(gram)) + 1e-300 * np.eye(len(theta))
                tried = _bounded(family, theta + np.linalg.lstsq(damped, pull, rcond=1e-15)[0])
                there = self.state(family, grid, mode, setting, tried)
                new = float(there.left @ there.left)
                if new < chi:
                    fallen, theta, state, chi, damping = chi - new, tried, there, new, damping / 10
                    break
                damping = max(damping * 10, 1e-6)
            if fallen < 1e-3 + (1e-2 if chi > 100 * self.n else 1e-6) * chi:
                break
        return theta

    def refine(self, family: Family, grid: Grid, mode: str, start: Start) -> Fit:
        """Find the numbers that fit best, from a start, and the setting."""
        setting, theta = start[0], np.array(start[1], dtype=np.float64)
        for _ in range(4):
            theta = self.descend(family, grid, mode, setting, theta)
            settings = list(dict.fromkeys((*family.around(grid, setting, theta), setting)))
            if len(settings) == 1:
                break
            every = self.chi_squares(family, grid, [(one, tuple(theta.tolist())) for one in settings])[mode]
            better = settings[int(np.argmax(every < every.min() + _USUAL))]  # the first is what tools do unasked
            if better == setting:
                break
            setting = better
        state = self.state(family, grid, mode, setting, theta)
        slopes = state.columns
        if len(theta):
            slopes = np.concatenate([self.slopes(family, grid, setting, theta, state), slopes])
        variances = np.diag(np.linalg.pinv(slopes @ slopes.T, hermitian=True)) if len(slopes) else np.zeros(0)
        variances = variances * (1 + self.problem.doubt / self.n)
        errors, model = np.sqrt(np.maximum(variances, 0.0)), np.array(state.both) @ [state.template, state.identity]
        chi = float(state.left @ state.left)
        return Fit(family, grid, mode, setting, theta, state.factors, chi, len(slopes), model, errors)

    def hints(self, grid: Grid) -> dict[bool, Hint]:
        """Return the Gaussian nearest to the kernel, alone (False) and beside the identity (True)."""
        problem = self.problem
        sizes = np.geomspace(0.3, 0.8 * max(grid.shape), 24)
        starts: list[Start] = [((FAR, FAR), (float(s),)) for s in sizes]
        best = self.coarse(table.GAUSSIAN, grid, starts)
        sigma = best[GAIN][1][0][1][0]
        turned = table.MOVING_GAUSSIAN
        begun = [(1.1 * sigma, sigma / 1.1, 20.0, 0.0, 0.0), *_moments(problem.taps, grid)]
        fit = min((self.refine(turned, grid, GAIN, ((), start)) for start in begun), key=lambda f: f.chi_square)
        along, across, degrees, *middle = fit.theta.tolist()
        if along < across:
            along, across, degrees = across, along, degrees + 90.0
        degrees = 90.0 - (90.0 - degrees) % 180.0
        if not (0.1 < across <= along < 3 * max(grid.shape) and max(map(abs, middle)) < max(grid.shape)):
            along = across = sigma
            middle = [0.0, 0.0]
        size = np.abs(problem.taps)
        far = size > np.maximum(6 * problem.errors, 1e-6 * size.max())
        y, x = (np.abs(axis) for axis in grid.axes())
        extent = (int((far.any(axis=1) * y).max()), int((far.any(axis=0) * x).max()))
        total = float(problem.taps.sum())
        if abs(total) > 0.05 * float(np.abs(problem.taps).sum()):
            middle = [float((problem.taps.sum(axis=1 - i) * axis).sum()) / total for i, axis in enumerate(grid.axes())]
        plain = Hint(math.sqrt(along * across), along, across, degrees, extent, problem.stride, (middle[0], middle[1]))
        sigma = float(self.refine(table.GAUSSIAN, grid, PLUS, best[PLUS][1][0]).theta[0])
        return {False: plain, True: plain._replace(sigma=sigma, along=1.001 * sigma, across=sigma)}

    def fits(self, families: Sequence[Family], grids: Sequence[Grid], hints: dict[bool, Hint], most: int) -> list[Fit]:
        """Fit those families that begin best."""
        begun: list[tuple[float, Family, Grid, str, list[Start]]] = []
        for family, grid in itertools.product(families, grids):
            if grid != grids[0] and not family.constant:
                continue
            for beside, hint in hints.items():
                own = [mode for mode in family.modes if (mode in (BLEND, PLUS, ADD)) is beside]
                if not own or (beside and family.constant):
                    continue
                starts = list(family.starts(grid, hint))
                first = self.coarse(family, grid, starts) if starts else {}
                begun += [
                    (chi, family, grid, mode, best)
                    for mode, (chi, best) in first.items()
                    if family.constant or mode in own
                ]
        least = _PRUNED * (min((one[0] for one in begun), default=0.0) + self.n)
        near = max(least, _NEAR * float(self.problem.given @ self.problem.given))
        begun = [one for one in begun if one[0] < (near if one[1].names else least)]
        begun.sort(key=lambda one: one[0])
        found: list[Fit] = []
        tried: collections.Counter[int] = collections.Counter()
        for _, family, grid, mode, best in begun:
            if family.names:
                if tried[id(family)] == 2 or tried.total() >= most:
                    continue
                tried[id(family)] += 1
            for start in best:
                fit = self.refine(family, grid, mode, start)
                found.append(fit)
                if fit.chi_square < 2 * self.n:
                    break
            else:
                continue
            simpler = {GAIN: (UNIT,), PLUS: (BLEND, ADD, GAIN, UNIT), BLEND: (UNIT,)}.get(mode, ())
            again = (fit.setting, tuple(fit.theta.tolist()))
            found += [self.refine(family, grid, one, again) for one in simpler if one in family.modes]
        return found

    def run(self, level: float, pairs: bool = True) -> list[Fit]:
        """Return the fits of all families, of `pairs` of filters only where no single one fits, the best first."""
        problem = self.problem
        sides = (2 * problem.taps.shape[0], 2 * problem.taps.shape[1])
        both = np.fft.irfft2(np.fft.rfft2(problem.taps, sides) ** 2, sides)  # largest at twice the centre of symmetry
        middle = np.unravel_index(int(np.argmax(np.abs(both))), both.shape)
        center = (float(middle[0]) / 2, float(middle[1]) / 2)
        shape = (problem.taps.shape[0], problem.taps.shape[1])
        inside = all(0 <= at < n for at, n in zip(problem.origin, shape, strict=True))
        centers = (center, (float(problem.origin[0]), float(problem.origin[1]))) if inside else (center,)
        grids = list(dict.fromkeys(Grid(shape, c) for c in centers))
        hints = self.hints(grids[0])
        found = self.fits([table.GAUSSIAN], grids[:1], hints, 4)
        for fit in found:
            beside = fit.mode in (BLEND, PLUS)
            hints[beside] = hints[beside]._replace(cut=(fit.setting[0], float(fit.theta[0])))
        for families, most in ((table.SINGLES, 24), (table.MOVING, 12), (table.CASCADES, 10))[: 3 if pairs else 2]:
            found += self.fits(families, grids, hints, most)
            if any(fit.determined and self.p_value(fit) >= level for fit in found):
                break
        return sorted(found, key=self.score)

    def score(self, fit: Fit) -> float:
        """Return by what fits are ordered, the best having the least."""
        return fit.score(self.n, self.problem.doubt)

    def p_value(self, fit: Fit) -> float:
        """Return the probability of so large a chi-square, 0 where the family could not have failed."""
        dof = self.n - fit.n_free
        if dof <= 0:
            return 0.0
        if self.problem.doubt > 0:
            return float(1 - scipy.special.chndtr(fit.chi_square, dof, self.problem.doubt))
        return float(scipy.special.chdtrc(dof, fit.chi_square))
