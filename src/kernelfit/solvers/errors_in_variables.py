"""Noise in the image itself: how much of it is in the Gram matrix, and taking it off again."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.linalg

from ..core import geometry
from ..core.background import Columns
from ..core.complex_numbers import joined
from ..core.estimate import Estimate, sides_of, with_finding
from ..core.findings import Finding, Verdict
from ..core.geometry import Geometry
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from .least_squares import least_squares, residual_at

#: A function of the row, and one of the column.
_Function = tuple[Array | float, Array | float]
#: However much noise there is said to be, this share of the Gram matrix stays in every direction, ...
_LEAST = 0.1
#: ... or this many times the spread of the eigenvalues of a Gram matrix of nothing but noise, sqrt(taps / pixels).
_SPREAD = 4.0
#: Numbers held at a time where the edges are folded back.
_ROOM = 2**22


def counts_of(plan: Geometry, weights: npt.NDArray[Any] | None = None) -> Array:
    """Return how often two taps multiply the same noisy pixel: the Gram matrix of white noise of variance 1."""
    # It is n on the diagonal where the taps of one footprint lie on different pixels of the image. Beyond the edge they
    # may not: a mirrored or repeated pixel brings its noise along, a fill value has none.
    # `plan`: the geometry of one source image. `weights` (rows, cols) of the used target: how much each target pixel
    # counts, by default once. Returns shape (taps, taps), in the order of the user's taps; of a kernel that varies over
    # the image those of all functions of the place. If all pixels count once, a sum of Kronecker products, since a
    # pixel is a row and a column.
    axes, seen_by = [], []  # for each the pairs of taps and the target's rows, or columns, that multiply the same one
    for seen in _pixels_of(plan):
        seen = seen[::-1] if plan.flipped else seen
        axes.append((seen[:, None] == seen) & (seen >= 0))
        seen_by.append(seen)

    def between(first: _Function, second: _Function) -> Array:
        scaled = [
            axis * np.asarray(a * b)[seen] if np.ndim(a * b) else axis
            for axis, seen, a, b in zip(axes, seen_by, first, second, strict=True)
        ]
        if weights is None:
            return np.kron(*(axis.sum(axis=2, dtype=np.float64) for axis in scaled))
        (n_y, n_x), (rows, cols) = plan.kernel_shape, scaled
        table = np.zeros((n_y, n_y, n_x, n_x))
        some = axes[0].any(axis=2)
        table[some] = np.tensordot(rows[some].astype(np.float64) @ weights, cols.astype(np.float64), (1, 2))
        return np.ascontiguousarray(table.swapaxes(1, 2)).reshape(n_y * n_x, -1)

    return _of_functions(plan, between)


def _of_functions(plan: Geometry, between: Callable[[_Function, _Function], Array]) -> Array:
    """Return a matrix of blocks, each that of two functions by which a kernel varies, or sums of such."""
    field = plan.convention.field
    each: list[Sequence[_Function]] = [[(1.0, 1.0)]]
    if field is not None:
        each = [[(1.0, 1.0)] if one is None else one.products() for one in field.weights]
    blocks = [[np.add.reduce([between(a, b) for a in one for b in other]) for other in each] for one in each]
    return np.asarray(blocks[0][0] if len(blocks) == 1 else np.block(blocks))


def _places(plan: Geometry) -> list[npt.NDArray[np.int64]]:
    """Return for each axis the row, or column, of the image at each extended position, -1 for a fill value."""
    places = []
    for n, extent, before in zip(plan.image_shape, plan.extended_shape, plan.before, strict=True):
        at = np.full(extent, -1)
        for to, start, length, step in geometry.axis_runs(-before, extent - before, n, plan.convention.boundary):
            if start is not None:
                at[to : to + length] = start + step * np.arange(length)
        places.append(at)
    return places


def _pixels_of(plan: Geometry) -> list[npt.NDArray[np.int64]]:
    """Return for each axis which row, or column, each tap of the valid problem multiplies: shape (taps, pixels)."""
    axes = zip(_places(plan), plan.kernel_shape, plan.stride, strict=True)
    view = np.lib.stride_tricks.sliding_window_view
    return [view(at, len(at) - side + 1)[:, ::every] for at, side, every in axes]


def projected_of(plan: Geometry, columns: Columns, root: Array, weights: npt.NDArray[Any] | None = None) -> Array:
    """Return what `counts_of` loses with a background: the share of the noise that looks like the surface."""
    # Of white noise N of variance 1 the elimination leaves ``N'WN - N'H N`` with ``H = W Phi (Phi'W Phi)^-1 Phi'W``.
    # The expectation of the last sums, over pairs of target pixels t and t' in which the taps p and q multiply the same
    # pixel, ``H[t, t']``: for each column u of ``W Phi R`` the product of two images, u laid back on the image by
    # either tap. `columns`: Phi. `root` (terms, rank): R, with ``R R'`` the inverse of ``Phi'W Phi``.
    n_taps = plan.n_taps
    total = np.zeros((n_taps, n_taps))
    # all is a product of rows and columns; of weights the mean counts
    if weights is None or plan.convention.field is not None:
        laid_on = laid_back(plan, columns)
        mean = 1.0 if weights is None else float(np.mean(weights, dtype=np.float64))
        shares = mean**2 * (root @ root.T)

        def between(first: _Function, second: _Function) -> Array:
            total = np.zeros((n_taps, n_taps))
            tables = [
                np.einsum("ipz,jqz->ijpq", laid, laid * (a * b), optimize=True)
                for laid, a, b in zip(laid_on, first, second, strict=True)
            ]
            for (i, j), one in zip(columns.powers, shares, strict=True):
                for (k, m), share in zip(columns.powers, one, strict=True):
                    total += share * np.kron(tables[0][i, k], tables[1][j, m])
            return total

        return _of_functions(plan, between)
    else:
        for mixture in root.T:
            image = columns.surface(mixture, slice(None), slice(None)) * weights
            total += _toeplitz(image, plan) + _folded(image, plan)
    return total[::-1, ::-1] if plan.flipped else total


def laid_back(plan: Geometry, columns: Columns) -> list[Array]:
    """Return for each axis its polynomials laid back on the image by each tap: shape (polynomials, taps, pixels)."""
    both = zip(_pixels_of(plan), plan.image_shape, (columns.down, columns.across), strict=True)
    found = [laid_by(seen, n, basis) for seen, n, basis in both]
    return [laid[:, ::-1] for laid in found] if plan.flipped else found


def laid_by(seen: npt.NDArray[np.int64], n: int, basis: Array) -> Array:
    """Return the columns of a basis laid back on n pixels, of which each tap has `seen` one, or none (-1)."""
    laid = np.zeros((basis.shape[1], len(seen), n))
    for p, at in enumerate(seen):
        for i, values in enumerate(basis[at >= 0].T):
            laid[i, p] = np.bincount(at[at >= 0], values, n)
    return laid


def _toeplitz(image: Array, plan: Geometry) -> Array:
    """Return the products of an image, laid back by each tap, as if no two extended positions were the same pixel."""
    (n_y, n_x), (down, across) = plan.kernel_shape, plan.stride
    lags, pairs = np.zeros((2 * n_y - 1, 2 * n_x - 1)), pairs_of(image, plan)
    first = [k - 1 - s * ((k - 1) // s) for k, s in zip(plan.kernel_shape, plan.stride, strict=True)]
    lags[first[0] :: down, first[1] :: across][: pairs.shape[0], : pairs.shape[1]] = pairs
    y, x = np.divmod(np.arange(n_y * n_x), n_x)
    return np.asarray(lags[y - y[:, None] + n_y - 1, x - x[:, None] + n_x - 1])


def _folded(image: Array, plan: Geometry) -> Array:
    """Return what is to be added to `_toeplitz` for positions that are the same pixel, or none."""
    places, (n_y, n_x), total = _places(plan), plan.kernel_shape, np.zeros((plan.n_taps,) * 2)
    single = []
    for at, n in zip(places, plan.image_shape, strict=True):
        counts = np.bincount(at[at >= 0], minlength=n)
        single.append((at >= 0) & (counts[at] == 1))
    rows, cols = np.nonzero(~np.logical_and.outer(*single))
    if not len(rows):
        return total
    beyond = (places[0][rows] < 0) | (places[1][cols] < 0)
    pixel = np.where(beyond, -1, places[0][rows] * plan.image_shape[1] + places[1][cols])
    order = np.argsort(pixel, kind="stable")
    rows, cols, pixel = rows[order], cols[order], pixel[order]
    (height, width), (down, across) = image.shape, plan.stride
    wide = np.zeros((down * (height - 1) + 2 * n_y - 1, across * (width - 1) + 2 * n_x - 1))
    wide[n_y - 1 : wide.shape[0] - n_y + 1 : down, n_x - 1 : wide.shape[1] - n_x + 1 : across] = image
    y, x = np.divmod(np.arange(plan.n_taps), n_x)
    starts = np.flatnonzero((np.diff(pixel, prepend=-2) != 0) | (pixel < 0))  # the positions of each pixel
    step = max(1, _ROOM // plan.n_taps)
    cuts = np.append(starts[np.unique(np.searchsorted(starts, np.arange(0, starts[-1] + 1, step)))], len(pixel))
    for first, last in itertools.pairwise(cuts):
        laid = wide[rows[first:last] - y[:, None] + n_y - 1, cols[first:last] - x[:, None] + n_x - 1]
        total -= laid @ laid.T
        own = starts[(starts >= first) & (starts < last)]
        sums = np.add.reduceat(laid, own - first, axis=1)[:, pixel[own] >= 0]
        total += sums @ sums.T
    return total


def take_off(
    stats: NormalEquations, std: float | Sequence[float], counts: Array | None = None, shift: Array | None = None
) -> tuple[NormalEquations, float]:
    """Return the statistics less what the image's noise adds to the Gram matrix, and the share of it taken off."""
    # The same share of `shift` is added to the moments. They come back centred at their own solution, with the residual
    # that the pixels have there: the noise that a solver sees is that of an equation, ``e - (image noise) * kernel``.
    stds = np.asarray(std, dtype=np.float64)
    if stds.shape not in ((), (len(stats.supports),)) or not (np.isfinite(stds).all() and (stds >= 0).all()):
        msg = f"got std={std!r}, need a finite number of at least 0, or one for each of {len(stats.supports)} terms"
        raise ValueError(msg)
    sizes = [math.prod(sides) for sides in stats.supports]
    scale = np.repeat(np.broadcast_to(stds, (len(sizes),)), sizes)
    if not scale.any():
        return stats, 1.0
    if counts is None:
        field = stats.convention.field
        counts = stats.n_pixels * np.eye(len(scale))
        if field is not None:  # the mean products of the functions of the place
            (values, shares), images = field.sample(), np.eye(len(sizes) // field.n)
            means = (values * shares) @ values.T
            counts = stats.n_pixels * np.kron(np.kron(images, means), np.eye(sizes[0]))
    noise = counts * np.multiply.outer(scale, scale)
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
    moment = moment + share * (noise @ center + (0.0 if shift is None else shift))
    step = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram, lower=True), moment)
    changed = dataclasses.replace(stats, gram=gram)
    return changed.centered(center + step, moment - gram @ step, residual_at(stats, center + step)[1]), share


