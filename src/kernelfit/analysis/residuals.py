"""What a kernel leaves unexplained: a window of the residual, and whether it looks like white noise."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import geometry
from ..core.estimate import Estimate
from ..core.validation import Array
from ..core.variation import Weight
from ..engines.forward import predict
from .channel_split import Planes, planes_of

_SIDE = 1024
_LAGS = 10
_MOST = 16  # pairs and channels that share a kernel of which a window is looked at
_LEAST = 32  # rows and columns of each, where they have as many


def window(fit: Estimate, image: npt.ArrayLike, target: npt.ArrayLike, side: int = _SIDE) -> Array:
    """Return the residual over the noise on some `side` pixels about the middle, clear of the edge; NaN if left out."""
    # Windows of several channels or pairs lie side by side, smaller ones, with NaN between them; only they are read.
    return tiled([left for part in windows(fit, image, target, side) for left in part])


def windows(fit: Estimate, image: npt.ArrayLike, target: npt.ArrayLike, side: int = _SIDE) -> list[list[Array]]:
    """Return the windows of each target channel with a fit of its own: one for each pair, and complex part."""
    found = []
    for part, planes in zip(fit.parts or (fit,), planes_of(fit, image, target), strict=True):
        most = max(min(_LEAST, side), side // math.ceil(math.sqrt(min(len(planes), _MOST))))
        lefts = [_window(part, each, most) for each in planes[:_MOST]]
        found.append([half for left in lefts for half in halves(left)])
    return found


def halves(left: npt.NDArray[Any]) -> list[Array]:
    """Return the real and the imaginary part of a complex window, a real one as it is."""
    return [left.real, left.imag] if left.dtype.kind == "c" else [left]


def tiled(parts: list[Array]) -> Array:
    """Lay windows beside each other, as many rows as columns of them, with NaN between."""
    if len(parts) == 1:
        return parts[0]
    across = math.ceil(math.sqrt(len(parts)))
    height, width = (max(part.shape[axis] for part in parts) + _LAGS for axis in (0, 1))
    out = np.full((math.ceil(len(parts) / across) * height, across * width), np.nan)
    for at, part in enumerate(parts):
        row, col = at // across * height, at % across * width
        out[row : row + part.shape[0], col : col + part.shape[1]] = part
    return out[: out.shape[0] - _LAGS, : out.shape[1] - _LAGS]


def _window(fit: Estimate, planes: Planes, side: int) -> npt.NDArray[Any]:
    conv, field = fit.convention, fit.convention.field
    functions: Sequence[Weight | None] = (None,) if field is None else field.weights
    kernels = fit.kernel.reshape(len(planes.sources), len(functions), *fit.kernel.shape[-2:])
    shape: tuple[int, int] = (kernels.shape[-2], kernels.shape[-1])
    source, result = planes.sources[0], planes.target
    plan = geometry.lay_out(tuple(source.shape), shape, dataclasses.replace(conv, boundary=None))
    if tuple(result.shape) != plan.target_shape:
        msg = f"got a target of shape {tuple(result.shape)}, need {plan.target_shape} for this image and fit"
        raise ValueError(msg)
    count = [min(n, side) for n in plan.size]
    if not plan.n_pixels:  # the kernel is wider than the image: there is no such pixel, so take all of them
        y, x, z = slice(None), slice(None), (slice(None), slice(None))
        inside = dataclasses.replace(conv, field=None)
    else:
        first = [max(0, (n - side) // 2) for n in plan.size]
        y, x = (slice(f + a, f + a + n) for f, a, n in zip(first, plan.offset, count, strict=True))
        starts = [s * f - b for s, f, b in zip(conv.stride, first, plan.before, strict=True)]
        stops = [a + s * (n - 1) + k for a, s, n, k in zip(starts, conv.stride, count, shape, strict=True)]
        z = (slice(starts[0], stops[0]), slice(starts[1], stops[1]))
        inside = geometry.Convention(
            "valid", origin=geometry.default_origin(shape), operation=conv.operation, stride=conv.stride
        )
    kinds = {np.dtype(one.dtype).kind for one in (result, fit.kernel, *planes.sources)}
    number: Any = np.complex128 if "c" in kinds else np.float64
    left = np.array(result[y, x], dtype=number)
    for own, each in zip(kernels, planes.sources, strict=True):
        for kernel, weight in zip(own, functions, strict=True):
            image = np.array(each[z], dtype=number)
            if weight is not None:
                weight.multiply(image, *(np.arange(n)[part] for n, part in zip(source.shape, z, strict=True)))
            left -= predict(image, kernel, inside)
    if planes.surface is not None:
        left -= planes.surface[y, x]
    if planes.weights is not None:
        weights = np.asarray(planes.weights[y, x], dtype=np.float64)
        left = np.where(weights > 0, left * np.sqrt(weights), np.nan)
    return np.asarray(np.where(np.isfinite(left), left, np.nan))


def autocorrelation(left: Array) -> Array:
    """Return the correlation of a residual with itself moved by up to 10 rows and columns; the middle is 1."""
    import scipy.fft

    known = np.isfinite(left)
    centered = np.where(known, left - left[known].mean(), 0.0) if known.any() else np.zeros_like(left)
    lags = [min(_LAGS, n - 1) for n in left.shape]
    padded = [scipy.fft.next_fast_len(n + m, real=True) for n, m in zip(left.shape, lags, strict=True)]
    spectrum = scipy.fft.rfft2(centered, padded)
    table = scipy.fft.irfft2(spectrum.real**2 + spectrum.imag**2, padded)
    table = np.roll(table, lags, axis=(0, 1))[: 2 * lags[0] + 1, : 2 * lags[1] + 1]
    energy = table[lags[0], lags[1]]
    if not energy > 0:
        table = np.zeros_like(table)
        table[lags[0], lags[1]] = 1.0
        return np.asarray(table)
    return np.asarray(table / energy)


def chance(left: Array, fit: Estimate) -> float:
    """Return the correlation that white noise hardly exceeds at any lag, of which a kernel's fit took r / n."""
    return 4.0 / math.sqrt(max(1, int(np.isfinite(left).sum()))) + fit.rank / max(1, fit.n_pixels)


def largest(table: Array) -> tuple[float, tuple[int, int]]:
    """Return the largest correlation beside the middle, and its lag."""
    middle = (table.shape[0] // 2, table.shape[1] // 2)
    size = np.abs(table)
    size[middle] = 0.0
    at = np.unravel_index(int(np.argmax(size)), size.shape)
    return float(size[at]), (int(at[0]) - middle[0], int(at[1]) - middle[1])
