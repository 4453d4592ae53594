"""Pictures of a complex kernel: its modulus and its phase, from its real and its imaginary part."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.dimensions import lowered
from ..core.estimate import Estimate
from . import signals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