def at_the_pixels(fit: Estimate, observed: NormalEquations) -> Estimate:
    """Return a fit of corrected statistics with the `observed` residual; a prior keeps its own noise."""
    rss = residual_at(observed, fit.kernel.ravel())[1]
    if not (rss > 0 and fit.rss > 0):
        return fit
    larger = 1.0 if fit.priors else math.sqrt(rss / fit.rss)
    return dataclasses.replace(
        fit,
        rss=rss,
        r_squared=1.0 - (1.0 - fit.r_squared) * rss / fit.rss,
        noise_std=fit.noise_std * larger,
        root_scale=fit.root_scale * larger,
    )


def slow_variance(fit: Estimate) -> float:
    """Return how many times larger noise behind a kernel is at frequency zero: taps of a phase add up."""
    stride, total = fit.convention.stride, 0.0
    for share, _, kernels in _kernels(fit):
        phases = itertools.product(*map(range, stride))
        parts = (kernels[(slice(None), *(slice(a, None, s) for a, s in zip(p, stride, strict=True)))] for p in phases)
        sums = [part.reshape(len(part), -1).sum(axis=1) for part in parts]
        total += share * float(np.sum(np.square(sums)) - np.sum(kernels**2))
    return total


def _kernels(fit: Estimate) -> list[tuple[float, Array, Array]]:
    """Return for places over the field their share, functions, and kernels; one place if it does not vary."""
    sides = sides_of(fit)
    kernels, field = fit.kernel.reshape(-1, *sides), fit.convention.field
    if field is None:
        return [(1.0, np.ones(1), kernels)]
    each, (functions, shares) = kernels.reshape(-1, field.n, *kernels.shape[1:]), field.sample()
    places = zip(shares, functions.T, strict=True)
    return [(float(share), values, np.einsum("ifrc,f->irc", each, values)) for share, values in places]


