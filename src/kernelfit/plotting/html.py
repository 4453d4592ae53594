"""A result as HTML without script or network: the kernel as a picture of squares, verdicts in plain words, figures."""

import html
import math

from ..core.estimate import Estimate
from .pages import advice
from .text import summary

_MOST_TAPS = 2500  # squares of the picture; larger kernels are shown without one
_LIMIT = 320  # pixels of the picture along its longer side


def color(value: float, high: float, diverging: bool) -> str:
    """Return the colour of a tap: blue below zero, red above, or dark to light from zero up."""
    share = max(-1.0, min(1.0, value / high)) if high > 0 else 0.0
    if diverging:
        ends = ((33, 102, 172), (247, 247, 247), (178, 24, 43))
        low, top, part = (ends[1], ends[2], share) if share >= 0 else (ends[1], ends[0], -share)
    else:
        ramp = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))
        place = max(0.0, share) * (len(ramp) - 1)
        at = min(int(place), len(ramp) - 2)
        low, top, part = ramp[at], ramp[at + 1], place - at
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(low, top, strict=True))


def kernel_svg(fit: Estimate) -> str:
    """Return the kernel as a picture of squares; each tells its place, value and error when pointed at."""
    taps, errors = fit.kernel, fit.stderr
    rows, cols = taps.shape
    high = float(abs(taps).max()) or 1.0
    diverging = bool((taps < -0.01 * high).any())
    side = max(3, min(28, _LIMIT // max(rows, cols)))
    squares = []
    for row in range(rows):
        for col in range(cols):
            value, error = float(taps[row, col]), float(errors[row, col])
            tip = f"row {row}, column {col}: {value:.6g}" + (f" +/- {error:.2g}" if math.isfinite(error) else "")
            squares.append(
                f'<rect x="{col * side}" y="{row * side}" width="{side}" height="{side}" '
                f'fill="{color(value, high, diverging)}"><title>{tip}</title></rect>'
            )
    row, col = fit.convention.origin
    if 0 <= row < rows and 0 <= col < cols:
        squares.append(
            f'<rect x="{col * side + 1}" y="{row * side + 1}" width="{side - 2}" height="{side - 2}" fill="none" '
            'stroke="#16a34a" stroke-width="2"><title>origin: the tap over the output pixel</title></rect>'
        )
    width, height = cols * side, rows * side
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="kernel, {rows} rows and {cols} columns">{"".join(squares)}</svg>'
    )


def fit_html(fit: Estimate) -> str:
    """Return a result for a notebook: verdicts, picture and summary."""
    tone = "#1a7f37" if fit.verdict.ok else "#b3541e"
    parts = []
    for finding in fit.findings or (None,):
        headline, meaning, _ = advice(finding)
        detail = f" ({html.escape(finding.detail)})" if finding is not None else ""
        parts.append(f'<div><b style="color:{tone}">{html.escape(headline)}</b>{detail}. {html.escape(meaning)}</div>')
    real = fit.kernel.dtype.kind != "c"
    picture = (
        kernel_svg(fit)
        if real and fit.convention.ndim == fit.kernel.ndim == 2 and fit.kernel.size <= _MOST_TAPS
        else ""
    )
    return (
        f'<div style="font-family:sans-serif;font-size:13px;line-height:1.45">{"".join(parts)}'
        f'<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start;margin-top:8px">{picture}'
        f'<pre style="margin:0;font-size:12px;white-space:pre-wrap;overflow-wrap:anywhere;min-width:0;flex:1 1 420px">'
        f"{html.escape(summary(fit))}</pre></div></div>"
    )
