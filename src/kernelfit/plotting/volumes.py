"""Pictures of a volume's kernel: three orthogonal cuts, maximum projections, profiles, each on matplotlib Axes."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..analysis.residuals import halves, tiled
from ..core.estimate import Estimate
from ..core.validation import Array
from ..data.observation import NUMBERS
from ..data.volumes import as_volumes
from ..engines.forward import plane_of
from .panels import BLUE, GRAY, ORANGE, colorbar, described, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
_NAMES = ("plane", "row", "column")
_SIDE = 1024


@described("three matplotlib.axes.Axes\n    Those through the largest tap. A cross marks the origin.")
def orthogonal_cuts(fit: Estimate, axes: "Sequence[Axes] | None" = None) -> "Sequence[Axes]":
    """Draw a volume's kernel cut along its three planes, through the largest tap.

    Raises
    ------
    ValueError
        If it is not the kernel of a volume.
    """
    taps = _kernel(fit)
    at = _peak(taps)
    drawn = _three(axes)
    for axis, ax in enumerate(drawn):
        cut: Array = np.take(taps, at[axis], axis=axis)
        _draw(fit, cut, axis, ax, f"{_NAMES[axis]} {at[axis]} of {taps.shape[axis]}")
    return drawn


@described("three matplotlib.axes.Axes\n    Along planes, rows and columns; the largest tap keeps its sign.")
def maximum_projections(fit: Estimate, axes: "Sequence[Axes] | None" = None) -> "Sequence[Axes]":
    """Draw the tap of the largest size along each axis of a volume's kernel.

    Raises
    ------
    ValueError
        If it is not the kernel of a volume.
    """
    taps = _kernel(fit)
    drawn = _three(axes)
    for axis, ax in enumerate(drawn):
        largest = np.abs(taps).argmax(axis=axis, keepdims=True)
        shown: Array = np.take_along_axis(taps, largest, axis=axis).squeeze(axis)
        _draw(fit, shown, axis, ax, f"maximum along {_NAMES[axis]}s")
    return drawn


def profiles(fit: Estimate, ax: "Axes") -> None:
    """Draw the taps along each axis through the largest one, with their 95 % intervals."""
    taps = _kernel(fit)
    at, known = _peak(taps), bool(np.isfinite(fit.stderr).all())
    low, high = fit.confidence(0.95) if known else (taps, taps)
    for axis, color in enumerate((BLUE, ORANGE, GRAY)):
        line: Any = tuple(slice(None) if i == axis else p for i, p in enumerate(at))
        places = np.arange(taps.shape[axis]) - fit.convention.origin[axis]
        ax.plot(places, taps[line], "o-", color=color, markersize=3, linewidth=1.0, label=f"along {_NAMES[axis]}s")
        ax.fill_between(places, low[line], high[line], color=color, alpha=0.25, linewidth=0)
    ax.axhline(0.0, color=GRAY, linewidth=0.8)
    ax.legend(frameon=False, fontsize=8, loc="best")
    ax.set(xlabel="taps from the origin", ylabel="tap (target units per image unit)")
    ax.set_title("through the largest tap" + (", 95 % intervals" if known else ""))


def middle_residual(fit: Estimate, image: npt.ArrayLike, target: npt.ArrayLike, channel: int = 0) -> tuple[Array, int]:
    """Return what is left of the middle plane of a target's channel, of the first of several pairs, and its number."""
    axis, part = fit.channel_axis, fit.parts[channel] if fit.parts else fit
    several = isinstance(image, list | tuple) and not isinstance(image[0], int | float)
    ndim = 3 + (axis is not None)
    pair = (value[0] if several and np.ndim(value[0]) == ndim else value for value in (image, target))  # type: ignore[index]
    sources, results = (
        as_volumes(value, name, axis, NUMBERS) for value, name in zip(pair, ("image", "target"), strict=True)
    )
    own = sources if fit.channels == "mixed" else sources[channel : channel + 1]
    at, shape = len(results[channel]) // 2, (len(results[channel]), *results[channel][0].shape)
    kernels = part.kernel.reshape(-1, *part.kernel.shape[-3:])
    left = np.asarray(results[channel][at][:, :]) - plane_of(own, kernels, fit.convention, at, shape)
    if part.background is not None:
        left -= part.background.planes(0, slice(at, at + 1))[0]
    weights = part.weights[0] if isinstance(part.weights, tuple) else part.weights
    if weights is not None:
        counts = np.asarray(weights[at], dtype=np.float64)
        left = np.where(counts > 0, left * np.sqrt(counts), np.nan)
    start = [max(0, (n - _SIDE) // 2) for n in left.shape]
    left = left[start[0] : start[0] + _SIDE, start[1] : start[1] + _SIDE]
    return tiled(halves(np.where(np.isfinite(left), left, np.nan))), at


def _kernel(fit: Estimate) -> Array:
    if fit.convention.ndim != 3:
        raise ValueError(f"got a kernel of shape {fit.kernel.shape}, need one of a volume: planes, rows and columns")
    if fit.kernel.ndim != 3:
        raise ValueError(f"got a kernel of shape {fit.kernel.shape} of several channels, need one: split_channels")
    return fit.kernel


def _peak(taps: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.abs(taps).argmax()), taps.shape))


