"""A curve between file values and light, found together with the kernel.

``g(y) = k * g(x)`` (or one side alone) is bilinear in the kernel and a small change of the curve: fit, step as `joint`
does, and fit again. The target's share of a column of J is read at the prediction, not at the noisy target, so that it
is independent of the noise: else a curve that makes the values small would seem the best (J. D. Sargan, "The estimation
of economic relationships using instrumental variables", Econometrica 26 (1958) 393).
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.curve import FAMILIES, Curve, Family, Monotone
from ..core.estimate import Estimate, with_finding
from ..core.findings import Finding, Verdict
from ..core.model import Model, Selection, as_ends
from ..core.validation import Array, as_list
from ..data.masking import unmasked
from ..data.plan import FitPlan, make_plan
from ..solvers.least_squares import LeastSquares
from . import joint, requirements
from .channels import join
from .pipeline import Settings, fit_of_group

#: The exponent to start from, rounds at most, a step that is the last, in standard errors and in itself; the largest.
_START, _MOST, _SETTLED, _LEAST, _LARGEST = 1.0, 25, 0.05, 1e-6, 0.5
#: Standard deviation of the logarithm of the slope about that of the best power.
_BELIEVED = 0.5
#: Share of a target that may stand at the ends of its type and still be left out.
_MOST_HIT = 0.5


@dataclass(frozen=True, eq=False)
class _Slopes:
    """The columns of J: what the kernels make of the change of the image, less that of the target at its prediction."""

    family: Family
    theta: Array
    white: float | None  # of the target, None where it has no curve
    plans: Sequence[FitPlan]  # of the image's change with each parameter; none where it has no curve

    def __call__(self, seen: joint.Seen) -> list[Array]:
        """Return the columns for what is seen of an observation."""
        group, at = seen.place
        total = [np.zeros(seen.observation.size) for _ in self.theta]
        for own, plan in zip(total, self.plans, strict=False):
            own += seen.made([reader.array for reader in plan.groups[group][at].sources])
        if self.white is not None:
            light = seen.model + seen.surface()
            values = self.family.inverse(light / self.white, self.theta)
            for own, change in zip(total, self.family.change(values, self.theta), strict=True):
                own -= self.white * change
        return total


@dataclass(frozen=True, eq=False)
class _Round:
    """A fit under one curve, and the step from there."""

    theta: Array
    plan: FitPlan
    groups: list[list[Estimate]]
    shares: list[list[joint.Share]]
    step: Array
    covariance: Array


class _Search:
    """A pair, or several, a family and a side."""

    def __init__(self, image: Any, target: Any, model: Model, selection: Selection, settings: Settings) -> None:
        self.side, self.settings = model.curve_side, settings
        self.family = FAMILIES[model.curve or "gamma"]
        (self.image, self.bad_image), (given, bad) = unmasked(image), unmasked(target)
        self.target, ends = given, selection.saturated
        self.scale = _white(self.image), _white(given)
        listed = as_list(given)
        hits = [_hit(one, ends) for one in listed or [given]]
        bads = as_list(bad) if listed else [bad]
        masks = [
            h if b is None else b if h is None else h | b for h, b in zip(hits, bads or [None] * len(hits), strict=True)
        ]
        self.masks: Any = masks if listed else masks[0]
        self.selection = dataclasses.replace(selection, saturated=None)
        plain = dataclasses.replace(model, curve=None, curve_side="both")
        if model.boundary == "fill" and self.side != "target":
            self.model = dataclasses.replace(plain, fillvalue=0.0)
            self.fill = model.fillvalue
        else:
            self.model, self.fill = plain, 0.0

    def _of(self, value: Any, change: Callable[[Array], Array], masks: Any) -> Any:
        """Return a function of each pixel of an array, or of each of a list, with masks."""
        listed = as_list(value)
        if listed is not None:
            return [
                self._of(one, change, mask) for one, mask in zip(listed, masks or [None] * len(listed), strict=True)
            ]
        made = change(np.asarray(value, dtype=np.float64))
        return made if masks is None else np.ma.MaskedArray(made, masks)

    def lit(self, theta: Array, at: int) -> Callable[[Array], Array]:
        """Return what makes light of the values of the image (0) or of the target (1)."""
        white = self.scale[at]
        if self.side == ("target", "image")[at]:
            return lambda values: values
        return lambda values: white * self.family.value(values / white, theta)

    def plan(self, theta: Array) -> FitPlan:
        """Lay light on light."""
        image = self._of(self.image, self.lit(theta, 0), self.bad_image)
        target = self._of(self.target, self.lit(theta, 1), self.masks)
        return make_plan(image, target, self.modelled(theta), self.selection)

    def modelled(self, theta: Array) -> Model:
        """Return the model, the value beyond the edge made light."""
        if not self.fill:
            return self.model
        return dataclasses.replace(self.model, fillvalue=float(self.lit(theta, 0)(np.array(self.fill))))

    def round(self, theta: Array) -> _Round:
        """Fit by least squares, and find the step."""
        plan = self.plan(theta)
        settings = dataclasses.replace(self.settings, solver=LeastSquares(), diagnosis=False)
        groups = [fit_of_group(plan, g, settings) for g in range(len(plan.groups))]
        white, threads = self.scale[0], settings.execution.threads
        plans = []
        for i in range(len(theta) if self.side != "target" else 0):
            change = lambda values, i=i: white * self.family.change(values / white, theta)[i]  # noqa: E731
            plans.append(make_plan(self._of(self.image, change, None), self.target, self.model, self.selection))
        if not len(theta):
            return _Round(theta, plan, groups, joint.nothing(groups), np.zeros(0), np.zeros((0, 0)))
        slopes = _Slopes(self.family, theta, None if self.side == "image" else self.scale[1], plans)
        shares = joint.shares_of(plan, groups, slopes, threads)
        step, covariance = joint.solved(shares, groups)
        return _Round(theta, plan, groups, shares, step, covariance)


def _white(value: Any) -> float:
    """Return the value that is white: the end of an integer type, or one that no value exceeds."""
    arrays = as_list(value) or [value]
    kinds = [np.asarray(one).dtype for one in arrays]
    if all(kind.kind in "iu" for kind in kinds):
        return float(max(np.iinfo(kind).max for kind in kinds))
    largest = max(float(np.nanmax(np.abs(np.asarray(one, dtype=np.float64)), initial=0.0)) for one in arrays)
    return next((white for white in (1.0, 255.0, 65535.0) if largest <= white), largest)


def _hit(target: Any, ends: Any) -> Any:
    """Return where a target is saturated, None if nowhere or nearly everywhere."""
    found = as_ends(ends, np.asarray(target).dtype)
    if found is None:
        return None
    hit = (np.asarray(target) <= found[0]) | (np.asarray(target) >= found[1])
    return hit if 0 < float(hit.mean()) < _MOST_HIT else None


def curved(image: Any, target: Any, plan: FitPlan, settings: Settings) -> Estimate:
    """Find kernel and curve of a pair, or several, of which `plan` is what was asked for and judged."""
    model = plan.model
    requirements.require(requirements.features_of(plan, settings.noise, settings.solver, settings.execution))
    search = _Search(image, target, model, plan.selection, settings)
    if model.curve == "srgb":
        one, done, rounds = search.round(np.zeros(0)), True, 0
    else:
        own, search.family = search.family, FAMILIES["gamma"]
        one, done, rounds = _settled(search, np.array([_START]))
        if isinstance(own, Monotone):
            near, search.family = own.near(search.family, one.theta), own
            one, done, more = _settled(search, near, near)
            rounds += more
    plan = search.plan(one.theta)
    groups = [fit_of_group(plan, g, settings) for g in range(len(plan.groups))]
    free = groups[0][0].uncertainty == "sampling"
    covariance = one.covariance if free or not len(one.theta) else joint.solved(one.shares, groups)[1]
    factors, _ = joint.factors_of(groups, one.shares, one.groups if free else groups, covariance)
    pairs = zip(groups, factors, strict=True)
    groups = [[joint.widened(o, f) for o, f in zip(g, some, strict=True)] for g, some in pairs]
    found = Curve(model.curve or "gamma", search.side, one.theta, covariance, search.scale, rounds + 1)
    groups = [[_told(one, found) for one in g] for g in groups]
    estimate = dataclasses.replace(join(groups, plan), curve=found)
    detail = f"the curve had not settled after {rounds} rounds"
    return with_finding(estimate, None if done else Finding(Verdict.NOT_CONVERGED, detail))


def _told(estimate: Estimate, curve: Curve) -> Estimate:
    """Return an estimate whose findings know that a curve was looked for."""
    richer = "" if curve.family == "monotone" else "take curve='monotone', or "
    beside = f"beside the curve that curve={curve.family!r} found"
    remedy = f"{richer}leave out what is clipped (saturated=(low, high)); a median or a threshold is no kernel at all"
    findings = [
        dataclasses.replace(f, detail=f"{beside}, {f.detail}", remedy=remedy) if f.verdict is Verdict.NONLINEAR else f
        for f in estimate.findings
    ]
    return dataclasses.replace(estimate, findings=tuple(findings))


def _settled(search: _Search, theta: Array, near: Array | None = None) -> tuple[_Round, bool, int]:
    """Step until a step is small.

    `near`: where the logarithms of the slope are believed to lie: of the darkest values few pixels tell.
    """
    for rounds in range(1, _MOST + 1):
        one = search.round(theta)
        if near is not None:
            precision = np.linalg.pinv(one.covariance, hermitian=True)
            covariance = np.asarray(np.linalg.inv(precision + np.eye(len(theta)) / _BELIEVED**2), float)
            step = np.asarray(covariance @ (precision @ one.step - (theta - near) / _BELIEVED**2))
            one = dataclasses.replace(one, step=step, covariance=covariance)
        stderr = np.sqrt(np.maximum(np.diag(one.covariance), 0.0))
        if bool((np.abs(one.step) <= np.maximum(_SETTLED * stderr, _LEAST)).all()):
            return one, True, rounds
        theta = _bounded(search.family, theta + one.step / max(1.0, float(np.abs(one.step).max()) / _LARGEST))
    return one, False, _MOST


def _bounded(family: Family, theta: Array) -> Array:
    """Keep parameters where the curve is one."""
    return np.clip(theta, 0.1, 10.0) if family.names == ("gamma",) else np.clip(theta, -12.0, 12.0)
