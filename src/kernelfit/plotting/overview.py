"""Pictures of a kernel and of how well it is known (extra "plot"): each function draws one on matplotlib Axes.

The pictures of the residual look at 1024 x 1024 pixels about the middle at most, so that they are quick on any image;
of several channels or pairs they show smaller windows side by side. `overview`, which is ``fit.plot()``, draws every
kernel of a result; the others draw one kernel of rows and columns, such as `kernelfit.split_channels` gives.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..analysis import residuals
from ..analysis.channel_split import split_channels, split_targets
from ..core.dimensions import in_samples, of_any_dimension
from ..core.estimate import Estimate
from ..core.validation import Array
from ..imageio.planes import require
from . import signals, volumes
from .field import flux_map, kernel_grid, width_map
from .panels import (
    BLUE,
    GRAY,
    ORANGE,
    colorbar,
    cuts,
    error,
    frequency_response,
    halves,
    kernel,
    modulus,
    new_axes,
    phase,
    picture,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
GOOD, DOUBTFUL = "#1a7f37", "#b3541e"


@picture("")
def residual(fit: Estimate, image: npt.ArrayLike, target: npt.ArrayLike, ax: "Axes | None" = None) -> "Axes":
    """Draw what the kernel leaves unexplained, in units of the noise; pure noise has no structure."""
    return draw_residual(fit, residuals.window(fit, image, target), new_axes(ax))


@signals.relabels
def draw_residual(fit: Estimate, left: Array, ax: "Axes") -> "Axes":
    """Draw it of what is left."""
    kept = left[np.isfinite(left)]
    found = float(kept.std()) if kept.size else 0.0
    spread = found or 1.0
    size = f"{left.shape[0]} x {left.shape[1]} pixels"
    ax.set_title(f"residual, {size}: " + ("rounding only" if exact(fit) else f"std {found:.3g}"))
    if min(left.shape) == 1:
        ax.plot(left.ravel() / spread, color=BLUE, linewidth=0.7)
        ax.set(xlabel="pixel", ylabel="standard deviations")
        return ax
    shown = ax.imshow(left / spread, cmap="RdBu_r", vmin=-4, vmax=4, interpolation="nearest")
    colorbar(ax, shown, "standard deviations")
    ax.set(xticks=[], yticks=[], facecolor="#d4d4d8")  # that of what was left out
    return ax


@picture(", on a logarithmic scale, where outliers show")
def residual_histogram(fit: Estimate, image: npt.ArrayLike, target: npt.ArrayLike, ax: "Axes | None" = None) -> "Axes":
    """Draw how often each size of residual occurs, beside a Gaussian of the noise that was found."""
    return draw_histogram(fit, residuals.window(fit, image, target), new_axes(ax))


@signals.relabels
def draw_histogram(fit: Estimate, left: Array, ax: "Axes") -> "Axes":
    """Draw it of what is left."""
    left = left[np.isfinite(left)]
    spread = fit.noise_std if fit.noise_std > 0 else (float(left.std()) if left.size else 0.0) or 1.0
    reach = min(max(5.0, float(np.abs(left).max(initial=0.0)) / spread * 1.05), 60.0)
    counts, edges = np.histogram(left / spread, bins=81, range=(-reach, reach))
    middle = (edges[1:] + edges[:-1]) / 2
    ax.bar(middle, counts, width=edges[1] - edges[0], color=BLUE, alpha=0.75, label="residual")
    expected = left.size * (edges[1] - edges[0]) * np.exp(-(middle**2) / 2) / math.sqrt(2 * math.pi)
    ax.plot(middle, expected, color=ORANGE, linewidth=1.5, label=f"Gaussian, std {spread:.3g}")
    ax.set(yscale="log", ylim=(0.5, 3 * max(float(counts.max()), float(expected.max()), 1.0)))
    far = int(np.count_nonzero(np.abs(left) > 5 * spread))
    ax.set(xlabel="residual, in units of the noise", ylabel="pixels")
    ax.set_title(f"{far} of {left.size} pixels beyond 5 sigma")
    ax.legend(frameon=False, fontsize=8, loc="upper right")
    return ax


@picture("; the title says whether the error bars can be right")
def residual_autocorrelation(
    fit: Estimate, image: npt.ArrayLike, target: npt.ArrayLike, ax: "Axes | None" = None
) -> "Axes":
    """Draw how like itself the residual is after a shift: nothing but the middle stands out of white noise."""
    return draw_autocorrelation(fit, residuals.window(fit, image, target), new_axes(ax))


@signals.relabels
def draw_autocorrelation(fit: Estimate, left: Array, ax: "Axes") -> "Axes":
    """Draw it of what is left."""
    table = residuals.autocorrelation(left)
    worst, _ = residuals.largest(table)
    chance = residuals.chance(left, fit)
    if exact(fit):
        ax.set_title("residual is rounding only")
    elif worst <= chance:
        ax.set_title(f"residual is white, |r| < {chance:.2g}")
    else:
        allowed = {"sandwich": ": allowed for"}.get(fit.errors, ": errors too small" if fit.spectrum is None else "")
        ax.set_title(f"residual is NOT white, |r| = {worst:.2g}{allowed}")
    reach = (table.shape[0] // 2, table.shape[1] // 2)
    shown = table.copy()
    shown[reach] = np.nan  # one by definition
    if min(table.shape) == 1:
        ax.axhspan(-chance, chance, color=GRAY, alpha=0.18, linewidth=0, label="chance")
        ax.plot(np.arange(-max(reach), max(reach) + 1), shown.ravel(), "o", color=BLUE, markersize=4)
        ax.set(xlabel="shift in pixels", ylabel="correlation")
        ax.legend(frameon=False, fontsize=8, loc="upper right")
        return ax
    top = min(1.0, max(float(np.nanmax(np.abs(shown), initial=0.0)), 2 * chance))
    extent = (-reach[1] - 0.5, reach[1] + 0.5, reach[0] + 0.5, -reach[0] - 0.5)
    color = ax.imshow(shown, cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest", extent=extent)
    colorbar(ax, color, "correlation")
    ax.set(xlabel="shift in columns", ylabel="shift in rows")
    for axis, lags in ((ax.yaxis, reach[0]), (ax.xaxis, reach[1])):
        axis.set_ticks(sorted({-lags, -(lags // 2), 0, lags // 2, lags}))
    return ax


def exact(fit: Estimate) -> bool:
    """Say whether the kernel explains the target to rounding, so that there is no noise to speak of."""
    return fit.r_squared > 1 - 1e-13


@of_any_dimension
def overview(
    fit: Estimate,
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
    image, target : array_like, or lists of them, optional
        What `find_kernel` got; with it the residual is shown, too.
    figure : matplotlib.figure.Figure, optional
        Where to draw; the default is a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The verdict, the kernel and its errors, cuts, frequency response and, with the pair, the residual; of several
        channels one such figure below the other, with a kernel from each channel of the image if they are mixed.

    Raises
    ------
    ValueError
        If only one of the pair is given.
    """
    if (image is None) != (target is None):
        raise ValueError("got one of image and target, need both for the residual, or neither")
    if fit.convention.ndim == 3:
        return _of_volume(fit, image, target, figure)
    parts, lefts = split_targets(fit), None
    if image is not None and target is not None:
        lefts = [residuals.tiled(part) for part in residuals.windows(fit, image, target)]
    kernels = [split_channels(part) for part in parts.values()]
    layouts = [
        _layout(len(each), lefts is not None, _varies(part), len(halves(each)), part.convention.ndim == 1)
        for each, part in zip(kernels, parts.values(), strict=True)
    ]
    if figure is None:
        pyplot = require("matplotlib.pyplot", package="matplotlib", extra="plot", purpose="drawing")
        height = 0.4 + sum(3.6 * len(layout) for layout in layouts)
        width = 13.5 if max(map(len, kernels)) == 1 else 18.0
        figure = pyplot.figure(figsize=(width, height), layout="constrained")
    assert figure is not None
    below: Any = [figure]
    if len(parts) > 1:
        below = figure.subfigures(len(parts), 1, height_ratios=[len(layout) for layout in layouts])
    for at, (name, part) in enumerate(parts.items()):
        left = None if lefts is None else lefts[at]
        _believe(below[at], f"{name}: " if name else "", part, kernels[at], layouts[at], left)
    return figure


