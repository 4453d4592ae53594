"""What nobody said of a pair, found from its pixels: place and size, the kernel's support, stride, a constant."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..analysis.place import Box, first_box, period, reduced, spectral_response
from ..core.findings import PREPARE, Finding, Verdict
from ..core.geometry import Shape, default_origin, kept_length
from ..core.model import Execution, Selection
from ..data.masking import unmasked
from ..data.observation import as_planes
from ..solvers.least_squares import residual_at
from .spans import FEW_TAPS, MOST_TAPS, Pair, SpanFit, count_of, grown_by, moved

#: Emptier sides than at this probability go, and of signals, whose sides are single taps.
_GOES, _GOES_ALONG = 1e-2, 1e-3
#: Most times the pixels are read for the support, and most fits of what was read.
_PASSES, _FITS = 4, 12
#: A side of the first span of signals, at least; taps of a first span that an image that repeats itself may have made.
_ALONG, _LARGE = 65, 600
#: Taps up to which a span grows without a doubt.
_MANY_TAPS = 400
#: A constant so many times its standard error is kept, if it is not that of rounding; a share that is rounding alone.
_CLEAR, _ROUNDING, _EXACT = 4.5, 1e-9, 1e-12
#: With less of the target explained than this, each half of the pair has to predict the other, as well as so far.
_DOUBTFUL, _PREDICTS = 0.9, 0.3
#: With more than this explained a stride is beyond doubt; halves so many pixels apart are not of one stride, and those
#: that the sizes say to be so far apart are not if they are by half and less than twice as much.
_SURE, _APART, _LEAST_DRIFT = 0.999, 2.0, 1.0
#: Values whose squares overflow in sums, and contrast, as a share of the values, that rounding hides.
_HUGE, _FAINT = 1e150, 1e-7
#: Sides up to which images are looked at whole; strides that are looked for; rows more or less than those of a stride.
_WHOLE, _MOST_STRIDE, _MARGIN = 2048, 8, 64


class UnrelatedError(ValueError):
    """No kernel relates the two."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was found of a pair: how the kernel lies on the image, and the same in words."""

    fields: dict[str, Any]
    words: tuple[str, ...]
    findings: tuple[Finding, ...] = ()


def discover(
    image: Any,
    target: Any,
    selection: Selection,
    execution: Execution,
    stride: Shape | None = None,
    enough: float = 0.0,
) -> Found:
    """Return how a target came from an image, both of one plane.

    A kernel that leaves less than `enough` of the target is not looked at for more taps.

    Raises UnrelatedError: if no kernel relates the two. Raises ValueError: for arrays of which nothing can be told.
    """
    for value, name in ((image, "image"), (target, "target")):
        as_planes(unmasked(value)[0], name, None)
    pair = Pair(image, target, selection, Execution(workers=execution.workers))
    for values, name in zip(pair.seen(), ("image", "target"), strict=True):
        _require_detail(values, name)
    fits = []
    for steps in [stride] if stride is not None else _strides(image.shape, target.shape):
        found = _search(_middle(pair, steps), steps, enough)
        if found is not None:
            fits.append(found)
            if found.explained > _DOUBTFUL and not _drift(pair, found):
                break
    best = max(fits, key=lambda one: one.explained, default=None)
    if best is None or not _related(pair, best):
        raise UnrelatedError(_unrelated(pair, best))
    if drift := _drift(pair, best):
        raise ValueError(drift)
    return _told(pair, best)


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
    return Pair(pair.image[rows, cols], pair.target[target_rows, target_cols], pair.selection, pair.execution)


def _strides(image: Shape, target: Shape) -> list[Shape]:
    """Return the strides that the sizes suggest, the likeliest first."""
    whole = []
    for n, m in zip(image, target, strict=True):
        step = min(round(n / m), _MOST_STRIDE)
        whole.append(step if step > 1 and step * (m - 1) < n + _MARGIN else 1)
    likely = (whole[0], whole[1])
    return [likely] if likely == (1, 1) else [likely, (1, 1)]


