"""Pictures of a kernel, real or complex, and of how well it is known, each on Axes; `plot` is the door to them."""

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..core.dimensions import of_any_dimension
from ..core.estimate import Estimate, require_fit, require_real
from ..core.findings import Verdict
from ..core.validation import Array
from ..imageio.planes import require
from . import signals

if TYPE_CHECKING:
    from matplotlib.axes import Axes
from typing import TYPE_CHECKING

from ..core.dimensions import lowered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
Draw = TypeVar("Draw", bound=Callable[..., Any])
BLUE, ORANGE, GRAY = "#1f5fa8", "#c4560b", "#6b7280"
_MOST_NUMBERS = 7  # rows or columns of a kernel whose taps are written into the picture
_FRAME = 0.46 * np.array([[-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1]])  # around a tap
_STRIP = 4  # longer shapes are not drawn to scale
_BELIEVED = 0.1  # error of the response, relative to its maximum, up to which a frequency counts as determined
_PARAMETERS = {
    "fit": "KernelFit\n    The result.",
    "image": "array_like, or list of them\n    What `find_kernel` got.",
    "target": "array_like, or list of them\n    What `find_kernel` got.",
    "ax": "matplotlib.axes.Axes, optional\n    Where to draw; the default is a new figure.",
    "axes": "sequence of matplotlib.axes.Axes, optional\n    Where to draw; the default is a new figure.",
    "title": "str, optional\n    Instead of the shape.",
    "numbers": "bool, optional\n    Whether values are written into the picture, up to 7 x 7 of them; default True.",
}


#: Phases of taps are drawn where their modulus is so many times its error.
_KNOWN = 2.0


def halves(kernels: dict[str, Estimate]) -> list[tuple[str, Estimate, Estimate]]:
    """Return the name of each complex kernel among split ones, with its real and its imaginary part."""
    names = list(kernels)
    parts = [(a, b) for a, b in zip(names, names[1:], strict=False) if b.endswith("imaginary part")]
    return [(a.removesuffix("real part").rstrip(", "), kernels[a], kernels[b]) for a, b in parts]


