"""What an audit of a kernel found: how well it fits with each freedom, and a verdict in a sentence."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import scipy.special

from ..core.estimate import Estimate
from ..core.findings import Verdict
from ..core.validation import Array
from .comparison import Difference, compare_kernels
from .explanation import ROUNDING, Adjustment, Evidence, Laid, best_adjustment, constants
from .measured import Measured
from .place import ORIENTATIONS

#: A kernel is as good as the best if it leaves no more than so much more than the noise, or no more than chance does.
_AS_GOOD, _CHANCE = 0.01, 1e-3
#: Share of what the best kernel explains beyond a copy of the image with which a kernel is right in the main.
_MAINLY = 0.98
#: Errors that a shift, a factor or a constant has to exceed to be told, and the least shift and change of the factor.
_CLEAR, _LEAST = 3.0, 1e-3
#: Pixels by which a target pixel may miss the middle of a block, and still be said to stand there.
_NEAR = 0.1
#: What the best kernel's findings tell of the pair; others tell of a support as wide as the kernel needs to be moved.
_OF_PAIR = (
    *(Verdict.NO_SIGNAL, Verdict.OUTLIERS_DECIDE, Verdict.MISALIGNED, Verdict.VARYING, Verdict.NONLINEAR),
    *(Verdict.SHAPE_TOO_SMALL, Verdict.OFFSET, Verdict.COLOURED_NOISE, Verdict.UNEVEN_NOISE, Verdict.WRAPPED),
)
_CONFUSED = " (correlation and convolution exchanged)"


class AuditStep(NamedTuple):
    """One step of an audit: what was allowed, and how well the kernel then fits.

    Attributes
    ----------
    name : str
        What the kernel was allowed.
    chi2_per_dof : float
        Its residual in units of the noise, per degree of freedom: 1 is as good as can be.
    unexplained : float
        Share of the target's variance that it leaves.
    """

    name: str
    chi2_per_dof: float
    unexplained: float


@dataclass(frozen=True, eq=False)
class Audit:
    """Whether a kernel explains a pair of images; made by `audit`.

    Attributes
    ----------
    outcome : {"as given", "adjusted", "in the main", "no"}
        Whether the kernel explains the pair as it lies, once it is turned, moved or scaled, but for a small part that
        is more than noise, or not at all.
    verdict : str
        The same in a sentence.
    orientation : str
        How the kernel's array has to be turned to fit best: "as given", "turned by 180 degrees" (convolution and
        correlation exchanged), "mirrored left to right", "transposed" and so on.
    shift : (Measured, Measured)
        By how many pixels of the image the target lies further down and further to the right than the kernel says.
    whole_shift : (int, int)
        The best shift by whole pixels.
    scale : Measured
        The factor to the kernel.
    offset : tuple of Measured
        The constant that is added, for each pair and channel; empty if none was allowed.
    centre : (Measured, Measured) or None
        With a stride, the pixel of the image on which target pixel 0 is centred, the middle of the kernel's array being
        taken as its centre. None without a stride.
    steps : tuple of AuditStep
        How well the kernel fits as it is given, and with each freedom more; the last is the kernel that fits best.
    chi2, dof, p_value : float, int, float
        What the adjusted kernel leaves more than the best one in units of the noise, for how many taps that it was
        given, and the probability of as much by chance (an F-test).
    share : float
        Share of what the best kernel explains of the target beyond a copy of the image, moved by whole pixels, that the
        adjusted kernel explains: 1 for the best, 0 or less for a kernel no better than the copy.
    kernel : ndarray
        The adjusted kernel, on the support and under the convention of `best`.
    best : KernelFit
        The kernel that fits best.
    notes : tuple of str
        What else there is to know.
    """

    outcome: str
    verdict: str
    orientation: str
    shift: tuple[Measured, Measured]
    whole_shift: tuple[int, int]
    scale: Measured
    offset: tuple[Measured, ...]
    centre: tuple[Measured, Measured] | None
    steps: tuple[AuditStep, ...]
    chi2: float
    dof: int
    p_value: float
    share: float
    kernel: Array
    best: Estimate
    notes: tuple[str, ...] = ()

    @property
    def explains(self) -> bool:
        """Whether the kernel explains the pair as it was given."""
        return self.outcome == "as given"

    @functools.cached_property
    def difference(self) -> Difference:
        """The best kernel less the adjusted one, tap by tap, in units of its errors; made when first asked for."""
        adjusted = dataclasses.replace(self.best, kernel=self.kernel, root=None, typical_stderr=math.nan)
        return compare_kernels(self.best, adjusted)

    def __str__(self) -> str:
        width = max(len(step.name) for step in self.steps)
        lines = [f"verdict      {self.verdict}", "", f"{'':{width}}   chi2/dof   unexplained"]
        lines += [f"{s.name:{width}}  {s.chi2_per_dof:9.4g}   {100 * s.unexplained:9.3g} %" for s in self.steps]
        named = [("shift down", self.shift[0], " pixels"), ("shift right", self.shift[1], " pixels")]
        named += [("scale", self.scale, ""), *(("offset", one, "") for one in self.offset)]
        lines += ["", f"orientation  {self.orientation}"]
        lines += [f"{name:11s}  {value}{unit}" for name, value, unit in named]
        if self.centre is not None:
            (row, col), (down, across) = self.centre, self.best.convention.stride
            both = f"row {down} i {_signed(row)}, column {across} j {_signed(col)}"
            lines.append(f"centre       target[i, j] stands on the image at {both}")
        lines += [
            f"left out     chi squared {self.chi2:.4g} for {self.dof} degrees of freedom, p = {self.p_value:.2g}; "
            f"{100 * max(self.share, 0.0):.6g} % of what the best kernel explains beyond a copy",
            *(f"note         {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain types for JSON, None where there is none."""

        def plain(number: Measured) -> dict[str, float | None]:
            return {"value": finite(number.value), "stderr": finite(number.stderr)}

        def finite(value: float) -> float | None:
            return float(value) if math.isfinite(value) else None

        return {
            **{name: getattr(self, name) for name in ("outcome", "verdict", "explains", "orientation")},
            "shift": [plain(one) for one in self.shift],
            "whole_shift": list(self.whole_shift),
            "scale": plain(self.scale),
            "offset": [plain(one) for one in self.offset],
            "centre": None if self.centre is None else [plain(one) for one in self.centre],
            "steps": [
                {"name": s.name, "chi2_per_dof": finite(s.chi2_per_dof), "unexplained": finite(s.unexplained)}
                for s in self.steps
            ],
            **{name: finite(getattr(self, name)) for name in ("chi2", "dof", "p_value", "share")},
            "kernel": self.kernel.tolist(),
            "best": self.best.kernel.tolist(),
            "convention": self.best.convention.stored(),
            "noise_std": finite(self.best.noise_std),
            "notes": list(self.notes),
        }