def _of_volume(
    fit: Estimate, image: npt.ArrayLike | None, target: npt.ArrayLike | None, figure: "Figure | None"
) -> "Figure":
    """Draw cuts, projections, profiles with their errors and, with the pair, the residual of the middle plane."""
    targets = split_targets(fit)
    kernels = [
        (at, name, one) for at, part in enumerate(targets.values()) for name, one in split_channels(part).items()
    ]
    names = list(targets)
    if figure is None:
        pyplot = require("matplotlib.pyplot", package="matplotlib", extra="plot", purpose="drawing")
        figure = pyplot.figure(figsize=(13.5, 11.2 * len(kernels)), layout="constrained")
    assert figure is not None
    below: Any = [figure] if len(kernels) == 1 else figure.subfigures(len(kernels), 1)
    for place, (at, name, one) in zip(below, kernels, strict=True):
        left, plane = None, 0
        if image is not None and target is not None:
            left, plane = volumes.middle_residual(fit, image, target, at)
        words = " ".join(filter(None, [names[at], name]))
        _draw_volume(place, f"{words}: " if words else "", one, left, plane)
    return figure


def _draw_volume(figure: Any, name: str, fit: Estimate, left: Array | None, plane: int) -> None:
    """Draw all about one kernel, under its verdict."""
    last = ["error", "response"] if left is None else ["residual", "autocorrelation"]
    rows = [[f"{what} {axis}" for axis in range(3)] for what in ("cut", "most")]
    layout: Any = [*rows, ["profiles", *last]]
    axes: dict[str, Axes] = figure.subplot_mosaic(layout)
    volumes.orthogonal_cuts(fit, [axes[name] for name in rows[0]])
    volumes.maximum_projections(fit, [axes[name] for name in rows[1]])
    volumes.profiles(fit, axes["profiles"])
    if left is None:
        volumes.errors(fit, axes["error"])
        volumes.response(fit.kernel, axes["response"])
    else:
        draw_residual(fit, left, axes["residual"])
        axes["residual"].set_title(f"plane {plane}: {axes['residual'].get_title()}")
        draw_autocorrelation(fit, left, axes["autocorrelation"])
    for ax in axes.values():
        ax.title.set_fontsize(10)
    figure.suptitle(name + _headline(fit), color=GOOD if fit.verdict.ok else DOUBTFUL, fontweight="bold")


