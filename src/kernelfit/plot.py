"""Pictures of a kernel and of how well it is known (extra "plot"): each function draws one on matplotlib Axes.

The pictures of the residual look at 1024 x 1024 pixels about the middle at most, so that they are quick on any image.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import residuals
from .io import require
from .result import KernelFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

__all__ = [
    "cuts",
    "error",
    "frequency_response",
    "kernel",
    "kernel_and_error",
    "overview",
    "residual",
    "residual_autocorrelation",
    "residual_histogram",
    "strength_path",
]

BLUE, ORANGE, GRAY = "#1f5fa8", "#c4560b", "#6b7280"
GOOD, DOUBTFUL = "#1a7f37", "#b3541e"
_MOST_NUMBERS = 7  # rows or columns of a kernel whose taps are written into the picture
_BELIEVED = 0.1  # error of the response, relative to its maximum, up to which a frequency counts as determined


def _axes(ax: "Axes | None") -> "Axes":
    """Return the Axes to draw on: those given, or a new figure's."""
    if ax is not None:
        return ax
    pyplot = require("matplotlib.pyplot", package="matplotlib", extra="plot", purpose="drawing")
    new: Axes = pyplot.subplots(layout="constrained", figsize=(5.2, 4.2))[1]
    return new


def _plane(fit: KernelFit) -> Array:
    if fit.kernel.ndim != 2:
        msg = f"got a kernel of shape {fit.kernel.shape}, need rows and columns; draw one plane of it at a time"
        raise ValueError(msg)
    return fit.kernel


def kernel(fit: KernelFit, ax: "Axes | None" = None, *, title: str | None = None) -> "Axes":
    """Draw the taps: a diverging map about zero if some are clearly negative, else a sequential one from zero.

    Parameters
    ----------
    fit : KernelFit
        The result.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the default is a new figure.
    title : str, optional
        Instead of the shape and the sum.

    Returns
    -------
    matplotlib.axes.Axes
        The Axes; a cross marks the origin, the tap over the output pixel.
    """
    ax = _axes(ax)
    taps = _plane(fit)
    high = float(np.abs(taps).max()) or 1.0
    errors = np.where(np.isfinite(fit.stderr), fit.stderr, 0.0)
    negative = taps < -np.maximum(3 * errors, 0.01 * high)
    scale: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -high, "vmax": high}
    if not negative.any():
        scale = {"cmap": "magma", "vmin": min(0.0, float(taps.min())), "vmax": high}
    picture = ax.imshow(taps, interpolation="nearest", **scale)
    _bar(ax, picture, "tap")
    _grid(ax, taps.shape)
    row, col = fit.convention.origin
    ax.plot([col], [row], "+", color="white", markersize=11, markeredgewidth=3.2, zorder=3)
    ax.plot([col], [row], "+", color="black", markersize=10, markeredgewidth=1.2, zorder=4, label="origin")
    if max(taps.shape) <= _MOST_NUMBERS:
        _numbers(ax, taps, picture, skip=None)
    rows, cols = taps.shape
    ax.set_title(title if title is not None else f"kernel {rows} x {cols}   (+ origin)")
    return ax


def error(fit: KernelFit, ax: "Axes | None" = None) -> "Axes":
    """Draw the standard error of each tap.

    Parameters
    ----------
    fit : KernelFit
        The result.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the default is a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The Axes; the title says how large the errors are beside the largest tap.
    """
    ax = _axes(ax)
    taps, errors = _plane(fit), fit.stderr
    known = bool(np.isfinite(errors).all())
    shown = errors if known else np.zeros(taps.shape)
    top = float(shown.max())
    picture = ax.imshow(shown, cmap="viridis", vmin=0.0, vmax=top or 1.0, interpolation="nearest")
    _bar(ax, picture, "standard error of a tap")
    _grid(ax, taps.shape)
    if max(taps.shape) <= _MOST_NUMBERS and known:
        _numbers(ax, shown, picture, skip=None)
    high = float(np.abs(taps).max())
    name = "error" if fit.uncertainty == "sampling" else "error (with the prior)"
    share = f"{name}: up to {top / high:.2g} of the largest tap" if known and high > 0 else "errors not known"
    ax.set_title(share)
    return ax


def kernel_and_error(fit: KernelFit, axes: "tuple[Axes, Axes] | None" = None) -> "tuple[Axes, Axes]":
    """Draw the kernel and its standard errors side by side.

    Parameters
    ----------
    fit : KernelFit
        The result.
    axes : (Axes, Axes), optional
        Where to draw; the default is a new figure.

    Returns
    -------
    (Axes, Axes)
        Those of `kernel` and of `error`.
    """
    if axes is None:
        pyplot = require("matplotlib.pyplot", package="matplotlib", extra="plot", purpose="drawing")
        made = pyplot.subplots(1, 2, layout="constrained", figsize=(9.6, 4.2))[1]
        axes = (made[0], made[1])
    return kernel(fit, axes[0]), error(fit, axes[1])


