"""Target pixels that no kernel made: hot ones, cosmic rays, text, borders; found, and replaced before a second look."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from ..data.masking import unmasked
from ..solvers.least_squares import EPS
from ..solvers.robust import robust_std
from .spans import Pair, SpanFit, both

#: Rows of a band, and bands, that tell the usual residual.
_BAND, _BANDS = 8, 4
#: A variance so many times that of the usual residual tells of strays; they are off by so many times the usual residual
#: of pixels that are as bright, and as near to edges, and no larger share of all.
_HEAVY, _FAR, _MOST = 2.0, 8.0, 0.2
#: The usual residual is such a part of the mean square at least: where much of a picture is flat its median is nothing.
_OF_ALL = 0.1
#: A residual so many times as large at the steepest eighth of all places as at the flatter half is no noise, nor one of
#: whose variance such a share follows the slope.
_STEEP, _FOLLOWS = 3.0, 0.1
#: Classes of brightness and slope, of so many pixels at least; pixels up to which all are looked at.
_CLASSES, _LEAST, _LARGE = 32, 64, 2**24


def heavy(pair: Pair, found: SpanFit) -> bool:
    """Return whether most of the residual's squares are those of a few pixels, which can be replaced."""
    if (
        found.exact
        or math.prod(pair.target.shape) > _LARGE
        or unmasked(pair.target)[1] is not None
        or pair.boundary is not None
    ):
        return False
    usual = robust_std(_bands(pair, found, slopes=False)[0])
    return found.variance > _HEAVY * max(usual**2, _floor(pair, found))


def follows_slope(pair: Pair, found: SpanFit) -> bool:
    """Return whether the residual follows how steep is what the kernel makes, as of a maximum.

    Noise does not, and what a larger kernel would add is as often positive as negative there.
    """
    values, slope = _bands(pair, found)
    spread = float(values.std() * slope.std())
    return bool(np.mean((values - values.mean()) * (slope - slope.mean())) ** 2 > _FOLLOWS * spread**2)


def near_edges(pair: Pair, found: SpanFit) -> bool:
    """Return whether the residual is much larger where what the kernel makes is steep, or follows that; noise is not.

    Errors of rounding half way may be so: they tell nothing.
    """
    values, slope = _bands(pair, found)
    steep, even = (values[part] for part in (slope > np.quantile(slope, 0.875), slope < np.median(slope)))
    larger = robust_std(steep) > _STEEP * max(robust_std(even), math.sqrt(_floor(pair, found)))
    return larger or follows_slope(pair, found)


def _bands(
    pair: Pair, found: SpanFit, *, slopes: bool = True
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the residual in some bands of rows, and the slope of what the kernel makes there, or that itself."""
    found, parts = dataclasses.replace(found, whole=True), []
    low, high = found.ends(pair)[0]
    step = max(0, high - low - _BAND) / _BANDS  # the outermost may be a frame, and replaced
    for start in low + (step * (np.arange(_BANDS) + 0.5)).astype(int):
        residual, made = _residual(pair, found, (int(start), min(high, int(start) + _BAND)))
        parts.append((residual.ravel(), (_slope(made) if slopes else made).ravel()))
    values, slope = (np.concatenate(both) for both in zip(*parts, strict=True))
    known = np.isfinite(values + slope)
    return (values[known], slope[known]) if known.any() else (np.zeros(1), np.zeros(1))


def _slope(made: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how steep an image is."""
    slope = np.zeros(made.shape)
    for axis in (0, 1):
        slope += np.abs(np.gradient(made, axis=axis)) if made.shape[axis] > 1 and made.size else 0.0
    return slope


def without_strays(pair: Pair, found: SpanFit) -> tuple[Pair, float] | None:
    """Return a pair whose strays are replaced by what a kernel makes, and their share; None if there are none."""
    found = dataclasses.replace(found, whole=True)
    ends = found.ends(pair)
    residual, made = _residual(pair, found, ends[0])
    off = _off(pair, found, residual, made)
    share = float(off.mean())
    if not 0 < share < _MOST:
        return None
    target = np.array(unmasked(pair.target)[0])
    if target.dtype.kind in "iu":
        made = np.clip(np.rint(made), np.iinfo(target.dtype).min, np.iinfo(target.dtype).max)
    target[tuple(slice(*end) for end in ends)][off] = made[off].astype(target.dtype)
    return dataclasses.replace(pair, target=target), share


def share_around(pair: Pair, found: SpanFit) -> float:
    """Return the share of strays in a pair whose middle was fitted, if most of the residual's squares are theirs."""
    if math.prod(pair.target.shape) > _LARGE or unmasked(pair.target)[1] is not None:
        return 0.0
    residual, made = _residual(pair, found, found.ends(pair)[0])
    if pair.target.dtype.kind in "iu":  # what is cut off at the ends is none of them
        residual += made - np.clip(made, np.iinfo(pair.target.dtype).min, np.iinfo(pair.target.dtype).max)
    off, squares = _off(pair, found, residual, made), residual**2
    known = np.isfinite(squares)
    share = float(off.mean())
    return share if share < _MOST and _HEAVY * np.sum(squares[known & ~off]) < np.sum(squares[known]) else 0.0


def _off(
    pair: Pair, found: SpanFit, residual: npt.NDArray[np.float64], made: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Return which pixels are off by far more than others of their kind."""
    usual = np.maximum(_usual(residual, made), _usual(residual, _slope(made)))
    usual = np.maximum(usual, math.sqrt(max(_floor(pair, found), _OF_ALL * found.variance)))
    return np.asarray(np.abs(residual) > _FAR * usual)


def _floor(pair: Pair, found: SpanFit) -> float:
    """Return the variance that rounding makes."""
    return max(pair.rounding, EPS * found.stats.target_energy / found.stats.n_pixels)


def _residual(pair: Pair, found: SpanFit, rows: tuple[int, int]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the residual of the whole fit in some rows, and what the kernel makes there."""
    seen, made = both(pair, found, (rows, found.ends(pair)[1]))
    made += found.constant
    return seen - made, made


def _usual(residual: npt.NDArray[np.float64], key: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return for each pixel the usual size of the residual where `key` is about as large."""
    order = np.argsort(key, axis=None)
    usual = np.empty(residual.size)
    for part in np.array_split(order, max(1, min(_CLASSES, residual.size // _LEAST))):
        values = residual.ravel()[part]
        usual[part] = robust_std(values[np.isfinite(values)])
    return usual.reshape(residual.shape)