def _signed(number: Measured) -> str:
    return f"{'-' if number.value < 0 else '+'} {number._replace(value=abs(number.value))}"


def judged(
    evidence: Evidence,
    best: Estimate,
    given: Laid,
    offset: tuple[int, int],
    elsewhere: Evidence,
    notes: Sequence[str],
    *,
    related: bool = True,
) -> Audit:
    """Return the audit of a kernel: a span's equations, its best kernel, and the equations where it lies as given.

    `related` says whether any kernel relates the pair.
    """
    stats, laid = evidence.stats, given.trimmed()
    n, energy = stats.n_pixels, stats.variance if stats.varies else stats.target_energy
    rss = max(best.rss, ROUNDING * stats.target_energy)
    variance = rss / max(n - best.rank, 1)
    found = best_adjustment(evidence, laid, offset)
    free = 1 + sum(side > 1 for side in evidence.span)

    def p_value(left: float, count: int) -> float:
        dof = max(best.rank - count, 1)
        return float(scipy.special.fdtrc(dof, max(n - best.rank, 1), max(left - rss, 0.0) / variance / dof))

    def as_good(left: float, count: int) -> bool:
        return left / (n - count) <= (1 + _AS_GOOD) * variance or p_value(left, count) > _CHANCE

    there = laid.moved(-offset[0], -offset[1])
    at_once = elsewhere.rss_without_constants(elsewhere.embedded(there)) * n / elsewhere.stats.n_pixels
    beside = elsewhere.scaled(elsewhere.embedded(there))[1] * n / elsewhere.stats.n_pixels
    constant = " and a constant" if evidence.eliminations else ""
    lefts = [("as given", at_once, 0), (f"with a factor{constant}", beside, 1)]
    if found.orientation != "as given" and math.isfinite(found.rss_there):
        lefts.append((found.orientation, found.rss_there, 1))
    lefts += [(f"moved by {found.whole} pixels", found.rss_whole, free), ("moved between pixels", found.rss, free)]
    sides = " x ".join(map(str, evidence.span))
    lefts.append((f"the best kernel of {sides} taps", rss, best.rank))
    steps = tuple(AuditStep(name, left / max(n - count, 1) / variance, left / energy) for name, left, count in lefts)

    spread = found.rss / max(n - free, 1)
    errors = [math.sqrt(max(spread * float(v), 0.0)) or math.nan for v in found.covariance.diagonal()]
    shift = Measured(float(found.shift[0]), errors[1]), Measured(float(found.shift[1]), errors[2])
    scale, added = Measured(found.scale, errors[0]), tuple(Measured(*one) for one in constants(evidence, found, spread))
    copy = stats.target_energy - float(((stats.moment**2) / stats.gram.diagonal().clip(1e-300)).max(initial=0.0))
    share = (copy - found.rss) / (copy - rss) if copy > rss else 1.0
    done = _done(found, shift, scale, added)
    ratio = (stats.target_energy - found.rss) / free / variance
    places = len(ORIENTATIONS) * stats.n_taps  # the best of so many was taken
    by_chance = places * float(scipy.special.fdtrc(free, max(n - free, 1), max(ratio, 0.0))) > _CHANCE
    if not related:  # that test is of white noise: what hangs together agrees with anything in some place
        by_chance |= any(finding.verdict is Verdict.COLOURED_NOISE for finding in best.findings)
    if by_chance:
        outcome, done = "no", []
    elif as_good(at_once, 0):
        outcome = "as given"
    elif as_good(found.rss, free):
        outcome = "adjusted"
    else:
        outcome = "in the main" if share >= _MAINLY else "no"
    told = [f"of the best kernel: {finding}" for finding in best.findings if finding.verdict in _OF_PAIR]
    if best.rank < best.kernel.size:
        told.insert(
            0,
            f"the image determines {best.rank} of {best.kernel.size} taps: other kernels, shifts and factors may "
            "explain the pair as well",
        )
    strides = best.convention.stride
    centre = None
    if max(strides) > 1:
        own = given.oriented(found.orientation).moved(-offset[0], -offset[1])
        middles = [-(f + (k - 1) / 2) - s.value for f, k, s in zip(own.first, own.taps.shape, shift, strict=True)]
        centre = Measured(middles[0], shift[0].stderr), Measured(middles[1], shift[1].stderr)
        blocks = [
            abs(one.value - (s - 1) / 2) < max(_NEAR, 3 * one.stderr) for one, s in zip(centre, strides, strict=True)
        ]
        if all(blocks):
            sized = " x ".join(map(str, strides))
            told.insert(
                0, f"target pixels stand in the middle of blocks of {sized} pixels, as programs that resize have it"
            )
    return Audit(
        outcome,
        verdict=_sentence(outcome, done, steps, share, by_chance),
        orientation=found.orientation + (_CONFUSED if found.orientation == "turned by 180 degrees" else ""),
        shift=shift,
        whole_shift=found.whole,
        scale=scale,
        offset=added,
        centre=centre,
        steps=steps,
        chi2=max(found.rss - rss, 0.0) / variance,
        dof=max(best.rank - free, 1),
        p_value=p_value(found.rss, free),
        share=share,
        kernel=found.taps,
        best=best,
        notes=(*notes, *told),
    )


