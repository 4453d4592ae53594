"""A result in words and figures, as HTML with the kernel as a picture, and what the documentation says of verdicts."""

import functools
import html
import math
import re
import textwrap
from pathlib import Path

import numpy as np

from ..analysis.recognition import in_words
from ..core.background import Background
from ..core.dimensions import in_samples
from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict, told

NAMES = ("verdicts", "prepare", "glossary")
#: In a wheel beside the package, in a checkout where they are written.
_FOLDERS = (Path(__file__).parents[1] / "pages", Path(__file__).parents[3] / "docs")


@functools.cache
def page(name: str) -> str:
    """Return a page, in Markdown; empty if it is not there."""
    found = [folder / f"{name}.md" for folder in _FOLDERS if (folder / f"{name}.md").is_file()]
    return found[0].read_text(encoding="utf-8") if found else ""


@functools.cache
def sections(name: str) -> dict[str, str]:
    """Return what stands below each heading of a page."""
    parts = re.split(r"^## +(.*)\n", page(name), flags=re.M)
    return {heading: body.strip() for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def words() -> dict[str, str]:
    """Return the words of the glossary, each with what it means."""
    entries = re.findall(r"^(\w[^\n]*)\n: (.*?)(?=\n\n|\Z)", page("glossary"), flags=re.M | re.S)
    return {name.strip(" )"): f"{term}: {text}" for term, text in entries for name in re.split(r"[,(]", term.lower())}


def advice(finding: Finding | None) -> tuple[str, str, tuple[str, ...]]:
    """Return a headline, what it means, and what to do next; None stands for a result without any finding."""
    verdict = Verdict.SOLVED if finding is None else finding.verdict
    headline = "Solved" if finding is None else verdict.name.replace("_", " ").capitalize()
    meaning, _, step = verdict.value.partition(": ")
    if finding is not None and finding.remedy:
        return headline, meaning, (finding.remedy,)
    if verdict.name not in sections("verdicts"):
        return headline, meaning, (step,) if step else ()
    meaning, *steps = re.split(r"^- ", sections("verdicts")[verdict.name], flags=re.M)
    return headline, _plain(meaning), tuple(map(_plain, steps))


def explain(word: str) -> str:
    """Return what the pages say of a verdict, with what of "Prepare your data" it leads to, or of another word."""
    name, term = word.upper().replace("-", "_").replace(" ", "_"), word.lower().replace("_", " ")
    found = [page("prepare").strip()] if term == "prepare" else []
    if name in sections("verdicts"):
        found = [f"## {name}\n\n{sections('verdicts')[name]}"]
        steps = {_anchor(heading): f"## {heading}\n\n{body}" for heading, body in sections("prepare").items()}
        found += [steps[at] for at in dict.fromkeys(re.findall(r"\]\(prepare\.md#([^)]*)\)", found[0]))]
    found += [words()[term]] if term in words() else []
    if found:
        return "\n\n".join(found)
    verdicts = ", ".join(verdict.name.lower() for verdict in Verdict)
    raise ValueError(f"got {word!r}, need 'prepare', a verdict ({verdicts}), or a word: {', '.join(words())}")


def filled(markdown: str, width: int) -> str:
    """Return a text for a terminal: links are words, paragraphs and steps are as wide as it; tables and code stay."""
    out = []
    for at, part in enumerate(re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)):
        for block in [part] if at % 2 else re.split(r"\n\n+", _links(part).strip()):
            if at % 2 or block.startswith(("|", "#")):
                out.append(block)
                continue
            items = [" ".join(item.split()) for item in re.split(r"\n(?=- )", block)]
            out.append(
                "\n".join(textwrap.fill(item, width, subsequent_indent="  " * (item[:2] == "- ")) for item in items)
            )
    return "\n\n".join(filter(None, out))


def _anchor(heading: str) -> str:
    """Return what a link says of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _links(markdown: str) -> str:
    """Return a text in which links are words, and those that only lead on are left out."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", re.sub(r" ?\(\[more\]\([^)]*\)\)", "", markdown))


def _plain(markdown: str) -> str:
    return " ".join(_links(markdown).replace("`", "").split())


