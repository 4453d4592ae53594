"""What there is to say of a result: verdicts in words that help, and their particulars."""

import dataclasses
import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .geometry import Convention

#: Ends errors of data that "Prepare your data" is about.
PREPARE = "(more: kernelfit explain prepare)"
#: What helps where pixels near the edges are left out, and up to how many pixels for each tap it is said.
EDGES, _FEW = ", the pixels near the edges being left out: declare the boundary, if it is known", 2


class Verdict(enum.Enum):
    """What there is to say of a result; each value is the message, the worst come first."""

    RANK_DEFICIENT = (
        "the image does not determine every tap: of all kernels that fit equally well this is the smallest one. "
        "Ask for a smaller shape, or use an image with more detail"
    )
    NO_SIGNAL = "the target is the same everywhere and holds nothing of the image: check that the right file was read"
    ILL_CONDITIONED = (
        "the image hardly determines some combinations of taps, which carry large errors: "
        "ask for a smaller shape, or use an image with more fine detail"
    )
    NO_REDUNDANCY = (
        "there are no more equations than taps, or hardly more, so that a fit as good as this proves nothing: "
        "ask for a smaller shape, or use more pixels"
    )
    PRIOR_DECIDES = (
        "the image does not determine every tap; the penalty or prior, not the data, fills in what it leaves open: ask "
        "for a smaller shape, or use an image with more detail"
    )
    NO_MINIMUM = (
        "the criterion has no minimum inside the range searched, so the strength stands at its end: "
        "compare with LeastSquares(), or set the strength or the noise level yourself"
    )
    NOISE_DOMINATES = (
        "the errors of the taps are as large as the kernel itself: ask for a smaller shape, use more pixels, "
        "or let a prior that the data choose hold the noise down with solver='auto'"
    )
    POOR_FIT = (
        "the best kernel explains less than half of the target: (a) the noise is as large as that, (b) the two images "
        "are not aligned, (c) the kernel is wider than the shape asked for, (d) something is added to the target, as "
        "background=0 allows for, (e) the declared boundary or origin is wrong, or (f) the filter is not linear"
    )
    OUTLIERS_DECIDE = (
        "outliers stand where the image has most of its detail, so that which pixels are left out decides the kernel: "
        "if the noise grows with the signal, say so (noise='poisson' or (gain, read_noise)), mask the outliers that "
        "are known, use more pixels, or ask for a smaller shape"
    )
    WRONG_BOUNDARY = (
        "the target was not made with the boundary that is declared, which spoils the kernel: declare another one (or "
        "fillvalue, or origin), or none (boundary=None); check_boundary compares all of them"
    )
    IMAGE_NOISE = (
        "the noise of the image is about as large as its finest detail, or more, so that the kernel "
        "stays too small (attenuated): check image_noise, use an image with less noise, or ask for a smaller shape"
    )
    MISALIGNED = (
        "the target is turned, scaled or distorted against the image, which no one kernel can do, and the kernel is "
        "smeared by it: find the motion together with the kernel (register='similarity', 'affine' or 'homography'), or "
        "take a part so small that it does not matter"
    )
    VARYING = (
        "no one kernel made the whole target, and the one found is a mean of several: let it vary over the field "
        "(variation=2), fit parts of the field on their own (kernel_map), or take the rows or columns of one kind "
        "alone (stride=2) where these differ"
    )
    NONLINEAR = (
        "the target is not linear in the image, so that the kernel is wrong where that matters: find the curve "
        "together with the kernel (curve='gamma', or 'srgb' or 'monotone'), leave out what is clipped (saturated=(low, "
        "high)); a median, a threshold or a compressor is no kernel at all"
    )
    SHAPE_TOO_SMALL = (
        "the target depends on pixels outside the shape asked for, which spoils the taps inside: ask for a larger "
        "shape, or another origin if the two images are shifted against each other"
    )
    OFFSET = (
        "something lies in the target beside what the kernel makes, which spoils the kernel: fit it as well "
        "(background=0); rounding down to integers makes a constant of -0.5"
    )
    BACKGROUND_UNDETERMINED = (
        "the pixels that count do not determine the background: of all surfaces that fit equally well this is the "
        "smallest one, and it means nothing where no pixel counts; the kernel is not touched by it. Ask for a lower "
        "degree, or let other rows and columns count"
    )
    COLOURED_NOISE = (
        "the noise is correlated from pixel to pixel, so that the plain error bars are wrong; the kernel is not: take "
        "errors='sandwich'"
    )
    UNEVEN_NOISE = (
        "the noise is not as declared (alike everywhere, unless noise or weights say otherwise), so that the error "
        "bars are wrong: (a) it depends on the signal: declare noise='poisson' or (gain, read_noise), or give weights; "
        "or (b) the filter is not linear"
    )
    NOT_CONVERGED = (
        "the iterations ended before the error was far below that of the noise: ask for a smaller shape, or "
        "a larger tolerance"
    )
    ROUGH_ERRORS = (
        "the kernel is right, its standard errors are rough: the weights follow the image so closely that only exact "
        "sums would tell, which take long for so many pixels and taps: use a part of the image, or ask for a smaller "
        "shape"
    )
    APPROXIMATE = (
        "approximate: the data are not periodic; the exact method (method='auto') gives the kernel without the "
        "error that division by frequency makes at the edges"
    )
    WRAPPED = (
        "the target's values seem to have run over the end of their integer type and started again at the other: "
        "compute the target in a wider type, or clip it, and say robust='clip' meanwhile"
    )
    RESIDUAL_UNCHECKED = (
        "the residual was not checked, the pixels being gone, so that the verdict and the error bars rest on the sums "
        "alone: hold the kernel against some of the pixels with check_noise, or find it with find_kernel"
    )
    SOLVED = "solved"

    @property
    def ok(self) -> bool:
        """Whether there is nothing to doubt."""
        return self is Verdict.SOLVED


