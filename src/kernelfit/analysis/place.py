"""Where one image lies in what became of it, and about how large the kernel is: a first look by frequency."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import scipy  # whose parts are imported when first used: some take a second
import scipy.fft

from ..compiled.fft import SMALL
from ..core.geometry import Shape
from ..solvers.robust import robust_std

T = TypeVar("T", bound=np.generic)
Image = npt.NDArray[np.generic]
Single = npt.NDArray[np.float32]
#: A span of lags, rows and columns: first, last + 1, first, last + 1.
Box = tuple[int, int, int, int]
#: Weight of the penalty, relative to the image's mean power.
_BALANCE = 1e-2
#: Share of each side over which the images fade to zero.
_TAPER = 0.5
#: Values that are made smaller at a time.
_LINE = 2**14
#: A response so many times the usual one, and such a share of the largest, belongs to the kernel; so far is looked,
#: and along signals.
_CLEAR, _SHARE, _REACH, _REACH_ALONG = 6.0, 0.05, 24, 300
#: A response of the image to itself so large is that of its peak, and so large that of a repetition; so far is looked.
_OWN, _ALIKE, _FAR = 0.3, 0.5, 52
#: Another way to lay the two on each other stands out by so much, and by so many times what they do as they are, in
#: pictures of such a side: of 120 pairs of photographs the true one did by 18 and more, no other by over 22, none of
#: the latter by more than a quarter of the former.
_OTHER, _MORE, _AS_THEY_ARE, _SIDE = 15.0, 2.5, 30.0, 192
#: A ratio of the sizes that differs by less from a stride may be that, of a part of the scene.
_SAME_RATIO = 0.05
#: How an array may have been laid out otherwise: transposed, then upside down, then left to right.
AS_GIVEN = "as given"
ORIENTATIONS = {
    AS_GIVEN: (False, False, False),
    "turned by 180 degrees": (False, True, True),
    "mirrored top to bottom": (False, True, False),
    "mirrored left to right": (False, False, True),
    "transposed": (True, False, False),
    "turned by 90 degrees to the left": (True, True, False),
    "turned by 90 degrees to the right": (True, False, True),
    "transposed and turned by 180 degrees": (True, True, True),
}
#: Strides stand out if their responses do by such a share of the one that does most; so many of them at most.
_NEAR, _LOOKS = 0.5, 4


def spectral_response(image: Image, target: Image, workers: int = 1, balance: float = _BALANCE) -> Single:
    """Return about the kernel at every lag: ``conj(X) Y / (|X|^2 + balance mean|X|^2)`` of tapered spectra."""
    # Noise of an image at its frequencies hardly matters to the place of the largest value: of 351 pairs (kernels up to
    # 31x27, noise up to 5 %, shifts up to 60 pixels) all came out inside the kernel. What is not finite counts as the
    # mean; negative lags stand at the end.
    sides = zip(image.shape, target.shape, strict=True)
    size = [scipy.fft.next_fast_len(max(n), real=True) for n in sides]
    workers = workers if math.prod(size) > SMALL else 1
    x, y = (scipy.fft.rfft2(_faded(a), size, workers=workers) for a in (image, target))
    power = x.real**2 + x.imag**2
    np.conj(x, out=x)
    x *= y
    x *= 1 / (power + np.float32(balance) * power.mean())  # a complex number is slow to divide
    return np.asarray(scipy.fft.irfft2(x, size, workers=workers))


def _faded(array: npt.NDArray[np.generic]) -> Single:
    """Return an image without its mean that fades to zero at its edges, in units that single precision can hold."""
    values = np.asarray(array, dtype=np.float64)
    mean = float(values.mean())
    if not math.isfinite(mean):
        finite = np.isfinite(values)
        mean = float(np.mean(values, where=finite))
        values = np.where(finite, values, mean)
    scale = max(float(values.max()) - mean, mean - float(values.min())) or 1.0
    single, some = np.empty(values.shape, dtype=np.float32), max(1, _LINE // values.shape[1])
    for start in range(0, len(values), some):  # what is in between stays in the cache
        part = slice(start, start + some)
        single[part] = (values[part] - mean) / scale
    rows, cols = (_window(n) for n in values.shape)
    single -= rows @ single @ cols / (rows.sum() * cols.sum())
    single *= rows[:, None]
    single *= cols
    return single


def _window(n: int) -> Single:
    """Return Tukey's window: a cosine at each end."""
    ends = np.minimum(1.0, (np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) / (0.5 * _TAPER * n))
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * ends), dtype=np.float32)


