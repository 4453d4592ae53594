"""The covariance of a kernel when the noise is not what the solver took it for: algebra, no pixels."""

import dataclasses
import math

import numpy as np
import scipy.linalg

from ..core.estimate import Estimate
from ..core.validation import Array


def inverse_of(fit: Estimate) -> Array:
    """Return ``C / s^2`` of a fit as its solver returned it: what makes the kernel of the moments."""
    assert fit.factor is not None
    factor = fit.factor[:, : fit.factor.shape[1] - fit.unsettled] / fit.noise_std
    return np.asarray(factor @ factor.T)


def with_scores(fit: Estimate, gram: Array, scores: Array) -> Estimate:
    """Return a fit with the covariance it has if that of the moments ``A'v`` is `scores`, M, and not ``s^2 A'A``."""
    # A solver's covariance C belongs to white noise of variance s^2. The estimate is ``k = C A'y / s^2``, so that its
    # own is ``C M C / s^4``; under a prior what that adds, ``C - C G C / s^2``, stays, G being what the solver was
    # given.
    s = fit.noise_std
    if fit.factor is None or fit.factor.shape[1] == 0 or not (math.isfinite(s) and s > 0):
        return fit
    settled = fit.factor.shape[1] - fit.unsettled
    f, rest = fit.factor[:, :settled] / s, fit.factor[:, settled:]
    middle = f.T @ (scores / s**2) @ f
    if fit.uncertainty == "posterior":
        middle += np.eye(settled) - f.T @ gram @ f
    values, vectors = scipy.linalg.eigh(0.5 * (middle + middle.T))
    changed = fit.factor[:, :settled] @ (vectors * np.sqrt(np.maximum(values, 0.0)))
    return dataclasses.replace(fit, root=np.hstack([changed, rest]), root_scale=1.0, least_squares=None)