def _taps(real: Estimate, imaginary: Estimate) -> tuple[Any, npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the lags of the taps, the taps, and the standard error of the modulus of each, about."""
    real, imaginary = lowered(real), lowered(imaginary)
    return real.lags, real.kernel + 1j * imaginary.kernel, np.hypot(real.stderr, imaginary.stderr) / np.sqrt(2.0)


def modulus(real: Estimate, imaginary: Estimate, ax: "Axes") -> "Axes":
    """Draw the modulus of each tap."""
    lags, taps, errors = _taps(real, imaginary)
    size = np.abs(taps)
    if taps.ndim == 1:
        known = np.isfinite(errors)
        ax.fill_between(lags, np.maximum(size - 2 * errors, 0), size + 2 * errors, where=known, alpha=0.3)
        ax.plot(lags, size, color="#1f5fa8", linewidth=1.0)
        ax.set(xlabel="lag, samples", ylim=(0, None))
    else:
        shown = ax.imshow(size, cmap="magma", vmin=0.0, vmax=float(size.max()) or 1.0, interpolation="nearest")
        ax.figure.colorbar(shown, ax=ax, label="modulus of a tap")
    ax.set_title(f"modulus, up to {float(size.max()):.4g}")
    return ax


def phase(real: Estimate, imaginary: Estimate, ax: "Axes") -> "Axes":
    """Draw the phase of each tap in degrees, where its modulus is beyond twice its error."""
    lags, taps, errors = _taps(real, imaginary)
    known = np.abs(taps) > _KNOWN * np.where(np.isfinite(errors), errors, 0.0)
    angle = np.where(known, np.angle(taps, deg=True), np.nan)
    if taps.ndim == 1:
        ax.plot(lags, angle, ".", color="#1f5fa8", markersize=4)
        ax.set(xlabel="lag, samples", ylabel="degrees", ylim=(-180, 180))
    else:
        shown = ax.imshow(angle, cmap="twilight", vmin=-180, vmax=180, interpolation="nearest")
        ax.figure.colorbar(shown, ax=ax, label="phase of a tap, degrees", ticks=[-180, -90, 0, 90, 180])
    ax.set_title("phase, where it is known")
    return signals.relabelled(ax) if taps.ndim == 1 else ax


def described(returned: str) -> Callable[[Draw], Draw]:
    """Give a drawing the sections of its docstring that all have: its parameters, and what it returns."""

    def documented(draw: Draw) -> Draw:
        text, raises, errors = inspect.cleandoc(draw.__doc__ or "").partition("\n\nRaises\n")
        taken = "\n".join(f"{name} : {_PARAMETERS[name]}" for name in inspect.signature(draw).parameters)
        draw.__doc__ = f"{text}\n\nParameters\n----------\n{taken}\n\nReturns\n-------\n{returned}{raises}{errors}\n"
        return draw

    return documented


def picture(told: str) -> Callable[[Draw], Draw]:
    """Let a drawing take any kernel, and describe it: it returns Axes."""
    return lambda draw: of_any_dimension(described(f"matplotlib.axes.Axes\n    The Axes{told}.")(draw))  # type: ignore[return-value]


def new_figure(count: int, size: tuple[float, float]) -> Any:
    """Return the Axes of a new figure, side by side."""
    pyplot = require("matplotlib.pyplot", package="matplotlib", extra="plot", purpose="drawing")
    return pyplot.subplots(1, count, layout="constrained", figsize=size)[1]


def new_axes(ax: "Axes | None") -> "Axes":
    """Return the Axes to draw on: those given, or a new figure's."""
    return new_figure(1, (5.2, 4.2)) if ax is None else ax


def _plane(fit: Estimate) -> Array:
    require_fit(fit)
    require_real(fit)
    if fit.kernel.ndim != 2:
        raise ValueError(
            f"got kernels of shape {fit.kernel.shape}, need rows and columns; fit.plot() draws them all, "
            "split_channels(fit) takes them apart"
        )
    return fit.kernel


@picture("; a cross or a frame marks the origin, the tap over the output pixel, if it is a tap")
def kernel(fit: Estimate, ax: "Axes | None" = None, *, title: str | None = None, numbers: bool = True) -> "Axes":
    """Draw the taps: a diverging map about zero if some are clearly negative, else a sequential one from zero."""
    ax = new_axes(ax)
    taps = _plane(fit)
    if fit.convention.ndim == 1:
        return signals.impulse_response(fit, ax, title)
    high = float(np.abs(taps).max()) or 1.0
    errors = np.where(np.isfinite(fit.stderr), fit.stderr, 0.0)
    negative = (taps < -np.maximum(3 * errors, 0.01 * high)).any() or taps.min() < -0.25 * high
    scale: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -high, "vmax": high}
    if not negative:
        scale = {"cmap": "magma", "vmin": min(0.0, float(taps.min())), "vmax": high}
    shown = ax.imshow(taps, interpolation="nearest", **scale)
    _taps_bar(ax, shown, "tap (target units per image unit)")
    _grid(ax, taps.shape)
    row, col = fit.convention.origin
    framed = max(taps.shape) <= _MOST_NUMBERS
    if framed and numbers:
        _numbers(ax, taps, shown)
    x, y = ([col], [row]) if not framed else (col + _FRAME[0], row + _FRAME[1])
    rows, cols = taps.shape
    outside = not (0 <= row < rows and 0 <= col < cols)
    for color, width in (("white", 3.0), ("black", 1.2)) if not outside else ():
        ax.plot(x, y, "-" if framed else "+", color=color, linewidth=width, markersize=11, markeredgewidth=width)
    mark = f"origin at {fit.convention.origin}" if outside else f"{'□' if framed else '+'} origin"
    ax.set_title(title if title is not None else f"kernel {rows} x {cols}   ({mark})")
    return ax