def _search(pair: Pair, stride: Shape, enough: float) -> SpanFit | None:
    """Return the fit of the span that the kernel takes, None if there is nothing to see of it."""
    image, target = pair.seen()
    looks, threads = [], pair.execution.threads
    for small in [image] if stride == (1, 1) else [reduced(image, stride), *_phases(image, stride)]:
        response = spectral_response(small, target, threads)
        looks.append((*first_box(response, small.shape, target.shape), response, small.shape))
    box, _, response, shape = max(looks, key=lambda look: look[1])
    if count_of(box) * math.prod(stride) > _LARGE and (most := period(image, threads)) is not None:
        pair = dataclasses.replace(pair, most=most)
        box, _ = first_box(response, shape, target.shape, [n // (2 * s) for n, s in zip(most, stride, strict=True)])
    first = pair.within(_wider(box, stride, 9 if min(image.shape) > 1 else _ALONG), stride)
    if first is None:
        return None
    sums = pair.sums(pair.roomy(first, stride), stride)
    box, short, passes = first, False, 1
    if count_of(first) > _LARGE:  # of what is open already in a part of it, all would take long to find
        part = _half(first)
        box = first if pair.fit(part, stride, sums).solution.full else part
    found = pair.fit(box, stride, sums)
    for _ in range(1, _FITS):
        wanted = found.wanted()
        known = found.solution.full and 1 - found.explained >= enough  # else more taps tell nothing
        if not wanted or not known:
            break
        grown = grown_by(box, wanted)
        if not pair.fits(grown, stride):
            grown = _as_far(pair, found, wanted)
            short = grown == box and 1 - found.explained > _EXACT and count_of(box) < MOST_TAPS // 2
        if grown == box or (count_of(grown) > _MANY_TAPS and found.explained < _DOUBTFUL and not _related(pair, found)):
            break
        if not sums.hold(grown):
            if passes >= _PASSES and found.stats.n_taps > FEW_TAPS:
                break
            sums, passes = pair.sums(pair.roomy(grown, stride), stride), passes + 1
        box, found = grown, pair.fit(grown, stride, sums)
    found.rectangle.shrink(_GOES if min(image.shape) > 1 else _GOES_ALONG)
    return dataclasses.replace(found, short=short, period=pair.most if pair.most != Pair.most else None)


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


def _phases(image: Any, stride: Shape) -> Iterator[Any]:
    """Yield the pixels of an image that a stride may have left: what was not blurred before answers to one of them."""
    rows, cols = (n // step * step for n, step in zip(image.shape, stride, strict=True))
    for row, col in np.ndindex(stride):
        yield image[row : rows : stride[0], col : cols : stride[1]]


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


def _ratio(image: Shape, target: Shape) -> str:
    """Say the ratio of the sizes."""
    return " and ".join(f"{n / m:.4g}" for n, m in zip(image, target, strict=True))


def _unrelated(pair: Pair, found: SpanFit | None) -> str:
    """Say that there is no kernel."""
    sizes = f"image {pair.image.shape[0]}x{pair.image.shape[1]}, target {pair.target.shape[0]}x{pair.target.shape[1]}"
    share = (
        "" if found is None else f", the best explains {max(0.0, found.explained):.2g} of the target, as chance does"
    )
    ratio = [n / m for n, m in zip(pair.image.shape, pair.target.shape, strict=True)]
    odd = any(abs(r - round(r)) * m >= 1 for r, m in zip(ratio, pair.target.shape, strict=True))
    size = (
        f"; the sizes have the ratios {_ratio(pair.image.shape, pair.target.shape)} (rows and columns)" if odd else ""
    )
    remedy = "bring both to whole multiples of one size first, or " if odd else ""
    return (
        f"got a pair that no kernel relates ({sizes}{share}){size}; need a target that was made of the image: {remedy}"
        "check that the right files were read and that neither is turned, mirrored or scaled; or give shape= " + PREPARE
    )


def _drift(pair: Pair, found: SpanFit) -> str:
    """Say of which ratio, not a whole one, a target was scaled: its halves are shifted against each other; or nothing.

    A cut of the image itself that passes for every second pixel of it drifts as well.
    """
    if not _plain(pair.selection) or (found.stride != (1, 1) and found.explained > _SURE):
        return ""
    for axis, name in ((0, "rows"), (1, "columns")):
        n, m, step = pair.image.shape[axis], pair.target.shape[axis], found.stride[axis]
        drift = (step * m - n) / 2  # of the second half against the first, if the sizes tell the scale
        if abs(drift) > 0.25 * n or (step == 1 and drift == 0):
            continue
        halves = _halves(pair, found, axis)
        if halves is None:
            continue
        apart = halves[1].centroid()[axis] + step * (m // 2) - halves[0].centroid()[axis]
        told = abs(drift) >= _LEAST_DRIFT and 0.5 < apart / drift < 2
        if told or abs(apart) > max(0.5 * abs(drift), _APART * (step > 1)):
            return (
                f"got {n} {name} in the image and {m} in the target, a ratio of {n / m:.5g}, by which the target was "
                f"scaled; need a whole ratio: scale one of the two to a whole multiple of the other, or give shape= "
                + PREPARE
            )
    return ""


def _told(pair: Pair, found: SpanFit) -> Found:
    """Return the fields of the model, and what was found in words."""
    span, stride = found.span, found.stride
    shape = (span[1] - span[0], span[3] - span[2])
    image, target = tuple(pair.image.shape), tuple(pair.target.shape)
    origin, offset = [], []
    fields: dict[str, Any] = {}
    for axis in (0, 1):
        at, centre = -span[2 * axis], default_origin(shape)[axis]  # origin + offset, of which the offset is that of
        first = min(max(at - centre, 0), stride[axis] - 1)  # the origin next to the centre
        origin.append(at - first)
        offset.append(first)
    lag = [origin[axis] - (shape[axis] - 1) / 2 for axis in (0, 1)]
    same = tuple(kept_length(n, s, o) for n, s, o in zip(image, stride, offset, strict=True)) == target
    left = 100 * (1 - found.explained)
    size = f"a kernel of {shape[0]}x{shape[1]} taps"
    words = [f"{size}, which leaves {left:.2g} % of the target's variance unexplained"]
    sized = _sized(image, target, span) if stride == (1, 1) and not same else None
    if sized is not None:
        shape, mode = sized
        words[0] = words[0].replace(size, f"a kernel of {shape[0]}x{shape[1]} taps")
        fields = {"shape": shape, "mode": mode}
        words.append(
            "the target is smaller by the kernel's sides less one, as without edges"
            if mode == "valid"
            else "the target is larger by the kernel's sides less one, as with edges filled up"
        )
    else:
        fields = {"shape": shape, "mode": "same" if same else "crop", "origin": (origin[0], origin[1])}
        if tuple(origin) == default_origin(shape) and same:
            del fields["origin"]
        if stride != (1, 1):
            fields |= {"stride": stride, "offset": (offset[0], offset[1])}
            words.append(
                f"the target holds one row in {stride[0]} and one column in {stride[1]}, from {(offset[0], offset[1])}"
            )
        shifted = any(abs(d) > (k + 1) / 2 + 1 for d, k in zip(lag, shape, strict=True))
        if not same:
            words.append(f"the target's first pixel lies at about row {lag[0]:g} and column {lag[1]:g} of the image")
        elif shifted:
            words.append(f"the target is shifted by {-lag[0]:g} rows and {-lag[1]:g} columns against the image")
    value, error = found.constant()
    scale = math.sqrt(max(found.stats.target_energy, 0.0) / found.stats.n_pixels)
    if abs(value) > max(_CLEAR * error, _ROUNDING * scale):
        fields["background"] = 0
        words.append(f"a constant of {value:.4g} +- {error:.2g} is added (background=0)")
    n, taps = found.stats.n_pixels, found.stats.n_taps
    detail = f"the kernel goes on beyond {taps} taps, for which the {n} pixels that depend on no boundary are too few"
    remedy = "use more pixels, or give the kernel's shape together with the boundary"
    findings = [Finding(Verdict.SHAPE_TOO_SMALL, detail, remedy)] if found.short else []
    if found.period is not None:
        detail = (
            f"the image repeats itself, so that a kernel of more than {found.period[0]} rows or {found.period[1]} "
            "columns is not determined: parts of it may as well lie one period further"
        )
        findings.append(Finding(Verdict.RANK_DEFICIENT, detail, "use an image that does not repeat itself"))
    return Found(fields, tuple(words), tuple(findings))


def _sized(image: Shape, target: Shape, span: Box) -> tuple[Shape, str] | None:
    """Return the kernel's shape that the sizes tell, and the mode, if the span found goes with one."""
    for mode, sign in (("valid", -1), ("full", 1)):
        shape = tuple(sign * (m - n) + 1 for n, m in zip(image, target, strict=True))
        first = [0 if mode == "full" else 1 - k for k in shape]
        inside = all(
            k >= 1 and low <= span[2 * axis] and span[2 * axis + 1] <= low + k
            for axis, (k, low) in enumerate(zip(shape, first, strict=True))
        )
        near = all(k <= 2 * (span[2 * axis + 1] - span[2 * axis]) + 4 for axis, k in enumerate(shape))
        if inside and near:
            return (shape[0], shape[1]), mode
    return None