def first_box(response: Single, image: Shape, target: Shape, most: Sequence[int] | None = None) -> tuple[Box, float]:
    """Return the span of lags that stand out about the largest, `most` each way, and by how many times the usual."""
    # Of two lags that stand at the same index the one at which the images overlap more is meant.
    peak = np.unravel_index(int(np.argmax(np.abs(response))), response.shape)
    height = float(np.abs(response[peak]))
    usual = robust_std(response[:: max(1, response.shape[0] // 64)])
    far = _REACH if min(response.shape) > 1 else _REACH_ALONG
    reach = [min(far, (n - 1) // 2, m) for n, m in zip(response.shape, most or (far, far), strict=True)]
    near = _around(response, (int(peak[0]), int(peak[1])), reach)
    clear = np.abs(near) > max(_CLEAR * usual, _SHARE * height)
    clear[tuple(reach)] = True
    sides = []
    for axis in (0, 1):
        lag = _lag(int(peak[axis]), response.shape[axis], image[axis], target[axis])
        at = np.flatnonzero(clear.any(axis=1 - axis)) - reach[axis] + lag
        sides += [int(at[0]), int(at[-1]) + 1]
    return (sides[0], sides[1], sides[2], sides[3]), height / usual if usual > 0 else np.inf


def peak_lag(response: Single, image: Shape, target: Shape) -> Shape:
    """Return the lag of the largest response between images of those shapes."""
    peak = np.unravel_index(int(np.argmax(np.abs(response))), response.shape)
    axes = zip(peak, response.shape, image, target, strict=True)
    row, col = (_lag(int(at), period, n, m) for at, period, n, m in axes)
    return row, col


def _around(response: Single, at: Shape, reach: Sequence[int]) -> Single:
    """Return a response as far as so many lags from one."""
    for axis in (0, 1):
        response = np.take(response, np.arange(at[axis] - reach[axis], at[axis] + reach[axis] + 1), axis, mode="wrap")
    return response


def period(image: Image, workers: int = 1) -> Shape | None:
    """Return the largest rectangle in which an image does not repeat itself, as its own response tells; or None."""
    response = spectral_response(image, image, workers, 1.0)  # less would whiten what stands between a comb's teeth
    reach = [min(_FAR, (n - 1) // 2) for n in response.shape]
    near = np.abs(_around(response, (0, 0), reach)) / max(float(response[0, 0]), 1e-30)
    lags = np.abs(np.mgrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1])
    ring = lags.max(axis=0)
    peak = set(ring[near > _OWN].tolist())
    width = next((d for d in range(1, max(reach)) if d not in peak), max(reach))
    found = near > _ALIKE
    rows, cols = (lags[axis][found & (ring > width)] for axis in (0, 1))
    most = [reach[0] + 1, reach[1] + 1]
    for row, col in sorted({*zip(rows.tolist(), cols.tolist(), strict=True)}, key=sum):
        if row < most[0] and col < most[1]:  # of the two ways to leave it out the one that leaves more
            axis = 0 if row * most[1] > col * most[0] else 1
            most[axis] = max(1, (row, col)[axis] - 1)  # beside a constant a whole period is one too many
    return (most[0], most[1]) if len(rows) else None


def _lag(at: int, period: int, image: int, target: int) -> int:
    """Return the lag that stands at an index, of those a period apart that with the larger overlap."""

    def overlap(lag: int) -> int:
        return min(target, image + lag) - max(0, lag)

    return max((at, at - period), key=overlap)


def reduced(image: Image, stride: Shape) -> Single:
    """Return the means of blocks of an image."""
    (down, across), (rows, cols) = stride, image.shape
    whole = np.asarray(image[: rows - rows % down, : cols - cols % across], dtype=np.float32)
    return np.asarray(whole.reshape(rows // down, down, cols // across, across).mean(axis=(1, 3)))


def strided(image: Image, stride: Shape, phase: Shape) -> Image:
    """Return the pixels of an image that a stride may have left: what was not blurred before answers to one of them."""
    rows, cols = (n // step * step for n, step in zip(image.shape, stride, strict=True))
    return image[phase[0] : rows : stride[0], phase[1] : cols : stride[1]]


def oriented(array: npt.NDArray[T], name: str) -> npt.NDArray[T]:
    """Return an array of rows and columns turned or mirrored, by a name of `ORIENTATIONS`."""
    transposed, *flips = ORIENTATIONS[name]
    down, across = (-1 if flip else 1 for flip in flips)
    return (array.T if transposed else array)[::down, ::across]


def _thumbnail(image: Image, by: int) -> Single:
    """Return about the means of blocks of an image of any unit, of at most 16 pixels each."""
    every = max(1, by // 4)
    values = np.array(image[::every, ::every], dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    values /= np.nanmax(np.abs(values)) or 1.0
    return reduced(values, (by // every, by // every))


class Look(NamedTuple):
    """What a first look at a pair shows: a span of lags, how much it stands out, and in what."""

    box: Box
    height: float
    response: Single
    shape: Shape


def look_at(image: Image, target: Image, stride: Shape, threads: int, phase: Shape | None = None) -> Look:
    """Look at an image made smaller by a stride, by means or from one of its pixels on."""
    small = image if stride == (1, 1) else reduced(image, stride) if phase is None else strided(image, stride, phase)
    response = spectral_response(small, target, threads)
    return Look(*first_box(response, small.shape, target.shape), response, small.shape)


def looks_at(image: Image, target: Image, stride: Shape, threads: int, *, means: bool, phases: bool) -> list[Look]:
    """Look at an image made smaller by means, or from each of the pixels that a stride may begin with."""
    some: list[Shape | None] = [None] if means or stride == (1, 1) else []
    some += [*np.ndindex(stride)] if phases and stride != (1, 1) else []
    return [look_at(image, target, stride, threads, phase) for phase in some]


def standing_out(
    image: Image, target: Image, strides: Sequence[Shape], threads: int, *, phases: bool = False
) -> list[Shape]:
    """Return the strides, of some, by which an image made smaller answers to the target most clearly, best first."""
    kinds = {"means": not phases, "phases": phases}
    heights = {s: max(look.height for look in looks_at(image, target, s, threads, **kinds)) for s in strides}
    least = _NEAR * max(heights.values())
    best = sorted(heights, key=heights.__getitem__, reverse=True)
    return [steps for steps in best[:_LOOKS] if heights[steps] >= least]


class Orientation(NamedTuple):
    """How an image has to be laid to look like a target: turned, by a name of `ORIENTATIONS`, and scaled."""

    name: str
    #: By how many pixels of the image for one of the target, along rows and columns; None for one.
    ratio: tuple[float, float] | None = None

    @property
    def smaller(self) -> bool:
        """Whether no more than scaled to fewer pixels, as by a stride."""
        return self.name == AS_GIVEN and self.ratio is not None and min(self.ratio) > 1 - _SAME_RATIO

    def like(self, stride: Shape) -> bool:
        """Return whether a stride is about the ratio."""
        pairs = zip(self.ratio or (1.0, 1.0), stride, strict=True)
        return all(abs(ratio - step) < _SAME_RATIO * step for ratio, step in pairs)


def other_orientation(image: Image, target: Image, threads: int) -> Orientation | None:
    """Return how else than as they are, or moved, two images look like each other; None if no other way is clear."""
    by = math.ceil(max(*image.shape, *target.shape) / _SIDE)
    if min(*image.shape, *target.shape) < 2 * by:
        return None
    small, goal, own = _thumbnail(image, by), _thumbnail(target, by), Orientation(AS_GIVEN)
    heights = {own: look_at(small, goal, (1, 1), threads).height}
    if heights[own] > _AS_THEY_ARE:
        return None
    for name in ORIENTATIONS:
        turned = oriented(small, name)
        if name != AS_GIVEN:
            heights[Orientation(name)] = look_at(turned, goal, (1, 1), threads).height
        if turned.shape != goal.shape:
            down, across = (n / m for n, m in zip(turned.shape, goal.shape, strict=True))
            zoom = (1 / down, 1 / across)
            scaled = scipy.ndimage.zoom(turned, zoom, order=1, mode="nearest", grid_mode=True)
            heights[Orientation(name, (down, across))] = look_at(scaled, goal, (1, 1), threads).height
    best = max(heights, key=heights.__getitem__)
    return best if heights[best] > max(_OTHER, _MORE * heights[own]) and best != own else None
