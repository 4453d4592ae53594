"""The noise of a difference of two exposures, one of them convolved: its levels, and the kernel that makes it white.

Of ``D = y - k * x`` the noise has the spectrum ``s_y^2 + s_x^2 |K|^2``, s the standard deviations of white noise.
"""

import numpy as np
import numpy.typing as npt
import scipy  # whose parts are imported when first used: some take a second
import scipy.fft

from ..core.validation import Array

#: Share of its energy that the cut of a decorrelation kernel may leave out; its largest side, in the kernel's,
#: or half of it at least.
_CUT, _WIDEST, _LEAST = 1e-8, 3, 15
#: Side of the part of a difference whose correlation is looked at.
_PART = 1024


def decorrelation_kernels(kernels: Array, ratio: float) -> Array:
    """Return the kernels (places, side, side), symmetric and of sum 1, that make a difference's noise white."""
    # Their spectrum is ``sqrt((1 + r K(0)^2) / (1 + r |K|^2))``, so that they keep the flux of a source; r, `ratio`, is
    # the variance of a pixel of the image that was convolved over that of the other one. D. Reiss and R. Lupton,
    # "Implementation of Image Difference Decorrelation", LSST DMTN-021 (2016), section 2.1, after N. Kaiser (2004) and
    # B. Zackay, E. Ofek and A. Gal-Yam, ApJ 830 (2016) 27, doi:10.3847/0004-637X/830/1/27.
    side = max(kernels.shape[1:])
    half = max(_LEAST, (_WIDEST * side) // 2)
    n = int(scipy.fft.next_fast_len(8 * max(side, half), real=True))
    power = np.abs(scipy.fft.rfft2(kernels, (n, n))) ** 2
    spectra = np.sqrt((1 + ratio * power[:, :1, :1]) / (1 + ratio * power))
    whole = scipy.fft.irfft2(spectra, (n, n))
    ring = np.minimum(np.arange(n), n - np.arange(n))
    distance = np.maximum.outer(ring, ring)
    energy = np.array([float((whole**2)[:, distance == at].sum()) for at in range(half + 1)])
    beyond = float((whole**2).sum()) - np.cumsum(energy)
    half = min(half, int(np.argmax(beyond <= _CUT * energy.sum())) or half)
    at = np.arange(-half, half + 1)
    cut = whole[:, at[:, None], at]
    return np.asarray(cut / cut.sum(axis=(1, 2), keepdims=True))


def autocorrelations(kernels: Array) -> Array:
    """Return the correlation of each kernel with itself, shape (places, 2 rows - 1, 2 cols - 1)."""
    return np.stack([scipy.signal.correlate(k, k, mode="full") for k in kernels])


def autocovariance(difference: Array, counts: npt.NDArray[np.bool_], reach: tuple[int, int]) -> Array:
    """Return the mean product of pixels that count, by lag, up to `reach` along either axis; lag 0 in the middle."""
    corner = [max(0, (n - _PART) // 2) for n in difference.shape]
    part = tuple(slice(c, c + _PART) for c in corner)
    used = counts[part]
    values = np.where(used, difference[part], 0.0)
    size = [scipy.fft.next_fast_len(n + r, real=True) for n, r in zip(values.shape, reach, strict=True)]
    sums = [
        scipy.fft.irfft2(np.abs(scipy.fft.rfft2(one, size)) ** 2, size) for one in (values, used.astype(np.float64))
    ]
    rows, cols = (np.arange(-r, r + 1) for r in reach)
    at = np.ix_(rows, cols)
    return np.asarray(sums[0][at] / np.maximum(sums[1][at], 1.0))


def noise_levels(covariance: Array, kernel_correlation: Array, known: tuple[float | None, float | None]) -> Array:
    """Return the variances of a pixel of the other exposure and of the one that was convolved."""
    # The covariance of the difference at a lag is ``s_y^2 delta + s_x^2 (k correlated with k)``. What is not `known` is
    # found from it by least squares, not below 0, and scaled so that the variance at lag 0 comes out.
    spike = np.zeros_like(covariance)
    middle = tuple(n // 2 for n in covariance.shape)
    spike[middle] = 1.0
    parts = np.stack([spike.ravel(), kernel_correlation.ravel()], axis=1)
    levels = np.array([0.0 if one is None else one for one in known])
    free = [at for at, one in enumerate(known) if one is None]
    if not free:
        return levels
    rest = covariance.ravel() - parts @ levels
    levels[free], _ = scipy.optimize.nnls(parts[:, free], rest)
    variance, own = float(rest.reshape(covariance.shape)[middle]), parts.reshape(*covariance.shape, 2)[middle]
    explained = float(own[free] @ levels[free])
    if variance > 0 and explained > 0:
        levels[free] *= variance / explained
    elif variance > 0 and own[free[0]] > 0:
        levels[free[0]] = variance / float(own[free[0]])
    return levels
