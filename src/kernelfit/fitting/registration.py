"""Motion, curve and kernel together: lay light on light, fit, and step on, from the coarse to the fine.

The image is made light by the curve and warped by the motion found so far, the kernel is fitted to it through the one
pipeline, and a step of Gauss and Newton (`joint`) finds what is left of both from the residual. A shift cannot be told
from the kernel: it is the one that puts the kernel's centroid into the middle of its shape. Of several pairs each has a
motion of its own, and the kernel holds the shift of the first.
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
from ..core.validation import Array, as_list
from ..data.masking import unmasked
from ..data.plan import FitPlan
from . import curve, joint, requirements
from .channels import join
from .curve import Light
from .curve_errors import of_rounding
from .pipeline import Settings, fit_of_group
from .registration_columns import slopes_of
from .registration_round import Place, Round, Scene, Search, centroid_of, symmetric
from .registration_start import start_of

#: Rounds at full size, at most, and of a curve; a step that leaves so little of the motion, in standard errors or in
#: pixels, is the last but for the fit itself; about such a share of a step is left after it.
_MOST, _MOST_BENT, _SETTLED, _LEAST, _SHARE = 6, 25, 0.2, 1e-6, 0.002


def registered(image: Any, target: Any, plan: FitPlan, settings: Settings) -> Estimate:
    """Find the kernel with motion, curve, or both, of a pair or several; `plan` is what was asked and judged."""
    model, selection = plan.model, plan.selection
    requirements.require(requirements.features_of(plan, settings.noise, settings.solver, settings.execution))
    image, threads = unmasked(image)[0], settings.execution.threads
    images = as_list(image) or [image]
    bads = [plan.of_pair(plan.masked[0], "mask", i) for i in range(len(images))]
    light = None
    if model.curve is not None:
        light = Light.of(image, target, model, selection)
        selection = dataclasses.replace(selection, saturated=None)
    if model.register is not None:  # whose masks move with the images
        given = [plan.of_pair(selection.image_mask, "image_mask", i) for i in range(len(images))]
        bads = [_either(*both) for both in zip(bads, given, strict=True)]
        selection = dataclasses.replace(selection, image_mask=None)
    nan = selection.nan if model.register is not None else "mask"
    scenes = [Scene.of(i, b, model.channel_axis, threads, nan) for i, b in zip(images, bads, strict=True)]
    search = Search(scenes, target, model, selection, settings, light)
    start = search.start
    if model.register is not None:
        start = dataclasses.replace(start, matrices=start_of(search, images, bads))
    end = settled(search, start)
    if light is not None and light.begun:
        light, theta = light.on(end.place.theta)
        search = search.with_light(light)
        end = settled(search, dataclasses.replace(end.place, theta=theta), end.rounds)
    wary = search.wary(end.last)
    if wary is not None:
        search, end = wary, settled(wary, end.place, end.rounds)
    return finished(search, end)


def _either(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    return np.asarray(first, bool) | np.asarray(second, bool)


@dataclass(frozen=True, eq=False)
class Settled:
    """Where the rounds at full size ended."""

    last: Round
    place: Place  # after its step
    centred: bool
    rounds: int
    done: bool


def settled(search: Search, place: Place, rounds: int = 0) -> Settled:
    """Go on at full size until a step leaves nothing that matters."""
    centred: bool | None = None
    done, most = False, rounds + (_MOST if search.light is None else _MOST_BENT)
    while not done and rounds < most:
        rounds += 1
        one = search.round(place)
        if centred is None and search.kind is not None:
            conv = one.plan.groups[0][0].geometry.convention
            found = centroid_of(one.taps, conv)
            centred = found is not None and symmetric(one.taps, found[0], conv, one.error)
        place = _after(search, one, centred)
        done = _is_last(search, one, place)
    if search.few and done:  # what hardly more than the taps can do takes the errors of this very place
        one = search.round(place)
    return Settled(one, place, bool(centred), rounds, done)


def _is_last(search: Search, one: Round, after: Place) -> bool:
    """Say whether the step of a round leaves nothing that matters."""
    if search.light is not None and not search.light.settled(*one.bend):
        return False
    largest = 0.0
    for pair, places in enumerate(search.places):
        effects, own = search.effects(one.place, pair, gauge=False), one.covariance[np.ix_(places, places)]
        errors = np.einsum("ij,jk,ik->i", effects, own, effects).reshape(4, 2).sum(axis=1)
        largest = max(largest, float(errors.max()))
    length = search.length(one.place, after)
    return (one.doubt + _SHARE) * length <= max(_SETTLED * math.sqrt(largest), _LEAST)


def _after(search: Search, one: Round, centred: bool | None) -> Place:
    found = centroid_of(one.taps, one.plan.groups[0][0].geometry.convention) if centred else None
    place = search.after(one, np.zeros(2) if found is None else found[0])
    return search.without_shift(place) if centred is False else place


def finished(search: Search, end: Settled) -> Estimate:
    """Fit at the last place as it was asked for, and give kernel, motions and curve their errors."""
    rounding = of_rounding(search, end.last)
    if rounding is not None:
        end = _beside(search, end, *rounding)
    place, beside = end.place, np.zeros(len(end.last.covariance))
    if search.light is not None:
        theta, beside[search.n_motion :] = search.light.kept(place.theta, end.last.bend[1])
        place = dataclasses.replace(place, theta=theta)
    plan = search.plan_after(end.last, place)
    groups = [fit_of_group(plan, g, search.settings) for g in range(len(plan.groups))]
    shares, conv = end.last.shares, plan.groups[0][0].geometry.convention
    free = groups[0][0].uncertainty == "sampling"
    before, covariance = end.last.groups, end.last.covariance
    if not free and len(covariance):
        before, covariance = groups, search.solved(shares, groups, end.last.place.theta)[1]
    covariance = covariance + np.diag(beside)
    factors, own = joint.factors_of(groups, shares, before, covariance)
    sides = plan.shape
    total = np.sum([one.kernel.reshape(-1, *sides).sum(axis=0) for some in groups for one in some], axis=0)
    found = centroid_of(total, conv) if end.centred else None
    follows = np.zeros((0, own.shape[1]))
    if found is not None and search.held:
        sums = [f.reshape(-1, math.prod(sides), own.shape[1]).sum(axis=0) for some in factors for f in some]
        follows = (found[1] @ np.sum(sums, axis=0))[search.held]  # of the centroid
        flip = 1.0 if conv.operation == "convolution" else -1.0
        for some, estimates in zip(factors, groups, strict=True):
            for i, one in enumerate(estimates):
                back = np.stack([flip * slopes_of(one.kernel, axis) for axis in search.held], axis=1)
                some[i] = some[i] + back @ follows
    pairs = zip(groups, factors, strict=True)
    groups = [[joint.widened(o, f) for o, f in zip(g, some, strict=True)] for g, some in pairs]
    notes = () if end.done else (f"the motion had not settled after {end.rounds} rounds",)
    motions, bend = [], None
    for pair, (scene, places) in enumerate(zip(search.scenes, search.places, strict=True)):
        if search.kind is not None:
            table = np.concatenate([own[places], -follows / registration.frame_of(scene.shape)[1]])
            effects = search.effects(place, pair, gauge=found is not None) @ table
            kind, matrix, errors = search.kind, place.matrices[pair], effects @ effects.T
            motions.append(Registration(kind, matrix, scene.shape, errors, end.centred, end.rounds + 1, notes))
            groups = [[_told(one, kind) for one in g] for g in groups]
    if search.light is not None:
        bend = search.light.found(place.theta, covariance[search.n_motion :, search.n_motion :], end.rounds + 1)
        groups = [[curve.told(one, bend) for one in g] for g in groups]
        if not motions and not end.done:
            notes = (f"the curve had not settled after {end.rounds} rounds",)
    motion = dataclasses.replace(motions[0], pairs=tuple(motions) if plan.listed else ()) if motions else None
    estimate = dataclasses.replace(join(groups, plan), registration=motion, curve=bend)
    return with_finding(estimate, Finding(Verdict.NOT_CONVERGED, notes[0]) if notes else None)


def _beside(search: Search, end: Settled, bias: Array, variance: Array) -> Settled:
    """Return the end with a bias of J'W r taken off, and a covariance for this variance of it."""
    one, gain = end.last, search.gain(end.last)
    table, _ = joint.precision(one.shares, one.groups)
    covariance = one.covariance + gain @ (variance - table) @ gain.T
    step = gain @ bias
    after = search.after(dataclasses.replace(one, place=end.place, step=step), np.zeros(2))
    return dataclasses.replace(end, last=dataclasses.replace(one, covariance=covariance), place=after)


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