def finish(fit: Estimate, std: float, share: float) -> Estimate:
    """Return a fit that says what was taken off, and whether it was all."""
    finding = None
    if share < 1.0:
        text = f"{share:.2g} of the variance {std**2:.4g} of the image's noise was taken off"
        finding = Finding(Verdict.IMAGE_NOISE, text)
    return dataclasses.replace(with_finding(fit, finding), image_noise=math.sqrt(share) * std)


def pairs_of(weights: npt.NDArray[Any], plan: Geometry) -> Array:
    """Return the sums of products of two weights (i, j) apart, (0, 0) in the middle; of masks, pairs of pixels."""
    return pairs_within(weights, plan.kernel_shape, plan.stride)


def pairs_within(weights: npt.NDArray[Any], kernel: Sequence[int], stride: Sequence[int]) -> Array:
    """Return the same for a kernel of some sides, along any number of axes."""
    reach = [(k - 1) // s for k, s in zip(kernel, stride, strict=True)]
    size = [scipy.fft.next_fast_len(n + r, real=True) for n, r in zip(weights.shape, reach, strict=True)]
    found = scipy.fft.rfftn(weights.astype(np.float64), size)
    both = scipy.fft.irfftn(found * np.conj(found), size)
    near = np.asarray(both[np.ix_(*(np.arange(-r, r + 1) for r in reach))])
    return np.rint(near) if weights.dtype == np.bool_ else near


def shared(fit: Estimate, std: float, pairs: Array | None = None) -> Array:
    """Return what the moments' covariance gains because the image's noise is in both their factors."""
    # With image noise N and ``v = e - N k`` the moments ``(A + N)'v + n s^2 k`` have, for normal noise, the covariance
    # ``A' cov(v) A + n s^2 var(v)`` plus ``s^4 sum_d n(d) k[p + d] k[q - d]`` over d that are whole strides, which is
    # this. Of pairs of target pixels that far apart there are n(d), which are `pairs`, or all of them nearly as many as
    # there are pixels. Of complex images with circular noise, `std` being that of either part, ``E N N`` is zero: the
    # moments ``m = sum conj(A + N) v`` gain nothing in ``E m conj(m')``, and that sum, of complex taps, in ``E m m'``.
    if fit.convention.apart:
        return _shared_by_parts(fit, std, pairs)
    total = np.zeros((fit.kernel.size,) * 2)
    for share, values, kernels in _kernels(fit):
        n_images, n_taps = len(kernels), math.prod(kernels.shape[1:])
        found = _shared(fit, kernels, pairs).reshape(n_images, n_taps, n_images, n_taps)
        wide = np.einsum("ipjq,f,g->ifpjgq", found, values, values)
        total += share * wide.reshape(total.shape)
    return std**4 * total


def _shared_by_parts(fit: Estimate, std: float, pairs: Array | None) -> Array:
    """Return what the moments' covariance gains of circular noise, that of the real parts before the others."""
    kernels: Any = fit.kernel.reshape(-1, *sides_of(fit))
    if fit.convention.numbers == "complex":
        kernels = joined(kernels)
    # n(d) counts both parts of a pixel, and s^4 is (2 std^2)^2; half of E m m' is in the covariance of the parts
    both = _shared(fit, kernels, pairs) * (0.5 * 0.5 * (2 * std**2) ** 2)
    if fit.convention.numbers != "complex":
        return np.asarray(both)
    return np.block([[both.real, both.imag], [both.imag, -both.real]])


def _shared(fit: Estimate, kernels: Array, pairs: Array | None) -> Array:
    """Return ``sum_d n(d) k[p + d] k[q - d]`` for the kernels of each image."""
    found = np.zeros((*kernels.shape, *kernels.shape), dtype=kernels.dtype)
    reach = [(n - 1) // s for n, s in zip(kernels.shape[1:], fit.convention.stride, strict=True)]
    for lag in itertools.product(*(range(-r, r + 1) for r in reach)):
        n = fit.n_pixels if pairs is None else pairs[tuple(r + d for r, d in zip(reach, lag, strict=True))]
        apart = [d * s for d, s in zip(lag, fit.convention.stride, strict=True)]
        # p + d, and q - d, must be taps
        every, sides = (slice(None),), list(zip(apart, kernels.shape[1:], strict=True))
        here = every + tuple(slice(max(0, -d), side - max(0, d)) for d, side in sides)
        there = every + tuple(slice(max(0, d), side + min(0, d)) for d, side in sides)
        found[here + there] += np.multiply.outer(n * kernels[there], kernels[here])
    return found.reshape(kernels.size, -1)