def _varies(part: Estimate) -> bool:
    """Say whether there are maps of a kernel over the field, which a width and a flux take."""
    return part.convention.field is not None and part.kernel.ndim == 3 and part.kernel.dtype.kind != "c"


def _layout(n_kernels: int, paired: bool, varies: bool, n_complex: int, signals: bool) -> list[list[str]]:
    if n_kernels == 1:
        more = [["kernel grid", "kernel grid" if signals else "width map", "flux map"]] if varies else []
        if paired:
            return [["kernel 0", "error 0", "cuts 0"], ["response 0", "residual", "autocorrelation"], *more]
        if varies:
            return [["kernel 0", "error 0", "response 0"], *more]
        return [["kernel 0", "error 0"], ["cuts 0", "response 0"]]
    rows = [[f"{what} {at}" for what in ("kernel", "error", "cuts", "response")] for at in range(n_kernels)]
    rows += [[f"modulus {at}", f"phase {at}", ".", "."] for at in range(n_complex)]
    return rows + ([["residual", "autocorrelation", ".", "."]] if paired else [])


def _believe(
    figure: Any, name: str, fit: Estimate, kernels: dict[str, Estimate], layout: list[list[str]], left: Array | None
) -> None:
    """Draw all about one target, under its verdict."""
    axes: dict[str, Axes] = figure.subplot_mosaic(layout)
    for each in axes.values():
        each.title.set_fontsize(10)
    for at, (what, one) in enumerate(kernels.items()):
        alone = len(kernels) == 1
        kernel(one, axes[f"kernel {at}"], title=None if alone else what, numbers=alone)
        error(one, axes[f"error {at}"], numbers=alone)
        if f"cuts {at}" in axes:
            cuts(one, axes[f"cuts {at}"])
        frequency_response(one, axes[f"response {at}"])
    for at, (what, real, imaginary) in enumerate(halves(kernels)):
        for polar in (modulus, phase):
            ax = polar(real, imaginary, axes[f"{polar.__name__} {at}"])
            ax.set_title(f"{what}: {ax.get_title()}" if what else ax.get_title())
    if "kernel grid" in axes:
        for draw in (kernel_grid, flux_map) if fit.convention.ndim == 1 else (kernel_grid, width_map, flux_map):
            draw(fit, axes[draw.__name__.replace("_", " ")])
    if left is not None:
        draw_residual(fit, left, axes["residual"])
        draw_autocorrelation(fit, left, axes["autocorrelation"])
    words = name + _headline(fit)
    figure.suptitle(
        in_samples(words) if fit.convention.ndim == 1 else words,
        color=GOOD if fit.verdict.ok else DOUBTFUL,
        fontweight="bold",
    )


def _headline(fit: Estimate) -> str:
    headline = "solved" if fit.verdict.ok else f"DOUBTFUL: {fit.verdict.name.lower().replace('_', ' ')}"
    noise = f"noise {fit.noise_std:.3g} per pixel" if math.isfinite(fit.noise_std) else "noise not known"
    explained = f"R² {fit.r_squared:.6g}, {noise}" if math.isfinite(fit.r_squared) else "no variance to explain"
    if exact(fit):
        explained = "exact to rounding"
    return f"{headline}   |   {explained}, {fit.n_pixels} pixels, {fit.kernel.size} taps"
