"""Whether a given kernel explains a pair: how it has to be turned, moved and scaled, from the statistics alone."""

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # whose parts are imported when first used: some take a second
import scipy.linalg

from ..core.background import Elimination, eliminations_of
from ..core.geometry import Shape
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from .place import ORIENTATIONS, Box, oriented

_EQUAL = 25.0
_ORDER = 5  # of the spline between the taps
_STEP, _SETTLED, _ROUNDS, _HALVINGS = 1e-3, 1e-6, 30, 8
#: Shares of the target's energy and of its own size that rounding makes of a residual.
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Laid:
    """A kernel laid on an image: ``target[t] = sum_p taps[p] image[stride t + offset - (first + p)]``."""

    taps: Array
    first: Shape

    def oriented(self, name: str) -> "Laid":
        """Return the kernel turned or mirrored about the pixel of lag 0."""
        transposed, *flips = ORIENTATIONS[name]
        taps, first = oriented(self.taps, name), self.first[::-1] if transposed else self.first
        row, col = (
            -(f + n - 1) if flip else f for f, n, flip in zip(first, taps.shape, flips, strict=True)
        )  # the last tap comes first
        return Laid(taps, (row, col))

    def moved(self, rows: int, cols: int) -> "Laid":
        """Return the kernel that moves what it makes down and to the right as well."""
        return Laid(self.taps, (self.first[0] + rows, self.first[1] + cols))

    def trimmed(self) -> "Laid":
        """Return the kernel without rows and columns of zeros around it."""
        where = np.nonzero(self.taps)
        if not where[0].size:
            return self
        (top, left), (bottom, right) = (tuple(int(f(at)) for at in where) for f in (np.min, np.max))
        return Laid(self.taps[top : bottom + 1, left : right + 1], (self.first[0] + top, self.first[1] + left))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the pixels say of every kernel on a span of lags, the first of which is `corner`."""

    stats: NormalEquations
    corner: Shape

    @property
    def span(self) -> Shape:
        """Rows and columns of lags."""
        sides: Shape = self.stats.supports[0]
        return sides

    @functools.cached_property
    def eliminations(self) -> list[Elimination]:
        """What gives the constants beside a kernel."""
        return eliminations_of(self.stats)

    def holds(self, laid: Laid) -> bool:
        """Return whether all taps lie on the span."""
        axes = zip(laid.first, laid.taps.shape, self.corner, self.span, strict=True)
        return all(c <= f and f + k <= c + n for f, k, c, n in axes)

    def embedded(self, laid: Laid) -> Array:
        """Return the kernel on the whole span."""
        whole = np.zeros(self.span)
        row, col = (f - c for f, c in zip(laid.first, self.corner, strict=True))
        whole[row : row + laid.taps.shape[0], col : col + laid.taps.shape[1]] = laid.taps
        return whole

    def rss(self, taps: Array) -> float:
        """Return the residual sum of squares of a kernel, beside the constants that fit best."""
        flat = taps.ravel()
        left = self.stats.target_energy - float(flat @ (2 * self.stats.moment - self.stats.gram @ flat))
        return max(left, ROUNDING * self.stats.target_energy)

    def rss_without_constants(self, taps: Array) -> float:
        """Return the same where no constant is added."""
        total = self.rss(taps)
        for one in self.eliminations:
            if len(one.root) == 1:
                total += float((one.coefficients_at(taps.reshape(1, -1))[0, 0] / one.root[0, 0]) ** 2)
        return total

    def scaled(self, taps: Array) -> tuple[float, float]:
        """Return the factor that fits best, and the residual sum of squares beside it."""
        flat = taps.ravel()
        energy, common = float(flat @ (self.stats.gram @ flat)), float(flat @ self.stats.moment)
        scale = common / energy if energy > 0 else 0.0
        return scale, max(self.stats.target_energy - scale * common, ROUNDING * self.stats.target_energy)


@dataclass(frozen=True, eq=False)
class Adjustment:
    """How a kernel fits best in one orientation: ``scale`` times the kernel moved by ``shift``."""

    orientation: str
    shift: Array  # pixels of the image, down and to the right
    whole: Shape  # the best shift by whole pixels
    scale: float
    taps: Array  # of the adjusted kernel, on the span
    slopes: Array  # (taps, 3); the derivatives of these by the scale and the shift
    covariance: Array  # (3, 3); of the scale and the shift, for a residual of variance 1
    rss: float
    rss_whole: float  # moved by whole pixels
    rss_there: float  # not moved; NaN where that lies beyond the span


def adjusted(evidence: Evidence, laid: Laid, orientation: str, offset: Shape) -> Adjustment | None:
    """Return the scale and the shift with which a kernel fits best, None where the span is too small for it."""
    # Whole shifts are ranked by the moment's correlation with the kernel, as if all lags had one energy; from the best
    # of its neighbours Gauss and Newton's steps go on between the pixels, by a spline of order 5.
    turned = laid.oriented(orientation).moved(-offset[0], -offset[1])
    if any(k > n for k, n in zip(turned.taps.shape, evidence.span, strict=True)):
        return None
    score = np.abs(scipy.signal.correlate(evidence.stats.moment.reshape(evidence.span), turned.taps, mode="valid"))
    peak = np.unravel_index(int(np.argmax(score)), score.shape)
    tried = []
    for row in range(max(0, int(peak[0]) - 1), min(score.shape[0], int(peak[0]) + 2)):
        for col in range(max(0, int(peak[1]) - 1), min(score.shape[1], int(peak[1]) + 2)):
            whole = (evidence.corner[0] + row - turned.first[0], evidence.corner[1] + col - turned.first[1])
            tried.append((*evidence.scaled(evidence.embedded(turned.moved(*whole)))[::-1], whole))
    rss_whole, _, whole = min(tried)
    there = evidence.scaled(evidence.embedded(turned))[1] if evidence.holds(turned) else math.nan
    base = evidence.embedded(turned.moved(*whole))
    reach = np.array(evidence.span) > 1  # of signals there is one row
    rest = np.zeros(2)
    scale, rss = evidence.scaled(base)
    for _ in range(_ROUNDS):
        slopes = _slopes(base, rest, scale, reach)
        normal = slopes.T @ (evidence.stats.gram @ slopes)
        step = (_inverse(normal) @ (slopes.T @ evidence.stats.moment - scale * normal[:, 0]))[1:]
        step = np.clip(step, -0.5, 0.5)
        for _ in range(_HALVINGS):
            new_scale, new_rss = evidence.scaled(_shifted(base, rest + step))
            if new_rss <= rss:
                break
            step = step / 2
        else:
            break
        rest, scale, rss = rest + step, new_scale, new_rss
        if np.abs(step).max() < _SETTLED:
            break
    slopes = _slopes(base, rest, scale, reach)
    return Adjustment(
        orientation,
        shift=np.array(whole) + rest,
        whole=whole,
        scale=scale,
        taps=scale * _shifted(base, rest),
        slopes=slopes,
        covariance=_inverse(slopes.T @ (evidence.stats.gram @ slopes)),
        rss=rss,
        rss_whole=rss_whole,
        rss_there=there,
    )


def _shifted(taps: Array, by: Array) -> Array:
    return taps if not np.any(by) else np.asarray(scipy.ndimage.shift(taps, by, order=_ORDER, mode="constant"))


def _slopes(base: Array, rest: Array, scale: float, reach: npt.NDArray[np.bool_]) -> Array:
    """Return the derivatives of the adjusted taps by the scale and by the shift."""
    columns = [_shifted(base, rest)]
    for axis in (0, 1):
        step = _STEP * np.eye(2)[axis]
        both = (_shifted(base, rest + step), _shifted(base, rest - step))
        columns.append(scale * (both[0] - both[1]) / (2 * _STEP) if reach[axis] else np.zeros_like(base))
    return np.stack([column.ravel() for column in columns], axis=1)


def _inverse(matrix: Array) -> Array:
    """Return the inverse of a small matrix, with what it leaves open taken to be fixed."""
    size = np.sqrt(np.diag(matrix))
    size[size == 0] = 1.0
    return np.asarray(scipy.linalg.pinvh(matrix / np.outer(size, size), rtol=1e-10) / np.outer(size, size))


def best_adjustment(evidence: Evidence, laid: Laid, offset: Shape) -> Adjustment:
    """Return the orientation, scale and shift with which a kernel fits best."""
    # Of orientations alike within five standard errors (chi squared of 25): that of the smallest shift, or the given
    # one.
    made = [one for name in ORIENTATIONS if (one := adjusted(evidence, laid, name, offset)) is not None]
    most = min(one.rss for one in made) * (1 + _EQUAL / max(evidence.stats.n_pixels, 1))
    return min((one for one in made if one.rss <= most), key=lambda one: round(float(np.hypot(*one.shift)), 1))


def constants(evidence: Evidence, adjustment: Adjustment, variance: float) -> list[tuple[float, float]]:
    """Return the constant beside the adjusted kernel, and its standard error, for each target."""
    values, vectors = np.linalg.eigh(variance * adjustment.covariance)
    factor = adjustment.slopes @ (vectors * np.sqrt(np.maximum(values, 0.0)))
    return [
        (
            float(one.coefficients_at(adjustment.taps.reshape(1, -1))[0, 0]),
            float(one.stderr(math.sqrt(variance), factor)[0]),
        )
        for one in evidence.eliminations
    ]


def span_of(laids: list[Laid], around: Box | None, pad: int) -> Box:
    """Return the lags of all of these and those given, and `pad` more on each side of an axis that has several."""
    sides: list[int] = []
    for axis in (0, 1):
        low = [one.first[axis] for one in laids] + ([] if around is None else [around[2 * axis]])
        high = [one.first[axis] + one.taps.shape[axis] for one in laids]
        high += [] if around is None else [around[2 * axis + 1]]
        more = pad if max(high) - min(low) > 1 else 0
        sides += [min(low) - more, max(high) + more]
    return sides[0], sides[1], sides[2], sides[3]


def centred(laid: Laid, row: float, col: float) -> Laid:
    """Return a kernel moved by whole pixels so that its mass lies about a lag."""
    size = np.abs(laid.taps)
    total = float(size.sum())
    at = [float(np.arange(n) @ size.sum(axis=1 - axis)) / total for axis, n in enumerate(laid.taps.shape)]
    rows, cols = (round(to - f - c) for to, f, c in zip((row, col), laid.first, at, strict=True))
    return laid.moved(rows, cols)
