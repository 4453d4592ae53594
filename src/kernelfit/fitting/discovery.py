"""What nobody said of a pair, found from its pixels: place and size, the kernel's support, stride, a constant."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from ..analysis.place import (
    Box,
    Look,
    Orientation,
    first_box,
    looks_at,
    other_orientation,
    peak_lag,
    period,
    standing_out,
)
from ..core.findings import PREPARE
from ..core.geometry import BOUNDARIES, Shape
from ..core.model import Execution, Selection
from ..data.masking import unmasked
from ..data.observation import as_planes
from ..solvers.least_squares import residual_at
from .found import MOST_STRIDE, Found, lying_otherwise, told, unrelated
from .spans import EXACT, FEW_TAPS, MOST_TAPS, Pair, SpanFit, count_of, displaced, grown_by, moved, rim_of
from .strays import follows_slope, heavy, near_edges, share_around, without_strays

#: Emptier sides than at this probability go, and of signals, whose sides are single taps.
_GOES, _GOES_ALONG = 1e-2, 1e-3
#: Most times the pixels are read for the support, and most fits of what was read.
_PASSES, _FITS = 4, 12
#: A response so many times the usual one needs no second look.
_PLAIN_TO_SEE = 20.0
#: A side of the first span of signals, at least; taps of a first span that an image that repeats itself may have made.
_ALONG, _LARGE = 65, 600
#: Taps up to which a span grows without a doubt.
_MANY_TAPS = 400
#: Rows and columns at the edges, not made by the kernel, that zeros around it leave out; more are strays.
_RIM = 3
#: Looks after pixels that no kernel made are mended, which is done as often at most, with so many taps a side, until
#: their share changes by less; once it changes by less than this, the look was the last.
_LOOKS, _MOST_MENDED, _FIRST_SIDE, _SETTLED, _AGAIN = 2, 10, 11, 0.01, 0.1
#: More taps than many have to leave such a part of the variance, if most of it is at edges; and such a part anywhere.
_GAIN, _NO_GAIN = 0.9, 0.99
#: With less of the target explained than this, each half of the pair has to predict the other, as well as so far.
_DOUBTFUL, _PREDICTS = 0.9, 0.3
#: With more than this explained a stride is beyond doubt; halves so many pixels apart are not of one stride, and those
#: that the sizes say to be so far apart are not if they are by half and less than twice as much.
_SURE, _APART, _LEAST_DRIFT = 0.999, 2.0, 1.0
#: A displacement of the halves by a smaller part of what the sizes say is none.
_IN_PLACE = 0.2
#: Values whose squares overflow in sums, and contrast, as a share of the values, that rounding hides.
_HUGE, _FAINT = 1e150, 1e-7
#: Sides up to which images are looked at whole, signals up to the square; pixels up to which they are where their
#: middles tell nothing; rows more or less than those of a stride.
_WHOLE, _WHOLE_AT_LAST, _MARGIN = 2048, 2**24, 64
#: Pixels up to which a boundary is looked for that lets all of them count, if those inside leave so much of them; one
#: that fits less probably is ruled out.
_SMALL, _MUCH, _RULED_OUT = 2**14, 0.01, 1e-3


class UnrelatedError(ValueError):
    """No kernel relates the two."""


def discover(
    image: Any,
    target: Any,
    selection: Selection,
    execution: Execution,
    stride: Shape | None = None,
    enough: float = 0.0,
    edges: tuple[str | None, float] = (None, 0.0),
    colours: int = 0,
    around: tuple[Any, Any, Selection] | None = None,
) -> Found:
    """Return how a target came from an image, both of one plane, the target perhaps the mean of so many integer ones.

    Both may be the middle of those `around`, with a selection of their own, at whose edges pixels that the kernel did
    not make are then looked for.

    A kernel that leaves less than `enough` of the target is not looked at for more taps. `edges` says what lay beyond
    them, and the value there; it is used, and where it is not said looked for, if the pixels inside are too few.

    Raises UnrelatedError: if no kernel relates the two. Raises ValueError: for arrays of which nothing can be told.
    """
    for value, name in ((image, "image"), (target, "target")):
        as_planes(unmasked(value)[0], name, None)
    pair = Pair(image, target, selection, Execution(workers=execution.workers))
    pair = dataclasses.replace(pair, rounded=1 / 6 / colours) if colours else pair
    for values, name in zip(pair.seen(), ("image", "target"), strict=True):
        _require_detail(values, name)
    looked = first = _settled(pair, stride, enough, edges)
    strays = 0.0
    if first.fit is not None and heavy(pair, first.fit):
        mended = _mended(pair, first.fit.stride)
        for _ in range(_LOOKS):
            if mended is None or abs(mended[1] - strays) < _AGAIN * strays:
                break
            looked, strays = _settled(mended[0], stride, enough, edges), mended[1]
            mended = without_strays(pair, looked.fit) if looked.fit is not None and looked.related else None
        # what is left has to look like noise
        if looked.fit is None or not looked.related or heavy(looked.pair, looked.fit):
            looked, strays = first, 0.0
    pair, best = looked.pair, looked.fit
    if best is None or not looked.related:
        raise UnrelatedError(unrelated(pair, best))
    if not looked.still and (drift := _drift(pair, best)):
        raise ValueError(drift)
    if best.stride == (1, 1) and pair.boundary is None:
        whole = pair if around is None else Pair(*around, pair.execution, rounded=pair.rounded)
        rim = rim_of(whole, best)
        if not strays and (around is not None or _middle(pair, best.stride) is not pair):
            strays = share_around(whole, dataclasses.replace(best, rim=rim))
        if strays or max(rim) > _RIM:
            strays = strays or (rim[0] + rim[1]) / pair.target.shape[0] + (rim[2] + rim[3]) / pair.target.shape[1]
        else:
            best = dataclasses.replace(best, rim=rim)
    return told(pair, best, looked.others, strays)


def _mended(pair: Pair, stride: Shape) -> tuple[Pair, float] | None:
    """Return a pair without strays, which a few taps about the place tell, until those settle; and their share."""
    mended, share = pair, 0.0
    for _ in range(_MOST_MENDED):
        image, target = mended.seen()
        (look,) = looks_at(image, target, stride, pair.execution.threads, means=True, phases=False)
        row, col = peak_lag(look.response, look.shape, target.shape)
        box = pair.within(_wider((row, row + 1, col, col + 1), stride, _FIRST_SIDE), stride)
        found = without_strays(pair, mended.fit(box, stride)) if box is not None else None
        if found is None or abs(found[1] - share) < _SETTLED * share:
            return found
        mended, share = found
    return mended, share


class _Looked(NamedTuple):
    """The fit that leaves least of a pair; with which boundary, and what others are not ruled out."""

    pair: Pair
    fit: SpanFit | None
    others: tuple[str, ...] = ()
    related: bool = True
    #: Whether it is known that the halves are not displaced.
    still: bool = False


def _settled(pair: Pair, stride: Shape | None, enough: float, edges: tuple[str | None, float]) -> _Looked:
    """Look for the fit that leaves least of a pair, with a boundary where it needs one."""
    fits: list[SpanFit] = []
    whole: SpanFit | None = None
    threads, plain = pair.execution.threads, True
    other: Orientation | None = None
    for steps, clear in [(stride, _DOUBTFUL)] if stride is not None else _strides(pair, fits):
        middle = _middle(pair, steps)
        looks = looks_at(*middle.seen(), steps, threads, means=True, phases=False)
        if plain and looks[0].height < _PLAIN_TO_SEE:
            plain, other = False, other_orientation(*pair.seen(), threads)
            if other is not None and not other.smaller:
                break
        found = _search(middle, steps, enough, looks)
        if middle is not pair and (found is None or not _related(middle, found)):  # it may lie far off
            if math.prod(pair.image.shape) <= _WHOLE_AT_LAST:
                found = _search(pair, steps, enough) or found
        if found is not None:
            fits.append(found)
            if found.explained > clear and not _drift(pair, found):
                whole = found
                break
    best = min(fits, key=lambda one: one.left, default=None)
    if plain and (best is None or best.explained <= _DOUBTFUL):
        other = other_orientation(*pair.seen(), threads)
    if other is not None:
        fits_stride = best is not None and (best.explained > _DOUBTFUL or other.like(best.stride))
        if not (other.smaller and fits_stride):
            raise UnrelatedError(lying_otherwise(other, pair.image.shape, pair.target.shape))
    related = best is not None and _related(pair, best)
    if best is None or not related or (best.cramped and best.left > EXACT) or best.left > _MUCH:
        known = best if related else None
        extended = _extended(pair, (1, 1) if known is None else known.stride, known, enough, edges)
        doubtful = not related and best is not None and not best.cramped
        if extended is not None and (not doubtful or extended[1].explained > _DOUBTFUL):
            return _Looked(*extended)
    return _Looked(pair, best, related=related, still=best is whole)


def _extended(
    pair: Pair, stride: Shape, known: SpanFit | None, enough: float, edges: tuple[str | None, float]
) -> tuple[Pair, SpanFit, tuple[str, ...]] | None:
    """Return a small pair with what lay beyond its edges, its fit, and what else may have; None if nothing fits.

    It has to leave less of each pixel than the fit `known` of the pixels inside, where there is one.
    """
    if math.prod(pair.target.shape) > _SMALL or any(
        n > 2 * m for n, m in zip(pair.image.shape, pair.target.shape, strict=True)
    ):
        return None
    names = [name for name in BOUNDARIES if name is not None] if edges[0] is None else [edges[0]]
    tried = []
    for name in names:
        one = dataclasses.replace(pair, boundary=name, fillvalue=edges[1] if name == "fill" else 0.0)
        found = _search(one, stride, enough)
        if found is not None and _related(one, found):
            tried.append((one, found))
    if not tried:
        return None
    one, found = min(tried, key=lambda both: both[1].variance)

    def worse(other: SpanFit) -> bool:
        ratio = scipy.special.fdtri(max(other.df_resid, 1), max(found.df_resid, 1), 1 - _RULED_OUT)
        return bool(other.variance > ratio * found.variance)

    if known is not None and not worse(known):
        return None
    others = [str(other.boundary) for other, fit in tried if fit is not found and not worse(fit)]
    return one, found, tuple(others)


def _require_detail(values: Any, name: str) -> None:
    """Refuse an array of which nothing can be told: without a finite pixel, or an image of one value."""
    block = np.asarray(values)
    low, high = (float(end(block)) if block.size else np.nan for end in (np.min, np.max))
    if not np.isfinite(high - low):
        block = block[np.isfinite(block)]
        if not block.size:
            raise ValueError(f"got {name} without a finite pixel that counts, need some; check the file and the mask")
        low, high = float(block.min()), float(block.max())
    size = max(abs(low), abs(high))
    if size > _HUGE:
        raise ValueError(f"got {name} with values up to {size:.2g}, whose squares overflow; divide both by a constant")
    if 0 < size < 1 / _HUGE:
        raise ValueError(
            f"got {name} with values up to {size:.2g}, whose squares underflow; multiply both by a constant"
        )
    if name == "image" and not high - low > _FAINT * size:
        raise ValueError(
            f"got image of one value, {low:g}, or nearly so, need one that varies; take a constant off, or give shape="
        )


def _middle(pair: Pair, stride: Shape) -> Pair:
    """Return the middle of a pair that is large and as large as the stride says, so that lags stay what they are."""
    parts, whole = [], _WHOLE if min(pair.image.shape) > 1 else _WHOLE**2
    for n, m, step in zip(pair.image.shape, pair.target.shape, stride, strict=True):
        if abs(n - step * m) > _MARGIN or not _plain(pair.selection) or n <= whole:
            parts.append((slice(None), slice(None)))
        else:
            start, count = (m - whole // step) // 2, whole // step
            parts.append((slice(step * start, step * (start + count)), slice(start, start + count)))
    if all(part[0] == slice(None) for part in parts):
        return pair
    (rows, target_rows), (cols, target_cols) = parts
    return dataclasses.replace(pair, image=pair.image[rows, cols], target=pair.target[target_rows, target_cols])


def _strides(pair: Pair, fits: list[SpanFit]) -> Iterator[tuple[Shape, float]]:
    """Yield the strides that a pair may have, the likeliest first: that of the sizes, then by what stands out.

    It ends if one of the `fits` made on the way leaves little. With each comes the share of the target that it has to
    explain to be beyond doubt.
    """
    sizes = list(zip(pair.image.shape, pair.target.shape, strict=True))
    by_size = tuple(min(max(1, round(n / m)), MOST_STRIDE) for n, m in sizes)
    first = (by_size[0], by_size[1])
    likely = first == (1, 1) or all(abs(n - step * m) < step for (n, m), step in zip(sizes, by_size, strict=True))
    if likely:
        yield first, _DOUBTFUL
    down, across = (
        [s for s in range(1, MOST_STRIDE + 1) if s == 1 or (s <= n and s * (m - 1) < n + min(_MARGIN, n // 8))]
        for n, m in sizes
    )
    if len(down) * len(across) == 1:
        if not likely:
            yield (1, 1), _DOUBTFUL
        return
    seen, threads = pair.seen(), pair.execution.threads
    tried = [first] if likely else []
    for phases in (False, True):  # what was not blurred shows in single pixels of the image only
        if phases and any(found.explained > _DOUBTFUL for found in fits):
            return
        for steps in standing_out(*seen, list(itertools.product(down, across)), threads, phases=phases):
            if steps not in tried:
                tried.append(steps)
                yield steps, _SURE


def _search(pair: Pair, stride: Shape, enough: float, looks: list[Look] | None = None) -> SpanFit | None:
    """Return the fit of the span that the kernel takes, None if there is nothing to see of it."""
    image, target = pair.seen()
    threads = pair.execution.threads
    looks = looks or looks_at(image, target, stride, threads, means=True, phases=False)
    if looks[0].height < _PLAIN_TO_SEE:  # what was not blurred before shows in single pixels only
        looks += looks_at(image, target, stride, threads, means=False, phases=True)
    box, _, response, shape = max(looks, key=lambda look: look.height)
    if count_of(box) * math.prod(stride) > _LARGE and (most := period(image, threads)) is not None:
        pair = dataclasses.replace(pair, most=most)
        box, _ = first_box(response, shape, target.shape, [n // (2 * s) for n, s in zip(most, stride, strict=True)])
    least = 9 if min(image.shape) > 1 else _ALONG
    wide = _wider(box, stride, least)
    row, col = peak_lag(response, shape, target.shape)
    peak = _wider((row, row + 1, col, col + 1), stride, least)
    first: Box | None = wide
    if pair.boundary is not None and image.shape == target.shape:  # so small that no place stands out
        first = pair.within((-(least // 2), least // 2 + 1) * 2, stride)
    elif not pair.fits(wide, stride):  # what stands out may be chance, but for the largest
        first = pair.within(peak, stride)
    if first is None:
        return None
    # of what is open already in a part of it, or known, all would take long to find
    large = count_of(first) > (_LARGE if stride == (1, 1) else FEW_TAPS)
    box, short, cramped, passes = _half(first, (row, col), stride) if large else first, False, first != wide, 1
    sums = pair.sums(pair.roomy(box, stride), stride)
    found, seen = pair.fit(box, stride, sums), {box}
    endless, before = False, math.inf
    if box != first and found.solution.full and (not found.exact or found.wanted()):
        part = pair.fit(peak, stride, sums) if sums.hold(peak) else None
        if part is not None and found.variance > _GAIN * part.variance:
            endless = follows_slope(pair, found)  # few do as well, and noise it is not: no number of taps will do
        box = peak if endless else first
        if not sums.hold(box):
            sums = pair.sums(pair.roomy(box, stride), stride)
        found, seen = pair.fit(box, stride, sums), {box}
    for _ in range(1, 1 if endless else _FITS):
        wanted = found.wanted()
        known = found.solution.full and 1 - found.explained >= enough  # else more taps tell nothing
        if not wanted or not known:
            break
        grown = grown_by(box, wanted)
        if not pair.fits(grown, stride):
            grown = _as_far(pair, found, wanted)
            cramped = True
            short = grown == box and 1 - found.explained > EXACT and count_of(box) < MOST_TAPS // 2
        if grown in seen or (
            count_of(grown) > _MANY_TAPS and found.explained < _DOUBTFUL and not _related(pair, found)
        ):
            break
        if count_of(grown) > _MANY_TAPS and found.variance > _GAIN * before:
            endless = near_edges(pair, found)  # no number of taps would do
            if endless or found.explained < _DOUBTFUL or found.variance > _NO_GAIN * before:
                break
        if not sums.hold(grown):
            if passes >= (_PASSES if min(image.shape) > 1 else _FITS) and found.stats.n_taps > FEW_TAPS:
                break
            sums, passes = pair.sums(pair.roomy(grown, stride), stride), passes + 1
        seen.add(grown)
        before = found.variance
        box, found = grown, pair.fit(grown, stride, sums)
    for margin in (2, 0):  # most sides go at once
        if (core := found.core(margin)) is not None and found.allows(inner := pair.fit(core, stride, sums)):
            found = inner
    found.rectangle.shrink(_GOES if min(image.shape) > 1 else _GOES_ALONG)
    most = pair.most if pair.most != Pair.most else None
    return dataclasses.replace(found, short=short, cramped=cramped, endless=endless, period=most)


def _half(box: Box, lag: Shape, stride: Shape) -> Box:
    """Return a part of a span about a lag of blocks, half as long along each axis."""
    sides: list[int] = []
    for axis in (0, 1):
        low, high = box[2 * axis : 2 * axis + 2]
        side = high - low - 2 * ((high - low) // 4)
        start = min(max(low, stride[axis] * lag[axis] - (stride[axis] - 1) // 2 - side // 2), high - side)
        sides += [start, start + side]
    return sides[0], sides[1], sides[2], sides[3]


def _as_far(pair: Pair, found: SpanFit, wanted: Mapping[int, int]) -> Box:
    """Return a span that has grown as far as there are pixels for, less what is empty of it; or the one there is."""
    box = found.box
    found.rectangle.shrink(_GOES)
    grown = found.span
    for side, by in wanted.items():
        tries = [grown_by(grown, {side: by // share}) for share in (1, 2, 4) if by // share]
        grown = next((one for one in tries if pair.fits(one, found.stride)), grown)
    beyond = any((grown[side] - box[side]) * (1 if side % 2 else -1) > 0 for side in wanted)
    return grown if beyond else box


def _wider(box: Box, stride: Shape, least: int) -> Box:
    """Return a span of lags of blocks in pixels of the image, somewhat wider than it is, and at least so wide."""
    sides = []
    for axis in (0, 1):
        low, high, step = box[2 * axis], box[2 * axis + 1], stride[axis]
        low, high = step * low - (step - 1), step * high - (step - 1)
        more = max(step + 1, (least - (high - low)) // 2)
        sides += [low - more, high + more]
    return sides[0], sides[1], sides[2], sides[3]


def _related(pair: Pair, found: SpanFit) -> bool:
    """Return whether the kernel is more than chance: by its fit, and in doubt by what halves tell of each other."""
    if found.by_chance(math.prod(pair.image.shape) + math.prod(pair.target.shape)):
        return False
    if found.explained > _DOUBTFUL or not _plain(pair.selection):
        return True
    for axis in (0, 1):
        halves = _halves(pair, found, axis)
        for one, other in (halves, halves[::-1]) if halves is not None else ():
            left = residual_at(other.stats, one.solution.taps)[1]
            if 1 - left / max(other.stats.target_energy, 1e-300) < _PREDICTS * found.explained:
                return False
    return True


def _halves(pair: Pair, found: SpanFit, axis: int) -> list[SpanFit] | None:
    """Return the fits of both halves of the target along an axis; None where a half is too small."""
    start = found.stride[axis] * (pair.target.shape[axis] // 2)
    parts, box = [pair.cut(axis, half) for half in (0, 1)], found.span
    for half, part in enumerate(parts):
        room = part.within(moved(box, axis, -half * start), found.stride)
        if room is None:
            return None
        box = moved(room, axis, half * start)
    return [part.fit(moved(box, axis, -half * start), found.stride) for half, part in enumerate(parts)]


def _plain(selection: Selection) -> bool:
    """Return whether nothing was said of single pixels."""
    return selection.mask is None and selection.image_mask is None and selection.weights is None


def _drift(pair: Pair, found: SpanFit) -> str:
    """Say of which ratio, not a whole one, a target was scaled: its halves are shifted against each other; or nothing.

    A cut of the image itself that passes for every second pixel of it drifts as well.
    """
    if not _plain(pair.selection) or (found.stride != (1, 1) and found.explained > _SURE):
        return ""
    for axis, name in ((0, "rows"), (1, "columns")):
        n, m, step = pair.image.shape[axis], pair.target.shape[axis], found.stride[axis]
        drift = (step * m - n) / 2  # of the second half against the first, if the sizes tell the scale
        sized = abs(drift) <= 0.25 * n
        if step == 1 and not (sized and drift):
            continue
        if step == 1 and found.explained > _DOUBTFUL and abs(displaced(pair, found, axis)) < _IN_PLACE * abs(drift):
            continue
        halves = _halves(pair, found, axis)
        if halves is None:
            continue
        apart = halves[1].centroid()[axis] + step * (m // 2) - halves[0].centroid()[axis]
        scaled = sized and abs(drift) >= _LEAST_DRIFT and 0.5 < apart / drift < 2
        if scaled or abs(apart) > (0.5 * abs(drift) if step == 1 else _APART):
            sides = f"{n} {name} in the image and {m} in the target, a ratio of {n / m:.5g}"
            ratio = step - 2 * apart / m
            return (
                (
                    f"got {sides}, by which the target was scaled"
                    if scaled
                    else f"got a target whose {name} were scaled by a ratio of about {ratio:.3g} ({sides})"
                )
                + "; need a whole ratio: scale one of the two to a whole multiple of the other, or give shape= "
                + PREPARE
            )
    return ""