def _done(found: Adjustment, shift: Sequence[Measured], scale: Measured, added: Sequence[Measured]) -> list[str]:
    """Return what was done to a kernel, as far as it is more than chance."""

    def clear(value: float, error: float, least: float) -> bool:
        return abs(value) > max(least, _CLEAR * error if math.isfinite(error) else 0.0)

    done = []
    if found.orientation != "as given":
        done.append(found.orientation + (_CONFUSED if found.orientation == "turned by 180 degrees" else ""))
    ways = (("down", "up"), ("to the right", "to the left"))
    moves = [
        f"{one._replace(value=abs(one.value))} pixels {way[one.value < 0]}"
        for one, way in zip(shift, ways, strict=True)
        if clear(one.value, one.stderr, _LEAST)
    ]
    done += [f"moved by {' and '.join(moves)}"] if moves else []
    done += [f"multiplied by {scale}"] if clear(scale.value - 1, scale.stderr, _LEAST) else []
    some = [one for one in added if clear(one.value, one.stderr, 0.0)]
    return done + ([f"given a constant of {', '.join(map(str, some))}"] if some else [])


def _sentence(outcome: str, done: Sequence[str], steps: Sequence[AuditStep], share: float, by_chance: bool) -> str:
    listed = done[0] if len(done) == 1 else f"{', '.join(done[:-1])} and {done[-1]}" if done else ""
    before, after = (f"chi squared per degree of freedom is {step.chi2_per_dof:.4g}" for step in (steps[0], steps[-2]))
    if outcome == "as given":
        return f"the kernel explains the pair as it is given ({before})"
    once = f", once it is {listed}" if listed else ""
    if outcome == "adjusted":
        return f"the kernel explains the pair{once}; as it is given {before}"
    if outcome == "in the main":
        return (
            f"the kernel explains the pair in the main{once}: {100 * share:.6g} % of what the best kernel explains "
            f"beyond a copy of the image, but what it leaves is more than noise ({after})"
        )
    if by_chance:
        return "the kernel does not explain the pair: the target holds nothing that it makes of the image"
    return (
        f"the kernel does not explain the pair:{f' even {listed},' if listed else ''} it leaves "
        f"{100 * steps[-2].unexplained:.3g} % of the target's variance, where the best kernel leaves "
        f"{100 * steps[-1].unexplained:.3g} % ({after})"
    )
