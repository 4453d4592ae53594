"""A result as one web page that needs nothing else: verdicts in words, pictures, numbers, the call (extra "plot")."""

import base64
import html
import io as std_io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import output, pair, plot, residuals
from .html import advice
from .io import require
from .psf import measure_psf
from .result import KernelFit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["report_html", "write_report"]

_MOST_TABLE = 15  # rows and columns of a kernel that is printed in full

_STYLE = """
:root { color-scheme: light; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --good: #1a7f37; --doubt: #b3541e; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 1180px; color: var(--ink); background: #fff;
       font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
.soft { color: var(--soft); margin: 0; overflow-wrap: anywhere; }
.card { border-left: 6px solid var(--doubt); background: #fdf4ee; padding: .7rem 1rem; margin: 1rem 0; }
.card.good { border-color: var(--good); background: #eef8f0; }
.card b { color: var(--doubt); font-size: 1.1rem; } .card.good b { color: var(--good); }
.card p { margin: .25rem 0; } .card ul { margin: .25rem 0 0; padding-left: 1.3rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 1rem; }
figure { margin: 0; } figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .88rem; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 1rem 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th { text-align: left; font-weight: 500; color: var(--soft); padding: .25rem .8rem .25rem 0; vertical-align: top; }
td { padding: .25rem 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
tr + tr > * { border-top: 1px solid #eef1f4; }
table.taps { width: auto; font-size: .8rem; }
table.taps td { padding: .12rem .45rem; text-align: right; white-space: nowrap; }
pre { background: #f6f8fa; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; border-radius: 6px; }
"""


