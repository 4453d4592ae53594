"""Whether what is left of bright places hangs together, where a kernel varies over the field.

A kernel that varies by more than its functions of the place can follow is off by a little almost everywhere. That
shows at the brightest stars alone, in patterns as wide as the kernel, of either sign: no sum over parts of the field
holds much of it, and noise may be louder there anyway. But noise, however loud, does not follow from one pixel to the
next, but for as much as it does everywhere.
"""

import math

import numpy as np
import numpy.typing as npt

from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict
from ..core.validation import Array

_LAGS = ((0, 1), (1, 0), (1, 1), (1, -1))
#: Standard deviations beyond chance that count, and the correlation.
_SURE, _MATTERS = 4.5, 0.05


def sums_of(left: Array, targets: Array, known: npt.NDArray[np.bool_], root: Array | None) -> Array:
    """Return three sums over neighbours in tiles: of products, of their squares, of as much as they could be."""
    weight = np.where(known, 1.0 if root is None else root, 0.0)
    model, left = np.where(known, targets - left, 0.0), np.where(known, left, 0.0)
    model = model - weight * (float(np.sum(weight * model)) / max(float(np.sum(weight**2)), 1e-300))
    reach = model**2
    bright = reach > float(np.sum(reach**2)) / max(float(reach.sum()), 1e-300)
    found, (rows, cols) = np.zeros(3), left.shape[1:]
    for down, across in _LAGS:
        first = np.s_[:, : rows - down, max(0, -across) : cols - max(0, across)]
        second = np.s_[:, down:, max(0, across) : cols + min(0, across)]
        both = (known[first] & known[second]).astype(np.float64)
        product = left[first] * left[second]
        size = 0.5 * both * (left[first] ** 2 + left[second] ** 2)
        usual = ~(bright[first] | bright[second])  # by as much noise may be correlated
        share = float(product.sum(where=usual)) / max(float(size.sum(where=usual)), 1e-300)
        pull = model[first] * model[second]
        beyond = (product - share * size) * pull
        found += [float(beyond.sum()), float(np.sum(beyond**2)), float(np.sum(size * np.abs(pull)))]
    return found


def told(fit: Estimate, sums: Array) -> Finding | None:
    """Return what such sums say of a fit whose kernel varies."""
    field = fit.convention.field
    if field is None or not sums[0] > _SURE * math.sqrt(sums[1]) or not sums[0] > _MATTERS * sums[2]:
        return None
    detail = (
        f"beside the {field.variation}, what is left of bright places hangs together: neighbours have a correlation of "
        f"{sums[0] / sums[2]:.2g} beyond that of the noise, {sums[0] / math.sqrt(sums[1]):.2g} times what chance makes"
    )
    degree = getattr(field.variation, "degree", None)
    more = "more functions of the place" if degree is None else f"a higher degree (variation={degree + 2})"
    remedy = f"the errors of the coefficients do not know of what the functions of the place leave out: take {more}"
    return Finding(Verdict.VARYING, detail, remedy)
