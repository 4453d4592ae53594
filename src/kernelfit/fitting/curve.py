"""A curve between file values and light, found together with the kernel.

``g(y) = k * g(x)`` (or one side alone) is bilinear in the kernel and a small change of the curve: fit, step as `joint`
does, and fit again: the loop is that of `registration`. The target's share of a column of J is read at the prediction,
not at the noisy target, so that it is independent of the noise: else a curve that makes the values small would seem
the best (J. D. Sargan, "The estimation of economic relationships using instrumental variables", Econometrica 26 (1958)
393).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.curve import FAMILIES, Curve, Family, Monotone
from ..core.estimate import Estimate
from ..core.findings import Verdict
from ..core.model import Model, Selection, as_ends
from ..core.validation import Array, as_list
from ..data.masking import unmasked

#: The exponent to start from, the largest step of a parameter, and one that is the last, in standard errors and itself.
_START, _LARGEST, _SETTLED, _LEAST = 1.0, 0.5, 0.05, 1e-6
#: Standard errors within which a power is taken to be 1: the file holds light.
_WITHIN = 1.96
#: Standard deviation of the logarithm of the slope about that of the best power.
_BELIEVED = 0.5
#: Share of a target that may stand at the ends of its type and still be left out.
_MOST_HIT = 0.5
#: Standard deviations of the noise from a prediction to an end, within which a target that is not there was drawn from.
_REACH = 3.0


@dataclass(frozen=True, eq=False)
class Light:
    """What makes light of the values of a pair, or of several."""

    #: asked, side: as in `Curve`
    asked: str
    side: str
    family: Family  # the one at hand: a monotone curve begins as a power
    scale: tuple[float, float]  # white of the image and of the target
    #: target, masks: its values, and those that do not count; lists of several pairs
    target: Any
    masks: Any
    fill: float | None = None  # the value beyond the edge that is one of the image's, None where it is light already
    #: Where the logarithms of the slope are believed to lie: of the darkest values few pixels tell
    near: Array | None = None
    whole: tuple[bool, bool] = (False, False)  # whether the values of the image, and of the target, are whole numbers
    ends: tuple[float | None, float | None] = (None, None)  # at which the target is cut off below, and above

    @classmethod
    def of(cls, image: Any, target: Any, model: Model, selection: Selection) -> "Light":
        """Take values without masks of the image, and with those of the target."""
        given, bad = unmasked(target)
        listed = as_list(given)
        hits = [_hit(one, selection.saturated) for one in listed or [given]]
        ends = _ends_of(listed or [given], hits, selection.saturated)
        bads = bad if isinstance(bad, list) else [bad] * len(hits)
        masks = [h if b is None else b if h is None else h | b for h, b in zip(hits, bads, strict=True)]
        name, side = model.curve or "gamma", model.curve_side
        fill = model.fillvalue if model.boundary == "fill" and side != "target" and model.fillvalue else None
        family = FAMILIES["srgb" if name == "srgb" else "gamma"]
        for values, one in ((image, "image"), (given, "target")):
            if side in ("both", one):
                _require_light(values, one, name)
        both, whole = (_white(image), _white(given)), (_whole(image), _whole(given))
        return cls(name, side, family, both, given, masks if listed else masks[0], fill, None, whole, ends)

    @property
    def start(self) -> Array:
        """The parameters to begin with."""
        return np.full(len(self.family.names), _START)

    @property
    def begun(self) -> bool:
        """Whether the family is not yet the one that was asked for."""
        return self.family is not FAMILIES[self.asked]

    def on(self, theta: Array) -> tuple["Light", Array]:
        """Go on from the best power to the family that was asked for."""
        own = FAMILIES[self.asked]
        assert isinstance(own, Monotone)
        near = own.near(self.family, theta)
        return dataclasses.replace(self, family=own, near=near), near

    def lit(self, theta: Array, at: int) -> Callable[[Array], Array] | None:
        """Return what makes light of the values of the image (0) or of the target (1), None where they are light."""
        white = self.scale[at]
        if self.side == ("target", "image")[at]:
            return None
        return lambda values: white * self.family.value(values / white, theta)

    def targets(self, theta: Array) -> Any:
        """Return the light of the target, or of each."""
        change, listed = self.lit(theta, 1), as_list(self.target)
        pairs = zip(listed or [self.target], self.masks if listed else [self.masks], strict=True)
        made = []
        for one, mask in pairs:
            values = np.asarray(one, dtype=np.float64)
            values = values if change is None else change(values)
            made.append(values if mask is None else np.ma.MaskedArray(values, mask))
        return made if listed else made[0]

    def filled(self, model: Model, theta: Array) -> Model:
        """Return the model, the value beyond the edge made light."""
        change = self.lit(theta, 0)
        if self.fill is None or change is None:
            return model
        return dataclasses.replace(model, fillvalue=float(change(np.array(self.fill))))

    def image_changes(self, light: Array, theta: Array) -> list[Array]:
        """Return by how much the light of an image changes with each parameter."""
        if self.side == "target":
            return []
        white = self.scale[0]
        return [white * c for c in self.family.change(self.family.inverse(light / white, theta), theta)]

    def target_changes(self, light: Array, theta: Array) -> list[Array]:
        """Return by how much a target changes with each parameter, its light being what was predicted."""
        if self.side == "image":
            return []
        white = self.scale[1]
        return [white * c for c in self.family.change(self.family.inverse(light / white, theta), theta)]

    def slopes(self, values: Array, theta: Array) -> Array:
        """Return by how much the light of an image changes with its values."""
        return np.ones_like(values) if self.side == "target" else self.family.slope(values / self.scale[0], theta)

    def shown(self, light: Array, theta: Array) -> tuple[Array, Array]:
        """Return the values of a target of some light, and by how much that changes with them."""
        if self.side == "image":
            return light, np.ones_like(light)
        values = self.family.inverse(light / self.scale[1], theta)
        return self.scale[1] * values, self.family.slope(values, theta)

    def near_ends(self, light: Array, noise: Array, theta: Array) -> npt.NDArray[np.bool_]:
        """Return where noise may have taken a target of some light beyond an end at which it was cut off."""
        change, out = self.lit(theta, 1), np.zeros(light.shape, dtype=bool)
        for end, sign in zip(self.ends, (1.0, -1.0), strict=True):
            at = end if end is None or change is None else float(change(np.array(end)))
            out |= False if at is None else sign * (light - at) < _REACH * noise
        return out

    def stepped(self, theta: Array, step: Array) -> Array:
        """Return parameters after a step, no larger than is safe, kept where the curve is one."""
        after = theta + step / max(1.0, float(np.abs(step).max(initial=0.0)) / _LARGEST)
        return np.clip(after, 0.1, 10.0) if self.family.names == ("gamma",) else np.clip(after, -12.0, 12.0)

    def settled(self, step: Array, covariance: Array) -> bool:
        """Say whether a step leaves nothing that matters."""
        stderr = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        return bool((np.abs(step) <= np.maximum(_SETTLED * stderr, _LEAST)).all())

    def believed(self, theta: Array, step: Array, covariance: Array) -> tuple[Array, Array]:
        """Return a step and its covariance, of which the last are those of the curve, with what is believed of it."""
        if self.near is None:
            return step, covariance
        n = len(step) - len(theta)
        belief = np.r_[np.zeros(n), np.full(len(theta), _BELIEVED**-2)]
        precision = np.linalg.pinv(covariance, hermitian=True)
        after = np.asarray(np.linalg.inv(precision + np.diag(belief)), dtype=np.float64)
        return after @ (precision @ step - belief * np.r_[np.zeros(n), theta - self.near]), after

    def kept(self, theta: Array, covariance: Array) -> tuple[Array, Array]:
        """Return the power 1 if that is within the error of what was found, and the variance that its place adds."""
        # Intervals about 1 that were no wider would miss powers two or three standard errors from it too often.
        off = theta - 1.0
        if self.family is not FAMILIES["gamma"] or off @ off > _WITHIN**2 * covariance[0, 0]:
            return theta, np.zeros(len(theta))
        return np.ones(1), off**2

    def found(self, theta: Array, covariance: Array, rounds: int) -> Curve:
        """Return the curve that was found."""
        return Curve(self.asked, self.side, theta, covariance, self.scale, rounds)


def _require_light(value: Any, what: str, name: str) -> None:
    """Refuse values most of which a curve takes for darkness."""
    for one in as_list(value) or [value]:
        share = float(np.mean(np.asarray(one) < 0))
        if share > 0.5:
            raise ValueError(
                f"got {what} with {share:.0%} of its values below 0 and curve={name!r}, need values of light, at least "
                "0; add what was subtracted, or leave curve= out"
            )


def _white(value: Any) -> float:
    """Return the value that is white: the end of an integer type, or one that no value exceeds."""
    arrays = as_list(value) or [value]
    if _whole(value):
        return float(max(np.iinfo(np.asarray(one).dtype).max for one in arrays))
    largest = max(float(np.nanmax(np.abs(np.asarray(one, dtype=np.float64)), initial=0.0)) for one in arrays)
    return next((white for white in (1.0, 255.0, 65535.0) if largest <= white), largest)


def _ends_of(targets: list[Any], hits: list[Any], ends: Any) -> tuple[float | None, float | None]:
    """Return the ends at which targets are cut off, None where they are not."""
    cut = [
        (np.asarray(t), as_ends(ends, np.asarray(t).dtype)) for t, h in zip(targets, hits, strict=True) if h is not None
    ]
    low = max((float(found[0]) for t, found in cut if found and (t <= found[0]).any()), default=None)
    return low, min((float(found[1]) for t, found in cut if found and (t >= found[1]).any()), default=None)


def _whole(value: Any) -> bool:
    return all(np.asarray(one).dtype.kind in "iu" for one in as_list(value) or [value])


def _hit(target: Any, ends: Any) -> Any:
    """Return where a target is saturated, None if nowhere or nearly everywhere."""
    found = as_ends(ends, np.asarray(target).dtype)
    if found is None:
        return None
    hit = (np.asarray(target) <= found[0]) | (np.asarray(target) >= found[1])
    return hit if 0 < float(hit.mean()) < _MOST_HIT else None


def told(estimate: Estimate, curve: Curve) -> Estimate:
    """Return an estimate whose findings know that a curve was looked for."""
    richer = "" if curve.family == "monotone" else "take curve='monotone', or "
    beside = f"beside the curve that curve={curve.family!r} found"
    remedy = f"{richer}leave out what is clipped (saturated=(low, high)); a median or a threshold is no kernel at all"
    findings = [
        dataclasses.replace(f, detail=f"{beside}, {f.detail}", remedy=remedy) if f.verdict is Verdict.NONLINEAR else f
        for f in estimate.findings
    ]
    return dataclasses.replace(estimate, findings=tuple(findings))
