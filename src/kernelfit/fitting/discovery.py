"""What nobody said of a pair, found from its pixels: place and size, the kernel's support, stride, a constant."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.special

from ..analysis.place import Box, first_box, looks_at, peak_lag, period, standing_out
from ..core.findings import PREPARE
from ..core.geometry import BOUNDARIES, Shape
from ..core.model import Execution, Selection
from ..data.masking import unmasked
from ..data.observation import as_planes
from ..solvers.least_squares import residual_at
from .found import MOST_STRIDE, Found, told, unrelated
from .spans import FEW_TAPS, MOST_TAPS, Pair, SpanFit, count_of, grown_by, moved, rim_of

#: Emptier sides than at this probability go, and of signals, whose sides are single taps.
_GOES, _GOES_ALONG = 1e-2, 1e-3
#: Most times the pixels are read for the support, and most fits of what was read.
_PASSES, _FITS = 4, 12
#: A side of the first span of signals, at least; taps of a first span that an image that repeats itself may have made.
_ALONG, _LARGE = 65, 600
#: Taps up to which a span grows without a doubt.
_MANY_TAPS = 400
#: A share of the target that is rounding alone.
_EXACT = 1e-12
#: With less of the target explained than this, each half of the pair has to predict the other, as well as so far.
_DOUBTFUL, _PREDICTS = 0.9, 0.3
#: With more than this explained a stride is beyond doubt; halves so many pixels apart are not of one stride, and those
#: that the sizes say to be so far apart are not if they are by half and less than twice as much.
_SURE, _APART, _LEAST_DRIFT = 0.999, 2.0, 1.0
#: Values whose squares overflow in sums, and contrast, as a share of the values, that rounding hides.
_HUGE, _FAINT = 1e150, 1e-7
#: Sides up to which images are looked at whole; rows more or less than those of a stride.
_WHOLE, _MARGIN = 2048, 64
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
) -> Found:
    """Return how a target came from an image, both of one plane.

    A kernel that leaves less than `enough` of the target is not looked at for more taps. `edges` says what lay beyond
    them, and the value there; it is used, and where it is not said looked for, if the pixels inside are too few.

    Raises UnrelatedError: if no kernel relates the two. Raises ValueError: for arrays of which nothing can be told.
    """
    for value, name in ((image, "image"), (target, "target")):
        as_planes(unmasked(value)[0], name, None)
    pair = Pair(image, target, selection, Execution(workers=execution.workers))
    for values, name in zip(pair.seen(), ("image", "target"), strict=True):
        _require_detail(values, name)
    fits: list[SpanFit] = []
    for steps, clear in [(stride, _DOUBTFUL)] if stride is not None else _strides(pair, fits):
        found = _search(_middle(pair, steps), steps, enough)
        if found is not None:
            fits.append(found)
            if found.explained > clear and not _drift(pair, found):
                break
    best = min(fits, key=lambda one: one.left, default=None)
    related = best is not None and _related(pair, best)
    others: tuple[str, ...] = ()
    if best is None or not related or (best.cramped and best.left > _EXACT) or best.left > _MUCH:
        known = best if related else None
        extended = _extended(pair, (1, 1) if known is None else known.stride, known, enough, edges)
        doubtful = not related and best is not None and not best.cramped
        if extended is not None and (not doubtful or extended[1].explained > _DOUBTFUL):
            pair, best, others = extended
            related = True
    if best is None or not related:
        raise UnrelatedError(unrelated(pair, best))
    if drift := _drift(pair, best):
        raise ValueError(drift)
    if best.stride == (1, 1) and pair.boundary is None:
        best = dataclasses.replace(best, rim=rim_of(pair, best))
    return told(pair, best, others)


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
    if block.dtype.kind == "f":
        block = block[np.isfinite(block)]
    if not block.size:
        raise ValueError(f"got {name} without a finite pixel that counts, need some; check the file and the mask")
    low, high = float(block.min()), float(block.max())
    size = max(abs(low), abs(high))
    if size > _HUGE:
        raise ValueError(f"got {name} with values up to {size:.2g}, whose squares overflow; divide both by a constant")
    if name == "image" and not high - low > _FAINT * size:
        raise ValueError(
            f"got image of one value, {low:g}, or nearly so, need one that varies; take a constant off, or give shape="
        )


def _middle(pair: Pair, stride: Shape) -> Pair:
    """Return the middle of a pair that is large and as large as the stride says, so that lags stay what they are."""
    parts = []
    for n, m, step in zip(pair.image.shape, pair.target.shape, stride, strict=True):
        if abs(n - step * m) > _MARGIN or not _plain(pair.selection) or n <= _WHOLE:
            parts.append((slice(None), slice(None)))
        else:
            start, count = (m - _WHOLE // step) // 2, _WHOLE // step
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


def _search(pair: Pair, stride: Shape, enough: float) -> SpanFit | None:
    """Return the fit of the span that the kernel takes, None if there is nothing to see of it."""
    image, target = pair.seen()
    threads = pair.execution.threads
    looks = looks_at(image, target, stride, threads, means=True, phases=True)
    box, _, response, shape = max(looks, key=lambda look: look.height)
    if count_of(box) * math.prod(stride) > _LARGE and (most := period(image, threads)) is not None:
        pair = dataclasses.replace(pair, most=most)
        box, _ = first_box(response, shape, target.shape, [n // (2 * s) for n, s in zip(most, stride, strict=True)])
    least = 9 if min(image.shape) > 1 else _ALONG
    wide = _wider(box, stride, least)
    first: Box | None = wide
    if pair.boundary is not None and image.shape == target.shape:  # so small that no place stands out
        first = pair.within((-(least // 2), least // 2 + 1) * 2, stride)
    elif not pair.fits(wide, stride):  # what stands out may be chance, but for the largest
        row, col = peak_lag(response, shape, target.shape)
        first = pair.within(_wider((row, row + 1, col, col + 1), stride, least), stride)
    if first is None:
        return None
    sums = pair.sums(pair.roomy(first, stride), stride)
    box, short, cramped, passes = first, False, first != wide, 1
    if count_of(first) > _LARGE:  # of what is open already in a part of it, all would take long to find
        part = _half(first)
        box = first if pair.fit(part, stride, sums).solution.full else part
    found, seen = pair.fit(box, stride, sums), {box}
    for _ in range(1, _FITS):
        wanted = found.wanted()
        known = found.solution.full and 1 - found.explained >= enough  # else more taps tell nothing
        if not wanted or not known:
            break
        grown = grown_by(box, wanted)
        if not pair.fits(grown, stride):
            grown = _as_far(pair, found, wanted)
            cramped = True
            short = grown == box and 1 - found.explained > _EXACT and count_of(box) < MOST_TAPS // 2
        if grown in seen or (
            count_of(grown) > _MANY_TAPS and found.explained < _DOUBTFUL and not _related(pair, found)
        ):
            break
        if not sums.hold(grown):
            if passes >= _PASSES and found.stats.n_taps > FEW_TAPS:
                break
            sums, passes = pair.sums(pair.roomy(grown, stride), stride), passes + 1
        seen.add(grown)
        box, found = grown, pair.fit(grown, stride, sums)
    found.rectangle.shrink(_GOES if min(image.shape) > 1 else _GOES_ALONG)
    return dataclasses.replace(
        found, short=short, cramped=cramped, period=pair.most if pair.most != Pair.most else None
    )


def _half(box: Box) -> Box:
    """Return the middle of a span, half as long along each axis."""
    by = [(box[2 * axis + 1] - box[2 * axis]) // 4 for axis in (0, 1)]
    return box[0] + by[0], box[1] - by[0], box[2] + by[1], box[3] - by[1]


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
