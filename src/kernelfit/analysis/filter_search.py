"""The search for the filter that a kernel is: families of filters fitted to it, in units of its errors."""

import collections
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.special

from . import filter_shapes as shapes
from . import filter_table as table
from .filter_families import ADD, BLEND, FAR, GAIN, PLUS, UNIT, Family, Hint, Setting, Start, scipy_reach
from .filter_problem import Problem, of_whole_steps
from .filter_shapes import Grid

Array = npt.NDArray[np.float64]
_NUMBER = 9.0  # what a number more has to explain of chi-square at least: chance does in 3 of 1000 kernels
_USUAL = 4.0  # of chi-square: where a filter is cut off as tools do unasked, unless the kernel tells so much
_PRUNED = 100.0  # a family that starts so many times worse than the best is given up ...
_NEAR = 0.03  # ... unless its numbers are sought and it explains all but this share of the kernel
RULED_OUT = 10.0  # of two that fit, a difference of Schwarz's criterion that decides: R. Kass and A. Raftery,
# "Bayes factors", J. Am. Stat. Assoc. 90 (1995), section 3.2, doi:10.1080/01621459.1995.10476572
_SLOPE_TRUST = 4.0  # chi-square falls by no more than so many times what its slopes at a start tell
#: The modes in which a filter comes at least as near, having a factor more.
_WIDER = {UNIT: (GAIN, BLEND, ADD, PLUS), GAIN: (PLUS,), BLEND: (PLUS,), ADD: (PLUS,), PLUS: ()}
_LIKELY = 40  # starts of a family, of all those that do not depend on the kernel, whose errors are reckoned with
_LIKE_IT = 0.2  # of what rounding does to an amount, which depends on the image
_SETTINGS = 3  # settings of a family to begin with: where a filter is cut off changes its width
_ALIKE = 3e-3  # of a kernel: a filter that leaves more of it is not made better by another setting
_RARE = 6.0  # of Schwarz's criterion: odds of 20 to 1 before the kernel is seen
_SPARE = 2.0  # times the chi-square that would do ...
_FARTHER = 20.0  # ... and so many times as much of those that begin farther off, or may be near a table
_FEW_TAPS = 4  # a shift along an axis has two taps, and three numbers with a gain: it is named all the same
_NO_GAUSSIAN = 4.0  # standard errors of a Moffat profile's 1 / beta from none
_STEEPEST = 50.0  # beta of such a profile: it ends at its limit, near it, where a Gaussian is better
_LONG = 1.5  # times as long as wide: what lies beside an identity may be a line
_NO_MASK = 0.3  # a Gaussian so narrow is an identity and a cross: it makes a Laplacian, not an unsharp mask
_SLIGHT = 1e-3  # what chi-square below its expectation counts, where the errors are in doubt
_LIMITS = {"sigma": (0.12, 1e3), "beta": (0.3, 60.0), "a": (-4.0, 2.0)}
_LIMITS |= dict.fromkeys(("radius", "length", "alpha", "gamma", "scale", "inner", "outer"), (0.05, 1e3))


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
    covariance: Array

    @functools.cached_property
    def errors(self) -> Array:
        """The standard errors of the numbers, then of the factors."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))

    @property
    def determined(self) -> bool:
        """Whether the kernel tells every width: a Gaussian much narrower than a pixel has none.

        A Moffat profile whose beta may be infinite is a Gaussian.
        """
        known = list(zip(self.family.names, self.theta.tolist(), self.errors.tolist(), strict=False))
        if self.mode == BLEND and any(name.startswith("sigma") and value < _NO_MASK for name, value, _ in known):
            return False
        if any(name == "beta" and not (_NO_GAUSSIAN * e < b < _STEEPEST) for name, b, e in known):
            return False
        most = 2 * max(self.grid.shape)  # a Gaussian that is wider is flat
        if any(name.startswith("sigma") and value > most for name, value, _ in known):
            return False
        limits = [
            (*_LIMITS.get(name.split("_")[0], (-math.inf, math.inf)), value, error) for name, value, error in known
        ]
        return all(
            math.isinf(high) or (low < value < high and 0 < error < max(abs(value), 1.0))
            for low, high, value, error in limits
        )


def _bounded(family: Family, theta: Array) -> Array:
    """Return numbers that a filter can have."""
    limits = [_LIMITS.get(name.split("_")[0], (-1e3, 1e3)) for name in family.names]
    if "box" in family.name:
        limits = [
            (1.0, 1e3) if name in ("rows", "cols") else limit for name, limit in zip(family.names, limits, strict=True)
        ]
    return np.asarray(np.clip(theta, *np.array(limits).T))


def _of_amount(amount: float, variance: float, spread: float) -> float:
    """Return the variance of an amount found, of those that would have been told as it: ``x + round(a (x - g))``."""
    tried = amount + np.linspace(-0.1, 0.1, 401)
    told = of_whole_steps(tried, spread)[0]
    off = np.abs(told - amount) - _LIKE_IT * np.abs(told - tried)
    alike = off <= max(float(off.min()), math.sqrt(3 * variance))
    return max(variance, float(np.mean((tried[alike] - amount) ** 2)))


@functools.lru_cache(maxsize=256)
def _constant_starts(family: Family, grid: Grid) -> tuple[Start, ...]:
    """Return the starts of a family that has the same ones for every kernel."""
    return tuple(family.starts(grid, Hint(1.0, 1.0, 1.0, 0.0, (1, 1))))


@functools.lru_cache(maxsize=256)
def _templates(family: Family, grid: Grid) -> tuple[Array, Array, Array]:
    """Return the filters of those starts, the identity beside each, and both together, of norm one.

    Of the last is left out what an identity beside them would hide.
    """
    templates, identities = _made(family, grid, _constant_starts(family, grid))
    shares = np.sum(templates * identities, axis=1) / np.maximum(np.sum(identities**2, axis=1), 1e-300)
    rest = templates - shares[:, None] * identities
    return templates, identities, rest / np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), 1e-300)


@functools.lru_cache(maxsize=64)
def _spot(grid: Grid) -> Array:
    """Return the identity, flat."""
    y, x = grid.axes()
    return np.asarray(((np.abs(y) < 0.25)[:, None] & (np.abs(x) < 0.25)).astype(np.float64).reshape(1, -1))


def _made(family: Family, grid: Grid, starts: Sequence[Start]) -> tuple[Array, Array]:
    """Return filters, flat, and the identity beside each, or the first of two filters that the image goes through."""
    with np.errstate(all="ignore"):
        templates = np.array([family.taps(grid, setting, np.array(theta)).ravel() for setting, theta in starts])
    if family.identity is None:
        identities = _spot(grid)
    else:
        identities = np.array([family.identity(grid, setting, np.array(theta)).ravel() for setting, theta in starts])
    if not math.isfinite(float(templates.sum())):
        templates = np.nan_to_num(templates, posinf=0.0, neginf=0.0)
    return templates, identities


def _least(matrix: Array, left: Array) -> Array:
    """Return the factors by which rows, of which there are two at most, come nearest to a vector, or to several."""
    gram, pull = matrix @ matrix.T, matrix @ left.T
    if len(matrix) == 1:
        return np.asarray(pull / gram[0, 0] if gram[0, 0] > 0 else np.zeros_like(pull))
    return np.asarray(np.linalg.lstsq(gram, pull, rcond=1e-12)[0]) if len(matrix) else pull


def _solution(matrix: Array, right: Array) -> Array:
    """Return a step, none where the equations have no solution."""
    try:
        return np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)
    except np.linalg.LinAlgError:
        return np.zeros_like(right)


def _moments(taps: Array, grid: Grid) -> list[tuple[float, ...]]:
    """Return the Gaussian of a kernel's second moments about its middle: one, or none where they are no widths."""
    y, x = grid.axes()
    total = float(taps.sum())
    if not abs(total) > 0.05 * float(np.abs(taps).sum()):
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
        self.n = problem.n
        size = np.abs(problem.taps)
        self.far = size > np.maximum(6 * problem.errors, 1e-6 * size.max())  # taps that are not zero
        self.known = int(self.far.sum())
        self.most = math.inf  # chi-square that a filter may have and still be the kernel, with much to spare
        self.floors: dict[tuple[Family, Grid, str, Start], float] = {}  # below which chi-square does not fall

    def coarse(self, family: Family, grid: Grid, starts: Sequence[Start]) -> dict[str, tuple[float, list[Start]]]:
        """Return, for each mode, the least chi-square and the best starts, as many as the family asks for."""
        if not starts:
            return {}
        if family.constant:
            templates, identities, units = _templates(family, grid)
            if len(starts) > _LIKELY:  # those that are nearest to the kernel whatever its errors, in any mode
                alike = np.argsort(-np.abs(units @ self.problem.taps.ravel()), kind="stable")[:_LIKELY]
                starts, templates = [starts[i] for i in alike.tolist()], templates[alike]
                identities = identities if len(identities) == 1 else identities[alike]
        else:
            templates, identities = _made(family, grid, starts)
        chi = self.chi_squares(templates, identities)
        best = {mode: self.first(family, starts, np.argsort(chi[mode]).tolist()) for mode in family.modes}
        return {mode: (max(float(chi[mode][i[0]]), 0.0), [starts[j] for j in i]) for mode, i in best.items()}

    def first(self, family: Family, starts: Sequence[Start], order: list[int]) -> list[int]:
        """Return the best starts: of numbers that are sought the best of a few settings, as their numbers tell them."""
        settings = list(dict.fromkeys(starts[i][0] for i in order))[: _SETTINGS if family.names else 1]
        best = [next(i for i in order if starts[i][0] == setting) for setting in settings]
        return list(dict.fromkeys([*order[: family.tries], *best]))

    def chi_squares(self, templates: Array, identities: Array) -> dict[str, Array]:
        """Return the chi-square of each filter, for each mode."""
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
        factors = _least(matrix, left)
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

    def descend(
        self, family: Family, grid: Grid, mode: str, setting: Setting, theta: Array, limit: float
    ) -> tuple[Array, float, float]:
        """Take Levenberg's and Marquardt's steps, the factors being eliminated: L. Kaufman, BIT 15 (1975), 49.

        Return also 0 if they ended at the least chi-square, or, where its slopes tell that it stays above a limit, what
        it stays above, and where it was then.
        """
        if not len(theta):
            return theta, 0.0, 0.0
        theta = _bounded(family, theta)
        state = self.state(family, grid, mode, setting, theta)
        chi, damping = float(state.left @ state.left), 1e-3
        for _ in range(30):
            slopes = self.slopes(family, grid, setting, theta, state)
            slopes -= _least(state.columns, slopes).T @ state.columns
            gram, pull = slopes @ slopes.T, slopes @ state.left
            fallen, idle = 0.0, np.flatnonzero(~(np.diag(gram) > 0))
            for again in range(6):
                damped = gram.copy()
                damped.flat[:: len(theta) + 1] *= 1 + damping
                damped[idle, idle] = 1.0
                step = _solution(damped, pull)
                floor = 0.0 if again else chi - _SLOPE_TRUST * float(step @ pull)
                if floor > limit:
                    return theta, floor, chi
                tried = _bounded(family, theta + step)
                there = self.state(family, grid, mode, setting, tried)
                new = float(there.left @ there.left)
                if new < chi:
                    fallen, theta, state, chi, damping = chi - new, tried, there, new, damping / 10
                    break
                damping = max(damping * 10, 1e-6)
            if fallen < 1e-3 + (1e-2 if chi > 100 * self.n else 1e-3 if chi > 4 * self.n else 1e-6) * chi:
                break
        return theta, 0.0, chi

    def refine(self, family: Family, grid: Grid, mode: str, start: Start, limit: float = math.inf) -> Fit | None:
        """Find the numbers that fit best, from a start, and the setting; None where chi-square stays above a limit."""
        if any(self.floors.get((family, grid, wider, start), 0.0) > limit for wider in _WIDER[mode]):
            return None
        setting, theta = start[0], np.array(start[1], dtype=np.float64)
        for _ in range(4):
            theta, floor, chi = self.descend(family, grid, mode, setting, theta, limit)
            near = chi < _NEAR * float(self.problem.given @ self.problem.given)
            if floor and chi > _PRUNED * limit and not near:
                break
            settings = list(dict.fromkeys((*family.around(grid, setting, theta), setting)))
            if len(settings) == 1:
                break
            if floor and near and family in table.CUT_OFF:  # numbers sought for another cut may make any cut look bad
                every = self.stepped(family, grid, mode, settings, theta)
            else:
                every = self.chi_squares(*_made(family, grid, [(one, tuple(theta.tolist())) for one in settings]))[mode]
            better = settings[int(np.argmax(every < every.min() + _USUAL))]  # the first is what tools do unasked
            if better == setting and len(theta) and chi < self.near_by:  # numbers sought for one cut speak for that one
                told = self.stepped(family, grid, mode, settings, theta)
                for other in [settings[i] for i in np.argsort(told) if told[i] < chi - _USUAL][:_SETTINGS]:
                    above, least = self.descend(family, grid, mode, other, theta, chi - _USUAL)[1:]
                    if not above and least < chi - _USUAL:
                        better, chi = other, least
            if better == setting:
                break
            setting = better
        self.floors[family, grid, mode, start] = floor
        if floor:
            return None
        state = self.state(family, grid, mode, setting, theta)
        slopes = state.columns
        if len(theta):
            slopes = np.concatenate([self.slopes(family, grid, setting, theta, state), slopes])
        covariance = np.linalg.pinv(slopes @ slopes.T, hermitian=True) if len(slopes) else np.zeros((0, 0))
        amount = float(state.factors[0]) if mode == BLEND else None
        kinds = {table.SOFT_BOX: "box", table.OPENCV: "table"} | dict.fromkeys(table.BOXES, "boxes")
        kind = kinds.get(family, "")
        model = np.array(state.both) @ [state.template, state.identity]
        chi, dof = float(state.left @ state.left), max(1, self.n - len(slopes))
        self.floors[family, grid, mode, start] = chi / _SLOPE_TRUST
        ratio = min(chi / dof, 1 + self.problem.rounding.doubt / dof)
        wider = np.full(len(slopes), self.problem.rounding.widened(ratio, kind, amount))
        if kind == "boxes" and mode == BLEND:
            wider[: len(theta)] = self.problem.rounding.widened(ratio, "radius", None)
        covariance = np.asarray(covariance * np.sqrt(wider[:, None] * wider), dtype=np.float64)
        if kind == "table" and amount is not None and self.problem.rounding.excess > 0:
            spread = self.problem.spread_of(state.identity - state.template)
            covariance[-1, -1] = _of_amount(amount, float(covariance[-1, -1]), spread)
        return Fit(family, grid, mode, setting, theta, state.factors, chi, len(slopes), model, covariance)

    def stepped(self, family: Family, grid: Grid, mode: str, settings: Sequence[Setting], theta: Array) -> Array:
        """Return the chi-square to which a single step of the numbers leads, for each setting."""
        told = []
        for setting in settings:
            state = self.state(family, grid, mode, setting, theta)
            slopes = self.slopes(family, grid, setting, theta, state)
            slopes -= _least(state.columns, slopes).T @ state.columns
            pull = slopes @ state.left
            told.append(float(state.left @ state.left - pull @ _solution(slopes @ slopes.T, pull)))
        return np.array(told)

    @property
    def near_by(self) -> float:
        """The chi-square of a filter that is near, if it is not the kernel."""
        return 2 * (self.n + self.problem.rounding.most)

    def hints(self, grid: Grid) -> dict[bool, Hint]:
        """Return the Gaussian nearest to the kernel, alone (False) and beside the identity (True)."""
        problem = self.problem
        sizes = np.geomspace(0.3, 0.8 * max(grid.shape), 24)
        starts: list[Start] = [((FAR, FAR), (float(s),)) for s in sizes]
        best = self.coarse(table.GAUSSIAN, grid, starts)
        sigma = best[GAIN][1][0][1][0]
        turned = table.MOVING_GAUSSIAN
        begun = [(1.1 * sigma, sigma / 1.1, 20.0, 0.0, 0.0), *_moments(problem.taps, grid)]
        start = self.coarse(turned, grid, [((), start) for start in begun])[GAIN][1][0]
        fit = self.refine(turned, grid, GAIN, start)
        along, across, degrees, *middle = start[1] if fit is None else fit.theta.tolist()
        if along < across:
            along, across, degrees = across, along, degrees + 90.0
        degrees = 90.0 - (90.0 - degrees) % 180.0
        if not (0.1 < across <= along < 3 * max(grid.shape) and max(map(abs, middle)) < max(grid.shape)):
            along = across = sigma
            middle = [0.0, 0.0]
        y, x = (np.abs(axis) for axis in grid.axes())
        extent = (int((self.far.any(axis=1) * y).max()), int((self.far.any(axis=0) * x).max()))
        total = float(problem.taps.sum())
        if abs(total) > 0.05 * float(np.abs(problem.taps).sum()):
            middle = [float((problem.taps.sum(axis=1 - i) * axis).sum()) / total for i, axis in enumerate(grid.axes())]
        plain = Hint(math.sqrt(along * across), along, across, degrees, extent, problem.stride, (middle[0], middle[1]))
        beside = self.refine(table.GAUSSIAN, grid, PLUS, best[PLUS][1][0])
        sigma = float(beside.theta[0]) if beside else sigma
        along, across = 1.001 * sigma, sigma
        for one in _moments(np.where(_spot(grid).reshape(grid.shape) > 0, 0.0, problem.taps), grid):
            if one[0] > _LONG * one[1]:
                along, across, degrees = one[:3]
        return {False: plain, True: plain._replace(sigma=sigma, along=along, across=across, degrees=degrees)}

    def fit(
        self, families: Sequence[tuple[Family, Grid]], hints: dict[bool, Hint], most: int, found: list[Fit]
    ) -> None:
        """Fit those families that begin best, and add to the fits found what may be among the best of them."""
        begun: list[tuple[float, Family, Grid, str, list[Start]]] = []
        for family, grid in families:
            for beside, hint in hints.items():
                own = [mode for mode in family.modes if (mode in (BLEND, PLUS, ADD)) is beside]
                if not own or (beside and family.constant):
                    continue
                starts = _constant_starts(family, grid) if family.constant else list(family.starts(grid, hint))
                begun += [
                    (chi, family, grid, mode, best)
                    for mode, (chi, best) in self.coarse(family, grid, starts).items()
                    if family.constant or mode in own
                ]
        least = _PRUNED * (min((one[0] for one in begun), default=0.0) + self.n)
        near = max(least, _NEAR * float(self.problem.given @ self.problem.given))
        begun = [one for one in begun if one[0] < (near if one[1].names else least)]
        begun.sort(key=lambda one: one[0])
        tried: collections.Counter[tuple[int, bool]] = collections.Counter()
        ended = 0  # those that were not ruled out on the way
        for chi, family, grid, mode, best in begun:
            if any(fit.family is family and fit.mode == mode and fit.chi_square < self.near_by for fit in found):
                continue
            farther = _FARTHER if family is table.AXES or family in table.PAIRS else 1.0
            limit = min(self.limit(found, family, mode), farther * self.most)
            if family.names:
                kind = (id(family), mode in (BLEND, PLUS, ADD))
                if limit < 0 or tried[kind] == 2 or ended >= most:
                    continue
                tried[kind] += 1
            elif chi > limit and not family.around(grid, best[0][0], np.zeros(0)):
                continue
            for at, start in enumerate(best):
                fit = self.refine(family, grid, mode, start, limit)
                fits = [fit] if fit else []
                ended += bool(fits) and at == 0
                if fit and fit.chi_square < self.near_by:
                    simpler = {GAIN: (UNIT,), PLUS: (BLEND, ADD, GAIN, UNIT), BLEND: (UNIT,)}.get(mode, ())
                    again = (fit.setting, tuple(fit.theta.tolist()))
                    modes = [one for one in simpler if one in family.modes]
                    fits += [fit for one in modes if (fit := self.refine(family, grid, one, again))]
                found += fits
                alike = fit is not None and fit.chi_square < _ALIKE * float(self.problem.given @ self.problem.given)
                if (fits and fits[0].chi_square < self.near_by) or (at >= family.tries - 1 and not alike):
                    break

    def limit(self, found: Sequence[Fit], family: Family, mode: str) -> float:
        """Return the chi-square above which the best of some fits rules a filter out, negative if any does."""
        best, free = min((self.score(fit) for fit in found if fit.determined), default=math.inf), len(family.names)
        free += {UNIT: 0, PLUS: 2}.get(mode, 1)
        limit, dof = best + RULED_OUT - free * max(math.log(self.n), _NUMBER), self.n - free
        own = self.most_doubt(family)
        if own > 0 and limit < dof:  # what is below the expectation counts, but slightly
            return dof + self.problem.rounding.doubt + (limit - dof) / _SLIGHT
        return limit + own

    def wrong_parity(self, grid: Grid, level: float) -> int:
        """Return 1 if the kernel is not even about the centre as far as the errors tell, -1 if it is, 0 in doubt.

        The least chi-square of even kernels is that of the best one, of a free number for each two opposite taps.
        """
        opposite = np.arange(self.problem.taps.size)
        y, x = np.unravel_index(opposite, grid.shape)
        rows, cols = (np.rint(2 * c).astype(np.intp) - at for c, at in zip(grid.center, (y, x), strict=True))
        inside = (rows >= 0) & (rows < grid.shape[0]) & (cols >= 0) & (cols < grid.shape[1])
        opposite[inside] = (rows * grid.shape[1] + cols)[inside]
        first = np.flatnonzero(opposite >= np.arange(len(opposite)))
        columns = self.problem.columns(first)
        other = opposite[first] != first
        columns[:, other] += self.problem.columns(opposite[first[other]])
        columns = columns[:, np.any(columns, axis=0)]  # of taps that are known
        left, dof, rounding = self.problem.given, self.n - columns.shape[1], self.problem.rounding
        if dof <= 0:
            return 0
        if dof < self.n:
            qr, tau, _, _ = scipy.linalg.lapack.dgeqrf(columns, overwrite_a=1)
            left = scipy.linalg.lapack.dormqr("L", "T", qr, tau, left[:, None], 64)[0][-dof:, 0]
        chi_square = float(left @ left)
        if chance(chi_square, dof, rounding.doubt) >= level:
            return -1
        return int(chance(chi_square, dof, rounding.most) < level)

    def run(self, level: float, pairs: bool = True, thorough: bool = False, cut: bool = False) -> list[Fit]:
        """Return the fits of all families, of `pairs` of filters only where no single one fits, the best first.

        `cut` are those that may go on beyond a shape. Unless `thorough`, of families that are even or odd only those
        are tried that the kernel allows.
        """
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
        found: list[Fit] = []
        self.fit([(table.GAUSSIAN, grids[0])], hints, 4, found)
        for fit in found:
            beside = fit.mode in (BLEND, PLUS)
            hints[beside] = hints[beside]._replace(cut=(fit.setting[0], float(fit.theta[0])))
        may = float(scipy.special.chdtri(self.n, level)) + max(problem.rounding.most, self.most_doubt(table.PILLOW))
        self.most = math.inf if thorough else _SPARE * may
        wrong = {grid: 0 if thorough else self.wrong_parity(grid, level) for grid in grids}
        moving = () if wrong[grids[0]] == -1 else table.MOVING  # what is even about a place lies there
        rounds = (
            (table.CUT_OFF if cut else table.SINGLES, 40),
            (table.TABLES if problem.rounding.excess > 0 else (), 4),
            (table.SHIFTS, 8),
            (moving, 12),
            (table.CASCADES, 10),
            (table.MOTIONS, 10),
        )
        for families, most in rounds[: 1 if cut else 6 if pairs else 4]:
            if families == table.TABLES:
                axes = min((one for one in found if one.family is table.AXES), key=self.score, default=None)
                if axes is None:
                    continue
                cuts = tuple((int(r), float(s)) for r, s in zip(axes.setting, axes.theta, strict=True))
                hints[False] = hints[False]._replace(cuts=cuts)
            places = [(one, grid) for one in families for grid in (grids if one.constant else grids[:1])]
            begun = [(one, grid) for one, grid in places if not one.parity or one.parity != wrong[grid]]
            self.fit(begun, hints, most, found)
            good = [fit for fit in found if fit.determined and self.p_value(fit) >= level]
            if good and not (families is table.SINGLES and min(good, key=self.score).family is table.AXES):
                break
        return sorted(found, key=self.score)

    def score(self, fit: Fit) -> float:
        """Return Schwarz's criterion, stricter of few taps; what is below a doubtful expectation hardly counts.

        Of what chi-square may gain beside chance if the kernel is this filter nothing counts.
        """
        doubt, own, dof = self.problem.rounding.doubt, self.doubt(fit), self.n - fit.n_free
        chi = fit.chi_square
        if own > 0:
            chi = max(chi - own, dof) + _SLIGHT * min(chi - doubt - dof, 0.0)
        rare = _RARE if self.rare(fit.family) else 0.0
        if fit.family in table.ROWS:  # of one of many lengths
            rare += _NUMBER - 1
        elif (
            fit.family in table.SINGLES and fit.family.constant and fit.mode not in (UNIT, GAIN)
        ):  # one of many filters
            rare += _RARE
        return chi + rare + fit.n_free * max(math.log(self.n), _NUMBER)

    def plain(self, fit: Fit) -> bool:
        """Say whether a filter is one that tools make in a call, not put together to come near to the kernel."""
        alone = fit.family in table.SINGLES or fit.family in table.SHIFTS
        return alone and fit.mode in (UNIT, GAIN, BLEND) and not self.rare(fit.family)

    def ends_beyond(self, fit: Fit) -> bool:
        """Say whether a filter goes on beyond the shape, as tools make it unasked."""
        if fit.family not in (table.GAUSSIAN, table.AXES):
            return False
        sigmas = np.resize(fit.theta, 2).tolist()
        return any(scipy_reach(sigma) > reach for sigma, reach in zip(sigmas, fit.grid.reach(), strict=True))

    def rare(self, family: Family) -> bool:
        """Say whether hardly anyone makes such a filter: where it says the same as another the other is told."""
        return family in table.RARE or (family is table.OPENCV and not self.problem.rounding.excess > 0)

    def p_value(self, fit: Fit) -> float:
        """Return the probability of so large a chi-square, 0 where the family could not have failed."""
        dof, numbers = self.n - fit.n_free, fit.n_free + (fit.mode in (UNIT, BLEND))  # the sum of the taps is one
        if fit.family in table.SHIFTS:  # along an axis by whole pixels, of which the taps elsewhere tell
            numbers -= int((np.abs(fit.theta[:2] - np.rint(fit.theta[:2])) < 4 * fit.errors[:2]).sum())
        if dof <= 0 or (len(fit.theta) and numbers >= max(self.known, _FEW_TAPS)):
            return 0.0
        rounding = self.problem.rounding
        if fit.family is table.OPENCV and rounding.excess > 0:  # it rounds its blur of 8 bits, once
            amount = float(fit.factors[0]) if fit.mode == BLEND else 0.0
            blurred = fit.family.taps(fit.grid, fit.setting, fit.theta)
            spread = self.problem.spread_of(_spot(fit.grid) - blurred.ravel())
            last = float(of_whole_steps(np.array([amount]), spread)[1][0])  # of the sum: little near a whole number
            if rounding.smoothed or rounding.excess < min(last, 1.0) + 0.8 * amount**2:
                return 0.0
        return chance(fit.chi_square, dof, self.doubt(fit))

    def doubt(self, fit: Fit) -> float:
        """Return what chi-square may gain beside chance if the kernel is this filter."""
        rounding = self.problem.rounding
        if fit.family not in table.BOXES or fit.mode in (ADD, PLUS):
            return rounding.doubt
        if fit.mode == BLEND:
            return max(rounding.doubt, rounding.cut_off) if fit.factors[0] > 0 else rounding.doubt
        return max(rounding.doubt, rounding.half_way(min(map(shapes.pillow_noise, fit.theta.tolist()))))

    def most_doubt(self, family: Family) -> float:
        """Return what chi-square may gain beside chance if the kernel is a filter of this family."""
        rounding = self.problem.rounding
        most = max(rounding.cut_off, rounding.half_way(0.0)) if family in table.BOXES else 0.0
        return max(rounding.doubt, most)

    def told(self, fit: Fit) -> float:
        """Return chi-square, the errors being larger by what rounding may add, as far as the filter needs it."""
        dof = max(1, self.n - fit.n_free)
        return fit.chi_square / min(max(1.0, fit.chi_square / dof), 1 + self.doubt(fit) / dof)


def chance(chi_square: float, dof: int, doubt: float) -> float:
    """Return the probability of a chi-square as large, `doubt` being what it may gain beside chance."""
    if doubt > 0:
        return float(1 - scipy.special.chndtr(chi_square, dof, doubt))
    return float(scipy.special.chdtrc(dof, chi_square))
