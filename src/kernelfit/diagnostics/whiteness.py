"""Whether the noise is white, from a sample of the residual, and error bars that hold if it is not."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.special

from ..core.estimate import Estimate, with_finding
from ..core.findings import Finding, Verdict
from ..core.geometry import Shape
from ..core.validation import Array, renamed
from ..data.extent import Extent, runs
from ..data.observation import Observation, Weights, own_row, refuse_nonfinite
from . import hanging
from .parts import REACH, Parts, farthest, products
from .samples import Memo, Sample, places_of_noise, sample
from .tiles import Part, root_of, telling, thinned

#: Runs of planes looked at in volumes.
_RUNS = 2
#: An autocorrelation counts from so many times what white noise would show, by the axes, along each of which so many
#: frequencies are told apart; ...
_SIGNIFICANT, _FREQUENCIES = {2: 5.0, 3: 5.5}, {2: 64, 3: 32}
_SURE = 5.0
#: ... it matters where a standard error is wrong by such a factor.
_MATTERS = 1.25
#: A residual below this share of the target's root mean square is rounding, not noise.
_ROUNDING = 1e-9
#: So many pixels far from the mean, and so many others, tell whether the noise differs; ...
_FAR, _NEAR = 4, 100
#: ... or the ranks of so many, by so many standard deviations or a smaller chance, where they hold such a share, and
#: few all of it.
_TOP, _RANKED, _BY_CHANCE, _HALF, _FEW = (8, 16, 64, 256), 5.0, 1e-7, 0.5, 1 / 64
#: Pairs of up to so many pixels are looked at whole where the tiles hold less than such a share of the prediction's
#: variance, or few pixels all of it.
_WHOLE, _ELSEWHERE = 2**20, 0.25
#: Share of the image's energy in as many target pixels as taps from which on nothing can speak against a kernel.
_ALL_OF_IT = 0.9
#: Below this it may be rounding to single precision, which grows with the signal.
_SINGLE = 1e-6
#: A chance so small that a kernel is there.
_NEVER = 1e-9
#: The correction's own filter is cut off where it has fallen to this share.
_CUT = 1e-3


#: Of tiles: residual, target, what counts, the roots of the weights, and the image's energy around each pixel.
_Seen = tuple[Array, Array, npt.NDArray[np.bool_], Array | None, Array]


@dataclass(frozen=True, eq=False)
class NoiseCheck:
    """What a sample of the residual says of the noise.

    Parameters
    ----------
    autocovariance : ndarray, shape (2 * lags + 1, 2 * lags + 1)
        Mean product of two residuals at lags (rows, columns) from ``-lags`` to ``lags``, lag 0 in the middle; of
        signals of one axis, of volumes of three: zero at lags that no run of planes looked at has.
    n_pixels : int
        Number of residuals looked at.
    reach : int
        Largest lag, along rows or columns, at which the residual is correlated beyond five times chance; 0 for white
        noise.
    low, high : float
        The noise's amplitude relative to white noise of the same variance, at the frequency where it is the least and
        where it is the greatest: the plain standard error of what the kernel does to such a frequency is to be
        multiplied by it. Both are 1 for white noise.
    heteroscedasticity : float
        The noise's amplitude where the prediction is far from its mean, relative to that of all pixels: by about this
        factor plain standard errors are off on that account. It is 1 where it is no louder than by chance.
    parts : ndarray, shape (2, 2, 2 * lags + 1, 2 * lags + 1), optional
        Of complex residuals the same for the real (0) and the imaginary (1) parts and for their products ``r_i[t]
        r_j[t + d]``, so far as they are not those of circular noise by chance alone; `autocovariance` is their mean.
    few : float
        Share of the image's energy that is in as few target pixels as there are taps, which the kernel follows whatever
        they are; 0 where it is not much, or was not looked at.
    together : ndarray, shape (3,), optional
        Of a kernel that varies over the field, the sums of `hanging.sums_of`.
    """

    autocovariance: Array
    n_pixels: int
    reach: int
    low: float
    high: float
    heteroscedasticity: float = 1.0
    parts: Array | None = None
    few: float = 0.0
    together: Array | None = None

    uneven = renamed("uneven", "heteroscedasticity")

    @property
    def autocorrelation(self) -> Array:
        """The autocovariance divided by its value at lag 0."""
        variance = self.autocovariance[tuple(n // 2 for n in self.autocovariance.shape)]
        return np.asarray(self.autocovariance / variance if variance > 0 else self.autocovariance)

    @property
    def of_signal(self) -> str:
        """How the noise depends on the signal, in words."""
        factor = f"{self.heteroscedasticity:.2g}"
        return f"where the prediction is far from its mean the noise is {factor} times that of all pixels"

    @property
    def coloured(self) -> bool:
        """Whether plain error bars are off by a factor of 1.25 or more somewhere, for a correlated residual."""
        return self.high > _MATTERS or self.low < 1 / _MATTERS

    @property
    def depends(self) -> bool:
        """Whether they are off by as much because the noise depends on the signal."""
        return self.heteroscedasticity > _MATTERS

    def _lowered(self) -> "NoiseCheck":
        middle = self.autocovariance.shape[0] // 2
        parts = None if self.parts is None else self.parts[:, :, middle]
        return dataclasses.replace(self, autocovariance=self.autocovariance[middle], parts=parts)

    def __str__(self) -> str:
        signals, pixels = self.autocovariance.ndim == 1, "pixels" if self.autocovariance.ndim > 1 else "samples"
        if self.n_pixels < 32:
            return f"not looked at, there being {self.n_pixels} residuals in the places looked at"
        if self.reach == 0 and self.parts is not None:
            middle: Any = (..., *(n // 2 for n in self.autocovariance.shape))
            (re, both), (_, im) = self.parts[middle]
            ratio = math.sqrt(re / im) if im > 0 else math.inf
            together = both / math.sqrt(re * im) if re * im > 0 else 0.0
            return (
                f"the noise is not circular: its real parts have {ratio:.3g} times the standard deviation "
                f"of its imaginary parts, and a correlation of {together:.2g} with them; plain "
                f"standard errors are off by factors of {self.low:.2g} to {self.high:.2g}"
            )
        if self.reach == 0:
            signal = f", but {self.of_signal}" if self.depends else ""
            return f"white as far as {self.n_pixels} residuals tell{signal}"
        found = self.autocorrelation.copy()
        middle = len(found) // 2
        found[(middle,) * found.ndim] = 0.0
        at = np.unravel_index(int(np.argmax(np.abs(found))), found.shape)
        lags = tuple(abs(int(i) - middle) if at[0] == middle or signals else int(i) - middle for i in at)
        if found.ndim == 3:
            lags = tuple(middle - int(i) for i in at)  # of either sign alike; the other one comes first
        lag = lags[0] if signals else lags
        further = "or further" if self.reach == middle else "at most"
        return (
            f"the residual's autocorrelation is {found[at]:.2g} at lag {lag} and reaches {self.reach} {pixels} "
            f"{further}; plain standard errors are off by factors of {self.low:.2g} to {self.high:.2g}"
        )


def look(
    observations: Sequence[Observation],
    fit: Estimate,
    weights: Sequence[Weights] | None = None,
    *,
    most: float = math.inf,
    declared: bool = False,
    level: float = 0.0,
    misfits: Sequence[Finding] = (),
    memo: Memo | None = None,
    read: list[Part] | None = None,
    bright: tuple[list[Part], float] | None = None,
    coloured: bool = True,
) -> Estimate:
    """Return a fit with findings if its residual is not white, or not as even, enough for its error bars."""
    # Residuals above `most` are outliers. Weights `declared` to be inverse variances make the noise 1. What is but
    # rounding beside the target's root mean square, `level`, is not looked at. `misfits` are told instead: a model that
    # does not hold leaves a residual that is neither white nor even. The `memo` keeps what other targets share, `read`
    # are tiles that were read before, `bright` those of `tiles.telling`. Errors that allow for a residual that is not
    # white say `coloured=False`.
    if misfits:
        return functools.reduce(with_finding, misfits, fit)
    if not fit.noise_std > _ROUNDING * level or any(f.verdict is Verdict.NOT_CONVERGED for f in fit.findings):
        return fit  # what is left tells of the iterations, not of the noise
    check = examine(observations, fit, weights, most, memo, read, bright)
    varies = None if check.together is None else hanging.told(fit, check.together)
    if varies is not None:
        return with_finding(fit, varies)
    if check.few > _ALL_OF_IT:
        detail = f"{fit.rank} of {fit.n_pixels} target pixels, as many as taps, hold {check.few:.1%} of what tells them"
        fit = with_finding(fit, Finding(Verdict.NO_REDUNDANCY, detail))
    if coloured and check.coloured:
        fit = with_finding(fit, Finding(Verdict.COLOURED_NOISE, str(check)))
    if check.depends:
        fit = with_finding(fit, Finding(Verdict.UNEVEN_NOISE, check.of_signal))
    elif (
        declared
        and fit.noise_std > _SINGLE
        and abs(math.log(fit.noise_std))
        > max(math.log(_MATTERS), _SIGNIFICANT[2] / math.sqrt(2 * max(1, fit.df_resid)))
    ):
        detail = f"the noise is {fit.noise_std:.3g} times what was declared"
        fit = with_finding(fit, Finding(Verdict.UNEVEN_NOISE, detail))
    return fit if check.coloured else _noise_alone(fit)


def _noise_alone(fit: Estimate) -> Estimate:
    """Take back that a fit is poor where all that is left is plain noise, and the kernel there beyond doubt."""
    # Of noise alone kernels explain a share R of the squares, and ``R / (1 - R) * spare / taps`` follows Snedecor's F.
    taps, spare, share = fit.kernel.size, fit.n_pixels - fit.kernel.size, fit.r_squared
    if {finding.verdict for finding in fit.findings} != {Verdict.POOR_FIT} or fit.convention.numbers != "real":
        return fit
    if not (spare > 0 and 0 < share < 1):
        return fit
    if scipy.special.fdtrc(taps, spare, share / (1 - share) * spare / taps) > _NEVER:
        return fit
    note = f"R squared is {share:.2g}, but what is left is plain noise, and the kernel is there beyond doubt"
    return dataclasses.replace(fit, findings=(), notes=(*fit.notes, note))


def examine(
    observations: Sequence[Observation],
    fit: Estimate,
    weights: Sequence[Weights] | None = None,
    most: float = math.inf,
    memo: Memo | None = None,
    read: list[Part] | None = None,
    bright: tuple[list[Part], float] | None = None,
) -> NoiseCheck:
    """Return what a sample of the residual of pairs, times the root of their weights, says of the noise."""
    ndim = 2 if observations[0].plane is None else 3
    sums, squares, pairs = (np.zeros((2 * REACH + 1,) * ndim) for _ in range(3))
    energy, pixels, seen, few = 0.0, 0, [], 0.0
    between, together = Parts(ndim), None if fit.convention.field is None else np.zeros(3)
    for run in runs(observations, _RUNS, REACH + 1):
        tiles, targets, known, root = _windows(observations, fit, weights, run, memo, read)
        if most < math.inf:
            known = known & (np.abs(tiles) <= most)
            tiles, targets = np.where(known, tiles, 0.0), np.where(known, targets, 0.0)
        even = weights is None and most == math.inf
        seen.append(_predicted(tiles, targets, np.s_[...] if even else known, root))
        if together is not None:
            together += hanging.sums_of(tiles, targets, known, root)
        pixels += tiles.size if even else int(known.sum())
        energy += float(np.sum(targets**2))
        sums += products(tiles)
        squares += products(tiles**2)
        between.add(observations[run[0]], tiles)
        pairs += len(tiles) * _overlaps(tiles.shape[1:]) if even else products(known.astype(np.float64)).round()
    if not math.isfinite(energy) or not np.isfinite(sums).all():
        refuse_nonfinite(observations[0])
    c = np.divide(sums, pairs, out=np.zeros_like(sums), where=pairs > 0)
    middle = (REACH,) * ndim
    variance = float(c[middle])
    if not variance > _ROUNDING**2 * energy / max(1, pixels):
        return NoiseCheck(c, pixels, 0, 1.0, 1.0)
    # if independent, whatever their variances: a sum of products has the sum of their squares for its variance
    chance = np.sqrt(np.maximum(squares, 0.0)) / np.maximum(pairs, 1.0)
    # and a fit of r taps to n pixels leaves correlations of up to r / n itself
    beyond = np.abs(c) > _SIGNIFICANT[ndim] * chance + variance * fit.rank / max(1, fit.n_pixels)
    beyond[middle] = False
    reach = int(np.max(farthest(c.shape)[beyond], initial=0))
    parts, further = between.beside(c, pairs, _SIGNIFICANT[ndim])
    reach = max(reach, further)
    spectrum = (_spectrum(c, reach) if parts is None else np.linalg.eigvalsh(_cross_spectrum(parts, reach))) / variance
    growth = 1.0
    if variance > _SINGLE**2 * energy / pixels:
        near = farthest(c.shape) <= reach
        alike = float(np.sum(np.square(c[near] / variance)))  # squares of correlated residuals that tell the same
        residuals, models = (np.concatenate(some) for some in zip(*seen, strict=True))
        if ndim == 2 and _elsewhere(models, fit):
            some = _seen_again(observations, fit, weights, bright)
            if some is not None:
                residuals, models, few, together = _of_all(*some, fit, most)
        if together is not None:
            together[1] *= 2.0 * alike - 1.0  # so do products of neighbours, and up to twice as much
        growth = _unevenness(residuals, models, alike, fit.rank)
    low, high = (float(np.sqrt(end)) for end in (spectrum.min(), spectrum.max()))
    return NoiseCheck(c, pixels, reach, low, high, growth, parts, few, together)


def _predicted(left: Array, targets: Array, which: Any, root: Array | None) -> tuple[Array, Array]:
    """Return the residuals and the predictions of some pixels."""
    model = (targets - left)[which].ravel()
    if root is not None:  # less its mean times the roots of the weights, which are no signal
        each = root[which].ravel()
        model = model - each * (float(np.sum(each * model)) / max(float(np.sum(each**2)), 1e-300))
    return left[which].ravel(), model


def _elsewhere(model: Array, fit: Estimate) -> bool:
    """Say whether what the kernel rests on are few pixels, or pixels that the tiles do not hold."""
    reach = (model - model.mean()) ** 2
    explained = fit.rss / max(1, fit.n_pixels) * fit.r_squared / max(1.0 - fit.r_squared, 1e-300)
    few = float(reach.sum()) ** 2 < _FEW * reach.size * float(np.einsum("i,i->", reach, reach))
    return few or float(reach.mean()) < _ELSEWHERE * explained


def _seen_again(
    observations: Sequence[Observation],
    fit: Estimate,
    weights: Sequence[Weights] | None,
    bright: tuple[list[Part], float] | None,
) -> tuple[list[_Seen], float] | None:
    """Return all of pairs that are not large, where a kernel varies the tiles that tell the most, and their share."""
    if fit.convention.field is not None:
        parts, share = telling(observations, fit, weights) if bright is None else bright
        if parts:
            return [_joined([_seen(one, part) for o, part in parts if o is one]) for one in observations], share
    if sum(one.geometry.n_pixels for one in observations) > _WHOLE:
        return None
    own = [None] * len(observations) if weights is None else weights
    places = [(at, len(observations)) for at in range(len(observations))]
    every = zip(observations, places, own, strict=True)
    return [_seen(one, sample(one, fit, place, some, one.size, [(0, 0)])) for one, place, some in every], 1.0


def _joined(seen: list[_Seen]) -> _Seen:
    left, targets, known, root, around = zip(*seen, strict=True)
    some = None if root[0] is None else np.concatenate(root)
    return np.concatenate(left), np.concatenate(targets), np.concatenate(known), some, np.concatenate(around)


def _of_all(seen: list[_Seen], share: float, fit: Estimate, most: float) -> tuple[Array, Array, float, Array | None]:
    """Return residuals and predictions of pixels, the share of the energy in as many as taps, more."""
    # More: what `hanging` makes of a kernel that varies.
    both, energies, together = [], [], None if fit.convention.field is None else np.zeros(3)
    for left, targets, known, root, around in seen:
        both.append(_predicted(left, targets, known & (np.abs(left) <= most), root))
        if together is not None:
            together += hanging.sums_of(left, targets, known, root)
        energies.append(around[known & (np.abs(left) <= most)])
    residuals, models = (np.concatenate(some) for some in zip(*both, strict=True))
    energy = np.concatenate(energies)
    few = np.partition(energy, -fit.rank)[-fit.rank :] if fit.rank < energy.size else energy
    return residuals, models, share * float(few.sum() / max(float(energy.sum()), 1e-300)), together


def _seen(one: Observation, part: Sample) -> _Seen:
    """Return residual, target, what counts, the roots of the weights, and the image's energy around each pixel."""
    (height, width), (step, pace) = one.geometry.kernel_shape, one.geometry.stride
    sky = np.median(part.blocks, axis=(1, 2, 3), keepdims=True)
    squares = np.pad(np.sum((part.blocks - sky) ** 2, axis=0), ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
    sums = squares[:, height:] - squares[:, :-height]
    sums = sums[..., width:] - sums[..., :-width]
    around = np.maximum(sums[:, ::step, ::pace], 0.0) * (1.0 if part.root is None else part.root**2)
    return part.left, part.targets, part.known, part.root, around


@functools.lru_cache(16)
def _overlaps(sides: Shape) -> npt.NDArray[np.int64]:
    """Return how many pixels of a tile have another one in it, by lag."""
    lags = np.abs(np.arange(-REACH, REACH + 1))
    return np.asarray(functools.reduce(np.multiply.outer, [np.maximum(0, n - lags) for n in sides]))


def _unevenness(left: Array, model: Array, alike: float = 1.0, rank: int = 1) -> float:
    """Return the noise where the prediction m is far from its mean, relative to all; 1 if no louder, or by chance."""
    # Least squares has the covariance ``G^-1 (sum of r^2 a a') G^-1`` for residuals r of any variance (White, see
    # `sandwich_errors`), a being a pixel's row of the design; ``(m - mean)^2`` stands for ``a a'``.
    power, reach = left**2, (model - model.mean()) ** 2
    total = float(reach.sum())
    if not total > 0:
        return 1.0
    # sums of products without BLAS, whose threads would go on spinning into whatever comes next
    square = float(np.einsum("i,i->", reach, reach))
    far = reach > square / total  # few pixels that hold about half of it, be they stars or a bright half
    n, rest = int(far.sum()), power[~far]
    growth = math.sqrt(float(np.einsum("i,i->", power, reach)) / (max(float(power.mean()), 1e-300) * total))
    if rest.size < _NEAR:
        return 1.0
    if growth > _MATTERS or total**2 < _FEW * reach.size * square:
        louder = _louder(power, reach, alike, rank)
        if louder > _MATTERS:
            return max(growth, louder)
    usual = float(rest.mean())
    if n < _FAR:
        return 1.0
    if not usual > 0:
        return 1.0
    # the cube root of a mean of squares is nearly normal, of few as well (Wilson and Hilferty, PNAS 17 (1931) 684);
    # where the residual has longer tails than normal noise, fewer count
    few = 2.0 / 9.0 * float(np.mean((rest - usual) ** 2)) / (2.0 * usual**2 * n)
    if not np.cbrt(float(power[far].mean()) / usual) > 1.0 - few + _SURE * math.sqrt(few):
        return 1.0
    return max(1.0, growth)


def _louder(power: Array, reach: Array, alike: float, rank: int = 0) -> float:
    """Return how loud the noise is where most of the reach is, by ranks, which few or heavy-tailed residuals tell by.

    A kernel follows as many pixels of the greatest reach as it has taps, so that those below them may have to tell. Of
    even fewer tells how many of the largest residuals are among those of the greatest reach.
    """
    n, most = len(power), 1.0
    ascending = np.sort(power)  # the ranks of all pixels take ten times as long
    order, loudest = _first(reach, rank + max(_TOP)), _first(power, max(_TOP))
    count = np.diff(np.flatnonzero(np.diff(ascending, prepend=-1.0)), append=n).astype(float)
    ties = 1.0 - float(np.sum(count**3 - count)) / (float(n) ** 3 - n)
    for first, m in ((first, m) for first in (0, rank) for m in _TOP):
        top, share = order[first : first + m], float(reach[order[: first + m]].sum() / reach.sum())
        if 4 * (first + m) > n or not share > _HALF or not ties > 0:
            continue
        # Mann and Whitney's, Ann. Math. Stat. 18 (1947) 50
        deviation = math.sqrt(alike * m * (n - m) * (n + 1) / 12 * ties)
        both = np.intersect1d(top, loudest[:m]).size / alike
        below, to = (np.searchsorted(ascending, power[top], side) for side in ("left", "right"))
        ranks = 0.5 * (below + to + 1)
        if (
            ranks.sum() - 0.5 * m * (n + 1) > _RANKED * deviation
            or scipy.special.gammainc(max(both, 1e-300), m * m / n) < _BY_CHANCE  # so many or more, where m^2 / n are
        ):
            ratio = float(power[top].mean() / max(float(power.mean()), 1e-300))
            most = max(most, math.sqrt(share * ratio + 1.0 - share))
    return most


def _first(values: Array, most: int) -> npt.NDArray[np.intp]:
    """Return where the largest values are, so many at most, the largest first."""
    some = np.argpartition(-values, most)[:most] if most < len(values) else np.arange(len(values))
    return some[np.argsort(-values[some])]


def _windows(
    observations: Sequence[Observation],
    fit: Estimate,
    weights: Sequence[Weights] | None,
    run: Sequence[int],
    memo: Memo | None,
    read: list[Part] | None,
) -> tuple[Array, Array, npt.NDArray[np.bool_], Array | None]:
    """Return residual, target, what counts and the roots of the weights of tiles of a pair, of planes in stacks."""
    held = thinned(read or [], observations[run[0]])
    if held is not None:
        return held.left, held.targets, held.known, held.root
    own = [None if weights is None else weights[at] for at in run]
    counts: Weights | None = own[0]
    if weights is not None and len(run) > 1:
        here = all(hasattr(one, "__array__") for one in own)  # others are too far away to be looked at whole
        counts = np.any([np.asarray(one) > 0 for one in own], axis=0) if here else None
    where = places_of_noise(observations[run[0]], counts)
    if weights is None and observations[run[0]].plane is not None:
        return *_of_planes(observations, fit, run, *where), None
    every = [
        sample(observations[at], fit, (at, len(observations)), one, *where, memo)
        for at, one in zip(run, own, strict=True)
    ]
    if observations[run[0]].plane is None:
        return every[0].left, every[0].targets, every[0].known, every[0].root
    left, targets, known = (np.stack([getattr(p, name) for p in every], 1) for name in ("left", "targets", "known"))
    root = None if weights is None else np.stack([root_of(p, p.known) for p in every], 1)
    return left, targets, known, root


def _of_planes(
    observations: Sequence[Observation], fit: Estimate, run: Sequence[int], side: Shape, starts: list[Shape]
) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Return the same of planes all of whose pixels count, each plane of the image read and transformed once."""
    extent = Extent(tuple(observations[at] for at in run))
    (deep, step, pace), (depth, *flat) = extent.stride, extent.kernel
    whole = step * (side[0] - 1) + 1, pace * (side[1] - 1) + 1
    halo = whole[0] + flat[0] - 1, whole[1] + flat[1] - 1
    size = [scipy.fft.next_fast_len(n, real=True) for n in halo]
    kernel = fit.kernel.reshape(-1, *extent.kernel)
    kernel = np.flip(kernel, (1, 2, 3)) if extent.first.geometry.flipped else kernel
    of_taps = np.conj(scipy.fft.rfft2(kernel, size, workers=1))
    spectra: list[list[Any]] = [
        [
            0.0
            if reader is None
            else scipy.fft.rfft2(np.stack([reader.block(step * r, pace * c, halo) for r, c in starts]), size, workers=1)
            for reader in planes
        ]
        for planes in extent.planes
    ]
    left, targets = np.empty((2, len(starts), len(run), *side))
    for z, at in enumerate(run):
        both = zip(spectra, of_taps, strict=True)
        total = sum(own[deep * z + d] * taps[d] for own, taps in both for d in range(depth))
        model = scipy.fft.irfft2(total, size, workers=1)[:, : whole[0] : step, : whole[1] : pace]
        for i, start in enumerate(starts):
            targets[i, z] = observations[at].targets[0].block(*start, side)
        left[:, z] = targets[:, z] - model
        if fit.background is not None:
            surface = own_row(observations[at], fit.background.coefficients, at, len(observations))
            tiles = [(slice(r, r + side[0]), slice(c, c + side[1])) for r, c in starts]
            left[:, z] -= np.stack([observations[at].columns.surface(surface, *tile) for tile in tiles])
    return left, targets, np.ones(left.shape, dtype=bool)


def _windowed(autocovariance: Array, reach: int) -> Array:
    """Return an autocovariance under a window that is flat as far as it reaches, lag 0 first."""
    ndim = autocovariance.ndim
    lag, size = np.abs(np.arange(-REACH, REACH + 1)), (_FREQUENCIES[ndim],) * ndim
    width = min(2 * reach, REACH + 1)
    flat = min(reach, width - 1)
    window = np.clip((width - lag) / (width - flat), 0.0, 1.0)
    padded = np.zeros(size)
    padded[(slice(2 * REACH + 1),) * ndim] = autocovariance * functools.reduce(np.multiply.outer, [window] * ndim)
    return np.roll(padded, (-REACH,) * ndim, tuple(range(ndim)))


def _spectrum(autocovariance: Array, reach: int) -> Array:
    ndim = autocovariance.ndim
    if reach == 0:
        return np.full((_FREQUENCIES[ndim],) * ndim, float(autocovariance[(REACH,) * ndim]))
    power = scipy.fft.fftn(_windowed(autocovariance, reach)).real
    floor = 1e-3 * float(power.mean())
    return np.asarray(np.maximum(power, floor))


def _cross_spectrum(parts: Array, reach: int) -> npt.NDArray[np.complex128]:
    """Return the power of both parts of complex noise ``r = H * e`` by frequency: Hermitian ``H H*``, (..., 2, 2)."""
    ndim = parts.ndim - 2
    if reach == 0:
        found = np.moveaxis(parts[_inner(REACH, 0, ndim)], (0, 1), (-2, -1)).astype(np.complex128)
    else:
        lags = np.array([[_windowed(one, reach) for one in row] for row in parts])
        axes = tuple(range(2, 2 + ndim))
        # c_ij[d] = sum of H_i[s] H_j[s + d], whose spectrum is conj(H_i) H_j
        found = np.conj(np.moveaxis(scipy.fft.fftn(lags, axes=axes), (0, 1), (-2, -1)))
    values, vectors = np.linalg.eigh(found)
    values = np.maximum(values, 1e-3 * float(values.mean()))
    return np.asarray((vectors * values[..., None, :]) @ np.conj(vectors.swapaxes(-1, -2)))


def _inner(middle: int, reach: int, ndim: int) -> Any:
    """Return what selects the places up to so far from a middle along the last axes."""
    return (..., *(slice(middle - reach, middle + reach + 1),) * ndim)


def shaping_filter(check: NoiseCheck) -> Array:
    """Return h, odd-sided, that gives white noise of variance 1 this autocovariance; of complex parts (2, 2, ...)."""
    ndim, reach = check.autocovariance.ndim, check.reach
    variance = float(check.autocovariance[(REACH,) * ndim])
    if check.parts is None:
        power = _spectrum(check.autocovariance, reach)
        roots = np.sqrt(power)
    else:
        values, vectors = np.linalg.eigh(_cross_spectrum(check.parts, reach))
        roots = (vectors * np.sqrt(values)[..., None, :]) @ np.conj(vectors.swapaxes(-1, -2))
        roots, variance = np.moveaxis(roots, (-2, -1), (0, 1)), 2 * variance
    if reach == 0:
        return np.asarray(roots[_inner(0, 0, ndim)].real)
    axes = tuple(range(-ndim, 0))
    whole = np.fft.fftshift(scipy.fft.ifftn(roots, axes=axes).real, axes=axes)
    size = np.abs(whole).reshape(-1, *whole.shape[-ndim:]).max(axis=0)
    middle = len(size) // 2
    cutoff = min(int(farthest(size.shape)[size > _CUT * size.max()].max()), 2 * reach, middle - 1)
    cut = whole[_inner(middle, cutoff, ndim)]
    return np.asarray(cut * math.sqrt(variance / float(np.sum(cut**2))))