def _bar(ax: "Axes", picture: Any, label: str) -> None:
    bar = ax.figure.colorbar(picture, ax=ax, shrink=0.82, pad=0.02)
    bar.set_label(label)
    bar.formatter.set_powerlimits((-2, 3))


def _grid(ax: "Axes", shape: tuple[int, ...]) -> None:
    """Label rows and columns by whole numbers only."""
    for axis, n in ((ax.yaxis, shape[0]), (ax.xaxis, shape[1])):
        step = max(1, math.ceil(n / 8))
        axis.set_ticks(range(0, n, step))
    ax.set_xlabel("column")
    ax.set_ylabel("row")


def _numbers(ax: "Axes", values: Array, picture: Any, skip: Any) -> None:
    """Write each value into its square, dark on light and light on dark."""
    top = float(np.abs(values).max())
    digits = max(0, min(6, 2 - math.floor(math.log10(top)))) if top > 0 else 0
    digits = digits if max(values.shape) <= 5 else min(digits, 3)
    small = top > 0 and top < 1e-3
    for (row, col), value in np.ndenumerate(values):
        red, green, blue, _ = picture.cmap(picture.norm(value))
        text = f"{value:.1e}" if small else f"{value:.{digits}f}"
        if not small and float(text) == 0:
            text = "0"
        color = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
        ax.text(col, row, text, ha="center", va="center", color=color, fontsize=8 if max(values.shape) <= 5 else 6.5)


def cuts(fit: KernelFit, ax: "Axes | None" = None) -> "Axes":
    """Draw the row and the column of taps through the largest one, with their 95 % intervals.

    Parameters
    ----------
    fit : KernelFit
        The result.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the default is a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The Axes; positions are pixels from the origin.
    """
    ax = _axes(ax)
    taps = _plane(fit)
    at = np.unravel_index(int(np.argmax(np.abs(taps))), taps.shape)
    low, high = fit.confidence(0.95) if np.isfinite(fit.stderr).all() else (taps, taps)
    ax.axhline(0.0, color=GRAY, linewidth=0.8)
    lines = (
        (f"row {at[0]}", (at[0], slice(None)), 1, BLUE, "o"),
        (f"column {at[1]}", (slice(None), at[1]), 0, ORANGE, "s"),
    )
    for label, where, axis, color, mark in lines:
        x = np.arange(taps.shape[axis]) - fit.convention.origin[axis]
        ax.fill_between(x, low[where], high[where], color=color, alpha=0.22, linewidth=0)
        ax.plot(x, taps[where], mark + "-", color=color, markersize=3.5, linewidth=1.2, label=label)
    ax.set_xlabel("pixels from the origin")
    ax.set_ylabel("tap")
    ax.legend(frameon=False, fontsize=8, loc="best")
    ax.set_title("cuts through the largest tap, 95 % intervals")
    return ax


def frequency_response(fit: KernelFit, ax: "Axes | None" = None) -> "Axes":
    """Draw the size of the kernel's transform along rows and columns, and the band that the data determine.

    A frequency counts as determined where the standard error of the transform is below a tenth of its maximum; for
    the spectral method where more comes from the data than from the penalty, as `Spectrum` says.

    Parameters
    ----------
    fit : KernelFit
        The result.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the default is a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The Axes; frequencies are in cycles per pixel.
    """
    ax = _axes(ax)
    taps = _plane(fit)
    frequencies = np.linspace(0.0, 0.5, 101)
    y, x = np.mgrid[: taps.shape[0], : taps.shape[1]]
    top, open_from, known = 0.0, [], fit.factor is not None and bool(np.isfinite(fit.stderr).all())
    for label, place, color in (("horizontal", x, BLUE), ("vertical", y, ORANGE)):
        waves = np.exp(-2j * math.pi * np.outer(frequencies, place.ravel()))
        transform = waves @ taps.ravel()
        size = np.abs(transform)
        top = max(top, float(size.max()))
        ax.plot(frequencies, size, color=color, linewidth=1.5, label=label)
        if known and fit.factor is not None:
            spread = waves @ fit.factor
            deviation = np.sqrt(np.sum(spread.real**2 + spread.imag**2, axis=1))
            ax.fill_between(
                frequencies, np.maximum(size - deviation, 0), size + deviation, color=color, alpha=0.22, linewidth=0
            )
            open_from.append(deviation)
    ax.set_ylim(0, 1.25 * top if top > 0 else 1.0)
    ax.set_xlim(0, 0.5)
    if fit.spectrum is not None:
        ax.set_title(f"frequency response; {fit.spectrum.determined:.0%} of the band determined")
        if len(fit.spectrum.frequencies):
            ring = fit.spectrum.frequencies
            ax.fill_between(ring, 0, 1, where=list(fit.spectrum.passed < 0.5), transform=ax.get_xaxis_transform(),
                            color=GRAY, alpha=0.18, linewidth=0, label="not determined")  # fmt: skip
    elif known:
        lost = np.max(open_from, axis=0) > _BELIEVED * top
        share = 1.0 - float(lost.mean())
        ax.set_title("frequency response" + ("; all of it determined" if share == 1 else f"; {share:.0%} determined"))
        if lost.any():
            ax.fill_between(frequencies, 0, 1, where=list(lost), transform=ax.get_xaxis_transform(), color=GRAY,
                            alpha=0.18, linewidth=0, label="error above 10 % of the peak")  # fmt: skip
    else:
        ax.set_title("frequency response (errors not known)")
    ax.set_xlabel("frequency, cycles per pixel")
    ax.set_ylabel("|K|")
    ax.legend(frameon=False, fontsize=8, loc="upper right")
    return ax