@dataclass(frozen=True)
class Finding:
    """One verdict with its particulars.

    Parameters
    ----------
    verdict : Verdict
        What was found.
    detail : str
        The figures, and the cause where it is known.
    remedy : str, optional
        What to do, where the call rules out what the verdict says of it; empty where it does not.
    """

    verdict: Verdict
    detail: str
    remedy: str = ""

    @property
    def text(self) -> str:
        """What the verdict means, and what to do in this case."""
        meaning = self.verdict.value
        return f"{meaning.partition(': ')[0]}: {self.remedy}" if self.remedy else meaning

    def __str__(self) -> str:
        """Return the particulars, then the message."""
        return f"{self.detail}; {self.text}"


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings with the worst first, each once."""
    order = list(Verdict)
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: order.index(finding.verdict)))


def more(verdicts: Iterable[Verdict]) -> str:
    """Return the command that shows what the documentation says of verdicts."""
    return " ".join(("kernelfit explain", *dict.fromkeys(verdict.name.lower() for verdict in verdicts)))


def told(findings: Sequence[Finding]) -> list[str]:
    """Return the lines of a summary that say what there is to doubt, and where more is said."""
    said = [f"{'also: ' if at else ''}{finding}" for at, finding in enumerate(findings)] or [Verdict.SOLVED.value]
    lines = [f"{'' if at else 'verdict':11s} {line}" for at, line in enumerate(said)]
    return lines + ([f"more        {more(finding.verdict for finding in findings)}"] if findings else [])


def with_edges(findings: Iterable[Finding], conv: Convention, n_pixels: int, n_taps: int) -> tuple[Finding, ...]:
    """Return findings of too few pixels with what a declared boundary would do, where none is."""
    if conv.boundary is not None or conv.mode == "valid" or n_pixels > _FEW * n_taps:
        return tuple(findings)
    few = (Verdict.RANK_DEFICIENT, Verdict.NO_REDUNDANCY, Verdict.PRIOR_DECIDES)
    return tuple(dataclasses.replace(f, detail=f.detail + EDGES) if f.verdict in few else f for f in findings)