def summary(fit: Estimate) -> str:
    """Return the result in words and figures, a screen long at most."""
    signals = fit.convention.ndim == 1
    size, error = float(np.linalg.norm(fit.kernel)), float(np.linalg.norm(fit.stderr))
    peak = np.unravel_index(int(np.argmax(np.abs(fit.kernel))), fit.kernel.shape)
    totals = [p.factor for p in fit.parts or (fit,)]
    total, whole = fit.kernel.sum(), fit.kernel.dtype.kind == "c"
    # of a complex kernel the factor holds the real parts and then the others
    halves = [None if f is None else np.split(f, 1 + whole) for f in totals]
    sums = [[math.nan] if h is None else [float(np.linalg.norm(one.sum(axis=0))) for one in h] for h in halves]
    total_error = [math.hypot(*one) for one in zip(*sums, strict=False)]
    doubt = "".join(f" +/- {e:.2g}" for e in total_error[:1]) + "".join(f" and {e:.2g}j" for e in total_error[1:])
    doubt = doubt if all(map(math.isfinite, total_error)) else ""
    sides = fit.kernel.shape[-fit.convention.ndim :]
    many = "".join(f"{n} x " for n in fit.kernel.shape[: fit.kernel.ndim - len(sides)])
    where = tuple(int(i) for i in peak)
    window = f"{sides[0]} taps, lags {fit.lags[0]} to {fit.lags[-1]}" if signals else " x ".join(map(str, sides))
    place = f"lag {fit.lags[where[-1]]}{f' of {where[:-1]}' if many else ''}" if signals else f"{where}"
    share = f", expected relative error {error / size:.2g}" if size > 0 and math.isfinite(error) else ""
    tap = fit.kernel[peak]
    polar = f", modulus {abs(tap):.6g} and phase {np.angle(tap, deg=True):.4g} degrees" if whole else ""
    named = in_words(fit).splitlines() if fit.convention.ndim == 2 and not whole else []
    kind = "complex " if fit.convention.numbers != "real" else ""
    lines = [
        *[f"{'found' if at == 0 else '':11s} {words}" for at, words in enumerate(fit.found)],
        f"kernel      {many}{window}, sum {total:.6g}{doubt}, largest tap {tap:.6g} at {place}{polar}{share}",
        *[f"{'filter' if at == 0 else '':11s} {words}" for at, words in enumerate(named)],
        f"convention  {fit.convention}",
        f"fit         {fit.n_pixels} {kind}pixels, rank {fit.rank} of {fit.kernel.size}, condition {fit.condition:.2g}",
        f"residual    noise {fit.noise_std:.4g} per pixel, R squared {fit.r_squared:.8g}, rss {fit.rss:.4g}",
        f"method      {fit.method}{f' ({fit.method_reason})' if fit.method_reason else ''}, "
        f"refined {fit.refined} time{'' if fit.refined == 1 else 's'}"
        + (f", {fit.iterations} iterations to {fit.tolerance:g} of the noise's error" if fit.iterations else ""),
        *([f"image noise {fit.image_noise:.4g} per pixel, its effect taken off"] if fit.image_noise else []),
        *(["errors      for noise correlated as the residual is (sandwich)"] if fit.errors == "sandwich" else []),
        *([f"solver      {fit.solver}"] if fit.solver != "LeastSquares()" else []),
        *[f"prior       {prior}" for prior in fit.priors],
        *([f"weights     {fit.weighting}"] if fit.weighting else []),
        *[f"note        {note}" for note in fit.notes],
        *([] if fit.registration is None else [f"motion      {fit.registration}"]),
        *([] if fit.curve is None else [f"curve       {fit.curve}"]),
        *([] if fit.background is None else [f"background  {_told(fit.background)}"]),
        *([f"channels    {fit.channels}, along axis {fit.channel_axis}"] if fit.channels else []),
        *[
            f"            {c}: noise {p.noise_std:.4g}, R squared {p.r_squared:.8g}, {p.verdict.name.lower()}"
            for c, p in enumerate(fit.parts)
        ],
        *told(fit.findings),
    ]
    if not many and max(sides) <= 11 and fit.kernel.size <= 121:
        lines += ["", np.array2string(fit.kernel, precision=4, suppress_small=True, max_line_width=120)]
    return in_samples("\n".join(lines)) if signals else "\n".join(lines)


def _told(background: Background) -> str:
    """Say a background in one line."""
    table = background.coefficients.reshape(-1, background.coefficients.shape[-1])
    first = f"mean {table[0, 0]:.6g} +/- {abs(background.stderr.ravel()[0]):.2g}"
    more = f", the first of {len(table)}" if len(table) > 1 else ""
    return f"polynomial of degree {background.degree}, {first}{more}"


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