def residual(fit: KernelFit, image: npt.ArrayLike, target: npt.ArrayLike, ax: "Axes | None" = None) -> "Axes":
    """Draw what the kernel leaves unexplained, in units of the noise; pure noise has no structure.

    Parameters
    ----------
    fit : KernelFit
        The result.
    image, target : array_like
        The pair.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the default is a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The Axes.
    """
    return _draw_residual(fit, residuals.window(fit, image, target), _axes(ax))


def _draw_residual(fit: KernelFit, left: Array, ax: "Axes") -> "Axes":
    spread = float(left.std()) or 1.0
    picture = ax.imshow(left / spread, cmap="RdBu_r", vmin=-4, vmax=4, interpolation="nearest")
    bar = ax.figure.colorbar(picture, ax=ax, shrink=0.82, pad=0.02)
    bar.set_label("standard deviations")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(f"residual, {left.shape[0]} x {left.shape[1]} pixels, std {spread:.3g}")
    return ax


def residual_histogram(fit: KernelFit, image: npt.ArrayLike, target: npt.ArrayLike, ax: "Axes | None" = None) -> "Axes":
    """Draw how often each size of residual occurs, beside a Gaussian of the noise that was found.

    Parameters
    ----------
    fit : KernelFit
        The result.
    image, target : array_like
        The pair.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the default is a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The Axes, on a logarithmic scale, where outliers show.
    """
    return _draw_histogram(fit, residuals.window(fit, image, target), _axes(ax))


def _draw_histogram(fit: KernelFit, left: Array, ax: "Axes") -> "Axes":
    spread = fit.noise_std if fit.noise_std > 0 else float(left.std()) or 1.0
    reach = min(max(5.0, float(np.abs(left).max()) / spread * 1.05), 60.0)
    counts, edges = np.histogram(left / spread, bins=81, range=(-reach, reach))
    middle = (edges[1:] + edges[:-1]) / 2
    ax.bar(middle, counts, width=edges[1] - edges[0], color=BLUE, alpha=0.75, label="residual")
    expected = left.size * (edges[1] - edges[0]) * np.exp(-(middle**2) / 2) / math.sqrt(2 * math.pi)
    ax.plot(middle, expected, color=ORANGE, linewidth=1.5, label=f"Gaussian, std {spread:.3g}")
    ax.set_yscale("log")
    ax.set_ylim(0.5, 3 * max(float(counts.max()), float(expected.max()), 1.0))
    far = int(np.count_nonzero(np.abs(left) > 5 * spread))
    ax.set_xlabel("residual, in units of the noise")
    ax.set_ylabel("pixels")
    ax.set_title(f"{far} of {left.size} pixels beyond 5 sigma")
    ax.legend(frameon=False, fontsize=8, loc="upper right")
    return ax


def residual_autocorrelation(
    fit: KernelFit, image: npt.ArrayLike, target: npt.ArrayLike, ax: "Axes | None" = None
) -> "Axes":
    """Draw how like itself the residual is after a shift: nothing but the middle stands out of white noise.

    Parameters
    ----------
    fit : KernelFit
        The result.
    image, target : array_like
        The pair.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the default is a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The Axes; the title says whether the error bars can be right.
    """
    return _draw_autocorrelation(residuals.window(fit, image, target), _axes(ax))


