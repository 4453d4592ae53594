"""What a kernel leaves unexplained: a window of the residual, and whether it looks like white noise."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from . import geometry, pair
from .forward import predict
from .geometry import Convention
from .result import KernelFit

Array = npt.NDArray[np.float64]

_SIDE = 1024
_LAGS = 10


def window(fit: KernelFit, image: npt.ArrayLike, target: npt.ArrayLike, side: int = _SIDE) -> Array:
    """Return the residual on the pixels about the middle that depend on nothing beyond the edge.

    Parameters
    ----------
    fit : KernelFit
        The result.
    image, target : array_like
        The pair; only the window is read.
    side : int, optional
        The most rows and columns of it, default 1024.

    Returns
    -------
    ndarray
        ``target - prediction``, times the square root of the weights if there are any; NaN where a pixel was left out.
        On a pair without such pixels: all that the fit used.

    Raises
    ------
    ValueError
        If the shapes are not those of a pair for this fit, or it is one of several channels.
    """
    if fit.kernel.ndim != 2 or fit.channel_axis is not None:
        msg = (
            f"got a kernel of shape {fit.kernel.shape} for channels {fit.channels!r}, need one plane; "
            "look at one channel at a time (fit.parts, or a fit of that channel)"
        )
        raise ValueError(msg)
    if fit.background is not None and len(fit.background.shapes) != 1:
        msg = f"got a fit of {len(fit.background.shapes)} pairs with backgrounds, need one; fit the pair by itself"
        raise ValueError(msg)
    source, result = pair.as_image(image, "image"), pair.as_image(target, "target")
    conv = fit.convention
    shape = (fit.kernel.shape[0], fit.kernel.shape[1])
    inside = geometry.lay_out(tuple(source.shape), shape, dataclasses.replace(conv, boundary=None))
    if tuple(result.shape) != inside.target_shape:
        msg = f"got a target of shape {tuple(result.shape)}, need {inside.target_shape} for this image and fit"
        raise ValueError(msg)
    surface = None if fit.background is None else fit.background.image(None)
    if not inside.n_pixels:  # the kernel is wider than the image: there is no such pixel
        left = np.asarray(result, dtype=np.float64) - predict(source, fit.kernel, conv)
        return np.asarray(left if surface is None else left - surface)
    first = [max(0, (n - side) // 2) for n in inside.size]
    count = [min(n, side) for n in inside.size]
    starts = [s * f - b for s, f, b in zip(conv.stride, first, inside.before, strict=True)]
    stops = [a + s * (n - 1) + k for a, s, n, k in zip(starts, conv.stride, count, shape, strict=True)]
    part = np.asarray(source[starts[0] : stops[0], starts[1] : stops[1]])
    y, x = (slice(f + a, f + a + n) for f, a, n in zip(first, inside.offset, count, strict=True))
    of_target = np.asarray(result[y, x], dtype=np.float64)
    if surface is not None:
        of_target = of_target - surface[y, x]
    valid = Convention("valid", origin=geometry.default_origin(shape), operation=conv.operation, stride=conv.stride)
    left = of_target - predict(part, fit.kernel, valid)
    if isinstance(fit.weights, np.ndarray) and fit.weights.shape == tuple(result.shape):
        weights = np.asarray(fit.weights[y, x], dtype=np.float64)
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


def chance(left: Array) -> float:
    """Return the correlation that white noise of as many pixels hardly exceeds at any of the lags."""
    return 4.0 / math.sqrt(max(1, int(np.isfinite(left).sum())))


def largest(table: Array) -> tuple[float, tuple[int, int]]:
    """Return the largest correlation beside the middle, and its lag."""
    middle = (table.shape[0] // 2, table.shape[1] // 2)
    size = np.abs(table)
    size[middle] = 0.0
    at = np.unravel_index(int(np.argmax(size)), size.shape)
    return float(size[at]), (int(at[0]) - middle[0], int(at[1]) - middle[1])