@picture("; the title says how large the errors are beside the largest tap")
def error(fit: Estimate, ax: "Axes | None" = None, *, numbers: bool = True) -> "Axes":
    """Draw the standard error of each tap."""
    ax = new_axes(ax)
    if fit.convention.ndim == 1:
        return signals.standard_error(fit, ax)
    taps, errors = _plane(fit), fit.stderr
    _grid(ax, taps.shape)
    if not np.isfinite(errors).all():
        ax.set(xlim=(-0.5, taps.shape[1] - 0.5), ylim=(taps.shape[0] - 0.5, -0.5), aspect="equal", facecolor="#ececee")
        ax.text(0.5, 0.5, "not known", transform=ax.transAxes, ha="center", va="center", color=GRAY)
        ax.set_title("standard errors")
        return ax
    top, high = float(errors.max()), float(np.abs(taps).max())
    limit = top if fit.factor is not None else 2 * top  # one typical error for all: in the middle of the scale
    shown = ax.imshow(errors, cmap="viridis", vmin=0.0, vmax=limit or 1.0, interpolation="nearest")
    _taps_bar(ax, shown, "standard error of a tap")
    _grid(ax, taps.shape)
    if max(taps.shape) <= _MOST_NUMBERS and numbers:
        _numbers(ax, errors, shown)
    name = "error" if fit.uncertainty == "sampling" else "error (with the prior)"
    size = "up to" if fit.factor is not None else "about"
    of = " of what is known" if _open(fit) else f", {size} {_percent(top / high)} of the peak" if high > 0 else ""
    ax.set_title(name + of)
    return ax


def _open(fit: Estimate) -> bool:
    """Say whether part of the kernel was set to zero, without any error, because the image leaves it open."""
    return any(finding.verdict is Verdict.RANK_DEFICIENT for finding in fit.findings)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share >= 1e-5 else f"{share:.0e}"


@of_any_dimension
@described("(Axes, Axes)\n    Those of `kernel` and of `error`.")
def kernel_and_error(fit: Estimate, axes: "tuple[Axes, Axes] | None" = None) -> "tuple[Axes, Axes]":
    """Draw the kernel and its standard errors side by side."""
    axes = tuple(new_figure(2, (9.6, 4.2))) if axes is None else axes
    return kernel(fit, axes[0]), error(fit, axes[1])


def colorbar(ax: "Axes", shown: Any, label: str) -> Any:
    """Draw the scale of a picture beside it."""
    bar = ax.figure.colorbar(shown, ax=ax, shrink=0.82, pad=0.02)
    bar.set_label(label)
    return bar


def _taps_bar(ax: "Axes", shown: Any, label: str) -> None:
    colorbar(ax, shown, label).formatter.set_powerlimits((-2, 3))


def _grid(ax: "Axes", shape: tuple[int, ...]) -> None:
    """Label rows and columns by whole numbers only."""
    for axis, n in ((ax.yaxis, shape[0]), (ax.xaxis, shape[1])):
        axis.set_ticks(range(0, n, max(1, math.ceil(n / 8))))
    if max(shape) > _STRIP * min(shape):  # a strip that can be seen
        ax.set_aspect("auto")
        ax.set_box_aspect(1 / _STRIP if shape[1] > shape[0] else _STRIP)
    ax.set(xlabel="column", ylabel="row")


def _numbers(ax: "Axes", values: Array, shown: Any) -> None:
    """Write each value into its square, dark on light and light on dark."""
    top = float(np.abs(values).max())
    digits = max(0, min(6, 2 - math.floor(math.log10(top)))) if top > 0 else 0
    digits = digits if max(values.shape) <= 5 else min(digits, 3)
    small = top > 0 and top < 1e-3
    for (row, col), value in np.ndenumerate(values):
        red, green, blue, _ = shown.cmap(shown.norm(value))
        text = f"{value:.1e}" if small else f"{value:.{digits}f}"
        if not small and float(text) == 0:
            text = "0"
        color = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
        ax.text(col, row, text, ha="center", va="center", color=color, fontsize=8 if max(values.shape) <= 5 else 6.5)