def _draw_autocorrelation(left: Array, ax: "Axes") -> "Axes":
    table = residuals.autocorrelation(left)
    reach = (table.shape[0] // 2, table.shape[1] // 2)
    shown = table.copy()
    shown[reach] = np.nan  # one by definition
    chance = residuals.chance(left)
    top = max(float(np.nanmax(np.abs(shown), initial=0.0)), 2 * chance)
    color = ax.imshow(
        shown,
        cmap="RdBu_r",
        vmin=-top,
        vmax=top,
        interpolation="nearest",
        extent=(-reach[1] - 0.5, reach[1] + 0.5, reach[0] + 0.5, -reach[0] - 0.5),
    )
    bar = ax.figure.colorbar(color, ax=ax, shrink=0.82, pad=0.02)
    bar.set_label("correlation")
    ax.set_xlabel("shift in columns")
    ax.set_ylabel("shift in rows")
    worst, _ = residuals.largest(table)
    ax.set_title(
        f"residual is white (|r| < {chance:.2g})"
        if worst <= chance
        else f"residual is NOT white (|r| up to {worst:.2g})"
    )
    return ax


def strength_path(fit: KernelFit, ax: "Axes | None" = None) -> "Axes":
    """Draw the criterion that the strength of a penalty was chosen by, and the degrees of freedom.

    Parameters
    ----------
    fit : KernelFit
        A result of `Penalized`, `Sparse` or another solver that keeps its path.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the default is a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The Axes of the criterion; those of the degrees of freedom are its twin.

    Raises
    ------
    ValueError
        If the fit has no path.
    """
    if fit.path is None:
        msg = (
            f"got a fit of {fit.solver}, which has no path; need one of Penalized(), Sparse() or NonNegative(penalty=)"
        )
        raise ValueError(msg)
    ax = _axes(ax)
    path = fit.path
    kept = np.isfinite(path.score)
    counts = bool(np.all(path.strength == np.round(path.strength)) and path.strength.max() > 1)
    ax.plot(path.strength[kept], path.score[kept], color=BLUE, linewidth=1.5)
    if not counts:
        ax.set_xscale("log")
    if np.all(path.score[kept] > 0):
        ax.set_yscale("log")
    chosen = fit.strength if math.isfinite(fit.strength) else float(path.strength[kept][np.argmin(path.score[kept])])
    ax.axvline(chosen, color=GRAY, linestyle="--", linewidth=1)
    ax.set_xlabel("number of taps" if counts else "strength (relative)")
    ax.set_ylabel(path.criterion, color=BLUE)
    if not counts:
        twin = ax.twinx()
        twin.plot(path.strength, path.freedom, color=ORANGE, linewidth=1.2)
        twin.set_ylabel("degrees of freedom", color=ORANGE)
    ax.set_title(f"chosen: {chosen:.3g}, {fit.freedom:.3g} degrees of freedom of {fit.kernel.size}")
    return ax


def overview(
    fit: KernelFit,
    image: npt.ArrayLike | None = None,
    target: npt.ArrayLike | None = None,
    *,
    figure: "Figure | None" = None,
) -> "Figure":
    """Draw the one figure that answers "may I believe this?".

    Parameters
    ----------
    fit : KernelFit
        The result.
    image, target : array_like, optional
        The pair the kernel was found in; with it the residual is shown, too.
    figure : matplotlib.figure.Figure, optional
        Where to draw; the default is a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The verdict, the kernel and its errors, cuts, frequency response and, with the pair, the residual.

    Raises
    ------
    ValueError
        If only one of the pair is given.
    """
    if (image is None) != (target is None):
        msg = "got one of image and target, need both for the residual, or neither"
        raise ValueError(msg)
    paired = image is not None and target is not None
    if figure is None:
        pyplot = require("matplotlib.pyplot", package="matplotlib", extra="plot", purpose="drawing")
        figure = pyplot.figure(figsize=(13.5, 7.6 if paired else 7.2), layout="constrained")
    assert figure is not None
    layout = [["kernel", "error", "cuts"], ["response", "residual", "autocorrelation"]]
    if not paired:
        layout = [["kernel", "error"], ["cuts", "response"]]
    axes: Any = figure.subplot_mosaic(layout)
    kernel(fit, axes["kernel"])
    error(fit, axes["error"])
    cuts(fit, axes["cuts"])
    frequency_response(fit, axes["response"])
    if image is not None and target is not None:
        left = residuals.window(fit, image, target)
        _draw_residual(fit, left, axes["residual"])
        _draw_autocorrelation(left, axes["autocorrelation"])
    headline = "solved" if fit.verdict.ok else f"DOUBTFUL: {fit.verdict.name.lower().replace('_', ' ')}"
    noise = f"noise {fit.noise_std:.3g} per pixel" if math.isfinite(fit.noise_std) else "noise not known"
    explained = f"R² {fit.r_squared:.6g}" if math.isfinite(fit.r_squared) else "no variance to explain"
    figure.suptitle(
        f"{headline}   |   {explained}, {noise}, {fit.n_pixels} pixels, {fit.kernel.size} taps",
        color=GOOD if fit.verdict.ok else DOUBTFUL,
        fontweight="bold",
    )
    return figure