def _three(axes: "Sequence[Axes] | None") -> "Sequence[Axes]":
    return new_figure(3, (13.5, 4.0)) if axes is None else axes


def _draw(fit: Estimate, plane: Array, axis: int, ax: "Axes", title: str) -> None:
    """Draw a plane of taps, or a projection: a diverging map if some taps are clearly negative."""
    high = float(np.abs(fit.kernel).max()) or 1.0
    negative = float(fit.kernel.min()) < -0.25 * high
    scale: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -high, "vmax": high}
    if not negative:
        scale = {"cmap": "magma", "vmin": min(0.0, float(fit.kernel.min())), "vmax": high}
    long = max(plane.shape) > 4 * min(plane.shape)
    shown = ax.imshow(plane, interpolation="nearest", aspect="auto" if long else "equal", **scale)
    colorbar(ax, shown, "tap")
    down, across = (name for i, name in enumerate(_NAMES) if i != axis)
    place = [o for i, o in enumerate(fit.convention.origin) if i != axis]
    if all(0 <= p < n for p, n in zip(place, plane.shape, strict=True)):
        ax.plot(place[1], place[0], "+", color="#3fb950", markersize=9)
    ax.set(xlabel=f"{across} of taps", ylabel=f"{down} of taps")
    ax.set_title(title)


def errors(fit: Estimate, ax: "Axes") -> None:
    """Draw the standard errors of the plane of the largest tap."""
    at = _peak(fit.kernel)[0]
    shown = ax.imshow(fit.stderr[at], cmap="viridis", vmin=0.0, interpolation="nearest")
    colorbar(ax, shown, "standard error of a tap")
    ax.set(xlabel="column of taps", ylabel="row of taps")
    ax.set_title(f"error, plane {at}")


def response(taps: Array, ax: "Axes") -> None:
    """Draw the size of the kernel's transform along the three axes of frequencies."""
    for axis, color in enumerate((BLUE, ORANGE, GRAY)):
        line = taps.sum(axis=tuple(i for i in range(3) if i != axis))
        response = np.abs(np.fft.rfft(line, n=max(256, 2 ** math.ceil(math.log2(2 * len(line))))))
        ax.plot(np.linspace(0.0, 0.5, len(response)), response, color=color, label=f"along {_NAMES[axis]}s")
    ax.set(xlabel="frequency, cycles per pixel", ylabel="|K|", xlim=(0, 0.5))
    ax.legend(frameon=False, fontsize=8, loc="best")
    ax.set_title("frequency response along each axis")