@picture("; positions are pixels from the origin")
def cuts(fit: Estimate, ax: "Axes | None" = None) -> "Axes":
    """Draw the row and the column of taps through the largest one, with their 95 % intervals; of signals the decay."""
    ax = new_axes(ax)
    taps = _plane(fit)
    if fit.convention.ndim == 1:
        return signals.decay(fit, ax)
    at = np.unravel_index(int(np.argmax(np.abs(taps))), taps.shape)
    low, high = fit.confidence(0.95) if np.isfinite(fit.stderr).all() else (taps, taps)
    ax.axhline(0.0, color=GRAY, linewidth=0.8)
    lines = (
        (f"row {at[0]}", (at[0], slice(None)), 1, BLUE, "o"),
        (f"column {at[1]}", (slice(None), at[1]), 0, ORANGE, "s"),
    )
    for label, where, axis, color, mark in lines:
        if taps.shape[axis] == 1 < taps.size:  # nothing to be seen along it
            continue
        x = np.arange(taps.shape[axis]) - fit.convention.origin[axis]
        ax.fill_between(x, low[where], high[where], color=color, alpha=0.22, linewidth=0)
        ax.plot(x, taps[where], mark + "-", color=color, markersize=3.5, linewidth=1.2, label=label)
    ax.set(xlabel="pixels from the origin", ylabel="tap")
    ax.legend(frameon=False, fontsize=8, loc="best")
    sure = "95 % intervals" + (" of what is known" if _open(fit) else "")
    ax.set_title(f"cuts through the peak, {sure if np.isfinite(fit.stderr).all() else 'errors not known'}")
    return ax


@picture("; frequencies are in cycles per pixel")
def frequency_response(fit: Estimate, ax: "Axes | None" = None) -> "Axes":
    """Draw the size of the kernel's transform along rows and columns, and the band that the data determine.

    A frequency counts as determined where the standard error of the transform is below a tenth of the maximum, and the
    image does not leave it open; for the spectral method where more comes from the data than from the penalty, as
    `Spectrum` says.
    """
    ax = new_axes(ax)
    taps = _plane(fit)
    if fit.convention.ndim == 1:
        return signals.frequency_response(fit, ax)
    frequencies = np.linspace(0.0, 0.5, 101)
    y, x = np.mgrid[: taps.shape[0], : taps.shape[1]]
    factor = fit.factor if np.isfinite(fit.stderr).all() else None
    lost = np.zeros(len(frequencies), dtype=bool)
    sizes, spreads = [], []
    for label, place, color, side in (("horizontal", x, BLUE, 1), ("vertical", y, ORANGE, 0)):
        if taps.shape[side] == 1 < taps.size:  # the same at all frequencies
            continue
        waves = np.exp(-2j * math.pi * np.outer(frequencies, place.ravel()))
        size = np.abs(waves @ taps.ravel())
        ax.plot(frequencies, size, color=color, linewidth=1.5, label=label)
        sizes.append(size)
        if factor is not None:
            spread = np.sqrt(np.sum(np.abs(waves @ factor) ** 2, axis=1))
            low, high = np.maximum(size - spread, 0), size + spread
            ax.fill_between(frequencies, low, high, color=color, alpha=0.22, linewidth=0)
            spreads.append(spread)
            if _open(fit):
                # what the image leaves open was set to zero, without any error: it is not known all the same
                basis = np.linalg.qr(factor)[0]
                lost |= np.sum(np.abs(waves @ basis) ** 2, axis=1) < (1 - _BELIEVED) * taps.size
    top = max(float(size.max()) for size in sizes)
    title = "frequency response"
    if fit.spectrum is not None:
        title += f"; {fit.spectrum.determined:.0%} determined"
        if len(fit.spectrum.frequencies):
            ring = fit.spectrum.frequencies
            _shade(ax, ring, fit.spectrum.passed < 0.5, "not determined")
    elif factor is not None:
        size, spread = np.max(sizes, axis=0), np.max(spreads, axis=0)
        sound = size[~lost & (spread < 0.5 * size)]
        peak = float(sound.max()) if len(sound) else top
        lost |= spread > _BELIEVED * peak
        top = min(top, 4 * peak)
        title += f"; {1 - float(lost.mean()):.0%} determined" if lost.any() else "; all of it determined"
        if lost.any():
            _shade(ax, frequencies, lost, "not known to 10 % of the peak")
    else:
        title += ", errors not known"
    ax.set(title=title, xlim=(0, 0.5), ylim=(0, 1.25 * top if top > 0 else 1.0))
    ax.set(xlabel="frequency, cycles per pixel", ylabel="|K|, factor on a wave's height")
    ax.legend(frameon=False, fontsize=8, loc="best")
    return ax


