"""A result as HTML without script or network: the kernel as a picture of squares, verdicts in plain words, figures."""

import html
import math

from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict
from .text import summary

_MOST_TAPS = 2500  # squares of the picture; larger kernels are shown without one
_LIMIT = 320  # pixels of the picture along its longer side
#: For each verdict: what it means to the reader; then what to do next.
ADVICE: dict[Verdict, tuple[str, ...]] = {
    Verdict.RANK_DEFICIENT: (
        "The image does not contain what it takes to tell all these taps apart. Many kernels fit equally well; the one "
        "shown is the smallest of them, and it is probably not the filter that was used.",
        "Ask for a smaller kernel.",
        "Use an image with fine detail in every direction: texture, noise, edges.",
        "Let a prior fill in what is open: solver='auto'.",
    ),
    Verdict.WRONG_BOUNDARY: (
        "Near the edges the kernel fits much worse than inside: what lay beyond the edge when the target was made is "
        "not what was declared.",
        "Declare no boundary: then nothing can be wrong there (boundary=None, --boundary none).",
        "Or let check_boundary(image, target, fit) name the one that fits.",
        "Check the fill value and the origin.",
    ),
    Verdict.IMAGE_NOISE: (
        "The image is so noisy that its noise hides its fine detail. Not all of its effect could be taken off, so the "
        "kernel is still too small.",
        "Check the noise level that was given (image_noise, --image-noise).",
        "Use an image with less noise, or the mean of several.",
        "Ask for a smaller kernel.",
    ),
    Verdict.MISALIGNED: (
        "Parts of the target are displaced against the image, the more the further out. No kernel turns or stretches a "
        "picture; the one found is smeared by it.",
        "Find the motion together with the kernel: register='affine' (--register affine), or 'homography' for a tilt.",
        "Or take a part so small that the displacement is below a tenth of a pixel.",
    ),
    Verdict.VARYING: (
        "Parts of the target were made with different kernels. The one found is a mean of them.",
        "Let the kernel vary over the field: variation=2 (--variation 2).",
        "Or let kernel_map find a kernel for each tile of a grid.",
        "Or fit a part of the field where the kernel is one.",
        "Where even and odd rows or columns differ, take those of one kind alone: stride=2 with an offset.",
    ),
    Verdict.NONLINEAR: (
        "The target follows the image in a way that no kernel has: along a curve, at its ends, or along edges.",
        "Find the curve together with the kernel: curve='gamma', 'srgb' or 'monotone' (--curve gamma).",
        "Leave out what was clipped, if that is inside the type's range: saturated=(low, high).",
        "A median, a threshold or a maximum is no kernel; none will come out right.",
    ),
    Verdict.SHAPE_TOO_SMALL: (
        "The target depends on pixels that the kernel does not reach. The taps inside make up for them and are wrong.",
        "Ask for a larger kernel.",
        "If the two images are shifted against each other, crop them so that they are not, or give the origin.",
    ),
    Verdict.OFFSET: (
        "Something lies in the target beside what the kernel makes: a pedestal, a sky, or half a step of integers that "
        "were rounded down.",
        "Fit it as well: background=0 (--background 0), or 1 or 2 for a slope.",
    ),
    Verdict.BACKGROUND_UNDETERMINED: (
        "Where pixels count, several surfaces are alike: the background is one of many, the kernel is right.",
        "Ask for a background of a lower degree.",
        "Or let pixels of other rows and columns count.",
    ),
    Verdict.COLOURED_NOISE: (
        "The noise is correlated from pixel to pixel. The kernel is right, but the plain error bars are not.",
        "Take error bars that allow for it: errors='sandwich' (--errors sandwich).",
    ),
    Verdict.UNEVEN_NOISE: (
        "The noise is louder where the picture stands out than was declared, or in all. The kernel may be right, but "
        "the error bars are not.",
        "Declare noise that grows with the signal: noise='poisson' or (gain, read_noise) (--noise).",
        "Or give each pixel its own weight, the inverse of its variance (weights, --weights).",
        "A filter that is not linear (a median, a threshold, tone mapping) leaves such a residual, too.",
    ),
    Verdict.OUTLIERS_DECIDE: (
        "The outliers are too many, or stand where the image has most of its detail: which pixels are left out decides "
        "the kernel.",
        "If the noise grows with the signal, say so, or bright pixels look like outliers (noise, --noise).",
        "Mask the pixels that are known to be bad (mask, --mask; image_mask for those of the image).",
        "Use more images, or a larger one.",
        "Ask for a smaller kernel.",
    ),
    Verdict.WRAPPED: (
        "Values of the target seem to have run over the end of their integer type and started again at the other end.",
        "Compute the target in a wider type, or clip it before it is stored.",
        "Until then hold such pixels down: robust='clip' (--robust clip).",
    ),
    Verdict.NO_SIGNAL: (
        "The target is the same everywhere, so it holds nothing of the image.",
        "Check that the right file was read, and the right page, plane or channel of it.",
    ),
    Verdict.ILL_CONDITIONED: (
        "Some combinations of taps are hardly determined: they have large errors, and carry noise into the kernel.",
        "Ask for a smaller kernel.",
        "Use an image with more fine detail.",
        "Let a prior hold the noise down: solver='auto'.",
    ),
    Verdict.NO_REDUNDANCY: (
        "There are no more pixels than taps, or hardly more. Unrelated images fit as well, so this proves nothing.",
        "Ask for a smaller kernel.",
        "Use larger images.",
        "Declare the boundary if you know it: more pixels count.",
    ),
    Verdict.PRIOR_DECIDES: (
        "Part of the kernel is not determined by the images; there the assumption that it is smooth or small decides.",
        "Ask for a smaller kernel.",
        "Use an image with more detail.",
    ),
    Verdict.NO_MINIMUM: (
        "The strength of the penalty could not be chosen: the criterion has no minimum inside the range searched.",
        "Compare with plain least squares.",
        "Set the strength or the noise level yourself.",
    ),
    Verdict.NOISE_DOMINATES: (
        "The errors of the taps are as large as the kernel itself: what is shown is mostly noise.",
        "Ask for a smaller kernel.",
        "Use more pixels, or several pairs.",
        "Use solver='auto'.",
    ),
    Verdict.POOR_FIT: (
        "The best kernel explains less than half of the target: probably it is not this image, filtered by a kernel of "
        "this size.",
        "If the noise is as large as that, the errors tell how far to trust the kernel.",
        "Check that the two images are aligned to the pixel.",
        "Ask for a larger kernel.",
        "Fit an offset beside the kernel: background=0 (--background 0).",
        "Check the declared boundary and origin; without a boundary nothing can be wrong there.",
        "A filter that is not linear (a median, a threshold, tone mapping) is described by no kernel.",
    ),
    Verdict.NOT_CONVERGED: (
        "The iterations ended before the solution was as good as the noise allows.",
        "Ask for a smaller kernel.",
        "Allow a larger tolerance.",
    ),
    Verdict.ROUGH_ERRORS: (
        "The kernel is right, its error bars are rough: the weights follow the image so closely that only exact sums "
        "would tell them, and those would take long.",
        "Use a part of the image: then the exact way is taken.",
        "Ask for a smaller kernel.",
    ),
    Verdict.APPROXIMATE: (
        "This is a first look: division by frequency treats the images as if they repeated beyond their edges.",
        "Use the exact method for the final kernel: method='auto'.",
    ),
    Verdict.RESIDUAL_UNCHECKED: (
        "The kernel comes of sums alone; whether what it leaves unexplained is plain noise could not be looked at.",
        "Hold the kernel against some of the pixels: check_noise.",
        "Or find it from the pixels: find_kernel.",
    ),
    Verdict.SOLVED: (
        "The images determine every tap, the kernel explains the target, and the errors are small beside it.",
        "Look at the residual: if structure of the image is left in it, the filter did more than a kernel can.",
    ),
}


def advice(finding: Finding | None) -> tuple[str, str, tuple[str, ...]]:
    """Return a headline, what it means, and what to do next; None stands for a result without any finding."""
    verdict = Verdict.SOLVED if finding is None else finding.verdict
    headline = "Solved" if finding is None else verdict.name.replace("_", " ").capitalize()
    if finding is not None and finding.remedy:
        return headline, verdict.value.partition(": ")[0], (finding.remedy,)
    if verdict in ADVICE:
        meaning, *steps = ADVICE[verdict]
        return headline, meaning, tuple(steps)
    meaning, _, step = verdict.value.partition(": ")
    return headline, meaning, (step,) if step else ()


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
