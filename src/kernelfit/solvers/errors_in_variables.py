"""Noise in the image itself: how much of it is in the Gram matrix, and taking it off again."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.linalg

from ..core import geometry
from ..core.estimate import Estimate, with_finding
from ..core.findings import Finding, Verdict
from ..core.geometry import Geometry
from ..core.normal_equations import NormalEquations
from .least_squares import least_squares, residual_at

Array = npt.NDArray[np.float64]
#: However much noise there is said to be, this share of the Gram matrix stays in every direction, ...
_LEAST = 0.1
#: ... or this many times the spread of the eigenvalues of a Gram matrix of nothing but noise, sqrt(taps / pixels).
_SPREAD = 4.0


def counts_of(plan: Geometry, counted: npt.NDArray[np.bool_] | None = None) -> Array:
    """Return how often two taps multiply the same noisy pixel: the Gram matrix of white noise of variance 1.

    It is n on the diagonal where the taps of one footprint lie on different pixels of the image. Beyond the edge they
    may not: a mirrored or repeated pixel brings its noise along, a fill value has none.

    Parameters
    ----------
    plan : Geometry
        The geometry of one source image.
    counted : ndarray of bool, shape (rows, cols) of the used target, optional
        Which target pixels count, by default all.

    Returns
    -------
    ndarray, shape (taps, taps)
        In the order of the user's taps. If all pixels count, a Kronecker product, since a pixel is a row and a column.
    """
    axes = []  # for each the pairs of taps and the target's rows, or columns, in which they multiply the same one
    along = zip(plan.image_shape, plan.extended_shape, plan.kernel_shape, plan.before, plan.stride, strict=True)
    for n, extent, side, before, every in along:
        at = np.full(extent, -1)
        for to, start, length, step in geometry.axis_runs(-before, extent - before, n, plan.convention.boundary):
            if start is not None:
                at[to : to + length] = start + step * np.arange(length)
        seen = np.lib.stride_tricks.sliding_window_view(at, extent - side + 1)[:, ::every]  # (taps, pixels)
        seen = seen[::-1] if plan.flipped else seen
        axes.append((seen[:, None] == seen) & (seen >= 0))
    if counted is None:
        return np.kron(*(axis.sum(axis=2, dtype=np.float64) for axis in axes))
    (n_y, n_x), (rows, cols) = plan.kernel_shape, axes
    table = np.zeros((n_y, n_y, n_x, n_x))
    some = rows.any(axis=2)
    table[some] = np.tensordot(rows[some].astype(np.float64) @ counted, cols.astype(np.float64), (1, 2))
    return np.ascontiguousarray(table.swapaxes(1, 2)).reshape(n_y * n_x, -1)


def take_off(
    stats: NormalEquations, std: float | Sequence[float], counts: Array | None = None
) -> tuple[NormalEquations, float]:
    """Return the statistics less what the noise of the image adds to the Gram matrix, and the share of it taken off.

    The statistics come back centred at their own solution, with the residual that the pixels have there: the noise
    that a solver then sees is that of an equation, ``e - (image noise) * kernel``.
    """
    stds = np.asarray(std, dtype=np.float64)
    if stds.shape not in ((), (len(stats.terms),)) or not (np.isfinite(stds).all() and (stds >= 0).all()):
        msg = f"got std={std!r}, need a finite number of at least 0, or one for each of {len(stats.terms)} terms"
        raise ValueError(msg)
    sizes = [rows * cols for rows, cols in stats.terms]
    scale = np.repeat(np.broadcast_to(stds, (len(sizes),)), sizes)
    if not scale.any():
        return stats, 1.0
    noise = np.diag(stats.n_pixels * scale**2) if counts is None else counts * np.multiply.outer(scale, scale)
    found = least_squares(stats)
    share = 0.0
    if found.full:
        most = float(scipy.linalg.eigvalsh(found.inverse.T @ noise @ found.inverse)[-1])
        kept = min(0.9, max(_LEAST, _SPREAD * float(np.sqrt(stats.n_taps / stats.n_pixels))))
        share = min(1.0, (1.0 - kept) / most) if most > 0 else 1.0
    if share == 0.0:
        return stats, share
    center, moment, _ = stats.around()
    gram = stats.gram - share * noise
    moment = moment + share * (noise @ center)
    step = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram, lower=True), moment)
    changed = dataclasses.replace(stats, gram=gram)
    return changed.centered(center + step, moment - gram @ step, residual_at(stats, center + step)[1]), share


def finish(fit: Estimate, std: float, share: float) -> Estimate:
    """Return a fit that says what was taken off, and whether it was all."""
    finding = None
    if share < 1.0:
        text = f"{share:.2g} of the variance {std**2:.4g} of the image's noise was taken off"
        finding = Finding(Verdict.IMAGE_NOISE, text)
    return dataclasses.replace(with_finding(fit, finding), image_noise=math.sqrt(share) * std)


def pairs_of(counted: npt.NDArray[np.bool_], plan: Geometry) -> Array:
    """Return how many pairs of target pixels that count lie (i, j) apart, (0, 0) in the middle, as taps may."""
    reach = [(k - 1) // s for k, s in zip(plan.kernel_shape, plan.stride, strict=True)]
    size = [scipy.fft.next_fast_len(n + r, real=True) for n, r in zip(counted.shape, reach, strict=True)]
    found = scipy.fft.rfft2(counted.astype(np.float64), size)
    both = scipy.fft.irfft2(found * np.conj(found), size)
    return np.asarray(np.rint(both[np.ix_(*(np.arange(-r, r + 1) for r in reach))]))


def shared(fit: Estimate, std: float, pairs: Array | None = None) -> Array:
    """Return what the moments' covariance gains because the image's noise is in both their factors.

    With image noise N and ``v = e - N k`` the moments ``(A + N)'v + n s^2 k`` have, for normal noise, the covariance
    ``A' cov(v) A + n s^2 var(v)`` plus ``s^4 sum_d n(d) k[p + d] k[q - d]`` over d that are whole strides, which is
    this: products of two noises of the image. Of pairs of target pixels that far apart there are n(d), which are
    `pairs`, or all of them nearly as many as there are pixels.
    """
    kernel, found = fit.kernel, np.zeros((*fit.kernel.shape, *fit.kernel.shape))
    reach = [(n - 1) // s for n, s in zip(kernel.shape, fit.convention.stride, strict=True)]
    for i in range(-reach[0], reach[0] + 1):
        for j in range(-reach[1], reach[1] + 1):
            n = fit.n_pixels if pairs is None else pairs[reach[0] + i, reach[1] + j]
            apart = [d * s for d, s in zip((i, j), fit.convention.stride, strict=True)]
            # p + d, and q - d, must be taps
            here = tuple(slice(max(0, -d), side - max(0, d)) for d, side in zip(apart, kernel.shape, strict=True))
            there = tuple(slice(max(0, d), side + min(0, d)) for d, side in zip(apart, kernel.shape, strict=True))
            found[here + there] += np.multiply.outer(n * kernel[there], kernel[here])
    return std**4 * found.reshape(kernel.size, -1)
