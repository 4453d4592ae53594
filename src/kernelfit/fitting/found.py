"""What was found of a pair: the fields of a model, and the same in words."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..analysis.place import AS_GIVEN, ORIENTATIONS, Box, Orientation
from ..core.findings import PREPARE, Finding, Verdict
from ..core.geometry import Shape, default_origin, kept_length
from .spans import Pair, SpanFit

#: A constant so many times its standard error is kept, if it is not that of rounding; strides that are looked for.
_CLEAR, _ROUNDING, MOST_STRIDE = 4.5, 1e-9, 8


#: Rows or columns up to which they may be channels of a signal so many times as long.
_CHANNELS, _LONG = 16, 50


@dataclass(frozen=True, eq=False)
class Found:
    """What was found of a pair: how the kernel lies on the image, and the same in words."""

    fields: dict[str, Any]
    words: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    #: Share of the target's pixels that no kernel made.
    strays: float = 0.0
    #: Share of the target's variance that is left.
    left: float = 0.0
    #: The largest tap, of one plane.
    peak: tuple[int, int] | None = None


def told(pair: Pair, found: SpanFit, others: tuple[str, ...] = (), strays: float = 0.0) -> Found:
    """Return the fields of the model, and what was found in words; `others` are boundaries that are not ruled out."""
    span, stride = found.span, found.stride
    shape = (span[1] - span[0], span[3] - span[2])
    image, target = tuple(pair.image.shape), tuple(pair.target.shape)
    origin, offset = [], []
    fields: dict[str, Any] = {}
    for axis in (0, 1):
        at, centre, step = -span[2 * axis], default_origin(shape)[axis], stride[axis]
        # origin + offset, of which the offset is that of an origin in the centre, or as near as whole strides allow
        first = max(at - centre, 0) if at - centre < step else (at - centre) % step
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
        elif shifted and 1 in image:  # a signal
            along = int(image[0] == 1)
            first = -origin[along]
            words.append(f"the kernel's lags are {first} to {first + shape[along] - 1}")
        elif shifted:
            words.append(f"the target is shifted by {-lag[0]:g} rows and {-lag[1]:g} columns against the image")
    if any(found.rim):
        words.append("pixels at the target's edges were not made by it: zeros around the kernel leave them out")
    if pair.boundary is not None:
        fields |= {"boundary": pair.boundary} | ({"fillvalue": pair.fillvalue} if pair.fillvalue else {})
        doubt = f"; {' and '.join(map(repr, others))} not ruled out" if others else ""
        words.append(
            f"boundary={pair.boundary!r} is assumed, since too few pixels are independent of the edges to tell the "
            f"kernel without one{doubt}"
        )
    value, error = found.constant, found.constant_error
    scale = math.sqrt(max(found.stats.target_energy, 0.0) / found.stats.n_pixels)
    if abs(value) > max(_CLEAR * error, _ROUNDING * scale):
        fields["background"] = 0
        words.append(f"a constant of {value:.4g} +- {error:.2g} is added (background=0)")
    n, taps = found.stats.n_pixels, found.stats.n_taps
    which = "" if pair.boundary else " that depend on no boundary"
    detail = f"the kernel goes on beyond {taps} taps, for which the {n} pixels{which} are too few"
    remedy = "use more pixels, or give the kernel's shape together with the boundary"
    findings = [Finding(Verdict.SHAPE_TOO_SMALL, detail, remedy)] if found.short else []
    if found.endless:
        words.insert(1, "which is but the nearest to what was done: more taps leave hardly less, most of it at edges")
        detail = (
            "what is left lies at edges, and more taps leave hardly less: no kernel, however large, makes the target"
        )
        remedy = (
            "a median or maximum, sharpening that is clipped, a compressor or a repaint has none; of a camera's tones "
            "find the curve as well (curve='monotone'), of a picture that moved the motion (register='affine')"
        )
        findings.append(Finding(Verdict.NONLINEAR, detail, remedy))
    if found.period is not None:
        detail = (
            f"the image repeats itself, so that a kernel of more than {found.period[0]} rows or {found.period[1]} "
            "columns is not determined: parts of it may as well lie one period further"
        )
        findings.append(Finding(Verdict.RANK_DEFICIENT, detail, "use an image that does not repeat itself"))
    row, col = np.unravel_index(int(np.argmax(np.abs(found.taps))), found.taps.shape)
    return Found(fields, tuple(words), tuple(findings), strays, left / 100, (int(row), int(col)))


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


def _ratio(image: Shape, target: Shape) -> str:
    """Say the ratio of the sizes."""
    return " and ".join(f"{n / m:.4g}" for n, m in zip(image, target, strict=True))


def lying_otherwise(other: Orientation, image: Shape, target: Shape) -> str:
    """Say that a target looks like the image mirrored, turned or scaled."""
    sides = f"image {image[0]}x{image[1]}, target {target[0]}x{target[1]}"
    if other.name != AS_GIVEN:
        transposed, *flips = ORIENTATIONS[other.name]
        code = "numpy.swapaxes(image, 0, 1)" if transposed else "image"
        if any(flips):
            code += f"[{'::-1' if flips[0] else ':'}{', ::-1' if flips[1] else ''}]"
        scaled = f" and scaled ({sides})" if other.ratio is not None else ""
        return (
            f"got a target that looks like the image {other.name}{scaled}, need both to lie alike: give {code}, or "
            f"turn the file {PREPARE}"
        )
    remedy = (
        "scale one of the two to a whole multiple of the other"
        if other.smaller
        else "scale the image to the target's size, or exchange the two"
    )
    return (
        f"got a target that looks like the image scaled by the ratios {_ratio(image, target)}, rows and columns "
        f"({sides}), need one that has a pixel for each or for every second, third or so of the image's: {remedy}, or "
        f"give shape= {PREPARE}"
    )


def unrelated(pair: Pair, found: SpanFit | None) -> str:
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
    rows, cols = pair.image.shape
    if 1 < min(rows, cols) <= _CHANNELS and max(rows, cols) >= _LONG * min(rows, cols):
        axis, name = (-1, "columns") if cols < rows else (0, "rows")
        remedy += f"say channel_axis={axis} if the {min(rows, cols)} {name} are channels of a signal; "
    most = f", but by a whole ratio of up to {MOST_STRIDE}" if min(ratio) > 1 else ""
    return (
        f"got a pair that no kernel relates ({sizes}{share}){size}; need a target that was made of the image: {remedy}"
        f"check that the right files were read and that neither is turned, mirrored or scaled{most}; or give shape= "
        + PREPARE
    )
