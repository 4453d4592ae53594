"""A pair, the exact fits of spans of lags in it, and what they say of where the kernel ends."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special

from ..analysis.place import Box
from ..analysis.support import Rectangle
from ..core.background import eliminations_of
from ..core.geometry import Shape
from ..core.model import Execution, Model, Noise, Selection
from ..core.normal_equations import NormalEquations
from ..data.masking import unmasked
from ..data.plan import make_plan
from ..engines.forward import correlated
from ..solvers.cholesky import factorise
from ..solvers.least_squares import EPS, LeastSquaresSolution, least_squares
from .statistics import gather

#: A side of a span that is empty with less than this probability makes it grow; so many taps are tested at least.
_GROWS, _EDGE = 1e-4, 4
#: Most taps, and taps for each pixel.
MOST_TAPS, _SHARE = 3000, 0.25
#: Sums are taken of so many lags more on each side at least, of sides that are a multiple and one, if that keeps such a
#: share of the pixels and makes no more taps; a span within them needs no further pass over the pixels.
_LEAST_MORE, _GRID, _KEPT, _MOST_KNOWN = 3, 8, 0.9, 1600
#: Up to so many taps a span grows in larger steps: of more a fit costs more than the pass.
FEW_TAPS = 200
#: Rows and columns at the edges of a target that a filter may not have made: more than few are off by so many sigmas,
#: of frames of one value so many at most, and so many that were copied.
_DEEP, _COPIED, _MOST, _FAR = 12, 3, 0.9, 2.5
#: Half the width of a band in which a displacement is looked for.
_BAND = 12
#: What is left of a target of which rounding alone is left.
EXACT = 1e-12
#: Taps of so many errors stand out; a span much smaller than another has such a part of its taps, and those beyond are
#: empty with more than this probability; so many units of the last place of the target's energy are rounding.
_STANDS_OUT, _MUCH_LESS, _EMPTY, _ROUNDED = 5.0, 0.6, 0.05, 4.0
#: Levels between zero and one of numbers that were integers, and by how much those are off that are.
_LEVELS, _WHOLE = (1, 255, 65535), 0.01
#: Chance, among all the places looked at, at which a fit is one.
_CHANCE = 1e-4


@dataclass(frozen=True, eq=False)
class SpanFit:
    """The exact fit of a span of lags d, ``target[t] = sum_d k[d] image[stride t - d] + constant``."""

    box: Box
    stride: Shape
    stats: NormalEquations
    solution: LeastSquaresSolution
    rectangle: Rectangle
    #: What is left of the target, that of rounding at least.
    rss: float
    #: Whether there are too few pixels for taps that it lacks, and whether there once were for some to be tried.
    short: bool = False
    cramped: bool = False
    #: Whether more taps leave hardly less, and what is left lies at edges, so that no kernel is all of it.
    endless: bool = False
    #: Sides at which the image repeats itself.
    period: Shape | None = None
    #: By how much the span is wider than the rectangle on each side; see `rim_of`.
    rim: Box = (0, 0, 0, 0)
    #: Whether all taps are meant, not those of the rectangle.
    whole: bool = False

    @property
    def explained(self) -> float:
        """Share of the target's variance."""
        return 1.0 - self.solution.rss / self.stats.target_energy if self.stats.target_energy > 0 else 0.0

    @property
    def left(self) -> float:
        """Share of the target's variance that is noise, as the degrees of freedom tell."""
        return self.variance * self.stats.n_pixels / max(self.stats.target_energy, 1e-300)

    @property
    def variance(self) -> float:
        """Variance of the noise of a pixel."""
        return self.rss / self.df_resid if self.df_resid > 0 else math.inf

    @property
    def exact(self) -> bool:
        """Whether rounding alone is left, so that there is no more to explain."""
        return self.solution.rss < self.rss or self.left < EXACT

    @property
    def df_resid(self) -> int:
        """Degrees of freedom of the residual."""
        return self.stats.n_pixels - self.solution.rank

    def wanted(self) -> dict[int, int]:
        """Return by how much each side that is not empty should grow, the least empty first."""
        p_values = {side: self.rectangle.edge_p_value(side, _EDGE) for side in range(4)}
        more = {}
        for side in sorted((s for s in range(4) if p_values[s] < _GROWS), key=p_values.__getitem__):
            length = self.box[side | 1] - self.box[side & 2]
            along = 1 in self.stats.supports[0]  # taps of a signal cost little, and may be thousands
            far = p_values[side] < _GROWS**6 and (self.stats.n_taps <= FEW_TAPS or along)
            more[side] = max(2 * self.stride[side // 2], length // ((2 if along else 4) if far else 8))
        return more

    @property
    def span(self) -> Box:
        """The lags of the rectangle, or of the whole."""
        if self.whole:
            return self.box
        (row, col), (rows, cols) = self.rectangle.corner, self.rectangle.shape
        row, col = row + self.box[0], col + self.box[2]
        return row - self.rim[0], row + rows + self.rim[1], col - self.rim[2], col + cols + self.rim[3]

    @property
    def taps(self) -> npt.NDArray[np.float64]:
        """The taps of `span`, as they are among all, and zeros along its rim."""
        if self.whole:
            return self.solution.taps.reshape(self.stats.supports[0])
        (row, col), (rows, cols) = self.rectangle.corner, self.rectangle.shape
        taps = self.solution.taps.reshape(self.stats.supports[0])[row : row + rows, col : col + cols]
        return np.pad(taps, (self.rim[:2], self.rim[2:]))

    def ends(self, pair: "Pair") -> list[Shape]:
        """Return the rows and the columns of a target for which the image has all that the rectangle asks for."""
        ends = []
        for axis, (n, m, step) in enumerate(zip(pair.image.shape, pair.target.shape, self.stride, strict=True)):
            low, high = self.span[2 * axis : 2 * axis + 2]
            first = max(0, -(-(high - 1) // step))
            ends.append((first, max(first, min(m, (n - 1 + low) // step + 1))))
        return ends

    def by_chance(self, places: int) -> bool:
        """Return whether one of so many places would be expected to fit as well."""
        n, m = self.stats.n_pixels, self.solution.rank
        ratio = (self.stats.target_energy / self.solution.rss - 1) * (n - m) / m if self.solution.rss > 0 else math.inf
        return places * float(scipy.special.fdtrc(m, n - m, ratio)) > _CHANCE

    @property
    def constant(self) -> float:
        """The constant beside the kernel."""
        (elimination,) = eliminations_of(self.stats)
        return float(elimination.coefficients_at(self.solution.taps[None])[0, 0])

    @property
    def constant_error(self) -> float:
        """Its standard error."""
        (elimination,) = eliminations_of(self.stats)
        return float(elimination.stderr(self.solution.noise_std, self.solution.noise_std * self.solution.inverse)[0])

    def core(self, margin: int) -> Box | None:
        """Return the span of the taps that stand out, with a margin or none on each side, if it is much smaller."""
        shape = self.stats.supports[0]
        error = np.sqrt(self.variance * self.solution.spread).reshape(shape)
        clear = np.abs(self.solution.taps.reshape(shape)) > _STANDS_OUT * error
        if not clear.any() or not self.solution.full:
            return None
        sides: list[int] = []
        for axis in (0, 1):
            at = np.flatnonzero(clear.any(axis=1 - axis))
            more = margin + (int(at[-1] - at[0]) + 1) // 2 if margin else 0
            low, high = self.box[2 * axis : 2 * axis + 2]
            sides += [max(low, low + int(at[0]) - more), min(high, low + int(at[-1]) + 1 + more)]
        box = sides[0], sides[1], sides[2], sides[3]
        return box if count_of(box) < _MUCH_LESS * count_of(self.box) else None

    def allows(self, inner: "SpanFit") -> bool:
        """Return whether the taps that a span within lacks may all be zero."""
        count = self.stats.n_taps - inner.stats.n_taps
        excess = inner.solution.rss - self.solution.rss - _ROUNDED * EPS * self.stats.target_energy
        ratio = max(excess, 0.0) / (count * self.variance)
        return float(scipy.special.fdtrc(count, self.df_resid, ratio)) > _EMPTY

    def centroid(self) -> npt.NDArray[np.float64]:
        """Return the lag in the middle of the kernel's largest taps."""
        size = np.abs(self.solution.taps.reshape(self.stats.supports[0]))
        weights = np.maximum(size - 0.4 * size.max(), 0.0)
        at = [np.arange(self.box[2 * axis], self.box[2 * axis + 1]) for axis in (0, 1)]
        return np.asarray([at[axis] @ weights.sum(axis=1 - axis) for axis in (0, 1)] / weights.sum())


@dataclass(frozen=True, eq=False)
class Sums:
    """The equations of a span of lags, which hold those of every span within it."""

    box: Box
    stats: NormalEquations

    def hold(self, box: Box) -> bool:
        """Return whether a span lies within."""
        mine = self.box
        return mine[0] <= box[0] and box[1] <= mine[1] and mine[2] <= box[2] and box[3] <= mine[3]

    def of(self, box: Box) -> NormalEquations:
        """Return the equations of a span within."""
        shape, corner = (box[1] - box[0], box[3] - box[2]), (box[0] - self.box[0], box[2] - self.box[2])
        return self.stats if box == self.box else self.stats.crop(shape, corner)


@dataclass(frozen=True, eq=False)
class Pair:
    """Planes of a pair, and what reads them."""

    image: Any
    target: Any
    selection: Selection
    execution: Execution
    #: Sides up to which the image does not repeat itself within a span.
    most: Shape = (MOST_TAPS, MOST_TAPS)
    #: What lay beyond the edge, and the value there, if that is assumed: then every pixel counts.
    boundary: str | None = None
    fillvalue: float = 0.0
    #: Twice the variance of the rounding of a target pixel before it was averaged over colours.
    rounded: float = 0.0

    def fits(self, box: Box, stride: Shape) -> bool:
        """Return whether there are pixels enough for a span, which does not hold a period of the image."""
        within = box[1] - box[0] <= self.most[0] and box[3] - box[2] <= self.most[1]
        return within and count_of(box) <= min(MOST_TAPS, _SHARE * self.room(box, stride))

    def within(self, box: Box, stride: Shape) -> Box | None:
        """Return the middle of a span, as much of it as there are pixels for."""
        while not self.fits(box, stride):
            sides = (box[1] - box[0], box[3] - box[2])
            # an axis that is short goes first
            most = [min(both) for both in zip(self.image.shape, self.most, strict=True)]
            over = [side > n for side, n in zip(sides, most, strict=True)]
            more = [int(side > 2 and (far or not any(over))) for side, far in zip(sides, over, strict=True)]
            if not any(more):
                return None
            box = (box[0] + more[0], box[1] - more[0], box[2] + more[1], box[3] - more[1])
        return box

    def roomy(self, box: Box, stride: Shape) -> Box:
        """Return a span that is wider where that costs few pixels, of sides for which transforms are planned once."""
        wide = box
        for axis in (0, 1) if stride == (1, 1) else ():  # with a stride spans grow further than that
            side = box[2 * axis + 1] - box[2 * axis]
            more = -(-(side + 2 * max(_LEAST_MORE, side // 8) - 1) // _GRID) * _GRID + 1 - side
            grown = grown_by(wide, {2 * axis: more // 2, 2 * axis + 1: more - more // 2})
            room = self.room(grown, stride)
            if room >= _KEPT * self.room(box, stride) and count_of(grown) <= min(_MOST_KNOWN, 0.5 * room):
                wide = grown
        return wide

    def sums(self, box: Box, stride: Shape) -> Sums:
        """Return the exact equations of a span beside a constant."""
        shape = (box[1] - box[0], box[3] - box[2])
        place: dict[str, Any] = {"mode": "crop", "origin": (-box[0], -box[2]), "stride": stride}
        model = Model(shape, boundary=self.boundary, fillvalue=self.fillvalue, background=0, **place)
        plan = make_plan(self.image, self.target, model, self.selection)
        ((stats, _),) = gather(plan, Noise(), self.execution, sampled=False)
        return Sums(box, stats)

    def fit(self, box: Box, stride: Shape, sums: Sums | None = None) -> SpanFit:
        """Return the exact fit of a span beside a constant, from the sums of a wider one if they are given."""
        stats = (sums or self.sums(box, stride)).of(box)
        solution = least_squares(stats, factorise(stats.gram, self.execution.threads))
        # rounding is not white, so that tests against less would not hold: that of the pixels, and of the sums
        rss = max(solution.rss, self.rounding * stats.n_pixels, EPS * stats.target_energy)
        return SpanFit(box, stride, stats, solution, Rectangle(stats, dataclasses.replace(solution, rss=rss)), rss)

    @functools.cached_property
    def rounding(self) -> float:
        """Twice the variance of the rounding of a target pixel to its type, once for each of two passes."""
        dtype = np.dtype(self.target.dtype)
        if dtype.kind in "iub":
            return 1 / 6
        if self.rounded:
            return self.rounded
        step = max(1, self.target.shape[0] // 64)
        some = np.asarray(self.target[::step], dtype=np.float64)
        some = some[np.isfinite(some)]
        size = float(np.abs(some).max(initial=0.0))
        for levels in _LEVELS:  # integers that were made floating-point numbers
            if size * levels >= 1 and np.all(np.abs(some * levels - np.rint(some * levels)) < _WHOLE):
                return 1 / 6 / levels**2
        return (float(np.finfo(dtype).eps) * size) ** 2 / 6

    def seen(self) -> tuple[Any, Any]:
        """Return both arrays with NaN where a pixel does not count."""
        parts = []
        for array, name in ((self.image, "image_mask"), (self.target, "mask")):
            plain: Any
            plain, own = unmasked(array)
            masks: list[Any] = [mask for mask in (own, getattr(self.selection, name)) if mask is not None]
            if masks:
                bad = functools.reduce(np.logical_or, [np.broadcast_to(mask, plain.shape) for mask in masks])
                plain = np.where(bad, np.nan, plain)
            parts.append(plain)
        return parts[0], parts[1]

    def room(self, box: Box, stride: Shape) -> int:
        """Return how many target pixels have a whole span of the image, or of what is assumed beyond it."""
        if self.boundary is not None:
            inside = box[1] - box[0] <= self.image.shape[0] and box[3] - box[2] <= self.image.shape[1]
            return math.prod(self.target.shape) if inside else 0
        count = 1
        for axis in (0, 1):
            low, high, step = box[2 * axis], box[2 * axis + 1], stride[axis]
            first = max(0, -(-(high - 1) // step))
            last = min(self.target.shape[axis] - 1, (self.image.shape[axis] - 1 + low) // step)
            count *= max(0, last - first + 1)
        return count

    def cut(self, axis: int, half: int) -> "Pair":
        """Return one half of the target with the whole image; lags are those of the whole less where it starts."""
        middle = self.target.shape[axis] // 2
        part = slice(middle, None) if half else slice(None, middle)
        target = self.target[part] if axis == 0 else self.target[:, part]
        return dataclasses.replace(self, target=target)


def displaced(pair: Pair, found: SpanFit, axis: int) -> float:
    """Return by how much the second half of a target is displaced against the first along an axis, at stride 1.

    Two bands tell, about the middle of each half: a small displacement leaves as much of the slope of what the kernel
    makes. It is NaN where the bands have too few pixels.
    """
    ends = found.ends(pair)
    first, last = ends[axis]
    apart = []
    for middle in (first + (last - first) // 4, last - (last - first) // 4):
        ends[axis] = max(first, middle - _BAND), min(last, middle + _BAND)
        if any(end - start < 3 for start, end in ends):
            return math.nan
        seen, made = both(pair, found, ends)
        slope, left = np.gradient(made, axis=axis), seen - made
        known = np.isfinite(left + slope)
        if not known.any():
            return math.nan
        slope = slope[known] - slope[known].mean()
        apart.append(np.vdot(left[known], slope) / max(np.vdot(slope, slope), 1e-300))
    return float(apart[0] - apart[1])


def both(pair: Pair, found: SpanFit, ends: Sequence[Shape]) -> list[npt.NDArray[np.float64]]:
    """Return a part of a target, and what the kernel makes there, in the image, less the constant."""
    (image, target), span, taps = pair.seen(), found.span, found.taps
    before = tuple(
        slice(step * start - span[2 * axis + 1] + 1, step * (end - 1) - span[2 * axis] + 1)
        for axis, ((start, end), step) in enumerate(zip(ends, found.stride, strict=True))
    )
    seen = np.asarray(target[tuple(slice(*end) for end in ends)], dtype=np.float64)
    block = np.asarray(image[before], dtype=np.float64)
    bad = ~np.isfinite(block)
    made = correlated(np.where(bad, 0.0, block), taps[::-1, ::-1])
    if bad.any():
        made[correlated(bad.astype(np.float64), np.ones(taps.shape)) > 0.5] = np.nan
    return [seen, made[:: found.stride[0], :: found.stride[1]]]


def rim_of(pair: Pair, found: SpanFit) -> Box:
    """Return by how much a span has to be wider so that pixels at the edges that the kernel did not make do not count.

    Filters copy or blank pixels whose surroundings are not whole, as many as the sides of their kernels say, zeros
    among them.
    """
    rim, span, constant = [0, 0, 0, 0], found.span, found.constant
    dtype = np.dtype(pair.target.dtype)
    ends = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else None
    for axis, last in itertools.product((0, 1), (False, True)):
        # rows from the end looked at inwards: at the last one lags are turned round: d -> n - m - d
        (n, width), (m, across) = (shape[:: -1 if axis else 1] for shape in (pair.image.shape, pair.target.shape))
        start, side = span[2 * axis], span[2 - 2 * axis : 4 - 2 * axis]
        high = span[2 * axis + 1]
        if last:
            start, high = n - m + 1 - high, n - m + 1 - start
        first, rows = max(0, high - 1), min(_DEEP, m // 4)
        cols = max(0, side[1] - 1), min(across, width + side[0])
        if first >= rows or cols[1] - cols[0] < 3 or (n, width) != (m, across) or not rows <= rows - start <= n:
            continue
        band = slice(m - rows, m) if last else slice(rows)
        image, target = (
            np.moveaxis(np.asarray(array[:, band] if axis else array[band]), axis, 0)[:: -1 if last else 1]
            for array in pair.seen()
        )
        odd = [
            bool(np.all(row == row[0]) or (at < _COPIED and np.mean(row == image[at]) > 1 - _MOST))
            for at, row in enumerate(target[first:], first)
        ]
        if not odd[0]:
            continue
        part = ((m - rows, m - first) if last else (first, rows), cols)
        seen, made = both(pair, found, part[::-1] if axis else part)
        made += constant
        off = np.moveaxis(np.abs(seen - (np.clip(made, *ends) if ends else made)), axis, 0)[:: -1 if last else 1]
        least = max(_FAR * math.sqrt(found.variance), 1e-9 * float(np.nanmax(np.abs(made))))
        bad = [
            one and bool(np.isfinite(row).any() and np.nanquantile(row, _MOST) > least)
            for one, row in zip(odd, off, strict=True)
        ]
        rim[2 * axis + (0 if last else 1)] = bad.index(False) if False in bad else len(bad)
    return rim[0], rim[1], rim[2], rim[3]


def grown_by(box: Box, more: Mapping[int, int]) -> Box:
    """Return a span whose sides are further out."""
    sides = list(box)
    for side, by in more.items():
        sides[side] += by if side % 2 else -by
    return sides[0], sides[1], sides[2], sides[3]


def moved(box: Box, axis: int, by: int) -> Box:
    """Return a span moved along an axis."""
    rows, cols = (0, by) if axis else (by, 0)
    return box[0] + rows, box[1] + rows, box[2] + cols, box[3] + cols


def count_of(box: Box) -> int:
    """Return the number of lags in a span."""
    return (box[1] - box[0]) * (box[3] - box[2])
