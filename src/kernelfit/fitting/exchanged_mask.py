"""A mask that seems to mean the opposite: what it excludes fits well, and what it leaves does not."""

import dataclasses
from collections.abc import Callable, Sequence

from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict, ranked
from ..data.masking import Judged
from ..data.plan import FitPlan

#: Below such an R squared the pixels that a mask excludes are looked at; they speak against it if their residual, as a
#: share of the target, is smaller by such a factor.
_DOUBTFUL, _SMALLER = 0.8, 0.2


def against_the_excluded(
    plan: FitPlan, group: int, target: int, estimate: Estimate, refit: Callable[[Sequence[Judged]], Estimate]
) -> Estimate:
    """Return a doubtful estimate of a target with what the pixels say that a mask, or weights of zero, exclude."""
    if estimate.r_squared > _DOUBTFUL:
        return estimate
    left = 1 - estimate.r_squared if estimate.r_squared < 1 else 1.0  # NaN of a constant target
    for judged, name in plan.exchanged(group, target):
        if sum(j.item.n_pixels for j in judged) < 2 * estimate.kernel.size:
            continue
        other = refit(judged).r_squared
        if 1 - other < _SMALLER * left:
            detail = (
                f"R squared is {estimate.r_squared:.2g} on the pixels that count, and {other:.3g} on those that {name} "
                "excludes: it may mean the opposite (True, or a weight of 0, excludes a pixel)"
            )
            findings = [f for f in estimate.findings if f.verdict is not Verdict.POOR_FIT]
            return dataclasses.replace(estimate, findings=ranked((*findings, Finding(Verdict.POOR_FIT, detail))))
    return estimate