def report_html(
    fit: KernelFit,
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    title: str = "The kernel between two images",
    call: str = "",
) -> str:
    """Return a result as one self-contained HTML page.

    Parameters
    ----------
    fit : KernelFit
        The result.
    image, target : array_like
        The pair it was found in; 1024 x 1024 pixels of it are read for the residual.
    title : str, optional
        The heading.
    call : str, optional
        Python code that reproduces the result, shown as it stands.

    Returns
    -------
    str
        The page: no script, no network, pictures embedded.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    ValueError
        If the pair is none for this fit, or the kernel has more than one plane.
    """
    left, psf = residuals.window(fit, image, target), measure_psf(fit)
    shapes = " and ".join(f"{s[0]} x {s[1]}" for s in (np.shape(image), np.shape(target)))
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="soft">{fit.kernel.shape[0]} x {fit.kernel.shape[1]} taps from images of {shapes} pixels; '
        f"{html.escape(str(fit.convention))}</p>",
        *_verdicts(fit, left),
        '<h2>In pictures</h2><div class="pictures">',
        *_pictures(fit, left, image, target),
        "</div><div class='columns'><div><h2>As a point spread function</h2>",
        _table(
            [
                (name, f"{n} {unit if math.isfinite(n.value) else ''}".replace("+/-", "±"))
                for name, n, unit in psf.rows()
            ]
        ),
        *(f'<p class="soft">{html.escape(note[0].upper() + note[1:])}.</p>' for note in psf.notes),
        "</div><div><h2>The fit</h2>",
        _table(_figures(fit)),
        "</div></div>",
    ]
    if max(fit.kernel.shape) <= _MOST_TABLE:
        parts += ["<h2>The taps</h2>", _taps(fit)]
    if call:
        parts += ["<h2>The same in Python</h2>", f"<pre>{html.escape(call)}</pre>"]
    from . import __version__

    parts.append(f'<p class="soft">Made by kernelfit {__version__}.</p>')
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{html.escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{_STYLE}</style>\n'
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def write_report(
    path: str | os.PathLike[str],
    fit: KernelFit,
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    title: str = "The kernel between two images",
    call: str = "",
    overwrite: bool = False,
) -> None:
    """Write `report_html` to a file, whole or not at all.

    Parameters
    ----------
    path : path-like
        The file; its name ends in .html.
    fit, image, target, title, call
        As in `report_html`.
    overwrite : bool, optional
        Whether an existing file may be replaced; the default is not.

    Raises
    ------
    ValueError
        If the name does not end in .html.
    FileExistsError
        If the file exists and `overwrite` is false.
    """
    checked = output.check_output(path, (".html", ".htm"), "the report", overwrite=overwrite)
    page = report_html(fit, image, target, title=title, call=call).encode()
    output.write_whole(checked or Path(path), lambda file: file.write(page), "the report", overwrite=overwrite)


def _verdicts(fit: KernelFit, left: npt.NDArray[np.float64]) -> list[str]:
    """Return a card for each finding, or one that says that all is well."""
    cards = []
    for finding in fit.findings or (None,):
        headline, meaning, steps = advice(finding)
        detail = "" if finding is None else f"<p>{html.escape(finding.detail[0].upper() + finding.detail[1:])}.</p>"
        todo = "".join(f"<li>{html.escape(step)}</li>" for step in steps)
        cards.append(
            f'<div class="card{" good" if finding is None else ""}"><b>{html.escape(headline)}</b>'
            f"<p>{html.escape(meaning)}</p>{detail}<ul>{todo}</ul></div>"
        )
    worst, lag = residuals.largest(residuals.autocorrelation(left))
    if worst > residuals.chance(left) and not plot.exact(fit):
        cards.append(
            '<div class="card"><b>The residual is not white</b>'
            f"<p>Pixels {lag[0]} rows and {lag[1]} columns apart have residuals with a correlation of {worst:.2g}, "
            f"where chance gives {residuals.chance(left):.1g} at most. The errors take the noise for independent from "
            "pixel to pixel, so they are too small here.</p><ul><li>If structure of the image is seen in the residual: "
            "a larger kernel may help, or the filter is no plain kernel.</li><li>If not: the noise itself is "
            "correlated, as after compression, demosaicing or resampling. The kernel is right, its errors are "
            "not.</li></ul></div>"
        )
    return cards


def _thumbnail(pixels: Any, ax: Any) -> None:
    """Draw every so many-th pixel of an image, from its darkest to its brightest percent."""
    step = max(1, max(pixels.shape) // 500)
    shown = np.asarray(pixels[::step, ::step], dtype=np.float64)
    low, high = np.percentile(shown, [1, 99])
    ax.imshow(shown, cmap="gray", vmin=low, vmax=high if high > low else low + 1)
    ax.set_axis_off()


def _pictures(fit: KernelFit, left: npt.NDArray[np.float64], image: Any, target: Any) -> list[str]:
    """Return the pictures as figures with captions."""

    def draw(how: Any, *arguments: Any) -> str:
        figure_of = require("matplotlib.figure", package="matplotlib", extra="plot", purpose="the report")
        figure: Figure = figure_of.Figure(figsize=(4.8, 3.9), layout="constrained")
        ax = figure.subplots()
        how(*arguments, ax)
        ax.title.set_fontsize(10)
        data = std_io.BytesIO()
        figure.savefig(data, format="png", dpi=130)
        return base64.b64encode(data.getvalue()).decode()

    drawn = [
        (draw(_thumbnail, pair.as_image(image, "image")), "Image", "The image: what went in."),
        (draw(_thumbnail, pair.as_image(target, "target")), "Target", "The target: what came out."),
        (draw(plot.kernel, fit), "Kernel", "The taps. The mark shows the origin, the tap over the output pixel."),
        (draw(plot.error, fit), "Errors", "Standard error of each tap."),
        (
            draw(plot.cuts, fit),
            "Cuts",
            "Row and column through the largest tap. The bands hold the true value in 95 of 100 cases.",
        ),
        (
            draw(plot.frequency_response, fit),
            "Frequency response",
            "What the kernel does to waves, from broad (left) to fine (right). Shaded: not known from these images.",
        ),
        (
            draw(plot._draw_residual, fit, left),
            "Residual",
            "What the kernel leaves unexplained, about the middle of the image. Nothing of the image should be seen.",
        ),
        (
            draw(plot._draw_histogram, fit, left),
            "Histogram of the residual",
            "Beside a Gaussian of the noise found. Bars far out are outliers.",
        ),
        (
            draw(plot._draw_autocorrelation, fit, left),
            "Autocorrelation of the residual",
            "How like itself the residual is after a shift. White noise shows no pattern.",
        ),
    ]
    if fit.path is not None:
        drawn.append(
            (
                draw(plot.strength_path, fit),
                "Strength",
                "How the strength of the penalty, or the number of taps, was chosen.",
            )
        )
    return [
        f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
        for data, name, caption in drawn
    ]


def _figures(fit: KernelFit) -> list[tuple[str, str]]:
    rows = [
        ("pixels used", f"{fit.n_pixels}"),
        ("taps determined", f"{fit.rank} of {fit.kernel.size}"),
        ("condition", f"{fit.condition:.3g}"),
        ("noise of a pixel", f"{fit.noise_std:.4g}"),
        ("R squared", f"{fit.r_squared:.8g}"),
        ("method", f"{fit.method} ({fit.method_reason})" if fit.method_reason else fit.method),
        ("solver", fit.solver),
        (
            "errors are",
            "of the estimate, from sample to sample" if fit.uncertainty == "sampling" else "given the prior",
        ),
    ]
    rows += [("prior", str(prior)) for prior in fit.priors]
    if fit.background is not None:
        table = zip(fit.background.coefficients.ravel(), fit.background.stderr.ravel(), strict=True)
        rows.append(
            (f"background of degree {fit.background.degree}", ", ".join(f"{c:.5g} ± {e:.1g}" for c, e in table))
        )
    rows += [("weights", fit.weighting)] if fit.weighting else []
    rows += [("note", note) for note in fit.notes]
    return rows


def _table(rows: list[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><th>{html.escape(a)}</th><td>{html.escape(b.strip())}</td></tr>" for a, b in rows)
    return f'<div class="scroll"><table>{lines}</table></div>'


def _taps(fit: KernelFit) -> str:
    """Return the taps with their errors, as a table that scrolls on a narrow screen."""
    lines = []
    for values, errors in zip(fit.kernel, fit.stderr, strict=True):
        cells = "".join(
            f"<td>{value:.5g}{f'<br><small>± {error:.1g}</small>' if math.isfinite(error) else ''}</td>"
            for value, error in zip(values.tolist(), errors.tolist(), strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table class="taps">{"".join(lines)}</table></div>'
