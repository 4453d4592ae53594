"""Advice that knows the call: what a verdict proposes goes where it was given, or is refused beside the rest."""

import dataclasses
import re
from typing import NamedTuple

from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict
from .requirements import RULES


class _Clause(NamedTuple):
    """A part of a verdict's text that proposes a feature, and what stands there instead."""

    verdict: Verdict
    feature: str
    text: str
    given: str | None = None  # where the call has the feature; None leaves the text
    never: str | None = None  # where it is refused beside what the call cannot do without; None if it proposes another


#: What a call can do without, so that a remedy it excludes may take its place.
_SPARED = {"image noise", "sandwich errors", "ConjugateGradient", "fill"}
_PHOTONS = "it depends on the signal: declare noise='poisson' or (gain, read_noise), or give weights"
_SANDWICH = "take errors='sandwich'"
_FACTORS = "allow for these factors in the error bars, which errors='sandwich' cannot do here"
_CURVE = "find the curve together with the kernel (curve='gamma', or 'srgb' or 'monotone'), "
_MOTION = "find the motion together with the kernel (register='similarity', 'affine' or 'homography'), or "
_PRIOR = "use more pixels, or let a prior that the data choose hold the noise down with solver='auto'"
#: Of those with the same text the first that applies counts.
_CLAUSES = (
    _Clause(Verdict.NOISE_DOMINATES, "prior", _PRIOR, "or use more pixels", "or use more pixels"),
    _Clause(
        Verdict.POOR_FIT,
        "background",
        "(d) something is added to the target, as background=0 allows for, (e) the declared boundary or origin is "
        "wrong, or (f)",
        "(d) the declared boundary or origin is wrong, or (e)",
    ),
    _Clause(
        Verdict.OUTLIERS_DECIDE,
        "photon noise",
        "if the noise grows with the signal, say so (noise='poisson' or (gain, read_noise)), ",
        "",
        "",
    ),
    _Clause(
        Verdict.UNEVEN_NOISE,
        "weights",
        _PHOTONS,
        "it is not what the weights say: give the inverse variances of the pixels, or noise= in place of weights=",
    ),
    _Clause(
        Verdict.UNEVEN_NOISE,
        "photon noise",
        _PHOTONS,
        "the gain or the read noise is another, or its variance no such sum: declare them as they are, noise=(gain, "
        "read_noise), or give weights in place of noise=",
        "it depends on the signal: give weights",
    ),
    _Clause(Verdict.COLOURED_NOISE, "register", _SANDWICH, _FACTORS),
    _Clause(Verdict.COLOURED_NOISE, "curve", _SANDWICH, _FACTORS),
    _Clause(
        Verdict.COLOURED_NOISE,
        "robust",
        _SANDWICH,
        "fit again with weights=fit.weights in place of robust= (and of noise=), and errors='sandwich'",
    ),
    _Clause(Verdict.COLOURED_NOISE, "sandwich errors", _SANDWICH, None, _FACTORS),
    _Clause(Verdict.NONLINEAR, "curve", _CURVE, "", ""),
    _Clause(Verdict.NONLINEAR, "saturated", "leave out what", "leave out more of what"),
    _Clause(Verdict.MISALIGNED, "register", _MOTION, "", ""),
    _Clause(
        Verdict.VARYING, "variation", "let it vary over the field (variation=2), ", "let it vary more (a Spline), ", ""
    ),
    _Clause(Verdict.WRAPPED, "robust", ", and say robust='clip' meanwhile", "", ""),
)


def knowing(estimate: Estimate, features: dict[str, str]) -> Estimate:
    """Return an estimate whose findings propose what this call, of some features, does not have and can take."""
    findings = tuple(_advised(one, features) for one in estimate.findings)
    parts = tuple(knowing(part, features) for part in estimate.parts)
    return dataclasses.replace(estimate, findings=findings, parts=parts)


def _advised(finding: Finding, features: dict[str, str]) -> Finding:
    """Return a finding with a remedy of its own where the call rules out part of what its verdict says."""
    remedy = finding.verdict.value.partition(": ")[2]
    for clause in _CLAUSES:
        if clause.verdict is finding.verdict and (other := _instead(clause, features)) is not None:
            remedy = remedy.replace(clause.text, other)
    told = finding.remedy or remedy == finding.verdict.value.partition(": ")[2]
    return finding if told else dataclasses.replace(finding, remedy=remedy)


def _instead(clause: _Clause, features: dict[str, str]) -> str | None:
    """Return what stands in place of a clause in a call of some features, None where it may stay."""
    if clause.feature in features or clause.never is None:
        return clause.given if clause.feature in features else None
    there = {*features, clause.feature}
    rules = [rule.features for rule in RULES if clause.feature in rule.features and rule.features <= there]
    against = {name for rule in rules for name in rule} - {clause.feature}
    if against and against <= _SPARED:
        without = " and ".join(text for name, text in features.items() if name in against)
        return re.sub("(, (or )?)?$", rf" without {without}\g<0>", clause.text, count=1)
    return clause.never if against else None
