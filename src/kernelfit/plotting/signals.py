"""Pictures of a signal's kernel: impulse response, decay, frequency response, each on matplotlib Axes.

They take estimates as the code has them, of images of one row; `panels` and `overview` are the doors.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.dimensions import in_samples, lowered
from ..core.estimate import Estimate
from ..core.validation import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
BLUE, ORANGE, GRAY = "#1f5fa8", "#c4560b", "#6b7280"
_MOST_MARKS = 80  # taps that are drawn as points, too
_MOST_EXACT = 3000  # taps whose covariance is taken through the transform
_FLOOR = 1e-12


def impulse_response(fit: Estimate, ax: "Axes", title: str | None = None) -> "Axes":
    """Draw the taps against their lags, with their 95 % intervals."""
    fit = lowered(fit)
    known = bool(np.isfinite(fit.stderr).all())
    ax.axhline(0.0, color=GRAY, linewidth=0.8)
    if known:
        ax.fill_between(fit.lags, *fit.confidence(0.95), color=ORANGE, alpha=0.3, linewidth=0, label="95 % intervals")
        ax.legend(frameon=False, fontsize=8, loc="best")
    style = "o-" if fit.kernel.size <= _MOST_MARKS else "-"
    ax.plot(fit.lags, fit.kernel, style, color=BLUE, markersize=3, linewidth=1.0)
    ax.set(xlabel="lag, samples", ylabel="tap (target units per input unit)")
    ax.set(title=title or f"impulse response, {fit.kernel.size} taps{'' if known else ', errors not known'}")
    return ax


def standard_error(fit: Estimate, ax: "Axes") -> "Axes":
    """Draw the standard error of each tap against its lag."""
    fit = lowered(fit)
    ax.plot(fit.lags, fit.stderr, color=ORANGE, linewidth=1.0)
    ax.set(ylim=(0, None), xlabel="lag, samples", ylabel="standard error", title="standard error of each tap")
    return ax


def decay(fit: Estimate, ax: "Axes") -> "Axes":
    """Draw the energy that is left after each lag, and what of it the errors of the taps would make."""
    # M. R. Schroeder, "New method of measuring reverberation time", J. Acoust. Soc. Am. 37 (1965) 409,
    # doi:10.1121/1.1909343.
    fit = lowered(fit)
    order = np.argsort(fit.lags)
    energy, noise = (np.cumsum(values[order][::-1] ** 2)[::-1] for values in (fit.kernel, fit.stderr))
    whole = float(energy[0]) or 1.0
    ax.plot(fit.lags[order], _decibels(energy / whole) / 2, color=BLUE, linewidth=1.3, label="energy left")
    if np.isfinite(noise).all():
        ax.plot(fit.lags[order], _decibels(noise / whole) / 2, "--", color=ORANGE, linewidth=1.0, label="of the errors")
        ax.legend(frameon=False, fontsize=8, loc="best")
    ax.set_ylim(bottom=max(float(_decibels(energy[-1:] / whole)[0]) / 2 - 5, -100))
    ax.set(xlabel="lag, samples", ylabel="energy still to come, dB", title="decay")
    return ax


def frequency_response(fit: Estimate, ax: "Axes") -> "Axes":
    """Draw the size of the kernel's transform in decibels, with its standard error."""
    fit = lowered(fit)
    n = fit.kernel.size
    size = 2 ** int(np.ceil(np.log2(max(4 * n, 512)))) if n <= 2**14 else 2**16
    response = np.abs(np.fft.rfft(_folded(fit.kernel, size)))
    frequencies = np.arange(len(response)) / size
    ax.plot(frequencies, _decibels(response), color=BLUE, linewidth=1.2)
    if np.isfinite(fit.stderr).all():
        if fit.factor is not None and n <= _MOST_EXACT:
            some = np.linspace(0, len(response) - 1, min(len(response), 129)).astype(int)
            waves = np.exp(-2j * np.pi * np.outer(frequencies[some], np.arange(n)))
            spread = np.interp(frequencies, frequencies[some], np.sqrt(np.sum(np.abs(waves @ fit.factor) ** 2, axis=1)))
        else:  # as if the errors were independent
            spread = np.full(len(response), float(np.linalg.norm(fit.stderr)))
        low, high = _decibels(np.maximum(response - spread, 0)), _decibels(response + spread)
        ax.fill_between(frequencies, low, high, color=ORANGE, alpha=0.3, linewidth=0, label="standard error")
        ax.legend(frameon=False, fontsize=8, loc="best")
    top = float(_decibels(response).max())
    ax.set(ylim=(max(float(_decibels(response).min()) - 5, top - 100), top + 5), xlim=(0, 0.5))
    ax.set(xlabel="frequency, cycles per sample", ylabel="|K|, dB", title="frequency response")
    return ax


def relabelled(ax: "Axes") -> "Axes":
    """Let the words of a drawing be those of signals."""
    for get, put in ((ax.get_title, ax.set_title), (ax.get_xlabel, ax.set_xlabel), (ax.get_ylabel, ax.set_ylabel)):
        put(in_samples(get()))
    return ax


def relabels(draw: Callable[[Estimate, Array, "Axes"], "Axes"]) -> Callable[[Estimate, Array, "Axes"], "Axes"]:
    """Let the words of a drawing be those of signals where the estimate is of one."""

    @functools.wraps(draw)
    def drawn(fit: Estimate, left: Array, ax: "Axes") -> "Axes":
        made = draw(fit, left, ax)
        return relabelled(made) if fit.convention.ndim == 1 else made

    return drawn


def thumbnail(values: Any, ax: "Axes") -> None:
    """Draw a whole signal, of long ones the range of each part."""
    samples = np.asarray(values, dtype=np.float64).ravel()
    step = max(1, len(samples) // 1000)
    parts = samples[: len(samples) // step * step].reshape(-1, step)
    at = np.arange(len(parts)) * step
    ax.fill_between(at, parts.min(axis=1), parts.max(axis=1), color=BLUE, linewidth=0.6)
    ax.set_xlabel("sample")


def _folded(taps: Array, size: int) -> Array:
    """Return taps added up modulo a length, whose transform has the same values there."""
    padded = np.zeros(-(-len(taps) // size) * size)
    padded[: len(taps)] = taps
    return np.asarray(padded.reshape(-1, size).sum(axis=0))


def _decibels(amplitude: Array) -> Array:
    return np.asarray(20.0 * np.log10(np.maximum(amplitude, _FLOOR)))
