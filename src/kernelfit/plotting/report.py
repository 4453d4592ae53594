"""A result as one web page that needs nothing else: verdicts in words, pictures, numbers, the call (extra "plot")."""

import base64
import html
import io as std_io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..analysis import residuals
from ..analysis.channel_split import split_channels, split_targets
from ..analysis.psf import measure_psf
from ..analysis.recognition import in_words
from ..core.dimensions import in_samples, of_any_dimension
from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict, more
from ..core.npz import write_whole
from ..core.validation import Array, as_list
from ..data.observation import NUMBERS, as_planes
from ..imageio import write
from ..imageio.planes import require
from . import field, overview, panels, signals, volumes
from .panels import halves, modulus, phase
from .text import advice

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
td { padding: .25rem .8rem .25rem 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
tr + tr > * { border-top: 1px solid #eef1f4; }
table.taps { width: auto; font-size: .8rem; }
table.taps td { padding: .12rem .45rem; text-align: right; white-space: nowrap; }
pre { background: #f6f8fa; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; border-radius: 6px; }
"""


@of_any_dimension
def report_html(
    fit: Estimate,
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    title: str = "The kernel between two images",
    call: str = "",
    names: Sequence[str] | None = None,
) -> str:
    """Return a result as one self-contained HTML page.

    Parameters
    ----------
    fit : KernelFit
        The result, also of several channels or pairs.
    image, target : array_like, or lists of them
        What `find_kernel` got; 1024 x 1024 pixels of it, about, are read for the residual.
    title : str, optional
        The heading.
    call : str, optional
        Python code that reproduces the result, shown as it stands.
    names : sequence of str, optional
        A name for each channel, such as "red"; the default is "channel 0" and so on.

    Returns
    -------
    str
        The page: no script, no network, pictures embedded.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    ValueError
        If the pair is none for this fit.
    """
    if fit.convention.ndim == 3:
        return _page(title, _of_volume(fit, image, target, title), call)
    lefts = [residuals.tiled(part) for part in residuals.windows(fit, image, target)]
    parts = split_targets(fit, names)
    images, targets = as_list(image) or [image], as_list(target) or [target]
    shapes = " and ".join(" x ".join(map(str, np.shape(each[0]))) for each in (images, targets))
    (rows, cols), ndim = fit.kernel.shape[-2:], fit.convention.ndim
    many = f"{fit.kernel.size // (rows * cols)} kernels of " if fit.kernel.ndim > 2 else ""
    pairs = "" if len(images) == 1 else f", the first of {len(images)} pairs"
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="soft">{many}{rows} x {cols} taps from images of {shapes} pixels{pairs}; '
        f"{html.escape(str(fit.convention))}</p>",
        *_verdicts(parts, lefts),
        *([_summary(parts)] if len(parts) > 1 else []),
        f'<h2>The images{pairs}</h2><div class="pictures">',
        _figure(_thumbnail, images[0], fit.channel_axis, name="Image", caption="What went in."),
        _figure(_thumbnail, targets[0], fit.channel_axis, name="Target", caption="The target: what came out."),
        "</div>",
    ]
    for (name, part), left in zip(parts.items(), lefts, strict=True):
        body += _about(name, part, split_channels(part, names), left)
    if ndim == 1:
        body = [part if "base64" in part else in_samples(part) for part in body]
    return _page(title, body, call)


def _of_volume(fit: Estimate, image: npt.ArrayLike, target: npt.ArrayLike, title: str) -> list[str]:
    figure_of = require("matplotlib.figure", package="matplotlib", extra="plot", purpose="the report")
    parts = split_targets(fit)
    many = math.prod(fit.kernel.shape[:-3])
    figure: Figure = figure_of.Figure(figsize=(13.5, 11.2 * many), layout="constrained")
    overview.overview(fit, image, target, figure=figure)
    sides = (f"{many} kernels of " if many > 1 else "") + " x ".join(map(str, fit.kernel.shape[-3:]))
    caption = (
        "Cuts through the largest tap; the largest taps along each axis; profiles, whose bands hold the true value in "
        f"{_cases(fit)}; what the kernel leaves of the middle plane, where nothing of the image should be seen."
    )
    lefts = [volumes.middle_residual(fit, image, target, at)[0] for at in range(len(parts))]
    return [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="soft">{sides} taps of a volume; {html.escape(str(fit.convention))}</p>',
        *_verdicts(parts, lefts),
        f"<h2>In pictures</h2>{_embedded(figure, 'Kernel and residual', caption)}",
        "<h2>The fit</h2>",
        _table(_figures(fit)),
    ]


def _page(title: str, body: list[str], call: str) -> str:
    if call:
        body += ["<h2>The same in Python</h2>", f"<pre>{html.escape(call)}</pre>"]
    from .. import __version__

    body.append(f'<p class="soft">Made by kernelfit {__version__}.</p>')
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{html.escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{_STYLE}</style>\n'
        f"</head>\n<body>\n{chr(10).join(body)}\n</body>\n</html>\n"
    )


def write_report(
    path: str | os.PathLike[str],
    fit: Estimate,
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    title: str = "The kernel between two images",
    call: str = "",
    names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write `report_html` to a file, whole or not at all.

    Parameters
    ----------
    path : path-like
        The file; its name ends in .html.
    fit, image, target, title, call, names
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
    checked = write.check_output(path, (".html", ".htm"), "the report", overwrite=overwrite)
    page = report_html(fit, image, target, title=title, call=call, names=names).encode()
    write_whole(checked or Path(path), lambda file: file.write(page), "the report", overwrite=overwrite)


def _card(headline: str, meaning: str, details: Sequence[str], steps: Sequence[str], good: bool) -> str:
    said = "".join(f"<p>{html.escape(detail[0].upper() + detail[1:])}.</p>" for detail in details)
    todo = "".join(f"<li>{html.escape(step)}</li>" for step in steps)
    return (
        f'<div class="card{" good" if good else ""}"><b>{html.escape(headline)}</b>'
        f"<p>{html.escape(meaning)}</p>{said}<ul>{todo}</ul></div>"
    )


def _verdicts(parts: dict[str, Estimate], lefts: list[Array]) -> list[str]:
    """Return a card for each verdict that there is, or one that says that all is well."""
    found: dict[Verdict, list[tuple[str, Finding]]] = {}
    for name, part in parts.items():
        for finding in part.findings:
            found.setdefault(finding.verdict, []).append((f"{name}: " if name else "", finding))
    cards = [
        _card(
            *advice(said[0][1])[:2],
            [name + finding.detail for name, finding in said],
            [*advice(said[0][1])[2], f"More: {more([verdict])}"],
            False,
        )
        for verdict, said in sorted(found.items(), key=lambda item: list(Verdict).index(item[0]))
    ] or [_card(*advice(None)[:2], (), advice(None)[2], True)]
    if Verdict.COLOURED_NOISE in found or Verdict.APPROXIMATE in found:
        return cards
    details = []
    for (name, part), left in zip(parts.items(), lefts, strict=True):
        worst, lag = residuals.largest(residuals.autocorrelation(left))
        if worst > residuals.chance(left, part) and not overview.exact(part) and part.errors != "sandwich":
            details.append(
                f"{name}{': ' if name else ''}pixels {lag[0]} rows and {lag[1]} columns apart have residuals with a "
                f"correlation of {worst:.2g}, where chance gives {residuals.chance(left, part):.1g} at most"
            )
    if details:
        meaning = "The errors take the noise for independent from pixel to pixel, so they are too small here."
        steps = (
            "If structure of the image is seen in the residual: a larger kernel may help, or the filter is no plain "
            "kernel.",
            "If not: the noise itself is correlated, as after compression, demosaicing or resampling. The kernel is "
            "right; errors='sandwich' (--errors sandwich) gives errors that allow for it.",
        )
        cards.append(_card("The residual is not white", meaning, details, steps, False))
    return cards


def _summary(parts: dict[str, Estimate]) -> str:
    rows = []
    for name, part in parts.items():
        verdict = "solved" if part.verdict.ok else part.verdict.name.lower().replace("_", " ")
        rows.append((name, verdict, f"{part.noise_std:.4g}", f"{part.r_squared:.6g}", f"{part.n_pixels}"))
    return "<h2>The channels</h2>" + _table(rows, ("", "verdict", "noise of a pixel", "R squared", "pixels used"))


def _about(name: str, part: Estimate, kernels: dict[str, Estimate], left: Array) -> list[str]:
    """Return all there is to say about one target: pictures, measurements, figures, taps."""
    single = len(kernels) == 1
    where = "" if not name else f": {html.escape(name)}"
    spread = part.convention.ndim > 1 and part.kernel.dtype.kind != "c"
    psfs = [measure_psf(one) for one in kernels.values()] if spread else []
    numbers = []
    for row in zip(*(psf.rows() for psf in psfs), strict=True):
        cells = [f"{number} {unit if math.isfinite(number.value) else ''}" for _, number, unit in row]
        numbers.append((row[0][0], *(cell.strip().replace("+/-", "±") for cell in cells)))
    both = list(zip(kernels, psfs, strict=True)) if spread else []
    notes = dict.fromkeys(note if single else f"{label}: {note}" for label, psf in both for note in psf.notes)
    out = [f'<h2>In pictures{where}</h2><div class="pictures">']
    for label, one in kernels.items():
        out += _of_kernel(one, "" if single else html.escape(label[0].upper() + label[1:]) + ". ", single)
    for label, *both_parts in halves(kernels):
        told = f"{label[0].upper()}{label[1:]}. " if label else ""
        out.append(_figure(modulus, *both_parts, name="Modulus", caption=f"{told}The modulus of the complex taps."))
        out.append(_figure(phase, *both_parts, name="Phase", caption=f"{told}Their phase, where it is known."))
    if overview._varies(part):
        out += _of_field(part)
    out += [
        *_of_residual(part, left),
        f"</div><div class='columns'><div>{f'<h2>As a point spread function{where}</h2>' if spread else ''}",
        _table(numbers, () if single else ("", *kernels)) if spread else "",
        *(f'<p class="soft">{html.escape(note[0].upper() + note[1:])}.</p>' for note in notes),
        f"</div><div><h2>The fit{where}</h2>",
        _table(_figures(part)),
        "</div></div>",
    ]
    for label, one in kernels.items():
        if max(one.kernel.shape) <= _MOST_TABLE:
            out += [f"<h2>The taps{f': {html.escape(label or name)}' if label or name else ''}</h2>", _taps(one)]
    return out


def _figure(how: Any, *arguments: Any, name: str, caption: str) -> str:
    """Draw on new Axes; return the picture with its caption."""
    figure_of = require("matplotlib.figure", package="matplotlib", extra="plot", purpose="the report")
    figure: Figure = figure_of.Figure(figsize=(4.6, 3.8), layout="constrained")
    ax = figure.subplots()
    how(*arguments, ax)
    ax.title.set_fontsize(10)
    return _embedded(figure, name, caption)


def _embedded(figure: "Figure", name: str, caption: str) -> str:
    agg = require("matplotlib.backends.backend_agg", package="matplotlib", extra="plot", purpose="the report")
    data = std_io.BytesIO()
    figure.set_dpi(130)
    agg.FigureCanvasAgg(figure).print_png(data)  # `savefig` would draw twice
    coded = base64.b64encode(data.getvalue()).decode()
    return f'<figure><img alt="{name}" src="data:image/png;base64,{coded}"><figcaption>{caption}</figcaption></figure>'


def _thumbnail(image: Any, axis: int | None, ax: Any) -> None:
    """Draw every so many-th pixel of an image, from its darkest to its brightest percent; three channels as colours."""
    planes = as_planes(image, "image", axis, NUMBERS)
    if planes[0].shape[0] == 1:
        signals.thumbnail(_modulus(planes[0][:, :]), ax)
        return
    step = max(1, max(planes[0].shape) // 500)
    shown = np.stack([_modulus(plane[::step, ::step]) for plane in planes], axis=-1)
    shown = shown if shown.shape[-1] == 3 else shown[..., 0]
    low, high = np.nanpercentile(np.where(np.isfinite(shown), shown, np.nan), [1, 99]) if shown.size else (0, 1)
    ax.imshow(np.clip((shown - low) / (high - low if high > low else 1), 0, 1), cmap="gray", vmin=0, vmax=1)
    ax.set_axis_off()


def _modulus(values: Any) -> Array:
    """Return numbers to be drawn, of complex ones their modulus."""
    return np.asarray(np.abs(values) if np.iscomplexobj(values) else values, dtype=np.float64)


def _cases(fit: Estimate) -> str:
    """Return how often bands hold the truth."""
    return "95 of 100 cases" + (", if the taps left out are zero" if "Sparse" in fit.solver else "")


def _of_kernel(fit: Estimate, label: str, cut: bool) -> list[str]:
    if fit.convention.ndim == 1:
        out = [
            (panels.kernel, "Impulse response", f"The taps. The band holds the true value in {_cases(fit)}."),
            (panels.error, "Errors", "Standard error of each tap."),
            (panels.cuts, "Decay", "The energy that is still to come; below the dashed line the errors make it."),
            (panels.frequency_response, "Frequency response", "What the kernel does to waves, from slow to fast."),
        ]
        return [_figure(how, fit, name=name, caption=label + told) for how, name, told in out]
    out = [
        (panels.kernel, "Kernel", "The taps. The mark shows the origin, the tap over the output pixel."),
        (panels.error, "Errors", "Standard error of each tap."),
        (
            panels.cuts,
            "Cuts",
            f"Row and column through the largest tap. The bands hold the true value in {_cases(fit)}.",
        ),
        (
            panels.frequency_response,
            "Frequency response",
            "What the kernel does to waves, from broad (left) to fine (right). Shaded: not known from these images.",
        ),
    ]
    return [
        _figure(how, fit, name=name, caption=label + told) for how, name, told in out if cut or how is not panels.cuts
    ]


def _of_field(fit: Estimate) -> list[str]:
    """Return the pictures of a kernel that varies over the field; the others show it at the middle."""
    if fit.convention.ndim == 1:
        return [
            _figure(field.kernel_grid, fit, name="Kernels over the signal",
                    caption="The kernels at five samples. The pictures of one kernel show that at the middle."),
            _figure(field.flux_map, fit, name="Sum over the signal", caption="The sum of the kernel at each sample."),
        ]  # fmt: skip
    return [
        _figure(field.kernel_grid, fit, name="Kernels over the field",
                caption="The kernels at 25 places. The pictures of one kernel show that at the middle."),
        _figure(field.width_map, fit, name="Width over the field",
                caption="Mean full width at half maximum; the whiskers lie along the long axis."),
        _figure(field.flux_map, fit, name="Flux over the field",
                caption="The sum of the kernel: by which factor light there gets brighter."),
    ]  # fmt: skip


def _of_residual(fit: Estimate, left: Array) -> list[str]:
    """Return the pictures of what the kernel leaves unexplained, and of how it was chosen."""
    told = (
        (
            overview.draw_residual,
            "Residual",
            "What the kernel leaves unexplained, about the middle of the image. Nothing of the image should be seen. "
            "Gray: left out.",
        ),
        (
            overview.draw_histogram,
            "Histogram of the residual",
            "Beside a Gaussian of the noise found. Bars far out are outliers.",
        ),
        (
            overview.draw_autocorrelation,
            "Autocorrelation of the residual",
            "How like itself the residual is after a shift. White noise shows no pattern.",
        ),
    )
    words = in_samples if fit.convention.ndim == 1 else str
    out = [_figure(how, fit, left, name=name, caption=words(caption)) for how, name, caption in told]
    if fit.spectrum is not None and len(fit.spectrum.frequencies):
        caption = "What division by frequency can know. Below one half the penalty, not the data, decides."
        out.append(_figure(panels.spectrum, fit, name="Spectrum", caption=caption))
    if fit.path is not None:
        caption = "How the strength of the penalty, or the number of taps, was chosen."
        out.append(_figure(panels.strength_path, fit, name="Strength", caption=caption))
    return out


def _figures(fit: Estimate) -> list[tuple[str, ...]]:
    errors = "of the estimate, from sample to sample" if fit.uncertainty == "sampling" else "given the prior"
    if fit.factor is None:
        errors = "of a typical tap, about" if math.isfinite(fit.typical_stderr) else "not known"
    rows: list[tuple[str, ...]] = [
        ("pixels used", f"{fit.n_pixels}"),
        ("taps determined", f"{fit.rank} of {fit.kernel.size}"),
        ("condition", f"{fit.condition:.3g}" if math.isfinite(fit.condition) else "not computed"),
        ("noise of a pixel", f"{fit.noise_std:.4g}" if math.isfinite(fit.noise_std) else "not known"),
        ("R squared", f"{fit.r_squared:.8g}" if math.isfinite(fit.r_squared) else "not defined"),
        ("method", f"{fit.method} ({fit.method_reason})" if fit.method_reason else fit.method),
        ("solver", "conjugate gradients" if fit.iterations and fit.factor is None else fit.solver),
        ("errors are", errors + (", for correlated noise" if fit.errors == "sandwich" else "")),
    ]
    name = in_words(fit) if fit.convention.ndim == 2 and fit.kernel.dtype.kind != "c" else ""
    rows += [("filter", line.replace("+-", "±")) for line in name.splitlines()]
    rows += [("prior", str(prior)) for prior in fit.priors]
    if fit.background is not None:
        table = zip(fit.background.coefficients.ravel(), fit.background.stderr.ravel(), strict=True)
        told = ", ".join(f"{c:.5g} ± {e:.1g}" for c, e in table)
        rows.append((f"background of degree {fit.background.degree}", told))
    rows += [("weights", fit.weighting)] if fit.weighting else []
    rows += [("note", note) for note in fit.notes]
    return rows


def _table(rows: Sequence[tuple[str, ...]], heads: Sequence[str] = ()) -> str:
    top = f"<tr>{''.join(f'<th>{html.escape(head)}</th>' for head in heads)}</tr>" if heads else ""
    lines = "".join(
        f"<tr><th>{html.escape(first)}</th>{''.join(f'<td>{html.escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f'<div class="scroll"><table>{top}{lines}</table></div>'


def _taps(fit: Estimate) -> str:
    """Return the taps with their errors, as a table that scrolls on a narrow screen."""
    lines = []
    for values, errors in zip(fit.kernel, fit.stderr, strict=True):
        cells = "".join(
            f"<td>{value:.5g}{f'<br><small>± {error:.1g}</small>' if math.isfinite(error) else ''}</td>"
            for value, error in zip(values.tolist(), errors.tolist(), strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table class="taps">{"".join(lines)}</table></div>'
