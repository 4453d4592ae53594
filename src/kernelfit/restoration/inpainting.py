"""Pixels that nobody saw, dead ones or those beyond the edge: found as what the rest and the kernel make of them."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # whose parts are imported when first used: some take a second

from ..core import validation
from ..core.model import NAN
from ..core.validation import Array
from ..data import masking
from ..data.masking import Mask

_TOLERANCE = 0.03  # of the residual's deviation: twice as much costs up to 3 dB where noise is low
_MOST_ITERATIONS = 200
_LINES = 8  # of so many lines of pixels, one is looked at
_STEEPER = 2.4  # times as rough as the inside, compared with the target
_UNLIKE = 4.0  # times the mean square of a step between neighbours
_WIDER = 1.15  # times the contrast of the target


def excluded(target: npt.NDArray[np.generic], mask: object, masked: object, nan: str) -> Mask | None:
    """Return where target pixels do not count, None if all do."""
    validation.known(nan, NAN, "nan")
    found = np.zeros(target.shape, dtype=bool)
    for given in (mask, masked):
        one = masking.as_mask(given, target.shape, "mask")
        if one is not None:
            found |= one
    if nan == "mask":
        found |= ~np.isfinite(target)
    if found.all():
        raise ValueError("got a target of which every pixel is masked, need some that count")
    return found if found.any() else None


def nearest(image: npt.NDArray[Any], unknown: Mask) -> npt.NDArray[Any]:
    """Return the image with the nearest known pixel in the place of each unknown one."""
    at = scipy.ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    return np.asarray(image[tuple(at)])


def fill(image: Array, unknown: Mask, left: Callable[[Array], Array]) -> None:
    """Give unknown pixels, in place, the values of which the kernel can explain as much as it can."""
    # `left` gives what a division leaves of an image, ``R y``: with R from 0 to 1 at each frequency, ``y'R y`` is what
    # the best restoration of y costs, ``|y - k * x|^2 + strength * |Q x|^2``. It is least where R y is zero at the
    # unknown pixels u: ``R_uu u = -R_us y_s``, by conjugate gradients. Then the division of the whole is that of the
    # seen ones alone. Iterations end when the residual there is small against that at the seen pixels.
    at = np.flatnonzero(unknown)
    n_seen = image.size - len(at)
    rest = left(image)
    step = np.zeros_like(image)
    residual = -rest.ravel()[at]
    direction, size = residual.copy(), _dot(residual, residual)
    for _ in range(_MOST_ITERATIONS):
        seen = max(_dot(rest, rest) - size, 0.0)
        if not size > _TOLERANCE**2 * seen * len(at) / n_seen:
            return
        step.ravel()[at] = direction
        made = left(step)
        curvature = _dot(direction, made.ravel()[at])
        if not curvature > 0:
            return
        image.ravel()[at] += size / curvature * direction
        rest += size / curvature * made
        residual = -rest.ravel()[at]
        previous, size = size, _dot(residual, residual)
        direction = residual + size / previous * direction


def _dot(a: Array, b: Array) -> float:
    # not BLAS: its threads would go on spinning into the next transform
    return float((a.real * b.real).sum() + (a.imag * b.imag).sum()) if a.dtype.kind == "c" else float((a * b).sum())


def rings(
    restored: npt.NDArray[np.generic], target: npt.NDArray[np.generic], side: tuple[int, ...], gain: float = 1.0
) -> bool:
    """Say whether a restored frame is rougher than its inside by more than the target's is, or far stronger.

    By the `gain`, the sum of the kernel's magnitudes, the target is larger than the image by what scales the kernel.
    """
    if min(n - 4 * k for n, k in zip(target.shape, side, strict=True)) < _LINES:
        return True
    if target.ndim == 3:
        both = [(*_roughness(one, side), float(one.var())) for one in (restored, target)]
        (edge, inside, contrast), (their_edge, their_inside, their_contrast) = both
        level = max(their_edge, their_inside) or 1.0  # so that no product overflows
        return (
            edge * (their_inside / level) > _STEEPER * inside * (their_edge / level)
            or gain * contrast * gain > _WIDER**2 * their_contrast
        )
    from ..compiled import spectra

    ours, theirs = np.empty(4), np.empty(4)
    for image, found in ((restored, ours), (target, theirs)):
        spectra.roughness(image, side[0], side[1], _LINES, found)
    edge, inside = theirs[:2] / (theirs[:2].max() or 1.0)  # so that no product overflows
    return bool(ours[0] * inside > _STEEPER * ours[1] * edge or gain * ours[3] * gain > _WIDER**2 * theirs[3])


def _roughness(volume: npt.NDArray[Any], side: tuple[int, ...]) -> tuple[float, float]:
    """Return the mean squares, added up over the axes, of steps between neighbours at the edges and inside."""
    edge = inside = 0.0
    for axis, width in enumerate(side):
        squares = np.square(np.diff(volume, axis=axis), dtype=np.float64)
        lines = squares.mean(axis=tuple(i for i in range(volume.ndim) if i != axis))
        edge += float(lines[:width].mean() + lines[-width:].mean()) / 2
        inside += float(lines[width:-width].mean())
    return edge, inside


def warn_of_dead_lines(target: npt.NDArray[np.generic], side: tuple[int, ...]) -> None:
    """Warn of columns or rows that are constant, thinner than the kernel, and unlike those beside them."""
    for name, image, width in (("column", target, side[1]), ("row", target.T, side[0])):
        few = image[:: max(1, len(image) // _LINES)]
        flat = few[0] == few[-1]
        for lines in (few, image):  # hardly any columns are left for the second look
            some = np.flatnonzero(flat)
            flat[some] = (lines[:, some] == lines[0, some]).all(axis=0)
        if not flat.any():
            continue
        edges = np.flatnonzero(np.diff(flat, prepend=False, append=False))
        for first, stop in zip(edges[::2], edges[1::2], strict=True):
            beside = [at for at in (first - 1, stop) if 0 <= at < len(flat)]
            if stop - first >= width or not beside:
                continue
            step = min(float(np.square(image[:, at] - image[0, first], dtype=np.float64).mean()) for at in beside)
            if step > _UNLIKE * float(np.square(np.diff(few, axis=1), dtype=np.float64).mean()):
                msg = (
                    f"{name} {first} of the target is {image[0, first]:.6g} throughout, which no blur would have left: "
                    "if its pixels are dead, exclude them with mask=, or they spoil the whole image"
                )
                warnings.warn(msg, UserWarning, stacklevel=3)
                return
