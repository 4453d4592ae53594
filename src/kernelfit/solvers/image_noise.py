"""Noise in the image itself: how much of it is in the Gram matrix, and taking it off again."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .. import geometry
from ..checks.sandwich import with_finding
from ..geometry import Geometry
from ..result import KernelFit
from ..statistics import NormalStats
from ..verdict import Finding, Verdict
from .solve import least_squares, residual_at

Array = npt.NDArray[np.float64]

#: However much noise there is said to be, this share of the Gram matrix stays in every direction, ...
_LEAST = 0.1
#: ... or this many times the spread of the eigenvalues of a Gram matrix of nothing but noise, sqrt(taps / pixels).
_SPREAD = 4.0


def counts_of(plan: Geometry) -> Array:
    """Return how often two taps multiply the same noisy pixel: the Gram matrix of white noise of variance 1.

    It is n on the diagonal where the taps of one footprint lie on different pixels of the image. Beyond the edge they
    may not: a mirrored or repeated pixel brings its noise along, a fill value has none.

    Parameters
    ----------
    plan : Geometry
        The geometry of one source image.

    Returns
    -------
    ndarray, shape (taps, taps)
        In the order of the user's taps. It is a Kronecker product, since a pixel is a row and a column.
    """
    axes = []
    along = zip(plan.image_shape, plan.extended_shape, plan.kernel_shape, plan.before, plan.stride, strict=True)
    for n, extent, side, before, every in along:
        at = np.full(extent, -1)
        for to, start, length, step in geometry.axis_runs(-before, extent - before, n, plan.convention.boundary):
            if start is not None:
                at[to : to + length] = start + step * np.arange(length)
        seen = np.lib.stride_tricks.sliding_window_view(at, extent - side + 1)[:, ::every]  # (taps, pixels)
        axis = np.array([[np.count_nonzero((p == q) & (p >= 0)) for q in seen] for p in seen], dtype=np.float64)
        axes.append(axis[::-1, ::-1] if plan.flipped else axis)
    return np.asarray(np.kron(*axes))


def take_off(
    stats: NormalStats, std: float | Sequence[float], counts: Array | None = None
) -> tuple[NormalStats, float]:
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


def finish(fit: KernelFit, std: float, share: float) -> KernelFit:
    """Return a fit that says what was taken off, and whether it was all."""
    finding = None
    if share < 1.0:
        text = f"{share:.2g} of the variance {std**2:.4g} of the image's noise was taken off"
        finding = Finding(Verdict.IMAGE_NOISE, text)
    return dataclasses.replace(with_finding(fit, finding), image_noise=math.sqrt(share) * std)


def shared(fit: KernelFit, std: float) -> Array:
    """Return what the moments' covariance gains because the image's noise is in both their factors.

    With image noise N and ``v = e - N k`` the moments ``(A + N)'v + n s^2 k`` have, for normal noise, the covariance
    ``A' cov(v) A + n s^2 var(v)`` plus ``n s^4 sum_d k[p + d] k[q - d]`` over d that are whole strides, which is this:
    products of two noises of the image. Of taps on two phases of the image that is the convolution of their kernels.
    """
    import scipy.signal  # a second of importing that only this needs

    down, across = fit.convention.stride
    y, x = np.divmod(np.arange(fit.kernel.size), fit.kernel.shape[1])
    phase = y % down * across + x % across
    found = np.empty((fit.kernel.size,) * 2)
    for one, other in itertools.product(np.unique(phase), repeat=2):
        parts = [fit.kernel[p // across :: down, p % across :: across] for p in (one, other)]
        mine, theirs = np.flatnonzero(phase == one), np.flatnonzero(phase == other)
        at = (np.add.outer(i[mine] // s, i[theirs] // s) for i, s in ((y, down), (x, across)))
        found[np.ix_(mine, theirs)] = scipy.signal.convolve(*parts)[tuple(at)]
    return fit.n_pixels * std**4 * found
