"""Motion and kernel together: warp the image, fit, and step on, from the coarse to the fine.

The image is warped by the motion found so far, the kernel is fitted to it through the one pipeline, and a step of
Gauss and Newton (`joint`) finds what is left of the motion from the residual. A shift cannot be told from the kernel:
it is the one that puts the kernel's centroid into the middle of its shape.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import registration
from ..core.estimate import Estimate, with_finding
from ..core.findings import Finding, Verdict
from ..core.registration import KINDS, Registration
from ..core.validation import Array
from ..data.masking import unmasked
from ..data.plan import FitPlan
from . import joint, requirements
from .channels import join
from .pipeline import Settings, fit_of_group
from .registration_round import Round, Scene, Search, centroid_of, slopes_of, symmetric
from .registration_start import start_of

#: Rounds at full size, at most; a step that leaves so little of the motion, in standard errors or in pixels, is the
#: last but for the fit itself; of a step of d pixels about so much of d^2 is left.
_MOST, _SETTLED, _LEAST, _CURVED = 6, 0.1, 1e-6, 0.1


def registered(image: Any, target: Any, plan: FitPlan, settings: Settings) -> Estimate:
    """Find kernel and motion of a pair, of which `plan` is what was asked for and judged."""
    execution, model, selection = settings.execution, plan.model, plan.selection
    requirements.require(requirements.features_of(plan, settings.noise, settings.solver, execution))
    (image, own), bad = unmasked(image), selection.image_mask
    bad = own if bad is None else bad if own is None else np.asarray(bad, bool) | np.asarray(own, bool)
    scene = Scene.of(image, bad, model.channel_axis, execution.threads, selection.nan)
    search = Search(scene, target, model, dataclasses.replace(selection, image_mask=None), settings)
    return finished(search, settled(search, start_of(search, image, bad)))


@dataclass(frozen=True, eq=False)
class Settled:
    """Where the rounds at full size ended."""

    last: Round
    matrix: Array  # after its step
    centred: bool
    rounds: int
    done: bool


def settled(search: Search, matrix: Array) -> Settled:
    """Go on at full size until a step leaves nothing that matters."""
    centred: bool | None = None
    rounds, done = 0, False
    while not done and rounds < _MOST:
        rounds += 1
        one = search.round(matrix)
        conv = one.plan.groups[0][0].geometry.convention
        found = centroid_of(one.taps, conv)
        if centred is None:
            centred = found is not None and symmetric(one.taps, found[0], conv, one.error)
        after, length = _after(search, one, centred)
        effects = search.effects(one.matrix, search.parameters(gauge=False))
        errors = np.einsum("ij,jk,ik->i", effects, one.covariance, effects).reshape(4, 2).sum(axis=1)
        matrix = after
        done = _CURVED * length**2 <= max(_SETTLED * math.sqrt(max(0.0, float(errors.max()))), _LEAST)
        if (done or rounds == _MOST) and not search.exactly:
            one = search.exact(one)
            matrix, _ = _after(search, one, centred)
    if search.shifts and done:  # what hardly more than the taps can do takes the errors of this very place
        one = search.round(matrix)
    return Settled(one, matrix, bool(centred), rounds, done)


def _after(search: Search, one: Round, centred: bool) -> tuple[Array, float]:
    """Return the motion after the step of a round, and the length of the step in pixels."""
    found = centroid_of(one.taps, one.plan.groups[0][0].geometry.convention)
    step = search.step(one, found[0] if centred and found is not None else np.zeros(2))
    after = registration.scaled(one.matrix @ step)
    after = after if centred else search.without_shift(after)
    return after, search.length(registration.scaled(np.linalg.inv(one.matrix) @ after))


def finished(search: Search, end: Settled) -> Estimate:
    """Fit at the last motion as it was asked for, and give kernel and motion their errors."""
    plan = search.plan(end.matrix)
    groups = [fit_of_group(plan, g, search.settings) for g in range(len(plan.groups))]
    shares, conv = end.last.shares, plan.groups[0][0].geometry.convention
    free = groups[0][0].uncertainty == "sampling"
    before = end.last.groups if free else groups
    covariance = end.last.covariance if free or not search.generators else joint.solved(shares, groups)[1]
    factors, own = joint.factors_of(groups, shares, before, covariance)
    sides = plan.shape
    total = np.sum([one.kernel.reshape(-1, *sides).sum(axis=0) for some in groups for one in some], axis=0)
    found = centroid_of(total, conv) if end.centred else None
    if found is not None and search.held:
        sums = [f.reshape(-1, math.prod(sides), own.shape[1]).sum(axis=0) for some in factors for f in some]
        follows = (found[1] @ np.sum(sums, axis=0))[search.held]  # of the centroid
        flip = 1.0 if conv.operation == "convolution" else -1.0
        for some, estimates in zip(factors, groups, strict=True):
            for i, one in enumerate(estimates):
                back = np.stack([flip * slopes_of(one.kernel, axis) for axis in search.held], axis=1)
                some[i] = some[i] + back @ follows
        own = np.concatenate([own, -follows / registration.frame_of(search.scene.shape)[1]])
    effects = search.effects(end.matrix, search.parameters(gauge=found is not None)) @ own
    pairs = zip(groups, factors, strict=True)
    groups = [[joint.widened(o, f) for o, f in zip(g, some, strict=True)] for g, some in pairs]
    notes = () if end.done else (f"the motion had not settled after {end.rounds} rounds",)
    result = Registration(
        kind=search.kind,
        matrix=end.matrix,
        shape=search.scene.shape,
        covariance=effects @ effects.T,
        centred=end.centred,
        rounds=end.rounds + 1,
        notes=notes,
    )
    groups = [[_told(one, search.kind) for one in g] for g in groups]
    estimate = dataclasses.replace(join(groups, plan), registration=result)
    return with_finding(estimate, Finding(Verdict.NOT_CONVERGED, notes[0]) if notes else None)


def _told(estimate: Estimate, kind: str) -> Estimate:
    """Return an estimate whose findings know that a motion was looked for."""
    richer = f"register={KINDS[KINDS.index(kind) + 1]!r}, or " if kind != "homography" else ""
    beside = f"beside the motion that register={kind!r} found"
    remedy = f"take {richer}a part so small that it does not matter"
    findings = [
        dataclasses.replace(f, detail=f"{beside}, {f.detail}", remedy=remedy) if f.verdict is Verdict.MISALIGNED else f
        for f in estimate.findings
    ]
    return dataclasses.replace(estimate, findings=tuple(findings))
