"""The difference of two exposures: which one is convolved, kernel and background by the pipeline, noise and mask."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # whose parts are imported when first used: some take a second

from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict, ranked
from ..core.geometry import Convention
from ..core.model import Execution, Model, Noise, Selection
from ..core.validation import Array
from ..data.exposure import Exposure
from ..data.plan import make_plan
from ..engines.forward import predict, propagated
from ..restoration import decorrelation as white
from ..solvers.least_squares import LeastSquares, Solver
from ..solvers.robust import robust_std
from . import pipeline, requirements

WHICH = ("auto", "science", "reference")
#: Largest side of a kernel whose shape is not given.
_LARGEST = 31
#: Side of the middle part of large images on which a first kernel is found.
_PART = 1024
#: The science image is convolved where that leaves so much less noise: the sharper one has the smaller kernel.
_CLEARLY = 0.98
#: Light is believed to be predicted to this share, and by the first kernel, the same everywhere, to that.
_BELIEVED, _DOUBTED = 0.01, 0.1
#: Steps of the weights, a factor; and the share of pixels that may still change in the last round.
_STEP, _SETTLED = 1.5, 1e-4
#: How far the light is believed, rounds, and whether the image's noise is taken off, which takes long for many taps.
_STAGES = ((0.04, 6, False), (_BELIEVED, 2, True))
#: Share of the energy of a decorrelation kernel that may lie on pixels that are bad.
_LOST = 0.01
#: The variance is wrong from so large a share on, and beyond so many standard deviations of its own.
_OFF, _SURE = 0.05, 5.0
#: Correlated noise and a noisy image are expected of a difference, and allowed for; how noisy it is, is judged here.
_EXPECTED = (Verdict.COLOURED_NOISE, Verdict.IMAGE_NOISE, Verdict.UNEVEN_NOISE)
#: Outliers near the edges are told if chance makes as many with such a probability, those beyond so many deviations.
_RARE, _CLIP = 1e-4, 4.0
#: Light of so many standard deviations tells how well it is predicted, of so many pixels at least.
_MUCH, _FEW = 10.0, 100
_FAINT = 5.0
#: A pixel owes its value to those left out of the fit from so many standard deviations on.
_OWED = 0.5
#: Blur, in pixels, under which two exposures are alike, and standard deviations from which on light is there.
_SMOOTH, _BRIGHT = 3.0, 6.0
#: Light up to so many standard deviations of the noise is dark, where the noise of the exposures is looked for.
_DARK = 5.0


@dataclass(frozen=True, eq=False)
class Subtraction:
    """What is known of a difference; see `kernelfit.DifferenceImage`."""

    image: Array
    variance: Array
    rejected: npt.NDArray[np.bool_]
    fit: Estimate
    which: str
    decorrelation: Array | None
    noise_std: tuple[float, float]  # of the science image and of the reference
    misfit: float  # share of the light that is not predicted
    findings: tuple[Finding, ...]


@dataclass(frozen=True, eq=False)
class _Sides:
    """The exposure that is convolved and the other one, and what is fitted between them."""

    convolved: Exposure
    other: Exposure
    model: Model

    @property
    def flat(self) -> Model:
        """The model of a kernel that is the same everywhere."""
        return dataclasses.replace(self.model, variation=None)

    def fit(self, noise: Noise, weights: Array | None, solver: Solver, execution: Execution) -> Estimate:
        """Fit kernel and background through the pipeline."""
        selection = Selection(weights=weights, nan="mask", saturated=None)
        plan = make_plan(self.convolved.pixels, self.other.pixels, self.model, selection)
        settings = pipeline.Settings(noise, solver, execution)
        requirements.require(requirements.features_of(plan, noise, solver, execution))
        return pipeline.fit(plan, settings)

    def fitted(self, seen: "_Seen", solver: Solver, execution: Execution, *, noisy: bool) -> tuple[Estimate, Array]:
        """Fit what counts of a difference, as much as it does, the image's noise off if `noisy`; and predict."""
        noise = Noise(image_std=math.sqrt(seen.noises.levels[1]) if noisy else 0.0)
        fit = self.fit(noise, seen.weights, solver, execution)
        made = predict(self.convolved.pixels, fit.kernel, fit.convention, workers=execution.workers)
        return fit, made if fit.background is None else made + fit.background.image()

    def first_kernel(self, execution: Execution) -> Estimate:
        """Return a kernel that is the same everywhere, from the middle of the images."""
        shape = self.other.mask.shape
        part = tuple(slice(max(0, (n - _PART) // 2), max(0, (n - _PART) // 2) + _PART) for n in shape)
        x, y = (one.pixels[part] for one in (self.convolved, self.other))
        apart = _apart(x, y)
        weights = None if apart is None else np.where(apart, 0.0, 1.0)
        return _Sides(Exposure(x), Exposure(y), self.flat).fit(Noise(), weights, LeastSquares(), execution)


def _apart(x: Array, y: Array) -> npt.NDArray[np.bool_] | None:
    """Return where only one exposure has light, whatever their blur; None where that cannot be told."""
    # Cosmic rays and new stars as bright as all others would spoil a first kernel, of which they had to be told.
    good = np.isfinite(x) & np.isfinite(y)
    if not good.any():
        return None
    levels = [np.where(good, one - np.median(one[good]), 0.0) for one in (x, y)]
    smooth = [scipy.ndimage.gaussian_filter(one, _SMOOTH) for one in levels]
    spread = [robust_std(one[good]) for one in smooth]
    bright = [one > _BRIGHT * s for one, s in zip(smooth, spread, strict=True)]
    both = bright[0] & bright[1]
    if not (both.any() and min(spread) > 0):
        return None
    ratio = float(np.median(smooth[1][both] / smooth[0][both]))
    light = scipy.ndimage.maximum_filter(np.maximum(ratio * smooth[0], smooth[1]), int(4 * _SMOOTH) | 1)
    more = np.abs(smooth[1] - ratio * smooth[0])
    return np.asarray((more > 0.5 * light) & (more > _BRIGHT * np.hypot(ratio * spread[0], spread[1])))


@dataclass(frozen=True, eq=False)
class _Noises:
    """The variance of each pixel of the two exposures, and what it is in most of them."""

    convolved: Array
    other: Array
    levels: tuple[float, float]  # of the other exposure, of the one that is convolved


def subtracted(
    science: Exposure,
    reference: Exposure,
    model: Model,
    which: str,
    clip: float | None,
    solver: Solver,
    execution: Execution,
    decorrelate: bool,
) -> Subtraction:
    """Subtract two exposures: see `kernelfit.subtract`."""
    which, sides, begin = _begun(science, reference, model, which, execution)
    x, workers = sides.convolved.pixels, execution.workers
    made = predict(x, begin.kernel, begin.convention, workers=workers)
    made = made + float(np.nanmedian(sides.other.pixels - made))
    seen = _seen(sides, begin, made, None, clip, _DOUBTED, workers)
    for doubt, rounds, noisy in _STAGES:
        for _ in range(rounds):
            fit, made = sides.fitted(seen, LeastSquares(), execution, noisy=noisy)
            before, seen = seen, _seen(sides, fit, made, seen.used, clip, doubt, workers)
            if np.count_nonzero(before.used != seen.used) <= _SETTLED * np.count_nonzero(seen.used):
                break
    if not isinstance(solver, LeastSquares):
        fit, made = sides.fitted(seen, solver, execution, noisy=True)
        seen = _seen(sides, fit, made, seen.used, clip, _BELIEVED, workers)
    doubt = _misfit(seen)
    if doubt:  # light that no kernel of the model predicts is no outlier, and its uncertainty is a part of the variance
        seen = _seen(sides, fit, made, seen.used, clip, max(doubt, _BELIEVED), workers)
        more = (doubt * seen.bright) ** 2
        noises = dataclasses.replace(seen.noises, other=seen.noises.other + more)
        seen = dataclasses.replace(seen, noises=noises, variance=seen.variance + more)
    image, variance, noises, used = seen.difference, seen.variance, seen.noises, seen.used
    phi, rejected = None, np.isfinite(image) & ~used
    told = f"R squared is {fit.r_squared:.2g} on the pixels that count"  # not of weights, of which the user gave none
    findings = [
        dataclasses.replace(f, detail=told) if f.verdict is Verdict.POOR_FIT else f
        for f in fit.findings
        if f.verdict not in _EXPECTED
    ]
    findings += [*_judged(image, variance, used), *_edges(image, variance, fit, clip)]
    if decorrelate:
        outliers = np.where(rejected, image, 0.0)
        phi, image, variance, owed = _decorrelated(image, outliers, noises, fit, workers)
        rejected = np.isfinite(image) & (np.abs(owed) > _OWED * np.sqrt(variance))
    if which == "science":
        image = -image
    levels = tuple(math.sqrt(level) for level in noises.levels)
    std = (levels[0], levels[1]) if which == "reference" else (levels[1], levels[0])
    return Subtraction(image, variance, rejected, fit, which, phi, std, doubt, ranked(findings))


@dataclass(frozen=True, eq=False)
class _Seen:
    """A difference, and which pixels of it count in the next fit, and how much."""

    difference: Array
    variance: Array
    noises: _Noises
    used: npt.NDArray[np.bool_]
    weights: Array
    light: Array  # of the prediction, the most of a pixel and its neighbours

    @property
    def bright(self) -> Array:
        """The light beyond what is faint beside the noise, in which no misfit would be seen."""
        return np.asarray(np.maximum(self.light - _FAINT * np.sqrt(np.nan_to_num(self.variance)), 0.0))


def _misfit(seen: _Seen) -> float:
    """Return the share of light by which stars differ from their prediction, as most do; 0 if by noise."""
    bright = np.isfinite(seen.difference) & (seen.light > _MUCH * np.sqrt(np.nan_to_num(seen.variance)))
    n = int(np.count_nonzero(bright))
    if n < _FEW:
        return 0.0
    difference, variance, light = (one[bright] for one in (seen.difference, seen.variance, seen.bright))

    def scatter(share: float) -> float:
        return robust_std(difference / np.sqrt(variance + (share * light) ** 2))

    if scatter(0.0) < 1 + _SURE * 1.17 / math.sqrt(n / 10):  # neighbours go together
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if scatter(middle) > 1 else (low, middle)
    return high


def _seen(
    sides: _Sides,
    fit: Estimate,
    made: Array,
    used: npt.NDArray[np.bool_] | None,
    clip: float | None,
    doubt: float,
    workers: int | None,
) -> _Seen:
    """Take a prediction off, and leave out what lies further from it than noise, and a share of the light, do."""
    difference = sides.other.pixels - made
    noises = _noises(sides, fit.kernel, fit.convention, made, used)
    variance = noises.other + propagated(noises.convolved, fit.kernel, fit.convention, workers)
    counts = np.isfinite(difference) & (variance > 0)
    variance[~counts] = np.nan
    if not counts.any():
        if np.isfinite(difference).any():
            raise ValueError(
                "got exposures whose difference tells no noise, need some; say how noisy one of them is: "
                "Exposure(image, noise)"
            )
        raise ValueError("got exposures none of whose pixels can be compared; need some that are good in both")
    light = np.where(counts, made - float(np.median(made[counts])), 0.0)
    spread, light = scipy.ndimage.maximum_filter(np.abs(light), 3), light**2
    scale = max(1.0, robust_std(difference[counts] / np.sqrt(variance[counts])))
    reach = math.inf if clip is None else clip
    used = counts & ~(np.abs(difference) > reach * np.sqrt(scale**2 * variance + doubt**2 * light))
    return _Seen(difference, variance, noises, used, _weights(variance + _BELIEVED**2 * light, used), spread)


def _weights(variance: Array, used: npt.NDArray[np.bool_]) -> Array:
    """Return the inverse variance in few steps: most pixels weigh exactly alike, and only the others are dear."""
    usual = float(np.median(variance[used]))
    steps = np.rint(np.log(np.where(used, variance, usual) / usual) / math.log(_STEP))
    return np.asarray(np.where(used, _STEP**-steps / usual, 0.0))


def shape_of(
    science: Exposure, reference: Exposure, which: str, background: int | None, execution: Execution
) -> tuple[int, int]:
    """Return the sides that a kernel needs: three times those of its upper half, and room for its shift."""
    side = min(_LARGEST, *(max(1, (n // 4) | 1) for n in science.mask.shape))
    model = Model(side, mode="same", background=background, ndim=2)
    _, _, fit = _begun(science, reference, model, which, execution)
    labels, _ = scipy.ndimage.label(fit.kernel >= 0.5 * fit.kernel.max())
    peak = np.unravel_index(int(np.argmax(fit.kernel)), fit.kernel.shape)
    upper = np.argwhere(labels == labels[peak])
    half = [
        abs(int(at) - side // 2) + math.ceil(1.5 * float(np.ptp(upper[:, axis]) + 1)) for axis, at in enumerate(peak)
    ]
    rows, cols = (min(side, 2 * n + 1) for n in half)
    return rows, cols


def _begun(
    science: Exposure, reference: Exposure, model: Model, which: str, execution: Execution
) -> tuple[str, _Sides, Estimate]:
    """Return which exposure is convolved, both as they are fitted then, and a first kernel."""
    both = {"reference": _Sides(reference, science, model), "science": _Sides(science, reference, model)}
    names = [which] if which != "auto" else list(both)
    first = {name: both[name].first_kernel(execution) for name in names}
    if which == "auto":
        # what a kernel makes of white noise beside the light that it passes: the sharper image has the less
        light = {name: float(fit.kernel.sum()) ** 2 for name, fit in first.items()}
        gains = {n: float((fit.kernel**2).sum()) / light[n] if light[n] > 0 else math.inf for n, fit in first.items()}
        which = "science" if gains["science"] < _CLEARLY * gains["reference"] else "reference"
    return which, both[which], first[which]


def _kernels(kernel: Array, conv: Convention) -> tuple[Array, Array, Array]:
    """Return the kernel at places over the field, the functions there, and the share of each place."""
    if conv.field is None:
        return kernel[None], np.ones((1, 1)), np.ones(1)
    values, shares = conv.field.sample()
    return np.einsum("fp,frc->prc", values, kernel), values, shares


def _noises(sides: _Sides, kernel: Array, conv: Convention, made: Array, used: npt.NDArray[np.bool_] | None) -> _Noises:
    """Return the noise of both exposures, as it is known or as the difference tells."""
    exposures = (sides.other, sides.convolved)
    difference = sides.other.pixels - made
    if used is None:  # before the fit, whose outliers are not known
        spread = robust_std(difference[np.isfinite(difference)])
        used = np.isfinite(difference) & (np.abs(np.nan_to_num(difference)) <= 4 * spread)
    # what has no prediction is masked as well in the other exposure, and has no influence in this one
    predictions = np.where(np.isfinite(made), made, np.nan), sides.convolved.pixels
    levels: list[float | None] = []
    for one, prediction in zip(exposures, predictions, strict=True):
        known = None if one.noise is None else one.variance(prediction, math.nan)
        levels.append(None if known is None else float(np.nanmedian(np.where(used, known, np.nan))))
    if None in levels:
        each, _, shares = _kernels(kernel, conv)
        reach = (kernel.shape[-2] - 1, kernel.shape[-1] - 1)
        light = np.abs(made - float(np.median(made[used])))
        dark = used & (light < _DARK * robust_std(difference[used]))
        covariance = white.autocovariance(difference, dark if dark.sum() > 0.1 * used.sum() else used, reach)
        own = np.einsum("p,prc->rc", shares, white.autocorrelations(each))
        other, convolved = white.noise_levels(covariance, own, (levels[0], levels[1]))
    else:
        other, convolved = (float(level or 0.0) for level in levels)
    maps = [
        np.broadcast_to(one.variance(prediction, level), difference.shape)
        for one, prediction, level in zip(exposures, predictions, (other, convolved), strict=True)
    ]
    return _Noises(np.where(sides.convolved.mask, np.nan, maps[1]), maps[0], (other, convolved))


def _judged(image: Array, variance: Array, used: npt.NDArray[np.bool_]) -> list[Finding]:
    """Say whether the difference has the variance that it says."""
    at = used & (variance > 0)
    ratio = robust_std(image[at] / np.sqrt(variance[at])) if at.any() else math.nan
    doubt = _SURE * 1.17 / math.sqrt(max(1, np.count_nonzero(at) / 10))  # neighbours go together
    if not abs(ratio - 1) > max(_OFF, doubt):
        return []
    return [Finding(Verdict.UNEVEN_NOISE, f"the difference scatters {ratio:.3g} times as much as its variance says")]


def _edges(image: Array, variance: Array, fit: Estimate, clip: float | None) -> list[Finding]:
    """Say whether a boundary that was declared leaves outliers, or a larger scatter, where the kernel crosses it."""
    conv, (rows, cols) = fit.convention, fit.kernel.shape[-2:]
    if conv.boundary is None:
        return []
    (up, left), far, known = conv.origin, clip or _CLIP, np.isfinite(image)
    inside = np.zeros(image.shape, dtype=bool)
    down, right = image.shape[0] - rows + 1, image.shape[1] - cols + 1
    inside[rows - 1 - up : rows - 1 - up + max(down, 0), cols - 1 - left : cols - 1 - left + max(right, 0)] = True
    apart = np.where(known, image / np.sqrt(variance), 0.0)
    both = [known & ~inside, known & inside]
    sizes = [int(np.count_nonzero(one)) for one in both]
    if min(sizes) < _FEW:
        return []
    # outliers hang together: each place counts once
    places = [scipy.ndimage.label((np.abs(apart) > far) & one, np.ones((3, 3)))[1] for one in both]
    expected = (places[1] + 1) * sizes[0] / sizes[1]
    ratio = robust_std(apart[both[0]]) / robust_std(apart[both[1]])
    by_chance = float(scipy.special.pdtrc(places[0] - 1, expected)) if places[0] else 1.0
    if by_chance > _RARE and not ratio > 1 + max(_OFF, _SURE * 1.17 / math.sqrt(sizes[0] / 10)):
        return []
    detail = f"near the edges the difference scatters {ratio:.3g} times as much as inside, with {places[0]} outliers "
    return [Finding(Verdict.WRONG_BOUNDARY, f"{detail}where {expected:.2g} are expected under {conv.boundary!r}")]


def _decorrelated(
    image: Array, outliers: Array, noises: _Noises, fit: Estimate, workers: int | None
) -> tuple[Array, Array, Array, Array]:
    """Return the kernel that makes the noise white, the difference through it, its variance, and the outliers."""
    conv, kernel = fit.convention, fit.kernel
    other, convolved = noises.levels
    each, values, shares = _kernels(kernel, conv)
    phis = white.decorrelation_kernels(each, convolved / other if other > 0 else 1e6)
    n, side = len(phis), phis.shape[-1]
    through = np.zeros((n, *(k + side - 1 for k in kernel.shape[-2:])))
    for at in range(n):
        through[at] = scipy.signal.convolve(phis[at], each[at])
    if conv.field is None:
        phi, whole = phis[0], through[0]
    else:  # the coefficients of the functions that come nearest to the kernels at the places
        design = (values * np.sqrt(shares)).T
        solve = np.linalg.pinv(design) * np.sqrt(shares)
        phi, whole = np.einsum("fp,prc->frc", solve, phis), np.einsum("fp,prc->frc", solve, through)
    middle = (side - 1) // 2
    own = dataclasses.replace(conv, boundary="fill", fillvalue=0.0, origin=(middle, middle))
    origin = (conv.origin[0] + middle, conv.origin[1] + middle)
    beyond = conv.boundary or "fill"
    both = dataclasses.replace(conv, boundary=beyond, fillvalue=0.0, origin=origin)
    good = np.isfinite(image)
    made = predict(np.where(good, image, 0.0), phi, own, workers=workers)
    variance = propagated(np.where(good, noises.other, 0.0), phi, own, workers)
    variance = variance + propagated(np.nan_to_num(noises.convolved), whole, both, workers)
    energy = propagated(good.astype(np.float64), phi, own, workers)
    lost = ~good | (energy < (1 - _LOST) * _energy(phi, own, image.shape, workers))
    made[lost], variance[lost] = np.nan, np.nan
    return phi, made, variance, predict(outliers, phi, own, workers=workers)


def _energy(phi: Array, conv: Convention, shape: tuple[int, int], workers: int | None) -> Any:
    """Return the sum of the squares of a kernel at each pixel."""
    if conv.field is None:
        return float((phi**2).sum())
    wide = dataclasses.replace(conv, boundary="nearest")
    return propagated(np.ones(shape), phi, wide, workers)
