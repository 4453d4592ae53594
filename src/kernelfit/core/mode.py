"""Which mode the sizes of image, target and kernel tell, and what to do where they fit none, or are too small."""

from collections.abc import Sequence
from typing import Any

from .findings import PREPARE
from .geometry import MODES, Geometry, Shape, kept_length, whole_length
from .validation import known


def infer_mode(
    image: Shape, target: Shape, kernel: Shape, mode: str | None, stride: Shape = (1, 1), offset: Shape = (0, 0)
) -> str:
    """Return the first mode that the shapes allow, or refuse shapes that fit none (or not the one declared)."""
    if mode is not None:
        known(mode, MODES, "mode")
    candidates = list(MODES) if mode is None else [mode]
    whole = {name: [whole_length(name, n, k) for n, k in zip(image, kernel, strict=True)] for name in MODES}
    fits = {name: _kept(sides, stride, offset) for name, sides in whole.items()}
    for name in candidates:
        if fits[name] == target:
            return name
    wanted = ", ".join(
        f"{name!r} {_told(s)}" if min(s) > 0 else f"{name!r} impossible (kernel larger than the image)"
        for name, s in fits.items()
    )
    given = [] if mode is None else [f"mode={mode!r}"]
    given += [] if max(stride) == 1 else [f"stride={stride}", f"offset={offset}"]
    advice = "cut one of the two, or say where the target lies (mode='crop')"  # of volumes
    if len(image) == 2:
        advice = _advice(image, target, {name: whole[name] for name in candidates}, stride, offset)
    raise ValueError(
        f"got image {_told(image)}, target {_told(target)} and kernel {_told(kernel)}"
        f"{' with ' if given else ''}{', '.join(given)}; a target that fits this image and kernel is: {wanted}; "
        f"{advice} {PREPARE}"
    )


def _told(sides: Shape) -> str:
    return "x".join(map(str, sides))


def _kept(sides: list[int], stride: Shape, offset: Shape) -> Any:
    return tuple(kept_length(n, s, o) for n, s, o in zip(sides, stride, offset, strict=True))


def _advice(image: Shape, target: Shape, whole: dict[str, list[int]], stride: Shape, offset: Shape) -> str:
    """Say what may have made a target of this size, given what each mode makes before any pixel is left out."""
    if target == image[::-1]:
        return "the target has the sides of the image exchanged: transpose one of the two"
    if any(t > max(sides[axis] for sides in whole.values()) for axis, t in enumerate(target)):
        return (
            "the target is larger than all of these: exchange the two if it is the image, or bring both onto pixels of "
            "one size first"
        )
    for name, sides in whole.items():  # the whole number of pixels of the image for each of the target
        steps = (sides[0] // target[0], sides[1] // target[1])
        if (
            min(steps) > 0
            and steps not in ((1, 1), stride)
            and all(s * t == n for s, t, n in zip(steps, target, sides, strict=True))
        ):
            each = str(steps[0]) if steps[0] == steps[1] else str(steps)
            return f"or stride={each}, with which {name!r} is {target[0]}x{target[1]}"
    ratio = " x ".join(f"{n / t:.4g}" for n, t in zip(image, target, strict=True))
    again = (
        "if the target was resized by it, resample the image to the target's pixels first; if it shows a part of the "
        "image, cut that part out of the image, or say where it lies (mode='crop')"
    )
    state = "not the stride" if all(n % t == 0 for n, t in zip(image, target, strict=True)) else "not whole"
    if stride == (1, 1):
        rare = _lattice(target, whole)
        unless = f", unless the target is {rare} of the filtered image" if rare else ""
        return f"the ratio of their sides, {ratio}, is not whole, so that no stride fits{unless}; {again}"
    crops = ", ".join(_crops(image, target, whole, stride, offset))
    cut = f"if {_short(stride)} is right and a remainder was left out, crop the image: {crops}; " if crops else ""
    return f"the ratio of their sides, {ratio}, is {state}; {cut}{again}"


def _short(pair: Shape) -> str:
    return str(pair[0]) if pair[0] == pair[1] else str(pair)


def _lattice(target: Shape, whole: dict[str, list[int]]) -> str:
    """Return the slices that leave so many pixels although the ratio is not whole, empty if there are none."""
    for sides in whole.values():
        slices = []
        for n, t in zip(sides, target, strict=True):
            firsts = [(s, max(0, n - s * t)) for s in {n // t, -(-n // t)} if s > 0]
            fits = [(s, o) for s, o in firsts if o < s and kept_length(n, s, o) == t]
            slices += [min(fits, key=lambda so: so[1])] if fits else []
        if len(slices) == 2 and slices != [(1, 0), (1, 0)]:
            cut = ", ".join(f"{o or ''}::{s}" for s, o in slices)
            (down, top), (across, left) = slices
            return f"[{cut}] (stride={_short((down, across))}, offset={_short((top, left))})"
    return ""


def _crops(image: Shape, target: Shape, whole: dict[str, list[int]], stride: Shape, offset: Shape) -> list[str]:
    """Return the parts of the image that give such a target, where less than a stride of it was left out."""
    crops = []
    for name, sides in whole.items():
        axes = list(zip(image, sides, target, stride, offset, strict=True))
        cut = [min(n, o + s * t + n - w) for n, w, t, s, o in axes]
        made = tuple(kept_length(c + w - n, s, o) for c, (n, w, _, s, o) in zip(cut, axes, strict=True))
        if made == target and all(n - c < s for c, (n, _, _, s, _) in zip(cut, axes, strict=True)):
            crops.append(f"image[:{cut[0]}, :{cut[1]}] for {name!r}")
    return crops


def require_pixels(geometry: Geometry, where: str) -> None:
    """Refuse a pair of which no target pixel can be used."""
    if geometry.n_pixels:
        return
    (rows, cols), (n_rows, n_cols) = geometry.kernel_shape, geometry.image_shape
    raise ValueError(
        f"got {where} with an image of {n_rows}x{n_cols}, inside which no {rows}x{cols} footprint lies; leave it out, "
        "declare a boundary, or ask for a smaller shape"
    )


def require_determined(geometries: Sequence[Geometry], n_sources: int = 1, n_more: int = 0) -> None:
    """Refuse pairs with fewer target pixels than unknowns: the taps of each source, `n_more` of the background."""
    geometry = geometries[0]
    n, m = sum(g.n_pixels for g in geometries), n_sources * geometry.n_taps
    if n >= m + n_more:
        return
    rows, cols = geometry.kernel_shape
    beside = f" and {n_more} coefficients of the background" if n_more else ""
    if geometry.convention.boundary is None and geometry.convention.mode != "valid":
        msg = (
            f"{n} interior pixels cannot determine {m} taps{beside}: with boundary=None only target pixels whose whole "
            f"{rows}x{cols} footprint lies inside the image count. Declare what lay beyond the edge when the target "
            "was made (boundary='fill', 'wrap', 'symm', 'mirror' or 'nearest'), or ask for a smaller shape"
        )
    else:
        many = f"{n_sources} {rows}x{cols} kernels" if n_sources > 1 else f"a {rows}x{cols} kernel"
        msg = f"{n} target pixels cannot determine the {m} taps of {many}{beside}; ask for a smaller shape"
    raise ValueError(msg)