def _shade(ax: "Axes", x: Array, where: npt.NDArray[np.bool_], label: str) -> None:
    look: dict[str, Any] = {"color": GRAY, "alpha": 0.18, "linewidth": 0, "label": label}
    ax.fill_between(x, 0, 1, where=list(where), transform=ax.get_xaxis_transform(), **look)


@picture("; frequencies are in cycles per pixel, up to 0.71 along the diagonal")
def spectrum(fit: Estimate, ax: "Axes | None" = None) -> "Axes":
    """Draw what division by frequency (``method="wiener"``) can know: the coherence, and the share that the data give.

    Raises
    ------
    ValueError
        If the fit has no spectrum.
    """
    require_fit(fit)
    if fit.spectrum is None:
        raise ValueError(f"got a fit by method {fit.method!r}, which has no spectrum; need one by method='wiener'")
    ax = new_axes(ax)
    seen = fit.spectrum
    ax.plot(seen.frequencies, seen.coherence, color=BLUE, linewidth=1.5, label="coherence: explained by the kernel")
    ax.plot(seen.frequencies, seen.passed, color=ORANGE, linewidth=1.5, label="from the data, not the penalty")
    ax.axhline(0.5, color=GRAY, linewidth=0.8, linestyle="--")
    ax.set(ylim=(-0.02, 1.3), yticks=[0.0, 0.25, 0.5, 0.75, 1.0])
    ax.set_xlim(left=0.0)
    ax.set(xlabel="frequency, cycles per pixel", ylabel="share, from 0 to 1")
    ax.legend(frameon=False, fontsize=8, loc="upper right")
    ax.set_title(f"spectrum; balance {seen.balance:.2g}, {seen.determined:.0%} determined")
    return ax


@picture(" of the criterion; those of the degrees of freedom are its twin")
def strength_path(fit: Estimate, ax: "Axes | None" = None) -> "Axes":
    """Draw the criterion that the strength of a penalty was chosen by, and the degrees of freedom.

    Raises
    ------
    ValueError
        If the fit has no path.
    """
    if fit.path is None:
        raise ValueError(
            f"got a fit of {fit.solver}, which has no path; need one of Penalized(), Sparse() or NonNegative(penalty=)"
        )
    ax = new_axes(ax)
    path = fit.path
    kept = np.isfinite(path.score)
    counts = bool(np.all(path.strength == np.round(path.strength)) and path.strength.max() > 1)
    least = float(path.score[kept].min())
    above = path.score[kept] - least
    seen = above > 1e-9 * max(1e-300, float(above.max()))
    ax.plot(path.strength[kept][seen], above[seen], color=BLUE, linewidth=1.5)
    ax.set_yscale("log")
    if not counts:
        ax.set_xscale("log")
    chosen = fit.strength if math.isfinite(fit.strength) else float(path.strength[kept][np.argmin(path.score[kept])])
    ax.axvline(chosen, color=GRAY, linestyle="--", linewidth=1)
    ax.set_xlabel("number of taps" if counts else "strength (relative)")
    ax.set_ylabel(f"{path.criterion}, above its minimum", color=BLUE)
    if not counts:
        twin = ax.twinx()
        twin.plot(path.strength, path.df_model, color=ORANGE, linewidth=1.2)
        twin.set_ylabel("degrees of freedom", color=ORANGE)
    ax.set_title(f"chosen: {chosen:.3g}, {fit.df_model:.3g} degrees of freedom of {fit.kernel.size}")
    return ax
